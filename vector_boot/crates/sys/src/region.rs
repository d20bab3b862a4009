//! A shared memory region that one process writes: a memfd, mapped whole, kept over exec.

use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::ptr::NonNull;

/// A memfd of fixed size, mapped readable and writable by its single owner.
#[derive(Debug)]
pub struct Region {
    file: File,
    at: NonNull<u8>,
    bytes: usize,
}

// SAFETY: the mapping is plain memory that moves with its owner; no thread-bound state.
unsafe impl Send for Region {}

impl Region {
    /// A zeroed region.
    ///
    /// # Errors
    /// As `memfd_create(2)` and `mmap(2)`.
    pub fn new(name: &str, bytes: usize) -> io::Result<Self> {
        Self::over(crate::memfd::shared(name, bytes as u64)?, bytes)
    }

    /// Takes up a region that an earlier image of this process made.
    ///
    /// # Errors
    /// `InvalidData` unless it is a memfd of exactly so many bytes whose size is sealed and whose content is not;
    /// as `mmap(2)`.
    pub fn adopt(fd: OwnedFd, bytes: usize) -> io::Result<Self> {
        let file = File::from(fd);
        let refuse = |text: String| Err(io::Error::new(io::ErrorKind::InvalidData, text));
        // Anything but a memory file has no seals.
        let bits = fcntl(&file, FcntlArg::F_GET_SEALS).unwrap_or(0);
        let seals = SealFlag::from_bits_truncate(bits);
        let size = SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_SEAL;
        if seals != size {
            return refuse(format!("seals: {bits:#x}, limit {:#x}", size.bits()));
        }
        let found = file.metadata()?.len();
        if found != bytes as u64 {
            return refuse(format!("size: {found}, limit {bytes}"));
        }
        Self::over(file, bytes)
    }

    fn over(file: File, bytes: usize) -> io::Result<Self> {
        // SAFETY: a null hint cannot replace a mapping; `file` is ours, its size is `bytes` and
        // sealed, so no page of the mapping can vanish.
        let at = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                bytes,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                file.as_raw_fd(),
                0,
            )
        };
        if at == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let at = NonNull::new(at.cast()).ok_or(io::ErrorKind::InvalidData)?;
        Ok(Self { file, at, bytes })
    }

    /// The content.
    #[must_use]
    pub fn as_slice(&self) -> &[u8] {
        // SAFETY: `bytes` mapped bytes, alive as long as self. Nobody else maps the memfd: it is
        // never passed to another process while this one runs.
        unsafe { std::slice::from_raw_parts(self.at.as_ptr(), self.bytes) }
    }

    /// The content, to be changed.
    pub fn as_mut_slice(&mut self) -> &mut [u8] {
        // SAFETY: as above, and `&mut self` makes this the only reference.
        unsafe { std::slice::from_raw_parts_mut(self.at.as_ptr(), self.bytes) }
    }
}

impl AsFd for Region {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        // SAFETY: exactly the mapping that `over` made; no reference outlives self.
        unsafe { libc::munmap(self.at.as_ptr().cast(), self.bytes) };
    }
}
