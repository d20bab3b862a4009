//! `kernel.interrupts`: thresholds on registers, edge-triggered with hysteresis.
//!
//! A line is raised when its register passes the threshold, and cleared when it has come back by the
//! hysteresis; between the two nothing is said again. Unknown is calm: NaN raises nothing, and clears.
//! The tensor is protected. What a raised line does beside its row in the journal is its [`Handler`]'s.
//!
//! Never here: allocation, a clock. Start with [`Table::step`].

use crate::system_model::{Fault, ModelError, Tensors};
use wire::sensors::{COUNT, index};

/// The tensor.
pub const TENSOR: &str = "kernel.interrupts";
/// Lines of a table at most: one a bit of [`Table::raised`].
pub const LINES_MAX: usize = 32;
/// Numbers of a line: register, comparison, threshold, hysteresis.
const LINE: u64 = 4;
const SHAPE: &[u64; 2] = &[LINE, LINES_MAX as u64];
/// A line changes at most so often: with a register that jumps to and fro at every beat it is a row a second and not ten.
pub const CHANGE_PAUSE_NS: u64 = 1_000_000_000;
/// Lines that change in one beat; others wait for the next.
pub const EDGES_MAX: usize = 4;

/// One line.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Line {
    /// Which register.
    pub register: u16,
    /// Whether it is raised above the threshold, or else below.
    pub above: bool,
    /// Where it is raised.
    pub threshold: f32,
    /// How far the register must come back.
    pub hysteresis: f32,
}

/// What is done while a line is raised, beside its row in the journal and a log line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Handler {
    /// Nothing more.
    Log,
    /// Services are asked to give memory back.
    Reclaim,
    /// The capacity kernel is asked to shed load.
    Shed,
    /// Load is shed and the beat slows down: the machine is too hot.
    Cool,
    /// The log line says why.
    Why,
}

impl Handler {
    /// For people.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Log => "log",
            Self::Reclaim => "reclaim",
            Self::Shed => "shed",
            Self::Cool => "cool",
            Self::Why => "why",
        }
    }
}

impl Line {
    /// A line that is raised above its threshold.
    #[must_use]
    pub const fn above(register: usize, threshold: f32, hysteresis: f32) -> Self {
        // Registers are far fewer than u16 counts.
        let register = register as u16;
        Self {
            register,
            above: true,
            threshold,
            hysteresis,
        }
    }

    /// A line that is raised below its threshold.
    #[must_use]
    pub const fn below(register: usize, threshold: f32, hysteresis: f32) -> Self {
        Self {
            above: false,
            ..Self::above(register, threshold, hysteresis)
        }
    }

    /// What it does, by what it watches.
    #[must_use]
    pub fn handler(&self) -> Handler {
        match usize::from(self.register) {
            index::MEMORY_AVAILABLE | index::PSI_MEMORY_SOME | index::PSI_MEMORY_FULL
                if self.above != (usize::from(self.register) == index::MEMORY_AVAILABLE) =>
            {
                Handler::Reclaim
            }
            // Not a busy processor: a full machine is no reason to refuse work.
            index::LEDGER_LAG if self.above => Handler::Shed,
            index::THERMAL_0 | index::THERMAL_1 | index::THERMAL_2 | index::THERMAL_3
                if self.above =>
            {
                Handler::Cool
            }
            index::SERVICES_FAILED | index::SERVICES_RESTARTS => Handler::Why,
            _ => Handler::Log,
        }
    }

    /// As the tensor has it.
    #[must_use]
    pub fn values(&self) -> [f32; LINE as usize] {
        let comparison = if self.above { ABOVE } else { BELOW };
        [
            f32::from(self.register),
            comparison,
            self.threshold,
            self.hysteresis,
        ]
    }

    /// Whether it is to be raised with this value, being so now. Hysteresis moves the way back alone.
    fn judge(&self, raised: bool, value: f32) -> bool {
        let slack = if raised { self.hysteresis } else { 0.0 };
        // With NaN both are false.
        if self.above {
            value > self.threshold - slack
        } else {
            value < self.threshold + slack
        }
    }
}

/// Comparisons of the tensor.
const ABOVE: f32 = 0.0;
const BELOW: f32 = 1.0;

/// What a machine without a table of its own reacts to.
pub const DEFAULT: [Line; 10] = [
    Line::below(index::MEMORY_AVAILABLE, 33_554_432.0, 16_777_216.0),
    Line::above(index::PSI_MEMORY_FULL, 10.0, 5.0),
    Line::above(index::PSI_IO_FULL, 40.0, 10.0),
    Line::above(index::PSI_CPU_SOME, 90.0, 10.0),
    Line::above(index::THERMAL_0, 85.0, 5.0),
    Line::above(index::DISK_USE, 95.0, 2.0),
    Line::above(index::BEAT_LATENESS, 500_000.0, 250_000.0),
    Line::above(index::SERVICES_FAILED, 0.5, 0.25),
    Line::above(index::LEDGER_LAG, 10_000.0, 5_000.0),
    Line::below(index::WATCHDOG_SLACK, 2_000.0, 1_000.0),
];

/// What a line does now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct State {
    raised: bool,
    count: u32,
    changed_ns: Option<u64>,
}

/// A change of one line.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Edge {
    /// Its place in the table.
    pub place: usize,
    /// The line.
    pub line: Line,
    /// Whether it is raised now.
    pub raised: bool,
    /// The register's value; NaN where it went away.
    pub value: f32,
}

/// The edges of one beat.
pub type Edges = heapless::Vec<Edge, EDGES_MAX>;

/// The table in force.
#[derive(Debug, Clone)]
pub struct Table {
    lines: heapless::Vec<Line, LINES_MAX>,
    states: [State; LINES_MAX],
    /// Where the next look begins, so that no line waits for ever behind others.
    next: usize,
}

impl Default for Table {
    fn default() -> Self {
        Self::of(DEFAULT)
    }
}

impl Table {
    /// A table of these lines, none raised; lines past [`LINES_MAX`] are left out.
    #[must_use]
    pub fn of(lines: impl IntoIterator<Item = Line>) -> Self {
        let mut table = Self {
            lines: heapless::Vec::new(),
            states: [State::default(); LINES_MAX],
            next: 0,
        };
        for line in lines {
            let _no_place = table.lines.push(line);
        }
        table
    }

    /// That of a model; the default's where it has none.
    ///
    /// # Errors
    /// Another shape or type, a value that is not finite, or one that is no register or comparison.
    pub fn from_tensors(tensors: &Tensors<'_>) -> Result<Self, ModelError> {
        let Some(values) = tensors.rows(TENSOR, SHAPE)? else {
            return Ok(Self::default());
        };
        let bounds = |place, found, least, most| ModelError {
            tensor: TENSOR,
            fault: Fault::Bounds {
                place,
                found,
                least,
                most,
            },
        };
        let mut all = values.iter();
        let mut lines = heapless::Vec::<Line, LINES_MAX>::new();
        while let (Some(register), Some(comparison), Some(threshold), Some(hysteresis)) =
            (all.next(), all.next(), all.next(), all.next())
        {
            let place = lines.len() * LINE as usize;
            // Small whole numbers are exact in f32.
            let last = (COUNT - 1) as f32;
            if !(0.0..=last).contains(&register) || register.fract() != 0.0 {
                return Err(bounds(place, register, 0.0, last));
            }
            if comparison != ABOVE && comparison != BELOW {
                return Err(bounds(place + 1, comparison, ABOVE, BELOW));
            }
            if hysteresis < 0.0 {
                return Err(bounds(place + 3, hysteresis, 0.0, f32::MAX));
            }
            let _no_place = lines.push(Line {
                // Whole and below COUNT, as was just found.
                register: register as u16,
                above: comparison == ABOVE,
                threshold,
                hysteresis,
            });
        }
        Ok(Self::of(lines))
    }

    /// Another model's table takes this one's place: lines that both have go on as they are. Answers the raised ones
    /// that are not there any more.
    pub fn replace(&mut self, next: Self) -> impl Iterator<Item = Edge> + use<> {
        let before = std::mem::replace(self, next);
        let states = before.states;
        let old = before.lines.into_iter().zip(states).enumerate();
        let mut gone = heapless::Vec::<Edge, LINES_MAX>::new();
        for (place, (line, state)) in old {
            match self.lines.iter().position(|l| *l == line) {
                Some(at) => {
                    if let Some(kept) = self.states.get_mut(at) {
                        *kept = state;
                    }
                }
                None if state.raised => {
                    let _no_place = gone.push(Edge {
                        place,
                        line,
                        raised: false,
                        value: f32::NAN,
                    });
                }
                None => {}
            }
        }
        gone.into_iter()
    }

    /// Looks at every line. What has changed is raised or cleared, at most [`EDGES_MAX`] lines at once.
    pub fn step(&mut self, now_ns: u64, registers: &[f32; COUNT]) -> Edges {
        let mut edges = Edges::new();
        let first = self.next;
        let order = (first..self.lines.len()).chain(0..first);
        for place in order {
            let (Some(line), Some(state)) = (self.lines.get(place), self.states.get_mut(place))
            else {
                continue;
            };
            let value = registers.get(usize::from(line.register));
            let value = value.copied().unwrap_or(f32::NAN);
            let raised = line.judge(state.raised, value);
            let rests = state
                .changed_ns
                .is_some_and(|then| now_ns.saturating_sub(then) < CHANGE_PAUSE_NS);
            if raised == state.raised || rests {
                continue;
            }
            let edge = Edge {
                place,
                line: *line,
                raised,
                value,
            };
            if edges.push(edge).is_err() {
                self.next = place;
                return edges;
            }
            state.raised = raised;
            state.count = state.count.saturating_add(u32::from(raised));
            state.changed_ns = Some(now_ns);
        }
        self.next = 0;
        edges
    }

    /// Lines that are raised, a bit each by its place.
    #[must_use]
    pub fn raised(&self) -> u32 {
        let bits = self.states.iter().enumerate();
        bits.fold(0, |bits, (place, state)| {
            bits | u32::from(state.raised) << place
        })
    }

    /// Goes on where the image before was: what is raised is not raised again.
    pub fn go_on(&mut self, raised: u32) {
        let lines = self.lines.len();
        for (place, state) in self.states.iter_mut().enumerate().take(lines) {
            state.raised = raised >> place & 1 == 1;
        }
    }

    /// The line at this place: whether it is raised, how often it was, when it last changed.
    #[must_use]
    pub fn line(&self, place: usize) -> Option<(Line, bool, u32, Option<u64>)> {
        let state = self.states.get(place)?;
        let line = self.lines.get(place)?;
        Some((*line, state.raised, state.count, state.changed_ns))
    }

    /// What the raised lines do.
    pub fn handlers(&self) -> impl Iterator<Item = Handler> + '_ {
        let both = self.lines.iter().zip(&self.states);
        both.filter(|(_, state)| state.raised)
            .map(|(line, _)| line.handler())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SECOND: u64 = 1_000_000_000;

    fn registers(register: usize, value: f32) -> [f32; COUNT] {
        let mut all = [f32::NAN; COUNT];
        all[register] = value;
        all
    }

    #[test]
    fn a_line_is_raised_once_and_cleared_when_it_came_back_far_enough() {
        let mut table = Table::of([Line::above(7, 10.0, 4.0), Line::below(8, 5.0, 1.0)]);
        let mut seen = Vec::new();
        for (second, value) in [9.0, 11.0, 12.0, 7.0, 6.5, 6.0, 11.0, f32::NAN, f32::NAN]
            .into_iter()
            .enumerate()
        {
            for edge in table.step(second as u64 * SECOND, &registers(7, value)) {
                seen.push((second, edge.raised));
            }
        }
        assert_eq!(seen, [(1, true), (5, false), (6, true), (7, false)]);
        assert_eq!(
            table.line(0).map(|(_, raised, count, _)| (raised, count)),
            Some((false, 2))
        );
        assert!(table.step(9 * SECOND, &registers(8, 4.0))[0].raised);
        assert_eq!(table.raised(), 0b10);
    }

    #[test]
    fn a_register_that_jumps_at_every_beat_is_a_row_a_second_at_most() {
        let mut table = Table::of([Line::above(0, 1.0, 0.0)]);
        let rows: usize = (0..1000u64)
            .map(|beat| {
                let value = if beat % 2 == 0 { 2.0 } else { 0.0 };
                table.step(beat * SECOND / 10, &registers(0, value)).len()
            })
            .sum();
        assert!((50..=101).contains(&rows), "{rows}");
    }

    #[test]
    fn more_edges_than_one_beat_takes_come_with_the_next_ones() {
        let mut table = Table::of((0..LINES_MAX).map(|i| Line::above(i, 0.5, 0.0)));
        let all = [1.0; COUNT];
        let mut places: Vec<usize> = Vec::new();
        for beat in 0..LINES_MAX / EDGES_MAX {
            places.extend(table.step(beat as u64, &all).iter().map(|e| e.place));
        }
        places.sort_unstable();
        assert_eq!(places, (0..LINES_MAX).collect::<Vec<_>>());
        assert_eq!(table.raised(), u32::MAX);
    }

    proptest! {
        #[test]
        fn whatever_the_registers_edges_alternate_and_unknown_is_calm(
            lines in proptest::collection::vec((0..COUNT, any::<bool>(), any::<f32>(), 0.0f32..100.0), 0..40),
            beats in proptest::collection::vec((0..COUNT, any::<u32>(), 0..3 * SECOND), 1..60),
        ) {
            let lines = lines.into_iter().map(|(register, above, threshold, hysteresis)| Line {
                above, ..Line::above(register, threshold, hysteresis)
            });
            let mut table = Table::of(lines);
            let mut raised = [false; LINES_MAX];
            let mut changed = [None; LINES_MAX];
            let mut all = [f32::NAN; COUNT];
            let mut now = 0;
            for (register, bits, step) in beats {
                now += step;
                all[register] = f32::from_bits(bits);
                for edge in table.step(now, &all) {
                    prop_assert_eq!(edge.raised, !raised[edge.place]);
                    prop_assert!(!edge.raised || !edge.value.is_nan());
                    let since: Option<u64> = changed[edge.place];
                    prop_assert!(since.is_none_or(|then| now - then >= CHANGE_PAUSE_NS));
                    raised[edge.place] = edge.raised;
                    changed[edge.place] = Some(now);
                }
                let bits = raised.iter().enumerate().fold(0, |bits, (i, r)| bits | u32::from(*r) << i);
                prop_assert_eq!(table.raised(), bits);
            }
        }
    }
}
