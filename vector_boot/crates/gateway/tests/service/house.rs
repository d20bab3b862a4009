//! A whole gateway in a thread of the test, with its peers, its roots and a client.

use super::peers::{self, Log, Peer, Rules, TOKEN};
use gateway::config;
use gateway::serve::Service;
use serde_json::{Value, json};
use std::ffi::OsString;
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::sync::oneshot;

/// No answer of these tests takes longer, unless something hangs.
pub const PATIENCE: Duration = Duration::from_secs(60);

pub struct House {
    pub log: Arc<Log>,
    pub rules: Arc<Rules>,
    pub ledger: Option<Peer>,
    pub capacity: Option<Peer>,
    pub address: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<std::io::Result<()>>>,
    /// Last, since the peers' ends need their sockets' paths.
    pub folder: tempfile::TempDir,
}

/// An answer, read whole.
#[derive(Debug)]
pub struct Got {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Got {
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|e| panic!("{e}: {}", String::from_utf8_lossy(&self.body)))
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(n, _)| n == name);
        found.map(|(_, v)| v.as_str())
    }
}

impl House {
    /// A gateway with roots `work` and, read-only, `share`.
    pub fn new() -> Self {
        Self::asked(&[])
    }

    /// The same with further words.
    pub fn asked(more: &[&str]) -> Self {
        let mut house = Self::without_peers(more);
        house.ledger = Some(peers::ledger(&house.run(), house.log.clone()));
        house.capacity = Some(peers::capacity(&house.run(), house.rules.clone()));
        house.wait_healthy();
        house
    }

    fn without_peers(more: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        for name in ["run", "work", "share", "outside"] {
            std::fs::create_dir(folder.path().join(name)).unwrap();
        }
        std::fs::write(folder.path().join("work/welcome.txt"), "hello\n").unwrap();
        let at = |name: &str| folder.path().join(name).display().to_string();
        let words = [
            "--listen".to_owned(),
            "127.0.0.1:0".to_owned(),
            format!("--root=work={}", at("work")),
            format!("--root=share={}:ro", at("share")),
            format!("--run={}", at("run")),
            "--allow-host=named.example".to_owned(),
        ]
        .map(OsString::from);
        let words: Vec<OsString> = words
            .into_iter()
            .chain(more.iter().map(OsString::from))
            .collect();
        let options = config::parse(&words).unwrap();
        let service = Service::open(&options, Default::default()).unwrap();
        let address = service.address().unwrap();
        let (stop, stopped) = oneshot::channel::<()>();
        let thread = std::thread::spawn(move || {
            service.run(async {
                let _ = stopped.await;
                Ok(15)
            })
        });
        Self {
            folder,
            log: Arc::default(),
            rules: Arc::default(),
            ledger: None,
            capacity: None,
            address,
            stop: Some(stop),
            thread: Some(thread),
        }
    }

    pub fn run(&self) -> PathBuf {
        self.folder.path().join("run")
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn wait_healthy(&self) {
        let deadline = std::time::Instant::now() + PATIENCE;
        while self.get("/health", false).json()["status"] != "ok" {
            assert!(std::time::Instant::now() < deadline, "peers never came up");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    pub fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_nodelay(true).unwrap();
        stream
    }

    /// Sends bytes as they are and reads one answer.
    pub fn raw(&self, request: &[u8]) -> Got {
        let mut stream = self.connect();
        // The gateway may answer and close before it has read everything.
        let _ = stream.write_all(request);
        read(&mut BufReader::new(stream)).expect("an answer")
    }

    pub fn get(&self, path: &str, token: bool) -> Got {
        let more = if token {
            authorization()
        } else {
            String::new()
        };
        self.raw(format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n{more}\r\n").as_bytes())
    }

    pub fn post(&self, path: &str, body: &Value) -> Got {
        self.raw(&post(path, &authorization(), &body.to_string()))
    }

    pub fn tool(&self, tool: &str, params: Value) -> Got {
        self.post("/tool", &json!({ "tool": tool, "params": params }))
    }

    /// Ends the gateway in order; its result is that of `run`.
    pub fn stop(&mut self) {
        if let (Some(stop), Some(thread)) = (self.stop.take(), self.thread.take()) {
            let _ = stop.send(());
            thread.join().unwrap().unwrap();
        }
    }
}

impl Drop for House {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            self.stop();
        }
    }
}

pub fn authorization() -> String {
    format!("Authorization: Bearer {TOKEN}\r\n")
}

pub fn post(path: &str, headers: &str, body: &str) -> Vec<u8> {
    format!(
        "POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n\
         Content-Length: {}\r\n{headers}\r\n{body}",
        body.len()
    )
    .into_bytes()
}

/// Reads one answer; `None` if the connection ended before its first byte.
pub fn read(stream: &mut impl BufRead) -> Option<Got> {
    let mut line = String::new();
    if stream.read_line(&mut line).ok()? == 0 {
        return None;
    }
    let status = line.split(' ').nth(1).unwrap().parse().unwrap();
    let mut headers = Vec::new();
    loop {
        line.clear();
        stream.read_line(&mut line).unwrap();
        let Some((name, value)) = line.trim_end().split_once(':') else {
            break;
        };
        headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
    }
    let length = headers.iter().find(|(n, _)| n == "content-length");
    let length: usize = length.map_or(0, |(_, v)| v.parse().unwrap());
    let mut body = vec![0; length];
    stream.read_exact(&mut body).unwrap();
    Some(Got {
        status,
        headers,
        body,
    })
}
