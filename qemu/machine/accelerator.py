"""Which accelerator QEMU gets: KVM only where it is proven, TCG elsewhere.

A /dev/kvm can exist, pass every ioctl probe, and still hang its guests; the proof is a few instructions that QEMU
runs to their end. What was found is remembered until the host boots again.
"""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from . import architecture, cache
from .architecture import Architecture
from .report import HostError

KVM = Path("/dev/kvm")
CPUINFO = Path("/proc/cpuinfo")
# TCG itself needs about half a second for this.
PROBE_SECONDS = 2.0


@dataclass(frozen=True)
class Choice:
    """The accelerator and why it was taken."""

    name: str
    reason: str

    def __str__(self) -> str:
        return f"{self.name} ({self.reason})"


@dataclass(frozen=True)
class Proof:
    """A program that ends QEMU with a code of its own, if the processor runs it."""

    name: str
    content: bytes
    machine: list[str]
    # How QEMU gets the file; {} is its name.
    load: list[str]
    ended: int


PROOFS = {
    # isa-debug-exit ends QEMU with (value << 1) | 1. mov al, 0x10; out 0xf4, al; hlt; jmp back to hlt.
    architecture.X86_64: Proof(
        name="boot sector",
        content=b"\xb0\x10\xe6\xf4\xf4\xeb\xfd".ljust(510, b"\0") + b"\x55\xaa",
        machine=["-M", "pc", "-m", "32", "-device", "isa-debug-exit,iobase=0xf4,iosize=1"],
        load=["-boot", "a", "-drive", "file={},format=raw,if=floppy,readonly=on"],
        ended=33,
    ),
    # PSCI SYSTEM_OFF. movz w0, #8; movk w0, #0x8400, lsl 16; hvc 0; branch to itself. What fails in QEMU ends with 1.
    architecture.AARCH64: Proof(
        name="PSCI call",
        content=bytes.fromhex("00018052 0080b072 020000d4 00000014"),
        machine=["-M", architecture.AARCH64.machine, "-m", "32"],
        load=["-kernel", "{}"],
        ended=0,
    ),
}


def refuse(word: str, arch: Architecture) -> None:
    """Refuses an accelerator that this host cannot have, before anything is built."""
    if word != "kvm":
        return
    if arch != architecture.host():
        raise HostError(f"--accel kvm: the host is {architecture.host().name}, --arch is {arch.name}; tcg emulates it")
    if not os.access(KVM, os.R_OK | os.W_OK):
        raise HostError(f"--accel kvm: {KVM} is absent or not ours; tcg needs none")


def choose(word: str, arch: Architecture, qemu: str | None = None) -> Choice:
    """What `--accel WORD` means on this host for a machine of this architecture."""
    if word != "auto":
        return Choice(word, "asked for")
    host = architecture.host()
    if arch != host:
        return Choice("tcg", f"the host is {host.name}, the machine {arch.name}")
    if not os.access(KVM, os.R_OK | os.W_OK):
        return Choice("tcg", f"{KVM} is absent or not ours")
    flags = CPUINFO.read_text(encoding="utf-8", errors="replace")
    # Processors of aarch64 name no such flag; there the proof alone decides.
    if arch == architecture.X86_64 and not re.search(r"\b(vmx|svm)\b", flags):
        return Choice("tcg", f"no vmx or svm: {KVM} has no hardware behind it")
    remembered = _remembered()
    if remembered:
        return remembered
    choice = probe(PROOFS[arch], qemu or arch.qemu)
    remember(choice)
    return choice


def remember(choice: Choice) -> None:
    """Keeps what was found until the host boots again."""
    _note().write_text(f"{choice.name} {choice.reason}\n", encoding="utf-8")


def _remembered() -> Choice | None:
    try:
        name, _, reason = _note().read_text(encoding="utf-8").strip().partition(" ")
    except (OSError, UnicodeDecodeError):
        return None
    # What is not of our making is no knowledge: the proof is run again.
    return Choice(name, f"{reason}, earlier since the host booted") if name in ("kvm", "tcg") and reason else None


def _note() -> Path:
    boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    return cache.folder("accelerator") / boot


def probe(proof: Proof, qemu: str, accel: str = "kvm", cpu: str = "host") -> Choice:
    """Runs a proof; it holds under every accelerator that works."""
    with tempfile.NamedTemporaryFile() as program:
        program.write(proof.content)
        program.flush()
        words = [qemu, "-accel", accel, "-cpu", cpu, *proof.machine, "-nodefaults", "-display", "none"]
        words += [word.format(program.name) for word in proof.load]
        try:
            ended = subprocess.run(words, capture_output=True, timeout=PROBE_SECONDS, check=False).returncode
        except subprocess.TimeoutExpired:
            return Choice("tcg", f"a {proof.name} under KVM hung for {PROBE_SECONDS:.0f} s")
    if ended == proof.ended:
        return Choice("kvm", f"proven by a {proof.name}")
    return Choice("tcg", f"a {proof.name} under KVM ended with {ended}, not {proof.ended}")
