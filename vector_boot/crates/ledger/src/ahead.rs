//! Zeros ahead of the log's end, written by a thread of its own, so that no commit waits for them.
//!
//! A group may only be torn over zeros that are durable: recovery tells torn from damaged by them. The
//! thread writes them; the committer's own sync makes them durable, since a sync of the thread's would
//! take the error that belongs to a group's. Neither writes where the other may: the thread from the
//! frontier on, under its lock, and the committer its groups before it.

use crate::device::Device;
use crossbeam::channel::{Receiver, Sender, TrySendError, bounded};
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

/// Zeros reach so far ahead of the log's end: the room that a commit wants, and what may be committed
/// until the thread has run.
const AHEAD_BYTES: u64 = 6 * 1024 * 1024;
/// The thread is woken when it has so much to do; without one so much is written at once.
pub const WAKE_BYTES: u64 = 1024 * 1024;
/// Written at once: what a commit at most finds on its way to the disk.
const PIECE_BYTES: u64 = 256 * 1024;

struct Shared {
    device: Arc<dyn Device>,
    /// Everything from the log's end up to here is written as zeros, an offset of the log. Changed
    /// under `writing` alone.
    frontier: AtomicU64,
    /// Held over each write; what went wrong with one.
    writing: Mutex<Option<String>>,
    /// Nothing more is wanted.
    ended: AtomicBool,
}

impl Shared {
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

/// The zeros ahead of a log's end.
pub struct Ahead {
    shared: Arc<Shared>,
    /// Where the thread should come to, if there is one.
    wanted: Option<Sender<u64>>,
    thread: Option<JoinHandle<()>>,
}

impl Drop for Ahead {
    fn drop(&mut self) {
        // The thread holds the device, and so its lock: who opens the log next must not meet it.
        self.shared.ended.store(true, Ordering::Release);
        self.wanted = None;
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
    pub fn new(device: Arc<dyn Device>, from: u64) -> Self {
        Self {
            shared: Arc::new(Shared {
                device,
                frontier: AtomicU64::new(from),
                writing: Mutex::new(None),
                ended: AtomicBool::new(false),
            }),
            wanted: None,
            thread: None,
        }
    }

    /// Has a thread do it from now on, where the device can write while it goes on; it ends with this
    /// value.
    ///
    /// # Errors
    /// As `sync_file_range(2)` and `clone(2)`.
    pub fn start(&mut self) -> io::Result<()> {
        self.shared
            .device
            .start_writing(self.frontier(), WAKE_BYTES)?;
        let (sender, receiver) = bounded(1);
        let shared = self.shared.clone();
        let thread = std::thread::Builder::new()
            .name("zeros-ahead".to_owned())
            .spawn(move || run(&shared, &receiver))?;
        (self.wanted, self.thread) = (Some(sender), Some(thread));
        Ok(())
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
        let mut failed = self.lock();
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
        let mut failed = self.lock();
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

    /// The log ends at `end`: lets the thread go on, as far as `limit`. Without a thread nothing happens.
    pub fn follow(&self, end: u64, limit: u64) {
        let to = end.saturating_add(AHEAD_BYTES).min(limit);
        let Some(wanted) = &self.wanted else { return };
        if to.saturating_sub(self.frontier()) >= WAKE_BYTES {
            match wanted.try_send(to) {
                // It is at work; the next commit asks again.
                Ok(()) | Err(TrySendError::Full(_)) => {}
                // It failed, and `reach` says so.
                Err(TrySendError::Disconnected(_)) => {}
            }
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<String>> {
        self.shared
            .writing
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

fn run(shared: &Shared, wanted: &Receiver<u64>) {
    for to in wanted {
        loop {
            let from = shared.frontier.load(Ordering::Acquire);
            if from >= to || shared.ended.load(Ordering::Acquire) {
                break;
            }
            let mut failed = shared
                .writing
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            // The committer may have gone on itself meanwhile.
            let from = shared.frontier.load(Ordering::Acquire).max(from);
            let next = to.min(from.saturating_add(PIECE_BYTES));
            if shared.advance(&mut failed, next).is_err() || failed.is_some() {
                // The committer finds it, or it was its own write that failed.
                return;
            }
            drop(failed);
            // Nothing depends on it.
            let _ = shared.device.start_writing(from, next.saturating_sub(from));
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
