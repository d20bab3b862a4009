//! The neural runtime: sensors, interrupts, the policy and what follows from it, the journal, dequantisation.
//!
//! Owns: what PID 1 does once a beat without blocking or allocating ([`Runtime`]: samples, decisions and the
//! sensor page), the model that every image carries ([`default_model`]), the format of `cortex_journal`
//! ([`journal`]), and reading a tensor's values ([`dequant`]).
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
pub mod decide;
mod default_policy;
pub mod dequant;
pub mod evolution;
pub mod interrupts;
pub mod journal;
pub mod limits;
#[cfg(feature = "candle")]
pub mod mapped;
pub mod math;
pub mod matvec;
pub mod metabolic;
mod model;
pub mod pixels;
pub mod policy;
pub mod registers;
mod runtime;
pub mod sample;
mod sensors;
pub mod system_model;

pub use default_policy::DEFAULT as DEFAULT_POLICY;
pub use model::default_model;
pub use runtime::{BeatInput, DECIDES_FROM, Runtime, ServiceSample, StatsOf, TURNS};
pub use sensors::Sensors;
