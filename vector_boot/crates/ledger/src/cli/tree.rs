//! The tree of a log on disk at one size.
//!
//! Of the events that are kept, the log itself has it. Of those that a compaction dropped, the header of
//! the first segment kept has the roots of their subtrees, which is all that proofs of the rest need;
//! what only older trees need is looked up in the ledger's tiles. Nothing here is believed: whoever makes
//! a proof checks it against a signed root.

use super::Disk;
use super::progress::Progress;
use crate::device::Access;
use crate::proofs::folder::Folder;
use crate::scan::{self, Found};
use ledger_core::proof::{self, Node};
use ledger_core::{Commitment, CompactRange, Hash, parent, tile};

/// A tree: 32 bytes an event that is kept, for as long as it takes.
pub struct Tree {
    /// That of the events that were dropped.
    dropped: CompactRange,
    leaves: Vec<Hash>,
    folder: Folder,
    /// What the tree says of the event that was asked for.
    pub entry: Option<Commitment>,
}

impl Tree {
    /// Reads the first `size` events of a log, and what the tree says of one of them.
    pub fn read(disk: &Disk, size: u64, event_id: u64) -> Result<Self, String> {
        let device = &*disk.open(Access::Read)?;
        let (superblock, _) = scan::superblock(device)
            .map_err(|e| e.to_string())?
            .ok_or("blank: no log here yet")?;
        let mut this = Self {
            dropped: CompactRange::default(),
            leaves: Vec::new(),
            folder: Folder::new(disk.data()),
            entry: None,
        };
        let mut progress = Progress::bytes(crate::verify::expected_bytes(&superblock));
        let first = superblock.first_segment;
        scan::scan(device, &superblock, None, &mut |found| match found {
            Found::Segment { extent, head, .. } if extent.place.segment == first => {
                this.dropped = head.tree.clone();
            }
            Found::Event { id, leaf, .. } if id <= size => {
                if id == event_id {
                    this.entry = Some(leaf.entry);
                }
                this.leaves.push(leaf.hash);
            }
            Found::Group { end } => progress.at(end),
            _ => {}
        })
        .map_err(|e| e.to_string())?;
        if this.size() < size {
            return Err(format!(
                "the checkpoint is of {size} events, the log holds {} of them",
                this.size()
            ));
        }
        Ok(this)
    }

    /// The first event that is kept.
    pub fn first_event(&self) -> u64 {
        self.dropped.size() + 1
    }

    fn size(&self) -> u64 {
        self.dropped.size() + self.leaves.len() as u64
    }

    /// Hash of a perfect subtree.
    ///
    /// # Errors
    /// What is missing.
    pub fn node(&self, node: Node) -> Result<Hash, String> {
        let (range, dropped) = (node.leaves(), self.dropped.size());
        let lost = || {
            format!(
                "tiles of compacted events are lost: the log begins at {}",
                dropped + 1
            )
        };
        if range.end <= dropped {
            let kept = self.dropped.node(node).or_else(|| self.folder.node(node));
            return kept.ok_or_else(lost);
        }
        if let Some(first) = range.start.checked_sub(dropped) {
            let at = |n: u64| usize::try_from(n).unwrap_or(usize::MAX);
            let leaves = self.leaves.get(at(first)..at(range.end - dropped));
            return leaves.and_then(tile::fold).ok_or_else(lost);
        }
        let [left, right] = node.children().ok_or_else(lost)?;
        Ok(parent(&self.node(left)?, &self.node(right)?))
    }

    /// Proof that the tree of `to` events continues that of `from`, with both roots, once it holds.
    pub fn consistency(&self, from: u64, to: u64) -> Result<(Vec<Hash>, Hash, Hash), String> {
        let (path, old, new) = self.path(from, to)?;
        let dropped = self.dropped.size();
        if to < dropped {
            // Tiles alone say so: what the log still has must continue it.
            self.path(to, dropped)?;
        }
        Ok((path, old, new))
    }

    fn path(&self, from: u64, to: u64) -> Result<(Vec<Hash>, Hash, Hash), String> {
        let mut look = |node| self.node(node);
        let path = proof::consistency(from, to, &mut look)?;
        let path = path.ok_or_else(|| format!("{from} events are more than {to}"))?;
        let (old, new) = (proof::root(from, &mut look)?, proof::root(to, &mut look)?);
        proof::verify_consistency(from, to, &old, &new, &path)
            .then_some((path, old, new))
            .ok_or_else(|| "tiles of compacted events do not hold".to_owned())
    }
}
