"""BLAKE3 in plain Python, from its specification: what binds an event to the log's chain.

Some 40 us for each 64 bytes: enough to check single events, no way to hash files.
"""

from __future__ import annotations

import struct

_CHUNK_START, _CHUNK_END, _PARENT, _ROOT = 1, 2, 4, 8
_KEYED, _CONTEXT, _MATERIAL = 16, 32, 64
_IV = (
    0x6A09E667, 0xBB67AE85, 0x3C6EF372, 0xA54FF53A,
    0x510E527F, 0x9B05688C, 0x1F83D9AB, 0x5BE0CD19,
)  # fmt: skip
_PERMUTATION = (2, 6, 3, 10, 7, 0, 4, 13, 1, 11, 12, 5, 9, 14, 15, 8)
_COLUMNS = ((0, 4, 8, 12), (1, 5, 9, 13), (2, 6, 10, 14), (3, 7, 11, 15))
_DIAGONALS = ((0, 5, 10, 15), (1, 6, 11, 12), (2, 7, 8, 13), (3, 4, 9, 14))
_MASK = 0xFFFFFFFF
_CHUNK_BYTES = 1024
_BLOCK_BYTES = 64


def hash_of(data: bytes) -> bytes:
    """The 32 bytes of BLAKE3."""
    return _tree(data, _IV, 0)


def keyed(key: bytes, data: bytes) -> bytes:
    """BLAKE3 with a key of 32 bytes."""
    return _tree(data, struct.unpack("<8I", key), _KEYED)


def derive_key(context: str, material: bytes) -> bytes:
    """BLAKE3's key derivation: 32 bytes of `material` for the use that `context` names."""
    key = struct.unpack("<8I", _tree(context.encode(), _IV, _CONTEXT))
    return _tree(material, key, _MATERIAL)


def _tree(data: bytes, key: tuple[int, ...], mode: int) -> bytes:
    node = _node(data, 0, key, mode)
    chaining, block, counter, length, flags = node
    # The root's counter counts blocks of output, of which this is the first.
    del counter
    return struct.pack("<8I", *_compress(chaining, block, 0, length, flags | _ROOT)[:8])


def _node(data: bytes, chunk: int, key: tuple[int, ...], mode: int):
    """The last compression of a subtree, not yet done: the root's is done otherwise."""
    if len(data) <= _CHUNK_BYTES:
        return _chunk(data, chunk, key, mode)
    # The left side holds the most whole chunks that are a power of two and leave something on the right.
    whole = (len(data) - 1) // _CHUNK_BYTES
    left = 1 << (whole.bit_length() - 1)
    at = left * _CHUNK_BYTES
    block = _value(_node(data[:at], chunk, key, mode)) + _value(_node(data[at:], chunk + left, key, mode))
    return key, block, 0, _BLOCK_BYTES, mode | _PARENT


def _value(node) -> tuple[int, ...]:
    return tuple(_compress(*node)[:8])


def _chunk(data: bytes, chunk: int, key: tuple[int, ...], mode: int):
    blocks = [data[at : at + _BLOCK_BYTES] for at in range(0, len(data), _BLOCK_BYTES)] or [b""]
    chaining, start = key, _CHUNK_START
    for block in blocks[:-1]:
        words = struct.unpack("<16I", block)
        chaining = tuple(_compress(chaining, words, chunk, _BLOCK_BYTES, mode | start)[:8])
        start = 0
    last = blocks[-1]
    words = struct.unpack("<16I", last.ljust(_BLOCK_BYTES, b"\0"))
    return chaining, words, chunk, len(last), mode | start | _CHUNK_END


def _compress(chaining, words, counter: int, length: int, flags: int) -> list[int]:
    v = [*chaining, *_IV[:4], counter & _MASK, counter >> 32, length, flags]
    words = list(words)
    for round_number in range(7):
        for at, (a, b, c, d) in enumerate(_COLUMNS + _DIAGONALS):
            _mix(v, a, b, c, d, words[2 * at], words[2 * at + 1])
        if round_number < 6:
            words = [words[i] for i in _PERMUTATION]
    return [v[i] ^ v[i + 8] for i in range(8)] + [v[i + 8] ^ chaining[i] for i in range(8)]


def _mix(v: list[int], a: int, b: int, c: int, d: int, x: int, y: int) -> None:
    v[a] = (v[a] + v[b] + x) & _MASK
    v[d] = _rotate(v[d] ^ v[a], 16)
    v[c] = (v[c] + v[d]) & _MASK
    v[b] = _rotate(v[b] ^ v[c], 12)
    v[a] = (v[a] + v[b] + y) & _MASK
    v[d] = _rotate(v[d] ^ v[a], 8)
    v[c] = (v[c] + v[d]) & _MASK
    v[b] = _rotate(v[b] ^ v[c], 7)


def _rotate(word: int, by: int) -> int:
    return (word >> by | word << (32 - by)) & _MASK
