//! Candle's kernels over a mapping, against candle's own tensors: the same bits, and no memory.
#![cfg(feature = "candle")]

use candle_core::quantized::{QMatMul, QStorage, QTensor};
use candle_core::{Device, Module, Tensor};
use gguf::GgmlType;
use neural::mapped;
use neural::matvec::Matrix;
use std::borrow::Cow;
use std::io::Write;
use std::sync::Arc;
use sys::mapping::Mapping;

const TYPES: &[GgmlType] = &[
    GgmlType::F32,
    GgmlType::F16,
    GgmlType::BF16,
    GgmlType::Q4_0,
    GgmlType::Q4_1,
    GgmlType::Q5_0,
    GgmlType::Q5_1,
    GgmlType::Q8_0,
    GgmlType::Q8_1,
    GgmlType::Q2_K,
    GgmlType::Q3_K,
    GgmlType::Q4_K,
    GgmlType::Q5_K,
    GgmlType::Q6_K,
    GgmlType::Q8_K,
];
/// Values of a row: two of the largest blocks.
const ROW: usize = 512;

/// Reproducible numbers between -1 and 1.
fn numbers(count: usize, seed: u32) -> Vec<f32> {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / 8_388_608.0 - 1.0
    };
    (0..count).map(|_| next()).collect()
}

/// Numbers quantised by candle: `rows` rows of [`ROW`].
fn quantised(ggml_type: GgmlType, rows: usize) -> (QTensor, Vec<u8>) {
    let dtype = dtype_of(ggml_type);
    let values = Tensor::from_vec(numbers(rows * ROW, 7), (rows, ROW), &Device::Cpu).unwrap();
    let tensor = QTensor::quantize(&values, dtype).unwrap();
    let data = tensor.data().unwrap().to_vec();
    // As candle's loader makes it of a file's bytes.
    let storage = QStorage::from_data(Cow::Borrowed(&data), &Device::Cpu, dtype).unwrap();
    (QTensor::new(storage, (rows, ROW)).unwrap(), data)
}

fn dtype_of(ggml_type: GgmlType) -> candle_core::quantized::GgmlDType {
    use candle_core::quantized::GgmlDType as D;
    match ggml_type {
        GgmlType::F32 => D::F32,
        GgmlType::F16 => D::F16,
        GgmlType::BF16 => D::BF16,
        GgmlType::Q4_0 => D::Q4_0,
        GgmlType::Q4_1 => D::Q4_1,
        GgmlType::Q5_0 => D::Q5_0,
        GgmlType::Q5_1 => D::Q5_1,
        GgmlType::Q8_0 => D::Q8_0,
        GgmlType::Q8_1 => D::Q8_1,
        GgmlType::Q2_K => D::Q2K,
        GgmlType::Q3_K => D::Q3K,
        GgmlType::Q4_K => D::Q4K,
        GgmlType::Q5_K => D::Q5K,
        GgmlType::Q6_K => D::Q6K,
        GgmlType::Q8_K => D::Q8K,
        other => panic!("{other}"),
    }
}

fn mapping_of(data: &[u8]) -> Arc<Mapping> {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(data).unwrap();
    Arc::new(Mapping::of_whole_fd(&file).unwrap())
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}

#[test]
fn a_product_has_the_bits_of_candles_own() {
    for ggml_type in TYPES {
        // Whole fours of rows, and each rest.
        for rows in [1, 2, 3, 4, 7, 16] {
            let (_, data) = quantised(*ggml_type, rows);
            let x = numbers(ROW, 3);
            let mut theirs = vec![0.0; rows];
            candle_matmul(*ggml_type, &data, &x, &mut theirs);
            let matrix = Matrix::of(*ggml_type, &[ROW as u64, rows as u64], &data).unwrap();
            let mut ours = vec![f32::NAN; rows];
            matrix.multiply(&x, &mut ours).unwrap();
            assert_eq!(bits(&ours), bits(&theirs), "{ggml_type}, {rows} rows");
            // One byte further nothing is aligned, and the values are the same.
            let shifted = [&[0], &data[..]].concat();
            let matrix = Matrix::of(*ggml_type, &[ROW as u64, rows as u64], &shifted[1..]).unwrap();
            matrix.multiply(&x, &mut ours).unwrap();
            assert_eq!(
                bits(&ours),
                bits(&theirs),
                "{ggml_type}, {rows} rows, moved"
            );
        }
    }
}

/// `k_quants::matmul` on candle's own copy of the blocks.
fn candle_matmul(ggml_type: GgmlType, data: &[u8], x: &[f32], out: &mut [f32]) {
    use candle_core::quantized::QuantizedType;
    let storage: Box<dyn QuantizedType> = dtype_of(ggml_type).from_data(Cow::Borrowed(data));
    storage.matmul_t((1, x.len(), out.len()), x, out).unwrap();
}

#[test]
fn a_mapped_tensor_is_candles_tensor() {
    for ggml_type in TYPES {
        let (theirs, data) = quantised(*ggml_type, 16);
        let mapping = mapping_of(&data);
        let shape = [ROW as u64, 16];
        let ours = mapped::tensor(&mapping, 0..data.len(), *ggml_type, &shape).unwrap();
        drop(mapping);
        assert_eq!(ours.data().unwrap(), &data[..]);
        let values = |tensor: &QTensor| {
            let values = tensor.dequantize(&Device::Cpu).unwrap();
            bits(&values.flatten_all().unwrap().to_vec1().unwrap())
        };
        assert_eq!(values(&ours), values(&theirs), "{ggml_type}");
        let ids = Tensor::new(&[3u32, 0, 15], &Device::Cpu).unwrap();
        let rows = |tensor: &QTensor| {
            let rows = tensor.embedding(&ids).unwrap();
            bits(&rows.flatten_all().unwrap().to_vec1().unwrap())
        };
        assert_eq!(rows(&ours), rows(&theirs), "{ggml_type}");
        for m in [1, 5] {
            let x = Tensor::from_vec(numbers(m * ROW, 11), (m, ROW), &Device::Cpu).unwrap();
            let product = |tensor: QTensor| {
                let product = QMatMul::from_arc(Arc::new(tensor))
                    .unwrap()
                    .forward(&x)
                    .unwrap();
                bits(&product.flatten_all().unwrap().to_vec1().unwrap())
            };
            let again =
                mapped::tensor(&mapping_of(&data), 0..data.len(), *ggml_type, &shape).unwrap();
            let (theirs, _) = quantised(*ggml_type, 16);
            assert_eq!(product(again), product(theirs), "{ggml_type} {m}");
        }
    }
}

#[test]
fn what_is_not_the_shape_is_no_tensor() {
    let mapping = mapping_of(&[0; 68]);
    let made =
        |range, ggml_type, shape: &[u64]| mapped::tensor(&mapping, range, ggml_type, shape).is_ok();
    assert!(made(0..68, GgmlType::Q8_0, &[32, 2]));
    assert!(made(34..68, GgmlType::Q8_0, &[32]));
    assert!(!made(1..35, GgmlType::Q8_0, &[32]), "not aligned");
    assert!(!made(0..68, GgmlType::Q8_0, &[32, 3]));
    assert!(!made(0..67, GgmlType::Q8_0, &[32, 2]));
    assert!(!made(35..69, GgmlType::Q8_0, &[32]));
    assert!(!made(0..68, GgmlType::Q8_0, &[u64::MAX, 2]));
    assert!(!made(0..18, GgmlType::IQ4_NL, &[32]), "candle lacks it");
    assert!(
        mapped::tensor(&mapping, 0..34, GgmlType::Q8_0, &[32])
            .unwrap()
            .embedding(&Tensor::new(&[0u32], &Device::Cpu).unwrap())
            .is_err()
    );
}

#[test]
fn tensors_over_a_mapping_hold_no_memory_of_their_own() {
    let rows = 1024;
    let (_, data) = quantised(GgmlType::Q4_1, rows);
    let mapping = mapping_of(&data);
    let mut tensors = Vec::with_capacity(210);
    let heap = allocation_counter::measure(|| {
        for _ in 0..210 {
            let shape = [ROW as u64, rows as u64];
            tensors.push(mapped::tensor(&mapping, 0..data.len(), GgmlType::Q4_1, &shape).unwrap());
        }
    });
    assert_eq!(tensors.len(), 210);
    assert!(
        heap.bytes_max < 64 << 10,
        "{} bytes of heap",
        heap.bytes_max
    );
    // A product holds the quantised vector only.
    let (x, mut out) = (numbers(ROW, 1), vec![0.0; rows]);
    let matrix = Matrix::of(GgmlType::Q4_1, &[ROW as u64, rows as u64], &data).unwrap();
    let heap = allocation_counter::measure(|| matrix.multiply(&x, &mut out).unwrap());
    assert!(
        heap.bytes_max <= 2 * ROW as u64,
        "{} bytes of heap",
        heap.bytes_max
    );
}

#[test]
fn a_single_block_a_row_is_multiplied_too() {
    // Scale 1 and what else the type has zero: the product is a sum of small whole numbers.
    for ggml_type in TYPES.iter().filter(|t| t.block_values() == 32) {
        let bytes = ggml_type.block_bytes() as usize;
        let mut block = vec![0x11; bytes];
        block[..4].copy_from_slice(&[0, 0x3c, 0, 0]);
        let mut values = vec![0.0; 32];
        neural::dequant::dequantize(*ggml_type, &block, &mut values).unwrap();
        let mut out = [f32::NAN];
        let matrix = Matrix::of(*ggml_type, &[32, 1], &block).unwrap();
        matrix.multiply(&[1.0; 32], &mut out).unwrap();
        let sum: f32 = values.iter().sum();
        assert!(
            (out[0] - sum).abs() <= sum.abs() * 0.01,
            "{ggml_type}: {} {sum}",
            out[0]
        );
    }
}
