//! The message bus as a fold over the log: topics, messages, consumers, what is acknowledged and
//! committed.
//!
//! A message is a `bus.published` event whose ULID names it within its tenant and topic. The plane
//! remembers counts of lanes, acknowledgements and the ULIDs of the newest messages, and no contents:
//! those are read from the log when they are delivered. Leases are no part of it: after a restart what
//! was under way is delivered again.
//!
//! Bounded by the constants below. Start with [`Bus::apply`], then `decide`.

mod decide;
mod lanes;

pub use decide::{Acked, Committed, No, Publish, Published, Target};
pub use lanes::{LANE_SPAN, LANES, Lane, counts_of, counts_text, hash_of, lane_of, shard_of};

use crate::Body;
use crate::meta::Meta;
use crate::ulid;
use alloc::borrow::ToOwned;
use alloc::collections::{BTreeMap, BTreeSet};
use alloc::string::String;
use serde::{Deserialize, Serialize};

/// Shards of a topic that does not say.
pub const SHARDS_DEFAULT: u16 = 64;
/// Longest topic.
pub const TOPIC_BYTES_MAX: usize = 128;
/// Longest consumer.
pub const CONSUMER_BYTES_MAX: usize = 64;
/// Topics of one tenant, each of at most 10 KiB of counts.
pub const TOPICS_MAX: usize = 256;
/// Topics of all tenants.
pub const TOPICS_ALL_MAX: usize = 1024;
/// Consumers of one tenant, each of at most 40 KiB of acknowledgements.
pub const CONSUMERS_MAX: usize = 32;
/// Consumers of all tenants.
pub const CONSUMERS_ALL_MAX: usize = 256;
/// Messages of one tenant that want a commit and have none yet.
pub const OPEN_MAX: usize = 32 * 1024;
/// Messages of all tenants that are remembered by their ULID, some 64 bytes each: who has most of
/// them forgets first.
pub const REMEMBERED_MAX: usize = 192 * 1024;
/// Consumers without a name that are counted for one message.
const VOTERS_MAX: usize = 8;

/// How often a message may have its effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Qos {
    /// Given to whoever is there when it commits, once.
    AtMostOnce,
    /// Given again until it is acknowledged.
    AtLeastOnce,
    /// The same, and published once for each ULID, and committed once a quorum has acknowledged.
    ExactlyOnce,
}

impl Qos {
    /// By its name in the protocol.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let all = [Self::AtMostOnce, Self::AtLeastOnce, Self::ExactlyOnce];
        all.into_iter().find(|qos| qos.as_str() == text)
    }

    /// Its name in the protocol.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::AtMostOnce => "at_most_once",
            Self::AtLeastOnce => "at_least_once",
            Self::ExactlyOnce => "exactly_once",
        }
    }
}

/// Whether the text may be a topic.
#[must_use]
pub fn is_topic(text: &str) -> bool {
    (1..=TOPIC_BYTES_MAX).contains(&text.len())
        && text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"._/-".contains(&b))
}

/// Whether the text may be a consumer's name. One without a name is known by its actor, which has a
/// colon.
#[must_use]
pub fn is_consumer(text: &str) -> bool {
    (1..=CONSUMER_BYTES_MAX).contains(&text.len())
        && text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
}

/// The numbers of shards that a topic may have.
#[must_use]
pub fn is_shards(n: u64) -> bool {
    n.is_power_of_two() && n <= u64::from(LANES)
}

/// How lanes are put together to shards.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShardMap {
    /// Counts the maps of a topic from 1.
    pub version: u64,
    /// A power of two up to [`LANES`].
    pub shards: u16,
}

impl Default for ShardMap {
    fn default() -> Self {
        Self {
            version: 1,
            shards: SHARDS_DEFAULT,
        }
    }
}

/// A message that wants a commit.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Open {
    id: u64,
    seq: u64,
    /// Milliseconds since 1970; 0 for ever.
    expires_ms: u64,
    /// Consumers without a name that acknowledged it.
    voters: BTreeSet<String>,
}

/// A message that is remembered by its ULID and wants nothing more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Done {
    id: u64,
    seq: u64,
    /// The event of its commit; 0 for none.
    committed: u64,
}

/// One topic of one tenant.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Topic {
    map: ShardMap,
    /// Messages so far that are to be acknowledged, by lane.
    counts: BTreeMap<u8, u64>,
    open: BTreeMap<[u8; 16], Open>,
    done: BTreeMap<[u8; 16], Done>,
    /// No ULID up to here is known to be new.
    forgotten: [u8; 16],
    consumers: BTreeMap<String, Consumer>,
}

/// A consumer with a name: one or more connections that share what they are given.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Consumer {
    /// The first event that it may be given.
    from: u64,
    lanes: BTreeMap<u8, Lane>,
}

impl Consumer {
    /// The first event that it may be given.
    #[must_use]
    pub fn from(&self) -> u64 {
        self.from
    }

    /// Whether it has acknowledged this message.
    #[must_use]
    pub fn has(&self, lane: u8, seq: u64) -> bool {
        self.lanes.get(&lane).is_some_and(|l| l.has(seq))
    }

    /// Whether an acknowledgement of this message could be remembered now.
    #[must_use]
    pub fn reaches(&self, lane: u8, seq: u64) -> bool {
        match self.lanes.get(&lane) {
            Some(lane) => lane.reaches(seq),
            None => Lane::default().reaches(seq),
        }
    }
}

impl Topic {
    /// How its lanes are put together now.
    #[must_use]
    pub fn map(&self) -> ShardMap {
        self.map
    }

    /// Messages so far that are to be acknowledged, by lane.
    #[must_use]
    pub fn counts(&self) -> &BTreeMap<u8, u64> {
        &self.counts
    }

    /// A consumer by its name.
    #[must_use]
    pub fn consumer(&self, name: &str) -> Option<&Consumer> {
        self.consumers.get(name)
    }

    /// How many messages the consumer has not acknowledged.
    fn lag(&self, consumer: &Consumer) -> u64 {
        let of_lane = |(lane, count): (&u8, &u64)| {
            let acked = consumer
                .lanes
                .get(lane)
                .map_or(0, |l| l.floor() + l.beyond());
            count.saturating_sub(acked)
        };
        self.counts.iter().map(of_lane).sum()
    }
}

/// What one consumer owes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lag<'a> {
    /// Whose.
    pub tenant: &'a str,
    /// Where.
    pub topic: &'a str,
    /// Who.
    pub consumer: &'a str,
    /// Messages that are not acknowledged.
    pub messages: u64,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Tenant {
    topics: BTreeMap<String, Topic>,
    open: usize,
    done: usize,
    consumers: usize,
}

/// The bus.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bus {
    tenants: BTreeMap<String, Tenant>,
    topics: usize,
    consumers: usize,
    remembered: usize,
}

impl Bus {
    /// Whether events of this type change it.
    #[must_use]
    pub fn wants(event_type: &str) -> bool {
        event_type.starts_with("bus.")
    }

    /// Takes the next event in.
    pub fn apply(&mut self, id: u64, body: &Body<'_>) {
        let Some(meta) = Meta::of(body.payload, "bus") else {
            return;
        };
        match body.event_type {
            "bus.published" => self.published(id, body, &meta),
            "bus.subscribed" => self.subscribed(body, &meta),
            "bus.unsubscribed" => self.unsubscribed(body, &meta),
            "bus.acked" => self.acked(body, &meta),
            "bus.committed" => self.committed(id, body, &meta),
            "bus.sharded" => self.sharded(body, &meta),
            _ => {}
        }
    }

    /// A topic of a tenant.
    #[must_use]
    pub fn topic(&self, tenant: &str, topic: &str) -> Option<&Topic> {
        self.tenants.get(tenant)?.topics.get(topic)
    }

    /// What every consumer owes.
    pub fn lags(&self) -> impl Iterator<Item = Lag<'_>> {
        self.tenants.iter().flat_map(|(tenant, t)| {
            t.topics.iter().flat_map(move |(topic, state)| {
                state.consumers.iter().map(move |(consumer, c)| Lag {
                    tenant,
                    topic,
                    consumer,
                    messages: state.lag(c),
                })
            })
        })
    }

    /// The topic, made if there is room for one more.
    fn topic_mut(&mut self, tenant: &str, topic: &str) -> Option<&mut Topic> {
        let there = self.topic(tenant, topic).is_some();
        if !there && !self.has_room_for_topic(tenant) {
            return None;
        }
        self.topics += usize::from(!there);
        let tenant = self.tenants.entry(tenant.to_owned()).or_default();
        Some(tenant.topics.entry(topic.to_owned()).or_default())
    }

    fn has_room_for_topic(&self, tenant: &str) -> bool {
        let own = self.tenants.get(tenant).map_or(0, |t| t.topics.len());
        own < TOPICS_MAX && self.topics < TOPICS_ALL_MAX
    }

    fn published(&mut self, id: u64, body: &Body<'_>, meta: &Meta<'_>) {
        let Some(qos) = meta.text("qos").and_then(Qos::parse) else {
            return;
        };
        let Some(topic) = self.topic_mut(body.tenant_id, body.subject) else {
            return;
        };
        let there = topic.open.contains_key(&body.ulid) || topic.done.contains_key(&body.ulid);
        if qos == Qos::AtMostOnce || there {
            return;
        }
        let count = topic.counts.entry(lane_of(&body.ulid)).or_default();
        *count += 1;
        let seq = *count;
        if qos == Qos::ExactlyOnce {
            let open = Open {
                id,
                seq,
                expires_ms: meta.number("expires_ms").unwrap_or(0),
                voters: BTreeSet::new(),
            };
            topic.open.insert(body.ulid, open);
        } else {
            let done = Done {
                id,
                seq,
                committed: 0,
            };
            topic.done.insert(body.ulid, done);
        }
        let exactly = qos == Qos::ExactlyOnce;
        if let Some(tenant) = self.tenants.get_mut(body.tenant_id) {
            tenant.open += usize::from(exactly);
            tenant.done += usize::from(!exactly);
        }
        self.remembered += 1;
        self.expire(body);
        self.forget();
    }

    /// What has expired needs no commit. Looked at now and then, once half of what may be open is.
    fn expire(&mut self, body: &Body<'_>) {
        const EVERY: usize = 256;
        let Some(tenant) = self.tenants.get_mut(body.tenant_id) else {
            return;
        };
        if tenant.open < OPEN_MAX / 2 || !tenant.open.is_multiple_of(EVERY) {
            return;
        }
        for topic in tenant.topics.values_mut() {
            let due = |o: &Open| o.expires_ms != 0 && o.expires_ms <= body.wall_ns / 1_000_000;
            let expired: alloc::vec::Vec<_> = topic
                .open
                .iter()
                .filter(|(_, o)| due(o))
                .map(|(ulid, _)| *ulid)
                .collect();
            for ulid in expired {
                if let Some(Open { id, seq, .. }) = topic.open.remove(&ulid) {
                    let committed = 0;
                    topic.done.insert(ulid, Done { id, seq, committed });
                    tenant.open -= 1;
                    tenant.done += 1;
                }
            }
        }
    }

    /// Makes room: who remembers most forgets, the message with the smallest ULID first.
    fn forget(&mut self) {
        while self.remembered > REMEMBERED_MAX {
            let most = self.tenants.values_mut().max_by_key(|t| t.done);
            let Some(tenant) = most.filter(|t| t.done > 0) else {
                return;
            };
            let most = tenant.topics.values_mut().max_by_key(|t| t.done.len());
            if let Some(topic) = most
                && let Some((ulid, _)) = topic.done.pop_first()
            {
                topic.forgotten = topic.forgotten.max(ulid);
            }
            tenant.done -= 1;
            self.remembered -= 1;
        }
    }

    fn subscribed(&mut self, body: &Body<'_>, meta: &Meta<'_>) {
        let Some(name) = meta.text("consumer").filter(|name| is_consumer(name)) else {
            return;
        };
        let Some(topic) = self.topic_mut(body.tenant_id, body.subject) else {
            return;
        };
        if topic.consumers.contains_key(name) {
            return;
        }
        let lanes = counts_of(meta.text("lanes").unwrap_or_default());
        let consumer = Consumer {
            from: meta.number("from").unwrap_or(0),
            lanes: lanes
                .into_iter()
                .map(|(l, floor)| (l, Lane::from(floor)))
                .collect(),
        };
        if !self.has_room_for_consumer(body.tenant_id) {
            return;
        }
        let Some(tenant) = self.tenants.get_mut(body.tenant_id) else {
            return;
        };
        if let Some(topic) = tenant.topics.get_mut(body.subject) {
            topic.consumers.insert(name.to_owned(), consumer);
            tenant.consumers += 1;
            self.consumers += 1;
        }
    }

    fn has_room_for_consumer(&self, tenant: &str) -> bool {
        let own = self.tenants.get(tenant).map_or(0, |t| t.consumers);
        own < CONSUMERS_MAX && self.consumers < CONSUMERS_ALL_MAX
    }

    fn unsubscribed(&mut self, body: &Body<'_>, meta: &Meta<'_>) {
        let name = meta.text("consumer").unwrap_or_default();
        let Some(tenant) = self.tenants.get_mut(body.tenant_id) else {
            return;
        };
        let topic = tenant.topics.get_mut(body.subject);
        if topic.and_then(|t| t.consumers.remove(name)).is_some() {
            tenant.consumers -= 1;
            self.consumers -= 1;
        }
    }

    fn acked(&mut self, body: &Body<'_>, meta: &Meta<'_>) {
        let name = meta.text("consumer").unwrap_or_default();
        let tenant = self.tenants.get_mut(body.tenant_id);
        let Some(topic) = tenant.and_then(|t| t.topics.get_mut(body.subject)) else {
            return;
        };
        if let Some(consumer) = topic.consumers.get_mut(name) {
            consumer.from = consumer.from.max(meta.number("resume").unwrap_or(0));
            for (lane, seq) in Target::list_of(meta.text("messages").unwrap_or_default()) {
                consumer.lanes.entry(lane).or_default().add(seq);
            }
        } else if name.contains(':') {
            // Without a name: counted for a quorum alone.
            let ulid = meta.text("ulid").and_then(ulid::parse);
            if let Some(open) = ulid.and_then(|ulid| topic.open.get_mut(&ulid))
                && open.voters.len() < VOTERS_MAX
            {
                open.voters.insert(name.to_owned());
            }
        }
    }

    fn committed(&mut self, event: u64, body: &Body<'_>, meta: &Meta<'_>) {
        let Some(tenant) = self.tenants.get_mut(body.tenant_id) else {
            return;
        };
        let ulid = meta.text("ulid").and_then(ulid::parse);
        if let Some(topic) = tenant.topics.get_mut(body.subject)
            && let Some(ulid) = ulid
            && let Some(Open { id, seq, .. }) = topic.open.remove(&ulid)
        {
            let committed = event;
            topic.done.insert(ulid, Done { id, seq, committed });
            tenant.open -= 1;
            tenant.done += 1;
        }
    }

    fn sharded(&mut self, body: &Body<'_>, meta: &Meta<'_>) {
        let (Some(version), Some(shards)) = (meta.number("version"), meta.number("shards")) else {
            return;
        };
        if !is_shards(shards) {
            return;
        }
        if let Some(topic) = self.topic_mut(body.tenant_id, body.subject)
            && let Ok(shards) = u16::try_from(shards)
        {
            topic.map = ShardMap { version, shards };
        }
    }
}

#[cfg(test)]
mod tests;
