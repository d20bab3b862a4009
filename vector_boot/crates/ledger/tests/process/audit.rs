//! The command line over logs that are whole, cut, signed anew or changed, and a foreign verifier of what
//! it exports.

use super::blobs::Lines;
use super::documented;
use super::running::Running;
use super::{Service, command};
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use ed25519_dalek::{Signer, SigningKey};
use ledger::device::Access;
use ledger_core::tile;
use serde_json::json;
use signed_note::{StandardVerifier, VerifierList};
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::os::unix::fs::FileExt;
use std::path::Path;
use tlog_tiles::{Error, Hash, Tile, TileHashReader, TileReader};

/// Bytes between two flipped ones: the sweep over all of them is a drill.
const SWEEP_STEP: usize = 41;
/// Set to sweep every byte.
const SWEEP_ALL: &str = "VB_TEST_SWEEP_ALL";

/// The command line over the log and folder of `data`.
pub fn offline(data: &Path, words: &[&str]) -> (i32, String) {
    let (log, folder) = (data.join("ledger.log"), data.display().to_string());
    let log = log.display().to_string();
    let all = [&["--log", &log, "--data", &folder], words].concat();
    command(data, &all)
}

pub fn ok(data: &Path, words: &[&str]) -> String {
    let (code, text) = offline(data, words);
    assert_eq!(code, 0, "{words:?}: {text}");
    text
}

fn made(events: u64) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let running = Running::start(folder.path());
    running.append(events);
    running.stop();
    folder
}

/// A directory of tiles, as Cloudflare's `tlog_tiles` reads one.
struct Directory<'d>(&'d Path);

impl TileReader for Directory<'_> {
    fn height(&self) -> u8 {
        8
    }

    fn read_tiles(&self, tiles: &[Tile]) -> Result<Vec<Vec<u8>>, Error> {
        let path = |tile: &Tile| tile.path().replacen("tile/8/", "tile/", 1);
        let read = |tile| fs::read(self.0.join(path(tile))).map_err(|_| Error::InvalidTile);
        tiles.iter().map(read).collect()
    }

    fn save_tiles(&self, _: &[Tile], _: &[Vec<u8>]) {}
}

/// Opens the checkpoint with the key, and gives back the first entry, from this one on, that is not under
/// it.
pub fn foreign(directory: &Path, vkey: &str, from: u64) -> Result<u64, String> {
    let note = fs::read(directory.join("checkpoint")).unwrap();
    let note = signed_note::Note::from_bytes(&note).map_err(|e| format!("{e:?}"))?;
    let key = StandardVerifier::new(vkey).map_err(|e| format!("{e:?}"))?;
    let keys = VerifierList::new(vec![Box::new(key)]);
    note.verify(&keys).map_err(|e| format!("{e:?}"))?;
    let checkpoint =
        tlog_tiles::Checkpoint::from_bytes(note.text()).map_err(|e| format!("{e:?}"))?;
    let (size, root) = (checkpoint.size(), *checkpoint.hash());
    let tiles = Directory(directory);
    let tree = TileHashReader::new(size, root, &tiles);
    for first in (from..size).step_by(256) {
        let width = u16::try_from((size - first).min(256)).unwrap();
        let bundle = tile::Tile {
            level: 0,
            index: first / 256,
            width,
        };
        let bundle = fs::read(directory.join(bundle.entries_path())).map_err(|e| e.to_string())?;
        let entries = tile::entries(&bundle).ok_or(format!("bundle {first}"))?;
        assert_eq!(entries.len(), usize::from(width));
        for (index, entry) in (first..).zip(entries) {
            let leaf: Hash = tlog_tiles::record_hash(entry);
            let proof =
                tlog_tiles::prove_record(size, index, &tree).map_err(|e| format!("{e:?}"))?;
            tlog_tiles::check_record(&proof, size, root, index, leaf)
                .map_err(|_| format!("entry {index}"))?;
        }
    }
    Ok(size)
}

pub fn a_tile_export_is_accepted_by_another_implementation() {
    let folder = made(600);
    let data = folder.path();
    let into = data.join("export");
    let text = ok(data, &["export", "--tiles", into.to_str().unwrap()]);
    assert_eq!(text, "600 entries\n");
    let key = ok(data, &["key"]);
    assert_eq!(foreign(&into, key.trim(), 0), Ok(600));
    // Entry 299 is the 44th of the second bundle.
    let bundle = into.join("tile/entries/001");
    let mut bytes = fs::read(&bundle).unwrap();
    bytes[43 * 66 + 20] ^= 1;
    fs::write(&bundle, &bytes).unwrap();
    assert_eq!(foreign(&into, key.trim(), 0), Err("entry 299".to_owned()));
    let (code, text) = offline(data, &["export", "--tiles", into.to_str().unwrap()]);
    assert!(code == 1 && text.contains("not empty"), "{text}");
}

pub fn proofs_are_made_and_checked_from_the_command_line() {
    let folder = made(600);
    let data = folder.path();
    let key = ok(data, &["key"]);
    let proof = ok(data, &["proof", "300"]);
    let path = data.join("proof");
    let check = |text: &str, more: &[&str]| {
        fs::write(&path, text).unwrap();
        let words = [
            "proof",
            "verify",
            path.to_str().unwrap(),
            "--key",
            key.trim(),
        ];
        offline(data, &[&words, more].concat())
    };
    let (code, text) = check(&proof, &[]);
    assert!(
        code == 0 && text.starts_with("ok event 300 commit "),
        "{text}"
    );
    let commit = text.split(' ').nth(4).unwrap().to_owned();
    let kept = data.join("checkpoint");
    let kept = kept.to_str().unwrap();
    assert_eq!(
        check(&proof, &["--checkpoint", kept, "--commit-id", &commit]).0,
        0
    );
    assert_eq!(
        check(&proof, &["--commit-id", &commit.replace(&commit[..1], "x")]).0,
        1
    );
    let lines: Vec<&str> = proof.lines().collect();
    for n in [1, 2, 3, lines.len() - 1] {
        let mut changed: Vec<String> = lines.iter().map(|l| (*l).to_owned()).collect();
        let at = changed[n].len() - 4;
        let other = if changed[n].as_bytes()[at] == b'7' {
            "8"
        } else {
            "7"
        };
        changed[n].replace_range(at..=at, other);
        let (code, text) = check(&format!("{}\n", changed.join("\n")), &[]);
        assert_eq!(code, 1, "line {n}: {text}");
    }
    let stranger = made(1);
    let other = ok(stranger.path(), &["key"]);
    fs::write(&path, &proof).unwrap();
    let words = [
        "proof",
        "verify",
        path.to_str().unwrap(),
        "--key",
        other.trim(),
    ];
    assert!(offline(data, &words).1.contains("no signature of this key"));
    let (code, text) = offline(data, &["proof", "601"]);
    assert!(
        code == 1 && text.contains("event 601 is not under the checkpoint"),
        "{text}"
    );
    // Of a running ledger too, and its verification compares the same things.
    let _service = super::Service::start(data);
    for words in [
        &["proof", "300"][..],
        &["key"],
        &["checkpoint"],
        &["verify"],
    ] {
        let (code, text) = command(data, words);
        assert_eq!(code, 0, "{words:?}: {text}");
        if words[0] == "proof" {
            assert_eq!(check(&text, &["--commit-id", &commit]).0, 0);
        }
        if words[0] == "key" {
            assert_eq!(text, key);
        }
    }
}

pub fn a_log_cut_and_signed_anew_is_convicted_by_a_checkpoint_kept_elsewhere() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path();
    let running = Running::start(data);
    running.append(50);
    let before = running.ledger().standing();
    running.append(10);
    running.stop();
    let key = ok(data, &["key"]);
    let since = folder.path().join("kept-elsewhere");
    fs::copy(data.join("checkpoint"), &since).unwrap();
    let since = since.to_str().unwrap();
    let text = ok(data, &["verify", "--key", key.trim(), "--since", since]);
    assert!(text.contains("2 checkpoints"), "{text}");
    // The last group goes, and with it what the folder knows of it; the device's own key signs on.
    let log = data.join("ledger.log");
    let mut bytes = fs::read(&log).unwrap();
    bytes[usize::try_from(before.end).unwrap()..].fill(0);
    fs::write(&log, &bytes).unwrap();
    let (code, text) = offline(data, &["verify"]);
    assert!(code == 1 && text.contains("it was cut"), "{text}");
    fs::remove_file(data.join("checkpoint")).unwrap();
    fs::remove_dir_all(data.join("tiles")).unwrap();
    for more in [0, 30] {
        let running = Running::start(data);
        running.append(more);
        running.stop();
        ok(data, &["verify"]);
        ok(data, &["verify", "--key", key.trim()]);
        let (code, text) = offline(data, &["verify", "--since", since]);
        let wanted = match more {
            0 => "checkpoint of 60 events, but the log ends at 50: it was cut",
            _ => "checkpoint of 60 events has another root than the log",
        };
        assert!(code == 1 && text.contains(wanted), "{text}");
    }
}

pub fn what_was_signed_or_kept_is_compared() {
    let folder = made(600);
    let data = folder.path();
    let text = ok(data, &["verify"]);
    assert!(text.contains("1 checkpoints, 2 tiles"), "{text}");
    let stranger = made(1);
    let other = ok(stranger.path(), &["key"]);
    let (code, text) = offline(data, &["verify", "--key", other.trim()]);
    assert!(
        code == 1 && text.contains("no signature of this key"),
        "{text}"
    );
    let changed = |path: &str, at: u64, wanted: &str| {
        let file = fs::File::options()
            .read(true)
            .write(true)
            .open(data.join(path))
            .unwrap();
        let mut byte = [0];
        file.read_exact_at(&mut byte, at).unwrap();
        file.write_all_at(&[byte[0] ^ 1], at).unwrap();
        let (code, text) = offline(data, &["verify"]);
        assert!(code == 1 && text.contains(wanted), "{path} {at}: {text}");
        file.write_all_at(&byte, at).unwrap();
        ok(data, &["verify"]);
    };
    changed(
        "tiles/0/001",
        5000,
        "offset 5000: tile does not hold the log's hashes",
    );
    changed("checkpoint", 30, "(checkpoint)");
    // What lies in the middle of the log is named by event and byte.
    changed("ledger.log", 20_000, "BAD event ");
}

/// A witness as C2SP tlog-witness has it, over Cloudflare's notes and proofs.
pub struct Witness {
    log: String,
    secret: SigningKey,
    seen: (u64, Hash),
}

impl Witness {
    const NAME: &'static str = "witness.example/w1";

    fn key_bytes(&self) -> Vec<u8> {
        [&[4][..], self.secret.verifying_key().as_bytes()].concat()
    }

    /// One that knows no log yet, nor its key.
    pub fn new() -> Self {
        Self {
            log: String::new(),
            secret: SigningKey::from_bytes(&[3; 32]),
            seen: (0, tlog_tiles::EMPTY_HASH),
        }
    }

    pub fn vkey(&self) -> String {
        let id = signed_note::key_id(Self::NAME, &self.key_bytes());
        format!(
            "{}+{id:08x}+{}",
            Self::NAME,
            BASE64.encode(self.key_bytes())
        )
    }

    /// The answer to an add-checkpoint request, or the status that refuses it.
    fn add(&mut self, body: &str) -> Result<String, u16> {
        let (head, note) = body.split_once("\n\n").ok_or(400u16)?;
        let mut lines = head.lines();
        let old = lines
            .next()
            .and_then(|l| l.strip_prefix("old "))
            .ok_or(400u16)?;
        let old: u64 = old.parse().map_err(|_| 400u16)?;
        let proof: Vec<Hash> = lines.map(|l| Hash::parse_hash(l).unwrap()).collect();
        let note = signed_note::Note::from_bytes(note.as_bytes()).map_err(|_| 400u16)?;
        let key = StandardVerifier::new(&self.log).unwrap();
        note.verify(&VerifierList::new(vec![Box::new(key)]))
            .map_err(|_| 403u16)?;
        let new = tlog_tiles::Checkpoint::from_bytes(note.text()).map_err(|_| 400u16)?;
        if old != self.seen.0 {
            return Err(409);
        }
        if old > 0 {
            tlog_tiles::check_tree(&proof, new.size(), *new.hash(), old, self.seen.1)
                .map_err(|_| 422u16)?;
        }
        self.seen = (new.size(), *new.hash());
        let text = std::str::from_utf8(note.text()).unwrap();
        let time = 1_700_000_000u64;
        let message = format!("cosignature/v1\ntime {time}\n{text}");
        let id = signed_note::key_id(Self::NAME, &self.key_bytes());
        let signature = self.secret.sign(message.as_bytes()).to_bytes();
        let bytes = [&id.to_be_bytes()[..], &time.to_be_bytes(), &signature].concat();
        Ok(format!(
            "\u{2014} {} {}\n",
            Self::NAME,
            BASE64.encode(bytes)
        ))
    }
}

pub fn a_witness_signs_what_continues_and_refuses_a_log_signed_anew() {
    let folder = made(40);
    let data = folder.path();
    let key = ok(data, &["key"]).trim().to_owned();
    let mut witness = Witness {
        log: key.clone(),
        ..Witness::new()
    };
    let body = ok(data, &["witness", "request"]);
    let answer = witness.add(&body).unwrap();
    let (sent, answered) = (data.join("sent"), data.join("answer"));
    fs::write(&sent, body.split_once("\n\n").unwrap().1).unwrap();
    fs::write(&answered, &answer).unwrap();
    let (sent, vkey) = (sent.to_str().unwrap(), witness.vkey());
    let words = [
        "witness",
        "add",
        sent,
        answered.to_str().unwrap(),
        "--key",
        &key,
        "--witness",
        &vkey,
    ];
    assert!(ok(data, &words).ends_with(&answer));
    assert!(ok(data, &["verify"]).contains("2 checkpoints"));
    fs::write(&answered, answer.replacen("AAAA", "AAAB", 1)).unwrap();
    assert_eq!(offline(data, &words).0, 1, "a signature that does not hold");
    let running = Running::start(data);
    let before = running.ledger().standing();
    running.append(20);
    running.stop();
    assert_eq!(witness.add(&ok(data, &["witness", "request"])), Err(409));
    witness
        .add(&ok(data, &["witness", "request", "--old", "40"]))
        .unwrap();
    // The tail goes, with all that the folder knows of it; the device's own key signs on.
    let log = data.join("ledger.log");
    let mut bytes = fs::read(&log).unwrap();
    bytes[usize::try_from(before.end).unwrap()..].fill(0);
    fs::write(&log, &bytes).unwrap();
    fs::remove_file(data.join("checkpoint")).unwrap();
    fs::remove_dir_all(data.join("tiles")).unwrap();
    let running = Running::start(data);
    running.append(30);
    running.stop();
    ok(data, &["verify"]);
    assert_eq!(
        witness.add(&ok(data, &["witness", "request", "--old", "60"])),
        Err(422)
    );
}

pub fn no_flipped_bit_of_a_log_is_missed() {
    let folder = made(20);
    let log = folder.path().join("ledger.log");
    let device = ledger::open::path(&log, Access::Read).unwrap();
    let verify = || ledger::verify::verify(&*device, None, &mut |_| ());
    let end = usize::try_from(verify().unwrap().bytes).unwrap();
    let file = fs::File::options()
        .read(true)
        .write(true)
        .open(&log)
        .unwrap();
    let step = if std::env::var_os(SWEEP_ALL).is_some() {
        1
    } else {
        SWEEP_STEP
    };
    for at in (0..end).step_by(step) {
        let mut byte = [0];
        file.read_exact_at(&mut byte, at as u64).unwrap();
        file.write_all_at(&[byte[0] ^ (1 << (at % 8))], at as u64)
            .unwrap();
        let missed = verify().is_ok_and(|report| report.bad.is_none());
        assert!(!missed, "byte {at} of {end}");
        file.write_all_at(&byte, at as u64).unwrap();
    }
    assert_eq!(verify().unwrap().bad, None);
}

/// Answers add-checkpoint requests over HTTP, one a connection; the log's key is in this file by then.
pub fn serve(listener: &TcpListener, key: &Path, witness: &mut Witness) {
    for stream in listener.incoming().map_while(Result::ok) {
        let mut reader = BufReader::new(&stream);
        let (mut head, mut line, mut length) = (String::new(), String::new(), 0);
        while reader.read_line(&mut line).unwrap_or(0) > 2 {
            let lower = line.to_ascii_lowercase();
            if let Some(n) = lower.strip_prefix("content-length:") {
                length = n.trim().parse().unwrap();
            }
            head.push_str(&line);
            line.clear();
        }
        assert!(head.starts_with("POST /w/add-checkpoint "), "{head}");
        witness.log = fs::read_to_string(key).unwrap().trim().to_owned();
        let mut body = vec![0; length];
        reader.read_exact(&mut body).unwrap();
        let (code, answer) = match witness.add(std::str::from_utf8(&body).unwrap()) {
            Ok(signed) => (200, signed),
            Err(409) => (409, format!("{}\n", witness.seen.0)),
            Err(code) => (code, String::new()),
        };
        let length = answer.len();
        write!(
            &stream,
            "HTTP/1.1 {code} .\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{answer}"
        )
        .unwrap();
    }
}

/// The lines of docs/ledger.md, run as a person would: a log made older and signed on with the device's own
/// key passes `verify`, and neither what was kept of it nor a witness.
pub fn the_documented_lines_convict_a_log_signed_anew() {
    let blocks = documented::blocks("### Try it");
    let [make, send, change] = &blocks[..] else {
        panic!("{blocks:?}");
    };
    let folder = tempfile::tempdir().unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let key = folder.path().join("key");
    let mut witness = Witness::new();
    let vkey = witness.vkey();
    // It ends with this process.
    std::thread::spawn(move || serve(&listener, &key, &mut witness));
    let script = format!("{make}\n{send}\necho changed\n{change}\n{send}");
    let output = documented::command("sh", &script, folder.path())
        .env("WITNESS", format!("http://{address}/w"))
        .env("WITNESS_KEY", vkey)
        .env("NO_PROXY", "*")
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let errors = String::from_utf8(output.stderr).unwrap();
    let told = |line: &&str| {
        ["ok ", "BAD ", "witness ", "\u{2014} witness.", "changed"]
            .iter()
            .any(|mark| line.starts_with(mark))
    };
    let told: Vec<&str> = text.lines().filter(told).collect();
    let wanted = [
        "ok ",
        "witness 200",
        "\u{2014} witness.example/w1 ",
        "changed",
        "BAD event 1 ",
        "ok ",
        "BAD event ",
        "witness 409",
        "witness 422",
    ];
    assert_eq!(told.len(), wanted.len(), "{text}\n{errors}");
    for (line, wanted) in told.iter().zip(wanted) {
        assert!(line.starts_with(wanted), "{line}\n{text}\n{errors}");
    }
    assert!(
        told[6].contains("has another root than the log"),
        "{}",
        told[6]
    );
}

/// The memory of a process that it may write, as it is now.
fn memory(pid: u32) -> Vec<Vec<u8>> {
    let maps = fs::read_to_string(format!("/proc/{pid}/maps")).unwrap();
    let memory = fs::File::open(format!("/proc/{pid}/mem")).unwrap();
    let writable = maps
        .lines()
        .filter(|l| l.split(' ').nth(1).unwrap().starts_with("rw"));
    let ranges = writable.map(|line| {
        let (from, to) = line.split(' ').next().unwrap().split_once('-').unwrap();
        [from, to].map(|at| u64::from_str_radix(at, 16).unwrap())
    });
    ranges
        .map(|[from, to]| {
            let mut bytes = vec![0; usize::try_from(to - from).unwrap()];
            // A mapping of a device, or one that went since, is not memory.
            let read = memory.read_at(&mut bytes, from).unwrap_or(0);
            bytes.truncate(read);
            bytes
        })
        .collect()
}

fn holds(memory: &[Vec<u8>], wanted: &[u8]) -> bool {
    memory
        .iter()
        .any(|bytes| bytes.windows(wanted.len()).any(|w| w == wanted))
}

/// A tenant's key that was handed out is neither in the ledger's memory any more, nor in a file of its.
pub fn an_audit_key_that_was_handed_out_is_forgotten() {
    let folder = tempfile::tempdir().unwrap();
    let service = Service::start(folder.path());
    let mut lines = Lines::connect(folder.path());
    let ask = json!({"type": "audit_key", "id": 1, "tenant": "tenant-a"});
    let key = loop {
        let (line, _) = lines.call(&ask).unwrap();
        match line["key"].as_str() {
            Some(key) => break key.to_owned(),
            // The device key is opened behind the start.
            None => assert_eq!(line["error"]["code"], "INTERNAL", "{line}"),
        }
    };
    let hex = key.strip_prefix("vb-audit-key tenant-a ").unwrap();
    let raw: [u8; 32] = ledger_core::keys::bytes_of(hex).unwrap();
    let subject = "what is looked for is found";
    let event = json!({"event_type": "note", "subject": subject});
    let append =
        json!({"type": "append_event", "id": 2, "ns": "work", "actor": "user:a", "event": event});
    assert_eq!(lines.call(&append).unwrap().0["ok"], true);
    let memory = memory(service.child.id());
    assert!(holds(&memory, subject.as_bytes()));
    assert!(!holds(&memory, hex.as_bytes()), "the key as text");
    assert!(!holds(&memory, &raw), "the key");
    for path in super::blobs::files(folder.path()) {
        let bytes = [fs::read(path).unwrap()];
        assert!(!holds(&bytes, hex.as_bytes()) && !holds(&bytes, &raw));
    }
}
