//! How long a beat's neural work takes on this machine: `cargo run --release -p neural --example beat`.

use neural::{BeatInput, Runtime};
use std::time::{Duration, Instant};

/// Beats measured.
const BEATS: u64 = 2_000;

fn main() -> std::io::Result<()> {
    let (_page, mut runtime) = Runtime::create()?;
    runtime.set_data(Some(std::fs::File::open(".")?.into()));
    runtime.take_model(None, Duration::ZERO);
    let begun = Instant::now();
    let mut spans: Vec<Duration> = (1..=BEATS)
        .map(|beat| {
            let input = BeatInput {
                now: begun.elapsed(),
                beat,
                period: Duration::from_millis(100),
                lateness: Duration::ZERO,
                work: Duration::ZERO,
                services: &[],
                watchdog_slack: None,
                period_usual: Duration::from_millis(100),
                steady: true,
            };
            let before = Instant::now();
            runtime.beat(&input);
            before.elapsed()
        })
        .collect();
    spans.sort_unstable();
    let at = |share: usize| spans.get(spans.len() * share / 100).or(spans.last());
    println!(
        "beats={BEATS} median={:?} p99={:?} max={:?}",
        at(50),
        at(99),
        spans.last()
    );
    Ok(())
}
