//! `append_event`: one event or a batch, answered when it is durable.

use super::{Call, Handler};
use crate::committer::{Draft, Receipt};
use crate::given::Given;
use crate::json::Json;
use crate::query::hex;
use crate::refusal::Refusal;
use ledger_core::ulid;

/// Events of one batch.
const BATCH_MAX: usize = 1024;

/// The handler of a call of this family.
pub fn find(kind: &str) -> Option<Handler> {
    match kind {
        "append_event" => Some(append),
        _ => None,
    }
}

fn append(call: &Call<'_>) -> Result<(), Refusal> {
    let ns = call.text("ns")?;
    call.text("actor")?;
    let actor = call.actor("actor")?;
    call.caller.may_append(ns, &actor)?;
    call.caller.may_fill(call.ledger())?;
    let (events, batch) = match (call.request.get("event"), call.request.get("events")) {
        (Some(one), None) => (std::slice::from_ref(one), false),
        (None, Some(Json::List(many))) => (many.as_slice(), true),
        _ => {
            return Err(Refusal::bad(
                "event",
                "an object, or events, a list of them",
            ));
        }
    };
    if events.is_empty() || events.len() > BATCH_MAX {
        let value = events.len().to_string();
        let limit = format!("1 to {BATCH_MAX}");
        return Err(Refusal::new("BAD_REQUEST", "events", &value, &limit));
    }
    let drafts = events
        .iter()
        .map(|event| draft(call, event, ns, &actor))
        .collect::<Result<Vec<_>, _>>()?;
    call.append(drafts, move |receipts| {
        let mut all = receipts.iter().map(receipt_members);
        if batch {
            let all: Vec<String> = all.map(|members| format!("{{{members}}}")).collect();
            format!("\"events\":[{}]", all.join(","))
        } else {
            all.next().unwrap_or_default()
        }
    });
    Ok(())
}

/// An event as a caller gives it.
pub fn draft(call: &Call<'_>, event: &Json, ns: &str, actor: &str) -> Result<Draft, Refusal> {
    let given = Given::parse(event, ns, actor, &call.caller.tenant())?;
    call.caller.may_append_for(given.tenant())?;
    given.draft(call.ledger())
}

/// A receipt as every call shows it.
pub fn receipt_members(receipt: &Receipt) -> String {
    format!(
        "\"event_id\":{},\"commit_id\":\"{}\",\"ulid\":\"{}\"",
        receipt.id,
        hex(&receipt.commit_id),
        ulid::text(&receipt.ulid)
    )
}
