//! Cuts of the power at every flush of one machine's disk: QEMU's `blklogwrites` writes down each write
//! and flush; the disk is then made anew as it was at each flush, and once more with some of the writes
//! behind it, and the log on it is verified. What had been answered by then must be there. The log is so small
//! that it fills: epochs are opened and segments dropped on the way.
//!
//! The log of writes is as `drivers/md/dm-log-writes.c` has it: a sector with the magic, then for each
//! entry a sector with its header and the data behind it.

use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};
use system_tests::inputs::{inputs, repository};
use system_tests::machine::{Machine, Options};

/// Calls of the client; each is answered when its events are durable.
const CALLS: u64 = 320;
/// So often a call is tried.
const TRIES: u64 = 1000;
/// Of the partition: eight segments, of which an epoch and a compaction take two at a time.
const LOG_BYTES: u64 = 512 * 1024;
/// Of what is torn behind each flush.
const SEED: u64 = 0x0ff;
const SECTOR: u64 = 512;
const FLUSH: u64 = 1;
const DISCARD: u64 = 4;
/// `WRITE_LOG_MAGIC`.
const MAGIC: u64 = 0x006a_7366_7773_6872;

/// One entry of the log of writes.
struct Entry {
    sector: u64,
    sectors: u64,
    flags: u64,
    /// Where its data begins in the log of writes.
    data: u64,
}

impl Entry {
    fn end(&self) -> u64 {
        match self.flags & DISCARD {
            0 => self.data + self.sectors * SECTOR,
            _ => self.data,
        }
    }
}

/// What was answered: the last event's id, and how long the log of writes was then.
struct Receipt {
    event_id: u64,
    log_bytes: u64,
}

/// Runs the drill.
pub fn drill() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let writes = folder.path().join("writes");
    let data = folder.path().join("data.img");
    make_disk(&data);
    // The disk as it was before the first write that is written down.
    let mut first = Machine::ready(&Options {
        data: data.clone(),
        ..Options::default()
    });
    first.ok("status");
    first.power_off();
    let part = partition(&data);
    let image = folder.path().join("image");
    copy(&data, &image, &part);

    std::fs::write(&writes, b"").expect("an empty file");
    let mut machine = Machine::ready(&Options {
        data,
        log_writes: Some(writes.clone()),
        ..Options::default()
    });
    let receipts: Vec<Receipt> = (0..CALLS).map(|n| call(&machine, &writes, n)).collect();
    machine.ok("status");
    machine.stop_cold();

    let log = File::open(&writes).expect("the log of writes");
    let entries = entries(&log, &part);
    let flushes = entries.iter().filter(|e| e.flags & FLUSH != 0).count();
    println!(
        "{} entries, {flushes} flushes, {} answers, the last of event {}",
        entries.len(),
        receipts.len(),
        receipts.last().map_or(0, |r| r.event_id)
    );
    assert!(flushes as u64 > CALLS, "every answer needs a flush");
    replay(&log, &entries, &receipts, &image, folder.path());
    let written = generation(&image) - 1;
    println!("the superblock was written anew by {written} compactions");
    assert!(written > 0, "nothing was dropped: the log is too large");
}

/// A data disk as `qemu/run` makes them, but for the log's size.
fn make_disk(path: &Path) {
    let script = format!(
        "import pathlib, sys\n\
         from machine import disks\n\
         disks.LOG_BYTES = {LOG_BYTES}\n\
         disks.open_data(pathlib.Path(sys.argv[1]), True)"
    );
    let mut python = Command::new("python3");
    python.arg("-c").arg(script).arg(path);
    system_tests::stdout_of(python.env("PYTHONPATH", repository().join("qemu")));
}

/// How often the superblock was written.
fn generation(image: &Path) -> u64 {
    let mut bytes = [0; 8];
    let file = File::open(image).expect("the image");
    file.read_exact_at(&mut bytes, 88).expect("a superblock");
    u64::from_le_bytes(bytes)
}

fn call(machine: &Machine, writes: &Path, n: u64) -> Receipt {
    // Groups of one sector and of more, of which a part may be missing.
    let name = "f".repeat(1 + usize::try_from(n * 37 % 180).expect("a small number"));
    let write = json!({"tool": "fs_write", "params": {
        "root": "work", "path": name, "create": true,
        "content": "x".repeat(200 + usize::try_from(n).expect("a small number"))}});
    // Refused while the log is full and a compaction waits for its tiles, which takes a busy host long.
    let mut replies = (0..TRIES).map(|_| machine.call(&write));
    let reply = replies.find(|reply| reply.status == 200);
    let reply = reply.unwrap_or_else(|| panic!("call {n}: {}", machine.call(&write).body));
    let event_id = reply.body["event_id"].as_u64();
    Receipt {
        event_id: event_id.unwrap_or_else(|| panic!("no event_id: {}", reply.body)),
        log_bytes: std::fs::metadata(writes).expect("the log of writes").len(),
    }
}

/// Where the log lies on the disk, in bytes.
fn partition(disk: &Path) -> Range<u64> {
    let file = File::open(disk).expect("the disk");
    let bytes = file.metadata().expect("its length").len();
    let mut read = |at: u64, buf: &mut [u8]| file.read_exact_at(buf, at);
    let found = gpt::find(&mut read, bytes, "log").expect("a table");
    let found = found.expect("a partition `log`");
    found.first..found.first + found.bytes
}

/// A part of a file as a file of its own, zeros left out.
fn copy(from: &Path, to: &Path, part: &Range<u64>) {
    let mut dd = Command::new("dd");
    dd.arg(format!("if={}", from.display()))
        .arg(format!("of={}", to.display()))
        .arg(format!("skip={}", part.start))
        .arg(format!("count={}", part.end - part.start))
        .args(["bs=1M", "iflag=skip_bytes,count_bytes", "conv=sparse"]);
    system_tests::stdout_of(&mut dd);
}

/// The flushes, and the writes to a part of the disk, by sectors of that part.
fn entries(log: &File, part: &Range<u64>) -> Vec<Entry> {
    let mut head = [0; 32];
    let word = |head: &[u8; 32], n: usize| {
        u64::from_le_bytes(head[n * 8..n * 8 + 8].try_into().expect("eight bytes"))
    };
    log.read_exact_at(&mut head, 0).expect("its first sector");
    assert_eq!(
        word(&head, 0),
        MAGIC,
        "the log of writes has another format"
    );
    let bytes = log.metadata().expect("its length").len();
    let (mut at, mut entries) = (SECTOR, Vec::new());
    while at + SECTOR <= bytes {
        log.read_exact_at(&mut head, at).expect("an entry");
        let entry = Entry {
            sector: word(&head, 0),
            sectors: word(&head, 1),
            flags: word(&head, 2),
            data: at + SECTOR,
        };
        if entry.sectors == 0 && entry.flags == 0 || entry.end() > bytes {
            break;
        }
        at = entry.end();
        entries.push(entry);
    }
    let sectors = part.start / SECTOR..part.end / SECTOR;
    entries.retain(|e| e.flags & FLUSH != 0 || sectors.contains(&e.sector));
    for entry in &mut entries {
        entry.sector = entry.sector.saturating_sub(sectors.start);
    }
    entries
}

/// The image goes from flush to flush; at each the log on it is verified, and once more on a copy with
/// some of the writes up to the next flush.
fn replay(log: &File, entries: &[Entry], receipts: &[Receipt], image: &Path, folder: &Path) {
    let disk = File::options().write(true).open(image).expect("the image");
    let torn = folder.join("torn");
    let mut random = SEED;
    let (mut seen, mut cuts, mut recovered, mut written) = (0, 0u64, 0u64, true);
    let whole = 0..disk.metadata().expect("its length").len();
    for (n, entry) in entries.iter().enumerate() {
        apply(log, entry, &disk);
        if entry.flags & FLUSH == 0 || !std::mem::take(&mut written) {
            written |= entry.flags & FLUSH == 0;
            continue;
        }
        let answered = receipts.iter().take_while(|r| r.log_bytes < entry.data);
        let promised = answered.last().map_or(0, |r| r.event_id);
        let events = verify(image, promised, n);
        assert!(events >= seen, "flush {n}: {events} events, {seen} before");
        seen = events;
        cuts += 1;
        // A subset of what was under way to the next flush.
        copy(image, &torn, &whole);
        let copied = File::options().write(true).open(&torn).expect("the copy");
        let behind = entries[n + 1..].iter();
        let behind = behind.skip_while(|e| e.flags & FLUSH != 0);
        let behind = behind.take_while(|e| e.flags & FLUSH == 0);
        for entry in behind {
            apply_some(log, entry, &copied, &mut random);
        }
        recovered += u64::from(recover(&torn, promised, n));
        cuts += 1;
    }
    println!("{cuts} cuts hold, {recovered} of them recovered a torn group");
    assert!(recovered > 0, "no group was torn: the cuts are too gentle");
}

fn apply(log: &File, entry: &Entry, disk: &File) {
    if entry.flags & DISCARD != 0 {
        return;
    }
    let mut data = vec![0; usize::try_from(entry.sectors * SECTOR).expect("a write fits memory")];
    log.read_exact_at(&mut data, entry.data).expect("its data");
    disk.write_all_at(&data, entry.sector * SECTOR)
        .expect("write the image");
}

/// Each sector arrives, or does not.
fn apply_some(log: &File, entry: &Entry, disk: &File, random: &mut u64) {
    for n in 0..entry.sectors {
        *random = random
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        if entry.flags & DISCARD == 0 && *random >> 63 == 0 {
            let one = Entry {
                sector: entry.sector + n,
                sectors: 1,
                flags: 0,
                data: entry.data + n * SECTOR,
            };
            apply(log, &one, disk);
        }
    }
}

fn ledger(image: &Path, words: &[&str]) -> Value {
    let out = Command::new(inputs().services())
        .args(["ledger", "--log"])
        .arg(image)
        .args(words)
        .output()
        .expect("vb-services");
    let text = String::from_utf8_lossy(&out.stdout);
    serde_json::from_str(&text).unwrap_or_else(|e| {
        let why = String::from_utf8_lossy(&out.stderr);
        panic!("{words:?}: {e}: {text} {why}")
    })
}

/// The log as the power left it: whole groups, and at most a torn one behind them, or one copy of the superblock
/// that a compaction had not written yet.
fn verify(image: &Path, promised: u64, n: usize) -> u64 {
    let report = ledger(image, &["verify", "--json"]);
    let torn = report["bad"]["what"].as_str().is_none_or(|what| {
        what.contains("never acknowledged") || what.starts_with("superblock copy")
    });
    assert!(torn, "entry {n}: {report}");
    let events = report["events"].as_u64().expect("a count");
    assert!(
        events >= promised,
        "entry {n}: event {promised} was answered, the log ends at {events}"
    );
    events
}

/// The log after a start on what the power left; whether there was anything to recover.
fn recover(image: &Path, promised: u64, n: usize) -> bool {
    let before = verify(image, promised, n);
    let report = ledger(image, &["verify", "--json"]);
    // Of a kind that a log takes which is nearly full.
    let event = r#"{"event_type":"secret_of_the_drill"}"#;
    let append = [
        "append",
        "--ns",
        "system",
        "--actor",
        "user:drill",
        "--json",
    ];
    let receipt = ledger(image, &[&append[..], &["--event", event]].concat());
    // The anchor of an epoch that was begun comes first.
    let id = receipt["event_id"].as_u64().expect("an id");
    assert!(id > before, "entry {n}: {id} after {before}");
    let after = ledger(image, &["verify", "--json"]);
    assert_eq!(after["verified"], true, "entry {n}: {after}");
    report["verified"] == false
}
