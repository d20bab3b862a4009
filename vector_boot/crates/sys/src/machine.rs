//! The machine itself: mounts, the root move, kernel modules, power, the kernel's log.

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::path::Path;

/// A thread that makes a few system calls.
const ACT_STACK_BYTES: usize = 128 * 1024;

/// What a mount forbids and allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct MountFlags {
    /// Nothing may be written.
    pub read_only: bool,
    /// Nothing may be executed.
    pub no_exec: bool,
    /// Device nodes mean nothing.
    pub no_dev: bool,
}

/// Mounts a file system, always nosuid.
///
/// # Errors
/// As `mount(2)`.
pub fn mount_fs(
    source: &str,
    target: &Path,
    fstype: &str,
    flags: MountFlags,
    options: &str,
) -> io::Result<()> {
    let mut bits = MsFlags::MS_NOSUID;
    bits.set(MsFlags::MS_RDONLY, flags.read_only);
    bits.set(MsFlags::MS_NOEXEC, flags.no_exec);
    bits.set(MsFlags::MS_NODEV, flags.no_dev);
    let options = (!options.is_empty()).then_some(options);
    Ok(mount(Some(source), target, Some(fstype), bits, options)?)
}

/// Unmounts; what is busy stays (`EBUSY`).
///
/// # Errors
/// As `umount2(2)`.
pub fn unmount(target: &Path) -> io::Result<()> {
    Ok(umount2(target, MntFlags::empty())?)
}

/// Makes a mounted file system read-only where it is, for a shutdown that cannot unmount it.
///
/// # Errors
/// As `mount(2)`.
pub fn remount_read_only(target: &Path) -> io::Result<()> {
    let flags = MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY;
    Ok(mount(
        None::<&str>,
        target,
        None::<&str>,
        flags,
        None::<&str>,
    )?)
}

/// Makes the mount at `new_root` the root of this process, with the mounts below it, and leaves the initramfs behind: `pivot_root(2)` refuses to leave it, and the jails need it.
///
/// # Errors
/// As `mount(2)`, `chdir(2)` and `chroot(2)`.
pub fn move_root(new_root: &Path) -> io::Result<()> {
    std::env::set_current_dir(new_root)?;
    mount(Some("."), "/", None::<&str>, MsFlags::MS_MOVE, None::<&str>)?;
    nix::unistd::chroot(".")?;
    std::env::set_current_dir("/")
}

/// Loads a kernel module from an open file with its parameters. Loaded already is fine.
///
/// # Errors
/// As `finit_module(2)`.
pub fn load_module(file: &File, parameters: &str) -> io::Result<()> {
    let parameters = std::ffi::CString::new(parameters)?;
    // SAFETY: the descriptor is open and the string NUL-terminated; both live over the call.
    let done = unsafe {
        libc::syscall(
            libc::SYS_finit_module,
            file.as_raw_fd(),
            parameters.as_ptr(),
            0,
        )
    };
    if done < 0 {
        let error = io::Error::last_os_error();
        return if error.raw_os_error() == Some(libc::EEXIST) {
            Ok(())
        } else {
            Err(error)
        };
    }
    Ok(())
}

/// How the machine ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Power {
    /// Starts again.
    Reboot,
    /// Switches off.
    Off,
    /// Stops and stays.
    Halt,
}

/// Ends the machine now. File systems must be in order by then.
///
/// # Errors
/// As `reboot(2)`; returns only then.
pub fn end(power: Power) -> io::Error {
    use nix::sys::reboot::{RebootMode, reboot};
    let mode = match power {
        Power::Reboot => RebootMode::RB_AUTOBOOT,
        Power::Off => RebootMode::RB_POWER_OFF,
        Power::Halt => RebootMode::RB_HALT_SYSTEM,
    };
    match reboot(mode) {
        Err(e) => e.into(),
        Ok(never) => match never {},
    }
}

/// Makes Ctrl-Alt-Del a SIGINT to PID 1 instead of a reset.
///
/// # Errors
/// As `reboot(2)`.
pub fn catch_ctrl_alt_del() -> io::Result<()> {
    Ok(nix::sys::reboot::set_cad_enabled(false)?)
}

/// Writes all dirty pages to the disks; blocks as long as that takes.
pub fn sync() {
    nix::unistd::sync();
}

/// Does something in a thread of its own, for whoever must not wait for a disk that does not
/// answer: `false` if it took longer than `limit`; then it goes on without us.
#[must_use]
pub fn within(limit: std::time::Duration, act: impl FnOnce() + Send + 'static) -> bool {
    let (done, wait) = std::sync::mpsc::channel();
    let begun = std::thread::Builder::new()
        .stack_size(ACT_STACK_BYTES)
        .spawn(move || {
            // Signals of the process are for the thread that looks at them.
            let _ = nix::sys::signal::SigSet::all().thread_block();
            act();
            // Whoever waited may have gone on.
            let _ = done.send(());
        });
    begun.is_ok() && wait.recv_timeout(limit).is_ok()
}

/// Names the host.
///
/// # Errors
/// As `sethostname(2)`.
pub fn set_hostname(name: &str) -> io::Result<()> {
    Ok(nix::unistd::sethostname(name)?)
}

/// The host's name.
///
/// # Errors
/// As `gethostname(2)`.
pub fn hostname() -> io::Result<String> {
    Ok(nix::unistd::gethostname()?.to_string_lossy().into_owned())
}

/// Only messages more urgent than `level` reach the kernel's console from now on.
///
/// # Errors
/// As `write(2)` to `/proc/sys/kernel/printk`.
pub fn set_console_loglevel(level: u8) -> io::Result<()> {
    std::fs::write("/proc/sys/kernel/printk", format!("{level}\n"))
}

/// Size in bytes of a block device or regular file.
///
/// # Errors
/// As `lseek(2)`.
pub fn size_of(file: &File) -> io::Result<u64> {
    use std::io::{Seek, SeekFrom};
    let mut handle = file;
    let end = handle.seek(SeekFrom::End(0))?;
    handle.seek(SeekFrom::Start(0))?;
    Ok(end)
}

/// Adds a device node.
///
/// # Errors
/// As `mknod(2)`.
pub fn make_node(path: &Path, kind: Node, major: u64, minor: u64) -> io::Result<()> {
    use nix::sys::stat::{Mode, SFlag, makedev, mknod};
    let kind = match kind {
        Node::Character => SFlag::S_IFCHR,
        Node::Block => SFlag::S_IFBLK,
    };
    Ok(mknod(
        path,
        kind,
        Mode::from_bits_truncate(0o600),
        makedev(major, minor),
    )?)
}

/// Kinds of device nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Node {
    /// A character device.
    Character,
    /// A block device.
    Block,
}

/// Gives a path to a uid and its group.
///
/// # Errors
/// As `chown(2)`.
pub fn give_to(path: &Path, uid: u32) -> io::Result<()> {
    std::os::unix::fs::chown(path, Some(uid), Some(uid))
}
