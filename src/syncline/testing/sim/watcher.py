"""A client that watches keys in a simulation, and compares what it is told with what was applied.

It watches through the route of any server. When its connection or its server ends, it goes on at another one. If its
revision was compacted, it begins again at the oldest one.
"""

from __future__ import annotations

import asyncio
import random
from typing import Final, NamedTuple

import msgspec
from msgspec import UNSET

from syncline.client.schemas import ErrorAnswer, ErrorBody
from syncline.client.watch_schemas import ChangeItem, RevisionItem, ValueItem, WatchLine
from syncline.kv.records import Change, KeyRecord
from syncline.server.http.request import Request as HttpRequest
from syncline.server.http.response import Response
from syncline.server.http.stream import Stream
from syncline.testing.cluster import LOOK_S, SimCluster
from syncline.testing.invariants.base import Verdict
from syncline.testing.sim.changes import ChangeRecord
from syncline.testing.sim.stream_reader import StreamReader

__all__ = ["COMPLETE", "PROGRESS", "TOLD", "Watcher"]

TOLD: Final = "a watch is told each change of its keys once, in order"
PROGRESS: Final = "a progress mark tells of all that was written before"
COMPLETE: Final = "a watch is told everything after the faults"

ANSWER_S: Final = 1.0
FINISH_S: Final = 20.0
"""Seconds that a server has, after the faults, to send everything to a client that reads at once."""
AHEAD: Final = 30
"""A watch from the future begins so many revisions later at most."""

_lines: Final = msgspec.json.Decoder(WatchLine)
_revisions: Final = msgspec.json.Decoder(RevisionItem)
_errors: Final = msgspec.json.Decoder(ErrorAnswer)


class _Message(NamedTuple):
    """What a piece of a watch's body says. `resume`: the id of the event, if it has one."""

    revision: int = 0
    events: list[ChangeItem] | None = None
    error: ErrorBody | None = None
    resume: int | None = None


class Watcher:
    """One watch, over all its connections. `told` counts the revisions that it was told."""

    def __init__(self, cluster: SimCluster, record: ChangeRecord, rng: random.Random, verdict: Verdict) -> None:
        self.record: ChangeRecord = record
        self.told: int = 0
        self._cluster = cluster
        self._rng = rng
        self._verdict = verdict
        self._start, self._end, self._scope = rng.choice(
            [
                (b"", None, b"prefix="),
                (b"k", b"l", b"prefix=k"),
                (b"k0", b"k0\0", b"key=k0"),
                (b"k1", b"k3", b"start=k1&end=k3"),
            ]
        )
        self._events = rng.choice([b"put,delete", b"put,delete", b"put,delete", b"put", b"delete"])
        self._previous = rng.random() < 0.5
        self._by_events = rng.random() < 0.5
        """Server-Sent Events, not lines of JSON."""
        self._stale = rng.random() < 0.4
        self._next = 0
        """All before it was told, or is of no concern; 0: it has not begun."""
        self._connection: StreamReader | None = None

    async def run(self) -> None:
        """Watch from some revision on, through any server, and leave it sometimes."""
        rng, election_s = self._rng, self._cluster.settings.election_s
        await asyncio.sleep(rng.uniform(0.0, 4.0) * election_s)
        begin = rng.random()
        if begin < 0.4:
            self._next = rng.randint(1, self.record.revision + 1)
        elif begin < 0.6:
            self._next = self.record.revision + rng.randint(1, AHEAD)
        while True:
            await self._connect(rng.choice([0.0, 0.0, 0.001, 0.1]) * election_s)
            stay_s = rng.expovariate(1.0 / (rng.choice([1.0, 10.0]) * election_s))
            await self._stay(stay_s)
            await asyncio.sleep(rng.choice([0.0, 0.5, 3.0]) * rng.random() * election_s)

    async def finish(self) -> None:
        """After the faults: be told what is left, on the connection that is there, or on new ones."""
        if self._connection is not None:
            self._connection.read_without_pauses()  # a slow client may be hundreds of messages behind
        end_s = self._cluster.loop.true_time() + FINISH_S
        while self._next and (missing := self._missing(self.record.revision)):
            if self._cluster.loop.true_time() > end_s:
                self._broken(COMPLETE, f"the changes of revision {missing} have not come within {FINISH_S:g} s")
                return
            if self._connection is None or not self._connection.is_up:
                await self._connect(0.0)
            await asyncio.sleep(LOOK_S)
        self._leave()

    # -- connections ---------------------------------------------------------------------------------------------------

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
        future = server.serve(self._request())
        await asyncio.wait([future], timeout=ANSWER_S)
        if not future.done() or server.lives != life or not server.running:
            return
        answer = future.result()
        if not isinstance(answer, Stream):
            if answer.status != 200:
                self._ended(_errors.decode(answer.body).error)
            return
        first = _revision_of(answer) + 1
        if self._next == 0:
            self._next = first
        self._connection = connection = StreamReader(self, server, answer.source, pause_s)
        server.call(connection.begin)

    def _request(self) -> HttpRequest:
        query = b"%s&progress=1s&events=%s" % (self._scope, self._events)
        headers = {} if self._by_events else {b"accept": b"application/x-ndjson"}
        if self._previous:
            query += b"&prev=true"
        if self._stale:
            query += b"&stale=true"
        if self._next and self._by_events and self._rng.random() < 0.7:
            headers[b"last-event-id"] = b"%d" % (self._next - 1)
            query += b"&from=1"
        elif self._next:
            query += b"&from=%d" % self._next
        return HttpRequest("GET", b"/watch", query, headers, b"")

    # -- what is told --------------------------------------------------------------------------------------------------

    def received(self, connection: StreamReader, piece: bytes, applied: int, before: int, written: int) -> None:
        """A piece of the body. The node had applied `applied` when it gave it."""
        if connection is not self._connection:
            return  # it was on its way when the watcher left
        message = _by_events(piece) if self._by_events else _by_line(piece)
        if message.error is not None:
            self._connection = None
            self._ended(message.error)
        elif message.events is not None:
            if message.revision > applied:
                self._broken(TOLD, f"{connection.server.name} tells of revision {message.revision} at {applied}")
            self._take(message.revision, message.events)
        elif message.revision or message.resume is None:
            connection.marked(written)
            self._mark(message, applied, before)
        elif message.resume != self._next - 1:
            self._broken(TOLD, f"from {self._next} on the watch begins after {message.resume}")

    def _take(self, revision: int, events: list[ChangeItem]) -> None:
        if revision < self._next:
            self._broken(TOLD, f"revision {revision} comes, and it watches from {self._next} on")
        elif missing := self._missing(revision - 1):
            self._broken(TOLD, f"revision {missing} was left out before {revision}")
        expected = [_expected(change, previous=self._previous) for change in self._of_concern(revision)]
        if events != expected or not events:
            self._broken(TOLD, f"revision {revision} comes as {events}, and was {expected}")
        self._next = revision + 1
        self.told += 1

    def _mark(self, mark: _Message, applied: int, before: int) -> None:
        revision = mark.revision
        if missing := self._missing(revision):
            self._broken(TOLD, f"a mark at {revision} passes over the changes of revision {missing}")
        if mark.resume is not None and revision < self._next - 1:
            self._broken(TOLD, f"a mark at {revision} is to resume from, and it watches from {self._next} on")
        if not before <= revision <= applied:
            self._broken(PROGRESS, f"a mark at {revision}: {before} was written before, and its node is at {applied}")
        self._next = max(self._next, revision + 1)

    def _ended(self, error: ErrorBody) -> None:
        details = error.details or {}
        if error.code == "compacted":
            oldest = int(details["oldest"])
            if not self._next < oldest <= self.record.revision + 1:
                self._broken(TOLD, f"from {self._next} on it is refused: {error}")
            self._next = oldest
        elif "from" in details:
            resume = int(details["from"])
            if missing := self._missing(resume - 1):
                self._broken(TOLD, f"it is to resume from {resume}, and was not told revision {missing}")
            if resume < self._next and self.record.revision >= resume:
                self._broken(TOLD, f"it is to resume from {resume}, and watches from {self._next} on")
            self._next = max(self._next, resume)

    def _missing(self, revision: int) -> int:
        """The first revision up to this one with a change that should have come by now; 0: none."""
        wanted = range(self._next, min(revision, self.record.revision) + 1)
        return next((one for one in wanted if self._of_concern(one)), 0) if self._next else 0

    def _of_concern(self, revision: int) -> list[Change]:
        kinds = self._events.split(b",")
        return [
            change
            for change in self.record.changes(revision)
            if self._start <= change.record.key
            and (self._end is None or change.record.key < self._end)
            and (b"put" if change.record.version else b"delete") in kinds
        ]

    def _broken(self, invariant: str, text: str) -> None:
        server = self._connection.server.name if self._connection is not None else "no server"
        self._verdict.broken(invariant, f"{self._scope.decode()} ({self._events.decode()}) at {server}: {text}")


def _by_line(piece: bytes) -> _Message:
    line = _lines.decode(piece)
    if line.error is not None:
        return _Message(error=line.error)
    if line.progress is not None:
        return _Message(line.progress.revision)
    return _Message(line.revision, line.events)


def _by_events(piece: bytes) -> _Message:
    fields = dict(line.split(b": ", 1) for line in piece.splitlines() if line)
    resume = int(fields[b"id"]) if b"id" in fields else None
    kind, data = fields.get(b"event", b""), fields.get(b"data", b"")
    if kind == b"error":
        return _Message(error=_errors.decode(data).error)
    if kind == b"progress":
        return _Message(msgspec.json.decode(data, type=dict[str, int])["revision"], resume=resume)
    if not data:
        return _Message(resume=resume)
    told = _revisions.decode(data)
    return _Message(told.revision, told.events, resume=resume)


def _expected(change: Change, *, previous: bool) -> ChangeItem:
    record, before = change.record, change.previous
    item = ChangeItem(type="put" if record.version else "delete", key=record.key.decode())
    if record.version:
        item.value, item.create_revision = record.value.decode(), record.create_revision
        item.version = record.version
        if record.lease:
            item.lease = f"{record.lease:016x}"
    if previous and before is not None:
        item.prev = _before(before)
    return item


def _before(record: KeyRecord) -> ValueItem:
    return ValueItem(
        value=record.value.decode(),
        mod_revision=record.mod_revision,
        create_revision=record.create_revision,
        version=record.version,
        lease=f"{record.lease:016x}" if record.lease else UNSET,
    )


def _revision_of(answer: Response) -> int:
    name = b"Syncline-Revision: "
    return next(int(line[len(name) :]) for line in answer.head.split(b"\r\n") if line.startswith(name))
