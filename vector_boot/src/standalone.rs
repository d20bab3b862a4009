//! The boot: PID 1 of a machine, or the same runtime as an ordinary process.
//!
//! Composition only: chooses the mode and joins the room `neural` to the beat of the room `init`.

use init::{
    BeatFacts, BeatWork, Deed, Deeds, Mode, PolicyHealth, PolicyValues, Recorded, Setup, Taken,
    Work,
};
use neural::decide::Decider;
use neural::journal::{Kind, Row};
use neural::metabolic::{self, Control, Order};
use neural::policy::{Health, Weights};
use neural::{BeatInput, Runtime, ServiceSample, StatsOf};
use std::ffi::OsString;
use std::fs::File;
use std::io::{self, IsTerminal};
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;
use wire::helper::Tune;
use wire::neural::Interrupt;
use wire::sensors;

/// Services that the beat reports at most; the manifest's own limit.
const SERVICES_MAX: usize = rts::manifest::SERVICES_MAX;

/// How the ordinary process is called.
pub const USAGE: &str =
    "usage: vector_boot [init] [--state DIR] [--rts FILE] [--param KEY=VALUE]...
  runs the machine as an ordinary process: the same loop, services and console";

/// The boot of a machine, if a kernel has just handed over to us, or the PID 1 before us. argv is not looked at:
/// the kernel puts words there that it does not know.
pub fn machine() -> Option<ExitCode> {
    let first = std::process::id() == 1;
    // As PID 1 of a container there is no kernel to set up: that is an ordinary process.
    let kernel =
        std::path::Path::new("/init").exists() && !std::path::Path::new("/proc/self/exe").exists();
    (first && (kernel || init::is_successor())).then(|| {
        init::run(Setup {
            mode: Mode::Appliance,
            parameters: String::new(),
            work: runtime,
            successor: true,
        })
    })
}

/// The boot as an ordinary process.
pub fn main(words: &[OsString]) -> ExitCode {
    match setup(words) {
        Ok(setup) => init::run(setup),
        Err(message) => {
            eprintln!("vector_boot: {message}\n{USAGE}");
            ExitCode::from(2)
        }
    }
}

fn setup(words: &[OsString]) -> Result<Setup, String> {
    let mut state = default_state();
    let mut parameters = vec!["vb.rts=off".to_owned(), "vb.http=127.0.0.1:8080".to_owned()];
    let mut successor = false;
    let mut words = words.iter();
    while let Some(word) = words.next() {
        let mut value = || {
            words
                .next()
                .ok_or_else(|| format!("{}: needs a value", word.display()))
        };
        match word.to_str() {
            Some("--state") => state = PathBuf::from(value()?),
            Some("--rts") => {
                let path = std::path::absolute(value()?).map_err(|e| format!("--rts: {e}"))?;
                // Quotes hold a path with blanks together, as on a kernel command line.
                parameters.push(format!("vb.rts=\"{}\"", path.display()));
            }
            Some(init::handover::RESUME) => successor = init::is_successor(),
            Some("--param") => parameters.push(value()?.to_string_lossy().into_owned()),
            _ => return Err(format!("{}: unknown word", word.display())),
        }
    }
    let state = std::path::absolute(&state).map_err(|e| format!("{}: {e}", state.display()))?;
    std::fs::create_dir_all(&state).map_err(|e| format!("{}: {e}", state.display()))?;
    let terminal = io::stdin().is_terminal();
    Ok(Setup {
        mode: Mode::Process { state, terminal },
        parameters: parameters.join(" "),
        work: runtime,
        successor,
    })
}

/// `$XDG_RUNTIME_DIR/vector_boot`, or a folder of our own below the temporary one.
fn default_state() -> PathBuf {
    let runtime = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from);
    runtime
        .unwrap_or_else(std::env::temp_dir)
        .join("vector_boot")
}

fn runtime(page: Option<File>) -> io::Result<Work> {
    let (page, runtime) = match page {
        Some(page) => {
            let runtime = Runtime::over(&page)?;
            (page, runtime)
        }
        None => Runtime::create()?,
    };
    let beat = Beat {
        runtime,
        log_share: 1.0,
        base: None,
        at: (0, 0),
    };
    Ok((Box::new(beat), page))
}

/// The neural runtime as the heart of PID 1 knows it.
struct Beat {
    runtime: Runtime,
    /// Of the log rates, what the heart was told last.
    log_share: f32,
    /// The base's policy while a generation is in force; the inner `None` is the built-in one.
    base: Option<Option<Box<Weights>>>,
    /// When the last beat was, CLOCK_MONOTONIC in nanoseconds, and its number.
    at: (u64, u64),
}

impl BeatWork for Beat {
    fn take_model(&mut self, bytes: u64, tensors: u64) {
        self.runtime.set_model(bytes, tensors);
    }

    fn take_stats(&mut self, service: &str, page: BorrowedFd<'_>) {
        let of = match service {
            "ledger" => StatsOf::Ledger,
            "capacity" => StatsOf::Capacity,
            "gateway" => StatsOf::Gateway,
            _ => return,
        };
        // Without the page its registers read NaN, which is what they are.
        let _ = self.runtime.watch_stats(of, &page);
    }

    fn take_data(&mut self, folder: OwnedFd) {
        self.runtime.set_data(Some(folder));
    }

    fn take_policy(&mut self, generation: u64, values: &PolicyValues) -> bool {
        let mut weights = Box::new(Weights::ZERO);
        let mut values = values.iter();
        for part in weights.parts_mut() {
            for (place, value) in part.iter_mut().zip(values.by_ref()) {
                *place = *value;
            }
        }
        match self.runtime.set_policy(Some(weights), generation) {
            Ok(before) => {
                if self.base.is_none() {
                    self.base = Some(before);
                }
                self.say_in_force();
                true
            }
            Err(_) => false,
        }
    }

    fn leave_policy(&mut self) {
        if let Some(base) = self.base.take() {
            // It decides, since a generation was in force.
            let _ = self.runtime.set_policy(base, 0);
            self.say_in_force();
        }
    }

    fn policy_health(&self) -> PolicyHealth {
        match self.runtime.decider().map(Decider::health) {
            Some(Health::NotFinite) => PolicyHealth::NotFinite,
            Some(Health::Clamped) => PolicyHealth::Clamped,
            Some(Health::Good) | None => PolicyHealth::Good,
        }
    }

    fn beat(&mut self, facts: &BeatFacts<'_>) -> Deeds {
        self.at = (facts.now_ns, facts.beat);
        let mut services = heapless::Vec::<ServiceSample<'_>, SERVICES_MAX>::new();
        for fact in facts.services {
            // There are never more services than places.
            let _ = services.push(ServiceSample {
                name: fact.name,
                state: fact.state,
                restarts: fact.restarts,
                rss_bytes: fact.memory_bytes,
                core: fact.core,
                memory_max: fact.memory_max,
                cpu_weight: fact.cpu_weight,
                silence: fact.silence,
            });
        }
        let decided = self.runtime.beat(&BeatInput {
            now: Duration::from_nanos(facts.now_ns),
            beat: facts.beat,
            period: Duration::from_nanos(facts.period_ns),
            lateness: Duration::from_nanos(facts.late_ns),
            work: Duration::from_nanos(facts.cpu_last_ns),
            services: &services,
            watchdog_slack: facts.watchdog_left_ns.map(Duration::from_nanos),
            period_usual: Duration::from_nanos(facts.period_usual_ns),
            steady: facts.steady,
        });
        let mut deeds = Deeds::new();
        for deed in &decided {
            // There are more places than deeds of a beat.
            let _ = deeds.push(deed_of(deed));
        }
        if facts.steady {
            self.follow_settings(facts.period_ns, &mut deeds);
        }
        deeds
    }

    fn wants_model(&self) -> bool {
        self.runtime.wants_model()
    }

    fn outdate_model(&mut self) {
        self.runtime.outdate_model();
    }

    fn tune_lost(&mut self, service: &str, now_ns: u64) {
        if let Some(decider) = self.runtime.decider_mut() {
            decider.lost(now_ns, service);
        }
    }

    fn take_system(&mut self, model: Option<&[u8]>, now_ns: u64) -> Taken {
        // A generation was made over the model before: `cortex` publishes one over this.
        self.base = None;
        // PID 1 takes no model whose index does not hold; then there is none here.
        let index = model.and_then(|file| gguf::Index::parse(file).ok());
        let now = Duration::from_nanos(now_ns);
        let refused = self.runtime.take_model(index.as_ref(), now);
        let gone = self.runtime.decider_mut().map(Decider::take_gone);
        Taken {
            refused: refused.iter().map(ToString::to_string).collect(),
            gone: gone.unwrap_or_default().iter().map(deed_of).collect(),
        }
    }

    fn log_rate(&self, rate: u32) -> u32 {
        match self.runtime.decider() {
            Some(decider) => {
                metabolic::log_rate(decider.setting(Control::LogRate), rate, decider.limits())
            }
            None => rate,
        }
    }

    fn journal(&self) -> (u64, u64) {
        match self.runtime.decider() {
            Some(decider) => (decider.ring().oldest(), decider.ring().chain().seq()),
            None => (1, 0),
        }
    }

    fn journal_row(&self, seq: u64) -> Option<[u8; neural::journal::ROW_BYTES]> {
        let entry = self.runtime.decider()?.ring().row(seq)?;
        Some(entry.encode())
    }

    fn interrupt(&self, place: usize) -> Option<Interrupt<'static>> {
        let (line, raised, count, changed_ns) = self.runtime.decider()?.line(place)?;
        Some(Interrupt {
            register: line.register,
            above: line.above,
            threshold: line.threshold,
            hysteresis: line.hysteresis,
            raised,
            count,
            changed_ns: changed_ns.unwrap_or(0),
            handler: line.handler().name(),
        })
    }
}

impl Beat {
    /// A row of the journal: another generation decides from the next beat on.
    fn say_in_force(&mut self) {
        let (at_ns, beat) = self.at;
        if let Some(decider) = self.runtime.decider_mut() {
            // Over the rate it is counted, as every row is.
            let _ = decider.record(&Row::new(Kind::InForce, at_ns, beat));
        }
    }

    /// The settings that are no order of one beat: after a crash of PID 1 too the heart is told.
    fn follow_settings(&mut self, period_ns: u64, deeds: &mut Deeds) {
        let Some(decider) = self.runtime.decider() else {
            return;
        };
        let period = f64::from(decider.setting(Control::Heartbeat)) / 1e3;
        let wanted_ns = u64::try_from(Duration::from_secs_f64(period.max(0.0)).as_nanos());
        if let Ok(ns) = wanted_ns
            && ns.abs_diff(period_ns) > PERIOD_SLACK_NS
        {
            let _ = deeds.push(Deed::Period { ns });
        }
        let share = decider.setting(Control::LogRate);
        if share != self.log_share && deeds.push(Deed::LogRates).is_ok() {
            self.log_share = share;
        }
    }
}

/// Less is no other period: settings are f32 milliseconds.
const PERIOD_SLACK_NS: u64 = 500_000;

fn deed_of(deed: &neural::decide::Deed) -> Deed {
    use neural::decide::Deed as Decided;
    match *deed {
        Decided::Interrupt(edge, row) => {
            let register = sensors::REGISTERS.get(usize::from(edge.line.register));
            Deed::Interrupt {
                raised: edge.raised,
                register: register.map_or("", |register| register.name),
                value: edge.value,
                above: edge.line.above,
                threshold: edge.line.threshold,
                handler: edge.line.handler().name(),
                row: recorded(row),
            }
        }
        Decided::Changed(change, row) => Deed::Changed {
            control: change.control.name(),
            before: change.before,
            after: change.after,
            wish: change.wish,
            row: recorded(row),
        },
        Decided::Order(Order::Reclaim { service, bytes }) => tune(service, Tune::Reclaim(bytes)),
        Decided::Order(Order::MemoryHigh { service, bytes }) => {
            tune(service, Tune::MemoryHigh(bytes))
        }
        Decided::Order(Order::CpuWeight { service, weight }) => {
            tune(service, Tune::CpuWeight(weight))
        }
        Decided::Order(Order::Restart { service }) => Deed::Restart { service },
    }
}

fn tune(service: usize, knob: Tune) -> Deed {
    Deed::Tune { service, knob }
}

fn recorded(row: neural::decide::Recorded) -> Recorded {
    Recorded {
        seq: row.seq,
        hash: row.hash,
        tell: row.tell,
    }
}
