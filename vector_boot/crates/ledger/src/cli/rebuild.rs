//! `rebuild`: the index is built again from the log.

use super::{Outcome, Place, print_members};
use crate::json::Json;
use crate::serve::INDEX_FOLDER;
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
        let members = match place {
            Place::Running(peer) => peer.call(&Json::object([("type", "cache.rebuild".into())]))?,
            // The next start of the service builds what is missing.
            Place::Disk(disk) => {
                let folder = disk.data().join(INDEX_FOLDER);
                let named = |e: std::io::Error| format!("{}: {e}", folder.display());
                let mut removed = 0u64;
                for entry in std::fs::read_dir(&folder).map_err(named)? {
                    std::fs::remove_file(entry.map_err(named)?.path()).map_err(named)?;
                    removed += 1;
                }
                Json::object([("removed", removed.into())])
            }
        };
        print_members(&members, self.json);
        Ok(ExitCode::SUCCESS)
    }
}
