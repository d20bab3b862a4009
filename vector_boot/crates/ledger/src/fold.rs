//! What a scan of the whole log leaves in memory: the index and the origins seen.

use crate::boots::{self, Boots, Seen};
use crate::dedupe::Dedupe;
use crate::index::Index;
use crate::scan::Found;
use ledger_core::{Hash, Origin};

/// What recovery folds the log into. Events count once their group has ended.
#[derive(Default)]
pub struct Fold {
    /// Where events are.
    pub index: Index,
    /// Which origins were seen.
    pub dedupe: Dedupe,
    /// When the last event was written, by the wall clock then; 0 without one.
    pub last_wall_ns: u64,
    /// How the newest boots ended.
    pub boots: Boots,
    pending: Vec<Pending>,
}

struct Pending {
    id: u64,
    offset: u64,
    chain: Hash,
    origin: Option<Origin>,
    wall_ns: u64,
    timestamp_ns: u64,
    values: [String; 4],
    /// Of the event that ends a boot alone.
    payload: String,
}

impl Fold {
    /// Takes the next thing of a scan in.
    pub fn found(&mut self, found: &Found<'_>) {
        match found {
            Found::Event {
                id,
                chain,
                offset,
                body,
            } => self.pending.push(Pending {
                id: *id,
                offset: *offset,
                chain: *chain,
                origin: body.origin,
                wall_ns: body.wall_ns,
                timestamp_ns: body.timestamp_ns,
                payload: if boots::is_end(body.origin, body.event_type) {
                    body.payload.to_owned()
                } else {
                    String::new()
                },
                values: [body.ns, body.actor, body.tenant_id, body.event_type].map(str::to_owned),
            }),
            Found::Group { .. } => {
                for event in self.pending.drain(..) {
                    let values = event.values.each_ref().map(String::as_str);
                    self.last_wall_ns = event.wall_ns;
                    let [_, actor, _, event_type] = values;
                    self.boots.see(&Seen {
                        id: event.id,
                        origin: event.origin,
                        wall_ns: event.wall_ns,
                        timestamp_ns: event.timestamp_ns,
                        event_type,
                        actor,
                        payload: &event.payload,
                    });
                    self.index.add(event.id, event.offset, &values);
                    if let Some(origin) = event.origin {
                        self.dedupe.add(&origin, event.id, &event.chain);
                    }
                }
            }
        }
    }
}
