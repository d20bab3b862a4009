//! The ring: shared memory in which a proposer puts mutations and the runtime its answers.
//!
//! Little-endian. A header of [`HEADER_BYTES`], then [`SLOTS`] slots of [`SLOT_BYTES`]; mutation number `n` (from 0)
//! lies in slot `n % SLOTS`. Each word has one writer, so that neither side can break the other's bookkeeping.
//! A slot is decoded from a private copy of it: [`Proposal::read`]. Start there.

use super::Verdict;

/// `VBEVOLV1` as a little-endian word.
pub const MAGIC: u64 = u64::from_le_bytes(*b"VBEVOLV1");
/// Grows when a field changes its meaning.
pub const VERSION: u32 = 1;
/// Bytes before the first slot: a page.
pub const HEADER_BYTES: usize = 4096;
/// Mutations under way at most: what one group commit takes.
pub const SLOTS: usize = 64;
/// Bytes of a payload at most: all of `policy.w1`.
pub const PAYLOAD_BYTES_MAX: usize = 8192;
/// Where the answer begins in a slot.
pub const ANSWER_AT: usize = 192;
/// Where the payload begins in a slot.
pub const PAYLOAD_AT: usize = 256;
/// Bytes of a slot.
pub const SLOT_BYTES: usize = PAYLOAD_AT + PAYLOAD_BYTES_MAX;
/// Bytes of a ring.
pub const BYTES: usize = HEADER_BYTES + SLOTS * SLOT_BYTES;
/// Bytes of a tensor's name, filled up with zeros.
pub const NAME_BYTES: usize = 64;

/// Byte of [`MAGIC`].
pub const MAGIC_AT: usize = 0;
/// Byte of the version, u32, then of the bytes of the header, u32.
pub const VERSION_AT: usize = 8;
/// Byte of the bytes of a slot, u32, then of the number of slots, u32.
pub const SLOTS_AT: usize = 16;
/// Byte of the bytes of a payload at most, u32.
pub const PAYLOAD_MAX_AT: usize = 24;
/// Byte of the current generation, u64; the runtime writes it.
pub const GENERATION_AT: usize = 32;
/// Byte of the state, u64; the runtime writes it.
pub const STATE_AT: usize = 40;
/// Byte of how many mutations were submitted, u64; the proposer writes it.
pub const SUBMITTED_AT: usize = 64;
/// Byte of how many mutations were answered, u64; the runtime writes it.
pub const ANSWERED_AT: usize = 128;

/// The runtime reads the ring.
pub const OPEN: u64 = 0;
/// The runtime has left the ring; the proposer asks for another.
pub const CLOSED: u64 = 1;

/// Byte of a slot in the ring.
#[must_use]
pub const fn slot_at(number: u64) -> usize {
    // The remainder is below SLOTS.
    HEADER_BYTES + (number % SLOTS as u64) as usize * SLOT_BYTES
}

/// The header of a new ring.
#[must_use]
pub fn header(generation: u64) -> [u8; ANSWERED_AT + 8] {
    let mut bytes = [0; ANSWERED_AT + 8];
    put(&mut bytes, MAGIC_AT, &MAGIC.to_le_bytes());
    put(&mut bytes, VERSION_AT, &VERSION.to_le_bytes());
    put(
        &mut bytes,
        VERSION_AT + 4,
        &(HEADER_BYTES as u32).to_le_bytes(),
    );
    put(&mut bytes, SLOTS_AT, &(SLOT_BYTES as u32).to_le_bytes());
    put(&mut bytes, SLOTS_AT + 4, &(SLOTS as u32).to_le_bytes());
    put(
        &mut bytes,
        PAYLOAD_MAX_AT,
        &(PAYLOAD_BYTES_MAX as u32).to_le_bytes(),
    );
    put(&mut bytes, GENERATION_AT, &generation.to_le_bytes());
    bytes
}

/// A mutation as it is proposed.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Proposal<'a> {
    /// The proposer's own number for it; the answer repeats it.
    pub id: u64,
    /// The generation that it builds on.
    pub base_generation: u64,
    /// The tensor.
    pub tensor: &'a str,
    /// Byte in the tensor.
    pub offset: u64,
    /// How sure the proposer is, from 0 to 1.
    pub confidence: f32,
    /// BLAKE3 of what the range holds now.
    pub old_blake3: [u8; 32],
    /// BLAKE3 of the payload.
    pub payload_blake3: [u8; 32],
    /// What the range is to hold.
    pub payload: &'a [u8],
}

/// The fixed part of a slot before its fields are judged.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Head {
    /// As [`Proposal::id`].
    pub id: u64,
    /// As [`Proposal::offset`].
    pub offset: u64,
    /// Bytes of payload that the proposer says there are.
    pub length: u32,
    /// As [`Proposal::confidence`].
    pub confidence: f32,
    /// The name as it lies there.
    pub name: [u8; NAME_BYTES],
}

impl Head {
    /// Reads it; what is missing of the bytes counts as zeros.
    #[must_use]
    pub fn read(slot: &[u8]) -> Self {
        Self {
            id: u64::from_le_bytes(get(slot, 0)),
            offset: u64::from_le_bytes(get(slot, 16)),
            length: u32::from_le_bytes(get(slot, 24)),
            confidence: f32::from_le_bytes(get(slot, 28)),
            name: get(slot, 32),
        }
    }
}

impl<'a> Proposal<'a> {
    /// Reads a private copy of a slot.
    ///
    /// # Errors
    /// [`Verdict::NameMalformed`] and [`Verdict::LengthInvalid`]; every other field can hold anything.
    pub fn read(slot: &'a [u8]) -> Result<Self, Verdict> {
        let head = Head::read(slot);
        let name = slot.get(32..32 + NAME_BYTES).unwrap_or_default();
        let length = usize::try_from(head.length).unwrap_or(usize::MAX);
        let payload = PAYLOAD_AT
            .checked_add(length)
            .filter(|_| (1..=PAYLOAD_BYTES_MAX).contains(&length))
            .and_then(|end| slot.get(PAYLOAD_AT..end))
            .ok_or(Verdict::LengthInvalid)?;
        Ok(Self {
            id: head.id,
            base_generation: u64::from_le_bytes(get(slot, 8)),
            tensor: name_of(name).ok_or(Verdict::NameMalformed)?,
            offset: head.offset,
            confidence: head.confidence,
            old_blake3: get(slot, 96),
            payload_blake3: get(slot, 128),
            payload,
        })
    }

    /// Writes it as the bytes of a slot up to the answer, and its payload where that begins.
    ///
    /// # Errors
    /// The verdict that a name or payload which does not fit would get.
    pub fn write(&self, slot: &mut [u8; SLOT_BYTES]) -> Result<(), Verdict> {
        if self.tensor.is_empty() || self.tensor.len() > NAME_BYTES || self.tensor.contains('\0') {
            return Err(Verdict::NameMalformed);
        }
        if self.payload.is_empty() || self.payload.len() > PAYLOAD_BYTES_MAX {
            return Err(Verdict::LengthInvalid);
        }
        slot.fill(0);
        put(slot, 0, &self.id.to_le_bytes());
        put(slot, 8, &self.base_generation.to_le_bytes());
        put(slot, 16, &self.offset.to_le_bytes());
        put(slot, 24, &(self.payload.len() as u32).to_le_bytes());
        put(slot, 28, &self.confidence.to_le_bytes());
        put(slot, 32, self.tensor.as_bytes());
        put(slot, 96, &self.old_blake3);
        put(slot, 128, &self.payload_blake3);
        put(slot, PAYLOAD_AT, self.payload);
        Ok(())
    }
}

/// A name that is filled up with zeros and has none before its end; it is not empty.
#[must_use]
pub fn name_of(field: &[u8]) -> Option<&str> {
    let end = field.iter().position(|b| *b == 0).unwrap_or(field.len());
    let (name, rest) = field.split_at_checked(end)?;
    let whole = !name.is_empty() && rest.iter().all(|b| *b == 0);
    core::str::from_utf8(name).ok().filter(|_| whole)
}

/// What the runtime says to one mutation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Answer {
    /// As [`Proposal::id`].
    pub id: u64,
    /// The generation that it made; of a refusal the current one.
    pub generation: u64,
    /// What became of it.
    pub verdict: Verdict,
    /// Its number in the ring, from 0.
    pub number: u64,
}

/// Bytes of an answer.
pub const ANSWER_BYTES: usize = 32;

impl Answer {
    /// As it lies in a slot at [`ANSWER_AT`].
    #[must_use]
    pub fn bytes(&self) -> [u8; ANSWER_BYTES] {
        let mut bytes = [0; ANSWER_BYTES];
        put(&mut bytes, 0, &self.id.to_le_bytes());
        put(&mut bytes, 8, &self.generation.to_le_bytes());
        put(&mut bytes, 16, &(self.verdict as u16).to_le_bytes());
        put(&mut bytes, 24, &self.number.to_le_bytes());
        bytes
    }

    /// Reads it.
    #[must_use]
    pub fn read(bytes: &[u8]) -> Self {
        Self {
            id: u64::from_le_bytes(get(bytes, 0)),
            generation: u64::from_le_bytes(get(bytes, 8)),
            verdict: Verdict::of(u16::from_le_bytes(get(bytes, 16))),
            number: u64::from_le_bytes(get(bytes, 24)),
        }
    }
}

/// `N` bytes from `at` on; zeros where they are missing.
pub(super) fn get<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    let mut out = [0; N];
    if let Some(found) = at.checked_add(N).and_then(|end| bytes.get(at..end)) {
        out.copy_from_slice(found);
    }
    out
}

/// Writes `value` at `at`; what does not fit is left out.
pub(super) fn put(bytes: &mut [u8], at: usize, value: &[u8]) {
    if let Some(place) = at
        .checked_add(value.len())
        .and_then(|end| bytes.get_mut(at..end))
    {
        place.copy_from_slice(value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_name_has_no_nul_before_its_end_and_is_never_empty() {
        let field = |text: &[u8]| {
            let mut field = [0; NAME_BYTES];
            field[..text.len()].copy_from_slice(text);
            field
        };
        assert_eq!(name_of(&field(b"policy.w1")), Some("policy.w1"));
        assert_eq!(name_of(&[b'x'; NAME_BYTES]).map(str::len), Some(64));
        for wrong in [&b""[..], b"\0policy.w1", b"policy\0.w1", b"\xff"] {
            assert_eq!(name_of(&field(wrong)), None, "{wrong:?}");
        }
    }

    proptest! {
        #[test]
        fn a_proposal_comes_out_as_it_went_in(
            id: u64, base: u64, offset: u64, confidence: f32, name in "[a-z.0-9]{1,64}",
            payload in proptest::collection::vec(any::<u8>(), 1..=PAYLOAD_BYTES_MAX),
        ) {
            let proposal = Proposal {
                id, base_generation: base, tensor: &name, offset, confidence,
                old_blake3: [7; 32], payload_blake3: [8; 32], payload: &payload,
            };
            let mut slot = [0; SLOT_BYTES];
            proposal.write(&mut slot).unwrap();
            let read = Proposal::read(&slot).unwrap();
            prop_assert_eq!(read.confidence.to_bits(), confidence.to_bits());
            prop_assert_eq!(Proposal { confidence: 0.0, ..read }, Proposal { confidence: 0.0, ..proposal });
        }

        #[test]
        fn no_slot_panics(slot in proptest::collection::vec(any::<u8>(), 0..600)) {
            let _ = Proposal::read(&slot);
            let _ = Answer::read(&slot);
            let _ = Head::read(&slot);
        }
    }
}
