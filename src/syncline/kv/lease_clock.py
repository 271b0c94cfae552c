"""The times of the leases, on the leader: when each one ends, and when its rest is to be recorded in the log.

Pure: the caller gives the time, in seconds of a monotonic clock. A keep-alive costs two assignments: the heaps are put
right when their entries come up.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator
from typing import Final

from syncline.kv.records import LeaseRecord

__all__ = ["CHECKPOINT_S", "LeaseClock"]

CHECKPOINT_S: Final = 300.0
"""After so long without a keep-alive the rest of a lease is recorded (etcd's figure). A change of leader gives a lease
back at most this much. Shorter leases get their full time from each new leader, without an entry of the log."""


TIDY_ENTRIES: Final = 1024
"""Outdated entries that a heap may hold beside as many as it needs: then it is built again."""


LOOKS: Final = 2000
"""Alarms that one call looks at: some milliseconds. A new leader sets the alarms of all leases at one moment, and of
those that were kept alive since then none has an end."""


class _Alarms:
    """At most one alarm a lease. A changed alarm leaves an outdated entry in the heap, which is passed over later."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int]] = []
        self._set_s: dict[int, float] = {}

    def get(self, lease: int) -> float | None:
        return self._set_s.get(lease)

    def set(self, lease: int, when_s: float) -> None:
        self._set_s[lease] = when_s
        heapq.heappush(self._heap, (when_s, lease))
        if len(self._heap) > 2 * len(self._set_s) + TIDY_ENTRIES:
            self._heap = [(due_s, known) for known, due_s in self._set_s.items()]
            heapq.heapify(self._heap)

    def remove(self, lease: int) -> None:
        self._set_s.pop(lease, None)

    def next_s(self) -> float | None:
        """When the first alarm comes, at the earliest."""
        return self._heap[0][0] if self._heap else None

    def pop(self, now_s: float) -> int | None:
        """Take the first alarm, if it is due, and return its lease."""
        heap = self._heap
        while heap and heap[0][0] <= now_s:
            when_s, lease = heapq.heappop(heap)
            if self._set_s.get(lease) == when_s:
                del self._set_s[lease]
                return lease
        return None


class LeaseClock:
    """When each lease ends. Made when the leader has applied the first entry of its term.

    From then on each lease has its full time, or the rest that the log has recorded.
    """

    def __init__(self, records: Iterable[LeaseRecord], now_s: float, *, checkpoint_s: float = CHECKPOINT_S) -> None:
        self._checkpoint_s = checkpoint_s
        self._ends_s: dict[int, float] = {}
        self._alarms = _Alarms()
        """The alarm of a lease is no later than its end: a keep-alive leaves it as it is."""
        self._since_s: dict[int, float] = {}
        """Of the leases that are recorded: since when they run undisturbed."""
        self._records = _Alarms()
        for record in records:
            self.set(record, record.rest_ms, now_s)

    def __len__(self) -> int:
        return len(self._ends_s)

    def set(self, record: LeaseRecord, rest_ms: int, now_s: float) -> None:
        """The lease has so much time from now on: it was granted, kept alive, or given another TTL."""
        lease = record.id
        self._ends_s[lease] = end_s = now_s + rest_ms / 1000
        alarm_s = self._alarms.get(lease)
        if alarm_s is None or end_s < alarm_s:
            self._alarms.set(lease, end_s)
        if record.ttl_ms > self._checkpoint_s * 1000:
            self._since_s[lease] = now_s
            if self._records.get(lease) is None:
                self._records.set(lease, now_s + self._checkpoint_s)
        elif self._since_s:
            self._forget_record(lease)

    def recorded(self, lease: int, rest_ms: int, now_s: float) -> None:
        """The log has this rest of a lease: it has no more than that from now on, and need not be recorded soon."""
        end_s = self._ends_s.get(lease)
        if end_s is None:
            return
        if now_s + rest_ms / 1000 < end_s:
            self._ends_s[lease] = end_s = now_s + rest_ms / 1000
            alarm_s = self._alarms.get(lease)
            if alarm_s is None or end_s < alarm_s:
                self._alarms.set(lease, end_s)
        if lease in self._since_s:
            self._since_s[lease] = now_s

    def ended(self, lease: int) -> None:
        """The lease is gone."""
        self._ends_s.pop(lease, None)
        self._alarms.remove(lease)
        self._forget_record(lease)

    def _forget_record(self, lease: int) -> None:
        self._since_s.pop(lease, None)
        self._records.remove(lease)

    def rest_ms(self, lease: int, now_s: float) -> int:
        """What is left of a lease's time; 0 if it is over, or there is no such lease."""
        return max(0, int((self._ends_s.get(lease, now_s) - now_s) * 1000))

    def next_s(self) -> float | None:
        """When `expired` or `to_record` has something next, at the earliest."""
        nexts = [when_s for when_s in (self._alarms.next_s(), self._records.next_s()) if when_s is not None]
        return min(nexts, default=None)

    def expired(self, now_s: float) -> Iterator[int]:
        """Leases whose time is over, the first to end first; more may be left. Each is returned once: see `again`."""
        for _ in range(LOOKS):
            lease = self._alarms.pop(now_s)
            if lease is None:
                return
            end_s = self._ends_s[lease]
            if end_s <= now_s:
                yield lease
            else:
                self._alarms.set(lease, end_s)  # kept alive meanwhile

    def again(self, lease: int, when_s: float) -> None:
        """A lease that `expired` has returned was not ended: return it once more, from `when_s` on."""
        if lease in self._ends_s and self._alarms.get(lease) is None:
            self._alarms.set(lease, max(when_s, self._ends_s[lease]))

    def has_to_record(self, now_s: float) -> bool:
        """Whether `to_record` may return something."""
        when_s = self._records.next_s()
        return when_s is not None and when_s <= now_s

    def to_record(self, now_s: float, limit: int) -> list[tuple[int, int]]:
        """Leases, up to `limit`, whose rest is to be recorded now, with that rest in milliseconds."""
        found: list[tuple[int, int]] = []
        for _ in range(LOOKS):
            lease = self._records.pop(now_s) if len(found) < limit else None
            if lease is None:
                break
            due_s = self._since_s[lease] + self._checkpoint_s
            if due_s <= now_s:
                self._since_s[lease] = now_s
                due_s = now_s + self._checkpoint_s
                rest_ms = self.rest_ms(lease, now_s)
                if rest_ms > 0:
                    found.append((lease, rest_ms))
            self._records.set(lease, due_s)
        return found
