//! PID 1's way to the ledger: the outbox, emptied over `ledger.wire` without ever waiting.
//!
//! Every event carries its origin (boot, producer, sequence), so that one sent twice over a crash of
//! either side is taken once.

use crate::last_boot::Recorded;
use crate::state::State;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use sys::packet::{Mode, PacketSocket};
use sys::release::Releaser;
use wire::ledger::{Append, Appended, LastBoot, LastBootGet, LastTime, LastTimeGet, Origin};
use wire::{Frame, Hello, Kind};

/// Events under way at once: a group commit each is what the ledger makes of them.
const WINDOW: usize = 32;
/// Pause before a ledger that refuses events for now is asked again.
const REST_NS: u64 = 2_000_000_000;
/// Refusals in a row that are no passing matter: a ledger that restarts refuses once.
const REFUSALS_SETTLED: u32 = 2;
/// Under which the time of the last event is asked for; no event's sequence comes so far.
const LAST_TIME_ID: u64 = u64::MAX;
/// As above, for how the boot before ended.
const LAST_BOOT_ID: u64 = u64::MAX - 1;
/// An outbox event with its frame always fits.
const PACKET_BYTES: usize = 2048;

enum Progress {
    Disconnected,
    Greeting(PacketSocket),
    Ready(PacketSocket),
}

/// The connection and what is under way on it.
pub struct LedgerLink {
    path: PathBuf,
    progress: Progress,
    sent_up_to: u64,
    under_way: usize,
    /// Whether this boot's question for the time of the last event was answered, or refused.
    knows_last_time: bool,
    last_wall_ns: Option<u64>,
    /// How the boot before ended, once the ledger has said what it knows.
    last_boot: Option<Recorded>,
    knows_last_boot: bool,
    /// Events that the ledger refused for good, since boot.
    pub refused: u64,
    /// Why it takes no events for now, and how often in a row it said so.
    refusing: Option<(String, u32)>,
    rest_until_ns: u64,
}

impl LedgerLink {
    /// Not connected yet.
    #[must_use]
    pub fn new(path: PathBuf) -> Self {
        Self {
            path,
            progress: Progress::Disconnected,
            sent_up_to: 0,
            under_way: 0,
            knows_last_time: false,
            last_wall_ns: None,
            last_boot: None,
            knows_last_boot: false,
            refused: 0,
            refusing: None,
            rest_until_ns: 0,
        }
    }

    /// Tries to connect, if there is something to send; answers true with a new socket to watch.
    pub fn connect(&mut self, state: &State) -> bool {
        let idle = state.next_event(0).is_none();
        if !matches!(self.progress, Progress::Disconnected)
            || idle
            || sys::clock::monotonic_ns() < self.rest_until_ns
        {
            return false;
        }
        let Ok(socket) = PacketSocket::connect(&self.path, Mode::NonBlocking) else {
            return false;
        };
        let mut buf = [0u8; 64];
        let greeted =
            wire::encode(0, &Hello::OURS, &mut buf).is_ok_and(|p| socket.send(p, None).is_ok());
        if greeted {
            self.progress = Progress::Greeting(socket);
        }
        greeted
    }

    /// The socket, to be watched.
    #[must_use]
    pub fn socket(&self) -> Option<BorrowedFd<'_>> {
        match &self.progress {
            Progress::Disconnected => None,
            Progress::Greeting(socket) | Progress::Ready(socket) => Some(socket.as_fd()),
        }
    }

    /// Gives up this connection; what was under way is sent again over the next.
    pub fn drop_connection(&mut self, releaser: &mut Releaser) {
        let old = std::mem::replace(&mut self.progress, Progress::Disconnected);
        if let Progress::Greeting(socket) | Progress::Ready(socket) = old {
            // What the ledger sent and nobody read is closed with it.
            socket.shutdown();
            releaser.take([OwnedFd::from(socket)]);
        }
        self.sent_up_to = 0;
        self.under_way = 0;
    }

    /// Why the ledger takes no events, once that has lasted.
    #[must_use]
    pub fn refusing(&self) -> Option<&str> {
        let (why, times) = self.refusing.as_ref()?;
        (*times >= REFUSALS_SETTLED).then_some(why)
    }

    /// Reads what came; `false` when the connection ended.
    pub fn read(&mut self, state: &mut State, releaser: &mut Releaser) -> bool {
        let mut buf = [0u8; PACKET_BYTES];
        // Bounded: no more answers than there are events under way, one hello, one time and one boot.
        for _ in 0..=WINDOW + 2 {
            let socket = match &self.progress {
                Progress::Disconnected => return false,
                Progress::Greeting(socket) | Progress::Ready(socket) => socket,
            };
            let bytes = match socket.take(&mut buf) {
                Ok(received) if !received.descriptors.is_empty() => {
                    // The ledger has none to give.
                    releaser.take(received.descriptors);
                    return false;
                }
                Ok(received) if received.bytes == 0 || received.cut => return false,
                Ok(received) => received.bytes,
                Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => break,
                Err(_) => return false,
            };
            let Ok(frame) = Frame::open(buf.get(..bytes).unwrap_or_default()) else {
                return false;
            };
            match frame.kind {
                Kind::Hello => {
                    if let Progress::Greeting(socket) =
                        std::mem::replace(&mut self.progress, Progress::Disconnected)
                    {
                        let asked = (self.knows_last_time || ask_last_time(&socket))
                            && (self.knows_last_boot || ask_last_boot(&socket, state.boot_id()));
                        if !asked {
                            return false;
                        }
                        self.progress = Progress::Ready(socket);
                    }
                }
                Kind::LedgerAppended if frame.body::<Appended>().is_ok() => {
                    self.over(frame.id, state)
                }
                Kind::LedgerLastTime if frame.id == LAST_TIME_ID => {
                    self.last_wall_ns = frame.body::<LastTime>().ok().map(|t| t.wall_ns);
                    self.knows_last_time = true;
                }
                Kind::LedgerLastBoot if frame.id == LAST_BOOT_ID => {
                    self.last_boot = frame.body::<LastBoot<'_>>().ok().map(Recorded::from);
                    self.knows_last_boot = true;
                }
                // An older ledger does not know.
                Kind::Refused if frame.id == LAST_BOOT_ID => self.knows_last_boot = true,
                // An older ledger: then the build's time alone is the floor.
                Kind::Refused if frame.id == LAST_TIME_ID => self.knows_last_time = true,
                Kind::Refused => {
                    // Refused while it is read-only or full means later; refused for what it is means never.
                    let Ok(r) = frame.body::<wire::Refused<'_>>() else {
                        return false;
                    };
                    let for_good =
                        matches!(r.code, "BAD_REQUEST" | "BAD_NS" | "BAD_ACTOR" | "TOO_LARGE");
                    if !for_good {
                        let times = self.refusing.take().map_or(1, |(_, n)| n.saturating_add(1));
                        let why = crate::state::Fixed::<200>::of(format_args!(
                            "ledger: takes no events: {} {} {}",
                            r.code, r.value, r.limit
                        ));
                        self.refusing = Some((why.as_str().trim_end().to_owned(), times));
                        self.rest_until_ns = sys::clock::monotonic_ns() + REST_NS;
                        return false;
                    }
                    self.refused += 1;
                    self.over(frame.id, state);
                }
                _ => return false,
            }
        }
        true
    }

    /// When the last event of the last boot was written, once, after the ledger has said it.
    pub fn take_last_wall(&mut self) -> Option<u64> {
        self.last_wall_ns.take()
    }

    /// How the boot before ended, once, after the ledger has said it.
    pub fn take_last_boot(&mut self) -> Option<Recorded> {
        self.last_boot.take()
    }

    fn over(&mut self, sequence: u64, state: &mut State) {
        self.refusing = None;
        state.remove_event(sequence);
        self.under_way = self.under_way.saturating_sub(1);
    }

    /// Sends what fits the window; `false` when the connection ended.
    pub fn write(&mut self, state: &State) -> bool {
        let Progress::Ready(socket) = &self.progress else {
            return true;
        };
        let mut buf = [0u8; PACKET_BYTES];
        while self.under_way < WINDOW {
            let Some(event) = state.next_event(self.sent_up_to) else {
                return true;
            };
            let append = Append {
                origin: Some(Origin {
                    boot_id: state.boot_id(),
                    producer: 0,
                    sequence: event.sequence,
                }),
                ns: "system",
                actor: if event.actor.is_empty() {
                    "service:init"
                } else {
                    event.actor
                },
                tenant_id: "system",
                event_type: event.event_type,
                subject: event.subject,
                payload: event.payload,
                causation_id: None,
                timestamp_ns: Some(event.at_ns),
            };
            let Ok(packet) = wire::encode(event.sequence, &append, &mut buf) else {
                return false;
            };
            match socket.send(packet, None) {
                Ok(()) => {
                    self.sent_up_to = event.sequence;
                    self.under_way += 1;
                }
                Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => return true,
                Err(_) => return false,
            }
        }
        true
    }
}

/// Asks before the first event goes, so that the answer is of the last boot.
fn ask_last_time(socket: &PacketSocket) -> bool {
    let mut buf = [0u8; 64];
    wire::encode(LAST_TIME_ID, &LastTimeGet, &mut buf).is_ok_and(|p| socket.send(p, None).is_ok())
}

fn ask_last_boot(socket: &PacketSocket, boot_id: [u8; 16]) -> bool {
    let mut buf = [0u8; 64];
    let get = LastBootGet { boot_id };
    wire::encode(LAST_BOOT_ID, &get, &mut buf).is_ok_and(|p| socket.send(p, None).is_ok())
}
