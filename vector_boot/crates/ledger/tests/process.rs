//! The real process: killed, restarted, refused a second writer, ended in order.
//!
//! The child is this test executable again, with a variable that makes it run the role.

#[path = "process/audit.rs"]
mod audit;
#[path = "process/blobs.rs"]
mod blobs;
#[path = "process/compacted.rs"]
mod compacted;
#[path = "process/documented.rs"]
mod documented;
#[path = "process/memory.rs"]
mod memory;
#[path = "process/running.rs"]
mod running;
#[path = "process/syslog.rs"]
mod syslog;
#[path = "process/typed.rs"]
mod typed;
#[path = "process/witness.rs"]
mod witness;

use ipc::ledger::{Client, Pipeline};
use std::collections::BTreeMap;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};
use wire::ledger::{Append, Origin};

#[path = "process/bus.rs"]
mod bus;
#[path = "process/epochs.rs"]
mod epochs;

/// Set for the child.
const ROLE: &str = "VB_TEST_LEDGER_WORDS";
/// Longest wait for anything; the machine may be slow.
const LIMIT: Duration = Duration::from_secs(60);

/// The tests, by name; a word on the command line chooses those that contain it.
const TESTS: &[(&str, fn())] = &[
    (
        "an_append_is_there_after_a_restart",
        an_append_is_there_after_a_restart,
    ),
    ("a_second_writer_is_refused", a_second_writer_is_refused),
    ("lines_over_the_stream_socket", lines_over_the_stream_socket),
    (
        "ended_again_and_again_nothing_acknowledged_is_lost_or_doubled",
        ended_again_and_again_nothing_acknowledged_is_lost_or_doubled,
    ),
    (
        "a_blob_comes_back_until_it_is_shredded",
        blobs::a_blob_comes_back_until_it_is_shredded,
    ),
    (
        "blob_calls_refuse_with_their_codes_and_leave_nothing",
        blobs::blob_calls_refuse_with_their_codes_and_leave_nothing,
    ),
    (
        "unfinished_blobs_count_for_their_tenant_and_go_with_their_connection",
        blobs::unfinished_blobs_count_for_their_tenant_and_go_with_their_connection,
    ),
    (
        "a_refused_piece_refuses_its_blob_to_the_last_one",
        blobs::a_refused_piece_refuses_its_blob_to_the_last_one,
    ),
    (
        "a_fold_by_a_blob_needs_the_right_to_the_blob",
        blobs::a_fold_by_a_blob_needs_the_right_to_the_blob,
    ),
    (
        "full_disks_refuse_and_lose_nothing",
        blobs::full_disks_refuse_and_lose_nothing,
    ),
    (
        "a_recipient_opens_a_blob_elsewhere",
        blobs::a_recipient_opens_a_blob_elsewhere,
    ),
    (
        "objects_are_carried_to_other_stores_and_back",
        blobs::objects_are_carried_to_other_stores_and_back,
    ),
    (
        "objects_of_another_log_are_left_alone",
        blobs::objects_of_another_log_are_left_alone,
    ),
    (
        "a_tile_export_is_accepted_by_another_implementation",
        audit::a_tile_export_is_accepted_by_another_implementation,
    ),
    (
        "a_compacted_log_proves_what_it_kept_on_disk_too",
        compacted::a_compacted_log_proves_what_it_kept_on_disk_too,
    ),
    (
        "proofs_are_made_and_checked_from_the_command_line",
        audit::proofs_are_made_and_checked_from_the_command_line,
    ),
    (
        "a_log_cut_and_signed_anew_is_convicted_by_a_checkpoint_kept_elsewhere",
        audit::a_log_cut_and_signed_anew_is_convicted_by_a_checkpoint_kept_elsewhere,
    ),
    (
        "what_was_signed_or_kept_is_compared",
        audit::what_was_signed_or_kept_is_compared,
    ),
    (
        "an_audit_key_that_was_handed_out_is_forgotten",
        audit::an_audit_key_that_was_handed_out_is_forgotten,
    ),
    (
        "a_witness_signs_what_continues_and_refuses_a_log_signed_anew",
        audit::a_witness_signs_what_continues_and_refuses_a_log_signed_anew,
    ),
    (
        "the_first_walk_ends_as_the_page_says",
        documented::the_first_walk_ends_as_the_page_says,
    ),
    (
        "a_running_ledger_is_told_to_a_syslog_peer_as_it_grows",
        syslog::a_running_ledger_is_told_to_a_syslog_peer_as_it_grows,
    ),
    (
        "the_typed_client_consumes_queries_and_folds",
        typed::the_typed_client_consumes_queries_and_folds,
    ),
    (
        "a_witness_elsewhere_signs_what_the_role_brings_it",
        witness::a_witness_elsewhere_signs_what_the_role_brings_it,
    ),
    (
        "the_documented_lines_convict_a_log_signed_anew",
        audit::the_documented_lines_convict_a_log_signed_anew,
    ),
    (
        "no_flipped_bit_of_a_log_is_missed",
        audit::no_flipped_bit_of_a_log_is_missed,
    ),
    (
        "killed_again_and_again_every_pointer_opens_or_is_shredded",
        blobs::killed_again_and_again_every_pointer_opens_or_is_shredded,
    ),
    (
        "epochs_and_compaction_over_the_stream_socket",
        epochs::epochs_and_compaction_over_the_stream_socket,
    ),
    (
        "the_bus_and_jobs_over_the_stream_socket",
        bus::the_bus_and_jobs_over_the_stream_socket,
    ),
    (
        "the_typed_client_appends_publishes_and_works_jobs",
        bus::the_typed_client_appends_publishes_and_works_jobs,
    ),
    (
        "folds_of_the_running_and_the_stopped_log_have_one_root",
        bus::folds_of_the_running_and_the_stopped_log_have_one_root,
    ),
    (
        "what_large_reads_took_is_given_back",
        memory::what_large_reads_took_is_given_back,
    ),
    (
        "many_who_claim_a_job_and_one_gets_it",
        bus::many_who_claim_a_job_and_one_gets_it,
    ),
    (
        "whatever_is_doubled_cut_or_killed_each_message_has_one_effect",
        bus::whatever_is_doubled_cut_or_killed_each_message_has_one_effect,
    ),
];

fn main() {
    if let Some(words) = std::env::var_os(ROLE) {
        // The executable `vb-services` sets a logger for its roles; here we are that executable.
        env_logger::Builder::new()
            .filter_level(log::LevelFilter::Info)
            .init();
        let words = words.into_string().unwrap();
        let words: Vec<std::ffi::OsString> = words
            .split('\n')
            .filter(|w| !w.is_empty())
            .map(Into::into)
            .collect();
        let code = match words.split_first() {
            Some((word, rest)) if word == "witness" => {
                jail::enter("witness");
                ledger::witness::main(rest)
            }
            _ => ledger::main(&words),
        };
        std::process::exit(i32::from(code != std::process::ExitCode::SUCCESS));
    }
    let wanted: Vec<String> = std::env::args()
        .skip(1)
        .filter(|w| !w.starts_with('-'))
        .collect();
    for (name, test) in TESTS {
        if wanted.is_empty() || wanted.iter().any(|w| name.contains(w.as_str())) {
            // A panic ends the process with a failure.
            test();
            println!("test {name} ... ok");
        }
    }
}

struct Service {
    child: Child,
    run: PathBuf,
}

fn spawn(folder: &Path) -> Child {
    spawn_by(Command::new(std::env::current_exe().unwrap()), "", folder)
}

/// Spawns the service, with words on lines of their own, by a command that ends in this executable.
fn spawn_by(mut command: Command, words: &str, folder: &Path) -> Child {
    command
        .env(ROLE, words)
        .env("VB_RUN", folder)
        .env("VB_DATA", folder)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

impl Service {
    fn start(folder: &Path) -> Self {
        // The socket of a killed run must not be taken for the new one's.
        let _ = std::fs::remove_file(folder.join("ledger.wire"));
        Self::ready(spawn(folder), folder)
    }

    fn ready(child: Child, folder: &Path) -> Self {
        let this = Self {
            child,
            run: folder.to_owned(),
        };
        drop(this.client());
        this
    }

    fn client(&self) -> Client {
        let deadline = Instant::now() + LIMIT;
        loop {
            match Client::connect(&self.run.join("ledger.wire"), LIMIT) {
                Ok(client) => return client,
                Err(e) => assert!(Instant::now() < deadline, "no service: {e}"),
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn event(subject: &str) -> Append<'_> {
    Append {
        origin: None,
        ns: "system",
        actor: "service:init",
        tenant_id: "system",
        event_type: "service_started",
        subject,
        payload: "{\"b\": 1, \"a\": 2}",
        causation_id: None,
        timestamp_ns: None,
    }
}

fn an_append_is_there_after_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let mut service = Service::start(folder.path());
    let mut client = service.client();
    assert_eq!(client.head().unwrap().event_id, 0);
    let first = client.append(&event("one")).unwrap();
    let second = client.append(&event("two")).unwrap();
    assert_eq!((first.event_id, second.event_id), (1, 2));
    let refused = client
        .append(&Append {
            actor: "root",
            ..event("x")
        })
        .unwrap_err();
    assert!(refused.to_string().starts_with("BAD_ACTOR"), "{refused}");
    let before = client.head().unwrap();
    assert_eq!(before.chain, second.commit_id);
    let pid = nix_pid(&service.child);
    assert!(Command::new("kill").arg(pid).status().unwrap().success());
    let status = service.child.wait().unwrap();
    assert_eq!((status.code(), status.signal()), (Some(0), None));
    let service = Service::start(folder.path());
    assert_eq!(service.client().head().unwrap(), before);
}

fn nix_pid(child: &Child) -> String {
    child.id().to_string()
}

fn a_second_writer_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let service = Service::start(folder.path());
    let mut second = Command::new(std::env::current_exe().unwrap())
        .env(ROLE, "")
        .env("VB_RUN", tempfile::tempdir().unwrap().path())
        .env("VB_DATA", folder.path())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let status = second.wait().unwrap();
    let mut words = String::new();
    std::io::Read::read_to_string(&mut second.stderr.take().unwrap(), &mut words).unwrap();
    assert!(!status.success());
    assert!(words.contains("another process writes this log"), "{words}");
    assert_eq!(
        service.client().append(&event("still")).unwrap().event_id,
        1
    );
}

/// Rounds; a drill runs more. Every other one ends in order.
const ROUNDS: u64 = 12;
const CLIENTS: u32 = 4;

fn ended_again_and_again_nothing_acknowledged_is_lost_or_doubled() {
    let folder = tempfile::tempdir().unwrap();
    let acknowledged = std::sync::Mutex::new(BTreeMap::<(u32, u64), (u64, [u8; 32])>::new());
    let sequences: Vec<AtomicU64> = (0..CLIENTS).map(|_| AtomicU64::new(1)).collect();
    for round in 0..ROUNDS {
        let mut service = Service::start(folder.path());
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            for (producer, sequence) in (0..CLIENTS).zip(&sequences) {
                let (acknowledged, stop, path) =
                    (&acknowledged, &stop, folder.path().join("ledger.wire"));
                scope.spawn(move || {
                    let Ok(pipeline) = Pipeline::connect(&path, LIMIT) else {
                        return;
                    };
                    while !stop.load(Ordering::Relaxed) {
                        let n = sequence.load(Ordering::Relaxed);
                        let origin = Origin {
                            boot_id: [9; 16],
                            producer,
                            sequence: n,
                        };
                        let subject = format!("{producer}/{n}");
                        let append = Append {
                            origin: Some(origin),
                            ..event(&subject)
                        };
                        match pipeline.append(&append) {
                            Ok(done) => {
                                let mut map = acknowledged.lock().unwrap();
                                map.insert((producer, n), (done.event_id, done.commit_id));
                                sequence.store(n + 1, Ordering::Relaxed);
                            }
                            // It ended under us: the next round sends the same origin again. One that
                            // stops leaves that to us too: who is refused would give the event up.
                            Err(ipc::IpcError::Refused { code, .. }) => panic!("{code}"),
                            Err(_) => return,
                        }
                    }
                });
            }
            let wanted =
                acknowledged.lock().unwrap().len() + 20 + usize::try_from(round).unwrap() * 7 % 31;
            let deadline = Instant::now() + LIMIT;
            while acknowledged.lock().unwrap().len() < wanted {
                assert!(Instant::now() < deadline, "no progress");
                std::thread::yield_now();
            }
            match round % 2 {
                0 => service.child.kill().unwrap(),
                _ => {
                    let kill = Command::new("kill").arg(nix_pid(&service.child)).status();
                    assert!(kill.unwrap().success());
                }
            }
            service.child.wait().unwrap();
            stop.store(true, Ordering::Relaxed);
        });
    }
    // What is in the log, read by the offline path.
    let device = ledger::open::path(
        &folder.path().join("ledger.log"),
        ledger::device::Access::Read,
    )
    .unwrap();
    let (superblock, _) = ledger::scan::superblock(&*device).unwrap().unwrap();
    let mut last = 0;
    let mut found = BTreeMap::new();
    let end = ledger::scan::scan(&*device, &superblock, None, &mut |f| {
        if let ledger::scan::Found::Event {
            id, chain, body, ..
        } = f
        {
            assert_eq!(id, last + 1);
            last = id;
            if let Some(origin) = body.origin {
                let twice = found.insert((origin.producer, origin.sequence), (id, chain));
                assert!(twice.is_none(), "{origin:?} is there twice");
            }
        }
    })
    .unwrap();
    assert!(!end.damaged);
    let acknowledged = acknowledged.into_inner().unwrap();
    assert!(acknowledged.len() >= 20 * usize::try_from(ROUNDS).unwrap());
    for (origin, receipt) in &acknowledged {
        assert_eq!(
            found.get(origin),
            Some(receipt),
            "{origin:?} was acknowledged"
        );
    }
}

/// Runs the command line against the service; its exit code and output.
fn command(folder: &Path, words: &[&str]) -> (i32, String) {
    let output = Command::new(std::env::current_exe().unwrap())
        .env(ROLE, words.join("\n"))
        .env("VB_RUN", folder)
        .output()
        .unwrap();
    let text =
        String::from_utf8(output.stdout).unwrap() + &String::from_utf8(output.stderr).unwrap();
    (output.status.code().unwrap(), text)
}

struct Lines {
    stream: std::os::unix::net::UnixStream,
    reader: std::io::BufReader<std::os::unix::net::UnixStream>,
    begun: String,
    ended: bool,
}

impl Lines {
    fn connect(folder: &Path) -> Self {
        Self::try_connect(folder).unwrap()
    }
    fn try_connect(folder: &Path) -> Option<Self> {
        let stream = std::os::unix::net::UnixStream::connect(folder.join("ledger.sock")).ok()?;
        stream.set_read_timeout(Some(LIMIT)).unwrap();
        let reader = std::io::BufReader::new(stream.try_clone().unwrap());
        Some(Self {
            stream,
            reader,
            begun: String::new(),
            ended: false,
        })
    }
    fn set_timeout(&mut self, limit: Duration) {
        self.stream.set_read_timeout(Some(limit)).unwrap();
    }
    /// Whether the last look found nothing in time, rather than the end.
    fn waited(&self) -> bool {
        !self.ended
    }
    fn send(&mut self, line: &str) {
        assert!(self.try_send(line), "the service is gone");
    }
    fn try_send(&mut self, line: &str) -> bool {
        use std::io::Write;
        writeln!(self.stream, "{line}").is_ok()
    }
    /// The next line; nothing at the end, or after the time that one may take.
    fn try_next(&mut self) -> Option<serde_json::Value> {
        use std::io::BufRead;
        // What came before the time was over stays begun.
        match self.reader.read_line(&mut self.begun) {
            Ok(n) if n > 0 && self.begun.ends_with('\n') => {
                let line = std::mem::take(&mut self.begun);
                Some(serde_json::from_str(&line).unwrap_or_else(|e| panic!("{line:?}: {e}")))
            }
            Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => None,
            _ => {
                self.ended = true;
                None
            }
        }
    }
    fn next(&mut self) -> serde_json::Value {
        self.try_next().expect("an answer")
    }
    fn ask(&mut self, line: &str) -> serde_json::Value {
        self.send(line);
        self.next()
    }
    fn error(&mut self, line: &str) -> String {
        let answer = self.ask(line);
        assert_eq!(answer["ok"], false, "{line}: {answer}");
        answer["error"]["code"].as_str().unwrap().to_owned()
    }
}

fn lines_over_the_stream_socket() {
    let folder = tempfile::tempdir().unwrap();
    let service = Service::start(folder.path());
    let mut lines = Lines::connect(folder.path());
    assert_eq!(lines.ask("{\"type\":\"ping\",\"id\":\"p\"}")["id"], "p");
    // Appends: one, a batch, what is refused.
    let one = lines.ask(
        r#"{"type":"append_event","id":1,"ns":"system","actor":"root","event":{"event_type":"secret_stored","subject":"s","payload":{"secret":"s","a":[]}}}"#,
    );
    assert_eq!(
        (one["ok"].as_bool(), one["event_id"].as_u64()),
        (Some(true), Some(1)),
        "{one}"
    );
    assert_eq!(one["ulid"].as_str().unwrap().len(), 26);
    let batch = lines.ask(
        r#"{"type":"append_event","id":2,"ns":"gateway","actor":"agent:a","events":[{"type":"tool_called","tenant_id":"t1","causation_id":1},{"type":"tool_called","tenant_id":"t2","causation_id":2}]}"#,
    );
    assert_eq!(batch["events"][1]["event_id"], 3, "{batch}");
    let append = |more: &str| {
        format!(
            r#"{{"type":"append_event","id":3,"ns":"system","actor":"user:x","event":{{"type":"x"}}{more}}}"#
        )
    };
    assert_eq!(lines.error("nonsense"), "BAD_REQUEST");
    assert_eq!(lines.error(&append(r#","ns":"system""#)), "BAD_REQUEST");
    assert_eq!(
        lines.error(&append("").replace("\"system\"", "\"a b\"")),
        "BAD_NS"
    );
    assert_eq!(
        lines.error(&append("").replace("user:x", "root:x")),
        "BAD_ACTOR"
    );
    assert_eq!(
        lines.error(&append("").replace("{\"type\":\"x\"}", "{\"type\":\"x\",\"causation_id\":4}")),
        "BAD_CAUSATION"
    );
    assert_eq!(
        lines.error(&append("").replace("{\"type\":\"x\"}", "{\"type\":\"x\",\"more\":4}")),
        "BAD_REQUEST"
    );
    // Queries.
    let mut query = |filters: &str, more: &str| {
        lines.send(&format!(
            r#"{{"type":"query","id":"q","filters":{{{filters}}}{more}}}"#
        ));
        let mut ids = Vec::new();
        loop {
            let line = lines.next();
            match line["event"]["id"].as_u64() {
                Some(id) => ids.push(id),
                None => {
                    assert_eq!(line["ok"], true, "{line}");
                    return (ids, line["next"].as_u64());
                }
            }
        }
    };
    assert_eq!(query("", ""), (vec![1, 2, 3], None));
    assert_eq!(query("", r#","limit":2"#), (vec![1, 2], Some(3)));
    assert_eq!(
        query("", r#","order":"desc","limit":2"#),
        (vec![3, 2], Some(1))
    );
    assert_eq!(query(r#""tenant_id":"t2""#, ""), (vec![3], None));
    assert_eq!(
        query(r#""event_type":"tool_called","tenant_id":"t1""#, ""),
        (vec![2], None)
    );
    assert_eq!(
        query(r#""subject":"s""#, r#","order":"desc""#),
        (vec![1], None)
    );
    assert_eq!(query(r#""causation":1"#, ""), (vec![1, 2, 3], None));
    assert_eq!(query(r#""causation_id":1"#, ""), (vec![2], None));
    assert_eq!(query(r#""actor":"nobody:x""#, ""), (vec![], None));
    // A subscription from the past goes on into the present, on a connection of its own.
    let mut watch = Lines::connect(folder.path());
    assert_eq!(
        watch.ask(r#"{"type":"subscribe","id":9,"from":"HEAD-2"}"#)["from"],
        2
    );
    let mut client = service.client();
    for n in 4..200u64 {
        assert_eq!(client.append(&event("more")).unwrap().event_id, n);
    }
    for n in 2..200u64 {
        assert_eq!(watch.next()["event"]["id"], n);
    }
    // A slow subscriber that never reads holds nobody up.
    let mut slow = Lines::connect(folder.path());
    slow.send(r#"{"type":"subscribe","id":9,"from":1}"#);
    let big = format!("{{\"x\":\"{}\"}}", "y".repeat(40_000));
    for _ in 0..50 {
        client
            .append(&Append {
                payload: &big,
                ..event("big")
            })
            .unwrap();
    }
    // A line that is too long is refused and ends the connection.
    let mut long = Lines::connect(folder.path());
    long.send(&" ".repeat(1024 * 1024 + 10));
    assert_eq!(long.next()["error"]["code"], "TOO_LARGE");
    // Verification, online and offline, and the command line.
    let head = lines.ask(r#"{"type":"head","id":1}"#);
    assert_eq!(
        (head["event_id"].as_u64(), head["writable"].as_bool()),
        (Some(249), Some(true))
    );
    let (code, text) = command(folder.path(), &["verify"]);
    assert_eq!(code, 0, "{text}");
    assert!(text.starts_with("ok 249 events"), "{text}");
    let log = folder.path().join("ledger.log");
    let log = log.to_str().unwrap();
    let (code, offline) = command(folder.path(), &["--log", log, "verify"]);
    assert_eq!((code, offline), (0, text));
    for on in [&["--log", log][..], &[]] {
        let words = |more: &[&'static str]| [on, more].concat();
        let (code, text) = command(
            folder.path(),
            &words(&["query", "--tenant", "t1", "--json"]),
        );
        assert_eq!(code, 0, "{text}");
        assert_eq!(
            serde_json::from_str::<serde_json::Value>(&text).unwrap()["id"],
            2
        );
        let (_, text) = command(folder.path(), &words(&["tail", "-n", "2"]));
        let ids: Vec<&str> = text
            .lines()
            .filter_map(|l| l.split_whitespace().next())
            .collect();
        assert_eq!(ids, ["248", "249"]);
        assert_eq!(command(folder.path(), &words(&["doctor", "--json"])).0, 0);
    }
    let words = [
        "append",
        "--ns",
        "system",
        "--actor",
        "user:me",
        "--event",
        "{\"type\":\"note\"}",
    ];
    assert_eq!(command(folder.path(), &words), (0, "250\n".to_owned()));
    let (code, text) = command(folder.path(), &[&["--log", log], &words[..]].concat());
    assert_eq!(code, 1);
    assert!(text.contains("another process writes this log"), "{text}");
    drop(service);
    let (code, text) = command(folder.path(), &[&["--log", log], &words[..]].concat());
    assert_eq!((code, text.as_str()), (0, "251\n"));
}
