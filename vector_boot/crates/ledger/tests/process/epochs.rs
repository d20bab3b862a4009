//! Epochs and compaction over the real socket, and what is left of the log after them.

use super::blobs::Lines;
use super::{Service, event};
use ledger_core::ulid;
use serde_json::{Value, json};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

pub fn epochs_and_compaction_over_the_stream_socket() {
    let folder = tempfile::tempdir().unwrap();
    let service = Service::start(folder.path());
    let mut client = service.client();
    let mut lines = Lines::connect(folder.path());
    for n in 0..20 {
        client.append(&event(&format!("{n}"))).unwrap();
    }
    let ask = |lines: &mut Lines, request: Value| lines.call(&request).expect("an answer").0;
    let ulid = |n: u8| ulid::text(&ulid::compose(1_700_000_000_000_000_000, [n; 10]));
    // Once said, and said again behind the compaction.
    let publish = json!({"type": "bus.publish", "id": 8, "topic": "t", "qos": "exactly_once",
        "ulid": ulid(1), "payload": 1});
    let append = json!({"type": "append_event", "id": 9, "ns": "test", "actor": "user:root",
        "event": {"event_type": "note", "payload": {}, "ulid": ulid(2)}});
    // Two consumers that are owed it; neither takes it before it is dropped.
    let behind = |from: Value, consumer: Option<&str>| {
        json!({"type": "bus.subscribe", "id": "s", "topic": "t", "consumer": consumer, "from": from})
            .to_string()
    };
    for name in ["b", "c"] {
        let mut there = super::Lines::connect(folder.path());
        assert_eq!(there.ask(&behind(1.into(), Some(name)))["ok"], true);
    }
    let published = ask(&mut lines, publish.clone());
    let appended = ask(&mut lines, append.clone());
    assert_eq!(
        (&published["ok"], &appended["ok"]),
        (&true.into(), &true.into()),
        "{appended}"
    );
    let fold = |kind: &str, root: &Value| {
        json!({"type": kind, "id": 6, "ns": "system", "state_root": root,
            "spec": {"fields": {"n": {"reducer": "counter-gcounter"}}}})
    };
    let before = ask(&mut lines, fold("fold_state", &Value::Null));
    assert_eq!(before["ok"], true, "{before}");
    // Nothing of the current epoch is dropped.
    let nothing = ask(
        &mut lines,
        json!({"type": "compact", "id": 1, "keep_bytes": 0}),
    );
    assert_eq!(
        (&nothing["ok"], &nothing["dropped"]),
        (&true.into(), &0.into())
    );
    let opened = ask(&mut lines, json!({"type": "epoch.new", "id": 2}));
    assert_eq!((&opened["ok"], &opened["epoch"]), (&true.into(), &2.into()));
    let anchor = opened["event_id"].as_u64().unwrap();
    // A leaf that is in no durable tile keeps its event, so this may take a moment.
    let deadline = std::time::Instant::now() + super::LIMIT;
    let compacted = loop {
        let done = ask(
            &mut lines,
            json!({"type": "compact", "id": 3, "keep_bytes": 0}),
        );
        if done["dropped"] == 1 {
            break done;
        }
        assert!(std::time::Instant::now() < deadline, "{done}");
        client.append(&event("more")).unwrap();
        std::thread::sleep(std::time::Duration::from_millis(100));
    };
    assert_eq!(compacted["first_event_id"], anchor);
    let gone = ask(
        &mut lines,
        json!({"type": "query", "id": 4, "from": 1, "limit": 1}),
    );
    assert_eq!(gone["ok"], true, "{gone}");
    // What led to a state of before is gone, and who asks for it spoils nobody's fold.
    let mut early = fold("fold_state", &Value::Null);
    early["at"] = 1.into();
    let refused = ask(&mut lines, early);
    assert_eq!(refused["error"]["code"], "NOT_FOUND", "{refused}");
    // A fold that was kept does not go on from what is not there any more.
    let after = ask(&mut lines, fold("fold_state", &Value::Null));
    let anew = ask(&mut lines, fold("fold_verify", &after["state_root"]));
    assert_eq!(anew["holds"], true, "{before} {after} {anew}");
    assert!(after["events"].as_u64() < before["events"].as_u64());
    nothing_is_passed_over_in_silence(folder.path(), anchor, &behind);
    let bad = ask(
        &mut lines,
        json!({"type": "compact", "id": 5, "keep_bytes": "all"}),
    );
    assert_eq!(bad["error"]["code"], "BAD_REQUEST");
    let verified = ask(&mut lines, json!({"type": "verify", "id": 6}));
    assert_eq!(verified["verified"], true, "{verified}");
    let before = client.head().unwrap();
    drop(service);
    // The summary alone says what was: not the state beside the index.
    std::fs::remove_dir_all(folder.path().join("index")).unwrap();
    let service = Service::start(folder.path());
    let mut lines = Lines::connect(folder.path());
    let repeated = ask(&mut lines, publish);
    assert_eq!(
        (&repeated["event_id"], &repeated["repeated"]),
        (&published["event_id"], &true.into())
    );
    let repeated = ask(&mut lines, append);
    assert_eq!(repeated["error"]["code"], "DUPLICATE", "{repeated}");
    let has_it = format!("event {} has it", appended["event_id"]);
    assert!(
        repeated["error"]["reason"].to_string().contains(&has_it),
        "{repeated}"
    );
    let again = service.client().head().unwrap();
    assert!(again.event_id >= before.event_id);
    let next = service.client().append(&event("after")).unwrap();
    assert!(next.event_id > before.event_id);
    let doctor = ask(
        &mut Lines::connect(folder.path()),
        json!({"type": "doctor", "id": 7}),
    );
    assert_eq!(doctor["first_event_id"], anchor, "{doctor}");
    // What was dropped is no room of the file system any more.
    let file = std::fs::metadata(folder.path().join("ledger.log")).unwrap();
    assert!(file.blocks() * 512 < 64 << 20, "{} blocks", file.blocks());
}

/// Who goes on from what was dropped is refused, and who is owed it is told; 1 is the beginning.
fn nothing_is_passed_over_in_silence(
    folder: &Path,
    first: u64,
    behind: &dyn Fn(Value, Option<&str>) -> String,
) {
    let mut lines = super::Lines::connect(folder);
    for gone in [2, first - 1] {
        for request in [
            json!({"type": "query", "from": gone, "limit": 1}).to_string(),
            json!({"type": "subscribe", "from": gone}).to_string(),
            behind(gone.into(), None),
            behind(gone.into(), Some("new")),
        ] {
            let refused = lines.ask(&request);
            assert_eq!(
                refused["error"]["code"], "NOT_FOUND",
                "{request}: {refused}"
            );
            let reason = refused["error"]["reason"].to_string();
            assert!(
                reason.contains(&format!("the first one kept is {first}")),
                "{reason}"
            );
        }
    }
    for there in [json!(1), json!("HEAD-100000"), json!(first)] {
        for request in [
            json!({"type": "subscribe", "id": "s", "from": there}).to_string(),
            behind(there, None),
        ] {
            let mut lines = super::Lines::connect(folder);
            let begun = lines.ask(&request);
            assert_eq!(begun["from"], first, "{request}: {begun}");
        }
    }
    for name in ["b", "c"] {
        let mut lines = super::Lines::connect(folder);
        assert_eq!(lines.ask(&behind(first.into(), Some(name)))["ok"], true);
        let told = lines.next();
        let dropped = json!({"first_event_id": first, "messages": 1});
        assert_eq!(told["dropped"], dropped, "{told}");
    }
}
