//! The service: listeners in, connections out, readiness told, an orderly end.
//!
//! Start with [`run`].

use crate::call::Gateway;
use crate::config::{self, Options};
use crate::guard::{Guarded, Pulse};
use crate::hosts::Hosts;
use crate::http::{Door, Entry};
use crate::journal::Journal;
use crate::link::watched;
use crate::peers::Peers;
use crate::refusals;
use crate::tools::World;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use std::convert::Infallible;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};
use sys::events::Signals;
use sys::inherit::{Inherited, notify};
use sys::seqlock;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::{Semaphore, watch};

/// Connections of one listener. Each listener has its own, so that strangers at the TCP port cannot
/// keep the machine's owner out of the Unix socket.
pub const CONNECTIONS_MAX: usize = 512;
/// Threads that may wait for a disk: calls are short, and each thread costs a stack.
const THREADS_MAX: usize = 8;
/// A tool's deepest call needs a tenth of it.
const THREAD_STACK_BYTES: usize = 256 << 10;
/// Largest head of a request, and hyper's buffer for it.
const HEAD_BYTES_MAX: usize = 16 << 10;
/// Headers of a request.
const HEADERS_MAX: usize = 64;
/// How long PID 1 is kept waiting for the peers.
const READY_WAIT: Duration = Duration::from_secs(2);
/// How long calls under way are waited for at the end; the manifest gives a second more until SIGKILL.
const STOP_WAIT: Duration = Duration::from_secs(4);
/// How long a client that was let in just before the end may take for its first byte: what connects is to be
/// answered, by us or by who follows, also where the client's host is busy.
const FIRST_BYTE_WAIT: Duration = Duration::from_millis(1500);
/// Between two looks at the end.
const STOP_STEP: Duration = Duration::from_millis(5);
/// How often the stats page and the watchdog are fed.
const TICK: Duration = Duration::from_secs(1);
/// After `accept` failed for want of descriptors or memory.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// Where the seed's clients look.
const COMPAT_SOCKET: &str = "/tmp/sovereign-gateway.sock";
/// A host's name is at most 64 bytes: gethostname(2).
const HOSTNAME_BYTES_MAX: u64 = 64;

/// Runs the service until SIGTERM or SIGINT.
///
/// # Errors
/// What keeps it from starting.
pub fn run(options: &Options) -> Result<(), Box<dyn std::error::Error>> {
    let inherited = Inherited::take();
    let signals = Signals::new(&[SIGTERM, SIGINT])?;
    let service = Service::open(options, inherited)?;
    Ok(service.run(terminated(signals))?)
}

/// A gateway whose descriptors are open.
pub struct Service {
    door: Door,
    listeners: Listeners,
    stats: Option<OwnedFd>,
}

impl Service {
    /// Takes what was passed, opens what was not, and listens.
    ///
    /// # Errors
    /// What keeps it from starting.
    pub fn open(
        options: &Options,
        mut inherited: Inherited,
    ) -> Result<Self, Box<dyn std::error::Error>> {
        let started = Instant::now();
        let proc = match inherited.remove("proc") {
            Some(fd) => Some(File::from(fd)),
            None => File::open("/proc").ok(),
        };
        let stats = inherited.remove("stats");
        let world = World {
            roots: config::roots(&mut inherited, options)?,
            proc,
        };
        let run = options.run.clone().unwrap_or_else(ipc::run_folder);
        let peers = Peers::new(
            &run,
            config::boot_id()?,
            sys::packet::own_uid(),
            sys::clock::monotonic_ns(),
        )?;
        let mut hosts = options.hosts.clone();
        hosts.extend(hostname(&world));
        let listeners = Listeners::open(&mut inherited, options, &run)?;
        for root in &world.roots.0 {
            log::info!("root: name={} mode={:?}", root.name, root.mode);
        }
        let door = Door {
            gateway: Arc::new(Gateway::new(
                world,
                peers,
                Journal::new(run.join("ledger.sock")),
                started,
                options.audit_paths,
            )?),
            hosts: Hosts::new(hosts),
            warnings: listeners.warnings(),
            landlock_abi: sys::beneath::landlock_abi(),
        };
        Ok(Self {
            door,
            listeners,
            stats,
        })
    }

    /// Where HTTP is listened for.
    ///
    /// # Errors
    /// As `getsockname(2)`.
    pub fn address(&self) -> io::Result<std::net::SocketAddr> {
        self.listeners.tcp.local_addr()
    }

    /// Serves until `stop` comes, then ends in order.
    ///
    /// # Errors
    /// What makes the runtime or a listener fail.
    pub fn run(self, stop: impl Future<Output = io::Result<i32>>) -> io::Result<()> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .max_blocking_threads(THREADS_MAX)
            .thread_stack_size(THREAD_STACK_BYTES)
            .build()?;
        let served = serve(Arc::new(self.door), self.listeners, stop, self.stats);
        runtime.block_on(served)?;
        // Threads that still wait for a disk are not waited for.
        runtime.shutdown_background();
        Ok(())
    }
}

/// signal(7).
const SIGTERM: i32 = 15;
/// signal(7).
const SIGINT: i32 = 2;

/// The machine's own name, through the /proc that is held.
fn hostname(world: &World) -> Option<String> {
    let proc = world.proc.as_ref()?;
    let access = sys::beneath::Access::Read;
    let file = sys::beneath::open(proc.as_fd(), b"sys/kernel/hostname", access).ok()?;
    let mut name = String::new();
    file.take(HOSTNAME_BYTES_MAX)
        .read_to_string(&mut name)
        .ok()?;
    Some(name.trim().to_owned()).filter(|n| !n.is_empty() && n != "(none)")
}

/// What is listened on.
struct Listeners {
    tcp: std::net::TcpListener,
    unix: Vec<std::os::unix::net::UnixListener>,
    /// Made by us, so removed at the end.
    paths: Vec<PathBuf>,
}

impl Listeners {
    fn open(inherited: &mut Inherited, options: &Options, run: &Path) -> io::Result<Self> {
        let tcp = match inherited.remove("http") {
            Some(fd) => std::net::TcpListener::from(fd),
            None => std::net::TcpListener::bind(options.listen)?,
        };
        let mut this = Self {
            tcp,
            unix: Vec::new(),
            paths: Vec::new(),
        };
        match inherited.remove("gateway.sock") {
            Some(fd) => this.unix.push(fd.into()),
            None if run.is_dir() => this.bind(run.join("gateway.sock"))?,
            None => log::warn!("no unix socket: folder {} is missing", run.display()),
        }
        if options.compat_socket {
            this.bind(COMPAT_SOCKET.into())?;
        }
        Ok(this)
    }

    fn bind(&mut self, path: PathBuf) -> io::Result<()> {
        // Packets are not spoken here; the module's rule for what may be removed is.
        sys::packet::remove_socket(&path)?;
        let listener = std::os::unix::net::UnixListener::bind(&path)?;
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o660))?;
        log::info!("listening: socket={}", path.display());
        self.unix.push(listener);
        self.paths.push(path);
        Ok(())
    }

    fn warnings(&self) -> Vec<String> {
        match self.tcp.local_addr() {
            Ok(at) if !at.ip().is_loopback() => {
                vec![format!(
                    "plain HTTP on {at}: tokens and contents cross the network readable"
                )]
            }
            _ => Vec::new(),
        }
    }
}

async fn serve(
    door: Arc<Door>,
    listeners: Listeners,
    stop_signal: impl Future<Output = io::Result<i32>>,
    stats: Option<OwnedFd>,
) -> io::Result<()> {
    let peers = door.gateway.peers.clone();
    tokio::spawn(peers.capacity.clone().run());
    tokio::spawn(peers.ledger.clone().run());
    let (stop, stopping) = watch::channel(false);
    listeners.tcp.set_nonblocking(true)?;
    let tcp = TcpListener::from_std(listeners.tcp)?;
    log::info!("listening: http={}", tcp.local_addr()?);
    for warning in &door.warnings {
        log::warn!("{warning}");
    }
    let mut accepting = tokio::task::JoinSet::new();
    accepting.spawn(accept_tcp(tcp, door.clone(), stopping.clone()));
    for unix in listeners.unix {
        unix.set_nonblocking(true)?;
        let unix = UnixListener::from_std(unix)?;
        accepting.spawn(accept_unix(unix, door.clone(), stopping.clone()));
    }
    tokio::spawn(tell_readiness(peers));
    tokio::spawn(keep_records(door.gateway.clone()));
    tokio::spawn(tick(door.gateway.clone(), stats));
    let signal = stop_signal.await?;
    log::info!("stopping: signal={signal}");
    tell("STOPPING=1");
    accepting.abort_all();
    // Nobody listens any more where this fails: there is no connection.
    let _ = stop.send(true);
    finish(&door.gateway).await;
    for path in listeners.paths {
        // Left over, it would be replaced by the next run.
        let _ = std::fs::remove_file(path);
    }
    Ok(())
}

async fn terminated(mut signals: Signals) -> io::Result<i32> {
    let readable = watched(signals.as_fd().try_clone_to_owned()?)?;
    loop {
        let mut ready = readable.readable().await?;
        if let Some((number, _)) = signals.take() {
            return Ok(number);
        }
        ready.clear_ready();
    }
}

/// Waits for connections and calls under way and writes the last rows, within the limit.
async fn finish(gateway: &Gateway) {
    gateway.journal.stop();
    let work = async {
        while gateway.metrics.calls_in_flight() > 0 || gateway.metrics.connections_open() > 0 {
            tokio::time::sleep(STOP_STEP).await;
        }
        gateway.record_refusals().await;
        while gateway.peers.ledger.waiting() > 0 {
            tokio::time::sleep(STOP_STEP).await;
        }
        // Answers on their way out.
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    if tokio::time::timeout(STOP_WAIT, work).await.is_err() {
        let rows = gateway.peers.ledger.waiting();
        let calls = gateway.metrics.calls_in_flight();
        log::warn!("stopped before the end: calls={calls} rows_not_recorded={rows}");
    }
}

fn tell(state: &str) {
    if let Err(e) = notify(state) {
        log::debug!("notify: cause={e}");
    }
}

/// READY=1 once both peers answered or were waited for; STATUS whenever one comes or goes.
async fn tell_readiness(peers: Peers) {
    let both = async {
        let _ = peers.capacity.wait_up(READY_WAIT).await;
        let _ = peers.ledger.wait_up(READY_WAIT).await;
    };
    let _ = tokio::time::timeout(READY_WAIT, both).await;
    let mut ready = "READY=1\n";
    let (mut capacity, mut ledger) = (peers.capacity.up(), peers.ledger.up());
    loop {
        let missing: Vec<&str> = [
            (*capacity.borrow_and_update(), "capacity"),
            (*ledger.borrow_and_update(), "ledger"),
        ]
        .iter()
        .filter_map(|(up, name)| (!up).then_some(*name))
        .collect();
        let status = match missing.as_slice() {
            [] => "serving".to_owned(),
            missing => format!("waiting for {}", missing.join(" and ")),
        };
        tell(&format!("{ready}STATUS={status}"));
        ready = "";
        let changed = tokio::select! {
            c = capacity.changed() => c,
            l = ledger.changed() => l,
        };
        if changed.is_err() {
            return;
        }
    }
}

async fn keep_records(gateway: Arc<Gateway>) {
    loop {
        tokio::time::sleep(refusals::PERIOD).await;
        gateway.record_refusals().await;
    }
}

async fn tick(gateway: Arc<Gateway>, stats: Option<OwnedFd>) {
    let page = stats.and_then(|fd| seqlock::Writer::over(&fd, wire::stats::MAGIC).ok());
    let mut page = page;
    loop {
        if let Some(page) = page.as_mut() {
            let queue = [("queue_gauge", gateway.metrics.calls_in_flight())];
            let counters = gateway.metrics.page();
            page.update(|words| {
                for (name, value) in counters.iter().chain(&queue) {
                    if let Some(index) = wire::stats::word(name) {
                        words.set(index, *value);
                    }
                }
            });
        }
        tell("WATCHDOG=1");
        tokio::time::sleep(TICK).await;
    }
}

async fn accept_tcp(listener: TcpListener, door: Arc<Door>, stopping: watch::Receiver<bool>) {
    let slots = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let (stream, local) = match listener.accept().await {
            Ok((stream, _)) => match stream.local_addr() {
                Ok(local) => (stream, local.ip()),
                Err(_) => continue,
            },
            Err(e) => {
                accept_failed(&e).await;
                continue;
            }
        };
        // Answers are written whole; waiting for more to send would only delay them.
        let _ = stream.set_nodelay(true);
        admit(stream, Entry::Tcp(local), &slots, &door, &stopping);
    }
}

async fn accept_unix(listener: UnixListener, door: Arc<Door>, stopping: watch::Receiver<bool>) {
    let slots = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(e) => {
                accept_failed(&e).await;
                continue;
            }
        };
        let own = sys::packet::own_uid();
        let peer = sys::packet::peer_of(stream.as_fd());
        let operator = peer.is_ok_and(|p| wire::Role::of_uid(p.uid, own) == wire::Role::Operator);
        admit(stream, Entry::Unix { operator }, &slots, &door, &stopping);
    }
}

async fn accept_failed(e: &io::Error) {
    log::warn!("accept: cause={e}");
    tokio::time::sleep(ACCEPT_PAUSE).await;
}

/// Serves a connection in a task of its own, or turns it away where there are too many.
fn admit<S>(
    stream: S,
    entry: Entry,
    slots: &Arc<Semaphore>,
    door: &Arc<Door>,
    stopping: &watch::Receiver<bool>,
) where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    match slots.clone().try_acquire_owned() {
        Ok(slot) => {
            let (door, stopping) = (door.clone(), stopping.clone());
            tokio::spawn(async move {
                let _slot = slot;
                let _counted = door.gateway.metrics.connection();
                connection(stream, entry, &door, stopping).await;
            });
        }
        Err(_) => {
            let detail = format!("{CONNECTIONS_MAX} connections are open");
            tokio::spawn(last_words(
                stream,
                "503 Service Unavailable",
                "overloaded",
                detail,
            ));
        }
    }
}

async fn connection<S>(
    stream: S,
    entry: Entry,
    door: &Arc<Door>,
    mut stopping: watch::Receiver<bool>,
) where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let pulse = Arc::new(Pulse::default());
    let ending = stopping.clone();
    let service = service_fn(|request: hyper::Request<hyper::body::Incoming>| {
        let (door, serving) = (door.clone(), pulse.request());
        let ending = ending.clone();
        async move {
            let mut answer = door.serve(entry, request).await;
            answer.body_mut().keep(serving);
            if *ending.borrow() {
                let close = hyper::header::HeaderValue::from_static("close");
                answer
                    .headers_mut()
                    .insert(hyper::header::CONNECTION, close);
            }
            Ok::<_, Infallible>(answer)
        }
    });
    let io = TokioIo::new(Guarded::new(stream, pulse.clone()));
    let mut connection = hyper::server::conn::http1::Builder::new()
        .max_buf_size(HEAD_BYTES_MAX)
        .max_headers(HEADERS_MAX)
        .header_read_timeout(None)
        .serve_connection(io, service);
    // The value that `wait_for` lends must not be held over the next wait.
    let stop = async { drop(stopping.wait_for(|stop| *stop).await) };
    let first = tokio::select! {
        ended = &mut connection => Some(ended),
        () = stop => None,
    };
    let ended = match first {
        Some(ended) => ended,
        None => {
            // hyper closes a connection that has said nothing yet, with the request that is on its way.
            let heard = async {
                while !pulse.has_heard() {
                    tokio::time::sleep(STOP_STEP).await;
                }
            };
            let early = tokio::select! {
                ended = &mut connection => Some(ended),
                _ = tokio::time::timeout(FIRST_BYTE_WAIT, heard) => None,
            };
            match early {
                Some(ended) => ended,
                None => {
                    Pin::new(&mut connection).graceful_shutdown();
                    (&mut connection).await
                }
            }
        }
    };
    if ended.is_err() && pulse.head_late() {
        let stream = connection.into_parts().io.into_inner().into_inner();
        let detail = "the head did not arrive in time".to_owned();
        last_words(stream, "408 Request Timeout", "request_timeout", detail).await;
    }
}

/// Writes one answer to a connection that hyper does not serve, and closes it.
async fn last_words<S>(mut stream: S, status: &str, code: &str, detail: String)
where
    S: AsyncWrite + Unpin,
{
    let (_, body) = crate::answer::problem(code, &detail);
    let head = format!(
        "HTTP/1.1 {status}\r\ncontent-type: {}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
        crate::answer::PROBLEM,
        body.len()
    );
    let words = async {
        stream.write_all(head.as_bytes()).await?;
        stream.write_all(&body).await?;
        stream.shutdown().await
    };
    // A client that does not listen to its refusal loses nothing.
    let _ = tokio::time::timeout(Duration::from_secs(1), words).await;
}
