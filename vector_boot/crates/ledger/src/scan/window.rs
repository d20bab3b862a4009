//! What a scan reads: a sliding view of the device, and for a long log a thread that reads ahead.
//!
//! The thread also works out what frames prove by themselves, which is most of a verification; who
//! scans takes them in their order meanwhile. Whatever the thread cannot make sense of is left to the
//! scan, which reads it itself: the thread decides nothing. Start with [`Window::fill`].

use super::is_unused;
use crate::device::Device;
use crossbeam::channel::{Receiver, Sender, bounded};
use ledger_core::{
    Inspected, Inspector, Peek, Place, SEGMENT_HEADER_BYTES, SegmentHeader, Superblock,
    group_frame_end, peek,
};
use std::io;
use std::thread::Scope;

/// Bytes read at once; a larger frame makes the window grow to it.
pub(super) const WINDOW_BYTES: usize = 128 * 1024;
/// A log of so many bytes is read alone: a start of the usual kind has no thread to begin and to end.
pub(super) const ALONE_BYTES: u64 = 4 * 1024 * 1024;
/// Windows under way between the two: one is read while some wait, and one is taken.
const WINDOWS: usize = 6;
/// While so many wait, the scan has enough to do for as long as the frames of another are worked out.
const WAITING: usize = 2;

/// Bytes of the log, and what the frames in them prove.
#[derive(Default)]
struct View {
    /// Where they begin.
    first: u64,
    bytes: Vec<u8>,
    filled: usize,
    /// By where the frames begin in the bytes, in order.
    inspected: Vec<(usize, Inspected)>,
}

impl View {
    fn read(&mut self, device: &dyn Device, at: u64, n: usize) -> io::Result<()> {
        self.inspected.clear();
        self.filled = 0;
        if self.bytes.len() < n {
            self.bytes.resize(n, 0);
        }
        device.read_at(at, self.bytes.get_mut(..n).unwrap_or_default())?;
        (self.first, self.filled) = (at, n);
        Ok(())
    }

    fn from(&self, at: u64) -> &[u8] {
        let skip = at.checked_sub(self.first);
        let skip = skip.and_then(|skip| usize::try_from(skip).ok());
        skip.and_then(|skip| self.bytes.get(skip..self.filled))
            .unwrap_or_default()
    }
}

/// A sliding view of the device.
pub(super) struct Window<'s, 'e> {
    device: &'e dyn Device,
    superblock: &'e Superblock,
    scope: &'s Scope<'s, 'e>,
    view: View,
    /// The next frame of the view that was inspected.
    next: usize,
    /// End of the segment.
    end: u64,
    /// What may still be read before a thread is to read ahead.
    alone: u64,
    ahead: Option<Ahead>,
}

/// The scan's end of what the thread reads.
struct Ahead {
    ready: Receiver<View>,
    used: Sender<View>,
    /// Read further on than the scan is.
    early: Option<View>,
}

impl<'s, 'e> Window<'s, 'e> {
    pub fn new(
        device: &'e dyn Device,
        superblock: &'e Superblock,
        scope: &'s Scope<'s, 'e>,
        alone: u64,
    ) -> Self {
        Self {
            device,
            superblock,
            scope,
            view: View::default(),
            next: 0,
            end: 0,
            alone,
            ahead: None,
        }
    }

    /// Has a thread read ahead from here on; where there is none to be had, the scan stays alone.
    fn read_ahead(&mut self, start: Start) {
        let (device, superblock) = (self.device, self.superblock);
        let ((to_scan, ready), (used, to_fill)) = (bounded(WINDOWS), bounded(WINDOWS));
        for _ in 0..WINDOWS {
            // As many as there is room for.
            let _ = used.send(View::default());
        }
        let thread = std::thread::Builder::new().name("read-ahead".to_owned());
        let spawned = thread.spawn_scoped(self.scope, move || {
            // The scan meets what is wrong with the device where it is, and says so.
            let _ = read_on(device, superblock, start, &to_fill, &to_scan);
        });
        self.ahead = spawned.is_ok().then_some(Ahead {
            ready,
            used,
            early: None,
        });
    }

    /// Whether a thread reads ahead, or did.
    pub fn is_ahead(&self) -> bool {
        self.ahead.is_some()
    }

    /// Goes to a segment that ends at `end`.
    pub fn move_to(&mut self, first: u64, end: u64) {
        (self.view.first, self.view.filled, self.end) = (first, 0, end);
        self.view.inspected.clear();
        self.next = 0;
    }

    /// What is there from `at` on.
    pub fn from(&self, at: u64) -> &[u8] {
        self.view.from(at)
    }

    /// What the frame at `at` proves, where that was worked out; offsets are asked for in order.
    pub fn inspected(&mut self, at: u64) -> Option<Inspected> {
        while let Some((offset, inspected)) = self.view.inspected.get(self.next) {
            let there = self.view.first + *offset as u64;
            if there > at {
                return None;
            }
            self.next += 1;
            if there == at {
                return Some(*inspected);
            }
        }
        None
    }

    /// Goes on to `at`, with at least `need` bytes, which the verifier knows to lie in the segment.
    pub fn fill(&mut self, at: u64, need: u64, in_group: bool) -> io::Result<()> {
        self.next = 0;
        if self.alone == 0 && self.ahead.is_none() {
            // Once, whatever becomes of it.
            self.alone = u64::MAX;
            let segment = self.superblock.segment_at(at);
            self.read_ahead(Start {
                segment,
                offset: at - self.superblock.segment_offset(segment),
                in_group,
            });
        }
        let need = usize::try_from(need).unwrap_or(usize::MAX);
        if let Some(view) = self.ahead.as_mut().and_then(|ahead| ahead.take(at, need)) {
            let used = std::mem::replace(&mut self.view, view);
            if let Some(ahead) = &self.ahead {
                ahead.give_back(used);
            }
            return Ok(());
        }
        let left = usize::try_from(self.end.saturating_sub(at)).unwrap_or(usize::MAX);
        let n = left.min(WINDOW_BYTES.max(need));
        self.alone = self.alone.saturating_sub(n as u64);
        self.view.read(self.device, at, n)
    }
}

impl Ahead {
    /// The window that begins at `at`, if the thread reads it and it is long enough.
    fn take(&mut self, at: u64, need: usize) -> Option<View> {
        loop {
            let view = match self.early.take() {
                Some(view) => view,
                // Once the thread has ended there is none.
                None => self.ready.recv().ok()?,
            };
            if view.first == at && view.filled >= need {
                return Some(view);
            }
            if view.first >= at {
                self.early = Some(view);
                return None;
            }
            self.give_back(view);
        }
    }

    fn give_back(&self, view: View) {
        // The scan's own first window is one more than there are.
        let _ = self.used.try_send(view);
    }
}

/// Where the thread begins.
struct Start {
    segment: u32,
    /// From the segment's start.
    offset: u64,
    /// Whether that is amid a group.
    in_group: bool,
}

/// The thread: segment after segment, until the scan ends or there is nothing it understands.
fn read_on(
    device: &dyn Device,
    superblock: &Superblock,
    mut start: Start,
    to_fill: &Receiver<View>,
    to_scan: &Sender<View>,
) -> io::Result<()> {
    let mut inspector = Inspector::new(superblock);
    let mut area = vec![0; SEGMENT_HEADER_BYTES];
    for segment in start.segment..superblock.segments_end() {
        let base = superblock.segment_offset(segment);
        device.read_at(base, &mut area)?;
        if is_unused(superblock, segment, &area) {
            break;
        }
        let Some(header) = SegmentHeader::decode(&area) else {
            break;
        };
        let mut walk = Walk {
            place: header.place,
            sector: superblock.sector_bytes,
            at: start.offset,
            in_group: start.in_group,
        };
        (start.offset, start.in_group) = (SEGMENT_HEADER_BYTES as u64, false);
        let mut want = WINDOW_BYTES as u64;
        while walk.at < superblock.segment_bytes {
            let Ok(mut view) = to_fill.recv() else {
                return Ok(());
            };
            let begin = walk.at;
            let n = want.min(superblock.segment_bytes - begin);
            view.read(device, base + begin, usize::try_from(n).unwrap_or(0))?;
            // A scan that has little to do takes a window as it is, and this thread the next one.
            let inspector = (to_scan.len() >= WAITING).then_some(&mut inspector);
            let goes_on = walk.through(&mut view, inspector);
            let need = match peek(view.from(base + walk.at)) {
                Peek::Event { bytes, .. } => bytes,
                _ => 0,
            };
            want = need.max(WINDOW_BYTES as u64);
            let stuck = walk.at == begin && want <= n;
            if to_scan.send(view).is_err() {
                return Ok(());
            }
            if !goes_on || stuck || want > superblock.group_bytes_max() {
                break;
            }
        }
    }
    Ok(())
}

/// From frame to frame through a segment.
struct Walk {
    place: Place,
    sector: u32,
    /// From the segment's start.
    at: u64,
    in_group: bool,
}

impl Walk {
    /// Walks over what a view holds to its end; false if the segment's events end, or make no sense.
    fn through(&mut self, view: &mut View, mut inspector: Option<&mut Inspector>) -> bool {
        let begin = self.at;
        let View {
            bytes,
            filled,
            inspected,
            ..
        } = view;
        loop {
            let offset = usize::try_from(self.at - begin).unwrap_or(usize::MAX);
            let rest = bytes.get(offset..*filled).unwrap_or_default();
            let next = match peek(rest) {
                Peek::Event { bytes, .. } => {
                    if bytes > rest.len() as u64 {
                        return true;
                    }
                    if let Some(inspector) = &mut inspector {
                        let found = inspector.inspect(&self.place, rest);
                        let Some(found) = found.filter(Inspected::holds) else {
                            return false;
                        };
                        inspected.push((offset, found));
                    }
                    self.in_group = true;
                    self.at + bytes
                }
                Peek::GroupEnd | Peek::Zero if self.in_group => {
                    let end = group_frame_end(self.at, self.sector);
                    if end - begin > *filled as u64 {
                        return true;
                    }
                    self.in_group = false;
                    end
                }
                Peek::Short => return true,
                Peek::GroupEnd | Peek::Zero => return false,
            };
            self.at = next;
        }
    }
}
