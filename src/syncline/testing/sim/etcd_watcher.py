"""A client that watches keys through etcd's JSON gateway in a simulation, and compares it with what was applied.

A stream has some watches, each from a revision of its own. When the stream or its server ends, the client goes on
at another server, with each watch from the revision that it needs next. If that was compacted, the watch begins
again at the oldest revision.
"""

from __future__ import annotations

import asyncio
import base64
import random
from typing import Any, Final, TypeAlias

import msgspec

from syncline.kv.records import Change, KeyRecord
from syncline.server.http.request import Request as HttpRequest
from syncline.server.http.stream import Stream
from syncline.testing.cluster import LOOK_S, SimCluster
from syncline.testing.invariants.base import Verdict
from syncline.testing.sim.changes import ChangeRecord
from syncline.testing.sim.stream_reader import StreamReader

__all__ = ["COMPLETE", "TOLD", "EtcdWatcher"]

TOLD: Final = "a watch of etcd's interface is told each change of its keys once, in order"
COMPLETE: Final = "a watch of etcd's interface is told everything after the faults"

ANSWER_S: Final = 1.0
FINISH_S: Final = 20.0
"""Seconds that a server has, after the faults, to send everything to a client that reads at once."""
AHEAD: Final = 30
"""A watch from the future begins so many revisions later at most."""
MOST_WATCHES: Final = 3

OK: Final = 200
NO_SPACE: Final = 429
"""The store is at its limit, and empty: its first revision, which a watch begins behind, can't be written."""
SERVER_FAULT: Final = 500
UNAVAILABLE: Final = 14
_NO_WATCH: Final = -1

_RANGES: Final = ((b"\0", b"\0"), (b"k", b"l"), (b"k0", b""), (b"k1", b"k3"), (b"etcd/", b"etcd0"))
_FILTERS: Final = ((), (), (), ("NOPUT",), ("NODELETE",))

Json: TypeAlias = dict[str, Any]


class _EtcdWatch:
    """One watch, over all streams: its keys, and how far it was told."""

    def __init__(self, record: ChangeRecord, rng: random.Random) -> None:
        self.next: int = 0
        """All before it was told, or is of no concern; 0: it has not begun, and begins with the present."""
        self._record = record
        self._start, self._range_end = rng.choice(_RANGES)
        self._filters = rng.choice(_FILTERS)
        self._previous = rng.random() < 0.5
        self._notified = rng.random() < 0.5
        begin = rng.random()
        if begin < 0.4:
            self.next = rng.randint(1, record.revision + 1)
        elif begin < 0.6:
            self.next = record.revision + rng.randint(1, AHEAD)

    def __repr__(self) -> str:
        return f"{self._start!r} to {self._range_end!r} without {', '.join(self._filters) or 'a filter'}"

    def create_request(self, watch_id: int) -> Json:
        """What begins it. Each watch of a stream has an id of its own; 0 lets the server choose."""
        create: Json = {"key": _text(self._start), "watch_id": str(watch_id), "filters": list(self._filters)}
        if self._range_end:
            create["range_end"] = _text(self._range_end)
        if self.next:
            create["start_revision"] = str(self.next)
        return {"create_request": {**create, "prev_kv": self._previous, "progress_notify": self._notified}}

    def missing(self, revision: int) -> int:
        """The first revision up to this one with a change that should have come by now; 0: none."""
        wanted = range(self.next, min(revision, self._record.revision) + 1)
        return next((one for one in wanted if self._of_concern(one)), 0) if self.next else 0

    def expected(self, revision: int) -> list[tuple[object, ...]]:
        """The events of a revision."""
        return [_expected(change, previous=self._previous) for change in self._of_concern(revision)]

    def _of_concern(self, revision: int) -> list[Change]:
        return [
            change
            for change in self._record.changes(revision)
            if self._has(change.record.key) and ("NOPUT" if change.record.version else "NODELETE") not in self._filters
        ]

    def _has(self, key: bytes) -> bool:
        if not self._range_end:
            return key == self._start
        return self._start <= key and (self._range_end == b"\0" or key < self._range_end)


class EtcdWatcher:
    """The watches of one client. `told` counts the revisions that they were told."""

    def __init__(self, cluster: SimCluster, record: ChangeRecord, rng: random.Random, verdict: Verdict) -> None:
        self.record: ChangeRecord = record
        self.told: int = 0
        self._cluster = cluster
        self._rng = rng
        self._verdict = verdict
        self._watches: dict[int, _EtcdWatch] = {}
        self._connection: StreamReader | None = None
        self._created: set[int] = set()
        """The watches that the present stream has begun."""

    async def run(self) -> None:
        """Watch from some revisions on, through any server, and leave it sometimes."""
        rng, election_s = self._rng, self._cluster.settings.election_s
        await asyncio.sleep(rng.uniform(0.0, 4.0) * election_s)
        for watch_id in range(rng.randint(1, MOST_WATCHES)):
            self._watches[watch_id] = _EtcdWatch(self.record, rng)
        while True:
            await self._connect(rng.choice([0.0, 0.0, 0.001, 0.1]) * election_s)
            await self._stay(rng.expovariate(1.0 / (rng.choice([1.0, 10.0]) * election_s)))
            await asyncio.sleep(rng.choice([0.0, 0.5, 3.0]) * rng.random() * election_s)

    async def finish(self) -> None:
        """After the faults: be told what is left, on the stream that is there, or on new ones."""
        if self._connection is not None:
            self._connection.read_without_pauses()  # a slow client may be hundreds of messages behind
        end_s = self._cluster.loop.true_time() + FINISH_S
        while (behind := self._behind()) is not None:
            if self._cluster.loop.true_time() > end_s:
                missing = behind.missing(self.record.revision)
                text = f"{behind}: the changes of revision {missing} have not come within {FINISH_S:g} s"
                self._broken(text, COMPLETE)
                return
            if self._connection is None or not self._connection.is_up:
                await self._connect(0.0)
            await asyncio.sleep(LOOK_S)
        self._leave()

    def _behind(self) -> _EtcdWatch | None:
        return next((watch for watch in self._watches.values() if watch.missing(self.record.revision)), None)

    # -- streams -------------------------------------------------------------------------------------------------------

    async def _stay(self, seconds: float) -> None:
        loop = self._cluster.loop
        end_s = loop.true_time() + seconds
        while self._connection is not None and self._connection.is_up and loop.true_time() < end_s:  # noqa: ASYNC110 - simulated
            await asyncio.sleep(LOOK_S)
        self._leave()

    def _leave(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    async def _connect(self, pause_s: float) -> None:
        self._leave()
        servers = [server for server in self._cluster.running if not server.retired and not server.paused]
        if not servers:
            return
        server = self._rng.choice(servers)
        life = server.lives
        future = server.serve(HttpRequest("POST", b"/v3/watch", b"", {}, self._requests()))
        await asyncio.wait([future], timeout=ANSWER_S)
        if not future.done() or server.lives != life or not server.running:
            return
        answer = future.result()
        if not isinstance(answer, Stream):
            if answer.status < SERVER_FAULT and answer.status != NO_SPACE:
                self._broken(f"it is refused: {answer.status} {answer.body!r}")
            return
        self._created.clear()
        self._connection = connection = StreamReader(self, server, answer.source, pause_s)
        server.call(connection.begin)

    def _requests(self) -> bytes:
        """The body of a stream: its watches, and sometimes a question for its progress."""
        requests = [watch.create_request(watch_id) for watch_id, watch in self._watches.items()]
        if self._rng.random() < 0.5:
            requests.append({"progress_request": {}})
        return b"".join(map(msgspec.json.encode, requests))

    # -- what is told --------------------------------------------------------------------------------------------------

    def received(self, connection: StreamReader, piece: bytes, applied: int, before: int, written: int) -> None:
        """A message. The node had applied `applied` when it gave it."""
        del before, written
        if connection is not self._connection:
            return  # it was on its way when the client left
        message: Json = msgspec.json.decode(piece)
        if "error" in message:
            self._connection = None
            if message["error"]["grpc_code"] != UNAVAILABLE:
                self._broken(f"the stream ends: {message['error']}")
            return
        result: Json = message["result"]
        watch_id, revision = int(result.get("watch_id", 0)), int(result["header"].get("revision", 0))
        if revision > applied:
            self._broken(f"a header of {connection.server.name} has the revision {revision}; it has applied {applied}")
        if watch_id == _NO_WATCH and "canceled" not in result:
            for watch in self._watches.values():
                self._mark(watch, revision)
        elif (one := self._watches.get(watch_id)) is None:
            self._broken(f"there is no watch {watch_id}: {result}")
        elif result.get("canceled"):
            self._canceled(one, result)
        elif result.get("created"):
            self._begun(one, watch_id, revision)
        elif watch_id not in self._created:
            self._broken(f"{one} was not created on this stream: {result}")
        elif events := result.get("events"):
            self._take(one, [_fields(event) for event in events], revision)
        else:
            self._mark(one, revision)

    def _begun(self, watch: _EtcdWatch, watch_id: int, revision: int) -> None:
        if watch_id in self._created:
            self._broken(f"{watch} is created twice")
        self._created.add(watch_id)
        watch.next = watch.next or revision + 1

    def _take(self, watch: _EtcdWatch, events: list[tuple[object, ...]], header: int) -> None:
        """Events of whole revisions, in their order."""
        while events:
            revision = int(str(events[0][2]))
            group = [event for event in events if event[2] == revision]
            if revision < watch.next:
                self._broken(f"{watch}: revision {revision} comes, and it watches from {watch.next} on")
            elif missing := watch.missing(revision - 1):
                self._broken(f"{watch}: revision {missing} was left out before {revision}")
            elif revision > header:
                self._broken(f"{watch}: revision {revision} comes in a message of revision {header}")
            if events[: len(group)] != group or group != watch.expected(revision):
                self._broken(f"{watch}: revision {revision} comes as {group}, and was {watch.expected(revision)}")
            watch.next = revision + 1
            self.told += 1
            events = events[len(group) :]

    def _mark(self, watch: _EtcdWatch, revision: int) -> None:
        if missing := watch.missing(revision):
            self._broken(f"{watch}: a mark at {revision} passes over the changes of revision {missing}")
        if watch.next:
            watch.next = max(watch.next, revision + 1)

    def _canceled(self, watch: _EtcdWatch, result: Json) -> None:
        """A watch ends for its revision alone: it begins again with the next stream."""
        oldest = int(result.get("compact_revision", 0))
        if not watch.next < oldest <= self.record.revision + 1:
            self._broken(f"{watch}: from {watch.next} on it is canceled: {result}")
        watch.next = oldest
        self._leave()

    def _broken(self, text: str, invariant: str = TOLD) -> None:
        server = self._connection.server.name if self._connection is not None else "no server"
        self._verdict.broken(invariant, f"at {server}: {text}")


def _expected(change: Change, *, previous: bool) -> tuple[object, ...]:
    record, before = change.record, change.previous
    deleted = (True, record.key, record.mod_revision, b"", 0, 0, 0)
    event = (False, *_of_record(record)) if record.version else deleted
    return (*event, _of_record(before) if previous and before is not None else None)


def _of_record(record: KeyRecord) -> tuple[object, ...]:
    numbers = (record.create_revision, record.version, record.lease)
    return record.key, record.mod_revision, record.value, *numbers


def _fields(event: Json) -> tuple[object, ...]:
    """An event as `_expected` makes it. What is absent is empty or 0."""
    previous = event.get("prev_kv")
    deleted = event.get("type", "PUT") == "DELETE"
    return (deleted, *_of_json(event["kv"]), None if previous is None else _of_json(previous))


def _of_json(kv: Json) -> tuple[object, ...]:
    numbers = (int(kv.get(name, 0)) for name in ("create_revision", "version", "lease"))
    key, value = base64.b64decode(kv["key"]), base64.b64decode(kv.get("value", ""))
    return key, int(kv.get("mod_revision", 0)), value, *numbers


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode()
