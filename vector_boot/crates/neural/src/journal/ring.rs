//! The newest rows of PID 1's chain, in a memory file that outlives PID 1's own image.
//!
//! Row number `n` lies at `base + 192 (n mod 64)`. Rows are written with one `pwrite(2)` each and found
//! again by their hashes: after a crash the ring goes on behind its last whole row, wherever the crash was.
//! Never here: allocation, a mapping, a row that is not chained.

use super::{Chain, Entry, Kind, ROW_BYTES, Row, Subject};
use std::fs::File;
use std::os::unix::fs::FileExt;

/// Places: what PID 1 has to say in a few minutes of trouble; the file on disk and the ledger keep more.
pub const RING_ROWS: u64 = 64;
/// Bytes that a ring takes of its file.
pub const RING_BYTES: u64 = RING_ROWS * ROW_BYTES as u64;

/// How a ring came to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Begun {
    /// Anew: nothing of a chain was there.
    Anew,
    /// Behind this row, which was there.
    Behind(u64),
}

/// The ring: its file and where its chain is.
#[derive(Debug)]
pub struct Ring {
    file: Option<File>,
    base: u64,
    chain: Chain,
    /// Rows that could not be written.
    failed: u64,
}

impl Ring {
    /// Goes on with what lies at `base` of this file, or begins a chain there. Without a file, or in one that
    /// cannot be written, rows are chained and counted but not kept.
    #[must_use]
    pub fn over(file: Option<File>, base: u64) -> (Self, Begun) {
        let mut ring = Self {
            file,
            base,
            chain: Chain::default(),
            failed: 0,
        };
        let begun = match ring.last() {
            Some(entry) => {
                ring.chain = Chain::behind(entry.seq, entry.hash);
                Begun::Behind(entry.seq)
            }
            None => Begun::Anew,
        };
        (ring, begun)
    }

    /// The newest row that is whole: its hash follows from the row before, which is still there, or it is the first.
    fn last(&self) -> Option<Entry> {
        let mut newest: Option<Entry> = None;
        for place in 0..RING_ROWS {
            let Some(entry) = self.at(place).filter(|e| e.seq % RING_ROWS == place) else {
                continue;
            };
            if newest.is_none_or(|n| n.seq < entry.seq) && self.follows(&entry) {
                newest = Some(entry);
            }
        }
        newest
    }

    fn follows(&self, entry: &Entry) -> bool {
        let before = match entry.seq {
            1 => Some(Chain::default()),
            seq => self.row(seq - 1).map(|e| Chain::behind(e.seq, e.hash)),
        };
        before.is_some_and(|mut chain| chain.push(&entry.row).hash == entry.hash)
    }

    fn at(&self, place: u64) -> Option<Entry> {
        let mut bytes = [0; ROW_BYTES];
        let offset = self.base + place * ROW_BYTES as u64;
        let read = self.file.as_ref()?.read_exact_at(&mut bytes, offset);
        read.ok().and_then(|()| Entry::decode(&bytes).ok())
    }

    /// The row with this number, if the ring still has it.
    #[must_use]
    pub fn row(&self, seq: u64) -> Option<Entry> {
        self.at(seq % RING_ROWS).filter(|entry| entry.seq == seq)
    }

    /// The oldest number that the ring may still have.
    #[must_use]
    pub const fn oldest(&self) -> u64 {
        self.chain.seq().saturating_sub(RING_ROWS) + 1
    }

    /// Where the chain is.
    #[must_use]
    pub const fn chain(&self) -> &Chain {
        &self.chain
    }

    /// Rows that could not be written since this ring was made.
    #[must_use]
    pub const fn failed(&self) -> u64 {
        self.failed
    }

    /// Writes a row behind the last one, over the oldest.
    pub fn push(&mut self, row: &Row) -> Entry {
        let entry = self.chain.push(row);
        let offset = self.base + entry.seq % RING_ROWS * ROW_BYTES as u64;
        let written = self
            .file
            .as_ref()
            .is_some_and(|file| file.write_all_at(&entry.encode(), offset).is_ok());
        self.failed += u64::from(!written);
        entry
    }

    /// Says that a chain begins, and why.
    pub fn begin(&mut self, why: &str, at_ns: u64, beat: u64) -> Entry {
        let mut row = Row::new(Kind::Began, at_ns, beat);
        row.subject = Subject::new(why);
        self.push(&row)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file() -> File {
        let file = tempfile::tempfile().unwrap();
        file.set_len(4096 + RING_BYTES).unwrap();
        file
    }

    fn ring(file: &File) -> (Ring, Begun) {
        Ring::over(Some(file.try_clone().unwrap()), 4096)
    }

    #[test]
    fn the_next_image_goes_on_behind_the_last_row_after_any_number_of_rows() {
        let file = file();
        let mut expected = Chain::default();
        for n in 0..3 * RING_ROWS {
            let (mut ring, begun) = ring(&file);
            let before = match n {
                0 => Begun::Anew,
                n => Begun::Behind(n),
            };
            assert_eq!(begun, before);
            assert_eq!(*ring.chain(), expected);
            let row = Row::new(Kind::Control, n, n);
            assert_eq!(ring.push(&row), expected.push(&row));
            assert_eq!(ring.failed(), 0);
        }
        let (ring, _) = ring(&file);
        assert_eq!(ring.oldest(), 2 * RING_ROWS + 1);
        assert!(ring.row(ring.oldest()).is_some());
        assert!(ring.row(ring.oldest() - 1).is_none());
        assert!(ring.row(0).is_none());
    }

    #[test]
    fn a_row_that_was_being_written_is_none() {
        for torn in 0..ROW_BYTES as u64 {
            let file = file();
            let (mut first, _) = ring(&file);
            for n in 0..RING_ROWS + 6 {
                first.push(&Row::new(Kind::Control, n, n));
            }
            let whole = *first.chain();
            let entry = first.push(&Row::new(Kind::Raised, 7, 7));
            let offset = 4096 + entry.seq % RING_ROWS * ROW_BYTES as u64;
            // The row's end as an earlier row left it.
            file.write_all_at(
                &vec![0xa5; (ROW_BYTES as u64 - torn) as usize],
                offset + torn,
            )
            .unwrap();
            assert_eq!(*ring(&file).0.chain(), whole, "{torn}");
        }
    }

    #[test]
    fn without_a_file_rows_are_chained_and_counted() {
        let (mut ring, begun) = Ring::over(None, 0);
        assert_eq!(begun, Begun::Anew);
        ring.begin("no memory file", 1, 0);
        ring.push(&Row::new(Kind::Control, 2, 1));
        assert_eq!((ring.chain().seq(), ring.failed()), (2, 2));
        assert!(ring.row(1).is_none());
    }
}
