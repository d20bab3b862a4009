//! What the policy knows of one service as plain numbers, so that a PID 1 that takes over goes on exactly: the same
//! phase, streak, failures in the window, deadline and place in the row of random numbers.
//!
//! Pure; [`UnitSnapshot::to_bytes`] is the form in the state memfd, little-endian, [`SNAPSHOT_BYTES`] long, field by
//! field in `docs/state-memfd.md`. Who stores it adds the checksum. What a policy says is not in it: the manifest
//! does. Start with [`Supervisor::snapshot`] and [`Supervisor::resume`].

use super::{Failures, GAPS, Index, Killing, Phase, Policy, Supervisor, UNITS_MAX, Unit, spread};
use std::fmt;

/// Length of [`UnitSnapshot::to_bytes`].
pub const SNAPSHOT_BYTES: usize = 160;

/// Stands for "no deadline": a clock that counts nanoseconds reaches it after 584 years.
const NEVER: u64 = u64::MAX;
/// Its deadlines may lie as far ahead as the manifest's longest limit allows, ten minutes and an hour more, and no
/// further.
const AHEAD_NS_MAX: u64 = 4_200_000_000_000;

const BLOCKED: u8 = 1;
const RUNNING: u8 = 2;
const AGAIN: u8 = 4;
const LEAVING: u8 = 8;
const MACHINE_STOPS: u8 = 16;
const FLAGS: u8 = BLOCKED | RUNNING | AGAIN | LEAVING | MACHINE_STOPS;

/// One service's part of the policy's state. Made by [`Supervisor::snapshot`] or from bytes that were one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UnitSnapshot {
    phase: Phase,
    flags: u8,
    killing: Killing,
    streak: u32,
    restarts: u32,
    deadline_ns: u64,
    deadline_max_ns: u64,
    up_since_ns: u64,
    watchdog_ns: u64,
    failing_since_ns: u64,
    random: u64,
    failures: Failures,
}

/// Why bytes are no snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Nonsense {
    field: &'static str,
    found: u64,
    expected: &'static str,
}

impl fmt::Display for Nonsense {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            field,
            found,
            expected,
        } = self;
        write!(f, "snapshot {field}: {found}, expected {expected}")
    }
}

impl std::error::Error for Nonsense {}

impl Supervisor {
    /// What is known of a service, after all that [`Supervisor::step`] asked for was done.
    #[must_use]
    pub fn snapshot(&self, unit: Index) -> Option<UnitSnapshot> {
        let unit = self.units.get(unit)?;
        let flag = |on: bool, bit: u8| if on { bit } else { 0 };
        Some(UnitSnapshot {
            phase: unit.phase,
            flags: flag(unit.blocked, BLOCKED)
                | flag(unit.running, RUNNING)
                | flag(unit.again, AGAIN)
                | flag(unit.leaving, LEAVING)
                | flag(self.stopping, MACHINE_STOPS),
            killing: unit.killing,
            streak: unit.streak,
            restarts: unit.restarts,
            deadline_ns: unit.deadline_ns.unwrap_or(NEVER),
            deadline_max_ns: unit.deadline_max_ns,
            up_since_ns: unit.up_since_ns,
            watchdog_ns: unit.watchdog_ns,
            failing_since_ns: unit.failing_since_ns.unwrap_or(NEVER),
            random: unit.random,
            failures: unit.failures,
        })
    }

    /// Goes on where the snapshots were taken; a service without one (a row that did not hold) begins anew.
    ///
    /// What cannot be true at `now` is bounded by it: nothing happened later, no deadline lies further ahead than an
    /// hour. Two things are asked for once more, since nobody knows whether they were done: a kill whose victim
    /// still runs, and [`super::Action::AllStopped`].
    ///
    /// The caller owes: [`super::Event::Started`] or [`super::Event::StartFailed`] for each that [`Supervisor::awaits_start`]
    /// names, and [`super::Event::Exited`] for each that runs by its snapshot and has no process any more.
    #[must_use]
    pub fn resume(policies: &[Policy], snapshots: &[Option<UnitSnapshot>], now: u64) -> Self {
        let all = policies.iter().take(UNITS_MAX).zip(1u64..);
        let units = all.enumerate().map(|(i, (policy, nth))| {
            let fresh = Unit::new(policy, spread(now, nth));
            match snapshots.get(i).copied().flatten() {
                Some(snapshot) => snapshot.unit(fresh, now),
                None => fresh,
            }
        });
        let stopping = snapshots.iter().flatten().any(|s| s.has(MACHINE_STOPS));
        Self {
            units: units.collect(),
            stopping,
            said_stopped: false,
        }
    }

    /// Whether its start was asked for and not answered; it may have been told to stop since.
    #[must_use]
    pub fn awaits_start(&self, unit: Index) -> bool {
        self.units
            .get(unit)
            .is_some_and(|u| matches!(u.phase, Phase::Starting | Phase::Stopping) && !u.running)
    }
}

impl UnitSnapshot {
    /// Where it was.
    #[must_use]
    pub fn phase(&self) -> Phase {
        self.phase
    }

    /// Whether it had a process.
    #[must_use]
    pub fn is_running(&self) -> bool {
        self.has(RUNNING)
    }

    fn has(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }

    fn unit(&self, fresh: Unit, now: u64) -> Unit {
        let latest = now.saturating_add(AHEAD_NS_MAX);
        let time = |at: u64, most: u64| (at != NEVER).then(|| at.min(most));
        // Whether the signal was sent before the crash is not known, and it kills only once: due at once.
        let (killing, deadline) = match self.killing {
            Killing::Kill | Killing::Again => (Killing::Again, Some(now)),
            other => (other, time(self.deadline_ns, latest)),
        };
        let mut failures = self.failures;
        failures.last_ns = failures.last_ns.min(now);
        Unit {
            phase: self.phase,
            blocked: self.has(BLOCKED),
            running: self.has(RUNNING),
            again: self.has(AGAIN),
            leaving: self.has(LEAVING),
            killing,
            deadline_ns: deadline,
            deadline_max_ns: self.deadline_max_ns.min(latest),
            streak: self.streak,
            restarts: self.restarts,
            up_since_ns: self.up_since_ns.min(now),
            watchdog_ns: self.watchdog_ns.min(fresh.watchdog_most_ns()),
            failing_since_ns: time(self.failing_since_ns, now),
            random: self.random,
            failures,
            ..fresh
        }
    }

    /// The stored form.
    #[must_use]
    pub fn to_bytes(&self) -> [u8; SNAPSHOT_BYTES] {
        let mut bytes = [0; SNAPSHOT_BYTES];
        let mut to = Cursor(&mut bytes);
        let killing = match self.killing {
            Killing::No => 0,
            Killing::Abort => 1,
            Killing::Again | Killing::Kill => 2,
        };
        to.put(&[self.phase as u8, self.flags, killing, self.failures.count]);
        to.put(&self.streak.to_le_bytes());
        to.put(&self.restarts.to_le_bytes());
        to.put(&[0; 4]);
        to.put(&self.deadline_ns.to_le_bytes());
        for number in [
            self.deadline_max_ns,
            self.up_since_ns,
            self.watchdog_ns,
            self.failing_since_ns,
            self.random,
            self.failures.last_ns,
        ] {
            to.put(&number.to_le_bytes());
        }
        for gap in self.failures.gaps_us {
            to.put(&gap.to_le_bytes());
        }
        bytes
    }

    /// Reads the stored form.
    ///
    /// # Errors
    /// A value that no snapshot has, by its field: bytes that hold are exactly what [`UnitSnapshot::to_bytes`] wrote.
    pub fn from_bytes(bytes: &[u8; SNAPSHOT_BYTES]) -> Result<Self, Nonsense> {
        let mut from = bytes.as_slice();
        let [phase, flags, killing, count] = take(&mut from);
        let streak = u32::from_le_bytes(take(&mut from));
        let restarts = u32::from_le_bytes(take(&mut from));
        let zero = u32::from_le_bytes(take(&mut from));
        let mut number = || u64::from_le_bytes(take(&mut from));
        let deadline_ns = number();
        let deadline_max_ns = number();
        let up_since_ns = number();
        let watchdog_ns = number();
        let failing_since_ns = number();
        let random = number();
        let last_ns = number();
        let mut gaps_us = [0; GAPS];
        for gap in &mut gaps_us {
            *gap = u32::from_le_bytes(take(&mut from));
        }
        let rest = from
            .iter()
            .fold(u64::from(zero), |all, byte| all | u64::from(*byte));
        let expect = |holds: bool, field, found, expected| {
            holds.then_some(()).ok_or(Nonsense {
                field,
                found,
                expected,
            })
        };
        let known = Phase::of(phase).ok_or(Nonsense {
            field: "phase",
            found: phase.into(),
            expected: "0 to 6",
        })?;
        expect(flags & !FLAGS == 0, "flags", flags.into(), "0 to 31")?;
        let killing_known = match killing {
            0 => Some(Killing::No),
            1 => Some(Killing::Abort),
            2 => Some(Killing::Kill),
            _ => None,
        };
        let runs = flags & RUNNING != 0;
        let may_run = matches!(known, Phase::Starting | Phase::Up | Phase::Stopping);
        let must_run = known == Phase::Up;
        expect(
            if runs {
                may_run
            } else {
                !must_run && killing == 0
            },
            "running",
            runs.into(),
            "what its phase says",
        )?;
        expect(
            usize::from(count) <= GAPS + 1,
            "failures",
            count.into(),
            "0 to 16",
        )?;
        let used = usize::from(count).saturating_sub(1);
        expect(
            gaps_us.iter().skip(used).all(|gap| *gap == 0) && (count > 0 || last_ns == 0),
            "failures",
            count.into(),
            "as many as there are times",
        )?;
        expect(random != 0, "random", random, "any but 0")?;
        let waits = known != Phase::Backoff || deadline_ns != NEVER;
        expect(waits, "deadline", deadline_ns, "a time while backing off")?;
        expect(rest == 0, "reserved", rest, "0")?;
        Ok(Self {
            phase: known,
            flags,
            killing: killing_known.ok_or(Nonsense {
                field: "killing",
                found: killing.into(),
                expected: "0 to 2",
            })?,
            streak,
            restarts,
            deadline_ns,
            deadline_max_ns,
            up_since_ns,
            watchdog_ns,
            failing_since_ns,
            random,
            failures: Failures {
                count,
                last_ns,
                gaps_us,
            },
        })
    }
}

/// Writes one field behind the other; what does not fit, which a test excludes, is left out.
struct Cursor<'a>(&'a mut [u8]);

impl Cursor<'_> {
    fn put(&mut self, field: &[u8]) {
        if let Some((place, rest)) = std::mem::take(&mut self.0).split_at_mut_checked(field.len()) {
            place.copy_from_slice(field);
            self.0 = rest;
        }
    }
}

/// The next `N` bytes; zeros behind the end, which a test excludes.
fn take<const N: usize>(from: &mut &[u8]) -> [u8; N] {
    match from.split_first_chunk() {
        Some((field, rest)) => {
            *from = rest;
            *field
        }
        None => [0; N],
    }
}
