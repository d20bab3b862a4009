//! SIGKILL to the role `cortex` at random points of 10,000 mutations: its successor has exactly what the log says.

use system_tests::evolution::Proposer;
use system_tests::evolution_kills::rounds;
use system_tests::process::Process;

/// Rounds that end with a kill.
const ROUNDS: u64 = 50;
/// Mutations of a round at most; the kill falls anywhere among them.
const MUTATIONS: u64 = 400;

/// Runs the drill.
pub fn drill() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let state = folder.path().join("state");
    let on = ["--param", "vb.evolution=on"];
    let process = Process::ready(&state, &on);
    let proposed = rounds(&process, ROUNDS, MUTATIONS);
    let before = Proposer::connect(process.run()).current();
    assert!(process.end().success());
    let process = Process::ready(&state, &on);
    let after = Proposer::connect(process.run()).current();
    assert_eq!(
        (before.number, before.content),
        (after.number, after.content)
    );
    assert!(process.end().success());
    println!(
        "evolution: {ROUNDS} kills amid {proposed} mutations, generation {} at the end, nothing lost",
        after.number
    );
}
