//! The RTS package format and the service manifest: one file that holds what a machine runs.
//!
//! Owns the bytes of `docs/rts-format.md`, in both directions: [`Package`] reads a window of memory without copying,
//! [`pack::Assembler`] produces a package piece by piece. Start with [`Package::parse`]; PID 1 calls nothing else
//! before its loop runs.
//!
//! Never here: files, clocks, processes, unsafe code. A hostile package costs a bounded amount of work and an error.
#![forbid(unsafe_code)]
#![deny(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic
)]
#![cfg_attr(
    test,
    allow(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::indexing_slicing,
        clippy::panic
    )
)]

mod blocks;
pub mod elf;
mod error;
#[doc(hidden)]
pub mod fuzz;
mod header;
pub mod manifest;
pub mod pack;
mod package;
#[doc(hidden)]
pub mod sample;
mod sign;
mod table;
mod trust;
mod verify;

pub use blocks::{BLOCK_BYTES, Blocks, block_hash};
pub use elf::Machine;
pub use error::{Digest, Expected, Field, RtsError};
pub use header::HEADER_BYTES;
pub use manifest::{Manifest, ManifestError};
pub use package::{Package, TensorWindow};
pub use sign::{KeyError, PublicKey, SecretKey, sign};
pub use table::{Kind, SECTIONS_MAX, SERVICES_SECTION, Section};
pub use trust::{Trust, check_machine};
pub use verify::{Progress, Verification, WindowKind};

#[cfg(test)]
mod tests;
