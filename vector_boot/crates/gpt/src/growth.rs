//! The last partition of a disk that has become larger: the writes that move its end to the disk's.
//!
//! A power cut may come between any two writes and tear any of them but a single sector. At every moment the
//! first header and the entries that it names hold, either as they were or as they are to be: the kernel looks
//! at the table at the disk's end only when it is told to (`gpt` on its command line). So the entries are never
//! overwritten where the header points: they are written beside it first, and the header is turned over.

use crate::table::{
    AT_ALTERNATE, AT_CHECKSUM, AT_ENTRIES, AT_ENTRIES_CHECKSUM, AT_LAST, AT_LAST_USABLE, AT_OWN,
    checksum_of, u32_at,
};
use crate::{Problem, Read, Table};

/// A partition ends at a multiple of this, as every partitioning program of today has it.
const ALIGNMENT_BYTES: u64 = 1 << 20;
/// Growing by less than this is not worth a write to the table.
const GROWTH_BYTES_MIN: u64 = 1 << 20;
/// `0FC63DAF-8483-4772-8E79-3D69D8477DE4`, Linux filesystem data, as it lies on the disk.
const LINUX_DATA: [u8; 16] = [
    0xaf, 0x3d, 0xc6, 0x0f, 0x83, 0x84, 0x72, 0x47, 0x8e, 0x79, 0x3d, 0x69, 0xd8, 0x47, 0x7d, 0xe4,
];
/// Where the entries of the first table begin, by the specification.
const ENTRIES_LBA: u64 = 2;
// The protective record of a disk that has a table: one partition of this type from sector 1 on.
const RECORD_PARTITIONS_AT: usize = 446;
const RECORD_PARTITION_BYTES: usize = 16;
const RECORD_TYPE: u8 = 0xee;
const RECORD_SECTORS_AT: usize = RECORD_PARTITIONS_AT + 12;

/// Bytes that are written at an offset.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Write {
    /// Offset from the disk's beginning.
    pub at: u64,
    /// Whole sectors.
    pub bytes: Vec<u8>,
}

/// What is to be done, in this order, with a flush behind each write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Growth {
    /// The partition's number, from 1, as in `/dev/vda2`.
    pub number: u32,
    /// Its first byte.
    pub first: u64,
    /// Its length now.
    pub bytes_before: u64,
    /// Its length then.
    pub bytes: u64,
    /// The writes.
    pub writes: Vec<Write>,
}

/// Plans how the partition of this name takes what a disk has gained; `None` where there is nothing to gain.
///
/// # Errors
/// [`Problem`]: a table that does not hold, or one that we did not make: another partition behind ours, another
/// type, two of that name, a protective record that is more than one, no room for a second copy of the entries.
pub fn plan_growth<E>(
    read: Read<'_, E>,
    disk_bytes: u64,
    sector_bytes: u32,
    name: &str,
) -> Result<Option<Growth>, Problem<E>> {
    let sector = u64::from(sector_bytes);
    let sectors = disk_bytes.checked_div(sector).unwrap_or(0);
    let Some(table) = Table::load(read, disk_bytes, sector_bytes, 1)? else {
        return Err(Problem::Foreign("no table at sector 1"));
    };
    let field = |field, value, limit| Problem::Field {
        at: sector,
        field,
        value,
        limit,
    };
    // The second table lies at the disk's end: it has gained nothing since its table was made.
    if table.alternate == sectors.saturating_sub(1) {
        return Ok(None);
    }
    let entry = table
        .named(name)
        .ok_or_else(|| Problem::Absent(name.to_owned()))?;
    let entry_sectors = table.entry_sectors();
    // The table at the end: entries, then the header in the last sector.
    let last = sectors.saturating_sub(1);
    let end_entries = last.saturating_sub(entry_sectors);
    let alignment = ALIGNMENT_BYTES.checked_div(sector).unwrap_or(1).max(1);
    let Some(wanted) = (end_entries / alignment * alignment).checked_sub(1) else {
        return Ok(None);
    };
    let gained = wanted.saturating_sub(entry.last).saturating_mul(sector);
    if gained < GROWTH_BYTES_MIN {
        return Ok(None);
    }
    let mut others = table.partitions().filter(|o| o.index != entry.index);
    if others.any(|other| other.name == name) {
        return Err(Problem::Foreign("two partitions have the name"));
    }
    if entry.kind != LINUX_DATA {
        return Err(Problem::Foreign("the partition's type is not Linux data"));
    }
    let others = table.partitions().filter(|o| o.index != entry.index);
    if let Some(behind) = others.map(|o| o.last).find(|last| *last >= entry.first) {
        return Err(field("end of another partition", behind, entry.first));
    }
    let Some(mut record) = protective_record(read, sector_bytes)? else {
        return Err(Problem::Foreign("the record in sector 0 is not protective"));
    };
    match Table::load(read, disk_bytes, sector_bytes, table.alternate)? {
        Some(other) if other.entries == table.entries && other.alternate == 1 => {}
        _ => return Err(field("sector of the second table", table.alternate, last)),
    }
    let lowest = table.partitions().map(|e| e.first).min().unwrap_or(0);
    let beside = ENTRIES_LBA + entry_sectors;
    let copy = match table.entries_lba {
        ENTRIES_LBA => beside,
        elsewhere if elsewhere >= beside => elsewhere,
        elsewhere => return Err(field("entries' place", elsewhere, ENTRIES_LBA)),
    };
    if copy.saturating_add(entry_sectors) > lowest {
        let needed = copy.saturating_add(entry_sectors);
        return Err(field("first sector of the first partition", lowest, needed));
    }
    let mut entries = table.entries.clone();
    let size = usize::try_from(table.entry_bytes).unwrap_or(usize::MAX);
    let row = entries.chunks_exact_mut(size).nth(entry.index);
    put(row.unwrap_or_default(), AT_LAST, &wanted.to_le_bytes());
    let header = |own: u64, alternate: u64, at: u64| {
        let mut header = table.header.clone();
        put(&mut header, AT_OWN, &own.to_le_bytes());
        put(&mut header, AT_ALTERNATE, &alternate.to_le_bytes());
        put(
            &mut header,
            AT_LAST_USABLE,
            &(end_entries - 1).to_le_bytes(),
        );
        put(&mut header, AT_ENTRIES, &at.to_le_bytes());
        let sum = crc32fast::hash(&entries);
        put(&mut header, AT_ENTRIES_CHECKSUM, &sum.to_le_bytes());
        let sum = checksum_of(&header);
        put(&mut header, AT_CHECKSUM, &sum.to_le_bytes());
        header
    };
    // As the record counts them; 32 bits hold what they can.
    let counted = u32::try_from(last).unwrap_or(u32::MAX);
    put(&mut record, RECORD_SECTORS_AT, &counted.to_le_bytes());
    let mut whole = entries.clone();
    let padded = entry_sectors.saturating_mul(sector);
    whole.resize(usize::try_from(padded).unwrap_or(whole.len()), 0);
    let write = |lba: u64, bytes: &[u8]| Write {
        at: lba.saturating_mul(sector),
        bytes: bytes.to_vec(),
    };
    let mut writes = vec![
        write(end_entries, &whole),
        write(last, &header(last, 1, end_entries)),
    ];
    if table.entries_lba == ENTRIES_LBA {
        writes.push(write(copy, &whole));
        writes.push(write(1, &header(1, last, copy)));
    }
    writes.push(write(ENTRIES_LBA, &whole));
    writes.push(write(1, &header(1, last, ENTRIES_LBA)));
    writes.push(write(0, &record));
    let place = table.place(&entry);
    Ok(Some(Growth {
        number: u32::try_from(entry.index).map_or(u32::MAX, |n| n.saturating_add(1)),
        first: place.first,
        bytes_before: place.bytes,
        bytes: place.bytes.saturating_add(gained),
        writes,
    }))
}

/// Sector 0, if it holds one partition over the whole disk that protects the table, and no other.
fn protective_record<E>(
    read: Read<'_, E>,
    sector_bytes: u32,
) -> Result<Option<Vec<u8>>, Problem<E>> {
    let mut record = vec![0; usize::try_from(sector_bytes).unwrap_or(512)];
    read(0, &mut record).map_err(|error| Problem::Read { at: 0, error })?;
    let table = record.get(RECORD_PARTITIONS_AT..510).unwrap_or_default();
    let mut rows = table.chunks_exact(RECORD_PARTITION_BYTES);
    let first = rows.next().unwrap_or_default();
    let protects = first.get(4) == Some(&RECORD_TYPE) && u32_at(first, 8) == 1;
    let alone = rows.flatten().all(|byte| *byte == 0);
    let signed = record.get(510..512) == Some(&[0x55, 0xaa]);
    Ok((protects && alone && signed).then_some(record))
}

fn put(bytes: &mut [u8], at: usize, value: &[u8]) {
    if let Some(place) = bytes.get_mut(at..at + value.len()) {
        place.copy_from_slice(value);
    }
}
