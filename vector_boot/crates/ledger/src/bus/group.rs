//! One consumer with its connections: what waits for delivery, who holds what until when.
//!
//! Nothing here reads the log or a clock. The lock is held for moments only, since the committer takes it
//! to strike out what was acknowledged.

use super::Address;
use ledger_core::bus::{LANES, Qos, Target, shard_of};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Messages that are known and not delivered yet; more are found once these are gone.
pub const WAITING_MAX: usize = 256;

/// Who holds what is acknowledged on its own: no connection has this number.
const NOBODY: u64 = 0;
/// How long that may take before it is tried again.
const OWN_LEASE: Duration = Duration::from_secs(60);

/// A message, without its content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Item {
    /// Its event.
    pub id: u64,
    /// Its name.
    pub ulid: [u8; 16],
    /// Its lane and number there.
    pub target: Target,
    /// How often it may have its effect.
    pub qos: Qos,
    /// When it is worth nothing any more, milliseconds since 1970; 0 for never.
    pub expires_ms: u64,
    /// How often it was delivered.
    pub attempts: u32,
}

/// What a connection wants of a consumer's messages.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Shards, by a map of so many; `None` for all.
    pub shards: Option<(BTreeSet<u16>, u16)>,
    /// Messages that it may hold at a time.
    pub in_flight: usize,
    /// How long it may hold one.
    pub lease: Duration,
}

impl Member {
    fn covers(&self, lane: u8) -> bool {
        match &self.shards {
            None => true,
            Some((shards, of)) => shards.contains(&shard_of(lane, *of)),
        }
    }
}

struct Lease {
    item: Item,
    holder: u64,
    until: Instant,
}

struct State {
    /// By lane, the first event that was not looked at.
    next: Box<[u64]>,
    /// By lane, the last message that was given and may be given once only: found again, it is not.
    once: Box<[u64]>,
    waiting: BTreeMap<u64, Item>,
    leased: BTreeMap<u64, Lease>,
    members: BTreeMap<u64, Member>,
    joined: u64,
    /// Somebody reads the log for all.
    scanning: bool,
    /// From where.
    began: u64,
    /// What it finds is not all that is wanted by now.
    stale: bool,
    /// Lanes that wait for older messages to be acknowledged.
    late: BTreeSet<u8>,
    /// Lanes in which one was while somebody read: what was found of them is not the last word.
    moved: BTreeSet<u8>,
    /// The consumer was taken off the topic.
    ended: bool,
}

/// A consumer with its connections.
pub struct Group {
    address: Address,
    since: u64,
    state: Mutex<State>,
}

/// A connection in a group; dropping it gives back what it holds.
pub struct Membership {
    group: Arc<Group>,
    number: u64,
}

impl Drop for Membership {
    fn drop(&mut self) {
        self.group.leave(self.number);
    }
}

impl Membership {
    /// Its group.
    pub fn group(&self) -> &Arc<Group> {
        &self.group
    }

    /// The next message for this connection, held from now on unless it may be given once only.
    pub fn take(&self, now: Instant) -> Option<Item> {
        self.group.state().take(self.number, now)
    }
}

/// What was found in the log.
pub struct Found {
    /// Messages in the order of ids, with whether each is still owed and could be acknowledged now.
    pub items: Vec<(Item, Owed)>,
    /// Every message up to here is among them.
    pub through: u64,
}

/// Whether a message is still owed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Owed {
    /// It is.
    Yes,
    /// It was acknowledged.
    No,
    /// Older ones of its lane must be acknowledged first.
    Later,
}

impl Group {
    /// `head` is the last event there is: what may be given once only is given behind it alone.
    pub(super) fn new(address: Address, since: u64, from: u64, head: u64) -> Self {
        let state = State {
            next: vec![from.max(1); usize::from(LANES)].into_boxed_slice(),
            once: vec![head; usize::from(LANES)].into_boxed_slice(),
            waiting: BTreeMap::new(),
            leased: BTreeMap::new(),
            members: BTreeMap::new(),
            joined: 0,
            scanning: false,
            began: 0,
            stale: false,
            late: BTreeSet::new(),
            moved: BTreeSet::new(),
            ended: false,
        };
        Self {
            address,
            since,
            state: Mutex::new(state),
        }
    }

    /// The event that made its consumer known; 0 for one without a name.
    pub fn since(&self) -> u64 {
        self.since
    }

    /// Where and who.
    pub fn address(&self) -> &Address {
        &self.address
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets a connection in.
    pub fn enter(self: Arc<Self>, member: Member) -> Membership {
        let mut state = self.state();
        state.joined += 1;
        let number = state.joined;
        state.members.insert(number, member);
        state.late.clear();
        state.look_again();
        drop(state);
        Membership {
            group: self,
            number,
        }
    }

    fn leave(&self, number: u64) {
        let mut state = self.state();
        state.members.remove(&number);
        state.give_back(|lease| lease.holder == number);
        state.drop_uncovered();
    }

    /// Takes the turn to look for messages up to `head`: where to begin, and how many there is room for.
    /// [`Self::found`] ends it.
    pub fn begin_scan(&self, head: u64) -> Option<(u64, usize)> {
        let mut state = self.state();
        // What expired is held until its acknowledgement is durable: where none can be, no more is taken in.
        let own = state.leased.values().filter(|l| l.holder == NOBODY).count();
        let known = state.waiting.len() + own;
        if state.scanning || known >= WAITING_MAX {
            return None;
        }
        let from = state.scan_from().filter(|from| *from <= head)?;
        (state.scanning, state.began) = (true, from);
        state.moved.clear();
        Some((from, WAITING_MAX - known))
    }

    /// The first event that was not looked at for somebody who is there.
    pub fn next_event(&self) -> Option<u64> {
        self.state().scan_from()
    }

    /// Ends it for all its connections.
    pub fn end(&self) {
        self.state().ended = true;
    }

    /// Whether the consumer was taken off the topic.
    pub fn has_ended(&self) -> bool {
        self.state().ended
    }

    /// Its connections, and how many messages they hold.
    pub fn present(&self) -> (usize, usize) {
        let state = self.state();
        let held = state.leased.values().filter(|l| l.holder != NOBODY);
        (state.members.len(), held.count())
    }

    /// Whether one is under way.
    pub fn is_scanning(&self) -> bool {
        self.state().scanning
    }

    /// Ends a scan; without anything found if it failed.
    pub fn found(&self, found: Option<Found>) {
        let mut state = self.state();
        state.scanning = false;
        let stale = std::mem::take(&mut state.stale);
        if let Some(found) = found.filter(|_| !stale) {
            state.take_in(found);
        }
    }

    /// Takes back what was held too long. What is worth nothing any more is returned, and held until it
    /// is acknowledged for the consumer: no other acknowledgement may go past it before.
    pub fn tick(&self, now: Instant, wall_ms: u64) -> Vec<Item> {
        let mut state = self.state();
        state.give_back(|lease| lease.until <= now);
        let expired = |item: &Item| item.expires_ms != 0 && item.expires_ms <= wall_ms;
        let due: Vec<Item> = state
            .waiting
            .values()
            .filter(|i| expired(i))
            .copied()
            .collect();
        for item in &due {
            state.waiting.remove(&item.id);
            let lease = Lease {
                item: *item,
                holder: NOBODY,
                until: now + OWN_LEASE,
            };
            state.leased.insert(item.id, lease);
        }
        due
    }

    /// When the next lease ends.
    pub fn next_end(&self) -> Option<Instant> {
        self.state().leased.values().map(|lease| lease.until).min()
    }

    /// Finds a message by its name among those known here.
    pub fn resolve(&self, ulid: &[u8; 16]) -> Option<Target> {
        let state = self.state();
        let leased = state.leased.values().map(|lease| &lease.item);
        let mut known = leased.chain(state.waiting.values());
        known
            .find(|item| item.ulid == *ulid)
            .map(|item| item.target)
    }

    /// The first event that matters once these are acknowledged.
    pub fn resume(&self, acked: &[Target]) -> u64 {
        let state = self.state();
        let others = |item: &&Item| !acked.contains(&item.target);
        let leased = state.leased.values().map(|lease| &lease.item).find(others);
        let waiting = state.waiting.values().find(others);
        let known = leased.into_iter().chain(waiting).map(|item| item.id);
        known.chain(state.next.iter().copied()).min().unwrap_or(1)
    }

    /// Strikes out what is acknowledged.
    pub fn acked(&self, targets: &[Target]) {
        let mut state = self.state();
        for target in targets {
            state.late.remove(&target.lane);
            state.moved.insert(target.lane);
        }
        state
            .leased
            .retain(|_, lease| !targets.contains(&lease.item.target));
        state
            .waiting
            .retain(|_, item| !targets.contains(&item.target));
    }
}

impl State {
    fn covers(&self, lane: u8) -> bool {
        self.members.values().any(|member| member.covers(lane))
    }

    fn scan_from(&self) -> Option<u64> {
        let lanes = (0..=u8::MAX).zip(self.next.iter());
        let wanted = |lane: u8| self.covers(lane) && !self.late.contains(&lane);
        let covered = lanes.filter(|(lane, _)| wanted(*lane));
        covered.map(|(_, next)| *next).min()
    }

    /// Lanes that somebody new wants may not have been looked at where others were: what is known from there
    /// on is found again, so that nothing is passed over and each shard keeps its order.
    fn look_again(&mut self) {
        let Some(from) = self.scan_from() else { return };
        self.stale |= self.scanning && from < self.began;
        for (id, item) in std::mem::take(&mut self.waiting) {
            if id < from || item.attempts > 0 {
                self.waiting.insert(id, item);
            } else if let Some(next) = self.next.get_mut(usize::from(item.target.lane)) {
                *next = id.min(*next);
            }
        }
    }

    fn take_in(&mut self, found: Found) {
        let mut later = BTreeSet::new();
        // A lane that nobody wanted, or that was late, when the look began: its next was not looked at.
        let passed_over: BTreeSet<u8> = (0..=u8::MAX)
            .zip(self.next.iter())
            .filter(|(_, next)| **next < self.began)
            .map(|(lane, _)| lane)
            .collect();
        for (item, owed) in found.items {
            let lane = item.target.lane;
            let covered = self.covers(lane);
            let Some(next) = self.next.get_mut(usize::from(lane)) else {
                continue;
            };
            let known = item.id < *next || passed_over.contains(&lane);
            if known || !covered || later.contains(&lane) {
                continue;
            }
            if owed == Owed::Later {
                later.insert(lane);
                *next = item.id;
                continue;
            }
            *next = item.id + 1;
            let given = self.once.get(usize::from(lane));
            let missed = item.qos == Qos::AtMostOnce && given.is_some_and(|id| item.id <= *id);
            if owed == Owed::Yes && !missed {
                self.waiting.insert(item.id, item);
            }
        }
        for lane in 0..=u8::MAX {
            let waits = later.contains(&lane) || passed_over.contains(&lane);
            let looked_at = self.covers(lane) && !waits;
            let next = self.next.get_mut(usize::from(lane));
            if let Some(next) = next.filter(|_| looked_at) {
                *next = (found.through + 1).max(*next);
            }
        }
        // Those that moved meanwhile are looked at again: the acknowledgement that they would wait for was it.
        let moved = std::mem::take(&mut self.moved);
        self.late.extend(later.difference(&moved));
    }

    fn take(&mut self, number: u64, now: Instant) -> Option<Item> {
        let member = self.members.get(&number)?;
        let held = self.leased.values().filter(|l| l.holder == number).count();
        if held >= member.in_flight {
            return None;
        }
        let item = *self
            .waiting
            .values()
            .find(|item| member.covers(item.target.lane))?;
        let until = now + member.lease;
        self.waiting.remove(&item.id);
        let item = Item {
            attempts: item.attempts.saturating_add(1),
            ..item
        };
        if item.qos == Qos::AtMostOnce {
            if let Some(once) = self.once.get_mut(usize::from(item.target.lane)) {
                *once = item.id;
            }
        } else {
            let lease = Lease {
                item,
                holder: number,
                until,
            };
            self.leased.insert(item.id, lease);
        }
        Some(item)
    }

    fn give_back(&mut self, whose: impl Fn(&Lease) -> bool) {
        let due: Vec<u64> = self
            .leased
            .iter()
            .filter(|(_, lease)| whose(lease))
            .map(|(id, _)| *id)
            .collect();
        for lease in due.iter().filter_map(|id| self.leased.remove(id)) {
            self.waiting.insert(lease.item.id, lease.item);
        }
    }

    /// What nobody wants now must not take the place of what somebody does: it is found again once its
    /// lane is wanted.
    fn drop_uncovered(&mut self) {
        let waiting = std::mem::take(&mut self.waiting);
        for (id, item) in waiting {
            if self.covers(item.target.lane) {
                self.waiting.insert(id, item);
            } else if item.qos != Qos::AtMostOnce
                && let Some(next) = self.next.get_mut(usize::from(item.target.lane))
            {
                *next = id.min(*next);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::Name;
    use super::*;
    use ledger_core::bus::lane_of;

    fn item(id: u64) -> Item {
        let ulid = u128::from(id).to_be_bytes();
        Item {
            id,
            ulid,
            target: Target {
                lane: lane_of(&ulid),
                seq: id,
            },
            qos: Qos::AtLeastOnce,
            expires_ms: 0,
            attempts: 0,
        }
    }

    fn group(ids: std::ops::RangeInclusive<u64>) -> Arc<Group> {
        let address = Address {
            tenant: "a".into(),
            topic: "t".into(),
            consumer: Name::Named("c".into()),
        };
        let group = Arc::new(Group::new(address, 0, 1, 0));
        let (all, through) = (ids.clone(), *ids.end());
        let keep = group.clone().enter(member(None));
        group.begin_scan(through).unwrap();
        let items = all.map(|id| (item(id), Owed::Yes)).collect();
        group.found(Some(Found { items, through }));
        std::mem::forget(keep);
        group
    }

    fn member(shards: Option<(&[u16], u16)>) -> Member {
        Member {
            shards: shards.map(|(list, of)| (list.iter().copied().collect(), of)),
            in_flight: 4,
            lease: Duration::from_secs(30),
        }
    }

    #[test]
    fn a_message_is_held_by_one_until_its_lease_ends_or_it_leaves() {
        let group = group(1..=10);
        let now = Instant::now();
        let (a, b) = (
            group.clone().enter(member(None)),
            group.clone().enter(member(None)),
        );
        let first: Vec<u64> = std::iter::from_fn(|| a.take(now)).map(|i| i.id).collect();
        assert_eq!(first, [1, 2, 3, 4]);
        assert_eq!(b.take(now).unwrap().id, 5);
        group.acked(&[item(2).target]);
        assert_eq!(group.resume(&[item(1).target]), 3);
        assert_eq!(a.take(now).unwrap().id, 6);
        drop(a);
        let again = b.take(now).unwrap();
        assert_eq!((again.id, again.attempts), (1, 2));
        assert!(group.tick(now + Duration::from_secs(31), 0).is_empty());
        assert_eq!(b.take(now).unwrap().id, 1);
        assert!(group.resolve(&item(2).ulid).is_none());
        assert_eq!(group.resolve(&item(5).ulid), Some(item(5).target));
    }

    #[test]
    fn shards_that_nobody_wants_are_looked_at_once_somebody_does() {
        let address = Address {
            tenant: "a".into(),
            topic: "t".into(),
            consumer: Name::Named("c".into()),
        };
        let group = Arc::new(Group::new(address, 0, 1, 0));
        let even = group.clone().enter(member(Some((&[0], 2))));
        let scan = |group: &Group| {
            let (from, _) = group.begin_scan(20).unwrap();
            let items = (from..=20).map(|id| (item(id), Owed::Yes)).collect();
            group.found(Some(Found { items, through: 20 }));
        };
        scan(&group);
        let is_even = |i: &Item| i.target.lane.is_multiple_of(2);
        let now = Instant::now();
        let got: Vec<Item> = std::iter::from_fn(|| even.take(now)).collect();
        assert!(got.iter().all(is_even) && !got.is_empty());
        assert!(group.begin_scan(20).is_none());
        let odd = group.clone().enter(member(Some((&[1], 2))));
        scan(&group);
        let got: Vec<Item> = std::iter::from_fn(|| odd.take(now)).collect();
        assert!(!got.iter().any(is_even) && !got.is_empty());
        // Another map beside the old one: each message is still given to one of them.
        drop(odd);
        let new_map = group.clone().enter(member(Some((&[1, 3], 4))));
        scan(&group);
        assert!(new_map.take(now).is_some_and(|i| !is_even(&i)));
    }

    #[test]
    fn who_joins_amid_a_scan_misses_nothing_and_gets_its_shard_in_order() {
        let address = Address {
            tenant: "a".into(),
            topic: "t".into(),
            consumer: Name::Named("c".into()),
        };
        let group = Arc::new(Group::new(address, 0, 1, 0));
        let even = group.clone().enter(member(Some((&[0], 2))));
        let scan = |group: &Group, through: u64| {
            let (from, _) = group.begin_scan(through).unwrap();
            let items = (from..=through).map(|id| (item(id), Owed::Yes)).collect();
            Found { items, through }
        };
        group.found(Some(scan(&group, 20)));
        // One that wants all comes while the log is read from 21 on: of the odd ones nothing was looked at.
        let found = scan(&group, 40);
        let all = group.clone().enter(Member {
            in_flight: 64,
            ..member(None)
        });
        group.found(Some(found));
        assert_eq!(group.begin_scan(40).unwrap().0, 1);
        let items = (1..=40).map(|id| (item(id), Owed::Yes)).collect();
        group.found(Some(Found { items, through: 40 }));
        let now = Instant::now();
        let got: Vec<u64> = std::iter::from_fn(|| all.take(now)).map(|i| i.id).collect();
        assert_eq!(got, (1..=40).collect::<Vec<u64>>());
        drop(even);
    }

    #[test]
    fn what_is_given_once_is_not_held_and_not_given_of_the_past() {
        let address = Address {
            tenant: "a".into(),
            topic: "t".into(),
            consumer: Name::Connection(1),
        };
        let group = Arc::new(Group::new(address, 0, 1, 5));
        let all = group.clone().enter(member(None));
        let once = |id| Item {
            qos: Qos::AtMostOnce,
            ..item(id)
        };
        group.begin_scan(10).unwrap();
        let items = (4..=7).map(|id| (once(id), Owed::Yes)).collect();
        group.found(Some(Found { items, through: 10 }));
        let now = Instant::now();
        let got: Vec<u64> = std::iter::from_fn(|| all.take(now)).map(|i| i.id).collect();
        assert_eq!(got, [6, 7]);
        group.tick(now + Duration::from_secs(100), 0);
        assert!(all.take(now).is_none());
    }

    #[test]
    fn what_was_given_once_is_not_found_again_with_what_was_given_back() {
        let address = Address {
            tenant: "a".into(),
            topic: "t".into(),
            consumer: Name::Named("c".into()),
        };
        let group = Arc::new(Group::new(address, 0, 1, 0));
        let keep = group.clone().enter(member(Some((&[1], 2))));
        let of_lane = |id, qos| Item {
            target: Target { lane: 2, seq: id },
            qos,
            ..item(id)
        };
        let find = |group: &Group| {
            group.begin_scan(9).unwrap();
            let items = vec![
                (of_lane(8, Qos::AtLeastOnce), Owed::Yes),
                (of_lane(9, Qos::AtMostOnce), Owed::Yes),
            ];
            group.found(Some(Found { items, through: 9 }));
        };
        let now = Instant::now();
        let given = |member: &Membership| -> Vec<u64> {
            std::iter::from_fn(|| member.take(now))
                .map(|i| i.id)
                .collect()
        };
        let first = group.clone().enter(member(None));
        find(&group);
        assert_eq!(given(&first), [8, 9]);
        drop(first);
        let second = group.clone().enter(member(None));
        find(&group);
        assert_eq!(given(&second), [8]);
        drop(keep);
    }

    #[test]
    fn a_lane_that_moves_while_somebody_reads_loses_nothing_and_waits_for_nothing() {
        let of_lane = |id| Item {
            target: Target { lane: 9, seq: id },
            ..item(id)
        };
        let group = group(1..=1);
        let look = |head: u64, found: Vec<(Item, Owed)>, acked: &[Target]| {
            let (from, _) = group.begin_scan(head).unwrap();
            group.acked(acked);
            let items = found;
            let through = head;
            group.found(Some(Found { items, through }));
            from
        };
        // It was full when it was read, and is not any more.
        let full = vec![(of_lane(2), Owed::Later), (of_lane(3), Owed::Later)];
        assert_eq!(look(9, full.clone(), &[of_lane(1).target]), 2);
        assert_eq!(look(9, full, &[]), 2);
        assert!(group.begin_scan(9).is_none(), "it waits");
        // The others are read on from 10; what it waited for is acknowledged meanwhile.
        let newer = vec![(of_lane(15), Owed::Yes)];
        assert_eq!(look(20, newer.clone(), &[of_lane(1).target]), 10);
        let all = [2, 3].map(|id| (of_lane(id), Owed::Yes));
        assert_eq!(look(20, all.into_iter().chain(newer).collect(), &[]), 2);
        let member = group.clone().enter(member(None));
        let now = Instant::now();
        let given: Vec<u64> = std::iter::from_fn(|| member.take(now))
            .map(|i| i.id)
            .collect();
        assert_eq!(given, [1, 2, 3, 15]);
    }

    #[test]
    fn what_expired_is_taken_out_and_a_blocked_lane_waits() {
        let group = group(1..=1);
        let late = Item {
            expires_ms: 50,
            ..item(2)
        };
        group.begin_scan(3).unwrap();
        let items = vec![(late, Owed::Yes), (item(3), Owed::Later)];
        group.found(Some(Found { items, through: 9 }));
        // The others go on; the lane itself once something of it is acknowledged.
        assert!(group.begin_scan(9).is_none());
        group.acked(&[item(3).target]);
        assert_eq!(group.begin_scan(9).unwrap().0, 3);
        assert_eq!(group.tick(Instant::now(), 50).len(), 1);
        assert_eq!(group.resume(&[item(1).target]), 2, "it is still owed");
        group.acked(&[late.target]);
        assert_eq!(group.resume(&[item(1).target]), 3);
    }
}
