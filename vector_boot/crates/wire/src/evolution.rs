//! Mutations: the one spelling of every verdict, the frames of `evolution.sock`, and the layouts of the ring and of
//! a generation.
//!
//! `docs/evolution.md` is the same in prose; `tests/golden/evolution/` pins the bytes.
//! Start with [`Verdict`], [`ring`] and [`generation`].

pub mod generation;
pub mod ring;

use crate::control::message;
use crate::{Kind, Message};
use serde::{Deserialize, Serialize};

/// Smallest confidence that is *not* enough: a mutation needs more.
pub const CONFIDENCE_MIN: f32 = 0.8;

spelled! {
    /// What became of a mutation.
    Verdict

    0 Accepted "accepted" "applied and written to the journal";
    1 ConfidenceNotFinite "confidence_not_finite" "the confidence is no finite number";
    2 ConfidenceTooLow "confidence_too_low" "the confidence is not above 0.8";
    3 NameMalformed "name_malformed" "the name is empty, no UTF-8, or has a NUL inside";
    4 TensorUnknown "tensor_unknown" "no tensor has exactly this name";
    5 TensorProtected "tensor_protected" "kernel.* and hw.* are never changed";
    6 TypeUnsupported "type_unsupported" "blocks of this type cannot be checked";
    7 LengthInvalid "length_invalid" "the payload is empty or longer than a slot";
    8 RangeOutside "range_outside" "the range ends past the tensor";
    9 RangeOffBlock "range_off_block" "the range does not begin and end on block borders";
    10 GenerationStale "generation_stale" "the base generation is not the current one";
    11 OldHashDiffers "old_hash_differs" "the range does not hold what the proposer saw";
    12 PayloadHashDiffers "payload_hash_differs" "the payload is not what its hash says";
    13 NotFinite "not_finite" "a float or a block's scale is not finite as f32";
    14 RateExceeded "rate_exceeded" "too many mutations a second";
    15 QuotaExceeded "quota_exceeded" "too many bytes a second";
    16 OverlayFull "overlay_full" "the changed ranges together would be too large";
    17 CanaryNotFinite "canary_not_finite" "the policy answers something that is not finite";
    18 CanaryOutside "canary_outside" "the policy answers something outside its limits";
    19 JournalFailed "journal_failed" "the journal could not be written";
    20 RolledBack "rolled_back" "a person asked for an earlier generation";
    21 Misbehaved "misbehaved" "the generation misbehaved in its first beats and was rolled back";
    65535 Unknown "unknown" "a verdict of a later build";
}

/// Asks for a ring of one's own; answered by [`EvolutionChannel`] with three descriptors.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct EvolutionOpen;

/// A ring. Descriptors, in this order: its memory, the wake of the runtime, the wake of the proposer.
/// The ring lives as long as its connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct EvolutionChannel {
    /// [`ring::VERSION`].
    pub version: u32,
    /// Bytes of the memory.
    pub bytes: u64,
    /// The current generation.
    pub generation: u64,
}

/// Asks for [`EvolutionStatus`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct EvolutionGet;

/// Where evolution stands; the current generation's sealed memory comes along.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct EvolutionStatus {
    /// The current generation; 0 is the base.
    pub generation: u64,
    /// The oldest generation that `MutationsRollback` can go back to.
    pub oldest: u64,
    /// BLAKE3 of the base.
    pub base: [u8; 32],
    /// BLAKE3 of what the current generation holds, whatever its number.
    pub content: [u8; 32],
    /// Mutations accepted since the role's start.
    pub accepted: u64,
    /// Mutations refused since the role's start.
    pub refused: u64,
    /// Rollbacks since the role's start, those that nobody asked for among them.
    pub rolled_back: u64,
    /// Rings in use.
    pub proposers: u16,
    /// Whether what is accepted outlives the machine.
    pub durable: bool,
}

/// Asks for the newest verdicts: one [`Mutation`] each, newest first, then [`crate::Done`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct MutationsGet {
    /// How many at most.
    pub count: u32,
}

/// One verdict. Refusals of the same kind behind each other are one of these.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Mutation<'a> {
    /// When, nanoseconds since 1970.
    pub wall_ns: u64,
    /// What was decided.
    pub verdict: Verdict,
    /// The generation that it made, or that it met.
    pub generation: u64,
    /// For a rollback the generation that was gone back to, else 0.
    pub restored: u64,
    /// Who proposed it.
    pub uid: u32,
    /// How often, behind each other.
    pub count: u64,
    /// As the proposer called it.
    pub id: u64,
    /// The tensor, with what is not printable replaced.
    pub tensor: &'a str,
    /// Byte in the tensor.
    pub offset: u64,
    /// Bytes.
    pub length: u32,
    /// As proposed.
    pub confidence: f32,
}

/// Asks to go back to a generation; answered by [`crate::Done`] once that is durable and published.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct MutationsRollback {
    /// 0 is the base.
    pub generation: u64,
}

/// To PID 1: a sealed generation, in the packet's one descriptor; answered by [`crate::Done`] once it is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Generation {
    /// Its number.
    pub number: u64,
}

/// Asks PID 1 for [`GenerationStatus`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct GenerationGet;

/// Which generation PID 1 runs by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct GenerationStatus {
    /// In force; 0 is the base.
    pub number: u64,
    /// Beats that it still has to behave for; 0 once it is trusted.
    pub trial_beats_left: u32,
    /// The newest one that was given up; 0 for none.
    pub given_up: u64,
    /// Why it was given up.
    pub why: Misbehaviour,
}

/// Why PID 1 gave a generation up. New ones are added at the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Misbehaviour {
    /// It was not.
    None,
    /// A control was not finite.
    NotFinite,
    /// Too many beats of its trial began late.
    Late,
    /// Too many of its controls had to be clamped to `kernel.limits`.
    Clamped,
}

impl Misbehaviour {
    /// For people, programs and events.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::NotFinite => "not_finite",
            Self::Late => "late",
            Self::Clamped => "clamped",
        }
    }
}

message! {
    EvolutionOpen = EvolutionOpen, EvolutionChannel = EvolutionChannel, EvolutionGet = EvolutionGet,
    EvolutionStatus = EvolutionStatus, MutationsGet = MutationsGet, Mutation<'_> = Mutation,
    MutationsRollback = MutationsRollback, Generation = Generation, GenerationGet = GenerationGet,
    GenerationStatus = GenerationStatus,
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn every_verdict_has_one_number_and_one_spelling() {
        let mut words = BTreeSet::new();
        for verdict in Verdict::ALL {
            assert_eq!(Verdict::of(*verdict as u16), *verdict);
            assert!(words.insert(verdict.as_str()), "{verdict:?}");
        }
        assert_eq!(Verdict::of(9999), Verdict::Unknown);
    }
}
