//! Every kind of frame to every socket of frames, from every role and malformed in every way: refused or
//! cut off, said once, and nobody dies.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::Value;
use sys::packet::PacketSocket;
use system_tests::inputs::repository;
use system_tests::peer::As;
use system_tests::process::Process;
use wire::{Frame, HEADER_BYTES, Hello, Kind, Message, PACKET_BYTES_MAX, Refused, Role};

/// Every uid that is a role, two users, and nobody's.
const UIDS: &[u32] = &[
    901, 902, 903, 904, 905, 906, 907, 908, 909, 30_000, 59_999, 1000, 65_534,
];
/// Versions that no build speaks.
const VERSIONS: &[u16] = &[0, 2, 0x00ff, 0x0100, u16::MAX];
/// For what comes by itself.
const LIMIT: Duration = Duration::from_secs(60);
/// As `docs/wire.md` says; one before it the connection is left.
const BAD_FRAMES_MAX: usize = 16;

/// A socket of frames, and which kinds it answers.
struct Server {
    name: &'static str,
    file: &'static str,
    /// Groups of kinds, the number's upper byte.
    groups: &'static [u16],
}

const SERVERS: &[Server] = &[
    Server {
        name: "init",
        file: "init.sock",
        groups: &[0x01, 0x05],
    },
    Server {
        name: "ledger",
        file: "ledger.wire",
        groups: &[0x03],
    },
    Server {
        name: "capacity",
        file: "capacity.sock",
        groups: &[0x04],
    },
];

impl Server {
    /// Whether a whole frame of this kind may do something here.
    fn may_act(&self, kind: Kind, role: Role) -> bool {
        self.groups.contains(&(kind as u16 >> 8)) && kind.allowed(role)
    }
}

/// What became of a packet.
#[derive(Debug, PartialEq, Eq)]
enum Fate {
    Refused(String),
    Answered(Kind),
    Closed,
}

/// One peer's conversation with one server, over as many connections as it takes.
struct Talk<'t> {
    path: PathBuf,
    connect: &'t dyn Fn(&Path) -> PacketSocket,
    socket: Option<PacketSocket>,
    sent: usize,
}

impl<'t> Talk<'t> {
    fn new(process: &Process, server: &Server, connect: &'t dyn Fn(&Path) -> PacketSocket) -> Self {
        Self {
            path: process.run().join(server.file),
            connect,
            socket: None,
            sent: 0,
        }
    }

    /// A connection before its hello. The last one is gone first: a uid has only so many.
    fn fresh(&mut self) -> &PacketSocket {
        if let Some(old) = self.socket.take() {
            old.shutdown();
        }
        self.sent = 0;
        let socket = (self.connect)(&self.path);
        self.socket.insert(socket)
    }

    /// A connection behind its hello.
    fn greeted(&mut self) -> &PacketSocket {
        // Until the server has noticed that the last connection went, there may be no place.
        let deadline = Instant::now() + LIMIT;
        while ask(self.fresh(), &frame(1, &Hello::OURS)) != Fate::Answered(Kind::Hello) {
            assert!(Instant::now() < deadline, "no place for one more");
            std::thread::sleep(Duration::from_millis(1));
        }
        self.socket.as_ref().expect("it was just made")
    }

    /// Sends one packet behind a hello.
    fn send(&mut self, packet: &[u8]) -> Fate {
        if self.socket.is_none() || self.sent + 1 >= BAD_FRAMES_MAX {
            self.greeted();
        }
        self.sent += 1;
        let fate = self.socket.as_ref().map(|socket| ask(socket, packet));
        let fate = fate.unwrap_or(Fate::Closed);
        if fate == Fate::Closed {
            self.socket = None;
        }
        fate
    }
}

fn ask(socket: &PacketSocket, packet: &[u8]) -> Fate {
    let mut buf = vec![0; PACKET_BYTES_MAX];
    if socket.send(packet, None).is_err() {
        return Fate::Closed;
    }
    match socket.receive(&mut buf) {
        Ok((0, _)) => Fate::Closed,
        Ok((bytes, _)) => {
            let frame = Frame::open(&buf[..bytes]).expect("servers send frames");
            match frame.body::<Refused<'_>>() {
                Ok(refused) => Fate::Refused(refused.code.to_owned()),
                Err(_) => Fate::Answered(frame.kind),
            }
        }
        Err(e) if e.kind() == std::io::ErrorKind::ConnectionReset => Fate::Closed,
        Err(e) => panic!("no answer: {e}"),
    }
}

fn frame<M: Message>(id: u64, message: &M) -> Vec<u8> {
    let mut buf = [0u8; 512];
    wire::encode(id, message, &mut buf)
        .expect("a frame")
        .to_vec()
}

/// The frame of this kind that `tests/golden/wire` pins; a new kind has one, or its own test fails.
fn golden(kind: Kind) -> Vec<u8> {
    let path = repository().join(format!("tests/golden/wire/{kind:?}.bin"));
    std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// A process whose sockets every uid can reach.
pub fn open_to_all(folder: &Path) -> Process {
    use std::os::unix::fs::PermissionsExt;
    let all = std::fs::Permissions::from_mode(0o755);
    std::fs::set_permissions(folder, all.clone()).expect("mode");
    let process = Process::ready(&folder.join("state"), &[]);
    for reached in [folder.join("state"), process.run().to_owned()] {
        std::fs::set_permissions(reached, all.clone()).expect("mode");
    }
    process
}

/// pid and restarts of every service.
pub fn standing(process: &Process) -> Vec<(Value, Value, Value)> {
    let services = process.json(&["services"]);
    let rows = services["services"].as_array().expect("services").iter();
    rows.map(|r| (r["name"].clone(), r["pid"].clone(), r["restarts"].clone()))
        .collect()
}

/// Nothing that was done cost anybody anything.
pub fn unharmed(process: &Process, before: &[(Value, Value, Value)]) {
    assert_eq!(standing(process), before);
    assert_eq!(process.json(&["beat"])["missed"], 0);
    assert_eq!(process.json(&["status"])["state"], "ready");
    assert_eq!(process.json(&["ledger", "verify"])["holds"], true);
}

/// Lines in which a server speaks of a uid.
fn complaints(process: &Process, server: &Server, uid: u32) -> usize {
    let log = process.ok(&["log", server.name, "-n", "2000"]);
    let of_uid = format!("uid={uid}");
    let words = |line: &&str| line.split([' ', ':']).any(|word| word == of_uid);
    log.lines().filter(words).count()
}

/// Everything that a packet of this kind can be but the frame itself.
fn malformed(kind: Kind) -> Vec<Vec<u8>> {
    let good = golden(kind);
    let mut all = Vec::new();
    for version in VERSIONS {
        let mut packet = good.clone();
        packet[..2].copy_from_slice(&version.to_le_bytes());
        all.push(packet);
    }
    all.push([&good[..], b"\0"].concat());
    all.push(good[..HEADER_BYTES - 1].to_vec());
    all.push(vec![0; HEADER_BYTES]);
    all
}

#[test]
fn every_frame_of_every_role_to_every_socket_is_refused_or_its_to_send() {
    let folder = tempfile::tempdir().unwrap();
    let process = open_to_all(folder.path());
    let before = standing(&process);
    let begin = Instant::now();
    for uid in UIDS {
        let peer = As::uid(*uid);
        let role = Role::of_uid(*uid, 0);
        let connect = |path: &Path| peer.connect(path);
        for server in SERVERS {
            let mut talk = Talk::new(&process, server, &connect);
            if matches!(role, Role::Stranger(_)) {
                let fate = ask(talk.fresh(), &frame(1, &Hello::OURS));
                assert_eq!(fate, Fate::Refused("POLICY_DENY".to_owned()), "{uid}");
                let fate = ask(talk.socket.as_ref().unwrap(), &frame(2, &Hello::OURS));
                assert_eq!(fate, Fate::Closed, "{uid}");
                continue;
            }
            for kind in Kind::ALL {
                let here = format!("{kind:?} of {uid} to {}", server.name);
                if *kind != Kind::Hello {
                    let fate = ask(talk.fresh(), &golden(*kind));
                    assert!(matches!(fate, Fate::Refused(_)), "before hello: {here}");
                    talk.socket = None;
                }
                if !server.may_act(*kind, role) {
                    let code = match kind.allowed(role) {
                        true => "BAD_REQUEST",
                        false => "POLICY_DENY",
                    };
                    assert_eq!(
                        talk.send(&golden(*kind)),
                        Fate::Refused(code.to_owned()),
                        "{here}"
                    );
                }
                for packet in malformed(*kind) {
                    let fate = talk.send(&packet);
                    assert!(matches!(fate, Fate::Refused(_)), "{fate:?}: {here}");
                }
            }
        }
    }
    unharmed(&process, &before);
    let minutes = usize::try_from(begin.elapsed().as_secs() / 60).unwrap();
    for server in SERVERS {
        for uid in UIDS {
            let lines = complaints(&process, server, *uid);
            assert!(
                (1..=2 + minutes).contains(&lines),
                "{} wrote {lines} lines about {uid}",
                server.name
            );
        }
    }
    assert!(process.end().success());
}

/// Numbers that are the same in every run (xorshift64).
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.next() % end as u64).unwrap_or(0)
    }
}

/// A good header and a body of chance, or a good frame with some bytes changed.
fn scrambled(numbers: &mut Numbers) -> (Kind, Vec<u8>) {
    let kind = Kind::ALL[numbers.below(Kind::ALL.len())];
    let mut packet = golden(kind);
    if numbers.below(2) == 0 {
        packet.truncate(HEADER_BYTES);
        let bytes = numbers.below(300);
        packet.extend((0..bytes).map(|_| u8::try_from(numbers.below(256)).unwrap_or(0)));
    } else {
        for _ in 0..=numbers.below(4) {
            let at = numbers
                .below(packet.len().max(HEADER_BYTES + 1))
                .max(HEADER_BYTES);
            if let Some(byte) = packet.get_mut(at) {
                *byte = u8::try_from(numbers.below(256)).unwrap_or(0);
            }
        }
    }
    (kind, packet)
}

fn as_operator(path: &Path) -> PacketSocket {
    PacketSocket::connect_within(path, LIMIT).expect("a connection")
}

#[test]
fn frames_cut_at_every_byte_too_long_or_scrambled_are_survived() {
    let folder = tempfile::tempdir().unwrap();
    let process = open_to_all(folder.path());
    let before = standing(&process);
    let mut numbers = Numbers(0x5eed);
    let user = As::uid(30_000);
    let as_user = |path: &Path| user.connect(path);
    for server in SERVERS {
        for kind in Kind::ALL {
            let good = golden(*kind);
            let mut talk = Talk::new(&process, server, &as_operator);
            for cut in 1..good.len() {
                let fate = talk.send(&good[..cut]);
                let here = format!("{kind:?} cut at {cut} to {}: {fate:?}", server.name);
                assert!(matches!(fate, Fate::Refused(_)), "{here}");
            }
        }
        for uid in [902, 903, 905, 907, 30_001] {
            let peer = As::uid(uid);
            let role = Role::of_uid(uid, 0);
            let connect = |path: &Path| peer.connect(path);
            let mut talk = Talk::new(&process, server, &connect);
            for _ in 0..200 {
                let (kind, packet) = scrambled(&mut numbers);
                // What the console may do by chance ends services or the machine.
                let acts = matches!(kind, Kind::Power | Kind::Control);
                if !(acts && server.may_act(kind, role)) {
                    talk.send(&packet);
                }
            }
        }
        for connect in [&as_operator as &dyn Fn(&Path) -> PacketSocket, &as_user] {
            let mut talk = Talk::new(&process, server, connect);
            for bytes in [8193, PACKET_BYTES_MAX, PACKET_BYTES_MAX + 1, 150_000] {
                let fate = talk.send(&vec![1; bytes]);
                assert_eq!(fate, Fate::Refused("BAD_REQUEST".to_owned()), "{bytes}");
            }
            // A packet without a byte is the end, to whoever reads it.
            assert_eq!(talk.send(&[]), Fate::Closed);
            let bad = frame(7, &wire::Done { count: 1 });
            talk.greeted();
            for _ in 1..BAD_FRAMES_MAX {
                let fate = talk.socket.as_ref().map(|s| ask(s, &bad));
                assert!(matches!(fate, Some(Fate::Refused(_))), "{fate:?}");
            }
            let last = talk.socket.as_ref().expect("a connection");
            assert!(matches!(ask(last, &bad), Fate::Refused(_)));
            assert_eq!(ask(last, &bad), Fate::Closed, "after {BAD_FRAMES_MAX}");
        }
    }
    unharmed(&process, &before);
    assert!(process.end().success());
}

#[test]
fn a_peer_has_its_share_of_places_and_no_time_to_keep_silent_in() {
    let folder = tempfile::tempdir().unwrap();
    let process = open_to_all(folder.path());
    let before = standing(&process);
    for server in SERVERS {
        let path = process.run().join(server.file);
        // More users than there are places, each with more connections than it may have.
        let users: Vec<As> = (30_000..30_012).map(As::uid).collect();
        let crowd: Vec<PacketSocket> = users
            .iter()
            .flat_map(|user| std::iter::repeat_with(|| user.connect(&path)).take(20))
            .collect();
        // Their processes end; what the kernel attests of them does not.
        drop(users);
        for uid in [903, 905] {
            let peer = As::uid(uid);
            let fate = ask(&peer.connect(&path), &frame(1, &Hello::OURS));
            assert_eq!(
                fate,
                Fate::Answered(Kind::Hello),
                "{uid} at {}",
                server.name
            );
        }
        assert_eq!(
            ask(&as_operator(&path), &frame(1, &Hello::OURS)),
            Fate::Answered(Kind::Hello),
            "{}",
            server.name
        );
        // Nobody of them says hello: all are shown out.
        for socket in crowd {
            let ended = socket.receive(&mut [0; 64]);
            assert!(
                matches!(&ended, Ok((0, _)) | Err(_)) && !timed_out(&ended),
                "{}: {ended:?}",
                server.name
            );
        }
    }
    unharmed(&process, &before);
    assert!(process.end().success());
}

fn timed_out<T>(result: &std::io::Result<T>) -> bool {
    matches!(result, Err(e) if e.kind() == std::io::ErrorKind::WouldBlock)
}

#[test]
fn descriptors_that_wait_when_they_are_closed_hold_up_nobody() {
    let folder = tempfile::tempdir().unwrap();
    let process = open_to_all(folder.path());
    let before = standing(&process);
    let open = || {
        let folder = format!("/proc/{}/fd", process.pid());
        std::fs::read_dir(folder).expect("descriptors").count()
    };
    let open_before = open();
    let mut traps = std::process::Command::new("python3")
        .arg(repository().join("tests/programs/traps.py"))
        .arg(process.run())
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .expect("start python3");
    let said = traps.stdout.take().expect("a pipe");
    let mut said = std::io::BufRead::lines(std::io::BufReader::new(said));
    let said = said.next().expect("a line").expect("a line");
    assert!(said.starts_with("set "), "{said}");
    let beats = || process.json(&["beat"])["count"].as_u64().expect("a count");
    let later = beats() + 20;
    let deadline = Instant::now() + LIMIT;
    while beats() < later || open() > open_before {
        assert!(Instant::now() < deadline, "PID 1 holds them or waits");
        std::thread::sleep(Duration::from_millis(10));
    }
    process.ok(&["capacity", "state"]);
    unharmed(&process, &before);
    let log = process.ok(&["log", "-n", "2000"]);
    for words in ["descriptors", "notify/gateway: refused: "] {
        assert!(log.contains(words), "no {words:?} in {log}");
    }
    // Its end closes the far ends, which ends the waiting of whoever waits.
    drop(traps.stdin.take());
    assert!(traps.wait().expect("python3 ends").success());
    assert!(process.end().success());
}
