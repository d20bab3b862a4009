//! A log made of exported lines: the same ids and contents, a chain of its own, and an event that says so.
//!
//! The chain cannot come along: another log has another id. Signatures of events do, since they are over what the
//! event says. What the ledger itself wrote of its own log (epochs, compactions, recoveries) would be untrue here and
//! becomes `custom(TYPE)`.

use crate::clock;
use crate::device::Device;
use crate::json::{self, Json};
use crate::log::{Birth, Log};
use ledger_core::keys::{self, SIG_BYTES, bytes_of};
use ledger_core::{Body, kinds, rules, time, ulid};
use std::io::BufRead;
use std::sync::Arc;

/// Event type of the last event.
const IMPORTED: &str = "log.imported";
/// Events of one group.
const GROUP_EVENTS: u32 = 1024;

/// What was imported.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Imported {
    /// Events; one more says that they are imported.
    pub events: u64,
}

/// Writes the lines into a blank log. `progress` gets the events so far.
///
/// # Errors
/// The line that is not as an export writes it, or what the system said. The log then holds the events before it.
pub fn import(
    lines: &mut dyn BufRead,
    device: Arc<dyn Device>,
    progress: &mut dyn FnMut(u64),
) -> Result<Imported, String> {
    let birth = Birth::now();
    let (mut log, _) = Log::open(device, &birth, &mut |_| ()).map_err(|e| e.to_string())?;
    if log.head().id != 0 {
        return Err(format!("the log holds {} events already", log.head().id));
    }
    let mut group = log.group();
    let mut hasher = blake3::Hasher::new();
    let (mut line, mut count, mut last_commit) = (String::new(), 0u64, String::new());
    loop {
        line.clear();
        let read = lines.read_line(&mut line);
        if read.map_err(|e| format!("line {}: {e}", count + 1))? == 0 {
            break;
        }
        hasher.update(line.as_bytes());
        let expected = count + 1;
        let event = Json::stored(line.trim_end())
            .map_err(|e| e.to_string())
            .and_then(|event| Line::parse(&event, expected))
            .map_err(|why| format!("line {expected}: {why}"))?;
        push(&mut log, &mut group, &event.body())?;
        if group.count() >= GROUP_EVENTS {
            commit(&mut log, &mut group)?;
        }
        count = expected;
        last_commit = event.commit_id;
        progress(count);
    }
    let hash = hasher.finalize().to_hex();
    let payload =
        format!("{{\"commit_id\":\"{last_commit}\",\"events\":{count},\"lines\":\"{hash}\"}}");
    let said = Line {
        timestamp_ns: clock::monotonic_ns(),
        wall_ns: clock::wall_ns(),
        ulid: ulid::compose(clock::wall_ns(), clock::random()),
        ns: ledger_core::LEDGER_NS.to_owned(),
        actor: ledger_core::LEDGER_ACTOR.to_owned(),
        tenant_id: ledger_core::LEDGER_TENANT.to_owned(),
        event_type: IMPORTED.to_owned(),
        subject: "log".to_owned(),
        payload,
        causation_id: None,
        commit_id: String::new(),
        sig: None,
    };
    push(&mut log, &mut group, &said.body())?;
    commit(&mut log, &mut group)?;
    Ok(Imported { events: count })
}

fn push(
    log: &mut Log,
    group: &mut ledger_core::GroupBuilder,
    body: &Body<'_>,
) -> Result<(), String> {
    if group.push(body).is_some() {
        return Ok(());
    }
    // The group or its segment is full.
    commit(log, group)?;
    if group.push(body).is_some() {
        return Ok(());
    }
    log.next_segment().map_err(|e| e.to_string())?;
    *group = log.group();
    let pushed = group.push(body);
    pushed
        .map(drop)
        .ok_or_else(|| "an event fits no group".to_owned())
}

fn commit(log: &mut Log, group: &mut ledger_core::GroupBuilder) -> Result<(), String> {
    if group.count() > 0 {
        let full = std::mem::replace(group, log.group());
        log.commit(full).map_err(|e| e.to_string())?;
        *group = log.group();
    }
    Ok(())
}

/// One line, read.
struct Line {
    timestamp_ns: u64,
    wall_ns: u64,
    ulid: [u8; 16],
    ns: String,
    actor: String,
    tenant_id: String,
    event_type: String,
    subject: String,
    payload: String,
    causation_id: Option<u64>,
    commit_id: String,
    sig: Option<Vec<u8>>,
}

/// What a line has; a member that is none of these would be lost.
const MEMBERS: [&str; 13] = [
    "actor",
    "causation_id",
    "commit_id",
    "event_type",
    "id",
    "ns",
    "payload",
    "sig",
    "subject",
    "tenant_id",
    "timestamp",
    "ulid",
    "wall_clock",
];

impl Line {
    fn parse(event: &Json, expected: u64) -> Result<Self, String> {
        let missing = |key: &str| format!("{key} is missing or not as exported");
        let text = |key: &str| {
            let text = event.get(key).and_then(Json::text).map(str::to_owned);
            text.ok_or_else(|| missing(key))
        };
        let id = event.get("id").and_then(Json::unsigned);
        if id != Some(expected) {
            let found = id.map_or("none".to_owned(), |id| id.to_string());
            return Err(format!("id is {found}, expected {expected}"));
        }
        let Json::Object(members) = event else {
            return Err("no object".to_owned());
        };
        if let Some(key) = members.keys().find(|key| !MEMBERS.contains(&key.as_str())) {
            return Err(format!("{key:?} is no member of an exported event"));
        }
        let event_type = text("event_type")?;
        let own = ["epoch.", "log.", "recovered"];
        let is_own = own.iter().any(|prefix| event_type.starts_with(prefix));
        let payload = event.get("payload").ok_or_else(|| missing("payload"))?;
        let this = Self {
            timestamp_ns: event
                .get("timestamp")
                .and_then(Json::unsigned)
                .ok_or_else(|| missing("timestamp"))?,
            wall_ns: time::parse_rfc3339(&text("wall_clock")?)
                .ok_or_else(|| missing("wall_clock"))?,
            ulid: ulid::parse(&text("ulid")?).ok_or_else(|| missing("ulid"))?,
            ns: text("ns")?,
            actor: text("actor")?,
            tenant_id: text("tenant_id")?,
            event_type: match is_own && kinds::reserved(&event_type).is_some() {
                true => format!("custom({event_type})"),
                false => event_type,
            },
            subject: text("subject")?,
            payload: json::payload_text(payload).map_err(|r| r.reason())?,
            causation_id: match event.get("causation_id") {
                None | Some(Json::Null) => None,
                Some(cause) => Some(cause.unsigned().ok_or_else(|| missing("causation_id"))?),
            },
            commit_id: text("commit_id")?,
            sig: match event.get("sig") {
                None => None,
                // The key, and what it signed.
                Some(sig) => {
                    let bytes = sig.text().and_then(bytes_of::<SIG_BYTES>);
                    Some(bytes.ok_or_else(|| missing("sig"))?.to_vec())
                }
            },
        };
        let hex = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
        if this.commit_id.len() != 64 || !this.commit_id.bytes().all(hex) {
            return Err(missing("commit_id"));
        }
        rules::stored(&this.body(), expected).map_err(|broken| broken.to_string())?;
        if this.sig.is_some() && !keys::holds(&this.body()) {
            return Err("sig does not hold".to_owned());
        }
        Ok(this)
    }

    fn body(&self) -> Body<'_> {
        Body {
            timestamp_ns: self.timestamp_ns,
            wall_ns: self.wall_ns,
            ulid: self.ulid,
            tenant_tag: [0; 8],
            ns: &self.ns,
            actor: &self.actor,
            tenant_id: &self.tenant_id,
            event_type: &self.event_type,
            subject: &self.subject,
            payload: &self.payload,
            causation_id: self.causation_id,
            origin: None,
            sig: self.sig.as_deref(),
        }
    }
}
