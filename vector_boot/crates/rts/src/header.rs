//! The 512 bytes at the front: the plain 40, our extension, and the check over both.
//!
//! Owns the layout ([`FIELDS`]) and the rules that the header alone can prove; what needs the window's length
//! or the table is in `package`. Start with [`Header::parse`].

use crate::blocks::BLOCK_BYTES;
use crate::elf::Machine;
use crate::error::{Digest, Expected, RtsError, at_most, exactly};
use crate::manifest::MANIFEST_BYTES_MAX;
use crate::table::{ENTRY_BYTES, SECTIONS_MAX};

/// Length of the header.
pub const HEADER_BYTES: usize = 512;
/// The format's name and first version.
pub(crate) const MAGIC: [u8; 4] = [0x52, 0x54, 0x53, 0x01];
const VERSION: u32 = 1;
/// `VBRTSEXT`: tells our packages from plain ones.
pub(crate) const EXT_MAGIC: [u8; 8] = *b"VBRTSEXT";
const EXT_VERSION: u16 = 1;
/// Where the extension begins.
pub(crate) const EXT_AT: usize = 40;
/// Where key, signature and check lie; the digest covers what is before the key, the signature what is before itself.
pub(crate) const KEY_AT: usize = 296;
pub(crate) const SIGNATURE_AT: usize = 328;
pub(crate) const RESERVED_AT: usize = 392;
const CHECK_AT: usize = 508;
/// Packages are whole pages and sectors.
pub(crate) const PACKAGE_ALIGN: u64 = 4096;
/// A full manifest's JSON is a quarter of this (a test holds it to that).
pub const JSON_BYTES_MAX: u64 = 1 << 20;

/// Name, place and length of every field, in order and without gaps.
pub(crate) const FIELDS: [(&str, usize, usize); 26] = [
    ("magic", 0, 4),
    ("version", 4, 4),
    ("binary_offset", 8, 8),
    ("binary_size", 16, 8),
    ("tensor_offset", 24, 8),
    ("tensor_size", 32, 8),
    ("ext_magic", 40, 8),
    ("ext_version", 48, 2),
    ("machine", 50, 2),
    ("flags", 52, 4),
    ("package_bytes", 56, 8),
    ("elf_bytes", 64, 8),
    ("elf_blake3", 72, 32),
    ("table_offset", 104, 8),
    ("table_entries", 112, 8),
    ("table_blake3", 120, 32),
    ("manifest_offset", 152, 8),
    ("manifest_bytes", 160, 8),
    ("manifest_blake3", 168, 32),
    ("json_offset", 200, 8),
    ("json_bytes", 208, 8),
    ("json_blake3", 216, 32),
    ("blocks_offset", 248, 8),
    ("blocks_count", 256, 8),
    ("blocks_blake3", 264, 32),
    ("key_id", KEY_AT, 32),
];

/// What the header says, proven consistent within itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) binary_size: u64,
    pub(crate) tensor_offset: u64,
    pub(crate) tensor_size: u64,
    /// `tensor_offset + tensor_size`.
    pub(crate) tensor_end: u64,
    pub(crate) ext: Option<Extension>,
}

/// What bytes 40 to 511 say in a package that is not plain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Extension {
    pub(crate) machine: Machine,
    pub(crate) package_bytes: u64,
    pub(crate) elf_bytes: u64,
    pub(crate) elf_blake3: Digest,
    pub(crate) table_offset: u64,
    pub(crate) table_entries: u64,
    pub(crate) table_blake3: Digest,
    pub(crate) manifest_offset: u64,
    pub(crate) manifest_bytes: u64,
    pub(crate) manifest_blake3: Digest,
    pub(crate) json_offset: u64,
    pub(crate) json_bytes: u64,
    pub(crate) json_blake3: Digest,
    pub(crate) blocks_offset: u64,
    pub(crate) blocks_count: u64,
    pub(crate) blocks_blake3: Digest,
    pub(crate) key_id: [u8; 32],
    pub(crate) signature: [u8; 64],
}

impl Header {
    /// Reads a header and proves everything that it alone can prove.
    pub(crate) fn parse(bytes: &[u8; HEADER_BYTES]) -> Result<Self, RtsError> {
        let magic = take(bytes, 0);
        if magic != MAGIC {
            return Err(hex(
                "magic",
                0,
                u32::from_be_bytes(magic),
                u32::from_be_bytes(MAGIC),
            ));
        }
        let ext_magic: [u8; 8] = take(bytes, EXT_AT);
        if ext_magic == EXT_MAGIC {
            return check(bytes, Self::fields(bytes));
        }
        // Whoever looks like ours but for one bit is ours, damaged; else only zeros are plain.
        if let Some(at) = bytes.iter().skip(EXT_AT).position(|byte| *byte != 0) {
            let at = EXT_AT.saturating_add(at);
            if at < EXT_AT.saturating_add(EXT_MAGIC.len()) {
                return Err(RtsError::number(
                    "ext_magic",
                    EXT_AT as u64,
                    u64::from_be_bytes(ext_magic),
                    Expected::Hex(u64::from_be_bytes(EXT_MAGIC)),
                ));
            }
            let found = bytes.get(at).copied().map_or(0, u64::from);
            return Err(RtsError::number(
                field_at(at).0,
                at as u64,
                found,
                Expected::Hex(0),
            ));
        }
        Self::plain(bytes)
    }

    /// The rules of the first 40 bytes.
    fn plain(bytes: &[u8; HEADER_BYTES]) -> Result<Self, RtsError> {
        exactly(
            "version",
            4,
            u64::from(u32::from_be_bytes(take(bytes, 4))),
            u64::from(VERSION),
        )?;
        exactly("binary_offset", 8, number(bytes, 8), HEADER_BYTES as u64)?;
        let binary_size = number(bytes, 16);
        let tensor_offset = number(bytes, 24);
        let tensor_size = number(bytes, 32);
        at_most("binary_size", 16, binary_size, FILE_BYTES_MAX)?;
        exactly(
            "tensor_offset",
            24,
            tensor_offset,
            binary_size.saturating_add(HEADER_BYTES as u64),
        )?;
        at_most(
            "tensor_size",
            32,
            tensor_size,
            FILE_BYTES_MAX.saturating_sub(tensor_offset),
        )?;
        let tensor_end = tensor_offset.saturating_add(tensor_size);
        Ok(Self {
            binary_size,
            tensor_offset,
            tensor_size,
            tensor_end,
            ext: None,
        })
    }

    /// The rules of a header with extension, but for its check.
    fn fields(bytes: &[u8; HEADER_BYTES]) -> Result<Self, RtsError> {
        let plain = Self::plain(bytes)?;
        exactly(
            "ext_version",
            48,
            u64::from(u16::from_be_bytes(take(bytes, 48))),
            u64::from(EXT_VERSION),
        )?;
        let machine = u16::from_be_bytes(take(bytes, 50));
        let machine = Machine::from_elf(machine).ok_or_else(|| {
            RtsError::number(
                "machine",
                50,
                u64::from(machine),
                Expected::Exactly(u64::from(Machine::NATIVE.to_elf())),
            )
        })?;
        exactly(
            "flags",
            52,
            u64::from(u32::from_be_bytes(take(bytes, 52))),
            0,
        )?;
        let ext = Extension {
            machine,
            package_bytes: number(bytes, 56),
            elf_bytes: number(bytes, 64),
            elf_blake3: Digest(take(bytes, 72)),
            table_offset: number(bytes, 104),
            table_entries: number(bytes, 112),
            table_blake3: Digest(take(bytes, 120)),
            manifest_offset: number(bytes, 152),
            manifest_bytes: number(bytes, 160),
            manifest_blake3: Digest(take(bytes, 168)),
            json_offset: number(bytes, 200),
            json_bytes: number(bytes, 208),
            json_blake3: Digest(take(bytes, 216)),
            blocks_offset: number(bytes, 248),
            blocks_count: number(bytes, 256),
            blocks_blake3: Digest(take(bytes, 264)),
            key_id: take(bytes, KEY_AT),
            signature: take(bytes, SIGNATURE_AT),
        };
        at_most("elf_bytes", 64, ext.elf_bytes, plain.binary_size)?;
        let aligned = block_end(ext.elf_bytes.saturating_add(HEADER_BYTES as u64));
        exactly("tensor_offset", 24, plain.tensor_offset, aligned)?;
        at_most("table_entries", 112, ext.table_entries, SECTIONS_MAX as u64)?;
        at_most("table_offset", 104, ext.table_offset, FILE_BYTES_MAX)?;
        let tensor_room = ext.table_offset.saturating_sub(plain.tensor_offset);
        at_most("tensor_size", 32, plain.tensor_size, tensor_room)?;
        if ext.table_entries == 0 {
            exactly(
                "table_offset",
                104,
                ext.table_offset,
                block_end(plain.tensor_end),
            )?;
        }
        let table_end = ext
            .table_offset
            .saturating_add(ext.table_entries.saturating_mul(ENTRY_BYTES as u64));
        exactly("manifest_offset", 152, ext.manifest_offset, table_end)?;
        at_most(
            "manifest_bytes",
            160,
            ext.manifest_bytes,
            MANIFEST_BYTES_MAX as u64,
        )?;
        exactly(
            "json_offset",
            200,
            ext.json_offset,
            ext.manifest_offset.saturating_add(ext.manifest_bytes),
        )?;
        at_most("json_bytes", 208, ext.json_bytes, JSON_BYTES_MAX)?;
        exactly(
            "blocks_offset",
            248,
            ext.blocks_offset,
            ext.json_offset.saturating_add(ext.json_bytes),
        )?;
        exactly(
            "blocks_count",
            256,
            ext.blocks_count,
            ext.table_offset / BLOCK_BYTES,
        )?;
        exactly(
            "package_bytes",
            56,
            ext.package_bytes,
            ext.content_end().next_multiple_of(PACKAGE_ALIGN),
        )?;
        let signature_at = bytes
            .iter()
            .skip(SIGNATURE_AT)
            .take(64)
            .position(|byte| *byte != 0);
        if let Some(at) = signature_at.filter(|_| !ext.is_signed()) {
            let at = SIGNATURE_AT.saturating_add(at);
            let found = bytes.get(at).copied().map_or(0, u64::from);
            return Err(RtsError::number(
                "signature",
                at as u64,
                found,
                Expected::Hex(0),
            ));
        }
        for (at, byte) in bytes.iter().enumerate().take(CHECK_AT).skip(RESERVED_AT) {
            if *byte != 0 {
                return Err(RtsError::number(
                    "reserved",
                    at as u64,
                    u64::from(*byte),
                    Expected::Hex(0),
                ));
            }
        }
        Ok(Self {
            ext: Some(ext),
            ..plain
        })
    }

    /// Writes the header, its check included.
    pub(crate) fn to_bytes(&self) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        put(&mut bytes, 0, &MAGIC);
        put(&mut bytes, 4, &VERSION.to_be_bytes());
        put(&mut bytes, 8, &(HEADER_BYTES as u64).to_be_bytes());
        put(&mut bytes, 16, &self.binary_size.to_be_bytes());
        put(&mut bytes, 24, &self.tensor_offset.to_be_bytes());
        put(&mut bytes, 32, &self.tensor_size.to_be_bytes());
        let Some(ext) = &self.ext else { return bytes };
        put(&mut bytes, EXT_AT, &EXT_MAGIC);
        put(&mut bytes, 48, &EXT_VERSION.to_be_bytes());
        put(&mut bytes, 50, &ext.machine.to_elf().to_be_bytes());
        for (at, value) in [
            (56, ext.package_bytes),
            (64, ext.elf_bytes),
            (104, ext.table_offset),
            (112, ext.table_entries),
            (152, ext.manifest_offset),
            (160, ext.manifest_bytes),
            (200, ext.json_offset),
            (208, ext.json_bytes),
            (248, ext.blocks_offset),
            (256, ext.blocks_count),
        ] {
            put(&mut bytes, at, &value.to_be_bytes());
        }
        for (at, digest) in [
            (72, &ext.elf_blake3),
            (120, &ext.table_blake3),
            (168, &ext.manifest_blake3),
            (216, &ext.json_blake3),
            (264, &ext.blocks_blake3),
        ] {
            put(&mut bytes, at, &digest.0);
        }
        put(&mut bytes, KEY_AT, &ext.key_id);
        put(&mut bytes, SIGNATURE_AT, &ext.signature);
        let crc = header_crc(&bytes);
        put(&mut bytes, CHECK_AT, &crc.to_be_bytes());
        bytes
    }
}

impl Extension {
    /// Where the block list ends and the last padding begins.
    pub(crate) fn content_end(&self) -> u64 {
        self.blocks_offset
            .saturating_add(self.blocks_count.saturating_mul(32))
    }

    pub(crate) fn is_signed(&self) -> bool {
        self.key_id != [0; 32]
    }
}

/// Half of what a signed 64-bit file offset can say: sums of two lengths below it cannot overflow.
pub(crate) const FILE_BYTES_MAX: u64 = 1 << 62;

/// The first multiple of a block at or behind `at`; lengths are at most [`FILE_BYTES_MAX`].
pub(crate) fn block_end(at: u64) -> u64 {
    at.checked_next_multiple_of(BLOCK_BYTES).unwrap_or(u64::MAX)
}

/// Compares the check; where it fails, says which bit is wrong, or which rule, or else that the check is.
fn check(bytes: &[u8; HEADER_BYTES], fields: Result<Header, RtsError>) -> Result<Header, RtsError> {
    let found = u32::from_be_bytes(take(bytes, CHECK_AT));
    let expected = header_crc(bytes);
    if found == expected {
        return fields;
    }
    if let Some((at, bit)) = wrong_bit(found ^ expected) {
        return Err(bit_error(bytes, at, bit));
    }
    fields.and(Err(hex("header_check", CHECK_AT as u64, found, expected)))
}

fn header_crc(bytes: &[u8; HEADER_BYTES]) -> u32 {
    crc32fast::hash(bytes.get(..CHECK_AT).unwrap_or_default())
}

/// Finds the one bit whose flip changes the check by `difference`.
///
/// CRC-32 is linear: a flipped bit changes the check by a pattern that depends on its place alone.
/// From the last bit backwards each pattern is one shift of the one before it, and no two of these are equal.
fn wrong_bit(difference: u32) -> Option<(usize, u32)> {
    /// The reversed polynomial of CRC-32 (IEEE 802.3), as in `crc32fast`.
    const POLYNOMIAL: u32 = 0xedb8_8320;
    if difference.count_ones() == 1 {
        // The check itself, stored big-endian.
        let place = difference.leading_zeros() as usize;
        return Some((
            CHECK_AT.saturating_add(place / 8),
            difference.trailing_zeros() % 8,
        ));
    }
    let mut pattern = POLYNOMIAL;
    for at in (0..CHECK_AT).rev() {
        for bit in (0..8).rev() {
            if pattern == difference {
                return Some((at, bit));
            }
            pattern = (pattern >> 1) ^ if pattern & 1 == 1 { POLYNOMIAL } else { 0 };
        }
    }
    None
}

/// The refusal of a header with one wrong bit, in terms of the field that holds it.
fn bit_error(bytes: &[u8; HEADER_BYTES], at: usize, bit: u32) -> RtsError {
    let (name, field_at, len) = field_at(at);
    let mut mended = *bytes;
    if let Some(byte) = mended.get_mut(at) {
        *byte ^= 1_u8.checked_shl(bit).unwrap_or(0);
    }
    let is_number = len <= 8 && !name.contains("magic") && name != "header_check";
    let range = if is_number {
        field_at..field_at.saturating_add(len)
    } else {
        at..at.saturating_add(1)
    };
    let value = |bytes: &[u8; HEADER_BYTES]| {
        let bytes = bytes.get(range.clone()).unwrap_or_default();
        bytes
            .iter()
            .fold(0_u64, |value, byte| (value << 8) | u64::from(*byte))
    };
    let expected = value(&mended);
    RtsError::Bit {
        field: name.into(),
        at: at as u64,
        found: value(bytes),
        expected: if is_number {
            Expected::Exactly(expected)
        } else {
            Expected::Hex(expected)
        },
    }
}

/// The field that holds byte `at`: its name, place and length.
pub(crate) fn field_at(at: usize) -> (&'static str, usize, usize) {
    let held = FIELDS
        .iter()
        .find(|(_, start, len)| (*start..start.saturating_add(*len)).contains(&at));
    match held {
        Some(field) => *field,
        None if at < RESERVED_AT => ("signature", SIGNATURE_AT, 64),
        None if at < CHECK_AT => ("reserved", RESERVED_AT, 116),
        None => ("header_check", CHECK_AT, 4),
    }
}

fn hex(name: &'static str, at: u64, found: u32, expected: u32) -> RtsError {
    RtsError::number(
        name,
        at,
        u64::from(found),
        Expected::Hex(u64::from(expected)),
    )
}

/// `N` bytes at a constant place; all places here end before 512.
pub(crate) fn take<const N: usize>(bytes: &[u8; HEADER_BYTES], at: usize) -> [u8; N] {
    bytes
        .get(at..)
        .and_then(|rest| rest.first_chunk())
        .copied()
        .unwrap_or([0; N])
}

fn number(bytes: &[u8; HEADER_BYTES], at: usize) -> u64 {
    u64::from_be_bytes(take(bytes, at))
}

/// Writes `value` at a constant place; all places here end before 512.
pub(crate) fn put(bytes: &mut [u8; HEADER_BYTES], at: usize, value: &[u8]) {
    if let Some(target) = bytes.get_mut(at..at.saturating_add(value.len())) {
        target.copy_from_slice(value);
    }
}

/// Computes the check anew after `bytes` changed.
pub(crate) fn reseal(bytes: &mut [u8; HEADER_BYTES]) {
    let crc = header_crc(bytes);
    put(bytes, CHECK_AT, &crc.to_be_bytes());
}
