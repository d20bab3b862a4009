"""The budget: how many microseconds of instructions our start may take, and under what it was recorded.

The figure is the same on every host, as long as kernel, emulator and compiler are. Where one of them is another,
the difference says nothing about our code: it is shown and not judged, until somebody records anew.
"""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

from machine import architecture, toolchain
from machine.kernel import Kernel
from machine.report import say

from .boot import Figures

FILE = Path(__file__).resolve().parent / "budget.json"
# What one change may add without saying so.
GROWTH = 1.03


# KiB at rest, whatever it runs under: what PID 1 has of its own, and what it costs with its helpers. The bars are for
# what ships; every other build has more code. The second is judged under what was recorded alone: with names of
# another compiler or library `beat.ld` meets nothing, and what every beat runs lies where it was.
MEMORY_KIB_MAX = {"appliance": (128, 1_700), "quick": (160, 2_048)}


def holds_memory(profile: str, figures: Figures, kernel: Kernel) -> bool:
    """Says what PID 1 holds once the machine is quiet; False if it is over a limit."""
    own, pss = figures.anonymous_kib or 0, figures.pss_kib or 0
    own_max, pss_max = MEMORY_KIB_MAX.get(profile, MEMORY_KIB_MAX["quick"])
    print(f"budget: anonymous_kib={own} allowed={own_max} pss_kib={pss} allowed={pss_max}")
    others = others_than(profile, kernel)
    if others:
        print(f"budget: pss_kib not judged: another {', '.join(others)}")
    return 0 < own <= own_max and 0 < pss and (bool(others) or pss <= pss_max)


def others_than(profile: str, kernel: Kernel) -> list[str]:
    """What is another than when the budget was recorded."""
    recorded = json.loads(FILE.read_text(encoding="ascii")).get(profile, {})
    return [key for key, value in _under(kernel).items() if recorded.get(key) != value]


def _under(kernel: Kernel) -> dict[str, str]:
    """What the figure depends on beside our code."""
    emulator = subprocess.run(["qemu-system-x86_64", "--version"], capture_output=True, text=True, check=True).stdout
    tools = toolchain.find(architecture.host().target)
    compiler = subprocess.run([tools.rustc, "--version"], capture_output=True, text=True, check=True).stdout
    return {"kernel": kernel.image.name, "emulator": emulator.splitlines()[0], "compiler": compiler.strip()}


def holds_beats(figures: Figures) -> bool:
    """False if a beat came late while ten thousand zombies were reaped, or nobody reaped them."""
    print(f"budget: zombies_ms={figures.zombies_ms} late_beats={figures.late_beats}")
    return figures.zombies_ms is not None and figures.late_beats == 0


def holds(profile: str, start_us: int, kernel: Kernel, record: bool) -> bool:
    """Says what was found beside the budget of a build profile; False if it is over it."""
    under = _under(kernel)
    budgets = json.loads(FILE.read_text(encoding="ascii"))
    if record:
        budgets[profile] = {"start_us": start_us, **under}
        FILE.write_text(json.dumps(budgets, indent=1) + "\n", encoding="ascii")
        say(f"budget: recorded profile={profile} start_us={start_us}")
        return True
    recorded = budgets.get(profile)
    if recorded is None:
        print(f"budget: not judged: none for profile {profile}, start_us={start_us}; record one with --record")
        return True
    allowed = int(recorded.pop("start_us") * GROWTH)
    others = [f"{key} is {under[key]}, recorded with {value}" for key, value in recorded.items() if under[key] != value]
    print(f"budget: start_us={start_us} allowed={allowed}")
    if others:
        print(f"budget: not judged: {'; '.join(others)}; record anew with --record")
        return True
    if start_us > allowed:
        print(f"budget: start_us {start_us}, limit {allowed}: find what was added, or say why and --record")
    return start_us <= allowed
