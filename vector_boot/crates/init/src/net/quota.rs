//! How much may be said about what strangers send: a few lines a minute, the rest counted.

/// Lines in one minute.
const LINES: u32 = 10;
const MINUTE_NS: u64 = 60_000_000_000;

/// What is left of this minute.
#[derive(Debug, Default)]
pub struct Quota {
    minute: u64,
    said: u32,
    unsaid: u64,
}

impl Quota {
    /// Whether a line may be said, with how many were not before it.
    pub fn allow(&mut self, now: u64) -> Option<u64> {
        let minute = now / MINUTE_NS;
        if minute != self.minute {
            (self.minute, self.said) = (minute, 0);
        }
        if self.said >= LINES {
            self.unsaid = self.unsaid.saturating_add(1);
            return None;
        }
        self.said += 1;
        Some(std::mem::take(&mut self.unsaid))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_few_a_minute_and_none_is_lost_from_the_count() {
        let mut quota = Quota::default();
        let said = (0..1000).filter_map(|_| quota.allow(5)).count();
        assert_eq!(said, LINES as usize);
        assert_eq!(quota.allow(MINUTE_NS), Some(990));
        assert_eq!(quota.allow(MINUTE_NS), Some(0));
    }
}
