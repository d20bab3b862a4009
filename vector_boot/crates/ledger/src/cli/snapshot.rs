//! A log on disk, read whole: never written, and no lock taken, so that a running ledger may go on.

use crate::device::Device;
use crate::fold::Fold;
use crate::folds::{Folded, Wanted};
use crate::index::Index;
use crate::query::{self, Query};
use crate::reader::Reader;
use crate::scan;
use std::sync::{Arc, Mutex};

/// A log as it was when it was read.
pub struct Snapshot {
    reader: Reader,
    index: Arc<Mutex<Index>>,
    last: u64,
}

impl Snapshot {
    /// Reads it, up to the first thing that does not hold, which is said.
    ///
    /// # Errors
    /// If there is no log or it cannot be read.
    pub fn open(device: Arc<dyn Device>) -> Result<Self, String> {
        let (superblock, _) = scan::superblock(&*device)
            .map_err(|e| e.to_string())?
            .ok_or("blank: no log here yet")?;
        let mut fold = Fold::default();
        let end = scan::scan(&*device, &superblock, None, &mut |found| fold.found(&found))
            .map_err(|e| e.to_string())?;
        if let Some(fault) = end.fault {
            let at = device.locate(
                superblock.slot_offset(superblock.segment_offset(fault.segment) + fault.offset),
            );
            eprintln!("ledger: reading stops at {at}: {}", fault.kind);
        }
        let index = Arc::new(Mutex::new(fold.index));
        Ok(Self {
            reader: Reader::new(device, superblock, index.clone()),
            index,
            last: end.head.id,
        })
    }

    /// Folds up to an event, the last one if none is named.
    ///
    /// # Errors
    /// If there is no such event, the log cannot be read, or the state grows too large.
    pub fn fold(&mut self, wanted: &Wanted, at: Option<u64>) -> Result<Folded, String> {
        let at = at.unwrap_or(self.last);
        if at > self.last {
            return Err(format!("event {at}: the last one is {}", self.last));
        }
        let folded = wanted.fold(&mut self.reader, &self.index, at, None, &mut |_| {});
        folded.map_err(|refusal| refusal.reason())
    }

    /// The events that match, as JSON.
    ///
    /// # Errors
    /// If the log cannot be read.
    pub fn query(&mut self, query: &Query) -> Result<Vec<String>, String> {
        let mut events = Vec::new();
        let mut emit = |event| {
            events.push(event);
            true
        };
        query::run(
            query,
            &mut self.reader,
            &self.index,
            self.last,
            &mut emit,
            &mut || (),
        )
        .map_err(|e| e.to_string())?;
        Ok(events)
    }
}
