//! What a scan of the whole log leaves in memory: the index, the origins seen and the planes.

use crate::boots::{self, Boots, Seen};
use crate::dedupe::Dedupe;
use crate::index::{self, Extent, Index, Posted, Resumed, State};
use crate::planes::{Planes, Summary, Unreadable};
use crate::scan::Found;
use crate::ulids::Ulids;
use ledger_core::{Body, EPOCH_OPENED, Gathered, Hash, Origin};
use std::path::Path;

/// What recovery folds the log into. Events count once their group has ended.
#[derive(Default)]
pub struct Fold {
    /// Where events are.
    pub index: Index,
    /// Which origins were seen.
    pub dedupe: Dedupe,
    /// Which ULIDs were seen.
    pub ulids: Ulids,
    /// When the last event was written, by the wall clock then; 0 without one.
    pub last_wall_ns: u64,
    /// How the newest boots ended.
    pub boots: Boots,
    /// The state machines over the log.
    pub planes: Planes,
    /// A summary whose pieces are being met.
    summary: Gathered,
    /// What of a compaction's summary could not be taken back.
    pub lost: Option<Unreadable>,
    /// Folds the planes alone, without an index.
    unindexed: bool,
    /// The newest epoch's.
    anchor: Option<(u64, Hash)>,
    /// The last event that was not read, but known by a state.
    resumed_at: u64,
    /// Whether the planes stand for every event so far: in a compacted log, only behind its summary.
    whole: bool,
    /// Events whose group has not ended, and their texts: kept from group to group, so that an event
    /// costs no allocation.
    pending: Vec<Pending>,
    texts: String,
}

struct Pending {
    posted: Posted,
    chain: Hash,
    origin: Option<Origin>,
    ulid: [u8; 16],
    /// Where in the texts those of the tenant, the actor, the type and the payload end; the payload is
    /// of the event that ends a boot alone.
    ends: [usize; 4],
    /// Of an event that a plane looks at: the body as it lies in the frame.
    body: Option<Vec<u8>>,
}

impl Fold {
    /// With snapshots of the index in this folder, if there is one.
    #[must_use]
    pub fn kept_in(index_folder: Option<&Path>) -> Self {
        Self {
            index: index_folder.map_or_else(Index::default, Index::kept_in),
            ..Self::default()
        }
    }

    /// Without an index, for who looks at the planes alone.
    #[must_use]
    pub fn of_planes() -> Self {
        Self {
            unindexed: true,
            ..Self::default()
        }
    }

    /// Takes the next thing of a scan in.
    pub fn found(&mut self, found: &Found<'_>) {
        match found {
            Found::Segment { .. } if self.unindexed => {}
            Found::Segment { extent, .. } => {
                self.index.begin(*extent);
                self.whole |= extent.first_id == 1;
                if self.whole && self.index.is_kept() && extent.first_id > self.resumed_at + 1 {
                    let state = self.state(extent);
                    self.index.keep_state(state);
                }
                index::keep_all(&mut self.index);
            }
            Found::Event {
                id,
                chain,
                offset,
                body,
                ..
            } => {
                if body.event_type == EPOCH_OPENED {
                    self.anchor = Some((*id, *chain));
                }
                let payload = match boots::is_end(body.origin, body.event_type) {
                    true => body.payload,
                    false => "",
                };
                let texts = [body.tenant_id, body.actor, body.event_type, payload];
                let ends = texts.map(|text| {
                    self.texts.push_str(text);
                    self.texts.len()
                });
                self.pending.push(Pending {
                    posted: Posted::of(*id, *offset, body),
                    chain: *chain,
                    origin: body.origin,
                    ulid: body.ulid,
                    ends,
                    body: Planes::wants(body.event_type).then(|| body.encode()),
                });
            }
            Found::Group { .. } => {
                let mut pending = std::mem::take(&mut self.pending);
                let mut texts = std::mem::take(&mut self.texts);
                let mut begin = 0;
                for event in pending.drain(..) {
                    let texts = event.ends.map(|end| {
                        let text = texts.get(begin..end).unwrap_or_default();
                        begin = end;
                        text
                    });
                    self.take(&event, texts);
                }
                texts.clear();
                (self.pending, self.texts) = (pending, texts);
            }
        }
    }

    /// Takes in an event whose group holds, with its tenant, actor, type and payload.
    fn take(&mut self, event: &Pending, [tenant, actor, event_type, payload]: [&str; 4]) {
        let posted = &event.posted;
        self.last_wall_ns = posted.wall_ns;
        self.ulids.add(tenant, &event.ulid, posted.id);
        self.boots.see(&Seen {
            id: posted.id,
            origin: event.origin,
            wall_ns: posted.wall_ns,
            timestamp_ns: posted.timestamp_ns,
            event_type,
            actor,
            payload,
        });
        self.planes.through = posted.id;
        match event.body.as_deref().and_then(Body::decode) {
            Some(body) => {
                self.planes.apply(posted.id, &body);
                if let Some(whole) = self.summary.take(&body)
                    && let Err(why) = self.restore(&whole)
                {
                    // The events that it stands for are gone: there is nothing to rebuild from.
                    ::log::error!(
                        "state of a compaction is lost: event={} why=\"{why}\"",
                        posted.id
                    );
                    self.lost = Some(why);
                }
            }
            None => self.summary.interrupt(),
        }
        self.index.add(posted);
        if let Some(origin) = event.origin {
            self.dedupe.add(&origin, posted.id, &event.chain);
        }
    }

    /// Takes the state of a log that is not read from its beginning.
    ///
    /// # Errors
    /// [`Unreadable`]: this fold is of no use then, and the log is to be read from its beginning.
    pub fn resume(&mut self, resumed: &Resumed) -> Result<(), Unreadable> {
        let state = &resumed.state;
        for sealed in &resumed.sealed {
            self.index.sealed(sealed);
        }
        self.restore(&state.summary)?;
        self.planes.through = state.id;
        (self.last_wall_ns, self.anchor) = (state.last_wall_ns, state.anchor);
        self.resumed_at = state.id;
        Ok(())
    }

    /// The state before a segment that begins now.
    fn state(&self, extent: &Extent) -> State {
        let mut summary = Summary::default();
        self.planes.summary(&mut summary);
        self.dedupe.whole(&mut summary);
        self.ulids.whole(&mut summary);
        summary.put(boots::SECTION, &self.boots);
        extent.state(self.last_wall_ns, self.anchor, summary.encode())
    }

    /// Takes the state from a summary: it stands for all events before it, of which some may not have
    /// been read. What can be read is taken.
    fn restore(&mut self, whole: &[u8]) -> Result<(), Unreadable> {
        let summary = Summary::decode(whole)?;
        let mut older = Boots::default();
        let taken = [
            self.planes.restore(&summary),
            self.dedupe.restore(&summary),
            self.ulids.restore(&summary),
            summary.take(boots::SECTION, &mut older),
            summary.known(),
        ];
        self.boots.add_older(older);
        let taken: Result<(), Unreadable> = taken.into_iter().collect();
        self.whole |= taken.is_ok();
        taken
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ledger_core::{LEDGER_ACTOR, LEDGER_NS, LEDGER_TENANT, Leaf, SUMMARY, SummaryPiece};

    fn met(summary: &Summary) -> Fold {
        let mut fold = Fold::of_planes();
        let pieces = SummaryPiece::cut(&summary.encode());
        for (n, payload) in pieces.iter().map(SummaryPiece::payload).enumerate() {
            let body = Body {
                timestamp_ns: 1,
                wall_ns: 1,
                ulid: [0; 16],
                tenant_tag: [0; 8],
                ns: LEDGER_NS,
                actor: LEDGER_ACTOR,
                tenant_id: LEDGER_TENANT,
                event_type: SUMMARY,
                subject: "log",
                payload: &payload,
                causation_id: None,
                origin: None,
                sig: None,
            };
            fold.found(&Found::Event {
                id: n as u64 + 1,
                chain: [0; 32],
                offset: 0,
                leaf: Leaf {
                    entry: [0; 64],
                    hash: [0; 32],
                },
                body: &body,
            });
        }
        fold.found(&Found::Group { end: 1 });
        fold
    }

    #[test]
    fn a_compactions_summary_that_cannot_be_taken_back_is_said_to_be_lost() {
        let mut summary = Summary::default();
        Planes::default().summary(&mut summary);
        assert_eq!(met(&summary).lost, None);
        summary.put("jobs", &"of another form");
        let lost = met(&summary).lost.unwrap();
        assert!(lost.to_string().contains("section jobs"), "{lost}");
    }
}
