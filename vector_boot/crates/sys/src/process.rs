//! Processes: reaping, signals, names, what /proc tells of them.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// With this exit code.
    Code(i32),
    /// By this signal.
    Signal(i32),
}

impl std::fmt::Display for Exit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Code(code) => write!(f, "exit code {code}"),
            Self::Signal(signal) => write!(f, "signal {} ({signal})", signal_name(*signal)),
        }
    }
}

/// The short name of a signal, `KILL`, or `?`.
#[must_use]
pub fn signal_name(signal: i32) -> &'static str {
    nix::sys::signal::Signal::try_from(signal).map_or("?", |s| s.as_str().trim_start_matches("SIG"))
}

/// The number of a signal named `KILL`, `SIGKILL`, `kill` or `9`.
#[must_use]
pub fn signal_number(name: &str) -> Option<i32> {
    if let Ok(number) = name.parse::<i32>() {
        return (1..=64).contains(&number).then_some(number);
    }
    let upper = name.to_ascii_uppercase();
    let full = if upper.starts_with("SIG") {
        upper
    } else {
        format!("SIG{upper}")
    };
    full.parse::<nix::sys::signal::Signal>()
        .ok()
        .map(|s| s as i32)
}

/// A child that was reaped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reaped {
    /// Who.
    pub pid: i32,
    /// How it ended.
    pub exit: Exit,
    /// CPU time in user mode, microseconds.
    pub user_us: u64,
    /// CPU time in the kernel, microseconds.
    pub system_us: u64,
    /// Peak resident memory, KiB.
    pub peak_kib: u64,
}

/// Reaps one dead child, if there is any.
///
/// # Errors
/// As `wait4(2)`, but ECHILD and EINTR, which mean that there is none now.
pub fn reap() -> io::Result<Option<Reaped>> {
    let mut status = 0;
    // SAFETY: all zeroes is a valid rusage.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    // SAFETY: both out-pointers are live locals.
    let pid = unsafe { libc::wait4(-1, &raw mut status, libc::WNOHANG, &raw mut usage) };
    if pid < 0 {
        return match io::Error::last_os_error() {
            e if matches!(e.raw_os_error(), Some(libc::ECHILD | libc::EINTR)) => Ok(None),
            e => Err(e),
        };
    }
    if pid == 0 {
        return Ok(None);
    }
    let us = |t: libc::timeval| t.tv_sec.unsigned_abs() * 1_000_000 + t.tv_usec.unsigned_abs();
    Ok(Some(Reaped {
        pid,
        exit: exit_of(status),
        user_us: us(usage.ru_utime),
        system_us: us(usage.ru_stime),
        peak_kib: usage.ru_maxrss.unsigned_abs(),
    }))
}

/// Waits for one child.
///
/// # Errors
/// As `waitpid(2)`.
pub fn wait_for(pid: i32) -> io::Result<Exit> {
    let mut status = 0;
    loop {
        // SAFETY: the out-pointer is a live local.
        if unsafe { libc::waitpid(pid, &raw mut status, 0) } >= 0 {
            return Ok(exit_of(status));
        }
        match io::Error::last_os_error() {
            e if e.kind() == io::ErrorKind::Interrupted => {}
            e => return Err(e),
        }
    }
}

/// Reaps a child that is known to be dead or dying: it could not become its program.
pub(crate) fn reap_failed(pid: i32) {
    // Nobody else knows the pid; if it is gone already there is nothing to do.
    let _ = wait_for(pid);
}

fn exit_of(status: i32) -> Exit {
    if libc::WIFSIGNALED(status) {
        Exit::Signal(libc::WTERMSIG(status))
    } else {
        Exit::Code(libc::WEXITSTATUS(status))
    }
}

/// Sends a signal to the very process behind a pidfd.
///
/// # Errors
/// As `pidfd_send_signal(2)`.
pub fn signal(pidfd: BorrowedFd<'_>, signal: i32) -> io::Result<()> {
    // SAFETY: a null siginfo lets the kernel fill in the usual one.
    let done = unsafe {
        libc::syscall(
            libc::SYS_pidfd_send_signal,
            pidfd.as_raw_fd(),
            signal,
            0usize,
            0,
        )
    };
    if done < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

/// Sends a signal to ourselves.
///
/// # Errors
/// As `kill(2)`.
pub fn signal_self(signal: i32) -> io::Result<()> {
    // SAFETY: kill(2) takes numbers only.
    if unsafe { libc::kill(libc::getpid(), signal) } < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

/// Sends a signal to every process that we may signal, but to init and ourselves.
pub fn signal_everybody(signal: i32) {
    // Nobody left to signal is what the caller wants.
    // SAFETY: kill(2) takes numbers only.
    let _ = unsafe { libc::kill(-1, signal) };
}

/// Whether we have any child, dead or alive.
#[must_use]
pub fn has_children() -> bool {
    // SAFETY: all zeroes is a valid siginfo_t, into which waitid(2) writes; both live over the call.
    let found = unsafe {
        let mut info: libc::siginfo_t = std::mem::zeroed();
        libc::waitid(
            libc::P_ALL,
            0,
            &raw mut info,
            libc::WEXITED | libc::WNOHANG | libc::WNOWAIT,
        )
    };
    found == 0
}

/// Kills every process that we may signal, but init and ourselves, and reaps our children until none is left
/// or the time is over.
pub fn end_everybody(limit: std::time::Duration) {
    const PAUSE: std::time::Duration = std::time::Duration::from_millis(2);
    let deadline = std::time::Instant::now() + limit;
    signal_everybody(libc::SIGKILL);
    loop {
        // SAFETY: a null status asks for none.
        match unsafe { libc::waitpid(-1, std::ptr::null_mut(), libc::WNOHANG) } {
            0 if std::time::Instant::now() < deadline => std::thread::sleep(PAUSE),
            pid if pid > 0 => {}
            _ => return,
        }
    }
}

/// Names the calling thread, as `ps` shows it; cut to 15 bytes.
pub fn set_name(name: &str) {
    let mut bytes = [0u8; 16];
    let n = name.len().min(15);
    bytes[..n].copy_from_slice(&name.as_bytes()[..n]);
    // SAFETY: `bytes` is NUL-terminated and lives over the call, which only reads it.
    unsafe { libc::prctl(libc::PR_SET_NAME, bytes.as_ptr()) };
}

/// Sets which permissions new files do not get; answers what was set before.
pub fn set_umask(mask: u32) -> u32 {
    use nix::sys::stat::{Mode, umask};
    umask(Mode::from_bits_truncate(mask)).bits()
}

/// How many processors this process may run on.
#[must_use]
pub fn processors() -> usize {
    use nix::sched::{CpuSet, sched_getaffinity};
    let Ok(set) = sched_getaffinity(nix::unistd::Pid::from_raw(0)) else {
        return 1;
    };
    (0..CpuSet::count())
        .filter(|i| set.is_set(*i).unwrap_or(false))
        .count()
}

/// Makes orphans of our descendants ours, where we are not PID 1.
///
/// # Errors
/// As `prctl(2)`.
pub fn become_subreaper() -> io::Result<()> {
    // SAFETY: prctl with numbers only.
    let done = unsafe { libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) };
    if done < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

/// Asks the kernel to send `signal` to us when our parent ends.
///
/// # Errors
/// As `prctl(2)`.
pub fn die_with_parent(signal: i32) -> io::Result<()> {
    // SAFETY: prctl with numbers only.
    let done = unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, signal, 0, 0, 0) };
    if done < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

/// Forbids new privileges to us and all that we exec.
///
/// # Errors
/// As `prctl(2)`.
pub fn forbid_new_privileges() -> io::Result<()> {
    // SAFETY: prctl with numbers only.
    let done = unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) };
    if done < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

/// Becomes the program behind a descriptor, with these words and environment.
///
/// # Errors
/// As `execveat(2)`; returns only then.
pub fn become_program(image: BorrowedFd<'_>, words: &[String], env: &[String]) -> io::Error {
    let strings = |list: &[String]| -> Result<Vec<std::ffi::CString>, std::ffi::NulError> {
        list.iter()
            .map(|w| std::ffi::CString::new(w.as_str()))
            .collect()
    };
    let (words, env) = match (strings(words), strings(env)) {
        (Ok(w), Ok(e)) => (w, e),
        _ => return io::ErrorKind::InvalidInput.into(),
    };
    let pointers = |list: &[std::ffi::CString]| -> Vec<*const libc::c_char> {
        list.iter()
            .map(|w| w.as_ptr())
            .chain([std::ptr::null()])
            .collect()
    };
    let (argv, envp) = (pointers(&words), pointers(&env));
    // SAFETY: both arrays are null-terminated lists of NUL-terminated strings that live over the call.
    unsafe {
        libc::syscall(
            libc::SYS_execveat,
            image.as_raw_fd(),
            c"".as_ptr(),
            argv.as_ptr(),
            envp.as_ptr(),
            libc::AT_EMPTY_PATH,
        )
    };
    io::Error::last_os_error()
}

/// Raises the limit of open files of this process to `wanted`, as far as it may.
///
/// # Errors
/// As `setrlimit(2)`.
pub fn allow_open_files(wanted: u64) -> io::Result<()> {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    if soft < wanted && soft < hard {
        setrlimit(Resource::RLIMIT_NOFILE, wanted.min(hard), hard)?;
    }
    Ok(())
}

/// Caps the pools that the allocator makes for threads that meet in it. Without a cap it counts the
/// processors by reading a file when two first meet, which a confined process may not.
pub fn limit_allocator_pools(most: i32) {
    // SAFETY: mallopt(3) takes two numbers and answers 0 for what it does not know.
    unsafe { libc::mallopt(libc::M_ARENA_MAX, most) };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_have_names_both_ways() {
        assert_eq!(signal_number("KILL"), Some(9));
        assert_eq!(signal_number("sigterm"), Some(15));
        assert_eq!(signal_number("11"), Some(11));
        assert_eq!(signal_number("0"), None);
        assert_eq!(signal_number("bogus"), None);
        assert_eq!(Exit::Signal(9).to_string(), "signal KILL (9)");
    }
}
