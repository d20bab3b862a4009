//! The console for people: prompt, line editor, completion, notices above the line being edited.
//!
//! Owns the terminal while the process lives. Three threads: this one reads keys and runs commands,
//! [`super::programs`] serves the machine console, and a watcher asks PID 1 for what a person should
//! see unasked: that the machine is ready, warnings, and checkpoints of the log.
//!
//! Start with [`main`].

use super::commands::{self, Completes, machine, model, services};
use super::context::{Attention, Context, Held, Power, Site, readable, run_folder};
use super::editor::{Action, Editor};
use super::keys::{Keys, Stoppable};
use super::programs::{self, Patient};
use super::screen::{COLUMNS_DEFAULT, Screen};
use super::text;
use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::process::ExitCode;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::time::{Duration, Instant};
use sys::inherit::Inherited;
use sys::terminal::{LineFeeds, Raw};
use wire::control::{LogGet, LogLine, Param, ParamsGet};

/// The prompt.
const PROMPT: &str = "vb> ";
/// Between two looks for notices: a person does not see the difference, an idle machine does.
const TICK: Duration = Duration::from_millis(250);
/// Between two questions of the watcher.
const WATCH: Duration = Duration::from_millis(500);
/// Between two tries to reach a PID 1 that does not answer.
const RETRY: Duration = Duration::from_secs(2);
/// Longest wait for the machine to settle before the prompt comes anyway.
const SETTLE_LIMIT: Duration = Duration::from_secs(60);
/// Looks in a row that must find the machine degraded: as for `ready`.
const SETTLED_LOOKS: u32 = 3;
/// Notices not yet shown; more are counted and dropped.
const NOTICES_MAX: usize = 64;
/// Log lines asked for at once.
const LOG_LINES: u32 = 500;
/// Worst syslog level that stays off the console: 4 is a warning.
const LEVEL_SHOWN: u8 = 4;
/// How long the terminal may leave output untaken.
const WRITE_LIMIT: Duration = Duration::from_secs(30);
/// A terminal that fails sooner than this was never one (`ttyS0` of some arm64 machines).
const STILLBORN: Duration = Duration::from_secs(5);
/// Completions listed at most.
const LISTED_MAX: usize = 60;

/// What the console does, by `vb.console_mode`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mode {
    On(Power),
    Off,
}

/// Runs the console role: on the descriptors that PID 1 passed, or on stdin and stdout with `--tty`.
pub fn main(words: &[OsString]) -> ExitCode {
    let mut inherited = Inherited::take();
    let own = words.iter().any(|w| w == "--tty");
    if let Some(other) = words.iter().find(|w| *w != "--tty") {
        eprintln!(
            "console: unexpected word {}; usage: console [--tty]",
            other.display()
        );
        return ExitCode::from(commands::USAGE);
    }
    let tty = inherited.remove("tty");
    let program = inherited.remove("machine");
    let held = Held::of(&mut inherited, &["token", "rts", "sensors"]);
    let site = Site::new(run_folder(), held);
    match (own, tty) {
        (true, _) => match io::stdin().as_fd().try_clone_to_owned() {
            Ok(stdin) => run(site, Some(stdin), program),
            Err(e) => {
                eprintln!("console: error: stdin: {e}");
                ExitCode::from(commands::FAILED)
            }
        },
        (false, None) if program.is_none() => {
            eprintln!("console: neither tty nor machine among the descriptors; use --tty by hand");
            ExitCode::from(commands::USAGE)
        }
        (false, tty) => run(site, tty, program),
    }
}

/// Serves both consoles until one that worked is gone.
fn run(mut site: Site, tty: Option<OwnedFd>, program: Option<OwnedFd>) -> ExitCode {
    // PID 1 counts the console as up from here; without a notify socket nobody asked.
    if let Err(e) = sys::inherit::notify("READY=1") {
        eprintln!("console: warning: notify: {e}");
    }
    let mode = mode(&site);
    if let Mode::On(power) = mode {
        site.power = power;
    }
    let served = program.map(|fd| {
        let site = site.clone();
        std::thread::spawn(move || serve_programs(&File::from(fd), &site, mode))
    });
    let begun = Instant::now();
    if let Some(tty) = tty {
        let terminal = File::from(tty);
        match serve_person(&terminal, &site, mode) {
            Ok(()) => {
                eprintln!("console: the terminal closed");
                return ExitCode::SUCCESS;
            }
            Err(e) if served.is_none() || begun.elapsed() > STILLBORN => {
                eprintln!("console: error: terminal: {e}");
                return ExitCode::from(commands::FAILED);
            }
            Err(e) => {
                eprintln!("console: warning: no serial console: {e}; the machine console stays")
            }
        }
    }
    if let Some(thread) = served {
        // A panic there is as good a reason for a restart as its end.
        let _ = thread.join();
    }
    ExitCode::from(commands::FAILED)
}

fn serve_programs(line: &File, site: &Site, mode: Mode) {
    // What is no terminal (a socket, a pipe) needs no raw mode.
    let _raw = Raw::enter(line.as_fd(), LineFeeds::Plain);
    let done = match mode {
        Mode::On(_) => programs::serve(line, site),
        Mode::Off => programs::refuse(line),
    };
    match done {
        Ok(()) => eprintln!("console: warning: the machine console closed"),
        Err(e) => eprintln!("console: warning: machine console: {e}"),
    }
}

/// `vb.console_mode`, asked until PID 1 answers once.
fn mode(site: &Site) -> Mode {
    let until = Instant::now() + SETTLE_LIMIT;
    loop {
        let mut value = String::new();
        let asked = site.init().and_then(|mut server| {
            server.list(&ParamsGet, |frame| {
                let param = frame.body::<Param<'_>>()?;
                if param.key == "vb.console_mode" {
                    value = param.value.to_owned();
                }
                Ok(())
            })
        });
        match (asked, value.as_str()) {
            (Ok(()), "off") => return Mode::Off,
            (Ok(()), "readonly") => return Mode::On(Power::ReadOnly),
            (Ok(()), "full" | "") => return Mode::On(Power::Full),
            (Ok(()), other) => {
                eprintln!(
                    "console: warning: vb.console_mode is \"{other}\", one of full, readonly, off; taken as readonly"
                );
                return Mode::On(Power::ReadOnly);
            }
            // Nobody can change anything without PID 1, so looking is all that is left anyway.
            (Err(e), _) if Instant::now() > until => {
                eprintln!("console: warning: {e}; readonly");
                return Mode::On(Power::ReadOnly);
            }
            (Err(_), _) => std::thread::sleep(TICK),
        }
    }
}

/// A person at the terminal: a key ends what follows something, and drills are asked about.
struct Person<'k, 'f> {
    terminal: &'f File,
    keys: &'k Keys<'f>,
}

impl Attention for Person<'_, '_> {
    fn wait(&mut self, limit: Duration) -> bool {
        let pressed = self.keys.is_stopped() || self.keys.wait(limit);
        if pressed {
            self.keys.forget();
        }
        pressed
    }

    fn pause(&mut self, limit: Duration) -> bool {
        self.wait(limit)
    }

    fn confirm(&mut self, question: &str) -> bool {
        let mut sink = Patient::new(self.terminal, WRITE_LIMIT);
        if write!(sink, "{} [y/N] ", text::clean(question)).is_err() {
            return false;
        }
        let yes = self.keys.wait(SETTLE_LIMIT) && matches!(self.keys.next(), Ok(Some(b'y' | b'Y')));
        writeln!(sink, "{}", if yes { "yes" } else { "no" }).is_ok() && yes
    }

    fn follow_limit(&self) -> Duration {
        Duration::MAX
    }
}

/// The terminal with its line being edited.
struct Shell<'s> {
    terminal: &'s File,
    keys: Keys<'s>,
    site: &'s Site,
    editor: Editor,
    screen: Screen,
}

pub(super) fn serve_person(terminal: &File, site: &Site, mode: Mode) -> io::Result<()> {
    let raw = Raw::enter(terminal.as_fd(), LineFeeds::Translated);
    if let Err(e) = &raw
        && e.raw_os_error() == Some(IO_ERROR)
    {
        return Err(io::Error::other("is no terminal"));
    }
    let columns = sys::terminal::columns(terminal.as_fd()).map_or(COLUMNS_DEFAULT, usize::from);
    let mut shell = Shell {
        terminal,
        keys: Keys::of(terminal),
        site,
        editor: Editor::default(),
        screen: Screen::new(columns),
    };
    shell.put(&format!("\nVector Boot {}\n", env!("CARGO_PKG_VERSION")))?;
    if mode == Mode::Off {
        shell.put("The console is off (vb.console_mode=off).\n")?;
        return shell.ignore();
    }
    let (sender, notices) = sync_channel(NOTICES_MAX);
    let watched = site.clone();
    std::thread::spawn(move || watch(&watched, &sender));
    shell.until_settled(&notices)?;
    shell.converse(&notices)
}

/// EIO of errno(3): what the driver of a port that does not exist answers.
const IO_ERROR: i32 = 5;

impl Shell<'_> {
    fn put(&mut self, bytes: &str) -> io::Result<()> {
        Patient::new(self.terminal, WRITE_LIMIT).write_all(bytes.as_bytes())
    }

    /// Reads keys and does nothing with them, until the terminal is gone.
    fn ignore(&mut self) -> io::Result<()> {
        while self.keys.next()?.is_some() {}
        Ok(())
    }

    /// Holds the prompt back until the machine has settled, a key is pressed, or the wait is over.
    fn until_settled(&mut self, notices: &Receiver<Notice>) -> io::Result<()> {
        let until = Instant::now() + SETTLE_LIMIT;
        while Instant::now() < until && !readable(self.terminal, Duration::ZERO) {
            // Nobody can press a key that is not there: a watcher that ended has nothing more to say.
            let Ok(notice) = notices.recv_timeout(TICK) else {
                continue;
            };
            self.put(notice.text())?;
            if matches!(notice, Notice::Settled(_)) {
                break;
            }
        }
        self.draw()
    }

    fn converse(&mut self, notices: &Receiver<Notice>) -> io::Result<()> {
        loop {
            if self.keys.wait(TICK) {
                loop {
                    let Some(key) = self.keys.next()? else {
                        return Ok(());
                    };
                    if let Some(action) = self.editor.feed(key) {
                        let leave = self.act(action)?;
                        if leave {
                            return Ok(());
                        }
                    }
                    if !self.keys.is_ahead() {
                        break;
                    }
                }
                self.draw()?;
            }
            self.above(notices)?;
        }
    }

    /// Shows what the watcher found above the line being edited.
    fn above(&mut self, notices: &Receiver<Notice>) -> io::Result<()> {
        let found: String = notices.try_iter().map(|n| n.text().to_owned()).collect();
        if found.is_empty() {
            return Ok(());
        }
        let wiped = self.screen.wipe();
        self.put(&format!("{wiped}{found}"))?;
        self.draw()
    }

    fn draw(&mut self) -> io::Result<()> {
        let (line, cursor) = self.editor.line();
        let bytes = self.screen.draw(PROMPT, line, cursor);
        self.put(&bytes)
    }

    /// Leaves the row of the prompt for a new one.
    fn new_row(&mut self) -> io::Result<()> {
        self.screen.forget();
        self.put("\n")
    }

    fn act(&mut self, action: Action) -> io::Result<bool> {
        match action {
            Action::Submit(line) => {
                let bytes = self.screen.draw(PROMPT, &line, line.len());
                self.put(&bytes)?;
                self.new_row()?;
                self.run(&line)?;
            }
            Action::Complete => self.complete()?,
            Action::Cancel => {
                self.put("^C")?;
                self.new_row()?;
            }
            Action::Leave if self.site.held.is_empty() => {
                // By hand the process ends; on the appliance PID 1 would only start it again.
                self.new_row()?;
                return Ok(true);
            }
            Action::Leave => self.put("\x07")?,
            Action::Clear => {
                self.screen.forget();
                self.put("\x1b[H\x1b[2J")?;
            }
            Action::Bell => self.put("\x07")?,
        }
        Ok(false)
    }

    fn run(&mut self, line: &str) -> io::Result<()> {
        let mut person = Person {
            terminal: self.terminal,
            keys: &self.keys,
        };
        self.keys.begin();
        let mut context = Context::new(self.site, &mut person);
        let mut sink = io::LineWriter::new(Stoppable::new(&self.keys, WRITE_LIMIT));
        commands::run_line(line, &mut context, &mut sink);
        let flushed = sink.flush();
        drop(sink);
        if self.keys.is_stopped() {
            self.put("^C\n")
        } else {
            flushed
        }
    }

    fn complete(&mut self) -> io::Result<()> {
        let before = self.editor.before_cursor().to_owned();
        let options = candidates(&before, |what| match what {
            Completes::Service => services::names(self.site),
            Completes::Tensor => model::names(self.site),
            Completes::Command => commands::all().map(|c| c.name.to_owned()).collect(),
            Completes::Words(words) => words.iter().map(|w| (*w).to_owned()).collect(),
        });
        let typed = before
            .rsplit(char::is_whitespace)
            .next()
            .unwrap_or_default();
        let (insert, list) = completion(typed, &options);
        if insert.is_empty() && list.is_empty() {
            return self.put("\x07");
        }
        if !list.is_empty() {
            self.new_row()?;
            let shown = list
                .iter()
                .take(LISTED_MAX)
                .cloned()
                .collect::<Vec<_>>()
                .join("  ");
            let more = list.len().saturating_sub(LISTED_MAX);
            let mut lines = text::wrap(&shown, text::WIDTH, "");
            if more > 0 {
                lines.push(format!("and {more} more"));
            }
            self.put(&(lines.join("\n") + "\n"))?;
        }
        if !self.editor.insert(&insert) {
            self.put("\x07")?;
        }
        Ok(())
    }
}

/// Words that may stand where the text before the cursor ends.
fn candidates(before: &str, mut of: impl FnMut(Completes) -> Vec<String>) -> Vec<String> {
    let words: Vec<&str> = before.split_whitespace().collect();
    let begins_new = before.is_empty() || before.ends_with(char::is_whitespace);
    let place = words.len().saturating_sub(usize::from(!begins_new));
    let (Some(name), Some(at)) = (words.first(), place.checked_sub(1)) else {
        return of(Completes::Command);
    };
    let completes = commands::find(name).and_then(|c| c.completes.get(at));
    let found = completes.map(|what| of(*what)).unwrap_or_default();
    let tidy =
        |w: &String| !w.is_empty() && !w.chars().any(|c| c.is_whitespace() || text::is_unsafe(c));
    found.into_iter().filter(tidy).collect()
}

/// What to insert behind `typed`, and what to list where that does not decide.
fn completion(typed: &str, options: &[String]) -> (String, Vec<String>) {
    let mut fitting: Vec<&String> = options.iter().filter(|o| o.starts_with(typed)).collect();
    fitting.sort();
    fitting.dedup();
    let Some(first) = fitting.first() else {
        return (String::new(), Vec::new());
    };
    let common = fitting.iter().fold(first.as_str(), |common, option| {
        let same = common
            .chars()
            .zip(option.chars())
            .take_while(|(a, b)| a == b);
        let bytes = same.map(|(a, _)| a.len_utf8()).sum();
        common.get(..bytes).unwrap_or_default()
    });
    let insert = common.get(typed.len()..).unwrap_or_default();
    match fitting.as_slice() {
        [_] => (format!("{insert} "), Vec::new()),
        _ if !insert.is_empty() => (insert.to_owned(), Vec::new()),
        several => (
            String::new(),
            several.iter().map(|o| (*o).clone()).collect(),
        ),
    }
}

/// How lines of the ledger begin that a person sees unasked.
const ANNOUNCED: [&str; 2] = ["ledger checkpoint: ", "ledger key: "];

/// What a person should see unasked: whole lines.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Notice {
    /// The machine has settled; the summary.
    Settled(String),
    /// A log line at warning or worse.
    Warning(String),
}

impl Notice {
    fn text(&self) -> &str {
        match self {
            Self::Settled(text) | Self::Warning(text) => text,
        }
    }
}

/// Asks PID 1 for what a person should see unasked, for as long as somebody listens.
fn watch(site: &Site, notices: &SyncSender<Notice>) {
    let mut settled = false;
    let mut degraded_looks = 0;
    let (mut last, mut dropped) = (None, 0u64);
    loop {
        // Where the log stands comes before the look: what is written after it is not missed.
        match warnings(site, last) {
            Ok((lines, seen)) => {
                last = Some(seen);
                // Before the machine has settled, the summary will say what is wrong; of checkpoints it says nothing.
                let shown = |line: &String| settled || announces(line);
                for line in lines.into_iter().filter(shown) {
                    match notices.try_send(Notice::Warning(line)) {
                        Ok(()) => {}
                        Err(TrySendError::Full(_)) => dropped += 1,
                        Err(TrySendError::Disconnected(_)) => return,
                    }
                }
                if dropped > 0 && notices.try_send(missed(dropped)).is_ok() {
                    dropped = 0;
                }
            }
            Err(_) => {
                std::thread::sleep(RETRY);
                continue;
            }
        }
        if !settled {
            let look = machine::look(site);
            degraded_looks = match look {
                Ok(machine::Look::Degraded(_)) => degraded_looks + 1,
                _ => 0,
            };
            settled = matches!(look, Ok(machine::Look::Ready)) || degraded_looks >= SETTLED_LOOKS;
            let ended = settled && notices.send(Notice::Settled(settled_notice(site))).is_err();
            if ended {
                return;
            }
        }
        std::thread::sleep(if settled { WATCH } else { TICK });
    }
}

/// Says how many warnings nobody saw.
fn missed(dropped: u64) -> Notice {
    Notice::Warning(format!("{dropped} more warnings: log\n"))
}

/// The summary, and how to go on.
fn settled_notice(site: &Site) -> String {
    let mut lines = machine::summary(site).unwrap_or_else(|e| vec![e.to_string()]);
    lines = lines.iter().map(|line| text::clean(line)).collect();
    let leave = if in_qemu(site) {
        " \u{b7} Ctrl-A X leaves QEMU"
    } else {
        ""
    };
    lines.push(format!("help \u{b7} poweroff{leave}"));
    lines.join("\n") + "\n"
}

/// Whether this machine is QEMU's, by what its firmware calls itself.
fn in_qemu(site: &Site) -> bool {
    let says = |path: &str, word: &str| {
        let text = super::context::small_file(&site.sys.join(path)).unwrap_or_default();
        text.contains(word)
    };
    site.sys.join("firmware/qemu_fw_cfg").exists()
        || says("class/dmi/id/sys_vendor", "QEMU")
        || says("firmware/devicetree/base/compatible", "dummy-virt")
}

/// A checkpoint of the ledger's, or the key that checks it: on this line they are out of the machine's own reach.
fn is_checkpoint(line: &LogLine<'_>) -> bool {
    line.name == "ledger" && ANNOUNCED.iter().any(|begins| line.text.starts_with(begins))
}

/// Whether a line that was found to be shown is a checkpoint or its key, and no warning.
fn announces(line: &str) -> bool {
    ANNOUNCED.iter().any(|begins| line.contains(begins))
}

/// Log lines at warning or worse, and checkpoints, behind `last`; with `None` only where the log stands.
fn warnings(site: &Site, last: Option<u64>) -> Result<(Vec<String>, u64), commands::Failure> {
    let mut found = Vec::new();
    let mut seen = last.unwrap_or(0);
    let (lines, after) = last.map_or((1, 0), |last| (LOG_LINES, last));
    site.init()?.list(
        &LogGet {
            name: "",
            lines,
            after,
        },
        |frame| {
            let line = frame.body::<LogLine<'_>>()?;
            seen = seen.max(line.seq);
            if last.is_some() && (line.level <= LEVEL_SHOWN || is_checkpoint(&line)) {
                found.push(text::clean(&services::log_line(&line)) + "\n");
            }
            Ok(())
        },
    )?;
    Ok((found, seen))
}
