//! What PID 1 gives up and what it switches off in the kernel, once, when the boot is done.
//!
//! Start with [`before_services`] and [`own_powers`]; docs/SECURITY.md lists both.

use std::io::{self, Read};
use std::path::Path;
use sys::capability::Capability::{
    Chown, DacOverride, DacReadSearch, Fowner, Kill, NetAdmin, NetBindService, NetRaw, SetGid,
    SetPcap, SetUid, SysAdmin, SysBoot, SysChroot, SysResource, SysTime, Syslog,
};
use sys::capability::Set;
use sys::folder::Folder;

/// What PID 1 itself goes on needing: signals to services; their uids, limits and namespaces; the
/// powers that `net` keeps; folders on disks that others own; restart and power off; listeners of a PID 1
/// that takes over, and sockets for services that an upgrade brings, which are given to them; the kernel's log,
/// which it opens for the console.
pub const OWN: Set = Set::of(&[
    Chown,
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

/// Whether the kernel compiles filters.
const JIT: &str = "net/core/bpf_jit_enable";
/// Switches of the kernel below `/proc/sys` that are set before the first service runs, and the value that each
/// gets: what any process could call however few powers it has, and what takes a power that is given up then.
const BEFORE: &[(&str, &str)] = &[
    ("kernel/modules_disabled", "1"),
    ("kernel/kexec_load_disabled", "1"),
    ("kernel/yama/ptrace_scope", "3"),
    ("kernel/unprivileged_bpf_disabled", "1"),
    ("net/core/bpf_jit_harden", "2"),
    // Compiling the filters of a service takes longer than everything else of its start, and what nobody compiles
    // needs no hiding: the calls that a list always allows are answered without running its filter in any case.
    (JIT, "0"),
    ("vm/unprivileged_userfaultfd", "0"),
    ("user/max_user_namespaces", "0"),
    ("kernel/io_uring_disabled", "2"),
];

/// Those that the helper sets once the services are up: they hold against whoever has gained powers already, or
/// are the kernel's own default, and one of them waits for the kernel.
const AFTER: &[(&str, &str)] = &[
    ("kernel/modprobe", "\n"),
    ("dev/tty/ldisc_autoload", "0"),
    // Waits for two grace periods of RCU.
    ("kernel/sysrq", "0"),
    // What the kernel tells.
    ("kernel/dmesg_restrict", "1"),
    ("kernel/kptr_restrict", "2"),
    ("kernel/perf_event_paranoid", "3"),
    // What a process may do to files of others.
    ("kernel/randomize_va_space", "2"),
    ("fs/protected_hardlinks", "1"),
    ("fs/protected_symlinks", "1"),
    ("fs/protected_fifos", "2"),
    ("fs/protected_regular", "2"),
    // No program is started for a core dump, and none is written (RLIMIT_CORE).
    ("kernel/core_pattern", "core"),
    ("fs/suid_dumpable", "0"),
];

/// Where PID 1 stands when memory runs out. The kernel never kills it, and what it starts inherits this: users'
/// services go first, and need not say so at each start.
pub const OOM_SCORE_ADJ: &str = "500";

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

impl Switched {
    /// As the helper answers it.
    pub fn answer(&self) -> String {
        let failed = self.failed.iter().map(String::as_str);
        let lines: Vec<&str> = std::iter::once(self.absent.as_str())
            .chain(failed)
            .collect();
        lines.join("\n")
    }

    /// Reads the helper's answer.
    pub fn of_answer(result: Result<u64, String>, detail: &str) -> Self {
        let (absent, failed) = detail.split_once('\n').unwrap_or((detail, ""));
        let failed = failed.lines().map(str::to_owned);
        match result {
            Ok(set) => Self {
                set: usize::try_from(set).unwrap_or(usize::MAX),
                absent: absent.to_owned(),
                failed: failed.collect(),
            },
            Err(e) => Self {
                failed: vec![format!("kernel switches: {e}")],
                ..Self::default()
            },
        }
    }
}

/// Sets what is set before the first service; what fails is answered and passed over.
pub fn before_services() -> Switched {
    set(BEFORE)
}

/// Sets the others.
pub fn after_services() -> Switched {
    set(AFTER)
}

fn set(switches: &[(&str, &str)]) -> Switched {
    let mut done = Switched::default();
    let folder = match Folder::open(Path::new("/proc/sys")) {
        Ok(folder) => folder,
        Err(e) => {
            done.failed.push(format!("/proc/sys: {e}"));
            return done;
        }
    };
    for (file, value) in switches {
        match folder.write(file, value) {
            Ok(()) => done.set += 1,
            // A kernel built to compile every filter refuses to be told otherwise.
            Err(e)
                if e.kind() == io::ErrorKind::NotFound
                    || (*file == JIT && e.kind() == io::ErrorKind::InvalidInput) =>
            {
                let gap = if done.absent.is_empty() { "" } else { ", " };
                done.absent = format!("{}{gap}{}", done.absent, file.replace('/', "."));
            }
            // A PID 1 that takes over finds them set, and may have no power left to set them again.
            Err(_) if now(&folder, file).is_ok_and(|now| now.trim() == value.trim()) => {
                done.set += 1;
            }
            Err(e) => done
                .failed
                .push(format!("{}={}: {e}", file.replace('/', "."), value.trim())),
        }
    }
    done
}

fn now(folder: &Folder, file: &str) -> io::Result<String> {
    let mut text = String::new();
    folder.read(file)?.read_to_string(&mut text)?;
    Ok(text)
}

/// Lets users' services inherit where they stand when memory runs out.
///
/// # Errors
/// As `write(2)`.
pub fn lend_oom_score() -> io::Result<()> {
    std::fs::write("/proc/self/oom_score_adj", OOM_SCORE_ADJ)
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
    fn what_the_helper_answers_is_what_it_found() {
        let found = Switched {
            set: 3,
            absent: "a.b, c".to_owned(),
            failed: vec!["d=1: no".to_owned(), "e=2: no".to_owned()],
        };
        let read = Switched::of_answer(Ok(3), &found.answer());
        assert_eq!(
            (read.set, &read.absent, &read.failed),
            (3, &found.absent, &found.failed)
        );
        let none = Switched::of_answer(Ok(13), &Switched::default().answer());
        assert!(none.absent.is_empty() && none.failed.is_empty());
        assert_eq!(Switched::of_answer(Err("gone".into()), "").failed.len(), 1);
    }

    #[test]
    fn every_switch_is_there_once() {
        let all: Vec<&str> = BEFORE.iter().chain(AFTER).map(|(file, _)| *file).collect();
        for (i, file) in all.iter().enumerate() {
            assert!(all.iter().skip(i + 1).all(|other| other != file));
        }
    }
}
