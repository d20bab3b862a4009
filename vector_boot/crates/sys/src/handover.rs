//! Becoming another program while staying the same process: PID 1 and its successor.
//!
//! What is handed over lies at fixed descriptor numbers, since nothing else survives exec for sure and the
//! kernel puts words of its command line into argv and the environment: at [`RECORD`] a sealed memory file that
//! says what the others are, behind it those. What the record says is its writer's business.
//! Start with [`become_successor`] and [`take`]; [`arm`] prepares the same for a crash.

use nix::fcntl::{FcntlArg, FdFlag, SealFlag, fcntl};
use std::ffi::{CString, c_char, c_int};
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::ptr::null_mut;
use std::sync::Once;
use std::sync::atomic::{AtomicPtr, Ordering};

/// Number of the record: above every number that PID 1 itself gets (the kernel gives the lowest first), and
/// below 1,024, the soft limit with which it is started.
pub const RECORD: RawFd = 512;
/// Descriptors that can be handed over beside the record.
pub const DESCRIPTORS_MAX: usize = 64;

/// What a predecessor left.
#[derive(Debug)]
pub struct Taken {
    /// Sealed.
    pub record: File,
    /// In the order of their numbers.
    pub descriptors: Vec<OwnedFd>,
}

/// Whether a sealed memory file lies at [`RECORD`].
#[must_use]
pub fn is_there() -> bool {
    // SAFETY: fcntl(2) takes numbers only; a closed one is an error.
    let seals = unsafe { libc::fcntl(RECORD, libc::F_GET_SEALS) };
    seals >= 0
        && SealFlag::from_bits_truncate(seals).contains(
            SealFlag::F_SEAL_SEAL
                | SealFlag::F_SEAL_SHRINK
                | SealFlag::F_SEAL_GROW
                | SealFlag::F_SEAL_WRITE,
        )
}

/// Takes what a predecessor left, once; `None` if nobody did.
#[must_use]
pub fn take() -> Option<Taken> {
    static TAKEN: Once = Once::new();
    let mut taken = None;
    TAKEN.call_once(|| {
        if !is_there() {
            return;
        }
        let own = |number: RawFd| -> Option<OwnedFd> {
            // SAFETY: F_SETFD takes numbers only; a closed one is an error.
            let open = unsafe { libc::fcntl(number, libc::F_SETFD, libc::FD_CLOEXEC) } == 0;
            // SAFETY: the descriptor is open, and nobody else owns it: it was handed over to this program by
            // number, this runs once, and numbers this high are not given out before.
            let there = open.then(|| unsafe { OwnedFd::from_raw_fd(number) })?;
            // On a number of its own: these are to be free for the next handover.
            there.try_clone().ok()
        };
        let last = RECORD + DESCRIPTORS_MAX as RawFd;
        taken = own(RECORD).map(|record| Taken {
            record: record.into(),
            descriptors: (RECORD + 1..=last).map_while(own).collect(),
        });
    });
    taken
}

/// Copies of descriptors at the fixed numbers, open over an exec; closed again when dropped.
struct Placed(Vec<OwnedFd>);

impl Placed {
    fn new(record: BorrowedFd<'_>, descriptors: &[BorrowedFd<'_>]) -> io::Result<Self> {
        if descriptors.len() > DESCRIPTORS_MAX {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let mut placed = Self(Vec::with_capacity(descriptors.len() + 1));
        for (number, fd) in (RECORD..).zip([&record].into_iter().chain(descriptors)) {
            // The lowest free number from here on: another one than wanted means that it is in use.
            let copy = fcntl(fd, FcntlArg::F_DUPFD_CLOEXEC(number))?;
            // SAFETY: fcntl(2) has just made it, and nobody else knows it.
            let copy = unsafe { OwnedFd::from_raw_fd(copy) };
            if copy.as_raw_fd() != number {
                return Err(io::Error::other(format!("descriptor {number} is in use")));
            }
            fcntl(&copy, FcntlArg::F_SETFD(FdFlag::empty()))?;
            placed.0.push(copy);
        }
        Ok(placed)
    }
}

/// Becomes the program behind `image`, which finds `record` and `descriptors` with [`take`].
/// Every other descriptor must be close-on-exec.
///
/// # Errors
/// A number that is in use, or as `execveat(2)`; returns only then, with nothing changed.
pub fn become_successor(
    image: BorrowedFd<'_>,
    words: &[String],
    record: BorrowedFd<'_>,
    descriptors: &[BorrowedFd<'_>],
) -> io::Error {
    match Placed::new(record, descriptors) {
        Ok(_placed) => crate::process::become_program(image, words, &[]),
        Err(e) => e,
    }
}

/// Everything that a crash needs, prepared, since a signal handler can neither allocate nor fail politely.
struct Plan {
    pid: u32,
    image: OwnedFd,
    /// The record, the descriptors.
    sources: Vec<OwnedFd>,
    /// A memory file.
    last_words: OwnedFd,
    argv: Vec<*const c_char>,
    env: [*const c_char; 1],
    /// What `argv` points to.
    _words: Vec<CString>,
    stack: Vec<u8>,
    before: Vec<(c_int, libc::sigaction)>,
}

static ARMED: AtomicPtr<Plan> = AtomicPtr::new(null_mut());

/// Signals of a program that cannot go on.
const CRASHES: [c_int; 5] = [
    libc::SIGSEGV,
    libc::SIGBUS,
    libc::SIGILL,
    libc::SIGFPE,
    libc::SIGABRT,
];
/// The handler's own stack: that of the program may be what overflowed. Four times what the kernel's frame
/// takes with the widest registers (AT_MINSIGSTKSZ is about 11 KiB with AMX).
const STACK_BYTES: usize = 48 * 1024;

/// From now on a crash of this process makes it the program behind `image` instead, which finds `record` and
/// `descriptors` with [`take`]. Why it crashed is written to `last_words`, a memory file that is best among them.
///
/// # Errors
/// As `sigaltstack(2)` and `sigaction(2)`; `AlreadyExists` for a second time.
pub fn arm(
    image: OwnedFd,
    words: &[String],
    record: OwnedFd,
    descriptors: Vec<OwnedFd>,
    last_words: OwnedFd,
) -> io::Result<()> {
    if !ARMED.load(Ordering::Acquire).is_null() {
        return Err(io::ErrorKind::AlreadyExists.into());
    }
    if descriptors.len() > DESCRIPTORS_MAX {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let words: Vec<CString> = words
        .iter()
        .map(|w| CString::new(w.as_str()))
        .collect::<Result<_, _>>()?;
    let argv = words.iter().map(|w| w.as_ptr());
    let mut sources = vec![record];
    sources.extend(descriptors);
    let mut plan = Box::new(Plan {
        pid: std::process::id(),
        image,
        sources,
        last_words,
        argv: argv.chain([std::ptr::null()]).collect(),
        env: [std::ptr::null()],
        _words: words,
        stack: vec![0; STACK_BYTES],
        before: Vec::with_capacity(CRASHES.len()),
    });
    let stack = libc::stack_t {
        ss_sp: plan.stack.as_mut_ptr().cast(),
        ss_flags: 0,
        ss_size: plan.stack.len(),
    };
    // SAFETY: the stack belongs to the plan, which lives until `disarm`, where it is given up first.
    if unsafe { libc::sigaltstack(&raw const stack, null_mut()) } < 0 {
        return Err(io::Error::last_os_error());
    }
    for signal in CRASHES {
        // SAFETY: all zeroes is a valid sigaction.
        let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
        action.sa_sigaction = on_crash as *const () as usize;
        action.sa_flags = libc::SA_ONSTACK | libc::SA_NODEFER;
        // SAFETY: as above.
        let mut before: libc::sigaction = unsafe { std::mem::zeroed() };
        // SAFETY: both are live; the handler calls only what is async-signal-safe.
        if unsafe { libc::sigaction(signal, &raw const action, &raw mut before) } < 0 {
            let error = io::Error::last_os_error();
            stand_down(&plan);
            return Err(error);
        }
        plan.before.push((signal, before));
    }
    ARMED.store(Box::into_raw(plan), Ordering::Release);
    Ok(())
}

/// Ends [`arm`]: a crash is again what it was before.
pub fn disarm() {
    let plan = ARMED.swap(null_mut(), Ordering::AcqRel);
    if !plan.is_null() {
        // SAFETY: `arm` made it from a box, and the swap above made us its only owner.
        let plan = unsafe { Box::from_raw(plan) };
        stand_down(&plan);
    }
}

/// Puts the handlers back and gives up the stack, so that the plan can go.
fn stand_down(plan: &Plan) {
    for (signal, before) in &plan.before {
        // SAFETY: `before` is what sigaction(2) gave.
        unsafe { libc::sigaction(*signal, before, null_mut()) };
    }
    let off = libc::stack_t {
        ss_sp: null_mut(),
        ss_flags: libc::SS_DISABLE,
        ss_size: 0,
    };
    // SAFETY: no handler that uses the stack is left, and none is running: this is the only thread.
    unsafe { libc::sigaltstack(&raw const off, null_mut()) };
}

/// Crashes in order, as [`arm`] prepared it, leaving these last words. Returns where nothing is armed, and
/// where exec fails.
pub fn fall_back(words: &str) {
    // SAFETY: this process's own plan, taken by swap.
    unsafe { go(words.as_bytes()) };
}

/// The last decimal digit.
fn digit(n: c_int) -> u8 {
    b'0' + u8::try_from(n % 10).unwrap_or(0)
}

extern "C" fn on_crash(signal: c_int) {
    // Without a formatter.
    let mut words = *b"signal 00";
    let [.., tens, ones] = &mut words;
    (*tens, *ones) = (digit(signal / 10), digit(signal));
    // SAFETY: async-signal-safe throughout.
    unsafe {
        go(&words);
        // Nothing is armed, or exec failed: as if there were no handler. The fault comes again on return;
        // a signal that was sent does not, so it is sent again.
        libc::signal(signal, libc::SIG_DFL);
        libc::raise(signal);
    }
}

/// Writes the last words and becomes the successor.
///
/// # Safety
/// Only calls that are async-signal-safe, since [`on_crash`] comes here.
unsafe fn go(words: &[u8]) {
    let plan = ARMED.swap(null_mut(), Ordering::AcqRel);
    // SAFETY: `arm` made it; whoever swapped it out alone has it, and it is never freed from here on.
    let Some(plan) = (unsafe { plan.as_ref() }) else {
        return;
    };
    // SAFETY: raw calls over numbers and prepared pointers that the plan keeps alive.
    unsafe {
        // A child between clone and exec shares our memory, but is not us.
        if libc::getpid().cast_unsigned() != plan.pid {
            return;
        }
        // What cannot be written is only less to read.
        let _ = libc::pwrite(
            plan.last_words.as_raw_fd(),
            words.as_ptr().cast(),
            words.len(),
            0,
        );
        for (number, source) in (RECORD..).zip(&plan.sources) {
            if libc::dup3(source.as_raw_fd(), number, 0) < 0 {
                return;
            }
        }
        // What is blocked here would stay blocked in the successor.
        let mut none: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut none);
        libc::sigprocmask(libc::SIG_SETMASK, &raw const none, null_mut());
        // Root's exec takes up what its bounding set still holds, unless its root and folder are shared with
        // another process (LSM_UNSAFE_SHARE); the kernel's own threads share those of PID 1.
        libc::unshare(libc::CLONE_FS);
        libc::syscall(
            libc::SYS_execveat,
            plan.image.as_raw_fd(),
            c"".as_ptr(),
            plan.argv.as_ptr(),
            plan.env.as_ptr(),
            libc::AT_EMPTY_PATH,
        );
        let errno = *libc::__errno_location();
        let mut failed = *b"vector_boot: execute the successor: error 000\r\n";
        let [.., hundreds, tens, ones, _, _] = &mut failed;
        (*hundreds, *tens, *ones) = (digit(errno / 100), digit(errno / 10), digit(errno));
        // Nobody to tell is as well.
        let _ = libc::write(2, failed.as_ptr().cast(), failed.len());
    }
}
