//! What the policy promises, one schedule at a time, and over any schedule.

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
        extend_max_ns: 20 * S,
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
    assert_eq!(b.send(Event::Tick), [Action::Abort(0, Cause::Watchdog)]);
    b.now += S;
    assert_eq!(b.send(Event::Alive(0)), [], "too late");
    b.now += 4 * S;
    assert_eq!(b.send(Event::Tick), [Action::Kill(0, Cause::Watchdog)]);
    b.now += 60 * S;
    assert_eq!(b.send(Event::Tick), [], "once");
    assert!(b.die(0).contains(&Action::Start(0)));
    assert_eq!(b.supervisor.restarts(0), 1);
}

#[test]
fn a_service_that_says_it_hangs_is_aborted_at_once() {
    let mut b = Bench::new(&[policy(0), policy(0)]);
    assert_eq!(b.send(Event::Hangs(1)), [], "it is not up yet");
    b.up(0);
    assert_eq!(b.send(Event::Hangs(0)), [Action::Abort(0, Cause::Watchdog)]);
}

#[test]
fn a_service_sets_its_own_watchdog_within_bounds_and_until_it_starts_again() {
    let watched = Policy {
        watchdog_ns: S,
        ..policy(0)
    };
    let limit = |limit_ns| Event::WatchdogLimit { unit: 0, limit_ns };
    for (policy, asked, holds) in [
        (watched, 5 * S, 5 * S),
        (watched, u64::MAX, 21 * S),
        (watched, 1, 100 * MS),
        (policy(0), u64::MAX, 3_600 * S),
        (policy(0), 2 * S, 2 * S),
    ] {
        let mut b = Bench::new(&[policy]);
        b.up(0);
        b.send(limit(asked));
        b.now = holds - 1;
        assert_eq!(b.send(Event::Tick), [], "{asked}");
        b.now = holds;
        assert_eq!(b.send(Event::Tick), [Action::Abort(0, Cause::Watchdog)]);
        b.die(0);
        b.up(0);
        b.now += 2 * S;
        let again = b.send(Event::Tick);
        assert_eq!(again.is_empty(), policy.watchdog_ns == 0, "{again:?}");
    }
}

#[test]
fn a_start_and_a_stop_get_the_time_that_they_ask_for_up_to_the_manifests_bound() {
    let mut b = Bench::new(&[policy(0)]);
    let extend = |seconds| Event::Extend {
        unit: 0,
        by_ns: seconds * S,
    };
    b.send(extend(1));
    b.now = 10 * S - 1;
    assert_eq!(b.send(Event::Tick), [], "never earlier than the limit");
    b.send(extend(15));
    b.now = 25 * S - 2;
    assert_eq!(b.send(Event::Tick), []);
    b.send(extend(1_000_000));
    b.now = 30 * S - 1;
    assert_eq!(b.send(Event::Tick), []);
    b.now = 30 * S;
    assert_eq!(b.send(Event::Tick), [Action::Kill(0, Cause::StartTimeout)]);
    assert_eq!(b.send(extend(5)), [], "too late");
    assert_eq!(b.send(Event::Ready(0)), [], "that too");
    b.die(0);
    b.up(0);
    b.send(Event::Stop(0));
    b.send(extend(u64::MAX / S));
    b.now += 25 * S - 1;
    assert_eq!(b.send(Event::Tick), []);
    b.now += 1;
    assert_eq!(b.send(Event::Tick), [Action::Kill(0, Cause::StopTimeout)]);
}

#[test]
fn who_says_that_it_ends_has_the_stop_limit_for_it_and_stays_on_the_ladder() {
    let mut b = Bench::new(&[Policy {
        watchdog_ns: S,
        ..policy(0)
    }]);
    for round in 0..3 {
        b.up(0);
        b.send(Event::Ending(0));
        assert_eq!(b.supervisor.phase(0), Phase::Stopping);
        b.now += 4 * S;
        assert_eq!(b.send(Event::Tick), [], "the watchdog is over");
        let actions = b.send(Event::Exited {
            unit: 0,
            success: true,
        });
        assert_eq!(actions.contains(&Action::Start(0)), round == 0, "{round}");
        b.now += b.supervisor.backoff_left_ns(0, b.now);
        b.send(Event::Tick);
    }
    b.up(0);
    b.send(Event::Ending(0));
    b.now += 5 * S;
    assert_eq!(b.send(Event::Tick), [Action::Kill(0, Cause::StopTimeout)]);
    b.send(Event::Stop(0));
    b.die(0);
    assert_eq!(
        b.supervisor.phase(0),
        Phase::Stopped,
        "a person's word counts"
    );
}

#[test]
fn a_service_is_failing_from_its_failure_until_it_was_up_for_long_enough() {
    let mut b = Bench::new(&[policy(0)]);
    while b.supervisor.phase(0) != Phase::Failed {
        b.die(0);
        if b.supervisor.phase(0) == Phase::Backoff {
            b.now += b.supervisor.backoff_left_ns(0, b.now);
            b.send(Event::Tick);
        }
    }
    let since = b.now;
    assert_eq!(b.supervisor.failing_since(0, b.now), Some(since));
    b.now += CORE_RETRY_NS;
    b.send(Event::Tick);
    b.up(0);
    b.now += 59 * S;
    assert_eq!(b.supervisor.failing_since(0, b.now), Some(since));
    b.die(0);
    b.now += CORE_RETRY_NS;
    b.send(Event::Tick);
    assert_eq!(b.supervisor.failing_since(0, b.now), Some(since));
    b.up(0);
    b.now += 60 * S;
    assert_eq!(b.supervisor.failing_since(0, b.now), None);
}

#[test]
fn a_service_that_fails_for_good_takes_those_along_that_its_strategy_names() {
    for (strategy, restarted) in [
        (Strategy::OneForOne, [false, false]),
        (Strategy::RestForOne, [true, false]),
        (Strategy::OneForAll, [true, true]),
    ] {
        let first = Policy {
            core: false,
            intensity_max: 1,
            strategy,
            ..policy(0)
        };
        let mut b = Bench::new(&[first, policy(0b1), policy(0)]);
        let again = |b: &mut Bench| {
            for i in 0..3 {
                if b.supervisor.phase(i) == Phase::Stopping {
                    b.die(i);
                }
            }
            for i in 0..3 {
                if b.supervisor.phase(i) == Phase::Starting {
                    b.up(i);
                }
            }
        };
        again(&mut b);
        b.die(0);
        again(&mut b);
        again(&mut b);
        let actions = b.die(0);
        assert_eq!(b.supervisor.phase(0), Phase::Failed);
        let told = [1, 2].map(|i| actions.contains(&Action::Terminate(i)));
        assert_eq!(told, restarted, "{strategy:?}");
        again(&mut b);
        let waits = b.supervisor.phase(1) == Phase::Waiting;
        assert_eq!(
            waits, restarted[0],
            "{strategy:?}: who needs it waits for it"
        );
        assert_eq!(b.supervisor.phase(2), Phase::Up);
    }
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
fn a_start_that_was_called_back_before_its_answer_is_still_awaited() {
    let policies = [policy(0)];
    let mut supervisor = Supervisor::new(&policies, 7);
    for event in [Event::Unblocked(0), Event::Stop(0)] {
        supervisor.step(0, event, &mut Actions::new());
    }
    assert_eq!(supervisor.phase(0), Phase::Stopping);
    let mut next = Supervisor::resume(&policies, &[supervisor.snapshot(0)], S);
    assert!(next.awaits_start(0), "nobody would ever end the stop");
    next.step(S, Event::StartFailed(0), &mut Actions::new());
    assert_eq!(next.phase(0), Phase::Stopped);
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
        script in proptest::collection::vec((0u8..13, 0usize..5, 0u64..20_000), 0..300),
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
                        Action::Terminate(_) | Action::Abort(..) | Action::Changed { .. } => {}
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
                10 => Event::Ending(unit),
                11 => Event::Hangs(unit),
                12 => Event::Extend { unit, by_ns: ms * MS },
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

/// Everything that a PID 1 which takes over is given, through the stored form.
fn resumed(supervisor: &Supervisor, policies: &[Policy], now: u64) -> Supervisor {
    let rows: std::vec::Vec<_> = (0..policies.len())
        .map(|i| {
            let bytes = supervisor.snapshot(i).unwrap().to_bytes();
            Some(UnitSnapshot::from_bytes(&bytes).unwrap())
        })
        .collect();
    Supervisor::resume(policies, &rows, now)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]
    /// Cut after any step and taken up by another, a run goes on with the same decisions. The one difference is that
    /// a kill, of which nobody knows whether it was done, and the word that all is over are said once more.
    #[test]
    fn a_run_that_is_cut_anywhere_goes_on_as_if_it_were_not(
        script in proptest::collection::vec((0u8..18, 0usize..5, 0u64..20_000), 0..200),
        cuts in proptest::collection::vec(any::<bool>(), 200),
        seed in any::<u64>(),
    ) {
        let policies = [policy(0), policy(0b1), policy(0b11), Policy { watchdog_ns: 3 * S, intensity_max: 0, ..policy(0) },
            Policy { core: false, strategy: Strategy::OneForAll, restart: Restart::OnFailure, intensity_max: 40, ..policy(0b1000) }];
        let mut whole = Supervisor::new(&policies, seed);
        let mut cut = whole.clone();
        let mut now = 0;
        for ((what, unit, ms), cuts) in script.into_iter().zip(cuts) {
            now += ms * MS;
            let event = match what {
                0 => Event::Tick,
                1 => Event::Unblocked(unit),
                2 => Event::Ready(unit),
                3 => Event::Alive(unit),
                4..=6 => Event::Exited { unit, success: what == 6 },
                7 => Event::Start(unit),
                8 => Event::Stop(unit),
                9 => Event::Restart(unit),
                10 | 11 => Event::Started(unit),
                12 => Event::StartFailed(unit),
                13 => Event::Hangs(unit),
                14 => Event::WatchdogLimit { unit, limit_ns: ms * MS },
                15 => Event::Extend { unit, by_ns: ms * MS },
                16 => Event::Ending(unit),
                _ if unit == 4 && ms < 100 => Event::Shutdown,
                _ => Event::Tick,
            };
            // What a shell never does: answer a start that nobody asked for.
            if matches!(event, Event::Started(_) | Event::StartFailed(_)) && !whole.awaits_start(unit) {
                continue;
            }
            let [mut of_whole, mut of_cut] = [Actions::new(), Actions::new()];
            whole.step(now, event, &mut of_whole);
            cut.step(now, event, &mut of_cut);
            for action in &of_whole {
                prop_assert!(of_cut.contains(action), "{event:?} at {now}: {action:?} is missing in {of_cut:?}");
            }
            for action in &of_cut {
                let again = matches!(action, Action::Kill(..) | Action::AllStopped);
                prop_assert!(again || of_whole.contains(action), "{event:?} at {now}: {action:?} is new beside {of_whole:?}");
            }
            if cuts {
                cut = resumed(&cut, &policies, now);
            }
            for i in 0..policies.len() {
                prop_assert_eq!(whole.phase(i), cut.phase(i));
                prop_assert_eq!(whole.restarts(i), cut.restarts(i));
                prop_assert_eq!(whole.backoff_left_ns(i, now), cut.backoff_left_ns(i, now));
                prop_assert_eq!(whole.failing_since(i, now), cut.failing_since(i, now));
            }
        }
    }

    /// Bytes are refused, or were written by nobody else.
    #[test]
    fn bytes_that_no_snapshot_has_are_refused(
        mut bytes in proptest::collection::vec(any::<u8>(), SNAPSHOT_BYTES),
        few in any::<bool>(),
        at in 0..SNAPSHOT_BYTES,
    ) {
        if few {
            // One byte changed in a true one.
            let changed = bytes[at];
            bytes.copy_from_slice(&Supervisor::new(&[policy(0)], 1).snapshot(0).unwrap().to_bytes());
            bytes[at] = changed;
        }
        let bytes: [u8; SNAPSHOT_BYTES] = bytes.try_into().unwrap();
        if let Ok(snapshot) = UnitSnapshot::from_bytes(&bytes) {
            prop_assert_eq!(snapshot.to_bytes(), bytes);
        }
    }
}

#[test]
fn a_snapshot_fills_its_place_and_each_wrong_field_is_named() {
    let mut b = Bench::new(&[policy(0)]);
    b.up(0);
    for _ in 0..30 {
        b.die(0);
        b.now += 40 * S;
        b.send(Event::Tick);
    }
    let good = b.supervisor.snapshot(0).unwrap().to_bytes();
    assert_ne!(
        good[128..132],
        [0; 4],
        "the oldest gap lies where docs/state-memfd.md says"
    );
    for (at, value, says) in [
        (0, 7, "phase: 7, expected 0 to 6"),
        (1, 0x20, "flags: 32, expected"),
        (0, 6, "running: 1, expected"),
        (3, 17, "failures: 17, expected 0 to 16"),
        (159, 1, "reserved: 1, expected 0"),
    ] {
        let mut bad = good;
        bad[at] = value;
        let said = UnitSnapshot::from_bytes(&bad).map_err(|e| e.to_string());
        assert!(
            said.as_ref().is_err_and(|s| s.contains(says)),
            "{says}: {said:?}"
        );
    }
}

#[test]
fn what_a_snapshot_claims_about_the_future_is_bounded() {
    let mut b = Bench::new(&[policy(0)]);
    b.now = 90 * S;
    b.die(0);
    b.die(0);
    assert_eq!(b.supervisor.phase(0), Phase::Backoff);
    let mut bytes = b.supervisor.snapshot(0).unwrap().to_bytes();
    bytes[16..24].copy_from_slice(&(u64::MAX - 1).to_le_bytes());
    let snapshot = UnitSnapshot::from_bytes(&bytes).unwrap();
    let later = Supervisor::resume(&[policy(0)], &[Some(snapshot)], 5 * S);
    assert_eq!(later.backoff_left_ns(0, 5 * S), 4_200 * S);
}
