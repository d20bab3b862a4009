"""Which accelerator QEMU gets: KVM only where it is proven, TCG elsewhere.

A /dev/kvm can exist, pass every ioctl probe, and still hang its guests; the proof is a boot sector that QEMU
runs to its end. What was found is remembered until the host boots again.
"""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from . import cache

KVM = Path("/dev/kvm")
# TCG itself needs about half a second for this.
PROBE_SECONDS = 2.0
# isa-debug-exit ends QEMU with (value << 1) | 1; the boot sector writes 0x10.
PROVEN = 33
# mov al, 0x10; out 0xf4, al; hlt; jmp back to hlt.
BOOT_SECTOR = b"\xb0\x10\xe6\xf4\xf4\xeb\xfd".ljust(510, b"\0") + b"\x55\xaa"


@dataclass(frozen=True)
class Choice:
    """The accelerator and why it was taken."""

    name: str
    reason: str

    def __str__(self) -> str:
        return f"{self.name} ({self.reason})"


def choose(word: str, qemu: str) -> Choice:
    """What `--accel WORD` means on this host."""
    if word != "auto":
        return Choice(word, "asked for")
    if not os.access(KVM, os.R_OK | os.W_OK):
        return Choice("tcg", f"{KVM} is absent or not ours")
    flags = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    if not re.search(r"\b(vmx|svm)\b", flags):
        return Choice("tcg", f"no vmx or svm: {KVM} has no hardware behind it")
    note = _note()
    if note.is_file():
        return Choice(note.read_text(encoding="ascii").strip(), "found earlier since the host booted")
    choice = _probe(qemu)
    remember(choice.name)
    return choice


def remember(name: str) -> None:
    """Keeps what was found until the host boots again."""
    _note().write_text(f"{name}\n", encoding="ascii")


def _note() -> Path:
    boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    return cache.folder("accelerator") / boot


def _probe(qemu: str) -> Choice:
    with tempfile.NamedTemporaryFile() as sector:
        sector.write(BOOT_SECTOR)
        sector.flush()
        words = [qemu, "-accel", "kvm", "-M", "pc", "-m", "32", "-nodefaults", "-display", "none"]
        words += ["-device", "isa-debug-exit,iobase=0xf4,iosize=1", "-boot", "a"]
        words += ["-drive", f"file={sector.name},format=raw,if=floppy,readonly=on"]
        try:
            ended = subprocess.run(words, capture_output=True, timeout=PROBE_SECONDS, check=False).returncode
        except subprocess.TimeoutExpired:
            return Choice("tcg", f"a boot sector under KVM hung for {PROBE_SECONDS:.0f} s")
    if ended == PROVEN:
        return Choice("kvm", "proven by a boot sector")
    return Choice("tcg", f"a boot sector under KVM ended with {ended}, not {PROVEN}")
