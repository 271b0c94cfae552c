"""What a node tells its watchers: one class for each kind of event.

async for event in raft.events(LeaderChanged, NodeStopped):
    match event:
        case LeaderChanged(leader=leader): ...
"""

from __future__ import annotations

import asyncio
import weakref
from collections import deque
from collections.abc import AsyncIterator
from typing import Final, TypeVar

import msgspec

from syncline.node.ids import NodeId
from syncline.node.member_registry import Membership
from syncline.node.role import Role

__all__ = [
    "DiskSlow",
    "DiskSpaceLow",
    "Event",
    "Events",
    "LeaderChanged",
    "MembershipChanged",
    "NodeStopped",
    "PeerDown",
    "PeerUp",
    "RoleChanged",
    "SnapshotInstalled",
    "SnapshotTaken",
    "StateRestored",
]

QUEUE_LIMIT: Final = 1024
"""Events kept for a watcher that does not keep up; the oldest go first, and are counted."""


class Event(msgspec.Struct, frozen=True, kw_only=True):
    """Something happened on a node. The base of all classes of events."""

    term: int = 0
    """The node's term at that moment."""
    index: int = 0
    """The node's applied index at that moment."""
    missed: int = 0
    """Events that were dropped before this one because this watcher was too slow for them."""


class RoleChanged(Event, frozen=True):
    """The node has another role."""

    role: Role


class LeaderChanged(Event, frozen=True):
    """The node knows another leader, or none any more."""

    leader: NodeId | None


class MembershipChanged(Event, frozen=True):
    """A change of the membership was applied, or a snapshot with other members loaded; `membership` is in force now."""

    membership: Membership


class SnapshotTaken(Event, frozen=True):
    """The node has written a snapshot of its state."""

    snapshot_index: int
    """The index of the last entry that it holds."""


class SnapshotInstalled(Event, frozen=True):
    """The node has loaded a snapshot that the leader sent."""

    snapshot_index: int
    """The index of the last entry that it holds."""


class StateRestored(Event, frozen=True):
    """The node has replaced its state by that of a snapshot which an operator restored (`Raft.restore`)."""

    restored_index: int
    """The entry of the log that replaced it, the same on all nodes."""


class PeerUp(Event, frozen=True):
    """The node reaches a peer."""

    peer: NodeId


class PeerDown(Event, frozen=True):
    """The node does not reach a peer any more."""

    peer: NodeId
    reason: str


class DiskSlow(Event, frozen=True):
    """The disk of the log has not answered for an election timeout. A leader transfers its leadership then."""

    reason: str


class DiskSpaceLow(Event, frozen=True):
    """The disk of the log is so full that the node takes no entries of the leader until space returns."""

    reason: str


class NodeStopped(Event, frozen=True):
    """The last event of a node: it was closed, or has stopped itself."""

    reason: str


AnyEvent = TypeVar("AnyEvent", bound=Event)
"""The kind of event that a watcher asks for."""


class _Watcher:
    def __init__(self, kinds: tuple[type[Event], ...]) -> None:
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

    def emit(self, event: Event, *, term: int, index: int) -> None:
        """Tell of an event that happened in this term, with the entries up to `index` applied."""
        if self._closed:  # a link may come up after the node has stopped: `NodeStopped` is the last event
            return
        event = msgspec.structs.replace(event, term=term, index=index)
        for watcher in self._watchers:
            if not isinstance(event, watcher.kinds):
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

    def watch(self, *kinds: type[Event]) -> AsyncIterator[Event]:
        """Events of these kinds (of all, if none is given) from now on, until the node closes."""
        watcher = _Watcher(kinds or (Event,))
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
