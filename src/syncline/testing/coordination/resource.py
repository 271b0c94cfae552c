"""A resource that checks fencing tokens, as a storage service or a printer should."""

from __future__ import annotations

__all__ = ["FencedResource"]


class FencedResource:
    """Takes a write if its token is not older than the newest one that it has seen.

    resource = FencedResource()
    assert resource.write(7, "p1")
    assert not resource.write(6, "p2")
    """

    def __init__(self) -> None:
        self.newest: int = 0
        self.writer: str = ""
        """The process of the newest token."""
        self.accepted: int = 0
        self.refused: int = 0

    def write(self, token: int, writer: str) -> bool:
        """Whether the write is taken."""
        if token < self.newest:
            self.refused += 1
            return False
        if token > self.newest:
            self.newest, self.writer = token, writer
        self.accepted += 1
        return True
