//! `vector_boot gguf` as a process: exit codes, one line on stderr, never a signal.
#![cfg(feature = "standalone")]

use std::fs::{self, File};
use std::path::Path;
use std::process::{Command, Output, Stdio};

const PROGRAM: &str = env!("CARGO_BIN_EXE_vector_boot");

fn gguf(words: &[&str]) -> Output {
    Command::new(PROGRAM)
        .arg("gguf")
        .args(words)
        .output()
        .unwrap()
}

#[track_caller]
fn assert_refused(output: &Output, code: i32, part: &str) {
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{stderr}");
    assert!(output.stdout.is_empty());
    assert!(stderr.contains(part), "{stderr}");
    if code == 1 {
        assert_eq!(stderr.lines().count(), 1, "{stderr}");
    }
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[test]
fn the_default_model_is_written_and_inspected() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("vectorland.gguf");
    assert!(gguf(&["default", text(&file)]).status.success());
    assert_eq!(fs::read(&file).unwrap(), neural::default_model());
    let output = gguf(&["inspect", text(&file), "--json"]);
    assert!(output.status.success() && output.stderr.is_empty());
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["metadata"]["general.architecture"], "vectorland");
    assert_eq!(report["tensors"][3]["name"], "policy.w1");
    assert_eq!(report["tensors"][3]["shape"], serde_json::json!([64, 32]));
    assert_eq!(report["tensors"][3]["bytes"], 8192);
    let listing = gguf(&["inspect", text(&file)]);
    let listing = String::from_utf8(listing.stdout).unwrap();
    assert!(
        listing.contains("policy.w1") && listing.contains("general.architecture = \"vectorland\"")
    );
}

#[test]
fn what_is_no_model_is_refused_in_one_line() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    fs::write(path("empty"), b"").unwrap();
    fs::write(path("text"), b"hello, world").unwrap();
    fs::write(path("v1"), b"GGUF\x01\0\0\0\0\0\0\0\0\0\0\0").unwrap();
    let model = neural::default_model();
    fs::write(path("cut"), &model[..model.len() / 2]).unwrap();
    fs::write(path("line\nbreak"), b"x").unwrap();
    for (name, part) in [
        ("empty", "magic"),
        ("text", "hell"),
        ("v1", "v1 is not supported"),
        ("cut", "tensor span"),
        ("absent", "No such file"),
        ("line\nbreak", "line\\nbreak"),
    ] {
        for form in [&[][..], &["--json"]] {
            let file = path(name);
            let output = gguf(&[&["inspect", text(&file)], form].concat());
            assert_refused(&output, 1, part);
        }
    }
    assert_refused(
        &gguf(&["inspect", text(folder.path())]),
        1,
        "neither a regular file",
    );
    assert_refused(
        &gguf(&["inspect", "/dev/null"]),
        1,
        "neither a regular file",
    );
    assert_refused(
        &gguf(&["default", text(&path("no/such/folder"))]),
        1,
        "no/such/folder",
    );
}

#[test]
fn wrong_words_exit_with_two() {
    for words in [
        &[][..],
        &["inspect"],
        &["inspect", "a", "--what"],
        &["sing"],
    ] {
        assert_refused(&gguf(words), 2, "usage:");
    }
    let help = gguf(&["--help"]);
    assert!(help.status.success() && help.stdout.starts_with(b"usage:"));
}

#[test]
fn every_truncation_of_the_default_models_header_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("cut");
    let model = neural::default_model();
    let header = gguf::Index::parse(&model).unwrap().data_offset() as usize;
    // A process each: every seventh byte keeps the test under a few seconds; the crate's own tests take every byte.
    for len in (0..header).step_by(7) {
        fs::write(&file, &model[..len]).unwrap();
        assert_refused(&gguf(&["inspect", text(&file)]), 1, "at byte");
    }
}

#[test]
fn a_reader_that_goes_away_is_no_failure_and_a_full_disk_is_one() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("m");
    fs::write(&file, neural::default_model()).unwrap();
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let gone = Command::new(PROGRAM)
        .args(["gguf", "inspect", text(&file)])
        .stdout(Stdio::from(writer))
        .output()
        .unwrap();
    assert!(gone.status.success() && gone.stderr.is_empty(), "{gone:?}");
    let full = Command::new(PROGRAM)
        .args(["gguf", "inspect", text(&file), "--json"])
        .stdout(File::options().write(true).open("/dev/full").unwrap())
        .output()
        .unwrap();
    assert_refused(&full, 1, "write to stdout");
}

#[test]
fn a_file_larger_than_the_address_space_is_inspected() {
    // 5 GiB, nearly all of it a hole; the tensor fills it to its end.
    const BYTES: u64 = 5 << 30;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("large");
    let mut head = b"GGUF".to_vec();
    head.extend(3u32.to_le_bytes());
    head.extend(1u64.to_le_bytes());
    head.extend(0u64.to_le_bytes());
    head.extend(1u64.to_le_bytes());
    head.push(b't');
    head.extend(1u32.to_le_bytes());
    head.extend((BYTES - 64).to_le_bytes());
    head.extend(24u32.to_le_bytes());
    head.extend(0u64.to_le_bytes());
    let inspect = |bytes: u64| {
        fs::write(&path, &head).unwrap();
        File::options()
            .write(true)
            .open(&path)
            .unwrap()
            .set_len(bytes)
            .unwrap();
        // prlimit(1) of util-linux: 2 GiB of address space.
        Command::new("prlimit")
            .args([
                "--as=2147483648",
                PROGRAM,
                "gguf",
                "inspect",
                text(&path),
                "--json",
            ])
            .output()
            .unwrap()
    };
    let whole = inspect(BYTES);
    assert!(whole.status.success(), "{whole:?}");
    let report: serde_json::Value = serde_json::from_slice(&whole.stdout).unwrap();
    assert_eq!(report["tensors"][0]["bytes"], BYTES - 64);
    assert_refused(&inspect(BYTES - 1), 1, "tensor span of t");
}
