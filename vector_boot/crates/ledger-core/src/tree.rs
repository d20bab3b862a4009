//! The RFC 6962 tree over commitments, as a compact range: what its next root needs and no more.

use crate::Hash;
use crate::frame::Writer;
use alloc::vec::Vec;
use sha2::{Digest, Sha256};

/// Root of the empty tree: SHA-256 of nothing.
pub const EMPTY_ROOT: Hash = [
    0xe3, 0xb0, 0xc4, 0x42, 0x98, 0xfc, 0x1c, 0x14, 0x9a, 0xfb, 0xf4, 0xc8, 0x99, 0x6f, 0xb9, 0x24,
    0x27, 0xae, 0x41, 0xe4, 0x64, 0x9b, 0x93, 0x4c, 0xa4, 0x95, 0x99, 0x1b, 0x78, 0x52, 0xb8, 0x55,
];

/// Bytes of a leaf's commitment.
pub const COMMITMENT_BYTES: usize = 64;
/// What the tree says of one event; its hash is the leaf.
pub type Commitment = [u8; COMMITMENT_BYTES];
/// BLAKE3 derive_key context of a body.
pub(crate) const BODY_CONTEXT: &str = "vb-ledger-body v1";
const TENANT_CONTEXT: &str = "vb-ledger-tenant v1";

/// One event in the tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Leaf {
    /// What is said of it.
    pub entry: Commitment,
    /// The leaf's hash.
    pub hash: Hash,
}

/// Roots of the perfect subtrees of a tree, largest first.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CompactRange {
    size: u64,
    peaks: Vec<Hash>,
}

impl CompactRange {
    /// Number of leaves.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.size
    }

    /// A range from what [`Self::peaks`] said, if there are as many as the size needs.
    #[must_use]
    pub fn from_peaks(size: u64, peaks: Vec<Hash>) -> Option<Self> {
        (peaks.len() == size.count_ones() as usize).then_some(Self { size, peaks })
    }

    /// Roots of its perfect subtrees, largest first.
    #[must_use]
    pub fn peaks(&self) -> &[Hash] {
        &self.peaks
    }

    /// The hash of a node that is one of its perfect subtrees.
    #[must_use]
    pub fn node(&self, node: crate::proof::Node) -> Option<Hash> {
        let bit = 1u64.checked_shl(node.level)?;
        let above = self.size.checked_shr(node.level)?;
        // The subtree of a bit stands behind those of the bits above it.
        let here = self.size & bit != 0 && node.index.checked_add(1) == Some(above);
        let at = (self.size & !(bit | (bit - 1))).count_ones();
        self.peaks
            .get(usize::try_from(at).ok()?)
            .copied()
            .filter(|_| here)
    }

    /// Appends one leaf and returns its hash.
    pub fn push(&mut self, commitment: &Commitment) -> Hash {
        let leaf = leaf_hash(commitment);
        self.push_leaf(leaf);
        leaf
    }

    /// Appends one leaf by its hash.
    pub fn push_leaf(&mut self, leaf: Hash) {
        let mut node = leaf;
        // As many subtrees close as the old size has trailing ones.
        for _ in 0..self.size.trailing_ones() {
            if let Some(left) = self.peaks.pop() {
                node = parent(&left, &node);
            }
        }
        self.peaks.push(node);
        self.size += 1;
    }

    /// The tree's root, RFC 6962 section 2.1.
    #[must_use]
    pub fn root(&self) -> Hash {
        let mut peaks = self.peaks.iter().rev();
        let Some(last) = peaks.next() else {
            return EMPTY_ROOT;
        };
        peaks.fold(*last, |right, left| parent(left, &right))
    }
}

/// Hash of a leaf, RFC 6962 section 2.1.
#[must_use]
pub fn leaf_hash(entry: &[u8]) -> Hash {
    Sha256::new()
        .chain_update([0])
        .chain_update(entry)
        .finalize()
        .into()
}

/// Hash of a node over its two children, RFC 6962 section 2.1.
#[must_use]
pub fn parent(left: &Hash, right: &Hash) -> Hash {
    Sha256::new()
        .chain_update([1])
        .chain_update(left)
        .chain_update(right)
        .finalize()
        .into()
}

/// A tenant's key, exported to that tenant's auditor: it recognises the tenant's leaves and no others.
#[must_use]
pub fn tenant_key(tag_key: &[u8; 32], tenant_id: &str) -> Hash {
    let mut hasher = blake3::Hasher::new_keyed(tag_key);
    hasher.update(TENANT_CONTEXT.as_bytes());
    hasher.update(tenant_id.as_bytes());
    *hasher.finalize().as_bytes()
}

/// The tag of one event under its tenant's key. It depends on the id, so that without the key two
/// leaves of one tenant cannot be linked.
#[must_use]
pub fn tenant_tag(tenant_key: &Hash, id: u64) -> [u8; 8] {
    let hash = blake3::keyed_hash(tenant_key, &id.to_le_bytes());
    let mut tag = [0; 8];
    tag.iter_mut()
        .zip(hash.as_bytes())
        .for_each(|(t, h)| *t = *h);
    tag
}

/// A leaf: `id u64, chain value [32], tenant tag [8], first 16 bytes of the body's hash`. The chain
/// value binds the body with all its 256 bits; the short hash is for who has the body alone.
#[must_use]
pub fn commitment(id: u64, chain: &Hash, tag: &[u8; 8], body: &[u8]) -> Commitment {
    commitment_of(id, chain, tag, &blake3::derive_key(BODY_CONTEXT, body))
}

/// [`commitment`] from the whole hash of a body.
pub(crate) fn commitment_of(id: u64, chain: &Hash, tag: &[u8; 8], body: &Hash) -> Commitment {
    let mut out = [0; COMMITMENT_BYTES];
    let mut w = Writer(&mut out);
    w.put(&id.to_le_bytes());
    w.put(chain);
    w.put(tag);
    w.put(body.first_chunk::<16>().unwrap_or(&[0; 16]));
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// RFC 6962 section 2.1, word for word.
    fn oracle(leaves: &[[u8; 64]]) -> Hash {
        match leaves {
            [] => Sha256::digest([]).into(),
            [one] => Sha256::new()
                .chain_update([0])
                .chain_update(one)
                .finalize()
                .into(),
            many => {
                let k = many.len().next_power_of_two() / 2;
                parent(&oracle(&many[..k]), &oracle(&many[k..]))
            }
        }
    }

    proptest! {
        #[test]
        fn roots_agree_with_the_definition(leaves in proptest::collection::vec(any::<[u8; 32]>(), 0..70)) {
            let leaves: Vec<[u8; 64]> = leaves.iter().map(|h| commitment(1, h, &[0; 8], b"")).collect();
            let mut range = CompactRange::default();
            for n in 0..=leaves.len() {
                prop_assert_eq!(range.root(), oracle(&leaves[..n]));
                if let Some(leaf) = leaves.get(n) {
                    range.push(leaf);
                }
            }
        }
    }

    #[test]
    fn tags_differ_by_tenant_and_by_event() {
        let (a, b) = (tenant_key(&[1; 32], "a"), tenant_key(&[1; 32], "b"));
        assert_ne!(tenant_tag(&a, 1), tenant_tag(&b, 1));
        assert_ne!(tenant_tag(&a, 1), tenant_tag(&a, 2));
        assert_ne!(tenant_key(&[2; 32], "a"), a);
    }
}
