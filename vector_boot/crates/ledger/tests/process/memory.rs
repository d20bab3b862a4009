//! What reading much of a log takes of the service's memory is given back behind it.
//!
//! The bar is 16 MiB resident. Of that some 6.5 MiB are pages of the executable as it ships, which a test's has
//! more of; so what is measured here is what no file has, against what it was at rest.

use super::running::Running;
use super::{LIMIT, Lines, Service};
use serde_json::json;
use std::time::{Duration, Instant};

/// Of a log that two threads read.
const EVENTS: u64 = 40_000;
/// How often each call is made: what each thread kept of its own would add up.
const TIMES: usize = 4;
/// More than at rest, of which a mebibyte is the cache of the index's pages.
const MORE_KIB_MAX: u64 = 2048;

/// Memory that is no file's.
fn anonymous_kib(service: &Service) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", service.child.id())).unwrap();
    let line = status.lines().find(|line| line.starts_with("RssAnon:"));
    let kib = line.and_then(|line| line.split_whitespace().nth(1));
    kib.unwrap().parse().unwrap()
}

fn fill(folder: &std::path::Path) {
    let running = Running::start(folder);
    running.append(EVENTS);
    running.stop();
}

pub fn what_large_reads_took_is_given_back() {
    let folder = tempfile::tempdir().unwrap();
    fill(folder.path());
    let service = Service::start(folder.path());
    // The parts of the index are built behind the start, and the tree's tiles.
    let ask = |request: &serde_json::Value| {
        let mut lines = Lines::connect(folder.path());
        lines.send(&request.to_string());
        let answer = loop {
            let line = lines.next();
            if line.get("ok").is_some() {
                break line;
            }
        };
        assert_eq!(answer["ok"], json!(true), "{request}: {answer}");
    };
    ask(&json!({"type": "cache.rebuild", "id": 1}));
    ask(&json!({"type": "checkpoint", "id": 1}));
    let rest = anonymous_kib(&service);
    let counter = json!({
        "reducer": "counter-gcounter", "events": ["t"], "key": "/key", "value": "/value",
    });
    let page = |from: u64| json!({"type": "query", "id": 1, "limit": 10_000, "from": from});
    let reads = [
        json!({"type": "query", "id": 1, "filters": {"subject": "7"}, "limit": 10_000}),
        json!({"type": "fold_state", "id": 1, "ns": "test", "channel": "c",
            "spec": {"fields": {"n": counter}}}),
        json!({"type": "cache.rebuild", "id": 1}),
        json!({"type": "verify", "id": 1}),
        json!({"type": "doctor", "id": 1, "checks": true}),
        page(1),
        page(EVENTS / 2),
    ];
    for request in &reads {
        for _ in 0..TIMES {
            ask(request);
        }
        // A thread that answered may not have ended yet.
        let deadline = Instant::now() + LIMIT;
        let most = rest + MORE_KIB_MAX;
        while anonymous_kib(&service) > most {
            let now = anonymous_kib(&service);
            assert!(
                Instant::now() < deadline,
                "{now} KiB behind {request}, {rest} at rest, at most {most}"
            );
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}
