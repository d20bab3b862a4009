//! Child supervision: when to start, restart, hold or give up on a service.
//!
//! Pure policy: takes `(now, Event)`, appends [`Action`]s, and touches no file, clock or process;
//! the loop performs the actions. `docs/supervision.md` is the same ladder in prose.
//! Start with [`Supervisor::step`].
//!
//! Never here: blocking, logging, allocation after [`Supervisor::new`].

mod snapshot;

use heapless::Vec;
pub use snapshot::{Nonsense, SNAPSHOT_BYTES, UnitSnapshot};

/// Services that one machine may have; the manifest's own limit.
pub const UNITS_MAX: usize = rts::manifest::SERVICES_MAX;
/// Actions that one step may ask for: three for each service, and one for the whole.
pub const ACTIONS_MAX: usize = 3 * UNITS_MAX + 1;
/// Gaps between the last failures, which is one less than the failures that are remembered for the intensity; a
/// manifest's maximum above it means this many.
const GAPS: usize = 15;
/// How long a failed core service is left alone before the next try: never given up.
const CORE_RETRY_NS: u64 = 30_000_000_000;

/// The manifest's own bounds of `watchdog_ms`, for those that set it themselves.
const WATCHDOG_LEAST_NS: u64 = 100_000_000;
const WATCHDOG_MOST_NS: u64 = 3_600_000_000_000;

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

impl Phase {
    /// What becomes of a service that does not run any more: to be started again, or not.
    fn at_rest(again: bool) -> Self {
        if again { Self::Waiting } else { Self::Stopped }
    }

    /// The phase of a number, which is `phase as u8`.
    #[must_use]
    pub fn of(number: u8) -> Option<Self> {
        let all = [
            Self::Waiting,
            Self::Starting,
            Self::Up,
            Self::Stopping,
            Self::Stopped,
            Self::Backoff,
            Self::Failed,
        ];
        all.get(usize::from(number)).copied()
    }
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
    /// How much later than its limit a start or a stop may end that asks for it, and a sign of life come.
    pub extend_max_ns: u64,
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
    /// It reported that it hangs: as if its watchdog's limit had passed.
    Hangs(Index),
    /// It asks for another limit between its signs of life, until its next start.
    WatchdogLimit {
        /// Which one.
        unit: Index,
        /// Its wish, which is bounded.
        limit_ns: u64,
    },
    /// It asks for more time to start or to stop, from now on.
    Extend {
        /// Which one.
        unit: Index,
        /// Its wish, which is bounded.
        by_ns: u64,
    },
    /// It reported that it ends by itself.
    Ending(Index),
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
    /// Send it SIGABRT, so that it can say where it hangs; [`Action::Kill`] follows if it does not end.
    Abort(Index, Cause),
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

/// One service. [`UnitSnapshot`] holds every field but its policy, in the same order.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Unit {
    policy: Policy,
    phase: Phase,
    /// Starts wait for [`Event::Unblocked`].
    blocked: bool,
    /// Whether a process exists (Starting, Up, Stopping; also after a kill, until it is reaped).
    running: bool,
    /// Start again after the stop that is under way.
    again: bool,
    /// It said that it ends by itself: nobody asked for it, so the ladder judges its end.
    leaving: bool,
    killing: Killing,
    /// Failures since it was last healthy.
    streak: u32,
    restarts: u32,
    /// When the phase's limit ends: start, stop, watchdog, back-off, retry.
    deadline_ns: Option<u64>,
    /// How late that may become by [`Event::Extend`].
    deadline_max_ns: u64,
    up_since_ns: u64,
    /// The policy's, or what it asked for since it started.
    watchdog_ns: u64,
    /// Since when it has been failing: from [`Phase::Failed`] until it was up for long enough.
    failing_since_ns: Option<u64>,
    /// Spreads its back-offs; never 0.
    random: u64,
    failures: Failures,
}

/// How far the end of a process is that is killed; each signal is sent once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Killing {
    No,
    /// SIGABRT was asked for.
    Abort,
    /// SIGKILL was asked for by a PID 1 that did not live to see it; this one asks once more.
    Again,
    /// SIGKILL was.
    Kill,
}

/// The last failures, as many as the intensity may look at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Failures {
    /// 0 to [`GAPS`] + 1.
    count: u8,
    last_ns: u64,
    /// Microseconds from each to the one after it, the newest first. What is over 71 minutes saturates: a window
    /// is an hour at most.
    gaps_us: [u32; GAPS],
}

/// The policy of a whole machine.
#[derive(Debug, Clone)]
pub struct Supervisor {
    /// As many as there are: room for [`UNITS_MAX`] would be 8 KiB of PID 1, used or not.
    units: Box<[Unit]>,
    stopping: bool,
    said_stopped: bool,
}

impl Supervisor {
    /// A machine with these services, all wanted, all blocked. `seed` spreads the back-off.
    /// Policies beyond [`UNITS_MAX`] are not taken; the manifest has the same limit.
    #[must_use]
    pub fn new(policies: &[Policy], seed: u64) -> Self {
        let units = policies.iter().take(UNITS_MAX).zip(1u64..);
        Self {
            units: units
                .map(|(policy, nth)| Unit::new(policy, spread(seed, nth)))
                .collect(),
            stopping: false,
            said_stopped: false,
        }
    }

    /// Where a service is.
    #[must_use]
    pub fn phase(&self, unit: Index) -> Phase {
        self.units.get(unit).map_or(Phase::Stopped, |u| u.phase)
    }

    /// Whether it is stopping because it said so itself: nobody asked for that.
    #[must_use]
    pub fn leaves(&self, unit: Index) -> bool {
        self.units.get(unit).is_some_and(|u| u.leaving)
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

    /// When the next limit ends: a tick before it changes nothing.
    #[must_use]
    pub fn due(&self) -> Option<u64> {
        self.units.iter().filter_map(|u| u.deadline_ns).min()
    }

    /// Share of its watchdog's time that it has been silent; none unless it is up and has one.
    #[must_use]
    pub fn silence(&self, unit: Index, now: u64) -> Option<f32> {
        let unit = self.units.get(unit)?;
        let watched = unit.phase == Phase::Up && unit.killing == Killing::No;
        let at = unit
            .deadline_ns
            .filter(|_| watched && unit.watchdog_ns > 0)?;
        let left = at.saturating_sub(now) as f64 / unit.watchdog_ns as f64;
        // A share: the seven digits of an f32 are plenty.
        Some((1.0 - left).clamp(0.0, 1.0) as f32)
    }

    /// Since when it has been failing, if it is: back-offs and single failures are none.
    #[must_use]
    pub fn failing_since(&self, unit: Index, now: u64) -> Option<u64> {
        self.units
            .get(unit)
            .filter(|u| !u.is_healthy(now))?
            .failing_since_ns
    }

    /// A service that has stopped is another one from now on: it starts by this policy, once unblocked.
    pub fn reform(&mut self, unit: Index, policy: &Policy) {
        self.with(unit, |u| {
            u.policy = *policy;
            u.blocked = true;
        });
    }

    /// Takes one event and appends what is to be done.
    pub fn step(&mut self, now: u64, event: Event, actions: &mut Actions) {
        match event {
            Event::Tick => {}
            Event::Unblocked(i) => self.with(i, |u| u.blocked = false),
            Event::Started(i) => self.started(now, i, actions),
            Event::StartFailed(i) => self.ended(now, i, false, actions),
            Event::Ready(i) => self.ready(now, i, actions),
            Event::Alive(i) => self.with(i, |u| u.wind_watchdog(now)),
            Event::Hangs(i) => self.with(i, |u| {
                if u.running && u.phase == Phase::Up && u.killing == Killing::No {
                    u.deadline_ns = Some(now);
                }
            }),
            Event::WatchdogLimit { unit, limit_ns } => self.with(unit, |u| {
                u.watchdog_ns = limit_ns.clamp(WATCHDOG_LEAST_NS, u.watchdog_most_ns());
                u.wind_watchdog(now);
            }),
            Event::Extend { unit, by_ns } => self.with(unit, |u| u.extend(now, by_ns)),
            Event::Ending(i) => self.ending(now, i, actions),
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
        if unit.phase == Phase::Starting {
            unit.limit(now, unit.policy.start_limit_ns);
        }
        if !unit.policy.reports_ready {
            self.ready(now, i, actions);
        }
    }

    fn ready(&mut self, now: u64, i: Index, actions: &mut Actions) {
        let Some(unit) = self
            .units
            .get_mut(i)
            .filter(|u| u.phase == Phase::Starting && u.running && u.killing == Killing::No)
        else {
            return;
        };
        unit.up_since_ns = now;
        unit.deadline_ns = None;
        enter(unit, i, Phase::Up, actions);
        unit.wind_watchdog(now);
    }

    /// It ends without having been asked: its stop limit holds, and the end counts as any other.
    fn ending(&mut self, now: u64, i: Index, actions: &mut Actions) {
        let Some(unit) = self.units.get_mut(i) else {
            return;
        };
        if !unit.running
            || !matches!(unit.phase, Phase::Starting | Phase::Up)
            || unit.killing != Killing::No
        {
            return;
        }
        unit.forgive(now);
        unit.leaving = true;
        unit.limit(now, unit.policy.stop_limit_ns);
        enter(unit, i, Phase::Stopping, actions);
    }

    /// Its process is gone, or never was.
    fn ended(&mut self, now: u64, i: Index, success: bool, actions: &mut Actions) {
        let (stopping, Some(unit)) = (self.stopping, self.units.get_mut(i)) else {
            return;
        };
        let was = unit.phase;
        if !matches!(was, Phase::Starting | Phase::Up | Phase::Stopping) {
            return;
        }
        // Hanging or not: what counts is that it was up.
        unit.killing = Killing::No;
        unit.forgive(now);
        unit.running = false;
        unit.deadline_ns = None;
        if was == Phase::Stopping && !std::mem::take(&mut unit.leaving) {
            let again = std::mem::take(&mut unit.again) && !stopping;
            unit.restarts = unit.restarts.saturating_add(again.into());
            enter(unit, i, Phase::at_rest(again), actions);
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
        unit.streak = unit.streak.saturating_add(1);
        unit.restarts = unit.restarts.saturating_add(1);
        let random = unit.draw();
        if unit.too_often(now) {
            unit.deadline_ns = unit.policy.core.then(|| now.saturating_add(CORE_RETRY_NS));
            unit.failing_since_ns.get_or_insert(now);
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
                unit.failures = Failures::default();
                unit.streak = 0;
                unit.failing_since_ns = None;
                enter(unit, i, Phase::Waiting, actions);
            }
            Phase::Stopping => {
                unit.again = true;
                unit.leaving = false;
            }
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
                // One that is being killed is not given more time.
                if unit.killing == Killing::No {
                    unit.limit(now, unit.policy.stop_limit_ns);
                }
                enter(unit, i, Phase::Stopping, actions);
                push(actions, Action::Terminate(i));
            }
            Phase::Stopping => {
                unit.again = again;
                unit.leaving = false;
            }
            Phase::Waiting | Phase::Backoff | Phase::Failed => {
                unit.deadline_ns = None;
                unit.failing_since_ns = None;
                enter(unit, i, Phase::at_rest(again), actions);
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
            let limits_a_process =
                matches!(unit.phase, Phase::Starting | Phase::Up | Phase::Stopping);
            // A start that is not answered yet has nothing to kill; its limit waits for the answer.
            if unit.deadline_ns.is_none_or(|at| now < at) || (limits_a_process && !unit.running) {
                continue;
            }
            unit.deadline_ns = None;
            let (cause, first) = match unit.phase {
                Phase::Starting => (Cause::StartTimeout, Killing::Kill),
                Phase::Stopping => (Cause::StopTimeout, Killing::Kill),
                Phase::Up => (Cause::Watchdog, Killing::Abort),
                Phase::Backoff | Phase::Failed => {
                    enter(unit, i, Phase::Waiting, actions);
                    continue;
                }
                Phase::Waiting | Phase::Stopped => continue,
            };
            if first > unit.killing {
                unit.killing = first;
                if first == Killing::Abort {
                    unit.limit(now, unit.policy.stop_limit_ns);
                    push(actions, Action::Abort(i, cause));
                } else {
                    push(actions, Action::Kill(i, cause));
                }
            } else if unit.killing < Killing::Kill {
                unit.killing = Killing::Kill;
                push(actions, Action::Kill(i, cause));
            }
        }
    }

    /// Starts whatever waits for nothing any more.
    fn start_waiting(&mut self, actions: &mut Actions) {
        let up = self.mask(|u| u.phase == Phase::Up && u.killing == Killing::No);
        for (i, unit) in self.units.iter_mut().enumerate() {
            let free = unit.phase == Phase::Waiting && !unit.blocked && !unit.running;
            if free && unit.policy.needs & !up == 0 {
                unit.watchdog_ns = unit.policy.watchdog_ns;
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
}

impl Unit {
    fn new(policy: &Policy, random: u64) -> Self {
        Self {
            policy: *policy,
            phase: Phase::Waiting,
            blocked: true,
            running: false,
            again: false,
            leaving: false,
            killing: Killing::No,
            streak: 0,
            restarts: 0,
            deadline_ns: None,
            deadline_max_ns: 0,
            up_since_ns: 0,
            watchdog_ns: policy.watchdog_ns,
            failing_since_ns: None,
            random,
            failures: Failures::default(),
        }
    }

    /// Gives it so long from now on, and notes how much longer it may ask for.
    fn limit(&mut self, now: u64, limit_ns: u64) {
        let at = now.saturating_add(limit_ns);
        self.deadline_ns = Some(at);
        self.deadline_max_ns = at.saturating_add(self.policy.extend_max_ns);
    }

    /// Moves the limit of a start or a stop, never to an earlier time and never past its bound.
    fn extend(&mut self, now: u64, by_ns: u64) {
        let extends = matches!(self.phase, Phase::Starting | Phase::Stopping);
        if let Some(at) = self.deadline_ns
            && extends
            && self.killing == Killing::No
        {
            self.deadline_ns = Some(at.max(now.saturating_add(by_ns).min(self.deadline_max_ns)));
        }
    }

    /// A sign of life, or the beginning of a life.
    fn wind_watchdog(&mut self, now: u64) {
        if self.phase == Phase::Up && self.killing == Killing::No && self.watchdog_ns > 0 {
            self.deadline_ns = Some(now.saturating_add(self.watchdog_ns));
        }
    }

    /// The longest watchdog that it may ask for: without one in its manifest it binds only itself.
    fn watchdog_most_ns(&self) -> u64 {
        match self.policy.watchdog_ns {
            0 => WATCHDOG_MOST_NS,
            own => own
                .saturating_add(self.policy.extend_max_ns)
                .min(WATCHDOG_MOST_NS),
        }
    }

    /// Up for so long that what was before does not count any more.
    fn is_healthy(&self, now: u64) -> bool {
        self.phase == Phase::Up
            && self.killing == Killing::No
            && now.saturating_sub(self.up_since_ns) >= self.policy.healthy_ns
    }

    fn forgive(&mut self, now: u64) {
        if self.is_healthy(now) {
            self.streak = 0;
            self.failing_since_ns = None;
        }
    }

    /// xorshift64: spreads back-offs, nothing more.
    fn draw(&mut self) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random
    }

    /// Remembers a failure and says whether there were too many inside the window.
    fn too_often(&mut self, now: u64) -> bool {
        self.failures.push(now);
        let allowed = self.policy.intensity_max;
        allowed > 0
            && self.failures.within(self.policy.intensity_ns)
                > usize::try_from(allowed).map_or(GAPS, |n| n.min(GAPS))
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

impl Failures {
    fn push(&mut self, now: u64) {
        if self.count > 0 {
            let gap = now.saturating_sub(self.last_ns) / 1000;
            self.gaps_us.rotate_right(1);
            if let Some(newest) = self.gaps_us.first_mut() {
                *newest = u32::try_from(gap).unwrap_or(u32::MAX);
            }
        }
        self.last_ns = now;
        self.count = self.count.saturating_add(1).min(GAPS as u8 + 1);
    }

    /// How many of them lie inside the window that ends with the newest.
    fn within(&self, window_ns: u64) -> usize {
        let mut age_us = 0u64;
        let older = self
            .gaps_us
            .iter()
            .take(usize::from(self.count).saturating_sub(1));
        let recent = older.take_while(|gap| {
            age_us += u64::from(**gap);
            age_us < window_ns / 1000
        });
        usize::from(self.count > 0) + recent.count()
    }
}

/// A start for the random numbers of the nth service, never 0 (splitmix64's step: close seeds come far apart).
fn spread(seed: u64, nth: u64) -> u64 {
    let mixed = seed.wrapping_add(nth.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    (mixed ^ mixed >> 31).wrapping_mul(0xbf58_476d_1ce4_e5b9) | 1
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
mod tests;
