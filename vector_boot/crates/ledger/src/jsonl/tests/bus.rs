//! Bus, jobs and folds of two tenants through one gateway: neither learns anything of the other, and
//! neither does what the policy did not name.

use super::*;

const ULID: &str = "01J00000000000000000000001";

fn two_tenants() -> (House, Peer, Peer) {
    let house = House::new();
    let mut owner = house.connect(Role::Operator);
    let text = "vb-policy 1\nallow bus.* tenant=a\nallow bus.* tenant=b\nallow job.* on=q* tenant=a\nallow job.* on=q tenant=b\nallow fold_verify";
    let set = json!({"type": "policy.set", "id": 1, "name": "two", "text": text});
    assert_eq!(Peer::code(&owner.ask(&set)), "ok");
    let gateway = house.connect(Role::Gateway);
    (house, owner, gateway)
}

#[test]
fn two_tenants_share_no_topic_no_ulid_and_no_lag() {
    let (house, mut owner, mut gateway) = two_tenants();
    let publish = json!({"type": "bus.publish", "id": 1, "topic": "t", "qos": "exactly_once", "ulid": ULID, "payload": {"secret": 1}});
    assert_eq!(
        Peer::code(&gateway.ask_as("agent:c", "c", publish.clone())),
        "POLICY_DENY"
    );
    let mut as_a = |request: Value| gateway.ask_as("agent:a", "a", request);
    let first = as_a(publish.clone());
    assert_eq!(first["repeated"], false, "{first}");
    let from_a =
        json!({"type": "bus.subscribe", "id": "s", "topic": "t", "consumer": "w", "from": 1});
    let mut peer_of_a = house.connect(Role::Gateway);
    assert_eq!(
        Peer::code(&peer_of_a.ask_as("agent:a", "a", from_a.clone())),
        "ok"
    );
    assert_eq!(peer_of_a.next()["message"]["payload"], json!({"secret": 1}));
    // The same names are another's business, and free.
    let mut gateway = house.connect(Role::Gateway);
    let mut as_b = |request: Value| gateway.ask_as("agent:b", "b", request);
    for (request, code) in [
        (
            json!({"type": "bus.ack", "topic": "t", "ulid": ULID, "consumer": "w"}),
            "NOT_FOUND",
        ),
        (
            json!({"type": "bus.ack", "topic": "t", "ulid": ULID}),
            "NOT_FOUND",
        ),
        (
            json!({"type": "bus.commit", "topic": "t", "msg_ulid": ULID, "quorum": 1}),
            "NOT_FOUND",
        ),
        (
            json!({"type": "bus.publish", "topic": "t", "tenant_id": "a", "payload": 1}),
            "POLICY_DENY",
        ),
        (
            json!({"type": "bus.subscribe", "topic": "t", "tenant_id": "a"}),
            "POLICY_DENY",
        ),
    ] {
        assert_eq!(Peer::code(&as_b(request.clone())), code, "{request}");
    }
    assert_eq!(as_b(json!({"type": "bus.lag", "id": 2}))["lags"], json!([]));
    assert_eq!(
        as_b(json!({"type": "bus.unsubscribe", "topic": "t", "consumer": "w"}))["was"],
        false
    );
    assert_eq!(as_b(publish)["repeated"], false);
    let mut peer_of_b = house.connect(Role::Gateway);
    assert_eq!(Peer::code(&peer_of_b.ask_as("agent:b", "b", from_a)), "ok");
    let message = peer_of_b.next();
    assert_eq!(message["message"]["actor"], "agent:b", "{message}");
    // Who may read everything sees both.
    let lags = owner.ask(&json!({"type": "bus.lag", "id": 2}));
    assert_eq!(lags["lags"].as_array().unwrap().len(), 2);
}

#[test]
fn jobs_stay_with_their_tenant_and_with_the_queue_that_is_named() {
    let (_house, _, mut gateway) = two_tenants();
    let enqueue =
        |queue: &str| json!({"type": "job.enqueue", "id": 1, "queue": queue, "manifest": {"n": 1}});
    assert_eq!(
        Peer::code(&gateway.ask_as("agent:b", "b", enqueue("q2"))),
        "POLICY_DENY"
    );
    let job = gateway.ask_as("agent:a", "a", enqueue("q2"))["job"].clone();
    // b may claim of its queue q, not a's job, by whatever name.
    for request in [
        json!({"type": "job.claim", "queue": "q", "job": job}),
        json!({"type": "job.claim", "queue": "q"}),
        json!({"type": "job.release", "queue": "q", "job": job, "claim": 1}),
    ] {
        assert_eq!(
            Peer::code(&gateway.ask_as("agent:b", "b", request.clone())),
            "NOT_FOUND",
            "{request}"
        );
    }
    // A job of one queue cannot be had in the name of another that is allowed.
    let by_q = json!({"type": "job.claim", "queue": "q", "job": job});
    assert_eq!(
        Peer::code(&gateway.ask_as("agent:a", "a", by_q)),
        "NOT_FOUND"
    );
    let unnamed = json!({"type": "job.claim", "job": job});
    assert_ne!(Peer::code(&gateway.ask_as("agent:a", "a", unnamed)), "ok");
    let by_q2 = json!({"type": "job.claim", "queue": "q2", "job": job});
    assert_eq!(Peer::code(&gateway.ask_as("agent:a", "a", by_q2)), "ok");
}

#[test]
fn a_tenant_folds_its_own_events() {
    let (_house, mut owner, mut gateway) = two_tenants();
    for (tenant, n) in [("a", 1), ("a", 2), ("b", 4)] {
        let event = json!({"type": "paid", "payload": {"n": n}});
        let actor = format!("agent:{tenant}");
        let append =
            json!({"type": "append_event", "id": 1, "ns": "f", "actor": actor, "event": event});
        assert_eq!(Peer::code(&gateway.ask_as(&actor, tenant, append)), "ok");
    }
    let spec = json!({"fields": {"all": {"reducer": "append", "value": "/n"}}});
    let fold = json!({"type": "fold_state", "id": 2, "ns": "f", "channel": "x", "spec": spec});
    let mut state = |who: Option<&str>| match who {
        Some(tenant) => gateway.ask_as(&format!("agent:{tenant}"), tenant, fold.clone()),
        None => owner.ask(&fold),
    };
    assert_eq!(state(Some("b"))["state"]["all"], json!([4]));
    assert_eq!(state(Some("a"))["state"]["all"], json!([1, 2]));
    assert_eq!(state(None)["state"]["all"], json!([1, 2, 4]));
    assert_eq!(state(Some("z"))["state"]["all"], json!([]));
    let mut of_a = fold.clone();
    of_a["tenant_id"] = json!("a");
    assert_eq!(
        Peer::code(&gateway.ask_as("agent:b", "b", of_a)),
        "POLICY_DENY"
    );
}
