//! Recognises a ULID that a tenant's sender chose before.
//!
//! A fold over the log. Bounded: the latest ULIDs of the latest tenants; one that is older is taken
//! again.

use crate::planes::Summary;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, VecDeque};

/// Its name in the state beside the index's snapshots.
const SECTION: &str = "ulids";

/// Tenants remembered; whoever was silent longest goes first.
const TENANTS_MAX: usize = 64;
/// ULIDs remembered of each: 12 KiB.
const WINDOW: usize = 512;

#[derive(Default, Serialize, Deserialize)]
struct Recent {
    used: u64,
    seen: VecDeque<([u8; 16], u64)>,
}

/// The latest ULIDs of each tenant, with their events.
#[derive(Default)]
pub struct Ulids {
    tenants: BTreeMap<String, Recent>,
    used: u64,
}

impl Ulids {
    /// The tenant's event with this ULID.
    #[must_use]
    pub fn event(&self, tenant: &str, ulid: &[u8; 16]) -> Option<u64> {
        let seen = self.tenants.get(tenant)?.seen.iter();
        seen.rev().find(|(u, _)| u == ulid).map(|(_, id)| *id)
    }

    /// Writes all of it down, for a start that does not read the events so far. A compaction's summary
    /// goes without: the window is only shorter then.
    pub fn whole(&self, summary: &mut Summary) {
        summary.put(SECTION, &self.tenants);
    }

    /// Takes the state back.
    pub fn restore(&mut self, summary: &Summary) {
        summary.take(SECTION, &mut self.tenants);
        self.used = self.tenants.values().map(|t| t.used).max().unwrap_or(0);
    }

    /// Takes an appended event in.
    pub fn add(&mut self, tenant: &str, ulid: &[u8; 16], id: u64) {
        self.used += 1;
        if !self.tenants.contains_key(tenant) {
            if self.tenants.len() >= TENANTS_MAX {
                let oldest = self.tenants.iter().min_by_key(|(_, recent)| recent.used);
                if let Some(oldest) = oldest.map(|(tenant, _)| tenant.clone()) {
                    self.tenants.remove(&oldest);
                }
            }
            self.tenants.insert(tenant.to_owned(), Recent::default());
        }
        if let Some(recent) = self.tenants.get_mut(tenant) {
            recent.used = self.used;
            recent.seen.push_back((*ulid, id));
            if recent.seen.len() > WINDOW {
                recent.seen.pop_front();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ulid_is_known_within_its_tenant_and_window() {
        let mut ulids = Ulids::default();
        let ulid = |n: usize| u128::try_from(n).unwrap().to_be_bytes();
        for n in 0..2 * WINDOW {
            ulids.add("t", &ulid(n), n as u64);
        }
        assert_eq!(
            ulids.event("t", &ulid(2 * WINDOW - 1)),
            Some(2 * WINDOW as u64 - 1)
        );
        assert_eq!(ulids.event("t", &ulid(WINDOW)), Some(WINDOW as u64));
        assert_eq!(ulids.event("t", &ulid(WINDOW - 1)), None);
        assert_eq!(ulids.event("u", &ulid(WINDOW)), None);
        for n in 0..2 * TENANTS_MAX {
            ulids.add(&n.to_string(), &ulid(n), n as u64);
        }
        assert_eq!(ulids.tenants.len(), TENANTS_MAX);
        assert_eq!(ulids.event("t", &ulid(WINDOW)), None);
    }
}
