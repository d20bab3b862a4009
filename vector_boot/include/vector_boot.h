/*
 * The neural runtime of Vector Boot in the caller's process: models and packages, pixel programs, registers.
 * Made by cbindgen of vector_boot/src/ffi; do not edit.
 *
 * docs/c-abi.md says what each side owes; in short:
 *  - Functions may be called from any thread at any time. None ends the process or throws.
 *  - A negative result is one of the codes below, but for neural_execute_pixels, which has its own;
 *    neural_last_error has the words, per thread.
 *  - Where a function takes (buffer, length) and returns a count, it writes as much as there is room for and
 *    returns how much there is in all; (NULL, 0) asks for the count alone. Text has no NUL behind it.
 *  - Text that goes in ends with a NUL and is UTF-8, but for paths, which are any bytes.
 *  - A file must not be shortened or written to while it is open.
 */

#ifndef VECTOR_BOOT_H
#define VECTOR_BOOT_H

#include <stddef.h>
#include <stdint.h>

// Done.
#define NEURAL_OK 0

// A pointer is null or not aligned, a length impossible or not the one that fits, a text not UTF-8 or too long.
#define NEURAL_ARGUMENT -1

// The handle was never given out, or is closed; the result was never handed out, or is freed.
#define NEURAL_HANDLE -2

// No tensor, key, register or result of this name or place.
#define NEURAL_NOT_FOUND -3

// A struct of the caller's is shorter than the library's.
#define NEURAL_SHORT -4

// The file cannot be opened or mapped; the machine does not answer.
#define NEURAL_IO -5

// The file is no model or package, or breaks a rule of its format.
#define NEURAL_FORMAT -6

// Values of this tensor type cannot be read.
#define NEURAL_TYPE -7

// Too many models are open (1,024), or results held (65,536).
#define NEURAL_LIMIT -8

// A defect of the library, caught.
#define NEURAL_INTERNAL -9

// The runtime is not started: neural_init.
#define NEURAL_STATE -10

// High 16 bits: changed where callers of before would break. Low 16 bits: grown with every addition.
#define NEURAL_ABI_VERSION 65539

// One row of the tensor table.
typedef struct {
    // Bytes of its data.
    uint64_t bytes;
    // Values that it holds: the product of its dimensions.
    uint64_t values;
    // Dimensions in GGUF's order, the row length first; the unused ones are 1.
    uint64_t shape[4];
    // How many of the dimensions are used.
    uint32_t dims;
    // ggml's number of the type.
    uint32_t type_id;
    // Values of one block.
    uint32_t block_values;
    // Bytes of one block.
    uint32_t block_bytes;
    // Bytes of the name, without its NUL.
    uint32_t name_len;
    // ggml's name of the type, padded with NUL.
    char type_name[12];
    // UTF-8, padded with NUL; there is always at least one.
    char name[72];
} NeuralTensorInfo;

// One step of a pixel program.
typedef struct {
    // Red: data below 250.
    uint8_t r;
    // Green.
    uint8_t g;
    // Blue.
    uint8_t b;
} Pixel;

// What the runtime did since `neural_init`.
typedef struct {
    // Programs that had a result.
    uint64_t programs;
    // Programs that were refused.
    uint64_t refused;
    // Pixels run by programs that had a result.
    uint64_t pixels;
    // Bytes that these moved, as the budget counts them.
    uint64_t bytes;
    // Multiply-adds of these, as the budget counts them.
    uint64_t multiply_adds;
    // Results that were handed out and not freed; of all time.
    uint64_t results_held;
    // Models open in this process.
    uint64_t models_open;
    // Newest generation of the default system model.
    uint64_t generation;
} NeuralStats;

#ifdef __cplusplus
extern "C" {
#endif // __cplusplus

// The library's `NEURAL_ABI_VERSION`.
uint32_t neural_abi_version(void);

// Copies the message of this thread's last failed call; calls that succeed leave it as it is.
//
// Returns the bytes of the whole message, which is UTF-8 and at most 4 KiB; 0 where nothing has failed yet.
//
// # Safety
// `buf` is null with `len` 0, or `len` bytes that nothing else uses during the call.
int64_t neural_last_error(char *buf, size_t len);

// Maps a GGUF file, or the model of an RTS package, and checks its index; `*handle` is 0 on failure.
//
// No hash and no signature is checked: that is `vector_boot rts verify`. The file must not be shortened or written
// to until `neural_close`: a shortened file turns later reads into SIGBUS.
//
// # Safety
// `path` is null or ends with a NUL; `handle` is null or one `u64` that nothing else uses during the call.
int32_t neural_open(const char *path,
                    uint64_t *handle);

// Ends a handle. Views of its tensors end with it; calls of other threads that are under way finish first.
int32_t neural_close(uint64_t handle);

// How many tensors the model has.
int64_t neural_tensor_count(uint64_t handle);

// The place of the tensor with this name, or `NEURAL_NOT_FOUND`.
//
// # Safety
// `name` is null or ends with a NUL.
int64_t neural_tensor_find(uint64_t handle, const char *name);

// Fills `*info` with one row of the tensor table. `info_bytes` is the caller's `sizeof(NeuralTensorInfo)`: a longer
// one (a later header) is fine, of which only the part that this library knows is written.
//
// # Safety
// `info` is null, or `info_bytes` bytes that nothing else uses during the call.
int32_t neural_tensor_info(uint64_t handle,
                           uint64_t index,
                           NeuralTensorInfo *info,
                           size_t info_bytes);

// Gives the address and the length of a tensor's blocks as they lie in the file; nothing is copied.
//
// The bytes are read-only (writing ends the process) and stay until `neural_close` of this handle; using them
// later is undefined. They begin at a multiple of the file's `general.alignment` from the model's beginning: that
// is aligned memory for GGUF files and packages with manifest, not always for plain packages.
//
// # Safety
// `data` and `bytes` are each null or one value that nothing else uses during the call.
int32_t neural_tensor_view(uint64_t handle,
                           uint64_t index,
                           const void **data,
                           size_t *bytes);

// Writes a tensor's values as f32, in the file's order, and returns how many it has in all.
//
// With a shorter `out` the first `len` values are written.
//
// # Safety
// `out` is null with `len` 0, or `len` floats that nothing else uses during the call.
int64_t neural_dequantize(uint64_t handle, uint64_t index, float *out, size_t len);

// Writes the product of a tensor's matrix with the vector `x`, and returns how many values it has: one a row.
//
// The tensor has one dimension (one row) or two, the row length first, and `x_len` is the row length. With a shorter
// `out` the first `len` values are written. Multiplied from where the blocks lie, in this thread alone; candle's
// kernels quantise `x` to eight bits first, for the types that they know.
//
// # Safety
// `x` is `x_len` floats that nobody changes during the call; `out` is null with `len` 0, or `len` floats that nothing
// else uses during the call. The two may not overlap.
int64_t neural_matvec(uint64_t handle,
                      uint64_t index,
                      const float *x,
                      size_t x_len,
                      float *out,
                      size_t len);

// Writes the value of a key as JSON in UTF-8, without NUL, and returns its bytes in all.
//
// With a shorter `buf` the first `len` bytes are written.
//
// # Safety
// `key` is null or ends with a NUL; `buf` is null with `len` 0, or `len` bytes that nothing else uses during the call.
int64_t neural_metadata(uint64_t handle,
                        const char *key,
                        char *buf,
                        size_t len);

// Writes the keys of the metadata as a JSON array of strings, in the file's order, and returns its bytes in all.
//
// With a shorter `buf` the first `len` bytes are written.
//
// # Safety
// `buf` is null with `len` 0, or `len` bytes that nothing else uses during the call.
int64_t neural_metadata_keys(uint64_t handle,
                             char *buf,
                             size_t len);

// Starts the runtime of this process, with the default system model. Where it runs already nothing changes.
//
// Returns 1, or 0 if it cannot start.
int32_t neural_init(void);

// As [`neural_init`], with less for each pixel program: its pixels, the bytes that it moves, its multiply-adds. 0
// stands for what `neural_init` gives, which is the most there is.
//
// Returns 1, or 0 if it cannot start, if a value is more than that, or if the runtime runs already within others.
int32_t neural_init_within(uint64_t pixels,
                           uint64_t bytes,
                           uint64_t multiply_adds);

// Ends the runtime. Results that were handed out stay the caller's, and open models stay open; a second call is
// `NEURAL_STATE`.
int32_t neural_cleanup(void);

// Chooses the model whose tensors pixel programs see; handle 0 is the default system model. The runtime keeps it
// mapped, also after `neural_close`.
int32_t neural_use_model(uint64_t handle);

// Runs a pixel program; its result is this thread's until its next program.
//
// Returns 1 where there is a result; 0 for null with a count or without `neural_init`; -1 no OUT, -2 bad opcode, -3
// limit, -4 tensor, -5 shape. After a refusal the thread has no result.
//
// # Safety
// `pixels` is null with `count` 0, or `count` pixels that nobody changes during the call.
int32_t neural_execute_pixels(const Pixel *pixels,
                              size_t count);

// Hands out a copy of this thread's last result, `*len` bytes, which the caller owes to `neural_free`. NULL, and 0 in
// `*len`, where there is no result.
//
// # Safety
// `len` is null or one `size_t` that nothing else uses during the call.
uint8_t *neural_get_result(size_t *len);

// Copies this thread's last result. With a shorter `buf` the first `len` bytes are written; returns how many there are.
//
// # Safety
// `buf` is null with `len` 0, or `len` bytes that nothing else uses during the call.
int64_t neural_read_result(uint8_t *buf,
                           size_t len);

// Frees what `neural_get_result` handed out. NULL is fine; an address that it did not hand out, or that is freed
// already, is `NEURAL_HANDLE`.
int32_t neural_free(void *result);

// Fills `*stats`. `stats_bytes` is the caller's `sizeof(NeuralStats)`; of a longer one only the part that this library
// knows is written.
//
// # Safety
// `stats` is null, or `stats_bytes` bytes that nothing else uses during the call.
int32_t neural_get_stats(NeuralStats *stats,
                         size_t stats_bytes);

// The registers of `hw.mmio`: of the Vector Boot machine whose sockets lie in the folder `run` (`/run/vb` on an
// appliance), or with NULL as this process samples the host itself, once a call. `*beat` is the beat they are of.
//
// With a shorter `out` the first `len` registers are written; returns how many there are.
//
// # Safety
// `run` is null or ends with a NUL; `out` is null with `len` 0, or `len` floats, and `beat` null or one `u64`, that
// nothing else uses during the call.
int64_t neural_mmio_snapshot(const char *run,
                             float *out,
                             size_t len,
                             uint64_t *beat);

// At most 64 rows of cortex_journal of the machine whose sockets lie in the folder `run`, as a JSON array, the oldest
// first (docs/neural.md). With `cortex` 0 those that its PID 1 keeps, else those of its role cortex; each has a chain
// and numbers of its own. With `after` 0 the newest, else those behind that number; the first that comes may have a
// later number than the next one. A chain that does not hold is `NEURAL_FORMAT`.
//
// With a shorter `buf` the first `len` bytes are written; returns how many there are.
//
// # Safety
// `run` is null or ends with a NUL; `buf` is null with `len` 0, or `len` bytes that nothing else uses during the call.
int64_t neural_cortex_journal(const char *run,
                              int32_t cortex,
                              uint64_t after,
                              char *buf,
                              size_t len);

// The name of a register, in ASCII without NUL. Returns its bytes; a place without a register is `NEURAL_NOT_FOUND`.
//
// # Safety
// `buf` is null with `len` 0, or `len` bytes that nothing else uses during the call.
int64_t neural_mmio_name(uint64_t index,
                         char *buf,
                         size_t len);

// Proposes new bytes for a range of a tensor of the default system model.
//
// `old_blake3` is the hash of what the range holds, 32 bytes, or null where `base_generation` is proof enough. Returns
// the verdict: 0 accepted, above 0 refused (docs/evolution.md numbers them); `*generation` is then the newest one.
//
// # Safety
// `tensor` is null or ends with a NUL; `payload` is null with `payload_len` 0, or as many bytes, and `old_blake3` null
// or 32 bytes, that nobody changes during the call; `generation` is null or one `u64` that nothing else uses meanwhile.
int32_t neural_propose_mutation(const char *tensor,
                                uint64_t offset,
                                const uint8_t *payload,
                                size_t payload_len,
                                const uint8_t *old_blake3,
                                uint64_t base_generation,
                                float confidence,
                                uint64_t *generation);

// Goes back to what a generation held, under a number of its own, which `*now` receives. A generation that never was,
// or is the newest, is `NEURAL_NOT_FOUND`.
//
// # Safety
// `now` is null or one `u64` that nothing else uses during the call.
int32_t neural_rollback(uint64_t generation,
                        uint64_t *now);

// The newest generation as it is published: its header, the policy's values and every other changed range
// (docs/evolution.md). With a shorter `buf` the first `len` bytes are written; returns how many there are.
//
// # Safety
// `buf` is null with `len` 0, or `len` bytes that nothing else uses during the call.
int64_t neural_generation_read(uint8_t *buf, size_t len);

// The newest verdicts of this runtime as a JSON array, the oldest first; refusals of one kind behind each other are one
// row with their `count`. With a shorter `buf` the first `len` bytes are written; returns how many there are.
//
// # Safety
// `buf` is null with `len` 0, or `len` bytes that nothing else uses during the call.
int64_t neural_journal_read(char *buf,
                            size_t len);

// What the policy sees of registers: each scaled to the range from -1 to 1, an unknown one (NaN) 0 (docs/neural.md).
//
// `registers` are as many as `neural_mmio_snapshot` has. With a shorter `out` the first `len` inputs are written;
// returns how many there are.
//
// # Safety
// `registers` is null with `count` 0, or `count` floats that nobody changes during the call; `out` is null with `len`
// 0, or `len` floats that nothing else uses meanwhile.
int64_t neural_policy_inputs(const float *registers,
                             size_t count,
                             float *out,
                             size_t len);

// BLAKE3 of these bytes, 32 bytes, which mutations carry and Python's library lacks.
//
// # Safety
// `data` is null with `len` 0, or `len` bytes that nobody changes during the call; `out` is null or 32 bytes that
// nothing else uses meanwhile.
int32_t neural_blake3(const uint8_t *data,
                      size_t len,
                      uint8_t *out);

#ifdef __cplusplus
}  // extern "C"
#endif  // __cplusplus

#endif  /* VECTOR_BOOT_H */
