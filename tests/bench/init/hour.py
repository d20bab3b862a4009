"""An hour of the machine's time under our PID 1: kills and questions each minute, and nothing may grow.

Idle time costs the emulator nothing, so the hour takes some minutes of the host's.
"""

from __future__ import annotations

import json
import re

from machine.report import HostError

from .boot import Figures

# The first minutes still settle: caches of the kernel, places that are touched for the first time.
SETTLED_MINUTE = 5
LAST_MINUTE = 60
# What may differ between two quiet moments, in KiB: pages that a beat happens to touch, and the kernel's own caches.
NOISE_KIB = {"anon": 8, "services": 16, "slab": 512}
EQUAL = ("fds", "threads", "cgroups", "dying")
# A beat each 100 ms; the first minute began when the machine had settled, the last ends with the last question.
BEATS_LEAST = 61 * 600


def holds(figures: Figures) -> bool:
    """Prints what each tenth minute held; False if something grew or a beat was missed."""
    accounts = [
        {key: int(value) for key, value in re.findall(r"(\w+)=(\d+)", line)} for line in figures.lines.get("hour", [])
    ]
    if len(accounts) != LAST_MINUTE + 1 or not figures.lines.get("beat"):
        raise HostError(f"hour: {len(accounts)} accounts; --keep FOLDER keeps the machine's console")
    columns = [*NOISE_KIB, *EQUAL]
    print(f"| minute | {' | '.join(columns)} |\n|---|{'---|' * len(columns)}")
    for account in accounts:
        if account["minute"] % 10 == 0 or account["minute"] == SETTLED_MINUTE:
            print(f"| {account['minute']} | {' | '.join(str(account[key]) for key in columns)} |")
    first, last = accounts[SETTLED_MINUTE], accounts[LAST_MINUTE]
    wrong = [f"{key} from {first[key]} to {last[key]}" for key in EQUAL if last[key] != first[key]]
    wrong += [
        f"{key} from {first[key]} to {last[key]} KiB, {noise} is noise"
        for key, noise in NOISE_KIB.items()
        if last[key] > first[key] + noise
    ]
    beat = json.loads(figures.lines["beat"][-1])
    print(f"beats={beat['count']} missed={beat['missed']} coalesced={beat['coalesced']} late_max_ns={beat['late_max_ns']}")
    if beat["missed"] or beat["count"] + beat["coalesced"] < BEATS_LEAST:
        wrong.append(f"beats: {beat['count']} counted, {beat['missed']} missed, at least {BEATS_LEAST} are due")
    for what in wrong:
        print(f"hour: {what}")
    return not wrong
