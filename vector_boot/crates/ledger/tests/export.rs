//! The log carried elsewhere: git's own checker, a syslog listener and a second log are the judges.

use ed25519_dalek::{Signer, SigningKey};
use ledger::committer::{Committer, Draft};
use ledger::device::Access;
use ledger::log::Birth;
use ledger_core::{Body, keys, ulid};
use serde_json::{Value, json};
use std::io::Read;
use std::net::TcpListener;
use std::path::Path;
use std::process::{Command, ExitCode};

/// Names that a reference of git could not have.
const ACTORS: [&str; 8] = [
    "agent:planner",
    "user:..",
    "user:.hidden",
    "user:a..b",
    "user:x.lock",
    "service:-dash",
    "agent:end.",
    "user:lock",
];

fn append(log: &Path, from: u64, count: u64) {
    let birth = Birth {
        log_id: [7; 16],
        tag_key: [8; 32],
        wall_ns: 1,
        segment_bytes_max: ledger_core::SEGMENT_BYTES_MAX,
    };
    let device = ledger::open::path(log, Access::Write).expect("a log");
    let (committer, _) = Committer::start(device, &birth).expect("a ledger");
    let drafts: Vec<Draft> = (from..from + count)
        .map(|n| Draft {
            ns: ["gateway", "a.b", "..", "x.lock"][n as usize % 4].to_owned(),
            actor: ACTORS[n as usize % ACTORS.len()].to_owned(),
            tenant_id: "tenant-a".to_owned(),
            event_type: "tool_called".to_owned(),
            subject: format!("<{n}> \\ \"é\" ]"),
            payload: format!("{{\"n\":{n},\"text\":\"a\\nb\\u0000\"}}"),
            causation_id: (n > 1).then(|| n - 1),
            ..Draft::default()
        })
        .collect();
    for batch in drafts.chunks(1000) {
        let receipts = committer.ledger().append_wait(batch.to_vec());
        assert_eq!(receipts.expect("receipts").len(), batch.len());
    }
    committer.stop();
}

fn ledger(log: &Path, words: &[&str]) -> bool {
    let words: Vec<_> = [&["--log", log.to_str().expect("UTF-8")], words]
        .concat()
        .into_iter()
        .map(Into::into)
        .collect();
    ledger::main(&words) == ExitCode::SUCCESS
}

fn git(folder: &Path, words: &[&str]) -> String {
    let done = Command::new("git")
        .arg("--git-dir")
        .arg(folder)
        .args(words)
        .output()
        .expect("git runs");
    let said = String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success(), "git {words:?}: {said}");
    String::from_utf8(done.stdout).expect("UTF-8")
}

#[test]
fn git_takes_an_export_of_ten_thousand_events() {
    let folder = tempfile::tempdir().expect("a folder");
    let log = folder.path().join("log");
    std::fs::create_dir(&log).expect("a folder");
    append(&log, 1, 10_000);
    let export = |name: &str| {
        let to = folder.path().join(name);
        let text = to.to_str().expect("UTF-8").to_owned();
        assert!(ledger(&log, &["export", "--git", &text]), "{name}");
        to
    };
    let one = export("one");
    git(&one, &["fsck", "--strict", "--full"]);
    let refs = git(&one, &["for-each-ref", "--format=%(refname)"]);
    let journals: Vec<&str> = refs.lines().filter(|r| r.contains("/journal/")).collect();
    assert_eq!(journals.len(), 8, "{refs}");
    let count: u64 = journals
        .iter()
        .map(|r| git(&one, &["rev-list", "--count", r]))
        .map(|n| n.trim().parse::<u64>().expect("a number"))
        .sum();
    assert_eq!(count, 10_000);
    // Event 10,000 is n = 10,000: namespace 0, actor 0.
    let last = git(
        &one,
        &[
            "log",
            "-1",
            "--format=%B",
            "refs/gatos/journal/gateway/agent/planner",
        ],
    );
    let event: Value = serde_json::from_str(last.lines().nth(2).expect("a body")).expect("JSON");
    assert_eq!(
        (event["id"].as_u64(), &event["payload"]["n"]),
        (Some(10_000), &10_000.into())
    );
    let state = git(&one, &["show", "refs/gatos/state/gateway:state.json"]);
    let state: Value = serde_json::from_str(&state).expect("JSON");
    assert_eq!(state["types"]["tool_called"], 2500);
    assert_eq!(state["commit_id"], event["commit_id"]);
    // The same log gives the same commits; a longer one journals that only grew.
    let packed = |to: &Path| std::fs::read_to_string(to.join("packed-refs")).expect("refs");
    assert_eq!(packed(&one), packed(&export("two")));
    append(&log, 10_001, 8);
    let longer = export("longer");
    for journal in journals {
        let tip = git(&one, &["rev-parse", journal]);
        let words = ["merge-base", "--is-ancestor", tip.trim(), journal];
        git(&longer, &words);
    }
    // What is there already is not written over.
    let text = one.to_str().expect("UTF-8").to_owned();
    assert!(!ledger(&log, &["export", "--git", &text]));
    git(&one, &["fsck", "--strict", "--full"]);
}

/// Registers a key and appends an event that it signed, by the command line.
fn append_signed(log: &Path) {
    let key = SigningKey::from_bytes(&[5; 32]);
    let public = key.verifying_key().to_bytes();
    let birth = Birth {
        log_id: [7; 16],
        tag_key: [8; 32],
        wall_ns: 1,
        segment_bytes_max: ledger_core::SEGMENT_BYTES_MAX,
    };
    let device = ledger::open::path(log, Access::Write).expect("a log");
    let (committer, _) = Committer::start(device, &birth).expect("a ledger");
    let registered = Draft {
        ns: "work".to_owned(),
        actor: "agent:signer".to_owned(),
        tenant_id: "system".to_owned(),
        event_type: keys::REGISTERED.to_owned(),
        subject: "agent:signer".to_owned(),
        payload: format!("{{\"key\":\"{}\"}}", hex(&public)),
        ..Draft::default()
    };
    let receipts = committer.ledger().append_wait(vec![registered]);
    assert_eq!(receipts.expect("a receipt").len(), 1);
    committer.stop();
    let event = Body {
        timestamp_ns: 0,
        wall_ns: 0,
        ulid: [3; 16],
        tenant_tag: [0; 8],
        ns: "work",
        actor: "agent:signer",
        tenant_id: "system",
        event_type: "note",
        subject: "",
        payload: "{\"signed\":true}",
        causation_id: None,
        origin: None,
        sig: None,
    };
    let sig = key.sign(keys::event_text(&event).as_bytes());
    let line = |sig: &[u8]| {
        json!({"event_type": "note", "payload": {"signed": true}, "sig": hex(sig),
            "ulid": ulid::text(&[3; 16])})
        .to_string()
    };
    let append = |event: &str| {
        let words = [
            "append",
            "--ns",
            "work",
            "--actor",
            "agent:signer",
            "--event",
            event,
        ];
        ledger(log, &words)
    };
    assert!(!append(&line(&[1; 64])));
    assert!(append(&line(&sig.to_bytes())));
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// The command line over a log takes what the service takes: neither a type that calls alone write, nor a member that
/// would be dropped.
#[test]
fn an_append_to_a_log_on_disk_is_refused_as_by_the_service() {
    let folder = tempfile::tempdir().expect("a folder");
    append(folder.path(), 1, 1);
    let append = |actor: &str, event: &str| {
        let words = ["append", "--ns", "work", "--actor", actor, "--event", event];
        ledger(folder.path(), &words)
    };
    for kind in [
        "bus.published",
        "blob.shredded",
        "policy.set",
        "grant",
        "recovered",
    ] {
        let event = format!("{{\"event_type\":\"{kind}\",\"payload\":{{}}}}");
        assert!(!append("james", &event), "{kind}");
    }
    for event in [
        "{\"event_type\":\"note\",\"paylod\":{}}",
        "{\"event_type\":\"note\",\"payload\":1}",
        "{\"event_type\":\"note\",\"causation_id\":\"1\"}",
        "{\"event_type\":\"note\",\"causation_id\":99}",
        "{\"event_type\":\"note\",\"payload\":{\"seal\":1}}",
        "{\"event_type\":\"service_crashed\",\"payload\":{}}",
        "{\"event_type\":\"Note\"}",
        "[]",
        "{\"event_type\":\"note\",\"event_type\":\"note\"}",
    ] {
        assert!(!append("james", event), "{event}");
    }
    assert!(!append("root:james", "{\"event_type\":\"note\"}"));
    assert!(append(
        "james",
        "{\"event_type\":\"note\",\"causation_id\":1}"
    ));
    let to = folder.path().join("lines");
    let text = to.to_str().expect("UTF-8").to_owned();
    assert!(ledger(folder.path(), &["export", "--jsonl", &text]));
    let all = lines(&to);
    assert_eq!(all.len(), 2);
    assert_eq!(all[1]["actor"], "user:james");
    assert_eq!(all[1]["causation_id"], 1);
}

fn lines(path: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(path).expect("a file");
    text.lines()
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .collect()
}

#[test]
fn exported_lines_make_a_log_with_the_same_events() {
    let folder = tempfile::tempdir().expect("a folder");
    let at = |name: &str| folder.path().join(name);
    let text = |name: &str| at(name).to_str().expect("UTF-8").to_owned();
    for log in ["log", "again"] {
        std::fs::create_dir(at(log)).expect("a folder");
    }
    append(&at("log"), 1, 3000);
    append_signed(&at("log"));
    assert!(ledger(&at("log"), &["export", "--jsonl", &text("lines")]));
    // In two parts it is the same.
    let later = ["export", "--from", "2001", "--jsonl", &text("later")];
    assert!(ledger(&at("log"), &later));
    let whole = std::fs::read_to_string(at("lines")).expect("a file");
    let later = std::fs::read_to_string(at("later")).expect("a file");
    assert!(later.starts_with("{\"id\":2001,") && whole.ends_with(&later));
    assert!(ledger(&at("again"), &["import", "--jsonl", &text("lines")]));
    assert!(ledger(&at("again"), &["verify"]));
    assert!(ledger(&at("again"), &["export", "--jsonl", &text("after")]));
    let (before, mut after) = (lines(&at("lines")), lines(&at("after")));
    let said = after.pop().expect("the import's own event");
    assert_eq!(said["event_type"], "log.imported");
    assert_eq!(said["payload"]["events"], before.len());
    assert_eq!(
        said["payload"]["commit_id"],
        before[before.len() - 1]["commit_id"]
    );
    assert_eq!(before.len(), after.len());
    for (mut one, mut two) in before.into_iter().zip(after) {
        let (a, b) = (one["commit_id"].take(), two["commit_id"].take());
        assert_ne!(a, b, "a chain of its own");
        assert_eq!(one, two);
    }
    let signed = lines(&at("after"))[3001].clone();
    assert_eq!(signed["sig"].as_str().expect("a signature").len(), 192);
    // A log that holds something, lines that begin late, that skip, that are none: refused.
    assert!(!ledger(
        &at("again"),
        &["import", "--jsonl", &text("lines")]
    ));
    let mut all = whole.lines();
    let (first, second, third) = (all.next(), all.next(), all.next());
    let (first, second, third) = (first.expect("1"), second.expect("2"), third.expect("3"));
    for (n, bad) in [
        second.to_owned(),
        format!("{first}\n{third}"),
        format!("{first}\nx"),
        first.replace("tool_called", "Tool"),
        first.replace("user:..", "root:x"),
        first.replace("\"id\":1,", "\"id\":1,\"id\":1,"),
        // A member that an import would lose.
        first.replace("\"id\":1,", "\"id\":1,\"new\":1,"),
        whole.replace("\"signed\":true", "\"signed\":false"),
    ]
    .into_iter()
    .enumerate()
    {
        let log = at(&format!("bad-{n}"));
        std::fs::create_dir(&log).expect("a folder");
        std::fs::write(at("bad"), bad).expect("a file");
        assert!(!ledger(&log, &["import", "--jsonl", &text("bad")]), "{n}");
    }
}

#[test]
fn a_syslog_peer_gets_every_event_in_its_frame() {
    let folder = tempfile::tempdir().expect("a folder");
    append(folder.path(), 1, 300);
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let peer = format!("tcp://{}", listener.local_addr().expect("an address"));
    let heard = std::thread::spawn(move || {
        let mut bytes = Vec::new();
        let (mut stream, _) = listener.accept().expect("a peer");
        stream.read_to_end(&mut bytes).expect("messages");
        bytes
    });
    let words = ["export", "--from", "101", "--syslog", &peer];
    assert!(ledger(folder.path(), &words));
    let bytes = heard.join().expect("the listener");
    let mut rest = bytes.as_slice();
    let mut id = 100;
    while !rest.is_empty() {
        let space = rest.iter().position(|b| *b == b' ').expect("a length");
        let length = std::str::from_utf8(&rest[..space]).expect("digits");
        let end = space + 1 + length.parse::<usize>().expect("a length");
        let message = std::str::from_utf8(&rest[space + 1..end]).expect("UTF-8");
        id += 1;
        assert!(message.starts_with("<110>1 20"), "{message}");
        assert!(
            message.contains(&format!("[ledger@32473 id=\"{id}\" ")),
            "{message}"
        );
        let (_, json) = message.split_once('\u{feff}').expect("a text");
        let event: Value = serde_json::from_str(json).expect("JSON");
        assert_eq!(event["id"], id);
        rest = &rest[end..];
    }
    assert_eq!(id, 300);
    assert!(!ledger(
        folder.path(),
        &["export", "--syslog", "tcp://127.0.0.1:1"]
    ));
    assert!(!ledger(folder.path(), &["export"]));
    assert!(!ledger(
        folder.path(),
        &["export", "--follow", "--jsonl", "-"]
    ));
}
