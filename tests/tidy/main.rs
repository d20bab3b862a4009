//! Whether the house stands as docs/ARCHITECTURE.md says: arrows, unsafe rooms, dependencies, files, words, links.
//!
//! Each test prints everything that it found, not only the first. Start with the list of modules.
#![forbid(unsafe_code)]

mod arrows;
mod documents;
mod files;
mod rust_rules;
mod rust_text;

use std::path::{Path, PathBuf};
use std::process::Command;

use system_tests::inputs::repository;

/// Every file of the sources, as git sees them: committed, or new and not ignored; relative to the root.
fn sources() -> Vec<PathBuf> {
    let mut git = Command::new("git");
    git.current_dir(repository());
    git.args(["ls-files", "--cached", "--others", "--exclude-standard"]);
    let listed = system_tests::stdout_of(&mut git);
    let paths: Vec<PathBuf> = listed
        .lines()
        .map(PathBuf::from)
        .filter(|path| full(path).exists())
        .collect();
    assert!(paths.len() > 20, "git lists only {} files", paths.len());
    paths
}

fn full(path: &Path) -> PathBuf {
    repository().join(path)
}

/// A source's text; none if it is not UTF-8, as golden files may be.
fn text(path: &Path) -> Option<String> {
    String::from_utf8(std::fs::read(full(path)).expect("a source can be read")).ok()
}

fn has_extension(path: &Path, extension: &str) -> bool {
    path.extension().is_some_and(|found| found == extension)
}

/// Fails with every finding on its own line.
fn expect_none(findings: &[String]) {
    assert!(
        findings.is_empty(),
        "{} findings:\n{}",
        findings.len(),
        findings.join("\n")
    );
}
