//! Relief: what is not called since it keeps failing, and who waits since others want a turn.
//!
//! Owns one circuit breaker a tool and tenant and the load shedder, both pure state machines of
//! `capacity-core`; time is an argument here as well. Start with [`Relief::admit`].

use capacity_core::breaker::{Admit, Breaker, Outcome};
use capacity_core::shedder::Shedder;
use std::collections::HashMap;

/// Breakers kept. Only tools and tenants with failures have one, so more means an outage; then new
/// pairs pass unguarded.
pub const BREAKERS_MAX: usize = 1_024;

/// A tool's name and a tenant.
type Pair = (&'static str, String);

/// Breakers and shedder.
pub struct Relief {
    breakers: HashMap<Pair, Breaker>,
    shedder: Shedder,
}

/// Why a call may not begin now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Held {
    /// The tool failed repeatedly for this tenant; it rests this many milliseconds.
    Broken(u64),
    /// The tenant has its share of the places.
    Shed,
}

impl Relief {
    /// Relief for so many calls at once.
    #[must_use]
    pub fn new(places: u32) -> Self {
        Self {
            breakers: HashMap::new(),
            shedder: Shedder::new(places),
        }
    }

    /// Takes a place for a call; give it back with [`Relief::done`].
    ///
    /// # Errors
    /// [`Held`].
    pub fn admit(&mut self, now_ms: u64, tool: &'static str, tenant: &str) -> Result<Admit, Held> {
        let pair = (tool, tenant.to_owned());
        if !self.shedder.admit(now_ms, tenant) {
            return Err(Held::Shed);
        }
        let admit = self.breakers.get_mut(&pair).map(|b| b.admit(now_ms));
        match admit {
            Some(Admit::Refuse { retry_after_ms }) => {
                self.shedder.done(tenant);
                Err(Held::Broken(retry_after_ms))
            }
            Some(admit) => Ok(admit),
            None => Ok(Admit::Pass),
        }
    }

    /// Gives a place back and takes in how the call ended; `None` where it never ran.
    pub fn done(
        &mut self,
        now_ms: u64,
        tool: &'static str,
        tenant: &str,
        was: Admit,
        outcome: Option<Outcome>,
    ) {
        self.shedder.done(tenant);
        let Some(outcome) = outcome else {
            return;
        };
        let pair = (tool, tenant.to_owned());
        let room = self.breakers.len() < BREAKERS_MAX;
        if outcome == Outcome::Failure && room {
            self.breakers.entry(pair.clone()).or_default();
        }
        if let Some(breaker) = self.breakers.get_mut(&pair) {
            breaker.record(now_ms, was, outcome);
            if outcome == Outcome::Success && breaker.is_closed() {
                self.breakers.remove(&pair);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failing_tool_rests_for_its_tenant_only_and_is_probed_once() {
        let mut relief = Relief::new(8);
        let mut fail = |now| {
            let was = relief.admit(now, "fs_read", "a")?;
            relief.done(now, "fs_read", "a", was, Some(Outcome::Failure));
            Ok(())
        };
        for _ in 0..Breaker::FAILURES_MAX {
            fail(0).unwrap();
        }
        assert_eq!(fail(1), Err(Held::Broken(Breaker::PAUSE_MS_MIN - 1)));
        for (tool, tenant) in [("fs_list", "a"), ("fs_read", "b")] {
            let was = relief.admit(1, tool, tenant).unwrap();
            relief.done(1, tool, tenant, was, Some(Outcome::Success));
        }
        let probe = relief.admit(Breaker::PAUSE_MS_MIN, "fs_read", "a").unwrap();
        assert_eq!(probe, Admit::Probe);
        assert!(relief.admit(Breaker::PAUSE_MS_MIN, "fs_read", "a").is_err());
        relief.done(1001, "fs_read", "a", probe, Some(Outcome::Success));
        assert!(relief.breakers.is_empty());
        assert_eq!(relief.admit(1002, "fs_read", "a"), Ok(Admit::Pass));
    }
}
