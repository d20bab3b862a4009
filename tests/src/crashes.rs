//! Crashes of PID 1 in a virtual machine, under a client that never stops calling.
//!
//! Start with [`crash`]; [`Client`] is the one who must not notice.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use serde_json::{Value, json};

use crate::machine::{Machine, curl};

/// Three crashes within ten seconds of the machine's time are too many; two of them so far apart never are.
const APART_NS: u64 = 6_000_000_000;

/// Calls the gateway in a loop until it is told to stop.
pub struct Client {
    over: Arc<AtomicBool>,
    thread: Option<JoinHandle<u64>>,
}

impl Client {
    /// Begins; the first call that is not answered with success ends it, and [`Client::end`] then panics.
    pub fn of(machine: &Machine) -> Self {
        let over = Arc::new(AtomicBool::new(false));
        let (ours, port, token) = (
            over.clone(),
            machine.http_port(),
            machine.token().to_owned(),
        );
        let thread = std::thread::spawn(move || {
            let read =
                json!({"tool": "fs_read", "params": {"root": "work", "path": "welcome.txt"}});
            let mut calls = 0;
            while !ours.load(Ordering::Relaxed) {
                let reply = curl(port, "/tool", Some(&token), Some(&read));
                assert_eq!(reply.status, 200, "call {calls}: {}", reply.body);
                calls += 1;
            }
            calls
        });
        Self {
            over,
            thread: Some(thread),
        }
    }

    /// Stops it; how many calls were answered, which are all that were made.
    pub fn end(mut self) -> u64 {
        self.over.store(true, Ordering::Relaxed);
        let thread = self.thread.take().expect("it is ended once");
        thread.join().expect("a call failed")
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
    }
}

/// The machine's own time since its boot.
pub fn uptime_ns(text: &str) -> Option<u64> {
    serde_json::from_str::<Value>(text).ok()?["uptime_ns"].as_u64()
}

/// Waits until so much of the machine's time has passed that a crash now is not one of a series.
pub fn stay_apart(machine: &mut Machine) {
    let from = machine.until("status --json", uptime_ns);
    machine.until("status --json", |text| {
        (uptime_ns(text)? >= from + APART_NS).then_some(())
    });
}

/// Sends PID 1 a signal that is the end of its program, and waits until the next image explains it as the crash of
/// this number since the boot.
pub fn crash(machine: &mut Machine, signal: &str, number: u64) -> Value {
    machine.ok(&format!("signal init {signal}"));
    let record = machine.until("why init --json", |text| {
        let value: Value = serde_json::from_str(text).ok()?;
        let records = value["why"].as_array()?;
        let of = |record: &&Value| record["facts"]["crashes"] == number;
        records.iter().find(of).cloned()
    });
    assert_eq!(record["reason"], "init_crash", "{record}");
    let cause = record["facts"]["cause"].as_str().unwrap_or_default();
    assert!(cause.contains(signal), "{signal}: {record}");
    record
}

/// The pid of every service.
pub fn pids(machine: &mut Machine) -> BTreeMap<String, u64> {
    let services = machine.until("services --json", |text| {
        serde_json::from_str::<Value>(text).ok()
    });
    let rows = services["services"].as_array().expect("services");
    let row = |row: &Value| Some((row["name"].as_str()?.to_owned(), row["pid"].as_u64()?));
    rows.iter().filter_map(row).collect()
}

/// Bytes of PID 1's own memory.
pub fn own_bytes(machine: &mut Machine) -> u64 {
    let memory = machine.until("mem --json", |text| {
        let value: Value = serde_json::from_str(text).ok()?;
        // Without PID 1's answer only its own row is there.
        (value["processes"].as_array()?.len() > 1).then_some(value)
    });
    let init = &memory["processes"][0];
    let own = init["own_bytes"].as_u64().filter(|bytes| *bytes > 0);
    own.unwrap_or_else(|| panic!("no memory of its own: {init}"))
}

/// Ids have no gaps and no doubles, and nothing was recorded twice under two ids.
pub fn check_ids(events: &[Value]) {
    let ids: Vec<u64> = events
        .iter()
        .map(|event| event["id"].as_u64().expect("an id"))
        .collect();
    let first = ids[0];
    assert_eq!(
        ids,
        (first..first + ids.len() as u64).collect::<Vec<_>>(),
        "gaps or doubles"
    );
    let ulids: BTreeSet<&str> = events
        .iter()
        .filter_map(|event| event["ulid"].as_str())
        .collect();
    assert_eq!(ulids.len(), events.len(), "an event was recorded twice");
}

/// How many events of this type there are.
pub fn count(events: &[Value], event_type: &str) -> usize {
    let of = |event: &&Value| event["event_type"] == event_type;
    events.iter().filter(of).count()
}
