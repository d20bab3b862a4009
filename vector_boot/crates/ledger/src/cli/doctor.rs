//! `doctor`: how the log is, and what could be wrong that its proofs do not say.

use super::progress::Progress;
use super::{FAILED, Outcome, Place, print_members};
use crate::device::{Access, Device};
use crate::doctor::{self, State};
use crate::json::Json;
use crate::scan;
use crate::verify::expected_bytes;
use clap::Args;
use std::path::Path;
use std::process::ExitCode;

/// Exit code when there are warnings and nothing worse.
const WARNED: u8 = 3;

#[derive(Args)]
pub struct Words {
    /// Prints JSON.
    #[arg(long)]
    json: bool,
}

impl Words {
    pub fn run(&self, place: &Place) -> Outcome {
        let members = match place {
            Place::Disk(disk) => offline(&*disk.open(Access::Read)?, disk.data())?,
            Place::Running(peer) => peer.call(&Json::object([
                ("type", "doctor".into()),
                ("checks", true.into()),
            ]))?,
        };
        Ok(self.print(&members))
    }

    fn print(&self, members: &Json) -> ExitCode {
        let checks = match members.get("checks") {
            Some(Json::List(checks)) => checks.as_slice(),
            _ => &[],
        };
        if self.json {
            println!("{members}");
        } else {
            if let Json::Object(all) = members {
                let mut facts = all.clone();
                facts.remove("checks");
                print_members(&Json::Object(facts), false);
            }
            for check in checks {
                let text = |key| check.get(key).and_then(Json::text).unwrap_or("");
                println!("{:>8} {}: {}", text("state"), text("check"), text("what"));
            }
        }
        let is = |state: State| {
            let word = Some(state.word());
            checks
                .iter()
                .any(|c| c.get("state").and_then(Json::text) == word)
        };
        match (is(State::Bad), is(State::Warning)) {
            (true, _) => ExitCode::from(FAILED),
            (false, true) => ExitCode::from(WARNED),
            (false, false) => ExitCode::SUCCESS,
        }
    }
}

fn offline(device: &dyn Device, data: &Path) -> Result<Json, String> {
    let (superblock, _) = scan::superblock(device)
        .map_err(|e| e.to_string())?
        .ok_or("blank: no log here yet")?;
    let mut progress = Progress::bytes(expected_bytes(&superblock));
    let checks = doctor::examine(device, Some(data), None, &mut |at| progress.at(at))?;
    Ok(Json::object([
        ("state", doctor::worst(&checks).word().into()),
        ("bytes_max", expected_bytes(&superblock).into()),
        ("segment_bytes", superblock.segment_bytes.into()),
        ("sector_bytes", u64::from(superblock.sector_bytes).into()),
        (
            "checks",
            Json::List(checks.iter().map(doctor::Check::json).collect()),
        ),
    ]))
}
