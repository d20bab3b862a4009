//! Where the floats of a block lie, so that a payload can be checked before anybody computes with it.
//!
//! Source: the block structs of ggml's `ggml-common.h`, as in [`crate::dequant`].

use gguf::GgmlType;

/// A float in a block.
#[derive(Debug, Clone, Copy)]
enum Float {
    F16(usize),
    Bf16(usize),
    F32(usize),
    F64(usize),
    /// An exponent of eight bits, of which all ones is not a number.
    E8M0(usize),
}
use Float::{Bf16, E8M0, F16, F32, F64};

/// How blocks of one type are made.
#[derive(Debug, Clone, Copy)]
pub struct Blocks {
    /// Bytes of a block.
    pub bytes: usize,
    floats: &'static [Float],
}

impl Blocks {
    /// None for types whose scales are spread over several fields.
    #[must_use]
    pub fn of(ggml_type: GgmlType) -> Option<Self> {
        use GgmlType as T;
        let floats: &[Float] = match ggml_type {
            T::F32 => &[F32(0)],
            T::F16 => &[F16(0)],
            T::BF16 => &[Bf16(0)],
            T::F64 => &[F64(0)],
            T::I8 | T::I16 | T::I32 | T::I64 => &[],
            T::Q1_0 | T::Q2_0 | T::Q4_0 | T::Q5_0 | T::Q8_0 | T::IQ4_NL => &[F16(0)],
            T::Q4_1 | T::Q5_1 | T::Q8_1 | T::Q4_K | T::Q5_K => &[F16(0), F16(2)],
            T::Q2_K => &[F16(80), F16(82)],
            T::Q3_K => &[F16(108)],
            T::Q6_K => &[F16(208)],
            T::Q8_K => &[F32(0)],
            T::IQ2_XXS | T::IQ2_XS | T::IQ3_XXS | T::IQ1_S | T::IQ3_S | T::IQ2_S | T::IQ4_XS => {
                &[F16(0)]
            }
            T::TQ1_0 => &[F16(52)],
            T::TQ2_0 => &[F16(64)],
            T::MXFP4 => &[E8M0(0)],
            T::IQ1_M | T::NVFP4 => return None,
        };
        let bytes = usize::try_from(ggml_type.block_bytes()).ok()?;
        Some(Self { bytes, floats })
    }

    /// Whether every float of whole blocks is finite, as f32.
    #[must_use]
    pub fn are_finite(&self, payload: &[u8]) -> bool {
        self.floats.is_empty()
            || payload
                .chunks_exact(self.bytes)
                .all(|block| self.floats.iter().all(|float| float.is_finite(block)))
    }
}

impl Float {
    fn is_finite(self, block: &[u8]) -> bool {
        match self {
            F16(at) => bytes(block, at).is_some_and(|b| u16::from_le_bytes(b) & 0x7c00 != 0x7c00),
            Bf16(at) => bytes(block, at).is_some_and(|b| u16::from_le_bytes(b) & 0x7f80 != 0x7f80),
            F32(at) => bytes(block, at).is_some_and(|b| f32::from_le_bytes(b).is_finite()),
            // What is beyond f32 becomes infinite where it is used. The conversion rounds: that is what is asked.
            F64(at) => bytes(block, at).is_some_and(|b| (f64::from_le_bytes(b) as f32).is_finite()),
            E8M0(at) => block.get(at).is_some_and(|exponent| *exponent != u8::MAX),
        }
    }
}

fn bytes<const N: usize>(block: &[u8], at: usize) -> Option<[u8; N]> {
    block.get(at..at.checked_add(N)?)?.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dequant::dequantize;

    /// What a type's floats are is asked of the code that computes with them: a block with this byte pattern set
    /// everywhere but in its floats is finite, and with a float set to infinity it is not.
    #[test]
    fn every_float_of_a_block_is_looked_at() {
        for ggml_type in GgmlType::ALL {
            let Some(blocks) = Blocks::of(*ggml_type) else {
                continue;
            };
            let values = usize::try_from(ggml_type.block_values()).unwrap();
            let block = vec![0x11; blocks.bytes];
            assert!(blocks.are_finite(&block), "{ggml_type}");
            for at in 0..blocks.bytes - 1 {
                let mut block = block.clone();
                block[at..at + 2].copy_from_slice(&[0x00, 0x7c]);
                let mut out = vec![0.0; values];
                if dequantize(*ggml_type, &block, &mut out).is_err() {
                    continue;
                }
                let finite = out.iter().all(|value| value.is_finite());
                if !finite {
                    assert!(!blocks.are_finite(&block), "{ggml_type} at {at}");
                }
            }
        }
    }

    #[test]
    fn a_double_beyond_f32_is_not_finite() {
        let blocks = Blocks::of(GgmlType::F64).unwrap();
        assert!(blocks.are_finite(&1e30f64.to_le_bytes()));
        assert!(!blocks.are_finite(&1e300f64.to_le_bytes()));
        assert!(!blocks.are_finite(&f64::NAN.to_le_bytes()));
    }
}
