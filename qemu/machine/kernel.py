"""Debian's cloud kernel: fetched by package name, unpacked into the cache, never installed."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from .cache import alone, folder
from .report import HostError, phase

# The name that stands for the newest one; what it depends on is the real package.
PACKAGE = "linux-image-cloud-amd64"


@dataclass(frozen=True)
class Kernel:
    """A kernel image and the folder of its modules."""

    image: Path
    modules: Path


def own(image: str, modules: str | None) -> Kernel:
    """A kernel of the user's; without a folder of modules everything must be built in."""
    if not Path(image).is_file():
        raise HostError(f"--kernel {image}: no such file")
    where = Path(modules) if modules else folder("kernels", "no-modules")
    if not where.is_dir():
        raise HostError(f"--modules {modules}: no such folder")
    return Kernel(Path(image), where)


def debian() -> Kernel:
    """The cloud kernel from the cache; the first time from the package archive that the host is set up for."""
    home = folder("kernels")
    unpacked = home / PACKAGE
    with alone(unpacked):
        if not unpacked.is_dir():
            with phase("kernel"):
                _fetch(home, unpacked)
    images = sorted(unpacked.glob("boot/vmlinuz-*"))
    modules = sorted(unpacked.glob("lib/modules/*"))
    if len(images) != 1 or len(modules) != 1:
        raise HostError(f"kernel {unpacked}: not one image and one folder of modules; delete it to fetch it again")
    return Kernel(images[0], modules[0])


def _fetch(home: Path, unpacked: Path) -> None:
    real = _dependency()
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


def _dependency() -> str:
    """The package with the files, such as linux-image-6.1.0-56-cloud-amd64."""
    for attempt in range(2):
        listed = subprocess.run(["apt-cache", "depends", PACKAGE], capture_output=True, text=True, check=False).stdout
        found = re.search(r"Depends: (linux-image-\d\S+-cloud-amd64)$", listed, re.MULTILINE)
        if found:
            return found.group(1)
        if attempt == 0 and os.geteuid() == 0:
            _call(["apt-get", "update"], "/")
    raise HostError(f"kernel: the host's package lists do not know {PACKAGE}; run once: sudo apt-get update")


def _call(words: list[str], where: str) -> None:
    result = subprocess.run(words, cwd=where, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    if result.returncode != 0:
        tail = " | ".join(result.stdout.strip().splitlines()[-3:])
        raise HostError(f"kernel: {words[0]} {words[1]} failed: {tail}")
