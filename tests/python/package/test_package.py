"""The installed package `vector_boot`: the first design's test, models without a copy, misuse, threads, commands.

Run by the step "package" of tests/run in an environment of its own. VB_REAL_MODEL names a real model, if the host has one.
"""

from __future__ import annotations

import ctypes
import gc
import json
import math
import os
import struct
import subprocess
import sys
import tempfile
import threading
import unittest
from pathlib import Path

import vector_boot
from vector_boot import _library, evolution

HELLO = [(72, 101, 108), (101, 108, 108), (108, 111, 111), (250, 255, 0)]
THREADS = 8
CALLS = 10_000


def gguf(tensors: dict[str, tuple[int, list[int], bytes]], keys: dict[str, object]) -> bytes:
    """A GGUF file: name to (type, shape in GGUF's order, data); keys are text or whole numbers."""

    def text(value: str) -> bytes:
        return struct.pack("<Q", len(value.encode())) + value.encode()

    head = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(keys))
    for key, value in keys.items():
        kind = struct.pack("<I", 8) + text(value) if isinstance(value, str) else struct.pack("<II", 4, value)
        head += text(key) + kind
    data = b""
    for name, (kind, shape, content) in tensors.items():
        head += text(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, kind, len(data))
        data += content + b"\0" * (-len(content) % 32)
    return head + b"\0" * (-len(head) % 32) + data


PLAIN = [1.0, 2.0, 3.0, -1.0, 0.5, 4.0]
# Q8_0: a scale of one half, then 32 signed bytes; two blocks a row, three rows.
BLOCK = struct.pack("<e32b", 0.5, *range(-16, 16))


class Files(unittest.TestCase):
    """A folder with a small model."""

    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)
        self.path = self.folder / "m.gguf"
        tensors = {
            "plain": (0, [3, 2], struct.pack("<6f", *PLAIN)),
            "blocks": (8, [64, 3], BLOCK * 6),
            "closed": (22, [256], b"\1" * 82),
        }
        keys = {"general.architecture": "fixture", "fixture.width": 4, "fixture.long": "x" * 9000}
        self.path.write_bytes(gguf(tensors, keys))


class Pixels(unittest.TestCase):
    """The first design's test, by its own functions and by the package's."""

    def test_the_seed(self) -> None:
        library = _library.lib
        library.neural_cleanup()
        self.assertEqual(library.neural_init(), 1)
        program = (ctypes.c_uint8 * 12)(*(byte for pixel in HELLO for byte in pixel))
        self.assertEqual(library.neural_execute_pixels(program, 4), 1)
        length = ctypes.c_size_t()
        result = library.neural_get_result(ctypes.byref(length))
        self.assertEqual(ctypes.string_at(result, length.value), b"Helellloo")
        self.assertEqual((library.neural_free(result), library.neural_free(result)), (0, _library.HANDLE))
        self.assertEqual((library.neural_cleanup(), library.neural_cleanup()), (0, _library.STATE))
        self.assertEqual(library.neural_execute_pixels(program, 4), 0)

    def test_programs_and_refusals(self) -> None:
        with vector_boot.Runtime(pixels=3), self.assertRaises(vector_boot.PixelError) as caught:
            vector_boot.execute_pixels(HELLO)
        self.assertEqual(caught.exception.reason, "limit")
        with self.assertRaises(vector_boot.Error), vector_boot.Runtime(bytes=1 << 60):
            self.fail("a budget above the most there is")
        with vector_boot.Runtime():
            self.assertEqual(vector_boot.execute_pixels(HELLO), b"Helellloo")
            self.assertEqual(vector_boot.execute_pixels(b"abc\xfa\xff\0"), b"abc")
            self.assertEqual(vector_boot.execute_pixels([(1, 2, 3)] * 300 + [(250, 255, 0)]), b"\1\2\3" * 300)
            for program, reason in [([(1, 2, 3)], "no_out"), ([(253, 0, 0)], "opcode"), ([(251, 2, 0)], "tensor"),
                                    ([(250, 254, 1)], "shape"), ([(1, 1, 1)] * 400_000, "limit")]:
                with self.assertRaises(vector_boot.PixelError) as caught:
                    vector_boot.execute_pixels(program)
                self.assertEqual(caught.exception.reason, reason)
            with self.assertRaises(ValueError):
                vector_boot.execute_pixels(b"ab")
            self.assertEqual(vector_boot.stats().programs, 3)

    def test_eight_threads_make_ten_thousand_calls_each(self) -> None:
        failures: list[object] = []
        program = bytes(byte for pixel in HELLO for byte in pixel)

        def work(number: int) -> None:
            own = bytes([number]) * 3 + program
            library, buffer = _library.lib, ctypes.create_string_buffer(16)
            try:
                for call in range(CALLS):
                    given = own if call % 2 else program
                    assert library.neural_execute_pixels(given, len(given) // 3) == 1
                    needed = library.neural_read_result(buffer, 16)
                    assert buffer.raw[:needed] == (own[:3] if call % 2 else b"") + b"Helellloo"
            except BaseException as failure:  # pylint: disable=broad-exception-caught
                failures.append(failure)

        with vector_boot.Runtime():
            workers = [threading.Thread(target=work, args=(number,)) for number in range(THREADS)]
            for worker in workers:
                worker.start()
            for worker in workers:
                worker.join()
            self.assertEqual(failures, [])
            self.assertEqual(vector_boot.stats().programs, THREADS * CALLS)


class Models(Files):
    """What a file holds."""

    def test_metadata_and_tensors(self) -> None:
        with vector_boot.open(self.path) as model:
            self.assertEqual(dict(model.metadata), {"general.architecture": "fixture", "fixture.width": 4, "fixture.long": "x" * 9000})
            self.assertEqual(list(model), ["plain", "blocks", "closed"])
            plain, blocks = model["plain"], model["blocks"]
            self.assertEqual((plain.type, plain.shape, plain.size, plain.nbytes), ("F32", (2, 3), 6, 24))
            self.assertEqual((blocks.type, blocks.shape, blocks.block_bytes), ("Q8_0", (3, 64), 34))
            self.assertEqual(list(plain.values()), PLAIN)
            self.assertEqual(list(blocks.values(5)), [-8.0, -7.5, -7.0, -6.5, -6.0])
            self.assertEqual(list(plain._matvec_plainly([2, 1, -1])), [1.0, -5.5])  # pylint: disable=protected-access
            self.assertIn("blocks", model)
            self.assertNotIn("none", model)
            with self.assertRaises(KeyError):
                model["none"]  # pylint: disable=pointless-statement
            with self.assertRaises(_library.TypeUnsupportedError):
                model["closed"].values()
            self.assertEqual(bytes(model["closed"].blocks()), b"\1" * 82)

    def test_misuse_is_an_exception(self) -> None:
        with self.assertRaises(OSError):
            vector_boot.open(self.folder / "none.gguf")
        with self.assertRaises(ValueError):
            vector_boot.open(__file__)
        model = vector_boot.open(self.path)
        tensor = model["plain"]
        with self.assertRaisesRegex(vector_boot.Error, "a row has 3"):
            tensor.matvec([1.0])
        model.close()
        model.close()
        for use in (tensor.values, tensor.blocks, lambda: model["plain"], lambda: model.metadata["fixture.width"]):
            with self.assertRaises(_library.ClosedError):
                use()

    def test_a_view_keeps_its_model_open(self) -> None:
        model = vector_boot.open(self.path)
        view = model["plain"].blocks()
        with self.assertRaises(BufferError):
            model.close()
        part = view[4:8]
        del view, model
        gc.collect()
        self.assertEqual(struct.unpack("<f", part), (2.0,))
        self.assertTrue(part.readonly)
        part.release()
        del part
        gc.collect()
        self.assertEqual(_models_open(), 0)

    def test_a_part_of_a_model_is_refused_by_name(self) -> None:
        path = self.folder / "big-00002-of-00003.gguf"
        path.write_bytes(gguf({}, {"split.count": 3, "split.no": 1}))
        with self.assertRaisesRegex(vector_boot.SplitFileError, "part 2 of a model in 3 files.*--merge"):
            vector_boot.open(path)
        self.assertEqual(_models_open(), 0)


def _models_open() -> int:
    with vector_boot.Runtime():
        return vector_boot.stats().models_open


class WithNumpy(Files):
    """Views and products, where numpy is."""

    def setUp(self) -> None:
        super().setUp()
        try:
            import numpy  # pylint: disable=import-outside-toplevel
        except ImportError:
            self.fail("numpy is missing: the package python3-numpy, and an environment with --system-site-packages")
        self.numpy = numpy

    def test_views_lie_in_the_mapping(self) -> None:
        with vector_boot.open(self.path) as model:
            view = model["plain"].numpy()
            self.assertEqual(view.tolist(), [PLAIN[:3], PLAIN[3:]])
            self.assertFalse(view.flags.writeable)
            with self.assertRaises(ValueError):
                view[0, 0] = 1
            address = view.ctypes.data
            mapped = [line for line in Path("/proc/self/maps").read_text(encoding="ascii").splitlines() if "m.gguf" in line]
            low, high = (int(end, 16) for end in mapped[0].split()[0].split("-"))
            self.assertTrue(low <= address < high)
            self.assertEqual(model["blocks"].numpy().shape, (3, 68))
            del view
            gc.collect()

    def test_products_are_numpys(self) -> None:
        with vector_boot.open(self.path) as model:
            for name in ("plain", "blocks"):
                tensor = model[name]
                values = tensor.dequantize()
                # Whole numbers of which each block's largest is 127 pass through eight bits as they are.
                x = self.numpy.arange(tensor.shape[1], dtype="f")
                x[::32] = 127
                self.assertEqual(tensor.matvec(x).tolist(), (values @ x).tolist())

    @unittest.skipUnless("VB_REAL_MODEL" in os.environ, "the host has no real model in its cache")
    def test_a_real_model(self) -> None:
        np = self.numpy
        with vector_boot.open(os.environ["VB_REAL_MODEL"]) as model:
            self.assertEqual((model.metadata["general.architecture"], len(model)), ("llama", 272))
            tensor = model["blk.0.attn_q.weight"]
            values = tensor.dequantize()
            self.assertEqual((tensor.type, values.shape), ("Q4_1", (576, 576)))
            # As above; small ones, so that a block's sum is exact in a half too.
            x = np.random.default_rng(1).integers(-8, 9, 576).astype("f")
            x[::32] = 127
            np.testing.assert_allclose(tensor.matvec(x), values.astype("d") @ x, rtol=1e-4, atol=1e-3)
            before = _anonymous_kib()
            views = [tensor.numpy() for tensor in model.tensors().values() if tensor.type == "Q4_1"]
            self.assertEqual(len(views), 210)
            self.assertLess(_anonymous_kib() - before, 1024)
            del views
            gc.collect()


def _anonymous_kib() -> int:
    rows = Path("/proc/self/smaps_rollup").read_text(encoding="ascii").splitlines()
    return sum(int(row.split()[1]) for row in rows if row.startswith("Anonymous:"))


class Registers(unittest.TestCase):
    """hw.mmio."""

    def test_this_host(self) -> None:
        names = vector_boot.registers()
        self.assertEqual((len(names), names[0], names[12]), (64, "beat.count", "memory.total"))
        first, second = vector_boot.snapshot(), vector_boot.snapshot()
        self.assertGreater(second.beat, first.beat)
        self.assertGreaterEqual(first.registers["load.1m"], 0)
        self.assertTrue(math.isnan(first.registers["disk.data.total"]))
        with tempfile.TemporaryDirectory() as folder:
            for asks in (vector_boot.snapshot, vector_boot.journal):
                self.assertRaises(OSError, asks, folder)


class Evolution(unittest.TestCase):
    """Mutations of this process's runtime; a running machine's are in tests/system."""

    def test_the_loop_improves_and_goes_back(self) -> None:
        trace = evolution.recorded(60, seed=3)
        self.assertEqual(trace, evolution.recorded(60, seed=3))
        outcomes = []
        for _ in range(2):
            with vector_boot.Runtime(), evolution.Local() as target:
                base = target._read()  # pylint: disable=protected-access
                self.assertAlmostEqual(evolution.loss(target.policy(), trace), evolution.improve(target, trace, steps=0).before)
                done = evolution.improve(target, trace, steps=24, seed=5)
                outcomes.append(done)
                self.assertLess(done.after, done.before * 0.9)
                self.assertEqual((done.refused, done.generation, target.generation()), (0, done.accepted, done.accepted))
                # What the runtime holds is what the loop believes, to the last bit.
                self.assertEqual(evolution.loss(target.policy(), trace), done.after)
                self.assertEqual(target.rollback(0), done.accepted + 1)
                after = target._read()  # pylint: disable=protected-access
                self.assertEqual((after[64:96], after[128:]), (base[64:96], base[128:]))
                self.assertEqual([row["verdict"] for row in target.journal()][-1], "rolled_back")
        self.assertEqual(outcomes[0], outcomes[1])

    def test_many_are_proposed_in_a_row_and_each_has_its_verdict(self) -> None:
        with vector_boot.Runtime(), evolution.Local() as target:
            bias = target.policy().parts["policy.b1"]
            changes = []
            for place in range(8):
                new = struct.pack("<f", place / 64)
                changes.append(evolution.Change("policy.b1", 4 * place, new, bias[place : place + 1].tobytes(), 0.9))
            changes[3] = changes[3]._replace(confidence=0.5)
            verdicts = [verdict.name for verdict in target.propose_many(changes)]
            self.assertEqual(verdicts, ["accepted"] * 3 + ["confidence_too_low"] + ["accepted"] * 4)
            self.assertEqual(target.generation(), 7)

    def test_a_trace_is_recorded_and_read_again(self) -> None:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "trace.jsonl"
            self.assertEqual(evolution.record(path, 3), 3)
            rows = [json.loads(line) for line in path.read_text(encoding="ascii").splitlines()]
            trace = evolution.trace(path)
            self.assertEqual((len(trace), len(trace[0].inputs)), (3, 64))
            names, registers = vector_boot.registers(), rows[1]["registers"]
            total, available = (registers[f"memory.{name}"] for name in ("total", "available"))
            half = 1024 * 2**20
            self.assertAlmostEqual(trace[1].inputs[names.index("memory.total")], total / (total + half), places=6)
            self.assertEqual(trace[1].inputs[names.index("disk.data.total")], 0, "unknown is calm")
            self.assertAlmostEqual(trace[1].wanted[1], 0.8 * (total - available) / total, places=6)
            calm = evolution.trace(path, lambda _: [0.0] * 8)
            self.assertEqual(calm[2].wanted, [0.0] * 8)
            path.write_text('{"beat": 1}\n', encoding="ascii")
            with self.assertRaisesRegex(ValueError, "line 1: not a beat"):
                evolution.trace(path)
            path.write_text("", encoding="ascii")
            with self.assertRaisesRegex(ValueError, "no beats"):
                evolution.trace(path)

    def test_refusals_have_names_and_change_nothing(self) -> None:
        with vector_boot.Runtime(), evolution.Local() as target:
            base = target._read()  # pylint: disable=protected-access
            old, ones = target.policy().parts["policy.b2"].tobytes(), struct.pack("<8f", *[1.0] * 8)
            for name, offset, payload, found, confidence, verdict in [
                ("policy.b2", 0, ones, old, 0.8, "confidence_too_low"),
                ("policy.b2", 0, ones, old, math.nan, "confidence_not_finite"),
                ("policy.b2", 0, ones, old, math.inf, "confidence_not_finite"),
                ("kernel.limits", 0, ones, old, 0.9, "tensor_protected"),
                ("POLICY.b2", 0, ones, old, 0.9, "tensor_unknown"),
                ("policy.b2", 1, ones[:4], old[:4], 0.9, "range_off_block"),
                ("policy.b2", 0, ones, ones, 0.9, "old_hash_differs"),
                ("policy.b2", 0, struct.pack("<8f", *[math.nan] * 8), old, 0.9, "not_finite"),
            ]:
                self.assertEqual(target.propose(name, offset, payload, found, confidence).name, verdict)
            self.assertEqual(target._read(), base)  # pylint: disable=protected-access
            self.assertTrue(target.propose("policy.b2", 0, ones, old, 0.9).accepted)


class Commands(Files):
    """python -m vector_boot, as a person runs it."""

    def run_command(self, *words: object, **rest: object) -> subprocess.CompletedProcess:
        command = [sys.executable, "-m", "vector_boot", *map(str, words)]
        return subprocess.run(command, capture_output=True, check=False, **rest)  # type: ignore[call-overload]

    def test_inspect(self) -> None:
        done = self.run_command("inspect", self.path, "--json")
        found = json.loads(done.stdout)
        self.assertEqual((done.returncode, found["metadata"]["fixture.width"]), (0, 4))
        self.assertEqual(found["tensors"][1], {"name": "blocks", "type": "Q8_0", "shape": [64, 3], "bytes": 204})
        refused = self.run_command("inspect", __file__)
        self.assertEqual((refused.returncode, refused.stdout, refused.stderr.count(b"\n")), (1, b"", 1))

    def test_pixels(self) -> None:
        done = self.run_command("pixels", "-", input=bytes(byte for pixel in HELLO for byte in pixel))
        self.assertEqual((done.returncode, done.stdout), (0, b"Helellloo"))

    def test_the_import_brings_no_numpy_and_little_else(self) -> None:
        script = "import sys, vector_boot; print(len([m for m in ('numpy', 'argparse', 'asyncio', 'typing_extensions') if m in sys.modules]))"
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True)
        self.assertEqual(done.stdout, b"0\n")


class Examples(unittest.TestCase):
    """The scripts beside the package run as they stand."""

    def test_each(self) -> None:
        folder = Path(os.environ["VB_EXAMPLES"])
        # That of the ledger needs one: tests/system runs it against a machine's.
        scripts = sorted(script for script in folder.glob("*.py") if script.name != "ledger.py")
        self.assertGreaterEqual(len(scripts), 2)
        for script in scripts:
            done = subprocess.run([sys.executable, script], capture_output=True, check=False, text=True)
            self.assertEqual(done.returncode, 0, f"{script.name}: {done.stderr}")


if __name__ == "__main__":
    unittest.main()
