//! The client: `vb-services capacity WORD`, against `capacity.sock` in the run folder.
//!
//! Exit codes: 0 done or allowed, 1 not admitted or denied, 2 anything else. `--json` gives one line.

use crate::outbox::cause;
use capacity_core::{BasisPoints, axes::WEIGHT_MAX};
use clap::{Args, Parser, Subcommand};
use ipc::IpcError;
use ipc::capacity::Client;
use serde_json::{Value, json};
use std::ffi::OsString;
use std::io::{Read, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;
use wire::capacity::{
    AXES, AXIS_NAMES, Check, GATE_NAMES, GateVerdict, Request, TOKEN_BYTES_MAX, Verdict, Want,
    permission,
};

/// Longest wait for an answer.
const ANSWER: Duration = Duration::from_secs(5);
/// How often `top` redraws.
const REDRAW: Duration = Duration::from_secs(1);

/// Leases, tokens and checks of the capacity kernel.
#[derive(Parser)]
#[command(name = "capacity", disable_version_flag = true)]
struct Cli {
    /// One line of JSON.
    #[arg(long, global = true)]
    json: bool,
    /// Socket of the kernel; default: capacity.sock in VB_RUN or /run/vb.
    #[arg(long, global = true)]
    socket: Option<PathBuf>,
    #[command(subcommand)]
    word: Word,
}

#[derive(Subcommand)]
enum Word {
    /// Budgets and leases, redrawn every second.
    Top {
        /// Draw this often, then end; 0 never ends.
        #[arg(short = 'n', long, default_value_t = 0)]
        rounds: u32,
    },
    /// Every lease in force.
    Leases,
    /// The four gates.
    Gates,
    /// Budgets and use as of the last tick.
    State,
    /// Ask for capacity; prints the token.
    Request(RequestWords),
    /// Ask whether an operation may run, and spend for it.
    Check(CheckWords),
    /// Give capacity back.
    Release(TokenWords),
    /// Take a lease away.
    Revoke {
        /// Its slot.
        slot: u32,
    },
    /// Run the gates over a recorded trace.
    Replay {
        /// JSON with workloads, edges and the lag edge.
        #[arg(long)]
        config: PathBuf,
        /// CSV, one row a second.
        trace: PathBuf,
        /// CSV of verdicts to write.
        out: PathBuf,
    },
}

#[derive(Args)]
struct RequestWords {
    /// Who pays.
    #[arg(long, default_value = "default")]
    tenant: String,
    /// What for.
    #[arg(long)]
    workload: String,
    /// CPU as MIN[:WANT[:WEIGHT]], shares from 0 to 1.
    #[arg(long)]
    geo: Option<String>,
    /// Traffic, likewise.
    #[arg(long)]
    int: Option<String>,
    /// Commits, likewise.
    #[arg(long)]
    gauge: Option<String>,
    /// Memory, likewise.
    #[arg(long)]
    ptr: Option<String>,
    /// Telemetry, likewise.
    #[arg(long)]
    obs: Option<String>,
    /// Seconds; 0 for ever.
    #[arg(long, default_value_t = 3600)]
    duration: u32,
    /// 0 lowest to 9.
    #[arg(long, default_value_t = 5)]
    priority: u8,
    /// What the token permits: tools, ledger, capacity, admin, separated by commas.
    #[arg(long, default_value = "tools,capacity")]
    permissions: String,
}

#[derive(Args)]
struct TokenWords {
    /// File with the token; - reads it from the standard input, since arguments are seen by others.
    #[arg(long, default_value = "-")]
    token_file: PathBuf,
}

#[derive(Args)]
struct CheckWords {
    /// `tool:fs_read` and the like.
    operation: String,
    #[command(flatten)]
    token: TokenWords,
    /// Estimated CPU microseconds.
    #[arg(long, default_value_t = 0)]
    cpu_us: u32,
    /// Estimated bytes of memory.
    #[arg(long, default_value_t = 0)]
    memory_bytes: u64,
}

/// Runs one word of the client.
pub fn main(words: &[OsString]) -> ExitCode {
    let words = std::iter::once(OsString::from("capacity")).chain(words.iter().cloned());
    let cli = match Cli::try_parse_from(words) {
        Ok(cli) => cli,
        Err(e) => {
            // clap writes help to stdout and mistakes to stderr; a closed one is the caller's wish.
            let _ = e.print();
            return ExitCode::from(if e.use_stderr() { 2 } else { 0 });
        }
    };
    match run(&cli) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(Failure::Ipc(e)) => fail(&cause(&e)),
        Err(Failure::Input(why)) => fail(&why),
    }
}

fn fail(why: &str) -> ExitCode {
    eprintln!("capacity: {why}");
    ExitCode::from(2)
}

enum Failure {
    Ipc(IpcError),
    Input(String),
}

impl From<IpcError> for Failure {
    fn from(e: IpcError) -> Self {
        Self::Ipc(e)
    }
}

/// Whether the answer was yes.
fn run(cli: &Cli) -> Result<bool, Failure> {
    let socket = cli.socket.clone();
    let socket = socket.unwrap_or_else(|| ipc::run_folder().join(ipc::capacity::SOCKET_NAME));
    let connect = || Client::connect(&socket, ANSWER);
    match &cli.word {
        Word::Replay { config, trace, out } => {
            let done = crate::replay::files(config, trace, out).map_err(Failure::Input)?;
            let text = format!("ticks {} FAIL {:?}\n", done.ticks, done.failed);
            let value = json!({ "ticks": done.ticks, "failed_ticks": done.failed });
            show(cli.json, &value, &text)
        }
        Word::Top { rounds } => top(&mut connect()?, cli.json, *rounds),
        Word::Leases => {
            let rows = connect()?.leases()?;
            let text = lease_table(&rows);
            show(cli.json, &json!({ "leases": lease_rows(&rows) }), &text)
        }
        Word::Gates => gates(&mut connect()?, cli.json),
        Word::State => {
            let state = connect()?.state()?;
            show(cli.json, &state_value(&state), &state_table(&state))
        }
        Word::Request(words) => request(&mut connect()?, cli.json, words),
        Word::Check(words) => check(&mut connect()?, cli.json, words),
        Word::Release(words) => {
            let token = words.read()?;
            connect()?.release(&token)?;
            show(cli.json, &json!({ "released": true }), "released\n")
        }
        Word::Revoke { slot } => {
            connect()?.revoke(*slot)?;
            let text = format!("revoked slot {slot}\n");
            show(cli.json, &json!({ "revoked": slot }), &text)
        }
    }
}

fn show(as_json: bool, value: &Value, text: &str) -> Result<bool, Failure> {
    let mut out = std::io::stdout().lock();
    let written = if as_json {
        writeln!(out, "{value}")
    } else {
        write!(out, "{text}")
    };
    written
        .and_then(|()| out.flush())
        .map_err(|e| Failure::Input(format!("standard output: {e}")))?;
    Ok(true)
}

fn top(client: &mut Client, as_json: bool, rounds: u32) -> Result<bool, Failure> {
    let mut round = 0;
    loop {
        let (state, leases) = (client.state()?, client.leases()?);
        let mut value = state_value(&state);
        if let Some(object) = value.as_object_mut() {
            object.insert("lease_rows".to_owned(), lease_rows(&leases));
        }
        // Home, then clear to the end, after the screen was cleared once.
        let begin = match (rounds == 1, round) {
            (true, _) => "",
            (false, 0) => "\x1b[2J\x1b[H",
            (false, _) => "\x1b[H\x1b[J",
        };
        let text = format!("{begin}{}\n{}", state_table(&state), lease_table(&leases));
        show(as_json, &value, &text)?;
        round += 1;
        if round == rounds {
            return Ok(true);
        }
        std::thread::sleep(REDRAW);
    }
}

fn gates(client: &mut Client, as_json: bool) -> Result<bool, Failure> {
    let rows = client.gates()?;
    let word = |v| match v {
        GateVerdict::Unresolved => "UNRESOLVED",
        GateVerdict::Pass => "PASS",
        GateVerdict::Fail => "FAIL",
    };
    let score = |milli: Option<u32>| milli.map(|m| f64::from(m) / 1000.0);
    let values: Vec<Value> = rows
        .iter()
        .map(|r| json!({ "name": r.name, "verdict": word(r.verdict), "score": score(r.score_milli), "ticks": r.ticks }))
        .collect();
    let mut text = format!(
        "{:<10} {:<10} {:>7} {:>8}\n",
        "GATE", "VERDICT", "SCORE", "SECONDS"
    );
    for r in &rows {
        let score = score(r.score_milli).map_or("-".to_owned(), |s| format!("{s:.3}"));
        text += &format!(
            "{:<10} {:<10} {score:>7} {:>8}\n",
            r.name,
            word(r.verdict),
            r.ticks
        );
    }
    show(as_json, &json!({ "gates": values }), &text)
}

fn request(client: &mut Client, as_json: bool, words: &RequestWords) -> Result<bool, Failure> {
    let given = [&words.geo, &words.int, &words.gauge, &words.ptr, &words.obs];
    let mut axes = [None; AXES];
    for ((axis, text), name) in axes.iter_mut().zip(given).zip(AXIS_NAMES) {
        let want = text.as_deref().map(parse_want).transpose();
        *axis = want.map_err(|e| Failure::Input(format!("{name}: {e}")))?;
    }
    let granted = client.request(&Request {
        tenant_id: &words.tenant,
        workload_id: &words.workload,
        axes,
        duration_s: words.duration,
        priority: words.priority,
        permissions: parse_permissions(&words.permissions).map_err(Failure::Input)?,
    })?;
    let value = json!({
        "admitted": granted.admitted, "capacity_token": granted.token, "slot": granted.slot,
        "grants": by_axis(&granted.grants.map(|g| json!(share(g)))),
        "axes_failed": named(granted.axes_failed, &AXIS_NAMES),
        "gates_failed": named(granted.gates_failed, &GATE_NAMES),
        "expires_ms": expiry(granted.expires_ms), "reason": granted.reason,
    });
    let text = if granted.admitted {
        format!("{}\n", granted.token)
    } else {
        format!("refused: {}\n", granted.reason)
    };
    show(as_json, &value, &text).map(|_| granted.admitted)
}

fn check(client: &mut Client, as_json: bool, words: &CheckWords) -> Result<bool, Failure> {
    let token = words.token.read()?;
    let decision = client.check(&Check {
        token: &token,
        operation: &words.operation,
        cpu_us: words.cpu_us,
        memory_bytes: words.memory_bytes,
    })?;
    let allowed = decision.verdict == Verdict::Allowed;
    let value = json!({
        "allowed": allowed, "verdict": format!("{:?}", decision.verdict), "bucket": decision.bucket,
        "retry_after_ms": decision.retry_after_ms, "remaining": decision.remaining,
        "gates_failed": named(decision.gates_failed, &GATE_NAMES), "epoch": decision.epoch,
        "actor": decision.actor, "tenant_id": decision.tenant_id, "reason": decision.reason,
    });
    let text = if allowed {
        format!(
            "allowed: {} for {}, {} left\n",
            decision.actor, decision.tenant_id, decision.remaining
        )
    } else {
        format!("denied: {}\n", decision.reason)
    };
    show(as_json, &value, &text).map(|_| allowed)
}

impl TokenWords {
    fn read(&self) -> Result<String, Failure> {
        let mut text = String::new();
        let limit = TOKEN_BYTES_MAX as u64 + 2;
        let read = if self.token_file.as_os_str() == "-" {
            std::io::stdin().take(limit).read_to_string(&mut text)
        } else {
            std::fs::File::open(&self.token_file)
                .and_then(|file| file.take(limit).read_to_string(&mut text))
        };
        read.map_err(|e| Failure::Input(format!("token file {}: {e}", self.token_file.display())))?;
        Ok(text.trim().to_owned())
    }
}

/// Reads `MIN[:WANT[:WEIGHT]]`; a missing want is the minimum, a missing weight 1.
fn parse_want(text: &str) -> Result<Want, String> {
    let mut parts = text.split(':');
    let share = |text: &str| {
        let share: f64 = text.parse().map_err(|_| format!("{text:?} is no number"))?;
        let points = BasisPoints::from_share(share).map_err(|e| e.to_string())?;
        Ok::<u16, String>(points.get())
    };
    let min = share(parts.next().unwrap_or_default())?;
    let want = parts.next().map_or(Ok(min), share)?;
    let weight = parts.next().map_or(Ok(1), |text| {
        text.parse()
            .map_err(|_| format!("weight {text:?}: 1 to {WEIGHT_MAX}"))
    })?;
    match parts.next() {
        Some(rest) => Err(format!("{rest:?} behind the weight")),
        None => Ok(Want { min, want, weight }),
    }
}

fn parse_permissions(text: &str) -> Result<u32, String> {
    permission::of_names(text)
        .map_err(|word| format!("permission {word:?}: tools, ledger, capacity, admin"))
}

fn share(points: u16) -> f64 {
    f64::from(points) / f64::from(wire::capacity::BASIS_POINTS)
}

fn expiry(ms: u64) -> Option<u64> {
    (ms != u64::MAX).then_some(ms)
}

fn named(bits: u8, names: &[&'static str]) -> Vec<&'static str> {
    let set = |i: usize| bits.checked_shr(i as u32).unwrap_or(0) & 1 == 1;
    let pairs = names.iter().enumerate();
    pairs.filter(|(i, _)| set(*i)).map(|(_, n)| *n).collect()
}

fn by_axis(values: &[Value; AXES]) -> Value {
    let pairs = AXIS_NAMES.iter().zip(values);
    pairs
        .map(|(n, v)| ((*n).to_owned(), v.clone()))
        .collect::<serde_json::Map<_, _>>()
        .into()
}

fn state_value(state: &wire::capacity::State) -> Value {
    json!({
        "ticks": state.ticks, "epoch": state.epoch, "leases": state.leases,
        "checks": state.checks, "denied": state.denied,
        "budget": by_axis(&state.budget.map(|p| json!(share(p)))),
        "granted": by_axis(&state.granted.map(|p| json!(share(p)))),
        "consumed": by_axis(&state.consumed.map(|p| json!(p.map(share)))),
    })
}

fn state_table(state: &wire::capacity::State) -> String {
    let mut text = format!(
        "tick {}  epoch {}  leases {}  checks {}  denied {}\n{:<8} {:>8} {:>8} {:>8}\n",
        state.ticks,
        state.epoch,
        state.leases,
        state.checks,
        state.denied,
        "AXIS",
        "BUDGET",
        "GRANTED",
        "USED"
    );
    let rows = AXIS_NAMES
        .iter()
        .zip(state.budget)
        .zip(state.granted)
        .zip(state.consumed);
    for (((name, budget), granted), consumed) in rows {
        let used = consumed.map_or("-".to_owned(), |c| format!("{:.2} %", share(c) * 100.0));
        let (budget, granted) = (share(budget) * 100.0, share(granted) * 100.0);
        text += &format!("{name:<8} {budget:>6.2} % {granted:>6.2} % {used:>8}\n");
    }
    text
}

fn lease_rows(rows: &[ipc::capacity::LeaseRow]) -> Value {
    let row = |l: &ipc::capacity::LeaseRow| {
        json!({
            "slot": l.slot, "tenant_id": l.tenant_id, "workload_id": l.workload_id,
            "grants": by_axis(&l.grants.map(|g| json!(share(g)))),
            "expires_ms": expiry(l.expires_ms), "priority": l.priority, "checks": l.checks,
        })
    };
    rows.iter().map(row).collect()
}

fn lease_table(rows: &[ipc::capacity::LeaseRow]) -> String {
    let mut text = format!(
        "{:>4} {:<16} {:<20} {:>6} {:>6} {:>6} {:>6} {:>6} {:>10} {:>4} {:>10}\n",
        "SLOT",
        "TENANT",
        "WORKLOAD",
        "GEO",
        "INT",
        "GAUGE",
        "PTR",
        "OBS",
        "EXPIRES",
        "PRIO",
        "CHECKS"
    );
    for l in rows {
        let end = expiry(l.expires_ms).map_or("never".to_owned(), |ms| format!("{} s", ms / 1000));
        let [geo, int, gauge, ptr, obs] = l.grants.map(|g| format!("{:.2}", share(g) * 100.0));
        text += &format!(
            "{:>4} {:<16} {:<20} {geo:>6} {int:>6} {gauge:>6} {ptr:>6} {obs:>6} {end:>10} {:>4} {:>10}\n",
            l.slot, l.tenant_id, l.workload_id, l.priority, l.checks
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn demands_parse_from_shares_and_hostile_ones_do_not() {
        let want = parse_want("0.1:0.5:3").unwrap();
        assert_eq!((want.min, want.want, want.weight), (1000, 5000, 3));
        let want = parse_want("0.25").unwrap();
        assert_eq!((want.min, want.want, want.weight), (2500, 2500, 1));
        for bad in [
            "",
            "nan",
            "inf",
            "-0.1",
            "1.1",
            "0.1:",
            "0.1:x",
            "0.1:0.2:x",
            "0.1:0.2:1:1",
            "0.1:0.2:70000",
        ] {
            assert!(parse_want(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn permissions_and_sets_are_named() {
        assert_eq!(parse_permissions("tools,admin"), Ok(9));
        assert_eq!(parse_permissions(""), Ok(0));
        assert!(parse_permissions("root").is_err());
        assert_eq!(named(0b1001, &AXIS_NAMES), ["C_geo", "C_ptr"]);
        assert!(named(0b1110_0000, &AXIS_NAMES).is_empty());
    }

    #[test]
    fn mistakes_are_exit_code_two_and_help_is_none() {
        assert_eq!(main(&["nonsense".into()]), ExitCode::from(2));
        assert_eq!(main(&["--help".into()]), ExitCode::SUCCESS);
        let absent = ["state", "--socket", "/nonexistent/capacity.sock"].map(OsString::from);
        assert_eq!(main(&absent), ExitCode::from(2));
    }
}
