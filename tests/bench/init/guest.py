"""The programs that run inside the machine, compiled into the cache."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path

from machine import cache

SOURCES = Path(__file__).resolve().parent / "guest"
# Small and with nothing of the host's inside: musl. Of glibc's folders only the kernel's own headers are wanted.
COMPILER = ["musl-gcc", "-Os", "-static", "-s", "-Wall", "-Wextra"]
KERNEL_HEADERS = ["-idirafter", "/usr/include", "-idirafter", "/usr/include/x86_64-linux-gnu"]


@dataclass(frozen=True)
class Guest:
    """Where they are."""

    launch: Path
    service: Path
    floor: Path
    floor_mounts: Path


def build() -> Guest:
    """Compiles what changed."""
    home = cache.build_folder() / "bench-init"
    home.mkdir(exist_ok=True)
    return Guest(
        _compiled(home / "launch", "launch.c"),
        _compiled(home / "service", "service.c"),
        _compiled(home / "floor", "floor.c"),
        _compiled(home / "floor-mounts", "floor.c", "-DMOUNTS"),
    )


def _compiled(out: Path, source: str, *words: str) -> Path:
    key = cache.stamp([*COMPILER, *words], [SOURCES / source])
    with cache.alone(out):
        if not cache.is_fresh(out, key):
            subprocess.run([*COMPILER, *KERNEL_HEADERS, *words, "-o", out, SOURCES / source], check=True)
            cache.set_fresh(out, key)
    return out
