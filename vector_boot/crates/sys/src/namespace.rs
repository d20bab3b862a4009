//! Namespaces: leaving those that we are in, and furnishing a new mount namespace.
//!
//! Start with [`Away`]; the mounts that a new root is furnished with are functions of this module.
//! What is mounted for whom is policy and is decided elsewhere.

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, setns, unshare};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

/// A kind of namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Space {
    /// Mounts.
    Mount,
    /// System V objects and POSIX message queues.
    Ipc,
    /// The host's name.
    Uts,
    /// Links, addresses, ports, abstract sockets.
    Net,
}

impl Space {
    /// Its name below `/proc/PID/ns`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Mount => "mnt",
            Self::Ipc => "ipc",
            Self::Uts => "uts",
            Self::Net => "net",
        }
    }

    fn flag(self) -> CloneFlags {
        match self {
            Self::Mount => CloneFlags::CLONE_NEWNS,
            Self::Ipc => CloneFlags::CLONE_NEWIPC,
            Self::Uts => CloneFlags::CLONE_NEWUTS,
            Self::Net => CloneFlags::CLONE_NEWNET,
        }
    }
}

/// This thread in namespaces of its own, until [`Away::home`].
///
/// Only for a process with a single thread, which entering a mount namespace needs.
#[derive(Debug)]
pub struct Away {
    back: Vec<(Space, OwnedFd)>,
    new: Vec<OwnedFd>,
    absent: Vec<Space>,
}

impl Away {
    /// Makes a namespace of each kind and enters them. A kind that this kernel was built without is in
    /// [`Away::absent`]; mounts are always there.
    ///
    /// # Errors
    /// As `unshare(2)`; this thread is home again then.
    pub fn leave(kinds: &[Space]) -> io::Result<Self> {
        let mut this = Self {
            back: Vec::new(),
            new: Vec::new(),
            absent: Vec::new(),
        };
        for kind in kinds {
            if let Err(e) = this.enter_new(*kind) {
                this.home()?;
                return Err(e);
            }
        }
        Ok(this)
    }

    fn enter_new(&mut self, kind: Space) -> io::Result<()> {
        let path = format!("/proc/self/ns/{}", kind.name());
        let back = match File::open(&path) {
            Ok(file) => file,
            Err(e) if e.kind() == io::ErrorKind::NotFound && kind != Space::Mount => {
                self.absent.push(kind);
                return Ok(());
            }
            Err(e) => return Err(e),
        };
        unshare(kind.flag())?;
        self.back.push((kind, back.into()));
        self.new.push(File::open(&path)?.into());
        Ok(())
    }

    /// Kinds that this kernel does not have.
    #[must_use]
    pub fn absent(&self) -> &[Space] {
        &self.absent
    }

    /// Goes back, and answers the new namespaces in the order of their kinds.
    ///
    /// # Errors
    /// As `setns(2)`: then this process is of no more use.
    pub fn home(self) -> io::Result<Vec<OwnedFd>> {
        for (kind, fd) in &self.back {
            setns(fd.as_fd(), kind.flag())?;
        }
        Ok(self.new)
    }
}

/// What may be done on a mount; nosuid always.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Use {
    /// Files and folders may change.
    pub write: bool,
    /// Device nodes work.
    pub devices: bool,
}

impl Use {
    /// Looking at files.
    pub const READ: Self = Self {
        write: false,
        devices: false,
    };
    /// Changing them too.
    pub const WRITE: Self = Self {
        write: true,
        devices: false,
    };
    /// Device nodes.
    pub const DEVICES: Self = Self {
        write: false,
        devices: true,
    };

    fn flags(self) -> MsFlags {
        let mut flags = MsFlags::MS_NOSUID | MsFlags::MS_NOEXEC;
        flags.set(MsFlags::MS_RDONLY, !self.write);
        flags.set(MsFlags::MS_NODEV, !self.devices);
        flags
    }
}

/// No mount of this namespace is seen by another any more, nor the other way round.
///
/// # Errors
/// As `mount(2)`.
pub fn make_private() -> io::Result<()> {
    let flags = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
    Ok(mount(None::<&str>, "/", None::<&str>, flags, None::<&str>)?)
}

/// Shows the file or folder `source`, without what is mounted below it, at `target`, which exists.
///
/// # Errors
/// As `mount(2)`.
pub fn bind(source: &Path, target: &Path, usage: Use) -> io::Result<()> {
    mount(
        Some(source),
        target,
        None::<&str>,
        MsFlags::MS_BIND,
        None::<&str>,
    )?;
    restrict(target, usage)
}

/// Changes what may be done on the mount at `target`, for this mount alone.
///
/// # Errors
/// As `mount(2)`.
pub fn restrict(target: &Path, usage: Use) -> io::Result<()> {
    let flags = MsFlags::MS_REMOUNT | MsFlags::MS_BIND | usage.flags();
    Ok(mount(
        None::<&str>,
        target,
        None::<&str>,
        flags,
        None::<&str>,
    )?)
}

/// Mounts a file system that has no device: `tmpfs`, `proc`.
///
/// # Errors
/// As `mount(2)`.
pub fn mount_new(fstype: &str, target: &Path, usage: Use, options: &str) -> io::Result<()> {
    Ok(mount(
        Some(fstype),
        target,
        Some(fstype),
        usage.flags(),
        Some(options),
    )?)
}

/// Makes the mount at `new_root` the root of this namespace and lets go of all that was there.
///
/// # Errors
/// As `pivot_root(2)` and `umount2(2)`.
pub fn move_into(new_root: &Path) -> io::Result<()> {
    std::env::set_current_dir(new_root)?;
    // pivot_root(2), NOTES: with the same folder twice the old root ends up on top of the new one.
    nix::unistd::pivot_root(".", ".")?;
    umount2(".", MntFlags::MNT_DETACH)?;
    std::env::set_current_dir("/")
}
