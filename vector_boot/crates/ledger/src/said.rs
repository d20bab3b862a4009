//! What stored events say, checked beyond their bytes: the ledger refused at the time whatever breaks
//! this, so an event that does was put there by somebody else, who writes the log whole anew.
//!
//! A fold over a scan. Start with [`Said::see`].

use crate::planes::Summary;
use crate::scan::Found;
use ledger_core::keys::{self, Keys};
use ledger_core::{Gathered, json};

/// The first event that says what the ledger does not take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wrong {
    /// The event.
    pub id: u64,
    /// Where its frame begins in the log.
    pub offset: u64,
    /// What is wrong with it.
    pub what: &'static str,
}

/// What was met so far.
#[derive(Default)]
pub struct Said {
    last: u64,
    keys: Keys,
    /// Whether all keys are known: from the first event on, or from a compaction's summary.
    known: bool,
    summary: Gathered,
    /// Signatures that were checked.
    pub signed: u64,
    /// The first that is wrong.
    pub wrong: Option<Wrong>,
}

impl Said {
    /// Takes the next thing of a scan in.
    pub fn see(&mut self, found: &Found<'_>) {
        match found {
            // A scan that begins again, or at all.
            Found::Segment { head, .. } if head.id != self.last || head.id == 0 => {
                *self = Self {
                    last: head.id,
                    known: head.id == 0,
                    ..Self::default()
                };
            }
            Found::Event {
                id, offset, body, ..
            } => {
                self.last = *id;
                let what = self.fault(body);
                if let Some(what) = what.filter(|_| self.wrong.is_none()) {
                    let (id, offset) = (*id, *offset);
                    self.wrong = Some(Wrong { id, offset, what });
                }
                self.keys.apply(*id, body);
                if let Some(whole) = self.summary.take(body) {
                    let summary = Summary::decode(&whole);
                    let taken = summary.and_then(|s| s.take("keys", &mut self.keys));
                    self.known = taken.is_ok();
                }
            }
            _ => {}
        }
    }

    fn fault(&mut self, body: &ledger_core::Body<'_>) -> Option<&'static str> {
        // What most of the machine's own events say.
        let canonical =
            body.payload == "{}" || json::payload(body.payload).is_ok_and(|c| c == body.payload);
        if !canonical {
            return Some("its payload is not canonical JSON");
        }
        body.sig?;
        self.signed += 1;
        if !keys::holds(body) {
            return Some("its signature does not hold");
        }
        let own = self.keys.own(body.tenant_id, body.actor, body.sig);
        (self.known && !own).then_some("it is signed by a key that was not its actor's")
    }
}
