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
mod key;
mod policy;
mod proof;
mod query;
mod witness;

pub use blob::Uploads;

use super::call::Call;
use crate::jobs::QUEUE_DEFAULT;
use crate::json::Json;
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
        key::find,
        policy::find,
        proof::find,
        query::find,
        witness::find,
    ];
    families.iter().find_map(|find| find(kind))
}

/// What a call acts on, for the policy: the handler must act on nothing else. A capability for some
/// objects alone does not give a call without one.
pub fn object<'r>(kind: &str, request: &'r Json) -> &'r str {
    let member = |key| request.get(key).and_then(Json::text);
    let by_id = !matches!(request.get("job"), None | Some(Json::Null));
    match kind {
        "append_event" | "fold_state" => member("ns").unwrap_or_default(),
        "job.enqueue" => member("queue").unwrap_or(QUEUE_DEFAULT),
        "job.claim" if !by_id => member("queue").unwrap_or(QUEUE_DEFAULT),
        // A job that is named must be of the queue that is named with it.
        _ if kind.starts_with("job.") => member("queue").unwrap_or_default(),
        _ if kind.starts_with("bus.") => member("topic").unwrap_or_default(),
        _ => "",
    }
}
