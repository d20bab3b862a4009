//! Proofs over the tree: that a leaf is in it, and that one tree continues another.
//!
//! Creation follows the definitions of RFC 6962 sections 2.1.1 and 2.1.2 over perfect subtrees, whose
//! hashes the caller looks up; verification follows the other algorithms, of RFC 9162 sections 2.1.3.2
//! and 2.1.4.2, so that neither proves the other's mistakes.

use crate::Hash;
use crate::tree::{EMPTY_ROOT, parent};
use alloc::vec::Vec;

/// Hashes of one proof: a tree of 2^63 leaves has no deeper path.
pub const PROOF_HASHES_MAX: usize = 63;

/// A perfect subtree: 2^`level` leaves from leaf `index` * 2^`level` on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Node {
    /// Its height.
    pub level: u32,
    /// Its place among those of its height.
    pub index: u64,
}

impl Node {
    /// The leaves that it spans.
    #[must_use]
    pub fn leaves(self) -> core::ops::Range<u64> {
        let span = 1u64.checked_shl(self.level).unwrap_or(u64::MAX);
        let first = self.index.saturating_mul(span);
        first..first.saturating_add(span)
    }

    /// Its two halves; `None` of a leaf.
    #[must_use]
    pub fn children(self) -> Option<[Self; 2]> {
        let level = self.level.checked_sub(1)?;
        let index = self.index.checked_mul(2)?;
        let child = |index| Self { level, index };
        Some([child(index), child(index | 1)])
    }
}

/// Looks up the hash of a perfect subtree.
pub type Lookup<'l, E> = &'l mut dyn FnMut(Node) -> Result<Hash, E>;

/// Root of the tree of the first `size` leaves.
///
/// # Errors
/// As the look-up's.
pub fn root<E>(size: u64, node: Lookup<'_, E>) -> Result<Hash, E> {
    range_root(0, size, node)
}

/// Path of the leaf `index` in the tree of `size` leaves; `None` if it is not in it.
///
/// # Errors
/// As the look-up's.
pub fn inclusion<E>(index: u64, size: u64, node: Lookup<'_, E>) -> Result<Option<Vec<Hash>>, E> {
    if index >= size {
        return Ok(None);
    }
    let (mut start, mut end, mut path) = (0, size, Vec::new());
    while end - start > 1 {
        let middle = start + split(end - start);
        if index < middle {
            path.push(range_root(middle, end, node)?);
            end = middle;
        } else {
            path.push(range_root(start, middle, node)?);
            start = middle;
        }
    }
    path.reverse();
    Ok(Some(path))
}

/// Proof that the tree of `to` leaves continues that of `from`; `None` if `from` is larger.
///
/// # Errors
/// As the look-up's.
pub fn consistency<E>(from: u64, to: u64, node: Lookup<'_, E>) -> Result<Option<Vec<Hash>>, E> {
    if from > to {
        return Ok(None);
    }
    let mut path = Vec::new();
    if from == 0 || from == to {
        return Ok(Some(path));
    }
    let (mut start, mut end) = (0, to);
    while from != end {
        let middle = start + split(end - start);
        if from <= middle {
            path.push(range_root(middle, end, node)?);
            end = middle;
        } else {
            path.push(range_root(start, middle, node)?);
            start = middle;
        }
    }
    // The old tree's own root is known to who asks, unless its last subtree begins later.
    if start > 0 {
        path.push(range_root(start, end, node)?);
    }
    path.reverse();
    Ok(Some(path))
}

/// Largest power of two below `n`, which is at least 2.
fn split(n: u64) -> u64 {
    1 << (u64::BITS - 1 - (n - 1).leading_zeros())
}

/// Root over the leaves `start..end`, where `start` is where a subtree of the tree begins.
fn range_root<E>(mut start: u64, end: u64, node: Lookup<'_, E>) -> Result<Hash, E> {
    // Perfect subtrees from the left, each smaller than the one before.
    let mut peaks = Vec::new();
    while start < end {
        let level = u64::BITS - 1 - (end - start).leading_zeros();
        let index = start >> level;
        peaks.push(node(Node { level, index })?);
        start += 1 << level;
    }
    let mut peaks = peaks.iter().rev();
    let Some(last) = peaks.next() else {
        return Ok(EMPTY_ROOT);
    };
    Ok(peaks.fold(*last, |right, left| parent(left, &right)))
}

/// Whether `path` proves that `leaf` is leaf `index` of the tree of `size` leaves with this root.
#[must_use]
pub fn verify_inclusion(leaf: &Hash, index: u64, size: u64, path: &[Hash], root: &Hash) -> bool {
    if index >= size {
        return false;
    }
    let (mut at, mut last, mut hash) = (index, size - 1, *leaf);
    for sibling in path {
        if last == 0 {
            return false;
        }
        if at & 1 == 1 || at == last {
            hash = parent(sibling, &hash);
            while at & 1 == 0 && at != 0 {
                (at, last) = (at >> 1, last >> 1);
            }
        } else {
            hash = parent(&hash, sibling);
        }
        (at, last) = (at >> 1, last >> 1);
    }
    last == 0 && hash == *root
}

/// Whether `path` proves that the tree of `to` leaves continues that of `from`.
#[must_use]
pub fn verify_consistency(
    from: u64,
    to: u64,
    from_root: &Hash,
    to_root: &Hash,
    path: &[Hash],
) -> bool {
    if from > to {
        return false;
    }
    if from == to {
        return path.is_empty() && from_root == to_root;
    }
    if from == 0 {
        return path.is_empty() && *from_root == EMPTY_ROOT;
    }
    let (mut at, mut last) = (from - 1, to - 1);
    while at & 1 == 1 {
        (at, last) = (at >> 1, last >> 1);
    }
    let (first, rest) = match (from.is_power_of_two(), path.split_first()) {
        (true, Some(_)) => (from_root, path),
        (false, Some((first, rest))) => (first, rest),
        (_, None) => return false,
    };
    let (mut old, mut new) = (*first, *first);
    for hash in rest {
        if last == 0 {
            return false;
        }
        if at & 1 == 1 || at == last {
            old = parent(hash, &old);
            new = parent(hash, &new);
            while at & 1 == 0 && at != 0 {
                (at, last) = (at >> 1, last >> 1);
            }
        } else {
            new = parent(&new, hash);
        }
        (at, last) = (at >> 1, last >> 1);
    }
    last == 0 && old == *from_root && new == *to_root
}
