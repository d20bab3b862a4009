//! An initramfs as it is booted, with one entry more.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::inputs::inputs;

/// File type and permissions of an ordinary file.
const FILE: u32 = 0o100_644;
/// Of one that can be executed.
const PROGRAM: u32 = 0o100_755;

/// Builds the initramfs of the tested executables, and adds a file; what was there by its name is no longer.
pub fn with_file(folder: &Path, name: &str, content: &[u8]) -> PathBuf {
    with_entry(folder, name, FILE, content)
}

/// Adds one more file to an initramfs.
pub fn add_file(archive: &Path, name: &str, content: &[u8]) {
    add_entry(archive, name, FILE, content);
}

/// The same with a program.
pub fn with_program(folder: &Path, name: &str, program: &Path) -> PathBuf {
    with_entry(folder, name, PROGRAM, &std::fs::read(program).unwrap())
}

fn with_entry(folder: &Path, name: &str, mode: u32, content: &[u8]) -> PathBuf {
    let out = folder.join("initramfs.cpio");
    let modules = inputs().kernel.parent().unwrap().join("../lib/modules");
    let release = std::fs::read_dir(modules).unwrap().flatten().next();
    let mut build = Command::new(inputs().vector_boot());
    build
        .args(["initramfs", "--init"])
        .arg(inputs().vector_boot());
    build.arg("--services").arg(inputs().services());
    build.arg("--modules").arg(release.expect("modules").path());
    crate::stdout_of(build.arg("--out").arg(&out));
    add_entry(&out, name, mode, content);
    out
}

fn add_entry(file: &Path, name: &str, mode: u32, content: &[u8]) {
    let mut archive = std::fs::read(file).unwrap();
    archive.resize(archive.len().next_multiple_of(4), 0);
    archive.extend(entry(name, mode, content));
    archive.extend(entry("TRAILER!!!", 0, b""));
    std::fs::write(file, archive).unwrap();
}

/// One entry of a newc archive, as the kernel's `initramfs-buffer-format` has it.
fn entry(name: &str, mode: u32, content: &[u8]) -> Vec<u8> {
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
