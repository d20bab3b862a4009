//! Lanes: the fixed parts of a topic that shards are made of, and what a consumer has acknowledged of
//! each.
//!
//! A message's lane is a function of its ULID alone; a shard is every lane with the same remainder. So
//! another number of shards moves nothing that was acknowledged.

use alloc::collections::{BTreeMap, VecDeque};
use alloc::string::String;
use core::fmt::Write;
use serde::{Deserialize, Serialize};

/// Lanes of a topic. A power of two, so that every power of two of shards up to it divides it.
pub const LANES: u16 = 256;
/// How far a consumer may go on in a lane beyond its oldest message without acknowledgement: it bounds
/// what must be remembered of each, 128 bytes.
pub const LANE_SPAN: u64 = 1024;

/// The first 8 bytes of BLAKE3 of the ULID's 16 bytes, little-endian: its remainder by the number of
/// shards is the message's shard.
#[must_use]
pub fn hash_of(ulid: &[u8; 16]) -> u64 {
    let [a, b, c, d, e, f, g, h, ..] = *blake3::hash(ulid).as_bytes();
    u64::from_le_bytes([a, b, c, d, e, f, g, h])
}

/// The lane of a message.
#[must_use]
pub fn lane_of(ulid: &[u8; 16]) -> u8 {
    // Below 256 by the remainder.
    (hash_of(ulid) % u64::from(LANES)) as u8
}

/// The shard of a lane: with `shards` a power of two up to [`LANES`], the same as that of the hash.
#[must_use]
pub fn shard_of(lane: u8, shards: u16) -> u16 {
    u16::from(lane) % shards.max(1)
}

/// What one consumer has acknowledged of one lane, whose messages are counted from 1.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lane {
    /// Everything up to here.
    floor: u64,
    /// Bits of the sequences beyond, from the word that holds `floor` on.
    words: VecDeque<u64>,
}

impl Lane {
    /// Nothing is owed up to `floor`.
    #[must_use]
    pub fn from(floor: u64) -> Self {
        Self {
            floor,
            words: VecDeque::new(),
        }
    }

    /// Everything up to here is acknowledged.
    #[must_use]
    pub fn floor(&self) -> u64 {
        self.floor
    }

    /// Whether the message is acknowledged.
    #[must_use]
    pub fn has(&self, seq: u64) -> bool {
        seq <= self.floor || self.word_of(seq).is_some_and(|word| word & bit(seq) != 0)
    }

    /// Whether it is near enough to the floor to be remembered.
    #[must_use]
    pub fn reaches(&self, seq: u64) -> bool {
        seq <= self.floor.saturating_add(LANE_SPAN)
    }

    /// How many are acknowledged beyond the floor.
    #[must_use]
    pub fn beyond(&self) -> u64 {
        let ones: u32 = self.words.iter().map(|w| w.count_ones()).sum();
        u64::from(ones)
    }

    /// Takes an acknowledgement in; one that is out of reach is not remembered.
    pub fn add(&mut self, seq: u64) {
        if self.has(seq) || !self.reaches(seq) {
            return;
        }
        let at = usize::try_from(seq / 64 - self.floor / 64).unwrap_or(usize::MAX);
        while self.words.len() <= at {
            self.words.push_back(0);
        }
        if let Some(word) = self.words.get_mut(at) {
            *word |= bit(seq);
        }
        while self
            .word_of(self.floor + 1)
            .is_some_and(|w| w & bit(self.floor + 1) != 0)
        {
            let next = self.floor + 1;
            if next / 64 > self.floor / 64 {
                self.words.pop_front();
            }
            self.floor = next;
            // What is below the floor is said by the floor.
            if let Some(word) = self.words.front_mut() {
                *word &= !bit(next);
            }
        }
        if self.words.iter().all(|w| *w == 0) {
            self.words.clear();
        }
    }

    /// Everything up to here is owed no more.
    pub fn raise(&mut self, floor: u64) {
        if floor > self.floor {
            let beyond: alloc::vec::Vec<u64> = (floor + 1..=self.floor.saturating_add(LANE_SPAN))
                .filter(|seq| self.has(*seq))
                .collect();
            *self = Self::from(floor);
            beyond.into_iter().for_each(|seq| self.add(seq));
        }
    }

    fn word_of(&self, seq: u64) -> Option<u64> {
        let at = (seq / 64).checked_sub(self.floor / 64)?;
        self.words.get(usize::try_from(at).ok()?).copied()
    }
}

fn bit(seq: u64) -> u64 {
    1 << (seq % 64)
}

/// Counts of lanes as text: `LANE:COUNT`, semicolons between, none for zeros.
#[must_use]
pub fn counts_text(counts: &BTreeMap<u8, u64>) -> String {
    let mut out = String::new();
    for (lane, count) in counts.iter().filter(|(_, count)| **count > 0) {
        let between = if out.is_empty() { "" } else { ";" };
        // Writing to a string cannot fail.
        let _ = write!(out, "{between}{lane}:{count}");
    }
    out
}

/// Reads [`counts_text`]; what is no pair is passed over.
#[must_use]
pub fn counts_of(text: &str) -> BTreeMap<u8, u64> {
    let pair = |pair: &str| {
        let (lane, count) = pair.split_once(':')?;
        Some((lane.parse().ok()?, count.parse().ok()?))
    };
    text.split(';').filter_map(pair).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::collections::BTreeSet;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_lane_is_the_set_of_what_it_was_given(
            from in 0..200u64,
            seqs in proptest::collection::vec(1..1500u64, 0..400),
            raised in 0..1500u64,
        ) {
            let mut lane = Lane::from(from);
            let mut model: BTreeSet<u64> = (1..=from).collect();
            for seq in seqs {
                if lane.reaches(seq) {
                    model.insert(seq);
                }
                lane.add(seq);
                prop_assert!(lane.words.len() as u64 <= LANE_SPAN / 64 + 1);
            }
            lane.raise(raised);
            model.extend(1..=raised);
            for seq in 1..1600 {
                prop_assert_eq!(lane.has(seq), model.contains(&seq), "{}", seq);
            }
            prop_assert_eq!(lane.floor() + lane.beyond(), model.len() as u64);
            prop_assert!(!lane.has(lane.floor() + 1));
        }
    }

    /// By the `blake3` package of Python: foreign clients must agree.
    #[test]
    fn golden_hashes() {
        let counting: [u8; 16] = core::array::from_fn(|n| n as u8);
        assert_eq!(hash_of(&counting), 3_506_077_966_273_782_950);
        assert_eq!((lane_of(&[0; 16]), lane_of(&counting)), (229, 166));
    }

    #[test]
    fn shards_of_lanes_are_shards_of_the_hash() {
        for n in 0..1000u128 {
            let ulid = (n * 77_777).to_be_bytes();
            for shards in [1u16, 2, 64, 256] {
                let of_hash = hash_of(&ulid) % u64::from(shards);
                assert_eq!(u64::from(shard_of(lane_of(&ulid), shards)), of_hash);
            }
        }
    }

    #[test]
    fn counts_travel_as_text() {
        let counts = BTreeMap::from([(0, 5), (7, 0), (255, 9)]);
        assert_eq!(counts_text(&counts), "0:5;255:9");
        assert_eq!(counts_of("0:5;255:9"), BTreeMap::from([(0, 5), (255, 9)]));
        assert_eq!(counts_of("x;1:;300:1;:;1:2:3"), BTreeMap::new());
    }
}
