"""Writes `vector_boot/near.ld`: which functions lie side by side, because a crash of PID 1 runs them.

QEMU counts what runs between the crash handler and the moment in which the services are watched again (`touched.c`).
Names are taken without what the compiler draws anew for each build, so the list outlives changes of the code; what it
does not have lies where it always lay.
"""

from __future__ import annotations

import bisect
import re
import subprocess
from pathlib import Path

from machine import architecture, cache, kernel
from machine.report import HostError, say
from machine.toolchain import SOURCES, Executables

from . import boot, guest, ours

OUT = SOURCES / "vector_boot" / "near.ld"
PLUGIN = Path(__file__).resolve().parent / "touched.c"
# The first instruction of the handler, and of what is called when the services are watched again.
BEGIN, END = ("sys8handover8on_crash", "init3why4note")
HEAD = """/* What a PID 1 runs from its crash until it supervises again, side by side.
 *
 * The kernel maps 16 pages around each page of a file that is touched first, which takes 7 to 9 us: strewn over the
 * whole executable these functions cost 60 such faults. Written by `python3 -m init --near --profile quick`, with
 * `PYTHONPATH=qemu:tests/bench`. A pattern that meets nothing costs nothing, and what is missing is where it always
 * was. Everything else is as the linker's own script has it (INSERT). */
SECTIONS {
\t.near : {
"""
TAIL = "\t}\n}\nINSERT BEFORE .text;\n"


def write(executables: Executables, scratch: Path) -> None:
    """Boots with the plugin, crashes PID 1 once, and writes the list."""
    symbols = _symbols(executables.vector_boot)
    plugin, counted = cache.build_folder() / "touched.so", scratch / "touched"
    subprocess.run(["cc", "-O2", "-shared", "-fPIC", "-Wall", "-Wextra", "-o", plugin, PLUGIN], check=True)
    words = f"{plugin},start={_address(symbols, BEGIN):x},stop={_address(symbols, END):x},out={counted}"
    programs, image = guest.build(), kernel.debian(architecture.host())
    [peer, *_] = ours.peers_of(executables, programs.service, scratch)
    first = ours.first_archive(executables, image, scratch)
    file, _ = boot.archive_of(peer, programs, "rc", first, scratch)
    boot.MACHINE.extend(["-plugin", words])
    boot.boot(image.image, file, peer.parameters, scratch / "near.log")
    names = _names(counted.read_text(encoding="ascii"), symbols)
    OUT.write_text(HEAD + "".join(f"\t\t{line}\n" for line in _lines(names)) + TAIL, encoding="ascii")
    say(f"near: {len(names)} functions: path={OUT}")


def _symbols(executable: Path) -> list[tuple[int, str]]:
    listed = subprocess.run(["nm", "--defined-only", executable], capture_output=True, text=True, check=True).stdout
    rows = [line.split() for line in listed.splitlines()]
    return sorted((int(at, 16), name) for at, kind, name in rows if kind in "tTwWi")


def _address(symbols: list[tuple[int, str]], part: str) -> int:
    for at, name in symbols:
        if part in name:
            return at
    raise HostError(f"near: no function {part} in the executable; a profile that keeps symbols is wanted")


def _names(counted: str, symbols: list[tuple[int, str]]) -> set[str]:
    addresses = [at for at, _ in symbols]
    blocks = [int(line.split()[0], 16) for line in counted.splitlines() if not line.startswith("total")]
    # The upper half is the kernel.
    begins = {addresses[bisect.bisect_right(addresses, at) - 1] for at in blocks if at < 1 << 63}
    return {name for at, name in symbols if at in begins}


def _lines(names: set[str]) -> list[str]:
    members = _members()
    # The hash behind a name, and the crate's inside of one.
    sections = {re.sub(r"17h[0-9a-f]{16}E$", "17h*", re.sub(r"(?<=C)s[0-9A-Za-z]+_", "s*_", n)) for n in names}
    lines = [f"*(.text.{name})" for name in sorted(sections) if name.startswith(("_R", "_ZN"))]
    objects = {member for name in names for member in members.get(name, [])}
    return lines + [f"*libc.a:{member}(.text .text.*)" for member in sorted(objects)]


def _members() -> dict[str, list[str]]:
    """Where the C library, which has no section a function, defines what; names of more than one member are left out."""
    words = ["cc", "-print-file-name=libc.a"]
    library = subprocess.run(words, capture_output=True, text=True, check=True).stdout.strip()
    listed = subprocess.run(["nm", "-A", "--defined-only", library], capture_output=True, text=True, check=True).stdout
    found: dict[str, set[str]] = {}
    for member, name in re.findall(r":([^:]+):[0-9a-f]+ [tTwWi] (\S+)$", listed, re.MULTILINE):
        found.setdefault(name, set()).add(member)
    return {name: sorted(members) for name, members in found.items() if len(members) == 1}
