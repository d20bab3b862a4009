//! Files of the `rts` role: windows that are read, outputs that appear whole or not at all, and progress.

use std::ffi::OsString;
use std::fmt::Display;
use std::fs::{File, OpenOptions};
use std::io::{IsTerminal, Write};
use std::os::unix::fs::{FileExt, FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rts::WindowKind;
use sys::mapping::Mapping;

/// A file or device that begins with a package.
pub(super) struct Window {
    /// All of it, mapped.
    pub(super) bytes: Mapping,
    /// How strictly what lies behind the package is judged.
    pub(super) kind: WindowKind,
}

/// Maps a package's file, or the device that holds it.
pub(super) fn open(path: &Path) -> Result<Window, String> {
    let bytes = Mapping::open_file(path).map_err(|error| failure(path, &error))?;
    let device = std::fs::metadata(path).is_ok_and(|meta| meta.file_type().is_block_device());
    Ok(Window {
        bytes,
        kind: if device {
            WindowKind::Device
        } else {
            WindowKind::File
        },
    })
}

/// The one line of a failure: which file, and what is wrong with it.
pub(super) fn failure(path: &Path, problem: &dyn Display) -> String {
    format!("{}: {problem}", path.display())
}

/// A file in the making: it takes its name when it is finished. What is no regular file is written where it is.
pub(super) struct Output {
    path: PathBuf,
    /// The file's name until it is finished.
    part: Option<PathBuf>,
    file: File,
}

impl Output {
    pub(super) fn create(path: &Path, mode: u32) -> Result<Self, String> {
        let in_place = std::fs::metadata(path).is_ok_and(|meta| !meta.is_file());
        let part = (!in_place).then(|| {
            let mut name = OsString::from(path);
            name.push(format!(".part-{}", std::process::id()));
            PathBuf::from(name)
        });
        let opened = match &part {
            Some(part) => OpenOptions::new()
                .write(true)
                .create(true)
                .truncate(true)
                .mode(mode)
                .open(part),
            None => OpenOptions::new().write(true).open(path),
        };
        let file = opened.map_err(|error| failure(path, &error))?;
        Ok(Self {
            path: path.to_owned(),
            part,
            file,
        })
    }

    pub(super) fn write(&mut self, bytes: &[u8]) -> Result<(), String> {
        self.file
            .write_all(bytes)
            .map_err(|error| failure(&self.path, &error))
    }

    pub(super) fn write_at(&mut self, bytes: &[u8], at: u64) -> Result<(), String> {
        self.file
            .write_all_at(bytes, at)
            .map_err(|error| failure(&self.path, &error))
    }

    /// Gives the file its name, once its bytes are on the disk.
    pub(super) fn finish(mut self) -> Result<(), String> {
        // fsync(2): EINVAL for pipes and terminals, which have nothing to flush to.
        let flushed = match self.file.sync_all() {
            Err(error)
                if self.part.is_none() && error.kind() == std::io::ErrorKind::InvalidInput =>
            {
                Ok(())
            }
            other => other,
        };
        let named = flushed.and_then(|()| match &self.part {
            Some(part) => std::fs::rename(part, &self.path),
            None => Ok(()),
        });
        named.map_err(|error| failure(&self.path, &error))?;
        self.part = None;
        Ok(())
    }
}

impl Drop for Output {
    fn drop(&mut self) {
        if let Some(part) = &self.part {
            // The failure that led here was reported; a leftover is the smaller problem.
            let _ = std::fs::remove_file(part);
        }
    }
}

/// Says on a terminal how far a long step is; silent elsewhere and during the first second.
pub(super) struct Bar {
    what: &'static str,
    total: u64,
    next: Instant,
    shown: bool,
    terminal: bool,
}

/// Nothing is said of what takes less.
const QUIET: Duration = Duration::from_secs(1);
/// Between two lines of progress.
const INTERVAL: Duration = Duration::from_millis(200);

impl Bar {
    pub(super) fn new(what: &'static str, total: u64) -> Self {
        let terminal = std::io::stderr().is_terminal();
        Self {
            what,
            total,
            next: Instant::now() + QUIET,
            shown: false,
            terminal,
        }
    }

    pub(super) fn at(&mut self, done: u64) {
        if self.terminal && Instant::now() >= self.next {
            let percent = u128::from(done) * 100 / u128::from(self.total.max(1));
            // Progress is a courtesy.
            let _ = write!(
                std::io::stderr(),
                "\r{}: {percent} % of {} MiB",
                self.what,
                self.total >> 20
            );
            self.next = Instant::now() + INTERVAL;
            self.shown = true;
        }
    }

    /// Leaves a clean line for what comes next.
    pub(super) fn end(&mut self) {
        if std::mem::take(&mut self.shown) {
            // As above.
            let _ = write!(std::io::stderr(), "\r\x1b[K");
        }
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        self.end();
    }
}
