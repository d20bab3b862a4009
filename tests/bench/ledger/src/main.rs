//! Durable appends a second: the ledger, a bare disk, and other stores, in one interleaved run.
//!
//! `cargo run --release --manifest-path tests/bench/ledger/Cargo.toml -- FOLDER [--rounds N]
//! [--seconds S] [--redis PATH] [--nats PATH] [--only STORE,..] [--modes one,clients,groups]`: FOLDER
//! lies on the disk to be measured.
//!
//! Each round visits every store in every mode, in another order, each on a fresh folder. The floor
//! writes what the ledger wrote in that mode and round (as many bytes a group on average) into a file
//! of zeros and calls fdatasync, behind the same clients; ratios are medians over the rounds of the
//! rate by the floor's of the same round. Start with [`main`], then `modes`.
#![forbid(unsafe_code)]

mod floor;
mod instructions;
mod modes;
mod ours;
mod peers;
mod servers;
mod service;

use modes::{MODES, Mode};
use ours::Around;
use service::Socket;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

/// Bytes of an event's content in every store.
pub const CONTENT_BYTES: usize = 256;

/// What one run of one store found.
#[derive(Debug, Clone, Copy, Default)]
pub struct Run {
    /// Durable events a second.
    pub rate: f64,
    /// Syncs, where the store counts them.
    pub groups: u64,
    /// Bytes written for them, where the store counts them.
    pub bytes: u64,
    /// Events.
    pub events: u64,
    /// 99th percentile of a request in microseconds; none of 64 clients.
    pub p99_us: f64,
}

struct Words {
    folder: PathBuf,
    rounds: usize,
    limit: Duration,
    redis: Option<PathBuf>,
    nats: Option<PathBuf>,
    only: Option<Vec<String>>,
    modes: Vec<Mode>,
}

fn words() -> Words {
    let mut all = std::env::args().skip(1);
    let mut words = Words {
        folder: all.next().expect("the folder is the first word").into(),
        rounds: 5,
        limit: Duration::from_millis(700),
        redis: None,
        nats: None,
        only: None,
        modes: MODES.to_vec(),
    };
    while let Some(word) = all.next() {
        let value = all.next().expect("each option has a value");
        match word.as_str() {
            "--rounds" => words.rounds = value.parse().expect("a number"),
            "--seconds" => {
                words.limit = Duration::from_secs_f64(value.parse().expect("seconds"));
            }
            "--redis" => words.redis = Some(value.into()),
            "--nats" => words.nats = Some(value.into()),
            "--only" => words.only = Some(value.split(',').map(str::to_owned).collect()),
            "--modes" => words
                .modes
                .retain(|mode| value.split(',').any(|m| m == mode.word())),
            other => panic!("{other}: no such option"),
        }
    }
    words
}

/// Stores in the order of the table.
const STORES: [&str; 13] = [
    "floor",
    "ledger",
    "appliance",
    "frames",
    "lines",
    "no-disk",
    "sqlite",
    "redb",
    "fjall",
    "git",
    "redis",
    "nats",
    "hand-over",
];

fn main() -> ExitCode {
    if std::env::var_os(service::ROLE).is_some() {
        return ledger::main(&[]);
    }
    if std::env::args()
        .nth(1)
        .is_some_and(|word| word == instructions::WORD)
    {
        return instructions::main();
    }
    let words = words();
    let mut found: Vec<(&str, Mode, Vec<Run>)> = Vec::new();
    for store in STORES {
        found.extend(MODES.map(|mode| (store, mode, Vec::new())));
    }
    for round in 0..words.rounds {
        for &mode in &words.modes {
            // The floor needs to know what the ledger wrote, and follows it at once.
            let ledger = run(&words, "ledger", mode, &Run::default());
            let mut order: Vec<&str> = STORES.iter().copied().filter(|s| *s != "ledger").collect();
            order[1..].rotate_left(round % (STORES.len() - 2));
            for store in order {
                if let Some(found_now) = run(&words, store, mode, &ledger.unwrap_or_default()) {
                    keep(&mut found, store, mode, found_now);
                }
            }
            if let Some(ledger) = ledger {
                keep(&mut found, "ledger", mode, ledger);
            }
        }
        eprintln!("round {} of {}", round + 1, words.rounds);
    }
    print(&found);
    ExitCode::SUCCESS
}

fn keep(found: &mut [(&str, Mode, Vec<Run>)], store: &str, mode: Mode, run: Run) {
    let place = found.iter_mut().find(|f| f.0 == store && f.1 == mode);
    place.expect("in the table").2.push(run);
}

fn run(words: &Words, store: &str, mode: Mode, ledger: &Run) -> Option<Run> {
    if words
        .only
        .as_ref()
        .is_some_and(|o| !o.iter().any(|s| s == store))
    {
        return None;
    }
    let folder = words.folder.join("run");
    // Left by a run that was stopped.
    let _ = std::fs::remove_dir_all(&folder);
    std::fs::create_dir_all(&folder).expect("folder");
    let run = match store {
        "ledger" => Some(ours::run(&folder, mode, words.limit, Around::Nothing)),
        "appliance" => Some(ours::run(&folder, mode, words.limit, Around::Service)),
        "no-disk" => Some(ours::run(&folder, mode, words.limit, Around::Memory)),
        "frames" => Some(service::run(&folder, mode, words.limit, Socket::Frames)),
        "lines" => Some(service::run(&folder, mode, words.limit, Socket::Lines)),
        "floor" => Some(floor::run(&folder, mode, words.limit, ledger)),
        "hand-over" => Some(modes::drive(mode, words.limit, Box::new(floor::Nothing))),
        "redis" => words
            .redis
            .as_ref()
            .map(|path| servers::redis(path, &folder, mode, words.limit)),
        "nats" => words
            .nats
            .as_ref()
            .map(|path| servers::nats(path, &folder, mode, words.limit)),
        other => Some(modes::drive(mode, words.limit, peers::open(other, &folder))),
    };
    std::fs::remove_dir_all(&folder).expect("remove");
    run
}

fn median(mut all: Vec<f64>) -> f64 {
    all.sort_by(f64::total_cmp);
    all.get(all.len() / 2).copied().unwrap_or(f64::NAN)
}

fn print(found: &[(&str, Mode, Vec<Run>)]) {
    for mode in MODES {
        if found.iter().all(|f| f.1 != mode || f.2.is_empty()) {
            continue;
        }
        println!("\n{}", mode.title());
        println!(
            "{:<10} {:>10} {:>21} {:>6} {:>7} {:>7} {:>7}",
            "store", "events/s", "lowest..highest", "ratio", "events", "bytes", "p99 us"
        );
        println!(
            "{:<10} {:>10} {:>21} {:>6} {:>7} {:>7}",
            "", "", "", "", "/sync", "/event"
        );
        let floor: Vec<f64> = found
            .iter()
            .find(|f| f.0 == "floor" && f.1 == mode)
            .map(|f| f.2.iter().map(|r| r.rate).collect())
            .unwrap_or_default();
        for (store, _, runs) in found.iter().filter(|f| f.1 == mode && !f.2.is_empty()) {
            let rates: Vec<f64> = runs.iter().map(|r| r.rate).collect();
            let ratios = rates.iter().zip(&floor).map(|(rate, floor)| rate / floor);
            let (low, high) = rates.iter().fold((f64::MAX, 0.0_f64), |(low, high), rate| {
                (low.min(*rate), high.max(*rate))
            });
            let per = |count: fn(&Run) -> u64, by: fn(&Run) -> u64| {
                let sum = |f: fn(&Run) -> u64| runs.iter().map(f).sum::<u64>();
                match sum(by) {
                    0 => "-".to_owned(),
                    by => format!("{:.1}", sum(count) as f64 / by as f64),
                }
            };
            println!(
                "{store:<10} {:>10.0} {:>21} {:>6.2} {:>7} {:>7} {:>7}",
                median(rates.clone()),
                format!("{low:.0}..{high:.0}"),
                median(ratios.collect()),
                per(|r| r.events, |r| r.groups),
                if runs.iter().any(|r| r.groups > 0) {
                    per(|r| r.bytes, |r| r.events)
                } else {
                    "-".to_owned()
                },
                match median(runs.iter().map(|r| r.p99_us).collect()) {
                    p99 if p99 > 0.0 => format!("{p99:.0}"),
                    _ => "-".to_owned(),
                },
            );
        }
    }
}
