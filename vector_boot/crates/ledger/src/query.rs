//! Queries: which events, in which order, as JSON.

use crate::committer::Refusal;
use crate::identity::Reads;
use crate::index::{BLOCK_EVENTS, Dimension, Index, Look, Span};
use crate::json::Json;
use crate::reader::{Reader, compacted, still_there};
use ledger_core::{Body, Hash, time, ulid};
use roaring::RoaringBitmap;
use std::cmp::Reverse;
use std::collections::{BTreeSet, BinaryHeap};
use std::fmt::Write;
use std::io;
use std::ops::ControlFlow;
use std::sync::{Mutex, PoisonError};

/// Events that one query returns when it does not say.
pub const LIMIT_DEFAULT: u64 = 100;
/// Events that one query returns at most; `next` continues.
pub const LIMIT_MAX: u64 = 10_000;
/// Events looked at between two calls of `idle`.
const IDLE_EVERY: u64 = 1024;
/// A query that looked at so many events gives back what it took of the heap: by far more than those of most.
const LONG_EVENTS: u64 = 1024;
/// Events of one causation tree that wait to be followed, and of one chain.
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
    /// This event, or one that it caused, directly or through others of the same tenant filter.
    pub causation: Option<u64>,
    /// This event, or one of its causes, as far as the tenant filter lets them be seen.
    pub causes_of: Option<u64>,
    /// Written at this time or later, by the wall clock, nanoseconds since 1970.
    pub wall_from: Option<u64>,
    /// Written before this time.
    pub wall_to: Option<u64>,
    /// Happened at this time or later, CLOCK_MONOTONIC.
    pub timestamp_from: Option<u64>,
    /// Happened before this time.
    pub timestamp_to: Option<u64>,
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
            let ns = || {
                let limit = "nanoseconds of CLOCK_MONOTONIC";
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
                "causes_of" => this.causes_of = Some(id()?),
                "wall_from" => this.wall_from = Some(wall_ns(key, value)?),
                "wall_to" => this.wall_to = Some(wall_ns(key, value)?),
                "timestamp_from" => this.timestamp_from = Some(ns()?),
                "timestamp_to" => this.timestamp_to = Some(ns()?),
                _ => {
                    let limit = "one of event_type tenant_id actor ns subject causation_id causation \
                                 causes_of wall_from wall_to timestamp_from timestamp_to";
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
        let deny = |limit: &str| {
            let refusal = Refusal::new("POLICY_DENY", "tenant_id", "", limit);
            Err(refusal.by(crate::identity::RULE_TENANT))
        };
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
            && self.wall_from.is_none_or(|t| body.wall_ns >= t)
            && self.wall_to.is_none_or(|t| body.wall_ns < t)
            && self.timestamp_from.is_none_or(|t| body.timestamp_ns >= t)
            && self.timestamp_to.is_none_or(|t| body.timestamp_ns < t)
    }

    /// Whether a causation tree or chain goes through an event.
    fn sees(&self, body: &Body<'_>) -> bool {
        let tenant = self.tenant_id.as_deref();
        tenant.is_none_or(|tenant| tenant == body.tenant_id)
    }

    /// Whether events with these times may be wanted.
    fn may_match(&self, span: &Span) -> bool {
        let inside = |from: Option<u64>, to: Option<u64>, (first, last): (u64, u64)| {
            from.is_none_or(|from| last >= from) && to.is_none_or(|to| first < to)
        };
        inside(self.wall_from, self.wall_to, span.wall)
            && inside(self.timestamp_from, self.timestamp_to, span.monotonic)
    }

    fn is_timed(&self) -> bool {
        let times = [
            self.wall_from,
            self.wall_to,
            self.timestamp_from,
            self.timestamp_to,
        ];
        times.iter().any(Option::is_some)
    }

    fn dimensions(&self) -> Vec<(Dimension, &str)> {
        let all = [
            (Dimension::Ns, &self.ns),
            (Dimension::Actor, &self.actor),
            (Dimension::Tenant, &self.tenant_id),
            (Dimension::EventType, &self.event_type),
            (Dimension::Subject, &self.subject),
        ];
        let set = all.into_iter();
        set.filter_map(|(d, value)| value.as_deref().map(|v| (d, v)))
            .collect()
    }
}

/// A wall-clock time: RFC 3339 in UTC, or nanoseconds since 1970.
fn wall_ns(key: &str, value: &Json) -> Result<u64, Refusal> {
    let text = value.text().and_then(time::parse_rfc3339);
    text.or(value.unsigned()).ok_or_else(|| {
        let limit = "RFC 3339 ending in Z, or nanoseconds since 1970";
        Refusal::new("BAD_REQUEST", "filters", key, limit)
    })
}

/// Runs a query over the events up to `head`. `emit` gets each event's JSON and says whether to go on;
/// `idle` is called now and then while nothing is found.
///
/// # Errors
/// As the reader's; `QuotaExceeded` for a causation tree that is too broad.
pub fn run(
    query: &Query,
    reader: &mut Reader,
    index: &Mutex<Index>,
    head: u64,
    emit: &mut dyn FnMut(String) -> bool,
    idle: &mut dyn FnMut(),
) -> io::Result<Ended> {
    let mut as_json = |id, chain: &Hash, body: &Body<'_>| emit(event_json(id, chain, body));
    each(query, reader, index, head, &mut as_json, idle)
}

/// The same, with `emit` given the events as they lie in the log.
///
/// # Errors
/// As [`run`].
pub fn each(
    query: &Query,
    reader: &mut Reader,
    index: &Mutex<Index>,
    head: u64,
    emit: Emit<'_>,
    idle: &mut dyn FnMut(),
) -> io::Result<Ended> {
    let mut run = Run {
        query,
        reader,
        index,
        head,
        emit,
        idle,
        looked: 0,
        last: 0,
        ended: Ended {
            count: 0,
            next: None,
        },
    };
    // Each ends early, once the limit or the peer says so.
    let _ = match (query.filter.causation, query.filter.causes_of) {
        (Some(root), _) => run.tree(root)?,
        (None, Some(event)) => run.chain(event)?,
        (None, None) => run.scan()?,
    };
    let (looked, ended) = (run.looked, run.ended);
    if looked >= LONG_EVENTS {
        sys::reclaim::heap();
    }
    Ok(ended)
}

/// Is given an event's id, commit id and body; says whether to go on.
type Emit<'r> = &'r mut dyn FnMut(u64, &Hash, &Body<'_>) -> bool;

/// A query under way.
struct Run<'r> {
    query: &'r Query,
    reader: &'r mut Reader,
    index: &'r Mutex<Index>,
    head: u64,
    emit: Emit<'r>,
    idle: &'r mut dyn FnMut(),
    looked: u64,
    /// Last event emitted.
    last: u64,
    ended: Ended,
}

/// Goes on, or ends here.
type Flow = io::Result<ControlFlow<()>>;

impl Run<'_> {
    /// The first event that is kept.
    fn first(&self) -> u64 {
        let index = self.index.lock().unwrap_or_else(PoisonError::into_inner);
        index.first()
    }

    fn look(&self, id: u64) -> Option<Look> {
        let index = self.index.lock().unwrap_or_else(PoisonError::into_inner);
        index.at(id)
    }

    /// Hands out an event that may match.
    fn offer(&mut self, id: u64) -> Flow {
        if self.ended.count >= self.query.limit {
            // From this query's own last event on: where others' lie is not said.
            self.ended.next = Some(match self.query.order {
                Order::Ascending => self.last + 1,
                Order::Descending => self.last - 1,
            });
            return Ok(ControlFlow::Break(()));
        }
        self.looked += 1;
        if self.looked.is_multiple_of(IDLE_EVERY) {
            (self.idle)();
        }
        let (filter, emit) = (&self.query.filter, &mut self.emit);
        let wanted = self.reader.event_if(
            id,
            |body| filter.matches(body),
            |id, chain, body| emit(id, chain, body),
        )?;
        let Some(go_on) = wanted else {
            return Ok(ControlFlow::Continue(()));
        };
        self.ended.count += 1;
        self.last = id;
        Ok(if go_on {
            ControlFlow::Continue(())
        } else {
            ControlFlow::Break(())
        })
    }

    /// Segment by segment, the events that the index names.
    fn scan(&mut self) -> Flow {
        let first = self.first();
        let ascending = self.query.order == Order::Ascending;
        let mut at = match (self.query.from, ascending) {
            (from, true) => {
                let from = from.unwrap_or(first);
                still_there(from, first)?;
                from.max(first)
            }
            (from, false) => from.unwrap_or(self.head).min(self.head),
        };
        while (first..=self.head).contains(&at) {
            let Some(look) = self.look(at) else {
                let first = self.first();
                if ascending && at < first {
                    // A compaction overtook it.
                    return Err(compacted(at, first));
                }
                break;
            };
            let (low, high) = if ascending {
                (at, look.last.min(self.head))
            } else {
                (look.extent.first_id, look.last.min(at))
            };
            if low <= high && self.segment(&look, low, high)?.is_break() {
                return Ok(ControlFlow::Break(()));
            }
            at = if ascending { high.max(at) + 1 } else { low - 1 };
            (self.idle)();
        }
        Ok(ControlFlow::Continue(()))
    }

    /// The events `low..=high` of one segment.
    fn segment(&mut self, look: &Look, low: u64, high: u64) -> Flow {
        let filter = &self.query.filter;
        if look.span.is_some_and(|span| !filter.may_match(&span)) {
            return Ok(ControlFlow::Continue(()));
        }
        let begin = look.extent.first_id;
        // A segment holds fewer events than 32 bits count.
        let ordinal = |id: u64| u32::try_from(id - begin).unwrap_or(u32::MAX);
        let range = ordinal(low)..=ordinal(high);
        let named = self.named(look);
        let mut ordinals: Box<dyn Iterator<Item = u32>> = match (&named, self.query.order) {
            (Some(named), Order::Ascending) => Box::new(named.range(range)),
            (Some(named), Order::Descending) => Box::new(named.range(range).rev()),
            (None, Order::Ascending) => Box::new(range),
            (None, Order::Descending) => Box::new(range.rev()),
        };
        let timed = filter.is_timed();
        let mut block = (u32::MAX, true);
        ordinals
            .try_for_each(|ordinal| {
                let of = ordinal / BLOCK_EVENTS;
                if timed && block.0 != of {
                    let span = look.block(of).unwrap_or(None);
                    block = (of, span.is_none_or(|span| filter.may_match(&span)));
                }
                if !block.1 {
                    return ControlFlow::Continue(());
                }
                match self.offer(begin + u64::from(ordinal)) {
                    Ok(ControlFlow::Continue(())) => ControlFlow::Continue(()),
                    other => ControlFlow::Break(other),
                }
            })
            .break_value()
            .unwrap_or(Ok(ControlFlow::Continue(())))
    }

    /// Ordinals that may match; `None` if each event must be looked at.
    fn named(&self, look: &Look) -> Option<RoaringBitmap> {
        let filter = &self.query.filter;
        let named = look.candidates(&filter.dimensions()).and_then(|named| {
            let Some(cause) = filter.causation_id else {
                return Ok(named);
            };
            let mut ids = Vec::new();
            if !look.children(cause, &mut ids)? {
                return Ok(named);
            }
            let begin = look.extent.first_id;
            let ordinals = ids.iter().filter_map(|id| u32::try_from(id - begin).ok());
            let caused: RoaringBitmap = ordinals.collect();
            Ok(Some(match named {
                Some(named) => named & caused,
                None => caused,
            }))
        });
        named.unwrap_or_else(|_| {
            self.distrust(look);
            None
        })
    }

    fn distrust(&self, look: &Look) {
        let mut index = self.index.lock().unwrap_or_else(PoisonError::into_inner);
        index.distrust(look);
    }

    /// Whether a tree or chain goes through an event, and its cause.
    fn step(&mut self, id: u64) -> io::Result<(bool, Option<u64>)> {
        let filter = &self.query.filter;
        self.reader
            .event(id, |_, _, body| (filter.sees(body), body.causation_id))
    }

    /// An event and all that it caused, in the order of ids: causes come before what they cause.
    fn tree(&mut self, root: u64) -> Flow {
        let from = self.query.from.unwrap_or(root);
        let mut waiting = BinaryHeap::from([Reverse(root)]);
        if root == 0 || root > self.head {
            return Ok(ControlFlow::Continue(()));
        }
        while let Some(Reverse(id)) = waiting.pop() {
            if !self.step(id)?.0 {
                continue;
            }
            if id >= from && self.offer(id)?.is_break() {
                return Ok(ControlFlow::Break(()));
            }
            let mut caused = Vec::new();
            if !self.children(id, &mut caused)? {
                // Some segment has no part in the index: what is left is read through, once.
                waiting.push(Reverse(id));
                return self.read_tree(id, from, waiting);
            }
            waiting.extend(
                caused
                    .into_iter()
                    .filter(|id| *id <= self.head)
                    .map(Reverse),
            );
            if waiting.len() > CAUSES_MAX {
                let why = format!("causation tree is broader than {CAUSES_MAX} events");
                return Err(io::Error::new(io::ErrorKind::QuotaExceeded, why));
            }
            (self.idle)();
        }
        Ok(ControlFlow::Continue(()))
    }

    /// What an event caused directly; false if the index does not know of some segment.
    fn children(&self, cause: u64, out: &mut Vec<u64>) -> io::Result<bool> {
        let mut at = cause;
        while at <= self.head {
            let Some(look) = self.look(at) else { break };
            match look.children(cause, out) {
                Ok(true) => {}
                Ok(false) => return Ok(false),
                Err(_) => {
                    self.distrust(&look);
                    return Ok(false);
                }
            }
            at = look.last.max(at) + 1;
        }
        Ok(true)
    }

    /// [`Self::tree`] by reading every event behind `done`, whose own is offered already.
    fn read_tree(&mut self, done: u64, from: u64, waiting: BinaryHeap<Reverse<u64>>) -> Flow {
        let mut causes: BTreeSet<u64> = waiting.into_iter().map(|Reverse(id)| id).collect();
        for id in done + 1..=self.head {
            let (seen, cause) = self.step(id)?;
            let waited = causes.contains(&id);
            if seen && (waited || cause.is_some_and(|cause| causes.contains(&cause))) {
                causes.insert(id);
                if causes.len() > CAUSES_MAX {
                    let why = format!("causation tree is larger than {CAUSES_MAX} events");
                    return Err(io::Error::new(io::ErrorKind::QuotaExceeded, why));
                }
                if id >= from && self.offer(id)?.is_break() {
                    return Ok(ControlFlow::Break(()));
                }
            }
            if id.is_multiple_of(IDLE_EVERY) {
                (self.idle)();
            }
        }
        Ok(ControlFlow::Continue(()))
    }

    /// An event and its causes.
    fn chain(&mut self, event: u64) -> Flow {
        let mut ids = Vec::new();
        let mut next = (1..=self.head).contains(&event).then_some(event);
        while let Some(id) = next
            && ids.len() < CAUSES_MAX
        {
            next = match self.step(id) {
                Ok((true, cause)) => cause,
                Ok((false, _)) => break,
                // Causes that were compacted away end the chain; the event itself must be there.
                Err(e) if e.kind() == io::ErrorKind::NotFound && id != event => break,
                Err(e) => return Err(e),
            };
            ids.push(id);
        }
        let from = self.query.from;
        if self.query.order == Order::Ascending {
            ids.reverse();
            ids.retain(|id| from.is_none_or(|from| *id >= from));
        } else {
            ids.retain(|id| from.is_none_or(|from| *id <= from));
        }
        for id in ids {
            if self.offer(id)?.is_break() {
                return Ok(ControlFlow::Break(()));
            }
        }
        Ok(ControlFlow::Continue(()))
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
    let sig = body
        .sig
        .map_or_else(String::new, |sig| format!(",\"sig\":\"{}\"", hex(sig)));
    let _ = write!(
        out,
        "{{\"id\":{id},\"ulid\":\"{}\",\"timestamp\":{},\"wall_clock\":\"{}\",\"tenant_id\":{},\"ns\":{},\"actor\":{},\"event_type\":{},\"subject\":{},\"payload\":{},\"causation_id\":{causation},\"commit_id\":\"{}\"{sig}}}",
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
