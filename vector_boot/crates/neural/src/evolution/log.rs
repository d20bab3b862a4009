//! The mutation log: what was accepted, each record chained to the one before. Bytes in, bytes out.
//!
//! `docs/evolution.md` has the layout. A record whose chain does not hold, and all behind it, counts as not written:
//! that is what a crash in the middle of a write leaves. Start with [`Scan::of`].

use super::generation::RANGES_BYTES_MAX;
use super::ring::{NAME_BYTES, PAYLOAD_BYTES_MAX, SLOTS, name_of};

/// First eight bytes of a log.
const MAGIC: [u8; 8] = *b"VBMUTLG1";
/// Grows when a field changes its meaning.
const VERSION: u32 = 1;
/// Bytes before the first record.
pub const HEADER_BYTES: usize = 128;
/// Bytes of a record before its payload.
pub const RECORD_HEAD_BYTES: usize = 192;
/// First four bytes of a record.
const RECORD_MAGIC: [u8; 4] = *b"VBMU";
/// Where the chain's value is in a record.
const CHAIN_AT: usize = 160;
/// BLAKE3's context of the chain.
const CONTEXT: &str = "vector_boot evolution log v1";
/// What one crash can leave torn: one group. More is damage.
pub const GROUP_BYTES_MAX: usize = SLOTS * (RECORD_HEAD_BYTES + PAYLOAD_BYTES_MAX);

/// What a record tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u16)]
pub enum Kind {
    /// A mutation.
    Mutation = 1,
    /// An earlier generation became the newest one.
    Rollback = 2,
    /// All changed ranges of a generation: what a log begins with after it was shortened.
    Snapshot = 3,
}

/// A record.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Record<'a> {
    /// What it tells.
    pub kind: Kind,
    /// Of a rollback the verdict that says why.
    pub why: u16,
    /// The generation that it makes.
    pub generation: u64,
    /// Of a rollback the generation that it restores, of a mutation where its range begins.
    pub place: u64,
    /// When, nanoseconds since 1970.
    pub wall_ns: u64,
    /// Who asked for it.
    pub uid: u32,
    /// The proposer's number.
    pub id: u64,
    /// As proposed.
    pub confidence: f32,
    /// The tensor; empty but for a mutation.
    pub tensor: &'a str,
    /// Of a mutation, what the range held before.
    pub old_blake3: [u8; 32],
    /// Of a mutation what the range holds then, of a snapshot the ranges.
    pub payload: &'a [u8],
}

/// What stands for all records so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Chain([u8; 32]);

/// The header of a log on this base, and its chain.
#[must_use]
pub fn header(base: &[u8; 32]) -> ([u8; HEADER_BYTES], Chain) {
    let mut out = [0; HEADER_BYTES];
    let mut at = Writer(&mut out);
    at.put(&MAGIC);
    at.put(&VERSION.to_le_bytes());
    // Constants of this module.
    at.put(&(HEADER_BYTES as u32).to_le_bytes());
    at.put(base);
    at.skip(48);
    let hash = blake3::derive_key(CONTEXT, out.get(..96).unwrap_or_default());
    put(&mut out, 96, &hash);
    (out, Chain(hash))
}

impl Chain {
    /// Appends a record to `out`.
    pub fn push(&mut self, record: &Record<'_>, out: &mut Vec<u8>) {
        let begin = out.len();
        let bytes = RECORD_HEAD_BYTES + record.payload.len().next_multiple_of(8);
        let mut head = [0; RECORD_HEAD_BYTES];
        let mut at = Writer(&mut head);
        at.put(&RECORD_MAGIC);
        // Payloads are bounded by PAYLOAD_BYTES_MAX and RANGES_BYTES_MAX.
        at.put(&(bytes as u32).to_le_bytes());
        at.put(&record.generation.to_le_bytes());
        at.put(&record.wall_ns.to_le_bytes());
        at.put(&(record.kind as u16).to_le_bytes());
        at.put(&record.why.to_le_bytes());
        at.put(&record.uid.to_le_bytes());
        at.put(&record.place.to_le_bytes());
        at.put(&(record.payload.len() as u32).to_le_bytes());
        at.put(&record.confidence.to_le_bytes());
        at.put(&record.id.to_le_bytes());
        at.skip(8);
        at.put(record.tensor.as_bytes());
        at.skip(NAME_BYTES.saturating_sub(record.tensor.len()));
        at.put(&record.old_blake3);
        out.extend_from_slice(&head);
        out.extend_from_slice(record.payload);
        out.resize(begin + bytes, 0);
        if let Some(written) = out.get_mut(begin..) {
            self.0 = link(&self.0, written);
            put(written, CHAIN_AT, &self.0);
        }
    }
}

/// The chain's value behind a record: everything of it but the value itself.
fn link(before: &[u8; 32], record: &[u8]) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new_derive_key(CONTEXT);
    hasher.update(before);
    hasher.update(record.get(..CHAIN_AT).unwrap_or_default());
    hasher.update(record.get(RECORD_HEAD_BYTES..).unwrap_or_default());
    hasher.finalize().into()
}

/// Why bytes are no log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogError {
    /// No header of this version.
    Header,
    /// It was made on another base.
    Base,
}

impl std::fmt::Display for LogError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Header => "no header of a mutation log of version 1",
            Self::Base => "it belongs to another base",
        })
    }
}

impl std::error::Error for LogError {}

/// Where a record lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// What it tells.
    pub kind: Kind,
    /// The generation that it makes.
    pub generation: u64,
    /// Of a rollback the generation that it restores.
    pub restored: u64,
    /// Byte in the log.
    pub at: u64,
    /// Bytes of it.
    pub bytes: u32,
}

/// What a log holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scan {
    /// Its records.
    pub places: Vec<Place>,
    /// Behind the last record that holds.
    pub end: u64,
    /// Bytes behind that, which count as not written.
    pub torn: u64,
    /// What stands for all of it.
    pub chain: Chain,
}

impl Scan {
    /// Reads a log that was made on this base; never trusts a length that it did not check.
    ///
    /// # Errors
    /// [`LogError`].
    pub fn of(log: &[u8], base: &[u8; 32]) -> Result<Self, LogError> {
        let (expected, chain) = header(base);
        let found = log.get(..HEADER_BYTES).ok_or(LogError::Header)?;
        if found.get(..16) != expected.get(..16) {
            return Err(LogError::Header);
        }
        if found != expected {
            let other: [u8; 32] = get(found, 16);
            let (itself, _) = header(&other);
            return Err(if found == itself {
                LogError::Base
            } else {
                LogError::Header
            });
        }
        let mut this = Self {
            places: Vec::new(),
            end: HEADER_BYTES as u64,
            torn: 0,
            chain,
        };
        let mut rest = log.get(HEADER_BYTES..).unwrap_or_default();
        while let Some((record, bytes)) = this.next(rest) {
            this.places.push(Place {
                kind: record.kind,
                generation: record.generation,
                restored: record.place,
                at: this.end,
                bytes: u32::try_from(bytes.len()).unwrap_or(u32::MAX),
            });
            this.end += bytes.len() as u64;
            this.chain = Chain(get(bytes, CHAIN_AT));
            rest = rest.get(bytes.len()..).unwrap_or_default();
        }
        this.torn = rest.len() as u64;
        Ok(this)
    }

    /// The next record, if it holds.
    fn next<'a>(&self, rest: &'a [u8]) -> Option<(Record<'a>, &'a [u8])> {
        let record = Record::read(rest)?;
        let bytes = rest.get(..record_bytes(record.payload.len()))?;
        let follows = match (self.places.last(), record.kind) {
            (None, Kind::Snapshot) => true,
            (None, Kind::Mutation) => record.generation == 1,
            (None, Kind::Rollback) | (Some(_), Kind::Snapshot) => false,
            (Some(last), Kind::Mutation) => record.generation == last.generation.checked_add(1)?,
            (Some(last), Kind::Rollback) => {
                record.generation == last.generation.checked_add(1)?
                    && record.place < record.generation
                    && (record.place == 0 || record.place >= oldest(&self.places))
            }
        };
        let holds = link(&self.chain.0, bytes) == get(bytes, CHAIN_AT);
        (follows && holds).then_some((record, bytes))
    }

    /// The newest generation.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.places.last().map_or(0, |place| place.generation)
    }
}

/// The oldest generation that these records lead to.
#[must_use]
pub fn oldest(places: &[Place]) -> u64 {
    match places.first() {
        Some(first) if first.kind == Kind::Snapshot => first.generation,
        _ => 0,
    }
}

/// Which records make a generation, in their order; none if they do not reach back to it.
#[must_use]
pub fn path(places: &[Place], generation: u64) -> Option<Vec<Place>> {
    let mut path = Vec::new();
    let mut wanted = generation;
    let first = places.first().map_or(1, |place| place.generation);
    loop {
        // The base is always there, also behind a snapshot.
        if wanted == 0 {
            break;
        }
        let index = usize::try_from(wanted.checked_sub(first)?).ok()?;
        let place = places.get(index)?;
        match place.kind {
            Kind::Snapshot => {
                path.push(*place);
                break;
            }
            Kind::Mutation => {
                path.push(*place);
                wanted = wanted.checked_sub(1)?;
            }
            // Smaller than its own: this ends.
            Kind::Rollback => wanted = place.restored,
        }
    }
    path.reverse();
    Some(path)
}

fn record_bytes(payload: usize) -> usize {
    RECORD_HEAD_BYTES + payload.next_multiple_of(8)
}

impl<'a> Record<'a> {
    /// Reads the record at the beginning of `bytes`; whether its chain holds is [`Scan`]'s.
    #[must_use]
    pub fn read(bytes: &'a [u8]) -> Option<Self> {
        let head = bytes.get(..RECORD_HEAD_BYTES)?;
        let total = usize::try_from(u32::from_le_bytes(get(head, 4))).ok()?;
        let kind = match u16::from_le_bytes(get(head, 24)) {
            1 => Kind::Mutation,
            2 => Kind::Rollback,
            3 => Kind::Snapshot,
            _ => return None,
        };
        let length = usize::try_from(u32::from_le_bytes(get(head, 40))).ok()?;
        let limit = match kind {
            Kind::Mutation => PAYLOAD_BYTES_MAX,
            Kind::Rollback => 0,
            Kind::Snapshot => RANGES_BYTES_MAX,
        };
        if !head.starts_with(&RECORD_MAGIC) || length > limit || total != record_bytes(length) {
            return None;
        }
        let name = head.get(64..64 + NAME_BYTES)?;
        let tensor = match kind {
            Kind::Mutation => name_of(name)?,
            _ if name.iter().all(|b| *b == 0) => "",
            _ => return None,
        };
        Some(Self {
            kind,
            why: u16::from_le_bytes(get(head, 26)),
            generation: u64::from_le_bytes(get(head, 8)),
            place: u64::from_le_bytes(get(head, 32)),
            wall_ns: u64::from_le_bytes(get(head, 16)),
            uid: u32::from_le_bytes(get(head, 28)),
            id: u64::from_le_bytes(get(head, 48)),
            confidence: f32::from_le_bytes(get(head, 44)),
            tensor,
            old_blake3: get(head, 128),
            payload: bytes.get(RECORD_HEAD_BYTES..RECORD_HEAD_BYTES + length)?,
        })
    }
}

/// Fills a head from its beginning.
struct Writer<'a>(&'a mut [u8]);

impl Writer<'_> {
    fn put(&mut self, value: &[u8]) {
        put(self.0, 0, value);
        self.skip(value.len());
    }

    fn skip(&mut self, bytes: usize) {
        let rest = std::mem::take(&mut self.0);
        self.0 = rest.get_mut(bytes..).unwrap_or_default();
    }
}

fn put(bytes: &mut [u8], at: usize, value: &[u8]) {
    if let Some(place) = bytes.get_mut(at..at + value.len()) {
        place.copy_from_slice(value);
    }
}

fn get<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    let found = bytes
        .get(at..at + N)
        .and_then(|found| found.try_into().ok());
    found.unwrap_or([0; N])
}

/// What holds for all bytes as a log: no panic, and what was read can be cut where it says.
///
/// # Panics
/// Where that does not hold.
pub fn fuzz_body(data: &[u8]) {
    let (header, chain) = header(&[7; 32]);
    let mut log = header.to_vec();
    log.extend_from_slice(data);
    let mut linked = log.clone();
    link_again(&mut linked, chain);
    for bytes in [data, &log, &linked] {
        let Ok(scan) = Scan::of(bytes, &[7; 32]) else {
            continue;
        };
        assert_eq!(scan.end + scan.torn, bytes.len() as u64);
        let cut = usize::try_from(scan.end).unwrap_or(usize::MAX);
        let again = Scan::of(bytes.get(..cut).unwrap_or_default(), &[7; 32]);
        assert_eq!(
            again,
            Ok(Scan {
                torn: 0,
                ..scan.clone()
            })
        );
        assert!(path(&scan.places, scan.generation()).is_some());
    }
}

/// Gives every record that can be read the chain value that it must have: random bytes would never come past the first.
fn link_again(log: &mut [u8], Chain(mut before): Chain) {
    let mut rest = log.get_mut(HEADER_BYTES..).unwrap_or_default();
    while let Some(bytes) = Record::read(rest).map(|record| record_bytes(record.payload.len())) {
        let Some((record, behind)) = rest.split_at_mut_checked(bytes) else {
            return;
        };
        before = link(&before, record);
        put(record, CHAIN_AT, &before);
        rest = behind;
    }
}
