//! An appliance with other services: a manifest named on the command line, programs that know `sd_notify(3)` alone.
//!
//! One machine: `db` and `web`, which needs it, and `worker`; `tests/programs/foreign.c` says what they do.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;
use system_tests::inputs::inputs;
use system_tests::machine::{Machine, Options, STEP_LIMIT, curl};
use system_tests::{initramfs, package, program};

use crate::options;

/// A start of `web` may take 10 s unless it says otherwise, and its first takes 11 s.
const FOREIGN: &str = r#"
[[service]]
name = "db"
image = "foreign"
args = ["db"]
notify = true
watchdog_ms = 4_000
fd_store = 1
strategy = "rest_for_one"
listen = [{ name = "db.sock", kind = "unix_stream", mode = 0o666 }]

[[service]]
name = "web"
image = "foreign"
args = ["web"]
needs = ["db"]
notify = true
start_timeout_ms = 10_000
fd_store = 1
listen = [{ name = "http", kind = "tcp", address = "0.0.0.0:8080" }]

[[service]]
name = "worker"
image = "foreign"
strategy = "one_for_all"
"#;
const ALL: [&str; 6] = ["ledger", "net", "console", "db", "web", "worker"];

/// The default table's rows that drive a machine, and three of a stranger's; compiled.
fn manifest(folder: &Path) -> Vec<u8> {
    let default = package::default_manifest();
    let mut parts = default.split("[[service]]\n");
    let head = parts.next().expect("a head").to_owned();
    let kept = parts.filter(|row| {
        ["ledger", "net", "console"]
            .iter()
            .any(|name| row.starts_with(&format!("name = \"{name}\"")))
    });
    let rows: String = kept.map(|row| format!("[[service]]\n{row}")).collect();
    let (source, out) = (folder.join("other.toml"), folder.join("other.manifest"));
    std::fs::write(&source, head + &rows + FOREIGN).unwrap();
    let mut compile = Command::new(inputs().vector_boot());
    compile.args(["rts", "manifest"]).arg(&source);
    system_tests::stdout_of(compile.arg("--out").arg(&out));
    std::fs::read(&out).unwrap()
}

/// A package that brings the program, and starts it as one service of its own.
fn package(folder: &Path) -> PathBuf {
    let program = program::compile_c("foreign", folder);
    let table = folder.join("app.toml");
    let row = "extends = \"default\"\n[[service]]\nname = \"other\"\nimage = \"foreign\"\n";
    std::fs::write(&table, row).unwrap();
    let add = format!("foreign={}", program.display());
    let words = ["--manifest", table.to_str().unwrap(), "--add", &add];
    package::pack_default(folder, "app.rts", &words)
}

fn row<'v>(services: &'v Value, name: &str) -> Option<&'v Value> {
    services["services"]
        .as_array()?
        .iter()
        .find(|row| row["name"] == name)
}

/// Waits until services have these words as their status, and are up.
fn until_said(machine: &mut Machine, said: &[(&str, &str)]) -> Value {
    machine.until("services --json", |text| {
        let services: Value = serde_json::from_str(text).ok()?;
        let holds = |(name, status): &(&str, &str)| {
            row(&services, name).is_some_and(|r| r["state"] == "up" && r["status"] == *status)
        };
        said.iter().all(holds).then_some(services)
    })
}

fn pid<'v>(services: &'v Value, name: &str) -> &'v Value {
    &row(services, name).unwrap_or_else(|| panic!("no {name} in {services}"))["pid"]
}

#[test]
fn services_that_are_not_ours_are_watched_kept_and_brought_back_by_their_strategies() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let initramfs = initramfs::with_file(folder, "other.manifest", &manifest(folder));
    let mut machine = Machine::ready(&Options {
        package: Some(package(folder)),
        initramfs: Some(initramfs),
        append: "vb.manifest=/other.manifest".to_owned(),
        ..options(folder)
    });

    // The manifest of the command line is the whole table. A start that asks for time gets it.
    let first = until_said(&mut machine, &[("db", "life 1"), ("web", "life 1")]);
    let rows = first["services"].as_array().expect("services");
    let names: Vec<&str> = rows.iter().filter_map(|r| r["name"].as_str()).collect();
    assert_eq!(names, ALL);
    for row in rows {
        assert_eq!(row["restarts"], 0, "{row}");
    }
    let web = row(&first, "web").expect("web");
    assert!(
        web["ready_ns"]
            .as_u64()
            .is_some_and(|ns| ns > 10_000_000_000),
        "{web}"
    );
    assert_eq!(machine.get("/").body["life"], 1);

    // Who speaks for another is not heard, and named once.
    machine.ok("signal web USR2");
    machine.until("log web -n 20", |text| {
        text.contains("forged").then_some(())
    });
    let log = machine.until("log init -n 200", |text| {
        text.contains("notify/db: refused").then(|| text.to_owned())
    });
    assert!(log.contains("which is not of this service"), "{log}");
    let named = |log: &str| log.matches("which is not of this service").count();
    assert_eq!(named(&log), 1, "{log}");
    let unmoved = until_said(&mut machine, &[("db", "life 1"), ("web", "life 1")]);
    for name in ALL {
        assert_eq!(pid(&unmoved, name), pid(&first, name), "{name}");
    }

    // A caller waits at the door of a service that dies; the next one finds door and caller.
    machine.ok("signal web USR1");
    let port = machine.http_port();
    let caller = std::thread::spawn(move || curl(port, "/", None, None));
    until_said(&mut machine, &[("web", "somebody waits")]);
    machine.ok("signal web KILL");
    assert_eq!(caller.join().expect("an answer").body["life"], 2);
    let second = until_said(&mut machine, &[("db", "life 1"), ("web", "life 2")]);
    for name in ALL.iter().filter(|name| **name != "web") {
        assert_eq!(pid(&second, name), pid(&first, name), "one_for_one: {name}");
    }

    // Without a sign of life it is ended, and with it who needs it.
    machine.ok("signal db USR1");
    let third = until_said(&mut machine, &[("db", "life 2"), ("web", "life 3")]);
    for name in ALL {
        let is_new = pid(&third, name) != pid(&second, name);
        assert_eq!(
            is_new,
            ["db", "web"].contains(&name),
            "rest_for_one: {name}"
        );
    }
    let why = machine.json("why db");
    let newest = &why["why"][0];
    assert_eq!(newest["reason"], "watchdog_timeout", "{why}");
    let cause = newest["facts"]["cause"].as_str().expect("a cause");
    assert!(cause.contains("ABRT"), "{why}");
    let log = machine.ok("log init -n 400");
    assert_eq!(named(&log), 1, "{log}");
    assert!(
        log.contains("notify/db: refused: 3 messages of the process that ended"),
        "{log}"
    );
    // Stopping and starting for another's sake is no failure.
    assert_eq!(machine.json("why web")["why"][0]["reason"], "stopped");

    // Everybody goes along, the console that is asked too, and everybody comes back.
    machine.run_and_be_greeted("signal worker KILL");
    let fourth = until_said(&mut machine, &[("db", "life 3"), ("web", "life 4")]);
    machine.ok(&format!("ready {}", STEP_LIMIT.as_secs()));
    for name in ALL {
        assert_ne!(pid(&fourth, name), pid(&third, name), "one_for_all: {name}");
    }
    assert_eq!(machine.get("/").body["life"], 4);
    assert_eq!(machine.json("ledger verify")["holds"], true);

    // SIGTERM restarts, in order; QEMU takes that for the end.
    let shown = machine.serial().clone();
    machine.ok("signal init TERM");
    machine.wait_for_end();
    shown.wait_for_line("vector_boot: rebooting", STEP_LIMIT);
}
