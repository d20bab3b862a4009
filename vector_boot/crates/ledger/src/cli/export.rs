//! `export`: the log carried elsewhere.

use super::objects::Named;
use super::peer::Next;
use super::progress::Progress;
use super::{Outcome, Place, tiles};
use crate::device::Access;
use crate::export::{Exported, Lines, Sink, Syslog, SyslogPeer};
use crate::json::Json;
use crate::reader::still_there;
use crate::scan::{self, Found};
use clap::Args;
use std::path::PathBuf;
use std::process::ExitCode;

/// Events that are asked for at once of a running ledger.
const PAGE: u64 = 10_000;

#[derive(Args)]
pub struct Words {
    #[command(flatten)]
    to: To,
    /// The first event.
    #[arg(long, default_value_t = 1)]
    from: u64,
    /// Goes on as events commit (a running ledger only).
    #[arg(short, long)]
    follow: bool,
}

#[derive(Args)]
#[group(required = true, multiple = false)]
struct To {
    /// A C2SP tile directory, which must not be there yet or be empty; of a log on disk.
    #[arg(long, value_name = "DIR")]
    tiles: Option<PathBuf>,
    /// A bare git repository in an empty folder.
    #[cfg(feature = "git")]
    #[arg(long, value_name = "DIR")]
    git: Option<PathBuf>,
    /// The blobs' ciphertexts, without their keys, in another store: folder:DIR, and as built segment:DIR or git:DIR;
    /// of a ledger's folder.
    #[arg(long, value_name = "STORE")]
    objects: Option<Named>,
    /// Lines of JSON in a file; - is standard output.
    #[arg(long, value_name = "FILE")]
    jsonl: Option<PathBuf>,
    /// A syslog peer, RFC 5424: tcp://HOST:PORT or udp://HOST:PORT.
    #[arg(long, value_name = "PEER")]
    syslog: Option<SyslogPeer>,
}

impl To {
    fn sink(&self) -> Result<Box<dyn Sink>, String> {
        let said = |e: std::io::Error| e.to_string();
        #[cfg(feature = "git")]
        if let Some(folder) = &self.git {
            let git = crate::export::GitExport::begin(folder).map_err(said)?;
            return Ok(Box::new(git));
        }
        match (&self.jsonl, &self.syslog) {
            (Some(file), _) => Ok(Box::new(Lines::to(file).map_err(said)?)),
            (None, Some(peer)) => Ok(Box::new(Syslog::connect(peer).map_err(said)?)),
            (None, None) => Err("nowhere to export to".to_owned()),
        }
    }
}

impl Words {
    pub fn run(&self, place: &Place) -> Outcome {
        if let Some(folder) = &self.to.tiles {
            let Place::Disk(disk) = place else {
                return Err("tiles are of a log on disk: --log PATH, and --data DIR".to_owned());
            };
            let done = tiles::tiles(disk, folder)?;
            let from = done.entries_from;
            match from {
                0 => println!("{} entries", done.size),
                _ => println!(
                    "{} entries, of which those from index {from} on are there",
                    done.size
                ),
            }
            return Ok(ExitCode::SUCCESS);
        }
        if let Some(store) = &self.to.objects {
            let Place::Disk(disk) = place else {
                return Err("objects are of a folder: --log PATH, and --data DIR".to_owned());
            };
            println!("{} objects", store.export(disk)?);
            return Ok(ExitCode::SUCCESS);
        }
        if self.follow && (matches!(place, Place::Disk(_)) || self.to.syslog.is_none()) {
            return Err("--follow is for a running ledger and a syslog peer".to_owned());
        }
        let mut out = Outgoing {
            sink: self.to.sink()?,
            events: 0,
            last: 0,
            failed: None,
        };
        let read = match place {
            Place::Disk(disk) => self.offline(disk, &mut out),
            Place::Running(peer) if self.follow => self.follow(peer, &mut out),
            Place::Running(peer) => self.online(peer, &mut out),
        };
        let Outgoing {
            sink,
            events,
            last,
            failed,
        } = out;
        if let Some(why) = failed {
            // Where an export that is not one whole thing can go on.
            return Err(format!("{why}; the last event that was sent is {last}"));
        }
        read?;
        sink.end().map_err(|e| e.to_string())?;
        eprintln!("exported {events} events, to event {last}");
        Ok(ExitCode::SUCCESS)
    }

    fn offline(&self, disk: &super::Disk, out: &mut Outgoing) -> Result<(), String> {
        let device = disk.open(Access::Read)?;
        let (superblock, _) = scan::superblock(&*device)
            .map_err(|e| e.to_string())?
            .ok_or("blank: no log here yet")?;
        let mut progress = Progress::events(0);
        let (mut group, mut begins) = (Vec::new(), None);
        let end = scan::scan(&*device, &superblock, None, &mut |found| match found {
            Found::Event {
                id, chain, body, ..
            } => {
                let begins = begins.get_or_insert_with(|| still_there(self.from, id));
                if id >= self.from && begins.is_ok() {
                    group.push(Exported::of(id, &chain, body));
                }
            }
            Found::Group { .. } => {
                for event in group.drain(..) {
                    out.take(&event);
                }
                progress.at(out.events);
            }
            Found::Segment { .. } => {}
        })
        .map_err(|e| e.to_string())?;
        begins.transpose().map_err(|e| e.to_string())?;
        // A torn end was never acknowledged.
        match end.fault {
            Some(fault) if end.damaged => Err(format!("the log is damaged: {}", fault.kind)),
            _ => Ok(()),
        }
    }

    fn online(&self, peer: &super::Peer, out: &mut Outgoing) -> Result<(), String> {
        let head = peer.call(&Json::object([("type", "head".into())]))?;
        let head = head.get("event_id").and_then(Json::unsigned).unwrap_or(0);
        let mut progress = Progress::events(head);
        let mut next = Some(self.from.max(1));
        while let Some(from) = next.filter(|from| *from <= head) {
            let request = Json::object([
                ("type", "query".into()),
                ("from", from.into()),
                ("limit", PAGE.into()),
            ]);
            let answer = peer.lines(&request, &mut |line| {
                let more = out.line(&line);
                progress.at(out.events);
                more
            })?;
            next = answer.and_then(|a| a.get("next").and_then(Json::unsigned));
        }
        Ok(())
    }

    fn follow(&self, peer: &super::Peer, out: &mut Outgoing) -> Result<(), String> {
        let request = Json::object([("type", "subscribe".into()), ("from", self.from.into())]);
        peer.follow(&request, &mut |line| out.line(&line))
    }
}

/// Events on their way.
struct Outgoing {
    sink: Box<dyn Sink>,
    events: u64,
    last: u64,
    failed: Option<String>,
}

impl Outgoing {
    fn take(&mut self, event: &Exported) {
        if self.failed.is_some() {
            return;
        }
        match self.sink.take(event) {
            Ok(()) => (self.events, self.last) = (self.events + 1, event.id),
            Err(e) => self.failed = Some(e.to_string()),
        }
    }

    fn line(&mut self, line: &Json) -> Next {
        match line.get("event").map(Exported::parse) {
            Some(Some(event)) => self.take(&event),
            Some(None) => self.failed = Some("an event that is none".to_owned()),
            None => {}
        }
        match self.failed {
            Some(_) => Next::Enough,
            None => Next::More,
        }
    }
}
