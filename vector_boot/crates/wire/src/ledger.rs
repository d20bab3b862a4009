//! `ledger.wire`: what our own services and PID 1 append. Questions go over the JSONL socket.

use crate::control::message;
use crate::{Kind, Message};
use serde::{Deserialize, Serialize};

/// Largest payload of an event on this socket, in bytes of JSON; a packet must hold it and the rest.
pub const PAYLOAD_BYTES_MAX: usize = 48 * 1024;
/// Longest namespace, actor, event type, subject and tenant.
pub const TEXT_BYTES_MAX: usize = 256;

/// Largest whole number in a payload, 2^53 - 1: beyond, a double does not hold every integer, and RFC 8785
/// writes doubles. What is larger goes as text, or in a larger unit.
pub const NUMBER_MAX: u64 = (1 << 53) - 1;

/// Whether every number of a JSON text is within ±[`NUMBER_MAX`]; the ledger refuses it otherwise.
/// A producer asserts it in its tests.
#[must_use]
pub fn is_exact(json: &str) -> bool {
    let within = |number: f64| number.abs() <= NUMBER_MAX as f64;
    let (mut inside, mut escaped, mut word) = (false, false, 0);
    for (at, byte) in json.bytes().enumerate() {
        if inside {
            (inside, escaped) = (escaped || byte != b'"', byte == b'\\' && !escaped);
            word = at + 1;
        } else if !matches!(byte, b'0'..=b'9' | b'-' | b'+' | b'.' | b'e' | b'E') {
            // What is no number is a word of JSON.
            let number = json.get(word..at).and_then(|text| text.parse().ok());
            if !number.is_none_or(within) {
                return false;
            }
            (inside, word) = (byte == b'"', at + 1);
        }
    }
    true
}

/// Names one producer's event for ever, so that a repeat after a crash of either side is recognised.
/// Sequences of one producer grow; they need not be dense.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Origin {
    /// The boot in which the event happened.
    pub boot_id: [u8; 16],
    /// The producing role's uid (0 for PID 1).
    pub producer: u32,
    /// Counts the producer's events from 1.
    pub sequence: u64,
}

/// Appends one event; answered by [`Appended`] once it is durable, or by [`crate::Refused`].
/// Any number may be under way; answers may overtake each other only by id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Append<'a> {
    /// Present where a repeat is possible: PID 1's outbox, a reconnecting service.
    pub origin: Option<Origin>,
    /// Namespace, `system`, `gateway`, `capacity`...
    pub ns: &'a str,
    /// `user:NAME`, `agent:NAME` or `service:NAME`.
    pub actor: &'a str,
    /// Tenant; `system` for our own.
    pub tenant_id: &'a str,
    /// `tool_called`, `service_started`, ...
    pub event_type: &'a str,
    /// What it is about.
    pub subject: &'a str,
    /// Canonical JSON object.
    pub payload: &'a str,
    /// The event that caused it, smaller than the id to come.
    pub causation_id: Option<u64>,
    /// When it happened, nanoseconds since boot (CLOCK_MONOTONIC); `None`: when it is appended.
    pub timestamp_ns: Option<u64>,
}

/// The event is durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Appended {
    /// Its gap-free id, from 1.
    pub event_id: u64,
    /// Chain value of its frame.
    pub commit_id: [u8; 32],
    /// Whether it was there already, appended by an earlier try of the same [`Origin`].
    pub repeated: bool,
}

/// Events of one [`AppendMany`].
pub const BATCH_MAX: usize = 64;

/// Appends several events, all or none, one behind the other; answered by [`AppendedMany`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AppendMany<'a> {
    /// In this order; at least one.
    #[serde(borrow)]
    pub events: heapless::Vec<Append<'a>, BATCH_MAX>,
}

/// The events are durable.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AppendedMany {
    /// In the order in which they were sent.
    pub events: heapless::Vec<Appended, BATCH_MAX>,
}

/// Asks for [`Head`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeadGet;

/// Where the log stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Head {
    /// Id of the last durable event, 0 for an empty log.
    pub event_id: u64,
    /// Chain value there.
    pub chain: [u8; 32],
    /// Whether writing is still possible.
    pub writable: bool,
}

/// Asks for [`LastTime`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct LastTimeGet;

/// When the last event was written that the log held when the service opened it: no clock is right
/// before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct LastTime {
    /// Nanoseconds since 1970 in UTC; 0 for an empty log.
    pub wall_ns: u64,
}

/// Asks for [`LastBoot`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct LastBootGet {
    /// The asker's own boot, whose events do not count.
    pub boot_id: [u8; 16],
}

/// How the newest boot before the asker's ended, as far as the log held it when the service opened it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct LastBoot<'a> {
    /// That boot; zeros if the log knows none.
    pub boot_id: [u8; 16],
    /// Id of the last event before the next boot began.
    pub event_id: u64,
    /// What kind of event it was.
    pub event_type: &'a str,
    /// When it was written, nanoseconds since 1970 in UTC.
    pub wall_ns: u64,
    /// When it happened, nanoseconds since that boot (CLOCK_MONOTONIC).
    pub timestamp_ns: u64,
    /// Payload of `machine_stopping`, at most [`STOPPING_BYTES_MAX`]; empty if no end was recorded.
    pub stopping: &'a str,
    /// Who asked for that end.
    pub stopping_actor: &'a str,
}

/// Longest payload of `machine_stopping` that is kept: an event of PID 1 has less.
pub const STOPPING_BYTES_MAX: usize = 512;

message! { AppendMany<'_> = LedgerAppendMany, AppendedMany = LedgerAppendedMany }
message! { LastTimeGet = LedgerLastTimeGet, LastTime = LedgerLastTime }
message! { LastBootGet = LedgerLastBootGet, LastBoot<'_> = LedgerLastBoot }
message! { Append<'_> = LedgerAppend, Appended = LedgerAppended, HeadGet = LedgerHeadGet, Head = LedgerHead }

#[cfg(test)]
mod tests {
    use super::is_exact;

    #[test]
    fn numbers_are_found_outside_of_texts_alone() {
        for exact in [
            "{}",
            r#"{"a":9007199254740991,"b":-9007199254740991,"c":[0.5,1e3]}"#,
            r#"{"a":"9007199254740992","b":"\"9007199254740993,","c":true,"9007199254740992":null}"#,
            r#"{"a":"\\","b":1}"#,
        ] {
            assert!(is_exact(exact), "{exact}");
        }
        for beyond in [
            r#"{"a":9007199254740992}"#,
            r#"{"a":[1,-9007199254740992]}"#,
            r#"{"a":"x\\","b":18446744073709551615}"#,
            r#"{"a":1e30,"b":1}"#,
        ] {
            assert!(!is_exact(beyond), "{beyond}");
        }
    }
}
