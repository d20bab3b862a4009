//! From the handoff to a root of our own: mounts, kernel modules, the root move, the console's name.
//!
//! Runs once, as PID 1 of a kernel, before anything else exists. Every step that fails is said and
//! passed over: what comes later finds out what it lacks. Start with [`prepare`].

use crate::params::Params;
use std::fs::{self, File};
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use sys::machine::{self, MountFlags};

/// Largest file that is read whole from the initramfs: keys, digests.
const SMALL_FILE_BYTES_MAX: u64 = 64 * 1024;
/// Kernel modules that one image may carry.
const MODULES_MAX: usize = 128;
/// Trusted keys that one image may carry.
pub const KEYS_MAX: usize = 16;
/// Where the new root is put together: a folder that every kernel makes for itself (usr/default_cpio_list).
const NEW_ROOT: &str = "/root";

/// What the initramfs held, in hand before it is left.
#[derive(Debug, Default)]
pub struct Initramfs {
    /// `/init`, to exec roles from.
    pub vector_boot: Option<OwnedFd>,
    /// `/vb-services`.
    pub services: Option<OwnedFd>,
    /// `/rts`: a small package that came along.
    pub package: Option<File>,
    /// Lines of `/digests`: name and BLAKE3 in hex.
    pub digests: Vec<(String, String)>,
    /// Contents of `/keys/*.pub`.
    pub keys: Vec<Vec<u8>>,
    /// A compiled manifest named by `vb.manifest`.
    pub manifest: Option<Vec<u8>>,
}

/// What happened, for the boot record and the console.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// What did not work, one sentence each.
    pub complaints: Vec<String>,
    /// Modules loaded.
    pub modules: usize,
    /// When the mounts stood, and when the modules were in.
    pub mounted_ns: u64,
    /// When the last module was loaded.
    pub modules_ns: u64,
}

/// Mounts the root that is left for, and in it what a kernel offers: nothing has to be moved there later. Answers
/// where it is, `/` if there is to be no other.
pub fn mount_root(report: &mut Report) -> &'static Path {
    let root = Path::new(NEW_ROOT);
    let flags = MountFlags {
        read_only: false,
        no_exec: true,
        no_dev: true,
    };
    // Only root writes there, and nothing but mount points: without a size it costs a third of a tmpfs.
    let made = match fs::create_dir(root) {
        Err(e) if e.kind() != io::ErrorKind::AlreadyExists => Err(e),
        _ => machine::mount_fs("ramfs", root, "ramfs", flags, "mode=0755"),
    };
    let root = match made {
        Ok(()) => root,
        Err(e) => {
            report.complaints.push(format!("leave the initramfs: {e}"));
            Path::new("/")
        }
    };
    mount_kernel(root, report);
    root
}

/// Mounts what a kernel offers below a root. `proc` comes first: parameters are read from it.
fn mount_kernel(root: &Path, report: &mut Report) {
    let closed = MountFlags {
        read_only: false,
        no_exec: true,
        no_dev: true,
    };
    let devices = MountFlags {
        no_dev: false,
        ..closed
    };
    let table = [
        ("proc", "proc", "proc", closed, ""),
        ("sysfs", "sys", "sysfs", closed, ""),
        ("devtmpfs", "dev", "devtmpfs", devices, "mode=0755"),
        ("tmpfs", "run", "tmpfs", closed, "mode=0755,size=16m"),
        ("tmpfs", "tmp", "tmpfs", closed, "mode=1777,size=16m"),
        (
            "cgroup2",
            "sys/fs/cgroup",
            "cgroup2",
            closed,
            "nsdelegate,memory_recursiveprot",
        ),
    ];
    for (source, target, fstype, flags, options) in table {
        let target = root.join(target);
        // One that is there already serves as well; the kernel makes the cgroup tree's.
        let _ = fs::create_dir(&target);
        if let Err(e) = machine::mount_fs(source, &target, fstype, flags, options) {
            // The kernel mounts devtmpfs by itself where it is told to.
            if e.raw_os_error() != Some(nix_busy()) {
                let complaint = format!("mount {}: {e}", target.display());
                report.complaints.push(complaint);
            }
        }
    }
    report.mounted_ns = sys::clock::monotonic_ns();
}

/// Mounts what a kernel offers once more where a move that did not come to its end has left nothing.
pub fn mount_again(report: &mut Report) {
    if !Path::new("/proc/self").exists() || !Path::new("/dev/null").exists() {
        mount_kernel(Path::new("/"), report);
    }
}

/// What a module answers that finds no device of its own.
const ENODEV: i32 = 19;

/// EBUSY: mounted already.
fn nix_busy() -> i32 {
    16
}

/// The kernel command line.
#[must_use]
pub fn command_line() -> String {
    command_line_below(Path::new("/"))
}

/// The kernel command line, with `/proc` below a root.
#[must_use]
pub fn command_line_below(root: &Path) -> String {
    let bytes = fs::read(root.join("proc/cmdline")).unwrap_or_default();
    String::from_utf8_lossy(&bytes).trim_end().to_owned()
}

/// Whether the image holds a trusted key, readable or not.
#[must_use]
pub fn has_keys() -> bool {
    !sorted(Path::new("/keys")).is_empty()
}

/// Takes what the initramfs holds into our hands and loads its modules.
pub fn take_initramfs(params: &Params, report: &mut Report) -> Initramfs {
    let found = Initramfs {
        vector_boot: held("/init", report),
        services: held("/vb-services", report),
        package: File::open("/rts").ok(),
        digests: digests(),
        keys: keys(report),
        manifest: wanted_manifest(params, report),
    };
    load_modules(params, report);
    report.modules_ns = sys::clock::monotonic_ns();
    found
}

fn held(path: &str, report: &mut Report) -> Option<OwnedFd> {
    File::open(path)
        .map(OwnedFd::from)
        .inspect_err(|e| report.complaints.push(format!("open {path}: {e}")))
        .ok()
}

/// The manifest that `vb.manifest` names, if it does.
pub fn wanted_manifest(params: &Params, report: &mut Report) -> Option<Vec<u8>> {
    let wanted = params.get("vb.manifest");
    if wanted.is_empty() {
        return None;
    }
    read_small(Path::new(wanted))
        .inspect_err(|e| {
            report
                .complaints
                .push(format!("vb.manifest: {wanted}: {e}"));
        })
        .ok()
}

fn read_small(path: &Path) -> io::Result<Vec<u8>> {
    sys::memfd::read_small(&open_readable(path)?, 2 * SMALL_FILE_BYTES_MAX)
}

/// Opens what a parameter names for reading.
///
/// # Errors
/// As `open(2)`; never waits for the writer of a FIFO.
pub fn open_readable(path: &Path) -> io::Result<File> {
    use std::os::unix::fs::OpenOptionsExt;
    const O_NONBLOCK: i32 = 0o4000;
    File::options()
        .read(true)
        .custom_flags(O_NONBLOCK)
        .open(path)
}

fn digests() -> Vec<(String, String)> {
    let text = read_small(Path::new("/digests")).unwrap_or_default();
    String::from_utf8_lossy(&text)
        .lines()
        .filter_map(|line| line.split_once(char::is_whitespace))
        .map(|(hex, name)| (name.trim().to_owned(), hex.to_owned()))
        .collect()
}

fn keys(report: &mut Report) -> Vec<Vec<u8>> {
    let names = sorted(Path::new("/keys"));
    if names.len() > KEYS_MAX {
        report.complaints.push(format!(
            "/keys: {} trusted keys, limit {KEYS_MAX}",
            names.len()
        ));
    }
    names
        .iter()
        .take(KEYS_MAX)
        .filter_map(|name| read_small(&Path::new("/keys").join(name)).ok())
        .collect()
}

/// Loads `/modules/*.ko` in the order of their names, which the build computed from what they need.
fn load_modules(params: &Params, report: &mut Report) {
    let wanted = params.get("vb.modules");
    if wanted == "off" {
        return;
    }
    for file in sorted(Path::new("/modules")).iter().take(MODULES_MAX) {
        // `004-virtio_blk.ko`
        let name = file.trim_end_matches(".ko");
        let name = name.split_once('-').map_or(name, |(_, rest)| rest);
        if wanted != "auto"
            && !wanted
                .split(',')
                .any(|w| w.replace('-', "_") == name.replace('-', "_"))
        {
            continue;
        }
        let path = Path::new("/modules").join(file);
        let told = params.of_module(name).unwrap_or_else(|refused| {
            report.complaints.push(refused);
            String::new()
        });
        match File::open(&path).and_then(|f| machine::load_module(&f, &told)) {
            Ok(()) => report.modules += 1,
            // A driver whose hardware is not there.
            Err(e) if e.raw_os_error() == Some(ENODEV) => {}
            Err(e) => report.complaints.push(format!("module {name}: {e}")),
        }
    }
}

/// The names in a folder, in order; none if there is no such folder.
pub(crate) fn sorted(folder: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(folder) else {
        return Vec::new();
    };
    let mut names: Vec<String> = entries
        .flatten()
        .filter_map(|e| e.file_name().into_string().ok())
        .collect();
    names.sort_unstable();
    names
}

/// Leaves the initramfs for what [`mount_root`] put together, and frees what the initramfs held.
pub fn leave_initramfs(root: &Path, report: &mut Report) {
    for gone in ["/modules", "/keys"] {
        // Nothing there is nothing to free.
        let _ = fs::remove_dir_all(gone);
    }
    for gone in ["/vb-services", "/rts", "/digests", "/init"] {
        let _ = fs::remove_file(gone);
    }
    if root == Path::new("/") {
        return;
    }
    let moved = machine::move_root(root);
    if let Err(e) = moved {
        report.complaints.push(format!("leave the initramfs: {e}"));
        mount_again(report);
    }
}

/// The terminal that the kernel's own messages go to, or the one that `vb.console` names.
#[must_use]
pub fn console_name(params: &Params, report: &mut Report) -> String {
    let named = params.get("vb.console");
    if named != "auto" {
        // A disk opens as well as a terminal, and a console would write its greeting there.
        if !named.contains('/') && open_terminal(named).is_ok() {
            return named.to_owned();
        }
        report.complaints.push(format!(
            "parameter vb.console: value {named}, limit a terminal in /dev"
        ));
    }
    let registered = fs::read("/proc/consoles").unwrap_or_default();
    first_console(&String::from_utf8_lossy(&registered)).to_owned()
}

/// The first console of `/proc/consoles` is the one behind `/dev/console`; hvc0 is kept for programs where there is
/// another. `ttyS0                -W- (EC   a)    4:64`: name, what it can, flags, device.
fn first_console(registered: &str) -> &str {
    let enabled = registered.lines().filter_map(|line| {
        let (name, rest) = line.split_once(char::is_whitespace)?;
        let (_, flags) = rest.split_once('(')?;
        let (flags, device) = flags.split_once(')')?;
        // One without a device is nobody's terminal.
        (flags.contains('E') && device.contains(':')).then_some(name)
    });
    let (mut first, mut other) = (None, None);
    for name in enabled {
        first = first.or(Some(name));
        other = other.or(Some(name).filter(|name| *name != "hvc0"));
    }
    other.or(first).unwrap_or("console")
}

/// Opens a terminal for reading and writing without becoming its session's leader.
///
/// # Errors
/// As `open(2)`; what is no terminal is `InvalidInput`.
pub fn open_terminal(name: &str) -> io::Result<File> {
    use std::io::IsTerminal;
    use std::os::unix::fs::OpenOptionsExt;
    const O_NOCTTY_NONBLOCK: i32 = 0o400 | 0o4000;
    let file = File::options()
        .read(true)
        .write(true)
        .custom_flags(O_NOCTTY_NONBLOCK)
        .open(Path::new("/dev").join(name))?;
    if file.is_terminal() {
        Ok(file)
    } else {
        Err(io::ErrorKind::InvalidInput.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_terminal_is_the_first_enabled_console_but_hvc0() {
        let serial = "ttyS0                -W- (EC   a)    4:64\n";
        let hvc = "hvc0                 -W- (E  p  )  229:0\n";
        let net = "netcon0              -W- (E  p  )\n";
        let idle = "tty0                 -WU (    p  )    4:7\n";
        let first = |lines: &[&str]| first_console(&lines.concat()).to_owned();
        assert_eq!(first(&[serial, hvc]), "ttyS0");
        assert_eq!(first(&[hvc, serial]), "ttyS0");
        assert_eq!(first(&[net, idle, hvc]), "hvc0");
        assert_eq!(first(&[]), "console");
        assert_eq!(first(&["nonsense", "("]), "console");
    }
}
