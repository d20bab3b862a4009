//! What a child finds from PID 1: descriptors by name, and the socket that it reports to.
//!
//! The protocols are `sd_listen_fds(3)` and `sd_notify(3)`, so that foreign programs work unchanged.

use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockType, UnixAddr, sendto, setsockopt, socket, sockopt,
};
use nix::sys::time::TimeVal;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

/// First passed descriptor.
const FIRST: RawFd = 3;
/// Descriptors that PID 1 passes at most.
const DESCRIPTORS_MAX: usize = crate::spawn::PASSED_MAX;

/// The descriptors that PID 1 passed, by name.
#[derive(Debug, Default)]
pub struct Inherited(Vec<(String, OwnedFd)>);

impl Inherited {
    /// Takes the descriptors that the environment names. Call once, before any other descriptor is
    /// opened; a second call finds none, since it would make two owners of one descriptor.
    #[must_use]
    pub fn take() -> Self {
        static TAKEN: std::sync::Once = std::sync::Once::new();
        let mut found = Self::default();
        TAKEN.call_once(|| found = Self::from_environment());
        found
    }

    fn from_environment() -> Self {
        let named = named().into_iter().filter_map(|(name, raw)| {
            // A number that is not open would make a dangling owner.
            nix::fcntl::fcntl(
                BorrowedRaw(raw),
                nix::fcntl::FcntlArg::F_SETFD(nix::fcntl::FdFlag::FD_CLOEXEC),
            )
            .ok()?;
            // SAFETY: `raw` is open (the call above succeeded), PID 1 passed it to this process
            // (LISTEN_PID is ours), and `take` runs once, so nothing else owns it.
            Some((name, unsafe { OwnedFd::from_raw_fd(raw) }))
        });
        Self(named.collect())
    }

    /// Removes and returns the descriptor of this name.
    pub fn remove(&mut self, name: &str) -> Option<OwnedFd> {
        let at = self.0.iter().position(|(n, _)| n == name)?;
        Some(self.0.swap_remove(at).1)
    }

    /// Removes and returns every descriptor whose name begins so, with the rest of its name.
    pub fn remove_all(&mut self, prefix: &str) -> Vec<(String, OwnedFd)> {
        let (wanted, rest) = std::mem::take(&mut self.0)
            .into_iter()
            .partition(|(n, _)| n.starts_with(prefix));
        self.0 = rest;
        let strip = |(n, fd): (String, OwnedFd)| (n[prefix.len()..].to_owned(), fd);
        Vec::into_iter(wanted).map(strip).collect()
    }
}

/// Copies of the passed descriptors, by name: for the confinement, which comes before
/// [`Inherited::take`] and leaves the descriptors themselves to it.
#[must_use]
pub fn copies() -> Vec<(String, OwnedFd)> {
    let copy = |(name, raw): (String, RawFd)| {
        let fd = nix::fcntl::fcntl(
            BorrowedRaw(raw),
            nix::fcntl::FcntlArg::F_DUPFD_CLOEXEC(FIRST),
        );
        // SAFETY: fcntl made a descriptor that nobody else knows.
        Some((name, unsafe { OwnedFd::from_raw_fd(fd.ok()?) }))
    };
    named().into_iter().filter_map(copy).collect()
}

/// Names and numbers of what the environment says was passed; the numbers may not be open.
fn named() -> Vec<(String, RawFd)> {
    let number = |key: &str| std::env::var(key).ok()?.parse::<u32>().ok();
    let for_us = number("LISTEN_PID").is_some_and(|pid| pid == std::process::id());
    let count = number("LISTEN_FDS")
        .and_then(|n| usize::try_from(n).ok())
        .unwrap_or(0);
    if !for_us || count > DESCRIPTORS_MAX {
        return Vec::new();
    }
    let names = std::env::var("LISTEN_FDNAMES").unwrap_or_default();
    let mut names = names.split(':');
    let named = (FIRST..).take(count);
    named
        .map(|raw| (names.next().unwrap_or("unknown").to_owned(), raw))
        .collect()
}

/// A number checked with fcntl before it gets an owner.
struct BorrowedRaw(RawFd);

impl std::os::fd::AsFd for BorrowedRaw {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        // SAFETY: used for a single fcntl(2), which answers EBADF for a number that is not open;
        // the number is not -1 since it counts up from 3.
        unsafe { std::os::fd::BorrowedFd::borrow_raw(self.0) }
    }
}

/// How long `READY=1` waits while PID 1 has its queue of messages full: a manifest's default time to start.
const READY_LIMIT: TimeVal = TimeVal::new(10, 0);

/// Tells PID 1 `READY=1`, `STATUS=...`, `WATCHDOG=1` or `STOPPING=1`; one or more lines.
/// Without a NOTIFY_SOCKET nobody asked, and that is fine.
/// Only readiness waits for a place in PID 1's queue, and not for ever: a service does its work also
/// while PID 1 does not read.
///
/// # Errors
/// As `socket(2)` and `sendto(2)`; `WouldBlock` when the queue stayed full.
pub fn notify(state: &str) -> io::Result<()> {
    let Some(path) = std::env::var_os("NOTIFY_SOCKET") else {
        return Ok(());
    };
    let fd = socket(
        AddressFamily::Unix,
        SockType::Datagram,
        SockFlag::SOCK_CLOEXEC,
        None,
    )?;
    let address = UnixAddr::new(std::path::Path::new(&path))?;
    let mut flags = MsgFlags::MSG_NOSIGNAL;
    if state.lines().any(|line| line == "READY=1") {
        setsockopt(&fd, sockopt::SendTimeout, &READY_LIMIT)?;
    } else {
        flags |= MsgFlags::MSG_DONTWAIT;
    }
    sendto(fd.as_raw_fd(), state.as_bytes(), &address, flags)?;
    Ok(())
}

/// Makes calls on a descriptor wait.
///
/// # Errors
/// As `fcntl(2)`.
pub fn set_blocking(fd: std::os::fd::BorrowedFd<'_>) -> io::Result<()> {
    change_status(fd, |flags| flags & !nix::fcntl::OFlag::O_NONBLOCK)
}

/// Makes calls on a descriptor answer `WouldBlock` instead of waiting.
///
/// # Errors
/// As `fcntl(2)`.
pub fn set_nonblocking(fd: std::os::fd::BorrowedFd<'_>) -> io::Result<()> {
    change_status(fd, |flags| flags | nix::fcntl::OFlag::O_NONBLOCK)
}

fn change_status(
    fd: std::os::fd::BorrowedFd<'_>,
    change: impl FnOnce(nix::fcntl::OFlag) -> nix::fcntl::OFlag,
) -> io::Result<()> {
    use nix::fcntl::{FcntlArg, OFlag, fcntl};
    let flags = OFlag::from_bits_truncate(fcntl(fd, FcntlArg::F_GETFL)?);
    fcntl(fd, FcntlArg::F_SETFL(change(flags)))?;
    Ok(())
}

/// Leaves a descriptor open for the program that this process becomes; it is nobody's after that.
///
/// # Errors
/// As `fcntl(2)`.
pub fn keep_over_exec(fd: OwnedFd) -> io::Result<()> {
    use nix::fcntl::{FcntlArg, FdFlag, fcntl};
    fcntl(&fd, FcntlArg::F_SETFD(FdFlag::empty()))?;
    // The number must stay open until exec, so its owner is given up on purpose.
    let _ = std::os::fd::IntoRawFd::into_raw_fd(fd);
    Ok(())
}
