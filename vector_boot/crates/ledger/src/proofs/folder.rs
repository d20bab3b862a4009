//! Tiles and the checkpoint as files of the ledger's folder.
//!
//! A full tile is written once, under another name first. What a power cut may have taken is not
//! believed: `settled` says how many leaves' tiles are durable, and tiles behind that are made anew
//! from the log.

use crate::files::{self, Lasting, There, Writing};
use ledger_core::checkpoint::decimal;
use ledger_core::note::{NOTE_BYTES_MAX, Note};
use ledger_core::proof::Node;
use ledger_core::tile::{self, TILE_BYTES, TILE_WIDTH, Tile};
use ledger_core::{Hash, parent};
use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

/// Name of the tiles' folder in the ledger's.
pub const TILES: &str = "tiles";
/// Name of the last checkpoint.
pub const CHECKPOINT: &str = "checkpoint";
/// Name of the last checkpoint that witnesses cosigned.
pub const WITNESSED: &str = "checkpoint.witnessed";
/// Says how many leaves' tiles are durable.
const SETTLED: &str = "settled";
/// Where a tile is written before it gets its name; one thread writes.
const NEW: &str = "new";

/// The ledger's folder.
#[derive(Debug, Clone)]
pub struct Folder {
    data: PathBuf,
    tiles: PathBuf,
}

impl Folder {
    /// The folder at this path.
    pub fn new(data: &Path) -> Self {
        Self {
            data: data.to_owned(),
            tiles: data.join(TILES),
        }
    }

    /// The ledger's folder itself.
    pub fn data(&self) -> &Path {
        &self.data
    }

    /// Makes the names durable that are there: of the key, the checkpoint and what says which tiles are.
    pub fn sync_names(&self) -> io::Result<()> {
        files::sync_folder(&self.data)?;
        match self.tiles.is_dir() {
            true => files::sync_folder(&self.tiles),
            false => Ok(()),
        }
    }

    /// Where a tile lies.
    pub fn path(&self, tile: &Tile) -> PathBuf {
        let path = tile.path();
        self.tiles.join(path.strip_prefix("tile/").unwrap_or(&path))
    }

    /// A tile's hashes; `None` if it is not there whole.
    pub fn read(&self, tile: &Tile) -> io::Result<Option<Vec<Hash>>> {
        let bytes = read_at_most(&self.path(tile), TILE_BYTES)?;
        Ok(bytes.and_then(|bytes| tile::hashes(&bytes, tile.width)))
    }

    /// A tile's hashes, from whatever tile is there that begins with them: it got wider since, or full.
    pub fn prefix(&self, tile: &Tile) -> Option<Vec<Hash>> {
        let settled = Tile::of_size(tile.level, tile.index, self.settled());
        let full = Tile::full(tile.level, tile.index);
        [Some(*tile), settled, Some(full)]
            .into_iter()
            .flatten()
            .filter(|there| there.width >= tile.width)
            .find_map(|there| self.read(&there).ok().flatten())
            .map(|mut hashes| {
                hashes.truncate(usize::from(tile.width));
                hashes
            })
    }

    /// Hash of a perfect subtree, of its tile or, where that is not full yet and so not here, of those
    /// below it.
    pub fn node(&self, node: Node) -> Option<Hash> {
        let (level, index, range) = Tile::of_node(node);
        let width = u16::try_from(range.end).ok()?;
        let tile = Tile {
            level,
            index,
            width,
        };
        match self.prefix(&tile) {
            Some(hashes) => tile::fold(hashes.get(range)?),
            None if level == 0 => None,
            None => {
                let [left, right] = node.children()?;
                Some(parent(&self.node(left)?, &self.node(right)?))
            }
        }
    }

    /// Writes a tile; durable with [`Self::settle`].
    pub fn write(&self, tile: &Tile, hashes: &[Hash]) -> io::Result<()> {
        self.put(tile, hashes, Lasting::Perhaps)
    }

    fn put(&self, tile: &Tile, hashes: &[Hash], lasting: Lasting) -> io::Result<()> {
        let path = self.path(tile);
        self.make_above(&path)?;
        let new = self.tiles.join(NEW);
        let mut file = Writing::begin(&new, There::Anything)?;
        file.write_all(hashes.as_flattened())?;
        if lasting == Lasting::Durable {
            file.sync()?;
        }
        files::rename(&new, &path)
    }

    /// Makes the folders in which a tile lies.
    fn make_above(&self, tile: &Path) -> io::Result<()> {
        let mut above: Vec<&Path> = self.above(tile).collect();
        above.pop();
        let made = |folder: &&Path| files::make_folder(folder, 0o777);
        above
            .iter()
            .rev()
            .try_for_each(|folder| made(folder).map(drop))
    }

    /// The folders above a tile, the ledger's last.
    fn above<'p>(&self, tile: &'p Path) -> impl Iterator<Item = &'p Path> {
        let above = tile.ancestors().skip(1);
        let data = self.data.clone();
        above.take_while(move |folder| folder.starts_with(&data))
    }

    /// Leaves whose tiles are durable.
    pub fn settled(&self) -> u64 {
        let read = read_at_most(&self.tiles.join(SETTLED), 32).ok().flatten();
        read.and_then(|bytes| String::from_utf8(bytes).ok())
            .and_then(|text| decimal(text.strip_suffix('\n')?))
            .unwrap_or(0)
    }

    /// Makes the tiles of the leaves `from..size` durable, `last` among them: the partial tile of the
    /// last leaves.
    pub fn settle(&self, from: u64, size: u64, last: Option<(Tile, &[Hash])>) -> io::Result<()> {
        files::make_folder(&self.tiles, 0o777)?;
        let mut folders = BTreeSet::from([self.data.clone()]);
        let mut sync = |path: &Path| {
            folders.extend(self.above(path).map(Path::to_owned));
            files::sync_file(path)
        };
        if let Some((tile, hashes)) = last {
            // In its place may be one that is settled: what takes it is durable before it does.
            self.put(&tile, hashes, Lasting::Durable)?;
            sync(&self.path(&tile))?;
        }
        let mut partials = Vec::new();
        let mut span = u64::from(TILE_WIDTH);
        for level in 0.. {
            if span > size {
                break;
            }
            for index in from / span..size / span {
                let path = self.path(&Tile::full(level, index));
                sync(&path)?;
                partials.push(path.with_extension("p"));
            }
            span = span.saturating_mul(u64::from(TILE_WIDTH));
        }
        for folder in folders {
            files::sync_folder(&folder)?;
        }
        let text = format!("{size}\n");
        let there = There::Anything;
        let lasting = Lasting::Durable;
        files::replace(&self.tiles, SETTLED, there, text.as_bytes(), lasting)?;
        // What stood for tiles while they were not full: until now a start would have begun with it.
        for partial in partials.iter().filter(|partial| partial.exists()) {
            files::remove_all(partial)?;
        }
        Ok(())
    }

    /// Forgets all tiles.
    pub fn clear(&self) -> io::Result<()> {
        files::remove_all(&self.tiles)
    }

    /// A note of the folder: [`CHECKPOINT`] or [`WITNESSED`]; `None` if there is none.
    ///
    /// # Errors
    /// `InvalidData` if it is no note.
    pub fn note(&self, name: &str) -> io::Result<Option<Note>> {
        let Some(bytes) = read_at_most(&self.data.join(name), NOTE_BYTES_MAX)? else {
            return Ok(None);
        };
        let bad = |why: String| io::Error::new(io::ErrorKind::InvalidData, why);
        let text = String::from_utf8(bytes).map_err(|_| bad("not UTF-8".to_owned()))?;
        Note::parse(&text).map(Some).map_err(|e| bad(e.to_string()))
    }

    /// Puts a note in the folder, in the place of the one before.
    pub fn put_note(&self, name: &str, note: &Note, lasting: Lasting) -> io::Result<()> {
        let text = note.to_string();
        files::replace(&self.data, name, There::Anything, text.as_bytes(), lasting)
    }
}

/// A file's bytes; `None` if it is not there.
fn read_at_most(path: &Path, limit: usize) -> io::Result<Option<Vec<u8>>> {
    let file = match File::open(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        opened => opened?,
    };
    let mut bytes = Vec::new();
    file.take(limit as u64 + 1).read_to_end(&mut bytes)?;
    if bytes.len() > limit {
        let why = format!("more than {limit} bytes");
        return Err(io::Error::new(io::ErrorKind::InvalidData, why));
    }
    Ok(Some(bytes))
}
