//! `verify`: the whole log, and the first thing in it that does not hold.

use super::{FAILED, Outcome, Place};
use crate::device::{Access, Device};
use crate::json::Json;
use crate::verify;
use clap::Args;
use std::io::IsTerminal;
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// A verification that takes longer shows progress on a terminal.
const PROGRESS_AFTER: Duration = Duration::from_secs(1);

#[derive(Args)]
pub struct Words {
    /// Prints JSON.
    #[arg(long)]
    json: bool,
}

impl Words {
    pub fn run(&self, place: &Place) -> Outcome {
        let members = match place {
            Place::Disk(disk) => offline(&*disk.open(Access::Read)?)?,
            Place::Running(peer) => peer.call(&Json::object([("type", "verify".into())]))?,
        };
        Ok(print_report(&members, self.json))
    }
}

fn offline(device: &dyn Device) -> Result<Json, String> {
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
    Json::parse(&format!("{{{}}}", report.members())).map_err(|e| e.to_string())
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
