//! A ledger in this process: a log and its folder, small segments, the committer and its proofs.

use ledger::committer::{Committer, Draft, Ledger};
use ledger::device::Access;
use ledger::log::Birth;
use ledger::proofs::Keeper;
use std::fs;
use std::path::Path;

/// Small segments, so that a small log has several.
pub const BIRTH: Birth = Birth {
    log_id: [7; 16],
    tag_key: [9; 32],
    wall_ns: 1,
    segment_bytes_max: 256 * 1024,
};

pub struct Running {
    pub committer: Committer,
    pub keeper: Keeper,
}

impl Running {
    pub fn start(folder: &Path) -> Self {
        let path = folder.join("ledger.log");
        let file = fs::OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .unwrap();
        let device = ledger::open::descriptor(file, "log", Access::Write).unwrap();
        let (committer, _) = Committer::start(device, &BIRTH).unwrap();
        let keeper = Keeper::start(committer.ledger(), Some(folder), None).unwrap();
        Self { committer, keeper }
    }

    pub fn ledger(&self) -> &Ledger {
        self.committer.ledger()
    }

    pub fn append(&self, events: u64) {
        let draft = |n: u64| Draft {
            ns: "test".to_owned(),
            actor: "user:test".to_owned(),
            tenant_id: "system".to_owned(),
            event_type: "t".to_owned(),
            subject: n.to_string(),
            payload: "{}".to_owned(),
            ..Draft::default()
        };
        for first in (0..events).step_by(100) {
            let some = (first..events.min(first + 100)).map(draft).collect();
            self.ledger().append_wait(some).unwrap();
        }
    }

    pub fn stop(self) {
        self.committer.stop();
        self.keeper.stop();
    }
}
