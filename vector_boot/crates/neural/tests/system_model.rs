//! What a model may bring of the system tensors, and what is refused by name.

use gguf::writer::Writer;
use gguf::{GgmlType, Index};
use neural::DEFAULT_POLICY;
use neural::decide::{Decider, Deed};
use neural::journal::{Chain, Kind};
use neural::policy::TENSORS;
use neural::system_model::Tensors;
use wire::sensors::Decisions;

/// What is refused of this model, one line each.
fn refused(model: Writer) -> Vec<String> {
    let file = model.finish().unwrap();
    let index = Index::parse(&file).unwrap();
    let mut decider = Decider::new(None, &Decisions::default(), 100.0, 0);
    let refusals = decider.take_model(Some(&Tensors::of(&index)), 1, 1);
    assert_eq!(*decider.policy(), DEFAULT_POLICY, "the default stands in");
    refusals.iter().map(ToString::to_string).collect()
}

#[test]
fn a_model_without_system_tensors_has_the_defaults() {
    assert_eq!(refused(Writer::new()), Vec::<String>::new());
    assert_eq!(
        refused(Writer::new().f32_tensor("blk.0", &[1], &[1.0])),
        Vec::<String>::new()
    );
}

#[test]
fn each_wrong_tensor_is_refused_by_its_name_and_the_default_stands_in() {
    let wrong: [(Writer, &str); 9] = [
        (
            Writer::new().f32_tensor("kernel.limits", &[15], &[0.0; 15]),
            "tensor kernel.limits: shape [15], limit [16]",
        ),
        (
            Writer::new().f32_tensor("kernel.limits", &[16], &[1.0; 16]),
            "tensor kernel.limits: value 0 is 1, limit 25 to 100",
        ),
        (
            Writer::new().f32_tensor("kernel.interrupts", &[4, 1], &[64.0, 0.0, 1.0, 1.0]),
            "tensor kernel.interrupts: value 0 is 64, limit 0 to 63",
        ),
        (
            Writer::new().f32_tensor("kernel.interrupts", &[4, 1], &[1.0, 0.5, 1.0, 1.0]),
            "tensor kernel.interrupts: value 1 is 0.5, limit 0 to 1",
        ),
        (
            Writer::new().f32_tensor("kernel.interrupts", &[4, 1], &[1.0, 0.0, f32::NAN, 1.0]),
            "tensor kernel.interrupts: value 2 is not finite",
        ),
        (
            Writer::new().f32_tensor("kernel.interrupts", &[4, 33], &[0.0; 132]),
            "tensor kernel.interrupts: 33 rows, limit 32",
        ),
        (
            Writer::new().f32_tensor("policy.w1", &[32, 64], &[0.0; 2048]),
            "tensor policy.w1: shape [32, 64], limit [64, 32]",
        ),
        (
            Writer::new().f32_tensor("policy.b2", &[8], &[f32::INFINITY; 8]),
            "tensor policy.b2: value 0 is not finite",
        ),
        (
            Writer::new().tensor("metabolic.gains", GgmlType::F16, &[8], vec![0; 16]),
            "tensor metabolic.gains: type F16, limit F32",
        ),
    ];
    for (model, expected) in wrong {
        assert_eq!(refused(model), [expected]);
    }
}

#[test]
fn what_a_model_brings_counts_and_what_it_lacks_is_the_defaults() {
    let file = Writer::new()
        .f32_tensor("policy.b2", &[8], &[0.25; 8])
        .f32_tensor("kernel.interrupts", &[4], &[13.0, 1.0, 5.0, 1.0])
        .finish()
        .unwrap();
    let index = Index::parse(&file).unwrap();
    let mut decider = Decider::new(None, &Decisions::default(), 100.0, 0);
    assert!(
        decider
            .take_model(Some(&Tensors::of(&index)), 1, 1)
            .is_empty()
    );
    assert_eq!(decider.policy().b2, [0.25; 8]);
    assert_eq!(decider.policy().w1, DEFAULT_POLICY.w1);
    assert!(
        decider
            .line(0)
            .is_some_and(|(line, ..)| line.register == 13 && !line.above)
    );
    assert!(decider.line(1).is_none());
    assert_eq!(TENSORS.len(), 5);
}

#[test]
fn the_next_image_goes_on_behind_the_rows_and_settings_of_the_one_before() {
    let file = tempfile::tempfile().unwrap();
    let ring = || Some((file.try_clone().unwrap(), 0));
    let mut before = Decider::new(ring(), &Decisions::default(), 100.0, 0);
    let mut wishing = neural::policy::Weights::ZERO;
    wishing.b2[0] = 5.0;
    before.set_policy(Some(Box::new(wishing)), 3);
    let mut registers = [f32::NAN; wire::sensors::COUNT];
    registers[wire::sensors::index::DISK_USE] = 99.0;
    before.beat((1, 1), &registers, 100.0, &[], true);
    let left = before.decisions();
    assert_eq!(
        (left.settings[0], left.raised.count_ones(), left.journal_seq),
        (1000.0, 1, 3)
    );
    let mut next = Decider::new(ring(), &left, 100.0, 5);
    let empty = Writer::new().finish().unwrap();
    next.take_model(Some(&Tensors::of(&Index::parse(&empty).unwrap())), 5, 2);
    next.go_on_raised(left.raised);
    assert_eq!(next.decisions().settings, left.settings);
    assert!(
        next.beat((6, 2), &registers, 100.0, &[], false).is_empty(),
        "it is raised already"
    );
    let mut chain = Chain::default();
    let kinds: Vec<Kind> = (1..=3)
        .map(|seq| {
            chain
                .check(&next.ring().row(seq).unwrap().encode())
                .unwrap()
                .row
                .kind
        })
        .collect();
    assert_eq!(kinds, [Kind::Began, Kind::Raised, Kind::Control]);
    assert_eq!(chain.head(), left.journal_head);
    // A page of another ring: the rows are gone, and that is said.
    let lost = Decider::new(None, &left, 100.0, 9);
    assert_eq!(lost.ring().chain().seq(), 1);
}

#[test]
fn another_models_limits_table_and_policy_are_in_force_from_the_next_beat_on() {
    let default = neural::limits::LIMITS.map(|limit| limit.value);
    let mut limits = default;
    limits[1] = 500.0;
    let two = |first: [f32; 4], second: [f32; 4]| [first, second].concat();
    let (disk, available) = ([28.0, 0.0, 95.0, 2.0], [13.0, 1.0, 1e9, 0.0]);
    let with = |table: &[f32], bias: f32, limits: &[f32]| {
        let file = Writer::new()
            .f32_tensor(
                "policy.b2",
                &[8],
                &[bias, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0],
            )
            .f32_tensor("kernel.interrupts", &[4, 2], table)
            .f32_tensor("kernel.limits", &[16], limits);
        file.finish().unwrap()
    };
    let before = with(&two(disk, available), 5.0, &default);
    let after = with(&two(disk, [22.0, 0.0, 80.0, 1.0]), 5.0, &limits);
    let mut registers = [f32::NAN; wire::sensors::COUNT];
    registers[wire::sensors::index::DISK_USE] = 99.0;
    registers[wire::sensors::index::MEMORY_AVAILABLE] = 1e6;

    let mut decider = Decider::new(None, &Decisions::default(), 100.0, 0);
    let index = Index::parse(&before).unwrap();
    decider.take_model(Some(&Tensors::of(&index)), 1, 1);
    decider.beat((2, 2), &registers, 100.0, &[], true);
    assert_eq!(decider.decisions().raised, 0b11);
    assert_eq!(decider.decisions().settings[0], 1000.0);
    decider.set_policy(Some(Box::new(neural::policy::Weights::ZERO)), 7);

    let index = Index::parse(&after).unwrap();
    let rows = decider.ring().chain().seq();
    assert!(
        decider
            .take_model(Some(&Tensors::of(&index)), 3, 3)
            .is_empty()
    );
    let decisions = decider.decisions();
    assert_eq!(
        (decisions.raised, decisions.generation),
        (0b1, 0),
        "the line that both have is raised still"
    );
    let cleared = decider.ring().row(rows + 1);
    assert!(cleared.is_none_or(|row| row.row.kind == Kind::Cleared));
    assert_eq!(decider.ring().chain().seq(), rows + 1, "one line is gone");
    let gone = decider.take_gone();
    let [Deed::Interrupt(edge, recorded)] = gone.as_slice() else {
        panic!("{gone:?}");
    };
    assert!(!edge.raised && edge.value.is_nan());
    assert_eq!((recorded.seq, recorded.tell), (rows + 1, true));
    assert!(decider.take_gone().is_empty(), "it is told once");
    // No pause of the setting holds what is outside of the limits.
    decider.beat((4, 4), &registers, 100.0, &[], true);
    assert_eq!(decider.decisions().settings[0], 500.0);
    decider.take_model(None, 5, 5);
    assert_eq!(*decider.policy(), DEFAULT_POLICY);
    assert!(decider.line(9).is_some(), "the default table");
}
