//! The section table: `vb-services` and the added files, by name.
//!
//! Entries of 96 bytes at their place in the window, read when asked for. Start with [`Section`].

use crate::blocks::BLOCK_BYTES;
use crate::elf::Machine;
use crate::error::{Digest, Expected, Field, RtsError, at_most, exactly};
use crate::header::{FILE_BYTES_MAX, block_end};
use crate::manifest::{NAME_BYTES_MAX, Name};

/// Length of an entry.
pub(crate) const ENTRY_BYTES: usize = 96;
/// `vb-services` and one file for each of 32 services.
pub const SECTIONS_MAX: usize = 33;
/// Name of the section that holds our services.
pub const SERVICES_SECTION: &str = "vb-services";

/// What a section holds. New kinds are refused by readers that do not know them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A static ELF executable of the package's machine.
    Exec,
    /// Bytes without meaning to us.
    Data,
}

impl Kind {
    /// The name as people see it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Exec => "exec",
            Self::Data => "data",
        }
    }

    fn to_number(self) -> u16 {
        match self {
            Self::Exec => 1,
            Self::Data => 2,
        }
    }
}

/// An added section; its range lies inside the package.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Section {
    /// Its unique name.
    pub name: Name,
    /// What it holds.
    pub kind: Kind,
    /// The processor an executable is for; `None` for data.
    pub machine: Option<Machine>,
    /// Where it begins in the package; a multiple of 64 KiB.
    pub offset: u64,
    /// Its length without padding.
    pub bytes: u64,
    /// The hash that it must have.
    pub blake3: Digest,
}

impl Section {
    /// Reads one entry; `at` is its place in the package and `machine` the header's.
    pub(crate) fn parse(
        entry: &[u8; ENTRY_BYTES],
        at: u64,
        machine: Machine,
    ) -> Result<Self, RtsError> {
        let name_bytes: [u8; NAME_BYTES_MAX] = take(entry, 0);
        let len = name_bytes
            .iter()
            .position(|byte| *byte == 0)
            .unwrap_or(NAME_BYTES_MAX);
        let (text, rest) = name_bytes.split_at_checked(len).unwrap_or((&[], &[]));
        let name = core::str::from_utf8(text)
            .ok()
            .and_then(Name::new)
            .filter(|_| rest.iter().all(|byte| *byte == 0));
        let name = name.ok_or_else(|| RtsError::Text {
            field: "table name".into(),
            at,
            problem: "expected 1 to 32 of a-z, 0-9 and -, padded with zeros",
        })?;
        let field = |part: &'static str| Field::of(&name, part);
        let place = |offset: u64| at.saturating_add(offset);
        let (kind, its_machine) = match u16::from_be_bytes(take(entry, 32)) {
            1 => (Kind::Exec, Some(machine)),
            2 => (Kind::Data, None),
            other => {
                return Err(RtsError::number(
                    field("kind"),
                    place(32),
                    u64::from(other),
                    Expected::AtMost(2),
                ));
            }
        };
        let found = u64::from(u16::from_be_bytes(take(entry, 34)));
        exactly(
            field("machine"),
            place(34),
            found,
            u64::from(its_machine.map_or(0, Machine::to_elf)),
        )?;
        exactly(
            field("reserved"),
            place(36),
            u64::from(u32::from_be_bytes(take(entry, 36))),
            0,
        )?;
        exactly(
            field("reserved"),
            place(88),
            u64::from_be_bytes(take(entry, 88)),
            0,
        )?;
        let offset = u64::from_be_bytes(take(entry, 40));
        let bytes = u64::from_be_bytes(take(entry, 48));
        at_most(field("bytes"), place(48), bytes, FILE_BYTES_MAX)?;
        let blake3 = Digest(take(entry, 56));
        Ok(Self {
            name,
            kind,
            machine: its_machine,
            offset,
            bytes,
            blake3,
        })
    }

    /// Writes the entry.
    pub(crate) fn to_bytes(&self) -> [u8; ENTRY_BYTES] {
        let mut entry = [0; ENTRY_BYTES];
        let mut put = |at: usize, value: &[u8]| {
            if let Some(target) = entry.get_mut(at..at.saturating_add(value.len())) {
                target.copy_from_slice(value);
            }
        };
        put(0, self.name.as_bytes());
        put(32, &self.kind.to_number().to_be_bytes());
        put(34, &self.machine.map_or(0, Machine::to_elf).to_be_bytes());
        put(40, &self.offset.to_be_bytes());
        put(48, &self.bytes.to_be_bytes());
        put(56, &self.blake3.0);
        entry
    }

    /// Where its bytes end and its padding begins.
    pub fn end(&self) -> u64 {
        self.offset.saturating_add(self.bytes)
    }
}

/// Reads every entry of `table`, proves order, places and uniqueness, and gives where the last section ends.
pub(crate) fn check(table: &[u8], at: u64, machine: Machine, first: u64) -> Result<u64, RtsError> {
    debug_assert_eq!(first % BLOCK_BYTES, 0);
    let mut next = first;
    for (index, section) in entries(table, at, machine).enumerate() {
        let section = section?;
        let place = at.saturating_add((index as u64).saturating_mul(ENTRY_BYTES as u64));
        exactly(
            Field::of(&section.name, "offset"),
            place.saturating_add(40),
            section.offset,
            next,
        )?;
        next = block_end(section.end());
        at_most(
            Field::of(&section.name, "bytes"),
            place.saturating_add(48),
            next,
            FILE_BYTES_MAX,
        )?;
        // At most 33 entries: a quadratic look is cheaper than a set.
        let mut earlier = entries(table, at, machine).take(index).flatten();
        if earlier.any(|other| other.name == section.name) {
            return Err(RtsError::Text {
                field: Field::of(&section.name, "name"),
                at: place,
                problem: "stands twice",
            });
        }
    }
    Ok(next)
}

/// The entries of `table`, each read as it is reached.
pub(crate) fn entries(
    table: &[u8],
    at: u64,
    machine: Machine,
) -> impl Iterator<Item = Result<Section, RtsError>> + '_ {
    let (entries, _) = table.as_chunks::<ENTRY_BYTES>();
    let mut place = at;
    entries.iter().map(move |entry| {
        let section = Section::parse(entry, place, machine);
        place = place.saturating_add(ENTRY_BYTES as u64);
        section
    })
}

fn take<const N: usize>(entry: &[u8; ENTRY_BYTES], at: usize) -> [u8; N] {
    entry
        .get(at..)
        .and_then(|rest| rest.first_chunk())
        .copied()
        .unwrap_or([0; N])
}
