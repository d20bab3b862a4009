//! Commands about what passes through the machine: capacity and the gateway.

use super::{Command, Completes, DONE, Failure, Group, Out, Outcome};
use crate::console::context::Context;
use crate::console::text::{self, Table};
use crate::console::words::Words;
use serde_json::{Map, Value, json};
use wire::capacity::{
    AXES, AXIS_NAMES, Gate, GateVerdict, GatesGet, Grant, Lease, LeasesGet, Request, State,
    StateGet, Want, permission,
};

/// What a token asked for here is guaranteed and may have, on every axis: a hundredth and all that is free.
const ASKED: Want = Want {
    min: 100,
    want: 10_000,
    weight: 1,
};
/// How long it holds unless told otherwise: an hour.
const TOKEN_S_DEFAULT: u64 = 3600;
/// Its place among others: the middle, as the boot token's.
const PRIORITY: u8 = 5;

/// The rows of this group.
pub const COMMANDS: &[Command] = &[
    Command {
        name: "capacity",
        alias: "",
        group: Group::Services,
        usage: "[state|leases|gates|request TENANT [--as NAME] [--permissions LIST] [--for SECONDS]]",
        help: "Shares of the machine: budgets, leases, gates. Shares are percent of what the machine can \
               give away, on the axes geo (processor time), int (traffic), gauge (commits), ptr (memory) \
               and obs (telemetry). A gate with a score of 1.000 or more fails. request makes a lease and \
               shows its token, which speaks for the agent NAME (agent) of the tenant: LIST of tools, \
               ledger, capacity, admin (ledger), for SECONDS (3600; 0: for ever). The token is a secret.",
        completes: &[Completes::Words(&["state", "leases", "gates", "request"])],
        changes: false,
        run: capacity,
    },
    Command {
        name: "gateway",
        alias: "",
        group: Group::Services,
        usage: "token|stats",
        help: "The boot token for agents, or the gateway's counters. The token is a secret: whoever has \
               it may call every tool, and nothing else: capacity request gives others.",
        completes: &[Completes::Words(&["token", "stats"])],
        changes: false,
        run: gateway,
    },
];

/// Axis names without the prefix that they carry outside.
fn axis_names() -> [&'static str; AXES] {
    AXIS_NAMES.map(|name| name.strip_prefix("C_").unwrap_or(name))
}

/// Basis points as percent.
fn percent(points: u16) -> String {
    format!("{}.{:02}%", points / 100, points % 100)
}

/// The shares of one thing, by the axes' outer names, from 0 to 1.
fn shares(points: [u16; AXES]) -> Value {
    let share =
        |(name, points): (&str, u16)| (name.to_owned(), json!(f64::from(points) / 10_000.0));
    Value::Object(AXIS_NAMES.into_iter().zip(points).map(share).collect())
}

fn capacity(words: &[String], context: &mut Context<'_>, out: &mut Out<'_>) -> Outcome {
    let what = words.first().map_or("state", String::as_str);
    if what == "request" {
        return request(words.get(1..).unwrap_or_default(), context, out);
    }
    Words::parse(words, &[], &[], 1)?;
    match what {
        "state" => state(context, out),
        "leases" => leases(context, out),
        "gates" => gates(context, out),
        other => Err(Failure::usage(format!(
            "\"{other}\" is not state, leases, gates or request"
        ))),
    }
}

fn request(words: &[String], context: &Context<'_>, out: &mut Out<'_>) -> Outcome {
    let words = Words::parse(words, &[], &["--as", "--permissions", "--for"], 1)?;
    let tenant_id = words.required(0, "a tenant")?;
    let list = words.value("--permissions").unwrap_or("ledger");
    let permissions = permission::of_names(list).map_err(|word| {
        let known = "tools, ledger, capacity, admin";
        Failure::usage(format!("--permissions: \"{word}\" is not one of {known}"))
    })?;
    let duration_s = words.number("--for", TOKEN_S_DEFAULT, 0, u32::MAX.into())?;
    refuse_secrets(context)?;
    let asked = Request {
        tenant_id,
        workload_id: words.value("--as").unwrap_or("agent"),
        axes: [Some(ASKED); AXES],
        duration_s: u32::try_from(duration_s).unwrap_or(u32::MAX),
        priority: PRIORITY,
        permissions,
    };
    let (token, refusal, slot) = context.capacity()?.ask(&asked, |frame| {
        let g = frame.body::<Grant<'_>>()?;
        let refusal = (!g.admitted).then(|| g.reason.to_owned());
        Ok((g.token.to_owned(), refusal, g.slot))
    })?;
    if let Some(reason) = refusal {
        return Err(Failure::failed(format!("capacity refuses: {reason}")));
    }
    out.either(
        &json!({ "token": token, "slot": slot }),
        std::slice::from_ref(&token),
    )?;
    Ok(DONE)
}

/// Where nothing may be changed, no token is shown that could.
fn refuse_secrets(context: &Context<'_>) -> Result<(), Failure> {
    if context.power == crate::console::context::Power::ReadOnly {
        let text =
            "the token is not shown: vb.console_mode is readonly, and the token may change things";
        return Err(Failure::failed(text));
    }
    Ok(())
}

fn state(context: &Context<'_>, out: &mut Out<'_>) -> Outcome {
    let s = context
        .capacity()?
        .ask(&StateGet, |frame| frame.body::<State>())?;
    let consumed: Map<String, Value> = AXIS_NAMES
        .into_iter()
        .zip(s.consumed)
        .map(|(name, points)| {
            (
                name.to_owned(),
                json!(points.map(|p| f64::from(p) / 10_000.0)),
            )
        })
        .collect();
    let value = json!({
        "ticks": s.ticks, "epoch": s.epoch, "budget": shares(s.budget), "granted": shares(s.granted),
        "consumed": consumed, "leases": s.leases, "checks": s.checks, "denied": s.denied,
    });
    let mut lines = text::pairs(&[
        ("leases", s.leases.to_string()),
        ("checks", format!("{}, {} denied", s.checks, s.denied)),
        ("ticks", format!("{}, epoch {}", s.ticks, s.epoch)),
    ]);
    lines.push(String::new());
    let mut table = Table::new(&["AXIS", ">BUDGET", ">GRANTED", ">CONSUMED"]);
    let columns = axis_names()
        .into_iter()
        .zip(s.budget)
        .zip(s.granted)
        .zip(s.consumed);
    for (((name, budget), granted), consumed) in columns {
        let consumed = consumed.map_or_else(|| "-".to_owned(), percent);
        table.row([name.to_owned(), percent(budget), percent(granted), consumed]);
    }
    lines.extend(table.lines());
    out.either(&value, &lines)?;
    Ok(DONE)
}

fn leases(context: &Context<'_>, out: &mut Out<'_>) -> Outcome {
    let mut values = Vec::new();
    let [geo, int, gauge, ptr, obs] = [">GEO", ">INT", ">GAUGE", ">PTR", ">OBS"];
    let mut table = Table::new(&[
        ">SLOT", "TENANT", "WORKLOAD", geo, int, gauge, ptr, obs, ">PRIO", ">CHECKS", "EXPIRES",
    ]);
    context.capacity()?.list(&LeasesGet, |frame| {
        let l = frame.body::<Lease<'_>>()?;
        let never = l.expires_ms == u64::MAX;
        values.push(json!({
            "slot": l.slot, "tenant_id": l.tenant_id, "workload_id": l.workload_id,
            "grants": shares(l.grants), "expires_ms": (!never).then_some(l.expires_ms),
            "priority": l.priority, "checks": l.checks,
        }));
        let expires = if never {
            "never".to_owned()
        } else {
            text::age(l.expires_ms.saturating_mul(1_000_000))
        };
        let [geo, int, gauge, ptr, obs] = l.grants.map(|points| format!("{}%", points / 100));
        table.row([
            l.slot.to_string(),
            l.tenant_id.to_owned(),
            l.workload_id.to_owned(),
            geo,
            int,
            gauge,
            ptr,
            obs,
            l.priority.to_string(),
            l.checks.to_string(),
            expires,
        ]);
        Ok(())
    })?;
    out.either(&json!({ "leases": values }), &table.lines())?;
    Ok(DONE)
}

fn gates(context: &Context<'_>, out: &mut Out<'_>) -> Outcome {
    let mut values = Vec::new();
    let mut table = Table::new(&["GATE", "VERDICT", ">SCORE", ">FOR TICKS"]);
    context.capacity()?.list(&GatesGet, |frame| {
        let g = frame.body::<Gate<'_>>()?;
        let verdict = match g.verdict {
            GateVerdict::Unresolved => "unresolved",
            GateVerdict::Pass => "pass",
            GateVerdict::Fail => "fail",
        };
        let score = |milli: u32| format!("{}.{:03}", milli / 1000, milli % 1000);
        values.push(json!({
            "name": g.name, "verdict": verdict, "score": g.score_milli.map(|m| f64::from(m) / 1000.0),
            "ticks": g.ticks,
        }));
        let shown = g.score_milli.map_or_else(|| "-".to_owned(), score);
        table.row([g.name.to_owned(), verdict.to_owned(), shown, g.ticks.to_string()]);
        Ok(())
    })?;
    out.either(&json!({ "gates": values }), &table.lines())?;
    Ok(DONE)
}

fn gateway(words: &[String], context: &mut Context<'_>, out: &mut Out<'_>) -> Outcome {
    let words = Words::parse(words, &[], &[], 1)?;
    match words.required(0, "token or stats")? {
        "token" => token(context, out),
        "stats" => stats(context, out),
        other => Err(Failure::usage(format!("\"{other}\" is not token or stats"))),
    }
}

fn token(context: &Context<'_>, out: &mut Out<'_>) -> Outcome {
    refuse_secrets(context)?;
    let token = context.token()?;
    out.either(&json!({ "token": token }), std::slice::from_ref(&token))?;
    Ok(DONE)
}

fn stats(context: &Context<'_>, out: &mut Out<'_>) -> Outcome {
    let page = context.descriptor("stats.gateway")?;
    let wrong = |what: String| Failure::failed(format!("stats page of gateway: {what}"));
    let reader =
        sys::seqlock::Reader::over(&page, wire::stats::MAGIC).map_err(|e| wrong(e.to_string()))?;
    let mut words = vec![0u64; wire::stats::NAMES.len()];
    reader
        .read(sys::seqlock::FIRST_WORD, &mut words)
        .map_err(|e| wrong(e.to_string()))?;
    let named = wire::stats::NAMES.iter().zip(&words);
    let value: Map<String, Value> = named
        .clone()
        .map(|(n, v)| ((*n).to_owned(), json!(v)))
        .collect();
    let mut table = Table::new(&["COUNTER", ">VALUE"]);
    for (name, value) in named {
        table.row([(*name).to_owned(), value.to_string()]);
    }
    out.either(&Value::Object(value), &table.lines())?;
    Ok(DONE)
}
