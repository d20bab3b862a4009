//! One service at run time: its process, its sockets, its output, its leaf in the cgroup tree.

use crate::cgroup::{Counts, Leaf};
use crate::fd_store::FdStore;
use crate::journal::Journal;
use crate::notify::{self, Complaint, MESSAGE_BYTES_MAX, Message, Store};
use crate::state::records::UnitRow;
use crate::state::{Fixed, Level, State};
use crate::supervisor::Cause;
use rts::manifest::{Image, Listen, ListenKind, Service};
use std::fs::File;
use std::io::{self, Read};
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixDatagram, UnixListener};
use std::path::Path;
use sys::packet::{Mode, PacketListener, Received, take_packet};
use sys::process::Reaped;
use sys::release::Releaser;
use sys::spawn::{Child, Descriptors, NAMESPACES_MAX, Spawn};
use wire::why::Reason;

/// Bytes of output that are read of one service in one turn of the loop.
const OUTPUT_TURN_BYTES: usize = 16 * 1024;
/// Turns of output and of messages that one service gets in one beat: 256 KiB are far over every
/// sensible `log_rate`, and what waits longer slows the writer down instead of PID 1.
const TURNS_A_BEAT: u32 = 16;
/// Turns that empty a pipe, whose capacity is 64 KiB (pipe(7)).
const LAST_WORDS_TURNS: usize = 4;
/// A line that is longer is taken in pieces.
const PARTIAL_BYTES_MAX: usize = 1024;
/// Messages of one service that are read in one turn.
const NOTES_A_TURN: usize = 16;
/// Messages that a process left behind: no more than a sysctl lets wait (net.unix.max_dgram_qlen).
const STALE_NOTES_MAX: usize = 1024;
/// Turns that empty the queue of a process that ended: unless a sysctl says otherwise, no more messages wait.
const LAST_NOTES_TURNS: usize = 4;

/// What a service reported in one turn, beside what is done at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Notes {
    /// `READY=1`.
    pub ready: bool,
    /// `STOPPING=1`.
    pub ending: bool,
    /// `WATCHDOG=1`.
    pub alive: bool,
    /// `WATCHDOG=trigger`.
    pub hangs: bool,
    /// `WATCHDOG_USEC=`.
    pub watchdog_ns: Option<u64>,
    /// `EXTEND_TIMEOUT_USEC=`.
    pub extend_ns: Option<u64>,
    /// What was wrong, the first time since its start.
    pub complaint: Option<Complaint>,
    /// No message waits any more.
    pub drained: bool,
}

/// A service's cell: the namespaces that each of its processes enters.
#[derive(Debug)]
pub enum CellState {
    /// Not made: as an ordinary process for ever.
    Unasked,
    /// The helper makes it, for the n-th time.
    Asked(u8),
    /// Held.
    Made(Vec<OwnedFd>),
    /// It could not be made.
    Refused,
}

/// One service.
pub struct Unit {
    /// What the manifest says.
    pub service: Service,
    /// Lines a second that it may write now; 0 for any.
    pub log_rate: u32,
    /// Its uid on the appliance.
    pub uid: u32,
    /// Sockets bound for it, kept over its restarts.
    pub listeners: Vec<(String, OwnedFd)>,
    /// Further descriptors that it gets.
    pub passed: Vec<(String, OwnedFd)>,
    /// Index into the table of images.
    pub image: usize,
    /// Its leaf, on the appliance.
    pub leaf: Option<Leaf>,
    /// Its cell, on the appliance.
    pub cell: CellState,
    /// It does not start yet: an upgrade has not come to it.
    pub held_back: bool,
    /// Its process.
    pub child: Option<Child>,
    /// Ready to be started again and again.
    pub spawn: Option<Spawn>,
    notify: Option<UnixDatagram>,
    /// What it left here.
    pub store: FdStore,
    /// Messages refused, in whole or in part, since its process started.
    pub refused_notes: u32,
    /// Read end of its stdout and stderr.
    pub output: Option<File>,
    /// Turns that output and messages have had since the last beat.
    turns: [u32; 2],
    partial: Vec<u8>,
    lines_this_second: u32,
    second: u64,
    dropped: u64,
    /// When its process started, 0 without one.
    pub started_ns: u64,
    /// From start to readiness.
    pub ready_ns: u64,
    /// Its program has not become a process once.
    pub never_ran: bool,
    /// What the watches on its memory have seen.
    pub strain: crate::heart::memory::Strain,
    /// Why PID 1 kills its process, if it does.
    pub verdict: Option<Cause>,
    /// What its leaf had met when that was last looked at.
    counts: Counts,
    /// How the last process ended.
    pub last_exit: Fixed<96>,
    /// What it last said with `STATUS=`.
    pub status: Fixed<128>,
    /// Bytes of its leaf, as of the last look.
    pub memory_bytes: Option<u64>,
}

impl Unit {
    /// A service without a process.
    #[must_use]
    pub fn new(service: Service, uid: u32, image: usize) -> Self {
        Self {
            store: FdStore::new(service.fd_store),
            log_rate: service.log_rate,
            service,
            uid,
            listeners: Vec::new(),
            passed: Vec::new(),
            image,
            leaf: None,
            cell: CellState::Unasked,
            held_back: false,
            child: None,
            spawn: None,
            notify: None,
            refused_notes: 0,
            output: None,
            turns: [0; 2],
            partial: Vec::new(),
            lines_this_second: 0,
            second: 0,
            dropped: 0,
            started_ns: 0,
            ready_ns: 0,
            never_ran: true,
            strain: Default::default(),
            verdict: None,
            counts: Counts::default(),
            last_exit: Fixed::default(),
            status: Fixed::default(),
            memory_bytes: None,
        }
    }

    /// Takes up its process, as far as it was seen to be there still.
    pub fn go_on(&mut self, row: &UnitRow<'_>, child: Option<Child>, partial: &[u8]) {
        if child.is_some() {
            self.started_ns = row.started_ns;
            self.ready_ns = row.ready_ns;
        }
        self.child = child;
        self.never_ran = row.never_ran;
        self.last_exit = Fixed::of(format_args!("{}", row.last_exit));
        self.status = Fixed::of(format_args!("{}", row.status));
        self.partial.extend_from_slice(partial);
    }

    /// Takes up its notify socket.
    pub fn hear(&mut self, socket: OwnedFd) {
        self.notify = Some(socket.into());
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        self.service.name.as_str()
    }

    /// Binds the sockets of its manifest below `run`, and its notify socket.
    ///
    /// # Errors
    /// One sentence naming the socket.
    pub fn bind(&mut self, run: &Path, http: &str, give_away: bool) -> Result<(), String> {
        let give_to = give_away.then_some(self.uid);
        for listen in &self.service.listen {
            let fd = bind_one(listen, run, http, give_to)?;
            self.listeners.push((listen.name.as_str().to_owned(), fd));
        }
        self.bind_notify(run, give_away)
    }

    /// Becomes what another manifest says: sockets that both have stay as they are, with what waits in them.
    ///
    /// # Errors
    /// One sentence naming the socket.
    pub fn rebind(
        &mut self,
        service: Service,
        uid: u32,
        (run, http, give_away): (&Path, &str, bool),
    ) -> Result<(), String> {
        let before = std::mem::replace(&mut self.service, service);
        let same_owner = std::mem::replace(&mut self.uid, uid) == uid;
        self.store.set_limit(self.service.fd_store);
        let mut there = std::mem::take(&mut self.listeners);
        let give_to = give_away.then_some(uid);
        let mut failed = Ok(());
        for listen in &self.service.listen {
            let kept = before.listen.contains(listen) && (same_owner || !give_away);
            let at = there
                .iter()
                .position(|(name, _)| kept && name == listen.name.as_str());
            let name = listen.name.as_str().to_owned();
            match at {
                Some(at) => self.listeners.push(there.swap_remove(at)),
                None => match bind_one(listen, run, http, give_to) {
                    Ok(fd) => self.listeners.push((name, fd)),
                    Err(e) => failed = Err(e),
                },
            }
        }
        if self.notify.is_none() || !same_owner {
            self.bind_notify(run, give_away)?;
        }
        failed
    }

    fn bind_notify(&mut self, run: &Path, give_away: bool) -> Result<(), String> {
        if !self.service.notify && self.service.watchdog_ms == 0 {
            return Ok(());
        }
        let path = run.join("notify").join(self.name());
        let bound = || -> io::Result<UnixDatagram> {
            let socket = match UnixDatagram::bind(&path) {
                // Of the PID 1 before us.
                Err(e) if e.kind() == io::ErrorKind::AddrInUse => {
                    remove(&path)?;
                    UnixDatagram::bind(&path)?
                }
                bound => bound?,
            };
            socket.set_nonblocking(true)?;
            sys::packet::attest_senders(socket.as_fd())?;
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600))?;
            if give_away {
                sys::machine::give_to(&path, self.uid)?;
            }
            Ok(socket)
        };
        self.notify = Some(bound().map_err(|e| format!("notify socket {}: {e}", path.display()))?);
        Ok(())
    }

    /// The notify socket, to be watched.
    #[must_use]
    pub fn notify(&self) -> Option<BorrowedFd<'_>> {
        self.notify.as_ref().map(AsFd::as_fd)
    }

    /// Starts its process with stdin from `null`.
    ///
    /// # Errors
    /// As `clone3(2)` and `execveat(2)`.
    pub fn start(
        &mut self,
        image: BorrowedFd<'_>,
        null: BorrowedFd<'_>,
        now: u64,
        state: &mut State,
        releaser: &mut Releaser,
    ) -> io::Result<()> {
        self.store.forget_dead(state, releaser);
        if self.store.take_change() {
            let names = passed_names(&self.listeners, &self.store, &self.passed);
            if let Some(spawn) = &mut self.spawn {
                spawn.set_passed(&names)?;
            }
        }
        let Some(spawn) = &mut self.spawn else {
            return Err(io::ErrorKind::NotFound.into());
        };
        if let Some(socket) = &self.notify {
            // What the last process left would speak for this one.
            for _ in 0..STALE_NOTES_MAX {
                match take_packet(socket.as_fd(), &mut [0]) {
                    Ok(stale) => releaser.take(stale.descriptors),
                    Err(_) => break,
                }
            }
        }
        let (read, write) = io::pipe()?;
        let read = OwnedFd::from(read);
        sys::inherit::set_nonblocking(read.as_fd())?;
        let listeners = self.listeners.iter().map(|(_, fd)| fd.as_fd());
        let stored = self.store.iter().map(|(_, fd)| fd);
        let others = self.passed.iter().map(|(_, fd)| fd.as_fd());
        let passed: Vec<BorrowedFd<'_>> = listeners.chain(stored).chain(others).collect();
        let mut namespaces = heapless::Vec::<BorrowedFd<'_>, NAMESPACES_MAX>::new();
        if let CellState::Made(cell) = &self.cell {
            namespaces.extend(cell.iter().take(NAMESPACES_MAX).map(AsFd::as_fd));
        }
        let child = spawn.start(&Descriptors {
            image,
            stdio: [null, write.as_fd(), write.as_fd()],
            passed: &passed,
            cgroup: self.leaf.as_ref().map(|l| l.folder.as_fd()),
            namespaces: &namespaces,
        })?;
        self.child = Some(child);
        self.never_ran = false;
        self.output = Some(File::from(read));
        self.partial.clear();
        self.started_ns = now;
        self.ready_ns = 0;
        self.status = Fixed::default();
        self.refused_notes = 0;
        Ok(())
    }

    /// Names of the descriptors in the order of [`Unit::start`].
    #[must_use]
    pub fn descriptor_names(&self) -> Vec<&str> {
        passed_names(&self.listeners, &self.store, &self.passed)
    }

    /// Sends its process a signal.
    ///
    /// # Errors
    /// As `pidfd_send_signal(2)`.
    pub fn signal(&self, signal: i32) -> io::Result<()> {
        match &self.child {
            Some(child) => sys::process::signal(child.pidfd.as_fd(), signal),
            None => Err(io::ErrorKind::NotFound.into()),
        }
    }

    /// Kills its process and all that it started.
    pub fn kill(&self) {
        // One of the two is enough; a process that is gone needs neither.
        let whole = self
            .leaf
            .as_ref()
            .map_or(Err(io::ErrorKind::NotFound.into()), Leaf::kill);
        if whole.is_err() {
            let _ = self.signal(9);
        }
    }

    /// What its leaf has met since the last time that this was asked.
    pub fn new_counts(&mut self) -> Option<Counts> {
        let all = self.leaf.as_mut()?.counts();
        let earlier = std::mem::replace(&mut self.counts, all);
        Some(all.since(&earlier))
    }

    /// Notes how its process ended.
    pub fn ended(&mut self, reaped: &Reaped, reason: Reason, now: u64) {
        let uptime_ms = now.saturating_sub(self.started_ns) / 1_000_000;
        let why = match reason {
            Reason::OutOfMemory => " (out of memory)",
            Reason::StartTimeout => " (start timeout)",
            Reason::StopTimeout => " (stop timeout)",
            Reason::WatchdogTimeout => " (watchdog timeout)",
            _ => "",
        };
        self.last_exit = Fixed::of(format_args!("{}{why} after {uptime_ms} ms", reaped.exit));
        self.verdict = None;
        self.child = None;
        self.started_ns = 0;
        self.ready_ns = 0;
    }

    /// Counts a turn of output; true with the last one before the next beat.
    pub fn output_is_over(&mut self) -> bool {
        let [output, _] = &mut self.turns;
        *output += 1;
        *output == TURNS_A_BEAT
    }

    /// Counts a turn of messages; true with the last one before the next beat.
    pub fn notes_are_over(&mut self) -> bool {
        let [_, notes] = &mut self.turns;
        *notes += 1;
        *notes == TURNS_A_BEAT
    }

    /// Begins the next beat: which of output and messages had used theirs up.
    pub fn renew_turns(&mut self) -> [bool; 2] {
        std::mem::take(&mut self.turns).map(|turns| turns >= TURNS_A_BEAT)
    }

    /// Reads what it reported, and does what that says about its store and its status.
    pub fn read_notes(
        &mut self,
        index: usize,
        state: &mut State,
        releaser: &mut Releaser,
    ) -> Notes {
        let mut notes = Notes::default();
        let mut buf = [0u8; MESSAGE_BYTES_MAX];
        for _ in 0..NOTES_A_TURN {
            // What comes along must find a place before it is taken.
            if releaser.is_full() {
                break;
            }
            let taken = self
                .notify
                .as_ref()
                .map(|s| take_packet(s.as_fd(), &mut buf));
            let Some(Ok(received)) = taken else {
                notes.drained = true;
                break;
            };
            let bytes = buf.get(..received.bytes).unwrap_or_default();
            self.take_note(index, (bytes, received), &mut notes, state, releaser);
        }
        notes
    }

    /// Reads what a process that ended said last, of which only its store and its status count.
    pub fn read_last_notes(
        &mut self,
        index: usize,
        state: &mut State,
        releaser: &mut Releaser,
    ) -> Option<Complaint> {
        let mut complaint = None;
        for _ in 0..LAST_NOTES_TURNS {
            let notes = self.read_notes(index, state, releaser);
            complaint = complaint.or(notes.complaint);
            if notes.drained {
                break;
            }
        }
        complaint
    }

    fn take_note(
        &mut self,
        index: usize,
        (bytes, received): (&[u8], Received),
        notes: &mut Notes,
        state: &mut State,
        releaser: &mut Releaser,
    ) {
        let sender = received.sender.unwrap_or(0);
        let (message, mut complaint) = if self.is_own(sender) {
            notify::parse(bytes, received.cut, received.descriptors.len())
        } else {
            (Message::default(), Some(Complaint::Foreign { pid: sender }))
        };
        notes.ready |= message.ready;
        notes.ending |= message.stopping;
        notes.alive |= message.alive;
        notes.hangs |= message.hangs;
        notes.watchdog_ns = message.watchdog_ns.or(notes.watchdog_ns);
        notes.extend_ns = message.extend_ns.or(notes.extend_ns);
        if let Some(status) = message.status {
            self.set_status(status);
        }
        match message.store {
            Store::Leave => releaser.take(received.descriptors),
            Store::Keep { name, .. } if self.gives_name(name) => {
                releaser.take(received.descriptors);
                complaint = complaint.or(Some(Complaint::StoreName));
            }
            Store::Keep { name, poll } => {
                let refused =
                    self.store
                        .keep(index, (name, poll), received.descriptors, state, releaser);
                complaint = complaint.or(refused);
            }
            Store::Forget { name } => {
                self.store.forget(name, state, releaser);
                releaser.take(received.descriptors);
            }
        }
        if complaint.is_some() {
            if self.refused_notes == 0 {
                notes.complaint = complaint;
            }
            self.refused_notes = self.refused_notes.saturating_add(1);
        }
    }

    /// Whether a process is one of this service: the socket is the service's, and may have been handed on.
    /// As an ordinary process there are no cgroups to tell, and its uid is everybody's.
    fn is_own(&self, pid: i32) -> bool {
        if self.child.as_ref().is_some_and(|child| child.pid == pid) {
            return true;
        }
        self.leaf
            .as_ref()
            .is_none_or(|leaf| leaf.holds(pid, self.name()))
    }

    /// Whether PID 1 passes something of this name itself, which nothing in the store may pass for. The program is
    /// the most dear of them: the jail executes it.
    fn gives_name(&self, name: &str) -> bool {
        let own = self.listeners.iter().chain(&self.passed);
        name == "image" || own.map(|(own, _)| own).any(|own| own == name)
    }

    fn set_status(&mut self, status: &[u8]) {
        self.status = Fixed::default();
        for chunk in status.utf8_chunks() {
            let valid = chunk.valid().chars();
            let clean = valid.map(|c| if c.is_control() { '?' } else { c });
            for c in clean.chain((!chunk.invalid().is_empty()).then_some('?')) {
                // What does not fit is cut.
                let _ = std::fmt::Write::write_char(&mut self.status, c);
            }
        }
    }

    /// Reads its output into the ring; `false` at its end.
    pub fn read_output(&mut self, by: u8, now: u64, journal: &mut Journal) -> bool {
        let mut buf = [0u8; OUTPUT_TURN_BYTES];
        let Some(output) = &mut self.output else {
            return false;
        };
        let bytes = match output.read(&mut buf) {
            Ok(0) => {
                self.flush(by, now, journal);
                self.output = None;
                return false;
            }
            Ok(bytes) => bytes,
            Err(e)
                if matches!(
                    e.kind(),
                    io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted
                ) =>
            {
                return true;
            }
            Err(_) => {
                self.output = None;
                return false;
            }
        };
        for byte in buf.get(..bytes).unwrap_or_default() {
            if *byte == b'\n' {
                self.flush(by, now, journal);
            } else {
                self.partial.push(*byte);
                if self.partial.len() >= PARTIAL_BYTES_MAX {
                    self.flush(by, now, journal);
                }
            }
        }
        // What was read is in no pipe any more.
        journal.state.set_partial(usize::from(by), &self.partial);
        true
    }

    /// Reads what a process that ended left in its pipe, whether or not its last line has an end.
    pub fn read_last_words(&mut self, by: u8, now: u64, journal: &mut Journal) {
        for _ in 0..LAST_WORDS_TURNS {
            if !self.read_output(by, now, journal) {
                break;
            }
        }
        self.flush(by, now, journal);
    }

    /// Whether it is our own ledger, whose checkpoints a person at the terminal is to see.
    fn is_ledger(&self) -> bool {
        let own = matches!(self.service.image, Image::Services);
        own && self
            .service
            .args
            .first()
            .is_some_and(|role| role.as_str() == "ledger")
    }

    /// Stores the line that was gathered, unless the service has had its share of this second.
    fn flush(&mut self, by: u8, now: u64, journal: &mut Journal) {
        if self.partial.is_empty() {
            return;
        }
        let second = now / 1_000_000_000;
        if second != self.second {
            if self.dropped > 0 {
                let note = Fixed::<64>::of(format_args!(
                    "{} lines dropped: over {} a second",
                    self.dropped, self.log_rate
                ));
                let note = note.as_str().as_bytes();
                journal.state.push_line(now, by, Level::Warn, note);
            }
            (self.second, self.lines_this_second, self.dropped) = (second, 0, 0);
        }
        self.lines_this_second = self.lines_this_second.saturating_add(1);
        if self.log_rate > 0 && self.lines_this_second > self.log_rate {
            self.dropped += 1;
        } else {
            let (level, text) = level_of(&self.partial);
            journal.state.push_line(now, by, level, text);
            if self.is_ledger() {
                journal.announce(text);
            }
        }
        self.partial.clear();
        journal.state.set_partial(usize::from(by), &[]);
    }
}

/// Listening sockets first, as sd_listen_fds(3) has it, then what the service left, then everything else: what is
/// for the jail alone must be last, so that no number is left out behind it.
fn passed_names<'a>(
    listeners: &'a [(String, OwnedFd)],
    store: &'a FdStore,
    passed: &'a [(String, OwnedFd)],
) -> Vec<&'a str> {
    let name = |(name, _): &'a (String, OwnedFd)| name.as_str();
    let stored = store.iter().map(|(name, _)| name);
    let listeners = listeners.iter().map(name);
    listeners
        .chain(stored)
        .chain(passed.iter().map(name))
        .collect()
}

/// The level that a line names by a kernel-style `<4>`; `info` without one.
fn level_of(line: &[u8]) -> (Level, &[u8]) {
    match line {
        [b'<', digit @ b'0'..=b'7', b'>', rest @ ..] => {
            let level = match digit {
                b'0'..=b'3' => Level::Error,
                b'4' => Level::Warn,
                b'5' | b'6' => Level::Info,
                _ => Level::Debug,
            };
            (level, rest)
        }
        other => (Level::Info, other),
    }
}

fn bind_unix(path: &Path, kind: ListenKind, mode: u32, owner: Option<u32>) -> io::Result<OwnedFd> {
    let fd = match kind {
        ListenKind::UnixSeqpacket => OwnedFd::from(PacketListener::bind(path, Mode::Blocking)?),
        ListenKind::UnixStream | ListenKind::Tcp => {
            remove(path)?;
            OwnedFd::from(UnixListener::bind(path)?)
        }
    };
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode))?;
    if let Some(uid) = owner {
        sys::machine::give_to(path, uid)?;
    }
    Ok(fd)
}

/// Binds one socket of a manifest.
fn bind_one(
    listen: &Listen,
    run: &Path,
    http: &str,
    give_to: Option<u32>,
) -> Result<OwnedFd, String> {
    let name = listen.name.as_str();
    match listen.kind {
        ListenKind::Tcp => {
            let address = if name == "http" && !http.is_empty() {
                http
            } else {
                listen.address.as_str()
            };
            // Parsed first: binding a name would ask a name server, and wait for it.
            address
                .parse::<SocketAddr>()
                .map_err(io::Error::other)
                .and_then(TcpListener::bind)
                .map(OwnedFd::from)
                .map_err(|e| format!("listen {name} on {address}: {e}"))
        }
        kind => {
            let file = if listen.address.as_str().is_empty() {
                name
            } else {
                listen.address.as_str()
            };
            let path = run.join(file);
            bind_unix(&path, kind, u32::from(listen.mode), give_to)
                .map_err(|e| format!("listen {name} on {}: {e}", path.display()))
        }
    }
}

fn remove(path: &Path) -> io::Result<()> {
    match std::fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kernel_style_prefix_names_the_level() {
        assert_eq!(level_of(b"<4>careful"), (Level::Warn, &b"careful"[..]));
        assert_eq!(level_of(b"<9>x"), (Level::Info, &b"<9>x"[..]));
        assert_eq!(level_of(b"<3"), (Level::Info, &b"<3"[..]));
        assert_eq!(level_of(b""), (Level::Info, &b""[..]));
    }
}
