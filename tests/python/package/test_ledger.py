"""`vector_boot.ledger`: signatures and hashes by published vectors, proofs against a tree computed the slow way, the
client against a ledger that misbehaves. What it does with a real one is tests/system/python.rs's.

Vectors: RFC 8032, 7.1; BLAKE3's test_vectors.json; C2SP signed-note's example key form.
"""

from __future__ import annotations

import base64
import hashlib
import json
import socket
import struct
import tempfile
import threading
import unittest
from pathlib import Path

from vector_boot import ledger
from vector_boot.ledger import blake3, client, ed25519, proofs

SIGNED = [
    (
        "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a",
        "",
        "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe246"
        "55141438e7a100b",
    ),
    (
        "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c",
        "72",
        "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb"
        "00d291612bb0c00",
    ),
    (
        "fc51cd8e6218a1a38da47ed00230f0580816ed13ba3303ac5deb911548908025",
        "af82",
        "6291d657deec24024827e69c3abe01a30ce548a284743a445e3680d7db5ac3ac18ff9b538d16f290ae67f760984dc6594a7c15e9716ed28dc"
        "027beceea1ec40a",
    ),
]
# Input: the bytes 0, 1, ... 250, 0, 1, ...; the first 32 bytes of hash, keyed_hash, derive_key.
HASHED = {
    0: (
        "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262",
        "92b2b75604ed3c761f9d6f62392c8a9227ad0ea3f09573e783f1498a4ed60d26",
        "2cc39783c223154fea8dfb7c1b1660f2ac2dcbd1c1de8277b0b0dd39b7e50d7d",
    ),
    1024: (
        "42214739f095a406f3fc83deb889744ac00df831c10daa55189b5d121c855af7",
        "75c46f6f3d9eb4f55ecaaee480db732e6c2105546f1e675003687c31719c7ba4",
        "7356cd7720d5b66b6d0697eb3177d9f8d73a4a5c5e968896eb6a689684302706",
    ),
    2049: (
        "5f4d72f40d7a5f82b15ca2b2e44b1de3c2ef86c426c95c1af0b6879522563030",
        "9f29700902f7c86e514ddc4df1e3049f258b2472b6dd5267f61bf13983b78dd5",
        "2ea477c5515cc3dd606512ee72bb3e0e758cfae7232826f35fb98ca1bcbdf273",
    ),
}


def sign(seed: bytes, message: bytes) -> tuple[bytes, bytes]:
    """A key and its signature, for tests alone: RFC 8032, 5.1.6, over this package's curve."""
    digest = hashlib.sha512(seed).digest()
    scalar = int.from_bytes(digest[:32], "little") & ((1 << 254) - 8) | 1 << 254

    def encoded(point: ed25519.Point) -> bytes:
        inverse = pow(point[2], ed25519.P - 2, ed25519.P)
        x, y = point[0] * inverse % ed25519.P, point[1] * inverse % ed25519.P
        return (y | (x & 1) << 255).to_bytes(32, "little")

    public = encoded(ed25519._times(scalar, ed25519._BASE))
    nonce = int.from_bytes(hashlib.sha512(digest[32:] + message).digest(), "little") % ed25519.L
    first = encoded(ed25519._times(nonce, ed25519._BASE))
    challenge = int.from_bytes(hashlib.sha512(first + public + message).digest(), "little") % ed25519.L
    return public, first + ((nonce + challenge * scalar) % ed25519.L).to_bytes(32, "little")


class Signatures(unittest.TestCase):
    def test_vectors_hold_and_nothing_near_them_does(self) -> None:
        for key, message, signature in SIGNED:
            key, message, signature = bytes.fromhex(key), bytes.fromhex(message), bytes.fromhex(signature)
            self.assertTrue(ed25519.verify(key, message, signature))
            self.assertFalse(ed25519.verify(key, message + b"x", signature))
            for at in (0, 31, 32, 63):
                changed = bytearray(signature)
                changed[at] ^= 1
                self.assertFalse(ed25519.verify(key, message, bytes(changed)), at)
            self.assertFalse(ed25519.verify(key, message, signature[:-1]))
            # The same signature with S + L, which a careless verifier takes too.
            scalar = int.from_bytes(signature[32:], "little") + ed25519.L
            self.assertFalse(ed25519.verify(key, message, signature[:32] + scalar.to_bytes(32, "little")))

    def test_keys_of_small_order_and_other_encodings_are_refused(self) -> None:
        neutral = (1).to_bytes(32, "little")
        # With the neutral point as key and R, S = 0 fits every message.
        self.assertFalse(ed25519.verify(neutral, b"any", neutral + bytes(32)))
        other = (1 + ed25519.P).to_bytes(32, "little")
        self.assertFalse(ed25519.verify(other, b"any", other + bytes(32)))
        self.assertFalse(ed25519.verify(b"\xff" * 32, b"", bytes(64)))

    def test_what_is_signed_here_holds(self) -> None:
        public, signature = sign(b"\7" * 32, b"said")
        self.assertTrue(ed25519.verify(public, b"said", signature))


class Hashes(unittest.TestCase):
    def test_vectors(self) -> None:
        for length, (plain, keyed, derived) in HASHED.items():
            data = bytes(i % 251 for i in range(length))
            self.assertEqual(blake3.hash_of(data).hex(), plain)
            self.assertEqual(blake3.keyed(b"whats the Elvish word for friend", data).hex(), keyed)
            context = "BLAKE3 2019-12-27 16:29:52 test vectors context"
            self.assertEqual(blake3.derive_key(context, data).hex(), derived)


def root_of(entries: list[bytes]) -> bytes:
    """RFC 6962, 2.1, as it is written there."""
    if not entries:
        return hashlib.sha256(b"").digest()
    if len(entries) == 1:
        return proofs.leaf_hash(entries[0])
    left = 1 << (len(entries) - 1).bit_length() - 1
    return hashlib.sha256(b"\1" + root_of(entries[:left]) + root_of(entries[left:])).digest()


def path_of(index: int, entries: list[bytes]) -> list[bytes]:
    """RFC 6962, 2.1.1."""
    if len(entries) == 1:
        return []
    left = 1 << (len(entries) - 1).bit_length() - 1
    if index < left:
        return [*path_of(index, entries[:left]), root_of(entries[left:])]
    return [*path_of(index - left, entries[left:]), root_of(entries[:left])]


def goes_on(old: int, entries: list[bytes], whole: bool = True) -> list[bytes]:
    """RFC 6962, 2.1.2."""
    if old == len(entries):
        return [] if whole else [root_of(entries)]
    left = 1 << (len(entries) - 1).bit_length() - 1
    if old <= left:
        return [*goes_on(old, entries[:left], whole), root_of(entries[left:])]
    return [*goes_on(old - left, entries[left:], False), root_of(entries[:left])]


class Trees(unittest.TestCase):
    entries = [bytes([n]) * 64 for n in range(20)]

    def at(self, size: int) -> proofs.Checkpoint:
        return proofs.Checkpoint("log", size, root_of(self.entries[:size]))

    def test_every_leaf_of_every_small_tree_is_proven_and_no_other(self) -> None:
        for size in range(1, 18):
            for index in range(size):
                path = path_of(index, self.entries[:size])
                proofs.verify_inclusion(self.at(size), index, self.entries[index], path)
                wrong = [
                    (self.at(size), index, self.entries[index + 1], path),
                    (self.at(size), index + 1, self.entries[index], path),
                    (self.at(size), index, self.entries[index], [*path, bytes(32)]),
                    (self.at(size + 1), index, self.entries[index], path),
                    (self.at(size), -1, self.entries[index], path),
                ]
                if path:
                    wrong.append((self.at(size), index, self.entries[index], path[:-1]))
                for bad in wrong:
                    with self.assertRaises(ledger.ProofError, msg=f"{size} {index}"):
                        proofs.verify_inclusion(*bad)

    def test_every_growth_of_a_small_tree_is_proven_and_no_other(self) -> None:
        for new in range(1, 18):
            for old in range(1, new + 1):
                path = goes_on(old, self.entries[:new])
                proofs.verify_consistency(self.at(old), self.at(new), path)
                forked = proofs.Checkpoint("log", old, bytes(32))
                with self.assertRaises(ledger.ProofError):
                    proofs.verify_consistency(forked, self.at(new), path)
                if old < new:
                    for bad in ([*path, bytes(32)], path[:-1]):
                        with self.assertRaises(ledger.ProofError, msg=f"{old} {new}"):
                            proofs.verify_consistency(self.at(old), self.at(new), bad)
                    with self.assertRaises(ledger.ProofError):
                        proofs.verify_consistency(self.at(new), self.at(old), path)


class Notes(unittest.TestCase):
    def note(self, text: str, name: str = "vb-1/ledger") -> tuple[proofs.Key, str]:
        public, signature = sign(b"\1" * 32, text.encode())
        key = proofs.Key(name, public)
        line = base64.b64encode(key.id + signature).decode()
        return key, f"{text}\n\u2014 {name} {line}\n"

    def test_a_signed_checkpoint_opens_and_a_changed_one_does_not(self) -> None:
        root = base64.b64encode(bytes(range(32))).decode()
        key, note = self.note(f"vb-1/ledger\n7\n{root}\n")
        material = base64.b64encode(b"\1" + key.public).decode()
        again = proofs.Key.parse(f"{key.name}+{key.id.hex()}+{material}\n")
        self.assertEqual(again, key)
        checkpoint = again.open(note)
        self.assertEqual((checkpoint.size, checkpoint.root), (7, bytes(range(32))))
        # Signatures of others stand beside ours.
        other = base64.b64encode(bytes(68)).decode()
        self.assertEqual(again.open(note + f"\u2014 witness {other}\n"), checkpoint)
        for bad in (
            note.replace("\n7\n", "\n8\n"),
            note.replace("\u2014", "-"),
            note.replace("\n\n", "\n"),
            note[:-1],
            note.replace("vb-1/ledger ", "vb-2/ledger "),
            "",
        ):
            with self.assertRaises(ledger.ProofError, msg=bad):
                again.open(bad)
        for bad in ("", "a+b", f"{key.name}+00000000+{material}", f"{key.name}+{key.id.hex()}+AAAA"):
            with self.assertRaises(ledger.ProofError, msg=bad):
                proofs.Key.parse(bad)

    def test_what_is_no_checkpoint_is_refused_though_it_is_signed(self) -> None:
        root = base64.b64encode(bytes(32)).decode()
        for text in (
            f"vb-1/ledger\n07\n{root}\n",
            f"vb-1/ledger\n-7\n{root}\n",
            f"vb-1/ledger\n\u0667\n{root}\n",
            "vb-1/ledger\n7\nAAAA\n",
            "vb-1/ledger\n7\n",
            f"vb-2/ledger\n7\n{root}\n",
        ):
            key, note = self.note(text)
            with self.assertRaises(ledger.ProofError, msg=text):
                key.open(note)


def number(value: int) -> bytes:
    out = b""
    while value >= 0x80:
        out, value = out + bytes([value & 0x7F | 0x80]), value >> 7
    return out + bytes([value])


class Frames(unittest.TestCase):
    def frame(self) -> bytes:
        texts = [number(len(text)) + text for text in (b"ns", b"user:x", b"t", b"noted", b"", b'{"a":1}')]
        body = number(5) + number(1 << 40) + bytes(16) + b"TAGTAGTA" + b"".join(texts)
        body += b"\1" + number(3) + b"\1" + bytes(16) + number(901) + number(300) + b"\0"
        head = struct.pack("<IIBBHIQ", 56 + len(body), 0, 1, 1, 0, 0, 9)
        return head + b"\2" * 32 + body

    def test_a_frame_is_read_and_bound_to_its_leaf(self) -> None:
        frame = self.frame()
        event = ledger.Event.of_frame(frame)
        self.assertEqual(event.fields["payload"], '{"a":1}')
        self.assertEqual((event.id, event.fields["causation_id"]), (9, 3))
        self.assertEqual(event.fields["origin"], (bytes(16), 901, 300))
        body = blake3.derive_key("vb-ledger-body v1", event.body)[:16]
        entry = struct.pack("<Q", 9) + event.chain + b"TAGTAGTA" + body
        self.assertTrue(event.is_bound_by(entry))
        for at in range(64):
            changed = bytearray(entry)
            changed[at] ^= 1
            self.assertFalse(event.is_bound_by(bytes(changed)), at)

    def test_frames_that_were_cut_or_changed_are_refused_or_are_not_bound(self) -> None:
        frame = self.frame()
        event = ledger.Event.of_frame(frame)
        body = blake3.derive_key("vb-ledger-body v1", event.body)[:16]
        entry = struct.pack("<Q", 9) + event.chain + b"TAGTAGTA" + body
        for cut in range(len(frame)):
            with self.assertRaises(ledger.ProofError, msg=str(cut)):
                ledger.Event.of_frame(frame[:cut])
        for at in range(len(frame)):
            changed = bytearray(frame)
            changed[at] ^= 4
            try:
                bound = ledger.Event.of_frame(bytes(changed)).is_bound_by(entry)
            except ledger.ProofError:
                continue
            # The checksum belongs to the frame's place and is not chained.
            self.assertEqual(bound, 4 <= at < 8, at)


class Played(unittest.TestCase):
    """A ledger that says what the test has it say."""

    def serve(self, *answers: bytes) -> client.Ledger:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        path = str(Path(folder.name) / "ledger.sock")
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(path)
        listener.listen()
        self.asked: list[dict] = []

        def play() -> None:
            stream, _ = listener.accept()
            with stream, stream.makefile("rb") as lines:
                for answer in answers:
                    self.asked.append(json.loads(lines.readline()))
                    stream.sendall(answer)

        thread = threading.Thread(target=play)
        thread.start()
        self.addCleanup(listener.close)
        self.addCleanup(thread.join)
        log = ledger.connect(folder.name, timeout=20)
        self.addCleanup(log.close)
        return log

    def test_answers_are_told_apart_by_their_ids(self) -> None:
        log = self.serve(
            b'{"ack":true,"id":1}\n{"id":99,"event":{}}\n{"id":1,"event":{"id":4}}\n'
            b'{"ok":true,"id":1,"count":1,"next":5}\n',
            b'{"id":2,"event":{"id":5}}\n{"ok":true,"id":2,"count":1,"next":null}\n',
        )
        self.assertEqual([event["id"] for event in log.query(ns="n", start=4)], [4, 5])
        self.assertEqual(self.asked[0], {"id": 1, "type": "query", "filters": {"ns": "n"}, "from": 4})
        self.assertEqual(self.asked[1]["from"], 5)

    def test_refusals_are_raised_with_their_code(self) -> None:
        log = self.serve(b'{"ok":false,"id":1,"error":{"code":"BAD_NS","reason":"r","rule":"x"}}\n')
        with self.assertRaises(ledger.Refused) as raised:
            log.append("n", "user:a", "t")
        self.assertEqual((raised.exception.code, raised.exception.rule), ("BAD_NS", "x"))

    def test_a_ledger_that_goes_or_speaks_nonsense_is_an_error(self) -> None:
        for answer in (b"", b'{"ok":true,"id":1', b"[]\n", b"no json\n"):
            log = self.serve(answer)
            with self.assertRaises((ConnectionError, ValueError), msg=repr(answer)):
                log.ask("ping")

    def test_a_line_that_is_too_long_is_not_sent(self) -> None:
        log = self.serve()
        with self.assertRaises(ValueError):
            log.append("n", "user:a", "t", {"text": "x" * (1 << 20)})

    def test_targets(self) -> None:
        with self.assertRaises(OSError):
            ledger.connect("/nonexistent/ledger.sock")
        for bad in ("http:///x", "http://h:80/path"):
            with self.assertRaises(ValueError, msg=bad):
                ledger.connect(bad)
        with self.assertRaises(ValueError):
            ledger.connect("/nonexistent", token="t")


if __name__ == "__main__":
    unittest.main()
