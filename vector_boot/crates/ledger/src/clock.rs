//! The clocks and the random source, in one place.

use std::time::SystemTime;

/// Nanoseconds since 1970 in UTC; 0 before that.
#[must_use]
pub fn wall_ns() -> u64 {
    #[cfg(feature = "model")]
    if still::IS_STILL.load(std::sync::atomic::Ordering::Relaxed) {
        return still::WALL_NS;
    }
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    since.map_or(0, |d| u64::try_from(d.as_nanos()).unwrap_or(u64::MAX))
}

/// Nanoseconds of CLOCK_MONOTONIC.
#[must_use]
pub fn monotonic_ns() -> u64 {
    #[cfg(feature = "model")]
    if still::IS_STILL.load(std::sync::atomic::Ordering::Relaxed) {
        return still::MONOTONIC_NS;
    }
    sys::clock::monotonic_ns()
}

/// What a model decides instead of the kernel.
#[cfg(feature = "model")]
mod still {
    use std::cell::Cell;
    use std::sync::atomic::{AtomicBool, Ordering};

    pub static IS_STILL: AtomicBool = AtomicBool::new(false);
    pub const WALL_NS: u64 = 1_800_000_000_000_000_000;
    pub const MONOTONIC_NS: u64 = 1_000_000_000_000;

    thread_local! {
        /// The state of this thread's source, where a model has one.
        pub static SEED: Cell<Option<u64>> = const { Cell::new(None) };
    }

    /// One order of operations for each seed: from now on both clocks stand still in this process, since times
    /// are numbers of variable length, and what this thread takes for random follows from the seed, since the
    /// names of blobs do, and with them the folders that are made.
    pub fn stand_still(seed: u64) {
        IS_STILL.store(true, Ordering::Relaxed);
        SEED.set(Some(seed));
    }

    /// Fills from this thread's source, if it has one (SplitMix64).
    pub fn fill(bytes: &mut [u8]) -> bool {
        let Some(mut state) = SEED.get() else {
            return false;
        };
        for piece in bytes.chunks_mut(8) {
            state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut z = state;
            z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            let next = (z ^ (z >> 31)).to_le_bytes();
            piece.iter_mut().zip(next).for_each(|(b, n)| *b = n);
        }
        SEED.set(Some(state));
        true
    }
}

#[cfg(feature = "model")]
pub use still::stand_still;

/// Random bytes.
///
/// # Panics
/// If the kernel has no randomness: nothing that follows could be trusted.
#[must_use]
pub fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    #[cfg(feature = "model")]
    if still::fill(&mut bytes) {
        return bytes;
    }
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
