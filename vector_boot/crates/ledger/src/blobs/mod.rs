//! Blobs: encrypted objects in the ledger's folder, pointed to by events.
//!
//! Owns `objects/` there: `blake3/aa/HEX` the ciphertexts by their content, `keys/aa/HEX` the wrapped keys of each, and
//! `log`, which says whose they are. The order makes every crash harmless: object and keys are durable before the event
//! that points to them, and are destroyed after the event that lets go of them. So what a pointer on the log needs is
//! always there, and what a crash leaves is never pointed to: [`Blobs::collect`] destroys it.
//!
//! Never here: a key or plain text on the log or in an error. Start with [`Blobs::begin`] and [`Blobs::read`].

mod belongs;
mod keys;
mod seal;
mod shelf;

pub use belongs::Belongs;
pub use shelf::{Shelf, collect, finish_interrupted, ledger_folder, needed};

use crate::objects::{FolderStore, Incoming, make_folder, sync_folder};
use crate::refusal::Refusal;
use crate::wrap::KeyPair;
use keys::KeyFile;
use ledger_core::Hash;
use ledger_core::blob::{BLOB_BYTES_MAX, Entry, Manifest, No, RECIPIENTS_MAX, Unfinished, Used};
use ledger_core::store::{ObjectId, ObjectStore, StoreError};
use seal::{ObjectKey, Sealer};
use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Name of the folder of objects in the ledger's folder.
pub const FOLDER: &str = "objects";
/// Of the file system, what blobs leave to keys, tiles and the index.
const RESERVE_PART: u64 = 8;
/// More than this need not stay free, however large the disk.
const RESERVE_BYTES_MAX: u64 = 256 << 20;

/// The blobs of one ledger.
pub struct Blobs {
    root: PathBuf,
    objects: FolderStore,
    keys: FolderStore,
    own: KeyPair,
    /// Objects that are durable and whose event may not be: not to be collected.
    under_way: Mutex<BTreeSet<Hash>>,
    unfinished: Mutex<Unfinished>,
}

impl From<StoreError> for Refusal {
    fn from(e: StoreError) -> Self {
        Self::new(e.code(), "object", "", &e.to_string())
    }
}

impl From<No> for Refusal {
    fn from(no: No) -> Self {
        Self::new(no.code(), "blob", "", &no.to_string())
    }
}

/// X25519 keys, each with what is wrapped for it.
pub type Wrapped = Vec<([u8; 32], Vec<u8>)>;

/// What the system said while something was written.
fn writing(e: io::Error) -> Refusal {
    crate::objects::store_error(e).into()
}

/// The folders of objects and of keys, in the ledger's folder.
pub fn folders(ledger_folder: &Path) -> (PathBuf, PathBuf) {
    let root = ledger_folder.join(FOLDER);
    (root.join("blake3"), root.join("keys"))
}

impl Blobs {
    /// Opens the folder, which is made the first time. `secret` opens the ledger's own wrapped keys.
    ///
    /// # Errors
    /// `QUOTA` on a full disk, or `INTERNAL` with what the system said.
    pub fn open(ledger_folder: &Path, secret: &[u8; 32]) -> Result<Self, Refusal> {
        let root = ledger_folder.join(FOLDER);
        let (objects, keys) = folders(ledger_folder);
        make_folder(&root).map_err(writing)?;
        Ok(Self {
            objects: FolderStore::open(&objects)?,
            keys: FolderStore::open(&keys)?,
            root,
            own: KeyPair::derived(secret),
            under_way: Mutex::default(),
            unfinished: Mutex::default(),
        })
    }

    /// Begins a blob, which these and the ledger itself can open. `tenant` is whose quota it counts for, none if it
    /// takes another's place; `kept` is what that tenant has.
    ///
    /// # Errors
    /// `QUOTA`, `BAD_REQUEST`, `TOO_LARGE`, or as the system's.
    pub fn begin(
        self: &Arc<Self>,
        recipients: Vec<[u8; 32]>,
        tenant: Option<&str>,
        kept: Used,
    ) -> Result<Upload, Refusal> {
        if recipients.len() > RECIPIENTS_MAX {
            let value = recipients.len().to_string();
            let limit = format!("at most {RECIPIENTS_MAX}");
            return Err(Refusal::new("TOO_LARGE", "recipients", &value, &limit));
        }
        let key = ObjectKey::random();
        // A recipient that is no key is refused before anything is taken.
        KeyFile::wrap(&key, &ObjectId([0; 32]), &self.own, &recipients)?;
        let claim = Claim::begin(self, tenant, kept)?;
        let (sealer, header) = Sealer::begin(&key);
        let mut incoming = self.objects.incoming().map_err(writing)?;
        incoming.write(&header).map_err(writing)?;
        Ok(Upload {
            incoming,
            sealer,
            key,
            recipients,
            folder: File::open(&self.root).map_err(writing)?,
            claim,
        })
    }

    /// Hands the plain bytes of what an entry points to over, chunk by chunk, until `out` says false.
    ///
    /// # Errors
    /// `CORRUPT` if a file is missing or does not hold, or as the system's. What was handed over is authentic, but
    /// incomplete.
    pub fn read(&self, entry: &Entry, out: &mut dyn FnMut(&[u8]) -> bool) -> Result<(), Refusal> {
        let object = ObjectId(entry.object);
        let keys = self.key_file(entry)?;
        let key = keys
            .open(&object, &self.own)
            .ok_or_else(|| corrupt("keys that are not this machine's"))?;
        let mut file = self.object_file(&object)?;
        seal::open(&key, entry.bytes, &mut file, out).map_err(|e| match e.kind() {
            io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof => {
                corrupt("its object does not hold")
            }
            _ => Refusal::from(&e),
        })
    }

    /// The ciphertext's file, and each recipient with its wrapped key: for who opens it elsewhere.
    ///
    /// # Errors
    /// `CORRUPT`, or as the system's.
    pub fn sealed(&self, entry: &Entry) -> Result<(File, Wrapped), Refusal> {
        let keys = self.key_file(entry)?;
        let all = keys.entries().map(|(to, key)| (to, key.to_vec()));
        Ok((self.object_file(&ObjectId(entry.object))?, all.collect()))
    }

    /// The ledger's own X25519 key.
    #[must_use]
    pub fn public(&self) -> &[u8; 32] {
        &self.own.public
    }

    fn key_file(&self, entry: &Entry) -> Result<KeyFile, Refusal> {
        let read = KeyFile::read(&self.keys, &ObjectId(entry.object), &entry.keys);
        read.map_err(|e| match e.kind() {
            io::ErrorKind::NotFound => corrupt("its keys are missing"),
            io::ErrorKind::InvalidData => corrupt("its keys are not those of the log"),
            _ => Refusal::from(&e),
        })
    }

    fn object_file(&self, object: &ObjectId) -> Result<File, Refusal> {
        self.objects.file(object).map_err(|e| match e {
            StoreError::Missing(_) => corrupt("its object is missing"),
            other => other.into(),
        })
    }

    /// Destroys the keys of an object that no pointer has any more, then the object.
    ///
    /// # Errors
    /// As the system's; the next [`Blobs::collect`] tries again.
    pub fn destroy(&self, object: &ObjectId) -> Result<(), Refusal> {
        keys::destroy(&self.keys, object).map_err(writing)?;
        self.objects.clone().remove(object)?;
        Ok(())
    }

    /// Destroys what no pointer needs and nobody is about to point to; `live` gives what pointers need, after the folder
    /// was read. How many objects or keys.
    ///
    /// # Errors
    /// As `live`'s and the system's.
    pub fn collect(
        &self,
        live: impl FnOnce() -> Result<BTreeSet<Hash>, Refusal>,
    ) -> Result<u64, Refusal> {
        let mut found = BTreeSet::new();
        for folder in [&self.objects, &self.keys] {
            folder.list(&mut |id| {
                found.insert(id.0);
                true
            })?;
        }
        let needed = self.needed(live)?;
        found.retain(|object| !needed.contains(object));
        for object in &found {
            self.destroy(&ObjectId(*object))?;
        }
        Ok(found.len() as u64)
    }

    /// Makes the folders durable that are there: an earlier process may have ended before it did.
    ///
    /// # Errors
    /// As the system's.
    pub fn sync_names(&self) -> Result<(), Refusal> {
        let above = self.root.parent();
        above.map_or(Ok(()), sync_folder).map_err(writing)?;
        sync_folder(&self.root).map_err(writing)?;
        let (objects, keys) = (self.objects.root(), self.keys.root());
        sync_folder(objects).map_err(writing)?;
        sync_folder(keys).map_err(writing)
    }

    /// What must not be destroyed: `live`, which pointers need, and what an event is about to point to.
    ///
    /// # Errors
    /// As `live`'s.
    pub fn needed(
        &self,
        live: impl FnOnce() -> Result<BTreeSet<Hash>, Refusal>,
    ) -> Result<BTreeSet<Hash>, Refusal> {
        // In this order: an object stops being under way only once its event is applied.
        let mut needed = self.under_way().clone();
        needed.append(&mut live()?);
        Ok(needed)
    }

    /// Deletes what an earlier process left unfinished; before this one begins anything. How many files.
    ///
    /// # Errors
    /// As the system's.
    pub fn sweep(&self) -> Result<u64, Refusal> {
        let swept = self.objects.sweep().map_err(writing)?;
        Ok(swept + self.keys.sweep().map_err(writing)?)
    }

    fn under_way(&self) -> MutexGuard<'_, BTreeSet<Hash>> {
        self.under_way
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn unfinished(&self) -> MutexGuard<'_, Unfinished> {
        self.unfinished
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

fn corrupt(what: &str) -> Refusal {
    Refusal::new("CORRUPT", "blob", "", what)
}

/// What a blob takes of the quotas until its event is applied; dropped, it is free again.
struct Claim {
    blobs: Arc<Blobs>,
    tenant: Option<String>,
    bytes: u64,
}

impl Claim {
    fn begin(blobs: &Arc<Blobs>, tenant: Option<&str>, kept: Used) -> Result<Self, No> {
        blobs.unfinished().begin(tenant, kept)?;
        Ok(Self {
            blobs: blobs.clone(),
            tenant: tenant.map(str::to_owned),
            bytes: 0,
        })
    }

    fn grow(&mut self, kept: Used, bytes: u64) -> Result<(), No> {
        let total = self.bytes.saturating_add(bytes);
        if total > BLOB_BYTES_MAX {
            return Err(No::TooLarge(total));
        }
        let mut unfinished = self.blobs.unfinished();
        unfinished.grow(self.tenant.as_deref(), kept, bytes)?;
        self.bytes = total;
        Ok(())
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        let mut unfinished = self.blobs.unfinished();
        unfinished.end(self.tenant.as_deref(), self.bytes);
    }
}

/// A blob that is still coming. Dropped, nothing of it is left.
pub struct Upload {
    incoming: Incoming,
    sealer: Sealer,
    key: ObjectKey,
    recipients: Vec<[u8; 32]>,
    folder: File,
    /// The last to go: behind the file.
    claim: Claim,
}

impl Upload {
    /// Takes the next plain bytes; `kept` is what the tenant has.
    ///
    /// # Errors
    /// `TOO_LARGE`, `QUOTA`, also on a disk that is nearly full, or as the system's.
    pub fn write(&mut self, plain: &[u8], kept: Used) -> Result<(), Refusal> {
        self.claim.grow(kept, plain.len() as u64)?;
        let space = sys::space::of_fd(&self.folder).map_err(writing)?;
        let reserve = (space.total / RESERVE_PART).min(RESERVE_BYTES_MAX);
        if space.available < reserve + plain.len() as u64 {
            let limit = format!("{reserve} bytes are kept free");
            let value = space.available.to_string();
            return Err(Refusal::new("QUOTA", "disk", &value, &limit));
        }
        let incoming = &mut self.incoming;
        self.sealer
            .write(plain, &mut |bytes| incoming.write(bytes))
            .map_err(writing)
    }

    /// Plain bytes so far.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.claim.bytes
    }

    /// Makes object and keys durable. The event that points to them comes next.
    ///
    /// # Errors
    /// As the system's; then nothing of it is left.
    pub fn finish(self, previous: Option<ObjectId>) -> Result<Sealed, Refusal> {
        let (mut incoming, claim) = (self.incoming, self.claim);
        self.sealer
            .end(&mut |bytes| incoming.write(bytes))
            .map_err(writing)?;
        let object = incoming.id();
        let blobs = claim.blobs.clone();
        let keys = KeyFile::wrap(&self.key, &object, &blobs.own, &self.recipients)?;
        blobs.under_way().insert(object.0);
        let sealed = Sealed {
            manifest: Manifest {
                bytes: claim.bytes,
                keys: keys.hash(),
                object,
                previous,
                recipients: self.recipients,
            },
            claim,
        };
        let kept = incoming
            .finish()
            .and_then(|object| keys.keep(&blobs.keys, &object));
        match kept {
            Ok(()) => Ok(sealed),
            Err(e) => {
                // The reason it failed matters more than what is left, which is collected later.
                let _ = blobs.destroy(&object);
                Err(writing(e))
            }
        }
    }
}

/// A blob whose object and keys are durable and which nothing points to yet. As long as this is there it is not
/// collected; afterwards it is unless an event points to it.
pub struct Sealed {
    /// For the event.
    pub manifest: Manifest,
    claim: Claim,
}

impl Sealed {
    /// Destroys it: no event points to it, and none will.
    ///
    /// # Errors
    /// As [`Blobs::destroy`].
    pub fn discard(self) -> Result<(), Refusal> {
        self.claim.blobs.destroy(&self.manifest.object)
    }
}

impl Drop for Sealed {
    fn drop(&mut self) {
        let mut under_way = self.claim.blobs.under_way();
        under_way.remove(&self.manifest.object.0);
    }
}
