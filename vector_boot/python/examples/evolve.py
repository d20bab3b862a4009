"""Improves the policy on a recorded trace, in this process or in a running machine, then shows what was judged.

    python examples/evolve.py                 # this process's own runtime; goes back to the base at the end
    python examples/evolve.py --run FOLDER    # the machine whose sockets lie there; its console shows `mutations`
"""

from __future__ import annotations

import argparse

from vector_boot import evolution


def main() -> None:
    """Ends with 1 if nothing was improved."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--run", help="folder of a running machine's sockets")
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--seed", type=int, default=1)
    words = parser.parse_args()
    trace = evolution.recorded(120, seed=words.seed)
    target = evolution.connect(words.run) if words.run else evolution.Local()
    with target:
        first = target.generation()
        done = evolution.improve(target, trace, steps=words.steps, seed=words.seed, progress=evolution.bar)
        print(f"loss {done.before:.6f} to {done.after:.6f}: {done.accepted} accepted, {done.refused} refused")
        refused = target.propose("kernel.limits", 0, b"\0" * 4, b"\0" * 4, 1.0)
        print(f"a change of kernel.limits: {refused.name}")
        if isinstance(target, evolution.Local):
            after = target.rollback(first)
            print(f"generation {after} is generation {first} again; {len(target.journal())} rows in the journal")
    if done.after >= done.before:
        raise SystemExit("nothing was improved")


if __name__ == "__main__":
    main()
