//! What a scan of the whole log leaves in memory: the index, the origins seen and the planes.

use crate::boots::{self, Boots, Seen};
use crate::dedupe::Dedupe;
use crate::index::{Extent, Index, Posted, Resumed, State};
use crate::planes::{Planes, Summary, Unreadable};
use crate::scan::Found;
use crate::ulids::Ulids;
use ledger_core::{Body, COMPACTED, Compacted, EPOCH_OPENED, Gathered, Hash, Origin};
use std::path::Path;

/// Why the state of a compacted log is lost where nothing of it was met.
const NO_SUMMARY: &str = "a piece of the planes' summary is missing or does not hold";

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
    /// Why the planes do not stand for every event so far, if so: the events that a compaction dropped are
    /// gone, and what it wrote down for them was not met whole or cannot be read.
    pub lost: Option<String>,
    /// Number and first event of the segment that was read first.
    begin: Option<(u32, u64)>,
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
            Found::Segment { extent, closed, .. } => {
                self.whole |= extent.first_id == 1;
                let begin = (extent.place.segment, extent.first_id);
                self.begin.get_or_insert(begin);
                if self.unindexed {
                    return;
                }
                if *closed && self.index.is_kept() {
                    // A start has no use for its part, which is a quarter of the work, nor for the state there.
                    return self.index.pass(*extent);
                }
                self.index.begin(*extent);
                let knows = self.whole && self.lost.is_none();
                if knows && self.index.is_kept() && extent.first_id > self.resumed_at + 1 {
                    let state = self.state(extent);
                    self.index.keep_state(state);
                }
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
                let posted = match self.index.is_open() {
                    true => Posted::of(*id, *offset, body),
                    false => Posted::unposted(*id, *offset, body),
                };
                self.pending.push(Pending {
                    posted,
                    chain: *chain,
                    origin: body.origin,
                    ulid: body.ulid,
                    ends,
                    body: is_kept(body.event_type).then(|| body.encode()),
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
                    self.lost = Some(why.to_string());
                }
            }
            None => self.summary.interrupt(),
        }
        if event_type == COMPACTED && !self.whole && self.is_of_begin(event) {
            self.lost.get_or_insert_with(|| NO_SUMMARY.to_owned());
        }
        self.index.add(posted);
        if let Some(origin) = event.origin {
            self.dedupe.add(&origin, posted.id, &event.chain);
        }
    }

    /// Whether an event says that the log was compacted to where reading began: its summary stands before it.
    fn is_of_begin(&self, event: &Pending) -> bool {
        let body = event.body.as_deref().and_then(Body::decode);
        let compacted = body.and_then(|body| Compacted::of(&body));
        compacted.is_some_and(|c| self.begin == Some((c.first_segment, c.first_event_id)))
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

/// Whether the body of an event of this type is looked at once its group has ended.
fn is_kept(event_type: &str) -> bool {
    event_type == COMPACTED || Planes::wants(event_type)
}

#[cfg(test)]
mod tests {
    use super::*;
    use ledger_core::{
        CompactRange, Head, LEDGER_ACTOR, LEDGER_NS, LEDGER_TENANT, Leaf, Place, SUMMARY,
        SummaryPiece,
    };

    /// A log that was compacted to its second segment, with these pieces of a summary.
    fn met(pieces: &[SummaryPiece]) -> Fold {
        let mut fold = Fold::of_planes();
        let extent = Extent {
            place: Place {
                log_id: [0; 16],
                segment: 1,
                epoch: 2,
            },
            base: 0,
            first_id: 9,
            chain: [0; 32],
        };
        let head = Head {
            id: 8,
            chain: [0; 32],
            tree: CompactRange::default(),
        };
        fold.found(&Found::Segment {
            extent,
            head: &head,
            closed: false,
        });
        let compacted = Compacted {
            first_segment: 1,
            first_event_id: 9,
            chain: [0; 32],
            root: [0; 32],
            summary_id: 9,
        };
        let pieces = pieces.iter().map(|piece| (SUMMARY, piece.payload()));
        let events = pieces.chain([(COMPACTED, compacted.payload())]);
        for (id, (event_type, payload)) in (9..).zip(events) {
            let body = Body {
                timestamp_ns: 1,
                wall_ns: 1,
                ulid: [0; 16],
                tenant_tag: [0; 8],
                ns: LEDGER_NS,
                actor: LEDGER_ACTOR,
                tenant_id: LEDGER_TENANT,
                event_type,
                subject: "log",
                payload: &payload,
                causation_id: None,
                origin: None,
                sig: None,
            };
            fold.found(&Found::Event {
                id,
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
        let lost = |summary: &Summary| met(&SummaryPiece::cut(&summary.encode())).lost;
        assert_eq!(lost(&summary), None);
        summary.put("jobs", &"of another form");
        let lost = lost(&summary).unwrap();
        assert!(lost.contains("section jobs"), "{lost}");
    }

    #[test]
    fn a_compactions_summary_that_is_not_there_whole_is_said_to_be_lost() {
        let mut summary = Summary::default();
        Planes::default().summary(&mut summary);
        summary.put(crate::boots::SECTION, &vec![7u8; 3 * 4096]);
        let pieces = SummaryPiece::cut(&summary.encode());
        assert!(pieces.len() > 2);
        let mut changed = pieces.clone();
        changed[1].bytes[0] ^= 1;
        for bad in [&pieces[1..], &pieces[..1], &changed, &[]] {
            assert_eq!(met(bad).lost.as_deref(), Some(NO_SUMMARY));
        }
    }
}
