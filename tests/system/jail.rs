//! The jail from inside: what each profile refuses, and what it lets a program do.

use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use system_tests::inputs::inputs;
use system_tests::program::{self, PROFILES};

fn jail(profile: &str, data: &Path, program: &Path, words: &[&str]) -> Output {
    let mut jail = Command::new(inputs().vector_boot());
    jail.args(["jail", "--profile", profile, "--"]);
    jail.arg(program).args(words).env("VB_DATA", data);
    system_tests::output(&mut jail)
}

fn text(output: &Output) -> String {
    let errors = String::from_utf8_lossy(&output.stderr);
    format!("{}{errors}", String::from_utf8_lossy(&output.stdout))
}

/// Whether the kernel has Landlock: without it files are not refused to root.
fn has_landlock(output: &Output) -> bool {
    !String::from_utf8_lossy(&output.stderr).contains("landlock=none")
}

#[test]
fn every_profile_refuses_all_that_the_prober_tries() {
    let folder = tempfile::tempdir().unwrap();
    let prober = program::prober(folder.path());
    let data = folder.path().join("data");
    std::fs::create_dir(&data).unwrap();
    let secret = folder.path().join("secret");
    std::fs::write(&secret, "of another service").unwrap();
    let mut peer = Command::new("sleep")
        .arg("60")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let words = [
        format!("file={}", secret.display()),
        format!("peer={}", peer.id()),
    ];
    // No manifest names the last one: it is its role's alone.
    for profile in PROFILES.into_iter().chain(["witness"]) {
        let output = jail(
            profile,
            &data,
            &prober,
            &[profile, "brief", &words[0], &words[1]],
        );
        let text = text(&output);
        assert!(has_landlock(&output), "this test needs Landlock: {text}");
        assert!(
            text.contains(&format!("prober: profile={profile} tried=")),
            "{profile}: it did not come to its end: {text}"
        );
        assert!(text.contains(" allowed=0\n"), "{profile}: {text}");
        assert_eq!(output.status.code(), Some(0), "{profile}: {text}");
    }
    // Neither reached nor changed.
    assert!(matches!(peer.try_wait(), Ok(None)));
    peer.kill().unwrap();
    peer.wait().unwrap();
    assert_eq!(
        std::fs::read_to_string(secret).unwrap(),
        "of another service"
    );
    assert_eq!(std::fs::read_dir(&data).unwrap().count(), 0);
}

#[test]
fn the_prober_notices_what_is_let_through() {
    let folder = tempfile::tempdir().unwrap();
    let prober = program::prober(folder.path());
    // It is told that it is the ledger, which may not fork and has no network.
    let output = jail(
        "foreign-online",
        folder.path(),
        &prober,
        &["ledger", "brief"],
    );
    let text = text(&output);
    for name in ["fork ALLOWED", "socket-tcp ALLOWED", "socket-udp6 ALLOWED"] {
        assert!(text.contains(name), "{name}: {text}");
    }
    assert!(output.status.code().is_some_and(|code| code >= 5), "{text}");
}

#[cfg(target_arch = "x86_64")]
#[test]
fn a_call_of_another_architecture_is_the_end_of_the_process() {
    let folder = tempfile::tempdir().unwrap();
    let prober = program::prober(folder.path());
    let output = jail("foreign", folder.path(), &prober, &["as-32-bit"]);
    const SIGSYS: i32 = 31;
    assert_eq!(output.status.signal(), Some(SIGSYS), "{}", text(&output));
}

#[test]
fn a_users_program_does_its_work_in_the_jail() {
    let folder = tempfile::tempdir().unwrap();
    let worker = program::compile("worker", folder.path());
    for (profile, word) in [("foreign", "offline"), ("foreign-online", "online")] {
        let data = folder.path().join(profile);
        std::fs::create_dir(&data).unwrap();
        let output = jail(profile, &data, &worker, &[word]);
        let text = text(&output);
        assert!(
            text.contains("worked") && text.contains("on purpose"),
            "{profile}: {text}"
        );
        const SIGABRT: i32 = 6;
        assert_eq!(output.status.signal(), Some(SIGABRT), "{profile}: {text}");
    }
}

#[test]
fn what_cannot_be_jailed_is_said_in_a_line() {
    let folder = tempfile::tempdir().unwrap();
    let script = folder.path().join("script");
    std::fs::write(&script, "#!/bin/sh\necho ran\n").unwrap();
    for (words, code, named) in [
        (
            &["--profile", "root", "x"][..],
            2,
            "--profile root: one of ledger",
        ),
        (&[][..], 2, "no program"),
        (
            &["/nonexistent"][..],
            126,
            "/nonexistent: read: No such file",
        ),
        (
            &["/dev/null"][..],
            126,
            "/dev/null: read: 0 bytes, a regular file",
        ),
        // A dynamic program needs its linker, and a script its interpreter: files that may not be executed.
        (&["/bin/sh"][..], 126, "/bin/sh: execute"),
        (&[script.to_str().unwrap()][..], 126, "script: execute"),
    ] {
        let mut jail = Command::new(inputs().vector_boot());
        let output = system_tests::output(jail.arg("jail").args(words));
        let text = text(&output);
        assert_eq!(output.status.code(), Some(code), "{words:?}: {text}");
        assert!(text.contains(named), "{words:?}: {text}");
        assert!(!text.contains("ran"), "{text}");
    }
}
