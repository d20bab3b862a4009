//! ULIDs by the times that they name: a few stretches instead of each of them.
//!
//! A clock that was ahead makes ULIDs of the future. Were they forgotten as "everything up to here", nothing
//! could be known to be new until that time has come; so what lies more than [`APART_MS`] from all else is a
//! stretch of its own, and what lies between stretches was never there.

use super::TOPIC_KEPT_MS;
use crate::ulid;
use alloc::vec::Vec;
use serde::{Deserialize, Serialize};

/// ULIDs that are further apart are of two stretches. What a topic saw is forgotten once it is idle for so
/// long: then a stretch that holds an hour of the past has no hour in it that is still to come.
const APART_MS: u64 = TOPIC_KEPT_MS;
/// Stretches that are kept apart, 32 bytes each; beyond, the two oldest become one.
const STRETCHES_MAX: usize = 8;

type Ulid = [u8; 16];

/// A set of ULIDs, and those between them that are near.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stretches(Vec<(Ulid, Ulid)>);

impl Stretches {
    /// Everything up to this one; nothing for zeros.
    #[must_use]
    pub fn up_to(last: Ulid) -> Self {
        let mut all = Self::default();
        if last != [0; 16] {
            all.0.push(([0; 16], last));
        }
        all
    }

    /// Whether it may be one of them.
    #[must_use]
    pub fn holds(&self, ulid: &Ulid) -> bool {
        self.0
            .iter()
            .any(|(first, last)| (first..=last).contains(&ulid))
    }

    /// Takes one in.
    pub fn add(&mut self, ulid: Ulid) {
        self.add_stretch((ulid, ulid));
    }

    /// Takes all of another in.
    pub fn add_all(&mut self, other: &Self) {
        other.0.iter().for_each(|one| self.add_stretch(*one));
    }

    fn add_stretch(&mut self, (mut first, mut last): (Ulid, Ulid)) {
        self.0.retain(|(a, b)| {
            let near = reaches(b, &first) && reaches(&last, a);
            if near {
                (first, last) = (first.min(*a), last.max(*b));
            }
            !near
        });
        let at = self.0.partition_point(|(a, _)| *a < first);
        self.0.insert(at, (first, last));
        if self.0.len() > STRETCHES_MAX {
            let (oldest, _) = self.0.remove(0);
            if let Some((first, _)) = self.0.first_mut() {
                *first = oldest;
            }
        }
    }
}

/// Whether a stretch that ends with `last` is near to one that begins with `first`, or beyond its beginning.
fn reaches(last: &Ulid, first: &Ulid) -> bool {
    let end = ulid::milliseconds(last).saturating_add(APART_MS);
    end >= ulid::milliseconds(first)
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::collections::BTreeSet;
    use proptest::prelude::*;

    fn of_hour(hour: u64) -> Ulid {
        ulid::compose(hour * 3_600_000_000_000, [7; 10])
    }

    proptest! {
        #[test]
        fn whatever_was_taken_in_is_held_and_what_lies_far_from_it_is_not(
            taken in proptest::collection::vec(0..5000u64, 1..60),
            other in proptest::collection::vec(0..5000u64, 0..5),
        ) {
            let (mut all, mut two) = (Stretches::default(), Stretches::default());
            taken.iter().for_each(|hour| all.add(of_hour(*hour)));
            other.iter().for_each(|hour| two.add(of_hour(*hour)));
            all.add_all(&two);
            let hours: BTreeSet<u64> = taken.iter().chain(&other).copied().collect();
            prop_assert!(hours.iter().all(|hour| all.holds(&of_hour(*hour))));
            prop_assert!(all.0.len() <= STRETCHES_MAX);
            prop_assert!(all.0.iter().all(|(first, last)| first <= last));
            for pair in all.0.windows(2) {
                prop_assert!(!reaches(&pair[0].1, &pair[1].0));
            }
            let greatest = *hours.last().unwrap();
            prop_assert!(!all.holds(&of_hour(greatest + 1)));
            // The newest far gap outlasts all older ones.
            if let Some(before) = hours.iter().rev().nth(1).filter(|before| greatest - *before > 24) {
                prop_assert!(!all.holds(&of_hour(before + 1)));
            }
        }
    }

    #[test]
    fn everything_up_to_one_is_a_stretch_from_the_beginning() {
        assert!(!Stretches::up_to([0; 16]).holds(&[0; 16]));
        let all = Stretches::up_to(of_hour(9));
        assert!(all.holds(&[0; 16]) && all.holds(&of_hour(9)) && !all.holds(&of_hour(10)));
    }
}
