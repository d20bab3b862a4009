//! An orderly end: recorded first, then services in reverse order, then the disks.

use super::{Ending, Heart};
use crate::helper_link::Purpose;
use crate::state::{Fixed, Level, Weight};
use crate::supervisor::Event;
use crate::unit::CellState;
use sys::machine::Power as End;
use wire::control::Power;
use wire::helper::Task;
use wire::why::Reason;

/// How long the outbox may take to empty before the services stop.
pub(super) const DRAIN_NS: u64 = 2_000_000_000;
/// How long the helper may take to unmount.
const UNMOUNT_NS: u64 = 10_000_000_000;
/// An orderly end that takes longer hangs, and the watchdog ends it: services have 5 s each as a rule.
const ENDING_LIMIT_NS: u64 = 180_000_000_000;

impl Heart {
    /// Begins an orderly end: recorded first, then services in reverse order, then the disks.
    pub(crate) fn begin_shutdown(&mut self, power: Power, reason: Reason, actor: &str) {
        if !matches!(self.ending, Ending::No) {
            return;
        }
        let word = match power {
            Power::Reboot => "reboot",
            Power::Poweroff => "poweroff",
            Power::Halt => "halt",
        };
        self.power = power;
        self.ending_since_ns = Some(sys::clock::monotonic_ns());
        self.journal.event(
            Weight::Important,
            ["machine_stopping", "machine", actor],
            format_args!(
                "\"how\":\"{word}\",\"reason\":\"{}\"{}",
                reason.as_str(),
                match self.health_reboots {
                    0 => Fixed::<16>::default(),
                    count => Fixed::of(format_args!(",\"health\":{count}")),
                }
            ),
        );
        self.journal.say(
            Level::Info,
            format_args!("{word}: {}: stopping services", reason.says()),
        );
        self.pump_ledger(false);
        self.ending = Ending::Draining(sys::clock::monotonic_ns() + DRAIN_NS);
        self.write_machine();
    }

    pub(super) fn go_on_ending(&mut self, now: u64) {
        match self.ending {
            Ending::Draining(until)
                if now >= until || self.journal.state.outbox_counts().0 == 0 =>
            {
                self.ending = Ending::Stopping;
                self.decide(Event::Shutdown);
            }
            Ending::Unmounting(until) if now >= until => {
                self.journal
                    .tell_terminal("shutdown: the disks took too long");
                self.ending = Ending::Over;
            }
            _ => {}
        }
    }

    pub(super) fn all_stopped(&mut self) {
        for unit in &mut self.units {
            // The mounts in it would keep the data disk busy.
            unit.cell = CellState::Unasked;
        }
        self.clear_helper();
        let targets = std::mem::take(&mut self.mounted);
        let asked = targets
            .iter()
            .filter(|t| {
                self.helper
                    .ask(Purpose::Unmount, &Task::Unmount { target: t }, None)
            })
            .count();
        self.ending = if asked == 0 {
            Ending::Over
        } else {
            Ending::Unmounting(sys::clock::monotonic_ns() + UNMOUNT_NS)
        };
    }

    /// Whether the watchdog is to be fed: an orderly end that does not come to its end is a hang.
    pub(super) fn is_healthy(&self, now: u64) -> bool {
        self.ending_since_ns
            .is_none_or(|since| now.saturating_sub(since) < ENDING_LIMIT_NS)
    }

    /// Lets the watchdog go, so that an orderly halt stays one.
    pub fn release_watchdog(&mut self) {
        self.watchdog.release();
        // The device is let go with its last handle.
        crate::emergency::leave_watchdog(None);
    }

    /// Leaves the watchdog for the worst case.
    pub(crate) fn leave_watchdog(&self) {
        crate::emergency::leave_watchdog(self.watchdog.dog());
    }

    /// One line on the terminal.
    pub fn tell(&mut self, line: &str) {
        self.journal.tell_terminal(line);
    }

    /// The last line on the terminal.
    pub fn say_last(&mut self, end: End) {
        let line = match end {
            End::Reboot => "vector_boot: rebooting",
            End::Off => "vector_boot: power off",
            End::Halt => "vector_boot: halted",
        };
        self.journal.tell_terminal(line);
    }
}
