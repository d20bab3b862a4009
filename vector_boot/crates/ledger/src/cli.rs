//! The command line: the service itself, or questions to a log on disk or to a running ledger.

use crate::committer::{Committer, Draft};
use crate::device::{Access, Device};
use crate::fold::Fold;
use crate::json::Json;
use crate::log::Birth;
use crate::query::{self, Filter, LIMIT_DEFAULT, Order, Query, hex};
use crate::reader::Reader;
use crate::verify::{self, expected_bytes};
use crate::{clock, open, scan, serve};
use clap::{Args, Parser, Subcommand};
use ledger_core::ulid;
use std::ffi::OsString;
use std::io::{BufRead, BufReader, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use sys::packet::connect_stream_within;

/// How long a running service may be silent: a query over a large log says nothing while it finds nothing.
const ANSWER_LIMIT: Duration = Duration::from_secs(30);

/// A verification that takes longer shows progress on a terminal.
const PROGRESS_AFTER: Duration = Duration::from_secs(1);
/// Exit code when the log does not hold, or the call was refused.
const FAILED: u8 = 1;

/// The ledger: without a command, the service.
#[derive(Parser)]
#[command(name = "ledger", disable_version_flag = true)]
struct Words {
    /// A folder, file, disk image (its partition `log`) or block device.
    #[arg(long, global = true, value_name = "PATH", conflicts_with = "socket")]
    log: Option<PathBuf>,
    /// The socket of a running ledger; `ledger.sock` in the run folder if neither is given.
    #[arg(long, global = true, value_name = "PATH")]
    socket: Option<PathBuf>,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Subcommand)]
enum Command {
    /// Appends one event and prints its id.
    Append {
        /// Namespace.
        #[arg(long)]
        ns: String,
        /// user:NAME, agent:NAME or service:NAME.
        #[arg(long)]
        actor: String,
        /// An object with event_type, and subject, payload, tenant_id, causation_id.
        #[arg(long, value_name = "JSON")]
        event: String,
        /// Prints the whole receipt.
        #[arg(long)]
        json: bool,
    },
    /// Prints events that match.
    Query(QueryWords),
    /// Prints the last events.
    Tail {
        /// How many.
        #[arg(short, default_value_t = 10)]
        n: u64,
        /// Goes on as events commit (a running ledger only).
        #[arg(short)]
        follow: bool,
        /// Prints JSON.
        #[arg(long)]
        json: bool,
    },
    /// Checks every frame, chain value, tag and root; exit 0 only if all hold.
    Verify {
        /// Prints JSON.
        #[arg(long)]
        json: bool,
    },
    /// Prints how the log is.
    Doctor {
        /// Prints JSON.
        #[arg(long)]
        json: bool,
    },
}

#[derive(Args)]
struct QueryWords {
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

/// Runs the role over the words behind its name.
pub fn main(words: &[OsString]) -> ExitCode {
    let name = OsString::from("ledger");
    let words = match Words::try_parse_from(std::iter::once(&name).chain(words)) {
        Ok(words) => words,
        Err(e) => {
            // Nobody reads: nothing is left to say.
            let _ = e.print();
            return ExitCode::from(if e.use_stderr() { 2 } else { 0 });
        }
    };
    let Some(command) = words.command else {
        return serve::main(words.log.as_deref());
    };
    let done = match &words.log {
        Some(path) => offline(path, &command),
        None => {
            let default = || ipc::run_folder().join("ledger.sock");
            online(&words.socket.unwrap_or_else(default), &command)
        }
    };
    match done {
        Ok(code) => code,
        Err(why) => {
            eprintln!("ledger: {why}");
            ExitCode::from(FAILED)
        }
    }
}

impl QueryWords {
    fn query(&self) -> Query {
        Query {
            filter: Filter {
                event_type: self.event_type.clone(),
                tenant_id: self.tenant.clone(),
                actor: self.actor.clone(),
                ns: self.ns.clone(),
                subject: self.subject.clone(),
                causation_id: None,
                causation: self.causation,
            },
            from: self.from,
            limit: self.limit,
            order: if self.desc {
                Order::Descending
            } else {
                Order::Ascending
            },
        }
    }

    fn request(&self) -> Json {
        let text = |value: &Option<String>| value.as_deref().map(Json::from);
        let filters = [
            ("event_type", text(&self.event_type)),
            ("tenant_id", text(&self.tenant)),
            ("actor", text(&self.actor)),
            ("ns", text(&self.ns)),
            ("subject", text(&self.subject)),
            ("causation", self.causation.map(Json::from)),
        ];
        let filters = filters
            .into_iter()
            .filter_map(|(k, v)| Some((k.to_owned(), v?)))
            .collect();
        Json::object([
            ("type", "query".into()),
            ("filters", Json::Object(filters)),
            ("from", self.from.map_or(Json::Null, Json::from)),
            ("limit", self.limit.into()),
            ("order", if self.desc { "desc" } else { "asc" }.into()),
        ])
    }
}

/// Prints one event, as it is or as a line for people; false when nobody reads.
fn print_event(event: &str, json: bool) -> bool {
    let line = if json {
        event.to_owned()
    } else {
        match Json::parse(event) {
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
    writeln!(std::io::stdout(), "{line}").is_ok()
}

fn print_report(members: &Json, json: bool) -> ExitCode {
    let holds = members.get("verified") == Some(&Json::Bool(true))
        && matches!(members.get("stopped"), None | Some(Json::Null));
    let number = |json: Option<&Json>, key| {
        json.and_then(|j| j.get(key))
            .and_then(Json::unsigned)
            .unwrap_or(0)
    };
    if json {
        println!("{members}");
    } else if let Some(bad @ Json::Object(_)) = members.get("bad") {
        let text = |key| bad.get(key).and_then(Json::text).unwrap_or("").to_owned();
        println!(
            "BAD event {} offset {}: {} ({})",
            number(Some(bad), "event_id"),
            number(Some(bad), "offset"),
            text("what"),
            text("place")
        );
        println!("{} events before it hold", number(Some(members), "events"));
    } else if let Some(Json::Text(why)) = members.get("stopped") {
        println!("BAD {why}");
    } else {
        println!(
            "ok {} events in {} groups, {} bytes, root {}",
            number(Some(members), "events"),
            number(Some(members), "groups"),
            number(Some(members), "bytes"),
            members.get("root").and_then(Json::text).unwrap_or("")
        );
    }
    ExitCode::from(if holds { 0 } else { FAILED })
}

/// A log on disk, read whole: never written, and no lock taken, so that a running ledger may go on.
struct Snapshot {
    reader: Reader,
    index: Arc<Mutex<crate::index::Index>>,
    last: u64,
}

impl Snapshot {
    fn open(device: Arc<dyn Device>) -> Result<Self, String> {
        let (superblock, _) = scan::superblock(&*device)
            .map_err(|e| e.to_string())?
            .ok_or("blank: no log here yet")?;
        let mut fold = Fold::default();
        let end = scan::scan(&*device, &superblock, None, &mut |found| fold.found(&found))
            .map_err(|e| e.to_string())?;
        if let Some(fault) = end.fault {
            let at = device.locate(superblock.segment_offset(fault.segment) + fault.offset);
            eprintln!("ledger: reading stops at {at}: {}", fault.kind);
        }
        let index = Arc::new(Mutex::new(fold.index));
        Ok(Self {
            reader: Reader::new(device, superblock, index.clone()),
            index,
            last: end.head.id,
        })
    }

    fn query(&mut self, query: &Query) -> Result<Vec<String>, String> {
        let mut events = Vec::new();
        let mut emit = |event| {
            events.push(event);
            true
        };
        query::run(
            query,
            &mut self.reader,
            &self.index,
            self.last,
            &mut emit,
            &mut || (),
        )
        .map_err(|e| e.to_string())?;
        Ok(events)
    }
}

fn offline(path: &Path, command: &Command) -> Result<ExitCode, String> {
    let access = match command {
        Command::Append { .. } => Access::Write,
        _ => Access::Read,
    };
    let device = open::path(path, access).map_err(|e| e.to_string())?;
    match command {
        Command::Append {
            ns,
            actor,
            event,
            json,
        } => append_offline(device, ns, actor, event, *json),
        Command::Query(words) => {
            for event in Snapshot::open(device)?.query(&words.query())? {
                if !print_event(&event, words.json) {
                    break;
                }
            }
            Ok(ExitCode::SUCCESS)
        }
        Command::Tail { follow: true, .. } => {
            Err("-f needs a running ledger: --socket PATH".to_owned())
        }
        Command::Tail { n, json, .. } => {
            let query = Query {
                filter: Filter::default(),
                from: None,
                limit: (*n).max(1),
                order: Order::Descending,
            };
            let events = Snapshot::open(device)?.query(&query)?;
            let take = usize::try_from(*n).unwrap_or(usize::MAX);
            for event in events.iter().take(take).rev() {
                if !print_event(event, *json) {
                    break;
                }
            }
            Ok(ExitCode::SUCCESS)
        }
        Command::Verify { json } => verify_offline(&*device, *json),
        Command::Doctor { json } => doctor_offline(&*device, *json),
    }
}

fn append_offline(
    device: Arc<dyn Device>,
    ns: &str,
    actor: &str,
    event: &str,
    json: bool,
) -> Result<ExitCode, String> {
    let event = Json::parse(event).map_err(|r| r.reason())?;
    let text = |key: &str| event.get(key).and_then(Json::text).map(str::to_owned);
    let actor = if actor.contains(':') {
        actor.to_owned()
    } else {
        format!("user:{actor}")
    };
    let draft = Draft {
        origin: None,
        ns: ns.to_owned(),
        actor,
        tenant_id: text("tenant_id").unwrap_or_else(|| "system".to_owned()),
        event_type: text("event_type")
            .or_else(|| text("type"))
            .unwrap_or_default(),
        subject: text("subject").unwrap_or_default(),
        payload: match event.get("payload") {
            None => "{}".to_owned(),
            Some(object @ Json::Object(_)) => object.to_string(),
            Some(_) => return Err("payload: an object".to_owned()),
        },
        causation_id: event.get("causation_id").and_then(Json::unsigned),
        timestamp_ns: None,
        ulid: None,
    };
    let birth = Birth {
        log_id: clock::random(),
        tag_key: clock::random(),
        wall_ns: clock::wall_ns(),
        segment_bytes_max: ledger_core::SEGMENT_BYTES_MAX,
    };
    let (committer, _) = Committer::start(device, &birth).map_err(|e| e.to_string())?;
    let outcome = committer.ledger().append_wait(vec![draft]);
    committer.stop();
    let receipts = outcome.map_err(|r| format!("{}: {}", r.code, r.reason()))?;
    for receipt in receipts {
        if json {
            println!(
                "{{\"event_id\":{},\"commit_id\":\"{}\",\"ulid\":\"{}\"}}",
                receipt.id,
                hex(&receipt.commit_id),
                ulid::text(&receipt.ulid)
            );
        } else {
            println!("{}", receipt.id);
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn verify_offline(device: &dyn Device, json: bool) -> Result<ExitCode, String> {
    let began = Instant::now();
    let mut told = began;
    let terminal = std::io::stderr().is_terminal();
    let report = verify::verify(device, None, &mut |at| {
        if terminal && began.elapsed() > PROGRESS_AFTER && told.elapsed() > PROGRESS_AFTER / 4 {
            told = Instant::now();
            eprint!("\rverify: {} MiB", at >> 20);
        }
    })
    .map_err(|e| match std::error::Error::source(&e) {
        Some(cause) => format!("{e}: {cause}"),
        None => e.to_string(),
    })?;
    if told > began {
        eprint!("\r\x1b[K");
    }
    let members = Json::parse(&format!("{{{}}}", report.members())).map_err(|r| r.reason())?;
    Ok(print_report(&members, json))
}

fn doctor_offline(device: &dyn Device, json: bool) -> Result<ExitCode, String> {
    let (superblock, copy) = scan::superblock(device)
        .map_err(|e| e.to_string())?
        .ok_or("blank: no log here yet")?;
    let end = scan::scan(device, &superblock, None, &mut |_| ()).map_err(|e| e.to_string())?;
    let used = superblock.segment_offset(end.segment) + end.offset;
    let state = match (&end.fault, end.damaged, copy) {
        (Some(_), true, _) => "damaged",
        (Some(_), false, _) => "torn",
        (None, _, Some(_)) => "superblock copy damaged",
        (None, _, None) => "clean",
    };
    let members = Json::object([
        ("state", state.into()),
        ("events", end.head.id.into()),
        ("bytes_used", used.into()),
        ("bytes_max", expected_bytes(&superblock).into()),
        ("segment_bytes", superblock.segment_bytes.into()),
        ("sector_bytes", u64::from(superblock.sector_bytes).into()),
    ]);
    print_members(&members, json);
    Ok(ExitCode::from(if state == "clean" { 0 } else { FAILED }))
}

fn print_members(members: &Json, json: bool) {
    match members {
        Json::Object(all) if !json => {
            for (key, value) in all {
                println!("{key}: {value}");
            }
        }
        other => println!("{other}"),
    }
}

fn online(socket: &Path, command: &Command) -> Result<ExitCode, String> {
    let request = match command {
        Command::Append {
            ns, actor, event, ..
        } => Json::object([
            ("type", "append_event".into()),
            ("ns", ns.as_str().into()),
            ("actor", actor.as_str().into()),
            ("event", Json::parse(event).map_err(|r| r.reason())?),
        ]),
        Command::Query(words) => words.request(),
        Command::Tail {
            n, follow: true, ..
        } => Json::object([
            ("type", "subscribe".into()),
            ("from", format!("HEAD-{n}").as_str().into()),
        ]),
        Command::Tail { n, .. } => Json::object([
            ("type", "query".into()),
            ("order", "desc".into()),
            ("limit", (*n).max(1).into()),
        ]),
        Command::Verify { .. } => Json::object([("type", "verify".into())]),
        Command::Doctor { .. } => Json::object([("type", "doctor".into())]),
    };
    let failed = |e: std::io::Error| format!("{}: {e}", socket.display());
    let mut stream = connect_stream_within(socket, ANSWER_LIMIT).map_err(failed)?;
    if matches!(command, Command::Tail { follow: true, .. }) {
        // Until something happens there is nothing to read.
        stream.set_read_timeout(None).map_err(failed)?;
    }
    writeln!(stream, "{request}").map_err(failed)?;
    let (json, reversed) = match command {
        Command::Append { json, .. } | Command::Verify { json } | Command::Doctor { json } => {
            (*json, false)
        }
        Command::Query(words) => (words.json, false),
        Command::Tail { json, follow, .. } => (*json, !follow),
    };
    let mut kept = Vec::new();
    for line in BufReader::new(stream).lines() {
        let line = Json::parse(&line.map_err(failed)?).map_err(|r| r.reason())?;
        if let Some(event) = line.get("event") {
            if reversed {
                kept.push(event.to_string());
            } else if !print_event(&event.to_string(), json) {
                return Ok(ExitCode::SUCCESS);
            }
            continue;
        }
        match line.get("ok") {
            Some(Json::Bool(true)) => {}
            Some(_) => {
                let error = line.get("error");
                let text = |key| {
                    error
                        .and_then(|e| e.get(key))
                        .and_then(Json::text)
                        .unwrap_or("")
                };
                return Err(format!("{}: {}", text("code"), text("reason")));
            }
            // An acknowledgement or progress.
            None => continue,
        }
        match command {
            Command::Tail { follow: true, .. } => continue,
            Command::Append { json: false, .. } => {
                println!(
                    "{}",
                    line.get("event_id").and_then(Json::unsigned).unwrap_or(0)
                );
            }
            Command::Append { .. } => println!("{line}"),
            Command::Verify { json } => return Ok(print_report(&line, *json)),
            Command::Doctor { json } => print_members(&line, *json),
            Command::Query(_) => {}
            Command::Tail { n, .. } => {
                let take = usize::try_from(*n).unwrap_or(usize::MAX);
                for event in kept.iter().take(take).rev() {
                    if !print_event(event, json) {
                        break;
                    }
                }
            }
        }
        return Ok(ExitCode::SUCCESS);
    }
    Err(format!("{}: closed without an answer", socket.display()))
}
