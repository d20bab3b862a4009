//! The cgroup v2 tree: `/vb/init`, `/vb/system/NAME`, `/vb/lease/SLOT`. One writer each.
//!
//! PID 1 makes and limits `/vb/system/*`; leases are written by the helper at the capacity kernel's
//! plan, since a shrink may reclaim and block.

use std::fs::{self, File};
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use wire::capacity::{CgroupPlan, Knob, Write};

const ROOT: &str = "/sys/fs/cgroup";
const TREE: &str = "/sys/fs/cgroup/vb";
/// `cpu.max` is a quota in each 100 ms, the kernel's own default period.
const CPU_PERIOD_US: u64 = 100_000;
/// A knob's content is one line.
const KNOB_BYTES_MAX: u64 = 4096;

/// Makes the tree and moves PID 1 into its own leaf.
///
/// # Errors
/// The first thing that failed, by path; what could be made stands.
pub fn prepare() -> Result<(), String> {
    let mut problem = None;
    let mut note = |what: &str, result: io::Result<()>| {
        if let Err(e) = result {
            problem.get_or_insert_with(|| format!("cgroup {what}: {e}"));
        }
    };
    for folder in ["", "/init", "/system", "/lease"] {
        let path = format!("{TREE}{folder}");
        note(&path, make(Path::new(&path)));
    }
    note(
        "/vb/init",
        fs::write(format!("{TREE}/init/cgroup.procs"), "1"),
    );
    for folder in [
        ROOT,
        TREE,
        "/sys/fs/cgroup/vb/system",
        "/sys/fs/cgroup/vb/lease",
    ] {
        for controller in ["+cpu", "+memory", "+pids", "+io"] {
            note(
                folder,
                fs::write(format!("{folder}/cgroup.subtree_control"), controller),
            );
        }
    }
    problem.map_or(Ok(()), Err)
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
    path: PathBuf,
    /// To be born in, and to hold on to.
    pub folder: OwnedFd,
    memory: Option<File>,
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
        let path = Path::new(TREE).join("system").join(name);
        make(&path)?;
        let number = |n: u64| {
            if n == 0 {
                "max".to_owned()
            } else {
                n.to_string()
            }
        };
        let mut complaints = Vec::new();
        for (knob, value) in [
            ("memory.max", number(memory_max)),
            ("memory.oom.group", "1".to_owned()),
            ("pids.max", number(u64::from(pids_max))),
            ("cpu.weight", cpu_weight.max(1).to_string()),
        ] {
            if let Err(e) = fs::write(path.join(knob), &value) {
                complaints.push(format!("cgroup {name}: {knob}={value}: {e}"));
            }
        }
        let folder = OwnedFd::from(File::open(&path)?);
        let memory = File::open(path.join("memory.current")).ok();
        Ok((
            Self {
                path,
                folder,
                memory,
            },
            complaints,
        ))
    }

    /// Kills all that runs in it.
    ///
    /// # Errors
    /// As `write(2)` to `cgroup.kill`.
    pub fn kill(&self) -> io::Result<()> {
        fs::write(self.path.join("cgroup.kill"), "1")
    }

    /// Bytes in use, without allocating.
    #[must_use]
    pub fn memory_bytes(&self) -> Option<u64> {
        use std::os::unix::fs::FileExt;
        let mut text = [0u8; 24];
        let n = self.memory.as_ref()?.read_at(&mut text, 0).ok()?;
        std::str::from_utf8(text.get(..n)?)
            .ok()?
            .trim()
            .parse()
            .ok()
    }

    /// How many processes of it the kernel killed for want of memory.
    #[must_use]
    pub fn oom_kills(&self) -> u64 {
        let text = fs::read_to_string(self.path.join("memory.events")).unwrap_or_default();
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
    apply_below(&Path::new(TREE).join("lease"), plan)
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
        use std::io::Read;
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
