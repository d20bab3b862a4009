//! One pipelined conversation with a service over a packet socket: many questions under way, each
//! answered by its id, again after every reconnection.
//!
//! Owns the socket, the questions that are not answered yet and the order in which they are sent:
//! ids count up, and after a reconnection every unanswered question is sent again in that order,
//! before any new one. Whether a peer is *up* is what its answer to the probe says, not that it
//! accepts connections.
//!
//! Never here: what a question means. Start with [`Link::ask`] and [`Link::up`].

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::os::fd::AsRawFd;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;
use sys::packet::{Mode, PacketSocket};
use tokio::io::unix::AsyncFd;
use tokio::sync::{Notify, oneshot, watch};
use tokio::time::{Instant, timeout, timeout_at};
use wire::{Frame, Hello, Kind, Message, PACKET_BYTES_MAX, Refused, WireError};

/// Between two tries to connect, and between two probes of a peer that is not up.
const RETRY_PERIOD: Duration = Duration::from_millis(100);
/// A peer that leaves a question unanswered this long is connected to anew.
const STALL_MAX: Duration = Duration::from_secs(5);
/// Time for the peer's hello.
const HELLO_MAX: Duration = Duration::from_secs(1);
/// How long a question may wait for the successor of a peer that said that it stops: two and a half times the
/// longest start and stop of the default manifest, on a machine that is busy.
const SUCCESSOR_MAX: Duration = Duration::from_secs(30);
/// For the answer of the successor, once it is up: what waited is asked again.
const SETTLED_MAX: Duration = Duration::from_secs(2);
/// Id of the probe; questions count up from 1 and never get here.
const PROBE_ID: u64 = u64::MAX;

/// A packet that answered a question.
#[derive(Debug)]
pub struct Answer(Box<[u8]>);

impl Answer {
    /// The frame in it.
    ///
    /// # Errors
    /// [`WireError`]; the header held when it was received.
    pub fn frame(&self) -> Result<Frame<'_>, WireError> {
        Frame::open(&self.0)
    }
}

/// Why a question has no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum LinkError {
    /// The peer did not answer in time.
    #[error("no answer in time")]
    Timeout,
    /// Too many questions wait already.
    #[error("{0} questions wait already")]
    Full(usize),
    /// The question does not fit a packet.
    #[error("question: {0}")]
    Wire(WireError),
}

/// What becomes of a question whose asker gave up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Abandoned {
    /// It is forgotten.
    Forget,
    /// It is sent until it is answered: a record of what happened.
    Keep,
}

/// How a peer shows that it is up.
pub struct Probe {
    /// The packet to send, made for [`PROBE_ID`].
    packet: Box<[u8]>,
    up: fn(Frame<'_>) -> bool,
}

impl Probe {
    /// Asks `question`; `up` judges the answer.
    ///
    /// # Errors
    /// [`WireError`] if the question does not fit.
    pub fn new<M: Message>(question: &M, up: fn(Frame<'_>) -> bool) -> Result<Self, WireError> {
        let mut buf = [0u8; 256];
        let packet = wire::encode(PROBE_ID, question, &mut buf)?.into();
        Ok(Self { packet, up })
    }
}

struct Question {
    packet: Box<[u8]>,
    asked: Instant,
    reply: oneshot::Sender<Answer>,
    abandoned: Abandoned,
}

struct Queue {
    last_id: u64,
    waiting_max: usize,
    waiting: BTreeMap<u64, Question>,
    unsent: VecDeque<u64>,
    buf: Box<[u8]>,
    /// A peer that said that it stops has a successor: until then it is waited for.
    successor_until: Option<Instant>,
}

struct Shared {
    name: &'static str,
    path: PathBuf,
    probe: Probe,
    queue: Mutex<Queue>,
    wake: Notify,
    up: watch::Sender<bool>,
}

/// A conversation with one service; clones are handles of the same.
#[derive(Clone)]
pub struct Link(Arc<Shared>);

impl Link {
    /// Makes a link to a socket for at most `waiting_max` unanswered questions; [`Link::run`] drives
    /// it.
    #[must_use]
    pub fn new(name: &'static str, path: PathBuf, probe: Probe, waiting_max: usize) -> Self {
        let queue = Queue {
            last_id: 0,
            waiting_max,
            waiting: BTreeMap::new(),
            unsent: VecDeque::new(),
            buf: vec![0; PACKET_BYTES_MAX].into_boxed_slice(),
            successor_until: None,
        };
        Self(Arc::new(Shared {
            name,
            path,
            probe,
            queue: Mutex::new(queue),
            wake: Notify::new(),
            up: watch::Sender::new(false),
        }))
    }

    /// Whether the peer is up now, and a way to wait for a change.
    #[must_use]
    pub fn up(&self) -> watch::Receiver<bool> {
        self.0.up.subscribe()
    }

    /// Waits until the peer is up, beyond the limit only for a successor that was announced.
    ///
    /// # Errors
    /// [`LinkError::Timeout`].
    pub async fn wait_up(&self, limit: Duration) -> Result<(), LinkError> {
        if *self.0.up.borrow() {
            return Ok(());
        }
        let mut up = self.up();
        match self.0.within(limit, up.wait_for(|up| *up)).await {
            Some(Ok(_)) => Ok(()),
            _ => Err(LinkError::Timeout),
        }
    }

    /// Says that the peer answered what only a broken one answers: it is probed until it is up.
    pub fn mark_down(&self) {
        self.0.up.send_replace(false);
        self.0.wake.notify_one();
    }

    /// Questions that wait for an answer.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.0.queue().waiting.len()
    }

    /// Asks one question, made for the id that it will have, and waits for its answer, beyond the limit only for
    /// that of a successor that was announced.
    ///
    /// # Errors
    /// [`LinkError`].
    pub async fn ask<'m, M: Message>(
        &self,
        abandoned: Abandoned,
        limit: Duration,
        make: impl FnOnce(u64) -> M + 'm,
    ) -> Result<Answer, LinkError> {
        let (id, answer) = self.0.queue().push(abandoned, make)?;
        self.0.wake.notify_one();
        let _forget = Forget(&self.0, id);
        match self.0.within(limit, answer).await {
            Some(Ok(answer)) => Ok(answer),
            _ => Err(LinkError::Timeout),
        }
    }

    /// Connects, sends and receives for ever.
    pub async fn run(self) {
        loop {
            match self.0.connect().await {
                Ok(socket) => {
                    let ended = self.0.converse(&socket).await;
                    if self.0.up.send_replace(false) {
                        log::warn!("peer lost: peer={} cause={ended}", self.0.name);
                    }
                }
                Err(e) => log::debug!("peer not there: peer={} cause={e}", self.0.name),
            }
            tokio::time::sleep(RETRY_PERIOD).await;
        }
    }
}

/// Takes an abandoned question back when its asker goes, whether by deadline or by being dropped.
struct Forget<'l>(&'l Shared, u64);

impl Drop for Forget<'_> {
    fn drop(&mut self) {
        let mut queue = self.0.queue();
        let forget = |q: &Question| q.abandoned == Abandoned::Forget;
        if queue.waiting.get(&self.1).is_some_and(forget) {
            queue.waiting.remove(&self.1);
        }
    }
}

impl Queue {
    fn push<M: Message>(
        &mut self,
        abandoned: Abandoned,
        make: impl FnOnce(u64) -> M,
    ) -> Result<(u64, oneshot::Receiver<Answer>), LinkError> {
        if self.waiting.len() >= self.waiting_max {
            return Err(LinkError::Full(self.waiting_max));
        }
        let id = self.last_id + 1;
        let packet = wire::encode(id, &make(id), &mut self.buf).map_err(LinkError::Wire)?;
        let (reply, answer) = oneshot::channel();
        let question = Question {
            packet: packet.into(),
            asked: Instant::now(),
            reply,
            abandoned,
        };
        self.last_id = id;
        self.waiting.insert(id, question);
        self.unsent.push_back(id);
        Ok((id, answer))
    }

    fn again(&mut self) {
        self.unsent = self.waiting.keys().copied().collect();
        let now = Instant::now();
        for question in self.waiting.values_mut() {
            question.asked = now;
        }
    }
}

impl Shared {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        // Nothing panics under this lock; were it so, the queue is whole all the same.
        self.queue.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// Waits for so long, and on for the successor of a peer that said that it stops.
    async fn within<T>(&self, limit: Duration, what: impl Future<Output = T>) -> Option<T> {
        let mut what = std::pin::pin!(what);
        if let Ok(done) = timeout(limit, &mut what).await {
            return Some(done);
        }
        let until = self.queue().successor_until?;
        timeout_at(until, what).await.ok()
    }

    async fn connect(&self) -> io::Result<AsyncFd<PacketSocket>> {
        let socket = watched(PacketSocket::connect(&self.path, Mode::NonBlocking)?)?;
        let mut buf = [0u8; 256];
        let hello = wire::encode(0, &Hello::OURS, &mut buf).map_err(invalid)?;
        socket.get_ref().send(hello, None)?;
        let mut buf = [0u8; 256];
        let read = socket.async_io(tokio::io::Interest::READABLE, |s| s.receive(&mut buf));
        let (bytes, _) = timeout(HELLO_MAX, read)
            .await
            .map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
        let packet = buf.get(..bytes).unwrap_or_default();
        let theirs = Frame::open(packet)
            .and_then(|f| f.body::<Hello>())
            .map_err(invalid)?;
        match Hello::OURS.common(theirs) {
            Some(_) => Ok(socket),
            None => Err(invalid(WireError::Version(theirs.max))),
        }
    }

    /// Talks until something breaks; says what.
    async fn converse(&self, socket: &AsyncFd<PacketSocket>) -> String {
        self.queue().again();
        let mut buf = vec![0u8; PACKET_BYTES_MAX];
        let mut blocked = false;
        let mut probe = true;
        let mut tick = tokio::time::interval(RETRY_PERIOD);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            if let Err(e) = self.send(socket.get_ref(), &mut probe, &mut blocked) {
                return format!("send: {e}");
            }
            tokio::select! {
                ready = socket.readable() => match ready {
                    Ok(mut ready) => match self.receive(socket.get_ref(), &mut buf) {
                        Ok(()) => ready.clear_ready(),
                        Err(cause) => return cause,
                    },
                    Err(e) => return format!("poll: {e}"),
                },
                ready = socket.writable(), if blocked => match ready {
                    // The next send finds out whether there is room.
                    Ok(mut ready) => { ready.clear_ready(); blocked = false; }
                    Err(e) => return format!("poll: {e}"),
                },
                () = self.wake.notified() => {}
                _ = tick.tick() => {
                    probe |= !*self.up.borrow();
                    if self.stalled() {
                        return format!("no answer for {} s", STALL_MAX.as_secs());
                    }
                }
            }
        }
    }

    fn send(&self, socket: &PacketSocket, probe: &mut bool, blocked: &mut bool) -> io::Result<()> {
        if *blocked {
            return Ok(());
        }
        if *probe {
            *blocked = would_block(socket.send(&self.probe.packet, None))?;
            *probe = *blocked;
        }
        let mut queue = self.queue();
        while let Some(id) = queue.unsent.front().copied().filter(|_| !*blocked) {
            if let Some(question) = queue.waiting.get(&id) {
                *blocked = would_block(socket.send(&question.packet, None))?;
            }
            if !*blocked {
                queue.unsent.pop_front();
            }
        }
        Ok(())
    }

    /// Takes every packet that is there.
    fn receive(&self, socket: &PacketSocket, buf: &mut [u8]) -> Result<(), String> {
        loop {
            let bytes = match socket.receive(buf) {
                Ok((0, _)) => return Err("closed".to_owned()),
                Ok((bytes, _)) => bytes,
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(e) => return Err(format!("receive: {e}")),
            };
            let packet = buf.get(..bytes).unwrap_or_default();
            let frame = Frame::open(packet).map_err(|e| e.to_string())?;
            if frame.id == PROBE_ID {
                self.probed(frame);
                continue;
            }
            if is_farewell(frame) {
                self.queue().successor_until = Some(Instant::now() + SUCCESSOR_MAX);
                return Err("it stops".to_owned());
            }
            // No question of this id: its asker gave up.
            if let Some(question) = self.queue().waiting.remove(&frame.id) {
                let _ = question.reply.send(Answer(packet.into()));
            }
        }
    }

    fn probed(&self, frame: Frame<'_>) {
        let up = (self.probe.up)(frame);
        if up && !self.up.send_replace(true) {
            let settled = Instant::now() + SETTLED_MAX;
            let mut queue = self.queue();
            queue.successor_until = queue.successor_until.map(|until| until.min(settled));
            log::info!("peer up: peer={}", self.name);
        }
        if let (Kind::Refused, Ok(r)) = (frame.kind, frame.body::<Refused<'_>>()) {
            log::debug!("peer refuses the probe: peer={} code={}", self.name, r.code);
        }
    }

    fn stalled(&self) -> bool {
        let queue = self.queue();
        queue
            .waiting
            .values()
            .next()
            .is_some_and(|q| q.asked.elapsed() > STALL_MAX)
    }
}

/// Whether a peer says that it stops.
fn is_farewell(frame: Frame<'_>) -> bool {
    let code = |r: Refused<'_>| r.code == wire::STOPPING.code;
    frame.id == 0 && frame.kind == Kind::Refused && frame.body().is_ok_and(code)
}

/// Registers an owned descriptor with the reactor.
///
/// # Errors
/// As `epoll_ctl(2)`.
#[expect(
    deprecated,
    reason = "its successor is unsafe to call, and this room has no unsafe; every type passed here \
              owns its descriptor and never gives another one out"
)]
pub(crate) fn watched<T: AsRawFd>(fd: T) -> io::Result<AsyncFd<T>> {
    AsyncFd::new(fd)
}

fn would_block(sent: io::Result<()>) -> io::Result<bool> {
    match sent {
        Ok(()) => Ok(false),
        Err(e) if e.kind() == io::ErrorKind::WouldBlock => Ok(true),
        Err(e) => Err(e),
    }
}

fn invalid(e: WireError) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, e)
}

impl std::fmt::Debug for Link {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Link({}, {:?})", self.0.name, self.0.path.as_os_str())
    }
}
