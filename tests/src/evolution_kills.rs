//! Kills of the role `cortex` amid mutations: its successor has exactly what the log says.

use crate::evolution::{Draft, Proposer, bytes, place_of};
use crate::process::Process;
use wire::evolution::Verdict;

/// Biases that are changed in turn.
const VALUES: usize = 32;

/// `rounds` kills, each after some of `mutations` were submitted as fast as the ring takes them; the seed is fixed.
/// Every mutation sets one bias to its own number, so each generation's content is known. Answers how many there were.
pub fn rounds(process: &Process, rounds: u64, mutations: u64) -> u64 {
    let first = place_of("policy.b1");
    // What each generation holds, by number.
    let mut held: Vec<Vec<f32>> = Vec::new();
    let mut state = 0x2545_f491_4f6c_dd1du64;
    let mut dice = move |sides: u64| {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        (state >> 33) % sides
    };
    let mut proposed = 0;
    for _ in 0..rounds {
        let mut proposer = Proposer::connect(process.run());
        let current = proposer.current();
        let found = current.policy[first..first + VALUES].to_vec();
        let newest = usize::try_from(current.number).expect("a small number");
        if held.is_empty() {
            held.push(found.clone());
        }
        assert!(newest < held.len(), "a generation that nobody proposed");
        assert_eq!(
            found, held[newest],
            "generation {newest} is not what it was"
        );
        held.truncate(newest + 1);
        let (kill_at, mut acknowledged) = (dice(mutations), newest);
        for number in 0..mutations {
            while proposer.in_flight() >= 64 {
                let Some(answer) = proposer.answer() else {
                    break;
                };
                assert_eq!(answer.verdict, Verdict::Accepted);
                acknowledged = usize::try_from(answer.generation).expect("a small number");
            }
            let values = held.last().expect("the current one");
            let place = usize::try_from(number).expect("a small number") % VALUES;
            let mut next = values.clone();
            next[place] = (held.len() % 1000) as f32 / 1000.0;
            proposer.submit(&Draft {
                tensor: "policy.b1",
                offset: 4 * place as u64,
                old: &bytes(&values[place..=place]),
                new: &bytes(&next[place..=place]),
                generation: held.len() as u64 - 1,
                confidence: 0.9,
            });
            held.push(next);
            proposed += 1;
            if number == kill_at {
                process.ok(&["signal", "cortex", "KILL"]);
                break;
            }
        }
        while proposer.in_flight() > 0 {
            let Some(answer) = proposer.answer() else {
                break;
            };
            acknowledged = usize::try_from(answer.generation).expect("a small number");
        }
        come_back(process);
        let after = Proposer::connect(process.run()).current();
        let newest = usize::try_from(after.number).expect("a small number");
        assert!(
            newest >= acknowledged,
            "{acknowledged} was answered, {newest} is there"
        );
        assert_eq!(after.policy[first..first + VALUES], held[newest]);
    }
    proposed
}

/// Starts `cortex` again where its ladder has ended: it was killed too often for one that nobody asks for.
fn come_back(process: &Process) {
    process.until_service("cortex", |row| {
        if row["state"] == "failed" {
            process.ok(&["start", "cortex"]);
        }
        row["state"] == "up"
    });
}
