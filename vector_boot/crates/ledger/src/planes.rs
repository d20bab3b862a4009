//! The planes: state machines of `ledger-core` that are folds over the one log (policy, bus, folds,
//! jobs, blobs, epochs).
//!
//! The committer alone changes them: it applies every event in the order of ids as it places it in a
//! group, so a decision sees what was placed before it in the same group. At the start they are
//! rebuilt from the scan that recovery does anyway. A new plane is a field here, a line in
//! [`Planes::wants`], in [`Planes::apply`], in [`Planes::summary`] and in [`Planes::restore`]; its state
//! is serialisable, with its maps in order.
//!
//! After a failed sync they are ahead of the log for good; `Ledger::planes` then answers READ_ONLY,
//! until the process starts anew.

use crate::committer::Draft;
use ledger_core::blob::Blobs;
use ledger_core::bus::{self, Bus};
use ledger_core::jobs::Jobs;
use ledger_core::keys::Keys;
use ledger_core::policy::Policy;
use ledger_core::{Body, SUMMARY};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::collections::BTreeMap;

/// All planes.
#[derive(Default)]
pub struct Planes {
    /// The event that was applied last, 0 for none.
    pub through: u64,
    /// Rules and grants.
    pub policy: Policy,
    /// Keys of actors.
    pub keys: Keys,
    /// Pointers to blobs.
    pub blobs: Blobs,
    /// Topics, messages, consumers.
    pub bus: Bus,
    /// Jobs and who holds them.
    pub jobs: Jobs,
}

/// When a decision is made, and where.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Moment {
    /// The wall clock, nanoseconds since 1970 in UTC.
    pub wall_ns: u64,
    /// CLOCK_MONOTONIC.
    pub monotonic_ns: u64,
    /// The id that the first event of the decision gets; those behind it follow without a gap.
    pub next_id: u64,
}

/// What is to happen: the events become durable together, or none; then `answer` is given out.
pub struct Decision<T> {
    /// Appended in this order; none is fine.
    pub events: Vec<Draft>,
    /// For who asked.
    pub answer: T,
}

impl<T> Decision<T> {
    /// An answer that needs no event.
    #[must_use]
    pub fn only(answer: T) -> Self {
        Self {
            events: Vec::new(),
            answer,
        }
    }
}

impl Planes {
    /// Whether any plane looks at events of this type: a scan keeps the bodies of those alone.
    #[must_use]
    pub fn wants(event_type: &str) -> bool {
        event_type == SUMMARY
            || Policy::wants(event_type)
            || Keys::wants(event_type)
            || Blobs::wants(event_type)
            || Bus::wants(event_type)
            || Jobs::wants(event_type)
    }

    /// Writes the state down, for a log that no longer has the events that led to it.
    pub fn summary(&self, summary: &mut Summary) {
        summary.put("policy", &self.policy);
        summary.put("keys", &self.keys);
        summary.put("blobs", &self.blobs);
        summary.put(BUS, &self.bus);
        summary.put("jobs", &self.jobs);
    }

    /// Takes the state from a summary; a plane that it says nothing of stays as it is.
    ///
    /// # Errors
    /// [`Unreadable`] names the first section that does not decode; the others are taken.
    pub fn restore(&mut self, summary: &Summary) -> Result<(), Unreadable> {
        let taken = [
            summary.take("policy", &mut self.policy),
            summary.take("keys", &mut self.keys),
            summary.take("blobs", &mut self.blobs),
            summary.take_as::<bus::FirstForm, _>(BUS_FIRST, &mut self.bus),
            summary.take(BUS, &mut self.bus),
            summary.take("jobs", &mut self.jobs),
        ];
        taken.into_iter().collect()
    }

    /// Takes the next event in: total, and in order of ids.
    pub fn apply(&mut self, id: u64, body: &Body<'_>) {
        self.through = id;
        self.policy.apply(id, body);
        self.keys.apply(id, body);
        self.blobs.apply(id, body);
        if Bus::wants(body.event_type) {
            self.bus.apply(id, body);
        } else if Jobs::wants(body.event_type) {
            self.jobs.apply(id, body);
        }
    }
}

/// The bus, and its form of before.
const BUS: &str = "bus.2";
const BUS_FIRST: &str = "bus";

/// Sections of a summary that this version reads. A name stands for one form of its state: whoever
/// changes the form gives the section a new name, and goes on reading the old one.
const SECTIONS: [&str; 9] = [
    "policy",
    "keys",
    "blobs",
    BUS_FIRST,
    BUS,
    "jobs",
    crate::dedupe::SECTION,
    crate::ulids::SECTION,
    crate::boots::SECTION,
];

/// A section of a summary that this version does not know, or that does not decode.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("section {0} of the planes' summary is not known or does not decode")]
pub struct Unreadable(pub String);

/// The state of planes by their names: what a compaction writes down before it drops events.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Summary(BTreeMap<String, Vec<u8>>);

impl Summary {
    /// Writes one plane's state down.
    pub fn put<T: Serialize>(&mut self, name: &str, state: &T) {
        // Plain data of ours in memory: nothing that could fail.
        let bytes = postcard::to_allocvec(state).unwrap_or_default();
        self.0.insert(name.to_owned(), bytes);
    }

    /// Takes one plane's state back, if it is there.
    ///
    /// # Errors
    /// [`Unreadable`] if it does not decode; the state is as before.
    pub fn take<T: DeserializeOwned>(&self, name: &str, state: &mut T) -> Result<(), Unreadable> {
        self.take_as::<T, T>(name, state)
    }

    /// The same from another form of the state.
    ///
    /// # Errors
    /// As [`Self::take`].
    pub fn take_as<Form: DeserializeOwned + Into<T>, T>(
        &self,
        name: &str,
        state: &mut T,
    ) -> Result<(), Unreadable> {
        let Some(bytes) = self.0.get(name) else {
            return Ok(());
        };
        match postcard::take_from_bytes::<Form>(bytes) {
            Ok((found, [])) => {
                *state = found.into();
                Ok(())
            }
            _ => Err(Unreadable(name.to_owned())),
        }
    }

    /// Its bytes: the same for the same state.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        // As above.
        postcard::to_allocvec(&self.0).unwrap_or_default()
    }

    /// Reads it.
    ///
    /// # Errors
    /// [`Unreadable`] if it is none.
    pub fn decode(bytes: &[u8]) -> Result<Self, Unreadable> {
        match postcard::take_from_bytes(bytes) {
            Ok((sections, [])) => Ok(Self(sections)),
            _ => Err(Unreadable("table".to_owned())),
        }
    }

    /// Whether this version knows every section.
    ///
    /// # Errors
    /// [`Unreadable`] names the first that it does not.
    pub fn known(&self) -> Result<(), Unreadable> {
        let unknown = self
            .0
            .keys()
            .find(|name| !SECTIONS.contains(&name.as_str()));
        unknown.map_or(Ok(()), |name| {
            Err(Unreadable(name.escape_debug().to_string()))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_section_that_does_not_decode_or_is_not_known_is_named() {
        let mut summary = Summary::default();
        Planes::default().summary(&mut summary);
        let whole = summary.encode();
        assert_eq!(Summary::decode(&whole), Ok(summary.clone()));
        assert_eq!(Planes::default().restore(&summary), Ok(()));
        assert_eq!(summary.known(), Ok(()));
        assert!(Summary::decode(&whole[1..]).is_err());
        for (name, _) in summary.clone().0 {
            let mut bad = summary.clone();
            bad.0.get_mut(&name).unwrap().push(0);
            let bad = Summary::decode(&bad.encode()).unwrap();
            let named = Unreadable(name.clone());
            assert_eq!(Planes::default().restore(&bad), Err(named), "{name}");
        }
        summary.put("bus.3", &7u8);
        let named = Unreadable("bus.3".to_owned());
        assert_eq!(summary.known(), Err(named));
    }

    /// A summary with the bus in its first form, as it was written then: the messages 1, 2 (both for a commit) and
    /// 3 of topic t, of which the consumer w acknowledged 1 and somebody without a name 2.
    const FIRST_FORM: &str = "\
        0805626c6f627302000005626f6f7473020000036275739501010673797374656d0101740140\
        034101c701d9010201563df36481000000000000000000010201000001563df3648100000000\
        000000000002030100010d757365723a6f70657261746f720101563df3648100000000000000\
        0000030401000000000000000000000000000000000001017703014101000000fad7ab91a034\
        02010101000000000000000000000000000000000003066465647570650100046a6f62730200\
        00046b657973010006706f6c6963790300000005756c6964738101010673797374656d070701\
        a2022aebf349106d59ad350392d6850101563df36481000000000000000000010201563df364\
        81000000000000000000020301563df36481000000000000000000030401a2022aec0245e410\
        3d11d5c81ab8370501a2022aec069ee4a7f74b0163d447e00601a2022aecd94f0109a00deb37\
        aa18f507";

    #[test]
    fn the_bus_of_a_log_that_was_compacted_before_is_taken_on() {
        let byte = |at| u8::from_str_radix(&FIRST_FORM[at..at + 2], 16).unwrap();
        let bytes: Vec<u8> = (0..FIRST_FORM.len()).step_by(2).map(byte).collect();
        let summary = Summary::decode(&bytes).unwrap();
        assert_eq!(summary.known(), Ok(()));
        let mut planes = Planes::default();
        assert_eq!(planes.restore(&summary), Ok(()));
        let message = |n: u8| ledger_core::ulid::parse(&format!("01ARYZ6S41{n:016}")).unwrap();
        let now = 1_795_332_697_000_000_000;
        let commit = |n| planes.bus.commit("system", "t", &message(n), None, 1, now);
        assert!(commit(1).is_ok() && commit(2).is_ok());
        let two = planes.bus.commit("system", "t", &message(2), None, 2, now);
        assert_eq!(two.unwrap_err().code, "NOT_QUORATE");
        assert_eq!(commit(3).unwrap_err().code, "BAD_REQUEST");
        assert_eq!(planes.bus.lags().map(|lag| lag.messages).sum::<u64>(), 2);
        // It is written in the form of now.
        let mut again = Summary::default();
        planes.summary(&mut again);
        assert!(again.0.contains_key(BUS) && !again.0.contains_key(BUS_FIRST));
        let mut taken = Planes::default();
        assert_eq!(taken.restore(&again), Ok(()));
        assert_eq!(taken.bus, planes.bus);
    }
}
