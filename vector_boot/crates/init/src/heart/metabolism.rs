//! What the neural runtime decides at a beat is done and said here.
//!
//! The decisions are [`BeatWork`](crate::BeatWork)'s; each order goes the way that a person's would: to the
//! supervisor, to the helper, to the timer. While something starts, ends or is replaced the heart beats as the
//! parameters have it, and no setting moves.

use super::{Ending, Heart};
use crate::helper_link::Purpose;
use crate::metabolism::{Deed, Recorded};
use crate::package::Found;
use crate::state::{Fixed, Level, Weight};
use crate::supervisor::{Event, Phase};
use std::time::Duration;
use wire::helper::{Task, Tune};

/// The end of what is said of a system tensor that was refused.
const STANDS_IN: &str = "; the default stands in";

/// The heartbeat's period as the parameters have it.
#[derive(Debug, Default)]
pub struct Usual {
    pub(super) period_ns: u64,
}

impl Heart {
    /// Whether nothing starts, ends or is replaced: only then are orders taken.
    pub(super) fn is_steady(&self) -> bool {
        let replaced = self.held.passage.is_some() || self.upgrades.is_running();
        self.settled && self.behind.is_none() && !replaced && matches!(self.ending, Ending::No)
    }

    /// Some beats after the boot or a crash, and when an upgrade has brought another model: its system tensors.
    pub(super) fn take_system_model(&mut self, now: u64) {
        if self.behind.is_some() || !self.work.wants_model() {
            return;
        }
        let found = self.found.as_ref();
        let (tensors, unread) = match found.map_or(Ok(None), Found::system_tensors) {
            Ok(tensors) => (tensors, None),
            Err(e) => (None, Some(e)),
        };
        let taken = self.work.take_system(tensors, now);
        // Of the model before, if there was one.
        self.generations.begin_anew();
        for gone in &taken.gone {
            self.say_interrupt(gone);
        }
        self.degraded.retain(|text| !text.ends_with(STANDS_IN));
        for refused in taken.refused.into_iter().chain(unread) {
            self.degrade(format!("model: {refused}{STANDS_IN}"));
        }
        self.stir();
    }

    /// What followed from this beat's sample.
    pub(super) fn carry_out(&mut self, deeds: &[Deed]) {
        for deed in deeds {
            match *deed {
                Deed::Interrupt { .. } => self.say_interrupt(deed),
                Deed::Changed { .. } => self.say_changed(deed),
                Deed::Period { ns } => self.set_period(ns),
                Deed::LogRates => {
                    for unit in &mut self.units {
                        unit.log_rate = self.work.log_rate(unit.service.log_rate);
                    }
                }
                Deed::Tune { service, knob } => self.tune(service, knob),
                Deed::Restart { service } => self.restart_silent(service),
            }
        }
        if !self.is_steady() && self.beat.period_ns != self.usual.period_ns {
            self.set_period(self.usual.period_ns);
        }
    }

    fn set_period(&mut self, ns: u64) {
        if self.ticker.set_period(Duration::from_nanos(ns)).is_ok() {
            self.beat.period_ns = ns;
            self.beat.due_ns = sys::clock::monotonic_ns().saturating_add(ns);
        }
    }

    fn tune(&mut self, service: usize, knob: Tune) {
        let Some(unit) = self.units.get(service).filter(|u| u.leaf.is_some()) else {
            // As an ordinary process there are no cgroups.
            return;
        };
        if matches!(knob, Tune::Reclaim(_)) && !self.helper.is_idle() {
            // It is asked for again in 5 s: a machine that reclaims slowly is not to fill the queue with it.
            return;
        }
        let task = Task::Tune {
            service: unit.name(),
            knob,
        };
        if !self.helper.ask(Purpose::Tune(service), &task, None) {
            self.tune_lost(service);
        }
    }

    /// A knob was not set, or its answer is lost: it is ordered again later. If the table of services has changed
    /// since, another service's is, which changes nothing.
    pub(super) fn tune_lost(&mut self, service: usize) {
        if let Some(unit) = self.units.get(service) {
            self.work.tune_lost(unit.name(), sys::clock::monotonic_ns());
        }
    }

    fn restart_silent(&mut self, service: usize) {
        let Some(unit) = self.units.get(service) else {
            return;
        };
        let now = sys::clock::monotonic_ns();
        let silence = self.supervisor.silence(service, now).unwrap_or(0.0);
        self.journal.say(
            Level::Warn,
            format_args!(
                "service silent: name={} for={:.2} of its watchdog's time",
                unit.name(),
                silence
            ),
        );
        self.decide(Event::Hangs(service));
    }

    fn say_interrupt(&mut self, deed: &Deed) {
        let Deed::Interrupt {
            raised,
            register,
            value,
            above,
            threshold,
            handler,
            ref row,
        } = *deed
        else {
            return;
        };
        let (level, word, kind) = if raised {
            (Level::Warn, "raised", "interrupt_raised")
        } else {
            (Level::Info, "cleared", "interrupt_cleared")
        };
        let side = if above { "above" } else { "below" };
        let mut why = Fixed::<160>::default();
        if raised && handler == "why" {
            why = self.who_failed();
        }
        self.journal.say(
            level,
            format_args!(
                "interrupt {word}: {register}={value} {side}={threshold} handler={handler} row={}{why}",
                row.seq
            ),
        );
        if row.tell {
            self.journal.event(
                Weight::Important,
                [kind, register, ""],
                format_args!(
                    "\"register\":\"{register}\",\"value\":{},\"{side}\":{},\"handler\":\"{handler}\",{}",
                    Exact(value),
                    Exact(threshold),
                    Row(row)
                ),
            );
        }
    }

    fn say_changed(&mut self, deed: &Deed) {
        let Deed::Changed {
            control,
            before,
            after,
            wish,
            ref row,
        } = *deed
        else {
            return;
        };
        self.journal.say(
            Level::Info,
            format_args!(
                "control changed: {control}={after} before={before} wish={wish:.2} row={}",
                row.seq
            ),
        );
        if row.tell {
            self.journal.event(
                Weight::Routine,
                ["control_changed", control, ""],
                format_args!(
                    "\"control\":\"{control}\",\"before\":{},\"after\":{},\"wish\":{wish:.3},{}",
                    Exact(before),
                    Exact(after),
                    Row(row)
                ),
            );
        }
    }

    /// Names of the services that failed, for a log line.
    fn who_failed(&self) -> Fixed<160> {
        use std::fmt::Write;
        let mut names = heapless::String::<128>::new();
        for (i, unit) in self.units.iter().enumerate() {
            if matches!(self.supervisor.phase(i), Phase::Failed | Phase::Backoff) {
                // What does not fit is in `services`.
                let _ = write!(names, " {}", unit.name());
            }
        }
        Fixed::of(format_args!(" why:{names}; ask `why NAME`"))
    }
}

/// A value as JSON: it has no NaN, and what a double does not hold exactly goes as text.
struct Exact(f32);

impl std::fmt::Display for Exact {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self(value) = self;
        if !value.is_finite() {
            f.write_str("null")
        } else if f64::from(value.abs()) > wire::ledger::NUMBER_MAX as f64 {
            write!(f, "\"{value}\"")
        } else {
            value.fmt(f)
        }
    }
}

/// The place of a row in an event: the ledger then vouches for the journal's head.
struct Row<'a>(&'a Recorded);

impl std::fmt::Display for Row<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "\"row\":{},\"hash\":\"", self.0.seq)?;
        self.0
            .hash
            .iter()
            .try_for_each(|byte| write!(f, "{byte:02x}"))?;
        f.write_str("\"")
    }
}
