"""One watch, as its reader sees it: messages in order, and why it has ended. `watch_hub.py` gives it the messages."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable, Sequence
from typing import Final, Generic, Protocol, TypeVar

import msgspec

from syncline.errors import OperationError
from syncline.kv.records import Change

__all__ = ["ENDED", "FULL", "IN_ROUND", "LIVE", "NEW", "WAITING", "KeyWatch", "WatchForm", "WatchLimits"]

MIB: Final = 1024 * 1024

# The phases of a watch (`watch_hub.py` has the table). Plain integers: read for every message.
NEW: Final = 0
WAITING: Final = 1
IN_ROUND: Final = 2
FULL: Final = 3
LIVE: Final = 4
ENDED: Final = 5

Message = TypeVar("Message")


class WatchLimits(msgspec.Struct, frozen=True, kw_only=True):
    """What watches may take of a node."""

    max_watches: int = 100_000
    """A watch takes about a kilobyte."""
    max_owner_watches: int = 1_000
    """Of one owner, such as a connection: the same as etcd's users expect of one stream."""
    max_user_watches: int = 20_000
    """Of one user, on all its connections: others need room, too."""
    max_unread_bytes: int = MIB
    """Of one live watch: messages that wait behind the one under way. A client that is so far behind is resumed from
    the history, which keeps more."""
    max_total_unread_bytes: int = 64 * MIB
    """Of all watches together. Above it a watch may have an equal share of it."""


class WatchForm(Protocol[Message]):
    """How changes become messages. Watches that share a form share its messages; compared by identity."""

    def changes(self, revision: int, changes: Sequence[Change]) -> Message:
        """Those changes of a revision that concern a watch."""
        ...

    def progress(self, revision: int, *, resumable: bool) -> Message:
        """All up to `revision` was given. Not `resumable`: the watch begins after it, so it must not resume there."""
        ...

    def size_bytes(self, message: Message, /) -> int:
        """What an unread message counts for."""
        ...


class Hub(Protocol):
    """What a watch needs of its hub."""

    unread_bytes: int

    def begin(self, watch: KeyWatch[Message], /) -> None: ...

    def go_on(self, watch: KeyWatch[Message], /) -> None: ...

    def forget(self, watch: KeyWatch[Message], /) -> None: ...


class KeyWatch(Generic[Message]):
    """One watch: `start` it, `read` it, `close` it. Made by `WatchHub.watch`."""

    __slots__ = (
        "_hub",
        "_messages",
        "_wake",
        "counted",
        "deletes",
        "end",
        "error",
        "form",
        "marked_s",
        "next",
        "phase",
        "progress_s",
        "puts",
        "stale",
        "start_key",
        "unread_bytes",
    )

    def __init__(self, hub: Hub, start: bytes, end: bytes | None, form: WatchForm[Message]) -> None:
        self._hub = hub
        self._messages: deque[tuple[int, Message, int]] = deque()
        self.unread_bytes: int = 0
        """What its unread messages count for."""
        self._wake: Callable[[], None] | None = None
        self.start_key: bytes = start
        self.end: bytes | None = end
        self.form: WatchForm[Message] = form
        self.next: int = 0
        """The least revision that it may still be given; all before it was given, or is of no concern."""
        self.puts: bool = True
        self.deletes: bool = True
        self.stale: bool = False
        self.progress_s: float = 0.0
        self.marked_s: float = 0.0
        """When it began, or when it was given its last progress mark."""
        self.counted: tuple[tuple[str, Hashable], ...] = ()
        """Of which owner, user and group it is one."""
        self.phase: int = NEW
        self.error: OperationError | None = None
        """Why it has ended: `RevisionCompacted` or `WatchEnded`. What can still be read comes before it."""

    @property
    def first_unread(self) -> int:
        """The revision of the first message that was not read; 0 if all were."""
        return self._messages[0][0] if self._messages else 0

    @property
    def has_more(self) -> bool:
        """Whether a message waits to be read, or the watch has ended."""
        return self.error is not None or bool(self._messages)

    def start(self, wake: Callable[[], None]) -> None:
        """Begin. `wake` is called when there is something to read after there was nothing; it must only schedule."""
        assert self._wake is None, "a watch starts once"
        self._wake = wake
        if self.phase == NEW:
            self._hub.begin(self)
        elif self.error is not None:
            wake()

    def read(self) -> Message | None:
        """The next message; None if there is none yet, or if the watch has ended and `error` is set."""
        if not self._messages:
            return None
        _, message, size_bytes = self._messages.popleft()
        self.unread_bytes -= size_bytes
        self._hub.unread_bytes -= size_bytes
        if not self._messages and self.phase == FULL:
            self._hub.go_on(self)
        return message

    def close(self) -> None:
        """End the watch, and release what it holds."""
        self._hub.forget(self)
        self.drop()
        self._wake = None  # else a reader that keeps its watch is in a circle with it

    # --- the hub's side

    def give(self, revision: int, message: Message, size_bytes: int) -> None:
        """Add a message to those that wait for the reader."""
        messages = self._messages
        messages.append((revision, message, size_bytes))
        self.unread_bytes += size_bytes
        self._hub.unread_bytes += size_bytes
        if len(messages) == 1 and self._wake is not None:
            self._wake()

    def drop(self) -> None:
        """Drop what was not read."""
        self._hub.unread_bytes -= self.unread_bytes
        self.unread_bytes = 0
        self._messages.clear()

    def fail(self, error: OperationError) -> None:
        """Tell the reader why the watch has ended."""
        self.phase, self.error = ENDED, error
        if self._wake is not None:
            self._wake()
