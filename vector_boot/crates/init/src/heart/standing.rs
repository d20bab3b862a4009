//! How the machine stands: events on their way to the ledger, the degraded state, the boot's record.

use super::{Ending, Heart, Held, PhaseRecord, Watch};
use crate::state::records::Text;
use crate::state::{Fixed, Json, Level, Weight};
use crate::supervisor::Phase;
use rts::manifest::Pass;
use sys::events::Interest;
use wire::control::{MachineState, Power};
use wire::why::Reason;

/// Sentences of [`Heart::degrade`]; each cause is said once.
const REASONS_MAX: usize = 16;
/// Bytes of all sentences in one answer.
const REASON_BYTES_MAX: usize = 3072;
/// A service that was started so often without getting up is a cause of the degraded state.
const SETTLED_RESTARTS: u32 = 3;

/// Less than this on the data disk is full: the gateway alone keeps that much for its own files.
const DATA_FULL_BYTES: u64 = 1 << 20;
/// It counts as full until there is this much again, so that one file more or less changes nothing.
const DATA_ROOM_BYTES: u64 = 4 << 20;

/// Causes of the degraded state that come and go; one sentence each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Trouble {
    /// The helper missed a deadline and none has answered since.
    Helper,
    /// A helper that cannot be killed.
    HelperLeft,
    /// The data disk is full.
    DataFull,
    /// The data disk takes no writes.
    DataFailed,
    /// The ledger takes no events.
    Ledger,
}

impl Heart {
    /// Notes that a trouble is there, or over. Each change is said and recorded once.
    pub(crate) fn trouble(&mut self, which: Trouble, reason: Option<String>) {
        let at = self.troubles.iter().position(|(t, _)| *t == which);
        match (at, reason) {
            (None, None) => {}
            (Some(at), None) => {
                let (_, reason) = self.troubles.swap_remove(at);
                self.journal
                    .say(Level::Warn, format_args!("over: {reason}"));
                self.journal.event(
                    Weight::Important,
                    ["machine_recovered", "machine", ""],
                    format_args!("\"reason\":\"{}\"", Json(&reason)),
                );
            }
            (Some(at), Some(reason)) => {
                if let Some((_, old)) = self.troubles.get_mut(at) {
                    *old = reason;
                }
            }
            (None, Some(reason)) => {
                self.say_degraded(&reason);
                self.troubles.push((which, reason));
            }
        }
    }

    /// What a look at the data disk found.
    pub(super) fn judge_data(&mut self, available: u64, detail: &str) {
        if !self.data_opened {
            return;
        }
        let failed = detail == "read-only" && self.data_writable;
        self.trouble(
            Trouble::DataFailed,
            failed.then(|| "data: the file system turned read-only after an error".to_owned()),
        );
        let full = self.troubles.iter().any(|(t, _)| *t == Trouble::DataFull);
        let least = if full {
            DATA_ROOM_BYTES
        } else {
            DATA_FULL_BYTES
        };
        self.trouble(
            Trouble::DataFull,
            (self.data_writable && available < least).then(|| {
                format!("data: full: {available} bytes available, least {DATA_FULL_BYTES}")
            }),
        );
    }

    #[inline(never)]
    pub(super) fn pump_ledger(&mut self, hung_up: bool) {
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
        well &= self
            .ledger
            .read(&mut self.journal.state, &mut self.releaser);
        well &= self.ledger.write(&self.journal.state);
        if !well {
            if let Some(socket) = self.ledger.socket() {
                let _ = self.poller.remove(socket);
            }
            self.ledger.drop_connection(&mut self.releaser);
        }
        let refusing = self.ledger.refusing().map(str::to_owned);
        if refusing.is_some() || !self.troubles.is_empty() {
            self.trouble(Trouble::Ledger, refusing);
        }
    }

    /// Notes a cause of the degraded state, once.
    pub(crate) fn degrade(&mut self, reason: String) {
        if self.degraded.len() >= REASONS_MAX || self.degraded.contains(&reason) {
            return;
        }
        self.say_degraded(&reason);
        self.journal.state.add_text(Text::Degraded, &reason);
        self.degraded.push(reason);
    }

    fn say_degraded(&mut self, reason: &str) {
        self.journal
            .say(Level::Error, format_args!("degraded: {reason}"));
        self.journal.event(
            Weight::Important,
            ["machine_degraded", "machine", ""],
            format_args!("\"reason\":\"{}\"", Json(reason)),
        );
    }

    /// Whether a service cannot run, now or later: its program is not there, does not become a
    /// process, or it needs one of which that is true.
    fn is_lost(&self, i: usize, depth: usize) -> bool {
        let Some(unit) = self.units.get(i) else {
            return false;
        };
        let image = self.images.get(unit.image).map(|image| &image.held);
        if matches!(image, Some(Held::No(_))) {
            return true;
        }
        match self.supervisor.phase(i) {
            Phase::Failed => unit.never_ran,
            // As deep as there are services; needs make no rings.
            Phase::Waiting if depth < self.units.len() => unit.service.needs.iter().any(|name| {
                let needed = self.units.iter().position(|u| u.name() == name.as_str());
                needed.is_some_and(|n| self.is_lost(n, depth + 1))
            }),
            _ => false,
        }
    }

    /// When no core service can ever run, the machine is what `vb.emergency` says. A console that
    /// runs is all that a person needs; without one PID 1 leaves its loop and serves them itself.
    pub(super) fn look_for_emergency(&mut self) {
        let appliance = self.setup.is_appliance();
        if self.ready_said || !appliance || !matches!(self.ending, Ending::No) {
            return;
        }
        let shows = |unit: &crate::unit::Unit| {
            let mut pass = unit.service.pass.iter();
            pass.any(|p| matches!(p, Pass::Tty | Pass::Machine))
        };
        let lost = |heart: &Self, wanted: &dyn Fn(&crate::unit::Unit) -> bool| {
            let mut some = false;
            let all = heart
                .units
                .iter()
                .enumerate()
                .filter(|(_, unit)| wanted(unit))
                .all(|(i, _)| {
                    some = true;
                    heart.is_lost(i, 0)
                });
            (some, all)
        };
        let (some, all) = lost(self, &|unit| unit.service.core && !shows(unit));
        if !some || !all {
            return;
        }
        if !self.hopeless {
            self.hopeless = true;
            self.degrade("emergency: no core service can run".to_owned());
            match self.params.get("vb.emergency") {
                "reboot" => {
                    return self.begin_shutdown(Power::Reboot, Reason::Emergency, "service:init");
                }
                "halt" => {
                    return self.begin_shutdown(Power::Halt, Reason::Emergency, "service:init");
                }
                _ => {}
            }
        }
        let (_, all) = lost(self, &shows);
        self.alone = all;
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
        if !self.degraded.is_empty() || !self.troubles.is_empty() || failed {
            return MachineState::Degraded;
        }
        // Whoever sees the machine ready finds the phase `ready` too: the next beat notes it.
        if self.ready_said
            && (0..self.units.len()).all(|i| matches!(phase(i), Phase::Up | Phase::Stopped))
        {
            MachineState::Ready
        } else {
            MachineState::Starting
        }
    }

    /// Why it is degraded.
    pub(crate) fn reasons(&self) -> String {
        let troubles = self.troubles.iter().map(|(_, reason)| reason.as_str());
        let all: Vec<&str> = troubles
            .chain(self.degraded.iter().map(String::as_str))
            .collect();
        let mut text = all.join("; ");
        // The answer must fit its packet, however long the sentences are.
        if text.len() > REASON_BYTES_MAX {
            let end = (0..=REASON_BYTES_MAX)
                .rev()
                .find(|i| text.is_char_boundary(*i));
            text.truncate(end.unwrap_or(0));
        }
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
            self.write_phase();
        }
    }

    pub(super) fn say_when_ready(&mut self, now: u64) {
        // One that ended for good has done what it was started for.
        let done = |i| matches!(self.supervisor.phase(i), Phase::Up | Phase::Stopped);
        if self.ready_said || !(0..self.units.len()).all(done) {
            return;
        }
        self.ready_said = true;
        // The last service to get ready made it so.
        let last = (0..self.units.len())
            .filter_map(|i| self.units.get(i))
            .map(|u| u.started_ns + u.ready_ns)
            .filter(|at| *at > 0)
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
}
