"""`python -m vector_boot`: what is in a file, what a machine measures, and a pixel program run."""

from __future__ import annotations

import argparse
import json
import os
import sys

from . import Error, execute_pixels, open as open_model, snapshot

# Longer arrays are shown by their length, as `vector_boot gguf inspect` does without --full.
_ARRAY_MAX = 64


def _shortened(value: object) -> object:
    if isinstance(value, list) and len(value) > _ARRAY_MAX:
        return {"type": "array", "length": len(value)}
    return value


def _inspect(words: argparse.Namespace) -> None:
    with open_model(words.file) as model:
        metadata = {key: value if words.full else _shortened(value) for key, value in model.metadata.items()}
        tensors = [
            # GGUF's order, the row length first, as the other `inspect` has it.
            {"name": t.name, "type": t.type, "shape": list(reversed(t.shape)), "bytes": t.nbytes}
            for t in model.tensors().values()
        ]
    if words.json:
        print(json.dumps({"metadata": metadata, "tensors": tensors}, ensure_ascii=False))
        return
    for key, value in metadata.items():
        print(f"{key} = {json.dumps(value, ensure_ascii=False)}")
    for row in tensors:
        print(f"{row['name']}  {row['type']}  {row['shape']}  {row['bytes']}")


def _hw(words: argparse.Namespace) -> None:
    found = snapshot(words.run)
    if words.json:
        known = {name: value if value == value else None for name, value in found.registers.items()}
        print(json.dumps({"beat": found.beat, "registers": known}))
        return
    for name, value in found.registers.items():
        print(f"{name:<24} {'-' if value != value else f'{value:g}'}")


def _pixels(words: argparse.Namespace) -> None:
    source = sys.stdin.buffer if words.file == "-" else open(words.file, "rb")
    with source:
        program = source.read()
    model = open_model(words.model) if words.model else None
    sys.stdout.buffer.write(execute_pixels(program, model=model))


def main() -> int:
    """Exit 0 done, 1 refused with one line on stderr, 2 wrong words."""
    parser = argparse.ArgumentParser(prog="python -m vector_boot", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    inspect = commands.add_parser("inspect", help="metadata and tensors of a GGUF file or an RTS package")
    inspect.add_argument("file")
    inspect.add_argument("--json", action="store_true")
    inspect.add_argument("--full", action="store_true", help="long arrays whole")
    inspect.set_defaults(run_command=_inspect)
    hw = commands.add_parser("hw", help="the registers of this host, or of a running machine")
    hw.add_argument("run", nargs="?", help="folder of the machine's sockets")
    hw.add_argument("--json", action="store_true")
    hw.set_defaults(run_command=_hw)
    pixels = commands.add_parser("pixels", help="run a file of pixels, three bytes each; - is stdin")
    pixels.add_argument("file")
    pixels.add_argument("--model")
    pixels.set_defaults(run_command=_pixels)
    words = parser.parse_args()
    try:
        words.run_command(words)
        sys.stdout.flush()
    except (Error, OSError, ValueError) as error:
        if isinstance(error, BrokenPipeError):
            # The reader has seen enough; Python would complain once more at the end.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 0
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
