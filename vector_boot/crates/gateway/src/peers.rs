//! What the gateway asks of its two peers: may this run, and is this recorded.
//!
//! Owns the meaning of the questions over [`crate::link`]: one check a call at the capacity kernel,
//! one row a call at the ledger. Start with [`Peers::check`] and [`Peers::record`].

use crate::link::{Abandoned, Link, LinkError, Probe};
use std::path::Path;
use std::time::Duration;
use wire::capacity::{Check, Checked, Identify, Identity, State, StateGet, Verdict};
use wire::ledger::{Append, Appended, Head, HeadGet, Origin};
use wire::{Frame, Kind, Refused, WireError};

/// How long a call waits for a peer that restarts, and for its answer, unless the peer announced its successor.
/// Then 503: fail closed.
pub const PEER_WAIT: Duration = Duration::from_secs(2);

/// Rows that may wait for the ledger: it recognises the latest 512 sequences of a producer, so any
/// more could not be sent again after a reconnection without a doubt.
pub const ROWS_WAITING_MAX: usize = 512;
/// Questions that may wait for the capacity kernel: one a connection and one a call.
const CHECKS_WAITING_MAX: usize = 4_096;

/// Why a peer gave no usable answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PeerError {
    /// It did not answer in time.
    #[error("{0}: not available")]
    Unavailable(&'static str),
    /// It refused.
    #[error("{0}: refused with {1}")]
    Refused(&'static str, String),
}

/// Who a call is made for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Who {
    /// The ledger's actor.
    pub actor: String,
    /// Whose capacity and whose rows.
    pub tenant_id: String,
}

impl Who {
    /// As the capacity kernel says.
    fn told(actor: &str, tenant_id: &str) -> Self {
        Self {
            actor: actor.to_owned(),
            tenant_id: tenant_id.to_owned(),
        }
    }

    /// Whoever owns the machine, told by the uid at the Unix socket.
    #[must_use]
    pub fn operator() -> Self {
        Self {
            actor: "user:operator".to_owned(),
            tenant_id: "system".to_owned(),
        }
    }

    /// The gateway itself.
    #[must_use]
    pub fn gateway() -> Self {
        Self {
            actor: "service:gateway".to_owned(),
            tenant_id: "system".to_owned(),
        }
    }
}

/// The capacity kernel's word on one call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Admission {
    /// Whether it may run.
    pub verdict: Verdict,
    /// Whom the token speaks for.
    pub who: Who,
    /// When to come again.
    pub retry_after_ms: u32,
    /// For people.
    pub reason: String,
}

/// One row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row<'a> {
    /// For whom.
    pub who: &'a Who,
    /// `tool_called` or `tool_refused`.
    pub event_type: &'a str,
    /// The tool.
    pub subject: &'a str,
    /// Canonical JSON.
    pub payload: &'a str,
    /// The row that this one follows from.
    pub causation_id: Option<u64>,
}

/// The two links.
#[derive(Debug, Clone)]
pub struct Peers {
    /// The capacity kernel.
    pub capacity: Link,
    /// The ledger.
    pub ledger: Link,
    boot_id: [u8; 16],
    uid: u32,
    sequence_base: u64,
}

impl Peers {
    /// Links to the sockets in the run folder. `boot_id` and `started_ns`, the monotonic clock, name
    /// this process's rows for ever: sequences go on from `started_ns`, so that those of a restarted
    /// gateway never repeat those of its predecessor (it would have to record a row a nanosecond).
    ///
    /// # Errors
    /// [`WireError`] never comes: the probes fit their buffer.
    pub fn new(
        run: &Path,
        boot_id: [u8; 16],
        uid: u32,
        started_ns: u64,
    ) -> Result<Self, WireError> {
        let capacity = Probe::new(&StateGet, |f| f.body::<State>().is_ok())?;
        let ledger = Probe::new(&HeadGet, |f| f.body::<Head>().is_ok_and(|h| h.writable))?;
        Ok(Self {
            capacity: Link::new(
                "capacity",
                run.join("capacity.sock"),
                capacity,
                CHECKS_WAITING_MAX,
            ),
            ledger: Link::new("ledger", run.join("ledger.wire"), ledger, ROWS_WAITING_MAX),
            boot_id,
            uid,
            sequence_base: started_ns,
        })
    }

    /// Asks whether an operation may run now.
    ///
    /// # Errors
    /// [`PeerError`].
    pub async fn check(
        &self,
        token: &str,
        operation: &str,
        cpu_us: u32,
        memory_bytes: u64,
    ) -> Result<Admission, PeerError> {
        let question = |_| Check {
            token,
            operation,
            cpu_us,
            memory_bytes,
        };
        let ask = self.capacity.ask(Abandoned::Forget, PEER_WAIT, question);
        let answer = ask.await.map_err(|e| unavailable("capacity", e))?;
        read("capacity", answer.frame(), |f| {
            let c = f.body::<Checked<'_>>()?;
            Ok(Admission {
                verdict: c.verdict,
                who: Who::told(c.actor, c.tenant_id),
                retry_after_ms: c.retry_after_ms,
                reason: match c.bucket {
                    "" => c.reason.to_owned(),
                    bucket => format!("{} (bucket {bucket})", c.reason),
                },
            })
        })
    }

    /// Asks whom a token speaks for, without spending; `None` if it is not in force.
    ///
    /// # Errors
    /// [`PeerError`].
    pub async fn identify(&self, token: &str) -> Result<Option<(Who, u32)>, PeerError> {
        let question = |_| Identify { token };
        let ask = self.capacity.ask(Abandoned::Forget, PEER_WAIT, question);
        let answer = ask.await.map_err(|e| unavailable("capacity", e))?;
        read("capacity", answer.frame(), |f| {
            let i = f.body::<Identity<'_>>()?;
            let who = || (Who::told(i.actor, i.tenant_id), i.permissions);
            Ok(i.valid.then(who))
        })
    }

    /// Records one row and answers with its id once it is durable. A row whose asker gave up is
    /// still sent until the ledger has it, since what it tells did happen.
    ///
    /// # Errors
    /// [`PeerError`].
    pub async fn record(&self, row: &Row<'_>) -> Result<u64, PeerError> {
        let now = sys::clock::monotonic_ns();
        debug_assert!(wire::ledger::is_exact(row.payload), "{}", row.payload);
        let question = |id| Append {
            origin: Some(Origin {
                boot_id: self.boot_id,
                producer: self.uid,
                sequence: self.sequence_base.saturating_add(id),
            }),
            ns: "gateway",
            actor: &row.who.actor,
            tenant_id: &row.who.tenant_id,
            event_type: row.event_type,
            subject: row.subject,
            payload: row.payload,
            causation_id: row.causation_id,
            timestamp_ns: Some(now),
        };
        let answer = self.ledger.ask(Abandoned::Keep, PEER_WAIT, question).await;
        let answer = answer.map_err(|e| unavailable("ledger", e))?;
        let read = read("ledger", answer.frame(), |f| {
            f.body::<Appended>().map(|a| a.event_id)
        });
        if read.is_err() {
            // Until its head says that it can write, nothing is executed.
            self.ledger.mark_down();
        }
        read
    }
}

fn unavailable(peer: &'static str, e: LinkError) -> PeerError {
    match e {
        LinkError::Wire(e) => PeerError::Refused(peer, e.to_string()),
        LinkError::Timeout | LinkError::Full(_) => PeerError::Unavailable(peer),
    }
}

fn read<'a, T>(
    peer: &'static str,
    frame: Result<Frame<'a>, WireError>,
    body: impl FnOnce(Frame<'a>) -> Result<T, WireError>,
) -> Result<T, PeerError> {
    let refused = |text: &str| PeerError::Refused(peer, text.to_owned());
    let frame = frame.map_err(|e| refused(&e.to_string()))?;
    if frame.kind == Kind::Refused {
        return Err(match frame.body::<Refused<'_>>() {
            Ok(r) => refused(r.code),
            Err(e) => refused(&e.to_string()),
        });
    }
    body(frame).map_err(|e| refused(&e.to_string()))
}
