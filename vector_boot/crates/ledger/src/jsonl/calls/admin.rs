//! `ping`, `head`, `doctor`, `metrics`, `verify`: how the log is.

use super::{Call, Handler};
use crate::audit::{Asked, audit};
use crate::identity::Reads;
use crate::json::Json;
use crate::query::hex;
use crate::refusal::Refusal;
use crate::{blobs, clock, doctor};
use ledger_core::note::{Note, VerifierKey};
use ledger_core::serial;
use std::time::{Duration, Instant};

/// Progress lines of a long call.
const PROGRESS_EVERY: Duration = Duration::from_secs(1);

/// The handler of a call of this family.
pub fn find(kind: &str) -> Option<Handler> {
    match kind {
        "ping" => Some(ping),
        "head" => Some(head),
        "doctor" => Some(how),
        "metrics" => Some(metrics),
        "verify" => Some(verify),
        _ => None,
    }
}

fn ping(call: &Call<'_>) -> Result<(), Refusal> {
    call.ok("\"pong\":true");
    Ok(())
}

fn head(call: &Call<'_>) -> Result<(), Refusal> {
    call.ok(&members(&standing(call)));
    Ok(())
}

fn how(call: &Call<'_>) -> Result<(), Refusal> {
    let ledger = call.ledger();
    let superblock = ledger.superblock();
    let standing_now = ledger.standing();
    let room = ledger.room();
    let percent = standing_now.used.saturating_mul(100) / room.max(1);
    let mut all = standing(call);
    all.extend([
        ("bytes_used", standing_now.used.into()),
        ("bytes_max", room.into()),
        ("percent_used", percent.into()),
        ("epoch", standing_now.epoch.into()),
        ("first_event_id", standing_now.first_id.into()),
        ("segment_bytes", superblock.segment_bytes.into()),
        ("created_wall_ns", superblock.created_wall_ns.into()),
        ("wall_ns", clock::wall_ns().into()),
        ("groups", standing_now.groups.into()),
        ("queued_bytes", (ledger.queued_bytes() as u64).into()),
    ]);
    let index = super::cache::freshness(call);
    all.extend([
        ("events_not_read_at_start", ledger.resumed_at().into()),
        ("index_segments_sealed", (index.sealed as u64).into()),
        ("index_snapshots", (index.snapshots as u64).into()),
        ("index_rebuilds", index.rebuilds.into()),
        ("index_kept", index.kept.into()),
    ]);
    if call.request.get("checks") == Some(&Json::Bool(true)) {
        all.push(("checks", checks(call)?));
    }
    call.ok(&members(&all));
    Ok(())
}

/// What `doctor` checks: it reads the whole log, and tells of everybody.
fn checks(call: &Call<'_>) -> Result<Json, Refusal> {
    call.ack();
    let end = call.ledger().standing().end;
    let (data, mut told) = (blobs::ledger_folder(), Instant::now());
    let device = &**call.ledger().device();
    let live = doctor::Live {
        end,
        needed: &|| blobs::needed(call.ledger()).map_err(|refusal| refusal.reason()),
    };
    let checks = doctor::examine(device, data.as_deref(), Some(live), &mut |at| {
        if told.elapsed() >= PROGRESS_EVERY {
            told = Instant::now();
            call.progress(at.saturating_mul(100) / end.max(1));
        }
    })
    .map_err(|why| Refusal::new("CORRUPT", "log", "", &why));
    // It had the planes a second time.
    sys::reclaim::heap();
    let checks = checks?.iter().map(doctor::Check::json).collect();
    Ok(Json::List(checks))
}

fn metrics(call: &Call<'_>) -> Result<(), Refusal> {
    let slowest = call.ledger().planes(|planes| {
        let lags = planes.bus.lags().map(|lag| lag.messages);
        lags.max().unwrap_or(0)
    })?;
    let rebuilds = super::cache::freshness(call).rebuilds;
    call.ok(&call.ledger().metrics().members(slowest, rebuilds));
    Ok(())
}

fn standing(call: &Call<'_>) -> Vec<(&'static str, Json)> {
    let standing = call.ledger().standing();
    let stopped = standing.stopped.as_ref();
    vec![
        ("event_id", standing.id.into()),
        ("commit_id", hex(&standing.chain).as_str().into()),
        ("root", hex(&standing.root).as_str().into()),
        ("writable", stopped.is_none().into()),
        (
            "stopped",
            stopped.map_or(Json::Null, |why| why.to_string().as_str().into()),
        ),
    ]
}

fn members(all: &[(&str, Json)]) -> String {
    let all: Vec<String> = all.iter().map(|(k, v)| format!("\"{k}\":{v}")).collect();
    all.join(",")
}

fn verify(call: &Call<'_>) -> Result<(), Refusal> {
    let mut asked = Asked::default();
    if let Some(proofs) = call.ledger().proofs() {
        asked.key = Some(proofs.verifier().clone());
        // What is in the ledger's folder is for who reads everything.
        asked.folder = proofs
            .folder()
            .filter(|_| call.caller.reads() == Reads::Everything);
    }
    if let Some(key) = call.optional_text("key")? {
        let key = VerifierKey::parse(key).map_err(|e| Refusal::bad("key", &e.to_string()))?;
        asked.key = Some(key);
    }
    if let Some(since) = call.optional_text("since")? {
        // A note, or the line of one on the serial console.
        let note = serial::note(since).map_or_else(|| Note::parse(since), Ok);
        let note = note.map_err(|e| Refusal::bad("since", &e.to_string()))?;
        asked.since = Some(("since".to_owned(), note));
    }
    call.ack();
    let end = call.ledger().standing().end;
    let until = || Some(call.ledger().standing().end);
    let mut told = Instant::now();
    let report = audit(&**call.ledger().device(), &until, &asked, &mut |at| {
        if told.elapsed() >= PROGRESS_EVERY {
            told = Instant::now();
            call.progress(at.saturating_mul(100) / end.max(1));
        }
    })
    .map_err(|e| Refusal::new("CORRUPT", "log", "", &e.to_string()));
    sys::reclaim::heap();
    let report = report?;
    // What was damaged before the service started stays damaged, though nothing behind it is read.
    let stopped = call.ledger().standing().stopped;
    let stopped = stopped.map_or(Json::Null, |why| why.to_string().as_str().into());
    call.ok(&format!("{},\"stopped\":{stopped}", report.members()));
    Ok(())
}
