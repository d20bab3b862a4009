//! Nothing to boot with: the machine says why, answers a person and a program, and ends as it was told.

use std::path::{Path, PathBuf};
use std::process::Command;

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

/// An initramfs in which `/run` is a file, so that PID 1 has no place for its sockets.
fn without_run(folder: &Path) -> PathBuf {
    let out = folder.join("initramfs.cpio");
    let modules = inputs().kernel.parent().unwrap().join("../lib/modules");
    let release = std::fs::read_dir(modules).unwrap().flatten().next();
    let mut build = Command::new(inputs().vector_boot());
    build
        .args(["initramfs", "--init"])
        .arg(inputs().vector_boot());
    build.arg("--services").arg(inputs().services());
    build.arg("--modules").arg(release.expect("modules").path());
    system_tests::stdout_of(build.arg("--out").arg(&out));
    let mut archive = std::fs::read(&out).unwrap();
    archive.resize(archive.len().next_multiple_of(4), 0);
    archive.extend(cpio_entry("run", 0o100_644, b"no folder\n"));
    archive.extend(cpio_entry("TRAILER!!!", 0, b""));
    std::fs::write(&out, archive).unwrap();
    out
}

/// One entry of a newc archive, as the kernel's `initramfs-buffer-format` has it.
fn cpio_entry(name: &str, mode: u32, content: &[u8]) -> Vec<u8> {
    let mut fields = [0u32; 13];
    (fields[1], fields[4]) = (mode, 1);
    (fields[6], fields[11]) = (content.len() as u32, name.len() as u32 + 1);
    let mut entry = b"070701".to_vec();
    for field in fields {
        entry.extend(format!("{field:08x}").bytes());
    }
    for part in [format!("{name}\0").as_bytes(), content] {
        entry.extend(part);
        entry.resize(entry.len().next_multiple_of(4), 0);
    }
    entry
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
