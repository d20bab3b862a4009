//! A small log as bytes: round trips, every flipped bit, every truncation, hostile bytes, golden bytes.

use ledger_core::{
    Anchor, Body, EPOCH_OPENED, EventId, FaultKind, GROUP_FRAME_BYTES, GroupBuilder, Head, Origin,
    SEGMENT_BYTES_MIN, SEGMENT_HEADER_BYTES, SegmentHeader, Step, Superblock, Verifier, fuzz,
};
use proptest::prelude::*;

const SECTOR: usize = 512;
const HEADER: usize = SEGMENT_HEADER_BYTES;

fn superblock() -> Superblock {
    Superblock {
        sector_bytes: 512,
        segment_bytes: SEGMENT_BYTES_MIN,
        segments_max: 2,
        log_id: *b"0123456789abcdef",
        tag_key: [3; 32],
        created_wall_ns: 1_700_000_000_000_000_000,
        generation: 1,
        first_segment: 0,
    }
}

fn body<'a>(subject: &'a str, payload: &'a str) -> Body<'a> {
    Body {
        timestamp_ns: 5,
        wall_ns: 1_700_000_000_000_000_001,
        ulid: [1; 16],
        tenant_tag: [0; 8],
        ns: "system",
        actor: "service:init",
        tenant_id: "system",
        event_type: "service_started",
        subject,
        payload,
        causation_id: None,
        origin: Some(Origin {
            boot_id: [2; 16],
            producer: 0,
            sequence: 1,
        }),
        sig: None,
    }
}

/// One segment with a group of each of these event counts, padded with zeros to its whole length.
fn segment(groups: &[usize]) -> (Vec<u8>, Vec<usize>, Head) {
    let superblock = superblock();
    let mut bytes = Verifier::new(superblock).header_for(0).encode();
    let mut head = Head::genesis(&superblock);
    let mut ends = vec![bytes.len()];
    for count in groups {
        let mut group = GroupBuilder::new(
            &superblock,
            superblock.place(0, 1),
            bytes.len() as u64,
            head,
        );
        for n in 0..*count {
            let subject = "s".repeat(n * 7);
            group.push(&body(&subject, "{\"a\":1}")).unwrap();
        }
        let (more, next) = group.finish();
        assert_eq!(more.len() % SECTOR, 0);
        bytes.extend_from_slice(&more);
        ends.push(bytes.len());
        head = next;
    }
    bytes.resize(usize::try_from(superblock.segment_bytes).unwrap(), 0);
    (bytes, ends, head)
}

/// Verifies a segment: the events and the offset of its last whole group, and the fault if any.
fn verify(bytes: &[u8]) -> (u64, u64, Option<ledger_core::Fault>) {
    let mut verifier = Verifier::new(superblock());
    if let Err(fault) = verifier.enter(0, &bytes[..HEADER]) {
        return (0, 0, Some(fault));
    }
    let fault = loop {
        let at = usize::try_from(verifier.offset()).unwrap();
        match verifier.step(bytes.get(at..).unwrap_or(&[])) {
            Ok(Step::Event { .. } | Step::Group { .. }) => {}
            Ok(Step::Blank | Step::Need(_)) => break None,
            Err(fault) => break Some(fault),
        }
    };
    let (_, offset, head) = verifier.committed();
    (head.id, offset, fault)
}

#[test]
fn what_was_built_verifies_and_says_its_head() {
    let (bytes, ends, head) = segment(&[1, 3, 2]);
    assert_eq!(verify(&bytes), (6, *ends.last().unwrap() as u64, None));
    assert_eq!((head.id, head.tree.size()), (6, 6));
}

#[test]
fn every_flipped_bit_is_detected_where_it_lies() {
    let (good, ends, _) = segment(&[1, 2, 1]);
    let end = *ends.last().unwrap();
    for at in 0..end {
        let mut bad = good.clone();
        bad[at] ^= 1 << (at % 8);
        let (_, committed, fault) = verify(&bad);
        // A length that became zero ends the segment early: the caller sees bytes behind the end.
        let tail = bad[usize::try_from(committed).unwrap()..]
            .iter()
            .any(|b| *b != 0);
        assert!(fault.is_some() || tail, "byte {at} went unseen");
        assert!(
            committed as usize <= at,
            "byte {at} lies in what is said to hold"
        );
        if let Some(fault) = fault {
            assert!(fault.offset as usize <= at, "byte {at}: {fault:?}");
        }
    }
}

#[test]
fn truncation_at_every_byte_keeps_the_whole_groups_and_is_no_damage() {
    let (good, ends, _) = segment(&[2, 1, 3]);
    for cut in HEADER..*ends.last().unwrap() {
        let mut torn = good.clone();
        torn[cut..].fill(0);
        let (_, committed, _) = verify(&torn);
        // The last bytes of a group are its trailer, so that no shorter cut is whole.
        let wanted = ends.iter().filter(|end| **end <= cut).max().unwrap();
        assert_eq!(committed as usize, *wanted, "cut at {cut}");
    }
}

#[test]
fn a_bad_group_before_a_good_one_is_damage_and_a_torn_last_one_is_not() {
    let (good, ends, _) = segment(&[1, 1, 1]);
    let judge = |bytes: &[u8]| {
        let mut verifier = Verifier::new(superblock());
        verifier.enter(0, &bytes[..HEADER]).unwrap();
        loop {
            let at = usize::try_from(verifier.offset()).unwrap();
            match verifier.step(&bytes[at..]) {
                Ok(Step::Event { .. } | Step::Group { .. }) => {}
                _ => break,
            }
        }
        let (_, offset, _) = verifier.committed();
        verifier.damaged(0, offset, &bytes[usize::try_from(offset).unwrap()..])
    };
    let mut early = good.clone();
    early[ends[0] + 100] ^= 1;
    assert!(judge(&early));
    // Even a whole sector of the first group lost.
    let mut lost = good.clone();
    lost[ends[0]..ends[1]].fill(0);
    assert!(judge(&lost));
    let mut torn = good.clone();
    torn[ends[3] - 40..ends[3]].fill(0);
    assert!(!judge(&torn));
    // A flipped bit in the last group, whose sector was written whole, is no torn write.
    let mut flipped = good;
    flipped[ends[2] + 100] ^= 1;
    assert!(judge(&flipped));
}

#[test]
fn rules_hold_for_what_is_read_too() {
    let superblock = superblock();
    let mut bytes = Verifier::new(superblock).header_for(0).encode();
    let head = Head::genesis(&superblock);
    let mut group = GroupBuilder::new(&superblock, superblock.place(0, 1), HEADER as u64, head);
    let bad = Body {
        actor: "root",
        ..body("", "{}")
    };
    group.push(&bad).unwrap();
    bytes.extend_from_slice(&group.finish().0);
    let (_, _, fault) = verify(&bytes);
    let fault = fault.unwrap();
    assert_eq!(fault.id, EventId(1));
    assert!(matches!(fault.kind, FaultKind::Rule(_)), "{fault:?}");
}

/// Epoch 2 in segment 1 behind one event in segment 0; `first` is the new segment's first event.
fn second_epoch(first: &Body<'_>, header: &SegmentHeader) -> Result<Verifier, FaultKind> {
    let superblock = superblock();
    let (bytes, ..) = segment(&[1]);
    let mut verifier = Verifier::new(superblock);
    verifier.enter(0, &bytes[..HEADER]).unwrap();
    while !matches!(
        verifier.step(&bytes[usize::try_from(verifier.offset()).unwrap()..]),
        Ok(Step::Blank)
    ) {}
    verifier.enter(1, &header.encode()).map_err(|f| f.kind)?;
    let mut group = GroupBuilder::new(
        &superblock,
        header.place,
        HEADER as u64,
        header.head.clone(),
    );
    group.push(first).unwrap();
    let (bytes, _) = group.finish();
    verifier.step(&bytes).map_err(|f| f.kind)?;
    assert!(verifier.anchor_due(), "its group may be torn");
    let at = usize::try_from(verifier.offset()).unwrap() - HEADER;
    verifier.step(&bytes[at..]).map_err(|f| f.kind)?;
    Ok(verifier)
}

#[test]
fn an_epoch_begins_with_its_anchor_and_with_nothing_else() {
    let head = segment(&[1]).2;
    let header = SegmentHeader {
        place: superblock().place(1, 2),
        epoch_segment: 1,
        head: head.clone(),
    };
    let anchor = Anchor {
        epoch: 2,
        previous: None,
        chain: head.chain,
        tree_size: 1,
        root: head.tree.root(),
        state: [7; 32],
    };
    let judge = |anchor: &Anchor, event_type: &str| {
        let payload = anchor.payload();
        let event = Body {
            event_type,
            ns: "ledger",
            actor: "service:ledger",
            ..body("", &payload)
        };
        second_epoch(&event, &header).map(|v| (v.epoch(), v.anchor().map(|a| a.0), v.anchor_due()))
    };
    assert_eq!(judge(&anchor, EPOCH_OPENED), Ok(((2, 1), Some(2), false)));
    assert_eq!(judge(&anchor, "note"), Err(FaultKind::Anchor));
    for bad in [
        Anchor { epoch: 3, ..anchor },
        Anchor {
            chain: [0; 32],
            ..anchor
        },
        Anchor {
            tree_size: 2,
            ..anchor
        },
        Anchor {
            root: [0; 32],
            ..anchor
        },
    ] {
        assert_eq!(judge(&bad, EPOCH_OPENED), Err(FaultKind::Anchor), "{bad:?}");
    }
    for (segment, epoch, epoch_segment) in [(1, 3, 1), (1, 2, 0), (1, 1, 1), (2, 2, 2)] {
        let header = SegmentHeader {
            place: superblock().place(segment, epoch),
            epoch_segment,
            head: head.clone(),
        };
        let entered = second_epoch(&body("", "{}"), &header).map(|_| ());
        assert_eq!(entered, Err(FaultKind::SegmentHeader), "{segment} {epoch}");
    }
}

#[test]
fn reading_begins_at_any_header_and_comes_to_the_same_end() {
    let head = segment(&[3]).2;
    let header = SegmentHeader {
        place: superblock().place(1, 1),
        epoch_segment: 0,
        head: head.clone(),
    };
    let mut group = GroupBuilder::new(&superblock(), header.place, HEADER as u64, head);
    group.push(&body("", "{}")).unwrap();
    let (bytes, end) = group.finish();
    let mut verifier = Verifier::resume(superblock(), &header).unwrap();
    verifier.enter(1, &header.encode()).unwrap();
    let mut at = 0;
    while at < bytes.len() {
        verifier.step(&bytes[at..]).unwrap();
        at = usize::try_from(verifier.offset()).unwrap() - HEADER;
    }
    assert_eq!(verifier.committed().2, &end);
    let other = Superblock {
        log_id: [0; 16],
        ..superblock()
    };
    assert!(Verifier::resume(other, &header).is_none());
}

#[test]
fn a_group_takes_no_more_than_its_room_and_gives_a_batch_back_whole() {
    let superblock = superblock();
    let head = Head::genesis(&superblock);
    let mut group = GroupBuilder::new(&superblock, superblock.place(0, 1), HEADER as u64, head);
    let mut pushed = 0;
    while group.push(&body("", "{}")).is_some() {
        pushed += 1;
    }
    assert!(pushed > 10);
    let mark = group.mark();
    assert!(group.push(&body("", "{}")).is_none());
    group.rewind(mark);
    let (bytes, head) = group.finish();
    assert_eq!(
        (head.id, bytes.len() as u64),
        (pushed, superblock.group_bytes_max())
    );
}

/// The bytes are the format: if this fails, the version must change.
#[test]
fn golden_bytes() {
    let (bytes, ends, head) = segment(&[1, 2]);
    let mut log = superblock().encode().to_vec();
    log.extend_from_slice(&bytes[..*ends.last().unwrap()]);
    let hex = |bytes: &[u8]| bytes.iter().map(|b| format!("{b:02x}")).collect::<String>();
    let mut text = String::new();
    for (n, sector) in log.chunks(32).enumerate() {
        if sector.iter().any(|b| *b != 0) {
            text += &format!("{:06x} {}\n", n * 32, hex(sector));
        }
    }
    text += &format!(
        "chain {}\nroot {}\n",
        hex(&head.chain),
        hex(&head.tree.root())
    );
    let golden = include_str!("golden/log-v2.txt");
    assert_eq!(text, golden, "the written bytes changed:\n{text}");
}

#[test]
fn hostile_bytes_for_a_second() {
    // A fixed linear congruential sequence, over good bytes and over noise.
    let (good, ends, _) = segment(&[2, 2]);
    let mut state = 0x1234_5678_9abc_def0u64;
    let mut next = || {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(state >> 33).unwrap()
    };
    let log: Vec<u8> = [
        &superblock().encode()[..],
        &good[HEADER..*ends.last().unwrap()],
    ]
    .concat();
    for _ in 0..3_000 {
        let mut data = if next() % 2 == 0 {
            good[HEADER..].to_vec()
        } else {
            log.clone()
        };
        for _ in 0..next() % 8 {
            let at = next() % data.len();
            data[at] = u8::try_from(next() % 256).unwrap();
        }
        data.truncate(next() % (data.len() + 1));
        fuzz::fuzz_body(&data);
    }
}

proptest! {
    #[test]
    fn any_groups_of_any_events_round_trip(groups in proptest::collection::vec(
        proptest::collection::vec(("[a-z /.]{0,40}", "[a-z0-9]{0,300}"), 1..4), 0..8)
    ) {
        let superblock = superblock();
        let mut bytes = Verifier::new(superblock).header_for(0).encode();
        let mut head = Head::genesis(&superblock);
        let mut wanted = Vec::new();
        for events in &groups {
            let mut group = GroupBuilder::new(&superblock, superblock.place(0, 1), bytes.len() as u64, head);
            for (subject, text) in events {
                let payload = format!("{{\"t\":\"{text}\"}}");
                let committed = group.push(&body(subject, &payload)).unwrap();
                wanted.push((committed.id, committed.chain, committed.offset, subject.clone(), payload));
            }
            let (more, next) = group.finish();
            bytes.extend_from_slice(&more);
            head = next;
        }
        let mut verifier = Verifier::new(superblock);
        verifier.enter(0, &bytes[..HEADER]).unwrap();
        let mut found = Vec::new();
        // The narrowest window that the verifier asks for.
        let mut window = 0;
        loop {
            let at = usize::try_from(verifier.offset()).unwrap();
            let end = (at + window).min(bytes.len());
            match verifier.step(&bytes[at..end]).unwrap() {
                Step::Need(_) if at == bytes.len() => break,
                Step::Need(n) => window = usize::try_from(n).unwrap(),
                Step::Blank => break,
                Step::Group { .. } => window = 0,
                Step::Event { id, chain, offset, body, .. } => {
                    found.push((id, chain, offset, body.subject.to_owned(), body.payload.to_owned()));
                    window = 0;
                }
            }
        }
        prop_assert_eq!(found, wanted);
        prop_assert_eq!(verifier.committed().2, &head);
        prop_assert!(bytes.len() == HEADER || bytes.ends_with(b"VBGROUP1"));
        prop_assert!(GROUP_FRAME_BYTES < SECTOR);
    }
}

#[test]
fn an_event_is_placed_without_heap_of_its_own() {
    let superblock = Superblock {
        segment_bytes: 1024 * 1024,
        ..superblock()
    };
    let mut head = Head::genesis(&superblock);
    let mut at = HEADER as u64;
    for _ in 0..3 {
        let start = (at, head.clone());
        let mut ended = None;
        let heap = allocation_counter::measure(|| {
            let place = superblock.place(0, 1);
            let mut group = GroupBuilder::new(&superblock, place, start.0, start.1);
            for _ in 0..64 {
                group.push(&body("welcome.txt", PAYLOAD)).unwrap();
            }
            ended = Some(group.finish());
        });
        // The group's bytes, one event's body and the tenant's name; the tree's peaks as it grows.
        assert!(heap.count_total <= 16, "{} allocations", heap.count_total);
        let (bytes, next) = ended.unwrap();
        at += bytes.len() as u64;
        head = next;
    }
}

/// 256 bytes.
const PAYLOAD: &str = "{\"p\":\"zxcvbnmasdfghjklqwertyuiopzxcvbnmasdfghjklqwertyuiopzxcvbnmasdfghjklqwertyuiopzxcvbnmasdfghjklqwertyuiopzxcvbnmasdfghjklqwertyuiopzxcvbnmasdfghjklqwertyuiopzxcvbnmasdfghjklqwertyuiopzxcvbnmasdfghjklqwertyuiopzxcvbnmasdfghjklqwertyuiopzxcvbnmasdfghj\"}";
