//! Checkpoints for whoever looks at the machine: as lines of the log, which PID 1 and the console show on the terminal.
//!
//! A log cannot convict who writes it anew with the device's own key; a checkpoint that a serial cable carried away
//! can. So the first of a boot, one an hour and the last are said. Start with [`Announcer`].

use crate::proofs::{Proofs, Signed};
use ledger_core::serial;
use std::time::{Duration, Instant};

/// Between two checkpoints on the terminal.
const PERIOD: Duration = Duration::from_secs(3600);

/// What was said last.
#[derive(Default)]
pub struct Announcer {
    last: Option<(Instant, u64)>,
}

impl Announcer {
    /// Says the newest checkpoint if it is time for one.
    pub fn turn(&mut self, proofs: &Proofs) {
        let due = self.last.is_none_or(|(at, _)| at.elapsed() >= PERIOD);
        if due && let Some(signed) = proofs.newest() {
            self.say(proofs, &signed);
        }
    }

    /// Says the last one, signed behind the last event.
    pub fn end(&mut self, proofs: &Proofs) {
        if let Some(signed) = proofs.newest()
            && self
                .last
                .is_none_or(|(_, size)| size != signed.checkpoint.size)
        {
            self.say(proofs, &signed);
        }
    }

    fn say(&mut self, proofs: &Proofs, signed: &Signed) {
        if self.last.is_none() {
            ::log::info!("{}{}", serial::KEY, proofs.verifier());
        }
        self.last = Some((Instant::now(), signed.checkpoint.size));
        if let Some(line) = serial::line(&signed.note) {
            ::log::info!("{line}");
        }
    }
}
