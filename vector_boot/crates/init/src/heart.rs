//! The heartbeat: one thread, one epoll; everything that PID 1 does after its boot happens here.
//!
//! Owns every descriptor of the machine. Never waits for anything but [`Poller::wait`], never
//! allocates on the path of a beat. Start with [`Heart::run`].

mod along;
mod buttons;
mod cells;
mod drill;
mod ending;
mod generations;
mod health;
pub(crate) mod memory;
mod metabolism;
mod passage;
mod reasons;
mod rest;
mod resumed;
mod services;
mod standing;
mod tasks;
mod time;
mod token;
mod upgrading;

use crate::boot::{Open, short};
use crate::control::Connection;
use crate::handover::{Cause, Holdings, Running, Standing};
use crate::helper_link::HelperLink;
use crate::journal::Journal;
use crate::ledger_link::LedgerLink;
use crate::package::{Found, Model};
use crate::params::Params;
use crate::state::records::{BeatRow, MachineRow};
use crate::state::{Fixed, Json, Level, Weight};
use crate::supervisor::{Event, Supervisor, UNITS_MAX};
use crate::unit::Unit;
use crate::watchdog::Guard;
use crate::why::Doing;
use crate::{BeatFacts, BeatWork, Deeds, ServiceFact, Setup};
pub use along::place_of;
use ipc::door::Complaints;
use resumed::{Behind, Resumed};
use rts::manifest::Manifest;
use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;
use sys::events::{Interest, Poller, Signals, Ticker};
use sys::machine::Power as End;
use sys::packet::PacketListener;
use sys::power_button::PowerButton;
use sys::release::Releaser;
use tasks::HelperProcess;
pub use upgrading::Ask;
use wire::control::{Beat, LATENESS_BUCKETS, Power};

/// Our own executable's place in the table of images.
const VECTOR_BOOT: usize = 0;
/// Place of `vb-services` as the boot found it.
const VB_SERVICES: usize = 1;

/// Beats in which the initramfs's own `vector_boot` is kept ready to take over from the package's: 10 s as a rule,
/// in which every service starts.
const TRIAL_BEATS: u64 = 100;
/// From an exec to a program's first statement, before the helper's start takes the processor.
const FIRST_STEPS: Duration = Duration::from_micros(200);

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
    /// A power button.
    Button(usize),
    /// `memory.events` of a service's cgroup.
    MemoryEvents(usize),
    /// The trigger on the memory pressure of a service, or of the machine.
    Pressure(usize),
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
            Self::Button(i) => (20, i),
            Self::MemoryEvents(i) => (21, i),
            Self::Pressure(i) => (22, i),
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
            20 => Self::Button(index),
            21 => Self::MemoryEvents(index),
            22 => Self::Pressure(index),
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

    /// For the state that outlives this image.
    fn row(&self) -> BeatRow {
        BeatRow {
            count: self.count,
            missed: self.missed,
            coalesced: self.coalesced,
            cpu_max_ns: self.cpu_max_ns,
            late_max_ns: self.late_max_ns,
            orphans: self.orphans,
            lateness: self.lateness,
        }
    }

    /// Goes on counting where the image before ended.
    fn go_on(&mut self, row: &BeatRow) {
        self.count = row.count;
        self.missed = row.missed;
        self.coalesced = row.coalesced;
        self.cpu_max_ns = row.cpu_max_ns;
        self.late_max_ns = row.late_max_ns;
        self.orphans = row.orphans;
        self.lateness = row.lateness;
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
    /// BLAKE3 in hex; empty where nobody has said.
    pub digest: String,
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
    /// New peers are not looked at until the next beat.
    pub(crate) control_rests: bool,
    pub(crate) complaints: Complaints,
    /// What peers sent is closed by it.
    pub(crate) releaser: Releaser,
    pub(crate) helper: HelperLink,
    pub(crate) beat: BeatRecord,
    pub(crate) phases: Vec<PhaseRecord>,
    pub(crate) degraded: Vec<String>,
    pub(crate) package_name: String,
    /// Which executable this is.
    pub(crate) running: Running,
    /// Short ids of the trusted keys.
    pub(crate) keys: Vec<String>,
    /// Whose packages are taken.
    pub(crate) trust: rts::Trust,
    pub(crate) upgrades: upgrading::Upgrades,
    pub(crate) generations: crate::generation::Generations,
    pub(crate) model: Model,
    pub(crate) hostname: String,
    pub(crate) unconfined: String,
    /// The boot token, once it could be drawn.
    pub(crate) token: Option<OwnedFd>,
    /// The helper waits for randomness.
    randomness_asked: bool,
    pub(crate) rts: Option<OwnedFd>,
    pub(crate) sensors: Option<OwnedFd>,
    /// The sensor page for its writer.
    pub(crate) sensors_own: Option<OwnedFd>,
    /// Where each change of a descriptor is listed, for another image.
    lists: bool,
    /// A PID 1 that goes on has this until it begins.
    resumed: Option<Resumed>,
    /// What it still has to catch up on.
    behind: Option<Behind>,
    /// As it was written last.
    written: MachineRow,
    /// What the boot began with, and what the next image is given.
    pub(crate) held: Holdings,
    helper_process: HelperProcess,
    pub(crate) clock: crate::clock::Clock,
    ledger: LedgerLink,
    signals: Signals,
    ticker: Ticker,
    usual: metabolism::Usual,
    null: File,
    pub(crate) watchdog: Guard,
    pub(crate) work: Box<dyn BeatWork>,
    /// Kept for its mapping: the tensors stay where they lie.
    pub(crate) found: Option<Found>,
    pub(crate) manifest: Manifest,
    pub(crate) open: Open,
    pub(crate) storage_ready: bool,
    /// The data folder is in hand.
    data_opened: bool,
    /// It was mounted so that it can be written.
    pub(crate) data_writable: bool,
    /// Its device, until its file system was asked to grow.
    pub(crate) data_device: Option<String>,
    troubles: Vec<(standing::Trouble, String)>,
    verified: bool,
    /// The kernel's other switches were set, as far as they can be.
    switched: bool,
    /// What waits until the services are up was asked of the helper.
    settled: bool,
    scrub_next: Option<u64>,
    /// Where the hashing that is under way began.
    scrub_from: Option<u64>,
    tensors_verified: bool,
    blocks_damaged: u32,
    /// No core service can run, which was said.
    hopeless: bool,
    /// Not even the console can.
    alone: bool,
    ready_said: bool,
    /// The beat in which memory is given back, if some was touched.
    rest_at: Option<u64>,
    ending: Ending,
    ending_since_ns: Option<u64>,
    /// A drill: when the loop stops beating, at the latest.
    hang_by_ns: Option<u64>,
    last_boot: reasons::LastBoot,
    /// Restarts in a row by the health gate, this end of the machine included; 0 for any other end.
    health_reboots: u8,
    /// The health gate restarts nothing any more.
    given_up: bool,
    buttons: Option<Vec<Option<PowerButton>>>,
    /// Those of the image before, until they are watched.
    pub(crate) buttons_of_before: Vec<PowerButton>,
    pub(crate) machine_strain: memory::Strain,
    memory_turn_ns: u64,
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
    pub running: Running,
    /// See [`Heart`].
    pub keys: Vec<String>,
    /// See [`Heart`].
    pub trust: rts::Trust,
    /// See [`Heart`].
    pub hostname: String,
    /// See [`Heart`].
    pub unconfined: String,
    /// See [`Heart`].
    pub sensors: Option<OwnedFd>,
    /// See [`Heart`].
    pub sensors_own: Option<OwnedFd>,
    /// See [`Heart`].
    pub held: Holdings,
    /// See [`Heart`].
    pub found: Option<Found>,
    /// See [`Heart`].
    pub work: Box<dyn BeatWork>,
    /// See [`Heart`].
    pub watchdog: Guard,
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
    // On the heap, since it lives as long as the machine and the stack is given back; made there, since it is large.
    #[inline(never)]
    pub fn new(parts: Parts) -> std::io::Result<Box<Self>> {
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
        // Fewer only mean that less may wait to be closed.
        let _ = sys::process::allow_open_files(sys::release::OPEN_FILES);
        let period_ns = u64::try_from(period.as_nanos()).unwrap_or(u64::MAX);
        Ok(Box::new(Self {
            ledger: LedgerLink::new(parts.setup.run_folder().join("ledger.wire")),
            null: File::options().read(true).write(true).open("/dev/null")?,
            connections: Vec::new(),
            rts: parts
                .found
                .as_ref()
                .and_then(|f| crate::package::handle(f).ok()),
            model: Model::default(),
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
            running: parts.running,
            keys: parts.keys,
            trust: parts.trust,
            upgrades: upgrading::Upgrades::default(),
            hostname: parts.hostname,
            unconfined: parts.unconfined,
            token: None,
            randomness_asked: false,
            sensors: parts.sensors,
            sensors_own: parts.sensors_own,
            held: parts.held,
            lists: false,
            resumed: None,
            behind: None,
            written: MachineRow::default(),
            // Without a list of blocks there is nothing to hold the tensors against.
            tensors_verified: parts.found.as_ref().is_none_or(|f| f.plain),
            found: parts.found,
            manifest: parts.manifest,
            open: parts.open,
            work: parts.work,
            generation: 0,
            control_rests: false,
            complaints: Complaints::default(),
            releaser: Releaser::default(),
            helper: HelperLink::new(),
            clock: crate::clock::Clock::new(),
            helper_process: HelperProcess::default(),
            poller,
            signals,
            ticker,
            usual: metabolism::Usual { period_ns },
            watchdog: parts.watchdog,
            storage_ready: false,
            data_opened: false,
            data_writable: true,
            data_device: None,
            troubles: Vec::new(),
            generations: crate::generation::Generations::default(),
            verified: false,
            switched: false,
            settled: false,
            scrub_next: None,
            scrub_from: None,
            blocks_damaged: 0,
            hopeless: false,
            alone: false,
            ready_said: false,
            rest_at: None,
            ending: Ending::No,
            ending_since_ns: None,
            hang_by_ns: None,
            last_boot: reasons::LastBoot::default(),
            health_reboots: 0,
            given_up: false,
            buttons: None,
            buttons_of_before: Vec::new(),
            machine_strain: memory::Strain::default(),
            memory_turn_ns: 0,
            power: Power::Poweroff,
            mounted: Vec::new(),
        }))
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

    /// Beats until the machine ends; answers how it is to end, or `None` when nothing can run.
    ///
    /// What it calls stays out of its frame, the only one that is never given back: the buffers in them
    /// would make it many pages.
    pub fn run(&mut self) -> Option<End> {
        match self.resumed.take() {
            Some(resumed) => self.begin_again(resumed),
            None => self.begin(),
        }
        let mut more = false;
        loop {
            let limit = if more { Some(Duration::ZERO) } else { None };
            if let Err(e) = self.poller.wait(limit) {
                // Nothing that can fail here goes away by trying; the beat goes on by the clock.
                self.journal.say(Level::Error, format_args!("epoll: {e}"));
                std::thread::sleep(Duration::from_millis(10));
            }
            let woken_cpu = sys::clock::thread_cpu_ns();
            self.at(Doing::Signals);
            // What the last turn left: no signal says it again.
            more = more && self.reap();
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
            self.go_on_upgrading();
            // What this turn asked of it need not wait for the next beat.
            self.wake_helper(sys::clock::monotonic_ns());
            self.releaser.step();
            self.at(Doing::Wait);
            if let Ending::Over = self.ending {
                return Some(match self.power {
                    Power::Reboot => End::Reboot,
                    Power::Poweroff => End::Off,
                    Power::Halt => End::Halt,
                });
            }
            if self.alone {
                return None;
            }
        }
    }

    /// The first turn: the helper and everything that waits for nothing.
    fn begin(&mut self) {
        // What waits for nothing runs before the helper does; what others wait for is asked of it meanwhile.
        self.at(Doing::Boot);
        self.unblock_all();
        // The last of them has only been executed; on one processor it runs now and not behind the helper's start.
        // sched_yield(2) would not do: who has just begun is behind whoever yields.
        if self.units.iter().any(|unit| unit.child.is_some()) {
            std::thread::sleep(FIRST_STEPS);
        }
        self.start_helper();
        self.keep_clock(sys::clock::monotonic_ns());
        self.queue_boot_tasks();
        self.unblock_all();
        self.keep_token();
        self.take_model();
        let boot = self.setup.is_appliance();
        let (digest, signer) = self
            .found
            .as_ref()
            .map_or(("", ""), |f| (f.digest.as_str(), f.signer()));
        // A path is as long as somebody likes; the event must fit its place.
        let cut = |text: &str| text.chars().take(60).collect::<String>();
        self.journal.event(
            Weight::Important,
            ["machine_booted", "machine", ""],
            format_args!(
                "\"package\":\"{}\",\"digest\":\"{digest}\",\"signer\":\"{signer}\",\"init\":\"{}\",\"init_from\":\"{}\",\"tensors\":{},\"mapped_bytes\":{},\"appliance\":{boot},\"version\":\"{}\",\"degraded\":{}",
                Json(&cut(&self.package_name)),
                short(&self.running.digest),
                Json(&cut(&self.running.from)),
                self.model.tensors,
                self.model.bytes,
                env!("CARGO_PKG_VERSION"),
                !self.degraded.is_empty(),
            ),
        );
        self.stand();
        self.list_all();
        // In its first beats a package's PID 1 gives way to the initramfs's own instead.
        if !sys::handover::is_armed() {
            self.arm();
        }
    }

    /// Notes what the next image is not to find out again.
    fn stand(&mut self) {
        self.held.standing = Standing {
            // One that cannot be compiled could not have been read.
            manifest: self.manifest_of_table().encode().unwrap_or_default(),
            package_name: self.package_name.clone(),
            model: self.model.clone(),
            hostname: self.hostname.clone(),
            found: self.found.is_some(),
        };
    }

    /// Services or package are others than they were: the next image is to find these.
    pub(super) fn stand_anew(&mut self) {
        if !self.lists {
            return;
        }
        if let Some(found) = &self.found
            && let Ok(file) = found.file.try_clone()
        {
            let place = self.package_name.split(' ').next().unwrap_or_default();
            self.held.package = Some((file, place.to_owned()));
        }
        self.stand();
        self.list_all();
        self.rearm();
    }

    /// What the next image is to find is other than it was.
    pub(super) fn rearm(&mut self) {
        self.note_past();
        // On trial the initramfs's own begins anew with the package that it finds.
        if self.held.cause != Cause::Package || self.beat.count >= TRIAL_BEATS {
            sys::handover::disarm();
            self.arm();
        }
    }

    /// From now on a crash makes us begin again where we are.
    fn arm(&mut self) {
        if let Err(e) = self.held.arm_crash(&self.journal.state) {
            self.degrade(format!("no resume after a crash: {e}"));
        }
    }

    /// Leaves word of what the loop is at.
    fn at(&mut self, doing: Doing) {
        self.journal.state.set_doing(doing as u8);
    }

    /// Maps the model, which no service waits for to be started.
    #[inline(never)]
    fn take_model(&mut self) {
        let begin = sys::clock::monotonic_ns();
        let Some(found) = &mut self.found else {
            return;
        };
        found.map_model();
        self.model = found.model.clone();
        let refused = found.model_refused.clone();
        if let Some(refused) = refused {
            self.degrade(format!("model: {refused}"));
        }
        let (bytes, tensors) = (self.model.bytes, u64::from(self.model.tensors));
        self.work.take_model(bytes, tensors);
        let note = format!("{bytes} bytes mapped, {tensors} tensors");
        self.phase("model", begin, sys::clock::monotonic_ns(), note);
    }

    #[inline(never)]
    fn react(&mut self, watch: Watch, hung_up: bool) {
        self.at(match watch {
            Watch::Tick | Watch::Signal => Doing::Signals,
            Watch::Control | Watch::Connection(_) => Doing::Control,
            Watch::Output(_) | Watch::Notify(_) => Doing::Services,
            Watch::Helper | Watch::HelperOutput => Doing::Helper,
            Watch::Ledger => Doing::Ledger,
            Watch::Button(_) | Watch::MemoryEvents(_) | Watch::Pressure(_) => Doing::Watches,
        });
        match watch {
            Watch::Tick | Watch::Signal => {}
            Watch::Control => self.accept_control(),
            Watch::Connection(slot) => self.serve(slot, hung_up),
            Watch::Output(i) => self.read_output(i),
            Watch::Notify(i) => self.read_notes(i),
            Watch::Helper => self.read_helper(hung_up),
            Watch::HelperOutput => self.read_helper_output(),
            Watch::Ledger => self.pump_ledger(hung_up),
            Watch::Button(i) => self.read_button(i),
            Watch::MemoryEvents(i) => self.read_memory_events(i),
            Watch::Pressure(i) => self.read_pressure(i),
        }
    }

    // --- the beat ------------------------------------------------------------------------------

    #[inline(never)]
    fn on_beat(&mut self, woken_cpu: u64) {
        let ticks = self.ticker.take();
        if ticks == 0 {
            return;
        }
        let now = sys::clock::monotonic_ns();
        self.beat.count += 1;
        if self.beat.count == TRIAL_BEATS && self.held.cause == Cause::Package {
            self.note_past();
            // Stood the test: from here on it comes back itself.
            sys::handover::disarm();
            self.arm();
        }
        self.beat.coalesced += ticks - 1;
        // The timer's own schedule: late is what passed since the last expiration that was due.
        let due = self.beat.due_ns + (ticks - 1) * self.beat.period_ns;
        let late = now.saturating_sub(due);
        self.beat.late(late);
        self.beat.due_ns = due + self.beat.period_ns;
        if self.beat.count == 1 {
            self.phase("first-beat", self.handoff_ns, now, String::new());
        }
        self.at(Doing::BeatPolicy);
        self.decide(Event::Tick);
        self.at(Doing::BeatErrands);
        self.catch_up();
        self.go_back_if_asked(now);
        self.tend_helper(now);
        self.keep_token();
        self.resume_control();
        self.renew_connections();
        self.renew_turns();
        self.pump_ledger(false);
        self.watch_buttons();
        self.judge_last_boot();
        self.keep_clock(now);
        self.grow_data();
        self.settle(now);
        self.scrub();
        self.go_on_ending(now);
        self.say_when_ready(now);
        self.look_for_emergency();
        self.look_at_health(now);
        self.keep_memory_watch(now);
        self.at(Doing::BeatSample);
        self.take_system_model(now);
        let deeds = self.sample(now, late);
        self.carry_out(&deeds);
        self.try_generation();
        self.at(Doing::BeatEnd);
        self.journal.state.set_beat(&self.beat.row());
        self.write_machine();
        self.rest();
        self.watchdog.feed(self.is_healthy(now));
        self.guard_trial();
        self.hang_if_due(now);
        let cpu = sys::clock::thread_cpu_ns().saturating_sub(woken_cpu);
        self.beat.cpu_last_ns = cpu;
        self.beat.cpu_max_ns = self.beat.cpu_max_ns.max(cpu);
        self.beat.missed += u64::from(cpu > self.beat.period_ns);
    }

    fn sample(&mut self, now: u64, late: u64) -> Deeds {
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
                core: unit.service.core,
                memory_max: unit.service.memory_max_bytes,
                cpu_weight: unit.service.cpu_weight,
                silence: self.supervisor.silence(i, now),
            });
        }
        self.work.beat(&BeatFacts {
            beat: self.beat.count,
            now_ns: now,
            period_ns: self.beat.period_ns,
            period_usual_ns: self.usual.period_ns,
            steady: self.is_steady(),
            late_ns: late,
            cpu_last_ns: self.beat.cpu_last_ns,
            services: &services,
            watchdog_left_ns: self.watchdog.left_ns(now),
        })
    }
}
