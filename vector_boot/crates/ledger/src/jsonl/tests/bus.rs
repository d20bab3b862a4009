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

/// The lines of a subscription until `n` messages came.
fn messages(peer: &mut Peer, n: usize) -> Vec<u64> {
    let number = |line: Value| line["message"]["payload"]["n"].as_u64();
    std::iter::repeat_with(|| number(peer.next()))
        .flatten()
        .take(n)
        .collect()
}

fn publish(owner: &mut Peer, n: u64, qos: &str) -> Value {
    let ulid = format!("01J{n:023}");
    owner.ask(&json!({"type": "bus.publish", "id": n, "topic": "t", "qos": qos, "ulid": ulid, "payload": {"n": n}}))
}

fn worst_lag(owner: &mut Peer) -> u64 {
    owner.ask(&json!({"type": "metrics", "id": 1}))["gatos_bus_ack_lag"]
        .as_u64()
        .unwrap()
}

#[test]
fn the_lag_is_what_was_published_and_not_acknowledged() {
    let house = House::new();
    let mut owner = house.connect(Role::Operator);
    let mut owed = std::collections::BTreeMap::from([("x", 0i64), ("y", 0)]);
    for consumer in ["x", "y"] {
        let subscribe = json!({"type": "bus.subscribe", "id": 0, "topic": "t", "consumer": consumer, "shards": [0]});
        assert_eq!(
            Peer::code(&house.connect(Role::Operator).ask(&subscribe)),
            "ok"
        );
    }
    for n in 0..60u64 {
        let qos = ["at_most_once", "at_least_once", "exactly_once"][(n % 3) as usize];
        for _ in 0..2 {
            assert_eq!(Peer::code(&publish(&mut owner, n, qos)), "ok");
        }
        if n % 3 != 0 {
            owed.values_mut().for_each(|owed| *owed += 1);
        }
        // One acknowledges half of them, twice; the other every fifth.
        for (consumer, every) in [("x", 2), ("y", 5)] {
            if n % 3 != 0 && n.is_multiple_of(every) {
                let ack = json!({"type": "bus.ack", "id": n, "topic": "t", "consumer": consumer, "ulid": format!("01J{n:023}")});
                assert_eq!(Peer::code(&owner.ask(&ack)), "ok");
                assert_eq!(owner.ask(&ack)["repeated"], true);
                *owed.get_mut(consumer).unwrap() -= 1;
            }
        }
        let lag = owner.ask(&json!({"type": "bus.lag", "id": 1, "topic": "t"}));
        for row in lag["lags"].as_array().unwrap() {
            let consumer = row["consumer"].as_str().unwrap();
            assert_eq!(row["messages"], owed[consumer], "{consumer}: {lag}");
        }
        assert_eq!(worst_lag(&mut owner) as i64, *owed.values().max().unwrap());
    }
    let lag = owner.ask(&json!({"type": "bus.lag", "id": 1}));
    let topic = json!({"tenant_id": "system", "topic": "t", "consumers": 2, "messages": 40, "uncommitted": 20, "shards": 64, "shard_map": 1});
    assert_eq!(lag["topics"], json!([topic]));
}

#[test]
fn a_consumer_begins_once_and_anew_after_it_was_taken_off() {
    let house = House::new();
    let (mut owner, mut first) = (house.connect(Role::Operator), house.connect(Role::Operator));
    (1..=3).for_each(|n| drop(publish(&mut owner, n, "at_least_once")));
    let subscribe = |from: Value| json!({"type": "bus.subscribe", "id": "s", "topic": "t", "consumer": "w", "from": from});
    assert_eq!(first.ask(&subscribe(json!("HEAD")))["from"], 4);
    // An earlier beginning is not taken from who joins later.
    let mut second = house.connect(Role::Operator);
    assert_eq!(second.ask(&subscribe(json!(1)))["from"], 4);
    drop(second);
    publish(&mut owner, 4, "at_least_once");
    assert_eq!(messages(&mut first, 1), [4]);
    let off = json!({"type": "bus.unsubscribe", "id": 1, "topic": "t", "consumer": "w"});
    assert_eq!(owner.ask(&off)["was"], true);
    let end = first.next();
    assert_eq!(
        (Peer::code(&end), &end["id"]),
        ("NOT_FOUND".to_owned(), &json!("s"))
    );
    // From here on it is another, which may begin earlier.
    assert_eq!(first.ask(&subscribe(json!(1)))["from"], 1);
    assert_eq!(messages(&mut first, 4), [1, 2, 3, 4]);
    assert_eq!(owner.ask(&off)["was"], true);
}

#[test]
fn what_a_compaction_dropped_is_owed_to_nobody() {
    let house = House::new();
    let (mut owner, mut late) = (house.connect(Role::Operator), house.connect(Role::Operator));
    let subscribe = |consumer: &str| json!({"type": "bus.subscribe", "id": "s", "topic": "t", "consumer": consumer, "from": 1});
    assert_eq!(
        Peer::code(&house.connect(Role::Operator).ask(&subscribe("old"))),
        "ok"
    );
    (1..=5).for_each(|n| drop(publish(&mut owner, n, "at_least_once")));
    let done = |peer: &mut Peer, request: Value| {
        peer.send(request.to_string().as_bytes());
        let answers = std::iter::repeat_with(|| peer.next());
        answers.into_iter().find(|a| a["ok"].is_boolean()).unwrap()
    };
    for request in [
        json!({"type": "epoch.new"}),
        json!({"type": "compact", "keep_events": 1}),
    ] {
        let answer = done(&mut owner, request);
        assert_eq!(answer["ok"], true, "{answer}");
    }
    assert_eq!(worst_lag(&mut owner), 5);
    assert_eq!(Peer::code(&late.ask(&subscribe("new"))), "ok");
    assert_eq!(Peer::code(&owner.ask(&subscribe("old"))), "ok");
    publish(&mut house.connect(Role::Operator), 6, "at_least_once");
    assert_eq!(messages(&mut late, 1), [6]);
    assert_eq!(messages(&mut owner, 1), [6]);
    let mut other = house.connect(Role::Operator);
    let deadline = Instant::now() + LIMIT;
    while worst_lag(&mut other) != 1 {
        assert!(Instant::now() < deadline, "still {}", worst_lag(&mut other));
        std::thread::sleep(Duration::from_millis(5));
    }
}
