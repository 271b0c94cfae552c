"""The clients of a run: they write, read and compare-and-swap over HTTP, and write down what they were told.

As in etcd's robustness tests, some clients know one node alone, so that each node is asked through whatever happens to
it, and some know all. The keys are few, so that clients meet; every value is written once, so that a read tells which
write it saw. Two sorts of keys: contended ones, in pairs (a transaction touches one pair), and a ledger, where each key
is written by one client, once, and must be there at the end exactly if it was acknowledged.
"""

from __future__ import annotations

import asyncio
import random
import zlib
from collections.abc import Awaitable, Callable
from typing import Final, TypeAlias

from syncline.client import AsyncClient, GetOp, PutOp, TxnResult
from syncline.client import Compare as WireCompare
from syncline.errors import OperationError, Outcome, Rejected
from syncline.platform.world import World
from syncline.testing.linearizability.history import (
    ABSENT,
    Call,
    CallCompare,
    DeleteCall,
    PutCall,
    Ran,
    ReadCall,
    Recorder,
    Refused,
    Result,
    Seen,
    TxnCall,
    Written,
)
from tests.chaos.fleet import ChaosNode, Fleet

__all__ = ["LEDGER", "TRAFFIC_PER_S", "Clients"]

LEDGER: Final = b"ledger/"
PAIRS: Final = 4
EPOCH_OPERATIONS: Final = 500
"""After so many operations the contended keys are left for new ones: what is in doubt piles up no further."""

TIMEOUT_S: Final = 1.0
TRAFFIC_PER_S: Final = 100.0
"""Operations of all clients together, at most: chaos is about conditions, not about load; others need the processor."""

BOUND_PER_NODE: Final = 2
FREE: Final = 2

PADDING: Final = b"~" * (64 * 1024)
PADDED_EVERY: Final = 16
"""One in so many values on contended keys travels with padding: the log fills segments, slow lines have something to
carry, and the state stays small. A history holds the values without it."""

PRECONDITION_FAILED: Final = "precondition_failed"


_Choice: TypeAlias = tuple[Callable[[AsyncClient], Awaitable[None]], int]
"""Something that a client may do next, and how often, beside the others."""


class Clients:
    """All clients of one run."""

    def __init__(self, fleet: Fleet, recorder: Recorder, rng: random.Random, per_s: float = TRAFFIC_PER_S) -> None:
        self._recorder = recorder
        self._tasks: list[asyncio.Task[None]] = []
        self._stopping = asyncio.Event()
        owners: list[ChaosNode | None] = [*fleet.nodes] * BOUND_PER_NODE + [None] * FREE
        pause_s = len(owners) / per_s
        self._clients = [
            _Client(f"c{number}", fleet, owner, recorder, random.Random(rng.random()), pause_s)
            for number, owner in enumerate(owners)
        ]

    def start(self) -> None:
        self._tasks = [asyncio.create_task(client.run(self._stopping)) for client in self._clients]

    async def stop(self) -> None:
        """Let each finish what it is at. Raises what ended one of them, if anything did."""
        self._stopping.set()
        await asyncio.gather(*self._tasks)

    def raise_failures(self) -> None:
        """A client that ended is a fault of this program: say so now and not at the end."""
        for task in self._tasks:
            if task.done():
                task.result()


class _Client:
    """One client: one operation at a time."""

    def __init__(
        self, name: str, fleet: Fleet, owner: ChaosNode | None, recorder: Recorder, rng: random.Random, pause_s: float
    ) -> None:
        self._name = name
        self._owner = owner
        self._urls = [owner.url] if owner is not None else rng.sample(fleet.endpoints, len(fleet.endpoints))
        self._recorder = recorder
        self._rng = rng
        self._pause_s = pause_s
        self._written = 0
        self._revisions: dict[bytes, int] = {}
        self._in_doubt = False
        self._careful: list[_Choice] = [(self._ledger, 10), (self._read, 30)]
        """While in doubt: what piles up no doubt on keys that others write too. Judging it would take for ever."""
        if owner is not None:  # whose state is stale is only known of one node
            self._careful.append((self._stale_read, 10))
        self._all: list[_Choice] = [
            *self._careful,
            (self._put, 20),
            (self._swap, 15),
            (self._txn, 10),
            (self._delete, 5),
        ]

    async def run(self, stopping: asyncio.Event) -> None:
        async with AsyncClient(self._urls, timeout=TIMEOUT_S, world=World(rng=self._rng)) as client:
            while not stopping.is_set():
                actions, weights = zip(*(self._careful if self._in_doubt else self._all), strict=True)
                (action,) = self._rng.choices(actions, weights)
                await action(client)
                await asyncio.sleep(self._rng.expovariate(1 / self._pause_s))

    # -- what it does

    async def _put(self, client: AsyncClient) -> None:
        request = PutCall(self._key(), self._value())
        await self._do(request, lambda: _put(client, request))

    async def _ledger(self, client: AsyncClient) -> None:
        value = self._value()
        request = PutCall(LEDGER + value, value)
        await self._do(request, lambda: _put(client, request))

    async def _swap(self, client: AsyncClient) -> None:
        key = self._key()
        request = PutCall(key, self._value(), expect=self._revisions.get(key, ABSENT))
        await self._do(request, lambda: _put(client, request))

    async def _delete(self, client: AsyncClient) -> None:
        key = self._key()
        expect = self._revisions.get(key) or None if self._rng.random() < 0.5 else None
        request = DeleteCall(key, expect=expect)
        await self._do(request, lambda: _delete(client, request))

    async def _read(self, client: AsyncClient) -> None:
        request = ReadCall(self._key())
        await self._do(request, lambda: _read(client, request))

    async def _stale_read(self, client: AsyncClient) -> None:
        request = ReadCall(self._key(), stale=True)
        await self._do(request, lambda: _read(client, request))

    async def _txn(self, client: AsyncClient) -> None:
        """Where one key of a pair is as it was last seen, write both; else read both."""
        one, other = self._pair()
        request = TxnCall(
            compares=(CallCompare(one, self._revisions.get(one, ABSENT)),),
            then=(PutCall(one, self._value()), PutCall(other, self._value())),
            else_=(ReadCall(one), ReadCall(other)),
        )
        await self._do(request, lambda: _txn(client, request))

    # -- how

    async def _do(self, request: Call, send: Callable[[], Awaitable[Result]]) -> None:
        """Write down the call, make it, write down what came of it."""
        label = self._label
        token = self._recorder.call(self._name, request, node=label)
        try:
            result = await send()
        except OperationError as error:
            self._recorder.failed(token, error)
            self._in_doubt = self._in_doubt or error.outcome is Outcome.UNKNOWN
            return
        if isinstance(request, ReadCall) and self._label != label:
            # The node was replaced meanwhile: nobody knows which of the two was asked. A read leaves nothing behind.
            return
        self._recorder.returned(token, result)
        if not (isinstance(request, ReadCall) and request.stale):
            self._in_doubt = False  # whoever answers that has a quorum behind it
        self._learn(request, result)

    @property
    def _label(self) -> str:
        return self._owner.label if self._owner is not None else ""

    def _learn(self, request: Call, result: Result) -> None:
        """Remember the key's revision, for the next compare-and-swap."""
        match request, result:
            case PutCall(key=key), Written(revision=revision):
                self._revisions[key] = revision
            case (ReadCall(key=key, stale=False), Seen(mod_revision=revision)) | (
                PutCall(key=key) | DeleteCall(key=key),
                Refused(mod_revision=int(revision)),
            ):
                self._revisions[key] = revision
            case DeleteCall(key=key), Written():
                self._revisions[key] = ABSENT
            case TxnCall(then=then), Ran(succeeded=True, revision=revision):
                self._revisions.update((step.key, revision) for step in then)
            case TxnCall(else_=else_), Ran(results=results):
                for step, seen in zip(else_, results, strict=True):
                    if isinstance(seen, Seen):
                        self._revisions[step.key] = seen.mod_revision
            case _:
                pass  # nothing to learn from a stale read

    def _pair(self) -> tuple[bytes, bytes]:
        epoch, pair = len(self._recorder) // EPOCH_OPERATIONS, self._rng.randrange(PAIRS)
        return b"pair/%d/%d/a" % (epoch, pair), b"pair/%d/%d/b" % (epoch, pair)

    def _key(self) -> bytes:
        return self._rng.choice(self._pair())

    def _value(self) -> bytes:
        self._written += 1
        return b"%s.%d" % (self._name.encode(), self._written)


async def _put(client: AsyncClient, request: PutCall) -> Result:
    value = request.value if request.key.startswith(LEDGER) else _padded(request.value)
    try:
        if request.expect is None:
            return Written((await client.put(request.key, value)).revision)
        return Written((await client.put(request.key, value, if_revision=request.expect)).revision)
    except Rejected as refusal:
        return _refused(refusal)


async def _delete(client: AsyncClient, request: DeleteCall) -> Result:
    try:
        deleted = await client.delete(request.key, if_revision=request.expect)
    except Rejected as refusal:
        return _refused(refusal)
    return Written(deleted.revision, existed=deleted.deleted)


async def _read(client: AsyncClient, request: ReadCall) -> Result:
    found = await client.get(request.key, consistency="stale" if request.stale else None)
    return Seen() if found is None else Seen(found.value.removesuffix(PADDING), found.mod_revision, found.revision)


async def _txn(client: AsyncClient, request: TxnCall) -> Result:
    (compare,) = request.compares
    assert isinstance(compare.operand, int)
    answer = await client.txn(
        [WireCompare(compare.key, number=compare.operand)],
        [PutOp(step.key, step.value) for step in request.then if isinstance(step, PutCall)],
        [GetOp(step.key) for step in request.else_],
    )
    return Ran(answer.succeeded, answer.revision, _steps(answer))


def _steps(answer: TxnResult) -> tuple[Written | Seen, ...]:
    if answer.succeeded:
        return tuple(Written(step.revision) for step in answer.results)
    revision = answer.revision
    return tuple(
        Seen(step.value.removesuffix(PADDING), step.mod_revision, revision) if step.found else Seen(revision=revision)
        for step in answer.results
    )


def _padded(value: bytes) -> bytes:
    return value + PADDING if zlib.crc32(value) % PADDED_EVERY == 0 else value


def _refused(refusal: Rejected) -> Refused:
    if refusal.code != PRECONDITION_FAILED:
        raise refusal
    found = refusal.details.get("revision")
    return Refused(found if isinstance(found, int) else None)
