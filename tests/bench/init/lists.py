"""Writes the lists of functions that lie side by side in PID 1, and says how much of them there still is.

QEMU counts which blocks of instructions run between two functions (`touched.c`): `near.ld` is what a crash runs until
the services are watched again, `beat.ld` what the beats of a quiet machine run. Names are taken without what the
compiler draws anew for each build, so a list outlives changes of the code; what it does not have lies where it always
lay. `start.ld` is in the order of a start and was put together by hand: it is looked at here, and not written.
"""

from __future__ import annotations

import bisect
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

from machine import architecture, cache, kernel
from machine.report import HostError, say
from machine.toolchain import SOURCES, Executables

from . import boot, guest, ours

FOLDER = SOURCES / "vector_boot"
PLUGIN = Path(__file__).resolve().parent / "touched.c"
# A build with other units of compilation inlines others: a good list has from 0.81 of its names there to all.
THERE_MIN = 0.7
TAIL = "\t}\n}\nINSERT BEFORE .text;\n"


@dataclass(frozen=True)
class Written:
    """A list that this program writes."""

    name: str
    # The first function of what is counted, and the one that ends it: parts of their names.
    begin: str
    end: str
    # What the probe does meanwhile, see guest/launch.c.
    plan: str
    # How many of the counts are taken, from the last back.
    last: int
    head: str

    @property
    def path(self) -> Path:
        """Where it lies."""
        return FOLDER / f"{self.name}.ld"


WRITTEN = {
    "near": Written(
        "near",
        "sys8handover8on_crash",
        "init3why4note",
        "rc",
        1,
        """/* What a PID 1 runs from its crash until it supervises again, side by side.
 *
 * The kernel maps 16 pages around each page of a file that is touched first, which takes 7 to 9 us: strewn over the
 * whole executable these functions cost 60 such faults. Written by `python3 -m init --list near --profile quick`, with
 * `PYTHONPATH=qemu:tests/bench`. A pattern that meets nothing costs nothing, and what is missing is where it always
 * was. Everything else is as the linker's own script has it (INSERT). */
""",
    ),
    # A beat ends where the next begins, so every other one is counted: 30 counts are the last 6 of 10 quiet seconds,
    # in which all is done that is done once a second, and nothing that is done once behind a start.
    "beat": Written(
        "beat",
        "init5heart5Heart7on_beat",
        "init5heart5Heart7on_beat",
        "r",
        30,
        """/* What every beat runs, side by side and before all else: at rest nothing else of the executable is in memory, and the
 * kernel maps 16 pages around each that is touched.
 *
 * Written by `python3 -m init --list beat --profile quick`, with `PYTHONPATH=qemu:tests/bench`. A pattern that meets
 * nothing costs nothing, and what is missing is where it always was. */
""",
    ),
}
# In the order in which the linker is given them.
ALL = ("beat", "near", "start")


def write(wanted: Written, executables: Executables, scratch: Path) -> None:
    """Boots with the plugin, lets happen what the list is of, and writes it."""
    symbols = _symbols(executables.vector_boot)
    plugin, counted = cache.build_folder() / "touched.so", scratch / "touched"
    subprocess.run(["cc", "-O2", "-shared", "-fPIC", "-Wall", "-Wextra", "-o", plugin, PLUGIN], check=True)
    begin, end = (_address(symbols, part) for part in (wanted.begin, wanted.end))
    programs, image = guest.build(), kernel.debian(architecture.host())
    [peer, *_] = ours.peers_of(executables, programs.service, scratch)
    first = ours.first_archive(executables, image, scratch)
    file, _ = boot.archive_of(peer, programs, wanted.plan, first, scratch)
    boot.MACHINE.extend(["-plugin", f"{plugin},start={begin:x},stop={end:x},out={counted}"])
    boot.boot(image.image, file, peer.parameters, scratch / "list.log")
    names = names_of(counted.read_text(encoding="ascii"), wanted.last, symbols)
    kept = kept_of(wanted.path.read_text(encoding="ascii"), [name for _, name in symbols])
    lines = "".join(f"\t\t{line}\n" for line in sorted(kept.union(_lines(names))))
    wanted.path.write_text(f"{wanted.head}SECTIONS {{\n\t.{wanted.name} : {{\n{lines}{TAIL}", encoding="ascii")
    say(f"list: {len(names)} functions: path={wanted.path}")


def names_of(counted: str, last: int, symbols: list[tuple[int, str]]) -> set[str]:
    """The functions in which the blocks of the last counts lie."""
    addresses = [at for at, _ in symbols]
    counts = counted.split("total ")[-last:]
    blocks = {int(line.split()[0], 16) for count in counts for line in count.splitlines()[1:]}
    # The upper half is the kernel.
    begins = {addresses[bisect.bisect_right(addresses, at) - 1] for at in blocks if addresses[0] <= at < 1 << 63}
    return {name for at, name in symbols if at in begins}


def kept_of(text: str, names: list[str]) -> set[str]:
    """The lines that a list had, but for functions that are gone: another build inlines others, and calls these."""
    lines = {line.strip() for line in text.splitlines() if line.startswith("\t\t*")}
    return {line for line in lines if there_of(patterns_of(line), names) or line.startswith("*libc.a:")}


def hold(executables: Executables) -> bool:
    """Says of each list how many of its functions the executable has; False if one is of another time."""
    names = [name for _, name in _symbols(executables.vector_boot)]
    good = True
    for name in ALL:
        patterns = patterns_of((FOLDER / f"{name}.ld").read_text(encoding="ascii"))
        there = there_of(patterns, names)
        print(f"budget: {name}.ld functions={len(patterns)} there={there}")
        if there < THERE_MIN * len(patterns):
            print(f"budget: {name}.ld is of another time: write it anew, see its head")
            good = False
    return good


def patterns_of(text: str) -> set[str]:
    """The functions that a list names; those of the C library, which it names by file, do not change."""
    return {found.rstrip("*") for found in re.findall(r"\(\.text\.(_[^\s)]+)", text)}


def there_of(patterns: set[str], names: list[str]) -> int:
    """How many patterns meet a name, as the linker reads them: `*` is any text, `?` any letter."""
    wild = {"*": ".*", "?": "."}
    all_names = "\n".join(names)
    texts = ("".join(wild.get(letter, re.escape(letter)) for letter in pattern) for pattern in patterns)
    return sum(re.search(f"^{text}", all_names, re.MULTILINE) is not None for text in texts)


def _symbols(executable: Path) -> list[tuple[int, str]]:
    listed = subprocess.run(["nm", "--defined-only", executable], capture_output=True, text=True, check=True).stdout
    rows = [line.split() for line in listed.splitlines()]
    return sorted((int(at, 16), name) for at, kind, name in rows if kind in "tTwWi")


def _address(symbols: list[tuple[int, str]], part: str) -> int:
    for at, name in symbols:
        if part in name:
            return at
    raise HostError(f"list: no function {part} in the executable; a profile that keeps symbols is wanted")


def _lines(names: set[str]) -> list[str]:
    members = _members()
    # The hash behind a name with what the optimiser put behind it, and the crate's inside of one.
    hashes = r"17h[0-9a-f]{16}E(\.llvm\.\d+)?$"
    plain = {re.sub(hashes, "17h*", re.sub(r"(?<=C)s[0-9A-Za-z]+_", "s*_", name)) for name in names}
    ours_and_std = sorted(name for name in plain if name.startswith(("_R", "_ZN")))
    # What the compiler takes for seldom has a section of another name.
    lines = [f"*(.text.{name} .text.unlikely.{name})" for name in ours_and_std]
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
