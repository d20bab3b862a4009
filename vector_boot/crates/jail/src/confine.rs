//! What a process does to itself: no new privileges, Landlock, seccomp, in this order.
//!
//! Start with [`enter`], which every role of ours calls first when PID 1 started it.

use crate::{Grants, Profile, landlock, seccomp};
use std::fmt;

/// Whether the process may become another program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exec {
    /// Never: our own roles start nothing.
    Never,
    /// Once, the executable that is parked on this descriptor number (`sys::park`).
    Parked(u32),
}

/// What was applied, and what was not.
#[derive(Debug)]
pub struct Confinement {
    /// As what.
    pub profile: Profile,
    /// Landlock's ABI in force; `None` where it could not be applied.
    pub landlock: Option<u32>,
    /// System calls on the list; `None` where it could not be applied.
    pub calls: Option<usize>,
    /// What could not be applied and why, one phrase each.
    pub left_out: Vec<String>,
}

/// Confines this process, all its threads to come and all that it may start, for ever.
///
/// Call it first: before input is read, before a thread is started (Landlock holds for the calling
/// thread and its descendants). What this kernel cannot do is left out and told in the result.
#[must_use = "what was left out must be said"]
pub fn confine(profile: Profile, grants: &Grants, exec: Exec) -> Confinement {
    let mut left_out = Vec::new();
    if let Err(e) = sys::process::forbid_new_privileges() {
        left_out.push(format!("no_new_privs: {e}"));
    }
    let landlock = landlock::restrict(profile, grants)
        .map_err(|e| left_out.push(format!("landlock: {e}")))
        .ok();
    let calls = seccomp::filter(profile, exec)
        .map_err(|e| left_out.push(format!("seccomp: {e}")))
        .ok();
    Confinement {
        profile,
        landlock,
        calls,
        left_out,
    }
}

/// Two threads for each processor of a small board.
const ALLOCATOR_POOLS: i32 = 8;

/// Confines one of our roles with what PID 1 passed to it, and says so on stderr.
/// `word` is the role's; one without a profile is left as it is.
pub fn enter(word: &str) {
    if let Some(profile) = Profile::of_name(word) {
        sys::process::limit_allocator_pools(ALLOCATOR_POOLS);
        let grants = Grants::of_role(profile);
        confine(profile, &grants, Exec::Never).say();
        grants.keep();
    }
}

impl Confinement {
    /// One line for the log, for those who look closely, and one if something was left out.
    pub fn say(&self) {
        eprintln!("<7>{self}");
        if !self.left_out.is_empty() {
            eprintln!(
                "<4>jail: profile={} left out: {}",
                self.profile.name(),
                self.left_out.join("; ")
            );
        }
    }
}

impl fmt::Display for Confinement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "jail: profile={} landlock=", self.profile.name())?;
        match self.landlock {
            Some(abi) => write!(f, "{abi}")?,
            None => f.write_str("none")?,
        }
        match self.calls {
            Some(count) => write!(f, " seccomp=allow-list of {count}"),
            None => f.write_str(" seccomp=none"),
        }
    }
}
