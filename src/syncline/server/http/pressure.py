"""Cut off clients that read nothing before they fill the memory for answers.

One connection holds little, but many together could hold all that the server grants to its clients. The requests of all
others would then be refused for as long as a client may leave its answers unread.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, Protocol

__all__ = ["PRESSURE", "relieve"]

PRESSURE: Final = 1 / 2
"""Of the memory for bodies and answers of all clients: above it, connections that read nothing are cut off."""


class StallableConnection(Protocol):
    """The part of a connection that is needed."""

    def stalled_bytes(self) -> int: ...

    def abort(self) -> None: ...


def relieve(connections: Iterable[StallableConnection], surplus_bytes: float) -> None:
    """Abort connections that have read nothing since the last call, the largest first, until the surplus is gone.

    Call it at intervals, also without a surplus: each call notes how far the clients have read.
    """
    stalled = [(size_bytes, connection) for connection in connections if (size_bytes := connection.stalled_bytes())]
    if surplus_bytes <= 0:
        return
    for size_bytes, connection in sorted(stalled, key=lambda one: one[0], reverse=True):
        connection.abort()
        surplus_bytes -= size_bytes
        if surplus_bytes <= 0:
            return
