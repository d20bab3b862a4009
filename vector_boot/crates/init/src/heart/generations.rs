//! Generations from the role `cortex`: taken in sealed memory, run by, and left again when they misbehave.

use super::Heart;
use crate::generation::Held;
use crate::state::Level;
use std::io;
use std::os::fd::OwnedFd;
use sys::mapping::Mapping;
use wire::Refused;
use wire::evolution::generation::{self, Generation, POLICY_VALUES};

impl Heart {
    /// Takes a generation that `cortex` verified. What is looked at here is what PID 1 stands on: that nobody can
    /// change the memory any more, its size, its header, and that every value of the policy is finite.
    pub(crate) fn take_generation(
        &mut self,
        (slot, id): (usize, u64),
        number: u64,
        sealed: Option<OwnedFd>,
    ) -> bool {
        let refused = |code, limit| Refused {
            code,
            field: "generation",
            value: "",
            limit,
        };
        let Some(sealed) = sealed else {
            return self.reply(slot, id, &refused("BAD_REQUEST", "one descriptor"));
        };
        let read = read(&sealed, number);
        self.releaser.take([sealed]);
        let (next, base) = match read {
            Ok(read) => read,
            Err(e) => {
                self.journal.say(
                    Level::Warn,
                    format_args!("generation {number}: refused: {e}"),
                );
                return self.reply(slot, id, &refused("BAD_REQUEST", "a sealed generation"));
            }
        };
        if self.generations.was_given_up(number) {
            return self.reply(slot, id, &refused("CONFLICT", "one that was not given up"));
        }
        // Once nothing is replaced any more, whoever gives one is of the model that counts: two may have one base.
        if self.upgrades.is_running() && self.generations.is_outdated(&base) {
            return self.reply(
                slot,
                id,
                &refused("CONFLICT", "one of the model that counts"),
            );
        }
        // Before the beat decides anything there is nothing to give it to: `cortex` asks again.
        let taken = next
            .values
            .as_ref()
            .is_some_and(|values| self.work.take_policy(number, values));
        if !taken {
            return self.reply(slot, id, &refused("CONFLICT", "after the first beats"));
        }
        self.generations.take(next, base);
        self.reply(slot, id, &wire::Done { count: 0 })
    }

    /// At each beat: a generation that misbehaves in its first ones is left.
    pub(super) fn try_generation(&mut self) {
        let late = self.beat.cpu_last_ns > self.beat.period_ns;
        let health = self.work.policy_health();
        let left = self.generations.status().number;
        if let Some((back, why)) = self.generations.step(health, late) {
            match &back.values {
                Some(values) => {
                    self.work.take_policy(back.number, values);
                }
                None => self.work.leave_policy(),
            }
            self.journal.say(
                Level::Warn,
                format_args!(
                    "generation {left}: given up: {}; back to {}",
                    why.as_str(),
                    back.number
                ),
            );
        }
    }
}

/// The generation, and what it builds on.
fn read(sealed: &OwnedFd, number: u64) -> io::Result<(Held, [u8; 32])> {
    let wrong = |text: String| io::Error::new(io::ErrorKind::InvalidData, text);
    if !sys::memfd::is_sealed(sealed) {
        return Err(wrong("not sealed".to_owned()));
    }
    let bytes = sys::mapping::byte_length(sealed)?;
    if bytes > generation::BYTES_MAX as u64 {
        return Err(wrong(format!(
            "{bytes} bytes, limit {}",
            generation::BYTES_MAX
        )));
    }
    let mapping = Mapping::of_whole_fd(sealed)?;
    let found = Generation::parse_policy(&mapping).map_err(|e| wrong(e.to_string()))?;
    if found.number != number {
        return Err(wrong(format!("number {}, limit {number}", found.number)));
    }
    let mut values = Box::new([0.0; POLICY_VALUES]);
    for (place, value) in values.iter_mut().zip(found.policy()) {
        *place = value;
    }
    let held = Held {
        number,
        values: Some(values),
    };
    Ok((held, found.base))
}
