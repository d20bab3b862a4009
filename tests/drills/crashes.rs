//! PID 1 and its services die at random, under a client: nothing is lost or doubled, and everybody is reaped.

use std::collections::BTreeMap;

use system_tests::crashes::{check_ids, count, crash, own_bytes, pids, stay_apart};
use system_tests::machine::{Machine, Options};
use system_tests::package;

use crate::kills::{NO_BACKOFF, Seen, services};

const ROUNDS: u64 = 60;
/// Signals to services, over all rounds, unless the command line says another number.
const SIGNALS: u64 = 500;
/// Of who is sent what.
const SEED: u64 = 0xdead_1e55;
/// Each is the end of PID 1's program, and none of PID 1.
const FATAL: [&str; 4] = ["SEGV", "BUS", "ILL", "ABRT"];
/// The console answers the drill itself; `kills` has its turn with it.
const VICTIMS: [&str; 4] = ["ledger", "capacity", "gateway", "net"];
/// By so much PID 1's own memory may be more at the end than after the first rounds.
const SPARE_BYTES: u64 = 64 << 10;
/// So often it is looked at until it is that little.
const LOOKS: u32 = 20;
const BETWEEN_LOOKS: std::time::Duration = std::time::Duration::from_millis(500);
/// Rounds until PID 1 has seen everything once.
const WARM: u64 = 5;

/// Runs the drill.
pub fn drill() {
    let wanted = std::env::args().nth(2);
    let signals = wanted.map_or(SIGNALS, |n| n.parse().expect("a number of signals"));
    let folder = tempfile::tempdir().expect("a temporary folder");
    let manifest = folder.path().join("drill.toml");
    std::fs::write(&manifest, package::manifest_with(NO_BACKOFF)).expect("the drill's manifest");
    let words = ["--manifest", manifest.to_str().expect("a path of ours")];
    let mut machine = Machine::ready(&Options {
        package: Some(package::pack_default(folder.path(), "drill.rts", &words)),
        data: folder.path().join("data.img"),
        ..Options::default()
    });

    let mut random = SEED;
    let mut deaths: BTreeMap<&str, u64> = BTreeMap::new();
    let (mut sent, mut warm) = (0, u64::MAX);
    for round in 1..=ROUNDS {
        while sent < signals * round / ROUNDS {
            let victim = VICTIMS[below(&mut random, VICTIMS.len())];
            if below(&mut random, 4) == 0 {
                stop_for_a_while(&mut machine, victim);
            } else {
                kill(&mut machine, victim);
                *deaths.entry(victim).or_default() += 1;
            }
            sent += 1;
        }
        let before = pids(&mut machine);
        crash(&mut machine, FATAL[below(&mut random, FATAL.len())], round);
        stay_apart(&mut machine);
        assert_eq!(pids(&mut machine), before, "round {round}");
        let mut own = own_bytes(&mut machine);
        // A PID 1 that began anew takes up the model 30 beats later, and gives back what that took when it is quiet.
        for _ in 0..LOOKS {
            if own <= warm.saturating_add(SPARE_BYTES) {
                break;
            }
            std::thread::sleep(BETWEEN_LOOKS);
            own = own_bytes(&mut machine);
        }
        if round <= WARM {
            warm = warm.min(own);
        }
        assert!(
            own <= warm + SPARE_BYTES,
            "round {round}: {own} bytes, {warm} at first"
        );
        println!(
            "round {round}: {sent} signals, {} KiB of its own",
            own >> 10
        );
    }

    let events = machine.events();
    check_ids(&events);
    assert_eq!(count(&events, "init_resumed") as u64, ROUNDS);
    let degraded: Vec<_> = events
        .iter()
        .filter(|e| e["event_type"] == "machine_degraded")
        .collect();
    assert!(degraded.is_empty(), "{degraded:?}");
    let of = |name: &str| {
        events
            .iter()
            .filter(|e| e["event_type"] == "service_exited" && e["subject"] == *name)
            .count()
    };
    for name in VICTIMS {
        let died = deaths.get(name).copied().unwrap_or(0);
        assert_eq!(of(name) as u64, died, "recorded deaths of {name}");
    }
    let ps = machine.json("ps");
    let zombies = ps["processes"]
        .as_array()
        .expect("processes")
        .iter()
        .filter(|p| p["state"] == "Z")
        .count();
    assert_eq!(zombies, 0, "{ps}");
    assert_eq!(machine.json("ledger verify")["holds"], true);
    let beat = machine.json("beat");
    println!(
        "{ROUNDS} crashes, {sent} signals to services, {} beats of which {} missed, {} events",
        beat["count"],
        beat["missed"],
        events.len()
    );
    machine.power_off();
}

fn all_up(machine: &mut Machine) -> BTreeMap<String, Seen> {
    machine.until("services --json", |text| {
        services(text).filter(|seen| seen.values().all(|service| service.state == "up"))
    })
}

/// Kills a service and waits until another process is up in its place.
fn kill(machine: &mut Machine, name: &str) {
    let before = all_up(machine);
    machine.ok(&format!("signal {name} KILL"));
    machine.until("services --json", |text| {
        services(text).filter(|seen| seen[name].state == "up" && seen[name].pid != before[name].pid)
    });
}

/// Stops a service, and lets it go on: PID 1 is not disturbed by a child that stops.
fn stop_for_a_while(machine: &mut Machine, name: &str) {
    let before = all_up(machine);
    machine.ok(&format!("signal {name} STOP"));
    machine.ok(&format!("signal {name} CONT"));
    assert_eq!(
        all_up(machine)[name].pid,
        before[name].pid,
        "{name} was only stopped"
    );
}

/// xorshift64.
fn below(random: &mut u64, limit: usize) -> usize {
    *random ^= *random << 13;
    *random ^= *random >> 7;
    *random ^= *random << 17;
    usize::try_from(*random % limit as u64).expect("below the limit")
}
