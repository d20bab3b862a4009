//! Where objects lie: adapters of [`ledger_core::store::ObjectStore`] over files.
//!
//! [`FolderStore`] is what blobs use: shredding overwrites keys where they lie, which neither of the others could. To
//! those, each behind a feature, ciphertexts are carried (`cli/objects.rs`): segment files (`segment`) and a git
//! repository (`git`). Start with [`fresh`], by which a file appears whole or not at all.

mod folder;
mod fresh;
#[cfg(feature = "git")]
mod git;
#[cfg(feature = "segment")]
mod segment;

pub use folder::{FolderStore, Incoming};
#[cfg(feature = "git")]
pub use git::{GitStore, object_name};
#[cfg(feature = "segment")]
pub use segment::SegmentStore;

pub(crate) use fresh::{Fresh, make_folder, sync_folder};

use ledger_core::store::StoreError;
use std::io;

/// What the system said, as the port's error.
pub(crate) fn store_error(e: io::Error) -> StoreError {
    match e.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => StoreError::Full,
        _ => StoreError::Io(e.to_string()),
    }
}
