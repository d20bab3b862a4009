//! A virtual machine under test: booted by `qemu/run`, driven over its machine console and its forwarded port.
//!
//! Start with [`Machine::boot`]; a failing test prints the serial console when the value is dropped.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::inputs::{Arch, inputs, repository};
use crate::post_mortem;
use crate::qmp::Qmp;
use crate::screen::Screen;

/// From power on to the machine console's first answer; about 6 s under emulation on an idle host.
pub const BOOT_LIMIT: Duration = Duration::from_secs(180);
/// For one command, or for one state that a machine comes to by itself.
pub const STEP_LIMIT: Duration = Duration::from_secs(90);
/// Events of one answer, at about 500 bytes each: QEMU throws away what a guest's console writes while the host's
/// end of the socket is full, which takes 200 KiB, and a test on a busy host may be late to read.
const EVENTS_A_PAGE: u32 = 100;
/// An answer is waited for in waits of this length.
const SHORT_WAIT: Duration = Duration::from_secs(1);
/// While nobody listens in the guest, an empty line is sent this often.
const KNOCK: Duration = Duration::from_millis(500);

/// What a machine is booted with.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// What the machine is; the host's own unless said otherwise.
    pub arch: Arch,
    /// Public keys that it trusts.
    pub trust: Vec<PathBuf>,
    /// The package's disk; without one the real model is packed.
    pub package: Option<PathBuf>,
    /// The data disk; made if it is not there.
    pub data: PathBuf,
    /// A folder to share.
    pub share: Option<PathBuf>,
    /// More words for the kernel's command line.
    pub append: String,
    /// Executables other than the tested ones, for the initramfs.
    pub bin: Option<PathBuf>,
    /// A folder with the two ends of a wire, `guest` and `host`, to a first network card.
    pub wire: Option<PathBuf>,
    /// It starts again when it is reset, in the same memory; otherwise QEMU ends.
    pub resets: bool,
    /// One processor, and its time is the count of its instructions.
    pub icount: bool,
    /// The kernel is shown the chipset's watchdog, which x86_64 alone has here.
    pub watchdog: bool,
    /// Whoever serves the data disk's blocks, in place of the file.
    pub nbd: Option<PathBuf>,
    /// An empty file to which every write and flush of the data disk goes, as dm-log-writes has them.
    pub log_writes: Option<PathBuf>,
    /// An archive in the initramfs's place.
    pub initramfs: Option<PathBuf>,
}

/// What a console command printed, and its exit code.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The output.
    pub text: String,
    /// 0 is success.
    pub code: u8,
}

/// What an HTTP call gave.
#[derive(Debug, Clone)]
pub struct Reply {
    /// The HTTP status.
    pub status: u16,
    /// The body.
    pub body: Value,
}

/// A running machine.
pub struct Machine {
    watched: Watched,
    console: BufReader<UnixStream>,
    http_port: u16,
    token: String,
}

/// A machine that nobody talks to: it is only watched.
pub struct Watched {
    qemu: Child,
    keyboard: ChildStdin,
    serial: Screen,
    host: Screen,
    // Removed with the value, after the machine has ended.
    folder: tempfile::TempDir,
}

impl Watched {
    /// Boots; answers as soon as QEMU is started.
    pub fn boot(options: &Options) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let mut command = command(options, folder.path());
        let mut qemu = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("start qemu/run");
        Self {
            keyboard: qemu.stdin.take().expect("a pipe to the serial console"),
            serial: Screen::of(qemu.stdout.take().expect("a pipe from the serial console")),
            host: Screen::of(qemu.stderr.take().expect("a pipe from qemu/run")),
            qemu,
            folder,
        }
    }

    /// QEMU's own control socket.
    fn control(&self) -> PathBuf {
        self.folder.path().join("qmp")
    }

    /// Panics because the machine does not do what it must: with what QEMU, and in the end its kernel, say of it.
    fn stands_still(&self, what: &str) -> ! {
        let found = post_mortem::of(&self.control(), &self.serial);
        panic!("{what}\n{}\n{found}", self.serial.tail());
    }

    /// What the serial console has shown.
    pub fn serial(&self) -> &Screen {
        &self.serial
    }

    /// Waits until the machine has ended by itself.
    pub fn wait_for_end(mut self) {
        self.serial.wait_for_end(BOOT_LIMIT);
        let status = self.qemu.wait().expect("the state of qemu/run");
        assert!(status.success(), "qemu/run ended with {status}");
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        // Whoever panicked may have waited for something else than an answer.
        if std::thread::panicking() && matches!(self.qemu.try_wait(), Ok(None)) {
            eprintln!("{}", post_mortem::looks(&self.control()));
        }
        terminate(&mut self.qemu);
        if std::thread::panicking() {
            eprintln!(
                "--- qemu/run\n{}\n--- serial console\n{}\n---",
                self.host.tail(),
                self.serial.tail()
            );
        }
    }
}

/// The words of `qemu/run`, which makes its sockets in `folder`.
fn command(options: &Options, folder: &Path) -> Command {
    let mut command = Command::new(repository().join("qemu/run"));
    command.args(["--http", "0", "--machine"]);
    command.arg(folder.join("console"));
    command.arg("--qmp").arg(folder.join("qmp"));
    let bin = options.bin.as_deref();
    command
        .args(["--arch", options.arch.name(), "--bin"])
        .arg(bin.unwrap_or_else(|| inputs().bin_of(options.arch)))
        .arg("--data")
        .arg(&options.data);
    for key in &options.trust {
        command.arg("--trust").arg(key);
    }
    match &options.package {
        Some(package) => command.arg("--rts").arg(package),
        None => command.arg("--model").arg(&inputs().model),
    };
    if let Some(share) = &options.share {
        command.arg("--share").arg(share);
    }
    if let Some(wire) = &options.wire {
        command.arg("--wire").arg(wire);
    }
    if options.resets {
        command.arg("--resets");
    }
    if options.icount {
        command.arg("--icount");
    }
    if options.watchdog {
        command.arg("--watchdog");
    }
    if let Some(nbd) = &options.nbd {
        command.arg("--nbd").arg(nbd);
    }
    if let Some(log) = &options.log_writes {
        command.arg("--log-writes").arg(log);
    }
    if let Some(initramfs) = &options.initramfs {
        command.arg("--initramfs").arg(initramfs);
    }
    if !options.append.is_empty() {
        command.arg("--append").arg(&options.append);
    }
    command
}

impl Machine {
    /// Boots and waits until the machine console answers; services may still be starting.
    pub fn boot(options: &Options) -> Self {
        let watched = Watched::boot(options);
        let said = watched.host.wait_for_line("machine: console=", BOOT_LIMIT);
        let field = |name: &str| {
            let word = said
                .split_whitespace()
                .find_map(|word| word.strip_prefix(name));
            word.unwrap_or_else(|| panic!("no {name} in {said}"))
                .to_owned()
        };
        let token = std::fs::read_to_string(field("token=")).expect("the boot token's file");
        let http_port = field("http=").parse().expect("a port");
        let console = knock(&watched);
        Self {
            watched,
            console,
            http_port,
            token,
        }
    }

    /// Boots and waits until every service is up; panics if the machine settles as degraded.
    pub fn ready(options: &Options) -> Self {
        let mut machine = Self::boot(options);
        let answer = machine.run(&format!("ready {}", STEP_LIMIT.as_secs()));
        assert_eq!(answer.code, 0, "not ready: {}", answer.text);
        machine
    }

    /// Runs a console command, whatever its exit code.
    pub fn run(&mut self, command: &str) -> Answer {
        self.send(command);
        answer(&mut self.console, &self.watched, command)
    }

    /// Runs a console command that must succeed, and returns what it printed.
    pub fn ok(&mut self, command: &str) -> String {
        let answer = self.run(command);
        assert_eq!(answer.code, 0, "{command}: {}", answer.text);
        answer.text
    }

    /// Runs a console command with `--json` and reads its one line.
    pub fn json(&mut self, command: &str) -> Value {
        let text = self.ok(&format!("{command} --json"));
        serde_json::from_str(text.trim())
            .unwrap_or_else(|error| panic!("{command} --json: {error}: {text}"))
    }

    /// Every event of the ledger, from the first on.
    pub fn events(&mut self) -> Vec<Value> {
        let mut events = Vec::new();
        let mut from = 0;
        loop {
            let page = self.json(&format!("ledger query --from {from} -n {EVENTS_A_PAGE}"));
            events.extend(page["events"].as_array().expect("events").iter().cloned());
            match page["next"].as_u64() {
                Some(next) => from = next,
                None => return events,
            }
        }
    }

    /// No role was refused a system call since the boot: the kernel's log names each (seccomp, type 1326).
    pub fn assert_no_call_was_refused(&mut self) {
        let log = self.ok("dmesg");
        let refused: Vec<&str> = log.lines().filter(|l| l.contains("type=1326")).collect();
        assert!(refused.is_empty(), "{}", refused.join("\n"));
    }

    /// Runs a command again and again until `wanted` finds what it looks for in the answer.
    pub fn until<T>(&mut self, command: &str, wanted: impl Fn(&str) -> Option<T>) -> T {
        let deadline = Instant::now() + STEP_LIMIT;
        loop {
            let answer = self.run(command);
            if let Some(found) = wanted(&answer.text) {
                return found;
            }
            assert!(
                Instant::now() < deadline,
                "{command} never said what was awaited: {}",
                answer.text
            );
            // Between two looks at a state that nothing announces.
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Sends a command that takes the console itself down, and waits until its successor answers.
    pub fn run_and_lose_the_console(&mut self, command: &str) {
        self.send(command);
        synchronise(&mut self.console, &self.watched);
    }

    /// Sends a command that takes PID 1 itself down, waits until the serial console shows that another one runs,
    /// and then until that one's console answers.
    pub fn run_and_lose_pid_1(&mut self, command: &str, shown: &str) {
        self.send(command);
        self.watched.serial.wait_for_line(shown, STEP_LIMIT);
        self.meet_the_next_console();
    }

    /// Sends a command after which the serial console greets again, as after a reset of the machine or from another
    /// package, and waits for that and until the console that comes answers.
    pub fn run_and_be_greeted(&mut self, command: &str) {
        let greetings = |text: &str| text.matches("Vector Boot ").count();
        let before = greetings(&self.watched.serial.text());
        self.send(command);
        self.watched
            .serial
            .wait_for("another greeting", BOOT_LIMIT, |text| {
                (greetings(text) > before).then_some(())
            });
        self.meet_the_next_console();
    }

    /// Sends a command that puts another package in place, console and all, waits until the serial console greets
    /// again, and then until the upgrade has ended as the `count`th.
    pub fn run_and_be_upgraded(&mut self, command: &str, count: u64) {
        self.run_and_be_greeted(command);
        self.until("upgrade --json", |text| {
            let value: Value = serde_json::from_str(text.trim()).ok()?;
            (value["step"] == "idle" && value["count"] == count).then_some(())
        });
    }

    fn meet_the_next_console(&mut self) {
        // What the console before said, if it came to answer, is not the next one's answer.
        set_patience(&self.console, KNOCK);
        let mut old = Vec::new();
        while self.console.read_until(0x1e, &mut old).is_ok_and(|n| n > 0) {}
        synchronise(&mut self.console, &self.watched);
    }

    /// Calls the gateway with the boot token.
    pub fn call(&self, tool: &Value) -> Reply {
        curl(self.http_port, "/tool", Some(&self.token), Some(tool))
    }

    /// Calls the gateway without a token.
    pub fn call_unauthorised(&self, tool: &Value) -> Reply {
        curl(self.http_port, "/tool", None, Some(tool))
    }

    /// Reads a page of the gateway without a token.
    pub fn get(&self, path: &str) -> Reply {
        curl(self.http_port, path, None, None)
    }

    /// Reads a page of the gateway with a token.
    pub fn get_with(&self, path: &str, token: &str) -> Reply {
        curl(self.http_port, path, Some(token), None)
    }

    /// The host's port of the gateway.
    pub fn http_port(&self) -> u16 {
        self.http_port
    }

    /// The boot token.
    pub fn token(&self) -> &str {
        &self.token
    }

    /// What the serial console has shown.
    pub fn serial(&self) -> &Screen {
        &self.watched.serial
    }

    /// Ends the machine as one that answers nobody, and says what was learnt of it.
    pub fn post_mortem(self) -> String {
        post_mortem::of(&self.watched.control(), &self.watched.serial)
    }

    /// QEMU's own control socket, which takes one at a time.
    pub fn control(&self) -> Qmp {
        Qmp::connect(&self.watched.control())
    }

    /// Types on the serial console, as a person does.
    pub fn type_line(&mut self, line: &str) {
        self.watched
            .keyboard
            .write_all(format!("{line}\r").as_bytes())
            .expect("the serial console takes a line");
    }

    /// Stops the machine as a power cut does; what it had flushed is in the data disk's file.
    pub fn stop_cold(mut self) {
        terminate(&mut self.watched.qemu);
        self.watched.serial.wait_for_end(STEP_LIMIT);
    }

    /// Powers the machine off in order and waits until QEMU has ended well.
    pub fn power_off(mut self) {
        self.send("poweroff");
        let deadline = Instant::now() + STEP_LIMIT;
        loop {
            if let Some(status) = self.watched.qemu.try_wait().expect("the state of qemu/run") {
                assert!(status.success(), "qemu/run ended with {status}");
                return;
            }
            if Instant::now() > deadline {
                let said = self.last_words();
                let what = format!("no power off; what it still says of itself:\n{said}");
                self.watched.stands_still(&what);
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// What a machine that does not end has on its console, and says when it is asked.
    fn last_words(&mut self) -> String {
        for question in ["services", "log -n 40"] {
            self.send(question);
        }
        set_patience(&self.console, KNOCK);
        let mut said = Vec::new();
        while self
            .console
            .read_until(0x1e, &mut said)
            .is_ok_and(|n| n > 0)
        {}
        String::from_utf8_lossy(&said).into_owned()
    }

    /// Waits until the machine has ended by what was done to it, and QEMU with it.
    pub fn wait_for_end(mut self) {
        let deadline = Instant::now() + STEP_LIMIT;
        while self
            .watched
            .qemu
            .try_wait()
            .expect("the state of qemu/run")
            .is_none()
        {
            if Instant::now() > deadline {
                self.watched.stands_still("it did not end");
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn send(&mut self, command: &str) {
        let line = format!("{command}\n");
        self.console
            .get_mut()
            .write_all(line.as_bytes())
            .expect("the machine console takes a line");
    }
}

/// Ends `qemu/run`, which kills QEMU at once and then cleans up behind itself.
fn terminate(qemu: &mut Child) {
    if let Ok(None) = qemu.try_wait() {
        // If it ended in between, there is nobody left to signal.
        let _ = Command::new("kill")
            .args(["-s", "TERM", &qemu.id().to_string()])
            .status();
    }
    let _ = qemu.wait();
}

/// Connects, and waits until the guest's console answers.
fn knock(watched: &Watched) -> BufReader<UnixStream> {
    let deadline = Instant::now() + BOOT_LIMIT;
    let stream = loop {
        match UnixStream::connect(watched.folder.path().join("console")) {
            Ok(stream) => break stream,
            Err(error) => assert!(
                Instant::now() < deadline,
                "connect the machine console: {error}"
            ),
        }
        std::thread::sleep(Duration::from_millis(20));
    };
    let mut console = BufReader::new(stream);
    synchronise(&mut console, watched);
    console
}

/// Sends empty lines until one is answered, then leaves nothing unread.
///
/// Lines sent before the guest has opened its end are lost or echoed, so how many answers come is not known;
/// `help` names `status`, and its answer is the first that does.
fn synchronise(console: &mut BufReader<UnixStream>, watched: &Watched) {
    let deadline = Instant::now() + BOOT_LIMIT;
    set_patience(console, KNOCK);
    loop {
        console
            .get_mut()
            .write_all(b"\n")
            .expect("the machine console takes a line");
        let mut bytes = Vec::new();
        match console.read_until(0x1e, &mut bytes) {
            Ok(0) => panic!(
                "the machine ended before its console answered\n{}",
                watched.serial.tail()
            ),
            Ok(_) if bytes.ends_with(&[0x1e]) => break,
            Ok(_) | Err(_) => {}
        }
        if Instant::now() > deadline {
            watched.stands_still("the machine console never answered");
        }
    }
    console
        .get_mut()
        .write_all(b"help\n")
        .expect("the machine console takes a line");
    // The code and line end of the terminator that was just seen, then answers to the other empty lines.
    let mut rest = Vec::new();
    read_patiently(console, b'\n', &mut rest).expect("the terminator's end");
    while !answer(console, watched, "help").text.contains("status") {}
}

/// How long a read of the console waits.
fn set_patience(console: &BufReader<UnixStream>, limit: Duration) {
    console
        .get_ref()
        .set_read_timeout(Some(limit))
        .expect("a read timeout");
}

fn answer(console: &mut BufReader<UnixStream>, watched: &Watched, command: &str) -> Answer {
    let mut text = Vec::new();
    let mut code = Vec::new();
    let read = read_patiently(console, 0x1e, &mut text)
        .and_then(|()| read_patiently(console, b'\n', &mut code));
    if let Err(error) = read {
        watched.stands_still(&format!("{command}: no answer: {error}"));
    }
    let whole = text.pop() == Some(0x1e) && code.pop() == Some(b'\n');
    assert!(
        whole,
        "{command}: the machine ended\n{}",
        watched.serial.tail()
    );
    let code = String::from_utf8_lossy(&code);
    Answer {
        text: String::from_utf8_lossy(&text).into_owned(),
        code: code
            .trim()
            .parse()
            .unwrap_or_else(|error| panic!("{command}: exit code {code:?}: {error}")),
    }
}

/// Reads up to `end`, or to the end of all, in short waits.
///
/// A host that stands still itself, as one does that is a machine too, and is woken later, finds every long wait over
/// before the machine has had a moment: so its waits are counted and not its clock.
fn read_patiently(
    console: &mut BufReader<UnixStream>,
    end: u8,
    read: &mut Vec<u8>,
) -> std::io::Result<()> {
    set_patience(console, SHORT_WAIT);
    let mut longest = Duration::ZERO;
    for _ in 0..STEP_LIMIT.as_millis() / SHORT_WAIT.as_millis() {
        let begun = Instant::now();
        match console.read_until(end, read) {
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
            other => return other.map(drop),
        }
        longest = longest.max(begun.elapsed());
    }
    let waits =
        format!("nothing in waits of {SHORT_WAIT:?}, the longest of which took {longest:?}");
    Err(std::io::Error::new(std::io::ErrorKind::TimedOut, waits))
}

/// One call by the program curl: a client that is not ours.
pub fn curl(port: u16, path: &str, token: Option<&str>, body: Option<&Value>) -> Reply {
    let mut command = Command::new("curl");
    command.args([
        "--silent",
        "--show-error",
        "--max-time",
        "60",
        "--write-out",
        "\n%{http_code}",
    ]);
    if let Some(token) = token {
        command.args([
            "--header",
            &format!("Authorization: Bearer {}", token.trim()),
        ]);
    }
    if let Some(body) = body {
        command.args([
            "--header",
            "Content-Type: application/json",
            "--data-binary",
            &body.to_string(),
        ]);
    }
    command.arg(format!("http://127.0.0.1:{port}{path}"));
    let text = crate::stdout_of(&mut command);
    let (body, status) = text.rsplit_once('\n').expect("curl writes the status last");
    Reply {
        status: status.parse().expect("a status"),
        body: serde_json::from_str(body).unwrap_or(Value::String(body.to_owned())),
    }
}
