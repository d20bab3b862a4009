//! `query` and `subscribe`: events that match, of the past and as they become durable.

use super::{Call, Handler};
use crate::json::Json;
use crate::jsonl::call::Stream;
use crate::query::{self, Filter, LIMIT_DEFAULT, LIMIT_MAX, Order, Query, event_json};
use crate::reader;
use crate::refusal::Refusal;
use std::cell::Cell;
use std::time::{Duration, Instant};

/// A call that is silent for this long says that it is under way.
const ACK_AFTER: Duration = Duration::from_millis(50);
/// How often a waiting subscription looks whether its peer is still there.
const WATCH_PERIOD: Duration = Duration::from_millis(500);

/// The handler of a call of this family.
pub fn find(kind: &str) -> Option<Handler> {
    match kind {
        "query" => Some(query),
        "subscribe" => Some(subscribe),
        _ => None,
    }
}

fn filter(call: &Call<'_>) -> Result<Filter, Refusal> {
    let mut filter = Filter::parse(call.request.get("filters"))?;
    filter.restrict(&call.caller.reads())?;
    Ok(filter)
}

fn query(call: &Call<'_>) -> Result<(), Refusal> {
    let order = match call.optional_text("order")? {
        None | Some("asc") => Order::Ascending,
        Some("desc") => Order::Descending,
        Some(_) => return Err(Refusal::bad("order", "asc or desc")),
    };
    let filter = filter(call)?;
    if filter.causation.is_some() && order == Order::Descending {
        return Err(Refusal::bad("order", "asc with the filter causation"));
    }
    let limit = call.optional_number("limit")?.unwrap_or(LIMIT_DEFAULT);
    if limit == 0 || limit > LIMIT_MAX {
        let range = format!("1 to {LIMIT_MAX}");
        let value = limit.to_string();
        return Err(Refusal::new("BAD_REQUEST", "limit", &value, &range));
    }
    let query = Query {
        filter,
        from: call.optional_number("from")?,
        limit,
        order,
    };
    let began = Instant::now();
    let (silent, mut acked) = (Cell::new(true), false);
    let ended = query::run(
        &query,
        &mut call.ledger().reader(),
        call.ledger().index(),
        call.ledger().standing().id,
        &mut |event| {
            silent.set(false);
            call.line(&format!("\"event\":{event}"))
        },
        &mut || {
            if silent.get() && !acked && began.elapsed() > ACK_AFTER {
                acked = true;
                call.ack();
            }
        },
    )
    .map_err(|e| Refusal::from(&e))?;
    let next = ended.next.map_or("null".to_owned(), |n| n.to_string());
    call.ok(&format!("\"count\":{},\"next\":{next}", ended.count));
    Ok(())
}

fn subscribe(call: &Call<'_>) -> Result<(), Refusal> {
    let filter = filter(call)?;
    if filter.causation.is_some() || filter.causes_of.is_some() {
        return Err(Refusal::bad("filters", "without causation and causes_of"));
    }
    let from = still_there(call, from(call)?)?;
    let stream = call.stream()?;
    call.ok(&format!("\"from\":{from}"));
    stream.spawn(move |stream| follow(stream, &filter, from))
}

/// The event to go on from, which must be kept, or what lay before would be passed over in silence. 1 is the
/// beginning, wherever that is by now.
///
/// # Errors
/// NOT_FOUND.
pub fn still_there(call: &Call<'_>, from: u64) -> Result<u64, Refusal> {
    let first = call.ledger().standing().first_id;
    reader::still_there(from, first).map_err(|e| Refusal::from(&e))?;
    Ok(from.max(first))
}

/// Where a subscription begins: an id, `HEAD` (what comes next) or `HEAD-N`, of those that are kept; HEAD where
/// it is absent.
pub fn from(call: &Call<'_>) -> Result<u64, Refusal> {
    let bad = || Refusal::bad("from", "an event id, HEAD or HEAD-N");
    let head = call.ledger().standing().id;
    match call.request.get("from") {
        None | Some(Json::Null) => Ok(head + 1),
        Some(Json::Unsigned(id)) => Ok((*id).max(1)),
        Some(Json::Text(text)) => {
            let from = from_head(text, head).ok_or_else(bad)?;
            Ok(from.max(call.ledger().standing().first_id))
        }
        Some(_) => Err(bad()),
    }
}

/// `HEAD` is what comes next, `HEAD-N` the last N events and what comes next.
fn from_head(text: &str, head: u64) -> Option<u64> {
    let back = match text.strip_prefix("HEAD")? {
        "" => 0,
        rest => rest.strip_prefix('-')?.parse::<u64>().ok()?,
    };
    Some((head + 1).saturating_sub(back).max(1))
}

/// Sends every matching event from `next` on, in order, until the peer goes or the service ends.
fn follow(stream: &Stream, filter: &Filter, mut next: u64) {
    let mut reader = stream.ledger.reader();
    loop {
        let standing = stream.ledger.wait_past(next - 1, WATCH_PERIOD);
        reader.refresh();
        while next <= standing.id {
            let event = reader.event(next, |event_id, chain, body| {
                filter
                    .matches(body)
                    .then(|| event_json(event_id, chain, body))
            });
            let sent = match event {
                Ok(Some(event)) => {
                    stream.is_allowed() && stream.line(&format!("\"event\":{event}"))
                }
                Ok(None) => !stream.is_gone(),
                Err(e) => {
                    stream.refuse(&Refusal::from(&e));
                    false
                }
            };
            if !sent {
                return;
            }
            next += 1;
        }
        if standing.closing || stream.is_gone() || !stream.is_allowed() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn head_forms() {
        assert_eq!(from_head("HEAD", 10), Some(11));
        assert_eq!(from_head("HEAD-3", 10), Some(8));
        assert_eq!(from_head("HEAD-300", 10), Some(1));
        for bad in ["", "TAIL", "HEAD-", "HEAD+1", "HEAD-x"] {
            assert_eq!(from_head(bad, 10), None, "{bad}");
        }
    }
}
