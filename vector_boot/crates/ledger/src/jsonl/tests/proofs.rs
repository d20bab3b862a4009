//! Proofs asked for by tenants.

use super::{House, Peer};
use crate::proofs::Keeper;
use serde_json::{Value, json};
use std::io::BufRead;
use wire::Role;

/// The answer's bytes.
fn raw(peer: &mut Peer, tenant: &str, mut request: Value) -> String {
    request["as"] = json!({"actor": "agent:a", "tenant": tenant});
    peer.send(request.to_string().as_bytes());
    let mut line = String::new();
    peer.reader.read_line(&mut line).unwrap();
    line
}

#[test]
fn of_anothers_event_every_call_says_byte_for_byte_what_it_said_while_there_was_none() {
    let house = House::new();
    let folder = tempfile::tempdir().unwrap();
    let keeper = Keeper::start(house.committer.ledger(), Some(folder.path()), None).unwrap();
    let mut gateway = house.connect(Role::Gateway);
    let append = json!({"type": "append_event", "id": 1, "ns": "x", "actor": "agent:a", "event": {"event_type": "x", "payload": {}}});
    let own = raw(&mut gateway, "spies", append.clone());
    assert!(own.contains("\"event_id\":1,"), "{own}");
    let asked: Vec<Value> = [
        json!(null),
        json!(0),
        json!(1),
        json!(2),
        json!(99),
        json!("x"),
    ]
    .into_iter()
    .map(|size| json!({"type": "proof.inclusion", "id": 2, "event_id": 2, "size": size}))
    .collect();
    let all = |gateway: &mut Peer, tenant| -> Vec<String> {
        let answers = asked
            .iter()
            .map(|request| raw(gateway, tenant, request.clone()));
        answers.collect()
    };
    let before = all(&mut gateway, "spies");
    assert!(
        before.iter().all(|line| line.contains("NOT_FOUND")),
        "{before:?}"
    );
    let others = raw(&mut gateway, "victims", append);
    assert!(others.contains("\"event_id\":2,"), "{others}");
    assert_eq!(all(&mut gateway, "spies"), before);
    // Its owner's tenant has a proof of the same, so the answers above could have been others.
    let owners = all(&mut gateway, "victims");
    assert!(
        owners[0].contains("\"proof\":\"c2sp.org/tlog-proof@v1"),
        "{owners:?}"
    );
    assert!(owners[3].contains("\"ok\":true"), "{owners:?}");
    // Of what both know, the tree, proofs are the same for both; and one's own events are proven.
    let tree = json!({"type": "proof.consistency", "id": 3, "from": 1, "to": 2});
    let same = raw(&mut gateway, "spies", tree.clone());
    assert!(same.contains("\"ok\":true"), "{same}");
    assert_eq!(same, raw(&mut gateway, "victims", tree));
    let own = json!({"type": "proof.inclusion", "id": 4, "event_id": 1, "size": 2});
    assert!(raw(&mut gateway, "spies", own).contains("\"ok\":true"));
    drop(gateway);
    house.committer.stop();
    keeper.stop();
}
