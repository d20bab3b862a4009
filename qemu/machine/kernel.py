"""Debian's cloud kernel: fetched by package name, unpacked into the cache, never installed."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from . import architecture
from .architecture import Architecture
from .cache import alone, folder
from .report import HostError, phase

# Enough of an image to see what it is.
MAGIC_BYTES = 4096
# The folder that stands for a kernel with everything built in.
NO_MODULES = "no-modules"


@dataclass(frozen=True)
class Kernel:
    """A kernel image and the folder of its modules."""

    image: Path
    modules: Path


def own(image: str, modules: str | None, arch: Architecture) -> Kernel:
    """A kernel of the user's; without a folder of modules everything must be built in."""
    try:
        with open(image, "rb") as file:
            begin = file.read(MAGIC_BYTES)
    except OSError as error:
        raise HostError(f"--kernel {image}: {error.strerror}") from None
    for other in architecture.ALL.values():
        offset, magic = other.kernel_magic
        if other != arch and begin[offset : offset + len(magic)] == magic:
            raise HostError(f"--kernel {image}: a kernel for {other.name}, --arch {arch.name} expected")
    where = Path(modules) if modules else folder("kernels", NO_MODULES)
    if not where.is_dir():
        raise HostError(f"--modules {modules}: no such folder")
    return Kernel(Path(image), where)


def debian(arch: Architecture) -> Kernel:
    """The cloud kernel from the cache; the first time from the package archive that the host is set up for."""
    home = folder("kernels")
    unpacked = home / arch.kernel_package
    with alone(unpacked):
        if not unpacked.is_dir():
            with phase("kernel"):
                _fetch(home, unpacked, arch)
    images = sorted(unpacked.glob("boot/vmlinuz-*"))
    modules = sorted(unpacked.glob("lib/modules/*"))
    if len(images) != 1 or len(modules) != 1:
        raise HostError(f"kernel {unpacked}: not one image and one folder of modules; delete it to fetch it again")
    return Kernel(images[0], modules[0])


def _fetch(home: Path, unpacked: Path, arch: Architecture) -> None:
    real = f"{_dependency(arch)}:{arch.debian}"
    with tempfile.TemporaryDirectory(dir=home) as scratch:
        _call(["apt-get", "download", "-o", "APT::Sandbox::User=root", real], scratch)
        packages = list(Path(scratch).glob("*.deb"))
        if len(packages) != 1:
            raise HostError(f"kernel: apt-get download {real} left {len(packages)} files")
        fresh = Path(scratch, "unpacked")
        _call(["dpkg-deb", "--extract", str(packages[0]), str(fresh)], scratch)
        # The symbol map and the documentation serve nobody here.
        shutil.rmtree(fresh / "usr", ignore_errors=True)
        fresh.rename(unpacked)


def _dependency(arch: Architecture) -> str:
    """The package with the files, such as linux-image-6.1.0-56-cloud-amd64."""
    package = arch.kernel_package
    # An architecture that is not the host's is asked for behind a colon; apt takes it for the host's own too.
    words = ["apt-cache", "depends", f"{package}:{arch.debian}"]
    for attempt in range(2):
        listed = subprocess.run(words, capture_output=True, text=True, check=False).stdout
        found = re.search(rf"Depends: (linux-image-\d\S+-cloud-{arch.debian})(:\S+)?$", listed, re.MULTILINE)
        if found:
            return found.group(1)
        if attempt == 0 and os.geteuid() == 0:
            _call(["apt-get", "update"], "/")
    raise HostError(f"kernel: the host's package lists do not know {package}; run once: sudo apt-get update")


def _call(words: list[str], where: str) -> None:
    result = subprocess.run(words, cwd=where, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    if result.returncode != 0:
        tail = " | ".join(result.stdout.strip().splitlines()[-3:])
        raise HostError(f"kernel: {words[0]} {words[1]} failed: {tail}")
