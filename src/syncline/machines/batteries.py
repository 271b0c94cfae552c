"""Ready machines: dict, list, set, counter, queue, priority queue and lock.

    async with ReplicatedCounter.open("cluster.toml") as hits:
        print(await hits.add())

Each has one state and a few commands. For more of them in one log, or for values of your own types, write a machine
with fields of these kinds: this file shows how short that is.
"""

from __future__ import annotations

import heapq
from typing import BinaryIO, Final, TypeAlias

from syncline.errors import Rejected
from syncline.machines.commands import command, query
from syncline.machines.machine import Machine

__all__ = [
    "ReplicatedCounter",
    "ReplicatedDict",
    "ReplicatedList",
    "ReplicatedLock",
    "ReplicatedPriorityQueue",
    "ReplicatedQueue",
    "ReplicatedSet",
    "Scalar",
]

Scalar: TypeAlias = bool | int | float | str | None
"""A value that the ready machines keep."""

LARGEST: Final = (1 << 63) - 1


class ReplicatedDict(Machine):
    """A dict of texts to scalars, in the order of insertion.

    async with ReplicatedDict.open(config) as settings:
        await settings.put("mode", "blue")
    """

    entries: dict[str, Scalar]

    @command
    def put(self, key: str, value: Scalar) -> Scalar:
        """Set a key, and return its former value."""
        before = self.entries.get(key)
        self.entries[key] = value
        return before

    @command
    def put_if(self, key: str, value: Scalar, expected: Scalar) -> bool:
        """Set a key if it has the expected value (None: or is absent). Returns whether it was set."""
        if self.entries.get(key) != expected:
            return False
        self.entries[key] = value
        return True

    @command
    def setdefault(self, key: str, value: Scalar) -> Scalar:
        """Set a key if it is absent, and return the value that it has now."""
        return self.entries.setdefault(key, value)

    @command
    def update(self, entries: dict[str, Scalar]) -> int:
        """Set several keys at once, and return the number of keys."""
        self.entries.update(entries)
        return len(self.entries)

    @command
    def pop(self, key: str) -> Scalar:
        """Delete a key, and return its value; None if it is absent."""
        return self.entries.pop(key, None)

    @command
    def clear(self) -> int:
        """Delete all keys, and return their number."""
        count = len(self.entries)
        self.entries.clear()
        return count

    @query
    def has(self, key: str) -> bool:
        """Return whether the key is there, with the value None too."""
        return key in self.entries

    @query
    def get(self, key: str) -> Scalar:
        """Return the value of a key; None if it is absent."""
        return self.entries.get(key)

    @query
    def items(self) -> dict[str, Scalar]:
        """Return a copy of all entries."""
        return self.entries

    @query
    def size(self) -> int:
        """Return the number of keys."""
        return len(self.entries)


class ReplicatedList(Machine):
    """A list of scalars. Positions may be negative, as those of a Python list.

    async with ReplicatedList.open(config) as log:
        await log.append("started")
    """

    values: list[Scalar]

    @command
    def append(self, value: Scalar) -> int:
        """Append a value, and return its position."""
        self.values.append(value)
        return len(self.values) - 1

    @command
    def extend(self, values: list[Scalar]) -> int:
        """Append several values at once, and return the length."""
        self.values.extend(values)
        return len(self.values)

    @command
    def insert(self, position: int, value: Scalar) -> None:
        """Insert a value before a position. A position beyond an end is that end."""
        self.values.insert(max(-len(self.values), min(position, len(self.values))), value)

    @command
    def put(self, position: int, value: Scalar) -> Scalar:
        """Replace the value at a position, and return the former one. Raises `Rejected` (`out_of_range`)."""
        before, self.values[position] = self._at(position), value
        return before

    @command
    def pop(self, position: int = -1) -> Scalar:
        """Remove the value at a position, and return it. Raises `Rejected` (`out_of_range`)."""
        self._at(position)
        return self.values.pop(position)

    @command
    def remove(self, value: Scalar) -> bool:
        """Remove the first value that is equal. Returns whether there was one."""
        if value not in self.values:
            return False
        self.values.remove(value)
        return True

    @command
    def sort(self, reverse: bool = False) -> None:
        """Sort the values. Raises `Rejected` (`not_comparable`) if they are of kinds that have no common order."""
        try:
            self.values = sorted(self.values, reverse=reverse)  # type: ignore[type-var]  # what has no order raises
        except TypeError as error:
            raise Rejected(str(error), code="not_comparable") from None

    @command
    def clear(self) -> int:
        """Remove all values, and return their number."""
        count = len(self.values)
        self.values.clear()
        return count

    @query
    def get(self, position: int) -> Scalar:
        """Return the value at a position. Raises `Rejected` (`out_of_range`)."""
        return self._at(position)

    @query
    def items(self) -> list[Scalar]:
        """Return a copy of all values."""
        return self.values

    @query
    def index(self, value: Scalar) -> int | None:
        """Return the position of the first value that is equal; None if there is none."""
        return self.values.index(value) if value in self.values else None

    @query
    def count(self, value: Scalar) -> int:
        """Return how many values are equal to this one."""
        return self.values.count(value)

    @query
    def size(self) -> int:
        """Return the number of values."""
        return len(self.values)

    def _at(self, position: int) -> Scalar:
        if not -len(self.values) <= position < len(self.values):
            raise Rejected(f"there is no position {position}: the list has {len(self.values)}", code="out_of_range")
        return self.values[position]


class ReplicatedCounter(Machine):
    """A number of 64 bits.

    async with ReplicatedCounter.open(config) as hits:
        print(await hits.add())
    """

    count: int

    @command
    def add(self, by: int = 1) -> int:
        """Add, and return the sum. Raises `Rejected` (code `overflow`) beyond 64 bits."""
        count = self.count + by
        if not -LARGEST <= count <= LARGEST:
            raise Rejected(f"{self.count} + {by} does not fit in 64 bits", code="overflow")
        self.count = count
        return count

    @command
    def reset(self, to: int = 0) -> int:
        """Set the number, and return the former one. Raises `Rejected` (code `overflow`) beyond 64 bits."""
        if not -LARGEST <= to <= LARGEST:
            raise Rejected(f"{to} does not fit in 64 bits", code="overflow")
        before, self.count = self.count, to
        return before

    @query
    def value(self) -> int:
        """Return the number."""
        return self.count


class ReplicatedQueue(Machine):
    """Scalars, first in, first out. An element is gone once it is taken: for claims that come back, see
    docs/queues.md.

        async with ReplicatedQueue.open(config) as queue:
            await queue.put("t1")
            print(await queue.take())
    """

    waiting: dict[int, Scalar]
    newest: int

    @command
    def put(self, value: Scalar) -> int:
        """Append an element, and return its number, from 1."""
        self.newest += 1
        self.waiting[self.newest] = value
        return self.newest

    @command
    def take(self) -> tuple[int, Scalar] | None:
        """Remove the first element, and return its number and the element; None if the queue is empty."""
        for number in self.waiting:
            return number, self.waiting.pop(number)
        return None

    @query
    def first(self, limit: int = 100) -> list[Scalar]:
        """Return a copy of the first elements."""
        return [value for _, value in zip(range(limit), self.waiting.values(), strict=False)]

    @query
    def size(self) -> int:
        """Return the number of elements."""
        return len(self.waiting)


class ReplicatedPriorityQueue(Machine):
    """Scalars, the one of the lowest priority first; of equal priorities the one that was put first.

    async with ReplicatedPriorityQueue.open(config) as queue:
        await queue.put("t1", priority=5)
        print(await queue.take())
    """

    heap: list[tuple[float, int, Scalar]]
    newest: int

    @command
    def put(self, value: Scalar, priority: float = 0.0) -> int:
        """Add an element, and return its number, from 1. Raises `Rejected` (`not_comparable`) for a "nan"."""
        if priority != priority:
            raise Rejected("the priority is no number", code="not_comparable")
        self.newest += 1
        heapq.heappush(self.heap, (priority, self.newest, value))  # numbers differ: values are never compared
        return self.newest

    @command
    def take(self) -> tuple[int, Scalar] | None:
        """Remove the first element, and return its number and the element; None if the queue is empty."""
        if not self.heap:
            return None
        _, number, value = heapq.heappop(self.heap)
        return number, value

    @query
    def first(self, limit: int = 100) -> list[Scalar]:
        """Return a copy of the first elements, in the order in which they will be taken."""
        return [value for _, _, value in heapq.nsmallest(limit, self.heap, key=lambda element: element[:2])]

    @query
    def size(self) -> int:
        """Return the number of elements."""
        return len(self.heap)


class ReplicatedSet(Machine):
    """A set of texts.

    async with ReplicatedSet.open(config) as seen:
        if await seen.add("message 7"):
            ...
    """

    members: set[str]

    @command
    def add(self, member: str) -> bool:
        """Add a member. Returns whether it is new."""
        if member in self.members:
            return False
        self.members.add(member)
        return True

    @command
    def discard(self, member: str) -> bool:
        """Remove a member. Returns whether it was there."""
        if member not in self.members:
            return False
        self.members.remove(member)
        return True

    @command
    def update(self, members: list[str]) -> int:
        """Add several members at once, and return how many are new."""
        before = len(self.members)
        self.members.update(members)
        return len(self.members) - before

    @command
    def pop(self) -> str | None:
        """Remove the smallest member, and return it; None if the set is empty."""
        if not self.members:
            return None
        member = min(self.members)  # a set has another order on each node
        self.members.remove(member)
        return member

    @command
    def clear(self) -> int:
        """Remove all members, and return their number."""
        count = len(self.members)
        self.members.clear()
        return count

    @query
    def has(self, member: str) -> bool:
        """Return whether it is a member."""
        return member in self.members

    @query
    def all(self) -> list[str]:
        """Return all members, sorted."""
        return sorted(self.members)

    @query
    def size(self) -> int:
        """Return the number of members."""
        return len(self.members)


class ReplicatedLock(Machine):
    """Named locks with fencing tokens. They do not expire: see `kv.lock` (docs/locks.md) for locks with a lease.

    async with ReplicatedLock.open(config) as locks:
        token = await locks.acquire("printer", "w3")
    """

    held: dict[str, tuple[str, int]]
    newest: int

    @command
    def acquire(self, name: str, owner: str) -> int | None:
        """Take a lock, and return its token; None if another owner holds it. The holder gets its token again.

        Tokens rise: what the lock protects refuses a token below one that it has seen.
        """
        holder = self.held.get(name)
        if holder is not None:
            return holder[1] if holder[0] == owner else None
        self.newest += 1
        self.held[name] = (owner, self.newest)
        return self.newest

    @command
    def release(self, name: str, token: int) -> bool:
        """Release a lock: also one of an owner that is gone. Returns whether it was held with this token."""
        holder = self.held.get(name)
        if holder is None or holder[1] != token:
            return False
        del self.held[name]
        return True

    def renumber(self, jump: int, source: BinaryIO | None) -> None:
        """Go on with tokens above all that are known here: part of `RenumberingFSM`, called by the node.

        Example: `RenumberingFSM`.
        """
        known = self.newest
        super().renumber(jump, source)
        self.newest = max(known, self.newest) + jump

    @query
    def holder(self, name: str) -> tuple[str, int] | None:
        """Return the owner and the token of a lock; None if it is free."""
        return self.held.get(name)
