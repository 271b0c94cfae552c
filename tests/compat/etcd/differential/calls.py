"""One call of a random sequence, and what it needs of the server to which it is sent."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import msgspec

from syncline.server.etcd.messages import Message

__all__ = ["KEEP_ALIVE", "WATCH", "Call", "DrawnLease", "Revision", "resolved"]

MOST_SHOWN: Final = 100

WATCH: Final = "Watch/Watch"
KEEP_ALIVE: Final = "Lease/LeaseKeepAlive"


class Revision(int):
    """A revision, counted from that at which the sequence begins."""

    def __repr__(self) -> str:
        return f"begin{int(self):+d}"


class DrawnLease(int):
    """The n-th lease whose id the server has drawn."""

    def __repr__(self) -> str:
        return f"drawn[{int(self)}]"


class Call(msgspec.Struct, frozen=True):
    """`method` without the package, such as `KV/Range`. `user`: whose token is sent along; empty: none."""

    method: str
    message: Message
    user: str = ""

    def __str__(self) -> str:
        by = f" as {self.user}" if self.user else ""
        return f"{self.method}{by} {_shown(self.message)}"


def _shown(part: object) -> object:
    """A message with its long values shortened."""
    if isinstance(part, dict):
        return {name: _shown(inner) for name, inner in part.items()}
    if isinstance(part, list):
        return [_shown(inner) for inner in part]
    if isinstance(part, bytes) and len(part) > MOST_SHOWN:
        return f"{len(part)} bytes from {part[:1]!r}"
    return part


def resolved(part: object, number: Callable[[int], int]) -> object:
    """A message with `number` of each of its revisions and drawn leases."""
    if isinstance(part, dict):
        return {name: resolved(inner, number) for name, inner in part.items()}
    if isinstance(part, list):
        return [resolved(inner, number) for inner in part]
    return number(part) if isinstance(part, Revision | DrawnLease) else part
