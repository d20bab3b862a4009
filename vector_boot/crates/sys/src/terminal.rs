//! Terminals: raw mode that is undone again, the width of a line, waiting for a key.
//!
//! Owns: [`Raw`], which restores the terminal's settings when it is dropped. Everything is set with
//! TCSAFLUSH: what was typed at the old settings is thrown away, not misread at the new ones.
//!
//! Never here: what keys mean, escape sequences. Start with [`Raw::enter`].

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::termios::{
    ControlFlags, InputFlags, LocalFlags, OutputFlags, SetArg, SpecialCharacterIndices, Termios,
    cfmakeraw, tcgetattr, tcsetattr,
};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::Duration;

nix::ioctl_read_bad!(
    /// Rows and columns of a terminal (TIOCGWINSZ of ioctl_tty(2)).
    tiocgwinsz,
    libc::TIOCGWINSZ,
    libc::winsize
);

/// What happens to a line feed on its way out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LineFeeds {
    /// Becomes carriage return and line feed: for people.
    Translated,
    /// Stays one byte: for programs.
    Plain,
}

/// A terminal in raw mode: every byte as it is typed, no echo, no signals.
#[derive(Debug)]
pub struct Raw {
    terminal: OwnedFd,
    before: Termios,
}

impl Raw {
    /// Puts the terminal behind `fd` into raw mode until the value is dropped.
    ///
    /// # Errors
    /// `ENOTTY` for what is no terminal; as `tcsetattr(3)`.
    pub fn enter(fd: BorrowedFd<'_>, feeds: LineFeeds) -> io::Result<Self> {
        let terminal = fd.try_clone_to_owned()?;
        let before = tcgetattr(&terminal)?;
        let mut raw = before.clone();
        cfmakeraw(&mut raw);
        // CLOCAL: a three-wire cable has no carrier detect, and its absence is no hang-up.
        raw.control_flags |= ControlFlags::CLOCAL | ControlFlags::CREAD;
        raw.local_flags &= !LocalFlags::ECHO;
        if feeds == LineFeeds::Translated {
            raw.output_flags |= OutputFlags::OPOST | OutputFlags::ONLCR;
        }
        for (index, value) in [
            (SpecialCharacterIndices::VMIN, 1),
            (SpecialCharacterIndices::VTIME, 0),
        ] {
            if let Some(slot) = raw.control_chars.get_mut(index as usize) {
                *slot = value;
            }
        }
        tcsetattr(&terminal, SetArg::TCSAFLUSH, &raw)?;
        Ok(Self { terminal, before })
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        // A terminal that is gone has nothing to restore.
        let _ = tcsetattr(&self.terminal, SetArg::TCSAFLUSH, &self.before);
    }
}

/// Gives a terminal that others may have left in any state whole lines again: with echo and carriage
/// returns for people, as plain bytes for programs. Never waits for what is still to be sent.
///
/// # Errors
/// `ENOTTY` for what is no terminal; as `tcsetattr(3)`.
pub fn cook(fd: BorrowedFd<'_>, feeds: LineFeeds) -> io::Result<()> {
    let person = feeds == LineFeeds::Translated;
    let mut settings = tcgetattr(fd)?;
    settings.control_flags |= ControlFlags::CLOCAL | ControlFlags::CREAD;
    // No flow control: Ctrl-S would stop the last console that there is.
    settings.input_flags &= !(InputFlags::IXON | InputFlags::IXOFF | InputFlags::ICRNL);
    settings.input_flags.set(InputFlags::ICRNL, person);
    settings
        .output_flags
        .set(OutputFlags::OPOST | OutputFlags::ONLCR, person);
    settings.local_flags = LocalFlags::ICANON;
    let echo = LocalFlags::ECHO | LocalFlags::ECHOE | LocalFlags::ECHOK;
    settings.local_flags.set(echo, person);
    // TCSADRAIN and TCSAFLUSH wait until all is sent, which a stuck line never is.
    tcsetattr(fd, SetArg::TCSANOW, &settings)?;
    Ok(())
}

/// Columns of the terminal; `None` where it does not know, as on a serial line.
#[must_use]
pub fn columns(fd: BorrowedFd<'_>) -> Option<u16> {
    let mut size = libc::winsize {
        ws_row: 0,
        ws_col: 0,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    // SAFETY: TIOCGWINSZ writes one `winsize` to the address that it is given, which is `size`, alive
    // and aligned for the whole call; `fd` is open for as long as its borrow.
    unsafe { tiocgwinsz(fd.as_raw_fd(), &raw mut size) }.ok()?;
    (size.ws_col > 0).then_some(size.ws_col)
}

/// Waits until `fd` has something to read (an end of file counts), at most `limit`.
///
/// # Errors
/// As `poll(2)`; a signal ends the wait early with `false`.
pub fn readable(fd: BorrowedFd<'_>, limit: Duration) -> io::Result<bool> {
    wait(fd, PollFlags::POLLIN, limit)
}

/// Waits until `fd` takes more bytes, at most `limit`.
///
/// # Errors
/// As `poll(2)`; a signal ends the wait early with `false`.
pub fn writable(fd: BorrowedFd<'_>, limit: Duration) -> io::Result<bool> {
    wait(fd, PollFlags::POLLOUT, limit)
}

fn wait(fd: BorrowedFd<'_>, events: PollFlags, limit: Duration) -> io::Result<bool> {
    let mut fds = [PollFd::new(fd, events)];
    // poll(2) takes milliseconds in an i32; a longer wait is asked for again by its caller.
    let timeout = PollTimeout::try_from(limit).unwrap_or(PollTimeout::MAX);
    match poll(&mut fds, timeout) {
        Ok(n) => Ok(n > 0),
        Err(nix::errno::Errno::EINTR) => Ok(false),
        Err(e) => Err(e.into()),
    }
}

/// A pseudo-terminal: the far end and the end that is a terminal. For tests and drills.
///
/// # Errors
/// As `openpty(3)`.
pub fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    let pty = nix::pty::openpty(None, None)?;
    for end in [pty.master.as_fd(), pty.slave.as_fd()] {
        // openpty(3) has no close-on-exec form.
        nix::fcntl::fcntl(
            end,
            nix::fcntl::FcntlArg::F_SETFD(nix::fcntl::FdFlag::FD_CLOEXEC),
        )?;
    }
    Ok((pty.master, pty.slave))
}

/// The path of a terminal.
///
/// # Errors
/// As `ttyname(3)`.
pub fn name(fd: BorrowedFd<'_>) -> io::Result<String> {
    Ok(nix::unistd::ttyname(fd)?.display().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::io::{Read, Write};

    #[test]
    fn raw_mode_passes_bytes_through_and_is_undone() {
        let (far, near) = pair().unwrap();
        let before = tcgetattr(&near).unwrap();
        assert!(before.local_flags.contains(LocalFlags::ICANON));
        let raw = Raw::enter(near.as_fd(), LineFeeds::Plain).unwrap();
        let (mut far, mut near) = (File::from(far), File::from(near));
        far.write_all(b"\x03\x04a").unwrap();
        let mut got = [0u8; 3];
        near.read_exact(&mut got).unwrap();
        assert_eq!(&got, b"\x03\x04a");
        near.write_all(b"x\n").unwrap();
        let mut got = [0u8; 2];
        far.read_exact(&mut got).unwrap();
        assert_eq!(&got, b"x\n", "no echo before it, no carriage return in it");
        drop(raw);
        let after = tcgetattr(&near).unwrap();
        assert_eq!(after.local_flags, before.local_flags);
        assert_eq!(after.output_flags, before.output_flags);
    }

    #[test]
    fn people_get_carriage_returns() {
        let (far, near) = pair().unwrap();
        let _raw = Raw::enter(near.as_fd(), LineFeeds::Translated).unwrap();
        let (mut far, mut near) = (File::from(far), File::from(near));
        near.write_all(b"x\n").unwrap();
        let mut got = [0u8; 3];
        far.read_exact(&mut got).unwrap();
        assert_eq!(&got, b"x\r\n");
    }

    #[test]
    fn a_file_is_no_terminal_and_a_serial_line_knows_no_width() {
        let file = tempfile::tempfile().unwrap();
        assert!(Raw::enter(file.as_fd(), LineFeeds::Plain).is_err());
        assert_eq!(columns(file.as_fd()), None);
        let (_far, near) = pair().unwrap();
        assert_eq!(columns(near.as_fd()), None);
    }

    #[test]
    fn waiting_ends_with_a_byte_or_with_the_limit() {
        let (far, near) = pair().unwrap();
        let _raw = Raw::enter(near.as_fd(), LineFeeds::Plain).unwrap();
        assert!(!readable(near.as_fd(), Duration::from_millis(1)).unwrap());
        assert!(writable(near.as_fd(), Duration::from_secs(5)).unwrap());
        File::from(far.try_clone().unwrap())
            .write_all(b"k")
            .unwrap();
        assert!(readable(near.as_fd(), Duration::from_secs(5)).unwrap());
    }
}
