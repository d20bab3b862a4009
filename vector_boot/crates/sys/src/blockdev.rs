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

nix::ioctl_write_ptr_bad!(
    /// BLKPG of `linux/blkpg.h`: one change of one partition.
    blkpg,
    0x1269,
    BlkpgIoctlArg
);

nix::ioctl_write_ptr!(
    /// EXT4_IOC_RESIZE_FS of the kernel's `fs/ext4/ext4.h`: the wanted number of blocks.
    ext4_ioc_resize_fs,
    b'f',
    16,
    u64
);

/// `struct blkpg_ioctl_arg`.
#[repr(C)]
struct BlkpgIoctlArg {
    op: libc::c_int,
    flags: libc::c_int,
    datalen: libc::c_int,
    data: *mut libc::c_void,
}

/// `struct blkpg_partition`; the kernel reads no names.
#[repr(C)]
struct BlkpgPartition {
    start: i64,
    length: i64,
    pno: libc::c_int,
    devname: [u8; 64],
    volname: [u8; 64],
}

/// BLKPG_RESIZE_PARTITION of `linux/blkpg.h`.
const RESIZE_PARTITION: libc::c_int = 3;

/// Tells the kernel that a partition has another length, whether or not it or its neighbours are in use.
///
/// # Errors
/// As `ioctl(2)`: `EBUSY` where it would overlap another one, `EINVAL` past the disk's end.
pub fn resize_partition(disk: &File, number: u32, first: u64, bytes: u64) -> io::Result<()> {
    let whole = |n: u64| i64::try_from(n).map_err(io::Error::other);
    let mut partition = BlkpgPartition {
        start: whole(first)?,
        length: whole(bytes)?,
        pno: libc::c_int::try_from(number).map_err(io::Error::other)?,
        devname: [0; 64],
        volname: [0; 64],
    };
    let argument = BlkpgIoctlArg {
        op: RESIZE_PARTITION,
        flags: 0,
        datalen: size_of::<BlkpgPartition>() as libc::c_int,
        data: (&raw mut partition).cast(),
    };
    // SAFETY: the argument and the partition that it points to are laid out as the kernel's structs and live
    // over the call, which only reads them; the descriptor is borrowed from `disk`, which is open.
    unsafe { blkpg(disk.as_raw_fd(), &raw const argument) }?;
    Ok(())
}

/// Lets a mounted ext4 have so many blocks; the kernel never lets it have fewer.
///
/// # Errors
/// As `ioctl(2)`: `EPERM` for a file system with errors, `EINVAL` for fewer blocks than it has.
pub fn resize_ext4(folder: &File, blocks: u64) -> io::Result<()> {
    // SAFETY: the kernel reads one u64 from a pointer to a live u64; the descriptor is borrowed from `folder`.
    unsafe { ext4_ioc_resize_fs(folder.as_raw_fd(), &raw const blocks) }?;
    Ok(())
}

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
