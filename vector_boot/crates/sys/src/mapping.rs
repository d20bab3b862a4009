//! Read-only mappings of files and block devices, and how long these are.
//!
//! Owns: the mapping, from [`Mapping::open_file`] or [`Mapping::of_fd`] until drop. A mapping is
//! `MAP_SHARED` and `PROT_READ`: nothing is copied, the kernel may evict its pages.
//!
//! Never here: writing, growing, reading ahead. Start with [`Mapping::of_fd`].
//!
//! What the caller owes: a file that somebody shortens under a mapping turns later reads into
//! SIGBUS. Packages lie on block devices and read-only images, which nobody shortens; host
//! commands map a file that the user named and that the user is asked to leave alone meanwhile.

use memmap2::{Mmap, MmapOptions};
use nix::sys::stat::{SFlag, fstat};
use std::fs::OpenOptions;
use std::io;
use std::ops::Deref;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

nix::ioctl_read!(
    /// Bytes of a block device (BLKGETSIZE64 of `linux/fs.h`; the kernel writes a u64 whatever its name says).
    blkgetsize64,
    0x12,
    114,
    u64
);

/// Bytes of a file or of a block device that are mapped read-only. Derefs to `&[u8]`.
#[derive(Debug, Default)]
pub struct Mapping {
    /// Absent for zero bytes, which `mmap(2)` refuses.
    map: Option<Mmap>,
}

impl Mapping {
    /// Maps a whole regular file or block device.
    ///
    /// # Errors
    /// As `open(2)` and [`Self::of_fd`]; a folder, pipe, socket or character device is `InvalidInput`.
    pub fn open_file(path: impl AsRef<Path>) -> io::Result<Self> {
        Self::open_prefix(path, u64::MAX).map(|(mapping, _)| mapping)
    }

    /// Maps at most the first `bytes_max` bytes of a file or block device; the second value is its
    /// whole length. For readers that need a file's head where address space is limited.
    ///
    /// # Errors
    /// As [`Self::open_file`].
    pub fn open_prefix(path: impl AsRef<Path>, bytes_max: u64) -> io::Result<(Self, u64)> {
        // open(2): O_NONBLOCK keeps the opening of a FIFO from waiting for its writer; it has no
        // meaning for regular files and block devices.
        let file = OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_NONBLOCK)
            .open(path)?;
        let whole = byte_length(&file)?;
        let mapped = usize::try_from(whole.min(bytes_max)).map_err(|_| too_long(whole))?;
        Ok((Self::of_fd(&file, 0, mapped)?, whole))
    }

    /// Maps `len` bytes from `offset` on, which need not be a multiple of the page size.
    ///
    /// # Errors
    /// `UnexpectedEof` where the range ends past the file; `InvalidInput` for what is neither a
    /// regular file (memfds are) nor a block device; as `mmap(2)`.
    pub fn of_fd(fd: &impl AsFd, offset: u64, len: usize) -> io::Result<Self> {
        let fd = fd.as_fd();
        let whole = byte_length(&fd)?;
        // usize is at most 64 bits on every Linux target.
        let end = offset.checked_add(len as u64);
        if end.is_none_or(|end| end > whole) {
            return Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                format!("map {len} bytes from {offset}: file has {whole} bytes"),
            ));
        }
        if len == 0 {
            return Ok(Self::default());
        }
        // SAFETY: the mapping is private to this value and read-only, its range was checked against
        // the file's length above, and a null hint replaces no other mapping. That nobody shortens
        // the file meanwhile is what this module's header asks of the caller; that somebody writes
        // to it changes bytes, never the bounds that the slice stands on.
        let map = unsafe {
            MmapOptions::new()
                .offset(offset)
                .len(len)
                .map(fd.as_raw_fd())?
        };
        Ok(Self { map: Some(map) })
    }

    /// Reads a range into memory now, so that a disk that cannot give it is an error here and no
    /// SIGBUS later. What lies outside the mapping is left out; a kernel before 5.14 reads nothing.
    ///
    /// # Errors
    /// As `madvise(2)` with MADV_POPULATE_READ: EFAULT where reading would have been a SIGBUS.
    pub fn populate(&self, range: std::ops::Range<usize>) -> io::Result<()> {
        let Some(bytes) = self.get(range.start..range.end.min(self.len())) else {
            return Ok(());
        };
        // madvise(2) wants the beginning of a page: the one that holds the first byte.
        let before = bytes.as_ptr().addr() % page_bytes();
        let at = bytes.as_ptr().wrapping_sub(before).cast_mut().cast();
        // SAFETY: the range begins in the first byte's page and ends in the last byte's, all of it
        // pages of this mapping; reading them in changes no content.
        let done = unsafe { libc::madvise(at, bytes.len() + before, libc::MADV_POPULATE_READ) };
        if done == 0 {
            return Ok(());
        }
        match io::Error::last_os_error() {
            e if e.raw_os_error() == Some(libc::EINVAL) => Ok(()),
            e => Err(e),
        }
    }

    /// Maps all of an open file or block device.
    ///
    /// # Errors
    /// As [`Self::of_fd`].
    pub fn of_whole_fd(fd: &impl AsFd) -> io::Result<Self> {
        let whole = byte_length(fd)?;
        Self::of_fd(fd, 0, usize::try_from(whole).map_err(|_| too_long(whole))?)
    }
}

impl Deref for Mapping {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.map.as_deref().unwrap_or_default()
    }
}

impl AsRef<[u8]> for Mapping {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

/// Bytes of a page: 4096 on x86_64; a kernel for aarch64 has 4096, 16384 or 65536.
#[must_use]
pub fn page_bytes() -> usize {
    // SAFETY: sysconf(3) takes a number only.
    let bytes = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    // It does not fail for this name; every Linux has pages of at least this size.
    usize::try_from(bytes).unwrap_or(4096)
}

/// Bytes of a regular file, memfd or block device.
///
/// # Errors
/// `InvalidInput` for every other kind of file; as `fstat(2)` and `ioctl(2)`.
pub fn byte_length(fd: &impl AsFd) -> io::Result<u64> {
    let fd = fd.as_fd();
    let stat = fstat(fd)?;
    match SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT {
        SFlag::S_IFREG => u64::try_from(stat.st_size).map_err(io::Error::other),
        SFlag::S_IFBLK => device_length(fd),
        _ => Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "neither a regular file nor a block device",
        )),
    }
}

fn device_length(fd: BorrowedFd<'_>) -> io::Result<u64> {
    let mut bytes = 0u64;
    // SAFETY: BLKGETSIZE64 writes one u64 to the address that it is given, which is `bytes`, alive
    // and aligned for the whole call; `fd` is open for as long as its borrow.
    unsafe { blkgetsize64(fd.as_raw_fd(), &raw mut bytes)? };
    Ok(bytes)
}

fn too_long(bytes: u64) -> io::Error {
    io::Error::new(
        io::ErrorKind::FileTooLarge,
        format!("map {bytes} bytes: more than the address space"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::io::Write;

    fn file_of(content: &[u8]) -> File {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(content).unwrap();
        file
    }

    #[test]
    fn what_cannot_be_read_any_more_is_an_error_and_no_signal() {
        let file = tempfile::tempfile().unwrap();
        file.set_len(16 * 4096).unwrap();
        let mapping = Mapping::of_fd(&file, 512, 15 * 4096).unwrap();
        mapping.populate(0..mapping.len()).unwrap();
        mapping.populate(7..usize::MAX).unwrap();
        file.set_len(4096).unwrap();
        mapping.populate(0..100).unwrap();
        assert!(mapping.populate(0..mapping.len()).is_err());
        assert!(mapping.populate(10 * 4096..10 * 4096 + 1).is_err());
    }

    #[test]
    fn a_mapping_shows_the_file_from_any_offset() {
        let content: Vec<u8> = (0..20_000u32).map(|i| (i % 251) as u8).collect();
        let file = file_of(&content);
        for (offset, len) in [
            (0, 20_000),
            (1, 19_999),
            (4095, 2),
            (4096, 100),
            (19_999, 1),
        ] {
            let mapping = Mapping::of_fd(&file, offset, len).unwrap();
            let start = offset as usize;
            assert_eq!(&mapping[..], &content[start..start + len]);
        }
        assert_eq!(&Mapping::of_whole_fd(&file).unwrap()[..], &content[..]);
    }

    #[test]
    fn zero_bytes_map_to_an_empty_slice() {
        let file = file_of(b"");
        assert!(Mapping::of_whole_fd(&file).unwrap().is_empty());
        assert!(Mapping::of_fd(&file_of(b"abc"), 3, 0).unwrap().is_empty());
    }

    #[test]
    fn a_range_past_the_end_is_refused_with_its_numbers() {
        let file = file_of(b"abc");
        for (offset, len) in [(0, 4), (3, 1), (4, 0), (u64::MAX, 1), (1, usize::MAX)] {
            let refused = Mapping::of_fd(&file, offset, len).unwrap_err();
            assert_eq!(refused.kind(), io::ErrorKind::UnexpectedEof);
            assert!(refused.to_string().contains("file has 3 bytes"));
        }
    }

    #[test]
    fn a_prefix_reports_the_whole_length() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("f");
        std::fs::write(&path, b"abcdef").unwrap();
        let (mapping, whole) = Mapping::open_prefix(&path, 4).unwrap();
        assert_eq!((&mapping[..], whole), (&b"abcd"[..], 6));
        assert_eq!(&Mapping::open_file(&path).unwrap()[..], b"abcdef");
    }

    #[test]
    fn what_cannot_be_mapped_is_named_and_never_waited_for() {
        let folder = tempfile::tempdir().unwrap();
        let fifo = folder.path().join("fifo");
        nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
        for path in [folder.path(), &fifo, Path::new("/dev/null")] {
            let refused = Mapping::open_file(path).unwrap_err();
            assert_eq!(refused.kind(), io::ErrorKind::InvalidInput, "{path:?}");
        }
        let absent = Mapping::open_file(folder.path().join("absent")).unwrap_err();
        assert_eq!(absent.kind(), io::ErrorKind::NotFound);
    }
}
