//! The loop around the kernel: connections, the tick, signals. One thread; nothing in it waits but
//! the poller.
//!
//! Bounds: [`LIMITS`] connections; a peer that sends what is no frame is refused, said once a minute a
//! uid, and let go after [`BAD_FRAMES_MAX`]; one that does not read its answers is let go. What a peer
//! may have put in the way of closing its connection is left to [`sys::release`].
//! Start with [`Server::turn`].

use crate::kept::Kept;
use crate::kernel::{Asker, Kernel, No, Outcome};
use crate::measure::Meter;
use crate::outbox::{Outbox, cause};
use crate::planner::{Planner, found_leaves};
use capacity_core::table::Admission;
use ipc::door::{BAD_FRAMES_MAX, Complaints, HELLO_LIMIT, Limits};
use ipc::{Served, serve_hello};
use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;
use sys::events::{Interest, Poller, Signals, Ticker};
use sys::inherit::{Inherited, notify};
use sys::packet::{Mode, PacketListener, PacketSocket};
use sys::release::Releaser;
use sys::seqlock::Writer;
use wire::capacity::{
    Check, Checked, GATE_NAMES, Gate, GateVerdict, GatesGet, Grant, Identify, Identity, Lease,
    LeasesGet, Release, Request, Revoke, StateGet,
};
use wire::{Done, Frame, Kind, Message, PACKET_BYTES_MAX, Refused, Role, stats};
use zeroize::Zeroize;

/// Connections at once: every service of a large manifest and a few people.
pub const LIMITS: Limits = Limits {
    all: 128,
    kept: 8,
    users: 64,
    of_uid: 16,
};
/// Answers that wait for a peer to read: more than the longest list.
const ANSWERS_WAITING_MAX: usize = 1024;
/// Ticks that a new connection has for its hello.
const HELLO_TICKS: u64 = HELLO_LIMIT.as_secs();
/// One tick.
const TICK: Duration = Duration::from_secs(1);
/// Longest wait for the ledger at the end.
const FLUSH: Duration = Duration::from_millis(500);
/// Bytes of the `token` descriptor: 64 hex digits and a line end.
const TOKEN_FILE_BYTES_MAX: u64 = 256;
/// Cgroups of leases, as far as this service can see them.
const LEASE_CGROUPS: &str = "/sys/fs/cgroup/vb/lease";

const LISTENER: u64 = 0;
const TICKER: u64 = 1;
const SIGNALS: u64 = 2;
const FIRST_CONNECTION: u64 = 3;

/// Serves until SIGTERM or SIGINT.
pub fn main() -> ExitCode {
    match Server::from_environment().and_then(|mut server| server.run()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            log::error!("capacity ends: {}", cause(&e));
            ExitCode::FAILURE
        }
    }
}

struct Connection {
    socket: PacketSocket,
    served: Served,
    greeted: bool,
    since_tick: u64,
    bad_frames: u32,
    waiting: VecDeque<Vec<u8>>,
}

/// What is to become of a connection.
#[derive(Debug, PartialEq, Eq)]
enum Next {
    Keep,
    Close,
}

/// The service.
pub struct Server {
    kernel: Kernel,
    meter: Meter,
    outbox: Outbox,
    planner: Planner,
    kept: Option<Kept>,
    stats: Option<Writer>,
    listener: PacketListener,
    ticker: Ticker,
    signals: Signals,
    poller: Poller,
    connections: Vec<Option<Connection>>,
    complaints: Complaints,
    releaser: Releaser,
    planned_epoch: u64,
    kept_epoch: u64,
    status: String,
    packet: Box<[u8]>,
    answer: Box<[u8]>,
}

impl Server {
    /// Takes descriptors and folders from the environment; what is missing is said and done without.
    fn from_environment() -> io::Result<Self> {
        let mut inherited = Inherited::take();
        let run = ipc::run_folder();
        let listener = match inherited.remove("capacity.sock") {
            Some(fd) => PacketListener::from_fd(fd),
            None => {
                let path = run.join(ipc::capacity::SOCKET_NAME);
                log::info!(
                    "capacity.sock was not passed, binding: path={}",
                    path.display()
                );
                PacketListener::bind(&path, Mode::NonBlocking)?
            }
        };
        // Before any thread starts, so that all of them inherit the mask.
        let signals = Signals::new(&[SIGTERM, SIGINT])?;
        let pages = inherited.remove_all("stats.");
        let stats = inherited
            .remove("stats")
            .map(|fd| Writer::over(&fd, stats::MAGIC));
        let stats = stats.transpose().unwrap_or_else(|e| {
            log::warn!("stats page is not used: {}", cause(&e));
            None
        });
        let boot_text = std::env::var("VB_BOOT_ID").unwrap_or_default();
        let boot_id = parse_boot_id(&boot_text).unwrap_or_else(|| {
            log::info!("VB_BOOT_ID is not set or not 32 hex digits: a random one for this run");
            let mut id = [0; 16];
            // Without random bytes the key below fails, and with it the start.
            let _ = sys::random::fill(&mut id);
            id
        });
        let mut secret = [0; 32];
        sys::random::fill(&mut secret)?;
        let mut meter = Meter::new(Path::new("/proc"), pages);
        if let Some(page) = inherited.remove("sensors") {
            meter.watch_sensors(&page);
        }
        // Use is a difference: this is where the first one begins.
        meter.consumed(0);
        let mut kernel = Kernel::new(meter.node(), &secret);
        secret.zeroize();
        let now_ns = sys::clock::monotonic_ns();
        let token = inherited.remove("token").map(File::from);
        boot_lease(&mut kernel, now_ns, token);
        let kept =
            std::env::var_os("VB_DATA").map(|folder| Kept::new(Path::new(&folder), &boot_text));
        restore(&mut kernel, now_ns, kept.as_ref());
        let outbox = Outbox::start(run.join("ledger.wire"), boot_id)?;
        let applied = found_leaves(Path::new(LEASE_CGROUPS));
        let planner = Planner::start(run.join("init.sock"), applied, outbox.clone())?;
        Self::new(
            kernel, meter, outbox, planner, kept, stats, listener, signals,
        )
    }

    #[allow(
        clippy::too_many_arguments,
        reason = "each is a part of its own; called once"
    )]
    fn new(
        kernel: Kernel,
        meter: Meter,
        outbox: Outbox,
        planner: Planner,
        kept: Option<Kept>,
        stats: Option<Writer>,
        listener: PacketListener,
        signals: Signals,
    ) -> io::Result<Self> {
        let poller = Poller::new()?;
        let ticker = Ticker::new(TICK)?;
        poller.add(listener.as_fd(), LISTENER, Interest::Read)?;
        poller.add(ticker.as_fd(), TICKER, Interest::Read)?;
        poller.add(signals.as_fd(), SIGNALS, Interest::Read)?;
        let buffer = || vec![0; PACKET_BYTES_MAX].into_boxed_slice();
        Ok(Self {
            kernel,
            meter,
            outbox,
            planner,
            kept,
            stats,
            listener,
            ticker,
            signals,
            poller,
            connections: Vec::new(),
            complaints: Complaints::default(),
            releaser: Releaser::default(),
            planned_epoch: 0,
            kept_epoch: 0,
            status: String::new(),
            packet: buffer(),
            answer: buffer(),
        })
    }

    /// Says that it is ready, then turns until it is told to stop.
    fn run(&mut self) -> io::Result<()> {
        self.settle();
        report("READY=1");
        log::info!("capacity serves: {}", self.status);
        while self.turn()? {}
        report("STOPPING=1");
        log::info!("capacity stops");
        self.say_stopping();
        self.settle();
        self.outbox.flush(FLUSH);
        Ok(())
    }

    /// Tells gateways that a successor follows: calls wait for it.
    fn say_stopping(&mut self) {
        let gateways = self.connections.iter_mut().flatten();
        for connection in gateways.filter(|c| c.greeted && c.served.role == Role::Gateway) {
            // One that does not read its answers learns it by the connection's end.
            let _ = connection.reply(0, &wire::STOPPING, &mut self.answer);
        }
    }

    /// Waits once and handles what came; `false` when it is time to end.
    fn turn(&mut self) -> io::Result<bool> {
        let count = self.poller.wait(None)?;
        for index in 0..count {
            let Some(ready) = self.poller.ready(index) else {
                continue;
            };
            match ready.token {
                LISTENER => self.accept(),
                TICKER => {
                    if self.ticker.take() > 0 {
                        self.tick();
                    }
                }
                SIGNALS => {
                    if self.signals.take().is_some() {
                        return Ok(false);
                    }
                }
                token => {
                    let at = usize::try_from(token - FIRST_CONNECTION).unwrap_or(usize::MAX);
                    if self.serve(at, ready.writable) == Next::Close {
                        self.close(at);
                    }
                }
            }
        }
        self.releaser.step();
        self.settle();
        Ok(true)
    }

    /// Passes on what the last calls changed: events, cgroup wishes, kept leases, the status line.
    fn settle(&mut self) {
        for event in self.kernel.take_events() {
            self.outbox.push(event);
        }
        let epoch = self.kernel.table().epoch();
        if epoch != self.planned_epoch {
            self.planned_epoch = epoch;
            self.planner.want(epoch, self.kernel.leaves());
        }
        let leases = self.kernel.state().leases;
        let status = format!("leases={leases}");
        if status != self.status {
            report(&format!("STATUS={status}"));
            self.status = status;
        }
    }

    fn tick(&mut self) {
        let counters = self.kernel.counters();
        let consumed = self.meter.consumed(counters.checks - counters.denied);
        self.kernel.set_shed(self.meter.shed());
        self.kernel.tick(sys::clock::monotonic_ns(), consumed, 0);
        let now = self.kernel.counters().ticks;
        for at in 0..self.connections.len() {
            let late = |c: &&Connection| !c.greeted && now > c.since_tick + HELLO_TICKS;
            let connection = self.connections.get(at).and_then(Option::as_ref);
            if let Some(served) = connection.filter(late).map(|c| c.served) {
                self.complain(served, "no hello in time");
                self.close(at);
            }
        }
        self.publish();
        let epoch = self.kernel.table().epoch();
        if let Some(kept) = self.kept.as_ref().filter(|_| epoch != self.kept_epoch) {
            self.kept_epoch = epoch;
            if let Err(e) = kept.save(self.kernel.table()) {
                log::warn!("leases are not kept: {}", cause(&e));
            }
        }
    }

    /// Writes the stats page.
    fn publish(&mut self) {
        let Some(page) = &mut self.stats else { return };
        let counters = self.kernel.counters();
        let open = self.connections.iter().flatten().count() as u64;
        let state = self.kernel.state();
        page.update(|words| {
            let mut set = |name, value| {
                if let Some(word) = stats::word(name) {
                    words.set(word, value);
                }
            };
            set("requests", counters.checks + counters.requests);
            set("succeeded", counters.checks - counters.denied);
            set("failed", counters.refused);
            set("denied", counters.denied);
            set("connections_gauge", open);
            set("leases_gauge", state.leases.into());
            set("ticks", counters.ticks);
            let failed = self.kernel.gates_failed().count_ones();
            set("gates_gauge", failed.into());
        });
    }

    fn accept(&mut self) {
        if self.releaser.is_full() {
            // The listener stays ready; the next turn looks again.
            return;
        }
        let socket = match self.listener.accept(Mode::NonBlocking) {
            Ok(socket) => socket,
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => return,
            Err(e) => {
                // Under a uid that nobody has, so that it is said once a minute.
                let second = self.kernel.counters().ticks;
                if self.complaints.allow(u32::MAX, second).is_some() {
                    log::warn!("capacity.sock: accept: {}", cause(&e));
                }
                return;
            }
        };
        let Ok(served) = Served::of(&socket) else {
            return self.let_go(socket);
        };
        let there = self.connections.iter().flatten().map(|c| c.served.role);
        if let Err(over) = LIMITS.admit(there, served.role) {
            self.complain(served, &over.to_string());
            return self.let_go(socket);
        }
        let free = self.connections.iter().position(Option::is_none);
        let at = free.unwrap_or(self.connections.len());
        let token = FIRST_CONNECTION + at as u64;
        if let Err(e) = self.poller.add(socket.as_fd(), token, Interest::Read) {
            self.complain(served, &cause(&e));
            return self.let_go(socket);
        }
        let connection = Connection {
            socket,
            served,
            greeted: false,
            since_tick: self.kernel.counters().ticks,
            bad_frames: 0,
            waiting: VecDeque::new(),
        };
        match self.connections.get_mut(at) {
            Some(place) => *place = Some(connection),
            None => self.connections.push(Some(connection)),
        }
    }

    fn close(&mut self, at: usize) {
        if let Some(connection) = self.connections.get_mut(at).and_then(Option::take) {
            // Its last handle is closed elsewhere, and later.
            let _ = self.poller.remove(connection.socket.as_fd());
            self.let_go(connection.socket);
        }
    }

    /// Ends a connection that may hold what its peer sent and nobody read.
    fn let_go(&mut self, socket: PacketSocket) {
        socket.shutdown();
        self.releaser.take([OwnedFd::from(socket)]);
    }

    /// Handles one ready connection: what waits to be sent, then one packet.
    fn serve(&mut self, at: usize, writable: bool) -> Next {
        let Some(connection) = self.connections.get_mut(at).and_then(Option::as_mut) else {
            return Next::Keep;
        };
        if writable {
            connection.drain();
        }
        let waited = !connection.waiting.is_empty();
        let bad_before = connection.bad_frames;
        if self.releaser.is_full() {
            return Next::Keep;
        }
        let next = match connection.socket.take(&mut self.packet) {
            Ok(received) if !received.descriptors.is_empty() => {
                self.releaser.take(received.descriptors);
                connection.refuse_frame(0, "descriptors", "none", &mut self.answer);
                Next::Close
            }
            Ok(received) if received.bytes == 0 => Next::Close,
            Ok(received) if received.cut => {
                connection.refuse_frame(0, "frame", "at most 65536 bytes", &mut self.answer)
            }
            Ok(received) => {
                let packet = self.packet.get(..received.bytes).unwrap_or_default();
                connection.answer(&mut self.kernel, packet, &mut self.answer)
            }
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => Next::Keep,
            Err(_) => Next::Close,
        };
        let waits = !connection.waiting.is_empty();
        if waits != waited {
            let interest = if waits {
                Interest::ReadWrite
            } else {
                Interest::Read
            };
            let token = FIRST_CONNECTION + at as u64;
            if self
                .poller
                .change(connection.socket.as_fd(), token, interest)
                .is_err()
            {
                return Next::Close;
            }
        }
        if connection.bad_frames > bad_before {
            let served = connection.served;
            self.complain(served, "a frame that is none, or not its to send");
        }
        next
    }

    /// Says what a peer did wrong, once a minute a uid.
    fn complain(&mut self, served: Served, what: &str) {
        let (uid, role) = (served.peer.uid, served.role.name());
        match self.complaints.allow(uid, self.kernel.counters().ticks) {
            None => {}
            Some(0) => log::warn!("capacity.sock: refused role={role} uid={uid}: {what}"),
            Some(n) => {
                log::warn!(
                    "capacity.sock: refused role={role} uid={uid}: {what} (and {n} more since the last)"
                );
            }
        }
    }
}

/// signal(7): the same numbers on every architecture that we run on.
const SIGTERM: i32 = 15;
const SIGINT: i32 = 2;

/// Tells PID 1, if anybody asked; that it cannot be told is no reason to stop.
fn report(state: &str) {
    if let Err(e) = notify(state) {
        log::warn!("notify {state}: {}", cause(&e));
    }
}

fn parse_boot_id(text: &str) -> Option<[u8; 16]> {
    if text.len() != 32 || !text.is_ascii() {
        return None;
    }
    u128::from_str_radix(text, 16).ok().map(u128::to_be_bytes)
}

fn boot_lease(kernel: &mut Kernel, now_ns: u64, token: Option<File>) {
    let text = token.map(|file| sys::memfd::read_small(&file, TOKEN_FILE_BYTES_MAX));
    let mut text = match text {
        None => {
            log::info!("no boot token was passed: only leased tokens are in force");
            None
        }
        Some(Err(e)) => {
            log::error!("boot token cannot be read: {}", cause(&e));
            None
        }
        Some(Ok(bytes)) => String::from_utf8(bytes).ok().filter(|text| {
            let hex = text.trim();
            let fine = hex.len() == 64 && hex.bytes().all(|b| b.is_ascii_hexdigit());
            if !fine {
                let digits = hex.len();
                log::error!(
                    "boot token has {digits} characters: 64 hex digits; it is not in force"
                );
            }
            fine
        }),
    };
    if let Err(e) = kernel.boot(now_ns, text.as_deref().map(str::trim)) {
        log::error!("boot token is not in force: {e}");
    }
    if let Some(text) = &mut text {
        text.zeroize();
    }
}

fn restore(kernel: &mut Kernel, now_ns: u64, kept: Option<&Kept>) {
    let Some(kept) = kept else {
        log::info!("no data folder: leases do not outlive this process");
        return;
    };
    let leases = kept.load().unwrap_or_else(|e| {
        log::error!("kept leases are not taken: {}", cause(&e));
        Vec::new()
    });
    let mut restored = 0;
    for lease in &leases {
        let over = lease
            .expires_ms
            .is_some_and(|end| end <= now_ns / 1_000_000);
        let names = [&lease.tenant, &lease.workload];
        if over || names.iter().any(|n| capacity_core::name::check(n).is_err()) {
            continue;
        }
        let result = lease.demand().map_err(|e| e.to_string()).and_then(|ask| {
            let admission = Admission {
                tenant: &lease.tenant,
                workload: &lease.workload,
                ask,
                expires_ms: lease.expires_ms,
                priority: lease.priority,
                permissions: lease.permissions,
                pinned: false,
            };
            kernel
                .restore(now_ns, &admission)
                .map_err(|e| e.to_string())
        });
        match result {
            Ok(_) => restored += 1,
            Err(why) => log::warn!("kept lease {}/{}: {why}", lease.tenant, lease.workload),
        }
    }
    if restored > 0 {
        log::info!("leases restored: count={restored}; their tokens must be asked for anew");
    }
}

impl Connection {
    /// Answers one packet.
    fn answer(&mut self, kernel: &mut Kernel, packet: &[u8], out: &mut [u8]) -> Next {
        if !self.greeted {
            return self.greet(packet, out);
        }
        let frame = match self.served.open(packet) {
            Ok(frame) => frame,
            Err(refused) => {
                let id = Frame::open(packet).map_or(0, |frame| frame.id);
                return self.refuse_bad(id, &refused, out);
            }
        };
        let now_ns = sys::clock::monotonic_ns();
        let asker = Asker {
            role: self.served.role,
            uid: self.served.peer.uid,
        };
        let (id, epoch) = (frame.id, kernel.table().epoch());
        let answered = match frame.kind {
            Kind::CapacityCheck => frame.body::<Check<'_>>().map(|check| {
                let vouches = matches!(asker.role, Role::Gateway | Role::Operator);
                let decision = if check.token.is_empty() && vouches {
                    kernel.check_owner(now_ns, &check)
                } else {
                    kernel.check(now_ns, &check)
                };
                let answer = Checked {
                    verdict: decision.verdict,
                    bucket: decision.bucket,
                    retry_after_ms: decision.retry_after_ms,
                    remaining: decision.remaining,
                    gates_failed: kernel.gates_failed(),
                    epoch,
                    actor: &decision.actor,
                    tenant_id: &decision.tenant,
                    reason: &decision.reason,
                };
                self.reply(id, &answer, out)
            }),
            Kind::CapacityIdentify => frame.body::<Identify<'_>>().map(|asked| {
                let found = kernel.identify(now_ns, asked.token);
                let answer = match &found {
                    Ok(identity) => Identity {
                        valid: true,
                        actor: &identity.actor,
                        tenant_id: &identity.tenant,
                        permissions: identity.permissions,
                        reason: "",
                    },
                    Err(reason) => Identity {
                        valid: false,
                        actor: "",
                        tenant_id: "",
                        permissions: 0,
                        reason,
                    },
                };
                self.reply(id, &answer, out)
            }),
            Kind::CapacityRequest => frame.body::<Request<'_>>().map(|request| {
                match kernel.request(now_ns, asker, &request) {
                    Ok(outcome) => self.reply_outcome(id, &outcome, kernel.gates_failed(), out),
                    Err(no) => self.refuse(id, &no, out),
                }
            }),
            Kind::CapacityRelease => frame.body::<Release<'_>>().map(|asked| {
                let result = kernel.release(now_ns, asked.token);
                self.reply_done(id, result, out)
            }),
            Kind::CapacityRevoke => frame.body::<Revoke>().map(|asked| {
                let result = kernel.revoke(now_ns, asker, asked.slot);
                self.reply_done(id, result, out)
            }),
            Kind::CapacityStateGet => frame
                .body::<StateGet>()
                .map(|_| self.reply(id, &kernel.state(), out)),
            Kind::CapacityLeasesGet => frame
                .body::<LeasesGet>()
                .map(|_| self.reply_leases(id, kernel, now_ns, out)),
            Kind::CapacityGatesGet => frame
                .body::<GatesGet>()
                .map(|_| self.reply_gates(id, kernel, out)),
            _ => {
                return self.refuse_frame(id, "kind", "a question that capacity answers", out);
            }
        };
        match answered {
            Ok(next) => next,
            Err(_) => self.refuse_frame(id, "body", "what the kind says", out),
        }
    }

    fn greet(&mut self, packet: &[u8], out: &mut [u8]) -> Next {
        // A stranger may send nothing, not even a hello.
        let opened = self.served.open(packet);
        if let Err(refused) = opened {
            self.refuse_bad(0, &refused, out);
            return Next::Close;
        }
        let hello = match serve_hello(packet, out) {
            Ok(hello) => hello.to_vec(),
            Err(_) => {
                self.refuse_frame(0, "hello", "the first frame, of a version spoken here", out);
                return Next::Close;
            }
        };
        self.greeted = true;
        self.send(hello)
    }

    fn reply_outcome(&mut self, id: u64, outcome: &Outcome, gates: u8, out: &mut [u8]) -> Next {
        let answer = match outcome {
            Outcome::Granted {
                token,
                slot,
                grants,
                expires_ms,
            } => Grant {
                admitted: true,
                token,
                grants: grants.map(|g| g.get()),
                axes_failed: 0,
                gates_failed: gates,
                expires_ms: *expires_ms,
                slot: *slot,
                reason: "",
            },
            Outcome::Refused { axes, reason } => Grant {
                admitted: false,
                token: "",
                grants: Default::default(),
                axes_failed: *axes,
                gates_failed: gates,
                expires_ms: 0,
                slot: 0,
                reason,
            },
        };
        self.reply(id, &answer, out)
    }

    fn reply_done(&mut self, id: u64, result: Result<(), No>, out: &mut [u8]) -> Next {
        match result {
            Ok(()) => self.reply(id, &Done { count: 0 }, out),
            Err(no) => self.refuse(id, &no, out),
        }
    }

    fn reply_leases(&mut self, id: u64, kernel: &Kernel, now_ns: u64, out: &mut [u8]) -> Next {
        let mut count = 0;
        for (slot, _, lease) in kernel.table().leases() {
            let left = |end: u64| end.saturating_sub(now_ns / 1_000_000);
            let row = Lease {
                slot,
                tenant_id: &lease.tenant,
                workload_id: &lease.workload,
                grants: lease.grants.map(|g| g.get()),
                expires_ms: lease.expires_ms.map_or(u64::MAX, left),
                priority: lease.priority,
                checks: lease.checks,
            };
            count += 1;
            if self.reply(id, &row, out) == Next::Close {
                return Next::Close;
            }
        }
        self.reply(id, &Done { count }, out)
    }

    fn reply_gates(&mut self, id: u64, kernel: &Kernel, out: &mut [u8]) -> Next {
        let ticks = kernel.counters().ticks;
        for name in GATE_NAMES {
            let row = Gate {
                name,
                verdict: GateVerdict::Unresolved,
                score_milli: None,
                ticks,
            };
            if self.reply(id, &row, out) == Next::Close {
                return Next::Close;
            }
        }
        self.reply(id, &Done { count: 4 }, out)
    }

    fn refuse(&mut self, id: u64, no: &No, out: &mut [u8]) -> Next {
        let answer = Refused {
            code: no.code,
            field: no.field,
            value: &no.value,
            limit: &no.limit,
        };
        self.reply(id, &answer, out)
    }

    /// Refuses what is no proper frame; the connection ends after too many.
    fn refuse_frame(
        &mut self,
        id: u64,
        field: &'static str,
        limit: &'static str,
        out: &mut [u8],
    ) -> Next {
        let refused = Refused {
            code: "BAD_REQUEST",
            field,
            value: "",
            limit,
        };
        self.refuse_bad(id, &refused, out)
    }

    fn refuse_bad(&mut self, id: u64, refused: &Refused<'_>, out: &mut [u8]) -> Next {
        self.bad_frames += 1;
        match self.reply(id, refused, out) {
            Next::Keep if self.bad_frames < BAD_FRAMES_MAX => Next::Keep,
            _ => Next::Close,
        }
    }

    fn reply<M: Message>(&mut self, id: u64, body: &M, out: &mut [u8]) -> Next {
        // Every text in an answer is bounded, so an answer always fits; one that did not is a bug
        // that costs its asker the connection.
        match wire::encode(id, body, out) {
            Ok(packet) if self.waiting.is_empty() => match self.socket.send(packet, None) {
                Ok(()) => Next::Keep,
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => self.wait_with(packet.to_vec()),
                Err(_) => Next::Close,
            },
            Ok(packet) => self.wait_with(packet.to_vec()),
            Err(_) => Next::Close,
        }
    }

    fn send(&mut self, packet: Vec<u8>) -> Next {
        match self.socket.send(&packet, None) {
            Ok(()) => Next::Keep,
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => self.wait_with(packet),
            Err(_) => Next::Close,
        }
    }

    fn wait_with(&mut self, packet: Vec<u8>) -> Next {
        if self.waiting.len() >= ANSWERS_WAITING_MAX {
            return Next::Close;
        }
        self.waiting.push_back(packet);
        Next::Keep
    }

    fn drain(&mut self) {
        while let Some(packet) = self.waiting.front() {
            if self.socket.send(packet, None).is_err() {
                // Full still, or gone: the next receive tells.
                return;
            }
            self.waiting.pop_front();
        }
    }
}

#[cfg(test)]
mod tests;
