//! The Reality Index: how much of a call's target is really there.
//!
//! Pure: facts about an opened descriptor go in, a score and a stable code come out. The numbers are
//! the product's own (exists 0.4, coherent 0.3, accessible 0.3; good parent 0.2); coherent and
//! accessible are granted jointly, so the gate at 0.5 means exactly *usable*.
//!
//! Never here: opening anything. Start with [`judge`].

use std::io;
use sys::beneath::{Kind, Stat};

/// Larger files are images of devices, not something that an agent reads in pieces.
pub const FILE_BYTES_MAX: u64 = 16 << 30;
/// Below this a call is denied.
pub const GATE: Score = Score(50);

/// A Reality Index in hundredths.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Score(u8);

impl Score {
    /// Usable as the tool needs it.
    pub const USABLE: Self = Self(100);
    /// Something is there, but not what the tool needs.
    pub const EXISTS: Self = Self(40);
    /// Only the last component is missing.
    pub const PARENT: Self = Self(20);
    /// Nothing below the root.
    pub const NOTHING: Self = Self(0);

    /// The score as the API writes it.
    #[must_use]
    pub fn value(self) -> f64 {
        f64::from(self.0) / 100.0
    }

    /// The score in hundredths.
    #[must_use]
    pub fn hundredths(self) -> u64 {
        u64::from(self.0)
    }
}

/// What was found out about a target, and the stable code that says why it is not usable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reality {
    /// How real it is.
    pub score: Score,
    /// Empty when usable.
    pub code: &'static str,
}

impl Reality {
    /// A usable target.
    pub const USABLE: Self = Self {
        score: Score::USABLE,
        code: "",
    };

    /// Something is there, but not what the tool needs.
    #[must_use]
    pub fn exists(code: &'static str) -> Self {
        Self {
            score: Score::EXISTS,
            code,
        }
    }

    /// Only the last component is missing.
    #[must_use]
    pub fn parent_only() -> Self {
        Self {
            score: Score::PARENT,
            code: "target_missing",
        }
    }

    /// Nothing that counts.
    #[must_use]
    pub fn nothing(code: &'static str) -> Self {
        Self {
            score: Score::NOTHING,
            code,
        }
    }

    /// Whether the gate lets the call through.
    #[must_use]
    pub fn passes(self) -> bool {
        self.score >= GATE
    }
}

/// What a tool needs its target to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need {
    /// A regular file to read.
    Read,
    /// A regular file to change.
    Write,
    /// A directory to list.
    List,
}

/// Whether a root may be changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RootMode {
    /// By nobody.
    ReadOnly,
    /// By tools.
    ReadWrite,
}

/// Judges an object that exists: `found` from the O_PATH descriptor, `opened` from the descriptor
/// opened for use, or the error that opening gave.
#[must_use]
pub fn judge(need: Need, mode: RootMode, found: &Stat, opened: &io::Result<Stat>) -> Reality {
    let flaw = kind_flaw(need, found.kind)
        .or_else(|| file_flaw(mode, found))
        .or_else(|| (need == Need::Write && mode == RootMode::ReadOnly).then_some("read_only"))
        .or_else(|| match opened {
            Err(e) => Some(open_flaw(e)),
            // The name was given to another object between the two looks.
            Ok(now) => (now.identity != found.identity || now.kind != found.kind)
                .then_some("target_changed"),
        });
    flaw.map_or(Reality::USABLE, Reality::exists)
}

fn kind_flaw(need: Need, kind: Kind) -> Option<&'static str> {
    let wanted = match need {
        Need::Read | Need::Write => Kind::File,
        Need::List => Kind::Directory,
    };
    match (wanted, kind) {
        (w, k) if w == k => None,
        (Kind::Directory, _) => Some("not_a_directory"),
        _ => Some("not_a_file"),
    }
}

fn file_flaw(mode: RootMode, found: &Stat) -> Option<&'static str> {
    if found.kind != Kind::File {
        return None;
    }
    // Where tools may write, a second name may have been given to a file from outside.
    if mode == RootMode::ReadWrite && found.links != 1 {
        return Some("hard_linked");
    }
    (found.bytes > FILE_BYTES_MAX).then_some("target_too_large")
}

fn open_flaw(e: &io::Error) -> &'static str {
    match e.kind() {
        io::ErrorKind::ReadOnlyFilesystem => "read_only",
        io::ErrorKind::PermissionDenied => "not_permitted",
        _ => "target_changed",
    }
}

/// Judges a path that did not resolve; `parent_good` tells whether all but its last component did.
#[must_use]
pub fn judge_missing(e: &io::Error, parent_good: bool) -> Reality {
    match e.kind() {
        _ if sys::beneath::met_link(e) => Reality::nothing("symbolic_link"),
        io::ErrorKind::NotFound if parent_good => Reality::parent_only(),
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => {
            Reality::nothing("target_missing")
        }
        io::ErrorKind::CrossesDevices => Reality::nothing("outside_root"),
        io::ErrorKind::PermissionDenied => Reality::nothing("not_permitted"),
        io::ErrorKind::InvalidFilename | io::ErrorKind::InvalidInput => {
            Reality::nothing("path_invalid")
        }
        _ => Reality::nothing("target_unreachable"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use sys::beneath::Identity;

    fn file(inode: u64) -> Stat {
        Stat {
            identity: Identity { device: 1, inode },
            kind: Kind::File,
            bytes: 10,
            links: 1,
            mode: 0o644,
        }
    }

    #[test]
    fn each_flaw_costs_both_thirds() {
        let good = file(1);
        let opened = |s: Stat| -> io::Result<Stat> { Ok(s) };
        let rw = RootMode::ReadWrite;
        assert_eq!(judge(Need::Read, rw, &good, &opened(good)), Reality::USABLE);
        let other = |kind| Stat { kind, ..good };
        let linked = Stat { links: 2, ..good };
        let huge = Stat {
            bytes: FILE_BYTES_MAX + 1,
            ..good
        };
        let cases = [
            (Need::Read, rw, other(Kind::Directory), "not_a_file"),
            (Need::Read, rw, other(Kind::Other), "not_a_file"),
            (Need::List, rw, good, "not_a_directory"),
            (Need::Read, rw, linked, "hard_linked"),
            (Need::Read, rw, huge, "target_too_large"),
            (Need::Write, RootMode::ReadOnly, good, "read_only"),
        ];
        for (need, mode, found, code) in cases {
            let reality = judge(need, mode, &found, &opened(found));
            assert_eq!(reality, Reality::exists(code));
            assert!(!reality.passes());
        }
        let ro = RootMode::ReadOnly;
        assert_eq!(
            judge(Need::Read, ro, &linked, &opened(linked)),
            Reality::USABLE
        );
        assert_eq!(
            judge(Need::Read, rw, &good, &opened(file(2))).code,
            "target_changed"
        );
        let denied = Err(io::ErrorKind::PermissionDenied.into());
        assert_eq!(judge(Need::Read, rw, &good, &denied).code, "not_permitted");
    }

    #[test]
    fn only_a_missing_last_component_counts_for_its_parent() {
        let e = |kind: io::ErrorKind| io::Error::from(kind);
        use io::ErrorKind::{CrossesDevices, NotFound};
        assert_eq!(
            judge_missing(&e(NotFound), true).score.value().to_string(),
            "0.2"
        );
        assert_eq!(
            judge_missing(&e(NotFound), false),
            Reality::nothing("target_missing")
        );
        assert_eq!(
            judge_missing(&e(CrossesDevices), true),
            Reality::nothing("outside_root")
        );
        assert_eq!(
            judge_missing(&e(io::ErrorKind::PermissionDenied), true),
            Reality::nothing("not_permitted")
        );
    }

    proptest! {
        #[test]
        fn the_gate_opens_for_usable_targets_only(
            kind in 0..4u8, links in 0..4u64, bytes: u64, moved: bool, fails: bool, need in 0..3u8, rw: bool,
        ) {
            let kind = [Kind::File, Kind::Directory, Kind::Link, Kind::Other][usize::from(kind)];
            let need = [Need::Read, Need::Write, Need::List][usize::from(need)];
            let mode = if rw { RootMode::ReadWrite } else { RootMode::ReadOnly };
            let found = Stat { kind, links, bytes, ..file(1) };
            let opened = match (fails, moved) {
                (true, _) => Err(io::ErrorKind::PermissionDenied.into()),
                (false, true) => Ok(Stat { identity: file(2).identity, ..found }),
                (false, false) => Ok(found),
            };
            let usable = !fails && !moved
                && match need { Need::List => kind == Kind::Directory, _ => kind == Kind::File
                    && bytes <= FILE_BYTES_MAX && (!rw || links == 1) }
                && (need != Need::Write || rw);
            let reality = judge(need, mode, &found, &opened);
            prop_assert_eq!(reality.passes(), usable);
            prop_assert_eq!(reality.score == Score::USABLE || reality.score == Score::EXISTS, true);
        }
    }
}
