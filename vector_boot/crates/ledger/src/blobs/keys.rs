//! The file that holds an object's wrapped keys: one page, so that it can be overwritten where it lies.
//!
//! `VBBKEYS1`, count u32 little-endian, four zeros, the object's name [32], then for each recipient its X25519 key [32]
//! and its wrapped key [80]; zeros to 4096 bytes. The ledger itself is the first recipient.

use super::seal::ObjectKey;
use crate::files::{self, There, Writing};
use crate::objects::FolderStore;
use crate::refusal::Refusal;
use crate::wrap::{KeyPair, WRAPPED_BYTES};
use ledger_core::Hash;
use ledger_core::blob::RECIPIENTS_MAX;
use ledger_core::store::ObjectId;
use std::fs::File;
use std::io::{self, Read, Write};
use std::path::Path;

/// A page: smaller files may lie inside a file system's own structures, whose journal keeps copies.
pub const FILE_BYTES: usize = 4096;
const MAGIC: &[u8; 8] = b"VBBKEYS1";
const HEADER_BYTES: usize = 48;
const ENTRY_BYTES: usize = 32 + WRAPPED_BYTES;
const _: () = assert!(HEADER_BYTES + (RECIPIENTS_MAX + 1) * ENTRY_BYTES <= FILE_BYTES);

/// The bytes of a key file.
pub struct KeyFile(Vec<u8>);

impl KeyFile {
    /// Wraps an object's key for the ledger and its recipients.
    ///
    /// # Errors
    /// `BAD_REQUEST` for a recipient that is no key.
    pub fn wrap(
        key: &ObjectKey,
        object: &ObjectId,
        own: &KeyPair,
        recipients: &[[u8; 32]],
    ) -> Result<Self, Refusal> {
        let count = u32::try_from(recipients.len() + 1).unwrap_or(u32::MAX);
        let mut bytes = Vec::with_capacity(FILE_BYTES);
        bytes.extend_from_slice(MAGIC);
        bytes.extend_from_slice(&count.to_le_bytes());
        bytes.extend_from_slice(&[0; 4]);
        bytes.extend_from_slice(&object.0);
        for recipient in std::iter::once(&own.public).chain(recipients) {
            bytes.extend_from_slice(recipient);
            bytes.extend_from_slice(&key.wrap(recipient, object)?);
        }
        bytes.resize(FILE_BYTES, 0);
        Ok(Self(bytes))
    }

    /// Reads the file of an object; `InvalidData` if it is not the one whose hash the log says.
    ///
    /// # Errors
    /// As the system's.
    pub fn read(folder: &FolderStore, object: &ObjectId, hash: &Hash) -> io::Result<Self> {
        let mut bytes = Vec::with_capacity(FILE_BYTES);
        let file = File::open(folder.path(object))?;
        file.take(FILE_BYTES as u64 + 1).read_to_end(&mut bytes)?;
        let this = Self(bytes);
        match this.hash() == *hash {
            true => Ok(this),
            false => Err(io::ErrorKind::InvalidData.into()),
        }
    }

    /// Writes it, durably.
    ///
    /// # Errors
    /// As the system's.
    pub fn keep(&self, folder: &FolderStore, object: &ObjectId) -> io::Result<()> {
        folder.put_beside(object, &self.0)
    }

    /// What the log says of it: wrapped keys are long and random, so nothing follows from the hash.
    #[must_use]
    pub fn hash(&self) -> Hash {
        *blake3::hash(&self.0).as_bytes()
    }

    /// Each recipient with its wrapped key, the ledger first.
    pub fn entries(&self) -> impl Iterator<Item = ([u8; 32], [u8; WRAPPED_BYTES])> {
        let count = self.0.get(8..12).and_then(|b| b.try_into().ok());
        let count = u32::from_le_bytes(count.unwrap_or_default());
        let entries = self.0.get(HEADER_BYTES..).unwrap_or_default();
        entries
            .chunks_exact(ENTRY_BYTES)
            .take(usize::try_from(count).unwrap_or(0))
            .filter_map(|entry| Some((*entry.first_chunk()?, *entry.last_chunk()?)))
    }

    /// The object's key.
    #[must_use]
    pub fn open(&self, object: &ObjectId, own: &KeyPair) -> Option<ObjectKey> {
        let (_, wrapped) = self.entries().find(|(to, _)| *to == own.public)?;
        ObjectKey::unwrap(own, &wrapped, object)
    }
}

/// Destroys an object's keys: overwrites the file where it lies, then deletes it, each durably. Whether there were any.
///
/// # Errors
/// As the system's; then some of it may be left, and must be tried again.
pub fn destroy(folder: &FolderStore, object: &ObjectId) -> io::Result<bool> {
    let path = folder.path(object);
    let mut file = match Writing::begin(&path, There::File) {
        Ok(file) => file,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(e) => return Err(e),
    };
    file.write_all(&[0; FILE_BYTES])?;
    file.sync()?;
    files::remove(&path)?;
    crate::objects::sync_folder(path.parent().unwrap_or(Path::new(".")))?;
    Ok(true)
}
