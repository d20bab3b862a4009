//! What services see of the machine, said by the kernel, by themselves, and by one who tries everything.

use serde_json::Value;
use std::collections::BTreeSet;
use system_tests::machine::{Machine, Options};
use system_tests::package;
use system_tests::program::{self, PROFILES};

use crate::{call, options};

/// What each of the two inmates found, by its log.
fn findings(machine: &mut Machine, service: &str) -> Vec<(String, String)> {
    machine.until(&format!("log {service} -n 200 --json"), |text| {
        let value: Value = serde_json::from_str(text).ok()?;
        let lines: Vec<(String, String)> = value["lines"]
            .as_array()?
            .iter()
            .filter_map(|line| {
                let (what, found) = line["text"].as_str()?.split_once(": ")?;
                Some((what.to_owned(), found.to_owned()))
            })
            .collect();
        lines
            .iter()
            .any(|(what, _)| what == "route")
            .then_some(lines)
    })
}

fn found<'f>(findings: &'f [(String, String)], what: &str) -> &'f str {
    let line = findings.iter().find(|(name, _)| name == what);
    line.map_or_else(
        || panic!("nothing of {what} in {findings:?}"),
        |(_, found)| found.as_str(),
    )
}

const INMATES: &str = r#"
[[service]]
name = "door"
image = "inmate"
notify = true
tmp_bytes = 65_536
listen = [{ name = "door.sock", kind = "unix_stream", mode = 0o666 }]

[[service]]
name = "online"
image = "inmate"
args = ["online"]
needs = ["door"]
notify = true
start_timeout_ms = 90_000
data = true
network = true
tmp_bytes = 0
"#;

/// The program that tries what no service may do, under this profile.
fn prober_under(profile: &str) -> String {
    let (list, network) = match profile {
        "foreign-online" => ("foreign", true),
        other => (other, false),
    };
    format!(
        r#"
[[service]]
name = "prober-{profile}"
image = "prober"
args = ["{profile}", "brief", "stay"]
profile = "{list}"
network = {network}
data = true
log_rate = 0
"#
    )
}

#[test]
fn every_service_is_in_a_cell_that_holds_what_it_needs_and_no_more() {
    let folder = tempfile::tempdir().unwrap();
    let inmate = program::compile("inmate", folder.path());
    let prober = program::prober(folder.path());
    let manifest = folder.path().join("app.toml");
    let probers: String = PROFILES
        .iter()
        .map(|profile| prober_under(profile))
        .collect();
    std::fs::write(&manifest, package::default_manifest() + INMATES + &probers).unwrap();
    let add = [
        format!("inmate={}", inmate.display()),
        format!("prober={}", prober.display()),
    ];
    let words = [
        "--manifest",
        manifest.to_str().unwrap(),
        "--add",
        &add[0],
        "--add",
        &add[1],
    ];
    let package = package::pack_default(folder.path(), "app.rts", &words);
    let mut machine = Machine::ready(&Options {
        package: Some(package),
        ..options(folder.path())
    });

    // Nothing was left out, and the kernel says so of every process.
    let status = machine.json("status");
    assert_eq!(status["unconfined"], "", "{status}");
    let processes = machine.json("ps");
    let mut seen = BTreeSet::new();
    for process in processes["processes"].as_array().expect("processes") {
        let service = process["service"].as_str().unwrap_or_default();
        if service == "init" {
            continue;
        }
        seen.insert(service.to_owned());
        // CAP_NET_ADMIN and CAP_NET_RAW.
        let capabilities = if service == "net" { "3000" } else { "0" };
        assert_eq!(process["capabilities"], capabilities, "{process}");
        for held in ["cell", "no_new_privs", "seccomp"] {
            assert_eq!(process[held], true, "{held}: {process}");
        }
    }
    for service in [
        "ledger", "capacity", "gateway", "net", "console", "door", "online",
    ] {
        assert!(seen.contains(service), "no {service}: {processes}");
    }

    let door = findings(&mut machine, "door");
    let online = findings(&mut machine, "online");
    for kind in ["ns-mnt", "ns-ipc", "ns-uts", "ns-net"] {
        assert_ne!(found(&door, kind), found(&online, kind), "{kind}");
    }
    let mounts = |findings: &[(String, String)]| -> Vec<String> {
        let all = findings.iter().filter(|(what, _)| what == "mount");
        all.map(|(_, found)| found.clone()).collect()
    };
    let common = [
        "/ write=false closed=true",
        "/run/vb/init.sock write=false closed=true",
        "/run/vb/ledger.sock write=false closed=true",
        "/run/vb/ledger.wire write=false closed=true",
        "/run/vb/capacity.sock write=false closed=true",
    ];
    let last = [
        "/dev/null write=false closed=true",
        "/dev/zero write=false closed=true",
        "/dev/full write=false closed=true",
        "/dev/random write=false closed=true",
        "/dev/urandom write=false closed=true",
        "/proc write=false closed=true",
        "/run/vb/net write=false closed=true",
    ];
    let expected = |own: &[&'static str]| [&common[..], own, &last[..]].concat();
    assert_eq!(
        mounts(&door),
        expected(&[
            "/run/vb/notify write=false closed=true",
            "/tmp write=true closed=true",
        ])
    );
    assert_eq!(
        mounts(&online),
        expected(&[
            "/run/vb/door.sock write=false closed=true",
            "/run/vb/notify write=false closed=true",
            "/data/service.online write=true closed=true",
        ])
    );
    for inmate in [&door, &online] {
        assert_eq!(found(inmate, "proc-1"), "NotFound");
        assert_eq!(found(inmate, "proc-2"), "NotFound");
        assert_ne!(found(inmate, "root"), "there");
        assert_eq!(found(inmate, "gateway.sock"), "NotFound");
        assert_eq!(found(inmate, "notify"), "there");
        assert_eq!(found(inmate, "abstract"), "\"bound\"");
    }
    assert_eq!(found(&door, "tmp"), "65536");
    assert_eq!(found(&online, "tmp"), "0");
    assert_eq!(found(&door, "peer"), "NotFound", "nobody needs itself");
    assert_eq!(found(&online, "peer"), "there");
    assert_eq!(found(&online, "route"), "there");
    assert_ne!(found(&door, "route"), "there");

    // From inside a jail of every profile everything else was tried.
    for profile in PROFILES {
        let log = machine.until(&format!("log prober-{profile} -n 500"), |text| {
            text.contains(" tried=").then(|| text.to_owned())
        });
        assert!(log.contains(" allowed=0"), "{profile}: {log}");
    }

    // A restart enters the same cell: what is in its /tmp is still there, so nothing more fits.
    machine.ok("restart door");
    machine.until("log door -n 200", |text| {
        text.contains("tmp: 0").then_some(())
    });

    // The machine's own work goes on.
    let reply = machine.call(&call("fs_read", "work", "welcome.txt"));
    assert_eq!(reply.status, 200, "{}", reply.body);
    machine.ok("ledger verify");
    machine.power_off();
}
