//! The console: one table of commands behind the serial line, the machine console and `ctl`.
//!
//! Owns the terminal and nothing else. What a command shows comes over the sockets in `VB_RUN`, from
//! descriptors that PID 1 passed, and from `/proc` and `/sys`; what it changes, PID 1 changes for it
//! and records first.
//!
//! Never here: privileges, secrets printed unasked, a wait without a deadline.
//! Start with [`commands`]; [`serial`] is for people, [`programs`] for programs.
#![forbid(unsafe_code)]

pub mod commands;
pub mod context;
mod editor;
mod keys;
mod ledger;
mod programs;
mod screen;
mod serial;
#[cfg(test)]
mod tests;
mod text;
mod words;

pub use serial::main;
