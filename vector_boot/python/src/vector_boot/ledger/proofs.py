"""What proves an event without trusting whoever sends it: signed checkpoints, inclusion, consistency, the event's frame.

    key = Key.parse(vkey)                        # kept from `ledger key`, by another way than the log
    checkpoint = key.open(note)                  # a C2SP signed note
    verify_inclusion(checkpoint, index, entry, path)
    event = Event.of_frame(frame)                # the bytes as they lie in the log
    event.is_bound_by(entry)                     # recomputes the chain value: BLAKE3 in plain Python

Formats: C2SP signed-note and tlog-checkpoint, RFC 6962 over SHA-256, docs/ledger-format.md.
Everything here raises `ProofError` with what does not hold. Nothing is fetched, nothing is signed.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import struct
from dataclasses import dataclass

from . import blake3, ed25519

ENTRY_BYTES = 64
"""A leaf of the tree: id, chain value, tenant tag, body hash."""
HEADER_BYTES = 56
"""A frame's header."""
_ED25519 = 1
"""The algorithm's number in keys of signed notes."""


class ProofError(ValueError):
    """A proof, signature or frame that does not hold."""


@dataclass(frozen=True)
class Checkpoint:
    """What a log's key signed: so many entries, under this root."""

    origin: str
    size: int
    root: bytes
    extensions: tuple[str, ...] = ()

    @classmethod
    def parse(cls, text: str) -> Checkpoint:
        """Reads the body of a checkpoint: origin, size, root, extension lines."""
        lines = text.split("\n")
        if len(lines) < 4 or lines[-1] != "":
            raise ProofError("checkpoint: three lines and more are needed, each ended")
        origin, size, root, *rest = lines[:-1]
        if not origin or not size.isascii() or not size.isdigit() or (size[0] == "0" and size != "0"):
            raise ProofError(f"checkpoint: origin {origin[:64]!r}, size {size[:32]!r}")
        if len(decoded := _base64(root, "root")) != 32:
            raise ProofError(f"checkpoint: root of {len(decoded)} bytes, expected 32")
        return cls(origin, int(size), decoded, tuple(rest))


@dataclass(frozen=True)
class Key:
    """A verifier key, as `ledger key` prints it: `NAME+HASH+BASE64`."""

    name: str
    public: bytes

    @classmethod
    def parse(cls, text: str) -> Key:
        """Reads a key; its hash must be its own."""
        parts = text.strip().split("+", 2)
        if len(parts) != 3:
            raise ProofError("key: expected NAME+HASH+BASE64")
        material = _base64(parts[2], "key")
        if len(material) != 33 or material[0] != _ED25519:
            raise ProofError("key: no Ed25519 key")
        key = cls(parts[0], material[1:])
        if key.id.hex() != parts[1]:
            raise ProofError(f"key: hash {parts[1]}, computed {key.id.hex()}")
        return key

    @property
    def id(self) -> bytes:
        """The four bytes by which a note names this key."""
        material = self.name.encode() + b"\n" + bytes([_ED25519]) + self.public
        return hashlib.sha256(material).digest()[:4]

    def open(self, note: str) -> Checkpoint:
        """The checkpoint in a note that this key signed."""
        text, blank, signatures = note.rpartition("\n\n")
        if not blank or not signatures.endswith("\n"):
            raise ProofError("note: expected text, an empty line, signatures")
        text += "\n"
        for line in signatures.splitlines():
            words = line.split(" ")
            if len(words) != 3 or words[0] != "\u2014":
                raise ProofError(f"note: no signature line: {line[:64]!r}")
            signature = _base64(words[2], "signature")
            if words[1] != self.name or signature[:4] != self.id:
                continue
            if not ed25519.verify(self.public, text.encode(), signature[4:]):
                raise ProofError(f"note: the signature of {self.name} does not hold")
            checkpoint = Checkpoint.parse(text)
            if checkpoint.origin != self.name:
                raise ProofError(f"checkpoint: origin {checkpoint.origin!r}, signed as {self.name!r}")
            return checkpoint
        raise ProofError(f"note: not signed by {self.name}")


def leaf_hash(entry: bytes) -> bytes:
    """RFC 6962, 2.1: the hash of a leaf."""
    return hashlib.sha256(b"\0" + entry).digest()


def _parent(left: bytes, right: bytes) -> bytes:
    return hashlib.sha256(b"\1" + left + right).digest()


def verify_inclusion(checkpoint: Checkpoint, index: int, entry: bytes, path: list[bytes]) -> None:
    """Checks that `entry` is the leaf at `index`, from 0, below the checkpoint's root (RFC 9162, 2.1.3.2)."""
    if not 0 <= index < checkpoint.size:
        raise ProofError(f"inclusion: index {index} of {checkpoint.size} entries")
    at, last, node = index, checkpoint.size - 1, leaf_hash(entry)
    for sibling in path:
        if last == 0:
            raise ProofError("inclusion: the path is too long")
        if at & 1 or at == last:
            node = _parent(sibling, node)
            while at and not at & 1:
                at, last = at >> 1, last >> 1
        else:
            node = _parent(node, sibling)
        at, last = at >> 1, last >> 1
    if last or node != checkpoint.root:
        raise ProofError(f"inclusion: the path leads to {node.hex()}, the checkpoint says {checkpoint.root.hex()}")


def verify_consistency(old: Checkpoint, new: Checkpoint, path: list[bytes]) -> None:
    """Checks that the newer log goes on from the older one (RFC 9162, 2.1.4.2)."""
    if old.size > new.size:
        raise ProofError(f"consistency: from {old.size} back to {new.size} entries")
    if old.size in (0, new.size):
        if path or (old.size and old.root != new.root):
            raise ProofError("consistency: the same size under another root")
        return
    if old.size & (old.size - 1) == 0:
        path = [old.root, *path]
    if not path:
        raise ProofError("consistency: the path is empty")
    at, last = old.size - 1, new.size - 1
    while at & 1:
        at, last = at >> 1, last >> 1
    older = newer = path[0]
    for sibling in path[1:]:
        if last == 0:
            raise ProofError("consistency: the path is too long")
        if at & 1 or at == last:
            older, newer = _parent(sibling, older), _parent(sibling, newer)
            while at and not at & 1:
                at, last = at >> 1, last >> 1
        else:
            newer = _parent(newer, sibling)
        at, last = at >> 1, last >> 1
    if last or older != old.root or newer != new.root:
        raise ProofError("consistency: the newer log does not go on from the older one")


def _base64(text: str, what: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as e:
        raise ProofError(f"{what}: no base64") from e


@dataclass(frozen=True)
class Event:
    """An event read from its frame: the bytes that the chain covers."""

    id: int
    previous: bytes
    body: bytes
    chain: bytes
    fields: dict

    @classmethod
    def of_frame(cls, frame: bytes) -> Event:
        """Reads header and body, and recomputes the chain value over them."""
        if len(frame) < HEADER_BYTES:
            raise ProofError(f"frame: {len(frame)} bytes, at least {HEADER_BYTES}")
        length, _, kind, encoding, flags, reserved, event_id = struct.unpack_from("<IIBBHIQ", frame)
        if (kind, encoding, flags, reserved) != (1, 1, 0, 0):
            raise ProofError(f"frame: kind {kind}, encoding {encoding}, flags {flags}: no event that is known here")
        if length != len(frame):
            raise ProofError(f"frame: {len(frame)} bytes, {length} by its header")
        previous, body = frame[24:HEADER_BYTES], frame[HEADER_BYTES:]
        chain = blake3.derive_key("vb-ledger-frame v1", previous + frame[:4] + frame[8:24] + body)
        return cls(event_id, previous, body, chain, _Reader(body).event())

    def is_bound_by(self, entry: bytes) -> bool:
        """Whether a leaf of the tree is this event's: its id, its chain value, its tag, its body."""
        body = blake3.derive_key("vb-ledger-body v1", self.body)[:16]
        return entry == struct.pack("<Q", self.id) + self.chain + self.fields["tenant_tag"] + body


class _Reader:
    """postcard's bytes: numbers of seven bits a byte, lengths before texts."""

    def __init__(self, body: bytes):
        self.body, self.at = body, 0

    def event(self) -> dict:
        fields: dict = {
            "timestamp_ns": self._number(),
            "wall_ns": self._number(),
            "ulid": self._take(16),
            "tenant_tag": self._take(8),
        }
        for name in ("ns", "actor", "tenant_id", "event_type", "subject", "payload"):
            fields[name] = self._text()
        fields["causation_id"] = self._option(self._number)
        fields["origin"] = self._option(lambda: (self._take(16), self._number(), self._number()))
        fields["sig"] = self._option(lambda: self._take(self._number()))
        if self.at != len(self.body):
            raise ProofError(f"body: {len(self.body) - self.at} bytes behind the last field")
        return fields

    def _take(self, count: int) -> bytes:
        taken = self.body[self.at : self.at + count]
        if len(taken) != count:
            raise ProofError(f"body: ends at {len(self.body)}, {count} bytes more expected at {self.at}")
        self.at += count
        return taken

    def _number(self) -> int:
        number = 0
        for shift in range(0, 70, 7):
            byte = self._take(1)[0]
            number |= (byte & 0x7F) << shift
            if byte < 0x80:
                return number
        raise ProofError(f"body: no number at {self.at}")

    def _text(self) -> str:
        try:
            return self._take(self._number()).decode()
        except UnicodeDecodeError as e:
            raise ProofError(f"body: no UTF-8 before {self.at}") from e

    def _option(self, value):
        present = self._take(1)[0]
        if present > 1:
            raise ProofError(f"body: option {present}")
        return value() if present else None
