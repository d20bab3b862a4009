//! The ledger service: the append-only memory of the appliance.
//!
//! Owns: the log device and everything written to it, the index in memory, both sockets, and the
//! command line over a log or a running service. What bytes mean lives in `ledger-core`.
//!
//! Never here: changing what was acknowledged, answering before it is durable, writing from more
//! than one thread. Start with [`main`], then `committer` and `log`.
#![forbid(unsafe_code)]

mod announce;
pub mod blobs;
pub mod committer;
pub mod device;
pub mod doctor;
pub mod export;
pub mod keys;
pub mod log;
pub mod objects;
pub mod open;
pub mod planes;
pub mod proofs;
pub mod refusal;
pub mod scan;

mod ahead;
pub mod audit;
mod boots;
mod bus;
mod cli;
mod clock;
mod dedupe;
mod enforce;
pub mod files;
mod fold;
mod folds;
mod gate;
mod given;
mod identity;
mod index;
mod jobs;
mod json;
mod jsonl;
pub mod metrics;
mod query;
pub mod reader;
mod said;
pub mod sealing;
mod serve;
mod slots;
mod stats;
mod ulids;
pub mod verify;
pub mod visitors;
mod wire_calls;
mod wire_socket;
pub mod witness;
mod wrap;

#[cfg(feature = "model")]
pub use clock::stand_still;

use std::ffi::OsString;
use std::process::ExitCode;

/// Runs the role over the words behind its name.
#[must_use]
pub fn main(words: &[OsString]) -> ExitCode {
    cli::main(words)
}
