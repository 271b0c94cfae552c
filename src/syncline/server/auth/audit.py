"""The audit log: refusals, and what was done to the cluster and its users. One structured line each.

The logger is `syncline.audit`. A line has the event, the user, the address, the route and the status. No line has a
password, a token or a value. Floods are bounded: what is left out is counted in the next line.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from typing import Final

from syncline.server.auth.tokens import TOKEN_PREFIX
from syncline.server.http.request import Request

__all__ = ["AuditLog"]

logger: logging.Logger = logging.getLogger("syncline.audit")

BURST: Final = 100
"""Lines that may come at once,"""
LINES_PER_S: Final = 10.0
"""and how many more each second; of refusals and of operations each."""
_TOKEN: Final = re.compile(TOKEN_PREFIX + "[A-Za-z0-9_-]{12,}")
"""A token, or most of one."""
SHOWN: Final = 128
"""Characters of a name or key that a line shows."""


class _Pace:
    """A bounded rate: a bucket of lines that fills with time."""

    def __init__(self) -> None:
        self._left = float(BURST)
        self._at_s: float | None = None
        self.left_out: int = 0

    def take(self, now_s: float) -> bool:
        if self._at_s is not None:
            self._left = min(float(BURST), self._left + (now_s - self._at_s) * LINES_PER_S)
        self._at_s = now_s
        if self._left < 1:
            self.left_out += 1
            return False
        self._left -= 1
        return True


class AuditLog:
    """Writes the lines. `clock` is a monotonic one."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._refusals = _Pace()
        self._operations = _Pace()

    def refused(self, request: Request, user: str, status: int, *, what: str = "") -> None:
        """A request, or one operation of it, was refused."""
        self._write(logging.WARNING, self._refusals, "refused", request, user, status, what)

    def done(self, request: Request, user: str, status: int) -> None:
        """A request to change the cluster or its users was answered."""
        self._write(logging.INFO, self._operations, "operation", request, user, status, "")

    def _write(self, level: int, pace: _Pace, event: str, request: Request, user: str, status: int, what: str) -> None:
        if not pace.take(self._clock()):
            return
        extra: dict[str, object] = {
            "event": event,
            "user": shown(user) or "-",
            "address": request.address or "-",
            "route": request.route,
            "status": status,
        }
        if request.argument:
            extra["target"] = shown(request.argument.decode("utf-8", "backslashreplace"))
        if what:
            extra["what"] = what
        if pace.left_out:
            extra["left_out"], pace.left_out = pace.left_out, 0
        logger.log(level, "%s", event, extra=extra)


def shown(text: str) -> str:
    """A text on one line, of limited length: what is not printable is escaped."""
    text = _TOKEN.sub("(a token)", text)  # some clients send one in the place of the user
    line = "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in text[:SHOWN])
    return line + ("…" if len(text) > SHOWN else "")
