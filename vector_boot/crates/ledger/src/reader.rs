//! Reads single events and runs of events of a log that is open, beside its committer.

use crate::device::Device;
use crate::index::{Extent, Index, Look};
use crate::slots::Slots;
use ledger_core::{
    Body, Commitment, Hash, Opener, Peek, Place, SEGMENT_HEADER_BYTES, Superblock, group_frame_end,
    peek,
};
use std::io;
use std::sync::{Arc, Mutex, PoisonError};

/// Bytes read at once of events that follow each other.
const WINDOW_BYTES: usize = 32 * 1024;
/// Bytes read where one event is looked for: the way to it from its anchor.
const LOOK_BYTES: usize = 4 * 1024;
/// Walking over this many events is cheaper than a new start at an anchor.
const WALK_MAX: u64 = 64;

/// A cursor over the events of a log.
pub struct Reader {
    device: Arc<dyn Device>,
    superblock: Superblock,
    index: Arc<Mutex<Index>>,
    opener: Opener,
    /// The segment that the position is in.
    look: Option<Look>,
    /// The event that begins at `at`.
    id: u64,
    at: u64,
    /// Events that were walked over in this segment, every 64th, and where they begin: the way back in one
    /// whose part has no anchors yet.
    passed: Vec<(u64, u64)>,
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
            opener: Opener::default(),
            look: None,
            id: 0,
            at: 0,
            passed: Vec::new(),
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
        self.frame(id, |opener, place, _, bytes| {
            let (_, chain, body) = opener.event(place, bytes)?;
            Some(read(id, &chain, &body))
        })
    }

    /// As [`Self::event`], with the frame's offset in the log in the place of the chain value, which is not
    /// worked out.
    ///
    /// # Errors
    /// As [`Self::event`].
    pub fn located<T>(&mut self, id: u64, read: impl FnOnce(u64, &Body<'_>) -> T) -> io::Result<T> {
        self.frame(id, |_, place, at, bytes| {
            Some(read(at, &Opener::body(place, bytes)?))
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
        self.frame(id, |opener, place, _, bytes| {
            let (entry, body) = opener.entry(place, bytes)?;
            Some(read(&entry, &body))
        })
    }

    /// As [`Self::event`], for an event that may not be wanted: its chain value is worked out where
    /// `wanted` says so alone.
    ///
    /// # Errors
    /// As [`Self::event`].
    pub fn event_if<T>(
        &mut self,
        id: u64,
        wanted: impl FnOnce(&Body<'_>) -> bool,
        read: impl FnOnce(u64, &Hash, &Body<'_>) -> T,
    ) -> io::Result<Option<T>> {
        self.frame(id, |opener, place, _, bytes| {
            if !wanted(&Opener::body(place, bytes)?) {
                return Some(None);
            }
            let (_, chain, body) = opener.event(place, bytes)?;
            Some(Some(read(id, &chain, &body)))
        })
    }

    /// Finds a durable event's frame and opens it.
    fn frame<T>(
        &mut self,
        id: u64,
        open: impl FnOnce(&mut Opener, &Place, u64, &[u8]) -> Option<T>,
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
                    if found.is_multiple_of(WALK_MAX)
                        && self.passed.last().is_none_or(|(last, _)| *last < found)
                    {
                        self.passed.push((found, at));
                    }
                    if found == id {
                        let bytes = usize::try_from(bytes).unwrap_or(usize::MAX);
                        self.bytes(at, bytes)?;
                        let frame = from(&self.buf, self.first, self.filled, at);
                        let opened = open(&mut self.opener, &extent.place, at, frame);
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
        if !here {
            self.passed.clear();
        }
        if !here || !near(self.id) {
            let anchor = look.anchor(id).unwrap_or_else(|_| {
                let mut index = self.index.lock().unwrap_or_else(PoisonError::into_inner);
                index.distrust(&look);
                None
            });
            let begin = extent.base + SEGMENT_HEADER_BYTES as u64;
            let passed = self.passed.partition_point(|(passed, _)| *passed <= id);
            let passed = passed.checked_sub(1).and_then(|n| self.passed.get(n));
            let known = anchor.or(passed.copied());
            (self.id, self.at) = known.unwrap_or((extent.first_id, begin));
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
            let next = self.first..=self.first + self.filled as u64;
            let window = match self.filled > 0 && next.contains(&at) {
                true => WINDOW_BYTES,
                false => LOOK_BYTES,
            };
            let n = window.max(need).min(left);
            self.buf.resize(n, 0);
            self.filled = 0;
            self.device.read_at(at, &mut self.buf)?;
            (self.first, self.filled) = (at, n);
        }
        Ok(from(&self.buf, self.first, self.filled, at))
    }

    /// Forgets what was read, so that a later look sees what was written since.
    pub fn refresh(&mut self) {
        self.filled = 0;
    }
}

/// What a buffer filled from `first` on holds from `at` on.
fn from(buf: &[u8], first: u64, filled: usize, at: u64) -> &[u8] {
    let skip = usize::try_from(at - first).unwrap_or(usize::MAX);
    buf.get(skip..filled).unwrap_or_default()
}

/// Refuses to go on from an event that was dropped, since what lay behind it would be passed over in silence; 1 is
/// the beginning, wherever that is.
///
/// # Errors
/// `NotFound`.
pub fn still_there(from: u64, first: u64) -> io::Result<()> {
    match from > 1 && from < first {
        true => Err(compacted(from, first)),
        false => Ok(()),
    }
}

/// What is said of an event that was dropped.
pub fn compacted(id: u64, first: u64) -> io::Error {
    let why = format!("event {id} was compacted away; the first one kept is {first}");
    io::Error::new(io::ErrorKind::NotFound, why)
}
