//! What lies on the data disk outlives the machine, however it ends.

use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};
use system_tests::inputs::inputs;
use system_tests::machine::Machine;

use crate::{call, options};

/// `ledger verify` on the host, over the disk's image.
pub fn verify_on_host(image: &Path) -> std::process::Output {
    let mut verify = Command::new(inputs().vector_boot());
    verify.args(["ledger", "--log"]).arg(image).arg("verify");
    system_tests::output(&mut verify)
}

fn ids(events: &[Value]) -> Vec<u64> {
    events
        .iter()
        .map(|event| event["id"].as_u64().expect("an id"))
        .collect()
}

/// What the tools that made the disk think of it now.
fn host_tools_agree(image: &Path) {
    let mut table = Command::new("sfdisk");
    let said = system_tests::stdout_of(table.arg("--verify").arg(image));
    assert!(said.contains("No errors"), "{said}");
    let mut rows = Command::new("sfdisk");
    let rows = system_tests::stdout_of(rows.args(["--json"]).arg(image));
    let rows: Value = serde_json::from_str(&rows).unwrap();
    let data = &rows["partitiontable"]["partitions"][1];
    assert_eq!(data["name"], "data", "{rows}");
    let sector = rows["partitiontable"]["sectorsize"].as_u64().unwrap_or(512);
    let offset = data["start"].as_u64().unwrap() * sector;
    let mut check = Command::new("e2fsck");
    check.args(["-f", "-n"]);
    system_tests::stdout_of(check.arg(format!("{}?offset={offset}", image.display())));
}

#[test]
fn ledger_and_files_outlive_a_cold_stop_and_a_larger_disk_and_the_host_agrees() {
    let folder = tempfile::tempdir().unwrap();
    let options = options(folder.path());
    let mut machine = Machine::ready(&options);
    let write = json!({"tool": "fs_write", "params": {
        "root": "work", "path": "kept.txt", "content": "kept\n", "create": true,
    }});
    let reply = machine.call(&write);
    let acknowledged = reply.body["event_id"]
        .as_u64()
        .unwrap_or_else(|| panic!("{}", reply.body));
    let vkey = machine.ok("ledger key").trim().to_owned();
    assert!(vkey.starts_with("vb-"), "{vkey}");
    let before = machine.events();
    machine.stop_cold();

    let host = verify_on_host(&options.data);
    assert!(host.status.success(), "{host:?}");
    let gained = 160 << 20;
    let image = std::fs::File::options().write(true).open(&options.data);
    let image = image.unwrap();
    image
        .set_len(image.metadata().unwrap().len() + gained)
        .unwrap();

    let mut machine = Machine::ready(&options);
    machine.until("why machine --json", |text| {
        let all: Value = serde_json::from_str(text).ok()?;
        let last = all["why"].as_array()?.last()?.clone();
        (last["reason"] == "unclean_stop").then_some(())
    });
    let after = machine.events();
    assert!(ids(&after).contains(&acknowledged));
    let first = ids(&after)[0];
    assert_eq!(
        ids(&after),
        (first..first + after.len() as u64).collect::<Vec<_>>(),
        "gaps or doubles"
    );
    assert_eq!(
        after[..before.len()],
        before[..],
        "what was shown before the stop has changed"
    );
    assert!(after.len() > before.len());
    // The device key was kept: it signs on, for the same name.
    assert_eq!(machine.ok("ledger key").trim(), vkey);
    let line = machine.ok("ledger checkpoint");
    assert!(line.starts_with("ledger checkpoint: size="), "{line}");
    let proof = machine.json(&format!("ledger proof {acknowledged}"));
    assert_eq!(proof["event_id"], acknowledged, "{proof}");
    assert!(machine.ok("ledger doctor").contains("percent_used"));
    // The gateway reaches the ledger's lines from its cell.
    let mut metrics = Command::new("curl");
    metrics.args(["--silent", "--header", "Accept: text/plain", "--user"]);
    metrics.arg(format!("token:{}", machine.token().trim()));
    metrics.arg(format!("http://127.0.0.1:{}/metrics", machine.http_port()));
    let metrics = system_tests::stdout_of(&mut metrics);
    assert!(
        metrics.contains("\ngatos_journal_append_latency_ms_count "),
        "{metrics}"
    );
    machine.assert_no_call_was_refused();
    let kept = machine.call(&call("fs_read", "work", "kept.txt")).body;
    assert_eq!(kept["data"]["content"], "kept\n", "{kept}");
    let console = machine.json("ledger verify");
    assert_eq!(console["holds"], true, "{console}");
    let grown = machine.until("ledger query --type data_grown --json", |text| {
        let answer: Value = serde_json::from_str(text).ok()?;
        answer["events"].get(0).cloned()
    });
    let bytes = |name: &str| {
        let of_object = grown["payload"][name].as_u64();
        let text = grown["payload"].as_str().unwrap_or("{}");
        let parsed: Value = serde_json::from_str(text).unwrap_or_default();
        of_object
            .or(parsed[name].as_u64())
            .unwrap_or_else(|| panic!("no {name} in {grown}"))
    };
    assert_eq!(bytes("bytes"), bytes("bytes_before") + gained, "{grown}");
    // SIGTERM to PID 1 restarts the machine in order, which ends QEMU.
    let serial = machine.serial().clone();
    machine.ok("signal init TERM");
    machine.wait_for_end();

    let host = verify_on_host(&options.data);
    assert!(host.status.success(), "{host:?}");
    let said = String::from_utf8_lossy(&host.stdout).into_owned();
    let events = said.split(' ').nth(1).expect("ok N events");
    let shown = serial.text();
    assert!(shown.contains(&format!("ledger key: {vkey}")), "{shown}");
    let last = shown
        .rsplit_once("ledger checkpoint: size=")
        .expect("a checkpoint")
        .1;
    let size = last.split(' ').next().expect("a size");
    assert_eq!(size, events, "the last checkpoint is of the whole log");
    // What the serial line showed convicts a log that was written anew, and this one it does not.
    let kept = folder.path().join("serial");
    std::fs::write(&kept, format!("ledger checkpoint: size={last}")).unwrap();
    let mut since = Command::new(inputs().vector_boot());
    since.args(["ledger", "--log"]).arg(&options.data);
    since.args(["verify", "--key", &vkey, "--since"]).arg(&kept);
    let host = system_tests::output(&mut since);
    assert!(host.status.success(), "{host:?}");
    host_tools_agree(&options.data);
}

#[test]
fn a_flipped_byte_in_a_copy_of_the_log_is_named_by_its_offset() {
    use std::os::unix::fs::FileExt;
    let folder = tempfile::tempdir().unwrap();
    let options = options(folder.path());
    let mut machine = Machine::ready(&options);
    let reply = machine.call(&call("fs_read", "work", "welcome.txt"));
    assert_eq!(reply.status, 200, "{}", reply.body);
    // SIGUSR2 to PID 1 powers the machine off in order.
    machine.ok("signal init USR2");
    machine.wait_for_end();

    let copy = folder.path().join("copy.img");
    std::fs::copy(&options.data, &copy).unwrap();
    let file = std::fs::File::options()
        .read(true)
        .write(true)
        .open(&copy)
        .unwrap();
    // The `log` partition is the first and begins at one MiB; the text lies in a row of it.
    let mut log = vec![0; 1 << 20];
    file.read_exact_at(&mut log, 1 << 20).unwrap();
    let at = log
        .windows(7)
        .position(|window| window == b"fs_read")
        .expect("the row of the call") as u64;
    file.write_all_at(b"F", (1 << 20) + at).unwrap();
    let host = verify_on_host(&copy);
    assert!(!host.status.success(), "{host:?}");
    let said = format!(
        "{}{}",
        String::from_utf8_lossy(&host.stdout),
        String::from_utf8_lossy(&host.stderr)
    );
    assert!(said.contains("offset") || said.contains("byte"), "{said}");
    assert!(verify_on_host(&options.data).status.success());
}
