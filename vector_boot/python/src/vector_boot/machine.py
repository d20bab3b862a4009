"""The registers (hw.mmio): of a running Vector Boot machine, or of this host as the library samples it."""

from __future__ import annotations

import ctypes
import functools
import os
from collections.abc import Mapping
from typing import NamedTuple

from ._library import NotFoundError, failed, lib, text_of

_RESERVED = "reserved"


class Snapshot(NamedTuple):
    """The registers at one beat, by name; NaN where nothing feeds one. docs/sensors.md says what each is."""

    beat: int
    registers: Mapping[str, float]


@functools.lru_cache(maxsize=1)
def registers() -> tuple[str, ...]:
    """The names by index; those that mean nothing yet are "reserved"."""
    names: list[str] = []
    try:
        while True:
            names.append(text_of(lib.neural_mmio_name, len(names)))
    except NotFoundError:
        return tuple(names)


def snapshot(run: str | os.PathLike[str] | None = None) -> Snapshot:
    """The registers of the machine whose sockets lie in the folder `run`; without one, of this host, sampled now.

    A machine's folder is /run/vb on an appliance, and `run` in the state folder of an ordinary process.
    """
    names = registers()
    out, beat = (ctypes.c_float * len(names))(), ctypes.c_uint64()
    folder = None if run is None else os.fsencode(run)
    found = lib.neural_mmio_snapshot(folder, out, len(names), ctypes.byref(beat))
    if found < 0 and run is None and lib.neural_init() == 1:
        found = lib.neural_mmio_snapshot(folder, out, len(names), ctypes.byref(beat))
    if found < 0:
        failed(found)
    named = {name: value for name, value in zip(names, out) if name != _RESERVED}
    return Snapshot(beat.value, named)
