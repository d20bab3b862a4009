//! PID 1 crashes: nobody who uses the machine notices, until it crashes too often.
//!
//! One machine, two boots: five crashes under a client, one whose state was damaged, then three at once, which reset
//! it; then one whose state was damaged elsewhere, a crash and an end.

use system_tests::crashes::{Client, check_ids, count, crash, own_bytes, pids, stay_apart};
use system_tests::inputs::Arch;
use system_tests::machine::{Machine, Options};
use system_tests::{initramfs, package, program};

use crate::options;

/// By so much PID 1's own memory may differ between two quiet moments: a buffer for the largest packet, which one
/// PID 1 has used by then and another has not, and queues that were long once.
const SPARE_BYTES: u64 = (64 + 32) << 10;
/// A service that has no cell, beside those that have one.
const FREE: &str = r#"
[[service]]
name = "ticker"
image = "ticker"
profile = "unconfined"
"#;
const SIGNALS: [&str; 5] = ["SEGV", "BUS", "ILL", "ABRT", "SEGV"];

#[test]
fn crashes_of_pid_1_are_a_blink_and_too_many_of_them_are_an_emergency() {
    let folder = tempfile::tempdir().unwrap();
    let manifest = folder.path().join("app.toml");
    std::fs::write(&manifest, package::default_manifest() + FREE).unwrap();
    let ticker = program::compile("ticker", folder.path());
    let add = format!("ticker={}", ticker.display());
    let words = ["--manifest", manifest.to_str().unwrap(), "--add", &add];
    let damages = program::compile_c("damages", folder.path());
    let options = Options {
        package: Some(package::pack_default(folder.path(), "app.rts", &words)),
        append: "vb.emergency=reboot rdinit=/damages".to_owned(),
        initramfs: Some(initramfs::with_program(folder.path(), "damages", &damages)),
        resets: Arch::HOST == Arch::X86_64,
        ..options(folder.path())
    };
    let mut machine = Machine::ready(&options);
    let before = pids(&mut machine);
    let client = Client::of(&machine);
    let mut own = u64::MAX;
    for (number, signal) in (1..).zip(SIGNALS) {
        crash(&mut machine, signal, number);
        stay_apart(&mut machine);
        assert_eq!(pids(&mut machine), before, "after {signal}");
        let now = own_bytes(&mut machine);
        assert!(
            now <= own.saturating_add(SPARE_BYTES),
            "{now} bytes, {own} before"
        );
        own = own.min(now);
    }
    assert!(client.end() > 0);
    let ready = machine.run("ready 10");
    assert_eq!(ready.code, 0, "{}", ready.text);
    let events = machine.events();
    assert_eq!(count(&events, "init_resumed"), SIGNALS.len());
    assert_eq!(count(&events, "machine_degraded"), 0, "{events:?}");
    assert_eq!(count(&events, "service_exited"), 0, "{events:?}");
    check_ids(&events);
    assert_eq!(machine.json("ledger verify")["holds"], true);
    assert!(machine.ok("boot").contains("resumed"));

    crash_with_damage(
        &mut machine,
        "ticker",
        "version",
        "state: version: 67, limit ",
    );

    // The third within ten seconds is one too many.
    crash(&mut machine, "SEGV", 1);
    crash(&mut machine, "ABRT", 2);
    let mut machine = if options.resets {
        machine.run_and_be_greeted("signal init BUS");
        machine
    } else {
        machine.ok("signal init BUS");
        machine.wait_for_end();
        Machine::boot(&options)
    };
    let shown = machine.serial().clone();
    if options.resets {
        let text = shown.text();
        assert!(text.contains("PID 1 crashed 3 times within 10 s"), "{text}");
    }

    machine.ok("ready 90");
    crash_with_damage(&mut machine, "net", "row", "service net: no whole row");

    // A crash in the middle of what a boot hashes, and an end right behind it: nothing of that holds up the disks.
    crash(&mut machine, "SEGV", 1);
    let again = pids(&mut machine);
    assert!(again.values().all(|pid| *pid > 0), "{again:?}");
    machine.power_off();
    let text = shown.text();
    assert!(!text.contains("took too long"), "{text}");
}

/// Has the state damaged that PID 1 leaves, by stopping the service that `tests/programs/damages.c` waits for: the next
/// image says what is wrong with it and starts everything anew.
fn crash_with_damage(machine: &mut Machine, service: &str, damage: &str, named: &str) {
    machine.ok(&format!("stop {service}"));
    let said = format!("damaged: {damage}");
    machine.until("dmesg -n 100", |text| text.contains(&said).then_some(()));
    machine.run_and_be_greeted("signal init SEGV");
    let ready = machine.run("ready 90");
    assert_eq!(ready.code, 1, "{}", ready.text);
    let status = machine.json("status");
    let reason = status["reason"].as_str().unwrap();
    let sentence = format!("PID 1 crashed: signal SEGV (11); nobody could go on: {named}");
    assert!(reason.contains(&sentence), "{sentence}: {status}");
    assert_eq!(status["services_up"], status["services"], "{status}");
    assert_eq!(machine.json("ledger verify")["holds"], true);
}
