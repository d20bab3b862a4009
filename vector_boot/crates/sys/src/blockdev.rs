//! What a block device says of itself.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileTypeExt;

nix::ioctl_read_bad!(
    /// BLKSSZGET of ioctl_list: the logical sector size of a block device.
    blksszget,
    0x1268,
    libc::c_int
);

/// Bytes of the sector that a regular file is taken to have.
const FILE_SECTOR_BYTES: u32 = 512;

/// Logical sector size: what the device writes whole. A regular file has 512.
///
/// # Errors
/// As `fstat(2)` and `ioctl(2)`.
pub fn sector_bytes(file: &File) -> io::Result<u32> {
    if !file.metadata()?.file_type().is_block_device() {
        return Ok(FILE_SECTOR_BYTES);
    }
    let mut bytes: libc::c_int = 0;
    // SAFETY: BLKSSZGET writes one int to a pointer to a live int; the descriptor is borrowed from
    // `file`, which is open, and was just seen to be a block device.
    unsafe { blksszget(file.as_raw_fd(), &raw mut bytes) }?;
    Ok(u32::try_from(bytes).unwrap_or(FILE_SECTOR_BYTES))
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_regular_file_has_sectors_of_512() {
        assert_eq!(
            super::sector_bytes(&tempfile::tempfile().unwrap()).unwrap(),
            512
        );
    }
}
