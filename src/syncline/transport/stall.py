"""Notice that the other end of a connection gives no sign of life."""

from __future__ import annotations

from syncline.transport.connection import Connection

__all__ = ["StallWatch"]


class StallWatch:
    """Whether the other end of a connection still sends bytes, or takes them."""

    def __init__(self) -> None:
        self.heard_s: float = 0.0
        """When the other end has last sent something; the owner sets it."""
        self._taken_bytes = 0

    def start(self, now_s: float) -> None:
        """The connection is new."""
        self.heard_s, self._taken_bytes = now_s, 0

    def silent_s(self, connection: Connection, now_s: float) -> float:
        """How long there has been no sign of life. Called at intervals.

        Bytes that the system took count as progress only while it holds more back: its own buffer also takes bytes for
        a dead machine, until it is full.
        """
        unsent = connection.unsent_bytes
        taken = connection.sent_bytes - unsent
        if unsent and taken > self._taken_bytes:
            self.heard_s = now_s
        self._taken_bytes = taken
        return connection.waited_s(self.heard_s, now_s)
