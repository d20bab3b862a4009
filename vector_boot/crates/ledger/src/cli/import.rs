//! `import`: exported lines made a log again.

use super::progress::Progress;
use super::{Outcome, Place};
use crate::device::Access;
use crate::export;
use clap::Args;
use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::path::PathBuf;
use std::process::ExitCode;

#[derive(Args)]
pub struct Words {
    /// Lines of JSON as `export --jsonl` writes them, from event 1; - is standard input.
    #[arg(long, value_name = "FILE")]
    jsonl: PathBuf,
}

impl Words {
    pub fn run(&self, place: &Place) -> Outcome {
        let Place::Disk(disk) = place else {
            return Err("import makes a new log: name it with --log PATH".to_owned());
        };
        let mut lines: Box<dyn BufRead> = match self.jsonl.as_os_str() == "-" {
            true => Box::new(io::stdin().lock()),
            false => {
                let file = File::open(&self.jsonl)
                    .map_err(|e| format!("{}: {e}", self.jsonl.display()))?;
                Box::new(BufReader::new(file))
            }
        };
        let device = disk.open(Access::Write)?;
        let mut progress = Progress::events(0);
        let imported = export::import(&mut lines, device, &mut |n| progress.at(n))?;
        drop(progress);
        println!("imported {} events", imported.events);
        Ok(ExitCode::SUCCESS)
    }
}
