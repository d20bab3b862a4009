//! `cache.rebuild`: the index is built again from the log, for who runs the machine.

use super::{Call, Handler};
use crate::index::Freshness;
use crate::refusal::Refusal;
use std::sync::PoisonError;
use std::time::{Duration, Instant};

/// Progress lines.
const PROGRESS_EVERY: Duration = Duration::from_secs(1);
/// How often the work is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// The handler of a call of this family.
pub fn find(kind: &str) -> Option<Handler> {
    match kind {
        "cache.rebuild" => Some(rebuild),
        _ => None,
    }
}

/// How the index of a call's ledger is.
pub fn freshness(call: &Call<'_>) -> Freshness {
    let index = call.ledger().index().lock();
    index.unwrap_or_else(PoisonError::into_inner).freshness()
}

fn rebuild(call: &Call<'_>) -> Result<(), Refusal> {
    if !freshness(call).kept {
        let limit = "the service has no folder: its index is in memory alone";
        return Err(Refusal::new("NOT_FOUND", "cache", "", limit));
    }
    call.ack();
    let index = call.ledger().index().lock();
    let parts = index.unwrap_or_else(PoisonError::into_inner).distrust_all();
    let mut told = Instant::now();
    let done = loop {
        let now = freshness(call);
        // A compaction may drop some meanwhile.
        if now.snapshots + now.given_up >= parts.min(now.sealed) || call.ledger().standing().closing
        {
            break now;
        }
        if told.elapsed() >= PROGRESS_EVERY {
            told = Instant::now();
            call.progress((now.snapshots * 100 / parts.max(1)) as u64);
        }
        std::thread::sleep(LOOK_EVERY);
    };
    call.ok(&format!(
        "\"parts\":{parts},\"snapshots\":{},\"failed\":{}",
        done.snapshots, done.given_up
    ));
    Ok(())
}
