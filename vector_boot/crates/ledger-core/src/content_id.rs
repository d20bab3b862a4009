//! The content id of GATOS commits: BLAKE3 of the bytes that bincode 2 gives with `config::standard()`.
//!
//! bincode is no longer maintained, so its few rules that this type needs are restated: fields in order and without
//! names, fixed arrays as they are, `Option` as one byte and its value, lengths and integers as variable-length numbers.
//! The bytes that the tests hold were made by bincode 2.0.1.

use crate::Hash;
use alloc::vec::Vec;

/// What a GATOS commit is named by; its signatures are not part of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CommitCore<'a> {
    /// The commit before it.
    pub parent: Option<Hash>,
    /// The tree that it commits to.
    pub tree: Hash,
    /// What it says for people.
    pub message: &'a str,
    /// Seconds since 1970 in UTC.
    pub timestamp: u64,
}

impl CommitCore<'_> {
    /// The canonical bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(96 + self.message.len());
        match &self.parent {
            None => out.push(0),
            Some(parent) => {
                out.push(1);
                out.extend_from_slice(parent);
            }
        }
        out.extend_from_slice(&self.tree);
        push_number(&mut out, self.message.len() as u64);
        out.extend_from_slice(self.message.as_bytes());
        push_number(&mut out, self.timestamp);
        out
    }

    /// The content id.
    #[must_use]
    pub fn content_id(&self) -> Hash {
        *blake3::hash(&self.encode()).as_bytes()
    }
}

/// bincode 2's variable-length number: up to 250 as itself, else a byte that says the width, then little-endian.
fn push_number(out: &mut Vec<u8>, n: u64) {
    if let Ok(small @ 0..=250) = u8::try_from(n) {
        out.push(small);
    } else if let Ok(n) = u16::try_from(n) {
        out.push(251);
        out.extend_from_slice(&n.to_le_bytes());
    } else if let Ok(n) = u32::try_from(n) {
        out.push(252);
        out.extend_from_slice(&n.to_le_bytes());
    } else {
        out.push(253);
        out.extend_from_slice(&n.to_le_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::format;
    use std::string::String;

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|b| format!("{b:02x}")).collect()
    }

    fn core(parent: Option<Hash>, message: &str, timestamp: u64) -> CommitCore<'_> {
        CommitCore {
            parent,
            tree: [0x22; 32],
            message,
            timestamp,
        }
    }

    /// The fixture of GATOS's own tests (crate `gatos-ledger-core`), with and without a parent.
    #[test]
    fn the_published_fixture_has_its_bytes_and_its_id() {
        let tree = "22".repeat(32);
        let with = core(Some([0x11; 32]), "hello", 1_725_000_000);
        let parent = "11".repeat(32);
        assert_eq!(
            hex(&with.encode()),
            format!("01{parent}{tree}0568656c6c6ffc4069d166")
        );
        assert_eq!(
            hex(&with.content_id()),
            "b2682bea5ec89f9f9ff8ea3b1013359f4f45e29ea7d8af044831e41c52c73f1f"
        );
        let without = core(None, "hello", 1_725_000_000);
        assert_eq!(
            hex(&without.encode()),
            format!("00{tree}0568656c6c6ffc4069d166")
        );
        assert_eq!(
            hex(&without.content_id()),
            "0a9ef61fbb2f44f97fed8c0ee6fae40fdd1716784f6702a13532387b5663c395"
        );
    }

    /// Ids of bincode 2.0.1 on both sides of every width.
    #[test]
    fn numbers_take_the_width_that_bincode_gives_them() {
        for (timestamp, tail, id) in [
            (
                250,
                "fa",
                "2cf1c6d84e3b852afdbd98f36ef13fc58686b63d68152ebdc2961e615f1977f9",
            ),
            (
                251,
                "fbfb00",
                "5b5fa2ae21ecbc04d5c27a32a72bb7f1ca623dc39ab8d588c44d778bf3cc75f8",
            ),
            (
                65_535,
                "fbffff",
                "2ee048114cdf9e120c4466cb427a7667fbd0d5fab4f0604cabbf76eed31e908d",
            ),
            (
                65_536,
                "fc00000100",
                "9e789314a74b10d1ac900bae33756219ff7458e0ce0e85e10b419385f2b61249",
            ),
            (
                1 << 32,
                "fd0000000001000000",
                "abb3707eb68c8339ee0a8f510d67eef0984afaae815f9fad77ddefc8efa48ae8",
            ),
        ] {
            let core = core(None, "x", timestamp);
            assert!(hex(&core.encode()).ends_with(&format!("0178{tail}")));
            assert_eq!(hex(&core.content_id()), id, "{timestamp}");
        }
        let long = "é".repeat(200);
        assert_eq!(
            hex(&core(None, &long, 7).content_id()),
            "bfbf2a1c7e85b6394e32293d3073a71d4ce2309e7f9d94ae2b76ae36deb66bfd"
        );
    }
}
