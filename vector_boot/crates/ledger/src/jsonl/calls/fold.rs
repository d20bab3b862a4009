//! Folds: the state of a channel and its root, and whether a root holds.

use super::{Call, Handler, blob};
use crate::folds::{Folded, Wanted};
use crate::gate::{Gate, Permit};
use crate::json::Json;
use crate::query::{Filter, hex};
use crate::refusal::Refusal;
use ledger_core::folds::{SPEC_BYTES_MAX, Spec, root_of};
use ledger_core::jobs::hash_of;
use ledger_core::rules;
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

/// A state that is longer is told by its root alone: an answer is one line.
const STATE_BYTES_MAX: usize = 768 * 1024;
/// A call that is silent for this long says that it is under way.
const ACK_AFTER: Duration = Duration::from_millis(50);
/// Progress lines of a long call.
const PROGRESS_EVERY: Duration = Duration::from_secs(1);

/// Folds of all connections at a time: each may take several times a state, as values, JSON and text.
const AT_ONCE_MAX: usize = 2;
static UNDER_WAY: LazyLock<Arc<Gate>> = LazyLock::new(|| Arc::new(Gate::new(AT_ONCE_MAX)));

/// The handler of a call of this family.
pub fn find(kind: &str) -> Option<Handler> {
    match kind {
        "fold_state" => Some(fold_state),
        "fold_verify" => Some(fold_verify),
        _ => None,
    }
}

fn wanted(call: &Call<'_>) -> Result<Wanted, Refusal> {
    let ns = call.text("ns")?;
    if !rules::ns(ns) {
        let limit = rules::Broken::Ns.limit();
        return Err(Refusal::new("BAD_NS", "ns", ns, limit));
    }
    let spec = match call.request.get("spec") {
        Some(spec @ Json::Object(_)) => Spec::parse(spec)?,
        Some(Json::Text(pointer)) => {
            let text = blob::text(call, "spec", pointer, SPEC_BYTES_MAX)?;
            Spec::parse(&Json::parse(&text)?)?
        }
        _ => return Err(Refusal::bad("spec", "an object, or a pointer to a blob")),
    };
    let mut filter = Filter {
        tenant_id: call.optional_text("tenant_id")?.map(str::to_owned),
        ..Filter::default()
    };
    filter.restrict(&call.caller.reads())?;
    Ok(Wanted {
        tenant: filter.tenant_id,
        ns: ns.to_owned(),
        spec,
    })
}

/// Waits for its turn.
fn turn(call: &Call<'_>) -> Permit {
    UNDER_WAY.try_enter().unwrap_or_else(|| {
        call.ack();
        UNDER_WAY.enter()
    })
}

fn at(call: &Call<'_>) -> Result<u64, Refusal> {
    let head = call.ledger().standing().id;
    let at = call.optional_number("at")?.unwrap_or(head);
    if at > head {
        let limit = format!("at most {head}, the last event");
        return Err(Refusal::new("BAD_REQUEST", "at", &at.to_string(), &limit));
    }
    Ok(at)
}

fn run(
    call: &Call<'_>,
    wanted: &Wanted,
    at: u64,
    begun: Option<Folded>,
) -> Result<Folded, Refusal> {
    let began = Instant::now();
    let (mut acked, mut told) = (false, began);
    let mut idle = |id: u64| {
        if !acked && began.elapsed() > ACK_AFTER {
            acked = true;
            call.ack();
        }
        if told.elapsed() > PROGRESS_EVERY {
            told = Instant::now();
            call.progress(id.saturating_mul(100) / at.max(1));
        }
    };
    let ledger = call.ledger();
    wanted.fold(&mut ledger.reader(), ledger.index(), at, begun, &mut idle)
}

/// What is said of a fold, but for its state.
fn members(
    call: &Call<'_>,
    wanted: &Wanted,
    folded: &Folded,
    state: &str,
) -> Result<String, Refusal> {
    let channel = call.optional_text("channel")?.unwrap_or_default();
    let commit_id = match folded.through {
        0 => "null".to_owned(),
        at => {
            let chain = call.ledger().reader().event(at, |_, chain, _| *chain);
            format!("\"{}\"", hex(&chain.map_err(|e| Refusal::from(&e))?))
        }
    };
    Ok(format!(
        "\"ns\":\"{}\",\"channel\":{},\"spec\":\"{}\",\"state_root\":\"{}\",\"event_id\":{},\"commit_id\":{commit_id},\"events\":{},\"skipped\":{}",
        wanted.ns,
        Json::from(channel),
        hex(&wanted.spec.id()),
        hex(&root_of(state)),
        folded.through,
        folded.fold.events,
        folded.fold.skipped,
    ))
}

fn fold_state(call: &Call<'_>) -> Result<(), Refusal> {
    let (wanted, at) = (wanted(call)?, at(call)?);
    let _turn = turn(call);
    let kept = call.ledger().kept_folds();
    let begins = call.ledger().standing().first_id;
    let folded = run(call, &wanted, at, kept.get(&wanted, begins, at))?;
    kept.put(&wanted, &folded);
    let state = folded.fold.state();
    let members = members(call, &wanted, &folded, &state)?;
    let shown = if state.len() <= STATE_BYTES_MAX {
        state.as_str()
    } else {
        "null"
    };
    call.ok(&format!("{members},\"state\":{shown}"));
    Ok(())
}

/// Folds anew, without anything that was kept, and compares.
fn fold_verify(call: &Call<'_>) -> Result<(), Refusal> {
    let (wanted, at) = (wanted(call)?, at(call)?);
    let text = call.text("state_root")?;
    let claimed = hash_of(text)
        .ok_or_else(|| Refusal::new("BAD_REQUEST", "state_root", text, "64 hex digits"))?;
    let _turn = turn(call);
    let folded = run(call, &wanted, at, None)?;
    let state = folded.fold.state();
    let holds = root_of(&state) == claimed;
    let members = members(call, &wanted, &folded, &state)?;
    call.ok(&format!("{members},\"holds\":{holds}"));
    Ok(())
}
