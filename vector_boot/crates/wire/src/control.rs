//! `init.sock`: what the console, `ctl` and the services ask of PID 1.
//!
//! A question is one frame. A list comes as one frame an item and a closing [`crate::Done`].

use crate::{Kind, Message};
use serde::{Deserialize, Serialize};

/// Binds a body to its kind.
macro_rules! message {
    ($($name:ty = $kind:ident),* $(,)?) => {
        $(impl Message for $name { const KIND: Kind = Kind::$kind; })*
    };
}
pub(crate) use message;

/// Asks for [`Status`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct StatusGet;

/// How the machine as a whole is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum MachineState {
    /// Services are still coming up.
    Starting,
    /// Everything in the manifest is up.
    Ready,
    /// Something is missing or failed; [`Status::reason`] says what.
    Degraded,
    /// An orderly shutdown is under way.
    Stopping,
}

/// The machine at a glance.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Status<'a> {
    /// How it is.
    pub state: MachineState,
    /// Why it is degraded: one sentence a cause, separated by `"; "`. Empty when all is well.
    pub reason: &'a str,
    /// Where the package was found, and its digest or `plain`.
    pub package: &'a str,
    /// The model's `general.name`, or the file's kind.
    pub model: &'a str,
    /// Tensors in the model.
    pub tensors: u32,
    /// Bytes of the mapped tensor section.
    pub mapped_bytes: u64,
    /// This boot.
    pub boot_id: [u8; 16],
    /// Host name.
    pub hostname: &'a str,
    /// Nanoseconds since PID 1 took over.
    pub uptime_ns: u64,
    /// Beats since the loop began.
    pub beats: u64,
    /// Beats whose own CPU time exceeded the period.
    pub beats_missed: u64,
    /// Period of the heartbeat in milliseconds.
    pub period_ms: u32,
    /// Services up, of how many in the manifest.
    pub services_up: u16,
    /// Services in the manifest.
    pub services: u16,
    /// Watchdog driver and timeout, or why there is none.
    pub watchdog: &'a str,
    /// PID 1's version.
    pub version: &'a str,
    /// 1 on the appliance; else the pid of the ordinary process.
    pub pid: u32,
    /// What of the confinement could not be applied here; empty on the appliance.
    pub unconfined: &'a str,
    /// The key that signed the package, in hex; empty for an unsigned one.
    pub signer: &'a str,
    /// First digits of each trusted key, separated by blanks.
    pub trusted_keys: &'a str,
    /// First digits of the digest of the `vector_boot` that runs as PID 1; empty where nobody has said.
    pub init_digest: &'a str,
    /// Where that lay: `initramfs`, `package DEVICE`, or a path.
    pub init_from: &'a str,
}

/// Asks for one [`Service`] each, then [`crate::Done`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServicesGet;

/// Where a service is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum ServiceState {
    /// Waits for what it needs.
    Waiting,
    /// Running, not yet ready.
    Starting,
    /// Ready.
    Up,
    /// Told to stop.
    Stopping,
    /// Stopped on request, or ended and not to be restarted.
    Stopped,
    /// Died; comes back after its back-off.
    Backoff,
    /// Died too often; held until a person or the slow retry.
    Failed,
}

/// One supervised service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Service<'a> {
    /// The manifest's name.
    pub name: &'a str,
    /// Where it is.
    pub state: ServiceState,
    /// Its process, 0 when it has none.
    pub pid: u32,
    /// The uid that it runs under.
    pub uid: u32,
    /// Restarts since boot.
    pub restarts: u32,
    /// Nanoseconds since the process started, 0 without one.
    pub uptime_ns: u64,
    /// Nanoseconds from its start to its readiness, 0 before.
    pub ready_ns: u64,
    /// Resident bytes of its cgroup, 0 where that is not known.
    pub memory_bytes: u64,
    /// How the last process ended; empty if none did.
    pub last_exit: &'a str,
    /// What it last said with `STATUS=`.
    pub status: &'a str,
    /// Nanoseconds until the next start in [`ServiceState::Backoff`].
    pub backoff_ns: u64,
    /// Whether it has a cell, Landlock and filters; a manifest may do without them.
    pub confined: bool,
}

/// What to do to a service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Verb {
    /// Start it if it is stopped or failed.
    Start,
    /// Stop it and keep it stopped.
    Stop,
    /// Stop it and start it again.
    Restart,
    /// Send it this signal; a drill. The name `init` means PID 1 itself.
    Signal(u8),
}

/// Acts on a service; answered by [`crate::Done`] once the act is recorded and begun.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Control<'a> {
    /// What to do.
    pub verb: Verb,
    /// The manifest's name of the service.
    pub name: &'a str,
}

/// Asks for log lines as [`LogLine`] frames, oldest first, then [`crate::Done`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogGet<'a> {
    /// Only lines of this service; empty for all. PID 1's own lines are `init`.
    pub name: &'a str,
    /// At most this many, the newest ones.
    pub lines: u32,
    /// Only lines with a greater sequence number; 0 for all. To follow, ask again with the last one.
    pub after: u64,
}

/// One line of output of a service or of PID 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogLine<'a> {
    /// Sequence number over all services, from 1, without gaps but for lines that the ring dropped.
    pub seq: u64,
    /// Nanoseconds since boot (CLOCK_MONOTONIC).
    pub at_ns: u64,
    /// Who wrote it.
    pub name: &'a str,
    /// Syslog level, 3 error to 7 debug.
    pub level: u8,
    /// The line, invalid UTF-8 replaced, without its end.
    pub text: &'a str,
}

/// Asks for [`Beat`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct BeatGet;

/// Buckets of [`Beat::lateness`]: bucket `i` counts beats that began less than `2^i * 16` us late,
/// the last one all others.
pub const LATENESS_BUCKETS: usize = 16;

/// The heartbeat's record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Beat {
    /// Beats since the loop began.
    pub count: u64,
    /// Period in nanoseconds.
    pub period_ns: u64,
    /// Beats whose own CPU time, wake to end, exceeded the period.
    pub missed: u64,
    /// Timer expirations that one wake-up found beyond the first (the whole machine was stalled).
    pub coalesced: u64,
    /// CPU nanoseconds of the last beat.
    pub cpu_last_ns: u64,
    /// CPU nanoseconds of the longest beat.
    pub cpu_max_ns: u64,
    /// How late beats began; see [`LATENESS_BUCKETS`].
    pub lateness: [u32; LATENESS_BUCKETS],
    /// Latest beginning of a beat, nanoseconds after it was due.
    pub late_max_ns: u64,
    /// Orphans reaped.
    pub orphans: u64,
}

/// Asks for one [`Phase`] each, then [`crate::Done`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct BootGet;

/// One phase of the boot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Phase<'a> {
    /// `console`, `mounts`, `modules`, `package`, `first-beat`, `ready:NAME`, `ready`.
    pub name: &'a str,
    /// Nanoseconds from the handoff to its beginning.
    pub begin_ns: u64,
    /// Nanoseconds from the handoff to its end.
    pub end_ns: u64,
    /// What was found or went wrong, for people.
    pub note: &'a str,
}

/// Asks for one [`Param`] each, then [`crate::Done`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ParamsGet;

/// One parameter in force.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Param<'a> {
    /// `vb.net` and the like.
    pub key: &'a str,
    /// Its value.
    pub value: &'a str,
    /// `default`, `manifest` or `cmdline`; `unknown` for a `vb.` key that nothing reads.
    pub source: &'a str,
}

/// Ends the machine in order; answered by [`crate::Done`] when it begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Power {
    /// Start again.
    Reboot,
    /// Switch off.
    Poweroff,
    /// Stop and stay.
    Halt,
}

/// Asks for a descriptor, answered by [`Descriptor`] with it in SCM_RIGHTS.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct DescriptorGet<'a> {
    /// `rts`, `sensors` or `token`, as LISTEN_FDNAMES would call it; `stats.NAME` is the
    /// stats page of the service NAME, to be mapped read-only; `kmsg` is the kernel's log at its
    /// oldest record; `memory.high.NAME` is where the kernel holds the service NAME, and `memory.stat.NAME` its counters of that memory; `data` only names the folder of the data, to ask how full its disk is.
    pub name: &'a str,
}

/// Carries one descriptor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Descriptor<'a> {
    /// What it is.
    pub name: &'a str,
}

/// Asks for the wall clock to be set; answered by [`crate::Done`] once it is, or being led there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClockSet<'a> {
    /// Nanoseconds since 1970 in UTC...
    pub wall_ns: u64,
    /// ...at this moment of CLOCK_MONOTONIC.
    pub at_ns: u64,
    /// How wrong that may be.
    pub error_ns: u64,
    /// By whose word: `ntp ADDR:PORT`, for the record.
    pub source: &'a str,
}

message! {
    ClockSet<'_> = ClockSet,
    StatusGet = StatusGet, Status<'_> = Status, ServicesGet = ServicesGet, Service<'_> = Service,
    Control<'_> = Control, LogGet<'_> = LogGet, LogLine<'_> = LogLine, BeatGet = BeatGet, Beat = Beat,
    BootGet = BootGet, Phase<'_> = Phase, ParamsGet = ParamsGet, Param<'_> = Param, Power = Power,
    DescriptorGet<'_> = DescriptorGet, Descriptor<'_> = Descriptor,
}
