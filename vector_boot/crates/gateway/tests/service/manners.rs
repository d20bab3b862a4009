//! What badly behaved clients get, and that others do not notice.

use crate::house::{House, authorization, post, read};
use serde_json::json;
use std::io::{BufReader, Read, Write};

#[test]
fn requests_that_are_wrong_are_told_how() {
    let house = House::new();
    let good = json!({"tool": "fs_read", "params": {"path": "welcome.txt"}}).to_string();
    let with = |headers: &str, body: &str| {
        let more = format!("{}{headers}", authorization());
        house.raw(&post("/tool", &more, body))
    };
    assert_eq!(with("", &good).status, 200);
    assert_eq!(with("Origin: http://localhost:3000\r\n", &good).status, 200);
    assert_eq!(with("Origin: https://evil.example\r\n", &good).status, 403);
    assert_eq!(with("Origin: null\r\n", &good).status, 403);
    assert_eq!(with("Content-Encoding: gzip\r\n", &good).status, 415);
    for body in ["", "{", "[1", r#"{"tool":"a","tool":"b"}"#, "nul"] {
        assert_eq!(with("", body).status, 400, "{body}");
    }
    for body in [
        "[]",
        "{}",
        r#"{"tool":7}"#,
        r#"{"tool":"x","params":[]}"#,
        r#"{"tool":"x","id":{}}"#,
    ] {
        assert_eq!(with("", body).status, 422, "{body}");
    }
    let raw = |text: String| house.raw(text.as_bytes());
    let auth = authorization();
    let status = |line: &str, headers: &str| raw(format!("{line}\r\n{headers}{auth}\r\n")).status;
    let local = "Host: localhost\r\n";
    assert_eq!(status("GET /nothing HTTP/1.1", local), 404);
    assert_eq!(
        status("GET /health HTTP/1.1", "Host: evil.example\r\n"),
        403
    );
    assert_eq!(
        status("GET /health HTTP/1.1", "Host: named.example:99\r\n"),
        200
    );
    assert_eq!(status("GET /health HTTP/1.1", ""), 400);
    assert_eq!(
        status(
            "GET /health HTTP/1.1",
            "Host: localhost\r\nHost: localhost\r\n"
        ),
        400
    );
    assert_eq!(
        status("GET http://evil.example/health HTTP/1.1", local),
        403
    );
    assert_eq!(status("BREW / HTTP/9", local), 400);
    let got = raw(format!("DELETE /tool HTTP/1.1\r\n{local}\r\n"));
    assert_eq!((got.status, got.header("allow")), (405, Some("POST")));
    let form = post("/tool", &auth, &good);
    let form = String::from_utf8(form)
        .unwrap()
        .replace("application/json", "text/plain");
    assert_eq!(raw(form).status, 415);
    let long = format!(
        "GET /health HTTP/1.1\r\n{local}X: {}\r\n\r\n",
        "a".repeat(64 << 10)
    );
    assert_eq!(raw(long).status, 431);
}

#[test]
fn a_body_over_the_limit_is_refused_and_a_strangers_earlier() {
    let house = House::new();
    let head = |more: &str, length: usize| {
        format!(
            "POST /tool HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n\
             Content-Length: {length}\r\n{more}\r\n"
        )
    };
    // Announced too large: refused before a byte of it is sent.
    assert_eq!(
        house
            .raw(head(&authorization(), (1 << 20) + 1).as_bytes())
            .status,
        413
    );
    // In pieces without an announced length.
    let mut chunked = format!(
        "POST /tool HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n\
         Transfer-Encoding: chunked\r\n{}\r\n",
        authorization()
    )
    .into_bytes();
    for _ in 0..33 {
        chunked.extend_from_slice(b"8000\r\n");
        chunked.extend_from_slice(&[b' '; 0x8000]);
        chunked.extend_from_slice(b"\r\n");
    }
    assert_eq!(house.raw(&chunked).status, 413);
    // Without a token in force only the first kilobytes are read.
    let mut large = head("Authorization: Bearer wrong\r\n", 1 << 20).into_bytes();
    large.extend_from_slice(&[b' '; 64 << 10]);
    assert_eq!(house.raw(&large).status, 401);
}

#[test]
fn pipelined_requests_are_answered_in_order() {
    let house = House::new();
    let mut stream = house.connect();
    let mut all = Vec::new();
    for n in 0..20 {
        let body = json!({"id": n, "tool": "fs_read", "params": {"path": "welcome.txt"}});
        all.extend(post("/tool", &authorization(), &body.to_string()));
    }
    stream.write_all(&all).unwrap();
    let mut reader = BufReader::new(stream);
    for n in 0..20 {
        assert_eq!(read(&mut reader).unwrap().json()["id"], n);
    }
}

#[test]
fn a_slow_head_gets_408_and_costs_nobody_else() {
    let house = House::new();
    let mut slow: Vec<_> = (0..50).map(|_| house.connect()).collect();
    for stream in &mut slow {
        stream.write_all(b"GET /health HTT").unwrap();
    }
    for _ in 0..20 {
        let got = house.tool("fs_read", json!({"path": "welcome.txt"}));
        assert_eq!(got.status, 200);
    }
    for stream in slow {
        assert_eq!(read(&mut BufReader::new(stream)).unwrap().status, 408);
    }
}

#[test]
fn too_many_connections_are_told_so_and_those_that_are_in_go_on() {
    let house = House::new();
    let mut held: Vec<_> = (0..512).map(|_| house.connect()).collect();
    let mut last = held.pop().unwrap();
    let ask = format!(
        "GET /tools HTTP/1.1\r\nHost: localhost\r\n{}\r\n",
        authorization()
    );
    last.write_all(ask.as_bytes()).unwrap();
    assert_eq!(
        read(&mut BufReader::new(last.try_clone().unwrap()))
            .unwrap()
            .status,
        200
    );
    let mut refused = house.connect();
    let mut text = String::new();
    refused.read_to_string(&mut text).unwrap();
    assert!(text.starts_with("HTTP/1.1 503 "), "{text}");
    drop((held, last));
    house.wait_healthy();
}

#[test]
fn a_client_that_goes_away_leaves_its_call_recorded() {
    let house = House::new();
    for n in 0..50 {
        let mut stream = house.connect();
        let params = json!({"path": "log", "content": "x", "mode": "append", "create": true});
        let body = json!({"id": n, "tool": "fs_write", "params": params}).to_string();
        stream
            .write_all(&post("/tool", &authorization(), &body))
            .unwrap();
    }
    // Whatever of them began, its effect and its row agree.
    let deadline = std::time::Instant::now() + crate::house::PATIENCE;
    let in_flight = || {
        let text = house.raw(
            format!(
                "GET /metrics HTTP/1.1\r\nHost: localhost\r\nAccept: text/plain\r\n{}\r\n",
                authorization()
            )
            .as_bytes(),
        );
        let text = String::from_utf8(text.body).unwrap();
        let line = text
            .lines()
            .find(|l| l.starts_with("gateway_calls_in_flight "))
            .unwrap()
            .to_owned();
        let open = text
            .lines()
            .find(|l| l.starts_with("gateway_connections "))
            .unwrap();
        (line, open.to_owned())
    };
    while in_flight()
        != (
            "gateway_calls_in_flight 0".to_owned(),
            "gateway_connections 1".to_owned(),
        )
    {
        assert!(std::time::Instant::now() < deadline);
    }
    let rows = house.log.rows.lock().unwrap();
    let done = rows
        .iter()
        .filter(|r| r.payload["outcome"] == "success")
        .count();
    let size = std::fs::metadata(house.path("work/log")).map_or(0, |m| m.len());
    assert_eq!(size, done as u64);
}

#[test]
fn mangled_requests_never_end_the_service() {
    let house = House::new();
    let good = post(
        "/tool",
        &authorization(),
        r#"{"tool":"fs_read","params":{"path":"welcome.txt"}}"#,
    );
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    let mut random = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    for _ in 0..300 {
        let mut bad = good.clone();
        for _ in 0..1 + random() % 8 {
            let at = (random() % bad.len() as u64) as usize;
            bad[at] = random() as u8;
        }
        bad.truncate((random() % (bad.len() as u64 + 1)) as usize);
        let mut stream = house.connect();
        let _ = stream.write_all(&bad);
        let _ = stream.shutdown(std::net::Shutdown::Write);
        let _ = stream.read(&mut [0; 4096]);
    }
    assert_eq!(
        house.tool("fs_read", json!({"path": "welcome.txt"})).status,
        200
    );
}

/// What two readers could cut into different requests is one answer and the end, whichever token it has.
#[test]
fn requests_that_mean_two_things_are_refused_and_end_the_connection() {
    let house = House::new();
    let auth = authorization();
    let body = r#"{"tool":"fs_read","params":{"path":"welcome.txt"}}"#;
    let length = body.len();
    let request = |headers: &str| {
        format!(
            "POST /tool HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n\
             {auth}{headers}\r\n{body}GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n"
        )
    };
    for headers in [
        format!("Content-Length: {length}\r\nContent-Length: 0\r\n"),
        format!("Content-Length: {length}, 0\r\n"),
        format!("Content-Length: +{length}\r\n"),
        "Content-Length: 0x32\r\n".to_owned(),
        "Content-Length: -1\r\n".to_owned(),
        format!("Content-Length: {}9\r\n", u64::MAX),
        "Transfer-Encoding: xchunked\r\n".to_owned(),
        "Transfer-Encoding: chunked, identity\r\n".to_owned(),
        format!("Content-Length : {length}\r\n"),
        format!("X: a\r\n b\r\nContent-Length: {length}\r\n"),
        format!("X: a\0b\r\nContent-Length: {length}\r\n"),
        format!("Content-Length: {length}\r\n{}", "X: a\r\n".repeat(100)),
        format!("Transfer-Encoding: chunked\r\nContent-Length: {length}\r\n"),
        format!("Content-Length: {length}\r\nTransfer-Encoding: chunked\r\n"),
    ] {
        let mut stream = house.connect();
        stream.write_all(request(&headers).as_bytes()).unwrap();
        let mut reader = BufReader::new(stream);
        let first = read(&mut reader).unwrap_or_else(|| panic!("no answer to {headers:?}"));
        let status = first.status;
        assert!((400..=501).contains(&status), "{status} to {headers:?}");
        // A reset is an end as well.
        let mut rest = Vec::new();
        let _ = reader.read_to_end(&mut rest);
        assert!(rest.is_empty(), "a second answer to {headers:?}");
    }
    let well = house.tool("fs_read", json!({"path": "welcome.txt"}));
    assert_eq!(well.status, 200);
}
