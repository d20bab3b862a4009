//! What a process may still open: folders and files, by path or by a descriptor that it holds.
//!
//! Descriptors that are open already are not touched by this. Start with [`Grants::of_role`].

use crate::Profile;
use std::ffi::OsString;
use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// What may be done below a folder, or with a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Read files, list folders.
    Read,
    /// Also write, make, rename and remove files and folders.
    Write,
    /// Also make sockets, FIFOs and symbolic links.
    Own,
}

/// A list of folders and files with what may be done there. Nothing else can be opened.
#[derive(Debug, Default)]
pub struct Grants(pub(crate) Vec<(OwnedFd, Access)>);

/// What the kernel tells of the machine's size and load.
const LOAD: &[&str] = &[
    "/proc/stat",
    "/proc/meminfo",
    "/proc/loadavg",
    "/proc/sys/kernel/pid_max",
    "/proc/sys/kernel/threads-max",
    "/proc/self/cgroup",
];

/// The root that tools never write to.
const READ_ONLY_ROOT: &str = "root.share";

impl Grants {
    /// Nothing.
    #[must_use]
    pub fn none() -> Self {
        Self::default()
    }

    /// Adds a path; one that is not there is passed over, since then nothing can be done there.
    #[must_use]
    pub fn path(mut self, path: impl AsRef<Path>, access: Access) -> Self {
        let place = File::options()
            .read(true)
            .custom_flags(libc::O_PATH | libc::O_CLOEXEC)
            .open(path);
        if let Ok(place) = place {
            self.0.push((place.into(), access));
        }
        self
    }

    /// Adds what is behind a descriptor.
    #[must_use]
    pub fn descriptor(mut self, fd: impl AsFd, access: Access) -> Self {
        // Without a free number the process could not work either: the role will say it.
        if let Ok(fd) = fd.as_fd().try_clone_to_owned() {
            self.0.push((fd, access));
        }
        self
    }

    /// Adds the folders that PID 1 passed: roots and `proc`.
    #[must_use]
    pub fn inherited(mut self) -> Self {
        for (name, fd) in sys::inherit::copies() {
            let access = match name.as_str() {
                READ_ONLY_ROOT | "proc" => Access::Read,
                root if root.starts_with("root.") => Access::Write,
                _ => continue,
            };
            self.0.push((fd, access));
        }
        self
    }

    /// Holds what lies in `/proc` for the rest of the process's life. A rule is bound to an inode, and
    /// `/proc` makes a new one for the same file when nobody holds the old: nothing would match it.
    pub fn keep(self) {
        for (fd, _) in self.0 {
            if sys::beneath::is_proc(&fd).unwrap_or(false) {
                std::mem::forget(fd);
            }
        }
    }

    /// What a role of ours may open: what PID 1 passed, its folder on the data disk, and what its
    /// work makes it read.
    #[must_use]
    pub fn of_role(profile: Profile) -> Self {
        let own = folder("VB_DATA");
        let grants = Self::none();
        match profile {
            Profile::Capacity => LOAD
                .iter()
                .fold(with(grants, own, Access::Write), |grants, file| {
                    grants.path(file, Access::Read)
                })
                .path("/sys/fs/cgroup", Access::Read),
            Profile::Gateway => with(grants.inherited(), own, Access::Write),
            Profile::Console => with(grants, network(), Access::Read)
                .path("/proc", Access::Read)
                .path("/sys/class", Access::Read)
                .path("/sys/devices", Access::Read),
            Profile::Net => with(grants, network(), Access::Write),
            Profile::Ledger | Profile::Cortex => with(grants, own, Access::Write),
            Profile::Witness => grants,
            Profile::Foreign | Profile::ForeignOnline => with(
                with(
                    with(grants.inherited(), own, Access::Own),
                    network(),
                    Access::Read,
                ),
                temporary(),
                Access::Own,
            )
            .path("/proc/self", Access::Read)
            .path("/dev/null", Access::Write)
            .path("/dev/full", Access::Write)
            .path("/dev/zero", Access::Read)
            .path("/dev/random", Access::Read)
            .path("/dev/urandom", Access::Read),
        }
    }
}

/// Where `net` says what it has, and programs read it.
fn network() -> Option<PathBuf> {
    folder("VB_RUN").map(|run| run.join("net"))
}

/// `/tmp`, where it is its own: in a cell of the appliance. A host's belongs to everybody.
fn temporary() -> Option<PathBuf> {
    let cell = folder("VB_RUN").is_some_and(|run| run == Path::new(crate::cell::RUN));
    cell.then(|| PathBuf::from("/tmp"))
}

fn folder(variable: &str) -> Option<PathBuf> {
    std::env::var_os(variable)
        .filter(|text: &OsString| !text.is_empty())
        .map(PathBuf::from)
}

fn with(grants: Grants, path: Option<PathBuf>, access: Access) -> Grants {
    match path {
        Some(path) => grants.path(path, access),
        None => grants,
    }
}
