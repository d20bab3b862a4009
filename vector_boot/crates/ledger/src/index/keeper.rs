//! Writes the snapshots of sealed segments, and builds parts again whose snapshot is missing or wrong.
//!
//! On a thread of its own while the service runs, so that the committer never waits for it.

use super::{Index, Part, Posted, Snapshot, View, Wanted, lock, snapshot};
use crate::device::Device;
use crate::reader::Reader;
use crossbeam::channel::bounded;
use ledger_core::Superblock;
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
    Kept { rebuilt: bool },
    Failed,
}

impl Index {
    fn task(&self) -> Option<Task> {
        let kept = self.kept.as_ref()?;
        self.entries.windows(2).find_map(|pair| {
            let [entry, next] = pair else { return None };
            let part = match &entry.view {
                View::File(_) => return None,
                _ if entry.given_up => return None,
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
            Done::Failed => None,
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
            None => entry.given_up = true,
        }
    }
}

/// Writes every snapshot that is missing and whose part is in memory: during a start that reads the
/// log anyway.
pub fn keep_all(index: &mut Index) {
    while let Some(task) = index.task() {
        let Some(part) = &task.part else { return };
        let written = snapshot::write(&task.folder, &task.wanted, &mut lock(part));
        let done = outcome(&task, written, false);
        index.done(&task.wanted, &done);
    }
}

fn outcome(task: &Task, written: io::Result<()>, rebuilt: bool) -> Done {
    match written {
        Ok(()) => Done::Kept { rebuilt },
        Err(e) => {
            let first = task.wanted.extent.first_id;
            ::log::warn!("without index snapshot: first_event={first} error=\"{e}\"");
            Done::Failed
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
            for () in woken {
                keep(&index, &device, &superblock);
            }
        })?;
    Ok(())
}

/// Does what there is to do.
fn keep(index: &Weak<Mutex<Index>>, device: &Arc<dyn Device>, superblock: &Superblock) {
    while let Some(index) = index.upgrade() {
        let task = index.lock().unwrap_or_else(PoisonError::into_inner).task();
        let Some(task) = task else { return };
        let (part, rebuilt) = match &task.part {
            // A copy: who queries this segment does not wait for the disk.
            Some(part) => (Ok(lock(part).clone()), false),
            None => (rebuild(&task.wanted, &index, device, superblock), true),
        };
        let written =
            part.and_then(|mut part| snapshot::write(&task.folder, &task.wanted, &mut part));
        let done = outcome(&task, written, rebuilt);
        let mut index = index.lock().unwrap_or_else(PoisonError::into_inner);
        index.done(&task.wanted, &done);
    }
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
        reader.located(id, |offset, _, body| {
            part.add(&Posted::of(id, offset, body));
        })?;
    }
    Ok(part)
}
