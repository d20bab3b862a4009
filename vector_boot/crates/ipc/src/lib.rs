//! Typed clients of PID 1 and of the services.
//!
//! Owns the rules of a conversation: hello first, ids that match, deadlines on every wait. A frame
//! is copied once into the connection's buffer; answers borrow from it.
//!
//! Never here: policy, retries without a deadline. Start with [`Connection`].
#![forbid(unsafe_code)]

pub mod capacity;
mod connection;
pub mod door;
pub mod ledger;
#[cfg(feature = "lines")]
pub mod lines;

pub use connection::{Connection, IpcError, Served, serve_hello};

use std::path::PathBuf;

/// The folder of the sockets: `VB_RUN`, or `/run/vb`.
#[must_use]
pub fn run_folder() -> PathBuf {
    std::env::var_os("VB_RUN").map_or_else(|| PathBuf::from("/run/vb"), PathBuf::from)
}
