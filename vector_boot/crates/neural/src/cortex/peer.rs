//! One connection of `evolution.sock`: greeting, questions, and the ring that lives as long as it.

use super::RINGS_MAX;
use crate::evolution::quota::Quota;
use crate::evolution::{Channel, Consumer, Engine, RollbackError};
use crate::journal::ROW_BYTES;
use ipc::door::{BAD_FRAMES_MAX, HELLO_LIMIT};
use ipc::{Served, serve_hello};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use sys::packet::PacketSocket;
use wire::evolution::{
    EvolutionChannel, EvolutionGet, EvolutionOpen, EvolutionStatus, Mutation, MutationsGet,
    MutationsRollback, ring,
};
use wire::neural::{JournalGet, JournalRow, ROWS_MAX};
use wire::{Done, Frame, Kind, Message, Refused, Role};

/// Questions are small.
const PACKET_BYTES: usize = 4096;
/// Generations a second that one connection is given, and two seconds' worth at once: more is no use, since the ring's
/// header says when there is another, and each is a descriptor on its way.
const GENERATIONS_A_SECOND: u64 = 32;
/// Verdicts of one answer: what a socket's buffer surely takes.
const LISTED_MAX: usize = 200;

/// A published generation, and the hash of what it holds.
pub(super) type Sealed = (OwnedFd, [u8; 32]);

/// What is to become of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Next {
    Keep,
    Close,
    /// Somebody who may see it asks for rows of the journal.
    Journal {
        id: u64,
        after: u64,
        rows: u32,
    },
    /// Somebody who may do it asks for an earlier generation.
    RollBack {
        id: u64,
        to: u64,
    },
}

/// One peer.
pub(super) struct Peer {
    pub(super) socket: PacketSocket,
    pub(super) served: Served,
    pub(super) ring: Option<Consumer>,
    greeted: bool,
    since_ns: u64,
    bad_frames: u32,
    generations: Quota,
}

const fn refused(code: &'static str, field: &'static str, limit: &'static str) -> Refused<'static> {
    Refused {
        code,
        field,
        value: "",
        limit,
    }
}

impl Peer {
    pub(super) fn new(socket: PacketSocket, served: Served) -> Self {
        Self {
            socket,
            served,
            ring: None,
            greeted: false,
            since_ns: sys::clock::monotonic_ns(),
            bad_frames: 0,
            generations: Quota::new(GENERATIONS_A_SECOND),
        }
    }

    /// Whether it came and never said hello.
    pub(super) fn is_mute(&self, now_ns: u64) -> bool {
        !self.greeted && now_ns.saturating_sub(self.since_ns) > HELLO_LIMIT.as_nanos() as u64
    }

    /// Takes one packet; `rings` are in use.
    pub(super) fn serve(
        &mut self,
        engine: &Engine<'_>,
        sealed: Option<&Sealed>,
        rings: usize,
    ) -> Next {
        let mut buf = [0; PACKET_BYTES];
        match self.socket.take(&mut buf) {
            // Descriptors that nobody asked for are closed with their list: none of ours can wait.
            Ok(received) if received.bytes == 0 || !received.descriptors.is_empty() => Next::Close,
            Ok(received) if received.cut => {
                self.refuse(0, &refused("BAD_REQUEST", "frame", "at most 4096 bytes"))
            }
            Ok(received) => {
                let packet = buf.get(..received.bytes).unwrap_or_default();
                self.take(packet, engine, sealed, rings)
            }
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => Next::Keep,
            Err(_) => Next::Close,
        }
    }

    fn take(
        &mut self,
        packet: &[u8],
        engine: &Engine<'_>,
        sealed: Option<&Sealed>,
        rings: usize,
    ) -> Next {
        let id = Frame::open(packet).map_or(0, |frame| frame.id);
        let frame = match self.served.open(packet) {
            Ok(frame) => frame,
            Err(wrong) => {
                let next = self.refuse(id, &wrong);
                return if self.greeted { next } else { Next::Close };
            }
        };
        if !self.greeted {
            let mut out = [0; 64];
            self.greeted = true;
            return match serve_hello(packet, &mut out) {
                Ok(answer) => self.sent(self.socket.send(answer, None)),
                Err(_) => Next::Close,
            };
        }
        match frame.kind {
            Kind::EvolutionOpen if frame.body::<EvolutionOpen>().is_ok() => {
                self.open_ring(id, engine, rings)
            }
            Kind::EvolutionGet if frame.body::<EvolutionGet>().is_ok() => {
                self.tell(id, engine, sealed, rings)
            }
            Kind::MutationsGet => match frame.body::<MutationsGet>() {
                Ok(get) => self.list(id, engine, get.count),
                Err(_) => self.refuse(id, &refused("BAD_REQUEST", "body", "a count")),
            },
            Kind::JournalGet => match frame.body::<JournalGet>() {
                Ok(get) => Next::Journal {
                    id,
                    after: get.after,
                    rows: get.rows.min(ROWS_MAX),
                },
                Err(_) => self.refuse(id, &refused("BAD_REQUEST", "body", "a number")),
            },
            Kind::MutationsRollback => match frame.body::<MutationsRollback>() {
                Ok(ask) => Next::RollBack {
                    id,
                    to: ask.generation,
                },
                Err(_) => self.refuse(id, &refused("BAD_REQUEST", "body", "a generation")),
            },
            _ => {
                let wrong = refused("BAD_REQUEST", "kind", "what evolution.sock answers");
                self.refuse(id, &wrong)
            }
        }
    }

    fn open_ring(&mut self, id: u64, engine: &Engine<'_>, rings: usize) -> Next {
        if self.ring.is_some() {
            return self.refuse(id, &refused("CONFLICT", "ring", "one a connection"));
        }
        // One is kept for a person, whatever users' services do.
        let kept = usize::from(!matches!(self.served.role, Role::Operator | Role::Console));
        if rings + kept >= RINGS_MAX {
            return self.refuse(id, &refused("QUOTA", "rings", "4 at once"));
        }
        let generation = engine.generation();
        let Ok((consumer, handles)) = Channel::offer(generation) else {
            return self.refuse(id, &refused("INTERNAL", "ring", "memory"));
        };
        let body = EvolutionChannel {
            version: ring::VERSION,
            bytes: ring::BYTES as u64,
            generation,
        };
        let descriptors = [
            handles.memory.as_fd(),
            handles.submitted.as_fd(),
            handles.answered.as_fd(),
        ];
        self.ring = Some(consumer);
        self.reply(id, &body, &descriptors)
    }

    /// The same memory for everybody who asks: what a peer keeps is charged to us.
    fn tell(
        &mut self,
        id: u64,
        engine: &Engine<'_>,
        sealed: Option<&Sealed>,
        rings: usize,
    ) -> Next {
        if !self.generations.take(sys::clock::monotonic_ns(), 1) {
            return self.refuse(id, &refused("QUOTA", "generations", "32 a second"));
        }
        let Some((sealed, content)) = sealed else {
            return self.refuse(id, &refused("INTERNAL", "generation", "memory"));
        };
        let counts = engine.counts();
        let body = EvolutionStatus {
            generation: engine.generation(),
            oldest: engine.oldest(),
            base: engine.base().blake3(),
            content: *content,
            accepted: counts.accepted,
            refused: counts.refused,
            rolled_back: counts.rolled_back,
            proposers: u16::try_from(rings).unwrap_or(u16::MAX),
            durable: engine.is_durable(),
        };
        self.reply(id, &body, &[sealed.as_fd()])
    }

    fn list(&mut self, id: u64, engine: &Engine<'_>, count: u32) -> Next {
        let count = usize::try_from(count).unwrap_or(LISTED_MAX);
        let mut sent = 0;
        for verdict in engine.history().newest().take(count.min(LISTED_MAX)) {
            let body = Mutation {
                wall_ns: verdict.wall_ns,
                verdict: verdict.verdict,
                generation: verdict.generation,
                restored: verdict.restored,
                uid: verdict.uid,
                count: verdict.count,
                id: verdict.id,
                tensor: &verdict.tensor,
                offset: verdict.offset,
                length: verdict.length,
                confidence: verdict.confidence,
            };
            if self.reply(id, &body, &[]) != Next::Keep {
                return Next::Close;
            }
            sent += 1;
        }
        self.reply(id, &Done { count: sent }, &[])
    }

    /// Answers with rows of the journal; `false` ends the connection.
    pub(super) fn answer_journal(&mut self, id: u64, rows: &[[u8; ROW_BYTES]]) -> bool {
        let mut sent = 0;
        for row in rows {
            if self.reply(id, &JournalRow { row }, &[]) != Next::Keep {
                return false;
            }
            sent += 1;
        }
        self.reply(id, &Done { count: sent }, &[]) == Next::Keep
    }

    /// Answers a rollback; `false` ends the connection.
    pub(super) fn answer_rollback(
        &mut self,
        id: u64,
        to: u64,
        done: Result<u64, RollbackError>,
    ) -> bool {
        let next = match done {
            Ok(_) => self.reply(id, &Done { count: 0 }, &[]),
            Err(e) => {
                let (value, limit) = (to.to_string(), e.to_string());
                let code = match e {
                    RollbackError::Unknown { .. } => "NOT_FOUND",
                    RollbackError::Current => "CONFLICT",
                    RollbackError::Log(_) => "INTERNAL",
                };
                self.refuse(
                    id,
                    &Refused {
                        code,
                        field: "generation",
                        value: &value,
                        limit: &limit,
                    },
                )
            }
        };
        next == Next::Keep
    }

    fn refuse(&mut self, id: u64, wrong: &Refused<'_>) -> Next {
        self.bad_frames += 1;
        match self.reply(id, wrong, &[]) {
            Next::Keep if self.bad_frames < BAD_FRAMES_MAX => Next::Keep,
            _ => Next::Close,
        }
    }

    fn reply<M: Message>(&self, id: u64, body: &M, descriptors: &[BorrowedFd<'_>]) -> Next {
        let mut out = [0; PACKET_BYTES];
        match wire::encode(id, body, &mut out) {
            Ok(packet) => self.sent(self.socket.send_with(packet, descriptors)),
            Err(_) => Next::Close,
        }
    }

    /// Who does not read its answers is let go.
    fn sent(&self, result: io::Result<()>) -> Next {
        match result {
            Ok(()) => Next::Keep,
            Err(_) => Next::Close,
        }
    }
}
