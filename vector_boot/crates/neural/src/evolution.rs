//! Evolution: mutations of tensors, proposed through shared memory, judged, journalled, published and undone.
//!
//! Owns the rules and the log. The base is never written: a generation is what lies over it. Pure but for the ring's
//! memory ([`Channel`]) and the log's file ([`Store`]); times are arguments. `docs/evolution.md` has the layouts.
//!
//! In one process: [`Channel::create`], a [`Base`], [`Engine::in_memory`], then [`Engine::serve`] and
//! [`Consumer::publish`]. As a service it is the role `cortex`.

mod base;
mod blocks;
mod canary;
mod channel;
mod engine;
pub mod fuzz;
mod history;
pub mod log;
mod overlay;
pub(crate) mod quota;
mod store;
#[cfg(test)]
mod tests;

pub use base::{Base, BaseTensor};
pub use canary::{answers, canary, weights};
pub use channel::{Broken, Channel, Consumer, Handles, ProposeError, Proposer};
pub use engine::{Counts, Engine, Now, Opened, RollbackError, Served};
pub use history::{History, Verdicts};
pub use store::Store;
pub use wire::evolution::Verdict;
pub use wire::evolution::generation;
pub use wire::evolution::ring::{self, Answer, Proposal};
