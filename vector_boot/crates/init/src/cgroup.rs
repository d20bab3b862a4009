//! The cgroup v2 tree: `/vb/system/NAME`, `/vb/lease/SLOT`. One writer each.
//!
//! PID 1 makes and limits `/vb/system/*`; leases are written by the helper at the capacity kernel's
//! plan, since a shrink may reclaim and block.

use std::cell::OnceCell;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use sys::folder::Folder;
use wire::capacity::{CgroupPlan, Knob, Write};

const ROOT: &str = "/sys/fs/cgroup";
const TREE: &str = "/sys/fs/cgroup/vb";
const SYSTEM: &str = "/sys/fs/cgroup/vb/system";
const LEASES: &str = jail::cell::LEASES;
/// `cpu.max` is a quota in each 100 ms, the kernel's own default period.
const CPU_PERIOD_US: u64 = 100_000;
/// A knob's content is one line.
const KNOB_BYTES_MAX: u64 = 4096;
/// What the kernel calls `max`.
const UNLIMITED: u64 = u64::MAX;
/// `cpu.weight` of a new cgroup.
const CPU_WEIGHT_DEFAULT: u64 = 100;

/// Controllers of a service's leaf and of a lease's; what nobody sets is not switched on.
const CONTROLLERS: [&str; 3] = ["+cpu", "+memory", "+pids"];

/// Makes the tree of the services. PID 1 and its helper stay in the root: nothing limits them there, and a
/// process that moves makes the kernel wait for a grace period of RCU.
///
/// # Errors
/// The first thing that failed, by path; what could be made stands.
pub fn prepare() -> Result<(), String> {
    // From the top, so that each folder is born with its controllers.
    let mut result = delegate(ROOT);
    for folder in [TREE, SYSTEM] {
        result = result.and(make_delegating(folder));
    }
    result
}

/// Makes the folder of the leases; the helper does it when somebody wants one.
///
/// # Errors
/// What failed, by path.
pub fn prepare_leases() -> Result<(), String> {
    make_delegating(LEASES)
}

fn make_delegating(folder: &str) -> Result<(), String> {
    make(Path::new(folder)).map_err(|e| format!("cgroup {folder}: {e}"))?;
    delegate(folder)
}

/// Gives what lies below a folder its controllers.
fn delegate(folder: &str) -> Result<(), String> {
    let control = format!("{folder}/cgroup.subtree_control");
    if fs::write(&control, CONTROLLERS.join(" ")).is_ok() {
        return Ok(());
    }
    // All or none in one write: a kernel that lacks one still gives the others.
    let mut result = Ok(());
    for controller in CONTROLLERS {
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
    memory: OnceCell<Option<File>>,
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
            if let Err(e) = folder.write(knob, &text) {
                complaints.push(format!("cgroup {name}: {knob}={text}: {e}"));
            }
        };
        let limit = |n: u64| if n == 0 { UNLIMITED } else { n };
        write("memory.max", limit(memory_max), UNLIMITED);
        write("memory.oom.group", 1, 0);
        write("pids.max", limit(pids_max.into()), UNLIMITED);
        write("cpu.weight", cpu_weight.max(1).into(), CPU_WEIGHT_DEFAULT);
        let memory = OnceCell::new();
        Ok((Self { folder, memory }, complaints))
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
        let open = || self.folder.read("memory.current").ok();
        let mut text = [0u8; 24];
        let n = self
            .memory
            .get_or_init(open)
            .as_ref()?
            .read_at(&mut text, 0)
            .ok()?;
        std::str::from_utf8(text.get(..n)?)
            .ok()?
            .trim()
            .parse()
            .ok()
    }

    /// How many processes of it the kernel killed for want of memory.
    #[must_use]
    pub fn oom_kills(&self) -> u64 {
        let mut text = String::new();
        let opened = self.folder.read("memory.events");
        // Without the controller there is no such file, and nothing was killed by it.
        if let Ok(file) = opened {
            let _ = file.take(KNOB_BYTES_MAX).read_to_string(&mut text);
        }
        text.lines()
            .find_map(|l| l.strip_prefix("oom_kill ")?.parse().ok())
            .unwrap_or(0)
    }
}

/// Carries out a plan: shrinks, grows, read-back; on a failure the old values are written again.
///
/// # Errors
/// The knob that did not take its value.
pub fn apply(plan: &CgroupPlan) -> Result<(), String> {
    prepare_leases()?;
    apply_below(Path::new(LEASES), plan)
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
    fn memory_may_read_back_rounded_to_pages() {
        assert!(same(Knob::MemoryMax(10_000), "8192", "10000"));
        assert!(!same(Knob::MemoryMax(10_000), "12288", "10000"));
        assert!(!same(Knob::PidsMax(3), "4", "3"));
    }
}
