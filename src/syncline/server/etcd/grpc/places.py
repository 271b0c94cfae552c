"""Places of gRPC's calls among the requests that a node has in work, of all protocols together (`max_requests`).

A call with one answer has a place until it is carried out, also if its client leaves before. A stream has one from its
first message until it answers, or waits for the next message. Calls that wait for other clients, such as locks, have
none.
"""

from __future__ import annotations

from typing import Final

from syncline.server.etcd.errors import RESOURCE_EXHAUSTED, EtcdError
from syncline.server.http.state import TotalBytes

__all__ = ["TOO_MANY", "CallPlaces"]

VITAL: Final = frozenset({"/etcdserverpb.Maintenance/Status"})
"""What an operator's tools ask: it must be answered when a node has too much to do."""

TOO_MANY: Final = EtcdError(RESOURCE_EXHAUSTED, "etcdserver: too many requests")
"""As etcd answers when it has too much to do."""


class CallPlaces:
    """Counts calls in `total`. Vital ones have `vital_requests` places more."""

    __slots__ = ("_total", "_vital_requests")

    def __init__(self, total: TotalBytes, vital_requests: int) -> None:
        self._total = total
        self._vital_requests = vital_requests

    def take(self, method: str) -> bool:
        """Take a place, until `leave`; whether there is one."""
        total = self._total
        if total.requests >= total.max_requests and not (
            method in VITAL and total.requests < total.max_requests + self._vital_requests
        ):
            return False
        total.requests += 1
        return True

    def leave(self) -> None:
        """Give a place back."""
        self._total.requests -= 1
