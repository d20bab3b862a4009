//! One event as it lies in a frame.

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
    #[must_use]
    pub fn decode(bytes: &'a [u8]) -> Option<Self> {
        match postcard::take_from_bytes::<Self>(bytes) {
            Ok((body, [])) => Some(body),
            _ => None,
        }
    }
}
