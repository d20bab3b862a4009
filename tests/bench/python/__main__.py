"""What the Python package costs: its import, a call through ctypes, a model opened, beside gguf-py where that is.

    pip install ./vector_boot/python
    python tests/bench/python MODEL.gguf

Each figure is a median, with the fastest and the slowest beside it.
"""

from __future__ import annotations

import ctypes
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

import vector_boot
from vector_boot import _library

HELLO = bytes([72, 101, 108, 101, 108, 108, 108, 111, 111, 250, 255, 0])
CALLS = 100_000


def show(name: str, unit: str, values: list[float]) -> None:
    """One row."""
    print(f"{name:<44} {statistics.median(values):>10.3f} {unit}  ({min(values):.3f} to {max(values):.3f}, n={len(values)})")


def per_call(call: Callable[[], object]) -> list[float]:
    """Microseconds a call, of eleven rounds."""
    rounds = []
    for _ in range(11):
        begun = time.perf_counter()
        for _ in range(CALLS // 10):
            call()
        rounds.append((time.perf_counter() - begun) / (CALLS // 10) * 1e6)
    return rounds


def imported(module: str) -> list[float]:
    """Milliseconds that the import of a module adds to an empty interpreter."""
    script = f"import time; t = time.perf_counter(); import {module}; print((time.perf_counter() - t) * 1e3)"
    return [float(subprocess.run([sys.executable, "-c", script], capture_output=True, check=True).stdout) for _ in range(15)]


def opened(work: Callable[[], object]) -> list[float]:
    """Milliseconds a run."""
    found = []
    for _ in range(9):
        begun = time.perf_counter()
        work()
        found.append((time.perf_counter() - begun) * 1e3)
    return found


def ours(path: str) -> None:
    """Opens, lists every tensor and its view."""
    with vector_boot.open(path) as model:
        for tensor in model.tensors().values():
            tensor.blocks()


def main() -> None:
    """Prints the rows."""
    library = _library.lib
    if library.neural_init() != 1:
        raise SystemExit(_library.last_error())
    program = ctypes.create_string_buffer(HELLO, len(HELLO))
    at = ctypes.c_void_p(ctypes.addressof(program))
    show("import vector_boot", "ms", imported("vector_boot"))
    # A call that does next to nothing, with as many arguments: what ctypes itself takes.
    execute = library.neural_execute_pixels
    nothing = library.neural_last_error
    floor = per_call(lambda: nothing(None, 0))
    whole = per_call(lambda: execute(at, 4))
    show("ctypes, a call that does nothing", "us", floor)
    show("neural_execute_pixels, the seed's example", "us", whole)
    show("vector_boot.execute_pixels, the same", "us", per_call(lambda: vector_boot.execute_pixels(HELLO)))
    if len(sys.argv) > 1:
        path = sys.argv[1]
        show("open, list 272 tensors, view each", "ms", opened(lambda: ours(path)))
        try:
            import gguf  # pylint: disable=import-outside-toplevel
        except ImportError:
            print("gguf-py is not installed: pip install gguf")
            return
        show("gguf-py, GGUFReader of the same file", "ms", opened(lambda: gguf.GGUFReader(path)))


if __name__ == "__main__":
    main()
