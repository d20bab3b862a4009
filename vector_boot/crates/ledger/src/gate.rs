//! Bounds how many requests of one connection are under way.

use std::sync::{Arc, Condvar, Mutex, PoisonError};

/// Counts permits; entering waits while all are out.
pub struct Gate {
    out: Mutex<usize>,
    freed: Condvar,
    max: usize,
}

/// One request under way; dropping it lets the next in.
pub struct Permit(Arc<Gate>);

impl Gate {
    /// A gate for `max` requests at a time.
    #[must_use]
    pub fn new(max: usize) -> Self {
        Self {
            out: Mutex::new(0),
            freed: Condvar::new(),
            max,
        }
    }

    /// Takes a permit, waiting for one.
    #[must_use]
    pub fn enter(self: &Arc<Self>) -> Permit {
        let mut out = self.out.lock().unwrap_or_else(PoisonError::into_inner);
        while *out >= self.max {
            out = self.freed.wait(out).unwrap_or_else(PoisonError::into_inner);
        }
        *out += 1;
        Permit(self.clone())
    }

    /// Takes a permit if one is free.
    #[must_use]
    pub fn try_enter(self: &Arc<Self>) -> Option<Permit> {
        let mut out = self.out.lock().unwrap_or_else(PoisonError::into_inner);
        if *out >= self.max {
            return None;
        }
        *out += 1;
        Some(Permit(self.clone()))
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let mut out = self.0.out.lock().unwrap_or_else(PoisonError::into_inner);
        *out = out.saturating_sub(1);
        self.0.freed.notify_one();
    }
}
