/*
 * Models and packages of Vector Boot, read in the process of the caller.
 *
 * docs/c-abi.md says what each side owes; in short:
 *  - Functions may be called from any thread at any time. None ends the process or throws.
 *  - A negative result is one of the codes below; neural_last_error has the words, per thread.
 *  - Where a function takes (buffer, length) and returns a count, it writes as much as there is room for and
 *    returns how much there is in all; (NULL, 0) asks for the count alone. Text has no NUL behind it.
 *  - Text that goes in ends with a NUL and is UTF-8, but for paths, which are any bytes.
 *  - A file must not be shortened or written to while it is open.
 */
#ifndef VECTOR_BOOT_H
#define VECTOR_BOOT_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* High 16 bits: changed where callers of before would break. Low 16 bits: grown with every addition. */
#define NEURAL_ABI_VERSION 0x00010000

#define NEURAL_OK 0
/* A pointer is null or not aligned, a length impossible, a text not UTF-8 or too long. */
#define NEURAL_ARGUMENT (-1)
/* The handle was never given out, or is closed. */
#define NEURAL_HANDLE (-2)
/* No tensor or key of this name or place. */
#define NEURAL_NOT_FOUND (-3)
/* A struct of the caller's is shorter than the library's. */
#define NEURAL_SHORT (-4)
/* The file cannot be opened or mapped. */
#define NEURAL_IO (-5)
/* The file is no model or package, or breaks a rule of its format. */
#define NEURAL_FORMAT (-6)
/* Values of this tensor type cannot be read. */
#define NEURAL_TYPE (-7)
/* Too many models are open (1,024). */
#define NEURAL_LIMIT (-8)
/* A defect of the library, caught. */
#define NEURAL_INTERNAL (-9)

/* One row of the tensor table. */
typedef struct NeuralTensorInfo {
    uint64_t bytes;        /* of its data */
    uint64_t values;       /* product of its dimensions */
    uint64_t shape[4];     /* GGUF's order, the row length first; unused ones are 1 */
    uint32_t dims;         /* how many of them are used */
    uint32_t type_id;      /* ggml's number of the type */
    uint32_t block_values; /* values of one block */
    uint32_t block_bytes;  /* bytes of one block */
    uint32_t name_len;     /* without the NUL */
    char type_name[12];    /* ggml's name of the type, padded with NUL */
    char name[72];         /* UTF-8, padded with NUL */
} NeuralTensorInfo;

/* The library's NEURAL_ABI_VERSION. */
uint32_t neural_abi_version(void);

/* The message of this thread's last failed call, at most 4,096 bytes. Returns its bytes; 0 if none failed yet. */
int64_t neural_last_error(char *buf, size_t len);

/* Maps a GGUF file, or the model of an RTS package. *handle is 0 on failure, and never 0 otherwise. */
int32_t neural_open(const char *path, uint64_t *handle);

/* Ends a handle and every view of its tensors. A second close is NEURAL_HANDLE. */
int32_t neural_close(uint64_t handle);

/* How many tensors there are. */
int64_t neural_tensor_count(uint64_t handle);

/* The place of a tensor, from 0. */
int64_t neural_tensor_find(uint64_t handle, const char *name);

/* Fills *info. info_bytes is sizeof(NeuralTensorInfo). */
int32_t neural_tensor_info(uint64_t handle, uint64_t index, NeuralTensorInfo *info, size_t info_bytes);

/* Where a tensor's blocks lie: read-only, until neural_close of this handle. On failure *data is NULL, *bytes 0. */
int32_t neural_tensor_view(uint64_t handle, uint64_t index, const void **data, size_t *bytes);

/* A tensor's values as float, in the file's order. len counts values. Returns how many there are. */
int64_t neural_dequantize(uint64_t handle, uint64_t index, float *out, size_t len);

/* The value of a key as JSON. Returns its bytes. */
int64_t neural_metadata(uint64_t handle, const char *key, char *buf, size_t len);

#ifdef __cplusplus
}
#endif

#endif
