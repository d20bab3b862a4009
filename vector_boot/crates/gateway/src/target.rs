//! From a place to a judged descriptor: resolve, look, open, compare.
//!
//! Everything that a file tool later does, it does on what [`open`] returns and never on the path
//! again. Start with [`open`].

use crate::reality::{self, Need, Reality, RootMode};
use crate::roots::Place;
use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use sys::beneath::{self, Access, Stat};

/// A judged target.
pub enum Target {
    /// Open for the tool's mode, with its facts as of then.
    Open(File, Stat),
    /// Missing in this directory, which was judged instead.
    Creatable(File),
}

/// Resolves and judges a place for one kind of access.
#[must_use]
pub fn open(place: Place<'_>, access: Access) -> (Reality, Option<Target>) {
    let (root, path) = (place.root.directory(), place.path.as_bytes());
    let found = match beneath::find(root, path).and_then(beneath::stat) {
        Ok(found) => found,
        Err(e) => return (reality::judge_missing(&e, parent_is_good(place)), None),
    };
    // What the first look refuses already is not opened: a device may act on being opened.
    let need = need_of(access);
    let first = reality::judge(need, place.root.mode, &found, &Ok(found));
    if !first.passes() {
        return (first, None);
    }
    let opened = beneath::open(root, path, access).and_then(|f| Ok((beneath::stat(&f)?, f)));
    let (now, file) = match opened {
        Ok((stat, file)) => (Ok(stat), Some(file)),
        Err(e) => (Err(e), None),
    };
    let verdict = reality::judge(need, place.root.mode, &found, &now);
    match (verdict.passes(), file, now) {
        (true, Some(file), Ok(stat)) => (verdict, Some(Target::Open(file, stat))),
        _ => (verdict, None),
    }
}

/// As [`open`]; where only the last component is missing, its directory is judged for taking it.
#[must_use]
pub fn open_or_create(place: Place<'_>, access: Access) -> (Reality, Option<Target>) {
    let (verdict, target) = open(place, access);
    if verdict != Reality::parent_only() {
        return (verdict, target);
    }
    if place.root.mode == RootMode::ReadOnly {
        return (Reality::exists("read_only"), None);
    }
    match parent(place).and_then(|p| beneath::may_add(p.as_fd()).map(|()| p)) {
        Ok(parent) => (Reality::USABLE, Some(Target::Creatable(parent))),
        Err(e) if e.kind() == io::ErrorKind::ReadOnlyFilesystem => {
            (Reality::exists("read_only"), None)
        }
        Err(_) => (Reality::exists("not_permitted"), None),
    }
}

/// Opens the directory that holds the last component.
///
/// # Errors
/// As [`beneath::open`]; a path without such a component is `InvalidInput`.
pub fn parent(place: Place<'_>) -> io::Result<File> {
    let (parent, _) = place.split().ok_or(io::ErrorKind::InvalidInput)?;
    beneath::open(place.root.directory(), parent.as_bytes(), Access::List)
}

fn parent_is_good(place: Place<'_>) -> bool {
    place.split().is_some() && parent(place).is_ok()
}

fn need_of(access: Access) -> Need {
    match access {
        Access::Read => Need::Read,
        Access::Write | Access::Append => Need::Write,
        Access::List => Need::List,
    }
}
