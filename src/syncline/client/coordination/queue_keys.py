"""The keys of a queue.

`items/ID` has an item until it is done. `claims/ID` stands for its claimer, on the claimer's lease. `tries/ID` counts
its deliveries. `dead/ID` has an item that was delivered too often. An id is 32 hexadecimal digits. It begins with a
revision of the store from before the put: so ids are in the order of puts that did not overlap.
"""

from __future__ import annotations

import re
from typing import Final

from syncline.client.calls import Key
from syncline.client.coordination.names import word_key
from syncline.errors import ConfigError
from syncline.platform.entropy import Entropy

__all__ = ["QueueKeys", "checked_item_id", "draw_item_id"]

ROOM: Final = len("/claims/") + 32
"""What is added to the name."""

ITEM_ID: Final = re.compile(r"[0-9a-f]{32}")


class QueueKeys:
    """Prefixes of one queue's keys."""

    def __init__(self, name: Key) -> None:
        self.root: bytes = word_key(b"queues", name, "a queue", room=ROOM) + b"/"
        self.name: bytes = self.root[len(b"queues/") : -1]
        self.items: bytes = self.root + b"items/"
        self.claims: bytes = self.root + b"claims/"
        self.tries: bytes = self.root + b"tries/"
        self.dead: bytes = self.root + b"dead/"
        self.line: bytes = self.root + b"line/"


def draw_item_id(revision: int, position: int, entropy: Entropy) -> str:
    """A new id: the revision before the put, the position among items that are put together, and random bits."""
    return f"{revision:016x}{position:02x}{entropy(7).hex()}"


def checked_item_id(value: object) -> bytes:
    """Return an id as part of a key. Raises `TypeError` or `ConfigError`."""
    if not isinstance(value, str):
        raise TypeError(f"the id of an item must be a str, not {type(value).__name__}")
    if ITEM_ID.fullmatch(value) is None:
        raise ConfigError(f"the id of an item is {value[:40]!r}: expected 32 hexadecimal digits")
    return value.encode("ascii")


def item_id_of(key: bytes, prefix: bytes) -> str | None:
    """The id in a key; None if the key is none of the queue."""
    name = key[len(prefix) :].decode("latin-1")
    return name if ITEM_ID.fullmatch(name) else None
