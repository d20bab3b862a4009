//! A ledger and a capacity kernel that speak the real frames over real sockets, and do little else.
//!
//! The ledger keeps rows in memory, gives gap-free ids, knows a repeated origin again, and can be
//! killed and started anew with its rows kept: at a point between recording a row and answering it
//! too, which is where a careless client records twice.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use sys::packet::{Mode, PacketListener, PacketSocket};
use wire::capacity::{Check, Checked, Identify, Identity, State, StateGet, Verdict, permission};
use wire::ledger::{Append, Appended, Head, HeadGet, Origin};
use wire::{Frame, Kind, PACKET_BYTES_MAX, Refused};

/// The token that the capacity kernel of these tests knows.
pub const TOKEN: &str = "a-token-in-force";

/// A row as the ledger of these tests keeps it.
#[derive(Debug, Clone)]
pub struct Recorded {
    pub origin: Origin,
    pub actor: String,
    pub event_type: String,
    pub subject: String,
    pub payload: serde_json::Value,
    pub causation_id: Option<u64>,
}

/// What outlives a restart of the ledger.
#[derive(Default)]
pub struct Log {
    pub rows: Mutex<Vec<Recorded>>,
    by_origin: Mutex<HashMap<Origin, u64>>,
    /// Appends that are recorded but not answered before the connection breaks.
    pub swallow: AtomicU64,
    pub read_only: AtomicBool,
}

/// A running peer.
pub struct Peer {
    path: PathBuf,
    stop: Arc<AtomicBool>,
    sockets: Arc<Mutex<Vec<PacketSocket>>>,
    thread: Option<JoinHandle<()>>,
}

impl Peer {
    fn start(path: PathBuf, serve: impl Fn(&PacketSocket) + Send + Sync + 'static) -> Self {
        let listener = PacketListener::bind(&path, Mode::Blocking).unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let sockets = Arc::new(Mutex::new(Vec::<PacketSocket>::new()));
        let (stopped, held, serve) = (stop.clone(), sockets.clone(), Arc::new(serve));
        let thread = std::thread::spawn(move || {
            loop {
                let socket = listener.accept(Mode::Blocking).unwrap();
                if stopped.load(SeqCst) {
                    return;
                }
                held.lock().unwrap().push(socket.try_clone().unwrap());
                let serve = serve.clone();
                std::thread::spawn(move || serve(&socket));
            }
        });
        Self {
            path,
            stop,
            sockets,
            thread: Some(thread),
        }
    }

    /// Ends it as a crash would: every connection breaks, nothing more is answered.
    pub fn kill(mut self) {
        self.end();
    }

    /// Ends it in order: it says that a successor follows.
    pub fn stop(mut self) {
        let mut out = [0; 256];
        let packet = wire::encode(0, &wire::STOPPING, &mut out).unwrap();
        for socket in self.sockets.lock().unwrap().iter() {
            // A connection that is over has nobody to tell.
            let _ = socket.send(packet, None);
        }
        self.end();
    }

    fn end(&mut self) {
        let Some(thread) = self.thread.take() else {
            return;
        };
        self.stop.store(true, SeqCst);
        // Wakes `accept`.
        let _ = PacketSocket::connect(&self.path, Mode::Blocking);
        thread.join().unwrap();
        for socket in self.sockets.lock().unwrap().drain(..) {
            socket.shutdown();
        }
        let _ = std::fs::remove_file(&self.path);
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.end();
    }
}

fn packets(socket: &PacketSocket, mut each: impl FnMut(Frame<'_>, &mut [u8]) -> Option<usize>) {
    let (mut buf, mut out) = (vec![0; PACKET_BYTES_MAX], vec![0; PACKET_BYTES_MAX]);
    while let Ok((n, _)) = socket.receive(&mut buf) {
        if n == 0 {
            return;
        }
        let frame = Frame::open(&buf[..n]).unwrap();
        let answer = if frame.kind == Kind::Hello {
            ipc::serve_hello(&buf[..n], &mut out).unwrap().len()
        } else {
            match each(frame, &mut out) {
                Some(bytes) => bytes,
                None => {
                    socket.shutdown();
                    return;
                }
            }
        };
        if socket.send(&out[..answer], None).is_err() {
            return;
        }
    }
}

/// Starts the ledger over its log.
pub fn ledger(run: &Path, log: Arc<Log>) -> Peer {
    Peer::start(run.join("ledger.wire"), move |socket| {
        packets(socket, |frame, out| match frame.kind {
            Kind::LedgerHeadGet => {
                frame.body::<HeadGet>().unwrap();
                let head = Head {
                    event_id: log.rows.lock().unwrap().len() as u64,
                    chain: [0; 32],
                    writable: !log.read_only.load(SeqCst),
                };
                Some(wire::encode(frame.id, &head, out).unwrap().len())
            }
            Kind::LedgerAppend => append(&log, frame, out),
            other => panic!("{other:?}"),
        });
    })
}

fn append(log: &Log, frame: Frame<'_>, out: &mut [u8]) -> Option<usize> {
    if log.read_only.load(SeqCst) {
        let refused = Refused {
            code: "READ_ONLY",
            field: "log",
            value: "",
            limit: "",
        };
        return Some(wire::encode(frame.id, &refused, out).unwrap().len());
    }
    let row = frame.body::<Append<'_>>().unwrap();
    assert_eq!((row.ns, row.tenant_id.is_empty()), ("gateway", false));
    let origin = row.origin.unwrap();
    let mut rows = log.rows.lock().unwrap();
    let mut by_origin = log.by_origin.lock().unwrap();
    let known = by_origin.get(&origin).copied();
    let event_id = known.unwrap_or_else(|| {
        rows.push(Recorded {
            origin,
            actor: row.actor.to_owned(),
            event_type: row.event_type.to_owned(),
            subject: row.subject.to_owned(),
            payload: serde_json::from_str(row.payload).unwrap(),
            causation_id: row.causation_id,
        });
        by_origin.insert(origin, rows.len() as u64);
        rows.len() as u64
    });
    let swallow = |n: u64| n.checked_sub(1);
    if log.swallow.fetch_update(SeqCst, SeqCst, swallow).is_ok() {
        return None;
    }
    let appended = Appended {
        event_id,
        commit_id: [1; 32],
        repeated: known.is_some(),
    };
    Some(wire::encode(frame.id, &appended, out).unwrap().len())
}

/// What the capacity kernel of these tests says.
#[derive(Default)]
pub struct Rules {
    pub checks: AtomicU64,
    pub verdict: Mutex<Option<Verdict>>,
}

/// Starts the capacity kernel.
pub fn capacity(run: &Path, rules: Arc<Rules>) -> Peer {
    Peer::start(run.join("capacity.sock"), move |socket| {
        packets(socket, |frame, out| {
            Some(match frame.kind {
                Kind::CapacityStateGet => {
                    frame.body::<StateGet>().unwrap();
                    let state = State {
                        ticks: 1,
                        epoch: 1,
                        budget: [0; 5],
                        granted: [0; 5],
                        consumed: [None; 5],
                        leases: 0,
                        checks: 0,
                        denied: 0,
                    };
                    wire::encode(frame.id, &state, out).unwrap().len()
                }
                Kind::CapacityCheck => check(&rules, frame, out),
                Kind::CapacityIdentify => {
                    let valid = frame.body::<Identify<'_>>().unwrap().token == TOKEN;
                    let identity = Identity {
                        valid,
                        actor: if valid { "agent:test" } else { "" },
                        tenant_id: if valid { "tenant" } else { "" },
                        permissions: permission::TOOLS,
                        reason: "",
                    };
                    wire::encode(frame.id, &identity, out).unwrap().len()
                }
                other => panic!("{other:?}"),
            })
        });
    })
}

fn check(rules: &Rules, frame: Frame<'_>, out: &mut [u8]) -> usize {
    let check = frame.body::<Check<'_>>().unwrap();
    assert!(check.operation.starts_with("tool:"), "{}", check.operation);
    rules.checks.fetch_add(1, SeqCst);
    // An empty token is the owner's: the kernel takes the gateway's word for him.
    let owner = check.token.is_empty();
    let known = owner || check.token == TOKEN;
    let forced = *rules.verdict.lock().unwrap();
    let verdict = match (known, forced) {
        (false, _) => Verdict::BadToken,
        (true, Some(forced)) => forced,
        (true, None) => Verdict::Allowed,
    };
    let checked = Checked {
        verdict,
        bucket: if verdict == Verdict::Quota {
            "calls"
        } else {
            ""
        },
        retry_after_ms: 1500,
        remaining: 1,
        gates_failed: 0,
        epoch: 1,
        actor: match (known, owner) {
            (true, true) => "user:operator",
            (true, false) => "agent:test",
            (false, _) => "",
        },
        tenant_id: if known { "tenant" } else { "" },
        reason: "as the test says",
    };
    wire::encode(frame.id, &checked, out).unwrap().len()
}
