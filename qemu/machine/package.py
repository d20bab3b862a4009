"""The package that the machine boots: named by the user, or packed from a model and kept in the cache."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from . import cache, toolchain
from .architecture import Architecture
from .report import HostError, phase


# The word for a machine without a package.
NONE = "none"


def named(path: str) -> Path | None:
    """A package of the user's. A bad one is the machine's to refuse, so only its presence is checked."""
    if path == NONE:
        return None
    if not (Path(path).is_file() and os.access(path, os.R_OK)):
        raise HostError(f"--rts {path}: no file that can be read (a package, or the word {NONE})")
    return Path(path)


def packed(model: Path, executables: toolchain.Executables, tool: Path, arch: Architecture) -> Path:
    """A package of the built executables and a model; packed anew when one of the three changed."""
    files = [executables.vector_boot, executables.services, model]
    out = cache.folder("packages") / f"{cache.stamp([str(cache.SOURCES), str(model), arch.name], [])[:16]}.rts"
    key = cache.stamp([], files)
    with cache.alone(out):
        if not cache.is_fresh(out, key):
            with phase("package"):
                _pack(model, executables, out, tool, arch)
            cache.set_fresh(out, key)
    return out


def _pack(model: Path, executables: toolchain.Executables, out: Path, tool: Path, arch: Architecture) -> None:
    words = [str(tool), "rts", "pack", "--arch", arch.name, "--binary", str(executables.vector_boot)]
    words += ["--services", str(executables.services), "--model", str(model), "--out", str(out)]
    result = subprocess.run(words, capture_output=True, text=True, check=False)
    if result.returncode != 0:
        raise HostError(result.stderr.strip() or f"package: rts pack ended with {result.returncode}")
