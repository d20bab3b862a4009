//! What the one event loop waits for: readiness, ticks, signals.

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

/// Events that one wait brings at most.
const BATCH: usize = 64;

/// What a descriptor is watched for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Interest {
    /// Readable, or hung up.
    Read,
    /// Readable or writable.
    ReadWrite,
    /// Writable: while an answer waits for room, further questions must not wake us.
    Write,
    /// One priority event, then nothing until it is asked for again: PSI triggers, `memory.events`, which no
    /// read makes quiet for good.
    PriorityOnce,
}

impl Interest {
    fn flags(self) -> EpollFlags {
        match self {
            Self::Read => EpollFlags::EPOLLIN,
            Self::ReadWrite => EpollFlags::EPOLLIN | EpollFlags::EPOLLOUT,
            Self::Write => EpollFlags::EPOLLOUT,
            Self::PriorityOnce => EpollFlags::EPOLLPRI | EpollFlags::EPOLLONESHOT,
        }
    }
}

/// One descriptor that became ready.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ready {
    /// What the caller registered it as.
    pub token: u64,
    /// Data, or the end, can be read.
    pub readable: bool,
    /// Data can be written.
    pub writable: bool,
    /// The other end is gone.
    pub hung_up: bool,
}

/// An epoll instance.
#[derive(Debug)]
pub struct Poller {
    epoll: Epoll,
    batch: [EpollEvent; BATCH],
    filled: usize,
}

impl Poller {
    /// A poller that watches nothing yet.
    ///
    /// # Errors
    /// As `epoll_create1(2)`.
    pub fn new() -> io::Result<Self> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        Ok(Self {
            epoll,
            batch: [EpollEvent::empty(); BATCH],
            filled: 0,
        })
    }

    /// Watches a descriptor under a token.
    ///
    /// # Errors
    /// As `epoll_ctl(2)`.
    pub fn add(&self, fd: BorrowedFd<'_>, token: u64, interest: Interest) -> io::Result<()> {
        Ok(self
            .epoll
            .add(fd, EpollEvent::new(interest.flags(), token))?)
    }

    /// Changes what a descriptor is watched for.
    ///
    /// # Errors
    /// As `epoll_ctl(2)`.
    pub fn change(&self, fd: BorrowedFd<'_>, token: u64, interest: Interest) -> io::Result<()> {
        let mut event = EpollEvent::new(interest.flags(), token);
        Ok(self.epoll.modify(fd, &mut event)?)
    }

    /// Stops watching a descriptor.
    ///
    /// # Errors
    /// As `epoll_ctl(2)`.
    pub fn remove(&self, fd: BorrowedFd<'_>) -> io::Result<()> {
        Ok(self.epoll.delete(fd)?)
    }

    /// Waits, at most a minute; `None` waits for ever. The answers are in [`Poller::ready`]. EINTR is an empty answer.
    ///
    /// # Errors
    /// As `epoll_wait(2)`.
    pub fn wait(&mut self, limit: Option<Duration>) -> io::Result<usize> {
        let limit = match limit {
            None => EpollTimeout::NONE,
            Some(d) => {
                EpollTimeout::try_from(d.as_millis().min(60_000)).unwrap_or(EpollTimeout::ZERO)
            }
        };
        self.filled = match self.epoll.wait(&mut self.batch, limit) {
            Ok(n) => n,
            Err(nix::errno::Errno::EINTR) => 0,
            Err(e) => return Err(e.into()),
        };
        Ok(self.filled)
    }

    /// The event at `index` of the last wait.
    #[must_use]
    pub fn ready(&self, index: usize) -> Option<Ready> {
        let event = self.batch.get(index).filter(|_| index < self.filled)?;
        let flags = event.events();
        Some(Ready {
            token: event.data(),
            readable: flags.intersects(EpollFlags::EPOLLIN | EpollFlags::EPOLLPRI),
            writable: flags.contains(EpollFlags::EPOLLOUT),
            hung_up: flags.intersects(EpollFlags::EPOLLHUP | EpollFlags::EPOLLERR),
        })
    }
}

/// A monotonic timer that is readable once a period.
#[derive(Debug)]
pub struct Ticker(TimerFd);

impl Ticker {
    /// Ticks every `period`, first after one period.
    ///
    /// # Errors
    /// As `timerfd_create(2)`.
    pub fn new(period: Duration) -> io::Result<Self> {
        let flags = TimerFlags::TFD_CLOEXEC | TimerFlags::TFD_NONBLOCK;
        let timer = TimerFd::new(ClockId::CLOCK_MONOTONIC, flags)?;
        timer.set(
            Expiration::Interval(period.into()),
            TimerSetTimeFlags::empty(),
        )?;
        Ok(Self(timer))
    }

    /// Changes the period from now on.
    ///
    /// # Errors
    /// As `timerfd_settime(2)`.
    pub fn set_period(&self, period: Duration) -> io::Result<()> {
        Ok(self.0.set(
            Expiration::Interval(period.into()),
            TimerSetTimeFlags::empty(),
        )?)
    }

    /// How many ticks passed since the last call.
    #[must_use]
    pub fn take(&self) -> u64 {
        let mut count = [0u8; 8];
        match nix::unistd::read(&self.0, &mut count) {
            Ok(8) => u64::from_ne_bytes(count),
            _ => 0,
        }
    }
}

impl AsFd for Ticker {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Signals as readable events; they are blocked for the process otherwise.
#[derive(Debug)]
pub struct Signals(SignalFd);

impl Signals {
    /// Blocks these signals and makes them readable. Call before any thread starts.
    ///
    /// # Errors
    /// As `signalfd(2)`.
    pub fn new(numbers: &[i32]) -> io::Result<Self> {
        let mut set = SigSet::empty();
        for number in numbers {
            set.add(Signal::try_from(*number)?);
        }
        set.thread_block()?;
        Ok(Self(SignalFd::with_flags(
            &set,
            SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK,
        )?))
    }

    /// The next signal that came: its number, and the pid of the sender (0: the kernel).
    pub fn take(&mut self) -> Option<(i32, u32)> {
        let info = self.0.read_signal().ok()??;
        Some((i32::try_from(info.ssi_signo).ok()?, info.ssi_pid))
    }
}

impl AsFd for Signals {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tick_wakes_the_poller_under_its_token() {
        let ticker = Ticker::new(Duration::from_millis(1)).unwrap();
        let mut poller = Poller::new().unwrap();
        poller.add(ticker.as_fd(), 7, Interest::Read).unwrap();
        assert_eq!(poller.wait(None).unwrap(), 1);
        assert_eq!(
            poller.ready(0).map(|r| (r.token, r.readable)),
            Some((7, true))
        );
        assert!(poller.ready(1).is_none());
        assert!(ticker.take() >= 1);
    }
}
