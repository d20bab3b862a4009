//! `export --tiles DIR`: a log on disk in the form of others.
//!
//! A C2SP tile directory (`checkpoint`, `tile/L/N`, `tile/entries/N`) of the tree that was
//! signed last, which verifiers of such logs accept. An entry is the 64 bytes that the tree says of an
//! event, not the event: who is shown them learns how many there are. Of a log that was compacted all
//! tiles are there, and the bundles that are whole: a pruned log, as tlog-tiles has it.

use super::Disk;
use super::progress::Progress;
use crate::device::Access;
use crate::proofs::folder::{CHECKPOINT, Folder};
use crate::scan::{self, Found};
use ledger_core::checkpoint::Checkpoint;
use ledger_core::tile::{Edge, TILE_WIDTH, Tile, push_entry};
use ledger_core::{Commitment, CompactRange, Hash};
use std::fs;
use std::io;
use std::path::Path;

/// What was written.
pub struct Exported {
    /// Leaves of the tree.
    pub size: u64,
    /// Index of the first entry that is there.
    pub entries_from: u64,
}

/// Writes a C2SP tile directory, which must not be there yet or be empty.
pub fn tiles(disk: &Disk, into: &Path) -> Result<Exported, String> {
    let failed = |e: io::Error| format!("{}: {e}", into.display());
    fs::create_dir_all(into).map_err(failed)?;
    if fs::read_dir(into).map_err(failed)?.next().is_some() {
        return Err(format!("{}: not empty", into.display()));
    }
    let folder = Folder::new(disk.data());
    let note = folder
        .note(CHECKPOINT)
        .map_err(|e| format!("{CHECKPOINT}: {e}"))?;
    let note =
        note.ok_or_else(|| format!("{}: no checkpoint was signed yet", disk.data().display()))?;
    let checkpoint = Checkpoint::parse(note.text()).map_err(|e| e.to_string())?;
    let size = checkpoint.size;
    let device = &*disk.open(Access::Read)?;
    let (superblock, _) = scan::superblock(device)
        .map_err(|e| e.to_string())?
        .ok_or("blank: no log here yet")?;
    let mut progress = Progress::bytes(crate::verify::expected_bytes(&superblock));
    let mut writing = Writing {
        into,
        size,
        entries_from: 0,
        edge: Edge::default(),
        bundle: Vec::new(),
        failed: None,
    };
    let mut lost = None;
    scan::scan(device, &superblock, None, &mut |found| match found {
        Found::Segment { extent, head, .. } => {
            if extent.place.segment == superblock.first_segment {
                lost = writing.dropped(&folder, &head.tree).err();
            }
        }
        Found::Event { leaf, .. } => writing.leaf(leaf.hash, Some(&leaf.entry)),
        Found::Group { end } => progress.at(end),
    })
    .map_err(|e| e.to_string())?;
    drop(progress);
    lost.map_or(Ok(()), |lost| Err(lost.to_owned()))?;
    writing.finish().map_err(failed)?;
    if (writing.edge.size(), writing.edge.root()) != (size, checkpoint.root) {
        return Err(format!(
            "the log is not the one whose {size} events were signed"
        ));
    }
    // Last: what it speaks of is there.
    fs::write(into.join(CHECKPOINT), note.to_string()).map_err(failed)?;
    Ok(Exported {
        size,
        entries_from: writing.entries_from,
    })
}

struct Writing<'i> {
    into: &'i Path,
    size: u64,
    entries_from: u64,
    edge: Edge,
    bundle: Vec<u8>,
    failed: Option<io::Error>,
}

impl Writing<'_> {
    /// Takes the leaves of the events that a compaction dropped from the folder's tiles.
    fn dropped(&mut self, folder: &Folder, tree: &CompactRange) -> Result<(), &'static str> {
        let size = tree.size();
        let width = u64::from(TILE_WIDTH);
        self.entries_from = size.next_multiple_of(width);
        for index in 0..size.div_ceil(width) {
            let tile = Tile::of_size(0, index, size);
            let leaves = tile.and_then(|tile| folder.prefix(&tile));
            for leaf in leaves.ok_or("tiles of compacted events are lost")? {
                self.leaf(leaf, None);
            }
        }
        let holds = self.edge.size() < size || self.edge.root() == tree.root();
        holds
            .then_some(())
            .ok_or("tiles of compacted events do not hold")
    }

    fn leaf(&mut self, leaf: Hash, entry: Option<&Commitment>) {
        if self.edge.size() >= self.size || self.failed.is_some() {
            return;
        }
        let (into, mut written) = (self.into, Ok(()));
        if let Some(entry) = entry.filter(|_| self.edge.size() >= self.entries_from) {
            // 64 bytes fit any bundle.
            let _ = push_entry(&mut self.bundle, entry);
        }
        self.edge.push(leaf, &mut |tile, hashes| {
            if written.is_ok() {
                written = write(into, &tile.path(), hashes.as_flattened());
            }
        });
        let width = u64::from(TILE_WIDTH);
        if self.edge.size().is_multiple_of(width) && !self.bundle.is_empty() {
            let tile = Tile::full(0, self.edge.size() / width - 1);
            written = written.and_then(|()| write(into, &tile.entries_path(), &self.bundle));
            self.bundle.clear();
        }
        self.failed = written.err();
    }

    /// Writes the tiles that are not full.
    fn finish(&mut self) -> io::Result<()> {
        if let Some(failed) = self.failed.take() {
            return Err(failed);
        }
        let partial: Vec<(Tile, Vec<Hash>)> = self
            .edge
            .partial()
            .map(|(tile, hashes)| (tile, hashes.to_vec()))
            .collect();
        for (tile, hashes) in partial {
            write(self.into, &tile.path(), hashes.as_flattened())?;
            if tile.level == 0 && !self.bundle.is_empty() {
                write(self.into, &tile.entries_path(), &self.bundle)?;
            }
        }
        Ok(())
    }
}

fn write(into: &Path, path: &str, bytes: &[u8]) -> io::Result<()> {
    let path = into.join(path);
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent)?;
    }
    fs::write(path, bytes)
}
