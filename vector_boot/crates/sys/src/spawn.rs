//! Starting a child: `clone3` with a shared address space, then `execveat` of a held descriptor.
//!
//! The parent sleeps until the child has exec'd (CLONE_VFORK), so nothing is copied and the cost
//! does not grow with the parent. The child runs [`child`] on a stack of its own and calls nothing
//! but the kernel: no allocation, no lock, no libc wrapper that keeps state per thread.
//! Start with [`Spawn::start`].

use crate::capability::{HIGHEST, Set, VERSION_3};
use std::ffi::{CStr, CString};
use std::fmt;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

/// Where passed descriptors begin, after stdin, stdout and stderr.
const FIRST_PASSED: RawFd = 3;
/// Descriptors are parked from here on while their final numbers are being filled: above all of those,
/// and low, since fcntl(2) refuses a number from RLIMIT_NOFILE on.
const PARKING: RawFd = FIRST_PASSED + PASSED_MAX as RawFd;
/// Descriptors that one child may get.
pub const PASSED_MAX: usize = 40;
/// Namespaces that one child enters: mnt, ipc, uts, net.
pub const NAMESPACES_MAX: usize = 4;
/// Bytes of the child's stack, part of the parent's: a few frames of at most some hundred bytes, and none
/// for a signal, since CLONE_CLEAR_SIGHAND leaves no handler.
const STACK_BYTES: usize = 8 * 1024;
/// Variables that hold the child's pid: ten places, filled in by the child, who alone knows it.
const LISTEN_PID: &[u8] = b"LISTEN_PID=";
const WATCHDOG_PID: &[u8] = b"WATCHDOG_PID=";
/// Value of `WATCHDOG_PID` in the environment that [`Spawn::new`] takes; the child fills it in.
pub const PID_OF_CHILD: &str = "          ";

/// Who the child becomes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Identity {
    /// Stays what the parent is (an ordinary process, or the root helper).
    Inherit,
    /// uid and gid, with no group beside it.
    Uid(u32),
}

/// What a child keeps of root's powers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Powers {
    /// Whatever the parent has.
    Inherit,
    /// As root, at most these: the bounding set is cut, and the exec takes up what is left of it.
    Bounded(Set),
    /// These and no others, whatever the uid, and no way back: empty bounding set but for them,
    /// securebits that are locked.
    Only(Set),
}

/// What a process may have of something, as `setrlimit(2)` names it; soft and hard limit are one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Limit {
    /// Open files.
    OpenFiles,
    /// Bytes of a core dump.
    Core,
    /// Bytes that may be locked in memory.
    LockedMemory,
    /// Highest realtime priority.
    RealtimePriority,
    /// Bytes of POSIX message queues.
    MessageQueues,
}

impl Limit {
    fn resource(self) -> u32 {
        // Unsigned in glibc, signed in musl; small numbers in both.
        #[allow(clippy::unnecessary_cast, reason = "the type differs by libc")]
        let number = match self {
            Self::OpenFiles => libc::RLIMIT_NOFILE as u32,
            Self::Core => libc::RLIMIT_CORE as u32,
            Self::LockedMemory => libc::RLIMIT_MEMLOCK as u32,
            Self::RealtimePriority => libc::RLIMIT_RTPRIO as u32,
            Self::MessageQueues => libc::RLIMIT_MSGQUEUE as u32,
        };
        number
    }
}

/// Where a child that could not become its program got stuck; in the order of its steps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Step {
    /// clone3: cgroup, memory for a process.
    Clone,
    /// Parking and filling descriptors.
    Descriptors,
    /// Session and controlling terminal.
    Session,
    /// Signal dispositions, mask, umask, the parent's death.
    Signals,
    /// rlimits and oom_score_adj.
    Limits,
    /// Entering the namespaces of its cell.
    Namespaces,
    /// Emptying the bounding set.
    BoundingSet,
    /// gid, groups and uid.
    Identity,
    /// Capability sets.
    Capabilities,
    /// Locking the securebits.
    SecureBits,
    /// no_new_privs.
    NoNewPrivileges,
    /// execveat.
    Exec,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Clone => "clone3",
            Self::Descriptors => "descriptors",
            Self::Session => "session",
            Self::Signals => "signals",
            Self::Limits => "limits",
            Self::Namespaces => "namespaces",
            Self::BoundingSet => "bounding set",
            Self::Identity => "uid and gid",
            Self::Capabilities => "capabilities",
            Self::SecureBits => "securebits",
            Self::NoNewPrivileges => "no_new_privs",
            Self::Exec => "execveat",
        })
    }
}

/// Why a child could not become its program.
#[derive(Debug)]
pub struct Stuck {
    /// Where.
    pub step: Step,
    /// What the kernel said.
    pub cause: io::Error,
}

impl fmt::Display for Stuck {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.step, self.cause)
    }
}

impl std::error::Error for Stuck {}

impl Stuck {
    fn at(step: Step, errno: i32) -> io::Error {
        let cause = io::Error::from_raw_os_error(errno);
        io::Error::new(cause.kind(), Self { step, cause })
    }
}

/// Everything that a child is started with. Prepared once a service and used for every restart.
#[derive(Debug)]
pub struct Spawn {
    argv: Vec<CString>,
    env: Vec<CString>,
    /// Who it becomes.
    pub identity: Identity,
    /// What it keeps of root's powers.
    pub powers: Powers,
    /// Whether it and all that it execs can never gain any.
    pub no_new_privileges: bool,
    /// What it may have; what is not named is inherited.
    pub limits: Vec<(Limit, u64)>,
    /// Where it stands when memory runs out, -1000 to 1000; `None` inherits.
    pub oom_score_adj: Option<CString>,
    /// Whether stdin becomes the controlling terminal of the child's session.
    pub controlling_terminal: bool,
    /// Whether the child is killed when we end: for an ordinary process, whose end nobody cleans up.
    pub dies_with_parent: bool,
}

/// A started child.
#[derive(Debug)]
pub struct Child {
    /// Its process id.
    pub pid: i32,
    /// Readable when it ends, and the target of signals: never hits a successor of its pid.
    pub pidfd: OwnedFd,
}

/// Descriptors that a child gets, in the order of their final numbers.
#[derive(Debug, Clone, Copy)]
pub struct Descriptors<'a> {
    /// The executable.
    pub image: BorrowedFd<'a>,
    /// stdin, stdout, stderr.
    pub stdio: [BorrowedFd<'a>; 3],
    /// From 3 on.
    pub passed: &'a [BorrowedFd<'a>],
    /// cgroup v2 folder to be born in.
    pub cgroup: Option<BorrowedFd<'a>>,
    /// Namespaces to enter before anything is given up, at most [`NAMESPACES_MAX`].
    pub namespaces: &'a [BorrowedFd<'a>],
}

impl Spawn {
    /// Prepares a command. `env` gets `LISTEN_PID`, `LISTEN_FDS` and `LISTEN_FDNAMES` added when
    /// `passed_names` is not empty.
    ///
    /// # Errors
    /// `InvalidInput` for a word with NUL or more names than [`PASSED_MAX`].
    pub fn new(argv: &[&str], env: &[(&str, &str)], passed_names: &[&str]) -> io::Result<Self> {
        if argv.is_empty() {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let mut lines = Vec::with_capacity(env.len() + 3);
        lines.extend(passed_lines(passed_names)?);
        for (key, value) in env {
            lines.push(word(&format!("{key}={value}"))?);
        }
        Ok(Self {
            argv: argv.iter().map(|w| word(w)).collect::<io::Result<_>>()?,
            env: lines,
            identity: Identity::Inherit,
            powers: Powers::Inherit,
            no_new_privileges: false,
            limits: Vec::new(),
            oom_score_adj: None,
            controlling_terminal: false,
            dies_with_parent: false,
        })
    }

    /// Names what is passed from the next start on.
    ///
    /// # Errors
    /// As [`Spawn::new`].
    pub fn set_passed(&mut self, names: &[&str]) -> io::Result<()> {
        let lines = passed_lines(names)?;
        self.env
            .retain(|line| !line.as_bytes().starts_with(b"LISTEN_"));
        self.env.extend(lines);
        Ok(())
    }

    /// Starts the child; returns when it has exec'd.
    ///
    /// # Errors
    /// [`Stuck`]: the step that failed, `clone3(2)` or one in the child, and why.
    pub fn start(&self, descriptors: &Descriptors<'_>) -> io::Result<Child> {
        if descriptors.passed.len() > PASSED_MAX || descriptors.namespaces.len() > NAMESPACES_MAX {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let mut argv: Vec<*const libc::c_char> = self.argv.iter().map(|w| w.as_ptr()).collect();
        argv.push(std::ptr::null());
        let mut pids: [*mut u8; 2] = [std::ptr::null_mut(); 2];
        let mut env: Vec<*const libc::c_char> = Vec::with_capacity(self.env.len() + 1);
        let mut lines: Vec<Vec<u8>> = self
            .env
            .iter()
            .map(|line| CStr::to_bytes_with_nul(line).to_vec())
            .collect();
        for line in &mut lines {
            for (place, key) in pids.iter_mut().zip([LISTEN_PID, WATCHDOG_PID]) {
                if line.starts_with(key) {
                    *place = line.as_mut_ptr().wrapping_add(key.len());
                }
            }
            env.push(line.as_ptr().cast());
        }
        env.push(std::ptr::null());
        let mut sources = [-1; 3 + PASSED_MAX];
        let wanted = descriptors.stdio.iter().chain(descriptors.passed);
        for (slot, fd) in sources.iter_mut().zip(wanted) {
            *slot = fd.as_raw_fd();
        }
        let mut namespaces = [-1; NAMESPACES_MAX];
        for (slot, fd) in namespaces.iter_mut().zip(descriptors.namespaces) {
            *slot = fd.as_raw_fd();
        }
        // Each drop costs the kernel a copy of the credentials: none of what is gone already.
        let dropped = |kept: Set| Set::bound().bits() & !kept.bits();
        let (dropped, kept) = match self.powers {
            Powers::Inherit => (None, None),
            Powers::Bounded(set) => (Some(dropped(set)), None),
            Powers::Only(set) => (Some(dropped(set)), Some(set.bits())),
        };
        let limits: Vec<(u32, u64)> = self
            .limits
            .iter()
            .map(|(limit, most)| (limit.resource(), *most))
            .collect();
        let mut plan = Plan {
            image: descriptors.image.as_raw_fd(),
            sources,
            count: 3 + descriptors.passed.len(),
            argv: argv.as_ptr(),
            env: env.as_ptr(),
            pids,
            identity: match self.identity {
                Identity::Inherit => None,
                Identity::Uid(uid) => Some(uid),
            },
            namespaces,
            namespaces_count: descriptors.namespaces.len(),
            dropped,
            kept,
            no_new_privileges: self.no_new_privileges,
            limits: limits.as_ptr(),
            limits_count: limits.len(),
            oom_score_adj: self
                .oom_score_adj
                .as_ref()
                .map_or((std::ptr::null(), 0), |text| {
                    (text.as_ptr(), text.as_bytes().len())
                }),
            controlling_terminal: self.controlling_terminal,
            dies_with_parent: self.dies_with_parent,
            step: Step::Clone,
            errno: 0,
        };
        let mut pidfd: RawFd = -1;
        // In our own frame: these pages are there anyway, and we sleep while the child runs.
        let mut stack = MaybeUninit::<Stack>::uninit();
        let mut flags = libc::CLONE_VFORK | libc::CLONE_VM | libc::CLONE_PIDFD;
        if descriptors.cgroup.is_some() {
            flags |= CLONE_INTO_CGROUP as i32;
        }
        let arguments = CloneArgs {
            // The two flags above 2^31 are not in libc's i32 constants.
            flags: u64::from(flags.cast_unsigned() & !(CLONE_INTO_CGROUP as u32))
                | if descriptors.cgroup.is_some() {
                    CLONE_INTO_CGROUP
                } else {
                    0
                }
                | CLONE_CLEAR_SIGHAND,
            pidfd: (&raw mut pidfd) as u64,
            exit_signal: libc::SIGCHLD as u64,
            stack: stack.as_mut_ptr() as u64,
            stack_size: size_of::<Stack>() as u64,
            cgroup: descriptors.cgroup.map_or(0, |fd| fd.as_raw_fd() as u64),
            ..CloneArgs::default()
        };
        // SAFETY: the child runs `child` on `stack`, which nobody else uses and which outlives
        // it: CLONE_VFORK keeps this thread asleep until the child has exec'd or ended, so `plan`
        // and everything that it points to stay alive and are touched by one side at a time.
        let pid = unsafe { clone_and_call(&arguments, child, &raw mut plan) };
        if pid < 0 {
            return Err(Stuck::at(
                Step::Clone,
                i32::try_from(-pid).unwrap_or(libc::EIO),
            ));
        }
        // SAFETY: clone3 succeeded, so the kernel stored a new descriptor that only we know.
        let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
        let pid = i32::try_from(pid).map_err(|_| io::ErrorKind::InvalidData)?;
        if plan.errno != 0 {
            // It never was the program: reap it here, so that nobody sees it live or die.
            crate::process::reap_failed(pid);
            return Err(Stuck::at(plan.step, plan.errno));
        }
        Ok(Child { pid, pidfd })
    }
}

/// A stack as both architectures want it, at a multiple of 16.
#[repr(C, align(16))]
struct Stack([u8; STACK_BYTES]);

fn word(word: &str) -> io::Result<CString> {
    CString::new(word).map_err(io::Error::from)
}

/// The variables of sd_listen_fds(3); none where nothing is passed.
fn passed_lines(names: &[&str]) -> io::Result<Vec<CString>> {
    match names.len() {
        0 => Ok(Vec::new()),
        count if count > PASSED_MAX => Err(io::ErrorKind::InvalidInput.into()),
        count => Ok(vec![
            word(&format!("LISTEN_PID={PID_OF_CHILD}"))?,
            word(&format!("LISTEN_FDS={count}"))?,
            word(&format!("LISTEN_FDNAMES={}", names.join(":")))?,
        ]),
    }
}

const CLONE_CLEAR_SIGHAND: u64 = 0x1_0000_0000;
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

/// `struct clone_args` of clone3(2), CLONE_ARGS_SIZE_VER2.
#[repr(C)]
#[derive(Default)]
struct CloneArgs {
    flags: u64,
    pidfd: u64,
    child_tid: u64,
    parent_tid: u64,
    exit_signal: u64,
    stack: u64,
    stack_size: u64,
    tls: u64,
    set_tid: u64,
    set_tid_size: u64,
    cgroup: u64,
}

/// What the child needs, all of it prepared by the parent.
struct Plan {
    image: RawFd,
    sources: [RawFd; 3 + PASSED_MAX],
    count: usize,
    argv: *const *const libc::c_char,
    env: *const *const libc::c_char,
    /// Where the child writes its pid, as far as they are not null.
    pids: [*mut u8; 2],
    identity: Option<u32>,
    namespaces: [RawFd; NAMESPACES_MAX],
    namespaces_count: usize,
    /// What is dropped from the bounding set; `None` leaves it.
    dropped: Option<u64>,
    /// What stays in all other sets; `None` leaves them.
    kept: Option<u64>,
    no_new_privileges: bool,
    limits: *const (u32, u64),
    limits_count: usize,
    /// Text and its length.
    oom_score_adj: (*const libc::c_char, usize),
    controlling_terminal: bool,
    dies_with_parent: bool,
    /// Where the child is.
    step: Step,
    /// Written by the child when it cannot become the program.
    errno: i32,
}

/// clone3, and `entry(plan)` in the child, on the stack of `arguments`.
///
/// # Safety
/// `arguments` must name a live stack and carry CLONE_VM | CLONE_VFORK; `entry` must not return.
#[cfg(target_arch = "x86_64")]
unsafe fn clone_and_call(
    arguments: &CloneArgs,
    entry: unsafe extern "C" fn(*mut Plan) -> !,
    plan: *mut Plan,
) -> i64 {
    let mut result: i64 = libc::SYS_clone3;
    // SAFETY: the child enters with rsp at the top of the given stack (16-byte aligned by the
    // kernel's rule: stack + size, both multiples of 16), never returns from `entry`, and the
    // parent goes on after the block with only the declared registers changed.
    unsafe {
        core::arch::asm!(
            "syscall",
            "test rax, rax",
            "jnz 2f",
            "xor ebp, ebp",
            "mov rdi, {plan}",
            "and rsp, -16",
            "call {entry}",
            "ud2",
            "2:",
            plan = in(reg) plan,
            entry = in(reg) entry,
            inlateout("rax") result,
            in("rdi") std::ptr::from_ref(arguments),
            in("rsi") size_of::<CloneArgs>(),
            out("rcx") _,
            out("r11") _,
        );
    }
    result
}

/// clone3, and `entry(plan)` in the child, on the stack of `arguments`.
///
/// # Safety
/// `arguments` must name a live stack and carry CLONE_VM | CLONE_VFORK; `entry` must not return.
#[cfg(target_arch = "aarch64")]
unsafe fn clone_and_call(
    arguments: &CloneArgs,
    entry: unsafe extern "C" fn(*mut Plan) -> !,
    plan: *mut Plan,
) -> i64 {
    let mut result = std::ptr::from_ref(arguments) as i64;
    // SAFETY: as on x86_64; sp of the child is the top of the given stack, rounded down to 16. The
    // child alone loses x1; in the parent the kernel changes x0 and nothing else.
    unsafe {
        core::arch::asm!(
            "svc 0",
            "cbnz x0, 2f",
            // An access through an sp that is not a multiple of 16 faults.
            "mov x1, sp",
            "and sp, x1, #-16",
            "mov x29, xzr",
            "mov x0, {plan}",
            "blr {entry}",
            "brk 1",
            "2:",
            plan = in(reg) plan,
            entry = in(reg) entry,
            inlateout("x0") result,
            in("x1") size_of::<CloneArgs>(),
            in("x8") libc::SYS_clone3,
        );
    }
    result
}

/// The child's life up to exec.
///
/// # Safety
/// Called by [`clone_and_call`] alone; `plan` is alive and ours until exec or exit.
unsafe extern "C" fn child(plan: *mut Plan) -> ! {
    let mut step = Step::Descriptors;
    // SAFETY: the parent sleeps, so the reference is the only one; only raw system calls with arguments
    // that the parent prepared.
    let Err(errno) = unsafe { become_program(&mut *plan, &mut step) };
    // SAFETY: alive as above; volatile, since the parent reads what this function never does.
    unsafe {
        (&raw mut (*plan).step).write_volatile(step);
        (&raw mut (*plan).errno).write_volatile(errno);
    }
    loop {
        // SAFETY: ends this process; never returns.
        unsafe { libc::syscall(libc::SYS_exit_group, 127) };
    }
}

/// A raw system call: `Err(errno)` instead of -1, without touching `errno` by name.
macro_rules! call {
    ($number:expr $(, $argument:expr)* $(,)?) => {{
        let result = libc::syscall($number $(, $argument)*);
        if result < 0 { Err(*libc::__errno_location()) } else { Ok(result) }
    }};
}

/// Takes the steps of [`Step`] in their order, then becomes the program. `step` is where it is.
///
/// # Safety
/// Runs in the child of a CLONE_VM | CLONE_VFORK clone: async-signal-safe calls only.
unsafe fn become_program(
    plan: &mut Plan,
    step: &mut Step,
) -> Result<std::convert::Infallible, i32> {
    // SAFETY: for the whole block, raw calls over numbers and pointers that the parent prepared and keeps
    // alive; slots below `count` are initialised; no memory is allocated.
    unsafe {
        // Park every source above all final numbers, so that filling one cannot destroy another.
        let image = call!(libc::SYS_fcntl, plan.image, libc::F_DUPFD_CLOEXEC, PARKING)?;
        for source in plan.sources.iter_mut().take(plan.count) {
            *source = call!(libc::SYS_fcntl, *source, libc::F_DUPFD_CLOEXEC, PARKING)? as RawFd;
        }
        for space in plan.namespaces.iter_mut().take(plan.namespaces_count) {
            *space = call!(libc::SYS_fcntl, *space, libc::F_DUPFD_CLOEXEC, PARKING)? as RawFd;
        }
        for (target, source) in plan.sources.iter().take(plan.count).enumerate() {
            call!(libc::SYS_dup3, *source, target as RawFd, 0)?;
        }
        // Whatever the parent forgot to mark: nothing above the passed ones lives past exec.
        let first_unwanted = FIRST_PASSED as usize + plan.count - 3;
        call!(
            libc::SYS_close_range,
            first_unwanted,
            u32::MAX,
            libc::CLOSE_RANGE_CLOEXEC
        )?;
        *step = Step::Session;
        call!(libc::SYS_setsid)?;
        if plan.controlling_terminal {
            // A line that is somebody else's terminal still serves for reading and writing.
            let _ = call!(libc::SYS_ioctl, 0, libc::TIOCSCTTY, 1);
        }
        *step = Step::Signals;
        prepare_signals(plan)?;
        *step = Step::Limits;
        set_limits(plan)?;
        *step = Step::Namespaces;
        for space in plan.namespaces.iter().take(plan.namespaces_count) {
            call!(libc::SYS_setns, *space, 0)?;
        }
        *step = Step::BoundingSet;
        if let Some(dropped) = plan.dropped {
            for bit in (0..=HIGHEST).filter(|bit| dropped & (1 << bit) != 0) {
                match call!(libc::SYS_prctl, libc::PR_CAPBSET_DROP, bit, 0, 0, 0) {
                    // This kernel has no more of them.
                    Err(libc::EINVAL) => break,
                    other => other?,
                };
            }
        }
        *step = Step::Identity;
        if plan.kept.is_some() {
            call!(libc::SYS_prctl, libc::PR_SET_KEEPCAPS, 1, 0, 0, 0)?;
        }
        if let Some(uid) = plan.identity {
            call!(libc::SYS_setgroups, 0, 0usize)?;
            call!(libc::SYS_setresgid, uid, uid, uid)?;
            call!(libc::SYS_setresuid, uid, uid, uid)?;
        }
        if let Some(kept) = plan.kept {
            keep(kept, step)?;
        }
        *step = Step::NoNewPrivileges;
        if plan.no_new_privileges {
            call!(libc::SYS_prctl, libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)?;
        }
        *step = Step::Exec;
        for place in plan.pids {
            if !place.is_null() {
                let pid = call!(libc::SYS_getpid)?;
                write_decimal(place, pid as u64);
            }
        }
        call!(
            libc::SYS_execveat,
            image,
            c"".as_ptr(),
            plan.argv,
            plan.env,
            libc::AT_EMPTY_PATH
        )?;
    }
    Err(libc::EINVAL)
}

/// Default dispositions, no blocked signal, a closed umask.
///
/// # Safety
/// As [`become_program`].
unsafe fn prepare_signals(plan: &Plan) -> Result<(), i32> {
    // SAFETY: as in `become_program`; the two masks are live locals.
    unsafe {
        // Rust ignores SIGPIPE, and what is ignored stays so over exec: give the program the default.
        // All zeroes is SIG_DFL in the kernel's sigaction of every architecture (at most 32 bytes).
        let default = [0u64; 4];
        call!(
            libc::SYS_rt_sigaction,
            libc::SIGPIPE,
            default.as_ptr(),
            0usize,
            size_of::<u64>()
        )?;
        let none: u64 = 0;
        call!(
            libc::SYS_rt_sigprocmask,
            libc::SIG_SETMASK,
            &raw const none,
            0usize,
            size_of::<u64>()
        )?;
        call!(libc::SYS_umask, 0o077)?;
        if plan.dies_with_parent {
            call!(
                libc::SYS_prctl,
                libc::PR_SET_PDEATHSIG,
                libc::SIGKILL,
                0,
                0,
                0
            )?;
        }
    }
    Ok(())
}

/// rlimits, and the place in the queue of those who die when memory runs out.
///
/// # Safety
/// As [`become_program`].
unsafe fn set_limits(plan: &Plan) -> Result<(), i32> {
    // SAFETY: as in `become_program`; `limits` points to `limits_count` pairs, the text to its length.
    unsafe {
        for i in 0..plan.limits_count {
            let (resource, most) = *plan.limits.add(i);
            let limit = libc::rlimit64 {
                rlim_cur: most,
                rlim_max: most,
            };
            call!(libc::SYS_prlimit64, 0, resource, &raw const limit, 0usize)?;
        }
        let (text, bytes) = plan.oom_score_adj;
        if !text.is_null() {
            // The parent's /proc: the cell is not entered yet.
            let path = c"/proc/self/oom_score_adj".as_ptr();
            let how = libc::O_WRONLY | libc::O_CLOEXEC;
            let file = call!(libc::SYS_openat, libc::AT_FDCWD, path, how, 0)?;
            call!(libc::SYS_write, file, text, bytes)?;
            call!(libc::SYS_close, file)?;
        }
    }
    Ok(())
}

/// SECBIT_NOROOT, SECBIT_NO_SETUID_FIXUP as it is, SECBIT_KEEP_CAPS off, SECBIT_NO_CAP_AMBIENT_RAISE,
/// each with its lock (linux/securebits.h): uid 0 means nothing, nothing is kept or raised any more.
const SECUREBITS: u64 = 0b1110_1011;

/// Keeps these capabilities over the exec (permitted, inheritable, ambient) and no others, for good.
///
/// # Safety
/// As [`become_program`].
unsafe fn keep(kept: u64, step: &mut Step) -> Result<(), i32> {
    let locks = kept | 1 << crate::capability::Capability::SetPcap as u32;
    // SAFETY: as in `become_program`.
    unsafe {
        *step = Step::Capabilities;
        set_capabilities(locks, kept)?;
        for bit in (0..=HIGHEST).filter(|bit| kept & (1 << bit) != 0) {
            call!(
                libc::SYS_prctl,
                libc::PR_CAP_AMBIENT,
                libc::PR_CAP_AMBIENT_RAISE,
                bit,
                0,
                0
            )?;
        }
        *step = Step::SecureBits;
        call!(
            libc::SYS_prctl,
            libc::PR_SET_SECUREBITS,
            SECUREBITS,
            0,
            0,
            0
        )?;
        *step = Step::Capabilities;
        set_capabilities(kept, kept)
    }
}

/// Sets effective and permitted, and inheritable.
///
/// # Safety
/// As [`become_program`].
unsafe fn set_capabilities(own: u64, inheritable: u64) -> Result<(), i32> {
    // struct __user_cap_header_struct, version 3, and two of __user_cap_data_struct: low and high halves.
    let header: [u32; 2] = [VERSION_3, 0];
    let half = |bits: u64| (bits as u32, (bits >> 32) as u32);
    let ((low, high), (low_inherited, high_inherited)) = (half(own), half(inheritable));
    let data: [u32; 6] = [low, low, low_inherited, high, high, high_inherited];
    // SAFETY: both arrays live over the call and have the layout that capset(2) reads.
    unsafe { call!(libc::SYS_capset, header.as_ptr(), data.as_ptr())? };
    Ok(())
}

/// Writes `value` in decimal and a NUL; `at` has room for ten digits and a NUL.
///
/// # Safety
/// `at` points to at least 11 writable bytes.
unsafe fn write_decimal(at: *mut u8, value: u64) {
    let mut digits = [0u8; 10];
    let (mut rest, mut n) = (value, 0);
    while n < digits.len() {
        digits[n] = b'0' + (rest % 10) as u8;
        rest /= 10;
        n += 1;
        if rest == 0 {
            break;
        }
    }
    for i in 0..n {
        // SAFETY: i < n <= 10, inside what the caller owes.
        unsafe { at.add(i).write(digits[n - 1 - i]) };
    }
    // SAFETY: n <= 10, the eleventh byte is there.
    unsafe { at.add(n).write(0) };
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::io::Read;
    use std::os::fd::AsFd;

    /// Runs `/bin/sh -c script` with the write end of a pipe as stdout; answers what it wrote.
    fn shell(script: &str, passed: &[(&str, BorrowedFd<'_>)]) -> String {
        let names: Vec<&str> = passed.iter().map(|(n, _)| *n).collect();
        let fds: Vec<BorrowedFd<'_>> = passed.iter().map(|(_, fd)| *fd).collect();
        let sh = File::open("/bin/sh").unwrap();
        let null = File::options()
            .read(true)
            .write(true)
            .open("/dev/null")
            .unwrap();
        let (mut read, write) = std::io::pipe().unwrap();
        let spawn =
            Spawn::new(&["sh", "-c", script], &[("PATH", "/bin:/usr/bin")], &names).unwrap();
        let child = spawn
            .start(&Descriptors {
                image: sh.as_fd(),
                stdio: [null.as_fd(), write.as_fd(), write.as_fd()],
                passed: &fds,
                cgroup: None,
                namespaces: &[],
            })
            .unwrap();
        drop(write);
        let mut text = String::new();
        read.read_to_string(&mut text).unwrap();
        let status = crate::process::wait_for(child.pid).unwrap();
        assert_eq!(status, crate::process::Exit::Code(0), "{text}");
        text
    }

    #[test]
    fn the_child_finds_its_descriptors_and_nothing_else() {
        let memory = crate::memfd::sealed("note", b"passed on").unwrap();
        let text = shell(
            "echo $LISTEN_FDS $LISTEN_FDNAMES; [ $LISTEN_PID = $$ ] && echo mine; cat <&3; echo; ls /proc/$$/fd",
            &[("note", memory.as_fd())],
        );
        assert_eq!(text, "1 note\nmine\npassed on\n0\n1\n2\n3\n");
    }

    #[test]
    fn the_child_blocks_no_signal_and_dies_of_a_broken_pipe() {
        let text = shell("grep -E '^Sig(Blk|Ign)' /proc/self/status", &[]);
        let masks: Vec<u64> = text
            .lines()
            .filter_map(|l| u64::from_str_radix(l.split_whitespace().nth(1)?, 16).ok())
            .collect();
        assert_eq!(masks.first(), Some(&0), "{text}");
        let broken_pipe = 1 << (libc::SIGPIPE - 1);
        assert_eq!(
            masks.get(1).map(|ignored| ignored & broken_pipe),
            Some(0),
            "{text}"
        );
    }

    #[test]
    fn a_missing_program_is_an_error_and_leaves_no_zombie() {
        let folder = File::open("/").unwrap();
        let spawn = Spawn::new(&["x"], &[], &[]).unwrap();
        let null = File::open("/dev/null").unwrap();
        let fds = Descriptors {
            image: folder.as_fd(),
            stdio: [null.as_fd(), null.as_fd(), null.as_fd()],
            passed: &[],
            cgroup: None,
            namespaces: &[],
        };
        let error = spawn.start(&fds).unwrap_err();
        assert!(error.to_string().starts_with("execveat: "), "{error}");
    }

    #[test]
    fn five_hundred_children_start_and_are_reaped() {
        for _ in 0..500 {
            assert_eq!(shell("echo x", &[]), "x\n");
        }
    }
}
