//! The post-mortem: what is known of the end of a service's process, put together before it is started again.
//!
//! Pure. The dead process is still there as a zombie while this is done, so that a crash of PID 1 in between
//! loses nothing. Start with [`reason`] and [`facts`].

use crate::cgroup::Counts;
use crate::state::Fixed;
use crate::supervisor::Cause;
use crate::why::Facts;
use sys::process::{Exit, Reaped};
use wire::why::Reason;

/// Log lines that are kept with the record.
pub const LINES_MAX: usize = 3;
/// Bytes of its last status that are kept; the rest of the record is worth more.
const STATUS_BYTES_MAX: usize = 48;

/// What is known of one end.
#[derive(Debug, Clone, Copy)]
pub struct Traces<'a> {
    /// How the process ended.
    pub reaped: &'a Reaped,
    /// How long it ran.
    pub ran_ns: u64,
    /// Why PID 1 killed it, if it did.
    pub verdict: Option<Cause>,
    /// It was told to stop.
    pub asked: bool,
    /// What its cgroup counted while it ran; `None` where nobody looked.
    pub counts: Option<&'a Counts>,
    /// What it last said with `STATUS=`.
    pub status: &'a str,
    /// The last lines that it wrote, the newest first.
    pub lines: [&'a str; LINES_MAX],
}

/// The one reason that explains the end best.
#[must_use]
pub fn reason(traces: &Traces<'_>) -> Reason {
    const SIGKILL: i32 = 9;
    let ran_out = traces.counts.is_some_and(|c| c.oom_kills > 0);
    match (traces.verdict, traces.reaped.exit) {
        (Some(Cause::StartTimeout), _) => Reason::StartTimeout,
        (Some(Cause::StopTimeout), _) => Reason::StopTimeout,
        (Some(Cause::Watchdog), _) => Reason::WatchdogTimeout,
        (None, Exit::Signal(SIGKILL)) if ran_out => Reason::OutOfMemory,
        (None, _) if traces.asked => Reason::Stopped,
        (None, Exit::Signal(_)) => Reason::Signal,
        (None, Exit::Code(_)) => Reason::Exit,
    }
}

/// Everything that fits, the most telling first.
#[must_use]
pub fn facts(traces: &Traces<'_>) -> Facts {
    let mut facts = Facts::new();
    facts.text(
        "cause",
        Fixed::<48>::of(format_args!("{}", traces.reaped.exit)).as_str(),
    );
    facts.count("pid", u64::from(traces.reaped.pid.unsigned_abs()));
    facts.add("ran_ms", format_args!("{}", traces.ran_ns / 1_000_000));
    if let Some(usage) = traces.reaped.usage {
        facts.add("user_us", format_args!("{}", usage.user_us));
        facts.add("system_us", format_args!("{}", usage.system_us));
        facts.count("peak_kib", usage.peak_kib);
    }
    if let Some(counts) = traces.counts {
        facts.count("oom_kill", counts.oom_kills);
        facts.count("at_memory_max", counts.at_limit);
        facts.count("at_pids_max", counts.pids_at_limit);
        facts.count("cgroup_peak_kib", counts.peak_bytes / 1024);
        if counts.stalled_avg10 > 0 {
            let (whole, rest) = (counts.stalled_avg10 / 100, counts.stalled_avg10 % 100);
            facts.add("memory_stalled_avg10", format_args!("{whole}.{rest:02}"));
        }
    }
    let status = Fixed::<STATUS_BYTES_MAX>::of(format_args!("{}", traces.status));
    facts.text("status", status.as_str());
    // The newest line first: what does not fit is the oldest.
    for (key, line) in ["said", "said_before", "said_first"]
        .iter()
        .zip(traces.lines)
    {
        facts.text(key, line);
    }
    facts
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use sys::process::Usage;

    fn reaped(exit: Exit) -> Reaped {
        Reaped {
            pid: 42,
            exit,
            usage: Some(Usage {
                user_us: 100,
                system_us: 200,
                peak_kib: 300,
            }),
        }
    }

    fn of(reaped: &Reaped) -> Traces<'_> {
        Traces {
            reaped,
            ran_ns: 4_200_000_000,
            verdict: None,
            asked: false,
            counts: None,
            status: "",
            lines: [""; LINES_MAX],
        }
    }

    #[test]
    fn each_end_has_the_reason_that_explains_it() {
        let (killed, left) = (reaped(Exit::Signal(9)), reaped(Exit::Code(3)));
        let ran_out = Counts {
            oom_kills: 2,
            ..Counts::default()
        };
        assert_eq!(reason(&of(&killed)), Reason::Signal);
        assert_eq!(reason(&of(&left)), Reason::Exit);
        let counts = Some(&ran_out);
        assert_eq!(
            reason(&Traces {
                counts,
                ..of(&killed)
            }),
            Reason::OutOfMemory
        );
        // A child of it was killed, it itself ended by its own will.
        assert_eq!(
            reason(&Traces {
                counts,
                ..of(&left)
            }),
            Reason::Exit
        );
        let asked = Traces {
            asked: true,
            ..of(&killed)
        };
        assert_eq!(reason(&asked), Reason::Stopped);
        let verdict = Some(Cause::StopTimeout);
        assert_eq!(reason(&Traces { verdict, ..asked }), Reason::StopTimeout);
        let verdict = Some(Cause::Watchdog);
        assert_eq!(
            reason(&Traces {
                verdict,
                ..of(&killed)
            }),
            Reason::WatchdogTimeout
        );
        let verdict = Some(Cause::StartTimeout);
        assert_eq!(
            reason(&Traces {
                verdict,
                ..of(&killed)
            }),
            Reason::StartTimeout
        );
    }

    #[test]
    fn the_record_holds_what_is_known_and_nothing_else() {
        let ended = reaped(Exit::Signal(9));
        let counts = Counts {
            oom_kills: 1,
            at_limit: 17,
            peak_bytes: 8 << 20,
            stalled_avg10: 1205,
            ..Counts::default()
        };
        let traces = Traces {
            counts: Some(&counts),
            status: "busy",
            lines: ["one last \"word\"", "", ""],
            ..of(&ended)
        };
        assert_eq!(
            facts(&traces).as_str(),
            concat!(
                "{\"cause\":\"signal KILL (9)\",\"pid\":42,\"ran_ms\":4200,\"user_us\":100,\"system_us\":200,",
                "\"peak_kib\":300,\"oom_kill\":1,\"at_memory_max\":17,\"cgroup_peak_kib\":8192,",
                "\"memory_stalled_avg10\":12.05,\"status\":\"busy\",\"said\":\"one last \\\"word\\\"\"}"
            )
        );
        let bare = Reaped {
            usage: None,
            ..ended
        };
        assert_eq!(
            facts(&of(&bare)).as_str(),
            "{\"cause\":\"signal KILL (9)\",\"pid\":42,\"ran_ms\":4200}"
        );
    }

    proptest! {
        #[test]
        fn whatever_a_service_wrote_the_numbers_are_there(said in "\\PC{0,300}", status in "\\PC{0,200}") {
            let ended = reaped(Exit::Code(1));
            let traces = Traces { status: &status, lines: [&said; LINES_MAX], ..of(&ended) };
            let facts = facts(&traces);
            let numbers = "{\"cause\":\"exit code 1\",\"pid\":42,\"ran_ms\":4200,";
            prop_assert!(facts.as_str().starts_with(numbers), "{}", facts.as_str());
            prop_assert!(facts.as_str().len() <= crate::why::FACTS_BYTES_MAX);
        }
    }
}
