//! The clocks and the random source, in one place.

use std::time::SystemTime;

/// Nanoseconds since 1970 in UTC; 0 before that.
#[must_use]
pub fn wall_ns() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    since.map_or(0, |d| u64::try_from(d.as_nanos()).unwrap_or(u64::MAX))
}

/// Nanoseconds of CLOCK_MONOTONIC.
#[must_use]
pub fn monotonic_ns() -> u64 {
    sys::clock::monotonic_ns()
}

/// Random bytes.
///
/// # Panics
/// If the kernel has no randomness: nothing that follows could be trusted.
#[must_use]
pub fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    sys::random::fill(&mut bytes).expect("getrandom(2) cannot fail once the kernel is up");
    bytes
}

/// Random bytes from the kernel, some at a time: a system call for each event's ten would be half a
/// microsecond.
#[derive(Default)]
pub struct Random {
    bytes: Vec<u8>,
}

/// Bytes that [`Random`] asks for at once.
const RANDOM_BYTES: usize = 1024;

impl Random {
    /// Bytes that were never handed out.
    pub fn take<const N: usize>(&mut self) -> [u8; N] {
        const { assert!(N <= RANDOM_BYTES) };
        if self.bytes.len() < N {
            self.bytes = random::<RANDOM_BYTES>().to_vec();
        }
        let rest = self.bytes.len() - N;
        let mut out = [0; N];
        out.iter_mut()
            .zip(self.bytes.drain(rest..))
            .for_each(|(o, b)| *o = b);
        out
    }
}
