//! Events for the ledger: mutations summed over a few seconds, rollbacks one by one.
//!
//! The service's loop only counts and pushes; a thread of its own waits for the ledger.

use crate::evolution::{Verdict, Verdicts};
use ipc::IpcError;
use ipc::ledger::Client;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use wire::ledger::{Append, Origin};

/// Events that wait at most.
const WAITING_MAX: usize = 64;
/// Mutations of so long are one event.
const SUM: Duration = Duration::from_secs(5);
/// Longest wait for the ledger.
const ANSWER: Duration = Duration::from_secs(5);
/// Pause after a try that failed.
const PAUSE: Duration = Duration::from_secs(1);
/// Tries for one event before it is given up.
const TRIES: u32 = 60;

/// What was judged and not yet told.
#[derive(Default)]
struct Sums {
    accepted: u64,
    refused: u64,
    last: &'static str,
}

/// A rollback on its way.
struct Event(&'static str, String);

/// The pushing end.
pub(super) struct LedgerEvents {
    sums: Arc<Mutex<Sums>>,
    events: SyncSender<Event>,
}

impl LedgerEvents {
    pub(super) fn start(path: PathBuf) -> io::Result<Self> {
        let (events, receiver) = sync_channel(WAITING_MAX);
        let sums = Arc::new(Mutex::new(Sums::default()));
        let theirs = sums.clone();
        std::thread::Builder::new()
            .name("ledger".to_owned())
            .spawn(move || run(&path, &receiver, &theirs))?;
        Ok(Self { sums, events })
    }

    /// Counts verdicts; while the ledger is away the sums grow.
    pub(super) fn judged(&self, accepted: u64, refused: u64, last: Option<&Verdicts>) {
        let mut sums = self.sums.lock().unwrap_or_else(PoisonError::into_inner);
        sums.accepted += accepted;
        sums.refused += refused;
        sums.last = last.map_or("", |verdict| verdict.verdict.as_str());
    }

    pub(super) fn rolled_back(&self, from: u64, to: u64, generation: u64, why: Verdict) {
        let why = why.as_str();
        let payload = format!(
            "{{\"from\":{from},\"to\":{to},\"generation\":{generation},\"reason\":\"{why}\"}}"
        );
        let event = Event("generation_rolled_back", payload);
        if self.events.try_send(event).is_err() {
            eprintln!("<4>cortex: the ledger is away: a rollback is not told to it");
        }
    }
}

fn run(path: &Path, events: &Receiver<Event>, sums: &Mutex<Sums>) {
    let mut sender = Sender::new(path);
    loop {
        match events.recv_timeout(SUM) {
            Ok(Event(kind, payload)) => sender.send(kind, &payload),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return,
        }
        let told = std::mem::take(&mut *sums.lock().unwrap_or_else(PoisonError::into_inner));
        let Sums {
            accepted,
            refused,
            last,
        } = told;
        if accepted + refused > 0 {
            let payload =
                format!("{{\"accepted\":{accepted},\"refused\":{refused},\"last\":\"{last}\"}}");
            sender.send("mutations_judged", &payload);
        }
    }
}

/// Where events go, with an origin each, so that one that was sent twice is there once.
struct Sender<'p> {
    path: &'p Path,
    client: Option<Client>,
    boot_id: [u8; 16],
    first: u64,
    sequence: u64,
}

impl<'p> Sender<'p> {
    fn new(path: &'p Path) -> Self {
        let text = std::env::var("VB_BOOT_ID").unwrap_or_default();
        let mut boot_id = [0; 16];
        for (byte, digits) in boot_id.iter_mut().zip(text.as_bytes().as_chunks::<2>().0) {
            let digits = std::str::from_utf8(digits).unwrap_or_default();
            *byte = u8::from_str_radix(digits, 16).unwrap_or_default();
        }
        Self {
            path,
            client: None,
            boot_id,
            // Above those of a process before us in the same boot.
            first: sys::clock::monotonic_ns(),
            sequence: 0,
        }
    }

    fn send(&mut self, event_type: &str, payload: &str) {
        self.sequence += 1;
        let event = Append {
            origin: Some(Origin {
                boot_id: self.boot_id,
                producer: sys::packet::own_uid(),
                sequence: self.first + self.sequence,
            }),
            ns: "cortex",
            actor: "service:cortex",
            tenant_id: "system",
            event_type,
            subject: "evolution",
            payload,
            causation_id: None,
            timestamp_ns: None,
        };
        for _ in 0..TRIES {
            match self.try_send(&event) {
                Ok(()) => return,
                Err(e @ IpcError::Refused { .. }) => {
                    eprintln!("<4>cortex: event {event_type}: {e}");
                    return;
                }
                Err(_) => std::thread::sleep(PAUSE),
            }
        }
    }

    fn try_send(&mut self, event: &Append<'_>) -> Result<(), IpcError> {
        let mut client = match self.client.take() {
            Some(client) => client,
            None => Client::connect(self.path, ANSWER)?,
        };
        client.append(event)?;
        self.client = Some(client);
        Ok(())
    }
}
