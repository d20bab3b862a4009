//! Mutations of a running machine: judged by `cortex`, in force in PID 1, undone, and there again after a kill.

use std::time::{Duration, Instant};

use crate::crashes::crash;
use serde_json::Value;
use system_tests::evolution::{Draft, Proposer, bytes, place_of};
use system_tests::evolution_kills::{End, Trial};
use system_tests::process::Process;
use wire::evolution::Verdict;

const ON: [&str; 2] = ["--param", "vb.evolution=on"];
/// Mutations of each round that ends with a kill.
const ROUND: u64 = 120;

/// A change of one bias that is right in every field.
fn good<'a>(old: &'a [u8], new: &'a [u8], generation: u64) -> Draft<'a> {
    Draft {
        tensor: "policy.b1",
        offset: 0,
        old,
        new,
        generation,
        confidence: 0.9,
    }
}

/// Waits until PID 1 runs by this generation.
fn until_in_force(process: &Process, generation: u64) -> Value {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let told = process.json(&["mutations"]);
        if told["in_force"] == generation {
            return told;
        }
        assert!(Instant::now() < deadline, "not in force: {told}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Waits for an event of this type; its payload.
fn until_event(process: &Process, kind: &str) -> String {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let told = process.json(&["ledger", "query", "--type", kind, "-n", "1"]);
        if let Some(event) = told["events"].as_array().and_then(|events| events.first()) {
            return event["payload"].to_string();
        }
        assert!(Instant::now() < deadline, "no {kind} in the ledger");
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// Waits until the ledger's sums have so many of these verdicts, and each mutation a row with its tensor and id.
fn until_told(process: &Process, wanted: &[(&str, u64)]) {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        // Five seconds may end anywhere between two mutations.
        let told = process.json(&["ledger", "query", "--type", "mutations_judged"]);
        let events = told["events"].as_array().expect("events").iter();
        let payloads: Vec<&Value> = events.map(|event| &event["payload"]).collect();
        let sum = |word: &str| -> u64 {
            let of = payloads.iter().map(|p| &p["verdicts"][word]);
            of.filter_map(Value::as_u64).sum()
        };
        if wanted.iter().all(|(word, count)| sum(word) == *count) {
            let rows = payloads.iter().filter_map(|p| p["mutations"].as_array());
            let rows: Vec<&Value> = rows.flatten().collect();
            let protected = |row: &&&Value| row["verdict"] == "tensor_protected";
            let row = rows.iter().find(protected).expect("a row of a refusal");
            assert_eq!(
                (&row["tensor"], &row["first_id"], &row["count"]),
                (&"kernel.limits".into(), &2.into(), &1.into())
            );
            return;
        }
        assert!(Instant::now() < deadline, "not {wanted:?}: {told}");
        std::thread::sleep(Duration::from_millis(100));
    }
}

#[test]
fn mutations_are_judged_shown_undone_and_there_again_after_a_kill() {
    let folder = tempfile::tempdir().unwrap();
    let state = folder.path().join("state");
    let process = Process::ready(&state, &ON);
    let mut proposer = Proposer::connect(process.run());
    let base = proposer.current();
    let first = place_of("policy.b1");
    let old = bytes(&base.policy[first..first + 4]);
    let (one, two) = (bytes(&[0.125; 4]), bytes(&[0.25; 4]));

    let answer = proposer.propose(&good(&old, &one, 0));
    assert_eq!((answer.verdict, answer.generation), (Verdict::Accepted, 1));
    let after_one = proposer.current();
    assert_eq!(after_one.policy[first..first + 4], [0.125; 4]);
    let answer = proposer.propose(&good(&one, &two, 1));
    assert_eq!((answer.verdict, answer.generation), (Verdict::Accepted, 2));

    let limits = Draft {
        tensor: "kernel.limits",
        ..good(&two, &one, 2)
    };
    let unsure = Draft {
        confidence: 0.8,
        ..good(&two, &one, 2)
    };
    for (draft, verdict) in [
        (limits, Verdict::TensorProtected),
        (unsure, Verdict::ConfidenceTooLow),
        (good(&one, &one, 2), Verdict::OldHashDiffers),
        (good(&two, &one, 1), Verdict::GenerationStale),
        (good(&two, &bytes(&[f32::NAN]), 2), Verdict::OldHashDiffers),
        (good(&two[..4], &bytes(&[f32::NAN]), 2), Verdict::NotFinite),
    ] {
        assert_eq!(proposer.propose(&draft).verdict, verdict);
    }
    let told = until_in_force(&process, 2);
    assert_eq!(
        (&told["accepted"], &told["refused"]),
        (&2.into(), &6.into()),
        "{told}"
    );
    let words: Vec<&str> = told["mutations"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(|row| row["verdict"].as_str())
        .collect();
    for word in [
        "tensor_protected",
        "confidence_too_low",
        "old_hash_differs",
        "accepted",
    ] {
        assert!(words.contains(&word), "{word}: {told}");
    }

    process.ok(&["mutations", "rollback", "1"]);
    let back = proposer.current();
    assert_eq!((back.number, back.content), (3, after_one.content));
    until_in_force(&process, 3);
    let event = until_event(&process, "generation_rolled_back");
    assert!(
        event.contains("\"from\":2") && event.contains("\"to\":1"),
        "{event}"
    );
    until_told(
        &process,
        &[("accepted", 2), ("old_hash_differs", 2), ("not_finite", 1)],
    );
    let refused = process.ctl(&["mutations", "rollback", "99"]);
    assert_eq!(refused.status.code(), Some(1));

    // Who asks without a pause is refused, and its ring goes on.
    assert_eq!(proposer.refusal_of(2000).as_deref(), Some("QUOTA"));
    let stale = proposer.propose(&good(&one, &two, 1)).verdict;
    assert_eq!(stale, Verdict::GenerationStale);

    process.ok(&["signal", "cortex", "KILL"]);
    let again = Proposer::connect(process.run()).current();
    assert_eq!((again.number, again.content), (3, after_one.content));
    assert!(process.end().success());
    let process = Process::ready(&state, &ON);
    let again = Proposer::connect(process.run()).current();
    assert_eq!((again.number, again.content), (3, after_one.content));
    until_in_force(&process, 3);

    let cortex = process.service("cortex")["pid"].clone();
    crash(process.pid(), "SEGV");
    until_event(&process, "init_resumed");
    until_in_force(&process, 3);
    assert_eq!(process.service("cortex")["pid"], cortex, "it lives on");
    assert!(process.end().success());
    let journal = state.join("data/service.cortex/cortex.journal");
    let rows = std::fs::metadata(&journal).expect("the journal").len();
    // A replay at each of three starts, what was judged, published and undone: whole rows of 192 bytes.
    assert!(rows.is_multiple_of(192) && rows / 192 >= 10, "{rows} bytes");
}

#[test]
fn whatever_moment_cortex_or_pid_1_is_killed_at_the_next_has_exactly_a_journalled_generation() {
    let folder = tempfile::tempdir().unwrap();
    let trial = Trial::begin(folder.path().join("state"));
    let ends = [End::Cortex, End::InitCrash, End::Init, End::Cortex];
    let trial = trial.rounds(&ends, ROUND);
    assert!(trial.again().end().success());
}

#[test]
fn a_machine_that_does_not_evolve_has_no_cortex() {
    let folder = tempfile::tempdir().unwrap();
    let process = Process::ready(&folder.path().join("state"), &[]);
    assert!(!process.run().join("evolution.sock").exists());
    let told = process.ctl(&["mutations"]);
    assert_eq!(told.status.code(), Some(1));
    assert!(process.end().success());
}
