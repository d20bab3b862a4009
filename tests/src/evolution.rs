//! A proposer of mutations over the real `evolution.sock`, from nothing but what `docs/evolution.md` says.
//!
//! Start with [`Proposer::connect`].

use std::fs::File;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use sys::mapping::Mapping;
use sys::packet::PacketSocket;
use sys::shared::{Shared, Wake};
use wire::evolution::generation::{Generation, POLICY};
use wire::evolution::ring::{self, Answer, Proposal};
use wire::evolution::{EvolutionChannel, EvolutionGet, EvolutionOpen, EvolutionStatus};
use wire::{Frame, Hello, Message};

/// For one answer; takes milliseconds on an idle host.
const LIMIT: Duration = Duration::from_secs(60);

/// A connection with its ring.
pub struct Proposer {
    socket: PacketSocket,
    shared: Shared,
    submitted: Wake,
    answered: Wake,
    /// Submitted so far.
    pub put: u64,
    read: u64,
}

/// The current generation and what it holds.
pub struct Current {
    /// Its number.
    pub number: u64,
    /// BLAKE3 of its content.
    pub content: [u8; 32],
    /// The policy's values.
    pub policy: Vec<f32>,
}

/// What is proposed; every field that is not said is right.
pub struct Draft<'a> {
    /// The tensor.
    pub tensor: &'a str,
    /// Byte in it.
    pub offset: u64,
    /// What the range holds now.
    pub old: &'a [u8],
    /// What it is to hold.
    pub new: &'a [u8],
    /// The generation that it meets.
    pub generation: u64,
    /// How sure.
    pub confidence: f32,
}

fn ask<M: Message>(socket: &PacketSocket, body: &M) {
    let mut buf = [0; 4096];
    let packet = wire::encode(1, body, &mut buf).expect("a small frame");
    socket.send(packet, None).expect("cortex reads");
}

fn hear(socket: &PacketSocket, buf: &mut [u8]) -> (usize, Vec<OwnedFd>) {
    let received = socket.take(buf).expect("an answer of cortex");
    assert!(received.bytes > 0, "cortex closed the connection");
    (received.bytes, received.descriptors)
}

impl Proposer {
    /// Connects, as soon as somebody answers, and asks for a ring.
    pub fn connect(run: &Path) -> Self {
        let deadline = Instant::now() + LIMIT;
        loop {
            match Self::try_connect(run) {
                Some(proposer) => return proposer,
                None => assert!(Instant::now() < deadline, "nobody gives a ring"),
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    fn try_connect(run: &Path) -> Option<Self> {
        let socket = PacketSocket::connect_within(&run.join("evolution.sock"), LIMIT).ok()?;
        let mut buf = [0; 4096];
        ask(&socket, &Hello::OURS);
        // One that is killed while we wait in its backlog does not answer.
        let greeted = socket.take(&mut buf).ok()?;
        (greeted.bytes > 0).then_some(())?;
        ask(&socket, &EvolutionOpen);
        let received = socket.take(&mut buf).ok()?;
        (received.bytes > 0).then_some(())?;
        let frame = Frame::open(&buf[..received.bytes]).expect("a frame");
        let channel: EvolutionChannel = frame.body().expect("a ring");
        assert_eq!(channel.bytes, ring::BYTES as u64);
        let [memory, submitted, answered] = received.descriptors.try_into().ok()?;
        Some(Self {
            shared: Shared::over(&memory, ring::BYTES).expect("the ring's memory"),
            submitted: Wake::from_fd(submitted),
            answered: Wake::from_fd(answered),
            socket,
            put: 0,
            read: 0,
        })
    }

    /// Puts a mutation into the ring.
    pub fn submit(&mut self, draft: &Draft<'_>) {
        let proposal = Proposal {
            id: self.put,
            base_generation: draft.generation,
            tensor: draft.tensor,
            offset: draft.offset,
            confidence: draft.confidence,
            old_blake3: rts::Digest::of(draft.old).0,
            payload_blake3: rts::Digest::of(draft.new).0,
            payload: draft.new,
        };
        let mut slot = [0; ring::SLOT_BYTES];
        proposal.write(&mut slot).expect("it fits a slot");
        let at = ring::slot_at(self.put);
        self.shared.write(at, &slot[..ring::ANSWER_AT]);
        self.shared
            .write(at + ring::PAYLOAD_AT, &slot[ring::PAYLOAD_AT..]);
        self.put += 1;
        self.shared
            .store(ring::SUBMITTED_AT, self.put, Ordering::Release);
        self.submitted.ring();
    }

    /// The next answer; none if the runtime is gone.
    pub fn answer(&mut self) -> Option<Answer> {
        let deadline = Instant::now() + LIMIT;
        loop {
            self.answered.take();
            if self.shared.load(ring::ANSWERED_AT, Ordering::Acquire) > self.read {
                let mut bytes = [0; ring::ANSWER_BYTES];
                let at = ring::slot_at(self.read) + ring::ANSWER_AT;
                self.shared.read(at, &mut bytes);
                self.read += 1;
                return Some(Answer::read(&bytes));
            }
            if self.is_gone() {
                return None;
            }
            assert!(Instant::now() < deadline, "no answer to a mutation");
            let _ = self.answered.wait(Duration::from_millis(20));
        }
    }

    /// Mutations without an answer that was read.
    pub fn in_flight(&self) -> u64 {
        self.put - self.read
    }

    fn is_gone(&self) -> bool {
        // The only thing that comes unasked is the end.
        let mut byte = [0; 1];
        matches!(sys::packet::peek(&self.socket, &mut byte), Ok(0))
    }

    /// Submits and waits for the answer.
    pub fn propose(&mut self, draft: &Draft<'_>) -> Answer {
        self.submit(draft);
        self.answer().expect("an answer")
    }

    /// Asks for the current generation so often; the code of the first refusal.
    pub fn refusal_of(&self, questions: u32) -> Option<String> {
        let mut buf = [0; 4096];
        (0..questions).find_map(|_| {
            ask(&self.socket, &EvolutionGet);
            let (bytes, _) = hear(&self.socket, &mut buf);
            let frame = Frame::open(&buf[..bytes]).expect("a frame");
            let refused = frame.body::<wire::Refused<'_>>().ok()?;
            Some(refused.code.to_owned())
        })
    }

    /// The current generation, by its sealed memory.
    pub fn current(&self) -> Current {
        ask(&self.socket, &EvolutionGet);
        let mut buf = [0; 4096];
        let (bytes, descriptors) = hear(&self.socket, &mut buf);
        let frame = Frame::open(&buf[..bytes]).expect("a frame");
        let status: EvolutionStatus = frame.body().expect("a status");
        let file = File::from(descriptors.into_iter().next().expect("a generation"));
        let mapping = Mapping::of_whole_fd(&file).expect("map a generation");
        let generation = Generation::parse(&mapping).expect("a generation");
        assert_eq!(generation.number, status.generation);
        let body = &mapping[wire::evolution::generation::HEADER_BYTES..];
        assert_eq!(generation.content, rts::Digest::of(body).0);
        Current {
            number: status.generation,
            content: status.content,
            policy: generation.policy().collect(),
        }
    }
}

/// Where a tensor's values begin among the policy's.
pub fn place_of(tensor: &str) -> usize {
    let before = POLICY.iter().take_while(|(name, _)| *name != tensor);
    before.map(|(_, values)| values).sum()
}

/// Values as they lie in a tensor.
pub fn bytes(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|v| v.to_le_bytes()).collect()
}
