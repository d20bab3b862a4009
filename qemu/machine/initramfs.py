"""`initramfs/build`: calls the role `vector_boot initramfs` with the kernel's modules and fresh executables."""

from __future__ import annotations

import argparse
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

from . import architecture, cache, kernel, toolchain
from .architecture import Architecture
from .report import HostError, phase, say


@dataclass(frozen=True)
class Contents:
    """What goes into an archive."""

    kernel: kernel.Kernel
    executables: toolchain.Executables
    trusted: list[Path] = field(default_factory=list)

    def words(self) -> list[str]:
        """The role's words for it."""
        words = ["--init", str(self.executables.vector_boot), "--services", str(self.executables.services)]
        words += ["--modules", str(self.kernel.modules)]
        if self.kernel.modules.name == kernel.NO_MODULES:
            words += ["--want", ""]
        for key in self.trusted:
            words += ["--trust", str(key)]
        return words


def cached(contents: Contents, tool: Path, arch: Architecture) -> Path:
    """The archive that `qemu/run` boots; made anew when an executable or the kernel changed."""
    out = cache.build_folder() / f"initramfs-{arch.name}.cpio"
    files = [contents.executables.vector_boot, contents.executables.services, contents.kernel.image]
    key = cache.stamp(contents.words(), files)
    with cache.alone(out):
        if not cache.is_fresh(out, key):
            with phase("initramfs"):
                write(tool, [*contents.words(), "--out", str(out)])
            cache.set_fresh(out, key)
    return out


def own(contents: Contents, tool: Path, scratch: Path) -> Path:
    """An archive for one machine alone: no other may find it and boot with these keys, or without them."""
    out = scratch / "initramfs.cpio"
    with phase("initramfs"):
        write(tool, [*contents.words(), "--out", str(out)])
    return out


def write(tool: Path, words: list[str]) -> None:
    """Runs the role; its own line of error is the one to show."""
    result = subprocess.run([str(tool), "initramfs", *words], capture_output=True, text=True, check=False)
    if result.returncode != 0:
        raise HostError(result.stderr.strip() or f"initramfs: ended with {result.returncode}")
    say(result.stdout.strip())


def main() -> int:
    """The words of `initramfs/build` go to the role as they are; modules come from Debian's kernel unless named."""
    parser = argparse.ArgumentParser(
        prog="initramfs/build",
        description="Builds the archive that the kernel unpacks, with the executables and the kernel's modules.",
        epilog="Goes to `vector_boot initramfs` as it is: --trust KEY.pub, --want NAMES, --rts FILE, --modules DIR.",
        allow_abbrev=False,
    )
    parser.add_argument("--arch", help="x86_64 or aarch64 (this host's)")
    parser.add_argument("--out", required=True, metavar="FILE", help="the archive to write")
    args, words = parser.parse_known_args()
    words += ["--out", args.out]
    try:
        host = architecture.host()
        arch = architecture.named(args.arch) if args.arch else host
        executables = toolchain.build(arch)
        tool = executables.vector_boot if arch == host else toolchain.host_tool()
        words += ["--init", str(executables.vector_boot), "--services", str(executables.services)]
        if not any(word.split("=")[0] == "--modules" for word in words):
            words += ["--modules", str(kernel.debian(arch).modules)]
        write(tool, words)
    except HostError as error:
        say(f"initramfs/build: {error}")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
