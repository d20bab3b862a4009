//! `verify`: every frame, chain value, tag and root of a log, and the first thing that does not hold.

use crate::device::Device;
use crate::log::{OpenError, check_size};
use crate::query::hex;
use crate::scan::{self, End, Found};
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

/// What a reading of a whole log found.
pub struct Whole {
    /// Whose segments were read.
    pub superblock: Superblock,
    /// What is wrong with a copy of it.
    pub copy: Option<scan::BadCopy>,
    /// Where it ended, and why.
    pub end: End,
}

/// Reads a log from its beginning, and once more if what was being read was dropped meanwhile; `again`
/// is told so before each reading, and `watch` shown all that is read.
///
/// # Errors
/// [`OpenError`] if there is no log or it cannot be read.
pub fn read_whole<W>(
    device: &dyn Device,
    until: Option<u64>,
    watch: &mut W,
    again: &mut dyn FnMut(&mut W, &Superblock),
    found: &mut dyn FnMut(&mut W, &Found<'_>),
) -> Result<Whole, OpenError> {
    let io = |step| move |error| OpenError::Io { step, error };
    let read = || scan::superblock(device).map_err(io("read superblock"));
    let (mut superblock, _) = read()?.ok_or(OpenError::Blank)?;
    let mut dropped = false;
    loop {
        check_size(device, &superblock)?;
        again(watch, &superblock);
        let mut end = scan::scan(device, &superblock, until, &mut |it| found(watch, &it))
            .map_err(io("read log"))?;
        let (now, copy) = read()?.ok_or(OpenError::Blank)?;
        if now.generation == superblock.generation {
            // The event that says what was dropped lies behind `until` then.
            let unseen = dropped && until.is_some();
            if unseen && end.fault.is_some_and(|f| f.kind == FaultKind::Unbound) {
                (end.fault, end.damaged) = (None, false);
            }
            return Ok(Whole {
                superblock,
                copy,
                end,
            });
        }
        (superblock, dropped) = (now, true);
    }
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
    let mut counted = (0, 0);
    let whole = read_whole(
        device,
        until,
        &mut counted,
        &mut |counted, log| *counted = (0, log.segment_offset(log.first_segment)),
        &mut |(groups, bytes), found| {
            watch(found);
            if let Found::Group { end } = found {
                *groups += 1;
                *bytes = *end;
                progress(*end);
            }
        },
    )?;
    let (groups, bytes) = counted;
    let Whole {
        superblock,
        copy,
        end,
    } = whole;
    let by_copy = copy.map(|(copy, what)| superblock_bad(device, copy, what));
    let by_scan = end.fault.map(|fault| {
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
