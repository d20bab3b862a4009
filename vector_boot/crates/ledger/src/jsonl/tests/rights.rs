//! Every refusal by a rule is an event with that rule, and `policy.explain` says what would happen.

use super::*;
use crate::identity::Caller;
use crate::planes::{Moment, Planes};
use ledger_core::Body;

const NOBODYS: &str = "0000000000000000000000000000000000000000000000000000000000000000";

#[test]
fn each_refusal_by_a_rule_is_an_event_of_who_was_refused() {
    let house = House::new();
    let (mut owner, mut gateway) = (house.connect(Role::Operator), house.connect(Role::Gateway));
    let mut user = house.connect(Role::User(30_001));
    let mut refused = 0;
    for (request, code, rule) in [
        (
            json!({"type": "bus.publish", "topic": "t"}),
            "POLICY_DENY",
            "default:deny",
        ),
        (
            json!({"type": "bus.subscribe", "topic": "t", "tenant_id": "b"}),
            "POLICY_DENY",
            "default:deny",
        ),
        (
            json!({"type": "job.claim", "queue": "q"}),
            "POLICY_DENY",
            "default:deny",
        ),
        (
            json!({"type": "blob.get", "pointer": NOBODYS}),
            "POLICY_DENY",
            "default:deny",
        ),
        (
            json!({"type": "fold_state", "ns": "x", "spec": NOBODYS}),
            "POLICY_DENY",
            "default:deny",
        ),
        (
            json!({"type": "epoch.new"}),
            "POLICY_DENY",
            "owner:epoch.new",
        ),
        (json!({"type": "compact"}), "POLICY_DENY", "owner:compact"),
        (
            json!({"type": "cache.rebuild"}),
            "POLICY_DENY",
            "owner:cache.rebuild",
        ),
        (
            json!({"type": "audit_key", "tenant": "a"}),
            "POLICY_DENY",
            "owner:audit_key",
        ),
        (json!({"type": "metrics"}), "POLICY_DENY", "owner:metrics"),
        (
            json!({"type": "witness.add", "checkpoint": "", "witness": ""}),
            "POLICY_DENY",
            "owner:witness.add",
        ),
        (
            json!({"type": "query", "filters": {"tenant": "b"}}),
            "POLICY_DENY",
            "identity:tenant",
        ),
        (
            json!({"type": "append_event", "ns": "x", "actor": "agent:b", "event": {"type": "x"}}),
            "BAD_ACTOR",
            "identity:actor",
        ),
        (
            json!({"type": "append_event", "ns": "system", "actor": "agent:a", "event": {"type": "x"}}),
            "BAD_NS",
            "identity:ns",
        ),
        (
            json!({"type": "append_event", "ns": "x", "actor": "agent:a", "event": {"type": "job.claimed"}}),
            "POLICY_DENY",
            "kinds:reserved",
        ),
        (
            json!({"type": "key.revoke", "actor": "agent:b", "key": NOBODYS}),
            "BAD_ACTOR",
            "identity:actor",
        ),
    ] {
        let answer = gateway.ask_as("agent:a", "a", request.clone());
        assert_eq!(Peer::code(&answer), code, "{request}: {answer}");
        assert_eq!(answer["error"]["rule"], rule, "{request}");
        refused += 1;
    }
    // A peer that speaks for another, a service of a user, one of the machine's own.
    let on_behalf = json!({"type": "ping", "as": {"actor": "agent:a", "tenant": "a"}});
    let mut stranger = house.connect(Role::Stranger(1000));
    for answer in [
        user.ask(&on_behalf),
        user.ask(&json!({"type": "epoch.new"})),
        gateway.ask(&json!({"type": "epoch.new"})),
        stranger.ask(&json!({"type": "head"})),
    ] {
        assert!(answer["error"]["rule"].is_string(), "{answer}");
    }
    house.committer.ledger().say_denials(true);
    let mut query =
        json!({"type": "query", "id": 7, "filters": {"type": "policy.denied", "tenant": "a"}});
    // What was said of it waits for nobody.
    let note = json!({"type": "append_event", "ns": "system", "actor": "user:operator", "event": {"type": "note"}});
    assert_eq!(Peer::code(&owner.ask(&note)), "ok");
    let told = owner.events(&query);
    let count = |e: &Value| e["payload"]["count"].as_u64().unwrap();
    assert_eq!(told.iter().map(count).sum::<u64>(), refused, "{told:?}");
    for (tenant, refused) in [("uid-30001", 2), ("system", 2)] {
        query["filters"]["tenant"] = tenant.into();
        let told = owner.events(&query);
        assert_eq!(
            told.iter().map(count).sum::<u64>(),
            refused,
            "{tenant}: {told:?}"
        );
    }
}

#[test]
fn explain_says_what_would_happen() {
    let house = House::new();
    let (mut owner, mut gateway) = (house.connect(Role::Operator), house.connect(Role::Gateway));
    let text = "vb-policy 1\nallow *";
    let set = json!({"type": "policy.set", "id": 1, "name": "all", "text": text});
    assert_eq!(Peer::code(&owner.ask(&set)), "ok");
    let calls = [
        ("audit_key", json!({"tenant": "a"})),
        ("metrics", json!({})),
        ("doctor", json!({})),
        ("epoch.new", json!({})),
        (
            "grant",
            json!({"to": "agent:z", "tenant": "a", "caps": ["x"]}),
        ),
        ("bus.lag", json!({})),
        (
            "append_event",
            json!({"ns": "system", "actor": "agent:a", "event": {"type": "x"}}),
        ),
    ];
    for (call, members) in calls {
        let on = members["ns"].as_str().unwrap_or_default();
        let mut request = members.clone();
        request["type"] = call.into();
        let explain = json!({"type": "policy.explain", "call": call, "on": on});
        let by_itself = gateway.ask_as("agent:a", "a", explain.clone());
        let mut by_owner = explain.clone();
        by_owner["actor"] = "agent:a".into();
        by_owner["tenant"] = "a".into();
        let mut by_owner = owner.ask(&by_owner);
        by_owner.as_object_mut().unwrap().remove("id");
        let mut told = by_itself.clone();
        told.as_object_mut().unwrap().remove("id");
        assert_eq!(told, by_owner, "{call}");
        let answer = gateway.ask_as("agent:a", "a", request);
        match told["allowed"].as_bool().unwrap() {
            false => assert_eq!(answer["error"]["rule"], told["rule"], "{call}: {answer}"),
            true => assert!(
                !matches!(&*Peer::code(&answer), "BAD_ACTOR" | "BAD_NS")
                    && answer["error"]["rule"] != told["rule"],
                "{call}: {answer}"
            ),
        }
        // And of the machine's own, by their names.
        let mut of_gateway = explain.clone();
        of_gateway["actor"] = "service:gateway".into();
        assert_eq!(
            owner.ask(&of_gateway)["allowed"],
            gateway.ask(&explain)["allowed"],
            "{call}"
        );
    }
    // Kept until here, so that every one of those above was judged alike.
    let mut console = house.connect(Role::Console);
    let explain = json!({"type": "policy.explain", "call": "audit_key"});
    assert_eq!(console.ask(&explain)["allowed"], true);
}

#[test]
fn what_a_call_does_beside_its_name_is_judged_at_its_turn_too() {
    let mut planes = Planes::default();
    let payload =
        "{\"name\":\"p\",\"text\":\"vb-policy 1\\nallow bus.ack\\ndeny append_event on=gone\"}";
    let body = Body {
        timestamp_ns: 0,
        wall_ns: 0,
        ulid: [0; 16],
        tenant_tag: [0; 8],
        ns: "policy",
        actor: "user:operator",
        tenant_id: "system",
        event_type: "policy.set",
        subject: "p",
        payload,
        causation_id: None,
        origin: None,
        sig: None,
    };
    let moment = Moment {
        wall_ns: 1,
        monotonic_ns: 1,
        next_id: 2,
    };
    let plea = Caller::named("agent:a", Some("a")).plea("bus.ack", "t");
    assert!(plea.still(&planes, &moment).is_err(), "not granted yet");
    planes.apply(1, &body);
    assert_eq!(plea.still(&planes, &moment), Ok(()));
    let refused = plea.and("append_event", "gone").still(&planes, &moment);
    assert_eq!(refused.unwrap_err().rule.as_deref(), Some("p:3"));
    // The machine's own are not the policy's.
    let own = Caller::named("service:capacity", None).plea("anything", "gone");
    assert_eq!(own.still(&planes, &moment), Ok(()));
}
