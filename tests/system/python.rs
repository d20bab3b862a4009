//! Python against a running process: its registers, and the loop of evolution through the ring and the role `cortex`.

use std::process::Command;

use system_tests::inputs::repository;
use system_tests::process::Process;
use system_tests::stdout_of;

use crate::c_abi::library;

/// Debian's Python over the package's sources and the library that `c_abi` built.
fn python(words: &[&str]) -> String {
    let mut python = Command::new("/usr/bin/python3");
    python
        .args(words)
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .env("PYTHONPATH", repository().join("vector_boot/python/src"))
        .env("VECTOR_BOOT_LIBRARY", library());
    stdout_of(&mut python)
}

#[test]
fn the_evolution_example_improves_the_policy_of_a_running_process() {
    let folder = tempfile::tempdir().unwrap();
    let process = Process::ready(
        &folder.path().join("state"),
        &["--param", "vb.evolution=on"],
    );
    let run = process.run().to_str().expect("a path of text");

    let live = python(&["-m", "vector_boot", "hw", run, "--json"]);
    let live: serde_json::Value = serde_json::from_str(&live).expect("JSON");
    assert!(live["beat"].as_u64().is_some_and(|beat| beat > 0), "{live}");
    assert!(
        live["registers"]["services.up"]
            .as_f64()
            .is_some_and(|up| up >= 1.0),
        "{live}"
    );

    let example = repository().join("vector_boot/python/examples/evolve.py");
    let example = example.to_str().expect("a path of text");
    // The script ends with 1 if the loss did not fall.
    let said = python(&[example, "--run", run, "--steps", "16"]);
    assert!(
        said.contains("a change of kernel.limits: tensor_protected"),
        "{said}"
    );
    let told = process.json(&["mutations"]);
    let verdicts: Vec<&str> = told["mutations"]
        .as_array()
        .expect("rows")
        .iter()
        .filter_map(|row| row["verdict"].as_str())
        .collect();
    for verdict in ["accepted", "tensor_protected"] {
        assert!(verdicts.contains(&verdict), "{verdict}: {told}");
    }
    process.ok(&["mutations", "rollback", "0"]);
    assert!(process.end().success());
}
