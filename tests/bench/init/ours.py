"""Our own PID 1 as a peer: its executables, a package with the bench's service, a manifest with three of them."""

from __future__ import annotations

import subprocess
from pathlib import Path

from machine import initramfs
from machine.kernel import Kernel
from machine.report import HostError
from machine.toolchain import Executables

from .archive import Archive
from .peers import LETTERS, Peer

MANIFEST = "/bench/services.manifest"
# As a user would write it: a program that was added to the package. The peers give up after no number of restarts and
# wait before none, where they can be told so.
SERVICE = """
[[service]]
name = "{letter}"
image = "bench"
args = ["{letter}"]
notify = true
profile = "{profile}"
backoff_ms_first = 0
intensity_max = 0
tmp_bytes = 0
"""
# The same job as the peers', and the same with all that the product adds to it: cell, Landlock, filters.
PROFILES = {"ours": "unconfined", "ours, confined": "foreign"}


def peers_of(executables: Executables, service: Path, scratch: Path) -> list[Peer]:
    """Our machine with three services out of the package that lies in the initramfs, once for each profile."""
    tool = executables.vector_boot
    model = scratch / "model"
    _call(tool, ["gguf", "default", model])
    return [_peer(executables, service, scratch, model, name) for name in PROFILES]


def _peer(executables: Executables, service: Path, scratch: Path, model: Path, name: str) -> Peer:
    tool, profile = executables.vector_boot, PROFILES[name]
    source, manifest, package = (scratch / f"{profile}.{kind}" for kind in ("toml", "manifest", "rts"))
    source.write_text("".join(SERVICE.format(letter=letter, profile=profile) for letter in LETTERS), encoding="ascii")
    _call(tool, ["rts", "manifest", source, "--out", manifest])
    words: list[str | Path] = ["rts", "pack", "--binary", tool, "--services", executables.services, "--model", model]
    _call(tool, [*words, "--manifest", source, "--add", f"bench={service}", "--out", package])

    def fill(archive: Archive) -> None:
        archive.file("/rts", package)
        archive.file(MANIFEST, manifest)

    return Peer(name, ["/init"], fill, parameters=f"vb.manifest={MANIFEST}", is_ours=True)


def first_archive(executables: Executables, kernel: Kernel, scratch: Path) -> Path:
    """The product's own initramfs; the machine has neither disks nor a network and needs no module of the kernel's."""
    out = scratch / "first.cpio"
    words = ["--init", str(executables.vector_boot), "--services", str(executables.services)]
    # The role wants a name; this one is built in.
    words += ["--modules", str(kernel.modules), "--want", "ext4"]
    initramfs.write(executables.vector_boot, [*words, "--out", str(out)])
    return out


def _call(tool: Path, words: list[str | Path]) -> None:
    done = subprocess.run([tool, *words], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise HostError(done.stderr.strip() or f"{words[0]} {words[1]}: ended with {done.returncode}")
