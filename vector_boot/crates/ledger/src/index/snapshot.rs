//! A sealed segment's part of the index in a file; `docs/ledger-format.md` says its bytes.
//!
//! A snapshot holds only for the segment that it names: log, epoch, first event, and the chain values
//! before and behind it. Start with [`write`] and [`Snapshot::open`].

use super::Extent;
use super::pages::{Cache, PAGE_BYTES, PageReader, PageWriter, Stream};
use super::part::{ANCHOR_EVERY, Dimension, Part, Span, hash, key, spill_of};
use crate::files;
use ledger_core::Hash;
use roaring::RoaringBitmap;
use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

const MAGIC: &[u8; 8] = b"VBLINDEX";
const VERSION: u32 = 2;
const CONTEXT: &str = "vb-ledger-index v1";
/// Where the header's hash lies.
const HASHED: usize = PAGE_BYTES - 32;
/// The header's fields end here.
const FIELDS: usize = 240;
const SPAN_BYTES: u64 = 32;
const CAUSE_BYTES: u64 = 12;
const ENTRY_BYTES: u64 = 24;

/// Sections in the order of the header's table.
const ANCHORS: usize = 0;
const BLOCKS: usize = 1;
const CAUSES: usize = 2;
const BITMAPS: usize = 3;
const ENTRIES: usize = 4;
const SECTIONS: usize = 5;

/// Where a section lies in the content: first byte and length.
type Section = (u64, u64);

/// How the names of snapshots begin.
pub const PREFIX: &str = "segment-";

/// Name of a segment's snapshot.
#[must_use]
pub fn file_name(first_id: u64) -> String {
    format!("{PREFIX}{first_id:020}")
}

/// Which segment a snapshot must be of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wanted {
    /// The segment.
    pub extent: Extent,
    /// Its events.
    pub events: u32,
    /// Chain value behind it.
    pub chain: Hash,
}

/// Writes a part. What a power cut leaves of the file is found by its checksums; no sync of ours may
/// hold up the log's.
///
/// # Errors
/// As the file system's.
pub fn write(folder: &Path, wanted: &Wanted, part: &mut Part) -> io::Result<()> {
    let extent = &wanted.extent;
    let path = folder.join(file_name(extent.first_id));
    let unfinished = path.with_extension("new");
    let seed = (extent.place.log_id, extent.first_id);
    let mut out = PageWriter::create(&unfinished, seed)?;
    let mut sections = [(0, 0); SECTIONS];
    let mut section = |out: &mut PageWriter,
                       n: usize,
                       fill: &mut dyn FnMut(&mut PageWriter) -> io::Result<()>|
     -> io::Result<()> {
        let begin = out.position();
        fill(out)?;
        if let Some(section) = sections.get_mut(n) {
            *section = (begin, out.position() - begin);
        }
        Ok(())
    };
    section(&mut out, ANCHORS, &mut |out| {
        let mut anchors = part.anchors.iter();
        anchors.try_for_each(|offset| out.write_all(&offset.to_le_bytes()))
    })?;
    section(&mut out, BLOCKS, &mut |out| {
        let mut blocks = part.blocks.iter();
        blocks.try_for_each(|span| out.write_all(&span_bytes(span)))
    })?;
    section(&mut out, CAUSES, &mut |out| {
        part.causes().iter().try_for_each(|(cause, ordinal)| {
            out.write_all(&cause.to_le_bytes())?;
            out.write_all(&ordinal.to_le_bytes())
        })
    })?;
    let mut entries = Vec::with_capacity(part.postings.len());
    section(&mut out, BITMAPS, &mut |out| {
        let begin = out.position();
        let mut postings: Vec<_> = part.postings.iter_mut().collect();
        postings.sort_unstable_by_key(|(key, _)| **key);
        for (key, list) in postings {
            list.optimize();
            let at = out.position() - begin;
            list.serialize_into(&mut *out)?;
            let bytes = out.position() - begin - at;
            entries.push((*key, at, bytes, list.len()));
        }
        Ok(())
    })?;
    section(&mut out, ENTRIES, &mut |out| {
        entries.iter().try_for_each(|(key, at, bytes, events)| {
            out.write_all(&key.to_le_bytes())?;
            out.write_all(&at.to_le_bytes())?;
            // A posting holds at most a segment's events.
            out.write_all(&u32::try_from(*bytes).unwrap_or(u32::MAX).to_le_bytes())?;
            out.write_all(&u32::try_from(*events).unwrap_or(u32::MAX).to_le_bytes())
        })
    })?;
    out.finish(|bytes| header(wanted, &part.span, bytes, &sections))?;
    files::rename(&unfinished, &path)
}

fn span_bytes(span: &Span) -> [u8; SPAN_BYTES as usize] {
    let mut out = [0; SPAN_BYTES as usize];
    let words = [span.wall.0, span.wall.1, span.monotonic.0, span.monotonic.1];
    let bytes = words.iter().flat_map(|word| word.to_le_bytes());
    out.iter_mut().zip(bytes).for_each(|(o, b)| *o = b);
    out
}

fn header(
    wanted: &Wanted,
    span: &Span,
    bytes: u64,
    sections: &[Section; SECTIONS],
) -> [u8; PAGE_BYTES] {
    let extent = &wanted.extent;
    let mut fields = Vec::with_capacity(PAGE_BYTES);
    fields.extend_from_slice(MAGIC);
    fields.extend_from_slice(&VERSION.to_le_bytes());
    fields.extend_from_slice(&(PAGE_BYTES as u32).to_le_bytes());
    fields.extend_from_slice(&extent.place.log_id);
    fields.extend_from_slice(&extent.place.epoch.to_le_bytes());
    fields.extend_from_slice(&extent.place.segment.to_le_bytes());
    fields.extend_from_slice(&wanted.events.to_le_bytes());
    fields.extend_from_slice(&extent.first_id.to_le_bytes());
    fields.extend_from_slice(&extent.chain);
    fields.extend_from_slice(&wanted.chain);
    fields.extend_from_slice(&bytes.to_le_bytes());
    fields.extend_from_slice(&span_bytes(span));
    for (at, length) in sections {
        fields.extend_from_slice(&at.to_le_bytes());
        fields.extend_from_slice(&length.to_le_bytes());
    }
    debug_assert_eq!(fields.len(), FIELDS, "the table in docs/ledger-format.md");
    fields.resize(HASHED, 0);
    let hash = blake3::derive_key(CONTEXT, &fields);
    fields.extend_from_slice(&hash);
    let mut page = [0; PAGE_BYTES];
    page.iter_mut().zip(fields).for_each(|(o, b)| *o = b);
    page
}

/// A snapshot whose header holds. Its pages are checked as they are read.
pub struct Snapshot {
    pages: PageReader,
    first_id: u64,
    /// Times of all events.
    pub span: Span,
    sections: [Section; SECTIONS],
}

impl Snapshot {
    /// Opens the snapshot of a segment; `number` is new for each that is opened.
    ///
    /// # Errors
    /// As `open(2)` and `pread(2)`; `InvalidData` if its header is not that segment's.
    pub fn open(
        folder: &Path,
        wanted: &Wanted,
        number: u64,
        cache: &Arc<Cache>,
    ) -> io::Result<Self> {
        let path = folder.join(file_name(wanted.extent.first_id));
        let mut page = [0; PAGE_BYTES];
        let file = File::open(&path)?;
        file.read_exact_at(&mut page, 0)?;
        let (span, sections) = table(&page).ok_or(io::ErrorKind::InvalidData)?;
        let length = file.metadata()?.len();
        // Every other field is what would be written now.
        if page != header(wanted, &span, length, &sections) {
            return Err(io::ErrorKind::InvalidData.into());
        }
        let seed = (wanted.extent.place.log_id, wanted.extent.first_id);
        Ok(Self {
            pages: PageReader::new(path, seed, number, cache.clone()),
            first_id: wanted.extent.first_id,
            span,
            sections,
        })
    }

    /// Where it lies.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        self.pages.path().to_owned()
    }

    /// Reads an item of a section, `None` behind its end.
    fn item<const N: usize>(&self, section: usize, n: u64) -> io::Result<Option<[u8; N]>> {
        let (begin, length) = self.sections.get(section).copied().unwrap_or((0, 0));
        let at = n.saturating_mul(N as u64);
        if at.saturating_add(N as u64) > length {
            return Ok(None);
        }
        let mut out = [0; N];
        self.pages.read(begin + at, &mut out)?;
        Ok(Some(out))
    }

    fn items(&self, section: usize, bytes: u64) -> u64 {
        self.sections.get(section).map_or(0, |s| s.1 / bytes)
    }

    /// First item of a section for which `less` is false.
    fn partition<const N: usize>(
        &self,
        section: usize,
        less: impl Fn(&[u8; N]) -> bool,
    ) -> io::Result<u64> {
        let (mut low, mut high) = (0, self.items(section, N as u64));
        while low < high {
            let middle = low + (high - low) / 2;
            match self.item::<N>(section, middle)? {
                Some(item) if less(&item) => low = middle + 1,
                _ => high = middle,
            }
        }
        Ok(low)
    }

    /// As [`Part::anchor`].
    ///
    /// # Errors
    /// As [`PageReader::read`].
    pub fn anchor(&self, ordinal: u32) -> io::Result<Option<u32>> {
        let item = self.item::<4>(ANCHORS, u64::from(ordinal / ANCHOR_EVERY))?;
        Ok(item.map(u32::from_le_bytes))
    }

    /// Times of a block.
    ///
    /// # Errors
    /// As [`PageReader::read`].
    pub fn block(&self, block: u32) -> io::Result<Option<Span>> {
        let item = self.item::<{ SPAN_BYTES as usize }>(BLOCKS, u64::from(block))?;
        Ok(item.map(|bytes| span_of(&bytes)))
    }

    fn list(&self, wanted: u64) -> io::Result<Option<RoaringBitmap>> {
        let key_of = |item: &[u8; ENTRY_BYTES as usize]| word(item, 0);
        let n = self.partition(ENTRIES, |item| key_of(item) < wanted)?;
        let item = self.item::<{ ENTRY_BYTES as usize }>(ENTRIES, n)?;
        let Some(item) = item.filter(|item| key_of(item) == wanted) else {
            return Ok(None);
        };
        let (begin, length) = self.sections.get(BITMAPS).copied().unwrap_or((0, 0));
        let (at, bytes) = (word(&item, 8), word(&item, 16) & u64::from(u32::MAX));
        if at.saturating_add(bytes) > length {
            return Err(io::ErrorKind::InvalidData.into());
        }
        let stream = Stream {
            file: &self.pages,
            at: begin + at,
            end: begin + at + bytes,
        };
        RoaringBitmap::deserialize_from(stream).map(Some)
    }

    /// As [`Part::candidates`].
    ///
    /// # Errors
    /// As [`PageReader::read`].
    pub fn candidates(&self, filters: &[(Dimension, &str)]) -> io::Result<Option<RoaringBitmap>> {
        let mut all: Option<RoaringBitmap> = None;
        for (dimension, value) in filters {
            let hash = hash(value);
            let dimension = *dimension as usize;
            let list = match self.list(key(dimension, false, hash))? {
                Some(list) => Some(list),
                None => self.list(key(dimension, true, spill_of(dimension, hash)))?,
            };
            let Some(list) = list else {
                return Ok(Some(RoaringBitmap::new()));
            };
            all = Some(match all {
                None => list,
                Some(all) => all & list,
            });
        }
        Ok(all)
    }

    /// As [`Part::children`].
    ///
    /// # Errors
    /// As [`PageReader::read`].
    pub fn children(&self, cause: u64, out: &mut Vec<u64>) -> io::Result<()> {
        let cause_of = |item: &[u8; CAUSE_BYTES as usize]| word(item, 0);
        let mut n = self.partition(CAUSES, |item| cause_of(item) < cause)?;
        while let Some(item) = self.item::<{ CAUSE_BYTES as usize }>(CAUSES, n)? {
            if cause_of(&item) != cause {
                break;
            }
            let ordinal = item.last_chunk::<4>().map_or(0, |o| u32::from_le_bytes(*o));
            out.push(self.first_id + u64::from(ordinal));
            n += 1;
        }
        Ok(())
    }
}

/// The eight bytes at a place inside a fixed item.
fn word(item: &[u8], at: usize) -> u64 {
    let bytes = item.get(at..).and_then(|rest| rest.first_chunk::<8>());
    bytes.map_or(0, |b| u64::from_le_bytes(*b))
}

fn span_of(bytes: &[u8; SPAN_BYTES as usize]) -> Span {
    Span {
        wall: (word(bytes, 0), word(bytes, 8)),
        monotonic: (word(bytes, 16), word(bytes, 24)),
    }
}

/// Span and sections of a header page.
fn table(page: &[u8; PAGE_BYTES]) -> Option<(Span, [Section; SECTIONS])> {
    let at = FIELDS - SECTIONS * 16;
    let span = page.get(at - SPAN_BYTES as usize..)?.first_chunk()?;
    let mut sections = [(0, 0); SECTIONS];
    for (n, section) in sections.iter_mut().enumerate() {
        *section = (word(page, at + n * 16), word(page, at + n * 16 + 8));
    }
    Some((span_of(span), sections))
}
