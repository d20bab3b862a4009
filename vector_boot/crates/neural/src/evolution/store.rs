//! Where the mutation log lies: a file in the role's folder, or memory where there is none.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// Name of the log in its folder.
const NAME: &str = "mutations.log";
/// While a new one is made.
const NEW: &str = "mutations.log.new";
/// One that did not fit: only the newest of them is kept, so that a disk cannot be filled this way.
const ASIDE: &str = "mutations.log.aside";

/// The log's bytes.
#[derive(Debug)]
pub struct Store {
    file: File,
    folder: Option<PathBuf>,
    end: u64,
    /// The disk did not sync: what it has of what was written before is not known.
    lost: bool,
}

impl Store {
    /// The log in this folder; a new one is empty.
    ///
    /// # Errors
    /// As `open(2)`.
    pub fn in_folder(folder: &Path) -> io::Result<Self> {
        let file = open(&folder.join(NAME))?;
        let end = file.metadata()?.len();
        Ok(Self {
            file,
            folder: Some(folder.to_owned()),
            end,
            lost: false,
        })
    }

    /// A log that can be read and not written, as on a disk that went away.
    #[cfg(test)]
    pub(super) fn read_only_for_tests(folder: &Path) -> Self {
        let file = File::open(folder.join(NAME)).unwrap();
        let end = file.metadata().unwrap().len();
        Self {
            file,
            folder: Some(folder.to_owned()),
            end,
            lost: false,
        }
    }

    /// A log that ends with the process.
    ///
    /// # Errors
    /// As `memfd_create(2)`.
    pub fn in_memory() -> io::Result<Self> {
        Ok(Self {
            file: sys::memfd::create("mutations")?,
            folder: None,
            end: 0,
            lost: false,
        })
    }

    /// Whether it outlives the process.
    #[must_use]
    pub fn is_durable(&self) -> bool {
        self.folder.is_some()
    }

    /// Whether the disk failed to sync. A disk that only is full has not.
    #[must_use]
    pub fn has_lost(&self) -> bool {
        self.lost
    }

    /// Bytes of it that count.
    #[must_use]
    pub fn end(&self) -> u64 {
        self.end
    }

    /// All of it.
    ///
    /// # Errors
    /// As `mmap(2)`.
    pub fn read_all(&self) -> io::Result<sys::mapping::Mapping> {
        sys::mapping::Mapping::of_whole_fd(&self.file)
    }

    /// So many bytes from `at` on.
    ///
    /// # Errors
    /// As `pread(2)`.
    pub fn read(&self, at: u64, bytes: u32) -> io::Result<Vec<u8>> {
        let bytes = usize::try_from(bytes).map_err(io::Error::other)?;
        let mut out = vec![0; bytes];
        self.file.read_exact_at(&mut out, at)?;
        Ok(out)
    }

    /// Writes behind the end and waits until it is durable. After an error the end is where it was.
    ///
    /// # Errors
    /// As `pwrite(2)` and `fdatasync(2)`.
    pub fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        if let Err(e) = self.file.write_all_at(bytes, self.end) {
            // What is left of it there is overwritten by the next group, and makes no whole record.
            let _ = self.file.set_len(self.end);
            return Err(e);
        }
        // fsync(2): after an error the pages are clean and may be lost, so a second try proves nothing.
        self.sync().inspect_err(|_| self.lost = true)?;
        self.end += bytes.len() as u64;
        Ok(())
    }

    /// Cuts what lies behind `end`.
    ///
    /// # Errors
    /// As `ftruncate(2)`.
    pub fn cut(&mut self, end: u64) -> io::Result<()> {
        if self.end > end {
            self.file.set_len(end)?;
            self.sync()?;
        }
        self.end = end;
        Ok(())
    }

    /// Puts another log in the place of this one: a crash leaves the old or the new one.
    ///
    /// # Errors
    /// As `open(2)`, `write(2)`, `fsync(2)` and `rename(2)`.
    pub fn replace(&mut self, content: &[u8]) -> io::Result<()> {
        match &self.folder {
            Some(folder) => {
                write_whole(&folder.join(NEW), content)?;
                let (file, names) = (open(&folder.join(NEW))?, File::open(folder)?);
                fs::rename(folder.join(NEW), folder.join(NAME))?;
                // From here on the old file has no name: what is written to it would be gone with its last handle.
                self.file = file;
                self.end = content.len() as u64;
                names.sync_all().inspect_err(|_| self.lost = true)?;
            }
            None => {
                self.file.set_len(0)?;
                self.file.write_all_at(content, 0)?;
            }
        }
        self.end = content.len() as u64;
        Ok(())
    }

    /// Keeps a log that is not used any more where a person finds it.
    ///
    /// # Errors
    /// As `open(2)` and `write(2)`.
    pub fn keep_aside(&self, content: &[u8]) -> io::Result<()> {
        match &self.folder {
            Some(folder) => write_whole(&folder.join(ASIDE), content),
            None => Ok(()),
        }
    }

    fn sync(&self) -> io::Result<()> {
        match self.folder {
            Some(_) => self.file.sync_data(),
            None => Ok(()),
        }
    }
}

fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(path)
}

fn write_whole(path: &Path, content: &[u8]) -> io::Result<()> {
    let mut file = File::create(path)?;
    file.write_all(content)?;
    file.sync_all()
}
