//! QEMU's own control socket: what a person does to a machine's buttons, keys and cables.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;

use serde_json::{Value, json};

/// A connection to one machine.
pub struct Qmp(BufReader<UnixStream>);

impl Qmp {
    /// Connects; the machine must have been booted with this path in its options.
    pub fn connect(path: &Path) -> Self {
        let mut this = Self(BufReader::new(
            UnixStream::connect(path).expect("QEMU's socket"),
        ));
        this.say(&json!({"execute": "qmp_capabilities"}));
        this
    }

    fn say(&mut self, command: &Value) {
        let line = format!("{command}\n");
        self.0
            .get_mut()
            .write_all(line.as_bytes())
            .expect("QEMU takes a command");
        loop {
            let mut answer = String::new();
            self.0.read_line(&mut answer).expect("QEMU answers");
            let answer: Value = serde_json::from_str(&answer).expect("JSON of QEMU");
            assert!(answer.get("error").is_none(), "{command}: {answer}");
            if answer.get("return").is_some() {
                return;
            }
        }
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
