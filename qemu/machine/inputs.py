"""Builds and fetches everything that the tests boot, so that the tests themselves need no network.

Prints one line `NAME=PATH` for each: `bin` the folder of the executables, `model` the real model, `kernel` the image.
"""

from __future__ import annotations

import sys

from . import kernel, model, toolchain
from .report import HostError, say


def main() -> int:
    """Makes what is missing, then prints where it is."""
    try:
        executables = toolchain.build()
        print(f"bin={executables.vector_boot.parent}")
        print(f"model={model.find(model.NAME)}")
        print(f"kernel={kernel.debian().image}")
    except HostError as error:
        say(f"inputs: {error}")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
