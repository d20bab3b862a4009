//! rtnetlink: what the kernel says of links, and what it is told of links, addresses and routes.
//!
//! Our own few messages instead of a crate: the kernel's side is trusted and fixed for ever, we need
//! six requests and three notifications, and the crates bring a tree that is larger than the role.
//! Reading is bounds-checked all the same. Start with [`Netlink`].

use nix::sys::socket::{
    AddressFamily, SockFlag, SockProtocol, SockType, setsockopt, socket, sockopt,
};
use std::io;
use std::net::Ipv4Addr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

/// Bytes of one datagram from the kernel: what `NLMSG_GOODSIZE` allows, which dumps fill.
const DATAGRAM_BYTES_MAX: usize = 32 * 1024;
/// Datagrams read for the answer to one request; notifications may stand in front of it.
const ANSWER_DATAGRAMS_MAX: usize = 4096;
/// Longest wait for an answer. The kernel gives it in the sending call itself.
const ANSWER_SECONDS: i64 = 5;

const HEADER_BYTES: usize = 16;
const RTMGRP_LINK: u32 = 1;
const RTMGRP_IPV4_IFADDR: u32 = 0x10;
const IFA_CACHEINFO: u16 = 6;
const IFLA_IFNAME: u16 = 3;
const IFLA_ADDRESS: u16 = 1;
const IFLA_MTU: u16 = 4;
const IFLA_MAX_MTU: u16 = 51;
const ARPHRD_ETHER: u16 = 1;
/// Who put a route there, as `ip route` shows it: 16 is `dhcp`, 4 `static`.
const RTPROT_DHCP: u8 = 16;
const RTNH_F_ONLINK: u32 = 4;

/// One interface as the kernel describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// Number that names it for its life.
    pub index: u32,
    /// `eth0`.
    pub name: String,
    /// Hardware address, if it has one of six bytes.
    pub mac: Option<[u8; 6]>,
    /// Whether it carries Ethernet frames and is not the loopback.
    pub is_ethernet: bool,
    /// Whether it is set up.
    pub is_up: bool,
    /// Whether it is up and the wire answers (IFF_LOWER_UP).
    pub has_carrier: bool,
    /// Bytes of a packet.
    pub mtu: u32,
    /// Largest that the device takes; 0 if it does not say.
    pub mtu_max: u32,
}

/// What the kernel announces.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Note {
    /// A link that is there, new or changed.
    Link(Link),
    /// A link that went.
    LinkGone(u32),
    /// An address that went from this link, by whomever.
    AddressGone(u32, Ipv4Addr),
    /// Notifications were lost: ask for everything again.
    Overrun,
}

/// An address of a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Address {
    /// The link.
    pub link: u32,
    /// Ours.
    pub address: Ipv4Addr,
    /// Bits of the network, 0 to 32.
    pub prefix: u8,
    /// Seconds after which the kernel itself takes it away; `None`: never.
    pub valid_s: Option<u32>,
}

/// A route.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Route {
    /// The link.
    pub link: u32,
    /// Where to.
    pub to: Ipv4Addr,
    /// Bits of it, 0 to 32.
    pub prefix: u8,
    /// Through whom; `None`: whoever answers on the link.
    pub via: Option<Ipv4Addr>,
    /// Our address for packets that begin here.
    pub source: Option<Ipv4Addr>,
}

/// A conversation with the kernel.
#[derive(Debug)]
pub struct Netlink {
    socket: OwnedFd,
    sequence: u32,
    buf: Box<[u8]>,
}

impl Netlink {
    /// Opens a conversation that also hears of changes of links and addresses.
    ///
    /// # Errors
    /// As `socket(2)` and `bind(2)`.
    pub fn open() -> io::Result<Self> {
        let fd = socket(
            AddressFamily::Netlink,
            SockType::Raw,
            SockFlag::SOCK_CLOEXEC,
            SockProtocol::NetlinkRoute,
        )?;
        let groups = RTMGRP_LINK | RTMGRP_IPV4_IFADDR;
        nix::sys::socket::bind(
            fd.as_raw_fd(),
            &nix::sys::socket::NetlinkAddr::new(0, groups),
        )?;
        let limit = nix::sys::time::TimeVal::new(ANSWER_SECONDS, 0);
        setsockopt(&fd, sockopt::ReceiveTimeout, &limit)?;
        Ok(Self {
            socket: fd,
            sequence: 0,
            buf: vec![0; DATAGRAM_BYTES_MAX].into_boxed_slice(),
        })
    }

    /// Every link there is; notifications that stand before the answer go to `note`.
    ///
    /// # Errors
    /// As `sendto(2)` and `recvfrom(2)`.
    pub fn links(&mut self, note: impl FnMut(Note)) -> io::Result<()> {
        const NLM_F_DUMP: u16 = 0x300;
        let mut request = Request::new(libc::RTM_GETLINK, NLM_F_DUMP);
        request.bytes(&[0; 16]);
        self.ask(request, note)
    }

    /// Sets a link up.
    ///
    /// # Errors
    /// What the kernel answers.
    pub fn set_up(&mut self, link: u32, note: impl FnMut(Note)) -> io::Result<()> {
        self.ask(change_link(link, libc::IFF_UP as u32), note)
    }

    /// Sets the bytes of a packet on a link.
    ///
    /// # Errors
    /// What the kernel answers.
    pub fn set_mtu(&mut self, link: u32, mtu: u32, note: impl FnMut(Note)) -> io::Result<()> {
        let mut request = change_link(link, 0);
        request.attribute(IFLA_MTU, &mtu.to_ne_bytes());
        self.ask(request, note)
    }

    /// Adds an address, or renews its time.
    ///
    /// # Errors
    /// What the kernel answers.
    pub fn add_address(&mut self, a: &Address, note: impl FnMut(Note)) -> io::Result<()> {
        let flags = (libc::NLM_F_CREATE | libc::NLM_F_REPLACE) as u16;
        let mut request = address_request(libc::RTM_NEWADDR, flags, a);
        if let Some(broadcast) = broadcast_of(a) {
            request.attribute(libc::IFA_BROADCAST, &broadcast.octets());
        }
        let seconds = a.valid_s.unwrap_or(u32::MAX).to_ne_bytes();
        // struct ifa_cacheinfo: preferred, valid, created, updated.
        let mut times = [0u8; 16];
        times[..4].copy_from_slice(&seconds);
        times[4..8].copy_from_slice(&seconds);
        request.attribute(IFA_CACHEINFO, &times);
        self.ask(request, note)
    }

    /// Takes an address away, and with it the routes that begin there. One that is gone is fine.
    ///
    /// # Errors
    /// What the kernel answers.
    pub fn remove_address(&mut self, a: &Address, note: impl FnMut(Note)) -> io::Result<()> {
        let gone = [libc::EADDRNOTAVAIL, libc::ENODEV];
        match self.ask(address_request(libc::RTM_DELADDR, 0, a), note) {
            Err(e) if e.raw_os_error().is_some_and(|n| gone.contains(&n)) => Ok(()),
            other => other,
        }
    }

    /// Adds or replaces a route.
    ///
    /// # Errors
    /// What the kernel answers.
    pub fn add_route(&mut self, r: &Route, note: impl FnMut(Note)) -> io::Result<()> {
        let flags = (libc::NLM_F_CREATE | libc::NLM_F_REPLACE) as u16;
        self.ask(route_request(libc::RTM_NEWROUTE, flags, r), note)
    }

    /// Takes a route away. One that is gone is fine.
    ///
    /// # Errors
    /// What the kernel answers.
    pub fn remove_route(&mut self, r: &Route, note: impl FnMut(Note)) -> io::Result<()> {
        match self.ask(route_request(libc::RTM_DELROUTE, 0, r), note) {
            Err(e) if matches!(e.raw_os_error(), Some(libc::ESRCH | libc::ENODEV)) => Ok(()),
            other => other,
        }
    }

    /// Reads one datagram of notifications; `false` if there is none. Never waits.
    ///
    /// # Errors
    /// As `recvfrom(2)`.
    pub fn read_notes(&mut self, mut note: impl FnMut(Note)) -> io::Result<bool> {
        match self.receive(libc::MSG_DONTWAIT) {
            Ok(bytes) => {
                for message in Messages(self.buf.get(..bytes).unwrap_or_default()) {
                    if let Some(found) = note_of(&message) {
                        note(found);
                    }
                }
                Ok(true)
            }
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => Ok(false),
            Err(e) if e.raw_os_error() == Some(libc::ENOBUFS) => {
                note(Note::Overrun);
                Ok(true)
            }
            Err(e) => Err(e),
        }
    }

    /// Sends a request and reads to its end: the acknowledgement, or the last piece of a dump.
    fn ask(&mut self, request: Request, mut note: impl FnMut(Note)) -> io::Result<()> {
        self.sequence = self.sequence.wrapping_add(1);
        let sequence = self.sequence;
        let bytes = request.finish(sequence);
        // SAFETY: `bytes` is a live slice of that length.
        let sent = unsafe {
            libc::send(
                self.socket.as_raw_fd(),
                bytes.as_ptr().cast(),
                bytes.len(),
                0,
            )
        };
        if sent < 0 {
            return Err(io::Error::last_os_error());
        }
        for _ in 0..ANSWER_DATAGRAMS_MAX {
            let bytes = match self.receive(0) {
                Ok(bytes) => bytes,
                Err(e) if e.raw_os_error() == Some(libc::ENOBUFS) => {
                    note(Note::Overrun);
                    continue;
                }
                Err(e) => return Err(e),
            };
            for message in Messages(self.buf.get(..bytes).unwrap_or_default()) {
                if message.sequence == sequence {
                    match i32::from(message.kind) {
                        libc::NLMSG_DONE => return Ok(()),
                        libc::NLMSG_ERROR => {
                            let code = message
                                .body
                                .first_chunk()
                                .map_or(0, |c| i32::from_ne_bytes(*c));
                            return match code {
                                0 => Ok(()),
                                _ => Err(io::Error::from_raw_os_error(code.saturating_neg())),
                            };
                        }
                        _ => {}
                    }
                }
                if let Some(found) = note_of(&message) {
                    note(found);
                }
            }
        }
        Err(io::ErrorKind::TimedOut.into())
    }

    fn receive(&mut self, flags: i32) -> io::Result<usize> {
        loop {
            // SAFETY: `buf` is a live, exclusively borrowed buffer of that length.
            let n = unsafe {
                libc::recv(
                    self.socket.as_raw_fd(),
                    self.buf.as_mut_ptr().cast(),
                    self.buf.len(),
                    flags,
                )
            };
            match usize::try_from(n) {
                Ok(n) => return Ok(n.min(self.buf.len())),
                Err(_) => match io::Error::last_os_error() {
                    e if e.kind() == io::ErrorKind::Interrupted => {}
                    e => return Err(e),
                },
            }
        }
    }
}

impl AsFd for Netlink {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// A request being written: the header's length is filled in at the end.
struct Request(Vec<u8>);

impl Request {
    fn new(kind: u16, flags: u16) -> Self {
        let flags = flags | (libc::NLM_F_REQUEST | libc::NLM_F_ACK) as u16;
        let mut bytes = vec![0; 4];
        bytes.extend(kind.to_ne_bytes());
        bytes.extend(flags.to_ne_bytes());
        bytes.extend([0; 8]);
        Self(bytes)
    }

    fn bytes(&mut self, bytes: &[u8]) {
        self.0.extend(bytes);
        self.0.resize(self.0.len().next_multiple_of(4), 0);
    }

    fn attribute(&mut self, kind: u16, value: &[u8]) {
        let length = u16::try_from(value.len() + 4).unwrap_or(u16::MAX);
        self.0.extend(length.to_ne_bytes());
        self.0.extend(kind.to_ne_bytes());
        self.bytes(value);
    }

    fn finish(mut self, sequence: u32) -> Vec<u8> {
        let length = u32::try_from(self.0.len()).unwrap_or(u32::MAX);
        self.0[..4].copy_from_slice(&length.to_ne_bytes());
        self.0[8..12].copy_from_slice(&sequence.to_ne_bytes());
        self.0
    }
}

/// `struct ifinfomsg` that changes these flags of a link, setting them.
fn change_link(link: u32, flags: u32) -> Request {
    let mut request = Request::new(libc::RTM_NEWLINK, 0);
    request.bytes(&[0; 4]);
    request.bytes(&link.to_ne_bytes());
    request.bytes(&flags.to_ne_bytes());
    request.bytes(&flags.to_ne_bytes());
    request
}

fn address_request(kind: u16, flags: u16, a: &Address) -> Request {
    let mut request = Request::new(kind, flags);
    // struct ifaddrmsg: family, prefix, flags, scope, link.
    request.bytes(&[libc::AF_INET as u8, a.prefix, 0, libc::RT_SCOPE_UNIVERSE]);
    request.bytes(&a.link.to_ne_bytes());
    request.attribute(libc::IFA_LOCAL, &a.address.octets());
    request.attribute(libc::IFA_ADDRESS, &a.address.octets());
    request
}

fn route_request(kind: u16, flags: u16, r: &Route) -> Request {
    let mut request = Request::new(kind, flags);
    let scope = match r.via {
        Some(_) => libc::RT_SCOPE_UNIVERSE,
        None => libc::RT_SCOPE_LINK,
    };
    // struct rtmsg: family, to and from prefix, tos, table, protocol, scope, type, flags. ONLINK: a
    // gateway beside a /32 is on the link although no prefix says so.
    let (table, unicast) = (libc::RT_TABLE_MAIN, libc::RTN_UNICAST);
    request.bytes(&[
        libc::AF_INET as u8,
        r.prefix,
        0,
        0,
        table,
        RTPROT_DHCP,
        scope,
        unicast,
    ]);
    let onlink = if r.via.is_some() { RTNH_F_ONLINK } else { 0 };
    request.bytes(&onlink.to_ne_bytes());
    if r.prefix > 0 {
        request.attribute(libc::RTA_DST, &r.to.octets());
    }
    request.attribute(libc::RTA_OIF, &r.link.to_ne_bytes());
    if let Some(via) = r.via {
        request.attribute(libc::RTA_GATEWAY, &via.octets());
    }
    if let Some(source) = r.source {
        request.attribute(libc::RTA_PREFSRC, &source.octets());
    }
    request
}

fn broadcast_of(a: &Address) -> Option<Ipv4Addr> {
    // A network of one or two has none (RFC 3021).
    let host = u32::MAX
        .checked_shr(u32::from(a.prefix))
        .filter(|_| a.prefix < 31)?;
    Some(Ipv4Addr::from(u32::from(a.address) | host))
}

/// One message of a datagram.
struct Message<'b> {
    kind: u16,
    sequence: u32,
    body: &'b [u8],
}

/// The messages of a datagram; what does not fit ends them.
struct Messages<'b>(&'b [u8]);

impl<'b> Iterator for Messages<'b> {
    type Item = Message<'b>;

    fn next(&mut self) -> Option<Message<'b>> {
        let length = usize::try_from(u32_at(self.0, 0)?).ok()?;
        let whole = self.0.get(..length).filter(|m| m.len() >= HEADER_BYTES)?;
        let message = Message {
            kind: u16_at(whole, 4)?,
            sequence: u32_at(whole, 8)?,
            body: whole.get(HEADER_BYTES..)?,
        };
        self.0 = self.0.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(message)
    }
}

/// The attributes behind a fixed part; what does not fit ends them.
struct Attributes<'b>(&'b [u8]);

impl<'b> Iterator for Attributes<'b> {
    type Item = (u16, &'b [u8]);

    fn next(&mut self) -> Option<(u16, &'b [u8])> {
        let length = usize::from(u16_at(self.0, 0)?);
        let value = self.0.get(4..length)?;
        let kind = u16_at(self.0, 2)?;
        self.0 = self.0.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    }
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn note_of(message: &Message<'_>) -> Option<Note> {
    match message.kind {
        libc::RTM_NEWLINK => link_of(message.body).map(Note::Link),
        libc::RTM_DELLINK => link_of(message.body).map(|l| Note::LinkGone(l.index)),
        libc::RTM_DELADDR => {
            let link = u32_at(message.body, 4)?;
            let local = Attributes(message.body.get(8..)?).find(|(k, _)| *k == libc::IFA_LOCAL)?;
            let address: [u8; 4] = local.1.try_into().ok()?;
            Some(Note::AddressGone(link, address.into()))
        }
        _ => None,
    }
}

/// `struct ifinfomsg` and its attributes.
fn link_of(body: &[u8]) -> Option<Link> {
    let flags = u32_at(body, 8)?;
    let is = |flag: i32| flags & flag as u32 != 0;
    // IFF_LOWER_UP lies beyond what older headers name.
    const IFF_LOWER_UP: i32 = 1 << 16;
    let mut link = Link {
        index: u32_at(body, 4)?,
        name: String::new(),
        mac: None,
        is_ethernet: u16_at(body, 2)? == ARPHRD_ETHER && !is(libc::IFF_LOOPBACK),
        is_up: is(libc::IFF_UP),
        has_carrier: is(libc::IFF_UP) && is(IFF_LOWER_UP),
        mtu: 0,
        mtu_max: 0,
    };
    for (kind, value) in Attributes(body.get(16..)?) {
        match kind {
            IFLA_IFNAME => {
                let text = value.split(|b| *b == 0).next().unwrap_or_default();
                link.name = String::from_utf8_lossy(text).into_owned();
            }
            IFLA_ADDRESS => link.mac = value.try_into().ok(),
            IFLA_MTU => link.mtu = u32_at(value, 0).unwrap_or(0),
            IFLA_MAX_MTU => link.mtu_max = u32_at(value, 0).unwrap_or(0),
            _ => {}
        }
    }
    Some(link)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_names_its_loopback() {
        let mut netlink = Netlink::open().unwrap();
        let mut found = Vec::new();
        netlink
            .links(|note| {
                if let Note::Link(link) = note {
                    found.push(link);
                }
            })
            .unwrap();
        let lo = found.iter().find(|l| l.name == "lo").expect("a loopback");
        assert!(!lo.is_ethernet && lo.mtu > 0, "{lo:?}");
    }

    #[test]
    fn what_is_cut_anywhere_is_read_up_to_there() {
        let mut request = change_link(7, 1);
        request.attribute(IFLA_IFNAME, b"eth0\0");
        request.attribute(IFLA_ADDRESS, &[2, 0, 0, 0, 0, 9]);
        let bytes = request.finish(3);
        let whole = Messages(&bytes).next().unwrap();
        let link = link_of(whole.body).unwrap();
        assert_eq!((link.index, link.name.as_str()), (7, "eth0"));
        assert_eq!(link.mac, Some([2, 0, 0, 0, 0, 9]));
        for cut in 0..bytes.len() {
            let mut short = bytes[..cut].to_vec();
            if let Some(length) = short.first_chunk_mut::<4>() {
                *length = u32::try_from(cut).unwrap().to_ne_bytes();
            }
            for message in Messages(&short) {
                let _ = link_of(message.body);
            }
        }
    }

    #[test]
    fn a_change_that_is_not_ours_to_make_says_why() {
        let mut netlink = Netlink::open().unwrap();
        let error = netlink.set_up(u32::MAX >> 2, |_| ()).unwrap_err();
        assert!(
            matches!(error.raw_os_error(), Some(libc::ENODEV | libc::EPERM)),
            "{error}"
        );
    }
}
