//! The changed ranges of tensors: what lies over the base.
//!
//! Ranges of one tensor never overlap and never touch: what does is one range. So the same mutations in the same
//! order always make the same bytes. Pure. Start with [`Overlay::patch`].

use super::generation::{RANGE_HEAD_BYTES, RANGES_BYTES_MAX, Range, range_head};
use std::collections::BTreeMap;
use std::ops::Bound;

/// Changed ranges by tensor and offset.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Overlay {
    ranges: BTreeMap<(Box<str>, u64), Vec<u8>>,
    bytes: usize,
}

/// Bytes that a range takes in a generation.
fn weight(payload: usize) -> usize {
    RANGE_HEAD_BYTES + payload.next_multiple_of(8)
}

impl Overlay {
    /// Whether a payload of this length surely finds room; it may take less where it meets changed ranges.
    #[must_use]
    pub fn has_room(&self, payload: usize) -> bool {
        self.bytes + weight(payload) <= RANGES_BYTES_MAX
    }

    /// Puts `payload` over the bytes from `offset` on.
    pub fn patch(&mut self, tensor: &str, offset: u64, payload: &[u8]) {
        // Ranges lie inside a tensor, so no sum overflows.
        let end = offset + payload.len() as u64;
        let mut met: Vec<u64> = Vec::new();
        for ((name, at), bytes) in self.up_to(tensor, end) {
            if **name != *tensor || at + (bytes.len() as u64) < offset {
                break;
            }
            met.push(*at);
        }
        met.reverse();
        let first = met.first().copied().unwrap_or(offset).min(offset);
        if let [only] = met[..]
            && let Some(bytes) = self.ranges.get_mut(&(Box::from(tensor), only))
            && let Some(place) = within(bytes, offset.wrapping_sub(only), payload.len())
            && offset >= only
        {
            place.copy_from_slice(payload);
            return;
        }
        let mut merged: Vec<u8> = Vec::new();
        let mut tail: Vec<u8> = Vec::new();
        for at in met {
            let Some(bytes) = self.ranges.remove(&(Box::from(tensor), at)) else {
                continue;
            };
            self.bytes -= weight(bytes.len());
            if at < offset {
                merged.extend(bytes.iter().take(usize_of(offset - at)));
            }
            if at + bytes.len() as u64 > end {
                tail.extend(bytes.iter().skip(usize_of(end.saturating_sub(at))));
            }
        }
        merged.extend_from_slice(payload);
        merged.append(&mut tail);
        self.bytes += weight(merged.len());
        self.ranges.insert((Box::from(tensor), first), merged);
    }

    /// Ranges of a tensor that begin at or before `end`, the last first.
    fn up_to<'a>(
        &'a self,
        tensor: &str,
        end: u64,
    ) -> impl Iterator<Item = (&'a (Box<str>, u64), &'a Vec<u8>)> {
        let upper = (Box::<str>::from(tensor), end);
        self.ranges
            .range((Bound::Unbounded, Bound::Included(upper)))
            .rev()
    }

    /// The bytes of a range as they are now: the base's, with what was changed.
    #[must_use]
    pub fn read(&self, tensor: &str, offset: u64, base: &[u8]) -> Vec<u8> {
        let mut out = base.to_vec();
        let end = offset + base.len() as u64;
        for ((name, at), bytes) in self.up_to(tensor, end) {
            let until = at + bytes.len() as u64;
            if **name != *tensor || until <= offset {
                break;
            }
            let (from, to) = ((*at).max(offset), until.min(end));
            let place = out.get_mut(usize_of(from - offset)..usize_of(to.max(from) - offset));
            let bytes = bytes.get(usize_of(from - at)..usize_of(to.max(from) - at));
            if let (Some(place), Some(bytes)) = (place, bytes) {
                place.copy_from_slice(bytes);
            }
        }
        out
    }

    /// Every range, by tensor and offset.
    pub fn ranges(&self) -> impl Iterator<Item = Range<'_>> {
        self.ranges.iter().map(|((tensor, offset), payload)| Range {
            tensor,
            offset: *offset,
            payload,
        })
    }

    /// Writes the ranges that `keep` keeps as a generation has them, and says how many.
    pub fn write(&self, out: &mut Vec<u8>, keep: impl Fn(&str) -> bool) -> u32 {
        let mut count = 0;
        for range in self.ranges().filter(|range| keep(range.tensor)) {
            out.extend_from_slice(&range_head(&range));
            out.extend_from_slice(range.payload);
            out.resize(out.len().next_multiple_of(8), 0);
            count += 1;
        }
        count
    }
}

/// The payload's place in a range that holds all of it.
fn within(bytes: &mut [u8], at: u64, length: usize) -> Option<&mut [u8]> {
    let at = usize::try_from(at).ok()?;
    bytes.get_mut(at..at.checked_add(length)?)
}

/// Differences of places inside a mapped tensor.
fn usize_of(value: u64) -> usize {
    usize::try_from(value).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// The model: plain copies of the tensors.
        #[test]
        fn an_overlay_reads_as_a_copy_that_was_written(
            patches in proptest::collection::vec((0usize..2, 0usize..60, 1usize..12, any::<u8>()), 0..60),
        ) {
            let names = ["a", "ab"];
            let base = [[7u8; 64], [9u8; 64]];
            let mut plain = base;
            let mut overlay = Overlay::default();
            for (tensor, at, length, value) in patches {
                let length = length.min(64 - at);
                let payload = vec![value; length];
                overlay.patch(names[tensor], at as u64, &payload);
                plain[tensor][at..at + length].copy_from_slice(&payload);
                let weights: usize = overlay.ranges().map(|r| weight(r.payload.len())).sum();
                prop_assert_eq!(overlay.bytes, weights);
            }
            for (tensor, name) in names.iter().enumerate() {
                for from in [0usize, 1, 13, 40] {
                    let read = overlay.read(name, from as u64, &base[tensor][from..60]);
                    prop_assert_eq!(&read[..], &plain[tensor][from..60]);
                }
                let mut last_end = None;
                for range in overlay.ranges().filter(|r| r.tensor == *name) {
                    prop_assert!(last_end.is_none_or(|end| range.offset > end), "ranges touch");
                    last_end = Some(range.offset + range.payload.len() as u64);
                }
            }
        }
    }
}
