//! What a person at a terminal sees of anything that takes over a second.

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::io::IsTerminal;
use std::time::{Duration, Instant};

/// What takes longer shows progress.
const AFTER: Duration = Duration::from_secs(1);

/// A bar on the terminal of standard error, once it is worth one; gone when it is dropped.
pub struct Progress {
    began: Instant,
    total: u64,
    template: &'static str,
    bar: Option<ProgressBar>,
}

impl Progress {
    /// Of so many bytes; 0 if nobody knows.
    pub fn bytes(total: u64) -> Self {
        Self::new(total, "{wide_bar} {bytes}/{total_bytes} {eta}")
    }

    /// Of so many events; 0 if nobody knows.
    pub fn events(total: u64) -> Self {
        let open = "{pos} events {elapsed}";
        let known = "{wide_bar} {pos}/{len} {eta}";
        Self::new(total, if total == 0 { open } else { known })
    }

    /// Of a hundred, as a running ledger says it.
    pub fn percent() -> Self {
        Self::new(100, "{wide_bar} {pos} % {eta}")
    }

    /// Of so many objects.
    pub fn objects(total: u64) -> Self {
        Self::new(total, "{wide_bar} {pos}/{len} objects {eta}")
    }

    fn new(total: u64, template: &'static str) -> Self {
        Self {
            began: Instant::now(),
            total,
            template,
            bar: None,
        }
    }

    /// So many are done.
    pub fn at(&mut self, done: u64) {
        if self.bar.is_none() && self.began.elapsed() >= AFTER && std::io::stderr().is_terminal() {
            let target = ProgressDrawTarget::stderr();
            let bar = ProgressBar::with_draw_target((self.total > 0).then_some(self.total), target);
            let style = ProgressStyle::with_template(self.template);
            bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
            self.bar = Some(bar);
        }
        if let Some(bar) = &self.bar {
            bar.set_position(done);
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
