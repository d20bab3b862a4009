//! One page of 64-bit words that one process writes and others read, without locks.
//!
//! Owns: the mapping of a 4 KiB memfd and the rule of its first two words: word 0 is a magic that
//! says whose layout follows, word 1 a sequence that is odd while a write is under way. Layouts
//! live in `wire::stats` and `wire::sensors`.
//!
//! A reader copies words between two looks at the sequence and tries again when it moved; it gives
//! up after [`ATTEMPTS_MAX`] rather than wait. A writer never waits at all, so a hostile or dead
//! reader cannot slow it. Every access is an atomic one: no torn word, no data race.
//!
//! Never here: blocking, allocation after the mapping is made. Start with [`Writer`] and [`Reader`].

use memmap2::{MmapOptions, MmapRaw};
use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::sync::atomic::{AtomicU64, Ordering, fence};

/// Bytes of a page.
pub const PAGE_BYTES: usize = 4096;
/// Words of a page, magic and sequence among them.
pub const WORDS: usize = PAGE_BYTES / 8;
/// First word that belongs to the layout.
pub const FIRST_WORD: usize = 2;
/// A write of a whole page takes under a microsecond, so 64 attempts outlast any writer that runs;
/// past that it was stopped or died in the middle.
pub const ATTEMPTS_MAX: u32 = 64;
/// Attempts before the reader gives its processor away: on one processor the writer needs it.
const ATTEMPTS_SPINNING: u32 = 8;

/// Word 0.
const MAGIC_WORD: usize = 0;
/// Word 1.
const SEQUENCE_WORD: usize = 1;

/// Why a page could not be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReadError {
    /// No writer has begun on this page yet, or it belongs to another layout.
    Magic {
        /// Word 0 as found.
        found: u64,
    },
    /// The page changed during every attempt, or its writer stopped in the middle.
    Busy,
    /// The words asked for do not lie in the page.
    Range,
}

impl std::fmt::Display for ReadError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Magic { found } => write!(f, "page has magic {found:#x}"),
            Self::Busy => write!(f, "page changed during {ATTEMPTS_MAX} attempts"),
            Self::Range => write!(f, "words past the page's {WORDS}"),
        }
    }
}

impl std::error::Error for ReadError {}

/// The mapping; hands out its words as atomics.
#[derive(Debug)]
struct Page(MmapRaw);

impl Page {
    fn map(fd: &impl AsFd, writable: bool) -> io::Result<Self> {
        let fd = fd.as_fd();
        let seals = SealFlag::from_bits_truncate(fcntl(fd, FcntlArg::F_GET_SEALS)?);
        let bytes = crate::mapping::byte_length(&fd)?;
        // A page that its other owner can shorten is a SIGBUS in ours.
        if !seals.contains(SealFlag::F_SEAL_SHRINK) || bytes < PAGE_BYTES as u64 {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!(
                    "shared page: {bytes} bytes, seals {seals:?}; needs {PAGE_BYTES} bytes and F_SEAL_SHRINK"
                ),
            ));
        }
        let mut options = MmapOptions::new();
        options.len(PAGE_BYTES);
        let raw = fd.as_raw_fd();
        let map = if writable {
            options.map_raw(raw)?
        } else {
            options.map_raw_read_only(raw)?
        };
        Ok(Self(map))
    }

    fn word(&self, index: usize) -> Option<&AtomicU64> {
        if index >= WORDS {
            return None;
        }
        let first: *mut u64 = self.0.as_mut_ptr().cast();
        // SAFETY: `index` is below WORDS, so the word lies in the mapping of PAGE_BYTES, which lives
        // as long as `self`; a page is aligned for u64; memory that other processes change is read
        // and written through atomics alone; the size is sealed, so no access meets a missing page.
        // A read-only page is only ever loaded from: `Reader` has no method that stores.
        Some(unsafe { AtomicU64::from_ptr(first.add(index)) })
    }

    fn load(&self, index: usize, order: Ordering) -> u64 {
        self.word(index).map_or(0, |word| word.load(order))
    }

    fn store(&self, index: usize, value: u64, order: Ordering) {
        if let Some(word) = self.word(index) {
            word.store(value, order);
        }
    }
}

/// The one process that writes a page.
#[derive(Debug)]
pub struct Writer {
    page: Page,
    magic: u64,
}

impl Writer {
    /// Makes a memfd page with this magic, and its writer. Pass the file to readers.
    ///
    /// # Errors
    /// As `memfd_create(2)` and `mmap(2)`.
    pub fn create(name: &str, magic: u64) -> io::Result<(File, Self)> {
        let file = crate::memfd::shared(name, PAGE_BYTES as u64)?;
        let writer = Self::over(&file, magic)?;
        Ok((file, writer))
    }

    /// Takes over the writing of a page that exists: words written before stay as they are, and a
    /// write that its former owner left half done is closed.
    ///
    /// # Errors
    /// `InvalidInput` unless it is a memfd of at least a page with its size sealed; as `mmap(2)`.
    pub fn over(fd: &impl AsFd, magic: u64) -> io::Result<Self> {
        let mut writer = Self {
            page: Page::map(fd, true)?,
            magic,
        };
        writer.update(|_| ());
        Ok(writer)
    }

    /// Changes words as one step: a reader sees all of them or none.
    pub fn update(&mut self, change: impl FnOnce(&mut Words<'_>)) {
        let page = &self.page;
        // The next odd number, also when a former writer died at an odd one.
        let writing = page.load(SEQUENCE_WORD, Ordering::Relaxed).wrapping_add(1) | 1;
        page.store(SEQUENCE_WORD, writing, Ordering::Relaxed);
        // Orders the odd sequence before every word: a reader that sees a new word sees it too.
        fence(Ordering::Release);
        page.store(MAGIC_WORD, self.magic, Ordering::Relaxed);
        change(&mut Words(page));
        page.store(SEQUENCE_WORD, writing.wrapping_add(1), Ordering::Release);
    }
}

/// The words of a page during one [`Writer::update`].
#[derive(Debug)]
pub struct Words<'a>(&'a Page);

impl Words<'_> {
    /// Sets one word of the layout; indices below [`FIRST_WORD`] or from [`WORDS`] on are ignored.
    pub fn set(&mut self, index: usize, value: u64) {
        if index >= FIRST_WORD {
            self.0.store(index, value, Ordering::Relaxed);
        }
    }

    /// The word's value so far; zero past the page.
    #[must_use]
    pub fn get(&self, index: usize) -> u64 {
        self.0.load(index, Ordering::Relaxed)
    }

    /// Adds to a counter, wrapping.
    pub fn add(&mut self, index: usize, more: u64) {
        self.set(index, self.get(index).wrapping_add(more));
    }
}

/// A process that reads a page and cannot change it.
#[derive(Debug)]
pub struct Reader {
    page: Page,
    magic: u64,
}

impl Reader {
    /// Maps a page read-only; it may be blank until its writer begins.
    ///
    /// # Errors
    /// `InvalidInput` unless it is a memfd of at least a page with its size sealed; as `mmap(2)`.
    pub fn over(fd: &impl AsFd, magic: u64) -> io::Result<Self> {
        Ok(Self {
            page: Page::map(fd, false)?,
            magic,
        })
    }

    /// Copies the words from `first` on, all of one moment, and returns the sequence of that moment
    /// (it grows by two a write).
    ///
    /// # Errors
    /// [`ReadError`]; `out` then holds nothing of use.
    pub fn read(&self, first: usize, out: &mut [u64]) -> Result<u64, ReadError> {
        if first.checked_add(out.len()).is_none_or(|end| end > WORDS) {
            return Err(ReadError::Range);
        }
        for attempt in 0..ATTEMPTS_MAX {
            let before = self.page.load(SEQUENCE_WORD, Ordering::Acquire);
            if before & 1 == 0 {
                let found = self.page.load(MAGIC_WORD, Ordering::Relaxed);
                for (index, word) in (first..).zip(out.iter_mut()) {
                    *word = self.page.load(index, Ordering::Relaxed);
                }
                // Keeps the loads above from sinking below the second look.
                fence(Ordering::Acquire);
                if self.page.load(SEQUENCE_WORD, Ordering::Relaxed) == before {
                    return if found == self.magic {
                        Ok(before)
                    } else {
                        Err(ReadError::Magic { found })
                    };
                }
            }
            if attempt < ATTEMPTS_SPINNING {
                std::hint::spin_loop()
            } else {
                std::thread::yield_now()
            }
        }
        Err(ReadError::Busy)
    }

    /// One word.
    ///
    /// # Errors
    /// As [`Self::read`].
    pub fn word(&self, index: usize) -> Result<u64, ReadError> {
        let mut one = [0];
        self.read(index, &mut one)?;
        let [value] = one;
        Ok(value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicBool;

    const MAGIC: u64 = u64::from_le_bytes(*b"VBTESTS1");

    #[test]
    fn a_reader_sees_what_was_written_and_cannot_be_foreign() {
        let (file, mut writer) = Writer::create("page", MAGIC).unwrap();
        writer.update(|words| {
            words.set(2, 7);
            words.add(2, 1);
            words.set(WORDS - 1, 9);
            words.set(0, 1);
            words.set(1, 1);
            words.set(WORDS, 1);
        });
        let reader = Reader::over(&file, MAGIC).unwrap();
        assert_eq!(reader.word(2), Ok(8));
        assert_eq!(reader.word(WORDS - 1), Ok(9));
        assert_eq!(reader.word(WORDS), Err(ReadError::Range));
        assert_eq!(reader.read(usize::MAX, &mut [0, 0]), Err(ReadError::Range));
        let foreign = Reader::over(&file, 1).unwrap();
        assert_eq!(foreign.word(2), Err(ReadError::Magic { found: MAGIC }));
    }

    #[test]
    fn a_blank_page_is_said_to_be_blank() {
        let file = crate::memfd::shared("page", PAGE_BYTES as u64).unwrap();
        let reader = Reader::over(&file, MAGIC).unwrap();
        assert_eq!(reader.word(2), Err(ReadError::Magic { found: 0 }));
    }

    #[test]
    fn a_page_that_could_shrink_is_refused() {
        let file = crate::memfd::create("page").unwrap();
        file.set_len(PAGE_BYTES as u64).unwrap();
        assert!(Reader::over(&file, MAGIC).is_err());
        assert!(Reader::over(&crate::memfd::shared("short", 4095).unwrap(), MAGIC).is_err());
        assert!(Writer::over(&tempfile::tempfile().unwrap(), MAGIC).is_err());
    }

    #[test]
    fn a_write_left_half_done_is_busy_until_the_next_writer_closes_it() {
        let (file, mut writer) = Writer::create("page", MAGIC).unwrap();
        writer.update(|words| words.set(2, 5));
        writer.page.store(SEQUENCE_WORD, 99, Ordering::Relaxed);
        let reader = Reader::over(&file, MAGIC).unwrap();
        assert_eq!(reader.word(2), Err(ReadError::Busy));
        let _next = Writer::over(&file, MAGIC).unwrap();
        assert_eq!(reader.word(2), Ok(5));
    }

    #[test]
    fn readers_never_see_half_a_write() {
        let (file, mut writer) = Writer::create("page", MAGIC).unwrap();
        let reader = Reader::over(&file, MAGIC).unwrap();
        let done = AtomicBool::new(false);
        let seen = std::thread::scope(|scope| {
            let watching = scope.spawn(|| {
                let mut seen = 0u64;
                let mut words = [0; 200];
                while !done.load(Ordering::Relaxed) || seen == 0 {
                    if reader.read(FIRST_WORD, &mut words).is_ok() {
                        seen += 1;
                        assert!(words.iter().all(|word| *word == words[0]));
                    }
                }
                seen
            });
            for round in 0..20_000 {
                writer.update(|words| (2..202).for_each(|index| words.set(index, round)));
            }
            done.store(true, Ordering::Relaxed);
            watching.join().unwrap()
        });
        assert!(seen > 0);
    }
}
