//! The wall clock: never under its floor, set by whom, how far and how often.
//!
//! Pure. PID 1 judges, its helper acts. Nothing of PID 1 runs by this clock: timers, back-offs,
//! deadlines and events count CLOCK_MONOTONIC, so a step of years changes dates and nothing else.
//! Start with [`Clock::judge`].

use crate::state::Fixed;
use wire::control::ClockSet;

const S: u64 = 1_000_000_000;

/// A day on which these sources existed, for builds that are told no date: 2026-01-01.
const SOURCES_S: u64 = 1_767_225_600;
/// When this was built, as the build was told by SOURCE_DATE_EPOCH: no clock is right before.
pub const BUILD_NS: u64 = match option_env!("SOURCE_DATE_EPOCH") {
    Some(text) => match u64::from_str_radix(text, 10) {
        Ok(seconds) if seconds > SOURCES_S => seconds.saturating_mul(S),
        _ => SOURCES_S * S,
    },
    None => SOURCES_S * S,
};
/// No clock is right after: longer than a build is in use, so that a lie ends somewhere.
pub const CEILING_NS: u64 = BUILD_NS.saturating_add(20 * 365 * 86_400 * S);
/// Below this the clock is led there slowly, 500 us a second; a step would be seen by programs.
const SLEW_NS_MAX: u64 = S / 2;
/// After the first setting of a boot no later one may be as far: whoever speaks for a time server
/// then cannot move it at will (what ntpd calls its panic threshold).
const STEP_NS_MAX: u64 = 1000 * S;
/// Between two settings; the role `net` asks each 1024 s.
const PACE_NS: u64 = 60 * S;
/// How old a question may be, and how unsure.
const AGE_NS_MAX: u64 = 10 * S;
const ERROR_NS_MAX: u64 = 2 * S;
/// Pause after the helper could not raise the clock to its floor.
const RETRY_NS: u64 = 60 * S;

/// Who waits for the answer: connection, its generation, frame.
pub type Asker = (usize, u64, u64);

/// A setting that the helper is at.
#[derive(Debug, Clone)]
pub struct Pending {
    /// Who asked; `None`: the floor did.
    pub asker: Option<Asker>,
    /// The clock before.
    pub old_ns: u64,
    /// What it is to be...
    pub wall_ns: u64,
    /// ...at this moment of CLOCK_MONOTONIC.
    pub at_ns: u64,
    /// Whether at once.
    pub step: bool,
    /// By whose word.
    pub source: Fixed<64>,
}

/// Why a setting is refused.
#[derive(Debug, Clone)]
pub struct Wrong {
    /// Stable code.
    pub code: &'static str,
    /// Field.
    pub field: &'static str,
    /// What it held.
    pub value: Fixed<24>,
    /// What it may hold.
    pub limit: Fixed<40>,
}

/// What PID 1 knows of the clock.
#[derive(Debug)]
pub struct Clock {
    floor_ns: u64,
    floor_of: &'static str,
    pending: Option<Pending>,
    set_at_ns: Option<u64>,
    retry_at_ns: u64,
}

impl Clock {
    /// Not set yet; the floor is the build's time.
    #[must_use]
    pub fn new() -> Self {
        Self {
            floor_ns: BUILD_NS,
            floor_of: "floor build",
            pending: None,
            set_at_ns: None,
            retry_at_ns: 0,
        }
    }

    /// When it was set last, for the PID 1 that goes on.
    #[must_use]
    pub fn set_at(&self) -> Option<u64> {
        self.set_at_ns
    }

    /// It was set by the PID 1 before.
    pub fn was_set(&mut self, at_ns: u64) {
        self.set_at_ns = Some(at_ns);
    }

    /// The last event of the last boot was written at this time: it is later now. A time beyond the
    /// ceiling is nobody's.
    pub fn raise(&mut self, ledger_ns: u64) {
        if ledger_ns > self.floor_ns && ledger_ns <= CEILING_NS {
            (self.floor_ns, self.floor_of) = (ledger_ns, "floor ledger");
        }
    }

    /// Whether the clock lies under its floor and is to be raised.
    pub fn keep(&mut self, now: u64, wall: u64) -> Option<Pending> {
        if wall >= self.floor_ns || self.pending.is_some() || now < self.retry_at_ns {
            return None;
        }
        Some(Pending {
            asker: None,
            old_ns: wall,
            wall_ns: self.floor_ns,
            at_ns: now,
            step: true,
            source: Fixed::of(format_args!("{}", self.floor_of)),
        })
    }

    /// Judges a setting that a peer asks for.
    ///
    /// # Errors
    /// [`Wrong`]: field, value and limit.
    pub fn judge(
        &self,
        now: u64,
        wall: u64,
        asker: Asker,
        ask: &ClockSet<'_>,
    ) -> Result<Pending, Wrong> {
        let wrong = |field, value: std::fmt::Arguments<'_>, limit: std::fmt::Arguments<'_>| Wrong {
            code: "BAD_REQUEST",
            field,
            value: Fixed::of(value),
            limit: Fixed::of(limit),
        };
        let source = ask.source;
        if !(1..=40).contains(&source.len()) || source.chars().any(|c| !(' '..='~').contains(&c)) {
            let value = format_args!("{} bytes", source.len());
            return Err(wrong(
                "source",
                value,
                format_args!("1 to 40 printable ones"),
            ));
        }
        if ask.at_ns > now || now - ask.at_ns > AGE_NS_MAX {
            let limit = format_args!("within the last {} s", AGE_NS_MAX / S);
            return Err(wrong("at_ns", format_args!("{}", ask.at_ns), limit));
        }
        if ask.error_ns > ERROR_NS_MAX {
            let limit = format_args!("{ERROR_NS_MAX}");
            return Err(wrong("error_ns", format_args!("{}", ask.error_ns), limit));
        }
        let target = ask.wall_ns.saturating_add(now - ask.at_ns);
        let seconds = target / S;
        if target < self.floor_ns {
            let limit = format_args!("{} s or more ({})", self.floor_ns / S, self.floor_of);
            return Err(wrong("wall_ns", format_args!("{seconds} s"), limit));
        }
        if target > CEILING_NS {
            let limit = format_args!("{} s or less", CEILING_NS / S);
            return Err(wrong("wall_ns", format_args!("{seconds} s"), limit));
        }
        if self.pending.is_some() {
            let busy = wrong(
                "clock",
                format_args!("is being set"),
                format_args!("one at a time"),
            );
            return Err(Wrong {
                code: "CONFLICT",
                ..busy
            });
        }
        let offset = target.abs_diff(wall);
        if let Some(before) = self.set_at_ns {
            let since = now.saturating_sub(before);
            if since < PACE_NS {
                let limit = format_args!("{} s apart", PACE_NS / S);
                return Err(wrong("pace", format_args!("{} s", since / S), limit));
            }
            if offset > STEP_NS_MAX {
                let limit = format_args!("{} s after the first of a boot", STEP_NS_MAX / S);
                return Err(wrong("step", format_args!("{} s", offset / S), limit));
            }
        }
        Ok(Pending {
            asker: Some(asker),
            old_ns: wall,
            wall_ns: ask.wall_ns,
            at_ns: ask.at_ns,
            step: offset > SLEW_NS_MAX,
            source: Fixed::of(format_args!("{source}")),
        })
    }

    /// The helper was asked.
    pub fn begin(&mut self, pending: Pending) {
        self.pending = Some(pending);
    }

    /// The helper is done, well or not; gives what it was at.
    pub fn end(&mut self, now: u64, well: bool) -> Option<Pending> {
        let pending = self.pending.take()?;
        if !well {
            self.retry_at_ns = now.saturating_add(RETRY_NS);
        } else if pending.asker.is_some() {
            self.set_at_ns = Some(now);
        }
        Some(pending)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const WALL: u64 = BUILD_NS + 1_000_000 * S;
    const WHO: Asker = (1, 2, 3);

    fn ask(wall_ns: u64, at_ns: u64) -> ClockSet<'static> {
        ClockSet {
            wall_ns,
            at_ns,
            error_ns: 1_000_000,
            source: "ntp 10.0.2.2:123",
        }
    }

    fn limit(result: Result<Pending, Wrong>) -> String {
        let wrong = result.unwrap_err();
        format!("{} {}, {}", wrong.field, wrong.value, wrong.limit)
    }

    #[test]
    fn a_clock_under_its_floor_is_raised_and_never_set_below() {
        let mut clock = Clock::new();
        assert!(clock.keep(1, BUILD_NS).is_none());
        let raise = clock.keep(1, 0).unwrap();
        assert_eq!((raise.wall_ns, raise.step), (BUILD_NS, true));
        clock.begin(raise);
        assert!(clock.keep(2, 0).is_none(), "under way");
        assert!(clock.end(3, false).is_some());
        assert!(clock.keep(4, 0).is_none(), "not again at once");
        assert!(clock.keep(4 + RETRY_NS, 0).is_some());

        clock.raise(WALL);
        clock.raise(BUILD_NS);
        clock.raise(CEILING_NS + 1);
        let refused = limit(clock.judge(9 * S, WALL + S, WHO, &ask(WALL - S, 9 * S)));
        let seconds = WALL / S;
        assert_eq!(
            refused,
            format!(
                "wall_ns {} s, {seconds} s or more (floor ledger)",
                seconds - 1
            )
        );
        assert!(clock.judge(9 * S, WALL + S, WHO, &ask(WALL, 9 * S)).is_ok());
        assert!(
            clock
                .judge(9 * S, WALL, WHO, &ask(CEILING_NS + S, 9 * S))
                .is_err()
        );
        assert!(
            clock
                .judge(9 * S, WALL, WHO, &ask(u64::MAX, 9 * S))
                .is_err()
        );
    }

    #[test]
    fn the_first_setting_may_be_far_and_later_ones_may_not() {
        let mut clock = Clock::new();
        let years = 5 * 365 * 86_400 * S;
        let first = clock
            .judge(9 * S, WALL, WHO, &ask(WALL + years, 9 * S))
            .unwrap();
        assert!(first.step);
        clock.begin(first);
        assert_eq!(
            limit(clock.judge(9 * S, WALL, WHO, &ask(WALL, 9 * S))),
            "clock is being set, one at a time"
        );
        assert!(clock.end(10 * S, true).is_some());
        let wall = WALL + years;
        assert_eq!(
            limit(clock.judge(20 * S, wall, WHO, &ask(wall, 20 * S))),
            "pace 10 s, 60 s apart"
        );
        assert_eq!(
            limit(clock.judge(90 * S, wall, WHO, &ask(wall - 1001 * S, 90 * S))),
            "step 1001 s, 1000 s after the first of a boot"
        );
        let near = clock
            .judge(90 * S, wall, WHO, &ask(wall + S / 4, 90 * S))
            .unwrap();
        assert!(!near.step, "led there slowly");
    }

    #[test]
    fn a_question_that_is_old_unsure_or_unnamed_is_refused() {
        let clock = Clock::new();
        let of = |ask: ClockSet<'_>| limit(clock.judge(100 * S, WALL, WHO, &ask));
        assert!(of(ask(WALL, 101 * S)).starts_with("at_ns"));
        assert!(of(ask(WALL, 89 * S)).starts_with("at_ns"));
        let unsure = ClockSet {
            error_ns: 3 * S,
            ..ask(WALL, 100 * S)
        };
        assert!(of(unsure).starts_with("error_ns"));
        for source in ["", "a\nb", "0123456789012345678901234567890123456789x"] {
            let unnamed = ClockSet {
                source,
                ..ask(WALL, 100 * S)
            };
            assert!(of(unnamed).starts_with("source"), "{source:?}");
        }
    }

    proptest! {
        #[test]
        fn no_sequence_of_settings_leaves_the_bounds(steps in proptest::collection::vec((any::<u64>(), 0u64..200 * S, any::<bool>()), 1..40)) {
            let (mut clock, mut now, mut wall) = (Clock::new(), 100 * S, WALL);
            for (wanted, pause, well) in steps {
                now += pause;
                wall = wall.saturating_add(pause);
                let before = wall;
                if let Ok(pending) = clock.judge(now, wall, WHO, &ask(wanted, now)) {
                    prop_assert!((BUILD_NS..=CEILING_NS).contains(&pending.wall_ns));
                    let first = clock.set_at_ns.is_none();
                    prop_assert!(first || before.abs_diff(pending.wall_ns) <= STEP_NS_MAX);
                    clock.begin(pending.clone());
                    if well {
                        wall = pending.wall_ns;
                    }
                    clock.end(now, well);
                }
            }
        }
    }
}
