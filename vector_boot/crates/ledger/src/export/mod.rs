//! The log carried elsewhere: a git repository, lines of JSON, a syslog peer; and lines of JSON made a log again.
//!
//! A [`Sink`] takes events in the order of ids, from a log on disk or from a running ledger alike, and says when it has
//! them for good. Never here: words and progress of the command line (`cli/export.rs`).

#[cfg(feature = "git")]
mod git;
mod import;
mod lines;
mod syslog;

#[cfg(feature = "git")]
pub use git::GitExport;
pub use import::import;
pub use lines::Lines;
pub use syslog::{Peer as SyslogPeer, Syslog};

use crate::json::Json;
use crate::query::event_json;
use ledger_core::{Body, Hash, time};
use std::io;

/// One event on its way out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exported {
    /// Its id.
    pub id: u64,
    /// Nanoseconds since 1970.
    pub wall_ns: u64,
    /// Namespace.
    pub ns: String,
    /// Actor.
    pub actor: String,
    /// Tenant.
    pub tenant_id: String,
    /// What happened.
    pub event_type: String,
    /// What it is about.
    pub subject: String,
    /// Chain value, in hex.
    pub commit_id: String,
    /// The whole event, one line.
    pub json: String,
}

impl Exported {
    /// Of an event that was read.
    #[must_use]
    pub fn of(id: u64, chain: &Hash, body: &Body<'_>) -> Self {
        Self {
            id,
            wall_ns: body.wall_ns,
            ns: body.ns.to_owned(),
            actor: body.actor.to_owned(),
            tenant_id: body.tenant_id.to_owned(),
            event_type: body.event_type.to_owned(),
            subject: body.subject.to_owned(),
            commit_id: crate::query::hex(chain),
            json: event_json(id, chain, body),
        }
    }

    /// Of an event as a running ledger sends it; `None` if something is missing.
    #[must_use]
    pub fn parse(event: &Json) -> Option<Self> {
        let text = |key| event.get(key).and_then(Json::text).map(str::to_owned);
        Some(Self {
            id: event.get("id").and_then(Json::unsigned)?,
            wall_ns: time::parse_rfc3339(&text("wall_clock")?)?,
            ns: text("ns")?,
            actor: text("actor")?,
            tenant_id: text("tenant_id")?,
            event_type: text("event_type")?,
            subject: text("subject")?,
            commit_id: text("commit_id")?,
            json: event.to_string(),
        })
    }
}

/// Where events go.
pub trait Sink {
    /// Takes the next event.
    ///
    /// # Errors
    /// As the system's.
    fn take(&mut self, event: &Exported) -> io::Result<()>;

    /// All is there: makes it durable, and visible where it was not.
    ///
    /// # Errors
    /// As the system's.
    fn end(self: Box<Self>) -> io::Result<()>;
}
