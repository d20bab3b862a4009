//! Epochs and compaction: what the committer does between two groups, when asked or when the log
//! fills.
//!
//! A compaction writes the planes' state down as events, then the event that says where the log
//! begins, and only then drops segments; a cut anywhere leaves the log as it was, or is finished at
//! the next start.

use super::{Draft, Job, Receipt, Refusal, Work, Writer};
use crate::boots;
use crate::log::Log;
use crate::planes::Summary;
use crossbeam::channel::bounded;
use ledger_core::{
    Anchor, COMPACTED, EPOCH_OPENED, LEDGER_ACTOR, LEDGER_NS, LEDGER_TENANT, SUMMARY, SummaryPiece,
};
use std::sync::PoisonError;

/// Of the log, in percent, what makes it open an epoch and drop what is oldest.
const COMPACT_PERCENT: u64 = 75;
/// Of the log, in percent, from where on only PID 1's and security's events are taken.
const RESERVED_PERCENT: u64 = 95;
/// Of the log, in percent, what a compaction keeps that is not told.
const KEEP_PERCENT: u64 = 50;
/// Bytes that an event of ours takes beside its payload, at most, with its part of a group.
const EVENT_BYTES: u64 = 1024;
/// Bytes of a summary that become durable at once, at most.
const SUMMARY_GROUP_BYTES: u64 = 512 * 1024;

/// While a compaction waits for tiles, its summary's room is kept free so many times: a crash in its midst leaves
/// what it wrote.
const SUMMARY_TIMES: u64 = 2;

/// What is asked of the committer between two groups.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// Begin an epoch.
    Epoch,
    /// Drop old segments, but keep this much at least.
    Compact(Keep),
}

/// What a compaction keeps: of the two, what keeps more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Keep {
    /// The newest bytes; half the log if neither is given.
    pub bytes: Option<u64>,
    /// The newest events.
    pub events: Option<u64>,
}

/// What was done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Done {
    /// The event that says so: the anchor, or that of the compaction; 0 where nothing was to drop.
    pub event_id: u64,
    /// The epoch.
    pub epoch: u64,
    /// First event that is kept.
    pub first_event_id: u64,
    /// Segments that were dropped.
    pub dropped: u32,
}

impl Done {
    /// The members of an answer.
    #[must_use]
    pub fn members(&self) -> String {
        format!(
            "\"event_id\":{},\"epoch\":{},\"first_event_id\":{},\"dropped\":{}",
            self.event_id, self.epoch, self.first_event_id, self.dropped
        )
    }
}

/// What happens with the outcome; called by the committer, so it must not block.
pub type Answer = Box<dyn FnOnce(Result<Done, Refusal>) + Send>;

impl Writer {
    /// Does what was asked.
    pub(super) fn obey(&mut self, order: Order) -> Result<Done, Refusal> {
        match order {
            Order::Epoch => self.open_epoch(),
            Order::Compact(keep) => self.compact(keep),
        }
    }

    /// The anchor of an epoch that was begun before a cut comes before all else.
    pub(super) fn finish_epoch(&mut self) {
        if self.log.anchor_due()
            && self.log.stopped().is_none()
            && let Err(refusal) = self.open_epoch()
        {
            ::log::error!("epoch not opened: reason={:?}", refusal.reason());
        }
    }

    /// Makes room where the log fills: an epoch of its own, and what is oldest goes.
    pub(super) fn make_room(&mut self) {
        let again = self.tried == Some(self.log.segment());
        // Where what is kept free is refused, no event leads to the segment in which it would be tried again.
        let refuses = self.log.room().saturating_sub(self.log.used()) < self.kept_free;
        if self.log.stopped().is_some() || (again && !refuses) {
            return;
        }
        if !self.makes_room || !is_filling(&self.log) {
            return;
        }
        let opened = match self.log.segments_free() {
            // An epoch gains nothing where nothing may be dropped.
            _ if again || self.lost.is_some() => Ok(()),
            0 => Ok(()),
            _ => self.open_epoch().map(drop),
        };
        // Not again for every group: once a segment is enough.
        self.tried = Some(self.log.segment());
        match opened.and_then(|()| self.compact(Keep::default())) {
            Ok(done) if done.dropped > 0 => ::log::info!(
                "compacted: dropped={} first_event={} epoch={}",
                done.dropped,
                done.first_event_id,
                done.epoch
            ),
            // Tiles may be behind: there is no segment after the last to try it again in.
            Ok(_) => {
                self.tried = self.tried.filter(|_| self.log.segments_free() > 0);
                if self.kept_free == 0 {
                    self.kept_free = SUMMARY_TIMES * bytes_taken(&self.pieces());
                }
            }
            Err(refusal) => {
                // Nothing waits for tiles: the next segment tries it again, and no group before.
                self.kept_free = 0;
                ::log::warn!("not compacted: reason={:?}", refusal.reason());
            }
        }
    }

    /// Whether an event may still be taken: of a log that is nearly full, those that tell of the
    /// machine and of its security alone.
    pub(super) fn may_take(&self, draft: &Draft) -> Result<(), Refusal> {
        let (used, room) = (self.log.used(), self.log.room());
        if !self.makes_room && draft.actor != LEDGER_ACTOR && is_filling(&self.log) {
            let limit = format!(
                "{COMPACT_PERCENT} % of {room} bytes: its service makes room when it runs, or compact does"
            );
            return Err(Refusal::new("QUOTA", "log", &used.to_string(), &limit));
        }
        if draft.is_essential() {
            return Ok(());
        }
        if used / RESERVED_PERCENT < room / 100 {
            let kept = self.kept_free;
            if room.saturating_sub(used) >= kept {
                return Ok(());
            }
            let limit = format!("{room} bytes less {kept} for a compaction that waits for tiles");
            return Err(Refusal::new("QUOTA", "log", &used.to_string(), &limit));
        }
        let limit = format!(
            "{RESERVED_PERCENT} % of {room} bytes; the rest is for the machine's own events"
        );
        Err(Refusal::new("QUOTA", "log", &used.to_string(), &limit))
    }

    fn open_epoch(&mut self) -> Result<Done, Refusal> {
        let state = *blake3::hash(&self.summary()).as_bytes();
        if self.log.segments_free() == 0 && !self.log.anchor_due() {
            let limit = "no segment is free: compact first";
            return Err(Refusal::new("QUOTA", "log", "", limit));
        }
        let previous = self.log.anchor();
        self.log.next_epoch().map_err(|s| Refusal::from(&s))?;
        self.keep_state();
        let head = self.log.head();
        let anchor = Anchor {
            epoch: self.log.epoch().0,
            previous,
            chain: head.chain,
            tree_size: head.tree.size(),
            root: head.tree.root(),
            state,
        };
        let receipts = self.write_own(vec![own(EPOCH_OPENED, anchor.payload())])?;
        let proofs = self.shared.proofs.lock();
        if let Some(proofs) = &*proofs.unwrap_or_else(PoisonError::into_inner) {
            proofs.hasten(self.log.head().id);
        }
        Ok(self.done(&receipts, 0))
    }

    fn compact(&mut self, keep: Keep) -> Result<Done, Refusal> {
        if let Some(why) = &self.lost {
            // What it wrote down would pass for the state, and the events that could still tell be gone.
            let why = format!("nothing is dropped, the state of a compaction is lost: {why}");
            return Err(Refusal::new("CORRUPT", "log", "", &why));
        }
        let before = self.log.superblock().first_segment;
        let first = self.first_to_keep(keep)?;
        let droppable = self.log.droppable(first, 0);
        if droppable.map_err(|e| Refusal::from(&e))?.is_none() {
            return Ok(self.done(&[], 0));
        }
        let pieces = self.pieces();
        let needed = bytes_taken(&pieces);
        // What is left of a segment may be too little for the next piece.
        let free = u64::from(self.log.segments_free()) * self.log.segment_room() / 2;
        let free = self.log.left() + free;
        if needed > free {
            let limit =
                format!("a summary of {needed} bytes needs more than the {free} that are left");
            return Err(Refusal::new("QUOTA", "log", "", &limit));
        }
        let at_once = SUMMARY_GROUP_BYTES.min(self.log.superblock().group_bytes_max());
        let (mut last, mut group, mut size) = (0, Vec::new(), 0);
        let mut pieces = pieces.into_iter().peekable();
        while let Some(piece) = pieces.next() {
            size += event_bytes(&piece);
            group.push(piece);
            if pieces
                .peek()
                .is_none_or(|next| size + event_bytes(next) > at_once)
            {
                let receipts = self.write_own(std::mem::take(&mut group))?;
                last = receipts.last().map_or(last, |r| r.id);
                size = 0;
            }
        }
        let compacted = self.log.droppable(first, last);
        let compacted = compacted.map_err(|e| Refusal::from(&e))?;
        let compacted =
            compacted.ok_or_else(|| Refusal::new("INTERNAL", "log", "", "nothing to drop"))?;
        let receipts = self.write_own(vec![own(COMPACTED, compacted.payload())])?;
        // Until the index has forgotten it too: who reads what is being given back asks there whether it was dropped
        // or is damaged.
        let mut index = self
            .shared
            .index
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        self.log
            .compact(&compacted)
            .map_err(|s| Refusal::from(&s))?;
        index.forget_before(compacted.first_event_id);
        drop(index);
        self.kept_free = 0;
        self.publish();
        Ok(self.done(&receipts, self.log.superblock().first_segment - before))
    }

    /// The segment that the log begins with from now on, by what is to be kept.
    fn first_to_keep(&self, keep: Keep) -> Result<u32, Refusal> {
        let by_bytes = match (keep.bytes, keep.events) {
            (Some(bytes), _) => self.log.keeping(bytes),
            (None, Some(_)) => self.log.segment(),
            (None, None) => {
                // One segment must come free, or nothing is gained.
                let enough =
                    (self.log.segment() + 2).saturating_sub(self.log.superblock().segments_max);
                self.log
                    .keeping(self.log.room() / 100 * KEEP_PERCENT)
                    .max(enough)
            }
        };
        let by_events = match keep.events {
            None => u32::MAX,
            Some(events) => {
                let oldest = self.log.head().id.saturating_sub(events).saturating_add(1);
                let segment = self.log.segment_of_event(oldest);
                segment.map_err(|e| Refusal::from(&e))?
            }
        };
        Ok(by_bytes
            .min(by_events)
            .min(self.log.epoch().1)
            .min(self.proven()?))
    }

    /// The first segment whose leaves are not all in durable tiles: proofs of what is dropped are made
    /// of those alone.
    fn proven(&self) -> Result<u32, Refusal> {
        let proofs = self.shared.proofs.lock();
        let proofs = proofs.unwrap_or_else(PoisonError::into_inner).clone();
        let Some(proofs) = proofs else {
            let index = self.shared.index.lock();
            let begins = index.unwrap_or_else(PoisonError::into_inner).is_kept();
            // A service that has just begun does not know yet what is in tiles; without a folder there are none.
            let first = self.log.superblock().first_segment;
            return Ok(if begins { first } else { u32::MAX });
        };
        match proofs.settled() {
            None => Ok(u32::MAX),
            Some(leaves) if leaves >= self.log.head().id => Ok(u32::MAX),
            Some(leaves) => {
                let segment = self.log.segment_of_event(leaves + 1);
                let segment = segment.map_err(|e| Refusal::from(&e))?;
                if segment < self.log.epoch().1 {
                    // They were asked for when the epoch began, but maybe of a process that is gone.
                    proofs.hasten(self.log.head().id);
                }
                Ok(segment)
            }
        }
    }

    fn done(&self, receipts: &[Receipt], dropped: u32) -> Done {
        Done {
            event_id: receipts.last().map_or(0, |r| r.id),
            epoch: self.log.epoch().0,
            first_event_id: self.log.first().id + 1,
            dropped,
        }
    }

    /// Keeps the state before the segment that was just begun, for a start that reads on from there.
    pub(super) fn keep_state(&self) {
        if self.lost.is_some() {
            return;
        }
        let lock = || {
            let index = self.shared.index.lock();
            index.unwrap_or_else(PoisonError::into_inner)
        };
        let Some(extent) = self.log.begun().filter(|_| lock().is_kept()) else {
            return;
        };
        let mut summary = self.planes_summary();
        self.dedupe.whole(&mut summary);
        self.ulids.whole(&mut summary);
        summary.put(boots::SECTION, &self.boots);
        let state = extent.state(self.last_wall_ns, self.log.anchor(), summary.encode());
        lock().keep_state(state);
    }

    /// The planes' part of what stands for all events so far.
    fn planes_summary(&self) -> Summary {
        let mut summary = Summary::default();
        let planes = self.shared.planes.lock();
        planes
            .unwrap_or_else(PoisonError::into_inner)
            .summary(&mut summary);
        summary
    }

    /// What a rebuild needs that reads none of the events so far.
    fn summary(&self) -> Vec<u8> {
        let mut summary = self.planes_summary();
        self.dedupe.summary(&mut summary);
        self.ulids.summary(&mut summary, self.log.room());
        summary.put(boots::SECTION, &self.boots);
        summary.encode()
    }

    /// That as events.
    fn pieces(&self) -> Vec<Draft> {
        SummaryPiece::cut(&self.summary())
            .iter()
            .map(|piece| own(SUMMARY, piece.payload()))
            .collect()
    }

    /// Appends the ledger's own events, all or none, and waits until they are durable.
    fn write_own(&mut self, drafts: Vec<Draft>) -> Result<Vec<Receipt>, Refusal> {
        let (sender, receiver) = bounded(1);
        let job = Job {
            work: Work::Append(
                drafts,
                // The receiver is read below.
                Box::new(move |outcome| drop(sender.send(outcome))),
            ),
            bytes: 0,
        };
        let (mut group, mut added, mut placed) = (self.log.group(), Vec::new(), Vec::new());
        match self.place(&mut group, job, &mut added) {
            Ok(done) => placed.push(done),
            Err(unfit) => {
                (group, placed) = self.in_next_segment(unfit, 0, &mut added);
            }
        }
        self.finish(group, placed, added, 0);
        receiver.recv().unwrap_or_else(|_| Err(Refusal::closing()))
    }
}

impl Draft {
    /// Whether a log that is nearly full still takes it: PID 1's events, the ledger's own, and those
    /// that tell of rights and secrets.
    fn is_essential(&self) -> bool {
        const OF_SECURITY: [&str; 4] = ["policy.", "key.", "capability_", "secret_"];
        // A word that only begins so is anybody's.
        matches!(&*self.event_type, "grant" | "revoke")
            || matches!(&*self.actor, LEDGER_ACTOR | INIT_ACTOR)
            || OF_SECURITY
                .iter()
                .any(|prefix| self.event_type.starts_with(prefix))
    }
}

/// PID 1.
const INIT_ACTOR: &str = "service:init";

fn own(event_type: &str, payload: String) -> Draft {
    Draft {
        ns: LEDGER_NS.to_owned(),
        actor: LEDGER_ACTOR.to_owned(),
        tenant_id: LEDGER_TENANT.to_owned(),
        event_type: event_type.to_owned(),
        subject: "log".to_owned(),
        payload,
        ..Draft::default()
    }
}

fn event_bytes(draft: &Draft) -> u64 {
    draft.payload.len() as u64 + EVENT_BYTES
}

/// What a compaction with this summary takes.
fn bytes_taken(summary: &[Draft]) -> u64 {
    summary.iter().map(event_bytes).sum::<u64>() + EVENT_BYTES
}

/// Whether it is time to make room: by percent, and while a segment is free for the new epoch.
fn is_filling(log: &Log) -> bool {
    let by_percent = log.used() / COMPACT_PERCENT >= log.room() / 100;
    let last_but_one = log.segments_free() == 1 && log.left() < log.segment_room() / 4;
    by_percent || last_but_one
}
