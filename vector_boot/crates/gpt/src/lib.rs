//! GUID partition tables: a partition found by its name, and the growth of the last one planned.
//!
//! Pure: reads through a function that its caller gives, and answers with bytes that its caller writes.
//! Every table is taken for hostile: both checksums, every range and every overlap are checked, and what
//! is refused names field, value and limit. Source: UEFI specification 2.10, section 5.3.
//!
//! Never here: files, devices, clocks, making or removing a partition, shrinking one.
//! Start with [`find`]; [`plan_growth`] is in [`growth`].
#![forbid(unsafe_code)]
#![deny(clippy::unwrap_used, clippy::indexing_slicing)]
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::indexing_slicing))]

pub mod fuzz;
pub mod growth;
mod table;
#[cfg(test)]
mod tests;

pub use growth::{Growth, plan_growth};
pub use table::{Entry, Table};

/// Sector sizes that are tried: images do not say theirs.
const SECTORS: [u32; 2] = [512, 4096];

/// Reads bytes of a disk from an offset on, as many as the buffer holds.
pub type Read<'r, E> = &'r mut dyn FnMut(u64, &mut [u8]) -> Result<(), E>;

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

/// Why a table is of no use.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Problem<E> {
    /// The disk gave an error.
    #[error("read the partition table at byte {at}")]
    Read {
        /// Where it was read.
        at: u64,
        /// What the reader said.
        error: E,
    },
    /// A field is not what it must be.
    #[error("partition table at byte {at}: {field}: {value}, limit {limit}")]
    Field {
        /// Where the table's header lies.
        at: u64,
        /// Which field.
        field: &'static str,
        /// What it holds.
        value: u64,
        /// What it may hold.
        limit: u64,
    },
    /// A checksum differs.
    #[error(
        "partition table at byte {at}: checksum of the {part}: {found:#010x}, limit {expected:#010x}"
    )]
    Checksum {
        /// Where the table's header lies.
        at: u64,
        /// Header or entries.
        part: &'static str,
        /// Of what is there.
        found: u32,
        /// What the header says.
        expected: u32,
    },
    /// No partition has this name.
    #[error("disk has no partition named {0}")]
    Absent(String),
    /// The table is one that we do not touch.
    #[error("partition table: {0}")]
    Foreign(&'static str),
}

/// Finds the partition of this name; `None` if the disk has no such table. The table at the disk's
/// end takes the place of a damaged first one.
///
/// # Errors
/// [`Problem`]: what cannot be read, a table that does not hold, or none of that name in it.
pub fn find<E>(
    read: Read<'_, E>,
    disk_bytes: u64,
    name: &str,
) -> Result<Option<Partition>, Problem<E>> {
    let mut damage = None;
    for sector in SECTORS {
        let last = (disk_bytes / u64::from(sector)).saturating_sub(1);
        for lba in [1, last] {
            match Table::load(read, disk_bytes, sector, lba) {
                Ok(None) => {}
                Ok(Some(table)) => {
                    let entry = table.named(name);
                    let entry = entry.ok_or_else(|| Problem::Absent(name.to_owned()))?;
                    return Ok(Some(table.place(&entry)));
                }
                Err(Problem::Read { at, error }) => return Err(Problem::Read { at, error }),
                Err(why) => damage = damage.or(Some(why)),
            }
        }
    }
    damage.map_or(Ok(None), Err)
}
