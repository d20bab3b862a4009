//! The index: where events lie, and which carry a type, actor, tenant, namespace, subject, time or cause.
//!
//! A pure fold over the log, a part a segment. The open segment's part is in memory; those of sealed
//! segments lie in snapshots and are read a page at a time, so that memory does not grow with the log.
//! Without a folder for snapshots the last sealed parts stay in memory and older ones are but anchors:
//! what they would find is found by reading.
//!
//! Never here: trusting a posting. Who reads compares the event itself. Start with [`Index::at`].

mod keeper;
mod pages;
mod part;
mod snapshot;
mod state;

pub use keeper::{keep, open_last, start as start_keeper};
pub use part::{ANCHOR_EVERY, BLOCK_EVENTS, Dimension, Part, Posted, Span};
pub use snapshot::{Snapshot, Wanted};
pub use state::{Resumed, State, resume};

use crossbeam::channel::Sender;
use ledger_core::{Hash, Place, SegmentHeader};
use roaring::RoaringBitmap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

/// Sealed parts that are held in memory: one is being written while the next is sealed.
const FROZEN_MAX: usize = 2;

/// Where a segment lies and where the log stood when it began.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    /// What its checksums are seeded with.
    pub place: Place,
    /// Its first byte in the log.
    pub base: u64,
    /// Id of its first event.
    pub first_id: u64,
    /// Chain value before that.
    pub chain: Hash,
}

impl Extent {
    /// Of the segment with this header, which begins at `base`.
    #[must_use]
    pub fn of(header: &SegmentHeader, base: u64) -> Self {
        Self {
            place: header.place,
            base,
            first_id: header.head.id + 1,
            chain: header.head.chain,
        }
    }
}

/// Where a segment's part of the index is.
#[derive(Clone)]
pub enum View {
    /// In memory.
    Memory(Arc<Mutex<Part>>),
    /// In a snapshot.
    File(Arc<Snapshot>),
    /// Nowhere, but for its anchors, or not even those.
    Bare(Arc<[u32]>),
}

/// One segment, for who looks at it while the log goes on.
#[derive(Clone)]
pub struct Look {
    /// The segment.
    pub extent: Extent,
    /// Its last event; one less than its first if it is empty.
    pub last: u64,
    /// Times of its events; `None` where they are not known.
    pub span: Option<Span>,
    view: View,
}

impl Look {
    fn ordinal(&self, id: u64) -> u32 {
        u32::try_from(id.saturating_sub(self.extent.first_id)).unwrap_or(u32::MAX)
    }

    /// The anchor at or before an event: its id and its log offset; `None` without anchors.
    ///
    /// # Errors
    /// As the snapshot's.
    pub fn anchor(&self, id: u64) -> io::Result<Option<(u64, u64)>> {
        let ordinal = self.ordinal(id);
        let found = match &self.view {
            View::Memory(part) => lock(part).anchor(ordinal),
            View::File(snapshot) => snapshot.anchor(ordinal)?,
            View::Bare(anchors) => usize::try_from(ordinal / ANCHOR_EVERY)
                .ok()
                .and_then(|n| anchors.get(n).copied()),
        };
        Ok(found.map(|offset| {
            let before = u64::from(ordinal % ANCHOR_EVERY);
            (id - before, self.extent.base + u64::from(offset))
        }))
    }

    /// Ordinals of events that may have all these values; `None` if each must be looked at.
    ///
    /// # Errors
    /// As the snapshot's.
    pub fn candidates(&self, filters: &[(Dimension, &str)]) -> io::Result<Option<RoaringBitmap>> {
        match &self.view {
            View::Memory(part) => Ok(lock(part).candidates(filters)),
            View::File(snapshot) => snapshot.candidates(filters),
            View::Bare(_) => Ok(None),
        }
    }

    /// Times of a block of events; `None` if they are not known.
    ///
    /// # Errors
    /// As the snapshot's.
    pub fn block(&self, block: u32) -> io::Result<Option<Span>> {
        match &self.view {
            View::Memory(part) => Ok(usize::try_from(block)
                .ok()
                .and_then(|n| lock(part).blocks.get(n).copied())),
            View::File(snapshot) => snapshot.block(block),
            View::Bare(_) => Ok(None),
        }
    }

    /// Adds the ids of the events that `cause` caused directly; false if each must be looked at.
    ///
    /// # Errors
    /// As the snapshot's.
    pub fn children(&self, cause: u64, out: &mut Vec<u64>) -> io::Result<bool> {
        match &self.view {
            View::Memory(part) => lock(part).children(cause, out),
            View::File(snapshot) => snapshot.children(cause, out)?,
            View::Bare(_) => return Ok(false),
        }
        Ok(true)
    }
}

fn lock(part: &Mutex<Part>) -> std::sync::MutexGuard<'_, Part> {
    part.lock().unwrap_or_else(PoisonError::into_inner)
}

struct Entry {
    extent: Extent,
    events: u32,
    span: Option<Span>,
    view: View,
    /// Its snapshot could not be written; the next start tries again.
    given_up: bool,
}

impl Entry {
    fn is_bare(&self) -> bool {
        matches!(self.view, View::Bare(_))
    }
}

/// The folder of snapshots.
struct Kept {
    folder: PathBuf,
    cache: Arc<pages::Cache>,
    opened: u64,
    wake: Option<Sender<()>>,
    /// To be written.
    state: Option<State>,
}

/// How the snapshots are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Freshness {
    /// Sealed segments that hold events.
    pub sealed: usize,
    /// Those of them whose part is in a snapshot that holds.
    pub snapshots: usize,
    /// Those whose snapshot could not be written.
    pub given_up: usize,
    /// Parts that were built again from the log since the start.
    pub rebuilds: u64,
    /// Whether there is a folder for snapshots.
    pub kept: bool,
}

/// The index.
#[derive(Default)]
pub struct Index {
    /// By first event; the last one is of the open segment.
    entries: Vec<Entry>,
    kept: Option<Kept>,
    rebuilds: u64,
}

impl Index {
    /// Keeps snapshots in this folder, which exists.
    #[must_use]
    pub fn kept_in(folder: &Path) -> Self {
        Self {
            kept: Some(Kept {
                folder: folder.to_owned(),
                cache: Arc::default(),
                opened: 0,
                wake: None,
                state: None,
            }),
            ..Self::default()
        }
    }

    /// Takes a sealed segment in that is not read: its part is in its snapshot, or is rebuilt later.
    pub fn sealed(&mut self, wanted: &Wanted) {
        let opened = self.open_snapshot(wanted);
        let (span, view) = match opened {
            Some(snapshot) => (Some(snapshot.span), View::File(Arc::new(snapshot))),
            None => (None, View::Bare(Arc::default())),
        };
        self.entries.push(Entry {
            extent: wanted.extent,
            events: wanted.events,
            span,
            view,
            given_up: false,
        });
    }

    fn open_snapshot(&mut self, wanted: &Wanted) -> Option<Snapshot> {
        let kept = self.kept.as_mut()?;
        kept.opened += 1;
        // Whatever is wrong with it, the part is built again.
        Snapshot::open(&kept.folder, wanted, kept.opened, &kept.cache).ok()
    }

    /// Begins a segment, unless it is the open one: the one before is sealed.
    pub fn begin(&mut self, extent: Extent) {
        if self.entries.last().is_some_and(|e| e.extent == extent) {
            return;
        }
        self.seal(&extent);
        let part = Part::new(extent.first_id, extent.base);
        self.push(extent, View::Memory(Arc::new(Mutex::new(part))));
        self.forget_frozen();
        self.wake();
    }

    /// Goes past a sealed segment while a start reads it: its part is in its snapshot, or is built behind the
    /// start.
    pub fn pass(&mut self, extent: Extent) {
        self.seal(&extent);
        self.push(extent, View::Bare(Arc::default()));
    }

    fn push(&mut self, extent: Extent, view: View) {
        self.entries.push(Entry {
            extent,
            events: 0,
            span: None,
            view,
            given_up: false,
        });
    }

    /// Seals the last segment: the one behind it begins here.
    fn seal(&mut self, next: &Extent) {
        let Some(entry) = self.entries.last_mut() else {
            return;
        };
        let extent = entry.extent;
        match &entry.view {
            View::Memory(part) => {
                let part = lock(part);
                (entry.events, entry.span) = (part.events, Some(part.span));
            }
            View::Bare(_) if entry.events == 0 => {
                // It was gone past. A segment holds fewer events than 32 bits count.
                let events = u32::try_from(next.first_id - extent.first_id).unwrap_or(u32::MAX);
                self.entries.pop();
                self.sealed(&Wanted {
                    extent,
                    events,
                    chain: next.chain,
                });
            }
            View::Bare(_) | View::File(_) => {}
        }
    }

    /// Whether events are taken in: not of a segment that is gone past.
    #[must_use]
    pub fn is_open(&self) -> bool {
        let last = self.entries.last();
        last.is_some_and(|entry| matches!(entry.view, View::Memory(_)))
    }

    /// Lets go of parts that wait for long to be written, or have nowhere to go.
    fn forget_frozen(&mut self) {
        let in_memory = |entry: &&mut Entry| matches!(entry.view, View::Memory(_));
        let old = self.entries.iter_mut().rev().filter(in_memory);
        for entry in old.skip(1 + FROZEN_MAX) {
            if let View::Memory(part) = &entry.view {
                let anchors = lock(part).anchors.as_slice().into();
                entry.view = View::Bare(anchors);
            }
        }
    }

    fn wake(&self) {
        if let Some(wake) = self.kept.as_ref().and_then(|kept| kept.wake.as_ref()) {
            // One call that waits is enough.
            let _ = wake.try_send(());
        }
    }

    /// Whether snapshots are kept.
    #[must_use]
    pub fn is_kept(&self) -> bool {
        self.kept.is_some()
    }

    /// Keeps the state from which a later start reads on.
    pub fn keep_state(&mut self, state: State) {
        if let Some(kept) = &mut self.kept {
            kept.state = Some(state);
        }
        self.wake();
    }

    /// Takes the next event of the open segment in.
    pub fn add(&mut self, event: &Posted) {
        if let Some(View::Memory(part)) = self.entries.last().map(|entry| &entry.view) {
            lock(part).add(event);
        }
    }

    /// First event that is kept; 1 for an empty log.
    #[must_use]
    pub fn first(&self) -> u64 {
        self.entries
            .first()
            .map_or(1, |entry| entry.extent.first_id)
    }

    /// The segment of an event: the last one that begins at or before it.
    #[must_use]
    pub fn at(&self, id: u64) -> Option<Look> {
        let behind = self.entries.partition_point(|e| e.extent.first_id <= id);
        let n = behind.checked_sub(1)?;
        let entry = self.entries.get(n)?;
        let (events, span) = match (&entry.view, self.entries.get(behind)) {
            (View::Memory(part), None) => {
                let part = lock(part);
                (part.events, Some(part.span))
            }
            _ => (entry.events, entry.span),
        };
        Some(Look {
            extent: entry.extent,
            last: entry.extent.first_id + u64::from(events) - 1,
            span,
            view: entry.view.clone(),
        })
    }

    /// Forgets a snapshot that does not hold; its part is built again.
    pub fn distrust(&mut self, look: &Look) {
        let first_id = look.extent.first_id;
        let Ok(n) = self
            .entries
            .binary_search_by_key(&first_id, |e| e.extent.first_id)
        else {
            return;
        };
        if let Some(entry) = self.entries.get_mut(n)
            && let (View::File(mine), View::File(theirs)) = (&entry.view, &look.view)
            && Arc::ptr_eq(mine, theirs)
        {
            ::log::warn!(
                "index snapshot does not hold: file={}",
                mine.path().display()
            );
            entry.view = View::Bare(Arc::default());
            self.wake();
        }
    }

    /// Forgets every snapshot; how many parts are then built again.
    pub fn distrust_all(&mut self) -> usize {
        let sealed = self.entries.len().saturating_sub(1);
        let mut parts = 0;
        for entry in self.entries.iter_mut().take(sealed) {
            parts += usize::from(entry.events > 0);
            entry.given_up = false;
            if let View::File(_) = entry.view {
                entry.view = View::Bare(Arc::default());
            }
        }
        self.wake();
        parts
    }

    /// Forgets the segments before the one that begins with this event: they were compacted away.
    pub fn forget_before(&mut self, first_id: u64) {
        let gone = self
            .entries
            .partition_point(|e| e.extent.first_id < first_id);
        for entry in self.entries.drain(..gone) {
            if let Some(kept) = &self.kept {
                let name = snapshot::file_name(entry.extent.first_id);
                // It may never have been written.
                let _ = crate::files::remove(&kept.folder.join(name));
            }
        }
    }

    /// How the snapshots are.
    #[must_use]
    pub fn freshness(&self) -> Freshness {
        let files = self.entries.iter();
        let files = files.filter(|e| matches!(e.view, View::File(_)));
        Freshness {
            sealed: self
                .entries
                .iter()
                .rev()
                .skip(1)
                .filter(|e| e.events > 0)
                .count(),
            snapshots: files.count(),
            given_up: self.entries.iter().filter(|e| e.given_up).count(),
            rebuilds: self.rebuilds,
            kept: self.kept.is_some(),
        }
    }
}

#[cfg(test)]
mod tests;
