//! Packages and models on the host: made the same each time, and refused in one line when anything is wrong.

use std::path::Path;
use std::process::{Command, Output};

use system_tests::inputs::inputs;
use system_tests::package;
use system_tests::process::Process;

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

/// Compiles a manifest and puts other bytes in the place of those that stand in it once.
fn patched(folder: &Path, source: &str, from: &[u8], to: &[u8]) -> Vec<u8> {
    let (toml, out) = (folder.join("source.toml"), folder.join("compiled"));
    std::fs::write(&toml, source).unwrap();
    let mut compile = Command::new(inputs().vector_boot());
    compile.args(["rts", "manifest"]).arg(&toml);
    system_tests::stdout_of(compile.arg("--out").arg(&out));
    let mut bytes = std::fs::read(&out).unwrap();
    let found = |at: &usize| bytes[*at..].starts_with(from);
    let places: Vec<usize> = (0..bytes.len()).filter(found).collect();
    assert_eq!(places.len(), 1, "{from:?} in {source}");
    bytes.splice(places[0]..places[0] + from.len(), to.iter().copied());
    bytes
}

#[test]
fn a_compiled_manifest_that_no_compiler_made_is_refused_at_boot_with_the_field_named() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let row = |name: &str, lines: &str| {
        format!("[[service]]\nname = \"{name}\"\nimage = \"app\"\n{lines}\n")
    };
    let two = row("one", "") + &row("other", "");
    let circle =
        row("one", "") + &row("other", "needs = [\"one\"]") + &row("third", "needs = [\"other\"]");
    let heavy = row("one", "cpu_weight = 9_999");
    for (source, from, to, says) in [
        // The need of `other`, by its length and name, becomes one of `third`.
        (
            &circle,
            &b"\x01\x03one"[..],
            &b"\x01\x05third"[..],
            "a cycle other -> third -> other, expected none",
        ),
        (&two, b"\x05other", b"\x03one", "services: one stands twice"),
        // 9,999 and 10,001 as variable-length integers.
        (
            &heavy,
            b"\x8f\x4e",
            b"\x91\x4e",
            "service one: cpu_weight: 10001, allowed 1 to 10000",
        ),
        (&two, b"VBM\x03", b"VBM\x04", "manifest"),
    ] {
        let file = folder.join("bad.manifest");
        std::fs::write(&file, patched(folder, source, from, to)).unwrap();
        let parameter = format!("vb.manifest={}", file.display());
        let words = ["--param", &parameter];
        // Each in a folder of its own: in one that was used an old socket stands for a moment.
        let state = tempfile::tempdir_in(folder).unwrap();
        let process = Process::start(&inputs().vector_boot(), state.path(), &words);
        let status = process.json(&["status"]);
        let reason = status["reason"].as_str().expect("a reason");
        assert!(reason.contains("vb.manifest: "), "{reason}");
        assert!(reason.contains(says), "{reason}, not: {says}");
        // It goes on by the table that it would have had without.
        assert_eq!(process.service("ledger")["name"], "ledger");
        assert!(process.end().success());
    }
}
