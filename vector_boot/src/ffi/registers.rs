//! The registers of `hw.mmio`: of this host as this process samples it, or of a running machine's page.
//!
//! Owns: how PID 1 is asked for its page. Never here: what a register means (`docs/sensors.md`), a wait of more than
//! [`ANSWER_LIMIT`]. Start with [`of_machine`].

use ipc::Connection;
use neural::BeatInput;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::{Duration, Instant};
use sys::seqlock::Reader;
use wire::control::{Descriptor, DescriptorGet};
use wire::sensors::{BODY_WORDS, MAGIC, Snapshot, VERSION_WORD};

use super::failure::Failure;

/// How long PID 1 may take to answer: twenty beats. Longer means that it does not.
pub const ANSWER_LIMIT: Duration = Duration::from_secs(2);

/// This process's own page: PID 1's sampling, run once a call.
#[derive(Debug, Default)]
pub struct Registers(Option<Own>);

#[derive(Debug)]
struct Own {
    page: File,
    runtime: neural::Runtime,
    begun: Instant,
    before: Instant,
    beat: u64,
}

impl Registers {
    /// Samples the host once more. What only PID 1 knows reads NaN.
    pub fn sample(&mut self) -> Result<Snapshot, Failure> {
        if self.0.is_none() {
            let made = neural::Runtime::create();
            let (page, runtime) = made.map_err(|error| Failure::machine("sensor page", &error))?;
            let now = Instant::now();
            self.0 = Some(Own {
                page,
                runtime,
                begun: now,
                before: now,
                beat: 0,
            });
        }
        let Some(own) = &mut self.0 else {
            return Err(Failure::not_started());
        };
        let now = Instant::now();
        own.beat += 1;
        own.runtime.beat(&BeatInput {
            now: now.duration_since(own.begun),
            beat: own.beat,
            period: now.duration_since(own.before),
            lateness: Duration::ZERO,
            work: Duration::ZERO,
            services: &[],
            watchdog_slack: None,
            period_usual: Duration::from_millis(100),
            steady: false,
        });
        own.before = now;
        read(&own.page)
    }
}

/// Asks the PID 1 whose sockets lie in this folder for its page, and reads it.
pub fn of_machine(run: &Path) -> Result<Snapshot, Failure> {
    let socket = run.join("init.sock");
    let refused = |error: &dyn std::fmt::Display| Failure::machine(socket.display(), error);
    let mut connection = Connection::open(&socket, ANSWER_LIMIT).map_err(|e| refused(&e))?;
    let page = connection.ask(&DescriptorGet { name: "sensors" }, |frame, page| {
        frame.body::<Descriptor<'_>>()?;
        Ok(page)
    });
    let page: Option<OwnedFd> = page.map_err(|error| refused(&error))?;
    read(&page.ok_or_else(|| refused(&"no sensor page came"))?)
}

fn read(page: &impl std::os::fd::AsFd) -> Result<Snapshot, Failure> {
    let wrong = |error: &dyn std::fmt::Display| Failure::machine("sensor page", error);
    let reader = Reader::over(page, MAGIC).map_err(|error| wrong(&error))?;
    let mut words = [0; BODY_WORDS];
    reader
        .read(VERSION_WORD, &mut words)
        .map_err(|error| wrong(&error))?;
    Ok(Snapshot::unpack(&words))
}
