//! Another package in the place of the running one, in a machine: under a client of the host, and bad ones.

use std::path::Path;

use serde_json::Value;
use system_tests::inputs::inputs;
use system_tests::machine::{Machine, Options};
use system_tests::{crashes, package, program};

use crate::{options, trust};

#[test]
fn pid_1_and_services_are_replaced_three_times_and_no_call_fails() {
    let folder = tempfile::tempdir().unwrap();
    system_tests::upgrades::there_and_back(folder.path(), 3, "vb.upgrade_watch_s=0");
}

/// Longer than any test: who is watched is watched until something happens.
const EVER: &str = "600";

/// Packs a package below `share`: the default services and these lines, with a window of so many seconds.
fn pack(share: &Path, name: &str, binaries: [&Path; 2], window: &str, lines: &str, words: &[&str]) {
    let manifest = share.join(format!("{name}.toml"));
    let params = format!("\n[params]\n\"vb.upgrade_watch_s\" = {window}\n");
    std::fs::write(&manifest, package::default_manifest() + lines + &params).unwrap();
    let own = ["--manifest", manifest.to_str().unwrap()];
    package::pack_binaries(
        binaries,
        share,
        &format!("{name}.rts"),
        &[&own, words].concat(),
    );
    std::fs::remove_file(manifest).unwrap();
}

/// The newest record of why PID 1 did something, of this reason.
fn why(machine: &mut Machine, reason: &str) -> Value {
    machine.until("why init --json", |text| {
        let value: Value = serde_json::from_str(text.trim()).ok()?;
        let mut records = value["why"].as_array()?.iter();
        records.find(|r| r["reason"] == reason).cloned()
    })
}

/// Upgrades to a package that must end so; what is said must have this in it, in the answer and in `why`.
fn fails(machine: &mut Machine, name: &str, end: &str, said: &str) {
    let answer = machine.run(&format!("upgrade share/{name}.rts"));
    assert_eq!(answer.code, 1, "{name}: {}", answer.text);
    let status = machine.json("upgrade");
    assert_eq!(status["end"], end, "{name}: {status}");
    let reason = status["reason"].as_str().unwrap_or_default();
    assert!(reason.contains(said), "{name}: no {said:?} in {status}");
    let (record, field) = match end {
        "refused" => (why(machine, "upgrade_refused"), "detail"),
        _ => (why(machine, "rollback"), "reason"),
    };
    let told = record["facts"][field].as_str().unwrap_or_default();
    assert!(told.contains(said), "{name}: no {said:?} in {record}");
    assert_eq!(machine.run("ready 60").code, 0, "{name}");
}

#[test]
fn bad_packages_are_left_or_refused_with_the_reason() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let share = folder.join("share");
    std::fs::create_dir(&share).unwrap();
    let (ours, theirs) = (
        trust::keygen(folder, "ours"),
        trust::keygen(folder, "theirs"),
    );
    let sign = ["--sign", ours.to_str().unwrap()];
    let (init, services) = (inputs().vector_boot(), inputs().services());
    let tested = [&*init, &*services];
    let app = |name: &str| format!("app={}", program::compile(name, folder).display());
    let service = |name: &str, keys: &str| {
        format!("\n[[service]]\nname = \"{name}\"\nimage = \"app\"\nnotify = true\n{keys}\n")
    };
    let (ticker, mute) = (app("ticker"), app("mute"));

    // Crashes at its start: nothing of it ever gets up. Hangs: is ready, then silent. Never ready: says nothing.
    let quits = program::compile("quits", folder);
    pack(&share, "crashes", [&*init, &*quits], EVER, "", &sign);
    let words = [&sign[..], &["--add", &mute]].concat();
    let hangs = service("hangs", "watchdog_ms = 1000");
    pack(&share, "hangs", tested, EVER, &hangs, &words);
    let words = [&sign[..], &["--add", &ticker]].concat();
    let silent = service("silent", "start_timeout_ms = 1000");
    pack(&share, "silent", tested, EVER, &silent, &words);
    pack(&share, "unsigned", tested, "0", "", &[]);
    pack(
        &share,
        "foreign",
        tested,
        "0",
        "",
        &["--sign", theirs.to_str().unwrap()],
    );
    pack(&share, "tampered", tested, "0", "", &sign);
    trust::tamper(&share.join("tampered.rts"));
    let disk = package::pack_default(folder, "disk.rts", &sign);
    let options = Options {
        package: Some(disk),
        trust: vec![trust::public(&ours)],
        share: Some(share.clone()),
        ..options(folder)
    };
    let mut machine = Machine::ready(&options);
    let before = machine.json("status")["package"].clone();
    fails(
        &mut machine,
        "crashes",
        "rolled back",
        "exit: ledger: exit code 3",
    );
    fails(&mut machine, "hangs", "rolled back", "hangs: ");
    fails(&mut machine, "silent", "rolled back", "silent: ");
    fails(&mut machine, "unsigned", "refused", "signature");
    fails(&mut machine, "foreign", "refused", "key_id");
    fails(&mut machine, "tampered", "refused", "manifest_blake3");
    assert_eq!(machine.json("status")["package"], before);

    // The last of them may still be on its way.
    machine.until("ledger query --type upgrade_refused --json", |text| {
        let kind = "\"event_type\":\"upgrade_refused\"";
        (text.matches(kind).count() == 3).then_some(())
    });
    let events = machine.events();
    let reasons = |kind: &str, field: &str| -> Vec<String> {
        let of = events.iter().filter(|e| e["event_type"] == kind);
        of.map(|e| e["payload"][field].as_str().unwrap_or_default().to_owned())
            .collect()
    };
    let found = reasons("rolled_back", "reason");
    for (reason, wanted) in found.iter().zip(["ledger: ", "hangs: ", "silent: "]) {
        assert!(reason.contains(wanted), "{wanted}: {found:?}");
    }
    let refused = reasons("upgrade_refused", "detail");
    assert_eq!(
        (found.len(), refused.len()),
        (3, 3),
        "{found:?} {refused:?}"
    );
    assert_eq!(crashes::count(&events, "upgrade_done"), 0);
    crashes::check_ids(&events);
    machine.power_off();
}
