//! Drills: what takes over a minute and is run by name, `tests/run --drill NAME`.
//!
//! A drill panics where its promise does not hold, and prints what it did. Start with [`DRILLS`].
#![forbid(unsafe_code)]

mod dhcp;
mod figures;
mod kills;

use std::process::{Command, ExitCode};

use system_tests::inputs::{inputs, repository};

/// A drill takes nothing; everything that it chooses by chance comes from a fixed seed.
type Drill = fn();

/// Every drill, by name, with what it shows.
const DRILLS: &[(&str, &str, Drill)] = &[
    (
        "kills",
        "20 rounds of SIGKILL to every service in random order: each comes back, nothing else is touched or lost",
        kills::drill,
    ),
    (
        "dhcp",
        "the role net against dnsmasq: bound, renewed, a link lost and found, a server that dies; needs root",
        dhcp::drill,
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
];

/// The demonstration checks its own steps.
fn demo() {
    let mut demo = Command::new(repository().join("qemu/demo"));
    print!(
        "{}",
        system_tests::stdout_of(demo.arg("--bin").arg(&inputs().bin))
    );
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
