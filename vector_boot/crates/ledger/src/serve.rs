//! The service: listeners, connections, readiness, an orderly end.
//!
//! The main thread accepts and waits for SIGTERM; each connection has threads of its own, within
//! [`crate::visitors::LIMITS`]; the committer is the only one that writes the log.

use crate::announce::Announcer;
use crate::committer::{Committer, Draft, Ledger};
use crate::device::{Access, Device};
use crate::log::{Birth, Recovery};
use crate::proofs::Keeper;
use crate::sealing::Auditors;
use crate::visitors::{Visit, Visitors};
use crate::{files, jsonl, open, wire_socket};
use ipc::Served;
use ledger_core::note::VerifierKey;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;
use sys::events::{Interest, Poller, Signals};
use sys::inherit::{Inherited, notify};
use sys::packet::{Mode, PacketListener, PacketSocket};
use sys::release::Releaser;

/// Connections that are taken of one socket before the other one is looked at.
const ACCEPTS_A_TURN: usize = 16;
/// How often the status line with the head is sent.
const STATUS_PERIOD: Duration = Duration::from_secs(1);
/// `signal(7)`.
const SIGTERM: i32 = 15;
/// `signal(7)`.
const SIGINT: i32 = 2;
/// Name of the log in VB_DATA when no descriptor is passed.
const LOG_FILE: &str = "ledger.log";
/// Name of the index's folder in VB_DATA.
pub const INDEX_FOLDER: &str = "index";

const TOKEN_SIGNAL: u64 = 0;
const TOKEN_WIRE: u64 = 1;
const TOKEN_JSONL: u64 = 2;

/// What the service was asked for beside what PID 1 passes.
#[derive(Default)]
pub struct Asked {
    /// A log in place of the one that was passed.
    pub log: Option<PathBuf>,
    /// X25519 public keys of those whom sealed members are for.
    pub auditors: Vec<String>,
    /// The witness whose signatures are kept; of any, if none is named.
    pub witness: Option<String>,
}

/// Runs the service until SIGTERM.
#[must_use]
pub fn main(asked: &Asked) -> ExitCode {
    match run(asked) {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            ::log::error!("failed: reason={why:?}");
            // PID 1 shows this line.
            let _ = notify(&format!("STATUS={why}"));
            ExitCode::FAILURE
        }
    }
}

fn run(asked: &Asked) -> Result<(), String> {
    // Each connection is a thread or two: what their heaps kept would be most of the memory at rest. One heap for
    // all would be smaller still, but they would wait for each other: an append took half as long again.
    sys::reclaim::give_back_early();
    let auditors = Auditors::of(&asked.auditors)?;
    let witness = asked.witness.as_deref().map(VerifierKey::parse).transpose();
    let witness = witness.map_err(|e| format!("witness key: {e}"))?;
    let mut inherited = Inherited::take();
    let mut signals = Signals::new(&[SIGTERM, SIGINT]).map_err(|e| format!("signals: {e}"))?;
    let device = device(&mut inherited, asked.log.as_deref()).map_err(|e| format!("log: {e}"))?;
    let stats = inherited.remove("stats");
    let named =
        |name: &str, e: io::Error| format!("{}: {e}", ipc::run_folder().join(name).display());
    let wire = wire_listener(&mut inherited).map_err(|e| named("ledger.wire", e))?;
    let jsonl = jsonl_listener(&mut inherited).map_err(|e| named("ledger.sock", e))?;
    let birth = Birth::now();
    let (committer, recovery) = Committer::start_with(device, &birth, index_folder().as_deref())
        .map_err(|e| match std::error::Error::source(&e) {
            Some(cause) => format!("{e}: {cause}"),
            None => e.to_string(),
        })?;
    let ledger = committer.ledger().clone();
    after_recovery(&ledger, &recovery);
    let ready = format!("READY=1\nSTATUS={}", status(&ledger));
    notify(&ready).map_err(|e| format!("notify: {e}"))?;
    ::log::info!("ready: {}", status(&ledger));
    if let Err(e) = ledger.keep_index() {
        ::log::warn!("without index snapshots: error=\"{e}\"");
    }
    let mut stats = stats.and_then(|fd| crate::stats::Page::over(&fd));
    let data = std::env::var_os("VB_DATA").map(PathBuf::from);
    let keeper = Keeper::start(&ledger, data.as_deref(), auditors);
    if let Err(e) = &keeper {
        ::log::error!("no proofs: {e}");
    }
    if let (Some(witness), Some(proofs)) = (witness, ledger.proofs()) {
        proofs.believe(witness);
    }
    let theirs = ledger.clone();
    std::thread::Builder::new()
        .name("blobs".to_owned())
        .spawn(move || crate::blobs::finish_interrupted(&theirs))
        .map_err(|e| format!("start blobs: {e}"))?;
    let mut announcer = Announcer::default();
    serve(
        &committer,
        &wire,
        &jsonl,
        &mut signals,
        &mut stats,
        &mut announcer,
    )
    .map_err(|e| e.to_string())?;
    // Nobody may be listening any more.
    let _ = notify("STOPPING=1");
    committer.ledger().say_denials(true);
    committer.stop();
    let proofs = ledger.proofs();
    keeper.into_iter().for_each(Keeper::stop);
    if let Some(proofs) = proofs {
        announcer.end(&proofs);
    }
    ::log::info!("stopped: {}", status(&ledger));
    Ok(())
}

fn device(inherited: &mut Inherited, log_path: Option<&Path>) -> io::Result<Arc<dyn Device>> {
    if let Some(path) = log_path {
        return open::path(path, Access::Write);
    }
    if let Some(fd) = inherited.remove("log") {
        return open::descriptor(File::from(fd), "log", Access::Write);
    }
    let folder = std::env::var_os("VB_DATA").ok_or_else(|| {
        let why = "no descriptor named log, no --log and no VB_DATA";
        io::Error::new(io::ErrorKind::NotFound, why)
    })?;
    let path = Path::new(&folder).join(LOG_FILE);
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(&path)?;
    if file.metadata()?.len() == 0 {
        // No sync of the file makes its name durable.
        files::sync_folder(Path::new(&folder))?;
    }
    open::descriptor(file, &path.display().to_string(), Access::Write)
}

/// Where snapshots of the index are kept: in the service's folder, if it has one.
fn index_folder() -> Option<PathBuf> {
    let folder = Path::new(&std::env::var_os("VB_DATA")?).join(INDEX_FOLDER);
    match files::make_folder(&folder, 0o777) {
        Ok(_) => Some(folder),
        Err(e) => {
            ::log::warn!("without index snapshots: folder={folder:?} error=\"{e}\"");
            None
        }
    }
}

fn wire_listener(inherited: &mut Inherited) -> io::Result<PacketListener> {
    match inherited.remove("ledger.wire") {
        Some(fd) => Ok(PacketListener::from_fd(fd)),
        None => PacketListener::bind(&ipc::run_folder().join("ledger.wire"), Mode::Blocking),
    }
}

fn jsonl_listener(inherited: &mut Inherited) -> io::Result<UnixListener> {
    if let Some(fd) = inherited.remove("ledger.sock") {
        return Ok(UnixListener::from(fd));
    }
    let path = ipc::run_folder().join("ledger.sock");
    // Left by an earlier run: nobody accepts there, since the log's lock is ours.
    match std::fs::remove_file(&path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    UnixListener::bind(&path)
}

/// Tells the log what recovery did.
fn after_recovery(ledger: &Ledger, recovery: &Recovery) {
    if let Some(stopped) = ledger.standing().stopped {
        ::log::error!("read-only: reason=\"{stopped}\"");
        return;
    }
    if recovery.torn_bytes == 0 && !recovery.superblock_repaired {
        return;
    }
    ::log::info!("recovered: bytes={}", recovery.torn_bytes);
    let payload = format!(
        "{{\"bytes\":{},\"superblock_repaired\":{}}}",
        recovery.torn_bytes, recovery.superblock_repaired
    );
    let draft = Draft {
        origin: None,
        ns: "ledger".to_owned(),
        actor: "service:ledger".to_owned(),
        tenant_id: "system".to_owned(),
        event_type: "recovered".to_owned(),
        subject: "log".to_owned(),
        payload,
        causation_id: None,
        timestamp_ns: None,
        ulid: None,
        sig: None,
    };
    if let Err(refusal) = ledger.append_wait(vec![draft]) {
        ::log::warn!("recovered event refused: reason={:?}", refusal.reason());
    }
}

fn status(ledger: &Ledger) -> String {
    let standing = ledger.standing();
    match standing.stopped {
        None => format!("head={}", standing.id),
        Some(why) => format!("head={} read-only: {why}", standing.id),
    }
}

fn serve(
    committer: &Committer,
    wire: &PacketListener,
    jsonl: &UnixListener,
    signals: &mut Signals,
    stats: &mut Option<crate::stats::Page>,
    announcer: &mut Announcer,
) -> io::Result<()> {
    let ledger = committer.ledger();
    let mut poller = Poller::new()?;
    poller.add(signals.as_fd(), TOKEN_SIGNAL, Interest::Read)?;
    poller.add(wire.as_fd(), TOKEN_WIRE, Interest::Read)?;
    poller.add(jsonl.as_fd(), TOKEN_JSONL, Interest::Read)?;
    sys::inherit::set_nonblocking(wire.as_fd())?;
    jsonl.set_nonblocking(true)?;
    let (visitors, mut releaser) = (Visitors::default(), Releaser::default());
    let mut told = status(ledger);
    loop {
        let ready = poller.wait(Some(STATUS_PERIOD))?;
        for n in 0..ready {
            match poller.ready(n).map(|r| r.token) {
                Some(TOKEN_SIGNAL) => {
                    if let Some((signal, pid)) = signals.take() {
                        ::log::info!("stopping: signal={signal} from={pid}");
                        visitors.say_stopping();
                        return Ok(());
                    }
                }
                Some(token @ (TOKEN_WIRE | TOKEN_JSONL)) => {
                    let next = || match token {
                        TOKEN_WIRE => wire.accept(Mode::Blocking).map(Stream::Wire),
                        _ => jsonl.accept().map(|(socket, _)| Stream::Jsonl(socket)),
                    };
                    for _ in 0..ACCEPTS_A_TURN {
                        if releaser.is_full() {
                            break;
                        }
                        // What a peer sent before it was turned away is closed elsewhere.
                        match next() {
                            Ok(stream) => releaser.take(start(ledger, &visitors, stream)),
                            Err(_) => break,
                        }
                    }
                }
                _ => {}
            }
        }
        releaser.step();
        ledger.say_denials(false);
        if committer.died() {
            return Err(io::Error::other("the committer thread died"));
        }
        if let Some(page) = stats {
            page.publish(ledger, visitors.count());
        }
        if let Some(proofs) = ledger.proofs() {
            announcer.turn(&proofs);
        }
        let now = status(ledger);
        if now != told {
            // The next period tries again.
            let _ = notify(&format!("STATUS={now}"));
            told = now;
        }
    }
}

enum Stream {
    Wire(PacketSocket),
    Jsonl(UnixStream),
}

impl AsFd for Stream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Wire(socket) => socket.as_fd(),
            Self::Jsonl(socket) => socket.as_fd(),
        }
    }
}

impl From<Stream> for OwnedFd {
    fn from(stream: Stream) -> Self {
        match stream {
            Stream::Wire(socket) => socket.into(),
            Stream::Jsonl(socket) => socket.into(),
        }
    }
}

/// Starts a connection's thread, or gives back what is to be closed.
fn start(ledger: &Ledger, visitors: &Visitors, stream: Stream) -> Option<OwnedFd> {
    let visit = Served::of_fd(stream.as_fd())
        .ok()
        .and_then(|served| visitors.admit(served));
    let Some(visit) = visit else {
        return Some(stream.into());
    };
    let ledger = ledger.clone();
    let spawned = std::thread::Builder::new()
        .name("connection".to_owned())
        .spawn(move || {
            let visit: Visit = visit;
            match stream {
                Stream::Wire(socket) => wire_socket::serve(socket, &visit, &ledger),
                Stream::Jsonl(socket) => jsonl::serve(socket, &visit, &ledger),
            }
        });
    if let Err(e) = spawned {
        ::log::warn!("connection refused: error=\"{e}\"");
    }
    None
}
