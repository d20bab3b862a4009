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
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from itertools import islice
from pathlib import Path
from typing import NamedTuple, Protocol

from ._library import NOT_FOUND, STATE, Error, NotFoundError, checked, last_error, lib, text_of
from .machine import Snapshot, registers, watch

_HEADER, _SLOT, _SLOTS, _PAYLOAD_AT, PAYLOAD_BYTES_MAX = 4096, 8448, 64, 256, 8192
_GENERATION_AT, _STATE_AT, _SUBMITTED_AT, _ANSWERED_AT = 32, 40, 64, 128
_RING_MAGIC, _GENERATION_MAGIC, _VERSION = b"VBEVOLV1", b"VBGENER1", 1
_HELLO, _REFUSED, _DONE, _OPEN, _CHANNEL, _GET, _STATUS = 0x0001, 0x0002, 0x0003, 0x0601, 0x0602, 0x0603, 0x0604
_MUTATIONS_GET, _MUTATION, _ROLLBACK = 0x0605, 0x0606, 0x0607
_ANSWER_SECONDS = 5.0
# Verdicts of one answer at most: what the machine sends.
_VERDICTS_MAX = 200

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


class Change(NamedTuple):
    """A mutation to be proposed: what a range of a tensor is to hold, and what it will hold until then."""

    tensor: str
    offset: int
    payload: bytes
    old: bytes
    confidence: float


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

    def propose_many(self, changes: Iterable[Change]) -> list[Verdict]:
        """Proposes one after the other."""
        return [self.propose(*change) for change in changes]

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
        self._read = 0

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
        found, data, fds = self._hear()
        if found != wanted:
            for descriptor in fds:
                os.close(descriptor)
            raise ConnectionError(f"frame {found:#06x} came for {wanted:#06x}")
        return data, fds

    def _hear(self) -> tuple[int, bytes, list[int]]:
        data, fds, _, _ = socket.recv_fds(self._socket, 65536, 4)
        if not data:
            raise ConnectionError("the machine closed the connection")
        _, kind, _ = struct.unpack_from("<HHQ", data)
        if kind == _REFUSED:
            body = _Body(data[12:])
            code, field, value, limit = (body.text() for _ in range(4))
            said = f"{field} {value}: {limit}"
            raise NotFoundError(said, NOT_FOUND) if code == "NOT_FOUND" else Error(f"{code}: {said}", STATE)
        return kind, data[12:], fds

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
        return self.propose_many([Change(tensor, offset, payload, old, confidence)])[0]

    def propose_many(self, changes: Iterable[Change]) -> list[Verdict]:
        """Keeps up to 64 mutations under way, and returns their verdicts in order.

        Each is proposed on the generation that those before it make. So what is under way behind a refused one is
        refused as `generation_stale`; what was not under way yet is proposed on the generation that is there then.
        """
        while self._read < self._submitted:
            # Of a call that was broken off.
            self._answer()
        verdicts: list[Verdict | None] = []
        waiting: deque[int] = deque()
        base = self.generation()

        def take() -> bool:
            at = waiting.popleft()
            verdicts[at] = verdict = self._answer()
            return verdict.accepted

        for change in changes:
            refused = len(waiting) == _SLOTS and not take()
            # An answer that is there already costs no wait.
            while waiting and (refused or self._u64(_ANSWERED_AT) > self._read):
                refused = not take() or refused
            if refused:
                base = self.generation()
            name = change.tensor.encode()
            if name.endswith(b"\0"):
                # A slot is filled up with zeros: the name would be another tensor's.
                verdicts.append(Verdict(3, VERDICTS[3], self.generation()))
                continue
            self._submit(name, change, base)
            waiting.append(len(verdicts))
            verdicts.append(None)
            base += 1
        while waiting:
            take()
        return [verdict for verdict in verdicts if verdict is not None]

    def _submit(self, name: bytes, change: Change, base: int) -> None:
        number, at = self._submitted, _HEADER + self._submitted % _SLOTS * _SLOT
        if self._u64(_STATE_AT):
            raise ConnectionError("the machine closed the ring")
        payload = change.payload
        if len(name) > 64 or not 0 < len(payload) <= PAYLOAD_BYTES_MAX:
            raise ValueError(f"a name of {len(name)} bytes, at most 64; {len(payload)} bytes of payload, 1 to 8192")
        head = struct.pack("<QQQIf64s", number, base, change.offset, len(payload), change.confidence, name)
        self._memory[at : at + _PAYLOAD_AT] = (head + blake3(change.old) + blake3(payload)).ljust(_PAYLOAD_AT, b"\0")
        self._memory[at + _PAYLOAD_AT : at + _PAYLOAD_AT + len(payload)] = payload
        self._submitted += 1
        # One aligned store of eight bytes, behind the slot; the write to the socket orders the two for the other side.
        struct.pack_into("<Q", self._memory, _SUBMITTED_AT, self._submitted)
        os.write(self._fds[1], struct.pack("<Q", 1))

    def _answer(self) -> Verdict:
        """The answer of the oldest mutation under way."""
        at = _HEADER + self._read % _SLOTS * _SLOT
        until = time.monotonic() + _ANSWER_SECONDS
        while self._u64(_ANSWERED_AT) <= self._read:
            left = until - time.monotonic()
            if left <= 0:
                raise TimeoutError(f"no answer in {_ANSWER_SECONDS} s")
            if select.select([self._fds[2]], [], [], left)[0]:
                if not os.read(self._fds[2], 4096) and self._u64(_ANSWERED_AT) <= self._read:
                    raise ConnectionError("the machine closed the ring")
        self._read += 1
        _, generation, verdict = struct.unpack_from("<QQH", self._memory, at + 192)
        return Verdict(verdict, VERDICTS.get(verdict, "unknown"), generation)

    def rollback(self, generation: int) -> int:
        """Goes back to what a generation held; returns the number that this has. The operator's alone."""
        self._ask(_ROLLBACK, _varint(generation), _DONE)
        return self.generation()

    def journal(self, count: int = _VERDICTS_MAX) -> list[dict]:
        """The machine's newest verdicts, the oldest first; at most 200. The operator's alone.

        Refusals of one kind behind each other are one row with their `count`. What PID 1 did is in
        `vector_boot.journal`.
        """
        self._last_id += 1
        get = struct.pack("<HHQ", 1, _MUTATIONS_GET, self._last_id) + _varint(count)
        self._socket.send(get)
        rows: list[dict] = []
        while (frame := self._hear())[0] == _MUTATION:
            rows.append(_verdict_row(_Body(frame[1])))
        if frame[0] != _DONE:
            raise ConnectionError(f"frame {frame[0]:#06x} came among verdicts")
        return rows[::-1]


def _varint(number: int) -> bytes:
    """As postcard writes a number: seven bits a byte, the lowest first."""
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes(out) + bytes([number])


class _Body:
    """Reads a frame's body, which is postcard."""

    def __init__(self, data: bytes) -> None:
        self._data, self._at = data, 0

    def _bytes(self, count: int) -> bytes:
        part = self._data[self._at : self._at + count]
        if len(part) != count:
            raise ConnectionError("a frame that is too short")
        self._at += count
        return part

    def number(self) -> int:
        """Seven bits a byte."""
        value = shift = 0
        while True:
            (byte,) = self._bytes(1)
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value
            shift += 7

    def text(self) -> str:
        """A length, then UTF-8."""
        return self._bytes(self.number()).decode("utf-8", "replace")

    def f32(self) -> float:
        """Four bytes."""
        return float(struct.unpack("<f", self._bytes(4))[0])


def _verdict_row(body: _Body) -> dict:
    """The fields of a verdict in the order of docs/wire.md, as `Local.journal` names them."""
    row: dict = {}
    for name in ("at_ns", "verdict", "generation", "restored", "uid", "count", "id"):
        row[name] = body.number()
    row["verdict"] = VERDICTS.get(row["verdict"], "unknown")
    row["tensor"] = body.text()
    row["offset"], row["length"] = body.number(), body.number()
    row["confidence"] = body.f32()
    return row


def connect(run: str | os.PathLike[str] = "/run/vb") -> Ring:
    """A ring of the machine whose sockets lie in the folder `run`."""
    return Ring(run)


class Moment(NamedTuple):
    """One beat of a trace: registers as the policy sees them (-1 to 1), and what should have been wished."""

    inputs: list[float]
    wanted: list[float]


def inputs(found: Snapshot) -> list[float]:
    """What the policy sees of registers: each scaled to the range from -1 to 1, an unknown one 0."""
    names = registers()
    values = (ctypes.c_float * len(names))(*(found.registers.get(name, math.nan) for name in names))
    out = (ctypes.c_float * len(names))()
    checked(lib.neural_policy_inputs(values, len(names), out, len(names)))
    return list(out)


def under_pressure(found: Snapshot) -> list[float]:
    """What should have been wished of a machine with these registers: as `recorded` has it, from what was measured."""
    value = found.registers

    def share(part: float, whole: float) -> float:
        # What is not known is no pressure.
        return min(1.0, max(0.0, part / whole)) if part == part and whole > 0 else 0.0

    wanted = [0.0] * 8
    wanted[1] = 0.8 * share(value["memory.total"] - value["memory.available"], value["memory.total"])
    wanted[2] = 0.6 * share(value["load.1m"], value["cpu.count"])
    return wanted


def record(path: str | os.PathLike[str], beats: int, run: str | os.PathLike[str] | None = None) -> int:
    """Writes so many beats of the machine whose sockets lie in `run`, or of this host, to a file; returns how many.

    A line is a beat, in JSON: the same as the console's `hw --watch --json` writes.
    """
    with open(path, "w", encoding="ascii") as file:
        for count, found in enumerate(islice(watch(run), beats), 1):
            known = {name: value if math.isfinite(value) else None for name, value in found.registers.items()}
            print(json.dumps({"beat": found.beat, "registers": known}), file=file)
    return count if beats > 0 else 0


def trace(path: str | os.PathLike[str], wanted: Callable[[Snapshot], Sequence[float]] = under_pressure) -> list[Moment]:
    """A recorded trace, from `record` or from `hw --watch --json`: what the policy saw, and what `wanted` says of it."""
    moments = []
    with open(path, encoding="utf-8") as file:
        for number, line in enumerate(file, 1):
            try:
                row = json.loads(line)
                known = {name: math.nan if value is None else float(value) for name, value in row["registers"].items()}
                found = Snapshot(int(row["beat"]), {**dict.fromkeys(registers(), math.nan), **known})
            except (ValueError, TypeError, KeyError, AttributeError) as error:
                raise ValueError(f"{path}, line {number}: not a beat: {error!r}") from error
            moments.append(Moment(inputs(found), list(wanted(found))))
    if not moments:
        raise ValueError(f"{path}: no beats")
    return moments


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
