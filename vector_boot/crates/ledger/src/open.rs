//! Finds the log behind a path or descriptor: a folder, a file, a disk image, a block device.

use crate::device::{Access, Device, FileDevice, FolderDevice, GROWING_BYTES_MAX};
use ledger_core::{SECTOR_BYTES_MIN, SEGMENT_BYTES_MAX, SUPERBLOCK_BYTES, Superblock};
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

/// Name of the partition that holds the log.
const PARTITION: &str = "log";

/// Opens the log that a person names.
///
/// # Errors
/// As `open(2)`; `InvalidData` if a disk has no `log` partition; `ResourceBusy` if another process
/// writes it.
pub fn path(path: &Path, access: Access) -> io::Result<Arc<dyn Device>> {
    let named = |e: io::Error| io::Error::new(e.kind(), format!("{}: {e}", path.display()));
    if std::fs::metadata(path).map_err(named)?.is_dir() {
        let segment_bytes = File::open(path.join("superblock"))
            .ok()
            .and_then(|f| superblock_of(&f, 0))
            .map_or(SEGMENT_BYTES_MAX, |s| s.segment_bytes);
        let device = FolderDevice::new(path, segment_bytes, access)?;
        return Ok(Arc::new(device));
    }
    let file = OpenOptions::new()
        .read(true)
        .write(access == Access::Write)
        .open(path)
        .map_err(named)?;
    descriptor(file, &path.display().to_string(), access)
}

/// Opens the log on an open file or block device.
///
/// # Errors
/// As [`path`].
pub fn descriptor(file: File, name: &str, access: Access) -> io::Result<Arc<dyn Device>> {
    let bytes = sys::mapping::byte_length(&file)?;
    let sector_bytes = sys::blockdev::sector_bytes(&file)?;
    if let Some(superblock) = superblock_of(&file, 0)
        && file.metadata()?.is_file()
    {
        // A file that grows: the superblock says how far it may.
        let capacity = superblock.device_bytes().max(bytes);
        let device = FileDevice::range(file, name.to_owned(), access, 0, capacity, sector_bytes)?;
        return Ok(Arc::new(device));
    }
    if let Some(found) = partition(&file, bytes)? {
        let name = format!("{name} partition {PARTITION}");
        // A partition inside an image file has the disk's sectors.
        let device = FileDevice::range(
            file,
            name,
            access,
            found.first,
            found.bytes,
            found.sector_bytes,
        )?;
        return Ok(Arc::new(device));
    }
    let capacity = if bytes == 0 { GROWING_BYTES_MAX } else { bytes };
    let sector_bytes = sector_bytes.max(SECTOR_BYTES_MIN);
    let device = FileDevice::range(file, name.to_owned(), access, 0, capacity, sector_bytes)?;
    Ok(Arc::new(device))
}

/// The partition of the log, if the disk has a table.
fn partition(disk: &File, disk_bytes: u64) -> io::Result<Option<gpt::Partition>> {
    let mut read = |at: u64, buf: &mut [u8]| disk.read_exact_at(buf, at);
    gpt::find(&mut read, disk_bytes, PARTITION).map_err(|problem| match problem {
        gpt::Problem::Read { error, .. } => error,
        other => io::Error::new(io::ErrorKind::InvalidData, other.to_string()),
    })
}

/// The first superblock copy that holds, if one does.
fn superblock_of(file: &File, first: u64) -> Option<Superblock> {
    let mut bytes = vec![0; SUPERBLOCK_BYTES];
    [0, SUPERBLOCK_BYTES as u64].into_iter().find_map(|at| {
        file.read_exact_at(&mut bytes, first + at).ok()?;
        Superblock::decode(&bytes).ok()
    })
}
