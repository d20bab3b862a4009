//! The health gate: when a machine that does not do its work is restarted, and when that is over.
//!
//! Pure. The limits are the manifest's `[health]`; how often the gate restarted the machine before comes from the end
//! that the log recorded of the last boot. Start with [`judge`].

use rts::manifest::Health;
use std::fmt;

const S: u64 = 1_000_000_000;

/// How the machine stands.
#[derive(Debug, Clone, Copy)]
pub struct Standing<'a> {
    /// Since the handoff.
    pub up_ns: u64,
    /// It was ready once.
    pub ready_once: bool,
    /// Which of the watched services has been failing for longest, and for how long.
    pub failing: Option<(&'a str, u64)>,
    /// How often in a row the gate restarted the machine before this boot; `None` where no log says it.
    pub reboots_before: Option<u8>,
}

/// What is wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ill<'a> {
    /// Not ready in time.
    NotReady {
        /// The limit.
        limit_s: u32,
    },
    /// A core service keeps failing.
    Failing {
        /// Which one.
        service: &'a str,
        /// The limit.
        limit_s: u32,
    },
}

impl fmt::Display for Ill<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotReady { limit_s } => write!(f, "health: not ready after {limit_s} s"),
            Self::Failing { service, limit_s } => {
                write!(f, "health: service {service} keeps failing for {limit_s} s")
            }
        }
    }
}

/// What is to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict<'a> {
    /// Nothing.
    Well,
    /// Restart the machine, for the nth time in a row.
    Reboot(Ill<'a>, u8),
    /// Restarting has not helped, or nobody can say how often it was tried: what `vb.emergency` says.
    Emergency(Ill<'a>),
}

/// Judges the machine; the same standing always gives the same verdict.
#[must_use]
pub fn judge<'a>(health: &Health, standing: &Standing<'a>) -> Verdict<'a> {
    let over = |limit_s: u32, ns: u64| limit_s > 0 && ns >= u64::from(limit_s) * S;
    let late = !standing.ready_once && over(health.ready_s, standing.up_ns);
    let failing = standing
        .failing
        .filter(|(_, ns)| over(health.failed_s, *ns));
    let ill = match failing {
        Some((service, _)) => Ill::Failing {
            service,
            limit_s: health.failed_s,
        },
        None if late => Ill::NotReady {
            limit_s: health.ready_s,
        },
        None => return Verdict::Well,
    };
    match standing.reboots_before {
        Some(before) if before < health.reboots_max => Verdict::Reboot(ill, before + 1),
        _ => Verdict::Emergency(ill),
    }
}

/// How many restarts of the gate in a row the recorded end of a boot stands for: none where the gate had no part in it.
#[must_use]
pub fn reboots_of(stopping: &str) -> u8 {
    let behind = stopping.split_once("\"health\":").map(|(_, rest)| rest);
    let digits = behind.and_then(|rest| rest.split(|c: char| !c.is_ascii_digit()).next());
    // A number that no gate wrote is more than any limit.
    digits.map_or(0, |digits| digits.parse().unwrap_or(u8::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn health(ready_s: u32, failed_s: u32) -> Health {
        Health {
            ready_s,
            failed_s,
            reboots_max: 2,
            ..Health::default()
        }
    }

    const STANDING: Standing<'_> = Standing {
        up_ns: 0,
        ready_once: false,
        failing: None,
        reboots_before: Some(0),
    };

    #[test]
    fn without_limits_nothing_is_ill() {
        let worst = Standing {
            up_ns: u64::MAX,
            failing: Some(("a", u64::MAX)),
            ..STANDING
        };
        assert_eq!(judge(&health(0, 0), &worst), Verdict::Well);
    }

    #[test]
    fn each_limit_counts_from_its_own_second() {
        let at = |up_s: u64, ready_once, failing_s: u64| Standing {
            up_ns: up_s * S,
            ready_once,
            failing: Some(("a", failing_s * S)),
            ..STANDING
        };
        let limits = health(60, 30);
        assert_eq!(judge(&limits, &at(59, false, 29)), Verdict::Well);
        let late = Ill::NotReady { limit_s: 60 };
        assert_eq!(judge(&limits, &at(60, false, 29)), Verdict::Reboot(late, 1));
        assert_eq!(judge(&limits, &at(6000, true, 29)), Verdict::Well);
        let failing = Ill::Failing {
            service: "a",
            limit_s: 30,
        };
        assert_eq!(
            judge(&limits, &at(6000, true, 30)),
            Verdict::Reboot(failing, 1)
        );
        assert_eq!(
            failing.to_string(),
            "health: service a keeps failing for 30 s"
        );
    }

    /// A machine that never gets well, boot after boot: as many restarts as the manifest allows, then emergency.
    #[test]
    fn the_row_of_restarts_ends() {
        let mut recorded = String::from("{\"how\":\"reboot\",\"reason\":\"command\"}");
        let mut restarts = 0;
        loop {
            let standing = Standing {
                up_ns: 60 * S,
                reboots_before: Some(reboots_of(&recorded)),
                ..STANDING
            };
            match judge(&health(60, 0), &standing) {
                Verdict::Reboot(_, count) => {
                    restarts += 1;
                    recorded = format!("{{\"how\":\"reboot\",\"health\":{count}}}");
                }
                Verdict::Emergency(_) => break,
                Verdict::Well => unreachable!("sixty seconds are over"),
            }
        }
        assert_eq!(restarts, 2);
    }

    #[test]
    fn a_row_that_nobody_knows_is_not_begun() {
        let unknown = Standing {
            up_ns: 60 * S,
            reboots_before: None,
            ..STANDING
        };
        assert!(matches!(
            judge(&health(60, 0), &unknown),
            Verdict::Emergency(_)
        ));
        for (text, count) in [
            ("", 0),
            ("{}", 0),
            ("\"health\":3}", 3),
            ("\"health\":", 255),
            ("\"health\":999", 255),
        ] {
            assert_eq!(reboots_of(text), count, "{text}");
        }
    }
}
