//! Verification as a streaming state machine: bytes in, events and faults out.
//!
//! The caller owns the reading. It hands over the bytes at [`Verifier::offset`] of the current
//! segment and asks for one step at a time; after a fault or at the end, [`Verifier::committed`]
//! is where the last whole group ended. Recovery continues there, `verify` reports the fault.

use crate::frame::Header;
use crate::group::TRAILER;
use crate::inspect::{Inspected, Inspector};
use crate::{
    Anchor, Body, Compacted, EventId, GROUP_FRAME_BYTES, GroupFrame, HEADER_BYTES, Hash, Head,
    KIND_GROUP, Leaf, Place, SEGMENT_HEADER_BYTES, SegmentHeader, Superblock, group_frame_end,
    padded, rules,
};

/// What is wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FaultKind {
    /// A superblock copy does not hold.
    Superblock(&'static str),
    /// A segment does not begin with the header that must be there.
    SegmentHeader,
    /// The first event of an epoch is not its anchor.
    Anchor,
    /// No event says that what came before the first segment was dropped.
    Unbound,
    /// A frame's length cannot be.
    Length(u32),
    /// A frame's checksum does not match.
    Checksum,
    /// A header field is not what this version writes.
    Header(&'static str),
    /// The id is not the next one.
    Id(u64),
    /// The previous chain value is not the one before.
    Chain,
    /// The body does not decode.
    Body,
    /// The body breaks a rule.
    Rule(rules::Broken),
    /// The tenant tag is not the tenant's.
    TenantTag,
    /// Padding holds something.
    Padding,
    /// A field of the group frame does not match its group.
    Group(&'static str),
    /// Bytes behind the last group, before any later one, are not zero.
    Tail,
}

impl core::fmt::Display for FaultKind {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::Superblock(why) => write!(f, "superblock: {why}"),
            Self::SegmentHeader => f.write_str("segment header does not match"),
            Self::Anchor => f.write_str("the epoch's first event is not its anchor"),
            Self::Unbound => {
                f.write_str("no event says that the log was compacted to this segment")
            }
            Self::Length(n) => write!(f, "frame length {n} is out of range"),
            Self::Checksum => f.write_str("frame checksum does not match"),
            Self::Header(field) => write!(f, "frame header field {field} is not valid"),
            Self::Id(id) => write!(f, "frame id {id} is not the next one"),
            Self::Chain => f.write_str("previous chain value does not match"),
            Self::Body => f.write_str("event body does not decode"),
            Self::Rule(broken) => write!(f, "event breaks a rule: {broken}"),
            Self::TenantTag => f.write_str("tenant tag does not match"),
            Self::Padding => f.write_str("padding is not zero"),
            Self::Group(field) => write!(f, "group frame field {field} does not match"),
            Self::Tail => f.write_str("bytes behind the last group are no whole group"),
        }
    }
}

/// The first bad thing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fault {
    /// The event that was expected there.
    pub id: EventId,
    /// The segment.
    pub segment: u32,
    /// Offset from the segment's start.
    pub offset: u64,
    /// What is wrong.
    pub kind: FaultKind,
}

/// What one step found.
///
/// An event is large beside the rest, and by far the most frequent; a box would be an allocation each.
#[allow(clippy::large_enum_variant)]
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step<'b> {
    /// This many bytes from the current offset are needed to go on; they lie inside the segment.
    Need(u64),
    /// An event, not yet known to be acknowledged: its group has not ended.
    Event {
        /// Its id.
        id: u64,
        /// Chain value of its frame.
        chain: Hash,
        /// Where its frame begins, from the segment's start.
        offset: u64,
        /// Its place in the tree.
        leaf: Leaf,
        /// What it says.
        body: Body<'b>,
    },
    /// A group ended and holds.
    Group {
        /// Its events.
        count: u32,
    },
    /// No group begins here: the segment's events end.
    Blank,
}

#[derive(Clone, Copy)]
struct Open {
    start: u64,
    previous: Hash,
    count: u32,
}

/// The state machine. See the module.
pub struct Verifier {
    superblock: Superblock,
    inspector: Inspector,
    place: Place,
    epoch_segment: u32,
    /// No segment was entered yet.
    outside: bool,
    /// The next event must be an epoch's anchor.
    anchor_due: bool,
    /// The newest anchor: its id and chain value.
    anchor: Option<(u64, Hash)>,
    /// Both as they were behind the last whole group.
    committed_anchor: (Option<(u64, Hash)>, bool),
    /// Where reading began, and whether that is where the log begins.
    begin: SegmentHeader,
    bound: bool,
    offset: u64,
    head: Head,
    open: Option<Open>,
    committed: (u32, u64, Head),
}

impl Verifier {
    /// At the beginning of a log whose superblock holds and of which nothing was dropped.
    #[must_use]
    pub fn new(superblock: Superblock) -> Self {
        Self::at(superblock, &SegmentHeader::first(&superblock))
    }

    /// At the beginning of a segment, whose header is believed. That of the first segment kept is
    /// bound by the events of the compaction that dropped those before it.
    #[must_use]
    pub fn resume(superblock: Superblock, header: &SegmentHeader) -> Option<Self> {
        (header.place.log_id == superblock.log_id).then(|| Self::at(superblock, header))
    }

    fn at(superblock: Superblock, header: &SegmentHeader) -> Self {
        Self {
            inspector: Inspector::new(&superblock),
            place: header.place,
            epoch_segment: header.epoch_segment,
            outside: true,
            anchor_due: false,
            anchor: None,
            committed_anchor: (None, false),
            bound: *header == SegmentHeader::first(&superblock),
            begin: header.clone(),
            offset: 0,
            committed: (header.place.segment, 0, header.head.clone()),
            head: header.head.clone(),
            open: None,
            superblock,
        }
    }

    /// The header that the given segment begins with if it is entered now in the same epoch.
    #[must_use]
    pub fn header_for(&self, segment: u32) -> SegmentHeader {
        SegmentHeader {
            place: self.superblock.place(segment, self.place.epoch),
            epoch_segment: self.epoch_segment,
            head: self.head.clone(),
        }
    }

    /// Enters a segment by the bytes of its header.
    ///
    /// # Errors
    /// [`FaultKind::SegmentHeader`], or [`FaultKind::Anchor`] of the segment before; the state is
    /// as before.
    pub fn enter(&mut self, segment: u32, bytes: &[u8]) -> Result<(), Fault> {
        let fault = |kind| Fault {
            id: EventId(self.head.id.saturating_add(1)),
            segment,
            offset: 0,
            kind,
        };
        let mut expected = self.header_for(segment);
        let header = SegmentHeader::decode(bytes).ok_or(fault(FaultKind::SegmentHeader))?;
        if !self.outside && Some(header.place.epoch) == self.place.epoch.checked_add(1) {
            expected.place.epoch = header.place.epoch;
            expected.epoch_segment = segment;
        }
        if header != expected || self.open.is_some() {
            return Err(fault(FaultKind::SegmentHeader));
        }
        if self.anchor_due {
            return Err(fault(FaultKind::Anchor));
        }
        self.anchor_due = header.opens_epoch();
        self.committed_anchor = (self.anchor, self.anchor_due);
        self.outside = false;
        self.place = header.place;
        self.epoch_segment = header.epoch_segment;
        self.offset = SEGMENT_HEADER_BYTES as u64;
        self.committed = (segment, self.offset, self.head.clone());
        Ok(())
    }

    /// Epoch of the current segment, and the segment with which it began.
    #[must_use]
    pub fn epoch(&self) -> (u64, u32) {
        (self.place.epoch, self.epoch_segment)
    }

    /// Whether reading began where the log begins: at genesis, or where an event of a compaction says.
    #[must_use]
    pub fn is_bound(&self) -> bool {
        self.bound
    }

    /// Whether an epoch was begun whose anchor is in no whole group.
    #[must_use]
    pub fn anchor_due(&self) -> bool {
        self.committed_anchor.1
    }

    /// Id and chain value of the newest anchor in a whole group.
    #[must_use]
    pub fn anchor(&self) -> Option<(u64, Hash)> {
        self.committed_anchor.0
    }

    /// Where the next step reads, from the segment's start.
    #[must_use]
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// Whether a group has begun that has not ended.
    #[must_use]
    pub fn in_group(&self) -> bool {
        self.open.is_some()
    }

    /// The current segment.
    #[must_use]
    pub fn segment(&self) -> u32 {
        self.place.segment
    }

    /// Segment and offset behind the last whole group, and the head there.
    #[must_use]
    pub fn committed(&self) -> (u32, u64, &Head) {
        (self.committed.0, self.committed.1, &self.committed.2)
    }

    fn fault(&self, kind: FaultKind) -> Fault {
        Fault {
            id: EventId(self.head.id.saturating_add(1)),
            segment: self.place.segment,
            offset: self.offset,
            kind,
        }
    }

    /// Reads what `bytes`, which begin at [`Self::offset`], hold first.
    ///
    /// # Errors
    /// The [`Fault`]; the state is of no use afterwards but for [`Self::committed`].
    pub fn step<'b>(&mut self, bytes: &'b [u8]) -> Result<Step<'b>, Fault> {
        self.step_with(bytes, None)
    }

    /// As [`Self::step`], with what an [`Inspector`] found of the frame at the start of these bytes.
    ///
    /// # Errors
    /// As [`Self::step`].
    pub fn step_with<'b>(
        &mut self,
        bytes: &'b [u8],
        inspected: Option<&Inspected>,
    ) -> Result<Step<'b>, Fault> {
        let left = self.superblock.segment_bytes.saturating_sub(self.offset);
        let Some(length) = bytes.first_chunk::<4>() else {
            // Frames are aligned, so either nothing or at least eight bytes are left.
            return Ok(if left < 4 { Step::Blank } else { Step::Need(4) });
        };
        match (u32::from_le_bytes(*length), self.open) {
            (0, None) => Ok(Step::Blank),
            (0, Some(open)) => self.group(bytes, open),
            (length, open) => self.frame(bytes, length, open, left, inspected),
        }
    }

    fn frame<'b>(
        &mut self,
        bytes: &'b [u8],
        length: u32,
        open: Option<Open>,
        left: u64,
        inspected: Option<&Inspected>,
    ) -> Result<Step<'b>, Fault> {
        let whole = padded(length as usize);
        let bad = self.fault(FaultKind::Length(length));
        if (length as usize) < HEADER_BYTES
            || whole as u64 > left
            || whole as u64 > self.superblock.group_bytes_max()
        {
            return Err(bad);
        }
        if bytes.get(8).is_some_and(|kind| *kind == KIND_GROUP)
            && let Some(open) = open
        {
            return self.group(bytes, open);
        }
        let Some(frame) = bytes.get(..whole) else {
            return Ok(Step::Need(whole as u64));
        };
        let header = Header::read(frame).ok_or(bad)?;
        let (found, event) = match inspected.filter(|found| found.place == self.place) {
            Some(found) => (*found, None),
            None => self.inspector.look(&self.place, frame).ok_or(bad)?,
        };
        if let Some(kind) = found.frame {
            return Err(self.fault(kind));
        }
        if Some(header.id) != self.head.id.checked_add(1) {
            return Err(self.fault(FaultKind::Id(header.id)));
        }
        if header.previous != self.head.chain {
            return Err(self.fault(FaultKind::Chain));
        }
        let proven = found.event.map_err(|kind| self.fault(kind))?;
        let body = frame.get(HEADER_BYTES..length as usize).ok_or(bad)?;
        let event = event.or_else(|| Body::decode(body));
        let event = event.ok_or(self.fault(FaultKind::Body))?;
        if self.anchor_due {
            let anchor = Anchor::of(&event).filter(|anchor| {
                (anchor.epoch, anchor.chain) == (self.place.epoch, self.head.chain)
                    && (anchor.tree_size, anchor.root)
                        == (self.head.tree.size(), self.head.tree.root())
                    && (self.anchor.is_none() || anchor.previous == self.anchor)
            });
            anchor.ok_or(self.fault(FaultKind::Anchor))?;
        }
        let mut open = open.unwrap_or(Open {
            start: self.offset,
            previous: self.head.chain,
            count: 0,
        });
        open.count = open.count.saturating_add(1);
        self.open = Some(open);
        let leaf = proven.leaf;
        self.head.take(header.id, proven.chain, &leaf);
        self.bound |= Compacted::of(&event).is_some_and(|c| c.is_of(&self.begin));
        if core::mem::take(&mut self.anchor_due) {
            self.anchor = Some((header.id, self.head.chain));
        }
        let offset = self.offset;
        self.offset = offset.saturating_add(whole as u64);
        Ok(Step::Event {
            id: header.id,
            chain: self.head.chain,
            offset,
            leaf,
            body: event,
        })
    }

    fn group<'b>(&mut self, bytes: &'b [u8], open: Open) -> Result<Step<'b>, Fault> {
        let end = group_frame_end(self.offset, self.superblock.sector_bytes);
        if end > self.superblock.segment_bytes {
            return Err(self.fault(FaultKind::Group("end")));
        }
        let need = end.saturating_sub(self.offset);
        let Some(rest) = usize::try_from(need).ok().and_then(|n| bytes.get(..n)) else {
            return Ok(Step::Need(need));
        };
        let at = rest.len().saturating_sub(GROUP_FRAME_BYTES);
        let (zeros, frame) = rest
            .split_at_checked(at)
            .ok_or(self.fault(FaultKind::Group("end")))?;
        if zeros.iter().any(|b| *b != 0) {
            return Err(self.fault(FaultKind::Padding));
        }
        let Some(group) = GroupFrame::decode(&self.place, frame) else {
            return Err(Fault {
                offset: self.offset.saturating_add(at as u64),
                ..self.fault(FaultKind::Checksum)
            });
        };
        for (holds, field) in [
            (group.last_id == self.head.id, "id"),
            (group.previous == open.previous, "previous"),
            (group.count == open.count, "count"),
            (
                u64::from(group.bytes) == end.saturating_sub(open.start),
                "bytes",
            ),
            (group.chain == self.head.chain, "chain"),
            (group.tree_size == self.head.tree.size(), "tree size"),
            (group.root == self.head.tree.root(), "root"),
        ] {
            if !holds {
                return Err(self.fault(FaultKind::Group(field)));
            }
        }
        self.offset = end;
        self.open = None;
        self.committed_anchor = (self.anchor, self.anchor_due);
        self.committed = (self.place.segment, end, self.head.clone());
        Ok(Step::Group { count: open.count })
    }

    /// Whether these bytes, whole sectors that follow [`Self::committed`], prove damage rather than a
    /// torn write, so that what was acknowledged must not be cut off.
    ///
    /// `first_offset` is where they begin in `segment`. Two proofs: a valid group frame whose group
    /// begins later than the first bad one (groups are written only after the one before is
    /// durable); or the bad group's last sector was written whole and no sector of it looks unwritten
    /// (a device that keeps sectors whole, over an area that was zero before, tears no other way).
    #[must_use]
    pub fn damaged(&self, segment: u32, first_offset: u64, bytes: &[u8]) -> bool {
        let sector = self.superblock.sector_bytes as usize;
        // A later segment may have begun an epoch.
        let later = u64::from(segment != self.place.segment);
        let epochs = self.place.epoch..=self.place.epoch.saturating_add(later);
        let (committed_segment, committed_offset, _) = self.committed();
        let mut whole_so_far = segment == committed_segment && first_offset == committed_offset;
        for (n, bytes) in bytes.chunks_exact(sector.max(1)).enumerate() {
            let end = first_offset.saturating_add((n as u64 + 1).saturating_mul(sector as u64));
            if bytes.ends_with(TRAILER) {
                if whole_so_far {
                    return true;
                }
                let at = sector.saturating_sub(GROUP_FRAME_BYTES);
                let group = bytes.get(at..).and_then(|b| {
                    epochs
                        .clone()
                        .map(|epoch| self.superblock.place(segment, epoch))
                        .find_map(|place| GroupFrame::decode(&place, b))
                });
                let later = |g: GroupFrame| {
                    segment != committed_segment
                        || end.saturating_sub(u64::from(g.bytes)) > committed_offset
                };
                if group.is_some_and(later) {
                    return true;
                }
            }
            // A sector that ends in a zero may be one that did not arrive to its end.
            whole_so_far = whole_so_far && !bytes.ends_with(&[0]);
        }
        false
    }
}
