//! The C ABI: models and packages, read from the process of a host such as Python.
//!
//! Owns: the exports, the table of open models, and the checks of what a caller hands over. `include/vector_boot.h` is
//! made of the declarations here and in `runtime`, `docs/c-abi.md` says what each side owes; tests keep header, source
//! and library equal.
//! Every export checks its pointers and lengths, catches unwinding, may be called from any thread and answers with
//! a code: nothing here ends the host.
//!
//! Never here: rules of a format (`gguf`, `rts`), the meaning of a block (`neural`), memory that outlives its model.
//! Start with [`neural_open`].
#![deny(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic
)]
#![cfg_attr(
    test,
    allow(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::indexing_slicing,
        clippy::panic
    )
)]

mod caller;
mod evolution;
mod failure;
mod handles;
mod journal;
mod json;
mod model;
mod registers;
mod runtime;
#[cfg(test)]
mod tests;

use std::ffi::{OsStr, c_char, c_void};
use std::ops::ControlFlow;
use std::os::unix::ffi::OsStrExt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use self::caller::{Buffer, Slot, lent, text};
use self::failure::{Failure, guarded};
use self::handles::{Handles, OPEN_MAX};
use self::model::Model;

pub use self::evolution::{
    neural_blake3, neural_generation_read, neural_journal_read, neural_policy_inputs,
    neural_propose_mutation, neural_rollback,
};
pub use self::failure::{
    Code, NEURAL_ARGUMENT, NEURAL_FORMAT, NEURAL_HANDLE, NEURAL_INTERNAL, NEURAL_IO, NEURAL_LIMIT,
    NEURAL_NOT_FOUND, NEURAL_OK, NEURAL_SHORT, NEURAL_STATE, NEURAL_TYPE,
};
pub use self::runtime::*;

/// High 16 bits: changed where callers of before would break. Low 16 bits: grown with every addition.
pub const NEURAL_ABI_VERSION: u32 = 0x0001_0003;
/// Bytes of a path at most, as in `linux/limits.h` (PATH_MAX counts the NUL).
const PATH_BYTES_MAX: usize = 4095;
/// Bytes of a key or a tensor's name at most: the longest key of the format, and names are shorter.
const NAME_BYTES_MAX: usize = gguf::KEY_BYTES_MAX as usize;

/// Every open model. Held for a look-up only, never while a file is read or a caller's memory is written.
static MODELS: Mutex<Handles<Model>> = Mutex::new(Handles::new());

/// One row of the tensor table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub struct NeuralTensorInfo {
    /// Bytes of its data.
    pub bytes: u64,
    /// Values that it holds: the product of its dimensions.
    pub values: u64,
    /// Dimensions in GGUF's order, the row length first; the unused ones are 1.
    pub shape: [u64; 4],
    /// How many of the dimensions are used.
    pub dims: u32,
    /// ggml's number of the type.
    pub type_id: u32,
    /// Values of one block.
    pub block_values: u32,
    /// Bytes of one block.
    pub block_bytes: u32,
    /// Bytes of the name, without its NUL.
    pub name_len: u32,
    /// ggml's name of the type, padded with NUL.
    pub type_name: [c_char; 12],
    /// UTF-8, padded with NUL; there is always at least one.
    pub name: [c_char; 72],
}

/// The library's `NEURAL_ABI_VERSION`.
#[unsafe(no_mangle)]
pub extern "C" fn neural_abi_version() -> u32 {
    NEURAL_ABI_VERSION
}

/// Copies the message of this thread's last failed call; calls that succeed leave it as it is.
///
/// Returns the bytes of the whole message, which is UTF-8 and at most 4 KiB; 0 where nothing has failed yet.
///
/// # Safety
/// `buf` is null with `len` 0, or `len` bytes that nothing else uses during the call.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn neural_last_error(buf: *mut c_char, len: usize) -> i64 {
    failure::quietly(|| {
        // SAFETY: the caller owes what `Buffer::new` asks for.
        let mut out = unsafe { Buffer::new(buf.cast::<u8>(), len, "buf")? };
        failure::with_message(|message| out.push(message.as_bytes()));
        out.needed()
    })
}

/// Maps a GGUF file, or the model of an RTS package, and checks its index; `*handle` is 0 on failure.
///
/// No hash and no signature is checked: that is `vector_boot rts verify`. The file must not be shortened or written
/// to until `neural_close`: a shortened file turns later reads into SIGBUS.
///
/// # Safety
/// `path` is null or ends with a NUL; `handle` is null or one `u64` that nothing else uses during the call.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn neural_open(path: *const c_char, handle: *mut u64) -> i32 {
    guarded(|| {
        // SAFETY: the caller owes what `Slot::new` asks for.
        let handle = unsafe { Slot::new(handle, "handle", 0)? };
        // SAFETY: the caller owes the NUL; `path` lives until this call returns, and so does the slice.
        let path = unsafe { text(path, "path", PATH_BYTES_MAX)? };
        let model = Arc::new(Model::open(OsStr::from_bytes(path).as_ref())?);
        let opened = models()
            .insert(model)
            .ok_or_else(|| Failure::limit("open models", OPEN_MAX))?;
        handle.set(opened);
        Ok(0)
    })
}

/// Ends a handle. Views of its tensors end with it; calls of other threads that are under way finish first.
#[unsafe(no_mangle)]
pub extern "C" fn neural_close(handle: u64) -> i32 {
    guarded(|| {
        let closed = models().remove(handle);
        // Unmapped here, after the table's lock is gone, or by the last call that still reads it.
        drop(closed.ok_or_else(|| Failure::handle(handle))?);
        Ok(0)
    })
}

/// How many tensors the model has.
#[unsafe(no_mangle)]
pub extern "C" fn neural_tensor_count(handle: u64) -> i64 {
    // The format's limit on tensors is far below 2^63.
    guarded(|| Ok(model(handle)?.index().tensor_count() as i64))
}

/// The place of the tensor with this name, or `NEURAL_NOT_FOUND`.
///
/// # Safety
/// `name` is null or ends with a NUL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn neural_tensor_find(handle: u64, name: *const c_char) -> i64 {
    guarded(|| {
        // SAFETY: the caller owes the NUL; `name` lives until this call returns, and so does the slice.
        let name = unsafe { text(name, "name", NAME_BYTES_MAX)? };
        let name = std::str::from_utf8(name).map_err(|_| Failure::argument("name", "not UTF-8"))?;
        let model = model(handle)?;
        let place = model.index().place_of(name);
        // As above.
        Ok(place.ok_or_else(|| Failure::not_found("tensor", name))? as i64)
    })
}

/// Fills `*info` with one row of the tensor table. `info_bytes` is the caller's `sizeof(NeuralTensorInfo)`: a longer
/// one (a later header) is fine, of which only the part that this library knows is written.
///
/// # Safety
/// `info` is null, or `info_bytes` bytes that nothing else uses during the call.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn neural_tensor_info(
    handle: u64,
    index: u64,
    info: *mut NeuralTensorInfo,
    info_bytes: usize,
) -> i32 {
    guarded(|| {
        let needed = size_of::<NeuralTensorInfo>();
        if info_bytes < needed {
            return Err(Failure::short("info_bytes", info_bytes, needed));
        }
        let model = model(handle)?;
        let row = model::row(&model.tensor(index)?);
        // SAFETY: the caller owes `info_bytes` bytes, which are at least the struct's.
        unsafe { Slot::new(info, "info", row)? };
        Ok(0)
    })
}

/// Gives the address and the length of a tensor's blocks as they lie in the file; nothing is copied.
///
/// The bytes are read-only (writing ends the process) and stay until `neural_close` of this handle; using them
/// later is undefined. They begin at a multiple of the file's `general.alignment` from the model's beginning: that
/// is aligned memory for GGUF files and packages with manifest, not always for plain packages.
///
/// # Safety
/// `data` and `bytes` are each null or one value that nothing else uses during the call.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn neural_tensor_view(
    handle: u64,
    index: u64,
    data: *mut *const c_void,
    bytes: *mut usize,
) -> i32 {
    guarded(|| {
        // SAFETY: the caller owes what `Slot::new` asks for, for both.
        let (data, bytes) = unsafe {
            (
                Slot::new(data, "data", std::ptr::null()),
                Slot::new(bytes, "bytes", 0),
            )
        };
        let (data, bytes) = (data?, bytes?);
        let model = model(handle)?;
        let view = model.data(&model.tensor(index)?)?;
        data.set(view.as_ptr().cast());
        bytes.set(view.len());
        Ok(0)
    })
}

/// Writes a tensor's values as f32, in the file's order, and returns how many it has in all.
///
/// With a shorter `out` the first `len` values are written.
///
/// # Safety
/// `out` is null with `len` 0, or `len` floats that nothing else uses during the call.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn neural_dequantize(
    handle: u64,
    index: u64,
    out: *mut f32,
    len: usize,
) -> i64 {
    guarded(|| {
        // SAFETY: the caller owes what `Buffer::new` asks for.
        let mut out = unsafe { Buffer::new(out, len, "out")? };
        let model = model(handle)?;
        let tensor = model.tensor(index)?;
        if !neural::dequant::is_supported(tensor.ggml_type) {
            return Err(Failure::unsupported(&tensor));
        }
        let data = model.data(&tensor)?;
        if !out.is_full() {
            neural::dequant::for_each_block(tensor.ggml_type, data, |values| {
                out.push(values);
                if out.is_full() {
                    ControlFlow::Break(())
                } else {
                    ControlFlow::Continue(())
                }
            })
            .map_err(|error| Failure::format(tensor.name, &error))?;
        }
        // The format keeps the product of the dimensions below 2^63.
        Ok(tensor.values() as i64)
    })
}

/// Writes the product of a tensor's matrix with the vector `x`, and returns how many values it has: one a row.
///
/// The tensor has one dimension (one row) or two, the row length first, and `x_len` is the row length. With a shorter
/// `out` the first `len` values are written. Multiplied from where the blocks lie, in this thread alone; candle's
/// kernels quantise `x` to eight bits first, for the types that they know.
///
/// # Safety
/// `x` is `x_len` floats that nobody changes during the call; `out` is null with `len` 0, or `len` floats that nothing
/// else uses during the call. The two may not overlap.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn neural_matvec(
    handle: u64,
    index: u64,
    x: *const f32,
    x_len: usize,
    out: *mut f32,
    len: usize,
) -> i64 {
    guarded(|| {
        // SAFETY: the caller owes what `lent` asks for; the slice does not outlive this call.
        let x = unsafe { lent(x, x_len, "x")? };
        // SAFETY: the caller owes what `Buffer::new` asks for.
        let mut out = unsafe { Buffer::new(out, len, "out")? };
        let model = model(handle)?;
        let tensor = model.tensor(index)?;
        let (name, data) = (tensor.name, model.data(&tensor)?);
        let matrix = neural::matvec::Matrix::of(tensor.ggml_type, tensor.shape(), data);
        let matrix = matrix.map_err(|error| match error {
            neural::matvec::MatrixError::Unsupported(_) => Failure::unsupported(&tensor),
            _ => Failure::shape(name, &error),
        })?;
        if x.len() != matrix.row_values() {
            let text = format!("x of {} values; a row has {}", x.len(), matrix.row_values());
            return Err(Failure::shape(name, &text));
        }
        if len > 0 {
            // Written through memory of ours, since the caller's may be uninitialised.
            let mut product = vec![0.0; matrix.rows()];
            let done = matrix.multiply(x, &mut product);
            done.map_err(|error| Failure::shape(name, &error))?;
            out.push(&product);
            return out.needed();
        }
        // A count of values of the format, below 2^63.
        Ok(matrix.rows() as i64)
    })
}

/// Writes the value of a key as JSON in UTF-8, without NUL, and returns its bytes in all.
///
/// With a shorter `buf` the first `len` bytes are written.
///
/// # Safety
/// `key` is null or ends with a NUL; `buf` is null with `len` 0, or `len` bytes that nothing else uses during the call.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn neural_metadata(
    handle: u64,
    key: *const c_char,
    buf: *mut c_char,
    len: usize,
) -> i64 {
    guarded(|| {
        // SAFETY: the caller owes the NUL; `key` lives until this call returns, and so does the slice.
        let key = unsafe { text(key, "key", NAME_BYTES_MAX)? };
        // SAFETY: the caller owes what `Buffer::new` asks for.
        let mut out = unsafe { Buffer::new(buf.cast::<u8>(), len, "buf")? };
        let key = std::str::from_utf8(key).map_err(|_| Failure::argument("key", "not UTF-8"))?;
        let model = model(handle)?;
        let value = model.index().get(key);
        let value = value.ok_or_else(|| Failure::not_found("key", key))?;
        json::write(&value, &mut out).map_err(|_| Failure::argument("key", "value unreadable"))?;
        out.needed()
    })
}

/// Writes the keys of the metadata as a JSON array of strings, in the file's order, and returns its bytes in all.
///
/// With a shorter `buf` the first `len` bytes are written.
///
/// # Safety
/// `buf` is null with `len` 0, or `len` bytes that nothing else uses during the call.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn neural_metadata_keys(handle: u64, buf: *mut c_char, len: usize) -> i64 {
    guarded(|| {
        // SAFETY: the caller owes what `Buffer::new` asks for.
        let mut out = unsafe { Buffer::new(buf.cast::<u8>(), len, "buf")? };
        let model = model(handle)?;
        let keys = model.index().metadata().map(|(key, _)| key);
        json::texts(keys, &mut out).map_err(|_| Failure::argument("buf", "keys unreadable"))?;
        out.needed()
    })
}

/// The table. Its operations leave it whole at every step, so a panic beside it spoils nothing.
fn models() -> MutexGuard<'static, Handles<Model>> {
    MODELS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The model of a handle; it stays mapped as long as the result is held, whatever other threads close.
fn model(handle: u64) -> Result<Arc<Model>, Failure> {
    models().get(handle).ok_or_else(|| Failure::handle(handle))
}
