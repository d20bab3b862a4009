//! The kernel's log as `/dev/kmsg` gives it, and how full a file system is: figures for people.
//!
//! Owns nothing: each call opens, reads and closes. Never here: writing to the kernel's log.

use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// Records read at most: the kernel's ring holds no more at its usual 256 KiB.
const RECORDS_MAX: usize = 8192;
/// Longest record (`CONSOLE_EXT_LOG_MAX` of the kernel).
const RECORD_BYTES_MAX: usize = 8192;

/// Opens the kernel's log at its oldest record; each handle reads on its own.
///
/// # Errors
/// `PermissionDenied` where only CAP_SYSLOG may read; as `open(2)`.
pub fn open(path: &Path) -> io::Result<File> {
    // open(2): without O_NONBLOCK a read behind the last record waits for the next.
    OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(path)
}

/// Reads the records that are there now, raw: `PRIORITY,SEQUENCE,MICROSECONDS,...;TEXT`.
///
/// # Errors
/// As `read(2)`.
pub fn records(mut file: File) -> io::Result<Vec<String>> {
    let mut found = Vec::new();
    let mut buf = [0u8; RECORD_BYTES_MAX];
    while found.len() < RECORDS_MAX {
        match file.read(&mut buf) {
            Ok(0) => break,
            Ok(n) => found.push(String::from_utf8_lossy(&buf[..n]).into_owned()),
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => break,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            // The kernel overwrote the record under us (EPIPE); the next read goes on behind it.
            Err(e) if e.kind() == io::ErrorKind::BrokenPipe => {}
            Err(e) => return Err(e),
        }
    }
    Ok(found)
}

/// Bytes of a file system.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Space {
    /// All of it.
    pub total_bytes: u64,
    /// What an unprivileged process may still use.
    pub available_bytes: u64,
}

/// How full the file system under `path` is.
///
/// # Errors
/// As `statvfs(3)`.
pub fn space(path: &Path) -> io::Result<Space> {
    Ok(figures(&nix::sys::statvfs::statvfs(path)?))
}

/// How full the file system is that `place` lies on.
///
/// # Errors
/// As `fstatvfs(3)`.
pub fn space_of(place: BorrowedFd<'_>) -> io::Result<Space> {
    Ok(figures(&nix::sys::statvfs::fstatvfs(place)?))
}

/// A handle on a folder that only names it: neither it nor what is in it can be read through it.
///
/// # Errors
/// As `open(2)`.
pub fn place(folder: &Path) -> io::Result<OwnedFd> {
    OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_PATH | libc::O_DIRECTORY)
        .open(folder)
        .map(OwnedFd::from)
}

fn figures(found: &nix::sys::statvfs::Statvfs) -> Space {
    let unit = found.fragment_size();
    Space {
        total_bytes: found.blocks().saturating_mul(unit),
        available_bytes: found.blocks_available().saturating_mul(unit),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plain_file_reads_as_one_record_and_an_absent_one_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("kmsg");
        std::fs::write(&path, "6,1,2,-;hello\n").unwrap();
        assert_eq!(records(open(&path).unwrap()).unwrap(), ["6,1,2,-;hello\n"]);
        assert!(open(&folder.path().join("absent")).is_err());
    }

    #[test]
    fn a_file_system_has_no_more_room_than_size() {
        let folder = tempfile::tempdir().unwrap();
        let found = space(folder.path()).unwrap();
        assert!(found.total_bytes > 0 && found.available_bytes <= found.total_bytes);
        let handle = place(folder.path()).unwrap();
        let same = space_of(std::os::fd::AsFd::as_fd(&handle)).unwrap();
        assert_eq!(same.total_bytes, found.total_bytes);
    }
}
