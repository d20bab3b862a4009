//! One of the two tables of a disk: header and entries, read and checked whole.

use crate::{Partition, Problem, Read};

const SIGNATURE: &[u8; 8] = b"EFI PART";
/// Bytes of the header that its checksum covers, by revision 1.0.
pub(crate) const HEADER_BYTES: usize = 92;
/// Entries that a table may have; the common number is 128.
const ENTRIES_MAX: u32 = 1024;
/// Entry sizes: 128 times a power of two; more than this nobody writes.
const ENTRY_BYTES: std::ops::RangeInclusive<u32> = 128..=1024;
/// Code units of a name.
const NAME_AT: usize = 56;
const NAME_BYTES: usize = 72;

// Where the header's fields lie.
pub(crate) const AT_CHECKSUM: usize = 16;
pub(crate) const AT_OWN: usize = 24;
pub(crate) const AT_ALTERNATE: usize = 32;
const AT_FIRST_USABLE: usize = 40;
pub(crate) const AT_LAST_USABLE: usize = 48;
pub(crate) const AT_ENTRIES: usize = 72;
pub(crate) const AT_ENTRIES_CHECKSUM: usize = 88;
/// And an entry's last sector.
pub(crate) const AT_LAST: usize = 40;

/// A table whose checksums and ranges hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Table {
    /// The header's whole sector.
    pub(crate) header: Vec<u8>,
    /// All entries, used or not.
    pub(crate) entries: Vec<u8>,
    pub(crate) entry_bytes: u32,
    /// Bytes of a sector.
    pub sector_bytes: u32,
    /// Where the header lies.
    pub lba: u64,
    /// Where the other header lies, by this one.
    pub alternate: u64,
    /// Where the entries begin.
    pub entries_lba: u64,
    /// First sector that a partition may have.
    pub first_usable: u64,
    /// Last sector that a partition may have.
    pub last_usable: u64,
}

/// One partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its place in the table, from 0.
    pub index: usize,
    /// Its type, as it lies on the disk.
    pub kind: [u8; 16],
    /// Its first sector.
    pub first: u64,
    /// Its last sector.
    pub last: u64,
    /// Its name.
    pub name: String,
}

pub(crate) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    let found = bytes.get(at..).and_then(|rest| rest.first_chunk());
    u32::from_le_bytes(found.copied().unwrap_or_default())
}

pub(crate) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    let found = bytes.get(at..).and_then(|rest| rest.first_chunk());
    u64::from_le_bytes(found.copied().unwrap_or_default())
}

impl Table {
    /// Reads the table whose header lies at `lba`; `None` where there is none.
    ///
    /// # Errors
    /// [`Problem`]: what cannot be read, or a field that does not hold.
    pub fn load<E>(
        read: Read<'_, E>,
        disk_bytes: u64,
        sector_bytes: u32,
        lba: u64,
    ) -> Result<Option<Self>, Problem<E>> {
        let sector = u64::from(sector_bytes);
        let sectors = disk_bytes.checked_div(sector).unwrap_or(0);
        if lba == 0 || lba >= sectors {
            return Ok(None);
        }
        // It lies on the disk, so it does not overflow.
        let at = lba.saturating_mul(sector);
        let mut header = vec![0; usize::try_from(sector_bytes).unwrap_or(HEADER_BYTES)];
        read(at, &mut header).map_err(|error| Problem::Read { at, error })?;
        if !header.starts_with(SIGNATURE) {
            return Ok(None);
        }
        let field = |field, value, limit| Problem::Field {
            at,
            field,
            value,
            limit,
        };
        let exactly = |name, value: u64, limit: u64| {
            if value == limit {
                Ok(())
            } else {
                Err(field(name, value, limit))
            }
        };
        let at_most = |name, value: u64, limit: u64| {
            if value <= limit {
                Ok(())
            } else {
                Err(field(name, value, limit))
            }
        };
        exactly(
            "header size",
            u64::from(u32_at(&header, 12)),
            HEADER_BYTES as u64,
        )?;
        let (found, expected) = (checksum_of(&header), u32_at(&header, AT_CHECKSUM));
        if found != expected {
            return Err(Problem::Checksum {
                at,
                part: "header",
                found,
                expected,
            });
        }
        exactly("own place", u64_at(&header, AT_OWN), lba)?;
        let (count, entry_bytes) = (u32_at(&header, 80), u32_at(&header, 84));
        at_most("entries", u64::from(count), u64::from(ENTRIES_MAX))?;
        if !ENTRY_BYTES.contains(&entry_bytes) || !entry_bytes.is_power_of_two() {
            return Err(field(
                "entry size",
                u64::from(entry_bytes),
                u64::from(*ENTRY_BYTES.end()),
            ));
        }
        let (first_usable, last_usable) = (
            u64_at(&header, AT_FIRST_USABLE),
            u64_at(&header, AT_LAST_USABLE),
        );
        at_most("last usable sector", last_usable, sectors - 1)?;
        let entries_lba = u64_at(&header, AT_ENTRIES);
        let bytes = u64::from(count) * u64::from(entry_bytes);
        let room = disk_bytes.saturating_sub(bytes) / sector;
        at_most("entries' place", entries_lba, room)?;
        let entries_at = entries_lba.saturating_mul(sector);
        let mut entries = vec![0; usize::try_from(bytes).unwrap_or(0)];
        read(entries_at, &mut entries).map_err(|error| Problem::Read {
            at: entries_at,
            error,
        })?;
        let (found, expected) = (
            crc32fast::hash(&entries),
            u32_at(&header, AT_ENTRIES_CHECKSUM),
        );
        if found != expected {
            return Err(Problem::Checksum {
                at,
                part: "entries",
                found,
                expected,
            });
        }
        let table = Self {
            alternate: u64_at(&header, AT_ALTERNATE),
            header,
            entries,
            entry_bytes,
            sector_bytes,
            lba,
            entries_lba,
            first_usable,
            last_usable,
        };
        for entry in table.partitions() {
            at_most("partition's first sector", entry.first, entry.last)?;
            at_most("partition's last sector", entry.last, sectors - 1)?;
        }
        Ok(Some(table))
    }

    /// The entries that are in use, in the table's order.
    pub fn partitions(&self) -> impl Iterator<Item = Entry> + '_ {
        let size = usize::try_from(self.entry_bytes).unwrap_or(usize::MAX);
        let all = self.entries.chunks_exact(size).enumerate();
        all.filter_map(|(index, entry)| {
            let kind = *entry.first_chunk::<16>()?;
            (kind != [0; 16]).then(|| Entry {
                index,
                kind,
                first: u64_at(entry, 32),
                last: u64_at(entry, AT_LAST),
                name: name_of(entry),
            })
        })
    }

    /// The first partition of this name.
    #[must_use]
    pub fn named(&self, name: &str) -> Option<Entry> {
        self.partitions().find(|entry| entry.name == name)
    }

    /// Where a partition lies in bytes.
    #[must_use]
    pub fn place(&self, entry: &Entry) -> Partition {
        let sector = u64::from(self.sector_bytes);
        // It was seen to lie on the disk, so nothing here overflows.
        Partition {
            first: entry.first.saturating_mul(sector),
            bytes: (entry.last - entry.first)
                .saturating_add(1)
                .saturating_mul(sector),
            sector_bytes: self.sector_bytes,
        }
    }

    /// Sectors that the entries take.
    pub(crate) fn entry_sectors(&self) -> u64 {
        (self.entries.len() as u64).div_ceil(u64::from(self.sector_bytes))
    }
}

/// The checksum that a header must have.
pub(crate) fn checksum_of(header: &[u8]) -> u32 {
    let mut zeroed = [0; HEADER_BYTES];
    for (to, from) in zeroed.iter_mut().zip(header) {
        *to = *from;
    }
    for byte in zeroed.iter_mut().skip(AT_CHECKSUM).take(4) {
        *byte = 0;
    }
    crc32fast::hash(&zeroed)
}

fn name_of(entry: &[u8]) -> String {
    let bytes = entry.get(NAME_AT..NAME_AT + NAME_BYTES).unwrap_or_default();
    let (pairs, _) = bytes.as_chunks::<2>();
    let units = pairs
        .iter()
        .map(|pair| u16::from_le_bytes(*pair))
        .take_while(|unit| *unit != 0);
    char::decode_utf16(units)
        .map(|c| c.unwrap_or(char::REPLACEMENT_CHARACTER))
        .collect()
}
