//! `vectorland.gguf`, the default system model: the tensors that the machine runs itself by.
//!
//! Made in code, so that no file has to be carried along and every build has the same bytes: only
//! whole numbers and divisions by powers of two go in, which every processor rounds alike.
//! A user's own GGUF need not have these tensors; what it lacks comes from here.
//!
//! Shapes are given in GGUF's order, the row length first: `policy.w1` is 32 rows of 64.

use gguf::writer::Writer;
use wire::sensors::{COUNT, index};

/// Outputs of the policy: one a control.
const CONTROLS: usize = 8;
/// Width of the policy's hidden layer.
const HIDDEN: usize = 32;
/// Values of one row of `kernel.interrupts`: register, comparison, threshold, hysteresis.
const INTERRUPT_VALUES: usize = 4;
/// Comparison codes of `kernel.interrupts`.
const ABOVE: f32 = 0.0;
/// Raised below the threshold.
const BELOW: f32 = 1.0;

/// Hard limits of the runtime, by index; the unused ones are zero.
const LIMITS: [(&str, f32); 16] = [
    ("heartbeat_ms_min", 25.0),
    ("heartbeat_ms_max", 1000.0),
    ("heartbeat_ms", 100.0),
    ("restart_intensity", 5.0),
    ("restart_window_s", 60.0),
    ("backoff_ms_min", 100.0),
    ("backoff_ms_max", 30_000.0),
    ("healthy_after_s", 60.0),
    ("memory_high_share_min", 0.5),
    ("cpu_weight_min", 10.0),
    ("cpu_weight_max", 1000.0),
    ("log_lines_per_s_max", 1000.0),
    ("reclaim_bytes_max", 67_108_864.0),
    ("shed_share_max", 0.75),
    ("reserved", 0.0),
    ("reserved", 0.0),
];

/// What a machine without a policy of its own must react to.
const INTERRUPTS: [[f32; INTERRUPT_VALUES]; 10] = [
    [
        index::MEMORY_AVAILABLE as f32,
        BELOW,
        67_108_864.0,
        16_777_216.0,
    ],
    [index::PSI_MEMORY_FULL as f32, ABOVE, 10.0, 5.0],
    [index::PSI_IO_FULL as f32, ABOVE, 40.0, 10.0],
    [index::PSI_CPU_SOME as f32, ABOVE, 90.0, 10.0],
    [index::THERMAL_0 as f32, ABOVE, 85.0, 5.0],
    [index::DISK_USE as f32, ABOVE, 95.0, 2.0],
    [index::BEAT_LATENESS as f32, ABOVE, 50_000.0, 25_000.0],
    [index::SERVICES_FAILED as f32, ABOVE, 0.5, 0.25],
    [index::LEDGER_LAG as f32, ABOVE, 10_000.0, 5_000.0],
    [index::WATCHDOG_SLACK as f32, BELOW, 2_000.0, 1_000.0],
];

/// The default model's bytes: a GGUF file of a few KiB, the same everywhere.
///
/// # Panics
/// Never: the test of this module makes it, and it depends on nothing else.
#[must_use]
#[expect(clippy::expect_used, reason = "constant input, made by the tests")]
pub fn default_model() -> Vec<u8> {
    let limit_names: Vec<&str> = LIMITS.iter().map(|(name, _)| *name).collect();
    let limits: Vec<f32> = LIMITS.iter().map(|(_, value)| *value).collect();
    Writer::new()
        .alignment(64)
        .text("general.architecture", "vectorland")
        .text("general.name", "vectorland")
        .text("general.license", "Apache-2.0 OR MIT")
        .u32("vectorland.version", 1)
        .u32("vectorland.register_count", COUNT as u32)
        .u32("vectorland.control_count", CONTROLS as u32)
        .texts("vectorland.limits", &limit_names)
        .f32_tensor("hw.mmio", &[COUNT as u64], &[f32::NAN; COUNT])
        .f32_tensor("kernel.limits", &[LIMITS.len() as u64], &limits)
        .f32_tensor(
            "kernel.interrupts",
            &[INTERRUPT_VALUES as u64, INTERRUPTS.len() as u64],
            INTERRUPTS.as_flattened(),
        )
        .f32_tensor(
            "policy.w1",
            &[COUNT as u64, HIDDEN as u64],
            &hidden_weights(),
        )
        .f32_tensor("policy.b1", &[HIDDEN as u64], &[0.0; HIDDEN])
        .f32_tensor(
            "policy.w2",
            &[HIDDEN as u64, CONTROLS as u64],
            &[0.0; HIDDEN * CONTROLS],
        )
        .f32_tensor("policy.b2", &[CONTROLS as u64], &[0.0; CONTROLS])
        .f32_tensor("metabolic.gains", &[CONTROLS as u64], &[1.0; CONTROLS])
        .finish()
        .expect("constant model follows the format")
}

/// Fixed small numbers from -1/8 to 1/8: directions for evolution to build on. The output layer is
/// zero, so the policy leaves every control where it is until it is evolved.
fn hidden_weights() -> Vec<f32> {
    let mut state = 1u32;
    (0..COUNT * HIDDEN)
        .map(|_| {
            // Numerical Recipes' linear congruential generator; only its upper bits are used.
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let step = (state >> 20) as u16; // 12 bits: exact in f32, as is the quotient.
            (f32::from(step) - 2048.0) / 16_384.0
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use gguf::Index;

    #[test]
    fn the_default_model_has_every_system_tensor_in_its_shape() {
        let file = default_model();
        let index = Index::parse(&file).unwrap();
        for (name, shape) in [
            ("hw.mmio", &[64u64][..]),
            ("kernel.limits", &[16]),
            ("kernel.interrupts", &[4, 10]),
            ("policy.w1", &[64, 32]),
            ("policy.b1", &[32]),
            ("policy.w2", &[32, 8]),
            ("policy.b2", &[8]),
            ("metabolic.gains", &[8]),
        ] {
            assert_eq!(index.tensor(name).unwrap().shape(), shape, "{name}");
        }
        assert_eq!(index.tensor_count(), 8);
        assert!(file.len() < 16 << 10, "{} bytes", file.len());
    }
}
