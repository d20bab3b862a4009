//! The heart and the wall clock: the floor is kept, settings are judged, the helper sets it.

use super::Heart;
use crate::clock::Pending;
use crate::helper_link::Purpose;
use crate::state::{Json, Level, Weight};
use wire::control::ClockSet;
use wire::helper::Task;
use wire::{Done, Refused};

impl Heart {
    /// Raises the clock if it lies under its floor.
    pub(super) fn keep_clock(&mut self, now: u64) {
        // The clock of a host is its own.
        if !self.setup.is_appliance() {
            return;
        }
        if let Some(ledger_ns) = self.ledger.take_last_wall() {
            self.clock.raise(ledger_ns);
        }
        if let Some(pending) = self.clock.keep(now, sys::clock::wall_ns()) {
            // If the queue is full the next beat asks again.
            let _ = self.ask_clock(pending);
        }
    }

    /// A peer asks for the clock to be set; `false` ends its connection.
    pub(crate) fn set_clock(&mut self, slot: usize, id: u64, ask: &ClockSet<'_>) -> bool {
        let asker = (slot, self.generation_of(slot), id);
        let (now, wall) = (sys::clock::monotonic_ns(), sys::clock::wall_ns());
        let refused = |code, field, value, limit| Refused {
            code,
            field,
            value,
            limit,
        };
        if !self.setup.is_appliance() {
            let limit = "the appliance; a host's clock is its own";
            return self.reply(
                slot,
                id,
                &refused("POLICY_DENY", "clock", "a process", limit),
            );
        }
        match self.clock.judge(now, wall, asker, ask) {
            Err(wrong) => {
                let (value, limit) = (wrong.value.as_str(), wrong.limit.as_str());
                let field = wrong.field;
                self.complain_of(slot, format_args!("clock: {field} {value}, limit {limit}"));
                self.reply(slot, id, &refused(wrong.code, wrong.field, value, limit))
            }
            Ok(pending) => {
                let limit = "room in the helper's queue";
                self.ask_clock(pending)
                    || self.reply(slot, id, &refused("CONFLICT", "helper", "busy", limit))
            }
        }
    }

    fn ask_clock(&mut self, pending: Pending) -> bool {
        let task = Task::Clock {
            wall_ns: pending.wall_ns,
            at_ns: pending.at_ns,
            step: pending.step,
        };
        let asked = self.helper.ask(Purpose::Clock, &task, None);
        if asked {
            self.clock.begin(pending);
        }
        asked
    }

    /// The helper is done with it.
    pub(super) fn clock_set(&mut self, result: &Result<u64, String>) {
        let now = sys::clock::monotonic_ns();
        let Some(pending) = self.clock.end(now, result.is_ok()) else {
            return;
        };
        let new_ns = pending
            .wall_ns
            .saturating_add(now.saturating_sub(pending.at_ns));
        let source = pending.source.as_str();
        match result {
            Ok(_) => {
                let how = if pending.step { "step" } else { "slew" };
                self.journal.say(
                    Level::Info,
                    format_args!(
                        "clock set: source=\"{source}\" how={how} old_s={} new_s={}",
                        pending.old_ns / 1_000_000_000,
                        new_ns / 1_000_000_000
                    ),
                );
                // A step is worth more than the small corrections of each quarter of an hour.
                let weight = if pending.step {
                    Weight::Important
                } else {
                    Weight::Routine
                };
                self.journal.event(
                    weight,
                    ["clock_set", "clock", ""],
                    format_args!(
                        "\"old_us\":{},\"new_us\":{},\"how\":\"{how}\",\"source\":\"{}\"",
                        pending.old_ns / 1000,
                        new_ns / 1000,
                        Json(source)
                    ),
                );
            }
            Err(e) => self.journal.say(
                Level::Warn,
                format_args!("clock not set: source=\"{source}\" cause=\"{e}\""),
            ),
        }
        let Some((slot, generation, id)) = pending.asker else {
            return;
        };
        if self.generation_of(slot) != generation {
            return;
        }
        let goes_on = match result {
            Ok(_) => self.reply(slot, id, &Done { count: 0 }),
            Err(e) => self.reply(
                slot,
                id,
                &Refused {
                    code: "INTERNAL",
                    field: "clock",
                    value: "not set",
                    limit: e,
                },
            ),
        };
        if !goes_on {
            self.hang_up(slot);
        }
    }
}
