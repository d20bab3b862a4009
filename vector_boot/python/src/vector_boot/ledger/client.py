"""The ledger's JSON lines, over its socket or through the gateway.

A `Ledger` is for one thread; each subscription has a connection of its own. What a call answers is what
docs/ledger.md says of it, as dictionaries; the methods here name the members.
"""

from __future__ import annotations

import base64
import binascii
import collections
import http.client
import json
import os
import socket
import urllib.parse
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from . import proofs

LINE_BYTES_MAX = 1 << 20
"""Longest line of the protocol."""
TIMEOUT_S = 30.0
"""For one line of an answer."""


class Refused(Exception):
    """The ledger refused: `code` is stable, `reason` for people, `rule` the policy's where it was one."""

    def __init__(self, error: dict):
        self.code = str(error.get("code", "INTERNAL"))
        self.reason = str(error.get("reason", ""))
        self.rule = error.get("rule")
        super().__init__(f"{self.code}: {self.reason}")


@dataclass(frozen=True)
class Receipt:
    """A durable event."""

    event_id: int
    commit_id: str
    ulid: str

    @classmethod
    def of(cls, answer: dict) -> Receipt:
        """Out of an answer's members."""
        return cls(answer["event_id"], answer.get("commit_id", ""), answer.get("ulid", ""))


@dataclass(frozen=True)
class Message:
    """A message of the bus. `fields` is all that came with it: shard, attempt, qos, actor."""

    topic: str
    ulid: str
    payload: Any
    headers: dict
    fields: dict


def connect(target: str | os.PathLike, token: str | None = None, timeout: float = TIMEOUT_S) -> Ledger:
    """A client of the ledger at `target`.

    A path is its socket or the folder with the machine's sockets. `http://HOST:PORT` is a gateway, of which `token`
    needs the permission `ledger`; `http+unix:///run/vb/gateway.sock` is its Unix socket.
    """
    text = os.fspath(target)
    if text.startswith("http+unix://"):
        return Ledger(_Gateway(text.removeprefix("http+unix://"), None, token, timeout))
    if text.startswith("http://"):
        url = urllib.parse.urlsplit(text)
        if url.hostname is None or url.path not in ("", "/"):
            raise ValueError(f"target: http://HOST:PORT is needed, found {text!r}")
        return Ledger(_Gateway(None, (url.hostname, url.port or 80), token, timeout))
    if token is not None:
        raise ValueError("token: for a gateway alone; the socket knows its peer's uid")
    path = os.path.join(text, "ledger.sock") if os.path.isdir(text) else text
    return Ledger(_Socket(path, timeout))


class Ledger:
    """Calls of the ledger. Made by `connect`; a context manager."""

    def __init__(self, transport: _Socket | _Gateway):
        self._transport = transport

    def __enter__(self) -> Ledger:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Closes the connection; subscriptions have their own."""
        self._transport.close()

    def lines(self, kind: str, **members: Any) -> Iterator[dict]:
        """Any call: its lines, the answer last. Members whose value is None are left out."""
        sent = {name: value for name, value in members.items() if value is not None}
        for line in self._transport.conversation({"type": kind, **sent}):
            if line.get("ok") is False:
                raise Refused(line.get("error") or {})
            if not line.get("ack"):
                yield line

    def ask(self, kind: str, **members: Any) -> dict:
        """Any call: its answer alone."""
        answer: dict = {}
        for answer in self.lines(kind, **members):
            pass
        return answer

    def append(
        self,
        ns: str,
        actor: str,
        event_type: str,
        payload: dict | None = None,
        *,
        subject: str = "",
        tenant_id: str | None = None,
        causation_id: int | None = None,
    ) -> Receipt:
        """Appends one event; it is durable when this returns."""
        event = _event(event_type, payload, subject, tenant_id, causation_id)
        return Receipt.of(self.ask("append_event", ns=ns, actor=actor, event=event))

    def append_all(self, ns: str, actor: str, events: list[dict]) -> list[Receipt]:
        """Appends events together: all of them or none. Each is what `event` of the protocol is."""
        answer = self.ask("append_event", ns=ns, actor=actor, events=events)
        return [Receipt.of(one) for one in answer["events"]]

    def query(
        self,
        *,
        start: int | None = None,
        limit: int | None = None,
        newest_first: bool = False,
        **filters: Any,
    ) -> Iterator[dict]:
        """Events that match: `ns`, `actor`, `event_type`, `tenant_id`, `subject`, `causation_id`, `causation`.

        All of them, page by page; at most `limit`.
        """
        left = limit
        while left is None or left > 0:
            page = None if left is None else min(left, 1000)
            order = "desc" if newest_first else None
            answer = {}
            for line in self.lines("query", filters=filters, limit=page, order=order, **{"from": start}):
                if "event" in line:
                    yield line["event"]
                answer = line
            start = answer.get("next")
            left = None if left is None else left - answer.get("count", 0)
            if start is None:
                return

    def event(self, event_id: int) -> dict:
        """One event; `KeyError` if there is none that this caller may read."""
        try:
            for event in self.query(start=event_id, limit=1):
                if event["id"] == event_id:
                    return event
        except Refused as refused:
            if refused.code != "NOT_FOUND":
                raise
        raise KeyError(event_id)

    def subscribe(self, start: int | str | None = None, **filters: Any) -> Subscription:
        """Events as they become durable, without a gap from `start` on: an id, "HEAD", "HEAD-100"."""
        request = {"type": "subscribe", "filters": filters}
        return self._subscription(request, start, "event")

    def publish(
        self,
        topic: str,
        payload: Any = None,
        *,
        qos: str | None = None,
        headers: dict | None = None,
        ulid: str | None = None,
        ttl_ms: int | None = None,
    ) -> dict:
        """Publishes a message. The same `ulid` again is the same message: `repeated` says so."""
        return self.ask("bus.publish", topic=topic, payload=payload, qos=qos, headers=headers, ulid=ulid, ttl=ttl_ms)

    def messages(
        self,
        topic: str,
        consumer: str | None = None,
        *,
        start: int | str | None = None,
        shards: list[int] | None = None,
        lease_ms: int | None = None,
    ) -> Subscription:
        """Messages of a topic; each is sent again until it is acknowledged.

        Without `consumer` this connection is one, for as long as it lasts.
        """
        request = {"type": "bus.subscribe", "topic": topic, "consumer": consumer, "shards": shards}
        return self._subscription({**request, "lease_ms": lease_ms}, start, "message")

    def ack(self, topic: str, ulid: str, consumer: str, **members: Any) -> dict:
        """Acknowledges a consumer's message; with `ns`, `actor`, `events` its effect is appended with it, once."""
        return self.ask("bus.ack", topic=topic, ulid=ulid, consumer=consumer, **members)

    def commit(self, topic: str, ulid: str, acks: list[str] | None = None, quorum: int | None = None) -> dict:
        """Commits a message that its quorum has acknowledged."""
        return self.ask("bus.commit", topic=topic, msg_ulid=ulid, acks=acks, quorum=quorum)

    def fold(self, ns: str, channel: str, spec: dict | str) -> dict:
        """The fold of a channel; `state_root` is the same wherever it is computed."""
        return self.ask("fold_state", ns=ns, channel=channel, spec=spec)

    def checkpoint(self) -> str:
        """The newest signed checkpoint: a note."""
        return self.ask("checkpoint")["checkpoint"]

    def inclusion(self, event_id: int, size: int | None = None) -> dict:
        """What proves an event below a tree of this size, else of the newest checkpoint: `entry`, `hashes`, in base64."""
        return self.ask("proof.inclusion", event_id=event_id, size=size)

    def consistency(self, older: int, newer: int) -> list[bytes]:
        """What proves that the tree of the newer size goes on from the older one."""
        answer = self.ask("proof.consistency", to=newer, **{"from": older})
        return [_hash(text) for text in answer["hashes"]]

    def verify(self, key: proofs.Key, event_id: int, since: proofs.Checkpoint | None = None) -> proofs.Checkpoint:
        """Proves that an event is in the log which `key` signed, and, with `since`, that it goes on from there.

        The event's fields are bound where the answer holds its frame; docs/python.md says what that means.
        """
        checkpoint = key.open(self.checkpoint())
        if since is not None:
            path = [] if since.size == checkpoint.size else self.consistency(since.size, checkpoint.size)
            proofs.verify_consistency(since, checkpoint, path)
        proof = self.inclusion(event_id, checkpoint.size)
        entry = _bytes(proof["entry"])
        proofs.verify_inclusion(checkpoint, event_id - 1, entry, [_hash(text) for text in proof["hashes"]])
        if len(entry) != proofs.ENTRY_BYTES or int.from_bytes(entry[:8], "little") != event_id:
            raise proofs.ProofError("inclusion: the entry is another event's")
        return checkpoint

    def _subscription(self, request: dict, start: int | str | None, member: str) -> Subscription:
        request = {name: value for name, value in request.items() if value is not None}
        if start is not None:
            request["from"] = start
        return Subscription(self._transport.another(), request, member)


class Subscription:
    """An iterator over events or messages, with a connection of its own; a context manager."""

    def __init__(self, transport: _Socket | _Gateway, request: dict, member: str):
        self._transport, self._member = transport, member
        self._topic, self._consumer = request.get("topic"), request.get("consumer")
        self._lines = transport.conversation(request, ends=False)
        self.answer: dict = {}
        """What the ledger said first: where it begins."""
        self.dropped = 0
        """Messages that a compaction dropped before this consumer had them, as far as it was told."""
        try:
            for line in self._lines:
                if line.get("ok") is False:
                    raise Refused(line.get("error") or {})
                if line.get("ok"):
                    self.answer = line
                    break
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Subscription:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends it; messages that were not acknowledged go to others."""
        self._transport.close()

    def __iter__(self) -> Subscription:
        return self

    def __next__(self) -> Any:
        for line in self._lines:
            if line.get("ok") is False:
                raise Refused(line.get("error") or {})
            if "dropped" in line:
                self.dropped += line["dropped"]["messages"]
            if self._member in line:
                found = line[self._member]
                return found if self._member == "event" else _message(found)
        raise StopIteration

    def ack(self, message: Message) -> dict:
        """Acknowledges a message of this subscription."""
        request = {"type": "bus.ack", "topic": self._topic, "ulid": message.ulid}
        if self._consumer is not None:
            request["consumer"] = self._consumer
        answer: dict = {}
        for answer in self._transport.conversation(request):
            if answer.get("ok") is False:
                raise Refused(answer.get("error") or {})
        return answer


def _message(found: dict) -> Message:
    return Message(found["topic"], found["ulid"], found.get("payload"), found.get("headers") or {}, found)


def _event(event_type: str, payload: dict | None, subject: str, tenant_id: str | None, causation_id: int | None) -> dict:
    event: dict = {"event_type": event_type, "subject": subject, "payload": payload or {}}
    if tenant_id is not None:
        event["tenant_id"] = tenant_id
    if causation_id is not None:
        event["causation_id"] = causation_id
    return event


def _bytes(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as e:
        raise proofs.ProofError("proof: no base64") from e


def _hash(text: str) -> bytes:
    if len(decoded := _bytes(text)) != 32:
        raise proofs.ProofError(f"proof: a hash of {len(decoded)} bytes")
    return decoded


def _parsed(line: bytes) -> dict:
    answer = json.loads(line)
    if not isinstance(answer, dict):
        raise ConnectionError("the ledger answered what is no JSON object")
    return answer


class _Socket:
    """`ledger.sock`: conversations on one connection, told apart by their ids."""

    def __init__(self, path: str, timeout: float):
        self._path, self._timeout = path, timeout
        self._stream = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._stream.settimeout(timeout)
        try:
            self._stream.connect(path)
        except OSError:
            self._stream.close()
            raise
        self._reader = self._stream.makefile("rb")
        self._last = 0
        self._waiting: dict[int, collections.deque] = {}

    def another(self) -> _Socket:
        return _Socket(self._path, self._timeout)

    def close(self) -> None:
        self._reader.close()
        self._stream.close()

    def conversation(self, request: dict, ends: bool = True) -> Iterator[dict]:
        """The lines that answer a request, up to the one with `ok`; without `ends` on and on."""
        self._last += 1
        own = self._last
        line = json.dumps({"id": own, **request}, separators=(",", ":")).encode() + b"\n"
        if len(line) > LINE_BYTES_MAX:
            raise ValueError(f"request: {len(line)} bytes, limit {LINE_BYTES_MAX}")
        self._waiting[own] = collections.deque()
        self._stream.settimeout(self._timeout)
        self._stream.sendall(line)
        return self._answers(own, ends)

    def _answers(self, own: int, ends: bool) -> Iterator[dict]:
        waiting = self._waiting[own]
        try:
            while True:
                while not waiting:
                    self._read(forever=not ends)
                line = waiting.popleft()
                yield line
                if line.get("ok") is False or (ends and line.get("ok")):
                    return
        finally:
            self._waiting.pop(own, None)

    def _read(self, forever: bool) -> None:
        self._stream.settimeout(None if forever else self._timeout)
        line = self._reader.readline()
        if not line.endswith(b"\n"):
            raise ConnectionError("the ledger closed the connection")
        answer = _parsed(line)
        of = answer.get("id")
        if of is None and answer.get("ok") is False:
            # It could not read who asked.
            raise Refused(answer.get("error") or {})
        if of in self._waiting:
            self._waiting[of].append(answer)


class _Gateway:
    """`POST /v1/ledger/rpc`: a request a conversation."""

    def __init__(self, path: str | None, address: tuple[str, int] | None, token: str | None, timeout: float):
        self._path, self._address, self._token, self._timeout = path, address, token, timeout
        self._open: http.client.HTTPConnection | None = None

    def another(self) -> _Gateway:
        return _Gateway(self._path, self._address, self._token, self._timeout)

    def close(self) -> None:
        if self._open is not None:
            self._open.close()
            self._open = None

    def conversation(self, request: dict, ends: bool = True) -> Iterator[dict]:
        """The lines that answer a request."""
        connection = self._connection()
        if not ends:
            # It stays open for the subscription; its acknowledgements go beside it.
            self._open = connection
        headers = {"Content-Type": "application/x-ndjson"}
        if self._token is not None:
            headers["Authorization"] = f"Bearer {self._token}"
        body = json.dumps({"id": 1, **request}, separators=(",", ":")) + "\n"
        connection.request("POST", "/v1/ledger/rpc", body, headers)
        response = connection.getresponse()
        if response.status != 200:
            problem = _problem(response.read(LINE_BYTES_MAX))
            connection.close()
            raise Refused({"code": problem.get("code"), "reason": problem.get("detail", "")})
        if not ends and connection.sock is not None:
            connection.sock.settimeout(None)
        return self._answers(connection, response, ends)

    def _answers(self, connection: http.client.HTTPConnection, response: Any, ends: bool) -> Iterator[dict]:
        try:
            for line in response:
                if not line.endswith(b"\n"):
                    # The gateway ends a stream after a time, wherever it is.
                    break
                answer = _parsed(line)
                yield answer
                if answer.get("ok") is False or (ends and answer.get("ok")):
                    return
            if ends:
                raise ConnectionError("the gateway closed the connection")
        finally:
            connection.close()

    def _connection(self) -> http.client.HTTPConnection:
        if self._path is not None:
            return _UnixConnection(self._path, self._timeout)
        host, port = self._address or ("localhost", 80)
        return http.client.HTTPConnection(host, port, timeout=self._timeout)


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str, timeout: float):
        super().__init__("localhost", timeout=timeout)
        self._unix_path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._unix_path)


def _problem(body: bytes) -> dict:
    try:
        problem = json.loads(body)
    except ValueError:
        problem = None
    return problem if isinstance(problem, dict) else {"code": "INTERNAL", "detail": "the gateway refused without a reason"}
