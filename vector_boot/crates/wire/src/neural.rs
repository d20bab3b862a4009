//! The neural runtime's frames on `init.sock`: PID 1's rows of `cortex_journal`, and its interrupts.
//!
//! A question is one frame; its answer one frame an item and a closing [`crate::Done`].

use crate::control::message;
use crate::{Kind, Message};
use serde::{Deserialize, Serialize};

/// Rows that PID 1 sends for one question at most: what its ring holds.
pub const ROWS_MAX: u32 = 64;

/// Asks for the rows of PID 1's own ring as [`JournalRow`] frames, oldest first, then [`crate::Done`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct JournalGet {
    /// Only rows with a greater number; 0 for all. To follow, ask again with the last one. The first row that
    /// comes may have a later number than the next: what lies between is not in the ring any more.
    pub after: u64,
    /// At most this many, the newest ones; [`ROWS_MAX`] for all.
    pub rows: u32,
}

/// One row, as it lies in the ring.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct JournalRow<'a> {
    /// The 192 bytes of `docs/neural.md`.
    pub row: &'a [u8],
}

/// Asks for one [`Interrupt`] each, then [`crate::Done`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct InterruptsGet;

/// One row of the interrupt table in force.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Interrupt<'a> {
    /// The register that it watches.
    pub register: u16,
    /// Whether it is raised above its threshold, or else below.
    pub above: bool,
    /// Where it is raised.
    pub threshold: f32,
    /// How far the register must come back until it is cleared.
    pub hysteresis: f32,
    /// Whether it is raised now.
    pub raised: bool,
    /// How often it was raised since PID 1's image began.
    pub count: u32,
    /// When it last changed, CLOCK_MONOTONIC in nanoseconds; 0 for never.
    pub changed_ns: u64,
    /// What is done when it is raised: `log`, `reclaim`, `shed` ...
    pub handler: &'a str,
}

message! {
    JournalGet = JournalGet, JournalRow<'_> = JournalRow, InterruptsGet = InterruptsGet,
    Interrupt<'_> = Interrupt,
}
