"""A million calls of each kind through ctypes, and what the process holds afterwards; run by the drill `library`."""

from __future__ import annotations

import ctypes
import struct
import sys
import tempfile
from pathlib import Path

import vector_boot
from vector_boot import _library

CALLS = int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000
#: What an allocator may keep for itself, whatever the number of calls.
SLACK_KIB = 2048
#: Fewer calls are for valgrind, which keeps its own books and looks for other things.
JUDGED_FROM = 100_000


def resident_kib() -> int:
    """Anonymous memory of this process."""
    rows = Path("/proc/self/smaps_rollup").read_text(encoding="ascii").splitlines()
    return sum(int(row.split()[1]) for row in rows if row.startswith("Anonymous:"))


def main() -> None:
    """Ends with 1 where something grew."""
    library = _library.lib
    assert library.neural_init() == 1
    program = bytes([72, 101, 108, 101, 108, 108, 108, 111, 111, 250, 255, 0])
    length, handle = ctypes.c_size_t(), ctypes.c_uint64()
    buffer = ctypes.create_string_buffer(64)
    folder = tempfile.TemporaryDirectory()
    path = Path(folder.name) / "m.gguf"
    # No key, one tensor of one value.
    path.write_bytes(
        (b"GGUF" + struct.pack("<IQQ", 3, 1, 0) + struct.pack("<Q", 1) + b"t" + struct.pack("<IQIQ", 1, 1, 0, 0)).ljust(64, b"\0")
        + struct.pack("<f", 1.0)
    )
    name = str(path).encode()

    def pixels() -> None:
        assert library.neural_execute_pixels(program, 4) == 1
        result = library.neural_get_result(ctypes.byref(length))
        assert length.value == 9 and library.neural_free(result) == 0

    def refused() -> None:
        assert library.neural_execute_pixels(b"\xfd\0\0", 1) == -2
        assert library.neural_last_error(buffer, 64) > 0

    def models() -> None:
        assert library.neural_open(name, ctypes.byref(handle)) == 0, _library.last_error()
        assert library.neural_close(handle.value) == 0
        assert library.neural_close(handle.value) == _library.HANDLE

    failed = False
    for work, calls in ((pixels, CALLS), (refused, CALLS), (models, CALLS // 10)):
        for _ in range(1000):
            work()
        before = resident_kib()
        for _ in range(calls):
            work()
        grown = resident_kib() - before
        failed |= CALLS >= JUDGED_FROM and grown > SLACK_KIB
        print(f"{work.__name__}: {calls} times, {grown} KiB more")
    folder.cleanup()
    found = vector_boot.stats()
    print(f"results held {found.results_held}, models open {found.models_open}")
    if failed or found.results_held or found.models_open:
        raise SystemExit("something was kept")


if __name__ == "__main__":
    main()
