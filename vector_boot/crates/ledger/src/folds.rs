//! Runs folds over the log, from where an earlier one left off where that is known.
//!
//! The cache is a convenience: a proof never uses it. Start with [`Wanted::fold`].

use crate::index::Index;
use crate::query::{self, Filter, Order, Query};
use crate::reader::{Reader, compacted};
use crate::refusal::Refusal;
use ledger_core::folds::{Fold, Spec};
use ledger_core::{Body, Hash};
use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};

/// Folds that are kept.
const KEPT_MAX: usize = 4;
/// Memory of the largest state that is kept.
const KEPT_BYTES_MAX: usize = 512 * 1024;

/// What is to be folded.
#[derive(Debug, Clone)]
pub struct Wanted {
    /// Whose events; everybody's if absent.
    pub tenant: Option<String>,
    /// Of which namespace.
    pub ns: String,
    /// How.
    pub spec: Spec,
}

/// A fold up to an event.
#[derive(Debug, Clone)]
pub struct Folded {
    /// The first event that the log had when it was begun: of a log that was compacted since, it is another fold.
    pub begins: u64,
    /// The event.
    pub through: u64,
    /// The state there.
    pub fold: Fold,
}

type Key = (Option<String>, String, Hash);

/// The latest folds.
#[derive(Default)]
pub struct Kept(Mutex<VecDeque<(Key, Folded)>>);

impl Kept {
    /// What is known of a fold at or before an event, of a log that begins there.
    pub fn get(&self, wanted: &Wanted, begins: u64, at: u64) -> Option<Folded> {
        let kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let key = wanted.key();
        let fits = |f: &Folded| f.begins == begins && f.through <= at;
        let mut hits = kept.iter().filter(|(k, f)| *k == key && fits(f));
        hits.next().map(|(_, folded)| folded.clone())
    }

    /// Keeps a fold, in the place of an earlier one or of the oldest.
    pub fn put(&self, wanted: &Wanted, folded: &Folded) {
        if folded.fold.bytes() > KEPT_BYTES_MAX {
            return;
        }
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let key = wanted.key();
        kept.retain(|(k, _)| *k != key);
        kept.truncate(KEPT_MAX - 1);
        kept.push_front((key, folded.clone()));
    }
}

impl Wanted {
    fn key(&self) -> Key {
        (self.tenant.clone(), self.ns.clone(), self.spec.id())
    }

    /// Folds up to the event `at`, on from `begun`. `idle` is told now and then at which event it is.
    ///
    /// # Errors
    /// TOO_LARGE once the state is; NOT_FOUND if a compaction overtakes it; as the log's.
    pub fn fold(
        &self,
        reader: &mut Reader,
        index: &Mutex<Index>,
        at: u64,
        begun: Option<Folded>,
        idle: &mut dyn FnMut(u64),
    ) -> Result<Folded, Refusal> {
        let mut folded = begun.unwrap_or_else(|| {
            let index = index.lock().unwrap_or_else(PoisonError::into_inner);
            Folded {
                begins: index.first(),
                through: index.first() - 1,
                fold: Fold::new(self.spec.clone()),
            }
        });
        if at > 0 && at < folded.through {
            // What led to that state is gone; kept, it would stand in the way of those that can be folded.
            return Err(Refusal::from(&compacted(at, folded.begins)));
        }
        let query = Query {
            filter: Filter {
                tenant_id: self.tenant.clone(),
                ns: Some(self.ns.clone()),
                ..Filter::default()
            },
            from: Some(folded.through + 1),
            limit: u64::MAX,
            order: Order::Ascending,
        };
        let mut refused = None;
        let last = std::cell::Cell::new(0);
        let mut emit = |id, _: &Hash, body: &Body<'_>| {
            last.set(id);
            refused = folded.fold.apply(id, body).err();
            refused.is_none()
        };
        query::each(&query, reader, index, at, &mut emit, &mut || {
            idle(last.get())
        })
        .map_err(|e| Refusal::from(&e))?;
        folded.through = at;
        refused.map_or(Ok(folded), |no| Err(no.into()))
    }
}
