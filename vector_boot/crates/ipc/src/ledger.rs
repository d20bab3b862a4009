//! Client of the ledger: appends that are durable when they are answered.
//!
//! [`Client`] asks one thing at a time; [`Pipeline`] keeps many appends under way over one
//! connection and matches the answers, which may overtake each other, by id.
//!
//! Never here: retries. After any error but [`IpcError::Refused`] drop the client and connect again;
//! an [`wire::ledger::Origin`] makes the repeat harmless.

use crate::{Connection, IpcError};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use sys::packet::PacketSocket;
use wire::ledger::{Append, AppendMany, Appended, AppendedMany, Head, HeadGet};
use wire::work::{
    JobClaim, JobClaimed, JobEnqueue, JobEnqueued, JobRelease, JobResult, Publish, Published,
};
use wire::{Frame, Kind, PACKET_BYTES_MAX, Refused, WireError};

/// File name of the socket in the run folder.
pub const SOCKET_NAME: &str = "ledger.wire";

/// A conversation with the ledger, one question at a time.
pub struct Client(Connection);

impl Client {
    /// Connects; no wait is longer than `limit`.
    ///
    /// # Errors
    /// [`IpcError`].
    pub fn connect(path: &Path, limit: Duration) -> Result<Self, IpcError> {
        Connection::open(path, limit).map(Self)
    }

    /// Appends one event and waits until it is durable.
    ///
    /// # Errors
    /// [`IpcError::Refused`] with the ledger's code, or the connection's failure.
    pub fn append(&mut self, event: &Append<'_>) -> Result<Appended, IpcError> {
        self.0.ask(event, |frame, _| frame.body::<Appended>())
    }

    /// Appends events, all or none, and waits until they are durable.
    ///
    /// # Errors
    /// As [`Self::append`].
    pub fn append_many(&mut self, events: &AppendMany<'_>) -> Result<AppendedMany, IpcError> {
        self.0.ask(events, |frame, _| frame.body::<AppendedMany>())
    }

    /// Publishes a message on the bus and waits until it is durable.
    ///
    /// # Errors
    /// As [`Self::append`].
    pub fn publish(&mut self, message: &Publish<'_>) -> Result<Published, IpcError> {
        self.0.ask(message, |frame, _| frame.body::<Published>())
    }

    /// Makes a job be there.
    ///
    /// # Errors
    /// As [`Self::append`].
    pub fn enqueue(&mut self, job: &JobEnqueue<'_>) -> Result<JobEnqueued, IpcError> {
        self.0.ask(job, |frame, _| frame.body::<JobEnqueued>())
    }

    /// Asks for a job. `None` if there is none that can be had: somebody else was first.
    ///
    /// # Errors
    /// As [`Self::append`].
    pub fn claim(&mut self, claim: &JobClaim<'_>) -> Result<Option<Claimed>, IpcError> {
        let claimed = self.0.ask(claim, |frame, _| {
            let claimed = frame.body::<JobClaimed<'_>>()?;
            Ok(Claimed {
                job: claimed.job,
                claim: claimed.claim,
                until_ms: claimed.until_ms,
                queue: claimed.queue.to_owned(),
                manifest: claimed.manifest.to_owned(),
            })
        });
        match claimed {
            Ok(claimed) => Ok(Some(claimed)),
            Err(IpcError::Refused { code, .. }) if code == "CONFLICT" || code == "NOT_FOUND" => {
                Ok(None)
            }
            Err(e) => Err(e),
        }
    }

    /// Gives a job back.
    ///
    /// # Errors
    /// As [`Self::append`]; CONFLICT if the claim holds it no more.
    pub fn release(&mut self, release: &JobRelease<'_>) -> Result<Appended, IpcError> {
        self.0.ask(release, |frame, _| frame.body::<Appended>())
    }

    /// Finishes a job.
    ///
    /// # Errors
    /// As [`Self::release`]; BAD_SIG.
    pub fn finish(&mut self, result: &JobResult<'_>) -> Result<Appended, IpcError> {
        self.0.ask(result, |frame, _| frame.body::<Appended>())
    }

    /// Where the log stands.
    ///
    /// # Errors
    /// [`IpcError`].
    pub fn head(&mut self) -> Result<Head, IpcError> {
        self.0.ask(&HeadGet, |frame, _| frame.body::<Head>())
    }
}

/// A job that is held.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claimed {
    /// The job.
    pub job: [u8; 32],
    /// The token with which it is renewed, released or finished.
    pub claim: u64,
    /// When the lease ends, milliseconds since 1970.
    pub until_ms: u64,
    /// Its queue.
    pub queue: String,
    /// Its manifest.
    pub manifest: String,
}

type Outcome = Result<Appended, IpcError>;
type UnderWay = Arc<Mutex<Option<BTreeMap<u64, SyncSender<Outcome>>>>>;

/// Many appends under way over one connection; shared by threads.
///
/// A thread of its own reads the answers. Once the connection fails, every append under way and
/// every later one is [`IpcError::Closed`].
pub struct Pipeline {
    sending: Mutex<Sending>,
    socket: Arc<PacketSocket>,
    under_way: UnderWay,
    limit: Duration,
}

struct Sending {
    buf: Box<[u8]>,
    last_id: u64,
}

/// An append under way.
pub struct Pending {
    answer: Receiver<Outcome>,
    limit: Duration,
}

impl Pending {
    /// Waits until the event is durable, at most the pipeline's limit.
    ///
    /// # Errors
    /// [`IpcError`]; after the limit `TimedOut`, and the event may or may not be there.
    pub fn wait(self) -> Outcome {
        use std::sync::mpsc::RecvTimeoutError;
        self.answer
            .recv_timeout(self.limit)
            .unwrap_or_else(|e| match e {
                RecvTimeoutError::Timeout => {
                    Err(std::io::Error::from(std::io::ErrorKind::TimedOut).into())
                }
                RecvTimeoutError::Disconnected => Err(IpcError::Closed),
            })
    }
}

impl Pipeline {
    /// Connects; no wait is longer than `limit`.
    ///
    /// # Errors
    /// [`IpcError`].
    pub fn connect(path: &Path, limit: Duration) -> Result<Self, IpcError> {
        let socket = Connection::open(path, limit)?.into_socket();
        let reading = socket.try_clone()?;
        let under_way: UnderWay = Arc::new(Mutex::new(Some(BTreeMap::new())));
        let theirs = under_way.clone();
        std::thread::Builder::new()
            .name("ledger-answers".to_owned())
            .spawn(move || read_answers(&reading, &theirs))?;
        Ok(Self {
            sending: Mutex::new(Sending {
                buf: vec![0; PACKET_BYTES_MAX].into_boxed_slice(),
                last_id: 0,
            }),
            socket: Arc::new(socket),
            under_way,
            limit,
        })
    }

    /// Sends one event; the answer is waited for apart.
    ///
    /// # Errors
    /// [`IpcError::Closed`] once the connection failed.
    pub fn begin(&self, event: &Append<'_>) -> Result<Pending, IpcError> {
        let (sender, answer) = sync_channel(1);
        let mut sending = self.sending.lock().unwrap_or_else(PoisonError::into_inner);
        // The connection's own hello and questions had smaller ids.
        sending.last_id += 1;
        let id = sending.last_id;
        let packet = wire::encode(id, event, &mut sending.buf)?;
        {
            let mut under_way = self
                .under_way
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            under_way
                .as_mut()
                .ok_or(IpcError::Closed)?
                .insert(id, sender);
        }
        if let Err(e) = self.socket.send(packet, None) {
            self.socket.shutdown();
            return Err(e.into());
        }
        Ok(Pending {
            answer,
            limit: self.limit,
        })
    }

    /// Sends one event and waits until it is durable.
    ///
    /// # Errors
    /// As [`Self::begin`] and [`Pending::wait`].
    pub fn append(&self, event: &Append<'_>) -> Outcome {
        self.begin(event)?.wait()
    }
}

impl Drop for Pipeline {
    fn drop(&mut self) {
        // Ends the reading thread.
        self.socket.shutdown();
    }
}

fn read_answers(socket: &PacketSocket, under_way: &UnderWay) {
    let mut buf = vec![0; PACKET_BYTES_MAX];
    loop {
        let n = match socket.receive(&mut buf) {
            Ok((n, _)) if n > 0 => n,
            // Nothing was due in this time; appends under way have their own limit.
            Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => continue,
            _ => break,
        };
        let Ok(frame) = Frame::open(buf.get(..n).unwrap_or_default()) else {
            break;
        };
        let mut under_way = under_way.lock().unwrap_or_else(PoisonError::into_inner);
        let asker = under_way.as_mut().and_then(|map| map.remove(&frame.id));
        if let Some(asker) = asker {
            // Whoever asked may have stopped waiting.
            let _ = asker.send(outcome(&frame));
        }
    }
    // Dropping the senders tells everybody.
    under_way
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .take();
    socket.shutdown();
}

fn outcome(frame: &Frame<'_>) -> Outcome {
    match frame.kind {
        Kind::LedgerAppended => Ok(frame.body::<Appended>()?),
        Kind::Refused => Err(frame.body::<Refused<'_>>()?.into()),
        other => Err(WireError::Unexpected(other).into()),
    }
}
