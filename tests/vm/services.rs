//! Supervision as the outside sees it: a user's program lives as ours do.

use serde_json::Value;
use system_tests::inputs::Arch;
use system_tests::machine::{Machine, Options};
use system_tests::{package, program};

use crate::options;

/// The row of a service.
fn service<'v>(services: &'v Value, name: &str) -> &'v Value {
    let rows = services["services"].as_array().expect("services");
    rows.iter()
        .find(|row| row["name"] == name)
        .unwrap_or_else(|| panic!("no {name} in {services}"))
}

#[test]
fn a_users_program_is_started_confined_logged_and_brought_back() {
    let folder = tempfile::tempdir().unwrap();
    let ticker = program::compile("ticker", folder.path());
    let manifest = folder.path().join("app.toml");
    let row = "\n[[service]]\nname = \"ticker\"\nimage = \"ticker\"\n";
    std::fs::write(&manifest, package::default_manifest() + row).unwrap();
    let add = format!("ticker={}", ticker.display());
    let words = ["--manifest", manifest.to_str().unwrap(), "--add", &add];
    let package = package::pack(folder.path(), "app.rts", &words);
    let mut machine = Machine::ready(&Options {
        package: Some(package),
        ..options(folder.path())
    });

    let services = machine.json("services");
    let first = service(&services, "ticker").clone();
    assert_eq!(first["state"], "up", "{first}");
    assert!(first["uid"].as_u64().unwrap() >= 30_000, "{first}");
    machine.until("log ticker -n 5", |text| {
        text.contains("ticker: pid=").then_some(())
    });

    machine.ok("signal ticker KILL");
    let second = machine.until("services --json", |text| {
        let services: Value = serde_json::from_str(text).ok()?;
        let row = service(&services, "ticker");
        (row["state"] == "up" && row["pid"] != first["pid"] && row["pid"] != 0).then(|| row.clone())
    });
    assert_eq!(
        second["restarts"],
        first["restarts"].as_u64().unwrap() + 1,
        "{second}"
    );
    assert!(
        second["last_exit"].as_str().unwrap().contains("KILL"),
        "{second}"
    );
    for name in ["ledger", "capacity", "gateway"] {
        let after = machine.json("services");
        assert_eq!(
            service(&after, name)["pid"],
            service(&services, name)["pid"],
            "{name} was touched"
        );
    }
    machine.power_off();
}

#[test]
fn stop_start_and_restart_do_what_they_say() {
    let folder = tempfile::tempdir().unwrap();
    let mut machine = Machine::ready(&options(folder.path()));
    let is = |state: &'static str| {
        move |text: &str| {
            let services: Value = serde_json::from_str(text).ok()?;
            let row = service(&services, "gateway");
            (row["state"] == state).then(|| row["pid"].as_u64())
        }
    };
    let before = machine.until("services --json", is("up"));
    machine.ok("stop gateway");
    machine.until("services --json", is("stopped"));
    machine.ok("start gateway");
    let started = machine.until("services --json", is("up"));
    assert_ne!(before, started);
    machine.ok("restart gateway");
    machine.until("services --json", |text| {
        is("up")(text).filter(|pid| *pid != started)
    });
    assert_eq!(machine.run("start no-such-service").code, 1);

    // SIGUSR1 halts, in order: the processor stands still and QEMU goes on.
    machine.ok("signal init USR1");
    machine
        .serial()
        .wait_for_line("vector_boot: halted", system_tests::machine::STEP_LIMIT);
}

#[test]
fn a_person_at_the_serial_line_gets_a_prompt_and_answers() {
    let folder = tempfile::tempdir().unwrap();
    let mut machine = Machine::ready(&options(folder.path()));
    machine
        .serial()
        .wait_for("the prompt", system_tests::machine::STEP_LIMIT, |text| {
            text.contains("vb> ").then_some(())
        });
    let line = machine
        .serial()
        .wait_for_line("272 tensors", system_tests::machine::STEP_LIMIT);
    assert!(line.contains("services ready"), "{line}");
    machine.type_line("tensor output_norm.weight");
    machine
        .serial()
        .wait_for_line("576", system_tests::machine::STEP_LIMIT);
    assert!(
        !machine.serial().text().contains(machine.token().trim()),
        "the token is on the serial line"
    );

    // As if it had answered nobody: what a failing test would show.
    let found = machine.post_mortem();
    let mut named = vec!["state: \"running\"", "processor 0: ", "thread "];
    if Arch::HOST == Arch::X86_64 {
        named.extend(["Kernel panic", "task:console "]);
    }
    for part in named {
        assert!(found.contains(part), "no {part} in {found}");
    }
}
