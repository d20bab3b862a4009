//! The lease table: who has been admitted, what each may use, and what each has used just now.
//!
//! Owns slots, generations, grants and buckets. A change is computed whole, then taken over whole:
//! a refused request leaves everything as it was. A generation counts the tokens of a slot, so a
//! token of an ended lease is never taken for the next one.
//!
//! Never here: who may ask (roles), clocks. Start with [`Table::admit`] and [`Table::spend`].

use crate::allocate::{self, Node, waterfill};
use crate::axes::{AXES, Ask, Axis, BasisPoints, Grants};
use crate::bucket::{Bucket, Quota};
use crate::plan::{Knobs, Leaves};

/// Leases at once: each may be a cgroup with four settings, read back once a tick.
pub const LEASES_MAX: usize = 256;
/// Leases of one tenant at once, so that none can take every slot.
pub const TENANT_LEASES_MAX: usize = 64;
/// Highest priority.
pub const PRIORITY_MAX: u8 = 9;
/// Names of the buckets, in the order of the axes that feed them.
pub const BUCKET_NAMES: [&str; AXES] = ["cpu", "ops", "commits", "memory", "telemetry"];

/// What somebody asks for, already parsed and allowed.
#[derive(Debug, Clone, Copy)]
pub struct Admission<'a> {
    /// Who pays.
    pub tenant: &'a str,
    /// What for.
    pub workload: &'a str,
    /// How much.
    pub ask: Ask,
    /// When it ends, milliseconds since boot; `None` for never.
    pub expires_ms: Option<u64>,
    /// 0 lowest to [`PRIORITY_MAX`].
    pub priority: u8,
    /// Permission bits of its token.
    pub permissions: u32,
    /// Whether only an operator may end or replace it.
    pub pinned: bool,
}

/// Why a request was not admitted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// The minimums do not fit on these axes (bit set, every failing one).
    Axes(u8),
    /// Every slot is taken.
    Slots,
    /// The tenant has its share of slots.
    TenantSlots,
    /// The name belongs to a lease that only an operator may replace.
    Pinned,
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Axes(bits) => {
                f.write_str("minimum exceeds what is left on")?;
                for axis in Axis::ALL.iter().filter(|a| bits & a.bit() != 0) {
                    write!(f, " {}", axis.name())?;
                }
                Ok(())
            }
            Self::Slots => write!(f, "leases {LEASES_MAX}: every slot is taken"),
            Self::TenantSlots => write!(f, "leases of this tenant: at most {TENANT_LEASES_MAX}"),
            Self::Pinned => f.write_str("this tenant and workload are the appliance's own"),
        }
    }
}

impl std::error::Error for Refusal {}

/// A lease in force.
#[derive(Debug, Clone)]
pub struct Lease {
    /// Who pays.
    pub tenant: Box<str>,
    /// What for.
    pub workload: Box<str>,
    /// What was asked.
    pub ask: Ask,
    /// What is granted; never less than the minimum asked.
    pub grants: Grants,
    /// When it ends, milliseconds since boot; `None` for never.
    pub expires_ms: Option<u64>,
    /// 0 lowest.
    pub priority: u8,
    /// Permission bits of its token.
    pub permissions: u32,
    /// Whether only an operator may end or replace it.
    pub pinned: bool,
    /// Checks made with it.
    pub checks: u64,
    /// Of these refused.
    pub denied: u64,
    buckets: [Bucket; AXES],
}

/// What one operation costs, in the order of the axes: CPU microseconds, operations, commits, bytes,
/// observations. What costs nothing does not ask that bucket.
pub type Cost = [u64; AXES];

/// A bucket is empty.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Denied {
    /// Its name, one of [`BUCKET_NAMES`]; the one that is longest empty.
    pub bucket: &'static str,
    /// Nanoseconds until a retry may succeed; `None` if it never will under the grants in force.
    pub retry_after_ns: Option<u64>,
}

#[derive(Debug, Clone, Default)]
struct Slot {
    generation: u32,
    lease: Option<Lease>,
}

/// Every lease.
#[derive(Debug, Clone)]
pub struct Table {
    node: Node,
    slots: Vec<Slot>,
    epoch: u64,
}

impl Table {
    /// An empty table over this machine.
    #[must_use]
    pub fn new(node: Node) -> Self {
        Self {
            node,
            slots: vec![Slot::default(); LEASES_MAX],
            epoch: 0,
        }
    }

    /// The machine.
    #[must_use]
    pub fn node(&self) -> &Node {
        &self.node
    }

    /// Grows with every change of leases.
    #[must_use]
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// Leases with their slots and generations.
    pub fn leases(&self) -> impl Iterator<Item = (u32, u32, &Lease)> {
        (0u32..)
            .zip(&self.slots)
            .filter_map(|(number, slot)| Some((number, slot.generation, slot.lease.as_ref()?)))
    }

    /// The lease in a slot, with its generation.
    #[must_use]
    pub fn get(&self, slot: u32) -> Option<(u32, &Lease)> {
        let slot = self.slots.get(usize::try_from(slot).ok()?)?;
        Some((slot.generation, slot.lease.as_ref()?))
    }

    /// The slot of a tenant's workload.
    #[must_use]
    pub fn find(&self, tenant: &str, workload: &str) -> Option<u32> {
        self.leases()
            .find(|(_, _, l)| &*l.tenant == tenant && &*l.workload == workload)
            .map(|(slot, _, _)| slot)
    }

    /// Admits a request, or renews the lease of the same tenant and workload: its slot stays, its
    /// generation and so its token change, its debts stay.
    ///
    /// # Errors
    /// [`Refusal`]; the table is as before.
    pub fn admit(&mut self, now_ns: u64, wanted: &Admission<'_>) -> Result<u32, Refusal> {
        let old = self.find(wanted.tenant, wanted.workload);
        let of_tenant = self
            .leases()
            .filter(|(_, _, l)| &*l.tenant == wanted.tenant)
            .count();
        let number = match old {
            Some(slot) if self.get(slot).is_some_and(|(_, l)| l.pinned) && !wanted.pinned => {
                return Err(Refusal::Pinned);
            }
            Some(slot) => slot,
            None if of_tenant >= TENANT_LEASES_MAX => return Err(Refusal::TenantSlots),
            None => self.free().ok_or(Refusal::Slots)?,
        };
        let at = usize::try_from(number).map_err(|_| Refusal::Slots)?;
        let others = self.leases().filter(|(slot, _, _)| *slot != number);
        let mut asks: Vec<(u32, Ask)> = others.map(|(slot, _, l)| (slot, l.ask)).collect();
        asks.push((number, wanted.ask));
        // By slot, so that roundings fall the same way whoever came last.
        asks.sort_by_key(|(slot, _)| *slot);
        let grants = allot(&asks).map_err(Refusal::Axes)?;
        let slot = self.slots.get_mut(at).ok_or(Refusal::Slots)?;
        let kept = slot.lease.take();
        slot.generation = slot.generation.wrapping_add(1);
        slot.lease = Some(Lease {
            tenant: wanted.tenant.into(),
            workload: wanted.workload.into(),
            ask: wanted.ask,
            grants: Grants::default(),
            expires_ms: wanted.expires_ms,
            priority: wanted.priority,
            permissions: wanted.permissions,
            pinned: wanted.pinned,
            checks: 0,
            denied: 0,
            buckets: kept.map(|l| l.buckets).unwrap_or_default(),
        });
        self.take_over(now_ns, &grants);
        Ok(number)
    }

    /// Ends a lease: its token is dead at the next call, its capacity goes to the others.
    pub fn end(&mut self, now_ns: u64, slot: u32) -> Option<Lease> {
        let found = self.slots.get_mut(usize::try_from(slot).ok()?)?;
        let lease = found.lease.take()?;
        found.generation = found.generation.wrapping_add(1);
        self.reshare(now_ns);
        Some(lease)
    }

    /// Ends every lease that is over at `now_ms` and returns them.
    pub fn expire(&mut self, now_ns: u64) -> Vec<(u32, Lease)> {
        let now_ms = now_ns / 1_000_000;
        let over: Vec<u32> = self
            .leases()
            .filter(|(_, _, l)| l.expires_ms.is_some_and(|end| end <= now_ms))
            .map(|(slot, _, _)| slot)
            .collect();
        let ended = |slot: u32| Some((slot, self.end(now_ns, slot)?));
        over.into_iter().filter_map(ended).collect()
    }

    /// Asks every bucket that `cost` touches, and charges all of them only if all say yes. Answers
    /// how many such operations the narrowest bucket has left.
    ///
    /// # Errors
    /// [`Denied`], also for a slot without a lease.
    pub fn spend(&mut self, now_ns: u64, slot: u32, cost: &Cost) -> Result<u64, Denied> {
        let lease = usize::try_from(slot)
            .ok()
            .and_then(|at| self.slots.get_mut(at)?.lease.as_mut())
            .ok_or(Denied {
                bucket: "",
                retry_after_ns: None,
            })?;
        lease.checks += 1;
        let mut offers = [None; AXES];
        let mut worst: Option<Denied> = None;
        let mut remaining = u64::MAX;
        let buckets = lease.buckets.iter().zip(cost).zip(BUCKET_NAMES);
        for (((bucket, units), name), offer) in buckets.zip(&mut offers) {
            if *units == 0 {
                continue;
            }
            match bucket.offer(now_ns, *units) {
                Ok(yes) => {
                    remaining = remaining.min(yes.remaining / units);
                    *offer = Some(yes);
                }
                Err(no) => {
                    let longer = |w: &Denied| {
                        no.retry_after_ns.unwrap_or(u64::MAX) > w.retry_after_ns.unwrap_or(u64::MAX)
                    };
                    if worst.as_ref().is_none_or(longer) {
                        worst = Some(Denied {
                            bucket: name,
                            retry_after_ns: no.retry_after_ns,
                        });
                    }
                }
            }
        }
        if let Some(denied) = worst {
            lease.denied += 1;
            return Err(denied);
        }
        for (bucket, offer) in lease.buckets.iter_mut().zip(offers) {
            if let Some(offer) = offer {
                bucket.take(offer);
            }
        }
        Ok(remaining)
    }

    /// Basis points given out, per axis.
    #[must_use]
    pub fn granted(&self) -> [u16; AXES] {
        let grants: Vec<Grants> = self.leases().map(|(_, _, l)| l.grants).collect();
        // Conservation keeps each sum within one budget, which is below 2^16.
        allocate::sum(&grants).map(|sum| u16::try_from(sum).unwrap_or(u16::MAX))
    }

    /// The cgroup settings that the leases call for.
    #[must_use]
    pub fn leaves(&self) -> Leaves {
        self.leases()
            .map(|(slot, _, lease)| {
                let [geo_ask, ..] = lease.ask;
                let [geo, _, _, ptr, _] = lease.grants;
                let dimension = allocate::dimension(geo_ask, geo, &self.node);
                let pointer = allocate::pointer(ptr, &self.node);
                let knobs = Knobs {
                    cpu_max_us: dimension.cpu_max_us,
                    cpu_weight: dimension.cpu_weight,
                    memory_max: pointer.memory_max,
                    pids_max: pointer.pids_max,
                };
                (slot, knobs)
            })
            .collect()
    }

    fn free(&self) -> Option<u32> {
        (0u32..)
            .zip(&self.slots)
            .find(|(_, slot)| slot.lease.is_none())
            .map(|(number, _)| number)
    }

    fn reshare(&mut self, now_ns: u64) {
        let asks: Vec<(u32, Ask)> = self.leases().map(|(slot, _, l)| (slot, l.ask)).collect();
        // Fewer leases need less than before, and before it fitted.
        if let Ok(grants) = allot(&asks) {
            self.take_over(now_ns, &grants);
        }
    }

    fn take_over(&mut self, now_ns: u64, grants: &[(u32, Grants)]) {
        self.epoch += 1;
        let node = self.node;
        let mut grants = grants.iter();
        for lease in self.slots.iter_mut().filter_map(|s| s.lease.as_mut()) {
            if let Some((_, grants)) = grants.next() {
                lease.grants = *grants;
                for (bucket, quota) in lease.buckets.iter_mut().zip(quotas(grants, &node)) {
                    bucket.set_quota(now_ns, quota);
                }
            }
        }
    }
}

/// Grants for every ask, in the same order, or the set of axes whose minimums do not fit.
fn allot(asks: &[(u32, Ask)]) -> Result<Vec<(u32, Grants)>, u8> {
    let mut grants: Vec<(u32, Grants)> = asks
        .iter()
        .map(|(slot, _)| (*slot, Grants::default()))
        .collect();
    let mut failed = 0;
    for axis in Axis::ALL {
        let at = axis as usize;
        let demand = |(_, ask): &(u32, Ask)| ask.get(at).copied().flatten();
        let demands: Vec<_> = asks.iter().map(demand).collect();
        match waterfill(axis.budget(), &demands) {
            None => failed |= axis.bit(),
            Some(shares) => {
                for ((_, grant), share) in grants.iter_mut().zip(shares) {
                    if let Some(mine) = grant.get_mut(at) {
                        *mine = share;
                    }
                }
            }
        }
    }
    if failed == 0 { Ok(grants) } else { Err(failed) }
}

/// Buckets of a lease: the rate is the share in the node's units. The burst is a second of CPU, the
/// whole of memory, and a fifth of a second of operations (at least one), which is the `b` of the
/// arrival curve that the UV gate holds traffic to.
fn quotas(grants: &Grants, node: &Node) -> [Quota; AXES] {
    let [geo, int, gauge, ptr, obs] = *grants;
    let fifth = |rate: u64| Quota {
        rate,
        burst: (rate / 5).max(u64::from(rate > 0)),
    };
    let second = |rate: u64| Quota { rate, burst: rate };
    let memory = if ptr == BasisPoints::ZERO {
        0
    } else {
        ptr.of(node.memory_bytes)
    };
    [
        second(allocate::dimension(None, geo, node).cpu_us),
        fifth(allocate::coupling(int, node).operations),
        fifth(allocate::symmetry(gauge, node).commits),
        second(memory),
        fifth(allocate::observer(obs, node).observations),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::allocate::tests::node;
    use crate::axes::Demand;
    use crate::plan::{self, Plan};

    fn wanted(workload: &str, min: u16, want: u16) -> Admission<'_> {
        Admission {
            tenant: "t",
            workload,
            ask: [Some(Demand::new(min, want, 1).unwrap()); AXES],
            expires_ms: None,
            priority: 0,
            permissions: 1,
            pinned: false,
        }
    }

    /// A small deterministic generator (splitmix64), so that the run below is the same everywhere.
    struct Dice(u64);
    impl Dice {
        fn below(&mut self, n: u64) -> u64 {
            self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut z = self.0;
            z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            (z ^ (z >> 31)) % n
        }
    }

    fn assert_holds(table: &Table) {
        let mut totals = [0u32; AXES];
        let mut full = [true; AXES];
        for (_, _, lease) in table.leases() {
            for ((grant, demand), (total, full)) in lease
                .grants
                .iter()
                .zip(lease.ask)
                .zip(totals.iter_mut().zip(&mut full))
            {
                let (min, want) = demand.map_or((0, 0), |d| (d.min().get(), d.want().get()));
                assert!(grant.get() >= min && grant.get() <= want);
                *total += u32::from(grant.get());
                *full &= grant.get() == want;
            }
        }
        for (axis, (total, full)) in Axis::ALL.iter().zip(totals.iter().zip(full)) {
            let budget = u32::from(axis.budget().get());
            assert!(*total <= budget, "{axis:?} gives out {total} of {budget}");
            assert!(
                full || *total == budget,
                "{axis:?} keeps back what is wanted"
            );
        }
    }

    fn assert_fits(enforced: &Leaves, node: &Node) {
        let memory: u64 = enforced.values().map(|k| k.memory_max).sum();
        // Leaves without memory hold one page each.
        let floor = crate::allocate::PAGE_BYTES * enforced.len() as u64;
        assert!(memory <= Axis::Ptr.budget().of(node.memory_bytes) + floor);
    }

    #[test]
    fn a_hundred_thousand_operations_conserve_guarantee_and_survive_crashes_between_shrink_and_grow()
     {
        let (mut table, mut dice, mut enforced) = (Table::new(node()), Dice(7), Leaves::new());
        let (mut admitted, mut refused, mut crashes) = (0, 0, 0);
        for step in 0u64..100_000 {
            let now = step * 1_000_000;
            let workload = format!("w{}", dice.below(12));
            match dice.below(3) {
                0 | 1 => {
                    let mut request = wanted(&workload, 0, 0);
                    for axis in &mut request.ask {
                        let min = dice.below(1500) as u16;
                        let want = min + dice.below(6000) as u16;
                        let weight = 1 + dice.below(10) as u16;
                        *axis =
                            (dice.below(5) > 0).then(|| Demand::new(min, want, weight).unwrap());
                    }
                    request.expires_ms = (dice.below(4) == 0).then(|| now / 1_000_000 + 50);
                    let before = table.granted();
                    match table.admit(now, &request) {
                        Ok(_) => admitted += 1,
                        Err(Refusal::Axes(bits)) => {
                            refused += 1;
                            assert_eq!(table.granted(), before, "a refusal changes nothing");
                            for axis in Axis::ALL {
                                let at = axis as usize;
                                let others: u32 = table
                                    .leases()
                                    .filter(|(_, _, l)| *l.workload != *workload)
                                    .filter_map(|(_, _, l)| l.ask[at])
                                    .map(|d| u32::from(d.min().get()))
                                    .sum();
                                let mine = request.ask[at].map_or(0, |d| u32::from(d.min().get()));
                                let fails = others + mine > u32::from(axis.budget().get());
                                assert_eq!(bits & axis.bit() != 0, fails, "{axis:?}");
                            }
                        }
                        Err(other) => panic!("{other}"),
                    }
                }
                _ => {
                    if let Some(slot) = table.find("t", &workload) {
                        table.end(now, slot).unwrap();
                    }
                }
            }
            table.expire(now);
            assert_holds(&table);
            let plan = Plan::between(&enforced, &table.leaves());
            enforced.retain(|slot, _| !plan.removed.contains(slot));
            plan::write(&mut enforced, &plan.shrinks);
            assert_fits(&enforced, &node());
            if dice.below(4) == 0 {
                crashes += 1;
                continue;
            }
            for write in &plan.grows {
                plan::write(&mut enforced, std::slice::from_ref(write));
                assert_fits(&enforced, &node());
            }
            assert_eq!(enforced, table.leaves());
            assert!(Plan::between(&enforced, &table.leaves()).is_empty());
        }
        assert!(admitted > 10_000 && refused > 1000 && crashes > 10_000);
    }

    #[test]
    fn a_refusal_names_every_failing_axis() {
        let mut table = Table::new(node());
        table.admit(0, &wanted("a", 5000, 5000)).unwrap();
        let mut big = wanted("b", 4500, 4500);
        big.ask[Axis::Gauge as usize] = None;
        let refusal = table.admit(0, &big).unwrap_err();
        assert_eq!(
            refusal.to_string(),
            "minimum exceeds what is left on C_geo C_ptr C_obs"
        );
    }

    #[test]
    fn renewing_keeps_the_slot_and_kills_the_old_token() {
        let mut table = Table::new(node());
        let slot = table.admit(0, &wanted("a", 100, 200)).unwrap();
        let (first, _) = table.get(slot).unwrap();
        assert_eq!(table.admit(0, &wanted("a", 300, 400)), Ok(slot));
        let (second, lease) = table.get(slot).unwrap();
        assert_ne!(first, second);
        assert_eq!(lease.grants[0].get(), 400);
        assert!(table.end(0, slot).is_some() && table.end(0, slot).is_none());
        assert_eq!(table.admit(0, &wanted("b", 0, 1)), Ok(slot));
        assert!(table.get(slot).unwrap().0 > second);
    }

    #[test]
    fn leases_end_when_they_are_over() {
        let mut table = Table::new(node());
        let mut short = wanted("a", 100, 200);
        short.expires_ms = Some(10);
        table.admit(0, &short).unwrap();
        assert!(table.expire(9_999_999).is_empty());
        assert_eq!(table.expire(10_000_000).len(), 1);
        assert_eq!(table.granted(), [0; AXES]);
    }

    #[test]
    fn slots_are_bounded_and_shared_between_tenants() {
        let mut table = Table::new(node());
        for i in 0..TENANT_LEASES_MAX {
            table.admit(0, &wanted(&format!("w{i}"), 0, 0)).unwrap();
        }
        assert_eq!(
            table.admit(0, &wanted("more", 0, 0)),
            Err(Refusal::TenantSlots)
        );
        for tenant in ["u", "v", "w"] {
            for i in 0..TENANT_LEASES_MAX {
                let workload = format!("w{i}");
                let request = Admission {
                    tenant,
                    ..wanted(&workload, 0, 0)
                };
                table.admit(0, &request).unwrap();
            }
        }
        let last = Admission {
            tenant: "x",
            ..wanted("w", 0, 0)
        };
        assert_eq!(table.admit(0, &last), Err(Refusal::Slots));
    }

    #[test]
    fn a_pinned_lease_is_replaced_by_nobody_else() {
        let mut table = Table::new(node());
        let pinned = Admission {
            pinned: true,
            ..wanted("agents", 1, 1)
        };
        let slot = table.admit(0, &pinned).unwrap();
        assert_eq!(
            table.admit(0, &wanted("agents", 1, 1)),
            Err(Refusal::Pinned)
        );
        assert_eq!(table.admit(0, &pinned), Ok(slot));
    }

    #[test]
    fn all_buckets_must_pass_and_the_longest_empty_one_is_named() {
        let mut table = Table::new(node());
        let slot = table.admit(0, &wanted("a", 1000, 1000)).unwrap();
        // 10 % of 50,000 operations a second: a burst of a fifth of a second is 1,000.
        let one = [0, 1, 0, 0, 0];
        assert_eq!(table.spend(0, slot, &one), Ok(999));
        for _ in 0..999 {
            table.spend(0, slot, &one).unwrap();
        }
        let denied = table.spend(0, slot, &one).unwrap_err();
        assert_eq!(
            (denied.bucket, denied.retry_after_ns),
            ("ops", Some(200_000))
        );
        // 400,000 us of CPU a second: the other bucket is full, and a refusal charges nothing.
        let both = [400_000, 1, 0, 0, 0];
        assert_eq!(table.spend(0, slot, &both).unwrap_err().bucket, "ops");
        assert!(table.spend(200_000, slot, &both).is_ok());
        let never = table
            .spend(10_000_000_000, slot, &[0, 1, 0, 4 << 30, 0])
            .unwrap_err();
        assert_eq!((never.bucket, never.retry_after_ns), ("memory", None));
        assert_eq!(table.get(slot).unwrap().1.denied, 3);
        assert!(table.spend(0, 99, &one).is_err() && table.spend(0, u32::MAX, &one).is_err());
    }

    #[test]
    fn quotas_follow_grants_at_run_time() {
        let mut table = Table::new(node());
        let slot = table.admit(0, &wanted("a", 1000, 8000)).unwrap();
        let one = [0, 1, 0, 0, 0];
        assert_eq!(table.spend(0, slot, &one), Ok(7999));
        table.admit(0, &wanted("b", 7000, 7000)).unwrap();
        let (_, lease) = table.get(slot).unwrap();
        assert_eq!(lease.grants[Axis::Int as usize].get(), 2500);
        assert!(table.spend(1_000_000_000, slot, &one).unwrap() < 2500);
    }

    #[test]
    fn an_axis_that_was_not_asked_denies_what_costs_on_it() {
        let mut table = Table::new(node());
        let mut request = wanted("a", 1000, 1000);
        request.ask[Axis::Gauge as usize] = None;
        let slot = table.admit(0, &request).unwrap();
        assert!(table.spend(0, slot, &[0, 1, 0, 0, 0]).is_ok());
        assert_eq!(
            table.spend(0, slot, &[0, 1, 1, 0, 0]).unwrap_err().bucket,
            "commits"
        );
    }
}
