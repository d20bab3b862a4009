//! The bus against a simple model: sets of what was published, acknowledged, committed.

use super::*;
use alloc::collections::{BTreeMap, BTreeSet};
use alloc::format;
use alloc::vec;
use alloc::vec::Vec;
use proptest::prelude::*;

const TENANT: &str = "a";
const WALL: u64 = 1_800_000_000_000_000_000;

/// The log as its events' texts: what a restart folds anew.
#[derive(Default)]
struct Log {
    bus: Bus,
    events: Vec<(&'static str, String, String, [u8; 16], String)>,
}

impl Log {
    fn push(
        &mut self,
        event_type: &'static str,
        tenant: &str,
        topic: &str,
        ulid: [u8; 16],
        meta: &str,
    ) -> u64 {
        self.push_with(event_type, tenant, topic, ulid, meta, "")
    }

    /// With more members behind the first.
    fn push_with(
        &mut self,
        event_type: &'static str,
        tenant: &str,
        topic: &str,
        ulid: [u8; 16],
        meta: &str,
        more: &str,
    ) -> u64 {
        let payload = format!("{{\"bus\":{{{meta}}}{more}}}");
        self.events
            .push((event_type, tenant.into(), topic.into(), ulid, payload));
        let id = self.events.len() as u64;
        fold(&mut self.bus, id, &self.events[self.events.len() - 1]);
        id
    }

    fn publish(&mut self, topic: &str, qos: Qos, ulid: [u8; 16]) -> Result<u64, No> {
        let publish = Publish {
            tenant: TENANT,
            topic,
            qos,
            ulid,
            chosen: true,
        };
        match self.bus.publish(&publish, WALL)? {
            Published::There(id) => Ok(id),
            Published::New(seq) => {
                let meta = format!("\"qos\":\"{}\",\"seq\":{seq}", qos.as_str());
                let id = self.push("bus.published", TENANT, topic, ulid, &meta);
                let known = self.bus.resolve(TENANT, topic, &ulid);
                assert!(
                    seq == 0
                        || known
                            == Some(Target {
                                lane: lane_of(&ulid),
                                seq
                            })
                );
                Ok(id)
            }
        }
    }

    fn subscribe(&mut self, topic: &str, consumer: &str) {
        if self.bus.subscribe(TENANT, topic, consumer, WALL).unwrap() {
            let meta = format!("\"consumer\":\"{consumer}\",\"from\":1");
            self.push("bus.subscribed", TENANT, topic, [0; 16], &meta);
        }
    }

    fn ack(&mut self, topic: &str, consumer: &str, ulid: [u8; 16]) -> Result<bool, No> {
        let target = self.bus.resolve(TENANT, topic, &ulid);
        let target = target.ok_or_else(|| No::new("NOT_FOUND", "ulid", "", ""))?;
        match self.bus.ack(TENANT, topic, consumer, &[target])? {
            Acked::There => Ok(false),
            Acked::New(new) => {
                let meta = format!(
                    "\"consumer\":\"{consumer}\",\"messages\":\"{}\"",
                    Target::list_text(&new)
                );
                let more = format!(",\"ulids\":[\"{}\"]", ulid::text(&ulid));
                self.push_with("bus.acked", TENANT, topic, [0; 16], &meta, &more);
                Ok(true)
            }
        }
    }

    fn commit(&mut self, topic: &str, ulid: [u8; 16], quorum: usize) -> Result<u64, No> {
        match self.bus.commit(TENANT, topic, &ulid, None, quorum, WALL)? {
            Committed::There(event) => Ok(event),
            Committed::New { .. } => {
                let meta = format!("\"ulid\":\"{}\"", ulid::text(&ulid));
                Ok(self.push("bus.committed", TENANT, topic, [0; 16], &meta))
            }
        }
    }
}

fn fold(bus: &mut Bus, id: u64, event: &(&'static str, String, String, [u8; 16], String)) {
    let (event_type, tenant, topic, ulid, payload) = event;
    let body = Body {
        timestamp_ns: 0,
        wall_ns: WALL,
        ulid: *ulid,
        tenant_tag: [0; 8],
        ns: "bus",
        actor: "service:ledger",
        tenant_id: tenant,
        event_type,
        subject: topic,
        payload,
        causation_id: None,
        origin: None,
        sig: None,
    };
    bus.apply(id, &body);
}

fn ulid_of(n: u16) -> [u8; 16] {
    let mut random = [0; 10];
    random[..2].copy_from_slice(&n.to_be_bytes());
    ulid::compose(WALL, random)
}

proptest! {
    #[test]
    fn whatever_is_repeated_each_message_is_there_once_acknowledged_once_and_committed_once(
        steps in proptest::collection::vec((0..6u8, 0..40u16, 0..3u8), 1..400),
    ) {
        let mut log = Log::default();
        let (mut published, mut acked, mut commits) = (BTreeMap::new(), BTreeSet::new(), BTreeMap::new());
        for consumer in ["0", "1", "2"] {
            log.subscribe("t", consumer);
        }
        for (what, n, who) in steps {
            let (ulid, consumer) = (ulid_of(n), format!("{who}"));
            match what {
                0 | 1 => {
                    let id = log.publish("t", Qos::ExactlyOnce, ulid).unwrap();
                    prop_assert_eq!(*published.entry(n).or_insert(id), id);
                }
                2 | 3 => {
                    let new = log.ack("t", &consumer, ulid);
                    match published.contains_key(&n) {
                        true => prop_assert_eq!(new, Ok(acked.insert((n, who)))),
                        false => prop_assert_eq!(new.unwrap_err().code, "NOT_FOUND"),
                    }
                }
                _ => {
                    let acks = acked.iter().filter(|(m, _)| *m == n).count();
                    match log.commit("t", ulid, 2) {
                        Ok(event) => {
                            prop_assert!(acks >= 2);
                            prop_assert_eq!(*commits.entry(n).or_insert(event), event);
                        }
                        Err(no) if published.contains_key(&n) => {
                            prop_assert_eq!(no.code, "NOT_QUORATE");
                            prop_assert!(acks < 2);
                        }
                        Err(no) => prop_assert_eq!(no.code, "NOT_FOUND"),
                    }
                }
            }
        }
        for lag in log.bus.lags() {
            let own = acked.iter().filter(|(_, who)| format!("{who}") == lag.consumer).count();
            prop_assert_eq!(lag.messages, (published.len() - own) as u64);
        }
        // A restart folds the same; so does a log that kept a summary alone.
        let mut again = Bus::default();
        for (id, event) in (1..).zip(&log.events) {
            fold(&mut again, id, event);
        }
        prop_assert_eq!(&again, &log.bus);
        let summary = postcard::to_allocvec(&log.bus).unwrap();
        prop_assert_eq!(&postcard::from_bytes::<Bus>(&summary).unwrap(), &log.bus);
    }

    #[test]
    fn no_event_panics(
        kind in 0..7usize,
        meta in "[a-z0-9:;~.\"{},-]{0,80}",
        key in 0..12usize,
    ) {
        let kinds = ["bus.published", "bus.subscribed", "bus.unsubscribed", "bus.acked", "bus.committed", "bus.sharded",  "bus.other"];
        let keys = ["qos", "seq", "consumer", "messages", "lanes", "counts", "open", "done", "shards", "version", "ulid", "forgotten"];
        let mut log = Log::default();
        log.subscribe("t", "c");
        let _ = log.publish("t", Qos::ExactlyOnce, ulid_of(1));
        log.push(kinds[kind], TENANT, "t", ulid_of(2), &meta);
        log.push(kinds[kind], TENANT, "t", ulid_of(3), &format!("\"{}\":\"{meta}\"", keys[key]));
        let _ = log.bus.lags().count();
    }
}

#[test]
fn tenants_share_nothing() {
    let mut log = Log::default();
    log.publish("t", Qos::ExactlyOnce, ulid_of(1)).unwrap();
    assert!(log.bus.topic("b", "t").is_none());
    assert!(log.bus.resolve("b", "t", &ulid_of(1)).is_none());
    let publish = Publish {
        tenant: "b",
        topic: "t",
        qos: Qos::ExactlyOnce,
        ulid: ulid_of(1),
        chosen: true,
    };
    assert_eq!(log.bus.publish(&publish, WALL), Ok(Published::New(1)));
    assert_eq!(
        log.bus
            .commit("b", "t", &ulid_of(1), None, 1, WALL)
            .unwrap_err()
            .code,
        "NOT_FOUND"
    );
}

#[test]
fn what_is_forgotten_is_not_taken_for_new_and_who_has_most_forgets() {
    let mut log = Log::default();
    let meta = "\"qos\":\"at_least_once\",\"seq\":1";
    log.push("bus.published", "small", "t", ulid_of(7), meta);
    for n in 0..=REMEMBERED_MAX as u64 {
        let mut ulid = ulid_of(0);
        ulid[8..].copy_from_slice(&n.to_be_bytes());
        let event = (
            "bus.published",
            "big".into(),
            "t".into(),
            ulid,
            format!("{{\"bus\":{{{meta}}}}}"),
        );
        fold(&mut log.bus, n + 2, &event);
    }
    assert_eq!(log.bus.remembered, REMEMBERED_MAX);
    assert!(log.bus.resolve("small", "t", &ulid_of(7)).is_some());
    assert!(log.bus.resolve("big", "t", &ulid_of(0)).is_none());
    let publish = Publish {
        tenant: "big",
        topic: "t",
        qos: Qos::ExactlyOnce,
        ulid: ulid_of(0),
        chosen: true,
    };
    assert_eq!(
        log.bus.publish(&publish, WALL).unwrap_err().code,
        "DUPLICATE"
    );
    let far = Publish {
        ulid: ulid::compose(WALL + 1_000_000_000_000, [0; 10]),
        ..publish
    };
    assert_eq!(log.bus.publish(&far, WALL).unwrap_err().code, "BAD_REQUEST");
}

#[test]
fn open_messages_are_bounded_and_expired_ones_leave_room() {
    let mut log = Log::default();
    let publish = |log: &mut Log, n: u16, expires: u64| {
        let mut ulid = ulid_of(n);
        ulid[15] = 1;
        let publish = Publish {
            tenant: TENANT,
            topic: "t",
            qos: Qos::ExactlyOnce,
            ulid,
            chosen: true,
        };
        let seq = match log.bus.publish(&publish, WALL)? {
            Published::New(seq) => seq,
            Published::There(_) => return Ok(()),
        };
        let payload = format!(
            "{{\"bus\":{{\"expires_ms\":{expires},\"qos\":\"exactly_once\",\"seq\":{seq}}}}}"
        );
        fold(
            &mut log.bus,
            u64::from(n) + 1,
            &("bus.published", TENANT.into(), "t".into(), ulid, payload),
        );
        Ok::<_, No>(())
    };
    for n in 0..OPEN.each as u16 {
        publish(&mut log, n, 0).unwrap();
    }
    assert_eq!(
        publish(&mut log, OPEN.each as u16, 0).unwrap_err().code,
        "QUOTA"
    );
    // What expires later leaves room then, though nothing was published in between.
    let mut log = Log::default();
    for n in 0..OPEN.each as u16 {
        publish(&mut log, n, WALL / 1_000_000 + 1).unwrap();
    }
    let next = Publish {
        tenant: TENANT,
        topic: "t",
        qos: Qos::ExactlyOnce,
        ulid: ulid::compose(WALL, [0xff; 10]),
        chosen: false,
    };
    assert_eq!(log.bus.publish(&next, WALL).unwrap_err().code, "QUOTA");
    assert!(log.bus.publish(&next, WALL + 1_000_000).is_ok());
    let mut log = Log::default();
    for n in 0..=u16::MAX {
        publish(&mut log, n, 1).unwrap();
    }
    assert!(log.bus.tenants[TENANT].open < OPEN.each);
}

#[test]
fn topics_and_consumers_are_bounded_by_tenant() {
    let mut log = Log::default();
    for n in 0..TOPICS.each {
        log.publish(&format!("t{n}"), Qos::AtLeastOnce, ulid_of(1))
            .unwrap();
    }
    assert_eq!(
        log.publish("more", Qos::AtLeastOnce, ulid_of(1))
            .unwrap_err()
            .code,
        "QUOTA"
    );
    for n in 0..CONSUMERS.each {
        log.subscribe("t1", &format!("c{n}"));
    }
    assert_eq!(
        log.bus.subscribe(TENANT, "t2", "c", WALL).unwrap_err().code,
        "QUOTA"
    );
    log.push(
        "bus.unsubscribed",
        TENANT,
        "t1",
        [0; 16],
        "\"consumer\":\"c3\"",
    );
    assert_eq!(log.bus.subscribe(TENANT, "t2", "c", WALL), Ok(true));
    assert_eq!(log.bus.subscribe("b", "t2", "c", WALL), Ok(true));
}

#[test]
fn another_number_of_shards_keeps_what_was_acknowledged() {
    let mut log = Log::default();
    log.subscribe("t", "c");
    for n in 0..100 {
        log.publish("t", Qos::AtLeastOnce, ulid_of(n)).unwrap();
        log.ack("t", "c", ulid_of(n)).unwrap();
    }
    let map = log.bus.shard(TENANT, "t", 16, WALL).unwrap().unwrap();
    log.push(
        "bus.sharded",
        TENANT,
        "t",
        [0; 16],
        &format!("\"shards\":{},\"version\":{}", map.shards, map.version),
    );
    assert_eq!(
        log.bus.topic(TENANT, "t").unwrap().map(),
        ShardMap {
            version: 2,
            shards: 16
        }
    );
    assert_eq!(log.bus.lags().next().unwrap().messages, 0);
    assert_eq!(log.bus.shard(TENANT, "t", 16, WALL), Ok(None));
    for bad in [0, 3, 512] {
        assert_eq!(
            log.bus.shard(TENANT, "t", bad, WALL).unwrap_err().code,
            "BAD_REQUEST"
        );
    }
}

#[test]
fn consumers_without_a_name_count_for_a_quorum() {
    let mut log = Log::default();
    log.publish("t", Qos::ExactlyOnce, ulid_of(1)).unwrap();
    let text = ulid::text(&ulid_of(1));
    for actor in ["user:a", "user:a", "agent:b"] {
        let new = log.bus.vote(TENANT, "t", actor, &ulid_of(1), WALL).unwrap();
        if new {
            log.push(
                "bus.acked",
                TENANT,
                "t",
                [0; 16],
                &format!("\"consumer\":\"{actor}\",\"ulid\":\"{text}\""),
            );
        }
    }
    assert_eq!(
        log.bus
            .commit(TENANT, "t", &ulid_of(1), None, 3, WALL)
            .unwrap_err()
            .code,
        "NOT_QUORATE"
    );
    let one = ["user:a".into()];
    assert_eq!(
        log.bus
            .commit(TENANT, "t", &ulid_of(1), Some(&one), 2, WALL)
            .unwrap_err()
            .code,
        "NOT_QUORATE"
    );
    assert!(log.commit("t", ulid_of(1), 2).is_ok());
    assert_eq!(
        log.bus.vote(TENANT, "t", "user:c", &ulid_of(1), WALL),
        Ok(false)
    );
}

/// An event of some tenant at some time.
fn at(
    bus: &mut Bus,
    id: u64,
    tenant: &str,
    topic: &str,
    wall_ns: u64,
    event: (&str, [u8; 16], &str),
) {
    let (event_type, ulid, meta) = event;
    let payload = format!("{{\"bus\":{{{meta}}}}}");
    let body = Body {
        timestamp_ns: 0,
        wall_ns,
        ulid,
        tenant_tag: [0; 8],
        ns: "bus",
        actor: "service:ledger",
        tenant_id: tenant,
        event_type,
        subject: topic,
        payload: &payload,
        causation_id: None,
        origin: None,
        sig: None,
    };
    bus.apply(id, &body);
}

const DAY_NS: u64 = TOPIC_KEPT_MS * 1_000_000;
const ONCE: &str = "\"qos\":\"exactly_once\"";
const LEAST: &str = "\"qos\":\"at_least_once\"";

#[test]
fn whatever_tenants_use_up_another_has_its_own_share_of_everything() {
    let mut bus = Bus::default();
    let mut id = 0;
    for tenant in ["b", "c", "d", "e", "f", "g"] {
        for n in 0..TOPICS.each as u64 {
            let (topic, ulid) = (format!("t{n}"), ulid::compose(WALL + n, [1; 10]));
            let publish = Publish {
                tenant,
                topic: &topic,
                qos: Qos::ExactlyOnce,
                ulid,
                chosen: true,
            };
            if bus.publish(&publish, WALL).is_ok() {
                id += 1;
                at(
                    &mut bus,
                    id,
                    tenant,
                    &topic,
                    WALL,
                    ("bus.published", ulid, ONCE),
                );
            }
            if n < CONSUMERS.each as u64 && bus.subscribe(tenant, "t1", &topic, WALL) == Ok(true) {
                id += 1;
                let meta = format!("\"consumer\":\"{topic}\"");
                at(
                    &mut bus,
                    id,
                    tenant,
                    "t1",
                    WALL,
                    ("bus.subscribed", [0; 16], &meta),
                );
            }
        }
    }
    let all: usize = bus.tenants.values().map(|t| t.topics.len()).sum();
    assert_eq!(all, TOPICS.pool + 6 * TOPICS.own, "the pool is used up");
    let no = bus.publish(
        &Publish {
            tenant: "g",
            topic: "more",
            qos: Qos::AtLeastOnce,
            ulid: [9; 16],
            chosen: false,
        },
        WALL,
    );
    let no = no.unwrap_err();
    assert_eq!(
        (no.code, &*no.limit),
        ("QUOTA", "no room beyond what is each tenant's own")
    );
    for n in 0..TOPICS.own as u64 {
        let (topic, ulid) = (format!("t{n}"), ulid::compose(WALL + n, [1; 10]));
        let publish = Publish {
            tenant: "a",
            topic: &topic,
            qos: Qos::ExactlyOnce,
            ulid,
            chosen: true,
        };
        assert_eq!(bus.publish(&publish, WALL), Ok(Published::New(1)));
        id += 1;
        at(
            &mut bus,
            id,
            "a",
            &topic,
            WALL,
            ("bus.published", ulid, ONCE),
        );
    }
    assert_eq!(bus.subscribe("a", "t1", "w", WALL), Ok(true));
}

#[test]
fn a_topic_that_nobody_misses_goes_after_a_day_and_nothing_of_it_is_taken_for_new() {
    let mut bus = Bus::default();
    let ulid = |n: u8| ulid::compose(WALL, [n; 10]);
    at(
        &mut bus,
        1,
        TENANT,
        "old",
        WALL,
        ("bus.published", ulid(1), LEAST),
    );
    at(
        &mut bus,
        2,
        TENANT,
        "old",
        WALL,
        ("bus.published", ulid(9), LEAST),
    );
    at(
        &mut bus,
        3,
        TENANT,
        "open",
        WALL,
        ("bus.published", ulid(2), ONCE),
    );
    at(
        &mut bus,
        4,
        TENANT,
        "held",
        WALL,
        ("bus.published", ulid(3), LEAST),
    );
    at(
        &mut bus,
        5,
        TENANT,
        "held",
        WALL,
        ("bus.subscribed", [0; 16], "\"consumer\":\"c\""),
    );
    at(
        &mut bus,
        6,
        TENANT,
        "once",
        WALL,
        ("bus.published", ulid(4), "\"qos\":\"at_most_once\""),
    );
    assert!(bus.topic(TENANT, "once").is_none(), "nothing to remember");
    // One that nobody ever published to goes with its last consumer.
    at(
        &mut bus,
        7,
        TENANT,
        "empty",
        WALL,
        ("bus.subscribed", [0; 16], "\"consumer\":\"c\""),
    );
    at(
        &mut bus,
        8,
        TENANT,
        "empty",
        WALL,
        ("bus.unsubscribed", [0; 16], "\"consumer\":\"c\""),
    );
    assert!(bus.topic(TENANT, "empty").is_none());
    at(
        &mut bus,
        9,
        "b",
        "new",
        WALL + DAY_NS - 1_000_000,
        ("bus.published", ulid(5), LEAST),
    );
    assert!(bus.topic(TENANT, "old").is_some(), "not before its time");
    at(
        &mut bus,
        10,
        "b",
        "next",
        WALL + DAY_NS,
        ("bus.published", ulid(6), LEAST),
    );
    assert!(bus.topic(TENANT, "old").is_none());
    assert!(bus.topic(TENANT, "open").is_some() && bus.topic(TENANT, "held").is_some());
    assert_eq!(bus.remembered, 4);
    let shown: Vec<_> = bus.topics(WALL + DAY_NS).map(|(_, name, _)| name).collect();
    assert_eq!(shown, ["held", "open", "new", "next"]);
    // What was published there is not known to be new, and one of another name is as little.
    let publish = |topic, ulid, qos| Publish {
        tenant: TENANT,
        topic,
        qos,
        ulid,
        chosen: true,
    };
    let wall = WALL + DAY_NS;
    for topic in ["old", "other"] {
        let no = bus.publish(&publish(topic, ulid(9), Qos::ExactlyOnce), wall);
        assert_eq!(no.unwrap_err().code, "DUPLICATE");
    }
    let later = ulid::compose(wall, [1; 10]);
    // It begins again behind what was; who comes now owes nothing of before.
    let (lane, again) = (lane_of(&ulid(1)), publish("old", later, Qos::ExactlyOnce));
    let Ok(Published::New(seq)) = bus.publish(&again, wall) else {
        panic!("it may be published");
    };
    assert!(seq > 1);
    at(
        &mut bus,
        11,
        TENANT,
        "old",
        wall,
        ("bus.published", later, ONCE),
    );
    at(
        &mut bus,
        12,
        TENANT,
        "old",
        wall,
        (
            "bus.subscribed",
            [0; 16],
            &format!("\"consumer\":\"c\",\"from\":1,\"lanes\":\"{lane}:0\""),
        ),
    );
    let topic = bus.topic(TENANT, "old").unwrap();
    let consumer = topic.consumer("c").unwrap();
    assert!(consumer.has(lane, 1) && !consumer.has(lane_of(&later), seq));
    assert_eq!((topic.lag(consumer), topic.messages()), (1, 1));
    let target = bus.resolve(TENANT, "old", &later).unwrap();
    assert_eq!(
        bus.ack(TENANT, "old", "c", &[target]),
        Ok(Acked::New(vec![target]))
    );
    at(
        &mut bus,
        13,
        TENANT,
        "old",
        wall,
        (
            "bus.acked",
            [0; 16],
            &format!(
                "\"consumer\":\"c\",\"messages\":\"{}\"",
                Target::list_text(&[target])
            ),
        ),
    );
    let topic = bus.topic(TENANT, "old").unwrap();
    assert_eq!(topic.lag(topic.consumer("c").unwrap()), 0);
    // Also where others of the tenant are gone.
    for (id, kind) in [(14, "bus.subscribed"), (15, "bus.unsubscribed")] {
        let event = (kind, [0; 16], "\"consumer\":\"d\"");
        at(&mut bus, id, TENANT, "empty", wall, event);
    }
    assert!(bus.topic(TENANT, "empty").is_none());
    // What expired without a commit holds nothing up.
    let mut bus = Bus::default();
    at(
        &mut bus,
        1,
        TENANT,
        "ttl",
        WALL,
        (
            "bus.published",
            ulid(1),
            &format!("\"expires_ms\":{},{ONCE}", WALL / 1_000_000),
        ),
    );
    at(
        &mut bus,
        2,
        TENANT,
        "next",
        wall,
        ("bus.published", ulid(2), LEAST),
    );
    assert!(bus.topic(TENANT, "ttl").is_none());
    assert_eq!((bus.tenants[TENANT].open, bus.remembered), (0, 1));
}

#[test]
fn what_was_dropped_before_it_was_read_is_owed_no_more() {
    let mut log = Log::default();
    log.subscribe("t", "c");
    for n in 0..200 {
        log.publish("t", Qos::AtLeastOnce, ulid_of(n)).unwrap();
    }
    let topic = log.bus.topic(TENANT, "t").unwrap();
    let lanes = counts_text(topic.counts());
    log.push(
        "bus.acked",
        TENANT,
        "t",
        [0; 16],
        &format!("\"consumer\":\"c\",\"lanes\":\"{lanes}\""),
    );
    let topic = log.bus.topic(TENANT, "t").unwrap();
    assert_eq!(topic.lag(topic.consumer("c").unwrap()), 0);
}

#[test]
fn as_many_without_a_name_count_as_a_commit_may_ask_for_and_the_next_is_told() {
    let mut log = Log::default();
    log.publish("t", Qos::ExactlyOnce, ulid_of(1)).unwrap();
    let text = ulid::text(&ulid_of(1));
    for n in 0..VOTERS_MAX {
        let actor = format!("user:{n}");
        assert_eq!(
            log.bus.vote(TENANT, "t", &actor, &ulid_of(1), WALL),
            Ok(true)
        );
        log.push(
            "bus.acked",
            TENANT,
            "t",
            [0; 16],
            &format!("\"consumer\":\"{actor}\",\"ulid\":\"{text}\""),
        );
    }
    let no = log
        .bus
        .vote(TENANT, "t", "user:one-more", &ulid_of(1), WALL);
    assert_eq!(no.unwrap_err().code, "QUOTA");
    assert_eq!(
        log.bus.vote(TENANT, "t", "user:0", &ulid_of(1), WALL),
        Ok(false)
    );
    assert!(log.commit("t", ulid_of(1), VOTERS_MAX).is_ok());
    assert_eq!(log.bus.tenants[TENANT].votes, 0);
}

#[test]
fn a_quorum_is_of_those_who_were_to_get_the_message_and_acknowledged_it_themselves() {
    let mut log = Log::default();
    let (message, text) = (ulid_of(1), ulid::text(&ulid_of(1)));
    for consumer in ["real", "expired", "dropped"] {
        log.subscribe("t", consumer);
    }
    log.publish("t", Qos::ExactlyOnce, message).unwrap();
    let target = log.bus.resolve(TENANT, "t", &message).unwrap();
    let (lane, seq) = (target.lane, target.seq);
    // One that begins behind it, and what the ledger acknowledges for others.
    let behind = format!("\"consumer\":\"behind\",\"from\":9,\"lanes\":\"{lane}:{seq}\"");
    log.push("bus.subscribed", TENANT, "t", [0; 16], &behind);
    for (name, what) in [("expired", "messages"), ("dropped", "lanes")] {
        let meta = format!(
            "\"consumer\":\"{name}\",\"{what}\":\"{lane}:{seq}\",\"resume\":2,\"why\":\"{name}\""
        );
        log.push("bus.acked", TENANT, "t", [0; 16], &meta);
    }
    for name in ["behind", "expired", "dropped"] {
        // Nothing is owed, so a word of theirs now is none that the log keeps.
        let now = log.bus.ack(TENANT, "t", name, &[target]);
        assert_eq!(now, Ok(Acked::There), "{name}");
    }
    let commit = |log: &Log, of: &[&str], quorum| {
        let of: Vec<String> = of.iter().map(|name| (*name).into()).collect();
        let of = (!of.is_empty()).then_some(&*of);
        let outcome = log.bus.commit(TENANT, "t", &message, of, quorum, WALL);
        outcome.map_err(|no| no.code)
    };
    assert_eq!(commit(&log, &[], 1), Err("NOT_QUORATE"));
    assert_eq!(log.ack("t", "real", message), Ok(true));
    assert_eq!(commit(&log, &[], 2), Err("NOT_QUORATE"));
    assert_eq!(commit(&log, &["behind"], 1), Err("NOT_QUORATE"));
    assert_eq!(
        commit(&log, &["real"], 1),
        Ok(Committed::New { id: 4, acks: 1 })
    );
    // Its place is another's now.
    log.push(
        "bus.unsubscribed",
        TENANT,
        "t",
        [0; 16],
        "\"consumer\":\"real\"",
    );
    log.subscribe("t", "next");
    assert_eq!(commit(&log, &[], 1), Err("NOT_QUORATE"));
    assert_eq!(log.ack("t", "next", message), Ok(true));
    assert_eq!(commit(&log, &[], 1), Ok(Committed::New { id: 4, acks: 1 }));
    // An acknowledgement of several counts for those that it is new for.
    assert_eq!(
        ulids_of(&format!(
            "{{\"bus\":{{}},\"ulids\":[\"{text}\",\"x\",\"{text}\"]}}"
        ))
        .count(),
        2
    );
    assert_eq!(ulids_of("{\"bus\":{}}").count(), 0);
}

#[test]
fn a_clock_that_was_ahead_leaves_new_topics_usable_and_nothing_is_published_twice() {
    const YEAR: u64 = 365 * DAY_NS;
    let mut bus = Bus::default();
    let mut id = 0;
    let published = core::cell::RefCell::new(Vec::new());
    let mut publish = |bus: &mut Bus, topic: &str, wall: u64, n: u8, chosen: bool| {
        let ulid = ulid::compose(wall, [n; 10]);
        let asked = Publish {
            tenant: TENANT,
            topic,
            qos: Qos::ExactlyOnce,
            ulid,
            chosen,
        };
        let outcome = bus.publish(&asked, wall).map_err(|no| no.code)?;
        id += 1;
        let meta = format!("\"expires_ms\":1,{ONCE}");
        at(bus, id, TENANT, topic, wall, ("bus.published", ulid, &meta));
        published.borrow_mut().push((topic.to_owned(), ulid));
        Ok::<_, &str>(outcome)
    };
    // Before, a year ahead for some days in which topics come and go, and set back.
    assert!(publish(&mut bus, "before", WALL, 1, true).is_ok());
    for day in 0..4 {
        let wall = WALL + YEAR + day * (DAY_NS + 1);
        let topic = format!("ahead{day}");
        assert!(publish(&mut bus, &topic, wall, 1, true).is_ok());
        assert!(publish(&mut bus, "both", wall, 2, true).is_ok());
    }
    let back = WALL + 3_600_000_000_000;
    assert!(publish(&mut bus, "both", back, 3, true).is_ok());
    for n in 0..TOPICS.each as u64 - 5 {
        let topic = format!("new{n}");
        assert!(
            publish(&mut bus, &topic, back, 4, n % 2 == 0).is_ok(),
            "{topic}"
        );
    }
    let ahead = ulid::compose(WALL + YEAR + 3 * (DAY_NS + 1), [2; 10]);
    let repeat = |ulid| {
        let asked = Publish {
            tenant: TENANT,
            topic: "both",
            qos: Qos::ExactlyOnce,
            ulid,
            chosen: true,
        };
        bus.publish(&asked, back).map_err(|no| no.code)
    };
    assert!(matches!(repeat(ahead), Ok(Published::There(_))));
    let never = ulid::compose(WALL + YEAR, [3; 10]);
    assert_eq!(repeat(never), Err("BAD_REQUEST"));
    // A day on all that was there may go, however far its last use seems ahead.
    let later = back + DAY_NS + 1_000_000;
    assert_eq!(bus.topics(later).count(), 0);
    assert!(publish(&mut bus, "later", later, 5, true).is_ok());
    let again = |bus: &Bus, topic: &str, ulid, wall| {
        let asked = Publish {
            tenant: TENANT,
            topic,
            qos: Qos::ExactlyOnce,
            ulid,
            chosen: true,
        };
        bus.publish(&asked, wall).map_err(|no| no.code)
    };
    for (topic, ulid) in published.borrow().iter() {
        let now = ulid::milliseconds(ulid) * 1_000_000;
        match again(&bus, topic, *ulid, now.max(later)) {
            Ok(Published::There(_)) | Err("DUPLICATE") => {}
            other => panic!("{topic}: {other:?}"),
        }
    }
    // When that time comes, nobody knows what was published then; who lets the ledger choose is served.
    let then = WALL + YEAR + DAY_NS;
    assert_eq!(
        again(&bus, "then", ulid::compose(then, [9; 10]), then),
        Err("DUPLICATE")
    );
    assert!(publish(&mut bus, "then", then, 9, false).is_ok());
}

proptest! {
    /// A lane and a number name one message of a topic's name for good, whatever goes in between.
    #[test]
    fn no_number_of_a_lane_comes_twice_over_all_days_of_a_topic(
        steps in proptest::collection::vec((0..3u8, 0..6u8, 0..30u64), 1..120),
    ) {
        let (mut bus, mut wall, mut numbers) = (Bus::default(), WALL, BTreeSet::new());
        for (id, (topic, kind, hours)) in (1..).zip(steps) {
            wall += hours * 3_600_000_000_000;
            let topic = format!("t{topic}");
            let ulid = ulid::compose(wall, [id as u8; 10]);
            match kind {
                0 => at(&mut bus, id, TENANT, &topic, wall, ("bus.subscribed", [0; 16], "\"consumer\":\"c\"")),
                1 => at(&mut bus, id, TENANT, &topic, wall, ("bus.unsubscribed", [0; 16], "\"consumer\":\"c\"")),
                _ => {
                    let asked = Publish { tenant: TENANT, topic: &topic, qos: Qos::AtLeastOnce, ulid, chosen: true };
                    let Ok(Published::New(seq)) = bus.publish(&asked, wall) else { panic!("{id}") };
                    at(&mut bus, id, TENANT, &topic, wall, ("bus.published", ulid, LEAST));
                    let target = bus.resolve(TENANT, &topic, &ulid);
                    prop_assert_eq!(target, Some(Target { lane: lane_of(&ulid), seq }));
                    prop_assert!(numbers.insert((topic, lane_of(&ulid), seq)), "{} again", seq);
                }
            }
        }
    }
}
