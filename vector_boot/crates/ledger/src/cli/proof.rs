//! `proof`, `key`, `checkpoint`: what lets others check the log, made from a running ledger or from a log
//! on disk; and the check itself, which needs neither.

use super::tree::Tree;
use super::verify::read_note;
use super::{Disk, FAILED, Outcome, Place};
use crate::audit::Asked;
use crate::json::Json;
use crate::proofs::folder::{CHECKPOINT, Folder, WITNESSED};
use crate::query::hex;
use clap::{Args, Subcommand};
use ledger_core::checkpoint::{Checkpoint, hash_text};
use ledger_core::leaf_hash;
use ledger_core::note::{NOTE_BYTES_MAX, Note, VerifierKey};
use ledger_core::proof::{inclusion, verify_inclusion};
use ledger_core::tlog_proof::TlogProof;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Longest text of a proof: its checkpoint, 63 hashes and what stands before them.
const PROOF_BYTES_MAX: usize = NOTE_BYTES_MAX + 4096;

#[derive(Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct Words {
    #[command(subcommand)]
    command: Option<Command>,
    /// The event; its proof is printed.
    #[arg(value_name = "EVENT")]
    event_id: Option<u64>,
}

#[derive(Subcommand)]
enum Command {
    /// Checks a proof offline: exit 0 only if the event is in the log that the key signed.
    Verify {
        /// The proof, as `proof EVENT` prints it.
        #[arg(value_name = "FILE")]
        proof: PathBuf,
        /// The log's key, as `key` prints it.
        #[arg(long, value_name = "VKEY")]
        key: String,
        /// A checkpoint that the proof's must be.
        #[arg(long, value_name = "FILE")]
        checkpoint: Option<PathBuf>,
        /// The commit id that the event must have.
        #[arg(long, value_name = "HEX")]
        commit_id: Option<String>,
    },
    /// Proves that the tree of TO events continues that of FROM; TO is all that was signed if absent.
    Consistency { from: u64, to: Option<u64> },
}

#[derive(Args)]
pub struct KeyWords {}

#[derive(Args)]
pub struct CheckpointWords {
    /// The one that a witness signed last, with its signature.
    #[arg(long)]
    witnessed: bool,
}

impl Words {
    pub fn run(&self, place: &Place) -> Outcome {
        match (&self.command, place) {
            (
                Some(Command::Verify {
                    proof,
                    key,
                    checkpoint,
                    commit_id,
                }),
                _,
            ) => verify(proof, key, checkpoint.as_deref(), commit_id.as_deref()),
            (Some(Command::Consistency { from, to }), place) => consistency(place, *from, *to),
            (None, place) => self.make(place),
        }
    }
}

impl Words {
    fn make(&self, place: &Place) -> Outcome {
        let event_id = self.event_id.ok_or("which event? proof EVENT")?;
        match place {
            Place::Disk(disk) => {
                print!("{}", offline(disk, event_id)?);
                Ok(ExitCode::SUCCESS)
            }
            Place::Running(peer) => {
                let answer = peer.call(&Json::object([
                    ("type", "proof.inclusion".into()),
                    ("event_id", event_id.into()),
                ]))?;
                print_text(&answer, "proof")
            }
        }
    }
}

impl KeyWords {
    pub fn run(&self, place: &Place) -> Outcome {
        match place {
            Place::Disk(disk) => {
                let key = Asked::of_folder(disk.data()).key;
                let none = || format!("{}: no device key that can be read", disk.data().display());
                println!("{}", key.ok_or_else(none)?);
                Ok(ExitCode::SUCCESS)
            }
            Place::Running(peer) => {
                let answer = peer.call(&Json::object([("type", "key".into())]))?;
                print_text(&answer, "vkey").inspect(|_| println!())
            }
        }
    }
}

impl CheckpointWords {
    pub fn run(&self, place: &Place) -> Outcome {
        match place {
            Place::Disk(disk) => {
                let name = if self.witnessed {
                    WITNESSED
                } else {
                    CHECKPOINT
                };
                print!("{}", kept(disk, name)?);
                Ok(ExitCode::SUCCESS)
            }
            Place::Running(peer) => {
                let answer = peer.call(&Json::object([
                    ("type", "checkpoint".into()),
                    ("witnessed", self.witnessed.into()),
                ]))?;
                print_text(&answer, "checkpoint")
            }
        }
    }
}

fn print_text(answer: &Json, key: &str) -> Outcome {
    let text = answer.get(key).and_then(Json::text);
    print!("{}", text.ok_or_else(|| format!("no {key} in the answer"))?);
    Ok(ExitCode::SUCCESS)
}

/// The checkpoint that was signed last.
pub fn stored(disk: &Disk) -> Result<Note, String> {
    kept(disk, CHECKPOINT)
}

/// A note of the ledger's folder.
fn kept(disk: &Disk, name: &str) -> Result<Note, String> {
    let found = Folder::new(disk.data()).note(name);
    let found = found.map_err(|e| format!("{name}: {e}"))?;
    let none = || format!("{}: no {name} was signed yet", disk.data().display());
    found.ok_or_else(none)
}

/// A proof from the log alone, under the checkpoint that was signed last.
fn offline(disk: &Disk, event_id: u64) -> Result<TlogProof, String> {
    let note = stored(disk)?;
    let checkpoint = Checkpoint::parse(note.text()).map_err(|e| e.to_string())?;
    let size = checkpoint.size;
    let index = event_id.checked_sub(1).filter(|index| *index < size);
    let index = index
        .ok_or_else(|| format!("event {event_id} is not under the checkpoint of {size} events"))?;
    let tree = Tree::read(disk, size, event_id)?;
    let entry = tree.entry.ok_or_else(|| {
        let first = tree.first_event();
        format!("event {event_id} was dropped by a compaction; the first that is kept is {first}")
    })?;
    let path = inclusion(index, size, &mut |node| tree.node(node))?.unwrap_or_default();
    let leaf = leaf_hash(&entry);
    let proof = TlogProof {
        entry,
        index,
        path,
        checkpoint: note,
    };
    verify_inclusion(&leaf, index, size, &proof.path, &checkpoint.root)
        .then_some(proof)
        .ok_or_else(|| "the log is not the one that the checkpoint was signed for".to_owned())
}

/// Prints that the tree of `to` events continues that of `from`; all that was signed where `to` is absent.
fn consistency(place: &Place, from: u64, to: Option<u64>) -> Outcome {
    let (from_root, to, to_root, hashes) = match place {
        Place::Disk(disk) => {
            let signed = match to {
                Some(_) => None,
                None => {
                    let note = stored(disk)?;
                    Some(Checkpoint::parse(note.text()).map_err(|e| e.to_string())?)
                }
            };
            let to = to.or(signed.map(|s| s.size)).unwrap_or(0);
            let (path, old, new) = Tree::read(disk, to, 0)?.consistency(from, to)?;
            let hashes: Vec<String> = path.iter().map(hash_text).collect();
            (hash_text(&old), to, hash_text(&new), hashes)
        }
        Place::Running(peer) => {
            let answer = peer.call(&Json::object([
                ("type", "proof.consistency".into()),
                ("from", from.into()),
                ("to", to.map_or(Json::Null, Json::from)),
            ]))?;
            let text = |key| answer.get(key).and_then(Json::text).map(str::to_owned);
            let size = answer.get("to").and_then(Json::unsigned);
            match (text("from_root"), size, text("to_root")) {
                (Some(old), Some(to), Some(new)) => (old, to, new, hashes(&answer)?),
                _ => return Err("no roots in the answer".to_owned()),
            }
        }
    };
    println!("from {from} {from_root}\nto {to} {to_root}");
    hashes.iter().for_each(|hash| println!("{hash}"));
    Ok(ExitCode::SUCCESS)
}

/// The hashes of an answer.
pub fn hashes(answer: &Json) -> Result<Vec<String>, String> {
    match answer.get("hashes") {
        Some(Json::List(all)) => Ok(all
            .iter()
            .filter_map(Json::text)
            .map(str::to_owned)
            .collect()),
        _ => Err("no hashes in the answer".to_owned()),
    }
}

fn verify(path: &Path, key: &str, checkpoint: Option<&Path>, commit_id: Option<&str>) -> Outcome {
    let failed = |e: String| format!("{}: {e}", path.display());
    let mut text = String::new();
    File::open(path)
        .and_then(|file| file.take(PROOF_BYTES_MAX as u64).read_to_string(&mut text))
        .map_err(|e| failed(e.to_string()))?;
    let key = VerifierKey::parse(key).map_err(|e| format!("--key: {e}"))?;
    let proof = TlogProof::parse(&text).map_err(|e| failed(e.to_string()))?;
    let proven = proof.verify(&key).map_err(|e| failed(e.to_string()))?;
    if let Some(path) = checkpoint {
        let kept = read_note(path)?;
        let kept = Checkpoint::open(&kept, &key).map_err(|e| format!("{}: {e}", path.display()))?;
        if kept != proven.checkpoint {
            return Err(failed("its checkpoint is another one".to_owned()));
        }
    }
    let commit = hex(&proven.commit_id);
    if commit_id.is_some_and(|wanted| wanted != commit) {
        println!("BAD event {} has commit id {commit}", proven.event_id);
        return Ok(ExitCode::from(FAILED));
    }
    println!(
        "ok event {} commit {commit} is in {} of {} events",
        proven.event_id, proven.checkpoint.origin, proven.checkpoint.size
    );
    Ok(ExitCode::SUCCESS)
}
