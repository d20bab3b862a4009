//! `init.sock`: questions of the console, `ctl` and the services, answered from the loop.
//!
//! Never waits: an answer that does not fit the peer's buffer goes on when it does. While a list is
//! under way the connection is not read, so a peer that asks and does not read costs one slot.
//! What a peer may have put in the way of closing its connection is left to [`sys::release`].

use crate::heart::{Heart, Watch};
use crate::state::{BY_HELPER, BY_INIT, Fixed, Json, Level, Weight};
use crate::supervisor::{Event, Phase};
use ipc::Served;
use ipc::door::{BAD_FRAMES_MAX, HELLO_LIMIT, Limits};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use sys::events::Interest;
use sys::packet::{Mode, PacketSocket, Received};
use wire::capacity::{CgroupPlan, CgroupReadback};
use wire::control::{
    BeatGet, BootGet, ClockSet, Control, Descriptor, DescriptorGet, LogGet, LogLine, Param,
    ParamsGet, Power, Service, ServiceState, ServicesGet, Status, StatusGet, Verb,
};
use wire::evolution::{Generation, GenerationGet};
use wire::helper::Task;
use wire::neural::{InterruptsGet, JournalGet, JournalRow, ROWS_MAX};
use wire::upgrade::{Rollback, Upgrade, UpgradeGet};
use wire::why::{PressureGet, Reason, WatchdogGet, WhyGet};
use wire::{Done, Frame, Kind, Message, Refused, Role};

/// Connections at once: every service, a console and a few `ctl`.
pub const CONNECTIONS_MAX: usize = 48;
/// Who may hold them: our services one or two each, users' services may only ask for the status.
pub const LIMITS: Limits = Limits {
    all: CONNECTIONS_MAX,
    kept: 8,
    users: 12,
    of_uid: 4,
};
/// Items of a list that are sent in one turn of the loop, so that a fast reader makes no beat late.
const ITEMS_A_TURN: usize = 64;
/// Connections that are taken in one turn of the loop.
const ACCEPTS_A_TURN: usize = 8;
/// Packets of one connection that are taken in one turn of the loop: what all connections can ask in it
/// takes an emulated machine on a busy host a third of a beat.
const PACKETS_A_TURN: usize = 4;
/// Turns that a connection gets in one beat: 1,280 questions a second. What waits longer slows its
/// sender down instead of PID 1. The operator and the console are not slowed down.
const TURNS_A_BEAT: u32 = 32;
/// The largest frame that PID 1 reads: a plan of the capacity kernel.
pub const PACKET_BYTES: usize = 8 * 1024;
/// [`ipc::door::HELLO_LIMIT`] on the clock of the loop.
const HELLO_LIMIT_NS: u64 = HELLO_LIMIT.as_nanos() as u64;

/// One peer.
pub struct Connection {
    socket: PacketSocket,
    served: Served,
    greeted: bool,
    since_ns: u64,
    bad_frames: u32,
    /// Turns since the last beat.
    turns: u32,
    list: Option<List>,
    /// Tells this connection from an earlier one in the same slot.
    pub generation: u64,
}

/// A list that is being sent.
struct List {
    id: u64,
    what: Listed,
    sent: u32,
}

enum Listed {
    Services(usize),
    Phases(usize),
    Params(usize),
    /// Next line, one past the last, whose.
    Log(u64, u64, Option<u8>),
    /// The cgroup at this place.
    Pressure(usize),
    /// Next row of PID 1's journal, one past the last.
    Rows(u64, u64),
    /// The interrupt at this place of the table.
    Interrupts(usize),
    /// Records older than this one, about whom.
    Reasons(Option<u64>, Fixed<{ wire::NAME_BYTES_MAX }>),
}

const fn bad(field: &'static str, limit: &'static str) -> Refused<'static> {
    Refused {
        code: "BAD_REQUEST",
        field,
        value: "",
        limit,
    }
}

const BAD_HELLO: Refused<'_> = bad("hello", "the first frame, of a version spoken here");
const BAD_BODY: Refused<'_> = bad("body", "what its kind says");
const BAD_KIND: Refused<'_> = bad("kind", "what init.sock answers");
const BAD_DESCRIPTORS: Refused<'_> = bad("descriptors", "none");
const TOO_LONG: Refused<'_> = bad("frame", "at most 8192 bytes");

/// How one step of an answer went.
enum Sent {
    /// It is on its way.
    Yes,
    /// The peer's buffer is full.
    Full,
    /// The peer is gone.
    Gone,
}

fn sent(result: io::Result<()>) -> Sent {
    match result {
        Ok(()) => Sent::Yes,
        Err(e) if e.kind() == io::ErrorKind::WouldBlock => Sent::Full,
        Err(_) => Sent::Gone,
    }
}

impl Heart {
    /// Takes new peers.
    pub fn accept_control(&mut self) {
        for _ in 0..ACCEPTS_A_TURN {
            if self.releaser.is_full() {
                self.control_rests = self.poller.remove(self.control.as_fd()).is_ok();
                return;
            }
            let socket = match self.control.accept(Mode::NonBlocking) {
                Ok(socket) => socket,
                Err(e) => {
                    if e.kind() != io::ErrorKind::WouldBlock {
                        // Out of descriptors: the peer still waits, and the poller would say so for
                        // ever. The next beat looks again.
                        self.control_rests = self.poller.remove(self.control.as_fd()).is_ok();
                    }
                    return;
                }
            };
            match Served::of(&socket) {
                Ok(served) => self.admit(socket, served),
                Err(_) => self.let_go(socket),
            }
        }
    }

    fn admit(&mut self, socket: PacketSocket, served: Served) {
        let there = self.connections.iter().flatten().map(|c| c.served.role);
        let slot = match LIMITS.admit(there, served.role) {
            Ok(()) => self.free_slot(),
            Err(over) => {
                self.complain(served, format_args!("{over}"));
                None
            }
        };
        let watched = slot.is_some_and(|slot| {
            let token = Watch::Connection(slot).token();
            self.poller
                .add(socket.as_fd(), token, Interest::Read)
                .is_ok()
        });
        match slot.and_then(|slot| self.connections.get_mut(slot)) {
            Some(place) if watched => {
                self.generation += 1;
                *place = Some(Connection {
                    socket,
                    served,
                    greeted: false,
                    since_ns: sys::clock::monotonic_ns(),
                    bad_frames: 0,
                    turns: 0,
                    list: None,
                    generation: self.generation,
                });
            }
            // The end is the answer.
            _ => self.let_go(socket),
        }
    }

    /// A place for a connection: one that was left, or a new one; there are as many as ever were needed at once.
    fn free_slot(&mut self) -> Option<usize> {
        let left = self.connections.iter().position(Option::is_none);
        let new = self.connections.len();
        if left.is_none() && new < CONNECTIONS_MAX {
            self.connections.push(None);
            return Some(new);
        }
        left
    }

    /// Ends a connection that may hold what its peer sent and nobody read.
    fn let_go(&mut self, socket: PacketSocket) {
        socket.shutdown();
        self.releaser.take([OwnedFd::from(socket)]);
    }

    /// At a beat: connections that had their share are read again, those without a hello end.
    pub fn renew_connections(&mut self) {
        let now = sys::clock::monotonic_ns();
        for slot in 0..self.connections.len() {
            let Some(connection) = self.connections.get_mut(slot).and_then(Option::as_mut) else {
                continue;
            };
            let rested = std::mem::take(&mut connection.turns) >= TURNS_A_BEAT;
            if !connection.greeted && now.saturating_sub(connection.since_ns) > HELLO_LIMIT_NS {
                let served = connection.served;
                self.complain(served, format_args!("no hello in time"));
                self.hang_up(slot);
            } else if rested {
                let token = Watch::Connection(slot).token();
                let interest = match connection.list {
                    Some(_) => Interest::Write,
                    None => Interest::Read,
                };
                // A connection that cannot be watched would never end.
                if self
                    .poller
                    .add(connection.socket.as_fd(), token, interest)
                    .is_err()
                {
                    self.hang_up(slot);
                }
            }
        }
    }

    /// Looks at new peers again after a rest.
    pub fn resume_control(&mut self) {
        if self.control_rests {
            let token = Watch::Control.token();
            let added = self.poller.add(self.control.as_fd(), token, Interest::Read);
            self.control_rests = added.is_err();
        }
    }

    /// Says what a peer did, once a minute a uid.
    fn complain(&mut self, served: Served, what: std::fmt::Arguments<'_>) {
        let second = sys::clock::monotonic_ns() / 1_000_000_000;
        let (uid, pid, role) = (served.peer.uid, served.peer.pid, served.role.name());
        let Some(unsaid) = self.complaints.allow(uid, second) else {
            return;
        };
        let more = match unsaid {
            0 => Fixed::<48>::default(),
            n => Fixed::of(format_args!(" (and {n} more since the last)")),
        };
        self.journal.say(
            Level::Warn,
            format_args!("init.sock: refused role={role} uid={uid} pid={pid}: {what}{more}"),
        );
    }

    /// Goes on with one peer.
    pub fn serve(&mut self, slot: usize, hung_up: bool) {
        if !self.go_on(slot) {
            self.hang_up(slot);
            return;
        }
        let mut buf = [0u8; PACKET_BYTES];
        for _ in 0..PACKETS_A_TURN {
            let Some(connection) = self.connections.get(slot).and_then(Option::as_ref) else {
                return;
            };
            if connection.list.is_some() || self.releaser.is_full() {
                break;
            }
            match connection.socket.take(&mut buf) {
                Ok(received) if may_carry(connection, &received, &buf) => {
                    let packet = buf.get(..received.bytes).unwrap_or_default();
                    let descriptor = received.descriptors.into_iter().next();
                    if !self.take_with_descriptor(slot, packet, descriptor) {
                        return self.hang_up(slot);
                    }
                }
                Ok(received) if !received.descriptors.is_empty() => {
                    self.releaser.take(received.descriptors);
                    self.refuse(slot, 0, &BAD_DESCRIPTORS);
                    return self.hang_up(slot);
                }
                Ok(received) if received.bytes == 0 => return self.hang_up(slot),
                Ok(received) if received.cut => {
                    if !self.refuse(slot, 0, &TOO_LONG) {
                        return self.hang_up(slot);
                    }
                }
                Ok(received) => {
                    let packet = buf.get(..received.bytes).unwrap_or_default();
                    if !self.take_packet(slot, packet) {
                        return self.hang_up(slot);
                    }
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                    if hung_up {
                        self.hang_up(slot);
                    }
                    return;
                }
                Err(_) => return self.hang_up(slot),
            }
        }
        self.count_turn(slot);
    }

    /// A question that brings a descriptor, of a peer that may ask it.
    fn take_with_descriptor(
        &mut self,
        slot: usize,
        packet: &[u8],
        descriptor: Option<OwnedFd>,
    ) -> bool {
        let Some(connection) = self.connections.get(slot).and_then(Option::as_ref) else {
            return false;
        };
        let role = connection.served.role;
        let upgrade = |f: Frame<'_>| f.body::<Upgrade<'_>>().is_ok();
        match Frame::open(packet) {
            Ok(frame) if upgrade(frame) => match frame.body() {
                Ok(ask) => self.take_upgrade((slot, frame.id, role), ask, descriptor),
                Err(_) => self.refuse(slot, frame.id, &BAD_BODY),
            },
            Ok(frame) => match frame.body::<Generation>() {
                Ok(ask) => self.take_generation((slot, frame.id), ask.number, descriptor),
                Err(_) => self.refuse(slot, frame.id, &BAD_BODY),
            },
            Err(_) => self.refuse(slot, 0, &BAD_BODY),
        }
    }

    /// A peer that had its share of this beat is looked at again at the next one.
    fn count_turn(&mut self, slot: usize) {
        let Some(connection) = self.connections.get_mut(slot).and_then(Option::as_mut) else {
            return;
        };
        connection.turns += 1;
        let privileged = matches!(connection.served.role, Role::Operator | Role::Console);
        if connection.turns == TURNS_A_BEAT && !privileged {
            // It cannot be left in the poller; one that is not in it any more rests as well.
            let _ = self.poller.remove(connection.socket.as_fd());
        }
    }

    pub(crate) fn hang_up(&mut self, slot: usize) {
        if let Some(connection) = self.connections.get_mut(slot).and_then(Option::take) {
            // One that had its share is not there.
            let _ = self.poller.remove(connection.socket.as_fd());
            self.let_go(connection.socket);
        }
    }

    /// Answers with a refusal, and says so; `false` ends the connection.
    fn refuse(&mut self, slot: usize, id: u64, refused: &Refused<'_>) -> bool {
        let Some(connection) = self.connections.get_mut(slot).and_then(Option::as_mut) else {
            return false;
        };
        connection.bad_frames += 1;
        let (served, more) = (connection.served, connection.bad_frames < BAD_FRAMES_MAX);
        self.complain(
            served,
            format_args!("{} {}: {}", refused.code, refused.field, refused.limit),
        );
        self.reply(slot, id, refused) && more
    }

    /// `false` ends the connection.
    fn take_packet(&mut self, slot: usize, packet: &[u8]) -> bool {
        let Some(connection) = self.connections.get_mut(slot).and_then(Option::as_mut) else {
            return false;
        };
        let served = connection.served;
        let id = Frame::open(packet).map_or(0, |f| f.id);
        match served.open(packet) {
            Ok(frame) if connection.greeted => self.take_frame(slot, served, frame),
            Ok(_) => {
                let mut out = [0u8; 64];
                connection.greeted = true;
                match ipc::serve_hello(packet, &mut out) {
                    Ok(answer) => connection.socket.send(answer, None).is_ok(),
                    Err(_) => {
                        self.refuse(slot, id, &BAD_HELLO);
                        false
                    }
                }
            }
            Err(refused) => {
                let greeted = connection.greeted;
                self.refuse(slot, id, &refused) && greeted
            }
        }
    }

    fn take_frame(&mut self, slot: usize, served: Served, frame: Frame<'_>) -> bool {
        let id = frame.id;
        match frame.kind {
            Kind::StatusGet if frame.body::<StatusGet>().is_ok() => self.send_status(slot, id),
            Kind::ServicesGet if frame.body::<ServicesGet>().is_ok() => {
                self.begin_list(slot, id, Listed::Services(0))
            }
            Kind::BootGet if frame.body::<BootGet>().is_ok() => {
                self.begin_list(slot, id, Listed::Phases(0))
            }
            Kind::ParamsGet if frame.body::<ParamsGet>().is_ok() => {
                self.begin_list(slot, id, Listed::Params(0))
            }
            Kind::BeatGet if frame.body::<BeatGet>().is_ok() => {
                let beat = self.beat.record();
                self.reply(slot, id, &beat)
            }
            Kind::WatchdogGet if frame.body::<WatchdogGet>().is_ok() => {
                let mut out = [0u8; 256];
                let packet = wire::encode(id, &self.watchdog.record(), &mut out);
                self.send(slot, packet.unwrap_or_default())
            }
            Kind::WhyGet => match frame.body::<WhyGet<'_>>() {
                Ok(get) => {
                    let subject = Fixed::of(format_args!("{}", get.subject));
                    self.begin_list(slot, id, Listed::Reasons(None, subject))
                }
                Err(_) => self.refuse(slot, id, &BAD_BODY),
            },
            Kind::PressureGet if frame.body::<PressureGet>().is_ok() => {
                self.begin_list(slot, id, Listed::Pressure(0))
            }
            Kind::InterruptsGet if frame.body::<InterruptsGet>().is_ok() => {
                self.begin_list(slot, id, Listed::Interrupts(0))
            }
            Kind::JournalGet => match frame.body::<JournalGet>() {
                Ok(get) => {
                    let (oldest, newest) = self.work.journal();
                    let rows = get.rows.min(ROWS_MAX);
                    let first = (newest + 1).saturating_sub(rows.into());
                    let first = first.max(oldest).max(get.after.saturating_add(1));
                    self.begin_list(slot, id, Listed::Rows(first, newest + 1))
                }
                Err(_) => self.refuse(slot, id, &BAD_BODY),
            },
            Kind::LogGet => match frame.body::<LogGet<'_>>() {
                Ok(get) => self.begin_log(slot, id, get),
                Err(_) => self.refuse(slot, id, &BAD_BODY),
            },
            Kind::Control => match frame.body::<Control<'_>>() {
                Ok(control) => self.control_service(slot, id, served.role, control),
                Err(_) => self.refuse(slot, id, &BAD_BODY),
            },
            Kind::Power => match frame.body::<Power>() {
                Ok(power) => {
                    self.begin_shutdown(power, Reason::Command, actor_of(served.role));
                    self.reply(slot, id, &Done { count: 0 })
                }
                Err(_) => self.refuse(slot, id, &BAD_BODY),
            },
            Kind::Upgrade => match frame.body::<Upgrade<'_>>() {
                Ok(ask) => self.take_upgrade((slot, id, served.role), ask, None),
                Err(_) => self.refuse(slot, id, &BAD_BODY),
            },
            Kind::Rollback if frame.body::<Rollback>().is_ok() => {
                self.take_rollback(slot, id, served.role)
            }
            Kind::UpgradeGet if frame.body::<UpgradeGet>().is_ok() => {
                self.send_upgrade_status(slot, id)
            }
            Kind::GenerationGet if frame.body::<GenerationGet>().is_ok() => {
                let status = self.generations.status();
                self.reply(slot, id, &status)
            }
            Kind::Generation => match frame.body::<Generation>() {
                Ok(ask) => self.take_generation((slot, id), ask.number, None),
                Err(_) => self.refuse(slot, id, &BAD_BODY),
            },
            Kind::DescriptorGet => match frame.body::<DescriptorGet<'_>>() {
                Ok(get) => self.send_descriptor(slot, id, get.name),
                Err(_) => self.refuse(slot, id, &BAD_BODY),
            },
            Kind::ClockSet => match frame.body::<ClockSet<'_>>() {
                Ok(ask) => self.set_clock(slot, id, &ask),
                Err(_) => self.refuse(slot, id, &BAD_BODY),
            },
            Kind::CgroupPlan => match frame.body::<CgroupPlan>() {
                Ok(plan) => self.take_plan(slot, id, plan),
                Err(_) => self.refuse(slot, id, &BAD_BODY),
            },
            Kind::StatusGet
            | Kind::ServicesGet
            | Kind::BootGet
            | Kind::ParamsGet
            | Kind::BeatGet
            | Kind::WatchdogGet
            | Kind::InterruptsGet
            | Kind::PressureGet => self.refuse(slot, id, &BAD_BODY),
            _ => self.refuse(slot, id, &BAD_KIND),
        }
    }

    pub(crate) fn reply<M: Message>(&mut self, slot: usize, id: u64, body: &M) -> bool {
        self.reply_with(slot, id, body, None)
    }

    fn reply_with<M: Message>(
        &mut self,
        slot: usize,
        id: u64,
        body: &M,
        descriptor: Option<BorrowedFd<'_>>,
    ) -> bool {
        let mut out = [0u8; PACKET_BYTES];
        let Some(connection) = self.connections.get(slot).and_then(Option::as_ref) else {
            return false;
        };
        // A peer that asks without reading until its buffer is full has itself to blame: it is let go.
        wire::encode(id, body, &mut out)
            .is_ok_and(|packet| connection.socket.send(packet, descriptor).is_ok())
    }

    /// Sends an answer that borrows from us.
    fn send(&self, slot: usize, packet: &[u8]) -> bool {
        let connection = self.connections.get(slot).and_then(Option::as_ref);
        connection.is_some_and(|c| c.socket.send(packet, None).is_ok())
    }

    /// Answers a plan once the helper is done with it.
    pub fn answer_plan(
        &mut self,
        slot: usize,
        generation: u64,
        id: u64,
        epoch: u64,
        result: &Result<u64, String>,
    ) {
        let same = self
            .connections
            .get(slot)
            .and_then(Option::as_ref)
            .is_some_and(|c| c.generation == generation);
        let detail = result.as_ref().err().map_or("", String::as_str);
        if same
            && !self.reply(
                slot,
                id,
                &CgroupReadback {
                    epoch,
                    applied: result.is_ok(),
                    detail,
                },
            )
        {
            self.hang_up(slot);
        }
    }

    /// As [`Heart::complain`], of the peer in this slot.
    pub(crate) fn complain_of(&mut self, slot: usize, what: std::fmt::Arguments<'_>) {
        let connection = self.connections.get(slot).and_then(Option::as_ref);
        if let Some(served) = connection.map(|c| c.served) {
            self.complain(served, what);
        }
    }

    /// Tells the connection in this slot from others that were there; 0 without one.
    pub(crate) fn generation_of(&self, slot: usize) -> u64 {
        let connection = self.connections.get(slot).and_then(Option::as_ref);
        connection.map_or(0, |c| c.generation)
    }

    fn take_plan(&mut self, slot: usize, id: u64, plan: CgroupPlan) -> bool {
        let epoch = plan.epoch;
        if !self.setup.is_appliance() {
            return self.reply(
                slot,
                id,
                &CgroupReadback {
                    epoch,
                    applied: false,
                    detail: "no cgroups",
                },
            );
        }
        let generation = self.generation_of(slot);
        let purpose = crate::helper_link::Purpose::Leases(slot, generation, id, epoch);
        if self.helper.ask(purpose, &Task::Leases(plan), None) {
            return true;
        }
        self.reply(
            slot,
            id,
            &CgroupReadback {
                epoch,
                applied: false,
                detail: "the helper's queue is full",
            },
        )
    }

    fn begin_list(&mut self, slot: usize, id: u64, what: Listed) -> bool {
        if let Some(connection) = self.connections.get_mut(slot).and_then(Option::as_mut) {
            connection.list = Some(List { id, what, sent: 0 });
        }
        self.go_on(slot)
    }

    fn begin_log(&mut self, slot: usize, id: u64, get: LogGet<'_>) -> bool {
        let by = match get.name {
            "" => None,
            "init" => Some(BY_INIT),
            "helper" => Some(BY_HELPER),
            name => match self.units.iter().position(|u| u.name() == name) {
                Some(index) => u8::try_from(index).ok(),
                None => return self.no_such_service(slot, id, name),
            },
        };
        let end = self.journal.state.next_line();
        let oldest = self
            .journal
            .state
            .oldest_line()
            .max(get.after.saturating_add(1));
        // Back from the newest until there are enough.
        let (mut first, mut found) = (end, 0);
        while first > oldest && found < get.lines {
            first -= 1;
            let matches = self
                .journal
                .state
                .line(first)
                .is_some_and(|l| by.is_none_or(|b| b == l.by));
            found += u32::from(matches);
        }
        self.begin_list(slot, id, Listed::Log(first, end, by))
    }

    /// Sends as much of a list as the peer takes; `false` ends the connection.
    fn go_on(&mut self, slot: usize) -> bool {
        for _ in 0..ITEMS_A_TURN {
            let Some(connection) = self.connections.get_mut(slot).and_then(Option::as_mut) else {
                return true;
            };
            let Some(list) = connection.list.take() else {
                return true;
            };
            let mut out = [0u8; PACKET_BYTES];
            let (packet, next) = self.next_item(&list, &mut out);
            let Some(connection) = self.connections.get_mut(slot).and_then(Option::as_mut) else {
                return true;
            };
            let token = Watch::Connection(slot).token();
            match sent(connection.socket.send(packet, None)) {
                Sent::Gone => return false,
                Sent::Full => {
                    connection.list = Some(list);
                    return self
                        .poller
                        .change(connection.socket.as_fd(), token, Interest::Write)
                        .is_ok();
                }
                Sent::Yes => match next {
                    Some(what) => {
                        connection.list = Some(List {
                            what,
                            sent: list.sent + 1,
                            ..list
                        })
                    }
                    None => {
                        return self
                            .poller
                            .change(connection.socket.as_fd(), token, Interest::Read)
                            .is_ok();
                    }
                },
            }
        }
        // There is more, and room for it: the poller comes back to it after everybody else.
        let token = Watch::Connection(slot).token();
        self.connections
            .get(slot)
            .and_then(Option::as_ref)
            .is_none_or(|c| {
                self.poller
                    .change(c.socket.as_fd(), token, Interest::Write)
                    .is_ok()
            })
    }

    /// The next frame of a list, and where the list goes on; after [`Done`] nowhere.
    fn next_item<'o>(&mut self, list: &List, out: &'o mut [u8]) -> (&'o [u8], Option<Listed>) {
        let done = Done { count: list.sent };
        match &list.what {
            Listed::Services(i) if *i < self.units.len() => (
                self.encode_service(*i, list.id, out),
                Some(Listed::Services(i + 1)),
            ),
            Listed::Phases(i) => match self.phases.get(*i) {
                Some(p) => {
                    let phase = wire::control::Phase {
                        name: p.name.as_str(),
                        begin_ns: p.begin_ns,
                        end_ns: p.end_ns,
                        note: &p.note,
                    };
                    (
                        wire::encode(list.id, &phase, out).unwrap_or_default(),
                        Some(Listed::Phases(i + 1)),
                    )
                }
                None => (wire::encode(list.id, &done, out).unwrap_or_default(), None),
            },
            Listed::Params(i) => match self.params.all().get(*i) {
                Some(p) => {
                    let param = Param {
                        key: &p.key,
                        value: &p.value,
                        source: p.source.as_str(),
                    };
                    (
                        wire::encode(list.id, &param, out).unwrap_or_default(),
                        Some(Listed::Params(i + 1)),
                    )
                }
                None => (wire::encode(list.id, &done, out).unwrap_or_default(), None),
            },
            Listed::Log(from, end, by) => {
                let wanted = (*from..*end)
                    .filter_map(|seq| self.journal.state.line(seq))
                    .find(|line| by.is_none_or(|b| b == line.by));
                match wanted {
                    Some(l) => {
                        let line = LogLine {
                            seq: l.seq,
                            at_ns: l.at_ns,
                            name: self.name_of(l.by),
                            level: l.level,
                            text: l.text,
                        };
                        (
                            wire::encode(list.id, &line, out).unwrap_or_default(),
                            Some(Listed::Log(l.seq + 1, *end, *by)),
                        )
                    }
                    None => (wire::encode(list.id, &done, out).unwrap_or_default(), None),
                }
            }
            Listed::Pressure(place) => match self.pressure(*place) {
                Some(pressure) => (
                    wire::encode(list.id, &pressure, out).unwrap_or_default(),
                    Some(Listed::Pressure(place + 1)),
                ),
                None => (wire::encode(list.id, &done, out).unwrap_or_default(), None),
            },
            Listed::Reasons(before, subject) => {
                match crate::why::next(&self.journal.state, *before, subject.as_str()) {
                    Some(record) => (
                        wire::encode(list.id, &record.for_wire(), out).unwrap_or_default(),
                        Some(Listed::Reasons(Some(record.number), *subject)),
                    ),
                    None => (wire::encode(list.id, &done, out).unwrap_or_default(), None),
                }
            }
            Listed::Rows(from, end) => {
                let found = |seq: u64| Some((seq, self.work.journal_row(seq)?));
                match (*from..*end).find_map(found) {
                    Some((seq, row)) => {
                        let row = JournalRow { row: &row };
                        (
                            wire::encode(list.id, &row, out).unwrap_or_default(),
                            Some(Listed::Rows(seq + 1, *end)),
                        )
                    }
                    None => (wire::encode(list.id, &done, out).unwrap_or_default(), None),
                }
            }
            Listed::Interrupts(place) => match self.work.interrupt(*place) {
                Some(line) => (
                    wire::encode(list.id, &line, out).unwrap_or_default(),
                    Some(Listed::Interrupts(place + 1)),
                ),
                None => (wire::encode(list.id, &done, out).unwrap_or_default(), None),
            },
            Listed::Services(_) => (wire::encode(list.id, &done, out).unwrap_or_default(), None),
        }
    }

    fn name_of(&self, by: u8) -> &str {
        match by {
            BY_INIT => "init",
            BY_HELPER => "helper",
            index => self.units.get(usize::from(index)).map_or("?", |u| u.name()),
        }
    }

    fn encode_service<'o>(&self, i: usize, id: u64, out: &'o mut [u8]) -> &'o [u8] {
        let Some(unit) = self.units.get(i) else {
            return Default::default();
        };
        let now = sys::clock::monotonic_ns();
        let state = state_of(self.supervisor.phase(i));
        let service = Service {
            name: unit.name(),
            state,
            pid: unit.child.as_ref().map_or(0, |c| c.pid.unsigned_abs()),
            uid: if self.setup.is_appliance() {
                unit.uid
            } else {
                sys::packet::own_uid()
            },
            restarts: self.supervisor.restarts(i),
            uptime_ns: if unit.started_ns == 0 {
                0
            } else {
                now.saturating_sub(unit.started_ns)
            },
            ready_ns: unit.ready_ns,
            memory_bytes: unit
                .leaf
                .as_ref()
                .and_then(|l| l.memory_bytes())
                .unwrap_or(0),
            last_exit: unit.last_exit.as_str(),
            status: unit.status.as_str(),
            backoff_ns: self.supervisor.backoff_left_ns(i, now),
            confined: unit.service.is_confined(),
        };
        wire::encode(id, &service, out).unwrap_or_default()
    }

    fn send_status(&mut self, slot: usize, id: u64) -> bool {
        let reason = self.reasons();
        let keys = self.keys.join(" ");
        let watchdog = self.watchdog.label();
        let up = (0..self.units.len())
            .filter(|i| self.supervisor.phase(*i) == Phase::Up)
            .count();
        let until = if self.is_until_reboot() {
            " until reboot"
        } else {
            ""
        };
        let package = format!("{}{until}", self.package_name);
        let mut out = [0u8; PACKET_BYTES];
        let status = Status {
            state: self.machine_state(),
            reason: &reason,
            package: &package,
            model: &self.model.name,
            tensors: self.model.tensors,
            mapped_bytes: self.model.bytes,
            boot_id: self.journal.state.boot_id(),
            hostname: &self.hostname,
            uptime_ns: sys::clock::monotonic_ns().saturating_sub(self.handoff_ns),
            beats: self.beat.count,
            beats_missed: self.beat.missed,
            period_ms: u32::try_from(self.beat.period_ns / 1_000_000).unwrap_or(u32::MAX),
            services_up: u16::try_from(up).unwrap_or(u16::MAX),
            services: u16::try_from(self.units.len()).unwrap_or(u16::MAX),
            watchdog: &watchdog,
            version: env!("CARGO_PKG_VERSION"),
            pid: std::process::id(),
            unconfined: &self.unconfined,
            signer: self.found.as_ref().map_or("", |f| f.signer()),
            trusted_keys: &keys,
            init_digest: crate::boot::short(&self.running.digest),
            init_from: &self.running.from,
        };
        let Some(connection) = self.connections.get(slot).and_then(Option::as_ref) else {
            return false;
        };
        wire::encode(id, &status, &mut out)
            .is_ok_and(|packet| connection.socket.send(packet, None).is_ok())
    }

    fn send_descriptor(&mut self, slot: usize, id: u64, name: &str) -> bool {
        // None of these waits: a device of the kernel's, the name of a mounted folder, a figure of the kernel's.
        let leaf = |service: &str| {
            let unit = self.units.iter().find(|u| u.name() == service)?;
            unit.leaf.as_ref()
        };
        let figure = match name.rsplit_once('.') {
            Some(("memory.high", service)) => leaf(service).and_then(|l| l.memory_high().ok()),
            Some(("memory.stat", service)) => leaf(service).and_then(|l| l.memory_stat().ok()),
            _ => None,
        };
        let opened = match name {
            "kmsg" => sys::kernel_log::open(Path::new("/dev/kmsg"))
                .map(OwnedFd::from)
                .ok(),
            "data" => sys::kernel_log::place(&self.setup.data_folder()).ok(),
            _ => figure.map(OwnedFd::from),
        };
        let found = match name {
            _ if opened.is_some() => opened.as_ref().map(AsFd::as_fd),
            "kmsg" | "data" => None,
            "rts" => self.rts.as_ref().map(AsFd::as_fd),
            "sensors" => self.sensors.as_ref().map(AsFd::as_fd),
            "token" => self.token.as_ref().map(AsFd::as_fd),
            other => other.strip_prefix("stats.").and_then(|service| {
                let unit = self.units.iter().find(|u| u.name() == service)?;
                unit.passed
                    .iter()
                    .find(|(n, _)| n == "stats")
                    .map(|(_, fd)| fd.as_fd())
            }),
        };
        // Another handle, since the answer below borrows all of us.
        match found.and_then(|fd| fd.try_clone_to_owned().ok()) {
            Some(fd) => self.reply_with(slot, id, &Descriptor { name }, Some(fd.as_fd())),
            None => self.reply(
                slot,
                id,
                &Refused {
                    code: "NOT_FOUND",
                    field: "name",
                    value: name,
                    limit: "rts, sensors, token, kmsg, data, stats.NAME, memory.high.NAME or memory.stat.NAME, where there is one",
                },
            ),
        }
    }

    fn no_such_service(&mut self, slot: usize, id: u64, name: &str) -> bool {
        self.reply(
            slot,
            id,
            &Refused {
                code: "NOT_FOUND",
                field: "name",
                value: name,
                limit: "a service of the manifest",
            },
        )
    }

    fn control_service(&mut self, slot: usize, id: u64, role: Role, control: Control<'_>) -> bool {
        let index = self.units.iter().position(|u| u.name() == control.name);
        let (verb, signal) = match control.verb {
            Verb::Start => ("start", 0),
            Verb::Stop => ("stop", 0),
            Verb::Restart => ("restart", 0),
            Verb::Signal(n) => ("signal", i32::from(n)),
        };
        if index.is_none() && !(control.name == "init" && signal > 0) {
            return self.no_such_service(slot, id, control.name);
        }
        if !(0..=64).contains(&signal) {
            let value = Fixed::<8>::of(format_args!("{signal}"));
            return self.reply(
                slot,
                id,
                &Refused {
                    code: "BAD_REQUEST",
                    field: "signal",
                    value: value.as_str(),
                    limit: "1 to 64",
                },
            );
        }
        const SIGSTOP: i32 = 19;
        // The kernel would stop an ordinary process.
        let (stops, on_trial) = (index.is_none() && signal == SIGSTOP, self.is_on_trial());
        let hangs = stops && (self.setup.is_appliance() || on_trial);
        if hangs && !self.watchdog.is_armed() && !on_trial {
            return self.reply(
                slot,
                id,
                &Refused {
                    code: "CONFLICT",
                    field: "signal",
                    value: "STOP",
                    limit: "with a watchdog, which alone ends a PID 1 that hangs",
                },
            );
        }
        // Recorded before it acts.
        self.journal.event(
            Weight::Important,
            ["command", control.name, actor_of(role)],
            format_args!(
                "\"verb\":\"{verb}\",\"service\":\"{}\",\"signal\":{signal}",
                Json(control.name)
            ),
        );
        let event = match (control.verb, index) {
            (Verb::Start, Some(i)) => Event::Start(i),
            (Verb::Stop, Some(i)) => Event::Stop(i),
            (Verb::Restart, Some(i)) => Event::Restart(i),
            // The kernel stops no PID 1, so the drill is ours.
            (Verb::Signal(_), _) if hangs => {
                self.hang_once_recorded();
                return self.reply(slot, id, &Done { count: 0 });
            }
            (Verb::Signal(_), None) => {
                // Answered first: the image that answers may not be there afterwards.
                let goes_on = self.reply(slot, id, &Done { count: 0 });
                // A signal to ourselves cannot be refused.
                let _ = sys::process::signal_self(signal);
                return goes_on;
            }
            (Verb::Signal(_), unit) => {
                let unit = unit.and_then(|i| self.units.get(i));
                let done = unit.map_or(Err(io::ErrorKind::NotFound.into()), |u| u.signal(signal));
                return match done {
                    Ok(()) => self.reply(slot, id, &Done { count: 0 }),
                    Err(_) => self.reply(
                        slot,
                        id,
                        &Refused {
                            code: "CONFLICT",
                            field: "name",
                            value: control.name,
                            limit: "a service that runs",
                        },
                    ),
                };
            }
            (_, None) => return self.no_such_service(slot, id, control.name),
        };
        self.decide(event);
        self.reply(slot, id, &Done { count: 0 })
    }
}

/// Whether a packet is the one that may bring a descriptor: an upgrade with one, of a peer that may ask it.
fn may_carry(connection: &Connection, received: &Received, packet: &[u8]) -> bool {
    let kind = packet.get(..received.bytes).map(Frame::open);
    connection.greeted
        && received.descriptors.len() == 1
        && !received.cut
        && kind.is_some_and(|f| {
            f.is_ok_and(|f| {
                matches!(f.kind, Kind::Upgrade | Kind::Generation)
                    && f.kind.allowed(connection.served.role)
            })
        })
}

/// The policy's phase in the words of the wire.
pub(crate) fn state_of(phase: Phase) -> ServiceState {
    match phase {
        Phase::Waiting => ServiceState::Waiting,
        Phase::Starting => ServiceState::Starting,
        Phase::Up => ServiceState::Up,
        Phase::Stopping => ServiceState::Stopping,
        Phase::Stopped => ServiceState::Stopped,
        Phase::Backoff => ServiceState::Backoff,
        Phase::Failed => ServiceState::Failed,
    }
}

/// Who the ledger is told.
pub(crate) fn actor_of(role: Role) -> &'static str {
    match role {
        Role::Console => "user:console",
        _ => "user:operator",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_refusal_of_a_long_frame_names_the_limit() {
        assert!(TOO_LONG.limit.contains(&PACKET_BYTES.to_string()));
    }
}
