"""Boots one peer and reads what its probe says."""

from __future__ import annotations

import re
import statistics
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

from machine.report import HostError

from .archive import Archive
from .guest import Guest
from .peers import LETTERS, Peer, unpacked

# Seconds of the host; a boot takes ten, on a busy host a minute.
LIMIT_SECONDS = 600
# As many as guest/launch.c makes: fewer are another figure.
ZOMBIES = 10_000
# One instruction is one nanosecond of the machine's time, and idle time is skipped: no figure depends on the host.
MACHINE = ["-accel", "tcg", "-icount", "shift=0,sleep=off", "-rtc", "base=2026-01-01T00:00:00,clock=vm", "-seed", "1"]
MACHINE += ["-M", "pc", "-cpu", "qemu64", "-smp", "1", "-m", "2048", "-nodefaults", "-display", "none", "-no-reboot"]
# No word here that the kernel does not know: it would hand it to PID 1.
PARAMETERS = "rdinit=/bench/launch console=ttyS0 loglevel=1 printk.devkmsg=on panic=-1 reboot=t tsc=reliable "
PARAMETERS += "norandmaps random.trust_cpu=off"


@dataclass
class Figures:
    """What one boot showed; None where the peer did not do it."""

    start_us: int | None = None
    kill_us: int | None = None
    zombies_ms: float | None = None
    # Beats of ours that came late meanwhile; None where nobody counts them.
    late_beats: int | None = None
    # SIGSEGV to PID 1 until it watches its services again, all of them alive.
    crash_us: int | None = None
    anonymous_kib: int | None = None
    pss_kib: int | None = None
    processes: int = 0
    archive_bytes: int = 0
    # Lines of the probe's other phases, by their mark.
    lines: dict[str, list[str]] = field(default_factory=dict)


def archive_of(peer: Peer, guest: Guest, plan: str, first: Path | None, scratch: Path) -> tuple[Path, int]:
    """The initramfs of a peer, and its bytes without what is there to measure it."""
    folder = scratch / peer.name
    folder.mkdir()
    archive = Archive(folder, unpacked(peer))
    peer.fill(archive)
    out = scratch / f"{peer.name}.cpio"
    archive.write(out, first)
    own = out.stat().st_size
    archive.file("/bench/launch", guest.launch)
    archive.file("/bench/service", guest.service)
    archive.file("/bench/argv", "".join(f"{word}\0" for word in peer.words), 0o644)
    archive.file("/bench/plan", plan, 0o644)
    archive.write(out, first)
    return out, own


def boot(kernel: Path, archive: Path, parameters: str, log: Path) -> Figures:
    """Boots, waits for the probe's end, and reads its lines; the whole output stays in `log`."""
    words = ["qemu-system-x86_64", *MACHINE, "-serial", f"file:{log}", "-kernel", kernel, "-initrd", archive]
    words += ["-append", f"{PARAMETERS} {parameters}".strip()]
    try:
        subprocess.run(words, stdin=subprocess.DEVNULL, check=True, timeout=LIMIT_SECONDS)
    except (subprocess.TimeoutExpired, subprocess.CalledProcessError) as error:
        ended = "timed out" if isinstance(error, subprocess.TimeoutExpired) else f"ended with {error.returncode}"
        said = log.read_text(encoding="utf-8", errors="replace") if log.exists() else ""
        raise HostError(f"{archive.name}: QEMU {ended}; its console ends with: {said[-1000:]}") from None
    return read(log.read_text(encoding="utf-8", errors="replace"))


def read(text: str) -> Figures:
    """The probe's lines as figures."""
    figures = Figures()
    starts: dict[str, int] = {}
    kills: list[int] = []
    for line in text.splitlines():
        found = re.match(r"R (\w+) ?(.*)", line.lstrip("\r\0"))
        if not found:
            continue
        kind, rest = found.groups()
        number = {key: int(value) for key, value in re.findall(r"(\w+)=(-?\d+)", rest)}
        if kind == "start":
            starts[rest[0]] = number["us"]
        elif kind == "memory":
            if rest.startswith("1 "):
                # The first of a list, since /proc is in the order of pids: the last list counts.
                figures.anonymous_kib, figures.pss_kib, figures.processes = number["anon"], 0, 0
            figures.processes += 1
            figures.pss_kib = (figures.pss_kib or 0) + number["pss"]
        elif kind == "kill" and "ns" in number:
            kills.append(number["ns"])
        elif kind == "zombies" and number["left"] <= 0 and number["peak"] >= ZOMBIES:
            figures.zombies_ms = number["reaped_us"] / 1000
            figures.late_beats = number["late"] if number["late"] >= 0 else None
        elif kind == "crash" and number.get("alive") == len(LETTERS):
            figures.crash_us = round(number["ns"] / 1000)
        figures.lines.setdefault(kind, []).append(rest.rstrip())
    if len(starts) == len(LETTERS):
        figures.start_us = max(starts.values())
    # One that never came back has no median.
    if kills and "none" not in figures.lines["kill"]:
        figures.kill_us = round(statistics.median(kills) / 1000)
    return figures
