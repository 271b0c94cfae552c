"""The log in the memory of this process: for tests, and for programs of one process.

`memory:` is a log of its own. `memory:NAME` is shared by all nodes of the process that open it; it goes with the
last of them.
"""

from __future__ import annotations

import asyncio
import random
from typing import Final

from syncline.engines.backend import FenceLost, LogPage, LogRecord, LogReplaced, Mark, StoredSnapshot
from syncline.errors import ConfigError

__all__ = ["MemoryBackend", "MemoryLog", "shared_log"]

SNAPSHOT_BYTES: Final = 1 << 30

_shared: dict[str, MemoryLog] = {}
"""Logs with a name, while a node has them open."""


def shared_log(name: str, rng: random.Random) -> MemoryLog:
    """The log of this name in this process; a new one without a name."""
    if not name:
        return MemoryLog(rng)
    held = _shared.get(name)
    if held is None:
        held = _shared[name] = MemoryLog(rng)
    return held


class MemoryLog:
    """What all nodes share."""

    def __init__(self, rng: random.Random) -> None:
        self.id: int = rng.getrandbits(62) + 1
        self.machine: str = ""
        """The name of the machine whose log it is; empty: not noted yet."""
        self.head: int = 0
        """The newest position."""
        self.trimmed: int = 0
        self.records: dict[int, LogRecord] = {}
        self.by_key: dict[tuple[int, int], int] = {}
        self.stored: StoredSnapshot | None = None
        self.epoch: int = 0
        self.held_until_s: float = 0.0
        self.loop: asyncio.AbstractEventLoop | None = None
        """That of the nodes that have it open."""
        self._waiting: set[asyncio.Event] = set()

    def listen(self, event: asyncio.Event) -> None:
        """Set this event whenever the log has a new record."""
        self._waiting.add(event)

    def leave(self, event: asyncio.Event) -> None:
        self._waiting.discard(event)

    @property
    def is_open(self) -> bool:
        """Whether a node reads it."""
        return bool(self._waiting)

    def append(self, writer: int, sequence: int, body: bytes) -> None:
        self.head += 1
        if (writer, sequence) in self.by_key:
            return  # a gap, as in PostgreSQL
        self.records[self.head] = LogRecord(self.head, writer, sequence, body)
        self.by_key[writer, sequence] = self.head
        for event in self._waiting:
            event.set()

    def check(self, mark: Mark) -> None:
        """Raise LogReplaced if the record of the mark is not there."""
        held = self.records.get(mark.position)
        same = held is not None and (held.writer, held.sequence) == (mark.writer, mark.sequence)
        if mark.position > self.head or (mark.position > self.trimmed and not same):
            raise LogReplaced(f"memory: the record at position {mark.position} is not the one that was read before")


class MemoryBackend:
    """One node's access to a `MemoryLog`."""

    name: str
    snapshot_bytes: int = SNAPSHOT_BYTES

    def __init__(self, log: MemoryLog, name: str = "") -> None:
        self.log: MemoryLog = log
        self.name = f"memory:{name}"
        self._id = log.id
        self._news = asyncio.Event()

    async def start(self) -> int:
        """The log's id.

        Raises:
            ConfigError: nodes on another event loop have it open.
        """
        loop, held = asyncio.get_running_loop(), self.log.loop
        if held is not None and held is not loop and held.is_running():
            raise ConfigError(
                f"{self.name} is open on the event loop of another thread: open all nodes of one name on one loop"
            )
        self.log.loop = loop
        self.log.listen(self._news)
        self._id = self.log.id
        return self._id

    async def claim(self, machine: str) -> str:
        """Note the machine, if none is noted."""
        if self.log.id != self._id:
            raise LogReplaced(f"{self.name}: the log was made again")
        self.log.machine = self.log.machine or machine
        return self.log.machine

    async def renew(self, log_id: int) -> None:
        """Give the log another id."""
        self.log.id = self._id = log_id

    def _check(self, mark: Mark) -> None:
        if self.log.id != self._id:
            raise LogReplaced(f"{self.name}: the log was made again")
        self.log.check(mark)

    async def read(self, mark: Mark, seen: int, limit_bytes: int) -> LogPage:
        """Records behind `seen`."""
        log = self.log
        self._check(mark)
        found: list[LogRecord] = []
        size = 0
        for position in range(max(seen, log.trimmed) + 1, log.head + 1):
            record = log.records.get(position)
            if record is not None:
                found.append(record)
                size += len(record.body)
                if size >= limit_bytes:
                    return LogPage(found, position, log.trimmed)
        return LogPage(found, log.head, log.trimmed)

    async def wait(self, seen: int, timeout_s: float) -> None:
        """Wait for a record."""
        if self.log.head > seen:
            return
        self._news.clear()
        try:
            async with asyncio.timeout(timeout_s):
                await self._news.wait()
        except TimeoutError:
            return

    def kick(self) -> None:
        """End a wait."""
        self._news.set()

    async def append(self, writer: int, sequence: int, body: bytes, fence: int, mark: Mark) -> None:
        """Append, if the fence holds."""
        log = self.log
        self._check(mark)
        if fence and fence != log.epoch:
            if (writer, sequence) in log.by_key:
                return
            raise FenceLost
        log.append(writer, sequence, body)

    async def confirm(self, mark: Mark) -> int:
        """The newest position."""
        self._check(mark)
        return self.log.head

    async def snapshot(self) -> StoredSnapshot | None:
        """The stored one."""
        return self.log.stored

    async def stored_position(self) -> int:
        """Of the stored one."""
        return 0 if self.log.stored is None else self.log.stored.position

    async def store_snapshot(self, snapshot: StoredSnapshot, mark: Mark) -> bool:
        """Store it, if it is newer."""
        self._check(mark)
        held = self.log.stored
        if held is not None and held.position >= snapshot.position:
            return False
        self.log.stored = snapshot
        return True

    async def trim(self, position: int) -> None:
        """Remove records."""
        log = self.log
        for old in [old for old in log.records if old <= position]:
            record = log.records.pop(old)
            del log.by_key[record.writer, record.sequence]
        log.trimmed = max(log.trimmed, position)

    async def acquire(self, holder: str, ttl_s: float) -> int:  # noqa: ARG002 - the other backends show the holder
        """Take the leadership."""
        log, now_s = self.log, asyncio.get_running_loop().time()
        if now_s < log.held_until_s:
            return 0
        log.epoch += 1
        log.held_until_s = now_s + ttl_s
        return log.epoch

    async def keep(self, token: int, ttl_s: float) -> bool:
        """Keep it."""
        log, now_s = self.log, asyncio.get_running_loop().time()
        if token != log.epoch or now_s >= log.held_until_s:
            return False
        log.held_until_s = now_s + ttl_s
        return True

    async def release(self, token: int) -> None:
        """Give it back."""
        if token == self.log.epoch:
            self.log.held_until_s = 0.0
            self.log.epoch += 1

    async def close(self) -> None:
        """Leave the log. The last node takes its name from it."""
        self.log.leave(self._news)
        name = self.name.removeprefix("memory:")
        if not self.log.is_open and _shared.get(name) is self.log:
            del _shared[name]
        self._news.set()
