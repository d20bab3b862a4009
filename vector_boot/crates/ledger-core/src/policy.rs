//! Rules and grants: who may do what, as a fold over the log.

use crate::Body;
use serde::{Deserialize, Serialize};

/// The policy as the log says it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Policy {
    /// The event that changed it last, 0 for none.
    revision: u64,
}

impl Policy {
    /// Whether events of this type change it.
    #[must_use]
    pub fn wants(event_type: &str) -> bool {
        matches!(event_type, "policy.set" | "grant" | "revoke")
    }

    /// Takes the next event in.
    pub fn apply(&mut self, id: u64, body: &Body<'_>) {
        if Self::wants(body.event_type) {
            self.revision = id;
        }
    }

    /// The event that changed it last, 0 for none.
    #[must_use]
    pub fn revision(&self) -> u64 {
        self.revision
    }
}
