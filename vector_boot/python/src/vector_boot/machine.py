"""The registers (hw.mmio) of a running Vector Boot machine, or of this host as the library samples it; a machine's journal."""

from __future__ import annotations

import ctypes
import functools
import json
import os
import time
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from ._library import NotFoundError, failed, lib, text_of

_RESERVED = "reserved"
# Between two looks for another beat: the shortest period that PID 1 beats with.
_LOOK_SECONDS = 0.025
# Between two samples of this host, which has no beat of its own: PID 1's usual period.
_SAMPLE_SECONDS = 0.1


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


def watch(run: str | os.PathLike[str] | None = None) -> Iterator[Snapshot]:
    """Each beat of the machine whose sockets lie in the folder `run`, as it comes; without one, of this host, ten a second.

    Beats that come while nobody looks are passed over.
    """
    last = None
    while True:
        now = snapshot(run)
        if now.beat != last:
            last = now.beat
            yield now
        time.sleep(_SAMPLE_SECONDS if run is None else _LOOK_SECONDS)


def journal(run: str | os.PathLike[str] = "/run/vb", after: int = 0, *, cortex: bool = False) -> list[dict]:
    """At most 64 rows of a machine's cortex_journal, the oldest first: the newest, or those behind number `after`.

    PID 1 keeps its own newest 64; the role `cortex` has a chain on the data disk, with PID 1's rows and what became of
    mutations. The chain is checked; docs/neural.md says what a row is.
    """
    return json.loads(text_of(lib.neural_cortex_journal, os.fsencode(run), int(cortex), after))
