"""`GET /events`: elections, members, snapshots, peers and the disk of this node, as they happen, for the time line.

A stream holds no event: it has a number, and reads the feed's newest events from there. A client that reads too slowly
misses the oldest ones, and the next one that it gets counts them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from msgspec import json

from syncline.client.schemas import ErrorAnswer
from syncline.errors import PermissionDenied, Rejected, Unauthenticated
from syncline.kv.auth.checks import denied
from syncline.kv.auth.records import ClusterOperation
from syncline.server.api.declare import Field, Reply, Route
from syncline.server.api.error_codes import ErrorCode
from syncline.server.api.errors import RequestError, operation_error
from syncline.server.api.event_feed import EVENTS_KEPT, EventFeed
from syncline.server.api.parameters import Integer, Query
from syncline.server.api.router import Router
from syncline.server.auth.access import STATUS
from syncline.server.auth.principal import NoUser, Principal
from syncline.server.http.request import Request
from syncline.server.http.response import NO_STORE, Respond, status_line
from syncline.server.http.stream import Stream

__all__ = ["EventRoutes", "EventSource"]

MAX_STREAMS: Final = 1000
"""Streams of events of one node: consoles, and programs that gather them."""

PAUSE_S: Final = 10.0
"""Proxies end a connection on which nothing comes for 30 to 60 s. The permission is checked again as often."""

PIECE_BYTES: Final = 32 * 1024

PAST: Final = Integer(
    "past", "How many of the past events to begin with.", default=EVENTS_KEPT, low=0, high=EVENTS_KEPT
)
QUERY: Final = Query(PAST)
LIMIT: Final = ErrorCode(429, "limit", "This node has too many streams of events.")

ROUTE: Final = Route(
    "GET",
    "/events",
    summary="Watch this node",
    access=STATUS,
    about="Server-Sent Events: elections, members, snapshots, peers, the disk. Each node has"
    " its own. The stream has no end of its own.",
    query=QUERY,
    fields=(Field("Last-Event-ID", "The last event that was received: those after it are sent.", "[0-9]{0,19}"),),
    answers={200: Reply("The events.", ("text/event-stream",))},
    errors=(LIMIT,),
)
HEAD: Final = status_line(200) + b"Content-Type: text/event-stream\r\nX-Accel-Buffering: no\r\n" + NO_STORE


class EventRoutes:
    """The stream of a node's events. `no_user` stands for a client while none needs a credential."""

    def __init__(self, feed: EventFeed, *, no_user: NoUser) -> None:
        self._feed = feed
        self._no_user = no_user

    def add_to(self, router: Router) -> None:
        """Register the route."""
        router.declare(ROUTE, self.follow)

    def follow(self, request: Request, respond: Respond) -> None:
        """Stream the events."""
        feed, past = self._feed, PAST.of(QUERY.parse(request.query))
        last = request.headers.get(b"last-event-id", b"")
        if last and not (last.isdigit() and len(last) <= 19):
            shown = last[:40].decode("ascii", "replace")
            raise RequestError(f"Last-Event-ID: {shown!r} is not the id of an event")
        if len(feed) >= MAX_STREAMS:
            raise RequestError(f"this node has {MAX_STREAMS} streams of events", status=429, code="limit")
        begin = int(last) + 1 if last else feed.next - past
        number = min(max(begin, feed.oldest), feed.next)
        principal = request.principal if request.principal is not None else self._no_user
        respond(Stream(200, HEAD, source=EventSource(feed, number, principal), live=True))


class EventSource:
    """The body of one stream."""

    has_more: Final = True

    def __init__(self, feed: EventFeed, number: int, principal: Principal | NoUser) -> None:
        self._feed = feed
        self._number = number
        self._principal = principal
        self._wake: Callable[[], None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._comment = b":\n\n"
        """Sent first, so that a client knows at once that it is connected, and again after each pause."""
        self._ended = False

    def start(self, wake: Callable[[], None]) -> None:
        self._wake = wake
        self._feed.add(wake)
        self._set_timer()

    def read(self) -> bytes | None:
        if self._ended:
            return None
        if (refusal := _refusal(self._principal)) is not None:
            self._ended = True
            return b"event: error\ndata: %b\n\n" % json.encode(ErrorAnswer(operation_error(refusal)[1]))
        parts, self._comment = [self._comment] if self._comment else [], b""
        size, feed = 0, self._feed
        if self._number < feed.oldest:
            missed = json.encode({"missed": feed.oldest - self._number})
            parts.append(b"event: missed\ndata: %b\n\n" % missed)
            self._number = feed.oldest
        while self._number < feed.next and size < PIECE_BYTES:
            item = feed.get(self._number)
            parts.append(b"id: %d\ndata: %b\n\n" % (self._number, item))
            size += len(item)
            self._number += 1
        if parts:
            return b"".join(parts)
        return None if feed.ended else b""

    def close(self) -> None:
        if self._wake is not None:
            self._feed.remove(self._wake)
        if self._timer is not None:
            self._timer.cancel()

    def _set_timer(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(PAUSE_S, self._paused)

    def _paused(self) -> None:
        assert self._wake is not None
        self._comment = b":\n\n"
        self._wake()
        self._set_timer()


def _refusal(principal: Principal | NoUser) -> Rejected | None:
    """Why the client may not see the events any more; None if it may."""
    try:
        permissions = principal.permissions
    except (PermissionDenied, Unauthenticated) as refusal:
        return refusal
    if permissions is not None and ClusterOperation.STATUS not in permissions.operations:
        return denied("do this: no role of the user allows the operation 'status'")
    return None
