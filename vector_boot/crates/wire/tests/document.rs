//! Whether the pages say what the code does: kinds with number and senders, words of the stats page, reasons.
#![forbid(unsafe_code)]

use wire::{Kind, Role};

/// Every role but operator and stranger, whose rows would be the same for each kind.
const ROLES: &[Role] = &[
    Role::Ledger,
    Role::Capacity,
    Role::Gateway,
    Role::Zygote,
    Role::Console,
    Role::Model,
    Role::Net,
    Role::Cortex,
    Role::Witness,
    Role::User(30_000),
];

/// The document's word for the roles that may send a kind.
fn senders(kind: Kind) -> String {
    let mut names: Vec<&str> = ROLES
        .iter()
        .filter(|role| kind.allowed(**role))
        .map(|role| role.name())
        .collect();
    names.sort_unstable();
    match names.len() {
        0 => "nobody".to_owned(),
        n if n == ROLES.len() => "known".to_owned(),
        _ => names.join(", "),
    }
}

fn document() -> String {
    page("wire.md")
}

fn page(name: &str) -> String {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../docs");
    std::fs::read_to_string(path.join(name)).unwrap_or_else(|e| panic!("docs/{name}: {e}"))
}

#[test]
fn the_page_on_supervision_has_every_reason() {
    let text = page("supervision.md");
    for reason in wire::why::Reason::ALL {
        let (number, word, says) = (*reason as u16, reason.as_str(), reason.says());
        let row = format!("| {number} | `{word}` | {says} |");
        assert!(text.contains(&row), "{row}");
    }
}

#[test]
fn the_document_has_every_word_of_the_stats_page() {
    let text = document();
    for name in wire::stats::NAMES {
        let word = wire::stats::word(name).expect("a name of the table");
        assert!(text.contains(&format!(" {word} `{name}`")), "{word} {name}");
    }
}

#[test]
fn the_document_has_every_kind_with_its_number_and_senders() {
    let found: Vec<String> = document()
        .lines()
        .filter(|line| line.starts_with("| 0x"))
        .map(|line| line.split('|').take(4).collect::<Vec<_>>().join("|"))
        .collect();
    let expected: Vec<String> = Kind::ALL
        .iter()
        .map(|kind| {
            let number = *kind as u16;
            format!("| {number:#06x} | `{kind:?}` | {} ", senders(*kind))
        })
        .collect();
    assert_eq!(found, expected);
}
