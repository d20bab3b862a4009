//! Recognises a ULID that a tenant's sender chose before.
//!
//! A fold over the log. Bounded: so many ULIDs in all, shared alike by the tenants; one that is older is
//! taken again.

use crate::planes::{Summary, Unreadable};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// Its name in the state beside the index's snapshots.
pub const SECTION: &str = "ulids";

/// ULIDs remembered of each tenant while there are few tenants: 12 KiB.
const WINDOW: usize = 512;
/// ULIDs remembered of all tenants: 768 KiB.
const ALL_MAX: usize = 64 * WINDOW;
/// Tenants remembered, each with its last 8 at least. One more, and the half that was silent longest goes.
const TENANTS_MAX: usize = 4096;
/// Of a log, what a compaction's summary may take for them: a 64th. From 64 MiB on that is nearly all.
const ROOM_SHARE: u64 = 64;
/// What one takes there: with its event's id, in hex, as a part of an event.
const ULID_BYTES: u64 = 48;
/// What a tenant takes there beside its name and ULIDs, in bytes before hex.
const TENANT_BYTES: u64 = 16;

#[derive(Default, Serialize, Deserialize)]
struct Recent {
    used: u64,
    seen: VecDeque<([u8; 16], u64)>,
}

/// The latest ULIDs of each tenant, with their events.
pub struct Ulids {
    tenants: BTreeMap<String, Recent>,
    used: u64,
    /// How many of each tenant.
    window: usize,
}

impl Default for Ulids {
    fn default() -> Self {
        Self {
            tenants: BTreeMap::new(),
            used: 0,
            window: WINDOW,
        }
    }
}

impl Ulids {
    /// The tenant's event with this ULID.
    #[must_use]
    pub fn event(&self, tenant: &str, ulid: &[u8; 16]) -> Option<u64> {
        let seen = self.tenants.get(tenant)?.seen.iter();
        seen.rev().find(|(u, _)| u == ulid).map(|(_, id)| *id)
    }

    /// Writes all of it down, for a start that does not read the events so far.
    pub fn whole(&self, summary: &mut Summary) {
        summary.put(SECTION, &self.tenants);
    }

    /// Writes down what a rebuild needs that does not read the events so far: of a small log, which a
    /// summary must not fill, the newest alone.
    pub fn summary(&self, summary: &mut Summary, room: u64) {
        let ids = self.tenants.iter();
        let ids = ids.flat_map(|(tenant, t)| t.seen.iter().map(move |(_, id)| (*id, tenant)));
        let mut ids: Vec<(u64, &String)> = ids.collect();
        ids.sort_unstable_by_key(|(id, _)| std::cmp::Reverse(*id));
        let (mut left, mut from) = (room / ROOM_SHARE, None);
        let mut named: BTreeSet<&String> = BTreeSet::new();
        for (id, tenant) in ids {
            // A name may be longer than what it stands for.
            let name = match named.insert(tenant) {
                true => 2 * (tenant.len() as u64 + TENANT_BYTES),
                false => 0,
            };
            let Some(rest) = left.checked_sub(ULID_BYTES + name) else {
                from = Some(id);
                break;
            };
            left = rest;
        }
        let newer = |recent: &Recent| Recent {
            used: recent.used,
            seen: recent
                .seen
                .iter()
                .filter(|(_, id)| from.is_none_or(|from| *id > from))
                .copied()
                .collect(),
        };
        let tenants = self.tenants.iter().map(|(t, r)| (t, newer(r)));
        let tenants: BTreeMap<&String, Recent> = tenants
            .filter(|(_, recent)| !recent.seen.is_empty())
            .collect();
        summary.put(SECTION, &tenants);
    }

    /// Takes the state back. A small log's summary has a part of the window alone: what was read of the events before
    /// it stays known.
    ///
    /// # Errors
    /// [`Unreadable`], and nothing is changed.
    pub fn restore(&mut self, summary: &Summary) -> Result<(), Unreadable> {
        let mut taken: BTreeMap<String, Recent> = BTreeMap::new();
        summary.take(SECTION, &mut taken)?;
        if taken.is_empty() {
            return Ok(());
        }
        while taken.len() > TENANTS_MAX {
            taken.pop_last();
        }
        // Those that a small log's summary has no room for stay known where they were read.
        for (tenant, recent) in &mut self.tenants {
            if taken.len() < TENANTS_MAX && !taken.contains_key(tenant) {
                taken.insert(tenant.clone(), std::mem::take(recent));
            }
        }
        let window = window(taken.len());
        for (tenant, recent) in &mut taken {
            recent.forget(window);
            let first = recent.seen.front().map_or(u64::MAX, |(_, id)| *id);
            let read = self.tenants.get(tenant).into_iter().flat_map(|r| &r.seen);
            let older: Vec<_> = read.filter(|(_, id)| *id < first).copied().collect();
            let room = window.saturating_sub(recent.seen.len());
            for one in older.into_iter().rev().take(room) {
                recent.seen.push_front(one);
            }
        }
        self.used = taken.values().map(|t| t.used).max().unwrap_or(0);
        (self.tenants, self.window) = (taken, window);
        Ok(())
    }

    /// Takes an appended event in.
    pub fn add(&mut self, tenant: &str, ulid: &[u8; 16], id: u64) {
        self.used = self.used.saturating_add(1);
        let recent = match self.tenants.get_mut(tenant) {
            Some(recent) => recent,
            None => {
                self.make_room();
                self.tenants.entry(tenant.to_owned()).or_default()
            }
        };
        recent.used = self.used;
        // Before it is one too many: the memory of a window is a power of two.
        if recent.seen.len() >= self.window {
            recent.seen.pop_front();
        }
        recent.seen.push_back((*ulid, id));
    }

    /// For one more tenant.
    fn make_room(&mut self) {
        if self.tenants.len() >= TENANTS_MAX {
            let mut ages: Vec<u64> = self.tenants.values().map(|t| t.used).collect();
            let (_, middle, _) = ages.select_nth_unstable(TENANTS_MAX / 2);
            let middle = *middle;
            self.tenants.retain(|_, recent| recent.used >= middle);
        }
        let window = window(self.tenants.len() + 1);
        if window < self.window {
            // Seldom: each time that there are twice as many tenants.
            let all = self.tenants.values_mut();
            all.for_each(|recent| recent.forget(window));
        }
        self.window = window;
    }
}

impl Recent {
    /// Keeps so many of the newest.
    fn forget(&mut self, window: usize) {
        let older = self.seen.len().saturating_sub(window);
        if older > 0 {
            self.seen.drain(..older);
            self.seen.shrink_to_fit();
        }
    }
}

/// ULIDs that are remembered of each of so many tenants.
fn window(tenants: usize) -> usize {
    (ALL_MAX / tenants.next_power_of_two()).min(WINDOW)
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
        let restored = |room| {
            let mut summary = Summary::default();
            ulids.summary(&mut summary, room);
            let mut restored = Ulids::default();
            restored.restore(&summary).unwrap();
            restored
        };
        let all = restored(64 << 20);
        assert_eq!(all.event("t", &ulid(WINDOW)), Some(WINDOW as u64));
        let room_of_three = ROOM_SHARE * (ULID_BYTES * 3 + 2 * (1 + TENANT_BYTES));
        let few = restored(room_of_three);
        let known = |n: usize| few.event("t", &ulid(2 * WINDOW - n)).is_some();
        assert!(known(1) && known(3) && !known(4));
        // What was read before the summary stays known.
        let mut summary = Summary::default();
        ulids.summary(&mut summary, room_of_three);
        let mut read = Ulids::default();
        for n in 2 * WINDOW - 10..2 * WINDOW {
            read.add("t", &ulid(n), n as u64);
        }
        read.restore(&summary).unwrap();
        let known = |n: usize| read.event("t", &ulid(2 * WINDOW - n)).is_some();
        assert!(known(1) && known(3) && known(4) && known(10) && !known(11));
        assert_eq!(read.tenants["t"].seen.len(), 10);
    }

    #[test]
    fn the_last_ulids_of_thousands_of_tenants_are_known_within_one_bound() {
        let mut ulids = Ulids::default();
        let ulid = |n: usize| u128::try_from(n).unwrap().to_be_bytes();
        let name = |tenant: usize| format!("t{tenant}");
        let in_all = |ulids: &Ulids| ulids.tenants.values().map(|t| t.seen.len()).sum::<usize>();
        let mut id = 0;
        for round in 0..20 {
            for tenant in 0..TENANTS_MAX {
                id += 1;
                ulids.add(&name(tenant), &ulid(round), id);
            }
        }
        assert_eq!(in_all(&ulids), ALL_MAX);
        let mut summary = Summary::default();
        ulids.whole(&mut summary);
        let mut restored = Ulids::default();
        restored.restore(&summary).unwrap();
        for tenant in [0, 1, 63, 64, 65, TENANTS_MAX - 1] {
            for ulids in [&ulids, &restored] {
                let known = |round| ulids.event(&name(tenant), &ulid(round)).is_some();
                assert!((12..20).all(known) && !known(11), "tenant {tenant}");
            }
        }
        // Of a small log a summary takes its share and no more, names too.
        let room = 1 << 20;
        let mut small = Summary::default();
        ulids.summary(&mut small, room);
        assert!(2 * small.encode().len() as u64 <= room / ROOM_SHARE + 64);
        let mut newest = Ulids::default();
        newest.restore(&small).unwrap();
        assert!(newest.event(&name(TENANTS_MAX - 1), &ulid(19)).is_some());
        // One more: who was silent longest is forgotten, the others are not.
        ulids.add("one more", &ulid(0), id + 1);
        assert_eq!(ulids.tenants.len(), TENANTS_MAX / 2 + 1);
        assert_eq!(ulids.event(&name(0), &ulid(19)), None);
        assert!(ulids.event(&name(TENANTS_MAX - 1), &ulid(19)).is_some());
        assert!(ulids.event("one more", &ulid(0)).is_some());
        // One tenant alone never takes what others need.
        for n in 0..10 * WINDOW {
            ulids.add("busy", &ulid(n), id + 2 + n as u64);
        }
        assert!(ulids.event(&name(TENANTS_MAX - 1), &ulid(19)).is_some());
        assert!(in_all(&ulids) <= ALL_MAX);
    }
}
