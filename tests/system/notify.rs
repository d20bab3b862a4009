//! `sd_notify` and the store of descriptors, held against libsystemd: a service that reports by the reference library.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use system_tests::inputs::repository;
use system_tests::package;
use system_tests::process::Process;

/// For a line that comes by itself.
const LIMIT: Duration = Duration::from_secs(60);

/// A package with one service: Python, in which the reference library is called.
fn package(folder: &std::path::Path) -> PathBuf {
    let script = repository().join("tests/programs/notify.py");
    let row = format!(
        "[[service]]\nname = \"sd\"\nimage = \"python\"\nargs = [{script:?}, {folder:?}]\n\
         profile = \"unconfined\"\nnotify = true\nwatchdog_ms = 2000\nfd_store = 2\nbackoff_ms_first = 0\n\
         listen = [{{ name = \"front\", kind = \"unix_stream\" }}]\n"
    );
    let manifest = folder.join("app.toml");
    std::fs::write(&manifest, row).unwrap();
    let python = std::fs::canonicalize("/usr/bin/python3").expect("python3");
    let add = format!("python={}", python.display());
    let words = [
        "--manifest",
        manifest.to_str().unwrap(),
        "--add",
        &add,
        "--unchecked",
    ];
    package::pack_default(folder, "app.rts", &words)
}

fn until_log(process: &Process, words: &str) -> String {
    let deadline = Instant::now() + LIMIT;
    loop {
        let log = process.ok(&["log", "-n", "1000"]);
        if log.contains(words) {
            return log;
        }
        assert!(Instant::now() < deadline, "never said {words:?}: {log}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn a_service_of_libsystemd_is_understood_and_finds_what_it_left() {
    let folder = tempfile::tempdir().unwrap();
    let package = package(folder.path());
    let words = ["--rts", package.to_str().unwrap()];
    let process = Process::ready(&folder.path().join("state"), &words);
    let log = until_log(&process, "barrier passed");
    assert!(
        log.contains("start 1: found front watchdog 1 2000000 store 2"),
        "{log}"
    );
    assert!(
        log.contains("notify/sd: refused: FDSTORE: full, fd_store = 2"),
        "{log}"
    );
    assert_eq!(process.service("sd")["status"], "first");

    process.ok(&["signal", "sd", "KILL"]);
    let log = until_log(&process, "told to abort");
    assert!(
        log.contains("start 2: found front,conn,twice watchdog 1"),
        "{log}"
    );
    assert!(log.contains("conn holds left by the first"), "{log}");
    assert!(
        log.contains("refused: 2 messages of the process that ended"),
        "{log}"
    );

    let log = until_log(&process, "start 5: found");
    assert!(log.contains("start 3: found front,conn,twice"), "{log}");
    // Told by itself that it hangs.
    assert_eq!(
        log.matches("service aborted: name=sd cause=\"watchdog timeout\"")
            .count(),
        2,
        "{log}"
    );
    assert!(
        log.contains("start 4: found front,twice watchdog 1 2000000"),
        "{log}"
    );
    assert!(log.contains("start 5: found front,twice watchdog"), "{log}");
    let row = process.until_service("sd", |row| row["status"] == "start 5");
    assert_eq!(row["state"], "up");
    assert_eq!(row["restarts"], 4, "who ends by itself stays on the ladder");

    // Who stops for good leaves nothing behind.
    process.ok(&["stop", "sd"]);
    process.until_service("sd", |row| row["state"] == "stopped");
    process.ok(&["start", "sd"]);
    until_log(&process, "start 6: found front watchdog");
    assert!(process.end().success());
}
