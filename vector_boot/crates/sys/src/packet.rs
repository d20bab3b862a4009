//! SOCK_SEQPACKET Unix sockets: whole frames, the peer's credentials, descriptors along with bytes.

use nix::sys::socket::{
    AddressFamily, Backlog, ControlMessage, MsgFlags, SockFlag, SockType, UnixAddr, accept4, bind,
    connect, getsockopt, listen, sendmsg, setsockopt, socket, socketpair, sockopt,
};
use nix::sys::time::TimeVal;
use std::io::{self, IoSlice};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

/// Descriptors that one packet can carry (SCM_MAX_FD, unix(7)). All are taken, so that the kernel never
/// closes one in our context: see [`crate::release`].
pub const DESCRIPTORS_MAX: usize = 253;
/// Descriptors that we send with one packet: the four namespaces of a cell.
pub const SENT_MAX: usize = 4;
/// Connections that may wait for `accept`.
const BACKLOG: i32 = 128;

/// Words of a control message with that many descriptors, a header of 16 bytes, then 4 bytes each; and of one with
/// the sender's credentials, a header and 12 bytes.
const CONTROL_WORDS: usize = 2 + DESCRIPTORS_MAX.div_ceil(2) + 2 + 2;

/// Where the kernel puts descriptors, aligned as `cmsghdr` is.
#[repr(C, align(8))]
struct ControlSpace([u64; CONTROL_WORDS]);

/// Whether calls wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Calls wait.
    Blocking,
    /// Calls answer `WouldBlock`.
    NonBlocking,
}

impl Mode {
    fn flags(self) -> SockFlag {
        match self {
            Self::Blocking => SockFlag::SOCK_CLOEXEC,
            Self::NonBlocking => SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK,
        }
    }
}

/// One end of a connected SOCK_SEQPACKET socket.
#[derive(Debug)]
pub struct PacketSocket(OwnedFd);

/// What the kernel attests of the other end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Peer {
    /// Its process when it connected.
    pub pid: i32,
    /// Its effective uid when it connected.
    pub uid: u32,
}

/// A packet as it came.
#[derive(Debug, Default)]
pub struct Received {
    /// Bytes of it in the buffer; 0 when the peer of a connection went.
    pub bytes: usize,
    /// Whether there were more than the buffer takes; they are gone.
    pub cut: bool,
    /// Its sender's process, where [`attest_senders`] asked for it.
    pub sender: Option<i32>,
    /// Descriptors that came along, of which closing the last handle may wait.
    pub descriptors: Vec<OwnedFd>,
}

impl PacketSocket {
    /// Connects to a listener in the file system.
    ///
    /// # Errors
    /// As `connect(2)`.
    pub fn connect(path: &Path, mode: Mode) -> io::Result<Self> {
        let fd = socket(AddressFamily::Unix, SockType::SeqPacket, mode.flags(), None)?;
        connect(fd.as_raw_fd(), &UnixAddr::new(path)?)?;
        Ok(Self(fd))
    }

    /// Connects to a listener in the file system; neither this nor any later call waits longer than
    /// `limit`.
    ///
    /// # Errors
    /// As `connect(2)`; `WouldBlock` when the listener's backlog stayed full.
    pub fn connect_within(path: &Path, limit: Duration) -> io::Result<Self> {
        connect_bounded(SockType::SeqPacket, path, limit).map(Self)
    }

    /// A connected pair.
    ///
    /// # Errors
    /// As `socketpair(2)`.
    pub fn pair(mode: Mode) -> io::Result<(Self, Self)> {
        let (a, b) = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, mode.flags())?;
        Ok((Self(a), Self(b)))
    }

    /// Takes a descriptor that is such a socket.
    #[must_use]
    pub fn from_fd(fd: OwnedFd) -> Self {
        Self(fd)
    }

    /// Sends one packet, with a descriptor if there is one.
    ///
    /// # Errors
    /// As `sendmsg(2)`; a peer that went is `BrokenPipe`, never a signal.
    pub fn send(&self, packet: &[u8], descriptor: Option<BorrowedFd<'_>>) -> io::Result<()> {
        self.send_with(packet, descriptor.as_slice())
    }

    /// Sends one packet with these descriptors, at most [`SENT_MAX`].
    ///
    /// # Errors
    /// As [`PacketSocket::send`]; `InvalidInput` for more descriptors.
    pub fn send_with(&self, packet: &[u8], descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
        if descriptors.len() > SENT_MAX {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let mut raw: [RawFd; SENT_MAX] = [-1; SENT_MAX];
        for (slot, descriptor) in raw.iter_mut().zip(descriptors) {
            *slot = descriptor.as_raw_fd();
        }
        let rights = [ControlMessage::ScmRights(&raw[..descriptors.len()])];
        let control = if descriptors.is_empty() {
            &[]
        } else {
            &rights[..]
        };
        let iov = [IoSlice::new(packet)];
        let sent = retry(|| {
            sendmsg::<()>(
                self.0.as_raw_fd(),
                &iov,
                control,
                MsgFlags::MSG_NOSIGNAL,
                None,
            )
        })?;
        if sent == packet.len() {
            Ok(())
        } else {
            Err(io::ErrorKind::WriteZero.into())
        }
    }

    /// Receives one packet into `buf`: its length (0 when the peer went) and a descriptor if one came.
    ///
    /// # Errors
    /// As `recvmsg(2)`; a packet longer than `buf` is `InvalidData` and is gone.
    pub fn receive(&self, buf: &mut [u8]) -> io::Result<(usize, Option<OwnedFd>)> {
        let received = self.take(buf)?;
        if received.cut {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "packet longer than its buffer",
            ));
        }
        Ok((received.bytes, received.descriptors.into_iter().next()))
    }

    /// Receives one packet with everything that came along; see [`take_packet`].
    ///
    /// # Errors
    /// As `recvmsg(2)`.
    pub fn take(&self, buf: &mut [u8]) -> io::Result<Received> {
        take_packet(self.0.as_fd(), buf)
    }

    /// Who connected, by SO_PEERCRED.
    ///
    /// # Errors
    /// As `getsockopt(2)`.
    pub fn peer(&self) -> io::Result<Peer> {
        peer_of(self.0.as_fd())
    }

    /// Bounds how long a blocking `receive` or `send` waits.
    ///
    /// # Errors
    /// As `setsockopt(2)`.
    pub fn set_timeout(&self, limit: Duration) -> io::Result<()> {
        set_timeouts(&self.0, limit)
    }

    /// Lets a blocking `receive` wait for ever again.
    ///
    /// # Errors
    /// As `setsockopt(2)`.
    pub fn receive_for_ever(&self) -> io::Result<()> {
        Ok(setsockopt(
            &self.0,
            sockopt::ReceiveTimeout,
            &TimeVal::new(0, 0),
        )?)
    }

    /// Makes another handle of the same socket.
    ///
    /// # Errors
    /// As `dup(2)`.
    pub fn try_clone(&self) -> io::Result<Self> {
        self.0.try_clone().map(Self)
    }

    /// Ends both directions, which wakes a thread that waits in `receive`.
    pub fn shutdown(&self) {
        // A socket that is gone already needs no shutdown.
        let _ = nix::sys::socket::shutdown(self.0.as_raw_fd(), nix::sys::socket::Shutdown::Both);
    }
}

impl AsFd for PacketSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl AsRawFd for PacketSocket {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

impl From<PacketSocket> for OwnedFd {
    fn from(socket: PacketSocket) -> Self {
        socket.0
    }
}

/// A listening SOCK_SEQPACKET socket.
#[derive(Debug)]
pub struct PacketListener(OwnedFd);

impl PacketListener {
    /// Binds a path (an old socket there is replaced) and listens.
    ///
    /// # Errors
    /// As `bind(2)` and `listen(2)`.
    pub fn bind(path: &Path, mode: Mode) -> io::Result<Self> {
        remove_socket(path)?;
        let fd = socket(AddressFamily::Unix, SockType::SeqPacket, mode.flags(), None)?;
        bind(fd.as_raw_fd(), &UnixAddr::new(path)?)?;
        listen(&fd, Backlog::new(BACKLOG)?)?;
        Ok(Self(fd))
    }

    /// Takes a descriptor that is such a listener.
    #[must_use]
    pub fn from_fd(fd: OwnedFd) -> Self {
        Self(fd)
    }

    /// Accepts one connection.
    ///
    /// # Errors
    /// As `accept4(2)`.
    pub fn accept(&self, mode: Mode) -> io::Result<PacketSocket> {
        let raw = retry(|| accept4(self.0.as_raw_fd(), mode.flags()))?;
        // SAFETY: accept4 returned a new descriptor that only we know.
        Ok(PacketSocket(unsafe { OwnedFd::from_raw_fd(raw) }))
    }
}

impl AsFd for PacketListener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl From<PacketListener> for OwnedFd {
    fn from(listener: PacketListener) -> Self {
        listener.0
    }
}

/// Receives one packet of any Unix socket that keeps their borders, with everything that came along.
///
/// # Errors
/// As `recvmsg(2)`.
pub fn take_packet(socket: BorrowedFd<'_>, buf: &mut [u8]) -> io::Result<Received> {
    let mut space = ControlSpace([0; CONTROL_WORDS]);
    let mut iov = libc::iovec {
        iov_base: buf.as_mut_ptr().cast(),
        iov_len: buf.len(),
    };
    // SAFETY: all zeroes is a valid msghdr.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = &raw mut iov;
    message.msg_iovlen = 1;
    message.msg_control = space.0.as_mut_ptr().cast();
    message.msg_controllen = size_of::<ControlSpace>();
    let bytes = loop {
        // SAFETY: `message` points to `buf` and `space`, both alive, with their true lengths.
        let received =
            unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut message, libc::MSG_CMSG_CLOEXEC) };
        match usize::try_from(received) {
            Ok(bytes) => break bytes,
            Err(_) => match io::Error::last_os_error() {
                e if e.kind() == io::ErrorKind::Interrupted => {}
                e => return Err(e),
            },
        }
    };
    let (descriptors, sender) = take_control(&message);
    Ok(Received {
        bytes,
        cut: message.msg_flags & libc::MSG_TRUNC != 0,
        sender,
        descriptors,
    })
}

/// Looks at the next packet and leaves it, without waiting: how many bytes of it fit, 0 when the peer went.
///
/// # Errors
/// As `recv(2)`; `WouldBlock` when there is none.
pub fn peek(socket: &PacketSocket, buf: &mut [u8]) -> io::Result<usize> {
    let flags = MsgFlags::MSG_PEEK | MsgFlags::MSG_DONTWAIT;
    Ok(nix::sys::socket::recv(socket.as_raw_fd(), buf, flags)?)
}

/// Lets the kernel attest the sender of every packet that comes from now on: unix(7), SO_PASSCRED.
///
/// # Errors
/// As `setsockopt(2)`.
pub fn attest_senders(socket: BorrowedFd<'_>) -> io::Result<()> {
    Ok(setsockopt(&socket, sockopt::PassCred, &true)?)
}

/// Credentials of the far end of any connected Unix socket.
///
/// # Errors
/// As `getsockopt(2)`.
pub fn peer_of(fd: BorrowedFd<'_>) -> io::Result<Peer> {
    let credentials = getsockopt(&fd, sockopt::PeerCredentials)?;
    Ok(Peer {
        pid: credentials.pid(),
        uid: credentials.uid(),
    })
}

/// Connects a stream socket to a listener in the file system; neither this nor any later call waits
/// longer than `limit`.
///
/// # Errors
/// As `connect(2)`; `WouldBlock` when the listener's backlog stayed full.
pub fn connect_stream_within(path: &Path, limit: Duration) -> io::Result<UnixStream> {
    connect_bounded(SockType::Stream, path, limit).map(UnixStream::from)
}

/// `connect(2)` of a Unix socket waits for a place in the backlog as long as the send timeout says,
/// which therefore is set first.
fn connect_bounded(kind: SockType, path: &Path, limit: Duration) -> io::Result<OwnedFd> {
    let fd = socket(AddressFamily::Unix, kind, SockFlag::SOCK_CLOEXEC, None)?;
    set_timeouts(&fd, limit)?;
    let address = UnixAddr::new(path)?;
    retry(|| connect(fd.as_raw_fd(), &address))?;
    Ok(fd)
}

fn set_timeouts(fd: &OwnedFd, limit: Duration) -> io::Result<()> {
    // socket(7): zero would wait for ever.
    let limit = limit.max(Duration::from_micros(1));
    let value = TimeVal::new(
        i64::try_from(limit.as_secs()).unwrap_or(i64::MAX),
        i64::from(limit.subsec_micros()),
    );
    setsockopt(fd, sockopt::ReceiveTimeout, &value)?;
    setsockopt(fd, sockopt::SendTimeout, &value)?;
    Ok(())
}

/// Our own effective uid.
#[must_use]
pub fn own_uid() -> u32 {
    nix::unistd::geteuid().as_raw()
}

/// Removes what a listener of an earlier run left; anything that is not a socket stays.
///
/// # Errors
/// As `unlink(2)`; `AlreadyExists` if something else is there.
pub fn remove_socket(path: &Path) -> io::Result<()> {
    use std::os::unix::fs::FileTypeExt;
    match std::fs::symlink_metadata(path) {
        Ok(found) if found.file_type().is_socket() => std::fs::remove_file(path),
        Ok(_) => Err(io::Error::new(
            io::ErrorKind::AlreadyExists,
            "path is taken by something that is no socket",
        )),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(e) => Err(e),
    }
}

/// Takes every descriptor that came into our table. This holds for a control message that was cut too
/// (MSG_CTRUNC): what did fit is installed all the same. And the sender, if the kernel says who it is.
fn take_control(message: &libc::msghdr) -> (Vec<OwnedFd>, Option<i32>) {
    let mut all = Vec::new();
    let mut sender = None;
    // SAFETY: the kernel filled the control buffer and its length; the macros of cmsg(3) stay inside.
    let mut header = unsafe { libc::CMSG_FIRSTHDR(message) };
    while !header.is_null() {
        // SAFETY: not null, so a whole header that the kernel wrote.
        let (level, kind, length) = unsafe {
            let h = &*header;
            (h.cmsg_level, h.cmsg_type, h.cmsg_len)
        };
        if (level, kind) == (libc::SOL_SOCKET, libc::SCM_RIGHTS) {
            // SAFETY: CMSG_LEN is arithmetic.
            let head = unsafe { libc::CMSG_LEN(0) } as usize;
            for i in 0..length.saturating_sub(head) / size_of::<RawFd>() {
                // SAFETY: `length` counts the descriptors that the kernel wrote and just installed in
                // our table; nobody else knows their numbers, and each is taken once.
                let owned = unsafe {
                    let at = libc::CMSG_DATA(header).cast::<RawFd>().add(i);
                    OwnedFd::from_raw_fd(at.read_unaligned())
                };
                all.push(owned);
            }
        }
        if (level, kind) == (libc::SOL_SOCKET, libc::SCM_CREDENTIALS) {
            // SAFETY: the kernel wrote a whole `ucred` behind a header of this kind.
            let credentials = unsafe {
                libc::CMSG_DATA(header)
                    .cast::<libc::ucred>()
                    .read_unaligned()
            };
            sender = Some(credentials.pid);
        }
        // SAFETY: as above.
        header = unsafe { libc::CMSG_NXTHDR(message, header) };
    }
    (all, sender)
}

fn retry<T>(mut call: impl FnMut() -> nix::Result<T>) -> io::Result<T> {
    loop {
        match call() {
            Err(nix::errno::Errno::EINTR) => continue,
            other => return other.map_err(io::Error::from),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packets_keep_their_borders_and_carry_a_descriptor() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.sock");
        let listener = PacketListener::bind(&path, Mode::Blocking).unwrap();
        let client = PacketSocket::connect(&path, Mode::Blocking).unwrap();
        let server = listener.accept(Mode::Blocking).unwrap();
        let memory = crate::memfd::sealed("greeting", b"hello").unwrap();
        client.send(b"one", None).unwrap();
        client.send(b"two", Some(memory.as_fd())).unwrap();
        let mut buf = [0u8; 64];
        let (n, none) = server.receive(&mut buf).unwrap();
        assert_eq!((&buf[..n], none.is_none()), (&b"one"[..], true));
        let (n, some) = server.receive(&mut buf).unwrap();
        assert_eq!(&buf[..n], b"two");
        let mut text = String::new();
        io::Read::read_to_string(&mut std::fs::File::from(some.unwrap()), &mut text).unwrap();
        assert_eq!(text, "hello");
        assert_eq!(server.peer().unwrap().uid, own_uid());
        drop(client);
        assert_eq!(server.receive(&mut buf).unwrap().0, 0);
    }

    #[test]
    fn the_sender_is_attested_beside_as_many_descriptors_as_fit() {
        let (a, b) = PacketSocket::pair(Mode::Blocking).unwrap();
        attest_senders(b.as_fd()).unwrap();
        let (read, _write) = io::pipe().unwrap();
        for count in [0, 1, DESCRIPTORS_MAX] {
            let fds = vec![read.as_raw_fd(); count];
            let rights = [ControlMessage::ScmRights(&fds)];
            let control = if count == 0 { &[] } else { &rights[..] };
            sendmsg::<()>(
                a.0.as_raw_fd(),
                &[IoSlice::new(b"x")],
                control,
                MsgFlags::empty(),
                None,
            )
            .unwrap();
            let received = b.take(&mut [0u8; 8]).unwrap();
            assert_eq!(received.descriptors.len(), count);
            assert_eq!(received.sender, Some(std::process::id().cast_signed()));
        }
    }

    /// A descriptor that nobody took lives on: the writer of its pipe would never see the end.
    #[test]
    fn no_descriptor_stays_behind_however_many_come() {
        for count in [1, 2, 200, DESCRIPTORS_MAX] {
            let (a, b) = PacketSocket::pair(Mode::Blocking).unwrap();
            let (read, mut write) = io::pipe().unwrap();
            let fds = vec![read.as_raw_fd(); count];
            sendmsg::<()>(
                a.0.as_raw_fd(),
                &[IoSlice::new(b"x")],
                &[ControlMessage::ScmRights(&fds)],
                MsgFlags::empty(),
                None,
            )
            .unwrap();
            drop(read);
            let (bytes, first) = b.receive(&mut [0u8; 8]).unwrap();
            assert_eq!((bytes, first.is_some()), (1, true));
            drop(first);
            let error = io::Write::write(&mut write, b"y").unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::BrokenPipe, "{count}");
        }
    }

    #[test]
    fn connecting_to_a_listener_that_takes_nobody_ends_by_itself() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("full.sock");
        let _listener = PacketListener::bind(&path, Mode::Blocking).unwrap();
        let waiting: Vec<_> =
            std::iter::from_fn(|| PacketSocket::connect(&path, Mode::NonBlocking).ok())
                .take(1000)
                .collect();
        assert!(waiting.len() < 1000, "the backlog has no end");
        let error = PacketSocket::connect_within(&path, Duration::from_millis(20)).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
        // A limit of nothing is not one of eternity.
        assert!(PacketSocket::connect_within(&path, Duration::ZERO).is_err());
        let stream = folder.path().join("stream.sock");
        let _listener = std::os::unix::net::UnixListener::bind(&stream).unwrap();
        let connected = connect_stream_within(&stream, Duration::from_millis(20)).unwrap();
        assert!(connected.read_timeout().unwrap().is_some());
    }

    #[test]
    fn several_descriptors_keep_their_order_and_too_many_are_refused() {
        let (a, b) = PacketSocket::pair(Mode::Blocking).unwrap();
        let texts = ["mnt", "ipc", "uts", "net", "one more"];
        let files: Vec<OwnedFd> = texts
            .iter()
            .map(|t| crate::memfd::sealed("x", t.as_bytes()).unwrap())
            .collect();
        let fds: Vec<BorrowedFd<'_>> = files.iter().map(AsFd::as_fd).collect();
        assert_eq!(
            a.send_with(b"x", &fds).unwrap_err().kind(),
            io::ErrorKind::InvalidInput
        );
        a.send_with(b"x", &fds[..SENT_MAX]).unwrap();
        let received = b.take(&mut [0u8; 8]).unwrap();
        let read: Vec<String> = received
            .descriptors
            .into_iter()
            .map(|fd| std::io::read_to_string(std::fs::File::from(fd)).unwrap())
            .collect();
        assert_eq!(read, &texts[..SENT_MAX]);
    }

    #[test]
    fn a_packet_longer_than_the_buffer_is_refused_whole() {
        let (a, b) = PacketSocket::pair(Mode::Blocking).unwrap();
        a.send(&[7; 100], None).unwrap();
        a.send(b"next", None).unwrap();
        let mut buf = [0u8; 10];
        assert_eq!(
            b.receive(&mut buf).unwrap_err().kind(),
            io::ErrorKind::InvalidData
        );
        assert_eq!(b.receive(&mut buf).unwrap().0, 4);
    }

    #[test]
    fn a_file_in_the_way_is_not_removed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("precious");
        std::fs::write(&path, "data").unwrap();
        assert!(PacketListener::bind(&path, Mode::Blocking).is_err());
        assert_eq!(std::fs::read(&path).unwrap(), b"data");
    }
}
