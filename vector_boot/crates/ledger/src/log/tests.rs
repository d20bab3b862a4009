//! A log in a folder whose segments are shorter than the longest: it is found again, or not begun. A log
//! on a disk without room: it is read all the same.

use super::*;
use crate::committer::{Committer, Draft};
use crate::device::{Access, FolderDevice};
use std::collections::BTreeMap;
use std::sync::Mutex;

const BIRTH: Birth = Birth {
    log_id: [1; 16],
    tag_key: [2; 32],
    wall_ns: 0,
    segment_bytes_max: SEGMENT_BYTES_MIN,
};

fn draft() -> Draft {
    Draft {
        ns: "ns".to_owned(),
        actor: "user:a".to_owned(),
        tenant_id: "t".to_owned(),
        event_type: "kind".to_owned(),
        payload: "{}".to_owned(),
        ..Draft::default()
    }
}

fn append(device: Arc<dyn Device>, events: usize) -> Result<u64, OpenError> {
    let (committer, _) = Committer::start(device, &BIRTH)?;
    for _ in 0..events {
        committer.ledger().append_wait(vec![draft()]).unwrap();
    }
    let id = committer.ledger().standing().id;
    committer.stop();
    Ok(id)
}

#[test]
fn a_new_log_is_refused_whose_segments_are_not_as_long_as_the_folders_files() {
    let folder = tempfile::tempdir().unwrap();
    let device = FolderDevice::new(folder.path(), SEGMENT_BYTES_MAX, Access::Write);
    let refused = append(Arc::new(device.unwrap()), 1).unwrap_err();
    assert!(matches!(refused, OpenError::Pieces { .. }), "{refused}");
    let entries = std::fs::read_dir(folder.path()).unwrap().count();
    assert_eq!(entries, 0, "nothing was begun");
}

#[test]
fn short_segments_of_a_folder_are_all_found_again() {
    let folder = tempfile::tempdir().unwrap();
    let device = FolderDevice::new(folder.path(), SEGMENT_BYTES_MIN, Access::Write);
    let id = append(Arc::new(device.unwrap()), 100).unwrap();
    assert_eq!(id, 100, "several segments of them");
    let device = crate::open::path(folder.path(), Access::Write).unwrap();
    assert_eq!(append(device, 0).unwrap(), 100);
}

#[test]
fn a_log_of_another_version_is_refused_with_what_to_do() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("log");
    let mut bytes = vec![0; 1024 * 1024];
    for copy in [0, SUPERBLOCK_BYTES] {
        bytes[copy..copy + 8].copy_from_slice(b"VBLEDGER");
        bytes[copy + 8] = 1;
    }
    std::fs::write(&path, &bytes).unwrap();
    let device = crate::open::path(&path, Access::Write).unwrap();
    let refused = append(device, 1).unwrap_err();
    let why = std::error::Error::source(&refused).unwrap().to_string();
    for said in ["log", "version is not 2", "export it", "import it"] {
        assert!(why.contains(said), "{said}: {why}");
    }
    assert!(!why.contains('\n'), "one line: {why}");
    assert!(std::fs::read(&path).unwrap() == bytes, "nothing is written");
}

const PAGE_BYTES: usize = 4096;

/// A file with holes: pages by number, and how many there may be.
struct Little(Mutex<(BTreeMap<u64, Vec<u8>>, usize)>);

impl Little {
    fn new(pages_max: usize) -> Arc<Self> {
        Arc::new(Self(Mutex::new((BTreeMap::new(), pages_max))))
    }

    /// The pages that a range touches: number, where in the page, where in the range, bytes.
    fn pages(offset: u64, bytes: usize) -> impl Iterator<Item = (u64, usize, usize, usize)> {
        let mut at = 0;
        std::iter::from_fn(move || {
            let here = offset + at as u64;
            let inside = (here % PAGE_BYTES as u64) as usize;
            let n = (bytes - at).min(PAGE_BYTES - inside);
            at += n;
            (n > 0).then_some((here / PAGE_BYTES as u64, inside, at - n, n))
        })
    }
}

impl Device for Little {
    fn capacity(&self) -> u64 {
        crate::device::GROWING_BYTES_MAX
    }
    fn sector_bytes(&self) -> u32 {
        ledger_core::SECTOR_BYTES_MIN
    }
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        let disk = self.0.lock().unwrap();
        for (page, inside, at, n) in Self::pages(offset, buf.len()) {
            match disk.0.get(&page) {
                Some(page) => buf[at..at + n].copy_from_slice(&page[inside..inside + n]),
                None => buf[at..at + n].fill(0),
            }
        }
        Ok(())
    }
    fn write_at(&self, offset: u64, new: &[u8]) -> io::Result<()> {
        let mut disk = self.0.lock().unwrap();
        for (page, inside, at, n) in Self::pages(offset, new.len()) {
            if !disk.0.contains_key(&page) && disk.0.len() >= disk.1 {
                return Err(io::ErrorKind::StorageFull.into());
            }
            let page = disk.0.entry(page).or_insert_with(|| vec![0; PAGE_BYTES]);
            page[inside..inside + n].copy_from_slice(&new[at..at + n]);
        }
        Ok(())
    }
    fn sync(&self) -> io::Result<()> {
        Ok(())
    }
    fn locate(&self, offset: u64) -> String {
        format!("memory at byte {offset}")
    }
}

#[test]
fn a_disk_without_room_for_zeros_ahead_is_read_and_not_written() {
    const PAGES_OF_MIB: usize = 1024 * 1024 / PAGE_BYTES;
    let birth = Birth {
        segment_bytes_max: SEGMENT_BYTES_MAX,
        ..BIRTH
    };
    let disk = Little::new(16 * PAGES_OF_MIB);
    let (committer, _) = Committer::start(disk.clone(), &birth).unwrap();
    let draft = draft();
    committer
        .ledger()
        .append_wait(vec![draft.clone(); 7])
        .unwrap();
    committer.stop();
    // As copied to a file system of four megabytes, without the zeros behind its end.
    {
        let mut disk = disk.0.lock().unwrap();
        disk.0.retain(|_, page| page.iter().any(|b| *b != 0));
        disk.1 = 4 * PAGES_OF_MIB;
    }
    let blank = Little::new(4 * PAGES_OF_MIB);
    for (disk, events) in [(disk, 7), (blank, 0)] {
        let (committer, _) = Committer::start(disk, &birth).unwrap();
        let ledger = committer.ledger();
        let standing = ledger.standing();
        assert_eq!(standing.id, events);
        let stopped = standing.stopped.unwrap();
        assert_eq!(stopped.code(), "READ_ONLY");
        assert!(stopped.to_string().contains("zero ahead"), "{stopped}");
        let mut reader = ledger.reader();
        for id in 1..=events {
            let ns = reader.event(id, |_, _, body| body.ns.to_owned());
            assert_eq!(ns.unwrap(), "ns");
        }
        let refused = ledger.append_wait(vec![draft.clone()]).unwrap_err();
        assert_eq!(refused.code, "READ_ONLY");
        committer.stop();
    }
}
