//! Whether `docs/wire.md` says what the servers' limits are.
#![forbid(unsafe_code)]

use ipc::door::{BAD_FRAMES_MAX, HELLO_LIMIT, Limits};

/// A number as the documents write it.
fn grouped(n: usize) -> String {
    let digits = n.to_string();
    let groups: Vec<&str> = digits
        .as_bytes()
        .rchunks(3)
        .rev()
        .map(|group| std::str::from_utf8(group).expect("digits"))
        .collect();
    groups.join(",")
}

fn row(server: &str, limits: Limits, frame_bytes: usize) -> String {
    let Limits {
        all,
        kept,
        users,
        of_uid,
    } = limits;
    let (hello, frame) = (HELLO_LIMIT.as_secs(), grouped(frame_bytes));
    format!(
        "| {server} | {all} | {kept} | {users} | {of_uid} | {hello} s | {frame} bytes | {BAD_FRAMES_MAX} |"
    )
}

#[test]
fn the_document_has_the_limits_of_every_server() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/wire.md");
    let text = std::fs::read_to_string(path).expect("docs/wire.md");
    let packet = wire::PACKET_BYTES_MAX;
    for expected in [
        row(
            "`init.sock`",
            init::control::LIMITS,
            init::control::PACKET_BYTES,
        ),
        row(
            "`ledger.wire` and `ledger.sock`",
            ledger::visitors::LIMITS,
            packet,
        ),
        row("`capacity.sock`", capacity::serve::LIMITS, packet),
    ] {
        assert!(text.lines().any(|line| line == expected), "{expected}");
    }
}
