//! The five allocators: shares of an axis, and what a share means in the node's own units.
//!
//! [`waterfill`] is weighted max-min in whole numbers: everybody gets the minimum, the surplus goes
//! by weight, nobody gets more than wanted, nothing is left while somebody wants more.
//! The allocators turn granted shares into settings, always rounding down.

use crate::axes::{BasisPoints, Demand, Grants};

/// Period of `cpu.max`; the kernel's own default.
pub const CPU_PERIOD_US: u64 = 100_000;
/// Smallest quota that `cpu.max` takes (kernel/sched/core.c: min_cfs_quota_period, 1 ms).
pub const CPU_QUOTA_US_MIN: u64 = 1_000;
/// The largest page of any kernel that we run on (aarch64 has 4, 16 or 64 KiB), so a multiple of all: the kernel
/// rounds `memory.max` down to its pages, and what it answers must be what was written.
pub(crate) const PAGE_BYTES: u64 = 64 << 10;

/// Shares `cap` among demands; `None` if the minimums alone exceed it.
///
/// Promise: the sum is at most `cap`; each gets at least its minimum and at most what it wants; if
/// anything is left, everybody has what they want.
#[must_use]
pub fn waterfill(cap: BasisPoints, demands: &[Option<Demand>]) -> Option<Vec<BasisPoints>> {
    struct Share {
        got: u32,
        want: u32,
        weight: u32,
    }
    let mut shares: Vec<Share> = demands
        .iter()
        .map(|demand| match demand {
            Some(d) => Share {
                got: d.min().get().into(),
                want: d.want().get().into(),
                weight: d.weight().into(),
            },
            None => Share {
                got: 0,
                want: 0,
                weight: 1,
            },
        })
        .collect();
    let guaranteed: u32 = shares.iter().map(|s| s.got).sum();
    let mut left = u32::from(cap.get()).checked_sub(guaranteed)?;
    loop {
        let open = || shares.iter().filter(|s| s.got < s.want);
        let weight: u32 = open().map(|s| s.weight).sum();
        if left == 0 || weight == 0 {
            break;
        }
        let before = left;
        let pot = left;
        for s in shares.iter_mut().filter(|s| s.got < s.want) {
            let add = (pot * s.weight / weight).min(s.want - s.got);
            s.got += add;
            left -= add;
        }
        if left == before {
            // Less than one point each: one point to those with the least for their weight.
            let mut order: Vec<&mut Share> = shares.iter_mut().filter(|s| s.got < s.want).collect();
            order.sort_by_key(|s| u64::from(s.got) * 1_000_000 / u64::from(s.weight));
            for s in order.into_iter().take(left as usize) {
                s.got += 1;
            }
            break;
        }
    }
    // Each is at most `want`, which is a share.
    let points = |s: &Share| BasisPoints::new(s.got as u16).unwrap_or(BasisPoints::FULL);
    Some(shares.iter().map(points).collect())
}

/// What the machine has: the whole of each axis.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Node {
    /// Processors.
    pub cpus: u32,
    /// Bytes of memory.
    pub memory_bytes: u64,
    /// Tasks at once.
    pub tasks: u32,
    /// Descriptors at once.
    pub descriptors: u32,
    /// Connections at once.
    pub connections: u32,
    /// Operations a second.
    pub operations: u64,
    /// Bytes a second to storage.
    pub storage_bytes: u64,
    /// Ledger commits a second.
    pub commits: u64,
    /// Series, log lines and spans a second.
    pub observations: u64,
}

/// `C_geo` in the machine's terms.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Dimension {
    /// `cpu.max` quota in microseconds a period.
    pub cpu_max_us: u64,
    /// `cpu.weight`.
    pub cpu_weight: u16,
    /// CPU microseconds a second.
    pub cpu_us: u64,
    /// Levels of the ladder that this share opens: SMT, core, NUMA, node, rack at 0.2 each.
    pub levels: u8,
}

/// DimensionAllocator: `cpu.max` follows what is wanted and `cpu.weight` what is guaranteed, so
/// unused time is lent; the rate of checks follows what is granted.
#[must_use]
pub fn dimension(demand: Option<Demand>, granted: BasisPoints, node: &Node) -> Dimension {
    let (min, want) = demand.map_or((BasisPoints::ZERO, granted), |d| (d.min(), d.want()));
    let budget = crate::Axis::Geo.budget();
    let period = u64::from(node.cpus) * CPU_PERIOD_US;
    Dimension {
        cpu_max_us: want.min(budget).of(period).max(CPU_QUOTA_US_MIN),
        cpu_weight: (min.get() / 10).max(1),
        cpu_us: granted.of(u64::from(node.cpus) * 1_000_000),
        // At most five, since a share is at most 10,000.
        levels: (granted.get() / 2000) as u8,
    }
}

/// `C_int` in the machine's terms.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Coupling {
    /// Operations a second.
    pub operations: u64,
    /// Connections at once.
    pub connections: u64,
    /// Bytes a second to storage.
    pub storage_bytes: u64,
}

/// CouplingAllocator.
#[must_use]
pub fn coupling(granted: BasisPoints, node: &Node) -> Coupling {
    Coupling {
        operations: granted.of(node.operations),
        connections: granted.of(node.connections.into()),
        storage_bytes: granted.of(node.storage_bytes),
    }
}

/// `C_gauge` in the machine's terms.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Symmetry {
    /// Ledger commits a second.
    pub commits: u64,
    /// Copies that must agree: one on one node.
    pub quorum: u32,
}

/// SymmetryAllocator.
#[must_use]
pub fn symmetry(granted: BasisPoints, node: &Node) -> Symmetry {
    Symmetry {
        commits: granted.of(node.commits),
        quorum: 1,
    }
}

/// `C_ptr` in the machine's terms.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pointer {
    /// `memory.max` in bytes.
    pub memory_max: u64,
    /// `pids.max`.
    pub pids_max: u32,
    /// RLIMIT_NOFILE.
    pub descriptors: u64,
}

/// PointerAllocator. A lease without memory still gets one page and one task, since zero would mean
/// no limit on the wire.
#[must_use]
pub fn pointer(granted: BasisPoints, node: &Node) -> Pointer {
    let whole_pages = granted.of(node.memory_bytes) & !(PAGE_BYTES - 1);
    let tasks = granted.of(node.tasks.into()).max(1);
    Pointer {
        memory_max: whole_pages.max(PAGE_BYTES),
        pids_max: u32::try_from(tasks).unwrap_or(node.tasks),
        descriptors: granted.of(node.descriptors.into()).max(16),
    }
}

/// `C_obs` in the machine's terms.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Observer {
    /// Observations a second.
    pub observations: u64,
}

/// ObserverAllocator.
#[must_use]
pub fn observer(granted: BasisPoints, node: &Node) -> Observer {
    Observer {
        observations: granted.of(node.observations),
    }
}

/// Sum of one axis over many grants.
#[must_use]
pub fn sum(grants: &[Grants]) -> [u32; crate::AXES] {
    let mut total = [0u32; crate::AXES];
    for grant in grants {
        for (t, g) in total.iter_mut().zip(grant) {
            *t += u32::from(g.get());
        }
    }
    total
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A small machine.
    pub(crate) fn node() -> Node {
        Node {
            cpus: 4,
            memory_bytes: 2 << 30,
            tasks: 4096,
            descriptors: 65_536,
            connections: 1024,
            operations: 50_000,
            storage_bytes: 200 << 20,
            commits: 2000,
            observations: 10_000,
        }
    }
    use proptest::prelude::*;

    fn demand() -> impl Strategy<Value = Option<Demand>> {
        proptest::option::of((0u16..1500, 0u16..8500, 1u16..=20)).prop_map(|o| {
            o.map(|(min, more, weight)| Demand::new(min, min + more, weight).unwrap())
        })
    }

    proptest! {
        #[test]
        fn shares_conserve_guarantee_and_leave_nothing_wanted(
            cap in 0u16..=10_000, demands in proptest::collection::vec(demand(), 0..40)
        ) {
            let cap = BasisPoints::new(cap).unwrap();
            let minimum: u32 = demands.iter().flatten().map(|d| u32::from(d.min().get())).sum();
            match waterfill(cap, &demands) {
                None => prop_assert!(minimum > u32::from(cap.get())),
                Some(got) => {
                    let total: u32 = got.iter().map(|g| u32::from(g.get())).sum();
                    prop_assert!(total <= u32::from(cap.get()));
                    let mut all_have_all = true;
                    for (g, d) in got.iter().zip(&demands) {
                        let (min, want) = d.map_or((BasisPoints::ZERO, BasisPoints::ZERO), |d| (d.min(), d.want()));
                        prop_assert!(*g >= min && *g <= want);
                        all_have_all &= *g == want;
                    }
                    prop_assert!(all_have_all || total == u32::from(cap.get()));
                }
            }
        }
    }

    #[test]
    fn surplus_goes_by_weight() {
        let d = |min, want, weight| Some(Demand::new(min, want, weight).unwrap());
        let cap = BasisPoints::new(9000).unwrap();
        let got = waterfill(
            cap,
            &[d(0, 10_000, 1), d(0, 10_000, 2), d(3000, 3000, 9), None],
        )
        .unwrap();
        let got: Vec<u16> = got.iter().map(|g| g.get()).collect();
        assert_eq!(got, [2000, 4000, 3000, 0]);
    }

    #[test]
    fn settings_of_all_leases_stay_inside_the_machine() {
        let node = node();
        let third = BasisPoints::new(3333).unwrap();
        assert!(pointer(third, &node).memory_max * 3 <= node.memory_bytes);
        assert_eq!(pointer(third, &node).memory_max % PAGE_BYTES, 0);
        assert!(coupling(third, &node).operations * 3 <= node.operations);
        assert_eq!(dimension(None, third, &node).cpu_us, 1_333_200);
        assert_eq!(dimension(None, BasisPoints::FULL, &node).levels, 5);
        assert_eq!(symmetry(third, &node).quorum, 1);
        assert_eq!(observer(third, &node).observations, 3333);
        let nothing = pointer(BasisPoints::ZERO, &node);
        assert!(nothing.memory_max > 0 && nothing.pids_max > 0);
        assert_eq!(
            dimension(None, BasisPoints::ZERO, &node).cpu_max_us,
            CPU_QUOTA_US_MIN
        );
    }
}
