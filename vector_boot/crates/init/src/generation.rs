//! Which generation of the policy PID 1 runs by, and whether a new one behaves.
//!
//! A generation is on trial for its first beats, and the newest trusted one is kept until it has passed. Pure: what
//! a beat showed comes in, what is to be run by comes out. Start with [`Generations::take`] and [`Generations::step`].

use wire::evolution::generation::POLICY_VALUES;
use wire::evolution::{GenerationStatus, Misbehaviour};

/// Beats for which a generation is on trial.
pub const TRIAL_BEATS: u32 = 100;
/// Beats of a trial whose own work may take longer than the period. Work, not lateness: a busy host makes beats late.
pub const LATE_MAX: u32 = 10;
/// Beats of a trial in which a control may have to be clamped to what `kernel.limits` allow.
pub const CLAMPED_MAX: u32 = 50;

/// The policy's values, in the order of [`wire::evolution::generation::POLICY`].
pub type PolicyValues = [f32; POLICY_VALUES];

/// How the policy did in one beat.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum PolicyHealth {
    /// Well.
    #[default]
    Good,
    /// A sum or a control was not finite.
    NotFinite,
    /// A control had to be clamped.
    Clamped,
}

/// A generation in hand; without values the built-in policy, which is the base's.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Held {
    /// Its number.
    pub number: u64,
    /// Its policy.
    pub values: Option<Box<PolicyValues>>,
}

#[derive(Debug, Clone, Copy)]
struct Trial {
    left: u32,
    late: u32,
    clamped: u32,
}

/// What there is of generations.
#[derive(Debug, Default)]
pub struct Generations {
    current: Held,
    /// The newest one that passed its trial; kept while another is on trial.
    trusted: Held,
    trial: Option<Trial>,
    given_up: u64,
    why: Option<Misbehaviour>,
    /// What the one taken last builds on.
    base: Option<[u8; 32]>,
    /// The same of the model before.
    outdated: Option<[u8; 32]>,
}

impl Generations {
    /// Another model counts from now on: what is still given of the one before is not taken any more.
    pub fn outdate(&mut self) {
        self.outdated = self.base.take();
    }

    /// Whether a generation over this base is of the model before.
    #[must_use]
    pub fn is_outdated(&self, base: &[u8; 32]) -> bool {
        self.outdated.as_ref() == Some(base)
    }

    /// The model that counts decides by itself: nothing is in hand any more.
    pub fn begin_anew(&mut self) {
        *self = Self {
            base: self.base,
            outdated: self.outdated,
            ..Self::default()
        };
    }

    /// Whether this one was given up since PID 1 began.
    #[must_use]
    pub fn was_given_up(&self, number: u64) -> bool {
        self.why.is_some() && self.given_up == number
    }

    /// A generation over a base is run by from the next beat on.
    pub fn take(&mut self, next: Held, base: [u8; 32]) {
        self.base = Some(base);
        // Numbers only grow in a log: a smaller one is of another, whose numbers mean something else.
        if next.number < self.given_up {
            (self.given_up, self.why) = (0, None);
        }
        // The one that is left was trusted if nothing tries it any more.
        let left = std::mem::replace(&mut self.current, next);
        let before = self.trial;
        if before.is_none() {
            self.trusted = left;
        }
        // Faults of a trial that did not end count on, or generations in quick succession would never be judged.
        self.trial = Some(Trial {
            left: TRIAL_BEATS,
            late: before.map_or(0, |trial| trial.late),
            clamped: before.map_or(0, |trial| trial.clamped),
        });
    }

    /// What a beat showed; the generation to go back to, if this one misbehaves.
    pub fn step(&mut self, health: PolicyHealth, late: bool) -> Option<(Held, Misbehaviour)> {
        let trial = self.trial.as_mut()?;
        trial.left = trial.left.saturating_sub(1);
        trial.late += u32::from(late);
        trial.clamped += u32::from(health == PolicyHealth::Clamped);
        let why = if health == PolicyHealth::NotFinite {
            Some(Misbehaviour::NotFinite)
        } else if trial.late > LATE_MAX {
            Some(Misbehaviour::Late)
        } else if trial.clamped > CLAMPED_MAX {
            Some(Misbehaviour::Clamped)
        } else {
            None
        };
        match why {
            Some(why) => {
                self.trial = None;
                self.given_up = self.current.number;
                self.why = Some(why);
                self.current = self.trusted.clone();
                Some((self.current.clone(), why))
            }
            None => {
                if trial.left == 0 {
                    self.trial = None;
                    self.trusted = Held::default();
                }
                None
            }
        }
    }

    /// For the wire.
    #[must_use]
    pub fn status(&self) -> GenerationStatus {
        GenerationStatus {
            number: self.current.number,
            trial_beats_left: self.trial.map_or(0, |trial| trial.left),
            given_up: self.given_up,
            why: self.why.unwrap_or(Misbehaviour::None),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BASE: [u8; 32] = [1; 32];

    fn held(number: u64) -> Held {
        Held {
            number,
            values: Some(Box::new([number as f32; POLICY_VALUES])),
        }
    }

    fn beats(
        generations: &mut Generations,
        health: PolicyHealth,
        late: bool,
        count: u32,
    ) -> Option<u64> {
        (0..count).find_map(|_| generations.step(health, late).map(|(back, _)| back.number))
    }

    #[test]
    fn a_generation_that_behaves_for_its_trial_is_trusted() {
        let mut generations = Generations::default();
        generations.take(held(1), BASE);
        assert_eq!(
            beats(&mut generations, PolicyHealth::Good, false, TRIAL_BEATS),
            None
        );
        assert_eq!(generations.status().trial_beats_left, 0);
        generations.take(held(2), BASE);
        let back = generations.step(PolicyHealth::NotFinite, false).unwrap();
        assert_eq!((back.0, back.1), (held(1), Misbehaviour::NotFinite));
        assert!(generations.was_given_up(2) && !generations.was_given_up(1));
        // What was trusted is not tried again.
        assert_eq!(
            beats(&mut generations, PolicyHealth::NotFinite, true, 1000),
            None
        );
        assert_eq!(generations.status().number, 1);
    }

    #[test]
    fn each_bound_is_the_last_beat_that_is_allowed() {
        let mut generations = Generations::default();
        generations.take(held(1), BASE);
        assert_eq!(
            beats(&mut generations, PolicyHealth::Good, true, LATE_MAX),
            None
        );
        assert_eq!(
            beats(&mut generations, PolicyHealth::Good, true, 1),
            Some(0)
        );
        assert_eq!(generations.status().why, Misbehaviour::Late);
        generations.take(held(2), BASE);
        assert_eq!(
            beats(&mut generations, PolicyHealth::Clamped, false, CLAMPED_MAX),
            None
        );
        assert_eq!(
            beats(&mut generations, PolicyHealth::Clamped, false, 1),
            Some(0)
        );
    }

    #[test]
    fn generations_in_quick_succession_go_back_to_the_last_that_was_trusted() {
        let mut generations = Generations::default();
        generations.take(held(1), BASE);
        beats(&mut generations, PolicyHealth::Good, false, TRIAL_BEATS);
        for number in 2..50 {
            generations.take(held(number), BASE);
            beats(&mut generations, PolicyHealth::Good, false, 3);
        }
        assert_eq!(
            beats(&mut generations, PolicyHealth::NotFinite, false, 1),
            Some(1)
        );
    }

    #[test]
    fn what_the_model_before_gives_once_more_is_outdated_until_that_model_comes_back() {
        let other = [2; 32];
        let mut generations = Generations::default();
        generations.take(held(7), BASE);
        assert!(!generations.is_outdated(&BASE));
        generations.outdate();
        assert!(generations.is_outdated(&BASE) && !generations.is_outdated(&other));
        // The new one's may come before the beat at which its tables are taken.
        generations.take(held(1), other);
        generations.begin_anew();
        assert_eq!(generations.status().number, 0);
        assert!(generations.is_outdated(&BASE) && !generations.is_outdated(&other));
        // Back, whether or not a generation was taken meanwhile.
        generations.outdate();
        assert!(generations.is_outdated(&other) && !generations.is_outdated(&BASE));
        generations.outdate();
        assert!(!generations.is_outdated(&other) && !generations.is_outdated(&BASE));
    }
}
