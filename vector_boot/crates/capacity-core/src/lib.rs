//! What every decision of the capacity kernel stands on: axes, allocation, leases, buckets, tokens,
//! gates, breaker and shedder, as plain state machines.
//!
//! Owns the arithmetic and its bounds. Time is an argument (milliseconds or nanoseconds since boot,
//! or ticks), randomness too (a key is handed in).
//!
//! Never here: files, sockets, clocks, unsafe code. `docs/capacity.md` holds the units and formulas.
//! Start with [`table::Table::admit`] for admission and [`token::Key::verify`] for tokens.
#![forbid(unsafe_code)]
#![deny(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]
#![cfg_attr(
    test,
    allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)
)]

pub mod allocate;
pub mod axes;
pub mod breaker;
pub mod bucket;
pub mod fuzz;
pub mod gates;
pub mod name;
pub mod opaque;
pub mod plan;
pub mod shedder;
pub mod table;
pub mod token;

pub use axes::{AXES, Ask, Axis, AxisError, BasisPoints, Demand, Grants};
