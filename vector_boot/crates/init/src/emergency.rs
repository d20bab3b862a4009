//! The emergency console: what a person at the machine finds when nothing else can run.
//!
//! PID 1 itself, and its last code path: it needs no service, no helper, no package and no disk.
//! Everything that still runs is ended first, so that the terminals are free. Then it answers on the
//! serial line and on the machine console, reaps children, feeds the watchdog and obeys the signals
//! that end a machine. It never returns.
//!
//! Never here: waiting for a disk or a terminal without a limit, a panic, a shell.
//! Start with [`enter`].

use crate::early;
use crate::params::{CommandLine, Params};
use crate::state::{Fixed, Lines};
use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};
use sys::events::{Interest, Poller, Signals};
use sys::machine::{self, Power};
use sys::terminal::{self, LineFeeds};
use sys::watchdog::Watchdog;

/// How long those who still run may take to end by themselves, and then to be gone.
const END_LIMIT: Duration = Duration::from_secs(2);
/// How long dirty pages may take to reach the disks: a disk that is there needs less.
pub(crate) const FLUSH_LIMIT: Duration = Duration::from_secs(10);
/// How long one answer may wait for a terminal that takes nothing.
const PUT_LIMIT: Duration = Duration::from_secs(2);
/// Between two turns without a key: the watchdog's shortest usual limit is ten times as long.
const TURN: Duration = Duration::from_secs(1);
/// Between two tries to open a terminal that is gone.
const REOPEN: Duration = Duration::from_secs(5);
/// A command is a word and a number.
const LINE_BYTES_MAX: usize = 256;
/// Bytes of one answer; a kernel's log is cut to its end.
const ANSWER_BYTES_MAX: usize = 64 * 1024;
/// Reasons that are kept.
const REASONS_MAX: usize = 24;
/// Lines of a log without a number, and at most.
const LINES_USUAL: usize = 40;
const LINES_MAX: usize = 500;
/// Dead children taken in one turn.
const REAP_A_TURN: usize = 512;

const PROMPT: &str = "emergency> ";
const HELP: &str = "\
why, status  why the machine is here
dmesg [N]    the kernel's log, the last 40 or N lines
log [N]      what PID 1 and the services said
params       parameters in force
mounts       what is mounted where
reboot, poweroff, halt
help         this list
";

/// What the boot leaves here for the worst case.
struct Left {
    log: Option<Lines>,
    watchdog: Option<Watchdog>,
    mode: &'static str,
}

static LEFT: Mutex<Left> = Mutex::new(Left {
    log: None,
    watchdog: None,
    mode: "",
});

fn left() -> std::sync::MutexGuard<'static, Left> {
    // A defect while it was held leaves it as whole as before: each field is set at once.
    LEFT.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The log's ring, to be read after a defect.
pub(crate) fn leave_log(lines: Option<Lines>) {
    left().log = lines;
}

/// The watchdog, to be fed while a person looks.
pub(crate) fn leave_watchdog(watchdog: Option<&Watchdog>) {
    left().watchdog = watchdog.and_then(|w| w.try_clone().ok());
}

/// What a person may do: `vb.console_mode`, which binds here too.
pub(crate) fn leave_mode(mode: &str) {
    left().mode = match mode {
        "off" => "off",
        "readonly" => "readonly",
        _ => "full",
    };
}

/// Ends what still runs and does as `vb.emergency` says. Never returns: PID 1 never exits.
pub(crate) fn enter(reasons: &[String]) -> ! {
    // Whatever brought us here may have left nothing to read parameters from, and no terminals.
    early::mount_again(&mut early::Report::default());
    let line = early::command_line();
    // Each value of `vb.emergency` is at least as closed as its default.
    let params = Params::new([], &line, CommandLine::Wins);
    let how = match params.get("vb.emergency") {
        "reboot" => Some(Power::Reboot),
        "halt" => Some(Power::Halt),
        _ => None,
    };
    let mut lines = terminals(&params);
    let mut said = String::from("\nvector_boot: emergency\n");
    for reason in reasons.iter().take(REASONS_MAX) {
        let _ = writeln!(said, "  {}", clean(reason));
    }
    end_everybody();
    for line in lines.iter_mut().filter(|l| !l.plain) {
        line.open();
        line.put(said.as_bytes());
    }
    // Without any of these it stays as it is: then a reset is all that helps.
    let _ = machine::catch_ctrl_alt_del();
    if let Some(how) = how {
        power(how, &mut lines);
    }
    let mut desk = Desk::new(reasons, params);
    desk.serve(&mut lines)
}

/// The serial line, and the machine console where that is another.
fn terminals(params: &Params) -> Vec<Terminal> {
    let mut report = early::Report::default();
    let serial = early::console_name(params, &mut report);
    let mut lines = Vec::with_capacity(2);
    if serial != "hvc0" {
        lines.push(Terminal::new("hvc0", true));
    }
    lines.push(Terminal::new(&serial, false));
    lines
}

/// SIGTERM, a moment, SIGKILL, a moment: a process in the kernel's hands is left to it.
fn end_everybody() {
    const SIGTERM: i32 = 15;
    const SIGKILL: i32 = 9;
    for signal in [SIGTERM, SIGKILL] {
        if !sys::process::has_children() {
            return;
        }
        sys::process::signal_everybody(signal);
        let until = Instant::now() + END_LIMIT;
        while sys::process::has_children() && Instant::now() < until {
            reap();
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

fn reap() {
    for _ in 0..REAP_A_TURN {
        match sys::process::reap() {
            Ok(Some(_)) => {}
            Ok(None) | Err(_) => return,
        }
    }
}

/// Flushes, makes the disks read-only and ends the machine; returns where the kernel refuses.
fn power(how: Power, lines: &mut [Terminal]) {
    let flushed = machine::within(FLUSH_LIMIT, || {
        machine::sync();
        let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
        for target in mounts.lines().filter_map(disk_mount) {
            // What cannot be made read-only was flushed at least.
            let _ = machine::remount_read_only(Path::new(target));
        }
    });
    let word = match how {
        Power::Reboot => "rebooting",
        Power::Off => "power off",
        Power::Halt => "halted",
    };
    let mut text = Fixed::<128>::of(format_args!("vector_boot: {word}\n"));
    if !flushed {
        text = Fixed::of(format_args!(
            "vector_boot: {word}; a disk takes no data, what was not flushed is lost\n"
        ));
    }
    let tell = |lines: &mut [Terminal], text: &str| {
        for line in lines.iter_mut().filter(|l| !l.plain) {
            line.put(text.as_bytes());
        }
    };
    tell(lines, text.as_str());
    let error = machine::end(how);
    let text = Fixed::<128>::of(format_args!("vector_boot: {word}: {error}\n"));
    tell(lines, text.as_str());
}

/// Where a line of `/proc/self/mounts` mounts a disk.
fn disk_mount(line: &str) -> Option<&str> {
    let mut words = line.split(' ');
    let source = words.next()?;
    words.next().filter(|_| source.starts_with("/dev/"))
}

/// One line to a person or a program.
struct Terminal {
    name: String,
    /// Bytes for programs: no echo, no prompt, a terminator behind each answer.
    plain: bool,
    file: Option<File>,
    tried: Option<Instant>,
    typed: heapless::Vec<u8, LINE_BYTES_MAX>,
    too_long: bool,
}

impl Terminal {
    fn new(name: &str, plain: bool) -> Self {
        Self {
            name: name.to_owned(),
            plain,
            file: None,
            tried: None,
            typed: heapless::Vec::new(),
            too_long: false,
        }
    }

    /// Opens it if it is not, now and then. The kernel's own console takes the serial line's place.
    fn open(&mut self) -> bool {
        let now = Instant::now();
        let rests = |at: Instant| now.saturating_duration_since(at) < REOPEN;
        if self.file.is_some() || self.tried.is_some_and(rests) {
            return false;
        }
        self.tried = Some(now);
        let file = match early::open_terminal(&self.name) {
            Ok(file) => Some(file),
            Err(_) if self.plain => None,
            Err(_) => inherited().ok(),
        };
        if let Some(file) = &file {
            let feeds = if self.plain {
                LineFeeds::Plain
            } else {
                LineFeeds::Translated
            };
            // What is no terminal takes lines as they come.
            let _ = terminal::cook(file.as_fd(), feeds);
        }
        self.file = file;
        self.file.is_some()
    }

    /// Writes for a limited time; what a terminal does not take by then is lost.
    fn put(&mut self, mut bytes: &[u8]) {
        let until = Instant::now() + PUT_LIMIT;
        while let (Some(file), false) = (&mut self.file, bytes.is_empty()) {
            match file.write(bytes) {
                Ok(0) => return,
                Ok(n) => bytes = bytes.get(n..).unwrap_or_default(),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                    let wait = until.saturating_duration_since(Instant::now());
                    if wait.is_zero() || terminal::writable(file.as_fd(), wait).is_err() {
                        return;
                    }
                }
                Err(_) => return self.file = None,
            }
        }
    }

    /// The next whole line that was typed, if there is one; `Err` for one that is too long.
    fn line(&mut self) -> Option<Result<String, ()>> {
        let mut byte = [0u8; 1];
        // Bounded: a terminal hands over one line at a time, a stranger's bytes end with the limit.
        for _ in 0..=LINE_BYTES_MAX {
            match self.file.as_mut()?.read(&mut byte) {
                Ok(0) => {
                    self.file = None;
                    return None;
                }
                Ok(_) => {}
                Err(e)
                    if matches!(
                        e.kind(),
                        io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted
                    ) =>
                {
                    return None;
                }
                Err(_) => {
                    self.file = None;
                    return None;
                }
            }
            match byte {
                [b'\n' | b'\r'] => {
                    let line = String::from_utf8_lossy(&self.typed).into_owned();
                    self.typed.clear();
                    let whole = !std::mem::take(&mut self.too_long);
                    return Some(whole.then_some(line).ok_or(()));
                }
                [byte] => self.too_long |= self.typed.push(byte).is_err(),
            }
        }
        None
    }
}

/// What the kernel gave us as stdin: `/dev/console`.
fn inherited() -> io::Result<File> {
    let fd: OwnedFd = io::stdin().as_fd().try_clone_to_owned()?;
    sys::inherit::set_nonblocking(fd.as_fd())?;
    Ok(fd.into())
}

/// What a command said, its exit code, and what is to follow.
struct Reply {
    text: String,
    code: u8,
    power: Option<Power>,
}

/// Answers commands.
struct Desk<'r> {
    reasons: &'r [String],
    params: Params,
    mode: &'static str,
}

impl<'r> Desk<'r> {
    fn new(reasons: &'r [String], params: Params) -> Self {
        let mut mode = left().mode;
        if mode.is_empty() {
            leave_mode(params.get("vb.console_mode"));
            mode = left().mode;
        }
        Self {
            reasons,
            params,
            mode,
        }
    }

    fn serve(&mut self, lines: &mut [Terminal]) -> ! {
        const SIGINT: i32 = 2;
        const SIGUSR1: i32 = 10;
        const SIGUSR2: i32 = 12;
        const SIGTERM: i32 = 15;
        const SIGCHLD: i32 = 17;
        let mut signals = Signals::new(&[SIGINT, SIGUSR1, SIGUSR2, SIGTERM, SIGCHLD]).ok();
        let mut poller = Poller::new().ok();
        if let (Some(poller), Some(signals)) = (&poller, &signals) {
            // Unwatched they are still looked at in each turn.
            let _ = poller.add(signals.as_fd(), 0, Interest::Read);
        }
        for line in lines.iter_mut() {
            self.greet(line, poller.as_ref());
        }
        loop {
            let waited = poller.as_mut().map(|p| p.wait(Some(TURN)));
            if !matches!(waited, Some(Ok(_))) {
                std::thread::sleep(Duration::from_millis(50));
            }
            reap();
            if let Some(watchdog) = &mut left().watchdog {
                // One that takes nothing will bite, which is what it is for.
                let _ = watchdog.feed();
            }
            while let Some((signal, _)) = signals.as_mut().and_then(Signals::take) {
                match signal {
                    SIGINT | SIGTERM => power(Power::Reboot, lines),
                    SIGUSR1 => power(Power::Halt, lines),
                    SIGUSR2 => power(Power::Off, lines),
                    _ => {}
                }
            }
            let mut end = None;
            for line in lines.iter_mut() {
                if line.open() {
                    self.greet(line, poller.as_ref());
                }
                end = end.or(self.go_on(line));
            }
            if let Some(how) = end {
                power(how, lines);
            }
        }
    }

    /// Watches a terminal and shows the prompt.
    fn greet(&self, line: &mut Terminal, poller: Option<&Poller>) {
        line.open();
        if let (Some(poller), Some(file)) = (poller, &line.file) {
            // Watched already, or looked at in each turn.
            let _ = poller.add(file.as_fd(), 1, Interest::Read);
        }
        if !line.plain {
            line.put(b"type help\n");
            line.put(PROMPT.as_bytes());
        }
    }

    /// Answers what was typed; how the machine is to end, if somebody said so.
    fn go_on(&self, line: &mut Terminal) -> Option<Power> {
        let typed = line.line()?;
        let mut reply = match typed {
            Ok(typed) => self.answer(typed.trim()),
            Err(()) => refused(format_args!("line: limit {LINE_BYTES_MAX} bytes")),
        };
        if reply.text.len() > ANSWER_BYTES_MAX {
            let from = reply.text.len() - ANSWER_BYTES_MAX;
            let from = (from..reply.text.len()).find(|at| reply.text.is_char_boundary(*at));
            reply.text = reply.text.split_off(from.unwrap_or(0));
        }
        if line.plain {
            let _ = writeln!(reply.text, "\u{1e}{}", reply.code);
        } else {
            reply.text.push_str(PROMPT);
        }
        line.put(reply.text.as_bytes());
        reply.power
    }

    fn answer(&self, typed: &str) -> Reply {
        let mut words = typed.split_whitespace();
        let (word, more) = (words.next().unwrap_or_default(), words.next());
        if self.mode == "off" && !word.is_empty() {
            return refused(format_args!("{word}: vb.console_mode is off"));
        }
        if words.next().is_some() {
            return refused(format_args!("{word}: more words than it takes"));
        }
        let count = more.map_or(Ok(LINES_USUAL), str::parse);
        let told = |text: String| Reply {
            text,
            code: 0,
            power: None,
        };
        match (word, more, count) {
            ("", ..) => told(String::new()),
            ("help", None, _) => told(HELP.to_owned()),
            ("why" | "status", None, _) => told(self.why()),
            ("params", None, _) => told(self.shown_params()),
            ("mounts", None, _) => told(shown_mounts(Path::new("/proc/self/mounts"))),
            ("dmesg", _, Ok(n @ 1..=LINES_MAX)) => shown_kernel_log(Path::new("/dev/kmsg"), n),
            ("log", _, Ok(n @ 1..=LINES_MAX)) => told(shown_log(n)),
            ("dmesg" | "log", Some(value), _) => refused(format_args!(
                "{word}: lines {value}, limit 1 to {LINES_MAX}"
            )),
            ("reboot", None, _) => self.end(word, Power::Reboot),
            ("poweroff", None, _) => self.end(word, Power::Off),
            ("halt", None, _) => self.end(word, Power::Halt),
            (_, Some(value), _) if HELP.lines().any(|l| l.starts_with(word)) => {
                refused(format_args!("{word}: unexpected word {value}"))
            }
            _ => refused(format_args!(
                "{word}: not in the emergency console; help lists what is"
            )),
        }
    }

    fn end(&self, word: &str, how: Power) -> Reply {
        if self.mode == "readonly" {
            return Reply {
                code: 1,
                ..refused(format_args!("{word}: vb.console_mode is readonly"))
            };
        }
        Reply {
            text: String::new(),
            code: 0,
            power: Some(how),
        }
    }

    fn why(&self) -> String {
        let mut text = String::from("emergency\n");
        for reason in self.reasons.iter().take(REASONS_MAX) {
            let _ = writeln!(text, "  {}", clean(reason));
        }
        text
    }

    fn shown_params(&self) -> String {
        let mut text = String::new();
        for param in self.params.all() {
            let (key, value) = (clean(&param.key), clean(&param.value));
            let _ = writeln!(text, "{key:<22} {value:<12} {}", param.source.as_str());
        }
        text
    }
}

fn refused(text: std::fmt::Arguments<'_>) -> Reply {
    Reply {
        text: clean(&text.to_string()) + "\n",
        code: 2,
        power: None,
    }
}

fn shown_mounts(path: &Path) -> String {
    let table = std::fs::read_to_string(path).unwrap_or_else(|e| format!("{e}\n"));
    let mut text = String::new();
    for line in table.lines() {
        let mut words = line.split(' ');
        let mut next = || clean(words.next().unwrap_or_default());
        let (source, target, kind, options) = (next(), next(), next(), next());
        let _ = writeln!(text, "{source:<12} {target:<18} {kind:<10} {options}");
    }
    text
}

fn shown_kernel_log(path: &Path, count: usize) -> Reply {
    let records = match sys::kernel_log::open(path).and_then(sys::kernel_log::records) {
        Ok(records) => records,
        Err(e) => {
            return Reply {
                code: 1,
                ..refused(format_args!("{}: {e}", path.display()))
            };
        }
    };
    let mut text = String::new();
    for record in records.iter().skip(records.len().saturating_sub(count)) {
        // `PRIORITY,SEQUENCE,MICROSECONDS,...;TEXT`, then lines of keys that begin with a blank.
        let (head, said) = record.split_once(';').unwrap_or(("", record));
        let us: u64 = head
            .split(',')
            .nth(2)
            .and_then(|us| us.parse().ok())
            .unwrap_or(0);
        let said = clean(said.lines().next().unwrap_or_default());
        let (seconds, rest) = (us / 1_000_000, us % 1_000_000);
        let _ = writeln!(text, "[{seconds:>5}.{rest:06}] {said}");
    }
    Reply {
        text,
        code: 0,
        power: None,
    }
}

fn shown_log(count: usize) -> String {
    let left = left();
    let Some(lines) = &left.log else {
        return "no log: the boot did not come that far\n".to_owned();
    };
    let mut text = String::new();
    let end = lines.next_line();
    for seq in end.saturating_sub(count as u64).max(1)..end {
        lines.show(seq, &mut text);
    }
    text
}

/// Text of others without what a terminal would act on.
fn clean(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_control() { '?' } else { c })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn desk<'r>(reasons: &'r [String], mode: &'static str) -> Desk<'r> {
        let line = "vb.heartbeat_ms=50 vb.nonsense=1";
        Desk {
            reasons,
            params: Params::new([], line, CommandLine::Wins),
            mode,
        }
    }

    #[test]
    fn commands_show_why_and_what_is_there() {
        let reasons = ["defect in PID 1: \x1b[2J".to_owned()];
        let desk = desk(&reasons, "full");
        let text = |line: &str| {
            let reply = desk.answer(line);
            assert_eq!(reply.code, 0, "{line}: {}", reply.text);
            reply.text
        };
        assert!(text("why").contains("defect in PID 1: ?[2J"));
        assert!(text("params").contains("vb.heartbeat_ms"));
        assert!(text("params").contains("vb.nonsense"));
        assert!(text("mounts").contains("proc"));
        assert!(text("help").contains("poweroff"));
        assert_eq!(text(""), "");
        for (line, named) in [
            ("sh", "not in the emergency console"),
            ("dmesg 0", "limit 1 to 500"),
            ("log 501", "limit 1 to 500"),
            ("log x", "limit 1 to 500"),
            ("why now", "unexpected word now"),
            ("log 1 2", "more words"),
        ] {
            let reply = desk.answer(line);
            assert_eq!(reply.code, 2, "{line}");
            assert!(reply.text.contains(named), "{line}: {}", reply.text);
        }
    }

    #[test]
    fn power_follows_the_word_and_the_console_mode() {
        assert_eq!(desk(&[], "full").answer("halt").power, Some(Power::Halt));
        assert_eq!(
            desk(&[], "full").answer("reboot").power,
            Some(Power::Reboot)
        );
        assert_eq!(desk(&[], "full").answer("poweroff").power, Some(Power::Off));
        let refused = desk(&[], "readonly").answer("reboot");
        assert!(refused.power.is_none() && refused.text.contains("readonly"));
        assert_eq!(desk(&[], "off").answer("why").code, 2);
    }

    /// A line of this far end, opened as PID 1 opens its terminals.
    fn line_of(near: &OwnedFd, plain: bool) -> Terminal {
        let path = terminal::name(near.as_fd()).unwrap();
        let mut line = Terminal::new(path.strip_prefix("/dev/").unwrap(), plain);
        assert!(line.open());
        line
    }

    fn read_until(far: &mut File, wanted: &str) -> String {
        let mut text = String::new();
        while !text.contains(wanted) {
            assert!(
                terminal::readable(far.as_fd(), Duration::from_secs(20)).unwrap(),
                "{text}"
            );
            let mut buf = [0u8; 256];
            let n = far.read(&mut buf).unwrap();
            text.push_str(&String::from_utf8_lossy(buf.get(..n).unwrap()));
        }
        text
    }

    #[test]
    fn a_person_gets_a_prompt_and_a_program_its_terminator() {
        let reasons = ["no /run".to_owned()];
        let desk = desk(&reasons, "full");
        let (far, near) = terminal::pair().unwrap();
        let mut line = line_of(&near, false);
        let mut far = File::from(far);
        desk.greet(&mut line, None);
        read_until(&mut far, PROMPT);
        far.write_all(b"why\r").unwrap();
        assert!(terminal::readable(line.file.as_ref().unwrap().as_fd(), TURN).unwrap());
        assert!(desk.go_on(&mut line).is_none());
        let text = read_until(&mut far, PROMPT);
        assert!(
            text.contains("why\r\n") && text.contains("  no /run\r\n"),
            "{text:?}"
        );

        let (far, near) = terminal::pair().unwrap();
        let mut line = line_of(&near, true);
        let mut far = File::from(far);
        far.write_all(b"\nnonsense\n").unwrap();
        assert!(terminal::readable(line.file.as_ref().unwrap().as_fd(), TURN).unwrap());
        desk.go_on(&mut line);
        desk.go_on(&mut line);
        let text = read_until(&mut far, "\u{1e}2\n");
        assert!(text.starts_with("\u{1e}0\nnonsense: not in"), "{text:?}");
    }

    #[test]
    fn a_terminal_that_takes_nothing_holds_nobody_up() {
        let reasons: Vec<String> = (0..REASONS_MAX).map(|n| format!("{n:0>2000}")).collect();
        let (far, near) = terminal::pair().unwrap();
        let mut line = line_of(&near, false);
        let (done, wait) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            line.put(desk(&reasons, "full").why().as_bytes());
            let _ = done.send(());
        });
        assert!(wait.recv_timeout(Duration::from_secs(60)).is_ok());
        drop(far);
    }

    proptest! {
        #[test]
        fn any_line_is_answered_without_controls(line in "\\PC{0,40}|[a-z]{1,9} [0-9-]{1,12}|[\x01-\x7f]{0,30}") {
            let desk = desk(&[], "full");
            let reply = desk.answer(line.trim());
            prop_assert!(reply.text.chars().all(|c| c == '\n' || !c.is_control()));
            prop_assert!(reply.code == 0 || !reply.text.is_empty());
        }

        #[test]
        fn mounts_that_are_disks_are_known(source in "[a-z/]{1,12}", target in "/[a-z]{1,8}") {
            let line = format!("{source} {target} ext4 rw 0 0");
            let is_disk = source.starts_with("/dev/");
            prop_assert_eq!(disk_mount(&line), is_disk.then_some(target.as_str()));
        }
    }
}
