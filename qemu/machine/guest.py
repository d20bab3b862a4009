"""One QEMU process: its command line, its files, its end."""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from .architecture import Architecture
from .report import HostError

# A machine that says nothing for this long under KVM is taken for hung.
SILENCE_SECONDS = 5.0
GUEST_HTTP = 8080
# For the kernel's persistent store: a MiB that the kernel leaves alone and a reset does not touch, far from where
# QEMU puts kernel and initramfs. Three kinds of an end are stored: panic, oops, and the watchdog's own restart.
KEPT_MEMORY = (
    "memmap=0x100000$0x8000000 ramoops.mem_address=0x8000000 ramoops.mem_size=0x100000 "
    "ramoops.record_size=0x20000 ramoops.max_reason=3 "
)
# How QEMU emulates: one processor at a time. With a thread for each, one translates code that another is about to
# change: QEMU throws translations of the old code away before the write and not after it, and what was translated in
# between stays. A kernel that patches its own code then runs into a breakpoint for ever that is no longer there, on all
# processors, with interrupts off. Linux does so at every boot, where the first control group gets a limit of processor
# time; docs/qemu.md has the measurement.
EMULATION = "tcg,thread=single"
# PR_SET_PDEATHSIG of prctl(2).
PDEATHSIG = 1


@dataclass(frozen=True)
class Parts:
    """What one machine is made of."""

    arch: Architecture
    kernel: Path
    initramfs: Path
    package: Path | None
    data: Path
    share: Path | None
    token: Path
    console: Path
    serial_log: Path
    http_port: int
    memory_mib: int
    append: str
    on_terminal: bool
    # For tests: QEMU's own control socket; a folder with the two ends of a wire to a first network card; a machine
    # that starts again when it is reset, with memory that outlives that; a server of the data disk's blocks.
    qmp: Path | None = None
    wire: Path | None = None
    resets: bool = False
    nbd: Path | None = None
    # A file to which every write and flush of the data disk goes, as dm-log-writes has them.
    log_writes: Path | None = None
    # One processor whose time is the count of its instructions, idle time skipped; for tests too.
    icount: bool = False
    # The table that shows the chipset's watchdog to the kernel.
    watchdog: Path | None = None
    held: list[IO[bytes]] = field(default_factory=list)


def check_port(port: int) -> int:
    """The host's port for the gateway; 0 takes a free one. Refuses a port that is in use, before anything is built."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            raise HostError(f"--http {port}: 127.0.0.1:{port}: {error.strerror}; name another port, or 0 for a free one") from None
        return int(probe.getsockname()[1])


def command(parts: Parts, accelerator: str) -> list[str]:
    """QEMU's words for these parts."""
    arch = parts.arch
    words = [arch.qemu, "-name", "vector-boot", "-M", arch.machine]
    words += ["-accel", EMULATION if accelerator == "tcg" else accelerator]
    words += ["-cpu", "host" if accelerator == "kvm" else arch.cpu]
    words += ["-smp", str(1 if parts.icount else min(2, os.cpu_count() or 1))]
    words += ["-icount", "shift=0,sleep=off"] if parts.icount else []
    words += ["-m", str(parts.memory_mib), "-nodefaults", "-no-user-config", "-display", "none"]
    words += [] if parts.resets else ["-no-reboot"]
    words += ["-kernel", str(parts.kernel), "-initrd", str(parts.initramfs)]
    # What is kept of a panic is its cause, so the two do not go together.
    more = KEPT_MEMORY if parts.resets else arch.telling if parts.qmp else ""
    words += ["-append", f"console={arch.serial} panic=-1 loglevel=4 {more}{parts.append}".rstrip()]
    words += ["-fw_cfg", f"name=opt/vb/token,file={parts.token}", "-device", "virtio-rng-pci"]
    if parts.watchdog:
        words += ["-acpitable", f"sig=WDAT,data={parts.watchdog}", "-global", "ICH9-LPC.noreboot=false"]
        words += ["-watchdog-action", "reset"]
    if parts.package:
        words += _disk("package", parts.package, ",readonly=on")
    # The image is locked by us; QEMU writes what the guest flushed.
    if parts.nbd:
        words += _device("data", f"file=nbd+unix:///?socket={parts.nbd}")
    elif parts.log_writes:
        words += _logged("data", parts.data, parts.log_writes)
    else:
        words += _disk("data", parts.data, ",file.locking=off")
    if parts.share:
        words += _disk("share", parts.share, ",readonly=on")
    if parts.wire:
        words += _wire(parts.wire)
    forward = f"hostfwd=tcp:127.0.0.1:{parts.http_port}-:{GUEST_HTTP}"
    words += ["-netdev", f"user,id=net,{forward}", "-device", "virtio-net-pci,netdev=net,romfile="]
    words += ["-chardev", f"socket,id=console,path={parts.console},server=on,wait=off"]
    words += ["-device", "virtio-serial-pci", "-device", "virtconsole,chardev=console"]
    if parts.qmp:
        words += ["-qmp", f"unix:{parts.qmp},server=on,wait=off"]
    if parts.on_terminal:
        words += ["-chardev", f"stdio,id=serial,mux=on,signal=off,logfile={parts.serial_log}"]
        words += ["-mon", "chardev=serial"]
    else:
        words += ["-chardev", f"file,id=serial,path={parts.serial_log}"]
    return [*words, "-serial", "chardev:serial"]


def _disk(name: str, path: Path, options: str) -> list[str]:
    # A comma in a file name would end the option; QEMU takes two for one.
    file = str(path).replace(",", ",,")
    return _device(name, f"file={file}{options}")


def _logged(name: str, path: Path, log: Path) -> list[str]:
    data, log = (str(p).replace(",", ",,") for p in (path, log))
    below = f"file.driver=file,file.filename={data},file.locking=off,log.driver=file,log.filename={log}"
    return _device(name, f"{below},log-sector-size=512", "blklogwrites")


def _device(name: str, source: str, kind: str = "raw") -> list[str]:
    # QEMU's own way with a full disk of the host is to stop the machine without a word; an error the guest can tell.
    drive = f"if=none,id={name},format={kind},werror=report,rerror=report,{source}"
    return ["-drive", drive, "-device", f"virtio-blk-pci,drive={name},serial={name}"]


def _wire(folder: Path) -> list[str]:
    # Each datagram is one Ethernet frame; whoever has the other end is the network.
    ends = f"local.type=unix,local.path={folder}/guest,remote.type=unix,remote.path={folder}/host"
    return ["-netdev", f"dgram,id=wire,{ends}", "-device", "virtio-net-pci,netdev=wire,romfile="]


class Guest:
    """A running machine. Leaving the context ends it."""

    def __init__(self, parts: Parts, accelerator: str) -> None:
        self._parts = parts
        parts.console.unlink(missing_ok=True)
        parts.serial_log.write_bytes(b"")
        words = command(parts, accelerator)
        stdin = None if parts.on_terminal else subprocess.DEVNULL
        self.begun = time.monotonic()
        # The data disk's lock goes along: it must hold until QEMU itself is gone.
        self.process = subprocess.Popen(
            words, stdin=stdin, pass_fds=[disk.fileno() for disk in parts.held], preexec_fn=_die_with_parent
        )

    def __enter__(self) -> Guest:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def kill(self) -> None:
        """Stops the machine cold."""
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()

    def is_silent(self) -> bool:
        """Whether the machine lives and has printed nothing within the time that hung KVM guests are given."""
        deadline = self.begun + SILENCE_SECONDS
        while time.monotonic() < deadline:
            if self.process.poll() is not None or self._parts.serial_log.stat().st_size > 0:
                return False
            time.sleep(0.02)
        return True

    def serial_tail(self, lines: int = 60) -> str:
        """The last lines of the serial console."""
        text = self._parts.serial_log.read_bytes()[-65536:].decode(errors="replace")
        return "\n".join(text.replace("\r", "").splitlines()[-lines:])


def _die_with_parent() -> None:
    """QEMU does not outlive us, even if we are killed. prctl(2): the flag survives exec."""
    ctypes.CDLL(None).prctl(PDEATHSIG, signal.SIGKILL)
