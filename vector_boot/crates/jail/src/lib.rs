//! The jail: what each role may see and call, and the confinement that makes it so.
//!
//! Owns the table of profiles. PID 1 and its helper make the part that needs privileges (namespaces,
//! uid, capabilities, limits) before the exec; the process itself adds Landlock and seccomp as its
//! first act, before it reads input. Must never: leave a step out silently.
//! Start with [`Profile`].
#![forbid(unsafe_code)]

mod profile;

pub use profile::Profile;
