//! The two ends of a ring: [`Proposer`] puts mutations in, [`Consumer`] takes private copies and answers.
//!
//! The other side may write anything at any time. The consumer believes one word of it, how many were submitted,
//! and that only as far as the ring reaches; everything else it copies first and judges then. It answers in order.
//! Start with [`Channel::create`].

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::Ordering;
use std::time::Duration;
use sys::shared::{Shared, Wake};
use wire::evolution::Verdict;
use wire::evolution::ring::{self, Answer, Proposal};

/// Makes rings.
#[derive(Debug)]
pub struct Channel;

/// What goes to a proposer in another process, in the order in which it is sent.
#[derive(Debug)]
pub struct Handles {
    /// The ring.
    pub memory: File,
    /// Rung by the proposer.
    pub submitted: Wake,
    /// Rung by the runtime.
    pub answered: Wake,
}

impl Channel {
    /// A ring within one process.
    ///
    /// # Errors
    /// As `memfd_create(2)`, `mmap(2)` and `socketpair(2)`.
    pub fn create() -> io::Result<(Proposer, Consumer)> {
        let (consumer, handles) = Self::offer(0)?;
        let proposer = Proposer::over(&handles.memory, handles.submitted, handles.answered)?;
        Ok((proposer, consumer))
    }

    /// A ring whose proposer is elsewhere.
    ///
    /// # Errors
    /// As [`Self::create`].
    pub fn offer(generation: u64) -> io::Result<(Consumer, Handles)> {
        let (memory, shared) = Shared::create("evolution", ring::BYTES)?;
        shared.write(0, &ring::header(generation));
        let (ours, submitted) = Wake::pair()?;
        let (ringer, answered) = Wake::pair()?;
        let consumer = Consumer {
            shared,
            submitted: ours,
            // Held, so that a proposer that closes its end leaves no end of file which would wake for ever.
            rung: submitted.try_clone()?,
            answered: ringer,
            taken: 0,
            told: 0,
            slot: vec![0; ring::SLOT_BYTES].into_boxed_slice(),
        };
        let handles = Handles {
            memory,
            submitted,
            answered,
        };
        Ok((consumer, handles))
    }
}

/// Why a proposal was not put into the ring.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProposeError {
    /// All slots wait for answers.
    Full,
    /// The runtime has left the ring.
    Closed,
    /// It does not fit a slot; the verdict that it would get.
    Malformed(Verdict),
}

impl std::fmt::Display for ProposeError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Full => write!(f, "ring: {} mutations wait for answers", ring::SLOTS),
            Self::Closed => write!(f, "ring: closed by the runtime"),
            Self::Malformed(verdict) => write!(f, "mutation: {}", verdict.says()),
        }
    }
}

impl std::error::Error for ProposeError {}

/// The end that proposes.
#[derive(Debug)]
pub struct Proposer {
    shared: Shared,
    submitted: Wake,
    answered: Wake,
    put: u64,
    read: u64,
    slot: Box<[u8; ring::SLOT_BYTES]>,
}

impl Proposer {
    /// Takes the three descriptors of a ring.
    ///
    /// # Errors
    /// `InvalidData` for another layout; as [`Shared::over`].
    pub fn over(memory: &impl AsFd, submitted: Wake, answered: Wake) -> io::Result<Self> {
        let shared = Shared::over(memory, ring::BYTES)?;
        let mut found = [0; ring::GENERATION_AT];
        shared.read(0, &mut found);
        if Some(&found[..]) != ring::header(0).get(..ring::GENERATION_AT) {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                format!("ring: another layout than version {}", ring::VERSION),
            ));
        }
        let put = shared.load(ring::SUBMITTED_AT, Ordering::Relaxed);
        Ok(Self {
            shared,
            submitted,
            answered,
            put,
            read: put,
            slot: Box::new([0; ring::SLOT_BYTES]),
        })
    }

    /// The same from descriptors as they were received.
    ///
    /// # Errors
    /// As [`Self::over`].
    pub fn from_fds([memory, submitted, answered]: [OwnedFd; 3]) -> io::Result<Self> {
        Self::over(&memory, Wake::from_fd(submitted), Wake::from_fd(answered))
    }

    /// Puts a mutation into the ring and returns its number; [`Self::answer`] has the answers in that order.
    ///
    /// # Errors
    /// [`ProposeError`].
    pub fn submit(&mut self, proposal: &Proposal<'_>) -> Result<u64, ProposeError> {
        if self.shared.load(ring::STATE_AT, Ordering::Relaxed) != ring::OPEN {
            return Err(ProposeError::Closed);
        }
        // A slot is free once its answer was read, and not before.
        if self.in_flight() >= ring::SLOTS as u64 {
            return Err(ProposeError::Full);
        }
        proposal
            .write(&mut self.slot)
            .map_err(ProposeError::Malformed)?;
        let (at, number) = (ring::slot_at(self.put), self.put);
        let end = ring::PAYLOAD_AT + proposal.payload.len();
        self.shared
            .write(at, self.slot.get(..ring::ANSWER_AT).unwrap_or_default());
        let payload = self.slot.get(ring::PAYLOAD_AT..end).unwrap_or_default();
        self.shared.write(at + ring::PAYLOAD_AT, payload);
        self.put += 1;
        self.shared
            .store(ring::SUBMITTED_AT, self.put, Ordering::Release);
        self.submitted.ring();
        Ok(number)
    }

    /// The next answer, if it is there.
    pub fn answer(&mut self) -> Option<Answer> {
        let answered = self.shared.load(ring::ANSWERED_AT, Ordering::Acquire);
        if self.read == self.put || answered <= self.read {
            return None;
        }
        let mut bytes = [0; ring::ANSWER_BYTES];
        let at = ring::slot_at(self.read) + ring::ANSWER_AT;
        self.shared.read(at, &mut bytes);
        self.read += 1;
        Some(Answer::read(&bytes))
    }

    /// The next answer, at the latest after this time.
    pub fn wait(&mut self, limit: Duration) -> Option<Answer> {
        self.answer().or_else(|| {
            self.answered.take();
            // It may have come between the look and the taking of the wake.
            self.answer().or_else(|| {
                let _ = self.answered.wait(limit);
                self.answer()
            })
        })
    }

    /// Mutations without an answer that was read.
    #[must_use]
    pub fn in_flight(&self) -> u64 {
        self.put - self.read
    }

    /// The current generation, as the runtime says.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.shared.load(ring::GENERATION_AT, Ordering::Acquire)
    }

    /// What wakes when there are answers, for a poller.
    #[must_use]
    pub fn wake(&self) -> BorrowedFd<'_> {
        self.answered.as_fd()
    }
}

/// The proposer says that it submitted what the ring cannot hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Broken {
    /// What it says.
    pub submitted: u64,
    /// What was answered.
    pub answered: u64,
}

impl std::fmt::Display for Broken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "submitted: {} with {} answered, limit {} more",
            self.submitted,
            self.answered,
            ring::SLOTS
        )
    }
}

/// The end that judges.
#[derive(Debug)]
pub struct Consumer {
    shared: Shared,
    submitted: Wake,
    rung: Wake,
    answered: Wake,
    /// Copied so far.
    taken: u64,
    /// Answered so far.
    told: u64,
    slot: Box<[u8]>,
}

impl Consumer {
    /// A private copy of the next mutation's slot with its number, if one was submitted.
    ///
    /// # Errors
    /// [`Broken`]: the ring is of no more use.
    pub fn take(&mut self) -> Result<Option<(u64, &[u8])>, Broken> {
        let submitted = self.shared.load(ring::SUBMITTED_AT, Ordering::Acquire);
        let waiting = submitted.wrapping_sub(self.told);
        if waiting > ring::SLOTS as u64 || submitted < self.taken {
            return Err(Broken {
                submitted,
                answered: self.told,
            });
        }
        if submitted == self.taken {
            return Ok(None);
        }
        let number = self.taken;
        let at = ring::slot_at(number);
        let (head, payload) = self.slot.split_at_mut(ring::PAYLOAD_AT);
        self.shared.read(at, head);
        let length = usize::try_from(ring::Head::read(head).length).unwrap_or(usize::MAX);
        // What is too long is refused by its length alone.
        let length = if length > payload.len() { 0 } else { length };
        if let Some(payload) = payload.get_mut(..length) {
            self.shared.read(at + ring::PAYLOAD_AT, payload);
        }
        self.taken += 1;
        Ok(Some((number, &self.slot)))
    }

    /// Answers the oldest mutation without an answer. The proposer sees it with [`Self::publish`].
    pub fn answer(&mut self, id: u64, generation: u64, verdict: Verdict) {
        let answer = Answer {
            id,
            generation,
            verdict,
            number: self.told,
        };
        let at = ring::slot_at(self.told) + ring::ANSWER_AT;
        self.shared.write(at, &answer.bytes());
        self.told += 1;
    }

    /// Shows the answers so far, with the current generation, and wakes the proposer.
    pub fn publish(&self, generation: u64) {
        self.shared
            .store(ring::GENERATION_AT, generation, Ordering::Relaxed);
        self.shared
            .store(ring::ANSWERED_AT, self.told, Ordering::Release);
        self.answered.ring();
    }

    /// Mutations that were taken and have no answer.
    #[must_use]
    pub fn unanswered(&self) -> u64 {
        self.taken - self.told
    }

    /// Tells the proposer that nobody reads any more.
    pub fn close(&self) {
        self.shared
            .store(ring::STATE_AT, ring::CLOSED, Ordering::Release);
        self.answered.ring();
    }

    /// Wakes this end as if the proposer had rung: there was more than one turn takes.
    pub fn again(&self) {
        self.rung.ring();
    }

    /// Forgets that the proposer rang; call before looking with [`Self::take`].
    pub fn rest(&self) {
        self.submitted.take();
    }

    /// Whether the proposer shut its end down.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.submitted.is_over()
    }

    /// What wakes when something was submitted, for a poller.
    #[must_use]
    pub fn wake(&self) -> BorrowedFd<'_> {
        self.submitted.as_fd()
    }
}

impl Drop for Consumer {
    fn drop(&mut self) {
        self.close();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn proposal(payload: &[u8]) -> Proposal<'_> {
        Proposal {
            id: 9,
            base_generation: 0,
            tensor: "policy.b2",
            offset: 0,
            confidence: 0.9,
            old_blake3: [1; 32],
            payload_blake3: [2; 32],
            payload,
        }
    }

    #[test]
    fn what_is_proposed_arrives_and_is_answered_in_order() {
        let (mut proposer, mut consumer) = Channel::create().unwrap();
        for round in 0..3 * ring::SLOTS as u64 {
            let number = proposer.submit(&proposal(&[1, 2, 3, 4])).unwrap();
            assert_eq!(number, round);
            let (taken, slot) = consumer.take().unwrap().unwrap();
            assert_eq!(taken, round);
            assert_eq!(Proposal::read(slot).unwrap(), proposal(&[1, 2, 3, 4]));
            assert_eq!(consumer.take().unwrap(), None);
            consumer.answer(9, round + 1, Verdict::Accepted);
            assert_eq!(proposer.answer(), None, "not shown yet");
            consumer.publish(round + 1);
            let answer = proposer.wait(Duration::from_secs(5)).unwrap();
            assert_eq!((answer.id, answer.number), (9, round));
            assert_eq!(answer.verdict, Verdict::Accepted);
            assert_eq!(proposer.generation(), round + 1);
        }
    }

    #[test]
    fn a_full_ring_says_so_and_goes_on_when_answers_were_read() {
        let (mut proposer, mut consumer) = Channel::create().unwrap();
        for _ in 0..ring::SLOTS {
            proposer.submit(&proposal(&[1])).unwrap();
        }
        assert_eq!(proposer.submit(&proposal(&[1])), Err(ProposeError::Full));
        while consumer.take().unwrap().is_some() {}
        assert_eq!(consumer.unanswered(), ring::SLOTS as u64);
        consumer.answer(9, 0, Verdict::TensorUnknown);
        consumer.publish(0);
        assert_eq!(proposer.submit(&proposal(&[1])), Err(ProposeError::Full));
        assert!(proposer.answer().is_some());
        assert!(proposer.submit(&proposal(&[1])).is_ok());
    }

    #[test]
    fn a_proposer_that_lies_about_its_count_breaks_its_own_ring_alone() {
        for lie in [ring::SLOTS as u64 + 1, u64::MAX, 1 << 63] {
            let (proposer, mut consumer) = Channel::create().unwrap();
            let shared = &proposer.shared;
            shared.store(ring::SUBMITTED_AT, lie, Ordering::Release);
            assert_eq!(consumer.take().unwrap_err().submitted, lie);
        }
        let (mut proposer, mut consumer) = Channel::create().unwrap();
        proposer.submit(&proposal(&[1])).unwrap();
        assert!(consumer.take().unwrap().is_some());
        proposer
            .shared
            .store(ring::SUBMITTED_AT, 0, Ordering::Release);
        assert!(
            consumer.take().is_err(),
            "what was taken cannot be taken back"
        );
    }

    #[test]
    fn scribbling_over_everything_the_runtime_writes_changes_nothing_for_it() {
        let (mut proposer, mut consumer) = Channel::create().unwrap();
        proposer.submit(&proposal(&[5; 16])).unwrap();
        let (_, slot) = consumer.take().unwrap().unwrap();
        let copy = slot.to_vec();
        let before = proposer.shared.load(ring::SUBMITTED_AT, Ordering::Relaxed);
        for word in (0..ring::BYTES).step_by(8) {
            proposer.shared.store(word, u64::MAX, Ordering::Relaxed);
        }
        proposer
            .shared
            .store(ring::SUBMITTED_AT, before, Ordering::Release);
        assert_eq!(consumer.slot[..], copy[..], "the copy is private");
        assert_eq!(consumer.take().unwrap(), None);
        consumer.answer(9, 1, Verdict::Accepted);
        consumer.publish(1);
        assert_eq!(proposer.generation(), 1);
    }

    #[test]
    fn a_runtime_that_leaves_is_seen() {
        let (mut proposer, consumer) = Channel::create().unwrap();
        drop(consumer);
        assert_eq!(proposer.submit(&proposal(&[1])), Err(ProposeError::Closed));
        assert_eq!(proposer.wait(Duration::from_millis(1)), None);
    }

    #[test]
    fn another_layout_is_refused() {
        let (memory, _) = Shared::create("ring", ring::BYTES).unwrap();
        let wake = || Wake::pair().unwrap().0;
        let refused = Proposer::over(&memory, wake(), wake()).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::InvalidData);
    }
}
