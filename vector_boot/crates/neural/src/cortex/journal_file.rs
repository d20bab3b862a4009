//! `cortex.journal`: the rows of PID 1's ring and of this role in one chain, on the data disk.
//!
//! Verified when it is opened; what does not hold at its end is cut. Bounded: when it is full the older half is kept
//! as `cortex.journal.before`, and numbers and chain go on in the new one. Without a folder nothing is written, and
//! PID 1's ring stands alone.

use crate::journal::{Chain, Entry, Kind, ROW_BYTES, Row};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// Its name in the folder.
const NAME: &str = "cortex.journal";
/// The one before it.
const BEFORE: &str = "cortex.journal.before";
/// Rows of one file: 6 MiB.
const ROWS_MAX: u64 = 32_768;
/// Rows that wait for a disk that takes nothing; what is over ends the file.
const WAITING_BYTES_MAX: usize = 1 << 20;
/// Rows of the file before among which those of PID 1's ring are that it may still have.
const LOOKED_BACK: u64 = 1024;
/// Rows of PID 1's ring.
const ROWS_MAX_OF_INIT: usize = wire::neural::ROWS_MAX as usize;

/// The file, or nothing.
pub(super) struct JournalFile {
    file: Option<(File, PathBuf)>,
    chain: Chain,
    /// Number of the last row before the file's first one.
    base: u64,
    /// In the file, with those that wait.
    rows: u64,
    waiting: Vec<u8>,
    /// Number of the newest row of PID 1's ring that is here.
    fetched: u64,
    /// Rows of PID 1's ring that a process before us took: number and time, which no two rows share.
    before: Vec<(u64, u64)>,
}

impl JournalFile {
    /// Opens it and reads its chain; says what is wrong, and goes on without a file then.
    pub(super) fn open(folder: Option<&Path>) -> Self {
        let mut this = Self {
            file: None,
            chain: Chain::default(),
            base: 0,
            rows: 0,
            waiting: Vec::new(),
            fetched: 0,
            before: Vec::new(),
        };
        if let Some(folder) = folder {
            this.before = taken_of(&folder.join(BEFORE));
            if let Err(e) = this.read(folder) {
                eprintln!("<4>cortex: {NAME}: {e}");
            }
        }
        this
    }

    fn read(&mut self, folder: &Path) -> io::Result<()> {
        let mut file = OpenOptions::new()
            .read(true)
            .append(true)
            .create(true)
            .open(folder.join(NAME))?;
        let mut bytes = Vec::new();
        let limit = ROWS_MAX * ROW_BYTES as u64;
        (&mut file).take(limit).read_to_end(&mut bytes)?;
        let first = bytes.first_chunk::<ROW_BYTES>();
        let first = first.and_then(|row| Entry::decode(row).ok());
        let before = last_of(&folder.join(BEFORE)).map(|row| Chain::behind(row.seq, row.hash));
        let alone = first.map(|row| Chain::behind(row.seq, row.hash));
        let goes_on = |chain: Option<Chain>, at: usize| {
            let row = bytes.chunks(ROW_BYTES).nth(at);
            chain
                .zip(row)
                .is_some_and(|(mut chain, row)| chain.check(row).is_ok())
        };
        (self.chain, self.rows) = match (before, alone) {
            // The first of all, or of a file that counted for itself; no row has the number 0.
            (_, Some(alone)) if alone.seq() <= 1 => (Chain::default(), 0),
            // The end of the file before is damaged, and not the beginning of this one.
            (Some(_), Some(chain)) if !goes_on(before, 0) && goes_on(alone, 1) => {
                eprintln!("<4>cortex: {BEFORE}: not what {NAME} goes on from");
                (chain, 1)
            }
            (Some(before), _) => (before, 0),
            // The file before was taken away: there is nothing to hold its first row against.
            (None, Some(alone)) => (alone, 1),
            (None, None) => (Chain::default(), 0),
        };
        self.base = self.chain.seq() - self.rows;
        let taken = usize::try_from(self.rows).unwrap_or_default();
        for row in bytes.chunks(ROW_BYTES).skip(taken) {
            match self.chain.check(row) {
                Ok(entry) => {
                    self.rows += 1;
                    if entry.row.origin > 0 {
                        self.before.push((entry.row.origin, entry.row.at_ns));
                    }
                }
                Err(e) => {
                    eprintln!("<4>cortex: {NAME}: cut after row {}: {e}", self.rows);
                    break;
                }
            }
        }
        let old = self.before.len().saturating_sub(ROWS_MAX_OF_INIT);
        self.before.drain(..old);
        file.set_len(self.rows * ROW_BYTES as u64)?;
        self.file = Some((file, folder.to_owned()));
        Ok(())
    }

    /// Adds a row of this role.
    pub(super) fn push(&mut self, row: Row) {
        if self.file.is_none() {
            return;
        }
        if self.rows >= ROWS_MAX {
            self.begin_anew();
        }
        let entry = self.chain.push(&row);
        self.waiting.extend_from_slice(&entry.encode());
        self.rows += 1;
    }

    /// Adds a row of PID 1's ring, under a number of this chain.
    pub(super) fn take(&mut self, bytes: &[u8]) {
        let Ok(Entry { seq, row, .. }) = Entry::decode(bytes) else {
            return;
        };
        if self.before.contains(&(seq, row.at_ns)) {
            self.fetched = seq;
            return;
        }
        if seq > self.fetched + 1 && self.fetched > 0 {
            let mut lost = Row::new(Kind::Lost, row.at_ns, row.beat);
            lost.id = seq - self.fetched - 1;
            self.push(lost);
        }
        self.fetched = seq;
        self.push(Row { origin: seq, ..row });
    }

    /// Number of the newest row of PID 1's ring that is here.
    pub(super) fn fetched(&self) -> u64 {
        self.fetched
    }

    /// Rows behind this number, or the newest ones for 0, at most so many; nothing without a file.
    pub(super) fn rows(&mut self, after: u64, count: u64) -> Vec<[u8; ROW_BYTES]> {
        self.flush();
        let waiting = (self.waiting.len() / ROW_BYTES) as u64;
        let whole = self.rows.saturating_sub(waiting);
        let first = match after.checked_sub(self.base) {
            _ if after == 0 => whole.saturating_sub(count),
            // A number of the file before: its rows are not at hand any more.
            None => 0,
            // One that no row has yet: the file was lost, and whoever follows it begins anew.
            Some(behind) if behind > whole => 0,
            Some(behind) => behind,
        };
        let Some((file, _)) = &self.file else {
            return Vec::new();
        };
        let row = |number: u64| {
            let mut row = [0; ROW_BYTES];
            let read = file.read_exact_at(&mut row, number * ROW_BYTES as u64);
            read.ok().map(|()| row)
        };
        let last = whole.min(first.saturating_add(count));
        (first..last).map_while(row).collect()
    }

    /// Writes what waits. A disk that does not take it is said once a try, and the rows wait.
    pub(super) fn flush(&mut self) {
        if self.waiting.is_empty() {
            return;
        }
        if let Some((file, _)) = &mut self.file {
            match file
                .write_all(&self.waiting)
                .and_then(|()| file.sync_data())
            {
                Ok(()) => self.waiting.clear(),
                Err(e) => {
                    eprintln!("<4>cortex: {NAME}: {e}");
                    // What was written of it makes no chain: cut, and tried again with the next look.
                    let whole = self.rows * ROW_BYTES as u64 - self.waiting.len() as u64;
                    if file.set_len(whole).is_err() || self.waiting.len() > WAITING_BYTES_MAX {
                        self.file = None;
                        self.waiting.clear();
                    }
                }
            }
        }
    }

    /// Puts the full file aside; the chain goes on in the new one.
    fn begin_anew(&mut self) {
        self.flush();
        self.waiting.clear();
        let Some((_, folder)) = self.file.take() else {
            return;
        };
        let moved = fs::rename(folder.join(NAME), folder.join(BEFORE));
        if let Err(e) = moved.and_then(|()| self.read(&folder)) {
            eprintln!("<4>cortex: {NAME}: {e}");
        }
    }
}

/// Rows of PID 1's ring among the newest of a file: number and time.
fn taken_of(path: &Path) -> Vec<(u64, u64)> {
    let Ok(file) = File::open(path) else {
        return Vec::new();
    };
    let rows = file.metadata().map_or(0, |m| m.len() / ROW_BYTES as u64);
    let row = |at: u64| {
        let mut row = [0; ROW_BYTES];
        file.read_exact_at(&mut row, at * ROW_BYTES as u64).ok()?;
        let row = Entry::decode(&row).ok()?.row;
        (row.origin > 0).then_some((row.origin, row.at_ns))
    };
    (rows.saturating_sub(LOOKED_BACK)..rows)
        .filter_map(row)
        .collect()
}

/// The last whole row of a file, if it is one.
fn last_of(path: &Path) -> Option<Entry> {
    let file = File::open(path).ok()?;
    let rows = file.metadata().ok()?.len() / ROW_BYTES as u64;
    let mut row = [0; ROW_BYTES];
    file.read_exact_at(&mut row, rows.checked_sub(1)? * ROW_BYTES as u64)
        .ok()?;
    Entry::decode(&row).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_chain_go_on_in_the_file_behind_a_full_one() {
        let folder = tempfile::tempdir().unwrap();
        let mut journal = JournalFile::open(Some(folder.path()));
        for at_ns in 0..ROWS_MAX + 3 {
            journal.push(Row::new(Kind::Published, at_ns, 0));
        }
        let numbers = |journal: &mut JournalFile, after, count| {
            let rows = journal.rows(after, count);
            let entries = rows.iter().map(|row| Entry::decode(row).unwrap().seq);
            entries.collect::<Vec<_>>()
        };
        let [a, b, c] = [ROWS_MAX + 1, ROWS_MAX + 2, ROWS_MAX + 3];
        assert_eq!(numbers(&mut journal, 0, 2), [b, c]);
        assert_eq!(numbers(&mut journal, a, 64), [b, c]);
        assert_eq!(numbers(&mut journal, ROWS_MAX, 64), [a, b, c]);
        assert_eq!(
            numbers(&mut journal, 5, 64),
            [a, b, c],
            "from the file before"
        );
        assert!(numbers(&mut journal, c, 64).is_empty());

        // The new file's rows hold behind the last one of the file before.
        let before = last_of(&folder.path().join(BEFORE)).unwrap();
        assert_eq!(before.seq, ROWS_MAX);
        let mut chain = Chain::behind(before.seq, before.hash);
        for row in journal.rows(ROWS_MAX, 64) {
            chain.check(&row).unwrap();
        }
        let mut again = JournalFile::open(Some(folder.path()));
        assert_eq!((again.base, again.rows), (ROWS_MAX, 3));
        again.push(Row::new(Kind::Published, 0, 0));
        assert_eq!(numbers(&mut again, c, 64), [c + 1]);
        // One changed bit in the file before costs no row of this one.
        let path = folder.path().join(BEFORE);
        let mut bytes = fs::read(&path).unwrap();
        *bytes.last_mut().unwrap() ^= 1;
        fs::write(&path, bytes).unwrap();
        let mut beside = JournalFile::open(Some(folder.path()));
        assert_eq!(numbers(&mut beside, 5, 64), [a, b, c, c + 1]);
        // Without the file before, the rest still holds and goes on.
        fs::remove_file(folder.path().join(BEFORE)).unwrap();
        let mut alone = JournalFile::open(Some(folder.path()));
        assert_eq!(numbers(&mut alone, 5, 64), [a, b, c, c + 1]);
        alone.push(Row::new(Kind::Published, 0, 0));
        assert_eq!(numbers(&mut alone, c, 64), [c + 1, c + 2]);
    }

    #[test]
    fn a_first_row_with_the_number_0_is_cut() {
        let folder = tempfile::tempdir().unwrap();
        let mut journal = JournalFile::open(Some(folder.path()));
        journal.push(Row::new(Kind::Published, 1, 0));
        assert_eq!(journal.rows(0, 64).len(), 1);
        let path = folder.path().join(NAME);
        let mut bytes = fs::read(&path).unwrap();
        bytes[0] ^= 1;
        fs::write(&path, bytes).unwrap();
        let mut again = JournalFile::open(Some(folder.path()));
        assert_eq!((again.base, again.rows), (0, 0));
        again.push(Row::new(Kind::Published, 2, 0));
        assert_eq!(again.rows(0, 64).len(), 1);
    }

    #[test]
    fn a_row_of_the_ring_in_the_file_before_is_not_taken_again() {
        let folder = tempfile::tempdir().unwrap();
        let mut ring = Chain::default();
        let rows = [1, 2, 3].map(|at_ns| ring.push(&Row::new(Kind::Raised, at_ns, 0)).encode());
        let mut journal = JournalFile::open(Some(folder.path()));
        for at_ns in 0..ROWS_MAX - 3 {
            journal.push(Row::new(Kind::Published, at_ns, 0));
        }
        for row in &rows {
            journal.take(row);
        }
        journal.push(Row::new(Kind::Published, 0, 0));
        assert_eq!(journal.rows(0, 64).len(), 1);
        let mut again = JournalFile::open(Some(folder.path()));
        for row in &rows {
            again.take(row);
        }
        assert_eq!((again.fetched(), again.rows(0, 64).len()), (3, 1));
    }

    #[test]
    fn rows_are_read_back_the_newest_or_those_behind_a_number() {
        let folder = tempfile::tempdir().unwrap();
        let mut journal = JournalFile::open(Some(folder.path()));
        for at_ns in 1..=5 {
            journal.push(Row::new(Kind::Published, at_ns, 0));
        }
        let mut read = |after, count| {
            let rows = journal.rows(after, count);
            let entries = rows.iter().map(|row| Entry::decode(row).unwrap().seq);
            entries.collect::<Vec<_>>()
        };
        assert_eq!(read(0, 64), [1, 2, 3, 4, 5]);
        assert_eq!(read(0, 2), [4, 5]);
        assert_eq!(read(2, 2), [3, 4]);
        assert!(read(5, 64).is_empty());
        assert_eq!(read(32_768, 2), [1, 2], "the file was lost");
        assert_eq!(read(u64::MAX, u64::MAX).len(), 5);
        assert!(JournalFile::open(None).rows(0, 64).is_empty());
    }
}
