//! Rules about Rust code that clippy does not know: where unsafe may stand, and what each crate forbids.

use std::path::{Path, PathBuf};

use crate::rust_text::code_of;
use crate::{expect_none, has_extension, sources, text};

/// The only places of unsafe code: system calls, the C ABI, quantised blocks over a mapping.
const UNSAFE_ROOMS: &[&str] = &[
    "vector_boot/crates/sys/src/",
    "vector_boot/src/ffi",
    "vector_boot/crates/neural/src/mapped",
];
/// Crates that hold such a place and so cannot forbid unsafe code as a whole.
const CRATES_WITH_UNSAFE: &[&str] = &[
    "vector_boot/crates/sys/src/lib.rs",
    "vector_boot/src/lib.rs",
    "vector_boot/crates/neural/src/lib.rs",
];

fn rust_sources() -> Vec<PathBuf> {
    sources()
        .into_iter()
        .filter(|path| has_extension(path, "rs"))
        .collect()
}

/// Lines with the word `unsafe` in code.
fn unsafe_lines(source: &str) -> Vec<usize> {
    let code = code_of(source);
    let has_word = |line: &str| {
        line.split(|c: char| !c.is_alphanumeric() && c != '_')
            .any(|word| word == "unsafe")
    };
    (1..)
        .zip(code.lines())
        .filter(|(_, line)| has_word(line))
        .map(|(number, _)| number)
        .collect()
}

#[test]
fn unsafe_code_stays_in_its_rooms() {
    let mut findings = Vec::new();
    for path in rust_sources() {
        let inside = UNSAFE_ROOMS
            .iter()
            .any(|room| path.starts_with(room) || path.to_string_lossy().starts_with(room));
        if inside {
            continue;
        }
        let source = text(&path).expect("Rust source is UTF-8");
        findings.extend(
            unsafe_lines(&source)
                .iter()
                .map(|line| format!("{}:{line}", path.display())),
        );
    }
    expect_none(&findings);
    assert_eq!(
        unsafe_lines("// unsafe\nunsafe {}\n\"unsafe\"; unsafe_op();"),
        [2]
    );
}

#[test]
fn every_other_crate_forbids_unsafe_code() {
    let is_root = |path: &Path| {
        let name = path
            .file_name()
            .and_then(|name| name.to_str())
            .unwrap_or("");
        let folder = path
            .parent()
            .and_then(Path::file_name)
            .and_then(|name| name.to_str())
            .unwrap_or("");
        (name == "lib.rs" && folder == "src")
            || path.starts_with("vector_boot/src/main.rs")
            || path.starts_with("vector_boot/src/services.rs")
            || (path.starts_with("tests") && name == "main.rs")
    };
    let forbids =
        |path: &PathBuf| text(path).is_some_and(|text| text.contains("#![forbid(unsafe_code)]"));
    let roots: Vec<PathBuf> = rust_sources()
        .into_iter()
        .filter(|path| is_root(path))
        .collect();
    assert!(roots.len() >= 17, "only {roots:?}");
    let findings: Vec<String> = roots
        .iter()
        .filter(|path| {
            !CRATES_WITH_UNSAFE.iter().any(|root| path.ends_with(root)) && !forbids(path)
        })
        .map(|path| format!("{}: no #![forbid(unsafe_code)]", path.display()))
        .collect();
    expect_none(&findings);
}
