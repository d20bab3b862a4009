//! PID 1's end of the helper: a bounded queue of tasks, one under way, answers as they come.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use sys::packet::{Mode, PacketSocket};
use wire::helper::{Outcome, Task};
use wire::{Frame, PACKET_BYTES_MAX};

/// Tasks that may wait: the boot asks for about three a service.
const QUEUE_MAX: usize = 160;
/// Helpers that may die over one task, which a disk that cannot be read would go on with for ever.
const DEATHS_MAX: u32 = 5;

/// What a task was for, so that its answer finds its place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// Mounting the data disk.
    MountData,
    /// Mounting a read-only share under the root of this index.
    MountRoot(usize),
    /// Making folders and first files.
    Provision,
    /// The last step of the storage.
    StorageReady,
    /// Hashing the package outside its tensors.
    Verify,
    /// Loading the image of this index.
    Load(usize),
    /// Hashing tensor blocks from this one on.
    Scrub(u64),
    /// A plan of the capacity kernel: connection, its generation, frame id, epoch.
    Leases(usize, u64, u64, u64),
    /// Unmounting at the end.
    Unmount,
}

/// A journal replay of a large disk is the longest task there is; twice what a slow one takes.
const TASK_LIMIT_NS: u64 = 120_000_000_000;

struct Job {
    purpose: Purpose,
    packet: Vec<u8>,
    descriptor: Option<OwnedFd>,
    /// Helpers that died while it was under way.
    deaths: u32,
    /// When it was sent.
    sent_ns: u64,
}

/// The queue and the socket.
pub struct HelperLink {
    socket: Option<PacketSocket>,
    queue: VecDeque<Job>,
    current: Option<Job>,
    /// What is not tried again, until its answer is taken.
    given_up: Option<Purpose>,
    next_id: u64,
}

/// How a task ended.
pub struct Answer {
    /// Which one.
    pub purpose: Purpose,
    /// The figure, or what was wrong.
    pub result: Result<u64, String>,
    /// What came along.
    pub descriptor: Option<OwnedFd>,
}

impl HelperLink {
    /// No helper yet; tasks may be queued.
    #[must_use]
    pub fn new() -> Self {
        Self {
            socket: None,
            queue: VecDeque::with_capacity(QUEUE_MAX),
            current: None,
            given_up: None,
            next_id: 1,
        }
    }

    /// Makes a fresh pair: ours is kept, the other is the new helper's. A task that was under way
    /// when the last helper died is given again, since every task may be repeated, but not for ever.
    ///
    /// # Errors
    /// As `socketpair(2)`.
    pub fn renew(&mut self) -> io::Result<OwnedFd> {
        let (ours, theirs) = PacketSocket::pair(Mode::NonBlocking)?;
        self.socket = Some(ours);
        if let Some(mut job) = self.current.take() {
            job.deaths += 1;
            if job.deaths < DEATHS_MAX {
                self.queue.push_front(job);
            } else {
                self.given_up = Some(job.purpose);
            }
        }
        let theirs = OwnedFd::from(theirs);
        // Non-blocking is a property of each end; the helper waits.
        sys::inherit::set_blocking(theirs.as_fd())?;
        Ok(theirs)
    }

    /// Our end, to be watched.
    #[must_use]
    pub fn socket(&self) -> Option<BorrowedFd<'_>> {
        self.socket.as_ref().map(AsFd::as_fd)
    }

    /// Whether nothing waits and nothing is under way.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.queue.is_empty() && self.current.is_none()
    }

    /// Queues a task; `false` if the queue is full.
    pub fn ask(&mut self, purpose: Purpose, task: &Task<'_>, descriptor: Option<OwnedFd>) -> bool {
        if self.queue.len() >= QUEUE_MAX {
            return false;
        }
        let mut buf = vec![0u8; 8192];
        let id = self.next_id;
        let Ok(packet) = wire::encode(id, task, &mut buf) else {
            return false;
        };
        let packet = packet.to_vec();
        self.next_id += 1;
        self.queue.push_back(Job {
            purpose,
            packet,
            descriptor,
            deaths: 0,
            sent_ns: 0,
        });
        self.pump();
        true
    }

    /// Sends the next task if none is under way.
    pub fn pump(&mut self) {
        let (None, Some(socket)) = (&self.current, &self.socket) else {
            return;
        };
        let Some(mut job) = self.queue.pop_front() else {
            return;
        };
        match socket.send(&job.packet, job.descriptor.as_ref().map(AsFd::as_fd)) {
            Ok(()) => {
                job.sent_ns = sys::clock::monotonic_ns();
                self.current = Some(job);
            }
            // The helper is gone or not there yet: its successor gets the task.
            Err(_) => self.queue.push_front(job),
        }
    }

    /// Whether the task under way has taken so long that its helper must be stuck.
    #[must_use]
    pub fn is_stuck(&self, now: u64) -> bool {
        self.current
            .as_ref()
            .is_some_and(|job| now.saturating_sub(job.sent_ns) > TASK_LIMIT_NS)
    }

    /// Takes an answer, if one came.
    pub fn take(&mut self) -> Option<Answer> {
        if let Some(purpose) = self.given_up.take() {
            return Some(Answer {
                purpose,
                result: Err(format!("given up: {DEATHS_MAX} helpers died over it")),
                descriptor: None,
            });
        }
        let mut buf = [0u8; 8192];
        let (bytes, descriptor) = self
            .socket
            .as_ref()?
            .receive(&mut buf)
            .ok()
            .filter(|(n, _)| *n > 0)?;
        let job = self.current.take()?;
        let packet = buf.get(..bytes.min(PACKET_BYTES_MAX)).unwrap_or_default();
        let result = match Frame::open(packet).and_then(|f| f.body::<Outcome<'_>>()) {
            Ok(outcome) if outcome.ok => Ok(outcome.figure),
            Ok(outcome) => Err(outcome.detail.to_owned()),
            Err(e) => Err(format!("helper's answer: {e}")),
        };
        self.pump();
        Some(Answer {
            purpose: job.purpose,
            result,
            descriptor,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_task_without_an_answer_makes_its_helper_stuck() {
        let mut link = HelperLink::new();
        let _theirs = link.renew().unwrap();
        assert!(!link.is_stuck(u64::MAX));
        assert!(link.ask(Purpose::Verify, &Task::VerifyPackage, None));
        let now = sys::clock::monotonic_ns();
        assert!(!link.is_stuck(now));
        assert!(link.is_stuck(now + TASK_LIMIT_NS + 1));
    }

    #[test]
    fn a_task_that_kills_every_helper_is_given_up_and_the_next_one_runs() {
        let mut link = HelperLink::new();
        assert!(link.ask(Purpose::Verify, &Task::VerifyPackage, None));
        assert!(link.ask(Purpose::Load(0), &Task::Load { name: "x" }, None));
        let mut buf = [0u8; 8192];
        for _ in 0..DEATHS_MAX {
            let helper = PacketSocket::from_fd(link.renew().unwrap());
            link.pump();
            let (bytes, _) = helper.receive(&mut buf).unwrap();
            let frame = Frame::open(buf.get(..bytes).unwrap()).unwrap();
            assert_eq!(frame.body::<Task<'_>>().unwrap(), Task::VerifyPackage);
            assert!(link.take().is_none(), "no answer came");
        }
        let helper = PacketSocket::from_fd(link.renew().unwrap());
        let answer = link.take().expect("an answer in its place");
        assert_eq!(answer.purpose, Purpose::Verify);
        assert!(answer.result.unwrap_err().contains("given up"));
        link.pump();
        let (bytes, _) = helper.receive(&mut buf).unwrap();
        let frame = Frame::open(buf.get(..bytes).unwrap()).unwrap();
        assert_eq!(frame.body::<Task<'_>>().unwrap(), Task::Load { name: "x" });
    }
}
