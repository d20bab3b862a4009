//! The `helper` role: every blocking privileged act that PID 1 needs, one at a time, over a socketpair.
//!
//! Owns nothing. PID 1 sends [`Task`]s and goes on beating; the answers come when they come.
//! Start with [`main`].

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::process::ExitCode;
use sys::machine::{self, MountFlags};
use sys::packet::PacketSocket;
use wire::helper::{Outcome, Task};
use wire::{Frame, PACKET_BYTES_MAX};

/// Bytes hashed between two looks at the clock or the socket.
const HASH_STEP_BYTES: usize = 1024 * 1024;
/// Longest detail of an outcome, so that it always fits its packet.
const DETAIL_BYTES_MAX: usize = 4096;
/// The file system that stands in for the data disk.
pub const MEMORY: &str = "tmpfs";
/// Files of services on a machine without a data disk: they are memory that nothing else takes back.
const MEMORY_OPTIONS: &str = "mode=0755,size=64m";

/// Serves tasks from the descriptor named `helper` until PID 1 closes it.
pub fn main(_words: &[std::ffi::OsString]) -> ExitCode {
    let Some(fd) = sys::inherit::Inherited::take().remove("helper") else {
        eprintln!("helper: no descriptor named helper: only PID 1 starts this role");
        return ExitCode::from(2);
    };
    // Without PID 1 there is nobody to serve.
    let _ = sys::process::die_with_parent(9);
    sys::process::set_name("helper");
    let socket = PacketSocket::from_fd(fd);
    let (mut buf, mut out) = (vec![0u8; PACKET_BYTES_MAX], vec![0u8; PACKET_BYTES_MAX]);
    loop {
        let (bytes, descriptor) = match socket.receive(&mut buf) {
            Ok((0, _)) => return ExitCode::SUCCESS,
            Ok(received) => received,
            Err(e) => {
                eprintln!("helper: receive: {e}");
                return ExitCode::FAILURE;
            }
        };
        let Ok(frame) = Frame::open(buf.get(..bytes).unwrap_or_default()) else {
            continue;
        };
        let Ok(task) = frame.body::<Task<'_>>() else {
            continue;
        };
        let (result, detail, passed) = match perform(&task, descriptor) {
            Ok(done) => (Ok(done.figure), done.detail, done.descriptors),
            Err(failure) => (Err(failure.figure), failure.detail, Vec::new()),
        };
        let outcome = Outcome {
            ok: result.is_ok(),
            detail: cut(&detail, DETAIL_BYTES_MAX),
            figure: *result.as_ref().unwrap_or_else(|figure| figure),
        };
        let passed: Vec<_> = passed.iter().map(AsFd::as_fd).collect();
        let sent = wire::encode(frame.id, &outcome, &mut out)
            .map_err(io::Error::other)
            .and_then(|packet| socket.send_with(packet, &passed));
        if let Err(e) = sent {
            eprintln!("helper: answer: {e}");
            return ExitCode::FAILURE;
        }
    }
}

#[derive(Default)]
struct DoneWell {
    figure: u64,
    detail: String,
    descriptors: Vec<OwnedFd>,
}

impl From<u64> for DoneWell {
    fn from(figure: u64) -> Self {
        Self {
            figure,
            ..Self::default()
        }
    }
}

/// What was wrong, and how far the act came.
struct Failure {
    detail: String,
    figure: u64,
}

impl<S: Into<String>> From<S> for Failure {
    fn from(detail: S) -> Self {
        Self {
            detail: detail.into(),
            figure: 0,
        }
    }
}

fn perform(task: &Task<'_>, descriptor: Option<OwnedFd>) -> Result<DoneWell, Failure> {
    let named = |what: &str, e: io::Error| format!("{what}: {e}");
    match *task {
        Task::Mount {
            source,
            target,
            fstype,
            read_only,
        } => {
            let flags = MountFlags {
                read_only,
                no_exec: true,
                no_dev: true,
            };
            // What stands in for a disk is not to hide one, or what a helper before this one mounted.
            if fstype == MEMORY && is_mounted(target) {
                return Ok(0.into());
            }
            // There already is the usual case.
            let _ = fs::create_dir_all(target);
            let options = match fstype {
                "ext4" if !read_only => "errors=remount-ro",
                MEMORY => MEMORY_OPTIONS,
                _ => "",
            };
            match machine::mount_fs(source, Path::new(target), fstype, flags, options) {
                // By the helper of a PID 1 before this one.
                Err(e) if e.raw_os_error() == Some(EBUSY) && holds(source, target) => {}
                result => {
                    result.map_err(|e| named(&format!("mount {source} on {target}"), e))?;
                }
            }
        }
        Task::Folder { path, uid, mode } => {
            folder(Path::new(path), uid, mode).map_err(|e| named(path, e))?
        }
        Task::Seed { path, uid, content } => {
            seed(Path::new(path), uid, content).map_err(|e| named(path, e))?
        }
        Task::VerifyPackage => {
            let file = File::from(descriptor.ok_or("package: no descriptor came along")?);
            return Ok(crate::package::verify(&file, HASH_STEP_BYTES)?.into());
        }
        Task::Load { name, blake3 } => {
            let file = File::from(descriptor.ok_or("package: no descriptor came along")?);
            let (figure, image) = crate::package::load(&file, name, blake3)?;
            return Ok(DoneWell {
                descriptors: vec![image],
                ..figure.into()
            });
        }
        Task::Scrub { first, count } => {
            let file = File::from(descriptor.ok_or("package: no descriptor came along")?);
            return match crate::package::scrub(&file, first, count) {
                Ok(held) => Ok(held.into()),
                Err(damage) => Err(Failure {
                    detail: damage.text,
                    figure: damage.looked,
                }),
            };
        }
        Task::Unmount { target } => {
            machine::sync();
            if let Err(e) = machine::unmount(Path::new(target)) {
                // Busy is no reason to leave it dirty.
                machine::remount_read_only(Path::new(target)).map_err(|_| named(target, e))?;
            }
        }
        Task::Leases(ref plan) => crate::cgroup::apply(plan)?,
        Task::Tune { service, knob } => crate::cgroup::tune(service, knob)?,
        Task::Open { path } => {
            return match open_folder(Path::new(path)) {
                Ok(descriptor) => Ok(DoneWell {
                    descriptors: descriptor.into_iter().collect(),
                    ..DoneWell::default()
                }),
                Err(e) => Err(named(path, e).into()),
            };
        }
        Task::Look { path: "" } => {}
        Task::Look { path } => {
            let folder = File::open(path).map_err(|e| named(path, e))?;
            let space = sys::space::of_fd(&folder).map_err(|e| named(path, e))?;
            let detail = if space.read_only || refuses_writes(Path::new(path)) {
                "read-only"
            } else {
                ""
            };
            return Ok(DoneWell {
                detail: detail.to_owned(),
                ..space.available.into()
            });
        }
        Task::GrowPartition { device, name } => {
            return Ok(crate::grow::partition(device, name)?.into());
        }
        Task::GrowFileSystem { device, target } => {
            let (bytes, before) = crate::grow::file_system(device, target)?;
            return Ok(DoneWell {
                detail: before.to_string(),
                ..bytes.into()
            });
        }
        Task::Cell(ref cell) => {
            let (descriptors, detail) = crate::cell::make(cell)?;
            return Ok(DoneWell {
                detail,
                descriptors,
                ..DoneWell::default()
            });
        }
        Task::Randomness => {
            sys::random::fill(&mut [0u8; 1]).map_err(|e| named("randomness", e))?;
        }
        Task::Switches => {
            let mut switched = crate::harden::after_services();
            if let Err(e) = crate::cgroup::complete() {
                switched.failed.push(e);
            }
            return Ok(DoneWell {
                detail: switched.answer(),
                ..(switched.set as u64).into()
            });
        }
        Task::Clock {
            wall_ns,
            at_ns,
            step,
        } => set_clock(wall_ns, at_ns, step)?,
        Task::OpenPackage { path } => {
            return Ok(DoneWell {
                descriptors: vec![open_package(path, descriptor)?],
                ..DoneWell::default()
            });
        }
        Task::Inspect { keys, required } => {
            let file = File::from(descriptor.ok_or("package: no descriptor came along")?);
            let keys = keys
                .lines()
                .map(|key| rts::PublicKey::parse(key.as_bytes()));
            let trust = rts::Trust {
                keys: keys.flatten().collect(),
                required,
            };
            return Ok(DoneWell {
                descriptors: vec![crate::package::inspect(file, &trust)?],
                ..DoneWell::default()
            });
        }
        Task::KeepPackage { device } => {
            let file = File::from(descriptor.ok_or("package: no descriptor came along")?);
            return Ok(crate::keep::package(&file, Path::new(device))?.into());
        }
        Task::Pstore { forget: true } => crate::pstore::forget().map_err(|e| named("pstore", e))?,
        Task::Pstore { forget: false } => {
            let detail = crate::pstore::read().map_err(|e| named("pstore", e))?;
            return Ok(DoneWell {
                detail,
                ..DoneWell::default()
            });
        }
    }
    Ok(DoneWell::default())
}

/// What may hold a package, opened for reading: a block device, or a regular file below a folder.
fn open_package(path: &str, folder: Option<OwnedFd>) -> Result<OwnedFd, String> {
    use std::os::unix::fs::FileTypeExt;
    let of_folder = folder.is_some();
    let opened = match folder {
        Some(folder) => {
            sys::beneath::open(folder.as_fd(), path.as_bytes(), sys::beneath::Access::Read)
        }
        None => crate::early::open_readable(Path::new(path)),
    };
    let file = opened.map_err(|e| format!("{path}: {e}"))?;
    let kind = file
        .metadata()
        .map_err(|e| format!("{path}: {e}"))?
        .file_type();
    if of_folder && !kind.is_file() || !of_folder && !kind.is_block_device() {
        return Err(format!(
            "{path}: limit a block device below /dev, or a regular file below a root"
        ));
    }
    Ok(file.into())
}

/// Whether a file system stopped taking writes after an error; a full one still takes them.
fn refuses_writes(folder: &Path) -> bool {
    const EIO: i32 = 5;
    const EROFS: i32 = 30;
    let tried = sys::space::try_write(folder).map_err(|e| e.raw_os_error());
    matches!(tried, Err(Some(EIO | EROFS)))
}

/// A folder's descriptor, `None` if there is none of that name.
fn open_folder(path: &Path) -> io::Result<Option<OwnedFd>> {
    // A FIFO in a folder's place would wait for its writer.
    match crate::early::open_readable(path) {
        Ok(folder) if folder.metadata()?.is_dir() => Ok(Some(folder.into())),
        Ok(_) => Err(io::ErrorKind::NotADirectory.into()),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e),
    }
}

/// Sets the wall clock, or lets it run towards what it shall show.
fn set_clock(wall_ns: u64, at_ns: u64, step: bool) -> Result<(), String> {
    let since = sys::clock::monotonic_ns().saturating_sub(at_ns);
    let target = wall_ns.saturating_add(since);
    let set = if step {
        sys::clock::set_wall_ns(target)
    } else {
        let offset = i128::from(target) - i128::from(sys::clock::wall_ns());
        sys::clock::slew_ns(i64::try_from(offset).unwrap_or(0))
    };
    set.map_err(|e| format!("clock: {e}"))
}

/// mount(2): this very file system is there already, or something is in its way.
const EBUSY: i32 = 16;

fn holds(source: &str, target: &str) -> bool {
    any_mount(|words| words == [source, target])
}

fn is_mounted(target: &str) -> bool {
    any_mount(|[_, at]| at == target)
}

/// Whether a mount has this source and this target.
fn any_mount(is: impl Fn([&str; 2]) -> bool) -> bool {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    mounts.lines().any(|line| {
        let mut words = line.split(' ');
        is([words.next(), words.next()].map(Option::unwrap_or_default))
    })
}

fn folder(path: &Path, uid: u32, mode: u32) -> io::Result<()> {
    match fs::create_dir(path) {
        Ok(()) => {}
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => {}
        Err(e) => return Err(e),
    }
    fs::set_permissions(path, fs::Permissions::from_mode(mode))?;
    give(path, uid)
}

fn seed(path: &Path, uid: u32, content: &str) -> io::Result<()> {
    match File::options()
        .write(true)
        .create_new(true)
        .mode(0o644)
        .open(path)
    {
        Ok(mut file) => {
            file.write_all(content.as_bytes())?;
            give(path, uid)
        }
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(e) => Err(e),
    }
}

/// Gives a path away where we are root; as an ordinary process everything is ours.
fn give(path: &Path, uid: u32) -> io::Result<()> {
    if sys::packet::own_uid() == 0 && uid != u32::MAX {
        machine::give_to(path, uid)
    } else {
        Ok(())
    }
}

fn cut(text: &str, most: usize) -> &str {
    let mut end = text.len().min(most);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.get(..end).unwrap_or_default()
}
