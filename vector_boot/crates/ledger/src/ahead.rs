//! Zeros ahead of the log's end, written by a thread of its own, so that no commit waits for them.
//!
//! A group may only be torn over zeros that are durable: recovery tells torn from damaged by them. The
//! thread writes them; the committer's own sync makes them durable, since a sync of the thread's would
//! take the error that belongs to a group's. Neither writes where the other may: the thread from the
//! frontier on, under its lock, and the committer its groups before it.
//!
//! Zeros cost the disk as much as what is written over them, and a file that grows a journal commit. So
//! the thread goes far ahead while nobody commits, and while somebody does only as far as it must.

use crate::device::Device;
use crossbeam::channel::{Receiver, RecvTimeoutError, Sender, bounded};
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

/// Zeros reach at least so far ahead of the log's end: the room that a commit wants, and what may be
/// committed until the thread has run.
const NEAR_BYTES: u64 = 6 * 1024 * 1024;
/// So far they reach once it was quiet: a burst of 70,000 events of 400 bytes meets no others.
const FAR_BYTES: u64 = 32 * 1024 * 1024;
/// Only where so much stays free for others: a small disk, or a log in memory, has no room to take for nothing.
const FREE_BYTES_MIN: u64 = 8 * FAR_BYTES;
/// The thread is woken for these when so much of them is missing.
const WAKE_FAR_BYTES: u64 = FAR_BYTES / 4;
/// It is quiet when nothing was committed for so long; then one piece is written.
const QUIET: Duration = Duration::from_millis(10);
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
    /// The log's end.
    end: AtomicU64,
    /// No zeros from here on: near, and far.
    limits: [AtomicU64; 2],
    /// The thread looks by itself whether it is quiet.
    watching: AtomicBool,
    /// Nothing more is wanted.
    ended: AtomicBool,
}

/// How far zeros should reach.
#[derive(Clone, Copy)]
enum Reach {
    Near,
    Far,
}

impl Shared {
    /// Bytes that are missing.
    fn missing(&self, reach: Reach) -> u64 {
        let (ahead, limit) = match reach {
            Reach::Near => (NEAR_BYTES, &self.limits[0]),
            Reach::Far => (FAR_BYTES, &self.limits[1]),
        };
        let to = self.end.load(Ordering::Relaxed).saturating_add(ahead);
        let to = to.min(limit.load(Ordering::Relaxed));
        to.saturating_sub(self.frontier.load(Ordering::Acquire))
    }

    /// Writes one piece of what is missing; false if it could not be.
    fn step(&self, reach: Reach) -> bool {
        let mut failed = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        if failed.is_some() || self.ended.load(Ordering::Acquire) {
            return false;
        }
        if matches!(reach, Reach::Far)
            && let Some(free) = self.device.shared_free()
            && free < FREE_BYTES_MIN
        {
            return false;
        }
        // Under the lock, for the committer may have gone on itself: not a byte past a limit.
        let bytes = self.missing(reach).min(PIECE_BYTES);
        let from = self.frontier.load(Ordering::Acquire);
        let to = from.saturating_add(bytes);
        let wrote = match reach {
            // The committer finds what goes wrong.
            Reach::Near => self.advance(&mut failed, to),
            // Nobody needs these yet: a disk that is full now is so for a commit only when that comes.
            Reach::Far => self.advance(&mut None, to),
        };
        drop(failed);
        if bytes > 0 {
            // Nothing depends on it.
            let _ = self.device.start_writing(from, bytes);
        }
        wrote.is_ok()
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
    pub fn new(device: Arc<dyn Device>, from: u64) -> Self {
        Self {
            shared: Arc::new(Shared {
                device,
                frontier: AtomicU64::new(from),
                writing: Mutex::new(None),
                end: AtomicU64::new(from),
                limits: [AtomicU64::new(0), AtomicU64::new(0)],
                watching: AtomicBool::new(false),
                ended: AtomicBool::new(false),
            }),
            wake: None,
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
        (self.wake, self.thread) = (Some(sender), Some(thread));
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

    /// The log ends at `end`: lets the thread go on, as far as the limits. Without a thread nothing
    /// happens.
    pub fn follow(&self, end: u64, near: u64, far: u64) {
        let Some(wake) = &self.wake else { return };
        let shared = &*self.shared;
        shared.end.store(end, Ordering::Relaxed);
        for (limit, to) in shared.limits.iter().zip([near, far]) {
            limit.store(to, Ordering::Relaxed);
        }
        let far = || {
            !shared.watching.load(Ordering::Relaxed) && shared.missing(Reach::Far) >= WAKE_FAR_BYTES
        };
        if shared.missing(Reach::Near) >= WAKE_BYTES || far() {
            // It is at work, and looks again when it is done; or it failed, and `reach` says so.
            let _ = wake.try_send(());
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<String>> {
        self.shared
            .writing
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

fn run(shared: &Shared, wake: &Receiver<()>) {
    let mut far_works = true;
    loop {
        if shared.missing(Reach::Near) >= WAKE_BYTES {
            while shared.missing(Reach::Near) > 0 {
                if !shared.step(Reach::Near) {
                    return;
                }
            }
        }
        let end = shared.end.load(Ordering::Relaxed);
        let far = if far_works {
            shared.missing(Reach::Far)
        } else {
            0
        };
        // Where they cannot be, no commit wakes it for them.
        shared
            .watching
            .store(far > 0 || !far_works, Ordering::Relaxed);
        let woken = match far {
            0 => wake.recv().map_err(|_| RecvTimeoutError::Disconnected),
            _ => wake.recv_timeout(QUIET),
        };
        let is_quiet = || end == shared.end.load(Ordering::Relaxed);
        match woken {
            Err(RecvTimeoutError::Disconnected) => return,
            Err(RecvTimeoutError::Timeout) if is_quiet() => {
                far_works = shared.step(Reach::Far);
            }
            _ => {}
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

#[cfg(test)]
mod tests {
    use super::*;

    /// Zeros alone are written to it, and where is checked; with so much free for others, if it is theirs too.
    struct Blank(AtomicU64, Option<u64>);

    impl Device for Blank {
        fn capacity(&self) -> u64 {
            u64::MAX
        }
        fn sector_bytes(&self) -> u32 {
            512
        }
        fn read_at(&self, _: u64, buf: &mut [u8]) -> io::Result<()> {
            buf.fill(0);
            Ok(())
        }
        fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
            let before = self.0.swap(offset + bytes.len() as u64, Ordering::AcqRel);
            assert_eq!(before, offset, "zeros are written once, in order");
            Ok(())
        }
        fn sync(&self) -> io::Result<()> {
            Ok(())
        }
        fn start_writing(&self, _: u64, _: u64) -> io::Result<()> {
            Ok(())
        }
        fn shared_free(&self) -> Option<u64> {
            self.1
        }
        fn locate(&self, offset: u64) -> String {
            offset.to_string()
        }
    }

    fn wait_for(ahead: &Ahead, frontier: u64) {
        while ahead.frontier() < frontier {
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    #[test]
    fn zeros_reach_far_once_it_is_quiet_and_never_past_a_limit() {
        let blank = Arc::new(Blank(AtomicU64::new(4096), Some(FREE_BYTES_MIN)));
        let mut ahead = Ahead::new(blank.clone(), 4096);
        ahead.start().unwrap();
        ahead.follow(4096, u64::MAX, u64::MAX);
        wait_for(&ahead, 4096 + FAR_BYTES);
        let (end, limit) = (FAR_BYTES, FAR_BYTES + NEAR_BYTES + 512);
        ahead.follow(end, u64::MAX, limit);
        wait_for(&ahead, limit);
        drop(ahead);
        assert_eq!(blank.0.load(Ordering::Acquire), limit);
    }

    #[test]
    fn a_small_disk_is_left_to_the_others() {
        let blank = Arc::new(Blank(AtomicU64::new(4096), Some(FREE_BYTES_MIN - 1)));
        let mut ahead = Ahead::new(blank.clone(), 4096);
        ahead.start().unwrap();
        ahead.follow(4096, u64::MAX, u64::MAX);
        wait_for(&ahead, 4096 + NEAR_BYTES);
        // It has looked whether it may go on, and goes on for nobody.
        while !ahead.shared.watching.load(Ordering::Relaxed) {
            std::thread::sleep(Duration::from_millis(1));
        }
        std::thread::sleep(4 * QUIET);
        drop(ahead);
        assert_eq!(blank.0.load(Ordering::Acquire), 4096 + NEAR_BYTES);
    }
}
