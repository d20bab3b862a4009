//! What evolution promises, on small models.

use super::log::{GROUP_BYTES_MAX, HEADER_BYTES, RECORD_HEAD_BYTES, fuzz_body};
use super::*;
use crate::default_model;
use gguf::GgmlType;
use gguf::writer::Writer;
use proptest::prelude::*;
use std::path::Path;
use std::sync::OnceLock;
use wire::evolution::ring::SLOT_BYTES;

const NOW: Now = Now {
    monotonic_ns: 1_000_000_000,
    wall_ns: 1_700_000_000_000_000_000,
};

/// The default model, and a package's with quantised blocks, a double and names that are nearly protected.
fn base() -> Base<'static> {
    static MODELS: OnceLock<(Vec<u8>, Vec<u8>)> = OnceLock::new();
    let (packaged, system) = MODELS.get_or_init(|| {
        let packaged = Writer::new()
            .text("general.architecture", "test")
            .tensor("blk.0.weight", GgmlType::Q8_0, &[64, 4], vec![0; 8 * 34])
            .tensor("wide", GgmlType::F64, &[8], vec![0; 64])
            .tensor("odd", GgmlType::IQ1_M, &[256], vec![0; 56])
            .f32_tensor("kernel.own", &[4], &[1.0; 4])
            .f32_tensor("Kernel.limits", &[4], &[1.0; 4])
            .finish()
            .unwrap();
        (packaged, default_model())
    });
    Base::new(Some(packaged), system, None).unwrap()
}

fn engine() -> Engine<'static> {
    Engine::in_memory(base()).unwrap()
}

/// A mutation that is right in every field for what the engine holds.
struct Draft {
    tensor: String,
    offset: u64,
    payload: Vec<u8>,
    confidence: f32,
    generation: u64,
    old: [u8; 32],
    new: [u8; 32],
}

impl Draft {
    fn of(engine: &Engine<'_>, tensor: &str, offset: u64, payload: &[u8]) -> Self {
        let held = engine.tensor(tensor).unwrap_or_default();
        let at = offset as usize;
        let old = held.get(at..at + payload.len()).unwrap_or_default();
        Self {
            tensor: tensor.to_owned(),
            offset,
            payload: payload.to_vec(),
            confidence: 0.9,
            generation: engine.generation(),
            old: *blake3::hash(old).as_bytes(),
            new: *blake3::hash(payload).as_bytes(),
        }
    }

    fn slot(&self) -> Vec<u8> {
        let mut slot = [0; SLOT_BYTES];
        Proposal {
            id: 77,
            base_generation: self.generation,
            tensor: &self.tensor,
            offset: self.offset,
            confidence: self.confidence,
            old_blake3: self.old,
            payload_blake3: self.new,
            payload: &self.payload,
        }
        .write(&mut slot)
        .unwrap();
        slot.to_vec()
    }
}

fn judge(engine: &mut Engine<'_>, draft: &Draft) -> Verdict {
    engine.judge(&draft.slot(), 1000, NOW).2
}

fn floats(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|v| v.to_le_bytes()).collect()
}

/// Everything of the base that a mutation must never reach.
fn protected(engine: &Engine<'_>) -> Vec<Vec<u8>> {
    [
        "kernel.limits",
        "kernel.interrupts",
        "kernel.own",
        "hw.mmio",
    ]
    .map(|name| engine.tensor(name).unwrap())
    .to_vec()
}

#[test]
fn each_rule_refuses_with_its_own_verdict_and_nothing_changes() {
    let mut engine = engine();
    let before = (engine.encode(), protected(&engine));
    let good = |engine: &Engine<'_>| Draft::of(engine, "policy.b2", 0, &floats(&[0.5, 0.25]));
    type Change = fn(&mut Draft);
    let cases: &[(Verdict, Change)] = &[
        (Verdict::ConfidenceNotFinite, |d| d.confidence = f32::NAN),
        (Verdict::ConfidenceNotFinite, |d| {
            d.confidence = f32::INFINITY
        }),
        (Verdict::ConfidenceTooLow, |d| d.confidence = 0.8),
        (Verdict::ConfidenceTooLow, |d| d.confidence = -1.0),
        (Verdict::TensorUnknown, |d| {
            d.tensor = "policy.B2".to_owned()
        }),
        (Verdict::TensorUnknown, |d| {
            d.tensor = "policy.b2 ".to_owned()
        }),
        (Verdict::TensorProtected, |d| {
            d.tensor = "kernel.limits".to_owned()
        }),
        (Verdict::TensorProtected, |d| {
            d.tensor = "kernel.own".to_owned()
        }),
        (Verdict::TensorProtected, |d| {
            d.tensor = "hw.mmio".to_owned()
        }),
        (Verdict::TypeUnsupported, |d| d.tensor = "odd".to_owned()),
        (Verdict::RangeOutside, |d| d.offset = 32),
        (Verdict::RangeOutside, |d| d.offset = u64::MAX),
        (Verdict::RangeOffBlock, |d| d.offset = 2),
        (Verdict::RangeOffBlock, |d| d.payload.truncate(7)),
        (Verdict::GenerationStale, |d| d.generation = 1),
        (Verdict::OldHashDiffers, |d| d.old[31] ^= 1),
        (Verdict::PayloadHashDiffers, |d| d.new[0] ^= 1),
        (Verdict::NotFinite, |d| {
            d.payload = floats(&[f32::NAN, 0.0]);
            d.new = *blake3::hash(&d.payload).as_bytes();
        }),
        (Verdict::NotFinite, |d| {
            // 1e300 as an f32.
            d.payload = floats(&[1e300f64 as f32, 0.0]);
            d.new = *blake3::hash(&d.payload).as_bytes();
        }),
    ];
    for (place, (expected, change)) in cases.iter().enumerate() {
        let mut draft = good(&engine);
        change(&mut draft);
        assert_eq!(judge(&mut engine, &draft), *expected, "case {place}");
    }
    let wide = Draft::of(&engine, "wide", 8, &1e300f64.to_le_bytes());
    assert_eq!(judge(&mut engine, &wide), Verdict::NotFinite);
    let mut block = vec![1; 34];
    block[..2].copy_from_slice(&[0x00, 0x7c]);
    let scale = Draft::of(&engine, "blk.0.weight", 34, &block);
    assert_eq!(judge(&mut engine, &scale), Verdict::NotFinite);
    let off = Draft::of(&engine, "blk.0.weight", 17, &[0; 34]);
    assert_eq!(judge(&mut engine, &off), Verdict::RangeOffBlock);
    // What a name in a slot may be that no `Proposal` writes.
    for (at, byte) in [(6, 0u8), (0, 0), (40, b'x'), (3, 0xff)] {
        let mut slot = good(&engine).slot();
        slot[32 + at] = byte;
        let verdict = engine.judge(&slot, 1000, NOW).2;
        assert_eq!(verdict, Verdict::NameMalformed, "byte {at}");
    }
    for length in [0u32, 8193, u32::MAX] {
        let mut slot = good(&engine).slot();
        slot[24..28].copy_from_slice(&length.to_le_bytes());
        let verdict = engine.judge(&slot, 1000, NOW).2;
        assert_eq!(verdict, Verdict::LengthInvalid, "length {length}");
    }
    assert_eq!(before, (engine.encode(), protected(&engine)));
    assert_eq!((engine.counts().accepted, engine.generation()), (0, 0));
    // And the right one is taken.
    let draft = good(&engine);
    assert_eq!(judge(&mut engine, &draft), Verdict::Accepted);
    assert!(engine.commit());
    assert_eq!(engine.generation(), 1);
    assert_eq!(judge(&mut engine, &draft), Verdict::GenerationStale);
}

#[test]
fn a_policy_that_would_overflow_or_leave_its_limits_dies_with_the_canary() {
    let mut engine = engine();
    let before = engine.encode();
    let huge = Draft::of(&engine, "policy.w1", 0, &floats(&[3e38; 64]));
    assert_eq!(judge(&mut engine, &huge), Verdict::CanaryNotFinite);
    let bias = Draft::of(&engine, "policy.b2", 0, &floats(&[9.0; 8]));
    assert_eq!(judge(&mut engine, &bias), Verdict::Accepted);
    let loud = Draft::of(&engine, "metabolic.gains", 0, &floats(&[1.5]));
    assert_eq!(judge(&mut engine, &loud), Verdict::CanaryOutside);
    assert!(engine.commit());
    assert_ne!(before, engine.encode());
    assert_eq!(engine.generation(), 1);
}

#[test]
fn a_package_with_a_broken_policy_has_the_default_one_and_that_passes_the_canary() {
    let system = default_model();
    let default = Base::new(None, &system, None).unwrap();
    let values = default.policy(|_, bytes| bytes.to_vec());
    assert_eq!(canary(&weights(&values)), Ok(()));
    let nan = Writer::new().f32_tensor("policy.b1", &[32], &[f32::NAN; 32]);
    let short = Writer::new().f32_tensor("policy.b1", &[31], &[0.0; 31]);
    for model in [nan, short] {
        let model = model
            .text("general.architecture", "test")
            .f32_tensor("policy.b2", &[8], &[0.25; 8])
            .finish()
            .unwrap();
        let base = Base::new(Some(&model), &system, None).unwrap();
        assert_eq!(base.policy(|_, bytes| bytes.to_vec()), values);
    }
    let good = Writer::new()
        .text("general.architecture", "test")
        .f32_tensor("policy.b2", &[8], &[0.25; 8])
        .finish()
        .unwrap();
    let base = Base::new(Some(&good), &system, None).unwrap();
    assert_ne!(base.policy(|_, bytes| bytes.to_vec()), values);
}

#[test]
fn no_more_than_the_rate_and_the_bytes_of_a_second_are_looked_at() {
    let mut engine = engine();
    let payload = vec![0; 34 * 8];
    let mut wrong = Draft::of(&engine, "blk.0.weight", 0, &payload);
    wrong.old[0] ^= 1;
    let mut verdicts: Vec<Verdict> = (0..20_000).map(|_| judge(&mut engine, &wrong)).collect();
    let first = verdicts[0];
    verdicts.dedup();
    assert_eq!(verdicts, [Verdict::OldHashDiffers, Verdict::RateExceeded]);
    assert_eq!(first, Verdict::OldHashDiffers);
}

#[test]
fn a_rollback_restores_bit_for_bit_and_is_a_generation_of_its_own() {
    let mut engine = engine();
    let mut contents = vec![engine.encode()[128..].to_vec()];
    for round in 0..6u8 {
        let draft = match round % 2 {
            0 => Draft::of(&engine, "blk.0.weight", 34, &[round + 1; 68]),
            _ => Draft::of(&engine, "policy.b1", 8, &floats(&[f32::from(round)])),
        };
        assert_eq!(judge(&mut engine, &draft), Verdict::Accepted);
        assert!(engine.commit());
        contents.push(engine.encode()[128..].to_vec());
    }
    for to in [3u64, 0, 6, 7, 1, 8] {
        let made = engine.roll_back(to, Verdict::RolledBack, 0, NOW).unwrap();
        let content = engine.encode()[128..].to_vec();
        assert_eq!(content, contents[to as usize], "generation {to}");
        assert_eq!(made, contents.len() as u64);
        contents.push(content);
    }
    let newest = engine.generation();
    assert!(
        engine
            .roll_back(newest, Verdict::RolledBack, 0, NOW)
            .is_err()
    );
    assert!(
        engine
            .roll_back(newest + 1, Verdict::RolledBack, 0, NOW)
            .is_err()
    );
    let draft = Draft::of(&engine, "policy.b1", 0, &floats(&[0.5]));
    assert_eq!(judge(&mut engine, &draft), Verdict::Accepted);
}

fn open(folder: &Path) -> (Engine<'static>, super::engine::Opened) {
    Engine::open(base(), Store::in_folder(folder).unwrap()).unwrap()
}

/// Mutates, and says what each generation held.
fn mutate(engine: &mut Engine<'_>, rounds: u8) -> Vec<Vec<u8>> {
    let mut contents = vec![engine.encode()];
    for round in 0..rounds {
        let offset = u64::from(round % 8) * 34;
        let draft = Draft::of(engine, "blk.0.weight", offset, &[round; 34]);
        assert_eq!(judge(engine, &draft), Verdict::Accepted);
        assert!(engine.commit());
        contents.push(engine.encode());
    }
    contents
}

#[test]
fn a_log_cut_at_any_byte_gives_the_last_whole_generation() {
    let folder = tempfile::tempdir().unwrap();
    let contents = mutate(&mut open(folder.path()).0, 5);
    let path = folder.path().join("mutations.log");
    let whole = std::fs::read(&path).unwrap();
    let record = RECORD_HEAD_BYTES + 40;
    assert_eq!(whole.len(), HEADER_BYTES + 5 * record);
    for cut in (HEADER_BYTES..=whole.len())
        .step_by(13)
        .chain([whole.len()])
    {
        std::fs::write(&path, &whole[..cut]).unwrap();
        let (engine, opened) = open(folder.path());
        let generation = (cut - HEADER_BYTES) / record;
        assert_eq!(engine.generation(), generation as u64, "cut at {cut}");
        assert_eq!(engine.encode(), contents[generation], "cut at {cut}");
        assert_eq!(opened.torn as usize, (cut - HEADER_BYTES) % record);
        let left = std::fs::metadata(&path).unwrap().len() as usize;
        assert_eq!(left, HEADER_BYTES + generation * record, "the tail is cut");
    }
}

#[test]
fn a_changed_byte_ends_the_log_there_and_damage_is_kept_aside() {
    let folder = tempfile::tempdir().unwrap();
    let contents = mutate(&mut open(folder.path()).0, 5);
    let path = folder.path().join("mutations.log");
    let whole = std::fs::read(&path).unwrap();
    let record = RECORD_HEAD_BYTES + 40;
    for at in (HEADER_BYTES..whole.len()).step_by(29) {
        let mut wrong = whole.clone();
        wrong[at] ^= 0x10;
        std::fs::write(&path, &wrong).unwrap();
        let engine = open(folder.path()).0;
        let generation = (at - HEADER_BYTES) / record;
        assert_eq!(engine.encode(), contents[generation], "byte {at}");
    }
    // More than a crash can tear is damage: it is there to be looked at.
    let mut long = whole.clone();
    long.resize(whole.len() + GROUP_BYTES_MAX + 1, 0xee);
    std::fs::write(&path, &long).unwrap();
    let (engine, opened) = open(folder.path());
    assert!(opened.set_aside);
    assert_eq!(engine.encode(), contents[5]);
    let aside = std::fs::read(folder.path().join("mutations.log.aside")).unwrap();
    assert_eq!(aside, long);
}

#[test]
fn a_log_of_another_base_is_not_replayed() {
    let folder = tempfile::tempdir().unwrap();
    mutate(&mut open(folder.path()).0, 3);
    let system = default_model();
    let other = Base::new(None, &system, None).unwrap();
    let store = Store::in_folder(folder.path()).unwrap();
    let (engine, opened) = Engine::open(other, store).unwrap();
    assert!(opened.set_aside);
    assert_eq!(engine.generation(), 0);
}

#[test]
fn a_disk_that_takes_nothing_makes_no_generation() {
    let folder = tempfile::tempdir().unwrap();
    mutate(&mut open(folder.path()).0, 2);
    let read_only = Store::read_only_for_tests(folder.path());
    let mut engine = Engine::open(base(), read_only).unwrap().0;
    let before = engine.encode();
    let (mut proposer, mut consumer) = Channel::create().unwrap();
    let draft = Draft::of(&engine, "blk.0.weight", 0, &[9; 34]);
    propose(&mut proposer, &draft);
    let served = engine.serve(&mut consumer, 0, NOW).unwrap();
    consumer.publish(engine.generation());
    assert_eq!((served.answered, served.accepted), (1, 0));
    let answer = proposer.answer().unwrap();
    assert_eq!(
        (answer.verdict, answer.generation),
        (Verdict::JournalFailed, 2)
    );
    assert_eq!(engine.encode(), before);
    // The next one is built on what is there, and refused alike: nothing of the first is left over.
    let again = Draft::of(&engine, "blk.0.weight", 34, &[8; 34]);
    propose(&mut proposer, &again);
    engine.serve(&mut consumer, 0, NOW).unwrap();
    consumer.publish(engine.generation());
    assert_eq!(proposer.answer().unwrap().verdict, Verdict::JournalFailed);
    assert_eq!((engine.encode(), engine.counts().accepted), (before, 0));
}

fn propose(proposer: &mut Proposer, draft: &Draft) {
    let proposal = Proposal {
        id: draft.offset,
        base_generation: draft.generation,
        tensor: &draft.tensor,
        offset: draft.offset,
        confidence: draft.confidence,
        old_blake3: draft.old,
        payload_blake3: draft.new,
        payload: &draft.payload,
    };
    proposer.submit(&proposal).unwrap();
}

#[test]
fn a_group_is_answered_in_order_and_counted_on_ahead() {
    let mut engine = engine();
    let (mut proposer, mut consumer) = Channel::create().unwrap();
    for ahead in 0..8 {
        let mut draft = Draft::of(&engine, "blk.0.weight", ahead * 34, &[7; 34]);
        draft.generation = ahead;
        propose(&mut proposer, &draft);
    }
    let served = engine.serve(&mut consumer, 0, NOW).unwrap();
    assert_eq!((served.answered, served.accepted), (8, 8));
    consumer.publish(engine.generation());
    for number in 0..8 {
        let answer = proposer.answer().unwrap();
        assert_eq!((answer.number, answer.generation), (number, number + 1));
        assert_eq!(answer.verdict, Verdict::Accepted);
    }
    assert_eq!(proposer.generation(), 8);
}

#[test]
fn a_full_log_is_shortened_to_a_snapshot_and_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let mut engine = open(folder.path()).0;
    mutate(&mut engine, 9);
    let content = engine.encode();
    engine.shorten().unwrap();
    assert_eq!(engine.oldest(), 9);
    assert!(engine.roll_back(8, Verdict::RolledBack, 0, NOW).is_err());
    drop(engine);
    let mut engine = open(folder.path()).0;
    assert_eq!(engine.encode(), content);
    let draft = Draft::of(&engine, "policy.b1", 0, &floats(&[0.5]));
    assert_eq!(judge(&mut engine, &draft), Verdict::Accepted);
    assert!(engine.commit());
    assert_eq!(
        engine.roll_back(9, Verdict::RolledBack, 0, NOW).unwrap(),
        11
    );
    assert_eq!(engine.encode()[128..], content[128..]);
    drop(engine);
    assert_eq!(open(folder.path()).0.encode()[128..], content[128..]);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    /// Any mutations and rollbacks: what is replayed from the log is what was there, and the ranges of a generation
    /// over the base are the tensors.
    #[test]
    fn what_is_replayed_is_what_was_there(
        steps in proptest::collection::vec((0u64..8, 1usize..4, any::<u8>(), any::<bool>()), 1..40),
    ) {
        let folder = tempfile::tempdir().unwrap();
        let mut engine = open(folder.path()).0;
        let mut plain = engine.tensor("blk.0.weight").unwrap();
        let mut before = vec![plain.clone()];
        for (block, blocks, value, back) in steps {
            let newest = engine.generation();
            if back && newest > 0 {
                let to = u64::from(value) % newest;
                engine.roll_back(to, Verdict::RolledBack, 0, NOW).unwrap();
                plain = before[to as usize].clone();
            } else {
                let blocks = blocks.min(8 - block as usize);
                let payload = vec![value & 0x3f; blocks * 34];
                let draft = Draft::of(&engine, "blk.0.weight", block * 34, &payload);
                prop_assert_eq!(judge(&mut engine, &draft), Verdict::Accepted);
                prop_assert!(engine.commit());
                let at = block as usize * 34;
                plain[at..at + payload.len()].copy_from_slice(&payload);
            }
            before.push(plain.clone());
            prop_assert_eq!(&engine.tensor("blk.0.weight").unwrap(), &plain);
        }
        let content = engine.encode();
        generation::Generation::parse(&content).unwrap();
        drop(engine);
        let (again, opened) = open(folder.path());
        prop_assert_eq!(again.encode(), content);
        prop_assert!(!opened.set_aside);
    }

    #[test]
    fn no_slot_panics_or_changes_what_is_protected(
        changes in proptest::collection::vec((0usize..600, any::<u8>()), 1..8),
        tensor in prop_oneof![
            Just("kernel.limits"), Just("policy.b2"), Just("blk.0.weight"), Just("hw.mmio"), Just("kernel.own"),
        ],
    ) {
        let mut engine = engine();
        let before = protected(&engine);
        let mut slot = Draft::of(&engine, tensor, 0, &[0; 34]).slot();
        for (at, value) in changes {
            slot[at] = value;
        }
        engine.judge(&slot, 0, NOW);
        engine.commit();
        prop_assert_eq!(before, protected(&engine));
        generation::Generation::parse(&engine.encode()).unwrap();
    }
}

/// The fuzz body of the log for about a second, with a fixed seed: real logs with bytes changed, cut and moved.
#[test]
fn the_fuzz_body_of_the_log_holds_for_a_fixed_seed() {
    let folder = tempfile::tempdir().unwrap();
    mutate(&mut open(folder.path()).0, 6);
    let whole = std::fs::read(folder.path().join("mutations.log")).unwrap();
    let mut state = 42u64;
    let mut dice = move |sides: usize| {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        (state >> 33) as usize % sides
    };
    for _ in 0..2_000 {
        let mut data = whole[dice(HEADER_BYTES + 1)..].to_vec();
        for _ in 0..dice(4) {
            let at = dice(data.len());
            data[at] = dice(256) as u8;
        }
        data.truncate(dice(data.len() + 1));
        fuzz_body(&data);
    }
}

/// The fuzz body of a slot for about a second, with a fixed seed: good slots with bytes changed.
#[test]
fn the_fuzz_body_of_a_slot_holds_for_a_fixed_seed() {
    let mut state = 7u64;
    let mut dice = move |sides: usize| {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        (state >> 33) as usize % sides
    };
    let engine = engine();
    let names = ["policy.b2", "policy.w1", "kernel.limits", "metabolic.gains"];
    for _ in 0..400 {
        let name = names[dice(names.len())];
        let mut slot = Draft::of(&engine, name, 4 * dice(4) as u64, &floats(&[0.5; 2])).slot();
        for _ in 0..dice(4) {
            let at = dice(280);
            slot[at] = dice(256) as u8;
        }
        fuzz::slot_body(&slot);
    }
}

#[test]
fn a_slot_that_is_scribbled_on_while_it_is_checked_is_taken_whole_or_refused() {
    use std::sync::atomic::{AtomicBool, Ordering};
    use sys::shared::Shared;
    let mut engine = engine();
    let (mut consumer, handles) = Channel::offer(0).unwrap();
    let scribble = Shared::over(&handles.memory, ring::BYTES).unwrap();
    let mut proposer =
        Proposer::over(&handles.memory, handles.submitted, handles.answered).unwrap();
    let done = AtomicBool::new(false);
    let meant = [3; 34 * 8];
    let before = engine.tensor("blk.0.weight").unwrap();
    let accepted = std::thread::scope(|scope| {
        scope.spawn(|| {
            let wrong = [9; 34 * 8];
            while !done.load(Ordering::Relaxed) {
                for number in 0..ring::SLOTS as u64 {
                    let at = ring::slot_at(number) + ring::PAYLOAD_AT;
                    scribble.write(at, &wrong);
                    scribble.write(at, &meant);
                }
            }
        });
        let mut accepted = 0;
        for _ in 0..300 {
            let draft = Draft::of(&engine, "blk.0.weight", 0, &meant);
            propose(&mut proposer, &draft);
            engine.serve(&mut consumer, 0, NOW).unwrap();
            consumer.publish(engine.generation());
            match proposer.answer().unwrap().verdict {
                Verdict::Accepted => accepted += 1,
                Verdict::PayloadHashDiffers => {}
                other => panic!("{}", other.as_str()),
            }
            let now = engine.tensor("blk.0.weight").unwrap();
            let whole = if accepted > 0 {
                &meant[..]
            } else {
                &before[..]
            };
            assert_eq!(now[..], *whole, "half a payload was taken");
        }
        done.store(true, Ordering::Relaxed);
        accepted
    });
    assert_eq!(engine.generation(), accepted);
}
