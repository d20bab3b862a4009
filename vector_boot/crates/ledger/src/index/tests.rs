//! The index against a plain list of the same events, in each way that a part can lie.

use super::*;
use crate::committer::{Committer, Draft, Ledger};
use crate::device::Device;
use crate::json::Json;
use crate::log::Birth;
use crate::query::{self, Filter, Order, Query};
use proptest::prelude::*;
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

/// A device in memory.
#[derive(Default)]
struct Memory(Mutex<Vec<u8>>);

impl Device for Memory {
    fn capacity(&self) -> u64 {
        64 * 1024 * 1024
    }
    fn sector_bytes(&self) -> u32 {
        512
    }
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        let bytes = self.0.lock().unwrap();
        let from = bytes.len().min(offset as usize);
        let n = buf.len().min(bytes.len() - from);
        buf[..n].copy_from_slice(&bytes[from..from + n]);
        buf[n..].fill(0);
        Ok(())
    }
    fn write_at(&self, offset: u64, new: &[u8]) -> io::Result<()> {
        let mut bytes = self.0.lock().unwrap();
        let (from, to) = (offset as usize, offset as usize + new.len());
        if bytes.len() < to {
            bytes.resize(to, 0);
        }
        bytes[from..to].copy_from_slice(new);
        Ok(())
    }
    fn sync(&self) -> io::Result<()> {
        Ok(())
    }
    fn locate(&self, offset: u64) -> String {
        format!("memory at byte {offset}")
    }
}

const EVENTS: u64 = 700;

fn birth() -> Birth {
    Birth {
        log_id: [1; 16],
        tag_key: [2; 32],
        wall_ns: 0,
        segment_bytes_max: 16 * 1024,
    }
}

/// Event `id` of the log that the tests look at; its values are few, so that filters meet.
fn draft(id: u64) -> Draft {
    let mixed = id.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 20;
    let pick = |n: u64, of: u64| (mixed >> (n * 5)) % of;
    Draft {
        origin: None,
        ns: ["ns", "other"][pick(0, 2) as usize].to_owned(),
        actor: format!("user:u{}", pick(1, 4)),
        tenant_id: format!("t{}", pick(2, 3)),
        event_type: format!("kind{}", pick(3, 3)),
        subject: format!("s{}", pick(4, 40)),
        payload: "{}".to_owned(),
        causation_id: (id > 1 && pick(5, 3) > 0).then(|| id - 1 - pick(6, 30.min(id - 1))),
        timestamp_ns: Some(id * 10 + pick(7, 5_000)),
        ulid: None,
        sig: None,
    }
}

/// One event as a query must see it.
struct Model {
    id: u64,
    draft: Draft,
    wall_ns: u64,
}

fn fill(ledger: &Ledger) {
    for id in 1..=EVENTS {
        // One by one: the groups are small and segments many.
        ledger.append_wait(vec![draft(id)]).unwrap();
    }
}

fn model(ledger: &Ledger) -> Vec<Model> {
    let mut reader = ledger.reader();
    let read = |id| {
        let wall_ns = reader.event(id, |_, _, body| body.wall_ns).unwrap();
        Model {
            id,
            draft: draft(id),
            wall_ns,
        }
    };
    (1..=EVENTS).map(read).collect()
}

fn ask(ledger: &Ledger, query: &Query) -> (Vec<u64>, Option<u64>) {
    let mut ids = Vec::new();
    let mut emit = |json: String| {
        let event = Json::parse(&json).unwrap();
        ids.push(event.get("id").and_then(Json::unsigned).unwrap());
        true
    };
    let head = ledger.standing().id;
    let mut reader = ledger.reader();
    let ended = query::run(
        query,
        &mut reader,
        ledger.index(),
        head,
        &mut emit,
        &mut || (),
    );
    let ended = ended.unwrap();
    assert_eq!(ended.count, ids.len() as u64);
    (ids, ended.next)
}

/// All pages of a query, each of `limit`.
fn pages(ledger: &Ledger, query: &Query) -> Vec<u64> {
    let mut query = query.clone();
    let mut all = Vec::new();
    loop {
        let (ids, next) = ask(ledger, &query);
        assert!(ids.len() as u64 <= query.limit);
        assert!(next.is_none() || ids.len() as u64 == query.limit);
        all.extend(ids);
        match next {
            Some(next) => query.from = Some(next),
            None => return all,
        }
    }
}

/// The same by looking at every event.
fn expected(model: &[Model], query: &Query) -> Vec<u64> {
    let filter = &query.filter;
    let of = |id: u64| &model[id as usize - 1];
    let sees = |m: &Model| {
        filter
            .tenant_id
            .as_ref()
            .is_none_or(|t| *t == m.draft.tenant_id)
    };
    let in_tree = |m: &Model| {
        filter.causation.is_none_or(|root| {
            let mut at = Some(m.id);
            while let Some(id) = at
                && sees(of(id))
            {
                if id == root {
                    return true;
                }
                at = of(id).draft.causation_id;
            }
            false
        })
    };
    let in_chain = |m: &Model| {
        filter.causation.is_some()
            || filter.causes_of.is_none_or(|event| {
                let mut at = Some(event);
                while let Some(id) = at
                    && sees(of(id))
                {
                    if id == m.id {
                        return true;
                    }
                    at = of(id).draft.causation_id;
                }
                false
            })
    };
    let same = |wanted: &Option<String>, is: &String| wanted.as_ref().is_none_or(|w| w == is);
    let inside = |from: Option<u64>, to: Option<u64>, at: u64| {
        from.is_none_or(|from| at >= from) && to.is_none_or(|to| at < to)
    };
    let ascending = query.order == Order::Ascending;
    let mut ids: Vec<u64> = model
        .iter()
        .filter(|m| match (query.from, ascending) {
            (Some(from), true) => m.id >= from,
            (Some(from), false) => m.id <= from,
            (None, _) => true,
        })
        .filter(|m| {
            let d = &m.draft;
            same(&filter.event_type, &d.event_type)
                && same(&filter.tenant_id, &d.tenant_id)
                && same(&filter.actor, &d.actor)
                && same(&filter.ns, &d.ns)
                && same(&filter.subject, &d.subject)
                && filter
                    .causation_id
                    .is_none_or(|c| d.causation_id == Some(c))
                && inside(filter.wall_from, filter.wall_to, m.wall_ns)
                && inside(
                    filter.timestamp_from,
                    filter.timestamp_to,
                    d.timestamp_ns.unwrap(),
                )
                && in_tree(m)
                && in_chain(m)
        })
        .map(|m| m.id)
        .collect();
    if !ascending {
        ids.reverse();
    }
    ids
}

fn maybe<T: std::fmt::Debug + Clone + 'static>(
    some: impl Strategy<Value = T> + 'static,
) -> BoxedStrategy<Option<T>> {
    prop_oneof![2 => Just(None), 1 => some.prop_map(Some)].boxed()
}

fn any_query() -> impl Strategy<Value = Query> {
    let text = |form: &'static str, of: u64| maybe((0..of).prop_map(move |n| format!("{form}{n}")));
    let id = || maybe(1..=EVENTS);
    let values = (
        text("kind", 4),
        text("t", 4),
        text("user:u", 5),
        maybe(prop_oneof![Just("ns".to_owned()), Just("other".to_owned())]),
        text("s", 41),
    );
    // Of the wall clock the test knows the events of some ids alone: see `times`.
    let times = (id(), id(), maybe(0..12_000u64), maybe(0..12_000u64));
    let rest = (id(), 1..60u64, any::<bool>());
    let causes = prop_oneof![
        4 => Just((None, None, None)),
        1 => (1..=EVENTS).prop_map(|id| (Some(id), None, None)),
        1 => (1..=EVENTS).prop_map(|id| (None, Some(id), None)),
        1 => (1..=EVENTS).prop_map(|id| (None, None, Some(id))),
    ];
    (values, times, rest, causes).prop_map(|(values, times, rest, causes)| Query {
        filter: Filter {
            event_type: values.0,
            tenant_id: values.1,
            actor: values.2,
            ns: values.3,
            subject: values.4,
            causation_id: causes.0,
            causation: causes.1,
            causes_of: causes.2,
            wall_from: times.0,
            wall_to: times.1,
            timestamp_from: times.2,
            timestamp_to: times.3,
        },
        from: rest.0,
        limit: rest.1,
        // A tree is in the order of ids alone.
        order: if rest.2 && causes.1.is_none() {
            Order::Descending
        } else {
            Order::Ascending
        },
    })
}

fn settled(ledger: &Ledger) -> Freshness {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let freshness = ledger.index().lock().unwrap().freshness();
        if freshness.sealed == freshness.snapshots || Instant::now() > deadline {
            return freshness;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn every_query_is_right(ledger: &Ledger, cases: u32) {
    let model = model(ledger);
    let mut runner = proptest::test_runner::TestRunner::new_with_rng(
        ProptestConfig {
            cases,
            failure_persistence: None,
            ..ProptestConfig::default()
        },
        proptest::test_runner::TestRng::deterministic_rng(
            proptest::test_runner::RngAlgorithm::ChaCha,
        ),
    );
    let times = |id: Option<u64>| id.map(|id| model[id as usize - 1].wall_ns);
    let outcome = runner.run(&any_query(), |mut query| {
        query.filter.wall_from = times(query.filter.wall_from);
        query.filter.wall_to = times(query.filter.wall_to);
        prop_assert_eq!(
            pages(ledger, &query),
            expected(&model, &query),
            "{:?}",
            query
        );
        Ok(())
    });
    outcome.unwrap();
}

#[test]
fn queries_find_what_reading_every_event_finds_wherever_the_parts_lie() {
    let folder = tempfile::tempdir().unwrap();
    let device: Arc<dyn Device> = Arc::new(Memory::default());
    let start = |folder: Option<&Path>| Committer::start_with(device.clone(), &birth(), folder);
    // As it grows, without a folder: two sealed parts in memory, the others bare.
    let (committer, _) = start(None).unwrap();
    fill(committer.ledger());
    let freshness = committer.ledger().index().lock().unwrap().freshness();
    assert!(freshness.sealed > 8, "{freshness:?}");
    every_query_is_right(committer.ledger(), 100);
    committer.stop();
    // A start without snapshots leaves them for later, and finds by reading meanwhile.
    let (committer, _) = start(Some(folder.path())).unwrap();
    let freshness = committer.ledger().index().lock().unwrap().freshness();
    assert_eq!((freshness.snapshots, freshness.rebuilds), (0, 0));
    every_query_is_right(committer.ledger(), 50);
    // In snapshots.
    committer.ledger().keep_index_now();
    let freshness = committer.ledger().index().lock().unwrap().freshness();
    assert_eq!(freshness.snapshots, freshness.sealed);
    every_query_is_right(committer.ledger(), 200);
    // With snapshots that were spoilt under it: each is noticed and built again.
    for entry in std::fs::read_dir(folder.path()).unwrap() {
        let path = entry.unwrap().path();
        if path.file_name().unwrap() == "state" {
            continue;
        }
        let mut bytes = std::fs::read(&path).unwrap();
        let length = bytes.len();
        bytes[pages::PAGE_BYTES..length].fill(7);
        std::fs::write(&path, bytes).unwrap();
    }
    // What is cached already is right.
    committer
        .ledger()
        .index()
        .lock()
        .unwrap()
        .kept
        .as_mut()
        .unwrap()
        .cache = Arc::default();
    let reopened: Vec<Wanted> = wanted(&committer.ledger().index().lock().unwrap());
    let mut index = committer.ledger().index().lock().unwrap();
    index.entries.truncate(0);
    for wanted in &reopened {
        index.sealed(wanted);
    }
    drop(index);
    committer.ledger().keep_index().unwrap();
    let head = reopened.last().unwrap();
    let filter = Filter {
        tenant_id: Some("t1".to_owned()),
        ..Filter::default()
    };
    let query = Query {
        filter,
        from: None,
        limit: 10_000,
        order: Order::Ascending,
    };
    let last = head.extent.first_id + u64::from(head.events) - 1;
    let ids: Vec<u64> = (1..=last)
        .filter(|id| draft(*id).tenant_id == "t1")
        .collect();
    assert_eq!(ask(committer.ledger(), &query).0, ids);
    committer.stop();
}

#[test]
fn a_start_that_reads_on_from_a_state_knows_what_one_that_reads_all_knows() {
    let folder = tempfile::tempdir().unwrap();
    let device: Arc<dyn Device> = Arc::new(Memory::default());
    let start = |folder: Option<&Path>| Committer::start_with(device.clone(), &birth(), folder);
    let origin = |sequence| {
        Some(ledger_core::Origin {
            boot_id: [7; 16],
            producer: 0,
            sequence,
        })
    };
    let (committer, _) = start(Some(folder.path())).unwrap();
    committer.ledger().keep_index().unwrap();
    for id in 1..=EVENTS {
        let draft = Draft {
            origin: origin(id),
            ..draft(id)
        };
        committer.ledger().append_wait(vec![draft]).unwrap();
    }
    settled(committer.ledger());
    committer.stop();
    let told = |committer: &Committer| {
        let ledger = committer.ledger();
        let mut summary = crate::planes::Summary::default();
        ledger
            .planes(|planes| planes.summary(&mut summary))
            .unwrap();
        let again = Draft {
            origin: origin(EVENTS - 300),
            ..draft(EVENTS - 300)
        };
        let receipts = ledger.append_wait(vec![again]).unwrap();
        assert!(receipts[0].repeated);
        let standing = ledger.standing();
        let boot = ledger.boots().ended_before(&[0; 16]).cloned();
        (
            summary,
            receipts,
            standing.chain,
            standing.root,
            boot,
            ledger.last_wall_ns(),
        )
    };
    let (committer, _) = start(None).unwrap();
    assert_eq!(committer.ledger().resumed_at(), 0);
    let all = told(&committer);
    committer.stop();
    let (committer, _) = start(Some(folder.path())).unwrap();
    assert!(committer.ledger().resumed_at() > EVENTS / 2);
    let freshness = committer.ledger().index().lock().unwrap().freshness();
    assert_eq!(freshness.snapshots, freshness.sealed);
    assert!(told(&committer) == all);
    every_query_is_right(committer.ledger(), 100);
    committer.stop();
    // A state that does not hold, or is of another log, is no state.
    let path = folder.path().join("state");
    let good = std::fs::read(&path).unwrap();
    for at in (0..good.len()).step_by(97) {
        let mut bad = good.clone();
        bad[at] ^= 1;
        std::fs::write(&path, bad).unwrap();
        assert_eq!(State::read(folder.path()), None, "byte {at}");
    }
    let (committer, _) = start(Some(folder.path())).unwrap();
    assert_eq!(committer.ledger().resumed_at(), 0);
    committer.stop();
    std::fs::write(&path, &good).unwrap();
    let mut other = State::read(folder.path()).unwrap();
    other.chain = [9; 32];
    other.write(folder.path()).unwrap();
    let (committer, _) = start(Some(folder.path())).unwrap();
    assert_eq!(committer.ledger().resumed_at(), 0);
    committer.stop();
    // Nor is one with a section that another version wrote.
    std::fs::write(&path, &good).unwrap();
    let mut other = State::read(folder.path()).unwrap();
    let mut summary = crate::planes::Summary::decode(&other.summary).unwrap();
    summary.put("bus", &"of another form");
    other.summary = summary.encode();
    other.write(folder.path()).unwrap();
    let (committer, _) = start(Some(folder.path())).unwrap();
    assert_eq!(committer.ledger().resumed_at(), 0);
    assert!(told(&committer) == all);
    committer.stop();
}

#[test]
fn parts_whose_snapshot_is_gone_damaged_or_another_segments_are_counted_when_built_again() {
    let folder = tempfile::tempdir().unwrap();
    let device: Arc<dyn Device> = Arc::new(Memory::default());
    let start = || {
        let (committer, _) =
            Committer::start_with(device.clone(), &birth(), Some(folder.path())).unwrap();
        committer.ledger().keep_index().unwrap();
        let freshness = settled(committer.ledger());
        assert_eq!(freshness.snapshots, freshness.sealed);
        let first_ids: Vec<u64> = {
            let index = committer.ledger().index().lock().unwrap();
            wanted(&index).iter().map(|w| w.extent.first_id).collect()
        };
        (committer, freshness, first_ids)
    };
    let (committer, ..) = start();
    fill(committer.ledger());
    settled(committer.ledger());
    // Else the next start would read more than the open segment, and build again what it reads.
    let deadline = Instant::now() + Duration::from_secs(60);
    while State::read(folder.path()).map(|state| state.id + 1) != last_begun(committer.ledger()) {
        assert!(Instant::now() < deadline, "the state is not kept");
        std::thread::sleep(Duration::from_millis(5));
    }
    committer.stop();
    let (committer, freshness, first_ids) = start();
    assert_eq!(freshness.rebuilds, 0, "nothing was wrong");
    committer.stop();
    let path = |n: usize| folder.path().join(snapshot::file_name(first_ids[n]));
    std::fs::remove_file(path(0)).unwrap();
    let mut bytes = std::fs::read(path(1)).unwrap();
    bytes[100] ^= 1;
    std::fs::write(path(1), bytes).unwrap();
    std::fs::copy(path(3), path(2)).unwrap();
    let (committer, freshness, _) = start();
    assert_eq!(freshness.rebuilds, 3, "each once");
    every_query_is_right(committer.ledger(), 100);
    committer.stop();
    // All of it: the start reads the whole log, and every part is built behind it.
    for entry in std::fs::read_dir(folder.path()).unwrap() {
        std::fs::remove_file(entry.unwrap().path()).unwrap();
    }
    let (committer, freshness, _) = start();
    // The first one's was in memory: what is read first may be all there is.
    assert_eq!(freshness.rebuilds + 1, freshness.sealed as u64);
    committer.stop();
}

/// A segment that the start took for sealed, since the one behind it has its header, may be where the log
/// goes on: what was torn there is cut, and the header with it.
#[test]
fn a_segment_that_is_opened_again_is_posted_as_if_it_had_never_been_sealed() {
    let folder = tempfile::tempdir().unwrap();
    let memory = Arc::new(Memory::default());
    let device: Arc<dyn Device> = memory.clone();
    let start = || Committer::start_with(device.clone(), &birth(), Some(folder.path())).unwrap();
    let (committer, _) = start();
    fill(committer.ledger());
    let extents: Vec<Extent> = {
        let index = committer.ledger().index().lock().unwrap();
        index.entries.iter().map(|entry| entry.extent).collect()
    };
    committer.stop();
    // The header of the seventh segment is there, none of its groups, and the last one before it is torn.
    let (torn, next) = (extents[5], extents[6]);
    let mut bytes = memory.0.lock().unwrap();
    bytes[next.base as usize + ledger_core::SEGMENT_HEADER_BYTES..].fill(0);
    let end = bytes[..next.base as usize].iter().rposition(|b| *b != 0);
    let sector = end.unwrap() / 512 * 512;
    bytes[sector + 400..sector + 512].fill(0);
    drop(bytes);
    for entry in std::fs::read_dir(folder.path()).unwrap() {
        std::fs::remove_file(entry.unwrap().path()).unwrap();
    }
    let (committer, recovery) = start();
    assert!(recovery.torn_bytes > 0);
    let ledger = committer.ledger();
    let head = ledger.standing().id;
    assert_eq!(head, next.first_id - 2, "one event was in the torn group");
    assert_eq!(last_begun(ledger), Some(torn.first_id));
    assert!(ledger.index().lock().unwrap().is_open());
    for id in head + 1..=EVENTS {
        ledger.append_wait(vec![draft(id)]).unwrap();
    }
    every_query_is_right(ledger, 100);
    committer.stop();
}

/// First event of the open segment.
fn last_begun(ledger: &Ledger) -> Option<u64> {
    let index = ledger.index().lock().unwrap();
    index.entries.last().map(|entry| entry.extent.first_id)
}

/// The sealed segments of an index.
fn wanted(index: &Index) -> Vec<Wanted> {
    let pairs = index.entries.windows(2);
    pairs
        .map(|pair| Wanted {
            extent: pair[0].extent,
            events: pair[0].events,
            chain: pair[1].extent.chain,
        })
        .collect()
}

fn files(folder: &Path) -> Vec<(std::ffi::OsString, Vec<u8>)> {
    let mut all: Vec<_> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| {
            let path = entry.unwrap().path();
            (
                path.file_name().unwrap().to_owned(),
                std::fs::read(&path).unwrap(),
            )
        })
        .collect();
    all.sort();
    all
}

#[test]
fn a_part_that_is_built_again_is_the_one_that_was_written() {
    let folder = tempfile::tempdir().unwrap();
    let device: Arc<dyn Device> = Arc::new(Memory::default());
    let (committer, _) = Committer::start_with(device, &birth(), Some(folder.path())).unwrap();
    committer.ledger().keep_index().unwrap();
    fill(committer.ledger());
    let ledger = committer.ledger();
    let freshness = settled(ledger);
    assert_eq!(freshness.snapshots, freshness.sealed, "{freshness:?}");
    // The writer was overtaken perhaps, and built a part again.
    let before = freshness.rebuilds;
    let written = files(folder.path());
    assert_eq!(written.len(), freshness.sealed + 1, "and the state");
    let again = ledger.index().lock().unwrap().distrust_all();
    let freshness = settled(ledger);
    assert_eq!(freshness.rebuilds, before + again as u64);
    assert!(written == files(folder.path()), "the same bytes");
    committer.stop();
}

#[test]
fn a_snapshot_of_another_head_length_or_byte_is_not_taken() {
    let folder = tempfile::tempdir().unwrap();
    let extent = Extent {
        place: ledger_core::Place {
            log_id: [1; 16],
            segment: 3,
            epoch: 1,
        },
        base: 8192,
        first_id: 100,
        chain: [3; 32],
    };
    let mut part = Part::new(100, 8192);
    for n in 0..50u64 {
        part.add(&Posted {
            id: 100 + n,
            offset: 8704 + n * 512,
            wall_ns: n,
            timestamp_ns: n,
            hashes: ["ns", "user:a", "t", "kind", "s"].map(part::hash),
            causation_id: Some(7),
        });
    }
    let good = Wanted {
        extent,
        events: 50,
        chain: [4; 32],
    };
    snapshot::write(folder.path(), &good, &mut part).unwrap();
    let opened = |wanted: &Wanted| Snapshot::open(folder.path(), wanted, 1, &Arc::default());
    assert!(opened(&good).is_ok());
    let mut others = [good; 6];
    others[0].chain = [5; 32];
    others[1].events = 49;
    others[2].extent.chain = [5; 32];
    others[3].extent.place.epoch = 2;
    others[4].extent.place.segment = 2;
    others[5].extent.place.log_id = [9; 16];
    assert!(others.iter().all(|other| opened(other).is_err()));
    let path = folder.path().join(snapshot::file_name(100));
    let bytes = std::fs::read(&path).unwrap();
    for at in 0..bytes.len() {
        let file = std::fs::File::options().write(true).open(&path).unwrap();
        file.write_all_at(&[bytes[at] ^ 1 << (at % 8)], at as u64)
            .unwrap();
        let noticed = match opened(&good) {
            Err(_) => true,
            // Behind the header each page is checked as it is read.
            Ok(snapshot) => {
                at >= pages::PAGE_BYTES
                    && snapshot
                        .candidates(&[(Dimension::Tenant, "t")])
                        .and_then(|_| snapshot.anchor(0))
                        .and_then(|_| snapshot.block(0))
                        .and_then(|_| snapshot.children(7, &mut Vec::new()))
                        .is_err()
            }
        };
        assert!(noticed, "byte {at}");
        file.write_all_at(&bytes[at..=at], at as u64).unwrap();
    }
    for cut in (0..bytes.len()).step_by(509) {
        std::fs::write(&path, &bytes[..cut]).unwrap();
        assert!(opened(&good).is_err(), "cut at {cut}");
    }
}
