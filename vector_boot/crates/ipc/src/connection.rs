//! One conversation over a SOCK_SEQPACKET socket.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};
use sys::packet::{PacketSocket, Peer};
use wire::{Frame, Hello, Kind, Message, PACKET_BYTES_MAX, Refused, Role, WireError};

/// Why a conversation failed.
#[derive(Debug, thiserror::Error)]
pub enum IpcError {
    /// The socket failed, or its deadline passed.
    #[error("socket")]
    Io(#[from] io::Error),
    /// The peer sent what is no frame, or not the one expected.
    #[error("frame from peer: {0}")]
    Wire(WireError),
    /// The peer went.
    #[error("peer closed the connection")]
    Closed,
    /// The peer refused.
    #[error("{code}: {field} is {value}, {limit}")]
    Refused {
        /// Stable code.
        code: String,
        /// Field.
        field: String,
        /// Its value.
        value: String,
        /// What it may be.
        limit: String,
    },
}

impl From<WireError> for IpcError {
    fn from(e: WireError) -> Self {
        Self::Wire(e)
    }
}

impl From<Refused<'_>> for IpcError {
    fn from(r: Refused<'_>) -> Self {
        Self::Refused {
            code: r.code.to_owned(),
            field: r.field.to_owned(),
            value: r.value.to_owned(),
            limit: r.limit.to_owned(),
        }
    }
}

/// A list may take as long as so many answers: a server that drips frames, or that never ends, holds
/// nobody for ever.
const LIST_LIMITS: u32 = 10;

/// The asking end: hello is said, ids count up.
pub struct Connection {
    socket: PacketSocket,
    limit: Duration,
    buf: Box<[u8]>,
    last_id: u64,
}

impl Connection {
    /// Connects and says hello; neither this nor any later wait is longer than `limit`.
    ///
    /// # Errors
    /// [`IpcError`]; [`IpcError::Refused`] if no version is common.
    pub fn open(path: &Path, limit: Duration) -> Result<Self, IpcError> {
        let mut this = Self {
            socket: PacketSocket::connect_within(path, limit)?,
            limit,
            buf: vec![0; PACKET_BYTES_MAX].into_boxed_slice(),
            last_id: 0,
        };
        this.send(&Hello::OURS, None)?;
        let theirs = this.receive()?.0.body::<Hello>()?;
        match Hello::OURS.common(theirs) {
            Some(_) => Ok(this),
            None => Err(WireError::Version(theirs.max).into()),
        }
    }

    /// Sends one frame under a new id, which is returned.
    ///
    /// # Errors
    /// [`IpcError::Io`] or [`IpcError::Wire`].
    pub fn send<M: Message>(
        &mut self,
        body: &M,
        descriptor: Option<BorrowedFd<'_>>,
    ) -> Result<u64, IpcError> {
        self.last_id += 1;
        let packet = wire::encode(self.last_id, body, &mut self.buf)?;
        self.socket.send(packet, descriptor)?;
        Ok(self.last_id)
    }

    /// Waits for the next frame and a descriptor that came with it. A [`Refused`] is an error.
    ///
    /// # Errors
    /// [`IpcError`].
    pub fn receive(&mut self) -> Result<(Frame<'_>, Option<OwnedFd>), IpcError> {
        let (bytes, descriptor) = self.socket.receive(&mut self.buf)?;
        if bytes == 0 {
            return Err(IpcError::Closed);
        }
        let packet = self
            .buf
            .get(..bytes)
            .ok_or(IpcError::Wire(WireError::Length(bytes)))?;
        let frame = Frame::open(packet)?;
        if frame.kind == Kind::Refused {
            return Err(frame.body::<Refused<'_>>()?.into());
        }
        Ok((frame, descriptor))
    }

    /// Asks once and hands the single answer to `read`.
    ///
    /// # Errors
    /// [`IpcError`].
    pub fn ask<M: Message, T>(
        &mut self,
        body: &M,
        read: impl FnOnce(Frame<'_>, Option<OwnedFd>) -> Result<T, WireError>,
    ) -> Result<T, IpcError> {
        let id = self.send(body, None)?;
        let (frame, descriptor) = self.receive()?;
        if frame.id != id {
            return Err(WireError::Unexpected(frame.kind).into());
        }
        Ok(read(frame, descriptor)?)
    }

    /// Asks for a list: hands each frame to `item` until the closing [`wire::Done`].
    ///
    /// # Errors
    /// [`IpcError`].
    pub fn list<M: Message>(
        &mut self,
        body: &M,
        mut item: impl FnMut(Frame<'_>) -> Result<(), WireError>,
    ) -> Result<(), IpcError> {
        let id = self.send(body, None)?;
        let until = Instant::now() + self.limit.saturating_mul(LIST_LIMITS);
        loop {
            if Instant::now() > until {
                return Err(io::Error::from(io::ErrorKind::TimedOut).into());
            }
            let (frame, _) = self.receive()?;
            if frame.id != id {
                return Err(WireError::Unexpected(frame.kind).into());
            }
            if frame.kind == Kind::Done {
                return Ok(());
            }
            item(frame)?;
        }
    }

    /// The socket itself, for callers that pipeline: hello is over.
    #[must_use]
    pub fn into_socket(self) -> PacketSocket {
        self.socket
    }
}

impl AsFd for Connection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// What a server knows of a peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Served {
    /// As the kernel attests.
    pub peer: Peer,
    /// By its uid.
    pub role: Role,
}

impl Served {
    /// Names the peer of an accepted connection.
    ///
    /// # Errors
    /// As `getsockopt(2)`.
    pub fn of(socket: &PacketSocket) -> io::Result<Self> {
        Self::of_fd(socket.as_fd())
    }

    /// Names the peer of any connected Unix socket.
    ///
    /// # Errors
    /// As `getsockopt(2)`.
    pub fn of_fd(socket: BorrowedFd<'_>) -> io::Result<Self> {
        let peer = sys::packet::peer_of(socket)?;
        Ok(Self {
            peer,
            role: Role::of_uid(peer.uid, sys::packet::own_uid()),
        })
    }

    /// Opens a packet of this peer: a frame whose kind it may send. What it may not send is refused
    /// with the words of the answer.
    ///
    /// # Errors
    /// The [`Refused`] to send back under the id of the packet, 0 if it has none.
    pub fn open<'p>(&self, packet: &'p [u8]) -> Result<Frame<'p>, Refused<'static>> {
        let refused = |code, field, limit| Refused {
            code,
            field,
            value: "",
            limit,
        };
        match Frame::open(packet) {
            Ok(frame) if frame.kind.allowed(self.role) => Ok(frame),
            Ok(_) => Err(refused("POLICY_DENY", "kind", "this role may not send it")),
            Err(WireError::Version(_)) => Err(refused("BAD_REQUEST", "version", "1")),
            Err(_) => Err(refused(
                "BAD_REQUEST",
                "frame",
                "a known kind of at most 65536 bytes",
            )),
        }
    }
}

/// Answers the first packet of a connection, which must be [`Hello`].
///
/// # Errors
/// [`WireError`] if it is not, or if no version is common: the server closes the connection.
pub fn serve_hello<'b>(packet: &[u8], buf: &'b mut [u8]) -> Result<&'b [u8], WireError> {
    let frame = Frame::open(packet)?;
    let theirs = frame.body::<Hello>()?;
    if Hello::OURS.common(theirs).is_none() {
        return Err(WireError::Version(theirs.max));
    }
    wire::encode(frame.id, &Hello::OURS, buf)
}

#[cfg(test)]
mod tests {
    use super::*;
    use sys::packet::{Mode, PacketListener};
    use wire::Done;
    use wire::control::{Param, ParamsGet, StatusGet};

    /// Serves one connection: hello, two parameters for ParamsGet, a refusal for all else.
    fn server(listener: &PacketListener) {
        let socket = listener.accept(Mode::Blocking).unwrap();
        let served = Served::of(&socket).unwrap();
        assert_eq!(served.role, Role::Operator);
        let (mut buf, mut out) = ([0u8; 4096], [0u8; 4096]);
        let (n, _) = socket.receive(&mut buf).unwrap();
        socket
            .send(serve_hello(&buf[..n], &mut out).unwrap(), None)
            .unwrap();
        loop {
            let (n, _) = socket.receive(&mut buf).unwrap();
            if n == 0 {
                return;
            }
            let frame = served.open(&buf[..n]).unwrap();
            if frame.kind == Kind::ParamsGet {
                for key in ["vb.a", "vb.b"] {
                    let param = Param {
                        key,
                        value: "1",
                        source: "default",
                    };
                    socket
                        .send(wire::encode(frame.id, &param, &mut out).unwrap(), None)
                        .unwrap();
                }
                socket
                    .send(
                        wire::encode(frame.id, &Done { count: 2 }, &mut out).unwrap(),
                        None,
                    )
                    .unwrap();
            } else {
                let no = Refused {
                    code: "NOT_FOUND",
                    field: "kind",
                    value: "x",
                    limit: "y",
                };
                socket
                    .send(wire::encode(frame.id, &no, &mut out).unwrap(), None)
                    .unwrap();
            }
        }
    }

    #[test]
    fn a_list_ends_with_done_and_a_refusal_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("init.sock");
        let listener = PacketListener::bind(&path, Mode::Blocking).unwrap();
        let thread = std::thread::spawn(move || server(&listener));
        let mut connection = Connection::open(&path, Duration::from_secs(5)).unwrap();
        let mut keys = Vec::new();
        connection
            .list(&ParamsGet, |f| {
                f.body::<Param<'_>>().map(|p| keys.push(p.key.to_owned()))
            })
            .unwrap();
        assert_eq!(keys, ["vb.a", "vb.b"]);
        let refused = connection.ask(&StatusGet, |_, _| Ok(())).unwrap_err();
        assert_eq!(refused.to_string(), "NOT_FOUND: kind is x, y");
        drop(connection);
        thread.join().unwrap();
    }

    #[test]
    fn a_list_without_an_end_and_a_server_that_sleeps_are_given_up() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("init.sock");
        let listener = PacketListener::bind(&path, Mode::Blocking).unwrap();
        let limit = Duration::from_millis(20);
        let thread = std::thread::spawn(move || {
            let socket = listener.accept(Mode::Blocking).unwrap();
            let (mut buf, mut out) = ([0u8; 4096], [0u8; 4096]);
            let (n, _) = socket.receive(&mut buf).unwrap();
            let hello = serve_hello(&buf[..n], &mut out).unwrap();
            socket.send(hello, None).unwrap();
            let (n, _) = socket.receive(&mut buf).unwrap();
            let id = Frame::open(&buf[..n]).unwrap().id;
            let param = Param {
                key: "vb.a",
                value: "1",
                source: "default",
            };
            let item = wire::encode(id, &param, &mut out).unwrap();
            while socket.send(item, None).is_ok() {}
            listener
        });
        let mut connection = Connection::open(&path, limit).unwrap();
        let endless = connection.list(&ParamsGet, |_| Ok(())).unwrap_err();
        assert!(
            matches!(endless, IpcError::Io(e) if e.kind() == io::ErrorKind::TimedOut),
            "a list without an end"
        );
        drop(connection);
        // Now nobody accepts.
        let _listener = thread.join().unwrap();
        assert!(matches!(
            Connection::open(&path, limit),
            Err(IpcError::Io(_))
        ));
    }

    #[test]
    fn a_stranger_gets_a_reason() {
        let served = Served {
            peer: Peer { pid: 1, uid: 1000 },
            role: Role::Stranger(1000),
        };
        let mut buf = [0u8; 64];
        let packet = wire::encode(1, &StatusGet, &mut buf).unwrap();
        assert_eq!(served.open(packet).unwrap_err().code, "POLICY_DENY");
        assert_eq!(served.open(b"short").unwrap_err().field, "frame");
    }
}
