//! `verify`: the whole log, what was signed of it, and the first thing that does not hold.

use super::progress::Progress;
use super::{Disk, FAILED, Outcome, Place};
use crate::audit::{Asked, audit};
use crate::device::Access;
use crate::json::Json;
use crate::scan;
use clap::Args;
use ledger_core::note::{NOTE_BYTES_MAX, Note, VerifierKey};
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

#[derive(Args)]
pub struct Words {
    /// The log's key, as `key` prints it; the checkpoints must be signed by it.
    #[arg(long, value_name = "VKEY")]
    key: Option<String>,
    /// A checkpoint that was kept elsewhere: the log must continue it.
    #[arg(long, value_name = "FILE")]
    since: Option<PathBuf>,
    /// Prints JSON.
    #[arg(long)]
    json: bool,
}

impl Words {
    pub fn run(&self, place: &Place) -> Outcome {
        let key = self.key.as_deref().map(VerifierKey::parse).transpose();
        let key = key.map_err(|e| format!("--key: {e}"))?;
        let since = self.since.as_deref().map(read_note).transpose()?;
        let members = match place {
            Place::Disk(disk) => self.offline(disk, key, since)?,
            Place::Running(peer) => {
                let text = |text: Option<String>| text.map_or(Json::Null, |t| t.as_str().into());
                peer.call(&Json::object([
                    ("type", "verify".into()),
                    ("key", text(self.key.clone())),
                    ("since", text(since.map(|note| note.to_string()))),
                ]))?
            }
        };
        Ok(print_report(&members, self.json))
    }

    fn offline(
        &self,
        disk: &Disk,
        key: Option<VerifierKey>,
        since: Option<Note>,
    ) -> Result<Json, String> {
        let device = &*disk.open(Access::Read)?;
        let mut asked = Asked::of_folder(disk.data());
        asked.key = key.or(asked.key);
        asked.since = since.map(|note| {
            let place = self.since.as_deref().unwrap_or(Path::new("--since"));
            (place.display().to_string(), note)
        });
        let superblock = scan::superblock(device).ok().flatten();
        let total = superblock.map_or(0, |(s, _)| crate::verify::expected_bytes(&s));
        let mut progress = Progress::bytes(total);
        let report = audit(device, &|| None, &asked, &mut |at| progress.at(at)).map_err(|e| {
            match std::error::Error::source(&e) {
                Some(cause) => format!("{e}: {cause}"),
                None => e.to_string(),
            }
        })?;
        drop(progress);
        Json::parse(&format!("{{{}}}", report.members())).map_err(|e| e.to_string())
    }
}

/// Reads a note that a person names.
pub fn read_note(path: &Path) -> Result<Note, String> {
    let failed = |e: String| format!("{}: {e}", path.display());
    let mut text = String::new();
    File::open(path)
        .and_then(|file| {
            file.take(NOTE_BYTES_MAX as u64 + 1)
                .read_to_string(&mut text)
        })
        .map_err(|e| failed(e.to_string()))?;
    // A line of the serial console holds a note as well.
    match ledger_core::serial::note(&text) {
        Some(note) => Ok(note),
        None => Note::parse(&text).map_err(|e| failed(e.to_string())),
    }
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
            "ok {} events in {} groups, {} bytes, {} checkpoints, {} tiles, root {}",
            number(Some(members), "events"),
            number(Some(members), "groups"),
            number(Some(members), "bytes"),
            number(Some(members), "checkpoints"),
            number(Some(members), "tiles"),
            members.get("root").and_then(Json::text).unwrap_or("")
        );
    }
    ExitCode::from(if holds { 0 } else { FAILED })
}
