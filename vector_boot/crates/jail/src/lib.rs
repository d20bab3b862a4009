//! The jail: what each role may see and call, and the confinement that makes it so.
//!
//! Owns the table of profiles. PID 1 and its helper make the part that needs privileges (namespaces,
//! uid, capabilities, limits) before the exec; the process itself adds Landlock and seccomp as its
//! first act, before it reads input and before it starts a thread. Must never: leave a step out silently.
//! Start with [`confine`]; [`profile`] says what each role may see, [`calls`] what it may call.
#![forbid(unsafe_code)]
#![deny(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]
#![cfg_attr(
    test,
    allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)
)]

pub mod calls;
pub mod cell;
mod compile;
mod confine;
mod grants;
mod landlock;
mod profile;
mod role;
mod seccomp;

pub use confine::{Confinement, Exec, confine, enter};
pub use grants::{Access, Grants};
pub use profile::Profile;
pub use role::main;
