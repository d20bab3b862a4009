//! The `stats` page: 4 KiB that one service writes and PID 1 and the capacity kernel read.
//!
//! Layout, little-endian: words of 8 bytes. Word 0 is the magic, word 1 the sequence (odd while a
//! write is under way, see `sys::seqlock`), then one word a counter in the order of [`NAMES`].
//! Counters only grow, gauges are marked.

/// `VBSTATS1` as a little-endian word.
pub const MAGIC: u64 = u64::from_le_bytes(*b"VBSTATS1");
/// Bytes of the page.
pub const PAGE_BYTES: usize = 4096;

/// Counters from word 2 on.
pub const NAMES: &[&str] = &[
    "requests",
    "succeeded",
    "failed",
    "denied",
    "bytes_in",
    "bytes_out",
    "latency_us_total",
    "latency_us_max_gauge",
    "queue_gauge",
    "connections_gauge",
    "commits",
    "events",
    "lag_gauge",
    "leases_gauge",
    "ticks",
    "series_gauge",
    "gates_gauge",
];

/// Word index of the counter with this name.
#[must_use]
pub fn word(name: &str) -> Option<usize> {
    NAMES.iter().position(|n| *n == name).map(|i| i + 2)
}
