//! Packages and models on the host: made the same each time, and refused in one line when anything is wrong.

use std::path::Path;
use std::process::{Command, Output};

use system_tests::inputs::inputs;
use system_tests::package;

/// The seed's header: magic, version, and four fields of 8 bytes.
const HEADER_BYTES: usize = 40;

fn verify(path: &Path) -> Output {
    system_tests::output(
        Command::new(inputs().vector_boot())
            .args(["rts", "verify"])
            .arg(path),
    )
}

/// Refused with one line on stderr.
fn refused(path: &Path, what: &str) -> String {
    let result = verify(path);
    let line = String::from_utf8_lossy(&result.stderr).trim().to_owned();
    assert_eq!(result.status.code(), Some(1), "{what}: {line}");
    assert_eq!(line.lines().count(), 1, "{what}: {line}");
    line
}

#[test]
fn packing_twice_gives_the_same_bytes() {
    let folder = tempfile::tempdir().unwrap();
    let one = package::pack_default(folder.path(), "one.rts", &[]);
    let two = package::pack_default(folder.path(), "two.rts", &[]);
    assert!(std::fs::read(one).unwrap() == std::fs::read(two).unwrap());
}

#[test]
fn every_bit_of_the_header_counts() {
    let folder = tempfile::tempdir().unwrap();
    let good = package::pack_default(folder.path(), "good.rts", &[]);
    assert!(verify(&good).status.success());
    let bytes = std::fs::read(&good).unwrap();
    let broken = folder.path().join("broken.rts");
    for bit in 0..HEADER_BYTES * 8 {
        let mut copy = bytes.clone();
        copy[bit / 8] ^= 1 << (bit % 8);
        std::fs::write(&broken, copy).unwrap();
        refused(&broken, &format!("bit {bit}"));
    }
}

#[test]
fn cut_packages_are_refused_with_their_size() {
    let folder = tempfile::tempdir().unwrap();
    let good = package::pack_default(folder.path(), "good.rts", &[]);
    let bytes = std::fs::read(&good).unwrap();
    let cut = folder.path().join("cut.rts");
    let steps = [
        0,
        1,
        4,
        HEADER_BYTES - 1,
        HEADER_BYTES,
        511,
        512,
        4096,
        bytes.len() / 2,
        bytes.len() - 1,
    ];
    for length in steps {
        std::fs::write(&cut, &bytes[..length]).unwrap();
        refused(&cut, &format!("cut at {length}"));
    }
}

#[test]
fn the_real_model_is_indexed_whole() {
    let mut inspect = Command::new(inputs().vector_boot());
    let text = system_tests::stdout_of(
        inspect
            .args(["gguf", "inspect", "--json"])
            .arg(&inputs().model),
    );
    let model: serde_json::Value = serde_json::from_str(&text).unwrap();
    let tensors = model["tensors"].as_array().expect("tensors");
    assert_eq!(tensors.len(), 272);
    assert!(
        tensors
            .iter()
            .any(|tensor| tensor["name"] == "token_embd.weight")
    );
}
