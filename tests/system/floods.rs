//! Peers in masses, servers that have stopped: honest clients get their answers, or are told that there is
//! none; nobody's memory grows.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::json;
use sys::packet::{Mode, PacketSocket};
use system_tests::inputs::repository;
use system_tests::process::Process;

use crate::frames::{open_to_all, standing, unharmed};

/// For a state that comes by itself.
const LIMIT: Duration = Duration::from_secs(60);
/// What a server may hold for the connections and lines of a crowd, in KiB; see the limits in
/// `docs/wire.md`. Unbounded queues take as much in a second.
const GROWTH_KIB_MAX: u64 = 64 * 1024;

/// Resident memory of a process.
fn memory_kib(pid: u64) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("a status");
    let line = status.lines().find(|l| l.starts_with("VmRSS:"));
    let number = line.and_then(|l| l.split_whitespace().nth(1));
    number.and_then(|n| n.parse().ok()).expect("VmRSS")
}

/// One user's service gone mad.
fn flood(uid: u32, run: &Path) -> (Child, BufReader<std::process::ChildStdout>) {
    let mut child = Command::new("python3")
        .arg(repository().join("tests/programs/flood.py"))
        .arg(uid.to_string())
        .arg(run)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("start python3");
    let said = BufReader::new(child.stdout.take().expect("a pipe"));
    (child, said)
}

#[test]
fn floods_of_users_cost_no_beat_no_memory_and_keep_nobody_out() {
    assert_eq!(sys::packet::own_uid(), 0, "other uids need root");
    let folder = tempfile::tempdir().unwrap();
    let process = open_to_all(folder.path());
    let before = standing(&process);
    let servers = ["ledger", "capacity", "gateway"];
    let pids: Vec<(&str, u64)> = servers
        .iter()
        .map(|name| (*name, process.service(name)["pid"].as_u64().unwrap()))
        .chain([("init", process.pid().into())])
        .collect();
    let memory: Vec<u64> = pids.iter().map(|(_, pid)| memory_kib(*pid)).collect();
    let mut floods: Vec<_> = (30_000..30_003)
        .map(|uid| flood(uid, process.run()))
        .collect();
    let mut line = String::new();
    for (_, said) in &mut floods {
        said.read_line(&mut line).expect("a line");
    }
    assert_eq!(line, "flooding\n".repeat(floods.len()));
    let token = process.json(&["gateway", "token"])["token"].clone();
    let call = json!({"tool": "fs_read", "params": {"root": "work", "path": "welcome.txt"}});
    for _ in 0..10 {
        process.ok(&["status"]);
        process.ok(&["ledger", "head"]);
        process.ok(&["capacity", "state"]);
        let reply = process.call(token.as_str(), &call);
        assert_eq!(reply.status, 200, "{}", reply.body);
        for ((name, pid), before) in pids.iter().zip(&memory) {
            let now = memory_kib(*pid);
            assert!(
                now < before + GROWTH_KIB_MAX,
                "{name}: {before} to {now} KiB"
            );
        }
    }
    for (mut child, mut said) in floods {
        drop(child.stdin.take());
        let mut line = String::new();
        said.read_line(&mut line).expect("a line");
        assert!(line.starts_with("done "), "{line}");
        assert!(child.wait().expect("python3 ends").success());
    }
    unharmed(&process, &before);
    let lines = process.ok(&["log", "-n", "2000"]);
    let rude = lines.lines().filter(|l| l.contains("refused")).count();
    assert!((1..60).contains(&rude), "{rude} lines: {lines}");
    assert!(process.end().success());
}

#[test]
fn commands_to_who_has_stopped_end_with_a_sentence() {
    let folder = tempfile::tempdir().unwrap();
    let process = Process::ready(&folder.path().join("state"), &[]);
    let ledger = process.service("ledger")["pid"].as_u64().unwrap();
    let signal = |pid: u64, name: &str| {
        system_tests::stdout_of(Command::new("kill").args(["-s", name, &pid.to_string()]));
    };
    let fails = |words: &[&str], who: &str| {
        let result = process.ctl(words);
        let said = String::from_utf8_lossy(&result.stderr).into_owned();
        assert_eq!(result.status.code(), Some(1), "{words:?}: {said}");
        assert!(said.contains(&format!("{who} does not answer")), "{said}");
    };
    signal(ledger, "STOP");
    fails(&["ledger", "head"], "ledger");
    let path = process.run().join("ledger.sock");
    // Nobody takes these: the backlog fills until the kernel lets the next one wait.
    let patience = Duration::from_millis(20);
    let held: Vec<_> =
        std::iter::from_fn(|| sys::packet::connect_stream_within(&path, patience).ok())
            .take(5000)
            .collect();
    assert!(held.len() < 5000, "the backlog has no end");
    fails(&["ledger", "head"], "ledger");
    drop(held);
    signal(ledger, "CONT");

    signal(process.pid().into(), "STOP");
    fails(&["status"], "PID 1");
    let path = process.run().join("init.sock");
    let held: Vec<_> = std::iter::from_fn(|| PacketSocket::connect(&path, Mode::NonBlocking).ok())
        .take(5000)
        .collect();
    assert!(held.len() < 5000, "the backlog has no end");
    fails(&["status"], "PID 1");
    // The gateway goes on without PID 1, whose queue of messages is full meanwhile.
    let token_less = json!({"tool": "fs_read", "params": {}});
    let deadline = Instant::now() + 12 * Duration::from_secs(1);
    while Instant::now() < deadline {
        assert_eq!(process.call(None, &token_less).status, 401);
        std::thread::sleep(Duration::from_millis(500));
    }
    drop(held);
    signal(process.pid().into(), "CONT");
    let deadline = Instant::now() + LIMIT;
    while !process.ctl(&["status"]).status.success() {
        assert!(Instant::now() < deadline, "PID 1 does not come back");
    }
    process.ok(&["ledger", "head"]);
    assert!(process.end().success());
}
