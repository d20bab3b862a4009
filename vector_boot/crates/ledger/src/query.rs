//! Queries: which events, in which order, as JSON.

use crate::committer::Refusal;
use crate::identity::Reads;
use crate::index::{Candidates, Dimension, Index};
use crate::json::Json;
use crate::reader::Reader;
use ledger_core::{Body, Hash, time, ulid};
use std::collections::BTreeSet;
use std::fmt::Write;
use std::io;
use std::sync::{Mutex, PoisonError};

/// Events that one query returns when it does not say.
pub const LIMIT_DEFAULT: u64 = 100;
/// Events that one query returns at most; `next` continues.
pub const LIMIT_MAX: u64 = 10_000;
/// Candidate ids that are taken from the index at once.
const CANDIDATES_AT_ONCE: usize = 1024;
/// Events of one causation tree that are followed.
const CAUSES_MAX: usize = 65_536;

/// Which way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// From the oldest.
    Ascending,
    /// From the latest.
    Descending,
}

/// What an event must be.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Filter {
    /// Its type.
    pub event_type: Option<String>,
    /// Its tenant.
    pub tenant_id: Option<String>,
    /// Its actor.
    pub actor: Option<String>,
    /// Its namespace.
    pub ns: Option<String>,
    /// Its subject.
    pub subject: Option<String>,
    /// Its direct cause.
    pub causation_id: Option<u64>,
    /// This event, or one that it caused, directly or through others.
    pub causation: Option<u64>,
}

/// A query.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Query {
    /// Which events.
    pub filter: Filter,
    /// First id looked at; `None`: the first in this order.
    pub from: Option<u64>,
    /// Events wanted.
    pub limit: u64,
    /// Which way.
    pub order: Order,
}

/// How a query ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ended {
    /// Events returned.
    pub count: u64,
    /// Where the next query goes on.
    pub next: Option<u64>,
}

impl Filter {
    /// Reads an object of filters.
    ///
    /// # Errors
    /// `BAD_REQUEST` for a filter that is not known, or not of its type.
    pub fn parse(json: Option<&Json>) -> Result<Self, Refusal> {
        let mut this = Self::default();
        let members = match json {
            None | Some(Json::Null) => return Ok(this),
            Some(Json::Object(members)) => members,
            Some(_) => return Err(Refusal::new("BAD_REQUEST", "filters", "", "an object")),
        };
        for (key, value) in members {
            let text = || {
                let limit = "text";
                let text = value.text().map(str::to_owned);
                text.ok_or_else(|| Refusal::new("BAD_REQUEST", "filters", key, limit))
            };
            let id = || {
                let limit = "an event id";
                value
                    .unsigned()
                    .ok_or_else(|| Refusal::new("BAD_REQUEST", "filters", key, limit))
            };
            match key.as_str() {
                "event_type" | "type" => this.event_type = Some(text()?),
                "tenant_id" | "tenant" => this.tenant_id = Some(text()?),
                "actor" => this.actor = Some(text()?),
                "ns" => this.ns = Some(text()?),
                "subject" => this.subject = Some(text()?),
                "causation_id" => this.causation_id = Some(id()?),
                "causation" => this.causation = Some(id()?),
                _ => {
                    let limit =
                        "one of event_type tenant_id actor ns subject causation_id causation";
                    return Err(Refusal::new("BAD_REQUEST", "filters", key, limit));
                }
            }
        }
        Ok(this)
    }

    /// Narrows to what a peer may read.
    ///
    /// # Errors
    /// `POLICY_DENY` if it asks for what it may not.
    pub fn restrict(&mut self, reads: &Reads) -> Result<(), Refusal> {
        let deny = |limit: &str| Err(Refusal::new("POLICY_DENY", "tenant_id", "", limit));
        match (reads, &self.tenant_id) {
            (Reads::Everything, _) => Ok(()),
            (Reads::Nothing, _) => deny("this peer may not read"),
            (Reads::Tenant(own), Some(asked)) if asked != own => deny("another tenant's events"),
            (Reads::Tenant(own), _) => {
                self.tenant_id = Some(own.clone());
                Ok(())
            }
        }
    }

    /// Whether an event is wanted.
    #[must_use]
    pub fn matches(&self, body: &Body<'_>) -> bool {
        let same = |wanted: &Option<String>, is: &str| wanted.as_deref().is_none_or(|w| w == is);
        same(&self.event_type, body.event_type)
            && same(&self.tenant_id, body.tenant_id)
            && same(&self.actor, body.actor)
            && same(&self.ns, body.ns)
            && same(&self.subject, body.subject)
            && self
                .causation_id
                .is_none_or(|c| body.causation_id == Some(c))
    }

    fn dimensions(&self) -> Vec<(Dimension, &str)> {
        let all = [
            (Dimension::Ns, &self.ns),
            (Dimension::Actor, &self.actor),
            (Dimension::Tenant, &self.tenant_id),
            (Dimension::EventType, &self.event_type),
        ];
        let set = all.into_iter();
        set.filter_map(|(d, value)| value.as_deref().map(|v| (d, v)))
            .collect()
    }
}

/// Runs a query over the events `1..=head`. `emit` gets each event's JSON and says whether to go on;
/// `idle` is called now and then while nothing is found.
///
/// # Errors
/// As the reader's.
pub fn run(
    query: &Query,
    reader: &mut Reader,
    index: &Mutex<Index>,
    head: u64,
    emit: &mut dyn FnMut(String) -> bool,
    idle: &mut dyn FnMut(),
) -> io::Result<Ended> {
    let ascending = query.order == Order::Ascending;
    let mut at = match (query.from, ascending) {
        (Some(from), true) => from.max(query.filter.causation.unwrap_or(1)).max(1),
        (Some(from), false) => from.min(head),
        (None, true) => query.filter.causation.unwrap_or(1).max(1),
        (None, false) => head,
    };
    let mut causes: BTreeSet<u64> = query.filter.causation.into_iter().collect();
    let mut ended = Ended {
        count: 0,
        next: None,
    };
    let inside = |at: u64| (1..=head).contains(&at);
    while inside(at) {
        for id in candidates(query, index, at, head) {
            if ended.count >= query.limit {
                ended.next = Some(id);
                return Ok(ended);
            }
            let json = reader.event(id, |id, chain, body| {
                let caused = query.filter.causation.is_none()
                    || causes.contains(&id)
                    || body.causation_id.is_some_and(|c| causes.contains(&c));
                (caused && query.filter.matches(body)).then(|| event_json(id, chain, body))
            })?;
            if let Some(json) = json {
                if query.filter.causation.is_some() && causes.len() < CAUSES_MAX {
                    causes.insert(id);
                }
                ended.count += 1;
                if !emit(json) {
                    return Ok(ended);
                }
            }
            at = if ascending { id + 1 } else { id - 1 };
        }
        if at_end(query, index, &mut at, head) {
            break;
        }
        idle();
    }
    Ok(ended)
}

/// The next ids to look at, from `at` on.
fn candidates(query: &Query, index: &Mutex<Index>, at: u64, head: u64) -> Vec<u64> {
    let ascending = query.order == Order::Ascending;
    let index = index.lock().unwrap_or_else(PoisonError::into_inner);
    let posted = index.posted_from();
    // A causation tree crosses every posting.
    let filters = if query.filter.causation.is_some() {
        Vec::new()
    } else {
        query.filter.dimensions()
    };
    let (from, to) = if ascending {
        (at, head)
    } else {
        (posted.min(at).max(1), at)
    };
    match index.candidates(&filters, from, to, !ascending, CANDIDATES_AT_ONCE) {
        Candidates::Ids(ids) => ids,
        Candidates::All if ascending => (at..=head).take(CANDIDATES_AT_ONCE).collect(),
        Candidates::All => (1..=at).rev().take(CANDIDATES_AT_ONCE).collect(),
    }
}

/// Whether nothing is left behind `at`; steps over what the postings prove empty.
fn at_end(query: &Query, index: &Mutex<Index>, at: &mut u64, head: u64) -> bool {
    let more = candidates(query, index, *at, head);
    match (more.first(), query.order) {
        (Some(_), _) => false,
        (None, Order::Ascending) => true,
        (None, Order::Descending) => {
            // Postings say nothing of what is older than they are.
            let index = index.lock().unwrap_or_else(PoisonError::into_inner);
            let posted = index.posted_from();
            drop(index);
            if posted <= 1 || *at < posted {
                return true;
            }
            *at = posted - 1;
            false
        }
    }
}

/// An event as the protocols and the command line show it.
#[must_use]
pub fn event_json(id: u64, chain: &Hash, body: &Body<'_>) -> String {
    let mut out = String::with_capacity(256 + body.payload.len());
    let text = |value: &str| serde_json::to_string(value).unwrap_or_else(|_| "null".to_owned());
    let causation = body
        .causation_id
        .map_or("null".to_owned(), |c| c.to_string());
    // Writing to a string cannot fail.
    let _ = write!(
        out,
        "{{\"id\":{id},\"ulid\":\"{}\",\"timestamp\":{},\"wall_clock\":\"{}\",\"tenant_id\":{},\"ns\":{},\"actor\":{},\"event_type\":{},\"subject\":{},\"payload\":{},\"causation_id\":{causation},\"commit_id\":\"{}\"}}",
        ulid::text(&body.ulid),
        body.timestamp_ns,
        time::rfc3339(body.wall_ns),
        text(body.tenant_id),
        text(body.ns),
        text(body.actor),
        text(body.event_type),
        text(body.subject),
        body.payload,
        hex(chain),
    );
    out
}

/// Lower-case hex.
#[must_use]
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut out, b| {
        // Writing to a string cannot fail.
        let _ = write!(out, "{b:02x}");
        out
    })
}
