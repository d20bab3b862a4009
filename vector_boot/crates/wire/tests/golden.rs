//! The bytes of every frame, pinned by files under `tests/golden/wire/` of the workspace.
//!
//! One example of each kind, and of each variant where the body is an enum. A file that changes
//! means another version of the protocol: say so in the commit. `VB_BLESS=1` writes the files anew.
//! Start with [`examples`]; `docs/wire.md` says the same in prose.
#![forbid(unsafe_code)]

use std::collections::BTreeSet;
use std::fmt::Debug;
use std::path::PathBuf;

use serde::Deserialize;
use wire::capacity::{self, Knob, Want, Write};
use wire::control::{self, LATENESS_BUCKETS, MachineState, Power, ServiceState, Verb};
use wire::evolution::{self, Misbehaviour, Verdict};
use wire::helper::{Cell, Outcome, Task};
use wire::ledger::{self, Origin};
use wire::neural;
use wire::upgrade;
use wire::why;
use wire::work;
use wire::{Done, Frame, HEADER_BYTES, Hello, Kind, Message, PACKET_BYTES_MAX, Refused};

const BOOT_ID: [u8; 16] = *b"0123456789abcdef";
/// Each byte differs, so that a swap of bytes or fields shows.
const ID: u64 = 0x0102_0304_0506_0708;
const BIG: u64 = 0x1122_3344_5566_7788;

fn folder() -> PathBuf {
    // The workspace's root is three levels above this crate.
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../../tests/golden/wire")
}

/// The frames under test, and what was found wrong with them.
#[derive(Default)]
struct Golden {
    names: BTreeSet<String>,
    kinds: BTreeSet<u16>,
    findings: Vec<String>,
}

impl Golden {
    /// The first example of a kind: `KIND.bin`.
    fn kind<M>(&mut self, body: &M)
    where
        M: Message + Deserialize<'static> + PartialEq + Debug,
    {
        self.file(&format!("{:?}", M::KIND), body);
    }

    /// Another example of a kind: `KIND-VARIANT.bin`.
    fn variant<M>(&mut self, variant: &str, body: &M)
    where
        M: Message + Deserialize<'static> + PartialEq + Debug,
    {
        self.file(&format!("{:?}-{variant}", M::KIND), body);
    }

    fn file<M>(&mut self, name: &str, body: &M)
    where
        M: Message + Deserialize<'static> + PartialEq + Debug,
    {
        let name = format!("{name}.bin");
        let path = folder().join(&name);
        let mut buf = vec![0; PACKET_BYTES_MAX];
        let packet = wire::encode(ID, body, &mut buf).expect("an example fits a packet");
        if std::env::var_os("VB_BLESS").is_some() {
            std::fs::create_dir_all(folder()).expect("make the folder");
            std::fs::write(&path, packet).expect("write a golden file");
        }
        // Leaked: a body borrows its texts from the packet, and a test is soon over.
        let golden: &'static [u8] =
            Vec::leak(std::fs::read(&path).unwrap_or_else(|e| panic!("{name}: {e}")));
        if golden != packet {
            self.findings.push(format!(
                "{name}: encodes to\n  {packet:02x?}, pinned is\n  {golden:02x?}"
            ));
        }
        match Frame::open(golden).and_then(|frame| Ok((frame.id, frame.body::<M>()?))) {
            Ok((ID, decoded)) if decoded == *body => {}
            other => self
                .findings
                .push(format!("{name}: decodes to {other:?}, expected {body:?}")),
        }
        self.every_cut_is_refused::<M>(&name, golden);
        self.kinds.insert(M::KIND as u16);
        self.names.insert(name);
    }

    /// A packet that lost its end is no frame: no body has a shorter form of itself.
    fn every_cut_is_refused<M>(&mut self, name: &str, golden: &'static [u8])
    where
        M: Message + Deserialize<'static>,
    {
        for cut in 0..golden.len() {
            if Frame::open(&golden[..cut]).is_ok_and(|frame| frame.body::<M>().is_ok()) {
                self.findings
                    .push(format!("{name}: {cut} bytes were taken"));
            }
        }
    }
}

fn examples(golden: &mut Golden) {
    general(golden);
    machine(golden);
    helper(golden);
    of_ledger(golden);
    of_work(golden);
    of_capacity(golden);
    plans(golden);
    of_evolution(golden);
}

fn general(golden: &mut Golden) {
    golden.kind(&Hello {
        min: 1,
        max: 0x0203,
    });
    golden.kind(&Refused {
        code: "BAD_REQUEST",
        field: "name",
        value: "x",
        limit: "1 to 32 bytes",
    });
    golden.kind(&Done { count: 300 });
}

fn machine(golden: &mut Golden) {
    golden.kind(&control::StatusGet);
    golden.kind(&control::Status {
        state: MachineState::Degraded,
        reason: "data: no partition named data; files end with this boot",
        package: "/dev/vda 0011223344556677 unsigned",
        model: "SmolLM2",
        tensors: 272,
        mapped_bytes: 98_362_432,
        boot_id: BOOT_ID,
        hostname: "vector",
        uptime_ns: BIG,
        beats: 4242,
        beats_missed: 1,
        period_ms: 100,
        services_up: 4,
        services: 5,
        watchdog: "none",
        version: "0.1.0",
        pid: 1,
        unconfined: "",
        signer: "2152f8d19b791d24453242e15f2eab6cb7cffa7b6a5ed30097960e069881db12",
        trusted_keys: "2152f8d19b791d24 1398f62c6d1a457c",
        init_digest: "c0ffee0123456789",
        init_from: "package /dev/vda",
    });
    golden.kind(&control::ServicesGet);
    golden.kind(&control::Service {
        name: "gateway",
        state: ServiceState::Backoff,
        pid: 0,
        uid: 903,
        restarts: 3,
        uptime_ns: 0,
        ready_ns: 8_000_000,
        memory_bytes: 6_291_456,
        last_exit: "signal 9 after 12 ms",
        status: "serving",
        backoff_ns: 200_000_000,
        confined: true,
    });
    golden.kind(&control::Control {
        verb: Verb::Restart,
        name: "gateway",
    });
    golden.variant(
        "signal",
        &control::Control {
            verb: Verb::Signal(11),
            name: "init",
        },
    );
    golden.kind(&control::LogGet {
        name: "ledger",
        lines: 20,
        after: 1000,
    });
    golden.kind(&control::LogLine {
        seq: 1001,
        at_ns: BIG,
        name: "ledger",
        level: 4,
        text: "disk slow: ms=12 \u{e9}",
    });
    golden.kind(&control::BeatGet);
    golden.kind(&control::Beat {
        count: 4242,
        period_ns: 100_000_000,
        missed: 1,
        coalesced: 2,
        cpu_last_ns: 31_000,
        cpu_max_ns: 900_000,
        lateness: core::array::from_fn::<u32, LATENESS_BUCKETS, _>(|i| 100 * i as u32),
        late_max_ns: 12_000_000,
        orphans: 7,
    });
    golden.kind(&control::BootGet);
    golden.kind(&control::Phase {
        name: "ready:ledger",
        begin_ns: 1_000_000,
        end_ns: 9_000_000,
        note: "",
    });
    golden.kind(&control::ParamsGet);
    golden.kind(&control::Param {
        key: "vb.heartbeat_ms",
        value: "50",
        source: "cmdline",
    });
    golden.kind(&Power::Halt);
    golden.kind(&control::DescriptorGet { name: "sensors" });
    golden.kind(&control::Descriptor { name: "sensors" });
    golden.kind(&why::WhyGet { subject: "gateway" });
    golden.kind(&why::Why {
        number: 300,
        at_ns: BIG,
        reason: why::Reason::OutOfMemory,
        subject: "gateway",
        facts: "{\"pid\":42}",
    });
    golden.kind(&why::WatchdogGet);
    golden.kind(&why::Watchdog {
        driver: "Software Watchdog",
        software: true,
        armed: true,
        timeout_s: 60,
        left_s: Some(59),
        boot_status: 0x20,
        fed: 4242,
        held_back: 1,
    });
    golden.kind(&why::PressureGet);
    golden.kind(&why::Pressure {
        subject: "gateway",
        some_avg10: 1234,
        stalls: 3,
        stalled_ago_ns: BIG,
        oom_kills: 2,
        at_limit: 300,
        peak_bytes: 98_362_432,
    });
    golden.kind(&control::ClockSet {
        wall_ns: BIG,
        at_ns: ID,
        error_ns: 1_000_000,
        source: "ntp 10.0.2.2:123",
    });
    golden.kind(&upgrade::Upgrade {
        place: "share/new.rts",
        keep: true,
    });
    golden.kind(&upgrade::Rollback);
    golden.kind(&upgrade::UpgradeGet);
    golden.kind(&upgrade::UpgradeStatus {
        step: upgrade::Step::Watching,
        service: "gateway",
        left_ns: BIG,
        from: "/dev/vdb 0011223344556677 signed",
        to: "share/new.rts 8899aabbccddeeff signed",
        end: upgrade::End::RolledBack,
        reason: "service died: gateway",
        before: "/dev/vdb 0011223344556677 signed",
        count: 3,
        until_reboot: true,
    });
    golden.kind(&neural::JournalGet {
        after: BIG,
        rows: neural::ROWS_MAX,
    });
    golden.kind(&neural::JournalRow { row: &BOOT_ID });
    golden.kind(&neural::InterruptsGet);
    golden.kind(&neural::Interrupt {
        register: 19,
        above: true,
        threshold: 10.0,
        hysteresis: 5.0,
        raised: true,
        count: 3,
        changed_ns: BIG,
        handler: "reclaim",
    });
}

fn helper(golden: &mut Golden) {
    golden.kind(&Task::VerifyPackage);
    golden.variant(
        "mount",
        &Task::Mount {
            source: "/dev/vda2",
            target: "/data",
            fstype: "ext4",
            read_only: false,
        },
    );
    golden.variant(
        "folder",
        &Task::Folder {
            path: "/data/notes",
            uid: 903,
            mode: 0o755,
        },
    );
    golden.variant(
        "seed",
        &Task::Seed {
            path: "/data/notes/welcome.txt",
            uid: 903,
            content: "hello\n",
        },
    );
    golden.variant(
        "load",
        &Task::Load {
            name: "vb-services",
            blake3: "51e0aa3f4c62d91751e0aa3f4c62d91751e0aa3f4c62d91751e0aa3f4c62d917",
        },
    );
    golden.variant(
        "scrub",
        &Task::Scrub {
            first: 64,
            count: 64,
        },
    );
    golden.variant("unmount", &Task::Unmount { target: "/data" });
    golden.variant("leases", &Task::Leases(plan()));
    golden.variant("open", &Task::Open { path: "/data/work" });
    golden.variant("look", &Task::Look { path: "/data" });
    golden.variant(
        "grow-partition",
        &Task::GrowPartition {
            device: "/dev/vda2",
            name: "data",
        },
    );
    golden.variant(
        "grow-file-system",
        &Task::GrowFileSystem {
            device: "/dev/vda2",
            target: "/data",
        },
    );
    golden.variant(
        "cell",
        &Task::Cell(Cell {
            service: "ticker",
            profile: "foreign",
            foreign: true,
            uid: 30005,
            data: true,
            notify: true,
            network: false,
            tmp_bytes: 16 << 20,
            sockets: "a.sock:b.sock",
        }),
    );
    golden.variant(
        "clock",
        &Task::Clock {
            wall_ns: BIG,
            at_ns: ID,
            step: true,
        },
    );
    golden.variant("randomness", &Task::Randomness);
    golden.variant("switches", &Task::Switches);
    golden.variant(
        "open-package",
        &Task::OpenPackage {
            path: "new/app.rts",
        },
    );
    golden.variant(
        "inspect",
        &Task::Inspect {
            keys: "vbk1 0011\nvbk1 2233",
            required: true,
        },
    );
    golden.variant("keep-package", &Task::KeepPackage { device: "/dev/vdb" });
    golden.variant("pstore", &Task::Pstore { forget: true });
    golden.variant(
        "tune",
        &Task::Tune {
            service: "gateway",
            knob: wire::helper::Tune::MemoryHigh(98_362_432),
        },
    );
    golden.kind(&Outcome {
        ok: false,
        detail: "mount /dev/vda2 on /data: EIO",
        figure: 0,
    });
}

fn of_ledger(golden: &mut Golden) {
    golden.kind(&ledger::LastTimeGet);
    golden.kind(&ledger::LastTime { wall_ns: BIG });
    golden.kind(&ledger::LastBootGet { boot_id: BOOT_ID });
    golden.kind(&ledger::LastBoot {
        boot_id: BOOT_ID,
        event_id: ID,
        event_type: "machine_stopping",
        wall_ns: BIG,
        timestamp_ns: 300,
        stopping: "{\"how\":\"poweroff\",\"reason\":\"power_button\"}",
        stopping_actor: "user:power-button",
    });
    golden.kind(&ledger::Append {
        origin: Some(Origin {
            boot_id: BOOT_ID,
            producer: 903,
            sequence: 77,
        }),
        ns: "gateway",
        actor: "agent:boot",
        tenant_id: "default",
        event_type: "tool_called",
        subject: "fs_read",
        payload: "{\"outcome\":\"success\"}",
        causation_id: Some(41),
        timestamp_ns: Some(BIG),
    });
    let plain = ledger::Append {
        origin: None,
        ns: "system",
        actor: "user:console",
        tenant_id: "system",
        event_type: "command",
        subject: "gateway",
        payload: "{}",
        causation_id: None,
        timestamp_ns: None,
    };
    golden.variant("plain", &plain);
    golden.kind(&ledger::Appended {
        event_id: 42,
        commit_id: [0xab; 32],
        repeated: true,
    });
    let appended = ledger::Appended {
        event_id: 43,
        commit_id: [0xef; 32],
        repeated: false,
    };
    golden.kind(&ledger::AppendMany {
        events: [plain, plain].into_iter().collect(),
    });
    golden.kind(&ledger::AppendedMany {
        events: [appended, appended].into_iter().collect(),
    });
    golden.kind(&ledger::HeadGet);
    golden.kind(&ledger::Head {
        event_id: 42,
        chain: [0xcd; 32],
        writable: true,
    });
}

fn of_work(golden: &mut Golden) {
    golden.kind(&work::Publish {
        tenant_id: "",
        topic: "echo/jobs",
        qos: work::Qos::ExactlyOnce,
        ulid: Some(BOOT_ID),
        ttl_ms: Some(60_000),
        headers: "{\"priority\":\"high\"}",
        payload: "{\"n\":1}",
    });
    golden.kind(&work::Published {
        event_id: 42,
        ulid: BOOT_ID,
        shard: 63,
        repeated: true,
    });
    golden.kind(&work::JobEnqueue {
        tenant_id: "uid-30001",
        queue: "default",
        manifest: "{\"command\":[\"true\"]}",
    });
    golden.kind(&work::JobEnqueued {
        job: [0xab; 32],
        event_id: 42,
        repeated: false,
    });
    let claim = work::JobClaim {
        tenant_id: "",
        wanted: work::JobWanted::Next("default"),
        lease_ms: 60_000,
        key: Some([0xcd; 32]),
    };
    golden.kind(&claim);
    let job = [0xab; 32];
    for (variant, wanted) in [
        ("job", work::JobWanted::Job(job)),
        ("renew", work::JobWanted::Renew { job, claim: 300 }),
    ] {
        golden.variant(variant, &work::JobClaim { wanted, ..claim });
    }
    golden.kind(&work::JobClaimed {
        job,
        claim: 300,
        until_ms: BIG,
        queue: "default",
        manifest: "{\"command\":[\"true\"]}",
    });
    golden.kind(&work::JobRelease {
        tenant_id: "",
        job,
        claim: 300,
    });
    golden.kind(&work::JobResult {
        tenant_id: "",
        job,
        claim: 300,
        result: "{}",
        attestation: "{\"exit\":0}",
        key: [0xcd; 32],
        sig: [[1; 32], [2; 32]],
    });
}

fn of_capacity(golden: &mut Golden) {
    let want = Want {
        min: 100,
        want: 5000,
        weight: 10,
    };
    golden.kind(&capacity::Request {
        tenant_id: "default",
        workload_id: "batch",
        axes: [Some(want), None, None, Some(want), None],
        duration_s: 3600,
        priority: 4,
        permissions: capacity::permission::TOOLS | capacity::permission::LEDGER,
    });
    golden.kind(&capacity::Grant {
        admitted: true,
        token: "vbt1.example",
        grants: [5000, 0, 0, 4000, 0],
        axes_failed: 0b0_0010,
        gates_failed: 0b1000,
        expires_ms: 3_600_000,
        slot: 7,
        reason: "",
    });
    golden.kind(&capacity::Check {
        token: "vbt1.example",
        operation: "tool:fs_read",
        cpu_us: 500,
        memory_bytes: 65_536,
    });
    golden.kind(&capacity::Checked {
        verdict: capacity::Verdict::Quota,
        bucket: "ops",
        retry_after_ms: 20,
        remaining: 0,
        gates_failed: 0,
        epoch: 9,
        actor: "agent:batch",
        tenant_id: "default",
        reason: "ops is empty",
    });
    golden.kind(&capacity::Release {
        token: "vbt1.example",
    });
    golden.kind(&capacity::Revoke { slot: 7 });
    golden.kind(&capacity::StateGet);
    golden.kind(&capacity::State {
        ticks: 600,
        epoch: 9,
        budget: [9000, 9500, 10_000, 8500, 9000],
        granted: [5000, 0, 1, 4000, 2],
        consumed: [Some(120), None, Some(3), None, None],
        leases: 2,
        checks: 1000,
        denied: 4,
    });
    golden.kind(&capacity::LeasesGet);
    golden.kind(&capacity::Lease {
        slot: 7,
        tenant_id: "default",
        workload_id: "batch",
        grants: [5000, 0, 0, 4000, 0],
        expires_ms: u64::MAX,
        priority: 4,
        checks: 1000,
    });
    golden.kind(&capacity::Identify {
        token: "vbt1.example",
    });
    golden.kind(&capacity::Identity {
        valid: true,
        actor: "agent:batch",
        tenant_id: "default",
        permissions: capacity::permission::TOOLS,
        reason: "",
    });
    golden.kind(&capacity::GatesGet);
    golden.kind(&capacity::Gate {
        name: "fit",
        verdict: capacity::GateVerdict::Fail,
        score_milli: Some(1250),
        ticks: 12,
    });
}

fn plan() -> capacity::CgroupPlan {
    let write = |slot, knob| Write { slot, knob };
    capacity::CgroupPlan {
        epoch: 9,
        shrinks: [
            write(3, Knob::CpuMaxUs(50_000)),
            write(3, Knob::MemoryMax(1 << 30)),
        ]
        .into_iter()
        .collect(),
        grows: [write(7, Knob::CpuWeight(200)), write(7, Knob::PidsMax(0))]
            .into_iter()
            .collect(),
        removed: [5].into_iter().collect(),
    }
}

fn plans(golden: &mut Golden) {
    golden.kind(&plan());
    golden.kind(&capacity::CgroupReadback {
        epoch: 9,
        applied: false,
        detail: "no cgroups",
    });
}

fn of_evolution(golden: &mut Golden) {
    golden.kind(&evolution::EvolutionOpen);
    golden.kind(&evolution::EvolutionChannel {
        version: 1,
        bytes: 544_768,
        generation: 0,
    });
    golden.kind(&evolution::EvolutionGet);
    golden.kind(&evolution::EvolutionStatus {
        generation: 300,
        oldest: 12,
        base: [0xba; 32],
        content: [0xc0; 32],
        accepted: 301,
        refused: BIG,
        rolled_back: 2,
        proposers: 1,
        durable: true,
    });
    golden.kind(&evolution::MutationsGet { count: 20 });
    golden.kind(&evolution::Mutation {
        wall_ns: BIG,
        verdict: Verdict::OldHashDiffers,
        generation: 300,
        restored: 0,
        uid: 30_007,
        count: 5,
        id: ID,
        tensor: "policy.w1",
        offset: 256,
        length: 128,
        confidence: 0.875,
    });
    golden.kind(&evolution::MutationsRollback { generation: 299 });
    golden.kind(&evolution::Generation { number: 301 });
    golden.kind(&evolution::GenerationGet);
    golden.kind(&evolution::GenerationStatus {
        number: 300,
        trial_beats_left: 42,
        given_up: 299,
        why: Misbehaviour::Clamped,
    });
}

#[test]
fn every_frame_has_the_bytes_that_are_pinned() {
    let mut golden = Golden::default();
    examples(&mut golden);
    let kinds = Kind::ALL
        .iter()
        .filter(|kind| !golden.kinds.contains(&(**kind as u16)));
    let mut findings: Vec<String> = kinds.map(|kind| format!("{kind:?}: no example")).collect();
    for entry in std::fs::read_dir(folder()).expect("the golden folder") {
        let name = entry.expect("an entry").file_name();
        if !golden.names.contains(name.to_string_lossy().as_ref()) {
            findings.push(format!("{}: belongs to no example", name.display()));
        }
    }
    findings.append(&mut golden.findings);
    assert!(findings.is_empty(), "{}", findings.join("\n"));
}

#[test]
fn the_header_of_a_frame_is_version_kind_and_id() {
    let body = ledger::Appended {
        event_id: 42,
        commit_id: [0xab; 32],
        repeated: true,
    };
    let mut buf = [0; 64];
    let packet = wire::encode(ID, &body, &mut buf).expect("it fits");
    assert_eq!(packet[..2], 1u16.to_le_bytes());
    assert_eq!(packet[2..4], 0x0302u16.to_le_bytes());
    assert_eq!(packet[4..HEADER_BYTES], ID.to_le_bytes());
    // Then event_id 42 as a varint, 32 bytes of commit_id, and the bool.
    assert_eq!(packet[HEADER_BYTES], 42);
    assert_eq!(packet[HEADER_BYTES + 1..HEADER_BYTES + 33], [0xab; 32]);
    assert_eq!(packet[HEADER_BYTES + 33..], [1]);
}
