//! The block list: one hash for each 64 KiB, by which single blocks are checked and packages compared.
//!
//! Start with [`Blocks::verify_block`]. The list's own hash is checked once, by `Package::blocks`.

use core::ops::Range;

use crate::error::{Digest, Field, RtsError, head};
use crate::header::HEADER_BYTES;

/// The largest page of the two architectures, and a good unit of updates.
pub const BLOCK_BYTES: u64 = 65_536;
/// A hash in the list.
pub(crate) const HASH_BYTES: usize = 32;

/// The block list of a package and the bytes that it speaks of.
#[derive(Clone, Copy, Debug)]
pub struct Blocks<'a> {
    pub(crate) list: &'a [[u8; HASH_BYTES]],
    /// The package from byte 0 to the table.
    pub(crate) bytes: &'a [u8],
    pub(crate) tensors: (u64, u64),
}

impl Blocks<'_> {
    /// How many blocks there are.
    pub fn count(&self) -> u64 {
        self.list.len() as u64
    }

    /// The blocks that hold tensors.
    pub fn tensor_blocks(&self) -> Range<u64> {
        let (offset, end) = self.tensors;
        offset / BLOCK_BYTES..end.div_ceil(BLOCK_BYTES)
    }

    /// The hash in the list.
    pub fn expected(&self, index: u64) -> Option<Digest> {
        self.list
            .get(usize::try_from(index).ok()?)
            .copied()
            .map(Digest)
    }

    /// Hashes one block, at most 64 KiB, and compares it with the list.
    ///
    /// Errors: [`RtsError::Block`] where it differs; an index past the list differs from nothing and is one too.
    pub fn verify_block(&self, index: u64) -> Result<(), RtsError> {
        let found = block_hash(self.bytes, index);
        let expected = self.expected(index);
        if expected == Some(found) {
            return Ok(());
        }
        let part = if self.tensor_blocks().contains(&index) {
            "tensors"
        } else if index < self.tensor_blocks().start {
            "binary"
        } else {
            "added sections"
        };
        Err(RtsError::Block {
            index,
            at: index.saturating_mul(BLOCK_BYTES),
            part: Field::from(part),
            found: head(&found),
            expected: head(&expected.unwrap_or_default()),
        })
    }
}

/// The hash of block `index` of a package that begins at byte 0 of `bytes`; the header is left out of the first.
pub fn block_hash(bytes: &[u8], index: u64) -> Digest {
    let start = usize::try_from(index.saturating_mul(BLOCK_BYTES)).unwrap_or(usize::MAX);
    let end = start.saturating_add(BLOCK_BYTES as usize).min(bytes.len());
    let start = start.max(HEADER_BYTES);
    Digest::of(bytes.get(start..end).unwrap_or_default())
}
