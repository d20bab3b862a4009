//! The planes: state machines of `ledger-core` that are folds over the one log (policy, bus, folds,
//! jobs, blobs, epochs).
//!
//! The committer alone changes them: it applies every event in the order of ids as it places it in a
//! group, so a decision sees what was placed before it in the same group. At the start they are
//! rebuilt from the scan that recovery does anyway. A new plane is a field here, a line in
//! [`Planes::wants`] and a line in [`Planes::apply`].
//!
//! After a failed sync they are ahead of the log for good; `Ledger::planes` then answers READ_ONLY,
//! until the process starts anew.

use crate::committer::Draft;
use ledger_core::Body;
use ledger_core::policy::Policy;

/// All planes.
#[derive(Default)]
pub struct Planes {
    /// The event that was applied last, 0 for none.
    pub through: u64,
    /// Rules and grants.
    pub policy: Policy,
}

/// When a decision is made, and where.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Moment {
    /// The wall clock, nanoseconds since 1970 in UTC.
    pub wall_ns: u64,
    /// CLOCK_MONOTONIC.
    pub monotonic_ns: u64,
    /// The id that the first event of the decision gets; those behind it follow without a gap.
    pub next_id: u64,
}

/// What is to happen: the events become durable together, or none; then `answer` is given out.
pub struct Decision<T> {
    /// Appended in this order; none is fine.
    pub events: Vec<Draft>,
    /// For who asked.
    pub answer: T,
}

impl<T> Decision<T> {
    /// An answer that needs no event.
    #[must_use]
    pub fn only(answer: T) -> Self {
        Self {
            events: Vec::new(),
            answer,
        }
    }
}

impl Planes {
    /// Whether any plane looks at events of this type: a scan keeps the bodies of those alone.
    #[must_use]
    pub fn wants(event_type: &str) -> bool {
        Policy::wants(event_type)
    }

    /// Takes the next event in: total, and in order of ids.
    pub fn apply(&mut self, id: u64, body: &Body<'_>) {
        self.through = id;
        self.policy.apply(id, body);
    }
}
