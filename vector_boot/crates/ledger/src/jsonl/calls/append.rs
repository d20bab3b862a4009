//! `append_event`: one event or a batch, answered when it is durable.

use super::{Call, Handler};
use crate::committer::{Draft, Receipt};
use crate::identity;
use crate::json::{self, Json};
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
    let Json::Object(members) = event else {
        return Err(Refusal::bad("event", "an object"));
    };
    let mut draft = Draft {
        ns: ns.to_owned(),
        actor: actor.to_owned(),
        tenant_id: call.caller.tenant(),
        payload: "{}".to_owned(),
        ..Draft::default()
    };
    for (key, value) in members {
        let text = |field| {
            value
                .text()
                .map(str::to_owned)
                .ok_or_else(|| Refusal::bad(field, "text"))
        };
        match (key.as_str(), value) {
            ("event_type" | "type", _) => draft.event_type = text("event_type")?,
            ("tenant_id", _) => draft.tenant_id = text("tenant_id")?,
            ("subject", _) => draft.subject = text("subject")?,
            ("payload", _) => draft.payload = json::payload_text(value)?,
            ("causation_id", Json::Null) => {}
            ("causation_id", Json::Unsigned(cause)) => draft.causation_id = Some(*cause),
            ("causation_id", _) => return Err(Refusal::bad("causation_id", "an event id")),
            ("timestamp", Json::Unsigned(ns)) => draft.timestamp_ns = Some(*ns),
            _ => {
                let limit = "one of event_type tenant_id subject payload causation_id timestamp";
                return Err(Refusal::new("BAD_REQUEST", "event", key, limit));
            }
        }
    }
    call.caller.may_append_for(&draft.tenant_id)?;
    identity::may_write(&draft.event_type)?;
    crate::sealing::seal(call.ledger(), &mut draft)?;
    Ok(draft)
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
