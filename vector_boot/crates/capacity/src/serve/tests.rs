//! The service over its real socket: a client at work, rude peers, bounds, restarts.

use super::*;
use ipc::IpcError;
use ipc::capacity::Client;
use std::path::PathBuf;
use tempfile::TempDir;
use wire::capacity::{Verdict, Want, permission};

const BOOT_TOKEN: &str = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";

/// A server on a thread of its own; it ends with the test process.
fn start() -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("capacity.sock");
    let (run, socket) = (folder.path().to_owned(), path.clone());
    let listener = PacketListener::bind(&path, Mode::NonBlocking).unwrap();
    std::thread::spawn(move || {
        let meter = Meter::new(Path::new("/proc"), Vec::new());
        let mut kernel = Kernel::new(meter.node(), &[7; 32]);
        let now_ns = sys::clock::monotonic_ns();
        kernel.boot(now_ns, Some(BOOT_TOKEN)).unwrap();
        let outbox = Outbox::start(run.join("ledger.wire"), [0; 16]).unwrap();
        let leaves = Default::default();
        let planner = Planner::start(run.join("init.sock"), leaves, outbox.clone()).unwrap();
        let signals = Signals::new(&[SIGTERM]).unwrap();
        let mut server = Server::new(
            kernel, meter, outbox, planner, None, None, listener, signals,
        )
        .unwrap();
        while server.turn().unwrap() {}
    });
    (folder, socket)
}

fn client(path: &Path) -> Client {
    Client::connect(path, Duration::from_secs(20)).unwrap()
}

fn check(token: &str) -> Check<'_> {
    Check {
        token,
        operation: "tool:fs_read",
        cpu_us: 10,
        memory_bytes: 4096,
    }
}

fn request<'a>(workload_id: &'a str) -> Request<'a> {
    Request {
        tenant_id: "acme",
        workload_id,
        axes: [Some(Want {
            min: 10,
            want: 20,
            weight: 1,
        }); 5],
        duration_s: 60,
        priority: 1,
        permissions: permission::TOOLS,
    }
}

#[test]
fn a_client_asks_checks_lists_and_gives_back() {
    let (_folder, path) = start();
    let mut client = client(&path);
    let boot = client.check(&check(BOOT_TOKEN)).unwrap();
    assert_eq!(
        (boot.verdict, boot.actor.as_str()),
        (Verdict::Allowed, "agent:boot")
    );
    let granted = client.request(&request("w")).unwrap();
    assert!(granted.admitted && granted.grants == [20; 5]);
    assert!(granted.expires_ms <= 60_000 && granted.expires_ms > 50_000);
    let bearer = client.identify(&granted.token).unwrap();
    assert_eq!((bearer.valid, bearer.actor.as_str()), (true, "agent:w"));
    let leases = client.leases().unwrap();
    assert_eq!(leases.len(), 2);
    assert_eq!(
        (leases[0].expires_ms, leases[1].tenant_id.as_str()),
        (u64::MAX, "acme")
    );
    let state = client.state().unwrap();
    assert_eq!((state.leases, state.checks), (2, 1));
    assert_eq!(client.gates().unwrap().len(), 4);
    client.release(&granted.token).unwrap();
    let gone = client.check(&check(&granted.token)).unwrap();
    assert_eq!(gone.verdict, Verdict::BadToken);
    assert!(matches!(client.revoke(77), Err(IpcError::Refused { .. })));
    assert!(client.state().is_ok(), "a refusal keeps the connection");
}

#[test]
fn a_full_table_lists_over_one_connection() {
    let (_folder, path) = start();
    let mut client = client(&path);
    for tenant in ["a", "b", "c", "d"] {
        for i in 0..63 {
            let workload = format!("{}-{i}", "long-name".repeat(6));
            let wanted = Request {
                tenant_id: tenant,
                axes: [None; 5],
                ..request(&workload)
            };
            assert!(client.request(&wanted).unwrap().admitted);
        }
    }
    assert_eq!(client.leases().unwrap().len(), 253);
}

#[test]
fn frames_that_are_none_are_refused_and_others_go_on() {
    let (_folder, path) = start();
    let mut good = client(&path);
    let mut buf = vec![0; 65_536];
    // No hello: refused, then closed.
    let rude = PacketSocket::connect(&path, Mode::Blocking).unwrap();
    rude.send(b"hello?", None).unwrap();
    let (n, _) = rude.receive(&mut buf).unwrap();
    let refused = Frame::open(&buf[..n])
        .unwrap()
        .body::<Refused<'_>>()
        .unwrap()
        .code
        .to_owned();
    assert_eq!(refused, "BAD_REQUEST");
    assert_eq!(rude.receive(&mut buf).unwrap().0, 0);
    // After a hello: refused one by one, closed after too many.
    let noisy = ipc::Connection::open(&path, Duration::from_secs(20))
        .unwrap()
        .into_socket();
    let mut room = vec![0; 4096];
    let whole = wire::encode(9, &check(BOOT_TOKEN), &mut room)
        .unwrap()
        .to_vec();
    for cut in 0..BAD_FRAMES_MAX as usize {
        noisy.send(&whole[..12 + cut], None).unwrap();
        let (n, _) = noisy.receive(&mut buf).unwrap();
        let frame = Frame::open(&buf[..n]).unwrap();
        assert_eq!((frame.kind, frame.id), (Kind::Refused, 9));
    }
    assert_eq!(noisy.receive(&mut buf).unwrap().0, 0);
    // A frame that is an answer, or a question for somebody else.
    let odd = ipc::Connection::open(&path, Duration::from_secs(20))
        .unwrap()
        .into_socket();
    let question = wire::encode(3, &wire::ledger::HeadGet, &mut room).unwrap();
    odd.send(question, None).unwrap();
    let (n, _) = odd.receive(&mut buf).unwrap();
    assert_eq!(Frame::open(&buf[..n]).unwrap().kind, Kind::Refused);
    odd.send(&whole, None).unwrap();
    let (n, _) = odd.receive(&mut buf).unwrap();
    assert_eq!(Frame::open(&buf[..n]).unwrap().kind, Kind::CapacityChecked);
    assert!(good.check(&check(BOOT_TOKEN)).is_ok());
}

#[test]
fn a_peer_that_never_reads_is_let_go_and_costs_the_others_nothing() {
    let (_folder, path) = start();
    let mut good = client(&path);
    let lazy = ipc::Connection::open(&path, Duration::from_secs(20))
        .unwrap()
        .into_socket();
    let mut room = vec![0; 4096];
    let packet = wire::encode(1, &check(BOOT_TOKEN), &mut room)
        .unwrap()
        .to_vec();
    let closed = (0..100_000).any(|_| lazy.send(&packet, None).is_err());
    assert!(closed, "answers pile up without end");
    assert!(good.check(&check(BOOT_TOKEN)).is_ok());
}

#[test]
fn connections_are_bounded_and_come_free_again() {
    let (_folder, path) = start();
    let open = || Client::connect(&path, Duration::from_secs(20));
    let mut held: Vec<Client> = (0..LIMITS.all).map(|_| open().unwrap()).collect();
    assert!(open().is_err());
    assert!(held[0].check(&check(BOOT_TOKEN)).is_ok());
    held.truncate(1);
    let again = (0..1000).any(|_| open().is_ok());
    assert!(again, "closed connections are not given back");
}

#[test]
fn boot_ids_and_tokens_parse_or_are_said_to_be_wrong() {
    assert_eq!(
        parse_boot_id("000102030405060708090a0b0c0d0e0f").unwrap()[15],
        15
    );
    assert!(parse_boot_id("").is_none() && parse_boot_id(&"g".repeat(32)).is_none());
    let meter = Meter::new(Path::new("/proc"), Vec::new());
    let token_file =
        |content: &[u8]| Some(File::from(sys::memfd::sealed("token", content).unwrap()));
    for (content, fine) in [
        (format!("{BOOT_TOKEN}\n").into_bytes(), true),
        (b"short".to_vec(), false),
        (vec![0xff; 64], false),
        (vec![b'a'; 500], false),
    ] {
        let mut kernel = Kernel::new(meter.node(), &[7; 32]);
        boot_lease(&mut kernel, 0, token_file(&content));
        assert_eq!(kernel.identify(0, BOOT_TOKEN).is_ok(), fine);
        assert_eq!(kernel.state().leases, 1, "the lease stands without a token");
    }
}

#[test]
fn leases_outlive_the_process_where_there_is_a_data_folder() {
    let folder = tempfile::tempdir().unwrap();
    let kept = Kept::new(folder.path(), "b");
    let meter = Meter::new(Path::new("/proc"), Vec::new());
    let mut kernel = Kernel::new(meter.node(), &[7; 32]);
    kernel.boot(0, None).unwrap();
    let asker = Asker {
        role: Role::Gateway,
        uid: 903,
    };
    kernel.request(0, asker, &request("w")).unwrap();
    kept.save(kernel.table()).unwrap();
    let mut next = Kernel::new(meter.node(), &[8; 32]);
    next.boot(0, None).unwrap();
    restore(&mut next, 1, Some(&kept));
    assert_eq!(next.state().granted, kernel.state().granted);
    let mut late = Kernel::new(meter.node(), &[8; 32]);
    restore(&mut late, 61_000_000_000, Some(&kept));
    assert_eq!(late.state().leases, 0);
}

/// Every question with some bytes changed, cut or lengthened, from every role: an answer or the end.
#[test]
fn mangled_frames_of_every_role_never_panic_and_move_no_lease() {
    let mut state = 0x5eed_5eed_u64;
    let mut random = move |below: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        usize::try_from(state % below as u64).unwrap()
    };
    let mut room = vec![0; 4096];
    let mut whole = |packet: &dyn Fn(&mut [u8]) -> usize| {
        let bytes = packet(&mut room);
        room[..bytes].to_vec()
    };
    let good = [
        whole(&|b| wire::encode(1, &check(BOOT_TOKEN), b).unwrap().len()),
        whole(&|b| {
            wire::encode(2, &Identify { token: BOOT_TOKEN }, b)
                .unwrap()
                .len()
        }),
        whole(&|b| wire::encode(3, &Revoke { slot: 0 }, b).unwrap().len()),
        whole(&|b| {
            wire::encode(4, &Release { token: BOOT_TOKEN }, b)
                .unwrap()
                .len()
        }),
        whole(&|b| wire::encode(5, &StateGet, b).unwrap().len()),
        whole(&|b| wire::encode(6, &LeasesGet, b).unwrap().len()),
    ];
    let meter = Meter::new(Path::new("/proc"), Vec::new());
    let mut kernel = Kernel::new(meter.node(), &[7; 32]);
    kernel.boot(0, Some(BOOT_TOKEN)).unwrap();
    let mut out = vec![0; PACKET_BYTES_MAX];
    for uid in [1000, 30_001, 902, 901, 907] {
        for _ in 0..4000 {
            let (ours, _theirs) = PacketSocket::pair(Mode::NonBlocking).unwrap();
            let peer = sys::packet::Peer { pid: 1, uid };
            let role = Role::of_uid(uid, 902);
            let mut connection = Connection {
                socket: ours,
                served: Served { peer, role },
                greeted: true,
                since_tick: 0,
                bad_frames: 0,
                waiting: VecDeque::new(),
            };
            let mut packet = good[random(good.len())].clone();
            for _ in 0..random(4) {
                let at = random(packet.len());
                packet[at] = u8::try_from(random(256)).unwrap();
            }
            packet.truncate(1 + random(packet.len() + 8));
            connection.answer(&mut kernel, &packet, &mut out);
        }
    }
    assert_eq!(kernel.state().leases, 1, "somebody moved a lease");
}
