//! An upgrade as a state machine: from one package to another, service by service, or back.
//!
//! Pure: takes `(now, Input)`, appends [`Action`]s; the loop performs them. It knows two sides, what ran before
//! ([`Side::Old`]) and what is to run ([`Side::New`]), and ends with everything on one of them: any failure on
//! the way leads back. `docs/upgrade.md` is the same in prose. Start with [`Upgrade::step`].
//!
//! Never here: blocking, logging, allocation.

use crate::supervisor::{Index, UNITS_MAX};
use heapless::Vec;
use wire::upgrade::Step;
use wire::why::Reason;

/// Between two tries to execute the old `vector_boot`, which ran before: only a machine without memory refuses.
const EXECUTE_AGAIN_NS: u64 = 1_000_000_000;
/// How long a service that is put back may take until the next one is: the supervisor goes on with it.
const UNDO_LIMIT_NS: u64 = 30_000_000_000;
/// Actions of one step: each service once, and one for the whole.
const ACTIONS_MAX: usize = UNITS_MAX + 2;

/// One of the two packages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// What ran before.
    Old,
    /// What is to run.
    New,
}

/// What becomes of a service on the way from old to new.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// Its program, its entry or its model is another.
    Replace,
    /// The new manifest alone has it.
    Add,
    /// The old manifest alone has it.
    Remove,
}

/// One service of a plan.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Planned {
    /// Its place in the table that holds the services of both sides.
    pub unit: Index,
    /// What becomes of it.
    pub change: Change,
    /// How long it may take to be ready.
    pub limit_ns: u64,
}

/// What an upgrade does, in its order: what others need comes first, what vanishes last.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    /// The services that change.
    pub services: Vec<Planned, UNITS_MAX>,
    /// Whether PID 1 becomes another program.
    pub becomes: bool,
    /// How long each of them is watched once it is ready.
    pub watch_ns: u64,
}

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Input {
    /// Time passed.
    Tick,
    /// This PID 1 is the program of that side.
    Became(Side),
    /// It could not become the other program.
    NotBecame,
    /// A service that was installed is ready.
    Ready(Index),
    /// Its process ended, or was not ready in time, or was killed, without being asked to.
    Died(Index),
    /// It cannot be started.
    Unfit(Index),
    /// It has stopped, as was asked.
    Stopped(Index),
    /// Something outside says that it must not go on.
    Fail(Reason),
}

/// What is to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Execute that side's `vector_boot`; comes back only as [`Input::NotBecame`].
    Become(Side),
    /// Give a service that side's program and entry and start it anew.
    Install(Index, Side),
    /// Stop a service that the side does not have.
    Stop(Index),
    /// It is over: everything is of that side.
    Over(Side),
}

/// The actions of one step.
pub type Actions = Vec<Action, ACTIONS_MAX>;

/// Why it leads back, and which service made it so.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Failure {
    /// The reason.
    pub cause: Reason,
    /// The service.
    pub unit: Option<Index>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// The new `vector_boot` is being executed.
    Becoming,
    /// The service of this place in the plan was installed, and is to be ready until then.
    Installing(usize, u64),
    /// It is ready, and watched until then.
    Watching(usize, u64),
    /// All services are done; the whole is watched until then.
    Proving(u64),
    /// The old `vector_boot` is to be executed, not before then.
    Returning(u64),
    /// The service of this place is put back, and the next one follows at the latest then.
    Undoing(usize, u64),
    /// Everything is of one side.
    Over(Side),
}

/// One upgrade under way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Upgrade {
    plan: Plan,
    state: State,
    /// Which side's program this PID 1 is.
    runs: Side,
    /// Bit per place in the plan that is of the new side.
    touched: u32,
    reason: Option<Failure>,
}

impl Upgrade {
    /// Begins one.
    #[must_use]
    pub fn begin(now: u64, plan: Plan, actions: &mut Actions) -> Self {
        let mut this = Self {
            state: State::Becoming,
            runs: Side::Old,
            touched: 0,
            reason: None,
            plan,
        };
        if this.plan.becomes {
            push(actions, Action::Become(Side::New));
        } else {
            this.runs = Side::New;
            this.install_from(now, 0, actions);
        }
        this
    }

    /// Goes on with one whose PID 1 is another program now: at its place if that is what was meant, else back.
    #[must_use]
    pub fn resume(plan: Plan, runs: Side, touched: u32, failed: Option<Failure>) -> Self {
        Self {
            plan,
            state: State::Becoming,
            runs,
            touched,
            reason: failed,
        }
    }

    /// Bits for [`Upgrade::resume`].
    #[cfg(test)]
    pub fn touched(&self) -> u32 {
        self.touched
    }

    /// The plan.
    #[cfg(test)]
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// Why it leads back, if it does.
    #[must_use]
    pub fn reason(&self) -> Option<Failure> {
        self.reason
    }

    /// Whether a service of the table is in the middle of being replaced: its end is asked for.
    #[must_use]
    pub fn is_at(&self, unit: Index) -> bool {
        self.at().is_some_and(|p| p.unit == unit)
    }

    /// How far it is: step, service, nanoseconds of its window that are left.
    #[must_use]
    pub fn progress(&self, now: u64) -> (Step, Option<Index>, u64) {
        let left = |until: u64| until.saturating_sub(now);
        let unit = self.at().map(|p| p.unit);
        match self.state {
            State::Becoming => (Step::Becoming, None, 0),
            State::Installing(..) => (Step::Replacing, unit, 0),
            State::Watching(_, until) => (Step::Watching, unit, left(until)),
            State::Proving(until) => (Step::Watching, None, left(until)),
            State::Returning(_) => (Step::Undoing, None, 0),
            State::Undoing(..) => (Step::Undoing, unit, 0),
            State::Over(_) => (Step::Idle, None, 0),
        }
    }

    /// Takes one input and appends what is to be done.
    pub fn step(&mut self, now: u64, input: Input, actions: &mut Actions) {
        match (self.state, input) {
            (State::Over(_), _) => {}
            (State::Becoming, Input::Became(Side::New)) if self.reason.is_none() => {
                self.runs = Side::New;
                self.install_from(now, 0, actions);
            }
            (State::Becoming | State::Returning(_), Input::Became(side)) => {
                self.runs = side;
                // Old without a reason: it crashed before it said anything.
                let cause = Reason::InitCrash;
                self.reason.get_or_insert(Failure { cause, unit: None });
                self.go_back(now, actions);
            }
            (State::Becoming, Input::NotBecame) => {
                self.fail(now, Reason::NotExecuted, None, actions)
            }
            (State::Returning(_), Input::NotBecame) => {
                self.state = State::Returning(now.saturating_add(EXECUTE_AGAIN_NS));
            }
            (State::Returning(at), Input::Tick) if now >= at => {
                push(actions, Action::Become(Side::Old));
            }
            (State::Undoing(place, limit), _) => self.undo(now, place, limit, input, actions),
            (State::Installing(place, _), Input::Ready(unit)) if self.is_of(place, unit) => {
                self.watch(now, place, actions);
            }
            (State::Installing(place, _), Input::Stopped(unit)) if self.is_of(place, unit) => {
                self.install_from(now, place + 1, actions);
            }
            (State::Installing(place, limit), Input::Tick) if now >= limit => {
                let unit = self.plan.services.get(place).map(|p| p.unit);
                self.fail(now, Reason::StartTimeout, unit, actions);
            }
            (State::Watching(place, until), Input::Tick) if now >= until => {
                self.install_from(now, place + 1, actions);
            }
            (State::Proving(until), Input::Tick) if now >= until => {
                self.over(Side::New, actions);
            }
            (State::Returning(_), _) => {}
            (_, Input::Died(unit)) if self.is_touched(unit) => {
                self.fail(now, Reason::Exit, Some(unit), actions);
            }
            (_, Input::Unfit(unit)) if self.is_touched(unit) => {
                self.fail(now, Reason::NotStarted, Some(unit), actions);
            }
            (_, Input::Fail(cause)) => self.fail(now, cause, None, actions),
            _ => {}
        }
    }

    fn at(&self) -> Option<&Planned> {
        match self.state {
            State::Installing(place, _) | State::Watching(place, _) | State::Undoing(place, _) => {
                self.plan.services.get(place)
            }
            _ => None,
        }
    }

    fn is_of(&self, place: usize, unit: Index) -> bool {
        self.plan
            .services
            .get(place)
            .is_some_and(|p| p.unit == unit)
    }

    fn is_touched(&self, unit: Index) -> bool {
        let mut places = self.plan.services.iter().enumerate();
        places.any(|(place, p)| p.unit == unit && self.touched & bit(place) != 0)
    }

    /// Goes on with the service of this place, or with the end.
    fn install_from(&mut self, now: u64, place: usize, actions: &mut Actions) {
        let Some(planned) = self.plan.services.get(place) else {
            // What was watched one after the other was watched; a lone PID 1 was not yet.
            let alone = self.plan.services.is_empty() && self.plan.becomes;
            let watch = if alone { self.plan.watch_ns } else { 0 };
            if watch == 0 {
                return self.over(Side::New, actions);
            }
            self.state = State::Proving(now.saturating_add(watch));
            return;
        };
        self.touched |= bit(place);
        self.state = State::Installing(place, now.saturating_add(planned.limit_ns));
        push(
            actions,
            match planned.change {
                Change::Replace | Change::Add => Action::Install(planned.unit, Side::New),
                Change::Remove => Action::Stop(planned.unit),
            },
        );
    }

    fn watch(&mut self, now: u64, place: usize, actions: &mut Actions) {
        if self.plan.watch_ns == 0 {
            return self.install_from(now, place + 1, actions);
        }
        self.state = State::Watching(place, now.saturating_add(self.plan.watch_ns));
    }

    fn fail(&mut self, now: u64, cause: Reason, unit: Option<Index>, actions: &mut Actions) {
        self.reason.get_or_insert(Failure { cause, unit });
        if matches!(self.state, State::Undoing(..) | State::Returning(_)) {
            return;
        }
        self.go_back(now, actions);
    }

    /// The old `vector_boot` first: what puts the services back is what is known to work.
    fn go_back(&mut self, now: u64, actions: &mut Actions) {
        if self.plan.becomes && self.runs == Side::New {
            self.state = State::Returning(now);
            push(actions, Action::Become(Side::Old));
            return;
        }
        self.undo_from(now, self.plan.services.len(), actions);
    }

    /// Puts back the last service before this place that is of the new side, or is done.
    fn undo_from(&mut self, now: u64, end: usize, actions: &mut Actions) {
        let last = (0..end).rev().find(|place| self.touched & bit(*place) != 0);
        let planned = last.and_then(|place| Some((place, self.plan.services.get(place)?)));
        let Some((place, planned)) = planned else {
            return self.over(Side::Old, actions);
        };
        self.touched &= !bit(place);
        self.state = State::Undoing(place, now.saturating_add(UNDO_LIMIT_NS));
        push(
            actions,
            match planned.change {
                Change::Replace | Change::Remove => Action::Install(planned.unit, Side::Old),
                Change::Add => Action::Stop(planned.unit),
            },
        );
    }

    /// What was put back is the supervisor's again: that it does not run is no reason to stay between the two.
    fn undo(&mut self, now: u64, place: usize, limit: u64, input: Input, actions: &mut Actions) {
        let settled = match input {
            Input::Ready(unit) | Input::Stopped(unit) | Input::Died(unit) | Input::Unfit(unit) => {
                self.is_of(place, unit)
            }
            Input::Tick => now >= limit,
            _ => false,
        };
        if settled {
            self.undo_from(now, place, actions);
        }
    }

    fn over(&mut self, side: Side, actions: &mut Actions) {
        self.state = State::Over(side);
        push(actions, Action::Over(side));
    }
}

fn bit(place: usize) -> u32 {
    u32::try_from(place)
        .ok()
        .and_then(|place| 1u32.checked_shl(place))
        .unwrap_or(0)
}

/// One step asks for at most two things, so there is room.
fn push(actions: &mut Actions, action: Action) {
    let fits = actions.push(action).is_ok();
    debug_assert!(fits, "one step asked for more than {ACTIONS_MAX} actions");
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const S: u64 = 1_000_000_000;

    /// A machine that does what the upgrade asks, or fails at it as the schedule says.
    struct Bench {
        upgrade: Upgrade,
        now: u64,
        /// What this PID 1 is.
        init: Side,
        /// What each service of the table is; none: it does not run.
        units: std::vec::Vec<Option<Side>>,
        over: std::vec::Vec<Side>,
    }

    /// What goes wrong, drawn one a step.
    #[derive(Debug, Clone, Copy)]
    enum Fault {
        None,
        Dies,
        Unfit,
        Silent,
        ExecFails,
        InitCrashes,
        OtherDies(usize),
        Shutdown,
    }

    fn fault() -> impl Strategy<Value = Fault> {
        prop_oneof![
            6 => Just(Fault::None),
            1 => Just(Fault::Dies),
            1 => Just(Fault::Unfit),
            1 => Just(Fault::Silent),
            1 => Just(Fault::ExecFails),
            1 => Just(Fault::InitCrashes),
            1 => (0usize..6).prop_map(Fault::OtherDies),
            1 => Just(Fault::Shutdown),
        ]
    }

    fn plan(changes: &[Change], becomes: bool, watch_s: u64) -> Plan {
        Plan {
            services: changes
                .iter()
                .enumerate()
                .map(|(unit, change)| Planned {
                    unit,
                    change: *change,
                    limit_ns: 10 * S,
                })
                .collect(),
            becomes,
            watch_ns: watch_s * S,
        }
    }

    fn change() -> impl Strategy<Value = Change> {
        prop_oneof![
            Just(Change::Replace),
            Just(Change::Add),
            Just(Change::Remove)
        ]
    }

    impl Bench {
        fn run(plan: Plan, faults: &[Fault]) -> Self {
            let mut actions = Actions::new();
            let before = |p: &Planned| (p.change != Change::Add).then_some(Side::Old);
            let units = plan.services.iter().map(before).collect();
            let upgrade = Upgrade::begin(0, plan, &mut actions);
            let mut bench = Self {
                upgrade,
                now: 0,
                init: Side::Old,
                units,
                over: vec![],
            };
            let mut faults = faults.iter().copied();
            let mut todo: std::collections::VecDeque<Action> = actions.into_iter().collect();
            for _ in 0..2000 {
                let mut inputs = vec![];
                let fault = faults.next().unwrap_or(Fault::None);
                match todo.pop_front() {
                    Some(action) => bench.perform(action, fault, &mut inputs),
                    None => {
                        bench.now += S;
                        inputs.push(Input::Tick);
                        match fault {
                            Fault::OtherDies(i) => inputs.push(Input::Died(i)),
                            Fault::Shutdown => inputs.push(Input::Fail(Reason::Ending)),
                            Fault::InitCrashes
                                if bench.upgrade.plan.becomes
                                    && bench.init == Side::New
                                    && bench.over.is_empty() =>
                            {
                                bench.crash();
                                inputs = vec![Input::Became(Side::Old)];
                            }
                            _ => {}
                        }
                    }
                }
                for input in inputs {
                    let mut actions = Actions::new();
                    bench.upgrade.step(bench.now, input, &mut actions);
                    todo.extend(actions);
                }
            }
            bench
        }

        /// The crash handler executes the old program, which finds plan and bits.
        fn crash(&mut self) {
            self.init = Side::Old;
            let touched = self.upgrade.touched();
            let cause = Reason::InitCrash;
            let failed = Some(Failure { cause, unit: None });
            self.upgrade = Upgrade::resume(self.upgrade.plan().clone(), Side::Old, touched, failed);
        }

        fn perform(&mut self, action: Action, fault: Fault, inputs: &mut std::vec::Vec<Input>) {
            match (action, fault) {
                (Action::Become(_), Fault::ExecFails) => inputs.push(Input::NotBecame),
                (Action::Become(Side::New), Fault::InitCrashes) => {
                    self.crash();
                    inputs.push(Input::Became(Side::Old));
                }
                (Action::Become(side), _) => {
                    self.init = side;
                    inputs.push(Input::Became(side));
                }
                (Action::Install(unit, side), fault) => {
                    self.units[unit] = Some(side);
                    match fault {
                        Fault::Dies => inputs.push(Input::Died(unit)),
                        Fault::Unfit => inputs.push(Input::Unfit(unit)),
                        Fault::Silent => {}
                        _ => inputs.push(Input::Ready(unit)),
                    }
                }
                (Action::Stop(unit), _) => {
                    self.units[unit] = None;
                    inputs.push(Input::Stopped(unit));
                }
                (Action::Over(side), _) => self.over.push(side),
            }
        }

        fn is_whole(&self, side: Side) -> bool {
            let plan = self.upgrade.plan();
            let wanted = |p: &Planned| match (p.change, side) {
                (Change::Add, Side::Old) | (Change::Remove, Side::New) => None,
                _ => Some(side),
            };
            (!plan.becomes || self.init == side)
                && plan
                    .services
                    .iter()
                    .all(|p| self.units[p.unit] == wanted(p))
        }
    }

    #[test]
    fn without_a_failure_every_service_is_replaced_in_order_and_watched() {
        let plan = plan(&[Change::Replace, Change::Add, Change::Remove], true, 30);
        let bench = Bench::run(plan, &[]);
        assert_eq!(bench.over, [Side::New]);
        assert!(bench.is_whole(Side::New));
        assert_eq!(bench.upgrade.reason(), None);
    }

    #[test]
    fn a_service_that_is_never_ready_leads_back_and_is_named() {
        let bench = Bench::run(
            plan(&[Change::Replace, Change::Replace], false, 0),
            &[Fault::None, Fault::Silent],
        );
        assert_eq!(bench.over, [Side::Old]);
        assert!(bench.is_whole(Side::Old));
        let reason = bench.upgrade.reason().unwrap();
        assert_eq!(reason.cause, Reason::StartTimeout);
    }

    #[test]
    fn a_vector_boot_that_stands_alone_is_watched_too() {
        let mut actions = Actions::new();
        let mut upgrade = Upgrade::begin(0, plan(&[], true, 30), &mut actions);
        assert_eq!(actions.as_slice(), [Action::Become(Side::New)]);
        for (now, over) in [(1, false), (29 * S, false), (31 * S, true)] {
            let mut actions = Actions::new();
            let input = if now == 1 {
                Input::Became(Side::New)
            } else {
                Input::Tick
            };
            upgrade.step(now, input, &mut actions);
            assert_eq!(actions.contains(&Action::Over(Side::New)), over, "{now}");
        }
    }

    #[test]
    fn what_dies_elsewhere_is_the_supervisors_alone() {
        let mut actions = Actions::new();
        let mut upgrade = Upgrade::begin(0, plan(&[Change::Replace], false, 30), &mut actions);
        let mut actions = Actions::new();
        upgrade.step(1, Input::Died(7), &mut actions);
        assert!(actions.is_empty());
        assert_eq!(upgrade.reason(), None);
    }

    proptest! {
        #[test]
        fn any_schedule_of_failures_ends_all_new_or_all_old(
            changes in prop::collection::vec(change(), 0..6),
            becomes in any::<bool>(),
            watch_s in prop_oneof![Just(0u64), Just(30)],
            faults in prop::collection::vec(fault(), 0..60),
        ) {
            let bench = Bench::run(plan(&changes, becomes, watch_s), &faults);
            prop_assert_eq!(bench.over.len(), 1, "it ends once");
            let side = bench.over[0];
            prop_assert!(bench.is_whole(side), "{:?} but {:?} {:?}", side, bench.init, bench.units);
            prop_assert_eq!(side == Side::Old, bench.upgrade.reason().is_some());
        }

        #[test]
        fn nothing_is_asked_for_once_it_is_over(
            changes in prop::collection::vec(change(), 0..4),
            faults in prop::collection::vec(fault(), 0..20),
            unit in 0usize..4,
        ) {
            let mut bench = Bench::run(plan(&changes, true, 0), &faults);
            for input in [Input::Tick, Input::Died(unit), Input::Ready(unit), Input::NotBecame, Input::Fail(Reason::Ending)] {
                let mut actions = Actions::new();
                bench.upgrade.step(bench.now + 100 * S, input, &mut actions);
                prop_assert!(actions.is_empty());
            }
        }
    }
}
