//! The making of a cell, in the helper: namespaces for one service, furnished with what it may see.
//!
//! Who sees what is in [`jail::cell`]; here it is mounted. Never in PID 1: mounts and network
//! namespaces wait for other processors. Start with [`make`].

use jail::Profile;
use jail::cell::{DATA, LEASES, NAMES, NOTIFY, Names, Proc, RUN, View};
use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt, symlink};
use std::path::Path;
use sys::namespace::{self, Away, Space, Use};
use wire::helper::Cell;

/// Where a new root is put together; a folder that every namespace has.
const WORKSHOP: &str = "/run/cell";
/// The root of a cell holds mount points and links only: a few inodes.
const ROOT_OPTIONS: &str = "mode=0755,size=64k,nr_inodes=128";
/// Inodes of a `/tmp`: one a 4 KiB page, and some to begin with. Each costs the kernel about 1 KiB,
/// which the size does not count.
const TMP_INODE_BYTES: u64 = 4096;
const TMP_INODES_MIN: u64 = 64;
/// The folder of a service of ours for which the data disk has none: a sixteenth of a small machine.
const MEMORY_FOLDER_BYTES: u64 = 16 << 20;

/// What is said of each step that fails.
struct Failed(String);

impl Failed {
    fn at(what: impl std::fmt::Display) -> impl FnOnce(io::Error) -> Self {
        move |e| Self(format!("{what}: {e}"))
    }
}

/// Makes a cell: its namespaces, in the order mnt, ipc, uts, net, and what this kernel lacks.
///
/// # Errors
/// One sentence naming the service and the step. This process is back in its own namespaces then.
/// If it cannot go back it ends: a helper elsewhere would mount for PID 1 in the wrong place.
pub fn make(cell: &Cell<'_>) -> Result<(Vec<OwnedFd>, String), String> {
    let named = |e: Failed| format!("cell {}: {}", cell.service, e.0);
    let profile = Profile::of_name(cell.profile)
        .ok_or_else(|| named(Failed(format!("profile {:?} is none", cell.profile))))?;
    if [cell.service]
        .into_iter()
        .chain(sockets_of(cell))
        .any(|name| name.is_empty() || name.starts_with('.') || name.contains('/'))
    {
        return Err(named(Failed("a name that is no file's name".to_owned())));
    }
    fs::create_dir(WORKSHOP)
        .or_else(if_there)
        .map_err(Failed::at(WORKSHOP))
        .map_err(named)?;
    let mut kinds = vec![Space::Mount, Space::Ipc, Space::Uts];
    if !cell.network {
        kinds.push(Space::Net);
    }
    let away = Away::leave(&kinds).map_err(|e| named(Failed::at("namespaces")(e)))?;
    let lacking: Vec<&str> = away.absent().iter().map(|s| s.name()).collect();
    let lacking = lacking.join(", ");
    // What a service shall look into must not be closed by the helper's own umask.
    let umask = sys::process::set_umask(0o022);
    let view = if cell.foreign {
        View::of_stranger(profile)
    } else {
        View::of(profile)
    };
    let furnished = furnish(cell, &view);
    sys::process::set_umask(umask);
    match away.home() {
        Ok(namespaces) => furnished.map(|()| (namespaces, lacking)).map_err(named),
        Err(e) => {
            eprintln!("<3>helper: cell {}: the way back: {e}", cell.service);
            std::process::exit(1);
        }
    }
}

fn sockets_of<'a>(cell: &Cell<'a>) -> impl Iterator<Item = &'a str> {
    cell.sockets.split(':').filter(|name| !name.is_empty())
}

fn if_there(e: io::Error) -> io::Result<()> {
    if e.kind() == io::ErrorKind::AlreadyExists {
        Ok(())
    } else {
        Err(e)
    }
}

/// In a new mount namespace: puts the root together and moves into it.
fn furnish(cell: &Cell<'_>, view: &View) -> Result<(), Failed> {
    let root = Root(Path::new(WORKSHOP));
    namespace::make_private().map_err(Failed::at("private mounts"))?;
    namespace::mount_new("tmpfs", root.0, Use::WRITE, ROOT_OPTIONS).map_err(Failed::at("root"))?;
    root.folder(RUN)?;
    let wanted = view.sockets.iter().copied().chain(sockets_of(cell));
    for name in wanted {
        let path = format!("{RUN}/{name}");
        // A machine may lack the service that this socket belongs to.
        if Path::new(&path).exists() && !root.has(&path) {
            root.file(&path, &path, Use::READ)?;
        }
    }
    if cell.notify {
        let own = format!("{NOTIFY}/{}", cell.service);
        root.file(&own, NOTIFY, Use::READ)?;
    }
    if cell.data {
        let own = format!("{DATA}/service.{}", cell.service);
        match root.bound_folder(&own, Use::WRITE) {
            // PID 1 has said of the disk what is wrong with it. Our own services know how to work without
            // what lies there; of a user's nobody knows.
            // Where it is there, memory may be short for a moment: PID 1 asks again, since this cell is for all restarts.
            Err(e) if !cell.foreign && !Path::new(&own).exists() => {
                eprintln!(
                    "<4>helper: cell {}: its folder ends with this boot: {}",
                    cell.service, e.0
                );
                root.memory(&own, cell.uid, MEMORY_FOLDER_BYTES)?;
            }
            bound => bound?,
        }
    }
    if cell.tmp_bytes > 0 {
        root.memory("/tmp", cell.uid, cell.tmp_bytes)?;
    }
    for name in view.devices {
        let path = format!("/dev/{name}");
        root.file(&path, &path, Use::DEVICES)?;
    }
    match view.proc {
        Proc::Nothing => {}
        Proc::Figures(names) => {
            for name in names {
                let path = format!("/proc/{name}");
                root.file(&path, &path, Use::READ)?;
            }
        }
        Proc::Own => root.proc("hidepid=invisible")?,
        Proc::All => root.proc("hidepid=off")?,
    }
    if view.sys {
        root.bound_folder("/sys", Use::READ)?;
    }
    if view.leases {
        crate::cgroup::prepare_leases().map_err(Failed)?;
        root.bound_folder(LEASES, Use::READ)?;
    }
    if view.names != Names::Nothing && Path::new(NAMES).exists() {
        let usage = if view.names == Names::Writes {
            Use::WRITE
        } else {
            Use::READ
        };
        root.bound_folder(NAMES, usage)?;
        root.link("net/resolv.conf", &format!("{RUN}/resolv.conf"))?;
        root.folder("/etc")?;
        root.link(&format!("{NAMES}/resolv.conf"), "/etc/resolv.conf")?;
    }
    namespace::restrict(root.0, Use::READ).map_err(Failed::at("root, read-only"))?;
    namespace::move_into(root.0).map_err(Failed::at("pivot_root"))
}

/// A root that is being put together; paths are those that the service will see.
struct Root<'a>(&'a Path);

impl Root<'_> {
    fn at(&self, path: &str) -> std::path::PathBuf {
        self.0.join(path.trim_start_matches('/'))
    }

    fn has(&self, path: &str) -> bool {
        self.at(path).exists()
    }

    fn folder(&self, path: &str) -> Result<(), Failed> {
        DirBuilder::new()
            .recursive(true)
            .mode(0o755)
            .create(self.at(path))
            .map_err(Failed::at(path))
    }

    /// Shows the file `source` at `path`.
    fn file(&self, source: &str, path: &str, usage: Use) -> Result<(), Failed> {
        if let Some((folder, _)) = path.rsplit_once('/') {
            self.folder(folder)?;
        }
        let target = self.at(path);
        File::create(&target).map_err(Failed::at(path))?;
        namespace::bind(Path::new(source), &target, usage).map_err(Failed::at(path))
    }

    /// Shows a folder where it is.
    fn bound_folder(&self, path: &str, usage: Use) -> Result<(), Failed> {
        self.folder(path)?;
        namespace::bind(Path::new(path), &self.at(path), usage).map_err(Failed::at(path))
    }

    fn link(&self, to: &str, path: &str) -> Result<(), Failed> {
        symlink(to, self.at(path)).map_err(Failed::at(path))
    }

    fn proc(&self, hide: &str) -> Result<(), Failed> {
        self.folder("/proc")?;
        namespace::mount_new("proc", &self.at("/proc"), Use::READ, hide)
            .map_err(Failed::at("/proc"))
    }

    /// A folder in memory, the service's own.
    fn memory(&self, path: &str, uid: u32, bytes: u64) -> Result<(), Failed> {
        self.folder(path)?;
        let inodes = (bytes / TMP_INODE_BYTES).max(TMP_INODES_MIN);
        let options = format!("mode=0700,uid={uid},gid={uid},size={bytes},nr_inodes={inodes}");
        let place = self.at(path);
        namespace::mount_new("tmpfs", &place, Use::WRITE, &options).map_err(Failed::at(path))?;
        fs::set_permissions(&place, fs::Permissions::from_mode(0o700)).map_err(Failed::at(path))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_lead_elsewhere_and_unknown_profiles_are_refused_before_anything_is_made() {
        let good = Cell {
            service: "app",
            profile: "foreign",
            foreign: true,
            uid: 30_000,
            data: true,
            notify: true,
            network: false,
            tmp_bytes: 0,
            sockets: "",
        };
        for (cell, named) in [
            (
                Cell {
                    service: "../ledger",
                    ..good
                },
                "no file's name",
            ),
            (
                Cell {
                    service: "",
                    ..good
                },
                "no file's name",
            ),
            (
                Cell {
                    sockets: "a.sock:../../data",
                    ..good
                },
                "no file's name",
            ),
            (
                Cell {
                    sockets: "..",
                    ..good
                },
                "no file's name",
            ),
            (
                Cell {
                    profile: "root",
                    ..good
                },
                "profile \"root\"",
            ),
        ] {
            let refused = make(&cell).unwrap_err();
            assert!(refused.contains(named), "{refused}");
        }
    }
}
