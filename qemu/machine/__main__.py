"""`python3 -m machine` is `qemu/run`."""

import sys

from .run import main

if __name__ == "__main__":
    sys.exit(main())
