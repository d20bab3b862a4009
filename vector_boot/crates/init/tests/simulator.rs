//! Days of simulated machines in the ordinary tests; `examples/simulator` runs years of the same world.
#![forbid(unsafe_code)]

#[path = "../examples/simulator/world.rs"]
mod world;

use world::{DAY, FAULTS, Figures, Options};

/// PID 1's memory for the policy is this much, whatever happens.
const SUPERVISOR_BYTES_MAX: usize = 16 * 1024;

fn hold(options: Options) -> Figures {
    world::run(options).unwrap_or_else(|error| panic!("{}", world::shrink(options, error)))
}

#[test]
fn a_day_of_everything_that_can_go_wrong_breaks_no_promise() {
    let mut all = Figures::default();
    for seed in 1..=24 {
        all += hold(Options::all(seed, DAY));
    }
    // A world in which nothing happens would hold as well.
    assert!(
        all.starts > 5_000 && all.failures > 3_000 && all.takeovers > 500,
        "{all:?}"
    );
}

#[test]
fn many_small_machines_live_an_hour_with_one_kind_of_fault_less() {
    for seed in 1_000..1_200 {
        let without = 1 << (seed % FAULTS.len() as u64);
        let all = Options::all(seed, DAY / 24);
        hold(Options {
            faults: all.faults & !without,
            services: Some(1 + seed as usize % 6),
            ..all
        });
    }
}

#[test]
fn a_machine_that_nothing_happens_to_starts_each_service_once() {
    for seed in 1..20 {
        let figures = hold(Options {
            faults: 0,
            ..Options::all(seed, DAY)
        });
        assert!(figures.starts <= 32 && figures.failures == 0, "{figures:?}");
    }
}

#[test]
fn the_policy_has_a_fixed_size() {
    assert!(size_of::<init::supervisor::Supervisor>() <= SUPERVISOR_BYTES_MAX);
}
