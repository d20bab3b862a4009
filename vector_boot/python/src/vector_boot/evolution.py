"""Evolution: proposes mutations of a running machine's tensors, or of this process's own runtime, and a small loop.

    with evolution.connect("/run/vb") as target:      # or evolution.Local()
        best = evolution.improve(target, evolution.recorded(200), seed=1)

Layouts are docs/evolution.md's; every mutation is judged by the machine, whatever this file believes.
"""

from __future__ import annotations

import array
import ctypes
import json
import math
import mmap
import os
import random
import select
import socket
import struct
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

from ._library import STATE, Error, checked, last_error, lib, text_of
from .machine import registers

_HEADER, _SLOT, _SLOTS, _PAYLOAD_AT, PAYLOAD_BYTES_MAX = 4096, 8448, 64, 256, 8192
_GENERATION_AT, _STATE_AT, _SUBMITTED_AT, _ANSWERED_AT = 32, 40, 64, 128
_RING_MAGIC, _GENERATION_MAGIC, _VERSION = b"VBEVOLV1", b"VBGENER1", 1
_HELLO, _OPEN, _CHANNEL, _GET, _STATUS = 0x0001, 0x0601, 0x0602, 0x0603, 0x0604
_ANSWER_SECONDS = 5.0

#: The verdicts by number.
VERDICTS = {
    0: "accepted", 1: "confidence_not_finite", 2: "confidence_too_low", 3: "name_malformed", 4: "tensor_unknown",
    5: "tensor_protected", 6: "type_unsupported", 7: "length_invalid", 8: "range_outside", 9: "range_off_block",
    10: "generation_stale", 11: "old_hash_differs", 12: "payload_hash_differs", 13: "not_finite", 14: "rate_exceeded",
    15: "quota_exceeded", 16: "overlay_full", 17: "canary_not_finite", 18: "canary_outside", 19: "journal_failed",
    20: "rolled_back", 21: "misbehaved",
}  # fmt: skip

#: The policy's tensors with their shapes, in the order of a generation's values.
POLICY = {"policy.w1": (32, 64), "policy.b1": (32,), "policy.w2": (8, 32), "policy.b2": (8,), "metabolic.gains": (8,)}


class Verdict(NamedTuple):
    """What became of a mutation: 0 and "accepted", or why not; and the newest generation."""

    number: int
    name: str
    generation: int

    @property
    def accepted(self) -> bool:
        """Whether it is in force."""
        return self.number == 0


class Target(Protocol):
    """What mutations are proposed to."""

    def generation(self) -> int:
        """The newest one."""

    def policy(self) -> Policy:
        """The policy of the newest generation."""

    def propose(self, tensor: str, offset: int, payload: bytes, old: bytes, confidence: float) -> Verdict:
        """Proposes `payload` in the place of `old`, and waits for the verdict."""


def blake3(data: bytes) -> bytes:
    """BLAKE3 of these bytes."""
    out = ctypes.create_string_buffer(32)
    checked(lib.neural_blake3(data, len(data), out))
    return out.raw


class Policy:
    """The values of the policy's tensors, and what they make of registers: as `neural::policy` does it."""

    def __init__(self, values: Sequence[float]) -> None:
        self.parts: dict[str, array.array[float]] = {}
        at = 0
        for name, shape in POLICY.items():
            count = math.prod(shape)
            self.parts[name] = array.array("f", values[at : at + count])
            at += count
        if at != len(values):
            raise ValueError(f"{len(values)} values; a policy has {at}")

    @classmethod
    def of_generation(cls, data: bytes) -> Policy:
        """Of a generation's bytes, whose hash is checked."""
        magic, version, header = struct.unpack_from("<8sII", data)
        (count,) = struct.unpack_from("<I", data, 96)
        if (magic, version, header) != (_GENERATION_MAGIC, _VERSION, 128) or blake3(data[128:]) != data[64:96]:
            raise ValueError("not a generation, or not whole")
        return cls(struct.unpack_from(f"<{count}f", data, 128))

    def hidden(self, inputs: Sequence[float]) -> list[float]:
        """The hidden layer, which depends on `policy.w1` and `policy.b1` alone."""
        return _layer(self.parts["policy.w1"], self.parts["policy.b1"], inputs)

    def wishes(self, hidden: Sequence[float]) -> list[float]:
        """Eight wishes from -1 to 1."""
        outs = _layer(self.parts["policy.w2"], self.parts["policy.b2"], hidden)
        return [max(-1.0, min(1.0, out * gain)) for out, gain in zip(outs, self.parts["metabolic.gains"])]


def _layer(weights: Sequence[float], biases: Sequence[float], inputs: Sequence[float]) -> list[float]:
    width = len(inputs)
    rows = (weights[at * width : (at + 1) * width] for at in range(len(biases)))
    return [math.tanh(sum(map(float.__mul__, row, inputs)) + bias) for row, bias in zip(rows, biases)]


class Local:
    """This process's own runtime, in memory: the rules of a machine without one."""

    def __init__(self) -> None:
        if lib.neural_init() != 1:
            raise Error(last_error(), STATE)

    def __enter__(self) -> Local:
        return self

    def __exit__(self, *_: object) -> None:
        """What was accepted stays until neural_cleanup."""

    def _read(self) -> bytes:
        needed = checked(lib.neural_generation_read(None, 0))
        while True:
            buffer = ctypes.create_string_buffer(needed)
            found = checked(lib.neural_generation_read(buffer, needed))
            if found <= needed:
                return buffer.raw[:found]
            needed = found

    def generation(self) -> int:
        """The newest one."""
        return int(struct.unpack_from("<Q", self._read(), 16)[0])

    def policy(self) -> Policy:
        """The policy of the newest generation."""
        return Policy.of_generation(self._read())

    def propose(self, tensor: str, offset: int, payload: bytes, old: bytes, confidence: float) -> Verdict:
        """Proposes and is answered at once."""
        newest = ctypes.c_uint64()
        base = self.generation()
        if "\0" in tensor:
            # C would see the name end there, which is another tensor.
            return Verdict(3, VERDICTS[3], base)
        words = (tensor.encode(), offset, payload, len(payload), blake3(old), base, confidence, ctypes.byref(newest))
        number = checked(lib.neural_propose_mutation(*words))
        return Verdict(number, VERDICTS.get(number, "unknown"), newest.value)

    def rollback(self, generation: int) -> int:
        """Goes back to what a generation held; returns the number that this has."""
        now = ctypes.c_uint64()
        checked(lib.neural_rollback(generation, ctypes.byref(now)))
        return now.value

    def journal(self) -> list[dict]:
        """The newest verdicts, the oldest first."""
        return json.loads(text_of(lib.neural_journal_read))


class Ring:
    """A ring of a running machine: shared memory, one proposer, answers in the order of the proposals."""

    def __init__(self, run: str | os.PathLike[str]) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._fds: list[int] = []
        try:
            self._socket.settimeout(_ANSWER_SECONDS)
            self._socket.connect(str(Path(run) / "evolution.sock"))
            self._last_id = 0
            self._ask(_HELLO, b"\1\1", _HELLO)
            _, self._fds = self._ask(_OPEN, b"", _CHANNEL)
            if len(self._fds) != 3:
                raise ValueError(f"{len(self._fds)} descriptors of a ring; 3 are needed")
            self._memory = mmap.mmap(self._fds[0], _HEADER + _SLOTS * _SLOT)
            found = struct.unpack_from("<8s5I", self._memory)
            if found != (_RING_MAGIC, _VERSION, _HEADER, _SLOT, _SLOTS, PAYLOAD_BYTES_MAX):
                raise ValueError(f"a ring of another layout: {found}")
        except BaseException:
            self.close()
            raise
        self._submitted = 0

    def __enter__(self) -> Ring:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends the ring with its connection."""
        self._socket.close()
        while self._fds:
            os.close(self._fds.pop())

    def _ask(self, kind: int, body: bytes, wanted: int) -> tuple[bytes, list[int]]:
        self._last_id += 1
        self._socket.send(struct.pack("<HHQ", 1, kind, self._last_id) + body)
        data, fds, _, _ = socket.recv_fds(self._socket, 65536, 4)
        _, found, _ = struct.unpack_from("<HHQ", data)
        if found != wanted:
            for descriptor in fds:
                os.close(descriptor)
            raise ConnectionError(f"frame {found:#06x} came for {wanted:#06x}: {data[12:]!r}")
        return data[12:], fds

    def _u64(self, at: int) -> int:
        return int(struct.unpack_from("<Q", self._memory, at)[0])

    def generation(self) -> int:
        """The newest one."""
        return self._u64(_GENERATION_AT)

    def policy(self) -> Policy:
        """The policy of the newest generation, which comes as sealed memory."""
        _, fds = self._ask(_GET, b"", _STATUS)
        try:
            return Policy.of_generation(os.pread(fds[0], os.fstat(fds[0]).st_size, 0))
        finally:
            for descriptor in fds:
                os.close(descriptor)

    def propose(self, tensor: str, offset: int, payload: bytes, old: bytes, confidence: float) -> Verdict:
        """Writes a slot, rings, and waits for its answer."""
        number, at = self._submitted, _HEADER + self._submitted % _SLOTS * _SLOT
        if self._u64(_STATE_AT):
            raise ConnectionError("the machine closed the ring")
        name = tensor.encode()
        if name.endswith(b"\0"):
            # A slot is filled up with zeros: the name would be another tensor's.
            return Verdict(3, VERDICTS[3], self.generation())
        if len(name) > 64 or not 0 < len(payload) <= PAYLOAD_BYTES_MAX:
            raise ValueError(f"a name of {len(name)} bytes, at most 64; {len(payload)} bytes of payload, 1 to 8192")
        head = struct.pack("<QQQIf64s", number, self.generation(), offset, len(payload), confidence, name)
        self._memory[at : at + _PAYLOAD_AT] = (head + blake3(old) + blake3(payload)).ljust(_PAYLOAD_AT, b"\0")
        self._memory[at + _PAYLOAD_AT : at + _PAYLOAD_AT + len(payload)] = payload
        self._submitted += 1
        # One aligned store of eight bytes, behind the slot; the write to the socket orders the two for the other side.
        struct.pack_into("<Q", self._memory, _SUBMITTED_AT, self._submitted)
        os.write(self._fds[1], struct.pack("<Q", 1))
        until = time.monotonic() + _ANSWER_SECONDS
        while self._u64(_ANSWERED_AT) < self._submitted:
            left = until - time.monotonic()
            if left <= 0:
                raise TimeoutError(f"no answer in {_ANSWER_SECONDS} s")
            if select.select([self._fds[2]], [], [], left)[0]:
                if not os.read(self._fds[2], 4096) and self._u64(_ANSWERED_AT) < self._submitted:
                    raise ConnectionError("the machine closed the ring")
        _, generation, verdict = struct.unpack_from("<QQH", self._memory, at + 192)
        return Verdict(verdict, VERDICTS.get(verdict, "unknown"), generation)


def connect(run: str | os.PathLike[str] = "/run/vb") -> Ring:
    """A ring of the machine whose sockets lie in the folder `run`."""
    return Ring(run)


class Moment(NamedTuple):
    """One beat of a trace: registers as the policy sees them (-1 to 1), and what should have been wished."""

    inputs: list[float]
    wanted: list[float]


def recorded(beats: int, seed: int = 0) -> list[Moment]:
    """A trace of a machine whose memory and processor come under pressure in waves, the same for the same seed.

    What should have been wished: with less memory more of it given back (control 1), with more load more of it shed
    (control 2), and everything else as usual.
    """
    chance = random.Random(seed)
    names = registers()
    memory, load = names.index("memory.available"), names.index("load.1m")
    trace = []
    for beat in range(beats):
        pressure = (1 + math.sin(beat / 17)) / 2
        busy = (1 + math.sin(beat / 7 + 1)) / 2
        inputs = [chance.uniform(-0.05, 0.05) for _ in names]
        inputs[memory], inputs[load] = pressure, busy
        wanted = [0.0] * 8
        wanted[1], wanted[2] = 0.8 * pressure, 0.6 * busy
        trace.append(Moment(inputs, wanted))
    return trace


def loss(policy: Policy, trace: Sequence[Moment], hidden: Sequence[Sequence[float]] | None = None) -> float:
    """Mean square of what the policy's wishes are off."""
    layers = hidden or [policy.hidden(moment.inputs) for moment in trace]
    total = 0.0
    for layer, moment in zip(layers, trace):
        total += sum((wish - want) ** 2 for wish, want in zip(policy.wishes(layer), moment.wanted))
    return total / len(trace) / 8


class Improved(NamedTuple):
    """What a run of `improve` did."""

    before: float
    after: float
    accepted: int
    refused: int
    generation: int


# How far along a direction is tried: far for a policy that knows nothing, near for one that is good already.
_SCALES = tuple(sign * 4.0**power for power in range(-3, 2) for sign in (1, -1))


def improve(
    target: Target,
    trace: Sequence[Moment],
    *,
    steps: int = 60,
    seed: int = 0,
    progress: Callable[[int, int, float], None] | None = None,
) -> Improved:
    """Improves the output layer of a target's policy on a trace; each change that helps is proposed as a mutation.

    A row of `policy.w2` and its bias are nudged by chance and, where that helps, further the same way. The runtime's
    verdict decides: what it refuses is taken back here.
    """
    chance = random.Random(seed)
    policy = target.policy()
    hidden = [policy.hidden(moment.inputs) for moment in trace]
    first = best = loss(policy, trace, hidden)
    accepted = refused = 0
    for step in range(steps):
        row = step % 8
        name, weights = "policy.w2", policy.parts["policy.w2"]
        old = weights[row * 32 : row * 32 + 32]
        direction = [chance.gauss(0, 0.2) for _ in old]
        found = None
        for scale in _SCALES:
            weights[row * 32 : row * 32 + 32] = array.array("f", (w + scale * d for w, d in zip(old, direction)))
            now = loss(policy, trace, hidden)
            if now < best * 0.999 and (found is None or now < found[0]):
                found = now, weights[row * 32 : row * 32 + 32]
        weights[row * 32 : row * 32 + 32] = old
        if found is not None:
            now, new = found
            # As sure as the part of the loss that it takes away, always above what is enough.
            confidence = min(1.0, 0.85 + (best - now) / best)
            verdict = target.propose(name, row * 128, new.tobytes(), old.tobytes(), confidence)
            if verdict.accepted:
                weights[row * 32 : row * 32 + 32] = new
                best = now
                accepted += 1
            else:
                refused += 1
        if progress:
            progress(step + 1, steps, best)
    return Improved(first, best, accepted, refused, target.generation())


def bar(done: int, of: int, now: float) -> None:
    """A progress bar on stderr, where that is a terminal."""
    if sys.stderr.isatty():
        filled = 30 * done // of
        print(f"\r[{'#' * filled}{'.' * (30 - filled)}] {done}/{of}  loss {now:.6f}", end="\n" if done == of else "", file=sys.stderr, flush=True)
