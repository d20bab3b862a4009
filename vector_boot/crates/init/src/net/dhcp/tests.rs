//! The client against servers that are good, slow, lying or mad; its bytes against another's reading.

use super::*;
use dhcproto::v4::{DhcpOption, Message, MessageType, Opcode, OptionCode};
use dhcproto::{Decodable, Encodable};
use message::{Identity, option};
use proptest::prelude::*;

const MAC: [u8; 6] = [2, 0, 0, 0, 0, 7];
const SERVER_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
const SERVER: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 2);
const OURS: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 15);

fn who() -> Identity {
    Identity {
        mac: MAC,
        hostname: "vector".to_owned(),
    }
}

/// A server's message, made by a library that is not ours.
fn message(kind: MessageType, xid: u32, options: &[DhcpOption]) -> Message {
    let mut m = Message::default();
    m.set_opcode(Opcode::BootReply)
        .set_xid(xid)
        .set_yiaddr(if kind == MessageType::Nak {
            Ipv4Addr::UNSPECIFIED
        } else {
            OURS
        })
        .set_chaddr(&MAC);
    m.opts_mut().insert(DhcpOption::MessageType(kind));
    m.opts_mut().insert(DhcpOption::ServerIdentifier(SERVER));
    if kind != MessageType::Nak {
        m.opts_mut()
            .insert(DhcpOption::SubnetMask(Ipv4Addr::new(255, 255, 255, 0)));
        m.opts_mut().insert(DhcpOption::Router(vec![SERVER]));
        m.opts_mut().insert(DhcpOption::AddressLeaseTime(3600));
    }
    for option in options {
        m.opts_mut().insert(option.clone());
    }
    m
}

fn reply(m: &Message) -> Reply {
    Reply::read(&m.to_vec().unwrap(), MAC).unwrap().unwrap()
}

fn lease(options: &[DhcpOption]) -> Result<(Lease, Vec<Refusal>), Refusal> {
    Lease::read(
        &reply(&message(MessageType::Ack, 1, options)),
        SERVER_MAC,
        0,
    )
}

/// A message with these bytes for options, and these in `file` and `sname`.
fn raw(options: &[u8], file: &[u8], sname: &[u8]) -> Vec<u8> {
    let mut bytes = vec![2, 1, 6, 0];
    bytes.resize(240, 0);
    bytes[16..20].copy_from_slice(&OURS.octets());
    bytes[28..34].copy_from_slice(&MAC);
    bytes[44..44 + sname.len()].copy_from_slice(sname);
    bytes[108..108 + file.len()].copy_from_slice(file);
    bytes[236..].copy_from_slice(&[99, 130, 83, 99]);
    bytes.extend(options);
    bytes
}

/// What the client sends, as another's library reads it.
fn sent(actions: &[Action]) -> Vec<(Message, bool)> {
    let of = |a: &Action| match a {
        Action::Send {
            asks,
            xid,
            seconds,
            to,
        } => {
            let bytes = message::write(asks, &who(), *xid, *seconds);
            Some((Message::from_bytes(&bytes).unwrap(), to.is_some()))
        }
        _ => None,
    };
    actions.iter().filter_map(of).collect()
}

fn kind_of(m: &Message) -> MessageType {
    m.opts().msg_type().unwrap()
}

/// Lets time pass until the client has something to do, and does it.
fn next(client: &mut Client, now: &mut u64) -> Vec<Action> {
    *now = client.deadline().expect("something to do").max(*now);
    client.step(*now, Input::Tick)
}

/// From the carrier to a bound lease.
fn bound(options: &[DhcpOption]) -> (Client, u64, Lease) {
    let mut client = Client::new(MAC, 5);
    let mut now = 1_000 * S;
    let discover = sent(&client.step(now, Input::CarrierUp));
    let offer = reply(&message(MessageType::Offer, discover[0].0.xid(), options));
    let request = sent(&client.step(now, Input::Reply(&offer, SERVER_MAC)));
    let ack = reply(&message(MessageType::Ack, request[0].0.xid(), options));
    let mut actions = client.step(now, Input::Reply(&ack, SERVER_MAC));
    while client.probes() {
        actions.extend(next(&mut client, &mut now));
    }
    let configured = actions.iter().find_map(|a| match a {
        Action::Configure(lease) => Some((**lease).clone()),
        _ => None,
    });
    (client, now, configured.expect("a lease"))
}

#[test]
fn an_address_is_discovered_requested_probed_and_used() {
    let mut client = Client::new(MAC, 5);
    let now = 7 * S;
    let actions = client.step(now, Input::CarrierUp);
    let discover = &sent(&actions)[0].0;
    assert_eq!(kind_of(discover), MessageType::Discover);
    assert_eq!(
        (discover.chaddr(), discover.ciaddr()),
        (&MAC[..], Ipv4Addr::UNSPECIFIED)
    );
    let Some(DhcpOption::ParameterRequestList(wanted)) =
        discover.opts().get(OptionCode::ParameterRequestList)
    else {
        panic!("no list of wishes");
    };
    assert!(
        wanted.contains(&OptionCode::NtpServers)
            && wanted.contains(&OptionCode::ClasslessStaticRoute)
    );
    assert_eq!(
        discover.opts().get(OptionCode::Hostname),
        Some(&DhcpOption::Hostname("vector".to_owned()))
    );

    let offer = reply(&message(MessageType::Offer, discover.xid(), &[]));
    let actions = client.step(now, Input::Reply(&offer, SERVER_MAC));
    let (request, unicast) = &sent(&actions)[0];
    assert_eq!((kind_of(request), *unicast), (MessageType::Request, false));
    assert_eq!(
        request.opts().get(OptionCode::RequestedIpAddress),
        Some(&DhcpOption::RequestedIpAddress(OURS))
    );
    assert_eq!(
        request.opts().get(OptionCode::ServerIdentifier),
        Some(&DhcpOption::ServerIdentifier(SERVER))
    );

    let ack = reply(&message(MessageType::Ack, request.xid(), &[]));
    let actions = client.step(now + S, Input::Reply(&ack, SERVER_MAC));
    assert_eq!(actions, [Action::Probe(OURS)], "asked before it is used");
    assert_eq!(client.state(), "probing");

    let (client, now, lease) = bound(&[]);
    assert_eq!(
        (client.state(), lease.address, lease.prefix),
        ("bound", OURS, 24)
    );
    assert_eq!(
        lease.ends_ns,
        Some(1_000 * S + 3600 * S),
        "counts from the request"
    );
    assert_eq!((lease.renew_ns, lease.rebind_ns), (2800 * S, 4150 * S));
    assert_eq!(client.deadline(), Some(lease.renew_ns));
    assert_eq!(lease.seconds_left(now), Some(3599));
}

#[test]
fn it_renews_with_its_server_then_with_all_and_then_stops_using_the_address() {
    let (mut client, mut now, lease) = bound(&[]);
    let mut asked = Vec::new();
    let over = loop {
        let actions = next(&mut client, &mut now);
        asked.extend(
            sent(&actions)
                .into_iter()
                .map(|(m, unicast)| (now, m, unicast)),
        );
        if let Some(a) = actions.iter().find(|a| matches!(a, Action::Deconfigure(_))) {
            assert_eq!(*a, Action::Deconfigure(OURS));
            break now;
        }
    };
    assert_eq!(Some(over), lease.ends_ns);
    let renewals: Vec<_> = asked.iter().filter(|(at, ..)| *at < over).collect();
    assert!(
        renewals.len() >= 6 && renewals.len() < 40,
        "{}",
        renewals.len()
    );
    for (at, m, unicast) in renewals {
        assert_eq!((kind_of(m), m.ciaddr()), (MessageType::Request, OURS));
        assert_eq!(m.opts().get(OptionCode::ServerIdentifier), None);
        assert_eq!(*unicast, *at < lease.rebind_ns, "at {at}");
    }
    assert_eq!(client.state(), "selecting");

    // The same with a server that answers: the lease begins anew.
    let (mut client, mut now, lease) = bound(&[]);
    let renew = next(&mut client, &mut now);
    let xid = sent(&renew)[0].0.xid();
    let ack = reply(&message(MessageType::Ack, xid, &[]));
    let actions = client.step(now, Input::Reply(&ack, SERVER_MAC));
    let [Action::Configure(again)] = &actions[..] else {
        panic!("{actions:?}");
    };
    assert_eq!(again.ends_ns.unwrap() - lease.ends_ns.unwrap(), 1800 * S);
}

#[test]
fn a_refusal_ends_the_use_at_once_and_a_stranger_cannot_refuse() {
    let (mut client, mut now, _) = bound(&[]);
    let xid = sent(&next(&mut client, &mut now))[0].0.xid();
    let other = message(
        MessageType::Nak,
        xid,
        &[DhcpOption::ServerIdentifier(Ipv4Addr::new(10, 0, 2, 99))],
    );
    assert_eq!(
        client.step(now, Input::Reply(&reply(&other), SERVER_MAC)),
        []
    );
    let stale = message(MessageType::Nak, xid ^ 1, &[]);
    assert_eq!(
        client.step(now, Input::Reply(&reply(&stale), SERVER_MAC)),
        []
    );
    let nak = message(MessageType::Nak, xid, &[]);
    let actions = client.step(now, Input::Reply(&reply(&nak), SERVER_MAC));
    assert_eq!(
        actions,
        [Action::Tell(Told::Nak(SERVER)), Action::Deconfigure(OURS)]
    );
    let actions = next(&mut client, &mut now);
    assert_eq!(kind_of(&sent(&actions)[0].0), MessageType::Discover);
}

#[test]
fn an_address_that_somebody_has_is_declined_and_not_used() {
    let mut client = Client::new(MAC, 5);
    let now = 9 * S;
    let xid = sent(&client.step(now, Input::CarrierUp))[0].0.xid();
    let offer = reply(&message(MessageType::Offer, xid, &[]));
    let xid = sent(&client.step(now, Input::Reply(&offer, SERVER_MAC)))[0]
        .0
        .xid();
    let ack = reply(&message(MessageType::Ack, xid, &[]));
    let _ = client.step(now, Input::Reply(&ack, SERVER_MAC));
    // Our own probe that the link echoes is no claim.
    assert_eq!(client.step(now, Input::Claimed(OURS, MAC)), []);
    let thief = [6; 6];
    let actions = client.step(now, Input::Claimed(OURS, thief));
    assert_eq!(actions[0], Action::Tell(Told::Taken(OURS, thief)));
    let decline = &sent(&actions)[0].0;
    assert_eq!(kind_of(decline), MessageType::Decline);
    assert_eq!(
        decline.opts().get(OptionCode::RequestedIpAddress),
        Some(&DhcpOption::RequestedIpAddress(OURS))
    );
    assert!(client.deadline().unwrap() >= now + 7 * S, "a pause first");
}

#[test]
fn a_link_that_comes_back_asks_for_its_address_first() {
    let (mut client, now, _) = bound(&[]);
    assert_eq!(client.step(now + S, Input::CarrierDown), []);
    assert_eq!(client.lease(), None);
    let actions = client.step(now + 2 * S, Input::CarrierUp);
    let reboot = &sent(&actions)[0].0;
    assert_eq!(
        (kind_of(reboot), reboot.ciaddr()),
        (MessageType::Request, Ipv4Addr::UNSPECIFIED)
    );
    assert_eq!(
        reboot.opts().get(OptionCode::RequestedIpAddress),
        Some(&DhcpOption::RequestedIpAddress(OURS))
    );
    let ack = reply(&message(MessageType::Ack, reboot.xid(), &[]));
    let actions = client.step(now + 2 * S, Input::Reply(&ack, SERVER_MAC));
    assert!(matches!(actions[..], [Action::Configure(_)]), "{actions:?}");

    // Nobody answers: the address goes, and a new one is looked for.
    let (mut client, mut now, _) = bound(&[]);
    let _ = client.step(now, Input::CarrierDown);
    let _ = client.step(now, Input::CarrierUp);
    let told = loop {
        let actions = next(&mut client, &mut now);
        if actions.iter().any(|a| matches!(a, Action::Tell(_))) {
            break actions;
        }
    };
    assert_eq!(
        told[..2],
        [
            Action::Tell(Told::Forgotten(OURS)),
            Action::Deconfigure(OURS)
        ]
    );
    assert_eq!(client.state(), "selecting");
}

#[test]
fn a_lease_that_ends_while_the_link_is_down_is_not_used_any_longer() {
    let (mut client, now, lease) = bound(&[]);
    let _ = client.step(now, Input::CarrierDown);
    assert_eq!(client.deadline(), lease.ends_ns);
    let actions = client.step(lease.ends_ns.unwrap(), Input::Tick);
    assert_eq!(
        actions,
        [Action::Tell(Told::Over(OURS)), Action::Deconfigure(OURS)]
    );
    assert_eq!(client.deadline(), None);
}

#[test]
fn times_of_a_lease_are_held_within_reason() {
    let of = |lease: u32, t1, t2| {
        let mut options = vec![DhcpOption::AddressLeaseTime(lease)];
        options.extend(Option::map(t1, DhcpOption::Renewal));
        options.extend(Option::map(t2, DhcpOption::Rebinding));
        super::tests::lease(&options)
    };
    for bad in [0, 1, 29] {
        let refused = of(bad, None, None).unwrap_err();
        assert_eq!(
            refused.to_string(),
            format!("lease time {bad} s, limit 30 s or more")
        );
    }
    let (day, _) = of(86_400, None, None).unwrap();
    assert_eq!((day.renew_ns, day.rebind_ns), (43_200 * S, 75_600 * S));
    // T1 of a second would be a question each second.
    let (eager, _) = of(86_400, Some(1), Some(2)).unwrap();
    assert_eq!((eager.renew_ns, eager.rebind_ns), (10_800 * S, 10_800 * S));
    let (swapped, left_out) = of(86_400, Some(80_000), Some(70_000)).unwrap();
    assert_eq!(
        (swapped.renew_ns, swapped.rebind_ns),
        (43_200 * S, 70_000 * S)
    );
    assert_eq!(left_out[0].to_string(), "T1 80000 s, limit less than T2");
    let (_, left_out) = of(86_400, Some(0), Some(u32::MAX)).unwrap();
    assert_eq!(left_out.len(), 2);
    let (forever, _) = of(u32::MAX, None, None).unwrap();
    assert_eq!((forever.ends_ns, forever.renew_ns), (None, 7 * 86_400 * S));
    let (huge, _) = of(u32::MAX - 1, Some(u32::MAX - 3), Some(u32::MAX - 2)).unwrap();
    assert_eq!(huge.ends_ns, Some(u64::from(u32::MAX - 1) * S));
    assert_eq!(huge.renew_ns, 7 * 86_400 * S);
}

#[test]
fn addresses_that_no_host_has_refuse_the_lease_and_bad_extras_are_left_out() {
    let with = |address: [u8; 4], mask: [u8; 4]| {
        let mut m = message(MessageType::Ack, 1, &[DhcpOption::SubnetMask(mask.into())]);
        m.set_yiaddr(address);
        Lease::read(&reply(&m), SERVER_MAC, 0).map_err(|r| r.to_string())
    };
    for bad in [
        [0, 0, 0, 0],
        [127, 0, 0, 1],
        [224, 0, 0, 1],
        [255; 4],
        [240, 1, 1, 1],
    ] {
        let refused = with(bad, [255, 0, 0, 0]).unwrap_err();
        assert!(
            refused.starts_with("address ") && refused.ends_with("that of one machine"),
            "{refused}"
        );
    }
    for bad in [
        [255, 0, 255, 0],
        [0, 255, 255, 255],
        [0; 4],
        [255, 255, 255, 253],
    ] {
        let refused = with([10, 0, 2, 15], bad).unwrap_err();
        assert!(refused.starts_with("subnet mask "), "{refused}");
    }
    assert!(with([10, 0, 2, 0], [255, 255, 255, 0]).is_err());
    assert!(with([10, 0, 2, 255], [255, 255, 255, 0]).is_err());
    assert!(with([10, 0, 2, 255], [255, 255, 255, 255]).is_ok());
    assert!(with([10, 0, 2, 0], [255, 255, 255, 254]).is_ok());

    let (lease, left_out) = lease(&[
        DhcpOption::Router(vec![Ipv4Addr::new(8, 8, 8, 8), SERVER]),
        DhcpOption::DomainNameServer(vec![Ipv4Addr::LOCALHOST, Ipv4Addr::new(9, 9, 9, 9)]),
        DhcpOption::NtpServers(vec![Ipv4Addr::BROADCAST]),
        DhcpOption::DomainName("a b\nnameserver 6.6.6.6".to_owned()),
        DhcpOption::InterfaceMtu(68),
    ])
    .unwrap();
    assert_eq!(lease.routers, [SERVER]);
    assert_eq!(lease.dns, [Ipv4Addr::new(9, 9, 9, 9)]);
    assert_eq!(
        (lease.ntp.len(), lease.domain.as_str(), lease.mtu),
        (0, "", None)
    );
    assert_eq!(left_out.len(), 5, "{left_out:?}");
}

#[test]
fn routes_take_the_place_of_routers() {
    let routes = |bytes: &[u8]| {
        let mut options = vec![
            53, 1, 5, 54, 4, 10, 0, 2, 2, 51, 4, 0, 0, 14, 16, 1, 4, 255, 255, 255, 0, 3, 4, 10, 0,
            2, 9,
        ];
        options.extend([121, u8::try_from(bytes.len()).unwrap()]);
        options.extend(bytes);
        options.push(255);
        let reply = Reply::read(&raw(&options, &[], &[]), MAC).unwrap().unwrap();
        Lease::read(&reply, SERVER_MAC, 0).unwrap()
    };
    // 0.0.0.0/0 via 10.0.2.2; 10.229.0.128/25 via 10.0.2.3 (RFC 3442's example); 192.168.7.0/24 on the link.
    let (lease, left_out) = routes(&[
        0, 10, 0, 2, 2, 25, 10, 229, 0, 128, 10, 0, 2, 3, 24, 192, 168, 7, 0, 0, 0, 0,
    ]);
    let said: Vec<String> = lease
        .routes
        .iter()
        .map(|r| format!("{}/{} {:?}", r.to, r.prefix, r.via.map(|v| v.octets()[3])))
        .collect();
    assert_eq!(
        said,
        [
            "0.0.0.0/0 Some(2)",
            "10.229.0.128/25 Some(3)",
            "192.168.7.0/24 None"
        ]
    );
    assert!(left_out.is_empty());
    for (bad, why) in [
        (
            &[33, 1, 1, 1, 1, 1, 10, 0, 2, 2][..],
            "routes width 33, limit 0 to 32",
        ),
        (
            &[24, 192, 168],
            "routes cut with 3 bytes left, limit whole routes",
        ),
        (
            &[8, 127, 10, 0, 2, 2],
            "routes 127.0.0.0/8 via 10.0.2.2, limit through a host on the lease's network",
        ),
        (
            &[8, 11, 8, 8, 8, 8],
            "routes 11.0.0.0/8 via 8.8.8.8, limit through a host on the lease's network",
        ),
    ] {
        let (lease, left_out) = routes(bad);
        assert_eq!(left_out[0].to_string(), why);
        assert!(
            lease
                .routes
                .iter()
                .all(|r| r.via == Some(Ipv4Addr::new(10, 0, 2, 9))),
            "{why}"
        );
    }
}

#[test]
fn pieces_of_an_option_are_joined_and_an_overload_is_followed_once() {
    let head = [53, 1, 5, 54, 4, 10, 0, 2, 2];
    let with = |more: &[u8], file: &[u8], sname: &[u8]| {
        let options = [&head[..], more].concat();
        Reply::read(&raw(&options, file, sname), MAC).map(Option::unwrap)
    };
    // The domain in two pieces, the second in `file`.
    let reply = with(
        &[52, 1, 1, 15, 2, b'a', b'b', 255],
        &[15, 2, b'c', b'd', 255],
        &[],
    )
    .unwrap();
    assert_eq!(reply.option(option::DOMAIN), Some(&b"abcd"[..]));
    // An overload inside the overloaded fields leads nowhere.
    let reply = with(
        &[52, 1, 3, 255],
        &[52, 1, 3, 12, 1, b'x', 255],
        &[52, 1, 2, 255],
    )
    .unwrap();
    assert_eq!(reply.option(option::HOSTNAME), Some(&b"x"[..]));
    // Without it the fields are names, not options.
    let reply = with(&[255], &[12, 1, b'x', 255], &[]).unwrap();
    assert_eq!(reply.option(option::HOSTNAME), None);
    for (more, file, why) in [
        (
            &[52, 1, 4, 255][..],
            &[][..],
            "option 52 04 (1 bytes), limit 1, 2 or 3",
        ),
        (
            &[52, 2, 1, 1, 255],
            &[],
            "option 52 01 01 (2 bytes), limit 1, 2 or 3",
        ),
        (
            &[12, 200, 1],
            &[],
            "option 12 runs past its end, limit its area",
        ),
        (&[12], &[], "option 12 runs past its end, limit its area"),
        (&[], &[], "options without an end, limit option 255 last"),
        (
            &[52, 1, 1, 255],
            &[12, 255, 0],
            "option 12 runs past its end, limit its area",
        ),
        (
            &[53, 1, 5, 255],
            &[],
            "option 53 05 05 (2 bytes), limit 2, 5 or 6",
        ),
    ] {
        assert_eq!(with(more, file, &[]).unwrap_err().to_string(), why);
    }
    // Two of a kind are one of twice the length, which a lease time is not.
    let reply = with(
        &[
            51, 4, 0, 0, 14, 16, 51, 4, 0, 0, 0, 0, 1, 4, 255, 255, 255, 0, 255,
        ],
        &[],
        &[],
    )
    .unwrap();
    let refused = Lease::read(&reply, SERVER_MAC, 0).unwrap_err();
    assert!(
        refused.to_string().starts_with("lease time 00 00 0e 10"),
        "{refused}"
    );
}

#[test]
fn messages_for_others_are_nothing_to_us_and_broken_ones_are_named() {
    let good = message(MessageType::Offer, 1, &[]).to_vec().unwrap();
    assert_eq!(Reply::read(&good, [9; 6]), Ok(None));
    let change = |at: usize, byte: u8| {
        let mut bytes = good.clone();
        bytes[at] = byte;
        Reply::read(&bytes, MAC).map_err(|r| r.to_string())
    };
    assert_eq!(change(0, 1), Ok(None), "a client's");
    assert_eq!(
        change(0, 3).unwrap_err(),
        "op, htype, hlen [3, 1, 6], limit 2, 1, 6"
    );
    assert_eq!(
        change(2, 16).unwrap_err(),
        "op, htype, hlen [2, 1, 16], limit 2, 1, 6"
    );
    assert_eq!(
        change(236, 98).unwrap_err(),
        "cookie 98.130.83.99, limit 99.130.83.99"
    );
    for cut in 0..240 {
        let refused = Reply::read(&good[..cut], MAC).unwrap_err();
        assert_eq!(refused.field, "length");
    }
    assert!(Reply::read(&vec![0; 1473], MAC).is_err());
    let strange = message(
        MessageType::Offer,
        1,
        &[DhcpOption::ServerIdentifier(Ipv4Addr::UNSPECIFIED)],
    );
    let refused = Reply::read(&strange.to_vec().unwrap(), MAC).unwrap_err();
    assert_eq!(refused.field, "option 54");
}

/// Everything that can be in the air, by a few numbers.
#[derive(Debug, Clone)]
enum Air {
    Wait(u64),
    Down,
    Up,
    /// Kind, right number?, right server?, lease, address's last byte.
    Message(u8, bool, bool, u32, u8),
    Claim(bool),
    Unusable,
}

fn air() -> impl Strategy<Value = Air> {
    prop_oneof![
        4 => (0u64..200 * S).prop_map(Air::Wait),
        2 => (0u64..5_000 * S).prop_map(Air::Wait),
        8 => (0u8..3, prop::bool::weighted(0.9), prop::bool::weighted(0.8), prop_oneof![0u32..200, any::<u32>()], prop_oneof![Just(15u8), any::<u8>()])
            .prop_map(|(k, x, s, l, a)| Air::Message(k, x, s, l, a)),
        1 => Just(Air::Down),
        1 => Just(Air::Up),
        1 => any::<bool>().prop_map(Air::Claim),
        1 => Just(Air::Unusable),
    ]
}

/// Watches a client and knows what it must never do.
struct Watcher {
    client: Client,
    now: u64,
    carrier: bool,
    in_use: Option<(Ipv4Addr, Option<u64>)>,
    sends: Vec<u64>,
    xid: u32,
}

impl Watcher {
    fn new(seed: u64) -> Self {
        Self {
            client: Client::new(MAC, seed),
            now: 0,
            carrier: false,
            in_use: None,
            sends: Vec::new(),
            xid: 0,
        }
    }

    fn step(&mut self, input: Input<'_>) {
        let actions = self.client.step(self.now, input);
        for action in actions {
            match action {
                Action::Send { xid, asks, .. } => {
                    assert!(self.carrier, "sent without a carrier");
                    self.sends.push(self.now);
                    self.xid = xid;
                    if let Asks::Renew(address) = asks {
                        assert_eq!(self.in_use.map(|(a, _)| a), Some(address));
                    }
                }
                Action::Configure(lease) => {
                    assert!(lease.ends_ns.is_none_or(|end| end > self.now));
                    assert!(
                        self.in_use.is_none_or(|(a, _)| a == lease.address),
                        "two addresses"
                    );
                    self.in_use = Some((lease.address, lease.ends_ns));
                }
                Action::Deconfigure(address) => {
                    assert_eq!(self.in_use.take().map(|(a, _)| a), Some(address));
                }
                Action::Probe(_) | Action::Refused(..) | Action::Tell(_) => {}
            }
        }
        let over = self
            .in_use
            .and_then(|(_, end)| end)
            .is_some_and(|end| end <= self.now);
        assert!(!over, "an address in use beyond its lease");
        if let Some(deadline) = self.client.deadline() {
            assert!(deadline > self.now, "{} would spin", self.client.state());
        }
    }

    /// Lets time pass as the shell does: waking whenever the client wants to be woken.
    fn wait(&mut self, ns: u64) {
        let end = self.now.saturating_add(ns);
        while let Some(deadline) = self.client.deadline().filter(|d| *d <= end) {
            self.now = deadline;
            self.step(Input::Tick);
        }
        self.now = end;
        self.step(Input::Tick);
    }

    fn happens(&mut self, air: &Air) {
        match air {
            Air::Wait(ns) => self.wait(*ns),
            Air::Up => {
                self.carrier = true;
                self.step(Input::CarrierUp);
            }
            Air::Down => {
                self.carrier = false;
                self.step(Input::CarrierDown);
            }
            Air::Message(kind, right, ours, seconds, last) => {
                let kind =
                    [MessageType::Offer, MessageType::Ack, MessageType::Nak][usize::from(*kind)];
                let xid = if *right { self.xid } else { !self.xid };
                let server = if *ours {
                    SERVER
                } else {
                    Ipv4Addr::new(10, 0, 2, 77)
                };
                let mut m = message(
                    kind,
                    xid,
                    &[
                        DhcpOption::AddressLeaseTime(*seconds),
                        DhcpOption::ServerIdentifier(server),
                    ],
                );
                if kind != MessageType::Nak {
                    m.set_yiaddr([10, 0, 2, *last]);
                }
                self.step(Input::Reply(&reply(&m), SERVER_MAC));
            }
            Air::Claim(ours) => {
                let mac = if *ours { MAC } else { [6; 6] };
                self.step(Input::Claimed(OURS, mac));
            }
            Air::Unusable => self.step(Input::Unusable),
        }
    }

    /// Never more in any stretch of time than the bucket holds and what flows into it.
    fn check_pace(&self) {
        for (i, first) in self.sends.iter().enumerate() {
            for (count, at) in (1u64..).zip(&self.sends[i..]) {
                let allowed = u64::from(BURST) + (at - first) / PACE_NS;
                assert!(count <= allowed, "{count} messages in {} ns", at - first);
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    /// Whatever happens: no address beyond its lease, no flood, no spin, and it always tries again.
    #[test]
    fn no_schedule_makes_it_misbehave(seed in any::<u64>(), events in proptest::collection::vec(air(), 1..80)) {
        let mut watcher = Watcher::new(seed);
        for event in &events {
            watcher.happens(event);
        }
        watcher.check_pace();
        // With a carrier and silence it asks again, at the latest after its longest pause or lease.
        watcher.happens(&Air::Up);
        let asked = watcher.sends.len();
        let forever = watcher.in_use.is_some_and(|(_, end)| end.is_none());
        watcher.wait(if forever { 8 * 86_400 * S } else { 200 * S });
        let long = watcher.in_use.and_then(|(_, end)| end).is_some();
        prop_assert!(watcher.sends.len() > asked || long, "{}", watcher.client.state());
        watcher.check_pace();
    }

    /// A good server is always found in the end, whatever was before.
    #[test]
    fn a_good_server_is_found_in_the_end(seed in any::<u64>(), events in proptest::collection::vec(air(), 1..40)) {
        let mut watcher = Watcher::new(seed);
        for event in &events {
            watcher.happens(event);
        }
        watcher.happens(&Air::Down);
        watcher.happens(&Air::Up);
        for _ in 0..200 {
            if watcher.client.state() == "bound" {
                break;
            }
            let kind = if watcher.client.state() == "selecting" { 0 } else { 1 };
            watcher.happens(&Air::Message(kind, true, true, 600, 15));
            watcher.wait(S);
        }
        prop_assert!(watcher.in_use.is_some(), "{}", watcher.client.state());
    }

    /// Another library reads what we write, field by field.
    #[test]
    fn what_we_write_is_what_another_reads(xid in any::<u32>(), seconds in any::<u16>(), a in any::<u32>(), which in 0..5, name in "[a-z0-9-]{0,63}") {
        let address = Ipv4Addr::from(a);
        let asks = match which {
            0 => Asks::Discover,
            1 => Asks::Select { address, server: SERVER },
            2 => Asks::Reboot(address),
            3 => Asks::Renew(address),
            _ => Asks::Decline { address, server: SERVER },
        };
        let who = Identity { mac: MAC, hostname: name.clone() };
        let bytes = message::write(&asks, &who, xid, seconds);
        prop_assert!(bytes.len() >= 300);
        let m = Message::from_bytes(&bytes).unwrap();
        prop_assert_eq!((m.xid(), m.secs(), m.chaddr()), (xid, seconds, &MAC[..]));
        prop_assert_eq!(m.opts().get(OptionCode::Hostname).is_some(), !name.is_empty() && which != 4);
        let wanted = m.opts().get(OptionCode::RequestedIpAddress);
        prop_assert_eq!(wanted.is_some(), matches!(which, 1 | 2 | 4));
        prop_assert_eq!(m.ciaddr(), if which == 3 { address } else { Ipv4Addr::UNSPECIFIED });
    }
}

/// A small generator of its own, so that the body runs the same bytes each time.
fn noise(seed: &mut u64) -> u64 {
    *seed ^= *seed << 13;
    *seed ^= *seed >> 7;
    *seed ^= *seed << 17;
    *seed
}

/// The whole path of a packet: headers, message, lease, client. For a second, from a fixed seed: a
/// good message with a few bytes changed, cut or doubled, which reaches deeper than noise.
#[test]
fn one_second_of_broken_packets_neither_panics_nor_binds_to_nonsense() {
    use crate::net::packet::{self, Datagram};
    let begun = std::time::Instant::now();
    let mut seed = 0x5eed_u64;
    let options = [
        DhcpOption::DomainNameServer(vec![SERVER; 3]),
        DhcpOption::DomainName("example.org".to_owned()),
        DhcpOption::NtpServers(vec![SERVER]),
        DhcpOption::InterfaceMtu(1500),
        DhcpOption::Renewal(100),
    ];
    let mut taken = 0u64;
    for round in 0u64.. {
        if round % 256 == 0 && begun.elapsed().as_millis() >= 1000 {
            break;
        }
        let kind = [MessageType::Offer, MessageType::Ack, MessageType::Nak]
            [usize::try_from(noise(&mut seed) % 3).unwrap()];
        let mut bytes = message(kind, 1, &options).to_vec().unwrap();
        for _ in 0..noise(&mut seed) % 6 {
            let at = usize::try_from(noise(&mut seed)).unwrap() % bytes.len();
            match noise(&mut seed) % 4 {
                0 => bytes.truncate(at.max(1)),
                1 => bytes.extend_from_within(at..),
                2 => bytes[at] = 255,
                _ => bytes[at] = noise(&mut seed).to_le_bytes()[0],
            }
        }
        let whole = packet::write(&Datagram {
            from: SERVER,
            from_port: 67,
            to: OURS,
            to_port: 68,
            payload: &bytes,
        });
        let Ok(datagram) = packet::read(&whole, true) else {
            assert!(whole.len() > 65_535, "a good packet was refused");
            continue;
        };
        if let Ok(Some(reply)) = Reply::read(datagram.payload, MAC)
            && let Ok((lease, _)) = Lease::read(&reply, SERVER_MAC, 0)
        {
            taken += 1;
            assert!(crate::net::plan::is_host(lease.address) && (1..=32).contains(&lease.prefix));
            assert!(lease.renew_ns <= lease.rebind_ns);
            assert!(
                lease
                    .ends_ns
                    .is_none_or(|end| lease.rebind_ns < end && end >= 30 * S)
            );
            assert!(lease.routes.len() <= 16 && lease.dns.len() <= 3 && lease.domain.len() <= 253);
        }
    }
    assert!(taken > 100, "the good ones are taken: {taken}");
}
