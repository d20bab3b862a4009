//! A circuit breaker: stops calling what keeps failing, and finds out with one probe when it is back.
//!
//! Closed: calls pass, failures in a row are counted. Open after [`Breaker::FAILURES_MAX`]: calls are
//! refused until a pause is over, which doubles with every failed probe. Half-open: exactly one call
//! passes as a probe; its outcome closes or opens. A probe that never reports counts as failed.
//! Start with [`Breaker::admit`].

/// What becomes of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Admit {
    /// It may run.
    Pass,
    /// It may run, as the one probe.
    Probe,
    /// It may not.
    Refuse {
        /// Milliseconds until a call may be the probe.
        retry_after_ms: u64,
    },
}

/// How a call ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// As it should.
    Success,
    /// Not; errors of the caller's own making are successes of the callee.
    Failure,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Closed { failures: u32 },
    Open { until_ms: u64, pause_ms: u64 },
    HalfOpen { overdue_ms: u64, pause_ms: u64 },
}

/// One breaker, for one thing that is called.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Breaker(State);

impl Default for Breaker {
    fn default() -> Self {
        Self(State::Closed { failures: 0 })
    }
}

impl Breaker {
    /// Failures in a row that open it.
    pub const FAILURES_MAX: u32 = 5;
    /// First pause; long enough that a service that restarts at once is back.
    pub const PAUSE_MS_MIN: u64 = 1_000;
    /// Longest pause.
    pub const PAUSE_MS_MAX: u64 = 30_000;
    /// A probe that has not reported after this counts as failed.
    pub const PROBE_MS_MAX: u64 = 30_000;

    /// Whether a call may run now.
    pub fn admit(&mut self, now_ms: u64) -> Admit {
        match self.0 {
            State::Closed { .. } => Admit::Pass,
            State::Open { until_ms, pause_ms } if now_ms >= until_ms => {
                self.0 = State::HalfOpen {
                    overdue_ms: now_ms.saturating_add(Self::PROBE_MS_MAX),
                    pause_ms,
                };
                Admit::Probe
            }
            State::Open { until_ms, .. } => Admit::Refuse {
                retry_after_ms: until_ms - now_ms,
            },
            State::HalfOpen {
                overdue_ms,
                pause_ms,
            } if now_ms >= overdue_ms => {
                self.open(now_ms, pause_ms.saturating_mul(2));
                self.admit(now_ms)
            }
            State::HalfOpen { pause_ms, .. } => Admit::Refuse {
                retry_after_ms: pause_ms,
            },
        }
    }

    /// Takes the outcome of a call that [`Breaker::admit`] let pass as `was`. Calls that began before
    /// it opened change nothing any more.
    pub fn record(&mut self, now_ms: u64, was: Admit, outcome: Outcome) {
        match (self.0, was, outcome) {
            (State::Closed { .. }, Admit::Pass, Outcome::Success) => *self = Self::default(),
            (State::Closed { failures }, Admit::Pass, Outcome::Failure) => {
                if failures + 1 >= Self::FAILURES_MAX {
                    self.open(now_ms, Self::PAUSE_MS_MIN);
                } else {
                    self.0 = State::Closed {
                        failures: failures + 1,
                    };
                }
            }
            (State::HalfOpen { .. }, Admit::Probe, Outcome::Success) => *self = Self::default(),
            (State::HalfOpen { pause_ms, .. }, Admit::Probe, Outcome::Failure) => {
                self.open(now_ms, pause_ms.saturating_mul(2));
            }
            _ => {}
        }
    }

    /// Whether calls pass.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        matches!(self.0, State::Closed { .. })
    }

    fn open(&mut self, now_ms: u64, pause_ms: u64) {
        let pause_ms = pause_ms.min(Self::PAUSE_MS_MAX);
        self.0 = State::Open {
            until_ms: now_ms.saturating_add(pause_ms),
            pause_ms,
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fail(breaker: &mut Breaker, now_ms: u64) {
        let was = breaker.admit(now_ms);
        breaker.record(now_ms, was, Outcome::Failure);
    }

    fn opened() -> Breaker {
        let mut breaker = Breaker::default();
        for _ in 0..Breaker::FAILURES_MAX {
            fail(&mut breaker, 0);
        }
        breaker
    }

    #[test]
    fn five_failures_in_a_row_open_it_and_four_do_not() {
        let mut breaker = Breaker::default();
        for _ in 0..3 {
            for _ in 0..Breaker::FAILURES_MAX - 1 {
                fail(&mut breaker, 0);
            }
            assert_eq!(breaker.admit(0), Admit::Pass);
            breaker.record(0, Admit::Pass, Outcome::Success);
        }
        assert!(breaker.is_closed());
        let mut breaker = opened();
        assert_eq!(
            breaker.admit(1),
            Admit::Refuse {
                retry_after_ms: 999
            }
        );
    }

    #[test]
    fn one_probe_passes_and_decides() {
        let mut breaker = opened();
        assert_eq!(breaker.admit(1000), Admit::Probe);
        for now in 1000..1100 {
            assert!(matches!(breaker.admit(now), Admit::Refuse { .. }));
        }
        // Calls from before it opened come home late.
        breaker.record(1100, Admit::Pass, Outcome::Success);
        assert!(!breaker.is_closed());
        breaker.record(1100, Admit::Probe, Outcome::Success);
        assert_eq!(breaker.admit(1100), Admit::Pass);
    }

    #[test]
    fn pauses_double_to_a_limit_while_probes_fail() {
        let mut breaker = opened();
        let (mut now, mut pauses) = (0, Vec::new());
        for _ in 0..8 {
            if let Admit::Refuse { retry_after_ms } = breaker.admit(now) {
                pauses.push(retry_after_ms);
                now += retry_after_ms;
            }
            assert_eq!(breaker.admit(now), Admit::Probe);
            breaker.record(now, Admit::Probe, Outcome::Failure);
        }
        let expected = [1000, 2000, 4000, 8000, 16_000, 30_000, 30_000, 30_000];
        assert_eq!(pauses, expected);
    }

    #[test]
    fn a_probe_that_never_reports_counts_as_failed() {
        let mut breaker = opened();
        assert_eq!(breaker.admit(1000), Admit::Probe);
        let later = 1000 + Breaker::PROBE_MS_MAX;
        assert_eq!(
            breaker.admit(later),
            Admit::Refuse {
                retry_after_ms: 2000
            }
        );
        assert_eq!(breaker.admit(later + 2000), Admit::Probe);
    }
}
