//! What a scan of the whole log leaves in memory: the index, the origins seen and the planes.

use crate::boots::{self, Boots, Seen};
use crate::dedupe::Dedupe;
use crate::index::{self, DIMENSIONS, Extent, Index, Posted, Resumed, State};
use crate::planes::{Planes, Summary};
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
    /// The newest epoch's.
    anchor: Option<(u64, Hash)>,
    /// The last event that was not read, but known by a state.
    resumed_at: u64,
    pending: Vec<Pending>,
}

struct Pending {
    id: u64,
    offset: u64,
    chain: Hash,
    origin: Option<Origin>,
    ulid: [u8; 16],
    wall_ns: u64,
    timestamp_ns: u64,
    values: [String; DIMENSIONS],
    causation_id: Option<u64>,
    /// Of the event that ends a boot alone.
    payload: String,
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

    /// Takes the next thing of a scan in.
    pub fn found(&mut self, found: &Found<'_>) {
        match found {
            Found::Segment { extent, .. } => {
                self.index.begin(*extent);
                if self.index.is_kept() && extent.first_id > self.resumed_at + 1 {
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
                self.pending.push(Pending {
                    id: *id,
                    offset: *offset,
                    chain: *chain,
                    origin: body.origin,
                    ulid: body.ulid,
                    wall_ns: body.wall_ns,
                    timestamp_ns: body.timestamp_ns,
                    payload: if boots::is_end(body.origin, body.event_type) {
                        body.payload.to_owned()
                    } else {
                        String::new()
                    },
                    body: Planes::wants(body.event_type).then(|| body.encode()),
                    values: Posted::of(*id, *offset, body).values.map(str::to_owned),
                    causation_id: body.causation_id,
                });
            }
            Found::Group { .. } => {
                for event in std::mem::take(&mut self.pending) {
                    let values = event.values.each_ref().map(String::as_str);
                    self.last_wall_ns = event.wall_ns;
                    let [_, actor, tenant, event_type, _] = values;
                    self.ulids.add(tenant, &event.ulid, event.id);
                    self.boots.see(&Seen {
                        id: event.id,
                        origin: event.origin,
                        wall_ns: event.wall_ns,
                        timestamp_ns: event.timestamp_ns,
                        event_type,
                        actor,
                        payload: &event.payload,
                    });
                    self.planes.through = event.id;
                    match event.body.as_deref().and_then(Body::decode) {
                        Some(body) => {
                            self.planes.apply(event.id, &body);
                            if let Some(whole) = self.summary.take(&body) {
                                self.restore(&whole);
                            }
                        }
                        None => self.summary.interrupt(),
                    }
                    self.index.add(&Posted {
                        id: event.id,
                        offset: event.offset,
                        wall_ns: event.wall_ns,
                        timestamp_ns: event.timestamp_ns,
                        values,
                        causation_id: event.causation_id,
                    });
                    if let Some(origin) = event.origin {
                        self.dedupe.add(&origin, event.id, &event.chain);
                    }
                }
            }
        }
    }

    /// Takes the state of a log that is not read from its beginning.
    pub fn resume(&mut self, resumed: &Resumed) {
        let state = &resumed.state;
        for sealed in &resumed.sealed {
            self.index.sealed(sealed);
        }
        self.restore(&state.summary);
        self.planes.through = state.id;
        (self.last_wall_ns, self.anchor) = (state.last_wall_ns, state.anchor);
        self.resumed_at = state.id;
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
    /// been read.
    fn restore(&mut self, whole: &[u8]) {
        if let Some(summary) = Summary::decode(whole) {
            self.planes.restore(&summary);
            self.dedupe.restore(&summary);
            self.ulids.restore(&summary);
            let mut older = Boots::default();
            summary.take(boots::SECTION, &mut older);
            self.boots.add_older(older);
        }
    }
}
