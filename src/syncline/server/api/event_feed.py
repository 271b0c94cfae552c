"""The newest events of a node, kept for streams that come later: a time line begins before the page is opened."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator, Callable
from typing import Final

import msgspec

from syncline.client.event_schemas import EventItem, EventMember
from syncline.client.schemas import MemberInfo
from syncline.node.events import Event, LeaderChanged, MembershipChanged, PeerDown, PeerUp
from syncline.node.ids import NodeId
from syncline.node.member_registry import format_id

__all__ = ["EVENTS_KEPT", "EventFeed"]

EVENTS_KEPT: Final = 512
"""Events of a node that are kept, some 200 bytes each. A stream that is further behind has missed the oldest."""

MEMBERS_SHOWN: Final = 64
"""Members in one event: what is kept has a limit, whatever the membership."""

NAMES: Final = {
    "RoleChanged": "role_changed",
    "LeaderChanged": "leader_changed",
    "MembershipChanged": "membership_changed",
    "SnapshotTaken": "snapshot_taken",
    "SnapshotInstalled": "snapshot_installed",
    "StateRestored": "state_restored",
    "PeerUp": "peer_up",
    "PeerDown": "peer_down",
    "DiskSlow": "disk_slow",
    "DiskSpaceLow": "disk_space_low",
    "NodeStopped": "node_stopped",
}
"""The `type` of each class of events."""


class EventFeed:
    """The events of one node by number. Numbers rise, also over restarts: the first one is the time of the start.

    `wall` is the time since 1970 in seconds; `name_of` gives a member's name, empty if it is not known.
    """

    def __init__(self, *, wall: Callable[[], float], name_of: Callable[[NodeId], str]) -> None:
        self._wall = wall
        self._name_of = name_of
        self._kept: deque[bytes] = deque(maxlen=EVENTS_KEPT)
        self._first = int(wall() * 1000)
        self._wakes: set[Callable[[], None]] = set()
        self.ended: bool = False
        """The node has stopped, or the server drains: streams end when they have sent what is kept."""

    @property
    def next(self) -> int:
        """The number of the event that comes next."""
        return self._first + len(self._kept)

    @property
    def oldest(self) -> int:
        """The number of the oldest event that is kept."""
        return self._first

    def __len__(self) -> int:
        """Streams that follow."""
        return len(self._wakes)

    async def follow(self, events: AsyncIterator[Event]) -> None:
        """Record events until the node stops. Run it as a task."""
        self.record(EventItem(type="started", term=0, index=0, at=self._wall()))
        async for event in events:
            self.record(self._item(event))
        self.close()

    def close(self) -> None:
        """End the streams: a server that drains must not wait for them."""
        self.ended = True
        self.wake()

    def record(self, item: EventItem) -> None:
        """Keep one event, and wake the streams."""
        if len(self._kept) == EVENTS_KEPT:
            self._first += 1
        self._kept.append(msgspec.json.encode(item))
        self.wake()

    def get(self, number: int) -> bytes:
        """The event with this number, as JSON. It is kept."""
        return self._kept[number - self._first]

    def add(self, wake: Callable[[], None]) -> None:
        """A stream begins to follow: `wake` is called when there is more."""
        self._wakes.add(wake)

    def remove(self, wake: Callable[[], None]) -> None:
        """A stream has ended."""
        self._wakes.discard(wake)

    def wake(self) -> None:
        """Have each stream look again."""
        for wake in tuple(self._wakes):
            wake()

    def _item(self, event: Event) -> EventItem:
        item = EventItem(
            type=NAMES[type(event).__name__],
            term=event.term,
            index=event.index,
            at=round(self._wall(), 3),
            missed=event.missed,
            role=str(getattr(event, "role", "")),
            snapshot_index=getattr(event, "snapshot_index", 0),
            restored_index=getattr(event, "restored_index", 0),
            reason=getattr(event, "reason", "")[:1000],
        )
        match event:
            case LeaderChanged(leader=leader) if leader is not None:
                item.leader = self._member(leader)
            case PeerUp(peer=peer) | PeerDown(peer=peer):
                item.peer = self._member(peer)
            case MembershipChanged(membership=membership):
                members = list(membership.members.values())[:MEMBERS_SHOWN]
                item.members = tuple(MemberInfo(format_id(one.id), one.name, one.role) for one in members)
            case _:
                item.leader = None
        return item

    def _member(self, member: NodeId) -> EventMember:
        return EventMember(format_id(member), self._name_of(member))
