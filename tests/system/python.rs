//! Python against a running process: its registers, and the loop of evolution through the ring and the role `cortex`.

use std::process::Command;

use system_tests::inputs::repository;
use system_tests::process::{Process, until};
use system_tests::stdout_of;

use crate::c_abi::library;

/// Debian's Python over the package's sources and the library that `c_abi` built.
pub fn python(words: &[&str]) -> String {
    let mut python = Command::new("/usr/bin/python3");
    python
        .args(words)
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .env("PYTHONPATH", repository().join("vector_boot/python/src"))
        .env("VECTOR_BOOT_LIBRARY", library());
    stdout_of(&mut python)
}

/// A trace that the console wrote has beats, and each has all inputs.
const WATCHED: &str = "
import sys
from vector_boot import evolution
trace = evolution.trace(sys.argv[1])
print(len(trace) > 1 and all(len(moment.inputs) == 64 for moment in trace))
";

/// 200 mutations with up to 64 under way, one of them wrong; then back, and what the machine says of all of it.
const MANY: &str = "
import struct, sys
import vector_boot
from vector_boot import evolution
with evolution.connect(sys.argv[1]) as ring:
    first = ring.generation()
    bias = ring.policy().parts['policy.b1'].tobytes()
    before, changes = bias[:4], []
    for number in range(200):
        after = struct.pack('<f', number / 1024)
        changes.append(evolution.Change('policy.b1', 0, after, before, 0.9))
        before = after
    verdicts = ring.propose_many(changes)
    assert all(v.accepted for v in verdicts), verdicts
    assert [v.generation for v in verdicts] == list(range(first + 1, first + 201)), verdicts
    wrong = [changes[0]._replace(old=before, confidence=0.1), changes[0]._replace(old=before)]
    # Whether the second was under way when the first was refused is chance.
    low, next = ring.propose_many(wrong)
    assert low.name == 'confidence_too_low' and next.name in ('accepted', 'generation_stale'), next
    assert next.accepted or ring.propose_many(wrong[1:])[0].accepted
    assert ring.rollback(first) == first + 202 == ring.generation()
    assert ring.policy().parts['policy.b1'].tobytes() == bias
    try:
        ring.rollback(10**6)
    except KeyError as error:
        assert 'generation 1000000' in str(error), error
    rows = ring.journal()
    assert len(rows) == 200 and rows[-1]['verdict'] == 'rolled_back' and rows[-1]['restored'] == first, rows[-1]
    assert rows[-2]['tensor'] == 'policy.b1' and 'confidence_too_low' in {row['verdict'] for row in rows}
    # Rows over PID 1's rate are only counted: that the newest generation has one is not sure.
    journal = vector_boot.journal(sys.argv[1])
    assert 'in_force' in {row['kind'] for row in journal}, journal
    last = journal[-1]['seq']
    assert all(row['seq'] > last for row in vector_boot.journal(sys.argv[1], after=last))
    whole = vector_boot.journal(sys.argv[1], after=1, cortex=True)
    assert len(whole) > 16 and [row['seq'] for row in whole] == list(range(2, 2 + len(whole))), whole
    newest = vector_boot.journal(sys.argv[1], cortex=True)
    kinds = {row['kind'] for row in whole + newest}
    assert {'accepted', 'published', 'rolled_back'} <= kinds, kinds
print('held')
";

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
    // The script ends with 1 if the loss on what it recorded did not fall.
    let trace = folder.path().join("trace.jsonl");
    let trace = trace.to_str().expect("a path of text");
    let words = ["--run", run, "--record", trace, "--beats", "20"];
    let said = python(&[&[example][..], &words, &["--steps", "16"]].concat());
    assert!(
        said.contains("20 beats recorded")
            && said.contains("a change of kernel.limits: tensor_protected"),
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
    // The console writes the same form.
    // How many beats come in a time is the host's affair.
    let watched = until("two beats in one recording", || {
        let watched = process.ok(&["hw", "--watch", "--for", "1", "--json"]);
        (watched.lines().count() > 1).then_some(watched)
    });
    std::fs::write(trace, watched).expect("a trace");
    assert_eq!(python(&["-c", WATCHED, trace]), "True\n");
    assert_eq!(python(&["-c", MANY, run]), "held\n");
    process.ok(&["mutations", "rollback", "0"]);
    assert!(process.end().success());
}
