//! What the disk can do: zeros are there already, each group is one write and one fdatasync.

use crate::Run;
use crate::modes::{Mode, Store, drive};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::Duration;

/// As large as a segment of the ledger; then it begins anew at the front.
const FILE_BYTES: u64 = 64 * 1024 * 1024;
const SECTOR_BYTES: u64 = 512;

struct Floor {
    file: File,
    at: u64,
    bytes_of_event: f64,
    group: Vec<u8>,
    written: (u64, u64),
}

impl Store for Floor {
    fn append(&mut self, events: &[Vec<u8>]) {
        // As many bytes as the ledger writes for so many events.
        let bytes = (self.bytes_of_event * events.len() as f64) as u64;
        let bytes = bytes.max(1).next_multiple_of(SECTOR_BYTES);
        let length = usize::try_from(bytes).expect("fits");
        self.group.resize(length, 7);
        if self.at + bytes > FILE_BYTES {
            self.at = 0;
        }
        self.file.write_all_at(&self.group, self.at).expect("write");
        self.file.sync_data().expect("sync");
        self.at += bytes;
        self.written = (self.written.0 + 1, self.written.1 + bytes);
    }

    fn written(&self) -> (u64, u64) {
        self.written
    }
}

/// The hand-over between clients and writer alone.
pub struct Nothing;

impl Store for Nothing {
    fn append(&mut self, _: &[Vec<u8>]) {}
}

/// Runs the floor with the sizes of what the ledger just did.
pub fn run(folder: &Path, mode: Mode, limit: Duration, ledger: &Run) -> Run {
    let file = File::create_new(folder.join("floor")).expect("file");
    let zeros = vec![0; 1024 * 1024];
    for at in (0..FILE_BYTES).step_by(zeros.len()) {
        file.write_all_at(&zeros, at).expect("zeros");
    }
    file.sync_all().expect("sync");
    let floor = Floor {
        file,
        at: 0,
        bytes_of_event: ledger.bytes as f64 / ledger.events.max(1) as f64,
        group: Vec::new(),
        written: (0, 0),
    };
    drive(mode, limit, Box::new(floor))
}
