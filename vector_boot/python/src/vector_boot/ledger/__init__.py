"""A client of the ledger, and the verification of what it says.

    from vector_boot import ledger

    with ledger.connect("/run/vb") as log:                     # a folder of sockets, a socket, or http://HOST:PORT
        receipt = log.append("notes", "user:me", "note_written", payload={"text": "kept"})
        for event in log.query(ns="notes"):
            print(event["id"], event["payload"])
        key = ledger.Key.parse(vkey)                           # kept since `ledger key` printed it
        log.verify(key, receipt.event_id)                      # offline mathematics over what the ledger sends

Standard library alone. `proofs` verifies without a connection; docs/python.md and docs/ledger.md are its pages.
"""

from __future__ import annotations

from .client import Ledger, Message, Receipt, Refused, Subscription, connect
from .proofs import Checkpoint, Event, Key, ProofError, verify_consistency, verify_inclusion

__all__ = [
    "Checkpoint",
    "Event",
    "Key",
    "Ledger",
    "Message",
    "ProofError",
    "Receipt",
    "Refused",
    "Subscription",
    "connect",
    "verify_consistency",
    "verify_inclusion",
]
