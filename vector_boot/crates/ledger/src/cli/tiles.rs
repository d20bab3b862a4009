//! `export --tiles DIR`: a log on disk in the form of others.
//!
//! A C2SP tile directory (`checkpoint`, `tile/L/N`, `tile/entries/N`) of the tree that was
//! signed last, which verifiers of such logs accept. An entry is the 64 bytes that the tree says of an
//! event, not the event: who is shown them learns how many there are.

use super::Disk;
use super::progress::Progress;
use crate::device::Access;
use crate::proofs::folder::{CHECKPOINT, Folder};
use crate::scan::{self, Found};
use ledger_core::Hash;
use ledger_core::checkpoint::Checkpoint;
use ledger_core::tile::{Edge, TILE_WIDTH, Tile, push_entry};
use std::fs;
use std::io;
use std::path::Path;

/// Writes a C2SP tile directory, which must not be there yet or be empty; how many entries.
pub fn tiles(disk: &Disk, into: &Path) -> Result<u64, String> {
    let failed = |e: io::Error| format!("{}: {e}", into.display());
    fs::create_dir_all(into).map_err(failed)?;
    if fs::read_dir(into).map_err(failed)?.next().is_some() {
        return Err(format!("{}: not empty", into.display()));
    }
    let note = Folder::new(disk.data()).note(CHECKPOINT);
    let note = note.map_err(|e| format!("{CHECKPOINT}: {e}"))?;
    let note =
        note.ok_or_else(|| format!("{}: no checkpoint was signed yet", disk.data().display()))?;
    let checkpoint = Checkpoint::parse(note.text()).map_err(|e| e.to_string())?;
    let size = checkpoint.size;
    let device = &*disk.open(Access::Read)?;
    let (superblock, _) = scan::superblock(device)
        .map_err(|e| e.to_string())?
        .ok_or("blank: no log here yet")?;
    if superblock.first_segment > 0 {
        return Err("the log was compacted: entries of its first events are gone".to_owned());
    }
    let mut progress = Progress::bytes(crate::verify::expected_bytes(&superblock));
    let mut writing = Writing {
        into,
        size,
        edge: Edge::default(),
        bundle: Vec::new(),
        failed: None,
    };
    scan::scan(device, &superblock, None, &mut |found| match found {
        Found::Event { leaf, .. } => writing.leaf(&leaf),
        Found::Group { end } => progress.at(end),
        Found::Segment { .. } => {}
    })
    .map_err(|e| e.to_string())?;
    drop(progress);
    writing.finish().map_err(failed)?;
    if (writing.edge.size(), writing.edge.root()) != (size, checkpoint.root) {
        return Err(format!(
            "the log is not the one whose {size} events were signed"
        ));
    }
    // Last: what it speaks of is there.
    fs::write(into.join(CHECKPOINT), note.to_string()).map_err(failed)?;
    Ok(size)
}

struct Writing<'i> {
    into: &'i Path,
    size: u64,
    edge: Edge,
    bundle: Vec<u8>,
    failed: Option<io::Error>,
}

impl Writing<'_> {
    fn leaf(&mut self, leaf: &ledger_core::Leaf) {
        if self.edge.size() >= self.size || self.failed.is_some() {
            return;
        }
        let (into, mut written) = (self.into, Ok(()));
        self.edge.push(leaf.hash, &mut |tile, hashes| {
            if written.is_ok() {
                written = write(into, &tile.path(), hashes.as_flattened());
            }
        });
        // 64 bytes fit any bundle.
        let _ = push_entry(&mut self.bundle, &leaf.entry);
        let width = u64::from(TILE_WIDTH);
        if self.edge.size().is_multiple_of(width) {
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
            if tile.level == 0 {
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
