//! The index in memory: where events lie, and which events carry a type, actor, tenant or namespace.
//!
//! A pure fold over the log, rebuilt at every start. Bounded: one anchor every [`ANCHOR_EVERY`]
//! events, and postings for the latest events only; older ones are found by reading.

use std::collections::{BTreeMap, VecDeque};

/// Events from one anchor to the next: what a look-up walks over at most.
pub const ANCHOR_EVERY: u64 = 16;
/// Postings kept, 4 bytes each in four dimensions: 4 MiB.
const POSTED_EVENTS_MAX: usize = 256 * 1024;
/// Distinct values of one dimension; events with others are found by reading.
const VALUES_MAX: usize = 4096;

/// What events are posted by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dimension {
    /// Namespace.
    Ns,
    /// Actor.
    Actor,
    /// Tenant.
    Tenant,
    /// Event type.
    EventType,
}

/// Values of one event in the order of [`Dimension`].
pub type Values<'a> = [&'a str; 4];

#[derive(Default)]
struct Postings {
    lists: BTreeMap<String, VecDeque<u32>>,
    /// Some value was refused: absence of a list proves nothing.
    overflowed: bool,
}

/// The index.
#[derive(Default)]
pub struct Index {
    /// First event that there is.
    first: u64,
    /// Log offset of the first event, then of every one whose id is one more than a multiple of 16.
    anchors: VecDeque<u64>,
    by: [Postings; 4],
    last: u64,
    posted_from: u64,
}

/// What the index knows of a filter.
pub enum Candidates {
    /// Exactly these ids, and nothing before the first id that is posted.
    Ids(Vec<u64>),
    /// Every event must be looked at.
    All,
}

impl Index {
    /// Takes the next event in.
    pub fn add(&mut self, id: u64, offset: u64, values: &Values<'_>) {
        self.last = id;
        if self.anchors.is_empty() {
            self.first = id;
        }
        if id == self.first || id % ANCHOR_EVERY == 1 {
            self.anchors.push_back(offset);
        }
        let Ok(short) = u32::try_from(id) else { return };
        for (postings, value) in self.by.iter_mut().zip(values) {
            if let Some(list) = postings.lists.get_mut(*value) {
                list.push_back(short);
            } else if postings.lists.len() < VALUES_MAX {
                postings
                    .lists
                    .insert((*value).to_owned(), VecDeque::from([short]));
            } else {
                postings.overflowed = true;
            }
        }
        if self.posted_from == 0 {
            self.posted_from = id;
        }
        if id - self.posted_from >= POSTED_EVENTS_MAX as u64 {
            self.forget_postings(self.posted_from + POSTED_EVENTS_MAX as u64 / 2);
        }
    }

    fn forget_postings(&mut self, first: u64) {
        self.posted_from = first;
        let first = u32::try_from(self.posted_from).unwrap_or(u32::MAX);
        for postings in &mut self.by {
            for list in postings.lists.values_mut() {
                let gone = list.partition_point(|id| *id < first);
                list.drain(..gone);
                list.shrink_to_fit();
            }
            postings.lists.retain(|_, list| !list.is_empty());
        }
    }

    /// Last event.
    #[must_use]
    pub fn last(&self) -> u64 {
        self.last
    }

    /// The anchor at or before an event: its id and its log offset.
    #[must_use]
    pub fn anchor(&self, id: u64) -> Option<(u64, u64)> {
        let n = id.checked_sub(1)? / ANCHOR_EVERY;
        let skipped = self.first.checked_sub(1)? / ANCHOR_EVERY;
        let at = usize::try_from(n.checked_sub(skipped)?).ok()?;
        let offset = self.anchors.get(at).filter(|_| id >= self.first)?;
        Some(((n * ANCHOR_EVERY + 1).max(self.first), *offset))
    }

    /// Forgets what a compaction dropped: `first` is the first event kept, which begins at `offset`.
    pub fn forget_before(&mut self, first: u64, offset: u64) {
        if first <= self.first || first > self.last {
            return;
        }
        let gone = (first - 1) / ANCHOR_EVERY - (self.first - 1) / ANCHOR_EVERY;
        self.anchors
            .drain(..usize::try_from(gone).unwrap_or(0).min(self.anchors.len()));
        if let Some(anchor) = self.anchors.front_mut() {
            *anchor = offset;
        }
        self.first = first;
        if self.posted_from < first {
            self.forget_postings(first);
        }
    }

    /// First event that there is.
    #[must_use]
    pub fn first(&self) -> u64 {
        self.first
    }

    /// Which of the events `from..=to` may match, at most `limit` of them, ascending or descending.
    #[must_use]
    pub fn candidates(
        &self,
        filters: &[(Dimension, &str)],
        from: u64,
        to: u64,
        descending: bool,
        limit: usize,
    ) -> Candidates {
        if from < self.posted_from {
            return Candidates::All;
        }
        let mut best: Option<&VecDeque<u32>> = None;
        for (dimension, value) in filters {
            let postings = &self.by[*dimension as usize];
            match postings.lists.get(*value) {
                Some(list) if best.is_none_or(|b| list.len() < b.len()) => best = Some(list),
                None if !postings.overflowed => return Candidates::Ids(Vec::new()),
                _ => {}
            }
        }
        let Some(list) = best else {
            return Candidates::All;
        };
        let first = list.partition_point(|id| u64::from(*id) < from);
        let end = list.partition_point(|id| u64::from(*id) <= to);
        let range = list.range(first..end.max(first)).map(|id| u64::from(*id));
        Candidates::Ids(if descending {
            range.rev().take(limit).collect()
        } else {
            range.take(limit).collect()
        })
    }

    /// First event that is posted.
    #[must_use]
    pub fn posted_from(&self) -> u64 {
        self.posted_from
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn old_postings_go_and_are_said_to_be_gone() {
        let mut index = Index::default();
        let events = POSTED_EVENTS_MAX as u64 + 10;
        for id in 1..=events {
            let tenant = if id % 2 == 0 { "even" } else { "odd" };
            index.add(id, id * 512, &["ns", "user:a", tenant, "t"]);
        }
        let filter = [(Dimension::Tenant, "even")];
        assert!(matches!(
            index.candidates(&filter, 1, events, false, 9),
            Candidates::All
        ));
        let from = index.posted_from();
        match index.candidates(&filter, from, events, true, 2) {
            Candidates::Ids(ids) => assert_eq!(ids, [events, events - 2]),
            Candidates::All => panic!("posted"),
        }
        assert_eq!(index.anchor(1), Some((1, 512)));
        index.forget_before(21, 9000);
        assert_eq!(index.anchor(20), None);
        assert_eq!(index.anchor(21), Some((21, 9000)));
        assert_eq!(index.anchor(32), Some((21, 9000)));
        assert_eq!(index.anchor(35), Some((33, 33 * 512)));
        assert!(matches!(
            index.candidates(&[(Dimension::Tenant, "nobody")], from, events, true, 2),
            Candidates::Ids(ids) if ids.is_empty()
        ));
    }
}
