//! Files that appear whole or not at all: written under another name, synced, renamed, the folder synced.

use crate::clock;
use crate::files::{self, There, Writing};
use crate::query::hex;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

/// How the names of unfinished files begin; what a crash leaves of them may be deleted by who owns the folder.
pub const UNFINISHED: &str = "unfinished-";

/// Held while a folder is made.
static MAKING: Mutex<()> = Mutex::new(());

/// A file that nobody sees yet. Dropped without [`Fresh::keep`], it is gone.
pub struct Fresh {
    file: Writing,
    path: PathBuf,
    kept: bool,
}

impl Fresh {
    /// Begins a file in this folder, for its owner alone.
    ///
    /// # Errors
    /// As the system's.
    pub fn begin(folder: &Path) -> io::Result<Self> {
        let random: [u8; 8] = clock::random();
        let path = folder.join(format!("{UNFINISHED}{}", hex(&random)));
        Ok(Self {
            file: Writing::begin(&path, There::Nothing(0o600))?,
            path,
            kept: false,
        })
    }

    /// Appends bytes.
    ///
    /// # Errors
    /// As the system's.
    pub fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all(bytes)
    }

    /// Makes it durable under its name, in place of what was there; the folder must be on the same file system.
    ///
    /// # Errors
    /// As the system's; then nothing is there under the name that was not before.
    pub fn keep(mut self, path: &Path) -> io::Result<()> {
        self.file.sync()?;
        files::rename(&self.path, path)?;
        self.kept = true;
        path.parent().map_or(Ok(()), sync_folder)
    }
}

impl Drop for Fresh {
    fn drop(&mut self) {
        if !self.kept {
            // What stays is found by its name later.
            let _ = files::remove(&self.path);
        }
    }
}

/// Makes names in a folder durable.
///
/// # Errors
/// As the system's.
pub fn sync_folder(folder: &Path) -> io::Result<()> {
    files::sync_folder(folder)
}

/// Makes a folder for its owner alone if it is not there, durably. Those above it must be there.
///
/// # Errors
/// As the system's.
pub fn make_folder(folder: &Path) -> io::Result<()> {
    // Who finds it there must find it durable.
    let _making = MAKING.lock().unwrap_or_else(PoisonError::into_inner);
    match files::make_folder(folder, 0o700)? {
        true => folder.parent().map_or(Ok(()), sync_folder),
        false => Ok(()),
    }
}
