//! A model of a small file system: what was not synced when the power went may be there, or not, or in part.
//!
//! The files are real ones in a temporary folder; beside them stands what is durable: of each file what
//! was synced, of each folder the names that were there at its last sync. A file's sync does not make its
//! name durable, and a folder's does not make its files' contents so.

use super::{Chance, Power, Powered, SECTOR};
use ledger::files::{Change, Watch, watch};
use std::collections::BTreeMap;
use std::fs::{self, DirBuilder, File, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use tempfile::TempDir;

/// A promise that a file system breaks: what a fault in the code that relies on it would do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lie {
    /// Names are never made durable.
    Names,
    /// Contents are never made durable.
    Contents,
}

/// What goes wrong with every change, while the power is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fails {
    /// No room for a byte: ENOSPC.
    Full,
    /// Nothing can be made durable: EIO.
    Sync,
}

#[derive(Clone, Copy)]
enum Node {
    Folder,
    /// By its place in [`State::files`].
    File(usize),
}

enum Edit {
    Cut,
    Write(usize, Vec<u8>),
}

#[derive(Default)]
struct Content {
    mode: u32,
    durable: Vec<u8>,
    now: Vec<u8>,
    unsynced: Vec<Edit>,
}

/// What happens to names together or not at all.
type Step = Vec<(PathBuf, Option<Node>)>;

#[derive(Default)]
struct State {
    files: Vec<Content>,
    names: BTreeMap<PathBuf, Node>,
    durable: BTreeMap<PathBuf, Node>,
    unsynced: Vec<Step>,
    lie: Option<Lie>,
    fails: Option<Fails>,
    /// The process ends where its power does, and the machine goes on.
    killed: bool,
}

struct Tree {
    power: Power,
    state: Mutex<State>,
}

/// A folder on such a file system.
pub struct Folder {
    root: TempDir,
    tree: Arc<Tree>,
    _watch: Arc<dyn Watch>,
}

impl Folder {
    /// An empty one, which is durable itself.
    pub fn new(power: &Power) -> Self {
        Self::of(power, State::default())
    }

    fn of(power: &Power, mut state: State) -> Self {
        let root = tempfile::tempdir().unwrap();
        let at = root.path().to_owned();
        state.durable.insert(at.clone(), Node::Folder);
        state.names.insert(at, Node::Folder);
        let tree = Arc::new(Tree {
            power: power.clone(),
            state: Mutex::new(state),
        });
        let watching: Arc<dyn Watch> = tree.clone();
        watch(root.path(), &watching);
        Self {
            root,
            tree,
            _watch: watching,
        }
    }

    /// Where it lies.
    pub fn path(&self) -> &Path {
        self.root.path()
    }

    /// From now on it breaks a promise.
    pub fn lies(&self, lie: Option<Lie>) {
        self.tree.state.lock().unwrap().lie = lie;
    }

    /// From now on every change fails so.
    pub fn fails(&self, fails: Option<Fails>) {
        self.tree.state.lock().unwrap().fails = fails;
    }

    /// The next end of the power ends the process alone.
    pub fn is_killed(&self, killed: bool) {
        self.tree.state.lock().unwrap().killed = killed;
    }

    /// The power comes back.
    pub fn after_cut(self, chance: &mut Chance) -> Self {
        let mut state = self.tree.state.lock().unwrap();
        let mut names = std::mem::take(&mut state.durable);
        let mut lost: Vec<PathBuf> = Vec::new();
        // All, none, those before a moment, or any that do not need one that is gone.
        let style = chance.below(4);
        let until = chance.below(state.unsynced.len() as u64 + 1);
        for (n, step) in (0..).zip(&state.unsynced) {
            let kept = match style {
                0 => true,
                1 => false,
                2 => n < until,
                _ => chance.below(2) == 0,
            };
            if kept && !step.iter().any(|(path, _)| lost.contains(path)) {
                step.iter().for_each(|change| set(&mut names, change));
            } else {
                lost.extend(step.iter().map(|(path, _)| path.clone()));
            }
        }
        let contents: Vec<Content> = state.files.iter().map(|f| f.after_cut(chance)).collect();
        let mut next = State {
            lie: state.lie,
            files: contents,
            ..State::default()
        };
        drop(state);
        let fresh = Self::of(&self.tree.power, State::default());
        for (path, node) in &names {
            let at = fresh.path().join(path.strip_prefix(self.path()).unwrap());
            match (node, at.parent().is_some_and(Path::is_dir)) {
                (Node::Folder, true) if at != fresh.path() => {
                    DirBuilder::new().create(&at).unwrap();
                }
                (Node::File(n), true) => next.files[*n].put(&at),
                _ if at == fresh.path() => {}
                // Its folder is not there.
                _ => continue,
            }
            next.durable.insert(at.clone(), *node);
            next.names.insert(at, *node);
        }
        *fresh.tree.state.lock().unwrap() = next;
        fresh
    }
}

impl Content {
    fn after_cut(&self, chance: &mut Chance) -> Self {
        let mut bytes = self.durable.clone();
        for edit in &self.unsynced {
            match edit {
                Edit::Cut if chance.below(2) == 0 => bytes.clear(),
                Edit::Cut => {}
                Edit::Write(at, new) => {
                    for (n, piece) in new.chunks(SECTOR).enumerate() {
                        let torn = usize::try_from(chance.below(SECTOR as u64)).unwrap();
                        let piece = match chance.below(4) {
                            0 => continue,
                            1 => &piece[..torn.min(piece.len())],
                            _ => piece,
                        };
                        write(&mut bytes, at + n * SECTOR, piece);
                    }
                }
            }
        }
        Self {
            mode: self.mode,
            durable: bytes.clone(),
            now: bytes,
            unsynced: Vec::new(),
        }
    }

    fn put(&self, path: &Path) {
        let mut file = File::create(path).unwrap();
        file.write_all(&self.now).unwrap();
        let mode = Permissions::from_mode(self.mode & !0o022);
        fs::set_permissions(path, mode).unwrap();
    }
}

fn write(bytes: &mut Vec<u8>, at: usize, piece: &[u8]) {
    let end = at + piece.len();
    if bytes.len() < end {
        bytes.resize(end, 0);
    }
    bytes[at..end].copy_from_slice(piece);
}

fn set(names: &mut BTreeMap<PathBuf, Node>, (path, node): &(PathBuf, Option<Node>)) {
    match node {
        Some(node) => names.insert(path.clone(), *node),
        None => names.remove(path),
    };
}

impl State {
    fn step(&mut self, step: Step) {
        step.iter().for_each(|change| set(&mut self.names, change));
        self.unsynced.push(step);
    }

    fn file(&mut self, path: &Path) -> &mut Content {
        match self.names.get(path) {
            Some(Node::File(n)) => &mut self.files[*n],
            _ => panic!("{}: no such file in the model", path.display()),
        }
    }

    fn create(&mut self, path: &Path, mode: u32) {
        if let Some(Node::File(n)) = self.names.get(path) {
            let file = &mut self.files[*n];
            file.now.clear();
            file.unsynced.push(Edit::Cut);
            return;
        }
        self.files.push(Content {
            mode,
            ..Content::default()
        });
        self.step(vec![(
            path.to_owned(),
            Some(Node::File(self.files.len() - 1)),
        )]);
    }

    fn sync_folder(&mut self, folder: &Path) {
        // What a step needs comes with it: those before it with one of its names.
        let mut needed: Vec<PathBuf> = Vec::new();
        let mut now = vec![false; self.unsynced.len()];
        for (step, now) in self.unsynced.iter().zip(&mut now).rev() {
            *now = step
                .iter()
                .any(|(path, _)| path.parent() == Some(folder) || needed.contains(path));
            if *now {
                needed.extend(step.iter().map(|(path, _)| path.clone()));
            }
        }
        for (step, now) in std::mem::take(&mut self.unsynced).into_iter().zip(now) {
            match now {
                true => step
                    .iter()
                    .for_each(|change| set(&mut self.durable, change)),
                false => self.unsynced.push(step),
            }
        }
    }

    fn change(&mut self, change: &Change<'_>) {
        match change {
            Change::Create(path, mode) => self.create(path, *mode),
            Change::Write(path, at, bytes) => {
                let at = usize::try_from(*at).unwrap();
                let file = self.file(path);
                write(&mut file.now, at, bytes);
                file.unsynced.push(Edit::Write(at, bytes.to_vec()));
            }
            Change::SyncFile(path) if self.lie != Some(Lie::Contents) => {
                let file = self.file(path);
                file.durable = file.now.clone();
                file.unsynced.clear();
            }
            Change::SyncFolder(path) if self.lie != Some(Lie::Names) => self.sync_folder(path),
            Change::SyncFile(_) | Change::SyncFolder(_) => {}
            Change::MakeFolder(path) => self.step(vec![((*path).to_owned(), Some(Node::Folder))]),
            Change::Rename(from, to) => {
                let node = self.names.get(*from).copied();
                let step = vec![((*from).to_owned(), None), ((*to).to_owned(), node)];
                self.step(step);
            }
            Change::Remove(path) => self.step(vec![((*path).to_owned(), None)]),
            Change::RemoveAll(path) => {
                let below = self.names.keys().filter(|name| name.starts_with(path));
                let below: Vec<PathBuf> = below.cloned().collect();
                for name in below.into_iter().rev() {
                    self.step(vec![(name, None)]);
                }
            }
        }
    }
}

impl Watch for Tree {
    fn change(&self, change: &Change<'_>) -> io::Result<()> {
        let is_sync = matches!(change, Change::SyncFile(_) | Change::SyncFolder(_));
        let mut state = self.state.lock().unwrap();
        match (state.fails, change) {
            (Some(Fails::Sync), _) if is_sync => return Err(io::Error::from_raw_os_error(5)),
            (Some(Fails::Full), Change::Create(..) | Change::Write(..) | Change::MakeFolder(_)) => {
                return Err(io::Error::from_raw_os_error(28));
            }
            _ => {}
        }
        let power = self.power.take();
        // What the power left under way may have happened, but not to those who live on.
        let happens = match power {
            Powered::Yes => true,
            Powered::Going => !is_sync && !state.killed,
            Powered::No => false,
        };
        if happens {
            state.change(change);
        }
        power.or_gone()
    }
}
