//! The role `witness` beside a running ledger, confined as on the machine, and a witness that answers over HTTP.

use super::audit::{Witness, serve};
use super::blobs::Lines;
use super::{LIMIT, Service, command, event, nix_pid, spawn_by};
use serde_json::{Value, json};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

fn until<T>(what: &str, mut found: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + LIMIT;
    loop {
        if let Some(found) = found() {
            return found;
        }
        assert!(Instant::now() < deadline, "{what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn carrier(folder: &Path, url: &str, vkey: &str) -> Child {
    let words = ["witness", "--url", url, "--key", vkey, "--every", "1"].join("\n");
    spawn_by(
        Command::new(std::env::current_exe().unwrap()),
        &words,
        folder,
    )
}

fn end(mut child: Child) {
    let pid = nix_pid(&child);
    assert!(Command::new("kill").arg(pid).status().unwrap().success());
    assert!(child.wait().unwrap().success());
}

/// Events of a type, as the ledger tells them.
fn events(folder: &Path, kind: &str) -> Vec<Value> {
    let (code, text) = command(folder, &["query", "--type", kind, "--json"]);
    assert_eq!(code, 0, "{text}");
    text.lines()
        .map(|l| serde_json::from_str(l).unwrap())
        .collect()
}

/// The size of the checkpoint that was witnessed last, and its text.
fn witnessed(folder: &Path) -> Option<(u64, String)> {
    let (code, text) = command(folder, &["checkpoint", "--witnessed"]);
    let size = text.lines().nth(1).and_then(|line| line.parse().ok());
    size.filter(|_| code == 0).map(|size| (size, text))
}

pub fn a_witness_elsewhere_signs_what_the_role_brings_it() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let service = Service::start(folder);
    let mut client = service.client();
    client.append(&event("first")).unwrap();
    let (_, key) = until("the log's key", || {
        Some(command(folder, &["key"])).filter(|(code, _)| *code == 0)
    });
    std::fs::write(folder.join("key"), key).unwrap();

    // Nobody listens there: that is said once, and holds up nothing.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let mut witness = Witness::new();
    let vkey = witness.vkey();
    let nobody = carrier(folder, &format!("http://{address}/w"), &vkey);
    let told = until("a failure", || {
        events(folder, "checkpoint_not_witnessed").pop()
    });
    assert_eq!(told["actor"], "service:witness", "{told}");
    let reason = told["payload"]["reason"].as_str().unwrap();
    assert!(reason.contains("refused"), "{reason}");
    client.append(&event("second")).unwrap();
    end(nobody);
    assert_eq!(events(folder, "checkpoint_not_witnessed").len(), 1);
    assert_eq!(witnessed(folder), None);

    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/w", listener.local_addr().unwrap());
    let logs_key = folder.join("key");
    // It ends with this process.
    std::thread::spawn(move || serve(&listener, &logs_key, &mut witness));
    let carried = carrier(folder, &url, &vkey);
    let (size, note) = until("a signature", || witnessed(folder));
    assert!(note.contains("\n\u{2014} witness.example/w1 "), "{note}");
    // What the witness knows already is told by itself, and the log goes on from there.
    let third = client.append(&event("third")).unwrap().event_id;
    until("a later signature", || {
        witnessed(folder).filter(|(size, _)| *size >= third)
    });
    end(carried);
    let (last, note) = witnessed(folder).unwrap();
    let told = events(folder, "checkpoint_witnessed");
    assert!(
        told.iter().any(|e| e["payload"]["size"] == size),
        "{told:?}"
    );
    assert!(
        told.iter().any(|e| e["payload"]["size"] == last),
        "{told:?}"
    );
    let payload = &told[0]["payload"];
    assert_eq!(payload["witness"], "witness.example/w1", "{payload}");

    // Who carries is not believed.
    let mut lines = Lines::connect(folder);
    let mut add = |checkpoint: &str, witness: &str| {
        let call =
            json!({"type": "witness.add", "id": 1, "checkpoint": checkpoint, "witness": witness});
        lines.call(&call).unwrap().0
    };
    assert_eq!(add(&note, &vkey)["size"], last);
    let mark = "\u{2014} witness.example/w1 ";
    let at = note.find(mark).unwrap() + mark.len() + 20;
    let mut forged = note.clone();
    let other = if &note[at..=at] == "A" { "B" } else { "A" };
    forged.replace_range(at..=at, other);
    let (_, unsigned) = command(folder, &["checkpoint"]);
    for (checkpoint, witness) in [
        (forged.as_str(), vkey.as_str()),
        (unsigned.as_str(), vkey.as_str()),
        (note.as_str(), "witness.example/w1"),
        ("none", vkey.as_str()),
    ] {
        let answer = add(checkpoint, witness);
        assert_eq!(answer["error"]["code"], "BAD_REQUEST", "{answer}");
    }
    assert_eq!(witnessed(folder).unwrap().1, note);
    drop(service);
    let log = folder.join("ledger.log").display().to_string();
    let (code, text) = command(folder, &["--log", &log, "verify"]);
    assert!(code == 0 && text.contains("2 checkpoints"), "{text}");
}
