//! A folder of the kernel's (`/proc/sys`, a cgroup) whose small files are opened and written by name.
//!
//! One look-up from the folder instead of one from the root: a third of the time, and no path is put together.

use nix::fcntl::{OFlag, open, openat};
use nix::sys::stat::Mode;
use nix::unistd::write;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

/// An open folder.
#[derive(Debug)]
pub struct Folder(OwnedFd);

impl Folder {
    /// Opens a folder by its path.
    ///
    /// # Errors
    /// As `open(2)`.
    pub fn open(path: &Path) -> io::Result<Self> {
        let how = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        Ok(Self(open(path, how, Mode::empty())?))
    }

    /// Opens a file below it for reading.
    ///
    /// # Errors
    /// As `openat(2)`.
    pub fn read(&self, name: &str) -> io::Result<File> {
        let how = OFlag::O_RDONLY | OFlag::O_CLOEXEC;
        Ok(openat(&self.0, name, how, Mode::empty())?.into())
    }

    /// Opens a file below it for reading and writing.
    ///
    /// # Errors
    /// As `openat(2)`.
    pub fn read_write(&self, name: &str) -> io::Result<File> {
        let how = OFlag::O_RDWR | OFlag::O_CLOEXEC;
        Ok(openat(&self.0, name, how, Mode::empty())?.into())
    }

    /// Writes a text to a file below it, in one call as the kernel's files want it.
    ///
    /// # Errors
    /// As `openat(2)` and `write(2)`; a text that is not taken whole is `WriteZero`.
    pub fn write(&self, name: &str, text: &str) -> io::Result<()> {
        let how = OFlag::O_WRONLY | OFlag::O_CLOEXEC;
        let file = openat(&self.0, name, how, Mode::empty())?;
        if write(&file, text.as_bytes())? < text.len() {
            return Err(io::ErrorKind::WriteZero.into());
        }
        Ok(())
    }
}

impl AsFd for Folder {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl From<OwnedFd> for Folder {
    fn from(fd: OwnedFd) -> Self {
        Self(fd)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    #[test]
    fn files_are_found_from_the_folder_and_none_is_made() {
        let place = tempfile::tempdir().unwrap();
        std::fs::write(place.path().join("knob"), "before").unwrap();
        let folder = Folder::open(place.path()).unwrap();
        folder.write("knob", "after!").unwrap();
        let mut text = String::new();
        folder
            .read("knob")
            .unwrap()
            .read_to_string(&mut text)
            .unwrap();
        assert_eq!(text, "after!");
        let missing = folder.write("other", "x").unwrap_err();
        assert_eq!(missing.kind(), io::ErrorKind::NotFound);
        assert!(Folder::open(&place.path().join("knob")).is_err());
    }
}
