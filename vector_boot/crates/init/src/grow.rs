//! A data disk that has become larger: its partition, then its file system, each only ever growing.
//!
//! Part of the helper. What is decided is pure and in the room `gpt`; here the disk is found, read, written in the
//! order that was planned with a flush behind each write, and the kernel is told. Start with [`partition`].
//!
//! Never here: making, formatting or shrinking anything; a table or file system that is not wholly understood.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

/// A file system that would gain less is left alone.
const GAIN_BYTES_MIN: u64 = 1 << 20;
/// Where an ext4 superblock begins, and what of it is read.
const SUPERBLOCK_AT: u64 = 1024;
const SUPERBLOCK_BYTES: usize = 1024;
/// ext4 knows blocks of 1 to 64 KiB.
const BLOCK_BITS_MAX: u32 = 16;

/// Lets the partition behind `device` grow to its disk's end, if it has this name; its new size, or 0.
///
/// # Errors
/// One sentence naming field, value and limit.
pub fn partition(device: &str, name: &str) -> Result<u64, String> {
    let Some(found) = Found::of(device).map_err(|e| format!("{device}: {e}"))? else {
        // A whole disk: there is no table, and the file system has it all.
        return Ok(0);
    };
    let whole = found.disk.display().to_string();
    let named = |e: io::Error| format!("{whole}: {e}");
    let disk = File::options()
        .read(true)
        .write(true)
        .open(&found.disk)
        .map_err(named)?;
    let bytes = sys::mapping::byte_length(&disk).map_err(named)?;
    let sector = sys::blockdev::sector_bytes(&disk).map_err(named)?;
    let mut read = |at: u64, buf: &mut [u8]| disk.read_exact_at(buf, at);
    let plan =
        gpt::plan_growth(&mut read, bytes, sector, name).map_err(|problem| match problem {
            gpt::Problem::Read { at, error } => format!("{whole}: read at byte {at}: {error}"),
            other => format!("{whole}: {other}"),
        })?;
    let Some(growth) = plan else {
        return Ok(0);
    };
    if growth.number != found.number || growth.first != found.first {
        return Err(format!(
            "{whole}: partition {name}: number {} at byte {}, limit {} at byte {}",
            growth.number, growth.first, found.number, found.first
        ));
    }
    for write in &growth.writes {
        disk.write_all_at(&write.bytes, write.at)
            .and_then(|()| disk.sync_all())
            .map_err(|e| format!("{whole}: write at byte {}: {e}", write.at))?;
    }
    sys::blockdev::resize_partition(&disk, growth.number, growth.first, growth.bytes)
        .map_err(|e| format!("{device}: {} bytes: {e}", growth.bytes))?;
    Ok(growth.bytes)
}

/// Lets the ext4 that is mounted from `device` grow to the device's end; its new and its old size, or 0.
///
/// # Errors
/// One sentence naming field, value and limit.
pub fn file_system(device: &str, target: &str) -> Result<(u64, u64), String> {
    let named = |e: io::Error| format!("{device}: {e}");
    let file = File::open(device).map_err(named)?;
    let device_bytes = sys::mapping::byte_length(&file).map_err(named)?;
    let size = || -> Result<Size, String> {
        let mut superblock = [0; SUPERBLOCK_BYTES];
        file.read_exact_at(&mut superblock, SUPERBLOCK_AT)
            .map_err(named)?;
        Size::of(&superblock).map_err(|e| format!("{device}: {e}"))
    };
    let before = size()?;
    let Some(blocks) = before.wanted(device_bytes) else {
        return Ok((0, 0));
    };
    let folder = File::open(target).map_err(|e| format!("{target}: {e}"))?;
    sys::blockdev::resize_ext4(&folder, blocks)
        .map_err(|e| format!("{target}: {blocks} blocks, {} before: {e}", before.blocks))?;
    let after = size()?;
    // A last group that is too small for its own tables is left out by the kernel.
    let gained = after.blocks > before.blocks;
    Ok((if gained { after.bytes() } else { 0 }, before.bytes()))
}

/// Where a partition lies, as the kernel has it.
struct Found {
    disk: std::path::PathBuf,
    number: u32,
    first: u64,
}

impl Found {
    /// `None` for a device that is no partition.
    fn of(device: &str) -> io::Result<Option<Self>> {
        let name = device.strip_prefix("/dev/").unwrap_or(device);
        // `/sys/devices/.../block/vda/vda2`
        let folder = fs::canonicalize(Path::new("/sys/class/block").join(name))?;
        let number = match fs::read_to_string(folder.join("partition")) {
            Ok(text) => text.trim().parse().map_err(io::Error::other)?,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(e),
        };
        let start = fs::read_to_string(folder.join("start"))?;
        let start: u64 = start.trim().parse().map_err(io::Error::other)?;
        let disk = folder.parent().and_then(Path::file_name);
        let disk = disk.ok_or(io::ErrorKind::NotFound)?;
        Ok(Some(Self {
            disk: Path::new("/dev").join(disk),
            number,
            // The kernel counts in 512 bytes here, whatever the disk's sector.
            first: start.saturating_mul(512),
        }))
    }
}

/// What an ext4 superblock says of its size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Size {
    blocks: u64,
    block_bytes: u64,
}

impl Size {
    /// Reads a superblock. Source: the kernel's `Documentation/filesystems/ext4/super.rst`.
    fn of(superblock: &[u8; SUPERBLOCK_BYTES]) -> Result<Self, String> {
        let u16_at = |at: usize| {
            let found = superblock.get(at..).and_then(|rest| rest.first_chunk());
            u16::from_le_bytes(found.copied().unwrap_or_default())
        };
        let u32_at = |at: usize| u32::from(u16_at(at)) | u32::from(u16_at(at + 2)) << 16;
        let magic = u16_at(0x38);
        if magic != 0xef53 {
            return Err(format!("s_magic: {magic:#06x}, limit 0xef53"));
        }
        let bits = u32_at(0x18).saturating_add(10);
        if bits > BLOCK_BITS_MAX {
            return Err(format!("s_log_block_size: {}, limit 6", u32_at(0x18)));
        }
        // INCOMPAT_64BIT: only then do the upper halves mean anything.
        let wide = u32_at(0x60) & 0x80 != 0;
        let high = if wide { u64::from(u32_at(0x150)) } else { 0 };
        Ok(Self {
            blocks: u64::from(u32_at(0x4)) | high << 32,
            block_bytes: 1 << bits,
        })
    }

    fn bytes(self) -> u64 {
        self.blocks.saturating_mul(self.block_bytes)
    }

    /// The blocks that fill a device, if that is worth it.
    fn wanted(self, device_bytes: u64) -> Option<u64> {
        let gain = device_bytes.saturating_sub(self.bytes());
        let blocks = device_bytes.checked_div(self.block_bytes)?;
        (gain >= GAIN_BYTES_MIN && blocks > self.blocks).then_some(blocks)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A superblock by the fields that are read.
    fn superblock(blocks: u64, log: u32, wide: bool) -> [u8; SUPERBLOCK_BYTES] {
        let mut bytes = [0; SUPERBLOCK_BYTES];
        bytes[0x4..0x8].copy_from_slice(&(blocks as u32).to_le_bytes());
        bytes[0x18..0x1c].copy_from_slice(&log.to_le_bytes());
        bytes[0x38..0x3a].copy_from_slice(&0xef53u16.to_le_bytes());
        bytes[0x60] = if wide { 0x80 } else { 0 };
        bytes[0x150..0x154].copy_from_slice(&((blocks >> 32) as u32).to_le_bytes());
        bytes
    }

    #[test]
    fn a_size_is_read_and_grows_only_when_it_is_worth_it() {
        let size = Size::of(&superblock(65536, 2, false)).unwrap();
        assert_eq!(size.bytes(), 256 << 20);
        assert_eq!(size.wanted(256 << 20), None);
        assert_eq!(size.wanted((256 << 20) + 4096), None);
        assert_eq!(size.wanted(255 << 20), None, "never smaller");
        assert_eq!(size.wanted(384 << 20), Some(98304));
        assert!(
            Size::of(&[0; SUPERBLOCK_BYTES])
                .unwrap_err()
                .contains("limit 0xef53")
        );
        let odd = Size::of(&superblock(1, 7, false)).unwrap_err();
        assert!(odd.contains("s_log_block_size: 7, limit 6"), "{odd}");
    }

    proptest! {
        #[test]
        fn any_superblock_is_read_without_harm(
            bytes in proptest::collection::vec(any::<u8>(), SUPERBLOCK_BYTES),
            device in any::<u64>(),
        ) {
            let mut block: [u8; SUPERBLOCK_BYTES] = bytes.try_into().unwrap();
            block[0x38..0x3a].copy_from_slice(&0xef53u16.to_le_bytes());
            if let Ok(size) = Size::of(&block)
                && let Some(blocks) = size.wanted(device)
            {
                prop_assert!(blocks > size.blocks);
                prop_assert!(blocks.checked_mul(size.block_bytes).is_some_and(|b| b <= device));
            }
        }

        #[test]
        fn what_was_written_is_read(blocks in 1u64..1 << 40, log in 0u32..7) {
            let size = Size::of(&superblock(blocks, log, true)).unwrap();
            prop_assert_eq!((size.blocks, size.block_bytes), (blocks, 1024 << log));
        }
    }
}
