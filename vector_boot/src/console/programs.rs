//! The machine console: commands from a program, one a line, each answer closed by its exit code.
//!
//! The program sends a line; the console answers with the command's output and then byte 0x1e
//! (ASCII record separator), the exit code in decimal and a line feed. No echo, no prompt. An empty
//! line is answered by the terminator alone. Output never contains 0x1e: commands clean what they
//! show. `docs/console.md` has the protocol byte by byte.
//!
//! Start with [`serve`].

use super::commands;
use super::context::{Attention, Context, Site, readable};
use super::words::LINE_BYTES_MAX;
use std::fs::File;
use std::io::{self, BufWriter, Read, Write};
use std::time::Duration;

/// Ends an answer: ASCII record separator.
pub const TERMINATOR: u8 = 0x1e;
/// How long `-f` follows here: a program that wants more asks again, or says `--for`.
const FOLLOW_LIMIT: Duration = Duration::from_secs(10);
/// How long the far end may leave output untaken.
const WRITE_LIMIT: Duration = Duration::from_secs(30);
/// Wait between two looks at a line that has nothing.
const IDLE: Duration = Duration::from_secs(60);
/// Bytes read at once.
const READ_BYTES: usize = 4096;

/// Lines out of bytes: what is complete, and what was too long.
#[derive(Debug, Default)]
pub struct Lines {
    pending: Vec<u8>,
    overlong: bool,
}

/// One line that a program sent.
#[derive(Debug, PartialEq, Eq)]
pub enum Line {
    /// Its text, invalid UTF-8 replaced.
    Text(String),
    /// It had more than [`LINE_BYTES_MAX`] bytes, which were thrown away.
    Overlong,
}

impl Lines {
    /// Takes bytes and hands out the lines that they complete; carriage returns count for nothing.
    pub fn feed(&mut self, bytes: &[u8]) -> Vec<Line> {
        let mut done = Vec::new();
        for byte in bytes {
            match byte {
                b'\n' if std::mem::take(&mut self.overlong) => done.push(Line::Overlong),
                b'\n' => {
                    let line = std::mem::take(&mut self.pending);
                    done.push(Line::Text(String::from_utf8_lossy(&line).into_owned()));
                }
                b'\r' => {}
                _ if self.overlong => {}
                _ if self.pending.len() >= LINE_BYTES_MAX => {
                    self.pending = Vec::new();
                    self.overlong = true;
                }
                byte => self.pending.push(*byte),
            }
        }
        done
    }
}

/// Writes to a descriptor that may not wait: polls until it takes bytes, up to a limit.
pub struct Patient<'f> {
    file: &'f File,
    limit: Duration,
}

impl<'f> Patient<'f> {
    /// Gives up with `TimedOut` when nothing was taken for `limit`.
    pub fn new(file: &'f File, limit: Duration) -> Self {
        Self { file, limit }
    }
}

impl Write for Patient<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        use std::os::fd::AsFd;
        loop {
            let mut file = self.file;
            match file.write(bytes) {
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                    if !sys::terminal::writable(self.file.as_fd(), self.limit)? {
                        return Err(io::ErrorKind::TimedOut.into());
                    }
                }
                other => return other,
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A program watches: the next line that it sends ends what follows something.
struct Program<'f> {
    line: &'f File,
    /// Whether that line is here already.
    more: bool,
}

impl Attention for Program<'_> {
    fn wait(&mut self, limit: Duration) -> bool {
        self.more || readable(self.line, limit)
    }

    fn pause(&mut self, limit: Duration) -> bool {
        std::thread::sleep(limit);
        false
    }

    fn confirm(&mut self, _question: &str) -> bool {
        true
    }

    fn follow_limit(&self) -> Duration {
        FOLLOW_LIMIT
    }
}

/// Answers lines until the far end is gone.
///
/// # Errors
/// As `read(2)` and `write(2)`; an end of file is `Ok`.
pub fn serve(line: &File, site: &Site) -> io::Result<()> {
    let mut lines = Lines::default();
    while let Some(sent) = receive(line, &mut lines)? {
        for (at, text) in sent.iter().enumerate() {
            let more = at + 1 < sent.len();
            answer(Program { line, more }, text, site)?;
        }
    }
    Ok(())
}

/// Answers every line with a refusal, until the far end is gone (`vb.console_mode=off`).
///
/// # Errors
/// As [`serve`].
pub fn refuse(line: &File) -> io::Result<()> {
    let mut lines = Lines::default();
    while let Some(sent) = receive(line, &mut lines)? {
        for _ in sent {
            let mut sink = BufWriter::new(Patient::new(line, WRITE_LIMIT));
            writeln!(sink, "console is off: vb.console_mode is off")?;
            close(&mut sink, commands::FAILED)?;
        }
    }
    Ok(())
}

/// Waits for bytes and hands out the lines that they complete; `None` at the end of file.
fn receive(line: &File, lines: &mut Lines) -> io::Result<Option<Vec<Line>>> {
    let mut buf = [0u8; READ_BYTES];
    loop {
        let mut input = line;
        match input.read(&mut buf) {
            Ok(0) => return Ok(None),
            Ok(n) => return Ok(Some(lines.feed(buf.get(..n).unwrap_or_default()))),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                readable(line, IDLE);
            }
            Err(e) => return Err(e),
        }
    }
}

/// Runs one line and closes its answer.
fn answer(mut program: Program<'_>, sent: &Line, site: &Site) -> io::Result<()> {
    let mut sink = BufWriter::new(Patient::new(program.line, WRITE_LIMIT));
    let code = match sent {
        Line::Text(text) => {
            let mut context = Context::new(site, &mut program);
            commands::run_line(text, &mut context, &mut sink)
        }
        Line::Overlong => {
            let failure = commands::Failure::usage(format!("over {LINE_BYTES_MAX} bytes"));
            commands::report("line", &failure, false, &mut sink)
        }
    };
    close(&mut sink, code)
}

fn close(sink: &mut dyn Write, code: u8) -> io::Result<()> {
    sink.write_all(&[TERMINATOR])?;
    writeln!(sink, "{code}")?;
    sink.flush()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn text(line: &str) -> Line {
        Line::Text(line.to_owned())
    }

    #[test]
    fn lines_end_at_line_feeds_however_the_bytes_arrive() {
        let mut lines = Lines::default();
        assert_eq!(lines.feed(b"stat"), []);
        assert_eq!(lines.feed(b"us\r\n\nbe"), [text("status"), text("")]);
        assert_eq!(lines.feed(b"at\n"), [text("beat")]);
    }

    #[test]
    fn a_line_without_an_end_is_thrown_away_and_said_so() {
        let mut lines = Lines::default();
        assert_eq!(lines.feed(&vec![b'x'; LINE_BYTES_MAX + 5]), []);
        assert!(lines.pending.is_empty());
        assert_eq!(
            lines.feed(b"yy\nstatus\n"),
            [Line::Overlong, text("status")]
        );
        let mut whole = vec![b'x'; LINE_BYTES_MAX];
        whole.push(b'\n');
        assert_eq!(lines.feed(&whole).len(), 1);
    }

    proptest! {
        #[test]
        fn every_line_feed_closes_one_line(data in proptest::collection::vec(any::<u8>(), 0..600), at in any::<proptest::sample::Index>()) {
            let cut = at.index(data.len() + 1);
            let mut lines = Lines::default();
            let mut all = lines.feed(&data[..cut]);
            all.extend(lines.feed(&data[cut..]));
            prop_assert_eq!(all.len(), data.iter().filter(|b| **b == b'\n').count());
            prop_assert_eq!(all, Lines::default().feed(&data));
        }
    }
}
