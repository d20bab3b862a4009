//! A log of ten million events: filling it, starting the service on it, queries, memory, disk.
//!
//! `cargo run --release -p ledger --example ten_million -- FOLDER [EVENTS]`: FOLDER is made, and takes
//! some 5 GB. The service is this executable again, asked over its socket as any client would.

use ledger::committer::{Committer, Draft, Ledger};
use ledger::log::Birth;
use std::io::{BufRead, BufReader, IsTerminal, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Set for the service.
const ROLE: &str = "VB_TEN_MILLION_ROLE";
const EVENTS: u64 = 10_000_000;
/// Events of a request, and how many requests are under way while the log is filled.
const BATCH: u64 = 1000;
const UNDER_WAY: u64 = 8;
/// One event of so many is the rare tenant's.
const RARE: u64 = 50_000;
/// Each query is asked so often; the median is told.
const TIMES: usize = 9;
/// So many events are read page by page.
const EVERY_PAGE_EVENTS: u64 = 1_000_000;
/// Longest wait for the service.
const LIMIT: Duration = Duration::from_secs(1200);

fn main() -> ExitCode {
    if std::env::var_os(ROLE).is_some() {
        return ledger::main(&[]);
    }
    let mut words = std::env::args().skip(1);
    let folder = PathBuf::from(words.next().expect("the folder is the first word"));
    let events = words
        .next()
        .map_or(EVENTS, |n| n.parse().expect("a number"));
    std::fs::create_dir_all(folder.join("index")).expect("folder");
    let began = Instant::now();
    fill(&folder, events);
    let seconds = began.elapsed().as_secs_f64();
    println!(
        "filled: {events} events in {seconds:.1} s, {:.0} a second",
        events as f64 / seconds
    );
    disk(&folder);
    println!("\nstart with snapshots");
    let service = Service::start(&folder);
    queries(&service, events);
    service.end();
    println!("\nstart without them: the log is read, the index built");
    std::fs::remove_dir_all(folder.join("index")).expect("remove");
    let service = Service::start(&folder);
    queries(&service, events);
    println!("memory after queries: {}", service.memory());
    let long = |what: &str, request: &str| {
        let (began, before) = (Instant::now(), service.processors());
        let answer = service.ask(request).pop().unwrap_or_default();
        let (took, processors) = (began.elapsed(), service.processors() - before);
        println!(
            "{what}: {:.1} s, {processors:.1} s of processors; memory afterwards: {}",
            took.as_secs_f64(),
            service.memory()
        );
        answer
    };
    long("cache.rebuild", r#"{"type":"cache.rebuild","id":1}"#);
    let verified = long("verify", r#"{"type":"verify","id":1}"#);
    assert!(verified.contains("\"verified\":true"), "{verified}");
    long("doctor", r#"{"type":"doctor","id":1,"checks":true}"#);
    let mut from = Some(1);
    let began = Instant::now();
    while let Some(at) = from {
        let request = format!(r#"{{"type":"query","id":1,"limit":10000,"from":{at}}}"#);
        let last = service.ask(&request).pop().unwrap_or_default();
        let next = last.split("\"next\":").nth(1);
        from = next.and_then(|next| next.trim_end_matches('}').parse().ok());
        if at > EVERY_PAGE_EVENTS {
            break;
        }
    }
    println!(
        "every page of a million events: {:.1} s; memory afterwards: {}",
        began.elapsed().as_secs_f64(),
        service.memory()
    );
    service.end();
    ExitCode::SUCCESS
}

fn draft(n: u64) -> Draft {
    let tenant = match n % RARE {
        7 => "rare".to_owned(),
        _ => format!("tenant{}", n % 50),
    };
    Draft {
        ns: format!("ns{}", n % 20),
        actor: format!("agent:a{}", n % 1000),
        tenant_id: tenant,
        event_type: format!("kind{}", n % 30),
        subject: format!("subject/{}", n % 100_000),
        payload: format!(
            "{{\"duration_ms\":{},\"n\":{n},\"outcome\":\"SUCCESS\",\"root\":\"work\"}}",
            n % 997
        ),
        causation_id: (n > 100 && n.is_multiple_of(3)).then(|| n - 1 - n % 90),
        ..Draft::default()
    }
}

fn fill(folder: &Path, events: u64) {
    let log = folder.join("ledger.log");
    let file = std::fs::File::options()
        .create_new(true)
        .read(true)
        .write(true)
        .open(&log);
    let device = ledger::open::descriptor(
        file.expect("a new log"),
        "ledger.log",
        ledger::device::Access::Write,
    );
    let birth = Birth {
        log_id: [1; 16],
        tag_key: [2; 32],
        wall_ns: 0,
        segment_bytes_max: ledger_core::SEGMENT_BYTES_MAX,
    };
    let index = folder.join("index");
    let (committer, _) =
        Committer::start_with(device.expect("device"), &birth, Some(&index)).expect("log");
    committer.ledger().keep_index().expect("keeper");
    let mut bar = Bar::new("filling");
    let durable = Arc::new(AtomicU64::new(0));
    let mut sent = 0;
    while sent < events {
        send(committer.ledger(), sent, events, &durable);
        sent += BATCH;
        while sent - durable.load(Ordering::Acquire) > UNDER_WAY * BATCH {
            std::thread::sleep(Duration::from_micros(200));
        }
        bar.show(durable.load(Ordering::Acquire) * 100 / events);
    }
    while durable.load(Ordering::Acquire) < events {
        std::thread::sleep(Duration::from_millis(1));
    }
    bar.end();
    committer.stop();
    // What the keeper still writes, the service's start would find missing.
    std::thread::sleep(Duration::from_secs(2));
}

fn send(ledger: &Ledger, sent: u64, events: u64, durable: &Arc<AtomicU64>) {
    let last = (sent + BATCH).min(events);
    let drafts = (sent + 1..=last).map(draft).collect();
    let durable = durable.clone();
    ledger.append(
        drafts,
        Box::new(move |outcome| {
            outcome.expect("durable");
            durable.fetch_add(last - sent, Ordering::Release);
        }),
    );
}

fn bytes_in(folder: &Path) -> u64 {
    let entries = std::fs::read_dir(folder).expect("folder");
    entries
        .map(|e| e.and_then(|e| e.metadata()).expect("entry").len())
        .sum()
}

fn disk(folder: &Path) {
    let log = std::fs::metadata(folder.join("ledger.log"))
        .expect("log")
        .len();
    let index = bytes_in(&folder.join("index"));
    let mib = |bytes: u64| bytes as f64 / 1048576.0;
    println!("disk: log {:.0} MiB, index {:.0} MiB", mib(log), mib(index));
}

/// A bar on a terminal.
struct Bar(&'static str, u64);

impl Bar {
    fn new(what: &'static str) -> Self {
        Self(what, u64::MAX)
    }

    fn show(&mut self, percent: u64) {
        if percent != self.1 && std::io::stderr().is_terminal() {
            self.1 = percent;
            let done = "#".repeat(usize::try_from(percent / 2).unwrap_or(0));
            eprint!("\r{} [{done:<50}] {percent} %", self.0);
        }
    }

    fn end(&self) {
        if std::io::stderr().is_terminal() {
            eprintln!();
        }
    }
}

struct Service {
    child: Child,
    socket: PathBuf,
}

impl Service {
    fn start(folder: &Path) -> Self {
        let socket = folder.join("ledger.sock");
        for stale in ["ledger.sock", "ledger.wire"] {
            // There is none at first.
            let _ = std::fs::remove_file(folder.join(stale));
        }
        let began = Instant::now();
        let child = Command::new(std::env::current_exe().expect("this executable"))
            .env(ROLE, "")
            .env("VB_RUN", folder)
            .env("VB_DATA", folder)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("service");
        let this = Self { child, socket };
        this.ask(r#"{"type":"ping","id":1}"#);
        println!(
            "start to first answer: {:.2} s, {:.2} s of processors",
            began.elapsed().as_secs_f64(),
            this.processors()
        );
        std::thread::sleep(Duration::from_secs(3));
        println!("memory at rest: {}", this.memory());
        this
    }

    /// Asks and gives every line of the answer.
    fn ask(&self, request: &str) -> Vec<String> {
        let deadline = Instant::now() + LIMIT;
        let mut stream = loop {
            match UnixStream::connect(&self.socket) {
                Ok(stream) => break stream,
                Err(e) => assert!(Instant::now() < deadline, "no service: {e}"),
            }
            std::thread::sleep(Duration::from_millis(2));
        };
        writeln!(stream, "{request}").expect("request");
        let mut bar = Bar::new("working");
        let mut lines = Vec::new();
        for line in BufReader::new(stream).lines() {
            let line = line.expect("answer");
            let percent = line.split("\"progress\":").nth(1);
            if let Some(percent) = percent.and_then(|p| p.trim_end_matches('}').parse().ok()) {
                bar.show(percent);
            }
            let last = line.starts_with("{\"ok\":");
            assert!(!line.starts_with("{\"ok\":false"), "{request}: {line}");
            lines.push(line);
            if last {
                break;
            }
        }
        lines
    }

    /// Seconds of processors that it took so far: what is left of a time where others work too.
    fn processors(&self) -> f64 {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id()));
        let stat = stat.expect("stat");
        // proc_pid_stat(5): behind the name in brackets, utime and stime are the 12th and 13th, in
        // hundredths of a second.
        let fields = stat.rsplit(')').next().unwrap_or_default();
        let fields: Vec<&str> = fields.split_whitespace().collect();
        let ticks = fields.get(11..13).unwrap_or_default();
        let ticks = ticks.iter().filter_map(|t| t.parse::<f64>().ok());
        ticks.sum::<f64>() / 100.0
    }

    /// Resident memory, and of that what is no file's.
    fn memory(&self) -> String {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id()));
        let status = status.expect("status");
        let of = |key: &str| {
            let line = status.lines().find(|line| line.starts_with(key));
            let kib = line.and_then(|l| l.split_whitespace().nth(1)?.parse::<f64>().ok());
            kib.unwrap_or(f64::NAN) / 1024.0
        };
        format!(
            "{:.1} MiB resident, {:.1} MiB of it anonymous",
            of("VmRSS"),
            of("RssAnon")
        )
    }

    fn end(mut self) {
        self.child.kill().expect("kill");
        self.child.wait().expect("wait");
    }
}

fn queries(service: &Service, events: u64) {
    let middle = events / 2;
    let late = events - events / 10;
    for (what, request) in [
        (
            "a tenant, the latest 100",
            r#""filters":{"tenant_id":"tenant7"},"order":"desc""#.to_owned(),
        ),
        (
            "a tenant, 100 from the middle",
            format!(r#""filters":{{"tenant_id":"tenant7"}},"from":{middle}"#),
        ),
        (
            "a tenant and a type, 100",
            r#""filters":{"tenant_id":"tenant7","event_type":"kind27"}"#.to_owned(),
        ),
        (
            "a tenant of one event in 50,000, 100",
            r#""filters":{"tenant_id":"rare"}"#.to_owned(),
        ),
        (
            "a subject of one event in 100,000, all",
            r#""filters":{"subject":"subject/777"}"#.to_owned(),
        ),
        (
            "what an event caused, 100",
            format!(r#""filters":{{"causation":{late}}}"#),
        ),
        (
            "a tenant that has none",
            r#""filters":{"tenant_id":"nobody"}"#.to_owned(),
        ),
    ] {
        let mut times: Vec<f64> = Vec::new();
        let mut found = 0;
        for _ in 0..TIMES {
            let began = Instant::now();
            let lines = service.ask(&format!(
                r#"{{"type":"query","id":1,"limit":100,{request}}}"#
            ));
            times.push(began.elapsed().as_secs_f64() * 1000.0);
            found = lines
                .iter()
                .filter(|line| line.contains("\"event\":"))
                .count();
        }
        times.sort_by(f64::total_cmp);
        println!(
            "query, {what}: {:.1} ms ({:.1} first or worst), {found} events",
            times[TIMES / 2],
            times[TIMES - 1]
        );
    }
}
