//! `process_list`: the processes of the machine, without arguments and environments.

use super::{Effect, Failure, Invalid, Meter, Prepared, Runs, Tool, World};
use crate::reality::Reality;
use serde_json::{Map, Value, json};
use std::fs::File;
use std::io::Read;
use std::os::fd::AsFd;
use sys::beneath::{self, Access};

/// Processes of one answer at most.
pub const PROCESSES_MAX: u64 = 4_096;
/// Processes of one answer unless asked otherwise.
const PROCESSES_DEFAULT: u64 = 1_024;
/// Entries of /proc looked at: pid_max of a small machine, and the plain files before them.
const ENTRIES_MAX: usize = 40_000;
/// A `stat` line holds some fifty numbers and a name of 64 bytes.
const STAT_BYTES_MAX: u64 = 4_096;

/// The row of this tool.
pub const TOOL: Tool = Tool {
    name: "process_list",
    description: "Lists processes: pid, parent, name, state, resident memory. No arguments, no environment.",
    schema: r#"{"type":"object","properties":{"limit":{"type":"integer","minimum":1,"maximum":4096,"default":1024}},"additionalProperties":false}"#,
    torsion: 0.0,
    runs: Runs::InProcess,
    effect: Effect::Reads,
    cpu_us: 5_000,
    memory_bytes: 256 << 10,
    prepare,
};

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Params {
    limit: Option<u64>,
}

fn prepare<'w>(world: &'w World, members: &'w Map<String, Value>) -> Result<Prepared<'w>, Invalid> {
    let p: Params = super::params(members)?;
    let limit = super::within(
        "limit",
        p.limit.unwrap_or(PROCESSES_DEFAULT),
        1,
        PROCESSES_MAX,
    )?;
    let (reality, proc) = match world.proc.as_ref() {
        None => (Reality::nothing("target_missing"), None),
        Some(p) if beneath::is_proc(p).unwrap_or(false) => (Reality::USABLE, Some(p)),
        Some(_) => (Reality::exists("not_proc"), None),
    };
    let act =
        proc.map(|proc| -> super::Act<'w> { Box::new(move |meter| list(proc, limit, meter)) });
    Ok(Prepared {
        reality,
        root: None,
        act,
    })
}

fn list(proc: &File, limit: u64, meter: &mut Meter) -> Result<Value, Failure> {
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    // The held descriptor's position is shared by all calls, so each takes one of its own.
    let directory = beneath::open(proc.as_fd(), b".", Access::List)?;
    let mut pids: Vec<u32> = beneath::entries(&directory, 0, ENTRIES_MAX)?
        .iter()
        .filter_map(|e| std::str::from_utf8(&e.name).ok()?.parse().ok())
        .collect();
    pids.sort_unstable();
    let total = pids.len();
    let mut rows = Vec::new();
    for pid in pids.into_iter().take(limit) {
        // A process may end between the listing and the look: it is left out.
        if let Some(line) = stat_line(&directory, pid) {
            meter.bytes_copied += line.len() as u64;
            rows.extend(parse(pid, &line));
        }
    }
    Ok(json!({ "processes": rows, "truncated": total > limit }))
}

fn stat_line(proc: &File, pid: u32) -> Option<String> {
    let path = format!("{pid}/stat");
    let file = beneath::open(proc.as_fd(), path.as_bytes(), Access::Read).ok()?;
    let mut line = Vec::new();
    file.take(STAT_BYTES_MAX).read_to_end(&mut line).ok()?;
    Some(String::from_utf8_lossy(&line).into_owned())
}

/// Takes apart `PID (COMM) STATE PPID ...`, proc_pid_stat(5); a name may hold `)` and blanks, so the
/// last `)` ends it.
fn parse(pid: u32, line: &str) -> Option<Value> {
    let (head, tail) = line.rsplit_once(')')?;
    let (_, comm) = head.split_once('(')?;
    let mut fields = tail.split_ascii_whitespace();
    let state = fields.next()?;
    let ppid: u32 = fields.next()?.parse().ok()?;
    // rss is field 24; state was 3 and ppid 4.
    let pages: u64 = fields.nth(19)?.parse().ok()?;
    Some(json!({
        "pid": pid, "ppid": ppid, "comm": comm, "state": state,
        "rss_bytes": pages.saturating_mul(sys::mapping::page_bytes() as u64),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hostile_name_does_not_shift_the_fields() {
        let line = "7 (a) R 1 (b)) S 3 7 7 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 100 4096 25 1 1";
        let row = parse(7, line).unwrap();
        assert_eq!(row["comm"], "a) R 1 (b)");
        assert_eq!(row["ppid"], 3);
        assert_eq!(row["rss_bytes"], 25 * sys::mapping::page_bytes());
        for cut in 0..line.len() {
            let _ = parse(7, &line[..cut]);
        }
        assert!(parse(7, "7 (x) S 3").is_none());
    }

    #[test]
    fn our_own_process_is_listed_without_its_arguments() {
        let proc = File::open("/proc").unwrap();
        let data = list(&proc, PROCESSES_MAX, &mut Meter::default()).unwrap();
        let own = std::process::id();
        let rows = data["processes"].as_array().unwrap();
        let row = rows.iter().find(|r| r["pid"] == own).unwrap();
        let mut keys: Vec<_> = row.as_object().unwrap().keys().collect();
        keys.sort();
        assert_eq!(keys, ["comm", "pid", "ppid", "rss_bytes", "state"]);
        assert!(row["rss_bytes"].as_u64().unwrap() > 0);
    }
}
