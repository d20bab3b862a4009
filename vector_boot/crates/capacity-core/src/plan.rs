//! From one set of cgroup settings to another without ever giving out what is not there: first what
//! shrinks, then what grows.
//!
//! After the shrinks every setting is at most both its old and its new value, so a crash at that
//! point leaves less given out than either table; the next plan starts from what is found there.

use std::collections::BTreeMap;

/// Settings of one lease's cgroup.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Knobs {
    /// `cpu.max` quota in microseconds of 100 ms.
    pub cpu_max_us: u64,
    /// `cpu.weight`.
    pub cpu_weight: u16,
    /// `memory.max` in bytes.
    pub memory_max: u64,
    /// `pids.max`.
    pub pids_max: u32,
}

/// One setting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Knob {
    /// `cpu.max`.
    CpuMaxUs(u64),
    /// `cpu.weight`.
    CpuWeight(u16),
    /// `memory.max`.
    MemoryMax(u64),
    /// `pids.max`.
    PidsMax(u32),
}

/// Settings by lease slot.
pub type Leaves = BTreeMap<u32, Knobs>;

/// The steps between two tables.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Plan {
    /// Written first.
    pub shrinks: Vec<(u32, Knob)>,
    /// Written when all shrinks are.
    pub grows: Vec<(u32, Knob)>,
    /// Slots whose leaf goes; together with the shrinks.
    pub removed: Vec<u32>,
}

impl Plan {
    /// The steps from what is applied to what is desired.
    #[must_use]
    pub fn between(applied: &Leaves, desired: &Leaves) -> Self {
        let gone = |slot: &&u32| !desired.contains_key(*slot);
        let mut plan = Self {
            removed: applied.keys().filter(gone).copied().collect(),
            ..Self::default()
        };
        for (slot, new) in desired {
            let old = applied.get(slot);
            let mut step = |knob, old: Option<u64>, new: u64| match old {
                Some(old) if old == new => {}
                Some(old) if old > new => plan.shrinks.push((*slot, knob)),
                _ => plan.grows.push((*slot, knob)),
            };
            step(
                Knob::CpuMaxUs(new.cpu_max_us),
                old.map(|o| o.cpu_max_us),
                new.cpu_max_us,
            );
            step(
                Knob::CpuWeight(new.cpu_weight),
                old.map(|o| o.cpu_weight.into()),
                new.cpu_weight.into(),
            );
            step(
                Knob::MemoryMax(new.memory_max),
                old.map(|o| o.memory_max),
                new.memory_max,
            );
            step(
                Knob::PidsMax(new.pids_max),
                old.map(|o| o.pids_max.into()),
                new.pids_max.into(),
            );
        }
        plan
    }

    /// Whether there is nothing to do.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.shrinks.is_empty() && self.grows.is_empty() && self.removed.is_empty()
    }
}

/// What leaves hold after some writes; a leaf that a write names first appears with the smallest
/// settings.
pub fn write(leaves: &mut Leaves, steps: &[(u32, Knob)]) {
    for (slot, knob) in steps {
        let leaf = leaves.entry(*slot).or_insert(Knobs {
            cpu_max_us: 0,
            cpu_weight: 0,
            memory_max: 0,
            pids_max: 0,
        });
        match *knob {
            Knob::CpuMaxUs(v) => leaf.cpu_max_us = v,
            Knob::CpuWeight(v) => leaf.cpu_weight = v,
            Knob::MemoryMax(v) => leaf.memory_max = v,
            Knob::PidsMax(v) => leaf.pids_max = v,
        }
    }
}
