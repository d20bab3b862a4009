#!/usr/bin/env python3
"""A QEMU for the tests of `qemu/run`: the console of a machine without the machine.

Under KVM it hangs without a word where FAKE_KVM is `hangs`, and ends with its number otherwise. Under TCG it says a
line on the serial console and answers the machine console: `hang` never, `fail` with 1, `poweroff` by ending.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import time
from pathlib import Path


def option(name: str) -> str:
    """The word behind an option."""
    return sys.argv[sys.argv.index(name) + 1]


def chardev(name: str, key: str) -> str:
    """A key of the character device of this id."""
    found = next(word for word in sys.argv if f"id={name}," in word and f"{key}=" in word)
    return next(part for part in found.split(",") if part.startswith(f"{key}=")).removeprefix(f"{key}=")


def main() -> None:
    """One life of a machine."""
    with open(os.environ["FAKE_LOG"], "a", encoding="utf-8") as log:
        log.write(json.dumps(sys.argv) + "\n")
    if option("-accel") == "kvm":
        if os.environ["FAKE_KVM"] == "hangs":
            time.sleep(600)
        sys.exit(int(os.environ["FAKE_KVM"]))
    Path(chardev("serial", "path")).write_text("a line of the kernel\n", encoding="utf-8")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(chardev("console", "path"))
        listener.listen()
        with listener.accept()[0] as connection:
            for line in connection.makefile("r", encoding="utf-8"):
                answer(connection, line.strip())


def answer(connection: socket.socket, command: str) -> None:
    """What the machine console says to one line."""
    text, code = "", 0
    match command.split(" ")[0]:
        case "poweroff":
            sys.exit(0)
        case "hang":
            time.sleep(600)
        case "fail":
            code = 1
        case "boot":
            text = json.dumps({"phases": [{"name": "ready", "begin_ns": 0, "end_ns": 1_250_000_000}]}) + "\n"
        case "":
            pass
        case _:
            text = f"did {command}\n"
    connection.sendall(f"{text}\x1e{code}\n".encode())


if __name__ == "__main__":
    main()
