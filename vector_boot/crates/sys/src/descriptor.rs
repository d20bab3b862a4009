//! What can be asked of a descriptor without using it.
//!
//! Never here: reading, writing, waiting.

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::os::fd::{AsRawFd, BorrowedFd};

/// Whether both are the same open file, not only the same object: kcmp(2). `false` where the kernel cannot say.
#[must_use]
pub fn is_same(a: BorrowedFd<'_>, b: BorrowedFd<'_>) -> bool {
    const KCMP_FILE: libc::c_int = 0;
    let own = std::process::id();
    // SAFETY: kcmp takes five numbers and touches no memory of ours.
    let order = unsafe {
        libc::syscall(
            libc::SYS_kcmp,
            own,
            own,
            KCMP_FILE,
            a.as_raw_fd(),
            b.as_raw_fd(),
        )
    };
    order == 0
}

/// Whether its other end is gone, or it is broken.
#[must_use]
pub fn has_hung_up(fd: BorrowedFd<'_>) -> bool {
    let mut asked = [PollFd::new(fd, PollFlags::empty())];
    let gone = PollFlags::POLLHUP | PollFlags::POLLERR;
    poll(&mut asked, PollTimeout::ZERO).is_ok()
        && asked
            .iter()
            .any(|f| f.revents().is_some_and(|r| r.intersects(gone)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;

    #[test]
    fn a_copy_is_the_same_file_and_another_opening_is_not() {
        let a = std::fs::File::open("/dev/null").unwrap();
        let b = std::fs::File::open("/dev/null").unwrap();
        let copy = a.try_clone().unwrap();
        assert!(is_same(a.as_fd(), copy.as_fd()));
        assert!(!is_same(a.as_fd(), b.as_fd()));
    }

    #[test]
    fn the_end_of_a_pipe_shows_and_a_file_has_none() {
        let (read, write) = std::io::pipe().unwrap();
        assert!(!has_hung_up(read.as_fd()));
        drop(write);
        assert!(has_hung_up(read.as_fd()));
        assert!(!has_hung_up(
            std::fs::File::open("/dev/null").unwrap().as_fd()
        ));
    }
}
