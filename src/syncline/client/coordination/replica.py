"""A local copy of the keys below a prefix, kept by a watch: one revision after the other, each as a whole.

It reads first, and watches from the revision after that read. If the history was compacted meanwhile, it reads again
and tells the difference. Its revision never falls, whichever node serves the watch.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Final

import msgspec

from syncline.client.coordination.calls import KeyValueCalls
from syncline.client.coordination.waiting import closing, passes
from syncline.client.results import RevisionEvents
from syncline.errors import (
    DeadlineExceeded,
    LimitReached,
    OperationError,
    Outcome,
    Rejected,
    RevisionCompacted,
    UsageError,
)
from syncline.platform.waiting import result_of

__all__ = ["Difference", "Follower", "Replica", "ReplicaItem"]

PAGE: Final = 1000
"""Keys of one page of the first read."""

READ_AGAIN_S: Final = 0.2
"""Pause before the keys are read again, after a compaction has overtaken the read or the watch."""

ITEM_BYTES: Final = 200
"""What an item takes in memory beside its key and value, about."""


class ReplicaItem(msgspec.Struct, frozen=True):
    """One key of the copy. `lease` is 0 if it has none."""

    value: bytes
    create_revision: int
    mod_revision: int
    lease: int


class Difference(msgspec.Struct, frozen=True):
    """What a reader has not seen yet: each key that changed, with its item, or None if it was deleted."""

    revision: int
    items: dict[bytes, ReplicaItem | None]


class Follower:
    """One reader of a copy's changes. Changes that it has not read yet are merged: the newest of each key counts.

    So it holds at most the keys that the copy had when it last read, and those that the copy has.
    """

    def __init__(self) -> None:
        self._changed: dict[bytes, bool] = {}
        """Keys that changed since the last read, and whether each existed at that read."""

    @property
    def behind(self) -> bool:
        """Whether there is something to read."""
        return bool(self._changed)

    def note(self, key: bytes, *, existed: bool, exists: bool) -> None:
        """One key has changed."""
        had = self._changed.setdefault(key, existed)
        if not had and not exists:
            del self._changed[key]  # it came and went between two reads

    def take(self) -> list[bytes]:
        """The keys that changed since the last call."""
        keys, self._changed = list(self._changed), {}
        return keys


class Replica:
    """The keys of one prefix that `wanted` lets pass, as they were at `revision`.

    `max_keys` and `max_bytes` (keys, values and 200 bytes for each key) bound it. Above them it ends with
    `LimitReached`, and so does each later use of it: a copy that is not whole is never shown.
    """

    def __init__(
        self,
        kv: KeyValueCalls,
        prefix: bytes,
        *,
        what: str,
        max_keys: int,
        max_bytes: int,
        wanted: Callable[[bytes, int], bool] | None = None,
    ) -> None:
        """`what` names it in errors. `wanted` gets a key and its lease."""
        self._kv = kv
        self._prefix = prefix
        self._what = what
        self._max_keys = max_keys
        self._max_bytes = max_bytes
        self._wanted = wanted
        self._items: dict[bytes, ReplicaItem] = {}
        self._bytes = 0
        self._revision = 0
        self._task: asyncio.Task[None] | None = None
        self._failure: BaseException | None = None
        self._opened = False
        self._followers: dict[Follower, None] = {}
        self._woken: asyncio.Future[None] | None = None

    @property
    def items(self) -> dict[bytes, ReplicaItem]:
        """The keys as they are now. Not to be changed. Raises what has ended the copy."""
        self.check()
        return self._items

    @property
    def revision(self) -> int:
        """The revision of the store that the copy stands for. It never falls."""
        return self._revision

    def check(self) -> None:
        """Raise `UsageError` outside of the block, or the error that has ended the copy."""
        if not self._opened:
            raise UsageError(f"{self._what} is not open yet: begin it by `async with`, or by `with` in blocking code")
        if self._failure is not None:
            raise self._failure.with_traceback(None)

    async def open(self) -> None:
        """Read the keys, and begin to watch them. Raises `OperationError`."""
        if self._opened:
            raise UsageError(f"{self._what} is for one block: make another one")
        self._opened = True
        try:
            await self._read()
        except BaseException:
            self._fail(UsageError(f"{self._what} could not be opened"))
            raise
        self._task = asyncio.get_running_loop().create_task(self._run(), name=self._what)
        self._task.add_done_callback(self._ended)

    async def close(self) -> None:
        """End the watch. Uses of the copy raise `UsageError` from now on; those that wait, too."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
        self._failure = UsageError(f"{self._what} is closed")
        self._wake()

    def follow(self) -> Follower:
        """A reader of the changes from now on. End it with `unfollow`."""
        follower = Follower()
        self._followers[follower] = None
        return follower

    def unfollow(self, follower: Follower) -> None:
        """Forget a reader."""
        self._followers.pop(follower, None)

    async def next(self, follower: Follower, timeout_s: float | None) -> Difference:
        """Wait until there is something to read, and return it. Raises `DeadlineExceeded`, and what ended the copy."""
        await self.until(lambda: follower.behind, timeout_s, "nothing has changed")
        return Difference(self._revision, {key: self._items.get(key) for key in follower.take()})

    async def until(
        self,
        holds: Callable[[], bool],
        timeout_s: float | None,
        otherwise: str,
        outcome: Outcome = Outcome.NOT_APPLIED,
    ) -> None:
        """Wait until `holds` is true. Raises `DeadlineExceeded` with the text `otherwise`, and what ended the copy."""
        try:
            async with asyncio.timeout(timeout_s):
                self.check()
                while not holds():
                    if self._woken is None or self._woken.done():
                        self._woken = asyncio.get_running_loop().create_future()
                    await result_of(self._woken)
                    self.check()
        except TimeoutError as error:
            if isinstance(error, OperationError):
                raise
            text = f"{self._what}: {otherwise} within {timeout_s:g} s"
            raise DeadlineExceeded(text, outcome=outcome) from error

    async def refresh(self, timeout_s: float | None) -> None:
        """Bring the copy up to the present: read all keys, linearizably. Raises `OperationError`."""
        self.check()
        await self._read(timeout_s)
        self.check()

    async def _run(self) -> None:
        while True:
            try:
                async for change in self._watched():
                    self._apply(change)
            except _Overtaken:
                await asyncio.sleep(READ_AGAIN_S)
                await self._read_patiently()
            except _Interrupted:
                await asyncio.sleep(READ_AGAIN_S)

    def _ended(self, task: asyncio.Task[None]) -> None:
        """The watch is over: whatever has ended it, each use of the copy raises it."""
        error = None if task.cancelled() else task.exception()
        if error is not None:
            self._fail(error)

    async def _watched(self) -> AsyncIterator[RevisionEvents]:
        """The changes after the present revision. Errors that pass are `_Overtaken` or `_Interrupted`."""
        try:
            async with closing(self._kv.watch(prefix=self._prefix, from_revision=self._revision + 1)) as changes:
                async for change in changes:
                    yield change
        except OperationError as error:
            if not passes(error):
                raise
            raise (_Overtaken if error.code == RevisionCompacted.code else _Interrupted) from error

    async def _read_patiently(self) -> None:
        """Read again, however long no server answers: a copy outlives an outage as its watch does."""
        while True:
            try:
                return await self._read()
            except OperationError as error:
                if isinstance(error, LimitReached) or not passes(error):
                    raise
            await asyncio.sleep(READ_AGAIN_S)

    async def _read(self, timeout_s: float | None = None) -> None:
        """Replace the copy by what stands in the store now. A read that is older than the copy changes nothing."""
        while True:
            try:
                revision, found = await self._listed(timeout_s)
            except Rejected as error:
                if error.code != RevisionCompacted.code:
                    raise
                await asyncio.sleep(READ_AGAIN_S)  # a compaction came between two pages
                continue
            if revision >= self._revision:
                self._replace(revision, found)
            return

    async def _listed(self, timeout_s: float | None) -> tuple[int, dict[bytes, ReplicaItem]]:
        """All keys, as they were at one revision."""
        found: dict[bytes, ReplicaItem] = {}
        total, revision, after = 0, 0, None
        while True:
            page = await self._kv.list(
                self._prefix, after=after, limit=PAGE, values=True, revision=revision or None, timeout=timeout_s
            )
            revision, after = page.revision, page.next
            for info in page.items:
                if self._wanted is None or self._wanted(info.key, info.lease):
                    item = ReplicaItem(info.value or b"", info.create_revision, info.mod_revision, info.lease)
                    found[info.key] = item
                    total += _size(info.key, item)
                    self._check_limits(len(found), total)
            if after is None:
                return revision, found

    def _replace(self, revision: int, found: dict[bytes, ReplicaItem]) -> None:
        before = self._items
        gone = [key for key in before if key not in found]
        new = [key for key, item in found.items() if key not in before or before[key].mod_revision != item.mod_revision]
        self._show(revision, found, [*gone, *new])
        self._bytes = sum(_size(key, item) for key, item in found.items())

    def _apply(self, change: RevisionEvents) -> None:
        """Take the changes of one revision, all at once."""
        if change.revision <= self._revision:
            return  # a read has brought the copy there before
        items, changed, size = dict(self._items), [], self._bytes
        for event in change.events:
            key, before = event.key, items.pop(event.key, None)
            if before is not None:
                size -= _size(key, before)
            if event.type == "put" and (self._wanted is None or self._wanted(key, event.lease)):
                items[key] = ReplicaItem(event.value, event.create_revision, change.revision, event.lease)
                size += _size(key, items[key])
            if before is not None or key in items:
                changed.append(key)
        self._check_limits(len(items), size)
        self._bytes = size
        self._show(change.revision, items, changed)

    def _show(self, revision: int, items: dict[bytes, ReplicaItem], changed: list[bytes]) -> None:
        """Replace the copy as a whole: another thread sees one revision or the other."""
        before, self._items, self._revision = self._items, items, revision
        for follower in self._followers:
            for key in changed:
                follower.note(key, existed=key in before, exists=key in items)
        self._wake()

    def _check_limits(self, keys: int, total: int) -> None:
        if keys > self._max_keys:
            raise LimitReached(f"{self._what} has more than max_keys={self._max_keys} keys: allow more, or copy less")
        if total > self._max_bytes:
            raise LimitReached(f"{self._what} is larger than max_bytes={self._max_bytes}: allow more, or copy less")

    def _fail(self, error: BaseException) -> None:
        self._failure = error
        self._items, self._bytes = {}, 0  # nothing is held for a copy that is over
        self._wake()

    def _wake(self) -> None:
        if self._woken is not None and not self._woken.done():
            self._woken.set_result(None)


def _size(key: bytes, item: ReplicaItem) -> int:
    """What an item takes in memory, about."""
    return len(key) + len(item.value) + ITEM_BYTES


class _Overtaken(Exception):
    """The history begins after the revision that the watch wants."""


class _Interrupted(Exception):
    """No server could be watched in time."""
