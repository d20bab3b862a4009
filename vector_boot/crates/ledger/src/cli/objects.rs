//! Objects carried between the ledger's folder and another store: ciphertexts alone, never their keys.
//!
//! So a copy opens with what the folder holds and with nothing else, and a blob that is shredded there is shredded in
//! every copy. Objects come under the name of their bytes: what is there already is not written again.

use super::Disk;
use super::progress::Progress;
use crate::blobs;
use crate::objects::FolderStore;
use ledger_core::store::{ObjectId, ObjectStore, StoreError};
use std::path::PathBuf;
use std::str::FromStr;

/// A store that a person named: `KIND:FOLDER`.
#[derive(Clone)]
pub struct Named {
    kind: Kind,
    folder: PathBuf,
}

#[derive(Clone, Copy)]
enum Kind {
    Folder,
    #[cfg(feature = "segment")]
    Segment,
    #[cfg(feature = "git")]
    Git,
}

impl FromStr for Named {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (kind, folder) = text.split_once(':').ok_or("expected KIND:FOLDER")?;
        let kind = match kind {
            "folder" => Kind::Folder,
            #[cfg(feature = "segment")]
            "segment" => Kind::Segment,
            #[cfg(feature = "git")]
            "git" => Kind::Git,
            other => return Err(format!("{other:?}: no kind of store in this build")),
        };
        Ok(Self {
            kind,
            folder: folder.into(),
        })
    }
}

impl Named {
    fn open(&self) -> Result<Box<dyn ObjectStore>, String> {
        let opened = match self.kind {
            Kind::Folder => FolderStore::open(&self.folder).map(|s| Box::new(s) as _),
            #[cfg(feature = "segment")]
            Kind::Segment => {
                crate::objects::SegmentStore::open(&self.folder).map(|s| Box::new(s) as _)
            }
            #[cfg(feature = "git")]
            Kind::Git => crate::objects::GitStore::open(&self.folder).map(|s| Box::new(s) as _),
        };
        opened.map_err(|e| format!("{}: {e}", self.folder.display()))
    }

    /// Copies what the ledger's folder has into the store. How many objects were not there.
    pub fn export(&self, disk: &Disk) -> Result<u64, String> {
        let (objects, _) = blobs::folders(disk.data());
        if !objects.exists() {
            return Err(format!("{}: no objects", objects.display()));
        }
        let from = FolderStore::open(&objects).map_err(|e| e.to_string())?;
        copy(&from, &mut *self.open()?)
    }

    /// Copies what the store has into the ledger's folder, where nothing of that name, or something damaged, is. How
    /// many objects were not there.
    pub fn import(&self, disk: &Disk) -> Result<u64, String> {
        let (objects, _) = blobs::folders(disk.data());
        // The service made it with the first blob: objects without their keys are of no use.
        if !objects.exists() {
            return Err(format!("{}: no objects", objects.display()));
        }
        let mut into = FolderStore::open(&objects).map_err(|e| e.to_string())?;
        copy(&*self.open()?, &mut into)
    }
}

fn copy(from: &dyn ObjectStore, into: &mut dyn ObjectStore) -> Result<u64, String> {
    let mut names = Vec::new();
    from.list(&mut |id: ObjectId| {
        names.push(id);
        true
    })
    .map_err(|e| e.to_string())?;
    let mut progress = Progress::objects(names.len() as u64);
    let (mut copied, mut failed) = (0, Vec::new());
    for (done, id) in names.iter().enumerate() {
        progress.at(done as u64);
        // Read whole, so that what is damaged is written anew.
        if into.get(id).is_ok() {
            continue;
        }
        let content = match from.get(id) {
            Ok(content) => content,
            // Shredded since it was listed.
            Err(StoreError::Missing(_)) => continue,
            // One that is damaged is no reason to leave the others behind.
            Err(e) => {
                failed.push(format!("{id}: {e}"));
                continue;
            }
        };
        into.put(&content).map_err(|e| e.to_string())?;
        copied += 1;
    }
    match failed.first() {
        None => Ok(copied),
        Some(first) => Err(format!(
            "{copied} objects copied, {} not: {first}",
            failed.len()
        )),
    }
}
