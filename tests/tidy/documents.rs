//! Whether the documents' links lead somewhere.

use std::path::{Component, Path, PathBuf};

use crate::{expect_none, full, has_extension, sources, text};

/// The targets of a document's links, without those to the outside.
fn links(markdown: &str) -> Vec<&str> {
    let mut found = Vec::new();
    let mut fenced = false;
    for line in markdown.lines() {
        fenced ^= line.trim_start().starts_with("```");
        if fenced {
            continue;
        }
        for part in line.split("](").skip(1) {
            let target = part.split([')', ' ']).next().unwrap_or("");
            if !target.contains("://") && !target.starts_with("mailto:") {
                found.push(target);
            }
        }
    }
    found
}

/// A heading's anchor as the common viewers make it.
fn anchor(heading: &str) -> String {
    let kept = heading.trim().to_lowercase();
    kept.chars()
        .filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'))
        .map(|c| if c == ' ' { '-' } else { c })
        .collect()
}

fn has_anchor(document: &Path, wanted: &str) -> bool {
    let text = std::fs::read_to_string(document).unwrap_or_default();
    text.lines()
        .filter(|line| line.starts_with('#'))
        .any(|line| anchor(line.trim_start_matches('#')) == wanted)
}

/// `docs/a.md` and `../README.md` make `README.md`.
fn beside(document: &Path, target: &str) -> PathBuf {
    let mut path = PathBuf::new();
    for part in document
        .parent()
        .unwrap_or(Path::new(""))
        .join(target)
        .components()
    {
        match part {
            Component::ParentDir => {
                path.pop();
            }
            Component::CurDir => {}
            other => path.push(other),
        }
    }
    path
}

#[test]
fn links_of_documents_resolve() {
    let mut findings = Vec::new();
    for document in sources().iter().filter(|path| has_extension(path, "md")) {
        let text = text(document).expect("a document is UTF-8");
        for link in links(&text) {
            let (file, fragment) = link.split_once('#').unwrap_or((link, ""));
            let target = if file.is_empty() {
                document.clone()
            } else {
                beside(document, file)
            };
            if !full(&target).exists() {
                findings.push(format!("{}: {link} leads nowhere", document.display()));
            } else if !fragment.is_empty() && !has_anchor(&full(&target), fragment) {
                findings.push(format!("{}: {link}: no such heading", document.display()));
            }
        }
    }
    expect_none(&findings);
}

#[test]
fn links_are_found_and_resolved() {
    let text = "see [a](x.md#The-end) and [b](https://host/y)\n```\n[c](none.md)\n```\n";
    assert_eq!(links(text), ["x.md#The-end"]);
    assert_eq!(anchor(" Words, and `code`"), "words-and-code");
    assert_eq!(
        beside(Path::new("docs/decisions/a.md"), "../wire.md"),
        Path::new("docs/wire.md")
    );
}
