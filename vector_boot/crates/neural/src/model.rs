//! `vectorland.gguf`, the default system model: the tensors that the machine runs itself by.
//!
//! Made in code, so that no file has to be carried along and every build has the same bytes: only
//! constants go in.
//! A user's own GGUF need not have these tensors; what it lacks comes from here.
//!
//! Shapes are given in GGUF's order, the row length first: `policy.w1` is 32 rows of 64.

use crate::default_policy::DEFAULT;
use crate::interrupts;
use crate::limits::{self, LIMITS};
use crate::policy::{CONTROLS, TENSORS};
use gguf::writer::Writer;
use wire::sensors::{CONTROL_NAMES, COUNT, REGISTERS};

/// Grows with every change of the tensors, or of what they mean.
const VERSION: u32 = 2;

/// The default model's bytes: a GGUF file of a few KiB, the same everywhere.
///
/// # Panics
/// Never: the test of this module makes it, and it depends on nothing else.
#[must_use]
#[expect(clippy::expect_used, reason = "constant input, made by the tests")]
pub fn default_model() -> Vec<u8> {
    let limit_names = LIMITS.map(|limit| limit.name);
    let register_names = REGISTERS.map(|register| register.name);
    let lines = interrupts::DEFAULT.map(|line| line.values());
    let lines = lines.as_flattened();
    let rows = interrupts::DEFAULT.len() as u64;
    let mut writer = Writer::new()
        .alignment(64)
        .text("general.architecture", "vectorland")
        .text("general.name", "vectorland")
        .text("general.license", "Apache-2.0 OR MIT")
        .u32("vectorland.version", VERSION)
        .u32("vectorland.register_count", COUNT as u32)
        .u32("vectorland.control_count", CONTROLS as u32)
        .texts("vectorland.limits", &limit_names)
        .texts("vectorland.registers", &register_names)
        .texts("vectorland.controls", &CONTROL_NAMES)
        .f32_tensor("hw.mmio", &[COUNT as u64], &[f32::NAN; COUNT])
        .f32_tensor(
            limits::TENSOR,
            &[LIMITS.len() as u64],
            &LIMITS.map(|limit| limit.value),
        )
        .f32_tensor(
            interrupts::TENSOR,
            &[lines.len() as u64 / rows, rows],
            lines,
        );
    for ((name, shape), values) in TENSORS.into_iter().zip(DEFAULT.parts()) {
        writer = writer.f32_tensor(name, shape, values);
    }
    writer.finish().expect("constant model follows the format")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::Limits;
    use crate::policy::Weights;
    use crate::system_model::Tensors;
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

    #[test]
    fn the_default_model_reads_back_as_what_is_built_in() {
        let file = default_model();
        let index = Index::parse(&file).unwrap();
        let tensors = Tensors::of(&index);
        assert_eq!(Limits::from_tensors(&tensors), Ok(Limits::DEFAULT));
        assert_eq!(
            Weights::from_tensors(&tensors, &Weights::ZERO).as_ref(),
            Ok(&DEFAULT)
        );
        let table = interrupts::Table::from_tensors(&tensors).unwrap();
        let lines: Vec<_> = (0..).map_while(|n| table.line(n)).map(|l| l.0).collect();
        assert_eq!(lines, interrupts::DEFAULT);
    }
}
