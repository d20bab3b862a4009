//! A load shedder that is fair between tenants: when the places are taken, who has more than a fair
//! share waits first.
//!
//! Nothing is queued and nothing that runs is stopped. A tenant that was refused is *wanting* for a
//! second; while others want, nobody goes past the max-min fair share: everybody gets what they use
//! up to a common level, and the level is as high as the places allow. Start with [`Shedder::admit`].

use std::collections::BTreeMap;

/// Tenants at once; more than the lease table holds per tenant is not needed.
pub const TENANTS_MAX: usize = 256;
/// How long a refused tenant counts as wanting: a client's usual first retry.
pub const WANTING_MS: u64 = 1_000;

#[derive(Debug, Clone, Copy, Default)]
struct Tenant {
    running: u32,
    wanting_until_ms: u64,
}

/// Places for operations that run at once, over tenants.
#[derive(Debug, Clone)]
pub struct Shedder {
    places: u32,
    tenants: BTreeMap<Box<str>, Tenant>,
}

impl Shedder {
    /// A shedder with this many places.
    #[must_use]
    pub fn new(places: u32) -> Self {
        Self {
            places,
            tenants: BTreeMap::new(),
        }
    }

    /// Operations that run now.
    #[must_use]
    pub fn running(&self) -> u32 {
        self.tenants.values().map(|t| t.running).sum()
    }

    /// Whether an operation of `tenant` may run now; if so it takes a place until
    /// [`Shedder::done`].
    pub fn admit(&mut self, now_ms: u64, tenant: &str) -> bool {
        self.tenants
            .retain(|_, t| t.running > 0 || t.wanting_until_ms > now_ms);
        let known = self.tenants.contains_key(tenant);
        if !known && self.tenants.len() >= TENANTS_MAX {
            return false;
        }
        let fair = self.fair_share(now_ms, tenant);
        let free = self.running() < self.places;
        let mine = self.tenants.entry(tenant.into()).or_default();
        if free && mine.running < fair {
            // It still counts as wanting for the rest of its second: one place may not be all.
            mine.running += 1;
            return true;
        }
        mine.wanting_until_ms = now_ms.saturating_add(WANTING_MS);
        false
    }

    /// An operation of `tenant` ended.
    pub fn done(&mut self, tenant: &str) {
        if let Some(t) = self.tenants.get_mut(tenant) {
            t.running = t.running.saturating_sub(1);
        }
    }

    /// The most that `tenant` may have: the max-min level where it wants without end, those that were
    /// refused lately want without end, and the others keep what they have.
    fn fair_share(&self, now_ms: u64, tenant: &str) -> u32 {
        let others = self.tenants.iter().filter(|(name, _)| &***name != tenant);
        let mut content = Vec::new();
        let mut hungry = 1;
        for (_, t) in others {
            if t.wanting_until_ms > now_ms {
                hungry += 1;
            } else {
                content.push(t.running);
            }
        }
        content.sort_unstable();
        let mut left = self.places;
        let mut sharers = hungry + u32::try_from(content.len()).unwrap_or(u32::MAX);
        // Whoever has less than the level keeps it, and leaves the rest to the others.
        for running in content {
            if running > left / sharers {
                break;
            }
            left -= running;
            sharers -= 1;
        }
        left.div_ceil(sharers)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn one_tenant_alone_may_have_everything() {
        let mut shedder = Shedder::new(8);
        assert!((0..8).all(|_| shedder.admit(0, "a")));
        assert!(!shedder.admit(0, "a"));
    }

    #[test]
    fn a_newcomer_gets_its_half_as_places_come_free() {
        let mut shedder = Shedder::new(8);
        (0..8).for_each(|_| assert!(shedder.admit(0, "a")));
        assert!(!shedder.admit(0, "b"));
        for _ in 0..4 {
            shedder.done("a");
            assert!(!shedder.admit(1, "a"), "b waits and has less");
            assert!(shedder.admit(1, "b"));
            assert!(!shedder.admit(1, "b"));
        }
        shedder.done("a");
        assert!(shedder.admit(2, "a"));
    }

    #[test]
    fn who_stopped_asking_holds_nothing_back() {
        let mut shedder = Shedder::new(4);
        (0..4).for_each(|_| assert!(shedder.admit(0, "a")));
        assert!(!shedder.admit(0, "b"));
        shedder.done("a");
        assert!(!shedder.admit(WANTING_MS - 1, "a") || shedder.running() <= 4);
        assert!(shedder.admit(2 * WANTING_MS, "a"));
    }

    #[test]
    fn tenants_are_bounded() {
        let mut shedder = Shedder::new(1000);
        for i in 0..TENANTS_MAX {
            assert!(shedder.admit(0, &i.to_string()));
        }
        assert!(!shedder.admit(0, "one more"));
        assert!(shedder.admit(0, "0"));
    }

    proptest! {
        #[test]
        fn places_are_never_exceeded_and_greed_converges_to_equal_shares(
            places in 4u32..40, tenants in 2usize..4, order in proptest::collection::vec((0usize..4, 0usize..4), 2000)
        ) {
            let mut shedder = Shedder::new(places);
            let names = ["a", "b", "c", "d"];
            // Everybody asks all the time, one place comes free a step.
            for (step, (ask, end)) in order.into_iter().enumerate() {
                let now = step as u64;
                shedder.done(names[end % tenants]);
                for i in 0..tenants {
                    shedder.admit(now, names[(ask + i) % tenants]);
                }
                prop_assert!(shedder.running() <= places);
            }
            for tenant in &names[..tenants] {
                let running = shedder.tenants.get(*tenant).map_or(0, |t| t.running);
                prop_assert!(running <= places.div_ceil(tenants as u32));
                prop_assert!(running + 1 >= places / tenants as u32);
            }
        }
    }
}
