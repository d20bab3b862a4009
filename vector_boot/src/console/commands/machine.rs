//! Commands about the machine as a whole: its state, its heartbeat, its boot, its end.

use super::{Command, DONE, FAILED, Failure, Group, Out, Outcome};
use crate::console::context::{Context, Site};
use crate::console::text::{self, Table};
use crate::console::words::{Words, number};
use serde_json::{Value, json};
use std::time::{Duration, Instant};
use wire::control::{
    Beat, BeatGet, BootGet, LATENESS_BUCKETS, MachineState, Param, ParamsGet, Phase, Power,
    Service, ServiceState, ServicesGet, Status, StatusGet,
};

/// How long `ready` waits when not told: an emulated machine takes under half of it.
const READY_S_DEFAULT: u64 = 120;
/// Longest wait that `ready` takes.
const READY_S_MAX: u64 = 3600;
/// Between two looks of `ready`: two beats.
const READY_STEP: Duration = Duration::from_millis(200);
/// Looks in a row that must find the machine degraded with nothing under way.
const SETTLED_LOOKS: u32 = 3;
/// Width of the chart of `boot`.
const CHART_WIDTH: u64 = 24;
/// Width of the bars of `beat`.
const BAR_WIDTH: usize = 40;

/// The rows of this group.
pub const COMMANDS: &[Command] = &[
    Command {
        name: "status",
        alias: "",
        group: Group::Machine,
        usage: "",
        help: "How the machine is, and why. State, package, model, services, heartbeat, watchdog. \
               A machine in state degraded works, but something named is missing or failed.",
        completes: &[],
        changes: false,
        run: status,
    },
    Command {
        name: "ready",
        alias: "",
        group: Group::Machine,
        usage: "[SECONDS]",
        help: "Waits until every service is up. Exit code 0 when all of them are; 1 when the machine \
               has settled as degraded or the time (120 s) is over, and says why.",
        completes: &[],
        changes: false,
        run: ready,
    },
    Command {
        name: "beat",
        alias: "",
        group: Group::Machine,
        usage: "",
        help: "The heartbeat's record. A beat is missed when its own CPU time exceeded the period; \
               coalesced ones were due while the whole machine stood still. Lateness is how long after \
               its due time a beat began.",
        completes: &[],
        changes: false,
        run: beat,
    },
    Command {
        name: "boot",
        alias: "",
        group: Group::Machine,
        usage: "",
        help: "The phases of this boot. Times count from the kernel's handoff to PID 1.",
        completes: &[],
        changes: false,
        run: boot,
    },
    Command {
        name: "params",
        alias: "",
        group: Group::Machine,
        usage: "",
        help: "Parameters in force and where each comes from. A source of unknown marks a vb. key that \
               nothing reads.",
        completes: &[],
        changes: false,
        run: params,
    },
    Command {
        name: "reboot",
        alias: "",
        group: Group::Machine,
        usage: "",
        help: "Stops everything in order and starts the machine again.",
        completes: &[],
        changes: true,
        run: |words, context, out| power(words, context, out, Power::Reboot),
    },
    Command {
        name: "poweroff",
        alias: "",
        group: Group::Machine,
        usage: "",
        help: "Stops everything in order and switches the machine off.",
        completes: &[],
        changes: true,
        run: |words, context, out| power(words, context, out, Power::Poweroff),
    },
    Command {
        name: "halt",
        alias: "",
        group: Group::Machine,
        usage: "",
        help: "Stops everything in order and leaves the machine standing.",
        completes: &[],
        changes: true,
        run: |words, context, out| power(words, context, out, Power::Halt),
    },
];

fn state_name(state: MachineState) -> &'static str {
    match state {
        MachineState::Starting => "starting",
        MachineState::Ready => "ready",
        MachineState::Degraded => "degraded",
        MachineState::Stopping => "stopping",
    }
}

fn status(words: &[String], context: &mut Context<'_>, out: &mut Out<'_>) -> Outcome {
    Words::parse(words, &[], &[], 0)?;
    let (mut value, mut lines) = context.init()?.ask(&StatusGet, |frame| {
        frame
            .body::<Status<'_>>()
            .map(|s| (status_value(&s), status_lines(&s)))
    })?;
    // Absent as an ordinary process without a network of its own.
    if let Some(network) = super::network::read(context) {
        let brief = super::network::brief(&network);
        lines.push(format!("{:<10}  {brief}", "network"));
        value["network"] = brief.into();
    }
    let strained = super::why::pressure(context)?;
    if !strained.is_empty() {
        let brief = strained.join("; ");
        lines.push(format!("{:<10}  {brief}", "pressure"));
        value["pressure"] = brief.into();
    }
    out.either(&value, &lines)?;
    Ok(DONE)
}

fn status_value(s: &Status<'_>) -> Value {
    json!({
        "state": state_name(s.state), "reason": s.reason, "package": s.package, "model": s.model,
        "tensors": s.tensors, "mapped_bytes": s.mapped_bytes, "boot_id": text::hex(&s.boot_id),
        "hostname": s.hostname, "uptime_ns": s.uptime_ns, "beats": s.beats,
        "beats_missed": s.beats_missed, "period_ms": s.period_ms, "services_up": s.services_up,
        "services": s.services, "watchdog": s.watchdog, "version": s.version, "pid": s.pid,
        "unconfined": s.unconfined, "signer": s.signer,
        "trusted_keys": s.trusted_keys.split_whitespace().collect::<Vec<_>>(),
        "init": {"digest": s.init_digest, "from": s.init_from},
    })
}

fn status_lines(s: &Status<'_>) -> Vec<String> {
    let tensors = match s.tensors {
        0 => String::new(),
        n => format!("{n}, {} mapped", text::bytes(s.mapped_bytes)),
    };
    let beats = format!(
        "{} every {} ms, {} missed",
        s.beats, s.period_ms, s.beats_missed
    );
    let trusted = match s.trusted_keys.split_whitespace().count() {
        0 => String::new(),
        1 => format!("1 key, {}", s.trusted_keys),
        n => format!("{n} keys, {}", s.trusted_keys),
    };
    let mut lines = text::pairs(&[
        ("state", state_name(s.state).to_owned()),
        (
            "services",
            format!("{} of {} up", s.services_up, s.services),
        ),
        ("uptime", text::age(s.uptime_ns)),
        ("package", s.package.to_owned()),
        ("signer", s.signer.to_owned()),
        ("trusted", trusted),
        ("model", s.model.to_owned()),
        ("tensors", tensors),
        ("beats", beats),
        ("watchdog", s.watchdog.to_owned()),
        ("host", s.hostname.to_owned()),
        ("version", format!("{}, pid {}", s.version, s.pid)),
        (
            "init",
            format!("{} {}", s.init_from, s.init_digest)
                .trim()
                .to_owned(),
        ),
        ("boot id", text::hex(&s.boot_id)),
        ("unconfined", s.unconfined.to_owned()),
    ]);
    for (at, cause) in s.reason.split("; ").filter(|c| !c.is_empty()).enumerate() {
        let line = format!("{:<10}  {cause}", "because");
        lines.insert((at + 1).min(lines.len()), line);
    }
    lines
}

/// What one look of [`ready`] found.
#[derive(Debug, PartialEq, Eq)]
pub enum Look {
    /// Every service is up and nothing is wrong.
    Ready,
    /// Something is wrong and nothing is under way.
    Degraded(String),
    /// Services are still coming; named.
    Coming(String),
}

/// Looks once whether the machine has settled.
pub fn look(site: &Site) -> Result<Look, Failure> {
    let mut server = site.init()?;
    let (state, reason, all_up) = server.ask(&StatusGet, |frame| {
        frame
            .body::<Status<'_>>()
            .map(|s| (s.state, s.reason.to_owned(), s.services_up == s.services))
    })?;
    if state == MachineState::Ready && all_up {
        return Ok(Look::Ready);
    }
    let mut coming = Vec::new();
    server.list(&ServicesGet, |frame| {
        let s = frame.body::<Service<'_>>()?;
        if matches!(s.state, ServiceState::Starting | ServiceState::Backoff) {
            coming.push(format!(
                "{} {}",
                s.name,
                super::services::state_name(s.state)
            ));
        }
        Ok(())
    })?;
    let settled = state == MachineState::Degraded && coming.is_empty();
    Ok(match (settled, coming.is_empty()) {
        (true, _) if reason.is_empty() => Look::Degraded("no reason given".to_owned()),
        (true, _) => Look::Degraded(reason),
        (false, true) => Look::Coming(state_name(state).to_owned()),
        (false, false) => Look::Coming(coming.join(", ")),
    })
}

fn ready(words: &[String], context: &mut Context<'_>, out: &mut Out<'_>) -> Outcome {
    let words = Words::parse(words, &[], &[], 1)?;
    let seconds = words.argument(0).map_or(Ok(READY_S_DEFAULT), |text| {
        number("SECONDS", text, 0, READY_S_MAX)
    })?;
    let begun = Instant::now();
    let mut settled = 0;
    let verdict = loop {
        let look = look(context);
        settled = if matches!(look, Ok(Look::Degraded(_))) {
            settled + 1
        } else {
            0
        };
        match look {
            Ok(Look::Ready) => break Ok(()),
            Ok(Look::Degraded(reason)) if settled >= SETTLED_LOOKS => {
                break Err(format!("degraded: {reason}"));
            }
            other if begun.elapsed() >= Duration::from_secs(seconds) => {
                break Err(match other {
                    Ok(Look::Degraded(reason)) => format!("degraded: {reason}"),
                    Ok(Look::Coming(what)) => format!("not ready after {seconds} s: {what}"),
                    Ok(Look::Ready) => "ready".to_owned(),
                    Err(failure) => format!("not ready after {seconds} s: {failure}"),
                });
            }
            _ => {}
        }
        if context.attention.pause(READY_STEP) {
            break Err("interrupted".to_owned());
        }
    };
    let reason = verdict.as_ref().err().cloned().unwrap_or_default();
    let line = if verdict.is_ok() {
        "ready".to_owned()
    } else {
        reason.clone()
    };
    out.either(
        &json!({"ready": verdict.is_ok(), "reason": reason}),
        &[line],
    )?;
    Ok(if verdict.is_ok() { DONE } else { FAILED })
}

fn beat(words: &[String], context: &mut Context<'_>, out: &mut Out<'_>) -> Outcome {
    Words::parse(words, &[], &[], 0)?;
    let b = context
        .init()?
        .ask(&BeatGet, |frame| frame.body::<Beat>())?;
    let value = json!({
        "count": b.count, "period_ns": b.period_ns, "missed": b.missed, "coalesced": b.coalesced,
        "cpu_last_ns": b.cpu_last_ns, "cpu_max_ns": b.cpu_max_ns, "late_max_ns": b.late_max_ns,
        "orphans": b.orphans, "lateness": b.lateness,
    });
    let mut lines = text::pairs(&[
        (
            "beats",
            format!("{} every {}", b.count, text::span(b.period_ns)),
        ),
        ("missed", format!("{}", b.missed)),
        ("coalesced", format!("{}", b.coalesced)),
        (
            "cpu",
            format!(
                "last {}, longest {}",
                text::span(b.cpu_last_ns),
                text::span(b.cpu_max_ns)
            ),
        ),
        ("late", format!("at most {}", text::span(b.late_max_ns))),
        ("orphans", format!("{} reaped", b.orphans)),
    ]);
    lines.extend(lateness(&b.lateness));
    out.either(&value, &lines)?;
    Ok(DONE)
}

/// The histogram's lines, from the first bucket that holds something to the last.
fn lateness(counts: &[u32; LATENESS_BUCKETS]) -> Vec<String> {
    let used = |count: &u32| *count > 0;
    let (Some(first), Some(last)) = (counts.iter().position(used), counts.iter().rposition(used))
    else {
        return Vec::new();
    };
    let most = counts.iter().copied().max().unwrap_or(1);
    let row = |(at, count): (usize, &u32)| {
        let edge = |bucket: usize| 16_000u64 << bucket.min(LATENESS_BUCKETS);
        let label = if at + 1 == LATENESS_BUCKETS {
            format!("from {}", text::span(edge(at.saturating_sub(1))))
        } else {
            format!("under {}", text::span(edge(at)))
        };
        let bar = text::bar(u64::from(*count), u64::from(most), BAR_WIDTH);
        format!("  {label:<17} {count:>8}  {bar}")
            .trim_end()
            .to_owned()
    };
    counts
        .iter()
        .enumerate()
        .take(last + 1)
        .skip(first)
        .map(row)
        .collect()
}

fn boot(words: &[String], context: &mut Context<'_>, out: &mut Out<'_>) -> Outcome {
    Words::parse(words, &[], &[], 0)?;
    let phases = phases(context)?;
    let whole = phases.iter().map(|p| p.end_ns).max().unwrap_or(0);
    let mut table = Table::new(&["PHASE", ">BEGINS", ">TAKES", "", "NOTE"]);
    for p in &phases {
        let takes = p.end_ns.saturating_sub(p.begin_ns);
        table.row([
            p.name.clone(),
            text::span(p.begin_ns),
            text::span(takes),
            chart(p.begin_ns, p.end_ns, whole),
            p.note.clone(),
        ]);
    }
    let value: Vec<Value> = phases
        .iter()
        .map(
            |p| json!({"name": p.name, "begin_ns": p.begin_ns, "end_ns": p.end_ns, "note": p.note}),
        )
        .collect();
    out.either(&json!({ "phases": value }), &table.lines())?;
    Ok(DONE)
}

/// One phase, kept past its frame.
pub struct BootPhase {
    /// Its name.
    pub name: String,
    /// Nanoseconds from the handoff to its beginning.
    pub begin_ns: u64,
    /// And to its end.
    pub end_ns: u64,
    note: String,
}

/// The phases of the boot.
pub fn phases(site: &Site) -> Result<Vec<BootPhase>, Failure> {
    let mut found = Vec::new();
    site.init()?.list(&BootGet, |frame| {
        let p = frame.body::<Phase<'_>>()?;
        found.push(BootPhase {
            name: p.name.to_owned(),
            begin_ns: p.begin_ns,
            end_ns: p.end_ns,
            note: p.note.to_owned(),
        });
        Ok(())
    })?;
    Ok(found)
}

/// Where a phase lies in the whole boot.
fn chart(begin: u64, end: u64, whole: u64) -> String {
    let scale = |at: u64| {
        let column = u128::from(at) * u128::from(CHART_WIDTH) / u128::from(whole.max(1));
        // At most the width, since no phase ends after the whole.
        usize::try_from(column).unwrap_or(0)
    };
    let from = scale(begin).min(CHART_WIDTH as usize - 1);
    let length = scale(end).saturating_sub(from).max(1);
    format!("{}{}", ".".repeat(from), "#".repeat(length))
}

fn params(words: &[String], context: &mut Context<'_>, out: &mut Out<'_>) -> Outcome {
    Words::parse(words, &[], &[], 0)?;
    let mut values = Vec::new();
    let mut table = Table::new(&["PARAMETER", "VALUE", "FROM"]);
    context.init()?.list(&ParamsGet, |frame| {
        let p = frame.body::<Param<'_>>()?;
        values.push(json!({"key": p.key, "value": p.value, "source": p.source}));
        table.row([p.key.to_owned(), p.value.to_owned(), p.source.to_owned()]);
        Ok(())
    })?;
    out.either(&json!({ "params": values }), &table.lines())?;
    Ok(DONE)
}

fn power(words: &[String], context: &mut Context<'_>, out: &mut Out<'_>, act: Power) -> Outcome {
    Words::parse(words, &[], &[], 0)?;
    context.init()?.act(&act)?;
    let name = match act {
        Power::Reboot => "reboot",
        Power::Poweroff => "poweroff",
        Power::Halt => "halt",
    };
    out.either(&json!({"begun": name}), &[format!("{name} has begun")])?;
    Ok(DONE)
}

/// The line that ends a boot: package, model, tensors, bytes, times, and where the token is.
pub fn summary(site: &Site) -> Result<Vec<String>, Failure> {
    let phases = phases(site)?;
    let end = |name: &str| phases.iter().find(|p| p.name == name).map(|p| p.end_ns);
    let beat = end("first-beat").map(|ns| format!("first beat {}", text::span(ns)));
    let ready = end("ready").map(|ns| format!("services ready {}", text::span(ns)));
    let times = [beat, ready]
        .into_iter()
        .flatten()
        .collect::<Vec<_>>()
        .join(", ");
    site.init()?.ask(&StatusGet, |frame| {
        let s = frame.body::<Status<'_>>()?;
        let model = match s.tensors {
            0 => "no model".to_owned(),
            n => format!(
                "{}, {n} tensors, {} mapped",
                s.model,
                text::bytes(s.mapped_bytes)
            ),
        };
        let package = format!("package {}", s.package);
        let token = "token: gateway token".to_owned();
        let parts = [package, model, times, token];
        let parts: Vec<String> = parts.into_iter().filter(|p| !p.is_empty()).collect();
        let mut lines = vec![format!("{}: {}", state_name(s.state), parts.join(" | "))];
        let causes = s.reason.split("; ").filter(|c| !c.is_empty());
        lines.extend(causes.map(|cause| format!("because {cause}")));
        Ok(lines)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_histogram_shows_the_used_buckets_and_their_edges() {
        let mut counts = [0; LATENESS_BUCKETS];
        counts[1] = 80;
        counts[3] = 1;
        assert_eq!(
            lateness(&counts),
            [
                format!("  under 0.032 ms          80  {}", "#".repeat(40)),
                "  under 0.064 ms           0".to_owned(),
                "  under 0.128 ms           1  #".to_owned(),
            ]
        );
        counts = [0; LATENESS_BUCKETS];
        counts[LATENESS_BUCKETS - 1] = 1;
        assert!(lateness(&counts)[0].starts_with("  from 262.1 ms"));
        assert!(lateness(&[0; LATENESS_BUCKETS]).is_empty());
    }

    #[test]
    fn the_chart_places_phases_and_never_overflows() {
        assert_eq!(chart(0, 0, 0), "#");
        assert_eq!(chart(0, 24, 24), "#".repeat(24));
        assert_eq!(chart(12, 18, 24), format!("{}######", ".".repeat(12)));
        assert_eq!(chart(u64::MAX, u64::MAX, u64::MAX).len(), 24);
    }
}
