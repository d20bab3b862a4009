//! A verification that also compares what was signed and kept: checkpoints of the ledger's folder and
//! from outside, and the tiles.
//!
//! What is in the log convicts who changed a part of it; a checkpoint that was kept elsewhere convicts
//! who wrote the whole anew, with the device's own key too.

use crate::device::Device;
use crate::log::OpenError;
use crate::proofs::folder::{CHECKPOINT, Folder, WITNESSED};
use crate::said::Said;
use crate::scan::{self, Found};
use crate::verify::{Bad, Report, watched};
use ledger_core::checkpoint::Checkpoint;
use ledger_core::note::{Note, VerifierKey};
use ledger_core::proof::{consistency, verify_consistency};
use ledger_core::tile::{Edge, Tile};
use ledger_core::{CompactRange, Hash};
use std::path::Path;

/// What is compared beside the log itself.
#[derive(Default)]
pub struct Asked {
    /// The log's key. Without it, signatures of checkpoints are not looked at.
    pub key: Option<VerifierKey>,
    /// A checkpoint that was kept elsewhere, and where it came from.
    pub since: Option<(String, Note)>,
    /// The ledger's folder.
    pub folder: Option<Folder>,
}

impl Asked {
    /// What lies in a folder, under the key of its device where that can be read.
    #[must_use]
    pub fn of_folder(data: &Path) -> Self {
        let key = crate::keys::DeviceKey::read(data).ok();
        let key = key.and_then(|key| {
            let origin = format!("{}/ledger", key.device_id());
            VerifierKey::log(&origin, key.public()).ok()
        });
        Self {
            key,
            since: None,
            folder: Some(Folder::new(data)),
        }
    }
}

/// A checkpoint, and where it came from.
struct Kept {
    place: String,
    checkpoint: Checkpoint,
    /// The root of the log's tree at its size, once it was read that far.
    root: Option<Hash>,
}

/// Verifies a log as [`crate::verify::verify`] does, then all that was asked. The first bad thing is
/// the log's own, if it has one. `until` is asked for once the checkpoints are read: a log that is being
/// written may have been signed further meanwhile.
///
/// # Errors
/// [`OpenError`] if there is no log or it cannot be read.
pub fn audit(
    device: &dyn Device,
    until: &dyn Fn() -> Option<u64>,
    asked: &Asked,
    progress: &mut dyn FnMut(u64),
) -> Result<Report, OpenError> {
    let mut unread = None;
    let mut kept = Vec::new();
    for found in checkpoints(asked) {
        match found {
            Ok(one) => kept.push(one),
            Err(what) => unread = unread.or(Some(what)),
        }
    }
    let mut tree = Tree::new(asked.folder.as_ref(), kept);
    let mut said = Said::default();
    let mut report = watched(device, until(), progress, &mut |found| {
        tree.see(found);
        said.see(found);
    })?;
    let by_kept = unread.or_else(|| tree.verdict(report.events));
    report.checkpoints = tree.kept.len() as u64;
    report.tiles = tree.tiles;
    let by_event = said.wrong.map(|wrong| {
        let superblock = scan::superblock(device).ok().flatten();
        let offset = superblock.map_or(wrong.offset, |(s, _)| s.slot_offset(wrong.offset));
        bad(&device.locate(offset), wrong.id, offset, wrong.what)
    });
    // An event that was read lies before the first one that could not be.
    let first = |a: &Bad, b: &Bad| a.event_id <= b.event_id;
    report.bad = match (report.bad, by_event) {
        (Some(scan), Some(event)) if first(&scan, &event) => Some(scan),
        (scan, event) => event.or(scan),
    };
    report.bad = report.bad.or(by_kept);
    Ok(report)
}

fn bad(place: &str, event_id: u64, offset: u64, what: impl Into<String>) -> Bad {
    Bad {
        event_id,
        offset,
        place: place.to_owned(),
        what: what.into(),
    }
}

/// The checkpoints to compare, outside ones first: each opened with the key, if there is one.
fn checkpoints(asked: &Asked) -> Vec<Result<Kept, Bad>> {
    let mut notes = Vec::new();
    if let Some((place, note)) = &asked.since {
        notes.push((place.clone(), Ok(Some(note.clone()))));
    }
    if let Some(folder) = &asked.folder {
        for name in [CHECKPOINT, WITNESSED] {
            notes.push((name.to_owned(), folder.note(name)));
        }
    }
    let open = |(place, note): (String, std::io::Result<Option<Note>>)| {
        let failed = |what: String| Some(Err(bad(&place, 0, 0, what)));
        let note = match note {
            Ok(Some(note)) => note,
            Ok(None) => return None,
            Err(e) => return failed(e.to_string()),
        };
        let opened = match &asked.key {
            Some(key) => Checkpoint::open(&note, key),
            None => Checkpoint::parse(note.text()),
        };
        match opened {
            Ok(checkpoint) => Some(Ok(Kept {
                place,
                checkpoint,
                root: None,
            })),
            Err(e) => failed(e.to_string()),
        }
    };
    notes.into_iter().filter_map(open).collect()
}

/// The tree as the log has it, beside the tiles and the checkpoints.
struct Tree<'f> {
    folder: Option<&'f Folder>,
    settled: u64,
    kept: Vec<Kept>,
    /// The tree behind the newest whole group, and the leaves since.
    range: CompactRange,
    begin: Option<CompactRange>,
    open: Vec<Hash>,
    edge: Option<Edge>,
    tiles: u64,
    bad: Option<Bad>,
}

impl<'f> Tree<'f> {
    fn new(folder: Option<&'f Folder>, kept: Vec<Kept>) -> Self {
        let settled = folder.map_or(0, Folder::settled);
        Self {
            folder: folder.filter(|_| settled > 0),
            settled,
            kept,
            range: CompactRange::default(),
            begin: None,
            open: Vec::new(),
            edge: None,
            tiles: 0,
            bad: None,
        }
    }

    fn see(&mut self, found: &Found<'_>) {
        match found {
            Found::Segment { head, .. } => {
                let again = self.range.size() != head.tree.size();
                if self.begin.is_none() || again {
                    self.begin(&head.tree);
                }
            }
            Found::Event { leaf, .. } => self.open.push(leaf.hash),
            Found::Group { .. } => {
                for leaf in std::mem::take(&mut self.open) {
                    self.leaf(leaf);
                }
            }
        }
    }

    fn begin(&mut self, range: &CompactRange) {
        self.range = range.clone();
        self.begin = Some(range.clone());
        self.open.clear();
        self.tiles = 0;
        self.edge = self.folder.and_then(|folder| {
            Edge::restore(range.size(), &mut |tile| folder.prefix(&tile))
                .filter(|edge| edge.root() == range.root())
        });
        self.compare();
    }

    fn leaf(&mut self, leaf: Hash) {
        self.range.push_leaf(leaf);
        let (folder, settled) = (self.folder, self.settled);
        let (tiles, bad) = (&mut self.tiles, &mut self.bad);
        if let (Some(edge), Some(folder)) = (&mut self.edge, folder) {
            edge.push(leaf, &mut |tile, hashes| {
                if tile.leaves_end() > settled {
                    return;
                }
                match compare(folder, &tile, hashes) {
                    Ok(()) => *tiles += 1,
                    Err(found) => *bad = bad.take().or(Some(found)),
                }
            });
        }
        self.compare();
    }

    /// Notes the root for checkpoints of this size.
    fn compare(&mut self) {
        let size = self.range.size();
        for kept in self.kept.iter_mut().filter(|k| k.checkpoint.size == size) {
            kept.root = Some(self.range.root());
        }
    }

    /// The first thing that does not hold, of a log with so many events.
    fn verdict(&mut self, events: u64) -> Option<Bad> {
        let by_checkpoint = self.kept.iter().find_map(|kept| {
            let (size, place) = (kept.checkpoint.size, &kept.place);
            let what = match kept.root {
                Some(root) if root == kept.checkpoint.root => return None,
                Some(_) => format!("checkpoint of {size} events has another root than the log"),
                None if size > events => {
                    format!("checkpoint of {size} events, but the log ends at {events}: it was cut")
                }
                None => match self.continues(&kept.checkpoint) {
                    true => return None,
                    false => format!("checkpoint of {size} events, which were compacted, and tiles do not prove that the log continues it"),
                },
            };
            Some(bad(place, size, 0, what))
        });
        let unproven = self.folder.is_some() && self.edge.is_none() && self.begin.is_some();
        let by_tiles = self.bad.take().or_else(|| {
            let what = "tiles of compacted events do not lead to the log's root";
            unproven.then(|| bad("tiles", 0, 0, what))
        });
        by_checkpoint.or(by_tiles)
    }

    /// Whether what is left of a compacted log continues an older checkpoint, by its tiles.
    fn continues(&self, old: &Checkpoint) -> bool {
        let (Some(begin), Some(folder)) = (&self.begin, self.folder) else {
            return false;
        };
        let mut look = |node| folder.node(node).ok_or(());
        let path = consistency(old.size, begin.size(), &mut look);
        let holds = |path: Vec<Hash>| {
            let (from, to) = (&old.root, begin.root());
            verify_consistency(old.size, begin.size(), from, &to, &path)
        };
        path.ok().flatten().is_some_and(holds)
    }
}

/// Compares a full tile that is durable. Those behind may be what a power cut left: the next start makes
/// them anew.
fn compare(folder: &Folder, tile: &Tile, hashes: &[Hash]) -> Result<(), Bad> {
    let path = folder.path(tile);
    let place = path.display().to_string();
    let wrong = |offset: u64, what: &str| Err(bad(&place, 0, offset, what));
    match std::fs::read(&path) {
        Err(e) => wrong(0, &e.to_string()),
        Ok(bytes) if bytes == hashes.as_flattened() => Ok(()),
        Ok(bytes) => {
            let differs = hashes.as_flattened().iter().zip(&bytes);
            let at = differs.take_while(|(a, b)| a == b).count() as u64;
            wrong(at, "tile does not hold the log's hashes")
        }
    }
}
