//! Lines as each role would send them, over a real ledger on a file; what is hostile, too.

mod bus;
mod proofs;
mod rights;
mod worlds;

use super::*;
use crate::committer::Committer;
use crate::device::Access;
use crate::log::Birth;
use crate::query::hex;
use crate::visitors::Visitors;
use crate::{clock, open};
use ipc::Served;
use serde_json::{Value, json};
use sys::packet::Peer as Credentials;

/// A ledger of its own, and the folder that it lies in.
struct House {
    committer: Committer,
    visitors: Visitors,
    _folder: tempfile::TempDir,
}

/// One connection.
struct Peer {
    stream: UnixStream,
    reader: BufReader<UnixStream>,
}

const LIMIT: Duration = Duration::from_secs(60);

impl House {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        std::fs::File::create(&path).unwrap();
        let device = open::path(&path, Access::Write).unwrap();
        let birth = Birth {
            log_id: clock::random(),
            tag_key: clock::random(),
            wall_ns: clock::wall_ns(),
            segment_bytes_max: ledger_core::SEGMENT_BYTES_MIN * 64,
        };
        let (committer, _) = Committer::start(device, &birth).unwrap();
        Self {
            committer,
            visitors: Visitors::default(),
            _folder: folder,
        }
    }

    fn connect(&self, role: Role) -> Peer {
        let (stream, served) = UnixStream::pair().unwrap();
        let peer = Credentials {
            pid: 1,
            uid: role.uid(),
        };
        let visit = self.visitors.admit(Served { peer, role }).unwrap();
        let ledger = self.committer.ledger().clone();
        std::thread::spawn(move || serve(served, &visit, &ledger));
        stream.set_read_timeout(Some(LIMIT)).unwrap();
        let reader = BufReader::new(stream.try_clone().unwrap());
        Peer { stream, reader }
    }
}

impl Peer {
    fn send(&mut self, line: &[u8]) {
        self.stream.write_all(line).unwrap();
        self.stream.write_all(b"\n").unwrap();
    }

    fn next(&mut self) -> Value {
        let mut line = String::new();
        self.reader.read_line(&mut line).unwrap();
        serde_json::from_str(&line).unwrap_or_else(|e| panic!("{line:?}: {e}"))
    }

    fn ask(&mut self, request: &Value) -> Value {
        self.send(request.to_string().as_bytes());
        self.next()
    }

    /// As the holder of a token, through the gateway.
    fn ask_as(&mut self, actor: &str, tenant: &str, mut request: Value) -> Value {
        request["as"] = json!({"actor": actor, "tenant": tenant});
        self.ask(&request)
    }

    /// The code of a refusal, or `ok`.
    fn code(answer: &Value) -> String {
        match answer["ok"].as_bool() {
            Some(true) => "ok".to_owned(),
            _ => answer["error"]["code"].as_str().unwrap().to_owned(),
        }
    }

    /// All events that a query shows.
    fn events(&mut self, request: &Value) -> Vec<Value> {
        self.send(request.to_string().as_bytes());
        let mut events = Vec::new();
        loop {
            let line = self.next();
            if line["event"].is_object() {
                events.push(line["event"].clone());
            } else if line["ok"].is_boolean() {
                assert_eq!(line["ok"], true, "{line}");
                return events;
            }
        }
    }
}

#[test]
fn a_tenant_does_what_is_granted_and_its_refusals_are_events_with_their_rule() {
    let house = House::new();
    let (mut owner, mut gateway) = (house.connect(Role::Operator), house.connect(Role::Gateway));
    let explain = json!({"type": "policy.explain", "id": 1, "call": "exec", "on": "run"});
    let answer = gateway.ask_as("agent:a", "t", explain.clone());
    assert_eq!(
        (
            answer["allowed"].as_bool(),
            answer["rule"].as_str(),
            answer["reason"].as_str()
        ),
        (
            Some(false),
            Some("default:deny"),
            Some("caps missing: exec:run")
        ),
        "{answer}"
    );
    let granted = owner.ask(&json!({
        "type": "grant", "id": 2, "to": "agent:a", "tenant": "t", "caps": ["exec:run*"], "expires_s": 1000
    }));
    assert_eq!(Peer::code(&granted), "ok", "{granted}");
    let grant = granted["grant"].as_u64().unwrap();
    let rule = gateway.ask_as("agent:a", "t", explain.clone())["rule"].clone();
    assert_eq!(rule, format!("grant:{grant}"));
    // It hands a part of it on, and no more; all of that ends with the first.
    let hand_on = |caps: &str| json!({"type": "grant", "id": 3, "to": "agent:b", "caps": [caps], "expires_s": 10});
    let more = gateway.ask_as("agent:a", "t", hand_on("exec"));
    assert_eq!(Peer::code(&more), "POLICY_DENY", "{more}");
    assert_eq!(
        Peer::code(&gateway.ask_as("agent:a", "t", hand_on("exec:run"))),
        "ok"
    );
    let allowed = |answer: &Value| answer["allowed"].as_bool().unwrap();
    assert!(allowed(&gateway.ask_as("agent:b", "t", explain.clone())));
    assert!(!allowed(&gateway.ask_as("agent:b", "u", explain.clone())));
    let revoke = json!({"type": "revoke", "id": 4, "grant": grant});
    assert_eq!(
        Peer::code(&gateway.ask_as("agent:b", "t", revoke.clone())),
        "POLICY_DENY"
    );
    assert_eq!(
        Peer::code(&gateway.ask_as("agent:x", "u", revoke.clone())),
        "NOT_FOUND"
    );
    assert_eq!(Peer::code(&owner.ask(&revoke)), "ok");
    assert!(!allowed(&gateway.ask_as("agent:b", "t", explain.clone())));
    // A document of rules decides over what is theirs by nature too.
    let text = "vb-policy 1\n\ndeny append_event on=finance actor=agent:*";
    let set = json!({"type": "policy.set", "id": 5, "name": "exec.rgs", "text": text});
    assert_eq!(
        Peer::code(&gateway.ask_as("agent:a", "t", set.clone())),
        "POLICY_DENY"
    );
    assert_eq!(Peer::code(&gateway.ask(&set)), "POLICY_DENY");
    let append = json!({"type": "append_event", "id": 6, "ns": "finance", "actor": "agent:a", "event": {"type": "note"}});
    assert_eq!(
        Peer::code(&gateway.ask_as("agent:a", "t", append.clone())),
        "ok"
    );
    let set = owner.ask(&set);
    assert_eq!(
        (Peer::code(&set), set["rules"].as_u64()),
        ("ok".to_owned(), Some(1))
    );
    for _ in 0..5 {
        let denied = gateway.ask_as("agent:a", "t", append.clone());
        assert_eq!(
            denied["error"],
            json!({"code": "POLICY_DENY", "rule": "exec.rgs:3", "reason": "deny append_event on=finance actor=agent:*"})
        );
    }
    // Nobody waits for what is said of a refusal: what comes behind it is waited for.
    house.committer.ledger().say_denials(true);
    let note = json!({"type": "append_event", "id": 8, "ns": "system", "actor": "user:operator", "event": {"type": "note"}});
    assert_eq!(Peer::code(&owner.ask(&note)), "ok");
    let mut denials = json!({"type": "query", "id": 7, "filters": {"type": "policy.denied"}});
    let told = owner.events(&denials);
    let of_rule: Vec<&Value> = told
        .iter()
        .filter(|e| e["payload"]["rule"] == "exec.rgs:3")
        .collect();
    let sum: u64 = of_rule
        .iter()
        .map(|e| e["payload"]["count"].as_u64().unwrap())
        .sum();
    assert_eq!((of_rule.len(), sum), (2, 5), "{told:?}");
    assert_eq!(of_rule[0]["tenant_id"], "t");
    // The tenant sees its own, another sees none.
    denials["as"] = json!({"actor": "agent:z", "tenant": "z"});
    assert!(gateway.events(&denials).is_empty());
}

#[test]
fn the_machine_s_roles_keep_what_they_had_and_users_services_do_not_rule() {
    let house = House::new();
    let mut user = house.connect(Role::User(30_001));
    for (kind, code) in [
        ("policy.set", "POLICY_DENY"),
        ("doctor", "POLICY_DENY"),
        ("verify", "POLICY_DENY"),
        ("head", "ok"),
        ("ping", "ok"),
    ] {
        let answer = user.ask(&json!({"type": kind, "id": 1, "name": "a", "text": ""}));
        assert_eq!(Peer::code(&answer), code, "{kind}: {answer}");
    }
    let mut capacity = house.connect(Role::Capacity);
    let append = json!({"type": "append_event", "id": 1, "ns": "capacity", "actor": "service:capacity", "event": {"type": "note"}});
    assert_eq!(Peer::code(&capacity.ask(&append)), "ok");
    let grant = json!({"type": "grant", "id": 1, "to": "agent:a", "tenant": "t", "caps": ["*"]});
    assert_eq!(Peer::code(&capacity.ask(&grant)), "POLICY_DENY");
    assert_eq!(Peer::code(&house.connect(Role::Console).ask(&grant)), "ok");
    let mut stranger = house.connect(Role::Stranger(1000));
    assert_eq!(
        Peer::code(&stranger.ask(&json!({"type": "head", "id": 1}))),
        "BAD_ACTOR"
    );
}

#[test]
fn two_revisions_of_the_policy_cannot_both_be_the_next() {
    let house = House::new();
    let mut owner = house.connect(Role::Operator);
    let set = json!({"type": "policy.set", "id": 1, "name": "a", "text": "vb-policy 1\nallow x", "revision": 0});
    assert_eq!(Peer::code(&owner.ask(&set)), "ok");
    assert_eq!(Peer::code(&owner.ask(&set)), "CONFLICT");
}

/// An event that is signed by this key, as a request.
fn signed(
    key: &ed25519_dalek::SigningKey,
    ulid: [u8; 16],
    actor: &str,
    tenant: &str,
    no: u64,
) -> Value {
    use ed25519_dalek::Signer;
    let payload = format!("{{\"no\":{no}}}");
    let body = ledger_core::Body {
        timestamp_ns: 0,
        wall_ns: 0,
        ulid,
        tenant_tag: [0; 8],
        ns: "finance",
        actor,
        tenant_id: tenant,
        event_type: "invoice_paid",
        subject: "7",
        payload: &payload,
        causation_id: None,
        origin: None,
        sig: None,
    };
    let sig = key.sign(ledger_core::keys::event_text(&body).as_bytes());
    json!({"type": "append_event", "id": 1, "ns": "finance", "actor": actor, "event": {
        "type": "invoice_paid", "subject": "7", "payload": {"no": no},
        "ulid": ledger_core::ulid::text(&ulid), "sig": hex(&sig.to_bytes()),
    }})
}

#[test]
fn a_signature_counts_by_a_registered_key_of_the_actor_and_serves_once() {
    use ed25519_dalek::{Signer, SigningKey};
    let house = House::new();
    let (mut owner, mut gateway) = (house.connect(Role::Operator), house.connect(Role::Gateway));
    let key = SigningKey::from_bytes(&[9; 32]);
    let public = hex(&key.verifying_key().to_bytes());
    let mut register = |actor: &str, tenant: &str, of: &str| {
        let sig = key.sign(ledger_core::keys::key_text(tenant, of).as_bytes());
        let request = json!({"type": "key.register", "id": 1, "actor": of, "key": public, "sig": hex(&sig.to_bytes())});
        Peer::code(&gateway.ask_as(actor, tenant, request))
    };
    assert_eq!(register("agent:a", "t", "agent:b"), "BAD_ACTOR");
    assert_eq!(register("agent:a", "t", "agent:a"), "ok");
    assert_eq!(register("agent:a", "t", "agent:a"), "DUPLICATE");
    // A signature of another text registers nothing.
    let sig = key.sign(ledger_core::keys::key_text("t", "agent:a").as_bytes());
    let wrong =
        json!({"type": "key.register", "id": 1, "key": public, "sig": hex(&sig.to_bytes())});
    assert_eq!(
        Peer::code(&gateway.ask_as("agent:b", "t", wrong)),
        "BAD_SIG"
    );
    let good = signed(&key, [1; 16], "agent:a", "t", 7);
    assert_eq!(
        Peer::code(&gateway.ask_as("agent:a", "t", good.clone())),
        "ok"
    );
    let again = gateway.ask_as("agent:a", "t", good.clone());
    assert_eq!(Peer::code(&again), "DUPLICATE", "{again}");
    // The same ULID is another's to use in another tenant, unsigned.
    let mut other = good.clone();
    other["event"].as_object_mut().unwrap().remove("sig");
    assert_eq!(
        Peer::code(&gateway.ask_as("agent:a", "u", other.clone())),
        "ok"
    );
    other["events"] = json!([other["event"], other["event"]]);
    other.as_object_mut().unwrap().remove("event");
    other["events"][0]["ulid"] = "00000000000000000000000042".into();
    other["events"][1]["ulid"] = "00000000000000000000000042".into();
    assert_eq!(
        Peer::code(&gateway.ask_as("agent:a", "u", other)),
        "DUPLICATE"
    );
    for (place, value) in [
        ("payload", json!({"no": 8})),
        ("subject", json!("8")),
        ("type", json!("invoice_lost")),
        ("ulid", json!("00000000000000000000000043")),
        ("sig", json!("00".repeat(64))),
    ] {
        let mut bad = signed(&key, [2; 16], "agent:a", "t", 7);
        bad["event"][place] = value;
        assert_eq!(
            Peer::code(&gateway.ask_as("agent:a", "t", bad)),
            "BAD_SIG",
            "{place}"
        );
    }
    let no_ulid = json!({"type": "append_event", "id": 1, "ns": "finance", "actor": "agent:a", "event": {"type": "x", "sig": "00".repeat(64)}});
    assert_eq!(
        Peer::code(&gateway.ask_as("agent:a", "t", no_ulid)),
        "BAD_REQUEST"
    );
    // It lies in the log, with its key, and holds for who reads it there.
    let query =
        json!({"type": "query", "id": 2, "filters": {"type": "invoice_paid", "tenant": "t"}});
    let shown = owner.events(&query);
    let sig = shown[0]["sig"].as_str().unwrap();
    assert_eq!(
        (shown.len(), sig.len(), sig.starts_with(&public)),
        (1, 192, true)
    );
    let id = shown[0]["id"].as_u64().unwrap();
    let held = house
        .committer
        .ledger()
        .reader()
        .event(id, |_, _, body| ledger_core::keys::holds(body));
    assert!(held.unwrap());
    // Another's key is none of this actor; a revoked one is none either.
    assert_eq!(
        Peer::code(&gateway.ask_as("agent:b", "t", signed(&key, [3; 16], "agent:b", "t", 1))),
        "BAD_SIG"
    );
    let revoke = json!({"type": "key.revoke", "id": 1, "key": public});
    assert_eq!(
        Peer::code(&gateway.ask_as("agent:a", "u", revoke.clone())),
        "NOT_FOUND"
    );
    assert_eq!(Peer::code(&gateway.ask_as("agent:a", "t", revoke)), "ok");
    assert_eq!(
        Peer::code(&gateway.ask_as("agent:a", "t", signed(&key, [4; 16], "agent:a", "t", 1))),
        "BAD_SIG"
    );
}

/// What a tenant may ask that could tell it of others; each answer, and each refusal.
fn curious(marks: &[&str]) -> Vec<Value> {
    let mut all = vec![
        json!({"type": "query"}),
        json!({"type": "query", "order": "desc", "limit": 1}),
        json!({"type": "query", "filters": {"causation": 1}}),
        json!({"type": "query", "from": 1, "limit": 1}),
        json!({"type": "policy.explain", "call": "exec", "on": "secret-plan"}),
        json!({"type": "doctor"}),
        json!({"type": "verify"}),
        json!({"type": "bus.lag", "topic": "secret-topic"}),
        json!({"type": "job.claim", "queue": "secret-queue"}),
        json!({"type": "key.revoke", "key": "00".repeat(32)}),
    ];
    for id in 1..=8 {
        all.push(json!({"type": "revoke", "grant": id}));
        all.push(json!({"type": "proof.inclusion", "event_id": id}));
        all.push(json!({"type": "append_event", "ns": "x", "actor": "agent:spy", "event": {"type": "x", "causation_id": id}}));
    }
    for mark in marks {
        all.push(json!({"type": "query", "filters": {"tenant": mark}}));
        all.push(json!({"type": "query", "filters": {"actor": mark}}));
        all.push(json!({"type": "policy.explain", "call": "exec", "actor": mark}));
        all.push(json!({"type": "grant", "to": mark, "tenant": mark, "caps": ["exec"]}));
        all.push(json!({"type": "append_event", "ns": "x", "actor": mark, "event": {"type": "x"}}));
        all.push(json!({"type": "fold_state", "ns": mark, "channel": mark, "spec": {"reducer": "append"}}));
        all.push(json!({"type": "blob.get", "pointer": mark}));
    }
    all
}

#[test]
fn no_answer_to_one_tenant_tells_anything_of_another() {
    let house = House::new();
    let (mut owner, mut gateway) = (house.connect(Role::Operator), house.connect(Role::Gateway));
    // Words that are the victim's alone.
    let marks = [
        "agent:victim",
        "victims",
        "secret-ns",
        "secret-subject",
        "secret-plan-b",
    ];
    for no in 0..4 {
        let append = json!({"type": "append_event", "id": 1, "ns": "secret-ns", "actor": "agent:victim", "event": {
            "type": "custom(secret-kind)", "subject": "secret-subject", "payload": {"secret-key": format!("secret-value-{no}")}
        }});
        assert_eq!(
            Peer::code(&gateway.ask_as("agent:victim", "victims", append)),
            "ok"
        );
    }
    let grant = json!({"type": "grant", "id": 1, "to": "agent:victim", "tenant": "victims", "caps": ["exec:secret-plan-b"]});
    assert_eq!(Peer::code(&owner.ask(&grant)), "ok");
    let deny = json!({"type": "job.claim", "id": 1, "queue": "secret-plan-b"});
    assert_eq!(
        Peer::code(&gateway.ask_as("agent:victim", "victims", deny)),
        "POLICY_DENY"
    );
    // A subscription from the beginning, which must stay silent but for the spy's own.
    let mut watch = house.connect(Role::Gateway);
    let begun = watch.ask_as(
        "agent:spy",
        "spies",
        json!({"type": "subscribe", "id": 2, "from": 1}),
    );
    assert_eq!(Peer::code(&begun), "ok");
    let hidden = [
        "victim",
        "secret-ns",
        "secret-kind",
        "secret-subject",
        "secret-key",
        "secret-value",
        "plan-b",
    ];
    for mut request in curious(&marks) {
        request["id"] = 3.into();
        request["as"] = json!({"actor": "agent:spy", "tenant": "spies"});
        let asked = request.to_string();
        gateway.send(asked.as_bytes());
        loop {
            let line = gateway.next();
            let mut text = line.to_string();
            // What it wrote itself may come back to it.
            for word in hidden.iter().filter(|word| asked.contains(**word)) {
                text = text.replace(word, "");
            }
            for word in hidden {
                assert!(!text.contains(word), "{asked}\n{line}");
            }
            if line["ok"].is_boolean() {
                break;
            }
        }
    }
    let own = json!({"type": "append_event", "id": 4, "ns": "last", "actor": "agent:spy", "event": {"type": "last"}});
    assert_eq!(Peer::code(&gateway.ask_as("agent:spy", "spies", own)), "ok");
    loop {
        let event = watch.next()["event"].take();
        assert_eq!(event["tenant_id"], "spies", "{event}");
        if event["ns"] == "last" {
            break;
        }
    }
}

#[test]
fn an_object_that_is_and_one_that_is_not_are_refused_in_the_same_words() {
    let house = House::new();
    let (mut owner, mut gateway) = (house.connect(Role::Operator), house.connect(Role::Gateway));
    let grant = json!({"type": "grant", "id": 1, "to": "agent:victim", "tenant": "victims", "caps": ["exec"]});
    let there = owner.ask(&grant)["grant"].as_u64().unwrap();
    let mut refusal = |grant: u64| {
        let answer = gateway.ask_as(
            "agent:spy",
            "spies",
            json!({"type": "revoke", "id": 1, "grant": grant}),
        );
        answer["error"].to_string()
    };
    assert_eq!(refusal(there), refusal(there + 1000));
}

#[test]
fn hostile_lines_are_refused_with_a_code_and_the_connection_goes_on() {
    let house = House::new();
    let mut peer = house.connect(Role::Operator);
    let event = |members: &str| {
        format!(
            r#"{{"type":"append_event","id":1,"ns":"x","actor":"user:x","event":{{"type":"x"{members}}}}}"#
        )
    };
    let deep = format!(
        r#"{{"type":"ping","id":1,"x":{}{}}}"#,
        "[".repeat(70),
        "]".repeat(70)
    );
    for (line, code) in [
        (b"\xff\xfe{}".to_vec(), "BAD_REQUEST"),
        (
            b"{\"type\":\"ping\",\"id\":\"\xc3\x28\"}".to_vec(),
            "BAD_REQUEST",
        ),
        (deep.into_bytes(), "BAD_REQUEST"),
        (
            b"{\"type\":\"ping\",\"type\":\"head\"}".to_vec(),
            "BAD_REQUEST",
        ),
        (
            b"{\"type\":\"ping\",\"\\u0074ype\":\"head\"}".to_vec(),
            "BAD_REQUEST",
        ),
        (b"[]".to_vec(), "BAD_REQUEST"),
        (b"{\"type\":\"ping\",\"id\":-1}".to_vec(), "BAD_REQUEST"),
        (b"{\"type\":\"ping\",\"id\":1.5}".to_vec(), "BAD_REQUEST"),
        (b"{\"type\":\"ping\",\"id\":{}}".to_vec(), "BAD_REQUEST"),
        (b"{\"type\":\"pong\",\"id\":1}".to_vec(), "BAD_REQUEST"),
        (event(r#","causation_id":0"#).into_bytes(), "BAD_CAUSATION"),
        (event(r#","causation_id":1"#).into_bytes(), "BAD_CAUSATION"),
        (
            event(r#","causation_id":18446744073709551615"#).into_bytes(),
            "BAD_CAUSATION",
        ),
        (event(r#","causation_id":"1""#).into_bytes(), "BAD_REQUEST"),
        (
            event(r#","payload":{"n":9007199254740993}"#).into_bytes(),
            "BAD_REQUEST",
        ),
        (event(r#","payload":[]"#).into_bytes(), "BAD_REQUEST"),
        (event(r#","tenant_id":"a b""#).into_bytes(), "BAD_REQUEST"),
        (event(r#","ulid":"x""#).into_bytes(), "BAD_REQUEST"),
        (
            event("")
                .replace("\"x\",\"actor", "\"a/b\",\"actor")
                .into_bytes(),
            "BAD_NS",
        ),
        (
            event("").replace("user:x", "root:x").into_bytes(),
            "BAD_ACTOR",
        ),
        (
            event("")
                .replace(
                    "\"event\":{\"type\":\"x\"",
                    "\"event\":{\"type\":\"bus.published\"",
                )
                .into_bytes(),
            "POLICY_DENY",
        ),
        (
            event("")
                .replace(
                    "\"event\":{\"type\":\"x\"",
                    "\"event\":{\"type\":\"secret_stored\"",
                )
                .into_bytes(),
            "BAD_REQUEST",
        ),
        (
            event("")
                .replace("\"event\":{", "\"event\":{\"sig\":\"00\",")
                .into_bytes(),
            "BAD_REQUEST",
        ),
    ] {
        peer.send(&line);
        let answer = peer.next();
        let shown = String::from_utf8_lossy(&line).into_owned();
        assert_eq!(Peer::code(&answer), code, "{shown}: {answer}");
        assert!(answer.to_string().len() < 1000, "{shown}: a short answer");
    }
    let written = peer.events(&json!({"type": "query", "id": 1}));
    let denials = written.iter().all(|e| e["event_type"] == "policy.denied");
    assert!(denials, "nothing else was written: {written:?}");
    assert_eq!(
        Peer::code(&peer.ask(&json!({"type": "ping", "id": "p"}))),
        "ok"
    );
    // A line of a megabyte and no more; what is over ends the connection.
    let big = event(&format!(r#","payload":{{"x":"{}"}}"#, "y".repeat(1 << 19)));
    peer.send(big.as_bytes());
    assert_eq!(Peer::code(&peer.next()), "ok");
    // Nothing behind it: the other end has hung up by then.
    let long = vec![b'x'; LINE_BYTES_MAX + 1];
    peer.stream.write_all(&long).unwrap();
    assert_eq!(Peer::code(&peer.next()), "TOO_LARGE");
}

mod lines {
    use super::*;
    use proptest::prelude::*;

    /// A request in which values were changed, taken out or put elsewhere.
    fn mangled() -> impl Strategy<Value = String> {
        let kinds = prop::sample::select(vec![
            "append_event",
            "query",
            "subscribe",
            "grant",
            "revoke",
            "policy.set",
            "policy.explain",
            "key.register",
            "key.revoke",
            "head",
            "bus.publish",
            "job.claim",
            "blob.get",
            "proof.inclusion",
            "fold_state",
            "epoch.new",
            "nonsense",
        ]);
        let value = prop_oneof![
            Just(json!(null)),
            Just(json!(true)),
            Just(json!(-1)),
            Just(json!(0)),
            Just(json!(1)),
            Just(json!(u64::MAX)),
            Just(json!(1e300)),
            Just(json!("")),
            Just(json!("agent:a")),
            Just(json!("x")),
            Just(json!("*")),
            Just(json!("00")),
            Just(json!([])),
            Just(json!({})),
            Just(json!([null, {"a": []}])),
            Just(json!({"type": "x", "payload": {}})),
            ".{0,12}".prop_map(|text| json!(text)),
        ];
        let key = prop::sample::select(vec![
            "id",
            "ns",
            "actor",
            "event",
            "events",
            "filters",
            "from",
            "limit",
            "order",
            "to",
            "caps",
            "tenant",
            "grant",
            "name",
            "text",
            "call",
            "on",
            "key",
            "sig",
            "topic",
            "queue",
            "job",
            "as",
            "payload",
            "spec",
            "channel",
            "size",
            "event_id",
            "expires_s",
            "revision",
        ]);
        (kinds, prop::collection::btree_map(key, value, 0..6)).prop_map(|(kind, members)| {
            let mut request = json!(members);
            request["type"] = kind.into();
            request.to_string()
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]

        #[test]
        fn whatever_is_sent_the_connection_answers_and_lives(all in prop::collection::vec(mangled(), 1..8)) {
            let house = House::new();
            for role in [Role::Operator, Role::Gateway, Role::User(30_001)] {
                let mut peer = house.connect(role);
                for line in &all {
                    peer.send(line.as_bytes());
                }
                peer.send(br#"{"type":"ping","id":"the end"}"#);
                let mut pong = json!(null);
                while pong["id"] != "the end" {
                    pong = peer.next();
                }
                prop_assert_eq!(&pong["pong"], true);
            }
        }
    }
}
