//! Memory files: sealed content that cannot change, and pages that two processes share.

use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::fd::{AsRawFd, OwnedFd};

/// A memfd that may still be written; [`seal`] ends that.
///
/// # Errors
/// As `memfd_create(2)`.
pub fn create(name: &str) -> io::Result<File> {
    let fd = memfd_create(name, MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING)?;
    Ok(File::from(fd))
}

/// Forbids every further change of content and size.
///
/// # Errors
/// As `fcntl(2)` with F_ADD_SEALS; a writable mapping is `EBUSY`.
pub fn seal(file: &File) -> io::Result<()> {
    let all = SealFlag::F_SEAL_SHRINK
        | SealFlag::F_SEAL_GROW
        | SealFlag::F_SEAL_WRITE
        | SealFlag::F_SEAL_SEAL;
    fcntl(file, FcntlArg::F_ADD_SEALS(all))?;
    Ok(())
}

/// Whether this is a memfd of which neither content nor size can ever change.
#[must_use]
pub fn is_sealed(fd: &impl std::os::fd::AsFd) -> bool {
    let wanted = SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_WRITE;
    // Anything but a memory file has no seals.
    let bits = fcntl(fd.as_fd(), FcntlArg::F_GET_SEALS).unwrap_or(0);
    SealFlag::from_bits_truncate(bits).contains(wanted)
}

/// A second handle that only reads: a file that somebody has open for writing cannot be executed.
///
/// # Errors
/// As `open(2)`; without /proc there is no way to it.
pub fn reopen(file: &File) -> io::Result<OwnedFd> {
    File::open(format!("/proc/self/fd/{}", file.as_raw_fd())).map(OwnedFd::from)
}

/// Forbids every further change of size, leaves the content writable: for shared pages.
///
/// # Errors
/// As `fcntl(2)` with F_ADD_SEALS.
pub fn seal_size(file: &File) -> io::Result<()> {
    let size = SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_SEAL;
    fcntl(file, FcntlArg::F_ADD_SEALS(size))?;
    Ok(())
}

/// A memfd that holds `content` for ever, read position at its beginning.
///
/// # Errors
/// As `memfd_create(2)` and `write(2)`.
pub fn sealed(name: &str, content: &[u8]) -> io::Result<OwnedFd> {
    let mut file = create(name)?;
    file.write_all(content)?;
    file.seek(SeekFrom::Start(0))?;
    seal(&file)?;
    Ok(file.into())
}

/// A zeroed shared memory file of this size; its size is sealed.
///
/// # Errors
/// As `memfd_create(2)` and `ftruncate(2)`.
pub fn shared(name: &str, bytes: u64) -> io::Result<File> {
    let file = create(name)?;
    file.set_len(bytes)?;
    seal_size(&file)?;
    Ok(file)
}

/// Reads a small memfd or file whole, from its beginning, at most `limit` bytes.
///
/// # Errors
/// As `read(2)`; more than `limit` bytes are `InvalidData`.
pub fn read_small(file: &File, limit: u64) -> io::Result<Vec<u8>> {
    let mut reader = file;
    reader.seek(SeekFrom::Start(0))?;
    // In one piece where the size is known.
    let bytes = reader.metadata()?.len().min(limit);
    let mut content = Vec::with_capacity(usize::try_from(bytes).unwrap_or(0) + 1);
    reader.take(limit + 1).read_to_end(&mut content)?;
    if content.len() as u64 > limit {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            format!("content over {limit} bytes"),
        ));
    }
    Ok(content)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sealed_content_stays() {
        let mut file = File::from(sealed("x", b"abc").unwrap());
        assert!(is_sealed(&file) && !is_sealed(&shared("page", 4096).unwrap()));
        assert!(file.write_all(b"zzz").is_err());
        assert!(file.set_len(0).is_err());
        assert_eq!(read_small(&file, 3).unwrap(), b"abc");
        assert!(read_small(&file, 2).is_err());
    }

    #[test]
    fn a_shared_page_keeps_its_size() {
        let file = shared("page", 4096).unwrap();
        assert!(file.set_len(0).is_err());
        assert_eq!(file.metadata().unwrap().len(), 4096);
    }
}
