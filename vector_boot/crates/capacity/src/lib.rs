//! The capacity kernel as a service: admission, tokens, checks, cgroup plans, one tick a second.
//!
//! Owns `capacity.sock`, the lease table and the key that makes tokens. Decides; PID 1 (cgroups) and
//! the gateway (requests) enforce. Decisions are pure and live in [`kernel`]; [`serve`] is the loop
//! around them; two threads talk to PID 1 and to the ledger so that the loop never waits for either.
//!
//! Never here: waiting without a deadline, queues without a bound. `docs/capacity.md` is the same in
//! prose. Start with [`main`].
#![forbid(unsafe_code)]
#![deny(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]
#![cfg_attr(
    test,
    allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)
)]

mod cli;
pub mod kept;
pub mod kernel;
pub mod measure;
mod outbox;
mod planner;
pub mod replay;
pub mod serve;

use std::ffi::OsString;
use std::process::ExitCode;

/// Runs the role over the words behind its name: none to serve, else a command of the client.
pub fn main(words: &[OsString]) -> ExitCode {
    if words.is_empty() {
        serve::main()
    } else {
        cli::main(words)
    }
}
