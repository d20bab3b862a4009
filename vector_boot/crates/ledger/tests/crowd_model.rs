//! Many requests under way at a time on the disk model: groups are filled while the one before is
//! synced, and whatever the disk does nothing is answered that is not there.
//!
//! What meets in one group is up to the threads, so a seed fixes the requests and the cut, not the
//! groups; the promises hold for all of them.

mod disk;

use crossbeam::channel::unbounded;
use disk::{Chance, Disk};
use ledger::committer::{Committer, Draft, Ledger, Receipt, Refusal};
use ledger::log::Birth;
use ledger::verify::verify;
use ledger_core::{Hash, Origin, SEGMENT_BYTES_MIN};
use std::collections::BTreeMap;
use std::sync::Arc;

const SEEDS: u64 = 40;
/// Requests that are sent without waiting for an answer.
const UNDER_WAY: u64 = 24;
const SEGMENTS: u64 = 12;

const BIRTH: Birth = Birth {
    log_id: [4; 16],
    tag_key: [5; 32],
    wall_ns: 6,
    segment_bytes_max: SEGMENT_BYTES_MIN,
};

fn draft(sequence: u64, bytes: usize) -> Draft {
    Draft {
        origin: Some(Origin {
            boot_id: [1; 16],
            producer: 0,
            sequence,
        }),
        ns: "system".into(),
        actor: "service:init".into(),
        tenant_id: "system".into(),
        event_type: "note".into(),
        payload: format!("{{\"x\":\"{}\"}}", "p".repeat(bytes)),
        ..Draft::default()
    }
}

type Outcome = Result<Vec<Receipt>, Refusal>;

/// Sends requests, all before the first answer is looked at; the answers in the order in which they came.
fn crowd(ledger: &Ledger, requests: Vec<Vec<Draft>>) -> Vec<(usize, Outcome)> {
    let (sender, answers) = unbounded();
    for (n, drafts) in requests.into_iter().enumerate() {
        let sender = sender.clone();
        // The receiver is read below.
        ledger.append(
            drafts,
            Box::new(move |outcome| drop(sender.send((n, outcome)))),
        );
    }
    drop(sender);
    answers.iter().collect()
}

fn requests(chance: &mut Chance, sequence: &mut u64) -> Vec<Vec<Draft>> {
    (0..UNDER_WAY)
        .map(|_| {
            let events = 1 + chance.below(4);
            let mut one = |_| {
                // One in eight is sent again.
                *sequence += u64::from(chance.below(8) > 0);
                draft(*sequence, usize::try_from(chance.below(600)).unwrap())
            };
            (0..events).map(&mut one).collect()
        })
        .collect()
}

#[test]
fn a_cut_amid_a_crowd_loses_nothing_acknowledged_and_answers_are_in_order() {
    let mut groups = 0;
    for seed in 0..SEEDS {
        let mut chance = Chance(seed * 7919 + 5);
        let disk = Disk::new(SEGMENTS);
        let mut sequence = 1;
        let mut acknowledged: BTreeMap<u64, Hash> = BTreeMap::new();
        let (committer, _) = Committer::start(Arc::new(disk.clone()), &BIRTH).unwrap();
        disk.cut_after(1 + chance.below(30));
        let mut stopped = false;
        for _ in 0..4 {
            let mut last = 0;
            for (n, outcome) in crowd(committer.ledger(), requests(&mut chance, &mut sequence)) {
                assert!(
                    outcome.is_err() || !stopped,
                    "seed {seed}: answered behind a failure"
                );
                assert!(
                    n >= last,
                    "seed {seed}: request {n} was answered behind {last}"
                );
                last = n;
                match outcome {
                    Ok(receipts) => {
                        for receipt in receipts {
                            let same = acknowledged.insert(receipt.id, receipt.commit_id);
                            assert_eq!(same.is_some(), receipt.repeated, "seed {seed}");
                            assert!(same.is_none_or(|chain| chain == receipt.commit_id));
                        }
                    }
                    Err(refusal) => {
                        assert_eq!(refusal.code, "READ_ONLY", "seed {seed}");
                        stopped = true;
                    }
                }
            }
        }
        let standing = committer.ledger().standing();
        groups += standing.groups;
        let last = acknowledged.last_key_value().map_or(0, |(id, _)| *id);
        assert_eq!(
            standing.id, last,
            "seed {seed}: what is shown is what was answered"
        );
        committer.stop();
        let disk = disk.after_cut(&mut chance);
        let (committer, _) = Committer::start(Arc::new(disk.clone()), &BIRTH).unwrap();
        let standing = committer.ledger().standing();
        assert_eq!(standing.stopped, None, "seed {seed}: a cut is no damage");
        let mut reader = committer.ledger().reader();
        for (id, chain) in &acknowledged {
            let found = reader.event(*id, |_, chain, _| *chain).unwrap();
            assert_eq!(found, *chain, "seed {seed}: event {id}");
        }
        assert_eq!(
            verify(&disk, None, &mut |_| ()).unwrap().bad,
            None,
            "seed {seed}"
        );
        committer.stop();
    }
    assert!(groups > SEEDS, "only {groups} groups");
}

#[test]
fn a_failed_sync_refuses_the_group_under_way_and_all_behind_it() {
    let disk = Disk::new(SEGMENTS);
    let (committer, _) = Committer::start(Arc::new(disk.clone()), &BIRTH).unwrap();
    let ledger = committer.ledger();
    let mut chance = Chance(3);
    let mut sequence = 1;
    let durable = crowd(ledger, requests(&mut chance, &mut sequence));
    assert!(durable.iter().all(|(_, outcome)| outcome.is_ok()));
    let before = ledger.standing();
    disk.fail_next_sync();
    for (n, outcome) in crowd(ledger, requests(&mut chance, &mut sequence)) {
        match outcome {
            // All of it was there before.
            Ok(receipts) => assert!(receipts.iter().all(|r| r.repeated), "request {n}"),
            Err(refusal) => assert_eq!(refusal.code, "READ_ONLY", "request {n}"),
        }
    }
    let after = ledger.standing();
    assert_eq!((after.id, after.groups), (before.id, before.groups));
    assert!(ledger.reader().event(before.id + 1, |_, _, _| ()).is_err());
    committer.stop();
}
