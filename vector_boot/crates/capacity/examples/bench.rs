//! What a check costs: in process, token alone, and over the socket beside a plain SEQPACKET echo.
//!
//! `cargo run --release -p capacity --example bench`. Socket figures are interleaved in one run; the
//! ratio is what counts, since the echo pays the same switches between processes.

use capacity::kernel::{Asker, Kernel, Outcome};
use capacity::measure::Meter;
use capacity_core::token::{Claims, Key, RAW_BYTES_MAX};
use std::hint::black_box;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::{Duration, Instant};
use sys::packet::{Mode, PacketListener, PacketSocket};
use wire::Role;
use wire::capacity::{AXES, Check, Request, Want, permission};

const ROUNDS: usize = 9;
const CALLS: usize = 4_000;
const IN_PROCESS_CALLS: u32 = 200_000;

fn main() -> ExitCode {
    let words: Vec<_> = std::env::args_os().skip(1).collect();
    match words.first().and_then(|w| w.to_str()) {
        Some("echo") => echo(Path::new(&words[1])),
        Some("serve") => return capacity::main(&[]),
        _ => bench(),
    }
    ExitCode::SUCCESS
}

fn echo(path: &Path) {
    let listener = PacketListener::bind(path, Mode::Blocking).expect("bind");
    let mut buf = vec![0; 65_536];
    while let Ok(socket) = listener.accept(Mode::Blocking) {
        while let Ok((bytes @ 1.., _)) = socket.receive(&mut buf) {
            if socket.send(&buf[..bytes], None).is_err() {
                break;
            }
        }
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn per_call_ns(mut call: impl FnMut()) -> f64 {
    let rounds = (0..ROUNDS).map(|_| {
        let begin = Instant::now();
        (0..IN_PROCESS_CALLS).for_each(|_| call());
        begin.elapsed().as_nanos() as f64 / f64::from(IN_PROCESS_CALLS)
    });
    median(rounds.collect())
}

fn request() -> Request<'static> {
    let want = Want {
        min: 1000,
        want: 9000,
        weight: 1,
    };
    Request {
        tenant_id: "acme",
        workload_id: "bench",
        axes: [Some(want); AXES],
        duration_s: 3600,
        priority: 1,
        permissions: permission::TOOLS,
    }
}

fn check<'a>(token: &'a str) -> Check<'a> {
    Check {
        token,
        operation: "tool:fs_read",
        cpu_us: 1,
        memory_bytes: 1,
    }
}

fn in_process() {
    let node = Meter::new(Path::new("/proc"), Vec::new()).node();
    let mut kernel = Kernel::new(node, &[7; 32]);
    let boot = "0123456789abcdef".repeat(4);
    kernel.boot(0, Some(&boot)).expect("boot token");
    let operator = Asker {
        role: Role::Operator,
        uid: 0,
    };
    let Ok(Outcome::Granted { token, slot, .. }) = kernel.request(0, operator, &request()) else {
        panic!("not admitted");
    };
    // Time runs as fast as the quota refills, so that every check is a yes.
    let mut now = 1_000_000_000;
    let mut step = || {
        now += 1_000_000;
        now
    };
    let leased = per_call_ns(|| drop(black_box(kernel.check(step(), &check(&token)))));
    let booted = per_call_ns(|| drop(black_box(kernel.check(step(), &check(&boot)))));
    let mut table = kernel.table().clone();
    let buckets = per_call_ns(|| {
        black_box(table.spend(step(), slot, &[1, 1, 0, 1, 0])).ok();
    });
    let key = Key::new(&[7; 32]);
    let claims = Claims {
        tenant: "default",
        workload: "agents",
        slot: 1,
        generation: 1,
        expires_ms: None,
        permissions: 1,
        grants: Default::default(),
    };
    let text = key.issue(&claims).expect("names are fine");
    let mut scratch = [0; RAW_BYTES_MAX];
    let verify = per_call_ns(|| {
        black_box(key.verify(black_box(&text), &mut scratch)).ok();
    });
    println!("in process, ns, median of {ROUNDS} x {IN_PROCESS_CALLS}:");
    println!(
        "  token verify (vbt1, {} characters)  {verify:.0}",
        text.len()
    );
    println!("  three buckets of one lease           {buckets:.0}");
    println!("  check with a vbt1 token, whole       {leased:.0}");
    println!("  check with the boot token, whole     {booted:.0}");
}

/// Median and 99th percentile of `CALLS` round trips, microseconds.
fn round_trips(mut call: impl FnMut()) -> (f64, f64) {
    let mut times: Vec<f64> = (0..CALLS)
        .map(|_| {
            let begin = Instant::now();
            call();
            begin.elapsed().as_nanos() as f64 / 1000.0
        })
        .collect();
    times.sort_by(f64::total_cmp);
    (times[CALLS / 2], times[CALLS * 99 / 100])
}

fn start(word: &str, folder: &Path, argument: &Path) -> Child {
    let program = std::env::current_exe().expect("our own path");
    Command::new(program)
        .arg(word)
        .arg(argument)
        .env("VB_RUN", folder)
        .stderr(Stdio::null())
        .spawn()
        .expect("start a server")
}

fn connect(path: &Path) -> PacketSocket {
    for _ in 0..500 {
        if let Ok(socket) = PacketSocket::connect(path, Mode::Blocking) {
            return socket;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    panic!("no server at {}", path.display());
}

fn bench() {
    in_process();
    let folder = tempfile::tempdir().expect("a folder");
    let echo_path: PathBuf = folder.path().join("echo.sock");
    let path = folder.path().join("capacity.sock");
    let mut children = [
        start("echo", folder.path(), &echo_path),
        start("serve", folder.path(), &path),
    ];
    drop(connect(&path));
    let echo = connect(&echo_path);
    let mut client =
        ipc::capacity::Client::connect(&path, Duration::from_secs(10)).expect("capacity");
    let token = client.request(&request()).expect("an answer").token;
    let (mut room, mut buf) = (vec![0; 4096], vec![0; 65_536]);
    let packet = wire::encode(1, &check(&token), &mut room)
        .expect("it fits")
        .to_vec();
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        theirs.push(round_trips(|| {
            echo.send(&packet, None).expect("echo");
            echo.receive(&mut buf).expect("echo");
        }));
        ours.push(round_trips(|| {
            black_box(client.check(&check(&token)).expect("an answer"));
        }));
    }
    for child in &mut children {
        child.kill().expect("our own child");
        child.wait().expect("our own child");
    }
    let p50 = |v: &[(f64, f64)]| median(v.iter().map(|x| x.0).collect());
    let p99 = |v: &[(f64, f64)]| median(v.iter().map(|x| x.1).collect());
    println!("socket, us, median of {ROUNDS} interleaved rounds of {CALLS}:    p50      p99");
    println!(
        "  plain SEQPACKET echo of the same packet         {:>8.1} {:>8.1}",
        p50(&theirs),
        p99(&theirs)
    );
    println!(
        "  check: token, buckets, answer                   {:>8.1} {:>8.1}",
        p50(&ours),
        p99(&ours)
    );
    println!(
        "  ratio                                           {:>8.2} {:>8.2}",
        p50(&ours) / p50(&theirs),
        p99(&ours) / p99(&theirs)
    );
}
