//! The command line: the service itself, or questions to a log on disk or to a running ledger.
//!
//! Owns the words and the choice between the two. Each command is a file of its own: its words, and
//! `run`, which asks the [`Place`] that the person named.

mod append;
mod doctor;
mod epoch;
mod export;
mod fold;
mod import;
mod objects;
mod peer;
mod progress;
mod proof;
mod query;
mod rebuild;
mod show;
mod snapshot;
mod tiles;
mod tree;
mod verify;
mod witness;
mod yaml;

pub use peer::Peer;
pub use witness::{body, cosign, running};

use crate::device::{Access, Device};
use crate::json::Json;
use crate::open;
use crate::serve::{self, Asked};
use clap::{Parser, Subcommand};
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

/// Exit code when the log does not hold, or the call was refused.
const FAILED: u8 = 1;

/// What a command ends with: its exit code, or why it could not be done.
type Outcome = Result<ExitCode, String>;

/// The ledger: without a command, the service.
#[derive(Parser)]
#[command(name = "ledger", disable_version_flag = true)]
struct Words {
    /// A folder, file, disk image (its partition `log`) or block device.
    #[arg(long, global = true, value_name = "PATH", conflicts_with = "socket")]
    log: Option<PathBuf>,
    /// The ledger's folder, for a log on disk; beside the log if not given.
    #[arg(long, global = true, value_name = "DIR", conflicts_with = "socket")]
    data: Option<PathBuf>,
    /// The socket of a running ledger; `ledger.sock` in the run folder if neither is given.
    #[arg(long, global = true, value_name = "PATH")]
    socket: Option<PathBuf>,
    /// For the service: an auditor's X25519 public key, which `auditor` prints. Sealed members are for these alone.
    #[arg(long, value_name = "HEX", conflicts_with = "socket")]
    audit_recipient: Vec<String>,
    /// For the service: the key of the witness whose signatures it keeps, NAME+HASH+BASE64; any witness's if not given.
    #[arg(long, value_name = "VKEY", conflicts_with = "socket")]
    witness_key: Option<String>,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Subcommand)]
enum Command {
    /// Appends one event and prints its id.
    Append(append::Words),
    /// Prints events that match.
    Query(query::Words),
    /// Prints the last events.
    Tail(query::TailWords),
    /// Checks every frame, chain value, tag and root, checkpoints and tiles; exit 0 only if all hold.
    Verify(verify::Words),
    /// Prints one event, and with its tenant's audit key what was sealed in it.
    Show(show::Words),
    /// Prints the audit key of a tenant, for the machine's owner: it opens all that was sealed for that tenant.
    AuditKey(show::KeyWords),
    /// Prints the public key of an auditor's key file, and makes the file if there is none.
    Auditor(show::AuditorWords),
    /// Prints how the log is.
    Doctor(doctor::Words),
    /// Builds the index again from the log.
    Rebuild(rebuild::Words),
    /// Proves that an event is in the log, or checks such a proof.
    Proof(proof::Words),
    /// Prints the key that checks the log's checkpoints.
    Key(proof::KeyWords),
    /// Prints the newest checkpoint.
    Checkpoint(proof::CheckpointWords),
    /// Has a witness sign checkpoints.
    Witness(witness::Words),
    /// Writes the log in another form.
    Export(export::Words),
    /// Makes a new log of exported lines.
    Import(import::Words),
    /// Begins an epoch: an anchor, and a segment of its own.
    Epoch(epoch::Words),
    /// Drops the oldest segments, none of the current epoch.
    Compact(epoch::CompactWords),
    /// Prints what the events of a namespace add up to.
    Fold(fold::Words),
}

impl Command {
    fn run(&self, place: &Place) -> Outcome {
        match self {
            Self::Append(words) => words.run(place),
            Self::Query(words) => words.run(place),
            Self::Tail(words) => words.run(place),
            Self::Verify(words) => words.run(place),
            Self::Show(words) => words.run(place),
            Self::AuditKey(words) => words.run(place),
            Self::Auditor(words) => words.run(),
            Self::Doctor(words) => words.run(place),
            Self::Rebuild(words) => words.run(place),
            Self::Proof(words) => words.run(place),
            Self::Key(words) => words.run(place),
            Self::Checkpoint(words) => words.run(place),
            Self::Witness(words) => words.run(place),
            Self::Export(words) => words.run(place),
            Self::Import(words) => words.run(place),
            Self::Epoch(words) => words.run(place),
            Self::Compact(words) => words.run(place),
            Self::Fold(words) => words.run(place),
        }
    }
}

/// Whom a command asks.
enum Place {
    /// A log on disk.
    Disk(Disk),
    /// A running ledger.
    Running(Peer),
}

/// A log on disk, and the ledger's folder.
struct Disk {
    log: PathBuf,
    data: Option<PathBuf>,
}

impl Disk {
    fn open(&self, access: Access) -> Result<Arc<dyn Device>, String> {
        open::path(&self.log, access).map_err(|e| e.to_string())
    }

    /// The ledger's folder: the one named, else the log's where that is a folder, else the one that
    /// the log lies in.
    fn data(&self) -> &Path {
        match &self.data {
            Some(named) => named,
            None if self.log.is_dir() => &self.log,
            None => self.log.parent().unwrap_or(Path::new(".")),
        }
    }
}

/// Runs the role over the words behind its name.
pub fn main(words: &[OsString]) -> ExitCode {
    if words.is_empty() {
        // A machine's start: nothing of the words below is needed for it.
        return serve::main(&Asked::default());
    }
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
        return serve::main(&Asked {
            log: words.log,
            auditors: words.audit_recipient,
            witness: words.witness_key,
        });
    };
    let default = || ipc::run_folder().join("ledger.sock");
    let place = match words.log {
        Some(log) => Place::Disk(Disk {
            log,
            data: words.data,
        }),
        None => Place::Running(Peer::new(words.socket.unwrap_or_else(default))),
    };
    match command.run(&place) {
        Ok(code) => code,
        Err(why) => {
            eprintln!("ledger: {why}");
            ExitCode::from(FAILED)
        }
    }
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
