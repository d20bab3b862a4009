//! The ledger's own committer in this process: frames, chain, tree, group frames, index.

use crate::modes::{Answer, MANY, Mode, clients, content};
use crate::{CONTENT_BYTES, Run};
use ledger::committer::{Committer, Draft, Ledger, Receipt, Refusal};
use ledger::device::{Access, FileDevice};
use ledger::log::Birth;
use std::fs::File;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// A payload of [`CONTENT_BYTES`].
fn draft(n: u64) -> Draft {
    let mut letters = String::from_utf8(content(n)).expect("letters");
    letters.truncate(CONTENT_BYTES - "{\"p\":\"\"}".len());
    Draft {
        ns: "gateway".to_owned(),
        actor: "agent:bench".to_owned(),
        tenant_id: "bench".to_owned(),
        event_type: "tool_called".to_owned(),
        subject: "fs_read".to_owned(),
        payload: format!("{{\"p\":\"{letters}\"}}"),
        ..Draft::default()
    }
}

fn append(ledger: &Ledger, answer: &Arc<Answer>, drafts: Vec<Draft>) {
    let given = answer.clone();
    let reply = move |outcome: Result<Vec<Receipt>, Refusal>| {
        outcome.expect("durable");
        given.give();
    };
    ledger.append(drafts, Box::new(reply));
    answer.wait();
}

/// Runs it on a new log in a file.
pub fn run(folder: &Path, mode: Mode, limit: Duration) -> Run {
    let path = folder.join("ledger.log");
    let file = File::options()
        .create_new(true)
        .read(true)
        .write(true)
        .open(&path)
        .expect("log file");
    let device = FileDevice::new(file, "ledger.log".to_owned(), Access::Write).expect("device");
    let birth = Birth {
        log_id: [1; 16],
        tag_key: [2; 32],
        wall_ns: 0,
        segment_bytes_max: 64 << 20,
    };
    let (committer, _) = Committer::start(Arc::new(device), &birth).expect("log");
    let ledger = committer.ledger();
    let before = ledger.standing();
    let began = Instant::now();
    let count = AtomicU64::new(0);
    if mode == Mode::Clients {
        clients(limit, |n, deadline| {
            let mut k = n as u64;
            let answer = Arc::new(Answer::default());
            while Instant::now() < deadline {
                append(ledger, &answer, vec![draft(k)]);
                k += MANY as u64;
                count.fetch_add(1, Ordering::Relaxed);
            }
        });
    } else {
        let drafts: Vec<Draft> = (0..mode.batch() as u64).map(draft).collect();
        let answer = Arc::new(Answer::default());
        while began.elapsed() < limit {
            append(ledger, &answer, drafts.clone());
            count.fetch_add(mode.batch() as u64, Ordering::Relaxed);
        }
    }
    let elapsed = began.elapsed().as_secs_f64();
    let after = ledger.standing();
    committer.stop();
    let events = count.into_inner();
    Run {
        rate: events as f64 / elapsed,
        groups: after.groups - before.groups,
        bytes: after.end - before.end,
        events,
    }
}
