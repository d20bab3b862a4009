//! A user's service that attacks every socket it can reach: the machine goes on as if it were not there.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;
use system_tests::inputs::repository;
use system_tests::machine::{Machine, Options};
use system_tests::package;

use crate::{call, options};

/// pid and restarts of our own services.
fn standing(machine: &mut Machine) -> Vec<Value> {
    let services = machine.json("services");
    let rows = services["services"].as_array().expect("services").iter();
    rows.filter(|row| row["uid"].as_u64().is_some_and(|uid| uid < 1000))
        .map(|row| serde_json::json!([row["name"], row["pid"], row["restarts"], row["state"]]))
        .collect()
}

/// The example `hostile_peer` of the room `ipc`, as it runs in a machine: static.
fn hostile_peer() -> PathBuf {
    // Other flags than the tests' own: a folder of its own, kept for the next run.
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("static");
    let target = "x86_64-unknown-linux-gnu";
    let mut cargo = Command::new(std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned()));
    cargo
        .current_dir(repository())
        .args([
            "build",
            "--locked",
            "--package",
            "ipc",
            "--example",
            "hostile_peer",
        ])
        .args(["--target", target, "--target-dir"])
        .arg(&folder)
        .env("RUSTFLAGS", "-C target-feature=+crt-static");
    system_tests::stdout_of(&mut cargo);
    folder.join(target).join("debug/examples/hostile_peer")
}

#[test]
fn a_hostile_service_costs_the_machine_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let program = hostile_peer();
    let manifest = folder.path().join("app.toml");
    // Two of them, so that one is not the only user; one may reach the ledger's lines quickly.
    let rows = "\n[[service]]\nname = \"hostile\"\nimage = \"hostile\"\n\
                \n[[service]]\nname = \"hostile2\"\nimage = \"hostile\"\nnotify = true\n";
    std::fs::write(&manifest, package::default_manifest() + rows).unwrap();
    let add = format!("hostile={}", program.display());
    let words = ["--manifest", manifest.to_str().unwrap(), "--add", &add];
    let package = package::pack_default(folder.path(), "app.rts", &words);
    let mut machine = Machine::ready(&Options {
        package: Some(package),
        ..options(folder.path())
    });
    machine.until("log hostile -n 50", |text| {
        text.contains("all under way").then_some(())
    });
    let before = standing(&mut machine);
    let beats = machine.json("beat")["count"].as_u64().unwrap();
    // Honest clients, while PID 1 beats a hundred times.
    machine.until("beat --json", |text| {
        let beat: Value = serde_json::from_str(text).ok()?;
        (beat["count"].as_u64()? > beats + 100).then_some(())
    });
    let reply = machine.call(&call("fs_read", "work", "welcome.txt"));
    assert_eq!(reply.status, 200, "{}", reply.body);
    assert_eq!(machine.json("ledger verify")["holds"], true);
    assert_eq!(standing(&mut machine), before);
    // On a busy host an emulated machine misses one at its boot without any attack; PID 1 that did what
    // the flood asks for would miss most.
    let beat = machine.json("beat");
    let [missed, count] = ["missed", "count"].map(|key| beat[key].as_u64().unwrap());
    assert!(missed * 50 <= count, "{missed} beats of {count} missed");
    assert_eq!(machine.json("status")["state"], "ready");
    // What PID 1 and the servers say of it is bounded; it itself wrote what it found.
    for name in ["init", "ledger", "capacity"] {
        let log = machine.ok(&format!("log {name} -n 1000"));
        let lines = log
            .lines()
            .filter(|l| l.contains("refused role=user"))
            .count();
        assert!(lines < 60, "{name} wrote {lines} lines");
    }
    machine.power_off();
}
