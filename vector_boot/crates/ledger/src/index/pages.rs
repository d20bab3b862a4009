//! Files of checked pages: what snapshots are written into and read from, a page at a time.
//!
//! Page 0 is the header and has a hash of its own; every other page ends in a checksum that is seeded
//! with what the file is of and with the page's number, and is checked each time it comes off the disk.
//! A small cache is shared by all files, so that reading them takes no memory of their size.

use crate::files::{There, Writing};
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

/// Bytes of a page.
pub const PAGE_BYTES: usize = 4096;
/// Bytes of a page behind the header that are content.
pub const CONTENT_BYTES: usize = PAGE_BYTES - 4;
/// Pages that are kept: 1 MiB, some queries' worth of directories.
const CACHED: usize = 256;

/// What a file's pages belong to: the log's id and the first event's.
pub type Seed = ([u8; 16], u64);

fn checksum(seed: &Seed, page: u64, content: &[u8]) -> u32 {
    let mut crc = crc32fast::Hasher::new();
    crc.update(&seed.0);
    crc.update(&seed.1.to_le_bytes());
    crc.update(&page.to_le_bytes());
    crc.update(content);
    crc.finalize()
}

/// Writes content behind a header page that is filled in last.
pub struct PageWriter {
    out: BufWriter<Writing>,
    seed: Seed,
    page: u64,
    content: Vec<u8>,
}

impl PageWriter {
    /// Into a new file.
    ///
    /// # Errors
    /// As `open(2)` and `write(2)`.
    pub fn create(path: &Path, seed: Seed) -> io::Result<Self> {
        let mut out = BufWriter::new(Writing::begin(path, There::Anything)?);
        out.write_all(&[0; PAGE_BYTES])?;
        Ok(Self {
            out,
            seed,
            page: 1,
            content: Vec::with_capacity(CONTENT_BYTES),
        })
    }

    /// Content so far.
    #[must_use]
    pub fn position(&self) -> u64 {
        (self.page - 1) * CONTENT_BYTES as u64 + self.content.len() as u64
    }

    fn end_page(&mut self) -> io::Result<()> {
        self.content.resize(CONTENT_BYTES, 0);
        let checksum = checksum(&self.seed, self.page, &self.content);
        self.out.write_all(&self.content)?;
        self.out.write_all(&checksum.to_le_bytes())?;
        self.content.clear();
        self.page += 1;
        Ok(())
    }

    /// Ends the content; `header` makes page 0 of the file's length.
    ///
    /// # Errors
    /// As `write(2)`.
    pub fn finish(mut self, header: impl FnOnce(u64) -> [u8; PAGE_BYTES]) -> io::Result<()> {
        if !self.content.is_empty() {
            self.end_page()?;
        }
        let file = self.out.into_inner().map_err(|e| e.into_error())?;
        file.write_at(&header(self.page * PAGE_BYTES as u64), 0)
    }
}

impl Write for PageWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let n = bytes.len().min(CONTENT_BYTES - self.content.len());
        self.content
            .extend_from_slice(bytes.get(..n).unwrap_or_default());
        if self.content.len() == CONTENT_BYTES {
            self.end_page()?;
        }
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

type Page = Arc<[u8]>;

/// Pages read lately, of all files.
#[derive(Default)]
pub struct Cache {
    slots: Mutex<Vec<Option<(u64, u64, Page)>>>,
}

impl Cache {
    fn slot(file: u64, page: u64) -> usize {
        // Fibonacci hashing; the remainder fits any usize.
        let mixed = (file ^ page.rotate_left(32)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        (mixed >> 32) as usize % CACHED
    }

    fn get(&self, file: u64, page: u64) -> Option<Page> {
        let slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        match slots.get(Self::slot(file, page)) {
            Some(Some((f, p, content))) if (*f, *p) == (file, page) => Some(content.clone()),
            _ => None,
        }
    }

    fn put(&self, file: u64, page: u64, content: &Page) {
        let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        if slots.is_empty() {
            slots.resize_with(CACHED, || None);
        }
        if let Some(slot) = slots.get_mut(Self::slot(file, page)) {
            *slot = Some((file, page, content.clone()));
        }
    }
}

/// Reads the content of a file, by way of the cache. Holds no descriptor: there may be a thousand.
pub struct PageReader {
    path: PathBuf,
    seed: Seed,
    /// Names the file in the cache: a file that is written anew is another one.
    number: u64,
    cache: Arc<Cache>,
}

impl PageReader {
    /// Over a file whose header was checked.
    #[must_use]
    pub fn new(path: PathBuf, seed: Seed, number: u64, cache: Arc<Cache>) -> Self {
        Self {
            path,
            seed,
            number,
            cache,
        }
    }

    /// Where the file lies.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Fills `buf` with the content from `at` on.
    ///
    /// # Errors
    /// As `open(2)` and `pread(2)`; `InvalidData` if a page does not hold.
    pub fn read(&self, mut at: u64, mut buf: &mut [u8]) -> io::Result<()> {
        let mut file = None;
        while !buf.is_empty() {
            let number = 1 + at / CONTENT_BYTES as u64;
            // Less than a page.
            let inside = (at % CONTENT_BYTES as u64) as usize;
            let page = match self.cache.get(self.number, number) {
                Some(page) => page,
                None => {
                    let file = match &file {
                        Some(file) => file,
                        None => file.insert(File::open(&self.path)?),
                    };
                    let page = self.load(file, number)?;
                    self.cache.put(self.number, number, &page);
                    page
                }
            };
            let n = buf.len().min(CONTENT_BYTES - inside);
            let (now, rest) = buf.split_at_mut(n);
            let from = page.get(inside..inside + n);
            now.copy_from_slice(from.ok_or(io::ErrorKind::InvalidData)?);
            buf = rest;
            at += n as u64;
        }
        Ok(())
    }

    fn load(&self, file: &File, number: u64) -> io::Result<Page> {
        let mut page = [0; PAGE_BYTES];
        file.read_exact_at(&mut page, number.saturating_mul(PAGE_BYTES as u64))
            .map_err(|e| match e.kind() {
                io::ErrorKind::UnexpectedEof => io::ErrorKind::InvalidData.into(),
                _ => e,
            })?;
        let (content, stored) = page.split_at(CONTENT_BYTES);
        if stored != checksum(&self.seed, number, content).to_le_bytes() {
            let why = format!("{}: page {number} does not hold", self.path.display());
            return Err(io::Error::new(io::ErrorKind::InvalidData, why));
        }
        Ok(content.into())
    }
}

/// A range of a file's content as a stream.
pub struct Stream<'f> {
    /// The file.
    pub file: &'f PageReader,
    /// Next byte.
    pub at: u64,
    /// End of the range.
    pub end: u64,
}

impl io::Read for Stream<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let left = usize::try_from(self.end.saturating_sub(self.at)).unwrap_or(usize::MAX);
        let n = buf.len().min(left);
        self.file
            .read(self.at, buf.get_mut(..n).unwrap_or_default())?;
        self.at += n as u64;
        Ok(n)
    }
}
