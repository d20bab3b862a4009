"""Improves the policy on a trace, in this process or in a running machine, then shows what was judged.

    python examples/evolve.py                 # this process's own runtime; goes back to the base at the end
    python examples/evolve.py --run FOLDER    # the machine whose sockets lie there; its console shows `mutations`
    python examples/evolve.py --record FILE   # first records 100 beats of that machine, or of this host, and uses them
    python examples/evolve.py --trace FILE    # a trace that was recorded before, or by the console's `hw --watch --json`

Without a recorded trace it makes one up, the same for the same seed.
"""

from __future__ import annotations

import argparse

from vector_boot import evolution


def main() -> None:
    """Ends with 1 if nothing was improved."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--run", help="folder of a running machine's sockets")
    parser.add_argument("--record", metavar="FILE", help="record a trace there first")
    parser.add_argument("--trace", metavar="FILE", help="a recorded trace")
    parser.add_argument("--beats", type=int, default=100, help="of a trace that is recorded")
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--seed", type=int, default=1)
    words = parser.parse_args()
    if words.record:
        print(f"{evolution.record(words.record, words.beats, words.run)} beats recorded")
    recorded = words.record or words.trace
    trace = evolution.trace(recorded) if recorded else evolution.recorded(120, seed=words.seed)
    target = evolution.connect(words.run) if words.run else evolution.Local()
    with target:
        first = target.generation()
        done = evolution.improve(target, trace, steps=words.steps, seed=words.seed, progress=evolution.bar)
        print(f"loss {done.before:.6f} to {done.after:.6f}: {done.accepted} accepted, {done.refused} refused")
        refused = target.propose("kernel.limits", 0, b"\0" * 4, b"\0" * 4, 1.0)
        print(f"a change of kernel.limits: {refused.name}")
        verdicts = [row["verdict"] for row in target.journal()]
        print(f"the newest verdicts: {', '.join(verdicts[-3:])}")
        if not words.run:
            after = target.rollback(first)
            print(f"generation {after} is generation {first} again")
    if done.after >= done.before:
        raise SystemExit("nothing was improved")


if __name__ == "__main__":
    main()
