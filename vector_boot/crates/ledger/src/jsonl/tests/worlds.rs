//! Two worlds: in one a tenant is alone, in the other a second one is busy under the same names. The
//! answers to the first are the same, whatever it asks.

use super::*;
use crate::proofs::Keeper;
use proptest::prelude::*;
use std::collections::BTreeSet;

/// Every call of the protocol.
const CALLS: [&str; 40] = [
    "append_event",
    "audit_key",
    "blob.get",
    "blob.put",
    "blob.rekey",
    "blob.shred",
    "bus.ack",
    "bus.commit",
    "bus.lag",
    "bus.publish",
    "bus.shards",
    "bus.subscribe",
    "bus.unsubscribe",
    "cache.rebuild",
    "checkpoint",
    "compact",
    "doctor",
    "epoch.new",
    "fold_state",
    "fold_verify",
    "grant",
    "head",
    "job.claim",
    "job.enqueue",
    "job.release",
    "job.result",
    "key",
    "key.register",
    "key.revoke",
    "metrics",
    "ping",
    "policy.explain",
    "policy.set",
    "proof.consistency",
    "proof.inclusion",
    "query",
    "revoke",
    "subscribe",
    "verify",
    "witness.add",
];

/// What says only where in the log something lies, when it was, or by which dice.
const MASKED: [&str; 32] = [
    "as_of",
    "checkpoint",
    "claim",
    "commit_id",
    "entry",
    "event_id",
    "expires_us",
    "from",
    "from_root",
    "grant",
    "hashes",
    "held",
    "index",
    "key",
    "keys",
    "leaf",
    "line",
    "next",
    "object",
    "origin",
    "pointer",
    "previous",
    "proof",
    "published",
    "root",
    "size",
    "timestamp",
    "to",
    "to_root",
    "ulid",
    "vkey",
    "wall_clock",
];

/// Numbers of the whole log in a refusal's words.
const OF_THE_LOG: [&str; 8] = [
    "ulid is",
    "at is",
    "size is",
    "from is",
    "to is",
    "event_id is",
    "causation_id is",
    "claim is",
];

fn mask(value: &mut Value) {
    match value {
        Value::Object(members) => {
            let kind = members.get("event_type").and_then(Value::as_str);
            let (is_event, is_blob) = (
                kind.is_some(),
                // Its subject is a pointer.
                kind.is_some_and(|kind| kind.starts_with("blob.")),
            );
            for (key, value) in members.iter_mut() {
                let masked = MASKED.contains(&key.as_str())
                    || (is_event && key == "id")
                    || (is_blob && key == "subject");
                match (masked, key.as_str(), &*value) {
                    (_, _, Value::Null) => {}
                    (true, ..) | (_, "until_ms" | "causation_id", _) => *value = json!("*"),
                    (_, "reason", Value::String(text))
                        if OF_THE_LOG.iter().any(|of| text.starts_with(of)) =>
                    {
                        *value = text.replace(|c: char| c.is_ascii_digit(), "#").into();
                    }
                    _ => mask(value),
                }
            }
        }
        Value::Array(all) => all.iter_mut().for_each(mask),
        _ => {}
    }
}

/// What a tenant was given and may name again.
#[derive(Default)]
struct Own {
    events: Vec<Value>,
    grants: Vec<Value>,
    claims: Vec<(Value, Value)>,
    pointers: Vec<Value>,
}

struct Tenant {
    name: &'static str,
    peer: Peer,
    own: Own,
}

impl Tenant {
    fn new(house: &House, name: &'static str) -> Self {
        let peer = house.connect(Role::Gateway);
        let own = Own::default();
        Self { name, peer, own }
    }

    /// A request by its number of the table and two dice.
    fn request(&self, call: &str, a: u8, b: u8) -> Value {
        let pick = |all: &[Value]| match all.len() {
            0 => json!(1_000_000_000),
            n => all[usize::from(a) % n].clone(),
        };
        let (topic, queue) = (format!("t{}", a % 3), format!("q{}", b % 2));
        let (consumer, ulid) = (format!("c{}", b % 2), format!("01J{:023}", b % 5));
        let (me, other) = (format!("agent:{}", self.name), "agent:b");
        let secret = format!("{}-secret", self.name);
        let who = if a.is_multiple_of(4) { other } else { &me };
        let tenant = if b.is_multiple_of(4) { "b" } else { self.name };
        let qos = ["at_most_once", "at_least_once", "exactly_once"][usize::from(a) % 3];
        let spec = json!({"fields": {"all": {"reducer": "append", "value": "/n"}}});
        let pointer = self
            .own
            .pointers
            .get(usize::from(a) % self.own.pointers.len().max(1));
        let pointer = pointer.cloned().unwrap_or("00".repeat(32).into());
        let (job, claim) = self
            .own
            .claims
            .last()
            .cloned()
            .unwrap_or(("11".repeat(32).into(), 1.into()));
        let mut request = match call {
            "append_event" if b.is_multiple_of(3) => {
                json!({"ns": "x", "actor": who, "events": [{"type": "note", "payload": {"n": a}}, {"type": "note", "tenant_id": tenant}]})
            }
            "append_event" => {
                json!({"ns": if a.is_multiple_of(5) { "system" } else { "x" }, "actor": who, "event": {"type": "note", "payload": {"n": a, "s": secret}, "ulid": format!("01K{:023}", a), "causation_id": pick(&self.own.events)}})
            }
            "query" => {
                json!({"filters": {"ns": (["x", "bus", "job", "policy"][usize::from(a) % 4]), "tenant": tenant}, "limit": 1 + b % 9, "order": (["asc", "desc"][usize::from(b) % 2])})
            }
            "subscribe" => json!({"from": "HEAD", "filters": {"tenant": tenant}}),
            "key.register" => json!({"actor": who, "key": "00".repeat(32), "sig": "00".repeat(64)}),
            "key.revoke" => json!({"actor": who, "key": "00".repeat(32)}),
            "policy.set" => json!({"name": "p", "text": "vb-policy 1\nallow *"}),
            "policy.explain" => {
                json!({"call": CALLS[usize::from(a) % CALLS.len()], "on": topic, "actor": who})
            }
            "grant" => {
                json!({"to": "agent:z", "tenant": tenant, "caps": [(if a.is_multiple_of(2) { "exec:run" } else { "all" })]})
            }
            "revoke" => json!({"grant": pick(&self.own.grants)}),
            "bus.publish" => {
                json!({"topic": topic, "qos": qos, "ulid": ulid, "payload": {"s": secret}, "tenant_id": tenant})
            }
            "bus.subscribe" => {
                json!({"topic": topic, "consumer": consumer, "from": 1, "tenant_id": tenant, "shards": (if a.is_multiple_of(7) { json!([70]) } else { Value::Null })})
            }
            // Never one that has a subscription here: that ends at a time of its own.
            "bus.unsubscribe" => json!({"topic": topic, "consumer": format!("{consumer}x")}),
            "bus.ack" => {
                json!({"topic": topic, "ulid": ulid, "consumer": (if a.is_multiple_of(2) { json!(consumer) } else { Value::Null })})
            }
            "bus.commit" => {
                json!({"topic": topic, "msg_ulid": ulid, "quorum": 1 + a % 2, "tenant_id": tenant})
            }
            "bus.shards" => json!({"topic": topic, "shards": 1 << (b % 9)}),
            "bus.lag" => {
                json!({"topic": (if a.is_multiple_of(2) { json!(topic) } else { Value::Null })})
            }
            "fold_state" => {
                json!({"ns": "x", "channel": "c", "spec": (if b.is_multiple_of(3) { pointer } else { spec }), "tenant_id": tenant})
            }
            "fold_verify" => {
                json!({"ns": "x", "channel": "c", "spec": spec, "state_root": "00".repeat(32)})
            }
            "job.enqueue" => json!({"queue": queue, "manifest": {"n": b % 4}, "tenant_id": tenant}),
            "job.claim" => json!({"queue": queue, "lease_ms": 3_600_000}),
            "job.release" => json!({"queue": queue, "job": job, "claim": claim}),
            "job.result" => {
                json!({"queue": queue, "job": job, "claim": claim, "proof": {"key": "00".repeat(32), "sig": "00".repeat(64), "attestation": {}}})
            }
            "blob.put" => json!({"ns": "x", "actor": who, "data": "c2VjcmV0", "tenant_id": tenant}),
            "blob.get" => json!({"pointer": pointer, "tenant_id": tenant}),
            "blob.rekey" => json!({"ns": "x", "actor": me, "pointer": pointer, "to": []}),
            "blob.shred" => json!({"ns": "x", "actor": me, "pointer": pointer}),
            "proof.inclusion" => {
                json!({"event_id": (if b.is_multiple_of(2) { pick(&self.own.events) } else { json!(1_000_000_000) })})
            }
            "proof.consistency" => json!({"from": 1}),
            "audit_key" => json!({"tenant": tenant}),
            _ => json!({}),
        };
        request["type"] = call.into();
        request["as"] = json!({"actor": me, "tenant": self.name});
        request
    }

    /// Asks, and gives all lines of the answer, masked; what subscriptions say in between is left out.
    fn ask(&mut self, no: usize, call: &str, a: u8, b: u8) -> Vec<Value> {
        let mut request = self.request(call, a, b);
        request["id"] = no.into();
        self.peer.send(request.to_string().as_bytes());
        let mut lines = Vec::new();
        loop {
            let mut line = self.peer.next();
            assert!(
                self.name == "b" || !line.to_string().contains("b-secret"),
                "{line}"
            );
            let mine = line["id"] == no && line["message"].is_null();
            if !mine || line["ack"] == true || line["progress"].is_number() {
                continue;
            }
            let last = line["ok"].is_boolean();
            if line["ok"] == true {
                self.remember(call, &line);
            }
            mask(&mut line);
            lines.push(line);
            if last {
                return lines;
            }
        }
    }

    fn remember(&mut self, call: &str, answer: &Value) {
        let own = &mut self.own;
        match call {
            "append_event" => own.events.extend(answer.get("event_id").cloned()),
            "grant" => own.grants.extend(answer.get("grant").cloned()),
            "job.claim" => own
                .claims
                .push((answer["job"].clone(), answer["claim"].clone())),
            "blob.put" => own.pointers.extend(answer.get("pointer").cloned()),
            _ => {}
        }
    }
}

type Step = (usize, u8, u8);

/// What tenant `a` is answered; `b` does as much between its calls, if it is there.
fn world(steps: &[Step], busy: bool) -> Vec<Vec<Value>> {
    let house = House::new();
    let keeper = Keeper::start(house.committer.ledger(), Some(house._folder.path()), None).unwrap();
    let mut owner = house.connect(Role::Operator);
    let text = "vb-policy 1\nallow bus.*\nallow job.*\nallow blob.*\nallow fold_verify";
    let set = json!({"type": "policy.set", "id": 1, "name": "all", "text": text});
    assert_eq!(Peer::code(&owner.ask(&set)), "ok");
    for tenant in ["a", "b"] {
        let grant = json!({"type": "grant", "id": 1, "to": format!("agent:{tenant}"), "tenant": tenant, "caps": ["exec:run*"], "expires_s": 100_000});
        assert_eq!(Peer::code(&owner.ask(&grant)), "ok");
    }
    let (mut a, mut b) = (Tenant::new(&house, "a"), Tenant::new(&house, "b"));
    let mut answers = Vec::new();
    for (no, (call, x, y)) in steps.iter().enumerate() {
        if busy {
            for n in 0..2 {
                let call = CALLS[(call + 7 * n + usize::from(*y)) % CALLS.len()];
                b.ask(no * 2 + n, call, y.wrapping_add(n as u8), *x);
            }
        }
        answers.push(a.ask(no, CALLS[*call], *x, *y));
    }
    drop((a, b, owner));
    keeper.stop();
    answers
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4, max_shrink_iters: 40, ..ProptestConfig::default() })]

    #[test]
    fn no_answer_to_a_tenant_depends_on_whether_there_is_another(
        mut steps in prop::collection::vec((0..CALLS.len(), any::<u8>(), any::<u8>()), 40),
        rest in any::<u8>(),
    ) {
        // Each call at least once, among as many by chance.
        steps.extend((0..CALLS.len()).map(|call| (call, rest.wrapping_mul(call as u8 | 1), rest.wrapping_add(call as u8))));
        let (alone, beside) = (world(&steps, false), world(&steps, true));
        for ((step, alone), beside) in steps.iter().zip(alone).zip(beside) {
            prop_assert_eq!(alone, beside, "{:?} {}", step, CALLS[step.0]);
        }
    }
}

#[test]
fn the_table_of_calls_is_whole() {
    let unique: BTreeSet<&str> = CALLS.into_iter().collect();
    assert_eq!(unique.len(), CALLS.len());
    assert!(CALLS.iter().all(|call| calls::find(call).is_some()));
}
