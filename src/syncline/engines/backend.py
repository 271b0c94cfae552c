"""What a log backend offers: an ordered log that several processes append to and read, a snapshot, and a lease.

A backend keeps records, each with a *position*: a number that grows in the order of the commits, with gaps. It knows
nothing of what a record holds. All nodes read the same records in the same order.

A backend tells three kinds of trouble apart. `BackendLost`: it could not be reached, now or in time; the caller tries
again. `LogReplaced`: it is another log than the one that was read before, so this node must stop. `ConfigError`: it
can't be used as it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Protocol

import msgspec

from syncline.errors import NodeFailed, SynclineError

__all__ = [
    "PART_BYTES",
    "RECORD_BYTES",
    "BackendFull",
    "BackendLost",
    "FenceLost",
    "LogBackend",
    "LogPage",
    "LogRecord",
    "LogReplaced",
    "Mark",
    "StoredSnapshot",
    "check_left",
]

RECORD_BYTES: Final = 1 << 20
"""The largest record. etcd takes requests of 1.5 MiB; the limit is the same on all backends, so that a machine can be
moved from one to another."""

PART_BYTES: Final = 1 << 20
"""A snapshot is stored in parts of at most this size."""


class BackendLost(Exception):
    """The backend could not be reached, or did not answer in time. `sent`: the request may have taken effect."""

    def __init__(self, message: str, *, sent: bool) -> None:
        super().__init__(message)
        self.sent: bool = sent


class BackendFull(BackendLost):
    """The backend takes no more data until an operator makes room. Nothing was written."""

    def __init__(self, message: str) -> None:
        super().__init__(message, sent=False)


class FenceLost(Exception):
    """The leadership that fences a record is over: the request had no effect. Earlier attempts may have had one."""


class LogReplaced(SynclineError):
    """The backend no longer has a record that was read from it before: it was restored from a backup, or has lost
    acknowledged data."""


def check_left(name: str, mark: Mark, head: int, trimmed: int) -> None:
    """Raise NodeFailed if the records behind a node are gone: a read has found none, and the log goes up to `head`.

    The newest record of a node tells that by itself, but for a node that has none yet, or whose one was trimmed. Each
    trim leaves records behind it.
    """
    if mark.position <= trimmed < head:
        raise NodeFailed(
            f"{name} ends at position {head}, and its records behind {trimmed} are gone: another program has deleted"
            " them. Restore the backend from a backup; or remove the whole log, and begin again (docs/engines.md)"
        )


class Mark(msgspec.Struct, frozen=True):
    """The newest record that a node has taken: its position, and what tells it from any other record there."""

    position: int = 0
    """0: no record yet."""
    writer: int = 0
    sequence: int = 0


class LogRecord(msgspec.Struct, frozen=True):
    """One record of the log. `writer` and `sequence` are unique together."""

    position: int
    writer: int
    sequence: int
    body: bytes


class LogPage(msgspec.Struct, frozen=True):
    """Some records, in order, and what is known beside them, all of one moment."""

    records: Sequence[LogRecord]
    seen: int
    """All records up to this position were read, here or before. At least the position of the last record."""
    trimmed: int
    """Records up to this position may have been removed: a snapshot has them."""


class StoredSnapshot(msgspec.Struct, frozen=True):
    """A snapshot, whole. It replaces all records up to `position`."""

    position: int
    body: bytes


class LogBackend(Protocol):
    """An ordered log on a system that has one already. Used on one event loop, by one node.

    Each method may raise `BackendLost`. A cancelled call must leave the backend usable.
    """

    @property
    def name(self) -> str:
        """For texts: the URL, without a password."""
        ...

    @property
    def snapshot_bytes(self) -> int:
        """The largest snapshot."""
        ...

    async def start(self) -> int:
        """Connect, check the settings of the backend, and make the log if there is none. Returns the log's id.

        Idempotent: after an error it is called again.

        Raises:
            ConfigError: the URL, the credentials or the backend's settings can't be used. Nothing was written.
        """
        ...

    async def claim(self, machine: str) -> str:
        """Note the name of the machine whose log this is, if none is noted; with an empty name only look. Returns the
        name that is noted, which is never replaced; empty: none is, or the backend can't note it.

        Raises:
            LogReplaced: the log was removed, or made again.
            BackendFull: there is no room.
        """
        ...

    async def renew(self, log_id: int) -> None:
        """Give the log another id. All that have it open stop with LogReplaced, but for this one."""
        ...

    async def read(self, mark: Mark, seen: int, limit_bytes: int) -> LogPage:
        """The records behind position `seen`, about `limit_bytes` of them; none if there are none.

        Raises:
            LogReplaced: the record of `mark` is another one now, or is missing and was not trimmed; or the log ends
                before it.
        """
        ...

    async def wait(self, seen: int, timeout_s: float) -> None:
        """Return when there may be records behind `seen`, or after the time."""
        ...

    def kick(self) -> None:
        """There is a new record: end a `wait`."""
        ...

    async def append(self, writer: int, sequence: int, body: bytes, fence: int, mark: Mark) -> None:
        """Append a record. It returns when the record is durable, and has its position. Called again with the same
        writer and sequence it has no second effect, as long as the record was not trimmed.

        Raises:
            LogReplaced: the record of `mark` is another one now, as in `read`. Nothing was written: a record of a node
                that has read another log could not be applied by any node.
            FenceLost: `fence` is not 0, and the leadership with this token is over.
            BackendFull: there is no room.
        """
        ...

    async def confirm(self, mark: Mark) -> int:
        """A position at or above that of each record that was appended before this call. Linearizable.

        Raises:
            LogReplaced: as `read`.
        """
        ...

    async def snapshot(self) -> StoredSnapshot | None:
        """The newest stored snapshot."""
        ...

    async def stored_position(self) -> int:
        """The position of the newest stored snapshot; 0: there is none."""
        ...

    async def store_snapshot(self, snapshot: StoredSnapshot, mark: Mark) -> bool:
        """Store a snapshot, all of it or nothing. Returns False if there is a newer one already.

        Raises:
            LogReplaced: the record of `mark`, up to which the snapshot goes, is another one now. A snapshot of another
                log would take the place of what is acknowledged in this one.
            BackendFull: there is no room.
        """
        ...

    async def trim(self, position: int) -> None:
        """Remove the records up to `position`, if the stored snapshot has them."""
        ...

    async def acquire(self, holder: str, ttl_s: float) -> int:
        """Take the leadership if it is free. Returns its fencing token, which grows with each leader; 0: it is held."""
        ...

    async def keep(self, token: int, ttl_s: float) -> bool:
        """Keep the leadership for so long from now on. Returns False if it is over."""
        ...

    async def release(self, token: int) -> None:
        """Give the leadership back, if it is still held with this token."""
        ...

    async def close(self) -> None:
        """Close the connections. Calls under way end."""
        ...
