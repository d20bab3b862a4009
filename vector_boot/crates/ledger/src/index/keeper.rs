//! Writes the snapshots of sealed segments, and builds parts again whose snapshot is missing or wrong.
//!
//! On a thread of its own while the service runs, so that the committer never waits for it.

use super::{Index, Part, Posted, Snapshot, State, View, Wanted, lock, snapshot};
use crate::device::Device;
use crate::files;
use crate::reader::Reader;
use crossbeam::channel::bounded;
use ledger_core::{Head, Superblock};
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError, Weak};

/// A part that has no snapshot.
struct Task {
    folder: PathBuf,
    wanted: Wanted,
    part: Option<Arc<Mutex<Part>>>,
}

/// What became of a task.
enum Done {
    Kept {
        rebuilt: bool,
    },
    /// With the part's anchors, where it was built: a folder that is full keeps nobody from finding events.
    Failed(Arc<[u32]>),
}

impl Index {
    fn state_to_write(&mut self) -> Option<(State, PathBuf)> {
        let kept = self.kept.as_mut()?;
        Some((kept.state.take()?, kept.folder.clone()))
    }

    /// The newest part without a snapshot: what is asked for most, and dropped last.
    fn task(&self) -> Option<Task> {
        let kept = self.kept.as_ref()?;
        self.entries.windows(2).rev().find_map(|pair| {
            let [entry, next] = pair else { return None };
            let part = match &entry.view {
                View::File(_) => return None,
                // A segment without events has the name of the one behind it.
                _ if entry.given_up || entry.events == 0 => return None,
                View::Memory(part) => Some(part.clone()),
                View::Bare(_) => None,
            };
            Some(Task {
                folder: kept.folder.clone(),
                wanted: Wanted {
                    extent: entry.extent,
                    events: entry.events,
                    chain: next.extent.chain,
                },
                part,
            })
        })
    }

    fn done(&mut self, wanted: &Wanted, done: &Done) {
        let opened: Option<Snapshot> = match done {
            Done::Kept { rebuilt } => {
                self.rebuilds += u64::from(*rebuilt);
                self.open_snapshot(wanted)
            }
            Done::Failed(_) => None,
        };
        let mut entries = self.entries.iter_mut();
        // It may have been compacted away meanwhile.
        let Some(entry) = entries.find(|e| e.extent == wanted.extent) else {
            return;
        };
        match opened {
            Some(snapshot) => {
                entry.span = Some(snapshot.span);
                entry.view = View::File(Arc::new(snapshot));
            }
            None => {
                entry.given_up = true;
                if let (Done::Failed(anchors), View::Bare(_)) = (done, &entry.view) {
                    entry.view = View::Bare(anchors.clone());
                }
            }
        }
    }
}

fn write_state(state: Option<(State, PathBuf)>) {
    if let Some((state, folder)) = state
        && let Err(e) = state.write(&folder)
    {
        let segment = state.segment;
        ::log::warn!("state of the log not kept: segment={segment} error=\"{e}\"");
    }
}

fn outcome(task: &Task, written: io::Result<()>, rebuilt: bool, anchors: Arc<[u32]>) -> Done {
    match written {
        Ok(()) => Done::Kept { rebuilt },
        Err(e) => {
            let first = task.wanted.extent.first_id;
            ::log::warn!("without index snapshot: first_event={first} error=\"{e}\"");
            Done::Failed(anchors)
        }
    }
}

/// Starts the thread; it ends with the index. Without a folder there is nothing to do.
///
/// # Errors
/// If the kernel gives no thread.
pub fn start(
    index: &Arc<Mutex<Index>>,
    device: &Arc<dyn Device>,
    superblock: &Superblock,
) -> io::Result<()> {
    let (wake, woken) = bounded(1);
    {
        let mut index = index.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(kept) = &mut index.kept else {
            return Ok(());
        };
        // What is missing already is looked for at once.
        let _ = wake.try_send(());
        kept.wake = Some(wake);
    }
    let (index, device, superblock) = (Arc::downgrade(index), device.clone(), *superblock);
    std::thread::Builder::new()
        .name("index-keeper".to_owned())
        .spawn(move || {
            sweep(&index);
            for () in woken {
                keep(&index, &device, &superblock);
            }
        })?;
    Ok(())
}

/// Removes snapshots of segments that were dropped while nobody kept the index.
fn sweep(index: &Weak<Mutex<Index>>) {
    let Some(index) = index.upgrade() else { return };
    let index = index.lock().unwrap_or_else(PoisonError::into_inner);
    let first = snapshot::file_name(index.first());
    let folder = index.kept.as_ref().map(|kept| kept.folder.clone());
    drop(index);
    let entries = folder.and_then(|folder| std::fs::read_dir(folder).ok());
    for entry in entries.into_iter().flatten().flatten() {
        let name = entry.file_name();
        // Their digits are in order as their numbers are.
        let name = name
            .to_str()
            .filter(|name| name.starts_with(snapshot::PREFIX));
        if name.is_some_and(|name| name < first.as_str()) {
            // The next start tries again.
            let _ = files::remove(&entry.path());
        }
    }
}

/// Does what there is to do.
pub fn keep(index: &Weak<Mutex<Index>>, device: &Arc<dyn Device>, superblock: &Superblock) {
    while let Some(index) = index.upgrade() {
        let mut locked = index.lock().unwrap_or_else(PoisonError::into_inner);
        let (state, task) = (locked.state_to_write(), locked.task());
        drop(locked);
        write_state(state);
        let Some(task) = task else { return };
        let (part, rebuilt) = match &task.part {
            // A copy: who queries this segment does not wait for the disk.
            Some(part) => (Ok(lock(part).clone()), false),
            None => (rebuild(&task.wanted, &index, device, superblock), true),
        };
        let mut anchors = Arc::default();
        let written = part.and_then(|mut part| {
            snapshot::write(&task.folder, &task.wanted, &mut part)
                .inspect_err(|_| anchors = part.anchors.as_slice().into())
        });
        let done = outcome(&task, written, rebuilt, anchors);
        let mut index = index.lock().unwrap_or_else(PoisonError::into_inner);
        index.done(&task.wanted, &done);
        drop(index);
        drop(task);
        // A part takes megabytes while it is built or copied, and there may be many.
        sys::reclaim::heap();
    }
}

/// Opens the last segment where a start took it for sealed and then found that the log ends in it: the
/// segment behind it had a header, but what was behind that did not hold.
///
/// # Errors
/// As the reader's.
pub fn open_last(
    index: &Arc<Mutex<Index>>,
    device: &Arc<dyn Device>,
    superblock: &Superblock,
    head: &Head,
) -> io::Result<()> {
    let lock = || index.lock().unwrap_or_else(PoisonError::into_inner);
    let wanted = {
        let mut index = lock();
        let Some(entry) = index.entries.last_mut().filter(|entry| entry.is_bare()) else {
            return Ok(());
        };
        let events = (head.id + 1).saturating_sub(entry.extent.first_id);
        entry.events = u32::try_from(events).unwrap_or(u32::MAX);
        Wanted {
            extent: entry.extent,
            events: entry.events,
            chain: head.chain,
        }
    };
    let part = rebuild(&wanted, index, device, superblock)?;
    if let Some(entry) = lock().entries.last_mut() {
        entry.view = View::Memory(Arc::new(Mutex::new(part)));
    }
    Ok(())
}

/// Folds a sealed segment anew.
fn rebuild(
    wanted: &Wanted,
    index: &Arc<Mutex<Index>>,
    device: &Arc<dyn Device>,
    superblock: &Superblock,
) -> io::Result<Part> {
    let mut reader = Reader::new(device.clone(), *superblock, index.clone());
    let extent = &wanted.extent;
    let mut part = Part::new(extent.first_id, extent.base);
    for id in extent.first_id..extent.first_id + u64::from(wanted.events) {
        reader.located(id, |offset, body| {
            part.add(&Posted::of(id, offset, body));
        })?;
    }
    Ok(part)
}
