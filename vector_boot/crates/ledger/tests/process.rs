//! The real process: killed, restarted, refused a second writer, ended in order.
//!
//! The child is this test executable again, with a variable that makes it run the role.

use ipc::ledger::{Client, Pipeline};
use std::collections::BTreeMap;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};
use wire::ledger::{Append, Origin};

/// Set for the child.
const ROLE: &str = "VB_TEST_LEDGER_WORDS";
/// Longest wait for anything; the machine may be slow.
const LIMIT: Duration = Duration::from_secs(60);

/// Not a promise of its own: what the child runs. With one test thread it is the main thread, so that
/// signals are blocked for the whole process as in the real one.
#[test]
fn child_role() {
    if let Some(words) = std::env::var_os(ROLE) {
        let words = words.into_string().unwrap();
        let words: Vec<_> = words
            .split('\n')
            .filter(|w| !w.is_empty())
            .map(Into::into)
            .collect();
        let code = ledger::main(&words);
        std::process::exit(i32::from(code != std::process::ExitCode::SUCCESS));
    }
}

struct Service {
    child: Child,
    run: PathBuf,
}

fn spawn(folder: &Path) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["child_role", "--exact", "--nocapture", "--test-threads=1"])
        .env(ROLE, "")
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
        let this = Self {
            child: spawn(folder),
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

#[test]
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

#[test]
fn a_second_writer_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let service = Service::start(folder.path());
    let mut second = Command::new(std::env::current_exe().unwrap())
        .args(["child_role", "--exact", "--nocapture", "--test-threads=1"])
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

/// Rounds of the kill loop; a drill runs more.
const ROUNDS: u64 = 12;
const CLIENTS: u32 = 4;

#[test]
fn killed_again_and_again_nothing_acknowledged_is_lost_or_doubled() {
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
                            // Killed under us: the next round sends the same origin again.
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
            service.child.kill().unwrap();
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
