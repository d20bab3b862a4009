//! A model of a disk in the device's place: power cuts at any write or sync, with any of the unsynced
//! sectors dropped, written or torn; failing syncs; a full disk; damage.

mod disk;

use disk::{Chance, Disk, SECTOR};
use ledger::committer::{Committer, Draft, Ledger, Receipt};
use ledger::log::{Birth, Log, Recovery, Stopped};
use ledger::planes::{Decision, Moment, Planes};
use ledger::refusal::Refusal;
use ledger::scan::{self, Found};
use ledger_core::{Body, Hash, Origin, SEGMENT_BYTES_MIN, SEGMENT_HEADER_BYTES, SEGMENTS_OFFSET};
use std::sync::Arc;

/// Crash points: each seed is a sequence of lives, each cut at its own write or sync.
const SEEDS: u64 = 100;
const LIVES: u64 = 4;

const BIRTH: Birth = Birth {
    log_id: [4; 16],
    tag_key: [5; 32],
    wall_ns: 6,
    segment_bytes_max: SEGMENT_BYTES_MIN,
};

fn body(payload: &str) -> Body<'_> {
    Body {
        timestamp_ns: 1,
        wall_ns: 2,
        ulid: [3; 16],
        tenant_tag: [0; 8],
        ns: "system",
        actor: "service:init",
        tenant_id: "system",
        event_type: "note",
        subject: "",
        payload,
        causation_id: None,
        origin: None,
        sig: None,
    }
}

/// Opens and returns every durable event's chain value by id; ids must be gap-free.
fn open(disk: &Disk) -> Result<(Log, Recovery, Vec<Hash>), String> {
    let (mut all, mut whole) = (Vec::new(), 0);
    let opened = Log::open(Arc::new(disk.clone()), &BIRTH, &mut |found| match found {
        Found::Event { id, chain, .. } => {
            all.push(chain);
            assert_eq!(id, all.len() as u64, "ids are gap-free");
        }
        Found::Group { .. } => whole = all.len(),
        Found::Segment { .. } => {}
    });
    all.truncate(whole);
    opened
        .map(|(log, recovery)| (log, recovery, all))
        .map_err(|e| e.to_string())
}

/// Appends groups until the power goes or `groups` are durable; adds what was acknowledged.
fn live(log: &mut Log, chance: &mut Chance, groups: u64, acknowledged: &mut Vec<Hash>) {
    for _ in 0..groups {
        let mut group = log.group();
        let mut chains = Vec::new();
        for _ in 0..=chance.below(4) {
            let payload = format!(
                "{{\"x\":\"{}\"}}",
                "p".repeat(usize::try_from(chance.below(700)).unwrap())
            );
            match group.push(&body(&payload)) {
                Some(committed) => chains.push(committed.chain),
                None => break,
            }
        }
        if chains.is_empty() {
            if log.next_segment().is_err() {
                return;
            }
            continue;
        }
        if log.commit(group).is_err() {
            return;
        }
        acknowledged.extend(chains);
    }
}

#[test]
fn power_cuts_anywhere_lose_nothing_acknowledged() {
    let (mut cuts, mut torn) = (0u64, 0u64);
    for seed in 0..SEEDS {
        let mut chance = Chance(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) + 1);
        let mut disk = Disk::new(6);
        let mut acknowledged: Vec<Hash> = Vec::new();
        for life in 0..LIVES {
            disk.cut_after(chance.below(60));
            if let Ok((mut log, recovery, found)) = open(&disk) {
                torn += u64::from(recovery.torn_bytes > 0);
                check(seed, life, &log, &found, &acknowledged);
                // What recovery found is promised from here on: it was read to others.
                acknowledged = found;
                let groups = chance.below(30);
                live(&mut log, &mut chance, groups, &mut acknowledged);
            }
            disk = disk.after_cut(&mut chance);
            cuts += 1;
        }
        let (mut log, _, found) = open(&disk).unwrap_or_else(|e| panic!("seed {seed}: {e}"));
        check(seed, LIVES, &log, &found, &acknowledged);
        let mut after = found.clone();
        live(&mut log, &mut chance, 3, &mut after);
        let (superblock, copy) = scan::superblock(&disk).unwrap().unwrap();
        assert_eq!(copy, None, "seed {seed}");
        let end = scan::scan(&disk, &superblock, None, &mut |_| ()).unwrap();
        assert_eq!(
            (end.head.id, end.fault),
            (after.len() as u64, None),
            "seed {seed}"
        );
        assert_eq!(end.head.tree.size(), end.head.id);
    }
    assert!(cuts >= 400, "{cuts} crash points");
    assert!(
        torn >= 10,
        "only {torn} torn groups were met: the model cuts too gently"
    );
}

fn check(seed: u64, life: u64, log: &Log, found: &[Hash], acknowledged: &[Hash]) {
    let stopped = log.stopped();
    // A start whose power goes before it has written its zeros reads, and writes nothing.
    let cut = life < LIVES && matches!(stopped, Some(Stopped::Device { .. }));
    assert!(
        cut || stopped.is_none(),
        "seed {seed} life {life}: a cut is no damage: {stopped:?}"
    );
    assert!(
        found.len() >= acknowledged.len(),
        "seed {seed} life {life}: lost acknowledged events"
    );
    assert_eq!(
        &found[..acknowledged.len()],
        acknowledged,
        "seed {seed} life {life}: history changed"
    );
}

#[test]
fn a_failed_sync_ends_writing_for_good() {
    let disk = Disk::new(4);
    let (mut log, ..) = open(&disk).unwrap();
    let mut acknowledged = Vec::new();
    live(&mut log, &mut Chance(1), 3, &mut acknowledged);
    disk.fail_next_sync();
    let mut group = log.group();
    group.push(&body("{}")).unwrap();
    let stopped = log.commit(group).unwrap_err();
    assert!(
        matches!(
            &stopped,
            Stopped::Device {
                step: "sync group",
                ..
            }
        ),
        "{stopped:?}"
    );
    let syncs = disk.syncs();
    // The device works again, yet nothing is tried on it.
    let mut group = log.group();
    group.push(&body("{}")).unwrap();
    assert_eq!(log.commit(group).unwrap_err(), stopped);
    assert_eq!(log.next_segment().unwrap_err(), stopped);
    assert_eq!(disk.syncs(), syncs);
    assert_eq!(stopped.code(), "READ_ONLY");
}

fn draft(payload: &str) -> Draft {
    Draft {
        origin: None,
        ns: "system".into(),
        actor: "service:init".into(),
        tenant_id: "system".into(),
        event_type: "note".into(),
        subject: String::new(),
        payload: payload.into(),
        causation_id: None,
        timestamp_ns: None,
        ulid: None,
        sig: None,
    }
}

#[test]
fn a_full_log_is_read_only_and_keeps_what_it_has() {
    let disk = Disk::new(1);
    let (committer, _) = Committer::start(Arc::new(disk.clone()), &BIRTH).unwrap();
    let ledger = committer.ledger();
    let mut durable = 0;
    let refusal = loop {
        match ledger.append_wait(vec![draft("{\"a\":1}"); 3]) {
            Ok(receipts) => durable = receipts.last().unwrap().id,
            Err(refusal) => break refusal,
        }
    };
    assert_eq!(refusal.code, "READ_ONLY");
    assert!(
        refusal.limit.contains("1 segments of 16384 bytes"),
        "{}",
        refusal.limit
    );
    assert!(durable > 20);
    assert_eq!(
        ledger.append_wait(vec![draft("{}")]).unwrap_err().code,
        "READ_ONLY"
    );
    let read = ledger
        .reader()
        .event(durable, |id, _, body| (id, body.payload.to_owned()));
    assert_eq!(read.unwrap(), (durable, "{\"a\":1}".to_owned()));
    committer.stop();
    assert_eq!(open(&disk).unwrap().2.len() as u64, durable);
}

#[test]
fn an_event_larger_than_a_segment_is_refused_and_the_next_is_taken() {
    let disk = Disk::new(3);
    let (committer, _) = Committer::start(Arc::new(disk), &BIRTH).unwrap();
    let big = format!("{{\"x\":\"{}\"}}", "y".repeat(20_000));
    let refusal = committer
        .ledger()
        .append_wait(vec![draft(&big)])
        .unwrap_err();
    assert_eq!(refusal.code, "TOO_LARGE");
    assert_eq!(
        committer.ledger().append_wait(vec![draft("{}")]).unwrap()[0].id,
        1
    );
    committer.stop();
}

#[test]
fn an_origin_is_recognised_again_also_after_a_restart() {
    let disk = Disk::new(4);
    let origin = |sequence| Draft {
        origin: Some(Origin {
            boot_id: [1; 16],
            producer: 0,
            sequence,
        }),
        ..draft("{}")
    };
    let (committer, _) = Committer::start(Arc::new(disk.clone()), &BIRTH).unwrap();
    let both = committer
        .ledger()
        .append_wait(vec![origin(1), origin(1), origin(2)])
        .unwrap();
    assert_eq!(
        both.iter().map(|r| (r.id, r.repeated)).collect::<Vec<_>>(),
        [(1, false), (1, true), (2, false)]
    );
    committer.stop();
    let (committer, _) = Committer::start(Arc::new(disk), &BIRTH).unwrap();
    let again = committer
        .ledger()
        .append_wait(vec![origin(2), origin(3)])
        .unwrap();
    assert_eq!(
        (again[0].id, again[0].repeated, again[0].commit_id),
        (2, true, both[2].commit_id)
    );
    assert_eq!((again[1].id, again[1].repeated), (3, false));
    committer.stop();
}

#[test]
fn damage_before_a_later_group_is_read_only_and_named() {
    let disk = Disk::new(3);
    let (committer, _) = Committer::start(Arc::new(disk.clone()), &BIRTH).unwrap();
    for _ in 0..3 {
        committer.ledger().append_wait(vec![draft("{}")]).unwrap();
    }
    committer.stop();
    // The second group's sector.
    let at = SEGMENTS_OFFSET + (SEGMENT_HEADER_BYTES + SECTOR) as u64;
    disk.flip(at + 70);
    let (committer, _) = Committer::start(Arc::new(disk.clone()), &BIRTH).unwrap();
    let refusal = committer
        .ledger()
        .append_wait(vec![draft("{}")])
        .unwrap_err();
    assert_eq!(refusal.code, "CORRUPT");
    assert!(
        refusal.limit.contains(&format!("model at byte {at}")),
        "{}",
        refusal.limit
    );
    assert!(refusal.limit.contains("event 2"), "{}", refusal.limit);
    assert!(committer.ledger().reader().event(1, |_, _, _| ()).is_ok());
    committer.stop();
    disk.flip(at + 70);
    assert_eq!(open(&disk).unwrap().2.len(), 3, "nothing was cut off");
}

#[test]
fn every_flipped_byte_of_a_small_log_is_detected_by_verify() {
    let disk = Disk::new(2);
    let (committer, _) = Committer::start(Arc::new(disk.clone()), &BIRTH).unwrap();
    for n in 0..3 {
        committer
            .ledger()
            .append_wait(vec![draft("{}"); n + 1])
            .unwrap();
    }
    let end = committer.ledger().standing().end;
    committer.stop();
    let check = || ledger::verify::verify(&disk, None, &mut |_| ()).map(|r| r.bad);
    assert_eq!(check().unwrap(), None);
    // Behind the end lie the zeros of the next group.
    for at in 0..end + 4 * SECTOR as u64 {
        disk.flip(at);
        if let Ok(bad) = check() {
            let bad = bad.unwrap_or_else(|| panic!("byte {at} went unseen"));
            assert!(bad.offset <= at, "byte {at}: {bad:?}");
        }
        disk.flip(at);
    }
    assert_eq!(check().unwrap(), None);
}

/// Sets the policy if its last change is still the one expected: the smallest decision there is.
fn swap(
    ledger: &Ledger,
    expected: u64,
) -> std::sync::mpsc::Receiver<Result<((), Vec<Receipt>), Refusal>> {
    let (sender, receiver) = std::sync::mpsc::channel();
    let decide = move |planes: &Planes, _: &Moment| {
        if planes.policy.revision() != expected {
            return Err(Refusal::new(
                "CONFLICT",
                "revision",
                "",
                "somebody was first",
            ));
        }
        Ok(Decision {
            events: vec![Draft {
                event_type: "policy.set".into(),
                ..draft("{}")
            }],
            answer: (),
        })
    };
    ledger.decide(0, decide, move |outcome| drop(sender.send(outcome)));
    receiver
}

#[test]
fn of_decisions_that_exclude_each_other_one_wins_also_within_a_group() {
    let disk = Disk::new(16);
    let (committer, _) = Committer::start(Arc::new(disk.clone()), &BIRTH).unwrap();
    let ledger = committer.ledger();
    let mut expected = 0;
    for _ in 0..20 {
        // The first append keeps the committer busy, so that the decisions share a group.
        ledger.append(vec![draft("{}")], Box::new(|_| ()));
        let asked: Vec<_> = (0..32).map(|_| swap(ledger, expected)).collect();
        let won: Vec<u64> = asked
            .iter()
            .filter_map(|answer| match answer.recv().unwrap() {
                Ok(((), receipts)) => Some(receipts[0].id),
                Err(refusal) => {
                    assert_eq!(refusal.code, "CONFLICT");
                    None
                }
            })
            .collect();
        assert_eq!(won.len(), 1, "{won:?}");
        expected = won[0];
        assert_eq!(ledger.planes(|p| p.policy.revision()).unwrap(), expected);
    }
    let before = ledger.planes(|p| p.policy.clone()).unwrap();
    committer.stop();
    let (committer, _) = Committer::start(Arc::new(disk), &BIRTH).unwrap();
    let rebuilt = committer.ledger().planes(|p| p.policy.clone()).unwrap();
    assert_eq!(rebuilt, before);
    committer.stop();
}

#[test]
fn what_a_failed_sync_left_in_the_planes_is_told_to_nobody() {
    let disk = Disk::new(4);
    let (committer, _) = Committer::start(Arc::new(disk.clone()), &BIRTH).unwrap();
    let ledger = committer.ledger();
    assert!(swap(ledger, 0).recv().unwrap().is_ok());
    disk.fail_next_sync();
    let codes = [swap(ledger, 1), swap(ledger, 1), swap(ledger, 2)]
        .map(|answer| answer.recv().unwrap().unwrap_err().code);
    assert_eq!(codes, ["READ_ONLY"; 3]);
    let refusal = ledger.planes(|p| p.policy.revision()).unwrap_err();
    assert_eq!(refusal.code, "READ_ONLY");
    committer.stop();
    let disk = disk.after_cut(&mut Chance(7));
    let (committer, _) = Committer::start(Arc::new(disk), &BIRTH).unwrap();
    let ledger = committer.ledger();
    let (revision, last) = (
        ledger.planes(|p| p.policy.revision()).unwrap(),
        ledger.standing().id,
    );
    assert_eq!(revision, last, "the planes are what the log says");
    committer.stop();
}

#[test]
fn a_decision_that_does_not_fit_the_segment_begins_the_next_as_it_was_decided() {
    let disk = Disk::new(8);
    let (committer, _) = Committer::start(Arc::new(disk), &BIRTH).unwrap();
    let ledger = committer.ledger();
    let mut next = 1;
    for _ in 0..12 {
        let (sender, receiver) = std::sync::mpsc::channel();
        let decide = |_: &Planes, moment: &Moment| {
            let big = format!("{{\"x\":\"{}\"}}", "y".repeat(5000));
            Ok(Decision {
                events: vec![draft(&big), draft("{}")],
                answer: moment.next_id,
            })
        };
        ledger.decide(5000, decide, move |outcome| drop(sender.send(outcome)));
        let (told, receipts) = receiver.recv().unwrap().unwrap();
        assert_eq!(
            (told, receipts[0].id, receipts[1].id),
            (next, next, next + 1)
        );
        next += 2;
    }
    committer.stop();
}
