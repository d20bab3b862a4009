//! A day under the worst policy that passes: the limits hold, no service starves, nothing is written without end.
//!
//! The machine is a model: what is ordered comes to pass, memory goes to and fro, and the policy wishes at random
//! or what its enemy would. Time is an argument.

use neural::decide::{Decider, Deed, Deeds};
use neural::limits::{LIMITS, Limits};
use neural::metabolic::{Control, Order, Service, log_rate, range, usual};
use neural::policy::{CONTROLS, Weights};
use proptest::prelude::*;
use wire::sensors::{COUNT, Decisions, index};

const DAY_NS: u64 = 86_400_000_000_000;
/// The beats that are looked at: those between can do no more, for settings move once in so long at most.
const STRIDE_NS: u64 = 5_000_000_000;
const GIB: u64 = 1 << 30;

/// One service of the simulated machine.
struct Machine {
    rss: u64,
    max: u64,
    high: u64,
    weight: u16,
    restarts: u32,
}

struct Day {
    decider: Decider,
    services: Vec<Machine>,
    now_ns: u64,
    beats: u64,
    events: u64,
    random: u64,
}

impl Day {
    fn new(weights: Weights, seed: u64) -> Self {
        let mut decider = Decider::new(None, &Decisions::default(), 100.0, 0);
        decider.set_policy(Some(Box::new(weights)), 1);
        let services = [
            (64 << 20, GIB),
            (GIB / 2, GIB),
            (900 << 20, GIB),
            (1 << 20, 0),
        ];
        Self {
            decider,
            services: services
                .map(|(rss, max)| Machine {
                    rss,
                    max,
                    high: 0,
                    weight: 100,
                    restarts: 0,
                })
                .into(),
            now_ns: 0,
            beats: 0,
            events: 0,
            random: seed | 1,
        }
    }

    fn draw(&mut self, below: u64) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random % below
    }

    /// One beat, and [`STRIDE_NS`] of the machine's life.
    fn beat(&mut self) {
        let mut registers = [f32::NAN; COUNT];
        for register in [
            index::PSI_MEMORY_FULL,
            index::PSI_CPU_SOME,
            index::PSI_IO_FULL,
            index::THERMAL_0,
            index::DISK_USE,
            index::LEDGER_LAG,
            index::MEMORY_AVAILABLE,
        ] {
            registers[register] = if self.beats.is_multiple_of(7) {
                f32::NAN
            } else {
                self.draw(100) as f32
            };
        }
        let facts: Vec<Service<'_>> = self
            .services
            .iter()
            .zip(["a", "b", "c", "d"])
            .map(|(service, name)| Service {
                name,
                up: true,
                core: name == "a",
                rss_bytes: Some(service.rss),
                memory_max: service.max,
                cpu_weight: 100,
                // The first keeps to half of its watchdog's time, the others have missed it.
                silence: Some(if name == "a" { 0.5 } else { 0.99 }),
            })
            .collect();
        self.beats += 1;
        let deeds = self
            .decider
            .beat((self.now_ns, self.beats), &registers, 100.0, &facts, true);
        self.carry_out(&deeds);
        for place in 0..self.services.len() {
            let (step, up) = (self.draw(16 << 20), self.draw(2) == 0);
            let service = &mut self.services[place];
            let most = if service.high == 0 { GIB } else { service.high };
            service.rss = if up {
                service.rss + step
            } else {
                service.rss.saturating_sub(step)
            }
            .clamp(1 << 20, most);
        }
        let period = self.decider.setting(Control::Heartbeat);
        assert!((25.0..=1000.0).contains(&period), "{period}");
        self.now_ns += STRIDE_NS;
    }

    fn carry_out(&mut self, deeds: &Deeds) {
        for deed in deeds {
            match *deed {
                Deed::Interrupt(_, recorded) => self.events += u64::from(recorded.tell),
                Deed::Changed(change, recorded) => {
                    self.events += u64::from(recorded.tell);
                    let (least, most) = range(change.control, &Limits::DEFAULT);
                    assert!((least..=most).contains(&change.after), "{change:?}");
                }
                Deed::Order(Order::Reclaim { service, bytes }) => {
                    let service = &mut self.services[service];
                    assert!(bytes <= service.rss / 2 && bytes <= 64 << 20);
                    service.rss -= bytes;
                }
                Deed::Order(Order::MemoryHigh { service, bytes }) => {
                    let service = &mut self.services[service];
                    assert!(bytes == 0 || (bytes >= service.rss && bytes >= service.max / 2));
                    assert!(service.max != 0);
                    service.high = bytes;
                }
                Deed::Order(Order::CpuWeight { service, weight }) => {
                    assert!((25..=400).contains(&weight), "{weight}");
                    self.services[service].weight = weight;
                }
                Deed::Order(Order::Restart { service }) => {
                    assert_ne!(service, 0, "it gives its signs of life in time");
                    self.services[service].restarts += 1;
                }
            }
        }
    }

    fn run(mut self) {
        while self.now_ns < DAY_NS {
            self.beat();
        }
        // A burst, then the hourly rates.
        let rows = self.decider.ring().chain().seq();
        // Each row that was over the rate for a while is told of by one more.
        assert!(rows <= 2 * (32 + 24 * 360) + 1, "{rows} rows");
        assert!(self.events <= 33 + 24 * 60, "{} events", self.events);
        let restarts: u32 = self.services.iter().map(|s| s.restarts).sum();
        assert!(restarts <= 2 * (24 * 6 + 1), "{restarts} restarts");
    }
}

fn weights(values: &[f32]) -> Weights {
    let mut weights = Weights::ZERO;
    let mut values = values.iter().copied().cycle();
    for part in weights.parts_mut() {
        part.fill_with(|| values.next().unwrap());
    }
    weights
}

#[test]
fn a_day_of_wishing_everything_stays_inside_the_limits() {
    for sign in [1.0, -1.0] {
        let mut worst = Weights::ZERO;
        worst.b2 = [100.0 * sign; CONTROLS];
        worst.gains = [f32::MAX; CONTROLS];
        Day::new(worst, 7).run();
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 3, max_shrink_iters: 0, ..ProptestConfig::default() })]

    #[test]
    fn a_day_of_any_weights_stays_inside_the_limits(
        values in proptest::collection::vec(-1e3f32..1e3, 977), seed in any::<u64>()
    ) {
        Day::new(weights(&values), seed).run();
    }
}

proptest! {
    #[test]
    fn with_any_wishes_and_any_allowed_limits_every_setting_is_in_its_range(
        shares in proptest::collection::vec(0.0f32..=1.0, LIMITS.len()),
        bits in proptest::collection::vec(any::<u32>(), CONTROLS),
        period in 1.0f32..5_000.0,
    ) {
        let limits = some_limits(&shares);
        let wishes: [f32; CONTROLS] = std::array::from_fn(|i| f32::from_bits(bits[i]));
        let mut daemon = neural::metabolic::Daemon::new(100.0);
        daemon.step(0, &wishes, &limits, period, &[]);
        for control in Control::ALL {
            let (least, most) = range(control, &limits);
            let setting = daemon.setting(control);
            prop_assert!((least..=most).contains(&setting), "{control:?} {setting}");
        }
        let lines = log_rate(daemon.setting(Control::LogRate), 200, &limits);
        prop_assert!((10..=200).contains(&lines));
    }
}

/// Limits as a model may bring them: each between its bounds.
fn some_limits(shares: &[f32]) -> Limits {
    let values: Vec<f32> = LIMITS
        .iter()
        .zip(shares)
        .map(|(limit, share)| {
            (limit.least + (limit.most - limit.least) * share).clamp(limit.least, limit.most)
        })
        .collect();
    let file = gguf::writer::Writer::new()
        .f32_tensor("kernel.limits", &[LIMITS.len() as u64], &values)
        .finish()
        .unwrap();
    let index = gguf::Index::parse(&file).unwrap();
    Limits::from_tensors(&neural::system_model::Tensors::of(&index)).unwrap()
}

#[test]
fn a_silent_service_is_restarted_so_often_and_no_more_in_a_window() {
    let mut wishing = Weights::ZERO;
    wishing.b2[Control::Silence as usize] = 5.0;
    let mut day = Day::new(wishing, 1);
    for _ in 0..110 {
        day.beat();
    }
    assert_eq!(day.services.iter().map(|s| s.restarts).sum::<u32>(), 2);
    assert_eq!(usual(100.0)[Control::Silence as usize], 1.0);
}

#[test]
fn an_order_that_was_not_carried_out_is_given_again_and_later_each_time() {
    let mut wishing = Weights::ZERO;
    wishing.b2[Control::MemoryHigh as usize] = 5.0;
    let mut decider = Decider::new(None, &Decisions::default(), 100.0, 0);
    decider.set_policy(Some(Box::new(wishing)), 1);
    let service = Service {
        name: "a",
        up: true,
        core: true,
        rss_bytes: Some(64 << 20),
        memory_max: GIB,
        cpu_weight: 100,
        silence: None,
    };
    let registers = [f32::NAN; COUNT];
    let mut orders_at = |second: u64, lost: bool| {
        let now_ns = second * 1_000_000_000;
        let deeds = decider.beat((now_ns, second), &registers, 100.0, &[service], true);
        let high = |deed: &&Deed| matches!(deed, Deed::Order(Order::MemoryHigh { .. }));
        let count = deeds.iter().filter(high).count();
        if lost && count > 0 {
            decider.lost(now_ns, "a");
        }
        count
    };
    let given: Vec<u64> = (0..3_000).filter(|s| orders_at(*s, true) > 0).collect();
    assert_eq!(
        given,
        [0, 10, 30, 70, 150, 310, 630, 1270, 1910, 2550],
        "twice as late each time, and then every 640 s"
    );
    // The one at 3,190 s is carried out: nothing more follows.
    let given: Vec<u64> = (3_000..9_000)
        .filter(|s| orders_at(*s, false) > 0)
        .collect();
    assert_eq!(given, [3190]);
}
