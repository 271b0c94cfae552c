"""How long the log waits for its disk, and what pauses of the process have to do with it."""

from __future__ import annotations

from syncline.node.disk_stall import MAX_PAUSES, DiskStall

TICK_S = 0.1


class Bench:
    """A log whose oldest append came at `queued_s`, and a clock."""

    def __init__(self) -> None:
        self.now_s = 50.0
        self.queued_s: float | None = None
        self.stall = DiskStall(lambda: self.now_s, self._oldest_s)

    def _oldest_s(self) -> float:
        return 0.0 if self.queued_s is None else self.now_s - self.queued_s

    def look(self, after_s: float = TICK_S) -> float:
        self.now_s += after_s
        return round(self.stall.look(TICK_S), 6)


def test_disk_stall_is_the_time_of_the_oldest_append() -> None:
    bench = Bench()
    assert bench.look() == 0.0
    bench.queued_s = bench.now_s
    assert [bench.look() for _ in range(3)] == [0.1, 0.2, 0.3]
    bench.queued_s = None
    assert bench.look() == 0.0


def test_disk_stall_leaves_out_a_pause_of_the_process() -> None:
    bench = Bench()
    bench.look()
    bench.queued_s = bench.now_s
    assert [bench.look(), bench.look(7.0), bench.look()] == [0.1, 0.2, 0.3]
    bench.queued_s = bench.now_s
    assert bench.look() == 0.1, "the pause was before this append"


def test_disk_stall_leaves_out_the_part_of_a_pause_after_the_append() -> None:
    bench = Bench()
    bench.look()
    bench.queued_s = bench.now_s + 5.0  # in the pause, by another thread
    assert bench.look(7.0) == 0.0


def test_disk_stall_counts_ticks_that_are_a_little_late() -> None:
    bench = Bench()
    bench.look()
    bench.queued_s = bench.now_s
    assert [bench.look(1.5 * TICK_S) for _ in range(3)] == [0.15, 0.3, 0.45]


def test_disk_stall_remembers_a_bounded_number_of_pauses() -> None:
    bench = Bench()
    bench.queued_s = bench.now_s
    for _ in range(MAX_PAUSES + 5):
        bench.look(1.0)
    assert len(bench.stall._pauses) == MAX_PAUSES
