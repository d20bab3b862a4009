//! Events for the ledger: mutations summed over a few seconds and named within a bound, rollbacks one by one.
//!
//! The service's loop only counts and pushes; a thread of its own waits for the ledger.

use crate::evolution::{Verdict, Verdicts};
use ipc::IpcError;
use ipc::ledger::Client;
use std::collections::BTreeMap;
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
/// Kinds of verdicts that one event names: a proposer that has a new mistake each time must not fill a log with them.
const NAMED_MAX: usize = 16;
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
    /// How many of each verdict.
    verdicts: BTreeMap<&'static str, u64>,
    /// Which, as far as there is place, and how many were not named.
    named: Vec<Named>,
    unnamed: u64,
}

/// Mutations of one proposer, tensor and verdict.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Named {
    verdict: Verdict,
    tensor: String,
    uid: u32,
    count: u64,
    /// As the proposer calls the first and the last of them.
    ids: (u64, u64),
    /// The one that the last of them made, or met.
    generation: u64,
}

impl Sums {
    fn add(&mut self, row: &Verdicts, count: u64) {
        match row.verdict {
            Verdict::Accepted => self.accepted += count,
            _ => self.refused += count,
        }
        self.last = row.verdict.as_str();
        *self.verdicts.entry(self.last).or_default() += count;
        let same = |named: &&mut Named| {
            (named.verdict, named.uid) == (row.verdict, row.uid) && named.tensor == row.tensor
        };
        if let Some(named) = self.named.iter_mut().find(same) {
            named.count += count;
            named.ids.1 = row.id;
            named.generation = row.generation;
        } else if self.named.len() < NAMED_MAX {
            self.named.push(Named {
                verdict: row.verdict,
                tensor: row.tensor.clone(),
                uid: row.uid,
                count,
                ids: (row.id, row.id),
                generation: row.generation,
            });
        } else {
            self.unnamed += count;
        }
    }

    /// As the ledger has it.
    fn payload(&self) -> String {
        let verdicts = self.verdicts.iter();
        let verdicts = verdicts.map(|(word, count)| format!("\"{word}\":{count}"));
        let named = self.named.iter().map(|named| {
            format!(
                "{{\"verdict\":\"{}\",\"tensor\":\"{}\",\"uid\":{},\"count\":{},\"first_id\":{},\"last_id\":{},\"generation\":{}}}",
                named.verdict.as_str(),
                escaped(&named.tensor),
                named.uid,
                named.count,
                number(named.ids.0),
                number(named.ids.1),
                named.generation
            )
        });
        format!(
            "{{\"accepted\":{},\"refused\":{},\"last\":\"{}\",\"verdicts\":{{{}}},\"mutations\":[{}],\"unnamed\":{}}}",
            self.accepted,
            self.refused,
            self.last,
            verdicts.collect::<Vec<_>>().join(","),
            named.collect::<Vec<_>>().join(","),
            self.unnamed
        )
    }
}

/// A proposer chooses its ids: one that a double does not hold goes as text, or the ledger would refuse all of it.
fn number(id: u64) -> String {
    if id > wire::ledger::NUMBER_MAX {
        format!("\"{id}\"")
    } else {
        id.to_string()
    }
}

/// Inside a string of JSON. Names of the history have no control characters.
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            c => out.push(c),
        }
    }
    out
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

    /// Counts verdicts, the oldest first, each so many times; while the ledger is away the sums grow.
    pub(super) fn judged<'v>(&self, rows: impl Iterator<Item = (&'v Verdicts, u64)>) {
        let mut sums = self.sums.lock().unwrap_or_else(PoisonError::into_inner);
        rows.for_each(|(row, count)| sums.add(row, count));
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
        if told.accepted + told.refused > 0 {
            sender.send("mutations_judged", &told.payload());
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
        debug_assert!(wire::ledger::is_exact(payload), "{payload}");
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

#[cfg(test)]
mod tests {
    use super::*;

    fn row(verdict: Verdict, tensor: &str, id: u64, count: u64) -> Verdicts {
        Verdicts {
            wall_ns: 0,
            verdict,
            generation: id,
            restored: 0,
            uid: 7,
            count,
            id,
            tensor: tensor.to_owned(),
            offset: 0,
            length: 4,
            confidence: 0.9,
        }
    }

    #[test]
    fn an_event_names_every_kind_of_refusal_with_ids_and_tensors_and_no_more_than_its_bound() {
        let mut sums = Sums::default();
        for id in 1..=1000 {
            sums.add(&row(Verdict::Accepted, "policy.b1", id, 1), 1);
        }
        sums.add(&row(Verdict::NotFinite, "a\"b\\", 1001, 5), 5);
        for id in 2000..2100 {
            sums.add(&row(Verdict::TensorUnknown, &format!("t{id}"), id, 1), 1);
        }
        let largest = Verdicts {
            generation: 1000,
            ..row(Verdict::NotFinite, "a\"b\\", u64::MAX, 1)
        };
        sums.add(&largest, 1);
        assert!(wire::ledger::is_exact(&sums.payload()));
        let payload: serde_json::Value = serde_json::from_str(&sums.payload()).unwrap();
        assert_eq!(payload["mutations"][1]["last_id"], u64::MAX.to_string());
        assert_eq!(
            (&payload["accepted"], &payload["refused"]),
            (&1000.into(), &106.into())
        );
        assert_eq!(
            payload["verdicts"],
            serde_json::json!({"accepted": 1000, "not_finite": 6, "tensor_unknown": 100})
        );
        let named = payload["mutations"].as_array().unwrap();
        assert_eq!(named.len(), NAMED_MAX);
        assert_eq!(
            (
                &named[0]["count"],
                &named[0]["first_id"],
                &named[0]["last_id"]
            ),
            (&1000.into(), &1.into(), &1000.into())
        );
        assert_eq!(
            (&named[1]["tensor"], &named[1]["uid"]),
            (&"a\"b\\".into(), &7.into())
        );
        assert_eq!(payload["unnamed"], 100 - (NAMED_MAX as u64 - 2));
        assert!(sums.payload().len() < wire::ledger::PAYLOAD_BYTES_MAX / 4);
    }
}
