"""The sorted index of the keys, with views that cost next to nothing.

Keys stand in chunks of at most `CHUNK_KEYS`, in order, as in the leaves of a B+ tree of two levels. A chunk that a
view shares is copied before it is changed (copy on write), so `freeze` only copies the list of chunks: microseconds for
a million keys. A general sorted list (sortedcontainers) is as quick but would have to be copied whole for a view.
"""

from __future__ import annotations

from bisect import bisect_left
from itertools import chain, islice, pairwise
from operator import lt
from typing import Final

__all__ = ["CHUNK_KEYS", "KeyIndex"]

CHUNK_KEYS: Final = 1024
"""Keys in one chunk. Copying or shifting a full one costs about as much as finding a place in the list of chunks."""


class KeyIndex:
    """Distinct keys in order. One thread changes it; frozen views may be read by any."""

    __slots__ = ("_chunks", "_count", "_lasts", "_owned")

    def __init__(self) -> None:
        self._chunks: list[list[bytes]] = []
        self._lasts: list[bytes] = []  # the greatest key of each chunk
        self._owned = bytearray()  # of each chunk; 0: a view shares it
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def freeze(self) -> list[list[bytes]]:
        """The chunks as they stand now: to be read only, and unaffected by later changes."""
        self._owned = bytearray(len(self._chunks))
        return self._chunks.copy()

    def add(self, key: bytes) -> None:
        """Add a key that is not there."""
        self._count += 1
        at = bisect_left(self._lasts, key)
        if at == len(self._chunks):  # greater than every key
            if self._chunks and len(self._chunks[-1]) < CHUNK_KEYS:
                self._own(at - 1).append(key)
                self._lasts[-1] = key
            else:  # a new chunk instead of a split: keys that only grow fill their chunks
                self._insert_chunk(at, [key])
            return
        chunk = self._own(at)
        place = bisect_left(chunk, key)
        assert chunk[place] != key, "the key is already in the index"
        chunk.insert(place, key)
        if len(chunk) > CHUNK_KEYS:
            half = len(chunk) // 2
            self._insert_chunk(at + 1, chunk[half:])
            del chunk[half:]
            self._lasts[at] = chunk[-1]

    def extend(self, keys: list[bytes]) -> None:
        """Add ascending keys that are greater than every key there is; raises ValueError if they are not."""
        last = self._lasts[-1:]
        if not all(map(lt, chain(last, keys), keys if last else islice(keys, 1, None))):
            raise ValueError("keys that do not ascend")
        room = CHUNK_KEYS - len(self._chunks[-1]) if self._chunks else 0
        if room and keys:
            self._own(len(self._chunks) - 1).extend(keys[:room])
            self._lasts[-1] = self._chunks[-1][-1]
        for low in range(room, len(keys), CHUNK_KEYS):
            self._insert_chunk(len(self._chunks), keys[low : low + CHUNK_KEYS])
        self._count += len(keys)

    def remove(self, key: bytes) -> None:
        """Remove a key that is there."""
        at = bisect_left(self._lasts, key)
        chunk = self._own(at)
        place = bisect_left(chunk, key)
        assert chunk[place] == key, "the key is not in the index"
        self._count -= 1
        del chunk[place]
        if not chunk:
            del self._chunks[at], self._lasts[at], self._owned[at]
        elif place == len(chunk):
            self._lasts[at] = chunk[-1]

    def discard(self, key: bytes) -> None:
        """Remove a key, if it is there."""
        at = bisect_left(self._lasts, key)
        if at < len(self._chunks):
            chunk = self._chunks[at]
            if chunk[bisect_left(chunk, key)] == key:
                self.remove(key)

    def first(self, start: bytes, end: bytes | None, limit: int) -> list[bytes]:
        """The first `limit` keys of `[start, end)`, ascending. `end` None: to the last key."""
        chunk_at, low, chunk_stop, high = self._bounds(start, end)
        keys: list[bytes] = []
        while len(keys) < limit and (chunk_at, low) < (chunk_stop, high):
            chunk = self._chunks[chunk_at]
            stop = high if chunk_at == chunk_stop else len(chunk)
            keys += chunk[low : min(stop, low + limit - len(keys))]
            chunk_at, low = chunk_at + 1, 0
        return keys

    def last(self, start: bytes, end: bytes | None, limit: int) -> list[bytes]:
        """The last `limit` keys of `[start, end)`, descending."""
        chunk_start, low, chunk_at, high = self._bounds(start, end)
        keys: list[bytes] = []
        while len(keys) < limit and (chunk_start, low) < (chunk_at, high):
            if high == 0:
                chunk_at -= 1
                high = len(self._chunks[chunk_at])
                continue
            least = low if chunk_at == chunk_start else 0
            keys += self._chunks[chunk_at][max(least, high - (limit - len(keys))) : high][::-1]
            high = 0
        return keys

    def count(self, start: bytes, end: bytes | None) -> int:
        """How many keys are in `[start, end)`."""
        chunk_start, low, chunk_stop, high = self._bounds(start, end)
        if (chunk_start, low) >= (chunk_stop, high):
            return 0
        return sum(map(len, self._chunks[chunk_start:chunk_stop])) + high - low

    def check(self) -> None:
        """Assert the invariants; for tests."""
        assert len(self._chunks) == len(self._lasts) == len(self._owned)
        assert all(0 < len(chunk) <= CHUNK_KEYS for chunk in self._chunks)
        assert self._lasts == [chunk[-1] for chunk in self._chunks]
        keys = [key for chunk in self._chunks for key in chunk]
        assert len(keys) == self._count
        assert all(one < other for one, other in pairwise(keys))

    def _bounds(self, start: bytes, end: bytes | None) -> tuple[int, int, int, int]:
        """Where `start` and `end` stand, as chunk and place. A place beyond the last chunk has place 0."""
        if end is None:
            return *self._place(start), len(self._chunks), 0
        return *self._place(start), *self._place(end)

    def _place(self, key: bytes) -> tuple[int, int]:
        at = bisect_left(self._lasts, key)
        return at, bisect_left(self._chunks[at], key) if at < len(self._chunks) else 0

    def _insert_chunk(self, at: int, chunk: list[bytes]) -> None:
        self._chunks.insert(at, chunk)
        self._lasts.insert(at, chunk[-1])
        self._owned.insert(at, 1)

    def _own(self, at: int) -> list[bytes]:
        chunk = self._chunks[at]
        if not self._owned[at]:
            chunk = self._chunks[at] = chunk.copy()
            self._owned[at] = 1
        return chunk
