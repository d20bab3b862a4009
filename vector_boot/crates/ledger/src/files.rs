//! Every change to the files of the ledger's folder, in one place, so that a model of a file system can
//! stand in their way.
//!
//! Thin over `std::fs`. With the feature `model`, which tests alone turn on, a watcher of a folder is told
//! of each change before it is made and may refuse it; it answers for syncs itself.
//!
//! Never here: the log's own device, whose port is [`crate::device::Device`].

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// A change that is about to be made.
#[derive(Debug)]
pub enum Change<'c> {
    /// A file appears, or is cut to nothing; with its mode.
    Create(&'c Path, u32),
    /// Bytes of a file, from an offset on.
    Write(&'c Path, u64, &'c [u8]),
    /// What was written to a file becomes durable.
    SyncFile(&'c Path),
    /// A folder appears.
    MakeFolder(&'c Path),
    /// What happened to the names in a folder becomes durable.
    SyncFolder(&'c Path),
    /// A name becomes another.
    Rename(&'c Path, &'c Path),
    /// A file is deleted.
    Remove(&'c Path),
    /// A folder is deleted with all below it.
    RemoveAll(&'c Path),
}

/// What was there under a name before a file is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum There {
    /// Nothing; the new file has this mode.
    Nothing(u32),
    /// Anything; it is replaced.
    Anything,
    /// The file, which is overwritten where it lies.
    File,
}

/// A file that is being written.
pub struct Writing {
    file: File,
    path: PathBuf,
    at: u64,
}

impl Writing {
    /// Begins.
    ///
    /// # Errors
    /// As `open(2)`.
    pub fn begin(path: &Path, there: There) -> io::Result<Self> {
        let mut options = OpenOptions::new();
        options.write(true);
        match there {
            There::Nothing(mode) => {
                options.create_new(true).mode(mode);
                // The model hears of no file that is not made.
                if fs::symlink_metadata(path).is_ok() {
                    return Err(io::ErrorKind::AlreadyExists.into());
                }
                about(&Change::Create(path, mode))?;
            }
            There::Anything => {
                options.create(true).truncate(true);
                about(&Change::Create(path, 0o666))?;
            }
            There::File => {}
        }
        Ok(Self {
            file: options.open(path)?,
            path: path.to_owned(),
            at: 0,
        })
    }

    /// Writes bytes at a place.
    ///
    /// # Errors
    /// As `pwrite(2)`.
    pub fn write_at(&self, bytes: &[u8], at: u64) -> io::Result<()> {
        about(&Change::Write(&self.path, at, bytes))?;
        self.file.write_all_at(bytes, at)
    }

    /// Makes what was written durable, but not the file's name.
    ///
    /// # Errors
    /// As `fsync(2)`.
    pub fn sync(&self) -> io::Result<()> {
        match about(&Change::SyncFile(&self.path))? {
            Watched::Yes => Ok(()),
            Watched::No => self.file.sync_all(),
        }
    }
}

impl Write for Writing {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.write_at(bytes, self.at)?;
        self.at += bytes.len() as u64;
        Ok(bytes.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Whether a file that is replaced must outlast a cut of the power.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lasting {
    /// It and its name are durable when this is over.
    Durable,
    /// What a cut leaves of it is found by who reads it.
    Perhaps,
}

/// Puts a file of these bytes in the place of what has its name, by way of `NAME.new`: whole, or not at
/// all.
///
/// # Errors
/// As `open(2)`, `write(2)`, `fsync(2)`, `rename(2)`.
pub fn replace(
    folder: &Path,
    name: &str,
    there: There,
    bytes: &[u8],
    lasting: Lasting,
) -> io::Result<()> {
    let (path, unfinished) = (folder.join(name), folder.join(format!("{name}.new")));
    if there != There::Anything {
        match fs::symlink_metadata(&path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => return Err(e),
            Ok(_) => return Err(io::ErrorKind::AlreadyExists.into()),
        }
        // Of a start that was cut short.
        remove(&unfinished)?;
    }
    let mut file = Writing::begin(&unfinished, there)?;
    let mut written = file.write_all(bytes);
    if lasting == Lasting::Durable {
        written = written.and_then(|()| file.sync());
    }
    if let Err(e) = written.and_then(|()| rename(&unfinished, &path)) {
        // The first failure is the one that counts.
        let _ = remove(&unfinished);
        return Err(e);
    }
    match lasting {
        Lasting::Durable => sync_folder(folder),
        Lasting::Perhaps => Ok(()),
    }
}

/// Gives a file another name, in place of what had it.
///
/// # Errors
/// As `rename(2)`.
pub fn rename(from: &Path, to: &Path) -> io::Result<()> {
    about(&Change::Rename(from, to))?;
    fs::rename(from, to)
}

/// Deletes a file, if it is there; whether it was.
///
/// # Errors
/// As `unlink(2)`.
pub fn remove(path: &Path) -> io::Result<bool> {
    if fs::symlink_metadata(path).is_err_and(|e| e.kind() == io::ErrorKind::NotFound) {
        return Ok(false);
    }
    about(&Change::Remove(path))?;
    match fs::remove_file(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
        removed => removed.map(|()| true),
    }
}

/// Deletes a folder with all below it, if it is there.
///
/// # Errors
/// As `unlink(2)`.
pub fn remove_all(path: &Path) -> io::Result<()> {
    about(&Change::RemoveAll(path))?;
    match fs::remove_dir_all(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    }
}

/// Makes a folder, if it is not there; whether it was made.
///
/// # Errors
/// As `mkdir(2)`.
pub fn make_folder(path: &Path, mode: u32) -> io::Result<bool> {
    if path.is_dir() {
        return Ok(false);
    }
    about(&Change::MakeFolder(path))?;
    match DirBuilder::new().mode(mode).create(path) {
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Ok(false),
        made => made.map(|()| true),
    }
}

/// Makes the names in a folder durable.
///
/// # Errors
/// As `fsync(2)`.
pub fn sync_folder(path: &Path) -> io::Result<()> {
    match about(&Change::SyncFolder(path))? {
        Watched::Yes => Ok(()),
        Watched::No => File::open(path)?.sync_all(),
    }
}

/// Makes a file's content durable, but not its name.
///
/// # Errors
/// As `open(2)` and `fsync(2)`.
pub fn sync_file(path: &Path) -> io::Result<()> {
    let file = File::open(path)?;
    match about(&Change::SyncFile(path))? {
        Watched::Yes => Ok(()),
        Watched::No => file.sync_all(),
    }
}

/// Whether a model answers for what becomes durable.
enum Watched {
    #[cfg_attr(not(feature = "model"), allow(dead_code, reason = "tests alone watch"))]
    Yes,
    No,
}

#[cfg(not(feature = "model"))]
#[allow(clippy::unnecessary_wraps, reason = "a model refuses")]
fn about(_: &Change<'_>) -> io::Result<Watched> {
    Ok(Watched::No)
}

#[cfg(feature = "model")]
pub use watching::{Watch, watch};

#[cfg(feature = "model")]
use watching::about;

#[cfg(feature = "model")]
mod watching {
    use super::{Change, Watched};
    use std::io;
    use std::path::{Path, PathBuf};
    use std::sync::{Arc, Mutex, PoisonError, Weak};

    /// A model of a file system.
    pub trait Watch: Send + Sync {
        /// A change below its folder is about to be made.
        ///
        /// # Errors
        /// Why it is not made.
        fn change(&self, change: &Change<'_>) -> io::Result<()>;
    }

    static WATCHES: Mutex<Vec<(PathBuf, Weak<dyn Watch>)>> = Mutex::new(Vec::new());

    /// Has a model hear of every change below a folder, as long as the model is there.
    pub fn watch(folder: &Path, watch: &Arc<dyn Watch>) {
        let mut all = WATCHES.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|(_, watch)| watch.strong_count() > 0);
        all.push((folder.to_owned(), Arc::downgrade(watch)));
    }

    pub(super) fn about(change: &Change<'_>) -> io::Result<Watched> {
        let (Change::Create(path, _)
        | Change::Write(path, ..)
        | Change::SyncFile(path)
        | Change::MakeFolder(path)
        | Change::SyncFolder(path)
        | Change::Rename(path, _)
        | Change::Remove(path)
        | Change::RemoveAll(path)) = change;
        let all = WATCHES.lock().unwrap_or_else(PoisonError::into_inner);
        let found = all.iter().find(|(folder, _)| path.starts_with(folder));
        let found = found.and_then(|(_, watch)| watch.upgrade());
        drop(all);
        match found {
            Some(watch) => watch.change(change).map(|()| Watched::Yes),
            None => Ok(Watched::No),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_file_replaces_none_and_what_is_unfinished_is_no_file() {
        let folder = tempfile::tempdir().unwrap();
        let put = |there, bytes: &[u8]| {
            let put = replace(folder.path(), "key", there, bytes, Lasting::Durable);
            put.map_err(|e| e.kind())
        };
        std::fs::write(folder.path().join("key.new"), b"ab").unwrap();
        assert_eq!(put(There::Nothing(0o400), b"abcd"), Ok(()));
        let again = put(There::Nothing(0o400), b"efgh");
        assert_eq!(again, Err(io::ErrorKind::AlreadyExists));
        let read = || std::fs::read(folder.path().join("key")).unwrap();
        assert_eq!(read(), b"abcd");
        assert!(!folder.path().join("key.new").exists());
        assert_eq!(put(There::Anything, b"ij"), Ok(()));
        assert_eq!(read(), b"ij");
    }
}
