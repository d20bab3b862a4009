//! `doctor`: how the log is.

use super::{FAILED, Outcome, Place, print_members};
use crate::device::{Access, Device};
use crate::json::Json;
use crate::scan;
use crate::verify::expected_bytes;
use clap::Args;
use std::process::ExitCode;

#[derive(Args)]
pub struct Words {
    /// Prints JSON.
    #[arg(long)]
    json: bool,
}

impl Words {
    pub fn run(&self, place: &Place) -> Outcome {
        match place {
            Place::Disk(disk) => offline(&*disk.open(Access::Read)?, self.json),
            Place::Running(peer) => {
                let answer = peer.call(&Json::object([("type", "doctor".into())]))?;
                print_members(&answer, self.json);
                Ok(ExitCode::SUCCESS)
            }
        }
    }
}

fn offline(device: &dyn Device, json: bool) -> Outcome {
    let (superblock, copy) = scan::superblock(device)
        .map_err(|e| e.to_string())?
        .ok_or("blank: no log here yet")?;
    let end = scan::scan(device, &superblock, None, &mut |_| ()).map_err(|e| e.to_string())?;
    let used = superblock.segment_offset(end.segment - superblock.first_segment) + end.offset;
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
