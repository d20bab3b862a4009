//! Measures `POST /tool` fs_read over loopback beside a static file server, interleaved.
//!
//! `fs_read_bench GATEWAY TOKEN_FILE PATH [REFERENCE_ADDRESS REFERENCE_PATH]`, for example
//! `fs_read_bench 127.0.0.1:8080 token k1 127.0.0.1:8081 /k1` with nginx at the second address and a
//! file of 1 KiB behind both. Prints requests a second and median latency with 1 and 32 connections,
//! the ratios, and how many answers were not 200. The client is the standard library only.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

/// Time of one measurement; short, so that rounds of both servers alternate.
const SLICE: Duration = Duration::from_secs(1);
/// Measurements of each server at each width.
const ROUNDS: usize = 5;

struct Slice {
    per_second: f64,
    p50: Duration,
    refused: usize,
}

fn main() {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let [gateway, token, path, reference @ ..] = words.as_slice() else {
        eprintln!("fs_read_bench GATEWAY TOKEN_FILE PATH [REFERENCE_ADDRESS REFERENCE_PATH]");
        std::process::exit(2);
    };
    let token = std::fs::read_to_string(token).expect("token file");
    let body = format!("{{\"tool\":\"fs_read\",\"params\":{{\"path\":\"{path}\"}}}}");
    let call = format!(
        "POST /tool HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {}\r\n\
         Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        token.trim(),
        body.len()
    );
    let get = |path: &str| format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n");
    let reference = match reference {
        [address, path] => Some((address.as_str(), get(path))),
        _ => None,
    };
    for connections in [1, 32] {
        let (mut ours, mut theirs) = (Vec::new(), Vec::new());
        for _ in 0..ROUNDS {
            ours.push(slice(gateway, &call, connections));
            if let Some((address, request)) = &reference {
                theirs.push(slice(address, request, connections));
            }
        }
        let ours = median("gateway", connections, ours);
        if !theirs.is_empty() {
            let theirs = median("reference", connections, theirs);
            println!(
                "connections={connections} ratio_requests={:.2} ratio_p50={:.2}",
                ours.0 / theirs.0,
                ours.1 / theirs.1
            );
        }
    }
}

/// Requests one after another on each connection, for one slice.
fn slice(address: &str, request: &str, connections: usize) -> Slice {
    let start = Instant::now();
    let mut all: Vec<Duration> = Vec::new();
    let mut refused = 0;
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..connections)
            .map(|_| scope.spawn(|| client(address, request, start)))
            .collect();
        for thread in threads {
            let (times, bad) = thread.join().expect("client");
            all.extend(times);
            refused += bad;
        }
    });
    all.sort_unstable();
    Slice {
        per_second: all.len() as f64 / start.elapsed().as_secs_f64(),
        p50: all.get(all.len() / 2).copied().unwrap_or_default(),
        refused,
    }
}

fn client(address: &str, request: &str, start: Instant) -> (Vec<Duration>, usize) {
    let stream = TcpStream::connect(address).expect("connect");
    stream.set_nodelay(true).expect("nodelay");
    let mut reader = BufReader::new(stream.try_clone().expect("clone"));
    let mut writer = stream;
    let (mut times, mut refused) = (Vec::new(), 0);
    while start.elapsed() < SLICE {
        let asked = Instant::now();
        writer.write_all(request.as_bytes()).expect("send");
        if answer(&mut reader) == 200 {
            times.push(asked.elapsed());
        } else {
            refused += 1;
        }
    }
    (times, refused)
}

fn answer(reader: &mut impl BufRead) -> u16 {
    let (mut line, mut length, mut status) = (String::new(), 0, 0);
    loop {
        line.clear();
        reader.read_line(&mut line).expect("head");
        let text = line.trim_end();
        if let Some((name, value)) = text.split_once(':') {
            if name.eq_ignore_ascii_case("content-length") {
                length = value.trim().parse().expect("length");
            }
        } else if text.is_empty() {
            break;
        } else {
            status = text
                .split(' ')
                .nth(1)
                .and_then(|s| s.parse().ok())
                .unwrap_or(0);
        }
    }
    std::io::copy(&mut reader.take(length), &mut std::io::sink()).expect("body");
    status
}

/// Prints the median of the slices and returns requests a second and p50 in microseconds.
fn median(name: &str, connections: usize, mut slices: Vec<Slice>) -> (f64, f64) {
    let refused: usize = slices.iter().map(|s| s.refused).sum();
    slices.sort_by(|a, b| a.per_second.total_cmp(&b.per_second));
    let per_second = slices[slices.len() / 2].per_second;
    let (low, high) = (slices[0].per_second, slices[slices.len() - 1].per_second);
    slices.sort_by_key(|s| s.p50);
    let p50_us = slices[slices.len() / 2].p50.as_secs_f64() * 1e6;
    println!(
        "connections={connections} server={name} requests_per_second={per_second:.0} \
         low={low:.0} high={high:.0} p50_us={p50_us:.0} not_200={refused}"
    );
    (per_second, p50_us)
}
