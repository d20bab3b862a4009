"""Pixel programs (docs/pixels.md): three bytes a step, run by the library."""

from __future__ import annotations

import ctypes
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from ._library import STATE, Error, NeuralStats, checked, last_error, lib
from .model import Model

_REASONS = {0: "argument", -1: "no_out", -2: "opcode", -3: "limit", -4: "tensor", -5: "shape"}
# Larger results are asked for a second time.
_ROOM = 256


class PixelError(Error):
    """A program without a result: `reason` is argument, no_out, opcode, limit, tensor or shape."""

    def __init__(self, code: int) -> None:
        super().__init__(last_error(), code)
        self.reason = _REASONS.get(code, "internal")


class Stats(NamedTuple):
    """What the runtime of this process did since it began."""

    programs: int
    refused: int
    pixels: int
    bytes: int
    multiply_adds: int
    results_held: int
    models_open: int
    generation: int


def execute_pixels(pixels: Iterable[Sequence[int]] | bytes, *, model: Model | None = None) -> bytes:
    """Runs a program and returns its result. The runtime is started where it is not yet.

    `pixels` are triples of 0 to 255, or bytes, three a pixel. `model` is chosen with `use_model` first.
    """
    program = pixels if isinstance(pixels, bytes) else b"".join(map(bytes, pixels))
    if len(program) % 3:
        raise ValueError(f"{len(program)} bytes are no whole pixels of three")
    if model is not None:
        use_model(model)
    code = lib.neural_execute_pixels(program, len(program) // 3)
    if code == 0 and lib.neural_init() == 1:
        code = lib.neural_execute_pixels(program, len(program) // 3)
    if code != 1:
        raise PixelError(code)
    buffer = ctypes.create_string_buffer(_ROOM)
    needed = checked(lib.neural_read_result(buffer, _ROOM))
    if needed > _ROOM:
        buffer = ctypes.create_string_buffer(needed)
        checked(lib.neural_read_result(buffer, needed))
    return buffer.raw[:needed]


def use_model(model: Model | None) -> None:
    """Chooses the model whose tensors programs see; None is the default system model. It stays mapped for them."""
    if lib.neural_init() != 1:
        raise Error(last_error(), STATE)
    checked(lib.neural_use_model(0 if model is None else model.handle))


def stats() -> Stats:
    """The figures of the runtime."""
    found = NeuralStats()
    checked(lib.neural_get_stats(ctypes.byref(found), ctypes.sizeof(found)))
    return Stats(*(getattr(found, name) for name in Stats._fields))


class Runtime:
    """The runtime of this process for the length of a `with`: neural_init, and neural_cleanup at its end.

    `pixels`, `bytes` and `multiply_adds` bound each program; 0 is the most there is (docs/pixels.md).
    """

    def __init__(self, *, pixels: int = 0, bytes: int = 0, multiply_adds: int = 0) -> None:
        self._budget = (pixels, bytes, multiply_adds)

    def __enter__(self) -> Runtime:
        if lib.neural_init_within(*self._budget) != 1:
            raise Error(last_error(), STATE)
        return self

    def __exit__(self, *_: object) -> None:
        code = lib.neural_cleanup()
        # Somebody else may have ended it already.
        if code not in (0, STATE):
            checked(code)
