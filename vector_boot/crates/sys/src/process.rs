//! Processes: reaping, signals, names, what /proc tells of them.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

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

/// A child that ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reaped {
    /// Who.
    pub pid: i32,
    /// How it ended.
    pub exit: Exit,
    /// What it used, where that was asked for.
    pub usage: Option<Usage>,
}

/// What a process and the children that it waited for used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Usage {
    /// CPU time in user mode, microseconds.
    pub user_us: u64,
    /// CPU time in the kernel, microseconds.
    pub system_us: u64,
    /// Peak resident memory, KiB.
    pub peak_kib: u64,
}

/// Reaps one dead child, if there is any. What it used is not asked for: of ten thousand orphans nobody wants to
/// know, and adding it up is most of what one costs.
///
/// # Errors
/// As `wait4(2)`, but ECHILD and EINTR, which mean that there is none now.
pub fn reap() -> io::Result<Option<Reaped>> {
    let mut status = 0;
    // One number comes back and not a siginfo, which the kernel writes field by field.
    // SAFETY: the out-pointer is a live local; a null rusage is none.
    let pid = unsafe { libc::wait4(-1, &raw mut status, libc::WNOHANG, std::ptr::null_mut()) };
    match pid {
        0 => Ok(None),
        pid if pid > 0 => Ok(Some(Reaped {
            pid,
            exit: exit_of(status),
            usage: None,
        })),
        _ => none_or_error(),
    }
}

/// What is no failure of a wait: that nobody is there to wait for, or a signal.
fn none_or_error<T>() -> io::Result<Option<T>> {
    match io::Error::last_os_error() {
        e if matches!(e.raw_os_error(), Some(libc::ECHILD | libc::EINTR)) => Ok(None),
        e => Err(e),
    }
}

/// How the child behind a pidfd ended and what it used, if it did; it stays to be reaped.
///
/// # Errors
/// As [`reap`].
pub fn look_at(pidfd: BorrowedFd<'_>) -> io::Result<Option<Reaped>> {
    // SAFETY: all zeroes is a valid rusage.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    let id = pidfd.as_raw_fd().unsigned_abs();
    let ended = wait(libc::P_PIDFD, id, libc::WNOWAIT, Some(&mut usage))?;
    let us = |t: libc::timeval| t.tv_sec.unsigned_abs() * 1_000_000 + t.tv_usec.unsigned_abs();
    Ok(ended.map(|reaped| Reaped {
        usage: Some(Usage {
            user_us: us(usage.ru_utime),
            system_us: us(usage.ru_stime),
            peak_kib: usage.ru_maxrss.unsigned_abs(),
        }),
        ..reaped
    }))
}

/// Reaps the dead child behind a pidfd.
///
/// # Errors
/// As [`reap`].
pub fn bury(pidfd: BorrowedFd<'_>) -> io::Result<()> {
    wait(libc::P_PIDFD, pidfd.as_raw_fd().unsigned_abs(), 0, None).map(drop)
}

fn wait(
    which: libc::idtype_t,
    id: libc::id_t,
    options: libc::c_int,
    usage: Option<&mut libc::rusage>,
) -> io::Result<Option<Reaped>> {
    let usage = usage.map_or(std::ptr::null_mut(), std::ptr::from_mut);
    // SAFETY: all zeroes is a valid siginfo_t; the kernel writes it, and the rusage where there is one. Both live
    // over the call. The system call itself, since libc's waitid has no rusage.
    let (done, info) = unsafe {
        let mut info: libc::siginfo_t = std::mem::zeroed();
        let options = options | libc::WEXITED | libc::WNOHANG;
        let done = libc::syscall(libc::SYS_waitid, which, id, &raw mut info, options, usage);
        (done, info)
    };
    if done < 0 {
        return none_or_error();
    }
    // SAFETY: waitid(2) leaves a siginfo of SIGCHLD, or zeroes if nobody ended.
    let (pid, status) = unsafe { (info.si_pid(), info.si_status()) };
    // waitid(2): WNOHANG with nothing to reap returns 0 and a pid of 0.
    Ok((pid != 0).then_some(Reaped {
        pid,
        exit: if info.si_code == libc::CLD_EXITED {
            Exit::Code(status)
        } else {
            Exit::Signal(status)
        },
        usage: None,
    }))
}

/// Children that one question can be about: the bits of its answer.
pub const ASKED_MAX: usize = 32;

/// Which of these children have ended: bit `i` for the `i`-th. One system call, whatever their number.
#[must_use]
pub fn ended<'f>(pidfds: impl Iterator<Item = Option<BorrowedFd<'f>>>) -> u32 {
    // poll(2): a negative descriptor is ignored.
    let nobody = libc::pollfd {
        fd: -1,
        events: libc::POLLIN,
        revents: 0,
    };
    let mut asked = [nobody; ASKED_MAX];
    let mut count = 0;
    for (place, pidfd) in asked.iter_mut().zip(pidfds) {
        place.fd = pidfd.map_or(-1, |fd| fd.as_raw_fd());
        count += 1;
    }
    // SAFETY: the array is live, `count` is at most its length, and the descriptors are borrowed.
    let found = unsafe { libc::poll(asked.as_mut_ptr(), count, 0) };
    let bits = asked.iter().enumerate();
    let dead = bits.filter(|(_, p)| found > 0 && p.revents & libc::POLLIN != 0);
    dead.fold(0, |mask, (i, _)| mask | 1 << i)
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

/// A descriptor of the process of this number, whichever that is now.
///
/// # Errors
/// As `pidfd_open(2)`.
pub fn open(pid: u32) -> io::Result<OwnedFd> {
    // SAFETY: numbers only.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
    match RawFd::try_from(fd) {
        // SAFETY: pidfd_open(2) has just made it, and only we know it.
        Ok(fd) if fd >= 0 => Ok(unsafe { OwnedFd::from_raw_fd(fd) }),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Whether the process behind a pidfd is our child, alive or waiting to be reaped.
#[must_use]
pub fn is_child(pidfd: BorrowedFd<'_>) -> bool {
    let Ok(number) = libc::id_t::try_from(pidfd.as_raw_fd()) else {
        return false;
    };
    // SAFETY: all zeroes is a valid siginfo_t, into which waitid(2) writes; it lives over the call.
    let found = unsafe {
        let mut info: libc::siginfo_t = std::mem::zeroed();
        libc::waitid(
            libc::P_PIDFD,
            number,
            &raw mut info,
            libc::WEXITED | libc::WNOHANG | libc::WNOWAIT,
        )
    };
    found == 0
}

/// The kernel's unit of times in `/proc`: sysconf(_SC_CLK_TCK) is 100 on every architecture of ours.
pub const TICK_NS: u64 = 10_000_000;

/// Where a process comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Birth {
    /// Its parent.
    pub parent: u32,
    /// When it began, since the machine started (CLOCK_BOOTTIME), rounded down to [`TICK_NS`].
    pub at_ns: u64,
}

/// What `/proc/PID/stat` says of a process.
///
/// # Errors
/// As `open(2)`; `InvalidData` for what has not the form of proc(5).
pub fn birth_of(pid: u32) -> io::Result<Birth> {
    // Longer than 52 numbers of 20 digits.
    let mut bytes = [0; 1152];
    let read = File::open(format!("/proc/{pid}/stat"))?.read(&mut bytes)?;
    birth_in(&bytes[..read]).ok_or_else(|| io::ErrorKind::InvalidData.into())
}

/// Fields 4 and 22 of proc(5); the second is a name, which may hold anything but ends with the last parenthesis.
fn birth_in(stat: &[u8]) -> Option<Birth> {
    let name_end = stat.iter().rposition(|b| *b == b')')?;
    let rest = std::str::from_utf8(&stat[name_end + 1..]).ok()?;
    let mut fields = rest.split_ascii_whitespace();
    let parent = fields.nth(1)?.parse().ok()?;
    let ticks: u64 = fields.nth(17)?.parse().ok()?;
    Some(Birth {
        parent,
        at_ns: ticks.checked_mul(TICK_NS)?,
    })
}

/// Kills our children and reaps them until none is left or the time is over; their children become ours.
pub fn end_children(limit: std::time::Duration) {
    let deadline = std::time::Instant::now() + limit;
    while has_children() && std::time::Instant::now() < deadline {
        let own = std::fs::read_to_string("/proc/thread-self/children").unwrap_or_default();
        for pid in own
            .split_ascii_whitespace()
            .filter_map(|pid| pid.parse().ok())
        {
            if let Ok(child) = open(pid)
                && is_child(child.as_fd())
            {
                // One that has ended takes no notice.
                let _ = signal(child.as_fd(), libc::SIGKILL);
            }
        }
        while matches!(reap(), Ok(Some(_))) {}
        std::thread::sleep(std::time::Duration::from_millis(2));
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

/// Lets the calling thread run before all ordinary ones, in turn with others of the lowest realtime
/// priority; its children are ordinary.
///
/// # Errors
/// As `sched_setscheduler(2)`: `EPERM` where the limit or a control group forbids it.
pub fn run_in_real_time() -> io::Result<()> {
    // `struct sched_param` of the kernel is one int.
    let priority: libc::c_int = 1;
    // SAFETY: the kernel reads one int, which lives over the call; 0 is the calling thread. The C
    // libraries' function is for whole processes, and musl's refuses.
    let done = unsafe {
        libc::syscall(
            libc::SYS_sched_setscheduler,
            0,
            REAL_TIME,
            &raw const priority,
        )
    };
    if done == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// The policy of [`run_in_real_time`].
pub const REAL_TIME: libc::c_int = libc::SCHED_RR | libc::SCHED_RESET_ON_FORK;

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
    fn a_child_is_known_by_its_descriptor_and_its_birth() {
        let before = crate::clock::monotonic_ns() + crate::clock::suspended_ns();
        let mut child = std::process::Command::new("/bin/sleep")
            .arg("60")
            .spawn()
            .unwrap();
        let fd = open(child.id()).unwrap();
        assert!(is_child(fd.as_fd()));
        let born = birth_of(child.id()).unwrap();
        assert_eq!(born.parent, std::process::id());
        let after = crate::clock::monotonic_ns() + crate::clock::suspended_ns();
        assert!(
            (before - 2 * TICK_NS..=after).contains(&born.at_ns),
            "{before} {born:?} {after}"
        );
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(!is_child(fd.as_fd()), "reaped");
        assert!(open(child.id()).is_err() || !is_child(fd.as_fd()));
        assert!(
            !is_child(open(std::process::id()).unwrap().as_fd()),
            "ourselves"
        );
        assert!(!is_child(File::open("/").unwrap().as_fd()), "no process");
    }

    #[test]
    fn a_name_in_stat_may_hold_anything() {
        let stat = b"7 (a) S 1 (b c)) S 42 7 7 0 -1 0 0 0 0 0 0 0 0 0 20 0 1 0 12345 9";
        let born = Birth {
            parent: 42,
            at_ns: 12345 * TICK_NS,
        };
        assert_eq!(birth_in(stat), Some(born));
        for cut in 0..stat.len() - 7 {
            assert_eq!(birth_in(&stat[..cut]), None, "{cut}");
        }
    }

    #[test]
    fn signals_have_names_both_ways() {
        assert_eq!(signal_number("KILL"), Some(9));
        assert_eq!(signal_number("sigterm"), Some(15));
        assert_eq!(signal_number("11"), Some(11));
        assert_eq!(signal_number("0"), None);
        assert_eq!(signal_number("bogus"), None);
        assert_eq!(Exit::Signal(9).to_string(), "signal KILL (9)");
    }

    #[test]
    #[allow(clippy::zombie_processes, reason = "buried by their pidfds")]
    fn a_dead_child_is_looked_at_and_stays_until_it_is_buried() {
        use std::os::fd::{AsFd, FromRawFd, OwnedFd};
        let start = |code: &str| {
            let mut command = std::process::Command::new("/bin/sh");
            let child = command.args(["-c", code]).spawn().unwrap();
            // SAFETY: pidfd_open(2) takes numbers only.
            let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, child.id(), 0) };
            // SAFETY: the call made a new descriptor, which nobody else owns.
            let pidfd = unsafe { OwnedFd::from_raw_fd(i32::try_from(fd).unwrap()) };
            (child.id(), pidfd)
        };
        let ((first, dead), (_, alive)) = (start("exit 3"), start("exec sleep 1000"));
        let both = || [None, Some(alive.as_fd()), Some(dead.as_fd())].into_iter();
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(60);
        while ended(both()) != 0b100 {
            assert!(std::time::Instant::now() < deadline, "it never ended");
            std::thread::yield_now();
        }
        assert_eq!(look_at(alive.as_fd()).unwrap(), None);
        for _ in 0..2 {
            let seen = look_at(dead.as_fd()).unwrap().unwrap();
            assert_eq!((seen.pid.unsigned_abs(), seen.exit), (first, Exit::Code(3)));
            assert!(seen.usage.unwrap().peak_kib > 0);
        }
        bury(dead.as_fd()).unwrap();
        assert_eq!(look_at(dead.as_fd()).unwrap(), None, "it was buried");
        signal(alive.as_fd(), 9).unwrap();
        while ended(both()) & 0b10 == 0 {
            assert!(std::time::Instant::now() < deadline, "it never died");
            std::thread::yield_now();
        }
        let killed = look_at(alive.as_fd()).unwrap().unwrap();
        assert_eq!(killed.exit, Exit::Signal(9));
        bury(alive.as_fd()).unwrap();
    }
}
