//! Proofs over a compaction: of the events kept and between all sizes kept, from the running ledger and
//! from its log on disk, with the tiles of what was dropped and without them.

use super::audit::{foreign, offline, ok};
use super::running::Running;
use ledger::committer::{Keep, Order};
use ledger_core::checkpoint::hash_of_text;
use ledger_core::proof::{verify_consistency, verify_inclusion};
use ledger_core::{Hash, leaf_hash};
use std::fs;
use std::path::Path;

/// What is dropped ends inside a tile; so does the tree that a witness saw before.
const WITNESSED: u64 = 600;
const DROPPED: u64 = 700;

/// A log of which events were dropped, and how many it has.
fn compacted(data: &Path) -> u64 {
    let running = Running::start(data);
    running.append(WITNESSED);
    let signed = running.ledger().proofs().unwrap().checkpoint(WITNESSED);
    assert_eq!(signed.unwrap().checkpoint.size, WITNESSED);
    running.stop();
    fs::copy(data.join("checkpoint"), data.join("checkpoint.witnessed")).unwrap();
    let running = Running::start(data);
    running.append(DROPPED - WITNESSED);
    running.ledger().order_wait(Order::Epoch).unwrap();
    running.append(20);
    running.ledger().proofs().unwrap().settle().unwrap();
    let keep = Keep {
        bytes: Some(0),
        events: None,
    };
    let done = running.ledger().order_wait(Order::Compact(keep)).unwrap();
    assert_eq!(done.first_event_id, DROPPED + 1);
    running.append(100);
    holds_online(&running);
    running.stop();
    // A start from the compacted log proves the same.
    let running = Running::start(data);
    running.append(300);
    holds_online(&running);
    let size = running.ledger().standing().id;
    running.stop();
    size
}

fn holds_online(running: &Running) {
    let proofs = running.ledger().proofs().unwrap();
    let size = running.ledger().standing().id;
    let mut reader = running.ledger().reader();
    for id in (DROPPED + 1..=size).step_by(13) {
        let entry = reader.entry(id, |entry, _| *entry).unwrap();
        for size in [id, (id + size) / 2, size] {
            let (path, root) = proofs.inclusion(&entry, id - 1, size).unwrap();
            let leaf = leaf_hash(&entry);
            assert!(verify_inclusion(&leaf, id - 1, size, &path, &root));
        }
    }
    for from in [1, 511, WITNESSED, DROPPED, DROPPED + 1, DROPPED + 50, size] {
        for to in [from, DROPPED.max(from), (from + size) / 2, size] {
            let (path, old, new) = proofs.consistency(from, to).unwrap();
            assert!(verify_consistency(from, to, &old, &new, &path));
        }
    }
    assert!(reader.entry(DROPPED, |_, _| ()).is_err());
}

/// The proof that `proof consistency` prints, checked.
fn consistent(data: &Path, from: u64, to: u64) -> (Hash, Hash) {
    let text = ok(
        data,
        &["proof", "consistency", &from.to_string(), &to.to_string()],
    );
    let mut lines = text.lines();
    let mut root = |size: u64, mark: &str| {
        let line = lines.next().unwrap().strip_prefix(mark).unwrap();
        let (at, root) = line.trim().split_once(' ').unwrap();
        assert_eq!(at, size.to_string());
        hash_of_text(root).unwrap()
    };
    let (old, new) = (root(from, "from"), root(to, "to"));
    let path: Vec<Hash> = lines.map(|line| hash_of_text(line).unwrap()).collect();
    assert!(
        verify_consistency(from, to, &old, &new, &path),
        "{from} {to}"
    );
    (old, new)
}

pub fn a_compacted_log_proves_what_it_kept_on_disk_too() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path();
    let size = compacted(data);
    let text = ok(data, &["verify"]);
    assert!(text.contains("2 checkpoints"), "{text}");
    let key = ok(data, &["key"]);
    let path = data.join("proof");
    let proven = |id: u64| {
        fs::write(&path, ok(data, &["proof", &id.to_string()])).unwrap();
        let words = [
            "proof",
            "verify",
            path.to_str().unwrap(),
            "--key",
            key.trim(),
        ];
        assert!(ok(data, &words).starts_with(&format!("ok event {id} commit ")));
    };
    let kept = || {
        for id in [DROPPED + 1, DROPPED + 69, 1000, size] {
            proven(id);
        }
        let roots: Vec<Hash> = [(DROPPED, 800), (800, 1000), (1000, size)]
            .map(|(from, to)| consistent(data, from, to))
            .windows(2)
            .inspect(|pair| assert_eq!(pair[0].1, pair[1].0))
            .map(|pair| pair[0].1)
            .collect();
        let (code, text) = offline(data, &["proof", &DROPPED.to_string()]);
        let why = format!("event {DROPPED} was dropped by a compaction; the first that is kept is");
        assert!(code == 1 && text.contains(&why), "{text}");
        roots
    };
    let roots = kept();
    consistent(data, WITNESSED, size);
    consistent(data, 1, DROPPED);
    consistent(data, 300, 400);
    ok(
        data,
        &["witness", "request", "--old", &WITNESSED.to_string()],
    );
    // Another implementation takes the export: all tiles, and every bundle that is whole.
    let into = data.join("export");
    let into = into.to_str().unwrap();
    let text = ok(data, &["export", "--tiles", into]);
    let wanted = format!("{size} entries, of which those from index 768 on are there\n");
    assert_eq!(text, wanted);
    assert_eq!(foreign(Path::new(into), key.trim(), 768), Ok(size));
    assert!(!Path::new(into).join("tile/entries/002").exists());
    for tile in ["0/000", "0/001", "0/002"] {
        let exported = fs::read(Path::new(into).join("tile").join(tile)).unwrap();
        assert_eq!(exported, fs::read(data.join("tiles").join(tile)).unwrap());
    }
    // A tile that was changed proves nothing, and is found.
    let tile = data.join("tiles/0/001");
    let mut bytes = fs::read(&tile).unwrap();
    bytes[5000] ^= 1;
    fs::write(&tile, &bytes).unwrap();
    let again = data.join("again");
    for words in [
        &["verify"][..],
        &["export", "--tiles", again.to_str().unwrap()],
        &["proof", "consistency", "300", "400"],
        &["witness", "request", "--old", "300"],
    ] {
        let (code, text) = offline(data, words);
        assert_eq!(code, 1, "{words:?}: {text}");
    }
    // Without tiles, what is kept is proven all the same; what was dropped is not.
    fs::remove_dir_all(data.join("tiles")).unwrap();
    assert_eq!(kept(), roots);
    let (code, text) = offline(data, &["witness", "request", "--old", "600"]);
    assert!(
        code == 1 && text.contains("tiles of compacted events are lost"),
        "{text}"
    );
    // The running ledger goes on, refuses them, and says which command makes those of what is kept.
    let running = Running::start(data);
    running.append(1);
    let proofs = running.ledger().proofs().unwrap();
    let mut reader = running.ledger().reader();
    let entry = reader.entry(size, |entry, _| *entry).unwrap();
    let refused = [
        proofs.inclusion(&entry, size - 1, size).unwrap_err(),
        proofs.consistency(DROPPED, size).unwrap_err(),
    ];
    for refusal in refused {
        let reason = refusal.reason();
        assert_eq!(refusal.code, "CORRUPT", "{reason}");
        assert!(
            reason.contains("vector_boot ledger --log PATH proof EVENT"),
            "{reason}"
        );
    }
    drop(proofs);
    running.stop();
    proven(size);
}
