//! What happens to those who wait while the committer stops; what is not dropped from a log whose state
//! is lost.

use super::*;
use crate::device::Access;
use crate::index::State;
use ledger_core::{
    Anchor, COMPACTED, EPOCH_OPENED, LEDGER_ACTOR, LEDGER_NS, LEDGER_TENANT, SUMMARY, SummaryPiece,
};

const BIRTH: Birth = Birth {
    log_id: [1; 16],
    tag_key: [2; 32],
    wall_ns: 0,
    segment_bytes_max: 1024 * 1024,
};

fn device(folder: &Path) -> Arc<dyn Device> {
    let file = std::fs::File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(folder.join("log"))
        .unwrap();
    crate::open::descriptor(file, "log", Access::Write).unwrap()
}

fn ledger(folder: &Path) -> Committer {
    Committer::start(device(folder), &BIRTH).unwrap().0
}

/// Appends one of the ledger's own events to a log that nobody else writes; its id.
fn write_own(log: &mut Log, event_type: &str, payload: &str) -> u64 {
    let mut group = log.group();
    let draft = Draft {
        ns: LEDGER_NS.to_owned(),
        actor: LEDGER_ACTOR.to_owned(),
        tenant_id: LEDGER_TENANT.to_owned(),
        event_type: event_type.to_owned(),
        payload: payload.to_owned(),
        ..Draft::default()
    };
    let id = group.push(&draft.body(1)).unwrap().id;
    log.commit(group).unwrap();
    id
}

#[test]
fn nothing_is_dropped_or_kept_as_the_state_once_that_of_a_compaction_is_lost() {
    let folder = tempfile::tempdir().unwrap();
    let (mut log, _) = Log::open(device(folder.path()), &BIRTH, &mut |_| ()).unwrap();
    write_own(&mut log, "kind", "{}");
    log.next_epoch().unwrap();
    let head = log.head();
    let anchor = Anchor {
        epoch: 2,
        previous: None,
        chain: head.chain,
        tree_size: head.tree.size(),
        root: head.tree.root(),
        state: [0; 32],
    };
    write_own(&mut log, EPOCH_OPENED, &anchor.payload());
    // Every frame holds, but the summary is not what its hash says.
    let mut piece = SummaryPiece::cut(b"what the policy was").remove(0);
    piece.state = [1; 32];
    let summary_id = write_own(&mut log, SUMMARY, &piece.payload());
    let compacted = log.droppable(1, summary_id).unwrap().unwrap();
    write_own(&mut log, COMPACTED, &compacted.payload());
    log.compact(&compacted).unwrap();
    drop(log);
    let index = folder.path().join("index");
    std::fs::create_dir(&index).unwrap();
    let (committer, _) =
        Committer::start_with(device(folder.path()), &BIRTH, Some(&index)).unwrap();
    let ledger = committer.ledger();
    assert_eq!(ledger.standing().stopped, None);
    let opened = ledger.order_wait(Order::Epoch).unwrap();
    assert_eq!(opened.epoch, 3);
    let keep = Keep {
        bytes: Some(0),
        events: None,
    };
    let refusal = ledger.order_wait(Order::Compact(keep)).unwrap_err();
    assert_eq!(refusal.code, "CORRUPT", "{}", refusal.reason());
    assert!(refusal.reason().contains("state of a compaction is lost"));
    assert_eq!(ledger.standing().first_id, 2, "all is kept");
    ledger.keep_index_now();
    assert!(State::read(&index).is_none(), "no state to read on from");
    committer.stop();
}

#[test]
fn who_waits_for_room_behind_a_stop_is_refused_and_not_left_waiting() {
    let folder = tempfile::tempdir().unwrap();
    let committer = ledger(folder.path());
    let ledger = committer.ledger().clone();
    let (held, hold) = bounded::<()>(0);
    let (busy, is_busy) = bounded::<()>(1);
    ledger.decide(
        0,
        move |_, _| {
            busy.send(()).unwrap();
            // Until the test lets go.
            let _ = hold.recv();
            Ok(Decision::only(()))
        },
        |_| (),
    );
    is_busy.recv().unwrap();
    // What `stop` sends first; the committer is busy, so the rest comes behind it.
    ledger.sender.send(Message::Stop).unwrap();
    let large = || {
        vec![Draft {
            payload: "x".repeat(QUEUE_BYTES_MAX),
            ..Draft::default()
        }]
    };
    let (refused, outcomes) = bounded(2);
    for _ in 0..2 {
        let (ledger, refused) = (ledger.clone(), refused.clone());
        std::thread::spawn(move || {
            ledger.append(
                large(),
                Box::new(move |outcome| refused.send(outcome.is_err()).unwrap()),
            );
        });
    }
    // One of the two fills the queue.
    while ledger.queued_bytes() < QUEUE_BYTES_MAX {
        std::thread::yield_now();
    }
    drop(held);
    for _ in 0..2 {
        assert_eq!(outcomes.recv_timeout(Duration::from_secs(60)), Ok(true));
    }
    committer.stop();
}
