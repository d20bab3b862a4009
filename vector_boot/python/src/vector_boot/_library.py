"""The shared library: found, loaded, its version checked, every function with its types; codes become exceptions."""

from __future__ import annotations

import ctypes
import os
from pathlib import Path
from typing import NoReturn

#: What this package was written for: the high 16 bits must be the library's, its low 16 bits at least these.
ABI_VERSION = 0x0001_0003
_MESSAGE_BYTES = 4096


class LibraryError(ImportError):
    """The shared library is missing, or is another version's."""


class Error(Exception):
    """A call that failed: the library's own words, and its code (`NEURAL_*` in vector_boot.h)."""

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.code = code


class ClosedError(Error, ValueError):
    """The model was closed (NEURAL_HANDLE)."""


class NotFoundError(Error, KeyError):
    """No tensor, key or register of this name (NEURAL_NOT_FOUND)."""

    __str__ = Exception.__str__


class FileError(Error, OSError):
    """The file cannot be opened, or the machine does not answer (NEURAL_IO)."""

    __str__ = Exception.__str__


class FormatError(Error, ValueError):
    """Neither a model nor a package, or against a rule of its format (NEURAL_FORMAT)."""


class TypeUnsupportedError(Error, TypeError):
    """Values of this tensor type cannot be read (NEURAL_TYPE)."""


ARGUMENT, HANDLE, NOT_FOUND, SHORT, IO, FORMAT, TYPE, LIMIT, INTERNAL, STATE = range(-1, -11, -1)
_CLASSES = {
    HANDLE: ClosedError,
    NOT_FOUND: NotFoundError,
    IO: FileError,
    FORMAT: FormatError,
    TYPE: TypeUnsupportedError,
}


class TensorInfo(ctypes.Structure):
    """NeuralTensorInfo."""

    _fields_ = [
        ("bytes", ctypes.c_uint64),
        ("values", ctypes.c_uint64),
        ("shape", ctypes.c_uint64 * 4),
        ("dims", ctypes.c_uint32),
        ("type_id", ctypes.c_uint32),
        ("block_values", ctypes.c_uint32),
        ("block_bytes", ctypes.c_uint32),
        ("name_len", ctypes.c_uint32),
        ("type_name", ctypes.c_char * 12),
        ("name", ctypes.c_char * 72),
    ]


class NeuralStats(ctypes.Structure):
    """NeuralStats."""

    _fields_ = [
        (name, ctypes.c_uint64)
        for name in ("programs", "refused", "pixels", "bytes", "multiply_adds", "results_held", "models_open", "generation")
    ]


def _path() -> str:
    """Beside this file in the wheel; VECTOR_BOOT_LIBRARY names another one, to try a build."""
    named = os.environ.get("VECTOR_BOOT_LIBRARY")
    return named or str(Path(__file__).with_name("libvector_boot.so"))


def _load() -> ctypes.CDLL:
    path = _path()
    try:
        library = ctypes.CDLL(path)
        version = int(library.neural_abi_version())
    except (OSError, AttributeError) as error:
        raise LibraryError(f"{path}: {error}; install with: pip install ./vector_boot/python") from error
    if version >> 16 != ABI_VERSION >> 16 or version & 0xFFFF < ABI_VERSION & 0xFFFF:
        have, want = (f"{v >> 16}.{v & 0xFFFF}" for v in (version, ABI_VERSION))
        raise LibraryError(f"{path}: ABI {have}; this package needs {want}")
    u32, u64, i32, i64 = ctypes.c_uint32, ctypes.c_uint64, ctypes.c_int32, ctypes.c_int64
    size, text, at = ctypes.c_size_t, ctypes.c_char_p, ctypes.c_void_p
    for name, result, arguments in [
        ("abi_version", u32, []),
        ("last_error", i64, [at, size]),
        ("open", i32, [text, at]),
        ("close", i32, [u64]),
        ("tensor_count", i64, [u64]),
        ("tensor_find", i64, [u64, text]),
        ("tensor_info", i32, [u64, u64, at, size]),
        ("tensor_view", i32, [u64, u64, at, at]),
        ("dequantize", i64, [u64, u64, at, size]),
        ("matvec", i64, [u64, u64, at, size, at, size]),
        ("metadata", i64, [u64, text, at, size]),
        ("metadata_keys", i64, [u64, at, size]),
        ("init", i32, []),
        ("init_within", i32, [u64, u64, u64]),
        ("cleanup", i32, []),
        ("use_model", i32, [u64]),
        ("execute_pixels", i32, [at, size]),
        ("get_result", at, [at]),
        ("read_result", i64, [at, size]),
        ("free", i32, [at]),
        ("get_stats", i32, [at, size]),
        ("propose_mutation", i32, [text, u64, at, size, at, u64, ctypes.c_float, at]),
        ("rollback", i32, [u64, at]),
        ("generation_read", i64, [at, size]),
        ("journal_read", i64, [at, size]),
        ("blake3", i32, [at, size, at]),
        ("policy_inputs", i64, [at, size, at, size]),
        ("cortex_journal", i64, [text, i32, u64, at, size]),
        ("mmio_snapshot", i64, [text, at, size, at]),
        ("mmio_name", i64, [u64, at, size]),
    ]:
        try:
            function = getattr(library, f"neural_{name}")
        except AttributeError as error:
            raise LibraryError(f"{path}: {error}") from error
        function.restype, function.argtypes = result, arguments
    return library


lib = _load()


def abi_version() -> int:
    """The library's version."""
    return int(lib.neural_abi_version())


def last_error() -> str:
    """This thread's message."""
    buffer = ctypes.create_string_buffer(_MESSAGE_BYTES)
    needed = lib.neural_last_error(buffer, _MESSAGE_BYTES)
    return buffer.raw[: max(needed, 0)].decode("utf-8", "replace")


def failed(code: int) -> NoReturn:
    """Raises what a code means."""
    raise _CLASSES.get(code, Error)(last_error(), code)


def checked(result: int) -> int:
    """The result, or the exception that its code means."""
    if result < 0:
        failed(result)
    return result


def text_of(function: object, *words: object) -> str:
    """An answer in text, asked for with a buffer that is usually large enough, and once more if it was not."""
    room = 4096
    while True:
        buffer = ctypes.create_string_buffer(room)
        needed = checked(function(*words, buffer, room))  # type: ignore[operator]
        if needed <= room:
            return buffer.raw[:needed].decode("utf-8")
        room = needed
