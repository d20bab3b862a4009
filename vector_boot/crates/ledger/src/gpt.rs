//! Finds a partition by name in a GUID partition table: bounds checked, both CRCs checked.
//!
//! Source: UEFI specification 2.10, section 5.3. The table at the disk's end takes the place of a
//! damaged first one.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

/// Sector sizes that are tried: images do not say theirs.
const SECTORS: [u32; 2] = [512, 4096];
const SIGNATURE: &[u8; 8] = b"EFI PART";
/// Bytes of the header that its CRC covers, by revision 1.0.
const HEADER_BYTES: usize = 92;
/// Entries that a table may have; the common number is 128.
const ENTRIES_MAX: u32 = 1024;
/// Entry sizes: 128 times a power of two; more than this nobody writes.
const ENTRY_BYTES: std::ops::RangeInclusive<u32> = 128..=1024;
/// Code units of a name.
const NAME_AT: usize = 56;
const NAME_BYTES: usize = 72;

/// Where a partition lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Partition {
    /// Its first byte.
    pub first: u64,
    /// Its length.
    pub bytes: u64,
    /// The disk's sector.
    pub sector_bytes: u32,
}

/// Finds the partition of this name; `None` if the disk has no such table.
///
/// # Errors
/// As `pread(2)`; `InvalidData` if there is a table that does not hold, or none of that name in it.
pub fn partition(disk: &File, disk_bytes: u64, name: &str) -> io::Result<Option<Partition>> {
    let mut read = |at: u64, buf: &mut [u8]| disk.read_exact_at(buf, at);
    find(&mut read, disk_bytes, name)
}

type Read<'r> = &'r mut dyn FnMut(u64, &mut [u8]) -> io::Result<()>;

fn find(read: Read<'_>, disk_bytes: u64, name: &str) -> io::Result<Option<Partition>> {
    let mut damage = None;
    for sector in SECTORS {
        let size = u64::from(sector);
        let last = (disk_bytes / size).saturating_sub(1);
        for lba in [1, last] {
            let mut header = [0; HEADER_BYTES];
            let Some(at) = lba.checked_mul(size).filter(|_| lba > 0) else {
                continue;
            };
            if at.checked_add(size).is_none_or(|end| end > disk_bytes) {
                continue;
            }
            read(at, &mut header)?;
            if !header.starts_with(SIGNATURE) {
                continue;
            }
            match table(read, &header, lba, sector, disk_bytes, name) {
                Ok(found) => return found.map(Some),
                Err(why) => damage = damage.or(Some((at, why))),
            }
        }
    }
    match damage {
        None => Ok(None),
        Some((at, why)) => Err(invalid(format!("partition table at byte {at}: {why}"))),
    }
}

fn invalid(text: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, text)
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

/// The outer error says that the table does not hold; the inner one that it holds but has no such
/// partition.
fn table(
    read: Read<'_>,
    header: &[u8; HEADER_BYTES],
    lba: u64,
    sector: u32,
    disk_bytes: u64,
    name: &str,
) -> Result<io::Result<Partition>, &'static str> {
    let short = "header is too short";
    let mut zeroed = *header;
    zeroed.get_mut(16..20).ok_or(short)?.fill(0);
    if u32_at(header, 12) != u32::try_from(HEADER_BYTES).ok() {
        return Err("header size is not 92");
    }
    if u32_at(header, 16) != Some(crc32fast::hash(&zeroed)) {
        return Err("header checksum does not match");
    }
    if u64_at(header, 24) != Some(lba) {
        return Err("header is not at its own place");
    }
    let first = u64_at(header, 72).ok_or(short)?;
    let count = u32_at(header, 80).ok_or(short)?;
    let entry = u32_at(header, 84).ok_or(short)?;
    if count > ENTRIES_MAX || !ENTRY_BYTES.contains(&entry) || !entry.is_power_of_two() {
        return Err("entries are out of range");
    }
    let bytes = u64::from(count) * u64::from(entry);
    let at = first
        .checked_mul(u64::from(sector))
        .ok_or("entries overflow")?;
    if at.checked_add(bytes).is_none_or(|end| end > disk_bytes) {
        return Err("entries end past the disk");
    }
    let mut entries = vec![0; usize::try_from(bytes).map_err(|_| short)?];
    read(at, &mut entries).map_err(|_| "entries cannot be read")?;
    if u32_at(header, 88) != Some(crc32fast::hash(&entries)) {
        return Err("checksum of the entries does not match");
    }
    let found = entries
        .chunks_exact(entry as usize)
        .find(|e| e.iter().take(16).any(|b| *b != 0) && name_of(e) == name);
    let Some(found) = found else {
        return Ok(Err(invalid(format!("disk has no partition named {name}"))));
    };
    let size = u64::from(sector);
    let range = u64_at(found, 32)
        .zip(u64_at(found, 40))
        .and_then(|(first, last)| {
            let bytes = last.checked_sub(first)?.checked_add(1)?.checked_mul(size)?;
            let first = first.checked_mul(size)?;
            (first.checked_add(bytes)? <= disk_bytes).then_some((first, bytes))
        });
    let (first, bytes) = range.ok_or("partition ends past the disk")?;
    Ok(Ok(Partition {
        first,
        bytes,
        sector_bytes: sector,
    }))
}

fn name_of(entry: &[u8]) -> String {
    let bytes = entry.get(NAME_AT..NAME_AT + NAME_BYTES).unwrap_or_default();
    let units = bytes
        .chunks_exact(2)
        .map(|pair| pair.iter().rev().fold(0u16, |n, b| n << 8 | u16::from(*b)))
        .take_while(|unit| *unit != 0);
    char::decode_utf16(units)
        .map(|c| c.unwrap_or(char::REPLACEMENT_CHARACTER))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A disk of 64 sectors with partitions `data` (20..=29) and `log` (30..=45), both tables.
    fn disk(sector: usize) -> Vec<u8> {
        let mut disk = vec![0; 64 * sector];
        let mut entries = vec![0u8; 8 * 128];
        for (n, (name, first, last)) in [("data", 20u64, 29u64), ("log", 30, 45)].iter().enumerate()
        {
            let e = &mut entries[n * 128..(n + 1) * 128];
            e[..16].fill(7);
            e[32..40].copy_from_slice(&first.to_le_bytes());
            e[40..48].copy_from_slice(&last.to_le_bytes());
            for (i, unit) in name.encode_utf16().enumerate() {
                e[56 + 2 * i..58 + 2 * i].copy_from_slice(&unit.to_le_bytes());
            }
        }
        for (lba, table) in [(1usize, 2usize), (63, 50)] {
            let mut header = [0u8; HEADER_BYTES];
            header[..8].copy_from_slice(SIGNATURE);
            header[8..12].copy_from_slice(&0x10000u32.to_le_bytes());
            header[12..16].copy_from_slice(&92u32.to_le_bytes());
            header[24..32].copy_from_slice(&(lba as u64).to_le_bytes());
            header[72..80].copy_from_slice(&(table as u64).to_le_bytes());
            header[80..84].copy_from_slice(&8u32.to_le_bytes());
            header[84..88].copy_from_slice(&128u32.to_le_bytes());
            header[88..92].copy_from_slice(&crc32fast::hash(&entries).to_le_bytes());
            let crc = crc32fast::hash(&header);
            header[16..20].copy_from_slice(&crc.to_le_bytes());
            disk[lba * sector..lba * sector + HEADER_BYTES].copy_from_slice(&header);
            disk[table * sector..table * sector + entries.len()].copy_from_slice(&entries);
        }
        disk
    }

    fn look(disk: &[u8], name: &str) -> io::Result<Option<Partition>> {
        let mut read = |at: u64, buf: &mut [u8]| {
            let at = usize::try_from(at).unwrap();
            let part = disk
                .get(at..at + buf.len())
                .ok_or(io::ErrorKind::UnexpectedEof)?;
            buf.copy_from_slice(part);
            Ok(())
        };
        find(&mut read, disk.len() as u64, name)
    }

    #[test]
    fn the_named_partition_is_found_with_either_sector_and_either_table() {
        for sector in [512usize, 4096] {
            let mut disk = disk(sector);
            let wanted = Partition {
                first: 30 * sector as u64,
                bytes: 16 * sector as u64,
                sector_bytes: sector as u32,
            };
            assert_eq!(look(&disk, "log").unwrap(), Some(wanted));
            disk[sector + 30] ^= 1;
            assert_eq!(look(&disk, "log").unwrap(), Some(wanted), "second table");
            disk[63 * sector + 30] ^= 1;
            assert!(
                look(&disk, "log")
                    .unwrap_err()
                    .to_string()
                    .contains("checksum")
            );
            assert!(
                look(&self::disk(sector), "nope")
                    .unwrap_err()
                    .to_string()
                    .contains("nope")
            );
        }
        assert_eq!(look(&vec![0; 65536], "log").unwrap(), None);
    }

    #[test]
    fn truncation_at_every_sector_and_any_flip_never_panics() {
        let good = disk(512);
        for end in 0..good.len() / 64 {
            let _ = look(&good[..end * 64], "log");
        }
        for at in 512..512 + HEADER_BYTES {
            let mut bad = good.clone();
            bad[at] ^= 0x55;
            bad[63 * 512..].fill(0);
            assert!(!matches!(look(&bad, "log"), Ok(Some(_))), "byte {at}");
        }
    }
}
