"""The window of the connection for appends: it follows what the line carries, and never fills a slow one."""

from __future__ import annotations

from collections import deque

import pytest

from syncline.transport.pacing import (
    FIRST_WINDOW_BYTES,
    LARGEST_WINDOW_BYTES,
    LEAST_WINDOW_BYTES,
    Pacer,
)

FRAME = 16 * 1024


class Line:
    """A line of some speed and delay, with a sender that always has more."""

    def __init__(self, bytes_per_s: float, delay_s: float) -> None:
        self.bytes_per_s = bytes_per_s
        self.delay_s = delay_s
        self.now_s = 0.0
        self.pacer = Pacer(0.0)
        self.sent = 0
        self.longest_wait_s = 0.0
        self._free_s = 0.0
        self._echoes: deque[tuple[float, int]] = deque()

    def run(self, seconds: float) -> float:
        """Send as much as the pacer lets; returns the bytes per second."""
        end_s, before = self.now_s + seconds, self.sent
        while self.now_s < end_s:
            while self.pacer.room_bytes(0) > 0:
                asks = self.pacer.sending(FRAME, self.now_s)
                self.sent += FRAME
                self._free_s = max(self._free_s, self.now_s) + FRAME / self.bytes_per_s
                self.longest_wait_s = max(self.longest_wait_s, self._free_s - self.now_s)
                if asks:
                    self.pacer.asked(self.sent, self.now_s)
                    self._echoes.append((self._free_s + self.delay_s, self.sent))
            self.now_s, number = self._echoes.popleft()
            assert self.pacer.echoed(number, self.now_s)
        return (self.sent - before) / seconds


@pytest.mark.parametrize("bytes_per_s", [125_000.0, 250_000.0, 500_000.0, 2_000_000.0])
def test_pacer_on_a_slow_line_uses_it_and_does_not_fill_it(bytes_per_s: float) -> None:
    """What waits on the line is what a heartbeat waits behind, if the line's queue is a single one."""
    line = Line(bytes_per_s, 0.02)
    assert line.run(60) > 0.85 * bytes_per_s
    assert line.longest_wait_s < max(0.45, (FIRST_WINDOW_BYTES + FRAME) / bytes_per_s + 0.01)


def test_pacer_on_a_fast_line_grows_to_its_largest_window() -> None:
    line = Line(1e9, 0.002)
    assert line.run(5) > 0.9 * LARGEST_WINDOW_BYTES / (0.002 + LARGEST_WINDOW_BYTES / 1e9)
    assert line.pacer.window == LARGEST_WINDOW_BYTES


def test_pacer_on_a_line_that_becomes_slow_follows_it() -> None:
    line = Line(100e6, 0.01)
    line.run(5)
    line.bytes_per_s, line.longest_wait_s = 250_000.0, 0.0
    line.run(20)
    line.longest_wait_s = 0.0
    assert line.run(30) > 0.85 * 250_000
    assert line.longest_wait_s < 0.5


def test_pacer_on_a_longer_route_learns_its_time() -> None:
    """The shortest time of the old route would make each byte of the new one look late for ever."""
    line = Line(10e6, 0.001)
    line.run(5)
    line.delay_s = 0.2
    line.run(30)
    assert line.run(30) > 2e6


def test_pacer_after_a_rest_begins_small() -> None:
    line = Line(1e9, 0.002)
    line.run(2)
    pacer = line.pacer
    pacer.asked(7, line.now_s)
    assert pacer.echoed(7, line.now_s), "it confirms all that was sent before it"
    assert not pacer.in_flight_bytes
    pacer.sending(FRAME, line.now_s + 5)
    assert pacer.window == FIRST_WINDOW_BYTES


def test_pacer_with_small_frames_asks_for_no_echo() -> None:
    """The usual writes cost nothing."""
    pacer = Pacer(0.0)
    assert [pacer.sending(100, 0.0) for _ in range(100)] == [False] * 100
    assert pacer.in_flight_bytes == 10_000
    assert pacer.room_bytes(0) == FIRST_WINDOW_BYTES - 10_000
    assert pacer.room_bytes(FIRST_WINDOW_BYTES) == 0


def test_pacer_echo_that_was_not_asked_for_is_ignored() -> None:
    pacer = Pacer(0.0)
    assert not pacer.echoed(0, 1.0)
    pacer.sending(FRAME, 1.0)
    pacer.asked(4, 1.0)
    assert not pacer.echoed(5, 1.1)
    assert pacer.in_flight_bytes == FRAME
    assert pacer.echoed(4, 1.1)
    assert not pacer.echoed(4, 1.2)


def test_pacer_echo_of_an_unsent_frame_is_replaced_by_the_next() -> None:
    """A frame above the limit is counted and then not sent."""
    pacer = Pacer(0.0)
    pacer.sending(FRAME, 1.0)
    pacer.asked(1, 1.0)
    pacer.sending(FRAME, 1.0)
    pacer.asked(2, 1.0)
    assert pacer.echoed(2, 1.1)
    assert pacer.in_flight_bytes == 0
    assert not pacer.awaits_echo
    assert pacer.window >= LEAST_WINDOW_BYTES
