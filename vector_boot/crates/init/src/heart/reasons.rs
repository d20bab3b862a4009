//! Why this boot began: the evidence is gathered as it comes, judged once, kept and recorded.

use super::Heart;
use crate::helper_link::Purpose;
use crate::last_boot::{Evidence, Recorded, Stored, judge};
use crate::state::{Fixed, Level, Weight};
use crate::why::{self, MACHINE};
use sys::watchdog::RESET_BY_WATCHDOG;
use wire::helper::Task;
use wire::why::Reason;

/// What is known so far of the boot before.
#[derive(Debug, Default)]
pub struct LastBoot {
    begun: bool,
    recorded: Option<Recorded>,
    stored: Option<Stored>,
    /// The kernel's store was looked at, or there is none.
    looked: bool,
    judged: bool,
    /// Restarts in a row by the health gate before this boot, once the ledger has said how the last one ended.
    health_reboots: Option<u8>,
}

impl LastBoot {
    pub(super) fn health_reboots(&self) -> Option<u8> {
        self.health_reboots
    }
}

impl Heart {
    /// Begins to gather: what the ledger and the helper say comes later.
    fn begin_last_boot(&mut self) {
        self.last_boot.begun = true;
        // Judged by the PID 1 that this one went on from.
        let known = why::record(&self.journal.state, 0);
        self.last_boot.judged = known.is_some_and(|r| r.reason != Reason::Unknown);
        if self.last_boot.judged {
            return;
        }
        self.keep_last_boot();
        self.last_boot.looked = !self.setup.is_appliance()
            || !self
                .helper
                .ask(Purpose::Pstore, &Task::Pstore { forget: false }, None);
    }

    /// What the helper found in the kernel's persistent store.
    pub(super) fn take_stored(&mut self, result: &Result<u64, String>, detail: &str) {
        self.last_boot.looked = true;
        match result {
            Ok(_) => self.last_boot.stored = Stored::parse(detail),
            // Machines without one are the rule.
            Err(why) => self
                .journal
                .say(Level::Debug, format_args!("pstore: {why}")),
        }
    }

    /// Judges as soon as everything is there.
    pub(super) fn judge_last_boot(&mut self) {
        if !self.last_boot.begun {
            self.begin_last_boot();
        }
        if self.last_boot.judged {
            return;
        }
        if let Some(recorded) = self.ledger.take_last_boot() {
            self.last_boot.health_reboots = Some(recorded.health_reboots());
            self.last_boot.recorded = Some(recorded);
            // Good enough to be shown; recorded once the kernel's store was looked at too.
            self.keep_last_boot();
        }
        if self.last_boot.recorded.is_none() || !self.last_boot.looked {
            return;
        }
        self.last_boot.judged = true;
        let (reason, facts) = self.keep_last_boot();
        let level = match reason {
            Reason::UncleanStop | Reason::WatchdogReset | Reason::KernelPanic => Level::Warn,
            _ => Level::Info,
        };
        self.journal
            .say(level, format_args!("the boot before: {}", reason.says()));
        let inside = facts.inside();
        let comma = if inside.is_empty() { "" } else { "," };
        self.journal.event(
            Weight::Important,
            ["machine_why", MACHINE, ""],
            format_args!("\"reason\":\"{}\"{comma}{inside}", reason.as_str()),
        );
        if self.last_boot.stored.take().is_some() {
            // It is in the outbox; the store is needed for the next panic.
            let forget = Task::Pstore { forget: true };
            self.helper.ask(Purpose::Pstore, &forget, None);
        }
        self.last_boot.recorded = None;
    }

    /// Records what became of PID 1's programs, as an event and for `why`; `payload` is the inside of a JSON object.
    pub(super) fn record_of_init(
        &mut self,
        reason: Reason,
        event: &str,
        payload: std::fmt::Arguments<'_>,
    ) {
        let facts = Fixed::<{ why::FACTS_BYTES_MAX }>::of(format_args!("{{{payload}}}"));
        let now = sys::clock::monotonic_ns();
        // What was cut is no JSON; the event has all of it.
        let whole = facts.as_str().ends_with('}');
        let kept = if whole { facts.as_str() } else { "{}" };
        why::note(&mut self.journal.state, now, reason, why::INIT, kept);
        self.journal
            .event(Weight::Important, [event, MACHINE, ""], payload);
    }

    fn keep_last_boot(&mut self) -> (Reason, why::Facts) {
        let (reason, facts) = judge(&Evidence {
            recorded: self.last_boot.recorded.as_ref(),
            log_is_kept: self.open.log_is_kept,
            watchdog_reset: self.watchdog.boot_status() & RESET_BY_WATCHDOG != 0,
            stored: self.last_boot.stored.as_ref(),
        });
        why::note_last_boot(&mut self.journal.state, reason, facts.as_str());
        (reason, facts)
    }
}
