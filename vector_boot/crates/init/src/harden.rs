//! What PID 1 gives up and what it switches off in the kernel, once, when the boot is done.
//!
//! Start with [`switches`] and [`own_powers`]; docs/SECURITY.md lists both.

use std::fs;
use std::io;
use sys::capability::Capability::{
    Chown, DacOverride, DacReadSearch, Fowner, Kill, NetAdmin, NetBindService, NetRaw, SetGid,
    SetPcap, SetUid, SysAdmin, SysBoot, SysChroot, SysResource, SysTime, Syslog,
};
use sys::capability::Set;

/// What PID 1 itself goes on needing: signals to services; their uids, limits and namespaces; the
/// powers that `net` keeps; folders on disks that others own; restart and power off; listeners of a PID 1
/// that takes over; the kernel's log, which it opens for the console.
pub const OWN: Set = Set::of(&[
    Kill,
    SetGid,
    SetUid,
    SetPcap,
    SysAdmin,
    SysChroot,
    SysResource,
    SysBoot,
    DacReadSearch,
    NetAdmin,
    NetRaw,
    NetBindService,
    Syslog,
]);

/// What the helper needs: folders and files for services, mounts, cells, growing disks, the clock.
pub const HELPER: Set = Set::of(&[
    Chown,
    DacOverride,
    DacReadSearch,
    Fowner,
    SysAdmin,
    SysChroot,
    SysResource,
    SysTime,
]);

/// Switches of the kernel below `/proc/sys`, and the value that each gets.
const SWITCHES: &[(&str, &str)] = &[
    // What runs in the kernel is what was loaded at boot.
    ("kernel/modules_disabled", "1"),
    ("kernel/modprobe", "\n"),
    ("kernel/kexec_load_disabled", "1"),
    ("kernel/unprivileged_bpf_disabled", "1"),
    ("net/core/bpf_jit_harden", "2"),
    ("vm/unprivileged_userfaultfd", "0"),
    ("user/max_user_namespaces", "0"),
    ("kernel/io_uring_disabled", "2"),
    ("dev/tty/ldisc_autoload", "0"),
    ("kernel/sysrq", "0"),
    // What the kernel tells.
    ("kernel/dmesg_restrict", "1"),
    ("kernel/kptr_restrict", "2"),
    ("kernel/perf_event_paranoid", "3"),
    // What a process may do to another, and to files of others.
    ("kernel/yama/ptrace_scope", "3"),
    ("kernel/randomize_va_space", "2"),
    ("fs/protected_hardlinks", "1"),
    ("fs/protected_symlinks", "1"),
    ("fs/protected_fifos", "2"),
    ("fs/protected_regular", "2"),
    // No program is started for a core dump, and none is written (RLIMIT_CORE).
    ("kernel/core_pattern", "core"),
    ("fs/suid_dumpable", "0"),
];

/// What became of the switches.
#[derive(Debug, Default)]
pub struct Switched {
    /// How many have their value.
    pub set: usize,
    /// What this kernel does not have, by name, a comma between.
    pub absent: String,
    /// What could not be set, one sentence each.
    pub failed: Vec<String>,
}

/// Sets every switch; what fails is answered and passed over.
pub fn switches() -> Switched {
    let mut done = Switched::default();
    for (file, value) in SWITCHES {
        let path = format!("/proc/sys/{file}");
        match fs::write(&path, value) {
            Ok(()) => done.set += 1,
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                let gap = if done.absent.is_empty() { "" } else { ", " };
                done.absent = format!("{}{gap}{}", done.absent, file.replace('/', "."));
            }
            // A PID 1 that takes over finds them set, and may have no power left to set them again.
            Err(_) if fs::read_to_string(&path).is_ok_and(|now| now.trim() == value.trim()) => {
                done.set += 1;
            }
            Err(e) => done
                .failed
                .push(format!("{}={}: {e}", file.replace('/', "."), value.trim())),
        }
    }
    done
}

/// Gives up what neither PID 1 nor any of its children will need.
///
/// # Errors
/// As `prctl(2)` and `capset(2)`.
pub fn own_powers() -> io::Result<()> {
    Set::bind_own(OWN.and(HELPER), OWN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_switch_is_there_once() {
        for (i, (file, _)) in SWITCHES.iter().enumerate() {
            assert!(SWITCHES.iter().skip(i + 1).all(|(other, _)| other != file));
        }
    }
}
