"""The JSON of `GET /events`: what a node tells about itself and its peers, one struct for all kinds."""

from __future__ import annotations

import msgspec

from syncline.client.schemas import MemberInfo

__all__ = ["EventItem", "EventMember"]


class EventMember(msgspec.Struct, omit_defaults=True):
    """A member in an event. `name` is empty if the node does not know it."""

    id: str
    name: str = ""


class EventItem(msgspec.Struct, omit_defaults=True, kw_only=True):
    """One event. `type` is the kind, such as `leader_changed`; the fields below `at` depend on it.

    `at` is the wall clock of the node in seconds since 1970; `missed` counts the events that this stream left out
    before this one. `members` are those of a change of the membership.
    """

    type: str
    term: int
    index: int
    at: float
    missed: int = 0
    role: str = ""
    leader: EventMember | None = None
    peer: EventMember | None = None
    members: tuple[MemberInfo, ...] = ()
    snapshot_index: int = 0
    restored_index: int = 0
    reason: str = ""
