//! The health gate: a machine whose core service keeps failing is restarted so often, and then left for a person.

use system_tests::crashes::uptime_ns;
use system_tests::inputs::Arch;
use system_tests::machine::{Machine, Options};
use system_tests::{package, program};

use crate::watchdog::began;

/// The shortest patience that a manifest may have, and one restart.
const GATE: &str = r#"
[health]
failed_s = 30
services = ["quits"]
reboots_max = 1

[[service]]
name = "quits"
image = "quits"
core = true
intensity_max = 1
backoff_ms_max = 100
"#;
/// Of the machine's time, after the gate gave up: longer than its patience.
const LEFT_ALONE_NS: u64 = 45_000_000_000;

/// Runs the drill.
pub fn drill() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let folder = folder.path();
    let manifest = folder.join("app.toml");
    let table = format!("extends = \"default\"\n{GATE}");
    std::fs::write(&manifest, table).expect("the drill's manifest");
    let add = format!("quits={}", program::compile("quits", folder).display());
    let words = [
        "--manifest",
        manifest.to_str().expect("a path"),
        "--add",
        &add,
    ];
    let mut machine = Machine::boot(&Options {
        package: Some(package::pack_default(folder, "app.rts", &words)),
        data: folder.join("data.img"),
        resets: Arch::HOST == Arch::X86_64,
        ..Options::default()
    });
    println!("first: {}", began(&mut machine, "first_boot"));
    machine.run_and_be_greeted("services");
    println!("second: {}", began(&mut machine, "reboot"));
    let gave_up = machine.until("status --json", |text| {
        text.contains("health: service quits keeps failing for 30 s")
            .then(|| uptime_ns(text))
            .flatten()
    });
    // It stays where it is, everything else at work.
    machine.until("status --json", |text| {
        (uptime_ns(text)? > gave_up + LEFT_ALONE_NS).then_some(())
    });
    for name in ["ledger", "capacity", "gateway", "console"] {
        let services = machine.json("services");
        let rows = services["services"].as_array().expect("services");
        let up = |row: &&serde_json::Value| row["name"] == name && row["state"] == "up";
        assert!(rows.iter().any(|row| up(&row)), "{name}: {services}");
    }
    println!("left: {}", machine.ok("status"));
    machine.power_off();
}
