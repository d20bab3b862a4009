//! `epoch.new`, `compact`: epochs and compaction, for who runs the machine.

use super::{Call, Handler};
use crate::committer::{Keep, Order};
use crate::refusal::Refusal;

/// The handler of a call of this family.
pub fn find(kind: &str) -> Option<Handler> {
    match kind {
        "epoch.new" => Some(epoch_new),
        "compact" => Some(compact),
        _ => None,
    }
}

fn epoch_new(call: &Call<'_>) -> Result<(), Refusal> {
    order(call, Order::Epoch)
}

fn compact(call: &Call<'_>) -> Result<(), Refusal> {
    let keep = Keep {
        bytes: call.optional_number("keep_bytes")?,
        events: call.optional_number("keep_events")?,
    };
    order(call, Order::Compact(keep))
}

fn order(call: &Call<'_>, order: Order) -> Result<(), Refusal> {
    call.ack();
    if let (Order::Compact(_), Some(proofs)) = (order, call.ledger().proofs()) {
        // What is dropped is proven by tiles alone; without them less is dropped.
        if let Err(refusal) = proofs.settle() {
            ::log::warn!("tiles are not durable: reason={:?}", refusal.reason());
        }
    }
    let later = call.later();
    call.ledger().order(
        order,
        Box::new(move |done| later.end(done.map(|done| done.members()))),
    );
    Ok(())
}
