//! Events on their way to the ledger: a bounded queue and the one thread that empties it.
//!
//! The service loop only ever pushes. While the ledger is away events wait; when the queue is full
//! the oldest goes and is counted, and the count becomes an event of its own. Each event has an
//! origin, so one that was sent twice over a reconnect is kept once.

use crate::kernel::Event;
use ipc::{Connection, IpcError};
use serde_json::json;
use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use wire::ledger::{Append, Appended, Origin};

/// Events that wait at most: about a minute of a busy machine, under a megabyte.
const QUEUE_MAX: usize = 1024;
/// Longest wait for the ledger's answer.
const ANSWER: Duration = Duration::from_secs(5);
/// First and longest pause before the next try to connect.
const PAUSES: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));
/// The service's namespace in the ledger.
const NAMESPACE: &str = "capacity";
/// Its actor.
const ACTOR: &str = "service:capacity";
/// Tenant of the appliance's own events.
const TENANT: &str = "system";

struct Item {
    origin: Origin,
    at_ns: u64,
    event: Event,
}

#[derive(Default)]
struct Queue {
    items: VecDeque<Item>,
    sequence: u64,
    dropped: u64,
}

/// The pushing end; clones share one queue.
#[derive(Clone)]
pub struct Outbox {
    shared: Arc<(Mutex<Queue>, Condvar)>,
    boot_id: [u8; 16],
}

impl Outbox {
    /// Starts the sending thread towards the socket at `path`.
    pub fn start(path: PathBuf, boot_id: [u8; 16]) -> std::io::Result<Self> {
        let outbox = Self::new(boot_id);
        let mine = outbox.clone();
        std::thread::Builder::new()
            .name("outbox".to_owned())
            .spawn(move || mine.run(&path))?;
        Ok(outbox)
    }

    fn new(boot_id: [u8; 16]) -> Self {
        let queue = Queue {
            // Sequences of one boot must grow over restarts of this process; the clock does.
            sequence: sys::clock::monotonic_ns(),
            ..Queue::default()
        };
        Self {
            shared: Arc::new((Mutex::new(queue), Condvar::new())),
            boot_id,
        }
    }

    /// Queues an event; when full the oldest one goes. Never waits for the ledger.
    pub fn push(&self, event: Event) {
        let mut queue = self.lock();
        if queue.items.len() >= QUEUE_MAX {
            queue.items.pop_front();
            queue.dropped += 1;
        }
        queue.sequence += 1;
        let item = Item {
            origin: Origin {
                boot_id: self.boot_id,
                producer: sys::packet::own_uid(),
                sequence: queue.sequence,
            },
            at_ns: sys::clock::monotonic_ns(),
            event,
        };
        queue.items.push_back(item);
        self.shared.1.notify_one();
    }

    /// Waits until everything is sent, at most `limit`; for the end of the process.
    pub fn flush(&self, limit: Duration) {
        let begin = std::time::Instant::now();
        while begin.elapsed() < limit && !self.lock().items.is_empty() {
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        // A panic of another thread leaves the queue whole: every change is one call.
        self.shared.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn run(&self, path: &std::path::Path) {
        let mut connection: Option<Connection> = None;
        let mut pause = PAUSES.0;
        let mut absent_said = false;
        loop {
            self.wait();
            let open = match connection.take() {
                Some(open) => Ok(open),
                None => Connection::open(path, ANSWER),
            };
            let result = open.and_then(|mut open| {
                let sent = self.send_front(&mut open);
                if sent.is_ok() || matches!(sent, Err(IpcError::Refused { .. })) {
                    connection = Some(open);
                }
                sent
            });
            match result {
                Ok(()) => {
                    if absent_said {
                        log::info!("ledger: events go through again");
                    }
                    (absent_said, pause) = (false, PAUSES.0);
                }
                Err(IpcError::Refused {
                    code, field, limit, ..
                }) => {
                    log::error!(
                        "ledger refused an event: code={code} field={field} limit={limit:?}"
                    );
                    self.drop_front();
                }
                Err(e) => {
                    if !absent_said {
                        log::warn!("ledger is not there, events wait: {}", cause(&e));
                        absent_said = true;
                    }
                    std::thread::sleep(pause);
                    pause = (pause * 2).min(PAUSES.1);
                }
            }
        }
    }

    /// Waits for something to send, and says what was lost before it.
    fn wait(&self) {
        let mut queue = self.lock();
        while queue.items.is_empty() {
            queue = self
                .shared
                .1
                .wait(queue)
                .unwrap_or_else(PoisonError::into_inner);
        }
        let lost = std::mem::take(&mut queue.dropped);
        drop(queue);
        if lost > 0 {
            log::warn!("events lost, the queue was full: count={lost}");
            self.push(Event {
                event_type: "events_lost",
                subject: "outbox".to_owned(),
                payload: json!({ "count": lost, "queue": QUEUE_MAX }),
            });
        }
    }

    /// Sends the oldest event and removes it once it is durable.
    fn send_front(&self, connection: &mut Connection) -> Result<(), IpcError> {
        let (origin, at_ns, event) = match self.lock().items.front() {
            Some(item) => (item.origin, item.at_ns, item.event.clone()),
            None => return Ok(()),
        };
        let payload = event.payload.to_string();
        debug_assert!(wire::ledger::is_exact(&payload), "{payload}");
        let append = Append {
            origin: Some(origin),
            ns: NAMESPACE,
            actor: ACTOR,
            tenant_id: TENANT,
            event_type: event.event_type,
            subject: &event.subject,
            payload: &payload,
            causation_id: None,
            timestamp_ns: Some(at_ns),
        };
        connection.ask(&append, |frame, _| frame.body::<Appended>())?;
        let mut queue = self.lock();
        // A full queue may have dropped it meanwhile.
        if queue
            .items
            .front()
            .is_some_and(|item| item.origin == origin)
        {
            queue.items.pop_front();
        }
        Ok(())
    }

    fn drop_front(&self) {
        self.lock().items.pop_front();
    }
}

/// An error with its causes on one line.
pub fn cause(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(error) = next {
        text.push_str(": ");
        text.push_str(&error.to_string());
        next = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use ipc::serve_hello;
    use sys::packet::{Mode, PacketListener};

    fn event(n: usize) -> Event {
        Event {
            event_type: "lease_granted",
            subject: n.to_string(),
            payload: json!({ "n": n }),
        }
    }

    #[test]
    fn a_full_queue_loses_its_oldest_and_counts() {
        let outbox = Outbox::new([0; 16]);
        for n in 0..QUEUE_MAX + 3 {
            outbox.push(event(n));
        }
        let queue = outbox.lock();
        assert_eq!((queue.items.len(), queue.dropped), (QUEUE_MAX, 3));
        assert_eq!(queue.items.front().unwrap().event.subject, "3");
        let sequences: Vec<u64> = queue.items.iter().map(|i| i.origin.sequence).collect();
        assert!(sequences.windows(2).all(|w| w[0] < w[1]));
    }

    #[test]
    fn events_wait_for_the_ledger_and_arrive_in_order_over_a_lost_connection() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ledger.wire");
        let outbox = Outbox::start(path.clone(), [7; 16]).unwrap();
        for n in 0..3 {
            outbox.push(event(n));
        }
        let listener = PacketListener::bind(&path, Mode::Blocking).unwrap();
        let (mut buf, mut out) = (vec![0; 65_536], vec![0; 65_536]);
        let mut seen = Vec::new();
        // Each connection ends after one answer, or one question without an answer.
        for round in 0..4u64 {
            let socket = listener.accept(Mode::Blocking).unwrap();
            let (n, _) = socket.receive(&mut buf).unwrap();
            socket
                .send(serve_hello(&buf[..n], &mut out).unwrap(), None)
                .unwrap();
            let (n, _) = socket.receive(&mut buf).unwrap();
            let frame = wire::Frame::open(&buf[..n]).unwrap();
            let append = frame.body::<Append<'_>>().unwrap();
            assert_eq!((append.ns, append.actor), ("capacity", "service:capacity"));
            seen.push((append.origin.unwrap().sequence, append.subject.to_owned()));
            if round != 1 {
                let answer = Appended {
                    event_id: round + 1,
                    commit_id: [0; 32],
                    repeated: false,
                };
                let packet = wire::encode(frame.id, &answer, &mut out).unwrap();
                socket.send(packet, None).unwrap();
            }
        }
        let subjects: Vec<&str> = seen.iter().map(|(_, s)| s.as_str()).collect();
        assert_eq!(subjects, ["0", "1", "1", "2"]);
        assert_eq!(seen[1].0, seen[2].0, "a repeat has the same origin");
    }
}
