//! The heartbeat: one thread, one epoll; everything that PID 1 does after its boot happens here.
//!
//! Owns every descriptor of the machine. Never waits for anything but [`Poller::wait`], never
//! allocates on the path of a beat. Start with [`Heart::run`].

use crate::boot::Open;
use crate::control::{CONNECTIONS_MAX, Connection};
use crate::helper_link::{Answer, HelperLink, Purpose};
use crate::journal::Journal;
use crate::ledger_link::LedgerLink;
use crate::package::{Found, Model};
use crate::params::Params;
use crate::state::{BY_HELPER, Fixed, Json, Level, UnitRow, Weight};
use crate::supervisor::{Action, Actions, Event, Phase, Supervisor, UNITS_MAX};
use crate::unit::Unit;
use crate::{BeatFacts, BeatWork, ServiceFact, Setup};
use rts::manifest::Manifest;
use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;
use sys::events::{Interest, Poller, Signals, Ticker};
use sys::machine::Power as End;
use sys::packet::PacketListener;
use sys::process::{Exit, Reaped};
use sys::spawn::{Child, Descriptors, Spawn};
use wire::control::{Beat, LATENESS_BUCKETS, MachineState, Power};
use wire::helper::Task;

/// Dead children that are taken in one turn, so that ten thousand make no beat late.
const REAP_A_TURN: usize = 512;
/// How long the outbox may take to empty before the services stop.
const DRAIN_NS: u64 = 2_000_000_000;
/// How long the helper may take to unmount.
const UNMOUNT_NS: u64 = 10_000_000_000;
/// Pause between two tries to start the helper.
const HELPER_RETRY_NS: u64 = 1_000_000_000;
/// Tensor blocks hashed in one task of the scrub: 4 MiB.
const SCRUB_BLOCKS: u32 = 64;
/// A service that was started so often without getting up is a cause of the degraded state.
const SETTLED_RESTARTS: u32 = 3;
/// Our own executable's place in the table of images.
const VECTOR_BOOT: usize = 0;
/// Sentences of [`Heart::degraded`]; each cause is said once.
const REASONS_MAX: usize = 16;

/// What a descriptor of the poller is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Watch {
    /// The heartbeat's timer.
    Tick,
    /// Signals.
    Signal,
    /// New peers on `init.sock`.
    Control,
    /// One of them.
    Connection(usize),
    /// Output of a service.
    Output(usize),
    /// Notifications of a service.
    Notify(usize),
    /// The helper's answers.
    Helper,
    /// The helper's output.
    HelperOutput,
    /// The ledger's answers.
    Ledger,
}

impl Watch {
    /// As the poller's token.
    #[must_use]
    pub fn token(self) -> u64 {
        let (kind, index) = match self {
            Self::Tick => (1, 0),
            Self::Signal => (2, 0),
            Self::Control => (3, 0),
            Self::Connection(i) => (4, i),
            Self::Output(i) => (5, i),
            Self::Notify(i) => (6, i),
            Self::Helper => (7, 0),
            Self::HelperOutput => (8, 0),
            Self::Ledger => (9, 0),
        };
        kind << 32 | index as u64
    }

    fn of(token: u64) -> Option<Self> {
        let index = usize::try_from(token & 0xffff_ffff).ok()?;
        Some(match token >> 32 {
            1 => Self::Tick,
            2 => Self::Signal,
            3 => Self::Control,
            4 => Self::Connection(index),
            5 => Self::Output(index),
            6 => Self::Notify(index),
            7 => Self::Helper,
            8 => Self::HelperOutput,
            9 => Self::Ledger,
            _ => return None,
        })
    }
}

/// The heartbeat's record.
#[derive(Debug, Default)]
pub struct BeatRecord {
    /// Beats since the loop began.
    pub count: u64,
    /// Period.
    pub period_ns: u64,
    /// Beats whose own CPU time exceeded the period.
    pub missed: u64,
    coalesced: u64,
    cpu_last_ns: u64,
    cpu_max_ns: u64,
    lateness: [u32; LATENESS_BUCKETS],
    late_max_ns: u64,
    orphans: u64,
    due_ns: u64,
}

impl BeatRecord {
    /// For the wire.
    #[must_use]
    pub fn record(&self) -> Beat {
        Beat {
            count: self.count,
            period_ns: self.period_ns,
            missed: self.missed,
            coalesced: self.coalesced,
            cpu_last_ns: self.cpu_last_ns,
            cpu_max_ns: self.cpu_max_ns,
            lateness: self.lateness,
            late_max_ns: self.late_max_ns,
            orphans: self.orphans,
        }
    }

    fn late(&mut self, ns: u64) {
        let bucket = (0..LATENESS_BUCKETS - 1)
            .find(|i| ns < 16_000 << i)
            .unwrap_or(LATENESS_BUCKETS - 1);
        if let Some(count) = self.lateness.get_mut(bucket) {
            *count = count.saturating_add(1);
        }
        self.late_max_ns = self.late_max_ns.max(ns);
    }
}

/// One phase of the boot.
#[derive(Debug)]
pub struct PhaseRecord {
    /// Its name.
    pub name: Fixed<48>,
    /// From the handoff.
    pub begin_ns: u64,
    /// From the handoff.
    pub end_ns: u64,
    /// For people.
    pub note: String,
}

/// An executable that services run.
#[derive(Debug)]
pub struct Image {
    /// `vector_boot`, `vb-services` or an added one's.
    pub name: String,
    /// In hand, or not yet, or why not.
    pub held: Held,
    /// The initramfs's own, should the package's not hold.
    pub fallback: Option<OwnedFd>,
}

/// Whether an image is in hand.
#[derive(Debug)]
pub enum Held {
    /// Ready to be exec'd.
    Yes(OwnedFd),
    /// The helper is loading it.
    Loading,
    /// Why it cannot be had.
    No(String),
}

/// How far an orderly end is.
#[derive(Debug, Clone, Copy)]
enum Ending {
    No,
    /// The outbox empties until then.
    Draining(u64),
    /// Services stop.
    Stopping,
    /// File systems are flushed until then.
    Unmounting(u64),
    Over,
}

/// PID 1's helper.
#[derive(Default)]
pub struct HelperProcess {
    child: Option<Child>,
    output: Option<File>,
    retry_at_ns: u64,
}

/// Everything.
pub struct Heart {
    /// What the composition chose.
    pub setup: Setup,
    /// When PID 1 took over.
    pub handoff_ns: u64,
    pub(crate) journal: Journal,
    pub(crate) params: Params,
    pub(crate) poller: Poller,
    pub(crate) supervisor: Supervisor,
    pub(crate) units: Vec<Unit>,
    pub(crate) images: Vec<Image>,
    pub(crate) control: PacketListener,
    pub(crate) connections: Vec<Option<Connection>>,
    pub(crate) generation: u64,
    pub(crate) helper: HelperLink,
    pub(crate) beat: BeatRecord,
    pub(crate) phases: Vec<PhaseRecord>,
    pub(crate) degraded: Vec<String>,
    pub(crate) package_name: String,
    pub(crate) model: Model,
    pub(crate) hostname: String,
    pub(crate) watchdog_name: String,
    pub(crate) unconfined: String,
    pub(crate) token: OwnedFd,
    pub(crate) rts: Option<OwnedFd>,
    pub(crate) sensors: Option<OwnedFd>,
    helper_process: HelperProcess,
    ledger: LedgerLink,
    signals: Signals,
    ticker: Ticker,
    null: File,
    watchdog: Option<File>,
    pub(crate) work: Box<dyn BeatWork>,
    /// Kept for its mapping: the tensors stay where they lie.
    pub(crate) found: Option<Found>,
    pub(crate) manifest: Manifest,
    pub(crate) open: Open,
    pub(crate) storage_ready: bool,
    verified: bool,
    scrub_next: Option<u64>,
    ready_said: bool,
    ending: Ending,
    power: Power,
    /// Folder that is unmounted at the end.
    pub(crate) mounted: Vec<String>,
}

/// What the boot made, to be kept beating.
pub struct Parts {
    /// See [`Heart`].
    pub setup: Setup,
    /// See [`Heart`].
    pub handoff_ns: u64,
    /// See [`Heart`].
    pub journal: Journal,
    /// See [`Heart`].
    pub params: Params,
    /// See [`Heart`].
    pub supervisor: Supervisor,
    /// See [`Heart`].
    pub units: Vec<Unit>,
    /// See [`Heart`].
    pub images: Vec<Image>,
    /// See [`Heart`].
    pub control: PacketListener,
    /// See [`Heart`].
    pub phases: Vec<PhaseRecord>,
    /// See [`Heart`].
    pub degraded: Vec<String>,
    /// See [`Heart`].
    pub package_name: String,
    /// See [`Heart`].
    pub hostname: String,
    /// See [`Heart`].
    pub unconfined: String,
    /// See [`Heart`].
    pub token: OwnedFd,
    /// See [`Heart`].
    pub sensors: Option<OwnedFd>,
    /// See [`Heart`].
    pub found: Option<Found>,
    /// See [`Heart`].
    pub work: Box<dyn BeatWork>,
    /// See [`Heart`].
    pub watchdog: Option<(File, String)>,
    /// See [`Heart`].
    pub manifest: Manifest,
    /// See [`Heart`].
    pub open: Open,
}

impl Heart {
    /// Takes over what the boot made.
    ///
    /// # Errors
    /// As the system calls that make poller, timer and signals: without them nothing beats.
    pub fn new(parts: Parts) -> std::io::Result<Self> {
        const SIGHUP: i32 = 1;
        const SIGINT: i32 = 2;
        const SIGUSR1: i32 = 10;
        const SIGUSR2: i32 = 12;
        const SIGTERM: i32 = 15;
        const SIGCHLD: i32 = 17;
        let period = Duration::from_millis(parts.params.number("vb.heartbeat_ms"));
        let signals = Signals::new(&[SIGHUP, SIGINT, SIGUSR1, SIGUSR2, SIGTERM, SIGCHLD])?;
        let ticker = Ticker::new(period)?;
        let poller = Poller::new()?;
        poller.add(signals.as_fd(), Watch::Signal.token(), Interest::Read)?;
        poller.add(ticker.as_fd(), Watch::Tick.token(), Interest::Read)?;
        poller.add(
            parts.control.as_fd(),
            Watch::Control.token(),
            Interest::Read,
        )?;
        sys::inherit::set_nonblocking(parts.control.as_fd())?;
        let period_ns = u64::try_from(period.as_nanos()).unwrap_or(u64::MAX);
        let (watchdog, watchdog_name) = match parts.watchdog {
            Some((file, name)) => (Some(file), name),
            None => (None, "none".to_owned()),
        };
        Ok(Self {
            ledger: LedgerLink::new(parts.setup.run_folder().join("ledger.wire")),
            null: File::options().read(true).write(true).open("/dev/null")?,
            connections: std::iter::repeat_with(|| None)
                .take(CONNECTIONS_MAX)
                .collect(),
            rts: parts
                .found
                .as_ref()
                .and_then(|f| crate::package::handle(f).ok()),
            model: parts
                .found
                .as_ref()
                .map(|f| f.model.clone())
                .unwrap_or_default(),
            beat: BeatRecord {
                period_ns,
                due_ns: sys::clock::monotonic_ns() + period_ns,
                ..BeatRecord::default()
            },
            setup: parts.setup,
            handoff_ns: parts.handoff_ns,
            journal: parts.journal,
            params: parts.params,
            supervisor: parts.supervisor,
            units: parts.units,
            images: parts.images,
            control: parts.control,
            phases: parts.phases,
            degraded: parts.degraded,
            package_name: parts.package_name,
            hostname: parts.hostname,
            unconfined: parts.unconfined,
            token: parts.token,
            sensors: parts.sensors,
            found: parts.found,
            manifest: parts.manifest,
            open: parts.open,
            work: parts.work,
            generation: 0,
            helper: HelperLink::new(),
            helper_process: HelperProcess::default(),
            poller,
            signals,
            ticker,
            watchdog,
            watchdog_name,
            storage_ready: false,
            verified: false,
            scrub_next: None,
            ready_said: false,
            ending: Ending::No,
            power: Power::Poweroff,
            mounted: Vec::new(),
        })
    }

    /// Watches the notify sockets, once they are bound.
    pub(crate) fn watch_notify_sockets(&mut self) {
        for (i, unit) in self.units.iter().enumerate() {
            if let Some(fd) = unit.notify()
                && let Err(e) = self
                    .poller
                    .add(fd, Watch::Notify(i).token(), Interest::Read)
            {
                self.journal.say(
                    Level::Error,
                    format_args!("service {}: notify socket: {e}", unit.name()),
                );
            }
        }
    }

    /// Beats until the machine ends; answers how it is to end.
    pub fn run(&mut self) -> End {
        self.begin();
        let mut more = false;
        loop {
            let limit = if more { Some(Duration::ZERO) } else { None };
            if let Err(e) = self.poller.wait(limit) {
                // Nothing that can fail here goes away by trying; the beat goes on by the clock.
                self.journal.say(Level::Error, format_args!("epoll: {e}"));
                std::thread::sleep(Duration::from_millis(10));
            }
            let woken_cpu = sys::clock::thread_cpu_ns();
            more = false;
            let mut index = 0;
            let mut beat = false;
            while let Some(ready) = self.poller.ready(index) {
                index += 1;
                match Watch::of(ready.token) {
                    Some(Watch::Tick) => beat = true,
                    Some(Watch::Signal) => more |= self.take_signals(),
                    Some(watch) => self.react(watch, ready.hung_up),
                    None => {}
                }
            }
            if beat {
                self.on_beat(woken_cpu);
            }
            if let Ending::Over = self.ending {
                return match self.power {
                    Power::Reboot => End::Reboot,
                    Power::Poweroff => End::Off,
                    Power::Halt => End::Halt,
                };
            }
        }
    }

    /// The first turn: the helper and everything that waits for nothing.
    fn begin(&mut self) {
        self.start_helper();
        self.queue_boot_tasks();
        for i in 0..self.units.len() {
            self.unblock(i);
        }
        let boot = self.setup.is_appliance();
        self.journal.event(
            Weight::Important,
            ["machine_booted", "machine", ""],
            format_args!(
                "\"package\":\"{}\",\"tensors\":{},\"mapped_bytes\":{},\"appliance\":{boot},\"version\":\"{}\",\"degraded\":{}",
                Json(&self.package_name),
                self.model.tensors,
                self.model.bytes,
                env!("CARGO_PKG_VERSION"),
                !self.degraded.is_empty(),
            ),
        );
    }

    fn react(&mut self, watch: Watch, hung_up: bool) {
        match watch {
            Watch::Tick | Watch::Signal => {}
            Watch::Control => self.accept_control(),
            Watch::Connection(slot) => self.serve(slot, hung_up),
            Watch::Output(i) => self.read_output(i),
            Watch::Notify(i) => self.read_notes(i),
            Watch::Helper => self.read_helper(hung_up),
            Watch::HelperOutput => self.read_helper_output(),
            Watch::Ledger => self.pump_ledger(hung_up),
        }
    }

    // --- the beat ------------------------------------------------------------------------------

    fn on_beat(&mut self, woken_cpu: u64) {
        let ticks = self.ticker.take();
        if ticks == 0 {
            return;
        }
        let now = sys::clock::monotonic_ns();
        self.beat.count += 1;
        self.beat.coalesced += ticks - 1;
        // The timer's own schedule: late is what passed since the last expiration that was due.
        let due = self.beat.due_ns + (ticks - 1) * self.beat.period_ns;
        let late = now.saturating_sub(due);
        self.beat.late(late);
        self.beat.due_ns = due + self.beat.period_ns;
        if self.beat.count == 1 {
            self.phase("first-beat", self.handoff_ns, now, String::new());
        }
        self.decide(Event::Tick);
        self.retry_helper(now);
        self.pump_ledger(false);
        self.scrub();
        self.go_on_ending(now);
        self.say_when_ready(now);
        self.sample(now, late);
        self.journal.state.set_beats(self.beat.count);
        self.pet_watchdog();
        let cpu = sys::clock::thread_cpu_ns().saturating_sub(woken_cpu);
        self.beat.cpu_last_ns = cpu;
        self.beat.cpu_max_ns = self.beat.cpu_max_ns.max(cpu);
        self.beat.missed += u64::from(cpu > self.beat.period_ns);
    }

    fn sample(&mut self, now: u64, late: u64) {
        let turn = usize::try_from(self.beat.count)
            .unwrap_or(0)
            .checked_rem(self.units.len())
            .unwrap_or(0);
        if let Some(unit) = self.units.get_mut(turn) {
            // One service a beat: reading a cgroup file costs a system call.
            unit.memory_bytes = unit.leaf.as_ref().and_then(|l| l.memory_bytes());
        }
        let mut services = heapless::Vec::<ServiceFact<'_>, UNITS_MAX>::new();
        for (i, unit) in self.units.iter().enumerate() {
            // There are never more units than places.
            let _ = services.push(ServiceFact {
                name: unit.name(),
                state: crate::control::state_of(self.supervisor.phase(i)),
                restarts: self.supervisor.restarts(i),
                memory_bytes: unit.memory_bytes,
            });
        }
        self.work.beat(&BeatFacts {
            beat: self.beat.count,
            now_ns: now,
            period_ns: self.beat.period_ns,
            late_ns: late,
            cpu_last_ns: self.beat.cpu_last_ns,
            services: &services,
            watchdog: self.watchdog.is_some(),
        });
    }

    fn pet_watchdog(&mut self) {
        use std::io::Write;
        if let Some(watchdog) = &mut self.watchdog {
            // A watchdog that takes nothing will bite, which is what it is for.
            let _ = watchdog.write(b"\n");
        }
    }

    // --- services --------------------------------------------------------------------------------

    /// Asks the policy and does what it says.
    pub(crate) fn decide(&mut self, event: Event) {
        let mut next = Some(event);
        let mut later: heapless::Deque<Event, 64> = heapless::Deque::new();
        while let Some(event) = next {
            let mut actions = Actions::new();
            self.supervisor
                .step(sys::clock::monotonic_ns(), event, &mut actions);
            for action in actions {
                if let Some(follow) = self.perform(action) {
                    // At most one follow-up a start, and fewer services than places.
                    let _ = later.push_back(follow);
                }
            }
            next = later.pop_front();
        }
    }

    fn perform(&mut self, action: Action) -> Option<Event> {
        match action {
            Action::Start(i) => Some(self.start(i)),
            Action::Terminate(i) => {
                const SIGTERM: i32 = 15;
                if let Some(unit) = self.units.get(i) {
                    // One that is gone already will be reaped.
                    let _ = unit.signal(SIGTERM);
                }
                None
            }
            Action::Kill(i, cause) => {
                if let Some(unit) = self.units.get(i) {
                    self.journal.say(
                        Level::Warn,
                        format_args!(
                            "service killed: name={} cause=\"{}\"",
                            unit.name(),
                            cause.as_str()
                        ),
                    );
                    unit.kill();
                }
                None
            }
            Action::Changed { unit, from, to } => {
                self.note_change(unit, from, to);
                None
            }
            Action::AllStopped => {
                self.all_stopped();
                None
            }
        }
    }

    fn start(&mut self, i: usize) -> Event {
        let now = sys::clock::monotonic_ns();
        let Some(unit) = self.units.get_mut(i) else {
            return Event::StartFailed(i);
        };
        // A user's program is exec'd by the jail, which is one of our roles.
        let runs = if matches!(unit.service.image, rts::manifest::Image::Added(_)) {
            VECTOR_BOOT
        } else {
            unit.image
        };
        let result = match self.images.get(runs).map(|image| &image.held) {
            Some(Held::Yes(image)) => unit.start(image.as_fd(), self.null.as_fd(), now),
            _ => Err(std::io::ErrorKind::NotFound.into()),
        };
        match result {
            Ok(()) => {
                if let Some(output) = &unit.output {
                    // Without a place in the poller its output is lost, the service is not.
                    let _ =
                        self.poller
                            .add(output.as_fd(), Watch::Output(i).token(), Interest::Read);
                }
                Event::Started(i)
            }
            Err(e) => {
                unit.last_exit = Fixed::of(format_args!("start: {e}"));
                self.journal.say(
                    Level::Error,
                    format_args!("service not started: name={} cause=\"{e}\"", unit.name()),
                );
                Event::StartFailed(i)
            }
        }
    }

    fn note_change(&mut self, i: usize, from: Phase, to: Phase) {
        let now = sys::clock::monotonic_ns();
        let restarts = self.supervisor.restarts(i);
        let Some(unit) = self.units.get_mut(i) else {
            return;
        };
        let pid = unit.child.as_ref().map_or(0, |c| c.pid.unsigned_abs());
        let row = UnitRow {
            name: unit.service.name.as_str(),
            pid,
            started_ns: unit.started_ns,
            restarts,
            phase: to as u8,
        };
        self.journal.state.set_unit(i, &row);
        let name = unit.service.name.as_str();
        match to {
            Phase::Up => {
                unit.ready_ns = now.saturating_sub(unit.started_ns);
                let ms = unit.ready_ns / 1_000_000;
                self.journal.say(
                    Level::Info,
                    format_args!("service up: name={name} pid={pid} ready_ms={ms}"),
                );
                self.journal.event(
                    Weight::Routine,
                    ["service_ready", name, ""],
                    format_args!(
                        "\"pid\":{pid},\"ready_us\":{},\"restarts\":{restarts}",
                        unit.ready_ns / 1000
                    ),
                );
                if name == "console" {
                    self.journal.console_is_up = true;
                }
                let label = Fixed::<48>::of(format_args!("ready:{name}"));
                if !self.ready_said
                    && self
                        .phases
                        .iter()
                        .all(|p| p.name.as_str() != label.as_str())
                {
                    let begin = unit.started_ns;
                    self.phase(label.as_str(), begin, now, String::new());
                }
            }
            Phase::Starting => {}
            Phase::Backoff | Phase::Failed | Phase::Waiting
                if matches!(from, Phase::Starting | Phase::Up) =>
            {
                if name == "console" {
                    self.journal.console_is_up = false;
                }
                let (word, level) = match to {
                    Phase::Failed => ("service failed", Level::Error),
                    _ => ("service died", Level::Warn),
                };
                self.journal.say(
                    level,
                    format_args!(
                        "{word}: name={name} cause=\"{}\" restarts={restarts}",
                        unit.last_exit
                    ),
                );
                let kind = if to == Phase::Failed {
                    "service_failed"
                } else {
                    "service_restarted"
                };
                self.journal.event(
                    Weight::Important,
                    [kind, name, ""],
                    format_args!(
                        "\"cause\":\"{}\",\"restarts\":{restarts}",
                        Json(unit.last_exit.as_str())
                    ),
                );
            }
            Phase::Stopped => {
                self.journal.say(
                    Level::Info,
                    format_args!("service stopped: name={name} cause=\"{}\"", unit.last_exit),
                );
                self.journal.event(
                    Weight::Important,
                    ["service_stopped", name, ""],
                    format_args!("\"cause\":\"{}\"", Json(unit.last_exit.as_str())),
                );
            }
            Phase::Waiting | Phase::Backoff | Phase::Failed | Phase::Stopping => {}
        }
    }

    /// Lets a service start once everything that it needs from outside the other services is there.
    pub(crate) fn unblock(&mut self, i: usize) {
        let Some(unit) = self.units.get(i) else {
            return;
        };
        if unit.spawn.is_some() {
            return;
        }
        let image = match self.images.get(unit.image).map(|image| &image.held) {
            Some(Held::Yes(_)) => true,
            Some(Held::Loading) | None => false,
            Some(Held::No(why)) => {
                let reason = format!("service {}: {why}", unit.name());
                self.degrade(reason);
                return;
            }
        };
        let storage = self.storage_ready || !crate::boot::needs_storage(&unit.service);
        if !image || !storage {
            return;
        }
        match crate::boot::prepare_unit(self, i) {
            Ok(()) => self.decide(Event::Unblocked(i)),
            Err(e) => self.degrade(e),
        }
    }

    fn read_output(&mut self, i: usize) {
        let now = sys::clock::monotonic_ns();
        let by = u8::try_from(i).unwrap_or(u8::MAX);
        if let Some(unit) = self.units.get_mut(i) {
            // At its end the descriptor is closed, which takes it out of the poller.
            unit.read_output(by, now, &mut self.journal.state);
        }
    }

    fn read_notes(&mut self, i: usize) {
        let Some(unit) = self.units.get_mut(i) else {
            return;
        };
        let notes = unit.read_notes();
        if notes.ready {
            self.decide(Event::Ready(i));
        }
        if notes.ready || notes.alive {
            self.decide(Event::Alive(i));
        }
    }

    // --- signals and children -----------------------------------------------------------------

    /// True if more dead children wait.
    fn take_signals(&mut self) -> bool {
        const SIGINT: i32 = 2;
        const SIGUSR1: i32 = 10;
        const SIGUSR2: i32 = 12;
        const SIGTERM: i32 = 15;
        // Bounded: a standard signal is pending once.
        for _ in 0..16 {
            let Some((signal, _)) = self.signals.take() else {
                break;
            };
            match signal {
                SIGTERM | SIGINT if self.setup.is_appliance() => {
                    self.begin_shutdown(Power::Reboot, "user:signal")
                }
                SIGTERM | SIGINT | SIGUSR2 => self.begin_shutdown(Power::Poweroff, "user:signal"),
                SIGUSR1 => self.begin_shutdown(Power::Halt, "user:signal"),
                _ => {}
            }
        }
        self.reap()
    }

    fn reap(&mut self) -> bool {
        for _ in 0..REAP_A_TURN {
            match sys::process::reap() {
                Ok(Some(reaped)) => self.child_ended(&reaped),
                Ok(None) | Err(_) => return false,
            }
        }
        true
    }

    fn child_ended(&mut self, reaped: &Reaped) {
        let now = sys::clock::monotonic_ns();
        let of_child = |child: &Option<Child>| child.as_ref().is_some_and(|c| c.pid == reaped.pid);
        if let Some(i) = self.units.iter().position(|u| of_child(&u.child)) {
            // What it said last belongs to the post-mortem: read it before the restart.
            self.read_output(i);
            let Some(unit) = self.units.get_mut(i) else {
                return;
            };
            let ran_ms = now.saturating_sub(unit.started_ns) / 1_000_000;
            unit.ended(reaped, now);
            if unit.leaf.is_some() {
                // What it left behind in its leaf would be a second instance of it.
                unit.kill();
            }
            let name = unit.service.name.as_str();
            self.journal.event(
                Weight::Important,
                ["service_exited", name, ""],
                format_args!(
                    "\"pid\":{},\"cause\":\"{}\",\"ran_ms\":{ran_ms},\"user_us\":{},\"system_us\":{},\"peak_kib\":{}",
                    reaped.pid,
                    Json(Fixed::<48>::of(format_args!("{}", reaped.exit)).as_str()),
                    reaped.user_us,
                    reaped.system_us,
                    reaped.peak_kib,
                ),
            );
            self.decide(Event::Exited {
                unit: i,
                success: reaped.exit == Exit::Code(0),
            });
        } else if of_child(&self.helper_process.child) {
            self.helper_process.child = None;
            self.helper_process.retry_at_ns = now + HELPER_RETRY_NS;
            self.journal.say(
                Level::Warn,
                format_args!("helper died: cause=\"{}\"", reaped.exit),
            );
        } else {
            self.beat.orphans += 1;
        }
    }

    // --- helper ----------------------------------------------------------------------------------

    fn start_helper(&mut self) {
        let result = self.spawn_helper();
        if let Err(e) = result {
            self.helper_process.retry_at_ns = sys::clock::monotonic_ns() + HELPER_RETRY_NS;
            self.journal
                .say(Level::Error, format_args!("helper not started: {e}"));
        }
    }

    fn spawn_helper(&mut self) -> std::io::Result<()> {
        let image = self.images.get(VECTOR_BOOT).map(|i| &i.held);
        let Some(Held::Yes(image)) = image else {
            return Err(std::io::ErrorKind::NotFound.into());
        };
        let theirs = self.helper.renew()?;
        let (read, write) = std::io::pipe()?;
        let read = OwnedFd::from(read);
        sys::inherit::set_nonblocking(read.as_fd())?;
        let mut spawn = Spawn::new(
            &["vector_boot", "helper"],
            &[("VB_NAME", "helper")],
            &["helper"],
        )?;
        let child = spawn.start(&Descriptors {
            image: image.as_fd(),
            stdio: [self.null.as_fd(), write.as_fd(), write.as_fd()],
            passed: &[theirs.as_fd()],
            cgroup: None,
        })?;
        self.helper_process.child = Some(child);
        if let Some(socket) = self.helper.socket() {
            self.poller
                .add(socket, Watch::Helper.token(), Interest::Read)?;
        }
        self.poller
            .add(read.as_fd(), Watch::HelperOutput.token(), Interest::Read)?;
        self.helper_process.output = Some(File::from(read));
        self.helper.pump();
        Ok(())
    }

    fn retry_helper(&mut self, now: u64) {
        if self.helper_process.child.is_none() && now >= self.helper_process.retry_at_ns {
            self.start_helper();
        }
        self.helper.pump();
    }

    fn read_helper_output(&mut self) {
        use std::io::Read;
        let mut buf = [0u8; 2048];
        let Some(output) = &mut self.helper_process.output else {
            return;
        };
        match output.read(&mut buf) {
            Ok(0) => self.helper_process.output = None,
            Ok(bytes) => {
                let now = sys::clock::monotonic_ns();
                for line in buf
                    .get(..bytes)
                    .unwrap_or_default()
                    .split(|b| *b == b'\n')
                    .filter(|l| !l.is_empty())
                {
                    self.journal
                        .state
                        .push_line(now, BY_HELPER, Level::Info, line);
                }
            }
            Err(_) => {}
        }
    }

    fn read_helper(&mut self, hung_up: bool) {
        while let Some(answer) = self.helper.take() {
            self.take_answer(answer);
        }
        if hung_up && let Some(socket) = self.helper.socket() {
            // The next one brings its own.
            let _ = self.poller.remove(socket);
        }
    }

    fn take_answer(&mut self, answer: Answer) {
        let now = sys::clock::monotonic_ns();
        match (answer.purpose, answer.result) {
            (Purpose::Verify, Ok(bytes)) => {
                self.verified = true;
                self.journal
                    .say(Level::Info, format_args!("package verified: bytes={bytes}"));
                self.scrub_next = Some(0);
            }
            (Purpose::Verify, Err(e)) => self.degrade(format!("package: {e}")),
            (Purpose::Load(i), result) => {
                let fallback = self
                    .images
                    .get_mut(i)
                    .and_then(|image| image.fallback.take());
                let held = match (result, answer.descriptor, fallback) {
                    (Ok(_), Some(fd), _) => Held::Yes(fd),
                    (Ok(_), None, _) => Held::No("no image came back".to_owned()),
                    (Err(e), _, Some(own)) => {
                        self.degrade(format!("package: {e}; the initramfs's own runs"));
                        Held::Yes(own)
                    }
                    (Err(e), _, None) => Held::No(e),
                };
                if let Some(image) = self.images.get_mut(i) {
                    image.held = held;
                }
                for unit in 0..self.units.len() {
                    if self.units.get(unit).is_some_and(|u| u.image == i) {
                        self.unblock(unit);
                    }
                }
            }
            (Purpose::Scrub(first), Ok(0)) => {
                self.journal.say(
                    Level::Info,
                    format_args!("tensors verified: blocks={first}"),
                );
            }
            (Purpose::Scrub(first), Ok(held)) => self.scrub_next = Some(first + held),
            (Purpose::Scrub(_), Err(e)) => self.degrade(format!("tensors: {e}")),
            (Purpose::Leases(slot, generation, id, epoch), result) => {
                self.answer_plan(slot, generation, id, epoch, &result);
            }
            (Purpose::StorageReady, result) => {
                if let Err(e) = result {
                    self.degrade(e);
                }
                self.storage_ready = true;
                self.phase("storage", self.handoff_ns, now, String::new());
                crate::boot::open_roots(self);
                for i in 0..self.units.len() {
                    self.unblock(i);
                }
            }
            (Purpose::MountData, Err(e)) => {
                self.degrade(format!("data disk: {e}; files of this boot end with it"));
            }
            (Purpose::MountData | Purpose::MountRoot(_), Ok(_)) => {}
            (Purpose::MountRoot(_) | Purpose::Provision, Err(e)) => self.degrade(e),
            (Purpose::Provision, Ok(_)) => {}
            (Purpose::Unmount, result) => {
                if let Err(e) = result {
                    self.journal.tell_terminal(&e);
                }
                if self.helper.is_idle() {
                    self.ending = Ending::Over;
                }
            }
        }
    }

    /// Asks for the next piece of the scrub once every service is up.
    fn scrub(&mut self) {
        if !self.ready_said || !self.helper.is_idle() {
            return;
        }
        let Some(first) = self.scrub_next.take() else {
            return;
        };
        let Some(handle) = self
            .found
            .as_ref()
            .and_then(|f| crate::package::handle(f).ok())
        else {
            return;
        };
        self.helper.ask(
            Purpose::Scrub(first),
            &Task::Scrub {
                first,
                count: SCRUB_BLOCKS,
            },
            Some(handle),
        );
    }

    fn queue_boot_tasks(&mut self) {
        crate::boot::queue_storage(self);
        if let Some(handle) = self
            .found
            .as_ref()
            .filter(|f| !f.plain)
            .and_then(|f| crate::package::handle(f).ok())
        {
            self.helper
                .ask(Purpose::Verify, &Task::VerifyPackage, Some(handle));
        }
        for i in 0..self.images.len() {
            let Some(image) = self
                .images
                .get(i)
                .filter(|image| matches!(image.held, Held::Loading))
            else {
                continue;
            };
            let name = image.name.clone();
            match self
                .found
                .as_ref()
                .and_then(|f| crate::package::handle(f).ok())
            {
                Some(handle) => {
                    self.helper
                        .ask(Purpose::Load(i), &Task::Load { name: &name }, Some(handle));
                }
                None => {
                    if let Some(image) = self.images.get_mut(i) {
                        image.held = Held::No(format!("image {name}: no package"));
                    }
                }
            }
        }
    }

    // --- ledger ----------------------------------------------------------------------------------

    fn pump_ledger(&mut self, hung_up: bool) {
        let mut well = !hung_up;
        if self.ledger.socket().is_none() {
            if self.ledger.connect(&self.journal.state)
                && let Some(socket) = self.ledger.socket()
            {
                // Unwatched it is still looked at on every beat.
                let _ = self
                    .poller
                    .add(socket, Watch::Ledger.token(), Interest::Read);
            }
            return;
        }
        well &= self.ledger.read(&mut self.journal.state);
        well &= self.ledger.write(&self.journal.state);
        if !well {
            if let Some(socket) = self.ledger.socket() {
                let _ = self.poller.remove(socket);
            }
            self.ledger.drop_connection();
        }
    }

    // --- state of the whole ----------------------------------------------------------------------

    /// Notes a cause of the degraded state, once.
    pub(crate) fn degrade(&mut self, reason: String) {
        if self.degraded.len() >= REASONS_MAX || self.degraded.contains(&reason) {
            return;
        }
        self.journal
            .say(Level::Error, format_args!("degraded: {reason}"));
        self.journal.event(
            Weight::Important,
            ["machine_degraded", "machine", ""],
            format_args!("\"reason\":\"{}\"", Json(&reason)),
        );
        self.degraded.push(reason);
    }

    /// How the machine is.
    pub(crate) fn machine_state(&self) -> MachineState {
        if !matches!(self.ending, Ending::No) {
            return MachineState::Stopping;
        }
        let phase = |i| self.supervisor.phase(i);
        // One that dies for the first time is only starting again.
        let failed = (0..self.units.len()).any(|i| match phase(i) {
            Phase::Failed => true,
            Phase::Backoff => self.ready_said || self.supervisor.restarts(i) >= SETTLED_RESTARTS,
            _ => false,
        });
        if !self.degraded.is_empty() || failed {
            return MachineState::Degraded;
        }
        // Whoever sees the machine ready finds the phase `ready` too: the next beat notes it.
        let noted = self.ready_said || (0..self.units.len()).any(|i| phase(i) == Phase::Stopped);
        if noted && (0..self.units.len()).all(|i| matches!(phase(i), Phase::Up | Phase::Stopped)) {
            MachineState::Ready
        } else {
            MachineState::Starting
        }
    }

    /// Why it is degraded.
    pub(crate) fn reasons(&self) -> String {
        let mut text = self.degraded.join("; ");
        for (i, unit) in self.units.iter().enumerate() {
            if matches!(self.supervisor.phase(i), Phase::Failed | Phase::Backoff) {
                let gap = if text.is_empty() { "" } else { "; " };
                text.push_str(&format!("{gap}service {}: {}", unit.name(), unit.last_exit));
            }
        }
        text
    }

    /// Notes a phase of the boot.
    pub(crate) fn phase(&mut self, name: &str, begin: u64, end: u64, note: String) {
        const PHASES_MAX: usize = 64;
        if self.phases.len() < PHASES_MAX {
            let since = |at: u64| at.saturating_sub(self.handoff_ns);
            self.phases.push(PhaseRecord {
                name: Fixed::of(format_args!("{name}")),
                begin_ns: since(begin),
                end_ns: since(end),
                note,
            });
        }
    }

    fn say_when_ready(&mut self, now: u64) {
        if self.ready_said || !(0..self.units.len()).all(|i| self.supervisor.phase(i) == Phase::Up)
        {
            return;
        }
        self.ready_said = true;
        // The last service to get ready made it so.
        let last = (0..self.units.len())
            .filter_map(|i| self.units.get(i))
            .map(|u| u.started_ns + u.ready_ns)
            .max()
            .unwrap_or(now);
        self.phase("ready", self.handoff_ns, last, String::new());
        let ms = last.saturating_sub(self.handoff_ns) / 1_000_000;
        self.journal.say(
            Level::Info,
            format_args!("ready: services={} ms={ms}", self.units.len()),
        );
        self.journal.event(
            Weight::Important,
            ["machine_ready", "machine", ""],
            format_args!("\"ms\":{ms}"),
        );
    }

    // --- the end ----------------------------------------------------------------------------------

    /// Begins an orderly end: recorded first, then services in reverse order, then the disks.
    pub(crate) fn begin_shutdown(&mut self, power: Power, actor: &str) {
        if !matches!(self.ending, Ending::No) {
            return;
        }
        let word = match power {
            Power::Reboot => "reboot",
            Power::Poweroff => "poweroff",
            Power::Halt => "halt",
        };
        self.power = power;
        self.journal.event(
            Weight::Important,
            ["machine_stopping", "machine", actor],
            format_args!("\"how\":\"{word}\""),
        );
        self.journal
            .say(Level::Info, format_args!("{word}: stopping services"));
        self.pump_ledger(false);
        self.ending = Ending::Draining(sys::clock::monotonic_ns() + DRAIN_NS);
    }

    fn go_on_ending(&mut self, now: u64) {
        match self.ending {
            Ending::Draining(until)
                if now >= until || self.journal.state.outbox_counts().0 == 0 =>
            {
                self.ending = Ending::Stopping;
                self.decide(Event::Shutdown);
            }
            Ending::Unmounting(until) if now >= until => {
                self.journal
                    .tell_terminal("shutdown: the disks took too long");
                self.ending = Ending::Over;
            }
            _ => {}
        }
    }

    fn all_stopped(&mut self) {
        let targets = std::mem::take(&mut self.mounted);
        let asked = targets
            .iter()
            .filter(|t| {
                self.helper
                    .ask(Purpose::Unmount, &Task::Unmount { target: t }, None)
            })
            .count();
        self.ending = if asked == 0 {
            Ending::Over
        } else {
            Ending::Unmounting(sys::clock::monotonic_ns() + UNMOUNT_NS)
        };
    }

    /// Lets the watchdog go, so that an orderly halt stays one.
    pub fn release_watchdog(&mut self) {
        use std::io::Write;
        if let Some(watchdog) = &mut self.watchdog {
            // The magic close of the watchdog API; a driver that forbids it bites later.
            let _ = watchdog.write(b"V");
        }
        self.watchdog = None;
    }

    /// The last line on the terminal.
    pub fn say_last(&mut self, end: End) {
        let line = match end {
            End::Reboot => "vector_boot: rebooting",
            End::Off => "vector_boot: power off",
            End::Halt => "vector_boot: halted",
        };
        self.journal.tell_terminal(line);
    }
}
