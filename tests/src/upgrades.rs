//! Upgrades of PID 1 and its services in a virtual machine, under a client that never stops calling.
//!
//! Start with [`there_and_back`].

use std::path::Path;

use crate::crashes::{Client, check_ids, count, own_bytes};
use crate::inputs::inputs;
use crate::machine::{Machine, Options};
use crate::package;

/// By so much PID 1's own memory may differ between two quiet moments: queues that were long once.
const SPARE_BYTES: u64 = 128 << 10;

/// So many upgrades and rollbacks in turn, to a package with other executables and back: no call fails, no event is
/// lost or doubled, and PID 1's memory does not grow.
///
/// `window` is a word for the command line; without one each service is watched for as long as by default.
pub fn there_and_back(folder: &Path, rounds: u64, window: &str) {
    let share = folder.join("share");
    std::fs::create_dir(&share).expect("a folder to share");
    let init = package::another(&inputs().vector_boot(), folder, "another-init");
    let services = package::another(&inputs().services(), folder, "other-services");
    package::pack_binaries([&init, &services], &share, "other.rts", &[]);
    let mut machine = Machine::ready(&Options {
        package: Some(package::pack_default(folder, "app.rts", &[])),
        share: Some(share),
        data: folder.join("data.img"),
        append: window.to_owned(),
        ..Options::default()
    });
    let client = Client::of(&machine);
    let (mut own, mut most) = (u64::MAX, 0);
    for round in 1..=rounds {
        let there = round % 2 == 1;
        let command = if there {
            "upgrade share/other.rts"
        } else {
            "rollback"
        };
        machine.run_and_be_upgraded(command, round);
        let now = own_bytes(&mut machine);
        println!("round {round}: {command}: {now} bytes");
        // The first ones make what is kept from then on.
        if round > 2 {
            assert!(
                now <= own.saturating_add(SPARE_BYTES),
                "{now} bytes, {own} before"
            );
            (own, most) = (own.min(now), most.max(now));
        }
    }
    let calls = client.end();
    assert!(calls > 0);
    assert_eq!(machine.run("ready 60").code, 0);
    let events = machine.events();
    println!("{rounds} rounds, {calls} calls, {} events", events.len());
    if own <= most {
        println!("{own} to {most} bytes from the third round on");
    }
    let rounds = usize::try_from(rounds).expect("a small number");
    for (kind, wanted) in [
        ("init_upgraded", rounds),
        ("upgrade_done", rounds),
        ("rolled_back", 0),
        ("machine_degraded", 0),
        ("init_resumed", 0),
    ] {
        assert_eq!(count(&events, kind), wanted, "{kind}");
    }
    check_ids(&events);
    assert_eq!(machine.json("ledger verify")["holds"], true);
    machine.assert_no_call_was_refused();
    machine.power_off();
}
