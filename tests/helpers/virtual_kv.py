"""A store in virtual time, for tests of the words of coordination: calls take time, get lost, and leases end.

`VirtualStore` is the cluster. Each `VirtualKv` is a client of its own: with its own connection, clock and faults.
"""

from __future__ import annotations

import asyncio
import builtins
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

from syncline.client.calls import Key
from syncline.client.coordination.calls import TimedCalls
from syncline.client.coordination.lock_words import LockWords
from syncline.client.held_lease import GATHER_S, HeldLease, KeepAlives
from syncline.client.results import (
    DeleteResult,
    GrantedLease,
    KeyEvent,
    KeyInfo,
    KeyPage,
    KeyValue,
    LeaseDetails,
    OperationResult,
    PutResult,
    RevisionEvents,
    RevokeResult,
    TouchResult,
    TxnResult,
)
from syncline.client.txn import Compare, DeleteOp, GetOp, ListOp, Operation, PutOp
from syncline.errors import DeadlineExceeded, Outcome, Rejected, RevisionCompacted, Unreachable, UsageError
from syncline.testing.sim.loop import SimLoop, run_simulation

Result = TypeVar("Result")

DELAY_S: Final = 0.005
TIMEOUT_S: Final = 5.0
WALL_S: Final = 1_790_000_000.0
"""The wall clock when the loop's clock is 0."""

LOST_ANSWER: Final = "lost answer"
LOST_REQUEST: Final = "lost request"
REFUSED: Final = "refused"


@dataclass
class _Lease:
    ttl_s: float
    timer: asyncio.TimerHandle
    keys: set[bytes] = field(default_factory=set)


class VirtualStore:
    """Keys, leases and their history."""

    def __init__(self) -> None:
        self.revision = 0
        self.oldest = 1
        self.keys: dict[bytes, KeyInfo] = {}
        self.leases: dict[int, _Lease] = {}
        self.history: list[tuple[RevisionEvents, tuple[bytes, ...]]] = []
        self.watches: set[asyncio.Event] = set()
        self.drawn = 0
        self.late_s = 0.1
        """How long after its time a lease ends."""

    def client(self) -> VirtualKv:
        return VirtualKv(self)

    def grant(self, lease: int, ttl_s: float) -> None:
        self.leases[lease] = _Lease(ttl_s, self._timer(lease, ttl_s))

    def keep(self, lease: int) -> float:
        record = self.leases.get(lease)
        if record is None:
            return 0.0
        record.timer.cancel()
        record.timer = self._timer(lease, record.ttl_s)
        return record.ttl_s

    def revoke(self, lease: int) -> int | None:
        """End a lease; how many keys it had, None if there is none."""
        record = self.leases.pop(lease, None)
        if record is None:
            return None
        record.timer.cancel()
        keys = [key for key in record.keys if key in self.keys]
        if keys:
            self.change(lambda revision: [self.delete(key, revision) for key in sorted(keys)])
        return len(keys)

    def change(self, work: Callable[[int], Iterable[KeyEvent | None]]) -> None:
        """One revision."""
        events = tuple(event for event in work(self.revision + 1) if event is not None)
        if events:
            self.revision += 1
            self.history.append((RevisionEvents(self.revision, events), tuple(event.key for event in events)))
            for watch in self.watches:
                watch.set()

    def put(self, key: bytes, value: bytes, lease: int, revision: int) -> KeyEvent:
        before = self.keys.get(key)
        if before is not None and before.lease in self.leases:
            self.leases[before.lease].keys.discard(key)
        if lease:
            self.leases[lease].keys.add(key)
        created = revision if before is None else before.create_revision
        version = 1 if before is None else before.version + 1
        self.keys[key] = KeyInfo(key, revision, created, version, len(value), value, lease)
        return KeyEvent("put", key, value, created, version, lease)

    def delete(self, key: bytes, revision: int) -> KeyEvent | None:
        before = self.keys.pop(key, None)
        if before is None:
            return None
        if before.lease in self.leases:
            self.leases[before.lease].keys.discard(key)
        return KeyEvent("delete", key, b"", before.create_revision, 0)

    def compact(self) -> None:
        self.oldest = self.revision
        for watch in self.watches:
            watch.set()

    def restore(self) -> None:
        """As from a backup without keys: all keys and leases go, revisions jump, the history goes."""
        for record in self.leases.values():
            record.timer.cancel()
        self.leases.clear()
        self.keys.clear()
        self.revision += 1_000_000_000
        self.compact()

    def below(self, prefix: bytes) -> list[KeyInfo]:
        return [self.keys[key] for key in sorted(self.keys) if key.startswith(prefix)]

    def _timer(self, lease: int, ttl_s: float) -> asyncio.TimerHandle:
        return asyncio.get_running_loop().call_later(ttl_s + self.late_s, self.revoke, lease)


class VirtualKv(LockWords):
    """One client of a store."""

    def __init__(self, store: VirtualStore) -> None:
        self.store = store
        self.delay_s = DELAY_S
        self.connected = True
        self.closed = False
        self.wall_off_s = 0.0
        self.calls: list[str] = []
        self.open_watches = 0
        self.faults: list[tuple[str, str]] = []
        """The next call of this name fails so."""
        self._changed = asyncio.Event()
        self._entropy = self._drawn
        self._wall_time_s = self.wall_s
        self._keep_alives = KeepAlives(lambda names, timeout_s: self.keep_alive(names, timeout=timeout_s))

    def wall_s(self) -> float:
        return WALL_S + asyncio.get_running_loop().time() + self.wall_off_s

    def connect(self, connected: bool) -> None:
        self.connected = connected
        self._changed.set()
        self._changed = asyncio.Event()
        for watch in self.store.watches:
            watch.set()

    async def get(
        self,
        key: Key,
        *,
        revision: int | None = None,
        consistency: str | None = None,
        max_stale_s: float | None = None,
        timeout: float | None = None,
    ) -> KeyValue | None:
        def read() -> KeyValue | None:
            found = self.store.keys.get(_bytes(key))
            if found is None:
                return None
            return KeyValue(found.key, found.value or b"", found.mod_revision, self.store.revision)

        return await self._call("get", read, timeout)

    async def put(
        self,
        key: Key,
        value: bytes | str,
        *,
        if_revision: int | None = None,
        if_absent: bool = False,
        if_present: bool = False,
        ttl: float | None = None,
        lease: str | int | None = None,
        idempotent: bool = False,
        timeout: float | None = None,
    ) -> PutResult:
        def write() -> PutResult:
            if if_absent and _bytes(key) in self.store.keys:
                raise Rejected("the key is there", code="precondition_failed")
            self._run([PutOp(_bytes(key), _bytes(value), lease, ttl)])
            return PutResult(self.store.revision)

        return await self._call("put", write, timeout)

    async def delete(
        self, key: Key, *, if_revision: int | None = None, idempotent: bool = False, timeout: float | None = None
    ) -> DeleteResult:
        def write() -> DeleteResult:
            [result] = self._run([DeleteOp(_bytes(key))])
            return DeleteResult(bool(result.deleted), self.store.revision)

        return await self._call("delete", write, timeout)

    async def list(
        self,
        prefix: Key = b"",
        *,
        after: str | None = None,
        limit: int = 1000,
        values: bool = False,
        reverse: bool = False,
        revision: int | None = None,
        consistency: str | None = None,
        max_stale_s: float | None = None,
        timeout: float | None = None,
    ) -> KeyPage:
        def read() -> KeyPage:
            items = self.store.below(_bytes(prefix))
            begin = 0 if after is None else int(after)
            page = tuple(items[begin : begin + limit])
            more = str(begin + limit) if begin + limit < len(items) else None
            return KeyPage(self.store.revision, page, len(items), more)

        return await self._call("list", read, timeout)

    def scan(
        self,
        prefix: Key = b"",
        *,
        values: bool = False,
        reverse: bool = False,
        page: int = 1000,
        revision: int | None = None,
        consistent: bool = True,
        consistency: str | None = None,
        timeout: float | None = None,
    ) -> AsyncIterator[KeyInfo]:
        raise NotImplementedError

    async def txn(
        self,
        compare: Sequence[Compare] = (),
        then: Sequence[Operation] = (),
        else_: Sequence[Operation] = (),
        *,
        idempotent: bool = False,
        timeout: float | None = None,
    ) -> TxnResult:
        def write() -> TxnResult:
            holds = all(self._holds(item) for item in compare)
            results = self._run(then if holds else else_)
            return TxnResult(holds, self.store.revision, tuple(results))

        return await self._call("txn", write, timeout)

    async def increment(
        self, key: Key, by: int = 1, *, initial: int = 0, idempotent: bool = False, timeout: float | None = None
    ) -> int:
        raise NotImplementedError

    async def watch(
        self,
        key: Key | None = None,
        *,
        prefix: Key | None = None,
        start: Key | None = None,
        end: Key | None = None,
        from_revision: int | None = None,
        events: str | None = None,
        prev: bool = False,
        stale: bool = False,
        progress: float | None = None,
        timeout: float | None = None,
    ) -> AsyncIterator[RevisionEvents]:
        next_revision = await self._call("watch", lambda: from_revision or self.store.revision + 1, None)
        woken = asyncio.Event()
        self.store.watches.add(woken)
        self.open_watches += 1
        try:
            while True:
                woken.clear()
                if self.connected:
                    if next_revision < self.store.oldest:
                        raise RevisionCompacted("compacted", oldest=self.store.oldest)
                    for change, _ in list(self.store.history):
                        mine = tuple(item for item in change.events if _matches(item.key, key, prefix))
                        if change.revision >= next_revision and mine:
                            next_revision = change.revision + 1
                            await asyncio.sleep(self.delay_s)
                            yield RevisionEvents(change.revision, mine)
                    if self._fault("watching"):
                        raise Unreachable("the watch was interrupted")
                await woken.wait()
        finally:
            self.store.watches.discard(woken)
            self.open_watches -= 1

    def cut(self) -> None:
        """End the watches with an error that passes, one of them."""
        self.faults.append(("watching", REFUSED))
        for watch in self.store.watches:
            watch.set()

    async def touch(self, key: Key, ttl: float, *, timeout: float | None = None) -> TouchResult:
        raise NotImplementedError

    async def grant_lease(
        self, ttl: float, *, lease: str | int | None = None, timeout: float | None = None
    ) -> GrantedLease:
        def write() -> GrantedLease:
            self.store.drawn += 1
            # Not in the order in which they are drawn, as in life.
            number = self.store.drawn * 0x9E3779B97F4A7C15 % 2**63
            self.store.grant(number, ttl)
            return GrantedLease(f"{number:016x}", ttl)

        return await self._call("grant", write, timeout)

    async def keep_alive(
        self, leases: Sequence[str | int], *, timeout: float | None = None
    ) -> builtins.list[GrantedLease]:
        def keep() -> builtins.list[GrantedLease]:
            kept = [(str(one), self.store.keep(int(str(one), 16))) for one in leases]
            return [GrantedLease(name, ttl_s) for name, ttl_s in kept if ttl_s]

        return await self._call("keep_alive", keep, timeout)

    async def revoke_lease(self, lease: str | int, *, timeout: float | None = None) -> RevokeResult:
        def write() -> RevokeResult:
            deleted = self.store.revoke(int(str(lease), 16))
            if deleted is None:
                raise Rejected("there is no such lease", code="lease_not_found")
            return RevokeResult(deleted, self.store.revision)

        return await self._call("revoke", write, timeout)

    async def lease_details(self, lease: str | int, *, timeout: float | None = None) -> LeaseDetails:
        raise NotImplementedError

    def lease(self, ttl: float) -> HeldLease:
        async def end(lease: str, timeout_s: float) -> None:
            await self.revoke_lease(lease, timeout=timeout_s)

        return HeldLease(lambda: self.grant_lease(ttl), end, self._keep_alives.keep, self._keep_alives.pause_s, float)

    def hold_lease(self, lease: str | int) -> HeldLease:
        raise NotImplementedError

    async def _call(self, name: str, work: Callable[[], Result], timeout: float | None) -> Result:
        if self.closed:
            raise UsageError("the client is closed")
        self.calls.append(name)
        try:
            async with asyncio.timeout(timeout or TIMEOUT_S):
                await self._way()
                fault = self._fault(name)
                if fault == REFUSED:
                    raise Unreachable("refused", outcome=Outcome.NOT_APPLIED)
                if fault == LOST_REQUEST:
                    await asyncio.sleep(TIMEOUT_S)
                result = work()
                if fault == LOST_ANSWER:
                    await asyncio.sleep(TIMEOUT_S)
                await self._way()
                return result
        except TimeoutError:
            raise DeadlineExceeded(f"no answer to {name}", outcome=Outcome.UNKNOWN) from None

    def _fault(self, name: str) -> str | None:
        for at, (wanted, kind) in enumerate(self.faults):
            if wanted == name:
                del self.faults[at]
                return kind
        return None

    async def _way(self) -> None:
        await asyncio.sleep(self.delay_s)
        while not self.connected:
            await self._changed.wait()

    def _drawn(self, count: int) -> bytes:
        self.store.drawn += 1
        return self.store.drawn.to_bytes(count, "big")

    def _holds(self, item: Compare) -> bool:
        found = self.store.keys.get(item.key)
        if item.lease is not None:
            return (found.lease if found else 0) == int(str(item.lease), 16)
        assert item.value is None
        assert item.op == "=="
        fields = {"version": 0, "mod_revision": 0, "create_revision": 0}
        number = getattr(found, item.target) if found else fields[item.target]
        return bool(number == item.number)

    def _run(self, operations: Sequence[Operation]) -> builtins.list[OperationResult]:
        """All of them, or none, as one revision."""
        for item in operations:
            if isinstance(item, PutOp) and item.lease is not None and int(str(item.lease), 16) not in self.store.leases:
                raise Rejected("there is no such lease", code="lease_not_found")
        results: builtins.list[OperationResult] = []
        self.store.change(lambda revision: self._changes(operations, revision, results))
        return results

    def _changes(
        self, operations: Sequence[Operation], revision: int, results: builtins.list[OperationResult]
    ) -> builtins.list[KeyEvent | None]:
        changes: builtins.list[KeyEvent | None] = []
        for item in operations:
            match item:
                case PutOp():
                    lease = 0 if item.lease is None else int(str(item.lease), 16)
                    if item.ttl is not None:
                        self.store.drawn += 1
                        lease = self.store.drawn
                        self.store.grant(lease, item.ttl)
                    changes.append(self.store.put(item.key, item.value, lease, revision))
                    results.append(OperationResult("put", revision=revision))
                case DeleteOp():
                    changes.append(self.store.delete(item.key, revision))
                    results.append(OperationResult("delete", deleted=int(changes[-1] is not None)))
                case GetOp():
                    results.append(_got(item.key, self.store.keys.get(item.key)))
                case ListOp():
                    items = self.store.below(item.prefix or b"")
                    limited = tuple(items[: item.limit or None])
                    results.append(OperationResult("range", items=limited, count=len(items)))
                case _:
                    raise NotImplementedError
        return changes


def _got(key: bytes, found: KeyInfo | None) -> OperationResult:
    if found is None:
        return OperationResult("get", key=key)
    return OperationResult(
        "get",
        key=key,
        found=True,
        value=found.value or b"",
        mod_revision=found.mod_revision,
        create_revision=found.create_revision,
        version=found.version,
        lease=f"{found.lease:016x}" if found.lease else "",
    )


def _bytes(value: Key) -> bytes:
    return value.encode() if isinstance(value, str) else value


def _matches(key: bytes, one: Key | None, prefix: Key | None) -> bool:
    return key == _bytes(one) if one is not None else key.startswith(_bytes(prefix or b""))


def virtual(scenario: Callable[[VirtualStore], Coroutine[Any, Any, None]]) -> None:
    """Run a scenario in virtual time. No task, watch or lease may be left at its end but those of keys with a TTL."""

    async def main(_: SimLoop) -> None:
        store = VirtualStore()
        await scenario(store)
        await asyncio.sleep(0)
        await asyncio.sleep(10 * DELAY_S + GATHER_S)
        left = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        assert not left, left
        assert not store.watches
        for record in store.leases.values():
            record.timer.cancel()

    run_simulation(main)


def _satisfies(kv: VirtualKv) -> TimedCalls:
    return kv
