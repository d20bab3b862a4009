//! Reads single events and runs of events of a log that is open, beside its committer.

use crate::device::Device;
use crate::index::{Extent, Index, Look};
use crate::slots::Slots;
use ledger_core::{
    Body, Commitment, Hash, Peek, Place, SEGMENT_HEADER_BYTES, Superblock, group_frame_end,
    open_entry, open_event, peek,
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
    /// The segment that the position is in.
    look: Option<Look>,
    /// The event that begins at `at`.
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
            look: None,
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
        self.located(id, |_, chain, body| read(id, chain, body))
    }

    /// As [`Self::event`], with the frame's offset in the log.
    ///
    /// # Errors
    /// As [`Self::event`].
    pub fn located<T>(
        &mut self,
        id: u64,
        read: impl FnOnce(u64, &Hash, &Body<'_>) -> T,
    ) -> io::Result<T> {
        self.frame(id, |place, at, bytes| {
            let (_, chain, body) = open_event(place, bytes)?;
            Some(read(at, &chain, &body))
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
        self.frame(id, |place, _, bytes| {
            let (entry, body) = open_entry(place, bytes)?;
            Some(read(&entry, &body))
        })
    }

    /// Finds a durable event's frame and opens it.
    fn frame<T>(
        &mut self,
        id: u64,
        open: impl FnOnce(&Place, u64, &[u8]) -> Option<T>,
    ) -> io::Result<T> {
        let extent = self.seek(id)?;
        loop {
            let at = self.at;
            let offset = at - extent.base;
            if offset >= self.superblock.segment_bytes {
                return Err(self.bad(at));
            }
            match peek(self.bytes(at, 64)?) {
                Peek::Event { id: found, bytes } if found == self.id => {
                    if found == id {
                        let bytes = usize::try_from(bytes).unwrap_or(usize::MAX);
                        let opened = open(&extent.place, at, self.bytes(at, bytes)?);
                        return opened.ok_or_else(|| self.bad(at));
                    }
                    self.id += 1;
                    self.at += bytes;
                }
                Peek::GroupEnd | Peek::Zero => {
                    let sector = self.superblock.sector_bytes;
                    self.at = extent.base + group_frame_end(offset, sector);
                }
                Peek::Event { .. } | Peek::Short => return Err(self.bad(at)),
            }
        }
    }

    /// Goes to an event, or near before it in its segment.
    fn seek(&mut self, id: u64) -> io::Result<Extent> {
        let near = |at: u64| id >= at && id - at <= WALK_MAX;
        if let Some(look) = &self.look
            && (look.extent.first_id..=look.last).contains(&id)
            && near(self.id)
        {
            return Ok(look.extent);
        }
        let index = self.index.lock().unwrap_or_else(PoisonError::into_inner);
        let (first, look) = (index.first(), index.at(id));
        drop(index);
        let look = match look {
            Some(look) if id <= look.last => look,
            None if id > 0 => return Err(compacted(id, first)),
            _ => return Err(io::ErrorKind::NotFound.into()),
        };
        let extent = look.extent;
        // The open segment has grown since it was looked at: the position stays good.
        let here = self.look.as_ref().is_some_and(|l| l.extent == extent);
        if !here || !near(self.id) {
            let anchor = look.anchor(id).unwrap_or_else(|_| {
                let mut index = self.index.lock().unwrap_or_else(PoisonError::into_inner);
                index.distrust(&look);
                None
            });
            let begin = extent.base + SEGMENT_HEADER_BYTES as u64;
            (self.id, self.at) = anchor.unwrap_or((extent.first_id, begin));
        }
        self.look = Some(look);
        Ok(extent)
    }

    fn bad(&mut self, at: u64) -> io::Error {
        self.look = None;
        let index = self.index.lock().unwrap_or_else(PoisonError::into_inner);
        if self.id < index.first() {
            // The slot was given to a newer segment while this one was read.
            return compacted(self.id, index.first());
        }
        drop(index);
        io::Error::new(
            io::ErrorKind::InvalidData,
            format!("{}: event frame does not hold", self.device.locate(at)),
        )
    }

    /// At least `need` bytes from `at`, unless the segment ends before.
    fn bytes(&mut self, at: u64, need: usize) -> io::Result<&[u8]> {
        let base = self.look.as_ref().map_or(at, |look| look.extent.base);
        let end = base + self.superblock.segment_bytes;
        let left = usize::try_from(end.saturating_sub(at)).unwrap_or(usize::MAX);
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

fn compacted(id: u64, first: u64) -> io::Error {
    let why = format!("event {id} was compacted away; the first one kept is {first}");
    io::Error::new(io::ErrorKind::NotFound, why)
}
