//! Where a log lies: a file, a block device, a partition inside an image, or a folder of segments.
//!
//! One trait, so that recovery, committer and verification are one code path, and so that a model of
//! a disk can take a device's place. Reads past the end of what was written give zeros.

use ledger_core::SEGMENTS_OFFSET;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

/// Bytes that a log in a growing file or folder may take: 64 GiB, far above any data disk in use.
pub const GROWING_BYTES_MAX: u64 = 64 * 1024 * 1024 * 1024;

/// Work beside the commits, in pieces.
pub trait Beside: Send + Sync {
    /// Does the next piece; `false` where there is none for now.
    fn piece(&self) -> bool;
}

/// A device that keeps a log.
pub trait Device: Send + Sync {
    /// Bytes that the log may take.
    fn capacity(&self) -> u64;
    /// Bytes of a sector: what the device writes whole.
    fn sector_bytes(&self) -> u32;
    /// Fills `buf` from `offset`.
    ///
    /// # Errors
    /// As `pread(2)`.
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()>;
    /// Writes all of `bytes` at `offset`.
    ///
    /// # Errors
    /// As `pwrite(2)`.
    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()>;
    /// Makes every write before it durable.
    ///
    /// # Errors
    /// As `fdatasync(2)`; what was written since the last one may be lost for ever.
    fn sync(&self) -> io::Result<()>;
    /// Begins to write out what was written to a range, so that the next sync has less to do.
    ///
    /// # Errors
    /// As `sync_file_range(2)`, or that it cannot; nothing depends on it.
    fn start_writing(&self, _offset: u64, _bytes: u64) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }
    /// Whether the device itself has the pieces of such work done, as long as it is there, and no thread is
    /// to: a model of a disk does, at moments of its choosing.
    fn takes_beside(&self, _work: &Arc<dyn Beside>) -> bool {
        false
    }
    /// Gives back storage whose content is of no use any more, where that is room for others;
    /// afterwards it holds anything.
    ///
    /// # Errors
    /// As `fallocate(2)`; nothing depends on it.
    fn discard(&self, _offset: u64, _bytes: u64) -> io::Result<()> {
        Ok(())
    }
    /// Bytes of the pieces that segments lie in by name, where the device has such: the log's own
    /// segments must be as long.
    fn piece_bytes(&self) -> Option<u64> {
        None
    }
    /// Where an offset of the log is, for people: the file and the byte in it.
    fn locate(&self, offset: u64) -> String;
}

/// Whether a device is opened to be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Never written.
    Read,
    /// Written, by one process at a time.
    Write,
}

/// One file or block device, or a range of one.
pub struct FileDevice {
    file: File,
    name: String,
    first: u64,
    capacity: u64,
    sector_bytes: u32,
}

impl FileDevice {
    /// Over an open file. An empty regular file grows; any other size is the capacity.
    ///
    /// # Errors
    /// As `flock(2)` (somebody else writes this log) and `lseek(2)`.
    pub fn new(file: File, name: String, access: Access) -> io::Result<Self> {
        let bytes = sys::mapping::byte_length(&file)?;
        let sector_bytes = sys::blockdev::sector_bytes(&file)?;
        let capacity = if bytes == 0 { GROWING_BYTES_MAX } else { bytes };
        Self::range(file, name, access, 0, capacity, sector_bytes)
    }

    /// Over a range: a partition inside an image or disk.
    ///
    /// # Errors
    /// As [`Self::new`].
    pub fn range(
        file: File,
        name: String,
        access: Access,
        first: u64,
        capacity: u64,
        sector_bytes: u32,
    ) -> io::Result<Self> {
        if access == Access::Write {
            lock(&file, &name)?;
        }
        Ok(Self {
            file,
            name,
            first,
            capacity,
            sector_bytes,
        })
    }

    fn at(&self, offset: u64) -> io::Result<u64> {
        self.first
            .checked_add(offset)
            .ok_or_else(|| io::ErrorKind::InvalidInput.into())
    }
}

impl Device for FileDevice {
    fn capacity(&self) -> u64 {
        self.capacity
    }
    fn sector_bytes(&self) -> u32 {
        self.sector_bytes
    }
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        read_or_zero(&self.file, self.at(offset)?, buf)
    }
    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let end = offset.checked_add(bytes.len() as u64);
        if end.is_none_or(|end| end > self.capacity) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        self.file.write_all_at(bytes, self.at(offset)?)
    }
    fn sync(&self) -> io::Result<()> {
        self.file.sync_data()
    }
    fn start_writing(&self, offset: u64, bytes: u64) -> io::Result<()> {
        sys::space::start_writing(&self.file, self.at(offset)?, bytes)
    }
    fn discard(&self, offset: u64, bytes: u64) -> io::Result<()> {
        let file = self.file.metadata()?;
        // A file of its whole length was given so that nobody else takes the room.
        if !file.is_file() || file.len() >= self.at(self.capacity)? {
            return Ok(());
        }
        sys::space::punch_hole(&self.file, self.at(offset)?, bytes)
    }
    fn locate(&self, offset: u64) -> String {
        format!(
            "{} at byte {}",
            self.name,
            self.first.saturating_add(offset)
        )
    }
}

/// A folder: the superblocks in `superblock`, each segment in a file of its own.
pub struct FolderDevice {
    folder: PathBuf,
    segment_bytes: u64,
    access: Access,
    open: Mutex<Vec<Part>>,
    /// Held for its lock.
    _lock: File,
}

struct Part {
    number: u64,
    file: Arc<File>,
    dirty: bool,
}

/// Segment files held open; recovery and queries mostly touch the last one.
const PARTS_OPEN_MAX: usize = 16;
/// The superblocks' part.
const SUPERBLOCK_PART: u64 = 0;

impl FolderDevice {
    /// Over a folder that exists.
    ///
    /// # Errors
    /// As `open(2)` and `flock(2)`.
    pub fn new(folder: &Path, segment_bytes: u64, access: Access) -> io::Result<Self> {
        let lock_file = File::open(folder)?;
        if access == Access::Write {
            lock(&lock_file, &folder.display().to_string())?;
            // Of names that an earlier process made, and did not live to sync.
            lock_file.sync_all()?;
        }
        Ok(Self {
            folder: folder.to_owned(),
            segment_bytes,
            access,
            open: Mutex::new(Vec::new()),
            _lock: lock_file,
        })
    }

    fn path(&self, part: u64) -> PathBuf {
        match part.checked_sub(1) {
            None => self.folder.join("superblock"),
            Some(segment) => self.folder.join(format!("segment-{segment:06}")),
        }
    }

    /// The part that holds an offset, the offset in it, and the bytes left in it.
    fn part(&self, offset: u64) -> (u64, u64, u64) {
        match offset.checked_sub(SEGMENTS_OFFSET) {
            None => (SUPERBLOCK_PART, offset, SEGMENTS_OFFSET - offset),
            Some(at) => {
                let within = at % self.segment_bytes;
                (
                    at / self.segment_bytes + 1,
                    within,
                    self.segment_bytes - within,
                )
            }
        }
    }

    fn file(&self, number: u64, create: bool, dirty: bool) -> io::Result<Option<Arc<File>>> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(part) = open.iter_mut().find(|p| p.number == number) {
            part.dirty |= dirty;
            return Ok(Some(part.file.clone()));
        }
        let path = self.path(number);
        let mut options = OpenOptions::new();
        options.read(true).write(self.access == Access::Write);
        let file = match options.open(&path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                if !create {
                    return Ok(None);
                }
                let file = options.create_new(true).open(&path)?;
                // The name must survive as the content does.
                self._lock.sync_all()?;
                file
            }
            other => other?,
        };
        if open.len() >= PARTS_OPEN_MAX
            && let Some(idle) = open.iter().position(|p| !p.dirty)
        {
            open.remove(idle);
        }
        let file = Arc::new(file);
        open.push(Part {
            number,
            file: file.clone(),
            dirty,
        });
        Ok(Some(file))
    }
}

impl Device for FolderDevice {
    fn capacity(&self) -> u64 {
        GROWING_BYTES_MAX
    }
    fn sector_bytes(&self) -> u32 {
        ledger_core::SECTOR_BYTES_MIN
    }
    fn read_at(&self, mut offset: u64, mut buf: &mut [u8]) -> io::Result<()> {
        while !buf.is_empty() {
            let (number, at, left) = self.part(offset);
            let n = buf.len().min(usize::try_from(left).unwrap_or(usize::MAX));
            let (now, rest) = buf.split_at_mut(n);
            match self.file(number, false, false)? {
                Some(file) => read_or_zero(&file, at, now)?,
                None => now.fill(0),
            }
            offset += n as u64;
            buf = rest;
        }
        Ok(())
    }
    fn write_at(&self, mut offset: u64, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let (number, at, left) = self.part(offset);
            let n = bytes.len().min(usize::try_from(left).unwrap_or(usize::MAX));
            let (now, rest) = bytes.split_at(n);
            let file = self
                .file(number, true, true)?
                .ok_or(io::ErrorKind::NotFound)?;
            file.write_all_at(now, at)?;
            // A sync on another thread may have taken the mark off before these bytes were there.
            self.file(number, true, true)?;
            offset += n as u64;
            bytes = rest;
        }
        Ok(())
    }
    fn sync(&self) -> io::Result<()> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        for part in open.iter_mut().filter(|p| p.dirty) {
            part.file.sync_data()?;
            part.dirty = false;
        }
        Ok(())
    }
    fn start_writing(&self, offset: u64, bytes: u64) -> io::Result<()> {
        let (number, at, _) = self.part(offset);
        match self.file(number, false, false)? {
            Some(file) => sys::space::start_writing(&file, at, bytes),
            None => Ok(()),
        }
    }
    fn discard(&self, offset: u64, bytes: u64) -> io::Result<()> {
        let (number, at, _) = self.part(offset);
        match self.file(number, false, false)? {
            Some(file) => sys::space::punch_hole(&file, at, bytes),
            None => Ok(()),
        }
    }
    fn piece_bytes(&self) -> Option<u64> {
        Some(self.segment_bytes)
    }
    fn locate(&self, offset: u64) -> String {
        let (number, at, _) = self.part(offset);
        format!("{} at byte {at}", self.path(number).display())
    }
}

/// Reads; what lies past the end is zero.
fn read_or_zero(file: &File, mut offset: u64, mut buf: &mut [u8]) -> io::Result<()> {
    while !buf.is_empty() {
        match file.read_at(buf, offset) {
            Ok(0) => {
                buf.fill(0);
                return Ok(());
            }
            Ok(n) => {
                offset += n as u64;
                buf = buf.get_mut(n..).unwrap_or_default();
            }
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

fn lock(file: &File, name: &str) -> io::Result<()> {
    file.try_lock().map_err(|e| match e {
        std::fs::TryLockError::WouldBlock => io::Error::new(
            io::ErrorKind::ResourceBusy,
            format!("{name}: another process writes this log"),
        ),
        std::fs::TryLockError::Error(e) => e,
    })
}
