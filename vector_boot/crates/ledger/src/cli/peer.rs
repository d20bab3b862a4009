//! A running ledger, asked over its socket: one call, its lines, its answer.

use super::progress::Progress;
use crate::json::Json;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::path::PathBuf;
use std::time::Duration;
use sys::packet::connect_stream_within;
use zeroize::Zeroizing;

/// How long a running service may be silent: a query over a large log says nothing while it finds nothing.
const ANSWER_LIMIT: Duration = Duration::from_secs(30);

/// Longest answer with a secret, or refusal of one: a key's line is some 400 bytes.
const SECRET_LINE_BYTES_MAX: usize = 4096;

/// A running ledger.
pub struct Peer {
    socket: PathBuf,
}

/// What to do with a line that comes before the answer.
#[derive(PartialEq, Eq)]
pub enum Next {
    /// Go on reading.
    More,
    /// Nobody reads what is printed.
    Enough,
}

impl Peer {
    /// Behind this socket.
    pub fn new(socket: PathBuf) -> Self {
        Self { socket }
    }

    /// Sends a request and waits for its answer; shows how far the service says it is.
    ///
    /// # Errors
    /// What the service refused, or why it could not be asked.
    pub fn call(&self, request: &Json) -> Result<Json, String> {
        let mut progress = Progress::percent();
        let answer = self.lines(request, &mut |line| {
            if let Some(percent) = line.get("progress").and_then(Json::unsigned) {
                progress.at(percent);
            }
            Next::More
        })?;
        answer.ok_or_else(|| self.closed())
    }

    /// Sends a request and hands over every line before its answer: acknowledgement, progress,
    /// events. `None` if `line` had enough.
    ///
    /// # Errors
    /// As [`Self::call`].
    pub fn lines(
        &self,
        request: &Json,
        line: &mut dyn FnMut(Json) -> Next,
    ) -> Result<Option<Json>, String> {
        self.read(request, Some(ANSWER_LIMIT), line)
    }

    /// As [`Self::lines`], and goes on behind the answer until the service ends or `line` had
    /// enough: until something happens there is nothing to read.
    ///
    /// # Errors
    /// As [`Self::call`].
    pub fn follow(&self, request: &Json, line: &mut dyn FnMut(Json) -> Next) -> Result<(), String> {
        match self.read(request, None, line)? {
            None => Ok(()),
            Some(_) => Err(self.closed()),
        }
    }

    /// Sends a request and gives one text of its answer, which lies nowhere else in this process: not in a
    /// reader's buffer, not in a parsed line, not where a buffer lay before it grew.
    ///
    /// # Errors
    /// As [`Self::call`].
    pub fn secret(&self, request: &Json, member: &str) -> Result<Zeroizing<String>, String> {
        let failed = |e: io::Error| format!("{}: {e}", self.socket.display());
        let mut stream = connect_stream_within(&self.socket, ANSWER_LIMIT).map_err(failed)?;
        stream
            .set_read_timeout(Some(ANSWER_LIMIT))
            .map_err(failed)?;
        writeln!(stream, "{request}").map_err(failed)?;
        let mut line = Zeroizing::new([0; SECRET_LINE_BYTES_MAX]);
        let mut used = 0;
        let end = loop {
            let rest = line.get_mut(used..).unwrap_or_default();
            match stream.read(rest).map_err(failed)? {
                0 => return Err(self.closed()),
                n => used += n,
            }
            let read = line.get(..used).unwrap_or_default();
            if let Some(end) = read.iter().position(|byte| *byte == b'\n') {
                break end;
            }
        };
        let text = line.get(..end).unwrap_or_default();
        let text = std::str::from_utf8(text).map_err(|e| e.to_string())?;
        if !text.starts_with("{\"ok\":true") {
            let line = Json::stored(text).map_err(|e| e.to_string())?;
            return Err(refusal(&line));
        }
        let before = format!("\"{member}\":\"");
        let found = text.split_once(&before).and_then(|(_, rest)| {
            // Nothing in it needs an escape, or it is none of ours.
            let (found, _) = rest.split_once('"')?;
            (!found.contains('\\')).then(|| Zeroizing::new(found.to_owned()))
        });
        found.ok_or_else(|| format!("{}: answers without {member}", self.socket.display()))
    }

    fn read(
        &self,
        request: &Json,
        patience: Option<Duration>,
        each: &mut dyn FnMut(Json) -> Next,
    ) -> Result<Option<Json>, String> {
        let failed = |e: io::Error| format!("{}: {e}", self.socket.display());
        let mut stream = connect_stream_within(&self.socket, ANSWER_LIMIT).map_err(failed)?;
        stream.set_read_timeout(patience).map_err(failed)?;
        writeln!(stream, "{request}").map_err(failed)?;
        for line in BufReader::new(stream).lines() {
            let line = Json::stored(&line.map_err(failed)?).map_err(|e| e.to_string())?;
            match line.get("ok").cloned() {
                Some(Json::Bool(true)) if patience.is_some() => return Ok(Some(line)),
                // A subscription begins.
                Some(Json::Bool(true)) => {}
                Some(_) => return Err(refusal(&line)),
                None if each(line) == Next::Enough => return Ok(None),
                None => {}
            }
        }
        Err(self.closed())
    }

    fn closed(&self) -> String {
        format!("{}: closed without an answer", self.socket.display())
    }
}

fn refusal(line: &Json) -> String {
    let error = line.get("error");
    let text = |key| error.and_then(|e| e.get(key)).and_then(Json::text);
    let (code, reason) = (text("code"), text("reason"));
    format!("{}: {}", code.unwrap_or(""), reason.unwrap_or(""))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixListener;

    /// What a service is taken to have said that answers with these bytes.
    fn said(answer: &'static [u8]) -> Result<String, String> {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("ledger.sock");
        let listener = UnixListener::bind(&socket).unwrap();
        std::thread::scope(|scope| {
            scope.spawn(move || {
                let (stream, _) = listener.accept().unwrap();
                let mut asked = String::new();
                BufReader::new(&stream).read_line(&mut asked).unwrap();
                // In pieces, as a stream may bring it.
                for piece in answer.chunks(7) {
                    if (&stream).write_all(piece).is_err() {
                        break;
                    }
                }
            });
            let request = Json::object([("type", "audit_key".into())]);
            let told = Peer::new(socket).secret(&request, "key");
            told.map(|secret| secret.to_string())
        })
    }

    #[test]
    fn a_secret_is_read_where_it_stands_and_a_refusal_is_told() {
        let key = said(b"{\"ok\":true,\"id\":null,\"key\":\"vb-audit-key a 00\"}\nmore\n");
        assert_eq!(key.as_deref(), Ok("vb-audit-key a 00"));
        let refused = said(
            b"{\"ok\":false,\"id\":null,\"error\":{\"code\":\"POLICY_DENY\",\"reason\":\"no\"}}\n",
        );
        assert_eq!(refused.unwrap_err(), "POLICY_DENY: no");
        for none in [
            &b"{\"ok\":true,\"id\":null}\n"[..],
            b"{\"ok\":true,\"key\":\"a\\\"b\"}\n",
            b"{\"ok\":true,\"key\":\"cut",
            b"",
            &[b'x'; 2 * SECRET_LINE_BYTES_MAX],
        ] {
            assert!(said(none).is_err());
        }
    }
}
