//! The message bus as a fold over the log: topics, messages, consumers, what is acknowledged and
//! committed.
//!
//! A message is a `bus.published` event whose ULID names it within its tenant and topic. The plane
//! remembers counts of lanes, acknowledgements and the ULIDs of the newest messages, and no contents:
//! those are read from the log when they are delivered. Leases are no part of it: after a restart what
//! was under way is delivered again.
//!
//! A topic goes once nobody consumes it, no message waits for its commit and nothing was published for
//! [`TOPIC_KEPT_MS`] by the log's own clock: when the next one is made. What it remembered is kept by its
//! tenant in a few numbers: which ULIDs are not known to be new ([`stretches`]), and up to which number
//! messages of a lane are of topics gone, so that one of the same name begins behind them. So a lane and a
//! number name one message of a topic's name for good.
//!
//! Bounded by the constants below. Start with [`Bus::apply`], then `decide`.

mod decide;
mod first_form;
mod lanes;
mod stretches;

pub use decide::{Acked, Committed, No, Publish, Published, Target, named};
pub use first_form::FirstForm;
pub use lanes::{LANE_SPAN, LANES, Lane, counts_of, counts_text, hash_of, lane_of, shard_of};

use crate::Body;
use crate::meta::Meta;
use crate::share::Share;
use crate::ulid;
use alloc::borrow::ToOwned;
use alloc::collections::{BTreeMap, BTreeSet};
use alloc::string::String;
use serde::{Deserialize, Serialize};
use stretches::Stretches;

/// Shards of a topic that does not say.
pub const SHARDS_DEFAULT: u16 = 64;
/// Longest topic.
pub const TOPIC_BYTES_MAX: usize = 128;
/// Longest consumer.
pub const CONSUMER_BYTES_MAX: usize = 64;
/// Topics, each of at most 10 KiB of counts: 1,024 with 128 tenants.
pub const TOPICS: Share = Share {
    own: 4,
    each: 256,
    pool: 512,
};
/// How long a topic is kept that nobody consumes and nobody writes to: a day.
pub const TOPIC_KEPT_MS: u64 = 24 * 3600 * 1000;
/// Consumers with a name, each of at most 40 KiB of acknowledgements: 256 with 128 tenants.
pub const CONSUMERS: Share = Share {
    own: 1,
    each: 32,
    pool: 128,
};
/// Messages that want a commit and have none yet: 196,608 with 128 tenants.
pub const OPEN: Share = Share {
    own: 512,
    each: 32 * 1024,
    pool: 128 * 1024,
};
/// Messages of all tenants that are remembered by their ULID, some 64 bytes each: who has most of
/// them forgets first.
pub const REMEMBERED_MAX: usize = 192 * 1024;
/// Messages without a pending commit of which a tenant never forgets the ULID to make room for others'.
const REMEMBERED_OWN: usize = 512;
/// Consumers without a name that are counted for one message: as many as a commit may ask for.
pub const VOTERS_MAX: usize = 64;
/// Acknowledgements without a name of one tenant that wait for their message's commit, some 100 bytes each.
pub const VOTES_MAX: usize = 16 * 1024;

/// By how much the log's clock is set back before topics hear of it: less is a clock that is kept right.
const SET_BACK_MS: u64 = 60 * 1000;

// Who acknowledged a message is a bit each.
const _: () = assert!(CONSUMERS.each <= u32::BITS as usize);

/// Open messages of each topic, the oldest, that are looked at for having expired where there is no room.
const OLDEST: usize = 4;

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
    /// Bits of those with a name that did, themselves.
    acked: u32,
}

impl Open {
    /// Whether it is worth nothing any more.
    fn is_expired(&self, now_ms: u64) -> bool {
        self.expires_ms != 0 && self.expires_ms <= now_ms
    }
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
    /// None of these is known to be new.
    forgotten: Stretches,
    /// All that were ever published here.
    seen: Stretches,
    consumers: BTreeMap<String, Consumer>,
    /// Where each lane begins to count: what lies before is of a topic of the same name that is gone.
    base: u64,
    /// When something was last published or set here, milliseconds since 1970.
    active_ms: u64,
}

/// A consumer with a name: one or more connections that share what they are given.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Consumer {
    /// The first event that it may be given.
    from: u64,
    lanes: BTreeMap<u8, Lane>,
    /// Of a lane without an acknowledgement, nothing is owed up to here.
    base: u64,
    /// Its place among the topic's consumers.
    slot: u8,
    /// The event that made it known: another of the same name has another.
    since: u64,
}

impl Consumer {
    /// The first event that it may be given.
    #[must_use]
    pub fn from(&self) -> u64 {
        self.from
    }

    /// The event that made it known, which tells it from others of its name; 0 if nobody knows any more.
    #[must_use]
    pub fn since(&self) -> u64 {
        self.since
    }

    /// Its place as a bit.
    fn bit(&self) -> u32 {
        1u32.checked_shl(self.slot.into()).unwrap_or(0)
    }

    /// Whether it owes this message no more: it acknowledged it, began behind it, or it expired or was dropped.
    #[must_use]
    pub fn has(&self, lane: u8, seq: u64) -> bool {
        let lane = self.lanes.get(&lane);
        lane.map_or(seq <= self.base, |l| l.has(seq))
    }

    /// Whether it owes anything of a lane up to this number.
    #[must_use]
    pub fn owes_up_to(&self, lane: u8, seq: u64) -> bool {
        self.lanes.get(&lane).map_or(self.base, Lane::floor) < seq
    }

    /// How many messages it owes of a lane up to this number.
    #[must_use]
    pub fn owed_up_to(&self, lane: u8, seq: u64) -> u64 {
        let floor = self.lanes.get(&lane).map_or(self.base, Lane::floor);
        // Beyond what can be acknowledged ahead, all are owed.
        let near = seq.min(floor.saturating_add(LANE_SPAN));
        let owed = (floor + 1..=near).filter(|seq| !self.has(lane, *seq));
        owed.count() as u64 + seq.saturating_sub(near.max(floor))
    }

    /// Whether an acknowledgement of this message could be remembered now.
    #[must_use]
    pub fn reaches(&self, lane: u8, seq: u64) -> bool {
        match self.lanes.get(&lane) {
            Some(lane) => lane.reaches(seq),
            None => Lane::from(self.base).reaches(seq),
        }
    }
}

impl Topic {
    /// How its lanes are put together now.
    #[must_use]
    pub fn map(&self) -> ShardMap {
        self.map
    }

    /// The last message of each lane that is to be acknowledged; without those that have none.
    #[must_use]
    pub fn counts(&self) -> &BTreeMap<u8, u64> {
        &self.counts
    }

    /// The last message of a lane.
    fn count(&self, lane: u8) -> u64 {
        self.counts.get(&lane).copied().unwrap_or(self.base)
    }

    /// Messages that are to be acknowledged, those of all time.
    #[must_use]
    pub fn messages(&self) -> u64 {
        self.counts.values().map(|n| n - self.base.min(*n)).sum()
    }

    /// Messages that wait for their commit.
    #[must_use]
    pub fn uncommitted(&self) -> usize {
        self.open.len()
    }

    /// Its consumers with a name.
    pub fn consumers(&self) -> impl Iterator<Item = (&str, &Consumer)> {
        self.consumers.iter().map(|(name, c)| (name.as_str(), c))
    }

    /// Whether nobody would miss it.
    fn is_idle(&self, now_ms: u64) -> bool {
        self.consumers.is_empty()
            && self.active_ms.saturating_add(TOPIC_KEPT_MS) <= now_ms
            && self.open.values().all(|o| o.is_expired(now_ms))
    }

    /// Counts an acknowledgement for the messages that wait for their commit: those that it names, and that
    /// it was new for.
    fn count_for(&mut self, bit: u32, messages: &str, payload: &str) {
        let acked: BTreeSet<(u8, u64)> = Target::list_of(messages).collect();
        for ulid in ulids_of(payload) {
            let open = self.open.get_mut(&ulid);
            if let Some(open) = open.filter(|o| acked.contains(&(lane_of(&ulid), o.seq))) {
                open.acked |= bit;
            }
        }
    }

    /// A place that no consumer has.
    fn free_slot(&self) -> u8 {
        let used = self.consumers.values().fold(0, |all, c| all | c.bit());
        // At most 32.
        (!used).trailing_zeros() as u8
    }

    /// The greatest number of a message in its lane.
    fn greatest(&self) -> u64 {
        let greatest = self.counts.values().copied().max();
        greatest.map_or(self.base, |n| n.max(self.base))
    }

    /// Whether it is as if it had never been: what it began behind is its tenant's to know.
    fn is_blank(&self) -> bool {
        self.consumers.is_empty() && self.counts.is_empty() && self.map == ShardMap::default()
    }

    /// A consumer by its name.
    #[must_use]
    pub fn consumer(&self, name: &str) -> Option<&Consumer> {
        self.consumers.get(name)
    }

    /// How many messages the consumer has not acknowledged.
    #[must_use]
    pub fn lag(&self, consumer: &Consumer) -> u64 {
        let of_lane = |(lane, count): (&u8, &u64)| {
            let acked = consumer
                .lanes
                .get(lane)
                .map_or(consumer.base, |l| l.floor() + l.beyond());
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
    votes: usize,
    /// Of topics that are gone: none of these ULIDs is known to be new.
    forgotten: Stretches,
    /// Of topics that are gone: the greatest number of a message in its lane.
    retired: u64,
}

impl Tenant {
    /// Whether the next message that is taken makes room for itself: [`Bus::expire`] finds one.
    fn has_expired(&self, now_ms: u64) -> bool {
        let mut topics = self.topics.values();
        topics.any(|t| t.open.values().take(OLDEST).any(|o| o.is_expired(now_ms)))
    }

    /// Topics that there are, since somebody would miss them.
    fn topics_at(&self, now_ms: u64) -> usize {
        self.topics.values().filter(|t| !t.is_idle(now_ms)).count()
    }

    /// A topic that begins then.
    fn blank_at(&self, now_ms: u64) -> Topic {
        let mut blank = Topic {
            forgotten: self.forgotten.clone(),
            base: self.retired,
            ..Topic::default()
        };
        for gone in self.topics.values().filter(|t| t.is_idle(now_ms)) {
            blank.forgotten.add_all(&gone.seen);
            blank.base = blank.base.max(gone.greatest());
        }
        blank
    }

    /// Lets idle topics go; how many messages are remembered no more.
    fn sweep(&mut self, now_ms: u64) -> usize {
        let Topic {
            forgotten, base, ..
        } = self.blank_at(now_ms);
        (self.forgotten, self.retired) = (forgotten, base);
        let (mut open, mut done, mut votes) = (0, 0, 0);
        self.topics.retain(|_, topic| {
            let idle = topic.is_idle(now_ms);
            if idle {
                open += topic.open.len();
                done += topic.done.len();
                votes += topic.open.values().map(|o| o.voters.len()).sum::<usize>();
            }
            !idle
        });
        self.open -= open;
        self.done -= done;
        self.votes -= votes;
        open + done
    }
}

/// The bus.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bus {
    tenants: BTreeMap<String, Tenant>,
    remembered: usize,
    /// When its last event was written, milliseconds since 1970.
    wall_ms: u64,
}

impl Bus {
    /// Whether events of this type change it.
    #[must_use]
    pub fn wants(event_type: &str) -> bool {
        event_type.starts_with("bus.")
    }

    /// Takes the next event in.
    pub fn apply(&mut self, id: u64, body: &Body<'_>) {
        self.hear_of_the_clock(body.wall_ns / 1_000_000);
        let Some(meta) = Meta::of(body.payload, "bus") else {
            return;
        };
        match body.event_type {
            "bus.published" => self.published(id, body, &meta),
            "bus.subscribed" => self.subscribed(id, body, &meta),
            "bus.unsubscribed" => self.unsubscribed(body, &meta),
            "bus.acked" => self.acked(body, &meta),
            "bus.committed" => self.committed(id, body, &meta),
            "bus.sharded" => self.sharded(body, &meta),
            _ => {}
        }
    }

    /// A clock that was ahead and is set back leaves no topic there for longer than a day from now on.
    fn hear_of_the_clock(&mut self, now_ms: u64) {
        if now_ms.saturating_add(SET_BACK_MS) < self.wall_ms {
            let tenants = self.tenants.values_mut();
            let topics = tenants.flat_map(|tenant| tenant.topics.values_mut());
            topics.for_each(|topic| topic.active_ms = topic.active_ms.min(now_ms));
        }
        self.wall_ms = now_ms;
    }

    /// A topic of a tenant.
    #[must_use]
    pub fn topic(&self, tenant: &str, topic: &str) -> Option<&Topic> {
        self.tenants.get(tenant)?.topics.get(topic)
    }

    /// The same, if it is not gone by then. Idle topics leave memory when some tenant makes one, so nobody
    /// may learn from them that one did.
    #[must_use]
    pub fn topic_at(&self, tenant: &str, topic: &str, now_ms: u64) -> Option<&Topic> {
        self.topic(tenant, topic).filter(|t| !t.is_idle(now_ms))
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

    /// Every topic that is not gone by then.
    pub fn topics(&self, wall_ns: u64) -> impl Iterator<Item = (&str, &str, &Topic)> {
        let now_ms = wall_ns / 1_000_000;
        self.tenants.iter().flat_map(move |(tenant, t)| {
            let topics = t.topics.iter().filter(move |(_, t)| !t.is_idle(now_ms));
            topics.map(move |(name, topic)| (tenant.as_str(), name.as_str(), topic))
        })
    }

    /// The event's topic, made if there is none; room among all tenants was the decision's to look for.
    fn topic_mut(&mut self, body: &Body<'_>) -> Option<&mut Topic> {
        let (tenant, topic, now_ms) = (body.tenant_id, body.subject, body.wall_ns / 1_000_000);
        if self.topic_at(tenant, topic, now_ms).is_none() {
            for tenant in self.tenants.values_mut() {
                self.remembered -= tenant.sweep(now_ms);
            }
            let tenant = self.tenants.entry(tenant.to_owned()).or_default();
            if tenant.topics.len() >= TOPICS.each {
                return None;
            }
            let blank = tenant.blank_at(now_ms);
            tenant.topics.insert(topic.to_owned(), blank);
        }
        let topic = self.tenants.get_mut(tenant)?.topics.get_mut(topic)?;
        topic.active_ms = topic.active_ms.max(now_ms);
        Some(topic)
    }

    fn has_room_for_topic(&self, tenant: &str, now_ms: u64) -> Result<(), &'static str> {
        let used = |t: &Tenant| t.topics_at(now_ms);
        let own = self.tenants.get(tenant).map_or(0, used);
        match TOPICS.admits(own, self.tenants.values().map(used)) {
            true => Ok(()),
            false => Err(TOPICS.limit(own)),
        }
    }

    fn published(&mut self, id: u64, body: &Body<'_>, meta: &Meta<'_>) {
        let Some(qos) = meta.text("qos").and_then(Qos::parse) else {
            return;
        };
        // What is given once leaves nothing to remember.
        if qos == Qos::AtMostOnce {
            return;
        }
        let Some(topic) = self.topic_mut(body) else {
            return;
        };
        if topic.open.contains_key(&body.ulid) || topic.done.contains_key(&body.ulid) {
            return;
        }
        topic.seen.add(body.ulid);
        let (lane, base) = (lane_of(&body.ulid), topic.base);
        let count = topic.counts.entry(lane).or_insert(base);
        *count += 1;
        let seq = *count;
        if qos == Qos::ExactlyOnce {
            let open = Open {
                id,
                seq,
                expires_ms: meta.number("expires_ms").unwrap_or(0),
                voters: BTreeSet::new(),
                acked: 0,
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
        if exactly {
            self.expire(body);
        }
        self.forget();
    }

    /// What has expired needs no commit. Beyond what is the tenant's own the oldest of each topic are looked at, and
    /// all now and then, once half of what may be open is.
    fn expire(&mut self, body: &Body<'_>) {
        const EVERY: usize = 256;
        let Some(tenant) = self.tenants.get_mut(body.tenant_id) else {
            return;
        };
        if tenant.open <= OPEN.own {
            return;
        }
        let all = tenant.open >= OPEN.each / 2 && tenant.open.is_multiple_of(EVERY);
        let looked_at = if all { usize::MAX } else { OLDEST };
        let now_ms = body.wall_ns / 1_000_000;
        for topic in tenant.topics.values_mut() {
            let expired: alloc::vec::Vec<_> = topic
                .open
                .iter()
                .take(looked_at)
                .filter(|(_, o)| o.is_expired(now_ms))
                .map(|(ulid, _)| *ulid)
                .collect();
            for ulid in expired {
                if let Some(Open {
                    id, seq, voters, ..
                }) = topic.open.remove(&ulid)
                {
                    let committed = 0;
                    tenant.votes -= voters.len();
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
            let Some(tenant) = most.filter(|t| t.done > REMEMBERED_OWN) else {
                return;
            };
            let most = tenant.topics.values_mut().max_by_key(|t| t.done.len());
            if let Some(topic) = most
                && let Some((ulid, _)) = topic.done.pop_first()
            {
                topic.forgotten.add(ulid);
            }
            tenant.done -= 1;
            self.remembered -= 1;
        }
    }

    fn subscribed(&mut self, id: u64, body: &Body<'_>, meta: &Meta<'_>) {
        let Some(name) = meta.text("consumer").filter(|name| is_consumer(name)) else {
            return;
        };
        let Some(topic) = self.topic_mut(body) else {
            return;
        };
        if topic.consumers.contains_key(name) {
            return;
        }
        let (lanes, base) = (
            counts_of(meta.text("lanes").unwrap_or_default()),
            topic.base,
        );
        let consumer = Consumer {
            from: meta.number("from").unwrap_or(0),
            lanes: lanes
                .into_iter()
                .map(|(l, floor)| (l, Lane::from(floor.max(base))))
                .collect(),
            base,
            slot: topic.free_slot(),
            since: id,
        };
        let tenant = self.tenants.get(body.tenant_id);
        if tenant.is_none_or(|t| t.consumers >= CONSUMERS.each) {
            return;
        }
        let Some(tenant) = self.tenants.get_mut(body.tenant_id) else {
            return;
        };
        if let Some(topic) = tenant.topics.get_mut(body.subject) {
            topic.consumers.insert(name.to_owned(), consumer);
            tenant.consumers += 1;
        }
    }

    fn has_room_for_consumer(&self, tenant: &str) -> Result<(), &'static str> {
        let own = self.tenants.get(tenant).map_or(0, |t| t.consumers);
        match CONSUMERS.admits(own, self.tenants.values().map(|t| t.consumers)) {
            true => Ok(()),
            false => Err(CONSUMERS.limit(own)),
        }
    }

    fn unsubscribed(&mut self, body: &Body<'_>, meta: &Meta<'_>) {
        let name = meta.text("consumer").unwrap_or_default();
        let Some(tenant) = self.tenants.get_mut(body.tenant_id) else {
            return;
        };
        let Some(topic) = tenant.topics.get_mut(body.subject) else {
            return;
        };
        if let Some(gone) = topic.consumers.remove(name) {
            tenant.consumers -= 1;
            // Who gets its place next has acknowledged nothing.
            let open = topic.open.values_mut();
            open.for_each(|open| open.acked &= !gone.bit());
            topic.active_ms = topic.active_ms.max(body.wall_ns / 1_000_000);
        }
        if topic.is_blank() {
            tenant.topics.remove(body.subject);
        }
    }

    fn acked(&mut self, body: &Body<'_>, meta: &Meta<'_>) {
        let name = meta.text("consumer").unwrap_or_default();
        let Some(tenant) = self.tenants.get_mut(body.tenant_id) else {
            return;
        };
        let Some(topic) = tenant.topics.get_mut(body.subject) else {
            return;
        };
        if let Some(consumer) = topic.consumers.get_mut(name) {
            let blank = Lane::from(consumer.base);
            consumer.from = consumer.from.max(meta.number("resume").unwrap_or(0));
            let lanes = &mut consumer.lanes;
            let messages = meta.text("messages").unwrap_or_default();
            for (lane, seq) in Target::list_of(messages) {
                lanes.entry(lane).or_insert_with(|| blank.clone()).add(seq);
            }
            for (lane, seq) in counts_of(meta.text("lanes").unwrap_or_default()) {
                lanes
                    .entry(lane)
                    .or_insert_with(|| blank.clone())
                    .raise(seq);
            }
            // What the ledger acknowledged for it, it did not.
            if meta.text("why").is_none() {
                let bit = consumer.bit();
                topic.count_for(bit, messages, body.payload);
            }
        } else if name.contains(':') {
            // Without a name: counted for a quorum alone.
            let ulid = meta.text("ulid").and_then(ulid::parse);
            if let Some(open) = ulid.and_then(|ulid| topic.open.get_mut(&ulid))
                && open.voters.len() < VOTERS_MAX
                && open.voters.insert(name.to_owned())
            {
                tenant.votes += 1;
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
            && let Some(Open {
                id, seq, voters, ..
            }) = topic.open.remove(&ulid)
        {
            let committed = event;
            tenant.votes -= voters.len();
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
        if let Some(topic) = self.topic_mut(body)
            && let Ok(shards) = u16::try_from(shards)
        {
            topic.map = ShardMap { version, shards };
        }
    }
}

/// The messages that an acknowledgement names, behind what is read of it first.
fn ulids_of(payload: &str) -> impl Iterator<Item = [u8; 16]> {
    let list = payload.split_once("},\"ulids\":[").map_or("", |(_, l)| l);
    let list = list.split(']').next().unwrap_or_default();
    let text = |one: &str| ulid::parse(one.strip_prefix('"')?.strip_suffix('"')?);
    list.split(',').filter_map(text)
}

#[cfg(test)]
mod tests;
