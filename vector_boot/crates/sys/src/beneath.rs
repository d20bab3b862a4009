//! Files below a directory descriptor, and nowhere else.
//!
//! Owns the one way in which a path that a stranger chose becomes a descriptor: `openat2(2)` with
//! RESOLVE_BENEATH, no symbolic links, no magic links, no mount crossings. A path is first opened
//! with O_PATH, which has no effect on what it finds; what is found is judged by [`stat`]; only then
//! is it opened for use with [`open`], and the two are compared by [`Identity`].
//!
//! Never here: which kinds or sizes are acceptable (the gateway's Reality Index decides), `/proc`
//! paths of our own descriptors. Start with [`find`].

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, OpenHow, ResolveFlag, openat2, renameat};
use nix::sys::stat::{FileStat, Mode, SFlag, fstat};
use nix::unistd::{AccessFlags, UnlinkatFlags, faccessat, unlinkat};
use std::ffi::{CStr, CString};
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

/// openat2(2) answers EAGAIN when a rename runs beside the resolution of `..`; a renamer that wins
/// this many times in a row is an attack, and the path counts as not resolvable.
const ATTEMPTS_MAX: u32 = 16;
/// Bytes of directory entries taken at once: what glibc takes.
const ENTRIES_BYTES: usize = 32 * 1024;
/// Fixed part of `struct linux_dirent64`: inode, offset, length, type.
const ENTRY_HEAD_BYTES: usize = 19;
/// Permission bits that a replaced file keeps; set-id bits are never carried over.
const MODE_KEPT: u32 = 0o777;

/// Names one object of the running system for as long as a descriptor of it is held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Identity {
    /// Its file system.
    pub device: u64,
    /// Its number there.
    pub inode: u64,
}

/// What an object is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link.
    Link,
    /// FIFO, socket, device or what else a kernel may have.
    Other,
}

/// The facts about an opened object that judgements are made from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stat {
    /// Which object.
    pub identity: Identity,
    /// What it is.
    pub kind: Kind,
    /// Its length.
    pub bytes: u64,
    /// Its names.
    pub links: u64,
    /// Permission bits.
    pub mode: u32,
}

impl From<FileStat> for Stat {
    fn from(s: FileStat) -> Self {
        let kind = match s.st_mode & SFlag::S_IFMT.bits() {
            k if k == SFlag::S_IFREG.bits() => Kind::File,
            k if k == SFlag::S_IFDIR.bits() => Kind::Directory,
            k if k == SFlag::S_IFLNK.bits() => Kind::Link,
            _ => Kind::Other,
        };
        Self {
            identity: Identity {
                device: s.st_dev,
                inode: s.st_ino,
            },
            kind,
            bytes: u64::try_from(s.st_size).unwrap_or(0),
            // 64 bits wide on x86_64 and 32 on aarch64.
            #[allow(clippy::useless_conversion)]
            links: u64::from(s.st_nlink),
            mode: s.st_mode & MODE_KEPT,
        }
    }
}

/// What a descriptor is opened for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Reading a file.
    Read,
    /// Writing a file in place; used to learn whether it may be written.
    Write,
    /// Adding to the end of a file.
    Append,
    /// Reading a directory's entries.
    List,
}

impl Access {
    fn flags(self) -> OFlag {
        // O_NONBLOCK: opening a FIFO must not wait. O_NOCTTY: a terminal must not become ours.
        let always = OFlag::O_CLOEXEC | OFlag::O_NONBLOCK | OFlag::O_NOCTTY;
        always
            | match self {
                Self::Read => OFlag::O_RDONLY,
                Self::Write => OFlag::O_WRONLY,
                Self::Append => OFlag::O_WRONLY | OFlag::O_APPEND,
                Self::List => OFlag::O_RDONLY | OFlag::O_DIRECTORY,
            }
    }
}

fn resolve(root: BorrowedFd<'_>, path: &CStr, flags: OFlag, mode: Mode) -> io::Result<OwnedFd> {
    let how = OpenHow::new().flags(flags).mode(mode).resolve(
        ResolveFlag::RESOLVE_BENEATH
            | ResolveFlag::RESOLVE_NO_MAGICLINKS
            | ResolveFlag::RESOLVE_NO_SYMLINKS
            | ResolveFlag::RESOLVE_NO_XDEV,
    );
    let mut attempts = 0;
    loop {
        match openat2(root, path, how) {
            Err(Errno::EAGAIN | Errno::EINTR) if attempts < ATTEMPTS_MAX => attempts += 1,
            other => return Ok(other?),
        }
    }
}

fn c_path(path: &[u8]) -> io::Result<CString> {
    CString::new(path).map_err(|_| io::ErrorKind::InvalidInput.into())
}

/// Resolves a path below `root` to a descriptor that only names the object (O_PATH): nothing is
/// opened, so a FIFO does not wait and a device does not act.
///
/// # Errors
/// As `openat2(2)`: `EXDEV` for a path that leaves the root or crosses a mount, `ELOOP` for a
/// symbolic link on the way or at the end; a NUL byte is `InvalidInput`.
pub fn find(root: BorrowedFd<'_>, path: &[u8]) -> io::Result<OwnedFd> {
    let flags = OFlag::O_PATH | OFlag::O_CLOEXEC;
    resolve(root, &c_path(path)?, flags, Mode::empty())
}

/// Resolves a path below `root` again and opens it for use. Compare [`stat`] of the result with that
/// of [`find`] before a byte is moved.
///
/// # Errors
/// As [`find`], and as `open(2)` where the access is not permitted.
pub fn open(root: BorrowedFd<'_>, path: &[u8], access: Access) -> io::Result<File> {
    resolve(root, &c_path(path)?, access.flags(), Mode::empty()).map(File::from)
}

/// Whether a path did not resolve since a symbolic link lies on it.
#[must_use]
pub fn met_link(e: &io::Error) -> bool {
    e.raw_os_error() == Some(libc::ELOOP)
}

/// The facts about an open descriptor.
///
/// # Errors
/// As `fstat(2)`.
pub fn stat(fd: impl AsFd) -> io::Result<Stat> {
    Ok(fstat(fd)?.into())
}

/// Whether our uid may add names to this directory: permission bits and a read-only mount count.
///
/// # Errors
/// As `faccessat(2)`: `EACCES`, `EROFS`.
pub fn may_add(directory: BorrowedFd<'_>) -> io::Result<()> {
    let wanted = AccessFlags::W_OK | AccessFlags::X_OK;
    Ok(faccessat(directory, c".", wanted, AtFlags::AT_EACCESS)?)
}

/// Whether the object lies on a file system mounted read-only.
///
/// # Errors
/// As `fstatvfs(3)`.
pub fn is_read_only(fd: impl AsFd) -> io::Result<bool> {
    use nix::sys::statvfs::{FsFlags, fstatvfs};
    Ok(fstatvfs(fd)?.flags().contains(FsFlags::ST_RDONLY))
}

/// Whether the object lies on a proc file system: what calls itself `/proc` may be a plain folder.
///
/// # Errors
/// As `fstatfs(2)`.
pub fn is_proc(fd: impl AsFd) -> io::Result<bool> {
    use nix::sys::statfs::{PROC_SUPER_MAGIC, fstatfs};
    Ok(fstatfs(fd)?.filesystem_type() == PROC_SUPER_MAGIC)
}

/// Makes a file that was not there, in a directory already judged, open for appending.
///
/// # Errors
/// As `open(2)`; `AlreadyExists` if the name is taken by anything, a symbolic link included.
pub fn create_new(parent: BorrowedFd<'_>, name: &[u8], mode: u32) -> io::Result<File> {
    let flags = Access::Append.flags() | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW;
    let mode = Mode::from_bits_truncate(mode & MODE_KEPT);
    resolve(parent, &c_path(name)?, flags, mode).map(File::from)
}

/// Gives a name in a directory already judged a new content, whole or not at all: a temporary file
/// beside it, `fsync`, `rename`, `fsync` of the directory. What had the name before keeps its bytes
/// for those who hold it open.
///
/// # Errors
/// As `open(2)`, `write(2)`, `fsync(2)`, `rename(2)`; the temporary file is gone then.
pub fn replace(parent: BorrowedFd<'_>, name: &[u8], content: &[u8], mode: u32) -> io::Result<Stat> {
    let mut random = [0u8; 8];
    crate::random::fill(&mut random)?;
    let temporary = c_path(format!(".vb-{:016x}.tmp", u64::from_le_bytes(random)).as_bytes())?;
    let name = c_path(name)?;
    let mut file = create_new(parent, temporary.as_bytes(), mode)?;
    let written = write_through(&mut file, content)
        .and_then(|()| stat(&file))
        .and_then(|s| {
            renameat(parent, temporary.as_c_str(), parent, name.as_c_str())?;
            Ok(s)
        });
    match written {
        Ok(s) => {
            sync_directory(parent)?;
            Ok(s)
        }
        Err(e) => {
            // The error that made the write fail is the one worth telling.
            let _ = unlinkat(parent, temporary.as_c_str(), UnlinkatFlags::NoRemoveDir);
            Err(e)
        }
    }
}

fn write_through(file: &mut File, content: &[u8]) -> io::Result<()> {
    file.write_all(content)?;
    file.sync_all()
}

/// Makes the names of a directory durable; `directory` may be an O_PATH descriptor.
///
/// # Errors
/// As `fsync(2)`.
pub fn sync_directory(directory: BorrowedFd<'_>) -> io::Result<()> {
    open(directory, b".", Access::List)?.sync_all()
}

/// One name of a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// As the file system has it: any bytes but NUL and `/`.
    pub name: Vec<u8>,
    /// What the directory says it is; [`Kind::Other`] where it does not say.
    pub kind: Kind,
    /// Where the listing goes on after this entry.
    pub next: u64,
}

/// Reads at most `limit` entries of a directory opened for [`Access::List`], without `.` and `..`,
/// from a place that an earlier entry's `next` named; 0 is the beginning.
///
/// # Errors
/// As `lseek(2)` and `getdents64(2)`.
pub fn entries(directory: &File, from: u64, limit: usize) -> io::Result<Vec<Entry>> {
    let from = i64::try_from(from).map_err(|_| io::ErrorKind::InvalidInput)?;
    nix::unistd::lseek(directory, from, nix::unistd::Whence::SeekSet)?;
    let mut found = Vec::new();
    let mut buf = vec![0u8; ENTRIES_BYTES];
    while found.len() < limit {
        let bytes = read_entries(directory, &mut buf)?;
        let Some(mut rest) = buf.get(..bytes).filter(|b| !b.is_empty()) else {
            break;
        };
        while let Some((entry, behind)) = parse_entry(rest) {
            rest = behind;
            if found.len() < limit && entry.name != b"." && entry.name != b".." {
                found.push(entry);
            }
        }
    }
    Ok(found)
}

fn read_entries(directory: &File, buf: &mut [u8]) -> io::Result<usize> {
    // SAFETY: the descriptor is owned by `directory` for the whole call, and the kernel writes at
    // most `buf.len()` bytes into `buf`, which is live and exclusively borrowed.
    let n = unsafe {
        libc::syscall(
            libc::SYS_getdents64,
            directory.as_raw_fd(),
            buf.as_mut_ptr(),
            buf.len(),
        )
    };
    usize::try_from(n).map_err(|_| io::Error::last_os_error())
}

/// Takes one `struct linux_dirent64` off the front: getdents64(2).
fn parse_entry(bytes: &[u8]) -> Option<(Entry, &[u8])> {
    let next = u64::from_le_bytes(bytes.get(8..16)?.try_into().ok()?);
    let length = u16::from_le_bytes(bytes.get(16..18)?.try_into().ok()?);
    let kind = match *bytes.get(18)? {
        libc::DT_REG => Kind::File,
        libc::DT_DIR => Kind::Directory,
        libc::DT_LNK => Kind::Link,
        _ => Kind::Other,
    };
    let (entry, behind) = bytes.split_at_checked(usize::from(length))?;
    let name = CStr::from_bytes_until_nul(entry.get(ENTRY_HEAD_BYTES..)?).ok()?;
    let name = name.to_bytes().to_vec();
    Some((Entry { name, kind, next }, behind))
}

/// The facts about one name of a directory; a symbolic link there is told as such, never followed.
///
/// # Errors
/// As `fstatat(2)`.
pub fn stat_entry(directory: &File, name: &[u8]) -> io::Result<Stat> {
    let name = c_path(name)?;
    let found = nix::sys::stat::fstatat(directory, name.as_c_str(), AtFlags::AT_SYMLINK_NOFOLLOW)?;
    Ok(found.into())
}

/// Landlock's ABI of this kernel: what it can confine. `None` where it is off or not built in.
#[must_use]
pub fn landlock_abi() -> Option<u32> {
    /// landlock_create_ruleset(2): ask for the version only.
    const VERSION: libc::c_uint = 1;
    // SAFETY: with this flag the kernel requires a null pointer and size 0 and reads no memory.
    let abi = unsafe {
        libc::syscall(
            libc::SYS_landlock_create_ruleset,
            std::ptr::null::<u8>(),
            0usize,
            VERSION,
        )
    };
    u32::try_from(abi).ok().filter(|n| *n > 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    fn root(folder: &tempfile::TempDir) -> OwnedFd {
        File::open(folder.path()).unwrap().into()
    }

    fn code(result: io::Result<OwnedFd>) -> i32 {
        result.unwrap_err().raw_os_error().unwrap()
    }

    #[test]
    fn only_what_lies_below_is_found() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("d")).unwrap();
        std::fs::write(folder.path().join("d/f"), "x").unwrap();
        symlink("d/f", folder.path().join("inner")).unwrap();
        symlink("/etc/passwd", folder.path().join("outer")).unwrap();
        symlink("d", folder.path().join("dir")).unwrap();
        let root = root(&folder);
        let root = root.as_fd();
        for good in ["d/f", "d", ".", "d/../d/f", "./d//f"] {
            find(root, good.as_bytes()).unwrap();
        }
        for (bad, errno) in [
            ("..", libc::EXDEV),
            ("d/../../x", libc::EXDEV),
            ("/etc/passwd", libc::EXDEV),
            ("inner", libc::ELOOP),
            ("outer", libc::ELOOP),
            ("dir/f", libc::ELOOP),
            ("none", libc::ENOENT),
            ("d/f/x", libc::ENOTDIR),
        ] {
            assert_eq!(code(find(root, bad.as_bytes())), errno, "{bad}");
            assert!(open(root, bad.as_bytes(), Access::Read).is_err(), "{bad}");
        }
        assert_eq!(
            find(root, b"a\0b").unwrap_err().kind(),
            io::ErrorKind::InvalidInput
        );
        assert_eq!(code(find(root, &[b'a'; 300])), libc::ENAMETOOLONG);
    }

    #[test]
    fn replace_is_whole_and_leaves_no_temporary_file() {
        let folder = tempfile::tempdir().unwrap();
        let root = root(&folder);
        replace(root.as_fd(), b"f", b"one", 0o640).unwrap();
        let old = open(root.as_fd(), b"f", Access::Read).unwrap();
        let new = replace(root.as_fd(), b"f", b"two", 0o640).unwrap();
        assert_ne!(stat(&old).unwrap().identity, new.identity);
        assert_eq!(std::fs::read(folder.path().join("f")).unwrap(), b"two");
        std::fs::create_dir(folder.path().join("taken")).unwrap();
        replace(root.as_fd(), b"taken", b"x", 0o640).unwrap_err();
        let mut left: Vec<_> = std::fs::read_dir(folder.path())
            .unwrap()
            .map(|e| e.unwrap().file_name())
            .collect();
        left.sort();
        assert_eq!(left, ["f", "taken"]);
    }

    #[test]
    fn a_listing_in_pages_is_the_listing() {
        let folder = tempfile::tempdir().unwrap();
        let mut expected: Vec<Vec<u8>> =
            (0..500).map(|i| format!("file-{i}").into_bytes()).collect();
        for name in &expected {
            std::fs::write(folder.path().join(std::str::from_utf8(name).unwrap()), "").unwrap();
        }
        expected.sort();
        let root = root(&folder);
        for page in [1, 7, 499, 500, 501, 5000] {
            let directory = open(root.as_fd(), b".", Access::List).unwrap();
            let (mut names, mut from) = (Vec::new(), 0);
            loop {
                let got = entries(&directory, from, page).unwrap();
                assert!(got.len() <= page);
                let Some(last) = got.last() else { break };
                from = last.next;
                assert!(got.iter().all(|e| e.kind == Kind::File));
                names.extend(got.into_iter().map(|e| e.name));
            }
            names.sort();
            assert_eq!(names, expected, "pages of {page}");
        }
    }

    #[test]
    fn cut_directory_entries_end_the_page() {
        let mut raw = vec![0u8; 32];
        raw[8] = 7;
        raw[16] = 32;
        raw[18] = libc::DT_REG;
        raw[19] = b'a';
        let (entry, rest) = parse_entry(&raw).unwrap();
        assert_eq!((entry.name.as_slice(), entry.next), (&b"a"[..], 7));
        assert!(rest.is_empty());
        for cut in 0..raw.len() {
            assert!(parse_entry(&raw[..cut]).is_none(), "{cut}");
        }
    }

    #[test]
    fn a_fifo_is_named_without_waiting() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("pipe");
        nix::unistd::mkfifo(&path, Mode::S_IRWXU).unwrap();
        let root = root(&folder);
        let found = find(root.as_fd(), b"pipe").unwrap();
        assert_eq!(stat(found).unwrap().kind, Kind::Other);
    }
}
