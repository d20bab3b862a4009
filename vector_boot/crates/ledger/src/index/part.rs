//! One segment's part of the index, in memory: a pure fold over the segment's events.
//!
//! Bounded whatever the events hold: exact postings for the first [`VALUES_MAX`] values of a
//! dimension, [`SPILLS`] shared ones for the rest. A posting names candidates; who reads them
//! compares the event itself.

use ledger_core::Body;
use roaring::RoaringBitmap;
use std::collections::HashMap;

/// Events from one anchor to the next: what a look-up walks over at most.
pub const ANCHOR_EVERY: u32 = 16;
/// Events whose times share one span.
pub const BLOCK_EVENTS: u32 = 1024;
/// Values of one dimension that have a posting of their own. With some 130 bytes each, all
/// dimensions together stay under 3 MiB.
pub const VALUES_MAX: usize = 4096;
/// Postings that all other values of each dimension share. Subjects are the ones that are many: a
/// posting of a full segment is then shared by some twenty of them.
pub const SPILLS: [u32; DIMENSIONS] = [1024, 1024, 1024, 1024, 8192];
/// Causes wait unsorted for at least so many, and for an eighth of those sorted: sorting stays linear.
const UNSORTED_MIN: usize = 1024;

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
    /// Subject.
    Subject,
}

/// Number of dimensions.
pub const DIMENSIONS: usize = 5;

/// What an event's values are posted under, in the order of [`Dimension`].
pub type Hashes = [u32; DIMENSIONS];

/// What the index takes of an event.
#[derive(Debug, Clone, Copy)]
pub struct Posted {
    /// Its id.
    pub id: u64,
    /// Where its frame begins in the log.
    pub offset: u64,
    /// When it was written, by the wall clock then.
    pub wall_ns: u64,
    /// When it happened, CLOCK_MONOTONIC.
    pub timestamp_ns: u64,
    /// What it is posted by.
    pub hashes: Hashes,
    /// Its cause.
    pub causation_id: Option<u64>,
}

impl Posted {
    /// Of an event whose frame begins at `offset`.
    #[must_use]
    pub fn of(id: u64, offset: u64, body: &Body<'_>) -> Self {
        let values = [
            body.ns,
            body.actor,
            body.tenant_id,
            body.event_type,
            body.subject,
        ];
        Self {
            hashes: values.map(hash),
            ..Self::unposted(id, offset, body)
        }
    }

    /// Of an event that no index takes.
    #[must_use]
    pub fn unposted(id: u64, offset: u64, body: &Body<'_>) -> Self {
        Self {
            id,
            offset,
            wall_ns: body.wall_ns,
            timestamp_ns: body.timestamp_ns,
            hashes: Hashes::default(),
            causation_id: body.causation_id,
        }
    }
}

/// Earliest and latest times of some events, both inclusive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    /// Wall clock.
    pub wall: (u64, u64),
    /// CLOCK_MONOTONIC.
    pub monotonic: (u64, u64),
}

impl Span {
    /// Of no event.
    pub const NONE: Self = Self {
        wall: (u64::MAX, 0),
        monotonic: (u64::MAX, 0),
    };

    fn add(&mut self, wall_ns: u64, timestamp_ns: u64) {
        for (range, at) in [
            (&mut self.wall, wall_ns),
            (&mut self.monotonic, timestamp_ns),
        ] {
            *range = (range.0.min(at), range.1.max(at));
        }
    }
}

/// The key of a posting: dimension, whether it is shared, and the value's hash or the spill's number.
pub(super) fn key(dimension: usize, spill: bool, hash: u32) -> u64 {
    (dimension as u64) << 33 | u64::from(spill) << 32 | u64::from(hash)
}

/// FNV-1a of 64 bits, folded. Whoever makes values that collide slows down queries for their own.
pub(super) fn hash(value: &str) -> u32 {
    let hash = value.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    // The halves of the hash.
    (hash >> 32) as u32 ^ hash as u32
}

/// The shared posting of a value that has none of its own.
pub(super) fn spill_of(dimension: usize, hash: u32) -> u32 {
    let spills = SPILLS.get(dimension).copied().unwrap_or(1);
    hash % spills
}

/// Adds an ordinal behind all others.
fn push(list: &mut RoaringBitmap, ordinal: u32) {
    // A shared posting may have it already. Not `push`, which first looks for the last of those there are: word by word
    // where they are many, a microsecond for each event.
    let _ = list.insert(ordinal);
}

/// The part.
#[derive(Debug, Clone, PartialEq)]
pub struct Part {
    /// Id of the first event.
    pub(super) first_id: u64,
    /// Where the segment begins in the log.
    pub(super) base: u64,
    /// Number of events.
    pub(super) events: u32,
    /// Offset in the segment of events 0, 16, 32, ...
    pub(super) anchors: Vec<u32>,
    /// Times of each block.
    pub(super) blocks: Vec<Span>,
    /// Times of all.
    pub(super) span: Span,
    /// Ordinals by [`key`].
    pub(super) postings: HashMap<u64, RoaringBitmap>,
    values: [usize; DIMENSIONS],
    /// Cause and ordinal; sorted up to `sorted`.
    causes: Vec<(u64, u32)>,
    sorted: usize,
}

impl Part {
    /// Of a segment that begins at `base` in the log, whose first event will be `first_id`.
    #[must_use]
    pub fn new(first_id: u64, base: u64) -> Self {
        Self {
            first_id,
            base,
            events: 0,
            anchors: Vec::new(),
            blocks: Vec::new(),
            span: Span::NONE,
            postings: HashMap::new(),
            values: [0; DIMENSIONS],
            causes: Vec::new(),
            sorted: 0,
        }
    }

    /// Takes the segment's next event in.
    pub fn add(&mut self, event: &Posted) {
        let ordinal = self.events;
        self.events += 1;
        if ordinal.is_multiple_of(ANCHOR_EVERY) {
            // A segment is at most 64 MiB.
            let offset = event.offset.saturating_sub(self.base);
            self.anchors.push(u32::try_from(offset).unwrap_or(u32::MAX));
        }
        if ordinal.is_multiple_of(BLOCK_EVENTS) {
            self.blocks.push(Span::NONE);
        }
        if let Some(block) = self.blocks.last_mut() {
            block.add(event.wall_ns, event.timestamp_ns);
        }
        self.span.add(event.wall_ns, event.timestamp_ns);
        for (dimension, hash) in event.hashes.iter().enumerate() {
            self.post(dimension, *hash, ordinal);
        }
        if let Some(cause) = event.causation_id {
            self.causes.push((cause, ordinal));
            if self.causes.len() - self.sorted > UNSORTED_MIN.max(self.sorted / 8) {
                self.sort_causes();
            }
        }
    }

    fn post(&mut self, dimension: usize, hash: u32, ordinal: u32) {
        let own = key(dimension, false, hash);
        if let Some(list) = self.postings.get_mut(&own) {
            push(list, ordinal);
            return;
        }
        let values = self.values.get_mut(dimension);
        let key = match values {
            Some(values) if *values < VALUES_MAX => {
                *values += 1;
                own
            }
            _ => key(dimension, true, spill_of(dimension, hash)),
        };
        push(self.postings.entry(key).or_default(), ordinal);
    }

    fn sort_causes(&mut self) {
        // Two runs that are each nearly sorted: linear.
        self.causes.sort();
        self.sorted = self.causes.len();
    }

    /// Every cause with the ordinal of what it caused, sorted.
    pub(super) fn causes(&mut self) -> &[(u64, u32)] {
        self.sort_causes();
        &self.causes
    }

    /// The anchor at or before an ordinal, as an offset in the segment.
    pub(super) fn anchor(&self, ordinal: u32) -> Option<u32> {
        let n = usize::try_from(ordinal / ANCHOR_EVERY).ok()?;
        self.anchors.get(n).copied()
    }

    /// Ordinals of events that may have all these values; `None` without any value.
    pub(super) fn candidates(&self, filters: &[(Dimension, &str)]) -> Option<RoaringBitmap> {
        let mut all: Option<RoaringBitmap> = None;
        for (dimension, value) in filters {
            let hash = hash(value);
            let own = self.postings.get(&key(*dimension as usize, false, hash));
            let shared = || {
                let dimension = *dimension as usize;
                let key = key(dimension, true, spill_of(dimension, hash));
                self.postings.get(&key)
            };
            let Some(list) = own.or_else(shared) else {
                return Some(RoaringBitmap::new());
            };
            all = Some(match all {
                None => list.clone(),
                Some(all) => all & list,
            });
        }
        all
    }

    /// Ids of the events that `cause` caused directly, in no order.
    pub(super) fn children(&self, cause: u64, out: &mut Vec<u64>) {
        let (sorted, rest) = self.causes.split_at(self.sorted);
        let begin = sorted.partition_point(|(c, _)| *c < cause);
        let same = |pair: &&(u64, u32)| pair.0 == cause;
        let mine = sorted.get(begin..).unwrap_or_default();
        let mine = mine.iter().take_while(same);
        let found = mine.chain(rest.iter().filter(same));
        out.extend(found.map(|(_, ordinal)| self.first_id + u64::from(*ordinal)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_stays_bounded_when_every_value_is_new() {
        let mut part = Part::new(1, 0);
        for n in 0..20_000u32 {
            let value = format!("v{n}");
            part.add(&Posted {
                id: u64::from(n) + 1,
                offset: u64::from(n) * 512,
                wall_ns: 1,
                timestamp_ns: 1,
                hashes: [hash(&value); DIMENSIONS],
                causation_id: None,
            });
        }
        let shared: u32 = SPILLS.iter().sum();
        let bound = DIMENSIONS * VALUES_MAX + shared as usize;
        assert!(part.postings.len() <= bound);
        let last = part.candidates(&[(Dimension::Subject, "v19999")]).unwrap();
        assert!(last.contains(19_999));
        assert!(last.len() < 100, "shared by few: {}", last.len());
        let first = part.candidates(&[(Dimension::Subject, "v7")]).unwrap();
        assert_eq!(first.iter().collect::<Vec<_>>(), [7]);
    }
}
