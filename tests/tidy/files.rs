//! What may lie in the sources: names at the top, sizes, headers, words.

use std::collections::BTreeSet;
use std::path::Path;

use crate::{expect_none, full, has_extension, sources, text};

/// What the top level holds, and what tools demand beside it.
const TOP: &[&str] = &[
    "Cargo.toml",
    "vector_boot",
    "initramfs",
    "image",
    "package_rts.sh",
    "qemu",
    "tests",
    "docs",
    "README.md",
    "Cargo.lock",
    ".ci",
    ".cargo",
    ".gitignore",
    "LICENSE",
    "LICENSE-APACHE",
    "LICENSE-MIT",
];
/// Models, images and traces do not belong into the sources; a lock file or a golden file is far smaller.
const FILE_BYTES_MAX: u64 = 1 << 20;
/// A module is named for what it contains.
const EMPTY_NAMES: &[&str] = &["utils", "util", "common", "helpers", "misc", "types"];

#[test]
fn the_top_level_is_fixed() {
    let found: BTreeSet<String> = sources()
        .iter()
        .filter_map(|path| Some(path.components().next()?.as_os_str().to_str()?.to_owned()))
        .filter(|name| !TOP.contains(&name.as_str()))
        .collect();
    expect_none(&found.into_iter().collect::<Vec<_>>());
}

#[test]
fn no_file_is_large() {
    let large = sources().into_iter().filter_map(|path| {
        let bytes = full(&path).metadata().expect("a source has a size").len();
        (bytes > FILE_BYTES_MAX).then(|| format!("{}: {bytes} bytes", path.display()))
    });
    expect_none(&large.collect::<Vec<_>>());
}

/// Words that stand for unfinished work, and places that only one host has. Put together here, so that this file
/// does not contain them.
fn banned() -> Vec<String> {
    let pairs = [
        ("TO", "DO"),
        ("FIX", "ME"),
        ("todo", "!("),
        ("unimpl", "emented!("),
        ("#[ig", "nore"),
        ("/tmp", "/w/"),
        ("/wo", "rk/main"),
        ("/wo", "rk/shared"),
        ("/root", "/.c"),
        ("lorem", " ipsum"),
    ];
    pairs
        .iter()
        .map(|(head, tail)| format!("{head}{tail}"))
        .collect()
}

#[test]
fn nothing_is_left_unfinished_and_no_host_is_named() {
    let banned = banned();
    let mut findings = Vec::new();
    for path in sources() {
        let Some(text) = text(&path) else { continue };
        for (number, line) in (1..).zip(text.lines()) {
            for word in banned.iter().filter(|word| line.contains(word.as_str())) {
                findings.push(format!("{}:{number}: {word}", path.display()));
            }
        }
    }
    expect_none(&findings);
}

#[test]
fn every_source_says_what_it_is_for() {
    let mut findings = Vec::new();
    for path in sources() {
        let Some(text) = text(&path) else { continue };
        let good = match () {
            () if has_extension(&path, "rs") => text.starts_with("//! "),
            () if has_extension(&path, "py") => {
                header_of_script(&text).is_some_and(|line| line.starts_with("\"\"\""))
            }
            () if text.starts_with("#!") => {
                header_of_script(&text).is_some_and(|line| line.starts_with("# "))
            }
            () if has_extension(&path, "md") => text.starts_with("# "),
            () => true,
        };
        if !good {
            findings.push(format!("{}: no header", path.display()));
        }
    }
    expect_none(&findings);
}

/// The first line behind the interpreter's.
fn header_of_script(text: &str) -> Option<&str> {
    text.lines().find(|line| !line.starts_with("#!"))
}

#[test]
fn files_are_named_for_what_they_contain() {
    let empty = |path: &Path| {
        let stem = path
            .file_stem()
            .and_then(|stem| stem.to_str())
            .unwrap_or("");
        EMPTY_NAMES
            .contains(&stem)
            .then(|| path.display().to_string())
    };
    let found = sources()
        .iter()
        .filter_map(|path| empty(path))
        .collect::<Vec<_>>();
    expect_none(&found);
}

/// The manifest's lines of one table that name a dependency without a reason above them.
fn without_reason(manifest: &str) -> Vec<String> {
    let mut findings = Vec::new();
    let mut inside = false;
    let mut reason = false;
    for line in manifest.lines() {
        let line = line.trim();
        if line.starts_with('[') {
            inside = line == "[workspace.dependencies]";
            reason = false;
        } else if line.is_empty() {
            reason = false;
        } else if line.starts_with('#') {
            reason = true;
        } else if inside && !reason {
            findings.push(line.to_owned());
        }
    }
    findings
}

#[test]
fn every_dependency_has_a_reason_and_one_version() {
    let manifest = text(Path::new("Cargo.toml")).expect("the workspace's manifest");
    let mut findings = without_reason(&manifest);
    for path in sources()
        .iter()
        .filter(|path| path.ends_with("Cargo.toml") && path.components().count() > 1)
    {
        let text = text(path).expect("a manifest is UTF-8");
        // A workspace of its own, as the fuzz targets are, has versions of its own.
        if text.lines().any(|line| line == "[workspace]") {
            continue;
        }
        let mut inside = false;
        for line in text.lines() {
            if line.starts_with('[') {
                inside = line.contains("dependencies");
            } else if inside && line.contains('=') && !line.contains("workspace = true") {
                findings.push(format!(
                    "{}: {line}: not the workspace's version",
                    path.display()
                ));
            }
        }
    }
    expect_none(&findings);
    assert_eq!(
        without_reason("[workspace.dependencies]\n# why\na = \"1\"\n\nb = \"1\"\n"),
        ["b = \"1\""]
    );
}
