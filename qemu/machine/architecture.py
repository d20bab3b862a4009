"""The two architectures that a machine can have, and which of them this host is.

Everything that differs between them on the host's side is a field here; nothing else asks for a name.
"""

from __future__ import annotations

import platform
from dataclasses import dataclass

from .cache import SOURCES
from .report import HostError


@dataclass(frozen=True)
class Architecture:
    """What tools, packages and QEMU call one architecture, and what its machine looks like."""

    # As `uname -m` and `--arch` have it.
    name: str
    # As dpkg has it.
    debian: str
    # e_machine of elf(5).
    elf_machine: int
    # QEMU's `-M` for the machine, and `-cpu` where it is emulated.
    machine: str
    cpu: str
    # The serial line of that machine, for `console=`.
    serial: str
    # Words by which a kernel that answers nobody says what each task and each processor is at, and ends, when QEMU is
    # steered from outside and told to `inject-nmi`; where it has such an interrupt.
    telling: str
    # What the kernel takes as a command line, less what we add ourselves.
    append_bytes_max: int
    # Where a kernel image says what it is, and with which bytes.
    kernel_magic: tuple[int, bytes]
    # A linker that is not the compiler's default; relative to `qemu/`.
    linker: str | None

    @property
    def target(self) -> str:
        """As rustc has it."""
        return f"{self.name}-unknown-linux-gnu"

    @property
    def qemu(self) -> str:
        """QEMU's program."""
        return f"qemu-system-{self.name}"

    @property
    def kernel_package(self) -> str:
        """Debian's cloud kernel: the name that stands for the newest one."""
        return f"linux-image-cloud-{self.debian}"

    def linker_settings(self, host: Architecture) -> dict[str, str]:
        """What cargo is told about the linker, if anything."""
        if self.linker:
            program = str(SOURCES / "qemu" / self.linker)
        elif self != host:
            program = f"{self.name}-linux-gnu-gcc"
        else:
            return {}
        return {f"CARGO_TARGET_{self.target.upper().replace('-', '_')}_LINKER": program}


X86_64 = Architecture(
    name="x86_64",
    debian="amd64",
    elf_machine=62,
    machine="q35",
    cpu="max",
    serial="ttyS0",
    telling="unknown_nmi_panic panic_print=0x41 ",
    # COMMAND_LINE_SIZE is 2048.
    append_bytes_max=1800,
    # Documentation/x86/boot.rst: the header of a bzImage.
    kernel_magic=(0x202, b"HdrS"),
    linker=None,
)

AARCH64 = Architecture(
    name="aarch64",
    debian="arm64",
    elf_machine=183,
    # The newest interrupt controller that the accelerator has: under KVM not every host can emulate the old one.
    machine="virt,gic-version=max",
    # The architecture's own pointer authentication makes an emulated boot three times as long; QEMU's own does not
    # (docs/benchmarks.md).
    cpu="max,pauth-impdef=on",
    serial="ttyAMA0",
    telling="",
    # COMMAND_LINE_SIZE is 2048, as on x86.
    append_bytes_max=1800,
    # Documentation/arm64/booting.rst: the header of an Image.
    kernel_magic=(56, b"ARM\x64"),
    linker="link-aarch64",
)

ALL = {arch.name: arch for arch in (X86_64, AARCH64)}


def named(name: str) -> Architecture:
    """What `--arch NAME` means."""
    if name not in ALL:
        raise HostError(f"--arch {name}: unknown; {' or '.join(ALL)}")
    return ALL[name]


def host() -> Architecture:
    """What this host is."""
    machine = platform.machine()
    if machine not in ALL:
        raise HostError(f"this host is {machine}; {' or '.join(ALL)} can build and boot")
    return ALL[machine]
