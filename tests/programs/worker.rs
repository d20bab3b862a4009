//! A program of a user that does what programs do, each thing once, and says so; for the jail of foreign programs.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::time::{Duration, Instant};

fn main() {
    let online = std::env::args().nth(1).as_deref() == Some("online");
    let folder = PathBuf::from(std::env::var_os("VB_DATA").expect("VB_DATA"));
    threads();
    memory();
    files(&folder);
    local_sockets(&folder);
    match TcpListener::bind("127.0.0.1:0") {
        Ok(listener) => {
            assert!(online, "a socket without a network");
            internet(&listener);
        }
        Err(e) => assert!(!online, "{e}"),
    }
    println!("worked");
    // Says where, and aborts.
    panic!("on purpose");
}

fn threads() {
    let (send, receive) = std::sync::mpsc::channel();
    let threads: Vec<_> = (0..8u64)
        .map(|n| {
            let send = send.clone();
            std::thread::spawn(move || {
                std::thread::sleep(Duration::from_millis(n));
                send.send(n).expect("a receiver");
            })
        })
        .collect();
    for thread in threads {
        thread.join().expect("a thread");
    }
    drop(send);
    assert_eq!(receive.iter().sum::<u64>(), 28);
    assert!(std::thread::available_parallelism().is_ok());
}

/// Both of malloc's ways, and growing what was mapped.
fn memory() {
    let mut large: Vec<u8> = Vec::with_capacity(1 << 20);
    for n in 0..(64u32 << 20) {
        large.push(n.to_le_bytes()[0]);
    }
    let small: Vec<Vec<u8>> = (0..100_000).map(|n| vec![0; n % 97]).collect();
    assert_eq!((large.len(), small.len()), (64 << 20, 100_000));
}

fn files(folder: &std::path::Path) {
    let inner = folder.join("a/b");
    std::fs::create_dir_all(&inner).expect("folders");
    let path = inner.join("file");
    std::fs::write(&path, "content").expect("a file");
    let file = std::fs::File::options()
        .append(true)
        .open(&path)
        .expect("open");
    (&file).write_all(b", more").expect("append");
    file.sync_all().expect("fsync");
    file.set_len(7).expect("truncate");
    std::fs::copy(&path, folder.join("copy")).expect("a copy");
    std::fs::rename(folder.join("copy"), inner.join("moved")).expect("a rename");
    std::os::unix::fs::symlink("file", inner.join("link")).expect("a link");
    assert_eq!(
        std::fs::read_to_string(inner.join("link")).expect("read"),
        "content"
    );
    assert_eq!(std::fs::read_dir(&inner).expect("list").count(), 3);
    std::fs::remove_dir_all(folder.join("a")).expect("removal");
    assert!(std::fs::read("/etc/passwd").is_err());
    assert!(Instant::now().elapsed() < Duration::from_secs(3600));
}

fn local_sockets(folder: &std::path::Path) {
    let path = folder.join("socket");
    let listener = UnixListener::bind(&path).expect("bind");
    let mut client = UnixStream::connect(&path).expect("connect");
    let (mut server, _) = listener.accept().expect("accept");
    client.write_all(b"hello").expect("write");
    drop(client);
    let mut text = String::new();
    server.read_to_string(&mut text).expect("read");
    assert_eq!(text, "hello");
    std::fs::remove_file(path).expect("removal");
    UnixStream::pair().expect("a pair");
}

fn internet(listener: &TcpListener) {
    let at = listener.local_addr().expect("an address");
    let mut client = TcpStream::connect(at).expect("connect");
    let (mut server, _) = listener.accept().expect("accept");
    client.set_nodelay(true).expect("nodelay");
    client.write_all(b"hello").expect("write");
    drop(client);
    let mut text = String::new();
    server.read_to_string(&mut text).expect("read");
    assert_eq!(text, "hello");
    let socket = UdpSocket::bind("127.0.0.1:0").expect("udp");
    let at = socket.local_addr().expect("an address");
    socket.send_to(b"x", at).expect("send");
}
