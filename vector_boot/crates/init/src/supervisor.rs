//! Child supervision: when to start, restart, hold or give up on a service.
//!
//! Pure policy: takes `(now, Event)`, appends [`Action`]s, and touches no file, clock or process;
//! the loop performs the actions. `docs/supervision.md` is the same ladder in prose.
//! Start with [`Supervisor::step`].
//!
//! Never here: blocking, logging, allocation after [`Supervisor::new`].

use heapless::Vec;

/// Services that one machine may have; the manifest's own limit.
pub const UNITS_MAX: usize = rts::manifest::SERVICES_MAX;
/// Actions that one step may ask for: three for each service, and one for the whole.
pub const ACTIONS_MAX: usize = 3 * UNITS_MAX + 1;
/// Failures that are remembered for the intensity; a manifest's maximum above it means this many.
const FAILURES_REMEMBERED: usize = 16;
/// How long a failed core service is left alone before the next try: never given up.
const CORE_RETRY_NS: u64 = 30_000_000_000;

/// A service's place in the manifest.
pub type Index = usize;

/// Where a service is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Wants to run, waits for what it needs.
    Waiting,
    /// Its process runs and is not ready yet.
    Starting,
    /// Ready.
    Up,
    /// Told to stop.
    Stopping,
    /// Not running, and not wanted.
    Stopped,
    /// Ended; starts again when the back-off is over.
    Backoff,
    /// Ended too often. Core services are tried again, others wait for a person.
    Failed,
}

/// When a service that ended starts again by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Restart {
    /// Whatever its exit was.
    Always,
    /// Unless it exited with code 0.
    OnFailure,
    /// Never.
    Never,
}

/// Who else is restarted when a service fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Strategy {
    /// Nobody.
    OneForOne,
    /// Those that need it, directly or through others.
    RestForOne,
    /// Everybody.
    OneForAll,
}

/// What the manifest says of one service, in nanoseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Policy {
    /// Bit per service that must be up before it starts.
    pub needs: u32,
    /// When it starts again.
    pub restart: Restart,
    /// Whether it is never given up.
    pub core: bool,
    /// Whether it reports its readiness itself.
    pub reports_ready: bool,
    /// Back-off before the second restart in a row; the first one is immediate. 0: always immediate.
    pub backoff_first_ns: u64,
    /// The back-off doubles up to this.
    pub backoff_max_ns: u64,
    /// A service that was up for so long counts as healthy again.
    pub healthy_ns: u64,
    /// Failures inside [`Policy::intensity_ns`] that make it failed; 0: any number is borne.
    pub intensity_max: u32,
    /// The window of the intensity.
    pub intensity_ns: u64,
    /// From its start to its readiness at most.
    pub start_limit_ns: u64,
    /// From SIGTERM to SIGKILL.
    pub stop_limit_ns: u64,
    /// Between two signs of life at most; 0: none are expected.
    pub watchdog_ns: u64,
    /// Who else restarts.
    pub strategy: Strategy,
}

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// Time passed.
    Tick,
    /// Everything that its start waits for outside of other services is there.
    Unblocked(Index),
    /// Its process runs.
    Started(Index),
    /// Its process could not be made.
    StartFailed(Index),
    /// It reported that it is ready.
    Ready(Index),
    /// It reported a sign of life.
    Alive(Index),
    /// Its process ended; `success` is exit code 0.
    Exited {
        /// Which one.
        unit: Index,
        /// Whether it meant to.
        success: bool,
    },
    /// A person wants it up.
    Start(Index),
    /// A person wants it down.
    Stop(Index),
    /// A person wants it down and up again.
    Restart(Index),
    /// Everything is to stop, in order.
    Shutdown,
}

/// What is to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Make its process; answer with [`Event::Started`] or [`Event::StartFailed`].
    Start(Index),
    /// Send it SIGTERM.
    Terminate(Index),
    /// Kill it and all that it started.
    Kill(Index, Cause),
    /// Tell the world.
    Changed {
        /// Which one.
        unit: Index,
        /// What it was.
        from: Phase,
        /// What it is.
        to: Phase,
    },
    /// The shutdown is over: no service runs.
    AllStopped,
}

/// Why a service is killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// Not ready in time.
    StartTimeout,
    /// Did not end in time.
    StopTimeout,
    /// No sign of life in time.
    Watchdog,
}

impl Cause {
    /// For log lines and events.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::StartTimeout => "start timeout",
            Self::StopTimeout => "stop timeout",
            Self::Watchdog => "watchdog timeout",
        }
    }
}

/// The actions of one step.
pub type Actions = Vec<Action, ACTIONS_MAX>;

/// One service.
#[derive(Debug, Clone)]
struct Unit {
    policy: Policy,
    phase: Phase,
    /// Starts wait for [`Event::Unblocked`].
    blocked: bool,
    /// Whether a process exists (Starting, Up, Stopping; also after a kill, until it is reaped).
    running: bool,
    /// Start again after the stop that is under way.
    again: bool,
    /// When the phase's limit ends: start, stop, watchdog, back-off, retry.
    deadline_ns: Option<u64>,
    /// SIGKILL was sent; do not send it again for the same reason.
    killed: bool,
    up_since_ns: u64,
    /// Failures since it was last healthy.
    streak: u32,
    /// Times of the last failures, a ring.
    failures: [u64; FAILURES_REMEMBERED],
    failure_next: usize,
    failure_count: usize,
    restarts: u32,
}

/// The policy of a whole machine.
#[derive(Debug, Clone)]
pub struct Supervisor {
    units: Vec<Unit, UNITS_MAX>,
    stopping: bool,
    said_stopped: bool,
    random: u64,
}

impl Supervisor {
    /// A machine with these services, all wanted, all blocked. `seed` spreads the back-off.
    /// Policies beyond [`UNITS_MAX`] are not taken; the manifest has the same limit.
    #[must_use]
    pub fn new(policies: &[Policy], seed: u64) -> Self {
        let units = policies.iter().take(UNITS_MAX).map(|policy| Unit {
            policy: *policy,
            phase: Phase::Waiting,
            blocked: true,
            running: false,
            again: false,
            deadline_ns: None,
            killed: false,
            up_since_ns: 0,
            streak: 0,
            failures: [0; FAILURES_REMEMBERED],
            failure_next: 0,
            failure_count: 0,
            restarts: 0,
        });
        Self {
            units: units.collect(),
            stopping: false,
            said_stopped: false,
            random: seed | 1,
        }
    }

    /// Where a service is.
    #[must_use]
    pub fn phase(&self, unit: Index) -> Phase {
        self.units.get(unit).map_or(Phase::Stopped, |u| u.phase)
    }

    /// How often it was started again.
    #[must_use]
    pub fn restarts(&self, unit: Index) -> u32 {
        self.units.get(unit).map_or(0, |u| u.restarts)
    }

    /// Nanoseconds until its back-off or retry ends.
    #[must_use]
    pub fn backoff_left_ns(&self, unit: Index, now: u64) -> u64 {
        self.units
            .get(unit)
            .filter(|u| matches!(u.phase, Phase::Backoff | Phase::Failed))
            .and_then(|u| u.deadline_ns)
            .map_or(0, |at| at.saturating_sub(now))
    }

    /// Takes one event and appends what is to be done.
    pub fn step(&mut self, now: u64, event: Event, actions: &mut Actions) {
        match event {
            Event::Tick => {}
            Event::Unblocked(i) => self.with(i, |u| u.blocked = false),
            Event::Started(i) => self.started(now, i, actions),
            Event::StartFailed(i) => self.ended(now, i, false, actions),
            Event::Ready(i) => self.ready(now, i, actions),
            Event::Alive(i) => self.with(i, |u| {
                if u.phase == Phase::Up && u.policy.watchdog_ns > 0 {
                    u.deadline_ns = Some(now.saturating_add(u.policy.watchdog_ns));
                }
            }),
            Event::Exited { unit, success } => self.ended(now, unit, success, actions),
            Event::Start(i) => self.wanted(i, actions),
            Event::Stop(i) => self.stop(now, i, false, actions),
            Event::Restart(i) => self.restart(now, i, actions),
            Event::Shutdown => self.stopping = true,
        }
        self.expire(now, actions);
        if self.stopping {
            self.stop_leaves(now, actions);
        } else {
            self.start_waiting(actions);
        }
    }

    fn with(&mut self, i: Index, change: impl FnOnce(&mut Unit)) {
        if let Some(unit) = self.units.get_mut(i) {
            change(unit);
        }
    }

    fn started(&mut self, now: u64, i: Index, actions: &mut Actions) {
        let Some(unit) = self.units.get_mut(i) else {
            return;
        };
        unit.running = true;
        unit.deadline_ns = Some(now.saturating_add(unit.policy.start_limit_ns));
        if !unit.policy.reports_ready {
            self.ready(now, i, actions);
        }
    }

    fn ready(&mut self, now: u64, i: Index, actions: &mut Actions) {
        let Some(unit) = self
            .units
            .get_mut(i)
            .filter(|u| u.phase == Phase::Starting && u.running)
        else {
            return;
        };
        unit.up_since_ns = now;
        unit.deadline_ns =
            (unit.policy.watchdog_ns > 0).then(|| now.saturating_add(unit.policy.watchdog_ns));
        enter(unit, i, Phase::Up, actions);
    }

    /// Its process is gone, or never was.
    fn ended(&mut self, now: u64, i: Index, success: bool, actions: &mut Actions) {
        let random = self.draw();
        let (stopping, Some(unit)) = (self.stopping, self.units.get_mut(i)) else {
            return;
        };
        let was = unit.phase;
        if !matches!(was, Phase::Starting | Phase::Up | Phase::Stopping) {
            return;
        }
        unit.running = false;
        unit.killed = false;
        unit.deadline_ns = None;
        if was == Phase::Stopping {
            let again = std::mem::take(&mut unit.again) && !stopping;
            unit.restarts += u32::from(again);
            enter(
                unit,
                i,
                if again {
                    Phase::Waiting
                } else {
                    Phase::Stopped
                },
                actions,
            );
            return;
        }
        let comes_back = match unit.policy.restart {
            Restart::Always => true,
            Restart::OnFailure => !success,
            Restart::Never => false,
        };
        if stopping || !comes_back {
            enter(unit, i, Phase::Stopped, actions);
            return;
        }
        if was == Phase::Up && now.saturating_sub(unit.up_since_ns) >= unit.policy.healthy_ns {
            unit.streak = 0;
        }
        unit.streak = unit.streak.saturating_add(1);
        unit.restarts = unit.restarts.saturating_add(1);
        if unit.too_often(now) {
            unit.deadline_ns = unit.policy.core.then(|| now.saturating_add(CORE_RETRY_NS));
            enter(unit, i, Phase::Failed, actions);
        } else {
            match unit.backoff_ns(random) {
                0 => enter(unit, i, Phase::Waiting, actions),
                delay => {
                    unit.deadline_ns = Some(now.saturating_add(delay));
                    enter(unit, i, Phase::Backoff, actions);
                }
            }
        }
        self.take_along(now, i, actions);
    }

    /// Restarts the others that the failed service's strategy names.
    fn take_along(&mut self, now: u64, failed: Index, actions: &mut Actions) {
        let Some(strategy) = self.units.get(failed).map(|u| u.policy.strategy) else {
            return;
        };
        let mask = match strategy {
            Strategy::OneForOne => return,
            Strategy::OneForAll => u32::MAX,
            Strategy::RestForOne => self.dependents(failed),
        };
        for i in 0..self.units.len() {
            let runs = self
                .units
                .get(i)
                .is_some_and(|u| matches!(u.phase, Phase::Starting | Phase::Up));
            if i != failed && mask & bit(i) != 0 && runs {
                self.stop(now, i, true, actions);
            }
        }
    }

    /// Bits of the services that need this one, directly or through others.
    fn dependents(&self, of: Index) -> u32 {
        let mut mask = bit(of);
        // Each pass adds one level; there are no more levels than services.
        for _ in 0..self.units.len() {
            for (i, unit) in self.units.iter().enumerate() {
                if unit.policy.needs & mask != 0 {
                    mask |= bit(i);
                }
            }
        }
        mask & !bit(of)
    }

    fn wanted(&mut self, i: Index, actions: &mut Actions) {
        let Some(unit) = self.units.get_mut(i) else {
            return;
        };
        match unit.phase {
            Phase::Stopped | Phase::Failed | Phase::Backoff => {
                unit.deadline_ns = None;
                unit.failure_count = 0;
                unit.streak = 0;
                enter(unit, i, Phase::Waiting, actions);
            }
            Phase::Stopping => unit.again = true,
            Phase::Waiting | Phase::Starting | Phase::Up => {}
        }
    }

    fn stop(&mut self, now: u64, i: Index, again: bool, actions: &mut Actions) {
        let Some(unit) = self.units.get_mut(i) else {
            return;
        };
        match unit.phase {
            Phase::Starting | Phase::Up => {
                unit.again = again;
                unit.deadline_ns = Some(now.saturating_add(unit.policy.stop_limit_ns));
                enter(unit, i, Phase::Stopping, actions);
                push(actions, Action::Terminate(i));
            }
            Phase::Stopping => unit.again = again,
            Phase::Waiting | Phase::Backoff | Phase::Failed => {
                unit.deadline_ns = None;
                enter(
                    unit,
                    i,
                    if again {
                        Phase::Waiting
                    } else {
                        Phase::Stopped
                    },
                    actions,
                );
            }
            Phase::Stopped => {}
        }
    }

    fn restart(&mut self, now: u64, i: Index, actions: &mut Actions) {
        match self.phase(i) {
            Phase::Starting | Phase::Up | Phase::Stopping => self.stop(now, i, true, actions),
            _ => self.wanted(i, actions),
        }
    }

    /// Acts on limits that have passed.
    fn expire(&mut self, now: u64, actions: &mut Actions) {
        for (i, unit) in self.units.iter_mut().enumerate() {
            if unit.deadline_ns.is_none_or(|at| now < at) {
                continue;
            }
            unit.deadline_ns = None;
            let cause = match unit.phase {
                Phase::Starting => Cause::StartTimeout,
                Phase::Stopping => Cause::StopTimeout,
                Phase::Up => Cause::Watchdog,
                Phase::Backoff | Phase::Failed => {
                    enter(unit, i, Phase::Waiting, actions);
                    continue;
                }
                Phase::Waiting | Phase::Stopped => continue,
            };
            if !unit.killed {
                unit.killed = true;
                push(actions, Action::Kill(i, cause));
            }
        }
    }

    /// Starts whatever waits for nothing any more.
    fn start_waiting(&mut self, actions: &mut Actions) {
        let up = self.mask(|u| u.phase == Phase::Up);
        for (i, unit) in self.units.iter_mut().enumerate() {
            let free = unit.phase == Phase::Waiting && !unit.blocked && !unit.running;
            if free && unit.policy.needs & !up == 0 {
                enter(unit, i, Phase::Starting, actions);
                push(actions, Action::Start(i));
            }
        }
    }

    /// Stops those that nobody who still runs needs; says so once nothing runs.
    fn stop_leaves(&mut self, now: u64, actions: &mut Actions) {
        let running = self.mask(|u| u.running);
        for i in 0..self.units.len() {
            let needed = self
                .units
                .iter()
                .enumerate()
                .any(|(j, u)| running & bit(j) != 0 && u.policy.needs & bit(i) != 0);
            if self.phase(i) != Phase::Stopped && self.phase(i) != Phase::Stopping && !needed {
                self.stop(now, i, false, actions);
            }
        }
        if running == 0 && !self.said_stopped {
            self.said_stopped = true;
            push(actions, Action::AllStopped);
        }
    }

    fn mask(&self, of: impl Fn(&Unit) -> bool) -> u32 {
        self.units
            .iter()
            .enumerate()
            .filter(|(_, u)| of(u))
            .fold(0, |mask, (i, _)| mask | bit(i))
    }

    /// xorshift64: spreads back-offs, nothing more.
    fn draw(&mut self) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random
    }
}

impl Unit {
    /// Remembers a failure and says whether there were too many inside the window.
    fn too_often(&mut self, now: u64) -> bool {
        if let Some(slot) = self.failures.get_mut(self.failure_next) {
            *slot = now;
        }
        self.failure_next = (self.failure_next + 1) % FAILURES_REMEMBERED;
        self.failure_count = (self.failure_count + 1).min(FAILURES_REMEMBERED);
        if self.policy.intensity_max == 0 {
            return false;
        }
        let newest_first = (1..=self.failure_count).filter_map(|back| {
            self.failures
                .get((self.failure_next + FAILURES_REMEMBERED - back) % FAILURES_REMEMBERED)
        });
        let recent = newest_first
            .filter(|at| now.saturating_sub(**at) < self.policy.intensity_ns)
            .count();
        recent
            > usize::try_from(self.policy.intensity_max)
                .unwrap_or(usize::MAX)
                .min(FAILURES_REMEMBERED - 1)
    }

    /// Nothing for the first failure in a row, then doubling from the first step to the longest,
    /// each between three quarters and the whole, so that services that died together come apart.
    fn backoff_ns(&self, random: u64) -> u64 {
        let Some(doublings) = self.streak.checked_sub(2) else {
            return 0;
        };
        let factor = 1u64.checked_shl(doublings).unwrap_or(u64::MAX);
        let whole = self
            .policy
            .backoff_first_ns
            .saturating_mul(factor)
            .min(self.policy.backoff_max_ns);
        whole - (whole / 4 / 1024).saturating_mul(random % 1024)
    }
}

fn bit(i: Index) -> u32 {
    u32::try_from(i)
        .ok()
        .and_then(|i| 1u32.checked_shl(i))
        .unwrap_or(0)
}

fn enter(unit: &mut Unit, i: Index, to: Phase, actions: &mut Actions) {
    let from = std::mem::replace(&mut unit.phase, to);
    push(actions, Action::Changed { unit: i, from, to });
}

/// A full list can only mean that one step changed every service three times, which the match arms
/// above exclude; the action would be lost, so tests assert that it never happens.
fn push(actions: &mut Actions, action: Action) {
    let fits = actions.push(action).is_ok();
    debug_assert!(fits, "one step asked for more than {ACTIONS_MAX} actions");
}

#[cfg(test)]
mod tests {
    use super::{Strategy, *};
    use proptest::prelude::*;

    const MS: u64 = 1_000_000;
    const S: u64 = 1_000 * MS;

    fn policy(needs: u32) -> Policy {
        Policy {
            needs,
            restart: Restart::Always,
            core: true,
            reports_ready: true,
            backoff_first_ns: 100 * MS,
            backoff_max_ns: 30 * S,
            healthy_ns: 60 * S,
            intensity_max: 5,
            intensity_ns: 60 * S,
            start_limit_ns: 10 * S,
            stop_limit_ns: 5 * S,
            watchdog_ns: 0,
            strategy: Strategy::OneForOne,
        }
    }

    /// A machine whose processes obey at once.
    struct Bench {
        supervisor: Supervisor,
        now: u64,
        log: std::vec::Vec<Action>,
    }

    impl Bench {
        fn new(policies: &[Policy]) -> Self {
            let mut bench = Self {
                supervisor: Supervisor::new(policies, 7),
                now: 0,
                log: vec![],
            };
            for i in 0..policies.len() {
                bench.send(Event::Unblocked(i));
            }
            bench
        }

        fn send(&mut self, event: Event) -> std::vec::Vec<Action> {
            let mut actions = Actions::new();
            self.supervisor.step(self.now, event, &mut actions);
            let mut all = actions.to_vec();
            for action in actions {
                if let Action::Start(i) = action {
                    all.extend(self.send(Event::Started(i)));
                }
            }
            self.log.extend(&all);
            all
        }

        fn up(&mut self, unit: Index) {
            self.send(Event::Ready(unit));
            assert_eq!(self.supervisor.phase(unit), Phase::Up);
        }

        fn die(&mut self, unit: Index) -> std::vec::Vec<Action> {
            self.send(Event::Exited {
                unit,
                success: false,
            })
        }
    }

    #[test]
    fn services_start_in_the_order_of_their_needs() {
        let mut b = Bench::new(&[policy(0), policy(0b1), policy(0b11)]);
        assert_eq!(b.supervisor.phase(0), Phase::Starting);
        assert_eq!(b.supervisor.phase(1), Phase::Waiting);
        b.up(0);
        assert_eq!(b.supervisor.phase(1), Phase::Starting);
        assert_eq!(b.supervisor.phase(2), Phase::Waiting);
        b.up(1);
        assert_eq!(b.supervisor.phase(2), Phase::Starting);
    }

    #[test]
    fn the_first_failure_restarts_at_once_and_the_next_ones_back_off() {
        let mut b = Bench::new(&[policy(0)]);
        b.up(0);
        b.now = S;
        assert!(b.die(0).contains(&Action::Start(0)));
        b.up(0);
        let mut last = 0;
        for _ in 0..4 {
            b.die(0);
            assert_eq!(b.supervisor.phase(0), Phase::Backoff);
            let wait = b.supervisor.backoff_left_ns(0, b.now);
            assert!(wait > last && wait <= 30 * S, "{wait} after {last}");
            last = wait;
            b.now += wait;
            assert!(b.send(Event::Tick).contains(&Action::Start(0)));
            b.up(0);
        }
    }

    #[test]
    fn crash_loop_fails_and_a_core_service_is_tried_again_later() {
        let mut b = Bench::new(&[
            policy(0),
            Policy {
                core: false,
                ..policy(0)
            },
        ]);
        for unit in [0, 1] {
            while b.supervisor.phase(unit) != Phase::Failed {
                b.die(unit);
                if b.supervisor.phase(unit) == Phase::Backoff {
                    b.now += b.supervisor.backoff_left_ns(unit, b.now);
                    b.send(Event::Tick);
                }
                assert!(b.now < 60 * S, "never failed");
            }
        }
        b.now += CORE_RETRY_NS;
        b.send(Event::Tick);
        assert_eq!(b.supervisor.phase(0), Phase::Starting, "core comes back");
        assert_eq!(
            b.supervisor.phase(1),
            Phase::Failed,
            "others wait for a person"
        );
        b.send(Event::Start(1));
        assert_eq!(b.supervisor.phase(1), Phase::Starting);
    }

    #[test]
    fn a_drill_manifest_without_back_off_restarts_for_ever() {
        let mut b = Bench::new(&[Policy {
            backoff_first_ns: 0,
            intensity_max: 0,
            ..policy(0)
        }]);
        for round in 0..1000 {
            b.up(0);
            assert!(b.die(0).contains(&Action::Start(0)), "round {round}");
        }
        assert_eq!(b.supervisor.restarts(0), 1000);
    }

    #[test]
    fn a_healthy_minute_forgives() {
        let mut b = Bench::new(&[policy(0)]);
        for _ in 0..20 {
            b.up(0);
            b.now += 61 * S;
            assert!(b.die(0).contains(&Action::Start(0)));
        }
    }

    #[test]
    fn a_service_that_ignores_sigterm_is_killed_once() {
        let mut b = Bench::new(&[policy(0)]);
        b.up(0);
        assert!(b.send(Event::Stop(0)).contains(&Action::Terminate(0)));
        b.now += 5 * S;
        assert_eq!(b.send(Event::Tick), [Action::Kill(0, Cause::StopTimeout)]);
        b.now += 5 * S;
        assert_eq!(b.send(Event::Tick), []);
        b.send(Event::Exited {
            unit: 0,
            success: false,
        });
        assert_eq!(b.supervisor.phase(0), Phase::Stopped);
    }

    #[test]
    fn a_start_that_never_gets_ready_is_killed_and_counts_as_a_failure() {
        let mut b = Bench::new(&[policy(0)]);
        b.now += 10 * S;
        assert_eq!(b.send(Event::Tick), [Action::Kill(0, Cause::StartTimeout)]);
        assert!(b.die(0).contains(&Action::Start(0)));
        assert_eq!(b.supervisor.restarts(0), 1);
    }

    #[test]
    fn a_silent_watchdog_kills_and_signs_of_life_do_not() {
        let mut b = Bench::new(&[Policy {
            watchdog_ns: S,
            ..policy(0)
        }]);
        b.up(0);
        for _ in 0..5 {
            b.now += 900 * MS;
            assert_eq!(b.send(Event::Alive(0)), []);
        }
        b.now += S;
        assert_eq!(b.send(Event::Tick), [Action::Kill(0, Cause::Watchdog)]);
    }

    #[test]
    fn on_failure_leaves_a_clean_exit_alone() {
        let mut b = Bench::new(&[Policy {
            restart: Restart::OnFailure,
            ..policy(0)
        }]);
        b.up(0);
        b.send(Event::Exited {
            unit: 0,
            success: true,
        });
        assert_eq!(b.supervisor.phase(0), Phase::Stopped);
    }

    #[test]
    fn rest_for_one_takes_those_along_that_need_it() {
        let first = Policy {
            strategy: Strategy::RestForOne,
            ..policy(0)
        };
        let mut b = Bench::new(&[first, policy(0b1), policy(0b10), policy(0)]);
        (0..4).for_each(|i| b.up(i));
        let actions = b.die(0);
        assert!(actions.contains(&Action::Terminate(1)) && actions.contains(&Action::Terminate(2)));
        assert!(!actions.contains(&Action::Terminate(3)));
    }

    #[test]
    fn shutdown_goes_backwards_and_says_when_it_is_over() {
        let mut b = Bench::new(&[policy(0), policy(0b1), policy(0b10)]);
        (0..3).for_each(|i| b.up(i));
        assert_eq!(
            b.send(Event::Shutdown)
                .iter()
                .filter(|a| matches!(a, Action::Terminate(_)))
                .count(),
            1
        );
        for unit in [2, 1] {
            let next = b.send(Event::Exited {
                unit,
                success: true,
            });
            assert!(next.contains(&Action::Terminate(unit - 1)));
        }
        assert!(
            b.send(Event::Exited {
                unit: 0,
                success: true
            })
            .contains(&Action::AllStopped)
        );
        assert!(!b.send(Event::Start(0)).contains(&Action::Start(0)));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(500))]
        /// Whatever comes: one process a service at most, never a start without its needs, never a
        /// start outside the ladder, and a shutdown always ends.
        #[test]
        fn no_schedule_breaks_the_invariants(
            script in proptest::collection::vec((0u8..10, 0usize..5, 0u64..20_000), 0..300),
            seed in any::<u64>(),
        ) {
            let policies = [policy(0), policy(0b1), policy(0b11), policy(0),
                Policy { core: false, strategy: Strategy::OneForAll, restart: Restart::OnFailure, ..policy(0b1000) }];
            let mut supervisor = Supervisor::new(&policies, seed);
            let mut alive = [false; 5];
            let mut now = 0;
            let feed = |supervisor: &mut Supervisor, now: u64, event, alive: &mut [bool; 5]| {
                let mut queue = vec![event];
                let mut over = false;
                while let Some(event) = queue.pop() {
                    let mut actions = Actions::new();
                    supervisor.step(now, event, &mut actions);
                    for action in actions {
                        match action {
                            Action::Start(i) => {
                                assert!(!alive[i], "two instances of {i}");
                                for j in 0..policies.len() {
                                    if policies[i].needs & (1 << j) != 0 {
                                        assert_eq!(supervisor.phase(j), Phase::Up, "{i} started without {j}");
                                    }
                                }
                                alive[i] = true;
                                queue.push(Event::Started(i));
                            }
                            Action::Kill(i, _) => {
                                if std::mem::take(&mut alive[i]) {
                                    queue.push(Event::Exited { unit: i, success: false });
                                }
                            }
                            Action::AllStopped => over = true,
                            // A process that was killed a moment ago may be told to end once more.
                            Action::Terminate(_) | Action::Changed { .. } => {}
                        }
                    }
                }
                over
            };
            for i in 0..5 {
                feed(&mut supervisor, now, Event::Unblocked(i), &mut alive);
            }
            for (what, unit, ms) in script {
                now += ms * MS;
                let event = match what {
                    0 | 1 => Event::Tick,
                    2 | 3 => Event::Ready(unit),
                    4..=6 if alive[unit] => {
                        alive[unit] = false;
                        Event::Exited { unit, success: what == 6 }
                    }
                    7 => Event::Start(unit),
                    8 => Event::Stop(unit),
                    _ => Event::Restart(unit),
                };
                feed(&mut supervisor, now, event, &mut alive);
            }
            let mut over = feed(&mut supervisor, now, Event::Shutdown, &mut alive);
            for _ in 0..10 {
                now += 5 * S;
                over |= feed(&mut supervisor, now, Event::Tick, &mut alive);
            }
            prop_assert!(over && alive == [false; 5]);
        }
    }
}
