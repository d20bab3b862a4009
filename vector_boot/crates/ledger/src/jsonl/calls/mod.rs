//! The calls, a file a family. Each family's `find` names its calls.

mod admin;
mod append;
mod audit;
mod blob;
mod bus;
mod cache;
mod epoch;
mod fold;
mod job;
mod policy;
mod proof;
mod query;

pub use blob::Coming;

use super::call::Call;
use crate::refusal::Refusal;

/// Answers one request: with [`Call::ok`] or [`Call::later`], or with the refusal that it returns.
pub type Handler = fn(&Call<'_>) -> Result<(), Refusal>;

/// The handler of a call.
pub fn find(kind: &str) -> Option<Handler> {
    let families = [
        admin::find,
        append::find,
        audit::find,
        blob::find,
        bus::find,
        cache::find,
        epoch::find,
        fold::find,
        job::find,
        policy::find,
        proof::find,
        query::find,
    ];
    families.iter().find_map(|find| find(kind))
}

/// The member that names what a call acts on, for the policy: the handler must act on nothing else. A
/// capability for some objects alone does not give a call without one.
pub fn object(kind: &str) -> Option<&'static str> {
    match kind {
        "append_event" | "fold_state" => Some("ns"),
        _ if kind.starts_with("bus.") => Some("topic"),
        _ if kind.starts_with("job.") => Some("queue"),
        _ => None,
    }
}
