//! An orderly end: recorded first, then services in reverse order, then the disks.

use super::{Ending, Heart};
use crate::helper_link::Purpose;
use crate::state::{Level, Weight};
use crate::supervisor::Event;
use crate::unit::CellState;
use sys::machine::Power as End;
use wire::control::Power;
use wire::helper::Task;

/// How long the outbox may take to empty before the services stop.
const DRAIN_NS: u64 = 2_000_000_000;
/// How long the helper may take to unmount.
const UNMOUNT_NS: u64 = 10_000_000_000;

impl Heart {
    /// Begins an orderly end: recorded first, then services in reverse order, then the disks.
    pub(crate) fn begin_shutdown(&mut self, power: Power, actor: &str) {
        if !matches!(self.ending, Ending::No) {
            return;
        }
        let word = match power {
            Power::Reboot => "reboot",
            Power::Poweroff => "poweroff",
            Power::Halt => "halt",
        };
        self.power = power;
        self.journal.event(
            Weight::Important,
            ["machine_stopping", "machine", actor],
            format_args!("\"how\":\"{word}\""),
        );
        self.journal
            .say(Level::Info, format_args!("{word}: stopping services"));
        self.pump_ledger(false);
        self.ending = Ending::Draining(sys::clock::monotonic_ns() + DRAIN_NS);
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

    /// Lets the watchdog go, so that an orderly halt stays one.
    pub fn release_watchdog(&mut self) {
        use std::io::Write;
        if let Some(watchdog) = &mut self.watchdog {
            // The magic close of the watchdog API; a driver that forbids it bites later.
            let _ = watchdog.write(b"V");
        }
        self.watchdog = None;
        // The device is let go with its last handle.
        crate::emergency::leave_watchdog(None);
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
