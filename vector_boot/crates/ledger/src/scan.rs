//! Reads a log from its beginning through the verifier: the one way in for recovery and `verify`.

mod window;

use crate::device::Device;
use crate::index::Extent;
use crate::slots::Mapped;
use ledger_core::{
    Body, EventId, Fault, FaultKind, Hash, Head, Leaf, SEGMENT_HEADER_BYTES, SUPERBLOCK_BYTES,
    SegmentHeader, Step, Superblock, Verifier,
};
use std::io;
use std::thread::scope;
use window::{ALONE_BYTES, WINDOW_BYTES, Window};

/// What a scan hands over while it reads.
pub enum Found<'a> {
    /// A segment begins.
    Segment {
        /// Where, and with which event.
        extent: Extent,
        /// Where the log stands there.
        head: &'a Head,
        /// Whether another one follows, so that nothing will be appended here. Never of the segment with which
        /// the scan begins: a start that reads one alone has no look to spare.
        closed: bool,
    },
    /// An event whose group has not ended yet.
    Event {
        /// Its id.
        id: u64,
        /// Its chain value.
        chain: Hash,
        /// Where its frame begins in the log.
        offset: u64,
        /// Its place in the tree.
        leaf: Leaf,
        /// What it says.
        body: &'a Body<'a>,
    },
    /// The events since the last group are durable.
    Group {
        /// Where the group ends in the log.
        end: u64,
    },
}

/// Where a scan ended.
pub struct End {
    /// Where the log stood before the first event that was read.
    pub first: Head,
    /// Segment of the last whole group.
    pub segment: u32,
    /// Offset behind it, from the segment's start; 0 if no segment was entered.
    pub offset: u64,
    /// State there.
    pub head: Head,
    /// Its epoch, and the segment with which that began.
    pub epoch: (u64, u32),
    /// Whether the epoch's anchor is still to come.
    pub anchor_due: bool,
    /// Id and chain value of the newest anchor that was met.
    pub anchor: Option<(u64, Hash)>,
    /// The first bad thing, if there is one.
    pub fault: Option<Fault>,
    /// Whether the fault is damage rather than a torn write.
    pub damaged: bool,
}

/// Which superblock copy does not hold, and why.
pub type BadCopy = (usize, &'static str);

const OLDER: &str = "is older than the other copy";

/// Reads the superblock: the newest copy that holds, and what is wrong with the other.
///
/// # Errors
/// As the device's; `Ok(None)` if the log is blank (its first copy is zero and the second does not hold).
pub fn superblock(device: &dyn Device) -> io::Result<Option<(Superblock, Option<BadCopy>)>> {
    let mut first = vec![0; SUPERBLOCK_BYTES];
    let mut second = vec![0; SUPERBLOCK_BYTES];
    device.read_at(0, &mut first)?;
    device.read_at(SUPERBLOCK_BYTES as u64, &mut second)?;
    match (Superblock::decode(&first), Superblock::decode(&second)) {
        (Ok(a), Ok(b)) if a == b => Ok(Some((a, None))),
        // A compaction writes the second copy first.
        (Ok(a), Ok(b)) if b.generation > a.generation => Ok(Some((b, Some((0, OLDER))))),
        (Ok(a), Ok(b)) if b.generation < a.generation => Ok(Some((a, Some((1, OLDER))))),
        (Ok(a), Ok(_)) => Ok(Some((a, Some((1, "differs from the first copy"))))),
        (Ok(a), Err(why)) => Ok(Some((a, Some((1, why))))),
        (Err(why), Ok(b)) => Ok(Some((b, Some((0, why))))),
        (Err(_), Err(_)) if is_zero(&first) => Ok(None),
        (Err(why), Err(_)) => Err(io::Error::new(
            io::ErrorKind::InvalidData,
            format!("{}: superblock: {why}", device.locate(0)),
        )),
    }
}

/// Reads a log whose superblock is known, up to `until` (an offset of the log) or its end.
///
/// # Errors
/// As the device's. What is wrong with the log is in [`End`].
pub fn scan(
    device: &dyn Device,
    superblock: &Superblock,
    until: Option<u64>,
    found: &mut dyn FnMut(Found<'_>),
) -> io::Result<End> {
    scan_from(device, superblock, superblock.first_segment, until, found)
}

/// As [`scan`], from a segment on whose header is believed.
///
/// # Errors
/// As [`scan`].
pub fn scan_from(
    device: &dyn Device,
    superblock: &Superblock,
    first: u32,
    until: Option<u64>,
    found: &mut dyn FnMut(Found<'_>),
) -> io::Result<End> {
    let device = &Mapped { device, superblock };
    scan_with(device, superblock, first, until, ALONE_BYTES, found)
}

/// As [`scan_from`], over a mapped device; alone up to so many bytes.
fn scan_with(
    device: &Mapped<'_>,
    superblock: &Superblock,
    first: u32,
    until: Option<u64>,
    alone_bytes: u64,
    found: &mut dyn FnMut(Found<'_>),
) -> io::Result<End> {
    let mut area = vec![0; SEGMENT_HEADER_BYTES];
    let verifier = match first {
        0 => Verifier::new(*superblock),
        _ => {
            device.read_at(superblock.segment_offset(first), &mut area)?;
            let header = SegmentHeader::decode(&area).filter(|h| h.place.segment == first);
            match header.and_then(|header| Verifier::resume(*superblock, &header)) {
                Some(verifier) => verifier,
                None => return Ok(End::headless(superblock, first)),
            }
        }
    };
    let (end, long) = scope(|scope| {
        let mut window = Window::new(device, superblock, scope, alone_bytes);
        let end = read_log(
            device,
            superblock,
            first,
            until,
            verifier,
            &mut window,
            found,
        );
        (end, window.is_ahead())
    });
    if long {
        // The two threads have taken what one at rest does not need.
        sys::reclaim::heap();
    }
    end
}

/// Reads on with a verifier that stands before the first segment.
fn read_log(
    device: &Mapped<'_>,
    superblock: &Superblock,
    first: u32,
    until: Option<u64>,
    mut verifier: Verifier,
    window: &mut Window<'_, '_>,
    found: &mut dyn FnMut(Found<'_>),
) -> io::Result<End> {
    let mut area = vec![0; SEGMENT_HEADER_BYTES];
    let begin = verifier.committed().2.clone();
    let mut fault = None;
    let reached = |offset: u64| until.is_some_and(|until| offset >= until);
    for segment in first..superblock.segments_end() {
        let base = superblock.segment_offset(segment);
        if reached(base) {
            break;
        }
        device.read_at(base, &mut area)?;
        if is_unused(superblock, segment, &area) {
            break;
        }
        if segment > first {
            // The one before is closed: zeros up to its end.
            let at = superblock.segment_offset(segment - 1) + verifier.offset();
            if let Some(bad) = first_nonzero(device, at, base)? {
                fault = Some(Fault {
                    id: EventId(verifier.committed().2.id + 1),
                    segment: segment - 1,
                    offset: bad - superblock.segment_offset(segment - 1),
                    kind: FaultKind::Tail,
                });
                break;
            }
        }
        if let Err(bad) = verifier.enter(segment, &area) {
            fault = Some(bad);
            break;
        }
        found(Found::Segment {
            extent: Extent::of(&verifier.header_for(segment), base),
            head: verifier.committed().2,
            closed: segment > first && is_begun(device, superblock, segment + 1)?,
        });
        window.move_to(
            base + verifier.offset(),
            superblock.segment_offset(segment + 1),
        );
        if let Err(bad) = read_segment(&mut verifier, window, base, until, found)? {
            fault = Some(bad);
            break;
        }
    }
    let (segment, offset, head) = verifier.committed();
    let mut end = End {
        first: begin,
        segment,
        offset,
        head: head.clone(),
        epoch: verifier.epoch(),
        anchor_due: verifier.anchor_due(),
        anchor: verifier.anchor(),
        fault,
        damaged: false,
    };
    if end.fault.is_none() && first == superblock.first_segment && !verifier.is_bound() {
        end.fault = Some(Fault {
            id: EventId(end.first.id + 1),
            segment: first,
            offset: 0,
            kind: FaultKind::Unbound,
        });
        end.damaged = true;
        return Ok(end);
    }
    if until.is_none() && end.fault.is_none() {
        end.fault = tail_fault(device, superblock, &end)?;
    }
    if end.fault.is_some() {
        end.damaged = is_damaged(device, superblock, &verifier, &end)?;
    }
    Ok(end)
}

impl End {
    /// The first segment that is kept has no header: that can be no torn write, for it was durable
    /// before the superblock named it.
    fn headless(superblock: &Superblock, first: u32) -> Self {
        let genesis = Head::genesis(superblock);
        Self {
            first: genesis.clone(),
            segment: first,
            offset: 0,
            head: genesis,
            epoch: (0, first),
            anchor_due: false,
            anchor: None,
            fault: Some(Fault {
                id: EventId(0),
                segment: first,
                offset: 0,
                kind: FaultKind::SegmentHeader,
            }),
            damaged: true,
        }
    }
}

/// Whether no segment begins with these bytes: they are zero, or the header of the segment that had
/// the slot before and was dropped.
fn is_unused(superblock: &Superblock, segment: u32, area: &[u8]) -> bool {
    let dropped = segment.checked_sub(superblock.segments_max);
    is_zero(area)
        || dropped.is_some()
            && SegmentHeader::decode(area).is_some_and(|header| {
                (Some(header.place.segment), header.place.log_id) == (dropped, superblock.log_id)
            })
}

/// Whether a segment has its header.
fn is_begun(device: &dyn Device, superblock: &Superblock, segment: u32) -> io::Result<bool> {
    if segment >= superblock.segments_end() {
        return Ok(false);
    }
    let mut area = vec![0; SEGMENT_HEADER_BYTES];
    device.read_at(superblock.segment_offset(segment), &mut area)?;
    let place = SegmentHeader::decode(&area).map(|header| header.place);
    Ok(place.is_some_and(|p| (p.segment, p.log_id) == (segment, superblock.log_id)))
}

fn read_segment(
    verifier: &mut Verifier,
    window: &mut Window<'_, '_>,
    base: u64,
    until: Option<u64>,
    found: &mut dyn FnMut(Found<'_>),
) -> io::Result<Result<(), Fault>> {
    loop {
        let at = base + verifier.offset();
        if until.is_some_and(|until| at >= until) {
            return Ok(Ok(()));
        }
        let inspected = window.inspected(at);
        match verifier.step_with(window.from(at), inspected.as_ref()) {
            Ok(Step::Need(bytes)) => window.fill(at, bytes, verifier.in_group())?,
            Ok(Step::Event {
                id,
                chain,
                offset,
                leaf,
                body,
            }) => found(Found::Event {
                id,
                chain,
                offset: base + offset,
                leaf,
                body: &body,
            }),
            Ok(Step::Group { .. }) => found(Found::Group {
                end: base + verifier.offset(),
            }),
            Ok(Step::Blank) => return Ok(Ok(())),
            Err(fault) => return Ok(Err(fault)),
        }
    }
}

/// A clean log has zeros behind its last group, where the next group would go, and no header of a
/// next segment.
fn tail_fault(
    device: &dyn Device,
    superblock: &Superblock,
    end: &End,
) -> io::Result<Option<Fault>> {
    let base = superblock.segment_offset(end.segment);
    let next = superblock.segment_offset(end.segment + 1);
    let from = base + end.offset;
    let to = from.saturating_add(superblock.group_bytes_max()).min(next);
    let mut bad = first_nonzero(device, from, to)?.map(|at| (end.segment, at - base));
    if bad.is_none() && end.offset > 0 && end.segment + 1 < superblock.segments_end() {
        let mut area = vec![0; SEGMENT_HEADER_BYTES];
        device.read_at(next, &mut area)?;
        if !is_unused(superblock, end.segment + 1, &area) {
            let at = area.iter().position(|b| *b != 0).unwrap_or(0);
            bad = Some((end.segment + 1, at as u64));
        }
    }
    Ok(bad.map(|(segment, offset)| Fault {
        id: EventId(end.head.id + 1),
        segment,
        offset,
        kind: FaultKind::Tail,
    }))
}

fn is_damaged(
    device: &dyn Device,
    superblock: &Superblock,
    verifier: &Verifier,
    end: &End,
) -> io::Result<bool> {
    let group = superblock.group_bytes_max();
    let sector = u64::from(superblock.sector_bytes);
    let header = SEGMENT_HEADER_BYTES as u64;
    let mut bytes = vec![0; usize::try_from(group.next_multiple_of(sector)).unwrap_or(0)];
    let mut look = |segment: u32, from: u64, to: u64| -> io::Result<bool> {
        let base = superblock.segment_offset(segment);
        let mut at = from;
        while at < to {
            let n = (to - at).min(bytes.len() as u64);
            let part = bytes
                .get_mut(..usize::try_from(n).unwrap_or(0))
                .unwrap_or_default();
            device.read_at(base + at, part)?;
            if verifier.damaged(segment, at, part) {
                return Ok(true);
            }
            at += n;
        }
        Ok(false)
    };
    // The rest of the segment where the fault is, and the beginning of the one behind it: its first
    // group is written only after its header is durable.
    if end.offset == 0 {
        return look(end.segment, header, superblock.segment_bytes);
    }
    if look(end.segment, end.offset, superblock.segment_bytes)? {
        return Ok(true);
    }
    if end.segment + 1 >= superblock.segments_end() {
        return Ok(false);
    }
    look(
        end.segment + 1,
        header,
        (header + group).min(superblock.segment_bytes),
    )
}

/// First byte that is not zero in a range of the log.
pub(crate) fn first_nonzero(device: &dyn Device, from: u64, to: u64) -> io::Result<Option<u64>> {
    let mut buf = vec![0; WINDOW_BYTES];
    let mut at = from;
    while at < to {
        let n = usize::try_from(to - at)
            .unwrap_or(usize::MAX)
            .min(buf.len());
        let part = buf.get_mut(..n).unwrap_or_default();
        device.read_at(at, part)?;
        if let Some(bad) = part.iter().position(|b| *b != 0) {
            return Ok(Some(at + bad as u64));
        }
        at += n as u64;
    }
    Ok(None)
}

pub(crate) fn is_zero(bytes: &[u8]) -> bool {
    bytes.iter().all(|b| *b == 0)
}

#[cfg(test)]
mod tests;
