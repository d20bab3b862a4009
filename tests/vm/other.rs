//! A machine of the architecture that the host is not, at work: what is written once must hold on both.

use serde_json::{Value, json};
use system_tests::inputs::{Arch, inputs};
use system_tests::machine::{Machine, Options};
use system_tests::package;

use crate::disk::verify_on_host;
use crate::{call, options};

fn gateway(text: &str) -> Option<Value> {
    let services: Value = serde_json::from_str(text).ok()?;
    let rows = services["services"].as_array()?;
    rows.iter().find(|row| row["name"] == "gateway").cloned()
}

#[test]
fn a_signed_package_works_is_killed_and_stopped_and_the_host_reads_its_log() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let key = folder.join("maker");
    let mut keygen = std::process::Command::new(inputs().vector_boot());
    system_tests::stdout_of(keygen.args(["rts", "keygen"]).arg(&key));
    let sign = ["--sign", key.to_str().expect("a path of text")];
    let signed = package::pack_default_for(Arch::OTHER, folder, "signed.rts", &sign);
    let share = folder.join("share");
    std::fs::create_dir(&share).unwrap();
    std::fs::write(share.join("report.txt"), "a shared file\n").unwrap();
    std::os::unix::fs::symlink("/etc/shadow", share.join("escape")).unwrap();
    let options = Options {
        arch: Arch::OTHER,
        package: Some(signed),
        trust: vec![folder.join("maker.pub")],
        share: Some(share),
        ..options(folder)
    };
    let mut machine = Machine::ready(&options);
    let status = machine.json("status");
    let named = status["package"].as_str().expect("a package");
    assert!(
        named.contains("signed") && !named.contains("unsigned"),
        "{status}"
    );

    // Opening folders, links and files has flags of other numbers on aarch64.
    let reply = machine.call(&call("fs_read", "share", "report.txt"));
    assert_eq!(
        reply.body["data"]["content"], "a shared file\n",
        "{}",
        reply.body
    );
    let reply = machine.call(&call("fs_read", "share", "escape"));
    assert_eq!(reply.body["status"], "DENIED", "{}", reply.body);
    let write = json!({"tool": "fs_write", "params": {
        "root": "work", "path": "kept.txt", "content": "kept\n", "create": true,
    }});
    let reply = machine.call(&write);
    assert_eq!(reply.body["status"], "SUCCESS", "{}", reply.body);
    let reply = machine.call(&json!({"tool": "fs_list", "params": {"root": "work", "path": "."}}));
    assert!(
        reply.body["data"].to_string().contains("kept.txt"),
        "{}",
        reply.body
    );
    let reply = machine.call(&json!({"tool": "process_list", "params": {}}));
    assert_eq!(reply.body["status"], "SUCCESS", "{}", reply.body);

    for (command, exit) in [
        ("signal gateway ABRT", "ABRT"),
        ("signal gateway KILL", "KILL"),
    ] {
        let before = machine.until("services --json", gateway);
        machine.ok(command);
        let after = machine.until("services --json", |text| {
            gateway(text).filter(|row| row["state"] == "up" && row["pid"] != before["pid"])
        });
        assert!(
            after["last_exit"].as_str().unwrap().contains(exit),
            "{after}"
        );
    }
    machine.ok("signal ledger KILL");
    machine.ok("restart capacity");
    machine.ok("ready 60");
    let reply = machine.call(&call("fs_read", "work", "kept.txt"));
    assert_eq!(reply.body["data"]["content"], "kept\n", "{}", reply.body);
    machine.ok("tensor hw.mmio");
    assert_eq!(machine.json("ledger verify")["holds"], true);
    machine.power_off();

    let host = verify_on_host(&options.data);
    assert!(host.status.success(), "{host:?}");
}
