//! A generation: what the base becomes by all mutations up to one of them, in sealed memory.
//!
//! Little-endian: a header of [`HEADER_BYTES`], the policy's tensors as plain f32 ([`POLICY`]), then the changed
//! ranges of all other tensors. Start with [`Generation::parse`].

use super::ring::{NAME_BYTES, get, name_of, put};

/// First eight bytes.
pub const MAGIC: [u8; 8] = *b"VBGENER1";
/// Grows when a field changes its meaning.
pub const VERSION: u32 = 1;
/// Bytes before the policy.
pub const HEADER_BYTES: usize = 128;
/// The policy's tensors in their order, and how many values each has.
pub const POLICY: [(&str, usize); 5] = [
    ("policy.w1", 32 * 64),
    ("policy.b1", 32),
    ("policy.w2", 8 * 32),
    ("policy.b2", 8),
    ("metabolic.gains", 8),
];
/// Values of the policy.
pub const POLICY_VALUES: usize = 32 * 64 + 32 + 8 * 32 + 8 + 8;
/// Where the changed ranges begin.
pub const RANGES_AT: usize = HEADER_BYTES + 4 * POLICY_VALUES;
/// Bytes of a changed range before its payload.
pub const RANGE_HEAD_BYTES: usize = 96;
/// Bytes of all changed ranges at most, heads and fill included: what is published with every group.
pub const RANGES_BYTES_MAX: usize = 4 << 20;
/// Bytes of a generation at most.
pub const BYTES_MAX: usize = RANGES_AT + RANGES_BYTES_MAX;

/// Why bytes are no generation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GenerationError {
    /// Not this magic or version.
    Format,
    /// A length that does not hold: the field and what it says.
    Length(&'static str, u64),
    /// The policy's value at this place is not finite.
    NotFinite(usize),
    /// The range at this place has a name that is none.
    Name(u32),
}

impl core::fmt::Display for GenerationError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::Format => write!(f, "magic or version of a generation"),
            Self::Length(field, value) => write!(f, "{field}: {value}, limit {BYTES_MAX}"),
            Self::NotFinite(place) => write!(f, "policy value {place}: not finite"),
            Self::Name(place) => write!(f, "range {place}: no name"),
        }
    }
}

impl core::error::Error for GenerationError {}

/// A generation whose header and policy hold.
#[derive(Debug, Clone, Copy)]
pub struct Generation<'a> {
    /// Its number; 0 is the base.
    pub number: u64,
    /// BLAKE3 of the base that it builds on.
    pub base: [u8; 32],
    /// BLAKE3 of everything behind the header.
    pub content: [u8; 32],
    /// Changed ranges.
    pub ranges: u32,
    policy: &'a [u8],
    rest: &'a [u8],
}

/// A changed range.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Range<'a> {
    /// The tensor.
    pub tensor: &'a str,
    /// Byte in the tensor.
    pub offset: u64,
    /// What it holds.
    pub payload: &'a [u8],
}

impl<'a> Generation<'a> {
    /// Checks header, policy and the borders of each range; whether `content` holds is the reader's to find out.
    ///
    /// # Errors
    /// [`GenerationError`].
    pub fn parse(bytes: &'a [u8]) -> Result<Self, GenerationError> {
        let this = Self::parse_policy(bytes)?;
        let mut rest = this.rest;
        for place in 0..this.ranges {
            let (_, after) = range(rest, place)?;
            rest = after;
        }
        if rest.is_empty() {
            Ok(this)
        } else {
            Err(GenerationError::Length("rest", rest.len() as u64))
        }
    }

    /// The same for a reader of the policy alone: the ranges are not looked at, so the work is bounded.
    ///
    /// # Errors
    /// [`GenerationError`].
    pub fn parse_policy(bytes: &'a [u8]) -> Result<Self, GenerationError> {
        let version = u32::from_le_bytes(get(bytes, 8));
        let header = u32::from_le_bytes(get(bytes, 12));
        if !bytes.starts_with(&MAGIC) || version != VERSION || header as usize != HEADER_BYTES {
            return Err(GenerationError::Format);
        }
        let total = u64::from_le_bytes(get(bytes, 24));
        if total != bytes.len() as u64 || bytes.len() > BYTES_MAX {
            return Err(GenerationError::Length("bytes", total));
        }
        let values = u32::from_le_bytes(get(bytes, 96));
        if values as usize != POLICY_VALUES {
            return Err(GenerationError::Length("values", u64::from(values)));
        }
        let short = GenerationError::Length("bytes", total);
        let (_, body) = bytes.split_at_checked(HEADER_BYTES).ok_or(short)?;
        let (policy, rest) = body.split_at_checked(4 * POLICY_VALUES).ok_or(short)?;
        let this = Self {
            number: u64::from_le_bytes(get(bytes, 16)),
            base: get(bytes, 32),
            content: get(bytes, 64),
            ranges: u32::from_le_bytes(get(bytes, 100)),
            policy,
            rest,
        };
        match this.policy().position(|value| !value.is_finite()) {
            Some(place) => Err(GenerationError::NotFinite(place)),
            None => Ok(this),
        }
    }

    /// The policy's values in the order of [`POLICY`].
    pub fn policy(&self) -> impl Iterator<Item = f32> + use<'a> {
        let (values, _) = self.policy.as_chunks::<4>();
        values.iter().map(|bytes| f32::from_le_bytes(*bytes))
    }

    /// The changed ranges, ordered by name and offset; none overlap.
    pub fn ranges(&self) -> impl Iterator<Item = Range<'a>> + use<'a> {
        let mut rest = self.rest;
        (0..self.ranges).map_while(move |place| {
            let (found, after) = range(rest, place).ok()?;
            rest = after;
            Some(found)
        })
    }
}

/// Ranges as they follow each other, to the end or the first that is none.
pub fn ranges_of(bytes: &[u8]) -> impl Iterator<Item = Result<Range<'_>, GenerationError>> {
    let mut rest = bytes;
    let mut place = 0;
    core::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let found = range(rest, place);
        place += 1;
        rest = found.map_or(&[], |(_, after)| after);
        Some(found.map(|(found, _)| found))
    })
}

fn range(bytes: &[u8], place: u32) -> Result<(Range<'_>, &[u8]), GenerationError> {
    let length = u32::from_le_bytes(get(bytes, NAME_BYTES + 8));
    let wrong = GenerationError::Length("range", u64::from(length));
    let (head, rest) = bytes.split_at_checked(RANGE_HEAD_BYTES).ok_or(wrong)?;
    let length = usize::try_from(length).map_err(|_| wrong)?;
    let whole = length.checked_next_multiple_of(8).ok_or(wrong)?;
    let (filled, rest) = rest.split_at_checked(whole).ok_or(wrong)?;
    let tensor = head.get(..NAME_BYTES).and_then(name_of);
    let found = Range {
        tensor: tensor.ok_or(GenerationError::Name(place))?,
        offset: u64::from_le_bytes(get(head, NAME_BYTES)),
        payload: filled.get(..length).ok_or(wrong)?,
    };
    Ok((found, rest))
}

/// The header of a generation.
#[must_use]
pub fn header(
    number: u64,
    bytes: u64,
    base: &[u8; 32],
    content: &[u8; 32],
    ranges: u32,
) -> [u8; HEADER_BYTES] {
    let mut out = [0; HEADER_BYTES];
    put(&mut out, 0, &MAGIC);
    put(&mut out, 8, &VERSION.to_le_bytes());
    put(&mut out, 12, &(HEADER_BYTES as u32).to_le_bytes());
    put(&mut out, 16, &number.to_le_bytes());
    put(&mut out, 24, &bytes.to_le_bytes());
    put(&mut out, 32, base);
    put(&mut out, 64, content);
    put(&mut out, 96, &(POLICY_VALUES as u32).to_le_bytes());
    put(&mut out, 100, &ranges.to_le_bytes());
    out
}

/// The head of a changed range; its payload and zeros up to a multiple of eight follow.
#[must_use]
pub fn range_head(range: &Range<'_>) -> [u8; RANGE_HEAD_BYTES] {
    let mut out = [0; RANGE_HEAD_BYTES];
    put(&mut out, 0, range.tensor.as_bytes());
    put(&mut out, NAME_BYTES, &range.offset.to_le_bytes());
    // A payload is far below 4 GiB: BYTES_MAX.
    put(
        &mut out,
        NAME_BYTES + 8,
        &(range.payload.len() as u32).to_le_bytes(),
    );
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::vec::Vec;

    fn sample() -> Vec<u8> {
        let range = Range {
            tensor: "blk.0.attn_q.weight",
            offset: 18,
            payload: &[1, 2, 3],
        };
        let total = RANGES_AT + RANGE_HEAD_BYTES + 8;
        let mut bytes = header(7, total as u64, &[1; 32], &[2; 32], 1).to_vec();
        for place in 0..POLICY_VALUES {
            bytes.extend_from_slice(&(place as f32).to_le_bytes());
        }
        bytes.extend_from_slice(&range_head(&range));
        bytes.extend_from_slice(&[1, 2, 3, 0, 0, 0, 0, 0]);
        bytes
    }

    #[test]
    fn every_value_and_range_comes_out_as_it_went_in() {
        let bytes = sample();
        let generation = Generation::parse(&bytes).unwrap();
        assert_eq!(generation.number, 7);
        assert_eq!(generation.policy().count(), POLICY_VALUES);
        assert_eq!(generation.policy().nth(9), Some(9.0));
        let ranges: Vec<_> = generation.ranges().collect();
        assert_eq!(ranges.len(), 1);
        assert_eq!(ranges[0].payload, [1, 2, 3]);
        assert_eq!(POLICY.iter().map(|(_, n)| n).sum::<usize>(), POLICY_VALUES);
    }

    #[test]
    fn every_cut_and_every_value_that_is_not_finite_is_refused() {
        let bytes = sample();
        for cut in (0..bytes.len()).step_by(7) {
            assert!(Generation::parse(&bytes[..cut]).is_err(), "{cut}");
        }
        for wrong in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let mut bytes = sample();
            put(&mut bytes, HEADER_BYTES + 4 * 100, &wrong.to_le_bytes());
            let refused = Generation::parse_policy(&bytes).unwrap_err();
            assert_eq!(refused, GenerationError::NotFinite(100));
        }
    }

    proptest! {
        #[test]
        fn no_bytes_panic(at in 0usize..RANGES_AT + 104, value: u8) {
            let mut bytes = sample();
            bytes[at] = value;
            if let Ok(generation) = Generation::parse(&bytes) {
                let _ = generation.ranges().count();
            }
        }
    }
}
