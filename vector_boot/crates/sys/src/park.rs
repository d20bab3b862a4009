//! An executable on a descriptor number that nobody can fill again.
//!
//! A program that may call `execveat` on one number alone must not be able to put another file on
//! that number. Numbers from RLIMIT_NOFILE on cannot be given out by any call (open, dup2, fcntl,
//! SCM_RIGHTS), while a descriptor that is there already stays usable: so the executable is put on the
//! highest number, and the limit is lowered to that number. It closes itself at the exec.

use std::convert::Infallible;
use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

/// Highest number that is used: a table of descriptors is an array, and a hard limit may be 2^30.
const NUMBER_MAX: u64 = 4095;
/// Below this the passed descriptors would have no room.
const NUMBER_MIN: u64 = 64;

/// Flags of the one `execveat` that a filter may let through. AT_SYMLINK_NOFOLLOW costs nothing on an
/// empty path, and makes a path to `/proc/self/fd/N`, which is a link, an error.
pub const EXEC_FLAGS: i32 = libc::AT_EMPTY_PATH | libc::AT_SYMLINK_NOFOLLOW;

/// An executable on the number behind the last one that can be given out.
#[derive(Debug)]
pub struct Parked(OwnedFd);

impl Parked {
    /// Parks `image` and lowers RLIMIT_NOFILE, soft and hard, to its number.
    ///
    /// # Errors
    /// As `getrlimit(2)`, `dup3(2)` and `setrlimit(2)`.
    pub fn new(image: OwnedFd) -> io::Result<Self> {
        use nix::sys::resource::{Resource, getrlimit, setrlimit};
        let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
        let number = hard.saturating_sub(1).min(NUMBER_MAX);
        if number < NUMBER_MIN {
            return Err(io::Error::other(format!(
                "RLIMIT_NOFILE: {hard}, at least {}",
                NUMBER_MIN + 1
            )));
        }
        setrlimit(Resource::RLIMIT_NOFILE, number + 1, number + 1)?;
        let raw = RawFd::try_from(number).map_err(|_| io::ErrorKind::InvalidInput)?;
        // SAFETY: dup3(2) takes numbers only; `raw` is nobody's yet, see below.
        if unsafe { libc::dup3(image.as_raw_fd(), raw, libc::O_CLOEXEC) } < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: dup3 succeeded and made `raw` ours. Had something been open there, dup3 would have
        // closed it: this process has a few descriptors, on the lowest numbers.
        let parked = unsafe { OwnedFd::from_raw_fd(raw) };
        drop(image);
        setrlimit(Resource::RLIMIT_NOFILE, number, number)?;
        Ok(Self(parked))
    }

    /// The number.
    #[must_use]
    pub fn number(&self) -> u32 {
        self.0.as_raw_fd().unsigned_abs()
    }

    /// Becomes the program, with these words and environment.
    ///
    /// # Errors
    /// As `execveat(2)`; returns only then.
    pub fn execute(self, words: &[CString], env: &[CString]) -> io::Result<Infallible> {
        let pointers = |list: &[CString]| -> Vec<*const libc::c_char> {
            list.iter()
                .map(|w| w.as_ptr())
                .chain([std::ptr::null()])
                .collect()
        };
        let (argv, envp) = (pointers(words), pointers(env));
        // SAFETY: both arrays are null-terminated lists of NUL-terminated strings that live over the call.
        unsafe {
            libc::syscall(
                libc::SYS_execveat,
                self.0.as_raw_fd(),
                c"".as_ptr(),
                argv.as_ptr(),
                envp.as_ptr(),
                EXEC_FLAGS,
            )
        };
        Err(io::Error::last_os_error())
    }
}
