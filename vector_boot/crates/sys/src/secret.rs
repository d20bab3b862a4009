//! A secret in memory: on a page of its own that is never swapped, never in a core dump, and wiped at the end;
//! and the file that keeps one.
//!
//! Start with [`Secret`]. What the secret is for is decided elsewhere.

use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::ptr::NonNull;

/// `N` bytes on a page of their own, at most [`BYTES_MAX`].
pub struct Secret<const N: usize> {
    at: NonNull<u8>,
    locked: bool,
}

/// What fits the smallest page that there is.
pub const BYTES_MAX: usize = 4096;

// SAFETY: the mapping is plain memory that moves with its owner; no thread-bound state.
unsafe impl<const N: usize> Send for Secret<N> {}
// SAFETY: through a shared reference the bytes are only read.
unsafe impl<const N: usize> Sync for Secret<N> {}

impl<const N: usize> Secret<N> {
    /// Zeros, to be written by `fill`.
    ///
    /// # Errors
    /// As `mmap(2)`, and what `fill` answers.
    pub fn new(fill: impl FnOnce(&mut [u8; N]) -> io::Result<()>) -> io::Result<Self> {
        const { assert!(N > 0 && N <= BYTES_MAX) };
        // SAFETY: a null hint cannot replace a mapping; the result is checked.
        let at = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                BYTES_MAX,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
                -1,
                0,
            )
        };
        if at == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let at = NonNull::new(at.cast::<u8>()).ok_or(io::ErrorKind::InvalidData)?;
        // SAFETY: both take the mapping that was just made and change nothing in it. A process that may lock no
        // memory does without, and `is_locked` says so; a kernel without MADV_DONTDUMP writes no core dump of ours,
        // whose limit is 0.
        let locked = unsafe {
            libc::madvise(at.as_ptr().cast(), BYTES_MAX, libc::MADV_DONTDUMP);
            libc::mlock(at.as_ptr().cast(), BYTES_MAX) == 0
        };
        let this = Self { at, locked };
        // SAFETY: N bytes at the beginning of the mapping, which nobody else knows yet.
        fill(unsafe { &mut *this.at.as_ptr().cast::<[u8; N]>() })?;
        Ok(this)
    }

    /// The bytes.
    #[must_use]
    pub fn bytes(&self) -> &[u8; N] {
        // SAFETY: N bytes at the beginning of the mapping, alive as long as self and written in `new` alone.
        unsafe { &*self.at.as_ptr().cast::<[u8; N]>() }
    }

    /// Whether the page stays out of swap.
    #[must_use]
    pub fn is_locked(&self) -> bool {
        self.locked
    }
}

impl<const N: usize> Drop for Secret<N> {
    fn drop(&mut self) {
        for i in 0..N {
            // SAFETY: inside the mapping; volatile, so that it is done although nobody reads it again.
            unsafe { self.at.as_ptr().add(i).write_volatile(0) };
        }
        // SAFETY: the mapping of `new`, of which no reference outlives self.
        unsafe { libc::munmap(self.at.as_ptr().cast(), BYTES_MAX) };
    }
}

impl<const N: usize> std::fmt::Debug for Secret<N> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Secret<{N}>(..)")
    }
}

/// What is wrong with a file that should hold a secret.
#[derive(Debug)]
pub enum FileFault {
    /// There is none.
    Absent,
    /// It could not be opened or read.
    Io(io::Error),
    /// It is no regular file of ours that nobody else can read.
    Exposed(String),
    /// Bytes found.
    Length(u64),
}

/// Reads a file of exactly `N` bytes that belongs to this process's user and is for nobody else.
///
/// # Errors
/// [`FileFault`]. A symbolic link is not followed.
pub fn read_file<const N: usize>(path: &Path, into: &mut [u8; N]) -> Result<(), FileFault> {
    let opened = OpenOptions::new()
        .read(true)
        // A FIFO would hold up whoever opens it.
        .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
        .open(path);
    let mut file = match opened {
        Ok(file) => file,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Err(FileFault::Absent),
        Err(e) => return Err(FileFault::Io(e)),
    };
    let meta = file.metadata().map_err(FileFault::Io)?;
    let (mode, own) = (meta.mode() & 0o7777, crate::packet::own_uid());
    if !meta.is_file() || mode & 0o077 != 0 || meta.uid() != own {
        let uid = meta.uid();
        let kind = if meta.is_file() { "" } else { "no file, " };
        let why = format!("{kind}mode {mode:04o} of uid {uid}, expected 0400 of uid {own}");
        return Err(FileFault::Exposed(why));
    }
    if meta.len() != N as u64 {
        return Err(FileFault::Length(meta.len()));
    }
    file.read_exact(into).map_err(FileFault::Io)
}

/// Standard input without a buffer, which would keep what passes through it.
///
/// # Errors
/// As `fcntl(2)`.
pub fn unbuffered_stdin() -> io::Result<File> {
    Ok(File::from(io::stdin().as_fd().try_clone_to_owned()?))
}

/// Standard output without a buffer, for the same reason.
///
/// # Errors
/// As `fcntl(2)`.
pub fn unbuffered_stdout() -> io::Result<File> {
    Ok(File::from(io::stdout().as_fd().try_clone_to_owned()?))
}

/// From here on this process writes no core dump, and no other of its user may look into it. For a command that
/// holds a secret; a kernel that refuses leaves it as it was.
pub fn never_dump() {
    // SAFETY: changes a flag of this process; no memory is handed over.
    unsafe { libc::prctl(libc::PR_SET_DUMPABLE, 0, 0, 0, 0) };
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::os::unix::fs::{PermissionsExt, symlink};

    fn read(path: &Path) -> Result<[u8; 4], FileFault> {
        let mut bytes = [0; 4];
        read_file(path, &mut bytes).map(|()| bytes)
    }

    fn create(path: &Path, content: &[u8]) {
        let mut options = OpenOptions::new();
        let file = options.write(true).create_new(true).mode(0o400).open(path);
        file.unwrap().write_all(content).unwrap();
    }

    #[test]
    fn the_page_is_not_in_core_dumps() {
        let secret = Secret::<32>::new(|bytes| crate::random::fill(bytes)).unwrap();
        assert_ne!(secret.bytes(), &[0; 32]);
        let at = format!("{:x}-", secret.at.as_ptr() as usize);
        let maps = std::fs::read_to_string("/proc/self/smaps").unwrap();
        let own = maps.split_once(&at).unwrap().1;
        let flags = own.lines().find(|l| l.starts_with("VmFlags:")).unwrap();
        assert!(flags.contains(" dd"), "{flags}");
        assert_eq!(flags.contains(" lo"), secret.is_locked(), "{flags}");
        assert_eq!(format!("{secret:?}"), "Secret<32>(..)");
    }

    #[test]
    fn a_file_is_read_only_if_it_is_whole_and_for_nobody_else() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key");
        assert!(matches!(read(&path), Err(FileFault::Absent)));
        create(&path, b"abcd");
        assert_eq!(&read(&path).unwrap(), b"abcd");
        for mode in [0o440, 0o404, 0o644] {
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
            assert!(
                matches!(read(&path), Err(FileFault::Exposed(_))),
                "{mode:o}"
            );
        }
        std::fs::remove_file(&path).unwrap();
        create(&path, b"abc");
        assert!(matches!(read(&path), Err(FileFault::Length(3))));
        let link = folder.path().join("link");
        symlink(&path, &link).unwrap();
        assert!(matches!(read(&link), Err(FileFault::Io(_))));
        assert!(matches!(read(folder.path()), Err(FileFault::Exposed(_))));
    }
}
