//! The product as an ordinary process of the host, with a state folder and a port of its own.
//!
//! Start with [`Process::ready`]; a failing test prints what it wrote when the value is dropped.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::inputs::inputs;
use crate::machine::{Reply, curl};
use crate::screen::Screen;

/// For one state that the process comes to by itself; takes well under a second on an idle host.
const STEP_LIMIT: Duration = Duration::from_secs(60);

/// A running process and its services.
pub struct Process {
    child: Child,
    output: Screen,
    run: PathBuf,
    http_port: u16,
}

impl Process {
    /// Starts it on a state folder and waits until every service is up.
    pub fn ready(state: &Path, words: &[&str]) -> Self {
        let process = Self::start(&inputs().vector_boot(), state, words);
        process.ok(&["ready", "60"]);
        process
    }

    /// Starts this executable of PID 1, with the services that lie beside it, and waits until it answers.
    pub fn start(executable: &Path, state: &Path, words: &[&str]) -> Self {
        // A port that was free a moment ago: the kernel gives another one to the next who asks.
        let free = TcpListener::bind("127.0.0.1:0").and_then(|socket| socket.local_addr());
        let http_port = free.expect("a free port").port();
        let mut command = Command::new(executable);
        command.args([
            "init",
            "--param",
            &format!("vb.http=127.0.0.1:{http_port}"),
            "--state",
        ]);
        command.arg(state).args(words);
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        let mut child = command.spawn().expect("start vector_boot");
        let output = Screen::of(child.stderr.take().expect("a pipe from vector_boot"));
        let process = Self {
            child,
            output,
            run: state.join("run"),
            http_port,
        };
        let deadline = Instant::now() + STEP_LIMIT;
        while !process.run.join("init.sock").exists() {
            assert!(
                Instant::now() < deadline,
                "no init.sock: {}",
                process.output.tail()
            );
            std::thread::sleep(Duration::from_millis(10));
        }
        process
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it wrote lately.
    pub fn said(&self) -> String {
        self.output.tail()
    }

    /// Folder of its sockets.
    pub fn run(&self) -> &Path {
        &self.run
    }

    /// Runs a console command over the control socket.
    pub fn ctl(&self, words: &[&str]) -> Output {
        let mut ctl = Command::new(inputs().vector_boot());
        crate::output(ctl.args(["ctl", "--run"]).arg(&self.run).args(words))
    }

    /// Runs a console command that must succeed.
    pub fn ok(&self, words: &[&str]) -> String {
        let result = self.ctl(words);
        let text = String::from_utf8_lossy(&result.stdout).into_owned();
        let errors = String::from_utf8_lossy(&result.stderr);
        assert!(
            result.status.success(),
            "{words:?}: {text}{errors}{}",
            self.output.tail()
        );
        text
    }

    /// Runs a console command with `--json`.
    pub fn json(&self, words: &[&str]) -> Value {
        let text = self.ok(&[words, &["--json"]].concat());
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{words:?}: {error}: {text}"))
    }

    /// The row of a service.
    pub fn service(&self, name: &str) -> Value {
        let services = self.json(&["services"]);
        let rows = services["services"].as_array().expect("services");
        let row = rows.iter().find(|row| row["name"] == name);
        row.unwrap_or_else(|| panic!("no {name} in {services}"))
            .clone()
    }

    /// Waits until a service is as `wanted` says.
    pub fn until_service(&self, name: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        let deadline = Instant::now() + STEP_LIMIT;
        loop {
            let row = self.service(name);
            if wanted(&row) {
                return row;
            }
            assert!(
                Instant::now() < deadline,
                "{name} never came to what was awaited: {row}"
            );
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Calls the gateway.
    pub fn call(&self, token: Option<&str>, tool: &Value) -> Reply {
        curl(self.http_port, "/tool", token, Some(tool))
    }

    /// Asks the gateway for a page, or posts JSON to it.
    pub fn http(&self, path: &str, token: Option<&str>, body: Option<&Value>) -> Reply {
        curl(self.http_port, path, token, body)
    }

    /// The gateway's port.
    pub fn http_port(&self) -> u16 {
        self.http_port
    }

    /// Asks for an orderly end and waits for it.
    pub fn end(mut self) -> ExitStatus {
        self.terminate();
        self.child.wait().expect("vector_boot ends")
    }

    /// Kills PID 1, as no defect of its own could, and waits until it is gone; its services are killed with it.
    pub fn kill(mut self) {
        self.child.kill().expect("kill vector_boot");
        self.child.wait().expect("vector_boot is gone");
        // Whoever waits for the socket of the next one is not to find this one's.
        std::fs::remove_file(self.run.join("init.sock")).expect("remove what it left");
    }

    fn terminate(&mut self) {
        if let Ok(None) = self.child.try_wait() {
            // If it ended in between, there is nobody left to signal.
            let _ = Command::new("kill")
                .args(["-s", "TERM", &self.child.id().to_string()])
                .status();
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.terminate();
        let deadline = Instant::now() + STEP_LIMIT;
        while matches!(self.child.try_wait(), Ok(None)) && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(10));
        }
        // It ended in order, or not at all.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("--- vector_boot\n{}\n---", self.output.tail());
        }
    }
}

/// What a question gives once it gives something.
///
/// Panics with `what` where that never comes.
pub fn until<T>(what: &str, mut wanted: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + STEP_LIMIT;
    loop {
        if let Some(found) = wanted() {
            return found;
        }
        assert!(Instant::now() < deadline, "never: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}
