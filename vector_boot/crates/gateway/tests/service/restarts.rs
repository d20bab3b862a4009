//! Peers that die, and come back, while calls are under way.

use crate::house::{House, PATIENCE};
use crate::peers;
use serde_json::json;
use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::{Duration, Instant};

#[test]
fn a_ledger_that_restarts_loses_and_doubles_no_row() {
    let mut house = House::new();
    let stop = AtomicBool::new(false);
    let rounds = 8;
    let (log, run) = (house.log.clone(), house.run());
    let mut peer = house.ledger.take();
    let seen = &house;
    let answered: Vec<u64> = std::thread::scope(|scope| {
        let clients: Vec<_> = (0..8)
            .map(|_| {
                scope.spawn(|| {
                    let mut ids = Vec::new();
                    while !stop.load(SeqCst) {
                        let got = seen.tool("fs_read", json!({"path": "welcome.txt"}));
                        match got.status {
                            200 => ids.push(got.json()["event_id"].as_u64().unwrap()),
                            503 => assert_eq!(got.json()["code"], "ledger_unavailable"),
                            other => panic!("{other}"),
                        }
                    }
                    ids
                })
            })
            .collect();
        for round in 0..rounds {
            std::thread::sleep(Duration::from_millis(60));
            // Recorded, but the answer never comes.
            log.swallow.store(round % 3, SeqCst);
            std::thread::sleep(Duration::from_millis(20));
            peer.take().unwrap().kill();
            std::thread::sleep(Duration::from_millis(50));
            peer = Some(peers::ledger(&run, log.clone()));
        }
        log.swallow.store(0, SeqCst);
        std::thread::sleep(Duration::from_millis(300));
        stop.store(true, SeqCst);
        clients
            .into_iter()
            .flat_map(|c| c.join().unwrap())
            .collect()
    });
    house.ledger = peer;
    house.stop();
    let unique: HashSet<_> = answered.iter().collect();
    assert_eq!(unique.len(), answered.len(), "an event was answered twice");
    let rows = house.log.rows.lock().unwrap();
    let origins: HashSet<_> = rows.iter().map(|r| r.origin).collect();
    assert_eq!(origins.len(), rows.len());
    // No call was answered 503 after it ran: the ledger was never away for two seconds.
    assert_eq!(rows.len(), answered.len());
    assert!(answered.len() > 50, "{}", answered.len());
}

#[test]
fn a_successor_that_was_announced_is_waited_for_longer_than_one_that_was_not() {
    let mut house = House::new();
    for which in ["ledger", "capacity"] {
        let peer = match which {
            "ledger" => house.ledger.take(),
            _ => house.capacity.take(),
        };
        peer.unwrap().stop();
        let got = std::thread::scope(|scope| {
            let call = scope.spawn(|| house.tool("fs_read", json!({"path": "welcome.txt"})));
            std::thread::sleep(gateway::peers::PEER_WAIT + Duration::from_millis(500));
            (
                call.is_finished(),
                match which {
                    "ledger" => peers::ledger(&house.run(), house.log.clone()),
                    _ => peers::capacity(&house.run(), house.rules.clone()),
                },
                call.join().unwrap(),
            )
        });
        let (finished, successor, got) = got;
        match which {
            "ledger" => house.ledger = Some(successor),
            _ => house.capacity = Some(successor),
        }
        assert_eq!((finished, got.status), (false, 200), "{which}: {got:?}");
    }
}

#[test]
fn without_a_peer_calls_fail_closed_and_recover_by_themselves() {
    let mut house = House::new();
    let read = |house: &House| house.tool("fs_read", json!({"path": "welcome.txt"}));
    house.ledger.take().unwrap().kill();
    let write = json!({"path": "new", "content": "x", "create": true});
    let got = house.tool("fs_write", write);
    assert_eq!((got.status, got.header("retry-after")), (503, Some("1")));
    assert_eq!(got.json()["code"], "ledger_unavailable");
    assert!(!house.path("work/new").exists(), "done without a record");
    assert_eq!(
        house.get("/health", false).json()["services"]["ledger"],
        "down"
    );
    house.capacity.take().unwrap().kill();
    assert_eq!(read(&house).json()["code"], "capacity_unavailable");
    house.ledger = Some(peers::ledger(&house.run(), house.log.clone()));
    house.capacity = Some(peers::capacity(&house.run(), house.rules.clone()));
    house.wait_healthy();
    assert_eq!(read(&house).status, 200);
}

#[test]
fn a_ledger_that_cannot_write_stops_effects_until_it_can() {
    let house = House::new();
    let write = |name: &str| {
        let params = json!({"path": name, "content": "x", "create": true});
        house.tool("fs_write", params).status
    };
    assert_eq!(write("a"), 200);
    house.log.read_only.store(true, SeqCst);
    // The first finds out; from then on nothing is done.
    assert_eq!(write("b"), 503);
    assert_eq!(write("c"), 503);
    assert!(!house.path("work/c").exists());
    house.log.read_only.store(false, SeqCst);
    let deadline = Instant::now() + PATIENCE;
    while write("d") != 200 {
        assert!(Instant::now() < deadline);
    }
}

#[test]
fn a_thousand_calls_at_once_are_all_answered() {
    use std::io::{BufReader, Write};
    let house = House::new();
    // More than may be under way at once: the rest waits its turn.
    let mut streams: Vec<_> = (0..500).map(|_| house.connect()).collect();
    for stream in &mut streams {
        let body = json!({"tool": "fs_read", "params": {"path": "welcome.txt"}}).to_string();
        let one = crate::house::post("/tool", &crate::house::authorization(), &body);
        stream.write_all(&[one.clone(), one].concat()).unwrap();
    }
    let mut ids = HashSet::new();
    for stream in streams {
        let mut reader = BufReader::new(stream);
        for _ in 0..2 {
            let got = crate::house::read(&mut reader).unwrap();
            assert_eq!(got.status, 200, "{got:?}");
            assert!(ids.insert(got.json()["event_id"].as_u64().unwrap()));
        }
    }
    assert_eq!(ids.len(), house.log.rows.lock().unwrap().len());
}

#[test]
fn who_was_let_in_just_before_the_end_is_answered() {
    use std::io::{Read, Write};
    let mut house = House::new();
    let address = house.address;
    let mut silent = std::net::TcpStream::connect(address).unwrap();
    // The next one is answered, so this one was accepted before it.
    assert_eq!(
        house.tool("fs_read", json!({"path": "welcome.txt"})).status,
        200
    );
    let request = format!("GET /health HTTP/1.1\r\nHost: {address}\r\n\r\n");
    let client = std::thread::spawn(move || {
        // While the gateway ends.
        std::thread::sleep(Duration::from_millis(50));
        silent.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        silent.read_to_string(&mut answer).unwrap();
        answer
    });
    house.stop();
    let answer = client.join().unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert!(answer.contains("connection: close"), "{answer}");
}
