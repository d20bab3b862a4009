//! Peers and services that mean ill: PID 1 goes on beating, answers, and keeps nothing of theirs.

use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::Value;
use sys::packet::{Mode, PacketSocket};
use system_tests::inputs::inputs;
use system_tests::process::Process;
use system_tests::program;
use wire::control::{BeatGet, LogGet, Power};

/// For a state that PID 1 comes to by itself.
const STEP_LIMIT: Duration = Duration::from_secs(60);
/// More than PID 1 has places for.
const PEERS: usize = 100;

fn until(what: &str, reached: impl Fn() -> bool) {
    let deadline = Instant::now() + STEP_LIMIT;
    while !reached() {
        assert!(Instant::now() < deadline, "never came: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn signal(pid: u64, name: &str) {
    system_tests::stdout_of(Command::new("kill").args(["-s", name, &pid.to_string()]));
}

fn open_files(process: &Process) -> usize {
    let folder = format!("/proc/{}/fd", process.pid());
    std::fs::read_dir(folder).expect("descriptors").count()
}

/// Children of PID 1, and how many of them are dead and not reaped.
fn children(process: &Process) -> (usize, usize) {
    let pid = process.pid();
    let list = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"));
    let list = list.expect("children");
    let dead = |pid: &&str| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        stat.contains(") Z ")
    };
    let all = list.split_whitespace();
    (all.clone().count(), all.filter(dead).count())
}

fn frame<M: wire::Message>(id: u64, message: &M) -> Vec<u8> {
    let mut buf = [0u8; 512];
    wire::encode(id, message, &mut buf)
        .expect("a frame")
        .to_vec()
}

/// A folder with the real PID 1 and services that do as `modes` says.
fn hostile(folder: &Path, state: &Path, modes: &[(&str, &str)]) -> PathBuf {
    let executable = folder.join("vector_boot");
    std::fs::copy(inputs().vector_boot(), &executable).expect("copy vector_boot");
    let program = program::compile("hostile", folder);
    std::fs::rename(program, folder.join("vb-services")).expect("rename");
    std::fs::create_dir_all(state).expect("state");
    for (name, mode) in modes {
        std::fs::write(state.join(format!("{name}.mode")), mode).expect("mode");
    }
    executable
}

#[test]
fn peers_that_never_read_send_rubbish_or_come_in_masses_leave_nothing_behind() {
    let folder = tempfile::tempdir().unwrap();
    let process = Process::ready(&folder.path().join("state"), &[]);
    let before = open_files(&process);
    let path = process.run().join("init.sock");
    let log = LogGet {
        name: "",
        lines: 1000,
        after: 0,
    };
    let good = [
        frame(1, &wire::Hello::OURS),
        frame(2, &log),
        frame(3, &BeatGet),
        frame(4, &Power::Halt),
    ];
    let memory = sys::memfd::sealed("unasked", b"for").unwrap();
    for round in 0..3 {
        let mut peers = Vec::new();
        for n in 0..PEERS {
            // Once the backlog is full the kernel says so; those that came are enough.
            let Ok(peer) = PacketSocket::connect(&path, Mode::NonBlocking) else {
                continue;
            };
            let hello = n % 5 != 0;
            if hello {
                // A peer that was turned away is part of the attack.
                let _ = peer.send(&good[0], None);
            }
            for turn in 0..300 {
                let sent = match (n + round) % 4 {
                    0 => peer.send(&good[1], Some(memory.as_fd())),
                    1 => peer.send(&good[1 + turn % 2], None),
                    2 => peer.send(
                        &vec![u8::try_from(turn % 256).unwrap(); 1 + turn * 40],
                        None,
                    ),
                    // Every shortening of good frames, but the whole order to halt.
                    _ => {
                        let frame = &good[turn % 4];
                        peer.send(&frame[..turn % frame.len()], None)
                    }
                };
                if sent.is_err() {
                    break;
                }
            }
            peers.push(peer);
        }
        let beats = || process.json(&["beat"])["count"].as_u64();
        drop(peers);
        until("a free place", || process.ctl(&["beat"]).status.success());
        assert!(beats().is_some());
    }
    until("as few descriptors as before", || {
        open_files(&process) <= before
    });
    assert_eq!(process.json(&["beat"])["missed"], 0);
    assert_eq!(process.json(&["status"])["state"], "ready");
    let refusals = process.ok(&["log", "-n", "1000"]);
    let refusals = refusals.lines().filter(|l| l.contains("refused")).count();
    assert!(refusals < 100, "strangers wrote {refusals} lines");
    assert!(process.end().success());
}

#[test]
fn services_that_flood_cost_no_beat_and_orphans_are_all_reaped() {
    let folder = tempfile::tempdir().unwrap();
    let state = folder.path().join("state");
    let modes = [
        ("ledger", "flood"),
        ("capacity", "notes"),
        ("gateway", "orphans"),
    ];
    let executable = hostile(folder.path(), &state, &modes);
    let process = Process::start(&executable, &state, &[]);
    until("orphans to be", || state.join("born").exists());
    let (before, _) = children(&process);
    // They die while PID 1 cannot look, so that it finds them all at once.
    signal(process.pid().into(), "STOP");
    std::fs::write(state.join("die"), "").unwrap();
    until("dead children", || children(&process).1 >= 700);
    signal(process.pid().into(), "CONT");
    until("no dead child", || children(&process) == (before, 0));
    let status = process.service("capacity")["status"].clone();
    assert!(!status.as_str().unwrap().contains('\x1b'), "{status}");
    assert_eq!(process.json(&["beat"])["missed"], 0);
    assert!(process.end().success());
}

#[test]
fn the_last_words_of_a_service_are_kept_and_its_readiness_is_not() {
    let folder = tempfile::tempdir().unwrap();
    let state = folder.path().join("state");
    let executable = hostile(folder.path(), &state, &[("ledger", "last words")]);
    let process = Process::start(&executable, &state, &[]);
    let row = process.until_service("ledger", |row| row["restarts"] == 1 && row["pid"] != 0);
    let words = process.ok(&["log", "ledger", "-n", "1000"]);
    assert!(words.contains("these were the last words"), "{words}");
    // Ten beats later nothing has made the second one ready.
    let beat = || process.json(&["beat"])["count"].as_u64().unwrap();
    let later = beat() + 10;
    until("ten beats", || beat() >= later);
    assert_eq!(process.service("ledger")["state"], "starting", "{row}");
    assert!(process.end().success());
}

#[test]
fn no_event_is_lost_or_doubled_while_the_ledger_stops_and_dies() {
    const ROUNDS: usize = 6;
    const COMMANDS: usize = 5;
    let folder = tempfile::tempdir().unwrap();
    let process = Process::ready(&folder.path().join("state"), &[]);
    for round in 0..ROUNDS {
        let row = process.until_service("ledger", |row| row["state"] == "up");
        let pid = row["pid"].as_u64().unwrap();
        signal(pid, if round % 2 == 0 { "STOP" } else { "KILL" });
        for _ in 0..COMMANDS {
            process.ok(&["signal", "net", "CONT"]);
        }
        let goes_on = round % 4 == 0;
        if round % 2 == 0 {
            signal(pid, if goes_on { "CONT" } else { "KILL" });
        }
        process.until_service("ledger", |row| {
            row["state"] == "up" && (goes_on || row["pid"] != pid)
        });
    }
    let count = |events: &[Value], kind: &str| {
        let of_kind = events.iter().filter(|e| e["event_type"] == kind);
        of_kind.count()
    };
    let all = || process.json(&["ledger", "query", "-n", "500"])["events"].clone();
    until("every command recorded", || {
        count(all().as_array().unwrap(), "command") >= ROUNDS * COMMANDS
    });
    let events = all();
    let events = events.as_array().unwrap();
    assert_eq!(count(events, "command"), ROUNDS * COMMANDS);
    let row = process.service("ledger");
    assert_eq!(
        Some(count(events, "service_exited") as u64),
        row["restarts"].as_u64()
    );
    let ids = events.iter().map(|e| e["id"].as_u64().unwrap());
    assert!(
        ids.clone()
            .eq(ids.clone().min().unwrap()..=ids.max().unwrap())
    );
    assert_eq!(process.json(&["ledger", "verify"])["holds"], true);
    assert!(process.end().success());
}

#[test]
fn parameters_that_would_wait_are_refused_in_a_sentence() {
    let folder = tempfile::tempdir().unwrap();
    let fifo = folder.path().join("fifo");
    system_tests::stdout_of(Command::new("mkfifo").arg(&fifo));
    let fifo = fifo.to_str().unwrap();
    let manifest = format!("vb.manifest={fifo}");
    let words = [
        "--rts",
        fifo,
        "--param",
        &manifest,
        "--param",
        "vb.http=name.invalid:80",
    ];
    let process = Process::start(
        &inputs().vector_boot(),
        &folder.path().join("state"),
        &words,
    );
    let status = process.json(&["status"]);
    let reason = status["reason"].as_str().unwrap();
    assert!(
        reason.contains("neither a regular file nor a block device"),
        "{reason}"
    );
    assert!(
        reason.contains("listen http on name.invalid:80: invalid"),
        "{reason}"
    );
    assert!(process.end().success());
}

/// The helper's process.
fn helper(process: &Process) -> Option<u64> {
    let pid = process.pid();
    let list = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).ok()?;
    let is_helper = |pid: &&str| {
        let name = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        name.trim() == "helper"
    };
    list.split_whitespace().find(is_helper)?.parse().ok()
}

#[test]
fn a_helper_that_stops_is_named_and_replaced_while_the_beat_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let process = Process::ready(&folder.path().join("state"), &[]);
    until("the helper", || helper(&process).is_some());
    let first = helper(&process).expect("a helper");
    let beats = || process.json(&["beat"])["count"].as_u64().expect("a count");
    signal(first, "STOP");
    let before = beats();
    until("the machine is degraded", || {
        let status = process.json(&["status"]);
        let reason = status["reason"].as_str().expect("a reason");
        status["state"] == "degraded" && reason.contains(&format!("helper: pid {first} was let go"))
    });
    // Long before it was noticed, and after.
    assert!(
        beats() > before + 15,
        "{before} beats before, {} after",
        beats()
    );
    until("another helper answers", || {
        helper(&process) != Some(first) && process.json(&["status"])["state"] == "ready"
    });
    assert_eq!(process.json(&["beat"])["missed"], 0);
    until("the event", || {
        let events = process.ok(&["ledger", "query", "--type", "machine_recovered"]);
        events.contains("was let go and has not ended")
    });
    assert!(process.end().success());
}
