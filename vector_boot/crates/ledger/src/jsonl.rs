//! `ledger.sock`: one JSON object a line each way, `id` echoed.
//!
//! The connection's thread reads and answers in order; appends are answered when they are durable,
//! so that many may be under way; each subscription has a thread that reads the log itself. A peer
//! that reads slowly holds up its own threads only.

use crate::committer::{Draft, Ledger, Receipt, Refusal};
use crate::gate::{Gate, Permit};
use crate::identity::{self, Reads};
use crate::json::{Json, LINE_BYTES_MAX};
use crate::query::{self, Filter, LIMIT_DEFAULT, LIMIT_MAX, Order, Query, event_json, hex};
use crate::visitors::Visit;
use crate::{clock, verify};
use crossbeam::channel::{Receiver, Sender, unbounded};
use ledger_core::ulid;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use wire::Role;

/// Appends of one connection whose answers are not sent yet.
const UNDER_WAY_MAX: usize = 64;
/// Subscriptions of one connection.
const SUBSCRIPTIONS_MAX: usize = 8;
/// The same of a user's service: each is a thread, and the manifest bounds those of the ledger.
const SUBSCRIPTIONS_OF_A_USER_MAX: usize = 2;
/// Events of one batch.
const BATCH_MAX: usize = 1024;
/// A peer that takes nothing for this long is dropped.
const WRITE_LIMIT: Duration = Duration::from_secs(30);
/// A call that is silent for this long says that it is under way.
const ACK_AFTER: Duration = Duration::from_millis(50);
/// Progress lines of a long call.
const PROGRESS_EVERY: Duration = Duration::from_secs(1);
/// How often a waiting subscription looks whether its peer is still there.
const WATCH_PERIOD: Duration = Duration::from_millis(500);

/// The writing half, shared by the connection's threads. Whole lines only.
struct Out {
    stream: Mutex<UnixStream>,
    gone: AtomicBool,
}

impl Out {
    /// Writes a line; false once the peer is gone.
    fn line(&self, text: &str) -> bool {
        let mut line = String::with_capacity(text.len() + 1);
        line.push_str(text);
        line.push('\n');
        let mut stream = self.stream.lock().unwrap_or_else(PoisonError::into_inner);
        let written = !self.is_gone() && stream.write_all(line.as_bytes()).is_ok();
        if !written {
            // A line may be half written: nothing can follow it.
            self.gone.store(true, Ordering::Relaxed);
            drop(stream.shutdown(std::net::Shutdown::Both));
        }
        written
    }

    fn is_gone(&self) -> bool {
        self.gone.load(Ordering::Relaxed)
    }
}

/// Serves one connection until the peer goes.
pub fn serve(stream: UnixStream, visit: &Visit, ledger: &Ledger) {
    let role = visit.served().role;
    let Ok(writing) = stream.try_clone() else {
        return;
    };
    if writing.set_write_timeout(Some(WRITE_LIMIT)).is_err() {
        return;
    }
    let out = Arc::new(Out {
        stream: Mutex::new(writing),
        gone: AtomicBool::new(false),
    });
    // Unbounded, yet never longer than UNDER_WAY_MAX.
    let (answers, to_write) = unbounded();
    let theirs = out.clone();
    let writer = std::thread::Builder::new()
        .name("jsonl-answers".to_owned())
        .spawn(move || write_answers(&theirs, &to_write));
    let Ok(writer) = writer else { return };
    let subscriptions = match role {
        Role::User(_) | Role::Stranger(_) => SUBSCRIPTIONS_OF_A_USER_MAX,
        _ => SUBSCRIPTIONS_MAX,
    };
    let mut connection = Connection {
        visit,
        role,
        ledger: ledger.clone(),
        out: out.clone(),
        answers,
        gate: Arc::new(Gate::new(UNDER_WAY_MAX)),
        subscriptions: Arc::new(Gate::new(subscriptions)),
        subscriptions_max: subscriptions,
    };
    let mut lines = BufReader::new(stream);
    let mut line = Vec::new();
    loop {
        line.clear();
        let limit = LINE_BYTES_MAX as u64 + 1;
        match lines.by_ref().take(limit).read_until(b'\n', &mut line) {
            Ok(0) | Err(_) => break,
            Ok(_) => {}
        }
        if line.last() == Some(&b'\n') {
            line.pop();
        } else if line.len() > LINE_BYTES_MAX {
            let limit = format!("at most {LINE_BYTES_MAX} bytes");
            let refusal = Refusal::new("TOO_LARGE", "line", "", &limit);
            connection.refuse(&Json::Null, &refusal);
            break;
        }
        if !line.iter().all(u8::is_ascii_whitespace) {
            connection.request(&line);
        }
        if out.is_gone() {
            break;
        }
        // A line of a megabyte is no reason to keep one at rest.
        line.shrink_to(LINE_KEPT_BYTES);
    }
    drop(connection);
    // Answers to appends under way still go to a peer that only closed its writing half.
    let _ = writer.join();
    out.gone.store(true, Ordering::Relaxed);
}

/// Buffer that a connection keeps between lines.
const LINE_KEPT_BYTES: usize = 16 * 1024;

fn write_answers(out: &Out, answers: &Receiver<(String, Permit)>) {
    for (answer, _permit) in answers {
        out.line(&answer);
    }
}

fn refused(id: &Json, refusal: &Refusal) -> String {
    let error = Json::object([
        ("code", refusal.code.into()),
        ("reason", refusal.reason().as_str().into()),
    ]);
    let members = [("ok", false.into()), ("id", id.clone()), ("error", error)];
    Json::object(members).to_string()
}

fn bad(field: &'static str, limit: &str) -> Refusal {
    Refusal::new("BAD_REQUEST", field, "", limit)
}

fn internal(e: &io::Error) -> Refusal {
    let code = match e.kind() {
        io::ErrorKind::InvalidData => "CORRUPT",
        io::ErrorKind::NotFound => "NOT_FOUND",
        _ => "INTERNAL",
    };
    Refusal::new(code, "log", "", &e.to_string())
}

struct Connection<'v> {
    visit: &'v Visit,
    role: Role,
    ledger: Ledger,
    out: Arc<Out>,
    /// Each with its permit: the queue is never longer than there are.
    answers: Sender<(String, Permit)>,
    gate: Arc<Gate>,
    subscriptions: Arc<Gate>,
    subscriptions_max: usize,
}

impl Connection<'_> {
    fn request(&mut self, line: &[u8]) {
        let parsed = std::str::from_utf8(line)
            .map_err(|_| bad("line", "UTF-8"))
            .and_then(Json::parse);
        let request = match parsed {
            Ok(request @ Json::Object(_)) => request,
            Ok(_) => {
                self.refuse(&Json::Null, &bad("line", "a JSON object"));
                return;
            }
            Err(refusal) => return self.refuse(&Json::Null, &refusal),
        };
        let id = request.get("id").cloned().unwrap_or(Json::Null);
        if !matches!(id, Json::Null | Json::Text(_) | Json::Unsigned(_)) {
            return self.refuse(&Json::Null, &bad("id", "text or a number from 0 on"));
        }
        if let Err(refusal) = self.dispatch(&request, &id) {
            self.refuse(&id, &refusal);
        }
    }

    fn refuse(&self, id: &Json, refusal: &Refusal) {
        // Without the value, which is the peer's.
        self.visit
            .complain(&format!("{} {}", refusal.code, refusal.field));
        self.out.line(&refused(id, refusal));
    }

    fn dispatch(&self, request: &Json, id: &Json) -> Result<(), Refusal> {
        let kind = request.get("type").and_then(Json::text);
        if identity::reads_as(self.role) == Reads::Nothing && kind != Some("ping") {
            let uid = self.role.uid().to_string();
            let limit = "uids that the machine does not know may only ping";
            return Err(Refusal::new("BAD_ACTOR", "uid", &uid, limit));
        }
        match kind {
            Some("append_event") => self.append(request, id),
            Some("query") => self.query(request, id),
            Some("subscribe") => self.subscribe(request, id),
            Some("verify") => self.verify(id),
            Some("head") => {
                self.head(id, &[]);
                Ok(())
            }
            Some("doctor") => {
                self.doctor(id);
                Ok(())
            }
            Some("ping") => {
                self.out
                    .line(&format!("{{\"ok\":true,\"id\":{id},\"pong\":true}}"));
                Ok(())
            }
            _ => Err(bad(
                "type",
                "one of append_event query subscribe verify head doctor ping",
            )),
        }
    }

    fn append(&self, request: &Json, id: &Json) -> Result<(), Refusal> {
        let text = |key: &'static str| {
            let value = request.get(key).and_then(Json::text);
            value.ok_or_else(|| bad(key, "text"))
        };
        let ns = text("ns")?;
        let actor = match text("actor")? {
            bare if !bare.contains(':') => format!("user:{bare}"),
            full => full.to_owned(),
        };
        identity::may_append(self.role, ns, &actor)?;
        identity::may_fill(self.role, self.ledger.standing().end, self.ledger.room())?;
        let (events, batch) = match (request.get("event"), request.get("events")) {
            (Some(one), None) => (std::slice::from_ref(one), false),
            (None, Some(Json::List(many))) => (many.as_slice(), true),
            _ => return Err(bad("event", "an object, or events, a list of them")),
        };
        if events.is_empty() || events.len() > BATCH_MAX {
            let value = events.len().to_string();
            let limit = format!("1 to {BATCH_MAX}");
            return Err(Refusal::new("BAD_REQUEST", "events", &value, &limit));
        }
        let drafts = events
            .iter()
            .map(|event| self.draft(event, ns, &actor))
            .collect::<Result<Vec<_>, _>>()?;
        let permit = self.gate.enter();
        let (answers, id) = (self.answers.clone(), id.clone());
        let reply = move |outcome: Result<Vec<Receipt>, Refusal>| {
            let answer = match outcome {
                Ok(receipts) if batch => {
                    let all: Vec<String> = receipts
                        .iter()
                        .map(|r| format!("{{{}}}", receipt_members(r)))
                        .collect();
                    format!("{{\"ok\":true,\"id\":{id},\"events\":[{}]}}", all.join(","))
                }
                Ok(receipts) => {
                    let members = receipts.first().map(receipt_members).unwrap_or_default();
                    format!("{{\"ok\":true,\"id\":{id},{members}}}")
                }
                Err(refusal) => refused(&id, &refusal),
            };
            // A peer that went does not need its answer.
            drop(answers.send((answer, permit)));
        };
        self.ledger.append(drafts, Box::new(reply));
        Ok(())
    }

    fn draft(&self, event: &Json, ns: &str, actor: &str) -> Result<Draft, Refusal> {
        let Json::Object(members) = event else {
            return Err(bad("event", "an object"));
        };
        let mut draft = Draft {
            origin: None,
            ns: ns.to_owned(),
            actor: actor.to_owned(),
            tenant_id: identity::own_tenant(self.role),
            event_type: String::new(),
            subject: String::new(),
            payload: "{}".to_owned(),
            causation_id: None,
            timestamp_ns: None,
            ulid: None,
        };
        for (key, value) in members {
            let text = |field| {
                value
                    .text()
                    .map(str::to_owned)
                    .ok_or_else(|| bad(field, "text"))
            };
            match (key.as_str(), value) {
                ("event_type" | "type", _) => draft.event_type = text("event_type")?,
                ("tenant_id", _) => draft.tenant_id = text("tenant_id")?,
                ("subject", _) => draft.subject = text("subject")?,
                ("payload", Json::Object(_)) => draft.payload = value.to_string(),
                ("payload", _) => return Err(bad("payload", "an object")),
                ("causation_id", Json::Null) => {}
                ("causation_id", Json::Unsigned(cause)) => draft.causation_id = Some(*cause),
                ("causation_id", _) => return Err(bad("causation_id", "an event id")),
                ("timestamp", Json::Unsigned(ns)) => draft.timestamp_ns = Some(*ns),
                _ => {
                    let limit =
                        "one of event_type tenant_id subject payload causation_id timestamp";
                    return Err(Refusal::new("BAD_REQUEST", "event", key, limit));
                }
            }
        }
        identity::may_append_for(self.role, &draft.tenant_id)?;
        Ok(draft)
    }

    fn filter(&self, request: &Json) -> Result<Filter, Refusal> {
        let mut filter = Filter::parse(request.get("filters"))?;
        filter.restrict(&identity::reads_as(self.role))?;
        Ok(filter)
    }

    fn query(&self, request: &Json, id: &Json) -> Result<(), Refusal> {
        let number = |key: &'static str| match request.get(key) {
            None | Some(Json::Null) => Ok(None),
            Some(Json::Unsigned(n)) => Ok(Some(*n)),
            Some(_) => Err(bad(key, "a number from 0 on")),
        };
        let order = match request.get("order").map(Json::text) {
            None | Some(Some("asc")) => Order::Ascending,
            Some(Some("desc")) => Order::Descending,
            Some(_) => return Err(bad("order", "asc or desc")),
        };
        let filter = self.filter(request)?;
        if filter.causation.is_some() && order == Order::Descending {
            return Err(bad("order", "asc with the filter causation"));
        }
        let limit = number("limit")?.unwrap_or(LIMIT_DEFAULT);
        if limit == 0 || limit > LIMIT_MAX {
            let range = format!("1 to {LIMIT_MAX}");
            return Err(Refusal::new(
                "BAD_REQUEST",
                "limit",
                &limit.to_string(),
                &range,
            ));
        }
        let query = Query {
            filter,
            from: number("from")?,
            limit,
            order,
        };
        let began = Instant::now();
        let mut silent = true;
        let quiet = std::cell::Cell::new(true);
        let ended = query::run(
            &query,
            &mut self.ledger.reader(),
            self.ledger.index(),
            self.ledger.standing().id,
            &mut |event| {
                quiet.set(false);
                self.out.line(&format!("{{\"id\":{id},\"event\":{event}}}"))
            },
            &mut || {
                if silent && quiet.get() && began.elapsed() > ACK_AFTER {
                    silent = false;
                    self.out.line(&format!("{{\"ack\":true,\"id\":{id}}}"));
                }
            },
        )
        .map_err(|e| internal(&e))?;
        let next = ended.next.map_or("null".to_owned(), |n| n.to_string());
        self.out.line(&format!(
            "{{\"ok\":true,\"id\":{id},\"count\":{},\"next\":{next}}}",
            ended.count
        ));
        Ok(())
    }

    fn subscribe(&self, request: &Json, id: &Json) -> Result<(), Refusal> {
        let filter = self.filter(request)?;
        if filter.causation.is_some() {
            return Err(bad("filters", "without causation"));
        }
        let head = self.ledger.standing().id;
        let from = match request.get("from") {
            None | Some(Json::Null) => head + 1,
            Some(Json::Unsigned(id)) => (*id).max(1),
            Some(Json::Text(text)) => {
                from_head(text, head).ok_or_else(|| bad("from", "an event id, HEAD or HEAD-N"))?
            }
            Some(_) => return Err(bad("from", "an event id, HEAD or HEAD-N")),
        };
        let permit = self.subscriptions.try_enter().ok_or_else(|| {
            let limit = format!("at most {} a connection", self.subscriptions_max);
            Refusal::new("QUOTA", "subscriptions", "", &limit)
        })?;
        self.out
            .line(&format!("{{\"ok\":true,\"id\":{id},\"from\":{from}}}"));
        let (ledger, out, id) = (self.ledger.clone(), self.out.clone(), id.clone());
        std::thread::Builder::new()
            .name("subscription".to_owned())
            .spawn(move || {
                follow(&ledger, &out, &id, &filter, from);
                drop(permit);
            })
            .map_err(|e| internal(&e))?;
        Ok(())
    }

    fn verify(&self, id: &Json) -> Result<(), Refusal> {
        self.out.line(&format!("{{\"ack\":true,\"id\":{id}}}"));
        let end = self.ledger.standing().end;
        let mut told = Instant::now();
        let report = verify::verify(&**self.ledger.device(), Some(end), &mut |at| {
            if told.elapsed() >= PROGRESS_EVERY {
                told = Instant::now();
                let percent = at.saturating_mul(100) / end.max(1);
                self.out
                    .line(&format!("{{\"id\":{id},\"progress\":{percent}}}"));
            }
        })
        .map_err(|e| Refusal::new("CORRUPT", "log", "", &e.to_string()))?;
        // What was damaged before the service started stays damaged, though nothing behind it is read.
        let standing = self.ledger.standing();
        let stopped = standing.stopped.map_or("null".to_owned(), |why| {
            Json::from(why.to_string().as_str()).to_string()
        });
        self.out.line(&format!(
            "{{\"ok\":true,\"id\":{id},{},\"stopped\":{stopped}}}",
            report.members()
        ));
        Ok(())
    }

    fn head(&self, id: &Json, more: &[(&str, Json)]) {
        let standing = self.ledger.standing();
        let stopped = standing.stopped.as_ref();
        let mut members = vec![
            ("ok".to_owned(), true.into()),
            ("id".to_owned(), id.clone()),
            ("event_id".to_owned(), standing.id.into()),
            ("commit_id".to_owned(), hex(&standing.chain).as_str().into()),
            ("root".to_owned(), hex(&standing.root).as_str().into()),
            ("writable".to_owned(), stopped.is_none().into()),
            (
                "stopped".to_owned(),
                stopped.map_or(Json::Null, |why| why.to_string().as_str().into()),
            ),
        ];
        members.extend(more.iter().map(|(k, v)| ((*k).to_owned(), v.clone())));
        self.out
            .line(&Json::Object(members.into_iter().collect()).to_string());
    }

    fn doctor(&self, id: &Json) {
        let superblock = self.ledger.superblock();
        let standing = self.ledger.standing();
        let room = self.ledger.room();
        let percent = standing.end.saturating_mul(100) / room.max(1);
        self.head(
            id,
            &[
                ("bytes_used", standing.end.into()),
                ("bytes_max", room.into()),
                ("percent_used", percent.into()),
                ("segment_bytes", superblock.segment_bytes.into()),
                ("created_wall_ns", superblock.created_wall_ns.into()),
                ("wall_ns", clock::wall_ns().into()),
                ("groups", standing.groups.into()),
                ("queued_bytes", (self.ledger.queued_bytes() as u64).into()),
            ],
        );
    }
}

fn receipt_members(receipt: &Receipt) -> String {
    format!(
        "\"event_id\":{},\"commit_id\":\"{}\",\"ulid\":\"{}\"",
        receipt.id,
        hex(&receipt.commit_id),
        ulid::text(&receipt.ulid)
    )
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
fn follow(ledger: &Ledger, out: &Out, id: &Json, filter: &Filter, mut next: u64) {
    let mut reader = ledger.reader();
    loop {
        let standing = ledger.wait_past(next - 1, WATCH_PERIOD);
        reader.refresh();
        while next <= standing.id {
            let event = reader.event(next, |event_id, chain, body| {
                filter
                    .matches(body)
                    .then(|| event_json(event_id, chain, body))
            });
            let sent = match event {
                Ok(Some(event)) => out.line(&format!("{{\"id\":{id},\"event\":{event}}}")),
                Ok(None) => !out.is_gone(),
                Err(e) => {
                    out.line(&refused(id, &internal(&e)));
                    false
                }
            };
            if !sent {
                return;
            }
            next += 1;
        }
        if standing.closing || out.is_gone() {
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
