"""Start the requests of one connection, in their order and within its limits.

Order. Requests that are sent one behind the other take effect in that order. So only safe ones run beside each other
(RFC 9112, 9.3.2). Any other starts when all before it are answered, and those behind it start when it is answered.
Those that may not start yet are `SlotQueue.unstarted`, and so are all behind them. `start_waiting` starts them in a
loop, a share per turn. If the answer before each one started it, the stack would grow with each request.

Limits. At most `max_in_flight` requests run, and at most `max_held_bytes` of bodies and answers are held. Nothing
starts while the client does not read. All connections together hold `max_total_held_bytes`; above it requests are
refused with 503, and so are requests above `max_requests` in work. Health, metrics, version and status pass, with a
share of the memory, and of the requests, of their own.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from typing import Final

from syncline.server.api.errors import internal_error, problem
from syncline.server.http.response import Respond, Response
from syncline.server.http.shared import Shared
from syncline.server.http.shortcuts import FastLane
from syncline.server.http.state import HeldBytes, Link, Slot, SlotQueue

__all__ = ["Dispatcher", "displaced", "too_many_connections"]

logger: logging.Logger = logging.getLogger("syncline.server")

VITAL: Final = (b"/livez", b"/readyz", b"/health", b"/metrics", b"/version", b"/raft/status")
"""What an operator's tools ask: they must be answered above all when a node has too much to do."""


class Dispatcher:
    """Starts the requests of one connection. `answered` takes each answer, with the slot that it is for."""

    __slots__ = ("_answered", "_held", "_link", "_queue", "_shared")

    def __init__(
        self,
        shared: Shared,
        link: Link,
        queue: SlotQueue,
        held: HeldBytes,
        *,
        answered: Callable[[Slot, Response], None],
    ) -> None:
        self._shared = shared
        self._link = link
        self._queue = queue
        self._held = held
        self._answered = answered

    def has_room(self) -> bool:
        """Whether the limits let another request run."""
        limits = self._shared.limits
        return (
            self._queue.in_flight < limits.max_in_flight
            and self._held.running <= limits.max_held_bytes
            and not self._link.write_paused
        )

    def add(self, slot: Slot) -> bool:
        """Take the next request: start it if its order and the limits allow. Return whether it was started."""
        queue, request = self._queue, slot.request
        assert request is not None
        if queue.in_flight:
            queue.note_last()
        queue.slots.append(slot)
        if queue.unstarted or (queue.in_flight and not queue.in_turn(request)) or not self.has_room():
            queue.unstarted.append(slot)
            self._held.wait(slot, len(request.body))
            return False
        self.start(slot)
        return True

    def start(self, slot: Slot) -> None:
        """Call the handler. The slot is in the queue already, and it is its turn."""
        shared, request = self._shared, slot.request
        assert request is not None
        self._queue.in_flight += 1
        if request.body:
            self._held.hold(slot, len(request.body))
        slot.started_s = shared.clock()
        request.origin = self._link
        respond = partial(self._answered, slot)
        total = shared.total
        if self._link.is_extra and not request.path.startswith(VITAL):
            respond(too_many_connections())
            return
        if total.bytes > total.limit_bytes and not self._has_share(request.path):
            respond(problem(503, "overloaded", "too much is being sent and asked at once; nothing was done"))
            return
        if not ((request.query or request.method == "POST") and request.waits):  # no other request can wait
            if total.requests >= total.max_requests and not self._has_place(request.path):
                text = f"this node answers {total.requests} requests already; nothing was done"
                respond(problem(503, "overloaded", text))
                return
            slot.counted = True
            total.requests += 1
        try:
            shared.handler(request, respond)
        except Exception as error:  # noqa: BLE001 - one request's fault must not end the others'
            _handler_failed(slot, respond, error)

    def start_fast(self, lane: FastLane) -> None:
        """Call the handler of a request that its lane has taken. It is alone on the connection."""
        queue, slot, respond = self._queue, lane.slot, lane.respond  # the handler may give them away
        queue.slots.append(slot)
        queue.in_flight += 1
        shared = self._shared
        slot.started_s = shared.clock()
        slot.counted = True
        shared.total.requests += 1
        try:
            lane.handler(lane)
        except Exception as error:  # noqa: BLE001 - one request's fault must not end the others'
            _handler_failed(slot, respond, error)
        if queue.in_flight >= shared.limits.max_in_flight:
            self._link.pause_reading()

    def start_fast_write(self, lane: FastLane) -> None:
        """The same for a request with a body."""
        self._held.hold(lane.slot, len(lane.body))
        self.start_fast(lane)
        lane.body = b""  # an idle connection keeps no value
        if self._held.running > self._shared.limits.max_held_bytes:
            self._link.pause_reading()

    def start_waiting(self) -> bool:
        """Start those that had to wait, as far as their order and the limits allow.

        Return whether more may start now. They are for the next turn: one client must not have the loop to itself.
        """
        shared, queue = self._shared, self._queue
        unstarted = queue.unstarted
        for _ in range(shared.limits.max_in_flight):
            if not unstarted:
                return False
            slot = unstarted[0]
            request = slot.request
            assert request is not None
            if not queue.in_turn(request) or not self.has_room():
                return False
            unstarted.popleft()
            self._held.end_wait(slot)
            queue.last_method = request.method
            self.start(slot)
        return bool(unstarted)

    def _has_share(self, path: bytes) -> bool:
        """Whether a request is answered though all connections together hold too much."""
        total = self._shared.total
        return path.startswith(VITAL) and total.bytes <= total.limit_bytes + self._shared.limits.vital_bytes

    def _has_place(self, path: bytes) -> bool:
        """Whether a request is answered though all connections together ask too much."""
        total = self._shared.total
        return path.startswith(VITAL) and total.requests < total.max_requests + self._shared.limits.vital_requests


def too_many_connections() -> Response:
    """The answer above the limit of connections."""
    return problem(503, "overloaded", "too many connections; try again, or another node")


def displaced() -> Response:
    """The answer to an incomplete request whose connection makes room for another."""
    text = "too many connections, and this request was still incomplete; nothing was done: try again, or another node"
    return problem(503, "overloaded", text)


def _handler_failed(slot: Slot, respond: Respond, error: Exception) -> None:
    if slot.answer is None:
        respond(internal_error(error))
    else:
        logger.error("a handler failed after its answer", exc_info=error)
