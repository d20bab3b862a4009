"""Sends descriptors whose closing waits for an hour to everybody who reads packets.

    traps.py RUN

Each is a TCP socket with SO_LINGER whose peer, held here, never reads. They go along with hellos, behind
them, to connections that are never served, and to notify sockets. Says `set N` when all are sent, and
ends when stdin does.
"""

import contextlib
import os
import pathlib
import socket
import struct
import sys
import threading

run = pathlib.Path(sys.argv[1])
far_ends = []
listener = socket.create_server(("127.0.0.1", 0))


def trap() -> socket.socket:
    """A socket that takes an hour to close."""
    near = socket.create_connection(listener.getsockname())
    far_ends.append(listener.accept()[0])
    near.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 3600))
    near.setblocking(False)
    with contextlib.suppress(BlockingIOError):
        while True:
            near.send(bytes(65536))
    return near


def hand_over(peer: socket.socket, packet: bytes, count: int = 1) -> None:
    """Sends traps, which are then nobody's but the receiver's."""
    traps = [trap() for _ in range(count)]
    # Whom a server has turned away already finds out here.
    with contextlib.suppress(OSError):
        socket.send_fds(peer, [packet], [t.fileno() for t in traps] * (253 // count))
    close(*traps)


def close(*held: socket.socket) -> None:
    """Closes where waiting holds up nobody here: the receiver may have been quicker."""
    for one in held:
        threading.Thread(target=one.close, daemon=True).start()


HELLO = struct.pack("<HHQ", 1, 1, 1) + b"\x01\x01"
for name in ("init.sock", "ledger.wire", "capacity.sock"):

    def connect(name: str = name) -> socket.socket:
        peer = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        peer.connect(str(run / name))
        return peer

    # With the hello, without a byte, and behind a proper hello.
    hand_over(connect(), HELLO)
    hand_over(connect(), b"")
    peer = connect()
    peer.send(HELLO)
    peer.recv(64)
    hand_over(peer, HELLO, 3)
    # In the queue of a connection that ends because of what came before.
    peer = connect()
    with contextlib.suppress(OSError):
        for _ in range(3):
            peer.send(b"no frame")
    hand_over(peer, HELLO)
    peer.close()
    # In the queue of a socket that is sent itself.
    outer, inner = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    hand_over(outer, b"x")
    with contextlib.suppress(OSError):
        socket.send_fds(connect(), [HELLO], [inner.fileno()])
    close(outer, inner)
for notify in sorted((run / "notify").iterdir()):
    peer = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    peer.connect(str(notify))
    for text in (b"READY=1", b"", b"FDSTORE=1"):
        hand_over(peer, text)
print(f"set {len(far_ends)}", flush=True)
sys.stdin.read()
# Threads that wait are not waited for.
os._exit(0)
