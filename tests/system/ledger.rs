//! The ledger from outside: two tenants over HTTP, its figures, and the Python client.

use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};
use sys::packet::{Mode, PacketSocket};
use system_tests::inputs::{inputs, repository};
use system_tests::process::Process;
use wire::capacity::{Grant, Request, permission};
use wire::{Frame, Hello, Message, PACKET_BYTES_MAX};

use crate::python::python;

/// A token for a tenant, from the capacity kernel, for the operator that a test is.
fn token(run: &Path, tenant_id: &str, permissions: u32) -> String {
    let socket = PacketSocket::connect(&run.join("capacity.sock"), Mode::Blocking).unwrap();
    let mut buf = vec![0; PACKET_BYTES_MAX];
    let mut ask = |id, packet: &[u8]| {
        socket.send(packet, None).unwrap();
        let (bytes, _) = socket.receive(&mut buf).unwrap();
        assert!(bytes > 0, "capacity closed the connection at {id}");
        buf.get(..bytes).unwrap().to_vec()
    };
    let mut out = vec![0; PACKET_BYTES_MAX];
    ask(0, encoded(0, &Hello::OURS, &mut out));
    let request = Request {
        tenant_id,
        workload_id: "test",
        axes: [Some(wire::capacity::Want {
            min: 100,
            want: 1000,
            weight: 1,
        }); wire::capacity::AXES],
        duration_s: 600,
        priority: 5,
        permissions,
    };
    let answer = ask(1, encoded(1, &request, &mut out));
    let frame = Frame::open(&answer).unwrap();
    let grant = frame.body::<Grant<'_>>().unwrap();
    assert!(grant.admitted, "{}", grant.reason);
    grant.token.to_owned()
}

fn encoded<'b, M: Message>(id: u64, body: &M, out: &'b mut [u8]) -> &'b [u8] {
    wire::encode(id, body, out).unwrap()
}

/// The lines of a stream's answer.
fn lines(body: &Value) -> Vec<Value> {
    match body {
        Value::String(text) => text
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect(),
        one => vec![one.clone()],
    }
}

#[test]
fn two_tenants_over_http_see_nothing_of_each_other() {
    let folder = tempfile::tempdir().unwrap();
    let process = Process::ready(&folder.path().join("state"), &[]);
    let both = permission::LEDGER | permission::TOOLS;
    let [a, b] = ["tenant-a", "tenant-b"].map(|tenant| token(process.run(), tenant, both));
    let append = |token: &str, payload: Value| {
        let line = json!({"type": "append_event", "id": 7, "ns": "notes", "actor": "agent:test",
            "event": {"event_type": "custom(noted)", "payload": payload}});
        let answer = process.http("/v1/ledger/rpc", Some(token), Some(&line));
        assert_eq!(answer.status, 200, "{:?}", answer.body);
        let said = lines(&answer.body);
        assert_eq!(
            (&said[0]["ok"], &said[0]["id"]),
            (&json!(true), &json!(7)),
            "{said:?}"
        );
        said[0]["event_id"].as_u64().unwrap()
    };
    let first = append(&a, json!({"secret": "of-a"}));
    let second = append(&b, json!({"secret": "of-b"}));

    let event =
        |token: &str, id: u64| process.http(&format!("/v1/ledger/events/{id}"), Some(token), None);
    assert_eq!(event(&a, first).body["payload"]["secret"], "of-a");
    assert_eq!(event(&a, first).body["tenant_id"], "tenant-a");
    // One that is another's, one that is not there, one of the machine's own: the same words.
    let foreign = event(&b, first);
    assert_eq!(
        (foreign.status, &foreign.body["code"]),
        (404, &json!("not_found"))
    );
    assert_eq!(event(&b, 1_000_000).body, foreign.body);
    assert_eq!(event(&b, 1).body, foreign.body);
    let all = process
        .http("/v1/ledger/events?limit=1000", Some(&b), None)
        .body;
    let text = all.to_string();
    assert!(text.contains("of-b") && !text.contains("of-a"), "{text}");
    assert!(
        all["events"]
            .as_array()
            .unwrap()
            .iter()
            .all(|e| e["tenant_id"] == "tenant-b")
    );

    // Nobody says for whom he speaks, nor reads another's by a filter; proofs are of one's own events.
    let as_a = json!({"type": "query", "as": {"actor": "agent:test", "tenant": "tenant-a"}});
    let refused = process.http("/v1/ledger/rpc", Some(&b), Some(&as_a));
    assert_eq!(
        (refused.status, &refused.body["code"]),
        (422, &json!("invalid_request"))
    );
    let filtered = json!({"type": "query", "filters": {"tenant_id": "tenant-a"}});
    let refused = process
        .http("/v1/ledger/rpc", Some(&b), Some(&filtered))
        .body;
    assert_eq!(
        lines(&refused)[0]["error"]["code"],
        "POLICY_DENY",
        "{refused}"
    );
    // A subscription that was refused keeps no stream open.
    let followed = json!({"type": "subscribe", "filters": {"tenant_id": "tenant-a"}});
    let refused = process.http("/v1/ledger/rpc", Some(&b), Some(&followed));
    assert_eq!(
        lines(&refused.body)[0]["error"]["code"],
        "POLICY_DENY",
        "{:?}",
        refused.body
    );
    let proof = |token: &str| {
        let path = format!("/v1/ledger/proofs/inclusion?event_id={first}&size={second}");
        process.http(&path, Some(token), None)
    };
    assert_eq!(proof(&a).status, 200, "{:?}", proof(&a).body);
    assert_eq!(proof(&b).status, 404, "{:?}", proof(&b).body);
    let figures = json!({"type": "metrics"});
    let refused = process
        .http("/v1/ledger/rpc", Some(&b), Some(&figures))
        .body;
    assert_eq!(
        lines(&refused)[0]["error"]["code"],
        "POLICY_DENY",
        "{refused}"
    );

    // A token for tools alone reads nothing here.
    let tools = token(process.run(), "tenant-c", permission::TOOLS);
    let head = |token: Option<&str>| process.http("/v1/ledger/head", token, None);
    assert_eq!(head(Some(&tools)).body["code"], "not_permitted_by_token");
    assert_eq!(head(None).status, 401);
    assert!(head(Some(&a)).body["event_id"].as_u64() >= Some(second));

    every_path_is_for_who_may_read_alone(&process, &b, &tools);
    the_python_client_writes_follows_and_verifies(&process, &a);
    metrics_tell_what_was_done(&process, &a);
    sealed_parameters_open_for_their_auditor_alone(&process, folder.path(), &a);
    assert!(process.end().success());
}

/// Nobody without a token, with one that is none, or with one for tools alone gets anything; nor does a path or query
/// that is none get more than a refusal.
fn every_path_is_for_who_may_read_alone(process: &Process, reader: &str, tools: &str) {
    for path in [
        "head",
        "checkpoint",
        "events",
        "events/1",
        "proofs/inclusion?event_id=1&size=1",
        "proofs/consistency?from=1&to=1",
    ] {
        let get = |token| {
            process
                .http(&format!("/v1/ledger/{path}"), token, None)
                .status
        };
        assert_eq!((get(None), get(Some("none"))), (401, 401), "{path}");
        assert_eq!(get(Some(tools)), 403, "{path}");
    }
    for path in [
        "events?tenant_id=tenant-a",
        "events?as=tenant-a",
        "events?limit=-1",
        "events?ns=a&ns=b",
        "events/-1",
        "events/18446744073709551616",
        "events/1/",
        "events/%31",
        "proofs/inclusion?event_id=1&size=0",
        "proofs/inclusion?event_id=0",
        "proofs/inclusion",
        "proofs/consistency?from=2&to=1",
        "proofs/consistency?from=0&to=99999999",
        "head?a=b",
        "metrics",
        "..",
    ] {
        let got = process.http(&format!("/v1/ledger/{path}"), Some(reader), None);
        assert!((400..=404).contains(&got.status), "{path}: {:?}", got.body);
    }
    let lines = |body: &Value| process.http("/v1/ledger/rpc", Some(reader), Some(body));
    for line in [
        json!({}),
        json!({"type": 1}),
        json!({"type": "shut_down"}),
        json!({"type": "ping", "id": -1}),
    ] {
        let got = lines(&line);
        assert_eq!(
            (got.status, &got.body["error"]["code"]),
            (200, &json!("BAD_REQUEST")),
            "{line}"
        );
    }
    for line in [json!([]), json!(1), json!({"type": "ping", "as": null})] {
        assert_eq!(lines(&line).status, 422, "{line}");
    }
}

/// Three messages of which one is acknowledged, and a fold: what `/metrics` says more than before.
const FIGURES: &str = "
import sys, urllib.request
from vector_boot import ledger
url, token = sys.argv[1:]
def figures():
    headers = {'Accept': 'text/plain', 'Authorization': 'Bearer ' + token}
    told = urllib.request.urlopen(urllib.request.Request(url + '/metrics', headers=headers)).read().decode()
    of_ledger = (line.rsplit(' ', 1) for line in told.splitlines() if line.startswith('gatos_'))
    return {name: float(value) for name, value in of_ledger}
before = figures()
with ledger.connect(url, token) as log:
    with log.messages('examples.lag', consumer='slow', start='HEAD') as messages:
        for number in range(3):
            log.publish('examples.lag', {'n': number})
        messages.ack(next(messages))
    log.fold('notes', 'count', {'fields': {'n': {'reducer': 'counter-gcounter'}}})
after = figures()
grew = {name: value - before[name] for name, value in after.items()}
assert grew['gatos_bus_ack_lag'] == 2, grew
for name, least in [('gatos_journal_append_latency_ms', 4), ('gatos_fold_latency_ms', 1)]:
    assert grew[name + '_count'] >= least and grew[name + '_sum'] > 0, grew
    assert after[name + '_bucket{le=\"+Inf\"}'] == after[name + '_count'], after
assert 'gatos_cache_rebuilds_total' in after
print('told')
";

fn metrics_tell_what_was_done(process: &Process, token: &str) {
    let http = format!("http://127.0.0.1:{}", process.http_port());
    assert_eq!(python(&["-c", FIGURES, &http, token]), "told\n");
}

fn the_python_client_writes_follows_and_verifies(process: &Process, token: &str) {
    let example = repository().join("vector_boot/python/examples/ledger.py");
    let example = example.to_str().expect("a path of text");
    let run = process.run().to_str().expect("a path of text");
    let gateway = format!("http+unix://{run}/gateway.sock");
    let http = format!("http://127.0.0.1:{}", process.http_port());
    // Its bus is the owner's to open to those who come through the gateway.
    let grant = "import sys; from vector_boot import ledger; log = ledger.connect(sys.argv[1]); \
                 log.ask('grant', to=sys.argv[2], tenant=sys.argv[3], caps=['bus.*:examples.*'])";
    for [to, tenant] in [["user:operator", "system"], ["agent:test", "tenant-a"]] {
        python(&["-c", grant, run, to, tenant]);
    }
    for words in [
        &[example, run][..],
        &[example, &gateway],
        &[example, &http, "--token", token, "--actor", "agent:test"],
    ] {
        let said = python(words);
        assert!(said.contains("seen: {'text': 'kept'}"), "{said}");
        assert!(said.contains("\nmessage "), "{said}");
        assert!(said.contains("verified: event"), "{said}");
    }
}

#[test]
fn a_call_is_sealed_for_the_auditors_that_the_manifest_names_and_for_nobody_else() {
    const SECRET: &str = "payroll-of-march";
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let run = |words: &[&str]| {
        let said = system_tests::output(Command::new(inputs().vector_boot()).args(words));
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (
            said.status.success(),
            text(said.stdout) + &text(said.stderr),
        )
    };
    let [first, second, third] = ["first", "second", "third"].map(|name| {
        let (made, public) = run(&["ledger", "auditor", &at(name)]);
        assert!(made, "{public}");
        assert_eq!(
            run(&["ledger", "auditor", &at(name)]).1,
            public,
            "made once"
        );
        public.trim().to_owned()
    });
    assert_ne!(first, third);
    let source =
        format!("extends = \"default\"\n[audit]\nrecipients = [\"{first}\", \"{second}\"]\n");
    std::fs::write(at("source"), source).unwrap();
    let (compiled, why) = run(&["rts", "manifest", &at("source"), "--out", &at("manifest")]);
    assert!(compiled, "{why}");
    let state = folder.path().join("state");
    let manifest = format!("vb.manifest={}", at("manifest"));
    let process = Process::ready(&state, &["--param", &manifest]);

    let tools = token(process.run(), "tenant-a", permission::TOOLS);
    let call = json!({"tool": "fs_read", "params": {"path": format!("{SECRET}.txt")}});
    let refused = process.call(Some(&tools), &call).body;
    assert_eq!(refused["error"]["code"], "target_missing", "{refused}");
    let id = refused["event_id"].as_u64().unwrap().to_string();
    let socket = process.run().join("ledger.sock");
    let ask =
        |words: &[&str]| run(&[&["ledger", "--socket", socket.to_str().unwrap()], words].concat());
    let told = format!("{{\"path\":\"{SECRET}.txt\"}}\n");
    for auditor in ["first", "second"] {
        let (opened, text) = ask(&["show", &id, "--key", &at(auditor)]);
        assert!(opened && text.ends_with(&told), "{auditor}: {text}");
    }
    let (opened, why) = ask(&["show", &id, "--key", &at("third")]);
    assert!(
        !opened && why.contains("not sealed for this auditor"),
        "{why}"
    );
    // Not even the machine's owner: no key that it could hand out opens what others are to read.
    let (_, key) = ask(&["audit-key", "tenant-a"]);
    std::fs::write(at("tenant"), key).unwrap();
    let (opened, why) = ask(&["show", &id, "--key", &at("tenant")]);
    assert!(
        !opened && why.contains("for the machine's auditors"),
        "{why}"
    );
    let (_, row) = ask(&["show", &id]);
    assert!(
        row.contains("\"sealed\":\"v2.") && !row.contains(SECRET),
        "{row}"
    );
    drop(process);
    let files = files_below(&state);
    assert!(
        files.iter().any(|path| path.ends_with("ledger.log")),
        "{files:?}"
    );
    for path in files {
        let bytes = std::fs::read(&path).unwrap();
        let found = bytes.windows(SECRET.len()).any(|w| w == SECRET.as_bytes());
        assert!(!found, "{}", path.display());
    }
}

/// Every regular file below a folder.
fn files_below(folder: &Path) -> Vec<std::path::PathBuf> {
    let mut files = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap().map(Result::unwrap) {
            match entry.file_type().unwrap() {
                kind if kind.is_dir() => folders.push(entry.path()),
                kind if kind.is_file() => files.push(entry.path()),
                _ => {}
            }
        }
    }
    files
}

fn sealed_parameters_open_for_their_auditor_alone(process: &Process, folder: &Path, token: &str) {
    let call = json!({"tool": "fs_read", "params": {"path": "welcome.txt"}});
    let called = process.call(Some(token), &call).body;
    let id = called["event_id"].as_u64().unwrap().to_string();
    let path = format!("/v1/ledger/events/{id}");
    let row = process.http(&path, Some(token), None).body;
    let text = row.to_string();
    assert!(!text.contains("welcome.txt"), "{text}");
    let sealed = row["payload"]["sealed"].as_str().unwrap();
    assert!(sealed.starts_with("v1."), "{text}");

    let socket = process.run().join("ledger.sock");
    let ask = |words: &[&str]| {
        let mut ledger = Command::new(inputs().vector_boot());
        ledger
            .arg("ledger")
            .arg("--socket")
            .arg(&socket)
            .args(words);
        system_tests::output(&mut ledger)
    };
    let key = |tenant: &str| {
        let said = ask(&["audit-key", tenant]);
        assert!(said.status.success(), "{said:?}");
        let path = folder.join(format!("{tenant}.key"));
        std::fs::write(&path, said.stdout).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let said = ask(&["show", &id, "--key", &key("tenant-a")]);
    let text = String::from_utf8(said.stdout).unwrap();
    assert!(text.ends_with("{\"path\":\"welcome.txt\"}\n"), "{text}");
    let said = ask(&["show", &id, "--key", &key("tenant-b")]);
    let why = String::from_utf8(said.stderr).unwrap();
    assert!(
        !said.status.success() && why.contains("the key of tenant-b"),
        "{why}"
    );
    let said = ask(&["query", "--type", "audit_key_exported", "--json"]);
    let text = String::from_utf8(said.stdout).unwrap();
    assert!(
        text.contains("tenant-a") && text.contains("tenant-b"),
        "{text}"
    );
    let line = json!({"type": "audit_key", "tenant": "tenant-a"});
    let refused = process
        .http("/v1/ledger/rpc", Some(token), Some(&line))
        .body;
    assert_eq!(
        lines(&refused)[0]["error"]["code"],
        "POLICY_DENY",
        "{refused}"
    );
}
