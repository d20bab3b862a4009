//! One event as it lies in a frame.

use crate::frame::Reader;
use alloc::vec::Vec;
use serde::{Deserialize, Serialize};

/// Gap-free number of an event, from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct EventId(pub u64);

impl core::fmt::Display for EventId {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        self.0.fmt(f)
    }
}

/// Names one producer's event for ever, so that a repeat is recognised.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Origin {
    /// The boot in which the event happened.
    pub boot_id: [u8; 16],
    /// The producing role's uid.
    pub producer: u32,
    /// Counts the producer's events from 1.
    pub sequence: u64,
}

/// Body of an event frame, in postcard, fields in this order. The id is in the frame's header.
///
/// A later field needs a new encoding number in the header.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Body<'a> {
    /// When it happened, nanoseconds of CLOCK_MONOTONIC.
    pub timestamp_ns: u64,
    /// When it happened, nanoseconds since 1970 in UTC; shown as RFC 3339.
    pub wall_ns: u64,
    /// 48 bits of milliseconds and 80 random bits, big-endian.
    pub ulid: [u8; 16],
    /// Keyed tag of the tenant, see [`crate::tenant_tag`].
    pub tenant_tag: [u8; 8],
    /// Namespace.
    pub ns: &'a str,
    /// `user:NAME`, `agent:NAME` or `service:NAME`.
    pub actor: &'a str,
    /// Whose event it is.
    pub tenant_id: &'a str,
    /// What happened.
    pub event_type: &'a str,
    /// What it is about.
    pub subject: &'a str,
    /// JSON object, normalised.
    pub payload: &'a str,
    /// The event that caused it, smaller than its own id.
    pub causation_id: Option<u64>,
    /// Recognises repeats.
    pub origin: Option<Origin>,
    /// The actor's key and its signature over the event, see [`crate::keys`].
    pub sig: Option<&'a [u8]>,
}

impl<'a> Body<'a> {
    /// Encodes the body of a frame.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        // Into memory it cannot fail.
        postcard::to_allocvec(self).unwrap_or_default()
    }

    /// Decodes a frame's body; trailing bytes are refused.
    ///
    /// What postcard would do, by hand: whoever reads a log decodes every event, and a field at a time by way
    /// of serde takes three times as long.
    #[must_use]
    pub fn decode(bytes: &'a [u8]) -> Option<Self> {
        let mut fields = Fields(Reader(bytes));
        let body = Self {
            timestamp_ns: fields.number(u64::BITS)?,
            wall_ns: fields.number(u64::BITS)?,
            ulid: fields.0.take()?,
            tenant_tag: fields.0.take()?,
            ns: fields.text()?,
            actor: fields.text()?,
            tenant_id: fields.text()?,
            event_type: fields.text()?,
            subject: fields.text()?,
            payload: fields.text()?,
            causation_id: match fields.is_there()? {
                true => Some(fields.number(u64::BITS)?),
                false => None,
            },
            origin: match fields.is_there()? {
                true => Some(Origin {
                    boot_id: fields.0.take()?,
                    producer: u32::try_from(fields.number(u32::BITS)?).ok()?,
                    sequence: fields.number(u64::BITS)?,
                }),
                false => None,
            },
            sig: match fields.is_there()? {
                true => Some(fields.bytes()?),
                false => None,
            },
        };
        fields.0.0.is_empty().then_some(body)
    }
}

/// Takes postcard's fields off the front of a slice.
struct Fields<'a>(Reader<'a>);

impl<'a> Fields<'a> {
    /// A number of so many bits: seven to a byte, the lowest first, the top bit set where more follow.
    fn number(&mut self, bits: u32) -> Option<u64> {
        let (mut number, mut shift) = (0, 0);
        while shift < bits {
            let [byte] = self.0.take()?;
            let value = u64::from(byte & 0x7f);
            if shift + 7 > bits && value >> (bits - shift) != 0 {
                return None;
            }
            number |= value << shift;
            if byte & 0x80 == 0 {
                return Some(number);
            }
            shift += 7;
        }
        None
    }

    fn bytes(&mut self) -> Option<&'a [u8]> {
        let length = usize::try_from(self.number(u64::BITS)?).ok()?;
        let (bytes, rest) = self.0.0.split_at_checked(length)?;
        self.0 = Reader(rest);
        Some(bytes)
    }

    fn text(&mut self) -> Option<&'a str> {
        core::str::from_utf8(self.bytes()?).ok()
    }

    /// Whether an optional field is there.
    fn is_there(&mut self) -> Option<bool> {
        match self.0.take()? {
            [0] => Some(false),
            [1] => Some(true),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// As postcard reads it.
    fn oracle(bytes: &[u8]) -> Option<Body<'_>> {
        match postcard::take_from_bytes(bytes) {
            Ok((body, [])) => Some(body),
            _ => None,
        }
    }

    fn number() -> impl Strategy<Value = u64> {
        prop_oneof![any::<u64>(), 0..300u64, Just(u64::MAX)]
    }

    proptest! {
        #[test]
        fn bodies_are_read_as_postcard_reads_them(
            texts in proptest::collection::vec("[a-zä:]{0,140}", 6),
            numbers in proptest::collection::vec(number(), 4),
            there in any::<[bool; 3]>(),
            producer in any::<u32>(),
            raw in any::<[u8; 16]>(),
            changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..3),
            cut in 0..4usize,
        ) {
            let body = Body {
                timestamp_ns: numbers[0],
                wall_ns: numbers[1],
                ulid: raw,
                tenant_tag: [7; 8],
                ns: &texts[0],
                actor: &texts[1],
                tenant_id: &texts[2],
                event_type: &texts[3],
                subject: &texts[4],
                payload: &texts[5],
                causation_id: there[0].then_some(numbers[2]),
                origin: there[1].then_some(Origin { boot_id: raw, producer, sequence: numbers[3] }),
                sig: there[2].then_some(&raw[..]),
            };
            let mut bytes = body.encode();
            prop_assert_eq!(Body::decode(&bytes), Some(body));
            for (at, byte) in changes {
                let at = at.index(bytes.len());
                bytes[at] = byte;
            }
            bytes.truncate(bytes.len() - cut);
            prop_assert_eq!(Body::decode(&bytes), oracle(&bytes));
            bytes.push(0);
            prop_assert_eq!(Body::decode(&bytes), oracle(&bytes));
        }
    }

    #[test]
    fn numbers_end_where_postcard_ends_them() {
        // Of the first field and of the producer: each length, with and without an end, and each last byte.
        for length in 1..12usize {
            for last in 0..=255u8 {
                let mut bytes = alloc::vec![0xff; length];
                if let Some(byte) = bytes.last_mut() {
                    *byte = last;
                }
                let ours = Fields(Reader(&bytes)).number(u64::BITS);
                let theirs = postcard::take_from_bytes::<u64>(&bytes).ok();
                assert_eq!(ours, theirs.map(|t| t.0), "{bytes:?}");
                let ours = Fields(Reader(&bytes)).number(u32::BITS);
                let theirs = postcard::take_from_bytes::<u32>(&bytes).ok();
                assert_eq!(ours, theirs.map(|t| u64::from(t.0)), "{bytes:?}");
            }
        }
    }
}
