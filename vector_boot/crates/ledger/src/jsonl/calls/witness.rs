//! `witness.add`: a checkpoint of this log that a witness signed too, kept beside the ledger's own.
//!
//! Who carries it is not believed: both signatures must hold, the witness is the one that the machine names, if it
//! names one, and what is kept only grows.

use super::{Call, Handler};
use crate::committer::Draft;
use crate::files::Lasting;
use crate::json::Json;
use crate::proofs::cosigned;
use crate::proofs::folder::WITNESSED;
use crate::refusal::Refusal;
use ledger_core::checkpoint::Checkpoint;
use ledger_core::note::{Note, VerifierKey};
use std::sync::{Mutex, PoisonError};

/// One at a time: what is compared is what is replaced, and by way of one file.
static KEEPING: Mutex<()> = Mutex::new(());

/// The handler of a call of this family.
pub fn find(kind: &str) -> Option<Handler> {
    match kind {
        "witness.add" => Some(add),
        _ => None,
    }
}

fn add(call: &Call<'_>) -> Result<(), Refusal> {
    let bad =
        |field: &'static str| move |e: &dyn std::fmt::Display| Refusal::bad(field, &e.to_string());
    let note = Note::parse(call.text("checkpoint")?).map_err(|e| bad("checkpoint")(&e))?;
    let witness = VerifierKey::parse(call.text("witness")?).map_err(|e| bad("witness")(&e))?;
    let none = || Refusal::new("INTERNAL", "proofs", "", "not there yet");
    let proofs = call.ledger().proofs().ok_or_else(none)?;
    if proofs.witness().is_some_and(|named| *named != witness) {
        return Err(Refusal::bad("witness", "the one that the machine names"));
    }
    let opened = Checkpoint::open(&note, proofs.verifier());
    let checkpoint = opened.map_err(|e| bad("checkpoint")(&e))?;
    let keys = [witness];
    let held = cosigned(&note, &keys).map_err(|e| bad("checkpoint")(&e))?;
    let head = call.ledger().standing().id;
    if checkpoint.size > head {
        let limit = format!("of at most {head} events");
        return Err(Refusal::bad("checkpoint", &limit));
    }
    let folder = proofs.folder();
    let folder = folder
        .ok_or_else(|| Refusal::new("NOT_FOUND", "checkpoint", "", "the ledger has no folder"))?;
    let keeping = KEEPING.lock().unwrap_or_else(PoisonError::into_inner);
    let kept = folder.note(WITNESSED).ok().flatten();
    let kept = kept.and_then(|note| Checkpoint::open(&note, proofs.verifier()).ok());
    if let Some(kept) = kept.filter(|kept| kept.size > checkpoint.size) {
        let limit = format!("of at least the {} events that were witnessed", kept.size);
        return Err(Refusal::new(
            "CONFLICT",
            "checkpoint",
            &checkpoint.size.to_string(),
            &limit,
        ));
    }
    folder
        .put_note(WITNESSED, &note, Lasting::Durable)
        .map_err(|e| Refusal::from(&e))?;
    drop(keeping);
    let names = held.iter().map(|(key, _)| key.name()).collect::<Vec<_>>();
    let payload = Json::object([
        ("size", checkpoint.size.into()),
        ("witness", names.join(" ").as_str().into()),
    ]);
    let draft = Draft {
        ns: "ledger".to_owned(),
        actor: "service:ledger".to_owned(),
        tenant_id: "system".to_owned(),
        event_type: "checkpoint_witnessed".to_owned(),
        subject: "log".to_owned(),
        payload: payload.to_string(),
        ..Draft::default()
    };
    let receipts = call.ledger().append_wait(vec![draft])?;
    let event = receipts.first().map_or(0, |r| r.id);
    call.ok(&format!(
        "\"size\":{},\"event_id\":{event}",
        checkpoint.size
    ));
    Ok(())
}
