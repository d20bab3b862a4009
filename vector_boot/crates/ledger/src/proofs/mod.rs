//! Proofs of a running ledger: the tree's tiles, checkpoints signed by the device key, and the proofs
//! made of them.
//!
//! Owns a thread of its own behind the committer: it takes durable leaves, writes each tile as it gets
//! full, and signs a checkpoint once a second while the log grows, when it is asked, and at the end.
//! Everything here but the key is made anew from the log where it is lost; every proof is checked
//! before it is given out.
//!
//! Never here: making an append wait, signing a tree that does not continue the one signed before.
//! Start with [`Keeper::start`]; calls use [`Proofs`].

pub mod folder;
pub mod leaves;

use crate::committer::{Ledger, Standing};
use crate::files::Lasting;
use crate::keys::{DeviceKey, Lasts};
use crate::refusal::Refusal;
use crate::sealing::Auditors;
use folder::{CHECKPOINT, Folder};
use ledger_core::checkpoint::Checkpoint;
use ledger_core::note::{KeyKind, Note, Signature, VerifierKey};
use ledger_core::proof::{self, Node, verify_consistency, verify_inclusion};
use ledger_core::tile::{self, Edge, Tile};
use ledger_core::{Commitment, Hash, leaf_hash};
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::io;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Checkpoints of a growing log, and its file.
const CHECKPOINT_EVERY: Duration = Duration::from_secs(1);
/// Tiles are made durable every so many leaves: what is read anew after a power cut.
const SETTLE_EVERY: u64 = 16 * 1024;
/// Leaves read from the log between two looks at whether the service ends.
const CATCH_UP: u64 = 1024;
/// Why tiles are not made anew.
const COMPACTED: &str = "tiles of dropped events are lost: stop the ledger, then `vector_boot ledger \
     --log PATH proof EVENT` proves those that are kept";
/// How long a call waits for its leaves to be in the tree here.
const PATIENCE: Duration = Duration::from_secs(10);

/// A signed checkpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signed {
    /// What it says.
    pub checkpoint: Checkpoint,
    /// With the signature, and witnesses' where there are any.
    pub note: Note,
}

/// What the thread and the calls share.
#[derive(Default)]
struct State {
    edge: Edge,
    signed: Option<Signed>,
    /// Asked for: a checkpoint of this size at least.
    wanted: u64,
    /// Asked for: all tiles durable.
    settle: bool,
    /// Leaves whose tiles are durable.
    settled: u64,
    /// Asked for: all tiles anew from the log.
    rebuild: bool,
    /// Why no proofs are made.
    fault: Option<String>,
    /// Why no checkpoints are signed.
    unsigned: Option<String>,
    closing: bool,
}

struct Shared {
    ledger: Ledger,
    folder: Option<Folder>,
    key: DeviceKey,
    auditors: Option<Auditors>,
    /// The witness that the machine names.
    witness: OnceLock<VerifierKey>,
    verifier: VerifierKey,
    state: Mutex<State>,
    moved: Condvar,
}

/// Asks for proofs.
#[derive(Clone)]
pub struct Proofs(Arc<Shared>);

/// The thread: stop it and wait.
pub struct Keeper {
    proofs: Proofs,
    thread: JoinHandle<()>,
}

impl Keeper {
    /// Opens the device key and starts the thread; the ledger's calls find it from then on.
    ///
    /// # Errors
    /// As `getrandom(2)`, `mmap(2)` and `clone(2)`.
    pub fn start(
        ledger: &Ledger,
        data: Option<&Path>,
        auditors: Option<Auditors>,
    ) -> io::Result<Self> {
        let shared = Shared::open(ledger, data, auditors)?;
        let proofs = Proofs(shared.clone());
        let thread = std::thread::Builder::new()
            .name("proofs".to_owned())
            .spawn(move || shared.run())?;
        Ok(Self { proofs, thread })
    }

    /// Signs the last checkpoint, makes all durable, and ends the thread. The committer has stopped.
    pub fn stop(self) {
        self.proofs.0.lock().closing = true;
        self.proofs.0.ledger.leaves().ring();
        // A thread that is gone has nothing to finish.
        let _ = self.thread.join();
        self.proofs.0.ledger.set_proofs(None);
    }
}

/// What the thread does, a turn at a time, for who decides when: a model of power cuts.
pub struct ByHand(Proofs);

impl ByHand {
    /// As [`Keeper::start`], as far as the thread's first turn.
    ///
    /// # Errors
    /// As [`Keeper::start`].
    pub fn start(ledger: &Ledger, data: Option<&Path>) -> io::Result<Self> {
        let shared = Shared::open(ledger, data, None)?;
        shared.begin();
        Ok(Self(Proofs(shared)))
    }

    /// Brings the tree up to the log, and signs it if asked.
    pub fn turn(&self, sign: bool) {
        let shared = &self.0.0;
        let standing = shared.ledger.standing();
        shared.step(&standing);
        if sign && standing.id > 0 {
            shared.sign(&standing, true);
        }
    }

    /// Makes all durable.
    pub fn settle(&self) {
        self.0.0.lock().settle = true;
        self.turn(false);
    }

    /// What calls use.
    #[must_use]
    pub fn proofs(&self) -> &Proofs {
        &self.0
    }

    /// Why no proofs are made, if so.
    #[must_use]
    pub fn fault(&self) -> Option<String> {
        self.0.0.lock().fault.clone()
    }

    /// Lets the ledger go.
    pub fn end(self) {
        self.0.0.ledger.set_proofs(None);
    }
}

impl Shared {
    /// Opens the device key; the ledger's calls find it from then on.
    fn open(
        ledger: &Ledger,
        data: Option<&Path>,
        auditors: Option<Auditors>,
    ) -> io::Result<Arc<Self>> {
        let key = DeviceKey::open(data)?;
        if let Lasts::Process(why) = key.lasts() {
            ::log::warn!("device key lasts as long as this process: {why}");
        }
        let origin = format!("{}/ledger", key.device_id());
        let verifier = VerifierKey::log(&origin, key.public())
            .map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e.to_string()))?;
        let shared = Arc::new(Shared {
            ledger: ledger.clone(),
            folder: data.map(Folder::new),
            key,
            auditors,
            witness: OnceLock::new(),
            verifier,
            state: Mutex::default(),
            moved: Condvar::new(),
        });
        ledger.set_proofs(Some(Proofs(shared.clone())));
        Ok(shared)
    }
}

impl Proofs {
    /// The device key.
    #[must_use]
    pub fn key(&self) -> &DeviceKey {
        &self.0.key
    }

    /// Whom what is sealed is sealed for, if not for the tenants' keys.
    #[must_use]
    pub fn auditors(&self) -> Option<&Auditors> {
        self.0.auditors.as_ref()
    }

    /// From now on this witness's signatures alone are kept.
    pub fn believe(&self, witness: VerifierKey) {
        // The first that is named stays.
        let _ = self.0.witness.set(witness);
    }

    /// The witness whose signatures alone are kept, if the machine names one.
    #[must_use]
    pub fn witness(&self) -> Option<&VerifierKey> {
        self.0.witness.get()
    }

    /// What checks the log's checkpoints.
    #[must_use]
    pub fn verifier(&self) -> &VerifierKey {
        &self.0.verifier
    }

    /// The ledger's folder, if it has one.
    #[must_use]
    pub fn folder(&self) -> Option<Folder> {
        self.0.folder.clone()
    }

    /// The newest checkpoint that is signed already; waits for nothing.
    #[must_use]
    pub fn newest(&self) -> Option<Signed> {
        self.0.lock().signed.clone()
    }

    /// Why no checkpoints are signed, if so: a stored one does not fit the log.
    #[must_use]
    pub fn unsigned(&self) -> Option<String> {
        self.0.lock().unsigned.clone()
    }

    /// The newest checkpoint, of at least this size; waits for it.
    ///
    /// # Errors
    /// CORRUPT if none is signed any more, INTERNAL if it takes too long.
    pub fn checkpoint(&self, at_least: u64) -> Result<Signed, Refusal> {
        let mut state = self.0.lock();
        if state
            .signed
            .as_ref()
            .is_none_or(|s| s.checkpoint.size < at_least)
        {
            state.wanted = state.wanted.max(at_least);
            drop(state);
            self.0.ledger.leaves().ring();
            state = self.0.lock();
        }
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(why) = &state.unsigned {
                return Err(Refusal::new("CORRUPT", "checkpoint", "", why));
            }
            match &state.signed {
                Some(signed) if signed.checkpoint.size >= at_least => return Ok(signed.clone()),
                _ => {}
            }
            state = self.0.wait(state, deadline)?;
        }
    }

    /// Path of an event's leaf in the tree of `size` leaves, and that tree's root.
    ///
    /// # Errors
    /// BAD_REQUEST if it is not in it, CORRUPT if the tiles do not hold.
    pub fn inclusion(
        &self,
        entry: &Commitment,
        index: u64,
        size: u64,
    ) -> Result<(Vec<Hash>, Hash), Refusal> {
        let nodes = self.nodes(size)?;
        let path = proof::inclusion(index, size, &mut |node| nodes.get(node));
        let root = proof::root(size, &mut |node| nodes.get(node));
        match (path, root) {
            (Ok(Some(path)), Ok(root))
                if verify_inclusion(&leaf_hash(entry), index, size, &path, &root) =>
            {
                Ok((path, root))
            }
            (Ok(None), _) => Err(Refusal::bad("size", "at least the event's id")),
            (Err(e), _) | (_, Err(e)) if !is_lost(&e) => Err(Refusal::from(&e)),
            _ => Err(self.broken()),
        }
    }

    /// Proof that the tree of `to` leaves continues that of `from`, with both roots.
    ///
    /// # Errors
    /// BAD_REQUEST if `from` is larger, CORRUPT if the tiles do not hold.
    pub fn consistency(&self, from: u64, to: u64) -> Result<(Vec<Hash>, Hash, Hash), Refusal> {
        let nodes = self.nodes(to)?;
        let path = proof::consistency(from, to, &mut |node| nodes.get(node));
        let old = proof::root(from.min(to), &mut |node| nodes.get(node));
        let new = proof::root(to, &mut |node| nodes.get(node));
        match (path, old, new) {
            (Ok(Some(path)), Ok(old), Ok(new))
                if verify_consistency(from, to, &old, &new, &path) =>
            {
                Ok((path, old, new))
            }
            (Ok(None), ..) => Err(Refusal::bad("from", "at most to")),
            (Err(e), ..) | (_, Err(e), _) | (.., Err(e)) if !is_lost(&e) => Err(Refusal::from(&e)),
            _ => Err(self.broken()),
        }
    }

    /// Makes the tiles of all leaves that are durable now durable too, and waits for it: what a
    /// compaction drops from the log is in them alone.
    ///
    /// # Errors
    /// CORRUPT or INTERNAL if that fails: then nothing may be dropped.
    pub fn settle(&self) -> Result<u64, Refusal> {
        let size = self.0.ledger.standing().id;
        let mut state = self.0.lock();
        let deadline = Instant::now() + PATIENCE;
        while state.settled < size {
            if let Some(why) = &state.fault {
                return Err(Refusal::new("CORRUPT", "tiles", "", why));
            }
            if self.0.folder.is_none() {
                return Err(Refusal::new(
                    "CORRUPT",
                    "tiles",
                    "",
                    "the ledger has no folder",
                ));
            }
            state.settle = true;
            drop(state);
            self.0.ledger.leaves().ring();
            state = self.0.lock();
            if state.settled < size {
                state = self.0.wait(state, deadline)?;
            }
        }
        Ok(state.settled)
    }

    /// Leaves whose tiles are durable; `None` without a folder, where none ever are.
    pub fn settled(&self) -> Option<u64> {
        self.0.folder.as_ref().map(|_| self.0.lock().settled)
    }

    /// Asks for a checkpoint of this size and for durable tiles, and does not wait.
    pub fn hasten(&self, size: u64) {
        let mut state = self.0.lock();
        state.wanted = state.wanted.max(size);
        state.settle = true;
        drop(state);
        self.0.ledger.leaves().ring();
    }

    /// Waits until `size` leaves are in the tree here, and looks at it.
    fn nodes(&self, size: u64) -> Result<Nodes<'_>, Refusal> {
        let head = self.0.ledger.standing().id;
        if size > head {
            let limit = format!("at most {head}");
            return Err(Refusal::new(
                "BAD_REQUEST",
                "size",
                &size.to_string(),
                &limit,
            ));
        }
        let deadline = Instant::now() + PATIENCE;
        let mut state = self.0.lock();
        loop {
            if let Some(why) = &state.fault {
                return Err(Refusal::new("CORRUPT", "tiles", "", why));
            }
            if state.edge.size() >= size && !state.rebuild {
                return Ok(Nodes {
                    edge: state.edge.clone(),
                    folder: self.0.folder.as_ref(),
                    read: Mutex::default(),
                });
            }
            drop(state);
            self.0.ledger.leaves().ring();
            state = self.0.wait(self.0.lock(), deadline)?;
        }
    }

    /// A proof did not hold: the tiles are made anew.
    fn broken(&self) -> Refusal {
        if self.0.folder.is_none() {
            let why = "the ledger has no folder for them";
            return Refusal::new("NOT_FOUND", "tiles", "", why);
        }
        self.0.lock().rebuild = true;
        self.0.ledger.leaves().ring();
        let why = "a tile does not hold; all are made anew from the log";
        Refusal::new("CORRUPT", "tiles", "", why)
    }
}

/// Whether a tile is not there or is none. What else keeps it from being read may pass, and is no reason
/// to make all anew.
fn is_lost(e: &io::Error) -> bool {
    matches!(
        e.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::InvalidData
    )
}

/// The signatures of witnesses on a note, each of which must hold; at least one.
pub fn cosigned<'k>(
    note: &Note,
    keys: &'k [VerifierKey],
) -> Result<Vec<(&'k VerifierKey, u64)>, String> {
    let mut held = Vec::new();
    for key in keys.iter().filter(|k| k.kind() == KeyKind::Witness) {
        let made = |s: &Signature| s.name == key.name();
        if note.signatures().iter().any(made) {
            let when = note
                .verify(key)
                .map_err(|e| format!("{}: {e}", key.name()))?;
            held.push((key, when));
        }
    }
    if held.is_empty() {
        return Err("no signature of a known witness".to_owned());
    }
    Ok(held)
}

/// The tree's nodes: on the edge, else in tiles.
struct Nodes<'n> {
    edge: Edge,
    folder: Option<&'n Folder>,
    /// Tiles read for this proof.
    read: Mutex<BTreeMap<Tile, Vec<Hash>>>,
}

impl Nodes<'_> {
    fn get(&self, node: Node) -> io::Result<Hash> {
        if let Some(hash) = self.edge.node(node) {
            return Ok(hash);
        }
        let (level, index, range) = Tile::of_node(node);
        let tile = Tile::full(level, index);
        let mut read = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        let hashes = match read.entry(tile) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(place) => {
                let found = self.folder.map_or(Ok(None), |folder| folder.read(&tile))?;
                place.insert(found.ok_or(io::ErrorKind::NotFound)?)
            }
        };
        let whole = hashes.get(range).and_then(tile::fold);
        whole.ok_or_else(|| io::ErrorKind::InvalidData.into())
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'s>(
        &self,
        state: MutexGuard<'s, State>,
        deadline: Instant,
    ) -> Result<MutexGuard<'s, State>, Refusal> {
        let busy = || {
            let why = "the tree's tiles are still being made from the log";
            Refusal::new("INTERNAL", "tiles", "", why)
        };
        let left = deadline
            .checked_duration_since(Instant::now())
            .ok_or_else(busy)?;
        let (state, _) = self
            .moved
            .wait_timeout(state, left)
            .unwrap_or_else(PoisonError::into_inner);
        if state.closing {
            return Err(Refusal::closing());
        }
        Ok(state)
    }

    fn begin(&self) {
        self.ledger.leaves().want();
        if let Err(e) = self.restore() {
            self.fail(&e);
        }
        self.check_stored();
    }

    /// The thread.
    fn run(&self) {
        self.begin();
        let mut signed_at: Option<Instant> = None;
        loop {
            let closing = self.lock().closing;
            let standing = self.ledger.standing();
            self.step(&standing);
            let state = self.lock();
            let size = state.signed.as_ref().map(|s| s.checkpoint.size);
            let due = size != Some(standing.id) && standing.id > 0;
            let asked = state.wanted > size.unwrap_or(0);
            drop(state);
            let wait = CHECKPOINT_EVERY
                .saturating_sub(signed_at.map_or(CHECKPOINT_EVERY, |at| at.elapsed()));
            if due && (asked || closing || wait.is_zero()) {
                self.sign(&standing, closing || wait.is_zero());
                signed_at = Some(Instant::now());
            }
            self.moved.notify_all();
            if closing {
                break;
            }
            // Without news there is nothing to do but to wait for some.
            let state = self.lock();
            // A tree with a fault does not grow.
            let behind = state.fault.is_none() && state.edge.size() < standing.id;
            drop(state);
            let due = due && !(asked || wait.is_zero());
            if !behind {
                self.ledger.leaves().wait(due.then_some(wait));
            }
        }
        if let Err(e) = self.settle() {
            self.fail(&e);
        }
        self.moved.notify_all();
    }

    /// The edge as the durable tiles have it.
    fn restore(&self) -> io::Result<()> {
        let Some(folder) = &self.folder else {
            return Ok(());
        };
        // The process before may have ended between a file's new name and the sync of the name.
        folder.sync_names()?;
        let settled = folder.settled();
        let edge = if settled <= self.ledger.standing().id {
            Edge::restore(settled, &mut |tile| folder.read(&tile).ok().flatten())
        } else {
            None
        };
        let first_id = self.ledger.standing().first_id;
        // Leaves of dropped events are in tiles alone, and those of the others behind them.
        let edge = edge.filter(|edge| edge.size() + 1 >= first_id);
        if edge.is_none() {
            if first_id > 1 {
                return Err(io::Error::other(COMPACTED));
            }
            ::log::warn!("tiles are made anew: settled={settled}");
            folder.clear()?;
        }
        let edge = edge.unwrap_or_default();
        let mut state = self.lock();
        state.settled = edge.size();
        state.edge = edge;
        Ok(())
    }

    /// Brings the tree up to where the log stands, a piece at a time, and does what was asked.
    fn step(&self, standing: &Standing) {
        let mut state = self.lock();
        if std::mem::take(&mut state.rebuild) {
            if standing.first_id > 1 {
                state.fault = Some(COMPACTED.to_owned());
                return;
            }
            ::log::error!("tiles do not hold: made anew from the log");
            state.edge = Edge::default();
            state.settled = 0;
            state.fault = None;
            if let Some(Err(e)) = self.folder.as_ref().map(Folder::clear) {
                drop(state);
                self.fail(&e);
                return;
            }
        } else if state.fault.is_some() {
            drop(state);
            // They are of no use here, and the thread sleeps only while none wait.
            drop(self.ledger.leaves().take());
            return;
        }
        let mut edge = state.edge.clone();
        drop(state);
        let grown = self.grow(&mut edge, standing.id);
        // A tree of other leaves than the log's proves nothing.
        let foreign = edge.size() == standing.id && edge.root() != standing.root;
        let mut state = self.lock();
        state.edge = edge;
        if foreign {
            // From nothing on there is nothing else that it could come from.
            let why = "tiles do not lead to the log's root";
            if state.settled > 0 {
                state.rebuild = true;
            } else {
                state.fault = Some(why.to_owned());
            }
            ::log::error!("{why}: size={}", standing.id);
            return;
        }
        let due = state.settle || state.edge.size() >= state.settled + SETTLE_EVERY;
        drop(state);
        if let Err(e) = grown.and_then(|()| if due { self.settle() } else { Ok(()) }) {
            self.fail(&e);
        }
        self.moved.notify_all();
    }

    /// Appends leaves up to `to`, from the committer's hand or from the log.
    fn grow(&self, edge: &mut Edge, to: u64) -> io::Result<()> {
        let mut written = Ok(());
        let mut full = |tile: Tile, hashes: &[Hash]| {
            if let Some(folder) = &self.folder
                && written.is_ok()
            {
                written = folder.write(&tile, hashes);
            }
        };
        let (first, leaves) = self.ledger.leaves().take();
        let from_log = to.min(if leaves.is_empty() { to } else { first });
        let mut reader = self.ledger.reader();
        let mut read = Ok(());
        while edge.size() < from_log && read.is_ok() {
            // The index counts from 1.
            read = reader
                .entry(edge.size() + 1, |entry, _| leaf_hash(entry))
                .map(|leaf| edge.push(leaf, &mut full));
            if edge.size().is_multiple_of(CATCH_UP) && self.lock().closing {
                break;
            }
        }
        // They are durable, though perhaps not yet said to be.
        for (index, leaf) in (first..).zip(leaves) {
            if index == edge.size() {
                edge.push(leaf, &mut full);
            }
        }
        read.and(written)
    }

    /// Makes all tiles durable, and the checkpoint.
    fn settle(&self) -> io::Result<()> {
        let Some(folder) = &self.folder else {
            return Ok(());
        };
        let state = self.lock();
        let (from, edge) = (state.settled, state.edge.clone());
        let signed = state.signed.clone();
        drop(state);
        let last = edge.partial().find(|(tile, _)| tile.level == 0);
        folder.settle(from, edge.size(), last)?;
        if let Some(signed) = signed {
            folder.put_note(CHECKPOINT, &signed.note, Lasting::Durable)?;
        }
        let mut state = self.lock();
        state.settled = edge.size();
        state.settle = false;
        Ok(())
    }

    /// A checkpoint that was signed before must be of this log: else it was cut or changed, and signing
    /// another would be lying.
    fn check_stored(&self) {
        let Some(folder) = &self.folder else { return };
        let note = match folder.note(CHECKPOINT) {
            Ok(Some(note)) => note,
            Ok(None) => return,
            Err(e) => {
                ::log::warn!("stored checkpoint is not read: {e}");
                return;
            }
        };
        let checkpoint = match Checkpoint::open(&note, &self.verifier) {
            Ok(checkpoint) => checkpoint,
            Err(e) => {
                ::log::warn!("stored checkpoint is not of this device's key: {e}");
                return;
            }
        };
        let standing = self.ledger.standing();
        // Tiles that do not lead to the log's root say nothing about the log.
        let proves = loop {
            self.step(&standing);
            let state = self.lock();
            let is_whole = state.edge.size() >= standing.id && !state.rebuild;
            if is_whole || state.fault.is_some() || state.closing {
                break is_whole && state.fault.is_none();
            }
        };
        let (size, head) = (checkpoint.size, standing.id);
        let why = if size > head {
            Some(format!(
                "the log was cut: {size} events were signed, {head} are here"
            ))
        } else {
            let nodes = Proofs::at(self);
            let root = match proves {
                true => proof::root(size, &mut |node| nodes.get(node)),
                false => Err(io::ErrorKind::NotFound.into()),
            };
            match root {
                Ok(root) if root == checkpoint.root => None,
                Ok(_) => Some(format!(
                    "the log was changed: event {size} and those before have another root than was signed"
                )),
                // The service ended before the tree was there, or tiles of what was compacted are lost.
                Err(_) => {
                    let unknown = || "the checkpoint signed last could not be checked".to_owned();
                    Some(self.lock().fault.clone().unwrap_or_else(unknown))
                }
            }
        };
        let mut state = self.lock();
        match why {
            Some(why) => {
                ::log::error!("no checkpoints: {why}");
                state.unsigned = Some(why);
            }
            None => state.signed = Some(Signed { checkpoint, note }),
        }
    }

    fn sign(&self, standing: &Standing, write: bool) {
        if self.lock().unsigned.is_some() {
            return;
        }
        let checkpoint = Checkpoint {
            origin: self.verifier.name().to_owned(),
            size: standing.id,
            root: standing.root,
        };
        let note = match checkpoint.sign(&self.verifier, |bytes| self.key.sign(bytes)) {
            Ok(note) => note,
            Err(e) => return ::log::error!("checkpoint not signed: {e}"),
        };
        if write
            && let Some(folder) = &self.folder
            && let Err(e) = folder.put_note(CHECKPOINT, &note, Lasting::Perhaps)
        {
            ::log::warn!("checkpoint not written: {e}");
        }
        self.lock().signed = Some(Signed { checkpoint, note });
    }

    fn fail(&self, e: &io::Error) {
        ::log::error!("no proofs: {e}");
        self.lock().fault = Some(e.to_string());
        self.moved.notify_all();
    }
}

impl Proofs {
    /// The tree as it is here now.
    fn at(shared: &Shared) -> Nodes<'_> {
        Nodes {
            edge: shared.lock().edge.clone(),
            folder: shared.folder.as_ref(),
            read: Mutex::default(),
        }
    }
}
