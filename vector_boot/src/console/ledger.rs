//! A client of the ledger's JSONL socket: one request, its answer lines, deadlines on all of it.
//!
//! Owns the connection and the bytes read past the last line. Never here: what the answers mean to
//! a person. Start with [`Ledger::open`].

use super::commands::Failure;
use super::context::{ANSWER_LIMIT, Context, reason};
use serde_json::{Map, Value};
use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};
use sys::packet::connect_stream_within;

/// Longest line of the protocol, by `design`: 1 MiB.
const LINE_BYTES_MAX: usize = 1 << 20;
/// Bytes asked of the socket at once.
const READ_BYTES: usize = 16 * 1024;

/// One conversation.
pub struct Ledger {
    stream: UnixStream,
    unread: Vec<u8>,
    last_id: u64,
}

impl Ledger {
    /// Connects.
    pub fn open(context: &Context<'_>) -> Result<Self, Failure> {
        let path = context.run.join("ledger.sock");
        let stream = connect_stream_within(&path, ANSWER_LIMIT).map_err(|e| {
            Failure::failed(format!(
                "ledger does not answer on {}: {}",
                path.display(),
                reason(&e)
            ))
        })?;
        Ok(Self {
            stream,
            unread: Vec::new(),
            last_id: 0,
        })
    }

    /// Sends a request of this type; returns the id that its answers carry.
    pub fn send(&mut self, kind: &str, mut fields: Map<String, Value>) -> Result<String, Failure> {
        self.last_id += 1;
        let id = self.last_id.to_string();
        fields.insert("type".into(), kind.into());
        fields.insert("id".into(), id.clone().into());
        let line = Value::Object(fields).to_string() + "\n";
        self.stream
            .write_all(line.as_bytes())
            .map_err(|e| broken(&e))?;
        Ok(id)
    }

    /// The next answer, `None` when nothing came in time.
    ///
    /// Errors: the connection, a line that is too long or no JSON object, a refusal of the ledger.
    pub fn next(
        &mut self,
        id: &str,
        limit: Duration,
    ) -> Result<Option<Map<String, Value>>, Failure> {
        let until = Instant::now() + limit;
        while let Some(line) = self.line(until)? {
            let parsed: Option<Map<String, Value>> = serde_json::from_slice(&line).ok();
            let answer =
                parsed.ok_or_else(|| Failure::failed("ledger answers what is no JSON object"))?;
            if answer.get("id").and_then(Value::as_str) != Some(id) {
                // An answer to what nobody here waits for any more.
                continue;
            }
            if answer.get("ok") == Some(&Value::Bool(false)) {
                return Err(refusal(&answer));
            }
            return Ok(Some(answer));
        }
        Ok(None)
    }

    /// The next answer, which must come in time.
    pub fn answer(&mut self, id: &str) -> Result<Map<String, Value>, Failure> {
        self.next(id, ANSWER_LIMIT)?
            .ok_or_else(|| broken(&io::ErrorKind::TimedOut.into()))
    }

    fn line(&mut self, until: Instant) -> Result<Option<Vec<u8>>, Failure> {
        loop {
            if let Some(at) = self.unread.iter().position(|b| *b == b'\n') {
                let rest = self.unread.split_off(at + 1);
                return Ok(Some(std::mem::replace(&mut self.unread, rest)));
            }
            if self.unread.len() > LINE_BYTES_MAX {
                return Err(Failure::failed(format!(
                    "ledger's line is over {LINE_BYTES_MAX} bytes"
                )));
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(None);
            }
            let mut buf = [0u8; READ_BYTES];
            self.stream
                .set_read_timeout(Some(left))
                .map_err(|e| broken(&e))?;
            match self.stream.read(&mut buf) {
                Ok(0) => return Err(Failure::failed("ledger closed the connection")),
                Ok(n) => self.unread.extend(buf.iter().take(n)),
                Err(e)
                    if matches!(
                        e.kind(),
                        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut
                    ) =>
                {
                    return Ok(None);
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(broken(&e)),
            }
        }
    }
}

fn broken(e: &io::Error) -> Failure {
    Failure::failed(format!("ledger does not answer: {}", reason(e)))
}

/// The words of `{"ok":false,"error":{"code","rule"?,"reason"}}`.
fn refusal(answer: &Map<String, Value>) -> Failure {
    let of = |name: &str| {
        let error = answer.get("error")?;
        error.get(name).and_then(Value::as_str).map(str::to_owned)
    };
    let code = of("code").unwrap_or_else(|| "an error without a code".to_owned());
    let reason = of("reason").map(|r| format!(": {r}")).unwrap_or_default();
    Failure::failed(format!("ledger answers {code}{reason}"))
}
