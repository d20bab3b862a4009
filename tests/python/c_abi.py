"""The C ABI through ctypes; `tests/system/c_abi.rs` builds what it needs and runs it.

VB_LIBRARY, VB_MODEL and VB_PACKAGE name the library and its fixtures, VB_REAL_MODEL a real model if the host has one.
"""

from __future__ import annotations

import ctypes
import json
import os
import struct
import threading
import unittest

ARGUMENT, HANDLE, NOT_FOUND, SHORT, IO, FORMAT, TYPE = range(-1, -8, -1)
THREADS = 8
# Five calls each, so that a thread makes 2,500.
ROUNDS = 500


class TensorInfo(ctypes.Structure):
    """One row of the tensor table, as the header lays it out."""

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


def load(path: str) -> ctypes.CDLL:
    """The library with the types of every function set."""
    library = ctypes.CDLL(path)
    u64, size, text, address = ctypes.c_uint64, ctypes.c_size_t, ctypes.c_char_p, ctypes.c_void_p
    i32, i64 = ctypes.c_int32, ctypes.c_int64
    for name, result, arguments in [
        ("abi_version", ctypes.c_uint32, []),
        ("last_error", i64, [address, size]),
        ("open", i32, [text, address]),
        ("close", i32, [u64]),
        ("tensor_count", i64, [u64]),
        ("tensor_find", i64, [u64, text]),
        ("tensor_info", i32, [u64, u64, address, size]),
        ("tensor_view", i32, [u64, u64, address, address]),
        ("dequantize", i64, [u64, u64, address, size]),
        ("metadata", i64, [u64, text, address, size]),
    ]:
        function = getattr(library, f"neural_{name}")
        function.restype, function.argtypes = result, arguments
    return library


LIBRARY = load(os.environ["VB_LIBRARY"])


def last_error() -> str:
    """This thread's message."""
    buffer = ctypes.create_string_buffer(4096)
    needed = LIBRARY.neural_last_error(buffer, len(buffer))
    return buffer.raw[:needed].decode()


def opened(path: str) -> int:
    """A handle, or the code as an AssertionError with the message."""
    handle = ctypes.c_uint64()
    code = LIBRARY.neural_open(os.fsencode(path), ctypes.byref(handle))
    assert code == 0 and handle.value != 0, (code, last_error())
    return handle.value


def info(handle: int, index: int) -> TensorInfo:
    """One row of the tensor table."""
    row = TensorInfo()
    code = LIBRARY.neural_tensor_info(handle, index, ctypes.byref(row), ctypes.sizeof(row))
    assert code == 0, last_error()
    return row


def blocks(handle: int, index: int) -> bytes:
    """A copy of a tensor's data."""
    data, size = ctypes.c_void_p(), ctypes.c_size_t()
    code = LIBRARY.neural_tensor_view(handle, index, ctypes.byref(data), ctypes.byref(size))
    assert code == 0, last_error()
    return ctypes.string_at(data, size.value)


def values(handle: int, index: int) -> list[float]:
    """A tensor's values by the library, asked for in two calls as a caller does."""
    needed = LIBRARY.neural_dequantize(handle, index, None, 0)
    assert needed >= 0, last_error()
    out = (ctypes.c_float * needed)()
    assert LIBRARY.neural_dequantize(handle, index, out, needed) == needed
    return list(out)


def metadata(handle: int, key: str) -> object:
    """A key's value."""
    needed = LIBRARY.neural_metadata(handle, key.encode(), None, 0)
    assert needed >= 0, last_error()
    buffer = ctypes.create_string_buffer(needed)
    assert LIBRARY.neural_metadata(handle, key.encode(), buffer, needed) == needed
    return json.loads(buffer.raw.decode())


def by_hand(row: TensorInfo, data: bytes) -> list[float]:
    """The same values worked out here: F32 is itself; Q4_1 is scale and minimum as halves, then 32 nibbles, those in
    the low halves of the bytes first."""
    if row.type_name == b"F32":
        return list(struct.unpack(f"<{row.values}f", data))
    assert row.type_name == b"Q4_1", row.type_name
    found = []
    for at in range(0, len(data), 20):
        scale, minimum = struct.unpack_from("<ee", data, at)
        nibbles = [byte & 15 for byte in data[at + 4 : at + 20]] + [byte >> 4 for byte in data[at + 4 : at + 20]]
        # Product and sum are rounded to f32 one after the other.
        rounded = [struct.unpack("<f", struct.pack("<f", nibble * scale))[0] for nibble in nibbles]
        found += [struct.unpack("<f", struct.pack("<f", product + minimum))[0] for product in rounded]
    return found


class Fixtures(unittest.TestCase):
    """The fixture, bare and inside a package."""

    def each(self) -> list[int]:
        """A handle for each form; closed at the end of the test."""
        handles = [opened(os.environ[name]) for name in ("VB_MODEL", "VB_PACKAGE")]
        for handle in handles:
            self.addCleanup(LIBRARY.neural_close, handle)
        return handles

    def test_the_version_is_the_one_that_this_file_was_written_for(self) -> None:
        self.assertEqual(LIBRARY.neural_abi_version() >> 16, 1)

    def test_tensors_are_listed_and_found(self) -> None:
        for handle in self.each():
            rows = [info(handle, index) for index in range(LIBRARY.neural_tensor_count(handle))]
            listed = [(row.name, row.type_name, list(row.shape[: row.dims]), row.bytes) for row in rows]
            expected = [
                (b"plain", b"F32", [4, 2], 32),
                (b"blocks", b"Q4_1", [32, 2], 40),
                (b"closed", b"IQ2_S", [256], 82),
            ]
            self.assertEqual(listed, expected)
            for index, row in enumerate(rows):
                self.assertEqual(LIBRARY.neural_tensor_find(handle, row.name), index)

    def test_values_are_those_of_the_blocks(self) -> None:
        for handle in self.each():
            for index in (0, 1):
                self.assertEqual(values(handle, index), by_hand(info(handle, index), blocks(handle, index)))
            self.assertEqual(values(handle, 0), [0.5, 0.5, 1.5, 2.5, 3.5, 4.5, 5.5, 6.5])
            self.assertEqual(values(handle, 1)[:32], [n * 0.5 - 1 for n in range(16)] * 2)

    def test_metadata_is_json(self) -> None:
        for handle in self.each():
            self.assertEqual(metadata(handle, "general.architecture"), "fixture")
            self.assertEqual(metadata(handle, "fixture.width"), 4)
            self.assertEqual(metadata(handle, "fixture.scale"), 0.1)
            self.assertEqual(metadata(handle, "fixture.words"), ['a"b', "ü", ""])


class Misuse(unittest.TestCase):
    """What a caller gets wrong is a code and a message, never the end of this process."""

    def setUp(self) -> None:
        self.handle = opened(os.environ["VB_MODEL"])
        self.addCleanup(LIBRARY.neural_close, self.handle)

    def test_stale_handles(self) -> None:
        handle = opened(os.environ["VB_MODEL"])
        self.assertEqual(LIBRARY.neural_close(handle), 0)
        for bad in (handle, 0, 2**64 - 1):
            self.assertEqual(LIBRARY.neural_close(bad), HANDLE)
            self.assertEqual(LIBRARY.neural_tensor_count(bad), HANDLE)
            self.assertEqual(LIBRARY.neural_dequantize(bad, 0, None, 0), HANDLE)
            self.assertEqual(last_error(), f"handle {bad:#x}: closed, or never opened")

    def test_null_short_and_misaligned(self) -> None:
        row, handle = TensorInfo(), self.handle
        floats = (ctypes.c_float * 8)()
        odd = ctypes.addressof(floats) + 1
        self.assertEqual(LIBRARY.neural_open(None, ctypes.byref(ctypes.c_uint64())), ARGUMENT)
        self.assertEqual(LIBRARY.neural_open(b"x", None), ARGUMENT)
        self.assertEqual(LIBRARY.neural_tensor_find(handle, None), ARGUMENT)
        self.assertEqual(LIBRARY.neural_tensor_info(handle, 0, None, ctypes.sizeof(row)), ARGUMENT)
        self.assertEqual(LIBRARY.neural_tensor_info(handle, 0, ctypes.byref(row), 8), SHORT)
        self.assertEqual(LIBRARY.neural_tensor_view(handle, 0, None, None), ARGUMENT)
        self.assertEqual(LIBRARY.neural_dequantize(handle, 0, None, 8), ARGUMENT)
        self.assertEqual(LIBRARY.neural_dequantize(handle, 0, odd, 1), ARGUMENT)
        self.assertEqual(LIBRARY.neural_metadata(handle, None, None, 0), ARGUMENT)
        self.assertEqual(LIBRARY.neural_dequantize(handle, 0, floats, 3), 8)
        self.assertEqual(list(floats), [0.5, 0.5, 1.5, 0, 0, 0, 0, 0])

    def test_what_is_not_there(self) -> None:
        handle = self.handle
        self.assertEqual(LIBRARY.neural_open(b"/nowhere/at.all", ctypes.byref(ctypes.c_uint64())), IO)
        self.assertEqual(LIBRARY.neural_open(os.fsencode(__file__), ctypes.byref(ctypes.c_uint64())), FORMAT)
        self.assertIn("magic", last_error())
        self.assertEqual(LIBRARY.neural_tensor_find(handle, b"none"), NOT_FOUND)
        self.assertEqual(LIBRARY.neural_metadata(handle, b"none", None, 0), NOT_FOUND)
        self.assertEqual(LIBRARY.neural_dequantize(handle, 3, None, 0), NOT_FOUND)
        self.assertEqual(LIBRARY.neural_dequantize(handle, 2, None, 0), TYPE)


class Threads(unittest.TestCase):
    """ctypes lets go of the interpreter's lock, so these calls run side by side."""

    def test_calls_from_many_threads_do_not_disturb_each_other(self) -> None:
        shared = opened(os.environ["VB_MODEL"])
        expected = values(shared, 1)
        failures: list[object] = []

        def work(number: int) -> None:
            try:
                for call in range(ROUNDS):
                    own = opened(os.environ["VB_MODEL"])
                    out = (ctypes.c_float * 64)()
                    handle = own if call % 2 else shared
                    assert LIBRARY.neural_dequantize(handle, 1, out, 64) == 64
                    assert list(out) == expected
                    assert LIBRARY.neural_tensor_find(own, f"thread {number}".encode()) == NOT_FOUND
                    assert last_error() == f"tensor thread {number}: not there"
                    assert LIBRARY.neural_close(own) == 0
            except BaseException as failure:  # pylint: disable=broad-exception-caught
                failures.append(failure)

        workers = [threading.Thread(target=work, args=(number,)) for number in range(THREADS)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        self.assertEqual(failures, [])
        self.assertEqual(LIBRARY.neural_close(shared), 0)


@unittest.skipUnless("VB_REAL_MODEL" in os.environ, "the host has no real model in its cache")
class RealModel(unittest.TestCase):
    """SmolLM2-135M-Instruct in Q4_1."""

    def test_it_is_read_whole_and_a_tensor_is_right(self) -> None:
        handle = opened(os.environ["VB_REAL_MODEL"])
        self.addCleanup(LIBRARY.neural_close, handle)
        self.assertEqual(LIBRARY.neural_tensor_count(handle), 272)
        self.assertEqual(metadata(handle, "general.architecture"), "llama")
        self.assertEqual(len(metadata(handle, "tokenizer.ggml.tokens")), 49152)
        rows = {info(handle, index).name: info(handle, index).type_name for index in range(272)}
        for wanted in (b"F32", b"Q4_1"):
            name = next(name for name, of in rows.items() if of == wanted)
            index = LIBRARY.neural_tensor_find(handle, name)
            row = info(handle, index)
            self.assertEqual(values(handle, index), by_hand(row, blocks(handle, index)), name)


if __name__ == "__main__":
    unittest.main()
