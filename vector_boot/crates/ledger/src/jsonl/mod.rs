//! `ledger.sock`: one JSON object a line each way, `id` echoed.
//!
//! The connection's thread reads and answers in order; what is appended or decided is answered when it
//! is durable, so that many may be under way; each subscription has a thread of its own. A peer that
//! reads slowly holds up its own threads only. Start with [`serve`]; a family of calls is a file in
//! `calls`, over what [`call::Call`] gives.

mod call;
mod calls;

use crate::clock;
use crate::committer::Ledger;
use crate::gate::{Gate, Permit};
use crate::identity::Caller;
use crate::json::{Json, LINE_BYTES_MAX};
use crate::planes::Planes;
use crate::refusal::Refusal;
use crate::visitors::Visit;
use call::Call;
pub use call::Stream;
use crossbeam::channel::{Receiver, Sender, unbounded};
use std::cell::{Cell, RefCell};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use wire::Role;
use zeroize::Zeroizing;

/// Appends and decisions of one connection whose answers are not sent yet.
const UNDER_WAY_MAX: usize = 64;
/// Longest id of a call: it is kept for each that is under way, and for each blob that was refused.
const ID_BYTES_MAX: usize = 128;
/// Subscriptions of one connection.
const SUBSCRIPTIONS_MAX: usize = 8;
/// The same of a user's service, and of a token's holder through the gateway: each is a thread, and the manifest
/// bounds those of the ledger.
const SUBSCRIPTIONS_OF_A_USER_MAX: usize = 2;
/// A blob whose next piece does not come for this long is given up: what is coming at a time is bounded for all tenants
/// together.
const PIECE_LIMIT: Duration = Duration::from_secs(60);
/// A peer that takes nothing for this long is dropped.
const WRITE_LIMIT: Duration = Duration::from_secs(30);

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
        self.write(&line)
    }

    /// Writes a line that holds a secret: nothing of it is left behind.
    fn secret(&self, parts: &[&str]) -> bool {
        let bytes = parts.iter().map(|part| part.len()).sum::<usize>() + 1;
        let mut line = Zeroizing::new(String::with_capacity(bytes));
        parts.iter().for_each(|part| line.push_str(part));
        line.push('\n');
        self.write(&line)
    }

    fn write(&self, line: &str) -> bool {
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
        Role::User(_) | Role::Stranger(_) | Role::Gateway => SUBSCRIPTIONS_OF_A_USER_MAX,
        _ => SUBSCRIPTIONS_MAX,
    };
    let connection = Connection {
        visit,
        ledger: ledger.clone(),
        out: out.clone(),
        answers,
        gate: Arc::new(Gate::new(UNDER_WAY_MAX)),
        subscriptions: Arc::new(Gate::new(subscriptions)),
        subscriptions_max: subscriptions,
        uploads: RefCell::default(),
        hung_up: Cell::new(false),
    };
    let mut lines = BufReader::new(stream);
    let mut line = Vec::new();
    loop {
        line.clear();
        match read_line(&mut lines, &mut line, &connection.uploads) {
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
        if out.is_gone() || connection.hung_up.get() {
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

/// Reads a line, or the beginning of one that is too long. While blobs wait for their next piece it looks up from time
/// to time, also amid a line that trickles, and gives up those that waited too long.
fn read_line(
    lines: &mut BufReader<UnixStream>,
    line: &mut Vec<u8>,
    uploads: &RefCell<calls::Uploads>,
) -> io::Result<usize> {
    let limit = LINE_BYTES_MAX + 1;
    let mut limited = false;
    while uploads.borrow_mut().wait_on(PIECE_LIMIT) {
        if !limited {
            lines.get_ref().set_read_timeout(Some(PIECE_LIMIT))?;
            limited = true;
        }
        let bytes = match lines.fill_buf() {
            Ok(bytes) => bytes,
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => continue,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
            Err(e) => return Err(e),
        };
        let some = bytes.get(..limit - line.len().min(limit)).unwrap_or(bytes);
        let end = some.iter().position(|b| *b == b'\n');
        let taken = end.map_or(some.len(), |at| at + 1);
        line.extend(some.iter().take(taken));
        lines.consume(taken);
        if taken == 0 || end.is_some() {
            lines.get_ref().set_read_timeout(None)?;
            return Ok(line.len());
        }
    }
    if limited {
        lines.get_ref().set_read_timeout(None)?;
    }
    let left = limit.saturating_sub(line.len()) as u64;
    lines.by_ref().take(left).read_until(b'\n', line)?;
    Ok(line.len())
}

/// Buffer that a connection keeps between lines.
const LINE_KEPT_BYTES: usize = 16 * 1024;

fn write_answers(out: &Out, answers: &Receiver<(String, Permit)>) {
    for (answer, _permit) in answers {
        out.line(&answer);
    }
}

/// The answer that refuses.
fn refused(id: &Json, refusal: &Refusal) -> String {
    let mut error = vec![("code", Json::from(refusal.code))];
    let rule = refusal.rule.as_deref().filter(|_| !refusal.hidden);
    error.extend(rule.map(|rule| ("rule", rule.into())));
    error.push(("reason", refusal.reason().as_str().into()));
    // By hand, so that `ok` comes first for whoever reads along.
    let members: Vec<String> = error
        .iter()
        .map(|(key, value)| format!("\"{key}\":{value}"))
        .collect();
    let error = members.join(",");
    format!("{{\"ok\":false,\"id\":{id},\"error\":{{{error}}}}}")
}

struct Connection<'v> {
    visit: &'v Visit,
    ledger: Ledger,
    out: Arc<Out>,
    /// Each with its permit: the queue is never longer than there are.
    answers: Sender<(String, Permit)>,
    gate: Arc<Gate>,
    subscriptions: Arc<Gate>,
    subscriptions_max: usize,
    uploads: RefCell<calls::Uploads>,
    hung_up: Cell<bool>,
}

impl Connection<'_> {
    fn request(&self, line: &[u8]) {
        let parsed = std::str::from_utf8(line)
            .map_err(|_| Refusal::bad("line", "UTF-8"))
            .and_then(|text| Ok(Json::parse(text)?));
        let request = match parsed {
            Ok(request @ Json::Object(_)) => request,
            Ok(_) => {
                self.refuse(&Json::Null, &Refusal::bad("line", "a JSON object"));
                return;
            }
            Err(refusal) => return self.refuse(&Json::Null, &refusal),
        };
        let id = request.get("id").cloned().unwrap_or(Json::Null);
        let holds = match &id {
            Json::Null | Json::Unsigned(_) => true,
            Json::Text(text) => text.len() <= ID_BYTES_MAX,
            _ => false,
        };
        if !holds {
            let limit = format!("text of at most {ID_BYTES_MAX} bytes, or a number from 0 on");
            return self.refuse(&Json::Null, &Refusal::bad("id", &limit));
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

    /// Answers a request; a refusal by a rule is recorded.
    fn dispatch(&self, request: &Json, id: &Json) -> Result<(), Refusal> {
        let role = self.visit.served().role;
        let kind = request.get("type").and_then(Json::text);
        let caller = Caller::of(role, request.get("as")).inspect_err(|refusal| {
            // Then it is the peer itself who was refused.
            if let Ok(peer) = Caller::of(role, None) {
                let plea = peer.plea(kind.unwrap_or_default(), "");
                self.ledger.refused(&plea, refusal);
            }
        })?;
        let kind = kind.ok_or_else(|| Refusal::bad("type", "text, the call's name"))?;
        let Some(handler) = calls::find(kind) else {
            return Err(Refusal::new("BAD_REQUEST", "type", kind, "no such call"));
        };
        let on = calls::object(kind, request);
        let plea = caller.plea(kind, on);
        let now = clock::wall_ns();
        let judge = |planes: &Planes| caller.judge(&planes.policy, kind, on, now);
        let began = Instant::now();
        let call = Call {
            id,
            request,
            caller: &caller,
            plea,
            connection: self,
        };
        let handled = self.ledger.peek(judge).and_then(|_| handler(&call));
        if kind == "fold_state" && handled.is_ok() {
            self.ledger.metrics().fold.add(began.elapsed());
        }
        handled.inspect_err(|refusal| self.ledger.refused(&call.plea, refusal))
    }
}

#[cfg(test)]
mod tests;
