//! PID 1 survives its own crash: as an ordinary process it is the same code, record and state memfd.

use std::path::PathBuf;
use std::process::Command;

use serde_json::{Value, json};
use system_tests::process::{Process, until};

/// Descriptors of a helper and of a question that may be under way when they are counted first or last.
const SPARE: usize = 6;
const SERVICES: [&str; 3] = ["ledger", "capacity", "gateway"];

/// Sends PID 1 a signal, as a defect of its own would.
pub(crate) fn crash(pid: u32, signal: &str) {
    let mut kill = Command::new("kill");
    kill.args(["-s", signal, &pid.to_string()]);
    assert!(kill.status().unwrap().success());
}

/// The events of PID 1 about itself.
fn resumed(process: &Process) -> Vec<Value> {
    let text = process
        .ctl(&["ledger", "query", "--from", "0", "-n", "500", "--json"])
        .stdout;
    let value: Value = serde_json::from_slice(&text).unwrap_or_default();
    let events = value["events"].as_array().cloned().unwrap_or_default();
    let of = |event: &Value| event["event_type"] == "init_resumed";
    events.into_iter().filter(of).collect()
}

fn pids(process: &Process) -> Vec<Value> {
    let of = |name: &&str| process.service(name)["pid"].clone();
    SERVICES.iter().map(of).collect()
}

fn descriptors(pid: u32) -> Vec<PathBuf> {
    let folder = std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap();
    let targets = folder.filter_map(|entry| std::fs::read_link(entry.ok()?.path()).ok());
    targets.collect()
}

/// One byte of the state memfd, as a stray write of PID 1 itself would change it.
fn damage(pid: u32, at: u64) {
    use std::os::unix::fs::FileExt;
    let folder = std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap();
    let mut paths = folder.map(|entry| entry.unwrap().path());
    let state = |path: &PathBuf| {
        std::fs::read_link(path).is_ok_and(|to| to.to_string_lossy().starts_with("/memfd:vb-state"))
    };
    let path = paths.find(state).expect("a state memfd");
    let file = std::fs::File::options().write(true).open(path).unwrap();
    file.write_all_at(b"X", at).unwrap();
}

#[test]
fn a_crash_of_pid_1_leaves_every_service_alive_and_every_event_there_once() {
    let folder = tempfile::tempdir().unwrap();
    let process = Process::ready(&folder.path().join("state"), &[]);
    let token = process.json(&["gateway", "token"])["token"]
        .as_str()
        .unwrap()
        .to_owned();
    let call = || {
        let welcome = json!({"tool": "fs_read", "params": {"root": "work", "path": "welcome.txt"}});
        process.call(Some(&token), &welcome).status
    };
    let (before, pid) = (pids(&process), process.pid());
    let mut open = Vec::new();
    for (n, signal) in ["SEGV", "ABRT"].into_iter().enumerate() {
        let beats = process.json(&["beat"])["count"].as_u64().unwrap();
        crash(pid, signal);
        assert_eq!(call(), 200, "in the middle of it");
        let events = until("the crash is recorded", || {
            let events = resumed(&process);
            (events.len() > n).then_some(events)
        });
        assert_eq!(events.len(), n + 1, "{events:?}");
        let payload = events[n]["payload"].to_string();
        assert!(payload.contains(signal), "{payload}");
        assert_eq!(pids(&process), before, "after {signal}");
        until("the beats go on counting", || {
            (process.json(&["beat"])["count"].as_u64()? > beats + 8).then_some(())
        });
        assert_eq!((call(), process.pid()), (200, pid));
        // A helper and questions under way come and go; what was left behind would stay.
        let least = open.iter().copied().min().unwrap_or(usize::MAX);
        open.push(until("descriptors are no more than before", || {
            let now = descriptors(pid).len();
            (now <= least.saturating_add(SPARE)).then_some(now)
        }));
    }
    let status = process.json(&["status"]);
    assert_eq!(status["state"], "ready", "{status}");
    let verified = process.json(&["ledger", "verify"]);
    assert!(verified["events"].as_u64().is_some(), "{verified}");
    let boot = process.ok(&["boot"]);
    assert!(
        boot.contains("ready:gateway") && boot.contains("resumed"),
        "{boot}"
    );

    // Who died with it is seen by the next image, once.
    let gateway = process.service("gateway");
    crash(
        u32::try_from(gateway["pid"].as_u64().unwrap()).unwrap(),
        "KILL",
    );
    let again = process.until_service("gateway", |row| {
        row["state"] == "up" && row["pid"] != gateway["pid"]
    });
    assert_eq!(again["restarts"], gateway["restarts"].as_u64().unwrap() + 1);
    assert!(process.end().success());
}

#[test]
fn crashes_one_after_the_other_are_given_up_with_the_reason() {
    let folder = tempfile::tempdir().unwrap();
    let process = Process::ready(&folder.path().join("state"), &[]);
    let pid = process.pid();
    let services: Vec<u64> = pids(&process).iter().filter_map(Value::as_u64).collect();
    let alive = |pid: u64| std::path::Path::new(&format!("/proc/{pid}/fd/0")).exists();
    until("it is given up", || {
        // Between its exec and its first step there is nobody to come back.
        let text = process.ctl(&["status", "--json"]);
        if text.status.success() {
            crash(pid, "SEGV");
        }
        (!alive(pid.into())).then_some(())
    });
    let said = until("it says why", || {
        let said = process.said();
        said.contains("PID 1 crashed").then_some(said)
    });
    assert!(
        said.contains("times within 10 s, limit 2: signal SEGV (11)"),
        "{said}"
    );
    until("the services end with it", || {
        services.iter().all(|pid| !alive(*pid)).then_some(())
    });
}

#[test]
fn a_state_that_is_not_whole_is_refused_and_everything_starts_anew() {
    let folder = tempfile::tempdir().unwrap();
    let process = Process::ready(&folder.path().join("state"), &[]);
    let before = pids(&process);
    damage(process.pid(), 0);
    crash(process.pid(), "SEGV");
    let after = until("everything is up again", || {
        // Its sockets are made anew meanwhile.
        if !process.ctl(&["services"]).status.success() {
            return None;
        }
        let up = SERVICES
            .iter()
            .all(|name| process.service(name)["state"] == "up");
        let pids = pids(&process);
        (up && pids.iter().zip(&before).all(|(new, old)| new != old)).then_some(pids)
    });
    assert_ne!(after, before);
    let status = process.json(&["status"]);
    assert_eq!(status["state"], "degraded", "{status}");
    let reason = status["reason"].as_str().unwrap();
    assert!(
        reason.contains("signal SEGV (11)") && reason.contains("state: magic"),
        "{reason}"
    );
    assert!(process.end().success());
}
