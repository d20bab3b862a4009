//! The whole writer under power cuts: appends, rotation, epochs, compaction by order and by itself, and
//! the planes that are rebuilt from what is left.
//!
//! Each seed is a sequence of lives, each cut at its own write or sync. `VB_DISK_MODEL=FROM..TO` runs
//! other seeds than those of the ordinary tests; the drill `disk-model` runs many.

mod disk;

use disk::{Chance, Disk, Power};
use ledger::committer::{Committer, Draft, Keep, Ledger, Order};
use ledger::log::{Birth, Stopped};
use ledger::planes::Summary;
use ledger::verify::verify;
use ledger_core::{Hash, Origin, SEGMENT_BYTES_MIN};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

/// Of the ordinary tests.
const SEEDS: std::ops::Range<u64> = 0..60;
const LIVES: u64 = 5;
const SEGMENTS: u64 = 6;

const BIRTH: Birth = Birth {
    log_id: [4; 16],
    tag_key: [5; 32],
    wall_ns: 6,
    segment_bytes_max: SEGMENT_BYTES_MIN,
};

fn draft(sequence: u64, bytes: u64) -> Draft {
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
        payload: format!(
            "{{\"x\":\"{}\"}}",
            "p".repeat(usize::try_from(bytes).unwrap())
        ),
        ..Draft::default()
    }
}

/// What was promised so far.
#[derive(Default)]
struct Promised {
    /// Chain values of acknowledged events.
    chains: BTreeMap<u64, Hash>,
    /// Roots that were published, by size.
    roots: BTreeMap<u64, Hash>,
    /// Drafts that were acknowledged, with their events.
    drafts: Vec<(Draft, u64)>,
    /// Nothing before this event is promised any more.
    first: u64,
    sequence: u64,
    compactions: u64,
}

impl Promised {
    fn check(&mut self, seed: &str, ledger: &Ledger) {
        let standing = ledger.standing();
        // A start whose power goes before it has written its zeros reads, and writes nothing.
        let cut = matches!(standing.stopped, None | Some(Stopped::Device { .. }));
        assert!(cut, "{seed}: a cut is no damage: {standing:?}");
        assert!(
            standing.first_id >= self.first,
            "{seed}: what was dropped came back"
        );
        let last = self.chains.last_key_value().map_or(0, |(id, _)| *id);
        assert!(
            standing.id >= last,
            "{seed}: event {last} was acknowledged, the log ends at {}",
            standing.id
        );
        let mut reader = ledger.reader();
        for id in standing.first_id..=standing.id {
            let chain = reader
                .event(id, |found, chain, _| {
                    assert_eq!(found, id);
                    *chain
                })
                .unwrap_or_else(|e| panic!("{seed}: event {id}: {e}"));
            // What recovery found is promised from here on: it was read to others.
            let promised = *self.chains.entry(id).or_insert(chain);
            assert_eq!(promised, chain, "{seed}: event {id} is another one");
        }
        if standing.first_id > 1 {
            let gone = reader.event(standing.first_id - 1, |_, _, _| ());
            assert_eq!(
                gone.map_err(|e| e.kind()),
                Err(std::io::ErrorKind::NotFound)
            );
        }
        if let Some(root) = self.roots.get(&standing.id) {
            assert_eq!(*root, standing.root, "{seed}: another tree");
        }
        self.first = standing.first_id;
    }

    /// Sends some again that were acknowledged: each is recognised, dropped or not.
    fn resend(&self, seed: &str, ledger: &Ledger, chance: &mut Chance) {
        for _ in 0..3 {
            let n = usize::try_from(chance.below(self.drafts.len() as u64)).unwrap();
            let Some((draft, id)) = self.drafts.get(n) else {
                return;
            };
            if let Ok(receipts) = ledger.append_wait(vec![draft.clone()]) {
                let found = (receipts[0].id, receipts[0].repeated);
                assert_eq!(found, (*id, true), "{seed}: an event is there twice");
            }
        }
    }

    fn live(&mut self, seed: &str, ledger: &Ledger, chance: &mut Chance, steps: u64) {
        for _ in 0..steps {
            let order = match chance.below(24) {
                0 => Some(Order::Epoch),
                1 => Some(Order::Compact(Keep::default())),
                2 => Some(Order::Compact(Keep {
                    events: Some(chance.below(40)),
                    bytes: None,
                })),
                _ => None,
            };
            if let Some(order) = order {
                if let Ok(done) = ledger.order_wait(order) {
                    self.first = self.first.max(done.first_event_id);
                    self.compactions += u64::from(done.dropped > 0);
                }
                continue;
            }
            let drafts: Vec<Draft> = (0..=chance.below(3))
                .map(|_| {
                    self.sequence += 1;
                    draft(self.sequence, chance.below(700))
                })
                .collect();
            let Ok(receipts) = ledger.append_wait(drafts.clone()) else {
                if ledger.standing().stopped.is_some() {
                    return;
                }
                continue;
            };
            for (receipt, draft) in receipts.iter().zip(drafts) {
                assert!(!receipt.repeated, "{seed}");
                assert_eq!(self.chains.insert(receipt.id, receipt.commit_id), None);
                self.drafts.push((draft, receipt.id));
            }
            let standing = ledger.standing();
            self.roots.insert(standing.id, standing.root);
            self.first = self.first.max(standing.first_id);
        }
    }
}

fn seeds() -> std::ops::Range<u64> {
    let Ok(text) = std::env::var("VB_DISK_MODEL") else {
        return SEEDS;
    };
    let (from, to) = text.split_once("..").expect("FROM..TO");
    from.parse().expect("a number")..to.parse().expect("a number")
}

#[test]
fn power_cuts_lose_nothing_acknowledged_over_epochs_and_compaction() {
    let (mut cuts, mut compactions, mut epochs, mut pieces) = (0u64, 0, 0, 0);
    for seed in seeds() {
        ledger::stand_still(seed);
        let mut chance = Chance(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) + 7);
        let mut disk = Disk::of(&Power::default(), SEGMENTS, seed);
        let mut promised = Promised::default();
        for life in 0..=LIVES {
            let name = format!("seed {seed} life {life}");
            let last = life == LIVES;
            if !last {
                disk.cut_after(chance.below(160));
            }
            match Committer::start(Arc::new(disk.clone()), &BIRTH) {
                Ok((committer, _)) => {
                    let ledger = committer.ledger().clone();
                    promised.check(&name, &ledger);
                    let writable = ledger.standing().stopped.is_none();
                    assert!(writable || !last, "{name}: with all its power");
                    if writable {
                        promised.resend(&name, &ledger, &mut chance);
                        let steps = chance.below(60);
                        promised.live(&name, &ledger, &mut chance, steps);
                    }
                    epochs = epochs.max(ledger.standing().epoch);
                    committer.stop();
                }
                Err(e) => assert!(!last, "{name}: {e}"),
            }
            pieces += disk.pieces();
            if !last {
                disk = disk.after_cut(&mut chance);
                cuts += 1;
            }
        }
        let report = verify(&disk, None, &mut |_| ()).unwrap();
        assert_eq!(report.bad, None, "seed {seed}");
        compactions += promised.compactions;
    }
    println!(
        "{cuts} crash points, {compactions} compactions by order, epoch {epochs} at most, {pieces} pieces of zeros beside commits"
    );
    assert!(
        pieces > cuts,
        "only {pieces} pieces of zeros beside commits"
    );
    assert!(
        compactions * 5 > cuts / LIVES,
        "only {compactions} compactions"
    );
}

fn fill(ledger: &Ledger, actor: &str, events: u64, bytes: u64) -> Result<u64, &'static str> {
    for n in 0..events {
        let draft = Draft {
            origin: None,
            actor: actor.into(),
            ..draft(n, bytes)
        };
        ledger.append_wait(vec![draft]).map_err(|r| r.code)?;
    }
    Ok(events)
}

#[test]
fn a_log_that_fills_opens_epochs_and_drops_what_is_oldest() {
    let disk = Disk::new(8);
    let (committer, _) = Committer::start(Arc::new(disk.clone()), &BIRTH).unwrap();
    let ledger = committer.ledger();
    assert_eq!(fill(ledger, "service:gateway", 600, 400), Ok(600));
    let standing = ledger.standing();
    assert!(standing.epoch > 2, "{standing:?}");
    assert!(standing.first_id > 100, "{standing:?}");
    assert!(standing.used <= ledger.room(), "{standing:?}");
    let report = verify(&disk, None, &mut |_| ()).unwrap();
    assert_eq!((report.bad, report.events), (None, standing.id));
    committer.stop();
    let (committer, _) = Committer::start(Arc::new(disk), &BIRTH).unwrap();
    let again = committer.ledger().standing();
    assert_eq!(
        (
            again.id,
            again.chain,
            again.root,
            again.first_id,
            again.epoch
        ),
        (
            standing.id,
            standing.chain,
            standing.root,
            standing.first_id,
            standing.epoch
        )
    );
    committer.stop();
}

/// The planes as bytes.
fn planes(ledger: &Ledger) -> Vec<u8> {
    let mut summary = Summary::default();
    ledger
        .planes(|planes| planes.summary(&mut summary))
        .unwrap();
    summary.encode()
}

#[test]
fn a_start_keeps_no_state_of_a_segment_that_begins_amid_a_summary() {
    let (disk, folder) = (Disk::new(12), tempfile::tempdir().unwrap());
    let start = |index: Option<&Path>| {
        let started = Committer::start_with(Arc::new(disk.clone()), &BIRTH, index);
        started.unwrap().0
    };
    let committer = start(None);
    let ledger = committer.ledger();
    // Their summary takes more than a segment.
    for n in 0..8 {
        let rules = "allow bus.* on=queue.* tenant=acme\\n".repeat(60);
        let policy = Draft {
            origin: None,
            event_type: "policy.set".into(),
            payload: format!("{{\"name\":\"p{n}\",\"text\":\"vb-policy 1\\n{rules}\"}}"),
            ..draft(1, 0)
        };
        ledger.append_wait(vec![policy]).unwrap();
    }
    ledger.order_wait(Order::Epoch).unwrap();
    fill(ledger, "service:gateway", 20, 400).unwrap();
    let keep = Keep {
        bytes: Some(0),
        events: None,
    };
    assert!(ledger.order_wait(Order::Compact(keep)).unwrap().dropped > 0);
    let told = planes(ledger);
    // In hex, and in events.
    assert!(2 * told.len() as u64 > SEGMENT_BYTES_MIN);
    committer.stop();
    // The first of these reads all and keeps what it may; the others believe it.
    for _ in 0..3 {
        let committer = start(Some(folder.path()));
        assert!(planes(committer.ledger()) == told);
        committer.stop();
    }
}

#[test]
fn a_log_with_nothing_to_drop_keeps_its_last_room_for_the_machine_and_then_is_read_only() {
    let disk = Disk::new(1);
    let (committer, _) = Committer::start(Arc::new(disk.clone()), &BIRTH).unwrap();
    let ledger = committer.ledger();
    assert_eq!(fill(ledger, "service:gateway", 100, 100), Err("QUOTA"));
    let durable = ledger.standing().id;
    assert_eq!(ledger.standing().stopped, None);
    assert_eq!(fill(ledger, "service:init", 1, 10), Ok(1));
    assert_eq!(fill(ledger, "service:init", 100, 10), Err("READ_ONLY"));
    let why = ledger.standing().stopped.unwrap().to_string();
    assert!(why.contains("nothing is left to drop"), "{why}");
    assert!(ledger.reader().event(durable, |_, _, _| ()).is_ok());
    assert_eq!(verify(&disk, None, &mut |_| ()).unwrap().bad, None);
    committer.stop();
}

#[test]
fn a_compaction_without_its_event_is_damage() {
    let disk = Disk::new(6);
    let (committer, _) = Committer::start(Arc::new(disk.clone()), &BIRTH).unwrap();
    let ledger = committer.ledger();
    fill(ledger, "service:gateway", 60, 400).unwrap();
    ledger.order_wait(Order::Epoch).unwrap();
    let keep = Keep {
        bytes: Some(0),
        events: None,
    };
    let done = ledger.order_wait(Order::Compact(keep)).unwrap();
    assert!(done.dropped >= 2, "{done:?}");
    fill(ledger, "service:gateway", 3, 400).unwrap();
    committer.stop();
    let found = ledger::scan::superblock(&disk).unwrap();
    let (superblock, _) = found.unwrap();
    assert!(superblock.first_segment >= done.dropped);
    let last = verify(&disk, None, &mut |_| ()).unwrap();
    assert_eq!(last.bad, None);
    // Every byte of the first header is bound.
    let header = superblock.slot_offset(superblock.segment_offset(superblock.first_segment));
    for at in (header..header + 4096).step_by(31) {
        disk.flip(at);
        let bad = verify(&disk, None, &mut |_| ()).unwrap().bad;
        assert!(bad.is_some(), "byte {at} went unseen");
        disk.flip(at);
    }
}

/// What a failed device leaves: refusals with the code, all that was stored, and a service that answers.
fn fails_for_good(disk: &Disk, fail: fn(&Disk), reason: &str) {
    let (committer, _) = Committer::start(Arc::new(disk.clone()), &BIRTH).unwrap();
    let ledger = committer.ledger();
    fill(ledger, "service:gateway", 5, 400).unwrap();
    let before = ledger.standing();
    fail(disk);
    assert_eq!(fill(ledger, "service:gateway", 5, 400), Err("READ_ONLY"));
    let stopped = ledger.standing().stopped.unwrap().to_string();
    assert!(stopped.contains(reason), "{stopped}");
    // The device would work again: nothing is tried.
    let syncs = disk.syncs();
    assert_eq!(fill(ledger, "service:init", 1, 10), Err("READ_ONLY"));
    assert_eq!(
        ledger.order_wait(Order::Epoch).map_err(|r| r.code),
        Err("READ_ONLY")
    );
    assert_eq!(disk.syncs(), syncs);
    let mut reader = ledger.reader();
    for id in before.first_id..=before.id {
        assert!(reader.event(id, |_, _, _| ()).is_ok(), "event {id}");
    }
    assert_eq!(
        ledger.planes(|p| p.through).map_err(|r| r.code),
        Err("READ_ONLY")
    );
    committer.stop();
    let disk = disk.after_cut(&mut Chance(3));
    let (committer, _) = Committer::start(Arc::new(disk), &BIRTH).unwrap();
    assert!(committer.ledger().standing().id >= before.id);
    assert_eq!(fill(committer.ledger(), "service:gateway", 1, 400), Ok(1));
    committer.stop();
}

#[test]
fn a_failed_sync_or_a_full_file_system_ends_writing_and_nothing_else() {
    fails_for_good(&Disk::new(6), Disk::fail_next_sync, "sync group failed");
    fails_for_good(&Disk::new(6), Disk::fill_up, "No space left");
}

#[test]
fn a_log_that_is_cut_off_anywhere_keeps_what_lies_before_the_cut_and_is_never_more_than_it_was() {
    let disk = Disk::new(2);
    let (committer, _) = Committer::start(Arc::new(disk.clone()), &BIRTH).unwrap();
    fill(committer.ledger(), "service:gateway", 8, 400).unwrap();
    let whole = committer.ledger().standing();
    committer.stop();
    let begin = 8192 + 4096;
    let end = usize::try_from(whole.end).unwrap();
    for cut in (begin..end).step_by(97) {
        let disk = disk.cut_off(cut);
        let (committer, recovery) = Committer::start(Arc::new(disk), &BIRTH).unwrap();
        let standing = committer.ledger().standing();
        // Zeros behind a group look as if nothing had been written: whole groups that are gone are
        // what an outside checkpoint is for.
        assert!(standing.id <= 8 && standing.id * 1024 <= (cut - begin) as u64);
        assert!(
            standing.stopped.is_none(),
            "cut at {cut}: {standing:?} {recovery:?}"
        );
        committer.stop();
    }
}
