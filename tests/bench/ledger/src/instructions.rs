//! Instructions of an append, which no other work on the host changes: the committer over a disk that takes
//! no time, counted by callgrind.
//!
//! `bench-ledger --instructions`. This executable appends as many events twice, so that what a start takes
//! is not counted. Valgrind's processor has neither SHA nor AVX-512 instructions: SHA-256 counts some six
//! times what it is elsewhere.

use crate::ours;
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};

/// The word of the command line.
pub const WORD: &str = "--instructions";
/// Events of the first run; the second has twice as many.
const EVENTS: u64 = 6_400;

/// Counts; with a number of events behind the word it appends them.
pub fn main() -> ExitCode {
    if let Some(events) = std::env::args().nth(2) {
        ours::append_groups(events.parse().expect("a number of events"));
        return ExitCode::SUCCESS;
    }
    let folder = std::env::temp_dir().join(format!("instructions-{}", std::process::id()));
    std::fs::create_dir_all(&folder).expect("folder");
    let (once, twice) = (counted(&folder, EVENTS), counted(&folder, 2 * EVENTS));
    std::fs::remove_dir_all(&folder).expect("remove");
    println!(
        "{} instructions an event, in groups of 64",
        (twice - once) / EVENTS
    );
    ExitCode::SUCCESS
}

/// Instructions of a run.
fn counted(folder: &Path, events: u64) -> u64 {
    let out = folder.join(events.to_string());
    let status = Command::new("valgrind")
        .args(["--tool=callgrind", "--quiet"])
        .arg(format!("--callgrind-out-file={}", out.display()))
        .arg(std::env::current_exe().expect("this executable"))
        .args([WORD, &events.to_string()])
        .stderr(Stdio::null())
        .status();
    assert!(status.expect("valgrind").success(), "valgrind failed");
    let text = std::fs::read_to_string(out).expect("counts");
    let total = text.lines().find_map(|line| line.strip_prefix("summary: "));
    total.and_then(|n| n.trim().parse().ok()).expect("a sum")
}
