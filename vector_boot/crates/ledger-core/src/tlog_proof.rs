//! A proof of inclusion as one text that is checked offline, as C2SP `tlog-proof` has it.
//!
//! The extra line holds the entry, 64 bytes: the leaf's hash is made from it, so it is proven with it.
//! Source: <https://c2sp.org/tlog-proof>.

use crate::Hash;
use crate::checkpoint::{Checkpoint, CheckpointError, decimal, hash_of_text, hash_text};
use crate::note::{Note, VerifierKey};
use crate::proof::{PROOF_HASHES_MAX, verify_inclusion};
use crate::tree::{COMMITMENT_BYTES, Commitment, leaf_hash};
use alloc::vec::Vec;
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use core::fmt;

const FIRST_LINE: &str = "c2sp.org/tlog-proof@v1";

/// Why a text proves nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TlogProofError {
    /// It is no proof of this form.
    Form(&'static str),
    /// Its checkpoint.
    Checkpoint(CheckpointError),
    /// The path does not lead from the entry to the checkpoint's root.
    Path,
    /// The entry says another id than its place in the tree.
    Index,
}

impl fmt::Display for TlogProofError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Form(what) => write!(f, "proof: {what}"),
            Self::Checkpoint(why) => write!(f, "{why}"),
            Self::Path => f.write_str("proof: path does not lead to the checkpoint's root"),
            Self::Index => f.write_str("proof: entry and index differ"),
        }
    }
}

impl From<CheckpointError> for TlogProofError {
    fn from(why: CheckpointError) -> Self {
        Self::Checkpoint(why)
    }
}

/// A proof with all that it needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlogProof {
    /// What the tree says of the event.
    pub entry: Commitment,
    /// Its leaf, from 0 on: the event's id less one.
    pub index: u64,
    /// From the leaf's sibling up.
    pub path: Vec<Hash>,
    /// The log's checkpoint, with all its signatures.
    pub checkpoint: Note,
}

/// What a proof says, once it holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Proven {
    /// The event.
    pub event_id: u64,
    /// Its chain value, which binds every byte of it and of all before.
    pub commit_id: Hash,
    /// The tree that it is in.
    pub checkpoint: Checkpoint,
}

impl TlogProof {
    /// Reads a whole proof.
    ///
    /// # Errors
    /// [`TlogProofError::Form`], [`TlogProofError::Checkpoint`]; nothing is checked yet.
    pub fn parse(text: &str) -> Result<Self, TlogProofError> {
        let form = TlogProofError::Form;
        let (head, note) = text
            .split_once("\n\n")
            .ok_or(form("no blank line before the checkpoint"))?;
        let mut lines = head.split('\n');
        if lines.next() != Some(FIRST_LINE) {
            return Err(form("first line is not c2sp.org/tlog-proof@v1"));
        }
        let mut word = |mark: &str| lines.next()?.strip_prefix(mark)?.strip_prefix(' ');
        let entry = word("extra")
            .and_then(|encoded| BASE64.decode(encoded).ok())
            .and_then(|bytes| Commitment::try_from(bytes).ok())
            .ok_or(form("second line is not extra and 64 bytes of entry"))?;
        let index = word("index")
            .and_then(decimal)
            .ok_or(form("third line is not index and a number"))?;
        let mut path = Vec::new();
        for line in lines {
            if path.len() == PROOF_HASHES_MAX {
                return Err(form("more than 63 hashes"));
            }
            path.push(hash_of_text(line).ok_or(form("a line is not a hash in base64"))?);
        }
        let checkpoint = Note::parse(note).map_err(CheckpointError::Note)?;
        Ok(Self {
            entry,
            index,
            path,
            checkpoint,
        })
    }

    /// Checks it against the log's key.
    ///
    /// # Errors
    /// [`TlogProofError`].
    pub fn verify(&self, key: &VerifierKey) -> Result<Proven, TlogProofError> {
        let checkpoint = Checkpoint::open(&self.checkpoint, key)?;
        let leaf = leaf_hash(&self.entry);
        let (size, root) = (checkpoint.size, &checkpoint.root);
        if !verify_inclusion(&leaf, self.index, size, &self.path, root) {
            return Err(TlogProofError::Path);
        }
        let (event_id, commit_id) = entry_fields(&self.entry).ok_or(TlogProofError::Index)?;
        if event_id.checked_sub(1) != Some(self.index) {
            return Err(TlogProofError::Index);
        }
        Ok(Proven {
            event_id,
            commit_id,
            checkpoint,
        })
    }
}

/// Id and chain value that an entry begins with.
fn entry_fields(entry: &[u8; COMMITMENT_BYTES]) -> Option<(u64, Hash)> {
    let (id, rest) = entry.split_first_chunk::<8>()?;
    Some((u64::from_le_bytes(*id), *rest.first_chunk::<32>()?))
}

impl fmt::Display for TlogProof {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{FIRST_LINE}\nextra {}", BASE64.encode(self.entry))?;
        writeln!(f, "index {}", self.index)?;
        for hash in &self.path {
            writeln!(f, "{}", hash_text(hash))?;
        }
        write!(f, "\n{}", self.checkpoint)
    }
}
