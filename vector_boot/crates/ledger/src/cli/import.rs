//! `import`: exported lines made a log again, or exported objects put back.

use super::objects::Named;
use super::progress::Progress;
use super::{Disk, Outcome, Place};
use crate::device::Access;
use crate::export;
use clap::Args;
use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

#[derive(Args)]
#[group(required = true, multiple = false)]
pub struct Words {
    /// Lines of JSON as `export --jsonl` writes them, from event 1; - is standard input.
    #[arg(long, value_name = "FILE")]
    jsonl: Option<PathBuf>,
    /// A store as `export --objects` writes it: what the ledger's folder lacks, or has damaged, is put back.
    #[arg(long, value_name = "STORE")]
    objects: Option<Named>,
}

impl Words {
    pub fn run(&self, place: &Place) -> Outcome {
        let Place::Disk(disk) = place else {
            return Err("import is for what lies on a disk: name it with --log PATH".to_owned());
        };
        match (&self.jsonl, &self.objects) {
            (Some(file), _) => Self::log(disk, file),
            (None, Some(store)) => {
                println!("imported {} objects", store.import(disk)?);
                Ok(ExitCode::SUCCESS)
            }
            (None, None) => Err("nothing to import".to_owned()),
        }
    }

    fn log(disk: &Disk, file: &Path) -> Outcome {
        let mut lines: Box<dyn BufRead> = match file.as_os_str() == "-" {
            true => Box::new(io::stdin().lock()),
            false => {
                let opened = File::open(file).map_err(|e| format!("{}: {e}", file.display()))?;
                Box::new(BufReader::new(opened))
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
