//! The frame: a fixed header and a postcard body, one frame a packet.

use crate::Role;
use serde::{Deserialize, Serialize};

/// Version that this build speaks first; see [`Hello`].
pub const VERSION: u16 = 1;
/// `version u16, kind u16, id u64`, little-endian.
pub const HEADER_BYTES: usize = 12;
/// A packet with its header. SOCK_SEQPACKET keeps boundaries; 64 KiB is what `design/wire.md` fixes.
pub const PACKET_BYTES_MAX: usize = 64 * 1024;

/// Why a packet is not a frame, or a body not what its kind says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WireError {
    /// Fewer bytes than a header, or more than a packet.
    Length(usize),
    /// A version that this build does not speak.
    Version(u16),
    /// A kind that no table knows.
    Kind(u16),
    /// The body belongs to another kind.
    Unexpected(Kind),
    /// The body does not decode, or bytes follow it.
    Body(Kind),
    /// The frame does not fit the buffer.
    TooLarge(Kind),
}

impl core::fmt::Display for WireError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::Length(n) => write!(
                f,
                "packet length {n}: {HEADER_BYTES} to {PACKET_BYTES_MAX} bytes"
            ),
            Self::Version(v) => write!(f, "frame version {v}: this build speaks {VERSION}"),
            Self::Kind(k) => write!(f, "frame kind {k:#06x}: unknown"),
            Self::Unexpected(k) => write!(f, "frame kind {k:?}: not expected here"),
            Self::Body(k) => write!(f, "frame body of {k:?}: does not decode"),
            Self::TooLarge(k) => write!(f, "frame body of {k:?}: over {PACKET_BYTES_MAX} bytes"),
        }
    }
}

impl core::error::Error for WireError {}

/// A body that travels in frames of one kind.
pub trait Message: Serialize {
    /// The kind in the header.
    const KIND: Kind;
}

/// Writes one frame into `buf` and returns the bytes to send.
///
/// # Errors
/// [`WireError::TooLarge`] if the body does not fit `buf`.
pub fn encode<'b, M: Message>(id: u64, body: &M, buf: &'b mut [u8]) -> Result<&'b [u8], WireError> {
    let too_large = WireError::TooLarge(M::KIND);
    let (head, rest) = buf.split_at_mut_checked(HEADER_BYTES).ok_or(too_large)?;
    let (version, tail) = head.split_at_mut(2);
    let (kind, number) = tail.split_at_mut(2);
    version.copy_from_slice(&VERSION.to_le_bytes());
    kind.copy_from_slice(&(M::KIND as u16).to_le_bytes());
    number.copy_from_slice(&id.to_le_bytes());
    let body = postcard::to_slice(body, rest).map_err(|_| too_large)?.len();
    buf.get(..HEADER_BYTES + body)
        .filter(|b| b.len() <= PACKET_BYTES_MAX)
        .ok_or(too_large)
}

/// A received packet whose header holds.
#[derive(Debug, Clone, Copy)]
pub struct Frame<'p> {
    /// What the body is.
    pub kind: Kind,
    /// Chosen by the asker, echoed by the answer.
    pub id: u64,
    body: &'p [u8],
}

impl<'p> Frame<'p> {
    /// Reads the header of a packet.
    ///
    /// # Errors
    /// [`WireError`] for a wrong length, version or kind.
    pub fn open(packet: &'p [u8]) -> Result<Self, WireError> {
        let wrong = WireError::Length(packet.len());
        if packet.len() > PACKET_BYTES_MAX {
            return Err(wrong);
        }
        let (version, rest) = packet.split_first_chunk::<2>().ok_or(wrong)?;
        let (kind, rest) = rest.split_first_chunk::<2>().ok_or(wrong)?;
        let (id, body) = rest.split_first_chunk::<8>().ok_or(wrong)?;
        match u16::from_le_bytes(*version) {
            VERSION => {}
            other => return Err(WireError::Version(other)),
        }
        let kind = u16::from_le_bytes(*kind);
        let kind = Kind::of(kind).ok_or(WireError::Kind(kind))?;
        Ok(Self {
            kind,
            id: u64::from_le_bytes(*id),
            body,
        })
    }

    /// Decodes the body as the message `M`.
    ///
    /// # Errors
    /// [`WireError::Unexpected`] if the frame is of another kind, [`WireError::Body`] if the bytes
    /// do not decode or more follow.
    pub fn body<M: Message + Deserialize<'p>>(&self) -> Result<M, WireError> {
        if self.kind != M::KIND {
            return Err(WireError::Unexpected(self.kind));
        }
        match postcard::take_from_bytes::<M>(self.body) {
            Ok((message, [])) => Ok(message),
            _ => Err(WireError::Body(self.kind)),
        }
    }
}

/// Declares the kinds once: number, name, who may send it.
macro_rules! kinds {
    ($($(#[$doc:meta])* $name:ident = $number:literal by $who:expr;)*) => {
        /// What a frame carries. Numbers are grouped by the server they go to and never reused.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        #[repr(u16)]
        pub enum Kind { $($(#[$doc])* $name = $number,)* }

        impl Kind {
            /// Every kind, in the order of their numbers.
            pub const ALL: &'static [Kind] = &[$(Kind::$name,)*];

            /// The kind with this number.
            #[must_use]
            pub fn of(number: u16) -> Option<Self> {
                match number { $($number => Some(Self::$name),)* _ => None }
            }

            /// Whether a peer of this role may send this kind. A refusal is logged once a peer.
            #[must_use]
            pub fn allowed(self, role: Role) -> bool {
                let who: fn(Role) -> bool = match self { $(Self::$name => $who,)* };
                role == Role::Operator || who(role)
            }
        }
    };
}

/// Everybody with a uid that we gave out.
fn known(role: Role) -> bool {
    !matches!(role, Role::Stranger(_))
}
/// Nobody but the operator, and the far end of a socketpair that PID 1 made.
fn operator(_: Role) -> bool {
    false
}
fn console(role: Role) -> bool {
    role == Role::Console
}
fn gateway(role: Role) -> bool {
    role == Role::Gateway
}
fn capacity(role: Role) -> bool {
    role == Role::Capacity
}
fn ledger(role: Role) -> bool {
    role == Role::Ledger
}
fn cortex(role: Role) -> bool {
    role == Role::Cortex
}
fn cortex_or_console(role: Role) -> bool {
    matches!(role, Role::Cortex | Role::Console)
}
/// Programs that may change the machine's tensors: users' services that were given the socket.
fn proposer(role: Role) -> bool {
    matches!(role, Role::User(_))
}
fn net(role: Role) -> bool {
    role == Role::Net
}
fn console_or_gateway(role: Role) -> bool {
    matches!(role, Role::Console | Role::Gateway)
}
fn console_or_cortex(role: Role) -> bool {
    matches!(role, Role::Console | Role::Cortex)
}

kinds! {
    /// [`Hello`]: the first frame each way.
    Hello = 0x0001 by known;
    /// [`Refused`]: the answer to what cannot be done.
    Refused = 0x0002 by known;
    /// [`Done`]: the end of an answer.
    Done = 0x0003 by known;

    /// [`crate::control::StatusGet`].
    StatusGet = 0x0101 by known;
    /// [`crate::control::Status`].
    Status = 0x0102 by operator;
    /// [`crate::control::ServicesGet`].
    ServicesGet = 0x0103 by console_or_gateway;
    /// [`crate::control::Service`].
    Service = 0x0104 by operator;
    /// [`crate::control::Control`].
    Control = 0x0105 by console;
    /// [`crate::control::LogGet`].
    LogGet = 0x0107 by console;
    /// [`crate::control::LogLine`].
    LogLine = 0x0108 by operator;
    /// [`crate::control::BeatGet`].
    BeatGet = 0x0109 by console;
    /// [`crate::control::Beat`].
    Beat = 0x010a by operator;
    /// [`crate::control::BootGet`].
    BootGet = 0x010b by console;
    /// [`crate::control::Phase`].
    Phase = 0x010c by operator;
    /// [`crate::control::ParamsGet`].
    ParamsGet = 0x010d by console;
    /// [`crate::control::Param`].
    Param = 0x010e by operator;
    /// [`crate::control::Power`].
    Power = 0x010f by console;
    /// [`crate::control::DescriptorGet`].
    DescriptorGet = 0x0111 by console;
    /// [`crate::control::Descriptor`].
    Descriptor = 0x0112 by operator;
    /// [`crate::control::ClockSet`].
    ClockSet = 0x0113 by net;
    /// [`crate::why::WhyGet`].
    WhyGet = 0x0121 by console;
    /// [`crate::why::Why`].
    Why = 0x0122 by operator;
    /// [`crate::why::WatchdogGet`].
    WatchdogGet = 0x0123 by console;
    /// [`crate::why::Watchdog`].
    Watchdog = 0x0124 by operator;
    /// [`crate::why::PressureGet`].
    PressureGet = 0x0125 by console;
    /// [`crate::why::Pressure`].
    Pressure = 0x0126 by operator;
    /// [`crate::upgrade::Upgrade`].
    Upgrade = 0x0131 by console;
    /// [`crate::upgrade::Rollback`].
    Rollback = 0x0132 by console;
    /// [`crate::upgrade::UpgradeGet`].
    UpgradeGet = 0x0133 by console_or_gateway;
    /// [`crate::upgrade::UpgradeStatus`].
    UpgradeStatus = 0x0134 by operator;
    /// [`crate::neural::JournalGet`].
    JournalGet = 0x0141 by console_or_cortex;
    /// [`crate::neural::JournalRow`].
    JournalRow = 0x0142 by operator;
    /// [`crate::neural::InterruptsGet`].
    InterruptsGet = 0x0143 by console;
    /// [`crate::neural::Interrupt`].
    Interrupt = 0x0144 by operator;

    /// [`crate::evolution::Generation`], to PID 1.
    Generation = 0x0151 by cortex;
    /// [`crate::evolution::GenerationGet`], to PID 1.
    GenerationGet = 0x0152 by cortex_or_console;
    /// [`crate::evolution::GenerationStatus`].
    GenerationStatus = 0x0153 by operator;

    /// [`crate::helper::Task`], PID 1 to its helper over a socketpair.
    HelperTask = 0x0201 by operator;
    /// [`crate::helper::Outcome`], the helper's answer.
    HelperOutcome = 0x0202 by operator;

    /// [`crate::ledger::Append`].
    LedgerAppend = 0x0301 by known;
    /// [`crate::ledger::Appended`].
    LedgerAppended = 0x0302 by ledger;
    /// [`crate::ledger::HeadGet`].
    LedgerHeadGet = 0x0303 by known;
    /// [`crate::ledger::Head`].
    LedgerHead = 0x0304 by ledger;
    /// [`crate::ledger::LastTimeGet`].
    LedgerLastTimeGet = 0x0305 by operator;
    /// [`crate::ledger::LastTime`].
    LedgerLastTime = 0x0306 by ledger;
    /// [`crate::ledger::LastBootGet`].
    LedgerLastBootGet = 0x0307 by operator;
    /// [`crate::ledger::LastBoot`].
    LedgerLastBoot = 0x0308 by ledger;
    /// [`crate::ledger::AppendMany`].
    LedgerAppendMany = 0x0309 by known;
    /// [`crate::ledger::AppendedMany`].
    LedgerAppendedMany = 0x030a by ledger;
    /// [`crate::work::Publish`].
    BusPublish = 0x0311 by known;
    /// [`crate::work::Published`].
    BusPublished = 0x0312 by ledger;
    /// [`crate::work::JobEnqueue`].
    JobEnqueue = 0x0321 by known;
    /// [`crate::work::JobEnqueued`].
    JobEnqueued = 0x0322 by ledger;
    /// [`crate::work::JobClaim`].
    JobClaim = 0x0323 by known;
    /// [`crate::work::JobClaimed`].
    JobClaimed = 0x0324 by ledger;
    /// [`crate::work::JobRelease`].
    JobRelease = 0x0325 by known;
    /// [`crate::work::JobResult`].
    JobResult = 0x0327 by known;

    /// [`crate::capacity::Request`].
    CapacityRequest = 0x0401 by known;
    /// [`crate::capacity::Grant`].
    CapacityGrant = 0x0402 by capacity;
    /// [`crate::capacity::Check`].
    CapacityCheck = 0x0403 by known;
    /// [`crate::capacity::Checked`].
    CapacityChecked = 0x0404 by capacity;
    /// [`crate::capacity::Release`].
    CapacityRelease = 0x0405 by known;
    /// [`crate::capacity::Revoke`].
    CapacityRevoke = 0x0406 by console_or_gateway;
    /// [`crate::capacity::StateGet`].
    CapacityStateGet = 0x0407 by console_or_gateway;
    /// [`crate::capacity::State`].
    CapacityState = 0x0408 by capacity;
    /// [`crate::capacity::LeasesGet`].
    CapacityLeasesGet = 0x0409 by console_or_gateway;
    /// [`crate::capacity::Lease`].
    CapacityLease = 0x040a by capacity;
    /// [`crate::capacity::Identify`].
    CapacityIdentify = 0x040b by gateway;
    /// [`crate::capacity::Identity`].
    CapacityIdentity = 0x040c by capacity;
    /// [`crate::capacity::GatesGet`].
    CapacityGatesGet = 0x040d by console_or_gateway;
    /// [`crate::capacity::Gate`].
    CapacityGate = 0x040e by capacity;
    /// [`crate::capacity::CgroupPlan`], to PID 1.
    CgroupPlan = 0x0501 by capacity;
    /// [`crate::capacity::CgroupReadback`], PID 1's answer.
    CgroupReadback = 0x0502 by operator;

    /// [`crate::evolution::EvolutionOpen`].
    EvolutionOpen = 0x0601 by proposer;
    /// [`crate::evolution::EvolutionChannel`].
    EvolutionChannel = 0x0602 by cortex;
    /// [`crate::evolution::EvolutionGet`].
    EvolutionGet = 0x0603 by known;
    /// [`crate::evolution::EvolutionStatus`].
    EvolutionStatus = 0x0604 by cortex;
    /// [`crate::evolution::MutationsGet`].
    MutationsGet = 0x0605 by console;
    /// [`crate::evolution::Mutation`].
    Mutation = 0x0606 by cortex;
    /// [`crate::evolution::MutationsRollback`].
    MutationsRollback = 0x0607 by console;
}

/// First frame each way: the versions a peer speaks. The server answers with its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// Oldest version spoken.
    pub min: u16,
    /// Newest version spoken.
    pub max: u16,
}

impl Hello {
    /// What this build speaks.
    pub const OURS: Self = Self {
        min: VERSION,
        max: VERSION,
    };

    /// The newest version that both speak.
    #[must_use]
    pub fn common(self, other: Self) -> Option<u16> {
        let newest = self.max.min(other.max);
        (newest >= self.min.max(other.min)).then_some(newest)
    }
}

impl Message for Hello {
    const KIND: Kind = Kind::Hello;
}

/// What was refused: the code is stable, the rest is for people.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refused<'a> {
    /// Stable code in capitals, `BAD_REQUEST`, `NOT_FOUND`, `POLICY_DENY`...
    pub code: &'a str,
    /// The field that was wrong.
    pub field: &'a str,
    /// What it held.
    pub value: &'a str,
    /// What it may hold.
    pub limit: &'a str,
}

impl Message for Refused<'_> {
    const KIND: Kind = Kind::Refused;
}

/// What a service says unasked, under id 0, to a gateway before it stops in order: calls wait for its successor.
pub const STOPPING: Refused<'static> = Refused {
    code: "STOPPING",
    field: "service",
    value: "",
    limit: "its successor at the same socket",
};

/// The end of an answer, with how many frames came before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Done {
    /// Frames of this answer before this one.
    pub count: u32,
}

impl Message for Done {
    const KIND: Kind = Kind::Done;
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_header_is_twelve_little_endian_bytes() {
        let mut buf = [0u8; 64];
        let packet = encode(0x0102_0304_0506_0708, &Hello { min: 1, max: 1 }, &mut buf).unwrap();
        assert_eq!(packet, [1, 0, 1, 0, 8, 7, 6, 5, 4, 3, 2, 1, 1, 1]);
        let frame = Frame::open(packet).unwrap();
        assert_eq!(frame.body::<Hello>().unwrap(), Hello::OURS);
        assert_eq!(
            frame.body::<Done>(),
            Err(WireError::Unexpected(Kind::Hello))
        );
    }

    #[test]
    fn every_truncation_and_every_trailing_byte_is_refused() {
        let mut buf = [0u8; 256];
        let body = Refused {
            code: "BAD_REQUEST",
            field: "name",
            value: "x",
            limit: "32 bytes",
        };
        let packet = encode(7, &body, &mut buf).unwrap().to_vec();
        for cut in 0..packet.len() {
            let short =
                Frame::open(&packet[..cut]).and_then(|f| f.body::<Refused<'_>>().map(|_| ()));
            assert!(short.is_err(), "{cut} bytes were taken");
        }
        let mut long = packet.clone();
        long.push(0);
        assert_eq!(
            Frame::open(&long).unwrap().body::<Refused<'_>>(),
            Err(WireError::Body(Kind::Refused))
        );
    }

    #[test]
    fn unknown_versions_and_kinds_are_named() {
        let mut packet = [0u8; HEADER_BYTES];
        assert_eq!(Frame::open(&packet).unwrap_err(), WireError::Version(0));
        packet[0] = 1;
        packet[3] = 0xff;
        assert_eq!(Frame::open(&packet).unwrap_err(), WireError::Kind(0xff00));
    }

    #[test]
    fn strangers_may_send_nothing_and_the_operator_everything() {
        for kind in Kind::ALL {
            assert!(!kind.allowed(Role::Stranger(1000)), "{kind:?}");
            assert!(kind.allowed(Role::Operator), "{kind:?}");
            assert_eq!(Kind::of(*kind as u16), Some(*kind));
        }
        assert!(Kind::CgroupPlan.allowed(Role::Capacity));
        assert!(!Kind::CgroupPlan.allowed(Role::Gateway));
        assert!(!Kind::Power.allowed(Role::Gateway));
    }

    proptest! {
        #[test]
        fn no_packet_panics(packet in proptest::collection::vec(any::<u8>(), 0..512)) {
            if let Ok(frame) = Frame::open(&packet) {
                let _ = frame.body::<Hello>();
                let _ = frame.body::<Refused<'_>>();
                let _ = frame.body::<crate::control::Status<'_>>();
                let _ = frame.body::<crate::ledger::Append<'_>>();
                let _ = frame.body::<crate::capacity::Request<'_>>();
                let _ = frame.body::<crate::helper::Task<'_>>();
            }
        }
    }
}
