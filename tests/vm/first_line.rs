//! The first thing that a new user does: one command, the real model, answers, and an end.

use std::process::Command;

use system_tests::inputs::{Arch, inputs, repository};

fn exec(arch: Arch, commands: &str, folder: &std::path::Path) -> std::process::Output {
    let mut run = Command::new(repository().join("qemu/run"));
    run.args(["--http", "0", "--timeout", "240", "--exec", commands])
        .args(["--arch", arch.name(), "--bin"])
        .arg(inputs().bin_of(arch));
    run.arg("--model")
        .arg(&inputs().model)
        .arg("--data")
        .arg(folder.join("data.img"));
    system_tests::output(&mut run)
}

#[test]
fn one_line_boots_the_real_model_and_verifies_the_ledger() {
    boots_and_verifies(Arch::HOST);
}

#[test]
fn the_same_line_boots_the_other_architecture() {
    let host = boots_and_verifies(Arch::OTHER);
    // No accelerator runs another architecture's instructions.
    assert!(host.contains("accelerator: tcg (the host is "), "{host}");
}

/// Returns what `qemu/run` said of its own work.
fn boots_and_verifies(arch: Arch) -> String {
    let folder = tempfile::tempdir().unwrap();
    let commands = "status; tensors blk.0.*; tensor token_embd.weight; beat; ledger verify; status --json; beat --json";
    let result = exec(arch, commands, folder.path());
    let text = String::from_utf8_lossy(&result.stdout).into_owned();
    let host = String::from_utf8_lossy(&result.stderr).into_owned();
    assert!(result.status.success(), "{}\n{text}\n{host}", result.status);
    for part in [
        "272",
        "blk.0.attn_q.weight",
        "token_embd.weight",
        "ledger holds",
    ] {
        assert!(text.contains(part), "no {part} in\n{text}\n{host}");
    }
    let json: Vec<serde_json::Value> = text
        .lines()
        .filter_map(|line| serde_json::from_str(line).ok())
        .filter(serde_json::Value::is_object)
        .collect();
    let (status, beat) = (&json[0], &json[1]);
    assert_eq!(status["state"], "ready", "{status}");
    assert_eq!(status["tensors"], 272);
    assert_eq!(status["services_up"], status["services"]);
    assert_eq!(status["pid"], 1);
    // Whether one is missed is asked where instructions are the clock: an emulated processor that a busy host leaves
    // waiting counts that as its own time.
    assert!(beat["count"].as_u64().unwrap() > 0, "{beat}");
    assert!(
        host.contains("machine and kernel") && host.contains("handoff to ready"),
        "{host}"
    );
    host
}

#[test]
fn a_command_that_fails_fails_the_run() {
    let folder = tempfile::tempdir().unwrap();
    let result = exec(
        Arch::HOST,
        "status; tensor no.such.tensor; beat",
        folder.path(),
    );
    assert_eq!(result.status.code(), Some(1));
    let host = String::from_utf8_lossy(&result.stderr);
    assert!(host.contains("tensor no.such.tensor: exit code"), "{host}");
}
