//! One log: opened with recovery, then appended to group by group.
//!
//! Owns the rule that an acknowledged sector is never written again, the zeros ahead of the log's
//! end, and the rule that a failed write or sync ends writing for good.
//!
//! Never here: threads, sockets, clocks. Start with [`Log::open`] and [`Log::commit`].

use crate::ahead::{Ahead, write_zeros};
use crate::clock;
use crate::device::Device;
use crate::index::{Extent, Resumed};
use crate::scan::{self, End, Found};
use crate::slots::Slots;
use ledger_core::{
    Compacted, FIRST_EPOCH, GroupBuilder, Hash, Head, SEGMENT_BYTES_MAX, SEGMENT_BYTES_MIN,
    SEGMENT_HEADER_BYTES, SEGMENTS_OFFSET, SUPERBLOCK_BYTES, SegmentHeader, Superblock,
};
use std::io;
use std::sync::Arc;

/// A small device is cut into at least this many segments, so that a compaction can drop some.
const SEGMENTS_WANTED: u64 = 8;

/// Why a log takes no more.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Stopped {
    /// A write or sync failed; the pages that it left are never tried again.
    #[error("{step} failed: {error}; the log is read-only until the service starts again")]
    Device {
        /// What was being done.
        step: &'static str,
        /// The kernel's words.
        error: String,
    },
    /// Every segment is used, and none could be dropped.
    #[error(
        "log is full: {segments} segments of {segment_bytes} bytes are used and nothing is left to drop"
    )]
    Full {
        /// How many.
        segments: u32,
        /// Their size.
        segment_bytes: u64,
    },
    /// Something is wrong before later valid groups.
    #[error("log is damaged at {place}: event {id}: {what}")]
    Corrupt {
        /// File and byte.
        place: String,
        /// The event that was expected.
        id: u64,
        /// What is wrong.
        what: String,
    },
    /// Opened for reading.
    #[error("log is opened for reading")]
    ReadOnly,
}

impl Stopped {
    /// The protocols' code.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Device { .. } | Self::ReadOnly | Self::Full { .. } => "READ_ONLY",
            Self::Corrupt { .. } => "CORRUPT",
        }
    }
}

/// Why a log cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The device failed.
    #[error("{step}")]
    Io {
        /// What was being done.
        step: &'static str,
        /// Why.
        #[source]
        error: io::Error,
    },
    /// The device cannot hold a log.
    #[error("log device has {0} bytes, at least {min} are needed", min = SEGMENTS_OFFSET + SEGMENT_BYTES_MIN)]
    Small(u64),
    /// The superblock speaks of more than there is.
    #[error(
        "superblock: {segments} segments of {segment_bytes} bytes end past the device's {bytes}"
    )]
    Short {
        /// Segments by the superblock.
        segments: u32,
        /// Their size.
        segment_bytes: u64,
        /// The device's size.
        bytes: u64,
    },
    /// The device keeps segments of another length: what is written would not be found again.
    #[error(
        "superblock: segments of {segment_bytes} bytes, but the folder keeps segments of {piece_bytes}"
    )]
    Pieces {
        /// Of a segment, by the superblock.
        segment_bytes: u64,
        /// Of a file of the folder.
        piece_bytes: u64,
    },
    /// There is no log.
    #[error("blank: no log here yet")]
    Blank,
}

fn io_at(step: &'static str) -> impl FnOnce(io::Error) -> OpenError {
    move |error| OpenError::Io { step, error }
}

/// What a new log needs of the world.
#[derive(Debug, Clone, Copy)]
pub struct Birth {
    /// Random: names the log.
    pub log_id: [u8; 16],
    /// Random: key of the tenant tags.
    pub tag_key: [u8; 32],
    /// The wall clock.
    pub wall_ns: u64,
    /// Largest segment wanted; [`SEGMENT_BYTES_MAX`] but for tests.
    pub segment_bytes_max: u64,
}

impl Birth {
    /// A log that is made now, if there is none.
    #[must_use]
    pub fn now() -> Self {
        Self {
            log_id: clock::random(),
            tag_key: clock::random(),
            wall_ns: clock::wall_ns(),
            segment_bytes_max: SEGMENT_BYTES_MAX,
        }
    }

    /// The superblock of a new log on this device.
    fn superblock(&self, device: &dyn Device) -> Result<Superblock, OpenError> {
        let room = device.capacity().saturating_sub(SEGMENTS_OFFSET);
        let sector = u64::from(device.sector_bytes());
        let wanted = room / SEGMENTS_WANTED / sector * sector;
        let max = self.segment_bytes_max.min(SEGMENT_BYTES_MAX);
        let segment_bytes = wanted.clamp(SEGMENT_BYTES_MIN, max.max(SEGMENT_BYTES_MIN));
        match u32::try_from(room / segment_bytes) {
            Ok(0) => Err(OpenError::Small(device.capacity())),
            count => Ok(Superblock {
                sector_bytes: device.sector_bytes(),
                segment_bytes,
                segments_max: count.unwrap_or(u32::MAX),
                log_id: self.log_id,
                tag_key: self.tag_key,
                created_wall_ns: self.wall_ns,
                generation: 1,
                first_segment: 0,
            }),
        }
    }
}

/// What recovery did.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Recovery {
    /// Whether the log was made just now.
    pub created: bool,
    /// Bytes of a torn group that were zeroed.
    pub torn_bytes: u64,
    /// Which superblock copy was written anew.
    pub superblock_repaired: bool,
    /// Whether a compaction was finished that was cut short.
    pub compacted: bool,
}

/// An open log.
pub struct Log {
    /// By offsets of the log.
    device: Arc<dyn Device>,
    superblock: Superblock,
    /// Where the log stood before the first event that is kept.
    first: Head,
    segment: u32,
    /// The epoch, and the segment with which it began.
    epoch: (u64, u32),
    /// The epoch's anchor is still to be written, as the next event.
    anchor_due: bool,
    /// Id and chain value of the newest anchor.
    anchor: Option<(u64, Hash)>,
    offset: u64,
    head: Head,
    /// Zeros are durable from the log's end up to here, an offset of the log.
    zeroed: u64,
    ahead: Ahead,
    /// A thread is to be started for them.
    background: bool,
    /// The segment that was begun last since the log was opened.
    begun: Option<Extent>,
    stopped: Option<Stopped>,
}

impl Log {
    /// Opens a log to append to it: makes it on a blank device, otherwise reads it all, hands every
    /// event to `found`, zeroes a torn group at its end, and finishes a compaction that was cut
    /// short. A damaged log opens read-only.
    ///
    /// # Errors
    /// [`OpenError`] if it cannot even be read.
    pub fn open(
        device: Arc<dyn Device>,
        birth: &Birth,
        found: &mut dyn FnMut(Found<'_>),
    ) -> Result<(Self, Recovery), OpenError> {
        Self::open_from(device, birth, None, found, &|| true)
    }

    /// As [`Self::open`], but reads on from where a state of this log was kept, and finishes a compaction only
    /// where `may_drop` says, once all is read, that its summary stands for what it drops.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn open_from(
        device: Arc<dyn Device>,
        birth: &Birth,
        resumed: Option<&Resumed>,
        found: &mut dyn FnMut(Found<'_>),
        may_drop: &dyn Fn() -> bool,
    ) -> Result<(Self, Recovery), OpenError> {
        let mut recovery = Recovery::default();
        let mut unrepaired = None;
        let superblock = match scan::superblock(&*device).map_err(io_at("read superblock"))? {
            Some((superblock, None)) => superblock,
            Some((superblock, Some(_))) => {
                match write_superblock(&*device, &superblock) {
                    Ok(()) => recovery.superblock_repaired = true,
                    // The copy that holds is enough to read by.
                    Err(e) => unrepaired = Some(e),
                }
                superblock
            }
            None => {
                let superblock = birth.superblock(&*device)?;
                check_size(&*device, &superblock)?;
                create(&*device, &superblock).map_err(io_at("make log"))?;
                recovery.created = true;
                superblock
            }
        };
        check_size(&*device, &superblock)?;
        let mut compacted = NewestCompacted::default();
        let from = resumed.map_or(superblock.first_segment, |resumed| resumed.state.segment);
        let end = scan::scan_from(&*device, &superblock, from, None, &mut |it| {
            compacted.found(&it);
            found(it);
        })
        .map_err(io_at("read log"))?;
        let device = Slots::over(device, &superblock);
        let mut log = Self {
            device: device.clone(),
            superblock,
            first: resumed.map_or(&end.first, |resumed| &resumed.first).clone(),
            segment: end.segment,
            epoch: end.epoch,
            anchor_due: end.anchor_due,
            anchor: end.anchor.or(resumed.and_then(|r| r.state.anchor)),
            offset: end.offset,
            head: end.head.clone(),
            zeroed: 0,
            background: false,
            ahead: Ahead::new(
                device.clone(),
                &superblock,
                superblock.segment_offset(end.segment) + end.offset,
            ),
            begun: None,
            stopped: None,
        };
        match end.fault {
            Some(fault) if end.damaged => {
                let at = superblock.segment_offset(fault.segment) + fault.offset;
                log.stopped = Some(Stopped::Corrupt {
                    place: log.device.locate(at),
                    id: fault.id.0,
                    what: fault.kind.to_string(),
                });
            }
            fault if unrepaired.is_none() => {
                let due = compacted.durable.filter(|_| may_drop());
                log.make_ready(fault.and(Some(&end)), due, &mut recovery);
            }
            _ => {}
        }
        if let Some(e) = unrepaired {
            log.device_failed("repair superblock", &e);
        }
        Ok((log, recovery))
    }

    /// Writes what must be there before the first append. A disk that is full or fails does not keep
    /// anybody from reading: the log is read-only then.
    fn make_ready(
        &mut self,
        torn: Option<&End>,
        compacted: Option<Compacted>,
        recovery: &mut Recovery,
    ) {
        if let Some(end) = torn {
            match self.cut(end) {
                Ok(bytes) => recovery.torn_bytes = bytes,
                Err(e) => return drop(self.device_failed("zero torn group", &e)),
            }
        }
        if let Err(e) = self.prepare() {
            return drop(self.device_failed("zero ahead", &e));
        }
        match compacted.map_or(Ok(false), |compacted| self.drop_before(&compacted)) {
            Ok(dropped) => recovery.compacted = dropped,
            Err(e) => drop(self.device_failed("finish compaction", &e)),
        }
    }

    /// Zeroes what lies behind the last whole group: it was never acknowledged.
    fn cut(&mut self, end: &End) -> io::Result<u64> {
        let base = self.superblock.segment_offset(end.segment);
        let next = self.superblock.segment_offset(end.segment + 1);
        let from = base + end.offset;
        let group = self.superblock.group_bytes_max();
        let mut bytes = vec![0; usize::try_from(group.min(next - from)).unwrap_or(0)];
        self.device.read_at(from, &mut bytes)?;
        let torn = bytes.iter().rposition(|b| *b != 0).map_or(0, |at| at + 1);
        bytes.fill(0);
        self.device.write_at(from, &bytes)?;
        self.clear_next(end.segment)?;
        self.device.sync()?;
        Ok(torn as u64)
    }

    /// Zeroes the place of the header behind a segment, if there is one: to be synced before that
    /// segment's first group.
    fn clear_next(&self, segment: u32) -> io::Result<()> {
        let next = segment + 1;
        if next >= self.superblock.segments_end() {
            return Ok(());
        }
        let base = self.superblock.segment_offset(next);
        let mut area = vec![0; SEGMENT_HEADER_BYTES];
        self.device.read_at(base, &mut area)?;
        if !scan::is_zero(&area) {
            area.fill(0);
            self.device.write_at(base, &area)?;
        }
        Ok(())
    }

    /// Makes sure that zeros are durable for the next group and the one behind it.
    fn prepare(&mut self) -> io::Result<()> {
        if self.offset == 0 {
            self.enter(0, (FIRST_EPOCH, 0))?;
        }
        self.clear_next(self.segment)?;
        self.ahead
            .reach(self.zeros_wanted(self.segment, self.offset))?;
        self.sync()
    }

    /// Makes durable what is written, zeros ahead too.
    fn sync(&mut self) -> io::Result<()> {
        let zeroed = self.ahead.frontier();
        self.device.sync()?;
        self.zeroed = zeroed;
        Ok(())
    }

    /// Where zeros must reach in a segment whose groups end at `offset`: room for the next group and for
    /// the check behind it.
    fn zeros_wanted(&self, segment: u32, offset: u64) -> u64 {
        let ahead = 2 * self.superblock.group_bytes_max();
        let to = offset
            .saturating_add(ahead)
            .min(self.superblock.segment_bytes);
        self.superblock.segment_offset(segment) + to
    }

    fn segment_end(&self) -> u64 {
        self.superblock.segment_offset(self.segment) + self.superblock.segment_bytes
    }

    /// Has a thread write zeros ahead from the first commit on, so that later ones do not.
    pub fn zero_in_background(&mut self) {
        self.background = true;
    }

    /// Keeps the zeros ahead of the log's end: by the thread, or here.
    fn follow(&mut self) {
        // Not before there is something to do: a start has none of it. Where it cannot be, commits write.
        if std::mem::take(&mut self.background)
            && let Err(e) = self.ahead.start()
        {
            ::log::info!("zeros ahead are written by commits: error=\"{e}\"");
        }
        let limit = self
            .superblock
            .segment_offset(self.superblock.segments_end());
        self.ahead.follow(self.end(), limit);
        let wanted = self.zeros_wanted(self.segment, self.offset);
        if self.ahead.frontier() >= wanted {
            return;
        }
        let to = wanted
            .saturating_add(self.ahead.spare())
            .min(self.segment_end());
        // The next group's sync makes these durable. The last one is: a failure stops the log for the
        // next one.
        if let Err(e) = self.ahead.reach(to) {
            self.device_failed("zero ahead", &e);
        }
    }

    /// Begins a segment: zeros first, then its header, each durable before what follows.
    fn enter(&mut self, segment: u32, epoch: (u64, u32)) -> io::Result<()> {
        let base = self.superblock.segment_offset(segment);
        let begin = SEGMENT_HEADER_BYTES as u64;
        // The segment before is closed: zeros up to its end.
        self.ahead.skip(base)?;
        self.ahead.reach(self.zeros_wanted(segment, begin))?;
        self.clear_next(segment)?;
        self.sync()?;
        let header = SegmentHeader {
            place: self.superblock.place(segment, epoch.0),
            epoch_segment: epoch.1,
            head: self.head.clone(),
        };
        self.device.write_at(base, &header.encode())?;
        self.device.sync()?;
        (self.segment, self.offset, self.epoch) = (segment, begin, epoch);
        self.anchor_due = header.opens_epoch();
        self.begun = Some(Extent::of(&header, base));
        Ok(())
    }

    /// A group at the log's end.
    #[must_use]
    pub fn group(&self) -> GroupBuilder {
        let place = self.superblock.place(self.segment, self.epoch.0);
        GroupBuilder::new(&self.superblock, place, self.offset, self.head.clone())
    }

    /// A group as it would be at the beginning of a segment: what does not fit here fits nowhere.
    #[must_use]
    pub fn widest_group(&self) -> GroupBuilder {
        let place = self.superblock.place(self.segment, self.epoch.0);
        let begin = SEGMENT_HEADER_BYTES as u64;
        GroupBuilder::new(&self.superblock, place, begin, self.head.clone())
    }

    /// Goes on to the next segment: the rest of this one is too small for the next group.
    ///
    /// # Errors
    /// [`Stopped`], for good.
    pub fn next_segment(&mut self) -> Result<(), Stopped> {
        self.go_on(self.epoch)
    }

    /// Begins an epoch, with a segment of its own. The next event must be its anchor.
    ///
    /// # Errors
    /// [`Stopped`], for good.
    pub fn next_epoch(&mut self) -> Result<(), Stopped> {
        if self.anchor_due {
            // Begun before a crash, and nothing written since.
            return self.writable();
        }
        self.go_on((self.epoch.0 + 1, self.segment + 1))
    }

    fn go_on(&mut self, epoch: (u64, u32)) -> Result<(), Stopped> {
        self.writable()?;
        let next = self.segment + 1;
        if next >= self.superblock.segments_end() {
            return Err(self.stop(Stopped::Full {
                segments: self.superblock.segments_max,
                segment_bytes: self.superblock.segment_bytes,
            }));
        }
        self.enter(next, epoch)
            .map_err(|e| self.device_failed("begin segment", &e))
    }

    /// What an event must say before the segments before `first` may be dropped; `None` where there
    /// is nothing to drop, or where `first` lies in the current epoch behind its first segment.
    ///
    /// # Errors
    /// As the device's.
    pub fn droppable(&self, first: u32, summary_id: u64) -> io::Result<Option<Compacted>> {
        if first <= self.superblock.first_segment || first > self.epoch.1 {
            return Ok(None);
        }
        let header = self.header(first)?;
        Ok(header.map(|header| Compacted {
            first_segment: first,
            first_event_id: header.first_event_id(),
            chain: header.head.chain,
            root: header.head.tree.root(),
            summary_id,
        }))
    }

    fn header(&self, segment: u32) -> io::Result<Option<SegmentHeader>> {
        let mut area = vec![0; SEGMENT_HEADER_BYTES];
        let base = self.superblock.segment_offset(segment);
        self.device.read_at(base, &mut area)?;
        let header = SegmentHeader::decode(&area);
        Ok(header.filter(|h| h.place.segment == segment))
    }

    /// Drops the segments before the first one kept: the event that says so is durable.
    ///
    /// # Errors
    /// [`Stopped`], for good.
    pub fn compact(&mut self, compacted: &Compacted) -> Result<(), Stopped> {
        self.writable()?;
        self.drop_before(compacted)
            .map(|_| ())
            .map_err(|e| self.device_failed("drop segments", &e))
    }

    fn drop_before(&mut self, compacted: &Compacted) -> io::Result<bool> {
        let before = self.superblock.first_segment;
        let first = compacted.first_segment;
        if first <= before || first > self.epoch.1 {
            return Ok(false);
        }
        let Some(header) = self.header(first)?.filter(|h| compacted.is_of(h)) else {
            return Ok(false);
        };
        let superblock = Superblock {
            generation: self.superblock.generation + 1,
            first_segment: first,
            ..self.superblock
        };
        write_superblock(&*self.device, &superblock)?;
        (self.superblock, self.first) = (superblock, header.head);
        // The slot behind the current segment may have been one of them.
        self.clear_next(self.segment)?;
        self.device.sync()?;
        for segment in before..first {
            if segment + self.superblock.segments_max != self.segment + 1 {
                let at = self.superblock.segment_offset(segment);
                // Room that is not given back now is taken again later.
                let _ = self.device.discard(at, self.superblock.segment_bytes);
            }
        }
        Ok(true)
    }

    /// The first segment that must be kept for the newest `bytes` of the log to be.
    #[must_use]
    pub fn keeping(&self, bytes: u64) -> u32 {
        let spare = self.used().saturating_sub(bytes) / self.superblock.segment_bytes;
        let spare = u32::try_from(spare).unwrap_or(u32::MAX);
        self.superblock.first_segment.saturating_add(spare)
    }

    /// The segment that an event lies in, by the headers; the first one kept for events before it.
    ///
    /// # Errors
    /// As the device's.
    pub fn segment_of_event(&self, id: u64) -> io::Result<u32> {
        let mut segment = self.segment;
        while segment > self.superblock.first_segment
            && self
                .header(segment)?
                .is_none_or(|h| h.first_event_id() > id)
        {
            segment -= 1;
        }
        Ok(segment)
    }

    /// Segments that may still be begun.
    #[must_use]
    pub fn segments_free(&self) -> u32 {
        self.superblock
            .segments_end()
            .saturating_sub(self.segment + 1)
    }

    /// Bytes that a segment has for groups.
    #[must_use]
    pub fn segment_room(&self) -> u64 {
        self.superblock.segment_bytes - SEGMENT_HEADER_BYTES as u64
    }

    /// Bytes that the current segment has left.
    #[must_use]
    pub fn left(&self) -> u64 {
        self.superblock.segment_bytes - self.offset
    }

    /// Bytes from the first segment kept to the log's end.
    #[must_use]
    pub fn used(&self) -> u64 {
        let first = self.superblock.first_segment;
        self.end() - self.superblock.segment_offset(first)
    }

    /// Bytes that segments may take.
    #[must_use]
    pub fn room(&self) -> u64 {
        self.superblock.device_bytes() - SEGMENTS_OFFSET
    }

    /// The epoch, and the segment with which it began.
    #[must_use]
    pub fn epoch(&self) -> (u64, u32) {
        self.epoch
    }

    /// Whether the next event must be the epoch's anchor.
    #[must_use]
    pub fn anchor_due(&self) -> bool {
        self.anchor_due
    }

    /// Id and chain value of the newest anchor that is kept.
    #[must_use]
    pub fn anchor(&self) -> Option<(u64, Hash)> {
        self.anchor
    }

    /// Where the log stood before the first event that is kept.
    #[must_use]
    pub fn first(&self) -> &Head {
        &self.first
    }

    /// The segment that holds the current end.
    #[must_use]
    pub fn segment(&self) -> u32 {
        self.segment
    }

    /// Makes a group durable. The log stands behind it afterwards.
    ///
    /// # Errors
    /// [`Stopped`], for good: nothing of the group may be acknowledged.
    pub fn commit(&mut self, group: GroupBuilder) -> Result<(), Stopped> {
        self.writable()?;
        let anchor = self.anchor_due.then(|| group.first()).flatten();
        let (bytes, head) = group.finish();
        let end = self.offset + bytes.len() as u64;
        let at = self.end();
        // A group may only be torn over zeros: recovery tells torn from damaged by them.
        if self.zeroed < at + bytes.len() as u64 {
            self.prepare()
                .map_err(|e| self.device_failed("zero ahead", &e))?;
        }
        self.device
            .write_at(at, &bytes)
            .map_err(|e| self.device_failed("write group", &e))?;
        self.sync()
            .map_err(|e| self.device_failed("sync group", &e))?;
        (self.offset, self.head) = (end, head);
        if anchor.is_some() {
            (self.anchor, self.anchor_due) = (anchor, false);
        }
        self.follow();
        Ok(())
    }

    fn writable(&self) -> Result<(), Stopped> {
        self.stopped.clone().map_or(Ok(()), Err)
    }

    fn stop(&mut self, why: Stopped) -> Stopped {
        self.stopped.get_or_insert(why).clone()
    }

    fn device_failed(&mut self, step: &'static str, error: &io::Error) -> Stopped {
        self.stop(Stopped::Device {
            step,
            error: error.to_string(),
        })
    }

    /// Why it takes no more, if so.
    #[must_use]
    pub fn stopped(&self) -> Option<&Stopped> {
        self.stopped.as_ref()
    }

    /// Where it stands.
    #[must_use]
    pub fn head(&self) -> &Head {
        &self.head
    }

    /// Where its last group ends, an offset of the log.
    #[must_use]
    pub fn end(&self) -> u64 {
        self.superblock.segment_offset(self.segment) + self.offset
    }

    /// Where its current segment begins, an offset of the log.
    #[must_use]
    pub fn segment_base(&self) -> u64 {
        self.superblock.segment_offset(self.segment)
    }

    /// The segment that was begun last, if one was since the log was opened.
    #[must_use]
    pub fn begun(&self) -> Option<Extent> {
        self.begun
    }

    /// Its superblock.
    #[must_use]
    pub fn superblock(&self) -> &Superblock {
        &self.superblock
    }

    /// Its device.
    #[must_use]
    pub fn device(&self) -> &Arc<dyn Device> {
        &self.device
    }
}

pub(crate) fn check_size(device: &dyn Device, superblock: &Superblock) -> Result<(), OpenError> {
    if superblock.device_bytes() > device.capacity() {
        return Err(OpenError::Short {
            segments: superblock.segments_max,
            segment_bytes: superblock.segment_bytes,
            bytes: device.capacity(),
        });
    }
    let segment_bytes = superblock.segment_bytes;
    match device.piece_bytes().filter(|b| *b != segment_bytes) {
        Some(piece_bytes) => Err(OpenError::Pieces {
            segment_bytes,
            piece_bytes,
        }),
        None => Ok(()),
    }
}

/// The newest compaction that a scan met in a whole group.
#[derive(Default)]
struct NewestCompacted {
    met: Option<Compacted>,
    durable: Option<Compacted>,
}

impl NewestCompacted {
    fn found(&mut self, found: &Found<'_>) {
        match found {
            Found::Event { body, .. } => self.met = Compacted::of(body).or(self.met),
            Found::Group { .. } => self.durable = self.met,
            Found::Segment { .. } => {}
        }
    }
}

/// Makes a log: zeros where it will begin, then the second superblock, then the first, so that the
/// first is there only when all else is.
fn create(device: &dyn Device, superblock: &Superblock) -> io::Result<()> {
    let begin = SEGMENTS_OFFSET + SEGMENT_HEADER_BYTES as u64;
    write_zeros(
        device,
        SEGMENTS_OFFSET,
        begin + superblock.group_bytes_max(),
    )?;
    if superblock.segments_max > 1 {
        let next = superblock.segment_offset(1);
        write_zeros(device, next, next + SEGMENT_HEADER_BYTES as u64)?;
    }
    device.sync()?;
    write_superblock(device, superblock)
}

fn write_superblock(device: &dyn Device, superblock: &Superblock) -> io::Result<()> {
    let bytes = superblock.encode();
    for copy in [1u64, 0] {
        let at = copy * SUPERBLOCK_BYTES as u64;
        let mut there = vec![0; SUPERBLOCK_BYTES];
        device.read_at(at, &mut there)?;
        if there != bytes {
            device.write_at(at, &bytes)?;
            device.sync()?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
