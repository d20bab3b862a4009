//! Kills of the role `cortex` and of PID 1 at random points of 10,000 mutations: whoever comes then has exactly what
//! the log says.

use system_tests::evolution::Proposer;
use system_tests::evolution_kills::{End, Trial};

/// Three rounds each: `cortex` is killed, PID 1 crashes, PID 1 is killed. A PID 1 crashes once at most: three crashes
/// in ten seconds would be a defect that it gives up over.
const ENDS: [End; 3] = [End::Cortex, End::InitCrash, End::Init];
/// How often.
const TIMES: usize = 17;
/// Mutations of a round at most; the end falls anywhere among them.
const MUTATIONS: u64 = 450;

/// Runs the drill.
pub fn drill() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let trial = Trial::begin(folder.path().join("state"));
    let trial = trial.rounds(&ENDS.repeat(TIMES), MUTATIONS);
    let before = Proposer::connect(trial.process().run()).current();
    let proposed = trial.proposed;
    let process = trial.again();
    let after = Proposer::connect(process.run()).current();
    assert_eq!(
        (before.number, before.content),
        (after.number, after.content)
    );
    assert!(process.end().success());
    println!(
        "evolution: {TIMES} kills of cortex, {TIMES} of PID 1 and {TIMES} crashes of PID 1 amid {proposed} mutations, \
         generation {} at the end, nothing lost",
        after.number
    );
}
