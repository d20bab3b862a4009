//! Tiles: the tree in pieces of 256 hashes, as C2SP `tlog-tiles` has them, and the bundles of entries
//! beside them.
//!
//! Owns: names, the look-up of a node in its tile, and [`Edge`], the hashes at the right of the tree
//! that no full tile holds yet. Source: <https://c2sp.org/tlog-tiles>.

use crate::Hash;
use crate::checkpoint::decimal;
use crate::proof::Node;
use crate::tree::parent;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

/// Levels of the tree that one tile spans.
pub const TILE_HEIGHT: u32 = 8;
/// Hashes of a full tile.
pub const TILE_WIDTH: u16 = 256;
/// Bytes of a full tile.
pub const TILE_BYTES: usize = TILE_WIDTH as usize * HASH_BYTES;
/// Highest level of a tile: 256^8 leaves are more than there can be.
pub const TILE_LEVEL_MAX: u32 = 7;
const HASH_BYTES: usize = 32;

/// Name of a tile: the first `width` hashes of the `index`-th at its level.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Tile {
    /// Level, from the leaves up.
    pub level: u32,
    /// Place at that level.
    pub index: u64,
    /// Hashes, 1 to 256.
    pub width: u16,
}

impl Tile {
    /// A full tile.
    #[must_use]
    pub fn full(level: u32, index: u64) -> Self {
        Self {
            level,
            index,
            width: TILE_WIDTH,
        }
    }

    /// Whether it is full.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.width == TILE_WIDTH
    }

    /// The tile at this place in a tree of `size` leaves; `None` if it has none.
    #[must_use]
    pub fn of_size(level: u32, index: u64, size: u64) -> Option<Self> {
        let hashes = size.checked_shr(level * TILE_HEIGHT).unwrap_or(0);
        let left = hashes.checked_sub(index.checked_mul(u64::from(TILE_WIDTH))?)?;
        let width = u16::try_from(left.min(u64::from(TILE_WIDTH))).ok()?;
        (width > 0).then_some(Self {
            level,
            index,
            width,
        })
    }

    /// The tile that holds what a node's hash is made of, and which of its hashes.
    #[must_use]
    pub fn of_node(node: Node) -> (u32, u64, core::ops::Range<usize>) {
        let (level, height) = (node.level / TILE_HEIGHT, node.level % TILE_HEIGHT);
        let index = node.index >> (TILE_HEIGHT - height);
        let inside = node.index & ((1 << (TILE_HEIGHT - height)) - 1);
        // Below 256.
        let first = usize::try_from(inside << height).unwrap_or(0);
        (level, index, first..first + (1 << height))
    }

    /// How many leaves the tree needs to have for it to be full.
    #[must_use]
    pub fn leaves_end(&self) -> u64 {
        let span = u64::from(TILE_WIDTH).saturating_pow(self.level.saturating_add(1));
        self.index.saturating_add(1).saturating_mul(span)
    }

    /// Its path below the log's prefix.
    #[must_use]
    pub fn path(&self) -> String {
        format!("tile/{}/{}", self.level, place(self.index, self.width))
    }

    /// The path of the bundle of entries that its leaves are, for a tile of level 0.
    #[must_use]
    pub fn entries_path(&self) -> String {
        format!("tile/entries/{}", place(self.index, self.width))
    }

    /// Reads a tile's path.
    #[must_use]
    pub fn parse(path: &str) -> Option<Self> {
        let (level, rest) = path.strip_prefix("tile/")?.split_once('/')?;
        let level = u32::try_from(decimal(level)?).ok()?;
        let (index, width) = read_place(rest)?;
        (level <= TILE_LEVEL_MAX).then_some(Self {
            level,
            index,
            width,
        })
    }

    /// Reads the path of a bundle of entries.
    #[must_use]
    pub fn parse_entries(path: &str) -> Option<Self> {
        let (index, width) = read_place(path.strip_prefix("tile/entries/")?)?;
        Some(Self {
            level: 0,
            index,
            width,
        })
    }
}

/// `x001/x234/067`, and `.p/W` for a tile that is not full.
fn place(index: u64, width: u16) -> String {
    let mut out = format!("{:03}", index % 1000);
    let mut rest = index / 1000;
    while rest > 0 {
        out = format!("x{:03}/{out}", rest % 1000);
        rest /= 1000;
    }
    if width < TILE_WIDTH {
        out.push_str(&format!(".p/{width}"));
    }
    out
}

fn read_place(text: &str) -> Option<(u64, u16)> {
    let (index_text, width) = match text.split_once(".p/") {
        None => (text, TILE_WIDTH),
        Some((index, width)) => {
            let width = u16::try_from(decimal(width)?).ok()?;
            (index, width)
        }
    };
    let mut index = 0u64;
    for part in index_text.split('/') {
        let digits = part.strip_prefix('x').unwrap_or(part);
        if digits.len() != 3 || !digits.bytes().all(|b| b.is_ascii_digit()) {
            return None;
        }
        index = index.checked_mul(1000)?.checked_add(digits.parse().ok()?)?;
    }
    // One text for one place: no needless groups, an x on all but the last, no width of 0 or 256.
    (place(index, width) == text && width > 0).then_some((index, width))
}

/// Root over 2^n hashes.
#[must_use]
pub fn fold(hashes: &[Hash]) -> Option<Hash> {
    if !hashes.len().is_power_of_two() {
        return None;
    }
    let mut row = hashes.to_vec();
    while row.len() > 1 {
        row = row
            .chunks_exact(2)
            .filter_map(|pair| match pair {
                [left, right] => Some(parent(left, right)),
                _ => None,
            })
            .collect();
    }
    row.first().copied()
}

/// Splits a tile's bytes into its hashes; `None` unless there are exactly `width`.
#[must_use]
pub fn hashes(bytes: &[u8], width: u16) -> Option<Vec<Hash>> {
    if bytes.len() != usize::from(width) * HASH_BYTES {
        return None;
    }
    let hash = |chunk: &[u8]| chunk.try_into().ok();
    bytes.chunks_exact(HASH_BYTES).map(hash).collect()
}

/// Splits a bundle into its entries: length u16, big-endian, then the bytes, to the end.
#[must_use]
pub fn entries(bundle: &[u8]) -> Option<Vec<&[u8]>> {
    let (mut rest, mut out) = (bundle, Vec::new());
    while !rest.is_empty() {
        let (length, behind) = rest.split_first_chunk::<2>()?;
        let (entry, behind) = behind.split_at_checked(usize::from(u16::from_be_bytes(*length)))?;
        if out.len() == usize::from(TILE_WIDTH) {
            return None;
        }
        out.push(entry);
        rest = behind;
    }
    Some(out)
}

/// Appends an entry to a bundle; `None` if it is longer than 65,535 bytes.
pub fn push_entry(bundle: &mut Vec<u8>, entry: &[u8]) -> Option<()> {
    let length = u16::try_from(entry.len()).ok()?;
    bundle.extend_from_slice(&length.to_be_bytes());
    bundle.extend_from_slice(entry);
    Some(())
}

/// The right edge of a tree: at each level the hashes that no full tile holds yet.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Edge {
    size: u64,
    levels: Vec<Vec<Hash>>,
}

impl Edge {
    /// The edge of the tree of `size` leaves, whose full tiles `read` finds, and for the leaves behind
    /// the last full tile the partial one. `None` if one is missing.
    pub fn restore(size: u64, read: &mut dyn FnMut(Tile) -> Option<Vec<Hash>>) -> Option<Self> {
        let mut levels = Vec::new();
        let mut hashes = size;
        let mut level = 0;
        while hashes > 0 {
            let width = hashes % u64::from(TILE_WIDTH);
            let first = hashes - width;
            let mut row = Vec::new();
            if level == 0 && width > 0 {
                row = read(Tile::of_size(0, first / u64::from(TILE_WIDTH), size)?)?;
            } else {
                for below in first..hashes {
                    row.push(fold(&read(Tile::full(level - 1, below))?)?);
                }
            }
            if row.len() as u64 != width {
                return None;
            }
            levels.push(row);
            hashes /= u64::from(TILE_WIDTH);
            level += 1;
        }
        Some(Self { size, levels })
    }

    /// Leaves of the tree.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Appends a leaf, and hands over each tile that is full with it.
    pub fn push(&mut self, leaf: Hash, full: &mut dyn FnMut(Tile, &[Hash])) {
        self.size = self.size.saturating_add(1);
        let mut hash = leaf;
        for level in 0..=TILE_LEVEL_MAX {
            let depth = level as usize;
            if self.levels.len() <= depth {
                self.levels.push(Vec::new());
            }
            let Some(row) = self.levels.get_mut(depth) else {
                return;
            };
            row.push(hash);
            if row.len() < usize::from(TILE_WIDTH) {
                return;
            }
            let hashes = self.size.checked_shr(level * TILE_HEIGHT).unwrap_or(0);
            let index = (hashes / u64::from(TILE_WIDTH)).saturating_sub(1);
            full(Tile::full(level, index), row);
            let Some(above) = fold(row) else { return };
            row.clear();
            hash = above;
        }
    }

    /// The tiles that are not full, from the leaves up.
    pub fn partial(&self) -> impl Iterator<Item = (Tile, &[Hash])> {
        (0u32..).zip(&self.levels).filter_map(|(level, row)| {
            let hashes = self.size.checked_shr(level * TILE_HEIGHT)?;
            let index = hashes / u64::from(TILE_WIDTH);
            let tile = Tile::of_size(level, index, self.size)?;
            (!row.is_empty()).then_some((tile, row.as_slice()))
        })
    }

    /// A node whose hashes are still here.
    #[must_use]
    pub fn node(&self, node: Node) -> Option<Hash> {
        let (level, index, range) = Tile::of_node(node);
        let hashes = self.size.checked_shr(level * TILE_HEIGHT)?;
        let row = self.levels.get(usize::try_from(level).ok()?)?;
        let here = index == hashes / u64::from(TILE_WIDTH);
        fold(here.then(|| row.get(range))??)
    }

    /// Root of the tree.
    #[must_use]
    pub fn root(&self) -> Hash {
        // Every peak of the tree lies on its edge.
        crate::proof::root(self.size, &mut |node| self.node(node).ok_or(()))
            .unwrap_or(crate::EMPTY_ROOT)
    }
}
