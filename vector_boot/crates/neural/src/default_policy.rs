//! The default model's policy: set by hand, so that a machine that nobody taught is sane.
//!
//! The first hidden units each watch one trouble and are off (-1) until it is there; what they wish is in
//! the table below. The other units are small fixed directions without any effect, for evolution to build
//! on. Everything is a constant: it costs PID 1 no memory of its own.

use crate::metabolic::Control;
use crate::policy::{CONTROLS, HIDDEN, Weights};
use wire::sensors::{COUNT, index};

/// How steep a detector is: off to on within a tenth of its input.
const STEEP: f32 = 24.0;

/// One trouble: the register, the input at which it begins to matter, and what is then wished.
struct Trouble {
    register: usize,
    /// As `policy::SCALES` scales it.
    from: f32,
    wishes: &'static [(Control, f32)],
}

/// The troubles, a hidden unit each.
const TROUBLES: [Trouble; 7] = [
    // A tenth of the time everybody waits for memory: 10 %.
    Trouble {
        register: index::PSI_MEMORY_FULL,
        from: 0.5,
        wishes: &[
            (Control::Reclaim, 0.8),
            (Control::Shed, 0.5),
            (Control::Heartbeat, -0.5),
        ],
    },
    // Less than 32 MiB left.
    Trouble {
        register: index::MEMORY_AVAILABLE,
        from: 0.5,
        wishes: &[(Control::Reclaim, 0.5), (Control::MemoryHigh, 0.4)],
    },
    // 40 % of the time everybody waits for a disk.
    Trouble {
        register: index::PSI_IO_FULL,
        from: 0.5,
        wishes: &[(Control::Shed, 0.4), (Control::LogRate, -0.6)],
    },
    // 90 % of the time somebody waits for a processor: what serves goes first.
    Trouble {
        register: index::PSI_CPU_SOME,
        from: 0.6,
        wishes: &[(Control::WeightCore, 0.4), (Control::WeightRest, -0.4)],
    },
    // 80 degrees.
    Trouble {
        register: index::THERMAL_0,
        from: 0.5,
        wishes: &[(Control::Heartbeat, 0.4), (Control::Shed, 0.5)],
    },
    // A disk that is 97 % full.
    Trouble {
        register: index::DISK_USE,
        from: 0.66,
        wishes: &[(Control::LogRate, -0.8)],
    },
    // A thousand events wait to be durable.
    Trouble {
        register: index::LEDGER_LAG,
        from: 0.5,
        wishes: &[(Control::Shed, 0.5)],
    },
];

/// The policy of the default model.
pub static DEFAULT: Weights = weights();

#[allow(
    clippy::indexing_slicing,
    reason = "evaluated by the compiler, which refuses what does not fit"
)]
const fn weights() -> Weights {
    let mut weights = Weights::ZERO;
    let mut state = 1u32;
    let mut unit = TROUBLES.len();
    while unit < HIDDEN {
        let mut input = 0;
        while input < COUNT {
            // Numerical Recipes' linear congruential generator; only its upper bits are used.
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            // 12 bits: exact in f32, as is the quotient.
            let step = (state >> 20) as f32;
            weights.w1[unit][input] = (step - 2048.0) / 16_384.0;
            input += 1;
        }
        unit += 1;
    }
    let mut unit = 0;
    while unit < TROUBLES.len() {
        let trouble = &TROUBLES[unit];
        weights.w1[unit][trouble.register] = STEEP;
        weights.b1[unit] = -STEEP * trouble.from;
        let mut wish = 0;
        while wish < trouble.wishes.len() {
            let (control, strength) = trouble.wishes[wish];
            // Half for the unit, half against its being off: together nothing until it is on.
            weights.w2[control as usize][unit] = strength / 2.0;
            weights.b2[control as usize] += strength / 2.0;
            wish += 1;
        }
        unit += 1;
    }
    weights
}

const _: () = assert!(CONTROLS == Control::ALL.len() && TROUBLES.len() < HIDDEN);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::Limits;
    use crate::metabolic::{Daemon, Order, usual};
    use proptest::prelude::*;

    fn calm() -> [f32; COUNT] {
        let mut registers = [f32::NAN; COUNT];
        for (register, value) in [
            (index::BEAT_PERIOD, 100.0),
            (index::LOAD_1, 0.3),
            (index::CPU_USE, 12.0),
            (index::MEMORY_TOTAL, 2e9),
            (index::MEMORY_AVAILABLE, 1.5e9),
            (index::PSI_CPU_SOME, 3.0),
            (index::PSI_MEMORY_FULL, 0.0),
            (index::PSI_IO_FULL, 2.0),
            (index::THERMAL_0, 45.0),
            (index::DISK_USE, 30.0),
            (index::LEDGER_LAG, 3.0),
            (index::WATCHDOG_SLACK, 50_000.0),
        ] {
            registers[register] = value;
        }
        registers
    }

    fn settings(registers: &[f32; COUNT]) -> [f32; CONTROLS] {
        let mut daemon = Daemon::new(100.0);
        daemon.step(0, &DEFAULT.forward(registers), &Limits::DEFAULT, 100.0, &[]);
        *daemon.settings()
    }

    #[test]
    fn a_calm_machine_and_one_without_sensors_stay_as_they_are() {
        assert_eq!(settings(&calm()), usual(100.0));
        assert_eq!(settings(&[f32::NAN; COUNT]), usual(100.0));
        assert_eq!(settings(&[0.0; COUNT])[0], 100.0);
    }

    #[test]
    fn each_trouble_is_met_by_what_helps() {
        let with = |register: usize, value: f32| {
            let mut registers = calm();
            registers[register] = value;
            settings(&registers)
        };
        let of = |settings: [f32; CONTROLS], control: Control| settings[control as usize];
        let short = with(index::PSI_MEMORY_FULL, 40.0);
        assert!(of(short, Control::Reclaim) > 0.0 && of(short, Control::Heartbeat) < 100.0);
        assert!(of(with(index::MEMORY_AVAILABLE, 1e7), Control::Reclaim) > 0.0);
        assert!(of(with(index::PSI_IO_FULL, 90.0), Control::LogRate) < 1.0);
        let busy = with(index::PSI_CPU_SOME, 100.0);
        assert!(of(busy, Control::WeightCore) > 1.0 && of(busy, Control::WeightRest) < 1.0);
        assert!(of(with(index::THERMAL_0, 99.0), Control::Heartbeat) > 100.0);
        assert!(of(with(index::LEDGER_LAG, 1e5), Control::Shed) > 0.0);
        assert!(of(with(index::DISK_USE, 99.0), Control::LogRate) < 1.0);
    }

    #[test]
    fn the_units_that_are_left_to_evolution_have_no_effect() {
        for row in DEFAULT.w2 {
            assert!(row[TROUBLES.len()..].iter().all(|weight| *weight == 0.0));
        }
        assert!(DEFAULT.is_finite());
    }

    proptest! {
        #[test]
        fn whatever_the_registers_the_default_restarts_nobody_and_frees_most_of_the_machine(
            bits in proptest::collection::vec(any::<u32>(), COUNT)
        ) {
            let registers: [f32; COUNT] = std::array::from_fn(|i| f32::from_bits(bits[i]));
            let wishes = DEFAULT.forward(&registers);
            prop_assert!(wishes.iter().all(|wish| (-1.0..=1.0).contains(wish)));
            let mut daemon = Daemon::new(100.0);
            let (_, orders) = daemon.step(0, &wishes, &Limits::DEFAULT, 100.0, &[]);
            let restarts = orders.iter().any(|o| matches!(o, Order::Restart { .. }));
            prop_assert!(!restarts);
            prop_assert_eq!(daemon.setting(Control::Silence), 1.0);
            prop_assert!(daemon.setting(Control::Heartbeat) <= 700.0);
        }
    }
}
