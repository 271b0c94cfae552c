"""Clients of etcd's JSON gateway: each answer is judged by the record of all changes, at the revision that it names.

The rules are etcd's: a read shows the keys as they are at the revision of its header, which is at least that of each
write before it. A write has a revision of its own, and its previous keys are those of the revision before.
"""

from __future__ import annotations

import asyncio
import base64
import random
from typing import Any, Final, TypeAlias

import msgspec

from syncline.kv.records import KeyRecord
from syncline.server.http.request import Request
from syncline.testing.faults.asking import ask_server
from syncline.testing.faults.base import Trouble
from syncline.testing.sim.changes import ChangeRecord

__all__ = ["ANSWERED", "etcd_clients"]

ANSWERED: Final = "an answer of etcd's interface is that of its revision"

CLIENTS: Final = 2
PREFIX: Final = b"etcd/"
END: Final = b"etcd0"
KEYS: Final = (b"etcd/0", b"etcd/1", b"etcd/2", b"etcd/3")
REFUSED: Final = 400
NO_SPACE: Final = 429
"""The store is at its limit: no fault of the request."""
SERVER_FAULT: Final = 500
OK: Final = 200

Json: TypeAlias = dict[str, Any]


async def etcd_clients(trouble: Trouble) -> None:
    """Some clients read, write, delete and compare by any server, on keys of their own."""
    seeds = [trouble.rng.getrandbits(64) for _ in range(CLIENTS)]
    await asyncio.gather(*(_GatewayClient(trouble, random.Random(seed)).run() for seed in seeds))


class _GatewayClient:
    def __init__(self, trouble: Trouble, rng: random.Random) -> None:
        assert trouble.changes is not None, "a scenario records what is applied"
        self._trouble = trouble
        self._rng = rng
        self._record: ChangeRecord = trouble.changes
        self._name = rng.getrandbits(32)
        self._count = 0

    async def run(self) -> None:
        while True:
            await self._trouble.wait(0.5)
            match self._rng.randrange(5):
                case 0:
                    await self._put()
                case 1:
                    await self._delete()
                case 2:
                    await self._txn()
                case _:
                    await self._range()

    async def _range(self) -> None:
        key, end = self._bounds()
        serializable = self._rng.random() < 0.5
        before = 0 if serializable else self._record.revision
        answer = await self._ask(b"/v3/kv/range", {**_range_of(key, end), "serializable": serializable})
        if answer is not None:
            revision = self._revision(answer, before)
            self._same("range", revision, _keys(answer, "kvs"), self._records(key, end, revision))

    async def _put(self) -> None:
        key, value = self._rng.choice(KEYS), self._value()
        before = self._record.revision
        answer = await self._ask(b"/v3/kv/put", {"key": _text(key), "value": _text(value), "prev_kv": True})
        if answer is not None:
            revision = self._revision(answer, before + 1)
            written = self._record.at(key, revision)
            if written is None or (written.value, written.mod_revision) != (value, revision):
                self._broken(f"a put of {key!r} names the revision {revision}, at which it is {written}")
            shown = [_fields(answer["prev_kv"])] if "prev_kv" in answer else []
            self._same("put", revision, shown, self._records(key, b"", revision - 1))

    async def _delete(self) -> None:
        key, end = self._bounds()
        before = self._record.revision
        answer = await self._ask(b"/v3/kv/deleterange", {**_range_of(key, end), "prev_kv": True})
        if answer is None:
            return
        revision = self._revision(answer, before)
        deleted = _keys(answer, "prev_kvs")
        self._same("delete", revision, deleted, self._records(key, end, revision - 1) if deleted else [])
        if left := self._records(key, end, revision):
            self._broken(f"a delete of {key!r} to {end!r} names the revision {revision}, at which there are {left}")

    async def _txn(self) -> None:
        """A put if the key's revision or version is as expected, and a read in both branches."""
        key, value = self._rng.choice(KEYS), self._value()
        known = self._record.at(key, self._record.revision)
        expected = known.mod_revision if known is not None else 0
        read = {"request_range": _range_of(key, b"")}
        body = {
            "compare": [{"key": _text(key), "target": "MOD", "result": "EQUAL", "mod_revision": str(expected)}],
            "success": [{"request_put": {"key": _text(key), "value": _text(value)}}, read],
            "failure": [read],
        }
        before = self._record.revision
        answer = await self._ask(b"/v3/kv/txn", body)
        if answer is None:
            return
        succeeded = bool(answer.get("succeeded", False))
        revision = self._revision(answer, before + succeeded)
        decided = self._record.at(key, revision - succeeded)
        if succeeded != ((decided.mod_revision if decided is not None else 0) == expected):
            self._broken(f"{body} at revision {revision}: succeeded is {succeeded}, and before it was {decided}")
        shown = _keys(answer["responses"][-1]["response_range"], "kvs")
        self._same("read in a transaction", revision, shown, self._records(key, b"", revision))
        if succeeded and [one[1] for one in shown] != [value]:
            self._broken(f"{body} at revision {revision}: its read does not see its put: {shown}")

    async def _ask(self, path: bytes, body: Json) -> Json | None:
        """The answer, or None if no server has given one. A refusal for the request's own sake is a fault."""
        request = Request("POST", path, b"", {}, msgspec.json.encode(body))
        answer = await ask_server(self._trouble, self._rng, request)
        if answer is None:
            return None
        if REFUSED <= answer.status < SERVER_FAULT and answer.status != NO_SPACE:
            self._broken(f"{path!r} {body} is refused: {answer.status} {answer.body!r}")
        if answer.status != OK:
            return None
        found: Json = msgspec.json.decode(answer.body)
        return found

    def _revision(self, answer: Json, least: int) -> int:
        """The revision of the header, which must be `least` or more."""
        revision = int(answer["header"]["revision"])
        if not least <= revision <= self._record.revision:
            self._broken(f"the header has the revision {revision}: expected {least} to {self._record.revision}")
        return revision

    def _records(self, key: bytes, end: bytes, revision: int) -> list[KeyRecord]:
        found = self._record.keys_at(revision)
        return [one for name, one in found.items() if (key <= name < end if end else name == key)]

    def _same(self, what: str, revision: int, shown: list[tuple[object, ...]], records: list[KeyRecord]) -> None:
        expected = [(one.key, one.value, one.mod_revision, one.create_revision, one.version) for one in records]
        if shown != expected:
            self._broken(f"a {what} at revision {revision} shows {shown}: expected {expected}")

    def _bounds(self) -> tuple[bytes, bytes]:
        return (PREFIX, END) if self._rng.random() < 0.3 else (self._rng.choice(KEYS), b"")

    def _value(self) -> bytes:
        self._count += 1
        return b"etcd-%08x-%d" % (self._name, self._count)

    def _broken(self, what: str) -> None:
        self._trouble.broken(ANSWERED, what)


def _range_of(key: bytes, end: bytes) -> Json:
    return {"key": _text(key), **({"range_end": _text(end)} if end else {})}


def _keys(answer: Json, name: str) -> list[tuple[object, ...]]:
    return [_fields(one) for one in answer.get(name, [])]


def _fields(one: Json) -> tuple[object, ...]:
    """Key, value, and the three numbers of a key in an answer. What is absent is empty or 0."""
    numbers = (int(one.get(name, 0)) for name in ("mod_revision", "create_revision", "version"))
    return base64.b64decode(one["key"]), base64.b64decode(one.get("value", "")), *numbers


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode()
