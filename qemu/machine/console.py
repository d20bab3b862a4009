"""A client of the machine console: one command a line, an answer that ends with byte 0x1e, a code, a line feed."""

from __future__ import annotations

import select
import socket
import time
from dataclasses import dataclass
from pathlib import Path

END = b"\x1e"
# A command's output; the console itself bounds what it prints well below this.
ANSWER_BYTES_MAX = 64 << 20
# While nobody listens in the guest, an empty line is sent this often until one is answered.
KNOCK_SECONDS = 0.5


class ConsoleClosed(Exception):
    """The machine ended while an answer was awaited."""


class ConsoleLate(Exception):
    """The deadline passed while an answer was awaited."""


@dataclass(frozen=True)
class Answer:
    """What a command printed, and its exit code."""

    text: str
    code: int


class Console:
    """One connection to the socket that QEMU made for the guest's /dev/hvc0."""

    def __init__(self, path: Path, deadline: float) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._pending = b""
        while True:
            try:
                self._socket.connect(str(path))
                return
            except (FileNotFoundError, ConnectionRefusedError):
                if time.monotonic() > deadline:
                    self._socket.close()
                    raise ConsoleLate from None
                time.sleep(0.02)

    def close(self) -> None:
        """Leaves the console to the next client."""
        self._socket.close()

    def synchronise(self, deadline: float) -> None:
        """Waits until the guest's console answers, and leaves nothing unread.

        Lines sent before the console has opened its end may be lost or echoed, so some of the empty lines are
        answered and some are not. `help` always prints something: its answer is the first that is not blank.
        """
        while True:
            self._send("")
            try:
                self._answer(min(deadline, time.monotonic() + KNOCK_SECONDS))
                break
            except ConsoleLate:
                if time.monotonic() > deadline:
                    raise
        self._send("help")
        while not self._answer(deadline).text.strip():
            pass

    def run(self, command: str, deadline: float) -> Answer:
        """Runs one command to its end."""
        self._send(command)
        return self._answer(deadline)

    def _answer(self, deadline: float) -> Answer:
        while True:
            text, mark, rest = self._pending.partition(END)
            code, ended, rest = rest.partition(b"\n")
            if mark and ended:
                self._pending = rest
                return Answer(text.decode(errors="replace"), int(code.strip() or b"255"))
            if len(self._pending) > ANSWER_BYTES_MAX:
                raise ConsoleClosed
            wait = deadline - time.monotonic()
            if wait <= 0 or not select.select([self._socket], [], [], wait)[0]:
                raise ConsoleLate
            try:
                more = self._socket.recv(65536)
            except ConnectionError:
                more = b""
            if not more:
                raise ConsoleClosed
            self._pending += more

    def _send(self, line: str) -> None:
        try:
            self._socket.sendall(line.encode() + b"\n")
        except ConnectionError:
            raise ConsoleClosed from None
