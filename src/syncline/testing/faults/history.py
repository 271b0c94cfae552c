"""Readers of past revisions, batches of writes, and compaction: compared with what was applied at each revision."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator
from typing import Any, Final

import msgspec

from syncline.client.schemas import BatchReply, CompactReply, ErrorAnswer, ErrorBody, KeyItem, KeyItemPage, ResultItem
from syncline.kv.records import KeyRecord
from syncline.server.http.request import Request
from syncline.server.http.response import Response
from syncline.testing.faults.asking import ask_server
from syncline.testing.faults.base import Trouble
from syncline.testing.sim.changes import ChangeRecord

__all__ = ["BATCHED", "PAST", "batches", "history"]

PAST: Final = "a read of a past revision shows what was there"
BATCHED: Final = "each result of a batch is what was applied"

READERS: Final = 2
AHEAD: Final = 3
"""Reads of revisions that are still to come wait for them: so far they look ahead."""

KEYS: Final = (b"k0", b"k1", b"k2", b"k3", b"b0", b"b1", b"count", b"none")
COUNTER: Final = "count"

_pages: Final = msgspec.json.Decoder(KeyItemPage)
_replies: Final = msgspec.json.Decoder(BatchReply)
_compacted: Final = msgspec.json.Decoder(CompactReply)
_errors: Final = msgspec.json.Decoder(ErrorAnswer)


async def history(trouble: Trouble) -> None:
    """Some clients read keys and listings at any revision, on any server, and one of them compacts sometimes."""
    seeds = [trouble.rng.getrandbits(64) for _ in range(READERS)]
    readers = [_PastReader(trouble, random.Random(seed), compacts=not place) for place, seed in enumerate(seeds)]
    await asyncio.gather(*(reader.run() for reader in readers))


async def batches(trouble: Trouble) -> None:
    """One client writes in batches, with increments, to keys of its own."""
    await _Batcher(trouble, random.Random(trouble.rng.getrandbits(64))).run()


class _PastReader:
    def __init__(self, trouble: Trouble, rng: random.Random, *, compacts: bool) -> None:
        assert trouble.changes is not None, "a scenario records what is applied"
        self._trouble = trouble
        self._rng = rng
        self._record: ChangeRecord = trouble.changes
        self._compacts = 0.1 if compacts else 0.0

    async def run(self) -> None:
        while True:
            await self._trouble.wait(0.2)
            revision = self._rng.randint(1, self._record.revision + AHEAD)
            chance = self._rng.random()
            if chance < self._compacts:
                await self._compact(revision)
            elif chance < 0.3:
                await self._list(revision)
            else:
                await self._get(self._rng.choice(KEYS), revision)

    async def _get(self, key: bytes, revision: int) -> None:
        request = Request("GET", b"/key/" + key, self._query(revision), {}, b"")
        answer = await ask_server(self._trouble, self._rng, request)
        if answer is None or answer.status not in (200, 404):
            self._refused(answer, revision)
            return
        expected = self._record.at(key, revision)
        found = (answer.body, _etag(answer)) if answer.status == 200 else None
        wanted = (expected.value, expected.mod_revision) if expected is not None else None
        if found != wanted or revision > self._record.revision:
            self._trouble.broken(PAST, f"{key.decode()} at revision {revision} is shown as {found}, and was {expected}")

    async def _list(self, revision: int) -> None:
        reverse = self._rng.random() < 0.5
        query = self._query(revision) + b"&values=true" + (b"&reverse=true" if reverse else b"")
        answer = await ask_server(self._trouble, self._rng, Request("GET", b"/keys", query, {}, b""))
        if answer is None or answer.status != 200:
            self._refused(answer, revision)
            return
        page = _pages.decode(answer.body)
        found = [_shown(item) for item in page.keys]
        expected = [_wanted(record) for record in self._record.keys_at(revision).values()]
        if reverse:
            expected.reverse()
        if found != expected or page.count != len(expected) or page.revision != revision:
            self._trouble.broken(PAST, f"the keys of revision {revision} are shown as {page}, and were {expected}")

    async def _compact(self, revision: int) -> None:
        body = msgspec.json.encode({"revision": revision})
        answer = await ask_server(self._trouble, self._rng, Request("POST", b"/compact", b"timeout=500ms", {}, body))
        if answer is not None and answer.status == 200:
            oldest = _compacted.decode(answer.body).oldest
            if not revision <= oldest <= self._record.revision:
                self._trouble.broken(PAST, f"compacted to {revision}, and {oldest} is the oldest revision")

    def _refused(self, answer: Response | None, revision: int) -> None:
        if answer is None:
            return
        problem = _errors.decode(answer.body).error
        if problem.code == "compacted":
            oldest = int((problem.details or {})["oldest"])
            if not revision < oldest <= self._record.revision + 1:
                self._trouble.broken(PAST, f"revision {revision} is refused: {problem}")
        elif answer.status < 500:
            self._trouble.broken(PAST, f"revision {revision} is refused: {problem}")

    def _query(self, revision: int) -> bytes:
        consistency = self._rng.choice([b"linearizable", b"leader", b"stale"])
        return b"revision=%d&consistency=%s&timeout=%dms" % (revision, consistency, self._rng.choice([50, 500]))


class _Batcher:
    def __init__(self, trouble: Trouble, rng: random.Random) -> None:
        assert trouble.changes is not None, "a scenario records what is applied"
        self._trouble = trouble
        self._rng = rng
        self._record: ChangeRecord = trouble.changes
        self._count = 0
        self._highest = 0
        """The highest count that was acknowledged."""

    async def run(self) -> None:
        while True:
            await self._trouble.wait(0.5)
            operations = list(self._operations(self._rng.randint(1, 12)))
            body = msgspec.json.encode({"ops": operations})
            before = self._highest
            answer = await ask_server(self._trouble, self._rng, Request("POST", b"/batch", b"timeout=500ms", {}, body))
            if answer is not None and answer.status == 200:
                self._judge(operations, _replies.decode(answer.body).results, before)

    def _operations(self, number: int) -> Iterator[dict[str, Any]]:
        for _ in range(number):
            self._count += 1
            key = self._rng.choice(["b0", "b1"])
            match self._rng.randrange(6):
                case 0 | 1:
                    yield {"op": "increment", "key": COUNTER}
                case 2:
                    yield {"op": "delete", "key": key}
                case 3:
                    yield {"op": "put", "key": key, "value": f"batch-{self._count}", "if_absent": True}
                case 4:
                    yield {"op": "get", "key": key}
                case _:
                    yield {"op": "put", "key": key, "value": f"batch-{self._count}"}

    def _judge(self, operations: list[dict[str, Any]], results: list[ResultItem], highest: int) -> None:
        if len(results) != len(operations):
            self._trouble.broken(BATCHED, f"{len(operations)} operations have {len(results)} results")
        last = 0
        for operation, result in zip(operations, results, strict=False):
            if isinstance(result.error, ErrorBody) or operation["op"] == "get":
                continue
            revision = int(result.revision or 0)
            wrote = operation["op"] != "delete" or result.deleted
            if wrote and (revision <= last or not self._is_applied(operation, result, revision)):
                self._trouble.broken(BATCHED, f"{operation}: {result}")
            last = max(last, revision)
            if operation["op"] == "increment":
                value = int(str(result.value))
                if value <= highest:
                    self._trouble.broken(BATCHED, f"{operation}: {result}, and {highest} was counted before")
                highest = max(highest, value)
        self._highest = max(self._highest, highest)

    def _is_applied(self, operation: dict[str, Any], result: ResultItem, revision: int) -> bool:
        key = operation["key"].encode()
        if [change.record.key for change in self._record.changes(revision)] != [key]:
            return False
        record = self._record.at(key, revision)
        if operation["op"] == "delete":
            return record is None
        value = result.value if operation["op"] == "increment" else operation["value"]
        return record is not None and record.value == str(value).encode()


def _etag(answer: Response) -> int:
    return next(
        int(line[len(b"ETag: ") :].strip(b'"')) for line in answer.head.split(b"\r\n") if line.startswith(b"ETag: ")
    )


def _shown(item: KeyItem) -> tuple[object, ...]:
    return item.key, item.value, item.mod_revision, item.create_revision, item.version


def _wanted(record: KeyRecord) -> tuple[object, ...]:
    return record.key.decode(), record.value.decode(), record.mod_revision, record.create_revision, record.version
