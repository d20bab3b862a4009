//! Objects as files `aa/HEX`, where HEX is the object's name and `aa` its first two digits.

use super::{Fresh, fresh, make_folder, store_error, sync_folder};
use crate::files;
use ledger_core::store::{
    OBJECT_BYTES_MAX, ObjectId, ObjectStore, StoreError, check_content, check_size,
};
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

/// A folder of objects. Several handles, also of several processes, may be used at once.
#[derive(Debug, Clone)]
pub struct FolderStore {
    root: PathBuf,
}

/// An object that is still being written.
pub struct Incoming {
    fresh: Fresh,
    hasher: blake3::Hasher,
    bytes: u64,
    root: PathBuf,
}

impl FolderStore {
    /// Opens the folder; it is made if only its last part is missing.
    ///
    /// # Errors
    /// As the system's.
    pub fn open(root: &Path) -> Result<Self, StoreError> {
        make_folder(root).map_err(store_error)?;
        Ok(Self {
            root: root.to_owned(),
        })
    }

    /// Begins an object whose size is not known yet.
    ///
    /// # Errors
    /// As the system's.
    pub fn incoming(&self) -> io::Result<Incoming> {
        Ok(Incoming {
            fresh: Fresh::begin(&self.root)?,
            hasher: blake3::Hasher::new(),
            bytes: 0,
            root: self.root.clone(),
        })
    }

    /// Opens an object's file; who reads it checks the bytes.
    ///
    /// # Errors
    /// [`StoreError::Missing`], or as the system's.
    pub fn file(&self, id: &ObjectId) -> Result<File, StoreError> {
        File::open(path_in(&self.root, id)).map_err(|e| match e.kind() {
            io::ErrorKind::NotFound => StoreError::Missing(*id),
            _ => store_error(e),
        })
    }

    /// The folder.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Where an object's file is, or would be.
    #[must_use]
    pub fn path(&self, id: &ObjectId) -> PathBuf {
        path_in(&self.root, id)
    }

    /// Keeps bytes under the name of another object: what belongs to it. [`FolderStore::get`] does not give them.
    ///
    /// # Errors
    /// As the system's.
    pub fn put_beside(&self, id: &ObjectId, bytes: &[u8]) -> io::Result<()> {
        let mut fresh = Fresh::begin(&self.root)?;
        fresh.write(bytes)?;
        keep_in(&self.root, id, fresh)
    }

    /// Deletes what a crash left of objects that were never finished; only who alone writes here may. How many.
    ///
    /// # Errors
    /// As the system's.
    pub fn sweep(&self) -> io::Result<u64> {
        let mut swept = 0;
        for entry in fs::read_dir(&self.root)? {
            let name = entry?.file_name();
            if name
                .to_str()
                .is_some_and(|n| n.starts_with(fresh::UNFINISHED))
            {
                files::remove(&self.root.join(name))?;
                swept += 1;
            }
        }
        Ok(swept)
    }
}

impl Incoming {
    /// Appends bytes.
    ///
    /// # Errors
    /// As the system's.
    pub fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.fresh.write(bytes)?;
        self.hasher.update(bytes);
        self.bytes += bytes.len() as u64;
        Ok(())
    }

    /// Bytes so far.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The name that it has if nothing follows.
    #[must_use]
    pub fn id(&self) -> ObjectId {
        ObjectId(*self.hasher.finalize().as_bytes())
    }

    /// Makes the object durable and gives its name. One of the same bytes is replaced: it may have been damaged.
    ///
    /// # Errors
    /// As the system's.
    pub fn finish(self) -> io::Result<ObjectId> {
        let id = self.id();
        keep_in(&self.root, &id, self.fresh)?;
        Ok(id)
    }
}

fn keep_in(root: &Path, id: &ObjectId, fresh: Fresh) -> io::Result<()> {
    let path = path_in(root, id);
    if let Some(folder) = path.parent() {
        make_folder(folder)?;
    }
    fresh.keep(&path)
}

fn path_in(root: &Path, id: &ObjectId) -> PathBuf {
    let name = id.to_string();
    let folder = name.get(..2).unwrap_or_default();
    root.join(folder).join(&name)
}

impl ObjectStore for FolderStore {
    fn put(&mut self, content: &[u8]) -> Result<ObjectId, StoreError> {
        check_size(content)?;
        let mut incoming = self.incoming().map_err(store_error)?;
        incoming.write(content).map_err(store_error)?;
        incoming.finish().map_err(store_error)
    }

    fn get(&self, id: &ObjectId) -> Result<Vec<u8>, StoreError> {
        let mut content = Vec::new();
        let limit = OBJECT_BYTES_MAX as u64 + 1;
        let file = self.file(id)?;
        let taken = file.take(limit).read_to_end(&mut content);
        taken.map_err(store_error)?;
        check_content(id, content)
    }

    fn has(&self, id: &ObjectId) -> Result<bool, StoreError> {
        match fs::symlink_metadata(path_in(&self.root, id)) {
            Ok(found) => Ok(found.is_file()),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(e) => Err(store_error(e)),
        }
    }

    fn list(&self, each: &mut dyn FnMut(ObjectId) -> bool) -> Result<(), StoreError> {
        let is_first_byte = |name: &str| {
            name.len() == 2 && name.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
        };
        for folder in fs::read_dir(&self.root).map_err(store_error)? {
            let folder = folder.map_err(store_error)?;
            let name = folder.file_name();
            let Some(first) = name.to_str().filter(|n| is_first_byte(n)) else {
                continue;
            };
            for entry in fs::read_dir(folder.path()).map_err(store_error)? {
                let name = entry.map_err(store_error)?.file_name();
                let named = name.to_str().filter(|n| n.starts_with(first));
                if let Some(id) = named.and_then(ObjectId::parse)
                    && self.has(&id)?
                    && !each(id)
                {
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    fn remove(&mut self, id: &ObjectId) -> Result<bool, StoreError> {
        let path = path_in(&self.root, id);
        let removed = files::remove(&path).map_err(store_error)?;
        if removed {
            let synced = path.parent().map_or(Ok(()), sync_folder);
            synced.map_err(store_error)?;
        }
        Ok(removed)
    }
}
