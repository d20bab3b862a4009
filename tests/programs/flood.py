"""Does to every socket of a run folder what costs its server most, as another uid, until stdin ends.

    flood.py UID RUN

Connections in a loop, frames as fast as they are taken, answers never read, lines of JSON that are long,
deep, without an end or no JSON at all. Says `flooding` once everything is under way, and `done N` at the end.
"""

import contextlib
import json
import os
import pathlib
import socket
import struct
import sys
import threading

uid, run = int(sys.argv[1]), pathlib.Path(sys.argv[2])
os.setgroups([])
os.setresgid(uid, uid, uid)
os.setresuid(uid, uid, uid)
over = threading.Event()
rounds = []


def frame(kind: int, body: bytes = b"", version: int = 1) -> bytes:
    return struct.pack("<HHQ", version, kind, 7) + body


def connect(name: str, kind: socket.SocketKind) -> socket.socket:
    peer = socket.socket(socket.AF_UNIX, kind)
    peer.settimeout(1)
    peer.connect(str(run / name))
    return peer


def come_and_go(name: str, kind: socket.SocketKind) -> None:
    connect(name, kind).close()


def send_and_never_read(name: str, packet: bytes) -> None:
    with connect(name, socket.SOCK_SEQPACKET) as peer:
        peer.send(frame(1, b"\x01\x01"))
        while not over.is_set():
            peer.send(packet)


LINES = [
    b'{"type":"ping","id":1}\n' * 1000,
    b'{"type":"append_event","ns":"user","actor":"service:uid-%d","event":{"event_type":"x"}}\n' % uid * 100,
    b"[" * (1 << 20) + b"\n",
    b'{"a":' * 100 + b"1" + b"}" * 100 + b"\n",
    b"[" + b'{"":0},' * 140_000 + b"0]\n",
    b'{"type":"ping","type":"head"}\n',
    b"\0" * 4096 + b"\n",
    b"\xff\xfe" * 4096 + b"\n",
    b"x" * (3 << 20),
    json.dumps({"type": "query", "limit": 10**9, "from": 0}).encode() + b"\n",
    b'{"type":"subscribe","from":1}\n' * 20,
    b'{"type":"verify"}\n' * 20,
]


def lines(turn: int) -> None:
    with connect("ledger.sock", socket.SOCK_STREAM) as peer:
        while not over.is_set():
            peer.sendall(LINES[turn % len(LINES)])


def again_and_again(work, *words) -> None:
    turn = 0
    while not over.is_set():
        # Being refused, cut off or kept waiting is what happens to a flood.
        with contextlib.suppress(OSError):
            work(*words, *([turn] if work is lines else []))
        turn += 1
    rounds.append(turn)


JOBS = [(lines,), (lines,)]
for name, asked in (("init.sock", 0x101), ("ledger.wire", 0x303), ("capacity.sock", 0x405)):
    JOBS.append((come_and_go, name, socket.SOCK_SEQPACKET))
    for packet in (
        frame(asked),
        frame(asked, version=2),
        frame(0x010F, b"\1"),
        frame(0x0301, os.urandom(2000)),
        bytes(60_000),
    ):
        JOBS.append((send_and_never_read, name, packet))
threads = [threading.Thread(target=again_and_again, args=job) for job in JOBS]
for thread in threads:
    thread.start()
print("flooding", flush=True)
sys.stdin.read()
over.set()
for thread in threads:
    thread.join()
print(f"done {sum(rounds)}", flush=True)
