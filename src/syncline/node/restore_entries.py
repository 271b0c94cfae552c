"""A snapshot on its way into a live cluster: the log entries that carry it, and the pieces that have arrived.

`Raft.restore` replicates a snapshot as entries of one term: a first one with size and SHA-256, pieces, and a last one.
When the last one is applied, each node loads the pieces in place of its state. So all nodes replace their state at the
same index, also a node that was away, and one that starts again from its log.

What has arrived depends on the log alone. It is dropped by an entry of another term, by a new first entry, and by one
that gives the restore up. The same holds after `LONGEST_GAP` entries without a piece. While something has arrived, no
snapshot is taken: a snapshot does not hold the pieces, and a node that starts from it would lack them.
"""

from __future__ import annotations

import hashlib
import io
from enum import IntEnum
from typing import TYPE_CHECKING, Annotated, BinaryIO, Final

import msgspec

from syncline.decoding import UNDECODABLE
from syncline.errors import Rejected

if TYPE_CHECKING:
    from typing_extensions import Buffer

__all__ = [
    "LARGEST_RESTORE_BYTES",
    "RESTORE_LEVEL",
    "ArrivingState",
    "RestoreEntry",
    "RestoreStep",
    "decode_restore_entry",
]

RESTORE_LEVEL: Final = 2
"""The feature level since which such entries may stand in the log."""

LARGEST_RESTORE_BYTES: Final = 1 << 30
"""Bytes of a state that is restored into a live cluster: each node holds it in memory beside the present state, and in
its log."""

LONGEST_GAP: Final = 10_000
"""Entries of others between two pieces. A caller that is gone must not keep snapshots from being taken."""


class RestoreStep(IntEnum):
    """Part of the log format: never renumbered."""

    BEGIN = 0
    PIECE = 1
    FINISH = 2
    GIVE_UP = 3


_Size = Annotated[int, msgspec.Meta(ge=0, le=LARGEST_RESTORE_BYTES)]


class RestoreEntry(msgspec.Struct, array_like=True, gc=False, frozen=True):
    """The data of a `Kind.RESTORE` entry.

    `restore_id` is random, the same for all entries of one restore. `position` is the size of the state; in a piece,
    the offset of its first byte. `data` is the SHA-256 of the state in the first entry, the bytes in a piece.
    """

    step: RestoreStep
    restore_id: Annotated[int, msgspec.Meta(ge=1, le=2**63 - 1)]
    position: _Size = 0
    data: bytes = b""


_decoder: Final = msgspec.msgpack.Decoder(RestoreEntry)


def decode_restore_entry(data: bytes) -> RestoreEntry:
    """Decode an entry's data. Raises ValueError, and nothing else."""
    try:
        entry = _decoder.decode(data)
    except UNDECODABLE as error:
        raise ValueError(f"the entry of a restore can't be read: {error}") from error
    if entry.step is RestoreStep.BEGIN and len(entry.data) != hashlib.sha256().digest_size:
        raise ValueError("the first entry of a restore has no SHA-256")
    return entry


class ArrivingState:
    """The pieces that have arrived. Used on the state machine's thread alone."""

    def __init__(self) -> None:
        self._begin(0, 0, 0, 0, b"")

    def _begin(self, restore_id: int, term: int, index: int, size_bytes: int, sha256: bytes) -> None:
        self._id = restore_id
        self.active: bool = restore_id != 0
        """Whether a restore is under way."""
        self._term = term
        self._last_index = index
        self._size_bytes = size_bytes
        self._sha256 = sha256
        self._pieces: list[bytes] = []
        self._received = 0
        self._hash = hashlib.sha256()

    def clear(self) -> None:
        """Drop what has arrived."""
        self._begin(0, 0, 0, 0, b"")

    def passed(self, index: int, term: int) -> None:
        """The entry at `index` was applied: drop what can't go on behind it."""
        if self._id and (term != self._term or index - self._last_index > LONGEST_GAP):
            self.clear()

    def take(self, entry: RestoreEntry, index: int, term: int) -> Rejected | None:
        """Apply any step but the last. Returns the refusal if it has no effect."""
        self.passed(index, term)
        if entry.step is RestoreStep.BEGIN:
            self._begin(entry.restore_id, term, index, entry.position, entry.data)
            return None
        if entry.restore_id != self._id:
            return _given_up()
        if entry.step is RestoreStep.GIVE_UP:
            self.clear()
            return None
        if entry.position != self._received or self._received + len(entry.data) > self._size_bytes:
            self.clear()
            return _given_up()
        self._pieces.append(entry.data)
        self._received += len(entry.data)
        self._hash.update(entry.data)
        self._last_index = index
        return None

    def finish(self, entry: RestoreEntry, index: int, term: int) -> BinaryIO | Rejected:
        """The whole state, at the last step; or the refusal. What has arrived is dropped."""
        self.passed(index, term)
        whole = self._received == self._size_bytes and self._hash.digest() == self._sha256
        if entry.restore_id != self._id or not whole:
            if entry.restore_id == self._id:
                self.clear()
            return _given_up()
        source: BinaryIO = io.BufferedReader(_ArrivedPieces(self._pieces))
        self.clear()
        return source


def _given_up() -> Rejected:
    return Rejected(
        "the restore was given up before its end: the state is as it was. Try again", code="restore_given_up"
    )


class _ArrivedPieces(io.RawIOBase):
    """Reads pieces as one file. Each is released when it was read."""

    def __init__(self, pieces: list[bytes]) -> None:
        super().__init__()
        self._pieces = pieces[::-1]
        self._rest = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Buffer, /) -> int:
        target = memoryview(buffer).cast("B")
        while not self._rest and self._pieces:
            self._rest = memoryview(self._pieces.pop())
        size = min(len(target), len(self._rest))
        target[:size] = self._rest[:size]
        self._rest = self._rest[size:]
        return size
