//! The service's `stats` page, for PID 1 and the capacity kernel.

use crate::committer::Ledger;
use std::os::fd::OwnedFd;
use sys::seqlock::Writer;

/// The page.
pub struct Page(Writer);

impl Page {
    /// Over the passed memfd; a page that cannot be mapped is done without.
    #[must_use]
    pub fn over(fd: &OwnedFd) -> Option<Self> {
        match Writer::over(fd, wire::stats::MAGIC) {
            Ok(writer) => Some(Self(writer)),
            Err(e) => {
                ::log::warn!("without stats page: error=\"{e}\"");
                None
            }
        }
    }

    /// Writes the present numbers.
    pub fn publish(&mut self, ledger: &Ledger, connections: usize) {
        let standing = ledger.standing();
        let queued = ledger.queued_bytes();
        self.0.update(|words| {
            let mut set = |name, value| {
                if let Some(word) = wire::stats::word(name) {
                    words.set(word, value);
                }
            };
            set("commits", standing.groups);
            set("events", standing.id);
            set("queue_gauge", queued as u64);
            set("connections_gauge", connections as u64);
        });
    }
}
