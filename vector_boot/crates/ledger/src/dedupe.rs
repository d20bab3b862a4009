//! Recognises an event that its producer sends again after a crash of either side.
//!
//! A fold over the log, so that it survives a restart. Bounded: the latest sequences of the latest
//! producers.

use crate::planes::{Summary, Unreadable};
use ledger_core::{Hash, Origin};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Pairs of boot and producer remembered: some boots back, with every role in each.
const PRODUCERS_MAX: usize = 64;
/// Sequences remembered of each: PID 1's outbox holds 256 events.
const SEQUENCES_MAX: usize = 512;
/// Producers of which a summary has every sequence; of the others, how far they came.
const PRODUCERS_WHOLE: usize = 8;
/// Its name in a summary.
pub const SECTION: &str = "dedupe";

/// Boot and producer.
type Key = ([u8; 16], u32);

#[derive(Default, Serialize, Deserialize)]
struct Producer {
    used: u64,
    /// Every sequence up to here was forgotten.
    forgotten: u64,
    known: BTreeMap<u64, (u64, Hash)>,
}

/// The latest origins.
#[derive(Default)]
pub struct Dedupe {
    producers: BTreeMap<Key, Producer>,
    used: u64,
}

/// What is known of an origin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Seen {
    /// It is new.
    New,
    /// It is this event.
    Event(u64, Hash),
    /// It is older than what is remembered.
    Forgotten,
}

impl Dedupe {
    /// Looks an origin up.
    #[must_use]
    pub fn seen(&self, origin: &Origin) -> Seen {
        match self.producers.get(&(origin.boot_id, origin.producer)) {
            None => Seen::New,
            Some(producer) => match producer.known.get(&origin.sequence) {
                Some((id, chain)) => Seen::Event(*id, *chain),
                None if origin.sequence <= producer.forgotten => Seen::Forgotten,
                None => Seen::New,
            },
        }
    }

    /// Takes an appended event in.
    pub fn add(&mut self, origin: &Origin, id: u64, chain: &Hash) {
        self.used = self.used.saturating_add(1);
        let key = (origin.boot_id, origin.producer);
        if !self.producers.contains_key(&key) && self.producers.len() >= PRODUCERS_MAX {
            let oldest = self
                .producers
                .iter()
                .min_by_key(|(_, p)| p.used)
                .map(|(k, _)| *k);
            if let Some(oldest) = oldest {
                self.producers.remove(&oldest);
            }
        }
        let producer = self.producers.entry(key).or_default();
        producer.used = self.used;
        producer.known.insert(origin.sequence, (id, *chain));
        if producer.known.len() > SEQUENCES_MAX
            && let Some((sequence, _)) = producer.known.pop_first()
        {
            producer.forgotten = sequence;
        }
    }
}

impl Dedupe {
    /// Writes all of it down.
    pub fn whole(&self, summary: &mut Summary) {
        summary.put(SECTION, &self.producers);
    }

    /// Writes down what a rebuild needs that does not read the events so far.
    pub fn summary(&self, summary: &mut Summary) {
        let mut by_age: Vec<_> = self.producers.iter().collect();
        by_age.sort_by_key(|(_, p)| std::cmp::Reverse(p.used));
        let short = |(n, (key, p)): (usize, (&Key, &Producer))| {
            let known: BTreeMap<_, _> = match n < PRODUCERS_WHOLE {
                true => p.known.clone(),
                false => BTreeMap::new(),
            };
            let last = p
                .known
                .last_key_value()
                .map_or(0, |(sequence, _)| *sequence);
            let forgotten = match n < PRODUCERS_WHOLE {
                true => p.forgotten,
                false => p.forgotten.max(last),
            };
            let used = p.used;
            (
                *key,
                Producer {
                    used,
                    forgotten,
                    known,
                },
            )
        };
        let state: BTreeMap<Key, Producer> = by_age.into_iter().enumerate().map(short).collect();
        summary.put(SECTION, &state);
    }

    /// Takes the state from a summary.
    ///
    /// # Errors
    /// [`Unreadable`], and nothing is changed.
    pub fn restore(&mut self, summary: &Summary) -> Result<(), Unreadable> {
        let mut state = BTreeMap::new();
        summary.take(SECTION, &mut state)?;
        if !state.is_empty() {
            self.used = state.values().map(|p: &Producer| p.used).max().unwrap_or(0);
            self.producers = state;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repeats_are_recognised_and_the_forgotten_are_not_taken_for_new() {
        let origin = |sequence| Origin {
            boot_id: [1; 16],
            producer: 0,
            sequence,
        };
        let mut dedupe = Dedupe::default();
        for n in 1..=1000u64 {
            assert_eq!(dedupe.seen(&origin(n)), Seen::New);
            dedupe.add(&origin(n), n + 7, &[0; 32]);
        }
        assert_eq!(dedupe.seen(&origin(1000)), Seen::Event(1007, [0; 32]));
        assert_eq!(dedupe.seen(&origin(3)), Seen::Forgotten);
        let other = Origin {
            boot_id: [2; 16],
            ..origin(3)
        };
        assert_eq!(dedupe.seen(&other), Seen::New);
    }

    #[test]
    fn producers_are_bounded() {
        let mut dedupe = Dedupe::default();
        for producer in 0..1000u32 {
            let origin = Origin {
                boot_id: [0; 16],
                producer,
                sequence: 1,
            };
            dedupe.add(&origin, 1, &[0; 32]);
        }
        assert_eq!(dedupe.producers.len(), PRODUCERS_MAX);
    }
}
