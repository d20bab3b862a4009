"""`initramfs/build`: calls the role `vector_boot initramfs` with the kernel's modules and fresh executables."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from . import cache, kernel, toolchain
from .report import HostError, phase, say


def cached(parts: kernel.Kernel, executables: toolchain.Executables) -> Path:
    """The archive that `qemu/run` boots; made anew when an executable or the kernel changed."""
    out = cache.build_folder() / "initramfs.cpio"
    words = ["--modules", str(parts.modules)]
    if parts.modules.name == "no-modules":
        words += ["--want", ""]
    key = cache.stamp(words, [executables.vector_boot, executables.services, parts.image])
    with cache.alone(out):
        if not cache.is_fresh(out, key):
            with phase("initramfs"):
                write(executables, [*words, "--out", str(out)])
            cache.set_fresh(out, key)
    return out


def write(executables: toolchain.Executables, words: list[str]) -> None:
    """Runs the role; its own line of error is the one to show."""
    command = [str(executables.vector_boot), "initramfs", "--init", str(executables.vector_boot)]
    command += ["--services", str(executables.services), *words]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode != 0:
        raise HostError(result.stderr.strip() or f"initramfs: ended with {result.returncode}")
    say(result.stdout.strip())


def main() -> int:
    """The words of `initramfs/build` go to the role as they are; modules come from Debian's kernel unless named."""
    words = sys.argv[1:]
    try:
        executables = toolchain.build()
        if "--modules" not in words:
            words += ["--modules", str(kernel.debian().modules)]
        write(executables, words)
    except HostError as error:
        say(f"initramfs/build: {error}")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
