//! Every check of `doctor`, on a real log, made to fail.

use ed25519_dalek::{Signer, SigningKey};
use ledger::audit::{Asked, audit};
use ledger::committer::{Committer, Draft, Keep, Order};
use ledger::device::{Access, FolderDevice};
use ledger::doctor::{self, Check, State};
use ledger::log::Birth;
use ledger_core::blob::Manifest;
use ledger_core::checkpoint::Checkpoint;
use ledger_core::keys;
use ledger_core::note::VerifierKey;
use ledger_core::store::ObjectId;
use ledger_core::{Anchor, Body, SEGMENT_BYTES_MAX, SEGMENT_BYTES_MIN};
use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

fn draft(event_type: &str, subject: &str, payload: &str) -> Draft {
    Draft {
        ns: "ledger".to_owned(),
        actor: "service:ledger".to_owned(),
        tenant_id: "system".to_owned(),
        event_type: event_type.to_owned(),
        subject: subject.to_owned(),
        payload: payload.to_owned(),
        ..Draft::default()
    }
}

/// Appends to the log of a folder; the tree's root behind it.
fn append(folder: &Path, drafts: Vec<Draft>) -> [u8; 32] {
    let birth = Birth {
        log_id: [7; 16],
        tag_key: [8; 32],
        wall_ns: 1,
        segment_bytes_max: SEGMENT_BYTES_MAX,
    };
    let device = ledger::open::path(folder, Access::Write).expect("a log");
    let (committer, _) = Committer::start(device, &birth).expect("a ledger");
    committer.ledger().append_wait(drafts).expect("receipts");
    let root = committer.ledger().standing().root;
    committer.stop();
    root
}

fn five() -> Vec<Draft> {
    vec![draft("note", "x", "{}"); 5]
}

fn checks(folder: &Path) -> Vec<Check> {
    let device = ledger::open::path(folder, Access::Read).expect("a log");
    doctor::examine(&*device, Some(folder), None, &mut |_| ()).expect("checks")
}

/// The check is in this state, and no other is worse than good.
fn finds(folder: &Path, name: &str, state: State) {
    for check in checks(folder) {
        let expected = if check.name == name {
            state
        } else {
            State::Good
        };
        assert_eq!(check.state, expected, "{check:?}");
    }
    let code = ledger::main(&["--log".into(), folder.into(), "doctor".into()]);
    let expected = match state {
        State::Good => 0,
        State::Warning => 3,
        State::Bad => 1,
    };
    assert_eq!(code, ExitCode::from(expected), "{name}");
}

fn with_log(spoil: impl FnOnce(&Path, [u8; 32]), name: &str, state: State) {
    let folder = tempfile::tempdir().expect("a folder");
    let root = append(folder.path(), five());
    finds(folder.path(), name, State::Good);
    spoil(folder.path(), root);
    finds(folder.path(), name, state);
}

#[test]
fn damage_of_the_log_is_bad() {
    with_log(
        |folder, _| {
            append(folder, five());
            let path = folder.join("segment-000000");
            let mut bytes = fs::read(&path).expect("a segment");
            bytes[600] ^= 1;
            fs::write(&path, bytes).expect("a segment");
        },
        "log",
        State::Bad,
    );
}

#[test]
fn events_that_the_ledger_would_not_have_taken_are_bad() {
    let secret = SigningKey::from_bytes(&[5; 32]);
    let public = secret.verifying_key().to_bytes();
    let hex: String = public.iter().map(|b| format!("{b:02x}")).collect();
    let key = |kind: &str| draft(kind, "service:ledger", &format!("{{\"key\":\"{hex}\"}}"));
    let signed = |message: &str| {
        let unsigned = Draft {
            ulid: Some([1; 16]),
            ..draft("note", "x", "{}")
        };
        let text = keys::event_text(&Body {
            timestamp_ns: 0,
            wall_ns: 0,
            ulid: [1; 16],
            tenant_tag: [0; 8],
            ns: &unsigned.ns,
            actor: &unsigned.actor,
            tenant_id: &unsigned.tenant_id,
            event_type: &unsigned.event_type,
            subject: &unsigned.subject,
            payload: &unsigned.payload,
            causation_id: None,
            origin: None,
            sig: None,
        });
        let sig = secret.sign(format!("{text}{message}").as_bytes());
        Draft {
            sig: Some([&public[..], &sig.to_bytes()].concat()),
            ..unsigned
        }
    };
    for (drafts, id, state) in [
        (vec![draft("note", "x", "{\"b\":1,\"a\":2}")], 6, State::Bad),
        (vec![draft("note", "x", "{\"a\":1.0}")], 6, State::Bad),
        (vec![draft("note", "x", "{\"a\":1,\"a\":1}")], 6, State::Bad),
        (vec![signed("")], 7, State::Good),
        (vec![signed("changed")], 7, State::Bad),
        (vec![key(keys::REVOKED), signed("")], 8, State::Bad),
    ] {
        with_log(
            |folder, _| {
                if drafts.iter().any(|d| d.sig.is_some()) {
                    append(folder, vec![key(keys::REGISTERED)]);
                }
                append(folder, drafts);
                let device = ledger::open::path(folder, Access::Read).expect("a log");
                let asked = Asked::of_folder(folder);
                let report = audit(&*device, &|| None, &asked, &mut |_| ()).expect("a report");
                let bad = (state == State::Bad).then_some(id);
                assert_eq!(report.bad.map(|bad| bad.event_id), bad);
                let found = checks(folder);
                let check = found
                    .iter()
                    .find(|c| c.name == "events")
                    .expect("the check");
                let named = check.what.contains(&format!("event {id}: "));
                assert_eq!(named, state == State::Bad, "{check:?}");
            },
            "events",
            state,
        );
    }
}

fn checkpoint(folder: &Path, size: u64, root: [u8; 32]) {
    let key = VerifierKey::log("vb-test/ledger", &[9; 32]).expect("a key");
    let origin = "vb-test/ledger".to_owned();
    let note = Checkpoint { origin, size, root }.sign(&key, |_| [0; 64]);
    fs::write(folder.join("checkpoint"), note.expect("a note").to_string()).expect("a file");
}

#[test]
fn a_log_that_is_behind_its_checkpoint_or_another_is_bad() {
    with_log(
        |folder, root| checkpoint(folder, 5, root),
        "fast_forward",
        State::Good,
    );
    with_log(
        |folder, root| checkpoint(folder, 6, root),
        "fast_forward",
        State::Bad,
    );
    with_log(
        |folder, _| checkpoint(folder, 5, [1; 32]),
        "fast_forward",
        State::Bad,
    );
    with_log(
        |folder, _| fs::write(folder.join("checkpoint"), "x").expect("a file"),
        "fast_forward",
        State::Bad,
    );
    let belongs = |log_id: &str, event: u64| {
        let line = format!("{} {event} {}\n", log_id.repeat(16), "ab".repeat(32));
        move |folder: &Path, _| {
            fs::create_dir(folder.join("objects")).expect("a folder");
            fs::write(folder.join("objects/log"), line).expect("a file");
        }
    };
    // Another log, more events than there are, another event.
    with_log(belongs("08", 1), "fast_forward", State::Bad);
    with_log(belongs("07", 6), "fast_forward", State::Bad);
    with_log(belongs("07", 5), "fast_forward", State::Bad);
}

#[test]
fn an_epoch_out_of_order_is_bad() {
    let anchor = |epoch| {
        let anchor = Anchor {
            epoch,
            previous: None,
            chain: [1; 32],
            tree_size: 1,
            root: [2; 32],
            state: [3; 32],
        };
        draft("epoch.opened", "log", &anchor.payload())
    };
    with_log(
        |folder, _| {
            append(folder, vec![anchor(2), anchor(4)]);
        },
        "epochs",
        State::Bad,
    );
}

#[test]
fn tiles_of_events_that_are_not_there_are_bad() {
    with_log(
        |folder, _| {
            fs::create_dir(folder.join("tiles")).expect("a folder");
            fs::write(folder.join("tiles/settled"), "6\n").expect("a file");
        },
        "cache",
        State::Bad,
    );
}

#[test]
fn a_cache_larger_than_its_log_is_a_warning() {
    with_log(
        |folder, _| {
            fs::create_dir(folder.join("index")).expect("a folder");
            let file = fs::File::create(folder.join("index/segment-0")).expect("a file");
            file.set_len(17 << 20).expect("a hole");
        },
        "sizes",
        State::Warning,
    );
}

fn put(folder: &Path, part: &str, id: &ObjectId) {
    let name = id.to_string();
    let parent = folder.join("objects").join(part).join(&name[..2]);
    fs::create_dir_all(&parent).expect("a folder");
    fs::write(parent.join(name), "x").expect("a file");
}

#[test]
fn objects_without_pointers_are_a_warning_and_pointers_without_objects_bad() {
    let object = ObjectId::of(b"object");
    for part in ["blake3", "keys"] {
        with_log(
            |folder, _| put(folder, part, &object),
            "blobs",
            State::Warning,
        );
    }
    let manifest = Manifest {
        bytes: 1,
        keys: [0; 32],
        object,
        previous: None,
        recipients: Vec::new(),
    };
    for parts in [&[][..], &["blake3"], &["keys"], &["blake3", "keys"]] {
        let state = match parts.len() {
            2 => State::Good,
            _ => State::Bad,
        };
        with_log(
            |folder, _| {
                let event = draft("blob.put", &object.to_string(), &manifest.payload());
                append(folder, vec![event]);
                parts.iter().for_each(|part| put(folder, part, &object));
            },
            "blobs",
            state,
        );
    }
}

/// While the log is written, what was shredded or put since its end was taken is neither missing nor left over.
#[test]
fn what_changes_while_it_is_looked_at_is_no_damage() {
    let folder = tempfile::tempdir().expect("a folder");
    let object = ObjectId([3; 32]);
    let manifest = Manifest {
        bytes: 1,
        keys: [1; 32],
        object,
        previous: None,
        recipients: Vec::new(),
    };
    let event = draft("blob.put", &object.to_string(), &manifest.payload());
    append(folder.path(), vec![event]);
    let device = ledger::open::path(folder.path(), Access::Read).expect("a log");
    let (superblock, _) = ledger::scan::superblock(&*device)
        .expect("read")
        .expect("a log");
    let mut end = 0;
    ledger::scan::scan(&*device, &superblock, None, &mut |found| {
        if let ledger::scan::Found::Group { end: at } = found {
            end = at;
        }
    })
    .expect("read");
    let state = |now: &[ObjectId]| {
        let now = now.iter().map(|o| o.0).collect();
        let needed = &|| Ok(BTreeSet::clone(&now));
        let live = doctor::Live { end, needed };
        let checks = doctor::examine(&*device, Some(folder.path()), Some(live), &mut |_| ());
        let checks = checks.expect("checks");
        let blobs = checks.iter().find(|c| c.name == "blobs").expect("a check");
        blobs.state
    };
    // Shredded meanwhile; or missing indeed.
    assert_eq!(state(&[]), State::Good);
    assert_eq!(state(&[object]), State::Bad);
    ["blake3", "keys"]
        .iter()
        .for_each(|part| put(folder.path(), part, &object));
    // On its way; or left over.
    let other = ObjectId([4; 32]);
    put(folder.path(), "blake3", &other);
    assert_eq!(state(&[object, other]), State::Good);
    assert_eq!(state(&[object]), State::Warning);
}

#[test]
fn a_log_that_is_compacted_while_it_is_looked_at_is_not_called_damaged() {
    let folder = tempfile::tempdir().expect("a folder");
    let birth = Birth {
        log_id: [7; 16],
        tag_key: [8; 32],
        wall_ns: 1,
        segment_bytes_max: SEGMENT_BYTES_MIN,
    };
    let device = FolderDevice::new(folder.path(), SEGMENT_BYTES_MIN, Access::Write);
    let (committer, _) =
        Committer::start(Arc::new(device.expect("a device")), &birth).expect("a ledger");
    let ledger = committer.ledger();
    let fill = || {
        for _ in 0..60 {
            ledger.append_wait(five()).expect("receipts");
        }
    };
    fill();
    ledger.order_wait(Order::Epoch).expect("an epoch");
    fill();
    let standing = ledger.standing();
    let mut dropped = 0;
    let device = &**ledger.device();
    let needed = &|| Ok(BTreeSet::new());
    let live = doctor::Live {
        end: standing.end,
        needed,
    };
    let checks = doctor::examine(device, None, Some(live), &mut |_| {
        if dropped == 0 {
            let keep = Keep {
                bytes: Some(0),
                events: None,
            };
            let done = ledger.order_wait(Order::Compact(keep));
            dropped = done.expect("a compaction").dropped;
        }
    });
    assert!(dropped > 2, "{dropped}");
    let checks = checks.expect("checks");
    let log = checks.iter().find(|check| check.name == "log");
    let log = log.expect("a check of the log");
    let what = format!("{} events hold", standing.id);
    assert_eq!((log.state, &log.what), (State::Good, &what));
    committer.stop();
}
