//! The log of a running ledger as syslog messages, to listeners that read RFC 5424 by themselves.

use super::{LIMIT, ROLE, Service, event};
use std::io::{BufRead, BufReader, Read};
use std::net::{TcpListener, UdpSocket};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use wire::ledger::Append;

fn follow(folder: &Path, peer: &str) -> Child {
    let words = ["export", "--follow", "--from", "2", "--syslog", peer];
    Command::new(std::env::current_exe().unwrap())
        .env(ROLE, words.join("\n"))
        .env("VB_RUN", folder)
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

/// What a message says: its header's fields, its structured data, its text.
fn read(message: &str) -> (Vec<&str>, &str, &str) {
    let (header, rest) = message.split_once(" [").expect("structured data");
    let (data, text) = rest.split_once("] \u{feff}").expect("a text in UTF-8");
    (header.split(' ').collect(), data, text)
}

fn check(message: &str, id: u64, subject: &str) {
    let (header, data, text) = read(message);
    let [priority, time, host, app, process, kind] = header[..] else {
        panic!("{message}");
    };
    assert_eq!((priority, host, app), ("<110>1", "-", "vector-boot"));
    assert_eq!((process, kind), ("system", "service_started"), "{message}");
    // RFC 5424, 6.2.3: at most six digits of a second.
    assert!(time.len() == 27 && time.ends_with('Z'), "{time}");
    let told = [
        format!("ledger@32473 id=\"{id}\" commit=\""),
        "actor=\"service:init\" tenant=\"system\"".to_owned(),
    ];
    assert!(told.iter().all(|told| data.contains(told)), "{message}");
    if text == "too large for a datagram" {
        return;
    }
    let event: serde_json::Value = serde_json::from_str(text).unwrap();
    assert_eq!(event["id"], id);
    assert_eq!(event["subject"], subject);
}

pub fn a_running_ledger_is_told_to_a_syslog_peer_as_it_grows() {
    let folder = tempfile::tempdir().unwrap();
    let service = Service::start(folder.path());
    let mut client = service.client();
    for subject in ["one", "two", "three"] {
        client.append(&event(subject)).unwrap();
    }

    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.set_read_timeout(Some(LIMIT)).unwrap();
    let udp = format!("udp://{}", socket.local_addr().unwrap());
    let mut exporter = follow(folder.path(), &udp);
    let mut datagram = vec![0; 65536];
    let mut next = |id: u64, subject: &str| {
        let bytes = socket.recv(&mut datagram).expect("a datagram");
        let message = std::str::from_utf8(&datagram[..bytes]).unwrap();
        check(message, id, subject);
        (bytes, message.ends_with("too large for a datagram"))
    };
    assert!(!next(2, "two").1 && !next(3, "three").1);
    client.append(&event("four")).unwrap();
    assert!(!next(4, "four").1);
    // What no datagram holds goes without its text, and is missed by nobody.
    let payload = format!("{{\"a\":\"{}\"}}", "x".repeat(3000));
    let large = Append {
        payload: &payload,
        ..event("five")
    };
    client.append(&large).unwrap();
    let (bytes, cut) = next(5, "five");
    assert!(cut && bytes <= 2048);
    exporter.kill().unwrap();
    exporter.wait().unwrap();

    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let tcp = format!("tcp://{}", listener.local_addr().unwrap());
    let mut exporter = follow(folder.path(), &tcp);
    let (stream, _) = listener.accept().unwrap();
    stream.set_read_timeout(Some(LIMIT)).unwrap();
    let mut reader = BufReader::new(stream);
    client.append(&event("six")).unwrap();
    for (id, subject) in (2..).zip(["two", "three", "four", "five", "six"]) {
        let mut length = Vec::new();
        reader.read_until(b' ', &mut length).unwrap();
        let length = std::str::from_utf8(&length).unwrap().trim_end().parse();
        let mut message = vec![0; length.expect("RFC 6587: octets are counted")];
        reader.read_exact(&mut message).unwrap();
        check(std::str::from_utf8(&message).unwrap(), id, subject);
    }
    // The peer goes: sooner or later nothing can be sent, and who exports says from where on.
    drop((reader, listener));
    let status = loop {
        client.append(&event("nobody")).unwrap();
        if let Some(status) = exporter.try_wait().unwrap() {
            break status;
        }
    };
    let mut said = String::new();
    exporter
        .stderr
        .take()
        .unwrap()
        .read_to_string(&mut said)
        .unwrap();
    assert!(!status.success(), "{said}");
    assert!(said.contains("the last event that was sent is "), "{said}");
}
