//! The state of all that folds the log, as it was when a segment began: where a start reads on from.
//!
//! It lies beside the snapshots of the index in the file `state`, bound to the log by the chain value
//! of that segment's header. A start that takes it does not read the events before; what it trusts is
//! in `docs/ledger-format.md`.

use super::{Extent, Wanted};
use crate::device::Device;
use crate::files::{self, Lasting, There};
use crate::slots::Mapped;
use ledger_core::{Hash, Head, SEGMENT_HEADER_BYTES, SegmentHeader, Superblock};
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

/// Name of the file.
pub const FILE_NAME: &str = "state";
const MAGIC: &[u8; 8] = b"VBLSTATE";
const CONTEXT: &str = "vb-ledger-state v3";
/// Longest file that is read: the planes are bounded, and what is larger is not theirs.
const BYTES_MAX: u64 = 256 * 1024 * 1024;
const HASH_BYTES: usize = 32;

/// The state before the first event of a segment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    /// Which log.
    pub log_id: [u8; 16],
    /// The segment.
    pub segment: u32,
    /// Its epoch.
    pub epoch: u64,
    /// The event before its first.
    pub id: u64,
    /// Chain value there.
    pub chain: Hash,
    /// When that event was written.
    pub last_wall_ns: u64,
    /// Id and chain value of the newest anchor.
    pub anchor: Option<(u64, Hash)>,
    /// The planes and what else folds the log, as a summary.
    pub summary: Vec<u8>,
}

impl State {
    /// Writes it. What a power cut leaves of it is found by its hash.
    ///
    /// # Errors
    /// As the file system's.
    pub fn write(&self, folder: &Path) -> io::Result<()> {
        let mut bytes = MAGIC.to_vec();
        // Plain data in memory: nothing that could fail.
        bytes.extend(postcard::to_allocvec(self).unwrap_or_default());
        let hash = blake3::derive_key(CONTEXT, &bytes);
        bytes.extend(hash);
        files::replace(folder, FILE_NAME, There::Anything, &bytes, Lasting::Perhaps)
    }

    /// Reads what was written, if it is there and whole.
    #[must_use]
    pub fn read(folder: &Path) -> Option<Self> {
        let mut bytes = Vec::new();
        let file = File::open(folder.join(FILE_NAME)).ok()?;
        file.take(BYTES_MAX).read_to_end(&mut bytes).ok()?;
        let (content, hash) = bytes.split_at_checked(bytes.len().checked_sub(HASH_BYTES)?)?;
        if hash != blake3::derive_key(CONTEXT, content) {
            return None;
        }
        match postcard::take_from_bytes(content.strip_prefix(MAGIC)?) {
            Ok((state, [])) => Some(state),
            _ => None,
        }
    }
}

impl Extent {
    /// The state before the first event of this segment.
    #[must_use]
    pub fn state(&self, last_wall_ns: u64, anchor: Option<(u64, Hash)>, summary: Vec<u8>) -> State {
        State {
            log_id: self.place.log_id,
            segment: self.place.segment,
            epoch: self.place.epoch,
            id: self.first_id - 1,
            chain: self.chain,
            last_wall_ns,
            anchor,
            summary,
        }
    }
}

/// What a start knows of a log without reading its events.
pub struct Resumed {
    /// Where the log stood before the first event that is kept.
    pub first: Head,
    /// The sealed segments before the one to read on from.
    pub sealed: Vec<Wanted>,
    /// The state there.
    pub state: State,
}

/// Finds where to read on from: the state, if it is this log's, and every header up to its segment is
/// whole and in order.
#[must_use]
pub fn resume(device: &dyn Device, superblock: &Superblock, folder: &Path) -> Option<Resumed> {
    let state = State::read(folder)?;
    if state.log_id != superblock.log_id || state.segment <= superblock.first_segment {
        return None;
    }
    let device = Mapped { device, superblock };
    let header = |segment: u32| {
        let mut area = [0; SEGMENT_HEADER_BYTES];
        let base = superblock.segment_offset(segment);
        device.read_at(base, &mut area).ok()?;
        let header = SegmentHeader::decode(&area)?;
        let right = (header.place.log_id, header.place.segment) == (superblock.log_id, segment);
        right.then_some((base, header))
    };
    let (mut base, first) = header(superblock.first_segment)?;
    let mut last = first.clone();
    let mut sealed = Vec::new();
    for segment in superblock.first_segment + 1..=state.segment {
        let (next_base, next) = header(segment)?;
        let epochs = last.place.epoch..=last.place.epoch.saturating_add(1);
        let events = u32::try_from(next.head.id.checked_sub(last.head.id)?).ok()?;
        if !epochs.contains(&next.place.epoch) {
            return None;
        }
        sealed.push(Wanted {
            extent: Extent::of(&last, base),
            events,
            chain: next.head.chain,
        });
        (base, last) = (next_base, next);
    }
    let there = (last.place.epoch, last.head.id, last.head.chain);
    (there == (state.epoch, state.id, state.chain)).then_some(Resumed {
        first: first.head,
        sealed,
        state,
    })
}
