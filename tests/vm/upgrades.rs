//! Another package with another `vector_boot` in the place of the running one, under a client of the host.

use system_tests::crashes::{Client, check_ids, count};
use system_tests::inputs::inputs;
use system_tests::machine::{Machine, Options};
use system_tests::package;

use crate::options;

#[test]
fn pid_1_and_services_are_replaced_three_times_and_no_call_fails() {
    let folder = tempfile::tempdir().unwrap();
    let share = folder.path().join("share");
    std::fs::create_dir(&share).unwrap();
    // The same with a few bytes behind its end, which nobody reads.
    let mut other = std::fs::read(inputs().vector_boot()).unwrap();
    other.extend_from_slice(b"another");
    let init = folder.path().join("other");
    std::fs::write(&init, other).unwrap();
    package::pack_binary(&init, &share, "other.rts", &[]);
    let mut machine = Machine::ready(&Options {
        package: Some(package::pack_default(folder.path(), "app.rts", &[])),
        share: Some(share),
        append: "vb.upgrade_watch_s=0".to_owned(),
        ..options(folder.path())
    });
    let client = Client::of(&machine);
    let commands = [
        "upgrade share/other.rts",
        "rollback",
        "upgrade share/other.rts",
    ];
    for (count, command) in (1..).zip(commands) {
        machine.run_and_be_upgraded(command, count);
    }
    assert!(client.end() > 0);
    assert_eq!(machine.run("ready 60").code, 0);
    let said = machine.json("upgrade");
    assert_eq!(
        (&said["count"], &said["end"]),
        (&3.into(), &"until reboot".into()),
        "{said}"
    );
    let events = machine.events();
    for kind in ["init_upgraded", "upgrade_done"] {
        assert_eq!(count(&events, kind), 3, "{kind}");
    }
    for kind in ["rolled_back", "machine_degraded", "init_resumed"] {
        assert_eq!(count(&events, kind), 0, "{kind}");
    }
    check_ids(&events);
    assert_eq!(machine.json("ledger verify")["holds"], true);
    machine.assert_no_call_was_refused();
    machine.power_off();
}
