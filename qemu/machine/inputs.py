"""Builds and fetches everything that the tests boot, so that the tests themselves need no network.

Prints one line `NAME=PATH` for each: `model` the real model, `bin` the folder of the executables and `kernel` the
image; for the architecture that is not the host's these are `bin.ARCH` and `kernel.ARCH`, unless a word says `host`.
"""

from __future__ import annotations

import sys

from . import architecture, kernel, model, toolchain
from .report import HostError, say


def main() -> int:
    """Makes what is missing, then prints where it is."""
    try:
        host = architecture.host()
        for arch in [host] if "host" in sys.argv[1:] else architecture.ALL.values():
            suffix = "" if arch == host else f".{arch.name}"
            print(f"bin{suffix}={toolchain.build(arch).vector_boot.parent}")
            print(f"kernel{suffix}={kernel.debian(arch).image}")
        print(f"model={model.find(model.NAME)}")
    except HostError as error:
        say(f"inputs: {error}")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
