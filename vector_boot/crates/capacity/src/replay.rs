//! Runs the gates over a recorded trace: how thresholds are calibrated and judged.
//!
//! The trace is CSV with a header, one row a second; the configuration says which columns belong to
//! what. A column that is missing, or a cell that is no finite number, is refused with its line.
//! Start with [`files`].

use capacity_core::gates::{GATE_NAMES, Monitor, Tick, Use, Watched, Workload};
use serde::Deserialize;
use std::fs::File;
use std::io::{BufRead, BufReader, BufWriter, Read, Write};
use std::path::Path;

/// Workloads, edges and clients that a trace may have: the table of correlations grows with the
/// square of the clients.
const PARTS_MAX: usize = 256;
/// Longest line of a trace.
const LINE_BYTES_MAX: u64 = 64 << 10;
/// Largest configuration.
const CONFIG_BYTES_MAX: u64 = 1 << 20;

#[derive(Debug, Deserialize)]
struct Config {
    workloads: Vec<ConfigWorkload>,
    #[serde(default)]
    edges: Vec<(String, String)>,
    lag_edge: Option<(String, String)>,
}

#[derive(Debug, Deserialize)]
struct ConfigWorkload {
    name: String,
    grant_cores: f64,
    rate: Option<f64>,
    burst: Option<f64>,
}

/// What a replay found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Replayed {
    /// Rows.
    pub ticks: u64,
    /// Rows in which each gate failed.
    pub failed: [u64; 4],
}

/// Where each figure stands in a row.
struct Columns {
    count: usize,
    time: usize,
    workloads: Vec<[Option<usize>; 7]>,
    edges: Vec<(usize, usize)>,
    lag: Option<usize>,
    clients: Vec<usize>,
}

/// Replays a file into another; an `out` that was begun is left as it is when a row is refused.
///
/// # Errors
/// A sentence that names file, line, column and what is wrong with it.
pub fn files(config: &Path, trace: &Path, out: &Path) -> Result<Replayed, String> {
    let named = |path: &Path, e: &dyn std::fmt::Display| format!("{}: {e}", path.display());
    let open = |path: &Path| File::open(path).map_err(|e| named(path, &e));
    let mut text = String::new();
    open(config)?
        .take(CONFIG_BYTES_MAX)
        .read_to_string(&mut text)
        .map_err(|e| named(config, &e))?;
    let input = BufReader::new(open(trace)?);
    let output = File::create(out).map_err(|e| named(out, &e))?;
    replay(&text, input, BufWriter::new(output)).map_err(|e| named(trace, &e))
}

/// Replays a trace.
///
/// # Errors
/// As [`files`].
pub fn replay(
    config: &str,
    mut trace: impl BufRead,
    mut out: impl Write,
) -> Result<Replayed, String> {
    let config: Config = serde_json::from_str(config).map_err(|e| format!("config: {e}"))?;
    let mut line = String::new();
    read_line(&mut trace, &mut line, 1)?;
    let columns = Columns::find(&config, &line)?;
    let mut monitor = Monitor::new(watched(&config, &columns)?);
    let mut done = Replayed::default();
    let write = |e: std::io::Error| format!("output: {e}");
    writeln!(out, "t,{}", GATE_NAMES.join(",")).map_err(write)?;
    for number in 2.. {
        if read_line(&mut trace, &mut line, number)? == 0 {
            break;
        }
        if line.trim().is_empty() {
            continue;
        }
        let row = parse_row(&line, number, columns.count)?;
        let (_, failing) = monitor.step(&columns.tick(&row));
        let time = line.split(',').nth(columns.time).unwrap_or_default().trim();
        let [fit, gluing, uv, isolation] = failing.map(|f| if f { "FAIL" } else { "PASS" });
        writeln!(out, "{time},{fit},{gluing},{uv},{isolation}").map_err(write)?;
        done.ticks += 1;
        for (count, fails) in done.failed.iter_mut().zip(failing) {
            *count += u64::from(fails);
        }
    }
    out.flush().map_err(write)?;
    Ok(done)
}

fn read_line(trace: &mut impl BufRead, line: &mut String, number: usize) -> Result<usize, String> {
    line.clear();
    let bytes = trace
        .take(LINE_BYTES_MAX)
        .read_line(line)
        .map_err(|e| format!("line {number}: {e}"))?;
    if bytes as u64 == LINE_BYTES_MAX {
        return Err(format!("line {number}: at most {LINE_BYTES_MAX} bytes"));
    }
    Ok(bytes)
}

fn parse_row(line: &str, number: usize, count: usize) -> Result<Vec<f64>, String> {
    let cells = line.trim_end().split(',').enumerate();
    let row: Vec<f64> = cells
        .map(|(at, cell)| {
            let value: f64 = cell.trim().parse().unwrap_or(f64::NAN);
            if value.is_finite() {
                Ok(value)
            } else {
                let column = at + 1;
                Err(format!(
                    "line {number} column {column}: {cell:?} is no finite number"
                ))
            }
        })
        .collect::<Result<_, _>>()?;
    if row.len() != count {
        let found = row.len();
        return Err(format!(
            "line {number}: {found} columns, the header has {count}"
        ));
    }
    Ok(row)
}

fn watched(config: &Config, columns: &Columns) -> Result<Watched, String> {
    let workloads = config.workloads.iter().map(|w| {
        let name = &w.name;
        if !(w.grant_cores.is_finite() && w.grant_cores > 0.0) {
            return Err(format!(
                "config: {name}: grant_cores {}: above 0",
                w.grant_cores
            ));
        }
        let limit = match (w.rate, w.burst) {
            (None, None) => None,
            (Some(rate), burst) if rate > 0.0 && burst.unwrap_or(0.0) >= 0.0 => {
                Some((rate, burst.unwrap_or(0.0)))
            }
            (rate, burst) => {
                return Err(format!(
                    "config: {name}: rate {rate:?}, burst {burst:?}: above 0"
                ));
            }
        };
        Ok(Workload {
            grant_cores: w.grant_cores,
            limit,
        })
    });
    let lag_edge = config.lag_edge.as_ref();
    let lag_edge = lag_edge.map(|lag| {
        let found = config.edges.iter().position(|edge| edge == lag);
        found.ok_or_else(|| format!("config: lag_edge {lag:?}: none of the edges"))
    });
    Ok(Watched {
        workloads: workloads.collect::<Result<_, _>>()?,
        edges: columns.edges.len(),
        lag_edge: lag_edge.transpose()?,
        clients: columns.clients.len(),
    })
}

impl Columns {
    fn find(config: &Config, header: &str) -> Result<Self, String> {
        let names: Vec<&str> = header.trim_end().split(',').map(str::trim).collect();
        let clients: Vec<usize> = (0..names.len())
            .filter(|at| names.get(*at).is_some_and(|n| n.starts_with("client")))
            .collect();
        for (what, count) in [
            ("workloads", config.workloads.len()),
            ("edges", config.edges.len()),
            ("clients", clients.len()),
        ] {
            if count > PARTS_MAX {
                return Err(format!("{what} {count}: at most {PARTS_MAX}"));
            }
        }
        let find = |name: String| {
            let at = names.iter().position(|n| *n == name);
            at.ok_or_else(|| format!("line 1: column {name} is missing"))
        };
        let workloads = config.workloads.iter().map(|w| {
            let column = |kind: &str| find(format!("{kind}_{}", w.name)).map(Some);
            let rated = |kind: &str| w.rate.map_or(Ok(None), |_| column(kind));
            Ok([
                column("cpu")?,
                column("psi_cpu_some")?,
                column("throttled")?,
                column("p95_ms")?,
                rated("offered")?,
                rated("max10ms")?,
                rated("max100ms")?,
            ])
        });
        let workloads = workloads.collect::<Result<_, String>>()?;
        let edges = config.edges.iter().map(|(from, to)| {
            let sent = find(format!("sent_{from}{to}"))?;
            Ok((sent, find(format!("recv_{from}{to}"))?))
        });
        let edges = edges.collect::<Result<_, String>>()?;
        let lag = config.lag_edge.as_ref();
        let lag = lag
            .map(|_| find("ledger_head_lag".to_owned()))
            .transpose()?;
        Ok(Self {
            count: names.len(),
            time: find("t".to_owned())?,
            workloads,
            edges,
            lag,
            clients,
        })
    }

    fn tick(&self, row: &[f64]) -> Tick {
        let at = |column: usize| row.get(column).copied().unwrap_or(0.0);
        let optional = |column: Option<usize>| column.map_or(0.0, at);
        Tick {
            workloads: self
                .workloads
                .iter()
                .map(|columns| {
                    let [cpu, stalled, throttled, p95, offered, in_10ms, in_100ms] =
                        columns.map(optional);
                    Use {
                        cpu_cores: cpu,
                        stalled,
                        throttled,
                        p95_ms: p95,
                        offered: [offered, in_10ms, in_100ms],
                    }
                })
                .collect(),
            edges: self.edges.iter().map(|(s, r)| (at(*s), at(*r))).collect(),
            head_lag: optional(self.lag),
            clients: self.clients.iter().map(|c| at(*c)).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONFIG: &str = r#"{"workloads":[{"name":"A","grant_cores":0.5}],"edges":[["A","L"]]}"#;
    const HEADER: &str = "t,cpu_A,psi_cpu_some_A,throttled_A,p95_ms_A,served_A,sent_AL,recv_AL\n";

    fn run(config: &str, trace: &str) -> Result<(Replayed, String), String> {
        let mut out = Vec::new();
        let done = replay(config, trace.as_bytes(), &mut out)?;
        Ok((done, String::from_utf8(out).unwrap()))
    }

    fn trace(stalled_from: usize) -> String {
        let rows = (0..200).map(|t| {
            let stalled = if t < stalled_from { 0.01 } else { 0.8 };
            let count = 100 + (t * 7) % 5;
            format!("{t},0.25,{stalled},0,10,{count},{count},{count}\n")
        });
        std::iter::once(HEADER.to_owned()).chain(rows).collect()
    }

    #[test]
    fn a_fault_fails_its_gate_from_then_on() {
        let (calm, text) = run(CONFIG, &trace(1000)).unwrap();
        assert_eq!((calm.ticks, calm.failed), (200, [0; 4]));
        assert!(text.starts_with("t,fit,gluing,uv,isolation\n0,PASS,PASS,PASS,PASS\n"));
        let (faulty, text) = run(CONFIG, &trace(150)).unwrap();
        assert!(faulty.failed[3] > 40 && faulty.failed[..3] == [0; 3]);
        assert!(text.ends_with("199,PASS,PASS,PASS,FAIL\n"));
    }

    #[test]
    fn what_is_missing_or_no_number_is_named_with_its_line() {
        let error = |config: &str, trace: &str| run(config, trace).unwrap_err();
        assert!(error("{", HEADER).starts_with("config:"));
        assert!(error(CONFIG, "t,cpu_A\n").contains("psi_cpu_some_A is missing"));
        let row = |cells: &str| format!("{HEADER}{cells}\n");
        assert!(error(CONFIG, &row("0,1,2")).contains("line 2: 3 columns, the header has 8"));
        for bad in ["nan", "inf", "x", "", "1e999"] {
            let text = error(CONFIG, &row(&format!("0,{bad},0,0,1,1,1,1")));
            assert!(text.contains("line 2 column 2"), "{text}");
        }
        let none = r#"{"workloads":[{"name":"A","grant_cores":0}]}"#;
        assert!(error(none, HEADER).contains("grant_cores 0: above 0"));
        let lag = r#"{"workloads":[],"edges":[],"lag_edge":["A","B"]}"#;
        assert!(error(lag, "t,ledger_head_lag\n").contains("none of the edges"));
        let long = "x".repeat(LINE_BYTES_MAX as usize + 1);
        assert!(error(CONFIG, &long).contains("at most 65536 bytes"));
    }

    #[test]
    fn every_truncation_of_a_trace_is_a_verdict_or_a_refusal() {
        let whole: String = trace(1000)
            .lines()
            .take(4)
            .map(|l| format!("{l}\n"))
            .collect();
        for cut in 0..whole.len() {
            let result = run(CONFIG, &whole[..cut]);
            let complete = whole[..cut].lines().count();
            if let Ok((done, _)) = result {
                assert!(done.ticks < complete as u64);
            }
        }
    }
}
