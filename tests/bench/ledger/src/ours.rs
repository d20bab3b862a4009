//! The ledger's own committer in this process: frames, chain, tree, group frames, index; alone, with all
//! that the service has beside it, and over a disk that takes no time.

use crate::modes::{Answer, MANY, Mode, clients, content, repeat};
use crate::{CONTENT_BYTES, Run};
use ledger::committer::{Committer, Draft, Ledger, Receipt, Refusal};
use ledger::device::{Access, Device, FileDevice};
use ledger::log::Birth;
use ledger::proofs::Keeper;
use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
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
}

/// What stands beside the committer, and under it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Around {
    /// A file, and nothing else.
    Nothing,
    /// A file; snapshots of the index, tiles and signed checkpoints: what the appliance runs.
    Service,
    /// No disk: what is left is the processor's.
    Memory,
}

/// The beginning of a disk, of which a log that is new reads what it wrote; the rest is forgotten.
struct Memory(Mutex<Vec<u8>>);

/// Kept of it: superblocks, and the first segment's header and zeros.
const MEMORY_BYTES: usize = 16 * 1024 * 1024;

impl Memory {
    fn part(&self, offset: u64, bytes: usize, with: impl FnOnce(&mut [u8])) {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let from = usize::try_from(offset).map_or(MEMORY_BYTES, |at| at.min(MEMORY_BYTES));
        with(&mut kept[from..(from + bytes).min(MEMORY_BYTES)]);
    }
}

impl Device for Memory {
    fn capacity(&self) -> u64 {
        ledger::device::GROWING_BYTES_MAX
    }
    fn sector_bytes(&self) -> u32 {
        512
    }
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        buf.fill(0);
        self.part(offset, buf.len(), |kept| {
            buf[..kept.len()].copy_from_slice(kept)
        });
        Ok(())
    }
    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.part(offset, bytes.len(), |kept| {
            kept.copy_from_slice(&bytes[..kept.len()])
        });
        Ok(())
    }
    fn sync(&self) -> io::Result<()> {
        Ok(())
    }
    fn start_writing(&self, _: u64, _: u64) -> io::Result<()> {
        Ok(())
    }
    fn locate(&self, offset: u64) -> String {
        format!("memory at byte {offset}")
    }
}

/// Waits for the zeros ahead of a new log: those of the floor too are there before its clock starts.
pub fn zeros(log: &Path) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while std::fs::metadata(log).expect("log").len() < ZEROS_BYTES {
        assert!(Instant::now() < deadline, "no zeros ahead");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// What is ahead of a log that is at rest.
const ZEROS_BYTES: u64 = 32 * 1024 * 1024;

fn device(folder: &Path, around: Around) -> Arc<dyn Device> {
    if around == Around::Memory {
        return Arc::new(Memory(Mutex::new(vec![0; MEMORY_BYTES])));
    }
    let file = File::options()
        .create_new(true)
        .read(true)
        .write(true)
        .open(folder.join("ledger.log"))
        .expect("log file");
    Arc::new(FileDevice::new(file, "ledger.log".to_owned(), Access::Write).expect("device"))
}

/// Appends so many events in groups of 64 over a disk that takes no time: work that can be counted.
pub fn append_groups(events: u64) {
    let device = device(Path::new(""), Around::Memory);
    let (committer, _) = Committer::start(device, &BIRTH).expect("log");
    let drafts: Vec<Draft> = (0..MANY as u64).map(draft).collect();
    for _ in 0..events / MANY as u64 {
        let durable = committer.ledger().append_wait(drafts.clone());
        assert_eq!(durable.expect("durable").len(), MANY);
    }
    committer.stop();
}

const BIRTH: Birth = Birth {
    log_id: [1; 16],
    tag_key: [2; 32],
    wall_ns: 0,
    segment_bytes_max: 64 << 20,
};

/// Runs it on a new log.
pub fn run(folder: &Path, mode: Mode, limit: Duration, around: Around) -> Run {
    let index = folder.join("index");
    std::fs::create_dir(&index).expect("folder");
    let index = (around == Around::Service).then_some(&*index);
    let log = Committer::start_with(device(folder, around), &BIRTH, index);
    let (committer, _) = log.expect("log");
    let ledger = committer.ledger();
    let keeper = index.map(|_| {
        ledger.keep_index().expect("index");
        Keeper::start(ledger, Some(folder), None).expect("proofs")
    });
    ledger.append_wait(vec![draft(0)]).expect("durable");
    if around != Around::Memory {
        zeros(&folder.join("ledger.log"));
    }
    let before = ledger.standing();
    let (events, rate, p99_us) = if mode == Mode::Clients {
        let (began, count) = (Instant::now(), AtomicU64::new(0));
        clients(limit, |n, deadline| {
            let mut k = n as u64;
            let answer = Arc::new(Answer::default());
            while Instant::now() < deadline {
                append(ledger, &answer, vec![draft(k)]);
                answer.wait();
                k += MANY as u64;
                count.fetch_add(1, Ordering::Relaxed);
            }
        });
        let elapsed = began.elapsed().as_secs_f64();
        let count = count.into_inner();
        (count, count as f64 / elapsed, f64::NAN)
    } else {
        let batch = mode.batch() as u64;
        let drafts: Vec<Draft> = (0..batch).map(draft).collect();
        let answer = Arc::new(Answer::default());
        // The other stores borrow what is made before the clock starts. These are given away, so the next
        // are made while the disk works.
        let mut next = drafts.clone();
        let (asked, rate, p99_us) = repeat(limit, || {
            append(ledger, &answer, std::mem::take(&mut next));
            next = drafts.clone();
            answer.wait();
        });
        (asked * batch, rate * batch as f64, p99_us)
    };
    let after = ledger.standing();
    committer.stop();
    keeper.into_iter().for_each(Keeper::stop);
    Run {
        rate,
        p99_us,
        groups: after.groups - before.groups,
        bytes: after.end - before.end,
        events,
    }
}
