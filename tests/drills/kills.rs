//! SIGKILL to every service, again and again: the machine keeps its services, its beat and its ledger.

use std::collections::BTreeMap;

use serde_json::Value;
use system_tests::crashes::check_ids;
use system_tests::machine::{Machine, Options};
use system_tests::package;

const ROUNDS: u64 = 20;
/// Of the order in which services die.
const SEED: u64 = 0x5eed_1e55;
/// Come back at once and for ever: the drill is about what survives, not about patience.
pub(crate) const NO_BACKOFF: &str = "backoff_ms_first = 0\nbackoff_ms_max = 0\nintensity_max = 0";

/// What is watched of one service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) state: String,
    pub(crate) pid: u64,
    pub(crate) restarts: u64,
}

pub(crate) fn services(text: &str) -> Option<BTreeMap<String, Seen>> {
    let value: Value = serde_json::from_str(text).ok()?;
    let row = |row: &Value| {
        let seen = Seen {
            state: row["state"].as_str()?.to_owned(),
            pid: row["pid"].as_u64()?,
            restarts: row["restarts"].as_u64()?,
        };
        Some((row["name"].as_str()?.to_owned(), seen))
    };
    value["services"].as_array()?.iter().map(row).collect()
}

/// Runs the drill.
pub fn drill() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let manifest = folder.path().join("drill.toml");
    std::fs::write(&manifest, package::manifest_with(NO_BACKOFF)).expect("the drill's manifest");
    let words = ["--manifest", manifest.to_str().expect("a path of ours")];
    let package = package::pack_default(folder.path(), "drill.rts", &words);
    let data = folder.path().join("data.img");
    let mut machine = Machine::ready(&Options {
        package: Some(package),
        data,
        ..Options::default()
    });

    let mut random = SEED;
    let mut kills = 0;
    for round in 1..=ROUNDS {
        let mut order: Vec<String> = machine
            .until("services --json", services)
            .into_keys()
            .collect();
        shuffle(&mut order, &mut random);
        for name in &order {
            kill(&mut machine, name);
            kills += 1;
        }
        println!("round {round}: {}", order.join(" "));
    }

    let beat = machine.json("beat");
    assert_eq!(beat["missed"], 0, "beats were missed: {beat}");
    assert_eq!(machine.json("ledger verify")["holds"], true);
    let events = machine.events();
    check_ids(&events);
    check_reasons(&events, &machine.until("services --json", services));
    println!(
        "{kills} kills, {} beats, {} events",
        beat["count"],
        events.len()
    );
    machine.power_off();
}

/// Kills one service and waits until it is up again, as the only one that changed.
fn kill(machine: &mut Machine, name: &str) {
    let before = machine.until("services --json", |text| {
        services(text).filter(|seen| seen.values().all(|service| service.state == "up"))
    });
    if name == "console" {
        // It dies before it can answer.
        machine.run_and_lose_the_console(&format!("signal {name} KILL"));
    } else {
        machine.ok(&format!("signal {name} KILL"));
    }
    let after = machine.until("services --json", |text| {
        services(text).filter(|seen| seen[name].state == "up" && seen[name].pid != before[name].pid)
    });
    assert_eq!(after[name].restarts, before[name].restarts + 1, "{name}");
    for (other, seen) in before.iter().filter(|(other, _)| *other != name) {
        assert_eq!(
            after[other].pid, seen.pid,
            "{other} was touched when {name} died"
        );
    }
}

/// Each death of each service is in the ledger, once and with its reason.
fn check_reasons(events: &[Value], services: &BTreeMap<String, Seen>) {
    for (name, seen) in services {
        let died =
            |event: &&Value| event["event_type"] == "service_exited" && event["subject"] == **name;
        let deaths: Vec<&Value> = events.iter().filter(died).collect();
        assert_eq!(
            deaths.len() as u64,
            seen.restarts,
            "recorded deaths of {name}: {deaths:?}"
        );
        for death in deaths {
            assert!(
                death["payload"]["cause"]
                    .as_str()
                    .is_some_and(|cause| cause.contains("KILL")),
                "{death}"
            );
        }
    }
}

/// Fisher and Yates, over xorshift64.
fn shuffle(names: &mut [String], random: &mut u64) {
    for last in (1..names.len()).rev() {
        *random ^= *random << 13;
        *random ^= *random >> 7;
        *random ^= *random << 17;
        let other = usize::try_from(*random % (last as u64 + 1)).expect("below the length");
        names.swap(last, other);
    }
}
