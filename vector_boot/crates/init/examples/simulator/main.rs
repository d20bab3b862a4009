//! Simulated machines for as long as asked: `cargo run --release -p init --example simulator -- YEARS [SEED]`.
//!
//! Ends with the years that were simulated in one second of the host, or with the first schedule that broke something,
//! made smaller. The same world runs for single days in the ordinary tests (`tests/simulator.rs`).
#![forbid(unsafe_code)]

mod world;

use std::process::ExitCode;
use std::time::Instant;
use world::{DAY, Figures, Options};

const DAYS_A_MACHINE: u64 = 30;

fn main() -> ExitCode {
    let mut words = std::env::args().skip(1).map(|word| word.parse::<u64>());
    let years = words.next().and_then(Result::ok).unwrap_or(10);
    let first = words.next().and_then(Result::ok).unwrap_or(1);
    let begun = Instant::now();
    let mut all = Figures::default();
    let mut machines = 0;
    for seed in first.. {
        if all.nanoseconds >= years * 365 * DAY {
            break;
        }
        let options = Options::all(seed, DAYS_A_MACHINE * DAY);
        match world::run(options) {
            Ok(figures) => all += figures,
            Err(error) => {
                eprintln!("{}", world::shrink(options, error));
                return ExitCode::FAILURE;
            }
        }
        machines += 1;
    }
    let simulated = all.nanoseconds as f64 / (365 * DAY) as f64;
    let seconds = begun.elapsed().as_secs_f64();
    println!(
        "{simulated:.1} years of {machines} machines in {seconds:.1} s, {:.2} years a second: \
         {} starts, {} failures, {} takeovers, {} steps, nothing broke",
        simulated / seconds,
        all.starts,
        all.failures,
        all.takeovers,
        all.steps
    );
    ExitCode::SUCCESS
}
