//! Memory that two processes write at the same time, neither of which trusts the other.
//!
//! Owns: the mapping of a memfd whose size is sealed. Every access is an atomic one of a word of 8 bytes, so
//! there is no data race whatever the other side does; what a copy holds is the reader's to judge. Both
//! processors that we run on are little-endian.
//!
//! Never here: a reference into the memory, blocking. Start with [`Shared::create`].

use memmap2::{MmapOptions, MmapRaw};
use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockType, recv, send, socketpair};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Bytes of a word.
const WORD: usize = 8;

/// The mapping.
#[derive(Debug)]
pub struct Shared {
    map: MmapRaw,
    words: usize,
}

impl Shared {
    /// Makes a zeroed memfd of this size, which can never change, and maps it.
    ///
    /// # Errors
    /// As `memfd_create(2)` and `mmap(2)`.
    pub fn create(name: &str, bytes: usize) -> io::Result<(File, Self)> {
        let file = crate::memfd::shared(name, bytes as u64)?;
        let shared = Self::over(&file, bytes)?;
        Ok((file, shared))
    }

    /// Maps a memfd that somebody else made.
    ///
    /// # Errors
    /// `InvalidInput` unless it has exactly so many bytes and its size is sealed; as `mmap(2)`.
    pub fn over(fd: &impl AsFd, bytes: usize) -> io::Result<Self> {
        let fd = fd.as_fd();
        let seals = SealFlag::from_bits_truncate(fcntl(fd, FcntlArg::F_GET_SEALS)?);
        let found = crate::mapping::byte_length(&fd)?;
        let size = SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW;
        if !seals.contains(size) || found != bytes as u64 {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!(
                    "shared memory: {found} bytes, seals {seals:?}; needs {bytes} bytes of sealed size"
                ),
            ));
        }
        let map = MmapOptions::new().len(bytes).map_raw(fd.as_raw_fd())?;
        Ok(Self {
            map,
            words: bytes / WORD,
        })
    }

    fn word(&self, index: usize) -> Option<&AtomicU64> {
        if index >= self.words {
            return None;
        }
        let first: *mut u64 = self.map.as_mut_ptr().cast();
        // SAFETY: `index` is below the words of the mapping, which lives as long as `self` and is aligned to a
        // page; its size is sealed, so no page can vanish; whatever others write there, all of our accesses are
        // atomic ones, and no reference to plain memory is ever made.
        Some(unsafe { AtomicU64::from_ptr(first.add(index)) })
    }

    /// The word at this byte, a multiple of eight; 0 past the end.
    #[must_use]
    pub fn load(&self, byte: usize, order: Ordering) -> u64 {
        self.word(byte / WORD).map_or(0, |word| word.load(order))
    }

    /// Sets the word at this byte, a multiple of eight; past the end nothing happens.
    pub fn store(&self, byte: usize, value: u64, order: Ordering) {
        if let Some(word) = self.word(byte / WORD) {
            word.store(value, order);
        }
    }

    /// Copies bytes out from this byte on, a multiple of eight; past the end they are zeros.
    pub fn read(&self, byte: usize, out: &mut [u8]) {
        for (index, bytes) in (byte / WORD..).zip(out.chunks_mut(WORD)) {
            let word = self.word(index).map_or(0, |w| w.load(Ordering::Relaxed));
            for (to, from) in bytes.iter_mut().zip(word.to_le_bytes()) {
                *to = from;
            }
        }
    }

    /// Copies bytes in from this byte on, a multiple of eight; the last word is filled up with zeros.
    pub fn write(&self, byte: usize, bytes: &[u8]) {
        for (index, bytes) in (byte / WORD..).zip(bytes.chunks(WORD)) {
            let mut word = [0; WORD];
            for (to, from) in word.iter_mut().zip(bytes) {
                *to = *from;
            }
            if let Some(place) = self.word(index) {
                place.store(u64::from_le_bytes(word), Ordering::Relaxed);
            }
        }
    }
}

/// One end of a pair of sockets: ringing one wakes who polls the other. Never blocks, whatever the other side does: an
/// eventfd would be one open file of both sides, which either can make blocking and full.
#[derive(Debug)]
pub struct Wake(OwnedFd);

impl Wake {
    /// Two ends.
    ///
    /// # Errors
    /// As `socketpair(2)`.
    pub fn pair() -> io::Result<(Self, Self)> {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let (a, b) = socketpair(AddressFamily::Unix, SockType::Stream, None, flags)?;
        Ok((Self(a), Self(b)))
    }

    /// One that another process made.
    #[must_use]
    pub fn from_fd(fd: OwnedFd) -> Self {
        Self(fd)
    }

    /// Wakes the other side. One that is full already has woken it, and one that is gone needs nothing.
    pub fn ring(&self) {
        let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
        let _ = send(self.0.as_raw_fd(), &1u64.to_ne_bytes(), flags);
    }

    /// Takes what was rung so far; who rings on and on is not waited for, and wakes us again.
    pub fn take(&self) {
        let mut rung = [0; 4096];
        for _ in 0..64 {
            let taken = recv(self.0.as_raw_fd(), &mut rung, MsgFlags::MSG_DONTWAIT);
            if !matches!(taken, Ok(bytes) if bytes == rung.len()) {
                return;
            }
        }
    }

    /// Whether the other side has ended: it rings no more, and the poller would wake for ever.
    #[must_use]
    pub fn is_over(&self) -> bool {
        let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_PEEK;
        recv(self.0.as_raw_fd(), &mut [0; 1], flags) == Ok(0)
    }

    /// Whether it was rung, at the latest after this time.
    #[must_use]
    pub fn wait(&self, limit: Duration) -> bool {
        use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
        let limit = PollTimeout::try_from(limit).unwrap_or(PollTimeout::MAX);
        let mut fds = [PollFd::new(self.0.as_fd(), PollFlags::POLLIN)];
        matches!(poll(&mut fds, limit), Ok(1..))
    }

    /// Another handle of it.
    ///
    /// # Errors
    /// As `dup(2)`.
    pub fn try_clone(&self) -> io::Result<Self> {
        self.0.try_clone().map(Self)
    }
}

impl AsFd for Wake {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_mappings_see_each_other_and_nothing_past_the_end() {
        let (file, ours) = Shared::create("ring", 4096).unwrap();
        let theirs = Shared::over(&file, 4096).unwrap();
        ours.write(8, b"hello world");
        let mut out = [0xff; 16];
        theirs.read(8, &mut out);
        assert_eq!(&out, b"hello world\0\0\0\0\0");
        theirs.store(4088, 7, Ordering::Release);
        assert_eq!(ours.load(4088, Ordering::Acquire), 7);
        ours.write(4088, &[1; 64]);
        ours.store(4096, 1, Ordering::Relaxed);
        assert_eq!(ours.load(1 << 40, Ordering::Relaxed), 0);
        assert!(file.set_len(0).is_err());
    }

    #[test]
    fn memory_whose_size_can_change_is_refused() {
        let file = crate::memfd::create("ring").unwrap();
        file.set_len(4096).unwrap();
        assert!(Shared::over(&file, 4096).is_err());
        let (file, _) = Shared::create("ring", 4096).unwrap();
        assert!(Shared::over(&file, 8192).is_err());
    }

    #[test]
    fn a_wake_is_seen_once() {
        let (wake, theirs) = Wake::pair().unwrap();
        assert!(!wake.wait(Duration::ZERO));
        // Ringing for ever holds nobody, also where the other side made its end blocking.
        fcntl(&theirs, FcntlArg::F_SETFL(nix::fcntl::OFlag::empty())).unwrap();
        theirs.try_clone().unwrap().ring();
        for _ in 0..100_000 {
            theirs.ring();
        }
        assert!(wake.wait(Duration::from_secs(5)));
        wake.take();
        assert!(!wake.wait(Duration::ZERO));
    }
}
