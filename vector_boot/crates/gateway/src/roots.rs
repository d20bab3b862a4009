//! The roots: directories below which the file tools act, held open since the start.
//!
//! Owns the directory descriptors, and how a path in a call names a root and a place in it. The
//! text of a path decides only *which* root; whether the place lies below it the kernel says.
//!
//! Start with [`Roots::locate`].

use crate::reality::{Reality, RootMode};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

/// One root.
#[derive(Debug)]
pub struct Root {
    /// What calls name it by.
    pub name: String,
    /// Whether tools may change it.
    pub mode: RootMode,
    /// Where it lies, for absolute paths in calls; not known for every descriptor.
    path: Option<PathBuf>,
    directory: OwnedFd,
}

impl Root {
    /// Makes a root of an open directory. A file system mounted read-only makes it so as well.
    ///
    /// # Errors
    /// As `fstat(2)`; what is no directory is `NotADirectory`.
    pub fn new(
        name: String,
        mode: RootMode,
        path: Option<PathBuf>,
        directory: OwnedFd,
    ) -> std::io::Result<Self> {
        if sys::beneath::stat(&directory)?.kind != sys::beneath::Kind::Directory {
            return Err(std::io::ErrorKind::NotADirectory.into());
        }
        let mode = match sys::beneath::is_read_only(&directory)? {
            true => RootMode::ReadOnly,
            false => mode,
        };
        Ok(Self {
            name,
            mode,
            path,
            directory,
        })
    }

    /// The directory.
    #[must_use]
    pub fn directory(&self) -> BorrowedFd<'_> {
        self.directory.as_fd()
    }
}

/// A place below a root.
#[derive(Debug, Clone, Copy)]
pub struct Place<'r> {
    /// The root.
    pub root: &'r Root,
    /// Relative to it, never empty.
    pub path: &'r str,
}

impl<'r> Place<'r> {
    /// The path without its last component, and that component; `None` if the last one names no
    /// entry of its own (`..`, `.`, the root itself).
    #[must_use]
    pub fn split(&self) -> Option<(&'r str, &'r str)> {
        let trimmed = self.path.trim_end_matches('/');
        let (parent, name) = trimmed.rsplit_once('/').unwrap_or((".", trimmed));
        let parent = if parent.is_empty() { "." } else { parent };
        (!matches!(name, "" | "." | "..")).then_some((parent, name))
    }
}

/// Every root, the default one first.
#[derive(Debug, Default)]
pub struct Roots(pub Vec<Root>);

impl Roots {
    /// Names the place that a call means.
    ///
    /// With `root` given, `path` is relative to it. Without, a path whose first component is a
    /// root's name is relative to that root, any other to the first root. An absolute path is taken
    /// relative to the root that it lies under, and to the given one only.
    ///
    /// # Errors
    /// A [`Reality`] of 0: no such root, or an absolute path under none.
    pub fn locate<'r>(&'r self, root: Option<&str>, path: &'r str) -> Result<Place<'r>, Reality> {
        let named = |name: &str| self.0.iter().find(|r| r.name == name);
        let place = |root: &'r Root, path: &'r str| Place {
            root,
            path: if path.is_empty() { "." } else { path },
        };
        let chosen = match root {
            Some(name) => Some(named(name).ok_or(Reality::nothing("unknown_root"))?),
            None => None,
        };
        if path.starts_with('/') {
            return self
                .0
                .iter()
                .filter(|r| chosen.is_none_or(|c| c.name == r.name))
                .filter_map(|r| Some((r, below(r.path.as_deref()?, path)?)))
                .min_by_key(|(_, rest)| rest.len())
                .map(|(r, rest)| place(r, rest))
                .ok_or(Reality::nothing("outside_root"));
        }
        if let Some(root) = chosen {
            return Ok(place(root, path));
        }
        let (first, rest) = path.split_once('/').unwrap_or((path, ""));
        if let Some(root) = named(first) {
            return Ok(place(root, rest.trim_start_matches('/')));
        }
        let default = self.0.first().ok_or(Reality::nothing("unknown_root"))?;
        Ok(place(default, path))
    }
}

/// The rest of an absolute path below `root`, by whole components.
fn below<'p>(root: &Path, path: &'p str) -> Option<&'p str> {
    let root = root.to_str()?.trim_end_matches('/');
    let rest = path.strip_prefix(root)?;
    (rest.is_empty() || rest.starts_with('/')).then(|| rest.trim_start_matches('/'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn root(name: &str, path: &str) -> Root {
        Root {
            name: name.to_owned(),
            mode: RootMode::ReadWrite,
            path: Some(path.into()),
            directory: std::fs::File::open("/").unwrap().into(),
        }
    }

    fn at(roots: &Roots, name: Option<&str>, path: &str) -> Option<(String, String)> {
        let place = roots.locate(name, path).ok()?;
        Some((place.root.name.clone(), place.path.to_owned()))
    }

    #[test]
    fn a_path_names_one_root() {
        let roots = Roots(vec![
            root("work", "/srv/w"),
            root("share", "/srv/share"),
            root("deep", "/srv/w/deep"),
        ]);
        let is = |root: &str, path: &str| Some((root.to_owned(), path.to_owned()));
        assert_eq!(at(&roots, None, "a/b"), is("work", "a/b"));
        assert_eq!(at(&roots, None, "share/b"), is("share", "b"));
        assert_eq!(at(&roots, None, "share"), is("share", "."));
        assert_eq!(at(&roots, None, ""), is("work", "."));
        assert_eq!(at(&roots, Some("work"), "share/b"), is("work", "share/b"));
        assert_eq!(at(&roots, Some("nope"), "a"), None);
        assert_eq!(at(&roots, None, "/srv/share/x"), is("share", "x"));
        assert_eq!(at(&roots, None, "/srv/w/deep/x"), is("deep", "x"));
        assert_eq!(
            at(&roots, Some("work"), "/srv/w/deep/x"),
            is("work", "deep/x")
        );
        assert_eq!(at(&roots, Some("work"), "/srv/share/x"), None);
        assert_eq!(at(&roots, None, "/srv/wshop/x"), None);
        assert_eq!(at(&roots, None, "/srv/w//../x"), is("work", "../x"));
        assert_eq!(at(&roots, None, "/etc/passwd"), None);
        assert_eq!(at(&Roots::default(), None, "a"), None);
    }

    #[test]
    fn the_last_component_is_split_off() {
        let roots = Roots(vec![root("work", "/srv/w")]);
        let split = |path: &'static str| roots.locate(Some("work"), path).unwrap().split();
        assert_eq!(split("f"), Some((".", "f")));
        assert_eq!(split("a/b/f"), Some(("a/b", "f")));
        assert_eq!(split("a/f//"), Some(("a", "f")));
        for none in ["", ".", "..", "a/..", "a/."] {
            assert_eq!(split(none), None, "{none}");
        }
    }
}
