//! Dequantisation against candle's, on random blocks of every type that both know.

use candle_core::quantized::{GgmlDType, QStorage, QTensor};
use candle_core::{DType, Device};
use gguf::GgmlType;
use neural::dequant;
use std::borrow::Cow;

const TYPES: &[(GgmlType, GgmlDType)] = &[
    (GgmlType::F32, GgmlDType::F32),
    (GgmlType::F16, GgmlDType::F16),
    (GgmlType::BF16, GgmlDType::BF16),
    (GgmlType::Q4_0, GgmlDType::Q4_0),
    (GgmlType::Q4_1, GgmlDType::Q4_1),
    (GgmlType::Q5_0, GgmlDType::Q5_0),
    (GgmlType::Q5_1, GgmlDType::Q5_1),
    (GgmlType::Q8_0, GgmlDType::Q8_0),
    (GgmlType::Q8_1, GgmlDType::Q8_1),
    (GgmlType::Q2_K, GgmlDType::Q2K),
    (GgmlType::Q3_K, GgmlDType::Q3K),
    (GgmlType::Q4_K, GgmlDType::Q4K),
    (GgmlType::Q5_K, GgmlDType::Q5K),
    (GgmlType::Q6_K, GgmlDType::Q6K),
    (GgmlType::Q8_K, GgmlDType::Q8K),
];

/// Blocks of each type.
const BLOCKS: usize = 200;

/// A fixed stream of bytes (xorshift64).
fn random_bytes(len: usize, seed: u64) -> Vec<u8> {
    let mut state = seed | 1;
    (0..len)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 32) as u8
        })
        .collect()
}

/// Random bits in a scale can be NaN or infinite; both sides must then agree on that.
fn same(ours: f32, theirs: f32) -> bool {
    (ours.is_nan() && theirs.is_nan())
        || ours == theirs
        || (ours - theirs).abs() <= theirs.abs() * 1e-6
}

#[test]
fn values_equal_candles_on_random_blocks() {
    for (seed, (ggml_type, dtype)) in TYPES.iter().enumerate() {
        let data = random_bytes(
            BLOCKS * ggml_type.block_bytes() as usize,
            seed as u64 * 77 + 5,
        );
        let count = BLOCKS * ggml_type.block_values() as usize;
        let storage = QStorage::from_data(Cow::Borrowed(&data), &Device::Cpu, *dtype).unwrap();
        let theirs: Vec<f32> = QTensor::new(storage, count)
            .unwrap()
            .dequantize(&Device::Cpu)
            .unwrap()
            .to_dtype(DType::F32)
            .unwrap()
            .to_vec1()
            .unwrap();
        let mut ours = vec![0.0; count];
        assert_eq!(dequant::dequantize(*ggml_type, &data, &mut ours), Ok(count));
        for (place, (ours, theirs)) in ours.iter().zip(&theirs).enumerate() {
            assert!(
                same(*ours, *theirs),
                "{ggml_type} value {place}: {ours} here, {theirs} in candle"
            );
        }
    }
}
