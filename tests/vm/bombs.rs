//! Services that go wrong in every way at once: their limits hold them, and nobody else notices.
//!
//! The machine's time is the count of its instructions: what a busy host takes away from an emulated processor would
//! count as that processor's work, and a beat is missed that took its whole period of processor time.

use serde_json::Value;
use std::collections::BTreeMap;
use system_tests::machine::{Machine, Options};
use system_tests::{package, program};

use crate::options;

/// Below what the fork bomb asks for by far.
const PIDS_MAX: usize = 24;
const LOG_RATE: u32 = 50;
/// What PID 1 has of its own after all of it: 192 KiB for thirteen services, and the 64 pages by which the kernel's
/// count may be behind.
const OWN_BYTES_MAX: u64 = (192 + 256) * 1024;
/// Beats that pass while the bombs are lit.
const BEATS: u64 = 20;
/// The longest that a beat may begin late, and the longest that one may take: a twentieth of its period.
const BEAT_NS_MAX: u64 = 5_000_000;
/// Beats from a question to its answer.
const ANSWER_BEATS: u64 = 10;

/// The bombs are lit one by one, by hand: `restart = "never"` ends those that end, and `stop` the others.
fn bombs() -> String {
    let bomb = |word: &str, lines: &str| {
        format!(
            "\n[[service]]\nname = \"{word}\"\nimage = \"bombs\"\nargs = [\"{word}\"]\n{lines}\n"
        )
    };
    [
        "\n[[service]]\nname = \"witness\"\nimage = \"ticker\"\n".to_owned(),
        bomb("fork", &format!("pids_max = {PIDS_MAX}\ncpu_weight = 1")),
        bomb(
            "memory",
            "memory_max_bytes = 16_777_216\nintensity_max = 3\nbackoff_ms_max = 200",
        ),
        bomb("flood", &format!("log_rate = {LOG_RATE}\ncpu_weight = 1")),
        bomb("deaf", "stop_timeout_ms = 1_000"),
        bomb("orphans", "restart = \"never\""),
        bomb("cpu", "cpu_weight = 1"),
    ]
    .concat()
}

fn rows(services: &Value) -> BTreeMap<String, Value> {
    let rows = services["services"].as_array().expect("services");
    rows.iter()
        .map(|row| {
            (
                row["name"].as_str().expect("a name").to_owned(),
                row.clone(),
            )
        })
        .collect()
}

/// The row of a service once it is as wanted.
fn until(machine: &mut Machine, name: &str, wanted: impl Fn(&Value) -> bool) -> Value {
    machine.until("services --json", |text| {
        let services: Value = serde_json::from_str(text).ok()?;
        rows(&services).remove(name).filter(|row| wanted(row))
    })
}

/// How many processes run under a service's uid, as `ps --json` has it.
fn processes(ps: &str, row: &Value) -> Option<usize> {
    let ps: Value = serde_json::from_str(ps).ok()?;
    let all = ps["processes"].as_array()?;
    Some(all.iter().filter(|p| p["uid"] == row["uid"]).count())
}

/// Waits until so many of a service's processes are there. What was killed still takes its turn to end, and those
/// with the least weight wait longest for it.
fn until_processes(machine: &mut Machine, row: &Value, wanted: usize) {
    machine.until("ps --json", |text| {
        (processes(text, row)? == wanted).then_some(())
    });
}

/// Beats that pass between two answers of the console; the least of some, since the host may be busy too.
fn answer_beats(machine: &mut Machine) -> u64 {
    let mut count = || machine.json("beat")["count"].as_u64().expect("a count");
    (0..5)
        .map(|_| {
            let before = count();
            count() - before
        })
        .min()
        .expect("a difference")
}

/// The witness's counts, as the log has them.
fn testimony(machine: &mut Machine) -> Vec<u64> {
    let log = machine.json("log witness -n 20");
    let lines = log["lines"].as_array().expect("lines");
    lines
        .iter()
        .filter_map(|line| line["text"].as_str()?.rsplit_once("count=")?.1.parse().ok())
        .collect()
}

#[test]
fn bombs_are_contained_and_nobody_else_notices() {
    let folder = tempfile::tempdir().unwrap();
    let manifest = folder.path().join("app.toml");
    std::fs::write(&manifest, package::default_manifest() + &bombs()).unwrap();
    let add = [
        format!(
            "bombs={}",
            program::compile_c("bombs", folder.path()).display()
        ),
        format!(
            "ticker={}",
            program::compile("ticker", folder.path()).display()
        ),
    ];
    let words = ["--manifest", manifest.to_str().unwrap()];
    let words = [&words[..], &["--add", &add[0], "--add", &add[1]]].concat();
    let package = package::pack_default(folder.path(), "app.rts", &words);
    let mut machine = Machine::boot(&Options {
        package: Some(package),
        icount: true,
        ..options(folder.path())
    });
    for name in ["ledger", "capacity", "gateway", "console", "witness"] {
        until(&mut machine, name, |row| row["state"] == "up");
    }
    let before = rows(&machine.json("services"));

    // All of them are lit by now: none waits for another.
    let fork = until(&mut machine, "fork", |row| row["state"] == "up");
    let reached = machine.until("ps --json", |text| {
        processes(text, &fork).filter(|count| *count >= PIDS_MAX)
    });
    assert_eq!(reached, PIDS_MAX, "pids.max is the limit");

    let memory = until(&mut machine, "memory", |row| row["state"] == "failed");
    let cause = memory["last_exit"].as_str().expect("a cause");
    assert!(cause.contains("out of memory"), "{memory}");

    let dropped = machine.until("log flood -n 200", |text| {
        text.lines()
            .find(|line| line.contains("lines dropped"))
            .map(str::to_owned)
    });
    assert!(
        dropped.contains(&format!("over {LOG_RATE} a second")),
        "{dropped}"
    );
    let counts = testimony(&mut machine);
    assert!(
        counts.len() > 1 && counts.windows(2).all(|pair| pair[1] == pair[0] + 1),
        "the witness's lines have gaps: {counts:?}"
    );

    let orphans = until(&mut machine, "orphans", |row| row["state"] == "stopped");
    until_processes(&mut machine, &orphans, 0);

    machine.until("beat --json", |text| {
        let beat: Value = serde_json::from_str(text).ok()?;
        (beat["count"].as_u64()? >= BEATS).then_some(())
    });
    let answered = answer_beats(&mut machine);
    assert!(answered <= ANSWER_BEATS, "an answer took {answered} beats");

    let deaf = until(&mut machine, "deaf", |row| row["state"] == "up");
    // It and its child.
    until_processes(&mut machine, &deaf, 2);
    machine.ok("stop deaf");
    let deaf = until(&mut machine, "deaf", |row| row["state"] == "stopped");
    assert!(
        deaf["last_exit"].as_str().unwrap().contains("KILL"),
        "{deaf}"
    );
    until_processes(&mut machine, &deaf, 0);
    machine.until("log init -n 200", |text| {
        text.contains("service killed: name=deaf").then_some(())
    });
    for name in ["fork", "flood", "cpu"] {
        machine.ok(&format!("stop {name}"));
        let row = until(&mut machine, name, |row| row["state"] == "stopped");
        until_processes(&mut machine, &row, 0);
    }

    let after = rows(&machine.json("services"));
    for name in ["ledger", "capacity", "gateway", "console", "net", "witness"] {
        assert_eq!(
            after[name]["pid"], before[name]["pid"],
            "{name} was touched"
        );
        assert_eq!(after[name]["restarts"], before[name]["restarts"], "{name}");
    }
    let beat = machine.json("beat");
    assert_eq!(beat["missed"], 0, "{beat}");
    for key in ["late_max_ns", "cpu_max_ns"] {
        let ns = beat[key].as_u64().expect(key);
        assert!(ns <= BEAT_NS_MAX, "{key}: {beat}");
    }
    println!("bombs: {beat}");
    let memory = machine.json("mem");
    let own = memory["processes"][0]["own_bytes"].as_u64();
    assert!(own.is_some_and(|own| own <= OWN_BYTES_MAX), "{memory}");
    machine.power_off();
}
