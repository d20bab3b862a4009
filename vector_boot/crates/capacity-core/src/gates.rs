//! The four gates: is the machine doing what was foreseen, does everything arrive, does it stay inside
//! its bounds, and does nobody suffer from a neighbour?
//!
//! One [`Tick`] of measurements gives one score a gate, normalised so that 1.0 is the threshold, and
//! a verdict with hysteresis. The formulas and their constants are those of `docs/capacity.md`.
//! Start with [`Monitor::step`].

use std::collections::VecDeque;

/// Names of the gates, in the order of [`Scores`].
pub const GATE_NAMES: [&str; 4] = ["fit", "gluing", "uv", "isolation"];
/// Ticks before a gate may fail: forecasts and baselines have to settle.
pub const WARM_UP_TICKS: u64 = 60;
/// Ticks of correlation windows.
const WINDOW: usize = 60;
/// Ticks over which counts and averages of an edge are taken.
const SHORT_WINDOW: usize = 10;
/// Ticks over which the von Neumann ratio is taken.
const RATIO_WINDOW: usize = 20;
/// A verdict fails at this many scores at the threshold, of the last [`FAIL_OF`].
const FAIL_AT: usize = 3;
/// See [`FAIL_AT`].
const FAIL_OF: usize = 5;
/// A verdict passes again after this many scores in a row below [`CALM`].
const PASS_AFTER: u32 = 10;
/// Scores below it are calm; above it a latency baseline is frozen.
const CALM: f64 = 0.8;
/// Ticks after which a frozen latency baseline is learnt anew.
const RELEARN_TICKS: u32 = 600;

/// One workload as configured.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Workload {
    /// Processors granted.
    pub grant_cores: f64,
    /// Requests a second and at once that it may offer; `None` where nothing arrives from outside.
    pub limit: Option<(f64, f64)>,
}

/// What the monitor watches.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Watched {
    /// Workloads, in the order of [`Tick::workloads`].
    pub workloads: Vec<Workload>,
    /// Number of edges.
    pub edges: usize,
    /// The edge whose head lag is measured.
    pub lag_edge: Option<usize>,
    /// Number of clients.
    pub clients: usize,
}

/// One workload in one second.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Use {
    /// Processors used.
    pub cpu_cores: f64,
    /// Share of time in which some task waited for a processor.
    pub stalled: f64,
    /// Share of time in which its own quota held it back.
    pub throttled: f64,
    /// 95th percentile of latency, ms.
    pub p95_ms: f64,
    /// Requests offered, and the most of them in any 10 ms and 100 ms; zero without a limit.
    pub offered: [f64; 3],
}

/// One second of measurements. Missing rows count as zeros.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Tick {
    /// Per workload.
    pub workloads: Vec<Use>,
    /// Per edge: sent and received.
    pub edges: Vec<(f64, f64)>,
    /// Events that the consumer of the lag edge is behind.
    pub head_lag: f64,
    /// Requests of each client.
    pub clients: Vec<f64>,
}

/// Scores in the order of [`GATE_NAMES`].
pub type Scores = [f64; 4];

/// A verdict with hysteresis.
#[derive(Debug, Clone, Default)]
pub struct Verdict {
    recent: VecDeque<bool>,
    failing: bool,
    calm: u32,
}

impl Verdict {
    /// Takes a score and says whether the gate fails now.
    pub fn step(&mut self, score: f64) -> bool {
        if self.recent.len() == FAIL_OF {
            self.recent.pop_front();
        }
        self.recent.push_back(score >= 1.0);
        if !self.failing && self.recent.iter().filter(|high| **high).count() >= FAIL_AT {
            (self.failing, self.calm) = (true, 0);
        } else if self.failing {
            self.calm = if score < CALM { self.calm + 1 } else { 0 };
            if self.calm >= PASS_AFTER {
                self.failing = false;
                self.recent.clear();
            }
        }
        self.failing
    }
}

/// An exponentially weighted average that begins at its first value.
#[derive(Debug, Clone, Copy, Default)]
struct Average(Option<f64>);

impl Average {
    fn step(&mut self, weight: f64, value: f64) -> f64 {
        let next = self
            .0
            .map_or(value, |old| weight * value + (1.0 - weight) * old);
        self.0 = Some(next);
        next
    }
}

/// What is remembered of one workload.
#[derive(Debug, Clone, Default)]
struct Memory {
    /// Level and trend of Holt's forecast.
    forecast: Option<(f64, f64)>,
    surprise: Average,
    latency: Average,
    baseline: f64,
    frozen: u32,
    stall: Average,
    offered: VecDeque<f64>,
}

impl Memory {
    /// Forecast drift and latency drift, the larger one.
    fn fit(&mut self, warm: bool, used: f64, p95_ms: f64) -> f64 {
        const LEVEL: f64 = 0.3;
        const TREND: f64 = 0.05;
        let (level, trend) = self.forecast.unwrap_or((used, 0.0));
        let expected = level + trend;
        self.forecast = Some(match self.forecast {
            None => (used, 0.0),
            Some(_) => {
                let next = LEVEL * used + (1.0 - LEVEL) * expected;
                (next, TREND * (next - level) + (1.0 - TREND) * trend)
            }
        });
        let surprise = (used - expected).abs() / (expected.abs() + 0.10);
        let residual = self.surprise.step(0.2, surprise) / 0.60;
        let first = self.latency.0.is_none();
        let fast = self.latency.step(0.2, p95_ms);
        if first {
            self.baseline = fast;
        }
        let drift = if self.baseline > 0.0 {
            fast / self.baseline - 1.0
        } else {
            0.0
        };
        if drift < CALM || !warm {
            let speed = if warm { 0.01 } else { 0.05 };
            self.baseline += speed * (fast - self.baseline);
            self.frozen = 0;
        } else {
            self.frozen += 1;
            if self.frozen > RELEARN_TICKS {
                (self.baseline, self.frozen) = (fast, 0);
            }
        }
        residual.max(drift)
    }

    /// Stall that others caused while the workload stayed inside its grant.
    fn isolation(&mut self, grant_cores: f64, used: &Use) -> f64 {
        let inside = used.cpu_cores < 0.9 * grant_cores;
        let foreign = (used.stalled - used.throttled).max(0.0);
        self.stall.step(0.25, if inside { foreign } else { 0.0 }) / 0.20
    }

    /// Arrival curve at 10 ms, 100 ms, 1 s and 10 s, and the von Neumann ratio.
    fn bursts(
        &self,
        (rate, burst): (f64, f64),
        [offered, in_10ms, in_100ms]: [f64; 3],
        full: bool,
    ) -> f64 {
        let curve = |seconds: f64| rate * seconds + burst;
        let last_ten: f64 = self.offered.iter().rev().take(SHORT_WINDOW).sum();
        let arrival = [
            in_10ms / curve(0.01),
            in_100ms / curve(0.1),
            offered / curve(1.0),
            last_ten / curve(10.0),
        ];
        let worst = arrival.into_iter().fold(0.0, f64::max);
        let x: Vec<f64> = self.offered.iter().copied().collect();
        let Some((mean, variance)) = moments(&x).filter(|(mean, _)| full && *mean >= 5.0) else {
            return worst;
        };
        if variance.sqrt() / mean <= 0.25 {
            return worst;
        }
        let steps = x.iter().zip(x.iter().skip(1)).map(|(a, b)| (b - a).powi(2));
        let mean_step = steps.sum::<f64>() / (x.len() as f64 - 1.0).max(1.0);
        worst.max(mean_step / (2.0 * variance + 1e-9) / 1.5)
    }
}

/// Watches a machine, one tick a second.
#[derive(Debug, Clone)]
pub struct Monitor {
    watched: Watched,
    ticks: u64,
    memories: Vec<Memory>,
    edges: Vec<VecDeque<(f64, f64)>>,
    lags: VecDeque<f64>,
    clients: VecDeque<Vec<f64>>,
    verdicts: [Verdict; 4],
}

impl Monitor {
    /// A monitor that has seen nothing.
    #[must_use]
    pub fn new(watched: Watched) -> Self {
        Self {
            memories: vec![Memory::default(); watched.workloads.len()],
            edges: vec![VecDeque::new(); watched.edges],
            watched,
            ticks: 0,
            lags: VecDeque::new(),
            clients: VecDeque::new(),
            verdicts: Default::default(),
        }
    }

    /// Takes one second and answers scores and whether each gate fails.
    pub fn step(&mut self, tick: &Tick) -> (Scores, [bool; 4]) {
        let warm = self.ticks >= WARM_UP_TICKS;
        let (mut fit, mut isolation): (f64, f64) = (0.0, 0.0);
        let rows = self.memories.iter_mut().zip(&self.watched.workloads);
        let mut uses = tick.workloads.iter().copied();
        for (memory, workload) in rows {
            let used = uses.next().unwrap_or_default();
            let share = used.cpu_cores / workload.grant_cores;
            fit = fit.max(memory.fit(warm, share, used.p95_ms));
            isolation = isolation.max(memory.isolation(workload.grant_cores, &used));
            let [offered, ..] = used.offered;
            keep(&mut memory.offered, RATIO_WINDOW, offered);
        }
        for (at, edge) in self.edges.iter_mut().enumerate() {
            keep(
                edge,
                WINDOW,
                tick.edges.get(at).copied().unwrap_or_default(),
            );
        }
        keep(&mut self.lags, 3, tick.head_lag);
        keep(&mut self.clients, WINDOW + 1, tick.clients.clone());
        let gluing = if warm { self.gluing() } else { 0.0 };
        let mut uv = self.uv(tick);
        if !warm {
            (fit, isolation, uv) = (0.0, 0.0, uv.min(0.99));
        }
        self.ticks += 1;
        let scores = [fit, gluing, uv, isolation];
        let mut failing = [false; 4];
        for ((fails, verdict), score) in failing.iter_mut().zip(&mut self.verdicts).zip(scores) {
            *fails = verdict.step(score);
        }
        (scores, failing)
    }

    fn gluing(&self) -> f64 {
        let mut worst: f64 = 0.0;
        for (at, edge) in self.edges.iter().enumerate() {
            let last = edge.iter().rev().take(SHORT_WINDOW);
            let (sent, received) = last.fold((0.0, 0.0), |(s, r), e| (s + e.0, r + e.1));
            // Under 50 messages nothing can be said.
            if sent < 50.0 {
                continue;
            }
            worst = worst.max((sent - received).abs() / sent / 0.15);
            let (a, b): (Vec<f64>, Vec<f64>) = edge.iter().copied().unzip();
            // A steady sender correlates with nothing.
            if moments(&a).is_some_and(|(_, variance)| variance > 0.0) {
                let bound = 3.0 / (a.len() as f64).sqrt();
                worst = worst.max(bound / correlation(&a, &b).max(0.05));
            }
            if self.watched.lag_edge == Some(at) {
                let lag = self.lags.iter().copied().fold(0.0, f64::max);
                worst = worst.max(lag / (3.0 * (sent / SHORT_WINDOW as f64).max(1.0)));
            }
        }
        worst
    }

    fn uv(&self, tick: &Tick) -> f64 {
        if self.ticks < SHORT_WINDOW as u64 {
            return 0.0;
        }
        let full = self.ticks >= WINDOW as u64;
        let mut worst: f64 = 0.0;
        let rows = self
            .watched
            .workloads
            .iter()
            .zip(&self.memories)
            .zip(&tick.workloads);
        for ((workload, memory), used) in rows {
            if let Some(limit) = workload.limit {
                worst = worst.max(memory.bursts(limit, used.offered, full));
            }
        }
        if full {
            worst = worst.max(self.herd());
        }
        worst
    }

    /// Largest eigenvalue of the correlation of differenced client rates, against the edge that
    /// independent clients stay below (Marchenko and Pastur).
    fn herd(&self) -> f64 {
        let rows: Vec<&Vec<f64>> = self.clients.iter().take(WINDOW).collect();
        let count = self.watched.clients;
        let column = |at: usize| rows.iter().map(move |r| r.get(at).copied().unwrap_or(0.0));
        let total: f64 = (0..count).flat_map(column).sum();
        if count < 2 || total / ((count * rows.len()).max(1) as f64) < 3.0 {
            return 0.0;
        }
        let mut standard = Vec::with_capacity(count);
        for at in 0..count {
            let x: Vec<f64> = column(at).collect();
            let dx: Vec<f64> = x.iter().zip(x.iter().skip(1)).map(|(a, b)| b - a).collect();
            let Some((mean, variance)) = moments(&dx).filter(|(_, variance)| *variance > 0.0)
            else {
                return 0.0;
            };
            let scale = (variance * dx.len() as f64).sqrt();
            standard.push(dx.iter().map(|d| (d - mean) / scale).collect::<Vec<f64>>());
        }
        let edge = (1.0 + (count as f64 / WINDOW as f64).sqrt()).powi(2);
        largest_eigenvalue(&standard) / (2.2 * edge)
    }
}

fn keep<T>(window: &mut VecDeque<T>, length: usize, value: T) {
    if window.len() == length {
        window.pop_front();
    }
    window.push_back(value);
}

/// Mean and variance.
fn moments(x: &[f64]) -> Option<(f64, f64)> {
    let n = x.len() as f64;
    if x.is_empty() {
        return None;
    }
    let mean = x.iter().sum::<f64>() / n;
    Some((mean, x.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / n))
}

/// Correlation of two series of one length; 0 where one of them is constant.
fn correlation(a: &[f64], b: &[f64]) -> f64 {
    let (Some((ma, va)), Some((mb, vb))) = (moments(a), moments(b)) else {
        return 0.0;
    };
    if va <= 0.0 || vb <= 0.0 {
        return 0.0;
    }
    let products = a.iter().zip(b).map(|(x, y)| (x - ma) * (y - mb));
    products.sum::<f64>() / a.len() as f64 / (va * vb).sqrt()
}

/// Largest eigenvalue of the Gram matrix of these rows, by power iteration through the rows
/// themselves. A few dozen steps suffice: the score asks for a factor of two, not for digits.
fn largest_eigenvalue(rows: &[Vec<f64>]) -> f64 {
    const STEPS: usize = 100;
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(x, y)| x * y).sum::<f64>();
    let length = rows.first().map_or(0, Vec::len);
    // No eigenvector of interest is orthogonal to a start that has every direction in it.
    let mut vector: Vec<f64> = (0..rows.len())
        .map(|i| 1.0 + 0.1 * (i % 7) as f64)
        .collect();
    let mut value = 0.0;
    for _ in 0..STEPS {
        let norm = dot(&vector, &vector).sqrt();
        if norm <= 0.0 {
            return 0.0;
        }
        vector.iter_mut().for_each(|v| *v /= norm);
        let mut combined = vec![0.0; length];
        for (row, weight) in rows.iter().zip(&vector) {
            for (sum, x) in combined.iter_mut().zip(row) {
                *sum += weight * x;
            }
        }
        let next: Vec<f64> = rows.iter().map(|row| dot(row, &combined)).collect();
        value = dot(&vector, &next);
        vector = next;
    }
    value
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_verdict_fails_at_three_of_five_and_passes_after_ten_calm_ones() {
        let mut verdict = Verdict::default();
        let said: Vec<bool> = [1.0, 0.9, 1.0, 0.9, 1.0].map(|s| verdict.step(s)).to_vec();
        assert_eq!(said, [false, false, false, false, true]);
        assert!((0..9).all(|_| verdict.step(0.1)));
        assert!(verdict.step(0.85), "not calm: counting begins anew");
        assert!((0..9).all(|_| verdict.step(0.1)));
        assert!(!verdict.step(0.1));
        assert!(!verdict.step(1.0) && !verdict.step(1.0) && verdict.step(1.0));
        let mut sparse = Verdict::default();
        assert!(!(0..50).any(|i| sparse.step(if i % 3 == 0 { 1.0 } else { 0.0 })));
    }

    #[test]
    fn eigenvalues_and_correlations_have_their_known_values() {
        let same = vec![vec![0.6, 0.8], vec![0.6, 0.8], vec![0.6, 0.8]];
        assert!((largest_eigenvalue(&same) - 3.0).abs() < 1e-9);
        let apart = vec![vec![1.0, 0.0], vec![0.0, 1.0]];
        assert!((largest_eigenvalue(&apart) - 1.0).abs() < 1e-9);
        let (up, down) = ([1.0, 2.0, 3.0], [3.0, 2.0, 1.0]);
        assert!((correlation(&up, &down) + 1.0).abs() < 1e-12);
        assert!(correlation(&up, &[1.0; 3]) == 0.0);
    }

    fn watched() -> Watched {
        Watched {
            workloads: vec![Workload {
                grant_cores: 0.5,
                limit: Some((200.0, 40.0)),
            }],
            edges: 1,
            lag_edge: Some(0),
            clients: 0,
        }
    }

    fn tick(n: u64) -> Tick {
        let wobble = ((n * 7) % 5) as f64;
        Tick {
            workloads: vec![Use {
                cpu_cores: 0.25 + 0.002 * wobble,
                p95_ms: 10.0 + 0.1 * wobble,
                offered: [100.0 + wobble, 3.0, 15.0],
                ..Use::default()
            }],
            edges: vec![(100.0 + wobble, 100.0 + wobble)],
            head_lag: 1.0,
            clients: Vec::new(),
        }
    }

    /// Which gates fail after a calm start and twenty ticks of a fault.
    fn after(fault: impl Fn(&mut Tick)) -> [bool; 4] {
        let mut monitor = Monitor::new(watched());
        for n in 0..120 {
            assert_eq!(monitor.step(&tick(n)).1, [false; 4], "tick {n}");
        }
        let faulty = (120..140).map(|n| {
            let mut tick = tick(n);
            fault(&mut tick);
            monitor.step(&tick).1
        });
        faulty.last().unwrap()
    }

    #[test]
    fn each_fault_fails_its_own_gate() {
        assert_eq!(after(|_| ()), [false; 4]);
        assert_eq!(
            after(|t| t.workloads[0].p95_ms = 40.0),
            [true, false, false, false]
        );
        assert_eq!(after(|t| t.edges[0].1 *= 0.4), [false, true, false, false]);
        assert_eq!(after(|t| t.head_lag = 900.0), [false, true, false, false]);
        assert_eq!(
            after(|t| t.workloads[0].offered[1] = 90.0),
            [false, false, true, false]
        );
        assert_eq!(
            after(|t| t.workloads[0].stalled = 0.7),
            [false, false, false, true]
        );
    }

    #[test]
    fn a_stall_of_ones_own_making_is_no_neighbours_fault() {
        let throttled =
            after(|t| (t.workloads[0].stalled, t.workloads[0].throttled) = (0.71, 0.71));
        assert!(!throttled[3]);
        let outside = after(|t| (t.workloads[0].stalled, t.workloads[0].cpu_cores) = (0.7, 0.5));
        assert!(!outside[3]);
    }
}
