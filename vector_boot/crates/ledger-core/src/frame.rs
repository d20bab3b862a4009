//! The frame: a fixed header, a body, zeros up to eight bytes; checksum and chain over it.

use crate::tree::commitment_of;
use crate::{Body, Commitment, Hash, Leaf, Place, leaf_hash};
use alloc::vec::Vec;

/// `length u32, crc u32, kind u8, encoding u8, flags u16, reserved u32, id u64, previous chain [32]`.
pub const HEADER_BYTES: usize = 56;
/// Frames begin at multiples of this, so that padding is never shorter than a length field.
pub const FRAME_ALIGN: usize = 8;
/// Kind of an event frame.
pub const KIND_EVENT: u8 = 1;
/// Kind of a group frame.
pub const KIND_GROUP: u8 = 2;
/// Encoding of a body in postcard, version 1 of [`crate::Body`].
pub const ENCODING_POSTCARD: u8 = 1;
/// Encoding of a body of fixed fields.
pub const ENCODING_FIXED: u8 = 0;

/// BLAKE3 derive_key context of the chain.
const CHAIN_CONTEXT: &str = "vb-ledger-frame v1";
/// BLAKE3 derive_key context of the chain's value before the first event.
const GENESIS_CONTEXT: &str = "vb-ledger-genesis v1";

/// Rounds a frame's length up to [`FRAME_ALIGN`].
#[must_use]
pub fn padded(length: usize) -> usize {
    length.saturating_add(FRAME_ALIGN - 1) & !(FRAME_ALIGN - 1)
}

/// A frame's header, read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Header {
    pub length: u32,
    pub crc: u32,
    pub kind: u8,
    pub encoding: u8,
    pub flags: u16,
    pub reserved: u32,
    pub id: u64,
    pub previous: Hash,
}

impl Header {
    /// Reads the header at the start of `bytes`.
    pub fn read(bytes: &[u8]) -> Option<Self> {
        let mut r = Reader(bytes);
        Some(Self {
            length: u32::from_le_bytes(r.take()?),
            crc: u32::from_le_bytes(r.take()?),
            kind: u8::from_le_bytes(r.take()?),
            encoding: u8::from_le_bytes(r.take()?),
            flags: u16::from_le_bytes(r.take()?),
            reserved: u32::from_le_bytes(r.take()?),
            id: u64::from_le_bytes(r.take()?),
            previous: r.take()?,
        })
    }

    /// The bytes that the chain covers: all but the checksum and the previous value. The checksum
    /// belongs to the frame's place, and a frame that moves to another segment keeps its chain.
    fn chained(&self) -> [u8; 20] {
        let mut out = [0; 20];
        let mut w = Writer(&mut out);
        w.put(&self.length.to_le_bytes());
        w.put(&[self.kind, self.encoding]);
        w.put(&self.flags.to_le_bytes());
        w.put(&self.reserved.to_le_bytes());
        w.put(&self.id.to_le_bytes());
        out
    }
}

/// Takes fixed fields off the front of a slice.
pub(crate) struct Reader<'a>(pub &'a [u8]);

impl Reader<'_> {
    pub fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (head, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*head)
    }
}

/// Puts fixed fields at the front of a slice that is long enough by construction.
pub(crate) struct Writer<'a>(pub &'a mut [u8]);

impl Writer<'_> {
    pub fn put(&mut self, field: &[u8]) {
        let all = core::mem::take(&mut self.0);
        if let Some((head, rest)) = all.split_at_mut_checked(field.len()) {
            head.copy_from_slice(field);
            self.0 = rest;
        }
    }
}

/// Appends a frame to `out`, with its padding, and returns its header.
pub(crate) fn write(
    out: &mut Vec<u8>,
    place: &Place,
    kind: u8,
    encoding: u8,
    id: u64,
    previous: &Hash,
    body: &[u8],
) -> Option<Header> {
    let length = u32::try_from(HEADER_BYTES.checked_add(body.len())?).ok()?;
    let mut header = Header {
        length,
        crc: 0,
        kind,
        encoding,
        flags: 0,
        reserved: 0,
        id,
        previous: *previous,
    };
    header.crc = checksum(place, &header, body);
    out.extend_from_slice(&length.to_le_bytes());
    out.extend_from_slice(&header.crc.to_le_bytes());
    let chained = header.chained();
    out.extend_from_slice(chained.get(4..)?);
    out.extend_from_slice(previous);
    out.extend_from_slice(body);
    out.resize(padded(out.len()), 0);
    Some(header)
}

/// CRC-32 (IEEE) over log id, epoch, segment, then the frame without its own checksum field.
pub(crate) fn checksum(place: &Place, header: &Header, body: &[u8]) -> u32 {
    let mut crc = place.seeded();
    crc.update(&header.chained());
    crc.update(&header.previous);
    crc.update(body);
    crc.finalize()
}

/// The same of a frame as it lies, from its first byte to its body's last, behind the seed of its place.
pub(crate) fn checksum_of(seed: &crc32fast::Hasher, frame: &[u8]) -> Option<u32> {
    let mut crc = seed.clone();
    crc.update(frame.get(..4)?);
    crc.update(frame.get(8..)?);
    Some(crc.finalize())
}

/// Precomputed hashers of what every event needs.
#[derive(Clone)]
pub(crate) struct Chain {
    frame: blake3::Hasher,
    body: blake3::Hasher,
}

impl Chain {
    pub fn new() -> Self {
        Self {
            frame: blake3::Hasher::new_derive_key(CHAIN_CONTEXT),
            body: blake3::Hasher::new_derive_key(crate::tree::BODY_CONTEXT),
        }
    }

    /// The value behind a frame.
    pub fn next(&mut self, header: &Header, body: &[u8]) -> Hash {
        // A copy of a hasher is two kilobytes; a reset one begins as new.
        let hasher = self.frame.reset();
        hasher.update(&header.previous);
        hasher.update(&header.chained());
        hasher.update(body);
        *hasher.finalize().as_bytes()
    }

    /// The value behind a frame, and its leaf.
    pub fn leaf(&mut self, header: &Header, body: &[u8], tag: &[u8; 8]) -> (Hash, Leaf) {
        let value = self.next(header, body);
        // The leaf has a part of it.
        let hash = *self.body.reset().update(body).finalize().as_bytes();
        let entry = commitment_of(header.id, &value, tag, &hash);
        let hash = leaf_hash(&entry);
        (value, Leaf { entry, hash })
    }
}

/// The chain's value before the first event of a log.
pub(crate) fn genesis(log_id: &[u8; 16]) -> Hash {
    let mut hasher = blake3::Hasher::new_derive_key(GENESIS_CONTEXT);
    hasher.update(log_id);
    *hasher.finalize().as_bytes()
}

/// What lies at a place of a segment that was verified before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Peek {
    /// An event's frame of this many bytes with its padding.
    Event {
        /// Its id.
        id: u64,
        /// Bytes to the next frame.
        bytes: u64,
    },
    /// A group frame, which ends at [`crate::group_frame_end`].
    GroupEnd,
    /// Zeros: padding before a group frame, or the end of the segment's groups.
    Zero,
    /// More bytes are needed to say.
    Short,
}

/// Says what kind of frame begins here, by its header alone.
#[must_use]
pub fn peek(bytes: &[u8]) -> Peek {
    match bytes.first_chunk::<4>().map(|l| u32::from_le_bytes(*l)) {
        None => Peek::Short,
        Some(0) => Peek::Zero,
        Some(length) => match Header::read(bytes) {
            None => Peek::Short,
            Some(header) if header.kind == KIND_GROUP => Peek::GroupEnd,
            Some(header) => Peek::Event {
                id: header.id,
                bytes: padded(length as usize) as u64,
            },
        },
    }
}

/// Opens event frames one at a time; a new one costs as much as an event, so it is kept.
#[derive(Clone)]
pub struct Opener(Chain);

impl Default for Opener {
    fn default() -> Self {
        Self(Chain::new())
    }
}

impl Opener {
    /// Opens the event frame at the start of `bytes` if its checksum holds: id, chain value, body.
    #[must_use]
    pub fn event<'b>(&mut self, place: &Place, bytes: &'b [u8]) -> Option<(u64, Hash, Body<'b>)> {
        let (header, body) = open(place, bytes)?;
        Some((header.id, self.0.next(&header, body), Body::decode(body)?))
    }

    /// As [`Self::event`]: what the tree says of the event, and its body.
    #[must_use]
    pub fn entry<'b>(&mut self, place: &Place, bytes: &'b [u8]) -> Option<(Commitment, Body<'b>)> {
        let (header, body) = open(place, bytes)?;
        let event = Body::decode(body)?;
        let (_, leaf) = self.0.leaf(&header, body, &event.tenant_tag);
        Some((leaf.entry, event))
    }

    /// Opens the body alone, without the chain value: for who looks whether the event is wanted.
    #[must_use]
    pub fn body<'b>(place: &Place, bytes: &'b [u8]) -> Option<Body<'b>> {
        Body::decode(open(place, bytes)?.1)
    }
}

fn open<'b>(place: &Place, bytes: &'b [u8]) -> Option<(Header, &'b [u8])> {
    let header = Header::read(bytes)?;
    let body = bytes.get(HEADER_BYTES..header.length as usize)?;
    let holds = header.kind == KIND_EVENT && header.crc == checksum(place, &header, body);
    holds.then_some((header, body))
}
