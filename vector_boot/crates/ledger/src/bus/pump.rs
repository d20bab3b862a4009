//! A subscription's thread: finds a consumer's messages in the log and sends them.

use super::group::{Found, Item, Membership, Owed};
use super::{Group, Name};
use crate::clock;
use crate::committer::Draft;
use crate::committer::Ledger;
use crate::json::Json;
use crate::jsonl::Stream;
use crate::planes::{Decision, Planes};
use crate::query::{self, Filter, Order, Query};
use crate::reader::{Reader, compacted};
use crate::refusal::Refusal;
use ledger_core::bus::{Acked, Qos, ShardMap, Target, counts_text, lane_of, shard_of};
use ledger_core::{Body, Hash, time, ulid};
use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

/// How often a waiting subscription looks whether its peer is still there, and for leases that ended.
const WATCH_PERIOD: Duration = Duration::from_millis(500);
/// How often it looks whether another connection of the consumer has found something.
const SCAN_PERIOD: Duration = Duration::from_millis(2);
/// Messages looked at in one turn.
const AT_ONCE: u64 = 256;

/// One connection's subscription.
pub struct Subscription {
    /// Its place in the group.
    pub membership: Membership,
    /// The map by which it names shards.
    pub map: ShardMap,
}

/// Sends messages until the peer goes or the service ends.
pub fn run(stream: &Stream, subscription: &Subscription) {
    let (ledger, membership) = (&stream.ledger, &subscription.membership);
    let group = membership.group();
    let mut reader = ledger.reader();
    // Up to where what a compaction dropped is known to be owed no more.
    let mut settled = 1;
    loop {
        let standing = ledger.standing();
        if group.has_ended() {
            let limit = "it was taken off the topic";
            stream.refuse(&Refusal::new("NOT_FOUND", "consumer", "", limit));
            return;
        }
        if stream.is_gone() {
            // What is settled now would be told to nobody.
            return;
        }
        if standing.first_id > settled {
            settled = standing.first_id;
            match settle(ledger, group, settled) {
                Ok(0) => {}
                Ok(messages) => {
                    if !stream.line(&dropped_members(messages, settled)) {
                        return;
                    }
                }
                Err(refusal) => return stream.refuse(&refusal),
            }
        }
        let now = Instant::now();
        let expired = group.tick(now, clock::wall_ns() / 1_000_000);
        if !expired.is_empty() {
            expire(ledger, group, &expired, "expired");
        }
        reader.refresh();
        let mut more = match scan(ledger, group, &mut reader, (settled, standing.id)) {
            Ok(more) => more,
            // What a compaction dropped meanwhile is settled first.
            Err(e) if e.kind() == io::ErrorKind::NotFound && is_overtaken(ledger, settled) => {
                let _ = ledger.wait_past(standing.id, SCAN_PERIOD);
                continue;
            }
            Err(e) => {
                stream.refuse(&Refusal::from(&e));
                return;
            }
        };
        let mut fresh_through = standing.id;
        while let Some(item) = membership.take(Instant::now()) {
            more = true;
            if item.id > fresh_through {
                // Another connection found it, behind what this reader has seen of the log.
                fresh_through = ledger.standing().id;
                reader.refresh();
            }
            let members = reader.event(item.id, |id, _, body| {
                message_members(id, body, &item, subscription.map, &group.address().topic)
            });
            let taken = match members {
                Ok(members) => stream.is_allowed() && stream.line(&members),
                // A compaction dropped it meanwhile: nobody can have it any more.
                Err(e)
                    if e.kind() == io::ErrorKind::NotFound
                        && matches!(group.address().consumer, Name::Named(_)) =>
                {
                    expire(ledger, group, &[item], "dropped");
                    // Of what lay before, the consumer was told.
                    let first_id = ledger.standing().first_id;
                    item.id < settled || stream.line(&dropped_members(1, first_id))
                }
                Err(e) => {
                    stream.refuse(&Refusal::from(&e));
                    false
                }
            };
            if !taken {
                return;
            }
        }
        if standing.closing || stream.is_gone() || !stream.is_allowed() {
            return;
        }
        // Sending made room; and a scan does not look at everything at once.
        if !more {
            let end = group
                .next_end()
                .map(|end| end.saturating_duration_since(now));
            let most = if group.is_scanning() {
                SCAN_PERIOD
            } else {
                WATCH_PERIOD
            };
            let wait = end.unwrap_or(most).min(most);
            let _ = ledger.wait_past(standing.id, wait.max(Duration::from_millis(1)));
        }
    }
}

/// Whether the log begins behind what was settled.
fn is_overtaken(ledger: &Ledger, settled: u64) -> bool {
    let index = ledger.index().lock();
    index.unwrap_or_else(PoisonError::into_inner).first() > settled
}

/// Looks for messages up to `head`, none before `first`; whether there is more to look at.
fn scan(
    ledger: &Ledger,
    group: &Group,
    reader: &mut Reader,
    (first, head): (u64, u64),
) -> io::Result<bool> {
    let Some((from, room)) = group.begin_scan(head) else {
        return Ok(false);
    };
    let limit = AT_ONCE.min(room as u64).max(1);
    let from = from.max(first);
    let found = find(ledger, group, reader, from, head, limit).and_then(|(items, through)| {
        let owed = owed(ledger, group, &items).map_err(io::Error::other)?;
        let items = items.into_iter().zip(owed).collect();
        Ok(Found { items, through })
    });
    match found {
        Ok(found) => {
            let more = found.through < head;
            group.found(Some(found));
            Ok(more)
        }
        Err(e) => {
            group.found(None);
            Err(e)
        }
    }
}

/// Messages of the group's topic among the events `from..=head`, at most `limit`, and how far it looked.
fn find(
    ledger: &Ledger,
    group: &Group,
    reader: &mut Reader,
    from: u64,
    head: u64,
    limit: u64,
) -> io::Result<(Vec<Item>, u64)> {
    let address = group.address();
    let mut items = Vec::new();
    let query = messages(&address.tenant, &address.topic, from, limit);
    let mut emit = |id, _: &Hash, body: &Body<'_>| {
        items.extend(item_of(id, body));
        true
    };
    let ended = query::each(&query, reader, ledger.index(), head, &mut emit, &mut || {})?;
    Ok((items, ended.next.map_or(head, |next| next - 1)))
}

/// A topic's messages from an event on, at most `limit`.
fn messages(tenant: &str, topic: &str, from: u64, limit: u64) -> Query {
    Query {
        filter: Filter {
            event_type: Some("bus.published".to_owned()),
            tenant_id: Some(tenant.to_owned()),
            subject: Some(topic.to_owned()),
            ..Filter::default()
        },
        from: Some(from),
        limit,
        order: Order::Ascending,
    }
}

fn item_of(id: u64, body: &Body<'_>) -> Option<Item> {
    let meta = ledger_core::Meta::of(body.payload, "bus")?;
    let qos = Qos::parse(meta.text("qos")?)?;
    Some(Item {
        id,
        ulid: body.ulid,
        target: Target {
            lane: lane_of(&body.ulid),
            // What is not to be acknowledged has no number: its id tells it apart.
            seq: meta
                .number("seq")
                .filter(|s| *s > 0)
                .unwrap_or(u64::MAX - id),
        },
        qos,
        expires_ms: meta.number("expires_ms").unwrap_or(0),
        attempts: 0,
    })
}

/// Which of these the consumer still has to be given.
fn owed(ledger: &Ledger, group: &Group, items: &[Item]) -> Result<Vec<Owed>, String> {
    let address = group.address();
    let Name::Named(name) = &address.consumer else {
        return Ok(vec![Owed::Yes; items.len()]);
    };
    let look = |planes: &Planes| {
        let topic = planes.bus.topic(&address.tenant, &address.topic);
        let consumer = topic.and_then(|t| t.consumer(name));
        let of = |item: &Item| match consumer {
            // It was taken off the topic.
            None => Owed::No,
            Some(_) if item.qos == Qos::AtMostOnce => Owed::Yes,
            Some(c) if c.has(item.target.lane, item.target.seq) => Owed::No,
            Some(c) if c.reaches(item.target.lane, item.target.seq) => Owed::Yes,
            Some(_) => Owed::Later,
        };
        items.iter().map(of).collect()
    };
    ledger.planes(look).map_err(|refusal| refusal.reason())
}

/// What a message's line says.
fn message_members(id: u64, body: &Body<'_>, item: &Item, map: ShardMap, topic: &str) -> String {
    let content = Json::stored(body.payload).ok();
    let member = |key| content.as_ref().and_then(|c| c.get(key)).cloned();
    let headers = member("headers").unwrap_or_else(|| Json::object([]));
    let payload = member("payload").unwrap_or(Json::Null);
    let expires = match item.expires_ms {
        0 => String::new(),
        at => format!(
            ",\"expires\":\"{}\"",
            time::rfc3339(at.saturating_mul(1_000_000))
        ),
    };
    format!(
        "\"message\":{{\"topic\":\"{topic}\",\"ulid\":\"{}\",\"event_id\":{id},\"actor\":\"{}\",\"shard\":{},\"shard_map\":{},\"qos\":\"{}\",\"attempt\":{},\"published\":\"{}\"{expires},\"headers\":{headers},\"payload\":{payload}}}",
        ulid::text(&body.ulid),
        body.actor,
        shard_of(item.target.lane, map.shards),
        map.version,
        item.qos.as_str(),
        item.attempts,
        time::rfc3339(body.wall_ns),
    )
}

/// What a subscription is told that will not be given so many messages any more.
fn dropped_members(messages: u64, first_id: u64) -> String {
    format!("\"dropped\":{{\"first_event_id\":{first_id},\"messages\":{messages}}}")
}

/// Acknowledges for the consumer all that lay before the first event that is kept: nobody can have it any
/// more, and what stands behind it in its lanes must not wait for it. Says how many messages those were.
///
/// # Errors
/// NOT_FOUND for a consumer without a name that has not come so far: nothing is passed over in silence.
fn settle(ledger: &Ledger, group: &Arc<Group>, first_id: u64) -> Result<u64, Refusal> {
    let address = group.address().clone();
    let Name::Named(name) = address.consumer else {
        return match group.next_event().filter(|next| *next < first_id) {
            None => Ok(0),
            Some(next) => Err(Refusal::from(&compacted(next, first_id))),
        };
    };
    let since = group.since();
    let owes = |planes: &Planes| {
        let topic = planes.bus.topic(&address.tenant, &address.topic);
        let consumer = topic.and_then(|t| t.consumer(&name));
        consumer.is_some_and(|c| c.from() < first_id)
    };
    if !ledger.planes(owes).unwrap_or(false) {
        return Ok(0);
    }
    let floors = match floors(
        ledger,
        &address.tenant,
        &address.topic,
        first_id,
        &mut || {},
    ) {
        Ok(floors) => floors,
        Err(refusal) => {
            ::log::warn!("dropped messages stay owed: reason={:?}", refusal.reason());
            return Ok(0);
        }
    };
    let decide = move |planes: &Planes, _: &crate::planes::Moment| {
        let topic = planes.bus.topic(&address.tenant, &address.topic);
        let consumer = topic.and_then(|t| t.consumer(&name));
        // It was taken off the topic, or another connection was first.
        let owing = consumer.filter(|c| c.since() == since && c.from() < first_id);
        let Some(consumer) = owing else {
            return Ok(Decision::only(0));
        };
        let owed: BTreeMap<u8, u64> = floors
            .into_iter()
            .filter(|(lane, floor)| consumer.owes_up_to(*lane, *floor))
            .collect();
        let missed = owed
            .iter()
            .map(|(lane, floor)| consumer.owed_up_to(*lane, *floor));
        let answer = missed.sum();
        let payload = format!(
            "{{\"bus\":{{\"consumer\":\"{name}\",\"lanes\":\"{}\",\"resume\":{first_id},\"why\":\"dropped\"}}}}",
            counts_text(&owed)
        );
        let draft = acked_by_ledger(address.tenant, address.topic, payload);
        Ok(Decision {
            events: vec![draft],
            answer,
        })
    };
    // What is refused is tried again behind the next compaction, or by the next connection.
    let decided = ledger.decide_wait(16 * 1024, decide);
    Ok(decided.map_or(0, |(messages, _)| messages))
}

/// Acknowledges for the consumer what expired or was dropped, so that nobody waits for it.
fn expire(ledger: &Ledger, group: &Arc<Group>, items: &[Item], why: &'static str) {
    let address = group.address().clone();
    let all: Vec<Target> = items.iter().map(|i| i.target).collect();
    let Name::Named(name) = address.consumer else {
        group.acked(&all);
        return;
    };
    let of_lane = |item: &&Item| item.qos != Qos::AtMostOnce;
    let targets: Vec<Target> = items.iter().filter(of_lane).map(|i| i.target).collect();
    let (resume, since) = (group.resume(&targets), group.since());
    let decide = move |planes: &Planes, _: &crate::planes::Moment| {
        let refused =
            |no: ledger_core::bus::No| Refusal::new(no.code, no.field, &no.value, &no.limit);
        let bus = &planes.bus;
        let topic = bus.topic(&address.tenant, &address.topic);
        let consumer = topic.and_then(|t| t.consumer(&name));
        if consumer.is_none_or(|c| c.since() != since) {
            // It was taken off the topic; one of its name that came since has a group of its own.
            return Ok(Decision::only(()));
        }
        let acked = bus.ack(&address.tenant, &address.topic, &name, &targets);
        let Acked::New(new) = acked.map_err(refused)? else {
            return Ok(Decision::only(()));
        };
        let payload = format!(
            "{{\"bus\":{{\"consumer\":\"{name}\",\"messages\":\"{}\",\"resume\":{resume},\"why\":\"{why}\"}}}}",
            Target::list_text(&new)
        );
        let draft = acked_by_ledger(address.tenant, address.topic, payload);
        Ok(Decision {
            events: vec![draft],
            answer: (),
        })
    };
    let group = group.clone();
    ledger.decide(1024, decide, move |outcome| {
        // What is refused is held by nobody for a while, then tried again.
        if outcome.is_ok() {
            group.acked(&all);
        }
    });
}

fn acked_by_ledger(tenant: String, topic: String, payload: String) -> Draft {
    Draft {
        ns: "bus".to_owned(),
        actor: "service:ledger".to_owned(),
        tenant_id: tenant,
        event_type: "bus.acked".to_owned(),
        subject: topic,
        payload,
        ..Draft::default()
    }
}

/// Where a new consumer begins in each lane so that it gets the messages from event `from` on: those
/// before it are not owed. `idle` is called now and then while it looks.
///
/// # Errors
/// As the log's, or READ_ONLY.
pub fn floors(
    ledger: &Ledger,
    tenant: &str,
    topic: &str,
    from: u64,
    idle: &mut dyn FnMut(),
) -> Result<BTreeMap<u8, u64>, Refusal> {
    // What a compaction dropped is owed to nobody.
    let from = from.max(ledger.standing().first_id);
    if from <= 1 {
        return Ok(BTreeMap::new());
    }
    let look = |planes: &Planes| {
        let topic = planes.bus.topic(tenant, topic);
        (
            topic.map(|t| t.counts().clone()).unwrap_or_default(),
            planes.through,
        )
    };
    let (mut floors, head) = ledger.planes(look)?;
    let (mut seen, mut unseen) = ([false; 256], 256);
    let mut emit = |id, _: &Hash, body: &Body<'_>| {
        let owed = item_of(id, body).filter(|item| item.qos != Qos::AtMostOnce);
        if let Some(Target { lane, seq }) = owed.map(|item| item.target)
            && let Some(seen) = seen.get_mut(usize::from(lane))
            && !std::mem::replace(seen, true)
        {
            floors.insert(lane, seq.saturating_sub(1));
            unseen -= 1;
        }
        unseen > 0
    };
    let query = messages(tenant, topic, from, u64::MAX);
    let (mut reader, index) = (ledger.reader(), ledger.index());
    query::each(&query, &mut reader, index, head, &mut emit, idle)
        .map_err(|e| Refusal::from(&e))?;
    Ok(floors)
}
