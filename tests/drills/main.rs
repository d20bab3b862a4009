//! Drills: what takes over a minute and is run by name, `tests/run --drill NAME`.
//!
//! A drill panics where its promise does not hold, and prints what it did. Start with [`DRILLS`].
#![forbid(unsafe_code)]

mod crashes;
mod dhcp;
mod evolution;
mod figures;
mod foreign_verifier;
mod fuzz;
mod health;
mod kills;
mod library;
mod patching;
mod power_cuts;
mod upgrades;
mod watchdog;

use std::process::{Command, ExitCode};

use system_tests::inputs::{inputs, repository};

/// A drill takes at most a number from the command line; everything that it chooses by chance comes from a fixed seed.
type Drill = fn();

/// Every drill, by name, with what it shows.
const DRILLS: &[(&str, &str, Drill)] = &[
    (
        "kills",
        "20 rounds of SIGKILL to every service in random order: each comes back, nothing else is touched or lost",
        kills::drill,
    ),
    (
        "crashes",
        "60 crashes of PID 1 and 500 (or as many as the next word says) of SIGKILL and SIGSTOP to services: nothing is lost",
        crashes::drill,
    ),
    (
        "evolution",
        "10,000 mutations under SIGKILL to cortex, SIGKILL to PID 1 and crashes of PID 1: exactly the journalled generation",
        evolution::drill,
    ),
    (
        "upgrades",
        "100 upgrades and rollbacks in turn, PID 1 with its services, under a client: no call fails, nothing is lost",
        upgrades::drill,
    ),
    (
        "watchdog",
        "the chipset's watchdog bites a machine whose PID 1 hangs, and the next boot says so",
        watchdog::drill,
    ),
    (
        "patching",
        "a kernel patches its own code while both processors run it, and an emulated machine runs what it patched",
        patching::drill,
    ),
    (
        "health",
        "the health gate restarts a machine whose core service keeps failing, once as told, and then leaves it alone",
        health::drill,
    ),
    (
        "disk-model",
        "10,000 cuts of the power (or five times as many seeds as the next word says) on a model of the log's disk",
        disk_model,
    ),
    (
        "power-cuts",
        "a machine under load, its disk as it was at every flush and torn behind it: what was answered is in the log",
        power_cuts::drill,
    ),
    (
        "bus",
        "100,000 messages on the bus, doubled, their consumers cut and the ledger killed: each has one effect",
        bus,
    ),
    (
        "foreign-verifier",
        "PyPI's aics-tlog accepts what the ledger exports, and names the entry behind a flipped byte",
        foreign_verifier::drill,
    ),
    (
        "ten-million",
        "a log of ten million events (or as many as the next word says): starts, queries, memory, disk; takes 5 GB in TMPDIR",
        ten_million,
    ),
    (
        "simulator",
        "years of simulated machines under the supervision's policy, with takeovers of PID 1: no promise breaks",
        simulator,
    ),
    (
        "dhcp",
        "the role net against dnsmasq: bound, renewed, a link lost and found, a server that dies; needs root",
        dhcp::drill,
    ),
    (
        "library",
        "the shared library under valgrind, and a million calls of each kind: no invalid access, nothing kept",
        library::drill,
    ),
    (
        "fuzz",
        "every parser of hostile bytes under libFuzzer, a minute each (or as many seconds as the next word says)",
        fuzz::drill,
    ),
    (
        "demo",
        "qemu/demo holds every step: read, refusal, kill, power cut, verify, a flipped byte",
        demo,
    ),
    (
        "figures",
        "sizes, memory and boot phases of the appliance build, as the tables of docs/benchmarks.md",
        figures::drill,
    ),
    (
        "init-bench",
        "PID 1 beside C floors and Debian's others, counted in instructions: start, kill, zombies, memory",
        init_bench,
    ),
    (
        "init-budget",
        "instructions from the handoff to three services up, against what tests/bench/init/budget.json allows",
        init_budget,
    ),
    (
        "hour",
        "an hour of a machine's time under kills and questions: no growth of memory, descriptors, cgroups, threads",
        hour,
    ),
];

/// The demonstration checks its own steps.
fn demo() {
    let mut demo = Command::new(repository().join("qemu/demo"));
    print!(
        "{}",
        system_tests::stdout_of(demo.arg("--bin").arg(&inputs().bin))
    );
}

/// The log alone, then with all that lies beside it, under cuts and kills at any operation; a failure names
/// its seed.
fn disk_model() {
    let seeds = std::env::args().nth(2);
    let seeds: u64 = seeds.map_or(1000, |n| n.parse().expect("a number of seeds"));
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());
    let words = [
        "test",
        "--locked",
        "-p",
        "ledger",
        "--test",
        "crash_model",
        "--test",
        "folder_model",
        "power_cuts",
        "--",
        "--nocapture",
    ];
    let ended = Command::new(cargo)
        .current_dir(repository())
        .env("VB_DISK_MODEL", format!("0..{seeds}"))
        .args(words)
        .status();
    assert!(ended.is_ok_and(|s| s.success()), "a promise broke");
}

/// The service over a log of its own making, in a release build.
fn ten_million() {
    let folder = std::env::temp_dir().join(format!("vb-ten-million-{}", std::process::id()));
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());
    let words = "run --locked --release -p ledger --example ten_million --";
    let ended = Command::new(cargo)
        .current_dir(repository())
        .args(words.split(' '))
        .arg(&folder)
        .args(std::env::args().nth(2))
        .status();
    // Whatever became of it, five gigabytes are not left behind.
    let removed = std::fs::remove_dir_all(&folder);
    assert!(ended.is_ok_and(|s| s.success()), "a promise broke");
    removed.expect("remove the log");
}

/// The test of every run, with ten times the messages.
fn bus() {
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());
    let test = "whatever_is_doubled_cut_or_killed_each_message_has_one_effect";
    let words = [
        "test", "--locked", "-p", "ledger", "--test", "process", "--", test,
    ];
    let ended = Command::new(cargo)
        .current_dir(repository())
        .args(words)
        .env("VB_BUS_MESSAGES", "100000")
        .status();
    assert!(
        ended.is_ok_and(|s| s.success()),
        "a message was lost or had two effects"
    );
}

/// A failing seed prints its schedule, made smaller.
fn simulator() {
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());
    let words = [
        "run",
        "--locked",
        "--release",
        "-p",
        "init",
        "--example",
        "simulator",
        "--",
        "20",
    ];
    let ended = Command::new(cargo)
        .current_dir(repository())
        .args(words)
        .status();
    assert!(ended.is_ok_and(|s| s.success()), "a promise broke");
}

/// The table of docs/benchmarks.md; some minutes, most of them for ten thousand zombies a peer.
fn init_bench() {
    bench(&[]);
}

/// One boot of the appliance build, whose minutes are why this is a drill.
fn init_budget() {
    bench(&["--budget"]);
}

/// An hour for the machine, some minutes for the host.
fn hour() {
    bench(&["--hour"]);
}

/// The bench is a program of its own: it builds, boots and prints as it goes.
fn bench(words: &[&str]) {
    let root = repository();
    let tools = Command::new(root.join("qemu/host-tools"))
        .args(["boot", "build", "bench"])
        .status();
    assert!(tools.is_ok_and(|s| s.success()), "host-tools bench");
    let path =
        std::env::join_paths([root.join("qemu"), root.join("tests/bench")]).expect("two folders");
    let ended = Command::new("python3")
        .args(["-m", "init"])
        .args(words)
        .env("PYTHONPATH", path)
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .status();
    assert!(ended.is_ok_and(|s| s.success()), "the bench failed");
}

fn main() -> ExitCode {
    let word = std::env::args().nth(1).unwrap_or_else(|| "list".to_owned());
    if word == "list" {
        for (name, shows, _) in DRILLS {
            println!("{name}  {shows}");
        }
        return ExitCode::SUCCESS;
    }
    let Some((name, _, drill)) = DRILLS.iter().find(|(name, ..)| *name == word) else {
        eprintln!("drill {word}: unknown; list names them");
        return ExitCode::from(2);
    };
    let begun = std::time::Instant::now();
    // A panic ends the process with its message and a code that is not 0.
    drill();
    println!("drill {name}: passed in {} s", begun.elapsed().as_secs());
    ExitCode::SUCCESS
}
