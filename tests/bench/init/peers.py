"""Who is measured: two floors in C, every PID 1 that Debian 12 packages, and ours.

Each peer is set up as its manual says for three services that are always to run and to be restarted at once.
A peer's packages are unpacked into the cache and never installed: no host needs a second init.
"""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from machine import cache
from machine.report import HostError, say

from .archive import Archive

LETTERS = "abc"
SERVICE = "/bench/service"


@dataclass(frozen=True)
class Peer:
    """A PID 1: how its files get into the archive, and the words that start it."""

    name: str
    words: list[str]
    fill: Callable[[Archive], None]
    # Debian packages beside those of the host; the first is the peer's own.
    packages: list[str] = field(default_factory=list)
    # Words on the kernel's command line.
    parameters: str = ""
    # Whether its initramfs is the product's own.
    is_ours: bool = False


def floor(name: str, program: Path) -> Peer:
    """One of the measures in C."""
    return Peer(name, ["/bench/init"], lambda archive: archive.file("/bench/init", program))


def _shell(archive: Archive) -> None:
    archive.program("/bin/busybox")
    archive.link("/bin/sh", "busybox")


def _busybox(archive: Archive) -> None:
    archive.program("/bin/busybox")
    archive.link("/sbin/init", "../bin/busybox")
    archive.file("/etc/inittab", "".join(f"::respawn:{SERVICE} {letter}\n" for letter in LETTERS), 0o644)


def _runit(archive: Archive) -> None:
    for program in ("/sbin/runit", "/usr/bin/runsvdir", "/usr/bin/runsv"):
        archive.program(program)
    _shell(archive)
    for stage, does in (("1", "exit 0"), ("2", "PATH=/usr/bin exec /usr/bin/runsvdir /etc/service"), ("3", "exit 0")):
        archive.file(f"/etc/runit/{stage}", f"#!/bin/sh\n{does}\n")
    for letter in LETTERS:
        archive.link(f"/etc/service/{letter}/run", SERVICE)


def _s6(archive: Archive) -> None:
    for program in ("/usr/bin/s6-svscan", "/usr/bin/s6-supervise"):
        archive.program(program)
    for letter in LETTERS:
        archive.link(f"/service/{letter}/run", SERVICE)


def _finit(archive: Archive) -> None:
    archive.program("/sbin/finit")
    _shell(archive)
    lines = [f"service :{n} [S12345] name:{letter} <!> {SERVICE} {letter} --\n" for n, letter in enumerate(LETTERS, 1)]
    archive.file("/etc/finit.conf", "host bench\nrunlevel 2\n" + "".join(lines), 0o644)
    archive.file("/etc/fstab", "", 0o644)
    _users(archive)


def _tini(archive: Archive) -> None:
    # It supervises nothing: a shell starts the services, and none of them comes back.
    archive.program("/usr/bin/tini-static")
    _shell(archive)
    starts = "".join(f"{SERVICE} {letter} &\n" for letter in LETTERS)
    archive.file("/bench/start", f"#!/bin/sh\n{starts}while :; do wait; done\n")


def _systemd(archive: Archive) -> None:
    archive.program("/lib/systemd/systemd")
    archive.file("/etc/machine-id", "0" * 31 + "1\n", 0o644)
    archive.file("/etc/os-release", "ID=bench\n", 0o644)
    archive.file("/etc/systemd/system.conf", "[Manager]\nShowStatus=no\nDefaultTasksMax=infinity\n", 0o644)
    _users(archive)
    wanted = " ".join(f"{letter}.service" for letter in LETTERS)
    units = "/etc/systemd/system"
    archive.file(f"{units}/default.target", f"[Unit]\nDefaultDependencies=no\nWants={wanted}\n", 0o644)
    for letter in LETTERS:
        unit = "[Unit]\nDefaultDependencies=no\nStartLimitIntervalSec=0\n[Service]\nRestart=always\nRestartSec=0\n"
        unit += f"ExecStart={SERVICE} {letter}\nStandardOutput=null\nStandardError=null\n"
        archive.file(f"{units}/{letter}.service", unit, 0o644)


def _users(archive: Archive) -> None:
    archive.file("/etc/passwd", "root:x:0:0:root:/root:/bin/sh\n", 0o644)
    archive.file("/etc/group", "root:x:0:\n", 0o644)


DEBIAN = [
    Peer("busybox", ["/sbin/init"], _busybox, ["busybox-static"]),
    Peer("runit", ["/sbin/runit"], _runit, ["runit", "busybox-static"]),
    Peer("s6-svscan", ["/usr/bin/s6-svscan", "/service"], _s6, ["s6"]),
    Peer("finit", ["/sbin/finit"], _finit, ["finit", "busybox-static"]),
    Peer("tini", ["/usr/bin/tini-static", "/bench/start"], _tini, ["tini", "busybox-static"]),
    Peer("systemd", ["/lib/systemd/systemd"], _systemd, ["systemd"], "systemd.log_target=kmsg"),
]


def unpacked(peer: Peer) -> list[Path]:
    """The trees that a peer's programs and libraries are taken from: its packages in the cache, then the host."""
    if not peer.packages:
        return [Path("/")]
    home = cache.folder("peers")
    tree = home / peer.name
    with cache.alone(tree):
        if not tree.is_dir():
            _fetch(peer, tree, home)
    return [tree, Path("/")]


def _fetch(peer: Peer, tree: Path, home: Path) -> None:
    wanted = [package for package in peer.packages if package not in _installed()]
    wanted += [package for package in _libraries(peer.packages) if package not in _installed()]
    say(f"peer {peer.name}: fetching {' '.join(wanted) or 'nothing, the host has it'}")
    with tempfile.TemporaryDirectory(dir=home) as scratch:
        fresh = Path(scratch, "tree")
        fresh.mkdir()
        if wanted:
            _call(["apt-get", "download", "-q", "-o", "APT::Sandbox::User=root", *wanted], scratch)
        for package in sorted(Path(scratch).glob("*.deb")):
            _call(["dpkg-deb", "--extract", str(package), str(fresh)], scratch)
        fresh.rename(tree)


def _installed() -> set[str]:
    said = subprocess.run(["dpkg-query", "-W", "-f", "${db:Status-Abbrev}${Package}\n"], capture_output=True, text=True)
    return {line[3:].strip() for line in said.stdout.splitlines() if line.startswith("ii")}


def _libraries(packages: list[str]) -> list[str]:
    """The shared libraries among all that the packages depend on."""
    kinds = ("recommends", "suggests", "conflicts", "breaks", "replaces", "enhances")
    words = ["apt-cache", "depends", "--recurse", *(f"--no-{kind}" for kind in kinds), *packages]
    said = subprocess.run(words, capture_output=True, text=True, check=False).stdout
    return sorted({line for line in said.splitlines() if line.startswith("lib") and ":" not in line})


def _call(words: list[str], where: str) -> None:
    done = subprocess.run(words, cwd=where, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    if done.returncode != 0:
        raise HostError(f"peers: {' '.join(words[:2])} failed: {' | '.join(done.stdout.strip().splitlines()[-3:])}")
