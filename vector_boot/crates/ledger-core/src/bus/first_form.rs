//! The bus as the section `bus` of a summary holds it: read, and never written any more.
//!
//! It said up to which ULID all is forgotten, and not who acknowledged a message that waits for its commit.

use super::stretches::Stretches;
use super::{Bus, Consumer, Done, Lane, Open, ShardMap, Tenant, Topic, lane_of};
use alloc::collections::{BTreeMap, BTreeSet};
use alloc::string::String;
use serde::Deserialize;

/// The whole.
#[derive(Deserialize)]
pub struct FirstForm {
    tenants: BTreeMap<String, OldTenant>,
    remembered: usize,
}

#[derive(Deserialize)]
struct OldTenant {
    topics: BTreeMap<String, OldTopic>,
    open: usize,
    done: usize,
    consumers: usize,
    votes: usize,
    forgotten: [u8; 16],
    retired: u64,
}

#[derive(Deserialize)]
struct OldTopic {
    map: ShardMap,
    counts: BTreeMap<u8, u64>,
    open: BTreeMap<[u8; 16], OldOpen>,
    done: BTreeMap<[u8; 16], Done>,
    forgotten: [u8; 16],
    consumers: BTreeMap<String, OldConsumer>,
    base: u64,
    active_ms: u64,
}

#[derive(Deserialize)]
struct OldOpen {
    id: u64,
    seq: u64,
    expires_ms: u64,
    voters: BTreeSet<String>,
}

#[derive(Deserialize)]
struct OldConsumer {
    from: u64,
    lanes: BTreeMap<u8, Lane>,
    base: u64,
}

impl From<FirstForm> for Bus {
    fn from(old: FirstForm) -> Self {
        let tenants = old.tenants.into_iter().map(|(name, t)| (name, t.into()));
        Self {
            tenants: tenants.collect(),
            remembered: old.remembered,
            wall_ms: 0,
        }
    }
}

impl From<OldTenant> for Tenant {
    fn from(old: OldTenant) -> Self {
        let topics = old.topics.into_iter().map(|(name, t)| (name, t.into()));
        Self {
            topics: topics.collect(),
            open: old.open,
            done: old.done,
            consumers: old.consumers,
            votes: old.votes,
            forgotten: Stretches::up_to(old.forgotten),
            retired: old.retired,
        }
    }
}

impl From<OldTopic> for Topic {
    fn from(old: OldTopic) -> Self {
        let forgotten = Stretches::up_to(old.forgotten);
        let mut seen = forgotten.clone();
        old.open
            .keys()
            .chain(old.done.keys())
            .for_each(|u| seen.add(*u));
        let consumers = (0..).zip(old.consumers).map(|(slot, (name, c))| {
            let consumer = Consumer {
                from: c.from,
                lanes: c.lanes,
                base: c.base,
                slot,
                since: 0,
            };
            (name, consumer)
        });
        let consumers: BTreeMap<String, Consumer> = consumers.collect();
        let open = old.open.into_iter().map(|(ulid, o)| {
            // The best that is known: what it is not owed counts, as it did then.
            let acked = consumers.values().filter(|c| c.has(lane_of(&ulid), o.seq));
            let open = Open {
                id: o.id,
                seq: o.seq,
                expires_ms: o.expires_ms,
                voters: o.voters,
                acked: acked.fold(0, |all, c| all | c.bit()),
            };
            (ulid, open)
        });
        Self {
            map: old.map,
            counts: old.counts,
            open: open.collect(),
            done: old.done,
            forgotten,
            seen,
            consumers,
            base: old.base,
            active_ms: old.active_ms,
        }
    }
}
