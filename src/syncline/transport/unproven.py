"""Connections whose other end has not proved itself: a bounded number, in all and for each address."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from typing import Generic, TypeVar

__all__ = ["Unproven"]

Item = TypeVar("Item", bound=Hashable)


class Unproven(Generic[Item]):
    """The connections, the oldest first. A new one is always taken; the oldest is closed instead.

    If the new one were refused, a program without the secret could lock the members out by holding all the places.
    """

    def __init__(self, most: int, most_per_host: int) -> None:
        self._most = most
        self._most_per_host = most_per_host
        self._hosts: OrderedDict[Item, str] = OrderedDict()

    def __len__(self) -> int:
        return len(self._hosts)

    def __contains__(self, item: object) -> bool:
        return item in self._hosts

    def add(self, item: Item, host: str) -> Item | None:
        """Take a new connection; return the one that must be closed for it, or None."""
        displaced: Item | None = None
        same = [other for other, known in self._hosts.items() if known == host]  # at most `most` are looked at
        if len(same) >= self._most_per_host:
            displaced = same[0]
        elif len(self._hosts) >= self._most:
            displaced = next(iter(self._hosts))
        if displaced is not None:
            del self._hosts[displaced]
        self._hosts[item] = host
        return displaced

    def discard(self, item: Item) -> None:
        """The connection has proved itself, or is gone."""
        self._hosts.pop(item, None)
