//! Keys of a person's terminal, in the order in which they were pressed.
//!
//! Whoever reads takes them one by one, so that what was typed or pasted ahead is neither lost nor read by two. While
//! a command writes they are looked through for Ctrl-C, which ends its output: a slow line shows a long answer for
//! longer than anybody wants to wait. Start with [`Keys::next`] and [`Stoppable`].

use super::context::readable;
use super::programs::Patient;
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Read, Write};
use std::time::Duration;

/// Bytes of keys read at once.
const READ_BYTES: usize = 256;
/// Keys that wait while a command runs; the first ones are kept.
const AHEAD_MAX: usize = 4096;
/// Between two tries of a terminal that says it has keys and gives none.
const RETRY: Duration = Duration::from_secs(60);
const CTRL_C: u8 = 0x03;

/// The keys of one terminal.
pub struct Keys<'f> {
    terminal: &'f File,
    ahead: RefCell<VecDeque<u8>>,
    stopped: Cell<bool>,
}

impl<'f> Keys<'f> {
    /// Those of this terminal from now on.
    pub fn of(terminal: &'f File) -> Self {
        Self {
            terminal,
            ahead: RefCell::default(),
            stopped: Cell::new(false),
        }
    }

    /// Waits for the next one; `None` at the end of file.
    pub fn next(&self) -> io::Result<Option<u8>> {
        if !self.is_ahead() && self.fill()? == 0 {
            return Ok(None);
        }
        Ok(self.ahead.borrow_mut().pop_front())
    }

    /// Whether one is here already.
    pub fn is_ahead(&self) -> bool {
        !self.ahead.borrow().is_empty()
    }

    /// Waits, at most this long, until there is one.
    pub fn wait(&self, limit: Duration) -> bool {
        self.is_ahead() || readable(self.terminal, limit)
    }

    /// Forgets those that were pressed until now.
    pub fn forget(&self) {
        if readable(self.terminal, Duration::ZERO) {
            // What cannot be read here will fail again where it is handled.
            let _ = self.fill();
        }
        self.ahead.borrow_mut().clear();
    }

    /// Begins a command, which has not been stopped.
    pub fn begin(&self) {
        self.stopped.set(false);
    }

    /// Whether the command that began last was stopped.
    pub fn is_stopped(&self) -> bool {
        self.stopped.get()
    }

    /// Takes what was pressed; everything up to a Ctrl-C is gone with it.
    fn look(&self) -> bool {
        if !self.is_stopped() && readable(self.terminal, Duration::ZERO) {
            // As above.
            let _ = self.fill();
            let mut ahead = self.ahead.borrow_mut();
            if let Some(at) = ahead.iter().rposition(|key| *key == CTRL_C) {
                ahead.drain(..=at);
                self.stopped.set(true);
            }
        }
        self.is_stopped()
    }

    /// How many bytes were read; waits for the first one.
    fn fill(&self) -> io::Result<usize> {
        let mut buf = [0u8; READ_BYTES];
        loop {
            let mut terminal = self.terminal;
            match terminal.read(&mut buf) {
                Ok(n) => {
                    let mut ahead = self.ahead.borrow_mut();
                    let room = AHEAD_MAX.saturating_sub(ahead.len());
                    ahead.extend(buf.iter().take(n.min(room)));
                    return Ok(n);
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                    readable(self.terminal, RETRY);
                }
                Err(e) => return Err(e),
            }
        }
    }
}

/// What a command writes, until Ctrl-C is pressed.
pub struct Stoppable<'k, 'f> {
    keys: &'k Keys<'f>,
    sink: Patient<'f>,
}

impl<'k, 'f> Stoppable<'k, 'f> {
    /// Writes to the terminal of these keys; gives up when it takes nothing for `limit`.
    pub fn new(keys: &'k Keys<'f>, limit: Duration) -> Self {
        Self {
            keys,
            sink: Patient::new(keys.terminal, limit),
        }
    }
}

impl Write for Stoppable<'_, '_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.keys.look() {
            return Err(io::Error::other("stopped by Ctrl-C"));
        }
        self.sink.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.sink.flush()
    }
}
