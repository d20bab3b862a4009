//! Clocks, in nanoseconds.

/// Since the machine started, never back (CLOCK_MONOTONIC).
#[must_use]
pub fn monotonic_ns() -> u64 {
    read(libc::CLOCK_MONOTONIC)
}

/// How long the machine was suspended: what CLOCK_BOOTTIME is ahead of [`monotonic_ns`].
#[must_use]
pub fn suspended_ns() -> u64 {
    let monotonic = monotonic_ns();
    read(libc::CLOCK_BOOTTIME).saturating_sub(monotonic)
}

/// CPU time of the calling thread.
#[must_use]
pub fn thread_cpu_ns() -> u64 {
    read(libc::CLOCK_THREAD_CPUTIME_ID)
}

/// Since 1970 in UTC; may jump.
#[must_use]
pub fn wall_ns() -> u64 {
    read(libc::CLOCK_REALTIME)
}

/// Sets the wall clock.
///
/// # Errors
/// As `clock_settime(2)`.
pub fn set_wall_ns(ns: u64) -> std::io::Result<()> {
    let time = libc::timespec {
        tv_sec: i64::try_from(ns / 1_000_000_000).unwrap_or(i64::MAX),
        tv_nsec: i64::try_from(ns % 1_000_000_000).unwrap_or(0),
    };
    // SAFETY: `time` is a live, initialised timespec.
    if unsafe { libc::clock_settime(libc::CLOCK_REALTIME, &raw const time) } < 0 {
        return Err(std::io::Error::last_os_error());
    }
    Ok(())
}

/// Lets the wall clock run a little faster or slower until it has made up `offset_ns`. A repeated
/// call replaces what is left of the one before.
///
/// # Errors
/// As `adjtimex(2)`.
pub fn slew_ns(offset_ns: i64) -> std::io::Result<()> {
    // SAFETY: all zeroes is a valid timex.
    let mut adjust: libc::timex = unsafe { std::mem::zeroed() };
    // adjtime(3)'s way: 500 parts in a million, without the kernel's own phase loop.
    adjust.modes = libc::ADJ_OFFSET_SINGLESHOT;
    adjust.offset = offset_ns / 1_000;
    // SAFETY: `adjust` is a live, initialised timex.
    if unsafe { libc::adjtimex(&raw mut adjust) } < 0 {
        return Err(std::io::Error::last_os_error());
    }
    Ok(())
}

fn read(clock: libc::clockid_t) -> u64 {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: `time` is a live out-pointer; these clocks exist on every Linux, so it cannot fail.
    unsafe { libc::clock_gettime(clock, &raw mut time) };
    time.tv_sec.unsigned_abs() * 1_000_000_000 + time.tv_nsec.unsigned_abs()
}
