//! AF_PACKET sockets on one link, and UDP sockets of clients: what DHCP, ARP and SNTP speak through.
//!
//! The kernel writes the Ethernet header; what is behind it is ours. A filter in the kernel keeps
//! everything else away. Start with [`LinkSocket`].

use nix::sys::socket::{SockFlag, SockType};
use std::io;
use std::net::SocketAddrV4;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

/// To everybody on the link.
pub const BROADCAST: [u8; 6] = [0xff; 6];

/// What a socket speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// IPv4 packets that are UDP to port 68 and no fragments.
    DhcpClient,
    /// ARP.
    Arp,
}

impl Protocol {
    fn number(self) -> u16 {
        match self {
            Self::DhcpClient => 0x0800,
            Self::Arp => 0x0806,
        }
    }
}

/// One packet as it came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Received {
    /// Bytes of it, cut to the buffer.
    pub bytes: usize,
    /// Who sent it on the link.
    pub from: [u8; 6],
    /// Whether its checksum is filled in: a sender on this very host leaves that to the device, and
    /// a virtual device leaves it at that.
    pub checksum_ready: bool,
}

/// An AF_PACKET socket bound to one link and one protocol. Never waits.
#[derive(Debug)]
pub struct LinkSocket {
    socket: OwnedFd,
    link: i32,
    protocol: Protocol,
}

/// `struct sock_filter` in order: code, jump if true, jump if false, value.
type Instruction = (u16, u8, u8, u32);

/// UDP (offset 9), no fragment (offset 6), port 68 behind the header of its own length: accept.
const DHCP_CLIENT: &[Instruction] = &[
    (0x30, 0, 0, 9),      // load byte
    (0x15, 0, 6, 17),     // is it UDP
    (0x28, 0, 0, 6),      // load half word
    (0x45, 4, 0, 0x3fff), // is it a fragment
    (0xb1, 0, 0, 0),      // X = length of the IP header
    (0x48, 0, 0, 2),      // load half word at X + 2
    (0x15, 0, 1, 68),     // is it to port 68
    (0x06, 0, 0, 0xffff), // accept
    (0x06, 0, 0, 0),      // drop
];

impl LinkSocket {
    /// Opens one on a link; what came before the filter stood is dropped.
    ///
    /// # Errors
    /// As `socket(2)`, `setsockopt(2)` and `bind(2)`.
    pub fn open(link: u32, protocol: Protocol) -> io::Result<Self> {
        let link = i32::try_from(link).map_err(|_| io::ErrorKind::InvalidInput)?;
        let kind =
            SockType::Datagram as i32 | (SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK).bits();
        // Protocol 0: nothing is received before the bind below names one.
        // SAFETY: socket(2) takes numbers only.
        let fd = unsafe { libc::socket(libc::AF_PACKET, kind, 0) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: a new descriptor that only we know.
        let socket = unsafe { OwnedFd::from_raw_fd(fd) };
        if protocol == Protocol::DhcpClient {
            attach(&socket, DHCP_CLIENT)?;
            set_number(&socket, libc::SOL_PACKET, libc::PACKET_AUXDATA, 1)?;
        }
        let this = Self {
            socket,
            link,
            protocol,
        };
        let address = this.address(&BROADCAST);
        // SAFETY: `address` is a live sockaddr_ll of that size.
        let bound = unsafe {
            libc::bind(
                this.socket.as_raw_fd(),
                (&raw const address).cast(),
                size_of::<libc::sockaddr_ll>() as u32,
            )
        };
        if bound < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(this)
    }

    /// Sends one packet to a hardware address of the link.
    ///
    /// # Errors
    /// As `sendto(2)`; `ENETDOWN` when the link is down.
    pub fn send(&self, packet: &[u8], to: &[u8; 6]) -> io::Result<()> {
        let address = self.address(to);
        // SAFETY: `packet` and `address` are live and of these sizes.
        let sent = unsafe {
            libc::sendto(
                self.socket.as_raw_fd(),
                packet.as_ptr().cast(),
                packet.len(),
                libc::MSG_NOSIGNAL,
                (&raw const address).cast(),
                size_of::<libc::sockaddr_ll>() as u32,
            )
        };
        if sent < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(())
    }

    /// Receives one packet into `buf`.
    ///
    /// # Errors
    /// As `recvmsg(2)`; `WouldBlock` if there is none.
    pub fn receive(&self, buf: &mut [u8]) -> io::Result<Received> {
        // SAFETY: all zeroes is a valid sockaddr_ll.
        let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
        // Room for one cmsghdr with a tpacket_auxdata, aligned as a cmsghdr is.
        let mut space = [0u64; 16];
        let mut iov = libc::iovec {
            iov_base: buf.as_mut_ptr().cast(),
            iov_len: buf.len(),
        };
        // SAFETY: all zeroes is a valid msghdr.
        let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
        message.msg_name = (&raw mut address).cast();
        message.msg_namelen = size_of::<libc::sockaddr_ll>() as u32;
        message.msg_iov = &raw mut iov;
        message.msg_iovlen = 1;
        message.msg_control = space.as_mut_ptr().cast();
        message.msg_controllen = size_of_val(&space);
        // SAFETY: `message` points to `address`, `buf` and `space`, alive, with their true lengths.
        let received = unsafe { libc::recvmsg(self.socket.as_raw_fd(), &raw mut message, 0) };
        let Ok(bytes) = usize::try_from(received) else {
            return Err(io::Error::last_os_error());
        };
        let mut from = [0; 6];
        from.copy_from_slice(&address.sll_addr[..6]);
        Ok(Received {
            bytes: bytes.min(buf.len()),
            from,
            checksum_ready: checksum_ready(&message),
        })
    }

    fn address(&self, to: &[u8; 6]) -> libc::sockaddr_ll {
        // SAFETY: all zeroes is a valid sockaddr_ll.
        let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
        address.sll_family = libc::AF_PACKET as u16;
        address.sll_protocol = self.protocol.number().to_be();
        address.sll_ifindex = self.link;
        address.sll_halen = 6;
        address.sll_addr[..6].copy_from_slice(to);
        address
    }
}

impl AsFd for LinkSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// A UDP socket that speaks with one server only, from a port of the kernel's choice. Never waits.
///
/// # Errors
/// As `socket(2)` and `connect(2)`; `ENETUNREACH` without a route.
pub fn udp_to(server: SocketAddrV4) -> io::Result<std::net::UdpSocket> {
    let socket = std::net::UdpSocket::bind((std::net::Ipv4Addr::UNSPECIFIED, 0))?;
    socket.set_nonblocking(true)?;
    socket.connect(server)?;
    Ok(socket)
}

fn attach(socket: &OwnedFd, filter: &[Instruction]) -> io::Result<()> {
    let mut program: Vec<libc::sock_filter> = filter
        .iter()
        .map(|(code, jt, jf, k)| libc::sock_filter {
            code: *code,
            jt: *jt,
            jf: *jf,
            k: *k,
        })
        .collect();
    let program = libc::sock_fprog {
        len: u16::try_from(program.len()).unwrap_or(0),
        filter: program.as_mut_ptr(),
    };
    // SAFETY: `program` names a live array of that length; the kernel copies and checks it.
    let done = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_ATTACH_FILTER,
            (&raw const program).cast(),
            size_of::<libc::sock_fprog>() as u32,
        )
    };
    if done < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

fn set_number(socket: &OwnedFd, level: i32, option: i32, value: i32) -> io::Result<()> {
    // SAFETY: `value` is a live int of that size.
    let done = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            option,
            (&raw const value).cast(),
            size_of::<i32>() as u32,
        )
    };
    if done < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// What PACKET_AUXDATA says of a packet's checksum; `true` without it.
fn checksum_ready(message: &libc::msghdr) -> bool {
    // SAFETY: the kernel filled the control buffer and its length; the macros of cmsg(3) stay inside.
    let mut header = unsafe { libc::CMSG_FIRSTHDR(message) };
    while !header.is_null() {
        // SAFETY: not null, so a whole header that the kernel wrote.
        let (level, kind) = unsafe { ((*header).cmsg_level, (*header).cmsg_type) };
        if (level, kind) == (libc::SOL_PACKET, libc::PACKET_AUXDATA) {
            // SAFETY: the kernel wrote a tpacket_auxdata, which begins with its status, a u32.
            let status = unsafe { libc::CMSG_DATA(header).cast::<u32>().read_unaligned() };
            return status & libc::TP_STATUS_CSUMNOTREADY == 0;
        }
        // SAFETY: as above.
        header = unsafe { libc::CMSG_NXTHDR(message, header) };
    }
    true
}
