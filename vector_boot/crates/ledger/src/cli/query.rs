//! `query` and `tail`: events, as JSON or as lines for people.

use super::peer::{Next, Peer};
use super::snapshot::Snapshot;
use super::{Outcome, Place};
use crate::device::Access;
use crate::json::Json;
use crate::query::{Filter, LIMIT_DEFAULT, Order, Query};
use clap::Args;
use std::io::Write;
use std::process::ExitCode;

#[derive(Args)]
pub struct Words {
    /// Event type.
    #[arg(long = "type")]
    event_type: Option<String>,
    /// Tenant.
    #[arg(long)]
    tenant: Option<String>,
    /// Actor.
    #[arg(long)]
    actor: Option<String>,
    /// Namespace.
    #[arg(long)]
    ns: Option<String>,
    /// Subject.
    #[arg(long)]
    subject: Option<String>,
    /// This event and all that it caused.
    #[arg(long)]
    causation: Option<u64>,
    /// This event and its causes.
    #[arg(long, value_name = "ID", conflicts_with = "causation")]
    causes_of: Option<u64>,
    /// Written at this time or later, RFC 3339.
    #[arg(long, value_name = "TIME")]
    since: Option<String>,
    /// Written before this time.
    #[arg(long, value_name = "TIME")]
    until: Option<String>,
    /// First id.
    #[arg(long)]
    from: Option<u64>,
    /// How many.
    #[arg(long, default_value_t = LIMIT_DEFAULT)]
    limit: u64,
    /// From the latest.
    #[arg(long)]
    desc: bool,
    /// Prints JSON.
    #[arg(long)]
    json: bool,
}

impl Words {
    pub fn run(&self, place: &Place) -> Outcome {
        match place {
            Place::Disk(disk) => {
                let mut snapshot = Snapshot::open(disk.open(Access::Read)?)?;
                print_events(&snapshot.query(&self.query()?)?, self.json);
            }
            Place::Running(peer) => {
                peer.lines(&self.request(), &mut |line| print_line(&line, self.json))?;
            }
        }
        Ok(ExitCode::SUCCESS)
    }

    fn query(&self) -> Result<Query, String> {
        Ok(Query {
            filter: Filter::parse(Some(&self.filters())).map_err(|refusal| refusal.reason())?,
            from: self.from,
            limit: self.limit,
            order: if self.desc {
                Order::Descending
            } else {
                Order::Ascending
            },
        })
    }

    fn filters(&self) -> Json {
        let text = |value: &Option<String>| value.as_deref().map(Json::from);
        let filters = [
            ("event_type", text(&self.event_type)),
            ("tenant_id", text(&self.tenant)),
            ("actor", text(&self.actor)),
            ("ns", text(&self.ns)),
            ("subject", text(&self.subject)),
            ("causation", self.causation.map(Json::from)),
            ("causes_of", self.causes_of.map(Json::from)),
            ("wall_from", text(&self.since)),
            ("wall_to", text(&self.until)),
        ];
        let set = filters.into_iter();
        let set = set.filter_map(|(k, v)| Some((k.to_owned(), v?)));
        Json::Object(set.collect())
    }

    fn request(&self) -> Json {
        Json::object([
            ("type", "query".into()),
            ("filters", self.filters()),
            ("from", self.from.map_or(Json::Null, Json::from)),
            ("limit", self.limit.into()),
            ("order", if self.desc { "desc" } else { "asc" }.into()),
        ])
    }
}

#[derive(Args)]
pub struct TailWords {
    /// How many.
    #[arg(short, default_value_t = 10)]
    n: u64,
    /// Goes on as events commit (a running ledger only).
    #[arg(short)]
    follow: bool,
    /// Prints JSON.
    #[arg(long)]
    json: bool,
}

impl TailWords {
    pub fn run(&self, place: &Place) -> Outcome {
        let latest_first = match place {
            Place::Disk(_) if self.follow => {
                return Err("-f needs a running ledger: --socket PATH".to_owned());
            }
            Place::Disk(disk) => Snapshot::open(disk.open(Access::Read)?)?.query(&Query {
                filter: Filter::default(),
                from: None,
                limit: self.n.max(1),
                order: Order::Descending,
            })?,
            Place::Running(peer) if self.follow => {
                self.follow(peer)?;
                return Ok(ExitCode::SUCCESS);
            }
            Place::Running(peer) => self.latest(peer)?,
        };
        let take = usize::try_from(self.n).unwrap_or(usize::MAX);
        print_events(latest_first.iter().take(take).rev(), self.json);
        Ok(ExitCode::SUCCESS)
    }

    fn follow(&self, peer: &Peer) -> Result<(), String> {
        let request = Json::object([
            ("type", "subscribe".into()),
            ("from", format!("HEAD-{}", self.n).as_str().into()),
        ]);
        peer.follow(&request, &mut |line| print_line(&line, self.json))
    }

    fn latest(&self, peer: &Peer) -> Result<Vec<String>, String> {
        let request = Json::object([
            ("type", "query".into()),
            ("order", "desc".into()),
            ("limit", self.n.max(1).into()),
        ]);
        let mut events = Vec::new();
        peer.lines(&request, &mut |line| {
            events.extend(line.get("event").map(Json::to_string));
            Next::More
        })?;
        Ok(events)
    }
}

fn print_events<'e>(events: impl IntoIterator<Item = &'e String>, json: bool) {
    for event in events {
        if print_event(event, json) == Next::Enough {
            break;
        }
    }
}

/// Prints the event of a line that has one.
fn print_line(line: &Json, json: bool) -> Next {
    match line.get("event") {
        Some(event) => print_event(&event.to_string(), json),
        None => Next::More,
    }
}

/// Prints one event, as it is or as a line for people; enough when nobody reads.
fn print_event(event: &str, json: bool) -> Next {
    let line = if json {
        event.to_owned()
    } else {
        match Json::stored(event) {
            Ok(event) => {
                let text = |key| event.get(key).and_then(Json::text).unwrap_or("").to_owned();
                let id = event.get("id").and_then(Json::unsigned).unwrap_or(0);
                let payload = event.get("payload").unwrap_or(&Json::Null).to_string();
                let (when, ns, actor) = (text("wall_clock"), text("ns"), text("actor"));
                let (kind, subject) = (text("event_type"), text("subject"));
                format!("{id:>8}  {when}  {ns}  {actor}  {kind}  {subject}  {payload}")
            }
            Err(_) => event.to_owned(),
        }
    };
    match writeln!(std::io::stdout(), "{line}") {
        Ok(()) => Next::More,
        Err(_) => Next::Enough,
    }
}
