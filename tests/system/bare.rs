//! The crates that promise no std are built alone and linked by a program that has none.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;
use system_tests::inputs::repository;
use tempfile::tempdir;

/// Builds one of our crates with its own features alone, as a bare target's firmware would, and gives its library.
fn library_of(package: &str) -> PathBuf {
    let mut cargo = Command::new(env!("CARGO"));
    cargo.current_dir(repository());
    cargo.args(["build", "--locked", "--lib", "--message-format=json"]);
    cargo.args(["--package", package]);
    let target = package.replace('-', "_");
    let messages = system_tests::stdout_of(&mut cargo);
    messages
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok())
        .filter(|message| message["target"]["name"] == target.as_str())
        .filter_map(|message| Some(PathBuf::from(message["filenames"].get(0)?.as_str()?)))
        .find(|path| path.extension().is_some_and(|e| e == "rlib"))
        .expect("cargo names the library")
}

fn link_bare(library: &Path, out: &Path, more: &[&str]) -> Output {
    let folder = library.parent().expect("a library lies in a folder");
    // A library that cargo lifted out of `deps` still has its dependencies there.
    let dependencies = match folder.ends_with("deps") {
        true => folder.to_owned(),
        false => folder.join("deps"),
    };
    Command::new(std::env::var("RUSTC").unwrap_or_else(|_| "rustc".to_owned()))
        .args(["--edition", "2024", "--crate-type", "lib"])
        .args(["--emit", "metadata", "-C", "panic=abort"])
        .arg("--extern")
        .arg(format!("bare={}", library.display()))
        .arg("-L")
        .arg(format!("dependency={}", dependencies.display()))
        .args(more)
        .arg("-o")
        .arg(out)
        .arg(repository().join("tests/programs/bare.rs"))
        .output()
        .expect("rustc runs")
}

#[test]
fn wire_and_ledger_core_link_without_std() {
    let folder = tempdir().expect("a folder");
    let out = folder.path().join("bare.rmeta");
    for package in ["wire", "ledger-core"] {
        let library = library_of(package);
        let linked = link_bare(&library, &out, &[]);
        let said = String::from_utf8_lossy(&linked.stderr);
        assert!(linked.status.success(), "{package}: {said}");
        let with_std = link_bare(&library, &out, &["--cfg", "with_std"]);
        let said = String::from_utf8_lossy(&with_std.stderr);
        assert!(!with_std.status.success(), "{package}: std was not noticed");
        assert!(said.contains("panic_impl"), "{package}: {said}");
    }
}
