"""How the log has grown: the age and the bytes of what a follower lacks.

The node takes a sample with each tick in which its log has grown. A follower that lacks the entries above its match
index lacks them since the first sample above it. So the age is exact to one tick at first, later to 3 %, and never too
high.
"""

from __future__ import annotations

from bisect import bisect_right
from typing import Final, NamedTuple

__all__ = ["Behind", "LogGrowth"]

MAX_SAMPLES: Final = 1024
"""Above it samples are dropped: the older they are, the less their exact age matters."""

PRECISION: Final = 32
"""An age that is longer than some ticks is exact to this part of it."""


class Behind(NamedTuple):
    """What a follower lacks."""

    size_bytes: int
    seconds: float


class LogGrowth:
    """Samples of one log: its last index, and the bytes that were written to it since the node started."""

    def __init__(self) -> None:
        self._times_s: list[float] = []
        self._indexes: list[int] = []
        self._bytes: list[int] = []

    def sample(self, now_s: float, last_index: int, written_bytes: int) -> None:
        """Note the end of the log. Called with each tick."""
        indexes = self._indexes
        if indexes and indexes[-1] >= last_index:
            if indexes[-1] == last_index:
                return
            keep = bisect_right(indexes, last_index)  # another leader has replaced the end of the log
            del self._times_s[keep:], indexes[keep:], self._bytes[keep:]
            if indexes and indexes[-1] == last_index:
                return
        self._times_s.append(now_s)
        indexes.append(last_index)
        self._bytes.append(written_bytes)
        if len(indexes) > MAX_SAMPLES:
            self._thin(now_s)

    def _thin(self, now_s: float) -> None:
        """Drop samples whose neighbours are close together, measured by their age."""
        times = self._times_s
        kept = [0]
        for at in range(1, len(times) - 1):
            if times[at + 1] - times[kept[-1]] > (now_s - times[at + 1]) / PRECISION:
                kept.append(at)
        kept.append(len(times) - 1)
        if len(kept) > MAX_SAMPLES * 3 // 4:  # ticks of days
            kept = kept[-MAX_SAMPLES * 3 // 4 :]
        self._times_s = [times[at] for at in kept]
        self._indexes = [self._indexes[at] for at in kept]
        self._bytes = [self._bytes[at] for at in kept]

    def behind(self, match: int, last_index: int, now_s: float, entry_bytes: float) -> Behind:
        """What a log lacks that ends at `match`, while this one ends at `last_index`.

        `entry_bytes` is the mean size of an entry, for entries from before the first sample.
        """
        if match >= last_index:
            return Behind(0, 0.0)
        indexes, sizes = self._indexes, self._bytes
        if not indexes:
            return Behind(round((last_index - match) * entry_bytes), 0.0)
        at = bisect_right(indexes, match)
        after = max(0, last_index - max(match, indexes[-1])) * entry_bytes  # newer than the newest sample
        if at == len(indexes):
            return Behind(round(after), 0.0)
        size = sizes[-1] - sizes[at] + after
        if at == 0:
            size += (indexes[0] - match) * entry_bytes
        else:
            span = indexes[at] - indexes[at - 1]
            size += (sizes[at] - sizes[at - 1]) * (indexes[at] - match) / span
        return Behind(max(0, round(size)), max(0.0, now_s - self._times_s[at]))
