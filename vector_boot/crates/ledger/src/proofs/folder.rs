//! Tiles and the checkpoint as files of the ledger's folder.
//!
//! A full tile is written once, under another name first. What a power cut may have taken is not
//! believed: `settled` says how many leaves' tiles are durable, and tiles behind that are made anew
//! from the log.

use ledger_core::checkpoint::decimal;
use ledger_core::note::{NOTE_BYTES_MAX, Note};
use ledger_core::proof::Node;
use ledger_core::tile::{self, TILE_BYTES, TILE_WIDTH, Tile};
use ledger_core::{Hash, parent};
use std::fs::{self, File};
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
/// Where a file is written before it gets its name; one thread writes.
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
        let path = self.path(tile);
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent)?;
        }
        let new = self.tiles.join(NEW);
        fs::write(&new, hashes.as_flattened())?;
        fs::rename(&new, path)
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
        fs::create_dir_all(&self.tiles)?;
        if let Some((tile, hashes)) = last {
            self.write(&tile, hashes)?;
            sync(&self.path(&tile))?;
        }
        let mut span = u64::from(TILE_WIDTH);
        for level in 0.. {
            if span > size {
                break;
            }
            for index in from / span..size / span {
                let path = self.path(&Tile::full(level, index));
                sync(&path)?;
                // What stood for it while it was not full.
                let partial = path.with_extension("p");
                match fs::remove_dir_all(&partial) {
                    Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
                    _ => {}
                }
            }
            span = span.saturating_mul(u64::from(TILE_WIDTH));
        }
        replace(&self.tiles, SETTLED, format!("{size}\n").as_bytes(), true)
    }

    /// Forgets all tiles.
    pub fn clear(&self) -> io::Result<()> {
        match fs::remove_dir_all(&self.tiles) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
            _ => Ok(()),
        }
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
    pub fn put_note(&self, name: &str, note: &Note, durable: bool) -> io::Result<()> {
        replace(&self.data, name, note.to_string().as_bytes(), durable)
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

fn replace(folder: &Path, name: &str, bytes: &[u8], durable: bool) -> io::Result<()> {
    let new = folder.join(format!("{name}.{NEW}"));
    let mut file = File::create(&new)?;
    file.write_all(bytes)?;
    if durable {
        file.sync_all()?;
    }
    fs::rename(&new, folder.join(name))?;
    if durable {
        File::open(folder)?.sync_all()?;
    }
    Ok(())
}

/// Makes a file and its name durable.
fn sync(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()?;
    path.parent()
        .map_or(Ok(()), |parent| File::open(parent)?.sync_all())
}
