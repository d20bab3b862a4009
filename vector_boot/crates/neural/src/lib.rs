//! The neural runtime: sensors, the default system model, dequantisation.
//!
//! Owns: what PID 1 does once a beat without blocking or allocating ([`Runtime`]: samples and the
//! sensor page), the model that every image carries ([`default_model`]), and reading a tensor's values
//! ([`dequant`]).
//!
//! Never here: heavy mathematics, network, another room. Start with [`Runtime`].
#![cfg_attr(not(feature = "candle"), forbid(unsafe_code))]
#![deny(unsafe_code)]
#![deny(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]
#![cfg_attr(
    test,
    allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)
)]

pub mod cortex;
pub mod dequant;
pub mod evolution;
pub mod journal;
#[cfg(feature = "candle")]
pub mod mapped;
pub mod math;
pub mod matvec;
mod model;
pub mod pixels;
pub mod policy;
pub mod registers;
mod runtime;
pub mod sample;
mod sensors;
pub mod system_model;

pub use model::default_model;
pub use runtime::{BeatInput, Runtime, ServiceSample, StatsOf, TURNS};
pub use sensors::Sensors;
