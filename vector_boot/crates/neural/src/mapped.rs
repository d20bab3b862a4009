//! Candle's kernels over blocks that lie in a mapping: nothing of a tensor is copied.
//!
//! Owns: the one cast from a file's bytes to candle's blocks ([`blocks`]), the product of one vector ([`multiply`]) and
//! candle tensors over a mapping ([`tensor`]).
//! [`multiply`] makes the same sums in the same order as `k_quants::matmul` for one row, but in the caller's thread alone:
//! candle's own function starts a pool with a thread for each processor, which waits spinning, and a host of the C ABI
//! has not asked for that.
//!
//! Never here: a copy of weights, a write to them. Traps of candle: a `QTensor` of some types repacks its blocks into a
//! hidden heap cache at its first product (K-quants on x86_64, most types on aarch64), so a changed weight needs a new
//! `QTensor`, and [`multiply`] costs less memory than it; its asserts panic.
#![allow(
    unsafe_code,
    reason = "the cast of bytes to blocks, which candle offers for copies only"
)]

use candle_core::quantized::k_quants::{
    BlockQ2K, BlockQ3K, BlockQ4_0, BlockQ4_1, BlockQ4K, BlockQ5_0, BlockQ5_1, BlockQ5K, BlockQ6K,
    BlockQ8_0, BlockQ8_1, BlockQ8K,
};
use candle_core::quantized::{GgmlDType, QStorage, QTensor, QuantizedType, k_quants};
use candle_core::{CpuStorage, Error, Result};
use gguf::GgmlType;
use half::{bf16, f16};
use std::marker::PhantomData;
use std::ops::Range;
use std::sync::Arc;
use sys::mapping::Mapping;

/// Types of candle's blocks, each exactly a block of the file: `repr(C)`, no padding, every bit pattern a value.
///
/// # Safety
/// Only for types of which that holds; what a block means is candle's.
unsafe trait Block: k_quants::GgmlType + Send + Sync + 'static {}

macro_rules! blocks_of_candle {
    ($($ggml:ident $block:ty,)*) => {
        $(
            // SAFETY: integers, arrays of integers and floats alone, all of which are values with any bits; the assert
            // holds the length to the file's, which leaves no place for padding.
            unsafe impl Block for $block {}
            const _: () = assert!(size_of::<$block>() as u64 == GgmlType::$ggml.block_bytes());
        )*

        /// Whether candle's kernels know the type.
        #[must_use]
        pub const fn is_known(ggml_type: GgmlType) -> bool {
            matches!(ggml_type, $(GgmlType::$ggml)|*)
        }

        /// `out = W x` for a matrix of `out.len()` rows in `data`, each as long as `x`; `false` if candle lacks the type,
        /// cannot have a row of this length, or the bytes are not that matrix.
        pub fn multiply(ggml_type: GgmlType, data: &[u8], x: &[f32], out: &mut [f32]) -> bool {
            match ggml_type {
                $(GgmlType::$ggml => product::<$block>(data, x, out),)*
                _ => false,
            }
        }

        /// A candle tensor over the bytes of `range`, which stay mapped as long as it lives. `shape` is in GGUF's order.
        ///
        /// # Errors
        /// A type that candle lacks; bytes that are not the shape's, or that lie at an address that is no multiple of
        /// the block's alignment (in packages without manifest).
        pub fn tensor(
            mapping: &Arc<Mapping>,
            range: Range<usize>,
            ggml_type: GgmlType,
            shape: &[u64],
        ) -> Result<QTensor> {
            let storage: Box<dyn QuantizedType> = match ggml_type {
                $(GgmlType::$ggml => Box::new(Mapped::<$block>::new(mapping, range, shape)?),)*
                _ => return Err(Error::msg(format!("candle has no tensors of type {ggml_type}"))),
            };
            // Candle's order is the other one: rows before the row's length.
            let dims = shape.iter().rev().map(|n| usize::try_from(*n).map_err(Error::wrap));
            QTensor::new(QStorage::Cpu(storage), dims.collect::<Result<Vec<_>>>()?)
        }
    };
}

blocks_of_candle! {
    F32 f32,
    F16 f16,
    BF16 bf16,
    Q4_0 BlockQ4_0,
    Q4_1 BlockQ4_1,
    Q5_0 BlockQ5_0,
    Q5_1 BlockQ5_1,
    Q8_0 BlockQ8_0,
    Q8_1 BlockQ8_1,
    Q2_K BlockQ2K,
    Q3_K BlockQ3K,
    Q4_K BlockQ4K,
    Q5_K BlockQ5K,
    Q6_K BlockQ6K,
    Q8_K BlockQ8K,
}

/// The blocks of these bytes; none where they are not whole blocks at an address fit for them.
fn blocks<T: Block>(data: &[u8]) -> Option<&[T]> {
    let at = data.as_ptr().cast::<T>();
    if !data.len().is_multiple_of(size_of::<T>()) || !at.is_aligned() {
        return None;
    }
    // SAFETY: aligned, and exactly as long; `Block` says that any bytes are values; the result borrows from `data`.
    Some(unsafe { std::slice::from_raw_parts(at, data.len() / size_of::<T>()) })
}

/// Rows that candle multiplies at once, sharing the vector's blocks.
const QUAD: usize = 4;

/// `k_quants::matmul` for one row of the left side, without its pool.
fn product<T: Block>(data: &[u8], x: &[f32], out: &mut [f32]) -> bool {
    use k_quants::GgmlType as Kernel;
    let row_blocks = x.len() / T::BLCK_SIZE;
    let row_bytes = row_blocks * size_of::<T>();
    // Candle's debug asserts, and nothing else of it, want these types' blocks in pairs: all profiles do the same here.
    let pairs_only = matches!(
        T::DTYPE,
        GgmlDType::Q4_1 | GgmlDType::Q5_0 | GgmlDType::Q5_1
    );
    if pairs_only && !row_blocks.is_multiple_of(2) {
        return false;
    }
    let whole = x.len().is_multiple_of(T::BLCK_SIZE)
        && row_bytes > 0
        && data.len().checked_div(row_bytes) == Some(out.len())
        && data.len().is_multiple_of(row_bytes);
    if !whole {
        return false;
    }
    let mut vector = vec![<T::VecDotType as Kernel>::zeros(); row_blocks];
    T::VecDotType::from_float(x, &mut vector);
    // Bytes that lie badly (packages without manifest) go through here, four rows at a time.
    let mut aligned: Vec<u64> = Vec::new();
    let n = x.len();
    for (rows, out) in data.chunks(QUAD * row_bytes).zip(out.chunks_mut(QUAD)) {
        let Some(rows) = blocks::<T>(rows).or_else(|| copied(rows, &mut aligned)) else {
            return false;
        };
        let mut rows = rows.chunks_exact(row_blocks);
        match (out, rows.next(), rows.next(), rows.next(), rows.next()) {
            ([d0, d1, d2, d3], Some(a), Some(b), Some(c), Some(d)) => {
                (*d0, *d1, *d2, *d3) = T::vec_dot_4(n, a, b, c, d, &vector);
            }
            // The rows behind the last four are multiplied by twos and ones, as candle does.
            ([d0, d1, d2], Some(a), Some(b), Some(c), _) => {
                (*d0, *d1) = T::vec_dot_2(n, a, b, &vector);
                *d2 = T::vec_dot(n, c, &vector);
            }
            ([d0, d1], Some(a), Some(b), _, _) => (*d0, *d1) = T::vec_dot_2(n, a, b, &vector),
            ([d0], Some(a), _, _, _) => *d0 = T::vec_dot(n, a, &vector),
            _ => return false,
        }
    }
    true
}

/// The same blocks at an address fit for them.
fn copied<'a, T: Block>(data: &[u8], aligned: &'a mut Vec<u64>) -> Option<&'a [T]> {
    aligned.clear();
    aligned.extend(data.chunks(8).map(|word| {
        let mut bytes = [0; 8];
        for (to, from) in bytes.iter_mut().zip(word) {
            *to = *from;
        }
        u64::from_ne_bytes(bytes)
    }));
    let at = aligned.as_ptr().cast::<T>();
    (data.len().is_multiple_of(size_of::<T>()) && at.is_aligned()).then(|| {
        // SAFETY: aligned, and no longer than the words written above, whose bytes are `data`'s; `Block` says that any
        // bytes are values; the result borrows from `aligned`.
        unsafe { std::slice::from_raw_parts(at, data.len() / size_of::<T>()) }
    })
}

/// What candle holds in place of a vector of blocks.
struct Mapped<T> {
    mapping: Arc<Mapping>,
    range: Range<usize>,
    block: PhantomData<T>,
}

impl<T: Block> Mapped<T> {
    fn new(mapping: &Arc<Mapping>, range: Range<usize>, shape: &[u64]) -> Result<Self> {
        let found = mapping.get(range.clone()).and_then(blocks::<T>);
        let values = shape.iter().try_fold(1u64, |all, n| all.checked_mul(*n));
        let block_values = T::BLCK_SIZE as u64;
        let needed = values.filter(|values| values.is_multiple_of(block_values));
        let needed = needed.map(|values| values / block_values);
        match found {
            Some(found) if needed == Some(found.len() as u64) => Ok(Self {
                mapping: Arc::clone(mapping),
                range,
                block: PhantomData,
            }),
            _ => Err(Error::msg(format!(
                "bytes {range:?} of {} are not the blocks of shape {shape:?}",
                mapping.len()
            ))),
        }
    }

    fn blocks(&self) -> &[T] {
        // `new` saw that they are there, and a mapping does not change its place or its length.
        let data = self.mapping.get(self.range.clone()).unwrap_or_default();
        blocks(data).unwrap_or_default()
    }
}

impl<T: Block> QuantizedType for Mapped<T> {
    fn dtype(&self) -> GgmlDType {
        T::DTYPE
    }

    fn matmul_t(&self, mkn: (usize, usize, usize), lhs: &[f32], dst: &mut [f32]) -> Result<()> {
        k_quants::matmul(mkn, lhs, self.blocks(), dst)
    }

    fn matmul_t_f16(&self, mkn: (usize, usize, usize), lhs: &[f16], dst: &mut [f16]) -> Result<()> {
        k_quants::matmul_f16(mkn, lhs, self.blocks(), dst)
    }

    fn embedding(&self, ids: &[u32], rows: usize, hidden: usize) -> Result<CpuStorage> {
        let row_blocks = hidden / T::BLCK_SIZE;
        let blocks = self.blocks();
        if !hidden.is_multiple_of(T::BLCK_SIZE)
            || Some(blocks.len()) != rows.checked_mul(row_blocks)
        {
            let have = blocks.len();
            let text = format!("{have} blocks are not {rows} rows of {hidden} values");
            return Err(Error::msg(text));
        }
        let mut out = vec![0.0; ids.len() * hidden];
        for (id, out) in ids.iter().zip(out.chunks_exact_mut(hidden.max(1))) {
            // u32 fits.
            let row = blocks.chunks_exact(row_blocks.max(1)).nth(*id as usize);
            let row = row.ok_or_else(|| Error::msg(format!("row {id}; there are {rows}")))?;
            T::to_float(row, out);
        }
        Ok(CpuStorage::F32(out))
    }

    fn dequantize(&self, elem_count: usize) -> Result<CpuStorage> {
        let mut out = vec![0.0; elem_count];
        T::to_float(self.blocks(), &mut out);
        Ok(CpuStorage::F32(out))
    }

    fn storage_size_in_bytes(&self) -> usize {
        self.range.len()
    }

    fn as_ptr(&self) -> *const u8 {
        self.blocks().as_ptr().cast()
    }

    fn block_size(&self) -> usize {
        T::BLCK_SIZE
    }

    fn from_float(&mut self, _: &[f32]) {
        // Candle calls it on storage that it made itself, and the trait has no way to refuse.
        assert!(self.range.is_empty(), "a mapped tensor is never written");
    }

    fn from_float_imatrix(&mut self, xs: &[f32], _: &[f32], _: usize) {
        self.from_float(xs);
    }

    fn size(&self) -> usize {
        self.range.len()
    }
}
