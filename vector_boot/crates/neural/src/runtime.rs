//! What PID 1 does once a beat: sample, decide, and write the sensor page.
//!
//! Owns: the page's writer, the open sensors, the [`Decider`]. Every beat reads what is cheap (load, pressure,
//! what PID 1 itself knows); what costs more takes turns, one a beat, [`TURNS`] of them, so each is
//! at most nine beats old. Unknown is NaN. Nothing is decided in the first [`DECIDES_FROM`] beats: the
//! boot, and what follows a crash of PID 1, go first.
//!
//! Never here: waiting, allocation, a file that somebody else decides on. Start with [`Runtime::beat`].

use crate::decide::{Decider, Deeds, Refusals};
use crate::journal::RING_BYTES;
use crate::metabolic::{Control, Service};
use crate::policy::Weights;
use crate::registers::{Registers, index};
use crate::sample::{CpuTimes, LinkCounts};
use crate::sensors::{Sensors, ZONES};
use crate::system_model::Tensors;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::time::Duration;
use sys::seqlock::{Reader, Writer};
use wire::control::ServiceState;
use wire::{sensors, stats};

/// Turns of the slow sensors: processors, memory, four thermal zones, links, disk, stats pages.
pub const TURNS: u64 = 9;
const _: () = assert!(TURNS <= 10, "each at least every tenth beat");
/// Beats of this image before the first that decides: 3 s as a rule, in which services come up.
pub const DECIDES_FROM: u64 = 30;
/// Where the journal's ring begins in the page's memory file.
const RING_AT: u64 = sensors::PAGE_BYTES as u64;

/// Services that have registers of their own: state, restarts, memory from this index on.
const OWN_REGISTERS: [(&str, usize); 4] = [
    ("ledger", index::LEDGER_STATE),
    ("capacity", index::CAPACITY_STATE),
    ("gateway", index::GATEWAY_STATE),
    ("console", index::CONSOLE_STATE),
];

/// What PID 1 knows at a beat.
#[derive(Debug, Clone, Copy)]
pub struct BeatInput<'a> {
    /// The monotonic clock.
    pub now: Duration,
    /// Beats so far, this one included.
    pub beat: u64,
    /// Time between two beats.
    pub period: Duration,
    /// How late this beat began.
    pub lateness: Duration,
    /// Processor time of the beat before.
    pub work: Duration,
    /// Every supervised service.
    pub services: &'a [ServiceSample<'a>],
    /// Time left until the watchdog would fire; none without a watchdog.
    pub watchdog_slack: Option<Duration>,
    /// Time between two beats as the parameters have it.
    pub period_usual: Duration,
    /// Whether nothing starts, ends or is replaced: only then does a setting move.
    pub steady: bool,
}

/// One service as PID 1 sees it.
#[derive(Debug, Clone, Copy)]
pub struct ServiceSample<'a> {
    /// The manifest's name.
    pub name: &'a str,
    /// Where it is in its life.
    pub state: ServiceState,
    /// Restarts so far.
    pub restarts: u32,
    /// Its memory.
    pub rss_bytes: Option<u64>,
    /// Whether the manifest calls it core.
    pub core: bool,
    /// Its `memory.max`; 0 for none.
    pub memory_max: u64,
    /// Its `cpu.weight` as the manifest has it.
    pub cpu_weight: u16,
    /// Share of its watchdog's time that it has been silent.
    pub silence: Option<f32>,
}

/// A service whose stats page feeds registers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum StatsOf {
    Ledger,
    Capacity,
    Gateway,
}

/// The runtime inside PID 1.
#[derive(Debug)]
pub struct Runtime {
    page: Writer,
    /// The page's memory file, if it has a place for the ring, until the first beat that decides.
    file: Option<File>,
    /// What the image before decided, from the page.
    before: sensors::Decisions,
    decider: Option<Box<Decider>>,
    /// Another package's model has come since the system tensors were read.
    outdated: bool,
    beats: u64,
    registers: Registers,
    sensors: Sensors,
    data: Option<OwnedFd>,
    pages: [Option<Reader>; 3],
    lateness_max: Duration,
    cpu_before: Option<CpuTimes>,
    links_before: Option<(Duration, LinkCounts)>,
    rates: Rates,
}

/// Counters of the stats pages that are shown as rates.
#[derive(Debug, Default)]
struct Rates {
    ledger_events: Rate,
    ledger_commits: Rate,
    capacity_denied: Rate,
    gateway_requests: Rate,
    gateway_failed: Rate,
}

impl Runtime {
    /// Makes the sensor page; the file goes to its readers by the name `sensors`.
    ///
    /// # Errors
    /// As [`Writer::create`].
    pub fn create() -> io::Result<(File, Self)> {
        let file = sys::memfd::shared("sensors", RING_AT + RING_BYTES)?;
        let runtime = Self::over(&file)?;
        Ok((file, runtime))
    }

    /// Goes on writing to a page that exists: PID 1 has become its next image.
    ///
    /// # Errors
    /// As [`Writer::over`].
    pub fn over(page: &File) -> io::Result<Self> {
        let writer = Writer::over(page, sensors::MAGIC)?;
        let kernel = Sensors::new(Path::new("/proc"), Path::new("/sys"));
        let mut runtime = Self::new(writer, kernel);
        let mut words = [0; sensors::BODY_WORDS];
        if Reader::over(page, sensors::MAGIC)?
            .read(sensors::VERSION_WORD, &mut words)
            .is_ok()
        {
            runtime.before = sensors::Snapshot::unpack(&words).decisions;
        }
        // A page of an older image is shorter, and sealed: then rows are chained and not kept.
        if page.metadata()?.len() >= RING_AT + RING_BYTES {
            runtime.file = Some(page.try_clone()?);
        }
        Ok(runtime)
    }

    /// Writes to a page that exists (after PID 1 has re-executed itself), from these sensors.
    #[must_use]
    pub fn new(page: Writer, sensors: Sensors) -> Self {
        let mut registers = Registers::default();
        // Hot-plug is no matter of appliances: the count of the start stays.
        let processors = sys::process::processors();
        registers.set_count(index::CPU_COUNT, Some(processors as u64));
        Self {
            page,
            file: None,
            before: sensors::Decisions::default(),
            decider: None,
            outdated: false,
            beats: 0,
            registers,
            sensors,
            data: None,
            pages: [None, None, None],
            lateness_max: Duration::ZERO,
            cpu_before: None,
            links_before: None,
            rates: Rates::default(),
        }
    }

    /// The data partition, once it is mounted: any descriptor on it.
    pub fn set_data(&mut self, data: Option<OwnedFd>) {
        self.data = data;
    }

    /// The mapped model.
    pub fn set_model(&mut self, bytes: u64, tensors: u64) {
        self.registers.set_count(index::MODEL_BYTES, Some(bytes));
        self.registers
            .set_count(index::MODEL_TENSORS, Some(tensors));
    }

    /// Feeds registers from a service's stats page.
    ///
    /// # Errors
    /// As [`Reader::over`].
    pub fn watch_stats(&mut self, of: StatsOf, page: &impl AsFd) -> io::Result<()> {
        let reader = Reader::over(page, stats::MAGIC)?;
        if let Some(place) = self.pages.get_mut(of as usize) {
            *place = Some(reader);
        }
        Ok(())
    }

    /// The registers as the last beat left them.
    #[must_use]
    pub const fn registers(&self) -> &Registers {
        &self.registers
    }

    /// Whether the next beat may be the first that decides, or the first by another model: the model's system tensors
    /// are to be there by then.
    #[must_use]
    pub const fn wants_model(&self) -> bool {
        self.outdated || (self.decider.is_none() && self.beats >= DECIDES_FROM)
    }

    /// Another model has taken the place of the one whose system tensors were read.
    pub const fn outdate_model(&mut self) {
        // Before the first beat that decides nothing was read yet.
        self.outdated = self.decider.is_some();
    }

    /// Begins to decide, by the system tensors of this model; what is wrong with one is answered, and the
    /// default's stands in. Without a model, or with one that has none, all are the default's.
    ///
    /// Called once a model, at a quiet beat: the tables, and a policy that is not the default's, are put on the heap
    /// here.
    pub fn take_model(&mut self, model: Option<&gguf::Index<'_>>, now: Duration) -> Refusals {
        let (at_ns, beat) = (nanoseconds(now), self.registers.snapshot().beat);
        let tensors = model.map(Tensors::of);
        if let Some(tensors) = &tensors {
            self.registers.begin_with(tensors);
        }
        self.outdated = false;
        if let Some(decider) = &mut self.decider {
            return decider.take_model(tensors.as_ref(), at_ns, beat);
        }
        let ring = self.file.take().map(|file| (file, RING_AT));
        let period_ms = self.registers.get(index::BEAT_PERIOD);
        let mut decider = Box::new(Decider::new(ring, &self.before, period_ms, at_ns));
        let refusals = decider.take_model(tensors.as_ref(), at_ns, beat);
        decider.go_on_raised(self.before.raised);
        self.decider = Some(decider);
        refusals
    }

    /// Swaps the policy between two beats, as [`Decider::set_policy`]; before the first beat that decides it is
    /// handed back.
    ///
    /// # Errors
    /// The weights, where nothing decides yet.
    pub fn set_policy(
        &mut self,
        weights: Option<Box<Weights>>,
        generation: u64,
    ) -> Result<Option<Box<Weights>>, Option<Box<Weights>>> {
        match &mut self.decider {
            Some(decider) => Ok(decider.set_policy(weights, generation)),
            None => Err(weights),
        }
    }

    /// What decides, once it does.
    #[must_use]
    pub fn decider(&self) -> Option<&Decider> {
        self.decider.as_deref()
    }

    /// The same, to write rows of its journal.
    pub fn decider_mut(&mut self) -> Option<&mut Decider> {
        self.decider.as_deref_mut()
    }

    /// Samples, decides and writes the page. Neither waits nor allocates.
    pub fn beat(&mut self, input: &BeatInput<'_>) -> Deeds {
        self.beats += 1;
        self.note_beat(input);
        self.note_services(input.services);
        self.sample_fast();
        self.sample_turn(input.beat % TURNS, input.now);
        let deeds = self.decide(input);
        let words = self.registers.snapshot().pack();
        self.page.update(|page| {
            for (word, value) in (sensors::VERSION_WORD..).zip(words) {
                page.set(word, value);
            }
        });
        deeds
    }

    fn decide(&mut self, input: &BeatInput<'_>) -> Deeds {
        let Some(decider) = &mut self.decider else {
            // Until then the page says what the image before did: that is still in force.
            self.registers.set_decisions(self.before);
            return Deeds::new();
        };
        let mut services = heapless::Vec::<Service<'_>, { rts::manifest::SERVICES_MAX }>::new();
        for service in input.services {
            // There are never more services than places.
            let _ = services.push(Service {
                name: service.name,
                up: service.state == ServiceState::Up,
                core: service.core,
                rss_bytes: service.rss_bytes,
                memory_max: service.memory_max,
                cpu_weight: service.cpu_weight,
                silence: service.silence,
            });
        }
        let deeds = decider.beat(
            (nanoseconds(input.now), input.beat),
            &self.registers.snapshot().registers,
            milliseconds(input.period_usual),
            &services,
            input.steady,
        );
        let decisions = decider.decisions();
        let registers = &mut self.registers;
        registers.set_decisions(decisions);
        registers.set_count(
            index::INTERRUPTS_RAISED,
            Some(decisions.raised.count_ones().into()),
        );
        registers.set_count(index::MUTATION_GENERATION, Some(decisions.generation));
        let shed = decider.setting(Control::Shed) * 100.0;
        registers.set(index::CONTROL_SHED, Some(shed));
        deeds
    }

    fn note_beat(&mut self, input: &BeatInput<'_>) {
        self.lateness_max = self.lateness_max.max(input.lateness);
        let registers = &mut self.registers;
        registers.set_beat(input.beat);
        registers.set_count(index::BEAT_COUNT, Some(input.beat));
        registers.set(index::BEAT_PERIOD, Some(milliseconds(input.period)));
        registers.set(index::BEAT_LATENESS, Some(microseconds(input.lateness)));
        registers.set(
            index::BEAT_LATENESS_MAX,
            Some(microseconds(self.lateness_max)),
        );
        registers.set(index::BEAT_WORK, Some(microseconds(input.work)));
        registers.set(
            index::WATCHDOG_SLACK,
            input.watchdog_slack.map(milliseconds),
        );
    }

    fn note_services(&mut self, services: &[ServiceSample<'_>]) {
        let registers = &mut self.registers;
        let in_state = |state| {
            Some(
                services
                    .iter()
                    .filter(|service| service.state == state)
                    .count() as u64,
            )
        };
        registers.set_count(index::SERVICES_UP, in_state(ServiceState::Up));
        registers.set_count(index::SERVICES_FAILED, in_state(ServiceState::Failed));
        let restarts = services
            .iter()
            .map(|service| u64::from(service.restarts))
            .sum();
        registers.set_count(index::SERVICES_RESTARTS, Some(restarts));
        // Unknown only where none is known.
        let rss = services
            .iter()
            .filter_map(|service| service.rss_bytes)
            .reduce(u64::saturating_add);
        registers.set_count(index::SERVICES_RSS, rss);
        for (name, first) in OWN_REGISTERS {
            let service = services.iter().find(|service| service.name == name);
            // The state's number is its place in the enum, which only grows at its end.
            registers.set(first, service.map(|service| f32::from(service.state as u8)));
            registers.set_count(first + 1, service.map(|service| service.restarts.into()));
            registers.set_count(first + 2, service.and_then(|service| service.rss_bytes));
        }
    }

    fn sample_fast(&mut self) {
        let load = self.sensors.load();
        let pressure = self.sensors.pressure();
        let registers = &mut self.registers;
        for (place, register) in [index::LOAD_1, index::LOAD_5, index::LOAD_15]
            .into_iter()
            .enumerate()
        {
            registers.set(
                register,
                load.as_ref().and_then(|load| load.get(place)).copied(),
            );
        }
        let pairs = [
            (index::PSI_CPU_SOME, index::PSI_CPU_FULL),
            (index::PSI_MEMORY_SOME, index::PSI_MEMORY_FULL),
            (index::PSI_IO_SOME, index::PSI_IO_FULL),
        ];
        for ((some, full), (some_share, full_share)) in pairs.into_iter().zip(pressure) {
            registers.set(some, some_share);
            registers.set(full, full_share);
        }
    }

    fn sample_turn(&mut self, turn: u64, now: Duration) {
        match turn {
            0 => {
                self.sensors.reopen();
                self.sample_cpu();
            }
            1 => self.sample_memory(),
            2 => self.sample_zone(0, index::THERMAL_0),
            3 => self.sample_zone(1, index::THERMAL_1),
            4 => self.sample_zone(2, index::THERMAL_2),
            5 => self.sample_zone(ZONES - 1, index::THERMAL_3),
            6 => self.sample_links(now),
            7 => self.sample_disk(),
            _ => self.sample_pages(now),
        }
    }

    fn sample_cpu(&mut self) {
        let times = self.sensors.cpu();
        let before = std::mem::replace(&mut self.cpu_before, times);
        let shares = times
            .zip(before)
            .and_then(|(now, before)| cpu_shares(before, now));
        let registers = &mut self.registers;
        registers.set(index::CPU_USE, shares.map(|(busy, _, _)| busy));
        registers.set(index::CPU_IOWAIT, shares.map(|(_, iowait, _)| iowait));
        registers.set(index::CPU_STEAL, shares.map(|(_, _, steal)| steal));
    }

    fn sample_memory(&mut self) {
        let memory = self.sensors.memory();
        let registers = &mut self.registers;
        registers.set_count(index::MEMORY_TOTAL, memory.total);
        registers.set_count(index::MEMORY_AVAILABLE, memory.available);
        registers.set_count(index::MEMORY_CACHED, memory.cached);
        registers.set_count(index::MEMORY_DIRTY, memory.dirty);
    }

    fn sample_zone(&mut self, zone: usize, register: usize) {
        let temperature = self.sensors.zone(zone);
        self.registers.set(register, temperature);
    }

    fn sample_links(&mut self, now: Duration) {
        let counts = self.sensors.links();
        let before = std::mem::replace(&mut self.links_before, counts.map(|counts| (now, counts)));
        let rates = counts.zip(before).map(|(counts, (then, before))| {
            (
                per_second(before.rx, counts.rx, then, now),
                per_second(before.tx, counts.tx, then, now),
            )
        });
        let registers = &mut self.registers;
        registers.set(index::NET_RX, rates.and_then(|(rx, _)| rx));
        registers.set(index::NET_TX, rates.and_then(|(_, tx)| tx));
        registers.set_count(index::NET_ERRORS, counts.map(|counts| counts.errors));
    }

    fn sample_disk(&mut self) {
        let space = self
            .data
            .as_ref()
            .and_then(|data| sys::space::of_fd(data).ok());
        let registers = &mut self.registers;
        registers.set_count(index::DISK_TOTAL, space.map(|space| space.total));
        registers.set_count(index::DISK_FREE, space.map(|space| space.available));
        // As df(1): of what ordinary users could have, what is used.
        let used = space.and_then(|space| {
            let used = space.total.saturating_sub(space.free);
            let whole = used.saturating_add(space.available);
            (whole > 0).then(|| percent(used, whole))
        });
        registers.set(index::DISK_USE, used);
    }

    fn sample_pages(&mut self, now: Duration) {
        let [ledger, capacity, gateway] = &self.pages;
        let (registers, rates) = (&mut self.registers, &mut self.rates);
        registers.set_count(index::LEDGER_LAG, counter(ledger, "lag_gauge"));
        registers.set(
            index::LEDGER_EVENTS,
            rates.ledger_events.next(now, counter(ledger, "events")),
        );
        registers.set(
            index::LEDGER_COMMITS,
            rates.ledger_commits.next(now, counter(ledger, "commits")),
        );
        registers.set_count(index::CAPACITY_LEASES, counter(capacity, "leases_gauge"));
        registers.set_count(index::CAPACITY_GATES, counter(capacity, "gates_gauge"));
        registers.set(
            index::CAPACITY_DENIED,
            rates.capacity_denied.next(now, counter(capacity, "denied")),
        );
        registers.set(
            index::GATEWAY_REQUESTS,
            rates
                .gateway_requests
                .next(now, counter(gateway, "requests")),
        );
        let failed = counter(gateway, "failed").zip(counter(gateway, "denied"));
        let failed = failed.map(|(failed, denied)| failed.saturating_add(denied));
        registers.set(
            index::GATEWAY_FAILED,
            rates.gateway_failed.next(now, failed),
        );
        registers.set_count(
            index::GATEWAY_LATENCY_MAX,
            counter(gateway, "latency_us_max_gauge"),
        );
    }
}

/// A counter of a stats page; unknown while its service has not begun to write.
fn counter(page: &Option<Reader>, name: &str) -> Option<u64> {
    page.as_ref()?.word(stats::word(name)?).ok()
}

/// A counter seen from time to time.
#[derive(Debug, Default)]
struct Rate {
    before: Option<(Duration, u64)>,
}

impl Rate {
    /// Growth a second since the last look; unknown at the first and after a restart of the counter.
    fn next(&mut self, now: Duration, value: Option<u64>) -> Option<f32> {
        let before = std::mem::replace(&mut self.before, value.map(|value| (now, value)));
        let (then, old) = before?;
        per_second(old, value?, then, now)
    }
}

fn per_second(old: u64, new: u64, then: Duration, now: Duration) -> Option<f32> {
    let seconds = now.checked_sub(then)?.as_secs_f64();
    let growth = new.checked_sub(old)?;
    // The quotient's rounding to f32 is what a register holds.
    (seconds > 0.0).then(|| (growth as f64 / seconds) as f32)
}

/// Busy, I/O wait and steal in percent of the time between two samples.
fn cpu_shares(before: CpuTimes, now: CpuTimes) -> Option<(f32, f32, f32)> {
    let total = now
        .total
        .checked_sub(before.total)
        .filter(|total| *total > 0)?;
    // proc(5): iowait may go back, so differences saturate.
    let idle = now.idle.saturating_sub(before.idle);
    let iowait = now.iowait.saturating_sub(before.iowait);
    let steal = now.steal.saturating_sub(before.steal);
    let busy = total.saturating_sub(idle).saturating_sub(iowait);
    Some((
        percent(busy, total),
        percent(iowait, total),
        percent(steal, total),
    ))
}

fn nanoseconds(span: Duration) -> u64 {
    u64::try_from(span.as_nanos()).unwrap_or(u64::MAX)
}

// Both are rounded once, from f64, to what a register holds.
fn milliseconds(span: Duration) -> f32 {
    (span.as_secs_f64() * 1e3) as f32
}

fn microseconds(span: Duration) -> f32 {
    (span.as_secs_f64() * 1e6) as f32
}

fn percent(part: u64, whole: u64) -> f32 {
    // Rounded to what a register holds.
    (part as f64 / whole as f64 * 100.0) as f32
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use wire::sensors::{BODY_WORDS, Snapshot, VERSION_WORD};

    /// A machine made of files.
    struct Machine {
        folder: tempfile::TempDir,
        page: File,
        runtime: Runtime,
        beats: u64,
    }

    impl Machine {
        fn new() -> Self {
            let folder = tempfile::tempdir().unwrap();
            let (page, writer) = Writer::create("sensors", sensors::MAGIC).unwrap();
            let sensors = Sensors::new(&folder.path().join("proc"), &folder.path().join("sys"));
            let runtime = Runtime::new(writer, sensors);
            Self {
                folder,
                page,
                runtime,
                beats: 0,
            }
        }

        fn write(&self, path: &str, text: &str) {
            let path = self.folder.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }

        fn beat_with(&mut self, services: &[ServiceSample<'_>]) {
            self.beats += 1;
            self.runtime.beat(&BeatInput {
                now: Duration::from_millis(100 * self.beats),
                beat: self.beats,
                period: Duration::from_millis(100),
                lateness: Duration::from_micros(250 / self.beats),
                work: Duration::from_micros(40),
                services,
                watchdog_slack: None,
                period_usual: Duration::from_millis(100),
                steady: true,
            });
        }

        /// Every slow sensor once.
        fn round(&mut self) {
            (0..TURNS).for_each(|_| self.beat_with(&[]));
        }

        fn page(&self) -> Snapshot {
            let mut words = [0; BODY_WORDS];
            Reader::over(&self.page, sensors::MAGIC)
                .unwrap()
                .read(VERSION_WORD, &mut words)
                .unwrap();
            Snapshot::unpack(&words)
        }

        fn read(&self, name: &str) -> f32 {
            self.page().registers[sensors::index_of(name).unwrap()]
        }
    }

    #[test]
    fn a_machine_without_sensors_reads_nan_and_still_beats() {
        let mut machine = Machine::new();
        machine.round();
        assert_eq!(machine.page().beat, TURNS);
        assert_eq!(machine.read("beat.count"), TURNS as f32);
        assert_eq!(machine.read("beat.lateness_max"), 250.0);
        for name in [
            "load.1m",
            "cpu.use",
            "memory.total",
            "psi.io.full",
            "thermal.3",
            "net.rx",
            "disk.data.use",
            "ledger.lag",
            "ledger.state",
            "watchdog.slack",
            "services.rss",
        ] {
            assert!(machine.read(name).is_nan(), "{name}");
        }
    }

    #[test]
    fn files_that_come_late_are_found_and_files_that_go_read_nan() {
        let mut machine = Machine::new();
        machine.round();
        machine.write("proc/loadavg", "0.50 0.25 0.125 1/2 3\n");
        machine.write(
            "proc/pressure/memory",
            "some avg10=2.00 avg60=0 avg300=0 total=0\nfull avg10=1.00 avg60=0 avg300=0 total=0\n",
        );
        machine.write("proc/meminfo", "MemTotal: 1024 kB\nMemAvailable: 512 kB\n");
        machine.write("sys/class/thermal/thermal_zone3/temp", "41500\n");
        machine.round();
        machine.beat_with(&[]);
        assert_eq!(machine.read("load.15m"), 0.125);
        assert_eq!(machine.read("psi.memory.full"), 1.0);
        assert_eq!(machine.read("memory.available"), 524_288.0);
        assert_eq!(machine.read("thermal.3"), 41.5);
        machine.write("proc/loadavg", "");
        machine.beat_with(&[]);
        assert!(machine.read("load.15m").is_nan());
    }

    #[test]
    fn shares_and_rates_are_of_the_time_between_two_samples() {
        let mut machine = Machine::new();
        machine.write("proc/stat", "cpu  100 0 0 900 0 0 0 0 0 0\n");
        machine.write("proc/net/dev", "eth0: 1000 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0\n");
        machine.round();
        assert!(machine.read("cpu.use").is_nan() && machine.read("net.rx").is_nan());
        machine.write("proc/stat", "cpu  130 0 0 950 20 0 0 0 0 0\n");
        machine.write(
            "proc/net/dev",
            "eth0: 1900 0 1 0 0 0 0 0 90 0 0 0 0 0 0 0\n",
        );
        machine.round();
        assert_eq!(machine.read("cpu.use"), 30.0);
        assert_eq!(machine.read("cpu.iowait"), 20.0);
        // A round takes 0.9 s.
        assert_eq!(machine.read("net.rx"), 1000.0);
        assert_eq!(machine.read("net.tx"), 100.0);
        assert_eq!(machine.read("net.errors"), 1.0);
    }

    #[test]
    fn services_have_their_registers() {
        let mut machine = Machine::new();
        let service = |name, state, restarts, rss_bytes| ServiceSample {
            name,
            state,
            restarts,
            rss_bytes,
            core: true,
            memory_max: 0,
            cpu_weight: 100,
            silence: None,
        };
        machine.beat_with(&[
            service("gateway", ServiceState::Up, 2, Some(4096)),
            service("ledger", ServiceState::Failed, 5, None),
            service("mine", ServiceState::Up, 1, Some(1024)),
        ]);
        assert_eq!(machine.read("services.up"), 2.0);
        assert_eq!(machine.read("services.failed"), 1.0);
        assert_eq!(machine.read("services.restarts"), 8.0);
        assert_eq!(machine.read("services.rss"), 5120.0);
        assert_eq!(machine.read("gateway.state"), 2.0);
        assert_eq!(machine.read("gateway.rss"), 4096.0);
        assert_eq!(machine.read("ledger.state"), 6.0);
        assert!(machine.read("ledger.rss").is_nan());
        assert!(machine.read("console.state").is_nan());
    }

    #[test]
    fn stats_pages_feed_gauges_and_rates() {
        let mut machine = Machine::new();
        let (file, mut writer) = Writer::create("stats", stats::MAGIC).unwrap();
        machine.runtime.watch_stats(StatsOf::Ledger, &file).unwrap();
        let mut count = |events| {
            writer.update(|page| {
                page.set(stats::word("events").unwrap(), events);
                page.set(stats::word("lag_gauge").unwrap(), 3);
            });
        };
        count(10);
        machine.round();
        count(100);
        machine.round();
        assert_eq!(machine.read("ledger.lag"), 3.0);
        assert_eq!(machine.read("ledger.events"), 100.0);
        // The service came back and counts from zero.
        count(1);
        machine.round();
        assert!(machine.read("ledger.events").is_nan());
        assert!(machine.read("gateway.requests").is_nan());
    }

    #[test]
    fn the_data_partition_shows_its_space() {
        let mut machine = Machine::new();
        let folder = File::open(machine.folder.path()).unwrap();
        machine.runtime.set_data(Some(folder.into()));
        machine.runtime.set_model(98_362_432, 272);
        machine.round();
        assert!(machine.read("disk.data.total") > 0.0);
        assert!((0.0..=100.0).contains(&machine.read("disk.data.use")));
        assert_eq!(machine.read("model.tensors"), 272.0);
    }

    #[test]
    fn the_real_machine_has_load_memory_and_processors() {
        let (page, mut runtime) = Runtime::create().unwrap();
        for beat in 1..=2 * TURNS {
            let input = BeatInput {
                now: Duration::from_millis(beat * 100),
                beat,
                period: Duration::from_millis(100),
                lateness: Duration::ZERO,
                work: Duration::ZERO,
                services: &[],
                watchdog_slack: Some(Duration::from_secs(5)),
                period_usual: Duration::from_millis(100),
                steady: true,
            };
            runtime.beat(&input);
        }
        let mut words = [0; BODY_WORDS];
        Reader::over(&page, sensors::MAGIC)
            .unwrap()
            .read(VERSION_WORD, &mut words)
            .unwrap();
        let registers = Snapshot::unpack(&words).registers;
        assert!(registers[index::LOAD_1] >= 0.0);
        assert!(registers[index::MEMORY_TOTAL] > registers[index::MEMORY_AVAILABLE]);
        assert!(registers[index::CPU_COUNT] >= 1.0);
        assert_eq!(registers[index::WATCHDOG_SLACK], 5000.0);
    }
}
