//! The filter: a profile's list of calls, compiled and installed.
//!
//! Actions: a call on the list runs; one of [`ABSENT`], or newer than [`NEWEST`], is answered as by a
//! kernel that does not have it, so that libraries take their older way; every other is refused with
//! EPERM and put into the kernel's log. Another architecture's calls kill the process.

use crate::calls::{Calls, Rule};
use crate::compile::{self, Verdict};
use crate::{Exec, Profile};
use std::collections::BTreeMap;
use sys::seccomp::{Instruction, Log};

/// `mseal`, the newest call of Linux 6.10, has this number on both architectures. Also above it: the
/// numbers of x32, which have bit 30 set, and negative ones.
pub(crate) const NEWEST: u32 = 462;

/// Answered ENOSYS: the flags of `clone3` lie in memory, where no filter sees them, and libraries then
/// use `clone`; `io_uring` would make calls past the filter; `memfd_create` would make executable files.
const ABSENT: &[i64] = &[
    libc::SYS_clone3,
    libc::SYS_io_uring_setup,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
    libc::SYS_memfd_create,
];

const ENOSYS: u32 = libc::SECCOMP_RET_ERRNO | libc::ENOSYS.unsigned_abs();
const EPERM: u32 = libc::SECCOMP_RET_ERRNO | libc::EPERM.unsigned_abs();

/// Compiles and installs the filters of a profile; answers how many calls are on its list.
///
/// They are two, because what is answered ENOSYS is no news, and the kernel's log has room for the rest:
/// a filter logs all of its refusals or none.
pub fn filter(profile: Profile, exec: Exec) -> Result<usize, String> {
    let calls = Calls::of(profile, exec);
    let count = calls.len();
    let install =
        |program: &[_], log| sys::seccomp::install(program, log).map_err(|e| e.to_string());
    let rules = calls.into_rules();
    let older = ABSENT
        .iter()
        .filter(|number| !rules.contains_key(number))
        .filter_map(|number| Some((u32::try_from(*number).ok()?, Verdict::Always(ENOSYS))));
    let older = older.collect();
    install(
        &compile::program(&older, libc::SECCOMP_RET_ALLOW, NEWEST, ENOSYS),
        Log::Nothing,
    )?;
    // What the first one refuses stays refused: the kernel takes the strictest answer of all filters.
    install(&list(&rules, libc::SECCOMP_RET_ALLOW), Log::Refused)?;
    Ok(count)
}

/// The list itself: EPERM for everything else, but `absent` for what the other filter answers.
pub(crate) fn list(calls: &BTreeMap<i64, Vec<Rule>>, absent: u32) -> Vec<Instruction> {
    let listed = calls.iter().filter_map(|(number, rules)| {
        let verdict = if rules.is_empty() {
            Verdict::Always(libc::SECCOMP_RET_ALLOW)
        } else {
            Verdict::Where(rules.clone())
        };
        Some((u32::try_from(*number).ok()?, verdict))
    });
    let mut verdicts: BTreeMap<u32, Verdict> = listed.collect();
    for number in ABSENT {
        if let Ok(number) = u32::try_from(*number) {
            // A list that names one has its reason.
            verdicts.entry(number).or_insert(Verdict::Always(absent));
        }
    }
    compile::program(&verdicts, EPERM, NEWEST, absent)
}

/// Whether a call is answered as by a kernel that does not have it.
#[cfg(test)]
pub(crate) fn is_absent(number: u32) -> bool {
    ABSENT.contains(&i64::from(number))
}
