//! Events on their way into a group, their texts in one piece.
//!
//! Made by who sends, on its own thread: the committer neither takes memory for each event nor gives
//! any back that another thread took, for which both would wait.

use super::Draft;
use ledger_core::{Body, Origin};

/// Texts of an event: ns, actor, tenant, type, subject, payload.
const TEXTS: usize = 6;

/// The events of a request.
#[derive(Default)]
pub struct Batch {
    texts: String,
    events: Vec<Event>,
}

/// One of them.
pub struct Event {
    origin: Option<Origin>,
    /// Chosen by the sender, or when it is placed.
    pub ulid: Option<[u8; 16]>,
    /// As the ULID.
    pub timestamp_ns: Option<u64>,
    causation_id: Option<u64>,
    sig: Option<Vec<u8>>,
    /// Where its texts begin, and where each ends.
    begin: usize,
    ends: [usize; TEXTS],
}

impl Batch {
    /// Of these.
    pub fn of(drafts: Vec<Draft>) -> Self {
        let mut this = Self {
            texts: String::with_capacity(drafts.iter().map(Draft::text_bytes).sum()),
            events: Vec::with_capacity(drafts.len()),
        };
        for draft in drafts {
            let begin = this.texts.len();
            let ends = draft.texts().map(|text| {
                this.texts.push_str(text);
                this.texts.len()
            });
            this.events.push(Event {
                origin: draft.origin,
                ulid: draft.ulid,
                timestamp_ns: draft.timestamp_ns,
                causation_id: draft.causation_id,
                sig: draft.sig,
                begin,
                ends,
            });
        }
        this
    }

    /// How many.
    pub fn len(&self) -> usize {
        self.events.len()
    }

    /// Bytes of them all.
    pub fn bytes(&self) -> usize {
        self.texts.len() + self.events.len() * size_of::<Event>()
    }

    /// One of them.
    pub fn event(&mut self, n: usize) -> Option<&mut Event> {
        self.events.get_mut(n)
    }

    /// Whether one of them has a ULID already.
    pub fn chose_ulid(&self, n: usize) -> bool {
        self.events.get(n).is_some_and(|e| e.ulid.is_some())
    }

    /// One of them as it lies in a frame, but for its tenant's tag.
    pub fn body(&self, n: usize, wall_ns: u64) -> Option<Body<'_>> {
        let event = self.events.get(n)?;
        let mut from = event.begin;
        let [ns, actor, tenant_id, event_type, subject, payload] = event.ends.map(|end| {
            let text = self.texts.get(from..end);
            from = end;
            text.unwrap_or_default()
        });
        Some(Body {
            timestamp_ns: event.timestamp_ns.unwrap_or_default(),
            wall_ns,
            ulid: event.ulid.unwrap_or_default(),
            tenant_tag: [0; 8],
            ns,
            actor,
            tenant_id,
            event_type,
            subject,
            payload,
            causation_id: event.causation_id,
            origin: event.origin,
            sig: event.sig.as_deref(),
        })
    }

    /// All of them.
    pub fn bodies(&self, wall_ns: u64) -> impl Iterator<Item = Body<'_>> {
        (0..self.events.len()).filter_map(move |n| self.body(n, wall_ns))
    }
}
