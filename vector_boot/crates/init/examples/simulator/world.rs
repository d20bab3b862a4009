//! A machine of processes that crash, hang, start slowly and turn deaf, under the real supervisor and a virtual clock.
//!
//! Everything comes from a seed, so a run that breaks an invariant can be run again; [`shrink`] takes away services and
//! kinds of fault as long as it still breaks, and the error holds the last events. What the supervisor should have
//! done is judged by a second, simpler account of each service ([`Account`]), never by the supervisor's own.
//! Start with [`run`].

use init::supervisor::{
    Action, Actions, Cause, Event, Phase, Policy, Restart, Strategy, Supervisor, UnitSnapshot,
};
use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};

const MS: u64 = 1_000_000;
const S: u64 = 1_000 * MS;
/// A day of virtual time.
pub const DAY: u64 = 86_400 * S;
/// PID 1's own period: a limit is seen at the next beat.
const BEAT: u64 = 100 * MS;
/// From SIGKILL to its end, at most, in this world.
const DYING: u64 = 20 * MS;
/// How long everything is well before it is judged whether it is: an hour of back-off, retries, starts in a row.
const CALM: u64 = 3 * 3_600 * S;
/// A failed core service is tried again after this, says docs/supervision.md.
const CORE_RETRY: u64 = 30 * S;
/// Failures that the intensity can look back on, says docs/supervision.md.
const REMEMBERED: usize = 16;
/// Events that an error shows.
const SHOWN: usize = 60;

/// What may go wrong; each bit of [`Options::faults`] is one of these.
pub const FAULTS: [&str; 9] = [
    "crashes",
    "slow starts",
    "deafness to SIGTERM",
    "hangs",
    "no memory for a process",
    "a person's commands",
    "crashes of PID 1",
    "a clock that leaps",
    "notes: extensions, announced ends, own watchdogs",
];
const CRASH: u16 = 1;
const SLOW: u16 = 2;
const DEAF: u16 = 4;
const HANG: u16 = 8;
const MEMORY: u16 = 16;
const PERSON: u16 = 32;
const INIT: u16 = 64;
const LEAP: u16 = 128;
const NOTES: u16 = 256;

/// One run.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// Everything by chance comes from it.
    pub seed: u64,
    /// Services; `None` chooses 1 to 32.
    pub services: Option<usize>,
    /// Virtual time before the calm and the shutdown.
    pub nanoseconds: u64,
    /// Bits by [`FAULTS`].
    pub faults: u16,
}

impl Options {
    /// Everything that can happen.
    pub fn all(seed: u64, nanoseconds: u64) -> Self {
        Self {
            seed,
            services: None,
            nanoseconds,
            faults: (1 << FAULTS.len()) - 1,
        }
    }
}

/// What happened in a run that held.
#[derive(Debug, Clone, Copy, Default)]
pub struct Figures {
    /// Steps of the supervisor.
    pub steps: u64,
    /// Processes that were started.
    pub starts: u64,
    /// Ends that nobody had asked for.
    pub failures: u64,
    /// Times that another supervisor took over.
    pub takeovers: u64,
    /// Virtual nanoseconds.
    pub nanoseconds: u64,
}

impl std::ops::AddAssign for Figures {
    fn add_assign(&mut self, other: Self) {
        self.steps += other.steps;
        self.starts += other.starts;
        self.failures += other.failures;
        self.takeovers += other.takeovers;
        self.nanoseconds += other.nanoseconds;
    }
}

/// Looks for a smaller run that breaks too, and says everything about it.
pub fn shrink(broken: Options, mut error: String) -> String {
    let mut least = broken;
    let mut tries: Vec<Options> = Vec::new();
    for services in 1..services_of(broken) {
        tries.push(Options {
            services: Some(services),
            ..broken
        });
    }
    for smaller in tries {
        if let Err(e) = run(smaller) {
            (least, error) = (smaller, e);
            break;
        }
    }
    for bit in 0..FAULTS.len() {
        let fewer = Options {
            faults: least.faults & !(1 << bit),
            ..least
        };
        if fewer.faults != least.faults
            && let Err(e) = run(fewer)
        {
            (least, error) = (fewer, e);
        }
    }
    let faults: Vec<&str> = (0..FAULTS.len())
        .filter(|bit| least.faults & (1 << bit) != 0)
        .map(|bit| FAULTS[bit])
        .collect();
    format!(
        "seed {} broke, and so does the same with {} services and: {}\n{error}",
        broken.seed,
        services_of(least),
        faults.join(", ")
    )
}

fn services_of(options: Options) -> usize {
    let drawn = 1 + Dice::new(options.seed).below(32) as usize;
    options.services.unwrap_or(drawn)
}

/// Runs one machine through its life: chaos, then calm, then the shutdown.
///
/// # Errors
/// The invariant that broke, and the last events before.
pub fn run(options: Options) -> Result<Figures, String> {
    let mut world = World::new(options);
    world.live().map_err(|what| {
        let mut text = format!("at {}: {what}; the last events:", time(world.now));
        for line in &world.schedule {
            text.push_str("\n  ");
            text.push_str(line);
        }
        text
    })?;
    Ok(world.figures)
}

fn time(ns: u64) -> String {
    format!("{}.{:06}", ns / S, ns % S / 1000)
}

/// splitmix64.
struct Dice(u64);

impl Dice {
    fn new(seed: u64) -> Self {
        Self(seed)
    }

    fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    fn below(&mut self, n: u64) -> u64 {
        self.draw() % n.max(1)
    }

    fn in_100(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }

    fn one_of<T: Copy>(&mut self, all: &[T]) -> T {
        all[self.below(all.len() as u64) as usize]
    }
}

/// What is going to happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Plan {
    Unblock(usize),
    /// Of the process with this number.
    Ready(u64),
    SignOfLife(u64),
    Hangs(u64),
    Announces(u64),
    Extends(u64),
    SetsWatchdog(u64, u64),
    Ends(u64, bool),
    Command(u8, usize),
    InitCrash,
    Leap(u64),
}

/// One process.
#[derive(Debug, Clone, Copy)]
struct Process {
    number: u64,
    started: u64,
    /// It gives no sign of life and hears no SIGTERM.
    hangs: bool,
    deaf: bool,
    /// Somebody told it to end, or it said that it will: an end that no calm holds up.
    ending: bool,
    /// It was told to abort, which it may be deaf to.
    aborted: bool,
    killed: bool,
    /// The last it showed of life, and how often it must.
    alive_at: u64,
    watchdog: u64,
    ready: bool,
    said_hangs: bool,
}

/// The second account of one service: what the page on supervision says, from what can be seen outside.
#[derive(Debug, Default)]
struct Account {
    process: Option<Process>,
    /// Ends that nobody asked for and that count, newest last, since a person last started it.
    failures: VecDeque<u64>,
    streak: u32,
    up_since: Option<u64>,
    /// It may start for another reason than the ladder: the first time, a person, a strategy.
    free: bool,
    /// It ended in a way after which it does not come back by itself.
    done: bool,
    /// A person wants it down.
    held: bool,
    /// Nobody may start it before.
    earliest: u64,
    stop_asked: bool,
    /// Its process could not be made, and nobody has been told yet.
    unborn: bool,
}

struct World {
    options: Options,
    dice: Dice,
    now: u64,
    policies: Vec<Policy>,
    supervisor: Supervisor,
    accounts: Vec<Account>,
    plans: BinaryHeap<Reverse<(u64, u64, Plan)>>,
    planned: u64,
    processes: u64,
    /// Nothing goes wrong any more.
    calm: bool,
    stopping: bool,
    over: bool,
    crash_in_step: bool,
    schedule: VecDeque<String>,
    figures: Figures,
}

impl World {
    fn new(options: Options) -> Self {
        let count = services_of(options);
        let mut dice = Dice::new(options.seed ^ 0x5eed);
        let policies: Vec<Policy> = (0..count).map(|i| policy(&mut dice, i)).collect();
        let supervisor = Supervisor::new(&policies, dice.draw());
        let accounts = (0..count).map(|_| Account {
            free: true,
            ..Account::default()
        });
        Self {
            options,
            now: S,
            supervisor,
            accounts: accounts.collect(),
            policies,
            plans: BinaryHeap::new(),
            planned: 0,
            processes: 0,
            calm: false,
            stopping: false,
            over: false,
            crash_in_step: false,
            schedule: VecDeque::new(),
            figures: Figures::default(),
            dice,
        }
    }

    fn may(&self, fault: u16) -> bool {
        !self.calm && self.options.faults & fault != 0
    }

    fn plan(&mut self, at: u64, plan: Plan) {
        self.planned += 1;
        self.plans.push(Reverse((at, self.planned, plan)));
    }

    fn note(&mut self, line: String) {
        if self.schedule.len() == SHOWN {
            self.schedule.pop_front();
        }
        self.schedule
            .push_back(format!("{} {line}", time(self.now)));
    }

    fn live(&mut self) -> Result<(), String> {
        for i in 0..self.policies.len() {
            let at = self.now + self.dice.below(2 * S);
            self.plan(at, Plan::Unblock(i));
        }
        let begin = self.now;
        for (fault, every, plan) in [
            (PERSON, 1_800 * S, Plan::Command(0, 0)),
            (INIT, 900 * S, Plan::InitCrash),
            (LEAP, 7_200 * S, Plan::Leap(0)),
        ] {
            if self.may(fault) {
                let at = begin + self.dice.below(every);
                self.plan(at, plan);
            }
        }
        self.pass(begin + self.options.nanoseconds)?;
        self.calm = true;
        self.crash_in_step = false;
        self.note("everything is well from here on".to_owned());
        for i in 0..self.accounts.len() {
            // Who hangs, or would have, or never gets ready, is left to its limits; the next one is well.
            if let Some(process) = self.accounts[i].process.filter(|p| p.ready && !p.hangs) {
                self.plan(self.now, Plan::SignOfLife(process.number));
            }
        }
        self.pass(self.now + CALM)?;
        self.judge_calm()?;
        self.shut_down()?;
        self.figures.nanoseconds = self.now - begin;
        Ok(())
    }

    /// Lets time pass until then: plans as they come, beats where a limit ends.
    fn pass(&mut self, until: u64) -> Result<(), String> {
        loop {
            let planned = self.plans.peek().map(|Reverse((at, ..))| *at);
            // Beats between, in which nothing is due, change nothing; a test of the supervisor holds it to that.
            let beat = self
                .supervisor
                .due()
                .map(|at| at.max(self.now + 1).next_multiple_of(BEAT));
            let next = planned.into_iter().chain(beat).min();
            let Some(at) = next.filter(|at| *at <= until && !self.over) else {
                self.now = self.now.max(until);
                return Ok(());
            };
            self.now = self.now.max(at);
            if planned == Some(at) {
                if let Some(Reverse((_, _, plan))) = self.plans.pop() {
                    self.happen(plan)?;
                }
            } else {
                self.step(Event::Tick)?;
            }
        }
    }

    fn owner(&self, number: u64) -> Option<usize> {
        let is = |a: &Account| a.process.is_some_and(|p| p.number == number);
        self.accounts.iter().position(is)
    }

    fn happen(&mut self, plan: Plan) -> Result<(), String> {
        let of_process = match plan {
            Plan::Ready(n)
            | Plan::SignOfLife(n)
            | Plan::Hangs(n)
            | Plan::Announces(n)
            | Plan::Extends(n)
            | Plan::SetsWatchdog(n, _)
            | Plan::Ends(n, _) => match self.owner(n) {
                Some(i) => i,
                // It is gone.
                None => return Ok(()),
            },
            Plan::Unblock(i) => return self.step(Event::Unblocked(i)),
            Plan::Command(..) => return self.command(),
            Plan::InitCrash => {
                if self.may(INIT) {
                    let next = self.now + 1 + self.dice.below(1_800 * S);
                    self.plan(next, Plan::InitCrash);
                    if self.dice.in_100(50) {
                        self.crash_in_step = true;
                        return Ok(());
                    }
                    return self.take_over(self.rows());
                }
                return Ok(());
            }
            Plan::Leap(_) => {
                if self.may(LEAP) {
                    // The machine was paused: nothing ran, and CLOCK_MONOTONIC of the guest went on.
                    let by = self.dice.below(600 * S);
                    self.now += by;
                    let next = self.now + self.dice.below(14_400 * S);
                    self.plan(next, Plan::Leap(by));
                    self.note(format!("the clock leaps by {} s", by / S));
                }
                return Ok(());
            }
        };
        self.live_on(of_process, plan)
    }

    /// What a process does.
    fn live_on(&mut self, i: usize, plan: Plan) -> Result<(), String> {
        let says = self.dice.in_100(50);
        let Some(process) = self.accounts[i].process.as_mut() else {
            return Ok(());
        };
        let bad = matches!(
            plan,
            Plan::Ends(..)
                | Plan::Hangs(_)
                | Plan::Announces(_)
                | Plan::Extends(_)
                | Plan::SetsWatchdog(..)
        );
        if self.calm && bad && !process.ending {
            return Ok(());
        }
        match plan {
            Plan::Ready(_) => process.ready = true,
            Plan::Hangs(_) => {
                process.said_hangs |= says && process.ready;
                process.hangs = true;
            }
            Plan::Announces(_) => process.ending = true,
            Plan::SetsWatchdog(_, every) => process.watchdog = every,
            _ => {}
        }
        let shows_life = matches!(
            plan,
            Plan::Ready(_) | Plan::SignOfLife(_) | Plan::SetsWatchdog(..)
        );
        if shows_life && !process.hangs {
            process.alive_at = self.now;
        }
        let (number, every, hangs) = (process.number, process.watchdog, process.hangs);
        match plan {
            Plan::Ready(_) => {
                self.step(Event::Ready(i))?;
                self.sign_of_life(number, every);
            }
            Plan::SignOfLife(_) if hangs => {}
            Plan::SignOfLife(_) => {
                self.step(Event::Alive(i))?;
                self.sign_of_life(number, every);
            }
            Plan::Hangs(_) if says => self.step(Event::Hangs(i))?,
            Plan::Hangs(_) => {}
            Plan::Announces(_) => {
                let at = self.now + self.dice.below(self.policies[i].stop_limit_ns + S);
                self.plan(at, Plan::Ends(number, true));
                let (healthy, now) = (self.policies[i].healthy_ns, self.now);
                let account = &mut self.accounts[i];
                if self.supervisor.phase(i) == Phase::Up
                    && account.up_since.is_some_and(|since| now - since >= healthy)
                {
                    // What it was good for counts when it says so, whoever stops it afterwards.
                    account.streak = 0;
                }
                self.step(Event::Ending(i))?;
            }
            Plan::Extends(_) => {
                let by_ns = self.dice.below(120 * S);
                self.step(Event::Extend { unit: i, by_ns })?;
            }
            Plan::SetsWatchdog(_, limit_ns) => {
                self.step(Event::WatchdogLimit { unit: i, limit_ns })?;
                self.sign_of_life(number, limit_ns);
            }
            Plan::Ends(_, success) => self.ends(i, success)?,
            Plan::Unblock(_) | Plan::Command(..) | Plan::InitCrash | Plan::Leap(_) => {}
        }
        Ok(())
    }

    fn sign_of_life(&mut self, number: u64, every: u64) {
        if every > 0 {
            self.plan(self.now + every * 2 / 3, Plan::SignOfLife(number));
        }
    }

    /// A process is gone and reaped.
    fn ends(&mut self, i: usize, success: bool) -> Result<(), String> {
        let (policy, now) = (self.policies[i], self.now);
        let account = &mut self.accounts[i];
        account.process = None;
        let asked = std::mem::take(&mut account.stop_asked);
        if !asked && !self.stopping {
            account.failed(&policy, now, success);
            self.figures.failures += 1;
        }
        self.note(format!("{i} ended{}", if asked { " as asked" } else { "" }));
        self.step(Event::Exited { unit: i, success })
    }

    /// A process that could not be made is a failure, unless a strategy had called it back in the meantime.
    fn never_began(&mut self, i: usize) {
        let (policy, now) = (self.policies[i], self.now);
        let account = &mut self.accounts[i];
        if std::mem::take(&mut account.unborn) && !std::mem::take(&mut account.stop_asked) {
            account.failed(&policy, now, false);
            self.figures.failures += 1;
        }
    }

    fn command(&mut self) -> Result<(), String> {
        if !self.may(PERSON) {
            return Ok(());
        }
        let next = self.now + self.dice.below(3_600 * S);
        self.plan(next, Plan::Command(0, 0));
        let i = self.dice.below(self.policies.len() as u64) as usize;
        let which = self.dice.below(3);
        self.note(format!(
            "a person: {} {i}",
            ["start", "stop", "restart"][which as usize]
        ));
        let phase = self.supervisor.phase(i);
        let runs = matches!(phase, Phase::Starting | Phase::Up | Phase::Stopping);
        let account = &mut self.accounts[i];
        match which {
            0 if matches!(phase, Phase::Starting | Phase::Up | Phase::Waiting) => {}
            0 | 2 => {
                if runs {
                    account.stop_asked = true;
                } else if phase != Phase::Waiting {
                    account.failures.clear();
                    account.streak = 0;
                }
                account.free = true;
                (account.done, account.held) = (false, false);
            }
            _ => {
                account.stop_asked = runs;
                account.free = false;
                account.held = true;
            }
        }
        self.step([Event::Start(i), Event::Stop(i), Event::Restart(i)][which as usize])
    }

    fn rows(&self) -> Vec<Option<UnitSnapshot>> {
        let row = |i| {
            let bytes = self.supervisor.snapshot(i)?.to_bytes();
            UnitSnapshot::from_bytes(&bytes).ok()
        };
        (0..self.policies.len()).map(row).collect()
    }

    /// Another PID 1 takes over: it knows what was written, and sees which processes are there.
    fn take_over(&mut self, rows: Vec<Option<UnitSnapshot>>) -> Result<(), String> {
        self.figures.takeovers += 1;
        self.note("PID 1 crashes, another takes over".to_owned());
        if let Some(i) = rows.iter().position(Option::is_none) {
            return Err(format!("the row of {i} does not hold"));
        }
        self.supervisor = Supervisor::resume(&self.policies, &rows, self.now);
        // Seen for all before anything is done: what is done makes new processes.
        let seen: Vec<(bool, bool, bool)> = (0..rows.len())
            .map(|i| {
                let ran = rows[i].is_some_and(|r| r.is_running());
                let there = self.accounts[i].process.is_some();
                (self.supervisor.awaits_start(i), ran, there)
            })
            .collect();
        for (account, row) in self.accounts.iter_mut().zip(&rows) {
            if row.is_some_and(|r| matches!(r.phase(), Phase::Starting | Phase::Up)) {
                // Nobody knows any more that it was told to end: its end will count.
                account.stop_asked = false;
            }
        }
        for (i, seen) in seen.into_iter().enumerate() {
            match seen {
                (true, _, true) => self.step(Event::Started(i))?,
                (true, _, false) => self.step(Event::StartFailed(i))?,
                (false, true, false) => {
                    // Nobody knows how it ended: that counts as a failure.
                    self.accounts[i].done = self.policies[i].restart == Restart::Never;
                    self.step(Event::Exited {
                        unit: i,
                        success: false,
                    })?;
                }
                (false, false, true) => return Err(format!("nobody knows of the process of {i}")),
                (false, ..) => {}
            }
        }
        Ok(())
    }

    /// One step of the supervisor, and all that it asks for.
    fn step(&mut self, event: Event) -> Result<(), String> {
        let mut queue = VecDeque::from([event]);
        while let Some(event) = queue.pop_front() {
            let person = matches!(
                event,
                Event::Start(_) | Event::Stop(_) | Event::Restart(_) | Event::Shutdown
            );
            if let Event::StartFailed(i) = event {
                self.never_began(i);
            }
            // Who asked for something and got no answer asks again: that is not what is judged here.
            let crash = self.crash_in_step && !person;
            let before = if crash { self.rows() } else { Vec::new() };
            let mut actions = Actions::new();
            self.supervisor.step(self.now, event, &mut actions);
            self.figures.steps += 1;
            let crash_at = if crash && !actions.is_empty() {
                self.crash_in_step = false;
                Some(self.dice.below(actions.len() as u64 + 1) as usize)
            } else {
                None
            };
            let mut started = Vec::new();
            for (nth, action) in actions.into_iter().enumerate() {
                if crash_at == Some(nth) {
                    break;
                }
                if let Some(follow) = self.perform(action, &mut started)? {
                    queue.push_back(follow);
                }
            }
            if crash_at.is_some() {
                // Rows are written when a step is done, and before a process is made: PID 1's own order.
                let mut rows = before;
                for i in started {
                    rows[i] = self.supervisor.snapshot(i);
                }
                return self.take_over(rows);
            }
        }
        Ok(())
    }

    fn perform(
        &mut self,
        action: Action,
        started: &mut Vec<usize>,
    ) -> Result<Option<Event>, String> {
        match action {
            Action::Start(i) => {
                started.push(i);
                return self.start(i).map(Some);
            }
            Action::Terminate(i) => self.terminate(i)?,
            Action::Abort(i, cause) => self.abort(i, cause)?,
            Action::Kill(i, cause) => self.kill(i, cause)?,
            Action::Changed { unit, from, to } => {
                self.note(format!("{unit}: {from:?} to {to:?}"));
                self.changed(unit, to)?;
            }
            Action::AllStopped => {
                if let Some(i) = self.accounts.iter().position(|a| a.process.is_some()) {
                    return Err(format!("all stopped, and {i} runs"));
                }
                self.over = true;
            }
        }
        Ok(None)
    }

    fn changed(&mut self, i: usize, to: Phase) -> Result<(), String> {
        let policy = self.policies[i];
        match to {
            Phase::Up => self.accounts[i].up_since = Some(self.now),
            Phase::Backoff => {
                let wait = self.supervisor.backoff_left_ns(i, self.now);
                if wait == 0 || wait > policy.backoff_max_ns {
                    return Err(format!(
                        "{i} waits {wait} ns, at most {}",
                        policy.backoff_max_ns
                    ));
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn start(&mut self, i: usize) -> Result<Event, String> {
        let policy = self.policies[i];
        if self.stopping {
            return Err(format!("{i} starts while the machine stops"));
        }
        if self.accounts[i].process.is_some() {
            return Err(format!("two instances of {i}"));
        }
        for need in 0..self.policies.len() {
            let there = self.accounts[need]
                .process
                .is_some_and(|p| p.ready || !self.policies[need].reports_ready);
            if policy.needs & 1 << need != 0 && !there {
                return Err(format!("{i} starts without {need}"));
            }
        }
        self.accounts[i].judge_start(i, &policy, self.now)?;
        self.figures.starts += 1;
        if self.may(MEMORY) && self.dice.in_100(3) {
            self.note(format!("{i}: no memory for a process"));
            self.accounts[i].unborn = true;
            return Ok(Event::StartFailed(i));
        }
        self.processes += 1;
        let number = self.processes;
        let deaf = self.may(DEAF) && self.dice.in_100(10);
        self.accounts[i].process = Some(Process {
            number,
            started: self.now,
            hangs: false,
            deaf,
            ending: false,
            aborted: false,
            killed: false,
            alive_at: self.now,
            watchdog: policy.watchdog_ns,
            ready: !policy.reports_ready,
            said_hangs: false,
        });
        self.accounts[i].up_since = None;
        self.lay_out_life(i, number);
        Ok(Event::Started(i))
    }

    /// Decides by chance how a process is going to live.
    fn lay_out_life(&mut self, i: usize, number: u64) {
        let (policy, now) = (self.policies[i], self.now);
        let limit = policy.start_limit_ns;
        let until_ready = if self.may(SLOW) && self.dice.in_100(5) {
            self.dice.below(3 * limit)
        } else {
            self.dice.below((limit / 2).min(S))
        };
        if policy.reports_ready {
            self.plan(now + until_ready, Plan::Ready(number));
        } else if policy.watchdog_ns > 0 {
            self.sign_of_life(number, policy.watchdog_ns);
        }
        // Hours as a rule, and now and then a row of quick deaths.
        let life = match self.dice.below(10) {
            0..=2 => self.dice.below(2 * S),
            3 | 4 => self.dice.below(120 * S),
            _ => self.dice.below(24 * 3_600 * S),
        };
        let end = now + 1 + life;
        if self.may(CRASH) {
            let success = self.dice.in_100(20);
            self.plan(end, Plan::Ends(number, success));
        }
        if self.may(HANG) && self.dice.in_100(10) {
            let at = now + until_ready + self.dice.below(life);
            self.plan(at, Plan::Hangs(number));
        }
        if self.may(NOTES) && self.dice.in_100(20) {
            let at = now + self.dice.below(until_ready + S);
            let plan = match self.dice.below(3) {
                0 => Plan::Extends(number),
                1 => Plan::Announces(number),
                _ => {
                    // Within the bounds of the page, so that it is taken as it is.
                    let most = match policy.watchdog_ns {
                        0 => 3_600 * S,
                        own => own + policy.extend_max_ns,
                    };
                    let every = (S + self.dice.below(600 * S)).min(most);
                    Plan::SetsWatchdog(number, every)
                }
            };
            self.plan(at, plan);
        }
    }

    fn terminate(&mut self, i: usize) -> Result<(), String> {
        if self.stopping {
            for (j, other) in self.policies.iter().enumerate() {
                if other.needs & 1 << i != 0 && self.accounts[j].process.is_some() {
                    return Err(format!("{i} is stopped before {j}, which needs it"));
                }
            }
        }
        let account = &mut self.accounts[i];
        account.stop_asked = true;
        if self.supervisor.phase(i) == Phase::Stopping && !account.held {
            account.free = true;
        }
        let Some(process) = &mut account.process else {
            return Ok(());
        };
        process.ending = true;
        let (number, deaf) = (process.number, process.deaf || process.hangs);
        if !deaf {
            let slow = self.policies[i].stop_limit_ns.min(2 * S);
            let at = self.now + self.dice.below(slow + 1);
            self.plan(at, Plan::Ends(number, true));
        }
        Ok(())
    }

    fn abort(&mut self, i: usize, cause: Cause) -> Result<(), String> {
        self.judge_cause(i, cause)?;
        let Some(process) = &mut self.accounts[i].process else {
            return Ok(());
        };
        process.aborted = true;
        if !process.deaf {
            process.ending = true;
            let number = process.number;
            let at = self.now + self.dice.below(S);
            self.plan(at, Plan::Ends(number, false));
        }
        Ok(())
    }

    fn kill(&mut self, i: usize, cause: Cause) -> Result<(), String> {
        self.judge_cause(i, cause)?;
        let takeovers = self.figures.takeovers;
        let now = self.now;
        let Some(process) = &mut self.accounts[i].process else {
            return Ok(());
        };
        if std::mem::replace(&mut process.killed, true) && takeovers == 0 {
            return Err(format!("{i} is killed twice"));
        }
        process.ending = true;
        let number = process.number;
        let at = now + 1 + self.dice.below(DYING);
        self.plan(at, Plan::Ends(number, false));
        Ok(())
    }

    /// Whether a limit that ended had really passed.
    fn judge_cause(&self, i: usize, cause: Cause) -> Result<(), String> {
        let Some(process) = self.accounts[i].process else {
            return Ok(());
        };
        let policy = self.policies[i];
        let held = match cause {
            Cause::StartTimeout => self.now - process.started >= policy.start_limit_ns,
            Cause::Watchdog => {
                process.said_hangs
                    || process.aborted
                    || self.now - process.alive_at >= process.watchdog.max(100 * MS)
            }
            // Whoever ends was told to, or said so itself.
            Cause::StopTimeout => true,
        };
        if held || self.figures.takeovers > 0 {
            Ok(())
        } else {
            Err(format!("{i}: {} too early", cause.as_str()))
        }
    }

    /// After hours without a fault everybody who is wanted is up.
    fn judge_calm(&self) -> Result<(), String> {
        for i in 0..self.policies.len() {
            let well = match self.supervisor.phase(i) {
                Phase::Up | Phase::Stopped => true,
                Phase::Failed => !self.policies[i].core,
                // For one that is not there, and will not be.
                Phase::Waiting => (0..self.policies.len()).any(|need| {
                    self.policies[i].needs & 1 << need != 0
                        && self.supervisor.phase(need) != Phase::Up
                }),
                _ => false,
            };
            if !well {
                let phase = self.supervisor.phase(i);
                return Err(format!(
                    "{i} is {phase:?} after hours in which nothing happened"
                ));
            }
            if self.supervisor.phase(i) == Phase::Up && self.accounts[i].process.is_none() {
                return Err(format!("{i} is up and has no process"));
            }
        }
        Ok(())
    }

    fn shut_down(&mut self) -> Result<(), String> {
        self.stopping = true;
        self.note("shutdown".to_owned());
        let limits: u64 = self
            .policies
            .iter()
            .map(|p| p.stop_limit_ns + p.extend_max_ns + DYING + 2 * BEAT)
            .sum();
        let until = self.now + limits + S;
        self.step(Event::Shutdown)?;
        self.pass(until)?;
        match self.accounts.iter().position(|a| a.process.is_some()) {
            Some(i) => Err(format!("{i} outlives the shutdown")),
            None if !self.over => Err("the shutdown does not end".to_owned()),
            None => Ok(()),
        }
    }
}

impl Account {
    /// It ended, or never began, and nobody had asked for that.
    fn failed(&mut self, policy: &Policy, now: u64, success: bool) {
        self.free = false;
        self.done = match policy.restart {
            Restart::Always => false,
            Restart::OnFailure => success,
            Restart::Never => true,
        };
        let healthy = self
            .up_since
            .take()
            .is_some_and(|at| now - at >= policy.healthy_ns);
        if healthy {
            self.streak = 0;
        }
        self.streak += 1;
        self.failures.push_back(now);
        if self.failures.len() > REMEMBERED {
            self.failures.pop_front();
        }
        let recent = self
            .failures
            .iter()
            .filter(|at| now - **at < policy.intensity_ns)
            .count();
        let most = (policy.intensity_max as usize).min(REMEMBERED - 1);
        let doublings = self.streak.saturating_sub(2).min(20);
        let wait = match self.streak {
            1 => 0,
            _ => (policy.backoff_first_ns << doublings).min(policy.backoff_max_ns) * 3 / 4,
        };
        self.earliest = now
            + if most > 0 && recent > most {
                if policy.core {
                    CORE_RETRY
                } else {
                    u64::MAX / 2
                }
            } else {
                wait
            };
    }

    /// Whether it may start now: the ladder, or somebody's word.
    fn judge_start(&mut self, i: usize, policy: &Policy, now: u64) -> Result<(), String> {
        if std::mem::take(&mut self.free) {
            return Ok(());
        }
        if self.done || self.held {
            return Err(format!(
                "{i} starts, and was to stay down ({:?})",
                policy.restart
            ));
        }
        if now < self.earliest {
            return Err(format!("{i} starts {} ns too early", self.earliest - now));
        }
        Ok(())
    }
}

fn policy(dice: &mut Dice, i: usize) -> Policy {
    let mut needs = 0;
    for earlier in 0..i {
        if dice.below(i as u64) < 2 && dice.in_100(50) {
            needs |= 1 << earlier;
        }
    }
    let backoff_max_ns = dice.one_of(&[S, 30 * S, 3_600 * S]);
    let restart = dice.one_of(&[
        Restart::Always,
        Restart::Always,
        Restart::OnFailure,
        Restart::Never,
    ]);
    Policy {
        needs,
        restart,
        core: restart != Restart::Never && dice.in_100(50),
        reports_ready: dice.in_100(70),
        backoff_first_ns: dice.one_of(&[0, 100 * MS, S]).min(backoff_max_ns),
        backoff_max_ns,
        healthy_ns: dice.one_of(&[S, 60 * S, 3_600 * S]),
        intensity_max: dice.one_of(&[0, 1, 5, 15, 40]),
        intensity_ns: dice.one_of(&[10 * S, 60 * S, 3_600 * S]),
        start_limit_ns: dice.one_of(&[S, 10 * S, 600 * S]),
        stop_limit_ns: dice.one_of(&[0, S, 5 * S, 60 * S]),
        watchdog_ns: dice.one_of(&[0, 0, 10 * S, 300 * S]),
        extend_max_ns: dice.one_of(&[0, 60 * S]),
        strategy: dice.one_of(&[
            Strategy::OneForOne,
            Strategy::OneForOne,
            Strategy::RestForOne,
            Strategy::OneForAll,
        ]),
    }
}
