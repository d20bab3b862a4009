//! What a command may reach: the sockets, the descriptors, `/proc` and `/sys`, and somebody who may
//! interrupt it.
//!
//! Owns the rule that nobody waits for an answer longer than [`ANSWER_LIMIT`]. Start with [`Site`].

use super::commands::Failure;
use ipc::{Connection, IpcError};
use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use wire::WireError;
use wire::control::{Descriptor, DescriptorGet};

/// How long PID 1 or a service may take to answer: twenty beats. Longer means that it does not.
pub const ANSWER_LIMIT: Duration = Duration::from_secs(2);
/// The boot token: 64 hex digits, perhaps with a line end.
const TOKEN_DIGITS: usize = 64;
/// Longest file read from `/proc`, `/sys` and the like.
const SMALL_FILE_BYTES_MAX: u64 = 256 * 1024;

/// Whether commands may change anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Power {
    /// All of them.
    Full,
    /// Only those that look (`vb.console_mode=readonly`).
    ReadOnly,
}

/// Who can interrupt or approve what a command does.
pub trait Attention {
    /// Waits, at most this long; `true` when a command without an end of its own is to end.
    fn wait(&mut self, limit: Duration) -> bool;
    /// Waits, at most this long; `true` when a command that will end by itself is given up.
    fn pause(&mut self, limit: Duration) -> bool;
    /// Asks before something drastic; a program that sent the command has answered by sending it.
    fn confirm(&mut self, question: &str) -> bool;
    /// How long a command may follow something that has no end of its own.
    fn follow_limit(&self) -> Duration;
}

/// Nobody watches: waits pass, nothing is asked. For `ctl`, which the shell's Ctrl-C ends.
pub struct Unattended;

impl Attention for Unattended {
    fn wait(&mut self, limit: Duration) -> bool {
        self.pause(limit)
    }

    fn pause(&mut self, limit: Duration) -> bool {
        std::thread::sleep(limit);
        false
    }

    fn confirm(&mut self, _question: &str) -> bool {
        true
    }

    fn follow_limit(&self) -> Duration {
        Duration::MAX
    }
}

/// Descriptors that PID 1 passed to this process, by name.
#[derive(Debug, Default)]
pub struct Held(BTreeMap<&'static str, OwnedFd>);

impl Held {
    /// Keeps those of the names that PID 1 passed.
    pub fn of(inherited: &mut sys::inherit::Inherited, names: &[&'static str]) -> Self {
        let found = names
            .iter()
            .filter_map(|n| Some((*n, inherited.remove(n)?)));
        Self(found.collect())
    }

    /// Whether PID 1 passed none: the process was started by hand.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// Where commands find things.
#[derive(Debug, Clone)]
pub struct Site {
    /// Folder of the sockets.
    pub run: PathBuf,
    /// `/proc`; a copy in tests.
    pub proc: PathBuf,
    /// `/sys`; a copy in tests.
    pub sys: PathBuf,
    /// What commands may do.
    pub power: Power,
    /// Descriptors that came with the process.
    pub held: Arc<Held>,
}

/// Where the appliance has its sockets.
const RUN_OF_APPLIANCE: &str = "/run/vb";

/// The folder of the sockets: `VB_RUN`; else that of an ordinary process of this user if it runs;
/// else the appliance's.
pub fn run_folder() -> PathBuf {
    if let Some(run) = std::env::var_os("VB_RUN") {
        return run.into();
    }
    let ordinary =
        std::env::var_os("XDG_RUNTIME_DIR").map(|d| PathBuf::from(d).join("vector_boot/run"));
    ordinary
        .filter(|run| run.join("init.sock").exists())
        .unwrap_or_else(|| PathBuf::from(RUN_OF_APPLIANCE))
}

/// A [`Site`], and who may interrupt the command at work there.
pub struct Context<'a> {
    site: &'a Site,
    /// Who may interrupt.
    pub attention: &'a mut dyn Attention,
}

impl<'a> Context<'a> {
    /// For one command.
    pub fn new(site: &'a Site, attention: &'a mut dyn Attention) -> Self {
        Self { site, attention }
    }
}

impl std::ops::Deref for Context<'_> {
    type Target = Site;

    fn deref(&self) -> &Site {
        self.site
    }
}

impl Site {
    /// The real `/proc` and `/sys`, and the sockets in `run`.
    pub fn new(run: PathBuf, held: Held) -> Self {
        Self {
            run,
            proc: "/proc".into(),
            sys: "/sys".into(),
            power: Power::Full,
            held: Arc::new(held),
        }
    }

    /// A conversation with PID 1.
    pub fn init(&self) -> Result<Server, Failure> {
        self.server("PID 1", "init.sock")
    }

    /// A conversation with the capacity kernel.
    pub fn capacity(&self) -> Result<Server, Failure> {
        self.server("capacity", "capacity.sock")
    }

    /// A conversation with the role `cortex`.
    pub fn cortex(&self) -> Result<Server, Failure> {
        self.server("cortex", neural::cortex::SOCKET_NAME)
    }

    fn server(&self, who: &'static str, socket: &str) -> Result<Server, Failure> {
        let path = self.run.join(socket);
        match Connection::open(&path, ANSWER_LIMIT) {
            Ok(connection) => Ok(Server { who, connection }),
            Err(e) => Err(unanswered(who, Some(&path), &e)),
        }
    }

    /// The descriptor of this name: passed to this process, else asked of PID 1.
    pub fn descriptor(&self, name: &str) -> Result<OwnedFd, Failure> {
        if let Some(held) = self.held.0.get(name) {
            return held
                .try_clone()
                .map_err(|e| Failure::failed(format!("descriptor {name}: {e}")));
        }
        let mut server = self.init()?;
        let read = |frame: wire::Frame<'_>, fd: Option<OwnedFd>| {
            frame.body::<Descriptor<'_>>()?;
            Ok(fd)
        };
        let found = server.connection.ask(&DescriptorGet { name }, read);
        found
            .map_err(|e| unanswered("PID 1", None, &e))?
            .ok_or_else(|| Failure::failed(format!("PID 1 has no descriptor {name}")))
    }

    /// The boot token's text.
    pub fn token(&self) -> Result<String, Failure> {
        let file = File::from(self.descriptor("token")?);
        let mut digits = [0u8; TOKEN_DIGITS];
        // pread(2): the offset of this descriptor is shared with the capacity kernel's.
        let read = file.read_exact_at(&mut digits, 0);
        let text = std::str::from_utf8(&digits).ok();
        match (read, text) {
            (Ok(()), Some(text)) if text.bytes().all(|b| b.is_ascii_hexdigit()) => {
                Ok(text.to_owned())
            }
            (Err(e), _) => Err(Failure::failed(format!(
                "token: {e}, expected {TOKEN_DIGITS} hex digits"
            ))),
            _ => Err(Failure::failed(format!(
                "token: not {TOKEN_DIGITS} hex digits"
            ))),
        }
    }
}

/// A connection, and whom to blame when it fails.
pub struct Server {
    who: &'static str,
    connection: Connection,
}

impl Server {
    /// Asks once; see [`Connection::ask`].
    pub fn ask<M: wire::Message, T>(
        &mut self,
        body: &M,
        read: impl FnOnce(wire::Frame<'_>) -> Result<T, WireError>,
    ) -> Result<T, Failure> {
        let answer = self.connection.ask(body, |frame, _| read(frame));
        answer.map_err(|e| unanswered(self.who, None, &e))
    }

    /// Asks for a list; see [`Connection::list`].
    pub fn list<M: wire::Message>(
        &mut self,
        body: &M,
        item: impl FnMut(wire::Frame<'_>) -> Result<(), WireError>,
    ) -> Result<(), Failure> {
        let answer = self.connection.list(body, item);
        answer.map_err(|e| unanswered(self.who, None, &e))
    }

    /// The same, with a descriptor.
    pub fn act_with<M: wire::Message>(&mut self, body: &M, along: &OwnedFd) -> Result<(), Failure> {
        let sent = self.connection.send(body, Some(along.as_fd()));
        let answer = sent.and_then(|_| {
            let (frame, _) = self.connection.receive()?;
            Ok(frame.body::<wire::Done>().map(|_| ())?)
        });
        answer.map_err(|e| unanswered(self.who, None, &e))
    }

    /// Asks for an act, answered by [`wire::Done`].
    pub fn act<M: wire::Message>(&mut self, body: &M) -> Result<(), Failure> {
        self.ask(body, |frame| frame.body::<wire::Done>().map(|_| ()))
    }
}

/// Says who did not answer and why.
fn unanswered(who: &str, path: Option<&Path>, e: &IpcError) -> Failure {
    let place = path
        .map(|p| format!(" on {}", p.display()))
        .unwrap_or_default();
    let text = match e {
        IpcError::Io(cause) => format!("{who} does not answer{place}: {}", reason(cause)),
        IpcError::Closed => format!("{who} closed the connection{place}"),
        IpcError::Wire(cause) => format!("{who} answers what this build does not read: {cause}"),
        IpcError::Refused { .. } => format!("{who} refuses: {e}"),
    };
    Failure::failed(text)
}

/// A socket's error for people: a deadline that passed is named as one.
pub fn reason(e: &io::Error) -> String {
    match e.kind() {
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => {
            format!("nothing within {} s", ANSWER_LIMIT.as_secs())
        }
        io::ErrorKind::NotFound => "no such socket".to_owned(),
        io::ErrorKind::ConnectionRefused => "nobody listens".to_owned(),
        _ => e.to_string(),
    }
}

/// Reads a small text file whole.
pub fn small_file(path: &Path) -> io::Result<String> {
    use io::Read;
    let mut text = Vec::new();
    File::open(path)?
        .take(SMALL_FILE_BYTES_MAX)
        .read_to_end(&mut text)?;
    Ok(String::from_utf8_lossy(&text).into_owned())
}

/// Reads a small text file, with its path in the error.
pub fn read(path: &Path) -> Result<String, Failure> {
    small_file(path).map_err(|e| Failure::failed(format!("{}: {e}", path.display())))
}

/// Waits until there is something to read, at most `limit`.
pub fn readable(fd: &impl AsFd, limit: Duration) -> bool {
    // A terminal that cannot be polled has hung up, which the next read will say.
    sys::terminal::readable(fd.as_fd(), limit).unwrap_or(true)
}
