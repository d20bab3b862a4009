//! Blobs over the real socket: what was put comes back, what was shredded is gone, whenever the process is killed.

use super::{LIMIT, Service, spawn_by};
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

/// A connection to the stream socket.
pub struct Lines {
    stream: UnixStream,
    reader: BufReader<UnixStream>,
}

impl Lines {
    pub fn connect(folder: &Path) -> Self {
        let stream = UnixStream::connect(folder.join("ledger.sock")).unwrap();
        stream.set_read_timeout(Some(LIMIT)).unwrap();
        let reader = BufReader::new(stream.try_clone().unwrap());
        Self { stream, reader }
    }

    /// Sends a request; `None` once the service is gone.
    fn send(&mut self, request: &Value) -> Option<()> {
        writeln!(self.stream, "{request}").ok()
    }

    fn line(&mut self) -> Option<Value> {
        let mut line = String::new();
        match self.reader.read_line(&mut line) {
            Ok(n) if n > 0 && line.ends_with('\n') => serde_json::from_str(&line).ok(),
            _ => None,
        }
    }

    /// Sends a request and gives its last line, with the bytes of the pieces before it.
    pub fn call(&mut self, request: &Value) -> Option<(Value, Vec<u8>)> {
        self.send(request)?;
        let mut bytes = Vec::new();
        loop {
            let line = self.line()?;
            if let Some(data) = line["data"].as_str() {
                assert_eq!(line["at"], bytes.len());
                bytes.extend(BASE64.decode(data).unwrap());
            }
            if line.get("ok").is_some() {
                return Some((line, bytes));
            }
        }
    }

    fn good(&mut self, request: &Value) -> (Value, Vec<u8>) {
        let (line, bytes) = self.call(request).expect("an answer");
        assert_eq!(line["ok"], true, "{line}");
        (line, bytes)
    }

    fn code(&mut self, request: &Value) -> String {
        let (line, _) = self.call(request).expect("an answer");
        assert_eq!(line["ok"], false, "{line}");
        line["error"]["code"].as_str().unwrap().to_owned()
    }

    fn put(&mut self, bytes: &[u8]) -> String {
        let (line, _) = self.good(&put(bytes));
        assert_eq!(line["bytes"], bytes.len());
        line["pointer"].as_str().unwrap().to_owned()
    }
}

fn names(request: Value) -> Value {
    let mut request = request;
    request["ns"] = "work".into();
    request["actor"] = "user:a".into();
    request["tenant_id"] = "tenant-a".into();
    request
}

fn put(bytes: &[u8]) -> Value {
    names(json!({"type": "blob.put", "id": 1, "data": BASE64.encode(bytes)}))
}

fn get(pointer: &str) -> Value {
    json!({"type": "blob.get", "id": "g", "tenant_id": "tenant-a", "pointer": pointer})
}

fn rekey(pointer: &str) -> Value {
    names(json!({"type": "blob.rekey", "id": 2, "pointer": pointer, "to": []}))
}

fn shred(pointer: &str) -> Value {
    names(json!({"type": "blob.shred", "id": 3, "pointer": pointer}))
}

/// Every file below a folder.
pub fn files(folder: &Path) -> Vec<PathBuf> {
    let (mut files, mut folders) = (Vec::new(), vec![folder.to_owned()]);
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.is_file() {
                files.push(path);
            }
        }
    }
    files
}

/// Names of the objects, and of the keys, that lie in the folder.
fn kept(folder: &Path) -> [BTreeSet<String>; 2] {
    ["objects/blake3", "objects/keys"].map(|part| {
        let all = files(&folder.join(part)).into_iter();
        all.map(|path| path.file_name().unwrap().to_str().unwrap().to_owned())
            .collect()
    })
}

pub fn a_blob_comes_back_until_it_is_shredded() {
    let folder = tempfile::tempdir().unwrap();
    let service = Service::start(folder.path());
    let mut lines = Lines::connect(folder.path());
    let marker = b"the plain text of this test";
    let small = lines.put(marker);
    let large: Vec<u8> = (0..1_500_000u32).map(|n| (n % 251) as u8).collect();
    let mut pieces = large.chunks(600_000).peekable();
    let mut sent = 0;
    let pointer = loop {
        let piece = pieces.next().unwrap();
        let mut request = put(piece);
        request["id"] = "large".into();
        sent += piece.len();
        if pieces.peek().is_none() {
            break lines.good(&request).0["pointer"]
                .as_str()
                .unwrap()
                .to_owned();
        }
        request["more"] = true.into();
        lines.send(&request).unwrap();
        assert_eq!(
            lines.line().unwrap(),
            json!({"ack": true, "id": "large", "bytes": sent})
        );
    };
    assert_eq!(lines.good(&get(&small)).1, marker);
    assert_eq!(lines.good(&get(&pointer)).1, large);
    let before = kept(folder.path());
    assert_eq!(before[0].len(), 2);
    assert_eq!(before[0], before[1]);
    // The name stays, the object and its keys are others.
    let object = lines.good(&rekey(&small)).0["object"].clone();
    assert_ne!(object, small.as_str());
    assert_eq!(lines.good(&get(&small)).1, marker);
    let after = kept(folder.path());
    assert!(!after[0].contains(&small) && after[0].contains(object.as_str().unwrap()));
    assert_eq!(after[0], after[1]);
    drop(service);
    let _service = Service::start(folder.path());
    let mut lines = Lines::connect(folder.path());
    assert_eq!(lines.good(&get(&small)).1, marker);
    assert_eq!(lines.good(&get(&pointer)).1, large);
    for path in files(folder.path()) {
        let bytes = std::fs::read(&path).unwrap();
        let plain = bytes.windows(marker.len()).any(|w| w == marker);
        assert!(!plain, "plain text in {}", path.display());
    }
    assert_eq!(lines.good(&shred(&small)).0["shredded"], true);
    assert_eq!(lines.code(&get(&small)), "NOT_FOUND");
    assert_eq!(lines.code(&shred(&small)), "NOT_FOUND");
    assert_eq!(lines.code(&rekey(&small)), "NOT_FOUND");
    assert_eq!(kept(folder.path())[0].len(), 1);
    assert_eq!(kept(folder.path())[1].len(), 1);
}

pub fn blob_calls_refuse_with_their_codes_and_leave_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let _service = Service::start(folder.path());
    let mut lines = Lines::connect(folder.path());
    let pointer = lines.put(b"mine");
    let with = |request: Value, key: &str, value: Value| {
        let mut request = request;
        request[key] = value;
        request
    };
    let zero = "0".repeat(64);
    let many = json!(vec!["9".repeat(64); 17]);
    for (request, code) in [
        (with(put(b""), "data", "%%%".into()), "BAD_REQUEST"),
        (with(put(b""), "data", 1.into()), "BAD_REQUEST"),
        (with(put(b""), "recipients", json!(["x"])), "BAD_REQUEST"),
        (with(put(b""), "recipients", json!([zero])), "BAD_REQUEST"),
        (with(put(b""), "recipients", many), "TOO_LARGE"),
        (with(put(b""), "more", "yes".into()), "BAD_REQUEST"),
        (with(put(b""), "ns", "a/b".into()), "BAD_NS"),
        (with(put(b""), "actor", "root:x".into()), "BAD_ACTOR"),
        (get("../../device.key"), "BAD_REQUEST"),
        (get(&zero), "NOT_FOUND"),
        // Another tenant's pointer is no pointer.
        (
            with(get(&pointer), "tenant_id", "tenant-b".into()),
            "NOT_FOUND",
        ),
        (
            with(shred(&pointer), "tenant_id", "tenant-b".into()),
            "NOT_FOUND",
        ),
        (
            with(rekey(&pointer), "tenant_id", "tenant-b".into()),
            "NOT_FOUND",
        ),
    ] {
        assert_eq!(lines.code(&request), code, "{request}");
    }
    // A piece that is refused takes its whole blob with it, and so does a peer that goes.
    for last in [
        Some(with(with(put(b""), "data", "%".into()), "id", "x".into())),
        None,
    ] {
        let mut half = Lines::connect(folder.path());
        let piece = with(
            with(put(&[1; 200_000]), "id", "x".into()),
            "more",
            true.into(),
        );
        half.send(&piece).unwrap();
        assert_eq!(half.line().unwrap()["bytes"], 200_000);
        if let Some(last) = last {
            assert_eq!(half.code(&last), "BAD_REQUEST");
        }
    }
    wait_until(|| kept(folder.path()).map(|all| all.len()) == [1, 1]);
    // What lies there damaged says so.
    let object = folder
        .path()
        .join("objects/blake3")
        .join(&pointer[..2])
        .join(&pointer);
    let mut bytes = std::fs::read(&object).unwrap();
    bytes[40] ^= 1;
    std::fs::write(&object, bytes).unwrap();
    assert_eq!(lines.code(&get(&pointer)), "CORRUPT");
    let keys = folder
        .path()
        .join("objects/keys")
        .join(&pointer[..2])
        .join(&pointer);
    std::fs::write(&keys, b"cut").unwrap();
    assert_eq!(lines.code(&get(&pointer)), "CORRUPT");
}

fn wait_until(mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + LIMIT;
    while !holds() {
        assert!(Instant::now() < deadline, "it never holds");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// The first piece of a blob of many.
fn piece(tenant: &str, id: &str) -> Value {
    let mut request = put(&[1; 1000]);
    request["tenant_id"] = tenant.into();
    request["id"] = id.into();
    request["more"] = true.into();
    request
}

fn unfinished(folder: &Path) -> usize {
    let all = files(&folder.join("objects")).into_iter();
    all.filter(|path| {
        let name = path.file_name().unwrap().to_str().unwrap();
        name.starts_with("unfinished-")
    })
    .count()
}

pub fn unfinished_blobs_count_for_their_tenant_and_go_with_their_connection() {
    let folder = tempfile::tempdir().unwrap();
    let mut service = Service::start(folder.path());
    let mut own: Vec<Lines> = (0..3).map(|_| Lines::connect(folder.path())).collect();
    for (n, lines) in (0..8).zip([0, 0, 0, 0, 1, 1, 1, 1]) {
        own[lines].send(&piece("tenant-a", &n.to_string())).unwrap();
        assert_eq!(own[lines].line().unwrap()["ack"], true);
    }
    assert_eq!(own[0].code(&piece("tenant-b", "fifth")), "QUOTA");
    assert_eq!(own[2].code(&piece("tenant-a", "ninth")), "QUOTA");
    // A whole one too: it would come beside them.
    let mut whole = put(b"x");
    assert_eq!(own[2].code(&whole), "QUOTA");
    whole["tenant_id"] = "tenant-b".into();
    own[2].good(&whole);
    assert_eq!(unfinished(folder.path()), 8);
    // With its connection all of it goes, and the tenant has room again.
    drop(own.remove(0));
    wait_until(|| unfinished(folder.path()) == 4);
    let mut lines = Lines::connect(folder.path());
    wait_until(|| lines.call(&put(b"x")).unwrap().0["ok"] == true);
    // What a kill leaves is gone before the first call on blobs.
    service.child.kill().unwrap();
    service.child.wait().unwrap();
    assert_eq!(unfinished(folder.path()), 4);
    let _service = Service::start(folder.path());
    Lines::connect(folder.path()).put(b"x");
    assert_eq!(unfinished(folder.path()), 0);
}

pub fn a_refused_piece_refuses_its_blob_to_the_last_one() {
    let folder = tempfile::tempdir().unwrap();
    let _service = Service::start(folder.path());
    let mut lines = Lines::connect(folder.path());
    let (mut first, mut last) = (piece("tenant-a", "p"), piece("tenant-a", "p"));
    last["more"] = false.into();
    first["data"] = "%".into();
    // Sent in one go, as by a peer that does not wait.
    for request in [&first, &piece("tenant-a", "p"), &last] {
        lines.send(request).unwrap();
    }
    for code in ["BAD_REQUEST", "CONFLICT", "CONFLICT"] {
        assert_eq!(lines.line().unwrap()["error"]["code"], code);
    }
    assert_eq!(kept(folder.path()).map(|all| all.len()), [0, 0]);
    lines.good(&last);
    // Who goes on so is hung up on.
    let mut refused = 0;
    while let Some((line, _)) = {
        first["id"] = format!("r{refused}").into();
        lines.call(&first)
    } {
        assert_eq!(line["error"]["code"], "BAD_REQUEST");
        refused += 1;
        assert!(refused < 1000);
    }
    assert!(refused > 64, "{refused}");
}

pub fn a_fold_by_a_blob_needs_the_right_to_the_blob() {
    let folder = tempfile::tempdir().unwrap();
    let _service = Service::start(folder.path());
    let mut lines = Lines::connect(folder.path());
    let spec = r#"{"fields":{"n":{"reducer":"counter-gcounter"}}}"#;
    let pointer = lines.put(spec.as_bytes());
    let mut fold = json!({"type": "fold_state", "id": 1, "ns": "work", "spec": pointer,
        "as": {"actor": "agent:x", "tenant": "tenant-a"}});
    let (line, _) = lines.call(&fold).unwrap();
    assert_eq!(line["error"]["code"], "POLICY_DENY", "{line}");
    assert_eq!(line["error"]["rule"], "default:deny");
    let grant = json!({"type": "grant", "id": 2, "to": "agent:x", "tenant": "tenant-a",
        "caps": ["blob.get"], "expires_s": 600});
    lines.good(&grant);
    assert_eq!(lines.good(&fold).0["events"], 1);
    // It is the call itself that the right is for, of the caller's own tenant.
    fold["as"]["tenant"] = "tenant-b".into();
    assert_eq!(lines.code(&fold), "POLICY_DENY");
}

/// One file system without room for another file, one without room for the log: each call gets its code, what was
/// kept is there, and the service answers.
pub fn full_disks_refuse_and_lose_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let (objects, log) = (folder.path().join("objects"), folder.path().join("log"));
    std::fs::create_dir(&objects).unwrap();
    std::fs::create_dir(&log).unwrap();
    // Mounts of the service's alone: they end with it.
    let script = "mount -t tmpfs -o size=4m,nr_inodes=40 tmpfs \"$1\" && \
                  mount -t tmpfs -o size=20m tmpfs \"$2\" && exec \"$3\"";
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-c", script, "sh"]).args([
        &objects,
        &log,
        &std::env::current_exe().unwrap(),
    ]);
    let words = format!("--log\n{}", log.display());
    let child = spawn_by(command, &words, folder.path());
    let service = Service::ready(child, folder.path());
    // They are seen through the process.
    let inside = |path: &Path| {
        let root = format!("/proc/{}/root", service.child.id());
        Path::new(&root).join(path.strip_prefix("/").unwrap())
    };
    let mut lines = Lines::connect(folder.path());
    let mut pointers = Vec::new();
    while let (line, _) = lines.call(&put(b"kept")).unwrap()
        && line["ok"] == true
    {
        pointers.push(line["pointer"].as_str().unwrap().to_owned());
        assert!(pointers.len() < 100);
    }
    assert!(!pointers.is_empty());
    for n in 0..3 {
        assert_eq!(lines.code(&put(b"no room")), "QUOTA", "{n}");
    }
    let nothing_else = |pointers: &[String]| {
        let found = files(&inside(&objects)).len();
        // Of each an object and its keys, and the file that says whose they are.
        assert_eq!(found, 2 * pointers.len() + 1);
    };
    nothing_else(&pointers);
    // Shreds give room again: for an object, its keys, and the folders that they lie in.
    for _ in 0..2 {
        lines.good(&shred(&pointers.pop().unwrap()));
    }
    pointers.push(lines.put(b"kept"));
    assert_eq!(lines.code(&put(&vec![0; 700_000])), "QUOTA");

    let events = vec![json!({"event_type": "x", "payload": {"x": "x".repeat(900)}}); 256];
    let batch = names(json!({"type": "append_event", "id": 1, "events": events}));
    let full = loop {
        let (line, _) = lines.call(&batch).unwrap();
        if line["ok"] != true {
            break line;
        }
    };
    assert_eq!(full["error"]["code"], "READ_ONLY", "{full}");
    lines.code(&shred(&pointers[0]));
    for request in [put(b"x"), rekey(&pointers[0]), shred(&pointers[0])] {
        assert_eq!(lines.code(&request), "READ_ONLY");
    }
    nothing_else(&pointers);
    for pointer in &pointers {
        assert_eq!(lines.good(&get(pointer)).1, b"kept");
    }
}

pub fn a_recipient_opens_a_blob_elsewhere() {
    let folder = tempfile::tempdir().unwrap();
    let _service = Service::start(folder.path());
    let mut lines = Lines::connect(folder.path());
    // RFC 7748's public key of Alice; the private half is not needed to see that the key is wrapped for it.
    let alice = "8520f0098930a754748b7ddcb43ef75a0dbf3a0d26381af4eba4a98eaa9b4e6a";
    let mut request = put(b"for alice");
    request["recipients"] = json!([alice]);
    let pointer = lines.good(&request).0["pointer"]
        .as_str()
        .unwrap()
        .to_owned();
    let mut sealed = get(&pointer);
    sealed["sealed"] = true.into();
    let (line, object) = lines.good(&sealed);
    assert_eq!(line["object"], pointer.as_str());
    assert_eq!(blake3::hash(&object).to_hex().as_str(), pointer);
    let keys = line["keys"].as_array().unwrap();
    assert_eq!(keys.len(), 2);
    assert_eq!(keys[1]["recipient"], alice);
    let wrapped = BASE64.decode(keys[1]["key"].as_str().unwrap()).unwrap();
    assert_eq!(wrapped.len(), 80);
}

/// Ciphertexts go to a store of each kind and come back from it; without the keys, which stay, it opens nothing.
pub fn objects_are_carried_to_other_stores_and_back() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name).display().to_string();
    let service = Service::start(folder.path());
    let mut lines = Lines::connect(folder.path());
    let content: Vec<Vec<u8>> = (0..5u8).map(|n| vec![n; 100_000]).collect();
    let pointers: Vec<String> = content.iter().map(|bytes| lines.put(bytes)).collect();
    drop((lines, service));
    let run = |words: &[&str]| {
        let (log, data) = (at("ledger.log"), at(""));
        super::command(
            folder.path(),
            &[&["--log", &log, "--data", &data], words].concat(),
        )
    };
    for kind in ["folder", "segment", "git"] {
        let store = format!("{kind}:{}", at(kind));
        let (code, said) = run(&["export", "--objects", &store]);
        assert_eq!((code, said.as_str()), (0, "5 objects\n"), "{kind}");
        assert_eq!(run(&["export", "--objects", &store]).1, "0 objects\n");
        // One is gone, one is damaged.
        let object = |n: usize| {
            let name = &pointers[n];
            folder
                .path()
                .join("objects/blake3")
                .join(&name[..2])
                .join(name)
        };
        std::fs::remove_file(object(0)).unwrap();
        let mut bytes = std::fs::read(object(1)).unwrap();
        bytes[40] ^= 1;
        std::fs::write(object(1), bytes).unwrap();
        let (code, said) = run(&["import", "--objects", &store]);
        assert_eq!((code, said.as_str()), (0, "imported 2 objects\n"), "{kind}");
        let service = Service::start(folder.path());
        let mut lines = Lines::connect(folder.path());
        for (pointer, bytes) in pointers.iter().zip(&content) {
            assert_eq!(&lines.good(&get(pointer)).1, bytes, "{kind}");
        }
        drop(service);
    }
    let (code, said) = run(&["export", "--objects", "tape:x"]);
    assert_ne!(code, 0, "{said}");
}

/// A folder of objects beside another log is not cleared: what that log does not point to is not litter.
pub fn objects_of_another_log_are_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let service = Service::start(folder.path());
    Lines::connect(folder.path()).put(b"precious");
    drop(service);
    std::fs::remove_file(folder.path().join("ledger.log")).unwrap();
    let _service = Service::start(folder.path());
    let mut lines = Lines::connect(folder.path());
    assert_eq!(lines.code(&put(b"x")), "CONFLICT");
    let [objects, keys] = kept(folder.path());
    assert_eq!((objects.len(), keys.len()), (1, 1));
}

/// Kills the service at random amid puts, rekeys and shreds. Then every pointer on the log opens with its bytes or is
/// shredded, and nothing else lies in the folder.
pub fn killed_again_and_again_every_pointer_opens_or_is_shredded() {
    const ROUNDS: u64 = 12;
    let folder = tempfile::tempdir().unwrap();
    let content = |n: u64| -> Vec<u8> { n.to_le_bytes().repeat(20_000) };
    let mut acknowledged: BTreeMap<String, u64> = BTreeMap::new();
    let mut shredded: BTreeSet<String> = BTreeSet::new();
    let mut seed = 0x9e37_79b9_7f4a_7c15u64;
    let mut random = move |below: u64| {
        seed = seed.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
        (seed >> 33) % below
    };
    let mut next = 0;
    for round in 0..ROUNDS {
        let mut service = Service::start(folder.path());
        let pid = service.child.id();
        // Some answers first, however slow this host is; then at any moment of those that follow.
        let mut answers_left = 1 + random(8);
        let wait = Duration::from_millis(random(30));
        let (begin, begun) = std::sync::mpsc::channel::<()>();
        let killer = std::thread::spawn(move || {
            begun.recv().unwrap();
            std::thread::sleep(wait);
            let pid = pid.to_string();
            let killed = std::process::Command::new("kill")
                .args(["-9", &pid])
                .status();
            assert!(killed.unwrap().success());
        });
        let mut lines = Lines::connect(folder.path());
        // Until the answer stays away.
        loop {
            let known: Vec<&String> = acknowledged.keys().collect();
            let one = match known.len() {
                0 => String::new(),
                n => known[random(n as u64) as usize].clone(),
            };
            let done = match random(4) {
                1 if !one.is_empty() => lines.call(&rekey(&one)).map(|(line, _)| {
                    assert_eq!(line["ok"], true, "{line}");
                }),
                2 if !one.is_empty() => {
                    // Asked for: from here on either is right.
                    let n = acknowledged.remove(&one).unwrap();
                    shredded.insert(one.clone());
                    lines.call(&shred(&one)).map(|(line, _)| {
                        assert_eq!(line["ok"], true, "{n} {line}");
                    })
                }
                _ => {
                    next += 1;
                    lines.call(&put(&content(next))).map(|(line, _)| {
                        assert_eq!(line["ok"], true, "{line}");
                        let pointer = line["pointer"].as_str().unwrap().to_owned();
                        acknowledged.insert(pointer, next);
                    })
                }
            };
            if done.is_none() {
                break;
            }
            answers_left = answers_left.saturating_sub(1);
            if answers_left == 0 {
                // It takes the first word alone; it is gone behind it.
                let _ = begin.send(());
            }
        }
        killer.join().unwrap();
        service.child.wait().unwrap();
        drop(service);
        let _service = Service::start(folder.path());
        let mut lines = Lines::connect(folder.path());
        let on_log = |lines: &mut Lines, kind: &str| -> BTreeSet<String> {
            let filters = json!({"event_type": kind});
            lines
                .send(&json!({"type": "query", "id": 1, "filters": filters, "limit": 10000}))
                .unwrap();
            let mut subjects = BTreeSet::new();
            loop {
                let line = lines.line().unwrap();
                if line.get("ok").is_some() {
                    return subjects;
                }
                subjects.insert(line["event"]["subject"].as_str().unwrap().to_owned());
            }
        };
        let gone = on_log(&mut lines, "blob.shredded");
        let live: BTreeSet<String> = on_log(&mut lines, "blob.put")
            .difference(&gone)
            .cloned()
            .collect();
        for (pointer, n) in &acknowledged {
            assert!(
                live.contains(pointer),
                "round {round}: acknowledged and not there"
            );
            assert_eq!(lines.good(&get(pointer)).1, content(*n), "round {round}");
        }
        for pointer in &live {
            // Every one, also what was never acknowledged.
            let bytes = lines.good(&get(pointer)).1;
            assert_eq!(bytes.len(), 160_000, "round {round}");
        }
        for pointer in &gone {
            assert!(shredded.contains(pointer), "round {round}");
            assert_eq!(lines.code(&get(pointer)), "NOT_FOUND");
        }
        shredded.retain(|pointer| gone.contains(pointer));
        let [objects, keys] = kept(folder.path());
        assert_eq!(objects.len(), live.len(), "round {round}: dangling objects");
        assert_eq!(objects, keys, "round {round}");
    }
}
