//! How many mutations a second are refused and accepted, through the ring, with the log in the folder that is named.
//!
//! `cargo run --release -p neural --example mutations -- FOLDER [SECONDS]`. FOLDER must lie on the disk that is to
//! be measured: every group is synced. Proposer and judge are two threads; hashes are computed by both.
#![forbid(unsafe_code)]

use neural::evolution::{
    Base, Channel, Engine, Now, Proposal, ProposeError, Proposer, Store, Verdict,
};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

fn main() {
    let mut words = std::env::args().skip(1);
    let folder = words.next().expect("FOLDER [SECONDS]");
    let seconds = words
        .next()
        .map_or(3.0, |text| text.parse().expect("SECONDS"));
    let span = Duration::from_secs_f64(seconds);
    for (what, tensor) in [("refused", "kernel.limits"), ("accepted", "policy.b1")] {
        let run = measure(Path::new(&folder), tensor, span);
        let rate = run.answers as f64 / run.took.as_secs_f64();
        println!(
            "{what}: {rate:.0} a second; {} mutations, {} groups, {:.1} s, log {} bytes",
            run.answers,
            run.groups,
            run.took.as_secs_f64(),
            run.log
        );
    }
}

struct Run {
    answers: u64,
    groups: u64,
    took: Duration,
    log: u64,
}

fn measure(folder: &Path, tensor: &str, span: Duration) -> Run {
    let log = folder.join("mutations.log");
    if log.exists() {
        std::fs::remove_file(&log).expect("a log of an earlier run");
    }
    let system = neural::default_model();
    let base = Base::new(None, &system, None).expect("the default model");
    let held = base.tensor(tensor).expect("a tensor").data[..4].to_vec();
    let store = Store::in_folder(folder).expect("a folder");
    let (mut engine, _) = Engine::open(base, store).expect("a log");
    let (mut proposer, mut consumer) = Channel::create().expect("a ring");
    let done = AtomicBool::new(false);
    let begin = Instant::now();
    let (answers, groups) = std::thread::scope(|scope| {
        let judge = scope.spawn(|| {
            let mut groups = 0u64;
            while !done.load(Ordering::Relaxed) {
                consumer.rest();
                let now = u64::try_from(begin.elapsed().as_nanos()).expect("a short run");
                let now = Now {
                    monotonic_ns: now,
                    wall_ns: now,
                };
                let served = engine.serve(&mut consumer, 0, now).expect("our own ring");
                if served.answered == 0 {
                    std::thread::yield_now();
                    continue;
                }
                groups += u64::from(served.accepted > 0);
                consumer.publish(engine.generation());
            }
            groups
        });
        let answers = propose(&mut proposer, tensor, held, span);
        done.store(true, Ordering::Relaxed);
        (answers, judge.join().expect("the judge"))
    });
    Run {
        answers,
        groups,
        took: begin.elapsed(),
        log: std::fs::metadata(&log).map_or(0, |found| found.len()),
    }
}

/// Keeps the ring full, each mutation built on the one before it; what the rate refuses is proposed again.
fn propose(proposer: &mut Proposer, tensor: &str, mut held: Vec<u8>, span: Duration) -> u64 {
    let begin = Instant::now();
    let accepts = tensor.starts_with("policy");
    let (mut answers, mut generation, mut id) = (0u64, 0u64, 0u64);
    let mut settled = held.clone();
    while begin.elapsed() < span {
        let value = ((id % 1000) as f32 / 1000.0).to_le_bytes();
        let proposal = Proposal {
            id,
            base_generation: generation,
            tensor,
            offset: 0,
            confidence: 0.9,
            old_blake3: *blake3::hash(&held).as_bytes(),
            payload_blake3: *blake3::hash(&value).as_bytes(),
            payload: &value,
        };
        match proposer.submit(&proposal) {
            Ok(_) => {
                id += 1;
                if accepts {
                    generation += 1;
                    held = value.to_vec();
                }
                continue;
            }
            Err(ProposeError::Full) => {}
            Err(e) => panic!("{e}"),
        }
        let mut over = false;
        let mut next = proposer.wait(Duration::from_secs(1));
        while let Some(answer) = next {
            match answer.verdict {
                Verdict::Accepted => {
                    answers += 1;
                    settled = ((answer.id % 1000) as f32 / 1000.0).to_le_bytes().to_vec();
                }
                Verdict::TensorProtected => answers += 1,
                Verdict::RateExceeded | Verdict::GenerationStale => over = true,
                other => panic!("{}", other.as_str()),
            }
            next = match over {
                // All that were built on it are refused as well: begin again where it stands.
                true => proposer.wait(Duration::from_millis(20)),
                false => proposer.answer(),
            };
            if over && proposer.in_flight() == 0 {
                break;
            }
        }
        if over {
            generation = proposer.generation();
            held.clone_from(&settled);
        }
    }
    answers
}
