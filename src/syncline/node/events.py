"""Events of a node for its watchers: changes of role, leader, membership, snapshots and peers."""

from __future__ import annotations

import asyncio
import weakref
from collections import deque
from collections.abc import AsyncIterator, Collection
from enum import StrEnum
from typing import Final

import msgspec

__all__ = ["Event", "EventKind", "Events"]

QUEUE_LIMIT: Final = 1024
"""Events kept for a watcher that does not keep up; the oldest go first, and are counted."""


class EventKind(StrEnum):
    STATE = "state"
    LEADER = "leader"
    MEMBERSHIP = "membership"
    SNAPSHOT = "snapshot"
    PEER_UP = "peer_up"
    PEER_DOWN = "peer_down"
    DISK_SLOW = "disk_slow"
    DISK_FULL = "disk_full"
    STOPPED = "stopped"
    """The last event of a node: it was closed, or has stopped itself. `detail` says why."""


class Event(msgspec.Struct, frozen=True):
    """Something happened. `subject` is the node that it is about (0: none), `detail` has the rest as text."""

    kind: EventKind
    term: int
    index: int
    subject: int = 0
    detail: str = ""
    missed: int = 0
    """Events that this watcher was too slow for, before this one."""


class _Watcher:
    def __init__(self, kinds: frozenset[EventKind] | None) -> None:
        self.kinds = kinds
        self.queue: deque[Event] = deque()
        self.missed = 0
        self.closed = False
        self.wake = asyncio.Event()


class Events:
    """Hands each event to each watcher that asked for its kind. Never blocks the node."""

    def __init__(self) -> None:
        # Weakly held: a watcher whose iterator was dropped, or never started, goes with it.
        self._watchers: weakref.WeakKeyDictionary[_Watcher, None] = weakref.WeakKeyDictionary()
        self._closed = False

    def emit(self, event: Event) -> None:
        for watcher in self._watchers:
            if watcher.kinds is not None and event.kind not in watcher.kinds:
                continue
            if len(watcher.queue) >= QUEUE_LIMIT:
                watcher.queue.popleft()
                watcher.missed += 1
            watcher.queue.append(event)
            watcher.wake.set()

    def close(self) -> None:
        self._closed = True
        for watcher in self._watchers:
            watcher.closed = True
            watcher.wake.set()

    def watch(self, kinds: Collection[EventKind] | None = None) -> AsyncIterator[Event]:
        """Events from now on, until the node closes."""
        watcher = _Watcher(frozenset(kinds) if kinds is not None else None)
        watcher.closed = self._closed
        self._watchers[watcher] = None
        return self._iterate(watcher)

    async def _iterate(self, watcher: _Watcher) -> AsyncIterator[Event]:
        try:
            while True:
                while watcher.queue:
                    event = watcher.queue.popleft()
                    if watcher.missed:
                        event = msgspec.structs.replace(event, missed=watcher.missed)
                        watcher.missed = 0
                    yield event
                if watcher.closed:
                    return
                watcher.wake.clear()
                await watcher.wake.wait()
        finally:
            self._watchers.pop(watcher, None)
