//! A bounds-checked, zero-copy index of GGUF files.
//!
//! Owns: the format's rules ([`Index::parse`] refuses whatever breaks one and says which), the
//! table of tensor types ([`GgmlType`]), and a small deterministic [`writer`]. Names, keys and
//! values are slices of the file; what the index holds beside them is at most
//! [`TENSOR_HEAP_BYTES_MAX`] a tensor and [`KEY_HEAP_BYTES_MAX`] a key, whatever the tensors weigh.
//!
//! Never here: files, clocks, recursion over what a file says, a reservation that was not first
//! bounded by the bytes that are there. `docs/gguf.md` says what is accepted.
//!
//! Start with [`Index`].
#![forbid(unsafe_code)]
#![deny(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]
#![cfg_attr(
    test,
    allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)
)]

mod cursor;
mod error;
pub mod fuzz;
mod ggml_type;
mod index;
mod value;
pub mod writer;

pub use error::GgufError;
pub use ggml_type::GgmlType;
pub use index::{Index, KEY_HEAP_BYTES_MAX, TENSOR_HEAP_BYTES_MAX, Tensor};
pub use value::{Array, ArrayIter, Text, Value, ValueType};

/// First four bytes of every file.
pub const MAGIC: [u8; 4] = *b"GGUF";
/// Alignment of the tensor data where `general.alignment` is absent (the format's default).
pub const ALIGNMENT_DEFAULT: u32 = 32;
/// Smallest alignment: below 8 an f64 tensor would be unaligned.
pub const ALIGNMENT_MIN: u32 = 8;
/// Largest alignment: the largest page of the machines that we boot.
pub const ALIGNMENT_MAX: u32 = 65_536;
/// Keys of a file at most. Real models have tens; the index of this many takes under 1 MiB.
pub const KEYS_MAX: u64 = 65_536;
/// Tensors of a file at most. The largest models have a few thousand; the index of this many takes 4 MiB.
pub const TENSORS_MAX: u64 = 65_536;
/// Bytes of a key at most (the format's own limit is 2^16 - 1).
pub const KEY_BYTES_MAX: u64 = 65_535;
/// Bytes of a tensor's name at most (the format's own limit).
pub const NAME_BYTES_MAX: u64 = 64;
/// Dimensions of a tensor at most (ggml's GGML_MAX_DIMS).
pub const DIMS_MAX: u32 = 4;
/// Arrays inside arrays at most, the outermost one counted.
pub const ARRAY_DEPTH_MAX: u32 = 8;
/// Metadata and tensor table together at most. The largest tokenizers take some 20 MiB; the limit
/// bounds the time that a hostile header can cost, keeps a process that reads one under 64 MiB with
/// the header's mapped pages counted, and lets positions be 32 bits wide.
pub const HEADER_BYTES_MAX: u64 = 48 << 20;
