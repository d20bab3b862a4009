//! A running ledger, asked over its socket: one call, its lines, its answer.

use super::progress::Progress;
use crate::json::Json;
use std::io::{self, BufRead, BufReader, Write};
use std::path::PathBuf;
use std::time::Duration;
use sys::packet::connect_stream_within;

/// How long a running service may be silent: a query over a large log says nothing while it finds nothing.
const ANSWER_LIMIT: Duration = Duration::from_secs(30);

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
