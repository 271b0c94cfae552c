"""How many bytes may be on their way to a peer at a time, learned from the peer's echoes.

A frame may ask for an echo. Its time shows the line's queue: what it takes above the shortest one was spent behind
earlier bytes. While little is spent there the window grows with each echo, as in TCP's slow start; if more than
`TARGET_S` is, it is halved. So a fast line is kept busy, and a slow one never holds more than a fraction of a second
of data, which heartbeats on another connection share with it.

TCP by itself fills the buffers on the way, which may hold many seconds of a slow line. The answers to appends are no
measure of the line: they wait for the follower's disk.
"""

from __future__ import annotations

from collections import deque
from typing import Final

__all__ = ["FIRST_WINDOW_BYTES", "LEAST_WINDOW_BYTES", "Pacer"]

FIRST_WINDOW_BYTES: Final = 64 * 1024
"""A quarter of a second at 250 kB/s, which an election timeout of a second can spare."""

LEAST_WINDOW_BYTES: Final = 32 * 1024
"""At any delay: a line of 1 Mbit/s has it away in a quarter of a second."""

LARGEST_WINDOW_BYTES: Final = 2 * 1024 * 1024
"""Keeps a line of 1 Gbit/s and 15 ms busy. It also bounds what is encoded in one turn of the event loop."""

TARGET_S: Final = 0.1
"""The time that bytes may wait on the line behind others: a heartbeat interval."""

ECHO_BYTES: Final = 16 * 1024
"""An echo is asked for after so many bytes: several in the smallest window, none at all with small writes."""

REMEASURE_S: Final = 10.0
"""The shortest time is measured again this often, with little on the line: the route may have changed."""

IDLE_S: Final = 1.0
"""After a rest the line may be another one: the window begins small."""


class Pacer:
    """The window of one connection. Times are the event loop's."""

    __slots__ = (
        "_base_s",
        "_echoes",
        "_limited",
        "_mark",
        "_measured_s",
        "_sent_s",
        "confirmed_bytes",
        "refused",
        "sent_bytes",
        "window",
    )

    def __init__(self, now_s: float) -> None:
        self.window: int = FIRST_WINDOW_BYTES
        self.sent_bytes: int = 0
        self.confirmed_bytes: int = 0
        """Of the bytes sent: so many have arrived, as an echo has shown."""
        self._echoes: deque[tuple[int, int, float]] = deque()  # number, bytes sent up to it, when it was asked for
        self._base_s: float | None = None
        self._measured_s = now_s
        self._mark = 0
        self._limited = False
        self.refused: bool = False
        """Whether more would have been sent if there had been room. The user of it takes note, and resets it."""
        self._sent_s = now_s

    @property
    def in_flight_bytes(self) -> int:
        """Bytes sent of which no echo has shown that they have arrived."""
        return self.sent_bytes - self.confirmed_bytes

    @property
    def awaits_echo(self) -> bool:
        return bool(self._echoes)

    def room_bytes(self, queued_bytes: int) -> int:
        """How much more may be sent, beside what is queued already."""
        room = self.window - self.sent_bytes + self.confirmed_bytes - queued_bytes
        if room <= 0:
            self._limited = self.refused = True
            return 0
        return room

    def sending(self, size_bytes: int, now_s: float) -> bool:
        """Count a frame of about this size, just before it is sent. True: it is to ask for an echo."""
        if now_s - self._sent_s > IDLE_S and not self.in_flight_bytes:
            self.window = min(self.window, FIRST_WINDOW_BYTES)
        self.sent_bytes += size_bytes
        self._sent_s = now_s
        return self.sent_bytes - (self._echoes[-1][1] if self._echoes else self.confirmed_bytes) >= ECHO_BYTES

    def asked(self, number: int, now_s: float) -> None:
        """The frame just counted asks for echo `number`."""
        self._echoes.append((number, self.sent_bytes, now_s))

    def echoed(self, number: int, now_s: float) -> bool:
        """Take an echo. False: it was not asked for."""
        if not any(asked == number for asked, _, _ in self._echoes):
            return False
        asked, sent, asked_s = self._echoes.popleft()
        while asked != number:  # that one was not sent: its frame was too large
            asked, sent, asked_s = self._echoes.popleft()
        news, self.confirmed_bytes = sent - self.confirmed_bytes, sent
        delay_s = now_s - asked_s
        if now_s - self._measured_s > REMEASURE_S:
            self._measured_s, self._base_s = now_s, None
            self._shrink(LEAST_WINDOW_BYTES)
        elif self._base_s is None and sent > self._mark:
            self._base_s = delay_s
        if self._base_s is None:
            return True
        self._base_s = min(self._base_s, delay_s)
        waited_s = delay_s - self._base_s
        if waited_s > TARGET_S:
            if sent > self._mark:  # once for what was under way at the last time
                self._shrink(self.window // 2)
        elif waited_s < TARGET_S / 2 and self._limited:
            self.window = min(LARGEST_WINDOW_BYTES, self.window + news)
            self._limited = False
        return True

    def _shrink(self, window: int) -> None:
        self.window = max(LEAST_WINDOW_BYTES, window)
        self._mark = self.sent_bytes
