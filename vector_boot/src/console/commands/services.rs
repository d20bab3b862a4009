//! Commands about what PID 1 supervises: states, starts and stops, signals, output.

use super::{Command, Completes, DONE, FAILED, Failure, Group, Out, Outcome};
use crate::console::context::{Context, Server, Site};
use crate::console::text::{self, Table};
use crate::console::words::Words;
use serde_json::{Value, json};
use std::time::{Duration, Instant};
use wire::control::{Control, LogGet, LogLine, Service, ServiceState, ServicesGet, Verb};

/// Lines of `log` when not told: a screen with its table's rest.
const LOG_LINES_DEFAULT: u64 = 20;
/// Lines of `log` at most: what PID 1's ring holds is less.
const LOG_LINES_MAX: u64 = 10_000;
/// Between two looks of a follower: two beats.
pub const FOLLOW_STEP: Duration = Duration::from_millis(200);
/// Longest time that `--for` takes.
pub const FOLLOW_S_MAX: u64 = 3600;
/// Highest signal number of Linux.
const SIGNAL_MAX: u8 = 64;

/// Signals by name; numbers are those of x86_64 and aarch64.
const SIGNALS: &[(&str, u8)] = &[
    ("HUP", 1),
    ("INT", 2),
    ("QUIT", 3),
    ("ILL", 4),
    ("TRAP", 5),
    ("ABRT", 6),
    ("BUS", 7),
    ("FPE", 8),
    ("KILL", 9),
    ("USR1", 10),
    ("SEGV", 11),
    ("USR2", 12),
    ("PIPE", 13),
    ("ALRM", 14),
    ("TERM", 15),
    ("CHLD", 17),
    ("CONT", 18),
    ("STOP", 19),
    ("TSTP", 20),
];
const SIGNAL_WORDS: &[&str] = &[
    "KILL", "TERM", "SEGV", "STOP", "CONT", "HUP", "INT", "QUIT", "ABRT", "BUS", "FPE", "ILL",
    "USR1", "USR2",
];

/// The rows of this group.
pub const COMMANDS: &[Command] = &[
    Command {
        name: "services",
        alias: "",
        group: Group::Services,
        usage: "",
        help: "The supervised services. READY is how long the service took from its start; the note is \
               what it last said, or how its last process ended.",
        completes: &[],
        changes: false,
        run: services,
    },
    Command {
        name: "start",
        alias: "",
        group: Group::Services,
        usage: "SVC",
        help: "Starts a service that is stopped or failed.",
        completes: &[Completes::Service],
        changes: true,
        run: |words, context, out| control(words, context, out, "start", Verb::Start),
    },
    Command {
        name: "stop",
        alias: "",
        group: Group::Services,
        usage: "SVC",
        help: "Stops a service and keeps it stopped.",
        completes: &[Completes::Service],
        changes: true,
        run: |words, context, out| control(words, context, out, "stop", Verb::Stop),
    },
    Command {
        name: "restart",
        alias: "",
        group: Group::Services,
        usage: "SVC",
        help: "Stops a service and starts it again.",
        completes: &[Completes::Service],
        changes: true,
        run: |words, context, out| control(words, context, out, "restart", Verb::Restart),
    },
    Command {
        name: "signal",
        alias: "",
        group: Group::Services,
        usage: "SVC|init NAME|NUMBER",
        help: "Sends a service, or PID 1 itself, a signal. A drill: the serial console asks first, and \
               the ledger keeps it. Names as KILL, TERM, SEGV; numbers from 1 to 64.",
        completes: &[Completes::Service, Completes::Words(SIGNAL_WORDS)],
        changes: true,
        run: signal,
    },
    Command {
        name: "log",
        alias: "",
        group: Group::Services,
        usage: "[SVC] [-n N] [-f] [--for SECONDS]",
        help: "What the services and PID 1 (init) wrote. The newest N lines (20), times since boot. \
               With -f also what follows, until a key is pressed; the machine console ends at its next \
               line or after 10 s.",
        completes: &[Completes::Service],
        changes: false,
        run: log,
    },
];

/// The state's word.
pub fn state_name(state: ServiceState) -> &'static str {
    match state {
        ServiceState::Waiting => "waiting",
        ServiceState::Starting => "starting",
        ServiceState::Up => "up",
        ServiceState::Stopping => "stopping",
        ServiceState::Stopped => "stopped",
        ServiceState::Backoff => "backoff",
        ServiceState::Failed => "failed",
    }
}

fn services(words: &[String], context: &mut Context<'_>, out: &mut Out<'_>) -> Outcome {
    Words::parse(words, &[], &[], 0)?;
    let mut values = Vec::new();
    let mut table = Table::new(&[
        "SERVICE", "STATE", ">PID", ">STARTS", "UP", ">READY", ">MEMORY", "NOTE",
    ]);
    context.init()?.list(&ServicesGet, |frame| {
        let s = frame.body::<Service<'_>>()?;
        values.push(json!({
            "name": s.name, "state": state_name(s.state), "pid": s.pid, "uid": s.uid,
            "restarts": s.restarts, "uptime_ns": s.uptime_ns, "ready_ns": s.ready_ns,
            "memory_bytes": s.memory_bytes, "last_exit": s.last_exit, "status": s.status,
            "backoff_ns": s.backoff_ns, "confined": s.confined,
        }));
        let known =
            |n: u64, shown: fn(u64) -> String| if n == 0 { "-".to_owned() } else { shown(n) };
        table.row([
            s.name.to_owned(),
            state_name(s.state).to_owned(),
            known(s.pid.into(), |n| n.to_string()),
            s.restarts.saturating_add(u32::from(s.pid != 0)).to_string(),
            known(s.uptime_ns, text::age),
            known(s.ready_ns, text::span),
            known(s.memory_bytes, text::bytes),
            note(&s),
        ]);
        Ok(())
    })?;
    out.either(&json!({ "services": values }), &table.lines())?;
    Ok(DONE)
}

/// What of a service is worth a word: its way back, what it says, how it ended.
fn note(s: &Service<'_>) -> String {
    let again = match s.backoff_ns {
        0 => String::new(),
        ns => format!("again in {}", text::age(ns)),
    };
    let ended = match s.last_exit {
        "" => String::new(),
        how => format!("last: {how}"),
    };
    let free = if s.confined { "" } else { "unconfined" };
    let parts = [free, again.as_str(), s.status, ended.as_str()];
    let parts: Vec<&str> = parts.into_iter().filter(|p| !p.is_empty()).collect();
    parts.join("; ")
}

fn control(
    words: &[String],
    context: &mut Context<'_>,
    out: &mut Out<'_>,
    word: &'static str,
    verb: Verb,
) -> Outcome {
    let words = Words::parse(words, &[], &[], 1)?;
    let name = words.required(0, "SVC")?;
    act(context, verb, name)?;
    out.either(
        &json!({"begun": word, "service": name}),
        &[format!("{word} {name}: begun")],
    )?;
    Ok(DONE)
}

fn act(site: &Site, verb: Verb, name: &str) -> Result<(), Failure> {
    if name.len() > wire::NAME_BYTES_MAX {
        let limit = wire::NAME_BYTES_MAX;
        return Err(Failure::usage(format!(
            "SVC is {} bytes, at most {limit}",
            name.len()
        )));
    }
    site.init()?.act(&Control { verb, name })
}

fn signal(words: &[String], context: &mut Context<'_>, out: &mut Out<'_>) -> Outcome {
    let words = Words::parse(words, &[], &[], 2)?;
    let name = words.required(0, "SVC")?;
    let number = signal_number(words.required(1, "signal")?)?;
    let shown = SIGNALS
        .iter()
        .find(|(_, n)| *n == number)
        .map_or("signal", |(n, _)| n);
    if !context
        .attention
        .confirm(&format!("send {shown} ({number}) to {name}?"))
    {
        out.either(&json!({"sent": false}), &["not sent".to_owned()])?;
        return Ok(FAILED);
    }
    act(context, Verb::Signal(number), name)?;
    let value = json!({"sent": true, "service": name, "signal": number});
    out.either(&value, &[format!("sent {shown} ({number}) to {name}")])?;
    Ok(DONE)
}

/// Reads `KILL`, `SIGKILL`, `kill` or `9`.
fn signal_number(text: &str) -> Result<u8, Failure> {
    let upper = text.to_ascii_uppercase();
    let bare = upper.strip_prefix("SIG").unwrap_or(&upper);
    let named = SIGNALS
        .iter()
        .find(|(name, _)| *name == bare)
        .map(|(_, n)| *n);
    let number = || text.parse().ok().filter(|n| (1..=SIGNAL_MAX).contains(n));
    named.or_else(number).ok_or_else(|| {
        Failure::usage(format!(
            "signal is \"{text}\", a name as TERM or a number from 1 to {SIGNAL_MAX}"
        ))
    })
}

fn log(words: &[String], context: &mut Context<'_>, out: &mut Out<'_>) -> Outcome {
    let words = Words::parse(words, &["-f"], &["-n", "--for"], 1)?;
    let lines = words.number("-n", LOG_LINES_DEFAULT, 0, LOG_LINES_MAX)?;
    // At most LOG_LINES_MAX, so it fits.
    let lines = u32::try_from(lines).unwrap_or(u32::MAX);
    let name = words.argument(0).unwrap_or_default();
    let mut server = context.init()?;
    let (found, mut last) = log_lines(&mut server, name, lines, 0)?;
    let follow = words.flag("-f") || words.value("--for").is_some();
    if out.is_json() && !follow {
        let values: Vec<Value> = found.into_iter().map(|(value, _)| value).collect();
        out.value(&json!({ "lines": values }))?;
        return Ok(DONE);
    }
    show(&found, out)?;
    if !follow {
        return Ok(DONE);
    }
    let until = follow_until(&words, context)?;
    while until.is_none_or(|until| Instant::now() < until) && !context.attention.wait(FOLLOW_STEP) {
        let (found, seen) = log_lines(&mut server, name, u32::MAX, last)?;
        last = last.max(seen);
        show(&found, out)?;
        out.flush()?;
    }
    Ok(DONE)
}

/// When a follower ends by itself; `None` for never.
pub fn follow_until(words: &Words, context: &Context<'_>) -> Result<Option<Instant>, Failure> {
    let limit = match words.value("--for") {
        Some(_) => Duration::from_secs(words.number("--for", 0, 0, FOLLOW_S_MAX)?),
        None => context.attention.follow_limit(),
    };
    Ok(Instant::now().checked_add(limit))
}

fn show(found: &[(Value, String)], out: &mut Out<'_>) -> Result<(), Failure> {
    for (value, line) in found {
        out.either(value, std::slice::from_ref(line))?;
    }
    Ok(())
}

/// A log line as JSON and for people, and the sequence number of the last one.
type LogLines = (Vec<(Value, String)>, u64);

fn log_lines(server: &mut Server, name: &str, lines: u32, after: u64) -> Result<LogLines, Failure> {
    let mut found = Vec::new();
    let mut last = after;
    server.list(&LogGet { name, lines, after }, |frame| {
        let l = frame.body::<LogLine<'_>>()?;
        last = last.max(l.seq);
        let value = json!({
            "seq": l.seq, "at_ns": l.at_ns, "name": l.name, "level": level_name(l.level), "text": l.text,
        });
        found.push((value, log_line(&l)));
        Ok(())
    })?;
    Ok((found, last))
}

/// `[   12.345] gateway: text`, with a mark from warnings up.
pub fn log_line(l: &LogLine<'_>) -> String {
    let mark = match l.level {
        0..=3 => "ERROR ",
        4 => "WARNING ",
        _ => "",
    };
    let ms = l.at_ns / 1_000_000;
    format!(
        "[{:>5}.{:03}] {}: {mark}{}",
        ms / 1000,
        ms % 1000,
        l.name,
        l.text
    )
}

fn level_name(level: u8) -> &'static str {
    match level {
        0..=3 => "error",
        4 => "warning",
        5 => "notice",
        6 => "info",
        _ => "debug",
    }
}

/// Names of the services, for completion.
pub fn names(site: &Site) -> Vec<String> {
    let mut found = Vec::new();
    let asked = site.init().and_then(|mut server| {
        server.list(&ServicesGet, |frame| {
            found.push(frame.body::<Service<'_>>()?.name.to_owned());
            Ok(())
        })
    });
    // Completion without PID 1 has nothing to offer, and says nothing.
    asked.map_or_else(|_| Vec::new(), |()| found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_are_read_by_name_and_number() {
        for text in ["KILL", "kill", "SIGKILL", "9"] {
            assert_eq!(signal_number(text).unwrap(), 9, "{text}");
        }
        assert_eq!(signal_number("64").unwrap(), 64);
        for text in ["0", "65", "-1", "SIG", "", "KILLL", "9x"] {
            assert!(
                matches!(signal_number(text), Err(Failure::Usage(_))),
                "{text}"
            );
        }
        for word in SIGNAL_WORDS {
            assert!(signal_number(word).is_ok());
        }
    }

    #[test]
    fn a_log_line_is_readable_and_marked() {
        let line = |level| LogLine {
            seq: 1,
            at_ns: 12_345_678_901,
            name: "net",
            level,
            text: "eth0 down",
        };
        assert_eq!(log_line(&line(6)), "[   12.345] net: eth0 down");
        assert_eq!(log_line(&line(4)), "[   12.345] net: WARNING eth0 down");
        assert_eq!(log_line(&line(3)), "[   12.345] net: ERROR eth0 down");
    }
}
