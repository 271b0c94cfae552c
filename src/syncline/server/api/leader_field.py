"""`Syncline-Leader`: where the leader takes requests, in the answers of the other nodes.

The leader itself sends no such field. So its answers cost nothing more, and a client that already asks the leader
learns nothing new from them.
"""

from __future__ import annotations

from syncline.server.api.backend import Backend

__all__ = ["LeaderField"]


class LeaderField:
    """Makes the header line."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._address = ""
        self._line = b""

    def field(self) -> bytes:
        """The header line; nothing on the leader, and if no leader is known or its address is not announced."""
        if self._backend.is_leader:
            return b""
        leader = self._backend.leader()
        address = "" if leader is None else leader.http
        if address != self._address:
            usable = address.isascii() and address.isprintable()
            self._address = address
            self._line = f"Syncline-Leader: {address}\r\n".encode() if address and usable else b""
        return self._line
