//! What PID 1 says: log lines in the ring, in the kernel's log and on the terminal; events for the ledger.

use crate::state::descriptors::Kind;
use crate::state::{BY_INIT, Fixed, LINE_TEXT_MAX, Level, State, Weight};
use std::fmt;
use std::fs::File;
use std::io::Write;
use std::os::fd::AsFd;

/// Longest line of PID 1's own; longer ones are cut.
const SAY_BYTES_MAX: usize = 480;
/// Longest payload: a slot of the outbox holds 488 bytes with the names.
const PAYLOAD_BYTES_MAX: usize = 440;

/// How lines of the ledger begin that a terminal shows; `ledger_core::serial` makes them.
const ANNOUNCED: [&[u8]; 2] = [b"ledger checkpoint: ", b"ledger key: "];

/// The record of a boot, and where its lines go.
#[derive(Debug)]
pub struct Journal {
    /// Ring, outbox and table of services.
    pub state: State,
    kmsg: Option<File>,
    terminal: Option<File>,
    /// While the console role is up it shows warnings itself.
    pub console_is_up: bool,
    threshold: Level,
}

impl Journal {
    /// A record that also writes to `/dev/kmsg` and to a terminal where they exist.
    #[must_use]
    pub fn new(state: State, kmsg: Option<File>, terminal: Option<File>, threshold: &str) -> Self {
        let threshold = match threshold {
            "error" => Level::Error,
            "warn" => Level::Warn,
            "debug" => Level::Debug,
            _ => Level::Info,
        };
        Self {
            state,
            kmsg,
            terminal,
            console_is_up: false,
            threshold,
        }
    }

    /// Lists what its lines are written to as going along.
    pub fn list_own(&mut self) {
        for (kind, file) in [(Kind::Kmsg, &self.kmsg), (Kind::Terminal, &self.terminal)] {
            if let Some(file) = file {
                self.state.list(kind, 0, "", file.as_fd());
            }
        }
    }

    /// One line of PID 1's own.
    pub fn say(&mut self, level: Level, text: fmt::Arguments<'_>) {
        if level > self.threshold {
            return;
        }
        let line = Fixed::<SAY_BYTES_MAX>::of(text);
        self.state.push_line(
            sys::clock::monotonic_ns(),
            BY_INIT,
            level,
            line.as_str().as_bytes(),
        );
        if let Some(kmsg) = &mut self.kmsg {
            let framed = Fixed::<{ SAY_BYTES_MAX + 32 }>::of(format_args!(
                "<{}>vector_boot: {line}\n",
                level as u8
            ));
            // A full kernel log drops its oldest; nothing else can fail that would matter here.
            let _ = kmsg.write(framed.as_str().as_bytes());
        }
        if level <= Level::Warn && !self.console_is_up {
            self.tell_terminal(line.as_str());
        }
    }

    /// One line on the terminal, for what the console role cannot say: before it is up, at the end.
    pub fn tell_terminal(&mut self, line: &str) {
        if let Some(terminal) = &mut self.terminal {
            let framed = Fixed::<{ SAY_BYTES_MAX + 8 }>::of(format_args!("\r{line}\r\n"));
            // A terminal that takes nothing (non-blocking) loses the line; the ring has it.
            let _ = terminal.write(framed.as_str().as_bytes());
        }
    }

    /// A line of the ledger's: while the console role is not up, and above all at the end, a checkpoint of the log and
    /// the key that checks it are shown here. Nothing is read of them but how they begin.
    pub fn announce(&mut self, text: &[u8]) {
        let shown = ANNOUNCED.iter().any(|begins| text.starts_with(begins));
        if !shown || self.console_is_up || text.len() > LINE_TEXT_MAX {
            return;
        }
        let plain = text.iter().all(|b| (b' '..=b'~').contains(b));
        if let Some(line) = std::str::from_utf8(text).ok().filter(|_| plain) {
            self.tell_terminal(line);
        }
    }

    /// One event for the ledger, `payload` being the inside of a JSON object.
    pub fn event(&mut self, weight: Weight, names: [&str; 3], payload: fmt::Arguments<'_>) {
        let payload = Fixed::<PAYLOAD_BYTES_MAX>::of(format_args!("{{{payload}}}"));
        // What was cut is no JSON any more; the event is worth more than its details.
        let whole = payload.as_str().ends_with('}');
        let text = if whole {
            payload.as_str()
        } else {
            "{\"truncated\":true}"
        };
        debug_assert!(wire::ledger::is_exact(text), "{names:?}: {text}");
        self.state
            .push_event(sys::clock::monotonic_ns(), weight, names, text);
    }
}

impl<const N: usize> fmt::Display for Fixed<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Ctrl-S, or a cable that is not plugged in: nobody takes what is written.
    #[test]
    fn a_terminal_that_takes_nothing_loses_lines_and_stops_nobody() {
        let (far, near) = sys::terminal::pair().unwrap();
        let path = sys::terminal::name(std::os::fd::AsFd::as_fd(&near)).unwrap();
        let terminal = crate::early::open_terminal(path.strip_prefix("/dev/").unwrap()).unwrap();
        let state = State::new([0; 16]).unwrap();
        let mut journal = Journal::new(state, None, Some(terminal), "info");
        let (done, wait) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            for n in 0..5000 {
                journal.say(Level::Error, format_args!("line {n}"));
            }
            let _ = done.send(journal.state.next_line());
        });
        let said = wait.recv_timeout(std::time::Duration::from_secs(60));
        assert_eq!(said, Ok(5001), "the ring has every line");
        drop((far, near));
    }

    #[test]
    fn checkpoints_reach_the_terminal_while_no_console_shows_them_and_nothing_else_does() {
        use std::io::Read;
        let (far, near) = sys::terminal::pair().unwrap();
        let path = sys::terminal::name(near.as_fd()).unwrap();
        let terminal = crate::early::open_terminal(path.strip_prefix("/dev/").unwrap()).unwrap();
        let state = State::new([0; 16]).unwrap();
        let mut journal = Journal::new(state, None, Some(terminal), "info");
        let long = [b"ledger checkpoint: ".as_slice(), &[b'x'; 500]].concat();
        for line in [
            b"ready: head=7".as_slice(),
            b"a ledger checkpoint: size=1",
            b"ledger checkpoint: \x1b[2J",
            &long,
            b"ledger checkpoint: size=7",
        ] {
            journal.announce(line);
        }
        journal.console_is_up = true;
        journal.announce(b"ledger checkpoint: size=8");
        journal.console_is_up = false;
        journal.announce(b"ledger key: vb-1/ledger+00+AA==");
        let mut said = Vec::new();
        let mut far = File::from(far);
        // What is expected comes last; the terminal may make two ends of a line of one.
        while !said.windows(4).any(|w| w == b"AA==") {
            let mut piece = [0; 256];
            let bytes = far.read(&mut piece).unwrap();
            said.extend_from_slice(&piece[..bytes]);
        }
        let said = String::from_utf8(said).unwrap();
        let lines: Vec<&str> = said.split(['\r', '\n']).filter(|l| !l.is_empty()).collect();
        assert_eq!(
            lines,
            [
                "ledger checkpoint: size=7",
                "ledger key: vb-1/ledger+00+AA=="
            ]
        );
    }
}
