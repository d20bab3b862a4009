//! Upgrades of PID 1 and its services, there and back, under a client of the host: many without a window, and one
//! with the window that a package has by default.

/// To the other package as often as from it.
const ROUNDS: u64 = 100;

/// Runs the drill.
pub fn drill() {
    for (rounds, window) in [(ROUNDS, "vb.upgrade_watch_s=0"), (1, "")] {
        let folder = tempfile::tempdir().expect("a temporary folder");
        system_tests::upgrades::there_and_back(folder.path(), rounds, window);
    }
}
