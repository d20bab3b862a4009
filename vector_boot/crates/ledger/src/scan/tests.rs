//! A scan that reads ahead against one that reads alone: the same events, the same faults.

use super::*;
use crate::committer::{Committer, Draft};
use crate::log::Birth;
use std::sync::{Arc, Mutex, PoisonError};

/// A device in memory.
#[derive(Default)]
struct Memory(Mutex<Vec<u8>>);

impl Memory {
    fn bytes(&self) -> std::sync::MutexGuard<'_, Vec<u8>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Device for Memory {
    fn capacity(&self) -> u64 {
        64 * 1024 * 1024
    }
    fn sector_bytes(&self) -> u32 {
        512
    }
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        let bytes = self.bytes();
        let from = bytes.len().min(offset as usize);
        let n = buf.len().min(bytes.len() - from);
        buf[..n].copy_from_slice(&bytes[from..from + n]);
        buf[n..].fill(0);
        Ok(())
    }
    fn write_at(&self, offset: u64, new: &[u8]) -> io::Result<()> {
        let mut bytes = self.bytes();
        let (from, to) = (offset as usize, offset as usize + new.len());
        if bytes.len() < to {
            bytes.resize(to, 0);
        }
        bytes[from..to].copy_from_slice(new);
        Ok(())
    }
    fn sync(&self) -> io::Result<()> {
        Ok(())
    }
    fn locate(&self, offset: u64) -> String {
        format!("memory at byte {offset}")
    }
}

/// Some segments of a megabyte: small groups, large ones, and frames longer than a window.
fn log() -> Arc<Memory> {
    let memory = Arc::new(Memory::default());
    let birth = Birth {
        log_id: [1; 16],
        tag_key: [2; 32],
        wall_ns: 0,
        segment_bytes_max: 1024 * 1024,
    };
    let (committer, _) = Committer::start(memory.clone(), &birth).unwrap();
    for n in 0..40u64 {
        let bytes = [10, 700, 20_000, 400_000][(n % 4) as usize];
        let one = Draft {
            ns: "ns".to_owned(),
            actor: "user:a".to_owned(),
            tenant_id: format!("t{}", n % 3),
            event_type: "kind".to_owned(),
            payload: format!("{{\"n\":\"{}\"}}", "x".repeat(bytes)),
            ..Draft::default()
        };
        let group = vec![one; if bytes < 1000 { 50 } else { 1 }];
        committer.ledger().append_wait(group).unwrap();
    }
    committer.stop();
    memory
}

/// All that a scan says.
fn told(device: &Memory, until: Option<u64>, alone_bytes: u64) -> (Vec<String>, String) {
    let (superblock, _) = superblock(device).unwrap().unwrap();
    let mapped = Mapped {
        device,
        superblock: &superblock,
    };
    let mut all = Vec::new();
    let end = scan_with(&mapped, &superblock, 0, until, alone_bytes, &mut |found| {
        all.push(match found {
            Found::Segment {
                extent,
                head,
                closed,
            } => format!("{extent:?} {head:?} {closed}"),
            Found::Event {
                id,
                chain,
                offset,
                leaf,
                body,
            } => format!("{id} {chain:?} {offset} {leaf:?} {}", body.tenant_id),
            Found::Group { end } => format!("{end}"),
        });
    });
    let end = end.unwrap();
    let end = (
        end.segment,
        end.offset,
        end.head,
        end.fault,
        end.damaged,
        end.anchor,
    );
    (all, format!("{end:?}"))
}

#[test]
fn a_scan_that_reads_ahead_says_what_one_says_that_reads_alone() {
    let memory = log();
    let alone = told(&memory, None, u64::MAX);
    assert!(alone.0.len() > 1000, "{}", alone.0.len());
    assert!(alone.1.contains("None, false"), "{}", alone.1);
    for alone_bytes in [0, 1, 300_000, 2_000_000] {
        assert!(told(&memory, None, alone_bytes) == alone, "{alone_bytes}");
    }
    for until in [9_000, 600_000, 1_200_000, 3_000_000] {
        let alone = told(&memory, Some(until), u64::MAX);
        assert!(told(&memory, Some(until), 0) == alone, "up to {until}");
    }
}

#[test]
fn damage_is_found_where_it_is_however_the_log_is_read() {
    let memory = log();
    let end = memory.bytes().iter().rposition(|b| *b != 0).unwrap();
    let mut at = SUPERBLOCK_BYTES * 2 + 8;
    let mut faults = 0;
    while at < end {
        memory.bytes()[at] ^= 1 << (at % 8);
        let alone = told(&memory, None, u64::MAX);
        faults += usize::from(!alone.1.contains("None, false"));
        assert!(told(&memory, None, 0) == alone, "byte {at}");
        memory.bytes()[at] ^= 1 << (at % 8);
        at += 401_017;
    }
    assert!(faults > 5, "{faults}");
    // A log whose end is missing, anywhere.
    let whole = memory.bytes().clone();
    for cut in (SUPERBLOCK_BYTES * 2..end).step_by(777_777) {
        memory.bytes()[cut..].fill(0);
        let alone = told(&memory, None, u64::MAX);
        assert!(told(&memory, None, 0) == alone, "cut at {cut}");
        memory.bytes().copy_from_slice(&whole);
    }
}
