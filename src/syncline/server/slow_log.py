"""The log of slow requests: route, key, and the time of each stage.

    slow request: PUT /key/{key...} key=jobs/7 status=200 duration_s=2.31 queue_s=0.01 disk_s=2.2 commit_s=2.25 …

The stages are those of the batch of entries, or of reads, that the request was part of. A request is answered in the
turn in which its batch was applied, so the newest batch is its own. If that began before the request, the request was
part of none: it was refused, or its time was over.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from typing import Final

from syncline.node.stage_times import BatchTimes
from syncline.server.http.request import Request

__all__ = ["ReadTimes", "SlowLog", "own_batch", "waits_on_purpose"]

_log = logging.getLogger("syncline.server.slow")

WINDOW_S: Final = 10.0
LINES: Final = 20
"""Lines in one window. The line after it has the number of those that were left out."""

KEY_CHARACTERS: Final = 200

PREEMPTED_S: Final = 0.05
"""A request's beginning is worked out from its duration. It comes out late if the process did not run between the two
readings of the clock. A batch that seems to have begun so much before its request is its own.
"""

_WAITS: Final = re.compile(
    r"watch|observe|campaign|lock/|v3lock|keepalive|keep-alive|snapshot|backup|/livez|/readyz", re.IGNORECASE
)
"""Routes that wait for something to happen, or send as long as a client reads: their time says nothing."""
_LONG_POLL: Final = re.compile(rb"(?:^|&)wait=")

ReadTimes = tuple[float, float, float]


def waits_on_purpose(route: str, request: Request | None) -> bool:
    """Whether a request waits for something to happen: its duration says nothing."""
    return _WAITS.search(route) is not None or (request is not None and _LONG_POLL.search(request.query) is not None)


def own_batch(batch: BatchTimes | None, read: ReadTimes, began_s: float) -> BatchTimes | ReadTimes | None:
    """The newest batch, of entries or of reads, if a request that began then and was just answered was part of it."""
    earliest_s = began_s - PREEMPTED_S
    is_read = read[0] >= earliest_s
    if batch is not None and batch.stored_s >= earliest_s and not (is_read and read[2] > batch.applied_s):
        return batch
    return read if is_read else None


class SlowLog:
    """Writes one line for each slow request. `clock` is that of the stages."""

    def __init__(
        self, batch: Callable[[], BatchTimes | None], read: Callable[[], ReadTimes], clock: Callable[[], float]
    ) -> None:
        self._batch = batch
        self._read = read
        self._clock = clock
        self._window_s = -WINDOW_S
        self._lines = 0
        self.left_out: int = 0
        """Slow requests without a line since the last one."""

    def __call__(self, request: Request | None, route: str, status: int, duration_s: float) -> None:
        """Log a request that has just been answered."""
        if waits_on_purpose(route, request):
            return
        now_s = self._clock()
        if now_s - self._window_s >= WINDOW_S:
            self._window_s, self._lines = now_s, 0
        if self._lines >= LINES:
            self.left_out += 1
            return
        self._lines += 1
        extra: dict[str, object] = {"route": route or "(refused)"}
        if request is not None and request.argument:
            extra["key"] = request.argument.decode("utf-8", "backslashreplace")[:KEY_CHARACTERS]
        extra |= {"status": status, "duration_s": round(duration_s, 4)}
        extra |= {name: round(max(0.0, value), 4) for name, value in self._stages(now_s, duration_s).items()}
        if self.left_out:
            extra["left_out"], self.left_out = self.left_out, 0
        _log.warning("slow request", extra=extra)

    def _stages(self, now_s: float, duration_s: float) -> dict[str, float]:
        began_s, read = now_s - duration_s, self._read()
        own = own_batch(self._batch(), read, began_s)
        if isinstance(own, BatchTimes):
            found = {"queue_s": own.stored_s - began_s}
            if own.durable_s:
                found["disk_s"] = own.durable_s - own.stored_s
            if own.committed_s:
                found["commit_s"] = own.committed_s - own.stored_s
                found["apply_s"] = own.applied_s - own.committed_s
            return {**found, "answer_s": now_s - own.applied_s}
        if own is None:
            return {}
        asked_s, confirmed_s, applied_s = own
        return {
            "queue_s": asked_s - began_s,
            "confirm_s": confirmed_s - asked_s,
            "apply_s": applied_s - confirmed_s,
            "answer_s": now_s - applied_s,
        }
