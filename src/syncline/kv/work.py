"""The work that one command may do: how many keys it deletes by ranges, and how much it reads.

Each command is applied in one step on the event loop's thread, so its work is bounded. The operations of a batch share
one bound. An operation that is above it alone is refused as it would be outside the batch; one that is above it only
with those before it is refused with `too_large`, and can be sent again in another batch.
"""

from __future__ import annotations

from typing import Final

from syncline.errors import Rejected
from syncline.kv.limits import MAX_DELETED_KEYS, MAX_TXN_READ_BYTES
from syncline.kv.records import KeyRecord

__all__ = ["PAST_RANGE_BYTES", "RANGE_BYTES", "READ_OVERHEAD_BYTES", "Work"]

READ_OVERHEAD_BYTES: Final = 320
"""A record that is read counts for so much beside its key and value: without it, small ones would take seconds."""

RANGE_BYTES: Final = 16 * 1024
"""What a range counts for beside its records: to find and count its keys takes some ten microseconds."""

PAST_RANGE_BYTES: Final = 1024 * 1024
"""What a range at a past revision counts for, whatever it finds: it goes through keys that did not exist then."""


class Work:
    """Counts what one command does, before it does it."""

    __slots__ = ("_deleted", "_deleted_before", "_read_before", "_read_bytes", "_records")

    def __init__(self) -> None:
        self._deleted = self._deleted_before = 0
        self._read_bytes = self._read_before = 0
        self._records = 0

    def begin(self) -> None:
        """The next operation of a batch begins."""
        self._deleted_before, self._read_before, self._records = self._deleted, self._read_bytes, 0

    def forget_deletes(self) -> None:
        """The operation is refused: it deletes nothing. What it has read to find out stays counted."""
        self._deleted = self._deleted_before

    def delete(self, count: int) -> None:
        """Count the keys of a range that is deleted. Raises `Rejected`: `range_too_large`, in a batch `too_large`."""
        self._deleted += count
        alone = self._deleted - self._deleted_before
        if alone > MAX_DELETED_KEYS:
            raise Rejected(
                f"{alone} keys to delete at once; the limit is {MAX_DELETED_KEYS}: delete them in pieces, by a limit",
                code="range_too_large",
                details={"count": alone, "limit": MAX_DELETED_KEYS},
            )
        if self._deleted > MAX_DELETED_KEYS:
            raise _too_large(f"the batch deletes more than {MAX_DELETED_KEYS} keys by ranges")

    def begin_read(self) -> None:
        """Raise `Rejected` (`too_large`) if the operations before have read all that a batch may."""
        if self._read_before > MAX_TXN_READ_BYTES:
            raise _too_large(f"the batch reads more than {MAX_TXN_READ_BYTES} bytes")

    def read_range(self, revision: int = 0) -> None:
        """Count a range that is read, before its records. `revision` 0: now. Raises as `read` does."""
        self.begin_read()
        self._read(PAST_RANGE_BYTES if revision else RANGE_BYTES, 0)

    def read(self, record: KeyRecord | None) -> None:
        """Count a record that is read; a single one is never too large.

        Raises `Rejected`: `reads_too_large`, in a batch `too_large`.
        """
        if record is not None:
            self._read(len(record.key) + len(record.value) + READ_OVERHEAD_BYTES, 1)

    def read_written(self, size_bytes: int) -> None:
        """Count a record that the same transaction writes, by the size of its key and value. Raises as `read` does."""
        self._read(size_bytes + READ_OVERHEAD_BYTES, 1)

    def _read(self, size_bytes: int, records: int) -> None:
        self._read_bytes += size_bytes
        self._records += records
        if self._read_bytes <= MAX_TXN_READ_BYTES:
            return
        alone = self._read_bytes - self._read_before
        if alone == self._read_bytes and self._records == 1:
            return
        if alone > MAX_TXN_READ_BYTES:
            raise Rejected(
                f"the operation's reads come to more than {MAX_TXN_READ_BYTES} bytes ({READ_OVERHEAD_BYTES} of them a"
                " record): read less at once",
                code="reads_too_large",
                details={"limit": MAX_TXN_READ_BYTES},
            )
        raise _too_large(f"the batch reads more than {MAX_TXN_READ_BYTES} bytes")


def _too_large(message: str) -> Rejected:
    return Rejected(f"{message}: send this operation in another batch", code="too_large")
