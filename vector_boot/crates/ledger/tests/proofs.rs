//! Tiles, checkpoints and proofs of a running ledger: lazily written, whole after every kind of loss.

#[path = "process/running.rs"]
mod running;

use ledger::committer::{Committer, Done, Keep, Order};
use ledger::device::Access;
use ledger::proofs::Keeper;
use ledger_core::checkpoint::Checkpoint;
use ledger_core::note::Note;
use ledger_core::proof::{verify_consistency, verify_inclusion};
use ledger_core::{Commitment, leaf_hash};
use running::{BIRTH, Running};
use std::fs;
use std::path::Path;

fn entry(running: &Running, id: u64) -> Commitment {
    let mut reader = running.ledger().reader();
    reader.entry(id, |entry, _| *entry).unwrap()
}

/// Why no checkpoint is signed.
fn refusal(running: &Running) -> ledger::committer::Refusal {
    let proofs = running.ledger().proofs().unwrap();
    proofs.checkpoint(1).unwrap_err()
}

/// Every so many events are proven in the tree as it is, and that tree continues older ones.
fn proves_all(running: &Running) {
    let proofs = running.ledger().proofs().unwrap();
    let standing = running.ledger().standing();
    let size = standing.id;
    let signed = proofs.checkpoint(size).unwrap();
    assert_eq!(
        Checkpoint::open(&signed.note, proofs.verifier()),
        Ok(signed.checkpoint.clone())
    );
    assert_eq!(
        (signed.checkpoint.size, signed.checkpoint.root),
        (size, standing.root)
    );
    for index in (0..size).step_by(97).chain([0, 255, 256, size - 1]) {
        let index = index.min(size - 1);
        let entry = entry(running, index + 1);
        let (path, root) = proofs.inclusion(&entry, index, size).unwrap();
        assert_eq!(root, standing.root);
        assert!(verify_inclusion(
            &leaf_hash(&entry),
            index,
            size,
            &path,
            &root
        ));
        let (path, old, new) = proofs.consistency(index + 1, size).unwrap();
        assert_eq!(new, standing.root);
        assert!(verify_consistency(index + 1, size, &old, &new, &path));
    }
}

fn settled(folder: &Path) -> String {
    fs::read_to_string(folder.join("tiles/settled")).unwrap()
}

#[test]
fn proofs_hold_over_restarts_and_whatever_of_the_tiles_was_lost() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let running = Running::start(folder);
    running.append(700);
    proves_all(&running);
    running.stop();
    assert_eq!(settled(folder), "700\n");
    assert_eq!(fs::read(folder.join("tiles/0/001")).unwrap().len(), 8192);
    assert_eq!(
        fs::read(folder.join("tiles/0/002.p/188")).unwrap().len(),
        188 * 32
    );
    let tile = || folder.join("tiles/0/000");
    let cut = |path: &str| fs::write(folder.join(path), b"").unwrap();
    let losses: [&dyn Fn(); 8] = [
        &|| (),
        &|| fs::remove_dir_all(folder.join("tiles")).unwrap(),
        &|| fs::remove_file(folder.join("tiles/settled")).unwrap(),
        // A settled size that is ahead of the log, or none.
        &|| fs::write(folder.join("tiles/settled"), "99999999\n").unwrap(),
        &|| cut("tiles/settled"),
        // Tiles that are short, or hold other hashes.
        &|| fs::write(tile(), [0; 100]).unwrap(),
        &|| fs::remove_file(tile()).unwrap(),
        &|| cut("tiles/new"),
    ];
    for loss in losses {
        loss();
        let running = Running::start(folder);
        running.append(3);
        proves_all(&running);
        running.stop();
    }
    assert_eq!(settled(folder), "724\n");
}

#[test]
fn a_tile_that_was_changed_is_noticed_and_made_anew() {
    let folder = tempfile::tempdir().unwrap();
    let running = Running::start(folder.path());
    running.append(600);
    proves_all(&running);
    let tile = folder.path().join("tiles/0/001");
    let good = fs::read(&tile).unwrap();
    let mut bad = good.clone();
    bad[5000] ^= 1;
    fs::write(&tile, &bad).unwrap();
    let proofs = running.ledger().proofs().unwrap();
    let entry = entry(&running, 300);
    assert_eq!(
        proofs.inclusion(&entry, 299, 600).unwrap_err().code,
        "CORRUPT"
    );
    proves_all(&running);
    assert_eq!(fs::read(&tile).unwrap(), good);
    running.stop();
}

#[test]
fn a_log_that_was_cut_gets_no_other_checkpoint_than_the_one_that_convicts_it() {
    let folder = tempfile::tempdir().unwrap();
    let running = Running::start(folder.path());
    running.append(50);
    let before = running.ledger().standing();
    running.append(10);
    running.stop();
    let log = folder.path().join("ledger.log");
    let signed = fs::read_to_string(folder.path().join("checkpoint")).unwrap();
    assert_eq!(
        Checkpoint::parse(Note::parse(&signed).unwrap().text())
            .unwrap()
            .size,
        60
    );
    // The last groups as they were before they were written.
    let mut bytes = fs::read(&log).unwrap();
    bytes[usize::try_from(before.end).unwrap()..].fill(0);
    fs::write(&log, &bytes).unwrap();
    let running = Running::start(folder.path());
    assert_eq!(running.ledger().standing().id, 50);
    running.append(5);
    let refused = refusal(&running);
    assert_eq!(refused.code, "CORRUPT");
    assert!(
        refused
            .reason()
            .contains("the log was cut: 60 events were signed, "),
        "{refused:?}"
    );
    running.stop();
    let kept = fs::read_to_string(folder.path().join("checkpoint")).unwrap();
    assert_eq!(kept, signed);
    // Grown past the signed size it is another log all the same.
    let running = Running::start(folder.path());
    running.append(20);
    running.stop();
    let running = Running::start(folder.path());
    let refused = refusal(&running);
    assert!(
        refused.reason().contains("the log was changed"),
        "{refused:?}"
    );
    running.stop();
}

#[test]
fn without_a_folder_checkpoints_are_signed_and_young_leaves_proven() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("ledger.log");
    fs::write(&path, b"").unwrap();
    let device = ledger::open::path(&path, Access::Write).unwrap();
    let (committer, _) = Committer::start(device, &BIRTH).unwrap();
    let keeper = Keeper::start(committer.ledger(), None, None).unwrap();
    let running = Running { committer, keeper };
    running.append(20);
    proves_all(&running);
    running.append(300);
    let proofs = running.ledger().proofs().unwrap();
    let refusal = proofs.inclusion(&entry(&running, 1), 0, 320).unwrap_err();
    assert_eq!(refusal.code, "NOT_FOUND");
    running.stop();
}

#[test]
fn nothing_is_dropped_before_it_is_known_that_its_leaves_are_in_tiles() {
    let folder = tempfile::tempdir().unwrap();
    let running = Running::start(folder.path());
    running.append(700);
    running.ledger().order_wait(Order::Epoch).unwrap();
    running.append(10);
    running.stop();
    fs::remove_dir_all(folder.path().join("tiles")).unwrap();
    // As the service starts: ready first, and then the proofs.
    let path = folder.path().join("ledger.log");
    let device = ledger::open::path(&path, Access::Write).unwrap();
    let (committer, _) = Committer::start_with(device, &BIRTH, Some(folder.path())).unwrap();
    let compact = |committer: &Committer| -> Done {
        let keep = Keep {
            bytes: Some(0),
            events: None,
        };
        let done = committer.ledger().order_wait(Order::Compact(keep));
        done.unwrap()
    };
    assert_eq!(compact(&committer).dropped, 0);
    let keeper = Keeper::start(committer.ledger(), Some(folder.path()), None).unwrap();
    let running = Running { committer, keeper };
    let proofs = running.ledger().proofs().unwrap();
    let size = running.ledger().standing().id;
    proofs.checkpoint(size).unwrap();
    proofs.hasten(size);
    while proofs.settled() < Some(size) {
        std::thread::yield_now();
    }
    assert!(compact(&running.committer).dropped > 0);
    let size = running.ledger().standing().id;
    proofs.checkpoint(size).unwrap();
    let (path, old, new) = proofs.consistency(1, size).unwrap();
    assert!(verify_consistency(1, size, &old, &new, &path));
    running.stop();
}
