//! Closing what strangers sent, so that it blocks nobody who matters.
//!
//! close(2) of the last handle does the work of closing in the caller: a TCP socket with `SO_LINGER`
//! waits for its peer as long as its owner said, a removed file of gigabytes gives back its blocks.
//! A packet's descriptors, and those in the queue of a connection that is closed, are such handles.
//! A task that is ending never lingers (`inet_release` looks at `PF_EXITING`), so a thread with a
//! table of descriptors of its own holds them while the owner closes its handles, and then ends.
//!
//! Start with [`Releaser::take`] and [`Releaser::step`]. Never here: waiting.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::mpsc::{Sender, channel};

/// Descriptors that may wait, those of another packet among them.
const WAITING_MAX: usize = 1024;
/// Open files that a process with a [`Releaser`] must be allowed: what finds no place in its table, the
/// kernel closes at once. PID 1 gives its services as many, and itself.
pub const OPEN_FILES: u64 = 2 * WAITING_MAX as u64;
/// The thread has nothing to do but to hold and to end.
const STACK_BYTES: usize = 32 * 1024;
/// Threads at once. More than one there is only where they cannot get a table of their own.
const THREADS_MAX: usize = 8;

/// The thread has started.
const STARTED: u8 = 0;
/// It has handles of its own to everything that was open when it was asked.
const HOLDS: u8 = 1;
/// It could not get any.
const FAILED: u8 = 2;

struct UnderWay {
    held: Vec<OwnedFd>,
    state: Arc<AtomicU8>,
    /// Dropped, it lets the thread end; a list sent over it is closed by the thread itself.
    gate: Sender<Vec<OwnedFd>>,
}

/// What is to be closed elsewhere.
#[derive(Default)]
pub struct Releaser {
    waiting: Vec<OwnedFd>,
    under_way: Option<UnderWay>,
    /// Each thread has one of it.
    threads: Arc<()>,
}

impl std::fmt::Debug for Releaser {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Releaser({} waiting)", self.waiting.len())
    }
}

impl Releaser {
    /// Takes descriptors that are to be closed. Past [`WAITING_MAX`] they are closed here and now:
    /// ask [`Self::is_full`] before receiving more.
    pub fn take(&mut self, descriptors: impl IntoIterator<Item = OwnedFd>) {
        let room = WAITING_MAX.saturating_sub(self.waiting.len());
        self.waiting.extend(descriptors.into_iter().take(room));
    }

    /// Whether a packet's descriptors may find no place.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.waiting.len() + crate::packet::DESCRIPTORS_MAX > WAITING_MAX
    }

    /// Whether everything is closed, as far as its owner is concerned.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.waiting.is_empty() && self.under_way.is_none()
    }

    /// Goes on. Call it now and then while not [`Self::is_idle`]; it never waits.
    pub fn step(&mut self) {
        if let Some(under_way) = self.under_way.take() {
            match under_way.state.load(Ordering::Acquire) {
                STARTED => {
                    self.under_way = Some(under_way);
                    return;
                }
                // Ours are not the last handles any more; the thread ends once the gate is gone.
                HOLDS => drop(under_way.held),
                // Closing them in the thread may hold up the thread, and nobody else.
                _ => drop(under_way.gate.send(under_way.held)),
            }
        }
        if self.waiting.is_empty() || Arc::strong_count(&self.threads) > THREADS_MAX {
            return;
        }
        let state = Arc::new(AtomicU8::new(STARTED));
        let (gate, ended) = channel::<Vec<OwnedFd>>();
        let (theirs, counted) = (state.clone(), self.threads.clone());
        let thread = std::thread::Builder::new()
            .name("release".to_owned())
            .stack_size(STACK_BYTES)
            .spawn(move || {
                let own_table = nix::sched::unshare(nix::sched::CloneFlags::CLONE_FILES).is_ok();
                theirs.store(if own_table { HOLDS } else { FAILED }, Ordering::Release);
                // The end of the gate is the sign to end.
                drop(ended.recv());
                drop(counted);
            });
        // Without a thread they wait for the next step.
        if thread.is_ok() {
            self.under_way = Some(UnderWay {
                held: std::mem::take(&mut self.waiting),
                state,
                gate,
            });
        }
    }
}
