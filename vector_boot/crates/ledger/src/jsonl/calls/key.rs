//! `key.register`, `key.revoke`: whose signatures over events count.

use super::append::receipt_members;
use super::{Call, Handler};
use crate::committer::{Draft, Receipt};
use crate::json::Json;
use crate::planes::Decision;
use crate::query::hex;
use crate::refusal::Refusal;
use ledger_core::keys::{self, Key, bytes_of};
use ledger_core::rules;

/// The handler of a call of this family.
pub fn find(kind: &str) -> Option<Handler> {
    match kind {
        "key.register" => Some(register),
        "key.revoke" => Some(revoke),
        _ => None,
    }
}

/// Whose key: the caller's own, or for the owner anybody's.
fn named(call: &Call<'_>) -> Result<(String, String, Key), Refusal> {
    let actor = call.actor("actor")?;
    if actor != call.caller.actor() && !call.caller.is_owner() {
        let limit = format!("{} for this caller", call.caller.actor());
        let refusal = Refusal::new("BAD_ACTOR", "actor", &actor, &limit);
        return Err(refusal.by(crate::identity::RULE_ACTOR));
    }
    let own = call.caller.tenant();
    let tenant = call.optional_text("tenant")?.unwrap_or(&own).to_owned();
    call.caller.may_append_for(&tenant)?;
    for (holds, broken) in [
        (rules::actor(&actor), rules::Broken::Actor),
        (rules::tenant(&tenant), rules::Broken::Tenant),
    ] {
        if !holds {
            return Err(Refusal::new(
                broken.code(),
                broken.field(),
                "",
                broken.limit(),
            ));
        }
    }
    let key = bytes_of(call.text("key")?).ok_or_else(|| Refusal::bad("key", "64 hex digits"))?;
    Ok((tenant, actor, key))
}

fn event(call: &Call<'_>, event_type: &str, tenant: &str, actor: &str, key: &Key) -> Draft {
    let payload = Json::object([
        ("algorithm", "ed25519".into()),
        ("key", hex(key).as_str().into()),
    ]);
    Draft {
        ns: "policy".to_owned(),
        actor: call.caller.actor(),
        tenant_id: tenant.to_owned(),
        event_type: event_type.to_owned(),
        subject: actor.to_owned(),
        payload: payload.to_string(),
        ..Draft::default()
    }
}

fn register(call: &Call<'_>) -> Result<(), Refusal> {
    let (tenant, actor, key) = named(call)?;
    call.caller.may_fill(call.ledger())?;
    let sig = bytes_of(call.text("sig")?).ok_or_else(|| Refusal::bad("sig", "128 hex digits"))?;
    if !keys::verify(&key, &keys::key_text(&tenant, &actor), &sig) {
        let limit = "the key's own, over its tenant and actor";
        return Err(Refusal::new("BAD_SIG", "sig", "", limit));
    }
    let event = event(call, keys::REGISTERED, &tenant, &actor, &key);
    call.decide(
        0,
        move |planes, _| {
            let may = planes.keys.may_register(&tenant, &actor, &key);
            may.map_err(|(code, limit)| Refusal::new(code, "key", "", &limit))?;
            Ok(Decision {
                events: vec![event],
                answer: (),
            })
        },
        members,
    );
    Ok(())
}

fn revoke(call: &Call<'_>) -> Result<(), Refusal> {
    let (tenant, actor, key) = named(call)?;
    let event = event(call, keys::REVOKED, &tenant, &actor, &key);
    call.decide(
        0,
        move |planes, _| {
            if !planes.keys.of(&tenant, &actor).contains(&key) {
                return Err(Refusal::new("NOT_FOUND", "key", "", "a key of this actor"));
            }
            Ok(Decision {
                events: vec![event],
                answer: (),
            })
        },
        members,
    );
    Ok(())
}

fn members((): (), receipts: &[Receipt]) -> Result<String, Refusal> {
    Ok(receipts.first().map(receipt_members).unwrap_or_default())
}
