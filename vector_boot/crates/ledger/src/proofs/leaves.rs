//! Leaves on their way from the committer to the tiles: handed over in memory, so that the log need not
//! be read again for them. The committer never waits: when nobody takes them they are forgotten, and
//! then read from the log.

use ledger_core::Hash;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Leaves that wait: half a mebibyte.
const LEAVES_MAX: usize = 16 * 1024;

/// Leaves that wait, and the bell of who takes them.
#[derive(Default)]
pub struct Leaves {
    waiting: Mutex<Waiting>,
    bell: Condvar,
}

#[derive(Default)]
struct Waiting {
    /// Whether somebody takes them.
    wanted: bool,
    /// Index of the first.
    first: u64,
    hashes: Vec<Hash>,
    rung: bool,
}

impl Leaves {
    /// From now on somebody takes them.
    pub fn want(&self) {
        self.lock().wanted = true;
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds durable leaves, of which the first has this index.
    pub fn push(&self, first: u64, hashes: impl ExactSizeIterator<Item = Hash>) {
        let mut waiting = self.lock();
        if !waiting.wanted {
            return;
        }
        let follows = waiting.first + waiting.hashes.len() as u64 == first;
        if !follows || waiting.hashes.len() + hashes.len() > LEAVES_MAX {
            waiting.hashes.clear();
            waiting.first = first;
        }
        let before = waiting.hashes.len();
        waiting.hashes.extend(hashes);
        let after = waiting.hashes.len();
        drop(waiting);
        // Who sleeps until the first ones come is woken, and who sleeps a while before there are too many.
        if before == 0 || (before < LEAVES_MAX / 2) != (after < LEAVES_MAX / 2) {
            self.bell.notify_one();
        }
    }

    /// Wakes who waits for leaves.
    pub fn ring(&self) {
        self.lock().rung = true;
        self.bell.notify_one();
    }

    /// Sleeps until there are leaves, or for this long while they gather; less if it rings.
    pub fn wait(&self, gather: Option<Duration>) {
        let deadline = gather.map(|gather| Instant::now() + gather);
        let mut waiting = self.lock();
        loop {
            let left = deadline.map(|d| d.saturating_duration_since(Instant::now()));
            let enough = match left {
                None => !waiting.hashes.is_empty(),
                Some(left) => left.is_zero() || waiting.hashes.len() >= LEAVES_MAX / 2,
            };
            if enough || std::mem::take(&mut waiting.rung) {
                return;
            }
            waiting = match left {
                None => self
                    .bell
                    .wait(waiting)
                    .unwrap_or_else(PoisonError::into_inner),
                Some(left) => {
                    let woken = self.bell.wait_timeout(waiting, left);
                    woken.unwrap_or_else(PoisonError::into_inner).0
                }
            };
        }
    }

    /// Takes all that wait: the first one's index, and the hashes.
    pub fn take(&self) -> (u64, Vec<Hash>) {
        let mut waiting = self.lock();
        let first = waiting.first;
        let hashes = std::mem::take(&mut waiting.hashes);
        waiting.first = first + hashes.len() as u64;
        (first, hashes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_nobody_takes_is_forgotten_and_the_rest_has_no_gap() {
        let leaves = Leaves::default();
        let some = |n: usize| vec![[7; 32]; n].into_iter();
        leaves.push(0, some(3));
        assert!(leaves.take().1.is_empty());
        leaves.want();
        leaves.push(3, some(2));
        leaves.push(5, some(1));
        assert_eq!(leaves.take(), (3, vec![[7; 32]; 3]));
        leaves.push(6, some(LEAVES_MAX));
        leaves.push(6 + LEAVES_MAX as u64, some(4));
        assert_eq!(leaves.take(), (6 + LEAVES_MAX as u64, vec![[7; 32]; 4]));
    }
}
