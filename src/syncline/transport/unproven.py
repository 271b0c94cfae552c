"""Connections whose handshake goes on: a bounded number, in all and for each source, an address or a node."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from typing import Generic, TypeVar

__all__ = ["Unproven"]

Item = TypeVar("Item", bound=Hashable)


class Unproven(Generic[Item]):
    """The connections, the oldest first. A new one is always taken; the oldest is closed instead.

    If the new one were refused, a program without the secret could lock the members out by holding all the places.
    So could a member with a fault, which has the secret and introduces itself on none of its connections.
    """

    def __init__(self, most: int, most_per_source: int) -> None:
        self._most = most
        self._most_per_source = most_per_source
        self._sources: OrderedDict[Item, str] = OrderedDict()

    def __len__(self) -> int:
        return len(self._sources)

    def __contains__(self, item: object) -> bool:
        return item in self._sources

    def add(self, item: Item, source: str) -> Item | None:
        """Add a new connection of `source`. Return the one to close in its place; None if there was room."""
        displaced: Item | None = None
        same = [other for other, known in self._sources.items() if known == source]  # at most `most` are looked at
        if len(same) >= self._most_per_source:
            displaced = same[0]
        elif len(self._sources) >= self._most:
            displaced = next(iter(self._sources))
        if displaced is not None:
            del self._sources[displaced]
        self._sources[item] = source
        return displaced

    def discard(self, item: Item) -> None:
        """The connection has got further, or is gone."""
        self._sources.pop(item, None)
