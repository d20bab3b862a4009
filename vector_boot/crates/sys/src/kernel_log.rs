//! The kernel's log as `/dev/kmsg` gives it, and how full a file system is: figures for people.
//!
//! Owns nothing: each call opens, reads and closes. Never here: writing to the kernel's log.

use std::fs::OpenOptions;
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// Records read at most: the kernel's ring holds no more at its usual 256 KiB.
const RECORDS_MAX: usize = 8192;
/// Longest record (`CONSOLE_EXT_LOG_MAX` of the kernel).
const RECORD_BYTES_MAX: usize = 8192;

/// Reads the records that are there now, raw: `PRIORITY,SEQUENCE,MICROSECONDS,...;TEXT`.
///
/// # Errors
/// `PermissionDenied` where only CAP_SYSLOG may read; as `open(2)` and `read(2)`.
pub fn records(path: &Path) -> io::Result<Vec<String>> {
    // open(2): without O_NONBLOCK a read behind the last record waits for the next.
    let mut file = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(path)?;
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
    let found = nix::sys::statvfs::statvfs(path)?;
    let unit = found.fragment_size();
    Ok(Space {
        total_bytes: found.blocks().saturating_mul(unit),
        available_bytes: found.blocks_available().saturating_mul(unit),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plain_file_reads_as_one_record_and_an_absent_one_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("kmsg");
        std::fs::write(&path, "6,1,2,-;hello\n").unwrap();
        assert_eq!(records(&path).unwrap(), ["6,1,2,-;hello\n"]);
        assert!(records(&folder.path().join("absent")).is_err());
    }

    #[test]
    fn a_file_system_has_no_more_room_than_size() {
        let folder = tempfile::tempdir().unwrap();
        let found = space(folder.path()).unwrap();
        assert!(found.total_bytes > 0 && found.available_bytes <= found.total_bytes);
    }
}
