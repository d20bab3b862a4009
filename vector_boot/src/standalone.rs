//! The boot: PID 1 of a machine, or the same runtime as an ordinary process.
//!
//! Composition only: chooses the mode and joins the room `neural` to the beat of the room `init`.

use init::{BeatFacts, BeatWork, Mode, PolicyValues, Setup, Work};
use neural::{BeatInput, Runtime, ServiceSample, StatsOf};
use std::ffi::OsString;
use std::fs::File;
use std::io::{self, IsTerminal};
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

/// Services that the beat reports at most; the manifest's own limit.
const SERVICES_MAX: usize = rts::manifest::SERVICES_MAX;

const USAGE: &str = "usage: vector_boot [init] [--state DIR] [--rts FILE] [--param KEY=VALUE]...
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
    Ok((Box::new(Beat(runtime)), page))
}

/// The neural runtime as the heart of PID 1 knows it.
struct Beat(Runtime);

impl BeatWork for Beat {
    fn take_model(&mut self, bytes: u64, tensors: u64) {
        self.0.set_model(bytes, tensors);
    }

    fn take_stats(&mut self, service: &str, page: BorrowedFd<'_>) {
        let of = match service {
            "ledger" => StatsOf::Ledger,
            "capacity" => StatsOf::Capacity,
            "gateway" => StatsOf::Gateway,
            _ => return,
        };
        // Without the page its registers read NaN, which is what they are.
        let _ = self.0.watch_stats(of, &page);
    }

    fn take_data(&mut self, folder: OwnedFd) {
        self.0.set_data(Some(folder));
    }

    fn take_policy(&mut self, _: u64, _: &PolicyValues) -> bool {
        // Nothing in the beat decides by a policy yet: what is in force is what PID 1 holds.
        true
    }

    fn beat(&mut self, facts: &BeatFacts<'_>) {
        let mut services = heapless::Vec::<ServiceSample<'_>, SERVICES_MAX>::new();
        for fact in facts.services {
            // There are never more services than places.
            let _ = services.push(ServiceSample {
                name: fact.name,
                state: fact.state,
                restarts: fact.restarts,
                rss_bytes: fact.memory_bytes,
            });
        }
        self.0.beat(&BeatInput {
            now: Duration::from_nanos(facts.now_ns),
            beat: facts.beat,
            period: Duration::from_nanos(facts.period_ns),
            lateness: Duration::from_nanos(facts.late_ns),
            work: Duration::from_nanos(facts.cpu_last_ns),
            services: &services,
            watchdog_slack: None,
            mutation_generation: 0,
        });
    }
}
