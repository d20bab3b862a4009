//! The cgroup v2 tree: `/vb/system/NAME`, `/vb/lease/SLOT`. One writer each.
//!
//! PID 1 makes and limits `/vb/system/*`; leases are written by the helper at the capacity kernel's
//! plan, since a shrink may reclaim and block.

use rts::manifest::Service;
use std::cell::OnceCell;
use std::fs::{self, File};
use std::io::{self, Read, Write as _};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use sys::folder::Folder;
use wire::capacity::{CgroupPlan, Knob, Write};
use wire::helper::Tune;

const ROOT: &str = "/sys/fs/cgroup";
const TREE: &str = "/sys/fs/cgroup/vb";
const SYSTEM: &str = "/sys/fs/cgroup/vb/system";
const LEASES: &str = jail::cell::LEASES;
/// `cpu.max` is a quota in each 100 ms, the kernel's own default period.
const CPU_PERIOD_US: u64 = 100_000;
/// 150 ms of stall within a window of 1 s: what a person would call slow.
const PRESSURE_TRIGGER: &[u8] = b"some 150000 1000000\0";
/// `memory.events` has seven short lines, a pressure file two.
const GAUGE_BYTES_MAX: usize = 256;
/// A knob's content is one line.
const KNOB_BYTES_MAX: u64 = 4096;
/// All that runs in a leaf dies together when its memory is out.
const GROUP: &str = "memory.oom.group";
/// What the kernel calls `max`.
const UNLIMITED: u64 = u64::MAX;
/// `cpu.weight` of a new cgroup.
const CPU_WEIGHT_DEFAULT: u64 = 100;

/// Controllers of a service's leaf and of a lease's; what nobody sets is not switched on.
const CONTROLLERS: &str = "+pids +cpu +memory";

/// What a manifest limits, and what is therefore there before the first service. A controller costs each new
/// cgroup up to 0.1 ms; those that only account and share come when the services are up.
#[must_use]
pub fn needed(services: &[Service]) -> String {
    let mut needed = "+pids".to_owned();
    if services
        .iter()
        .any(|s| u64::from(s.cpu_weight) != CPU_WEIGHT_DEFAULT)
    {
        needed.push_str(" +cpu");
    }
    if services.iter().any(|s| s.memory_max_bytes != 0) {
        needed.push_str(" +memory");
    }
    needed
}

/// Makes the tree of the services, with these controllers. PID 1 and its helper stay in the root: nothing limits
/// them there, and a process that moves makes the kernel wait for a grace period of RCU.
///
/// # Errors
/// The first thing that failed, by path; what could be made stands.
pub fn prepare(controllers: &str) -> Result<(), String> {
    // From the top, so that each folder is born with its controllers.
    let mut result = delegate(ROOT, controllers);
    for folder in [TREE, SYSTEM] {
        result = result.and(make_delegating(folder, controllers));
    }
    result
}

/// Gives the tree the controllers that [`prepare`] left out. The helper does it: with processes in the leaves the
/// kernel waits for a grace period.
///
/// # Errors
/// As [`prepare`].
pub fn complete() -> Result<(), String> {
    prepare(CONTROLLERS)
}

/// Makes the folder of the leases; the helper does it when somebody wants one.
///
/// # Errors
/// What failed, by path.
pub fn prepare_leases() -> Result<(), String> {
    complete()?;
    make_delegating(LEASES, CONTROLLERS)
}

fn make_delegating(folder: &str, controllers: &str) -> Result<(), String> {
    make(Path::new(folder)).map_err(|e| format!("cgroup {folder}: {e}"))?;
    delegate(folder, controllers)
}

/// Gives what lies below a folder its controllers.
fn delegate(folder: &str, controllers: &str) -> Result<(), String> {
    let control = format!("{folder}/cgroup.subtree_control");
    if fs::write(&control, controllers).is_ok() {
        return Ok(());
    }
    // All or none in one write: a kernel that lacks one still gives the others.
    let mut result = Ok(());
    for controller in controllers.split(' ') {
        let written = fs::write(&control, controller);
        result = result.and(written.map_err(|e| format!("cgroup {folder}: {controller}: {e}")));
    }
    result
}

fn make(path: &Path) -> io::Result<()> {
    match fs::create_dir(path) {
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        other => other,
    }
}

/// The leaf of one service.
#[derive(Debug)]
pub struct Leaf {
    /// To be born in, and to hold on to.
    pub folder: Folder,
    memory: OnceCell<File>,
    gauges: Option<Gauges>,
}

/// What the kernel counts in a leaf, held open so that a post-mortem costs no path walks.
#[derive(Debug)]
struct Gauges {
    events: Option<File>,
    peak: Option<File>,
    pids: Option<File>,
    pressure: Option<File>,
}

/// What a leaf has met, since it was made or since an earlier look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    /// Allocations that met `memory.max`.
    pub at_limit: u64,
    /// Processes that the kernel killed for want of memory.
    pub oom_kills: u64,
    /// Forks that met `pids.max`.
    pub pids_at_limit: u64,
    /// Most bytes ever in use.
    pub peak_bytes: u64,
    /// Hundredths of a percent of the last 10 s in which some process waited for memory.
    pub stalled_avg10: u32,
}

impl Counts {
    /// What came since `earlier`; peak and stall stay what they are.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        Self {
            at_limit: self.at_limit.saturating_sub(earlier.at_limit),
            oom_kills: self.oom_kills.saturating_sub(earlier.oom_kills),
            pids_at_limit: self.pids_at_limit.saturating_sub(earlier.pids_at_limit),
            ..*self
        }
    }
}

impl Leaf {
    /// Makes the leaf of a service with its limits; 0 is none.
    ///
    /// # Errors
    /// As `mkdir(2)` and `open(2)`; a limit that cannot be written is in the second part.
    pub fn new(
        name: &str,
        memory_max: u64,
        pids_max: u32,
        cpu_weight: u16,
    ) -> io::Result<(Self, Vec<String>)> {
        let path = format!("{SYSTEM}/{name}");
        // One that is there has the limits of whoever made it.
        let fresh = match fs::create_dir(&path) {
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => false,
            made => made.map(|()| true)?,
        };
        let folder = Folder::open(Path::new(&path))?;
        let mut complaints = Vec::new();
        let mut write = |knob: &str, value: u64, default: u64| {
            if fresh && value == default {
                return;
            }
            let text = if value == UNLIMITED {
                "max".to_owned()
            } else {
                value.to_string()
            };
            match folder.write(knob, &text) {
                // Without the controller, which comes when the services are up; `share_memory` sets it then, and
                // nobody has held it yet.
                Err(e)
                    if matches!(knob, GROUP | "memory.high")
                        && e.kind() == io::ErrorKind::NotFound => {}
                Err(e) => complaints.push(format!("cgroup {name}: {knob}={text}: {e}")),
                Ok(()) => {}
            }
        };
        let limit = |n: u64| if n == 0 { UNLIMITED } else { n };
        write("memory.max", limit(memory_max), UNLIMITED);
        // As the runtime of an image that is gone may have left it.
        write("memory.high", UNLIMITED, UNLIMITED);
        write(GROUP, 1, 0);
        write("pids.max", limit(pids_max.into()), UNLIMITED);
        write("cpu.weight", cpu_weight.max(1).into(), CPU_WEIGHT_DEFAULT);
        let memory = OnceCell::new();
        let leaf = Self {
            folder,
            memory,
            gauges: None,
        };
        Ok((leaf, complaints))
    }

    /// Whether a process is in the leaf of this name, without allocating.
    #[must_use]
    pub fn holds(&self, pid: i32, name: &str) -> bool {
        use std::io::Read;
        // One line in a tree of v2 alone: `0::` and the path below the root.
        let mut text = [0u8; 128];
        let path = crate::state::Fixed::<48>::of(format_args!("/proc/{pid}/cgroup"));
        let read = File::open(path.as_str()).and_then(|mut file| file.read(&mut text));
        let line = read.ok().and_then(|n| text.get(..n));
        let system = line.and_then(|line| line.strip_prefix(b"0::/vb/system/"));
        let rest = system.and_then(|line| line.strip_prefix(name.as_bytes()));
        rest.is_some_and(|rest| matches!(rest.first(), Some(b'\n' | b'/')))
    }

    /// Sets what needs a controller that [`complete`] has switched on meanwhile.
    ///
    /// # Errors
    /// As `write(2)`.
    pub fn share_memory(&mut self) -> io::Result<()> {
        self.gauges = None;
        self.folder.write(GROUP, "1")
    }

    /// A leaf that is there, by its folder.
    #[must_use]
    pub fn over(folder: OwnedFd) -> Self {
        Self {
            folder: folder.into(),
            memory: OnceCell::new(),
            gauges: None,
        }
    }

    /// Kills all that runs in it.
    ///
    /// # Errors
    /// As `write(2)` to `cgroup.kill`.
    pub fn kill(&self) -> io::Result<()> {
        self.folder.write("cgroup.kill", "1")
    }

    /// Bytes in use, without allocating.
    #[must_use]
    pub fn memory_bytes(&self) -> Option<u64> {
        use std::os::unix::fs::FileExt;
        let memory = match self.memory.get() {
            Some(file) => file,
            None => {
                // Not there before the controller is; nobody else sets it meanwhile.
                let file = self.folder.read("memory.current").ok()?;
                self.memory.get_or_init(|| file)
            }
        };
        let mut text = [0u8; 24];
        let n = memory.read_at(&mut text, 0).ok()?;
        std::str::from_utf8(text.get(..n)?)
            .ok()?
            .trim()
            .parse()
            .ok()
    }

    /// Where the leaf is held, to be read: a number of bytes, or `max`.
    ///
    /// # Errors
    /// As `open(2)`.
    pub fn memory_high(&self) -> io::Result<File> {
        self.folder.read("memory.high")
    }

    /// The kernel's counters of the leaf's memory, to be read: what was reclaimed of it among them.
    ///
    /// # Errors
    /// As `open(2)`.
    pub fn memory_stat(&self) -> io::Result<File> {
        self.folder.read("memory.stat")
    }

    /// Opens what a post-mortem reads, unless that was done.
    pub fn open_gauges(&mut self) {
        let open = |name: &str| self.folder.read(name).ok();
        if self.gauges.is_none() {
            self.gauges = Some(Gauges {
                events: open("memory.events"),
                peak: open("memory.peak"),
                pids: open("pids.events"),
                pressure: open("memory.pressure"),
            });
        }
    }

    /// `memory.events`, to be watched: it says when a limit was met.
    #[must_use]
    pub fn memory_events(&self) -> Option<BorrowedFd<'_>> {
        self.gauges.as_ref()?.events.as_ref().map(AsFd::as_fd)
    }

    /// A trigger on this leaf's memory pressure; see [`trigger`].
    ///
    /// # Errors
    /// As `open(2)` and `write(2)`.
    pub fn pressure_trigger(&self) -> io::Result<File> {
        trigger(&self.folder, "memory.pressure")
    }

    /// What it has met since it was made. A kernel that does not count something has 0 there.
    #[must_use]
    pub fn counts(&mut self) -> Counts {
        self.open_gauges();
        let Some(gauges) = &self.gauges else {
            return Counts::default();
        };
        let (mut at_limit, mut oom_kills) = (0, 0);
        read_gauge(&gauges.events, |text| {
            at_limit = number_of(text, "max ");
            oom_kills = number_of(text, "oom_kill ");
        });
        let mut counts = Counts {
            at_limit,
            oom_kills,
            ..Counts::default()
        };
        read_gauge(&gauges.peak, |text| {
            counts.peak_bytes = text.trim().parse().unwrap_or(0);
        });
        read_gauge(&gauges.pids, |text| {
            counts.pids_at_limit = number_of(text, "max ");
        });
        read_gauge(&gauges.pressure, |text| {
            counts.stalled_avg10 = some_avg10(text);
        });
        counts
    }
}

/// Reads one of the kernel's small files, without allocating.
fn read_gauge(file: &Option<File>, take: impl FnOnce(&str)) {
    use std::os::unix::fs::FileExt;
    let mut bytes = [0u8; GAUGE_BYTES_MAX];
    let Some(Ok(n)) = file.as_ref().map(|f| f.read_at(&mut bytes, 0)) else {
        return;
    };
    take(std::str::from_utf8(bytes.get(..n).unwrap_or_default()).unwrap_or_default());
}

/// The number behind a key at the beginning of a line.
fn number_of(text: &str, key: &str) -> u64 {
    let found = text.lines().find_map(|l| l.strip_prefix(key));
    found.and_then(|n| n.trim().parse().ok()).unwrap_or(0)
}

/// `some avg10=1.23 ...` of a pressure file, in hundredths of a percent.
#[must_use]
pub fn some_avg10(text: &str) -> u32 {
    let some = text.lines().find_map(|l| l.strip_prefix("some avg10="));
    let figure = some.and_then(|rest| rest.split(' ').next()).unwrap_or("0");
    let (whole, rest) = figure.split_once('.').unwrap_or((figure, "0"));
    let (whole, rest) = (whole.parse::<u32>(), rest.parse::<u32>());
    whole
        .unwrap_or(0)
        .saturating_mul(100)
        .saturating_add(rest.unwrap_or(0))
}

/// Opens a pressure file that becomes ready, at most once a second, when something waited for memory in 150 ms of
/// one second. `Documentation/accounting/psi.rst` of the kernel has the form.
///
/// # Errors
/// As `open(2)` and `write(2)`.
pub fn trigger(folder: &Folder, name: &str) -> io::Result<File> {
    use std::io::Write;
    let mut file = folder.read_write(name)?;
    file.write_all(PRESSURE_TRIGGER)?;
    Ok(file)
}

/// Carries out a plan: shrinks, grows, read-back; on a failure the old values are written again.
///
/// # Errors
/// The knob that did not take its value.
pub fn apply(plan: &CgroupPlan) -> Result<(), String> {
    prepare_leases()?;
    apply_below(Path::new(LEASES), plan)
}

/// Sets a knob of a service's leaf, or has it give memory back.
///
/// # Errors
/// As `write(2)`.
pub fn tune(service: &str, knob: Tune) -> Result<(), String> {
    tune_below(Path::new(SYSTEM), service, knob)
}

fn tune_below(system: &Path, service: &str, knob: Tune) -> Result<(), String> {
    let (name, value) = match knob {
        Tune::Reclaim(bytes) => ("memory.reclaim", bytes.to_string()),
        Tune::MemoryHigh(0) => ("memory.high", "max".to_owned()),
        Tune::MemoryHigh(bytes) => ("memory.high", bytes.to_string()),
        Tune::CpuWeight(weight) => ("cpu.weight", weight.to_string()),
    };
    // The manifest's names are one component; this is only sure of it.
    if service.is_empty() || service.contains(['/', '.']) {
        return Err(format!("service: {service:?}, limit a name"));
    }
    let path = system.join(service).join(name);
    // Not `fs::write`, which would make a file where there is no such knob.
    let write = || {
        File::options()
            .write(true)
            .open(&path)?
            .write_all(value.as_bytes())
    };
    match write() {
        // cgroup-v2: less than was asked for could be reclaimed.
        Err(e) if e.kind() == io::ErrorKind::WouldBlock && matches!(knob, Tune::Reclaim(_)) => {
            Ok(())
        }
        result => result.map_err(|e| format!("{}={value}: {e}", path.display())),
    }
}

fn apply_below(lease: &Path, plan: &CgroupPlan) -> Result<(), String> {
    let mut undo: Vec<(PathBuf, String)> = Vec::new();
    let result = write_and_read_back(lease, plan, &mut undo);
    if result.is_err() {
        for (path, old) in undo.iter().rev() {
            // The old value was in force a moment ago; there is nothing better to fall back to.
            let _ = fs::write(path, old);
        }
        return result;
    }
    for slot in &plan.removed {
        let leaf = lease.join(slot.to_string());
        if leaf.exists() {
            // A leaf without processes takes the kill as no work.
            let _ = fs::write(leaf.join("cgroup.kill"), "1");
            fs::remove_dir(&leaf).map_err(|e| format!("{}: {e}", leaf.display()))?;
        }
    }
    Ok(())
}

/// Writes the plan's knobs, noting what each held before, and checks that all took their values.
fn write_and_read_back(
    lease: &Path,
    plan: &CgroupPlan,
    undo: &mut Vec<(PathBuf, String)>,
) -> Result<(), String> {
    let writes = plan.shrinks.iter().chain(&plan.grows);
    for Write { slot, knob } in writes.clone() {
        let leaf = lease.join(slot.to_string());
        make(&leaf).map_err(|e| format!("{}: {e}", leaf.display()))?;
        let (name, value) = text_of(*knob);
        let path = leaf.join(name);
        undo.push((path.clone(), read_knob(&path)));
        fs::write(&path, &value).map_err(|e| format!("{}={value}: {e}", path.display()))?;
    }
    for Write { slot, knob } in writes {
        let (name, value) = text_of(*knob);
        let path = lease.join(slot.to_string()).join(name);
        let now = read_knob(&path);
        if !same(*knob, &now, &value) {
            return Err(format!("{}: reads {now}, written {value}", path.display()));
        }
    }
    Ok(())
}

fn read_knob(path: &Path) -> String {
    let read = || -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        File::open(path)?
            .take(KNOB_BYTES_MAX)
            .read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    String::from_utf8_lossy(&read().unwrap_or_default())
        .trim()
        .to_owned()
}

fn text_of(knob: Knob) -> (&'static str, String) {
    let number = |n: u64| {
        if n == 0 {
            "max".to_owned()
        } else {
            n.to_string()
        }
    };
    match knob {
        Knob::CpuMaxUs(us) => ("cpu.max", format!("{} {CPU_PERIOD_US}", number(us))),
        Knob::CpuWeight(weight) => ("cpu.weight", weight.to_string()),
        Knob::MemoryMax(bytes) => ("memory.max", number(bytes)),
        Knob::PidsMax(n) => ("pids.max", number(u64::from(n))),
    }
}

/// The kernel rounds memory down to pages.
fn same(knob: Knob, read: &str, written: &str) -> bool {
    match (knob, read.parse::<u64>(), written.parse::<u64>()) {
        (Knob::MemoryMax(_), Ok(read), Ok(written)) => {
            read <= written && written - read < 64 * 1024
        }
        _ => read == written,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(shrinks: &[Write], grows: &[Write], removed: &[u32]) -> CgroupPlan {
        CgroupPlan {
            epoch: 1,
            shrinks: shrinks.iter().copied().collect(),
            grows: grows.iter().copied().collect(),
            removed: removed.iter().copied().collect(),
        }
    }

    #[test]
    fn a_knob_is_set_only_where_it_is_and_only_of_a_service() {
        let folder = tempfile::tempdir().unwrap();
        let leaf = folder.path().join("a");
        fs::create_dir(&leaf).unwrap();
        fs::write(leaf.join("memory.high"), "").unwrap();
        let tune = |service, knob| tune_below(folder.path(), service, knob);
        assert!(tune("a", Tune::MemoryHigh(4096)).is_ok());
        assert_eq!(
            fs::read_to_string(leaf.join("memory.high")).unwrap(),
            "4096"
        );
        assert!(tune("a", Tune::CpuWeight(50)).is_err());
        assert!(!leaf.join("cpu.weight").exists());
        for name in ["", "..", "../a", "a/b", "b"] {
            assert!(tune(name, Tune::MemoryHigh(0)).is_err(), "{name}");
        }
    }

    #[test]
    fn a_failed_write_puts_the_old_values_back() {
        let folder = tempfile::tempdir().unwrap();
        let leaf = folder.path().join("3");
        fs::create_dir(&leaf).unwrap();
        fs::write(leaf.join("cpu.weight"), "100").unwrap();
        // A folder in the way makes the second write fail.
        fs::create_dir(leaf.join("pids.max")).unwrap();
        let shrink = Write {
            slot: 3,
            knob: Knob::CpuWeight(50),
        };
        let grow = Write {
            slot: 3,
            knob: Knob::PidsMax(9),
        };
        assert!(apply_below(folder.path(), &plan(&[shrink], &[grow], &[])).is_err());
        assert_eq!(fs::read_to_string(leaf.join("cpu.weight")).unwrap(), "100");
        assert!(apply_below(folder.path(), &plan(&[shrink], &[], &[])).is_ok());
        assert_eq!(fs::read_to_string(leaf.join("cpu.weight")).unwrap(), "50");
    }

    #[test]
    fn what_a_leaf_has_met_is_read_as_the_kernel_writes_it() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| fs::write(folder.path().join(name), text).unwrap();
        write(
            "memory.events",
            "low 0\nhigh 1\nmax 17\noom 3\noom_kill 2\noom_group_kill 1\n",
        );
        write("memory.peak", "8388608\n");
        write("pids.events", "max 5\n");
        write(
            "memory.pressure",
            "some avg10=12.05 avg60=0.40 avg300=0.00 total=99\nfull avg10=1.00 avg60=0.00 avg300=0.00 total=9\n",
        );
        let mut leaf = Leaf {
            folder: Folder::open(folder.path()).unwrap(),
            memory: OnceCell::new(),
            gauges: None,
        };
        let first = leaf.counts();
        assert_eq!(
            first,
            Counts {
                at_limit: 17,
                oom_kills: 2,
                pids_at_limit: 5,
                peak_bytes: 8 << 20,
                stalled_avg10: 1205,
            }
        );
        write("memory.events", "max 20\noom_kill 3\n");
        let since = leaf.counts().since(&first);
        assert_eq!(
            (since.at_limit, since.oom_kills, since.pids_at_limit),
            (3, 1, 0)
        );
        assert_eq!(since.peak_bytes, 8 << 20);
    }

    #[test]
    fn a_figure_that_is_none_is_no_pressure() {
        assert_eq!(some_avg10("some avg10=0.07 avg60=1\n"), 7);
        assert_eq!(some_avg10("some avg10=100.00 a\n"), 10_000);
        assert_eq!(some_avg10(""), 0);
        assert_eq!(some_avg10("some avg10=x\n"), 0);
    }

    #[test]
    fn memory_may_read_back_rounded_to_pages() {
        assert!(same(Knob::MemoryMax(10_000), "8192", "10000"));
        assert!(!same(Knob::MemoryMax(10_000), "12288", "10000"));
        assert!(!same(Knob::PidsMax(3), "4", "3"));
    }
}
