//! The bus: publish, subscribe, acknowledge, commit, and how a topic is sharded.

use super::append::{draft, receipt_members};
use super::query::{from, still_there};
use super::{Call, Handler};
use crate::bus::{Address, Deliveries, Member, Message, Name, Parts, Subscription, floors, run};
use crate::clock;
use crate::committer::{Draft, Receipt};
use crate::identity::Reads;
use crate::json::Json;
use crate::planes::{Decision, Moment, Planes};
use crate::refusal::Refusal;
use ledger_core::bus::{
    Acked, Committed, Consumer, No, Qos, ShardMap, Target, Topic, counts_text, named,
};
use ledger_core::ulid;
use std::collections::BTreeSet;
use std::time::{Duration, Instant};

/// How long a message may be held, in milliseconds, unless the subscription says otherwise.
const LEASE_MS_DEFAULT: u64 = 30_000;
/// The shortest and the longest lease.
const LEASE_MS: std::ops::RangeInclusive<u64> = 100..=3_600_000;
/// Messages that one connection may hold, unless the subscription says otherwise.
const IN_FLIGHT_DEFAULT: u64 = 64;
/// The same, at most.
const IN_FLIGHT_MAX: u64 = 256;
/// A call that is silent for this long says that it is under way.
const ACK_AFTER: Duration = Duration::from_millis(50);
/// Messages of one acknowledgement.
const ACKS_MAX: usize = 256;
/// Effects of one acknowledgement.
const EFFECTS_MAX: usize = 64;
/// Consumers that a commit may name.
const COMMIT_ACKS_MAX: usize = 64;

/// The handler of a call of this family.
pub fn find(kind: &str) -> Option<Handler> {
    match kind {
        "bus.publish" => Some(publish),
        "bus.subscribe" => Some(subscribe),
        "bus.unsubscribe" => Some(unsubscribe),
        "bus.ack" => Some(ack),
        "bus.commit" => Some(commit),
        "bus.shards" => Some(shards),
        "bus.lag" => Some(lag),
        _ => None,
    }
}

impl From<No> for Refusal {
    fn from(no: No) -> Self {
        Self::new(no.code, no.field, &no.value, &no.limit)
    }
}

/// Whose topics the call is about: the caller's own, or those of `tenant_id` where it may.
pub fn tenant(call: &Call<'_>) -> Result<String, Refusal> {
    let Some(named) = call.optional_text("tenant_id")? else {
        return Ok(call.caller.tenant());
    };
    call.caller.may_append_for(named)?;
    Ok(named.to_owned())
}

/// An event of the bus, by the caller.
fn event(call: &Call<'_>, tenant: &str, event_type: &str, topic: &str) -> Draft {
    Draft {
        ns: "bus".to_owned(),
        actor: call.caller.actor(),
        tenant_id: tenant.to_owned(),
        event_type: event_type.to_owned(),
        subject: topic.to_owned(),
        ..Draft::default()
    }
}

fn ulid_of(field: &'static str, text: &str) -> Result<[u8; 16], Refusal> {
    let limit = "26 letters of Crockford's base 32";
    ulid::parse(text).ok_or_else(|| Refusal::new("BAD_REQUEST", field, text, limit))
}

fn publish(call: &Call<'_>) -> Result<(), Refusal> {
    let qos = match call.optional_text("qos")? {
        None => Qos::AtLeastOnce,
        Some(text) => Qos::parse(text).ok_or_else(|| {
            let limit = "at_most_once, at_least_once or exactly_once";
            Refusal::new("BAD_REQUEST", "qos", text, limit)
        })?,
    };
    let chosen = call.optional_text("ulid")?;
    let message = Message::of(Parts {
        tenant: tenant(call)?,
        actor: call.caller.actor(),
        topic: call.text("topic")?,
        qos,
        ulid: chosen.map(|text| ulid_of("ulid", text)).transpose()?,
        ttl_ms: call.optional_number("ttl")?,
        headers: call.request.get("headers"),
        payload: call.request.get("payload"),
    })?;
    call.caller.may_fill(call.ledger())?;
    let ulid = message.ulid();
    let members = move |(there, shard): (Option<u64>, u16), receipts: &[Receipt]| {
        Ok(match (there, receipts.first()) {
            (None, Some(receipt)) => {
                let receipt = receipt_members(receipt);
                format!("{receipt},\"shard\":{shard},\"repeated\":false")
            }
            (there, _) => format!(
                "\"event_id\":{},\"ulid\":\"{}\",\"shard\":{shard},\"repeated\":true",
                there.unwrap_or(0),
                ulid::text(&ulid)
            ),
        })
    };
    call.decide(
        message.bytes(),
        move |planes, moment| message.decide(planes, moment),
        members,
    );
    Ok(())
}

fn subscribe(call: &Call<'_>) -> Result<(), Refusal> {
    let (tenant, topic) = (tenant(call)?, call.text("topic")?);
    named(topic)?;
    let now_ms = clock::wall_ns() / 1_000_000;
    let look = |planes: &Planes| planes.bus.topic_at(&tenant, topic, now_ms).map(Topic::map);
    let map = call.ledger().planes(look)?.unwrap_or_default();
    let member = Member {
        shards: shards_of(call, map)?.map(|shards| (shards, map.shards)),
        in_flight: usize::try_from(ranged(
            call,
            "in_flight",
            IN_FLIGHT_DEFAULT,
            &(1..=IN_FLIGHT_MAX),
        )?)
        .unwrap_or(1),
        lease: Duration::from_millis(ranged(call, "lease_ms", LEASE_MS_DEFAULT, &LEASE_MS)?),
    };
    let stream = call.stream()?;
    let mut from = from(call)?;
    let consumer = match call.optional_text("consumer")? {
        None => {
            from = still_there(call, from)?;
            Name::Connection(call.connection_number())
        }
        Some(name) => {
            from = registered(call, &tenant, topic, name, from)?;
            Name::Named(name.to_owned())
        }
    };
    let address = Address {
        tenant,
        topic: topic.to_owned(),
        consumer,
    };
    let head = call.ledger().standing().id;
    let join = |planes: &Planes| {
        // As one step: one that is taken off the topic from here on finds the group and ends it.
        let (since, from) = match &address.consumer {
            Name::Connection(_) => (0, from),
            Name::Named(name) => {
                let there = planes.bus.topic(&address.tenant, topic);
                let consumer = there.and_then(|t| t.consumer(name))?;
                (consumer.since(), consumer.from())
            }
        };
        let deliveries = call.ledger().deliveries();
        Some((from, deliveries.join(&address, since, from, head)))
    };
    let (from, group) = call.ledger().peek(join).ok_or_else(|| {
        let limit = "it was taken off the topic";
        Refusal::new("NOT_FOUND", "consumer", "", limit)
    })?;
    call.ok(&format!(
        "\"from\":{from},\"shards\":{},\"shard_map\":{}",
        map.shards, map.version
    ));
    let subscription = Subscription {
        membership: group.enter(member),
        map,
    };
    stream.spawn(move |stream| run(stream, &subscription))
}

fn ranged(
    call: &Call<'_>,
    key: &'static str,
    default: u64,
    range: &std::ops::RangeInclusive<u64>,
) -> Result<u64, Refusal> {
    let n = call.optional_number(key)?.unwrap_or(default);
    if range.contains(&n) {
        return Ok(n);
    }
    let limit = format!("{} to {}", range.start(), range.end());
    Err(Refusal::new("BAD_REQUEST", key, &n.to_string(), &limit))
}

fn shards_of(call: &Call<'_>, map: ShardMap) -> Result<Option<BTreeSet<u16>>, Refusal> {
    let list = match call.request.get("shards") {
        None | Some(Json::Null) => return Ok(None),
        Some(Json::List(list)) if !list.is_empty() => list,
        Some(_) => return Err(Refusal::bad("shards", "a list of shards")),
    };
    let shard = |item: &Json| {
        let n = item.unsigned().and_then(|n| u16::try_from(n).ok());
        n.filter(|n| *n < map.shards).ok_or_else(|| {
            let limit = format!("0 to {}", map.shards - 1);
            Refusal::new("BAD_REQUEST", "shards", &item.to_string(), &limit)
        })
    };
    list.iter().map(shard).collect::<Result<_, _>>().map(Some)
}

/// Makes the consumer known, if it is not; the first event that it may be given.
fn registered(
    call: &Call<'_>,
    tenant: &str,
    topic: &str,
    name: &str,
    from: u64,
) -> Result<u64, Refusal> {
    let now = clock::wall_ns();
    let look = |planes: &Planes| planes.bus.subscribe(tenant, topic, name, now);
    if call.ledger().planes(look)?? {
        call.caller.may_fill(call.ledger())?;
        let from = still_there(call, from)?;
        let (began, mut acked) = (Instant::now(), false);
        let mut idle = || {
            if !acked && began.elapsed() > ACK_AFTER {
                acked = true;
                call.ack();
            }
        };
        let lanes = counts_text(&floors(call.ledger(), tenant, topic, from, &mut idle)?);
        let mut draft = event(call, tenant, "bus.subscribed", topic);
        draft.payload = format!(
            "{{\"bus\":{{\"consumer\":\"{name}\",\"from\":{from},\"lanes\":\"{lanes}\"}}}}"
        );
        let (tenant, topic, name) = (tenant.to_owned(), topic.to_owned(), name.to_owned());
        let plea = call.plea.clone();
        call.ledger()
            .decide_wait(draft.payload.len() + 1024, move |planes, moment| {
                plea.still(planes, moment)?;
                // Another connection may have been first.
                let bus = &planes.bus;
                let new = bus.subscribe(&tenant, &topic, &name, moment.wall_ns)?;
                let events = if new { vec![draft] } else { Vec::new() };
                Ok(Decision { events, answer: () })
            })?;
    }
    let look = |planes: &Planes| {
        let consumer = planes
            .bus
            .topic(tenant, topic)
            .and_then(|t| t.consumer(name));
        consumer.map(|c| c.from())
    };
    Ok(call.ledger().planes(look)?.unwrap_or(from))
}

fn unsubscribe(call: &Call<'_>) -> Result<(), Refusal> {
    let (tenant, topic) = (tenant(call)?, call.text("topic")?.to_owned());
    let name = call.text("consumer")?.to_owned();
    let mut draft = event(call, &tenant, "bus.unsubscribed", &topic);
    let (ledger, address) = (
        call.ledger().clone(),
        Address {
            tenant: tenant.clone(),
            topic: topic.clone(),
            consumer: Name::Named(name.clone()),
        },
    );
    let decide = move |planes: &Planes, _: &Moment| {
        let there = planes
            .bus
            .topic(&tenant, &topic)
            .and_then(|t| t.consumer(&name));
        let Some(there) = there else {
            return Ok(Decision::only(None));
        };
        draft.payload = format!("{{\"bus\":{{\"consumer\":\"{name}\"}}}}");
        Ok(Decision {
            events: vec![draft],
            answer: Some(there.since()),
        })
    };
    call.decide(1024, decide, move |was, _| {
        // Whoever subscribes under the name from now on begins anew.
        if let Some(since) = was {
            ledger.deliveries().end(&address, since);
        }
        Ok(format!("\"was\":{}", was.is_some()))
    });
    Ok(())
}

fn ack(call: &Call<'_>) -> Result<(), Refusal> {
    let (tenant, topic) = (tenant(call)?, call.text("topic")?.to_owned());
    let ulids = match (call.optional_text("ulid")?, call.request.get("ulids")) {
        (Some(one), None) => vec![ulid_of("ulid", one)?],
        (None, Some(Json::List(many))) if (1..=ACKS_MAX).contains(&many.len()) => many
            .iter()
            .map(|one| ulid_of("ulids", one.text().unwrap_or_default()))
            .collect::<Result<_, _>>()?,
        _ => {
            let limit = format!("one, or ulids, a list of at most {ACKS_MAX}");
            return Err(Refusal::bad("ulid", &limit));
        }
    };
    call.caller.may_fill(call.ledger())?;
    match call.optional_text("consumer")? {
        Some(name) => ack_named(call, tenant, topic, name.to_owned(), ulids),
        None => ack_nameless(call, tenant, topic, ulids),
    }
}

/// What the acknowledgement is to have as its effect: appended with it, or not at all.
fn effects(call: &Call<'_>, ulids: usize) -> Result<Vec<Draft>, Refusal> {
    let list = match call.request.get("events") {
        None | Some(Json::Null) => return Ok(Vec::new()),
        Some(Json::List(list)) => list,
        Some(_) => return Err(Refusal::bad("events", "a list of events")),
    };
    if ulids != 1 || list.len() > EFFECTS_MAX {
        let limit = format!("at most {EFFECTS_MAX}, with one ulid");
        return Err(Refusal::bad("events", &limit));
    }
    let (ns, actor) = (call.text("ns")?, call.actor("actor")?);
    call.caller.may_append(ns, &actor)?;
    // It appends, whatever it is called.
    call.ledger().allow(&call.caller.plea("append_event", ns))?;
    list.iter()
        .map(|event| draft(call, event, ns, &actor))
        .collect()
}

fn ack_named(
    call: &Call<'_>,
    tenant: String,
    topic: String,
    name: String,
    ulids: Vec<[u8; 16]>,
) -> Result<(), Refusal> {
    let effects = effects(call, ulids.len())?;
    let plea = match effects.first() {
        Some(effect) => call.plea.clone().and("append_event", &effect.ns),
        None => call.plea.clone(),
    };
    let group = call.ledger().deliveries().find(&Address {
        tenant: tenant.clone(),
        topic: topic.clone(),
        consumer: Name::Named(name.clone()),
    });
    let of_group = |ulid: &[u8; 16]| group.as_ref().and_then(|g| g.resolve(ulid));
    let known: Vec<Option<Target>> = ulids.iter().map(of_group).collect();
    let found: Vec<Target> = known.iter().flatten().copied().collect();
    // Without connections nothing is known of what came before.
    let (resume, since) = group
        .as_ref()
        .map_or((0, 0), |g| (g.resume(&found), g.since()));
    let mut draft = event(call, &tenant, "bus.acked", &topic);
    let bytes = effects.iter().map(|e| e.payload.len() + 512).sum::<usize>() + 16 * 1024;
    let decide = move |planes: &Planes, _: &Moment| {
        let bus = &planes.bus;
        let target = |(ulid, known): (&[u8; 16], Option<Target>)| {
            let target = known.or_else(|| bus.resolve(&tenant, &topic, ulid));
            target.ok_or_else(|| {
                let limit = "a message that was delivered, or is among those remembered";
                Refusal::new("NOT_FOUND", "ulid", &ulid::text(ulid), limit)
            })
        };
        let targets: Vec<Target> = ulids
            .iter()
            .zip(known)
            .map(target)
            .collect::<Result<_, _>>()?;
        let events = match bus.ack(&tenant, &topic, &name, &targets)? {
            Acked::There => Vec::new(),
            Acked::New(new) => {
                // One of the same name that came meanwhile may owe what lies before.
                let there = bus.topic(&tenant, &topic).and_then(|t| t.consumer(&name));
                let same = there.is_some_and(|c| c.since() == since);
                let resume = if same { resume } else { 0 };
                let texts: Vec<String> = ulids
                    .iter()
                    .map(|u| format!("\"{}\"", ulid::text(u)))
                    .collect();
                draft.payload = format!(
                    "{{\"bus\":{{\"consumer\":\"{name}\",\"messages\":\"{}\",\"resume\":{resume}}},\"ulids\":[{}]}}",
                    Target::list_text(&new),
                    texts.join(","),
                );
                std::iter::once(draft).chain(effects).collect()
            }
        };
        Ok(Decision {
            events,
            answer: targets,
        })
    };
    let members = move |targets: Vec<Target>, receipts: &[Receipt]| {
        if let Some(group) = group {
            group.acked(&targets);
        }
        Ok(acked_members(receipts))
    };
    call.decide_for(plea, bytes, decide, members);
    Ok(())
}

fn acked_members(receipts: &[Receipt]) -> String {
    let Some((first, effects)) = receipts.split_first() else {
        return "\"repeated\":true".to_owned();
    };
    let all: Vec<String> = effects
        .iter()
        .map(|r| format!("{{{}}}", receipt_members(r)))
        .collect();
    let first = receipt_members(first);
    format!("{first},\"events\":[{}],\"repeated\":false", all.join(","))
}

/// Of a connection without a consumer: what it holds is struck out, and it counts for a quorum under its
/// actor's name.
fn ack_nameless(
    call: &Call<'_>,
    tenant: String,
    topic: String,
    ulids: Vec<[u8; 16]>,
) -> Result<(), Refusal> {
    if call.request.get("events").is_some() {
        return Err(Refusal::bad(
            "events",
            "with a consumer: its acknowledgements are remembered",
        ));
    }
    let group = call.ledger().deliveries().find(&Address {
        tenant: tenant.clone(),
        topic: topic.clone(),
        consumer: Name::Connection(call.connection_number()),
    });
    let targets: Vec<Target> = group
        .iter()
        .flat_map(|g| ulids.iter().filter_map(|ulid| g.resolve(ulid)))
        .collect();
    let held = targets.len() == ulids.len();
    let actor = call.caller.actor();
    let draft = event(call, &tenant, "bus.acked", &topic);
    let decide = move |planes: &Planes, moment: &Moment| {
        let mut events = Vec::new();
        for ulid in &ulids {
            let new = match planes
                .bus
                .vote(&tenant, &topic, &actor, ulid, moment.wall_ns)
            {
                // It was delivered here, and is no message that anybody commits.
                Err(no) if held && no.code == "NOT_FOUND" => false,
                vote => vote?,
            };
            if new {
                let text = ulid::text(ulid);
                let payload = format!(
                    "{{\"bus\":{{\"consumer\":\"{actor}\",\"ulid\":\"{text}\"}},\"ulids\":[\"{text}\"]}}"
                );
                events.push(Draft {
                    payload,
                    ..draft.clone()
                });
            }
        }
        Ok(Decision { events, answer: () })
    };
    let members = move |(), receipts: &[Receipt]| {
        if let Some(group) = group {
            group.acked(&targets);
        }
        Ok(match receipts.first() {
            Some(receipt) => receipt_members(receipt),
            None => "\"event_id\":null".to_owned(),
        })
    };
    call.decide(ACKS_MAX * 256, decide, members);
    Ok(())
}

fn commit(call: &Call<'_>) -> Result<(), Refusal> {
    let (tenant, topic) = (tenant(call)?, call.text("topic")?.to_owned());
    let ulid = match call.optional_text("msg_ulid")? {
        Some(text) => ulid_of("msg_ulid", text)?,
        None => ulid_of("ulid", call.text("ulid")?)?,
    };
    let of = match call.request.get("acks") {
        None | Some(Json::Null) => None,
        Some(Json::List(names)) if names.len() <= COMMIT_ACKS_MAX => {
            let name = |n: &Json| n.text().map(str::to_owned);
            let names: Option<Vec<String>> = names.iter().map(name).collect();
            Some(names.ok_or_else(|| Refusal::bad("acks", "a list of consumers"))?)
        }
        Some(_) => {
            let limit = format!("a list of at most {COMMIT_ACKS_MAX} consumers");
            return Err(Refusal::bad("acks", &limit));
        }
    };
    let quorum = ranged(call, "quorum", 1, &(1..=COMMIT_ACKS_MAX as u64))?;
    call.caller.may_fill(call.ledger())?;
    let mut draft = event(call, &tenant, "bus.committed", &topic);
    let decide = move |planes: &Planes, moment: &Moment| {
        let needed = usize::try_from(quorum).unwrap_or(usize::MAX);
        match planes.bus.commit(
            &tenant,
            &topic,
            &ulid,
            of.as_deref(),
            needed,
            moment.wall_ns,
        )? {
            Committed::There(event) => Ok(Decision::only(Some(event))),
            Committed::New { id, acks } => {
                draft.causation_id = Some(id);
                draft.payload = format!(
                    "{{\"bus\":{{\"acks\":{acks},\"quorum\":{quorum},\"ulid\":\"{}\"}}}}",
                    ulid::text(&ulid)
                );
                Ok(Decision {
                    events: vec![draft],
                    answer: None,
                })
            }
        }
    };
    let members = |there: Option<u64>, receipts: &[Receipt]| {
        Ok(match (there, receipts.first()) {
            (None, Some(receipt)) => format!("{},\"repeated\":false", receipt_members(receipt)),
            (there, _) => format!("\"event_id\":{},\"repeated\":true", there.unwrap_or(0)),
        })
    };
    call.decide(1024, decide, members);
    Ok(())
}

fn shards(call: &Call<'_>) -> Result<(), Refusal> {
    let (tenant, topic) = (tenant(call)?, call.text("topic")?.to_owned());
    let wanted = call.optional_number("shards")?;
    let wanted = wanted.ok_or_else(|| Refusal::bad("shards", "a number"))?;
    call.caller.may_fill(call.ledger())?;
    let mut draft = event(call, &tenant, "bus.sharded", &topic);
    let decide = move |planes: &Planes, moment: &Moment| match planes.bus.shard(
        &tenant,
        &topic,
        wanted,
        moment.wall_ns,
    )? {
        None => {
            let now_ms = moment.wall_ns / 1_000_000;
            let map = planes.bus.topic_at(&tenant, &topic, now_ms);
            let map = map.map(|t| t.map());
            Ok(Decision::only(map.unwrap_or_default()))
        }
        Some(map) => {
            let ShardMap { version, shards } = map;
            draft.payload = format!("{{\"bus\":{{\"shards\":{shards},\"version\":{version}}}}}");
            Ok(Decision {
                events: vec![draft],
                answer: map,
            })
        }
    };
    call.decide(1024, decide, |map, _| {
        Ok(format!(
            "\"shards\":{},\"shard_map\":{}",
            map.shards, map.version
        ))
    });
    Ok(())
}

/// Each topic, and how many messages each consumer has not acknowledged. A tenant is told of its own alone.
fn lag(call: &Call<'_>) -> Result<(), Refusal> {
    let reads = call.caller.reads();
    let topic = call.optional_text("topic")?;
    let mine = |tenant: &str| match &reads {
        Reads::Everything => true,
        Reads::Tenant(own) => own == tenant,
        Reads::Nothing => false,
    };
    let now = clock::wall_ns();
    let mut rows = call.ledger().planes(|planes| {
        let topics = planes.bus.topics(now);
        let asked = topics
            .filter(|(tenant, name, _)| mine(tenant) && topic.is_none_or(|topic| topic == *name));
        asked.map(Row::of).collect::<Vec<_>>()
    })?;
    for row in &mut rows {
        row.look_at(call.ledger().deliveries());
    }
    let topics: Vec<String> = rows.iter().map(Row::topic_json).collect();
    let lags: Vec<String> = rows.iter().flat_map(Row::lags_json).collect();
    call.ok(&format!(
        "\"lags\":[{}],\"topics\":[{}]",
        lags.join(","),
        topics.join(",")
    ));
    Ok(())
}

/// What `bus.lag` says of a topic.
struct Row {
    tenant: String,
    topic: String,
    map: ShardMap,
    messages: u64,
    uncommitted: usize,
    consumers: Vec<Behind>,
}

/// What it says of a consumer.
struct Behind {
    name: String,
    from: u64,
    messages: u64,
    /// Connections, and messages that they hold.
    present: (usize, usize),
}

impl Row {
    fn of((tenant, topic, state): (&str, &str, &Topic)) -> Self {
        let behind = |(name, consumer): (&str, &Consumer)| Behind {
            name: name.to_owned(),
            from: consumer.from(),
            messages: state.lag(consumer),
            present: (0, 0),
        };
        Self {
            tenant: tenant.to_owned(),
            topic: topic.to_owned(),
            map: state.map(),
            messages: state.messages(),
            uncommitted: state.uncommitted(),
            consumers: state.consumers().map(behind).collect(),
        }
    }

    /// Adds who is connected.
    fn look_at(&mut self, deliveries: &Deliveries) {
        for behind in &mut self.consumers {
            let group = deliveries.find(&Address {
                tenant: self.tenant.clone(),
                topic: self.topic.clone(),
                consumer: Name::Named(behind.name.clone()),
            });
            behind.present = group.map_or((0, 0), |group| group.present());
        }
    }

    fn topic_json(&self) -> String {
        Json::object([
            ("tenant_id", self.tenant.as_str().into()),
            ("topic", self.topic.as_str().into()),
            ("consumers", (self.consumers.len() as u64).into()),
            ("messages", self.messages.into()),
            ("shard_map", self.map.version.into()),
            ("shards", u64::from(self.map.shards).into()),
            ("uncommitted", (self.uncommitted as u64).into()),
        ])
        .to_string()
    }

    fn lags_json(&self) -> impl Iterator<Item = String> {
        self.consumers.iter().map(|behind| {
            let (connections, held) = behind.present;
            Json::object([
                ("tenant_id", self.tenant.as_str().into()),
                ("topic", self.topic.as_str().into()),
                ("consumer", behind.name.as_str().into()),
                ("connections", (connections as u64).into()),
                ("from", behind.from.into()),
                ("held", (held as u64).into()),
                ("messages", behind.messages.into()),
            ])
            .to_string()
        })
    }
}
