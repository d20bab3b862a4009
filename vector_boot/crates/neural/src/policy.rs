//! The metabolic policy: registers in, eight wishes out; a small network of plain f32.
//!
//! `h = tanh(w1 x + b1)`, `u = clamp(gains * tanh(w2 h + b2), -1, 1)`, where `x` are the registers as
//! [`inputs`] scales them. A wish of 0 means "as usual"; what each does, and within which limits, is
//! the metabolic daemon's. Whatever the registers and whatever the weights, every wish is from -1 to 1.
//!
//! Never here: allocation, a decision. Start with [`Weights`].

use crate::math::{layer, little, much};
use crate::system_model::{ModelError, Tensors};
use wire::sensors::{COUNT, index};

/// Width of the hidden layer.
pub const HIDDEN: usize = 32;
/// Outputs: one a control.
pub const CONTROLS: usize = 8;
/// Numbers in [`Weights`].
pub const WEIGHTS: usize = HIDDEN * COUNT + HIDDEN + CONTROLS * HIDDEN + CONTROLS + CONTROLS;
/// The tensors that [`Weights`] is made of, with their shapes in GGUF's order, the row length first.
pub const TENSORS: [(&str, &[u64]); 5] = [
    ("policy.w1", &[COUNT as u64, HIDDEN as u64]),
    ("policy.b1", &[HIDDEN as u64]),
    ("policy.w2", &[HIDDEN as u64, CONTROLS as u64]),
    ("policy.b2", &[CONTROLS as u64]),
    ("metabolic.gains", &[CONTROLS as u64]),
];

/// Every parameter of the policy. All finite, unless somebody wrote a field by hand.
#[derive(Debug, Clone, PartialEq)]
pub struct Weights {
    /// `policy.w1`: a row of [`COUNT`] a hidden unit.
    pub w1: [[f32; COUNT]; HIDDEN],
    /// `policy.b1`.
    pub b1: [f32; HIDDEN],
    /// `policy.w2`: a row of [`HIDDEN`] a control.
    pub w2: [[f32; HIDDEN]; CONTROLS],
    /// `policy.b2`: what each control wishes when nothing is the matter.
    pub b2: [f32; CONTROLS],
    /// `metabolic.gains`: how much of a wish counts.
    pub gains: [f32; CONTROLS],
}

impl Weights {
    /// A policy that wishes nothing.
    pub const ZERO: Self = Self {
        w1: [[0.0; COUNT]; HIDDEN],
        b1: [0.0; HIDDEN],
        w2: [[0.0; HIDDEN]; CONTROLS],
        b2: [0.0; CONTROLS],
        gains: [1.0; CONTROLS],
    };

    /// Reads the five tensors of [`TENSORS`]. What a model lacks is as in `base`.
    ///
    /// # Errors
    /// A tensor of another shape or type, or with a value that is not finite, by its name.
    pub fn from_tensors(tensors: &Tensors<'_>, base: &Self) -> Result<Self, ModelError> {
        let mut weights = base.clone();
        for ((name, shape), values) in TENSORS.into_iter().zip(weights.parts_mut()) {
            if let Some(tensor) = tensors.finite(name, shape)? {
                tensor.copy_to(values);
            }
        }
        Ok(weights)
    }

    /// The values of each tensor, in the order of [`TENSORS`].
    #[must_use]
    pub fn parts(&self) -> [&[f32]; TENSORS.len()] {
        [
            self.w1.as_flattened(),
            &self.b1,
            self.w2.as_flattened(),
            &self.b2,
            &self.gains,
        ]
    }

    /// As [`Self::parts`], to be written.
    pub fn parts_mut(&mut self) -> [&mut [f32]; TENSORS.len()] {
        [
            self.w1.as_flattened_mut(),
            &mut self.b1,
            self.w2.as_flattened_mut(),
            &mut self.b2,
            &mut self.gains,
        ]
    }

    /// Whether every number is finite.
    #[must_use]
    pub fn is_finite(&self) -> bool {
        self.parts()
            .iter()
            .all(|part| part.iter().all(|value| value.is_finite()))
    }

    /// What the policy wishes with these registers, which may be NaN: each control from -1 to 1.
    #[must_use]
    pub fn forward(&self, registers: &[f32; COUNT]) -> [f32; CONTROLS] {
        self.judged(registers).0
    }

    /// As [`Self::forward`], and whether anything had to be held back.
    #[must_use]
    pub fn judged(&self, registers: &[f32; COUNT]) -> ([f32; CONTROLS], Health) {
        let mut health = Health::Good;
        let hidden = layer(&self.w1, &self.b1, &inputs(registers));
        let mut wishes = layer(&self.w2, &self.b2, &hidden);
        for (wish, gain) in wishes.iter_mut().zip(&self.gains) {
            let scaled = *wish * gain;
            if !scaled.is_finite() {
                health = Health::NotFinite;
            } else if scaled.abs() > 1.0 && health == Health::Good {
                health = Health::Clamped;
            }
            *wish = if scaled.is_nan() {
                0.0
            } else {
                scaled.clamp(-1.0, 1.0)
            };
        }
        (wishes, health)
    }
}

/// How a forward pass went.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Health {
    /// Well.
    #[default]
    Good,
    /// A wish was past 1 before it was clamped.
    Clamped,
    /// A wish was not finite.
    NotFinite,
}

/// The registers as the network sees them: from -1 to 1, 0 for calm and for unknown.
///
/// Most are `v / (|v| + half)`; those of which little is bad are `half / (v + half)`.
#[must_use]
pub fn inputs(registers: &[f32; COUNT]) -> [f32; COUNT] {
    let mut inputs = *registers;
    for (input, scale) in inputs.iter_mut().zip(&SCALES) {
        *input = match *scale {
            Scale::Much(half) => much(*input, half),
            Scale::Little(half) => little(*input, half),
        };
    }
    inputs
}

/// How a register becomes an input. The number is where the input is one half.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Scale {
    /// More is more: `v / (|v| + half)`.
    Much(f32),
    /// Less is more: `half / (v + half)`.
    Little(f32),
}

const MIB: f32 = 1_048_576.0;

/// Scale of each register, by its index. Fixed, since weights are made for it: a change is a new
/// `vectorland.version`.
pub const SCALES: [Scale; COUNT] = {
    // Plain counts and states: up to about eight.
    let mut scales = [Scale::Much(4.0); COUNT];
    scales[index::BEAT_COUNT] = Scale::Much(36_000.0);
    scales[index::BEAT_PERIOD] = Scale::Much(100.0);
    scales[index::BEAT_LATENESS] = Scale::Much(20_000.0);
    scales[index::BEAT_LATENESS_MAX] = Scale::Much(1_000_000.0);
    scales[index::BEAT_WORK] = Scale::Much(1_000.0);
    scales[index::CPU_USE] = Scale::Much(50.0);
    scales[index::CPU_IOWAIT] = Scale::Much(50.0);
    scales[index::CPU_STEAL] = Scale::Much(50.0);
    scales[index::MEMORY_TOTAL] = Scale::Much(1024.0 * MIB);
    scales[index::MEMORY_AVAILABLE] = Scale::Little(32.0 * MIB);
    scales[index::MEMORY_CACHED] = Scale::Much(256.0 * MIB);
    scales[index::MEMORY_DIRTY] = Scale::Much(64.0 * MIB);
    scales[index::PSI_CPU_SOME] = Scale::Much(60.0);
    scales[index::PSI_CPU_FULL] = Scale::Much(20.0);
    scales[index::PSI_MEMORY_SOME] = Scale::Much(20.0);
    scales[index::PSI_MEMORY_FULL] = Scale::Much(10.0);
    scales[index::PSI_IO_SOME] = Scale::Much(60.0);
    scales[index::PSI_IO_FULL] = Scale::Much(40.0);
    scales[index::THERMAL_0] = Scale::Much(80.0);
    scales[index::THERMAL_1] = Scale::Much(80.0);
    scales[index::THERMAL_2] = Scale::Much(80.0);
    scales[index::THERMAL_3] = Scale::Much(80.0);
    scales[index::DISK_TOTAL] = Scale::Much(16_384.0 * MIB);
    scales[index::DISK_FREE] = Scale::Little(64.0 * MIB);
    scales[index::DISK_USE] = Scale::Much(50.0);
    scales[index::NET_RX] = Scale::Much(MIB);
    scales[index::NET_TX] = Scale::Much(MIB);
    scales[index::NET_ERRORS] = Scale::Much(1_000.0);
    scales[index::SERVICES_RSS] = Scale::Much(256.0 * MIB);
    scales[index::LEDGER_RSS] = Scale::Much(64.0 * MIB);
    scales[index::CAPACITY_RSS] = Scale::Much(64.0 * MIB);
    scales[index::GATEWAY_RSS] = Scale::Much(64.0 * MIB);
    scales[index::CONSOLE_RSS] = Scale::Much(64.0 * MIB);
    scales[index::CAPACITY_LEASES] = Scale::Much(16.0);
    scales[index::CAPACITY_DENIED] = Scale::Much(10.0);
    scales[index::LEDGER_LAG] = Scale::Much(1_000.0);
    scales[index::LEDGER_EVENTS] = Scale::Much(1_000.0);
    scales[index::LEDGER_COMMITS] = Scale::Much(100.0);
    scales[index::GATEWAY_REQUESTS] = Scale::Much(1_000.0);
    scales[index::GATEWAY_FAILED] = Scale::Much(10.0);
    scales[index::GATEWAY_LATENCY_MAX] = Scale::Much(100_000.0);
    scales[index::MUTATION_GENERATION] = Scale::Much(1_000.0);
    scales[index::WATCHDOG_SLACK] = Scale::Little(2_000.0);
    scales[index::MODEL_BYTES] = Scale::Much(256.0 * MIB);
    scales[index::MODEL_TENSORS] = Scale::Much(256.0);
    scales
};
