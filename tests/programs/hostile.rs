//! Services that mean ill, in place of `vb-services`: the file `NAME.mode` beside the run folder says how.

use std::io::{Read, Write, pipe};
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

/// Over what PID 1 reaps in one turn.
const ORPHANS: usize = 700;

fn main() {
    match std::env::args().nth(1).as_deref() {
        Some("orphan") => return wait_for_end_of_input(),
        Some("parent") => return leave_orphans(),
        _ => {}
    }
    let name = std::env::var("VB_NAME").expect("VB_NAME");
    let mode = std::fs::read_to_string(beside(&format!("{name}.mode"))).unwrap_or_default();
    match mode.as_str() {
        "flood" => {
            note(b"READY=1");
            let lines = format!("{}\n", "x".repeat(99)).repeat(600);
            while std::io::stdout().write_all(lines.as_bytes()).is_ok() {}
        }
        "notes" => loop {
            note(b"READY=1\nSTATUS=\x1b[2J\xff\nREADY=2\n\0");
        },
        "orphans" => {
            note(b"READY=1");
            let own = std::env::current_exe().expect("own path");
            Command::new(own).arg("parent").status().expect("a parent");
        }
        "last words" if !beside("spoken").exists() => {
            std::fs::write(beside("spoken"), "").expect("a mark");
            note(b"READY=1");
            let filler = format!("{}\n", "said before ".repeat(40)).repeat(45);
            print!("{filler}these were the last words");
            // A pipe's writer that has the reader's attention is at its end only after a flush.
            std::io::stdout().flush().expect("stdout");
            note(b"READY=1");
            std::process::exit(3);
        }
        "last words" => {}
        _ => note(b"READY=1"),
    }
    loop {
        std::thread::park();
    }
}

fn beside(name: &str) -> PathBuf {
    PathBuf::from(std::env::var_os("VB_RUN").expect("VB_RUN")).with_file_name(name)
}

fn note(text: &[u8]) {
    let to = std::env::var_os("NOTIFY_SOCKET").expect("NOTIFY_SOCKET");
    let socket = UnixDatagram::unbound().expect("a socket");
    socket.send_to(text, to).expect("a message");
}

/// Children that all end at the moment when their parent does.
fn leave_orphans() {
    let own = std::env::current_exe().expect("own path");
    let (read, _write) = pipe().expect("a pipe");
    for _ in 0..ORPHANS {
        let stdin = Stdio::from(read.try_clone().expect("a descriptor"));
        let mut orphan = Command::new(&own);
        orphan.arg("orphan").stdin(stdin).spawn().expect("a child");
    }
    std::fs::write(beside("born"), "").expect("a mark");
    while !beside("die").exists() {
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn wait_for_end_of_input() {
    // The end is all that is waited for.
    let _ = std::io::stdin().read(&mut [0]);
}
