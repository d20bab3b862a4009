"""Connects to packet sockets as another uid, and hands the connections to whoever started it.

    connect_as.py UID

Started by root with a packet socket as stdin. Each packet that it reads there is a path; it connects as
UID, which the kernel attests to the listener from then on, and answers `ok` with the connection, or the
error's name. Ends when stdin does.
"""

import errno
import os
import socket
import sys

uid = int(sys.argv[1])
os.setgroups([])
os.setresgid(uid, uid, uid)
os.setresuid(uid, uid, uid)
asker = socket.socket(fileno=os.dup(0))
while path := asker.recv(4096):
    peer = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    peer.setblocking(False)
    try:
        peer.connect(path)
    except OSError as error:
        asker.send(errno.errorcode[error.errno or 0].encode())
    else:
        socket.send_fds(asker, [b"ok"], [peer.fileno()])
    peer.close()
