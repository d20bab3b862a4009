//! What a process prints, kept whole and waited for by content.

use std::io::Read;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// A serial console of a failing machine repeats itself; this much of its end says what happened.
const TAIL_BYTES: usize = 16 * 1024;

#[derive(Default)]
struct State {
    text: Vec<u8>,
    ended: bool,
}

/// The growing output of one process.
#[derive(Clone, Default)]
pub struct Screen {
    shared: Arc<(Mutex<State>, Condvar)>,
}

impl Screen {
    /// Starts to keep what `source` gives, until it ends.
    pub fn of(mut source: impl Read + Send + 'static) -> Self {
        let screen = Self::default();
        let ours = screen.clone();
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            loop {
                // A source that fails has ended as far as a reader of it can tell.
                let count = source.read(&mut buffer).unwrap_or(0);
                let (state, changed) = &*ours.shared;
                let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
                state.text.extend(&buffer[..count]);
                state.ended = count == 0;
                changed.notify_all();
                if count == 0 {
                    return;
                }
            }
        });
        screen
    }

    /// Everything so far.
    pub fn text(&self) -> String {
        let state = self.shared.0.lock().unwrap_or_else(PoisonError::into_inner);
        String::from_utf8_lossy(&state.text).replace('\r', "")
    }

    /// The end of it, for people.
    pub fn tail(&self) -> String {
        let text = self.text();
        let from = text.len().saturating_sub(TAIL_BYTES);
        let from = (from..text.len())
            .find(|at| text.is_char_boundary(*at))
            .unwrap_or(text.len());
        text[from..].to_owned()
    }

    /// Waits until `wanted` finds something in the text; panics with the text when it ends or `limit` passes.
    pub fn wait_for<T>(
        &self,
        what: &str,
        limit: Duration,
        wanted: impl Fn(&str) -> Option<T>,
    ) -> T {
        let deadline = Instant::now() + limit;
        let (state, changed) = &*self.shared;
        let mut guard = state.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            let text = String::from_utf8_lossy(&guard.text).replace('\r', "");
            if let Some(found) = wanted(&text) {
                return found;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            let reason = match (guard.ended, left.is_zero()) {
                (true, _) => "the output ended",
                (_, true) => "the deadline passed",
                _ => {
                    guard = changed
                        .wait_timeout(guard, left)
                        .unwrap_or_else(PoisonError::into_inner)
                        .0;
                    continue;
                }
            };
            drop(guard);
            panic!("waiting for {what}: {reason} after\n{}", self.tail());
        }
    }

    /// Waits until the process has closed its output; panics when `limit` passes.
    pub fn wait_for_end(&self, limit: Duration) {
        assert!(
            self.ends_within(limit),
            "the output did not end in {limit:?}"
        );
    }

    /// Waits until the process has closed its output; false when `limit` passes before.
    pub fn ends_within(&self, limit: Duration) -> bool {
        let (state, changed) = &*self.shared;
        let guard = state.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = changed.wait_timeout_while(guard, limit, |state| !state.ended);
        waited.unwrap_or_else(PoisonError::into_inner).0.ended
    }

    /// Waits for a line that contains `part` and returns it.
    pub fn wait_for_line(&self, part: &str, limit: Duration) -> String {
        self.wait_for(part, limit, |text| {
            // The last line may still be growing.
            let whole = &text[..text.rfind('\n')?];
            whole
                .lines()
                .find(|line| line.contains(part))
                .map(str::to_owned)
        })
    }
}
