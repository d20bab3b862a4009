//! `doctor`: what could be wrong with a ledger that its own proofs do not say.
//!
//! One scan of the log and a look at the folder beside it; a [`Check`] each says what it found. Each is a small fold or a
//! function of its own, below, so that a test can make it fail. Start with [`examine`].

use crate::blobs::{self, Belongs};
use crate::clock;
use crate::device::Device;
use crate::fold::Fold;
use crate::index::{Extent, Snapshot, Wanted};
use crate::json::Json;
use crate::objects::FolderStore;
use crate::proofs::folder::{CHECKPOINT, Folder, TILES};
use crate::said::Said;
use crate::scan::{End, Found};
use crate::verify::{Whole, read_whole};
use ledger_core::checkpoint::Checkpoint;
use ledger_core::store::{ObjectId, ObjectStore};
use ledger_core::{Anchor, CompactRange, Hash, Superblock};
use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::Path;
use std::sync::Arc;

/// Name of the index's folder in the ledger's.
const INDEX: &str = "index";
/// A wall clock that is set back by less is being kept by SNTP.
const CLOCK_BACK_NS: u64 = 1_000_000_000;
/// Fullness from which the ledger compacts by itself, and from which it takes the machine's own events alone.
const FULL_PERCENT: [u64; 2] = [75, 95];
/// What index and tiles may take beside a log that is nearly empty.
const CACHE_BYTES_FREE: u64 = 16 * 1024 * 1024;

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum State {
    /// As it should be, or not there to be looked at.
    Good,
    /// It mends itself, or should be known.
    Warning,
    /// Somebody must act.
    Bad,
}

impl State {
    /// Its word.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Good => "good",
            Self::Warning => "warning",
            Self::Bad => "bad",
        }
    }
}

/// What one check found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Check {
    /// Its name.
    pub name: &'static str,
    /// How bad it is.
    pub state: State,
    /// For people.
    pub what: String,
}

impl Check {
    fn new(name: &'static str, state: State, what: impl Into<String>) -> Self {
        let what = what.into();
        Self { name, state, what }
    }

    /// As JSON.
    #[must_use]
    pub fn json(&self) -> Json {
        Json::object([
            ("check", self.name.into()),
            ("state", self.state.word().into()),
            ("what", self.what.as_str().into()),
        ])
    }
}

/// The worst of them.
#[must_use]
pub fn worst(checks: &[Check]) -> State {
    checks.iter().map(|c| c.state).max().unwrap_or(State::Good)
}

/// A log that is being written while it is looked at.
pub struct Live<'l> {
    /// Its durable end.
    pub end: u64,
    /// The objects that pointers need now, or will: what was shredded, or put, since the end was taken.
    pub needed: &'l dyn Fn() -> Result<BTreeSet<Hash>, String>,
}

/// Looks at a log, up to the end of one that is being written, and at the ledger's folder.
///
/// # Errors
/// If there is no log or it cannot be read.
pub fn examine(
    device: &dyn Device,
    data: Option<&Path>,
    live: Option<Live<'_>>,
    progress: &mut dyn FnMut(u64),
) -> Result<Vec<Check>, String> {
    let until = live.as_ref().map(|live| live.end);
    let mut seen = Seen::new(data, until.is_some());
    let Whole {
        superblock,
        copy,
        end,
    } = read_whole(
        device,
        until,
        &mut seen,
        &mut |seen, _| *seen = Seen::new(data, until.is_some()),
        &mut |seen, found| {
            if let Found::Group { end } = found {
                progress(*end);
            }
            seen.found(found);
        },
    )
    .map_err(|e| match std::error::Error::source(&e) {
        Some(cause) => format!("{e}: {cause}"),
        None => e.to_string(),
    })?;
    let mut checks = vec![
        log(&end, copy.map(|(_, what)| what), seen.fold.lost.as_deref()),
        events(&seen.said),
        seen.fast_forward(&superblock, &end),
        seen.epochs.check(),
        seen.clock.check(clock::wall_ns()),
        room(&superblock, &end),
    ];
    if let Some(data) = data {
        checks.push(seen.cache(data, &end));
        checks.push(seen.blobs(data, live.as_ref()));
        checks.push(sizes(data, &superblock, &end));
    }
    Ok(checks)
}

fn log(end: &End, copy: Option<&str>, lost: Option<&str>) -> Check {
    let (state, what) = match (&end.fault, end.damaged, lost, copy) {
        (Some(fault), true, ..) => (State::Bad, format!("damaged: {}", fault.kind)),
        (_, _, Some(why), _) => (
            State::Bad,
            format!("the state of a compaction is lost: {why}"),
        ),
        (Some(fault), false, ..) => (
            State::Warning,
            format!("torn, never acknowledged: {}", fault.kind),
        ),
        (None, .., Some(copy)) => (State::Warning, format!("a superblock copy {copy}")),
        (None, .., None) => (State::Good, format!("{} events hold", end.head.id)),
    };
    Check::new("log", state, what)
}

/// Whether every event says what the ledger would have taken.
fn events(said: &Said) -> Check {
    let (state, what) = match said.wrong {
        Some(wrong) => (State::Bad, format!("event {}: {}", wrong.id, wrong.what)),
        None => (State::Good, format!("{} signatures hold", said.signed)),
    };
    Check::new("events", state, what)
}

/// What a scan leaves for the checks.
struct Seen {
    fold: Fold,
    said: Said,
    epochs: Epochs,
    clock: Clock,
    extents: Vec<Extent>,
    /// The folder's last checkpoint, or why it cannot be read.
    checkpoint: Result<Option<Checkpoint>, String>,
    /// To which log the objects belong, or why that cannot be read.
    belongs: Result<Option<Belongs>, String>,
    /// Leaves whose tiles are durable, read before the log is.
    settled: u64,
    /// The log is being written while it is looked at: what lies beside it may be newer.
    live: bool,
    /// The tree so far.
    tree: Option<CompactRange>,
    /// Root at the checkpoint's size.
    root: Option<Hash>,
    /// Chain value of the event that the objects knew.
    chain: Option<Hash>,
}

impl Seen {
    fn new(data: Option<&Path>, live: bool) -> Self {
        let said = |e: io::Error| e.to_string();
        let checkpoint = data.map_or(Ok(None), |data| {
            let note = Folder::new(data).note(CHECKPOINT).map_err(said)?;
            let parsed = note.map(|note| Checkpoint::parse(note.text()));
            parsed.transpose().map_err(|e| e.to_string())
        });
        let objects = data.map(|data| data.join(blobs::FOLDER));
        let belongs = objects.map_or(Ok(None), |o| Belongs::read(&o).map_err(said));
        Self {
            fold: Fold::of_planes(),
            said: Said::default(),
            epochs: Epochs::default(),
            clock: Clock::default(),
            extents: Vec::new(),
            checkpoint,
            belongs,
            settled: data.map_or(0, |data| Folder::new(data).settled()),
            live,
            tree: None,
            root: None,
            chain: None,
        }
    }

    fn found(&mut self, found: &Found<'_>) {
        self.fold.found(found);
        self.said.see(found);
        match found {
            Found::Segment { extent, head, .. } => {
                // Of a log that was compacted the tree begins where its first segment says.
                self.tree.get_or_insert_with(|| head.tree.clone());
                self.extents.push(*extent);
            }
            Found::Event {
                id,
                chain,
                leaf,
                body,
                ..
            } => {
                self.clock.see(*id, body.wall_ns);
                if let Some(anchor) = Anchor::of(body) {
                    self.epochs.see(*id, chain, &anchor);
                }
                let tree = self.tree.get_or_insert_default();
                tree.push(&leaf.entry);
                if let Ok(Some(checkpoint)) = &self.checkpoint
                    && checkpoint.size == *id
                {
                    self.root = Some(tree.root());
                }
                if let Ok(Some(belongs)) = &self.belongs
                    && belongs.event == *id
                {
                    self.chain = Some(*chain);
                }
            }
            Found::Group { .. } => {}
        }
    }

    /// Whether the log only grew since the folder's last checkpoint, and since its objects were cleared.
    fn fast_forward(&self, superblock: &Superblock, end: &End) -> Check {
        let name = "fast_forward";
        let head = end.head.id;
        let mut what = Vec::new();
        match &self.checkpoint {
            Err(why) => return Check::new(name, State::Bad, format!("checkpoint: {why}")),
            Ok(None) => {}
            Ok(Some(c)) if c.size > head && self.live => {
                what.push(format!("a checkpoint of {} events came meanwhile", c.size));
            }
            Ok(Some(c)) if c.size > head => {
                let why = format!("a checkpoint says {} events, the log has {head}", c.size);
                return Check::new(name, State::Bad, why);
            }
            Ok(Some(c)) => match self.root {
                Some(root) if root != c.root => {
                    let why = format!("the tree of {} events is not the checkpoint's", c.size);
                    return Check::new(name, State::Bad, why);
                }
                Some(_) => what.push(format!("the checkpoint of {} events holds", c.size)),
                None => what.push(format!("{} events are there", c.size)),
            },
        }
        match &self.belongs {
            Err(why) => return Check::new(name, State::Bad, format!("objects/log: {why}")),
            Ok(None) => {}
            Ok(Some(belongs)) => match belongs.holds(&superblock.log_id, head, |_| self.chain) {
                Ok(()) => what.push(format!("event {} is as it was", belongs.event)),
                Err(why) => return Check::new(name, State::Bad, why),
            },
        }
        if what.is_empty() {
            what.push("nothing to compare with".to_owned());
        }
        Check::new(name, State::Good, what.join("; "))
    }

    /// Whether index and tiles are those of this log.
    fn cache(&self, data: &Path, end: &End) -> Check {
        let name = "cache";
        let settled = self.settled;
        if settled > end.head.id && !self.live {
            let why = format!("tiles of {settled} events, the log has {}", end.head.id);
            return Check::new(name, State::Bad, why);
        }
        let (mut sealed, mut stale) = (0, 0);
        for pair in self.extents.windows(2) {
            let [extent, next] = pair else { continue };
            sealed += 1;
            let events = next.first_id.saturating_sub(extent.first_id);
            let wanted = Wanted {
                extent: *extent,
                events: u32::try_from(events).unwrap_or(u32::MAX),
                chain: next.chain,
            };
            let snapshot = Snapshot::open(&data.join(INDEX), &wanted, 0, &Arc::default());
            stale += u32::from(snapshot.is_err());
        }
        let state = match stale {
            0 => State::Good,
            _ => State::Warning,
        };
        let what =
            format!("{stale} of {sealed} segments without their index; tiles of {settled} events");
        Check::new(name, state, what)
    }

    /// Whether every pointer has its object and keys, and nothing lies there without a pointer.
    fn blobs(&self, data: &Path, live: Option<&Live<'_>>) -> Check {
        let name = "blobs";
        let listed = |folder: &Path| -> Result<BTreeSet<Hash>, String> {
            let mut found = BTreeSet::new();
            if folder.exists() {
                let store = FolderStore::open(folder).map_err(|e| e.to_string())?;
                store
                    .list(&mut |id: ObjectId| {
                        found.insert(id.0);
                        true
                    })
                    .map_err(|e| e.to_string())?;
            }
            Ok(found)
        };
        let (objects_in, keys_in) = blobs::folders(data);
        let (objects, keys) = match (listed(&objects_in), listed(&keys_in)) {
            (Ok(objects), Ok(keys)) => (objects, keys),
            (Err(why), _) | (_, Err(why)) => return Check::new(name, State::Bad, why),
        };
        let needed: BTreeSet<Hash> = self
            .fold
            .planes
            .blobs
            .all()
            .map(|(_, entry)| entry.object)
            .collect();
        let mut missing: BTreeSet<&Hash> = needed
            .iter()
            .filter(|o| !objects.contains(*o) || !keys.contains(*o))
            .collect();
        let mut dangling: BTreeSet<&Hash> = objects
            .union(&keys)
            .filter(|o| !needed.contains(*o))
            .collect();
        if let Some(live) = live.filter(|_| !missing.is_empty() || !dangling.is_empty()) {
            // Asked for after the folder was listed: who is not missed now was shredded before it was looked for, and
            // who is not needed now and still lies there is not on its way.
            let now = match (live.needed)() {
                Ok(now) => now,
                Err(why) => return Check::new(name, State::Bad, why),
            };
            missing.retain(|o| now.contains(*o));
            dangling.retain(|o| !now.contains(*o));
            match (listed(&objects_in), listed(&keys_in)) {
                (Ok(objects), Ok(keys)) => {
                    dangling.retain(|o| objects.contains(*o) || keys.contains(*o));
                }
                (Err(why), _) | (_, Err(why)) => return Check::new(name, State::Bad, why),
            }
        }
        let (missing, pointers, dangling) = (missing.len(), needed.len(), dangling.len());
        let state = match (missing, dangling) {
            (0, 0) => State::Good,
            // The next start destroys them.
            (0, _) => State::Warning,
            _ => State::Bad,
        };
        let what = format!(
            "{pointers} pointers, {missing} without object or keys; {dangling} objects without a pointer"
        );
        Check::new(name, state, what)
    }
}

/// Whether each epoch's anchor is on the one before.
#[derive(Default)]
struct Epochs {
    count: u64,
    last: Option<(u64, u64, Hash)>,
    broken: Option<String>,
}

impl Epochs {
    fn see(&mut self, id: u64, chain: &Hash, anchor: &Anchor) {
        self.count += 1;
        let named = anchor.previous;
        match self.last {
            // The one before may have been compacted away.
            None => {}
            Some((epoch, last, at)) => {
                let follows = anchor.epoch == epoch + 1 && named == Some((last, at));
                if !follows && self.broken.is_none() {
                    self.broken = Some(format!(
                        "event {id} opens epoch {} and does not stand on event {last}, epoch {epoch}",
                        anchor.epoch
                    ));
                }
            }
        }
        self.last = Some((anchor.epoch, id, *chain));
    }

    fn check(&self) -> Check {
        match &self.broken {
            Some(why) => Check::new("epochs", State::Bad, why.clone()),
            None => Check::new("epochs", State::Good, format!("{} anchors", self.count)),
        }
    }
}

/// Whether the wall clock went back between two events.
#[derive(Default)]
struct Clock {
    newest_ns: u64,
    times: u64,
    /// The first: which event, and by how much.
    first: Option<(u64, u64)>,
}

impl Clock {
    fn see(&mut self, id: u64, wall_ns: u64) {
        let back = self.newest_ns.saturating_sub(wall_ns);
        if back > CLOCK_BACK_NS {
            self.times += 1;
            self.first = self.first.or(Some((id, back)));
        }
        // From here on it is compared with the clock as it was set.
        self.newest_ns = wall_ns;
    }

    fn check(&self, now_ns: u64) -> Check {
        let ahead = self.newest_ns.saturating_sub(now_ns);
        let seconds = |ns: u64| ns / 1_000_000_000;
        match self.first {
            _ if ahead > CLOCK_BACK_NS => {
                let why = format!("the last event is {} s in the future", seconds(ahead));
                Check::new("clock", State::Warning, why)
            }
            Some((id, back)) => {
                let times = self.times;
                let why = format!(
                    "set back {times} times, first at event {id} by {} s",
                    seconds(back)
                );
                Check::new("clock", State::Warning, why)
            }
            None => Check::new("clock", State::Good, "never set back"),
        }
    }
}

fn room(superblock: &Superblock, end: &End) -> Check {
    let begin = end.segment.saturating_sub(superblock.first_segment);
    let used = superblock.segment_offset(begin).saturating_add(end.offset);
    let percent = used / (superblock.device_bytes() / 100).max(1);
    let what = format!("{percent} % of {} bytes used", superblock.device_bytes());
    Check::new("room", fullness(percent), what)
}

fn fullness(percent: u64) -> State {
    match FULL_PERCENT {
        [_, bad] if percent >= bad => State::Bad,
        [warn, _] if percent >= warn => State::Warning,
        _ => State::Good,
    }
}

/// How large what lies beside the log is: what can be rebuilt should be smaller than the log itself.
fn sizes(data: &Path, superblock: &Superblock, end: &End) -> Check {
    let begin = end.segment.saturating_sub(superblock.first_segment);
    let log = superblock.segment_offset(begin).saturating_add(end.offset);
    let part = |name: &str| bytes_below(&data.join(name));
    let (index, tiles, objects) = (part(INDEX), part(TILES), part(blobs::FOLDER));
    let state = match index + tiles > log + CACHE_BYTES_FREE {
        true => State::Warning,
        false => State::Good,
    };
    let what = format!("log {log}, index {index}, tiles {tiles}, objects {objects} bytes");
    Check::new("sizes", state, what)
}

/// Bytes of the files below a folder; what cannot be read counts nothing.
fn bytes_below(folder: &Path) -> u64 {
    let (mut bytes, mut folders) = (0, vec![folder.to_owned()]);
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            match entry.metadata() {
                Ok(found) if found.is_dir() => folders.push(entry.path()),
                Ok(found) => bytes += found.len(),
                Err(_) => {}
            }
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn anchor(epoch: u64, previous: Option<(u64, Hash)>) -> Anchor {
        Anchor {
            epoch,
            previous,
            chain: [0; 32],
            tree_size: 0,
            root: [0; 32],
            state: [0; 32],
        }
    }

    #[test]
    fn an_epoch_that_does_not_stand_on_the_one_before_is_bad() {
        for (second, good) in [
            (anchor(3, Some((5, [5; 32]))), true),
            (anchor(4, Some((5, [5; 32]))), false),
            (anchor(3, Some((6, [5; 32]))), false),
            (anchor(3, Some((5, [6; 32]))), false),
            (anchor(3, None), false),
        ] {
            let mut epochs = Epochs::default();
            epochs.see(5, &[5; 32], &anchor(2, Some((1, [1; 32]))));
            epochs.see(9, &[9; 32], &second);
            assert_eq!(epochs.check().state == State::Good, good, "{second:?}");
        }
    }

    #[test]
    fn a_log_that_fills_is_a_warning_and_then_bad() {
        let states = [0, 74, 75, 94, 95, 100].map(fullness);
        let [good, warning, bad] = [State::Good, State::Warning, State::Bad];
        assert_eq!(states, [good, good, warning, warning, bad, bad]);
    }

    #[test]
    fn a_clock_that_was_set_back_or_runs_ahead_is_a_warning() {
        let second = 1_000_000_000;
        let clock = |walls: &[u64]| {
            let mut clock = Clock::default();
            walls
                .iter()
                .zip(1..)
                .for_each(|(wall, id)| clock.see(id, wall * second));
            clock.check(100 * second)
        };
        assert_eq!(clock(&[1, 2, 2, 99]).state, State::Good);
        let back = clock(&[10, 50, 20, 30, 5]);
        assert_eq!(back.state, State::Warning);
        assert!(
            back.what.contains("2 times, first at event 3 by 30 s"),
            "{}",
            back.what
        );
        assert_eq!(clock(&[1, 200]).state, State::Warning);
    }
}
