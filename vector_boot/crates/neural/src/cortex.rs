//! The role `cortex`: judges mutations, keeps their log and the journal, and hands PID 1 generations.
//!
//! Owns `evolution.sock`, the rings of its proposers, and its folder on the data disk. One thread; what it waits for
//! beside its poller are the log's disk and PID 1, the latter never longer than [`ANSWER`].
//! Never here: a rule of evolution ([`crate::evolution`]). Start with [`main`] and [`Cortex::turn`].

mod init_link;
mod journal_file;
mod ledger_events;
mod peer;

use crate::evolution::{Base, Broken, Engine, Now, RollbackError, Store, Verdict};
use crate::journal::{Kind as RowKind, Row, Subject};
use init_link::InitLink;
use ipc::Served;
use ipc::door::{Complaints, Limits};
use journal_file::JournalFile;
use ledger_events::LedgerEvents;
use peer::Peer;
use std::ffi::OsString;
use std::fs::{File, TryLockError};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;
use sys::events::{Interest, Poller, Signals};
use sys::inherit::{Inherited, notify};
use sys::mapping::Mapping;
use sys::packet::{Mode, PacketListener};
use wire::evolution::Misbehaviour;
use wire::evolution::generation::Generation;

/// File name of the socket in the run folder.
pub const SOCKET_NAME: &str = "evolution.sock";
/// Connections at once: a proposer or two, a console, `ctl`.
pub const LIMITS: Limits = Limits {
    all: 16,
    kept: 4,
    users: 8,
    of_uid: 4,
};
/// Rings at once; each is half a MiB.
pub const RINGS_MAX: usize = 4;
/// Longest wait for a process before us that was killed and still holds our folder: it ends as soon as its disk
/// has answered.
const PREDECESSOR: Duration = Duration::from_secs(5);
/// Between two looks at that.
const PREDECESSOR_STEP: Duration = Duration::from_millis(10);
/// Longest wait for PID 1.
const ANSWER: Duration = Duration::from_secs(2);
/// Rows of the journal for verdicts between two looks; what is over is one row. The log has every accepted one.
const VERDICT_ROWS_MAX: u32 = 32;
/// Between two looks at PID 1: what a generation does in its first beats, and rows of the journal.
const LOOK: Duration = Duration::from_secs(1);

const LISTENER: u64 = 0;
const SIGNALS: u64 = 1;
/// A connection at place `n` is `FIRST + 2n`, the wake of its ring one more.
const FIRST: u64 = 2;

/// SIGINT and SIGTERM.
const ENDS: [i32; 2] = [2, 15];

/// Serves until SIGTERM or SIGINT.
#[must_use]
pub fn main(_words: &[OsString]) -> ExitCode {
    match Cortex::from_environment().and_then(|mut cortex| cortex.run()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("<3>cortex: ends: {e}");
            ExitCode::FAILURE
        }
    }
}

/// The service.
struct Cortex {
    engine: Engine<'static>,
    /// The newest generation as it was published, and the hash of what it holds.
    sealed: Option<(OwnedFd, [u8; 32])>,
    listener: PacketListener,
    signals: Signals,
    poller: Poller,
    peers: Vec<Option<Peer>>,
    init: InitLink,
    journal: JournalFile,
    events: LedgerEvents,
    looked_ns: u64,
    /// Verdicts that have a row since the last look, and the sum of those that have none.
    rows: u32,
    unsaid: u64,
    status: String,
    complaints: Complaints,
    /// While it is open no other process writes to our folder.
    _folder: Option<File>,
}

impl Cortex {
    fn from_environment() -> io::Result<Self> {
        let mut inherited = Inherited::take();
        let run = ipc::run_folder();
        let listener = match inherited.remove(SOCKET_NAME) {
            Some(fd) => PacketListener::from_fd(fd),
            None => PacketListener::bind(&run.join(SOCKET_NAME), Mode::NonBlocking)?,
        };
        let signals = Signals::new(&ENDS)?;
        let base = base(inherited.remove("rts"))?;
        let folder = std::env::var_os("VB_DATA").map(PathBuf::from);
        let held = folder.as_deref().map(hold).transpose()?;
        let store = match &folder {
            Some(folder) => Store::in_folder(folder)?,
            None => Store::in_memory()?,
        };
        let (engine, opened) = Engine::open(base, store)?;
        if opened.set_aside {
            eprintln!(
                "<4>cortex: mutations.log does not fit this base: set aside, a new one begun"
            );
        }
        eprintln!(
            "cortex: log replayed: generation={} records={} torn_bytes={} durable={}",
            engine.generation(),
            opened.records,
            opened.torn,
            engine.is_durable()
        );
        let mut journal = JournalFile::open(folder.as_deref());
        let now = now();
        let mut row = Row::new(RowKind::Replayed, now.monotonic_ns, 0);
        row.generation = short(engine.generation());
        row.id = opened.records;
        row.code = u16::from(opened.torn > 0);
        journal.push(row);
        let poller = Poller::new()?;
        poller.add(listener.as_fd(), LISTENER, Interest::Read)?;
        poller.add(signals.as_fd(), SIGNALS, Interest::Read)?;
        Ok(Self {
            engine,
            sealed: None,
            listener,
            signals,
            poller,
            peers: Vec::new(),
            init: InitLink::new(run.join("init.sock")),
            journal,
            events: LedgerEvents::start(run.join(ipc::ledger::SOCKET_NAME))?,
            looked_ns: 0,
            rows: 0,
            unsaid: 0,
            status: String::new(),
            complaints: Complaints::default(),
            _folder: held,
        })
    }

    fn run(&mut self) -> io::Result<()> {
        // PID 1 is to run by what the log says before anybody hears that we are there.
        self.publish();
        self.journal.flush();
        report("READY=1");
        let end = self.until_told();
        report("STOPPING=1");
        self.sum_verdicts();
        self.journal.flush();
        end
    }

    fn until_told(&mut self) -> io::Result<()> {
        while self.turn()? {}
        Ok(())
    }

    /// Waits once and handles what came; `false` when it is time to end.
    fn turn(&mut self) -> io::Result<bool> {
        let count = self.poller.wait(Some(LOOK))?;
        for index in 0..count {
            let Some(ready) = self.poller.ready(index) else {
                continue;
            };
            match ready.token {
                LISTENER => self.accept(),
                SIGNALS => {
                    if self.signals.take().is_some() {
                        return Ok(false);
                    }
                }
                token => {
                    let at = usize::try_from((token - FIRST) / 2).unwrap_or(usize::MAX);
                    match (token - FIRST) % 2 {
                        0 => self.serve_peer(at),
                        _ => self.serve_ring(at),
                    }
                }
            }
        }
        let now = sys::clock::monotonic_ns();
        if now.saturating_sub(self.looked_ns) >= LOOK.as_nanos() as u64 {
            self.looked_ns = now;
            self.end_mute(now);
            self.look_at_init();
            self.sum_verdicts();
            self.journal.flush();
            self.say_status();
        }
        if self.engine.has_failed() {
            // The log is read again by our successor: what the disk has is what counts.
            return Err(io::Error::other(
                "mutations.log: the disk did not take a group",
            ));
        }
        Ok(true)
    }

    fn accept(&mut self) {
        let Ok(socket) = self.listener.accept(Mode::NonBlocking) else {
            return;
        };
        let Ok(served) = Served::of(&socket) else {
            return;
        };
        let there = self.peers.iter().flatten().map(|peer| peer.served.role);
        if LIMITS.admit(there, served.role).is_err() {
            return;
        }
        let free = self.peers.iter().position(Option::is_none);
        let at = free.unwrap_or(self.peers.len());
        let token = FIRST + 2 * at as u64;
        if self
            .poller
            .add(socket.as_fd(), token, Interest::Read)
            .is_err()
        {
            return;
        }
        let peer = Peer::new(socket, served);
        match self.peers.get_mut(at) {
            Some(place) => *place = Some(peer),
            None => self.peers.push(Some(peer)),
        }
    }

    /// Ends connections that never said hello, so that they hold no place.
    fn end_mute(&mut self, now_ns: u64) {
        for at in 0..self.peers.len() {
            let peer = self.peers.get(at).and_then(Option::as_ref);
            if peer.is_some_and(|peer| peer.is_mute(now_ns)) {
                self.close(at);
            }
        }
    }

    fn close(&mut self, at: usize) {
        if let Some(peer) = self.peers.get_mut(at).and_then(Option::take) {
            // A descriptor that is not watched any more needs no end of it.
            let _ = self.poller.remove(peer.socket.as_fd());
            if let Some(ring) = &peer.ring {
                let _ = self.poller.remove(ring.wake());
            }
        }
    }

    /// One packet of a peer.
    fn serve_peer(&mut self, at: usize) {
        let rings = self.peers.iter().flatten().filter(|p| p.ring.is_some());
        let rings = rings.count();
        let Some(peer) = self.peers.get_mut(at).and_then(Option::as_mut) else {
            return;
        };
        let had_ring = peer.ring.is_some();
        let asked = peer.serve(&self.engine, self.sealed.as_ref(), rings);
        if let (false, Some(ring)) = (had_ring, &peer.ring) {
            let token = FIRST + 2 * at as u64 + 1;
            if self.poller.add(ring.wake(), token, Interest::Read).is_err() {
                return self.close(at);
            }
        }
        match asked {
            peer::Next::Keep => {}
            peer::Next::Close => self.close(at),
            peer::Next::Journal { id, after, rows } => {
                let rows = self.journal.rows(after, rows.into());
                if let Some(peer) = self.peers.get_mut(at).and_then(Option::as_mut)
                    && !peer.answer_journal(id, &rows)
                {
                    self.close(at);
                }
            }
            peer::Next::RollBack { id, to } => {
                let uid = peer.served.peer.uid;
                let done = self.roll_back(to, Verdict::RolledBack, uid);
                if let Some(peer) = self.peers.get_mut(at).and_then(Option::as_mut)
                    && !peer.answer_rollback(id, to, done)
                {
                    self.close(at);
                }
            }
        }
    }

    /// What a proposer submitted: judged, written, published, answered.
    fn serve_ring(&mut self, at: usize) {
        let Some(peer) = self.peers.get_mut(at).and_then(Option::as_mut) else {
            return;
        };
        let uid = peer.served.peer.uid;
        let Some(ring) = peer.ring.as_mut() else {
            return;
        };
        ring.rest();
        if ring.is_over() {
            return self.close(at);
        }
        let before = self.engine.counts();
        let served = self.engine.serve(ring, uid, now());
        let changed = self.engine.counts().accepted != before.accepted;
        if changed {
            self.publish();
        }
        let generation = self.engine.generation();
        if let Some(ring) = self
            .peers
            .get_mut(at)
            .and_then(Option::as_mut)
            .and_then(|peer| peer.ring.as_mut())
        {
            ring.publish(generation);
            if matches!(served, Ok(served) if served.answered == crate::evolution::ring::SLOTS) {
                // There may be more, and the wake was taken.
                ring.again();
            }
        }
        self.note_verdicts(&before);
        if let Err(broken) = served {
            self.complain(at, &broken);
            self.close(at);
        }
    }

    fn complain(&mut self, at: usize, broken: &Broken) {
        let second = sys::clock::monotonic_ns() / 1_000_000_000;
        if let Some(peer) = self.peers.get(at).and_then(Option::as_ref)
            && self
                .complaints
                .allow(peer.served.peer.uid, second)
                .is_some()
        {
            let Served { peer, role } = peer.served;
            eprintln!(
                "<4>cortex: ring ended: role={} uid={}: {broken}",
                role.name(),
                peer.uid
            );
        }
    }

    /// Rows of the journal and events for what was decided since.
    fn note_verdicts(&mut self, before: &crate::evolution::Counts) {
        let counts = self.engine.counts();
        let fresh = (counts.accepted - before.accepted) + (counts.refused - before.refused);
        // The newest first; a row of refusals of one kind may have begun before.
        let mut left = fresh;
        let newest = self.engine.history().newest();
        let mut judged: Vec<_> = newest
            .map_while(|row| {
                let count = row.count.min(left);
                left -= count;
                (count > 0).then_some((row, count))
            })
            .collect();
        judged.reverse();
        self.events.judged(judged.iter().copied());
        let monotonic_ns = sys::clock::monotonic_ns();
        let places = usize::try_from(VERDICT_ROWS_MAX - self.rows).unwrap_or(0);
        // The newest have the rows that are left.
        let over = judged.len().saturating_sub(places);
        for (at, (verdict, count)) in judged.into_iter().enumerate() {
            if at < over {
                self.unsaid += count;
                continue;
            }
            self.rows += 1;
            let accepted = verdict.verdict == Verdict::Accepted;
            let kind = if accepted {
                RowKind::Accepted
            } else {
                RowKind::Refused
            };
            let mut row = Row::new(kind, monotonic_ns, 0);
            row.code = verdict.verdict as u16;
            row.generation = short(verdict.generation);
            row.id = verdict.id;
            row.subject = Subject::new(&verdict.tensor);
            row.values = [
                verdict.confidence,
                verdict.offset as f32,
                verdict.length as f32,
                count as f32,
            ];
            self.journal.push(row);
        }
    }

    /// One row for all verdicts that found no row of their own.
    fn sum_verdicts(&mut self) {
        self.rows = 0;
        if self.unsaid > 0 {
            let mut row = Row::new(RowKind::Refused, sys::clock::monotonic_ns(), 0);
            row.generation = short(self.engine.generation());
            row.code = Verdict::Unknown as u16;
            row.subject = Subject::new("(more verdicts)");
            row.id = std::mem::take(&mut self.unsaid);
            self.journal.push(row);
        }
    }

    fn roll_back(&mut self, to: u64, why: Verdict, uid: u32) -> Result<u64, RollbackError> {
        let left = self.engine.generation();
        let generation = self.engine.roll_back(to, why, uid, now())?;
        self.publish();
        for peer in self.peers.iter().flatten() {
            if let Some(ring) = &peer.ring {
                ring.publish(generation);
            }
        }
        let mut row = Row::new(RowKind::RolledBack, sys::clock::monotonic_ns(), 0);
        row.generation = short(generation);
        row.id = left;
        row.code = why as u16;
        self.journal.push(row);
        self.journal.flush();
        self.events.rolled_back(left, to, generation, why);
        eprintln!(
            "<4>cortex: rolled back: from={left} to={to} as={generation} why={}",
            why.as_str()
        );
        Ok(generation)
    }

    /// Gives PID 1 the newest generation.
    fn publish(&mut self) {
        let bytes = self.engine.encode();
        let generation = self.engine.generation();
        let digest = *blake3::hash(&bytes).as_bytes();
        let content = Generation::parse_policy(&bytes).map_or([0; 32], |g| g.content);
        self.sealed = None;
        match sys::memfd::sealed("generation", &bytes) {
            Ok(sealed) => {
                if let Some(e) = self.init.publish(generation, &sealed) {
                    eprintln!("<4>cortex: generation {generation}: init.sock: {e}");
                }
                self.sealed = Some((sealed, content));
            }
            Err(e) => eprintln!("<3>cortex: generation {generation}: {e}"),
        }
        // As verdicts: a proposer that is answered one by one must not push everything else out of the journal.
        if self.rows >= VERDICT_ROWS_MAX {
            self.unsaid += 1;
            return;
        }
        self.rows += 1;
        let mut row = Row::new(RowKind::Published, sys::clock::monotonic_ns(), 0);
        row.generation = short(generation);
        row.digest = digest;
        self.journal.push(row);
    }

    /// Whether PID 1 gave the newest generation up, whether it has it at all, and its rows for the file.
    fn look_at_init(&mut self) {
        let generation = self.engine.generation();
        match self.init.status() {
            Some(status)
                if status.given_up == generation
                    && generation > 0
                    && status.why != Misbehaviour::None =>
            {
                // PID 1 runs by the one before already: now the log says so too.
                // Of one that is not in the log any more, the base.
                let to = status.number.min(generation - 1);
                let to = if to < self.engine.oldest() { 0 } else { to };
                if let Err(e) = self.roll_back(to, Verdict::Misbehaved, 0) {
                    eprintln!("<3>cortex: generation {generation} misbehaved: {e}");
                }
            }
            // There is no why: PID 1 stays where it is.
            Some(status) if status.given_up == generation && status.given_up > 0 => {}
            // It began anew, or did not answer when it was told.
            Some(status) if status.number != generation => self.publish(),
            _ => {}
        }
        let journal = &mut self.journal;
        self.init
            .rows(journal.fetched(), |bytes| journal.take(bytes));
    }

    fn say_status(&mut self) {
        let counts = self.engine.counts();
        let status = format!(
            "STATUS=generation={} accepted={} refused={}",
            self.engine.generation(),
            counts.accepted,
            counts.refused
        );
        if status != self.status {
            report(&status);
            self.status = status;
        }
    }
}

/// The base: the package's model if there is one that can be read, and the default one. Both stay mapped for as long
/// as the process lives.
fn base(package: Option<OwnedFd>) -> io::Result<Base<'static>> {
    let system: &'static [u8] = crate::default_model().leak();
    let wrong = |e: gguf::GgufError| io::Error::new(io::ErrorKind::InvalidData, e.to_string());
    if let Some(package) = package {
        match packaged(&package) {
            Ok((model, identity)) => match Base::new(Some(model), system, identity) {
                Ok(base) => return Ok(base),
                Err(e) => eprintln!("<4>cortex: model: {e}; the default one alone"),
            },
            Err(e) => eprintln!("<4>cortex: package: {e}; the default model alone"),
        }
    }
    Base::new(None, system, None).map_err(wrong)
}

/// Takes the folder for this process alone. Whoever kills PID 1 kills us with it, but a kill in the middle of a sync
/// takes effect behind it, when our successor may be there already.
fn hold(folder: &Path) -> io::Result<File> {
    let file = File::open(folder)?;
    let until = sys::clock::monotonic_ns() + PREDECESSOR.as_nanos() as u64;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::WouldBlock) if sys::clock::monotonic_ns() < until => {
                std::thread::sleep(PREDECESSOR_STEP);
            }
            Err(TryLockError::WouldBlock) => {
                let text = format!("{}: another process writes there", folder.display());
                return Err(io::Error::other(text));
            }
            Err(TryLockError::Error(e)) => return Err(e),
        }
    }
}

fn packaged(package: &OwnedFd) -> io::Result<(&'static [u8], Option<[u8; 32]>)> {
    let whole: &'static Mapping = Box::leak(Box::new(Mapping::of_whole_fd(package)?));
    let package = rts::Package::parse(whole).map_err(|e| io::Error::other(e.to_string()))?;
    let identity = package.digest().map(|digest| digest.0);
    Ok((package.tensor_bytes(), identity))
}

fn now() -> Now {
    Now {
        monotonic_ns: sys::clock::monotonic_ns(),
        wall_ns: sys::clock::wall_ns(),
    }
}

/// As a row has it; a machine does not come to 2^32 generations.
fn short(generation: u64) -> u32 {
    u32::try_from(generation).unwrap_or(u32::MAX)
}

/// Tells PID 1 how we are. Without it we run as well.
fn report(state: &str) {
    if let Err(e) = notify(state) {
        eprintln!("<4>cortex: notify: {e}");
    }
}
