//! The whole ledger under power cuts and kills: the log, and beside it the index with its state, tiles,
//! checkpoint, device key and blobs, on a model of a disk and one of a file system.
//!
//! Each seed is a sequence of lives; each ends at an operation of its own of either, by a cut of the power
//! or by the process's end. What goes on beside the committer is done by hand, when chance has it, so that
//! a seed always does the same. `VB_DISK_MODEL=FROM..TO` runs other seeds than those of the ordinary tests;
//! the drill `disk-model` runs many.

mod disk;

use disk::folder::{self, Fails, Folder};
use disk::{Chance, Disk, Lie, Power};
use ledger::blobs::{Blobs, Sealed};
use ledger::committer::{Committer, Draft, Keep, Ledger, Order};
use ledger::keys::Lasts;
use ledger::log::Birth;
use ledger::planes::Summary;
use ledger::proofs::ByHand;
use ledger::refusal::Refusal;
use ledger::verify::verify;
use ledger_core::blob::{self, Used};
use ledger_core::store::ObjectId;
use ledger_core::{Hash, Origin, SEGMENT_BYTES_MIN};
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

/// Of the ordinary tests: two of them have more events than a tile.
const SEEDS: Range<u64> = 20..36;
const LIVES: u64 = 5;
/// Twelve hold a summary with the latest ULIDs beside half a log.
const SEGMENTS: u64 = 12;
const TENANT: &str = "acme";

const BIRTH: Birth = Birth {
    log_id: [4; 16],
    tag_key: [5; 32],
    wall_ns: 6,
    segment_bytes_max: SEGMENT_BYTES_MIN,
};

/// What was promised so far.
#[derive(Default)]
struct Promised {
    /// Chain values of acknowledged events.
    chains: BTreeMap<u64, Hash>,
    /// Size and root of the checkpoints that were published.
    published: Option<(u64, Hash)>,
    /// Under which key.
    key: Option<[u8; 32]>,
    /// Contents of pointers that were acknowledged, in that order.
    blobs: Vec<(ObjectId, Vec<u8>)>,
    /// Pointers whose shredding was acknowledged.
    shredded: Vec<ObjectId>,
    /// Nothing before this event is promised any more.
    first: u64,
    sequence: u64,
    met: Met,
}

/// What the lives came across.
#[derive(Default, Debug)]
struct Met {
    ends: u64,
    kills: u64,
    compactions: u64,
    epochs: u64,
    rekeyed: u64,
    shredded: u64,
    resumed: u64,
    torn: u64,
    /// Events in all.
    leaves: u64,
    /// Pieces of zeros that were written beside commits.
    pieces: u64,
}

fn draft(event_type: &str, payload: String) -> Draft {
    Draft {
        ns: "work".into(),
        actor: "user:a".into(),
        tenant_id: TENANT.into(),
        event_type: event_type.into(),
        payload,
        ..Draft::default()
    }
}

fn filled(chance: &mut Chance, bytes: u64) -> String {
    "p".repeat(usize::try_from(chance.below(bytes)).unwrap())
}

/// Waits until the committer has done what it does by itself: so each seed is one order of operations.
fn rests(ledger: &Ledger) {
    // Of a log that takes no more, too.
    let _ = ledger.append_wait(Vec::new());
}

/// The planes as bytes.
fn planes(ledger: &Ledger) -> Vec<u8> {
    let taken = ledger.planes(|planes| {
        let mut summary = Summary::default();
        planes.summary(&mut summary);
        summary.encode()
    });
    taken.unwrap()
}

/// A ledger that runs.
struct Life {
    committer: Committer,
    hand: ByHand,
}

impl Life {
    /// As the service starts, without its threads.
    fn start(disk: &Disk, folder: &Folder) -> Result<(Self, u64), String> {
        let index = folder.path().join("index");
        let kept = ledger::files::make_folder(&index, 0o755).map(|_| index.as_path());
        let device = Arc::new(disk.clone());
        let started = Committer::start_with(device, &BIRTH, kept.ok());
        let (committer, recovery) = started.map_err(|e| e.to_string())?;
        rests(committer.ledger());
        // The power went while an epoch was finished.
        if let Some(stopped) = committer.ledger().standing().stopped {
            committer.stop();
            return Err(stopped.to_string());
        }
        let hand = ByHand::start(committer.ledger(), Some(folder.path()));
        let hand = hand.map_err(|e| e.to_string())?;
        Ok((Self { committer, hand }, recovery.torn_bytes))
    }

    fn ledger(&self) -> &Ledger {
        self.committer.ledger()
    }

    fn blobs(&self) -> Option<Arc<Blobs>> {
        self.ledger().blobs().ok()
    }

    /// In order, as far as there is power.
    fn end(self) {
        let Self { committer, hand } = self;
        committer.stop();
        hand.turn(true);
        hand.settle();
        hand.end();
    }
}

impl Promised {
    fn check(&mut self, life: &Life, disk: &Disk, power: &Power) {
        let standing = life.ledger().standing();
        assert_eq!(standing.stopped, None, "an end is no damage");
        assert!(
            standing.first_id >= self.first,
            "what was dropped came back"
        );
        let last = self.chains.last_key_value().map_or(0, |(id, _)| *id);
        assert!(
            standing.id >= last,
            "event {last} was acknowledged, the log ends at {}",
            standing.id
        );
        let mut reader = life.ledger().reader();
        for id in standing.first_id..=standing.id {
            let read = reader.event(id, |found, chain, _| (found, *chain));
            let (found, chain) = read.unwrap_or_else(|e| panic!("event {id}: {e}"));
            assert_eq!(found, id);
            // What recovery found is promised from here on: it was read to others.
            let promised = *self.chains.entry(id).or_insert(chain);
            assert_eq!(promised, chain, "event {id} is another one");
        }
        self.first = standing.first_id;
        self.met.epochs = self.met.epochs.max(standing.epoch);
        self.met.leaves = standing.id;
        // The same from the log alone: what the folder says changes nothing.
        let (alone, _) = Committer::start(Arc::new(disk.copy()), &BIRTH).unwrap();
        rests(alone.ledger());
        let told = alone.ledger().standing();
        // An epoch may be due, which is an event of its own.
        assert!(told.id >= standing.id, "{} from the log alone", told.id);
        if told.id == standing.id {
            assert_eq!(told.root, standing.root);
        }
        assert_eq!(planes(alone.ledger()), planes(life.ledger()), "the planes");
        alone.stop();
        if !power.is_gone() {
            self.check_proofs(life);
            self.check_blobs(life, power);
        }
    }

    fn check_proofs(&mut self, life: &Life) {
        let proofs = life.hand.proofs();
        if !matches!(proofs.key().lasts(), Lasts::Process(_)) {
            let key = *proofs.key().public();
            let promised = self.key.unwrap_or(key);
            assert_eq!(promised, key, "the device is another one");
        }
    }

    /// Once a start went through with power left: what was signed is continued, blobs are as they were told.
    fn check_blobs(&mut self, life: &Life, power: &Power) {
        life.hand.turn(false);
        let blobs = life.blobs();
        if power.is_gone() {
            return;
        }
        let proofs = life.hand.proofs();
        assert_eq!(life.hand.fault(), None, "no proofs");
        assert_eq!(proofs.unsigned(), None, "no checkpoints");
        if let Some((size, root)) = self.published {
            let to = life.ledger().standing().id;
            let (_, old, _) = proofs.consistency(size, to).unwrap();
            assert_eq!(old, root, "the tree of {size} events is another");
        }
        let blobs = blobs.expect("blobs");
        for (pointer, content) in &self.blobs {
            let found = read(life.ledger(), &blobs, pointer);
            assert_eq!(found.as_ref(), Ok(content), "blob {pointer}");
        }
        for pointer in &self.shredded {
            let found = read(life.ledger(), &blobs, pointer);
            assert_eq!(found, Err("NOT_FOUND"), "{pointer} was shredded");
        }
    }

    /// Pointers as the log has them: what was not answered may be there.
    fn take_pointers(&mut self, life: &Life) {
        let all = life.ledger().planes(|planes| {
            let known = |pointer: &ObjectId| planes.blobs.of(TENANT, &pointer.0).is_some();
            self.blobs.retain(|(pointer, _)| known(pointer));
        });
        all.unwrap();
    }

    fn live(&mut self, life: &Life, chance: &mut Chance, power: &Power, steps: u64) {
        for _ in 0..steps {
            if power.is_gone() {
                return;
            }
            match chance.below(24) {
                0 | 1 => self.order(life.ledger(), Order::Epoch),
                2 => self.order(life.ledger(), Order::Compact(Keep::default())),
                3 => {
                    let events = Some(chance.below(30));
                    let keep = Keep {
                        events,
                        bytes: None,
                    };
                    self.order(life.ledger(), Order::Compact(keep));
                }
                4 | 5 => life.ledger().keep_index_now(),
                6..=8 => life.hand.turn(false),
                9 => life.hand.settle(),
                10 | 11 => self.publish(life, power),
                12 | 13 => drop(self.put(life, chance)),
                14 => drop(self.rekey(life, chance)),
                15 => drop(self.shred(life, chance)),
                16 => drop(self.append(life.ledger(), vec![policy(chance)])),
                _ => self.notes(life.ledger(), chance),
            }
        }
    }

    /// Notes that are known again when they are sent again: a long one, or small ones, of which a tile is
    /// soon full.
    fn notes(&mut self, ledger: &Ledger, chance: &mut Chance) {
        let (count, bytes) = [(1, 900), (24, 8)][usize::try_from(chance.below(2)).unwrap()];
        let notes: Vec<Draft> = (0..count)
            .map(|_| {
                self.sequence += 1;
                let origin = Origin {
                    boot_id: [1; 16],
                    producer: 0,
                    sequence: self.sequence,
                };
                let text = format!("{{\"x\":\"{}\"}}", filled(chance, bytes));
                Draft {
                    origin: Some(origin),
                    ..draft("note", text)
                }
            })
            .collect();
        let appended = self.append(ledger, notes.clone());
        if appended.is_some() && chance.below(4) == 0 {
            let again = ledger.append_wait(notes);
            rests(ledger);
            // Refused at most: the power may have gone behind the answer.
            assert!(
                again.is_ok_and(|receipts| receipts.iter().all(|r| r.repeated))
                    || ledger.standing().stopped.is_some()
            );
        }
    }

    fn append(&mut self, ledger: &Ledger, drafts: Vec<Draft>) -> Option<()> {
        for receipt in ledger.append_wait(drafts).ok()? {
            assert!(!receipt.repeated);
            assert_eq!(self.chains.insert(receipt.id, receipt.commit_id), None);
        }
        rests(ledger);
        self.first = self.first.max(ledger.standing().first_id);
        Some(())
    }

    fn order(&mut self, ledger: &Ledger, order: Order) {
        if let Ok(done) = ledger.order_wait(order) {
            rests(ledger);
            self.first = self.first.max(done.first_event_id);
            self.met.compactions += u64::from(done.dropped > 0);
        }
    }

    fn publish(&mut self, life: &Life, power: &Power) {
        life.hand.turn(true);
        let proofs = life.hand.proofs();
        // A key that lasts no longer than its process signs under a name of its own.
        if let Some(signed) = proofs.newest()
            && !power.is_gone()
            && !matches!(proofs.key().lasts(), Lasts::Process(_))
        {
            self.published = Some((signed.checkpoint.size, signed.checkpoint.root));
            self.key = Some(*proofs.key().public());
        }
    }

    fn put(&mut self, life: &Life, chance: &mut Chance) -> Option<()> {
        let blobs = life.blobs()?;
        let content = filled(chance, 3000).into_bytes();
        let sealed = seal(&blobs, Some(TENANT), &content, None).ok()?;
        let pointer = sealed.manifest.object;
        let event = Draft {
            subject: pointer.to_string(),
            ..draft(blob::PUT, sealed.manifest.payload())
        };
        self.append(life.ledger(), vec![event])?;
        self.blobs.push((pointer, content));
        Some(())
    }

    fn rekey(&mut self, life: &Life, chance: &mut Chance) -> Option<()> {
        let blobs = life.blobs()?;
        let n = usize::try_from(chance.below(self.blobs.len() as u64)).unwrap();
        let (pointer, content) = self.blobs.get(n)?.clone();
        let look = |planes: &ledger::planes::Planes| planes.blobs.of(TENANT, &pointer.0).cloned();
        let old = ObjectId(life.ledger().planes(look).ok()??.object);
        let sealed = seal(&blobs, None, &content, Some(old)).ok()?;
        let event = Draft {
            subject: pointer.to_string(),
            ..draft(blob::REKEYED, sealed.manifest.payload())
        };
        self.append(life.ledger(), vec![event])?;
        blobs.destroy(&old).ok()?;
        self.met.rekeyed += 1;
        Some(())
    }

    fn shred(&mut self, life: &Life, chance: &mut Chance) -> Option<()> {
        let blobs = life.blobs()?;
        if self.blobs.is_empty() {
            return None;
        }
        let n = usize::try_from(chance.below(self.blobs.len() as u64)).unwrap();
        // Asked for: from here on either is right.
        let (pointer, _) = self.blobs.remove(n);
        let look = |planes: &ledger::planes::Planes| planes.blobs.of(TENANT, &pointer.0).cloned();
        let object = ObjectId(life.ledger().planes(look).ok()??.object);
        let event = Draft {
            subject: pointer.to_string(),
            ..draft(blob::SHREDDED, format!("{{\"object\":\"{object}\"}}"))
        };
        self.append(life.ledger(), vec![event])?;
        blobs.destroy(&object).ok()?;
        self.shredded.push(pointer);
        self.met.shredded += 1;
        Some(())
    }
}

fn policy(chance: &mut Chance) -> Draft {
    let text = format!(
        "vb-policy 1\\nallow bus.* on=queue.{}* tenant=acme\\n",
        chance.below(9)
    );
    let payload = format!("{{\"name\":\"p{}\",\"text\":\"{text}\"}}", chance.below(3));
    draft("policy.set", payload)
}

/// Makes an object durable, which an event is to point to.
fn seal(
    blobs: &Arc<Blobs>,
    tenant: Option<&str>,
    content: &[u8],
    previous: Option<ObjectId>,
) -> Result<Sealed, Refusal> {
    let mut upload = blobs.begin(Vec::new(), tenant, Used::default())?;
    upload.write(content, Used::default())?;
    upload.finish(previous)
}

fn read(ledger: &Ledger, blobs: &Blobs, pointer: &ObjectId) -> Result<Vec<u8>, &'static str> {
    let entry = ledger.planes(|planes| planes.blobs.of(TENANT, &pointer.0).cloned());
    let entry = entry.map_err(|r| r.code)?.ok_or("NOT_FOUND")?;
    let mut bytes = Vec::new();
    let whole = blobs.read(&entry, &mut |chunk| {
        bytes.extend_from_slice(chunk);
        true
    });
    whole.map(|()| bytes).map_err(|r| r.code)
}

/// The promises that disk and file system break.
#[derive(Clone, Copy, Default)]
struct Lies {
    disk: Option<Lie>,
    folder: Option<folder::Lie>,
}

fn run(seed: u64, lies: Lies) -> Met {
    ledger::stand_still(seed);
    let mut chance = Chance(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) + 11);
    let power = Power::default();
    let mut disk = Disk::of(&power, SEGMENTS, seed);
    let mut folder = Folder::new(&power);
    disk.lies(lies.disk);
    folder.lies(lies.folder);
    let mut promised = Promised::default();
    for life in 0..=LIVES {
        let last = life == LIVES;
        let killed = chance.below(3) == 0;
        folder.is_killed(killed);
        if !last {
            // Many early ones: a start is short.
            let most = [30, 120, 400][usize::try_from(chance.below(3)).unwrap()];
            power.ends_after(chance.below(most));
        }
        let resumes = folder.path().join("index/state").exists();
        match Life::start(&disk, &folder) {
            Ok((now, torn)) => {
                promised.take_pointers(&now);
                promised.check(&now, &disk, &power);
                promised.met.torn += u64::from(torn > 0);
                promised.met.resumed += u64::from(resumes);
                let steps = chance.below(90);
                promised.live(&now, &mut chance, &power, steps);
                now.end();
            }
            Err(e) => assert!(power.is_gone(), "no start with all its power: {e}"),
        }
        promised.met.pieces += disk.pieces();
        if last {
            // What the last life left is found again too.
            let (now, _) = Life::start(&disk, &folder).unwrap();
            promised.take_pointers(&now);
            promised.check(&now, &disk, &power);
            now.end();
            continue;
        }
        promised.met.ends += 1;
        if killed {
            promised.met.kills += 1;
            disk = disk.after_kill();
        } else {
            disk = disk.after_cut(&mut chance);
            folder = folder.after_cut(&mut chance);
        }
    }
    let report = verify(&disk, None, &mut |_| ()).unwrap();
    assert_eq!(report.bad, None);
    promised.met
}

fn seeds() -> Range<u64> {
    let Ok(text) = std::env::var("VB_DISK_MODEL") else {
        return SEEDS;
    };
    let (from, to) = text.split_once("..").expect("FROM..TO");
    from.parse().expect("a number")..to.parse().expect("a number")
}

#[test]
fn power_cuts_and_kills_lose_nothing_of_log_folder_and_blobs() {
    let mut met = Met::default();
    for seed in seeds() {
        let one = std::panic::catch_unwind(|| run(seed, Lies::default()));
        let Ok(one) = one else {
            let next = seed + 1;
            panic!(
                "seed {seed}: VB_DISK_MODEL={seed}..{next} cargo test -p ledger --test folder_model power_cuts"
            );
        };
        met.ends += one.ends;
        met.kills += one.kills;
        met.compactions += one.compactions;
        met.epochs = met.epochs.max(one.epochs);
        met.rekeyed += one.rekeyed;
        met.shredded += one.shredded;
        met.resumed += one.resumed;
        met.torn += one.torn;
        met.leaves = met.leaves.max(one.leaves);
        met.pieces += one.pieces;
    }
    println!("{met:?}");
    assert!(met.pieces > met.ends);
    // A tile is full with 256.
    assert!(met.leaves > 256);
    assert!(met.compactions > 0 && met.rekeyed > 0 && met.shredded > 0 && met.resumed > 0);
}

/// Whether the model sees what a broken promise does, in one of these seeds.
fn is_seen(seeds: Range<u64>, lies: Lies) -> bool {
    seeds
        .into_iter()
        .any(|seed| std::panic::catch_unwind(|| run(seed, lies)).is_err())
}

#[test]
fn a_sync_that_is_left_out_or_a_slot_used_again_too_early_is_seen() {
    for lie in [Lie::Sync(1), Lie::Sync(8), Lie::Superblock] {
        let disk = Some(lie);
        let lies = Lies { disk, folder: None };
        assert!(is_seen(0..200, lies), "{lie:?} went unseen");
    }
    for lie in [folder::Lie::Names, folder::Lie::Contents] {
        let folder = Some(lie);
        let lies = Lies { disk: None, folder };
        assert!(is_seen(0..200, lies), "{lie:?} went unseen");
    }
}

/// A first start that is cut at each of its operations; the next one comes up and keeps what it is given.
#[test]
fn a_first_start_may_be_interrupted_at_every_step() {
    for killed in [false, true] {
        for cut in 0.. {
            let mut chance = Chance(cut);
            let power = Power::default();
            let mut disk = Disk::of(&power, SEGMENTS, cut);
            let mut folder = Folder::new(&power);
            folder.is_killed(killed);
            power.ends_after(cut);
            let mut promised = Promised::default();
            if let Ok((life, _)) = Life::start(&disk, &folder) {
                promised.put(&life, &mut chance);
                promised.publish(&life, &power);
                life.end();
            }
            let is_over = !power.is_gone();
            if killed {
                disk = disk.after_kill();
            } else {
                disk = disk.after_cut(&mut chance);
                folder = folder.after_cut(&mut chance);
            }
            power.stays();
            let (life, _) = Life::start(&disk, &folder).unwrap();
            promised.check(&life, &disk, &power);
            let lasts = life.hand.proofs().key().lasts().clone();
            assert!(
                matches!(lasts, Lasts::Kept | Lasts::Made),
                "cut {cut}: {lasts:?}"
            );
            assert!(promised.put(&life, &mut chance).is_some(), "cut {cut}");
            life.end();
            if is_over {
                assert!(cut > 20, "{cut} steps are no first start");
                break;
            }
        }
    }
}

/// Tiles that are settled already are settled again, which is cut at each of its operations.
#[test]
fn what_is_settled_outlasts_a_cut_while_it_is_settled_again() {
    for cut in 0..24 {
        let mut chance = Chance(cut);
        let power = Power::default();
        let mut disk = Disk::of(&power, SEGMENTS, cut);
        let mut folder = Folder::new(&power);
        let (life, _) = Life::start(&disk, &folder).unwrap();
        let mut promised = Promised::default();
        (0..20).for_each(|_| promised.notes(life.ledger(), &mut chance));
        promised.publish(&life, &power);
        life.hand.settle();
        let settled = life.hand.proofs().settled();
        assert_eq!(settled, Some(life.ledger().standing().id));
        power.ends_after(cut % 12);
        life.hand.settle();
        life.end();
        disk = disk.after_cut(&mut chance);
        folder = folder.after_cut(&mut chance);
        power.stays();
        let (life, _) = Life::start(&disk, &folder).unwrap();
        assert_eq!(life.hand.proofs().settled(), settled, "cut {cut}");
        promised.check(&life, &disk, &power);
        life.end();
    }
}

/// A data folder without room, or that cannot be made durable: calls that need it are refused with their
/// code, appends go on, and all of it works again when the folder does.
#[test]
fn a_data_folder_that_fails_refuses_what_needs_it_and_nothing_else() {
    for (fails, code) in [(Fails::Full, "QUOTA"), (Fails::Sync, "INTERNAL")] {
        let power = Power::default();
        let disk = Disk::of(&power, SEGMENTS, 1);
        let folder = Folder::new(&power);
        let (life, _) = Life::start(&disk, &folder).unwrap();
        let (mut promised, mut chance) = (Promised::default(), Chance(1));
        promised.put(&life, &mut chance).unwrap();
        promised.publish(&life, &power);
        folder.fails(Some(fails));
        let blobs = life.blobs().unwrap();
        let refused = seal(&blobs, Some(TENANT), b"never", None);
        assert_eq!(
            refused.map(drop).map_err(|r| r.code),
            Err(code),
            "{fails:?}"
        );
        for _ in 0..60 {
            let note = draft(
                "note",
                format!("{{\"x\":\"{}\"}}", filled(&mut chance, 900)),
            );
            assert!(
                promised.append(life.ledger(), vec![note]).is_some(),
                "{fails:?}"
            );
            life.ledger().keep_index_now();
            life.hand.turn(true);
        }
        life.hand.settle();
        assert!(life.hand.fault().is_some(), "{fails:?}");
        // Tiles of what would be dropped are not durable: it stays.
        life.ledger().order_wait(Order::Epoch).unwrap();
        let first = life.ledger().standing().first_id;
        promised.order(life.ledger(), Order::Compact(Keep::default()));
        assert_eq!(life.ledger().standing().first_id, first, "{fails:?}");
        life.end();
        folder.fails(None);
        let (life, _) = Life::start(&disk, &folder).unwrap();
        promised.check(&life, &disk, &power);
        promised.put(&life, &mut chance).unwrap();
        life.end();
    }
}

#[test]
fn who_fills_a_log_whose_tiles_are_late_leaves_the_room_that_a_compaction_takes() {
    let power = Power::default();
    let (disk, folder) = (Disk::of(&power, 8, 0), Folder::new(&power));
    let append = |life: &Life, draft| {
        let appended = life.ledger().append_wait(vec![draft]);
        rests(life.ledger());
        appended.map(drop).map_err(|refusal| refusal.code)
    };
    let (life, _) = Life::start(&disk, &folder).unwrap();
    // Its summary takes more than the twentieth of the log that is kept for the machine's own events.
    let text = "allow bus.* on=queue.* tenant=acme\\n".repeat(50);
    let payload = format!("{{\"name\":\"p\",\"text\":\"vb-policy 1\\n{text}\"}}");
    append(&life, draft("policy.set", payload)).unwrap();
    let note = || draft("note", format!("{{\"x\":\"{}\"}}", "p".repeat(300)));
    let refused = (0..1000).find_map(|_| append(&life, note()).err());
    assert_eq!(refused, Some("QUOTA"));
    let standing = life.ledger().standing();
    assert_eq!(standing.first_id, 1, "nothing is dropped");
    let reserved = life.ledger().room() / 100 * 95;
    assert!(standing.used < reserved, "{} of {reserved}", standing.used);
    // Killed meanwhile: the next one asks for the tiles itself, when somebody finds it full.
    life.committer.stop();
    life.hand.end();
    let disk = disk.after_kill();
    let (life, _) = Life::start(&disk, &folder).unwrap();
    // Behind the first event it looks how full it is.
    let _ = append(&life, note());
    assert_eq!(append(&life, note()), Err("QUOTA"));
    life.hand.turn(false);
    // Whoever asks next finds tiles, and is refused once more at most.
    let _ = append(&life, note());
    assert!(
        life.ledger().standing().first_id > 1,
        "something is dropped"
    );
    append(&life, note()).unwrap();
    life.end();
}
