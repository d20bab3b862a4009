//! Commands about what was recorded: the ledger.

use super::{Command, Completes, DONE, FAILED, Failure, Group, Out, Outcome};
use crate::console::context::{ANSWER_LIMIT, Context};
use crate::console::ledger::Ledger;
use crate::console::text;
use crate::console::words::Words;
use serde_json::{Map, Value, json};
use std::time::{Duration, Instant};

/// Events of `ledger tail` when not told.
const TAIL_DEFAULT: u64 = 10;
/// Events of one answer at most; the ledger pages beyond.
const EVENTS_MAX: u64 = 1000;
/// Columns of the payload in a line for people.
const PAYLOAD_CHARS: usize = 60;
/// Longest silence of `ledger verify` once it has begun: it reads the whole log, and says each second how far it is,
/// but while a disk does not answer.
const VERIFY_SILENCE_MAX: Duration = Duration::from_secs(120);
/// Wait for one event of a follower: two beats, so that a key press ends it at once.
const FOLLOW_STEP: Duration = Duration::from_millis(200);
/// Options of `ledger query` that are words, with the ledger's names for them.
const FILTERS: &[(&str, &str)] = &[
    ("--type", "event_type"),
    ("--tenant", "tenant_id"),
    ("--actor", "actor"),
    ("--ns", "ns"),
    ("--subject", "subject"),
];

/// The rows of this group.
pub const COMMANDS: &[Command] = &[Command {
    name: "ledger",
    alias: "",
    group: Group::Evidence,
    usage: "[tail [-n N] [-f]|query [FILTERS]|verify [--key VKEY] [--since LINE]|head|key|checkpoint|proof ID|doctor]",
    help: "What was recorded, in order, and whether it was altered. tail shows the newest N events (10), \
           with -f also what follows. query takes --type --tenant --actor --ns --subject, --from ID and \
           -n N. verify reads the whole log and fails with exit code 1 when it does not hold, is not signed by \
           VKEY, or does not continue LINE, a checkpoint that was kept elsewhere, in quotes. head is the last durable event and its chain value. checkpoint is a signed line to keep elsewhere, key what \
           checks it, proof the path of one event's leaf, doctor how full the log is.",
    completes: &[Completes::Words(&[
        "tail",
        "query",
        "verify",
        "head",
        "key",
        "checkpoint",
        "proof",
        "doctor",
    ])],
    changes: false,
    run: ledger,
}];

fn ledger(words: &[String], context: &mut Context<'_>, out: &mut Out<'_>) -> Outcome {
    let (word, rest) = match words.split_first() {
        Some((word, rest)) if !word.starts_with('-') => (word.as_str(), rest),
        _ => ("tail", words),
    };
    match word {
        "tail" => tail(rest, context, out),
        "query" => query(rest, context, out),
        "verify" => verify(rest, context, out),
        "head" | "doctor" => asked(word, rest, context, out),
        "key" => one_line("key", "vkey", rest, context, out),
        "checkpoint" => one_line("checkpoint", "line", rest, context, out),
        "proof" => proof(rest, context, out),
        other => Err(Failure::usage(format!(
            "\"{other}\" is not tail, query, verify, head, key, checkpoint, proof or doctor"
        ))),
    }
}

fn tail(words: &[String], context: &mut Context<'_>, out: &mut Out<'_>) -> Outcome {
    let words = Words::parse(words, &["-f"], &["-n", "--for"], 0)?;
    let count = words.number("-n", TAIL_DEFAULT, 1, EVENTS_MAX)?;
    let mut ledger = Ledger::open(context)?;
    let fields = Map::from_iter([
        ("limit".to_owned(), json!(count)),
        ("order".to_owned(), json!("desc")),
    ]);
    let (mut events, _) = events(&mut ledger, fields)?;
    events.sort_by_key(event_id);
    let follow = words.flag("-f") || words.value("--for").is_some();
    if !follow {
        return list(&events, None, out);
    }
    let mut last = events.last().map_or(0, event_id);
    events.iter().try_for_each(|e| one(e, out))?;
    let until = super::services::follow_until(&words, context)?;
    let from = Map::from_iter([("from".to_owned(), json!(last + 1))]);
    let id = ledger.send("subscribe", from)?;
    while until.is_none_or(|until| Instant::now() < until)
        && !context.attention.wait(Duration::ZERO)
    {
        let Some(answer) = ledger.next(&id, FOLLOW_STEP)? else {
            continue;
        };
        for event in events_in(&answer) {
            if event_id(&event) > last {
                last = event_id(&event);
                one(&event, out)?;
                out.flush()?;
            }
        }
    }
    Ok(DONE)
}

fn query(words: &[String], context: &mut Context<'_>, out: &mut Out<'_>) -> Outcome {
    let names: Vec<&'static str> = FILTERS
        .iter()
        .map(|(option, _)| *option)
        .chain(["--from", "-n"])
        .collect();
    let words = Words::parse(words, &[], &names, 0)?;
    let given =
        |(option, field): &(&str, &str)| Some(((*field).to_owned(), json!(words.value(option)?)));
    let filters: Map<String, Value> = FILTERS.iter().filter_map(given).collect();
    let mut fields = Map::from_iter([(
        "limit".to_owned(),
        json!(words.number("-n", 100, 1, EVENTS_MAX)?),
    )]);
    if !filters.is_empty() {
        fields.insert("filters".to_owned(), filters.into());
    }
    if words.value("--from").is_some() {
        fields.insert(
            "from".to_owned(),
            json!(words.number("--from", 0, 0, u64::MAX)?),
        );
    }
    let (events, next) = events(&mut Ledger::open(context)?, fields)?;
    list(&events, next, out)
}

/// Asks for events until the answer that closes them; also the cursor of the next page.
fn events(
    ledger: &mut Ledger,
    fields: Map<String, Value>,
) -> Result<(Vec<Value>, Option<Value>), Failure> {
    let id = ledger.send("query", fields)?;
    let mut found = Vec::new();
    loop {
        let answer = ledger.answer(&id)?;
        found.extend(events_in(&answer));
        if answer.contains_key("ok") {
            let next = answer.get("next").filter(|n| !n.is_null()).cloned();
            return Ok((found, next));
        }
    }
}

/// The events of one answer line: one under `event`, or several under `events`.
fn events_in(answer: &Map<String, Value>) -> Vec<Value> {
    let many = answer
        .get("events")
        .and_then(Value::as_array)
        .cloned()
        .unwrap_or_default();
    answer
        .get("event")
        .cloned()
        .into_iter()
        .chain(many)
        .collect()
}

fn event_id(event: &Value) -> u64 {
    event.get("id").and_then(Value::as_u64).unwrap_or(0)
}

fn list(events: &[Value], next: Option<Value>, out: &mut Out<'_>) -> Outcome {
    if out.is_json() {
        out.value(&json!({"events": events, "next": next}))?;
        return Ok(DONE);
    }
    events.iter().try_for_each(|e| one(e, out))?;
    if events.is_empty() {
        out.line("no events")?;
    }
    if let Some(next) = next {
        out.line(&format!("more: the same with --from {}", plain(&next)))?;
    }
    Ok(DONE)
}

fn one(event: &Value, out: &mut Out<'_>) -> Result<(), Failure> {
    out.either(event, &[event_line(event)])
}

/// `   42  12:34:56.789  system  service:init  service_started  gateway  {"pid":7}`.
fn event_line(event: &Value) -> String {
    let field = |name: &str| event.get(name).map(plain).unwrap_or_default();
    let payload = match event.get("payload") {
        None | Some(Value::Null) => String::new(),
        Some(Value::Object(map)) if map.is_empty() => String::new(),
        Some(value) => text::cut(&value.to_string(), PAYLOAD_CHARS),
    };
    let wall = field("wall_clock");
    let time = match wall.split_once('T') {
        Some((_, time)) => time
            .trim_end_matches('Z')
            .get(..12)
            .unwrap_or(time)
            .to_owned(),
        None => wall,
    };
    let line = format!(
        "{:>6}  {time:<12}  {} {} {} {}  {payload}",
        event_id(event),
        field("ns"),
        field("actor"),
        field("event_type"),
        field("subject"),
    );
    line.trim_end().to_owned()
}

/// A value as a word: text without quotes, the rest as JSON.
fn plain(value: &Value) -> String {
    value
        .as_str()
        .map_or_else(|| value.to_string(), str::to_owned)
}

fn verify(words: &[String], context: &mut Context<'_>, out: &mut Out<'_>) -> Outcome {
    let words = Words::parse(words, &[], &["--key", "--since"], 0)?;
    let given = |option, field: &str| Some((field.to_owned(), json!(words.value(option)?)));
    let asked = [given("--key", "key"), given("--since", "since")];
    let mut ledger = Ledger::open(context)?;
    let id = ledger.send("verify", asked.into_iter().flatten().collect())?;
    // A ledger that is up says at once that it begins.
    let mut answer = ledger.answer(&id)?;
    let mut heard = Instant::now();
    let result = loop {
        if answer.contains_key("ok") {
            break answer;
        }
        // An acknowledgement or progress: it is at work.
        answer = match ledger.next(&id, ANSWER_LIMIT)? {
            Some(next) => {
                heard = Instant::now();
                next
            }
            None if heard.elapsed() < VERIFY_SILENCE_MAX => continue,
            None => {
                let s = VERIFY_SILENCE_MAX.as_secs();
                return Err(Failure::failed(format!(
                    "ledger says nothing of its check for {s} s"
                )));
            }
        };
    };
    let (holds, lines) = verdict(&result);
    let mut value = result;
    for name in ["id", "ok", "type"] {
        value.remove(name);
    }
    value.insert("holds".to_owned(), json!(holds));
    out.either(&Value::Object(value), &lines)?;
    Ok(if holds { DONE } else { FAILED })
}

/// Whether the log holds, and what a person should know of it. A log that the ledger stopped writing
/// because it found damage does not hold, even if everything before the damage does.
fn verdict(report: &Map<String, Value>) -> (bool, Vec<String>) {
    let of = |name: &str| report.get(name).filter(|v| !v.is_null());
    let number = |name: &str| of(name).and_then(Value::as_u64).unwrap_or(0);
    let verified = of("verified").and_then(Value::as_bool).unwrap_or(false);
    let stopped = of("stopped").map(plain).unwrap_or_default();
    let holds = verified && stopped.is_empty();
    let word = if holds { "holds" } else { "does NOT hold" };
    let (events, bytes) = (number("events"), text::bytes(number("bytes")));
    let mut lines = vec![format!("ledger {word}: {events} events, {bytes} verified")];
    let bad = of("bad").and_then(Value::as_object);
    let bad = |name: &str| bad.and_then(|b| b.get(name)).map(plain).unwrap_or_default();
    let shown = |name: &str| of(name).map(plain).unwrap_or_default();
    lines.extend(text::pairs(&[
        ("wrong", bad("what")),
        ("event", bad("event_id")),
        ("offset", bad("offset")),
        ("place", bad("place")),
        ("stopped", stopped),
        ("chain", shown("chain")),
        ("root", shown("root")),
    ]));
    (holds, lines)
}

/// A call without members, its answer as pairs.
fn asked(kind: &str, words: &[String], context: &mut Context<'_>, out: &mut Out<'_>) -> Outcome {
    Words::parse(words, &[], &[], 0)?;
    let answer = answer_to(kind, Map::new(), context)?;
    let shown: Vec<(&str, String)> = answer
        .iter()
        .filter(|(_, v)| !v.is_null())
        .map(|(n, v)| (n.as_str(), plain(v)))
        .collect();
    let lines = text::pairs(&shown);
    out.either(&Value::Object(answer.clone()), &lines)?;
    Ok(DONE)
}

/// A call whose answer is one line to copy.
fn one_line(
    kind: &str,
    member: &str,
    words: &[String],
    context: &mut Context<'_>,
    out: &mut Out<'_>,
) -> Outcome {
    Words::parse(words, &[], &[], 0)?;
    let answer = answer_to(kind, Map::new(), context)?;
    let line = answer.get(member).map(plain).unwrap_or_default();
    out.either(&Value::Object(answer), std::slice::from_ref(&line))?;
    Ok(DONE)
}

/// Where one event stands in the signed tree; the path itself with `--json`.
fn proof(words: &[String], context: &mut Context<'_>, out: &mut Out<'_>) -> Outcome {
    let words = Words::parse(words, &[], &[], 1)?;
    let id = words.required(0, "an event's id")?;
    let id: u64 = id
        .parse()
        .map_err(|_| Failure::usage(format!("\"{id}\" is no event's id")))?;
    let fields = Map::from_iter([("event_id".to_owned(), json!(id))]);
    let answer = answer_to("proof.inclusion", fields, context)?;
    let shown = |name: &str| answer.get(name).map(plain).unwrap_or_default();
    let path = answer.get("hashes").and_then(Value::as_array);
    let lines = text::pairs(&[
        ("event", shown("event_id")),
        ("tree", format!("{} events", shown("size"))),
        ("leaf", shown("leaf")),
        ("path", format!("{} hashes", path.map_or(0, Vec::len))),
        ("root", shown("root")),
    ]);
    out.either(&Value::Object(answer.clone()), &lines)?;
    Ok(DONE)
}

/// The answer to one call, without what belongs to the conversation.
fn answer_to(
    kind: &str,
    fields: Map<String, Value>,
    context: &mut Context<'_>,
) -> Result<Map<String, Value>, Failure> {
    let mut ledger = Ledger::open(context)?;
    let id = ledger.send(kind, fields)?;
    let mut answer = loop {
        let answer = ledger.answer(&id)?;
        if !answer.contains_key("ack") {
            break answer;
        }
    };
    for name in ["id", "ok", "type"] {
        answer.remove(name);
    }
    Ok(answer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_one_readable_line() {
        let event = json!({
            "id": 42, "wall_clock": "2026-01-02T03:04:05.678901234Z", "ns": "system",
            "actor": "service:init", "event_type": "service_started", "subject": "gateway",
            "payload": {"pid": 7},
        });
        assert_eq!(
            event_line(&event),
            "    42  03:04:05.678  system service:init service_started gateway  {\"pid\":7}"
        );
        assert_eq!(event_line(&json!({})), "     0");
        let long = json!({"id": 1, "payload": {"text": "x".repeat(200)}});
        assert!(event_line(&long).ends_with("..."));
    }
}
