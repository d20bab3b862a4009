//! An agent's view through the forwarded port: contents, scores, records, refusals.

use serde_json::{Value, json};
use system_tests::machine::{Machine, Options};

use crate::{call, options};

/// The event of this id, as the console's `ledger tail` shows it.
fn recorded(machine: &mut Machine, event_id: &Value) -> Value {
    assert!(event_id.is_u64(), "no event id: {event_id}");
    let tail = machine.json("ledger tail -n 50");
    let events = tail["events"].as_array().expect("events");
    let found = events.iter().find(|event| event["id"] == *event_id);
    found
        .unwrap_or_else(|| panic!("event {event_id} is not in {tail}"))
        .clone()
}

#[test]
fn calls_are_answered_scored_and_recorded() {
    let folder = tempfile::tempdir().unwrap();
    let mut machine = Machine::ready(&options(folder.path()));

    let reply = machine.call(&call("fs_read", "work", "welcome.txt"));
    assert_eq!(reply.status, 200, "{}", reply.body);
    assert_eq!(reply.body["status"], "SUCCESS");
    assert!(
        !reply.body["data"]["content"]
            .as_str()
            .expect("content")
            .is_empty()
    );
    assert_eq!(reply.body["reality_index"], 1.0);
    assert_eq!(reply.body["torsion_score"], 0.0);
    let event = recorded(&mut machine, &reply.body["event_id"]);
    assert_eq!(event["payload"]["outcome"], "success", "{event}");

    let reply = machine.call_unauthorised(&call("fs_read", "work", "welcome.txt"));
    assert_eq!(reply.status, 401, "{}", reply.body);
    assert_eq!(machine.get("/health").status, 200);

    let write = json!({"tool": "fs_write", "params": {
        "root": "work", "path": "note.txt", "content": "kept\n", "create": true,
    }});
    assert_eq!(machine.call(&write).body["status"], "SUCCESS");
    assert_eq!(
        machine.call(&call("fs_read", "work", "note.txt")).body["data"]["content"],
        "kept\n"
    );

    let reply = machine.call(&call("fs_read", "work", "none.txt"));
    assert_eq!(
        (reply.status, reply.body["code"].as_str()),
        (400, Some("target_missing")),
        "{}",
        reply.body
    );
    assert_eq!(reply.body["reality_index"], 0.2);

    // The boot token calls tools alone; the console gives one for the ledger, which shows its tenant's own.
    let events = "/v1/ledger/events?limit=10";
    let reply = machine.get_with(events, machine.token());
    assert_eq!(reply.status, 403, "{}", reply.body);
    let token = machine.ok("capacity request acme --as notes");
    let reply = machine.get_with(events, token.trim());
    assert_eq!(reply.status, 200, "{}", reply.body);
    assert_eq!(reply.body["events"], json!([]), "{}", reply.body);
    machine.assert_no_call_was_refused();
    machine.power_off();
}

#[test]
fn shared_folder_is_read_and_never_left() {
    let folder = tempfile::tempdir().unwrap();
    let share = folder.path().join("share");
    std::fs::create_dir(&share).unwrap();
    std::fs::write(share.join("report.txt"), "a shared file\n").unwrap();
    std::os::unix::fs::symlink("/etc/shadow", share.join("escape")).unwrap();
    std::os::unix::fs::symlink("../../proc/self/environ", share.join("climb")).unwrap();
    let mut machine = Machine::ready(&Options {
        share: Some(share),
        ..options(folder.path())
    });

    let reply = machine.call(&call("fs_read", "share", "report.txt"));
    assert_eq!(
        reply.body["data"]["content"], "a shared file\n",
        "{}",
        reply.body
    );

    for path in ["escape", "climb", "../vb-services", "/etc/passwd"] {
        let reply = machine.call(&call("fs_read", "share", path));
        assert_eq!(reply.status, 400, "{path}: {}", reply.body);
        assert_eq!(reply.body["status"], "DENIED", "{path}: {}", reply.body);
        assert_eq!(reply.body["data"], Value::Null);
        let event = recorded(&mut machine, &reply.body["event_id"]);
        assert_eq!(event["payload"]["outcome"], "denied", "{path}: {event}");
    }
    let write = json!({"tool": "fs_write", "params": {
        "root": "share", "path": "new.txt", "content": "x", "create": true,
    }});
    assert_eq!(machine.call(&write).body["status"], "DENIED");
    machine.assert_no_call_was_refused();
    machine.power_off();
}
