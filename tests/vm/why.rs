//! Why: each end of a service and of the machine is explained, whoever or whatever caused it.
//!
//! One machine, three boots: a first one that its watchdog ends, one that the power button ends, and one
//! whose disk fails and that Ctrl-Alt-Del ends.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use system_tests::inputs::Arch;
use system_tests::machine::{Machine, Options, STEP_LIMIT};
use system_tests::nbd::Disk;
use system_tests::{package, program};

use crate::disk::verify_on_host;

const HOG: &str = r#"
[[service]]
name = "hog"
image = "hog"
memory_max_bytes = 16_777_216
tmp_bytes = 65_536
"#;

/// Where the partitions of [`small_disk`] lie, in sectors of 512 bytes.
const LOG: (u64, u64) = (2048, 32 << 11);
const DATA: (u64, u64) = (2048 + (32 << 11), 8 << 11);
/// What one call of curl can carry.
const FILE_BYTES: usize = 100_000;
/// More of them than the disk has room for.
const FILES_MAX: usize = 100;

/// A disk whose data partition is full after a few files.
fn small_disk(folder: &Path) -> PathBuf {
    let path = folder.join("small.img");
    let file = std::fs::File::create(&path).unwrap();
    file.set_len((DATA.0 + DATA.1 + 2048) * 512).unwrap();
    let table = format!(
        "label: gpt\nstart={}, size={}, name=log, type=linux\nstart={}, size={}, name=data, type=linux\n",
        LOG.0, LOG.1, DATA.0, DATA.1
    );
    let script = folder.join("table");
    std::fs::write(&script, table).unwrap();
    let mut sfdisk = Command::new("sfdisk");
    sfdisk.stdin(std::fs::File::open(&script).unwrap());
    system_tests::stdout_of(sfdisk.arg("-q").arg(&path));
    let mut mke2fs = Command::new("mke2fs");
    let options = format!("offset={},root_owner=0:0", DATA.0 * 512);
    mke2fs.args(["-q", "-F", "-t", "ext4", "-m", "0", "-E", &options]);
    system_tests::stdout_of(mke2fs.arg(&path).arg(format!("{}k", DATA.1 / 2)));
    path
}

/// Waits until the newest record about a service or the machine has this reason.
fn explained(machine: &mut Machine, subject: &str, reason: &str) -> Value {
    machine.until(&format!("why {subject} --json"), |text| {
        let all: Value = serde_json::from_str(text).ok()?;
        let newest = all["why"][0].clone();
        (newest["reason"] == reason).then_some(newest)
    })
}

/// Waits until `status` gives a cause with these words, or none.
fn degraded_by(machine: &mut Machine, cause: Option<&str>) {
    machine.until("status --json", |text| {
        let status: Value = serde_json::from_str(text).ok()?;
        let reason = status["reason"].as_str()?;
        match cause {
            Some(words) => reason.contains(words),
            None => reason.is_empty(),
        }
        .then_some(())
    });
}

fn write(machine: &Machine, path: &str, bytes: usize) -> Value {
    let content = "x".repeat(bytes);
    let params = json!({"root": "work", "path": path, "content": content, "create": true});
    machine
        .call(&json!({"tool": "fs_write", "params": params}))
        .body
}

fn is_written(reply: &Value) -> bool {
    !reply["data"].is_null()
}

fn all_up(machine: &mut Machine) {
    let services = machine.json("services");
    for service in services["services"].as_array().expect("services") {
        assert_eq!(service["state"], "up", "{service}");
    }
}

#[test]
fn every_end_is_explained_and_a_failing_disk_takes_nothing_along() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let image = small_disk(folder);
    let manifest = folder.join("manifest.toml");
    let table = package::default_manifest() + HOG;
    std::fs::write(&manifest, table).unwrap();
    let add = format!("hog={}", program::compile("hog", folder).display());
    let words = ["--manifest", manifest.to_str().unwrap(), "--add", &add];
    let options = Options {
        data: image.clone(),
        package: Some(package::pack_default(folder, "app.rts", &words)),
        append: "vb.watchdog=8".to_owned(),
        nbd: Some(folder.join("nbd")),
        resets: Arch::HOST == Arch::X86_64,
        ..Options::default()
    };
    let disk = Disk::serve(&image, &folder.join("nbd"));

    // The first boot: ends of services.
    let mut machine = Machine::ready(&options);
    explained(&mut machine, "machine", "first_boot");
    let dog = machine.json("watchdog");
    assert_eq!(
        (&dog["armed"], &dog["timeout_s"]),
        (&json!(true), &json!(8)),
        "{dog}"
    );
    assert_eq!(dog["software"], true, "{dog}");
    assert!(dog["fed"].as_u64().is_some_and(|n| n > 0), "{dog}");
    machine.ok("signal gateway KILL");
    let killed = explained(&mut machine, "gateway", "signal");
    assert_eq!(killed["facts"]["cause"], "signal KILL (9)", "{killed}");
    assert!(
        killed["facts"]["peak_kib"].as_u64().is_some_and(|n| n > 0),
        "{killed}"
    );
    machine.ok("restart net");
    explained(&mut machine, "net", "stopped");
    // The second start of the hog is its end.
    machine.ok("restart hog");
    let starved = explained(&mut machine, "hog", "out_of_memory");
    assert_eq!(starved["facts"]["said"], "about to eat", "{starved}");
    assert!(
        starved["facts"]["oom_kill"].as_u64().is_some_and(|n| n > 0),
        "{starved}"
    );
    degraded_by(&mut machine, None);
    let pressure = machine.until("status --json", |text| {
        let status: Value = serde_json::from_str(text).ok()?;
        status["pressure"].as_str().map(str::to_owned)
    });
    assert!(
        pressure.contains("hog") && pressure.contains("killed"),
        "{pressure}"
    );
    all_up(&mut machine);

    // What a person asks for is recorded before it is done, with the ledger away too.
    let commands = [("stop", "ledger"), ("restart", "net"), ("start", "ledger")];
    for (verb, service) in commands {
        machine.ok(&format!("{verb} {service}"));
    }
    machine.until("ledger query --type command -n 100 --json", |text| {
        let all: Value = serde_json::from_str(text).ok()?;
        let there = |(verb, service): &(&str, &str)| {
            let of = format!("\"verb\":\"{verb}\"");
            all["events"].as_array().is_some_and(|events| {
                events.iter().any(|e| {
                    let payload = e["payload"].to_string().replace('\\', "");
                    e["subject"] == *service && payload.contains(&of)
                })
            })
        };
        commands.iter().all(there).then_some(())
    });

    // The watchdog ends it: PID 1 beats no more.
    let mut machine = if options.resets {
        machine.run_and_be_greeted("signal init STOP");
        machine
    } else {
        machine.ok("signal init STOP");
        machine.wait_for_end();
        Machine::boot(&options)
    };
    machine.ok("ready 90");
    // Without memory that outlives a reset, a software watchdog leaves no word.
    let bitten = if options.resets {
        "watchdog_reset"
    } else {
        "unclean_stop"
    };
    let last = explained(&mut machine, "machine", bitten);
    let known = last["facts"]["last_event"].as_u64();
    assert!(known.is_some_and(|n| n > 0), "{last}");

    // A full disk: named, and over when there is room again.
    let mut files = 0;
    while files < FILES_MAX && is_written(&write(&machine, &format!("{files}.txt"), FILE_BYTES)) {
        files += 1;
    }
    assert!((1..FILES_MAX).contains(&files), "{files} files");
    degraded_by(&mut machine, Some("data: full"));
    all_up(&mut machine);
    for file in 0..files {
        write(&machine, &format!("{file}.txt"), 1);
    }
    degraded_by(&mut machine, None);
    let events = machine.events();
    let recorded = events.iter().find(|e| e["event_type"] == "machine_why");
    assert!(
        recorded.is_some(),
        "the first boot's reason is in the ledger"
    );

    // The power button ends it; an Arm machine without firmware has neither that nor a keyboard, and signals do the same.
    let asked = if options.arch == Arch::X86_64 {
        machine.control().power_button();
        "power_button"
    } else {
        machine.ok("signal init USR2");
        "signal_asked"
    };
    machine.wait_for_end();

    // The third boot: clean, and then the disk fails under it.
    let options = Options {
        resets: false,
        ..options
    };
    let mut machine = Machine::ready(&options);
    let last = explained(&mut machine, "machine", "poweroff");
    assert_eq!(last["facts"]["asked"], asked, "{last}");
    disk.break_from(DATA.0 * 512);
    let refused = write(&machine, "lost.txt", 10_000);
    assert!(!is_written(&refused), "a disk that takes none: {refused}");
    // The kernel notices with the first write behind the journal's own error.
    let deadline = Instant::now() + STEP_LIMIT;
    loop {
        let again = write(&machine, "again.txt", 10);
        let status = machine.json("status");
        let reason = status["reason"].as_str().unwrap_or_default();
        if reason.contains("read-only") {
            break;
        }
        assert!(Instant::now() < deadline, "{status}\n{again}\n{refused}");
        // Between two tries of an agent.
        std::thread::sleep(Duration::from_millis(200));
    }
    all_up(&mut machine);
    let acknowledged = machine.call(&crate::call("fs_read", "work", "0.txt")).body;
    let id = acknowledged["event_id"].as_u64();
    assert!(id.is_some(), "{acknowledged}");
    let holds = machine.json("ledger verify");
    assert_eq!(holds["holds"], true, "{holds}");
    assert!(machine.events().iter().any(|e| e["id"].as_u64() == id));
    disk.mend();

    // Ctrl-Alt-Del ends it; the log on the host says so.
    let asked = if options.arch == Arch::X86_64 {
        machine.control().ctrl_alt_del();
        "ctrl_alt_del"
    } else {
        machine.ok("signal init INT");
        "signal_asked"
    };
    machine.wait_for_end();
    drop(disk);
    let host = verify_on_host(&image);
    assert!(host.status.success(), "{host:?}");
    let log = std::fs::read(&image).unwrap();
    let asked = format!("\"reason\":\"{asked}\"");
    assert!(
        log.windows(asked.len())
            .any(|bytes| bytes == asked.as_bytes())
    );
}
