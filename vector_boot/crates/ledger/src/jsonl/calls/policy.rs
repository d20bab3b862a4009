//! `policy.set`, `policy.explain`, `grant`, `revoke`: who may do what.

use super::append::receipt_members;
use super::{Call, Handler};
use crate::committer::{Draft, Receipt};
use crate::identity::Caller;
use crate::json::Json;
use crate::planes::{Decision, Planes};
use crate::refusal::Refusal;
use ledger_core::policy::{self, No, Wish};

/// Namespace of the policy's events.
const NS: &str = "policy";
/// Longest time that a grant may be given for, in seconds: ten years.
const EXPIRES_S_MAX: u64 = 10 * 366 * 86_400;

/// The handler of a call of this family.
pub fn find(kind: &str) -> Option<Handler> {
    match kind {
        "policy.set" => Some(set),
        "policy.explain" => Some(explain),
        "grant" => Some(grant),
        "revoke" => Some(revoke),
        _ => None,
    }
}

impl From<No> for Refusal {
    fn from(no: No) -> Self {
        let refusal = Self::new(no.code, no.field, "", &no.limit);
        match no.code {
            "POLICY_DENY" => refusal.by("default:deny"),
            _ => refusal,
        }
    }
}

fn event(caller: &Caller, event_type: &str, subject: &str, payload: &Json) -> Draft {
    Draft {
        ns: NS.to_owned(),
        actor: caller.actor(),
        tenant_id: caller.tenant(),
        event_type: event_type.to_owned(),
        subject: subject.to_owned(),
        payload: payload.to_string(),
        ..Draft::default()
    }
}

fn set(call: &Call<'_>) -> Result<(), Refusal> {
    let (name, text) = (call.text("name")?.to_owned(), call.text("text")?.to_owned());
    let expected = call.optional_number("revision")?;
    let payload = Json::object([
        ("name", name.as_str().into()),
        ("text", text.as_str().into()),
    ]);
    let event = event(call.caller, policy::SET, &name, &payload);
    call.decide(
        text.len(),
        move |planes, _| {
            let revision = planes.policy.revision();
            if expected.is_some_and(|expected| expected != revision) {
                let value = revision.to_string();
                let limit = "the policy was changed in between";
                return Err(Refusal::new("CONFLICT", "revision", &value, limit));
            }
            Ok(Decision {
                answer: planes.policy.compile(&name, &text)?.rules.len(),
                events: vec![event],
            })
        },
        |rules, receipts| Ok(format!("{},\"rules\":{rules}", of(receipts))),
    );
    Ok(())
}

fn grant(call: &Call<'_>) -> Result<(), Refusal> {
    // A log that is nearly full takes grants; a tenant who grants and revokes in turn would fill the rest.
    call.caller.may_fill(call.ledger())?;
    let to = match call.text("to")? {
        bare if !bare.contains(':') => format!("user:{bare}"),
        full => full.to_owned(),
    };
    let caps = match call.request.get("caps") {
        Some(Json::List(caps)) => caps.iter().map(|c| c.text().map(str::to_owned)).collect(),
        _ => None,
    };
    let caps: Vec<String> = caps.ok_or_else(|| Refusal::bad("caps", "a list of texts"))?;
    let for_s = call.optional_number("expires_s")?;
    if for_s.is_some_and(|s| s == 0 || s > EXPIRES_S_MAX) {
        let limit = format!("1 to {EXPIRES_S_MAX}");
        return Err(Refusal::bad("expires_s", &limit));
    }
    let own = call.caller.tenant();
    let tenant = call.optional_text("tenant")?.unwrap_or(&own).to_owned();
    call.caller.may_append_for(&tenant)?;
    let by = call.caller.is_tenant().then(|| call.caller.actor());
    let blank = event(call.caller, policy::GRANTED, &to, &Json::Null);
    call.decide(
        caps.iter().map(String::len).sum(),
        move |planes, moment| {
            let wish = Wish {
                by: by.as_deref(),
                tenant: &tenant,
                to: &to,
                caps: &caps,
                expires_us: for_s.map(|s| (moment.wall_ns / 1000).saturating_add(s * 1_000_000)),
            };
            let payload = planes.policy.grant(&wish, moment.wall_ns)?.to_string();
            let event = Draft {
                tenant_id: tenant.clone(),
                payload,
                ..blank
            };
            Ok(Decision {
                events: vec![event],
                answer: moment.next_id,
            })
        },
        |id, receipts| Ok(format!("{},\"grant\":{id}", of(receipts))),
    );
    Ok(())
}

fn revoke(call: &Call<'_>) -> Result<(), Refusal> {
    let id = call
        .optional_number("grant")?
        .ok_or_else(|| Refusal::bad("grant", "the id of a grant"))?;
    let tenant = call.caller.is_tenant();
    let by = tenant.then(|| (call.caller.actor(), call.caller.tenant()));
    let payload = Json::object([("grant", id.into())]);
    let blank = event(call.caller, policy::REVOKED, "", &payload);
    call.decide(
        0,
        move |planes, _| {
            let by = by.as_ref().map(|(a, t)| (a.as_str(), t.as_str()));
            let grant = planes.policy.revoke(id, by)?;
            let event = Draft {
                tenant_id: grant.tenant.clone(),
                subject: grant.to.clone(),
                causation_id: Some(id),
                ..blank
            };
            Ok(Decision {
                events: vec![event],
                answer: (),
            })
        },
        |(), receipts| Ok(of(receipts)),
    );
    Ok(())
}

fn of(receipts: &[Receipt]) -> String {
    receipts.first().map(receipt_members).unwrap_or_default()
}

fn explain(call: &Call<'_>) -> Result<(), Refusal> {
    let asked = call.text("call")?.to_owned();
    let on = call.optional_text("on")?.unwrap_or_default().to_owned();
    let (actor, tenant) = (call.actor("actor")?, call.optional_text("tenant")?);
    let itself = actor == call.caller.actor() && tenant.is_none();
    if call.caller.is_tenant() && !itself {
        let limit = "what others may is told to the machine's owner alone";
        let refusal = Refusal::new("BAD_ACTOR", "actor", "", limit);
        return Err(refusal.by(crate::identity::RULE_ACTOR));
    }
    let caller = match itself {
        true => call.caller.clone(),
        false => Caller::named(&actor, tenant),
    };
    let now = crate::clock::wall_ns();
    let judge = |planes: &Planes| caller.judge(&planes.policy, &asked, &on, now);
    let (allowed, rule, reason) = match call.ledger().planes(judge)? {
        Ok(verdict) => (true, verdict.rule, verdict.reason),
        Err(refusal) => {
            let reason = refusal.reason();
            (false, refusal.rule.unwrap_or_default(), reason)
        }
    };
    call.ok(&format!(
        "\"allowed\":{allowed},\"rule\":{},\"reason\":{}",
        Json::from(rule.as_str()),
        Json::from(reason.as_str()),
    ));
    Ok(())
}
