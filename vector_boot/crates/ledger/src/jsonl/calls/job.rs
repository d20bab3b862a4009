//! Jobs: enqueue, claim, release, result.

use super::append::receipt_members;
use super::bus::tenant;
use super::{Call, Handler};
use crate::committer::Receipt;
use crate::jobs::{
    Asker, Claim, ClaimOf, Claimed, Enqueue, Finish, LEASE_MS_DEFAULT, QUEUE_DEFAULT, Release,
    object,
};
use crate::json::Json;
use crate::refusal::Refusal;
use ledger_core::jobs::hash_of;
use ledger_core::{Hash, hex};

/// The handler of a call of this family.
pub fn find(kind: &str) -> Option<Handler> {
    match kind {
        "job.enqueue" => Some(enqueue),
        "job.claim" => Some(claim),
        "job.release" => Some(release),
        "job.result" => Some(result),
        _ => None,
    }
}

fn asker(call: &Call<'_>) -> Result<Asker, Refusal> {
    Ok(Asker {
        tenant: tenant(call)?,
        actor: call.caller.actor(),
        plea: call.plea.clone(),
        queue: queue(call)?,
    })
}

/// The queue that the call names; a tenant's caller must, since the policy is about queues.
fn queue(call: &Call<'_>) -> Result<Option<String>, Refusal> {
    let queue = call.optional_text("queue")?.map(str::to_owned);
    if queue.is_none() && call.caller.is_tenant() {
        return Err(Refusal::bad("queue", "text, the job's queue"));
    }
    Ok(queue)
}

fn hash(json: &Json, key: &'static str) -> Result<Hash, Refusal> {
    let text = json.get(key).and_then(Json::text).unwrap_or_default();
    let limit = "64 hex digits";
    hash_of(text).ok_or_else(|| Refusal::new("BAD_REQUEST", key, text, limit))
}

fn optional_hash(json: &Json, key: &'static str) -> Result<Option<Hash>, Refusal> {
    match json.get(key) {
        None | Some(Json::Null) => Ok(None),
        Some(_) => hash(json, key).map(Some),
    }
}

fn token(call: &Call<'_>) -> Result<u64, Refusal> {
    let claim = call.optional_number("claim")?;
    claim.ok_or_else(|| Refusal::bad("claim", "the claim's event id"))
}

fn enqueue(call: &Call<'_>) -> Result<(), Refusal> {
    let asked = Enqueue {
        asker: asker(call)?,
        queue: queue(call)?.unwrap_or_else(|| QUEUE_DEFAULT.to_owned()),
        manifest: object("manifest", call.request.get("manifest"))?,
    };
    call.caller.may_fill(call.ledger())?;
    let id = hex(&asked.id());
    let members = move |there: Option<u64>, receipts: &[Receipt]| {
        Ok(match (there, receipts.first()) {
            (None, Some(r)) => {
                format!("\"job\":\"{id}\",{},\"repeated\":false", receipt_members(r))
            }
            (there, _) => {
                let event = there.unwrap_or(0);
                format!("\"job\":\"{id}\",\"event_id\":{event},\"repeated\":true")
            }
        })
    };
    call.decide(
        asked.bytes(),
        move |planes, _| asked.decide(planes),
        members,
    );
    Ok(())
}

fn claim(call: &Call<'_>) -> Result<(), Refusal> {
    let job = optional_hash(call.request, "job")?;
    let of = match (job, call.optional_number("claim")?) {
        (Some(job), Some(claim)) => ClaimOf::Renew(job, claim),
        (Some(job), None) => ClaimOf::Job(job),
        (None, None) => ClaimOf::Next(queue(call)?.unwrap_or_else(|| QUEUE_DEFAULT.to_owned())),
        (None, Some(_)) => {
            let limit = "64 hex digits, with the claim that is renewed";
            return Err(Refusal::bad("job", limit));
        }
    };
    let asked = Claim {
        asker: asker(call)?,
        of,
        lease_ms: call
            .optional_number("lease_ms")?
            .unwrap_or(LEASE_MS_DEFAULT),
        key: optional_hash(call.request, "key")?,
    };
    call.caller.may_fill(call.ledger())?;
    let Claimed {
        job,
        claim,
        until_ms,
        manifest,
        receipt,
    } = asked.run(call.ledger())?;
    call.ok(&format!(
        "\"job\":\"{}\",\"claim\":{claim},\"until_ms\":{until_ms},\"queue\":\"{}\",\"manifest\":{manifest},{}",
        hex(&job.id),
        job.queue,
        receipt_members(&receipt),
    ));
    Ok(())
}

fn release(call: &Call<'_>) -> Result<(), Refusal> {
    let asked = Release {
        asker: asker(call)?,
        job: hash(call.request, "job")?,
        claim: token(call)?,
    };
    call.decide(1024, move |planes, _| asked.decide(planes), receipt);
    Ok(())
}

fn receipt((): (), receipts: &[Receipt]) -> Result<String, Refusal> {
    Ok(receipts.first().map(receipt_members).unwrap_or_default())
}

fn result(call: &Call<'_>) -> Result<(), Refusal> {
    let proof = call.request.get("proof").unwrap_or(&Json::Null);
    let result = match call.request.get("result") {
        None | Some(Json::Null) => "{}".to_owned(),
        result => object("result", result)?,
    };
    let asked = Finish {
        asker: asker(call)?,
        job: hash(call.request, "job")?,
        claim: token(call)?,
        result,
        attestation: object("proof.attestation", proof.get("attestation"))?,
        key: hash(proof, "key")?,
        sig: signature(proof)?,
    };
    asked.check()?;
    call.caller.may_fill(call.ledger())?;
    call.decide(
        asked.bytes(),
        move |planes, _| asked.decide(planes),
        receipt,
    );
    Ok(())
}

/// The 128 hex digits of `sig`.
fn signature(proof: &Json) -> Result<[u8; 64], Refusal> {
    let text = proof.get("sig").and_then(Json::text).unwrap_or_default();
    let halves = text.split_at_checked(64);
    let halves = halves.and_then(|(a, b)| Some((hash_of(a)?, hash_of(b)?)));
    let Some((a, b)) = halves else {
        return Err(Refusal::new(
            "BAD_REQUEST",
            "proof.sig",
            text,
            "128 hex digits",
        ));
    };
    let mut sig = [0; 64];
    sig.iter_mut()
        .zip(a.into_iter().chain(b))
        .for_each(|(to, from)| *to = from);
    Ok(sig)
}
