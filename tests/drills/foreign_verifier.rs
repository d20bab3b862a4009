//! A verifier that is not ours, in another language: it accepts what the ledger exports, and names the entry behind
//! one flipped byte.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use system_tests::inputs::{inputs, repository};
use system_tests::{output, stdout_of};

/// Longest wait for the service.
const LIMIT: Duration = Duration::from_secs(60);
/// Two bundles and a part.
const EVENTS: u64 = 600;
/// The 44th of the second bundle, where an entry is 64 bytes behind its length.
const FLIPPED: (u64, usize) = (299, 43 * 66 + 2 + 18);
/// Where a checkpoint says its size: behind `vb-`, 16 digits, `/ledger` and the line's end.
const SIZE_AT: usize = 27;

/// The service, ended with this.
struct Service(Child);

impl Drop for Service {
    fn drop(&mut self) {
        // It has ended if the drill did its work.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn ledger(data: &Path) -> Command {
    let mut command = Command::new(inputs().services());
    command
        .env("VB_RUN", data)
        .env("VB_DATA", data)
        .arg("ledger");
    command
}

fn offline(data: &Path) -> Command {
    let mut command = ledger(data);
    command.arg("--log").arg(data.join("ledger.log"));
    command
}

/// A log on disk that the service wrote and signed.
fn make_log(data: &Path) {
    let mut service = Service(
        ledger(data)
            .stderr(Stdio::null())
            .spawn()
            .expect("start the ledger"),
    );
    let deadline = Instant::now() + LIMIT;
    let stream = loop {
        match UnixStream::connect(data.join("ledger.sock")) {
            Ok(stream) => break stream,
            Err(e) => assert!(Instant::now() < deadline, "no ledger: {e}"),
        }
        std::thread::sleep(Duration::from_millis(10));
    };
    let events: Vec<Value> = (0..EVENTS)
        .map(|n| json!({"event_type": "note", "payload": {"n": n}}))
        .collect();
    let line = json!({"type": "append_event", "id": 1, "ns": "drill", "actor": "user:drill", "events": events});
    writeln!(&stream, "{line}").expect("send");
    let mut answer = String::new();
    BufReader::new(&stream)
        .read_line(&mut answer)
        .expect("an answer");
    assert!(answer.contains("\"ok\":true"), "{answer}");
    stdout_of(Command::new("kill").arg(service.0.id().to_string()));
    assert!(service.0.wait().expect("its end").success());
}

/// `aics-tlog` in a folder of its own. It says that it wants Python 3.12 and runs with Debian 12's 3.11.
fn verifier(folder: &Path) -> impl Fn(&Path, &str) -> String {
    stdout_of(Command::new(repository().join("qemu/host-tools")).arg("python"));
    let programs = repository().join("tests/programs");
    let environment = folder.join("python");
    stdout_of(
        Command::new("/usr/bin/python3")
            .args(["-m", "venv"])
            .arg(&environment),
    );
    let python = environment.join("bin/python");
    let mut install = Command::new(&python);
    install.args(
        "-m pip install --quiet --require-hashes --only-binary :all: --ignore-requires-python -r"
            .split(' '),
    );
    stdout_of(install.arg(programs.join("foreign_verifier.txt")));
    move |directory, vkey| {
        let mut verify = Command::new(&python);
        verify
            .arg(programs.join("foreign_verifier.py"))
            .arg(directory)
            .arg(vkey);
        let ended = output(&mut verify);
        String::from_utf8_lossy(&ended.stdout).into_owned()
            + &String::from_utf8_lossy(&ended.stderr)
    }
}

pub fn drill() {
    let folder = tempfile::tempdir().expect("a folder");
    let verify = verifier(folder.path());
    let data = folder.path().join("data");
    std::fs::create_dir(&data).expect("a folder");
    make_log(&data);
    let into = folder.path().join("export");
    let text = stdout_of(offline(&data).args(["export", "--tiles"]).arg(&into));
    print!("export: {text}");
    let key = stdout_of(offline(&data).arg("key"));
    let size: u64 = text
        .split(' ')
        .next()
        .and_then(|n| n.parse().ok())
        .expect("a size");
    assert!(size >= EVENTS, "{text}");
    let said = |wanted: &str, what: &str| {
        let said = verify(&into, key.trim());
        println!("{what}: {}", said.trim());
        assert!(said.starts_with(wanted), "{what}: {wanted}");
    };
    said(&format!("ok {size} entries\n"), "as exported");
    let flips = [
        (
            "tile/entries/001",
            FLIPPED.1,
            format!("BAD entry {}\n", FLIPPED.0),
        ),
        (
            "tile/0/001",
            5000,
            "BAD tile/0/001 does not match".to_owned(),
        ),
        ("checkpoint", SIZE_AT, "BAD checkpoint: ".to_owned()),
    ];
    for (path, at, wanted) in flips {
        let file = into.join(path);
        let good = std::fs::read(&file).expect("an exported file");
        let mut bytes = good.clone();
        bytes[at] ^= 1;
        std::fs::write(&file, bytes).expect("a changed file");
        said(&wanted, &format!("byte {at} of {path} flipped"));
        std::fs::write(&file, good).expect("the file as it was");
    }
    said(&format!("ok {size} entries\n"), "as it was");
}
