//! What an append may ask of the disk: how many writes, syncs and bytes a group is. Counts, not times.

use ledger::committer::{Committer, Draft};
use ledger::device::Device;
use ledger::log::Birth;
use ledger_core::{SECTOR_BYTES_MIN, SEGMENT_BYTES_MAX};
use std::io;
use std::sync::{Arc, Mutex};

/// As much as the test writes, with the zeros ahead of it.
const DISK_BYTES: usize = 32 * 1024 * 1024;
const GROUPS: u64 = 20;
const EVENTS: usize = 64;
const PAYLOAD_BYTES: usize = 256;
/// Of an event beside its payload: 56 bytes of header, at most 7 of padding, and 94 that its other
/// fields have here.
const OVERHEAD_BYTES: usize = 157;
/// Of a group beside its events: 144 bytes of frame, and what fills the sector.
const GROUP_BYTES: usize = 144 + SECTOR_BYTES_MIN as usize - 1;

#[derive(Default)]
struct Counted {
    writes: u64,
    bytes: u64,
    syncs: u64,
}

/// A disk in memory that counts; zeros, which are written ahead, apart.
struct Counting(Mutex<(Vec<u8>, Counted)>);

impl Device for Counting {
    fn capacity(&self) -> u64 {
        ledger::device::GROWING_BYTES_MAX
    }
    fn sector_bytes(&self) -> u32 {
        SECTOR_BYTES_MIN
    }
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        let disk = self.0.lock().unwrap();
        let at = usize::try_from(offset).unwrap();
        buf.fill(0);
        if let Some(there) = disk.0.get(at..at + buf.len()) {
            buf.copy_from_slice(there);
        }
        Ok(())
    }
    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let mut disk = self.0.lock().unwrap();
        let at = usize::try_from(offset).unwrap();
        let Some(there) = disk.0.get_mut(at..at + bytes.len()) else {
            // The next segment's header is cleared.
            return Ok(());
        };
        there.copy_from_slice(bytes);
        if bytes.iter().any(|b| *b != 0) {
            disk.1.writes += 1;
            disk.1.bytes += bytes.len() as u64;
        }
        Ok(())
    }
    fn sync(&self) -> io::Result<()> {
        self.0.lock().unwrap().1.syncs += 1;
        Ok(())
    }
    fn start_writing(&self, _: u64, _: u64) -> io::Result<()> {
        Ok(())
    }
    fn locate(&self, offset: u64) -> String {
        format!("memory at byte {offset}")
    }
}

#[test]
fn a_group_is_one_write_and_one_sync_of_its_frames() {
    let disk = Arc::new(Counting(Mutex::new((
        vec![0; DISK_BYTES],
        Counted::default(),
    ))));
    let birth = Birth {
        log_id: [1; 16],
        tag_key: [2; 32],
        wall_ns: 3,
        segment_bytes_max: SEGMENT_BYTES_MAX,
    };
    let (committer, _) = Committer::start(disk.clone(), &birth).unwrap();
    let ledger = committer.ledger();
    disk.0.lock().unwrap().1 = Counted::default();
    let letters = "p".repeat(PAYLOAD_BYTES - "{\"x\":\"\"}".len());
    let draft = Draft {
        ns: "gateway".into(),
        actor: "agent:bench".into(),
        tenant_id: "bench".into(),
        event_type: "tool_called".into(),
        subject: "fs_read".into(),
        payload: format!("{{\"x\":\"{letters}\"}}"),
        ..Draft::default()
    };
    for _ in 0..GROUPS {
        ledger.append_wait(vec![draft.clone(); EVENTS]).unwrap();
    }
    assert_eq!(ledger.standing().groups, GROUPS);
    committer.stop();
    let counted = std::mem::take(&mut disk.0.lock().unwrap().1);
    assert_eq!((counted.writes, counted.syncs), (GROUPS, GROUPS));
    let most = EVENTS * (PAYLOAD_BYTES + OVERHEAD_BYTES) + GROUP_BYTES;
    let most = GROUPS * most as u64;
    assert!(counted.bytes <= most, "{} of {most} bytes", counted.bytes);
}
