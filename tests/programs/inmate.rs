//! A user's service that says what it finds around it, a line a finding, and stays.

use std::fs;
use std::io::{self, Write};
use std::net::{Ipv4Addr, UdpSocket};
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::time::Duration;

/// Longest wait for an address of the machine's network, in tenths of a second.
const TENTHS: u32 = 600;

fn main() {
    for kind in ["mnt", "ipc", "uts", "net"] {
        say(
            &format!("ns-{kind}"),
            &named(fs::read_link(format!("/proc/self/ns/{kind}"))),
        );
    }
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    for line in mounts.lines() {
        let fields: Vec<&str> = line.split(' ').collect();
        let writable = fields[3].split(',').any(|o| o == "rw");
        let closed = ["nosuid", "noexec"].iter().all(|o| fields[3].contains(o));
        say(
            "mount",
            &format!("{} write={writable} closed={closed}", fields[1]),
        );
    }
    for pid in ["1", "2"] {
        say(
            &format!("proc-{pid}"),
            &kind(fs::metadata(format!("/proc/{pid}"))),
        );
    }
    say("root", &kind(fs::write("/new", "x")));
    say("tmp", &fill("/tmp/all").to_string());
    for socket in [
        "init.sock",
        "ledger.sock",
        "capacity.sock",
        "gateway.sock",
        "notify",
    ] {
        let path = format!("/run/vb/{socket}");
        say(socket, &kind(fs::metadata(&path).map(|_| ())));
    }
    say(
        "peer",
        &kind(UnixStream::connect("/run/vb/door.sock").map(|_| ())),
    );
    say("abstract", &named(bound()));
    let online = std::env::args().nth(1).as_deref() == Some("online");
    say("route", &route(if online { TENTHS } else { 0 }));
    say("end", "");
    if let Some(to) = std::env::var_os("NOTIFY_SOCKET") {
        let socket = UnixDatagram::unbound().expect("a socket");
        socket
            .send_to(b"READY=1\nSTATUS=looked around", to)
            .expect("a message");
    }
    loop {
        std::thread::park();
    }
}

fn say(what: &str, found: &str) {
    println!("{what}: {found}");
    io::stdout().flush().expect("stdout");
}

fn kind<T>(result: io::Result<T>) -> String {
    result.map_or_else(|e| format!("{:?}", e.kind()), |_| "there".to_owned())
}

fn named<T: std::fmt::Debug>(result: io::Result<T>) -> String {
    result.map_or_else(|e| format!("{:?}", e.kind()), |found| format!("{found:?}"))
}

/// Bytes that a new file takes before its file system is full.
fn fill(path: &str) -> u64 {
    let Ok(mut file) = fs::File::options().write(true).create_new(true).open(path) else {
        return 0;
    };
    let page = [7u8; 4096];
    let mut taken = 0;
    while file.write_all(&page).is_ok() && taken < 1 << 30 {
        taken += page.len() as u64;
    }
    taken
}

/// Two services that could see each other's abstract sockets could not both have this one.
fn bound() -> io::Result<&'static str> {
    use std::os::linux::net::SocketAddrExt;
    let address = std::os::unix::net::SocketAddr::from_abstract_name("inmate")?;
    std::mem::forget(UnixDatagram::bind_addr(&address)?);
    Ok("bound")
}

/// Whether there is a way to the host; sends nothing.
fn route(tenths: u32) -> String {
    let look = || {
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
        socket.connect((Ipv4Addr::new(10, 0, 2, 2), 9))
    };
    let mut left = tenths;
    loop {
        match look() {
            Ok(()) => return "there".to_owned(),
            Err(e) if left == 0 => return format!("{:?}", e.kind()),
            Err(_) => std::thread::sleep(Duration::from_millis(100)),
        }
        left -= 1;
    }
}
