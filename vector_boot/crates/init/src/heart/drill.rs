//! The drill that proves the watchdog: PID 1 stops beating, as a defect would make it.

use super::Heart;
use std::time::Duration;

/// How long the ledger may take to have the command: it is recorded before it acts.
const RECORD_NS: u64 = 2_000_000_000;
/// Nothing ends the pause but the watchdog.
const PAUSE: Duration = Duration::from_secs(3600);

impl Heart {
    /// Stops the loop as soon as the ledger has the command, or had its time.
    pub(crate) fn hang_once_recorded(&mut self) {
        self.hang_by_ns = Some(sys::clock::monotonic_ns() + RECORD_NS);
    }

    pub(super) fn hang_if_due(&mut self, now: u64) {
        let recorded = self.journal.state.outbox_counts().0 == 0;
        if self.hang_by_ns.is_some_and(|by| recorded || now >= by) {
            self.tell("drill: PID 1 stops beating");
            loop {
                std::thread::sleep(PAUSE);
            }
        }
    }
}
