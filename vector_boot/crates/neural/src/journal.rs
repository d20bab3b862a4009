//! `cortex_journal`: rows of what the runtime did and was asked to do, each chained to the one before.
//!
//! Owns: the row's format ([`Row`], 192 bytes) and the chain ([`Chain`]); [`Ring`] keeps the newest rows
//! of PID 1 in a memory file. The file on the data disk is the role `cortex`'s, in the same format.
//! `docs/neural.md` has the row byte by byte.
//!
//! Never here: allocation after a ring was made, waiting, more rows than the ring has places.

mod ring;

pub use ring::{Begun, RING_BYTES, RING_ROWS, Ring};

use std::fmt;

/// Bytes of a row, its hash among them.
pub const ROW_BYTES: usize = 192;
/// Bytes that the hash covers, beside the hash of the row before.
const BODY_BYTES: usize = ROW_BYTES - HASH_BYTES;
/// BLAKE3.
pub const HASH_BYTES: usize = 32;
/// Longest subject: a tensor's name.
pub const SUBJECT_BYTES: usize = 64;
/// Version of the row's format.
pub const VERSION: u8 = 1;
/// BLAKE3's context of derived keys: no other hash of the product is one of these.
const CONTEXT: &str = "vector_boot cortex_journal row v1";

/// A hash of a row, which stands for all rows up to it.
pub type Hash = [u8; HASH_BYTES];

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// A chain began: the first row. Subject: why.
    Began = 1,
    /// An interrupt was raised. Code: the register; id: its place in the table; values: register, threshold.
    Raised = 2,
    /// It was cleared. As above.
    Cleared = 3,
    /// A control changed. Code: which; subject: its name; values: before, after, the wish.
    Control = 4,
    /// A system tensor was refused; the default's stands in. Subject: its name.
    ModelRefused = 5,
    /// A mutation was taken. Id: its own; subject: the tensor; digest: BLAKE3 of its payload.
    Accepted = 6,
    /// A mutation was refused. Code: the reason; else as above.
    Refused = 7,
    /// A generation was published. Generation: which; digest: BLAKE3 of it.
    Published = 8,
    /// A generation is in force in PID 1.
    InForce = 9,
    /// A generation was rolled back. Generation: the one in force now; id: the one that was left; code: the reason.
    RolledBack = 10,
    /// The journal was read at the start. Generation: the one found; id: rows read; code: 1 if a torn tail was cut.
    Replayed = 11,
    /// Rows were over the rate, or nobody fetched them in time. Id: how many.
    Lost = 12,
}

impl Kind {
    /// Every kind.
    pub const ALL: [Self; 12] = [
        Self::Began,
        Self::Raised,
        Self::Cleared,
        Self::Control,
        Self::ModelRefused,
        Self::Accepted,
        Self::Refused,
        Self::Published,
        Self::InForce,
        Self::RolledBack,
        Self::Replayed,
        Self::Lost,
    ];

    /// The kind of a number.
    #[must_use]
    pub fn of(number: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| *kind as u8 == number)
    }

    /// For people.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Began => "began",
            Self::Raised => "raised",
            Self::Cleared => "cleared",
            Self::Control => "control",
            Self::ModelRefused => "model_refused",
            Self::Accepted => "accepted",
            Self::Refused => "refused",
            Self::Published => "published",
            Self::InForce => "in_force",
            Self::RolledBack => "rolled_back",
            Self::Replayed => "replayed",
            Self::Lost => "lost",
        }
    }
}

/// One row without its place in a chain. Equal rows have equal bytes: a NaN equals a NaN.
#[derive(Debug, Clone, Copy)]
pub struct Row {
    /// What happened.
    pub kind: Kind,
    /// What of its kind.
    pub code: u16,
    /// The generation in force.
    pub generation: u32,
    /// When, CLOCK_MONOTONIC in nanoseconds.
    pub at_ns: u64,
    /// PID 1's beats until then.
    pub beat: u64,
    /// Its number in PID 1's ring, for a row that another chain took from there; else 0.
    pub origin: u64,
    /// A mutation's own number, or as the kind says.
    pub id: u64,
    /// As the kind says; NaN where there is none.
    pub values: [f32; 4],
    /// What it is about.
    pub subject: Subject,
    /// BLAKE3 of what it is about, or zeros.
    pub digest: Hash,
}

impl PartialEq for Row {
    fn eq(&self, other: &Self) -> bool {
        body(0, self) == body(0, other)
    }
}

impl Eq for Row {}

impl Row {
    /// A row of which nothing but its kind and time is known.
    #[must_use]
    pub fn new(kind: Kind, at_ns: u64, beat: u64) -> Self {
        Self {
            kind,
            code: 0,
            generation: 0,
            at_ns,
            beat,
            origin: 0,
            id: 0,
            values: [f32::NAN; 4],
            subject: Subject::default(),
            digest: [0; HASH_BYTES],
        }
    }
}

/// Up to 64 bytes of UTF-8.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Subject([u8; SUBJECT_BYTES]);

impl Default for Subject {
    fn default() -> Self {
        Self([0; SUBJECT_BYTES])
    }
}

impl Subject {
    /// A text; what is too long is cut at a character, NUL ends it.
    #[must_use]
    pub fn new(text: &str) -> Self {
        let end = text.find('\0').unwrap_or(text.len());
        let end = text.floor_char_boundary(end.min(SUBJECT_BYTES));
        let mut bytes = [0; SUBJECT_BYTES];
        for (place, byte) in bytes.iter_mut().zip(text.as_bytes().iter().take(end)) {
            *place = *byte;
        }
        Self(bytes)
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        let end = self.0.iter().position(|byte| *byte == 0);
        let text = self.0.get(..end.unwrap_or(SUBJECT_BYTES));
        // `new` and `of` make nothing else.
        std::str::from_utf8(text.unwrap_or_default()).unwrap_or_default()
    }

    /// Takes bytes that are UTF-8 and then zeros.
    fn of(bytes: [u8; SUBJECT_BYTES]) -> Option<Self> {
        let end = bytes.iter().position(|byte| *byte == 0);
        let (text, rest) = bytes.split_at(end.unwrap_or(SUBJECT_BYTES));
        let whole = std::str::from_utf8(text).is_ok() && rest.iter().all(|byte| *byte == 0);
        whole.then_some(Self(bytes))
    }
}

/// A row with its place in its chain, as it is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    /// Its number, from 1, without gaps.
    pub seq: u64,
    /// What it says.
    pub row: Row,
    /// Hash of it and, by way of the one before, of all before it.
    pub hash: Hash,
}

/// What is wrong with the bytes of a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RowError {
    /// Not [`ROW_BYTES`].
    Length(usize),
    /// Another version.
    Version(u8),
    /// A kind that nobody knows.
    Kind(u8),
    /// A subject that is no text, or something behind its end; or bytes that are to be zero.
    Field(&'static str),
    /// A number that is not the next one.
    Sequence {
        /// As found.
        found: u64,
        /// As it is to be.
        expected: u64,
    },
    /// A hash that is not that of this row behind the one before.
    Hash(u64),
}

impl fmt::Display for RowError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Length(found) => write!(f, "row of {found} bytes, limit {ROW_BYTES}"),
            Self::Version(found) => write!(f, "row version {found}, limit {VERSION}"),
            Self::Kind(found) => write!(f, "row kind {found}, limit 1 to {}", Kind::ALL.len()),
            Self::Field(name) => write!(f, "row {name}: bytes that mean nothing"),
            Self::Sequence { found, expected } => {
                write!(f, "row number {found}, limit {expected}")
            }
            Self::Hash(seq) => write!(f, "row {seq}: its hash is another"),
        }
    }
}

impl std::error::Error for RowError {}

impl Entry {
    /// The bytes, as `docs/neural.md` has them.
    #[must_use]
    pub fn encode(&self) -> [u8; ROW_BYTES] {
        let mut out = [0; ROW_BYTES];
        let body = body(self.seq, &self.row);
        for (place, byte) in out.iter_mut().zip(body.iter().chain(&self.hash)) {
            *place = *byte;
        }
        out
    }

    /// Reads the bytes; whether the hash holds is [`Chain::check`]'s.
    ///
    /// # Errors
    /// [`RowError`], all but its last two.
    pub fn decode(bytes: &[u8]) -> Result<Self, RowError> {
        let bytes: &[u8; ROW_BYTES] = bytes
            .try_into()
            .map_err(|_| RowError::Length(bytes.len()))?;
        let mut reader = Bytes(bytes);
        let seq = u64::from_le_bytes(reader.take());
        let at_ns = u64::from_le_bytes(reader.take());
        let beat = u64::from_le_bytes(reader.take());
        let origin = u64::from_le_bytes(reader.take());
        let id = u64::from_le_bytes(reader.take());
        let generation = u32::from_le_bytes(reader.take());
        let code = u16::from_le_bytes(reader.take());
        let [kind, version] = reader.take();
        let values = [(); 4].map(|()| f32::from_le_bytes(reader.take()));
        let subject = reader.take();
        let digest = reader.take();
        let hash = reader.take();
        if version != VERSION {
            return Err(RowError::Version(version));
        }
        Ok(Self {
            seq,
            row: Row {
                kind: Kind::of(kind).ok_or(RowError::Kind(kind))?,
                code,
                generation,
                at_ns,
                beat,
                origin,
                id,
                values,
                subject: Subject::of(subject).ok_or(RowError::Field("subject"))?,
                digest,
            },
            hash,
        })
    }
}

/// What the hash covers of a row itself.
fn body(seq: u64, row: &Row) -> [u8; BODY_BYTES] {
    let mut out = [0; BODY_BYTES];
    let mut writer = Place(&mut out);
    writer.put(&seq.to_le_bytes());
    writer.put(&row.at_ns.to_le_bytes());
    writer.put(&row.beat.to_le_bytes());
    writer.put(&row.origin.to_le_bytes());
    writer.put(&row.id.to_le_bytes());
    writer.put(&row.generation.to_le_bytes());
    writer.put(&row.code.to_le_bytes());
    writer.put(&[row.kind as u8, VERSION]);
    for value in row.values {
        // One NaN for all: the bits of others would be noise in the hash.
        let value = if value.is_nan() { f32::NAN } else { value };
        writer.put(&value.to_le_bytes());
    }
    writer.put(&row.subject.0);
    writer.put(&row.digest);
    out
}

const _: () = assert!(BODY_BYTES == 5 * 8 + 8 + 16 + SUBJECT_BYTES + HASH_BYTES);

/// Bytes that are read one field behind the other; zeros past their end.
struct Bytes<'a>(&'a [u8]);

impl Bytes<'_> {
    fn take<const N: usize>(&mut self) -> [u8; N] {
        match self.0.split_first_chunk() {
            Some((field, rest)) => {
                self.0 = rest;
                *field
            }
            None => [0; N],
        }
    }
}

/// Bytes that are written one field behind the other; what has no place is left out.
struct Place<'a>(&'a mut [u8]);

impl Place<'_> {
    fn put(&mut self, field: &[u8]) {
        let room = std::mem::take(&mut self.0);
        if let Some((place, rest)) = room.split_at_mut_checked(field.len()) {
            place.copy_from_slice(field);
            self.0 = rest;
        }
    }
}

/// Where a chain is: its last row's number and hash.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Chain {
    seq: u64,
    head: Hash,
}

impl Chain {
    /// A chain whose last row is this one.
    #[must_use]
    pub const fn behind(seq: u64, head: Hash) -> Self {
        Self { seq, head }
    }

    /// The last row's number; 0 before the first.
    #[must_use]
    pub const fn seq(&self) -> u64 {
        self.seq
    }

    /// The last row's hash; zeros before the first.
    #[must_use]
    pub const fn head(&self) -> Hash {
        self.head
    }

    /// Puts a row behind the last one.
    pub fn push(&mut self, row: &Row) -> Entry {
        let seq = self.seq.wrapping_add(1);
        let hash = hash(&self.head, &body(seq, row));
        *self = Self { seq, head: hash };
        Entry {
            seq,
            row: *row,
            hash,
        }
    }

    /// Takes the bytes of the next row, and goes on behind it.
    ///
    /// # Errors
    /// [`RowError`]; the chain then stays where it is.
    pub fn check(&mut self, bytes: &[u8]) -> Result<Entry, RowError> {
        let entry = Entry::decode(bytes)?;
        let expected = self.seq.wrapping_add(1);
        if entry.seq != expected {
            return Err(RowError::Sequence {
                found: entry.seq,
                expected,
            });
        }
        if hash(&self.head, &body(entry.seq, &entry.row)) != entry.hash {
            return Err(RowError::Hash(entry.seq));
        }
        *self = Self {
            seq: entry.seq,
            head: entry.hash,
        };
        Ok(entry)
    }
}

fn hash(before: &Hash, body: &[u8; BODY_BYTES]) -> Hash {
    *blake3::Hasher::new_derive_key(CONTEXT)
        .update(before)
        .update(body)
        .finalize()
        .as_bytes()
}

/// The fuzz body: any bytes are refused or read, and what was read is written as it was.
///
/// # Panics
/// Where a promise does not hold.
pub fn fuzz_body(bytes: &[u8]) {
    if let Ok(entry) = Entry::decode(bytes) {
        let again = entry.encode();
        let nan = entry.row.values.iter().any(|value| value.is_nan());
        assert!(nan || again == bytes);
        assert_eq!(Entry::decode(&again).map(|e| e.seq), Ok(entry.seq));
        let pushed = Chain::default().push(&entry.row).encode();
        let taken = Chain::default().check(&pushed);
        assert_eq!(
            taken.map(|e| e.encode()),
            Ok(pushed),
            "a row of its own chain"
        );
    }
    let mut chain = Chain::default();
    if let Ok(entry) = chain.check(bytes) {
        assert_eq!((chain.seq(), chain.head()), (1, entry.hash));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn row() -> impl Strategy<Value = Row> {
        let numbers = (any::<u16>(), any::<u32>(), any::<[u64; 4]>());
        let rest = (any::<[f32; 4]>(), "\\PC{0,40}", any::<[u8; 32]>());
        (0..Kind::ALL.len(), numbers, rest).prop_map(
            |(kind, (code, generation, numbers), (values, subject, digest))| Row {
                kind: Kind::ALL[kind],
                code,
                generation,
                at_ns: numbers[0],
                beat: numbers[1],
                origin: numbers[2],
                id: numbers[3],
                values,
                subject: Subject::new(&subject),
                digest,
            },
        )
    }

    proptest! {
        #[test]
        fn rows_survive_writing_and_any_changed_byte_breaks_the_chain(
            rows in proptest::collection::vec(row(), 1..6), at in any::<usize>(), flip in 1u8..
        ) {
            let mut chain = Chain::default();
            let written: Vec<[u8; ROW_BYTES]> = rows.iter().map(|row| chain.push(row).encode()).collect();
            let mut reader = Chain::default();
            for (row, bytes) in rows.iter().zip(&written) {
                prop_assert_eq!(&reader.check(bytes).unwrap().row, row);
            }
            prop_assert_eq!(reader, chain);
            let mut forged = written.clone();
            let bytes = forged.len() * ROW_BYTES;
            forged.as_flattened_mut()[at % bytes] ^= flip;
            let mut reader = Chain::default();
            let taken = forged.iter().take_while(|bytes| reader.check(*bytes).is_ok()).count();
            // A NaN's other bits are the same NaN.
            let nan = rows.iter().any(|row| row.values.iter().any(|v| v.is_nan()));
            prop_assert!(nan || taken <= at % bytes / ROW_BYTES);
        }

        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..2 * ROW_BYTES)) {
            fuzz_body(&bytes);
        }
    }

    #[test]
    fn a_row_left_out_or_moved_is_found() {
        let mut chain = Chain::default();
        let rows: Vec<_> = (0..3)
            .map(|n| chain.push(&Row::new(Kind::Control, n, n)).encode())
            .collect();
        let mut reader = Chain::default();
        assert!(reader.check(&rows[0]).is_ok());
        assert_eq!(
            reader.check(&rows[2]),
            Err(RowError::Sequence {
                found: 3,
                expected: 2
            })
        );
        let mut other = Chain::default();
        other.push(&Row::new(Kind::Began, 9, 9));
        assert_eq!(other.check(&rows[1]), Err(RowError::Hash(2)));
    }

    #[test]
    fn subjects_are_cut_at_a_character_and_have_no_end_within() {
        assert_eq!(Subject::new("policy.w1").as_str(), "policy.w1");
        assert_eq!(Subject::new("a\0b").as_str(), "a");
        let long = "ü".repeat(40);
        assert_eq!(Subject::new(&long).as_str().len(), 64);
        let odd = format!("x{long}");
        assert_eq!(Subject::new(&odd).as_str().len(), 63);
    }
}
