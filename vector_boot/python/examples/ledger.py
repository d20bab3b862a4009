"""Writes a note to a running ledger, follows it, sends a message over its bus, and verifies offline what it was told.

    python ledger.py /run/vb                                   # the machine's sockets, or .../ledger.sock
    python ledger.py http://127.0.0.1:8080 --token TOKEN       # a gateway; the token needs the permission `ledger`
    python ledger.py http+unix:///run/vb/gateway.sock          # a gateway's Unix socket, for the machine's owner

Through a gateway the message needs a grant of `bus.*:examples.*`, which the owner gives at the machine's own socket;
without one the example says so and goes on.

`--key` names the verifier key that `ledger key` printed earlier; without it the ledger is asked for it now, which
shows nothing about a machine that lies about its key too.
"""

from __future__ import annotations

import argparse
import base64
import sys

from vector_boot import ledger


def main() -> int:
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("target")
    words.add_argument("--token")
    words.add_argument("--key")
    words.add_argument("--actor", default="user:operator", help="who writes; a token writes as its holder alone")
    told = words.parse_args()
    with ledger.connect(told.target, told.token) as log:
        key = ledger.Key.parse(told.key or log.ask("key")["vkey"])
        before = key.open(log.checkpoint())
        print(f"log of {key.name}: {before.size} events signed")

        receipt = log.append("notes", told.actor, "custom(noted)", {"text": "kept"}, subject="note-1")
        print(f"event {receipt.event_id} is durable: {receipt.commit_id}")
        with log.subscribe(receipt.event_id, ns="notes") as events:
            print(f"seen: {next(events)['payload']}")

        try:
            log.publish("examples.notes", {"event_id": receipt.event_id})
            with log.messages("examples.notes", consumer="example", start=receipt.event_id) as messages:
                message = next(messages)
                messages.ack(message)
                print(f"message {message.ulid}: {message.payload}")
        except ledger.Refused as refused:
            if refused.code != "POLICY_DENY":
                raise
            print(f"no message: {refused}")

        after = log.verify(key, receipt.event_id, since=before)
        entry = base64.b64decode(log.inclusion(receipt.event_id, after.size)["entry"])
        if entry[8:40].hex() != receipt.commit_id:
            raise ledger.ProofError("the entry is not that of the event which was appended")
        print(f"verified: event {receipt.event_id} of {after.size}, and the log goes on from {before.size}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
