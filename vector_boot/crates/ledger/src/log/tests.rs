//! A log in a folder whose segments are shorter than the longest: it is found again, or not begun.

use super::*;
use crate::committer::{Committer, Draft};
use crate::device::{Access, FolderDevice};

const BIRTH: Birth = Birth {
    log_id: [1; 16],
    tag_key: [2; 32],
    wall_ns: 0,
    segment_bytes_max: SEGMENT_BYTES_MIN,
};

fn append(device: Arc<dyn Device>, events: usize) -> Result<u64, OpenError> {
    let (committer, _) = Committer::start(device, &BIRTH)?;
    for _ in 0..events {
        let draft = Draft {
            ns: "ns".to_owned(),
            actor: "user:a".to_owned(),
            tenant_id: "t".to_owned(),
            event_type: "kind".to_owned(),
            payload: "{}".to_owned(),
            ..Draft::default()
        };
        committer.ledger().append_wait(vec![draft]).unwrap();
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
