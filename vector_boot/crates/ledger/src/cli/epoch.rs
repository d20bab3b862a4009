//! `epoch` and `compact`: an epoch begins, old segments go.

use super::{Disk, Outcome, Place, print_members};
use crate::committer::{Committer, Keep, Order};
use crate::device::Access;
use crate::json::Json;
use crate::log::Birth;
use crate::proofs::Keeper;
use crate::proofs::folder::TILES;
use clap::Args;
use std::process::ExitCode;

#[derive(Args)]
pub struct Words {
    /// Prints JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Args)]
pub struct CompactWords {
    /// Keeps the newest bytes; half the log if neither this nor --keep-events is given.
    #[arg(long, value_name = "BYTES")]
    keep_bytes: Option<u64>,
    /// Keeps the newest events.
    #[arg(long, value_name = "EVENTS")]
    keep_events: Option<u64>,
    /// Prints JSON.
    #[arg(long)]
    json: bool,
}

impl Words {
    pub fn run(&self, place: &Place) -> Outcome {
        run(place, Order::Epoch, self.json, || {
            Json::object([("type", "epoch.new".into())])
        })
    }
}

impl CompactWords {
    pub fn run(&self, place: &Place) -> Outcome {
        let keep = Keep {
            bytes: self.keep_bytes,
            events: self.keep_events,
        };
        run(place, Order::Compact(keep), self.json, || {
            let number = |n: Option<u64>| n.map_or(Json::Null, Json::from);
            Json::object([
                ("type", "compact".into()),
                ("keep_bytes", number(self.keep_bytes)),
                ("keep_events", number(self.keep_events)),
            ])
        })
    }
}

fn run(place: &Place, order: Order, json: bool, request: impl FnOnce() -> Json) -> Outcome {
    let members = match place {
        Place::Disk(disk) => offline(disk, order)?,
        Place::Running(peer) => peer.call(&request())?,
    };
    print_members(&members, json);
    Ok(ExitCode::SUCCESS)
}

fn offline(disk: &Disk, order: Order) -> Result<Json, String> {
    let birth = Birth::now();
    let device = disk.open(Access::Write)?;
    let (committer, _) = Committer::start(device, &birth).map_err(|e| e.to_string())?;
    let keeper = match disk.data() {
        data if data.join(TILES).is_dir() => {
            let keeper =
                Keeper::start(committer.ledger(), Some(data), None).map_err(|e| e.to_string())?;
            let settled = committer.ledger().proofs().map(|proofs| proofs.settle());
            settled.transpose().map_err(|r| r.reason())?;
            Some(keeper)
        }
        _ => None,
    };
    let done = committer.ledger().order_wait(order);
    committer.stop();
    keeper.into_iter().for_each(Keeper::stop);
    let done = done.map_err(|r| format!("{}: {}", r.code, r.reason()))?;
    Json::parse(&format!("{{{}}}", done.members())).map_err(|e| e.to_string())
}
