//! Reads single events and runs of events of a log that is open, beside its committer.

use crate::device::Device;
use crate::index::Index;
use crate::slots::Slots;
use ledger_core::{
    Body, Commitment, Hash, Peek, Place, SEGMENT_HEADER_BYTES, SegmentHeader, Superblock,
    group_frame_end, open_entry, open_event, peek,
};
use std::io;
use std::sync::{Arc, Mutex, PoisonError};

/// Bytes read at once; most events and their neighbours fit.
const WINDOW_BYTES: usize = 32 * 1024;
/// Walking over this many events is cheaper than a new start at an anchor.
const WALK_MAX: u64 = 64;

/// A cursor over the events of a log.
pub struct Reader {
    device: Arc<dyn Device>,
    superblock: Superblock,
    index: Arc<Mutex<Index>>,
    /// Of the segment read last.
    place: Option<Place>,
    /// The event that begins at `at`, 0 for no position.
    id: u64,
    at: u64,
    buf: Vec<u8>,
    first: u64,
    filled: usize,
}

impl Reader {
    /// A cursor without a position.
    #[must_use]
    pub fn new(device: Arc<dyn Device>, superblock: Superblock, index: Arc<Mutex<Index>>) -> Self {
        Self {
            device: Slots::over(device, &superblock),
            superblock,
            index,
            place: None,
            id: 0,
            at: 0,
            buf: Vec::new(),
            first: 0,
            filled: 0,
        }
    }

    /// Reads one durable event: hands its chain value and body to `read`.
    ///
    /// # Errors
    /// As the device's; `InvalidData` if the frame does not hold, `NotFound` if there is none.
    pub fn event<T>(
        &mut self,
        id: u64,
        read: impl FnOnce(u64, &Hash, &Body<'_>) -> T,
    ) -> io::Result<T> {
        self.frame(id, |place, bytes| {
            let (id, chain, body) = open_event(place, bytes)?;
            Some(read(id, &chain, &body))
        })
    }

    /// As [`Self::event`], with what the tree says of it.
    ///
    /// # Errors
    /// As [`Self::event`].
    pub fn entry<T>(
        &mut self,
        id: u64,
        read: impl FnOnce(&Commitment, &Body<'_>) -> T,
    ) -> io::Result<T> {
        self.frame(id, |place, bytes| {
            let (entry, body) = open_entry(place, bytes)?;
            Some(read(&entry, &body))
        })
    }

    /// Finds a durable event's frame and opens it.
    fn frame<T>(
        &mut self,
        id: u64,
        open: impl FnOnce(&Place, &[u8]) -> Option<T>,
    ) -> io::Result<T> {
        if self.id == 0 || id < self.id || id - self.id > WALK_MAX {
            let index = self.index.lock().unwrap_or_else(PoisonError::into_inner);
            let anchor = index.anchor(id).ok_or(io::ErrorKind::NotFound)?;
            drop(index);
            (self.id, self.at) = anchor;
        }
        loop {
            let (segment, base) = self.segment_of(self.at);
            let offset = self.at - base;
            if offset >= self.superblock.segment_bytes {
                self.at = self.next_segment(segment)?;
                continue;
            }
            match peek(self.bytes(self.at, 64)?) {
                Peek::Event { id: found, bytes } if found == self.id => {
                    if found == id {
                        let place = self.place(segment)?;
                        let at = self.at;
                        let bytes = usize::try_from(bytes).unwrap_or(usize::MAX);
                        let opened = open(&place, self.bytes(at, bytes)?);
                        return opened.ok_or_else(|| self.bad(at));
                    }
                    self.id += 1;
                    self.at += bytes;
                }
                Peek::GroupEnd => {
                    self.at = base + group_frame_end(offset, self.superblock.sector_bytes);
                }
                Peek::Zero
                    if offset.is_multiple_of(u64::from(self.superblock.sector_bytes))
                        && !self.padding(base, offset)? =>
                {
                    self.at = self.next_segment(segment)?;
                }
                Peek::Zero => {
                    self.at = base + group_frame_end(offset, self.superblock.sector_bytes);
                }
                Peek::Event { .. } | Peek::Short => {
                    self.id = 0;
                    return Err(self.bad(self.at));
                }
            }
        }
    }

    /// Whether zeros at a sector's start are padding before a group frame: an event frame may end
    /// exactly there.
    fn padding(&mut self, base: u64, offset: u64) -> io::Result<bool> {
        let end = base + group_frame_end(offset, self.superblock.sector_bytes);
        let at = end - ledger_core::GROUP_FRAME_BYTES as u64;
        if end > base + self.superblock.segment_bytes {
            return Ok(false);
        }
        Ok(peek(self.bytes(at, ledger_core::GROUP_FRAME_BYTES)?) == Peek::GroupEnd)
    }

    fn segment_of(&self, at: u64) -> (u32, u64) {
        let segment = self.superblock.segment_at(at);
        (segment, self.superblock.segment_offset(segment))
    }

    fn next_segment(&self, segment: u32) -> io::Result<u64> {
        let next = segment.checked_add(1).ok_or(io::ErrorKind::NotFound)?;
        let base = self.superblock.segment_offset(next);
        Ok(base + SEGMENT_HEADER_BYTES as u64)
    }

    /// What the checksums of a segment are seeded with, by its header.
    fn place(&mut self, segment: u32) -> io::Result<Place> {
        if let Some(place) = self.place.filter(|p| p.segment == segment) {
            return Ok(place);
        }
        let mut header = [0; SEGMENT_HEADER_BYTES];
        let base = self.superblock.segment_offset(segment);
        self.device.read_at(base, &mut header)?;
        let place = SegmentHeader::decode(&header)
            .map(|header| header.place)
            .filter(|p| (p.segment, p.log_id) == (segment, self.superblock.log_id));
        self.place = place;
        place.ok_or_else(|| self.bad(base))
    }

    fn bad(&self, at: u64) -> io::Error {
        io::Error::new(
            io::ErrorKind::InvalidData,
            format!("{}: event frame does not hold", self.device.locate(at)),
        )
    }

    /// At least `need` bytes from `at`, unless the segment ends before.
    fn bytes(&mut self, at: u64, need: usize) -> io::Result<&[u8]> {
        let (_, base) = self.segment_of(at);
        let left = usize::try_from(base + self.superblock.segment_bytes - at).unwrap_or(usize::MAX);
        let need = need.min(left);
        let inside = at >= self.first && at - self.first + need as u64 <= self.filled as u64;
        if !inside {
            let n = WINDOW_BYTES.max(need).min(left);
            self.buf.resize(n, 0);
            self.filled = 0;
            self.device.read_at(at, &mut self.buf)?;
            (self.first, self.filled) = (at, n);
        }
        let skip = usize::try_from(at - self.first).unwrap_or(usize::MAX);
        Ok(self.buf.get(skip..self.filled).unwrap_or_default())
    }

    /// Forgets what was read, so that a later look sees what was written since.
    pub fn refresh(&mut self) {
        self.filled = 0;
    }
}
