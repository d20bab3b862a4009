//! How many mutations and bytes a second are looked at closely: the generic cell rate algorithm.

/// Mutations a second whose hashes are computed; four times what the log is asked to take.
pub const MUTATIONS_A_SECOND: u64 = 4096;
/// Bytes of payload a second.
pub const BYTES_A_SECOND: u64 = 8 << 20;
/// Both may be used up ahead for so long.
const BURST_NS: u64 = 2_000_000_000;
const SECOND_NS: u64 = 1_000_000_000;

/// One limit.
#[derive(Debug, Clone, Copy)]
pub struct Quota {
    a_second: u64,
    /// When all that was taken would have been allowed at an even pace.
    even_ns: u64,
}

impl Quota {
    /// So many a second.
    #[must_use]
    pub const fn new(a_second: u64) -> Self {
        Self {
            a_second,
            even_ns: 0,
        }
    }

    /// Takes `amount` at this moment, if there is as much.
    pub fn take(&mut self, now_ns: u64, amount: u64) -> bool {
        let cost = amount.saturating_mul(SECOND_NS) / self.a_second.max(1);
        let even = self.even_ns.max(now_ns).saturating_add(cost);
        let within = even - now_ns <= BURST_NS;
        if within {
            self.even_ns = even;
        }
        within
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn over_a_minute_no_more_than_the_rate_and_one_burst_passes() {
        let mut quota = Quota::new(100);
        let taken = (0..60_000u64)
            .filter(|ms| quota.take(ms * 1_000_000, 1))
            .count();
        assert!((6_000..=6_200).contains(&taken), "{taken}");
        assert!(!quota.take(60_000_000_000, 1_000), "more than a burst");
    }
}
