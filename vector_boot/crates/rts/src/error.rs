//! Why a package is refused: always a field, its byte offset, what it holds and what was expected.
//!
//! Start with [`RtsError`]. Its values are plain and small, so that PID 1 can keep one without allocating.

use core::fmt;

use crate::elf::{ElfProblem, Machine};
use crate::manifest::{ManifestError, Name};
use crate::sign::PublicKey;

/// A BLAKE3 hash.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Digest(pub [u8; 32]);

impl Digest {
    /// The hash of `bytes`.
    pub fn of(bytes: &[u8]) -> Self {
        Self(*blake3::hash(bytes).as_bytes())
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // At once: PID 1 writes several before its first service, and a `write!` a byte costs 10 us each.
        let mut text = [0; 64];
        for (pair, byte) in text.chunks_exact_mut(2).zip(self.0) {
            if let [high, low] = pair {
                (*high, *low) = (hex_digit(byte >> 4), hex_digit(byte & 15));
            }
        }
        f.write_str(core::str::from_utf8(&text).unwrap_or_default())
    }
}

/// Of a number below 16.
fn hex_digit(number: u8) -> u8 {
    match number {
        0..10 => b'0' + number,
        _ => b'a' + (number - 10),
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Which part of a package is meant; prints as `tensor_size` or `section app: blake3`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Field {
    /// The added section, where the part belongs to one.
    pub section: Option<Name>,
    /// The field's name in `docs/rts-format.md`.
    pub name: &'static str,
}

impl From<&'static str> for Field {
    fn from(name: &'static str) -> Self {
        Self {
            section: None,
            name,
        }
    }
}

impl Field {
    /// A part of an added section.
    pub(crate) fn of(section: &Name, name: &'static str) -> Self {
        Self {
            section: Some(section.clone()),
            name,
        }
    }
}

impl fmt::Display for Field {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.section {
            Some(section) => write!(f, "section {section}: {}", self.name),
            None => f.write_str(self.name),
        }
    }
}

/// What a number should have been.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expected {
    /// This value.
    Exactly(u64),
    /// This value, shown in hexadecimal as `found` is.
    Hex(u64),
    /// At most this.
    AtMost(u64),
    /// At least this.
    AtLeast(u64),
}

/// Why a package is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RtsError {
    /// A number is not what it must be.
    #[error("{field} at byte {at}: {}", Found { found: *found, expected: *expected })]
    Number {
        /// Which field.
        field: Field,
        /// Where it lies in the package.
        at: u64,
        /// What it holds.
        found: u64,
        /// What was expected.
        expected: Expected,
    },
    /// The header's check failed, and turning exactly this bit back mends it.
    #[error("{field} at byte {at}: one bit differs: {}", Found { found: *found, expected: *expected })]
    Bit {
        /// The field that holds the bit.
        field: Field,
        /// The byte that holds the bit.
        at: u64,
        /// A number's value; of any other field the byte's.
        found: u64,
        /// The same with the bit turned back.
        expected: Expected,
    },
    /// A hash differs; the first eight bytes of both are kept.
    #[error("{field} at byte {at}: found {found:016x}..., expected {expected:016x}...")]
    Digest {
        /// What was hashed.
        field: Field,
        /// Where that begins in the package.
        at: u64,
        /// The hash of what is there.
        found: u64,
        /// The hash that the package promises.
        expected: u64,
    },
    /// A 64 KiB block differs from the block list.
    #[error(
        "block {index} at byte {at} ({part}): found {found:016x}..., expected {expected:016x}..."
    )]
    Block {
        /// Its place in the list.
        index: u64,
        /// Where it begins in the package.
        at: u64,
        /// Which part of the package it lies in.
        part: Field,
        /// The hash of what is there.
        found: u64,
        /// The hash in the list.
        expected: u64,
    },
    /// A text is not of its alphabet, or stands twice.
    #[error("{field} at byte {at}: {problem}")]
    Text {
        /// Which field.
        field: Field,
        /// Where it lies in the package.
        at: u64,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// An executable is not one that the machine can run.
    #[error("{field} at byte {at}: {problem}")]
    Elf {
        /// Which executable.
        field: Field,
        /// Where it begins in the package.
        at: u64,
        /// What is wrong with it.
        problem: ElfProblem,
    },
    /// The manifest breaks a rule.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    /// The package carries no signature and one is required.
    #[error("signature at byte 328: found none, expected one by a trusted key")]
    Unsigned,
    /// The package is signed by a key that is not trusted.
    #[error("key_id at byte 296: found {found}, expected one of {trusted} trusted keys")]
    Foreign {
        /// Who signed.
        found: PublicKey,
        /// How many keys are trusted.
        trusted: usize,
    },
    /// The signature is not the named key's over this header.
    #[error("signature at byte 328: not made by key {key} over this header")]
    Forged {
        /// Who is said to have signed.
        key: PublicKey,
    },
    /// The package is for another processor.
    #[error("machine at byte 50: package is for {package}, this machine is {here}")]
    OtherMachine {
        /// The package's.
        package: Machine,
        /// The one that was to run it.
        here: Machine,
    },
    /// The package is plain and has no such part.
    #[error("{field} at byte 40: found a plain package, expected the extension")]
    Plain {
        /// What was asked for.
        field: Field,
    },
}

impl RtsError {
    pub(crate) fn number(field: impl Into<Field>, at: u64, found: u64, expected: Expected) -> Self {
        Self::Number {
            field: field.into(),
            at,
            found,
            expected,
        }
    }

    pub(crate) fn digest(
        field: impl Into<Field>,
        at: u64,
        found: &Digest,
        expected: &Digest,
    ) -> Self {
        Self::Digest {
            field: field.into(),
            at,
            found: head(found),
            expected: head(expected),
        }
    }
}

/// The first eight bytes of a hash, as people compare them.
pub(crate) fn head(digest: &Digest) -> u64 {
    digest
        .0
        .first_chunk()
        .map_or(0, |bytes| u64::from_be_bytes(*bytes))
}

/// Refuses `found` unless it is `expected`.
pub(crate) fn exactly(
    field: impl Into<Field>,
    at: u64,
    found: u64,
    expected: u64,
) -> Result<(), RtsError> {
    if found == expected {
        return Ok(());
    }
    Err(RtsError::number(
        field,
        at,
        found,
        Expected::Exactly(expected),
    ))
}

/// Refuses `found` above `limit`.
pub(crate) fn at_most(
    field: impl Into<Field>,
    at: u64,
    found: u64,
    limit: u64,
) -> Result<(), RtsError> {
    if found <= limit {
        return Ok(());
    }
    Err(RtsError::number(field, at, found, Expected::AtMost(limit)))
}

/// Prints a found and an expected number in the same base.
struct Found {
    found: u64,
    expected: Expected,
}

impl fmt::Display for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let found = self.found;
        match self.expected {
            Expected::Exactly(value) => write!(f, "found {found}, expected {value}"),
            Expected::Hex(value) => write!(f, "found {found:#x}, expected {value:#x}"),
            Expected::AtMost(limit) => write!(f, "found {found}, expected at most {limit}"),
            Expected::AtLeast(limit) => write!(f, "found {found}, expected at least {limit}"),
        }
    }
}
