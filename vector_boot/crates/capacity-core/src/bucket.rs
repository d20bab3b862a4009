//! Buckets by the generic cell rate algorithm: one word of state each, quota changeable at run time.
//!
//! A bucket remembers the *theoretical arrival time*: when it would be empty of debt. An operation
//! that costs `n` pushes it `n / rate` further; it may run if that is at most `burst / rate` ahead of
//! now. Nothing queues: an answer is yes, or when to come again.

/// What a bucket lets through.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Quota {
    /// Units a second; 0 lets nothing through.
    pub rate: u64,
    /// Units at once.
    pub burst: u64,
}

impl Quota {
    /// Nanoseconds that `units` take at this rate, rounded up so that rounding never gives more.
    fn time_ns(self, units: u64) -> Option<u64> {
        let ns = (u128::from(units) * 1_000_000_000).div_ceil(u128::from(self.rate.max(1)));
        u64::try_from(ns).ok().filter(|_| self.rate > 0)
    }
}

/// Why an operation may not run now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Empty {
    /// Nanoseconds until a retry may succeed; `None` if it never will under this quota.
    pub retry_after_ns: Option<u64>,
}

/// One bucket.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Bucket {
    quota: Quota,
    /// Theoretical arrival time, nanoseconds.
    arrival_ns: u64,
}

/// A yes that has not been spent yet: all buckets are asked before any is charged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Offer {
    arrival_ns: u64,
    /// Units left after this operation.
    pub remaining: u64,
}

impl Bucket {
    /// A full bucket.
    #[must_use]
    pub fn new(quota: Quota) -> Self {
        Self {
            quota,
            arrival_ns: 0,
        }
    }

    /// The quota in force.
    #[must_use]
    pub fn quota(&self) -> Quota {
        self.quota
    }

    /// Asks for `units` at `now_ns` without spending them.
    ///
    /// # Errors
    /// [`Empty`].
    pub fn offer(&self, now_ns: u64, units: u64) -> Result<Offer, Empty> {
        let never = Empty {
            retry_after_ns: None,
        };
        let cost = self.quota.time_ns(units).ok_or(never)?;
        let tolerance = self.quota.time_ns(self.quota.burst).ok_or(never)?;
        if units > self.quota.burst {
            return Err(never);
        }
        let arrival_ns = self.arrival_ns.max(now_ns).checked_add(cost).ok_or(never)?;
        let ahead = arrival_ns - now_ns;
        if ahead > tolerance {
            return Err(Empty {
                retry_after_ns: Some(ahead - tolerance),
            });
        }
        let spare = u128::from(tolerance - ahead) * u128::from(self.quota.rate);
        Ok(Offer {
            arrival_ns,
            remaining: u64::try_from(spare / 1_000_000_000).unwrap_or(u64::MAX),
        })
    }

    /// Spends an offer made at the same instant.
    pub fn take(&mut self, offer: Offer) {
        self.arrival_ns = offer.arrival_ns;
    }

    /// Changes the quota. Debt stays, but never more than the new burst: a bucket that shrinks does
    /// not make its owner pay for what the old quota allowed.
    pub fn set_quota(&mut self, now_ns: u64, quota: Quota) {
        if self.quota != quota {
            self.quota = quota;
            let tolerance = quota.time_ns(quota.burst).unwrap_or(0);
            self.arrival_ns = self.arrival_ns.min(now_ns.saturating_add(tolerance));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A token bucket in exact arithmetic: `level` counts units times 10^9.
    struct Model {
        quota: Quota,
        level: u128,
        at_ns: u64,
    }

    impl Model {
        fn new(quota: Quota) -> Self {
            let level = u128::from(quota.burst) * 1_000_000_000;
            Self {
                quota,
                level,
                at_ns: 0,
            }
        }
        fn take(&mut self, now_ns: u64, units: u64) -> bool {
            let full = u128::from(self.quota.burst) * 1_000_000_000;
            let earned = u128::from(now_ns - self.at_ns) * u128::from(self.quota.rate);
            self.level = (self.level + earned).min(full);
            self.at_ns = now_ns;
            let cost = u128::from(units) * 1_000_000_000;
            let may = self.level >= cost;
            if may {
                self.level -= cost;
            }
            may
        }
    }

    fn steps() -> impl Strategy<Value = Vec<(u64, u64)>> {
        proptest::collection::vec((0u64..40_000_000, 0u64..6), 1..400)
    }

    proptest! {
        #[test]
        fn it_is_a_token_bucket(rate in prop::sample::select(vec![1u64, 2, 5, 10, 100, 1000, 50_000]), burst in 1u64..50, steps in steps()) {
            let quota = Quota { rate, burst };
            let (mut bucket, mut model, mut now) = (Bucket::new(quota), Model::new(quota), 0);
            for (wait, units) in steps {
                now += wait;
                let offer = bucket.offer(now, units);
                prop_assert_eq!(offer.is_ok(), model.take(now, units), "at {} for {}", now, units);
                if let Ok(offer) = offer {
                    prop_assert_eq!(u128::from(offer.remaining), model.level / 1_000_000_000);
                    bucket.take(offer);
                }
            }
        }

        #[test]
        fn a_retry_at_the_time_named_succeeds(rate in 1u64..100_000, burst in 1u64..50, steps in steps()) {
            let (mut bucket, mut now) = (Bucket::new(Quota { rate, burst }), 0);
            for (wait, units) in steps {
                now += wait;
                match bucket.offer(now, units) {
                    Ok(offer) => bucket.take(offer),
                    Err(Empty { retry_after_ns: Some(wait) }) => prop_assert!(bucket.offer(now + wait, units).is_ok()),
                    Err(_) => prop_assert!(units > burst),
                }
            }
        }

        #[test]
        fn no_window_lets_more_through_than_its_curve(rate in 1u64..2_000_000_000, burst in 1u64..1000, steps in steps()) {
            let (mut bucket, mut now, mut passed) = (Bucket::new(Quota { rate, burst }), 0u64, 0u128);
            for (wait, units) in steps {
                now += wait;
                if let Ok(offer) = bucket.offer(now, units) {
                    bucket.take(offer);
                    passed += u128::from(units);
                }
                // One nanosecond of slack: the tolerance is rounded up, or a burst of its own size would never pass.
                prop_assert!(passed * 1_000_000_000 <= u128::from(rate) * (u128::from(now) + 1) + u128::from(burst) * 1_000_000_000);
            }
        }
    }

    #[test]
    fn an_empty_quota_never_lets_through_and_says_so() {
        let bucket = Bucket::new(Quota { rate: 0, burst: 9 });
        assert_eq!(
            bucket.offer(5, 1),
            Err(Empty {
                retry_after_ns: None
            })
        );
        let bucket = Bucket::new(Quota { rate: 9, burst: 2 });
        assert_eq!(
            bucket.offer(5, 3),
            Err(Empty {
                retry_after_ns: None
            })
        );
        assert!(bucket.offer(u64::MAX, 1).is_err(), "time has an end");
    }

    #[test]
    fn a_smaller_quota_forgives_debt_past_its_burst() {
        let mut bucket = Bucket::new(Quota {
            rate: 1,
            burst: 1000,
        });
        let all = bucket.offer(0, 1000).unwrap();
        bucket.take(all);
        bucket.set_quota(0, Quota { rate: 1, burst: 1 });
        assert!(bucket.offer(1_000_000_000, 1).is_ok());
    }
}
