//! Client of the ledger's JSON lines: what `ledger.wire` has no frames for. Queries, subscriptions, consumers of the
//! bus and their acknowledgements, folds.
//!
//! Owns one connection. A subscription's lines and the answers to other calls come over it in any order: what is not
//! waited for yet is kept. Payloads are canonical JSON as text; what they mean is the asker's.
//!
//! Never here: retries. After any error but [`IpcError::Refused`] drop the client and connect again: what a consumer
//! held is given again, and repeats of every call are harmless. Start with [`Lines::query`], [`Lines::consume`].

use crate::IpcError;
use ledger_core::json::Json;
use std::collections::VecDeque;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;
use sys::packet::connect_stream_within;

/// File name of the socket in the run folder.
pub const SOCKET_NAME: &str = "ledger.sock";
/// The longest line that a ledger tells: what it takes, and what it puts around that.
const LINE_BYTES_MAX: u64 = 5 << 20;
/// Messages that a consumer may hold.
pub const IN_FLIGHT_MAX: u64 = 256;

/// A connection to `ledger.sock`, one question at a time.
pub struct Lines {
    reader: BufReader<UnixStream>,
    limit: Duration,
    last_id: u64,
}

/// Which events are wanted; empty texts say nothing.
#[derive(Debug, Clone, Copy, Default)]
pub struct Filters<'a> {
    /// Type.
    pub event_type: &'a str,
    /// Tenant.
    pub tenant_id: &'a str,
    /// Actor.
    pub actor: &'a str,
    /// Namespace.
    pub ns: &'a str,
    /// Subject.
    pub subject: &'a str,
}

/// An event as the ledger tells it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// Its gap-free id.
    pub id: u64,
    /// Namespace.
    pub ns: String,
    /// Actor.
    pub actor: String,
    /// Tenant.
    pub tenant_id: String,
    /// Type.
    pub event_type: String,
    /// Subject.
    pub subject: String,
    /// Canonical JSON.
    pub payload: String,
}

/// What a fold came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Folded {
    /// The last event of it.
    pub event_id: u64,
    /// BLAKE3 of the state, in hexadecimal.
    pub state_root: String,
    /// Canonical JSON; `null` for one that is too long to tell.
    pub state: String,
}

/// What somebody consumes.
#[derive(Debug, Clone, Copy)]
pub struct Consume<'a> {
    /// Of which topic.
    pub topic: &'a str,
    /// Under which name: all connections of one share the messages.
    pub consumer: &'a str,
    /// From which event on, where the name is new.
    pub from: u64,
    /// How long a message is held for it.
    pub lease: Duration,
    /// Messages that it may hold, at most [`IN_FLIGHT_MAX`].
    pub in_flight: u64,
}

/// A message that is held until it is acknowledged, or its lease ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// Its name.
    pub ulid: String,
    /// Its event.
    pub event_id: u64,
    /// Who published it.
    pub actor: String,
    /// How often it was given, from 1 on.
    pub attempt: u64,
    /// An object of texts, as canonical JSON.
    pub headers: String,
    /// Canonical JSON.
    pub payload: String,
}

/// An event that is to be there exactly if the acknowledgement is.
#[derive(Debug, Clone, Copy)]
pub struct Effect<'a> {
    /// Type.
    pub event_type: &'a str,
    /// Subject.
    pub subject: &'a str,
    /// A JSON object.
    pub payload: &'a str,
}

/// The acknowledgement is durable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Acked {
    /// Whether it was there already: then its effects were, too, and none was appended now.
    pub repeated: bool,
    /// The effects' events.
    pub events: Vec<u64>,
}

impl Lines {
    /// Connects; the ledger may be silent for `limit`, and no longer.
    ///
    /// # Errors
    /// [`IpcError::Io`].
    pub fn connect(path: &Path, limit: Duration) -> Result<Self, IpcError> {
        let stream = connect_stream_within(path, limit)?;
        stream.set_write_timeout(Some(limit))?;
        stream.set_read_timeout(Some(limit))?;
        Ok(Self {
            reader: BufReader::new(stream),
            limit,
            last_id: 0,
        })
    }

    /// Events in the order of their ids from `from` on, at most `count`; answers where to go on.
    ///
    /// # Errors
    /// [`IpcError`].
    pub fn query(
        &mut self,
        filters: &Filters<'_>,
        from: u64,
        count: u64,
        mut each: impl FnMut(Event),
    ) -> Result<Option<u64>, IpcError> {
        let request = [
            ("filters", filters.json()),
            ("from", from.into()),
            ("limit", count.into()),
        ];
        let answer = self.ask("query", request, &mut |line| {
            if let Some(event) = line.get("event") {
                each(Event::of(event)?);
            }
            Ok(())
        })?;
        Ok(answer.get("next").and_then(Json::unsigned))
    }

    /// What the events of a namespace add up to; `spec` is the definition's JSON.
    ///
    /// # Errors
    /// [`IpcError`].
    pub fn fold(&mut self, ns: &str, channel: &str, spec: &str) -> Result<Folded, IpcError> {
        let spec = Json::parse(spec).map_err(|_| malformed("spec"))?;
        let request = [
            ("ns", ns.into()),
            ("channel", channel.into()),
            ("spec", spec),
        ];
        let answer = self.ask("fold_state", request, &mut |_| Ok(()))?;
        Ok(Folded {
            event_id: number(&answer, "event_id")?,
            state_root: text(&answer, "state_root")?,
            state: answer.get("state").unwrap_or(&Json::Null).to_string(),
        })
    }

    /// Goes on with the events that match, from `from` on and as they become durable.
    ///
    /// # Errors
    /// [`IpcError`].
    pub fn subscribe(mut self, filters: &Filters<'_>, from: u64) -> Result<Subscription, IpcError> {
        let request = [("filters", filters.json()), ("from", from.into())];
        let mut early = VecDeque::new();
        self.ask("subscribe", request, &mut |line| {
            early.push_back(line);
            Ok(())
        })?;
        Ok(Subscription { lines: self, early })
    }

    /// Consumes a topic.
    ///
    /// # Errors
    /// [`IpcError`].
    pub fn consume(mut self, what: &Consume<'_>) -> Result<Consumer, IpcError> {
        let lease_ms = u64::try_from(what.lease.as_millis()).unwrap_or(u64::MAX);
        let request = [
            ("topic", what.topic.into()),
            ("consumer", what.consumer.into()),
            ("from", what.from.into()),
            ("lease_ms", lease_ms.into()),
            ("in_flight", what.in_flight.into()),
        ];
        let mut early = VecDeque::new();
        self.ask("bus.subscribe", request, &mut |line| {
            early.push_back(line);
            Ok(())
        })?;
        Ok(Consumer {
            lines: self,
            early,
            topic: what.topic.to_owned(),
            name: what.consumer.to_owned(),
        })
    }

    /// Sends a call and waits for its answer; lines that come before it go to `other`.
    fn ask<const N: usize>(
        &mut self,
        kind: &str,
        members: [(&str, Json); N],
        other: &mut dyn FnMut(Json) -> Result<(), IpcError>,
    ) -> Result<Json, IpcError> {
        self.last_id += 1;
        let id = self.last_id;
        let Json::Object(mut request) = Json::object(members) else {
            return Err(malformed("request"));
        };
        request.insert("type".to_owned(), kind.into());
        request.insert("id".to_owned(), id.into());
        let line = format!("{}\n", Json::Object(request));
        self.reader.get_mut().write_all(line.as_bytes())?;
        loop {
            let line = self.line()?;
            let own = line.get("id").and_then(Json::unsigned) == Some(id);
            match line.get("ok") {
                Some(Json::Bool(true)) if own => return Ok(line),
                // What it could not read has no id.
                Some(_) if own || line.get("id") == Some(&Json::Null) => {
                    return Err(refusal(&line));
                }
                // It is under way, or how far it is.
                None if own && line.get("event").is_none() && line.get("message").is_none() => {}
                _ => other(line)?,
            }
        }
    }

    fn line(&mut self) -> Result<Json, IpcError> {
        let mut text = String::new();
        let read = self
            .reader
            .by_ref()
            .take(LINE_BYTES_MAX)
            .read_line(&mut text)?;
        match (read, text.ends_with('\n')) {
            (0, _) => Err(IpcError::Closed),
            (_, false) => Err(malformed("line")),
            _ => Json::stored(&text).map_err(|_| malformed("line")),
        }
    }

    /// The next line, if one comes in this time.
    fn line_within(&mut self, patience: Duration) -> Result<Option<Json>, IpcError> {
        // What began must end within the limit: a half line would be lost.
        if self.reader.buffer().is_empty() {
            let stream = self.reader.get_ref();
            stream.set_read_timeout(Some(patience.max(Duration::from_millis(1))))?;
            let filled = self.reader.fill_buf().map(drop);
            self.reader.get_ref().set_read_timeout(Some(self.limit))?;
            match filled {
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(None),
                other => other?,
            }
        }
        let line = self.line()?;
        match line.get("ok") {
            // A subscription's last line.
            Some(Json::Bool(false)) => Err(refusal(&line)),
            _ => Ok(Some(line)),
        }
    }
}

/// Events as they become durable.
pub struct Subscription {
    lines: Lines,
    early: VecDeque<Json>,
}

impl Subscription {
    /// The next event; `None` if none comes in this time.
    ///
    /// # Errors
    /// [`IpcError`]; [`IpcError::Refused`] where the ledger ends it.
    pub fn next(&mut self, patience: Duration) -> Result<Option<Event>, IpcError> {
        let line = match self.early.pop_front() {
            Some(line) => Some(line),
            None => self.lines.line_within(patience)?,
        };
        let event = line.as_ref().and_then(|line| line.get("event"));
        event.map(Event::of).transpose()
    }
}

/// A consumer of one topic.
pub struct Consumer {
    lines: Lines,
    early: VecDeque<Json>,
    topic: String,
    name: String,
}

impl Consumer {
    /// The next message; `None` if none comes in this time.
    ///
    /// # Errors
    /// [`IpcError`]; [`IpcError::Refused`] where the ledger ends it.
    pub fn next(&mut self, patience: Duration) -> Result<Option<Message>, IpcError> {
        let line = match self.early.pop_front() {
            Some(line) => Some(line),
            None => self.lines.line_within(patience)?,
        };
        let message = line.as_ref().and_then(|line| line.get("message"));
        message.map(Message::of).transpose()
    }

    /// Acknowledges a message and waits until that is durable.
    ///
    /// # Errors
    /// [`IpcError`].
    pub fn ack(&mut self, message: &Message) -> Result<Acked, IpcError> {
        let Self {
            lines,
            early,
            topic,
            name,
        } = self;
        let request = [
            ("topic", topic.as_str().into()),
            ("consumer", name.as_str().into()),
            ("ulid", message.ulid.as_str().into()),
        ];
        let answer = lines.ask("bus.ack", request, &mut |line| keep(early, line))?;
        Acked::of(&answer)
    }

    /// Acknowledges a message together with its effects: all are appended under these names, or nothing is.
    ///
    /// # Errors
    /// [`IpcError`].
    pub fn ack_with(
        &mut self,
        message: &Message,
        ns: &str,
        actor: &str,
        effects: &[Effect<'_>],
    ) -> Result<Acked, IpcError> {
        let events = effects.iter().map(Effect::json);
        let events = events.collect::<Result<Vec<Json>, IpcError>>()?;
        let Self {
            lines,
            early,
            topic,
            name,
        } = self;
        let request = [
            ("topic", topic.as_str().into()),
            ("consumer", name.as_str().into()),
            ("ulid", message.ulid.as_str().into()),
            ("ns", ns.into()),
            ("actor", actor.into()),
            ("events", Json::List(events)),
        ];
        let answer = lines.ask("bus.ack", request, &mut |line| keep(early, line))?;
        Acked::of(&answer)
    }

    /// Says that a quorum of consumers has acknowledged a message.
    ///
    /// # Errors
    /// [`IpcError`]; `NOT_QUORATE` where it has not.
    pub fn commit(&mut self, message: &Message, quorum: u64) -> Result<(), IpcError> {
        let Self {
            lines,
            early,
            topic,
            ..
        } = self;
        let request = [
            ("topic", topic.as_str().into()),
            ("msg_ulid", message.ulid.as_str().into()),
            ("quorum", quorum.into()),
        ];
        lines.ask("bus.commit", request, &mut |line| keep(early, line))?;
        Ok(())
    }
}

/// Keeps a message that came while something else was waited for: at most as many as are held.
fn keep(early: &mut VecDeque<Json>, line: Json) -> Result<(), IpcError> {
    if matches!(line.get("ok"), Some(Json::Bool(false))) {
        return Err(refusal(&line));
    }
    if early.len() as u64 >= IN_FLIGHT_MAX {
        return Err(malformed("messages"));
    }
    early.push_back(line);
    Ok(())
}

impl Filters<'_> {
    fn json(&self) -> Json {
        let all = [
            ("event_type", self.event_type),
            ("tenant_id", self.tenant_id),
            ("actor", self.actor),
            ("ns", self.ns),
            ("subject", self.subject),
        ];
        let said = all.into_iter().filter(|(_, value)| !value.is_empty());
        Json::Object(
            said.map(|(key, value)| (key.to_owned(), value.into()))
                .collect(),
        )
    }
}

impl Event {
    fn of(json: &Json) -> Result<Self, IpcError> {
        Ok(Self {
            id: number(json, "id")?,
            ns: text(json, "ns")?,
            actor: text(json, "actor")?,
            tenant_id: text(json, "tenant_id")?,
            event_type: text(json, "event_type")?,
            subject: text(json, "subject")?,
            payload: json.get("payload").unwrap_or(&Json::Null).to_string(),
        })
    }
}

impl Message {
    fn of(json: &Json) -> Result<Self, IpcError> {
        let part = |key| json.get(key).unwrap_or(&Json::Null).to_string();
        Ok(Self {
            ulid: text(json, "ulid")?,
            event_id: number(json, "event_id")?,
            actor: text(json, "actor")?,
            attempt: number(json, "attempt")?,
            headers: part("headers"),
            payload: part("payload"),
        })
    }
}

impl Effect<'_> {
    fn json(&self) -> Result<Json, IpcError> {
        let payload = Json::part(self.payload).map_err(|_| malformed("payload"))?;
        Ok(Json::object([
            ("event_type", self.event_type.into()),
            ("subject", self.subject.into()),
            ("payload", payload),
        ]))
    }
}

impl Acked {
    fn of(answer: &Json) -> Result<Self, IpcError> {
        let events = match answer.get("events") {
            Some(Json::List(events)) => events.iter().map(|e| number(e, "event_id")).collect(),
            _ => Ok(Vec::new()),
        };
        Ok(Self {
            repeated: answer.get("repeated") == Some(&Json::Bool(true)),
            events: events?,
        })
    }
}

fn number(json: &Json, key: &'static str) -> Result<u64, IpcError> {
    let found = json.get(key).and_then(Json::unsigned);
    found.ok_or_else(|| malformed(key))
}

fn text(json: &Json, key: &'static str) -> Result<String, IpcError> {
    let found = json.get(key).and_then(Json::text);
    found.map(str::to_owned).ok_or_else(|| malformed(key))
}

fn malformed(what: &str) -> IpcError {
    io::Error::new(
        io::ErrorKind::InvalidData,
        format!("{what}: not as the ledger tells it"),
    )
    .into()
}

fn refusal(line: &Json) -> IpcError {
    let error = line.get("error");
    let text = |key| error.and_then(|e| e.get(key)).and_then(Json::text);
    IpcError::Refused {
        code: text("code").unwrap_or_default().to_owned(),
        field: String::new(),
        value: String::new(),
        limit: text("reason").unwrap_or_default().to_owned(),
    }
}
