//! Stores that are servers, each client a socket of its own: Redis with an append-only file that is
//! synced always, NATS JetStream with `sync_interval: always`.

use crate::modes::{MANY, Mode, clients, content};
use crate::{CONTENT_BYTES, Run};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// A server that ends with its run.
struct Server(Child);

impl Server {
    fn start(command: &mut Command) -> Self {
        let quiet = command.stdout(Stdio::null()).stderr(Stdio::null());
        Self(quiet.spawn().expect("server"))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.0.kill().expect("kill");
        self.0.wait().expect("wait");
    }
}

/// A port that was free a moment ago.
fn port() -> u16 {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("port");
    listener.local_addr().expect("address").port()
}

fn connect(port: u16) -> TcpStream {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        match TcpStream::connect(("127.0.0.1", port)) {
            Ok(socket) => {
                socket.set_nodelay(true).expect("nodelay");
                return socket;
            }
            Err(e) => assert!(Instant::now() < deadline, "server: {e}"),
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Sends a request for `batch` events and reads until `lines` line ends came back.
fn ask(socket: &mut TcpStream, request: &[u8], lines: usize, buf: &mut [u8]) {
    socket.write_all(request).expect("send");
    let mut seen = 0;
    while seen < lines {
        let n = socket.read(buf).expect("receive");
        assert!(n > 0, "the server closed the connection");
        seen += buf[..n].iter().filter(|b| **b == b'\n').count();
    }
}

/// Clients that each ask and wait. An answer to an event has two line ends with both servers.
fn drive(
    mode: Mode,
    limit: Duration,
    client: impl Fn(usize) -> (TcpStream, Vec<u8>) + Sync,
) -> Run {
    let count = AtomicU64::new(0);
    let one = |n: usize, deadline: Instant| {
        let (mut socket, request) = client(n);
        let request = request.repeat(mode.batch());
        let mut buf = vec![0; 64 * 1024];
        while Instant::now() < deadline {
            ask(&mut socket, &request, 2 * mode.batch(), &mut buf);
            count.fetch_add(mode.batch() as u64, Ordering::Relaxed);
        }
    };
    let began = Instant::now();
    if mode == Mode::Clients {
        clients(limit, one);
    } else {
        one(0, began + limit);
    }
    let elapsed = began.elapsed().as_secs_f64();
    let events = count.into_inner();
    Run {
        rate: events as f64 / elapsed,
        events,
        ..Run::default()
    }
}

/// XADD, appendfsync always.
pub fn redis(path: &Path, folder: &Path, mode: Mode, limit: Duration) -> Run {
    let port = port();
    let number = port.to_string();
    let words = [
        "--port",
        &number,
        "--bind",
        "127.0.0.1",
        "--save",
        "",
        "--appendonly",
        "yes",
        "--appendfsync",
        "always",
        "--auto-aof-rewrite-percentage",
        "0",
        "--dir",
    ];
    let _server = Server::start(Command::new(path).args(words).arg(folder));
    drop(connect(port));
    let mut request =
        format!("*5\r\n$4\r\nXADD\r\n$1\r\nE\r\n$1\r\n*\r\n$1\r\np\r\n${CONTENT_BYTES}\r\n")
            .into_bytes();
    request.extend(content(1));
    request.extend(b"\r\n");
    drive(mode, limit, |_| (connect(port), request.clone()))
}

/// Publishes with an answer of the stream, which is a file.
pub fn nats(path: &Path, folder: &Path, mode: Mode, limit: Duration) -> Run {
    let port = port();
    let config = folder.join("nats.conf");
    let text = format!(
        "listen: 127.0.0.1:{port}\njetstream {{ store_dir: \"{}\", max_file: 8GB, sync_interval: always }}\n",
        folder.display()
    );
    std::fs::write(&config, text).expect("config");
    let _server = Server::start(Command::new(path).arg("-c").arg(&config));
    let stream =
        br#"{"name":"E","subjects":["e"],"storage":"file","retention":"limits","num_replicas":1}"#;
    let mut create =
        format!("PUB $JS.API.STREAM.CREATE.E r.{MANY} {}\r\n", stream.len()).into_bytes();
    create.extend(stream);
    create.extend(b"\r\n");
    ask(&mut greeted(port, MANY), &create, 2, &mut [0; 8192]);
    drive(mode, limit, |n| {
        let mut request = format!("PUB e r.{n} {CONTENT_BYTES}\r\n").into_bytes();
        request.extend(content(n as u64));
        request.extend(b"\r\n");
        (greeted(port, n), request)
    })
}

/// A connection that listens for answers to client `n`.
fn greeted(port: u16, n: usize) -> TcpStream {
    let mut socket = connect(port);
    let hello = format!(
        "CONNECT {{\"verbose\":false,\"pedantic\":false,\"headers\":false,\"no_responders\":false}}\r\nSUB r.{n} 1\r\nPING\r\n"
    );
    // INFO and PONG.
    ask(&mut socket, hello.as_bytes(), 2, &mut [0; 8192]);
    socket
}
