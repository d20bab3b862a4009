//! Space of the file system that a descriptor stands on.

use nix::fcntl::{FallocateFlags, OFlag, PosixFadviseAdvice, fallocate, open, posix_fadvise};
use nix::sys::stat::Mode;
use nix::sys::statvfs::{FsFlags, fstatvfs};
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::path::Path;

/// Bytes of a file system.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Space {
    /// Its size.
    pub total: u64,
    /// What ordinary users can still write.
    pub available: u64,
    /// What is not in use, the superuser's reserve included.
    pub free: u64,
    /// Whether nothing can be written: mounted so, or turned so after an error.
    pub read_only: bool,
}

/// Reads it; does not touch the disk on the file systems that we mount.
///
/// # Errors
/// As `fstatvfs(3)`.
pub fn of_fd(fd: &impl AsFd) -> io::Result<Space> {
    let found = fstatvfs(fd)?;
    let unit = found.fragment_size();
    Ok(Space {
        total: found.blocks().saturating_mul(unit),
        available: found.blocks_available().saturating_mul(unit),
        free: found.blocks_free().saturating_mul(unit),
        read_only: found.flags().contains(FsFlags::ST_RDONLY),
    })
}

/// Makes a file without a name and lets it go: whether a file system takes writes. Kernels since 6.12, and their
/// stable branches, no longer show in the flags that ext4 stopped writing after an error; only a write tells.
///
/// # Errors
/// As `open(2)`: `ReadOnlyFilesystem` or `EIO` after an error, `StorageFull` without a free inode.
pub fn try_write(folder: &Path) -> io::Result<()> {
    let how = OFlag::O_TMPFILE | OFlag::O_WRONLY | OFlag::O_CLOEXEC;
    Ok(open(folder, how, Mode::S_IRUSR).map(drop)?)
}

/// Gives a range of a file back to its file system; it reads as zeros from then on, and the file
/// keeps its length.
///
/// # Errors
/// As `fallocate(2)`: `EOPNOTSUPP` where files have no holes.
pub fn punch_hole(fd: &impl AsFd, offset: u64, bytes: u64) -> io::Result<()> {
    let signed = |n: u64| i64::try_from(n).map_err(io::Error::other);
    let how = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
    Ok(fallocate(fd, how, signed(offset)?, signed(bytes)?)?)
}

/// Has the kernel begin to write out what it holds of a range, and does not wait. Unlike a sync it says
/// nothing of errors, so that whoever syncs is told of them.
///
/// # Errors
/// As `sync_file_range(2)`.
pub fn start_writing(fd: &impl AsFd, offset: u64, bytes: u64) -> io::Result<()> {
    let signed = |n: u64| i64::try_from(n).map_err(io::Error::other);
    let (offset, bytes) = (signed(offset)?, signed(bytes)?);
    let fd = fd.as_fd().as_raw_fd();
    // SAFETY: numbers alone are passed; the descriptor is borrowed over the call.
    let done = unsafe { libc::sync_file_range(fd, offset, bytes, libc::SYNC_FILE_RANGE_WRITE) };
    if done == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Lets the kernel forget what it holds of a file in memory, so that the next read is the disk's.
///
/// # Errors
/// As `posix_fadvise(2)`.
pub fn forget(fd: &impl AsFd) -> io::Result<()> {
    Ok(posix_fadvise(
        fd,
        0,
        0,
        PosixFadviseAdvice::POSIX_FADV_DONTNEED,
    )?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_real_file_system_has_room_within_its_size() {
        let space = of_fd(&tempfile::tempfile().unwrap()).unwrap();
        assert!(space.total > 0);
        assert!(space.available <= space.free && space.free <= space.total);
    }
}
