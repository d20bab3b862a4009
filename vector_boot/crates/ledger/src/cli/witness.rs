//! `witness`: what a C2SP witness (`tlog-witness`, add-checkpoint) is sent, and its answer taken in.
//!
//! No socket is opened here: the body goes out and the answer comes in by whatever HTTP client the person
//! trusts, or by the role [`crate::witness`]. Source: <https://c2sp.org/tlog-witness>.

use super::peer::Peer;
use super::proof::{hashes, stored};
use super::tree::Tree;
use super::{Disk, Outcome, Place};
use crate::files::Lasting;
use crate::json::Json;
use crate::proofs::cosigned;
use crate::proofs::folder::{Folder, WITNESSED};
use clap::{Args, Subcommand};
use ledger_core::checkpoint::{Checkpoint, hash_text};
use ledger_core::note::{NOTE_BYTES_MAX, Note, Signature, VerifierKey};
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Longest body: a note, and 63 hashes and a size on lines of their own before it.
const BODY_BYTES_MAX: u64 = NOTE_BYTES_MAX as u64 + 4096;

#[derive(Args)]
pub struct Words {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Prints the body of an add-checkpoint request: the newest checkpoint, and that it continues the
    /// one that the witness signed last.
    Request {
        /// The size that the witness signed last; it says so when it is asked with another.
        #[arg(long, default_value_t = 0)]
        old: u64,
    },
    /// Checks a witness's answer and prints the checkpoint with its signature; of a log on disk, it is
    /// kept beside the checkpoint.
    Add {
        /// What was sent: the request's body, or the checkpoint in it.
        checkpoint: PathBuf,
        /// The answer: signature lines.
        answer: PathBuf,
        /// The log's key, as `key` prints it.
        #[arg(long, value_name = "VKEY")]
        key: String,
        /// A witness's key.
        #[arg(long, value_name = "VKEY", required = true)]
        witness: Vec<String>,
    },
}

impl Words {
    pub fn run(&self, place: &Place) -> Outcome {
        match &self.command {
            Command::Request { old } => {
                let (hashes, note) = match place {
                    Place::Disk(disk) => offline(disk, *old)?,
                    Place::Running(peer) => running(peer, *old)?,
                };
                print!("{}", body(*old, &hashes, &note));
                Ok(ExitCode::SUCCESS)
            }
            Command::Add {
                checkpoint,
                answer,
                key,
                witness,
            } => {
                let note = add(checkpoint, answer, key, witness)?;
                if let Place::Disk(disk) = place {
                    let kept =
                        Folder::new(disk.data()).put_note(WITNESSED, &note, Lasting::Durable);
                    kept.map_err(|e| format!("{WITNESSED}: {e}"))?;
                }
                print!("{note}");
                Ok(ExitCode::SUCCESS)
            }
        }
    }
}

/// The body of an add-checkpoint request.
pub fn body(old: u64, hashes: &[String], note: &str) -> String {
    let mut body = format!("old {old}\n");
    for line in hashes {
        body.push_str(line);
        body.push('\n');
    }
    body.push('\n');
    body.push_str(note);
    body
}

/// What a running ledger signed last, and that it continues the tree of `old` events.
pub fn running(peer: &Peer, old: u64) -> Result<(Vec<String>, String), String> {
    let answer = peer.call(&Json::object([("type", "checkpoint".into())]))?;
    let note = answer.get("checkpoint").and_then(Json::text);
    let note = note.ok_or("no checkpoint in the answer")?.to_owned();
    let size = answer.get("size").and_then(Json::unsigned).unwrap_or(0);
    if old > size {
        // Without the size, which grows by what is said of this.
        return Err(format!("old {old}: more events than the checkpoint has"));
    }
    let answer = peer.call(&Json::object([
        ("type", "proof.consistency".into()),
        ("from", old.into()),
        ("to", size.into()),
    ]))?;
    Ok((hashes(&answer)?, note))
}

fn offline(disk: &Disk, old: u64) -> Result<(Vec<String>, String), String> {
    let note = stored(disk)?;
    let Checkpoint { size, root, .. } =
        Checkpoint::parse(note.text()).map_err(|e| e.to_string())?;
    if old > size {
        return Err(format!("--old {old}: the checkpoint is of {size} events"));
    }
    let (path, _, new) = Tree::read(disk, size, 0)?.consistency(old, size)?;
    if new != root {
        return Err("the log is not the one that the checkpoint was signed for".to_owned());
    }
    Ok((path.iter().map(hash_text).collect(), note.to_string()))
}

fn add(note: &Path, answer: &Path, key: &str, witnesses: &[String]) -> Result<Note, String> {
    let failed = |e: String| format!("{}: {e}", answer.display());
    let key = VerifierKey::parse(key).map_err(|e| format!("--key: {e}"))?;
    let keys: Result<Vec<_>, _> = witnesses.iter().map(|w| VerifierKey::parse(w)).collect();
    let keys = keys.map_err(|e| format!("--witness: {e}"))?;
    let mut note = sent(note)?;
    Checkpoint::open(&note, &key).map_err(|e| e.to_string())?;
    let mut text = String::new();
    File::open(answer)
        .and_then(|file| file.take(NOTE_BYTES_MAX as u64).read_to_string(&mut text))
        .map_err(|e| failed(e.to_string()))?;
    cosign(&mut note, &text, &keys).map_err(failed)?;
    Ok(note)
}

/// Puts a witness's answer below a checkpoint; one of the keys must have signed it.
pub fn cosign(note: &mut Note, answer: &str, keys: &[VerifierKey]) -> Result<(), String> {
    for line in answer.lines() {
        let signature = Signature::parse(line).map_err(|e| e.to_string())?;
        note.add(signature).map_err(|e| e.to_string())?;
    }
    cosigned(note, keys).map(drop)
}

/// The checkpoint that was sent.
fn sent(path: &Path) -> Result<Note, String> {
    let failed = |e: String| format!("{}: {e}", path.display());
    let mut text = String::new();
    File::open(path)
        .and_then(|file| file.take(BODY_BYTES_MAX).read_to_string(&mut text))
        .map_err(|e| failed(e.to_string()))?;
    let note = match text.split_once("\n\n") {
        Some((head, note)) if head.starts_with("old ") => note,
        _ => &text,
    };
    Note::parse(note).map_err(|e| failed(e.to_string()))
}
