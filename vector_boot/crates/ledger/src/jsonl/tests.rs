//! Lines as each role would send them, over a real ledger on a file; what is hostile, too.

mod bus;

use super::*;
use crate::committer::Committer;
use crate::device::Access;
use crate::log::Birth;
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
