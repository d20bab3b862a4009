//! Refusals that are recorded in sums: those that a stranger can cause without end.
//!
//! A request without a token in force, or one past its quota, costs its sender nothing; a durable row
//! each would let it fill the log. They are summed by actor, tool and code, and a row with the count
//! is written every [`PERIOD`] and at the end. Start with [`Refusals::add`].

use crate::peers::Who;
use std::collections::HashMap;
use std::sync::Mutex;
use std::time::Duration;

/// Between two rows of the same kind.
pub const PERIOD: Duration = Duration::from_secs(10);
/// Kinds told apart in one period; what comes beyond is counted for the gateway itself.
pub const KINDS_MAX: usize = 64;

/// For whom, which tool, which code.
type Kind = (String, String, String, &'static str);

/// The sums since the last rows.
#[derive(Default)]
pub struct Refusals(Mutex<HashMap<Kind, u64>>);

impl Refusals {
    /// Counts one.
    pub fn add(&self, who: Who, subject: &str, code: &'static str) {
        let mut sums = self.sums();
        let kind = (who.actor, who.tenant_id, subject.to_owned(), code);
        let kind = if sums.len() >= KINDS_MAX && !sums.contains_key(&kind) {
            let gateway = Who::gateway();
            (gateway.actor, gateway.tenant_id, "other".to_owned(), code)
        } else {
            kind
        };
        *sums.entry(kind).or_default() += 1;
    }

    /// Takes the sums, leaving none.
    #[must_use]
    pub fn take(&self) -> Vec<(Who, String, &'static str, u64)> {
        let sums = std::mem::take(&mut *self.sums());
        let mut rows: Vec<_> = sums
            .into_iter()
            .map(|((actor, tenant_id, subject, code), n)| {
                (Who { actor, tenant_id }, subject, code, n)
            })
            .collect();
        rows.sort_by(|a, b| (&a.0.actor, &a.1, a.2).cmp(&(&b.0.actor, &b.1, b.2)));
        rows
    }

    fn sums(&self) -> std::sync::MutexGuard<'_, HashMap<Kind, u64>> {
        // Counting cannot panic half way.
        self.0.lock().unwrap_or_else(|e| e.into_inner())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_are_complete_and_bounded() {
        let refusals = Refusals::default();
        for n in 0..1000u64 {
            let who = Who {
                actor: format!("agent:{}", n % 200),
                tenant_id: "t".to_owned(),
            };
            refusals.add(who, "fs_read", "quota");
        }
        let rows = refusals.take();
        assert_eq!(rows.iter().map(|r| r.3).sum::<u64>(), 1000);
        // One for each code may come on top: the overflow's own.
        assert!(rows.len() <= KINDS_MAX + 1);
        assert!(refusals.take().is_empty());
    }
}
