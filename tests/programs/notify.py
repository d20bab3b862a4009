"""A service that reports by libsystemd itself, the protocol's reference; each start says what it found.

argv[1] is a folder: the number of the start is counted in it.
"""

import ctypes
import os
import signal
import sys
import time
from pathlib import Path

sd = ctypes.CDLL("libsystemd.so.0")
folder = Path(sys.argv[1])


def say(text: str) -> None:
    print(text, flush=True)


def notify(text: str) -> None:
    sent = sd.sd_notify(0, text.encode())
    assert sent > 0, (text, sent)


def with_descriptors(text: str, *descriptors: int) -> None:
    array = (ctypes.c_int * len(descriptors))(*descriptors)
    sent = sd.sd_pid_notify_with_fds(0, 0, text.encode(), array, len(descriptors))
    assert sent > 0, (text, sent)


def barrier() -> str:
    # Waits until PID 1 has closed the descriptor of BARRIER=1.
    return "passed" if sd.sd_notify_barrier(0, ctypes.c_uint64(30_000_000)) > 0 else "not passed"


def found() -> dict[str, int]:
    names = ctypes.POINTER(ctypes.c_char_p)()
    count = sd.sd_listen_fds_with_names(0, ctypes.byref(names))
    return {names[i].decode(): 3 + i for i in range(count)}


def memory(content: bytes) -> int:
    fd = os.memfd_create("left")
    os.write(fd, content)
    return fd


def live() -> None:
    while True:
        notify("WATCHDOG=1")
        time.sleep(0.05)


start = len(list(folder.glob("start-*"))) + 1
(folder / f"start-{start}").touch()
given = found()
every = ctypes.c_uint64()
watched = sd.sd_watchdog_enabled(0, ctypes.byref(every))
say(f"start {start}: found {','.join(given)} watchdog {watched} {every.value} store {os.environ['FDSTORE']}")
if start == 1:
    with_descriptors("FDSTORE=1\nFDNAME=conn\nFDPOLL=0", memory(b"left by the first"))
    kept = memory(b"twice the same")
    for _ in range(2):
        with_descriptors("FDSTORE=1\nFDNAME=twice", kept)
    # No room for it, and no place under this name.
    with_descriptors("FDSTORE=1\nFDNAME=more", memory(b""))
    with_descriptors("FDSTORE=1\nFDNAME=front", memory(b""))
    notify("READY=1\nSTATUS=first\nMAINPID=1\nX_UNKNOWN=1")
    say(f"barrier {barrier()}")
    live()
elif start == 2:
    say(f"conn holds {os.pread(given['conn'], 100, 0).decode()}")
    notify("READY=1\nSTATUS=second")
    say(f"barrier {barrier()}")
    # From here on it gives no sign of life: SIGABRT comes before SIGKILL.
    signal.signal(signal.SIGABRT, lambda *_: (say("told to abort"), os._exit(6)))
    while True:
        signal.pause()
elif start == 3:
    notify("FDSTOREREMOVE=1\nFDNAME=conn")
    notify("READY=1\nWATCHDOG_USEC=60000000")
    notify("RELOADING=1\nMONOTONIC_USEC=1")
    notify("READY=1")
    notify("WATCHDOG=trigger")
    signal.pause()
elif start == 4:
    notify("READY=1")
    notify("STOPPING=1\nSTATUS=ends by itself")
    say(f"barrier {barrier()}")
    sys.exit(0)
else:
    notify(f"EXTEND_TIMEOUT_USEC=5000000\nREADY=1\nSTATUS=start {start}")
    live()
