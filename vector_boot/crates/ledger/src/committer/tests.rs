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

fn second_epoch(log: &mut Log) {
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
    write_own(log, EPOCH_OPENED, &anchor.payload());
}

/// The power went between the event and the drop, and an older version starts: it must not make final what it
/// cannot read.
#[test]
fn a_compaction_whose_summary_cannot_be_read_is_not_finished_by_a_start() {
    for (section, is_dropped) in [("of a later version", false), ("", true)] {
        let folder = tempfile::tempdir().unwrap();
        let (mut log, _) = Log::open(device(folder.path()), &BIRTH, &mut |_| ()).unwrap();
        write_own(&mut log, "kind", "{}");
        second_epoch(&mut log);
        let mut summary = crate::planes::Summary::default();
        Planes::default().summary(&mut summary);
        if !section.is_empty() {
            summary.put(section, &"of another form");
        }
        let mut summary_id = 0;
        for piece in SummaryPiece::cut(&summary.encode()) {
            summary_id = write_own(&mut log, SUMMARY, &piece.payload());
        }
        let compacted = log.droppable(1, summary_id).unwrap().unwrap();
        write_own(&mut log, COMPACTED, &compacted.payload());
        drop(log);
        let (committer, recovery) = Committer::start(device(folder.path()), &BIRTH).unwrap();
        assert_eq!(recovery.compacted, is_dropped, "{section}");
        let first = committer.ledger().standing().first_id;
        assert_eq!(first, if is_dropped { 2 } else { 1 }, "{section}");
        committer.stop();
    }
}

#[test]
fn nothing_is_dropped_or_kept_as_the_state_once_that_of_a_compaction_is_lost() {
    let folder = tempfile::tempdir().unwrap();
    let (mut log, _) = Log::open(device(folder.path()), &BIRTH, &mut |_| ()).unwrap();
    write_own(&mut log, "kind", "{}");
    second_epoch(&mut log);
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

#[test]
fn what_comes_into_the_channel_at_its_end_is_answered() {
    let folder = tempfile::tempdir().unwrap();
    let committer = ledger(folder.path());
    let ledger = committer.ledger().clone();
    committer.stop();
    // Whoever asked before the end and got his turn behind it: in the channel that nobody reads.
    let (said, answers) = bounded(3);
    let (appended, decided) = (said.clone(), said.clone());
    let append: Reply = Box::new(move |outcome| appended.send(outcome.is_err()).unwrap());
    let decide: Decide = Box::new(move |turn| {
        let refused = turn.is_err();
        let reply: Reply = Box::new(move |outcome| {
            decided.send(refused && outcome.is_err()).unwrap();
        });
        (Vec::new(), reply)
    });
    for work in [Work::Append(Vec::new(), append), Work::Decide(decide)] {
        let job = Message::Job(Job { work, bytes: 0 });
        ledger.sender.send(job).unwrap();
    }
    let answer: Answer = Box::new(move |done| said.send(done.is_err()).unwrap());
    ledger.order(Order::Epoch, answer);
    assert_eq!(answers.try_iter().collect::<Vec<_>>(), [true; 3]);
}

#[test]
fn every_request_is_answered_once_while_the_committer_ends() {
    use std::sync::atomic::AtomicUsize;
    for round in 0..8 {
        let folder = tempfile::tempdir().unwrap();
        let committer = ledger(folder.path());
        let (sent, answered) = (AtomicUsize::new(0), Arc::new(AtomicUsize::new(0)));
        std::thread::scope(|scope| {
            for _ in 0..4 {
                let ledger = committer.ledger().clone();
                let (sent, answered) = (&sent, &answered);
                scope.spawn(move || {
                    while !ledger.standing().closing {
                        let (a, b) = (answered.clone(), answered.clone());
                        sent.fetch_add(2, Ordering::Relaxed);
                        ledger.append(
                            Vec::new(),
                            Box::new(move |_| {
                                a.fetch_add(1, Ordering::Relaxed);
                            }),
                        );
                        let answer = Box::new(move |_| {
                            b.fetch_add(1, Ordering::Relaxed);
                        });
                        ledger.order(Order::Compact(Keep::default()), answer);
                    }
                });
            }
            while sent.load(Ordering::Relaxed) < round * 20 {
                std::thread::yield_now();
            }
            committer.stop();
        });
        let (sent, answered) = (
            sent.load(Ordering::Relaxed),
            answered.load(Ordering::Relaxed),
        );
        assert_eq!(answered, sent, "round {round}");
    }
}

#[test]
fn a_log_whose_tiles_lie_elsewhere_keeps_all_and_takes_no_more_where_it_fills() {
    let folder = tempfile::tempdir().unwrap();
    let file = std::fs::File::create(folder.path().join("log")).unwrap();
    file.set_len(1024 * 1024).unwrap();
    drop(file);
    let started = Committer::start_keeping_all(device(folder.path()), &BIRTH);
    let (committer, _) = started.unwrap();
    let ledger = committer.ledger();
    let note = Draft {
        ns: "test".to_owned(),
        actor: "user:a".to_owned(),
        tenant_id: "t".to_owned(),
        event_type: "note".to_owned(),
        payload: format!("{{\"x\":\"{}\"}}", "x".repeat(900)),
        ..Draft::default()
    };
    let mut taken = 0;
    let refused = loop {
        match ledger.append_wait(vec![note.clone(); 32]) {
            Ok(receipts) => taken += receipts.len() as u64,
            Err(refusal) => break refusal,
        }
    };
    assert_eq!(refused.code, "QUOTA", "{}", refused.reason());
    let standing = ledger.standing();
    assert!(standing.used > ledger.room() / 2, "{}", standing.used);
    assert_eq!(
        (standing.first_id, standing.epoch, standing.id),
        (1, 1, taken)
    );
    committer.stop();
}
