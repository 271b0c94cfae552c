"""`Syncline-Leader`: where the leader takes requests, in the answers of the other nodes.

The leader itself sends no such field. So its answers cost nothing more, and a client that already asks the leader
learns nothing new from them.
"""

from __future__ import annotations

from syncline.server.api.backend import Backend

__all__ = ["LeaderField"]


class LeaderField:
    """Makes the header line again at each change of the leader or of addresses, not for each answer."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self.line: bytes = b""
        """The header line; nothing on the leader, and if no leader is known or its address is not announced."""
        self._make()
        backend.observe_leader(self._make)

    def _make(self) -> None:
        leader = None if self._backend.is_leader else self._backend.leader()
        address = "" if leader is None else leader.http
        usable = address.isascii() and address.isprintable()
        self.line = f"Syncline-Leader: {address}\r\n".encode() if address and usable else b""
