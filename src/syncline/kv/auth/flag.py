"""Whether clients need credentials, as one attribute that each request reads."""

from __future__ import annotations

__all__ = ["AuthFlag"]


class AuthFlag:
    """`on`: clients need credentials. `KvMachine` sets it; it outlives the store that a snapshot replaces."""

    __slots__ = ("on",)

    def __init__(self) -> None:
        self.on: bool = False
