//! Blocks of docs/ledger.md, run as a person would.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;

const SOURCES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../..");

/// The shell's lines of a section, block by block.
pub fn blocks(heading: &str) -> Vec<String> {
    let page = fs::read_to_string(Path::new(SOURCES).join("docs/ledger.md")).unwrap();
    let (level, _) = heading.split_once(' ').unwrap();
    let (_, section) = page.split_once(&format!("\n{heading}\n")).unwrap();
    let (section, _) = section.split_once(&format!("\n{level} ")).unwrap();
    let blocks = section.split("```sh\n").skip(1);
    blocks
        .map(|block| block.split("```").next().unwrap().to_owned())
        .collect()
}

/// A shell in `folder`, for which the names of the product's executables mean this one, and `cargo` nothing.
pub fn command(shell: &str, script: &str, folder: &Path) -> Command {
    let bin = folder.join("bin");
    fs::create_dir(&bin).unwrap();
    let program = |name: &str, lines: &str| {
        let path = bin.join(name);
        fs::write(&path, format!("#!/bin/sh\n{lines}\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    };
    let exe = std::env::current_exe().unwrap();
    let role = super::ROLE;
    let run = format!(
        "shift\n{role}=$(printf '%s\\n' \"$@\") exec '{}'",
        exe.display()
    );
    program("vb-services", &run);
    program("vector_boot", &run);
    program("cargo", "");
    let path = std::env::var_os("PATH").unwrap();
    let path = std::env::join_paths(std::iter::once(bin).chain(std::env::split_paths(&path)));
    let mut command = Command::new(shell);
    command.args(["-c", script]).current_dir(folder);
    command.env("PATH", path.unwrap());
    command
}

/// An ordinary process, three appends, the Python client, a proof, and one changed byte.
pub fn the_first_walk_ends_as_the_page_says() {
    let blocks = blocks("## A first walk");
    let [make, python, prove, _gateway] = &blocks[..] else {
        panic!("{blocks:?}");
    };
    let folder = tempfile::tempdir().unwrap();
    symlink(
        Path::new(SOURCES).join("vector_boot"),
        folder.path().join("vector_boot"),
    )
    .unwrap();
    // With job control's names of jobs, as in the reader's shell.
    let output = command("bash", &format!("{make}\n{python}\n{prove}"), folder.path())
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .env("NO_PROXY", "*")
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let errors = String::from_utf8(output.stderr).unwrap();
    let mut rest = text.lines();
    for wanted in [
        r#"note_written  note-1  {"text":"kept"}"#,
        r#"invoice_paid    {"cents":700,"customer":"acme"}"#,
        "{'cents': 700, 'customer': 'acme'}",
        "{'n': 1} True",
        "{'sums': {'by': {'acme': 700}, 'total': 700}}",
        "ok event 1 ",
        "ok 5 events ",
        "BAD event 1 ",
    ] {
        assert!(
            rest.any(|line| line.contains(wanted)),
            "{wanted}\n{text}\n{errors}"
        );
    }
    assert_eq!(output.status.code(), Some(1), "{text}\n{errors}");
}
