//! The bytes of a ring's header, of a slot with its answer and of a generation, pinned by files under
//! `tests/golden/evolution/`; and whether `docs/evolution.md` has every verdict and every place of the layout.
//! `VB_BLESS=1` writes the files anew.
#![forbid(unsafe_code)]

use std::path::PathBuf;
use wire::evolution::ring::{self, Answer, Proposal};
use wire::evolution::{Verdict, generation};

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../..")
}

fn pinned(name: &str, bytes: &[u8]) {
    let folder = root().join("tests/golden/evolution");
    let path = folder.join(name);
    if std::env::var_os("VB_BLESS").is_some() {
        std::fs::create_dir_all(&folder).expect("make the folder");
        std::fs::write(&path, bytes).expect("write a golden file");
    }
    let golden = std::fs::read(&path).unwrap_or_else(|e| panic!("{name}: {e}"));
    assert!(golden == bytes, "{name}: the layout changed");
}

#[test]
fn the_header_of_a_ring_has_the_bytes_that_are_pinned() {
    pinned("ring-header.bin", &ring::header(0x0102_0304_0506_0708));
}

#[test]
fn a_slot_with_its_answer_has_the_bytes_that_are_pinned() {
    let proposal = Proposal {
        id: 0x1122_3344_5566_7788,
        base_generation: 41,
        tensor: "policy.b2",
        offset: 8,
        confidence: 0.875,
        old_blake3: [0xab; 32],
        payload_blake3: [0xcd; 32],
        payload: &[1, 2, 3, 4, 5, 6, 7, 8],
    };
    let mut slot = [0; ring::SLOT_BYTES];
    proposal.write(&mut slot).expect("it fits");
    let answer = Answer {
        id: proposal.id,
        generation: 42,
        verdict: Verdict::Accepted,
        number: 7,
    };
    slot[ring::ANSWER_AT..][..ring::ANSWER_BYTES].copy_from_slice(&answer.bytes());
    pinned("slot.bin", &slot);
    assert_eq!(Proposal::read(&slot), Ok(proposal));
    assert_eq!(Answer::read(&slot[ring::ANSWER_AT..]), answer);
}

#[test]
fn a_generation_has_the_bytes_that_are_pinned() {
    let range = generation::Range {
        tensor: "blk.0.attn_q.weight",
        offset: 18,
        payload: &[9; 18],
    };
    let total = generation::RANGES_AT + generation::RANGE_HEAD_BYTES + 24;
    let header = generation::header(42, total as u64, &[0xba; 32], &[0xc0; 32], 1);
    let mut bytes = header.to_vec();
    for place in 0..generation::POLICY_VALUES {
        bytes.extend_from_slice(&(place as f32 / 16.0).to_le_bytes());
    }
    bytes.extend_from_slice(&generation::range_head(&range));
    bytes.extend_from_slice(range.payload);
    bytes.resize(total, 0);
    pinned("generation.bin", &bytes);
    let read = generation::Generation::parse(&bytes).expect("it holds");
    assert_eq!(read.ranges().next(), Some(range));
}

#[test]
fn the_page_has_every_verdict_and_the_sizes() {
    let page = std::fs::read_to_string(root().join("docs/evolution.md")).expect("the page");
    for verdict in Verdict::ALL {
        let (number, word, says) = (*verdict as u16, verdict.as_str(), verdict.says());
        let row = format!("| {number} | `{word}` | {says} |");
        assert!(page.contains(&row), "{row}");
    }
    for (at, what) in [
        (ring::SUBMITTED_AT, "u64 | mutations submitted so far"),
        (ring::ANSWERED_AT, "u64 | mutations answered so far"),
        (ring::GENERATION_AT, "u64 | current generation"),
        (ring::STATE_AT, "u64 | state: 0 open, 1 closed"),
        (ring::ANSWER_AT, "u64 | answer: the id"),
        (ring::PAYLOAD_AT, "8192 bytes | payload"),
        (generation::RANGES_AT, "| the changed ranges"),
    ] {
        let row = format!("| {at} | {what}");
        assert!(page.contains(&row), "{row}");
    }
    assert_eq!(ring::BYTES, 544_768);
    assert_eq!(ring::SLOT_BYTES, 8448);
}
