//! The why record: reasons of restarts, crashes, upgrades and stops, where a later image of PID 1 finds them.
//!
//! Eight slots of the state memfd: one for how the boot before ended, three for PID 1 and the machine, four for
//! services; the oldest of its kind makes way. `why` on the console shows them, newest first.
//! Start with [`note`].

use crate::state::records::{WHY_BYTES_MAX, WHY_SLOTS};
use crate::state::{Fixed, State};
use std::fmt::Write as _;
use std::ops::Range;
use wire::why::Reason;

/// `number`, `at_ns`, `beats`, `reason`, `doing`, and the lengths of the two texts.
const HEAD_BYTES: usize = 32;
/// Longest subject: a service's name.
const SUBJECT_BYTES_MAX: usize = wire::NAME_BYTES_MAX;
/// `"reason":"...",` of the longest reason, which an event has before its facts.
const REASON_BYTES: usize = 40;
/// Longest facts: what a slot holds, and an event of PID 1 with its names and the reason as well.
pub const FACTS_BYTES_MAX: usize = WHY_BYTES_MAX - HEAD_BYTES - SUBJECT_BYTES_MAX - REASON_BYTES;
/// About the boot before.
const LAST_BOOT: usize = 0;
const OF_INIT: Range<usize> = 1..4;
const OF_SERVICES: Range<usize> = 4..WHY_SLOTS;
/// PID 1 itself.
pub const INIT: &str = "init";
/// The machine as a whole.
pub const MACHINE: &str = "machine";

/// What PID 1's loop is at, for whoever finds out later that it went no further.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Doing {
    /// The boot, before the loop.
    Boot = 0,
    /// It waits.
    Wait = 1,
    /// A signal, dead children.
    Signals = 2,
    /// A peer of `init.sock`.
    Control = 3,
    /// Output or messages of a service.
    Services = 4,
    /// The helper's answer.
    Helper = 5,
    /// The ledger's answer.
    Ledger = 6,
    /// A watch on memory, or a button.
    Watches = 7,
    /// The beat: the policy.
    BeatPolicy = 8,
    /// The beat: helper, peers, events on their way.
    BeatErrands = 9,
    /// The beat: sampling the machine.
    BeatSample = 10,
    /// The beat: the watchdog.
    BeatEnd = 11,
}

#[allow(dead_code, reason = "told by the image that resumes")]
impl Doing {
    const ALL: [Self; 12] = [
        Self::Boot,
        Self::Wait,
        Self::Signals,
        Self::Control,
        Self::Services,
        Self::Helper,
        Self::Ledger,
        Self::Watches,
        Self::BeatPolicy,
        Self::BeatErrands,
        Self::BeatSample,
        Self::BeatEnd,
    ];

    /// For people.
    #[must_use]
    pub fn of(number: u8) -> &'static str {
        match Self::ALL.into_iter().find(|d| *d as u8 == number) {
            Some(Self::Boot) => "boot",
            Some(Self::Wait) => "waiting",
            Some(Self::Signals) => "signals and dead children",
            Some(Self::Control) => "a question on init.sock",
            Some(Self::Services) => "output of a service",
            Some(Self::Helper) => "the helper's answer",
            Some(Self::Ledger) => "the ledger's answer",
            Some(Self::Watches) => "a watch on memory or a button",
            Some(Self::BeatPolicy) => "beat: policy",
            Some(Self::BeatErrands) => "beat: errands",
            Some(Self::BeatSample) => "beat: sampling",
            Some(Self::BeatEnd) => "beat: its end",
            None => "unknown",
        }
    }
}

/// One record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Record<'a> {
    /// Counts records since boot from 1; 0 is how the boot before ended.
    pub number: u64,
    /// When (CLOCK_MONOTONIC); 0 for the boot before.
    pub at_ns: u64,
    /// Beats until then.
    pub beats: u64,
    /// Why.
    pub reason: Reason,
    /// What PID 1 was at: [`Doing`] as a number.
    pub doing: u8,
    /// `machine`, `init` or a service; cut at its limit.
    pub subject: &'a str,
    /// A JSON object; `{}` if it is too long.
    pub facts: &'a str,
}

impl<'a> Record<'a> {
    fn encode(&self) -> heapless::Vec<u8, WHY_BYTES_MAX> {
        let subject = Fixed::<SUBJECT_BYTES_MAX>::of(format_args!("{}", self.subject));
        let facts = Some(self.facts).filter(|f| f.len() <= FACTS_BYTES_MAX);
        let (subject, facts) = (subject.as_str(), facts.unwrap_or("{}"));
        let mut bytes = heapless::Vec::new();
        let lengths = [subject.len(), facts.len()].map(|n| u16::try_from(n).unwrap_or(0));
        // The constants above leave room for all of it.
        let _ = bytes.extend_from_slice(&self.number.to_le_bytes());
        let _ = bytes.extend_from_slice(&self.at_ns.to_le_bytes());
        let _ = bytes.extend_from_slice(&self.beats.to_le_bytes());
        let _ = bytes.extend_from_slice(&(self.reason as u16).to_le_bytes());
        let _ = bytes.extend_from_slice(&[self.doing, 0]);
        for length in lengths {
            let _ = bytes.extend_from_slice(&length.to_le_bytes());
        }
        let _ = bytes.extend_from_slice(subject.as_bytes());
        let _ = bytes.extend_from_slice(facts.as_bytes());
        bytes
    }

    /// As the console gets it.
    #[must_use]
    pub fn for_wire(&self) -> wire::why::Why<'a> {
        wire::why::Why {
            number: self.number,
            at_ns: self.at_ns,
            reason: self.reason,
            subject: self.subject,
            facts: self.facts,
        }
    }

    fn decode(bytes: &'a [u8]) -> Option<Self> {
        let (number, rest) = bytes.split_first_chunk::<8>()?;
        let (at_ns, rest) = rest.split_first_chunk::<8>()?;
        let (beats, rest) = rest.split_first_chunk::<8>()?;
        let (reason, rest) = rest.split_first_chunk::<2>()?;
        let ([doing, _], rest) = rest.split_first_chunk::<2>()?;
        let (subject, rest) = rest.split_first_chunk::<2>()?;
        let (facts, rest) = rest.split_first_chunk::<2>()?;
        let (subject, rest) = rest.split_at_checked(usize::from(u16::from_le_bytes(*subject)))?;
        let facts = rest.get(..usize::from(u16::from_le_bytes(*facts)))?;
        Some(Self {
            number: u64::from_le_bytes(*number),
            at_ns: u64::from_le_bytes(*at_ns),
            beats: u64::from_le_bytes(*beats),
            reason: Reason::of(u16::from_le_bytes(*reason)),
            doing: *doing,
            subject: std::str::from_utf8(subject).ok()?,
            facts: std::str::from_utf8(facts).ok()?,
        })
    }
}

/// Keeps a reason, with what PID 1 is at now.
pub fn note(state: &mut State, at_ns: u64, reason: Reason, subject: &str, facts: &str) {
    let doing = state.doing();
    note_at(state, at_ns, reason, subject, facts, doing);
}

/// Keeps a reason with what PID 1 was at when it ended.
pub fn note_at(
    state: &mut State,
    at_ns: u64,
    reason: Reason,
    subject: &str,
    facts: &str,
    doing: u8,
) {
    let number = |slot| record(state, slot).map_or(0, |r| r.number);
    let newest = (0..WHY_SLOTS).map(number).max().unwrap_or(0);
    let slots = match subject {
        INIT | MACHINE => OF_INIT,
        _ => OF_SERVICES,
    };
    let start = slots.start;
    // An empty slot has the number 0, which is older than all others.
    let slot = slots.min_by_key(|slot| number(*slot)).unwrap_or(start);
    let record = Record {
        number: newest + 1,
        at_ns,
        beats: state.beat().count,
        reason,
        doing,
        subject,
        facts,
    };
    state.set_why(slot, &record.encode());
}

/// Keeps how the boot before ended.
pub fn note_last_boot(state: &mut State, reason: Reason, facts: &str) {
    let record = Record {
        number: 0,
        at_ns: 0,
        beats: 0,
        reason,
        doing: 0,
        subject: MACHINE,
        facts,
    };
    state.set_why(LAST_BOOT, &record.encode());
}

/// The record of a slot, if there is one.
#[must_use]
pub fn record(state: &State, slot: usize) -> Option<Record<'_>> {
    Record::decode(state.why(slot)?)
}

/// The newest record with a smaller number than `before`, about `subject` or, if that is empty, anything.
/// How the boot before ended has the smallest number of all.
#[must_use]
pub fn next<'s>(state: &'s State, before: Option<u64>, subject: &str) -> Option<Record<'s>> {
    (0..WHY_SLOTS)
        .filter_map(|slot| record(state, slot))
        .filter(|r| before.is_none_or(|b| r.number < b))
        .filter(|r| subject.is_empty() || r.subject == subject)
        .max_by_key(|r| r.number)
}

/// A JSON object that is put together piece by piece; what does not fit is left out, whole.
#[derive(Debug, Clone)]
pub struct Facts(Fixed<FACTS_BYTES_MAX>);

impl Facts {
    /// `{}` so far.
    #[must_use]
    pub fn new() -> Self {
        Self(Fixed::of(format_args!("{{}}")))
    }

    /// Adds `"key":value`, if it fits; `value` is JSON already.
    pub fn add(&mut self, key: &str, value: std::fmt::Arguments<'_>) -> bool {
        let text = self.0.as_str();
        let body = text.strip_suffix('}').unwrap_or("{");
        let comma = if body.len() > 1 { "," } else { "" };
        let mut longer = Fixed::<FACTS_BYTES_MAX>::default();
        let fits = longer.write_fmt(format_args!("{body}{comma}\"{key}\":{value}}}"));
        if fits.is_ok() {
            self.0 = longer;
        }
        fits.is_ok()
    }

    /// Adds a number that is not 0; as text where a double does not hold it.
    pub fn count(&mut self, key: &str, value: u64) {
        if value > wire::ledger::NUMBER_MAX {
            self.add(key, format_args!("\"{value}\""));
        } else if value > 0 {
            self.add(key, format_args!("{value}"));
        }
    }

    /// Adds a text, cut to what fits, unless it is empty.
    pub fn text(&mut self, key: &str, text: &str) {
        let mut text = text;
        while !text.is_empty() && !self.add(key, format_args!("\"{}\"", crate::state::Json(text))) {
            // By an eighth and one character a try: few tries, and little lost.
            let keep = text.len() - text.len() / 8 - 1;
            let end = (0..=keep).rev().find(|i| text.is_char_boundary(*i));
            text = text.get(..end.unwrap_or(0)).unwrap_or_default();
        }
    }

    /// All of it.
    #[must_use]
    pub fn as_str(&self) -> &str {
        self.0.as_str()
    }

    /// The inside of the object, for [`crate::journal::Journal::event`].
    #[must_use]
    pub fn inside(&self) -> &str {
        let text = self.0.as_str();
        text.get(1..text.len().saturating_sub(1))
            .unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn records_come_back_newest_first_and_the_boot_before_last() {
        let mut state = State::new([1; 16]).unwrap();
        note_last_boot(&mut state, Reason::UncleanStop, "{\"event\":7}");
        for n in 0..6 {
            note(&mut state, n, Reason::Signal, "gateway", "{}");
        }
        note(&mut state, 9, Reason::InitCrash, INIT, "{\"signal\":11}");
        let mut seen = Vec::new();
        let mut before = None;
        while let Some(r) = next(&state, before, "") {
            before = Some(r.number);
            seen.push((r.number, r.reason, r.subject));
        }
        assert_eq!(seen.first(), Some(&(7, Reason::InitCrash, INIT)));
        assert_eq!(seen.last(), Some(&(0, Reason::UncleanStop, MACHINE)));
        // Four of the six of the service are left, the newest.
        assert_eq!(seen.len(), 6);
        assert_eq!(next(&state, None, "gateway").map(|r| r.number), Some(6));
        assert_eq!(next(&state, None, "net"), None);
    }

    #[test]
    fn services_that_restart_all_the_time_leave_the_records_of_pid_1_alone() {
        let mut state = State::new([1; 16]).unwrap();
        note(&mut state, 1, Reason::Rollback, INIT, "{}");
        (0..100).for_each(|n| note(&mut state, n, Reason::Exit, "hog", "{}"));
        let kept = next(&state, None, INIT).map(|r| r.reason);
        assert_eq!(kept, Some(Reason::Rollback));
    }

    #[test]
    fn facts_are_whole_json_whatever_does_not_fit() {
        let mut facts = Facts::new();
        assert_eq!((facts.as_str(), facts.inside()), ("{}", ""));
        facts.count("zero", 0);
        facts.count("pid", 42);
        let mut large = Facts::new();
        large.count("most", u64::MAX);
        assert_eq!(large.as_str(), "{\"most\":\"18446744073709551615\"}");
        facts.text("said", &"\"é\\".repeat(300));
        facts.text("more", &"x".repeat(600));
        assert!(
            facts
                .as_str()
                .starts_with("{\"pid\":42,\"said\":\"\\\"é\\\\")
        );
        assert!(facts.as_str().len() <= FACTS_BYTES_MAX);
        assert!(facts.as_str().ends_with("\"}"), "{}", facts.as_str());
    }

    #[test]
    fn what_pid_1_is_at_has_a_name() {
        for doing in Doing::ALL {
            assert_ne!(Doing::of(doing as u8), "unknown", "{doing:?}");
        }
        assert_eq!(Doing::of(200), "unknown");
    }

    proptest! {
        #[test]
        fn any_record_comes_back(number in any::<u64>(), reason in 0u16..60, subject in "[a-z]{0,32}", facts in "\\PC{0,200}") {
            let record = Record {
                number, at_ns: 5, beats: 6, reason: Reason::of(reason), doing: 7, subject: &subject, facts: &facts,
            };
            let bytes = record.encode();
            let kept = if facts.len() <= FACTS_BYTES_MAX { facts.as_str() } else { "{}" };
            prop_assert_eq!(Record::decode(&bytes), Some(Record { facts: kept, ..record }));
        }

        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
            let _ = Record::decode(&bytes);
        }

        #[test]
        fn facts_never_break_their_json(texts in proptest::collection::vec("\\PC{0,80}|[\"\\\\\n]{0,20}", 0..8)) {
            let mut facts = Facts::new();
            for text in &texts {
                facts.text("t", text);
            }
            let json = facts.as_str();
            let whole = json.starts_with('{') && json.ends_with('}');
            prop_assert!(whole && json.len() <= FACTS_BYTES_MAX, "{}", json);
            let bare = json.replace("\\\\", "").replace("\\\"", "");
            prop_assert_eq!(bare.matches('"').count() % 2, 0, "{}", json);
        }
    }
}
