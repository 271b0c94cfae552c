"""What one user may do: the ranges of all its roles, merged, so that a check takes a bisection."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator

from syncline.kv.auth.records import READ, ROOT, WRITE, ClusterOperation, RoleRecord

__all__ = ["NOTHING", "KeyRanges", "UserPermissions", "key_end"]


def key_end(key: bytes) -> bytes:
    """The end of the range that holds this key alone."""
    return key + b"\0"


class KeyRanges:
    """Ranges of keys that don't touch each other, in ascending order."""

    __slots__ = ("_ends", "_starts")

    def __init__(self, ranges: Iterable[tuple[bytes, bytes | None]]) -> None:
        self._starts: list[bytes] = []
        self._ends: list[bytes | None] = []
        for start, end in sorted(ranges, key=lambda one: one[0]):
            if self._starts and ((last := self._ends[-1]) is None or start <= last):
                if last is not None and (end is None or end > last):
                    self._ends[-1] = end
            else:
                self._starts.append(start)
                self._ends.append(end)

    def has_key(self, key: bytes) -> bool:
        """Whether the key is in one of the ranges."""
        place = bisect_right(self._starts, key) - 1
        if place < 0:
            return False
        end = self._ends[place]
        return end is None or key < end

    def has_range(self, start: bytes, end: bytes | None) -> bool:
        """Whether each key that could be in `[start, end)` is in the ranges; `end` None: to the last key."""
        if end is not None and end <= start:
            return True  # there is no key in it
        place = bisect_right(self._starts, start) - 1
        if place < 0:
            # No key is empty, so a range from the first possible key on holds what a range from b"" on does.
            return not start and self.has_range(b"\0", end)
        last = self._ends[place]
        return last is None or (end is not None and end <= last)

    @property
    def has_all(self) -> bool:
        """Whether every key is in the ranges."""
        return self.has_range(b"", None)

    def __iter__(self) -> Iterator[tuple[bytes, bytes | None]]:
        return iter(zip(self._starts, self._ends, strict=True))


class UserPermissions:
    """What a user may do, as of one auth revision."""

    __slots__ = ("is_admin", "operations", "readable", "writable")

    def __init__(self, roles: Iterable[RoleRecord]) -> None:
        reads: list[tuple[bytes, bytes | None]] = []
        writes: list[tuple[bytes, bytes | None]] = []
        operations: set[int] = set()
        self.is_admin: bool = False
        for role in roles:
            self.is_admin = self.is_admin or role.name == ROOT
            operations.update(role.operations)
            reads += [(one.start, one.end) for one in role.keys if one.access & READ]
            writes += [(one.start, one.end) for one in role.keys if one.access & WRITE]
        if self.is_admin:
            reads = writes = [(b"", None)]
            operations.update(ClusterOperation)
        self.readable: KeyRanges = KeyRanges(reads)
        self.writable: KeyRanges = KeyRanges(writes)
        self.operations: frozenset[int] = frozenset(operations)


NOTHING = UserPermissions(())
"""Of a user that does not exist."""
