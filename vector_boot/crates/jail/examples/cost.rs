//! What the filter costs a call: the same calls in a process that is free and in one that is confined,
//! interleaved, as a ratio; and what the confinement itself takes. `cargo run --release -p jail --example cost`

use jail::{Exec, Grants, Profile};
use std::io::IsTerminal;
use std::process::Command;
use std::time::Instant;

const ROUNDS: usize = 9;
const CALLS: u32 = 1_000_000;

fn main() {
    match std::env::args().nth(1).as_deref() {
        Some("free") => measure(0),
        Some(profile) => {
            let profile = Profile::of_name(profile).expect("a profile");
            let begun = Instant::now();
            let grants = Grants::of_role(profile);
            let done = jail::confine(profile, &grants, Exec::Never);
            let took = begun.elapsed().as_nanos();
            assert!(done.left_out.is_empty(), "{:?}", done.left_out);
            measure(took);
        }
        None => compare(),
    }
}

/// A call that the list always allows, and one whose arguments the filter looks at.
fn measure(confining: u128) {
    let mut best = [u128::MAX; 2];
    for _ in 0..3 {
        let begun = Instant::now();
        for _ in 0..CALLS {
            std::hint::black_box(sys::packet::own_uid());
        }
        best[0] = best[0].min(begun.elapsed().as_nanos());
        let begun = Instant::now();
        for _ in 0..CALLS {
            std::hint::black_box(std::io::stdin().is_terminal());
        }
        best[1] = best[1].min(begun.elapsed().as_nanos());
    }
    println!("{} {} {confining}", best[0], best[1]);
}

fn compare() {
    let own = std::env::current_exe().expect("own path");
    let run = |word: &str| -> Vec<f64> {
        let output = Command::new(&own).arg(word).output().expect("a run");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let numbers = text
            .split_whitespace()
            .map(|n| n.parse().expect("a number"));
        numbers.collect()
    };
    let median = |mut of: Vec<f64>| {
        of.sort_by(f64::total_cmp);
        of[of.len() / 2]
    };
    for profile in Profile::all() {
        let (mut always, mut tested, mut confining) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..ROUNDS {
            let (free, held) = (run("free"), run(profile.name()));
            always.push(held[0] / free[0]);
            tested.push(held[1] / free[1]);
            confining.push(held[2] / 1000.0);
        }
        println!(
            "{}: geteuid x{:.2}, ioctl x{:.2}, confining {:.0} us",
            profile.name(),
            median(always),
            median(tested),
            median(confining)
        );
    }
}
