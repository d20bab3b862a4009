//! Upgrades of PID 1 and its services, there and back, under a client of the host.

/// To the other package as often as from it.
const ROUNDS: u64 = 100;

/// Runs the drill.
pub fn drill() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    system_tests::upgrades::there_and_back(folder.path(), ROUNDS);
}
