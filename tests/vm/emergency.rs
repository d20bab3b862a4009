//! Nothing to boot with: the machine says why, answers a person and a program, and ends as it was told.

use std::path::{Path, PathBuf};

use system_tests::initramfs;
use system_tests::inputs::inputs;
use system_tests::machine::{BOOT_LIMIT, Machine, Options, STEP_LIMIT, Watched};

use crate::options;

/// Executables whose services are none.
fn garbage_services(folder: &Path) -> PathBuf {
    let bin = folder.join("bin");
    std::fs::create_dir(&bin).unwrap();
    std::fs::copy(inputs().vector_boot(), bin.join("vector_boot")).unwrap();
    // An executable by its first bytes, and by nothing else.
    let mut bytes = std::fs::read(inputs().services()).unwrap();
    bytes.truncate(4096);
    bytes[24..].fill(0x5a);
    std::fs::write(bin.join("vb-services"), bytes).unwrap();
    bin
}

/// An initramfs that cannot be left, since a file is where the new root would be, and in which `/run` is a file too,
/// so that PID 1 has no place for its sockets.
fn without_run(folder: &Path) -> PathBuf {
    let archive = initramfs::with_file(folder, "run", b"no folder\n");
    initramfs::add_file(&archive, "root", b"no folder\n");
    archive
}

fn without_package(folder: &Path) -> Options {
    Options {
        package: Some(PathBuf::from("none")),
        ..options(folder)
    }
}

#[test]
fn without_services_and_package_the_console_says_what_is_missing() {
    let folder = tempfile::tempdir().unwrap();
    let mut machine = Machine::boot(&Options {
        bin: Some(garbage_services(folder.path())),
        ..without_package(folder.path())
    });
    let status = machine.until("status --json", |text| {
        text.contains("emergency: no core service can run")
            .then(|| text.to_owned())
    });
    assert!(status.contains("package: none found"), "{status}");
    assert!(status.contains("service ledger: start:"), "{status}");
    machine
        .serial()
        .wait_for_line("emergency: no core service can run", STEP_LIMIT);
    machine.serial().wait_for("the prompt", STEP_LIMIT, |text| {
        text.contains("vb> ").then_some(())
    });
    assert!(machine.ok("log init").contains("Exec format error"));
    machine.power_off();
}

#[test]
fn when_pid_1_cannot_boot_it_serves_a_person_and_a_program_itself() {
    let folder = tempfile::tempdir().unwrap();
    let mut machine = Machine::boot(&Options {
        initramfs: Some(without_run(folder.path())),
        ..without_package(folder.path())
    });
    let why = machine.ok("why");
    assert!(why.starts_with("emergency\n  boot: "), "{why}");
    assert!(why.contains("folder /run/vb"), "{why}");
    assert!(machine.ok("dmesg 500").contains("Linux version"));
    assert!(machine.ok("params").contains("vb.emergency"));
    assert!(machine.ok("mounts").contains("/proc"));
    machine.ok("log");
    for (wrong, named) in [("sh", "sh: not in"), ("dmesg 0", "limit 1 to 500")] {
        let answer = machine.run(wrong);
        assert_eq!(answer.code, 2, "{wrong}: {}", answer.text);
        assert!(answer.text.contains(named), "{wrong}: {}", answer.text);
    }
    machine.serial().wait_for("the prompt", STEP_LIMIT, |text| {
        text.contains("emergency> ").then_some(())
    });
    // Twice the console's own lines: a stopped terminal must not stop PID 1.
    machine.type_line("\u{13}");
    machine.type_line("mounts");
    machine.serial().wait_for_line("devtmpfs", STEP_LIMIT);
    machine.power_off();
}

#[test]
fn vb_emergency_reboots_or_halts_without_anybody() {
    let folder = tempfile::tempdir().unwrap();
    // QEMU takes a reboot for the end.
    let rebooted = Watched::boot(&Options {
        initramfs: Some(without_run(folder.path())),
        append: "vb.emergency=reboot".to_owned(),
        ..without_package(folder.path())
    });
    rebooted
        .serial()
        .wait_for_line("vector_boot: rebooting", BOOT_LIMIT);
    rebooted.wait_for_end();
    let halted = Watched::boot(&Options {
        bin: Some(garbage_services(folder.path())),
        append: "vb.emergency=halt".to_owned(),
        ..without_package(folder.path())
    });
    halted
        .serial()
        .wait_for_line("vector_boot: halted", BOOT_LIMIT);
}
