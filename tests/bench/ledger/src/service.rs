//! The ledger as a service over its sockets: lines of JSON, and frames. This executable again is the
//! service, as the appliance runs it: tiles, signed checkpoints and snapshots of the index are on.

use crate::modes::{MANY, Mode, clients, content};
use crate::ours::zeros;
use crate::{CONTENT_BYTES, Run};
use ipc::ledger::Client;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use wire::ledger::{Append, AppendMany};

/// Set for the service.
pub const ROLE: &str = "VB_BENCH_LEDGER_ROLE";
/// Longest wait for anything.
const LIMIT: Duration = Duration::from_secs(60);

/// Which of the two sockets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Socket {
    /// `ledger.sock`.
    Lines,
    /// `ledger.wire`.
    Frames,
}

struct Service {
    child: Child,
    folder: PathBuf,
}

impl Service {
    fn start(folder: &Path) -> Self {
        let child = Command::new(std::env::current_exe().expect("this executable"))
            .env(ROLE, "")
            .env("VB_RUN", folder)
            .env("VB_DATA", folder)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("service");
        let this = Self {
            child,
            folder: folder.to_owned(),
        };
        // Ready once it answers.
        lines(&mut this.lines(), &line_of(&[payload(0)]));
        zeros(&folder.join("ledger.log"));
        this
    }

    fn lines(&self) -> BufReader<UnixStream> {
        let path = self.folder.join("ledger.sock");
        BufReader::new(patiently(|| UnixStream::connect(&path)))
    }

    fn frames(&self) -> Client {
        let path = self.folder.join(ipc::ledger::SOCKET_NAME);
        patiently(|| Client::connect(&path, LIMIT))
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        self.child.kill().expect("kill");
        self.child.wait().expect("wait");
    }
}

/// Until it succeeds: the service starts, or closes the connections of another client.
fn patiently<T, E: std::fmt::Display>(connect: impl Fn() -> Result<T, E>) -> T {
    let deadline = Instant::now() + LIMIT;
    loop {
        match connect() {
            Ok(connection) => return connection,
            Err(e) => assert!(Instant::now() < deadline, "service: {e}"),
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Sends a line and reads one.
fn lines(stream: &mut BufReader<UnixStream>, request: &str) {
    stream
        .get_mut()
        .write_all(request.as_bytes())
        .expect("send");
    let mut answer = String::new();
    stream.read_line(&mut answer).expect("answer");
    assert!(answer.starts_with("{\"ok\":true"), "{answer}");
}

/// A payload of [`CONTENT_BYTES`].
fn payload(n: u64) -> String {
    let mut letters = String::from_utf8(content(n)).expect("letters");
    letters.truncate(CONTENT_BYTES - "{\"p\":\"\"}".len());
    format!("{{\"p\":\"{letters}\"}}")
}

/// A request line for events with these payloads.
fn line_of(payloads: &[String]) -> String {
    let event = |p: &String| {
        format!(
            "{{\"event_type\":\"tool_called\",\"subject\":\"fs_read\",\"tenant_id\":\"bench\",\"payload\":{p}}}"
        )
    };
    let events = match payloads {
        [one] => format!("\"event\":{}", event(one)),
        many => {
            let all: Vec<String> = many.iter().map(event).collect();
            format!("\"events\":[{}]", all.join(","))
        }
    };
    format!(
        "{{\"type\":\"append_event\",\"id\":1,\"ns\":\"gateway\",\"actor\":\"agent:bench\",{events}}}\n"
    )
}

fn append(payload: &str) -> Append<'_> {
    Append {
        origin: None,
        ns: "gateway",
        actor: "agent:bench",
        tenant_id: "bench",
        event_type: "tool_called",
        subject: "fs_read",
        payload,
        causation_id: None,
        timestamp_ns: None,
    }
}

fn append_all(client: &mut Client, payloads: &[String]) {
    match payloads {
        [one] => drop(client.append(&append(one)).expect("durable")),
        many => {
            let events = many.iter().map(|p| append(p)).collect();
            drop(client.append_many(&AppendMany { events }).expect("durable"));
        }
    }
}

/// Runs the service on a new log, and clients of one of its sockets.
pub fn run(folder: &Path, mode: Mode, limit: Duration, socket: Socket) -> Run {
    let service = Service::start(folder);
    let count = AtomicU64::new(0);
    let one = |n: usize, deadline: Instant| {
        let mut next = n as u64;
        let mut ask: Box<dyn FnMut(&[String])> = match socket {
            Socket::Lines => {
                let mut stream = service.lines();
                Box::new(move |payloads| lines(&mut stream, &line_of(payloads)))
            }
            Socket::Frames => {
                let mut client = service.frames();
                Box::new(move |payloads| append_all(&mut client, payloads))
            }
        };
        while Instant::now() < deadline {
            let payloads: Vec<String> = (0..mode.batch() as u64)
                .map(|k| payload(next + k))
                .collect();
            ask(&payloads);
            next += MANY as u64;
            count.fetch_add(mode.batch() as u64, Ordering::Relaxed);
        }
    };
    let began = Instant::now();
    if mode == Mode::Clients {
        clients(limit, one);
    } else {
        one(0, began + limit);
    }
    let elapsed = began.elapsed().as_secs_f64();
    let events = count.into_inner();
    Run {
        rate: events as f64 / elapsed,
        events,
        ..Run::default()
    }
}
