//! Becoming another program while staying the same process: PID 1 and its successor.
//!
//! What is handed over lies at fixed descriptor numbers, since nothing else survives exec for sure and the
//! kernel puts words of its command line into argv and the environment: at [`RECORD`] a sealed memory file that
//! says what the others are, behind it those. What the record says is its writer's business.
//! What a running PID 1 keeps in a memory file of its own may go along with the descriptors that it lists there:
//! those keep their numbers ([`Along`]).
//! Start with [`become_successor`] and [`take`]; [`arm`] prepares the same for a crash.

use memmap2::{MmapMut, MmapOptions, MmapRaw};
use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use std::ffi::{CString, c_char, c_int};
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::fs::FileExt;
use std::ptr::null_mut;
use std::sync::Once;
use std::sync::atomic::{AtomicPtr, Ordering};
use std::time::Duration;

/// Number of the record: above every number that PID 1 itself gets (the kernel gives the lowest first), and
/// below 1,024, the soft limit with which it is started.
pub const RECORD: RawFd = 512;
/// Number of the memory file that goes along.
pub const STATE: RawFd = RECORD - 1;
/// Descriptors that can be handed over beside the record.
pub const DESCRIPTORS_MAX: usize = 64;

/// What a predecessor left.
#[derive(Debug)]
pub struct Taken {
    /// Sealed.
    pub record: File,
    /// In the order of their numbers.
    pub descriptors: Vec<OwnedFd>,
    /// What lay at [`STATE`], whatever it is.
    pub state: Option<OwnedFd>,
}

/// A memory file that goes along, and where in it the numbers of the descriptors stand that do so too. Each row
/// has a `u16` that is 0 where the row is free, and an `i32`, the number.
#[derive(Debug, Clone, Copy)]
pub struct Along<'a> {
    /// The memory file; its size is sealed.
    pub state: BorrowedFd<'a>,
    /// Where it says, as `u32`, how many rows were ever in use.
    pub used_at: usize,
    /// The first row.
    pub rows_at: usize,
    /// Rows at most.
    pub rows: usize,
    /// Of one row.
    pub row_bytes: usize,
    /// In a row.
    pub kind_at: usize,
    /// In a row.
    pub number_at: usize,
}

impl Along<'_> {
    fn end(&self) -> usize {
        self.rows_at + self.rows * self.row_bytes
    }
}

/// The table of an [`Along`], readable without a lock and without allocating.
struct Table {
    map: MmapRaw,
    used_at: usize,
    rows_at: usize,
    rows: usize,
    row_bytes: usize,
    kind_at: usize,
    number_at: usize,
}

impl Table {
    fn new(along: &Along<'_>) -> io::Result<Self> {
        let end = along.end();
        // A table that could be cut off would be a SIGBUS in the handler of a crash.
        let seals = SealFlag::from_bits_truncate(fcntl(along.state, FcntlArg::F_GET_SEALS)?);
        if !seals.contains(SealFlag::F_SEAL_SHRINK)
            || crate::mapping::byte_length(&along.state)? < end as u64
        {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let map = MmapOptions::new()
            .len(end)
            .map_raw_read_only(along.state.as_raw_fd())?;
        Ok(Self {
            map,
            used_at: along.used_at,
            rows_at: along.rows_at,
            rows: along.rows,
            row_bytes: along.row_bytes,
            kind_at: along.kind_at,
            number_at: along.number_at,
        })
    }

    /// The numbers that are listed. Async-signal-safe.
    fn numbers(&self) -> impl Iterator<Item = RawFd> {
        let used = u32::from_le_bytes(self.read(self.used_at)) as usize;
        (0..used.min(self.rows)).filter_map(|row| {
            let at = self.rows_at + row * self.row_bytes;
            let kind = u16::from_le_bytes(self.read(at + self.kind_at));
            (kind != 0).then(|| RawFd::from_le_bytes(self.read(at + self.number_at)))
        })
    }

    fn read<const N: usize>(&self, at: usize) -> [u8; N] {
        let mut bytes = [0; N];
        if at + N <= self.map.len() {
            for (i, byte) in bytes.iter_mut().enumerate() {
                // SAFETY: inside the mapping, which lives as long as self and cannot lose pages (its size is
                // sealed); its writer is this very thread, which is here instead.
                *byte = unsafe { self.map.as_ptr().add(at + i).read_volatile() };
            }
        }
        bytes
    }
}

/// Leaves a descriptor open over an exec, or not. One that is closed stays so. Async-signal-safe.
fn set_kept(number: RawFd, kept: bool) {
    let flag = if kept { 0 } else { libc::FD_CLOEXEC };
    // SAFETY: F_SETFD takes numbers only; a closed one is an error.
    unsafe { libc::fcntl(number, libc::F_SETFD, flag) };
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
            state: own(STATE),
        });
    });
    taken
}

/// Takes a descriptor that was listed as going along, by its number; `None` if it is not open.
/// A number is to be taken once, before any other descriptor is opened.
#[must_use]
pub fn take_along(number: RawFd) -> Option<OwnedFd> {
    // The first three are nobody's own.
    if number < 3 {
        return None;
    }
    // SAFETY: F_GETFD takes numbers only; a closed one is an error. One that has close-on-exec came with no exec:
    // it has an owner already.
    if unsafe { libc::fcntl(number, libc::F_GETFD) } != 0 {
        return None;
    }
    set_kept(number, false);
    // SAFETY: open, and until now without close-on-exec, which everything that this program opens has: so nobody
    // owns it, and from now on a second call finds it marked.
    Some(unsafe { OwnedFd::from_raw_fd(number) })
}

/// Copies of descriptors at the fixed numbers, close-on-exec until [`Placed::keep`]; closed when dropped.
struct Placed(Vec<OwnedFd>);

impl Placed {
    fn new(
        record: BorrowedFd<'_>,
        descriptors: &[BorrowedFd<'_>],
        state: Option<BorrowedFd<'_>>,
    ) -> io::Result<Self> {
        if descriptors.len() > DESCRIPTORS_MAX {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let mut placed = Self(Vec::with_capacity(descriptors.len() + 2));
        let all = (RECORD..).zip([&record].into_iter().chain(descriptors));
        for (number, fd) in all.chain(state.as_ref().map(|state| (STATE, state))) {
            // The lowest free number from here on: another one than wanted means that it is in use.
            let copy = fcntl(fd, FcntlArg::F_DUPFD_CLOEXEC(number))?;
            // SAFETY: fcntl(2) has just made it, and nobody else knows it.
            let copy = unsafe { OwnedFd::from_raw_fd(copy) };
            if copy.as_raw_fd() != number {
                return Err(io::Error::other(format!("descriptor {number} is in use")));
            }
            placed.0.push(copy);
        }
        Ok(placed)
    }

    /// Leaves them open over an exec, or not. Async-signal-safe.
    fn keep(&self, kept: bool) {
        self.0.iter().for_each(|fd| set_kept(fd.as_raw_fd(), kept));
    }
}

/// Becomes the program behind `image`, which finds `record` and `descriptors` with [`take`].
/// Every other descriptor must be close-on-exec. Whatever was armed is disarmed.
///
/// # Errors
/// A number that is in use, or as `execveat(2)`; returns only then, with nothing else changed.
pub fn become_successor(
    image: BorrowedFd<'_>,
    words: &[String],
    env: &[String],
    record: BorrowedFd<'_>,
    descriptors: &[BorrowedFd<'_>],
    along: Option<&Along<'_>>,
) -> io::Error {
    disarm();
    let placed = match Placed::new(record, descriptors, along.map(|a| a.state)) {
        Ok(placed) => placed,
        Err(e) => return e,
    };
    let table = match along.map(Table::new).transpose() {
        Ok(table) => table,
        Err(e) => return e,
    };
    let keep = |kept| {
        placed.keep(kept);
        let numbers = table.iter().flat_map(Table::numbers);
        numbers.for_each(|number| set_kept(number, kept));
    };
    keep(true);
    // An alarm outlives exec, its handler does not. If there is no exec, the next beat sets it again.
    let _ = set_alarm(Duration::ZERO);
    // Root's exec takes up what its bounding set still holds, unless its root and folder are shared with
    // another process (LSM_UNSAFE_SHARE); the kernel's own threads share those of PID 1.
    // SAFETY: a number; without the power to do it nothing was given up either.
    unsafe { libc::unshare(libc::CLONE_FS) };
    let error = crate::process::become_program(image, words, env);
    keep(false);
    error
}

/// What a crash makes of this process.
pub struct Next<'a> {
    /// The program.
    pub image: OwnedFd,
    /// Its words.
    pub words: &'a [String],
    /// Its environment.
    pub env: &'a [String],
    /// Sealed.
    pub record: BorrowedFd<'a>,
    /// Behind the record, in their order.
    pub descriptors: &'a [BorrowedFd<'a>],
    /// A memory file that is best among the descriptors: why it crashed is written there; see [`LastWords`].
    pub last_words: OwnedFd,
    /// What goes along.
    pub along: Option<Along<'a>>,
}

/// Everything that a crash needs, prepared, since a signal handler can neither allocate nor fail politely.
struct Plan {
    pid: u32,
    image: OwnedFd,
    placed: Placed,
    table: Option<Table>,
    last_words: OwnedFd,
    argv: Vec<*const c_char>,
    env: Vec<*const c_char>,
    /// What `argv` and `env` point to.
    _words: Vec<CString>,
    /// Its pages are there only once it is used.
    stack: MmapMut,
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

/// Of it, at its far end, what a [`keeper`] needs: the frames of two system calls.
const KEEPER_STACK_BYTES: usize = 4 * 1024;

/// How long a [`keeper`] keeps: several times what an image needs to begin again, and half a beat.
static KEEPER_REST: libc::timespec = libc::timespec {
    tv_sec: 0,
    tv_nsec: 50_000_000,
};

/// Leaves a child behind that shares memory and descriptors for a moment and ends: so taking the old image apart,
/// two thirds of what an exec costs, is the child's work, and so is what closing one of its descriptors waits for.
/// Without a child the exec does it. `stack` is the end of a stack that nobody else uses.
///
/// # Safety
/// Async-signal-safe. The memory of `stack` must stay until the exec.
unsafe fn keeper(stack: *mut u8) {
    extern "C" fn rest(_: *mut libc::c_void) -> c_int {
        // SAFETY: two system calls, which touch no memory but a constant and this stack.
        unsafe {
            libc::nanosleep(&raw const KEEPER_REST, null_mut());
            libc::syscall(libc::SYS_exit, 0);
        }
        0
    }
    let flags = libc::CLONE_VM | libc::CLONE_FILES | libc::SIGCHLD;
    // SAFETY: the child runs `rest` on a stack of its own. It is reaped as an orphan.
    unsafe { libc::clone(rest, stack.cast(), flags, null_mut()) };
}

/// From now on a crash of this process makes it another program instead, which finds record and descriptors with
/// [`take`] and what goes along with [`take_along`].
///
/// # Errors
/// A number that is in use; as `sigaltstack(2)` and `sigaction(2)`; `AlreadyExists` for a second time.
pub fn arm(next: Next<'_>) -> io::Result<()> {
    if !ARMED.load(Ordering::Acquire).is_null() {
        return Err(io::ErrorKind::AlreadyExists.into());
    }
    let strings = next.words.iter().chain(next.env);
    let strings: Vec<CString> = strings
        .map(|w| CString::new(w.as_str()))
        .collect::<Result<_, _>>()?;
    let pointers = |strings: &[CString]| -> Vec<*const c_char> {
        let each = strings.iter().map(|w| w.as_ptr());
        each.chain([std::ptr::null()]).collect()
    };
    let (words, env) = strings.split_at(next.words.len());
    let mut plan = Box::new(Plan {
        pid: std::process::id(),
        image: next.image,
        placed: Placed::new(
            next.record,
            next.descriptors,
            next.along.as_ref().map(|a| a.state),
        )?,
        table: next.along.as_ref().map(Table::new).transpose()?,
        last_words: next.last_words,
        argv: pointers(words),
        env: pointers(env),
        _words: strings,
        stack: MmapMut::map_anon(STACK_BYTES)?,
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
        action.sa_flags = libc::SA_ONSTACK | libc::SA_NODEFER | libc::SA_SIGINFO;
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

/// Whether a crash makes another program of this process.
#[must_use]
pub fn is_armed() -> bool {
    !ARMED.load(Ordering::Acquire).is_null()
}

/// Crashes in order, as [`arm`] prepared it, leaving these last words. Returns where nothing is armed, and
/// where exec fails.
pub fn fall_back(words: &str) {
    // SAFETY: this process's own plan, taken by swap.
    unsafe { go(words.as_bytes()) };
}

/// Bytes of last words that are kept: one line.
pub const LAST_WORDS_BYTES_MAX: usize = 256;

/// What a crash left.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LastWords {
    /// CLOCK_MONOTONIC; 0 if it left nothing.
    pub at_ns: u64,
    /// As it was written.
    pub text: Vec<u8>,
}

impl LastWords {
    /// Reads them; what cannot be read is only less to read.
    #[must_use]
    pub fn read(file: &File) -> Self {
        let mut bytes = [0; LAST_WORDS_BYTES_MAX + 8];
        let there = file.read_at(&mut bytes, 0).unwrap_or(0);
        let (text, time) = bytes.split_at(LAST_WORDS_BYTES_MAX);
        let end = text.iter().position(|b| *b == 0).unwrap_or(text.len());
        Self {
            at_ns: u64::from_le_bytes(time.try_into().unwrap_or_default()),
            text: text[..end.min(there)].to_vec(),
        }
    }
}

/// Closes what came over an exec and was not taken: everything from 3 on without close-on-exec, up to [`STATE`].
pub fn close_strays() {
    for number in 3..STATE {
        // Its owner is nobody: it is dropped at once.
        drop(take_along(number));
    }
}

/// The last decimal digit.
fn digit(n: c_int) -> u8 {
    b'0' + u8::try_from(n % 10).unwrap_or(0)
}

/// From now on this process takes the way that [`arm`] prepared as if it had crashed, unless this is called again
/// within the time: one that hangs gives way too.
///
/// # Errors
/// As `sigaction(2)` and `setitimer(2)`.
pub fn guard(limit: Duration) -> io::Result<()> {
    // SAFETY: all zeroes is a valid sigaction.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = on_hang as *const () as usize;
    // As for a crash: the program that comes is not to find it blocked.
    action.sa_flags = libc::SA_ONSTACK | libc::SA_NODEFER | libc::SA_SIGINFO;
    // SAFETY: it is live; the handler calls only what is async-signal-safe.
    if unsafe { libc::sigaction(libc::SIGALRM, &raw const action, null_mut()) } < 0 {
        return Err(io::Error::last_os_error());
    }
    set_alarm(limit)
}

/// Ends [`guard`].
///
/// # Errors
/// As `setitimer(2)`.
pub fn unguard() -> io::Result<()> {
    set_alarm(Duration::ZERO)
}

/// One alarm; zero takes back the one that is set. Async-signal-safe.
fn set_alarm(limit: Duration) -> io::Result<()> {
    let time = |left: Duration| libc::timeval {
        tv_sec: libc::time_t::try_from(left.as_secs()).unwrap_or(libc::time_t::MAX),
        tv_usec: libc::suseconds_t::from(left.subsec_micros().cast_signed()),
    };
    let timer = libc::itimerval {
        it_interval: time(Duration::ZERO),
        it_value: time(limit),
    };
    // SAFETY: it is live, and nobody wants to know the one before. By number, as musl's and glibc's types differ.
    let set = unsafe {
        libc::syscall(
            libc::SYS_setitimer,
            libc::ITIMER_REAL,
            &raw const timer,
            null_mut::<libc::itimerval>(),
        )
    };
    if set < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// The last words of a process that [`guard`] ended.
pub const HANG_WORDS: &str = "no beat in time";

extern "C" fn on_hang(signal: c_int, info: *const libc::siginfo_t, _: *mut libc::c_void) {
    // SAFETY: async-signal-safe throughout. Where nothing is armed the alarm has come too late, and says nothing.
    unsafe {
        if is_left_to_main(signal, info) {
            return;
        }
        go(HANG_WORDS.as_bytes());
    }
}

extern "C" fn on_crash(signal: c_int, info: *const libc::siginfo_t, _: *mut libc::c_void) {
    // Without a formatter.
    let mut words = *b"signal 00";
    let [.., tens, ones] = &mut words;
    (*tens, *ones) = (digit(signal / 10), digit(signal));
    // SAFETY: async-signal-safe throughout.
    unsafe {
        if is_left_to_main(signal, info) {
            return;
        }
        go(&words);
        // Nothing is armed, or exec failed: as if there were no handler. The fault comes again on return;
        // a signal that was sent does not, so it is sent again.
        libc::signal(signal, libc::SIG_DFL);
        libc::raise(signal);
    }
}

/// Whether this is another thread than the main one, which the signal is passed to then. The exec is the main
/// thread's alone: a thread may have a table of descriptors of its own, which would be what goes along, and the
/// end of the main thread is the end of a parent to those who die with theirs.
///
/// # Safety
/// Async-signal-safe. `info` is what the kernel gave the handler.
unsafe fn is_left_to_main(signal: c_int, info: *const libc::siginfo_t) -> bool {
    // SAFETY: system calls over numbers; a signal that was sent says by whom.
    unsafe {
        let (pid, tid) = (libc::getpid(), libc::syscall(libc::SYS_gettid));
        if tid == libc::c_long::from(pid) {
            return false;
        }
        libc::syscall(libc::SYS_tgkill, pid, pid, signal);
        // Codes above 0 are the kernel's: a fault, which would come again, or an alarm.
        let faulted = (*info).si_code > 0 && signal != libc::SIGALRM;
        let aborted = (*info).si_code <= 0 && (*info).si_pid() == pid;
        if faulted || aborted {
            loop {
                // The exec ends this thread.
                libc::pause();
            }
        }
        true
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
        let mut now: libc::timespec = std::mem::zeroed();
        libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut now);
        let ns = now.tv_sec.unsigned_abs() * 1_000_000_000 + now.tv_nsec.unsigned_abs();
        let last = plan.last_words.as_raw_fd();
        let _ = libc::pwrite(
            last,
            words.as_ptr().cast(),
            words.len().min(LAST_WORDS_BYTES_MAX),
            0,
        );
        let _ = libc::pwrite(
            last,
            ns.to_le_bytes().as_ptr().cast(),
            8,
            LAST_WORDS_BYTES_MAX as libc::off_t,
        );
        // An alarm outlives exec, its handler does not.
        let _ = set_alarm(Duration::ZERO);
        plan.placed.keep(true);
        if let Some(table) = &plan.table {
            table.numbers().for_each(|number| set_kept(number, true));
        }
        keeper(plan.stack.as_ptr().cast_mut().add(KEEPER_STACK_BYTES));
        // Signals stay blocked as they are: what comes meanwhile waits for the successor. Those of a crash are not
        // among them (SA_NODEFER).
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
