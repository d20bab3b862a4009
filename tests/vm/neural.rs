//! A package whose model has its own interrupts and its own policy: what PID 1 makes of it, and what the kernel has then.

use serde_json::Value;
use system_tests::machine::{Machine, Options};
use system_tests::{crashes, package};

use crate::options;

/// A bias whose wish, tanh(1.5), is rounded to seven eighths of the way to a limit.
const STRONG: f32 = 1.5;
/// Seven eighths of the way from 100 ms to 1,000.
const PERIOD_MS: f64 = 887.5;
/// Seven eighths of the way from all of it to a half.
const SHARE: f64 = 0.5625;
/// The ledger's `memory.max` of the default table.
const LEDGER_BYTES: f64 = 268_435_456.0;

/// A row of what a command lists.
fn row(text: &str, list: &str, wanted: impl Fn(&Value) -> bool) -> Option<Value> {
    let told: Value = serde_json::from_str(text.trim()).ok()?;
    told[list]
        .as_array()?
        .iter()
        .find(|row| wanted(row))
        .cloned()
}

/// What the kernel has as a service's `memory.high`.
fn held_at(text: &str) -> Option<f64> {
    row(text, "processes", |row| row["name"] == "ledger")?["high_bytes"].as_f64()
}

/// The settings of the controls, once they are all that was wished.
fn settings(text: &str) -> Option<Value> {
    let told: Value = serde_json::from_str(text.trim()).ok()?;
    let controls = &told["controls"];
    let moved = controls["heartbeat_ms"] == PERIOD_MS
        && controls["memory_high_share"] == SHARE
        && controls["reclaim_bytes"].as_f64()? > 0.0;
    let beats = told["registers"]["beat.period"] == PERIOD_MS;
    (moved && beats).then_some(told)
}

#[test]
fn a_models_interrupt_fires_and_its_policy_moves_controls_which_the_kernel_journal_and_ledger_show()
{
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    // Line 0 of the default table is `memory.available` below 32 MiB: now below what no machine has.
    // Control 0 is the time between two beats, control 2 `memory.high`.
    let model = package::model_with(
        folder,
        &[
            ("kernel.interrupts", 2, 1e15),
            ("policy.b2", 0, STRONG),
            ("policy.b2", 2, STRONG),
        ],
    );
    let options = Options {
        package: Some(package::pack_model(&model, folder, "own.rts", &[])),
        append: "vb.evolution=on".to_owned(),
        ..options(folder)
    };
    let mut machine = Machine::ready(&options);

    let line = machine.until("interrupts --json", |text| {
        row(text, "interrupts", |row| row["raised"] == true)
    });
    assert_eq!(line["register"], "memory.available", "{line}");
    assert_eq!(
        (&line["handler"], &line["count"]),
        (&"reclaim".into(), &1.into())
    );
    let told = machine.until("hw --json", settings);
    assert_eq!(told["raised"], 1, "{told}");
    machine.until("mem --json", |text| {
        (held_at(text)? == LEDGER_BYTES * SHARE).then_some(())
    });

    // What the kernel took back of it is its own counter's to say.
    machine.until("mem --json", |text| {
        let ledger = row(text, "processes", |row| row["name"] == "ledger")?;
        ledger["reclaimed_bytes"].as_u64()
    });

    // The journal has a row of each, in a chain that holds; the ledger has that row's hash.
    let journal = machine.json("journal -n 64");
    assert_eq!(journal["holds"], true, "{journal}");
    let text = journal.to_string();
    for (kind, subject, event_type) in [
        ("raised", "memory.available", "interrupt_raised"),
        ("control", "heartbeat_ms", "control_changed"),
        ("control", "memory_high_share", "control_changed"),
        ("control", "reclaim_bytes", "control_changed"),
    ] {
        let row = row(&text, "rows", |row| {
            row["kind"] == kind && row["subject"] == subject
        });
        let row = row.unwrap_or_else(|| panic!("no row {kind} {subject}: {journal}"));
        let query = format!("ledger query --type {event_type} -n 50 --json");
        machine.until(&query, |text| {
            let told: Value = serde_json::from_str(text.trim()).ok()?;
            let events = told["events"].as_array()?;
            let of = |e: &&Value| e["payload"]["row"] == row["seq"];
            let event = events.iter().find(of)?;
            assert_eq!(event["payload"]["hash"], row["hash"], "{event}");
            Some(())
        });
    }

    // PID 1 goes on with what it set, and with the generation that the log has.
    crashes::crash(&mut machine, "SEGV", 1);
    machine.until("hw --json", settings);
    machine.until("mem --json", |text| {
        (held_at(text)? == LEDGER_BYTES * SHARE).then_some(())
    });
    let journal = machine.json("journal -n 64");
    assert_eq!(journal["holds"], true, "{journal}");
    machine.until("mutations --json", |text| {
        let told: Value = serde_json::from_str(text.trim()).ok()?;
        (told["generation"] == 0 && told["in_force"] == 0).then_some(())
    });
    // The role has fetched PID 1's rows, and has a chain of its own on the data disk.
    machine.until("journal --cortex -n 64 --json", |text| {
        assert!(text.contains("\"holds\":true"), "{text}");
        row(text, "rows", |row| row["subject"] == "heartbeat_ms").map(|_| ())
    });
    machine.assert_no_call_was_refused();
    machine.power_off();
}
