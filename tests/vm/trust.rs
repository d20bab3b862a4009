//! Whose package runs, what the command line may say beside it, and which `vector_boot` is PID 1.
//!
//! Each boot that refuses a package reads one line of hostile parameters too: from a fixed seed, every bad key of
//! it must be named and the machine be up.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;
use system_tests::inputs::{Arch, inputs};
use system_tests::machine::{Machine, Options};
use system_tests::package;

use crate::{call, options};

/// A key pair of this name in the folder; the path of the secret one.
pub(crate) fn keygen(folder: &Path, name: &str) -> PathBuf {
    let key = folder.join(name);
    let mut make = Command::new(inputs().vector_boot());
    system_tests::stdout_of(make.args(["rts", "keygen"]).arg(&key));
    key
}

/// The public half of a key pair.
pub(crate) fn public(key: &Path) -> PathBuf {
    key.with_extension("pub")
}

/// What the host's tool says of a package.
pub(crate) fn inspect(package: &Path) -> Value {
    let mut inspect = Command::new(inputs().vector_boot());
    let text = system_tests::stdout_of(inspect.args(["rts", "inspect", "--json"]).arg(package));
    serde_json::from_str(&text).unwrap()
}

/// The one line with which the host's tool refuses a package.
fn refusal(package: &Path, words: &[&str]) -> String {
    let verify = Command::new(inputs().vector_boot())
        .args(["rts", "verify"])
        .arg(package)
        .args(words)
        .output()
        .unwrap();
    assert!(!verify.status.success(), "{package:?} passed {words:?}");
    String::from_utf8(verify.stderr).unwrap()
}

/// A package whose `vector_boot` is another build: the tested one with bytes behind its last section.
fn pack_another(folder: &Path, name: &str, words: &[&str]) -> PathBuf {
    let mut binary = std::fs::read(inputs().vector_boot()).unwrap();
    binary.extend(b"another build");
    let path = folder.join("another");
    std::fs::write(&path, binary).unwrap();
    package::pack_binary(&path, folder, name, words)
}

/// Overwrites the first byte behind the manifest's magic number.
pub(crate) fn tamper(package: &Path) {
    let mut bytes = std::fs::read(package).unwrap();
    let at = bytes
        .windows(4)
        .rposition(|four| *four == rts::manifest::MANIFEST_MAGIC);
    bytes[at.expect("a manifest") + 8] ^= 1;
    std::fs::write(package, bytes).unwrap();
}

#[test]
fn a_signed_package_brings_its_own_pid_1_which_gives_way_when_it_crashes() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let key = keygen(folder, "ours");
    let package = pack_another(folder, "another.rts", &["--sign", key.to_str().unwrap()]);
    let said = inspect(&package);
    let short = |value: &Value| value.as_str().unwrap()[..16].to_owned();
    let refused = [
        ("vb.watchdog", "off"),
        ("vb.net", "10.0.2.99/24"),
        ("vb.manifest", "/evil"),
        ("vb.http", "0.0.0.0:99"),
        ("vb.log", "error"),
        ("vb.init", "initramfs"),
    ];
    let words: Vec<String> = refused.iter().map(|(k, v)| format!("{k}={v}")).collect();
    // A second between beats keeps the first hundred of them under way, however slow the host is.
    let append = format!(
        "{} softdog.soft_noboot=1 vb.heartbeat_ms=1000",
        words.join(" ")
    );
    let mut machine = Machine::ready(&Options {
        package: Some(package),
        trust: vec![public(&key)],
        append,
        ..options(folder)
    });
    let status = machine.json("status");
    assert_eq!(status["state"], "ready", "{status}");
    assert_eq!(
        status["init"]["digest"],
        short(&said["binary"]["blake3"]),
        "{status}"
    );
    let from = status["init"]["from"].as_str().unwrap();
    assert!(from.starts_with("package /dev/"), "{status}");
    let line = std::fs::read_to_string(public(&key)).unwrap();
    let hex = line.split_whitespace().last().unwrap();
    assert_eq!(status["signer"], hex, "{status}");
    assert_eq!(
        status["trusted_keys"],
        serde_json::json!([hex[..16]]),
        "{status}"
    );
    let log = machine.ok("log init -n 200");
    for (key, value) in refused {
        let sentence = format!("parameter {key}: value {value}, limit ");
        assert!(log.contains(&sentence), "{sentence}: {log}");
    }
    assert!(
        log.contains("module softdog: parameters soft_noboot=1"),
        "{log}"
    );
    let events = machine.events();
    let booted = events.iter().find(|e| e["event_type"] == "machine_booted");
    let payload = &booted.expect("machine_booted")["payload"];
    assert_eq!(payload["digest"], short(&said["digest"]), "{payload}");
    assert_eq!(payload["signer"], hex, "{payload}");
    assert_eq!(payload["init"], status["init"]["digest"], "{payload}");

    machine.run_and_lose_pid_1("signal init SEGV", "vector_boot crashed: signal SEGV");
    let ready = machine.run("ready 60");
    assert_eq!(ready.code, 1, "{}", ready.text);
    let status = machine.json("status");
    assert_eq!(status["init"]["from"], "initramfs", "{status}");
    let reason = status["reason"].as_str().unwrap();
    assert!(
        reason
            .contains("package's vector_boot crashed: signal SEGV (11), the initramfs's own runs"),
        "{status}"
    );
    assert_eq!(status["services_up"], status["services"], "{status}");
    assert_eq!(status["signer"], hex, "{status}");
    let reply = machine.call(&call("fs_read", "work", "welcome.txt"));
    assert_eq!(reply.body["status"], "SUCCESS", "{}", reply.body);
    assert_eq!(machine.json("ledger verify")["holds"], true);
    machine.power_off();
}

/// One line of words that mean harm or nothing, and the keys in it that must be named.
fn hostile(seed: u64) -> (String, BTreeSet<String>) {
    // Numerical Recipes' generator: fixed, so that a line that fails is the same tomorrow.
    let mut state = seed;
    let mut next = move |below: u64| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 33) % below
    };
    let (mut line, mut bad) = (Vec::new(), BTreeSet::new());
    for _ in 0..40 {
        let number = next(10_000);
        let (word, key) = match next(14) {
            0 => (format!("vb.x{number}=1"), format!("vb.x{number}")),
            1 => (format!("VB.Y{number}"), format!("VB.Y{number}")),
            2 => (
                format!("vb.heartbeat_ms={}", 1001 + number),
                "vb.heartbeat_ms".into(),
            ),
            3 => (format!("vb.log=loud{number}"), "vb.log".into()),
            4 => (
                format!("vb.hostname={}", "h".repeat(64)),
                "vb.hostname".into(),
            ),
            5 => ("vb.emergency=sh".into(), "vb.emergency".into()),
            6 => ("vb.=".into(), "vb.".into()),
            7 => (
                "vb.require_signature=no".into(),
                "vb.require_signature".into(),
            ),
            8 => ("vb.console_mode=root".into(), "vb.console_mode".into()),
            9 => (format!("\"vb.z{number}=a b\""), format!("vb.z{number}")),
            10 => (
                format!("vb.q{number}=\"; poweroff\""),
                format!("vb.q{number}"),
            ),
            11 => ("vb.console=vda".into(), "vb.console".into()),
            12 => (format!("x{number}.y=z"), String::new()),
            _ => {
                let words = [
                    "nokaslr",
                    "single",
                    "vb",
                    "emergency",
                    "1",
                    "S",
                    "-b",
                    "=",
                    "a.b=",
                ];
                let word = words[usize::try_from(number).unwrap() % words.len()];
                (word.to_owned(), String::new())
            }
        };
        line.push(word);
        if !key.is_empty() {
            bad.insert(key);
        }
    }
    (line.join(" "), bad)
}

/// Boots a package that must be refused in these words, beside a hostile line.
fn refused(
    folder: &Path,
    package: &Path,
    trust: &[PathBuf],
    more: &str,
    seed: u64,
    words: &[&str],
) {
    let (line, bad) = hostile(seed);
    let mut machine = Machine::boot(&Options {
        package: Some(package.to_owned()),
        trust: trust.to_vec(),
        append: format!("{line} {more}"),
        ..options(folder)
    });
    let ready = machine.run("ready 60");
    assert_eq!(ready.code, 1, "{package:?}: {}", ready.text);
    let status = machine.json("status");
    assert_eq!(status["state"], "degraded", "{status}");
    assert_eq!(status["services_up"], status["services"], "{status}");
    assert_eq!(status["init"]["from"], "initramfs", "{status}");
    assert_eq!(status["signer"], "", "{status}");
    let reason = status["reason"].as_str().unwrap();
    for word in words {
        assert!(
            reason.contains(word),
            "{package:?}: no {word:?} in {reason}"
        );
    }
    let log = machine.ok("log init -n 500");
    for key in bad {
        let alone = format!("parameter {key}: ");
        let listed = log
            .lines()
            .filter_map(|line| line.split_once("parameters refused as well: "))
            .any(|(_, keys)| keys.split(", ").any(|k| k.trim() == key));
        let times = log.matches(&alone).count() + usize::from(listed);
        assert_eq!(times, 1, "seed {seed}: {key} named {times} times in {log}");
    }
    // Nobody has said here who may do what, unless nobody is trusted.
    let signal = machine.run("signal gateway 18");
    assert_eq!(signal.code == 0, trust.is_empty(), "{}", signal.text);
    machine.stop_cold();
}

#[test]
fn packages_that_may_not_run_are_refused_by_name_beside_hostile_parameters() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let ours = keygen(folder, "ours");
    let theirs = keygen(folder, "theirs");
    let trust = [public(&ours)];
    let key = trust[0].to_str().unwrap();
    let unsigned = pack_another(folder, "unsigned.rts", &[]);
    let foreign = pack_another(folder, "foreign.rts", &["--sign", theirs.to_str().unwrap()]);
    let tampered = pack_another(folder, "tampered.rts", &["--sign", ours.to_str().unwrap()]);
    tamper(&tampered);
    let unchecked = ["--unchecked", "--arch", Arch::OTHER.name()];
    let other = package::pack_binary(&inputs().vector_boot(), folder, "other.rts", &unchecked);
    let foreigner = "key_id at byte 296: found ";
    let machine = format!(
        "package is for {}, this machine is {}",
        Arch::OTHER.name(),
        Arch::HOST.name()
    );
    let absent = "signature at byte 328: found none";
    let changed = "manifest_blake3 at byte ";

    // On the host, in the same words.
    assert!(refusal(&unsigned, &["--key", key]).contains(absent));
    assert!(refusal(&foreign, &["--key", key]).contains(foreigner));
    assert!(refusal(&tampered, &["--key", key]).contains(changed));
    assert!(refusal(&other, &["--arch", Arch::HOST.name()]).contains(&machine));

    refused(folder, &unsigned, &trust, "", 1, &[absent]);
    refused(folder, &foreign, &trust, "", 2, &[foreigner]);
    refused(folder, &tampered, &trust, "", 3, &[changed]);
    refused(folder, &other, &[], "", 4, &[&machine]);
    // Whoever requires a signature and trusts nobody takes nothing.
    let word = "vb.require_signature=1";
    let nobody = [foreigner, "one of 0 trusted keys"];
    refused(folder, &foreign, &[], word, 5, &nobody);
}
