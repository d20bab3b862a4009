//! What the machine has and what of it is in use, read from `/proc`, the cgroup tree and stats pages.
//!
//! What is not there is `None`, never zero. Parsers take text; [`Meter`] reads the files.

use capacity_core::allocate::Node;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use sys::seqlock::Reader;
use wire::capacity::{AXES, BASIS_POINTS};
use wire::{sensors, stats};

/// Operations a second of one node; measured: checks over the socket alone pass this on two cores.
const OPERATIONS: u64 = 50_000;
/// Connections at once: the gateway's own bound.
const CONNECTIONS: u32 = 1024;
/// Bytes a second to storage: a virtio disk of a small machine.
const STORAGE_BYTES: u64 = 200 << 20;
/// Commits a second of the ledger on such a disk, in groups.
const COMMITS: u64 = 2000;
/// Observations a second: lines and series of a serial console's and a scraper's order.
const OBSERVATIONS: u64 = 10_000;
/// Descriptors at once: the default hard limit of Linux is far above; this keeps tables small.
const DESCRIPTORS: u32 = 65_536;
/// Memory taken for granted where `/proc/meminfo` is not there.
const MEMORY_BYTES_FALLBACK: u64 = 256 << 20;
/// Tasks taken for granted where `/proc` is not there: the kernel's default `pid_max`.
const TASKS_FALLBACK: u32 = 32_768;

/// Busy and all time of every processor, in ticks since boot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CpuTime {
    busy: u64,
    all: u64,
}

/// Reads the first line of `/proc/stat`. Idle and iowait are not busy; guest time is part of user.
#[must_use]
pub fn parse_stat(text: &str) -> Option<CpuTime> {
    let line = text.lines().next()?.strip_prefix("cpu ")?;
    let times: Vec<u64> = line
        .split_ascii_whitespace()
        .take(8)
        .map(|n| n.parse().ok())
        .collect::<Option<_>>()?;
    let idle = times.get(3)?.checked_add(*times.get(4)?)?;
    let all = times
        .iter()
        .try_fold(0u64, |sum, time| sum.checked_add(*time))?;
    let busy = all.checked_sub(idle)?;
    Some(CpuTime { busy, all })
}

/// Reads total and available bytes from `/proc/meminfo`.
#[must_use]
pub fn parse_meminfo(text: &str) -> Option<(u64, u64)> {
    let field = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name))?;
        let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
        kib.checked_mul(1024)
    };
    Some((field("MemTotal:")?, field("MemAvailable:")?))
}

/// Reads the number of tasks from `/proc/loadavg` (`... 2/345 678`).
#[must_use]
pub fn parse_tasks(text: &str) -> Option<u64> {
    let (_, all) = text.split_ascii_whitespace().nth(3)?.split_once('/')?;
    all.parse().ok()
}

/// A part of a whole in basis points, at most the whole.
fn points(part: u64, whole: u64) -> Option<u16> {
    let full = u128::from(BASIS_POINTS);
    let share = (u128::from(part) * full).checked_div(u128::from(whole))?;
    u16::try_from(share.min(full)).ok()
}

/// Reads the machine once a tick.
pub struct Meter {
    proc: PathBuf,
    node: Node,
    cpu: Option<CpuTime>,
    operations: u64,
    /// Pages of other services by name, as far as they were passed.
    pages: Vec<(String, Reader)>,
    sensors: Option<Reader>,
    commits: Option<u64>,
}

impl Meter {
    /// A meter over the `proc` folder, and over stats pages that were passed.
    #[must_use]
    pub fn new(proc: &Path, pages: Vec<(String, OwnedFd)>) -> Self {
        let readers = pages.into_iter().filter_map(|(name, fd)| {
            let reader = Reader::over(&fd, stats::MAGIC);
            Some((name, reader.ok()?))
        });
        Self {
            proc: proc.to_owned(),
            node: node(proc),
            cpu: None,
            operations: 0,
            pages: readers.collect(),
            sensors: None,
            commits: None,
        }
    }

    /// Reads PID 1's sensor page from now on, which says how much load is to be shed.
    pub fn watch_sensors(&mut self, page: &OwnedFd) {
        self.sensors = Reader::over(page, sensors::MAGIC).ok();
    }

    /// Basis points of the budget that PID 1 asks to be kept free; 0 where nobody asks.
    #[must_use]
    pub fn shed(&self) -> u16 {
        let word = sensors::REGISTERS_WORD + sensors::index::CONTROL_SHED / 2;
        let pair = self.sensors.as_ref().and_then(|page| page.word(word).ok());
        // Register 61 is the upper half of its word; NaN becomes 0, and the cast saturates.
        let percent = f32::from_bits((pair.unwrap_or(0) >> 32) as u32);
        (percent * 100.0).clamp(0.0, f32::from(BASIS_POINTS)) as u16
    }

    /// What the machine has.
    #[must_use]
    pub fn node(&self) -> Node {
        self.node
    }

    /// Use of every axis since the last call; `operations` counts checks that passed since start.
    pub fn consumed(&mut self, operations: u64) -> [Option<u16>; AXES] {
        let cpu = self.read("stat").and_then(|text| parse_stat(&text));
        let geo = match (self.cpu, cpu) {
            (Some(old), Some(new)) => points(
                new.busy.saturating_sub(old.busy),
                new.all.saturating_sub(old.all),
            ),
            _ => None,
        };
        self.cpu = cpu;
        let passed = operations.saturating_sub(std::mem::replace(&mut self.operations, operations));
        let int = points(passed, self.node.operations);
        let commits = self.page_word("ledger", "commits");
        let gauge = match (self.commits, commits) {
            (Some(old), Some(new)) => points(new.saturating_sub(old), self.node.commits),
            _ => None,
        };
        self.commits = commits;
        let memory = self
            .read("meminfo")
            .and_then(|text| parse_meminfo(&text))
            .and_then(|(total, available)| points(total.saturating_sub(available), total));
        let tasks = self
            .read("loadavg")
            .and_then(|text| points(parse_tasks(&text)?, self.node.tasks.into()));
        let ptr = memory.max(tasks);
        let obs = self
            .page_word("gateway", "series_gauge")
            .and_then(|series| points(series, self.node.observations));
        [geo, int, gauge, ptr, obs]
    }

    fn page_word(&self, service: &str, counter: &str) -> Option<u64> {
        let (_, page) = self.pages.iter().find(|(name, _)| name == service)?;
        page.word(stats::word(counter)?).ok()
    }

    fn read(&self, name: &str) -> Option<String> {
        std::fs::read_to_string(self.proc.join(name)).ok()
    }
}

/// What the machine has, as `proc` tells; constants where nothing tells.
fn node(proc: &Path) -> Node {
    let read = |name: &str| std::fs::read_to_string(proc.join(name)).ok();
    let number = |name: &str| read(name)?.trim().parse::<u32>().ok();
    let memory = read("meminfo").and_then(|text| parse_meminfo(&text));
    let tasks = [
        number("sys/kernel/pid_max"),
        number("sys/kernel/threads-max"),
    ];
    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    Node {
        cpus: u32::try_from(cpus).unwrap_or(1),
        memory_bytes: memory.map_or(MEMORY_BYTES_FALLBACK, |(total, _)| total),
        tasks: tasks.into_iter().flatten().min().unwrap_or(TASKS_FALLBACK),
        descriptors: DESCRIPTORS,
        connections: CONNECTIONS,
        operations: OPERATIONS,
        storage_bytes: STORAGE_BYTES,
        commits: COMMITS,
        observations: OBSERVATIONS,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::OwnedFd;
    use sys::seqlock::Writer;

    #[test]
    fn proc_texts_parse_and_damaged_ones_are_none() {
        let stat = "cpu  10 1 9 70 10 0 0 0 5 0\ncpu0 1 1\n";
        assert_eq!(parse_stat(stat), Some(CpuTime { busy: 20, all: 100 }));
        for bad in [
            "",
            "cpu",
            "cpu  1 2 3",
            "cpu  1 2 x 4 5",
            "cpu  1 2 3 18446744073709551615 1",
        ] {
            assert_eq!(parse_stat(bad), None, "{bad}");
        }
        let meminfo = "MemTotal:  1000 kB\nMemFree: 1 kB\nMemAvailable:   400 kB\n";
        assert_eq!(parse_meminfo(meminfo), Some((1_024_000, 409_600)));
        assert_eq!(parse_meminfo("MemTotal: 1 kB\n"), None);
        assert_eq!(parse_meminfo("MemTotal: 1\nMemAvailable: 1 kB"), None);
        assert_eq!(parse_tasks("0.1 0.2 0.3 2/345 678\n"), Some(345));
        assert_eq!(parse_tasks("0.1 0.2"), None);
        assert_eq!(points(1, 0), None);
        assert_eq!(points(u64::MAX, 1), Some(10_000));
    }

    #[test]
    fn use_is_a_difference_and_what_is_not_there_is_none() {
        let proc = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| std::fs::write(proc.path().join(name), text).unwrap();
        let mut meter = Meter::new(proc.path(), Vec::new());
        assert_eq!(meter.consumed(0), [None, Some(0), None, None, None]);
        write("stat", "cpu  0 0 0 100 0 0 0 0\n");
        write("meminfo", "MemTotal: 1000 kB\nMemAvailable: 750 kB\n");
        assert_eq!(meter.consumed(0)[0], None, "no difference yet");
        write("stat", "cpu  50 0 0 150 0 0 0 0\n");
        assert_eq!(
            meter.consumed(5000),
            [Some(5000), Some(1000), None, Some(2500), None]
        );
    }

    #[test]
    fn what_the_sensor_page_asks_to_shed_is_a_share_and_nothing_without_it() {
        let mut meter = Meter::new(Path::new("/nonexistent"), Vec::new());
        assert_eq!(meter.shed(), 0);
        let (file, mut page) = Writer::create("sensors", sensors::MAGIC).unwrap();
        meter.watch_sensors(&file.into());
        for (percent, expected) in [(37.5, 3750), (f32::NAN, 0), (-1.0, 0), (1e9, 10_000)] {
            let mut snapshot = sensors::Snapshot::unknown();
            snapshot.registers[sensors::index::CONTROL_SHED] = percent;
            page.update(|words| {
                for (at, word) in (sensors::VERSION_WORD..).zip(snapshot.pack()) {
                    words.set(at, word);
                }
            });
            assert_eq!(meter.shed(), expected);
        }
    }

    #[test]
    fn pages_of_other_services_count_where_they_were_passed() {
        let (file, mut page) = Writer::create("stats", stats::MAGIC).unwrap();
        let commits = stats::word("commits").unwrap();
        let pages = vec![("ledger".to_owned(), OwnedFd::from(file))];
        let mut meter = Meter::new(Path::new("/nonexistent"), pages);
        page.update(|words| words.set(commits, 100));
        assert_eq!(meter.consumed(0)[2], None);
        page.update(|words| words.add(commits, 200));
        assert_eq!(meter.consumed(0)[2], Some(1000));
    }
}
