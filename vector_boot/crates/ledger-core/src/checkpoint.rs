//! Checkpoints: how large a log's tree is and what its root is, as C2SP `tlog-checkpoint` has them.
//!
//! Source: <https://c2sp.org/tlog-checkpoint>. Extension lines are refused: this log writes none,
//! and nobody could audit them.

use crate::Hash;
use crate::note::{Note, NoteError, VerifierKey};
use alloc::format;
use alloc::string::{String, ToString};
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use core::fmt;

/// Largest tree: what readers with signed numbers take.
pub const TREE_SIZE_MAX: u64 = i64::MAX as u64;

/// Why a text is no checkpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CheckpointError {
    /// It is no note, or its signature does not hold.
    Note(NoteError),
    /// Not three lines.
    Lines,
    /// The first line is empty.
    Origin,
    /// The second is no decimal number without leading zeros.
    Size,
    /// The third is not 32 bytes in base64.
    Root,
    /// The signing key has another name than the origin.
    OtherOrigin,
}

impl fmt::Display for CheckpointError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Note(why) => write!(f, "checkpoint: {why}"),
            Self::Lines => f.write_str("checkpoint: not three lines of origin, size and root"),
            Self::Origin => f.write_str("checkpoint: origin is empty"),
            Self::Size => f.write_str("checkpoint: size is no decimal number"),
            Self::Root => f.write_str("checkpoint: root is not 32 bytes in base64"),
            Self::OtherOrigin => f.write_str("checkpoint: key is not named like the origin"),
        }
    }
}

impl From<NoteError> for CheckpointError {
    fn from(why: NoteError) -> Self {
        Self::Note(why)
    }
}

/// A tree's head.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checkpoint {
    /// Which log.
    pub origin: String,
    /// Leaves of its tree.
    pub size: u64,
    /// Root of its tree.
    pub root: Hash,
}

impl Checkpoint {
    /// Reads a note's text.
    ///
    /// # Errors
    /// [`CheckpointError`].
    pub fn parse(text: &str) -> Result<Self, CheckpointError> {
        let body = text.strip_suffix('\n').ok_or(CheckpointError::Lines)?;
        let mut lines = body.split('\n');
        let (Some(origin), Some(size), Some(root), None) =
            (lines.next(), lines.next(), lines.next(), lines.next())
        else {
            return Err(CheckpointError::Lines);
        };
        if origin.is_empty() {
            return Err(CheckpointError::Origin);
        }
        Ok(Self {
            origin: origin.to_string(),
            size: decimal(size).ok_or(CheckpointError::Size)?,
            root: hash_of_text(root).ok_or(CheckpointError::Root)?,
        })
    }

    /// The text that is signed.
    #[must_use]
    pub fn text(&self) -> String {
        format!(
            "{}\n{}\n{}\n",
            self.origin,
            self.size,
            hash_text(&self.root)
        )
    }

    /// The signed note; see [`Note::sign`].
    ///
    /// # Errors
    /// If the origin holds a control character.
    pub fn sign(
        &self,
        key: &VerifierKey,
        sign: impl FnOnce(&[u8]) -> [u8; 64],
    ) -> Result<Note, NoteError> {
        Note::sign(&self.text(), key, sign)
    }

    /// Reads a signed note and checks the log's signature: the key must have the origin's name.
    ///
    /// # Errors
    /// [`CheckpointError`].
    pub fn open(note: &Note, key: &VerifierKey) -> Result<Self, CheckpointError> {
        note.verify(key)?;
        let this = Self::parse(note.text())?;
        if this.origin != key.name() {
            return Err(CheckpointError::OtherOrigin);
        }
        Ok(this)
    }
}

/// A hash in base64, as checkpoints and proofs hold it.
#[must_use]
pub fn hash_text(hash: &Hash) -> String {
    BASE64.encode(hash)
}

/// Reads a hash in base64.
#[must_use]
pub fn hash_of_text(text: &str) -> Option<Hash> {
    BASE64.decode(text).ok()?.try_into().ok()
}

/// Reads a decimal number without leading zeros, at most [`TREE_SIZE_MAX`].
#[must_use]
pub fn decimal(text: &str) -> Option<u64> {
    let canonical = text == "0" || !text.starts_with('0');
    if !canonical || text.is_empty() || !text.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    text.parse().ok().filter(|n| *n <= TREE_SIZE_MAX)
}
