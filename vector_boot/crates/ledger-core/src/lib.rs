//! What proofs share: events, frames, the hash chain, the tree and their verification.
//!
//! Owns: the bytes of a log (`docs/ledger-format.md` says them field by field), the rules of what an
//! event may hold, and one streaming state machine that checks them, used by recovery and by
//! `verify` alike. A verifier needs nothing else.
//!
//! Never here: files, clocks, randomness, threads. Start with [`Verifier`] and [`GroupBuilder`].
#![no_std]
#![forbid(unsafe_code)]
#![deny(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]
#![cfg_attr(
    test,
    allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)
)]

extern crate alloc;
#[cfg(test)]
extern crate std;

mod content_id;
mod epoch;
mod event;
mod frame;
mod group;
mod inspect;
mod layout;
mod meta;
mod tree;
mod verify;

pub mod blob;
pub mod bus;
pub mod checkpoint;
pub mod folds;
pub mod fuzz;
pub mod jobs;
pub mod json;
pub mod keys;
pub mod kinds;
pub mod note;
pub mod policy;
pub mod proof;
pub mod rules;
pub mod sealed;
pub mod serial;
pub mod share;
pub mod store;
pub mod tile;
pub mod time;
pub mod tlog_proof;
pub mod ulid;

pub use content_id::CommitCore;
pub use epoch::{
    Anchor, COMPACTED, Compacted, EPOCH_OPENED, Gathered, LEDGER_ACTOR, LEDGER_NS, LEDGER_TENANT,
    SUMMARY, SummaryPiece,
};
pub use event::{Body, EventId, Origin};
pub use frame::{
    ENCODING_POSTCARD, FRAME_ALIGN, HEADER_BYTES, KIND_EVENT, KIND_GROUP, Opener, Peek, padded,
    peek,
};
pub use group::{
    Committed, GROUP_FRAME_BYTES, GroupBuilder, GroupFrame, GroupMark, Head, group_frame_end,
};
pub use inspect::{Inspected, Inspector};
pub use layout::{
    FIRST_EPOCH, GROUP_BYTES_MAX, Place, SECTOR_BYTES_MAX, SECTOR_BYTES_MIN, SEGMENT_BYTES_MAX,
    SEGMENT_BYTES_MIN, SEGMENT_HEADER_BYTES, SEGMENTS_OFFSET, SUPERBLOCK_BYTES, SegmentHeader,
    Superblock,
};
pub use meta::Meta;
pub use tree::{
    COMMITMENT_BYTES, Commitment, CompactRange, EMPTY_ROOT, Leaf, commitment, leaf_hash, parent,
    tenant_key, tenant_tag,
};
pub use verify::{Fault, FaultKind, Step, Verifier};

/// A chain value, a commit id, a tree hash.
pub type Hash = [u8; 32];

/// Lower-case hex.
#[must_use]
pub fn hex(bytes: &[u8]) -> alloc::string::String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let digits = bytes.iter().flat_map(|b| [b >> 4, b & 15]);
    digits
        .filter_map(|d| DIGITS.get(usize::from(d)))
        .map(|d| char::from(*d))
        .collect()
}
