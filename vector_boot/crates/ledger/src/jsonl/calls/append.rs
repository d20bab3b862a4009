//! `append_event`: one event or a batch, answered when it is durable.

use super::{Call, Handler};
use crate::committer::{Draft, Receipt};
use crate::identity;
use crate::json::{self, Json};
use crate::query::hex;
use crate::refusal::Refusal;
use crate::sealing;
use ledger_core::keys::{self, bytes_of};
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
    let mut sig = None;
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
            ("ulid", _) => {
                let ulid = ulid::parse(&text("ulid")?);
                let limit = "26 letters of Crockford's base 32";
                draft.ulid = Some(ulid.ok_or_else(|| Refusal::bad("ulid", limit))?);
            }
            ("sig", _) => {
                let bytes = bytes_of::<64>(&text("sig")?);
                sig = Some(bytes.ok_or_else(|| Refusal::bad("sig", "128 hex digits"))?);
            }
            _ => {
                let limit = "one of event_type tenant_id subject payload causation_id timestamp \
                             ulid sig";
                return Err(Refusal::new("BAD_REQUEST", "event", key, limit));
            }
        }
    }
    call.caller.may_append_for(&draft.tenant_id)?;
    identity::may_write(
        &draft.event_type,
        event.get("payload").unwrap_or(&Json::Null),
    )?;
    match sig {
        Some(sig) => sign(call, &mut draft, &sig)?,
        None => sealing::seal(call.ledger(), &mut draft)?,
    }
    Ok(draft)
}

/// Puts a signature into an event, with the actor's key that made it. What is signed is stored as it
/// came: nothing of it is sealed on the way in.
fn sign(call: &Call<'_>, draft: &mut Draft, sig: &[u8; 64]) -> Result<(), Refusal> {
    if draft.ulid.is_none() {
        let limit = "with a signature, so that it serves once";
        return Err(Refusal::bad("ulid", limit));
    }
    if sealing::is_wanted(draft) {
        return Err(Refusal::bad("payload", "without seal, since it is signed"));
    }
    let keys = call
        .ledger()
        .peek(|planes| planes.keys.of(&draft.tenant_id, &draft.actor).to_vec());
    let text = keys::event_text(&draft.body(0));
    let own = keys.iter().find(|key| keys::verify(key, &text, sig));
    let Some(own) = own else {
        let limit = "by a registered key of the actor, over the event";
        return Err(Refusal::new("BAD_SIG", "sig", "", limit));
    };
    draft.sig = Some([&own[..], sig].concat());
    Ok(())
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
