//! What may be published, acknowledged and committed: questions to the bus as it stands, which change
//! nothing. The events that follow from the answers do, in [`Bus::apply`].

use super::{
    Bus, Consumer, Done, OPEN, Open, Qos, ShardMap, Topic, VOTERS_MAX, VOTES_MAX, is_consumer,
    is_shards, is_topic, lane_of,
};
use crate::ulid;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::fmt::Write;

/// How far a ULID may lie in the future: senders' clocks differ.
const AHEAD_MS_MAX: u64 = 5 * 60 * 1000;

/// Why not: a stable code, the field, what it held and what it may hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct No {
    /// Stable code.
    pub code: &'static str,
    /// Field.
    pub field: &'static str,
    /// What it held.
    pub value: String,
    /// What it may hold.
    pub limit: String,
}

impl No {
    pub(crate) fn new(code: &'static str, field: &'static str, value: &str, limit: &str) -> Self {
        Self {
            code,
            field,
            value: value.to_string(),
            limit: limit.to_string(),
        }
    }
}

/// What is to be published.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Publish<'a> {
    /// Whose.
    pub tenant: &'a str,
    /// Where.
    pub topic: &'a str,
    /// How often it may have its effect.
    pub qos: Qos,
    /// Its name.
    pub ulid: [u8; 16],
    /// Whether the sender chose the name: then it may be a repeat.
    pub chosen: bool,
}

/// What becomes of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Published {
    /// It is new, and this one in its lane; 0 where nothing is to be acknowledged.
    New(u64),
    /// It is this event already.
    There(u64),
}

/// A message, as acknowledgements name it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Target {
    /// Its lane.
    pub lane: u8,
    /// Its number there.
    pub seq: u64,
}

impl Target {
    /// `LANE:SEQ`, semicolons between.
    #[must_use]
    pub fn list_text(targets: &[Self]) -> String {
        let mut out = String::new();
        for Self { lane, seq } in targets {
            let between = if out.is_empty() { "" } else { ";" };
            // Writing to a string cannot fail.
            let _ = write!(out, "{between}{lane}:{seq}");
        }
        out
    }

    /// Reads [`Self::list_text`]; what is no pair is passed over.
    pub(super) fn list_of(text: &str) -> impl Iterator<Item = (u8, u64)> {
        text.split(';').filter_map(|pair| {
            let (lane, seq) = pair.split_once(':')?;
            Some((lane.parse().ok()?, seq.parse().ok()?))
        })
    }
}

/// What becomes of an acknowledgement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Acked {
    /// These are new.
    New(Vec<Target>),
    /// All were there already.
    There,
}

/// What becomes of a commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Committed {
    /// This message, with so many acknowledgements.
    New {
        /// Its event.
        id: u64,
        /// How many consumers.
        acks: usize,
    },
    /// This event committed it already.
    There(u64),
}

impl Bus {
    /// What becomes of a message.
    ///
    /// # Errors
    /// BAD_REQUEST for what is no topic or a ULID of the future, DUPLICATE for a chosen ULID that is among
    /// those forgotten, QUOTA.
    pub fn publish(&self, publish: &Publish<'_>, wall_ns: u64) -> Result<Published, No> {
        let ulid_text = || ulid::text(&publish.ulid);
        let now_ms = wall_ns / 1_000_000;
        let topic = self.topic_at(publish.tenant, publish.topic, now_ms);
        if let Some(Known { id, .. }) = topic.and_then(|t| t.known(&publish.ulid)) {
            return Ok(Published::There(id));
        }
        // A repeat is one whatever the clock says by now.
        if publish.chosen && ulid::milliseconds(&publish.ulid) > now_ms + AHEAD_MS_MAX {
            let limit = "a time of at most five minutes ahead";
            return Err(No::new("BAD_REQUEST", "ulid", &ulid_text(), limit));
        }
        if publish.qos == Qos::AtMostOnce {
            named(publish.topic)?;
            return Ok(Published::New(0));
        }
        let blank = || {
            let tenant = self.tenants.get(publish.tenant);
            tenant.map(|t| t.blank_at(now_ms)).unwrap_or_default()
        };
        let (forgotten, count) = match topic {
            Some(topic) => {
                let forgotten = topic.forgotten.holds(&publish.ulid);
                (forgotten, topic.count(lane_of(&publish.ulid)))
            }
            None => {
                let blank = blank();
                (blank.forgotten.holds(&publish.ulid), blank.base)
            }
        };
        // One that was made just now is nobody's repeat, whatever the clock said once.
        if publish.qos == Qos::ExactlyOnce && publish.chosen && forgotten {
            let limit = "none of the times forgotten: whether it was published is not known";
            return Err(No::new("DUPLICATE", "ulid", &ulid_text(), limit));
        }
        if topic.is_none() {
            self.room_for_topic(publish.tenant, publish.topic, wall_ns)?;
        }
        self.room_for_message(publish, now_ms)?;
        Ok(Published::New(count + 1))
    }

    fn room_for_topic(&self, tenant: &str, topic: &str, wall_ns: u64) -> Result<(), No> {
        named(topic)?;
        self.has_room_for_topic(tenant, wall_ns / 1_000_000)
            .map_err(|limit| No::new("QUOTA", "topics", "", limit))
    }

    fn room_for_message(&self, publish: &Publish<'_>, now_ms: u64) -> Result<(), No> {
        let tenant = self.tenants.get(publish.tenant);
        let open = tenant.map_or(0, |t| t.open);
        // Beyond it somebody's open messages would have to be forgotten, whose duplicates then passed.
        let admits = || OPEN.admits(open, self.tenants.values().map(|t| t.open));
        let makes_room = || tenant.is_some_and(|t| t.has_expired(now_ms));
        if publish.qos != Qos::ExactlyOnce || admits() || makes_room() {
            return Ok(());
        }
        let limit = format!(
            "{} of exactly_once that wait for a commit",
            OPEN.limit(open)
        );
        Err(No::new("QUOTA", "messages", &open.to_string(), &limit))
    }

    /// Finds a message by its ULID among those remembered.
    #[must_use]
    pub fn resolve(&self, tenant: &str, topic: &str, ulid: &[u8; 16]) -> Option<Target> {
        let known = self.topic(tenant, topic)?.known(ulid)?;
        let lane = lane_of(ulid);
        Some(Target {
            lane,
            seq: known.seq,
        })
    }

    /// What becomes of a consumer's acknowledgements.
    ///
    /// # Errors
    /// NOT_FOUND for a consumer that has not subscribed or a message that is not there, QUOTA for one too
    /// far ahead of an older one.
    pub fn ack(
        &self,
        tenant: &str,
        topic: &str,
        consumer: &str,
        targets: &[Target],
    ) -> Result<Acked, No> {
        let there = self
            .topic(tenant, topic)
            .and_then(|t| Some((t, t.consumer(consumer)?)));
        let Some((topic, consumer)) = there else {
            let limit = "one that has subscribed to the topic";
            return Err(No::new("NOT_FOUND", "consumer", consumer, limit));
        };
        let mut new = Vec::new();
        for target in targets {
            let count = topic.count(target.lane);
            if target.seq == 0 || target.seq > count {
                let limit = "a message of the topic";
                return Err(No::new("NOT_FOUND", "ulid", "", limit));
            }
            if !consumer.reaches(target.lane, target.seq) {
                let limit = "older messages of its shard are acknowledged first";
                return Err(No::new("QUOTA", "ulid", "", limit));
            }
            if !consumer.has(target.lane, target.seq) && !new.contains(target) {
                new.push(*target);
            }
        }
        Ok(if new.is_empty() {
            Acked::There
        } else {
            Acked::New(new)
        })
    }

    /// Whether the acknowledgement of a consumer without a name is new: it counts for a quorum.
    ///
    /// # Errors
    /// NOT_FOUND for a message that is not among those remembered, QUOTA for more than are counted.
    pub fn vote(
        &self,
        tenant: &str,
        topic: &str,
        actor: &str,
        ulid: &[u8; 16],
        wall_ns: u64,
    ) -> Result<bool, No> {
        let votes = self.tenants.get(tenant).map_or(0, |t| t.votes);
        let topic = self.topic_at(tenant, topic, wall_ns / 1_000_000);
        let open = topic.and_then(|t| t.open.get(ulid));
        match open {
            Some(open) if open.voters.contains(actor) => Ok(false),
            Some(open) if open.voters.len() >= VOTERS_MAX || votes >= VOTES_MAX => {
                let limit = format!(
                    "at most {VOTERS_MAX} without a name of a message, and {VOTES_MAX} that wait for a commit"
                );
                Err(No::new("QUOTA", "consumer", "", &limit))
            }
            Some(_) => Ok(true),
            None if topic.is_some_and(|t| t.done.contains_key(ulid)) => Ok(false),
            None => Err(unknown(ulid)),
        }
    }

    /// What becomes of a commit: `of` names the consumers whose acknowledgements count, all if absent. One
    /// counts that was to be given the message and acknowledged it itself.
    ///
    /// # Errors
    /// NOT_FOUND for a message that is not among those remembered, BAD_REQUEST for one that wants no
    /// commit, NOT_QUORATE.
    pub fn commit(
        &self,
        tenant: &str,
        topic: &str,
        ulid: &[u8; 16],
        of: Option<&[String]>,
        quorum: usize,
        wall_ns: u64,
    ) -> Result<Committed, No> {
        let topic = self.topic_at(tenant, topic, wall_ns / 1_000_000);
        let topic = topic.ok_or_else(|| unknown(ulid))?;
        let open = match (topic.open.get(ulid), topic.done.get(ulid)) {
            (Some(open), _) => open,
            (None, Some(Done { committed: 0, .. })) => {
                let (value, limit) = (
                    ulid::text(ulid),
                    "an exactly_once message that has not expired",
                );
                return Err(No::new("BAD_REQUEST", "msg_ulid", &value, limit));
            }
            (None, Some(done)) => return Ok(Committed::There(done.committed)),
            (None, None) => return Err(unknown(ulid)),
        };
        let counts = |name: &str| of.is_none_or(|of| of.iter().any(|o| o == name));
        let acked = |(name, c): &(&String, &Consumer)| counts(name) && open.acked & c.bit() != 0;
        let named = topic.consumers.iter().filter(acked).count();
        let acks = named + open.voters.iter().filter(|v| counts(v)).count();
        if acks < quorum.max(1) {
            let (value, limit) = (
                acks.to_string(),
                format!("{} acknowledgements", quorum.max(1)),
            );
            return Err(No::new("NOT_QUORATE", "acks", &value, &limit));
        }
        Ok(Committed::New { id: open.id, acks })
    }

    /// Whether the consumer is new.
    ///
    /// # Errors
    /// BAD_REQUEST for what is no topic or name, QUOTA.
    pub fn subscribe(
        &self,
        tenant: &str,
        topic: &str,
        consumer: &str,
        wall_ns: u64,
    ) -> Result<bool, No> {
        if !is_consumer(consumer) {
            let limit = "1 to 64 of A-Z a-z 0-9 . _ -";
            return Err(No::new("BAD_REQUEST", "consumer", consumer, limit));
        }
        match self.topic_at(tenant, topic, wall_ns / 1_000_000) {
            Some(t) if t.consumers.contains_key(consumer) => return Ok(false),
            Some(_) => {}
            None => self.room_for_topic(tenant, topic, wall_ns)?,
        }
        let room = self.has_room_for_consumer(tenant);
        room.map_err(|limit| No::new("QUOTA", "consumers", "", limit))?;
        Ok(true)
    }

    /// The next shard map of a topic; `None` if it has so many shards already.
    ///
    /// # Errors
    /// BAD_REQUEST for what is no topic or number of shards, QUOTA.
    pub fn shard(
        &self,
        tenant: &str,
        topic: &str,
        shards: u64,
        wall_ns: u64,
    ) -> Result<Option<ShardMap>, No> {
        let map = match self.topic_at(tenant, topic, wall_ns / 1_000_000) {
            Some(topic) => topic.map,
            None => {
                self.room_for_topic(tenant, topic, wall_ns)?;
                ShardMap::default()
            }
        };
        let wanted = u16::try_from(shards).ok().filter(|_| is_shards(shards));
        let Some(shards) = wanted else {
            let limit = "a power of two up to 256";
            return Err(No::new("BAD_REQUEST", "shards", &shards.to_string(), limit));
        };
        let version = map.version + 1;
        Ok((shards != map.shards).then_some(ShardMap { version, shards }))
    }
}

/// Whether the text may be a topic.
///
/// # Errors
/// BAD_REQUEST.
pub fn named(topic: &str) -> Result<(), No> {
    if is_topic(topic) {
        return Ok(());
    }
    let limit = "1 to 128 of A-Z a-z 0-9 . _ / -";
    Err(No::new("BAD_REQUEST", "topic", topic, limit))
}

fn unknown(ulid: &[u8; 16]) -> No {
    let limit = "a message among those remembered";
    No::new("NOT_FOUND", "msg_ulid", &ulid::text(ulid), limit)
}

/// A message that is remembered.
struct Known {
    id: u64,
    seq: u64,
}

impl Topic {
    fn known(&self, ulid: &[u8; 16]) -> Option<Known> {
        let open = self.open.get(ulid).map(|Open { id, seq, .. }| (*id, *seq));
        let found = open.or_else(|| self.done.get(ulid).map(|Done { id, seq, .. }| (*id, *seq)));
        found.map(|(id, seq)| Known { id, seq })
    }
}
