//! The same loop, services and commands as in a machine, without one.

use std::process::Command;

use serde_json::{Value, json};
use system_tests::inputs::inputs;
use system_tests::package;
use system_tests::process::Process;

fn welcome() -> Value {
    json!({"tool": "fs_read", "params": {"root": "work", "path": "welcome.txt"}})
}

#[test]
fn it_serves_records_ends_in_order_and_remembers() {
    let folder = tempfile::tempdir().unwrap();
    let state = folder.path().join("state");
    let package = package::pack(folder.path(), "real.rts", &[]);
    let words = ["--rts", package.to_str().unwrap()];
    let process = Process::ready(&state, &words);

    let status = process.json(&["status"]);
    assert_eq!(
        (status["state"].as_str(), status["tensors"].as_u64()),
        (Some("ready"), Some(272)),
        "{status}"
    );
    assert!(
        status["unconfined"]
            .as_str()
            .unwrap()
            .contains("ordinary process"),
        "{status}"
    );

    let token = process.json(&["gateway", "token"])["token"]
        .as_str()
        .unwrap()
        .to_owned();
    let reply = process.call(Some(&token), &welcome());
    assert_eq!(
        (reply.status, &reply.body["reality_index"]),
        (200, &json!(1.0)),
        "{}",
        reply.body
    );
    assert_eq!(process.call(None, &welcome()).status, 401);
    let event = reply.body["event_id"].as_u64().expect("an event id");
    assert!(
        process
            .ok(&["ledger", "tail", "-n", "20"])
            .contains(&format!("{event} "))
    );
    let before = process.json(&["ledger", "verify"])["events"]
        .as_u64()
        .expect("a count");
    assert!(process.end().success());

    let mut verify = Command::new(inputs().vector_boot());
    verify
        .args(["ledger", "--log"])
        .arg(state.join("ledger.log"))
        .arg("verify");
    system_tests::stdout_of(&mut verify);

    let again = Process::ready(&state, &words);
    assert!(
        again.json(&["ledger", "verify"])["events"]
            .as_u64()
            .expect("a count")
            > before
    );
    assert!(again.end().success());
}

#[test]
fn a_killed_service_comes_back_and_the_others_stay() {
    let folder = tempfile::tempdir().unwrap();
    let process = Process::ready(&folder.path().join("state"), &[]);
    for name in ["gateway", "capacity", "ledger"] {
        let others = ["gateway", "capacity", "ledger"]
            .into_iter()
            .filter(|other| *other != name);
        let before: Vec<(&str, Value)> = others
            .map(|other| (other, process.service(other)["pid"].clone()))
            .collect();
        let first = process.service(name);
        process.ok(&["signal", name, "KILL"]);
        let second = process.until_service(name, |row| {
            row["state"] == "up" && row["pid"] != first["pid"]
        });
        assert_eq!(second["restarts"], 1, "{second}");
        for (other, pid) in before {
            assert_eq!(
                process.service(other)["pid"],
                pid,
                "{other} was touched when {name} died"
            );
        }
    }
    assert_eq!(process.json(&["ledger", "verify"])["holds"], true);
    assert_eq!(process.json(&["beat"])["missed"], 0);
    assert!(process.end().success());
}

#[test]
fn commands_that_ask_wrongly_say_so() {
    let folder = tempfile::tempdir().unwrap();
    let process = Process::ready(&folder.path().join("state"), &[]);
    for (words, code) in [
        (&["statsu"][..], 2),
        (&["tensor"][..], 2),
        (&["stop", "nobody"][..], 1),
    ] {
        let result = process.ctl(words);
        assert_eq!(result.status.code(), Some(code), "{words:?}");
        let line = String::from_utf8_lossy(&result.stderr).into_owned();
        assert_eq!(line.trim().lines().count(), 1, "{words:?}: {line}");
    }
    assert!(process.end().success());
}

#[test]
fn both_executables_say_how_they_are_called() {
    for (program, words) in [
        (
            inputs().vector_boot(),
            ["--state DIR", "or a role", "ledger"],
        ),
        (inputs().services(), ["ledger", "capacity", "gateway"]),
    ] {
        let said = system_tests::stdout_of(Command::new(program).arg("--help"));
        for word in words {
            assert!(said.contains(word), "{word}: {said}");
        }
    }
}
