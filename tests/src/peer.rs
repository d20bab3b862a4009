//! Connections that a server sees as another uid's: `tests/programs/connect_as.py` makes them as root.
//!
//! Start with [`As::uid`].

use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use sys::packet::{Mode, PacketSocket, own_uid};

use crate::inputs::repository;

/// For an answer that comes at once, or for an end; see the limits of `docs/wire.md`.
const LIMIT: Duration = Duration::from_secs(60);

/// Whoever makes connections under one uid.
pub struct As {
    uid: u32,
    child: Child,
    link: PacketSocket,
}

impl As {
    /// Ready to connect as `uid`.
    ///
    /// Panics without root: nobody else can be another uid, and a role that is not tried is not tested.
    pub fn uid(uid: u32) -> Self {
        assert_eq!(own_uid(), 0, "other uids need root: sudo tests/run");
        let (link, theirs) = PacketSocket::pair(Mode::Blocking).expect("a pair");
        link.set_timeout(LIMIT).expect("a limit");
        let child = Command::new("python3")
            .arg(repository().join("tests/programs/connect_as.py"))
            .arg(uid.to_string())
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .spawn()
            .expect("start python3");
        Self { uid, child, link }
    }

    /// The uid.
    pub fn number(&self) -> u32 {
        self.uid
    }

    /// A new connection; as nobody waits for a place in the backlog, it is tried again until there is one.
    pub fn connect(&self, path: &Path) -> PacketSocket {
        let deadline = Instant::now() + LIMIT;
        let name = path.to_str().expect("a path in UTF-8").as_bytes();
        loop {
            self.link.send(name, None).expect("ask for a connection");
            let mut buf = [0; 64];
            let (bytes, socket) = self.link.receive(&mut buf).expect("a connection");
            if let Some(socket) = socket {
                let socket = PacketSocket::from_fd(socket);
                sys::inherit::set_blocking(std::os::fd::AsFd::as_fd(&socket)).expect("blocking");
                socket.set_timeout(LIMIT).expect("a limit");
                return socket;
            }
            let why = String::from_utf8_lossy(&buf[..bytes]).into_owned();
            assert_eq!(why, "EAGAIN", "connect {} as {}", path.display(), self.uid);
            assert!(Instant::now() < deadline, "the backlog stays full");
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for As {
    fn drop(&mut self) {
        // It ended by itself if the link did; what it connected lives on.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
