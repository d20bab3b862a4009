//! Zeros ahead of the log's end, written by a thread of its own, so that no commit waits for them.
//!
//! A group may only be torn over zeros that are durable: recovery tells torn from damaged by them. The
//! thread writes them; the committer's own sync makes them durable, since a sync of the thread's would
//! take the error that belongs to a group's. Neither writes where the other may: the thread from the
//! frontier on, under its lock, and the committer its groups before it.

use crate::device::{Beside, Device};
use crossbeam::channel::{Sender, bounded};
use ledger_core::Superblock;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

/// Written at once: what a commit at most finds on its way to the disk.
const PIECE_BYTES: u64 = 256 * 1024;

/// How far and in what steps, as parts of the largest group: a small log has small ones.
#[derive(Clone, Copy)]
struct Steps {
    /// Zeros reach so far ahead of the log's end: the room that a commit wants, which is two groups, and
    /// what may be committed until the thread has run. 6 MiB.
    ahead: u64,
    /// The thread is woken when it has so much to do. 1 MiB.
    wake: u64,
    /// The thread writes so much at once: [`PIECE_BYTES`].
    piece: u64,
}

impl Steps {
    fn of(superblock: &Superblock) -> Self {
        let group = superblock.group_bytes_max();
        let sector = u64::from(superblock.sector_bytes);
        Self {
            ahead: 3 * group,
            wake: group / 2,
            piece: (group / 8).next_multiple_of(sector),
        }
    }
}

struct Shared {
    device: Arc<dyn Device>,
    steps: Steps,
    /// Everything from the log's end up to here is written as zeros, an offset of the log. Changed
    /// under `writing` alone.
    frontier: AtomicU64,
    /// Where the thread should come to.
    wanted: AtomicU64,
    /// Held over each write; what went wrong with one.
    writing: Mutex<Option<String>>,
    /// Nothing more is wanted.
    ended: AtomicBool,
}

impl Shared {
    fn lock(&self) -> std::sync::MutexGuard<'_, Option<String>> {
        self.writing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Goes on to `to`, in one step.
    fn advance(&self, failed: &mut Option<String>, to: u64) -> io::Result<()> {
        let from = self.frontier.load(Ordering::Acquire);
        if from >= to || failed.is_some() {
            return Ok(());
        }
        write_zeros(&*self.device, from, to).inspect_err(|e| *failed = Some(e.to_string()))?;
        self.frontier.store(to, Ordering::Release);
        Ok(())
    }
}

impl Beside for Shared {
    fn piece(&self) -> bool {
        let mut failed = self.lock();
        // Under the lock: the committer may have gone on itself.
        let from = self.frontier.load(Ordering::Acquire);
        let to = self.wanted.load(Ordering::Acquire);
        if from >= to || failed.is_some() || self.ended.load(Ordering::Acquire) {
            return false;
        }
        let next = to.min(from.saturating_add(self.steps.piece));
        if self.advance(&mut failed, next).is_err() {
            // The committer finds it.
            return false;
        }
        drop(failed);
        // Nothing depends on it.
        let _ = self.device.start_writing(from, next.saturating_sub(from));
        true
    }
}

/// The zeros ahead of a log's end.
pub struct Ahead {
    shared: Arc<Shared>,
    /// Wakes the thread, if there is one.
    wake: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Drop for Ahead {
    fn drop(&mut self) {
        // The thread holds the device, and so its lock: who opens the log next must not meet it.
        self.shared.ended.store(true, Ordering::Release);
        self.wake = None;
        if let Some(thread) = self.thread.take() {
            // One that is gone has nothing to end.
            let _ = thread.join();
        }
    }
}

impl Ahead {
    /// From this offset of the log on nothing is known to be zero. Without [`Self::start`] whoever
    /// asks writes.
    #[must_use]
    pub fn new(device: Arc<dyn Device>, superblock: &Superblock, from: u64) -> Self {
        Self {
            shared: Arc::new(Shared {
                device,
                steps: Steps::of(superblock),
                frontier: AtomicU64::new(from),
                wanted: AtomicU64::new(0),
                writing: Mutex::new(None),
                ended: AtomicBool::new(false),
            }),
            wake: None,
            thread: None,
        }
    }

    /// Has it done beside the commits from now on: by the device, or by a thread where the device can write
    /// while it goes on. It ends with this value.
    ///
    /// # Errors
    /// As `sync_file_range(2)` and `clone(2)`.
    pub fn start(&mut self) -> io::Result<()> {
        let shared = self.shared.clone();
        let work: Arc<dyn Beside> = shared.clone();
        if shared.device.takes_beside(&work) {
            return Ok(());
        }
        shared.device.start_writing(self.frontier(), PIECE_BYTES)?;
        let (wake, woken) = bounded(1);
        let thread = std::thread::Builder::new()
            .name("zeros-ahead".to_owned())
            .spawn(move || {
                for () in woken {
                    while shared.piece() {}
                }
            })?;
        (self.wake, self.thread) = (Some(wake), Some(thread));
        Ok(())
    }

    /// What is written beyond what is wanted where commits write themselves, so that not each does.
    #[must_use]
    pub fn spare(&self) -> u64 {
        self.shared.steps.wake
    }

    /// Up to where zeros are written; durable with a sync that begins after this.
    #[must_use]
    pub fn frontier(&self) -> u64 {
        self.shared.frontier.load(Ordering::Acquire)
    }

    /// Writes zeros up to `to` now.
    ///
    /// # Errors
    /// As the device's, also of what the thread wrote before.
    pub fn reach(&self, to: u64) -> io::Result<()> {
        let mut failed = self.shared.lock();
        if let Some(why) = &*failed {
            return Err(io::Error::other(why.clone()));
        }
        self.shared.advance(&mut failed, to)
    }

    /// As [`Self::reach`] for what no group will be written to: writes only where there are no zeros, so
    /// that a file's holes stay holes.
    ///
    /// # Errors
    /// As [`Self::reach`].
    pub fn skip(&self, to: u64) -> io::Result<()> {
        let mut failed = self.shared.lock();
        let device = &*self.shared.device;
        let mut piece = vec![0; usize::try_from(PIECE_BYTES).unwrap_or(0)];
        let mut at = self.frontier();
        while at < to {
            let n = usize::try_from(to - at).map_or(piece.len(), |left| left.min(piece.len()));
            let part = piece.get_mut(..n).unwrap_or_default();
            device.read_at(at, part)?;
            let next = at + n as u64;
            if part.iter().any(|b| *b != 0) {
                self.shared.advance(&mut failed, next)?;
            } else {
                self.shared.frontier.store(next, Ordering::Release);
            }
            at = next;
        }
        drop(failed);
        self.reach(to)
    }

    /// The log ends at `end`: lets what was started go on, as far as `limit`.
    pub fn follow(&self, end: u64, limit: u64) {
        let to = end.saturating_add(self.shared.steps.ahead).min(limit);
        if to.saturating_sub(self.frontier()) < self.shared.steps.wake {
            return;
        }
        self.shared.wanted.store(to, Ordering::Release);
        if let Some(wake) = &self.wake {
            // Where it was woken already it finds what is wanted now.
            let _ = wake.try_send(());
        }
    }
}

/// Writes zeros over a range.
///
/// # Errors
/// As the device's.
pub fn write_zeros(device: &dyn Device, from: u64, to: u64) -> io::Result<()> {
    let zeros = vec![0; usize::try_from(PIECE_BYTES.min(to.saturating_sub(from))).unwrap_or(0)];
    let mut at = from;
    while at < to {
        let n = (to - at).min(PIECE_BYTES);
        let zeros = zeros.get(..usize::try_from(n).unwrap_or(0));
        device.write_at(at, zeros.unwrap_or_default())?;
        at += n;
    }
    Ok(())
}
