//! The frames that the rooms exchange, who may send them, and the layouts that they share.
//!
//! Owns: the frame header, the kinds and their bodies, the table of who may send what, the roles
//! and their uids, the layouts of shared pages. `docs/wire.md` is the same in prose, and the files
//! under `tests/golden/` pin the bytes.
//!
//! Never here: sockets, clocks, allocation. Start with [`Kind`] and [`encode`].
#![no_std]
#![forbid(unsafe_code)]
#![deny(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]
#![cfg_attr(
    test,
    allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)
)]

#[cfg(test)]
extern crate std;

// First: what it declares is used by those that follow.
#[macro_use]
mod spelled;

mod frame;
mod role;

pub mod capacity;
pub mod control;
pub mod evolution;
pub mod helper;
pub mod ledger;
pub mod neural;
pub mod sensors;
pub mod stats;
pub mod upgrade;
pub mod why;
pub mod work;

pub use frame::{
    Done, Frame, HEADER_BYTES, Hello, Kind, Message, PACKET_BYTES_MAX, Refused, STOPPING, VERSION,
    WireError, encode,
};
pub use role::Role;

/// Longest name of a service, a role, a root or a descriptor, in bytes.
pub const NAME_BYTES_MAX: usize = 32;
