//! QEMU's own control socket: what a person does to a machine's buttons, keys and cables, and what QEMU says of it.

use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::mpsc;
use std::time::Duration;

use serde_json::{Value, json};

/// For one answer: QEMU's main loop gives it, and one that does not is stuck.
const ANSWER_LIMIT: Duration = Duration::from_secs(10);

/// A connection to one machine.
pub struct Qmp(BufReader<UnixStream>);

impl Qmp {
    /// Connects, once whoever was connected before has gone.
    pub fn connect(path: &Path) -> Self {
        Self::try_connect(path).expect("QEMU's socket")
    }

    /// The same, for who must not fail.
    ///
    /// # Errors
    /// As `connect(2)` and `read(2)`; `WouldBlock` or `TimedOut` when QEMU does not answer, or somebody else is
    /// connected.
    pub fn try_connect(path: &Path) -> io::Result<Self> {
        // Two may wait to be accepted, and who hung up still counts: the third waits in connect(2), for ever.
        let (connected, connection) = mpsc::channel();
        let path = path.to_owned();
        std::thread::spawn(move || connected.send(UnixStream::connect(path)));
        let stream = connection
            .recv_timeout(ANSWER_LIMIT)
            .map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
        stream.set_read_timeout(Some(ANSWER_LIMIT))?;
        let mut this = Self(BufReader::new(stream));
        this.ask(&json!({"execute": "qmp_capabilities"}))?;
        Ok(this)
    }

    /// Sends one command and waits for its answer; what QEMU tells meanwhile is passed over.
    ///
    /// # Errors
    /// As [`Qmp::try_connect`]; `Other` with QEMU's words when it refuses, `InvalidData` for what is no JSON.
    pub fn ask(&mut self, command: &Value) -> io::Result<Value> {
        writeln!(self.0.get_mut(), "{command}")?;
        loop {
            let mut line = String::new();
            if self.0.read_line(&mut line)? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            let mut answer: Value = serde_json::from_str(&line)?;
            if let Some(refused) = answer.get("error") {
                return Err(io::Error::other(format!("{command}: {refused}")));
            }
            if let Some(given) = answer.get_mut("return") {
                return Ok(given.take());
            }
        }
    }

    fn say(&mut self, command: &Value) {
        self.ask(command).expect("QEMU takes a command");
    }

    /// Plugs a network cable in, or pulls it.
    pub fn link(&mut self, card: &str, up: bool) {
        self.say(&json!({"execute": "set_link", "arguments": {"name": card, "up": up}}));
    }

    /// Presses the power button.
    pub fn power_button(&mut self) {
        self.say(&json!({"execute": "system_powerdown"}));
    }

    /// Presses Ctrl-Alt-Del on the machine's keyboard.
    pub fn ctrl_alt_del(&mut self) {
        let key = |name: &str| json!({"type": "qcode", "data": name});
        let keys = [key("ctrl"), key("alt"), key("delete")];
        self.say(&json!({"execute": "send-key", "arguments": {"keys": keys}}));
    }
}
