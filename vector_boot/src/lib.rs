//! The library that a host process loads: the C ABI over packages and models.
//!
//! Owns: the exports of [`ffi`] and nothing else; the executables are `main.rs` and `services.rs`.
//! Never here: what the rooms decide, the boot. Start with [`ffi`]; `docs/c-abi.md` is its contract.

#[cfg(feature = "ffi")]
pub mod ffi;
