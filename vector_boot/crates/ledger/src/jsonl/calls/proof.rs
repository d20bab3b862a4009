//! `checkpoint`, `proof.inclusion`, `proof.consistency`, `key`: what lets others check the log.
//!
//! A proof of inclusion is for who may read the event. Hashes of other leaves tell nothing: what they
//! are made of holds a tag under a key that stays here.

use super::{Call, Handler};
use crate::identity::{RULE_TENANT, Reads};
use crate::json::Json;
use crate::proofs::folder::WITNESSED;
use crate::proofs::{Proofs, Signed};
use crate::refusal::Refusal;
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use ledger_core::checkpoint::Checkpoint;
use ledger_core::serial;
use ledger_core::tlog_proof::TlogProof;
use ledger_core::{Hash, leaf_hash};

/// The handler of a call of this family.
pub fn find(kind: &str) -> Option<Handler> {
    match kind {
        "checkpoint" => Some(checkpoint),
        "key" => Some(key),
        "proof.inclusion" => Some(inclusion),
        "proof.consistency" => Some(consistency),
        _ => None,
    }
}

fn proofs(call: &Call<'_>) -> Result<Proofs, Refusal> {
    let none = || Refusal::new("INTERNAL", "proofs", "", "not there yet");
    call.ledger().proofs().ok_or_else(none)
}

fn text(text: &str) -> Json {
    Json::from(text)
}

/// Bytes in base64, as C2SP's texts have them.
fn base64(bytes: &[u8]) -> String {
    BASE64.encode(bytes)
}

fn hashes(path: &[Hash]) -> String {
    let all: Vec<String> = path.iter().map(|h| format!("\"{}\"", base64(h))).collect();
    format!("[{}]", all.join(","))
}

/// The newest checkpoint, which covers all that is durable now; or the one that a witness signed last.
fn checkpoint(call: &Call<'_>) -> Result<(), Refusal> {
    let proofs = proofs(call)?;
    let signed = match call.request.get("witnessed") {
        Some(Json::Bool(true)) => witnessed(&proofs)?,
        _ => proofs.checkpoint(call.ledger().standing().id)?,
    };
    let line = serial::line(&signed.note);
    call.ok(&format!(
        "\"size\":{},\"root\":\"{}\",\"checkpoint\":{},\"line\":{}",
        signed.checkpoint.size,
        base64(&signed.checkpoint.root),
        text(&signed.note.to_string()),
        line.map_or(Json::Null, |line| text(&line))
    ));
    Ok(())
}

fn witnessed(proofs: &Proofs) -> Result<Signed, Refusal> {
    let folder = proofs.folder();
    let found = folder.map_or(Ok(None), |folder| folder.note(WITNESSED));
    let none = || Refusal::new("NOT_FOUND", "witnessed", "", "no witness signed yet");
    let note = found.map_err(|e| Refusal::from(&e))?.ok_or_else(none)?;
    let opened = Checkpoint::open(&note, proofs.verifier());
    let foreign =
        |e: &dyn std::fmt::Display| Refusal::new("CORRUPT", "witnessed", "", &e.to_string());
    let checkpoint = opened.map_err(|e| foreign(&e))?;
    Ok(Signed { checkpoint, note })
}

fn key(call: &Call<'_>) -> Result<(), Refusal> {
    let proofs = proofs(call)?;
    let verifier = proofs.verifier();
    call.ok(&format!(
        "\"origin\":{},\"vkey\":{}",
        text(verifier.name()),
        text(&verifier.to_string())
    ));
    Ok(())
}

/// For one event: its leaf, the path to the root of the tree of `size` events, and, where no size is
/// asked for, a signed checkpoint and all of it as one text.
fn inclusion(call: &Call<'_>) -> Result<(), Refusal> {
    let proofs = proofs(call)?;
    let event_id = call.optional_number("event_id")?;
    let event_id = event_id.ok_or_else(|| Refusal::bad("event_id", "an event's id"))?;
    let absent = || {
        let limit = "no such event, or not yours to read";
        Refusal::new("NOT_FOUND", "event_id", &event_id.to_string(), limit)
    };
    if event_id == 0 || event_id > call.ledger().standing().id {
        return Err(absent());
    }
    let reads = call.caller.reads();
    let found = call
        .ledger()
        .reader()
        .entry(event_id, |entry, body| match &reads {
            Reads::Everything => Some(*entry),
            Reads::Tenant(own) if *own == body.tenant_id => Some(*entry),
            _ => None,
        });
    let entry = match found {
        Ok(Some(entry)) => entry,
        // That it was refused is not for who asked, nor for that tenant.
        Ok(None) => return Err(absent().by_hidden(RULE_TENANT)),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Err(absent()),
        Err(e) => return Err(Refusal::from(&e)),
    };
    let signed = match call.optional_number("size")? {
        Some(_) => None,
        None => Some(proofs.checkpoint(event_id)?),
    };
    let asked = call.optional_number("size")?;
    let size = asked
        .or(signed.as_ref().map(|s| s.checkpoint.size))
        .unwrap_or(0);
    let index = event_id - 1;
    let (path, root) = proofs.inclusion(&entry, index, size)?;
    let proof = signed.map(|signed| TlogProof {
        entry,
        index,
        path: path.clone(),
        checkpoint: signed.note,
    });
    call.ok(&format!(
        "\"event_id\":{event_id},\"size\":{size},\"index\":{index},\"entry\":\"{}\",\"leaf\":\"{}\",\"hashes\":{},\"root\":\"{}\",\"proof\":{}",
        base64(&entry),
        base64(&leaf_hash(&entry)),
        hashes(&path),
        base64(&root),
        proof.map_or(Json::Null, |p| text(&p.to_string()))
    ));
    Ok(())
}

/// That the tree of `to` events continues that of `from`; `to` is all that is durable where it is
/// absent.
fn consistency(call: &Call<'_>) -> Result<(), Refusal> {
    let from = call.optional_number("from")?;
    let from = from.ok_or_else(|| Refusal::bad("from", "a tree's size"))?;
    let to = call.optional_number("to")?;
    let to = to.unwrap_or_else(|| call.ledger().standing().id);
    let (path, old, new) = proofs(call)?.consistency(from, to)?;
    call.ok(&format!(
        "\"from\":{from},\"to\":{to},\"hashes\":{},\"from_root\":\"{}\",\"to_root\":\"{}\"",
        hashes(&path),
        base64(&old),
        base64(&new)
    ));
    Ok(())
}
