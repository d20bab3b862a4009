//! Commits while zeros ahead are written by a thread of their own, against commits that write them.
//!
//! `cargo run --release -p ledger --example zeros_bench -- FOLDER`: interleaved rounds of groups; for each
//! way the medians of MiB/s and of the median and 99th percentile of a commit in microseconds.
//! Whether the committer runs in real time is up to who runs it: as root it does, under
//! `setpriv --reuid 65534 --clear-groups` it does not.

use ledger::committer::{Committer, Draft};
use ledger::device::{Access, Device, FileDevice};
use ledger::log::Birth;
use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

const ROUNDS: usize = 9;
const GROUPS: usize = 150;
/// Events of a group, and bytes of an event's payload.
const GROUP: [(usize, usize); 3] = [(1, 100), (64, 400), (64, 4000)];

/// A device that cannot write while it goes on: commits write the zeros.
struct Inline(FileDevice);

impl Device for Inline {
    fn capacity(&self) -> u64 {
        self.0.capacity()
    }
    fn sector_bytes(&self) -> u32 {
        self.0.sector_bytes()
    }
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        self.0.read_at(offset, buf)
    }
    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.0.write_at(offset, bytes)
    }
    fn sync(&self) -> io::Result<()> {
        self.0.sync()
    }
    fn locate(&self, offset: u64) -> String {
        self.0.locate(offset)
    }
}

fn log(folder: &Path, inline: bool) -> Committer {
    let path = folder.join(if inline { "inline.log" } else { "thread.log" });
    let file = File::options()
        .create(true)
        .truncate(true)
        .read(true)
        .write(true)
        .open(path)
        .expect("log file");
    let device = FileDevice::new(file, "bench".to_owned(), Access::Write).expect("device");
    let device: Arc<dyn Device> = match inline {
        true => Arc::new(Inline(device)),
        false => Arc::new(device),
    };
    let birth = Birth {
        log_id: [1; 16],
        tag_key: [2; 32],
        wall_ns: 0,
        segment_bytes_max: 64 << 20,
    };
    Committer::start(device, &birth).expect("log").0
}

fn main() {
    let folder = std::env::args_os().nth(1).expect("FOLDER");
    let folder = Path::new(&folder);
    println!("events bytes way MiB/s p50_us p99_us");
    for (events, bytes) in GROUP {
        let ways = [
            ("thread", log(folder, false)),
            ("inline", log(folder, true)),
        ];
        let mut found = [Vec::new(), Vec::new()];
        for _ in 0..ROUNDS {
            for ((_, committer), found) in ways.iter().zip(&mut found) {
                found.push(round(committer, events, bytes));
            }
        }
        for ((way, committer), found) in ways.into_iter().zip(found) {
            let median = |n: usize| {
                let mut list: Vec<f64> = found.iter().map(|f: &[f64; 3]| f[n]).collect();
                list.sort_by(f64::total_cmp);
                list[ROUNDS / 2]
            };
            let (rate, p50, p99) = (median(0), median(1), median(2));
            println!("{events} {bytes} {way} {rate:.1} {p50:.0} {p99:.0}");
            committer.stop();
        }
    }
}

fn round(committer: &Committer, events: usize, bytes: usize) -> [f64; 3] {
    let draft = Draft {
        ns: "gateway".to_owned(),
        actor: "agent:bench".to_owned(),
        tenant_id: "bench".to_owned(),
        event_type: "tool_called".to_owned(),
        payload: format!("{{\"x\":\"{}\"}}", "y".repeat(bytes)),
        ..Draft::default()
    };
    let ledger = committer.ledger();
    let (before, began) = (ledger.standing().end, Instant::now());
    let mut times: Vec<f64> = (0..GROUPS)
        .map(|_| {
            let began = Instant::now();
            ledger
                .append_wait(vec![draft.clone(); events])
                .expect("durable");
            began.elapsed().as_secs_f64() * 1e6
        })
        .collect();
    let written = (ledger.standing().end - before) as f64 / f64::from(1 << 20);
    let rate = written / began.elapsed().as_secs_f64();
    times.sort_by(f64::total_cmp);
    [rate, times[GROUPS / 2], times[GROUPS * 99 / 100]]
}
