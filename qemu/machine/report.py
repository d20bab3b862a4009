"""What a person sees of the work on the host: phases with their seconds, and errors of one line.

Everything goes to stderr, so that stdout carries only what the machine's console printed.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager


class HostError(Exception):
    """Something on the host is not as it must be; the message is one line that says what to do."""


def say(line: str) -> None:
    """One line for the person. The terminal may be raw (QEMU has it), so the line returns the carriage itself."""
    end = "\r\n" if sys.stderr.isatty() else "\n"
    sys.stderr.write(line + end)
    sys.stderr.flush()


@contextmanager
def phase(name: str) -> Iterator[None]:
    """Says how long a step took, if it took long enough to be felt."""
    begun = time.monotonic()
    yield
    seconds = time.monotonic() - begun
    if seconds >= 0.5:
        say(f"{name}: {seconds:.1f} s")
