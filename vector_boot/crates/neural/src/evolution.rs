//! Evolution: mutations of tensors, proposed through shared memory, judged, journalled, published and undone.
//!
//! The base is never written. Start with [`Channel`]; `docs/evolution.md` has the layouts.

mod channel;

pub use channel::{Broken, Channel, Consumer, Handles, ProposeError, Proposer};
pub use wire::evolution::Verdict;
pub use wire::evolution::generation;
pub use wire::evolution::ring::{self, Answer, Proposal};
