//! The network of a machine: a server that lies, one that answers, links that go and come, and a
//! clock that a time server moves by years.

use std::net::{Ipv4Addr, UdpSocket};
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};
use system_tests::lan::{Asked, Lan, Manner};
use system_tests::machine::{Machine, Options};
use system_tests::package;

use crate::{call, options};

const YEAR_S: u64 = 365 * 86_400;
/// From 1900 to 1970.
const NTP_TO_UNIX_S: u64 = 2_208_988_800;

fn now_s() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .expect("a clock")
        .as_secs()
}

/// An NTP server on this host whose clock is so far ahead; gives its port.
fn time_server(ahead_s: u64) -> u16 {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("a UDP port");
    let port = socket.local_addr().expect("its address").port();
    std::thread::spawn(move || {
        let mut question = [0; 64];
        while let Ok((bytes, from)) = socket.recv_from(&mut question) {
            if bytes < 48 {
                continue;
            }
            let seconds = (now_s() + ahead_s + NTP_TO_UNIX_S) & 0xffff_ffff;
            let time = (seconds << 32).to_be_bytes();
            let mut answer = [0; 48];
            (answer[0], answer[1]) = (4 << 3 | 4, 2);
            answer[24..32].copy_from_slice(&question[40..48]);
            answer[32..40].copy_from_slice(&time);
            answer[40..48].copy_from_slice(&time);
            // Who went needs no answer.
            let _ = socket.send_to(&answer, from);
        }
    });
    port
}

/// Waits until the machine has this address on this link, and gives what it says of its network.
fn settled(machine: &mut Machine, link: &str, address: &str) -> Value {
    machine.until("net --json", |text| {
        let all: Value = serde_json::from_str(text.trim()).ok()?;
        let net = &all["net"];
        (net["link"] == link && net["address"] == address).then(|| all.clone())
    })
}

fn log_of_net(machine: &mut Machine) -> String {
    machine.ok("log net -n 500")
}

#[test]
fn liars_are_refused_links_change_and_the_clock_keeps_its_floor() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let wire = folder.join("wire");
    std::fs::create_dir(&wire).unwrap();
    let lan = Lan::serve(&wire, Manner::Lies);
    let port = time_server(5 * YEAR_S);
    let boot = Options {
        package: Some(package::pack_default(folder, "small.rts", &[])),
        wire: Some(wire.clone()),
        append: format!("vb.ntp=10.0.2.2:{port}"),
        ..options(folder)
    };
    let mut machine = Machine::ready(&boot);

    // The first card's network lies; the second is QEMU's own, and is found in the end.
    let all = settled(&mut machine, "eth1", "10.0.2.15/24");
    let net = &all["net"];
    assert_eq!(
        (&net["plan"], &net["state"]),
        (&json!("dhcp"), &json!("bound"))
    );
    assert_eq!(
        (&net["server"], &net["routers"]),
        (&json!("10.0.2.2"), &json!(["10.0.2.2"]))
    );
    assert_eq!(all["gateways"], json!(["10.0.2.2 on eth1"]));
    assert_eq!(all["nameservers"], json!(["10.0.2.3"]));
    assert!(
        net["ends_s"]
            .as_u64()
            .is_some_and(|s| s > 80_000 && s <= 86_400),
        "{net}"
    );
    assert!(
        net["counters"]["refused"].as_u64().is_some_and(|n| n >= 10),
        "{net}"
    );
    let lies = log_of_net(&mut machine);
    for named in [
        "lease time 0 s, limit 30 s or more",
        "lease time 1 s, limit 30 s or more",
        "option 3 runs past its end, limit its area",
        "subnet mask 255.0.255.0, limit ones, then zeroes",
    ] {
        assert!(lies.contains(named), "{named}: {lies}");
    }
    assert!(
        lan.heard().iter().all(|a| *a == Asked::Discover),
        "{:?}",
        lan.heard()
    );
    assert_eq!(
        machine.get("/health").status,
        200,
        "through the forwarded port"
    );
    let status = machine.json("status");
    assert!(
        status["network"]
            .as_str()
            .is_some_and(|n| n.contains("10.0.2.15/24 on eth1")),
        "{status}"
    );

    // The time server is five years ahead: it may be, once. Nothing but the dates changes.
    let set = machine.until("ledger query --type clock_set --json", |text| {
        let page: Value = serde_json::from_str(text.trim()).ok()?;
        let events = page["events"].as_array()?.clone();
        let of_ntp = |e: &Value| e.to_string().contains(&format!("ntp 10.0.2.2:{port}"));
        events.into_iter().find(of_ntp)
    });
    assert!(set.to_string().contains("step"), "{set}");
    let beats = |text: &str| {
        let beat: Value = serde_json::from_str(text.trim()).ok()?;
        beat["count"].as_u64()
    };
    let before = beats(&machine.ok("beat --json")).expect("a count of beats");
    machine.until("beat --json", |text| {
        (beats(text)? > before + 5).then_some(())
    });
    assert_eq!(machine.json("status")["state"], "ready");
    let reply = machine.call(&call("fs_read", "work", "welcome.txt"));
    assert_eq!(reply.body["status"], "SUCCESS", "{}", reply.body);
    assert_eq!(machine.json("ledger verify")["holds"], true);

    // The second card loses its carrier; the first one's server is honest now, but for an address
    // that somebody has.
    lan.turn(Manner::Taken(Ipv4Addr::new(10, 77, 0, 9)));
    machine.control().link("net", false);
    machine.until("log net -n 500", |text| {
        text.contains("10.77.0.9 is taken by 02:bb:00:00:00:06")
            .then_some(())
    });
    lan.turn(Manner::Honest(Ipv4Addr::new(10, 77, 0, 5), 600));
    let all = settled(&mut machine, "eth0", "10.77.0.5/24");
    assert_eq!(all["nameservers"], json!(["10.77.0.1", "9.9.9.9"]));
    assert_eq!(
        all["gateways"],
        json!(["10.77.0.1 on eth0"]),
        "one default route"
    );
    assert_eq!(all["net"]["domain"], "example.org");
    assert!(lan.heard().contains(&Asked::Decline));
    assert!(
        lan.heard()
            .contains(&Asked::Probe(Ipv4Addr::new(10, 77, 0, 5)))
    );

    // A better link that comes back changes nothing; the loss of this one leads back to it, and to
    // the address that it had.
    machine.control().link("net", true);
    machine.until("log net -n 500", |text| {
        text.contains("link up: link=eth1").then_some(())
    });
    settled(&mut machine, "eth0", "10.77.0.5/24");
    machine.control().link("wire", false);
    let all = settled(&mut machine, "eth1", "10.0.2.15/24");
    assert_eq!(all["gateways"], json!(["10.0.2.2 on eth1"]));
    let reply = machine.call(&call("fs_read", "work", "welcome.txt"));
    assert_eq!(reply.body["status"], "SUCCESS", "{}", reply.body);
    assert_eq!(machine.json("status")["state"], "ready");
    machine.power_off();

    // The host's clock is five years behind what the log has recorded; the floor is not.
    let mut machine = Machine::ready(&Options {
        wire: None,
        append: "vb.net=off".to_owned(),
        ..boot
    });
    let raised = machine.until("ledger query --type clock_set --json", |text| {
        let page: Value = serde_json::from_str(text.trim()).ok()?;
        let events = page["events"].as_array()?.clone();
        events
            .into_iter()
            .find(|e| e.to_string().contains("floor ledger"))
    });
    assert!(raised.to_string().contains("step"), "{raised}");
    assert_eq!(machine.json("ledger verify")["holds"], true);
    assert_eq!(machine.json("net")["net"]["plan"], "off");
    machine.power_off();
}
