//! Commands about reasons: why the machine began and its services restarted, and what the watchdog says.

use super::{Command, Completes, DONE, Failure, Group, Out, Outcome};
use crate::console::context::{Context, Site};
use crate::console::text;
use crate::console::words::{Words, number};
use serde_json::{Map, Value, json};
use wire::why::{Pressure, PressureGet, Reason, Watchdog, WatchdogGet, Why, WhyGet};

/// Records of `why` at most: what PID 1 keeps is less.
const RECORDS_MAX: u64 = 64;
/// Where the facts of a record begin.
const INDENT: &str = "            ";

/// The rows of this group.
pub const COMMANDS: &[Command] = &[
    Command {
        name: "why",
        alias: "",
        group: Group::Machine,
        usage: "[N|SVC|init|machine]",
        help: "Why the machine began, and why services and PID 1 restarted. The newest N records, or \
               those about one service, about PID 1 (init) or the machine; without a word all that \
               PID 1 keeps. The ledger has the same as events service_exited and machine_why.",
        completes: &[Completes::Service],
        changes: false,
        run: why,
    },
    Command {
        name: "watchdog",
        alias: "",
        group: Group::Machine,
        usage: "",
        help: "The hardware watchdog. Driver, after how long it bites, what is left, what it says of the \
               last boot, and how often PID 1 fed it.",
        completes: &[],
        changes: false,
        run: watchdog,
    },
];

fn why(words: &[String], context: &mut Context<'_>, out: &mut Out<'_>) -> Outcome {
    let words = Words::parse(words, &[], &[], 1)?;
    let (subject, most) = match words.argument(0) {
        None => ("", RECORDS_MAX),
        Some(text) if text.bytes().all(|b| b.is_ascii_digit()) => {
            ("", number("N", text, 1, RECORDS_MAX)?)
        }
        Some(name) => (name, RECORDS_MAX),
    };
    let (mut values, mut lines) = (Vec::new(), Vec::new());
    context.init()?.list(&WhyGet { subject }, |frame| {
        let record = frame.body::<Why<'_>>()?;
        if (values.len() as u64) < most {
            let facts: Map<String, Value> = serde_json::from_str(record.facts).unwrap_or_default();
            lines.extend(shown(&record, &facts));
            values.push(json!({
                "number": record.number, "at_ns": record.at_ns, "reason": record.reason.as_str(),
                "says": sentence(&record, &facts), "subject": record.subject, "facts": facts,
            }));
        }
        Ok(())
    })?;
    if lines.is_empty() {
        lines.push(match subject {
            "" => "nothing is known yet".to_owned(),
            name => format!("nothing is kept about {name}"),
        });
    }
    out.either(&json!({ "why": values }), &lines)?;
    Ok(DONE)
}

/// One record for people: who and the sentence, then the facts.
fn shown(record: &Why<'_>, facts: &Map<String, Value>) -> Vec<String> {
    let who = match (record.number, record.subject) {
        (0, _) => "boot",
        (_, name) => name,
    };
    let when = match record.at_ns {
        0 => String::new(),
        ns => format!(" at {}", text::age(ns)),
    };
    let mut lines = vec![format!("{who:<10}  {}{when}", sentence(record, facts))];
    let mut words = Vec::new();
    for (key, value) in facts {
        words.push(match value {
            Value::String(text) if text.contains(' ') || text.is_empty() => {
                format!("{key}={value}")
            }
            Value::String(text) => format!("{key}={text}"),
            other => format!("{key}={other}"),
        });
    }
    lines.extend(text::wrap(
        &words.join(" "),
        text::WIDTH - INDENT.len(),
        INDENT,
    ));
    lines
}

/// The sentence that a person understands first.
fn sentence(record: &Why<'_>, facts: &Map<String, Value>) -> String {
    let text = |key: &str| facts.get(key).and_then(Value::as_str).unwrap_or_default();
    let says = record.reason.says();
    match record.reason {
        Reason::FirstBoot => format!("first boot: {says}"),
        Reason::Reboot | Reason::Poweroff | Reason::Halt => {
            let asked = Reason::named(text("asked")).map_or("", Reason::says);
            let parts = [says, asked, text("actor")];
            let parts: Vec<&str> = parts.into_iter().filter(|p| !p.is_empty()).collect();
            format!("clean stop: {}", parts.join(", "))
        }
        Reason::UncleanStop => {
            let last = match (facts.get("last_event"), text("last_event_type")) {
                (Some(id), kind) => format!(", last event {id} {kind}"),
                (None, _) => String::new(),
            };
            format!("unclean stop: no end was recorded{last}")
        }
        Reason::WatchdogReset => format!("watchdog: {says}"),
        Reason::KernelPanic => format!("kernel panic: {says}"),
        Reason::Unknown => match text("note") {
            "" => says.to_owned(),
            note => format!("{says}: {note}"),
        },
        _ => match text("cause") {
            "" => says.to_owned(),
            cause => format!("{says}: {cause}"),
        },
    }
}

fn watchdog(words: &[String], context: &mut Context<'_>, out: &mut Out<'_>) -> Outcome {
    Words::parse(words, &[], &[], 0)?;
    let (value, lines) = context.init()?.ask(&WatchdogGet, |frame| {
        frame.body::<Watchdog<'_>>().map(|w| {
            let value = json!({
                "driver": w.driver, "software": w.software, "armed": w.armed,
                "timeout_s": w.timeout_s, "left_s": w.left_s, "boot_status": w.boot_status,
                "reset_by_watchdog": resets(w.boot_status), "fed": w.fed, "held_back": w.held_back,
            });
            (value, watchdog_lines(&w))
        })
    })?;
    out.either(&value, &lines)?;
    Ok(DONE)
}

/// Who has waited for memory or lost processes for want of it since boot, one phrase each.
pub fn pressure(site: &Site) -> Result<Vec<String>, Failure> {
    let mut phrases = Vec::new();
    site.init()?.list(&PressureGet, |frame| {
        let p = frame.body::<Pressure<'_>>()?;
        let mut parts = Vec::new();
        if p.stalls > 0 {
            let ago = text::age(p.stalled_ago_ns);
            parts.push(format!("short of memory {} s, last {ago} ago", p.stalls));
        }
        if p.oom_kills > 0 {
            parts.push(format!("{} killed for want of it", p.oom_kills));
        }
        if !parts.is_empty() {
            phrases.push(format!("{} {}", p.subject, parts.join(", ")));
        }
        Ok(())
    })?;
    Ok(phrases)
}

/// WDIOF_CARDRESET of the kernel's watchdog API.
fn resets(boot_status: u32) -> bool {
    boot_status & 0x20 != 0
}

fn watchdog_lines(w: &Watchdog<'_>) -> Vec<String> {
    let driver = match (w.driver, w.software) {
        ("", _) => "none".to_owned(),
        (name, true) => format!("{name} (software: a hung kernel takes it along)"),
        (name, false) => name.to_owned(),
    };
    let state = if w.armed { "armed" } else { "not armed" };
    let mut rows = vec![("driver", driver), ("state", state.to_owned())];
    if w.armed {
        let left = match w.left_s {
            Some(seconds) => format!("{seconds} s"),
            None => "not told by the driver".to_owned(),
        };
        let last = match (resets(w.boot_status), w.boot_status) {
            (true, bits) => format!("reset by the watchdog ({bits:#x})"),
            (false, 0) => "nothing to tell".to_owned(),
            (false, bits) => format!("{bits:#x}"),
        };
        rows.extend([
            ("bites", format!("after {} s without food", w.timeout_s)),
            ("left", left),
            ("last boot", last),
            ("fed", format!("{} times, held back {}", w.fed, w.held_back)),
        ]);
    }
    text::pairs(&rows)
}
