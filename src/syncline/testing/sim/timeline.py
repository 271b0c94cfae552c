"""A run as moments on the time lines of its nodes: what `page.py` draws.

It is a trace that keeps its newest moments in a form with columns, and matches each message with its arrival.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Final

import msgspec

from syncline.consensus.types import Message, NodeId
from syncline.testing.invariants.base import Facts, WatchedMember
from syncline.testing.sim.server import Condition
from syncline.testing.sim.trace import Trace, describe_message
from syncline.transport.messages import Notice, PeerMessage

__all__ = ["DOWN", "MOST_MOMENTS", "PAUSED", "Lane", "Moment", "Timeline"]

MOST_MOMENTS: Final = 1500
"""Moments that are kept, the newest: a page of more is slow to draw and is not read."""

MOST_UNDER_WAY: Final = 20_000
"""Messages whose arrival is waited for; the oldest are given up."""

DOWN: Final = "down"
PAUSED: Final = "paused"

ENDED: Final = ("kill", "power loss", "power fails", "wipe")
STOPPED: Final = tuple(
    condition.value for condition in (Condition.CRASHED, Condition.FAILED, Condition.REFUSED, Condition.CLOSED)
)


class Lane(msgspec.Struct):
    """The state of a node: its role, or `down` or `paused`, and its term."""

    role: str = DOWN
    term: int = 0
    before_pause: str = DOWN


class Moment(msgspec.Struct, kw_only=True):
    """One event. `kind` is that of the trace, or `note`, `heard` or `broken`.

    `number` names a message: it is the same where the message leaves and where it arrives; 0: no message, or one whose
    arrival is not observed.
    """

    at_s: float
    lane: str
    """The node, or what is outside of the nodes: `network`, `operator`, `run`, a client."""
    kind: str
    text: str
    role: str = ""
    """The node's state after it; empty: as before."""
    term: int = 0
    peer: str = ""
    number: int = 0


class Timeline(Trace):
    """A trace that keeps the newest moments, and the state of each node before them."""

    def __init__(self, facts: Facts, clock: Callable[[], float], write: Callable[[str], None]) -> None:
        super().__init__(facts, clock, write)
        self.moments: deque[Moment] = deque()
        self.before: dict[str, Lane] = {}
        """Each node as it was before the first moment that is kept, in the order of their first starts."""
        self.left_out: int = 0
        """How many moments are not kept."""
        self._now: dict[str, Lane] = {}
        self._messages = 0
        self._under_way: dict[tuple[str, str, str], deque[int]] = {}
        self._waiting: deque[tuple[str, str, str]] = deque()
        self._peer = ""
        self._number = 0

    def note(self, subject: str, text: str) -> None:
        super().note(subject, text)
        lane = self._now.get(subject)
        if lane is not None:
            _note_state(lane, text)
        self._add(subject, "note", text, lane)

    def broken(self, invariant: str, text: str) -> None:
        super().broken(invariant, text)
        self._add("run", "broken", f"{invariant}: {text}", None)

    def sent(self, view: WatchedMember, to: NodeId, message: PeerMessage) -> None:
        if isinstance(message, Notice):
            Trace.sent(self, view, to, message)
            return
        self._peer = self._facts.name(to)
        if isinstance(message, Message):
            self._messages += 1
            self._number = self._messages
            self._leaves((view.name, self._peer, describe_message(message)), self._number)
        super().sent(view, to, message)
        self._peer, self._number = "", 0

    def heard(self, view: WatchedMember, message: Message) -> None:
        sender, text = self._facts.name(message.sender), describe_message(message)
        waiting = self._under_way.get((sender, view.name, text))
        if waiting:
            self._add(view.name, "heard", text, self._lane(view), peer=sender, number=waiting.popleft())

    def _leaves(self, message: tuple[str, str, str], number: int) -> None:
        self._under_way.setdefault(message, deque()).append(number)
        self._waiting.append(message)
        if len(self._waiting) > MOST_UNDER_WAY:
            self._give_up(self._waiting.popleft(), number - MOST_UNDER_WAY)

    def _give_up(self, message: tuple[str, str, str], newest: int) -> None:
        numbers = self._under_way.get(message, deque())
        while numbers and numbers[0] <= newest:
            numbers.popleft()
        if not numbers:
            self._under_way.pop(message, None)

    def _line(self, view: WatchedMember, kind: str, text: str) -> None:
        super()._line(view, kind, text)
        if kind == "sent" and not self._peer:
            return  # chatter of the connections, which the trace alone has
        self._add(view.name, kind, text.strip(), self._lane(view), peer=self._peer, number=self._number)

    def _lane(self, view: WatchedMember) -> Lane:
        lane = self._now.get(view.name)
        if lane is None:
            lane = self._now[view.name] = Lane()
            self.before[view.name] = Lane()
        lane.role, lane.term = view.core.state.name.lower(), view.core.term
        return lane

    def _add(self, name: str, kind: str, text: str, lane: Lane | None, *, peer: str = "", number: int = 0) -> None:
        role, term = (lane.role, lane.term) if lane is not None else ("", 0)
        self.moments.append(
            Moment(at_s=self._clock(), lane=name, kind=kind, text=text, role=role, term=term, peer=peer, number=number)
        )
        if len(self.moments) > MOST_MOMENTS:
            gone = self.moments.popleft()
            self.left_out += 1
            if gone.role:
                self.before[gone.lane] = Lane(role=gone.role, term=gone.term)


def _note_state(lane: Lane, text: str) -> None:
    """What a note about a node says of its process."""
    if text.startswith((*ENDED, *STOPPED)):
        lane.role = DOWN
    elif text == "pause" and lane.role != DOWN:
        lane.before_pause, lane.role = lane.role, PAUSED
    elif text == "resume" and lane.role == PAUSED:
        lane.role = lane.before_pause
