//! The ledger over HTTP: its JSON lines for whoever holds a token with permission `ledger`.
//!
//! Owns the conversations on `ledger.sock`: each request of ours is a connection there, and each line that goes over
//! it says for whom (`"as"`), so that the ledger itself keeps tenants apart. What the lines mean is the ledger's.
//!
//! Never here: HTTP's own rules ([`crate::http`]), who may ask ([`crate::call`]). Start with [`Journal::ask`] for one
//! answer and [`Journal::converse`] for a stream.

use crate::peers::Who;
use hyper::body::Bytes;
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};

/// Conversations at once: each is two threads in the ledger, which bounds its own.
pub const CONVERSATIONS_MAX: usize = 24;
/// Those of one tenant: the rest is for others, however long its subscriptions last.
pub const CONVERSATIONS_OF_A_TENANT_MAX: usize = 8;
/// Lines of one request: each may be a group commit.
pub const LINES_MAX: usize = 256;
/// Longest answer to a question of one line: that of any other request here.
pub const ANSWER_BYTES_MAX: usize = crate::http::RESPONSE_BYTES_MAX;
/// For one answer.
pub const ASK_TIME_MAX: Duration = Duration::from_secs(10);
/// For a stream: whoever subscribes comes again with the id of the next event.
pub const CONVERSE_TIME_MAX: Duration = Duration::from_secs(600);
/// Pieces of a stream that a slow client makes wait, each of at most [`PIECE_BYTES`].
const PIECES_WAITING_MAX: usize = 4;
const PIECE_BYTES: usize = 16 << 10;

/// Why the ledger gave no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Trouble {
    /// Nobody answers on its socket, or not in time.
    #[error("the ledger does not answer")]
    Unavailable,
    /// [`CONVERSATIONS_MAX`].
    #[error(
        "{CONVERSATIONS_MAX} conversations with the ledger are under way, or {CONVERSATIONS_OF_A_TENANT_MAX} of this tenant"
    )]
    Busy,
    /// The lines are none.
    #[error("{0}")]
    Malformed(String),
    /// It refused.
    #[error("{code}: {reason}")]
    Refused {
        /// Its stable code.
        code: String,
        /// For people.
        reason: String,
    },
}

impl Trouble {
    /// The code under which HTTP knows it.
    #[must_use]
    pub fn code(&self) -> &'static str {
        let refused = match self {
            Self::Unavailable => return "ledger_unavailable",
            Self::Busy => return "overloaded",
            Self::Malformed(_) => return "invalid_request",
            Self::Refused { code, .. } => code.as_str(),
        };
        match refused {
            "NOT_FOUND" => "not_found",
            "POLICY_DENY" | "BAD_ACTOR" | "BAD_NS" => "not_permitted_by_token",
            "TOO_LARGE" => "body_too_large",
            "QUOTA" => "quota",
            "READ_ONLY" => "ledger_unavailable",
            "CORRUPT" | "INTERNAL" => "internal",
            _ => "bad_request",
        }
    }
}

/// What is looked at of a line of the ledger's. Events are passed on as they are: their payloads are strangers', and as
/// values they would take up to ninety times their bytes.
#[derive(serde::Deserialize)]
struct Line<'l> {
    #[serde(default)]
    ok: Option<bool>,
    #[serde(borrow, default)]
    event: Option<&'l RawValue>,
}

/// The way to the ledger's JSON lines.
#[derive(Debug)]
pub struct Journal {
    socket: PathBuf,
    places: Arc<Semaphore>,
    /// Those of each tenant that has any.
    of_tenants: Mutex<BTreeMap<String, Weak<Semaphore>>>,
    stopping: watch::Sender<bool>,
}

/// What a token's holder wants to say, each line made out in its name.
#[derive(Debug)]
pub struct Lines {
    text: Vec<u8>,
    /// Whose; empty for the gateway's own.
    tenant: String,
    said: Vec<Said>,
}

/// One line of them.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Said {
    /// Where it ends in the text.
    end: usize,
    /// Its id as JSON, `null` where it has none that the ledger takes.
    id: String,
    /// Whether it asks for a subscription.
    follows: bool,
}

impl Lines {
    /// Reads lines that somebody sent, and says in each for whom it is.
    ///
    /// # Errors
    /// [`Trouble::Malformed`], naming the line.
    pub fn of(who: &Who, body: &[u8]) -> Result<Self, Trouble> {
        let mut lines = Self {
            text: Vec::with_capacity(body.len() + 128),
            tenant: who.tenant_id.clone(),
            said: Vec::new(),
        };
        for (at, line) in body.split(|b| *b == b'\n').enumerate() {
            if line.iter().all(u8::is_ascii_whitespace) {
                continue;
            }
            let bad = |what: &str| Trouble::Malformed(format!("line {}: {what}", at + 1));
            let value = crate::strict::parse(line).map_err(|e| bad(&e.to_string()))?;
            let Value::Object(mut members) = value else {
                return Err(bad("a JSON object is needed"));
            };
            if members.contains_key("as") {
                return Err(bad("as: the token says for whom"));
            }
            if lines.said.len() == LINES_MAX {
                return Err(bad(&format!("at most {LINES_MAX} lines")));
            }
            lines.add(who, &mut members);
        }
        if lines.said.is_empty() {
            return Err(Trouble::Malformed("no line".to_owned()));
        }
        Ok(lines)
    }

    fn one(who: &Who, mut members: Map<String, Value>) -> Self {
        let mut lines = Self {
            text: Vec::new(),
            tenant: who.tenant_id.clone(),
            said: Vec::new(),
        };
        lines.add(who, &mut members);
        lines
    }

    /// How many there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.said.len()
    }

    /// Keeps the first lines, and answers the refusal of each of the others.
    pub fn keep(&mut self, count: usize, code: &str, reason: &str) -> Vec<u8> {
        let mut refusals = Vec::new();
        for line in self.said.iter().skip(count) {
            let error = json!({ "code": code, "reason": reason });
            let refusal = format!("{{\"ok\":false,\"id\":{},\"error\":{error}}}\n", line.id);
            refusals.extend_from_slice(refusal.as_bytes());
        }
        self.said.truncate(count);
        self.text.truncate(self.said.last().map_or(0, |s| s.end));
        refusals
    }

    fn add(&mut self, who: &Who, members: &mut Map<String, Value>) {
        let kind = members.get("type").and_then(Value::as_str);
        let follows = matches!(kind, Some("subscribe" | "bus.subscribe"));
        let id = members.get("id").filter(|id| id.is_string() || id.is_u64());
        let id = id.unwrap_or(&Value::Null).to_string();
        let holder = json!({ "actor": who.actor, "tenant": who.tenant_id });
        members.insert("as".to_owned(), holder);
        // A map of values always has a text.
        self.text
            .extend(serde_json::to_vec(members).unwrap_or_default());
        self.text.push(b'\n');
        let end = self.text.len();
        self.said.push(Said { end, id, follows });
    }
}

/// Bytes of an answer that are looked at: that to a subscription repeats an id, and says little beside it.
const LOOKED_AT_BYTES_MAX: usize = 16 << 10;

/// Whether anything may still come of the subscriptions among a request's lines.
struct Following {
    /// Their ids.
    ids: Vec<String>,
    /// Lines that have no answer yet.
    unanswered: usize,
    /// Whether one was not refused.
    accepted: bool,
    /// The beginning of a line whose end is to come.
    line: Vec<u8>,
}

/// An answer's beginning.
#[derive(serde::Deserialize)]
struct Answered {
    ok: bool,
    id: Value,
}

impl Following {
    fn of(said: &[Said]) -> Self {
        let follows = said.iter().filter(|line| line.follows);
        Self {
            ids: follows.map(|line| line.id.clone()).collect(),
            unanswered: said.len(),
            accepted: false,
            line: Vec::new(),
        }
    }

    fn goes_on(&self) -> bool {
        !self.ids.is_empty() && (self.accepted || self.unanswered > 0)
    }

    /// Looks at what the ledger says.
    fn look(&mut self, mut piece: &[u8]) {
        while let Some(end) = piece.iter().position(|byte| *byte == b'\n')
            && !self.accepted
        {
            let (rest, after) = piece.split_at(end);
            self.keep(rest);
            piece = after.get(1..).unwrap_or_default();
            self.judge();
            self.line.clear();
        }
        self.keep(piece);
    }

    fn keep(&mut self, part: &[u8]) {
        let room = LOOKED_AT_BYTES_MAX.saturating_sub(self.line.len());
        self.line.extend(part.iter().take(room));
    }

    /// A whole line, or the beginning of a long one. The ledger's answers begin with `ok`, and nothing else of it does.
    fn judge(&mut self) {
        if !self.line.starts_with(b"{\"ok\":") {
            return;
        }
        self.unanswered = self.unanswered.saturating_sub(1);
        self.accepted |= match serde_json::from_slice(&self.line) {
            Ok(Answered { ok, id }) => ok && self.ids.contains(&id.to_string()),
            // Too long for a subscription's, unless that is its id.
            Err(_) => self
                .ids
                .iter()
                .any(|id| id.len() >= LOOKED_AT_BYTES_MAX / 2),
        };
    }
}

impl Journal {
    /// To the ledger on this socket.
    #[must_use]
    pub fn new(socket: PathBuf) -> Self {
        Self {
            socket,
            places: Arc::new(Semaphore::new(CONVERSATIONS_MAX)),
            of_tenants: Mutex::default(),
            stopping: watch::channel(false).0,
        }
    }

    /// Ends the streams: the gateway stops.
    pub fn stop(&self) {
        self.stopping.send_replace(true);
    }

    /// Asks one question; what comes before the answer is given too: the events of a query.
    ///
    /// # Errors
    /// [`Trouble`].
    pub async fn ask(
        &self,
        who: Option<&Who>,
        kind: &str,
        members: Map<String, Value>,
    ) -> Result<(Vec<Box<RawValue>>, Map<String, Value>), Trouble> {
        let mut members = members;
        members.insert("type".to_owned(), kind.into());
        let lines = match who {
            Some(who) => Lines::one(who, members),
            // The gateway's own question.
            None => Lines {
                text: [Value::Object(members).to_string().as_bytes(), b"\n"].concat(),
                tenant: String::new(),
                said: Vec::new(),
            },
        };
        let asked = self.answer(&lines);
        let answered = tokio::time::timeout(ASK_TIME_MAX, asked).await;
        answered.unwrap_or(Err(Trouble::Unavailable))
    }

    async fn answer(
        &self,
        lines: &Lines,
    ) -> Result<(Vec<Box<RawValue>>, Map<String, Value>), Trouble> {
        let _place = self.place(&lines.tenant)?;
        let gone = |_| Trouble::Unavailable;
        let mut stream = UnixStream::connect(&self.socket).await.map_err(gone)?;
        stream.write_all(&lines.text).await.map_err(gone)?;
        let mut reader = BufReader::new(stream).take(ANSWER_BYTES_MAX as u64);
        let (mut before, mut line) = (Vec::new(), Vec::new());
        loop {
            line.clear();
            reader.read_until(b'\n', &mut line).await.map_err(gone)?;
            if reader.limit() == 0 && !line.ends_with(b"\n") {
                return Err(Trouble::Malformed(format!(
                    "the answer is over {ANSWER_BYTES_MAX} bytes: ask for fewer with limit"
                )));
            }
            // At its end.
            let Ok(Line { ok, event }) = serde_json::from_slice(&line) else {
                return Err(Trouble::Unavailable);
            };
            let Some(ok) = ok else {
                before.extend(event.map(ToOwned::to_owned));
                continue;
            };
            let Ok(Value::Object(mut answer)) = serde_json::from_slice(&line) else {
                return Err(Trouble::Unavailable);
            };
            if !ok {
                return Err(refusal(&answer));
            }
            answer.remove("ok");
            answer.remove("id");
            return Ok((before, answer));
        }
    }

    /// Says these lines, and streams what comes back behind `first` until all are answered; with a subscription among
    /// them that is not refused until the client goes or [`CONVERSE_TIME_MAX`].
    ///
    /// # Errors
    /// [`Trouble`], as long as nothing was streamed.
    pub async fn converse(
        &self,
        lines: Lines,
        first: Vec<u8>,
    ) -> Result<mpsc::Receiver<Bytes>, Trouble> {
        let place = self.place(&lines.tenant)?;
        let connected = tokio::time::timeout(ASK_TIME_MAX, UnixStream::connect(&self.socket));
        let stream = match connected.await {
            Ok(Ok(stream)) => stream,
            _ => return Err(Trouble::Unavailable),
        };
        let (pieces, taken) = mpsc::channel(PIECES_WAITING_MAX);
        let mut stopping = self.stopping.subscribe();
        tokio::spawn(async move {
            let relayed = relay(stream, lines, first, &pieces);
            tokio::select! {
                _ = tokio::time::timeout(CONVERSE_TIME_MAX, relayed) => {}
                () = pieces.closed() => {}
                _ = stopping.wait_for(|stop| *stop) => {}
            }
            drop::<[OwnedSemaphorePermit; 2]>(place);
        });
        Ok(taken)
    }

    /// One of all places, and one of the tenant's.
    fn place(&self, tenant: &str) -> Result<[OwnedSemaphorePermit; 2], Trouble> {
        let own = {
            let mut all = self
                .of_tenants
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            // A permit keeps its semaphore: whoever has none is forgotten.
            all.retain(|_, places| places.strong_count() > 0);
            let there = all.get(tenant).and_then(Weak::upgrade);
            there.unwrap_or_else(|| {
                let own = Arc::new(Semaphore::new(CONVERSATIONS_OF_A_TENANT_MAX));
                all.insert(tenant.to_owned(), Arc::downgrade(&own));
                own
            })
        };
        let take = |places: Arc<Semaphore>| places.try_acquire_owned().map_err(|_| Trouble::Busy);
        Ok([take(own)?, take(self.places.clone())?])
    }
}

async fn relay(stream: UnixStream, lines: Lines, first: Vec<u8>, pieces: &mpsc::Sender<Bytes>) {
    let (mut reading, mut writing) = stream.into_split();
    let mut following = Following::of(&lines.said);
    let follows = watch::Sender::new(following.goes_on());
    // Answers are taken while lines are still being sent: neither side waits for the other for ever.
    let said = async {
        let sent = writing.write_all(&lines.text).await;
        if sent.is_ok() {
            // The ledger ends a subscription with the last line that could come.
            let mut follows = follows.subscribe();
            tokio::select! {
                () = pieces.closed() => {}
                _ = follows.wait_for(|follows| !follows) => {}
            }
        }
        // Its other half, with answers that are under way, stays open.
        let _ = writing.shutdown().await;
    };
    let heard = async {
        if !first.is_empty() && pieces.send(first.into()).await.is_err() {
            return;
        }
        loop {
            let mut piece = Vec::with_capacity(PIECE_BYTES);
            match reading.read_buf(&mut piece).await {
                Ok(0) | Err(_) => return,
                Ok(_) => {}
            }
            if *follows.borrow() {
                following.look(&piece);
                follows.send_replace(following.goes_on());
            }
            if pieces.send(piece.into()).await.is_err() {
                return;
            }
        }
    };
    tokio::pin!(said);
    tokio::pin!(heard);
    tokio::select! {
        () = &mut heard => {}
        () = &mut said => heard.await,
    }
}

fn refusal(answer: &Map<String, Value>) -> Trouble {
    let of = |name: &str| {
        let text = answer.get("error").and_then(|e| e.get(name));
        text.and_then(Value::as_str)
            .unwrap_or("INTERNAL")
            .to_owned()
    };
    Trouble::Refused {
        code: of("code"),
        reason: of("reason"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn who() -> Who {
        Who {
            actor: "agent:a".to_owned(),
            tenant_id: "t".to_owned(),
        }
    }

    #[test]
    fn every_line_says_for_whom_it_is_and_nobody_says_it_himself() {
        let body = b"{\"type\":\"ping\",\"id\":1}\n\n  {\"type\":\"query\"}\r\n";
        let lines = Lines::of(&who(), body).unwrap();
        assert_eq!(lines.count(), 2);
        assert!(!Following::of(&lines.said).goes_on());
        let text = String::from_utf8(lines.text).unwrap();
        for line in text.lines() {
            let value: Value = serde_json::from_str(line).unwrap();
            assert_eq!(value["as"], json!({"actor": "agent:a", "tenant": "t"}));
        }
        for bad in [
            &b""[..],
            b"\n \n",
            b"[]",
            b"{\"type\":\"ping\"",
            b"{\"as\":{\"actor\":\"agent:b\",\"tenant\":\"u\"}}",
            b"{\"\\u0061s\":null}",
            b"{\"a\":1,\"a\":2}",
            b"{\"type\":\"\xff\"}",
        ] {
            let refused = Lines::of(&who(), bad).unwrap_err();
            assert_eq!(refused.code(), "invalid_request", "{refused}");
        }
        let many = b"{}\n".repeat(LINES_MAX + 1);
        assert!(Lines::of(&who(), &many).is_err());
        // What ends a subscription follows nothing: its stream ends with its answer.
        let follows = |body: &[u8]| Following::of(&Lines::of(&who(), body).unwrap().said).goes_on();
        assert!(!follows(b"{\"type\":\"bus.unsubscribe\"}"));
        assert!(follows(b"{\"type\":\"bus.subscribe\"}"));
    }

    #[test]
    fn a_stream_goes_on_until_all_is_answered_and_no_subscription_was_taken() {
        let body = b"{\"type\":\"subscribe\",\"id\":\"a\"}\n{\"type\":\"ping\",\"id\":3}\n\
            {\"type\":\"bus.subscribe\",\"id\":[7]}\n";
        let said = Lines::of(&who(), body).unwrap().said;
        let long = "x".repeat(2 * LOOKED_AT_BYTES_MAX);
        let others = format!(
            "{{\"id\":3,\"event\":{{\"ok\":true,\"id\":\"a\"}}}}\n{{\"ack\":true,\"id\":\"a\"}}\n\
             {{\"ok\":true,\"id\":3,\"state\":\"{long}\"}}\n{{\"ok\":false,\"id\":\"a\",\"error\":{{}}}}\n"
        );
        let refused = format!("{others}{{\"ok\":false,\"id\":null,\"error\":{{}}}}\n");
        let taken = format!("{others}{{\"ok\":true,\"id\":null,\"from\":1}}\n{others}");
        for size in [1, 7, refused.len()] {
            let looked = |answers: &str| {
                let mut following = Following::of(&said);
                for piece in answers.as_bytes().chunks(size) {
                    assert!(following.goes_on());
                    following.look(piece);
                    assert!(following.line.len() <= LOOKED_AT_BYTES_MAX);
                }
                following.goes_on()
            };
            assert!(looked(&others) && looked(&taken));
            assert!(!looked(&refused));
        }
    }

    #[test]
    fn what_a_quota_does_not_admit_is_refused_in_its_own_line() {
        let body = b"{\"type\":\"ping\",\"id\":\"a\"}\n{\"type\":\"ping\",\"id\":\"b\\n\"}\n{\"type\":\"ping\"}\n";
        let mut lines = Lines::of(&who(), body).unwrap();
        let refusals = String::from_utf8(lines.keep(1, "QUOTA", "bucket \"commits\"")).unwrap();
        let said = String::from_utf8(lines.text.clone()).unwrap();
        assert!(said.ends_with('\n') && said.lines().count() == 1 && said.contains("\"a\""));
        let refusals: Vec<Value> = refusals
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect();
        assert_eq!(refusals[0]["id"], "b\n");
        assert_eq!(refusals[1]["id"], Value::Null);
        for refusal in refusals {
            assert_eq!(refusal["ok"], false);
            let error = json!({"code": "QUOTA", "reason": "bucket \"commits\""});
            assert_eq!(refusal["error"], error);
        }
    }
}
