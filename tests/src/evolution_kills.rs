//! Kills of the role `cortex` and of PID 1 amid mutations: whoever comes then has exactly what the log says.
//!
//! Start with [`Trial::rounds`].

use std::path::PathBuf;
use std::process::Command;

use serde_json::Value;

use crate::evolution::{Draft, Proposer, bytes, place_of};
use crate::process::{Process, until};
use wire::evolution::Verdict;

/// Biases that are changed in turn.
const VALUES: usize = 32;

/// Who ends, and how.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// SIGKILL to `cortex`, which PID 1 starts again.
    Cortex,
    /// SIGKILL to PID 1: all end with it, and another one is started over the same folder.
    Init,
    /// A crash of PID 1 that its next image comes back from; `cortex` lives on.
    InitCrash,
}

/// A process over a state folder, and what each generation of it held.
pub struct Trial {
    state: PathBuf,
    process: Process,
    /// By number.
    held: Vec<Vec<f32>>,
    dice: u64,
    /// Mutations proposed so far.
    pub proposed: u64,
}

impl Trial {
    /// Starts a process that evolves; the dice are the same each time.
    pub fn begin(state: PathBuf) -> Self {
        Self {
            process: start(&state),
            state,
            held: Vec::new(),
            dice: 0x2545_f491_4f6c_dd1d,
            proposed: 0,
        }
    }

    /// The running process.
    pub fn process(&self) -> &Process {
        &self.process
    }

    /// Ends in order, and starts again over the same folder.
    pub fn again(self) -> Process {
        assert!(self.process.end().success());
        start(&self.state)
    }

    fn throw(&mut self, sides: u64) -> u64 {
        self.dice = self
            .dice
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        (self.dice >> 33) % sides
    }

    /// Rounds that end so, each after some of `mutations` were submitted as fast as the ring takes them.
    /// Every mutation sets one bias to its own number, so each generation's content is known.
    pub fn rounds(mut self, ends: &[End], mutations: u64) -> Self {
        for end in ends {
            self = self.round(*end, mutations);
        }
        self
    }

    fn round(mut self, end: End, mutations: u64) -> Self {
        let first = place_of("policy.b1");
        let values_of = |policy: &[f32]| policy[first..first + VALUES].to_vec();
        let mut proposer = Proposer::connect(self.process.run());
        let current = proposer.current();
        let found = values_of(&current.policy);
        if self.held.is_empty() {
            self.held.push(found.clone());
        }
        self.holds(current.number, &found);
        self.held.truncate(place(current.number) + 1);
        let mut acknowledged = current.number;
        for number in 0..=self.throw(mutations) {
            while proposer.in_flight() >= 64 {
                let answer = proposer.answer().expect("an answer before the kill");
                assert_eq!(answer.verdict, Verdict::Accepted);
                acknowledged = answer.generation;
            }
            self.submit(&mut proposer, place(number) % VALUES);
        }
        self = self.end(end);
        while let Some(answer) = (proposer.in_flight() > 0)
            .then(|| proposer.answer())
            .flatten()
        {
            assert_eq!(answer.verdict, Verdict::Accepted);
            acknowledged = answer.generation;
        }
        self.process = come_back(self.process);
        let after = Proposer::connect(self.process.run()).current();
        assert!(
            after.number >= acknowledged,
            "{acknowledged} was answered, {} is there",
            after.number
        );
        self.holds(after.number, &values_of(&after.policy));
        until_in_force(&self.process, after.number);
        self
    }

    /// A generation is one that was proposed, and holds what it did then.
    fn holds(&self, number: u64, found: &[f32]) {
        let held = self.held.get(place(number));
        let held = held.expect("a generation that somebody proposed");
        assert_eq!(found, held, "generation {number} is not what it was");
    }

    fn submit(&mut self, proposer: &mut Proposer, at: usize) {
        let values = self.held.last().expect("the current one");
        let mut next = values.clone();
        next[at] = (self.held.len() % 1000) as f32 / 1000.0;
        proposer.submit(&Draft {
            tensor: "policy.b1",
            offset: 4 * at as u64,
            old: &bytes(&values[at..=at]),
            new: &bytes(&next[at..=at]),
            generation: self.held.len() as u64 - 1,
            confidence: 0.9,
        });
        self.held.push(next);
        self.proposed += 1;
    }

    /// Number of the newest record of a crash of PID 1, 0 if there is none; nothing while nobody answers.
    fn last_crash(&self) -> Option<u64> {
        let told = self.process.ctl(&["why", "init", "--json"]).stdout;
        let told: Value = serde_json::from_slice(&told).ok()?;
        let records = told["why"].as_array()?.iter();
        let crashes = records.filter(|record| record["reason"] == "init_crash");
        let numbers = crashes.filter_map(|record| record["number"].as_u64());
        Some(numbers.max().unwrap_or(0))
    }

    fn end(mut self, end: End) -> Self {
        match end {
            End::Cortex => {
                self.process.ok(&["signal", "cortex", "KILL"]);
            }
            End::Init => {
                self.process.kill();
                self.process = start(&self.state);
            }
            End::InitCrash => {
                let before = until("PID 1 tells its reasons", || self.last_crash());
                let mut kill = Command::new("kill");
                kill.args(["-s", "SEGV", &self.process.pid().to_string()]);
                assert!(kill.status().expect("kill").success());
                // Not that of a round before.
                until("PID 1 says that it crashed", || {
                    (self.last_crash()? > before).then_some(())
                });
            }
        }
        self
    }
}

fn start(state: &std::path::Path) -> Process {
    Process::ready(state, &["--param", "vb.evolution=on"])
}

fn place(number: u64) -> usize {
    usize::try_from(number).expect("a small number")
}

/// Waits until PID 1 runs by this generation, or gave it up.
fn until_in_force(process: &Process, generation: u64) {
    until("PID 1 runs by what the log says", || {
        let told = process.ctl(&["mutations", "--json"]).stdout;
        let told: Value = serde_json::from_slice(&told).ok()?;
        (told["in_force"] == generation).then_some(())
    });
}

/// Starts `cortex` again where its ladder has ended: it was killed too often for one that nobody asks for.
fn come_back(process: Process) -> Process {
    process.until_service("cortex", |row| {
        if row["state"] == "failed" {
            process.ok(&["start", "cortex"]);
        }
        row["state"] == "up"
    });
    process
}
