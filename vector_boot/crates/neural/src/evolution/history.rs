//! The newest verdicts, for people. Refusals of the same kind behind each other are one.

use super::Verdict;
use super::ring::{Head, NAME_BYTES, name_of};
use std::collections::VecDeque;

/// Verdicts that are kept.
const KEPT: usize = 256;

/// One verdict.
#[derive(Debug, Clone, PartialEq)]
pub struct Verdicts {
    /// When the last of them was, nanoseconds since 1970.
    pub wall_ns: u64,
    /// What was decided.
    pub verdict: Verdict,
    /// The generation that it made, or met.
    pub generation: u64,
    /// Of a rollback the generation that was restored.
    pub restored: u64,
    /// Who proposed.
    pub uid: u32,
    /// How many of them there were behind each other.
    pub count: u64,
    /// The proposer's number of the last one.
    pub id: u64,
    /// The tensor, with what is not printable as `?`.
    pub tensor: String,
    /// Byte in the tensor.
    pub offset: u64,
    /// Bytes.
    pub length: u32,
    /// As proposed.
    pub confidence: f32,
}

/// The newest verdicts.
#[derive(Debug, Default)]
pub struct History(VecDeque<Verdicts>);

impl History {
    /// Newest first.
    pub fn newest(&self) -> impl Iterator<Item = &Verdicts> {
        self.0.iter().rev()
    }

    /// Notes a mutation.
    pub fn judged(
        &mut self,
        head: &Head,
        verdict: Verdict,
        generation: u64,
        uid: u32,
        wall_ns: u64,
    ) {
        if verdict != Verdict::Accepted
            && let Some(last) = self.0.back_mut()
            && (last.verdict, last.uid) == (verdict, uid)
            && last.tensor == shown(&head.name)
        {
            last.count += 1;
            last.wall_ns = wall_ns;
            last.id = head.id;
            return;
        }
        self.push(Verdicts {
            wall_ns,
            verdict,
            generation,
            restored: 0,
            uid,
            count: 1,
            id: head.id,
            tensor: shown(&head.name).into_owned(),
            offset: head.offset,
            length: head.length,
            confidence: head.confidence,
        });
    }

    /// Notes a rollback.
    pub fn rolled_back(&mut self, why: Verdict, generation: u64, to: u64, uid: u32, wall_ns: u64) {
        self.push(Verdicts {
            wall_ns,
            verdict: why,
            generation,
            restored: to,
            uid,
            count: 1,
            id: 0,
            tensor: String::new(),
            offset: 0,
            length: 0,
            confidence: 0.0,
        });
    }

    /// What was accepted above this generation could not be written, and so was not accepted.
    pub fn not_written(&mut self, newest: u64) {
        for row in &mut self.0 {
            if row.verdict == Verdict::Accepted && row.generation > newest {
                (row.verdict, row.generation) = (Verdict::JournalFailed, newest);
            }
        }
    }

    fn push(&mut self, verdict: Verdicts) {
        if self.0.len() == KEPT {
            self.0.pop_front();
        }
        self.0.push_back(verdict);
    }
}

/// A name as it may be shown: one that is none is shown as far as it goes.
fn shown(name: &[u8; NAME_BYTES]) -> std::borrow::Cow<'_, str> {
    match name_of(name) {
        Some(name) if !name.contains(|c: char| c.is_control()) => name.into(),
        _ => {
            let end = name
                .iter()
                .rposition(|b| *b != 0)
                .map_or(0, |last| last + 1);
            let bytes = name.get(..end).unwrap_or_default();
            let printable = |b: &u8| match *b {
                0x20..=0x7e => char::from(*b),
                _ => '?',
            };
            bytes.iter().map(printable).collect::<String>().into()
        }
    }
}
