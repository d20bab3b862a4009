//! PID 1: the boot, the heartbeat, the supervision of children.
//!
//! Owns: supervision state, the sensor page's descriptor, every listening socket, the descriptors of
//! the others; the roles `helper` and `net` that stand beside it.
//! Must never: wait for anything but its event loop, parse what a stranger sent, die.
//! Start with [`run`]; the policy is in `supervisor`, the loop in `heart`.
#![forbid(unsafe_code)]
#![deny(clippy::unwrap_used, clippy::indexing_slicing)]
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::indexing_slicing))]

mod boot;
mod cell;
mod cgroup;
mod clock;
pub mod control;
mod disks;
mod early;
mod emergency;
mod fd_store;
mod gate;
mod generation;
mod grow;
pub mod handover;
mod harden;
mod heart;
pub mod helper;
mod helper_link;
mod journal;
mod keep;
mod last_boot;
mod ledger_link;
mod metabolism;
pub mod net;
mod notify;
mod package;
mod params;
mod post_mortem;
mod pstore;
mod resume;
mod state;
mod succession;
pub mod supervisor;
mod unit;
mod upgrade;
mod watchdog;
mod why;

pub use boot::run;
pub use generation::{PolicyHealth, PolicyValues};
pub use metabolism::{Deed, Deeds, Recorded, Taken};
pub use sys::handover::is_there as is_successor;

use std::fs::File;
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::PathBuf;

/// Where PID 1 finds itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Mode {
    /// First process of a kernel.
    Appliance,
    /// An ordinary process.
    Process {
        /// Folder of its sockets and data.
        state: PathBuf,
        /// Whether stdin is a terminal that the console may have.
        terminal: bool,
    },
}

/// What the composition chooses.
#[derive(Clone)]
pub struct Setup {
    /// Where we are.
    pub mode: Mode,
    /// As an ordinary process: parameters in the form of a kernel command line.
    pub parameters: String,
    /// The neural runtime's share of a beat, and the sensor page that it writes.
    /// Made once `/proc` and `/sys` are there, over the page of the PID 1 before if there was one.
    pub work: fn(Option<File>) -> io::Result<Work>,
    /// Whether a PID 1 before us may have left something.
    pub successor: bool,
}

impl Setup {
    /// Whether we are the first process of a kernel.
    #[must_use]
    pub fn is_appliance(&self) -> bool {
        self.mode == Mode::Appliance
    }

    /// Folder of the sockets.
    #[must_use]
    pub fn run_folder(&self) -> PathBuf {
        match &self.mode {
            Mode::Appliance => PathBuf::from("/run/vb"),
            Mode::Process { state, .. } => state.join("run"),
        }
    }

    /// Folder of the data.
    #[must_use]
    pub fn data_folder(&self) -> PathBuf {
        match &self.mode {
            Mode::Appliance => PathBuf::from("/data"),
            Mode::Process { state, .. } => state.join("data"),
        }
    }
}

/// The neural runtime, and the sensor page that it writes.
pub type Work = (Box<dyn BeatWork>, File);

/// What a beat knows of one service.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ServiceFact<'a> {
    /// The manifest's name.
    pub name: &'a str,
    /// Where it is.
    pub state: wire::control::ServiceState,
    /// Restarts since boot.
    pub restarts: u32,
    /// Bytes of its cgroup as of the last look, where it has one.
    pub memory_bytes: Option<u64>,
    /// Whether the manifest calls it core.
    pub core: bool,
    /// Its `memory.max`; 0 for none.
    pub memory_max: u64,
    /// Its `cpu.weight` as the manifest has it.
    pub cpu_weight: u16,
    /// Share of its watchdog's time that it has been silent; none without a watchdog.
    pub silence: Option<f32>,
}

/// What a beat knows.
#[derive(Debug, Clone, Copy)]
pub struct BeatFacts<'a> {
    /// Counts beats from 1.
    pub beat: u64,
    /// CLOCK_MONOTONIC.
    pub now_ns: u64,
    /// Period of the heartbeat.
    pub period_ns: u64,
    /// The same as the parameters have it.
    pub period_usual_ns: u64,
    /// Whether nothing starts, ends or is replaced.
    pub steady: bool,
    /// How late this beat began.
    pub late_ns: u64,
    /// CPU time of the beat before.
    pub cpu_last_ns: u64,
    /// In the manifest's order.
    pub services: &'a [ServiceFact<'a>],
    /// Time left until the watchdog would fire; none without one.
    pub watchdog_left_ns: Option<u64>,
}

/// The neural runtime's share of a beat: bounded, without allocation, without waiting.
pub trait BeatWork {
    /// The model was mapped.
    fn take_model(&mut self, bytes: u64, tensors: u64);
    /// A service has a page of counters.
    fn take_stats(&mut self, service: &str, page: BorrowedFd<'_>);
    /// The data disk is there.
    fn take_data(&mut self, folder: OwnedFd);
    /// From the next beat on this policy decides; `false` where nothing decides yet. May allocate.
    fn take_policy(&mut self, _generation: u64, _values: &PolicyValues) -> bool {
        false
    }
    /// From the next beat on the base's policy decides again.
    fn leave_policy(&mut self) {}
    /// How the policy did in the last beat.
    fn policy_health(&self) -> PolicyHealth {
        PolicyHealth::Good
    }
    /// One beat, and what is to be done.
    fn beat(&mut self, facts: &BeatFacts<'_>) -> Deeds;
    /// Whether the model's system tensors are to be given to it now: once, some beats after the start, and again when
    /// another model has come.
    fn wants_model(&self) -> bool;
    /// Another package's model has taken the place of the one before.
    fn outdate_model(&mut self) {}
    /// A knob of this service was not set, or nobody knows.
    fn tune_lost(&mut self, _service: &str, _now_ns: u64) {}
    /// The model, as its file is; answers what of its system tensors is refused, and what is over with the one before.
    /// May allocate.
    fn take_system(&mut self, model: Option<&[u8]>, now_ns: u64) -> Taken;
    /// Lines a second of a service whose manifest says so many.
    fn log_rate(&self, rate: u32) -> u32;
    /// Numbers of the oldest and the newest row of the journal's ring; the newest is 0 for none.
    fn journal(&self) -> (u64, u64);
    /// Bytes of the row with this number, if the ring has it.
    fn journal_row(&self, seq: u64) -> Option<[u8; 192]>;
    /// The line at this place of the interrupt table.
    fn interrupt(&self, place: usize) -> Option<wire::neural::Interrupt<'static>>;
}

/// A machine without sensors: what is left where the sensor page could not be made.
struct NoWork;

impl BeatWork for NoWork {
    fn take_model(&mut self, _: u64, _: u64) {}
    fn take_stats(&mut self, _: &str, _: BorrowedFd<'_>) {}
    fn take_data(&mut self, _: OwnedFd) {}
    fn beat(&mut self, _: &BeatFacts<'_>) -> Deeds {
        Deeds::new()
    }
    fn wants_model(&self) -> bool {
        false
    }
    fn take_system(&mut self, _: Option<&[u8]>, _: u64) -> Taken {
        Taken::default()
    }
    fn log_rate(&self, rate: u32) -> u32 {
        rate
    }
    fn journal(&self) -> (u64, u64) {
        (1, 0)
    }
    fn journal_row(&self, _: u64) -> Option<[u8; 192]> {
        None
    }
    fn interrupt(&self, _: usize) -> Option<wire::neural::Interrupt<'static>> {
        None
    }
}
