//! The commands against servers that speak `wire` and JSONL with fixed answers: what they print is
//! pinned by `golden/`, and the two consoles are driven over a pseudo-terminal and a socket pair.

use super::commands;
use super::context::{Context, Held, Power, Site, Unattended};
use super::{programs, serial};
use ipc::serve_hello;
use serde_json::{Value, json};
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use sys::packet::{Mode, PacketListener, PacketSocket};
use tempfile::TempDir;
use wire::capacity::{Gate, GateVerdict, Lease, State};
use wire::control::*;
use wire::evolution::{self, Verdict};
use wire::why::{Pressure, Reason, Watchdog, Why, WhyGet};
use wire::{Done, Frame, Kind, Message, Refused};

const TOKEN: &str = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";
/// How long a test waits for what must come; only a failing test waits so long.
const PATIENCE: Duration = Duration::from_secs(20);

/// What the servers say, and what they were told.
struct Machine {
    state: MachineState,
    mode: &'static str,
    ledger_holds: bool,
    told: Vec<String>,
    log: Vec<(u64, &'static str, u8, String)>,
}

type Shared = Arc<Mutex<Machine>>;

/// Servers and files of one test.
struct Fixture {
    machine: Shared,
    site: Site,
    folder: TempDir,
}

impl Fixture {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let log = [
            (
                1,
                "init",
                6,
                "service up: name=ledger pid=7 ready_ms=1".to_owned(),
            ),
            (2, "gateway", 4, "no token yet \u{1b}[2J".to_owned()),
            (3, "ledger", 6, "recovered: bytes=0".to_owned()),
        ];
        let machine = Arc::new(Mutex::new(Machine {
            state: MachineState::Ready,
            mode: "full",
            ledger_holds: true,
            told: Vec::new(),
            log: log.into(),
        }));
        serve_packets(&folder.path().join("init.sock"), &machine, answer_init);
        serve_packets(
            &folder.path().join("capacity.sock"),
            &machine,
            answer_capacity,
        );
        serve_packets(
            &folder.path().join("evolution.sock"),
            &machine,
            answer_cortex,
        );
        serve_lines(&folder.path().join("ledger.sock"), &machine);
        let mut site = Site::new(folder.path().to_owned(), Held::default());
        site.proc = folder.path().join("proc");
        site.sys = folder.path().join("sys");
        kernel_files(folder.path());
        Self {
            machine,
            site,
            folder,
        }
    }

    fn told(&self) -> Vec<String> {
        std::mem::take(&mut self.machine.lock().unwrap().told)
    }

    /// Runs one line; its exit code and output.
    fn run(&self, line: &str) -> (u8, String) {
        let mut attention = Unattended;
        let mut context = Context::new(&self.site, &mut attention);
        let mut sink = Vec::new();
        let code = commands::run_line(line, &mut context, &mut sink);
        let text = String::from_utf8(sink).unwrap();
        (
            code,
            text.replace(&self.folder.path().display().to_string(), "RUN"),
        )
    }

    fn json(&self, line: &str) -> (u8, Value) {
        let (code, text) = self.run(line);
        assert_eq!(text.matches('\n').count(), 1, "{line}: {text}");
        (
            code,
            serde_json::from_str(&text).unwrap_or_else(|e| panic!("{line}: {e}: {text}")),
        )
    }
}

/// Answers every connection until the test's process ends.
fn serve_packets(path: &Path, machine: &Shared, answer: fn(&mut Reply<'_>, &Shared)) {
    let listener = PacketListener::bind(path, Mode::Blocking).unwrap();
    let machine = machine.clone();
    std::thread::spawn(move || {
        while let Ok(socket) = listener.accept(Mode::Blocking) {
            let machine = machine.clone();
            std::thread::spawn(move || {
                let (mut buf, mut out) = (vec![0; 65536], vec![0; 65536]);
                let (n, _) = socket.receive(&mut buf).unwrap();
                socket
                    .send(serve_hello(&buf[..n], &mut out).unwrap(), None)
                    .unwrap();
                while let Ok((n @ 1.., _)) = socket.receive(&mut buf) {
                    let frame = Frame::open(&buf[..n]).unwrap();
                    answer(
                        &mut Reply {
                            socket: &socket,
                            frame,
                            sent: 0,
                        },
                        &machine,
                    );
                }
            });
        }
    });
}

/// The question under way, and its answer.
struct Reply<'s> {
    socket: &'s PacketSocket,
    frame: Frame<'s>,
    sent: u32,
}

impl Reply<'_> {
    fn with<M: Message>(&mut self, body: &M, descriptor: Option<OwnedFd>) {
        let mut out = vec![0; 65536];
        let packet = wire::encode(self.frame.id, body, &mut out).unwrap();
        // A client that is gone again wanted no answer.
        let _ = self
            .socket
            .send(packet, descriptor.as_ref().map(AsFd::as_fd));
        self.sent += 1;
    }

    fn item<M: Message>(&mut self, body: &M) {
        self.with(body, None);
    }

    fn done(&mut self) {
        let count = self.sent;
        self.item(&Done { count });
    }
}

fn answer_init(reply: &mut Reply<'_>, machine: &Shared) {
    let mut machine = machine.lock().unwrap();
    let frame = reply.frame;
    match frame.kind {
        Kind::StatusGet => reply.item(&status(machine.state)),
        Kind::ServicesGet => {
            for service in SERVICES {
                reply.item(service);
            }
            reply.done();
        }
        Kind::BeatGet => reply.item(&beat()),
        Kind::WhyGet => {
            let subject = frame.body::<WhyGet<'_>>().unwrap().subject;
            for record in REASONS
                .iter()
                .filter(|r| ["", r.subject].contains(&subject))
            {
                reply.item(record);
            }
            reply.done();
        }
        Kind::WatchdogGet => reply.item(&Watchdog {
            driver: "Software Watchdog",
            software: true,
            armed: true,
            timeout_s: 60,
            left_s: None,
            boot_status: 0x20,
            fed: 1870,
            held_back: 0,
        }),
        Kind::PressureGet => {
            for (subject, stalls, oom_kills) in
                [("machine", 3, 0), ("gateway", 1, 2), ("net", 0, 0)]
            {
                reply.item(&Pressure {
                    subject,
                    some_avg10: 1234,
                    stalls,
                    stalled_ago_ns: 4_000_000_000,
                    oom_kills,
                    at_limit: 17,
                    peak_bytes: 6_500_000,
                });
            }
            reply.done();
        }
        Kind::UpgradeGet => reply.item(&wire::upgrade::UpgradeStatus {
            step: wire::upgrade::Step::Idle,
            service: "",
            left_ns: 0,
            from: "/dev/vdb 0011223344556677 signed",
            to: "share/new.rts 8899aabbccddeeff signed",
            end: wire::upgrade::End::UntilReboot,
            reason: "",
            before: "/dev/vdb 0011223344556677 signed",
            count: 1,
            until_reboot: true,
        }),
        Kind::GenerationGet => reply.item(&evolution::GenerationStatus {
            number: 14,
            trial_beats_left: 42,
            given_up: 0,
            why: evolution::Misbehaviour::None,
        }),
        Kind::Upgrade | Kind::Rollback => reply.item(&wire::Done { count: 0 }),
        Kind::InterruptsGet => {
            reply.item(&wire::neural::Interrupt {
                register: 19,
                above: true,
                threshold: 10.0,
                hysteresis: 5.0,
                raised: true,
                count: 2,
                changed_ns: 90_000_000_000,
                handler: "reclaim",
            });
            reply.done();
        }
        Kind::JournalGet => {
            let asked = frame.body::<wire::neural::JournalGet>().unwrap();
            let rows = journal_rows();
            for row in &rows[rows.len() - rows.len().min(asked.rows as usize)..] {
                reply.item(&wire::neural::JournalRow { row });
            }
            reply.done();
        }
        Kind::BootGet => {
            let phase = |name, begin_ns, end_ns, note| Phase {
                name,
                begin_ns,
                end_ns,
                note,
            };
            reply.item(&phase("console", 0, 400_000, "ttyS0"));
            reply.item(&phase("package", 2_000_000, 9_000_000, "/dev/vdb"));
            reply.item(&phase("first-beat", 9_000_000, 9_500_000, ""));
            reply.item(&phase("ready", 9_500_000, 84_000_000, ""));
            reply.done();
        }
        Kind::ParamsGet => {
            let param = |key, value, source| Param { key, value, source };
            reply.item(&param("vb.heartbeat_ms", "100", "default"));
            reply.item(&param("vb.console_mode", machine.mode, "cmdline"));
            reply.item(&param("vb.nonsense", "1", "unknown"));
            reply.done();
        }
        Kind::LogGet => {
            let asked = frame.body::<LogGet<'_>>().unwrap();
            let fits = |l: &&(u64, &str, u8, String)| {
                l.0 > asked.after && (asked.name.is_empty() || l.1 == asked.name)
            };
            let lines: Vec<_> = machine.log.iter().filter(fits).cloned().collect();
            let skip = lines.len().saturating_sub(asked.lines as usize);
            for (seq, name, level, text) in lines.into_iter().skip(skip) {
                let at_ns = seq * 1_500_000_000;
                reply.item(&LogLine {
                    seq,
                    at_ns,
                    name,
                    level,
                    text: &text,
                });
            }
            reply.done();
        }
        Kind::Control => {
            let control = frame.body::<Control<'_>>().unwrap();
            if control.name == "nobody" {
                let (code, field, value) = ("NOT_FOUND", "name", control.name);
                reply.item(&Refused {
                    code,
                    field,
                    value,
                    limit: "a service of the manifest",
                });
            } else {
                machine
                    .told
                    .push(format!("{:?} {}", control.verb, control.name));
                reply.done();
            }
        }
        Kind::Power => {
            machine.told.push(format!(
                "{:?}",
                frame.body::<wire::control::Power>().unwrap()
            ));
            reply.done();
        }
        Kind::DescriptorGet => {
            let name = frame.body::<DescriptorGet<'_>>().unwrap().name;
            match descriptor(name) {
                Some(fd) => reply.with(&Descriptor { name }, Some(fd)),
                None => {
                    let (code, field, value) = ("NOT_FOUND", "name", name);
                    reply.item(&Refused {
                        code,
                        field,
                        value,
                        limit: "a descriptor that is there",
                    });
                }
            }
        }
        other => panic!("{other:?}"),
    }
}

fn status(state: MachineState) -> Status<'static> {
    Status {
        state,
        reason: if state == MachineState::Degraded {
            "net failed: 5 deaths in 60 s; no watchdog"
        } else {
            ""
        },
        package: "/dev/vdb b3:0011223344556677",
        model: "Tiny Llama",
        tensors: 3,
        mapped_bytes: 98_362_432,
        boot_id: [0xab; 16],
        hostname: "vector",
        uptime_ns: 187_000_000_000,
        beats: 1870,
        beats_missed: 0,
        period_ms: 100,
        services_up: if state == MachineState::Ready { 3 } else { 2 },
        services: 3,
        watchdog: "softdog (software), 10 s",
        version: "vector_boot 0.1.0",
        pid: 1,
        unconfined: "",
        signer: "",
        trusted_keys: "0123456789abcdef",
        init_digest: "fedcba9876543210",
        init_from: "initramfs",
    }
}

const SERVICES: &[Service<'static>] = &[
    Service {
        name: "ledger",
        state: ServiceState::Up,
        pid: 7,
        uid: 901,
        restarts: 0,
        uptime_ns: 186_000_000_000,
        ready_ns: 1_250_000,
        memory_bytes: 6_500_000,
        last_exit: "",
        status: "42 events",
        backoff_ns: 0,
        confined: true,
    },
    Service {
        name: "gateway",
        state: ServiceState::Up,
        pid: 12,
        uid: 903,
        restarts: 2,
        uptime_ns: 4_200_000_000,
        ready_ns: 2_750_000,
        memory_bytes: 0,
        last_exit: "signal KILL",
        status: "",
        backoff_ns: 0,
        confined: true,
    },
    Service {
        name: "net",
        state: ServiceState::Failed,
        pid: 0,
        uid: 907,
        restarts: 5,
        uptime_ns: 0,
        ready_ns: 0,
        memory_bytes: 0,
        last_exit: "exit 1",
        status: "",
        backoff_ns: 12_000_000_000,
        confined: false,
    },
];

const REASONS: &[Why<'static>] = &[
    Why {
        number: 2,
        at_ns: 184_000_000_000,
        reason: Reason::OutOfMemory,
        subject: "gateway",
        facts: r#"{"cause":"signal KILL (9)","pid":9,"ran_ms":4200,"oom_kill":1,"said":"one last word"}"#,
    },
    Why {
        number: 1,
        at_ns: 3_000_000_000,
        reason: Reason::InitCrash,
        subject: "init",
        facts: r#"{"cause":"signal SEGV (11)","doing":"beat: sampling"}"#,
    },
    Why {
        number: 0,
        at_ns: 0,
        reason: Reason::Poweroff,
        subject: "machine",
        facts: r#"{"how":"poweroff","asked":"command","actor":"user:console","last_event":41,"last_event_type":"service_stopped"}"#,
    },
];

fn beat() -> Beat {
    let mut lateness = [0; LATENESS_BUCKETS];
    lateness[2] = 1800;
    lateness[3] = 69;
    lateness[6] = 1;
    Beat {
        count: 1870,
        period_ns: 100_000_000,
        missed: 0,
        coalesced: 0,
        cpu_last_ns: 41_000,
        cpu_max_ns: 1_900_000,
        lateness,
        late_max_ns: 812_000,
        orphans: 3,
    }
}

fn descriptor(name: &str) -> Option<OwnedFd> {
    match name {
        "kmsg" => sys::memfd::sealed("kmsg", b"6,1,250000,-;Linux version 6.1\n").ok(),
        "memory.high.gateway" => sys::memfd::sealed("held", b"226492416\n").ok(),
        "memory.stat.ledger" => {
            sys::memfd::sealed("stat", b"anon 4096\npgscan 40\npgsteal 12\n").ok()
        }
        "memory.high.ledger" => sys::memfd::sealed("held", b"max\n").ok(),
        "token" => sys::memfd::sealed("token", format!("{TOKEN}\n").as_bytes()).ok(),
        "rts" => {
            let model = model();
            // The plain header: magic, version, binary offset and size, tensor offset and size.
            let mut package = vec![0x52, 0x54, 0x53, 1];
            package.extend(1u32.to_be_bytes());
            for field in [512u64, 3, 515, model.len() as u64] {
                package.extend(field.to_be_bytes());
            }
            package.resize(512, 0);
            package.extend(b"ELF");
            package.extend(model);
            sys::memfd::sealed("rts", &package).ok()
        }
        "sensors" => {
            let mut page = wire::sensors::Snapshot::unknown();
            page.beat = 1870;
            page.registers[wire::sensors::index::LOAD_1] = 0.25;
            page.registers[wire::sensors::index::MEMORY_TOTAL] = 1_073_741_824.0;
            page.registers[wire::sensors::index::SERVICES_UP] = 3.0;
            let (file, mut writer) =
                sys::seqlock::Writer::create("s", wire::sensors::MAGIC).unwrap();
            writer.update(|words| {
                for (at, word) in page.pack().into_iter().enumerate() {
                    words.set(wire::sensors::VERSION_WORD + at, word);
                }
            });
            Some(file.into())
        }
        "stats.gateway" => {
            let (file, mut writer) = sys::seqlock::Writer::create("s", wire::stats::MAGIC).unwrap();
            writer.update(|words| words.set(wire::stats::word("requests").unwrap(), 17));
            Some(file.into())
        }
        _ => None,
    }
}

/// What a machine short of memory writes down.
fn journal_rows() -> Vec<[u8; neural::journal::ROW_BYTES]> {
    use neural::journal::{Chain, Kind, Row, Subject};
    let row = |kind, seconds: u64, subject, values| Row {
        subject: Subject::new(subject),
        values,
        ..Row::new(kind, seconds * 1_000_000_000, seconds * 10)
    };
    let mut chain = Chain::default();
    [
        row(Kind::Began, 3, "boot", [f32::NAN; 4]),
        row(
            Kind::Raised,
            90,
            "psi.memory.full",
            [12.5, 10.0, f32::NAN, f32::NAN],
        ),
        row(
            Kind::Control,
            90,
            "heartbeat_ms",
            [100.0, 62.5, -0.5, f32::NAN],
        ),
    ]
    .iter()
    .map(|row| chain.push(row).encode())
    .collect()
}

fn model() -> Vec<u8> {
    gguf::writer::Writer::new()
        .text("general.architecture", "llama")
        .f32_tensor(
            "blk.0.attn_q.weight",
            &[4, 2],
            &[0.0, 1.0, -2.5, 3.0, 0.5, 0.25, 0.0, 0.75],
        )
        .f32_tensor("blk.1.attn_q.weight", &[4], &[1.0; 4])
        .f32_tensor("token_embd.weight", &[2, 2], &[f32::NAN, 1.0, 2.0, 3.0])
        .finish()
        .unwrap()
}

fn answer_capacity(reply: &mut Reply<'_>, _: &Shared) {
    match reply.frame.kind {
        Kind::CapacityStateGet => reply.item(&State {
            ticks: 187,
            epoch: 3,
            budget: [9000, 9500, 10_000, 8500, 9000],
            granted: [2500, 0, 0, 1000, 0],
            consumed: [Some(123), Some(0), None, Some(4550), None],
            leases: 1,
            checks: 1200,
            denied: 7,
        }),
        Kind::CapacityLeasesGet => {
            reply.item(&Lease {
                slot: 4,
                tenant_id: "boot",
                workload_id: "agent",
                grants: [2500, 0, 0, 1000, 0],
                expires_ms: 90_000,
                priority: 5,
                checks: 1200,
            });
            reply.done();
        }
        Kind::CapacityGatesGet => {
            let gate = |name, verdict, score_milli| Gate {
                name,
                verdict,
                score_milli,
                ticks: 60,
            };
            reply.item(&gate("fit", GateVerdict::Pass, Some(412)));
            reply.item(&gate("uv", GateVerdict::Unresolved, None));
            reply.done();
        }
        other => panic!("{other:?}"),
    }
}

fn answer_cortex(reply: &mut Reply<'_>, machine: &Shared) {
    match reply.frame.kind {
        Kind::EvolutionGet => reply.item(&evolution::EvolutionStatus {
            generation: 14,
            oldest: 3,
            base: [0xba; 32],
            content: [0xc0; 32],
            accepted: 12,
            refused: 40,
            rolled_back: 1,
            proposers: 1,
            durable: true,
        }),
        Kind::MutationsGet => {
            let mutation = |verdict, generation, restored, count, tensor| evolution::Mutation {
                wall_ns: 1_700_000_000_000_000_000,
                verdict,
                generation,
                restored,
                uid: 30_000,
                count,
                id: 7,
                tensor,
                offset: 256,
                length: 128,
                confidence: 0.875,
            };
            reply.item(&mutation(Verdict::RolledBack, 14, 12, 1, ""));
            reply.item(&mutation(
                Verdict::TensorProtected,
                13,
                0,
                40,
                "kernel.limits",
            ));
            reply.item(&mutation(Verdict::Accepted, 13, 0, 1, "policy.w1"));
            reply.done();
        }
        Kind::MutationsRollback => {
            machine
                .lock()
                .unwrap()
                .told
                .push("MutationsRollback".to_owned());
            reply.done();
        }
        other => panic!("{other:?}"),
    }
}

/// The ledger: three events, a check that takes a line of progress.
fn serve_lines(path: &Path, machine: &Shared) {
    let listener = UnixListener::bind(path).unwrap();
    let machine = machine.clone();
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let machine = machine.clone();
            std::thread::spawn(move || {
                let mut answers = stream.try_clone().unwrap();
                for line in BufReader::new(stream).lines().map_while(Result::ok) {
                    let request: Value = serde_json::from_str(&line).unwrap();
                    for mut answer in answer_ledger(&request, &machine) {
                        answer["id"] = request["id"].clone();
                        let _ = writeln!(answers, "{answer}");
                    }
                }
            });
        }
    });
}

fn event(id: u64) -> Value {
    json!({
        "id": id, "timestamp": id * 1000, "wall_clock": format!("2026-01-02T03:04:0{id}.250000000Z"),
        "tenant_id": "system", "ns": "system", "actor": "service:init", "event_type": "service_started",
        "subject": "gateway", "payload": {"pid": 12, "text": "\u{1b}"}, "causation_id": null,
    })
}

fn answer_ledger(request: &Value, machine: &Shared) -> Vec<Value> {
    match request["type"].as_str().unwrap() {
        "query" if request["filters"]["actor"] == "user:absent" => {
            vec![json!({"ok": true, "count": 0})]
        }
        "query" => {
            let limit = usize::try_from(request["limit"].as_u64().unwrap()).unwrap();
            let mut ids: Vec<u64> = (1..=3).collect();
            if request["order"] == "desc" {
                ids.reverse();
            }
            let events = ids
                .into_iter()
                .take(limit)
                .map(|id| json!({"event": event(id)}));
            let next = (limit < 3).then_some(4);
            events.chain([json!({"ok": true, "next": next})]).collect()
        }
        "subscribe" => vec![
            json!({"ok": true, "from": request["from"]}),
            json!({"event": event(4)}),
        ],
        "verify" if request["since"] == "silence" => vec![],
        "verify" if request["since"] == "another" => vec![
            json!({"ack": true}),
            json!({"ok": true, "verified": false, "events": 3, "bytes": 4096, "chain": "aa", "root": request["key"], "stopped": null,
                "bad": {"event_id": 2, "offset": 0, "place": "since", "what": "checkpoint has another root than the log"}}),
        ],
        "verify" => {
            let report = if machine.lock().unwrap().ledger_holds {
                json!({"ok": true, "verified": true, "events": 3, "groups": 2, "bytes": 4096, "chain": "aa", "root": "bb", "bad": null, "stopped": null})
            } else {
                json!({"ok": true, "verified": false, "events": 1, "bytes": 512, "chain": "aa", "root": "bb", "stopped": null,
                    "bad": {"event_id": 2, "offset": 512, "place": "log, byte 512", "what": "chain value differs"}})
            };
            vec![json!({"ack": true}), json!({"progress": 50}), report]
        }
        "head" => vec![
            json!({"ok": true, "event_id": 3, "commit_id": "aa", "root": "bb", "writable": true, "stopped": null}),
        ],
        _ => vec![json!({"ok": false, "error": {"code": "BAD_REQUEST", "reason": "type"}})],
    }
}

/// A small `/proc` and `/sys`.
fn kernel_files(folder: &Path) {
    let put = |path: &str, text: &str| {
        let path = folder.join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    };
    let process = |pid: u32, name: &str, ppid: u32, uid: u32, kib: u32| {
        let (own, bound) = (0, if uid == 0 { "1c" } else { "0" });
        let held = u8::from(uid != 0);
        let text = format!(
            "Name:\t{name}\nState:\tS (sleeping)\nPPid:\t{ppid}\nUid:\t{uid}\t{uid}\t{uid}\t{uid}\n\
             VmSize:\t99999 kB\nVmRSS:\t{kib} kB\nRssAnon:\t{} kB\n\
             CapInh:\t{own}\nCapPrm:\t{bound}\nCapEff:\t{bound}\nCapBnd:\t{bound}\nCapAmb:\t{own}\n\
             NoNewPrivs:\t{held}\nSeccomp:\t{}\n",
            kib / 4,
            2 * held
        );
        put(&format!("proc/{pid}/status"), &text);
        let mounts = format!("tmpfs / tmpfs ro,size={} 0 0\n", 64 * (uid + 1));
        put(&format!("proc/{pid}/mounts"), &mounts);
    };
    process(1, "vector_boot", 0, 0, 1700);
    process(7, "vb-services", 1, 901, 6400);
    process(12, "vb-services", 1, 903, 7200);
    process(31, "worker", 12, 903, 100);
    put(
        "proc/2/status",
        "Name:\tkthreadd\nState:\tS (sleeping)\nPPid:\t0\nUid:\t0\t0\t0\t0\n",
    );
    put(
        "proc/meminfo",
        "MemTotal: 1009136 kB\nMemAvailable: 800000 kB\nCached: 120000 kB\nMapped: 9000 kB\nSlab: 20000 kB\n",
    );
    put(
        "proc/net/route",
        "Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\tMTU\tWindow\tIRTT\n\
         eth0\t00000000\t0202000A\t0003\t0\t0\t0\t00000000\t0\t0\t0\n\
         eth0\t0002000A\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0\n",
    );
    put(
        "proc/net/fib_trie",
        "Local:\n |-- 10.0.2.15\n    /32 host LOCAL\n |-- 127.0.0.1\n    /32 host LOCAL\n",
    );
    put(
        "proc/net/if_inet6",
        "fe80000000000000505400fffe123456 02 40 20 80     eth0\n",
    );
    put("proc/self/mounts", "tmpfs / tmpfs ro 0 0\n");
    put(
        "proc/1/mounts",
        "proc /proc proc rw,nosuid,nodev,noexec,relatime 0 0\n/dev/vda2 /absent\\040place ext4 rw,nosuid 0 0\n",
    );
    for (name, state, rx) in [("eth0", "up", "123456"), ("lo", "unknown", "0")] {
        put(&format!("sys/class/net/{name}/operstate"), state);
        put(
            &format!("sys/class/net/{name}/address"),
            "52:54:00:12:34:56\n",
        );
        put(&format!("sys/class/net/{name}/mtu"), "1500\n");
        put(&format!("sys/class/net/{name}/statistics/rx_bytes"), rx);
        put(
            &format!("sys/class/net/{name}/statistics/tx_bytes"),
            "2048\n",
        );
    }
    put("sys/class/dmi/id/sys_vendor", "QEMU\n");
    put("resolv.conf", "nameserver 10.0.2.3\n");
}

/// Every command with what changes its answer; the golden file holds what each prints.
const LINES: &[&str] = &[
    "status",
    "ready",
    "services",
    "beat",
    "boot",
    "why",
    "why 1",
    "why init",
    "why nobody",
    "why 0",
    "watchdog",
    "params",
    "start net",
    "stop gateway",
    "restart gateway",
    "restart nobody",
    "signal gateway KILL",
    "signal init 11",
    "signal gateway BOGUS",
    "log",
    "log gateway -n 5",
    "log -f --for 0 -n 1",
    "log -n 0x",
    "tensors",
    "tensors blk.0.*",
    "tensors nothing*",
    "tensor blk.0.attn_q.weight",
    "tensor token_embd.weight",
    "tensor absent",
    "tensor",
    "sensors s*",
    "hw load.*",
    "hw load.* --watch --for 0",
    "hw --for 1",
    "interrupts",
    "journal",
    "journal -n 2",
    "ledger tail -n 2",
    "ledger tail --for 0",
    "ledger query --type service_started -n 2",
    "ledger query --actor user:absent",
    "ledger verify",
    "ledger head",
    "ledger burn",
    "mutations",
    "mutations rollback 12",
    "mutations rollback",
    "mutations burn",
    "capacity",
    "capacity leases",
    "capacity gates",
    "capacity all",
    "capacity request",
    "capacity request acme --permissions root",
    "gateway token",
    "gateway stats",
    "gateway",
    "ps",
    "mem",
    "net",
    "mounts",
    "dmesg",
    "reboot",
    "poweroff",
    "upgrade",
    "upgrade share/new.rts --keep",
    "rollback",
    "halt",
    "help log",
    "? hw",
    "log --help",
    "help",
    "statsu",
    "status now",
    "log 'x",
    "",
];

#[test]
fn what_every_command_prints_is_what_the_golden_file_holds() {
    let fixture = Fixture::new();
    let mut transcript = String::new();
    for line in LINES {
        let (code, text) = fixture.run(line);
        transcript.push_str(&format!("vb> {line}\n{text}[{code}]\n\n"));
    }
    let golden = include_str!("golden/transcript.txt");
    if transcript != golden {
        let differs = transcript
            .lines()
            .zip(golden.lines())
            .position(|(a, b)| a != b);
        panic!("first difference at line {differs:?}; now:\n{transcript}");
    }
    assert_eq!(
        fixture.told(),
        [
            "Start net",
            "Stop gateway",
            "Restart gateway",
            "Signal(9) gateway",
            "Signal(11) init",
            "MutationsRollback",
            "Reboot",
            "Poweroff",
            "Halt"
        ]
    );
}

#[test]
fn every_command_speaks_json_in_one_line_with_the_same_exit_code() {
    let fixture = Fixture::new();
    for line in LINES
        .iter()
        .filter(|l| !l.is_empty() && !l.contains('\'') && !l.contains("--for"))
    {
        let (code, value) = fixture.json(&format!("{line} --json"));
        assert_eq!(code, fixture.run(line).0, "{line}");
        assert!(value.is_object(), "{line}: {value}");
        assert_eq!(value.get("error").is_some(), code != 0, "{line}: {value}");
    }
    let commands: Vec<&str> = commands::all().map(|c| c.name).collect();
    let shown: Vec<&str> = LINES.iter().filter_map(|l| l.split(' ').next()).collect();
    assert!(commands.iter().all(|c| shown.contains(c)), "{commands:?}");
}

#[test]
fn figures_in_json_are_the_servers_own() {
    let fixture = Fixture::new();
    let status = fixture.json("status --json").1;
    assert_eq!(status["boot_id"], "ab".repeat(16));
    assert_eq!(status["mapped_bytes"], 98_362_432);
    assert_eq!(fixture.json("beat --json").1["lateness"][2], 1800);
    let tensor = fixture.json("tensor blk.0.attn_q.weight --json").1;
    assert_eq!(
        (&tensor["min"], &tensor["mean"]),
        (&json!(-2.5), &json!(0.375))
    );
    assert_eq!(
        tensor["first"],
        json!([0.0, 1.0, -2.5, 3.0, 0.5, 0.25, 0.0, 0.75])
    );
    let sensors = fixture.json("sensors --json").1;
    assert_eq!(sensors["registers"]["load.1m"], 0.25);
    assert_eq!(sensors["registers"]["cpu.use"], Value::Null);
    let journal = fixture.json("journal --json").1;
    assert_eq!(
        (&journal["holds"], &journal["rows"][2]["seq"]),
        (&json!(true), &json!(3))
    );
    assert_eq!(fixture.json("gateway token --json").1["token"], TOKEN);
    assert_eq!(
        fixture.json("ledger tail -n 2 --json").1["events"][1]["id"],
        3
    );
    let states = fixture.json("capacity --json").1;
    assert_eq!(states["consumed"]["C_gauge"], Value::Null);
}

#[test]
fn a_degraded_machine_says_why_and_is_not_ready() {
    let fixture = Fixture::new();
    fixture.machine.lock().unwrap().state = MachineState::Degraded;
    let (code, text) = fixture.run("ready 5");
    assert_eq!(
        (code, text.as_str()),
        (1, "degraded: net failed: 5 deaths in 60 s; no watchdog\n")
    );
    let (code, text) = fixture.run("status");
    assert_eq!(code, 0);
    assert!(
        text.contains("because     net failed: 5 deaths in 60 s\nbecause     no watchdog\n"),
        "{text}"
    );
    fixture.machine.lock().unwrap().state = MachineState::Starting;
    let (code, text) = fixture.run("ready 0");
    assert_eq!(
        (code, text.as_str()),
        (1, "not ready after 0 s: starting\n")
    );
}

#[test]
fn a_ledger_that_does_not_hold_fails_the_command() {
    let fixture = Fixture::new();
    fixture.machine.lock().unwrap().ledger_holds = false;
    let (code, text) = fixture.run("ledger verify");
    let shown = "ledger does NOT hold: 1 events, 512 B verified\nwrong    chain value differs\n\
                 event    2\noffset   512\nplace    log, byte 512\nchain    aa\nroot     bb\n";
    assert_eq!((code, text.as_str()), (1, shown));
    let (code, value) = fixture.json("ledger verify --json");
    assert_eq!(
        (code, &value["holds"], &value["bad"]["offset"]),
        (1, &json!(false), &json!(512))
    );
}

#[test]
fn a_checkpoint_kept_elsewhere_goes_with_the_question_and_silence_is_not_waited_for() {
    let fixture = Fixture::new();
    let (code, value) = fixture.json("ledger verify --key 'a b' --since another --json");
    let shown = (&value["bad"]["place"], &value["root"]);
    assert_eq!((code, shown), (1, (&json!("since"), &json!("a b"))));
    // Connected, but nobody is at work: the same short wait as for every other question.
    let (code, text) = fixture.run("ledger verify --since silence");
    assert_eq!(code, 1);
    assert!(text.starts_with("ledger: ledger does not answer"), "{text}");
}

#[test]
fn servers_that_are_not_there_are_named_and_never_waited_for() {
    let folder = tempfile::tempdir().unwrap();
    let site = Site::new(folder.path().to_owned(), Held::default());
    let run = |line: &str| {
        let mut attention = Unattended;
        let mut sink = Vec::new();
        let code = commands::run_line(line, &mut Context::new(&site, &mut attention), &mut sink);
        (
            code,
            String::from_utf8(sink)
                .unwrap()
                .replace(&folder.path().display().to_string(), "RUN"),
        )
    };
    let absent = |who: &str, socket: &str| {
        format!("{who} does not answer on RUN/{socket}: no such socket\n")
    };
    assert_eq!(
        run("status"),
        (1, "status: ".to_owned() + &absent("PID 1", "init.sock"))
    );
    assert_eq!(
        run("capacity"),
        (
            1,
            "capacity: ".to_owned() + &absent("capacity", "capacity.sock")
        )
    );
    assert_eq!(
        run("ledger"),
        (1, "ledger: ".to_owned() + &absent("ledger", "ledger.sock"))
    );
    assert_eq!(
        run("poweroff"),
        (1, "poweroff: ".to_owned() + &absent("PID 1", "init.sock"))
    );
    assert_eq!(run("ready 0").0, 1);
}

#[test]
fn a_server_that_says_nothing_is_given_up_on() {
    let folder = tempfile::tempdir().unwrap();
    let _silent = PacketListener::bind(&folder.path().join("init.sock"), Mode::Blocking).unwrap();
    let site = Site::new(folder.path().to_owned(), Held::default());
    let failure = site.init().map(|_| ()).unwrap_err().to_string();
    assert!(failure.ends_with("nothing within 2 s"), "{failure}");
}

#[test]
fn a_readonly_console_looks_and_changes_nothing() {
    let mut fixture = Fixture::new();
    fixture.site.power = Power::ReadOnly;
    for line in [
        "stop gateway",
        "signal init KILL",
        "reboot",
        "gateway token",
        "capacity request acme",
    ] {
        let (code, text) = fixture.run(line);
        assert_eq!(code, 1, "{line}");
        assert!(text.contains("readonly") && !text.contains(TOKEN), "{text}");
    }
    assert_eq!(fixture.run("status").0, 0);
    assert!(fixture.told().is_empty());
}

/// The result of a thread that is about to end, with a deadline.
fn ended<T>(thread: std::thread::JoinHandle<T>) -> T {
    let until = Instant::now() + PATIENCE;
    while !thread.is_finished() {
        assert!(Instant::now() < until, "the console does not end");
        std::thread::sleep(Duration::from_millis(5));
    }
    thread.join().unwrap()
}

/// Reads until the text is there, with a deadline.
fn expect(far: &mut File, seen: &mut String, wanted: &str) {
    let until = Instant::now() + PATIENCE;
    while !seen.contains(wanted) {
        assert!(Instant::now() < until, "no {wanted:?} in {seen:?}");
        if sys::terminal::readable(far.as_fd(), Duration::from_millis(50)).unwrap() {
            let mut buf = [0; 4096];
            let n = far.read(&mut buf).unwrap();
            seen.push_str(&String::from_utf8_lossy(&buf[..n]));
        }
    }
}

#[test]
fn a_person_sees_the_summary_the_prompt_and_warnings_above_the_line() {
    let fixture = Fixture::new();
    let (far, near) = sys::terminal::pair().unwrap();
    let site = fixture.site.clone();
    let console = std::thread::spawn(move || {
        serial::serve_person(&File::from(near), &site, serial::Mode::On(Power::Full))
    });
    let (mut far, mut seen) = (File::from(far), String::new());
    expect(&mut far, &mut seen, "vb> ");
    let summary = "ready: package /dev/vdb b3:0011223344556677 | Tiny Llama, 3 tensors, 93.8 MiB mapped | \
                   first beat 9.500 ms, services ready 84.000 ms | token: gateway token\r\n\
                   help \u{b7} poweroff \u{b7} Ctrl-A X leaves QEMU\r\nvb> ";
    assert!(seen.ends_with(summary), "{seen:?}");
    assert!(!seen.contains(TOKEN));

    far.write_all(b"gatew\t").unwrap();
    expect(&mut far, &mut seen, "vb> gateway ");
    seen.clear();
    fixture
        .machine
        .lock()
        .unwrap()
        .log
        .push((4, "net", 4, "eth0 down".into()));
    expect(
        &mut far,
        &mut seen,
        "[    6.000] net: WARNING eth0 down\r\nvb> gateway ",
    );
    far.write_all(b"token\r").unwrap();
    expect(&mut far, &mut seen, TOKEN);
    expect(&mut far, &mut seen, "\r\nvb> ");

    seen.clear();
    far.write_all(b"signal gateway KILL\r").unwrap();
    expect(&mut far, &mut seen, "send KILL (9) to gateway? [y/N] ");
    far.write_all(b"n").unwrap();
    expect(&mut far, &mut seen, "not sent\r\nvb> ");
    assert!(fixture.told().is_empty());

    seen.clear();
    far.write_all(b"tensor tok\t\r").unwrap();
    expect(&mut far, &mut seen, "tensor token_embd.weight");
    expect(
        &mut far,
        &mut seen,
        "first   NaN 1.000000 2.000000 3.000000\r\nvb> ",
    );
    seen.clear();
    far.write_all(b"log -f\r").unwrap();
    expect(&mut far, &mut seen, "eth0 down\r\n");
    far.write_all(b"q").unwrap();
    // The prompt follows the last line at once: the key ended the command and was not typed.
    expect(&mut far, &mut seen, "eth0 down\r\nvb> ");
    far.write_all(b"\x04").unwrap();
    ended(console).unwrap();
}

#[test]
fn ctrl_c_ends_an_answer_and_what_is_pasted_is_read_in_order() {
    let fixture = Fixture::new();
    let long = (10..400).map(|seq| (seq, "net", 6, "x".repeat(200)));
    fixture.machine.lock().unwrap().log.extend(long);
    let (far, near) = sys::terminal::pair().unwrap();
    let site = fixture.site.clone();
    let console = std::thread::spawn(move || {
        serial::serve_person(&File::from(near), &site, serial::Mode::On(Power::Full))
    });
    let (mut far, mut seen) = (File::from(far), String::new());
    expect(&mut far, &mut seen, "poweroff");
    expect(&mut far, &mut seen, "vb> ");
    // More than a terminal holds that nobody reads: the answer is stopped in its midst.
    seen.clear();
    far.write_all(b"log -n 500\r").unwrap();
    expect(&mut far, &mut seen, "net: x");
    far.write_all(b"gone\x03").unwrap();
    expect(&mut far, &mut seen, "^C\r\nvb> ");
    assert!(seen.matches("net: x").count() < 390);

    // Of what is pasted at once the second line answers the first one's question.
    seen.clear();
    far.write_all(b"signal gateway KILL\rn").unwrap();
    expect(&mut far, &mut seen, "[y/N] no\r\nnot sent\r\nvb> ");
    assert!(fixture.told().is_empty());
    far.write_all(b"\x04").unwrap();
    ended(console).unwrap();
}

#[test]
fn a_hung_up_terminal_ends_the_console_cleanly() {
    let fixture = Fixture::new();
    let (far, near) = sys::terminal::pair().unwrap();
    let site = fixture.site.clone();
    let console = std::thread::spawn(move || {
        serial::serve_person(&File::from(near), &site, serial::Mode::On(Power::Full))
    });
    let (mut far, mut seen) = (File::from(far), String::new());
    expect(&mut far, &mut seen, "vb> ");
    drop(far);
    // Linux answers a hung-up pseudo-terminal with an end of file or with EIO; both end it.
    let _ = ended(console);
}

#[test]
fn a_program_gets_output_and_exit_code_and_nothing_else() {
    let fixture = Fixture::new();
    let (ours, theirs) = UnixStream::pair().unwrap();
    let site = fixture.site.clone();
    let theirs = File::from(OwnedFd::from(theirs));
    let console = std::thread::spawn(move || programs::serve(&theirs, &site));
    let mut far = File::from(OwnedFd::from(ours.try_clone().unwrap()));
    let mut seen = String::new();
    far.write_all(b"\n").unwrap();
    expect(&mut far, &mut seen, "\u{1e}0\n");
    assert_eq!(seen, "\u{1e}0\n");
    for (line, answer) in [
        (
            "ledger tail -n 1\n",
            "     3  03:04:03.250  system service:init service_started gateway  {\"pid\":12,\"text\":\"\\u001b\"}\n\u{1e}0\n",
        ),
        ("gateway token\r\n", &format!("{TOKEN}\n\u{1e}0\n")),
        (
            "log gateway\n",
            "[    3.000] gateway: WARNING no token yet ?[2J\n\u{1e}0\n",
        ),
        (
            "bogus\n",
            "bogus: unknown command (help lists them)\n\u{1e}2\n",
        ),
        (
            "tensor absent\n",
            "tensor: no tensor \"absent\" among 3\n\u{1e}1\n",
        ),
    ] {
        seen.clear();
        far.write_all(line.as_bytes()).unwrap();
        expect(&mut far, &mut seen, "\u{1e}");
        expect(&mut far, &mut seen, answer.rsplit('\u{1e}').next().unwrap());
        assert_eq!(seen, answer, "{line:?}");
    }
    // What follows something ends at the next line, which is answered too.
    seen.clear();
    far.write_all(b"log -f -n 0\nparams --json\n").unwrap();
    expect(&mut far, &mut seen, "\u{1e}0\n{\"params\"");
    expect(&mut far, &mut seen, "]}\n\u{1e}0\n");
    drop((far, ours));
    ended(console).unwrap();
}

#[test]
fn a_console_that_is_off_answers_programs_with_a_refusal() {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let theirs = File::from(OwnedFd::from(theirs));
    let console = std::thread::spawn(move || programs::refuse(&theirs));
    let mut far = File::from(OwnedFd::from(ours));
    let mut seen = String::new();
    far.write_all(b"status\n").unwrap();
    expect(&mut far, &mut seen, "\u{1e}1\n");
    assert_eq!(seen, "console is off: vb.console_mode is off\n\u{1e}1\n");
    drop(far);
    ended(console).unwrap();
}

/// Any bytes as command lines without servers: never a panic, always an exit code, never a control.
fn fuzz_body(data: &[u8], site: &Site) {
    let mut lines = programs::Lines::default();
    for line in lines.feed(data) {
        let programs::Line::Text(line) = line else {
            continue;
        };
        // These wait for what never comes here, or read the machine that runs the test.
        if ["ready", "mounts", "ps", "mem", "net", "dmesg"]
            .iter()
            .any(|w| line.contains(w))
        {
            continue;
        }
        let mut attention = Unattended;
        let mut sink = Vec::new();
        let code = commands::run_line(&line, &mut Context::new(site, &mut attention), &mut sink);
        assert!(code <= 2);
        let text = String::from_utf8(sink).unwrap();
        assert!(
            !text.chars().any(|c| c != '\n' && super::text::is_unsafe(c)),
            "{text:?}"
        );
    }
}

#[test]
fn no_bytes_from_a_program_or_a_keyboard_panic() {
    let folder = tempfile::tempdir().unwrap();
    let site = Site::new(folder.path().to_owned(), Held::default());
    let words: Vec<&str> = commands::all()
        .flat_map(|c| [c.name, c.usage])
        .chain(LINES.iter().copied())
        .collect();
    // A fixed seed (xorshift64): the same bytes every time.
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    let until = Instant::now() + Duration::from_secs(1);
    let mut rounds = 0;
    while Instant::now() < until || rounds == 0 {
        let mut data = Vec::new();
        for _ in 0..next() % 12 {
            match next() % 5 {
                0 => data.push(next() as u8),
                1 => data.extend(next().to_le_bytes()),
                2 => data.extend(b" --json "),
                _ => data.extend(words[next() as usize % words.len()].as_bytes()),
            }
            data.push([b' ', b'\n', b'\x1b', b'\''][next() as usize % 4]);
        }
        data.push(b'\n');
        fuzz_body(&data, &site);
        super::editor::fuzz_body(&data);
        rounds += 1;
    }
}
