"""Boots every peer once, prints a table; or holds our start against the budget, or watches ours for an hour.

One boot each: instructions are the clock, so a second one shows the same.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from pathlib import Path

from machine import architecture, kernel, toolchain
from machine.report import HostError, say

from . import boot, budget, guest, hour, lists, ours, peers

# What the probe does: starts, kills, zombies, and memory after all of it, once the machine is quiet again.
PLAN = "skzcrm"
COLUMNS = ["handoff to 3 services up, us", "SIGKILL to successor, us", "10,000 zombies, ms"]
COLUMNS += ["beats late meanwhile", "SIGSEGV to PID 1 until it supervises, us"]
COLUMNS += ["own anonymous, KiB", "PSS with helpers, KiB", "processes", "initramfs, bytes"]


def row(name: str, figures: boot.Figures) -> str:
    """One line of the table."""
    values = [_shown(value) for value in (figures.start_us, figures.kill_us, figures.zombies_ms)]
    # Nobody else counts beats or outlives a signal of its own.
    values += ["" if value is None else _shown(value) for value in (figures.late_beats, figures.crash_us)]
    values += [_shown(v) for v in (figures.anonymous_kib, figures.pss_kib, figures.processes, figures.archive_bytes)]
    return f"| {name} | {' | '.join(values)} |"


def _shown(value: float | None) -> str:
    if value is None:
        return "never"
    return f"{value:,.1f}" if isinstance(value, float) else f"{value:,}"


def _executables(args: argparse.Namespace) -> toolchain.Executables:
    host = architecture.host()
    return toolchain.Executables.of(Path(args.bin), host) if args.bin else toolchain.build(host, args.profile)


def measure(args: argparse.Namespace, scratch: Path) -> None:
    """Boots whom the words name and prints the table."""
    host = architecture.host()
    if host.name != "x86_64":
        raise HostError(f"bench: peers are set up for x86_64, this host is {host.name}")
    programs = guest.build()
    image = kernel.debian(host)
    executables = _executables(args)
    table = [peers.floor("floor", programs.floor), peers.floor("floor with mounts and cgroups", programs.floor_mounts)]
    table += [*peers.DEBIAN, *ours.peers_of(executables, programs.service, scratch)]
    first = ours.first_archive(executables, image, scratch)
    print(f"| PID 1 | {' | '.join(COLUMNS)} |\n|---|{'---|' * len(COLUMNS)}")
    for peer in table:
        if args.only and peer.name not in args.only.split(";"):
            continue
        file, own = boot.archive_of(peer, programs, args.plan, first if peer.is_ours else None, scratch)
        log = scratch / f"{peer.name}.log"
        try:
            figures = boot.boot(image.image, file, f"{peer.parameters} {args.append}".strip(), log)
        finally:
            if args.keep and log.exists():
                Path(args.keep).mkdir(parents=True, exist_ok=True)
                shutil.copy(log, args.keep)
        figures.archive_bytes = own
        print(row(peer.name, figures), flush=True)


def _ours(args: argparse.Namespace, executables: toolchain.Executables, plan: str, scratch: Path) -> boot.Figures:
    """Boots our own PID 1 for one plan; its console is kept where the words say so."""
    image = kernel.debian(architecture.host())
    programs = guest.build()
    [peer, *_] = ours.peers_of(executables, programs.service, scratch)
    first = ours.first_archive(executables, image, scratch)
    file, _ = boot.archive_of(peer, programs, plan, first, scratch)
    log = scratch / "ours.log"
    try:
        return boot.boot(image.image, file, f"{peer.parameters} {args.append}".strip(), log)
    finally:
        if args.keep and log.exists():
            Path(args.keep).mkdir(parents=True, exist_ok=True)
            shutil.copy(log, args.keep)


def hold(args: argparse.Namespace, scratch: Path) -> bool:
    """Whether our start needs no more than the budget allows, no beat is late, and what runs then holds no more."""
    if architecture.host().name != "x86_64":
        print(f"budget: not judged: recorded on x86_64, this host is {architecture.host().name}")
        return True
    executables = _executables(args)
    figures = _ours(args, executables, "szrm", scratch)
    if figures.start_us is None:
        raise HostError("budget: not all services started; --keep FOLDER keeps the machine's console")
    under = kernel.debian(architecture.host())
    start = budget.holds(args.profile, figures.start_us, under, args.record)
    beats = budget.holds_beats(figures)
    memory = budget.holds_memory(args.profile, figures, under)
    # Another compiler makes other functions of the same sources.
    named = bool(budget.others_than(args.profile, under)) or lists.hold(executables)
    return memory and start and beats and named


def main() -> int:
    """Reads the words; ends with 1 if something on the host is not as it must be."""
    parser = argparse.ArgumentParser(prog="python3 -m init", description=__doc__)
    parser.add_argument("--bin", help="folder of vector_boot and vb-services; built by default")
    parser.add_argument("--profile", default="appliance", help="cargo's, of what is built and budgeted")
    parser.add_argument("--only", help="names of the table, with semicolons between")
    parser.add_argument("--plan", default=PLAN, help="what the probe does, see guest/launch.c")
    parser.add_argument("--append", default="", help="further words for the kernel's command line")
    parser.add_argument("--keep", help="folder for the consoles of the machines")
    parser.add_argument("--hour", action="store_true", help="our own PID 1 for an hour of the machine's time")
    parser.add_argument("--budget", action="store_true", help="hold our start against the budget, nothing else")
    parser.add_argument("--list", choices=lists.WRITTEN, help="write which functions lie side by side, nothing else")
    parser.add_argument("--record", action="store_true", help="with --budget: make what is found the budget")
    args = parser.parse_args()
    try:
        with tempfile.TemporaryDirectory() as scratch:
            if args.hour:
                return 0 if hour.holds(_ours(args, _executables(args), "h", Path(scratch))) else 1
            if args.list:
                lists.write(lists.WRITTEN[args.list], _executables(args), Path(scratch))
                return 0
            if args.budget:
                return 0 if hold(args, Path(scratch)) else 1
            measure(args, Path(scratch))
    except HostError as error:
        say(f"bench: {error}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
