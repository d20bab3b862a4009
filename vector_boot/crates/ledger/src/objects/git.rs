//! Objects as loose blobs of a git repository, each under `refs/gatos/objects/blake3/aa/HEX`.
//!
//! git names a blob by its SHA-1; the reference is what finds it by BLAKE3 and what keeps `git gc` from dropping it.
//! Repositories are made here too, for [`crate::export`].

use super::{Fresh, store_error, sync_folder};
use crate::query::hex;
use flate2::Compression;
use flate2::read::ZlibDecoder;
use flate2::write::ZlibEncoder;
use ledger_core::store::{
    OBJECT_BYTES_MAX, ObjectId, ObjectStore, StoreError, check_content, check_size,
};
use sha1::{Digest, Sha1};
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

/// Where the references of objects lie.
const REFS: &str = "refs/gatos/objects/blake3";
/// `blob 67108864\0`, with room.
const HEADER_BYTES_MAX: usize = 32;

/// A bare repository of objects. Several handles, also of several processes, may be used at once.
#[derive(Debug, Clone)]
pub struct GitStore {
    root: PathBuf,
}

impl GitStore {
    /// Opens a bare repository, made if the folder is not there or empty.
    ///
    /// # Errors
    /// As the system's.
    pub fn open(root: &Path) -> Result<Self, StoreError> {
        make_repository(root).map_err(store_error)?;
        fs::create_dir_all(root.join(REFS)).map_err(store_error)?;
        Ok(Self {
            root: root.to_owned(),
        })
    }

    fn reference(&self, id: &ObjectId) -> PathBuf {
        let name = id.to_string();
        let folder = name.get(..2).unwrap_or_default();
        self.root.join(REFS).join(folder).join(&name)
    }

    fn loose(&self, name: &str) -> PathBuf {
        let (folder, rest) = name.split_at_checked(2).unwrap_or(("", name));
        self.root.join("objects").join(folder).join(rest)
    }

    /// The git name that an object's reference holds.
    fn target(&self, id: &ObjectId) -> Result<String, StoreError> {
        let text = match fs::read(self.reference(id)) {
            Ok(bytes) => String::from_utf8(bytes).map_err(|_| StoreError::Corrupt(*id))?,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Err(StoreError::Missing(*id)),
            Err(e) => return Err(store_error(e)),
        };
        let name = text.strip_suffix('\n').unwrap_or(&text);
        let holds = name.len() == 40 && name.bytes().all(|b| b.is_ascii_hexdigit());
        holds
            .then(|| name.to_owned())
            .ok_or(StoreError::Corrupt(*id))
    }
}

/// Makes a bare repository in a folder that is not there or empty; one that is a repository stays.
///
/// # Errors
/// `AlreadyExists` for a folder of other things, or as the system's.
pub fn make_repository(root: &Path) -> io::Result<()> {
    fs::create_dir_all(root)?;
    let head = root.join("HEAD");
    if !head.exists() {
        if fs::read_dir(root)?.next().is_some() {
            let why = format!("{} holds files and is no git repository", root.display());
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, why));
        }
        fs::create_dir_all(root.join("objects/pack"))?;
        fs::create_dir_all(root.join("refs/heads"))?;
        let config = "[core]\n\trepositoryformatversion = 0\n\tfilemode = true\n\tbare = true\n";
        keep(root, &root.join("config"), config.as_bytes())?;
        // What makes the folder a repository, so it comes last.
        keep(root, &head, b"ref: refs/heads/main\n")?;
    }
    Ok(())
}

/// Writes a file that appears whole.
pub fn keep(folder: &Path, path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut fresh = Fresh::begin(folder)?;
    fresh.write(bytes)?;
    fresh.keep(path)
}

/// git's name of an object of this kind.
#[must_use]
pub fn object_name(kind: &str, content: &[u8]) -> [u8; 20] {
    let mut sha1 = Sha1::new();
    sha1.update(format!("{kind} {}\0", content.len()));
    sha1.update(content);
    sha1.finalize().into()
}

impl ObjectStore for GitStore {
    fn put(&mut self, content: &[u8]) -> Result<ObjectId, StoreError> {
        check_size(content)?;
        let id = ObjectId::of(content);
        let name = hex(&object_name("blob", content));
        let (loose, reference) = (self.loose(&name), self.reference(&id));
        let write = || -> io::Result<()> {
            let mut zlib = ZlibEncoder::new(Vec::new(), Compression::fast());
            write!(zlib, "blob {}\0", content.len())?;
            zlib.write_all(content)?;
            let packed = zlib.finish()?;
            for (path, bytes) in [
                (&loose, packed.as_slice()),
                (&reference, format!("{name}\n").as_bytes()),
            ] {
                let folder = path.parent().ok_or(io::ErrorKind::InvalidInput)?;
                fs::create_dir_all(folder)?;
                folder.parent().map_or(Ok(()), sync_folder)?;
                // Unfinished in the root: git would take one beside references for a broken one.
                keep(&self.root, path, bytes)?;
            }
            Ok(())
        };
        write().map_err(store_error)?;
        Ok(id)
    }

    fn get(&self, id: &ObjectId) -> Result<Vec<u8>, StoreError> {
        let name = self.target(id)?;
        let corrupt = |_| StoreError::Corrupt(*id);
        let file = File::open(self.loose(&name)).map_err(|e| match e.kind() {
            // The reference says that it should be there.
            io::ErrorKind::NotFound => StoreError::Corrupt(*id),
            _ => store_error(e),
        })?;
        let limit = (OBJECT_BYTES_MAX + HEADER_BYTES_MAX) as u64;
        let mut bytes = Vec::new();
        let mut plain = ZlibDecoder::new(file).take(limit);
        plain.read_to_end(&mut bytes).map_err(corrupt)?;
        let end = bytes.iter().take(HEADER_BYTES_MAX).position(|b| *b == 0);
        let content = bytes.split_off(end.map_or(0, |end| end + 1));
        check_content(id, content)
    }

    fn has(&self, id: &ObjectId) -> Result<bool, StoreError> {
        match fs::symlink_metadata(self.reference(id)) {
            Ok(found) => Ok(found.is_file()),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(e) => Err(store_error(e)),
        }
    }

    fn list(&self, each: &mut dyn FnMut(ObjectId) -> bool) -> Result<(), StoreError> {
        for folder in fs::read_dir(self.root.join(REFS)).map_err(store_error)? {
            let folder = folder.map_err(store_error)?;
            if !folder.file_type().map_err(store_error)?.is_dir() {
                continue;
            }
            for entry in fs::read_dir(folder.path()).map_err(store_error)? {
                let name = entry.map_err(store_error)?.file_name();
                if let Some(id) = name.to_str().and_then(ObjectId::parse)
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
        let target = match self.target(id) {
            Err(StoreError::Missing(_)) => return Ok(false),
            Err(StoreError::Corrupt(_)) => None,
            other => Some(other?),
        };
        let reference = self.reference(id);
        let gone = |path: &Path| match fs::remove_file(path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(e) => Err(e),
            Ok(()) => path.parent().map_or(Ok(()), sync_folder),
        };
        // The reference first: one without its blob is damage, a blob without one only litter.
        gone(&reference).map_err(store_error)?;
        if let Some(name) = target {
            gone(&self.loose(&name)).map_err(store_error)?;
        }
        Ok(true)
    }
}
