//! Which link is used: the first that works, and the same for as long as it does.
//!
//! Pure. Links are tried in the order of their numbers, which is that of their discovery.

use std::collections::BTreeMap;
use sys::netlink::Link;

/// How long a link without carrier keeps its address: a switch that starts its port again, a cable
/// that is moved.
pub const CARRIER_GRACE_NS: u64 = 10_000_000_000;
/// Links that are looked at; a machine with more has them for something else.
pub const LINKS_MAX: usize = 32;

/// Every Ethernet link by its number.
pub type Table = BTreeMap<u32, Link>;

/// The choice.
#[derive(Debug, Default)]
pub struct Chooser {
    active: Option<u32>,
    /// Since when the active link has no carrier.
    lost_ns: Option<u64>,
}

impl Chooser {
    /// The link in use.
    #[must_use]
    pub fn active(&self) -> Option<u32> {
        self.active
    }

    /// When a link without carrier is given up.
    #[must_use]
    pub fn deadline(&self) -> Option<u64> {
        self.lost_ns.map(|at| at.saturating_add(CARRIER_GRACE_NS))
    }

    /// Looks again; `Some` with another link, or with none, if the choice changes. `is_hopeless`:
    /// nobody answers on the active one.
    pub fn choose(&mut self, now: u64, links: &Table, is_hopeless: bool) -> Option<Option<u32>> {
        let before = self.active;
        let has_carrier = |index: &u32| links.get(index).is_some_and(|l| l.has_carrier);
        let after = |from: u32| {
            let later = links.range(from.saturating_add(1)..);
            let all = later.chain(links.range(..=from));
            all.map(|(index, _)| *index).find(has_carrier)
        };
        match before {
            None => self.active = after(0),
            Some(active) if !links.contains_key(&active) => self.active = after(0),
            Some(active) if has_carrier(&active) => {
                self.lost_ns = None;
                if is_hopeless {
                    self.active = after(active);
                }
            }
            Some(_) => {
                let lost = *self.lost_ns.get_or_insert(now);
                if now >= lost.saturating_add(CARRIER_GRACE_NS) {
                    self.active = after(0);
                }
            }
        }
        if self.active == before {
            return None;
        }
        self.lost_ns = None;
        Some(self.active)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(carriers: &[(u32, bool)]) -> Table {
        let link = |index: u32, has_carrier| Link {
            index,
            name: format!("eth{index}"),
            mac: Some([2, 0, 0, 0, 0, 1]),
            is_ethernet: true,
            is_up: true,
            has_carrier,
            mtu: 1500,
            mtu_max: 0,
        };
        carriers.iter().map(|(i, c)| (*i, link(*i, *c))).collect()
    }

    #[test]
    fn the_first_with_a_carrier_is_taken_and_kept() {
        let mut chooser = Chooser::default();
        assert_eq!(chooser.choose(0, &table(&[]), false), None);
        assert_eq!(
            chooser.choose(0, &table(&[(2, false), (3, true)]), false),
            Some(Some(3))
        );
        assert_eq!(
            chooser.choose(1, &table(&[(2, true), (3, true)]), false),
            None,
            "kept"
        );
    }

    #[test]
    fn one_where_nobody_answers_gives_way_in_turn() {
        let links = table(&[(2, true), (3, true), (4, false)]);
        let mut chooser = Chooser::default();
        assert_eq!(chooser.choose(0, &links, false), Some(Some(2)));
        assert_eq!(chooser.choose(1, &links, true), Some(Some(3)));
        assert_eq!(chooser.choose(2, &links, true), Some(Some(2)));
        let alone = table(&[(2, true)]);
        assert_eq!(chooser.choose(3, &alone, true), None, "there is no other");
    }

    #[test]
    fn a_lost_carrier_is_waited_for_and_a_link_that_went_is_not() {
        let mut chooser = Chooser::default();
        let _ = chooser.choose(0, &table(&[(2, true), (3, true)]), false);
        let lost = table(&[(2, false), (3, true)]);
        assert_eq!(chooser.choose(5, &lost, false), None);
        assert_eq!(chooser.deadline(), Some(5 + CARRIER_GRACE_NS));
        assert_eq!(
            chooser.choose(6, &table(&[(2, true), (3, true)]), false),
            None
        );
        assert_eq!(chooser.deadline(), None, "it came back");
        assert_eq!(chooser.choose(7, &lost, false), None);
        assert_eq!(
            chooser.choose(7 + CARRIER_GRACE_NS, &lost, false),
            Some(Some(3))
        );
        assert_eq!(
            chooser.choose(8 + CARRIER_GRACE_NS, &table(&[(2, false)]), false),
            Some(None)
        );
    }
}
