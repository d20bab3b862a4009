//! A watchdog of hardware: it bites a machine whose PID 1 hangs, and tells the next boot of it.

use serde_json::Value;
use system_tests::inputs::Arch;
use system_tests::machine::{Machine, Options};
use system_tests::package;

/// Runs the drill.
pub fn drill() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let folder = folder.path();
    let mut machine = Machine::ready(&Options {
        arch: Arch::X86_64,
        package: Some(package::pack_default_for(
            Arch::X86_64,
            folder,
            "app.rts",
            &[],
        )),
        data: folder.join("data.img"),
        append: "vb.watchdog=8".to_owned(),
        watchdog: true,
        resets: true,
        ..Options::default()
    });
    let dog = machine.json("watchdog");
    assert_eq!(dog["driver"], "wdat_wdt", "{dog}");
    assert_eq!(dog["software"], false, "{dog}");
    assert_eq!(dog["reset_by_watchdog"], false, "{dog}");
    assert!(dog["left_s"].as_u64().is_some_and(|s| s <= 8), "{dog}");

    machine.run_and_be_greeted("signal init STOP");
    machine.ok("ready 90");
    let dog = machine.json("watchdog");
    assert_eq!(dog["reset_by_watchdog"], true, "{dog}");
    let bitten = began(&mut machine, "watchdog_reset");
    assert_eq!(bitten["facts"]["watchdog_reset"], true, "{bitten}");
    println!("bitten: {bitten}");

    // Told once: an orderly restart is no bite.
    machine.run_and_be_greeted("reboot");
    machine.ok("ready 90");
    assert_eq!(machine.json("watchdog")["reset_by_watchdog"], false);
    println!("then: {}", began(&mut machine, "reboot"));
    machine.power_off();
}

/// Why the machine began, once that is the reason.
pub fn began(machine: &mut Machine, reason: &str) -> Value {
    machine.until("why machine --json", |text| {
        let all: Value = serde_json::from_str(text).ok()?;
        let newest = all["why"][0].clone();
        (newest["reason"] == reason).then_some(newest)
    })
}
