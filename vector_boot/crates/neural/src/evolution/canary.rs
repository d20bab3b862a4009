//! The canary: what a policy answers to a fixed set of registers, before anybody runs by it.
//!
//! A weight can be finite and still make sums that are not; [`Weights::forward`] would hide that, since it answers
//! something sane to everything. So the sums are looked at one by one here.

use super::Verdict;
use super::generation::POLICY_VALUES;
use crate::math::{dot, tanh};
use crate::policy::{Weights, inputs};
use wire::sensors::COUNT;

/// Sets of registers that a policy is tried with.
pub const PROBES: usize = 8;

/// The policy of a generation's values.
#[must_use]
pub fn weights(values: &[f32; POLICY_VALUES]) -> Weights {
    let mut weights = Weights::ZERO;
    let mut rest: &[f32] = values;
    for part in weights.parts_mut() {
        let Some((values, after)) = rest.split_at_checked(part.len()) else {
            break;
        };
        part.copy_from_slice(values);
        rest = after;
    }
    weights
}

/// Tries a policy.
///
/// # Errors
/// [`Verdict::CanaryNotFinite`] for a sum that is not finite, [`Verdict::CanaryOutside`] for an answer that the beat
/// would have to clamp.
pub fn canary(weights: &Weights) -> Result<(), Verdict> {
    (0..PROBES).try_for_each(|probe| answers(weights, &registers(probe)))
}

/// What a policy answers to these registers, without its answers being made sane first. Never allocates.
///
/// # Errors
/// As [`canary`].
pub fn answers(weights: &Weights, registers: &[f32; COUNT]) -> Result<(), Verdict> {
    let x = inputs(registers);
    let mut hidden = [0.0; crate::policy::HIDDEN];
    for ((unit, row), bias) in hidden.iter_mut().zip(&weights.w1).zip(&weights.b1) {
        *unit = tanh(finite(dot(row, &x) + bias)?);
    }
    let outputs = weights.w2.iter().zip(&weights.b2).zip(&weights.gains);
    for ((row, bias), gain) in outputs {
        let answer = finite(tanh(finite(dot(row, &hidden) + bias)?) * gain)?;
        if answer.abs() > 1.0 {
            return Err(Verdict::CanaryOutside);
        }
    }
    Ok(())
}

fn finite(value: f32) -> Result<f32, Verdict> {
    if value.is_finite() {
        Ok(value)
    } else {
        Err(Verdict::CanaryNotFinite)
    }
}

/// Nothing known, all calm, all extremes, and mixtures of magnitudes; the same everywhere.
fn registers(probe: usize) -> [f32; COUNT] {
    let mut state = u32::try_from(probe).unwrap_or_default();
    std::array::from_fn(|_| match probe {
        0 => f32::NAN,
        1 => 0.0,
        2 => f32::MAX,
        3 => f32::MIN,
        _ => {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let magnitude = i32::try_from((state >> 16) % 12).unwrap_or_default();
            ((state >> 24) as f32 - 64.0) * 10f32.powi(magnitude - 3)
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_that_overflow_and_answers_beyond_one_are_seen() {
        assert_eq!(canary(&Weights::ZERO), Ok(()));
        let mut wild = Weights::ZERO;
        wild.w1[0] = [3e38; COUNT];
        assert_eq!(canary(&wild), Err(Verdict::CanaryNotFinite));
        let mut loud = Weights::ZERO;
        loud.b2[3] = 2.0;
        loud.gains[3] = 1.5;
        assert_eq!(canary(&loud), Err(Verdict::CanaryOutside));
        loud.gains[3] = -1.0;
        assert_eq!(canary(&loud), Ok(()));
    }
}
