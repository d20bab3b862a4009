//! `capacity.sock`: admission, checks and the plans that PID 1 carries out.
//!
//! Axes are basis points, 0 to 10,000, in the order geo, int, gauge, ptr, obs.

use crate::control::message;
use crate::{Kind, Message};
use serde::{Deserialize, Serialize};

/// Number of axes.
pub const AXES: usize = 5;
/// Names of the axes as the outside writes them.
pub const AXIS_NAMES: [&str; AXES] = ["C_geo", "C_int", "C_gauge", "C_ptr", "C_obs"];
/// Number of gates.
pub const GATES: usize = 4;
/// Names of the gates, in the order of the bits of `gates_failed`.
pub const GATE_NAMES: [&str; GATES] = ["fit", "gluing", "uv", "isolation"];
/// The whole budget of one axis.
pub const BASIS_POINTS: u16 = 10_000;
/// Longest token on the wire, in bytes of text.
pub const TOKEN_BYTES_MAX: usize = 1024;

/// Bits of a token's permissions.
pub mod permission {
    /// May call tools.
    pub const TOOLS: u32 = 1;
    /// May talk to the ledger.
    pub const LEDGER: u32 = 2;
    /// May ask for capacity.
    pub const CAPACITY: u32 = 4;
    /// May run the console's commands from outside.
    pub const ADMIN: u32 = 8;

    /// What people call them.
    const NAMES: [(&str, u32); 4] = [
        ("tools", TOOLS),
        ("ledger", LEDGER),
        ("capacity", CAPACITY),
        ("admin", ADMIN),
    ];

    /// The bits of names separated by commas.
    ///
    /// # Errors
    /// The first word that names none.
    pub fn of_names(list: &str) -> Result<u32, &str> {
        list.split(',')
            .filter(|word| !word.is_empty())
            .try_fold(0, |bits, word| {
                let named = NAMES.iter().find(|(name, _)| *name == word);
                named.map(|(_, bit)| bits | bit).ok_or(word)
            })
    }
}

/// What is asked of one axis.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Want {
    /// Guaranteed share.
    pub min: u16,
    /// Share wanted at most, at least `min`.
    pub want: u16,
    /// Weight in sharing what is left.
    pub weight: u16,
}

/// Asks for capacity; answered by [`Grant`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request<'a> {
    /// Who pays.
    pub tenant_id: &'a str,
    /// What for.
    pub workload_id: &'a str,
    /// Per axis; `None` guarantees and wants nothing.
    pub axes: [Option<Want>; AXES],
    /// How long, in seconds.
    pub duration_s: u32,
    /// 0 lowest to 9.
    pub priority: u8,
    /// What the token permits, of what the asker may give on.
    pub permissions: u32,
}

/// The answer to [`Request`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Grant<'a> {
    /// Whether it was admitted.
    pub admitted: bool,
    /// The token; empty when refused.
    pub token: &'a str,
    /// Granted basis points per axis.
    pub grants: [u16; AXES],
    /// Bit per axis (bit 0 = geo) that could not be met.
    pub axes_failed: u8,
    /// Bit per gate (fit, gluing, UV, isolation) that was failing.
    pub gates_failed: u8,
    /// Milliseconds until it expires.
    pub expires_ms: u64,
    /// Lease slot.
    pub slot: u32,
    /// Why it was refused, for people; empty when admitted.
    pub reason: &'a str,
}

/// Asks whether one operation may run now; answered by [`Checked`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Check<'a> {
    /// The bearer's token as text: a `vbt1` token, the boot token, or a named one.
    pub token: &'a str,
    /// `tool:fs_read` and the like.
    pub operation: &'a str,
    /// Estimated CPU microseconds.
    pub cpu_us: u32,
    /// Estimated bytes of memory.
    pub memory_bytes: u64,
}

/// Why an operation may not run. Enums grow at the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Verdict {
    /// It may run.
    Allowed,
    /// The token is unknown, revoked or expired.
    BadToken,
    /// The token does not permit this operation.
    NotPermitted,
    /// A bucket is empty; `bucket` names it.
    Quota,
    /// A gate fails and the operation's class is shed.
    Gate,
}

/// The answer to [`Check`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Checked<'a> {
    /// Whether it may run.
    pub verdict: Verdict,
    /// The bucket that was empty; empty text when none was.
    pub bucket: &'a str,
    /// Milliseconds until a retry may succeed.
    pub retry_after_ms: u32,
    /// Operations left in the narrowest bucket.
    pub remaining: u32,
    /// Bit per failing gate.
    pub gates_failed: u8,
    /// Grows with every structural change.
    pub epoch: u64,
    /// Who the token speaks for: the ledger's actor, `agent:boot`.
    pub actor: &'a str,
    /// Whose capacity it is.
    pub tenant_id: &'a str,
    /// Why it may not run, for people; empty when it may.
    pub reason: &'a str,
}

/// Asks who a token speaks for, without spending; answered by [`Identity`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identify<'a> {
    /// The token as text.
    pub token: &'a str,
}

/// The answer to [`Identify`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity<'a> {
    /// Whether it is in force.
    pub valid: bool,
    /// The ledger's actor.
    pub actor: &'a str,
    /// The tenant.
    pub tenant_id: &'a str,
    /// Its permission bits.
    pub permissions: u32,
    /// Why it is not in force, for people; empty when it is.
    pub reason: &'a str,
}

/// Gives capacity back; answered by [`crate::Done`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Release<'a> {
    /// The token that carries it.
    pub token: &'a str,
}

/// Takes capacity back; answered by [`crate::Done`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Revoke {
    /// Lease slot.
    pub slot: u32,
}

/// Asks for [`State`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct StateGet;

/// Budgets and use as of the last tick.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    /// Ticks since start.
    pub ticks: u64,
    /// Grows with every structural change.
    pub epoch: u64,
    /// Basis points that leases may have, per axis (the reserve taken off).
    pub budget: [u16; AXES],
    /// Basis points granted, per axis.
    pub granted: [u16; AXES],
    /// Basis points consumed at the last tick, per axis; `None` where it is not measured here.
    pub consumed: [Option<u16>; AXES],
    /// Leases in force.
    pub leases: u32,
    /// Checks since start.
    pub checks: u64,
    /// Of these refused.
    pub denied: u64,
}

/// Asks for one [`Lease`] each, then [`crate::Done`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeasesGet;

/// One lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lease<'a> {
    /// Slot.
    pub slot: u32,
    /// Tenant.
    pub tenant_id: &'a str,
    /// Workload.
    pub workload_id: &'a str,
    /// Basis points granted per axis.
    pub grants: [u16; AXES],
    /// Milliseconds until it expires; `u64::MAX` for never.
    pub expires_ms: u64,
    /// Priority.
    pub priority: u8,
    /// Checks made with it.
    pub checks: u64,
}

/// Asks for one [`Gate`] each, then [`crate::Done`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct GatesGet;

/// Where a gate stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum GateVerdict {
    /// The data is too short or not measured here; counts as pass.
    Unresolved,
    /// It holds.
    Pass,
    /// It fails.
    Fail,
}

/// One gate as of the last tick.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gate<'a> {
    /// One of [`GATE_NAMES`].
    pub name: &'a str,
    /// Where it stands.
    pub verdict: GateVerdict,
    /// Score in thousandths, 1000 is the threshold; `None` where nothing is measured here.
    pub score_milli: Option<u32>,
    /// Ticks since the verdict last changed.
    pub ticks: u64,
}

/// Longest plan, in leaves; a larger table is sent as several plans of one epoch.
pub const PLAN_LEAVES_MAX: usize = 64;

/// One knob of one lease's cgroup.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Knob {
    /// `cpu.max` quota in microseconds of a 100 ms period; 0 means `max`.
    CpuMaxUs(u64),
    /// `cpu.weight`.
    CpuWeight(u16),
    /// `memory.max` in bytes; 0 means `max`.
    MemoryMax(u64),
    /// `pids.max`; 0 means `max`.
    PidsMax(u32),
}

/// One write of a plan.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Write {
    /// Lease slot: the leaf `/vb/lease/SLOT`.
    pub slot: u32,
    /// What to write.
    pub knob: Knob,
}

/// What the cgroups of leases are to be; the shrinks are written first, then the grows. A leaf that
/// appears is made; `removed` ones are emptied and removed. Answered by [`CgroupReadback`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CgroupPlan {
    /// Epoch of the table.
    pub epoch: u64,
    /// Writes that take away.
    pub shrinks: heapless::Vec<Write, PLAN_LEAVES_MAX>,
    /// Writes that give.
    pub grows: heapless::Vec<Write, PLAN_LEAVES_MAX>,
    /// Slots whose leaf goes.
    pub removed: heapless::Vec<u32, PLAN_LEAVES_MAX>,
}

/// How a plan went: all of it, or the old values stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct CgroupReadback<'a> {
    /// Epoch of the plan.
    pub epoch: u64,
    /// Whether every knob read back as written.
    pub applied: bool,
    /// What was wrong; empty when applied. `no cgroups` as an ordinary process.
    pub detail: &'a str,
}

message! {
    Request<'_> = CapacityRequest, Grant<'_> = CapacityGrant, Check<'_> = CapacityCheck,
    Checked<'_> = CapacityChecked, Identify<'_> = CapacityIdentify, Identity<'_> = CapacityIdentity,
    Release<'_> = CapacityRelease, Revoke = CapacityRevoke, StateGet = CapacityStateGet,
    State = CapacityState, LeasesGet = CapacityLeasesGet, Lease<'_> = CapacityLease,
    GatesGet = CapacityGatesGet, Gate<'_> = CapacityGate,
    CgroupPlan = CgroupPlan, CgroupReadback<'_> = CgroupReadback,
}
