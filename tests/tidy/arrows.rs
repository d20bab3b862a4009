//! Who may import whom: pure rooms below `sys` and `ipc`, the subsystems above them, composition on top.

use std::process::Command;

use serde_json::Value;
use system_tests::inputs::repository;

use crate::expect_none;

const PURE: &[&str] = &["wire", "rts", "gguf", "gpt", "ledger-core", "capacity-core"];
const SUBSYSTEMS: &[&str] = &["init", "neural", "ledger", "capacity", "gateway"];

/// What a room may import of our own; none for a name that is no room.
fn may_import(room: &str, other: &str) -> Option<bool> {
    let pure = PURE.contains(&other);
    match room {
        "sys" => Some(pure),
        "ipc" | "jail" => Some(pure || other == "sys"),
        "vector_boot" => Some(other != "system-tests"),
        "system-tests" => Some(pure || other == "sys"),
        _ if PURE.contains(&room) => Some(pure),
        _ if SUBSYSTEMS.contains(&room) => Some(pure || ["sys", "ipc", "jail"].contains(&other)),
        _ => None,
    }
}

/// Each member with the names of all its dependencies, also those for its tests.
fn members() -> Vec<(String, Vec<String>)> {
    let mut cargo = Command::new(env!("CARGO"));
    cargo.current_dir(repository());
    cargo.args([
        "metadata",
        "--no-deps",
        "--locked",
        "--offline",
        "--format-version",
        "1",
    ]);
    let metadata: Value =
        serde_json::from_str(&system_tests::stdout_of(&mut cargo)).expect("metadata");
    let name = |value: &Value| value["name"].as_str().expect("a name").to_owned();
    let packages = metadata["packages"].as_array().expect("packages");
    packages
        .iter()
        .map(|package| {
            let needs = package["dependencies"].as_array().expect("dependencies");
            (name(package), needs.iter().map(name).collect())
        })
        .collect()
}

#[test]
fn arrows_between_rooms_point_down() {
    let members = members();
    let ours: Vec<&str> = members.iter().map(|(name, _)| name.as_str()).collect();
    let mut findings = Vec::new();
    for (room, needs) in &members {
        for need in needs
            .iter()
            .filter(|need| ours.contains(&need.as_str()) && *need != room)
        {
            match may_import(room, need) {
                Some(true) => {}
                Some(false) => findings.push(format!("{room} imports {need}")),
                None => findings.push(format!("{room} is no room of the house")),
            }
        }
    }
    expect_none(&findings);
    assert!(ours.len() >= 14, "only {ours:?}");
}

#[test]
fn the_rule_refuses_what_it_should() {
    for (room, other) in [
        ("gateway", "ledger"),
        ("wire", "sys"),
        ("sys", "ipc"),
        ("init", "vector_boot"),
    ] {
        assert_eq!(may_import(room, other), Some(false), "{room} -> {other}");
    }
}
