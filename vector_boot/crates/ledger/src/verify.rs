//! `verify`: every frame, chain value, tag and root of a log, and the first thing that does not hold.

use crate::device::Device;
use crate::log::{OpenError, check_size};
use crate::query::hex;
use crate::scan::{self, Found};
use ledger_core::{FaultKind, SUPERBLOCK_BYTES, Superblock};

/// What was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// Events that hold.
    pub events: u64,
    /// Groups that hold.
    pub groups: u64,
    /// Bytes of the log up to the end of the last group that holds.
    pub bytes: u64,
    /// Chain value of the last event that holds, in hex.
    pub chain: String,
    /// Tree root there, in hex.
    pub root: String,
    /// Checkpoints that were compared and hold.
    pub checkpoints: u64,
    /// Tiles that were compared and hold.
    pub tiles: u64,
    /// The first bad thing.
    pub bad: Option<Bad>,
}

/// The first bad thing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bad {
    /// The event that was expected there.
    pub event_id: u64,
    /// Its byte offset in the log.
    pub offset: u64,
    /// File and byte.
    pub place: String,
    /// What is wrong.
    pub what: String,
}

impl Report {
    /// One line of JSON members.
    #[must_use]
    pub fn members(&self) -> String {
        let text = |t: &str| serde_json::to_string(t).unwrap_or_else(|_| "null".to_owned());
        let bad = self.bad.as_ref().map_or("null".to_owned(), |b| {
            format!(
                "{{\"event_id\":{},\"offset\":{},\"place\":{},\"what\":{}}}",
                b.event_id,
                b.offset,
                text(&b.place),
                text(&b.what)
            )
        });
        format!(
            "\"verified\":{},\"events\":{},\"groups\":{},\"bytes\":{},\"chain\":\"{}\",\"root\":\"{}\",\"checkpoints\":{},\"tiles\":{},\"bad\":{bad}",
            self.bad.is_none(),
            self.events,
            self.groups,
            self.bytes,
            self.chain,
            self.root,
            self.checkpoints,
            self.tiles
        )
    }
}

/// Verifies a log, up to `until` (its durable end while it is being written) or to its end.
/// `progress` gets the bytes read so far.
///
/// # Errors
/// [`OpenError`] if there is no log or it cannot be read.
pub fn verify(
    device: &dyn Device,
    until: Option<u64>,
    progress: &mut dyn FnMut(u64),
) -> Result<Report, OpenError> {
    watched(device, until, progress, &mut |_| ())
}

/// As [`verify`]; `watch` is shown all that is read, from the beginning once more if what was being
/// read is dropped meanwhile.
///
/// # Errors
/// As [`verify`].
pub fn watched(
    device: &dyn Device,
    until: Option<u64>,
    progress: &mut dyn FnMut(u64),
    watch: &mut dyn FnMut(&Found<'_>),
) -> Result<Report, OpenError> {
    let io = |step| move |error| OpenError::Io { step, error };
    let read = || scan::superblock(device).map_err(io("read superblock"));
    let (mut superblock, _) = read()?.ok_or(OpenError::Blank)?;
    let mut dropped = false;
    let (end, groups, bytes, copy) = loop {
        check_size(device, &superblock)?;
        let (mut groups, mut bytes) = (0, superblock.segment_offset(superblock.first_segment));
        let end = scan::scan(device, &superblock, until, &mut |found| {
            watch(&found);
            if let Found::Group { end } = found {
                groups += 1;
                bytes = end;
                progress(end);
            }
        })
        .map_err(io("read log"))?;
        let (now, bad) = read()?.ok_or(OpenError::Blank)?;
        if now.generation == superblock.generation {
            break (end, groups, bytes, bad);
        }
        // What was being read was dropped meanwhile.
        (superblock, dropped) = (now, true);
    };
    // The event that says so lies behind `until` then.
    let unseen = dropped && until.is_some();
    let fault = end
        .fault
        .filter(|fault| !(unseen && fault.kind == FaultKind::Unbound));
    let by_copy = copy.map(|(copy, what)| superblock_bad(device, copy, what));
    let by_scan = fault.map(|fault| {
        let at = superblock.segment_offset(fault.segment) + fault.offset;
        let offset = superblock.slot_offset(at);
        Bad {
            event_id: fault.id.0,
            offset,
            place: device.locate(offset),
            what: if end.damaged {
                fault.kind.to_string()
            } else {
                format!(
                    "{} (torn: never acknowledged, the next start clears it)",
                    fault.kind
                )
            },
        }
    });
    Ok(Report {
        events: end.head.id,
        groups,
        bytes,
        chain: hex(&end.head.chain),
        root: hex(&end.head.tree.root()),
        checkpoints: 0,
        tiles: 0,
        bad: by_copy.or(by_scan),
    })
}

fn superblock_bad(device: &dyn Device, copy: usize, what: &str) -> Bad {
    let offset = (copy * SUPERBLOCK_BYTES) as u64;
    Bad {
        event_id: 0,
        offset,
        place: device.locate(offset),
        what: format!("superblock copy {copy}: {what}"),
    }
}

/// Bytes that a verification will read at most, for progress.
#[must_use]
pub fn expected_bytes(superblock: &Superblock) -> u64 {
    superblock.device_bytes()
}
