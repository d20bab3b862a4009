//! Another package in the place of the running one, as an ordinary process: services replaced one by one under
//! a client that connects anew for every call, and every way back.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use system_tests::inputs::inputs;
use system_tests::package;
use system_tests::process::Process;
use system_tests::program;

/// The default services with these lines, and so many seconds of watching.
fn manifest(folder: &Path, name: &str, watch_s: u32, lines: &str) -> PathBuf {
    let path = folder.join(format!("{name}.toml"));
    let params = format!("\n[params]\n\"vb.upgrade_watch_s\" = {watch_s}\n");
    let text = package::default_manifest() + lines + &params;
    std::fs::write(&path, text).expect("a manifest");
    path
}

/// One service of the user's more.
fn with_service(folder: &Path, name: &str, watch_s: u32, lines: &str) -> PathBuf {
    let service = format!("\n[[service]]\nname = \"{name}\"\nimage = \"app\"\n{lines}\n");
    manifest(folder, name, watch_s, &service)
}

fn pack(folder: &Path, name: &str, manifest: &Path, app: &Path) -> PathBuf {
    let add = format!("app={}", app.display());
    let words = ["--manifest", manifest.to_str().unwrap(), "--add", &add];
    package::pack_default(folder, &format!("{name}.rts"), &words)
}

fn upgrade(process: &Process, words: &[&str]) -> (bool, Value) {
    let output = process.ctl(&[words, &["--json"]].concat());
    let text = String::from_utf8_lossy(&output.stdout);
    let value = serde_json::from_str(&text).unwrap_or_else(|e| {
        let errors = String::from_utf8_lossy(&output.stderr);
        panic!("{words:?}: {e}: {text}{errors}")
    });
    (output.status.success(), value)
}

/// Ends the client, also when the test fails.
struct Ends<'d>(&'d AtomicBool);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Waits until the ledger has so many events of a kind, and no more.
fn until_events(process: &Process, kind: &str, wanted: usize) {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let rows = process.json(&["ledger", "query", "--type", kind]);
        let found = rows["events"].as_array().expect("events").len();
        assert!(found <= wanted, "{found} of {wanted} {kind}: {rows}");
        if found == wanted {
            return;
        }
        assert!(Instant::now() < deadline, "{found} of {wanted} {kind}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// What is done while a client calls without a pause, and the events of its calls, none of which may fail.
fn under_a_client(process: &Process, act: impl FnOnce()) -> Vec<u64> {
    let token = process.json(&["gateway", "token"])["token"]
        .as_str()
        .unwrap()
        .to_owned();
    let call = json!({"tool": "fs_read", "params": {"root": "work", "path": "welcome.txt"}});
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let ends = Ends(&done);
        let client = scope.spawn(|| {
            let mut events = Vec::new();
            while !done.load(Ordering::Relaxed) {
                let reply = process.call(Some(&token), &call);
                assert_eq!(reply.status, 200, "{}", reply.body);
                events.push(reply.body["event_id"].as_u64().expect("an event id"));
            }
            events
        });
        act();
        drop(ends);
        client.join().expect("the client")
    })
}

/// The pid of every service but those named.
fn pids_but(process: &Process, but: &[&str]) -> Vec<(Value, Value)> {
    let services = process.json(&["services"]);
    let rows = services["services"].as_array().expect("services").iter();
    let other = |row: &&Value| !but.contains(&row["name"].as_str().unwrap_or_default());
    rows.filter(other)
        .map(|row| (row["name"].clone(), row["pid"].clone()))
        .collect()
}

#[test]
fn packages_take_each_others_place_and_no_connection_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let app = program::compile("ticker", folder.path());
    let plain = manifest(folder.path(), "first", 0, "");
    let first = pack(folder.path(), "first", &plain, &app);
    let other = with_service(folder.path(), "ticker", 0, "notify = false");
    let services = package::another(&inputs().services(), folder.path(), "other-services");
    let add = format!("app={}", app.display());
    let words = ["--manifest", other.to_str().unwrap(), "--add", &add];
    let binaries = [&*inputs().vector_boot(), &*services];
    let second = package::pack_binaries(binaries, folder.path(), "second.rts", &words);
    let words = ["--rts", first.to_str().unwrap()];
    let process = Process::ready(&folder.path().join("state"), &words);
    let calls = under_a_client(&process, || {
        let pid = process.service("net")["pid"].clone();
        for round in 0..3 {
            let (well, said) = upgrade(&process, &["upgrade", second.to_str().unwrap()]);
            assert!(well, "{said}");
            assert_eq!(
                (&said["end"], &said["until_reboot"]),
                (&json!("until reboot"), &json!(true))
            );
            assert_eq!(process.service("ticker")["state"], "up");
            assert!(
                process.json(&["status"])["package"]
                    .as_str()
                    .unwrap()
                    .ends_with("until reboot")
            );
            let (well, said) = upgrade(&process, &["rollback"]);
            assert!(well, "{said}");
            assert_eq!(
                (&said["count"], &said["until_reboot"]),
                (&json!(2 * round + 2), &json!(false))
            );
        }
        // Neither its program nor its entry differs between the two.
        assert_eq!(process.service("net")["pid"], pid);
    });
    assert!(calls.len() > 3, "{calls:?}");
    assert!(calls.windows(2).all(|pair| pair[0] < pair[1]), "{calls:?}");
    let names = process.json(&["services"]);
    assert!(!names.to_string().contains("ticker"), "{names}");
    until_events(&process, "upgrade_done", 6);
    assert_eq!(process.json(&["ledger", "verify"])["holds"], true);
    assert_eq!(process.json(&["beat"])["missed"], 0);
    assert!(process.end().success());
}

/// Waits until the first line of the interrupt table has this threshold.
fn until_threshold(process: &Process, wanted: f64) {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let told = process.json(&["interrupts"]);
        if told["interrupts"][0]["threshold"] == wanted {
            return;
        }
        assert!(Instant::now() < deadline, "no threshold {wanted}: {told}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn another_packages_model_decides_from_the_upgrade_on_and_the_one_before_from_the_rollback() {
    let folder = tempfile::tempdir().unwrap();
    let mib = f64::from(1 << 20);
    // `memory.available` below 16 MiB, and not below 32.
    let model = package::model_with(
        folder.path(),
        &[("kernel.interrupts", 2, 16.0 * mib as f32)],
    );
    let plain = manifest(folder.path(), "plain", 0, "");
    let words = ["--manifest", plain.to_str().unwrap()];
    let other = package::pack_model(&model, folder.path(), "other.rts", &words);
    let first = package::pack_default(folder.path(), "first.rts", &words);
    let words = [
        "--rts",
        first.to_str().unwrap(),
        "--param",
        "vb.evolution=on",
    ];
    let process = Process::ready(&folder.path().join("state"), &words);
    until_threshold(&process, 32.0 * mib);
    let (well, said) = upgrade(&process, &["upgrade", other.to_str().unwrap()]);
    assert!(well, "{said}");
    until_threshold(&process, 16.0 * mib);
    let (well, said) = upgrade(&process, &["rollback"]);
    assert!(well, "{said}");
    until_threshold(&process, 32.0 * mib);
    assert!(process.end().success());
}

#[test]
fn what_does_not_stay_up_leads_back_and_what_may_not_run_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let app = program::compile("ticker", folder.path());
    let first = package::pack_default(folder.path(), "first.rts", &[]);
    let process = Process::ready(
        &folder.path().join("state"),
        &["--rts", first.to_str().unwrap()],
    );
    let before = process.json(&["status"])["package"].clone();
    let quits = program::compile("quits", folder.path());
    let dies = with_service(folder.path(), "dies", 1, "notify = false");
    let silent = with_service(
        folder.path(),
        "silent",
        0,
        "notify = true\nstart_timeout_ms = 500",
    );
    let packages = [
        (
            "dies",
            pack(folder.path(), "dies", &dies, &quits),
            "dies: exit code 3",
        ),
        (
            "silent",
            pack(folder.path(), "silent", &silent, &app),
            "silent: ",
        ),
    ];
    for (name, package, reason) in &packages {
        let (well, said) = upgrade(&process, &["upgrade", package.to_str().unwrap()]);
        assert!(!well && said["end"] == "rolled back", "{name}: {said}");
        assert!(
            said["reason"].as_str().unwrap().contains(reason),
            "{name}: {said}"
        );
        assert_eq!(process.json(&["status"])["package"], before, "{name}");
        let names = process.json(&["services"]).to_string();
        assert!(!names.contains(name), "{names}");
        process.ok(&["ready", "60"]);
    }
    until_events(&process, "rolled_back", 2);
    let mut bytes = std::fs::read(&first).unwrap();
    let at = bytes.len() - 100;
    bytes[at] ^= 1;
    let broken = folder.path().join("broken.rts");
    std::fs::write(&broken, &bytes).unwrap();
    let none = folder.path().join("none.rts");
    std::fs::write(&none, vec![7; 70_000]).unwrap();
    for (file, reason) in [(&broken, "upgrade_refused: "), (&none, "upgrade_refused: ")] {
        let (well, said) = upgrade(&process, &["upgrade", file.to_str().unwrap()]);
        assert!(!well && said["end"] == "refused", "{said}");
        assert!(
            said["reason"].as_str().unwrap().starts_with(reason),
            "{said}"
        );
    }
    until_events(&process, "upgrade_refused", 2);
    for words in [
        &["rollback"][..],
        &["upgrade", "/no/such/file"],
        &["upgrade", first.to_str().unwrap(), "--keep"],
    ] {
        assert_eq!(process.ctl(words).status.code(), Some(1), "{words:?}");
    }
    assert!(process.end().success());
}

fn pack_init(folder: &Path, name: &str, init: &Path, manifest: &Path) -> PathBuf {
    let words = ["--manifest", manifest.to_str().unwrap()];
    package::pack_binary(init, folder, &format!("{name}.rts"), &words)
}

/// Whether PID 1 runs what an upgrade brought.
fn runs_from_memory(process: &Process) -> bool {
    let exe = std::fs::read_link(format!("/proc/{}/exe", process.pid())).expect("a program");
    exe.to_string_lossy().starts_with("/memfd:vector_boot")
}

#[test]
fn pid_1_becomes_the_packages_program_and_the_one_before_again() {
    let folder = tempfile::tempdir().unwrap();
    let plain = manifest(folder.path(), "plain", 0, "");
    let first = pack_init(folder.path(), "first", &inputs().vector_boot(), &plain);
    let other = package::another(&inputs().vector_boot(), folder.path(), "other");
    let second = pack_init(folder.path(), "second", &other, &plain);
    let words = ["--rts", first.to_str().unwrap()];
    let process = Process::ready(&folder.path().join("state"), &words);
    let before = process.json(&["status"])["package"].clone();
    let pids = pids_but(&process, &["net"]);
    let calls = under_a_client(&process, || {
        for round in 0..3 {
            let (well, said) = upgrade(&process, &["upgrade", second.to_str().unwrap()]);
            assert!(well && said["end"] == "until reboot", "{said}");
            assert_eq!(said["count"], 2 * round + 1, "{said}");
            assert!(runs_from_memory(&process), "round {round}");
            let (well, said) = upgrade(&process, &["rollback"]);
            assert!(well, "{said}");
            assert_eq!(
                (&said["count"], &said["until_reboot"]),
                (&json!(2 * round + 2), &json!(false))
            );
            assert!(!runs_from_memory(&process), "round {round}");
        }
        // Their `vb-services` is the same in both packages.
        assert_eq!(pids_but(&process, &["net"]), pids);
    });
    assert!(calls.len() > 3, "{calls:?}");
    assert!(calls.windows(2).all(|pair| pair[0] < pair[1]), "{calls:?}");
    assert_eq!(process.json(&["status"])["package"], before);
    until_events(&process, "init_upgraded", 6);
    until_events(&process, "upgrade_done", 6);
    assert_eq!(process.json(&["ledger", "verify"])["holds"], true);
    assert!(process.end().success());
}

/// Waits until services of both packages run.
fn until_watching(process: &Process) {
    let deadline = Instant::now() + Duration::from_secs(60);
    let is_watching = || {
        let output = process.ctl(&["upgrade", "--json"]);
        let value: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
        value["step"] == "watching"
    };
    while !is_watching() {
        assert!(
            Instant::now() < deadline,
            "never watched: {}",
            process.said()
        );
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn crash(process: &Process) {
    let pid = process.pid().to_string();
    let mut kill = std::process::Command::new("kill");
    assert!(kill.args(["-s", "SEGV", &pid]).status().unwrap().success());
}

#[test]
fn a_program_that_crashes_or_hangs_as_pid_1_is_given_up_for_the_one_before() {
    let folder = tempfile::tempdir().unwrap();
    let plain = manifest(folder.path(), "plain", 0, "");
    let first = pack_init(folder.path(), "first", &inputs().vector_boot(), &plain);
    let other = package::another(&inputs().vector_boot(), folder.path(), "other");
    let slow = manifest(folder.path(), "slow", 600, "");
    let second = pack_init(folder.path(), "second", &other, &slow);
    let quits = program::compile("quits", folder.path());
    let dies = with_service(folder.path(), "dies", 1, "notify = false");
    let add = format!("app={}", quits.display());
    let words = ["--manifest", dies.to_str().unwrap(), "--add", &add];
    let third = package::pack_binary(&other, folder.path(), "third.rts", &words);
    let words = ["--rts", first.to_str().unwrap()];
    let process = Process::ready(&folder.path().join("state"), &words);
    let before = process.json(&["status"])["package"].clone();
    let hang: fn(&Process) = |process| {
        process.ok(&["signal", "init", "STOP"]);
    };
    let ways = [
        (
            &second,
            Some(crash as fn(&Process)),
            "init_crash: signal SEGV",
        ),
        (&second, Some(hang), "init_hang: "),
        (&third, None, "dies: exit code 3"),
    ];
    for (round, (package, does, reason)) in ways.into_iter().enumerate() {
        let (well, said) = std::thread::scope(|scope| {
            let asked = scope.spawn(|| upgrade(&process, &["upgrade", package.to_str().unwrap()]));
            if let Some(does) = does {
                until_watching(&process);
                assert!(runs_from_memory(&process), "{reason}");
                does(&process);
            }
            asked.join().expect("ctl")
        });
        assert!(!well && said["end"] == "rolled back", "{reason}: {said}");
        assert!(said["reason"].as_str().unwrap().contains(reason), "{said}");
        assert!(!runs_from_memory(&process), "{reason}");
        assert_eq!(process.json(&["status"])["package"], before, "{reason}");
        process.ok(&["ready", "60"]);
        until_events(&process, "rolled_back", round + 1);
        let names = process.json(&["services"]).to_string();
        assert!(!names.contains("dies"), "{names}");
    }
    assert_eq!(process.json(&["status"])["state"], "ready");
    assert!(process.end().success());
}

#[test]
fn a_program_that_cannot_be_pid_1_here_is_refused_before_anything_is_touched() {
    let folder = tempfile::tempdir().unwrap();
    let plain = manifest(folder.path(), "plain", 0, "");
    let first = pack_init(folder.path(), "first", &inputs().vector_boot(), &plain);
    let words = ["--rts", first.to_str().unwrap()];
    let process = Process::ready(&folder.path().join("state"), &words);
    for (name, answer) in [
        ("elder", "answer \"vector_boot handover 1 state 1\""),
        ("quits", "answer \"\", exit code 3"),
    ] {
        let init = program::compile(name, folder.path());
        let package = pack_init(folder.path(), &format!("with-{name}"), &init, &plain);
        let (well, said) = upgrade(&process, &["upgrade", package.to_str().unwrap()]);
        assert!(!well && said["end"] == "refused", "{said}");
        let reason = said["reason"].as_str().unwrap();
        assert!(reason.starts_with("needs_reboot: "), "{said}");
        assert!(reason.contains(answer), "{said}");
    }
    until_events(&process, "upgrade_refused", 2);
    until_events(&process, "upgrade_started", 0);
    assert!(process.end().success());
}

#[test]
fn a_crash_of_pid_1_between_two_packages_leads_back_and_one_behind_them_forgets_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let app = program::compile("ticker", folder.path());
    let plain = manifest(folder.path(), "plain", 0, "");
    let first = pack(folder.path(), "first", &plain, &app);
    // Every service has another entry, and the first one is watched for as long as the test needs.
    let all = folder.path().join("all.toml");
    let params = "\n[params]\n\"vb.upgrade_watch_s\" = 600\n";
    let lines = package::manifest_with("stop_timeout_ms = 6000");
    std::fs::write(&all, lines + params).unwrap();
    let other = pack(folder.path(), "other", &all, &app);
    let more = with_service(folder.path(), "ticker", 0, "notify = false");
    let more = pack(folder.path(), "more", &more, &app);
    let words = ["--rts", first.to_str().unwrap()];
    let process = Process::ready(&folder.path().join("state"), &words);
    let before = process.json(&["status"])["package"].clone();
    under_a_client(&process, || {
        let pids = pids_but(&process, &["ledger"]);
        let (well, said) = std::thread::scope(|scope| {
            let asked = scope.spawn(|| upgrade(&process, &["upgrade", other.to_str().unwrap()]));
            until_watching(&process);
            crash(&process);
            asked.join().expect("ctl")
        });
        assert!(!well && said["end"] == "rolled back", "{said}");
        let reason = said["reason"].as_str().unwrap();
        assert!(reason.contains("init_crash: signal SEGV"), "{said}");
        process.ok(&["ready", "60"]);
        let status = process.json(&["status"]);
        assert_eq!(
            (&status["package"], &status["state"]),
            (&before, &json!("ready"))
        );
        // Whom the upgrade had not come to goes on.
        assert_eq!(pids_but(&process, &["ledger"]), pids);
        until_events(&process, "rolled_back", 1);

        let (well, said) = upgrade(&process, &["upgrade", more.to_str().unwrap()]);
        assert!(well && said["until_reboot"] == true, "{said}");
        crash(&process);
        until_events(&process, "init_resumed", 2);
        let status = process.json(&["status"]);
        let package = status["package"].as_str().unwrap();
        assert!(package.ends_with("until reboot"), "{status}");
        assert_eq!(process.service("ticker")["state"], "up");
        let (well, said) = upgrade(&process, &["rollback"]);
        assert!(well && said["until_reboot"] == false, "{said}");
        assert_eq!(said["count"], 2, "{said}");
        assert_eq!(pids_but(&process, &["ledger"]), pids);
    });
    process.ok(&["ready", "60"]);
    let status = process.json(&["status"]);
    assert_eq!(
        (&status["package"], &status["state"]),
        (&before, &json!("ready"))
    );
    assert_eq!(process.json(&["ledger", "verify"])["holds"], true);
    assert!(process.end().success());
}
