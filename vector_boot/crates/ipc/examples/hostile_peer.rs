//! A user's service that means ill: floods every socket that it can reach, for as long as it lives.
//!
//! Connections in a loop, frames that are wrong or without end, descriptors that nobody asked for, answers
//! that are never read, lines of JSON, messages to notify sockets. The test `vm` boots it as an added image
//! and looks how the others fare. Prints what it reaches, once.
#![forbid(unsafe_code)]

use std::io::Write;
use std::os::fd::AsFd;
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use sys::packet::{Mode, PacketSocket};
use wire::control::{BeatGet, Power, StatusGet};
use wire::{Hello, Message};

/// A server that turns everybody away must not make this a loop that does nothing but that.
const PAUSE: Duration = Duration::from_millis(1);

fn main() {
    let run = ipc::run_folder();
    let mut all = Vec::new();
    list(&run, &mut all);
    list(&run.join("notify"), &mut all);
    all.extend(std::env::var_os("NOTIFY_SOCKET").map(PathBuf::from));
    for path in &all {
        println!("hostile: finds {}", path.display());
    }
    let packets = Arc::new(packets());
    for path in ["init.sock", "ledger.wire", "capacity.sock"].map(|name| run.join(name)) {
        let comes = path.clone();
        std::thread::spawn(move || {
            again(|| PacketSocket::connect(&comes, Mode::NonBlocking).map(drop))
        });
        for at in 0..packets.len() {
            let (path, packets) = (path.clone(), packets.clone());
            std::thread::spawn(move || again(|| never_read(&path, &packets, at)));
        }
    }
    for path in ["ledger.sock", "gateway.sock"].map(|name| run.join(name)) {
        std::thread::spawn(move || again(|| lines(&path)));
    }
    for path in all.into_iter().filter(|p| p.is_absolute()) {
        std::thread::spawn(move || again(|| notes(&path)));
    }
    println!("hostile: all under way");
    loop {
        std::thread::park();
    }
}

fn list(folder: &Path, all: &mut Vec<PathBuf>) {
    let found = std::fs::read_dir(folder).into_iter().flatten().flatten();
    all.extend(found.map(|entry| entry.path()));
}

/// Being turned away is what happens to a flood.
fn again(attack: impl Fn() -> std::io::Result<()>) {
    loop {
        if attack().is_err() {
            std::thread::sleep(PAUSE);
        }
    }
}

fn frame<M: Message>(body: &M) -> Vec<u8> {
    let mut buf = [0; 64];
    wire::encode(7, body, &mut buf)
        .map(<[u8]>::to_vec)
        .unwrap_or_default()
}

fn packets() -> Vec<Vec<u8>> {
    let mut newer = frame(&StatusGet);
    newer.splice(..2, 2u16.to_le_bytes());
    vec![
        frame(&StatusGet),
        frame(&BeatGet),
        frame(&Power::Poweroff),
        newer,
        vec![0xa5; 60_000],
        Vec::new(),
    ]
}

/// Asks without end and reads nothing; the last kind of packet brings descriptors.
fn never_read(path: &Path, packets: &[Vec<u8>], at: usize) -> std::io::Result<()> {
    let socket = PacketSocket::connect_within(path, Duration::from_secs(1))?;
    socket.send(&frame(&Hello::OURS), None)?;
    let packet = packets.get(at).map(Vec::as_slice).unwrap_or_default();
    let stdin = std::io::stdin();
    let along = packet.is_empty().then(|| stdin.as_fd());
    loop {
        socket.send(packet, along)?;
    }
}

fn lines(path: &Path) -> std::io::Result<()> {
    let mut stream = UnixStream::connect(path)?;
    let small = b"{\"type\":\"ping\"}\n".repeat(100);
    let long = [&b"[".repeat(1 << 20)[..], b"\n"].concat();
    let head = b"POST /tool HTTP/1.1\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n"
        .repeat(100);
    loop {
        stream.write_all(&small)?;
        stream.write_all(&long)?;
        stream.write_all(&head)?;
    }
}

fn notes(path: &Path) -> std::io::Result<()> {
    let socket = UnixDatagram::unbound()?;
    loop {
        socket.send_to(b"READY=1\nWATCHDOG=1\nSTATUS=\x1b[2J", path)?;
    }
}
