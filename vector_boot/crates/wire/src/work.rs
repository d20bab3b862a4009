//! `ledger.wire`: messages that our own services publish, and jobs that they enqueue and hold.
//!
//! The same calls as on the JSONL socket, with the same refusals; `docs/ledger.md` says what they mean.
//! Payloads, manifests, results and attestations are JSON of at most
//! [`crate::ledger::PAYLOAD_BYTES_MAX`]. An empty `tenant_id` is the asker's own.

use crate::control::message;
use crate::{Kind, Message};
use serde::{Deserialize, Serialize};

/// How often a message may have its effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Qos {
    /// Given to who is there, once.
    AtMostOnce,
    /// Given again until it is acknowledged.
    AtLeastOnce,
    /// The same, published once for each ULID, and committed.
    ExactlyOnce,
}

/// Publishes a message; answered by [`Published`] once it is durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Publish<'a> {
    /// Whose.
    pub tenant_id: &'a str,
    /// Where.
    pub topic: &'a str,
    /// How often it may have its effect.
    pub qos: Qos,
    /// Its name, big-endian; the same name is the same message.
    pub ulid: Option<[u8; 16]>,
    /// How long it is worth something.
    pub ttl_ms: Option<u64>,
    /// A JSON object of texts.
    pub headers: &'a str,
    /// Any JSON.
    pub payload: &'a str,
}

/// The message is durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Published {
    /// Its event.
    pub event_id: u64,
    /// Its name.
    pub ulid: [u8; 16],
    /// Its shard, by the topic's present map.
    pub shard: u16,
    /// Whether it was there already.
    pub repeated: bool,
}

/// Makes a job be there; answered by [`JobEnqueued`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobEnqueue<'a> {
    /// Whose.
    pub tenant_id: &'a str,
    /// Where it waits.
    pub queue: &'a str,
    /// A JSON object; the same manifest is the same job.
    pub manifest: &'a str,
}

/// The job is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobEnqueued {
    /// BLAKE3 of its manifest's canonical JSON.
    pub job: [u8; 32],
    /// Its event.
    pub event_id: u64,
    /// Whether it was there already.
    pub repeated: bool,
}

/// Which job is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum JobWanted<'a> {
    /// The oldest of a queue that can be had.
    Next(&'a str),
    /// This one.
    Job([u8; 32]),
    /// The one that this claim holds, for longer.
    Renew {
        /// The job.
        job: [u8; 32],
        /// The claim.
        claim: u64,
    },
}

/// Asks for a job; answered by [`JobClaimed`], or refused with CONFLICT or NOT_FOUND.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobClaim<'a> {
    /// Whose.
    pub tenant_id: &'a str,
    /// Which.
    #[serde(borrow)]
    pub wanted: JobWanted<'a>,
    /// For how long.
    pub lease_ms: u64,
    /// The Ed25519 key that must sign the result.
    pub key: Option<[u8; 32]>,
}

/// The asker holds the job.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobClaimed<'a> {
    /// The job.
    pub job: [u8; 32],
    /// The token with which it is renewed, released or finished.
    pub claim: u64,
    /// When the lease ends, milliseconds since 1970.
    pub until_ms: u64,
    /// Its queue.
    pub queue: &'a str,
    /// Its manifest in canonical JSON; `null` if the log no longer has it.
    pub manifest: &'a str,
}

/// Gives a job back; answered by [`crate::ledger::Appended`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobRelease<'a> {
    /// Whose.
    pub tenant_id: &'a str,
    /// Which.
    pub job: [u8; 32],
    /// By which claim.
    pub claim: u64,
}

/// Finishes a job; answered by [`crate::ledger::Appended`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobResult<'a> {
    /// Whose.
    pub tenant_id: &'a str,
    /// Which.
    pub job: [u8; 32],
    /// By which claim.
    pub claim: u64,
    /// What came out, a JSON object.
    pub result: &'a str,
    /// What the worker states, a JSON object.
    pub attestation: &'a str,
    /// Who signs.
    pub key: [u8; 32],
    /// The signature's two halves, over the job and the attestation.
    pub sig: [[u8; 32]; 2],
}

message! { Publish<'_> = BusPublish, Published = BusPublished }
message! { JobEnqueue<'_> = JobEnqueue, JobEnqueued = JobEnqueued }
message! { JobClaim<'_> = JobClaim, JobClaimed<'_> = JobClaimed }
message! { JobRelease<'_> = JobRelease, JobResult<'_> = JobResult }
