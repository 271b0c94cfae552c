"""The places of one name as one client knows them: one watch for all of its callers that wait for their turn.

Without it each caller that waits would watch all places, and read them again at its turn. With `n` of them each release
would cost `n` events. Here an event is taken once, and wakes the callers whose turn it makes.
"""

from __future__ import annotations

import asyncio
from bisect import bisect_left, insort
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Final
from weakref import WeakValueDictionary

import msgspec

from syncline.client.coordination.calls import KeyValueCalls
from syncline.client.coordination.names import lease_in_key, shown
from syncline.client.coordination.waiting import PAUSE_S, SIGNS_S, closing, passes
from syncline.client.results import KeyEvent, KeyInfo
from syncline.errors import OperationError

__all__ = ["PlaceQueue", "WaitingCaller", "places_in", "queue_of", "read_places"]

PAGE: Final = 1000


class WaitingCaller(msgspec.Struct, eq=False):
    """A caller that waits: the create revision of its key, how many places have the turn, and what wakes it."""

    revision: int
    places: int
    woken: asyncio.Future[None]


class PlaceQueue:
    """The places below a prefix, in their order, while callers wait for their turn.

        queue = queue_of(kv, prefix)
        ahead = await queue.turn(key, revision, 1, (seen, items))

    An event costs a bisection, and a step for each different number of places that callers wait for.
    """

    def __init__(self, kv: KeyValueCalls, prefix: bytes) -> None:
        self._kv = kv
        self._prefix = prefix
        self._order: list[tuple[int, bytes]] = []
        """The places: create revision and key, ascending."""
        self._created: dict[bytes, int] = {}
        """The create revision of each place, by its key."""
        self._revision = 0
        """The places are those of this revision; while its events are taken, some may be missing."""
        self._waiting: dict[bytes, WaitingCaller] = {}
        self._numbers: Counter[int] = Counter()
        """How many callers wait for each number of places."""
        self._loop = asyncio.get_running_loop()
        self._task: asyncio.Task[None] | None = None

    @property
    def is_of_this_loop(self) -> bool:
        """Whether its watch runs on the running event loop. One of a loop that has ended brings nothing any more."""
        return self._loop is asyncio.get_running_loop()

    @property
    def is_followed(self) -> bool:
        """Whether callers wait: a place that is written now need not read the others."""
        return bool(self._waiting)

    async def turn(
        self, key: bytes, revision: int, places: int, known: tuple[int, Sequence[KeyInfo]] | None
    ) -> list[bytes]:
        """Wait until fewer than so many places are ahead of the key, or its place is gone. Return those ahead.

        `revision` is the create revision of the key. `known` are the keys below the prefix at a revision: a first
        caller begins with them, or they are read.

        Raises:
            OperationError, UsageError: the watch, or a reading, failed for good.
        """
        if not self._waiting:
            _queues[id(self._kv), self._prefix] = self
            self._take(*known or (0, ()))
        waiting = WaitingCaller(revision, places, self._loop.create_future())
        self._waiting[key] = waiting
        self._numbers[places] += 1
        self._look(key, waiting)
        if self._task is None:
            self._begin()
        try:
            await waiting.woken
        finally:
            del self._waiting[key]
            self._numbers[places] -= 1
            if not self._numbers[places]:
                del self._numbers[places]
            await self._close_if_idle()
        return self.ahead(revision, places)

    def ahead(self, revision: int, limit: int) -> list[bytes]:
        """The first keys of the places before this create revision, at most so many."""
        return [key for created, key in self._order[:limit] if created < revision]

    async def _close_if_idle(self) -> None:
        """End the watch with the last caller. A later one begins another one."""
        if self._waiting:
            return
        if _queues.get(name := (id(self._kv), self._prefix)) is self:
            del _queues[name]
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.wait([task])

    def _begin(self) -> None:
        self._task = self._loop.create_task(self._follow(), name=f"places of {shown(self._prefix)}")
        self._task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        """Begin again if the task was cancelled, and not by the last caller: else those that wait never get a turn."""
        if task is self._task:
            self._task = None
            if self._waiting:
                self._begin()

    async def _follow(self) -> None:
        """Take the changes, and wake those whose turn comes; or give all of them the error that ends this."""
        try:
            await self._take_changes()
        except Exception as error:  # noqa: BLE001 - it is the callers' error
            self._task = None  # a caller that comes now begins again
            for waiting in self._waiting.values():
                if not waiting.woken.done():
                    waiting.woken.set_exception(error)

    async def _take_changes(self) -> None:
        while True:
            if self._revision:
                await self._watch(self._revision + 1)
                await asyncio.sleep(PAUSE_S)
            try:
                self._take(*await read_places(self._kv, self._prefix))
            except OperationError as error:
                if not passes(error):
                    raise
                await asyncio.sleep(PAUSE_S)

    async def _watch(self, revision: int) -> None:
        """Take what changes from this revision on, until the watch ends by itself or by an error that passes."""
        try:
            async with closing(
                self._kv.watch(prefix=self._prefix, from_revision=revision, progress=SIGNS_S)
            ) as changes:
                async for change in changes:
                    self._revision = change.revision
                    for event in change.events:
                        self._apply(event)
        except OperationError as error:
            if not passes(error):
                raise

    def _take(self, revision: int, items: Iterable[KeyInfo]) -> None:
        """Begin with the keys below the prefix, as they are at this revision."""
        self._revision = revision
        self._order = [(item.create_revision, item.key) for item in places_in(items, self._prefix)]
        self._created = {key: created for created, key in self._order}
        for key, waiting in self._waiting.items():
            self._look(key, waiting)

    def _apply(self, event: KeyEvent) -> None:
        key = event.key
        is_place = event.type != "delete" and event.lease != 0 and event.lease == lease_in_key(key, self._prefix)
        created = self._created.get(key)
        if is_place and created == event.create_revision:
            return
        if created is not None:
            self._remove(key, created)
        if is_place:
            self._created[key] = event.create_revision
            insort(self._order, (event.create_revision, key))
            if (waiting := self._waiting.get(key)) is not None:
                self._look(key, waiting)

    def _remove(self, key: bytes, created: int) -> None:
        at = bisect_left(self._order, (created, key))
        del self._order[at], self._created[key]
        if (waiting := self._waiting.get(key)) is not None:
            self._look(key, waiting)
        for places in self._numbers:
            if at < places <= len(self._order):  # the place at this number has one fewer ahead
                behind = self._order[places - 1][1]
                if (waiting := self._waiting.get(behind)) is not None:
                    self._look(behind, waiting)

    def _look(self, key: bytes, waiting: WaitingCaller) -> None:
        """Wake the caller if it has its turn, or its place is gone.

        Not before the places are those of its key's revision: others may have come between an earlier key and this one.
        """
        if self._revision < waiting.revision:
            return
        is_there = self._created.get(key) == waiting.revision
        has_turn = not is_there or bisect_left(self._order, (waiting.revision, key)) < waiting.places
        if has_turn and not waiting.woken.done():
            waiting.woken.set_result(None)


_queues: Final[WeakValueDictionary[tuple[int, bytes], PlaceQueue]] = WeakValueDictionary()
"""Those with callers that wait, which keep them: by the id of the client, to which a queue refers, and the prefix."""


def queue_of(kv: KeyValueCalls, prefix: bytes) -> PlaceQueue:
    """The queue of a name, which all callers of a client on this event loop share. It is kept while callers wait."""
    queue = _queues.get((id(kv), prefix))
    return queue if queue is not None and queue.is_of_this_loop else PlaceQueue(kv, prefix)


def places_in(items: Iterable[KeyInfo], prefix: bytes) -> list[KeyInfo]:
    """The places among the keys below a prefix, in their order: keys that are named after the lease that they have."""
    found = [item for item in items if item.lease and item.lease == lease_in_key(item.key, prefix)]
    return sorted(found, key=lambda item: (item.create_revision, item.key))


async def read_places(kv: KeyValueCalls, prefix: bytes, *, values: bool = False) -> tuple[int, list[KeyInfo]]:
    """All keys below a prefix as they are now, and the revision of this state. Reads are linearizable."""
    page = await kv.list(prefix, limit=PAGE, values=values)
    items, revision = list(page.items), page.revision
    while page.next is not None:
        page = await kv.list(prefix, after=page.next, limit=PAGE, values=values, revision=revision)
        items += page.items
    return revision, items
