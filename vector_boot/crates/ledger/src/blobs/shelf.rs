//! The blobs of a running ledger: opened when first needed, and cleared of what a crash left before that.

use super::{Belongs, Blobs, FOLDER};
use crate::committer::Ledger;
use crate::keys::Lasts;
use crate::refusal::Refusal;
use ledger_core::Hash;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

/// Context of the secret that opens the ledger's own wrapped keys.
pub const SECRET_CONTEXT: &str = "vb-ledger-blob-secret v1";

/// Where the blobs are, once they are.
#[derive(Default)]
pub struct Shelf(OnceLock<Result<Arc<Blobs>, Refusal>>);

impl Shelf {
    /// The blobs. The first who asks waits until the folder is cleared; a folder that cannot be used stays refused
    /// until the service starts anew.
    ///
    /// # Errors
    /// Why there are none.
    pub fn blobs(&self, ledger: &Ledger) -> Result<Arc<Blobs>, Refusal> {
        self.0.get_or_init(|| open(ledger)).clone()
    }
}

/// The ledger's folder.
#[must_use]
pub fn ledger_folder() -> Option<PathBuf> {
    std::env::var_os("VB_DATA").map(PathBuf::from)
}

/// Finishes what a crash interrupted, if there are blobs: for the thread that runs once the service is ready.
pub fn finish_interrupted(ledger: &Ledger) {
    if ledger_folder().is_some_and(|folder| folder.join(FOLDER).exists())
        && let Err(refusal) = ledger.blobs()
    {
        ::log::error!("no blobs: reason={:?}", refusal.reason());
    }
}

fn open(ledger: &Ledger) -> Result<Arc<Blobs>, Refusal> {
    let unusable = |why: &str| Refusal::new("READ_ONLY", "objects", "", why);
    let proofs = ledger
        .proofs()
        .ok_or_else(|| unusable("the device key is not open"))?;
    let folder = proofs.folder();
    let folder = folder.ok_or_else(|| unusable("the ledger has no folder"))?;
    let folder = folder.data();
    let device = proofs.key();
    if let Lasts::Process(why) = device.lasts() {
        // What is sealed to a key that goes with the process could never be opened again.
        return Err(unusable(why));
    }
    let blobs = Arc::new(Blobs::open(folder, &device.derive(SECRET_CONTEXT))?);
    if let Some(stopped) = ledger.standing().stopped {
        // Read on; but what such a log does not point to may only be what it cannot show.
        ::log::warn!("objects are not cleared: reason=\"{stopped}\"");
        return Ok(blobs);
    }
    clear(ledger, &blobs, &folder.join(FOLDER))?;
    Ok(blobs)
}

fn clear(ledger: &Ledger, blobs: &Blobs, objects: &Path) -> Result<(), Refusal> {
    let written = Belongs::read(objects).map_err(|e| Refusal::from(&e))?;
    if let Some(belongs) = written {
        let mut reader = ledger.reader();
        belongs
            .holds(&ledger.superblock().log_id, ledger.standing().id, |id| {
                reader.event(id, |_, chain, _| *chain).ok()
            })
            .map_err(|why| Refusal::new("CONFLICT", "objects", "", &why))?;
    }
    blobs.sync_names()?;
    let swept = blobs.sweep()?;
    let destroyed = collect(ledger, blobs)?;
    if swept + destroyed > 0 {
        ::log::info!("objects cleared: unfinished={swept} destroyed={destroyed}");
    }
    Belongs::now(ledger)
        .write(objects)
        .map_err(|e| Refusal::from(&e))
}

/// Destroys what no pointer needs. How many objects.
///
/// # Errors
/// As the planes' and the system's.
pub fn collect(ledger: &Ledger, blobs: &Blobs) -> Result<u64, Refusal> {
    blobs.collect(|| pointed_to(ledger))
}

/// What pointers need of a running ledger, or will once their events are durable.
///
/// # Errors
/// As the planes'.
pub fn needed(ledger: &Ledger) -> Result<BTreeSet<Hash>, Refusal> {
    match ledger_folder().filter(|folder| folder.join(FOLDER).exists()) {
        // Blobs that cannot be opened have nothing under way.
        Some(_) => match ledger.blobs() {
            Ok(blobs) => blobs.needed(|| pointed_to(ledger)),
            Err(_) => pointed_to(ledger),
        },
        None => pointed_to(ledger),
    }
}

fn pointed_to(ledger: &Ledger) -> Result<BTreeSet<Hash>, Refusal> {
    ledger.planes(|planes| planes.blobs.all().map(|(_, entry)| entry.object).collect())
}
