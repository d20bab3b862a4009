//! Durable appends a second against raw pre-zeroed pwrite + fdatasync of the same bytes, interleaved.
//!
//! `cargo run --release -p ledger --example append_bench -- FOLDER`: a line a setting with the medians
//! over the rounds and their ratio. The peer writes, at each step, as many 512-byte sectors as the
//! ledger's group takes on average, at the next free place of a file zeroed before, then syncs.

use crossbeam::channel::bounded;
use ledger::committer::{Committer, Draft};
use ledger::device::{Access, FileDevice};
use ledger::log::Birth;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

const ROUNDS: usize = 7;
const EVENTS: usize = 1024;
/// Room for every setting and round of the peer.
const RAW_BYTES: u64 = 64 * 1024 * 1024;

/// Clients at a time, and events a request.
const SETTINGS: [(usize, usize); 3] = [(1, 1), (64, 1), (1, 64)];

fn main() {
    let folder = std::env::args_os()
        .nth(1)
        .expect("the folder to write in is the first word");
    let folder = Path::new(&folder);
    println!("clients batch ledger_events_s raw_events_s ratio spread");
    for (clients, batch) in SETTINGS {
        let (path, raw_path) = (folder.join("bench.log"), folder.join("bench.raw"));
        let raw = File::options()
            .create(true)
            .truncate(true)
            .write(true)
            .open(&raw_path)
            .expect("raw file");
        raw.write_all_at(&vec![0; usize::try_from(RAW_BYTES).expect("fits")], 0)
            .expect("zeros");
        raw.sync_all().expect("sync");
        let file = File::options()
            .create(true)
            .truncate(true)
            .read(true)
            .write(true)
            .open(&path)
            .expect("log file");
        let device = FileDevice::new(file, "bench.log".to_owned(), Access::Write).expect("device");
        let birth = Birth {
            log_id: [1; 16],
            tag_key: [2; 32],
            wall_ns: 0,
            segment_bytes_max: 64 << 20,
        };
        let (committer, _) = Committer::start(Arc::new(device), &birth).expect("log");
        let (mut ours, mut theirs, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
        let mut at = 0;
        for _ in 0..ROUNDS {
            let before = committer.ledger().standing();
            let began = Instant::now();
            append(&committer, clients, batch);
            let ledger_rate = EVENTS as f64 / began.elapsed().as_secs_f64();
            let after = committer.ledger().standing();
            let groups = (after.groups - before.groups).max(1);
            let bytes = ((after.end - before.end) / groups).next_multiple_of(512);
            let began = Instant::now();
            let group = vec![7; usize::try_from(bytes).expect("fits")];
            for _ in 0..groups {
                if at + bytes > RAW_BYTES {
                    at = 0;
                }
                raw.write_all_at(&group, at).expect("write");
                raw.sync_data().expect("sync");
                at += bytes;
            }
            let raw_rate = EVENTS as f64 / began.elapsed().as_secs_f64();
            ours.push(ledger_rate);
            theirs.push(raw_rate);
            ratios.push(ledger_rate / raw_rate);
        }
        committer.stop();
        for list in [&mut ours, &mut theirs, &mut ratios] {
            list.sort_by(f64::total_cmp);
        }
        let middle = ROUNDS / 2;
        println!(
            "{clients} {batch} {:.0} {:.0} {:.2} {:.2}..{:.2}",
            ours[middle],
            theirs[middle],
            ratios[middle],
            ratios[0],
            ratios[ROUNDS - 1]
        );
        for path in [path, raw_path] {
            std::fs::remove_file(path).expect("remove");
        }
    }
}

fn append(committer: &Committer, clients: usize, batch: usize) {
    std::thread::scope(|scope| {
        for _ in 0..clients {
            scope.spawn(move || {
                for _ in 0..EVENTS / clients / batch {
                    let (sender, receiver) = bounded(1);
                    committer.ledger().append(
                        vec![draft(); batch],
                        Box::new(move |outcome| sender.send(outcome).expect("waits")),
                    );
                    receiver.recv().expect("answer").expect("durable");
                }
            });
        }
    });
}

fn draft() -> Draft {
    Draft {
        origin: None,
        ns: "gateway".to_owned(),
        actor: "agent:bench".to_owned(),
        tenant_id: "bench".to_owned(),
        event_type: "tool_called".to_owned(),
        subject: "fs_read".to_owned(),
        payload: "{\"duration_ms\":1,\"outcome\":\"SUCCESS\",\"root\":\"work\"}".to_owned(),
        causation_id: None,
        timestamp_ns: None,
        ulid: None,
    }
}
