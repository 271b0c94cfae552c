"""Keep failures of metrics and traces away from the answers: an answer is sent, whatever happens to its figures."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Final, TypeAlias

from syncline.server.http.request import Request

__all__ = ["Observe", "ObserveFailures", "guarded"]

Observe: TypeAlias = Callable[[str, int, float, Request | None, str], None]
"""Called for each answer: the route, such as "GET /keys" ("" if no route took it), the status, the seconds it took, the
request, and the code of an error."""

_log: Final = logging.getLogger("syncline.server")


class ObserveFailures:
    """Counts failures of one `observe`, and logs the first: each answer may have one."""

    def __init__(self) -> None:
        self.count: int = 0

    def note(self, error: Exception) -> None:
        """Note a failure."""
        self.count += 1
        if self.count == 1:
            _log.error("an answer could not be counted or traced; further failures are not logged", exc_info=error)


def guarded(observe: Observe) -> Observe:
    """`observe`, whose failures are noted and end there."""
    failures = ObserveFailures()

    def observing(route: str, status: int, duration_s: float, request: Request | None, code: str) -> None:
        try:
            observe(route, status, duration_s, request, code)
        except Exception as error:  # noqa: BLE001 - the answer must be sent all the same
            failures.note(error)

    return observing
